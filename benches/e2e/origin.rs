//! The origin: an API over TLS that refuses whoever has not the real key, and counts both kinds. It is
//! a process of its own, so that ten thousand tunnels are not bounded by one process's descriptors.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::body::Body;
use super::process::Talking;
use super::{Http, Result};

/// The host that the credential is bound to.
pub(crate) const HOST: &str = "api.openai.com";
/// A host that no credential is bound to.
pub(crate) const UNBOUND: &str = "files.bench.test";
/// Hosts of which each is seen once.
pub(crate) const COLD: &str = "*.cold.test";

/// What the path of an answer begins with that is to have a coding nobody knows. Its bytes are those that it would
/// have without.
pub(crate) const CODED: &str = "/coded";

/// One of them.
pub(crate) fn cold_host(round: usize, number: usize) -> String {
    format!("r{round}-h{number}.cold.test")
}

/// The key that only the proxies and the direct clients hold. As long as a project key of today.
pub(crate) const KEY: &str = "sk-proj-B3nchM4rk-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\
                       0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-ThisIsNotAKey";

/// An answer of a metadata call.
const SMALL: &[u8] = br#"{"id":"chatcmpl-bench","object":"chat.completion","created":1750000000,"model":"bench-1","choices":[{"index":0,"message":{"role":"assistant","content":"Hello. How can I help you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}"#;

/// What arrived.
#[derive(Debug, Default)]
struct Counts {
    /// Requests with the real key.
    right: AtomicU64,
    /// Requests without it.
    wrong: AtomicU64,
}

/// What the origin says of itself when it has started.
#[derive(Serialize, Deserialize)]
struct About {
    /// Where it speaks nothing but HTTP/1.1, and nothing but HTTP/2.
    addresses: [SocketAddr; 2],
    papers: Papers,
}

/// Certificates and keys, as PEM. A proxy that has no CA of its own is given these.
#[derive(Serialize, Deserialize)]
pub(crate) struct Papers {
    pub(crate) ca: String,
    pub(crate) ca_key: String,
    pub(crate) leaf: String,
    pub(crate) leaf_key: String,
}

/// The origin, as the harness sees it. Ends with its owner.
pub(crate) struct Origin {
    process: RefCell<Talking>,
    addresses: [SocketAddr; 2],
    pub(crate) papers: Papers,
    pub(crate) roots: Arc<RootCertStore>,
}

impl Origin {
    pub(crate) fn start() -> Result<Self> {
        let (process, line) = Talking::start(&["--as-origin"])?;
        let About { addresses, papers } = serde_json::from_str(&line)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(papers.ca.as_bytes())?)?;
        Ok(Self { process: RefCell::new(process), addresses, papers, roots: Arc::new(roots) })
    }

    /// Where it speaks this, and nothing else.
    pub(crate) fn address(&self, http: Http) -> SocketAddr {
        self.addresses[usize::from(http == Http::Two)]
    }

    /// How many requests came with the key, and how many without.
    pub(crate) fn counts(&self) -> Result<(u64, u64)> {
        let line = self.process.borrow_mut().ask("counts")?;
        let (right, wrong) = line.trim().split_once(' ').ok_or("the origin counts strangely")?;
        Ok((right.parse()?, wrong.parse()?))
    }
}

/// Serves until standard input ends. Each line of it is answered with the counts.
pub(crate) fn run() -> Result<()> {
    let papers = Papers::new()?;
    let counts = Arc::<Counts>::default();
    let listen = || std::net::TcpListener::bind("127.0.0.1:0");
    let listeners = [listen()?, listen()?];
    let mut addresses = [listeners[0].local_addr()?; 2];
    addresses[1] = listeners[1].local_addr()?;
    let mut acceptors = Vec::new();
    for (listener, http) in listeners.into_iter().zip([Http::One, Http::Two]) {
        acceptors.push((listener, http, papers.acceptor(http)?));
    }
    let shared = Arc::clone(&counts);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("origin".into()).spawn(move || {
        runtime.block_on(async move {
            let mut serving = tokio::task::JoinSet::new();
            for (listener, http, tls) in acceptors {
                serving.spawn(accept(listener, http, tls, Arc::clone(&shared)));
            }
            while let Some(ended) = serving.join_next().await {
                eprintln!("the origin takes no more connections: {ended:?}");
            }
        });
    })?;
    println!("{}", serde_json::to_string(&About { addresses, papers })?);
    for line in io::stdin().lock().lines() {
        line?;
        let [right, wrong] = [&counts.right, &counts.wrong].map(|n| n.load(Ordering::Relaxed));
        println!("{right} {wrong}");
        io::stdout().flush()?;
    }
    Ok(())
}

