//! `proxy`: the doors of the agents, and what protects each.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Method;

/// `proxy`: where agents connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// `listen`, at least one. Default `127.0.0.1:3128`: the port that proxies have used since
    /// Squid, on loopback, because without TLS agent tokens cross the wire as they are.
    pub listen: Vec<Listen>,
    /// `allow_remote`: the explicit word for a listener beyond loopback without TLS, on a network
    /// that is trusted by other means (a pod, a VPN). Default `false`.
    pub allow_remote: bool,
    /// `authenticate`: how agents show who they are, in the order in which it is asked; the first to
    /// which something of its kind is shown decides. Default all that are configured: tokens and run
    /// tokens always are, the others in `identity`.
    pub authenticate: Vec<Method>,
}

/// One of `proxy.listen`: an address alone, or a mapping with `address`, `tls` and `mode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `address`.
    pub at: ListenAt,
    /// `tls`, its own or that of `proxy.tls`. Default none: on loopback there is no wire to protect.
    pub tls: Option<ListenerTls>,
}

/// Where a door is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAt {
    /// A TCP port.
    Tcp(SocketAddr),
    /// `unix:PATH`: a socket in the file system.
    Unix {
        /// Where.
        path: PathBuf,
        /// `mode` of the file. Default 0600: whoever can open it can guess tokens, and everybody
        /// else cannot even do that.
        mode: u32,
    },
}

/// `tls` of a listener, for `https://` proxy URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// `certificate`: PEM, the certificate and then its intermediates.
    pub certificate: PathBuf,
    /// `key`: PEM, the private key.
    pub key: PathBuf,
    /// `client_ca` and `client_auth`. Default none: no certificate is asked for.
    pub clients: Option<ClientCertificates>,
}

/// The client certificates that a listener asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// `client_ca`: PEM, the CAs whose certificates are believed.
    pub ca: PathBuf,
    /// `client_crl`: PEM, what these CAs have revoked. Default none.
    pub crl: Option<PathBuf>,
    /// `client_auth`: `required` or `optional`. Default required: a CA is named to keep strangers
    /// out. Optional is for the time in which agents get their certificates one by one.
    pub required: bool,
}

impl Proxy {
    /// Whether the same sockets do for both, whatever certificates they show.
    #[must_use]
    pub fn same_doors(&self, other: &Self) -> bool {
        let same = |(a, b): (&Listen, &Listen)| a.at == b.at && a.tls.is_some() == b.tls.is_some();
        self.listen.len() == other.listen.len() && self.listen.iter().zip(&other.listen).all(same)
    }
}

impl Listen {
    /// In the clear, on this address.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self { at: ListenAt::Tcp(address), tls: None }
    }

    /// The address and port; none for a Unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self.at {
            ListenAt::Tcp(address) => Some(address),
            ListenAt::Unix { .. } => None,
        }
    }
}

impl fmt::Display for ListenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Default for Proxy {
    fn default() -> Self {
        let listen = vec![Listen::plain(SocketAddr::from(([127, 0, 0, 1], 3128)))];
        let authenticate = vec![Method::Tokens, Method::RunTokens];
        Self { listen, allow_remote: false, authenticate }
    }
}
