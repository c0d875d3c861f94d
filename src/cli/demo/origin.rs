//! The origins of the demo: HTTPS servers in this process, with certificates of a CA of their own,
//! that demand a key and remember what reached them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::forms;
use crate::app::Failure;
use crate::secret::Secret;

/// What a fingerprint shows of a SHA-256, in bytes: enough to tell two keys apart at a glance.
const FINGERPRINT: usize = 6;

/// The first bytes of the SHA-256 of a value, in hex.
pub(super) fn fingerprint(value: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(value);
    data_encoding::HEXLOWER.encode(digest.get(..FINGERPRINT).unwrap_or_default())
}

/// Signs the origins' certificates. Has nothing to do with Locum's CA.
pub(super) struct OriginAuthority {
    /// Its certificate, PEM: what `upstream.hosts.….ca_file` names.
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl OriginAuthority {
    pub(super) fn make() -> Result<Self, Failure> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "CA of the demo's origins");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().map_err(broken)?;
        let pem = params.self_signed(&key).map_err(broken)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    fn server(&self, host: &str) -> Result<TlsAcceptor, Failure> {
        let params = CertificateParams::new([host.to_owned()]).map_err(broken)?;
        let key = KeyPair::generate().map_err(broken)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(broken)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(broken)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("an origin for the demo cannot be made: {error}"))
}

/// One request that arrived, as far as the demo may remember it.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The field that the key came in, without the key: `Authorization: Bearer`.
    pub(super) place: String,
    /// The fingerprint of what stood there.
    pub(super) fingerprint: Option<String>,
    /// How long that was.
    pub(super) length: usize,
    /// Whether it was the key.
    pub(super) authorized: bool,
    /// Whether `locum_` stood anywhere in the head.
    pub(super) placeholder: bool,
    /// The forms of the key that an echo sent back, each as it was sent.
    pub(super) echoed: Vec<Vec<u8>>,
}

/// An HTTPS server that plays one host. Gone when dropped.
pub(super) struct Origin {
    /// Whom it plays.
    pub(super) host: &'static str,
    /// Where it listens.
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    /// What it demands; none serves anybody.
    key: Option<Arc<Secret>>,
    connections: Mutex<usize>,
    seen: Mutex<Vec<Seen>>,
}

impl Origin {
    pub(super) async fn start(
        host: &'static str,
        key: Option<Arc<Secret>>,
        authority: &OriginAuthority,
    ) -> Result<Self, Failure> {
        let tls = authority.server(host)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(broken)?;
        let address = listener.local_addr().map_err(broken)?;
        let shared =
            Arc::new(Shared { key, connections: Mutex::default(), seen: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&shared))).abort_handle();
        Ok(Self { host, address, shared, accepting })
    }

    /// How many requests arrived.
    pub(super) fn requests(&self) -> usize {
        self.shared.seen.lock().len()
    }

    /// How many connections were made, with or without a request on them.
    pub(super) fn connections(&self) -> usize {
        *self.shared.connections.lock()
    }

    /// The last request.
    pub(super) fn last(&self) -> Option<Seen> {
        self.shared.seen.lock().last().cloned()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        *shared.connections.lock() += 1;
        tokio::spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    // A handshake or connection that fails is the other side's to report.
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new();
    let _ended = connection.serve_connection(TokioIo::new(stream), service).await;
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let body =
            body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let mut seen = self.look(&parts.headers);
        let answer = if self.key.is_some() && !seen.authorized {
            json(StatusCode::UNAUTHORIZED, r#"{"error":{"code":"invalid_api_key"}}"#)
        } else if parts.uri.path() == "/echo" {
            let forms = forms::write_all(credential(&parts.headers).map_or(b"", |(_, key)| key));
            let answer = echo(&parts, &body, &forms);
            seen.echoed = forms.into_iter().map(|(_, form)| form).collect();
            answer
        } else {
            json(StatusCode::OK, REPLY)
        };
        self.seen.lock().push(seen);
        answer
    }

    fn look(&self, headers: &HeaderMap) -> Seen {
        let placeholder = headers.values().any(|v| crate::reference::occurs(v.as_bytes()));
        let Some((place, value)) = credential(headers) else {
            return Seen { placeholder, ..Seen::default() };
        };
        let authorized = self.key.as_ref().is_some_and(|key| key.expose(|key| key == value));
        Seen {
            place: place.to_owned(),
            fingerprint: Some(fingerprint(value)),
            length: value.len(),
            authorized,
            placeholder,
            echoed: Vec::new(),
        }
    }
}

/// The key in its forms.
type Forms = [(&'static str, Vec<u8>)];

/// Sends back all that came, and the key in every form. `?as=` says how.
fn echo(parts: &http::request::Parts, body: &[u8], forms: &Forms) -> Answer {
    let mut text = Vec::new();
    for (name, value) in &parts.headers {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
    }
    text.extend_from_slice(body);
    for (name, form) in forms {
        text.extend([b"\n", name.as_bytes(), b": ", form].concat());
    }
    text.push(b'\n');
    match parts.uri.query() {
        Some("as=header") => echo_in_header(forms),
        Some("as=chunks") => chunked(&text, 7),
        Some("as=bytes") => chunked(&text, 1),
        _ => Response::new(Full::new(Bytes::from(text)).boxed()),
    }
}

/// What a provider would say.
const REPLY: &str = r#"{"object":"chat.completion","choices":[{"message":{"role":"assistant","content":"Hello, whoever you are: your key is good."}}]}
"#;

/// Where the two providers of the demo look for a key, and what stands there.
fn credential(headers: &HeaderMap) -> Option<(&'static str, &[u8])> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .map(|value| ("Authorization: Bearer", value));
    bearer.or_else(|| headers.get("x-api-key").map(|value| ("x-api-key:", value.as_bytes())))
}

fn json(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

/// Each form in a field of its own, and the raw key where origins do put such things.
fn echo_in_header(forms: &Forms) -> Answer {
    let mut answer = json(StatusCode::OK, "{}");
    let mut add = |name: HeaderName, text: &[u8]| {
        if let Ok(value) = HeaderValue::from_bytes(text) {
            answer.headers_mut().append(name, value);
        }
    };
    for (_, form) in forms {
        add(HeaderName::from_static("x-echo"), form);
    }
    let raw = forms.first().map_or(&[][..], |(_, raw)| raw);
    add(header::SET_COOKIE, &[b"session=", raw, b"; Path=/"].concat());
    add(header::LOCATION, &[b"https://collector.example.net/?key=", raw].concat());
    add(header::WWW_AUTHENTICATE, &[b"Bearer realm=\"", raw, b"\""].concat());
    answer
}

fn chunked(text: &[u8], size: usize) -> Answer {
    let pieces: Vec<Bytes> = text.chunks(size).map(Bytes::copy_from_slice).collect();
    Response::new(Pieces(pieces.into_iter()).boxed())
}

/// A body of unknown length in chunks of fixed size.
struct Pieces(std::vec::IntoIter<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
    }
}
