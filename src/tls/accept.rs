//! The handshake that ends an intercepted tunnel, and what a client says when it does not like our
//! certificate.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use rustls::server::Acceptor;
use rustls::{AlertDescription, NamedGroup, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Alpn, LeafCache, LeafConfigs, TlsError, Wire};
use crate::host::Host;

/// What TLS takes before the client has: six records, written to the socket together.
const UNSENT: usize = 96 * 1024;

/// A tunnel whose TLS ends here.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The client's bytes in the clear.
    pub stream: TlsStream<S>,
    /// Whether the client named the host that it connected to.
    pub sni: SniMatch,
    /// The protocol agreed on; none when the client offered none, which means HTTP/1.1.
    pub alpn: Option<Alpn>,
}

/// The name in the `ClientHello` (RFC 6066 section 3) against the host of the CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SniMatch {
    /// No name: usual for addresses, and the client's right otherwise.
    Absent,
    /// The same host.
    Same,
    /// Another host, or a name with no single meaning, as it was sent. Every request in this tunnel
    /// is to be refused with 421: it may be domain fronting.
    Other(String),
}

impl SniMatch {
    fn of(name: Option<&str>, host: &Host) -> Self {
        match name {
            None => Self::Absent,
            Some(name) if Host::parse(name).as_ref() == Ok(host) => Self::Same,
            Some(name) => Self::Other(name.to_owned()),
        }
    }
}

/// The alerts by which clients say that they do not accept our certificate (RFC 8446 section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CaAlert {
    /// 42. Go, and whoever says no more than that it is bad.
    BadCertificate,
    /// 43.
    UnsupportedCertificate,
    /// 44.
    CertificateRevoked,
    /// 45. The client's clock is ahead by days, or it kept an old CA.
    CertificateExpired,
    /// 46. Java, Chromium.
    CertificateUnknown,
    /// 48. OpenSSL, rustls, `GnuTLS`: the CA is not among the client's roots.
    UnknownCa,
}

impl CaAlert {
    /// The alert's name in RFC 8446, for logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadCertificate => "bad_certificate",
            Self::UnsupportedCertificate => "unsupported_certificate",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateUnknown => "certificate_unknown",
            Self::UnknownCa => "unknown_ca",
        }
    }

    fn of(alert: AlertDescription) -> Option<Self> {
        Some(match alert {
            AlertDescription::BadCertificate => Self::BadCertificate,
            AlertDescription::UnsupportedCertificate => Self::UnsupportedCertificate,
            AlertDescription::CertificateRevoked => Self::CertificateRevoked,
            AlertDescription::CertificateExpired => Self::CertificateExpired,
            AlertDescription::CertificateUnknown => Self::CertificateUnknown,
            AlertDescription::UnknownCA => Self::UnknownCa,
            _ => return None,
        })
    }
}

impl fmt::Display for CaAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why there is no TLS with the client. Only [`AcceptError::Certificate`] is ours to mend.
#[derive(Clone, Debug, PartialEq)]
pub enum AcceptError {
    /// The handshake took longer than the limit.
    Timeout,
    /// The bytes are no `ClientHello`.
    NotTls,
    /// The client does not accept our certificate: most likely it does not trust the CA.
    CaNotTrusted {
        /// What it said.
        alert: CaAlert,
    },
    /// The client ended the handshake for another reason.
    Client {
        /// What it said.
        alert: AlertDescription,
    },
    /// The client closed, or the connection broke, before it had sent a whole `ClientHello`.
    Closed,
    /// The client closed without a word when it had been sent our certificate. So does Node
    /// (`UNABLE_TO_VERIFY_LEAF_SIGNATURE`) when it does not trust the CA; a client that is stopped
    /// just then does too, so once is a hint, and a row of them is a client without the CA.
    ClosedOnCertificate,
    /// The client offers protocols in ALPN, and none that we speak.
    NoCommonProtocol,
    /// The client broke the protocol, or shares no version, group or suite with us.
    Protocol(rustls::Error),
    /// There is no certificate to show.
    Certificate(TlsError),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the client did not complete the TLS handshake in time"),
            Self::NotTls => f.write_str("the client does not speak TLS in the tunnel"),
            Self::CaNotTrusted { alert } => {
                write!(f, "the client does not trust the CA of this proxy ({alert})")
            }
            Self::Client { alert } => write!(f, "the client ended the TLS handshake ({alert:?})"),
            Self::Closed => f.write_str("the client closed before it began the TLS handshake"),
            Self::ClosedOnCertificate => f.write_str(
                "the client closed when it saw the certificate; \
                 it may not trust the CA of this proxy",
            ),
            Self::NoCommonProtocol => {
                f.write_str("the client offers no application protocol that the proxy speaks")
            }
            Self::Protocol(_) => f.write_str("TLS with the client failed"),
            Self::Certificate(_) => f.write_str("there is no certificate to show to the client"),
        }
    }
}

