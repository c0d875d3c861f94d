//! Origins on loopback with real TLS: they refuse a wrong key, and keep all that arrives.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::{PATIENCE, eventually, routes, runtime};

/// How much of a connection, and of a body, is kept.
pub const KEPT: usize = 4 * 1024 * 1024;

/// An origin. Lives on the harness's runtime, and stops accepting when dropped.
pub struct Origin {
    pub host: String,
    pub address: SocketAddr,
    pub state: Arc<State>,
    directory: TempDir,
    accepting: tokio::task::JoinHandle<()>,
}

/// What an origin knows and has seen.
pub struct State {
    /// The keys it takes. Under `/open` it asks for none.
    pub keys: Mutex<HashSet<String>>,
    /// What it answers to some keys in place of everything else: a status, and `Retry-After`.
    pub answers: Mutex<BTreeMap<String, (u16, Option<String>)>>,
    /// What it answers to the next requests with a key it takes, one after the other, in place of
    /// everything else: a status, `Retry-After`, and a body.
    pub next: Mutex<VecDeque<(u16, Option<String>, String)>>,
    /// What it says with its 401.
    pub challenge: Mutex<String>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    raw: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    /// Whether streams wait for a permit of `gate` before each event but the first.
    pub gated: AtomicBool,
    pub gate: Semaphore,
    /// Where git's repositories are.
    pub repositories: Mutex<Option<PathBuf>>,
    /// Files by their target as it is written, each with its type.
    pub site: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
}

/// One request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// On which connection, from 0.
    pub connection: usize,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// The first part of the body, up to [`KEPT`].
    pub body: Vec<u8>,
    /// How long the body was.
    pub length: u64,
    /// Its SHA-256, in hex.
    pub digest: String,
    /// Whether the body came to its end.
    pub complete: bool,
}

impl Seen {
    /// The values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    /// The one value of a header; none if it is not there or there is more than one.
    pub fn header(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }
}

/// What a scripted origin does on a connection.
#[derive(Clone, Debug)]
pub enum Script {
    /// Reads a head, and a body as long as its `Content-Length` says.
    Read,
    /// Sends these bytes, in one piece.
    Send(Vec<u8>),
    /// Waits for a permit of the gate.
    Wait,
    /// Reads a WebSocket handshake, and agrees.
    Switch,
    /// Sends back whatever comes, until nothing more does.
    Echo,
    /// Ends TLS in order and closes. Without it the connection is cut off.
    Goodbye,
}

impl Origin {
    /// An origin for `host`, with the routes of the harness.
    pub fn start(host: &str) -> Self {
        Self::listen(host, Mode::Http, Some(Tls::default()))
    }

    /// The same, and it prefers HTTP/2.
    pub fn http2(host: &str) -> Self {
        let tls = Tls { alpn: &["h2", "http/1.1"], ..Tls::default() };
        Self::listen(host, Mode::Http, Some(tls))
    }

    /// The same, for those alone that show the certificate in `us.pem` with the key in `us.key`, or that in
    /// `next.pem`, which lie beside `ca.pem`. That in `old.pem` has run out.
    pub fn mutual(host: &str) -> Self {
        Self::listen(host, Mode::Http, Some(Tls { mutual: true, ..Tls::default() }))
    }

    /// The same, in the clear.
    pub fn clear(host: &str) -> Self {
        Self::listen(host, Mode::Http, None)
    }

    /// An origin that does what the script says, on every connection.
    pub fn scripted(host: &str, script: Vec<Script>) -> Self {
        Self::listen(host, Mode::Script(script.into()), Some(Tls::default()))
    }

    /// The same, in the clear.
    pub fn scripted_clear(host: &str, script: Vec<Script>) -> Self {
        Self::listen(host, Mode::Script(script.into()), None)
    }

    /// TLS in front of an HTTP/1.1 server without it. The TLS would rather have HTTP/2, so that who
    /// offers that gets no sense out of the server.
    pub fn before(host: &str, server: SocketAddr) -> Self {
        let tls = Tls { alpn: &["h2", "http/1.1"], ..Tls::default() };
        Self::listen(host, Mode::Before(server), Some(tls))
    }

    /// Anything that listens, takes whatever comes and says nothing: a canary.
    pub fn silent(address: &str) -> Option<Self> {
        let listener = std::net::TcpListener::bind((address, 0)).ok()?;
        Some(Self::on(address, listener, Mode::Script(Arc::new([Script::Wait])), None))
    }

