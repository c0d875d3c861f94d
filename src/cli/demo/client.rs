//! A small HTTPS client that goes through a proxy as SDKs do: CONNECT, TLS inside, HTTP/1.1 inside
//! that, and the tunnel kept for the next request. It keeps every byte that it receives.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A request to be made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) method: String,
    /// `https://host/path` or `https://host:port/path`.
    pub(super) url: String,
    /// What `Host` says, when it is not what the URL says.
    pub(super) host: Option<String>,
    /// `${NAME}` in a value stands for a variable of the agent's environment.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) via: Via,
}

impl Ask {
    pub(super) fn new(method: &str, url: impl Into<String>) -> Self {
        Self { method: method.to_owned(), url: url.into(), ..Self::default() }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    pub(super) fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub(super) fn via(mut self, via: Via) -> Self {
        self.via = via;
        self
    }
}

/// Which way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Via {
    /// Through the proxy that `HTTPS_PROXY` names.
    #[default]
    Environment,
    /// Through this proxy, as a URL.
    Proxy(String),
    /// Through none, to this address.
    Direct(SocketAddr),
}

/// What came back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::cli) struct Answer {
    /// Whether the CONNECT itself was refused, and this is the answer to it.
    pub(in crate::cli) no_tunnel: bool,
    /// Whether the request went into a tunnel that an earlier one had opened.
    pub(in crate::cli) reused: bool,
    pub(in crate::cli) status: u16,
    pub(in crate::cli) headers: Vec<(String, String)>,
    /// The body without framing.
    #[serde(with = "base64")]
    pub(in crate::cli) body: Vec<u8>,
    /// Everything that came, as it came: head, framing, body.
    #[serde(with = "base64")]
    pub(in crate::cli) wire: Vec<u8>,
}

impl Answer {
    /// The code of Locum's own answer.
    pub(in crate::cli) fn code(&self) -> Option<String> {
        let ours = self.headers.iter().any(|(name, _)| name == "proxy-status");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        ours.then(|| problem.get("code")?.as_str().map(str::to_owned)).flatten()
    }

    /// Status and code, as people read them.
    pub(in crate::cli) fn in_words(&self) -> String {
        let status = StatusCode::from_u16(self.status).ok();
        let reason = status.and_then(|s| s.canonical_reason()).unwrap_or("");
        match self.code() {
            Some(code) => format!("{} {code}", self.status),
            None => format!("{} {reason}", self.status).trim_end().to_owned(),
        }
    }
}

mod base64 {
    use super::{BASE64, Deserialize as _};

    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// The client, with the connections that it keeps.
pub(super) struct Client {
    tls: TlsConnector,
    proxy: Option<String>,
    open: HashMap<(Via, String), Line>,
}

/// A connection that can take the next request.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    wire: Wire,
}

/// All that was received on a connection and not yet taken.
type Wire = Arc<Mutex<Vec<u8>>>;

/// Where a connection led.
enum Opened {
    Line(Line),
    /// The proxy said no.
    Refused(Answer),
}

impl Client {
    /// A client that believes `roots` and nobody else.
    pub(super) fn new(
        roots: Vec<CertificateDer<'static>>,
        proxy: Option<String>,
    ) -> io::Result<Self> {
        let mut store = RootCertStore::empty();
        // Some old root may not parse; the others are used, as every client does.
        store.add_parsable_certificates(roots);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), proxy, open: HashMap::new() })
    }

    /// Makes a request, on an open connection where there is one.
    pub(super) async fn call(&mut self, ask: &Ask) -> io::Result<Answer> {
        let uri: Uri = ask.url.parse().map_err(io::Error::other)?;
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let key = (ask.via.clone(), authority.clone());
        let kept = self.open.remove(&key).filter(|line| line.sender.is_ready());
        let reused = kept.is_some();
        let mut line = match kept {
            Some(line) => line,
            None => match self.connect(&uri, &ask.via).await? {
                Opened::Line(line) => line,
                Opened::Refused(answer) => return Ok(answer),
            },
        };
        line.wire.lock().clear();
        let response = line.sender.send_request(request(ask, &uri, &authority)?).await;
        let mut answer = take(response.map_err(io::Error::other)?).await?;
        answer.reused = reused;
        answer.wire = std::mem::take(&mut *line.wire.lock());
        // The sender says so as soon as its connection has seen the end of the body.
        if line.sender.ready().await.is_ok() {
            self.open.insert(key, line);
        }
        Ok(answer)
    }

    async fn connect(&self, uri: &Uri, via: &Via) -> io::Result<Opened> {
        let host = uri.host().unwrap_or_default();
        let target = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        let proxy = match via {
            Via::Direct(address) => {
                let stream = TcpStream::connect(address).await?;
                return Ok(Opened::Line(self.speak(stream, host).await?));
            }
            Via::Environment => self.proxy.clone().ok_or_else(|| missing("HTTPS_PROXY"))?,
            Via::Proxy(proxy) => proxy.clone(),
        };
        let (answer, stream) = connect_through(&proxy, &target).await?;
        match stream {
            Some(stream) => Ok(Opened::Line(self.speak(stream, host).await?)),
            None => Ok(Opened::Refused(answer)),
        }
    }

    async fn speak<S>(&self, stream: S, host: &str) -> io::Result<Line>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let stream = self.tls.connect(name, stream).await?;
        let wire = Wire::default();
        let tee = Tee { inner: stream, wire: Arc::clone(&wire) };
        let (sender, connection) =
            http1::handshake(TokioIo::new(tee)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Line { sender, wire })
    }
}

