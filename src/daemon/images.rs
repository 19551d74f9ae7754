//! Where images are, for agents that pull through this process.

use axum::body::Body;
use axum::response::Response;
use futures::future::BoxFuture;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST, RANGE};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::api::ControllerError;
use crate::api::agent::{Images, Wanted};

/// Registries on this machine, without TLS.
pub(super) struct Registries;

impl Images for Registries {
    fn fetch(&self, wanted: Wanted) -> BoxFuture<'static, Result<Response, ControllerError>> {
        Box::pin(async move { fetch(wanted).await.map_err(|error| ControllerError(format!("{error:#}"))) })
    }
}

async fn fetch(wanted: Wanted) -> anyhow::Result<Response> {
    let (host, path) = wanted.repository.split_once('/').ok_or_else(|| anyhow::anyhow!("no host"))?;
    let stream = TcpStream::connect(host).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(wanted.method)
        .uri(format!("/v2/{path}/{}", wanted.part))
        .header(HOST, host);
    for name in [ACCEPT, RANGE] {
        for value in wanted.headers.get_all(&name) {
            request = request.header(&name, value);
        }
    }
    let response = sender.send_request(request.body(Body::empty())?).await?;
    Ok(response.map(Body::new))
}
