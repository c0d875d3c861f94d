//! Whom the upstream trusts: root certificates, client certificates, and what a failed handshake
//! means in the closed list of codes.
//!
//! There is no switch that turns verification off. A host with a private CA is told its `ca_file`,
//! and then that CA is the only one believed for it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::identity::{IdentityError, OneHandshake};
use crate::host::{Authority, Host};
use crate::outcome::{Code, Refusal};
use crate::secret::Secret;

/// What HTTP/1.1 and HTTP/2 are called in ALPN (RFC 7301).
const ALPN_HTTP1: &[u8] = b"http/1.1";
const ALPN_HTTP2: &[u8] = b"h2";

/// Which versions of HTTP are offered to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// HTTP/2, and HTTP/1.1 for who does not have it.
    Both,
    /// HTTP/1.1 alone.
    Http1,
}

/// What TLS takes before the origin has: six records, written to the socket together.
const UNSENT: usize = 96 * 1024;

/// Principals whose sessions are kept in one profile. One that is forgotten makes a full handshake.
const PRINCIPALS: usize = 256;

/// What rustls is asked to keep for each principal: eight tickets for each of sixteen servers. A
/// principal is an agent with certain credentials, and those go to a handful of hosts. A ticket is
/// some hundred bytes, so that all of a full profile is about 10 MiB.
const SESSIONS: usize = 16 * 8;

/// A client's certificate for mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// PEM: the certificate, then its intermediates.
    pub chain_file: PathBuf,
    /// PEM: the private key, as PKCS #8, PKCS #1 or SEC 1.
    pub key_file: PathBuf,
}

/// Why a TLS profile cannot be made. Each names the file; none shows what is in it.
#[derive(Debug)]
pub enum TrustError {
    /// The file cannot be read.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not PEM, or has nothing of the kind in it.
    NothingInside {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// No certificate of the `ca_file` can stand as a root.
    UnusableRoot {
        /// Which.
        path: PathBuf,
    },
    /// A certificate revocation list cannot be read.
    UnusableList {
        /// The `crl_file`.
        path: PathBuf,
    },
    /// The client certificate and its key cannot be used together.
    ClientCertificate {
        /// The key's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// rustls refuses the set-up.
    Setup(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, .. } => write!(f, "{} cannot be read", path.display()),
            Self::NothingInside { path, wanted } => {
                write!(f, "{} holds no {wanted} in PEM form", path.display())
            }
            Self::UnusableRoot { path } => write!(
                f,
                "{} holds no usable CA certificate; give the CA's, not the server's",
                path.display()
            ),
            Self::UnusableList { path } => {
                write!(
                    f,
                    "{} holds a certificate revocation list that cannot be read",
                    path.display()
                )
            }
            Self::ClientCertificate { path, .. } => {
                write!(f, "the client certificate does not fit its key {}", path.display())
            }
            Self::Setup(_) => f.write_str("TLS cannot be set up"),
        }
    }
}

impl std::error::Error for TrustError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::ClientCertificate { source, .. } => Some(source),
            Self::Setup(source) => Some(&**source),
            Self::NothingInside { .. } | Self::UnusableRoot { .. } | Self::UnusableList { .. } => {
                None
            }
        }
    }
}

/// Where the roots came from: for the log and `doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootSummary {
    /// How many root certificates are trusted.
    pub count: usize,
    /// Whether they are the built-in copy of Mozilla's list, because the system has none.
    pub built_in: bool,
    /// What went wrong with the system's, such as an unreadable file; the others are used.
    pub problems: Vec<String>,
}

/// The roots for hosts without a `ca_file`, shared by their profiles.
pub(super) struct Roots {
    store: Arc<RootCertStore>,
    verifier: Arc<WebPkiServerVerifier>,
    pub(super) summary: RootSummary,
}