    fn listen(host: &str, mode: Mode, tls: Option<Tls>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(host, listener, mode, tls)
    }

    fn on(host: &str, listener: std::net::TcpListener, mode: Mode, tls: Option<Tls>) -> Self {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let directory = tempfile::Builder::new().prefix("locum-origin-").tempdir().unwrap();
        let acceptor = tls.map(|tls| {
            let identity = Identity::new(host);
            let mut config = if tls.mutual {
                identity.mutual_config(directory.path())
            } else {
                identity.server_config()
            };
            config.alpn_protocols = tls.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
            std::fs::write(directory.path().join("ca.pem"), &identity.ca).unwrap();
            TlsAcceptor::from(Arc::new(config))
        });
        let state = Arc::new(State::default());
        let accept = accept(listener, acceptor, mode, Arc::clone(&state));
        let accepting = runtime().spawn(accept);
        Self { host: host.to_owned(), address, state, directory, accepting }
    }

    /// The certificate of the CA that vouches for this origin.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A file that lies beside it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Answers a path with this from here on.
    pub fn serve(&self, path: &str, kind: &str, body: &[u8]) {
        let file = (kind.to_owned(), body.to_vec());
        self.state.site.lock().insert(path.to_owned(), file);
    }

    /// Takes this key from now on.
    pub fn accept(&self, key: &str) {
        self.state.keys.lock().insert(key.to_owned());
    }

    /// Says this to who shows no key that it takes (`WWW-Authenticate`).
    pub fn challenge(&self, challenge: &str) {
        challenge.clone_into(&mut self.state.challenge.lock());
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().clone()
    }

    /// The requests whose target starts so.
    pub fn seen_at(&self, target: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|s| s.target.starts_with(target));
        seen
    }

    /// The last request.
    #[track_caller]
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the origin has seen a request")
    }

    /// How many connections were accepted, whether or not TLS came to pass on them.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// All bytes of all connections, decrypted, as they arrived.
    pub fn raw(&self) -> Vec<String> {
        let raw = self.state.raw.lock();
        raw.iter().map(|bytes| String::from_utf8_lossy(&bytes.lock()).into_owned()).collect()
    }

    /// The same, as bytes.
    pub fn raw_bytes(&self) -> Vec<Vec<u8>> {
        self.state.raw.lock().iter().map(|bytes| bytes.lock().clone()).collect()
    }

    /// The bytes of the last connection.
    #[track_caller]
    pub fn last_raw(&self) -> String {
        self.raw().pop().expect("somebody connected")
    }

    /// Answers all requests with this key so.
    pub fn answer(&self, key: &str, status: u16, retry_after: Option<&str>) {
        let answer = (status, retry_after.map(str::to_owned));
        self.state.answers.lock().insert(key.to_owned(), answer);
    }

    /// Answers them as ever.
    pub fn answer_as_ever(&self, key: &str) {
        self.state.answers.lock().remove(key);
    }

    /// Answers the next request so, after those of which this was said before.
    pub fn answer_next(&self, status: u16, retry_after: Option<&str>, body: &str) {
        let answer = (status, retry_after.map(str::to_owned), body.to_owned());
        self.state.next.lock().push_back(answer);
    }

    /// Has streams wait for [`Origin::release`] before each event but the first.
    pub fn hold(&self) {
        self.state.gated.store(true, Ordering::SeqCst);
    }

    /// Lets one more event go.
    pub fn release(&self) {
        self.state.gate.add_permits(1);
    }

    /// Waits until this many requests have arrived.
    #[track_caller]
    pub fn until_seen(&self, count: usize) {
        eventually(&format!("{count} requests at {}", self.host), PATIENCE, || {
            (self.state.seen.lock().len() >= count).then_some(())
        });
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            keys: Mutex::default(),
            answers: Mutex::default(),
            next: Mutex::default(),
            challenge: Mutex::new("Basic realm=\"origin\"".to_owned()),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            raw: Mutex::default(),
            gated: AtomicBool::new(false),
            gate: Semaphore::new(0),
            repositories: Mutex::default(),
            site: Mutex::default(),
        }
    }
}

