//! TLS on the proxy's own listener, for `https://` proxy URLs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroize;

use super::clients::lists;
use super::{Alpn, TlsError, provider};
use crate::agent::certificate::{ClientCertificate, Standing, Vouch, canonical_serial};
use crate::secret::Secret;

/// An agent's connection to the proxy itself, in the clear.
pub type ListenerStream<S> = tokio_rustls::server::TlsStream<S>;

/// The TLS of a listener. It can be replaced while connections are open: they keep what they were
/// made with, and the next handshake takes the new one.
#[derive(Debug)]
pub struct ListenerTls {
    now: ArcSwap<Shown>,
    /// How often that was replaced, or is to be looked at anew for another reason.
    generation: AtomicU64,
}

/// What is shown, and who is believed.
#[derive(Debug)]
struct Shown {
    config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// What a listener's TLS is made of: PEM, as it stands in the files.
#[derive(Debug)]
pub struct ListenerPem {
    /// The chain, leaf first.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Secret,
    /// The CAs whose client certificates are asked for; without, none are.
    pub client_ca: Option<Vec<u8>>,
    /// What of those CAs is revoked; without, nobody asks.
    pub client_crl: Option<Vec<u8>>,
    /// Whether a client without a certificate is turned away.
    pub client_required: bool,
}

impl ListenerTls {
    /// A listener that shows this certificate.
    ///
    /// # Errors
    /// [`TlsError`]: unreadable, not a pair, or no usable client CA.
    pub fn new(pem: &ListenerPem) -> Result<Self, TlsError> {
        let now = ArcSwap::from_pointee(shown(pem)?);
        Ok(Self { now, generation: AtomicU64::new(0) })
    }

    /// Shows another certificate from the next handshake on.
    ///
    /// # Errors
    /// As [`ListenerTls::new`]; the present one then stays.
    pub fn replace(&self, pem: &ListenerPem) -> Result<(), TlsError> {
        self.now.store(Arc::new(shown(pem)?));
        self.look_again();
        Ok(())
    }

    /// Has the certificates of all open connections looked at anew: what vouches for them may have run out.
    pub fn look_again(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Ends the TLS of a connection, within `limit`.
    ///
    /// # Errors
    /// What the client did wrong, or that it took too long.
    pub async fn accept<S>(&self, stream: S, limit: Duration) -> io::Result<ListenerStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.now.load().config));
        tokio::time::timeout(limit, acceptor.accept(stream)).await.unwrap_or_else(|_| {
            let what = "the client did not complete the TLS handshake in time";
            Err(io::Error::new(io::ErrorKind::TimedOut, what))
        })
    }
}

impl Vouch for ListenerTls {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// By the CAs and the lists of now. The handshake has shown that the key is there.
    fn vouches(&self, chain: &[Box<[u8]>]) -> bool {
        let now = self.now.load();
        // A door that asks for no certificates any more lets in whoever came by one.
        let Some(clients) = &now.clients else { return true };
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(&**der)).collect();
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        clients.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
    }
}

/// What the client's certificate says, if it showed one. It has verified; one that cannot be read says
/// nothing all the same. `since` is the door's generation from before the handshake.
#[must_use]
pub fn client_certificate<S>(
    stream: &ListenerStream<S>,
    door: &Arc<ListenerTls>,
    since: u64,
) -> Option<ClientCertificate> {
    certificate_of(stream.get_ref().1, door, since)
}

fn certificate_of(
    tls: &ServerConnection,
    door: &Arc<ListenerTls>,
    since: u64,
) -> Option<ClientCertificate> {
    let chain = tls.peer_certificates()?;
    let mut certificate = read_certificate(chain.first()?)?;
    let chain = chain.iter().map(|one| one.as_ref().into()).collect();
    let door: Arc<dyn Vouch> = Arc::<ListenerTls>::clone(door);
    // A ticket says what verified when it was given; since then a certificate or a list may have run out.
    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    let standing =
        if resumed { Standing::unasked(door, chain) } else { Standing::new(door, chain, since) };
    certificate.standing = Some(Arc::new(standing));
    Some(certificate)
}