impl Roots {
    /// The system's roots, or Mozilla's built-in list where the system has none (a bare container).
    pub(super) fn system() -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (_, unusable) = store.add_parsable_certificates(found.certs);
        let mut problems: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        if unusable > 0 {
            problems.push(format!("{unusable} certificates cannot be used as roots"));
        }
        let built_in = store.is_empty();
        if built_in {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let summary = RootSummary { count: store.len(), built_in, problems };
        let store = Arc::new(store);
        Ok(Self { verifier: verifier(Arc::clone(&store), None)?, store, summary })
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(crate::ciphers::provider())
}

/// With `crl_file`, a certificate that no list of its issuer speaks of, or only one that has run out,
/// is refused like a revoked one: an operator who names a list means it.
fn verifier(
    store: Arc<RootCertStore>,
    crl_file: Option<&Path>,
) -> Result<Arc<WebPkiServerVerifier>, TrustError> {
    let mut builder = WebPkiServerVerifier::builder_with_provider(store, provider());
    if let Some(path) = crl_file {
        // Of the host's own certificate, and not of those above it: few CAs give lists of these.
        builder = builder
            .with_crls(read_lists(path)?)
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration();
    }
    builder.build().map_err(|error| match crl_file {
        Some(path) => TrustError::UnusableList { path: path.into() },
        None => TrustError::Setup(Box::new(error)),
    })
}

/// One way of speaking TLS: roots, client certificate, protocols, and the sessions that may be
/// resumed. Connections of different profiles are never mixed.
///
/// Sessions are kept apart for each principal, as connections are. Some servers know a caller again
/// by its TLS session (servlet containers can keep their HTTP session by it), and one agent must not
/// be taken for another.
#[derive(Clone)]
pub(super) struct TlsProfile {
    config: Arc<ClientConfig>,
    /// The same config for each principal, with sessions of its own.
    connectors: Arc<Mutex<HashMap<Arc<str>, Connectors>>>,
}

/// The two ways of one principal.
#[derive(Clone)]
struct Connectors {
    both: TlsConnector,
    /// The same in all but ALPN, with the same sessions.
    http1: TlsConnector,
}

impl TlsProfile {
    /// The profile for a host: with `ca_file`, the CAs in that file and no others, because an
    /// operator who names the CA of an internal host does not want the public ones to vouch for it.
    pub(super) fn new(
        roots: &Roots,
        ca_file: Option<&Path>,
        crl_file: Option<&Path>,
        client: Option<&ClientCertificate>,
    ) -> Result<Self, TrustError> {
        let verifier = match (ca_file, crl_file) {
            (Some(path), _) => verifier(Arc::new(read_roots(path)?), crl_file)?,
            (None, Some(_)) => verifier(Arc::clone(&roots.store), crl_file)?,
            (None, None) => roots.verifier.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| TrustError::Setup(Box::new(e)))?
            .with_webpki_verifier(verifier);
        let mut config = match client {
            Some(client) => {
                let chain = read_certificates(&client.chain_file)?;
                let key = PrivateKeyDer::from_pem_file(&client.key_file)
                    .map_err(|e| pem_error(&client.key_file, "private key", e))?;
                builder.with_client_auth_cert(chain, key).map_err(|source| {
                    TrustError::ClientCertificate { path: client.key_file.clone(), source }
                })?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        Ok(Self { config: Arc::new(config), connectors: Arc::default() })
    }

    /// The same trust, for a proxy on the way, with sessions of its own.
    pub(super) fn for_proxy(&self) -> Self {
        Self { config: Arc::clone(&self.config), connectors: Arc::default() }
    }

    fn connector(&self, principal: &Arc<str>, offer: Offer) -> TlsConnector {
        let mut all = self.connectors.lock();
        if all.len() >= PRINCIPALS && !all.contains_key(principal) {
            // Whichever comes first. Which one goes is no matter: it is a handshake.
            let gone = all.keys().next().cloned();
            gone.and_then(|gone| all.remove(&gone));
        }
        let connectors =
            all.entry(Arc::clone(principal)).or_insert_with(|| Connectors::new(&self.config));
        match offer {
            Offer::Both => connectors.both.clone(),
            Offer::Http1 => connectors.http1.clone(),
        }
    }

    /// Shakes hands and verifies that the peer is `target`.
    pub(super) async fn connect<S>(
        &self,
        target: &Authority,
        principal: &Arc<str>,
        (stream, certificate): (S, Option<&Secret>),
        offer: Offer,
    ) -> Result<TlsStream<S>, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = server_name(&target.host).ok_or_else(|| {
            Refusal::with_detail(
                Code::CertificateInvalid,
                format!("no certificate can be for {}", target.host),
            )
        })?;
        let mut connector = self.connector(principal, offer);
        let shown = certificate.map(OneHandshake::of).transpose().map_err(unusable)?;
        if let Some(shown) = &shown {
            let mut config = ClientConfig::clone(connector.config());
            config.client_auth_cert_resolver = Arc::<OneHandshake>::clone(shown);
            connector = TlsConnector::from(Arc::new(config));
        }
        let connected = connector.connect(name, stream).await;
        if let Some(shown) = shown {
            shown.forget();
        }
        let mut stream = connected.map_err(|error| handshake_refusal(target, &error))?;
        stream.get_mut().1.set_buffer_limit(Some(UNSENT));
        Ok(stream)
    }
}

impl Connectors {
    fn new(config: &ClientConfig) -> Self {
        let mut config = config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let http1 = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols.insert(0, ALPN_HTTP2.to_vec());
        Self { both: TlsConnector::from(Arc::new(config)), http1 }
    }
}

/// Whether the handshake agreed on HTTP/2.
pub(super) fn agreed_on_http2<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2)
}

fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host {
        Host::Name(name) => ServerName::try_from(name.to_string()).ok(),
        Host::Address(ip) => Some(ServerName::IpAddress((*ip).into())),
    }
}

fn read_roots(path: &Path) -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(read_certificates(path)?);
    if store.is_empty() {
        return Err(TrustError::UnusableRoot { path: path.into() });
    }
    Ok(store)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let wanted = "certificate";
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| pem_error(path, wanted, e))?;
    if certificates.is_empty() {
        return Err(TrustError::NothingInside { path: path.into(), wanted });
    }
    Ok(certificates)
}

fn read_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TrustError> {
    let wanted = "certificate revocation list";
    let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| pem_error(path, wanted, e))?;
    if lists.is_empty() {
        return Err(TrustError::NothingInside { path: path.into(), wanted });
    }
    Ok(lists)
}

/// Keeps the reason of a file that cannot be read, and drops that of one that is not PEM: it quotes
/// the file, and the file may be a key.
fn pem_error(path: &Path, wanted: &'static str, error: pem::Error) -> TrustError {
    let path = path.into();
    match error {
        pem::Error::Io(source) => TrustError::Unreadable { path, source },
        _ => TrustError::NothingInside { path, wanted },
    }
}

fn unusable(why: IdentityError) -> Refusal {
    tracing::error!(%why, "a client certificate of the vault cannot be used");
    Refusal::new(Code::CredentialRefused)
        .because("what lies in the vault is no client certificate with its key")
}

/// Whether an origin did not take the client certificate that it was shown, or was shown none.
#[must_use]
pub fn refuses_certificate(refusal: &Refusal) -> bool {
    refusal.reason == Some(WANTS_ANOTHER)
}

fn handshake_refusal(target: &Authority, error: &io::Error) -> Refusal {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let (code, why) = match tls {
        Some(rustls::Error::InvalidCertificate(why)) => {
            (Code::CertificateInvalid, certificate_fault(why))
        }
        Some(rustls::Error::NoCertificatesPresented) => {
            (Code::CertificateInvalid, "it sent no certificate")
        }
        Some(why) => (Code::TlsFailed, tls_fault(why)),
        None => (Code::TlsFailed, "it closed the connection in the handshake"),
    };
    let what = match code {
        Code::CertificateInvalid => "the certificate of",
        _ => "TLS with",
    };
    Refusal::with_detail(code, format!("{what} {target} was refused: {why}")).because(why)
}