impl State {
    /// Notes a request; gives its number.
    pub fn note(&self, seen: Seen) -> usize {
        let mut all = self.seen.lock();
        all.push(seen);
        all.len() - 1
    }

    /// Adds to what is known of a request.
    pub fn amend(&self, number: usize, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock()[number]);
    }

    /// Waits for a permit, if this origin is held.
    pub async fn pass(&self) {
        if self.gated.load(Ordering::SeqCst) {
            self.gate.acquire().await.unwrap().forget();
        }
    }
}

/// How an origin speaks TLS.
#[derive(Clone, Copy, Default)]
struct Tls {
    /// The protocols for ALPN.
    alpn: &'static [&'static str],
    /// Whether it wants a certificate.
    mutual: bool,
}

#[derive(Clone)]
enum Mode {
    Http,
    Script(Arc<[Script]>),
    Before(SocketAddr),
}

async fn accept(
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    mode: Mode,
    state: Arc<State>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let number = state.connections.fetch_add(1, Ordering::SeqCst);
        let raw = Arc::new(Mutex::new(Vec::new()));
        state.raw.lock().push(Arc::clone(&raw));
        let (mode, state, tls) = (mode.clone(), Arc::clone(&state), tls.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve(Recorder { inner: stream, raw }, number, mode, false, state).await,
                Some(tls) => match tls.accept(stream).into_fallible().await {
                    Ok(stream) => {
                        let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve(Recorder { inner: stream, raw }, number, mode, two, state).await;
                    }
                    // Closing with bytes unread would reset the alert that was just sent.
                    Err((_, mut stream)) => {
                        let _ = stream.shutdown().await;
                        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    }
                },
            }
        });
    }
}

type Serving<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

fn serve<'a, S>(
    stream: Recorder<S>,
    number: usize,
    mode: Mode,
    two: bool,
    state: Arc<State>,
) -> Serving<'a>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'a,
{
    Box::pin(async move {
        match mode {
            Mode::Script(script) => play(stream, &script, &state).await,
            Mode::Before(server) => {
                let mut stream = stream;
                let Ok(mut server) = tokio::net::TcpStream::connect(server).await else { return };
                let _ = server.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
            }
            Mode::Http => {
                let service = service_fn(|request| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(routes::answer(&state, number, request).await) }
                });
                if two {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    return;
                }
                // An agent that goes away in the middle is no event for an origin.
                let _ = hyper::server::conn::http1::Builder::new()
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        }
    })
}

async fn play<S>(mut stream: Recorder<S>, script: &[Script], state: &State)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ahead = Vec::new();
    for step in script {
        match step {
            Script::Read => read_request(&mut stream, &mut ahead).await,
            Script::Send(bytes) => {
                let _ = stream.write_all(bytes).await;
                let _ = stream.flush().await;
            }
            Script::Switch => {
                let head = read_head(&mut stream, &mut ahead).await;
                let accept = websocket_accept(&head);
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.flush().await;
            }
            Script::Wait => state.gate.acquire().await.unwrap().forget(),
            Script::Echo => {
                let (mut read, mut write) = tokio::io::split(&mut stream);
                let (mut masks, mut buffer) = (Masks::default(), vec![0; 64 << 10]);
                let mut piece = std::mem::take(&mut ahead);
                loop {
                    let echo = masks.take_off(&piece);
                    if write.write_all(&echo).await.is_err() || write.flush().await.is_err() {
                        break;
                    }
                    match read.read(&mut buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(n) => piece = buffer[..n].to_vec(),
                    }
                }
            }
            Script::Goodbye => {
                let _ = stream.shutdown().await;
                // Closing with bytes unread would reset what was just sent.
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        }
    }
}

/// What a client sends becomes what a server may send: the same frames without their masks.
#[derive(Default)]
pub struct Masks {
    header: Vec<u8>,
    /// How much of a payload is to come, its mask, and how far that has got.
    left: u64,
    mask: Option<[u8; 4]>,
    at: usize,
}