fn read_certificate(der: &[u8]) -> Option<ClientCertificate> {
    let (_, read) = X509Certificate::from_der(der).ok()?;
    let (mut dns, mut uris, mut emails) = (Vec::new(), Vec::new(), Vec::new());
    let names = read.subject_alternative_name().ok()?.map(|names| &names.value.general_names);
    for name in names.into_iter().flatten() {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).into()),
            GeneralName::URI(uri) => uris.push((*uri).into()),
            GeneralName::RFC822Name(name) => emails.push((*name).into()),
            _ => {}
        }
    }
    let common = read.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    Some(ClientCertificate {
        serial: canonical_serial(&HEXLOWER.encode(read.raw_serial())).into(),
        subject: read.subject().to_string().into(),
        issuer: read.issuer().as_raw().into(),
        common_names: common.map(Into::into).collect(),
        dns: dns.into(),
        uris: uris.into(),
        emails: emails.into(),
        not_after: read.validity().not_after.timestamp(),
        standing: None,
    })
}

/// HTTP/1.1 is offered only: a proxy's clients speak nothing else to it by default, and what they
/// tunnel is negotiated inside.
const ALPN: &[Alpn] = &[Alpn::Http11];

fn shown(pem: &ListenerPem) -> Result<Shown, TlsError> {
    let certified = certified_key(&pem.certificate, &pem.key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let clients = pem.client_ca.as_ref().map(|ca| client_verifier(ca, pem)).transpose()?;
    let builder = match &clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = Alpn::wire_list(ALPN);
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Shown { config: Arc::new(config), clients })
}

fn certified_key(certificate_pem: &[u8], key_pem: &Secret) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate_pem).ok_or(TlsError::CertificateUnreadable)?;
    let mut key =
        key_pem.expose(PrivateKeyDer::from_pem_slice).map_err(|_| TlsError::KeyUnreadable)?;
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key);
    key.zeroize();
    let certified = CertifiedKey::new(chain, signing.map_err(|_| TlsError::KeyUnreadable)?);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch),
        Err(_) => Err(TlsError::CertificateUnreadable),
    }
}

/// With lists, a certificate that none of its issuer speaks of, or only one that has run out, is turned
/// away like a revoked one.
fn client_verifier(ca: &[u8], pem: &ListenerPem) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(ca).ok_or(TlsError::ClientAuthority)? {
        roots.add(root).map_err(|_| TlsError::ClientAuthority)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let required = pem.client_required;
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    let Some(crl) = &pem.client_crl else {
        return builder.build().map_err(|_| TlsError::ClientAuthority);
    };
    // Of the client's own certificate, and not of those above it: few CAs give lists of these.
    let builder = builder.with_crls(lists(crl)?).only_check_end_entity_revocation();
    let built = builder.enforce_revocation_expiration().build();
    built.map_err(|_| TlsError::Revocations)
}