/// A server of TLS 1.3 judges our certificate when the handshake is over for us, and its alert comes
/// in the place of an answer.
pub(super) fn late_refusal(target: &Authority, error: &io::Error) -> Option<Refusal> {
    let why = tls_fault(tls_alert(error)?);
    let detail = format!("TLS with {target} was refused: {why}");
    Some(Refusal::with_detail(Code::TlsFailed, detail).because(why))
}

/// Whether that is what the alert is about: another connection would hear the same.
pub(super) fn refuses_our_certificate(error: &io::Error) -> bool {
    tls_alert(error).is_some_and(|alert| tls_fault(alert) == WANTS_ANOTHER)
}

fn tls_alert(error: &io::Error) -> Option<&rustls::Error> {
    let alert = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(alert, rustls::Error::AlertReceived(_)).then_some(alert)
}

const WANTS_ANOTHER: &str = "it wants another client certificate; see upstream.hosts.HOST.client_cert, or --kind client-certificate";

/// The fault in words. The certificate's own texts are the other side's, and stay out.
fn certificate_fault(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name"
        }
        CertificateError::UnknownIssuer => "its issuer is not trusted, or a chain is incomplete",
        CertificateError::Revoked => "it is revoked",
        CertificateError::UnknownRevocationStatus => {
            "no list in upstream.hosts.HOST.crl_file is of its issuer"
        }
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "the list in upstream.hosts.HOST.crl_file has run out; put the new one there"
        }
        CertificateError::BadSignature => "its signature is wrong",
        CertificateError::BadEncoding => "it cannot be read",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not meant for servers"
        }
        CertificateError::UnhandledCriticalExtension => "it has an unknown critical extension",
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its signature algorithm is not accepted"
        }
        _ => "it does not verify",
    }
}

/// Whether the host was offered nothing that it speaks.
pub(super) fn speaks_other(refusal: &Refusal) -> bool {
    refusal.reason == Some(SPEAKS_OTHER)
}

const SPEAKS_OTHER: &str = "it speaks no protocol that is offered";

fn tls_fault(error: &rustls::Error) -> &'static str {
    use rustls::Error;
    match error {
        Error::InvalidMessage(_) => "it does not speak TLS at this port",
        Error::PeerIncompatible(_) => "it offers no version or cipher that is accepted",
        Error::NoApplicationProtocol
        | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => SPEAKS_OTHER,
        Error::AlertReceived(
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
        ) => "it accepts no version or cipher that is offered",
        Error::AlertReceived(AlertDescription::UnrecognisedName) => "it does not know this name",
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => WANTS_ANOTHER,
        Error::AlertReceived(_) => "it broke off the handshake with an alert",
        _ => "the handshake broke a rule of TLS",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_certificate_and_faults_of_tls_have_their_own_codes() {
        let target = Authority::parse("a.test:443", None).unwrap();
        let code = |error: rustls::Error| {
            handshake_refusal(&target, &io::Error::new(io::ErrorKind::InvalidData, error)).code
        };
        for fault in [
            CertificateError::Expired,
            CertificateError::UnknownIssuer,
            CertificateError::NotValidForName,
            CertificateError::Revoked,
            CertificateError::ApplicationVerificationFailure,
        ] {
            let fault = rustls::Error::InvalidCertificate(fault);
            assert_eq!(code(fault), Code::CertificateInvalid);
        }
        assert_eq!(
            code(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)),
            Code::TlsFailed
        );
        let closed = handshake_refusal(&target, &io::ErrorKind::UnexpectedEof.into());
        assert_eq!(closed.code, Code::TlsFailed);
    }

    #[test]
    fn a_file_that_is_not_pem_is_named_but_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, "-----BEGIN sk-canary").unwrap();
        let error = read_certificates(&path).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("key.pem") && !shown.contains("canary"), "{shown}");
    }
}