impl Masks {
    pub fn take_off(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if self.left > 0 {
                out.push(self.mask.map_or(byte, |mask| byte ^ mask[self.at % 4]));
                self.at += 1;
                self.left -= 1;
                continue;
            }
            self.header.push(byte);
            let Some(&second) = self.header.get(1) else { continue };
            let extended = [0, 2, 8][usize::from(second & 0x7f).saturating_sub(125)];
            let masked = second & 0x80 != 0;
            if self.header.len() < 2 + extended + if masked { 4 } else { 0 } {
                continue;
            }
            let (head, mask) = self.header.split_at(2 + extended);
            let digits = head[2..].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
            self.left = if extended == 0 { u64::from(second & 0x7f) } else { digits };
            (self.mask, self.at) = (mask.try_into().ok(), 0);
            out.extend_from_slice(&[head[0], second & 0x7f]);
            out.extend_from_slice(&head[2..]);
            self.header.clear();
        }
        out
    }
}

/// The next head.
async fn read_head(stream: &mut (impl AsyncRead + Unpin), ahead: &mut Vec<u8>) -> String {
    loop {
        if let Some(end) = memchr::memmem::find(ahead, b"\r\n\r\n") {
            let head: Vec<u8> = ahead.drain(..end + 4).collect();
            return String::from_utf8_lossy(&head).into_owned();
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return String::new(),
            Ok(n) => ahead.extend_from_slice(&buffer[..n]),
        }
    }
}

/// The answer to the key in this head (RFC 6455 section 4.2.2).
fn websocket_accept(head: &str) -> String {
    use sha1::Digest as _;
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value)
    });
    let text = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key.unwrap_or_default());
    data_encoding::BASE64.encode(&sha1::Sha1::digest(text.as_bytes()))
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), ahead: &mut Vec<u8>) {
    loop {
        if let Some(end) = memchr::memmem::find(ahead, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&ahead[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length.map_or(0, |digits| digits.parse::<usize>().unwrap());
            if ahead.len() >= whole {
                ahead.drain(..whole);
                return;
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => ahead.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Keeps what is read.
struct Recorder<S> {
    inner: S,
    raw: Arc<Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorder<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let mut raw = self.raw.lock();
        let room = KEPT.saturating_sub(raw.len());
        let new = &buffer.filled()[before..];
        raw.extend_from_slice(&new[..new.len().min(room)]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorder<S> {
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

/// A CA of its own, and a server that it vouches for under a name: all as PEM.
pub struct Identity {
    pub ca: String,
    pub certificate: String,
    pub key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Identity {
    pub fn new(host: &str) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.distinguished_name.push(DnType::CommonName, format!("CA of {host}"));
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let (certificate, key) = leaf(&issuer, host);
        Self { ca: ca_pem, certificate, key, issuer }
    }

    pub fn server_config(&self) -> ServerConfig {
        server().with_no_client_auth().with_single_cert(self.chain(), self.private()).unwrap()
    }

    /// For clients of the same CA alone; what one shows is written into `directory`.
    fn mutual_config(&self, directory: &Path) -> ServerConfig {
        for (name, days) in [("us", 30), ("next", 90), ("old", -1)] {
            let (certificate, key) = leaf_for(&self.issuer, "us.test", Some(days));
            std::fs::write(directory.join(format!("{name}.pem")), certificate).unwrap();
            std::fs::write(directory.join(format!("{name}.key")), key).unwrap();
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        server()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(self.chain(), self.private())
            .unwrap()
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()]
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// Certificate and key, as PEM.
fn leaf(issuer: &Issuer<'static, KeyPair>, name: &str) -> (String, String) {
    leaf_for(issuer, name, None)
}

/// The same, that ends in so many days from now, where that is said.
fn leaf_for(issuer: &Issuer<'static, KeyPair>, name: &str, days: Option<i64>) -> (String, String) {
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    if let Some(days) = days {
        let now = std::time::SystemTime::now();
        let day = std::time::Duration::from_hours(24);
        leaf.not_before = (now - day * 10).into();
        leaf.not_after = match u32::try_from(days) {
            Ok(days) => now + day * days,
            Err(_) => now - day * u32::try_from(-days).unwrap(),
        }
        .into();
    }
    leaf.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
    leaf.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().unwrap();
    (leaf.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

fn server() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap()
}

/// The same as files, for a server that is no [`Origin`]: `ca.pem`, `cert.pem`, `key.pem`.
pub fn identity_files(host: &str, directory: &Path) {
    let Identity { ca, certificate, key, .. } = Identity::new(host);
    for (name, text) in [("ca", ca), ("cert", certificate), ("key", key)] {
        std::fs::write(directory.join(format!("{name}.pem")), text).unwrap();
    }
}