/// What a program says when its environment lacks a variable.
pub(super) fn missing(name: &str) -> io::Error {
    io::Error::other(format!("there is no {name} in the environment"))
}

fn request(ask: &Ask, uri: &Uri, authority: &str) -> io::Result<Request<Full<Bytes>>> {
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut request = Request::builder()
        .method(ask.method.as_str())
        .uri(path)
        .header(header::HOST, ask.host.as_deref().unwrap_or(authority));
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::from(ask.body.clone()))).map_err(io::Error::other)
}

async fn take(response: Response<Incoming>) -> io::Result<Answer> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    Ok(Answer {
        no_tunnel: false,
        reused: false,
        status: parts.status.as_u16(),
        headers: texts(&parts.headers),
        body,
        wire: Vec::new(),
    })
}

fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Asks a proxy for a tunnel. There is a stream when it said yes.
async fn connect_through(
    proxy: &str,
    target: &str,
) -> io::Result<(Answer, Option<TokioIo<hyper::upgrade::Upgraded>>)> {
    let proxy: Uri = proxy.parse().map_err(io::Error::other)?;
    let authority = proxy.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, authority),
    };
    let stream = TcpStream::connect(address).await?;
    let wire = Wire::default();
    let tee = Tee { inner: stream, wire: Arc::clone(&wire) };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(tee)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let mut connect = Request::builder().method(Method::CONNECT).uri(target);
    if let Some(user) = user {
        let pair: Vec<u8> = percent_encoding::percent_decode_str(user).collect();
        let basic = format!("Basic {}", BASE64.encode(&pair));
        connect = connect.header(header::PROXY_AUTHORIZATION, basic);
    }
    let connect = connect
        .header(header::HOST, target)
        .body(Full::new(Bytes::new()))
        .map_err(io::Error::other)?;
    let mut response = sender.send_request(connect).await.map_err(io::Error::other)?;
    let upgrade = hyper::upgrade::on(&mut response);
    let said_yes = response.status() == StatusCode::OK;
    if said_yes {
        let stream = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
        return Ok((Answer { no_tunnel: false, ..none() }, Some(stream)));
    }
    let mut answer = take(response).await?;
    answer.no_tunnel = true;
    answer.wire = std::mem::take(&mut *wire.lock());
    Ok((answer, None))
}

fn none() -> Answer {
    Answer {
        no_tunnel: true,
        reused: false,
        status: 200,
        headers: Vec::new(),
        body: Vec::new(),
        wire: Vec::new(),
    }
}

/// Reads one resource over plain HTTP: what the operations port speaks.
pub(in crate::cli) async fn get_plain(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .uri(path)
        .header(header::HOST, address.to_string())
        .body(Full::new(Bytes::new()))
        .map_err(io::Error::other)?;
    take(sender.send_request(request).await.map_err(io::Error::other)?).await
}

/// Asks a proxy for a tunnel, and takes no further step.
pub(in crate::cli) async fn knock(proxy: &str, target: &str) -> io::Result<Answer> {
    connect_through(proxy, target).await.map(|(answer, _)| answer)
}

/// Keeps a copy of what is read.
struct Tee<S> {
    inner: S,
    wire: Wire,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tee<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let new = buffer.filled().get(before..).unwrap_or_default();
        self.wire.lock().extend_from_slice(new);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tee<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