impl Error for AcceptError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Protocol(error) => Some(error),
            Self::Certificate(error) => Some(error),
            _ => None,
        }
    }
}

/// Ends the TLS of a tunnel to `host`, within `limit` in all, with a leaf for `host` whatever name
/// the `ClientHello` has. Look at the first byte before ([`first_byte`](super::first_byte())): a
/// stream that turns out not to be TLS is not given back here. `wire` is where the client's bytes pass.
///
/// # Errors
/// [`AcceptError`]. The client has been sent the fitting alert where the protocol has one.
pub async fn accept<S>(
    (stream, wire): (S, Wire),
    host: &Host,
    cache: &LeafCache,
    limit: Duration,
) -> Result<Accepted<S>, AcceptError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Before the ClientHello is read, so that a new leaf is signed while it is on its way.
    let configs = cache.server_config(host, SystemTime::now()).map_err(AcceptError::Certificate)?;
    tokio::time::timeout(limit, handshake((stream, wire), host, configs))
        .await
        .unwrap_or(Err(AcceptError::Timeout))
}

async fn handshake<S>(
    (stream, wire): (S, Wire),
    host: &Host,
    configs: LeafConfigs,
) -> Result<Accepted<S>, AcceptError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream)
        .await
        .map_err(|error| before_hello(&error))?;
    let said = hello.client_hello();
    let sni = SniMatch::of(said.server_name(), host);
    let config = choose(configs, wire, said.named_groups());
    let mut stream = hello.into_stream(config).await.map_err(|error| after_hello(&error))?;
    stream.get_mut().1.set_buffer_limit(Some(UNSENT));
    let alpn = stream.get_ref().1.alpn_protocol().and_then(Alpn::from_wire);
    Ok(Accepted { stream, sni, alpn })
}

/// The hybrid exchange where it is of use, and where a client has nothing else.
fn choose(configs: LeafConfigs, wire: Wire, groups: Option<&[NamedGroup]>) -> Arc<ServerConfig> {
    let has_x25519 = groups.is_some_and(|groups| groups.contains(&NamedGroup::X25519));
    if wire == Wire::Local && has_x25519 { configs.nearby } else { configs.any }
}

/// Before there was a `ClientHello`, what cannot be read as one is not TLS.
fn before_hello(error: &io::Error) -> AcceptError {
    use rustls::Error as Tls;
    match tls_error(error) {
        Some(Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. }) => AcceptError::NotTls,
        Some(error) => by_cause(error),
        None => AcceptError::Closed,
    }
}

fn after_hello(error: &io::Error) -> AcceptError {
    tls_error(error).map_or(AcceptError::ClosedOnCertificate, by_cause)
}

fn by_cause(error: &rustls::Error) -> AcceptError {
    match error {
        rustls::Error::AlertReceived(alert) => by_alert(*alert),
        rustls::Error::NoApplicationProtocol => AcceptError::NoCommonProtocol,
        other => AcceptError::Protocol(other.clone()),
    }
}

fn by_alert(alert: AlertDescription) -> AcceptError {
    match CaAlert::of(alert) {
        Some(alert) => AcceptError::CaNotTrusted { alert },
        None => AcceptError::Client { alert },
    }
}

/// The alert in the first read error after a handshake, if it says that the client does not accept
/// our certificate. Most clients say so before the handshake is over, and [`accept`] reports it; a
/// client that checks the certificate later says it here. Looks through the sources of `error`, so
/// that what an HTTP library made of the read error can be asked too.
///
/// Some clients say nothing at all: with TLS 1.2, Node completes the handshake and closes before
/// its first request, and wget (`GnuTLS`) does so with 1.3. That looks like a connection opened in
/// advance and not needed, and means the CA only when it is all that an agent ever does at a host.
#[must_use]
pub fn ca_alert(error: &(dyn Error + 'static)) -> Option<CaAlert> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::AlertReceived(alert)) = error.downcast_ref() {
            return CaAlert::of(*alert);
        }
        next = below(error);
    }
    None
}

