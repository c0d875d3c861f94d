//! TLS towards the agents: the certificate authority of this machine, the leaf certificates that it
//! signs, and the handshake that ends an intercepted tunnel.
//!
//! What is decided here:
//! - The leaf is always for the host of the CONNECT, never for the one the client names in its
//!   `ClientHello`. A client that names another completes its handshake and is told 421 inside,
//!   because a failed handshake tells it nothing ([`SniMatch`]).
//! - Whoever connects has named itself in the CONNECT already, so no certificate is asked of it.
//! - Upstream TLS is none of this module's business: it verifies, this one is verified.

mod accept;
mod ca;
mod clients;
mod first_byte;
mod leaf;
mod listener;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rustls::NamedGroup;
use rustls::crypto::CryptoProvider;

pub use accept::{AcceptError, Accepted, CaAlert, SniMatch, accept, ca_alert};
pub use ca::{CaInfo, CaMaterial, CertificateAuthority};
pub use clients::{
    ClientAuthority, ClientIssued, MAX_TTL as MAX_CLIENT_TTL, request as client_request,
    revocation_lists,
};
pub use first_byte::{FirstByte, Prefixed, first_byte};
pub use leaf::{LeafCache, LeafConfigs};
pub use listener::{ListenerPem, ListenerStream, ListenerTls, client_certificate};

use crate::record::Peer;

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(crate::ciphers::provider()));

fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// The same without the post-quantum hybrid, for [`Wire::Local`].
fn nearby_provider() -> Arc<CryptoProvider> {
    static NEARBY: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = CryptoProvider::clone(&PROVIDER);
        provider.kx_groups.retain(|group| group.name() != NamedGroup::X25519MLKEM768);
        Arc::new(provider)
    });
    Arc::clone(&NEARBY)
}

/// Where the bytes of a client pass, and with that what a key exchange has to withstand.
///
/// The hybrid of X25519 and ML-KEM-768 is against whoever records what goes over a wire today and has a
/// quantum computer one day. Within a machine nobody can record who could not read the processes' memory
/// at once, and the hybrid is a tenth of what a new connection costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Loopback, or a Unix socket.
    Local,
    /// Anything else.
    Network,
}

impl Wire {
    /// That of a connection from `peer`.
    #[must_use]
    pub fn to(peer: Peer) -> Self {
        match peer {
            Peer::Unix(_) => Self::Local,
            Peer::Tcp(address) if address.ip().to_canonical().is_loopback() => Self::Local,
            Peer::Tcp(_) => Self::Network,
        }
    }
}

/// An application protocol that is negotiated in the handshake (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `h2` (RFC 9113).
    Http2,
    /// `http/1.1` (RFC 9112), of which `http/1.0` is an older form: `curl --http1.0` names no other,
    /// and would be turned away.
    Http11,
}

impl Alpn {
    /// The protocol's names on the wire, the better one first.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Http2 => &["h2"],
            Self::Http11 => &["http/1.1", "http/1.0"],
        }
    }

    fn from_wire(name: &[u8]) -> Option<Self> {
        let is = |alpn: &Self| alpn.names().iter().any(|own| own.as_bytes() == name);
        [Self::Http2, Self::Http11].into_iter().find(is)
    }

    fn wire_list(list: &[Self]) -> Vec<Vec<u8>> {
        list.iter().flat_map(|alpn| alpn.names()).map(|name| (*name).into()).collect()
    }
}

