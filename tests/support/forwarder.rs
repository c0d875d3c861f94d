//! A local port that leads into a tunnel of the proxy, for clients that know no proxies; and one that
//! also does the TLS, for clients that know no TLS either.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::{Agent, Serve, client_config, connect, runtime};

/// Every connection to `address` is carried to the far end. Stops accepting when dropped.
pub struct Forwarder {
    pub address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Leg {
    to: SocketAddr,
    /// The CONNECT that opens the tunnel, where `to` is a proxy.
    connect: Option<String>,
    /// The name in the handshake, and the CA to believe.
    tls: Option<(String, PathBuf)>,
}

impl Forwarder {
    /// Into tunnels to `authority`; what comes is carried as it is.
    pub fn tunnel(serve: &Serve, agent: &Agent, authority: &str) -> Self {
        let connect = Some(connect(authority, &agent.authorization()));
        Self::start(Leg { to: serve.proxy, connect, tls: None })
    }

    /// Into intercepted tunnels to `host`: what comes is carried within TLS that speaks HTTP/2.
    pub fn http2(serve: &Serve, agent: &Agent, host: &str) -> Self {
        let connect = Some(connect(&format!("{host}:443"), &agent.authorization()));
        let tls = Some((host.to_owned(), serve.ca()));
        Self::start(Leg { to: serve.proxy, connect, tls })
    }

    /// The same to a server without a proxy between.
    pub fn http2_to(server: SocketAddr, host: &str, ca: &Path) -> Self {
        Self::start(Leg { to: server, connect: None, tls: Some((host.to_owned(), ca.to_owned())) })
    }

    fn start(leg: Leg) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let accepting = runtime().spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                let leg = leg.clone();
                // A connection that fails is closed, and that is what the client sees.
                tokio::spawn(async move { leg.carry(near).await });
            }
        });
        Self { address, accepting }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Leg {
    async fn carry(&self, mut near: TcpStream) -> io::Result<()> {
        near.set_nodelay(true)?;
        let mut far = TcpStream::connect(self.to).await?;
        far.set_nodelay(true)?;
        if let Some(connect) = &self.connect {
            far.write_all(connect.as_bytes()).await?;
            accepted(&mut far).await?;
        }
        match &self.tls {
            None => both_ways(&mut near, &mut far).await,
            Some((name, ca)) => {
                let mut config = client_config(ca);
                config.alpn_protocols = vec![b"h2".to_vec()];
                let name = ServerName::try_from(name.clone()).map_err(io::Error::other)?;
                let mut far = TlsConnector::from(Arc::new(config)).connect(name, far).await?;
                assert_eq!(
                    far.get_ref().1.alpn_protocol(),
                    Some(&b"h2"[..]),
                    "the far end speaks HTTP/2"
                );
                both_ways(&mut near, &mut far).await
            }
        }
    }
}

async fn both_ways(
    near: &mut TcpStream,
    far: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<()> {
    copy_bidirectional(near, far).await.map(|_| ())
}

/// Reads the head of the answer to a CONNECT, and not a byte more.
async fn accepted(far: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(far.read_u8().await?);
    }
    let refused = || io::Error::other(String::from_utf8_lossy(&head).into_owned());
    if head.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(refused()) }
}