async fn accept(
    listener: std::net::TcpListener,
    http: Http,
    tls: TlsAcceptor,
    counts: Arc<Counts>,
) -> io::Result<()> {
    // The standard library's 128 are too few for ten thousand tunnels that all call.
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream, http, tls.clone(), Arc::clone(&counts)));
    }
}

impl Papers {
    fn new() -> Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Benchmark CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = params.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(params, &ca_key);
        let leaf_key = KeyPair::generate()?;
        let names = [HOST, UNBOUND, COLD].map(str::to_owned);
        let leaf = CertificateParams::new(names)?.signed_by(&leaf_key, &issuer)?.pem();
        let [ca_key, leaf_key] = [ca_key, leaf_key].map(|key| key.serialize_pem());
        Ok(Self { ca, ca_key, leaf, leaf_key })
    }

    fn acceptor(&self, http: Http) -> Result<TlsAcceptor> {
        let leaf = CertificateDer::from_pem_slice(self.leaf.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(self.leaf_key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)?;
        config.alpn_protocols = vec![http.alpn().to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

async fn serve(stream: TcpStream, http: Http, tls: TlsAcceptor, counts: Arc<Counts>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let stream = TokioIo::new(stream);
    let service = service_fn(move |request| {
        let counts = Arc::clone(&counts);
        async move { Ok::<_, Infallible>(answer(request, &counts).await) }
    });
    // A client that leaves is no event.
    let _left = match http {
        Http::One => http1::Builder::new().serve_connection(stream, service).await,
        Http::Two => {
            http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await
        }
    };
}

async fn answer(request: Request<Incoming>, counts: &Counts) -> Response<Body> {
    if !carries_key(&request) {
        counts.wrong.fetch_add(1, Ordering::Relaxed);
        let mut refused = Response::new(Body::empty());
        *refused.status_mut() = StatusCode::UNAUTHORIZED;
        return refused;
    }
    counts.right.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    if let Some(path) = path.strip_prefix(CODED) {
        let mut response = answer_at(path, request).await;
        response.headers_mut().insert(header::CONTENT_ENCODING, UNKNOWN);
        return response;
    }
    answer_at(&path, request).await
}

/// A coding that no proxy undoes.
const UNKNOWN: HeaderValue = HeaderValue::from_static("x-bench");

async fn answer_at(path: &str, request: Request<Incoming>) -> Response<Body> {
    let mut parts = path.trim_start_matches('/').split('/');
    let kind = parts.next().unwrap_or_default();
    let mut number = || parts.next().and_then(|n| n.parse::<u32>().ok()).unwrap_or_default();
    match kind {
        "text" => of_type("application/json", Body::Text(u64::from(number()) << 20)),
        "events" => {
            let count = number();
            let every = Duration::from_millis(u64::from(number()));
            of_type("text/event-stream", Body::events(count, every))
        }
        _ => {
            let length = drain(request.into_body()).await;
            let mut response = of_type("application/json", Bytes::from_static(SMALL).into());
            response.headers_mut().insert("x-received", length.into());
            response
        }
    }
}

fn carries_key(request: &Request<Incoming>) -> bool {
    let value = request.headers().get(header::AUTHORIZATION);
    value.and_then(|v| v.as_bytes().strip_prefix(b"Bearer ")) == Some(KEY.as_bytes())
}

async fn drain(mut body: Incoming) -> u64 {
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    length
}

/// An answer with the fields that APIs send with each.
fn of_type(kind: &'static str, body: Body) -> Response<Body> {
    Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header("x-request-id", "req_0123456789abcdef0123456789abcdef")
        .header("openai-processing-ms", "12")
        .header("openai-version", "2020-10-01")
        .header("x-ratelimit-remaining-requests", "9999")
        .header("x-ratelimit-remaining-tokens", "1999984")
        .header("strict-transport-security", "max-age=31536000; includeSubDomains; preload")
        .header("cache-control", "no-store")
        .body(body)
        .unwrap_or_default()
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}
