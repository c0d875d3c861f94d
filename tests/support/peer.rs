//! An origin whose every byte the test itself puts on the wire, and the scene around it.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use tempfile::TempDir;

use super::origin::Identity;
use super::{Agent, BEARER, HOST, Home, PATIENCE, Serve, Wire, canary, eventually};

/// A port that nobody serves but the test.
pub struct Peer {
    pub host: String,
    pub address: SocketAddr,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    directory: TempDir,
}

impl Peer {
    /// With TLS, under a CA of its own.
    pub fn new(host: &str) -> Self {
        Self::speaking(host, &[])
    }

    /// The same, for frames of HTTP/2.
    pub fn http2(host: &str) -> Self {
        Self::speaking(host, &[b"h2"])
    }

    fn speaking(host: &str, protocols: &[&[u8]]) -> Self {
        let directory = tempfile::Builder::new().prefix("locum-peer-").tempdir().unwrap();
        let identity = Identity::new(host);
        std::fs::write(directory.path().join("ca.pem"), &identity.ca).unwrap();
        let mut config = identity.server_config();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Self { tls: Some(Arc::new(config)), ..Self::bound(host, directory) }
    }

    /// In the clear.
    pub fn clear(host: &str) -> Self {
        Self::bound(host, tempfile::Builder::new().prefix("locum-peer-").tempdir().unwrap())
    }

    fn bound(host: &str, directory: TempDir) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        Self { host: host.to_owned(), address, listener, tls: None, directory }
    }

    /// The CA that vouches for it; none in the clear.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.tls.as_ref().map(|_| self.directory.path().join("ca.pem"))
    }

    /// The next connection, once it is there.
    #[track_caller]
    pub fn accept(&self) -> Wire {
        self.welcome(self.arrive())
    }

    /// The same, with nothing said yet.
    #[track_caller]
    pub fn arrive(&self) -> Wire {
        let stream = eventually("a connection to the origin", PATIENCE, || {
            self.listener.accept().ok().map(|(stream, _)| stream)
        });
        stream.set_nonblocking(false).unwrap();
        Wire::of(stream).unwrap()
    }

    /// Goes on with a connection that has arrived.
    #[track_caller]
    pub fn welcome(&self, wire: Wire) -> Wire {
        match &self.tls {
            None => wire,
            Some(config) => wire.tls_server(Arc::clone(config)).expect("TLS with the proxy"),
        }
    }

    /// Has every connection from now on served by a thread of its own. The threads end with the
    /// test's process.
    pub fn serve(&self, serve: impl Fn(Wire) + Clone + Send + 'static) {
        let listener = self.listener.try_clone().unwrap();
        listener.set_nonblocking(false).unwrap();
        let tls = self.tls.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (serve, tls) = (serve.clone(), tls.clone());
                std::thread::spawn(move || {
                    let Ok(wire) = Wire::of(stream) else { return };
                    let Some(config) = tls else { return serve(wire) };
                    if let Ok(wire) = wire.tls_server(config) {
                        serve(wire);
                    }
                });
            }
        });
    }

    /// The next connection, and the head of the request on it.
    #[track_caller]
    pub fn request(&self) -> (Wire, String) {
        let mut wire = self.accept();
        let head = wire.until("\r\n\r\n");
        (wire, head)
    }
}

/// One credential, one agent, a proxy, and an origin that is the test.
pub struct Scene {
    pub serve: Serve,
    pub peer: Peer,
    pub agent: Agent,
    pub key: String,
    pub home: Home,
}

impl Scene {
    #[track_caller]
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// After `prepare`.
    #[track_caller]
    pub fn with(prepare: impl FnOnce(&Home)) -> Self {
        let home = Home::new();
        let peer = Peer::new(HOST);
        let key = canary();
        home.reach_as(HOST, peer.address, peer.ca_file());
        home.add("main", BEARER, &key);
        let agent = home.agent("worker");
        prepare(&home);
        let serve = home.serve();
        Self { serve, peer, agent, key, home }
    }

    /// A tunnel to the origin.
    #[track_caller]
    pub fn tunnel(&self) -> Wire {
        self.serve.tunnel(&self.agent, HOST)
    }

    /// Sends a request through a tunnel of its own; both ends, once its head has arrived.
    #[track_caller]
    pub fn begin(&self, request: impl AsRef<[u8]>) -> (Wire, Wire, String) {
        let mut near = self.tunnel();
        near.send(request);
        let (far, head) = self.peer.request();
        (near, far, head)
    }

    /// How the one request to this path ended, by the audit log.
    #[track_caller]
    pub fn ending(&self, path: &str) -> String {
        let access = self.home.accesses_to(path).remove(0);
        let records = self.home.records_of(access["request_id"].as_str().unwrap(), 2);
        records[1]["ending"].as_str().unwrap().to_owned()
    }
}
