//! The client: as many requests at once as it has connections, each sent when the one before it was
//! answered in full.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsConnector;

use super::Result;
use super::body::Body;

/// How the client reaches the origin.
#[derive(Clone)]
pub(crate) struct Way {
    /// The proxy, or the origin itself.
    pub(crate) address: SocketAddr,
    /// What goes into `Proxy-Authorization`. None: no proxy, and no CONNECT.
    pub(crate) proxy: Option<String>,
    /// What goes into `Authorization`.
    pub(crate) bearer: HeaderValue,
    pub(crate) tls: TlsConnector,
}

/// TLS that believes `roots`, and makes a full handshake each time: resumption would measure the
/// caches of both ends.
pub(crate) fn connector(roots: Arc<RootCertStore>) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connection to the origin, whatever lies between.
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    driver: AbortHandle,
    host: HeaderValue,
    bearer: HeaderValue,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Way {
    pub(crate) async fn open(&self, host: &str) -> Result<Connection> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if let Some(credentials) = &self.proxy {
            connect(&mut stream, host, credentials).await?;
        }
        let name = ServerName::try_from(host.to_owned())?;
        let stream = self.tls.connect(name, stream).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            let _closed = driver.await;
        });
        Ok(Connection {
            sender,
            driver: driver.abort_handle(),
            host: host.parse()?,
            bearer: self.bearer.clone(),
        })
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

async fn connect(stream: &mut TcpStream, host: &str, credentials: &str) -> Result<()> {
    let head = format!(
        "CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\
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
    /// A request with the fields of a current SDK: what a proxy has to read and to search.
    fn request(&self, method: &str, path: &str, body: Body) -> Result<Request<Body>> {
        Ok(Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
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

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let request = self.request(method, path, body)?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let said = response.into_body().collect().await?.to_bytes();
        Err(format!("{status}: {}", said.escape_ascii()).into())
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

/// What a run of calls took.
pub(crate) struct Run {
    pub(crate) elapsed: Duration,
    pub(crate) latency: Latency,
}

/// Times in nanoseconds, to three digits.
pub(crate) struct Latency(Histogram<u32>);

impl Latency {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(100, 60_000_000_000, 3)?))
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// In microseconds.
    #[allow(clippy::cast_precision_loss)] // Far below 2^52 nanoseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Makes `count` calls over the connections in turn, one in each millisecond, whether or not the one
/// before was answered. The runtime's timers have just this step, so no two calls start together.
pub(crate) async fn paced(connections: &mut Vec<Connection>, count: u32) -> Result<Run> {
    const EVERY: Duration = Duration::from_millis(1);
    let many = u32::try_from(connections.len())?;
    let start = tokio::time::Instant::now() + EVERY;
    let mut running = JoinSet::new();
    for (mut connection, first) in connections.drain(..).zip(0..) {
        running.spawn_local(async move {
            let mut times = Vec::new();
            for at in (first..count).step_by(many as usize) {
                tokio::time::sleep_until(start + EVERY * at).await;
                let sent = super::body::now();
                connection.call().await?;
                times.push(super::body::now() - sent);
            }
            Result::Ok((connection, times))
        });
    }
    let mut latency = Latency::new()?;
    while let Some(done) = running.join_next().await {
        let (connection, times) = done??;
        connections.push(connection);
        for time in times {
            latency.record(time);
        }
    }
    Ok(Run { elapsed: start.elapsed(), latency })
}

/// Makes `count` calls over the connections, each taking the next as soon as it is free.
pub(crate) async fn closed_loop(connections: &mut Vec<Connection>, count: u64) -> Result<Run> {
    let left = Rc::new(Cell::new(count));
    let latency = Rc::new(std::cell::RefCell::new(Latency::new()?));
    let start = Instant::now();
    let mut running = JoinSet::new();
    for mut connection in connections.drain(..) {
        let (left, latency) = (Rc::clone(&left), Rc::clone(&latency));
        running.spawn_local(async move {
            while let Some(next) = left.get().checked_sub(1) {
                left.set(next);
                let sent = super::body::now();
                connection.call().await?;
                latency.borrow_mut().record(super::body::now() - sent);
            }
            Result::Ok(connection)
        });
    }
    while let Some(done) = running.join_next().await {
        connections.push(done??);
    }
    let elapsed = start.elapsed();
    let latency = Rc::into_inner(latency).ok_or("a call is still running")?.into_inner();
    Ok(Run { elapsed, latency })
}
