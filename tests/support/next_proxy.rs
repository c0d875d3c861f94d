//! A proxy such as companies have before the internet: it takes CONNECT, wants a password if told
//! so, and leads each host to an address of the test's choice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::origin::Identity;
use super::runtime;

/// The proxy. Lives on the harness's runtime, and stops accepting when dropped.
pub struct NextProxy {
    pub address: SocketAddr,
    state: Arc<State>,
    directory: TempDir,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// `host:port` to where that really is.
    ways: Mutex<HashMap<String, SocketAddr>>,
    /// The value of `Proxy-Authorization` that is taken.
    wanted: Mutex<Option<String>>,
    /// What is answered in place of a tunnel; empty for nothing at all.
    answer: Mutex<Option<String>>,
    heads: Mutex<Vec<String>>,
    connections: Mutex<usize>,
}

impl NextProxy {
    /// Spoken to in the clear.
    pub fn clear() -> Self {
        Self::listen(None)
    }

    /// Spoken to over TLS, under this name.
    pub fn tls(name: &str) -> Self {
        Self::listen(Some(name))
    }

    fn listen(name: Option<&str>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let directory = tempfile::Builder::new().prefix("locum-next-").tempdir().unwrap();
        let tls = name.map(|name| {
            let identity = Identity::new(name);
            std::fs::write(directory.path().join("ca.pem"), &identity.ca).unwrap();
            TlsAcceptor::from(Arc::new(identity.server_config()))
        });
        let state = Arc::new(State::default());
        let accepting = runtime().spawn(accept(listener, tls, Arc::clone(&state)));
        Self { address, state, directory, accepting }
    }

    /// Leads `host:port` to `address`.
    pub fn lead(&self, host: &str, address: SocketAddr) {
        self.state.ways.lock().insert(host.to_owned(), address);
    }

    /// Wants this value of `Proxy-Authorization` from now on.
    pub fn want(&self, authorization: &str) {
        *self.state.wanted.lock() = Some(authorization.to_owned());
    }

    /// Answers every CONNECT so from now on; with nothing, it only listens.
    pub fn answer(&self, text: &str) {
        *self.state.answer.lock() = Some(text.to_owned());
    }

    /// The head of every CONNECT so far.
    pub fn heads(&self) -> Vec<String> {
        self.state.heads.lock().clone()
    }

    pub fn connections(&self) -> usize {
        *self.state.connections.lock()
    }

    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}

impl Drop for NextProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: std::net::TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        *state.connections.lock() += 1;
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve(stream, &state).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, &state).await;
                    }
                }
            }
        });
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    state.heads.lock().push(head.clone());
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let authorization = head.lines().find_map(|l| l.strip_prefix("Proxy-Authorization: "));
    let wanted = state.wanted.lock().clone();
    let canned = state.answer.lock().clone();
    let way = state.ways.lock().get(&target).copied();
    let text = match (canned, wanted, way) {
        (Some(canned), ..) => canned,
        (_, Some(wanted), _) if authorization != Some(&*wanted) => {
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 2\r\n\r\nno".to_owned()
        }
        (.., None) => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(),
        (.., Some(way)) => {
            let mut far = TcpStream::connect(way).await.unwrap();
            let _ = far.set_nodelay(true);
            let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 corp\r\n\r\n").await;
            let _ = stream.flush().await;
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
            return;
        }
    };
    if text.is_empty() {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        return;
    }
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}
