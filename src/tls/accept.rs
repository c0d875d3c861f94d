//! The handshake that ends an intercepted tunnel, and what a client says when it does not like our
//! certificate.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use rustls::server::Acceptor;
use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Alpn, LeafCache, TlsError};
use crate::host::Host;

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
    /// The client closed, or the connection broke, in the handshake. Some clients that do not trust
    /// the CA say no more than this.
    Closed,
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
            Self::Closed => f.write_str("the client closed in the TLS handshake"),
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
/// the `ClientHello` has. Look at the first byte before ([`first_byte`](super::first_byte)): a
/// stream that turns out not to be TLS is not given back here.
///
/// # Errors
/// [`AcceptError`]. The client has been sent the fitting alert where the protocol has one.
pub async fn accept<S>(
    stream: S,
    host: &Host,
    cache: &LeafCache,
    limit: Duration,
) -> Result<Accepted<S>, AcceptError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Before the ClientHello is read, so that a new leaf is signed while it is on its way.
    let config = cache.server_config(host, SystemTime::now()).map_err(AcceptError::Certificate)?;
    tokio::time::timeout(limit, handshake(stream, host, config))
        .await
        .unwrap_or(Err(AcceptError::Timeout))
}

async fn handshake<S>(
    stream: S,
    host: &Host,
    config: Arc<ServerConfig>,
) -> Result<Accepted<S>, AcceptError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream)
        .await
        .map_err(|error| in_hello(&error))?;
    let sni = SniMatch::of(hello.client_hello().server_name(), host);
    let stream = hello.into_stream(config).await.map_err(|error| in_handshake(&error))?;
    let alpn = stream.get_ref().1.alpn_protocol().and_then(Alpn::from_wire);
    Ok(Accepted { stream, sni, alpn })
}

/// Before there was a `ClientHello`, what cannot be read as one is not TLS.
fn in_hello(error: &io::Error) -> AcceptError {
    match in_handshake(error) {
        AcceptError::Protocol(
            rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. },
        ) => AcceptError::NotTls,
        other => other,
    }
}

fn in_handshake(error: &io::Error) -> AcceptError {
    match tls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => by_alert(*alert),
        Some(rustls::Error::NoApplicationProtocol) => AcceptError::NoCommonProtocol,
        Some(other) => AcceptError::Protocol(other.clone()),
        None => AcceptError::Closed,
    }
}

fn by_alert(alert: AlertDescription) -> AcceptError {
    match CaAlert::of(alert) {
        Some(alert) => AcceptError::CaNotTrusted { alert },
        None if alert == AlertDescription::CloseNotify => AcceptError::Closed,
        None => AcceptError::Client { alert },
    }
}

/// The alert in the first read error after a handshake, if it says that the client does not accept
/// our certificate. Most clients say so before the handshake is over, and [`accept`] reports it; a
/// client that checks the certificate later says it here. Looks through the sources of `error`, so
/// that what an HTTP library made of the read error can be asked too.
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
