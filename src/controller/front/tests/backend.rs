//! A program behind the front. It answers with its name and the request, and also answers over an upgraded
//! connection.

use super::*;

/// A server that ends with all its connections when it is dropped.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    /// A request for `/slow` begins with one and waits for the other.
    pub(super) slow: Arc<[Notify; 2]>,
    _stop: DropGuard,
}

impl Backend {
    pub(super) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let slow: Arc<[Notify; 2]> = Arc::default();
        let waits = Arc::clone(&slow);
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let (stopped, waits) = (stopped.clone(), Arc::clone(&waits));
                tokio::spawn(async move { stopped.run_until_cancelled(answer(stream, name, &waits)).await });
            }
        });
        Self { address, slow, _stop: stop.drop_guard() }
    }
}

async fn answer(mut stream: TcpStream, name: &str, [began, end]: &[Notify; 2]) -> Option<()> {
    let mut request = Vec::new();
    let mut byte = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut byte).await.ok().filter(|read| *read > 0)?;
        request.extend_from_slice(&byte[..read]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    if request.to_lowercase().contains("\r\nupgrade: websocket") {
        let upgraded =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        stream.write_all(upgraded.as_bytes()).await.ok()?;
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.ok()?;
        return None;
    }
    if request.starts_with("GET /slow ") {
        began.notify_one();
        end.notified().await;
    }
    let body = format!("{name}\n{request}");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.ok()
}