/// An `io::Error` gives the source of the error in it as its own, and so skips that one.
fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use rustls::crypto::SupportedKxGroup;
    use rustls::pki_types::ServerName;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::tls::CertificateAuthority;
    use crate::tls::fixture::{client, host, server_name};

    const LIMIT: Duration = Duration::from_secs(10);

    /// On the real clock, as [`accept`] is.
    fn seconds() -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_secs()
    }

    fn authority() -> Arc<CertificateAuthority> {
        crate::tls::fixture::authority(seconds())
    }

    fn cache() -> LeafCache {
        LeafCache::new(authority(), 16, &[Alpn::Http11]).unwrap()
    }

    fn trusting(ca: &CertificateAuthority, versions: &[&'static SupportedProtocolVersion]) -> Peer {
        Peer(client(ca, seconds(), versions))
    }

    struct Peer(ClientConfig);

    type ClientStream = tokio_rustls::client::TlsStream<DuplexStream>;

    impl Peer {
        /// Connects to `tunnel` with `name` in the `ClientHello`, and checks the leaf for `name`.
        async fn meets(
            self,
            cache: &LeafCache,
            tunnel: &str,
            name: ServerName<'static>,
        ) -> (io::Result<ClientStream>, Result<Accepted<DuplexStream>, AcceptError>) {
            let (near, far) = duplex(64 * 1024);
            let tunnel = host(tunnel);
            tokio::join!(
                TlsConnector::from(Arc::new(self.0)).connect(name, near),
                accept((far, Wire::Local), &tunnel, cache, LIMIT)
            )
        }
    }

    #[tokio::test]
    async fn bytes_pass_both_ways() {
        let cache = cache();
        for version in [&TLS12, &TLS13] {
            let mut peer = trusting(cache.authority(), &[version]);
            peer.0.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let (client, server) = peer.meets(&cache, "a.test", server_name("a.test")).await;
            let (mut client, mut server) = (client.unwrap(), server.unwrap());
            assert_eq!(server.sni, SniMatch::Same);
            assert_eq!(server.alpn, Some(Alpn::Http11));
            client.write_all(b"ping").await.unwrap();
            let mut buf = [0; 4];
            server.stream.read_exact(&mut buf).await.unwrap();
            server.stream.write_all(b"pong").await.unwrap();
            client.read_exact(&mut buf).await.unwrap();
            assert_eq!(&buf, b"pong");
        }
    }

    #[tokio::test]
    async fn the_leaf_is_for_the_tunnel_whatever_name_the_client_sends() {
        let cache = cache();
        for (tunnel, name, sni) in [
            ("a.test", "a.test", SniMatch::Same),
            ("A.test.", "a.TEST", SniMatch::Same),
            ("127.0.0.1", "127.0.0.1", SniMatch::Absent),
            ("[::1]", "::1", SniMatch::Absent),
            ("a.test", "evil.test", SniMatch::Other("evil.test".into())),
            ("a.test", "b.a.test", SniMatch::Other("b.a.test".into())),
            ("127.0.0.1", "a.test", SniMatch::Other("a.test".into())),
        ] {
            let mut peer = trusting(cache.authority(), &[&TLS13]);
            peer.0.dangerous().set_certificate_verifier(Arc::new(danger::Anyone));
            let (client, server) = peer.meets(&cache, tunnel, server_name(name)).await;
            let (client, server) = (client.unwrap(), server.unwrap());
            assert_eq!(server.sni, sni, "{tunnel} {name}");
            let chain = client.get_ref().1.peer_certificates().unwrap();
            danger::assert_leaf_is_for(&chain[0], tunnel);
        }
        assert_eq!(cache.len(), 3, "none for a name of the client's");
    }

    #[tokio::test]
    async fn a_client_may_send_no_name() {
        let cache = cache();
        let mut peer = trusting(cache.authority(), &[&TLS13]);
        peer.0.enable_sni = false;
        let (_, server) = peer.meets(&cache, "a.test", server_name("a.test")).await;
        let server = server.unwrap();
        assert_eq!((server.sni, server.alpn), (SniMatch::Absent, None));
    }

    #[tokio::test]
    async fn a_client_that_does_not_trust_the_ca_is_recognised() {
        let (cache, other) = (cache(), authority());
        for version in [&TLS12, &TLS13] {
            let peer = trusting(&other, &[version]);
            let (client, server) = peer.meets(&cache, "a.test", server_name("a.test")).await;
            assert!(client.is_err());
            let alert = CaAlert::UnknownCa;
            assert_eq!(server.err(), Some(AcceptError::CaNotTrusted { alert }));
        }
    }

    #[tokio::test]
    async fn a_client_may_refuse_for_its_clock_or_for_its_name() {
        let cache = cache();
        let late = Peer(client(cache.authority(), seconds() + 30 * 86400, &[&TLS13]));
        let (_, server) = late.meets(&cache, "a.test", server_name("a.test")).await;
        let alert = CaAlert::CertificateExpired;
        assert_eq!(server.err(), Some(AcceptError::CaNotTrusted { alert }));
        // A fronting client that does check the name refuses our leaf by itself.
        let fronting = trusting(cache.authority(), &[&TLS13]);
        let (_, server) = fronting.meets(&cache, "a.test", server_name("b.test")).await;
        assert!(matches!(server.err(), Some(AcceptError::CaNotTrusted { .. })));
    }

    #[tokio::test]
    async fn the_hybrid_exchange_is_for_wires_and_for_who_has_nothing_else() {
        use HandshakeKind::Full;
        use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
        let (hybrid, x25519) = (NamedGroup::X25519MLKEM768, NamedGroup::X25519);
        for (wire, groups, agreed) in [
            (Wire::Network, &[X25519MLKEM768, X25519][..], (hybrid, Full)),
            (Wire::Local, &[X25519MLKEM768, X25519], (x25519, Full)),
            (Wire::Local, &[X25519MLKEM768, SECP256R1], (hybrid, Full)),
            (Wire::Local, &[X25519MLKEM768], (hybrid, Full)),
            (Wire::Local, &[SECP256R1], (NamedGroup::secp256r1, Full)),
        ] {
            assert_eq!(agree(wire, groups).await, agreed, "{wire:?} {groups:?}");
        }
    }

    /// What a client of `groups`, which sends a share for the first, agrees on.
    async fn agree(
        wire: Wire,
        groups: &[&'static dyn SupportedKxGroup],
    ) -> (NamedGroup, HandshakeKind) {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = groups.to_vec();
        let client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(danger::Anyone))
            .with_no_client_auth();
        let (near, far) = duplex(64 * 1024);
        let (cache, tunnel) = (cache(), host("a.test"));
        let (client, server) = tokio::join!(
            TlsConnector::from(Arc::new(client)).connect(server_name("a.test"), near),
            accept((far, wire), &tunnel, &cache, LIMIT)
        );
        server.unwrap();
        let client = client.unwrap();
        let agreed = client.get_ref().1;
        let group = agreed.negotiated_key_exchange_group().unwrap().name();
        (group, agreed.handshake_kind().unwrap())
    }

    #[test]
    fn the_alert_is_found_after_the_handshake_too() {
        use AlertDescription as A;
        for (alert, known) in [
            (A::BadCertificate, Some(CaAlert::BadCertificate)),
            (A::UnsupportedCertificate, Some(CaAlert::UnsupportedCertificate)),
            (A::CertificateRevoked, Some(CaAlert::CertificateRevoked)),
            (A::CertificateExpired, Some(CaAlert::CertificateExpired)),
            (A::CertificateUnknown, Some(CaAlert::CertificateUnknown)),
            (A::UnknownCA, Some(CaAlert::UnknownCa)),
            (A::CloseNotify, None),
            (A::HandshakeFailure, None),
            (A::UserCanceled, None),
        ] {
            let error = io::Error::other(rustls::Error::AlertReceived(alert));
            assert_eq!(ca_alert(&error), known);
            assert_eq!(ca_alert(&io::Error::other(Wrapped(error))), known);
        }
        assert_eq!(ca_alert(&io::Error::from(io::ErrorKind::BrokenPipe)), None);
        assert_eq!(CaAlert::UnknownCa.to_string(), "unknown_ca");
    }

    /// As an HTTP library wraps a read error.
    #[derive(Debug)]
    struct Wrapped(io::Error);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("connection error")
        }
    }

    impl Error for Wrapped {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    /// What becomes of a client that sends `bytes` and closes.
    async fn sends(bytes: &[u8]) -> (AcceptError, Vec<u8>) {
        let (mut client, server) = duplex(64 * 1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let error = accept((server, Wire::Local), &host("a.test"), &cache(), LIMIT).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        (error.err().unwrap(), answer)
    }

    #[tokio::test]
    async fn what_is_no_client_hello_is_told_from_a_client_that_left() {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..],
            b"SSH-2.0-OpenSSH_9.2\r\n",
            &[0xff; 300],
            // A handshake record that holds no ClientHello, then one of an impossible length.
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
            b"\x16\x03\x01\xff\xff\x01\x00\x00\x00",
        ] {
            let (error, answer) = sends(bytes).await;
            assert_eq!(error, AcceptError::NotTls, "{bytes:?}");
            assert_eq!(answer.first(), Some(&21), "an alert");
        }
        for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"] {
            assert_eq!(sends(bytes).await.0, AcceptError::Closed, "{bytes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_client_hello_times_out() {
        let cache = cache();
        for bytes in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
            let (mut client, server) = duplex(1024);
            client.write_all(bytes).await.unwrap();
            let begin = tokio::time::Instant::now();
            let error = accept((server, Wire::Local), &host("a.test"), &cache, LIMIT).await.err();
            assert_eq!(error, Some(AcceptError::Timeout));
            assert_eq!(begin.elapsed(), LIMIT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_after_its_hello_times_out() {
        let cache = cache();
        let (mut near, server) = duplex(64 * 1024);
        near.write_all(&hello(&cache, &TLS13)).await.unwrap();
        let error = accept((server, Wire::Local), &host("a.test"), &cache, LIMIT).await.err();
        assert_eq!(error, Some(AcceptError::Timeout));
    }

    #[tokio::test]
    async fn a_client_that_leaves_at_the_certificate_is_told_from_one_that_left_before() {
        let cache = cache();
        for version in [&TLS12, &TLS13] {
            let (mut near, server) = duplex(64 * 1024);
            near.write_all(&hello(&cache, version)).await.unwrap();
            near.shutdown().await.unwrap();
            let error = accept((server, Wire::Local), &host("a.test"), &cache, LIMIT).await.err();
            assert_eq!(error, Some(AcceptError::ClosedOnCertificate));
        }
    }

    fn hello(cache: &LeafCache, version: &'static SupportedProtocolVersion) -> Vec<u8> {
        let peer = Arc::new(trusting(cache.authority(), &[version]).0);
        let mut client = rustls::ClientConnection::new(peer, server_name("a.test")).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    #[tokio::test]
    async fn a_client_that_speaks_other_protocols_is_told() {
        let cache = cache();
        let mut peer = trusting(cache.authority(), &[&TLS13]);
        peer.0.alpn_protocols = vec![b"h2".to_vec()];
        let (client, server) = peer.meets(&cache, "a.test", server_name("a.test")).await;
        assert_eq!(server.err(), Some(AcceptError::NoCommonProtocol));
        assert!(client.unwrap_err().to_string().contains("NoApplicationProtocol"));
    }

    mod danger {
        //! A client that checks nothing, so that its handshake goes on with any name.

        use rustls::client::danger::{
            HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
        };
        use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
        use rustls::{DigitallySignedStruct, Error, SignatureScheme};
        use x509_parser::extensions::GeneralName;
        use x509_parser::prelude::{FromDer, X509Certificate};

        use crate::host::Host;

        #[derive(Debug)]
        pub(super) struct Anyone;

        impl ServerCertVerifier for Anyone {
            fn verify_server_cert(
                &self,
                _: &CertificateDer<'_>,
                _: &[CertificateDer<'_>],
                _: &ServerName<'_>,
                _: &[u8],
                _: UnixTime,
            ) -> Result<ServerCertVerified, Error> {
                Ok(ServerCertVerified::assertion())
            }

            fn verify_tls12_signature(
                &self,
                _: &[u8],
                _: &CertificateDer<'_>,
                _: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                Ok(HandshakeSignatureValid::assertion())
            }

            fn verify_tls13_signature(
                &self,
                _: &[u8],
                _: &CertificateDer<'_>,
                _: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                Ok(HandshakeSignatureValid::assertion())
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                vec![SignatureScheme::ECDSA_NISTP256_SHA256]
            }
        }

        pub(super) fn assert_leaf_is_for(leaf: &CertificateDer<'_>, tunnel: &str) {
            let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
            let names = leaf.subject_alternative_name().unwrap().unwrap().value;
            let [name] = &names.general_names[..] else {
                panic!("{names:?}");
            };
            let name = match *name {
                GeneralName::DNSName(name) => Host::parse(name).unwrap(),
                GeneralName::IPAddress(&[a, b, c, d]) => Host::Address([a, b, c, d].into()),
                GeneralName::IPAddress(bytes) => {
                    Host::Address(<[u8; 16]>::try_from(bytes).unwrap().into())
                }
                ref other => panic!("{other:?}"),
            };
            assert_eq!(name, Host::parse(tunnel).unwrap());
        }
    }
}
