//! Origins on loopback: one script of raw HTTP for each connection, a log of what arrived, and
//! certificates of every kind.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SanType, date_time_ymd,
};
use rustls::crypto::SupportedKxGroup;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, NamedGroup, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What an origin does next on one connection.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Read a head, and a body as long as its `Content-Length`.
    Request,
    /// Read a head only.
    Head,
    /// Read on until the last chunk.
    Rest,
    /// Send these bytes.
    Send(&'static str),
    /// Wait for the other side to close.
    UntilClosed,
    /// Say nothing and read nothing, for ever.
    Hang,
    /// Wait until the test says so.
    Wait(Arc<tokio::sync::Notify>),
    /// End TLS properly, then close. Without it the connection is cut.
    Goodbye,
}

/// What arrived on one connection, decrypted.
pub(crate) type Log = Arc<Mutex<Vec<Vec<u8>>>>;

/// An origin that runs `script` on each connection in turn, and the last one again for any more.
pub(crate) struct Origin {
    pub address: SocketAddr,
    log: Log,
    /// How each TLS connection came to be.
    handshakes: Handshakes,
}

/// Full or resumed, and over which key exchange.
pub(crate) type Handshakes = Arc<Mutex<Vec<(HandshakeKind, Option<NamedGroup>)>>>;

impl Origin {
    pub(crate) async fn plain(scripts: Vec<Vec<Step>>) -> Self {
        Self::start(scripts, None).await
    }

    pub(crate) async fn tls(scripts: Vec<Vec<Step>>, config: ServerConfig) -> Self {
        Self::start(scripts, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start(scripts: Vec<Vec<Step>>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (log, handshakes) = (Log::default(), Handshakes::default());
        tokio::spawn(serve(listener, scripts, tls, log.clone(), handshakes.clone()));
        Self { address, log, handshakes }
    }

    /// What each connection received so far; a connection whose handshake failed received nothing.
    pub(crate) fn received(&self) -> Vec<String> {
        let log = self.log.lock();
        log.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    pub(crate) fn handshakes(&self) -> Vec<(HandshakeKind, Option<NamedGroup>)> {
        self.handshakes.lock().clone()
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.log.lock().len()
    }
}

async fn serve(
    listener: TcpListener,
    scripts: Vec<Vec<Step>>,
    tls: Option<TlsAcceptor>,
    log: Log,
    handshakes: Handshakes,
) {
    for number in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        log.lock().push(Vec::new());
        let script = scripts[number.min(scripts.len() - 1)].clone();
        let handshakes = handshakes.clone();
        tokio::spawn(accept(stream, script, tls.clone(), log.clone(), number, handshakes));
    }
}

async fn accept(
    stream: TcpStream,
    script: Vec<Step>,
    tls: Option<TlsAcceptor>,
    log: Log,
    number: usize,
    handshakes: Handshakes,
) {
    match tls {
        None => play(stream, script, &log, number).await,
        Some(_) if matches!(script[..], [Step::Hang]) => std::future::pending().await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                let session = stream.get_ref().1;
                let group = session.negotiated_key_exchange_group().map(SupportedKxGroup::name);
                handshakes.lock().push((session.handshake_kind().unwrap(), group));
                play(stream, script, &log, number).await;
            }
        }
    }
}

async fn play(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Vec<Step>,
    log: &Log,
    number: usize,
) {
    for step in script {
        match step {
            Step::Request => read_request(&mut stream, log, number, true).await,
            Step::Head => read_request(&mut stream, log, number, false).await,
            Step::Rest => {
                while !log.lock()[number].ends_with(b"0\r\n\r\n") {
                    if read_some(&mut stream, log, number).await == 0 {
                        return;
                    }
                }
            }
            Step::Send(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.flush().await;
            }
            Step::UntilClosed => while read_some(&mut stream, log, number).await > 0 {},
            Step::Hang => std::future::pending().await,
            Step::Wait(until) => until.notified().await,
            Step::Goodbye => {
                let _ = stream.shutdown().await;
            }
        }
    }
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin), log: &Log, number: usize) -> usize {
    let mut buffer = [0; 4096];
    let n = stream.read(&mut buffer).await.unwrap_or(0);
    log.lock()[number].extend_from_slice(&buffer[..n]);
    n
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), log: &Log, number: usize, body: bool) {
    let start = log.lock()[number].len();
    loop {
        if is_whole(&log.lock()[number][start..], body) {
            return;
        }
        if read_some(stream, log, number).await == 0 {
            return;
        }
    }
}

fn is_whole(bytes: &[u8], body: bool) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let Some((head, rest)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    if !body {
        return true;
    }
    if head.contains("transfer-encoding: chunked") {
        return rest.ends_with("0\r\n\r\n");
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |digits| digits.parse().unwrap());
    rest.len() >= length
}

/// A certificate authority of the test's own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    der: CertificateDer<'static>,
}

/// A certificate and its key.
pub(crate) struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
    pub pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Every one has a name of its own, as real ones do.
        let name = format!("CA {}", data_encoding::HEXLOWER.encode(&key.public_key_raw()[..8]));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn leaf(&self, name: &str) -> Leaf {
        self.sign(&params(name))
    }

    pub(crate) fn expired(&self, name: &str) -> Leaf {
        let mut params = params(name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
        self.sign(&params)
    }

    pub(crate) fn not_yet_valid(&self, name: &str) -> Leaf {
        let mut params = params(name);
        params.not_before = date_time_ymd(2999, 1, 1);
        params.not_after = date_time_ymd(2999, 2, 1);
        self.sign(&params)
    }

    pub(crate) fn for_clients_only(&self, name: &str) -> Leaf {
        let mut params = params(name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A certificate of this serial number, for [`Authority::revoke`].
    pub(crate) fn numbered(&self, name: &str, serial: u64) -> Leaf {
        let mut params = params(name);
        params.serial_number = Some(serial.into());
        self.sign(&params)
    }

    /// Signed by an authority below this one, which the chain leaves out.
    pub(crate) fn without_the_middle(&self, name: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut middle = CertificateParams::new(Vec::new()).unwrap();
        middle.distinguished_name.push(DnType::CommonName, "between");
        middle.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        middle.signed_by(&key, &self.issuer).unwrap();
        let own = KeyPair::generate().unwrap();
        let certificate = params(name).signed_by(&own, &Issuer::new(middle, key)).unwrap();
        Leaf { chain: vec![certificate.der().clone()], pem: certificate.pem(), key: own }
    }

    /// A list with these serial numbers on it, which is good until the year.
    pub(crate) fn revoke(&self, serials: &[u64], until: i32) -> String {
        let revoked_certs = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn sign(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
    }

    /// A server that asks for a client certificate of this authority.
    pub(crate) fn mutual(&self, leaf: &Leaf) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        server_builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(leaf.chain.clone(), leaf.private_key())
            .unwrap()
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).unwrap();
    }
}

impl Leaf {
    pub(crate) fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name).self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
    }

    pub(crate) fn server(&self) -> ServerConfig {
        server_builder()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.private_key())
            .unwrap()
    }

    /// A server of these versions of TLS and these key exchanges alone.
    pub(crate) fn server_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        groups: Vec<&'static dyn SupportedKxGroup>,
    ) -> ServerConfig {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let provider = rustls::crypto::CryptoProvider { kx_groups: groups, ..provider };
        ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.private_key())
            .unwrap()
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

fn server_builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
}
