//! The client: connections to the origin, whatever lies between, and the calls made on them.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsConnector;

use super::body::Body;
use super::{Http, Result};

/// How the client reaches the origin.
#[derive(Clone)]
pub(crate) struct Way {
    /// The proxy, or the origin itself.
    pub(crate) address: SocketAddr,
    /// What the CONNECT and `Host` name. 443, but for a proxy that dials nothing else than it is told.
    pub(crate) port: u16,
    /// What goes into `Proxy-Authorization`. None: no proxy, and no CONNECT.
    pub(crate) proxy: Option<String>,
    /// What goes into `Authorization`.
    pub(crate) bearer: HeaderValue,
    /// What is spoken within.
    pub(crate) http: Http,
    pub(crate) tls: TlsConnector,
}

/// TLS that believes `roots`, offers one protocol, and makes a full handshake each time: resumption
/// would measure the caches of both ends.
pub(crate) fn connector(roots: Arc<RootCertStore>, http: Http) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![http.alpn().to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One place from which a request can be sent: an HTTP/1.1 connection, or a stream's worth of an
/// HTTP/2 one.
pub(crate) struct Connection {
    sender: Sender,
    host: HeaderValue,
    bearer: HeaderValue,
    /// Closes what lies beneath when nobody sends on it any more.
    driver: Arc<Driver>,
}

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Way {
    pub(crate) async fn open(&self, host: &str) -> Result<Connection> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if let Some(credentials) = &self.proxy {
            connect(&mut stream, &format!("{host}:{}", self.port), credentials).await?;
        }
        let name = ServerName::try_from(host.to_owned())?;
        let stream = self.tls.connect(name, stream).await?;
        // Who chooses none means HTTP/1.1.
        let chosen = stream.get_ref().1.alpn_protocol().unwrap_or(Http::One.alpn());
        if chosen != self.http.alpn() {
            return Err(format!("{} was chosen instead", chosen.escape_ascii()).into());
        }
        let stream = TokioIo::new(stream);
        let (sender, driver) = match self.http {
            Http::One => {
                let (sender, driver) = http1::handshake(stream).await?;
                (Sender::One(sender), tokio::spawn(async { driver.await.is_ok() }))
            }
            Http::Two => {
                let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
                (Sender::Two(sender), tokio::spawn(async { driver.await.is_ok() }))
            }
        };
        Ok(Connection {
            sender,
            host: match self.port {
                443 => host.parse()?,
                port => format!("{host}:{port}").parse()?,
            },
            bearer: self.bearer.clone(),
            driver: Arc::new(Driver(driver.abort_handle())),
        })
    }

    /// One HTTP/2 connection from which so many streams can be open at once.
    pub(crate) async fn open_streams(&self, host: &str, count: usize) -> Result<Vec<Connection>> {
        let mut first = self.open(host).await?;
        first.call().await?;
        let mut streams = Vec::with_capacity(count);
        for _ in 1..count {
            streams.push(first.another()?);
        }
        streams.push(first);
        Ok(streams)
    }

    /// Many connections, opened eight at a time, each with a request behind it, so that all that is
    /// made once is made.
    pub(crate) async fn open_many(
        &self,
        host: &'static str,
        count: usize,
    ) -> Result<Vec<Connection>> {
        let mut opening = JoinSet::new();
        let mut open = Vec::with_capacity(count);
        for _ in 0..count {
            if opening.len() >= 8 {
                open.extend(opening.join_next().await.transpose()?.transpose()?);
            }
            let way = self.clone();
            opening.spawn(async move {
                let mut connection = way.open(host).await?;
                connection.call().await?;
                Result::Ok(connection)
            });
        }
        while let Some(opened) = opening.join_next().await {
            open.push(opened??);
        }
        Ok(open)
    }
}

async fn connect(stream: &mut TcpStream, to: &str, credentials: &str) -> Result<()> {
    let head = format!(
        "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\
         Proxy-Authorization: {credentials}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    while !answer.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the proxy closed the connection".into());
        }
    }
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    Err(format!("the proxy said {}", answer.escape_ascii()).into())
}

impl Connection {
    fn another(&self) -> Result<Self> {
        let Sender::Two(sender) = &self.sender else {
            return Err("HTTP/1.1 has no streams".into());
        };
        Ok(Self {
            sender: Sender::Two(sender.clone()),
            host: self.host.clone(),
            bearer: self.bearer.clone(),
            driver: Arc::clone(&self.driver),
        })
    }

    /// A request with the fields of a current SDK: what a proxy has to read and to search.
    fn request(&self, method: &str, path: &str, body: Body) -> Result<Request<Body>> {
        let request = Request::builder().method(method);
        let request = match self.sender {
            Sender::One(_) => request.uri(path).header(header::HOST, &self.host),
            Sender::Two(_) => request.uri(format!("https://{}{path}", self.host.to_str()?)),
        };
        Ok(request
            .header(header::ACCEPT_ENCODING, "gzip, deflate")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "OpenAI/Python 2.8.0")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, &self.bearer)
            .header("x-stainless-lang", "python")
            .header("x-stainless-package-version", "2.8.0")
            .header("x-stainless-os", "Linux")
            .header("x-stainless-arch", "x64")
            .header("x-stainless-runtime", "CPython")
            .header("x-stainless-runtime-version", "3.13.1")
            .header("x-stainless-async", "async:asyncio")
            .header("x-stainless-retry-count", "0")
            .body(body)?)
    }

    /// Sends a request without a body, and returns whether the answer was a good one.
    pub(crate) async fn allowed(&mut self, path: &str) -> Result<bool> {
        let response = self.exchange("GET", path, Body::empty()).await?;
        let good = response.status().is_success();
        read(response).await?;
        Ok(good)
    }

    /// Sends a request and waits for the head of an answer, which must be good.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let response = self.exchange(method, path, body).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let said = response.into_body().collect().await?.to_bytes();
        Err(format!("{status}: {}", said.escape_ascii()).into())
    }

    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let request = self.request(method, path, body)?;
        Ok(match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// The counted call: a short question and a short answer.
    pub(crate) async fn call(&mut self) -> Result<()> {
        const QUESTION: &[u8] =
            br#"{"model":"bench-1","messages":[{"role":"user","content":"Hello"}]}"#;
        let body = Bytes::from_static(QUESTION).into();
        let response = self.send("POST", "/v1/chat/completions", body).await?;
        read(response).await?;
        Ok(())
    }
}

/// Reads an answer to its end. Returns its length.
pub(crate) async fn read(response: Response<Incoming>) -> Result<u64> {
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(length)
}