/// Why the certificate authority, a leaf or the listener's own certificate cannot be used. Names
/// the cause and the next step; never holds key material.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TlsError {
    /// The text holds no PEM certificate that can be read.
    CertificateUnreadable,
    /// The key cannot be read. For the CA: it is not an ECDSA P-256 key in PKCS#8.
    KeyUnreadable,
    /// Key and certificate are each fine and do not belong together.
    KeyMismatch,
    /// The certificate may not sign others: no `CA:TRUE`, or no `keyCertSign`.
    NotAnAuthority,
    /// The CA's validity begins in the future: this machine's clock is behind.
    NotYetValid {
        /// When it begins.
        not_before: SystemTime,
    },
    /// The CA's validity is over.
    Expired {
        /// When it ended.
        not_after: SystemTime,
    },
    /// The certificates that client certificates are checked against cannot be used.
    ClientAuthority,
    /// The list of revoked client certificates cannot be used.
    Revocations,
    /// A request for a client certificate cannot be read, or its key is not the asker's.
    RequestUnreadable,
    /// A certificate could not be built or signed.
    Signing(rcgen::Error),
    /// The TLS library refused the configuration or had no randomness.
    Library(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CertificateUnreadable => f.write_str("no certificate can be read from the PEM"),
            Self::KeyUnreadable => {
                f.write_str("the private key cannot be read, or is of a kind that is not supported")
            }
            Self::KeyMismatch => f.write_str("the private key does not belong to the certificate"),
            Self::NotAnAuthority => f.write_str(
                "the certificate is not a CA's (no CA:TRUE with keyCertSign); \
                 make one with `locum ca rotate`",
            ),
            Self::NotYetValid { not_before } => write!(
                f,
                "the CA is valid only from {}; set this machine's clock",
                Instant(*not_before)
            ),
            Self::Expired { not_after } => write!(
                f,
                "the CA expired at {}; run `locum ca rotate`, then start the agents again so that \
                 they read the new bundle",
                Instant(*not_after)
            ),
            Self::ClientAuthority => {
                f.write_str("the client CA file holds no certificate that can be used")
            }
            Self::Revocations => {
                f.write_str("the file holds no certificate revocation list that can be used")
            }
            Self::RequestUnreadable => f.write_str(
                "this is no certificate signing request (PKCS #10, PEM) that is signed by its own key",
            ),
            Self::Signing(_) => f.write_str("a certificate could not be built"),
            Self::Library(_) => f.write_str("the TLS library refused the configuration"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Signing(error) => Some(error),
            Self::Library(error) => Some(error),
            _ => None,
        }
    }
}

impl From<rcgen::Error> for TlsError {
    fn from(error: rcgen::Error) -> Self {
        Self::Signing(error)
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Library(error)
    }
}

/// A time in RFC 3339, for people.
struct Instant(SystemTime);

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::try_from(self.0) {
            Ok(time) => time.fmt(f),
            Err(_) => f.write_str("a time beyond year 9999"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_unix_sockets_are_within_the_machine() {
        for (address, wire) in [
            ("127.0.0.1:1", Wire::Local),
            ("127.8.0.1:1", Wire::Local),
            ("[::1]:1", Wire::Local),
            ("[::ffff:127.0.0.1]:1", Wire::Local),
            ("[::ffff:192.0.2.1]:1", Wire::Network),
            ("10.0.0.1:1", Wire::Network),
            ("[fe80::1]:1", Wire::Network),
        ] {
            assert_eq!(Wire::to(Peer::Tcp(address.parse().unwrap())), wire, "{address}");
        }
        assert_eq!(Wire::to(Peer::Unix(None)), Wire::Local);
    }
}

#[cfg(test)]
mod fixture {
    //! What the tests of this module share: a fixed time, a CA, and a handshake in memory.

    use std::io;
    use std::time::Duration;

    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;
    use crate::host::Host;

    /// 2026-11-14, in seconds.
    pub(super) const NOW: u64 = 1_794_614_400;

    pub(super) fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    pub(super) fn now() -> SystemTime {
        at(NOW)
    }

    pub(super) fn authority(seconds: u64) -> Arc<CertificateAuthority> {
        let made = CertificateAuthority::generate(at(seconds)).unwrap();
        let ca = CertificateAuthority::load(&made.certificate_pem, &made.key, at(seconds));
        Arc::new(ca.unwrap())
    }

    pub(super) fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    pub(super) fn server_name(text: &str) -> ServerName<'static> {
        ServerName::try_from(text.trim_matches(['[', ']']).to_owned()).unwrap()
    }

    /// A client whose clock stands at `seconds` and that trusts `ca` alone.
    pub(super) fn client(
        ca: &CertificateAuthority,
        seconds: u64,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for root in pem_certificates(ca.certificate_pem()) {
            roots.add(root).unwrap();
        }
        // In the library's own order, as clients have it: AES-256 first.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_details(provider, Arc::new(Clock(seconds)))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    pub(super) fn pem_certificates(pem: &str) -> Vec<CertificateDer<'static>> {
        use rustls::pki_types::pem::PemObject;
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    #[derive(Debug)]
    struct Clock(u64);

    impl rustls::time_provider::TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
        }
    }

    /// A whole handshake, and the tickets after it, without a socket.
    pub(super) fn shake(
        client: &Arc<ClientConfig>,
        name: &str,
        server: &Arc<ServerConfig>,
    ) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
        let mut client = ClientConnection::new(Arc::clone(client), server_name(name))?;
        let mut server = ServerConnection::new(Arc::clone(server))?;
        loop {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            let up = wire.len();
            server.read_tls(&mut io::Cursor::new(wire)).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            if up + wire.len() == 0 {
                return Ok((client, server));
            }
            let mut wire = &wire[..];
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets()?;
            }
        }
    }
}
