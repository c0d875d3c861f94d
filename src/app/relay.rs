//! A loopback port without authentication in front of a proxy that wants it, for clients that never
//! send proxy credentials. It adds those of one run, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

use super::Failure;
use crate::agent::UserName;

type Answer = Response<Either<Incoming, Empty<Bytes>>>;

/// The port. Lives as long as the process.
#[derive(Debug)]
pub struct Relay {
    proxy: SocketAddr,
    credentials: HeaderValue,
}

impl Relay {
    /// Opens the port, and gives its address.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start(
        proxy: SocketAddr,
        user: &UserName,
        token: &str,
    ) -> Result<SocketAddr, Failure> {
        let pair = Zeroizing::new(format!("{user}:{token}"));
        let text = format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()));
        let mut credentials = HeaderValue::try_from(text)
            .map_err(|_| Failure::new("the token cannot stand in a header"))?;
        credentials.set_sensitive(true);
        let failed = |e| Failure::new(format!("the open port cannot be opened: {e}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let relay = Arc::new(Self { proxy, credentials });
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(Arc::clone(&relay).connection(stream))),
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                }
            }
        });
        Ok(address)
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let relay = Arc::clone(&self);
            async move {
                let answer = relay.forward(request).await.unwrap_or_else(|_| unreachable_proxy());
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of the open port ended");
        }
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Answer, hyper::Error> {
        let Ok(stream) = TcpStream::connect(self.proxy).await else {
            return Ok(unreachable_proxy());
        };
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection.with_upgrades());
        let inside =
            (*request.method() == Method::CONNECT).then(|| hyper::upgrade::on(&mut request));
        request.headers_mut().insert(PROXY_AUTHORIZATION, self.credentials.clone());
        let mut response = sender.send_request(request).await?;
        if let Some(inside) = inside.filter(|_| response.status().is_success()) {
            let outside = hyper::upgrade::on(&mut response);
            tokio::spawn(async move {
                let (Ok(inside), Ok(outside)) = (inside.await, outside.await) else { return };
                let (mut inside, mut outside) = (TokioIo::new(inside), TokioIo::new(outside));
                // Either side's end is the tunnel's end.
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            });
            return Ok(Response::new(Either::Right(Empty::new())));
        }
        Ok(response.map(Either::Left))
    }
}

fn unreachable_proxy() -> Answer {
    let mut response = Response::new(Either::Right(Empty::new()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
