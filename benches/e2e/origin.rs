//! The origin: an API over TLS that refuses whoever has not the real key, and counts both kinds.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Result;
use super::body::Body;

/// The host that the credential is bound to.
pub(crate) const HOST: &str = "api.openai.com";
/// A host that no credential is bound to.
pub(crate) const UNBOUND: &str = "files.bench.test";
/// Hosts of which each is seen once.
pub(crate) const COLD: &str = "*.cold.test";

/// The key that only the proxies and the direct clients hold. As long as a project key of today.
pub(crate) const KEY: &str = "sk-proj-B3nchM4rk-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\
                       0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-ThisIsNotAKey";

/// An answer of a metadata call.
const SMALL: &[u8] = br#"{"id":"chatcmpl-bench","object":"chat.completion","created":1750000000,"model":"bench-1","choices":[{"index":0,"message":{"role":"assistant","content":"Hello. How can I help you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}"#;

/// What arrived.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests with the real key.
    pub(crate) right: AtomicU64,
    /// Requests without it.
    pub(crate) wrong: AtomicU64,
}

/// The origin, on a thread of its own for the life of the process.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    /// The certificate that signed the origin's.
    pub(crate) ca_pem: String,
    /// The origin's own, and its key: a proxy that cannot make one is given it.
    pub(crate) leaf_pem: String,
    pub(crate) key_pem: String,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) counts: Arc<Counts>,
}

impl Origin {
    pub(crate) fn start() -> Result<Self> {
        let Certificates { ca, leaf, key } = Certificates::new()?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone())?;
        let (ca_pem, leaf_pem, key_pem) = (ca.pem(), leaf.pem(), key.serialize_pem());
        let config = tls(&leaf, &key)?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let counts = Arc::<Counts>::default();
        let tls = TlsAcceptor::from(Arc::new(config));
        let shared = Arc::clone(&counts);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("origin".into()).spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
                }
                #[allow(unreachable_code)]
                std::io::Result::Ok(())
            })
        })?;
        Ok(Self { address, ca_pem, leaf_pem, key_pem, roots: Arc::new(roots), counts })
    }
}

struct Certificates {
    ca: Certificate,
    leaf: Certificate,
    key: KeyPair,
}

impl Certificates {
    fn new() -> Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Benchmark CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate()?;
        let names = [HOST, UNBOUND, COLD].map(str::to_owned);
        let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        Ok(Self { ca, leaf, key })
    }
}

fn tls(leaf: &Certificate, key: &KeyPair) -> Result<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, counts: Arc<Counts>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let counts = Arc::clone(&counts);
        async move { Ok::<_, Infallible>(answer(request, &counts).await) }
    });
    // A client that leaves is no event.
    let _left = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
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
