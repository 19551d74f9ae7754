//! The way out: requests and connections through the outbound client.

use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpStream;

use super::call::ServiceRequest;
use super::lane::DeliveryRefusal;
use crate::outbound::{self, Allowed, Client, Request, SendError};
use crate::tls::client::Stream;

/// The deadline of a request. Standard Webhooks gives receivers as long.
const DEADLINE: Duration = Duration::from_secs(30);

/// The status, headers and body of the answer to `call`.
pub(super) async fn exchange(call: ServiceRequest) -> Result<(u16, HeaderMap, Vec<u8>), DeliveryRefusal> {
    let url: Uri = call.url.expose().parse().map_err(|_| {
        DeliveryRefusal::denied("the URL is invalid: it must begin with https:// and name a host")
    })?;
    let mut request = Request::new(call.method, url).with_body(call.body);
    request.deadline = DEADLINE;
    for (name, value) in &call.headers {
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| {
            DeliveryRefusal::denied(format!("the value of {name} has characters that no header may have"))
        })?;
        value.set_sensitive(true);
        request = request.with_header(HeaderName::from_static(name), value);
    }
    let client = Client::default().allowing(allowed(call.allow_private));
    let answer = client.send(request).await.map_err(refused)?;
    Ok((answer.status.as_u16(), answer.headers, answer.body.to_vec()))
}

/// A connection to a mail server.
pub(super) async fn dial(host: &str, port: u16, allow_private: bool) -> Result<TcpStream, DeliveryRefusal> {
    outbound::dial(host, port, allowed(allow_private)).await.map_err(refused)
}

/// Encrypts a connection.
pub(super) async fn secure(host: &str, stream: TcpStream) -> Result<Stream, DeliveryRefusal> {
    outbound::secure(host, stream).await.map_err(refused)
}

fn allowed(allow_private: bool) -> Allowed {
    Allowed { plain: true, private: allow_private }
}

fn refused(error: SendError) -> DeliveryRefusal {
    match &error {
        SendError::Url(_) | SendError::Redirected(_) => DeliveryRefusal::denied(error.to_string()),
        SendError::NotAllowed(why) => {
            DeliveryRefusal::denied(format!("{why}: add `allow_private = true` if that is intended"))
        }
        // The next answer may be shorter.
        SendError::Failed(_) | SendError::Late(_) | SendError::TooLong(_) => {
            DeliveryRefusal::passing(error.to_string())
        }
    }
}