/// All certificates of the PEM; none when there is none, or one that cannot be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::ClientConfig;

    use super::*;
    use crate::tls::ca::generate_key;
    use crate::tls::fixture::{now, shake};
    use crate::tls::{CertificateAuthority, ClientAuthority};

    /// A certificate and its key; both PEM.
    fn pair() -> (String, Secret) {
        let made = CertificateAuthority::generate(now()).unwrap();
        (made.certificate_pem, pem(&made.key))
    }

    fn pem(key: &Secret) -> Secret {
        let encoded = key.expose(|der| data_encoding::BASE64.encode(der));
        let text = format!("-----BEGIN PRIVATE KEY-----\n{encoded}\n-----END PRIVATE KEY-----\n");
        Secret::new(text.into_bytes())
    }

    fn setup(certificate: &str, key: Secret, client_ca: Option<&str>) -> ListenerPem {
        ListenerPem {
            certificate: certificate.into(),
            key,
            client_ca: client_ca.map(Into::into),
            client_crl: None,
            client_required: true,
        }
    }

    fn error(certificate: &str, key: Secret, client_ca: Option<&str>) -> Option<TlsError> {
        ListenerTls::new(&setup(certificate, key, client_ca)).err()
    }

    #[test]
    fn a_pair_makes_a_listener_with_or_without_client_certificates() {
        let (certificate, key) = pair();
        assert_eq!(error(&certificate, key, None), None);
        let (certificate, key) = pair();
        assert_eq!(error(&certificate, key, Some(&certificate)), None);
        let (certificate, key) = pair();
        let config = shown(&setup(&certificate, key, None)).unwrap().config;
        assert_eq!(config.alpn_protocols, [b"http/1.1", b"http/1.0"]);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let stranger = || pem(&generate_key().unwrap());
        for (good, own_key, client_ca, why) in [
            (false, true, None, TlsError::CertificateUnreadable),
            (true, false, None, TlsError::KeyMismatch),
            (true, true, Some("x"), TlsError::ClientAuthority),
        ] {
            let (certificate, key) = pair();
            let certificate = if good { &*certificate } else { "" };
            let key = if own_key { key } else { stranger() };
            assert_eq!(error(certificate, key, client_ca), Some(why));
        }
        let (certificate, _) = pair();
        let nothing = Secret::new(Vec::new());
        assert_eq!(error(&certificate, nothing, None), Some(TlsError::KeyUnreadable));
    }

    /// A CA of clients: its certificate, and itself.
    fn clients(now: SystemTime) -> (String, ClientAuthority) {
        let made = ClientAuthority::generate(now).unwrap();
        let ca = ClientAuthority::load(&made.certificate_pem, &made.key, now).unwrap();
        (made.certificate_pem, ca)
    }

    /// A client that shows a certificate of this CA, and trusts a server with that one.
    fn client(server: &CertificateDer<'static>, ca: &ClientAuthority) -> Arc<ClientConfig> {
        let (now, agent) = (SystemTime::now(), "writer".parse().unwrap());
        let id = "spiffe://prod.example/agent/writer";
        let (key, request) = crate::tls::client_request().unwrap();
        let issued = ca.issue(&agent, id, (now, Duration::from_hours(1)), &request).unwrap();
        let key = key.expose(PrivateKeyDer::from_pem_slice).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(server.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let chain = certificates(issued.certificate_pem.as_bytes()).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap())
    }

    #[test]
    fn a_session_that_is_resumed_is_looked_at_by_the_door_of_now() {
        let now = SystemTime::now();
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::new(["proxy.test".to_owned()]).unwrap();
        let own = own.self_signed(&key).unwrap();
        let (ours, ca) = clients(now);
        let key = Secret::new(key.serialize_pem().into_bytes());
        let door = Arc::new(ListenerTls::new(&setup(&own.pem(), key, Some(&ours))).unwrap());
        let client = client(own.der(), &ca);
        let visit = || {
            let config = Arc::clone(&door.now.load().config);
            let (_, server) = shake(&client, "proxy.test", &config).unwrap();
            let certificate = certificate_of(&server, &door, door.generation()).unwrap();
            (server.handshake_kind().unwrap(), certificate.stands())
        };
        assert_eq!(visit(), (HandshakeKind::Full, true));
        assert_eq!(visit(), (HandshakeKind::Resumed, true));
        // The same tickets, and a door that would not let it in: as when its list has run out.
        let config = Arc::clone(&door.now.load().config);
        let (others, _) = clients(now);
        let pem = setup("", Secret::new(Vec::new()), None);
        let verifier = client_verifier(others.as_bytes(), &pem).unwrap();
        door.now.store(Arc::new(Shown { config, clients: Some(verifier) }));
        door.look_again();
        assert_eq!(visit(), (HandshakeKind::Resumed, false));
    }

    #[test]
    fn what_cannot_be_used_leaves_the_present_one() {
        let (certificate, key) = pair();
        let listener = ListenerTls::new(&setup(&certificate, key, None)).unwrap();
        let before = Arc::as_ptr(&listener.now.load());
        let bad = setup(&certificate, Secret::new(Vec::new()), None);
        assert_eq!(listener.replace(&bad), Err(TlsError::KeyUnreadable));
        assert_eq!(Arc::as_ptr(&listener.now.load()), before);
        let (certificate, key) = pair();
        assert_eq!(listener.replace(&setup(&certificate, key, None)), Ok(()));
        assert_ne!(Arc::as_ptr(&listener.now.load()), before);
    }
}
