//! A WebSocket as a stream of an HTTP/2 connection to their origin (RFC 8441), and through a company's
//! proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{Method, Request, Response};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::support::*;

/// An origin that speaks HTTP/2, or does not speak.
struct Two {
    address: SocketAddr,
    state: Arc<State>,
    directory: TempDir,
}

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    /// The head of each request: method, path, protocol, fields.
    seen: Mutex<Vec<String>>,
}

impl Two {
    /// `alpn` is what its TLS has, `sockets` whether it says that it takes a WebSocket.
    fn start(alpn: &[&str], sockets: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::new(HOST);
        std::fs::write(directory.path().join("ca.pem"), &identity.ca).unwrap();
        let mut config = identity.server_config();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::<State>::default();
        let accepting = accept(listener, TlsAcceptor::from(Arc::new(config)), sockets);
        runtime().spawn(accepting(Arc::clone(&state)));
        Self { address, state, directory }
    }

    fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    fn seen(&self) -> Vec<String> {
        self.state.seen.lock().clone()
    }
}

fn accept(
    listener: std::net::TcpListener,
    tls: TlsAcceptor,
    sockets: bool,
) -> impl FnOnce(Arc<State>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    move |state| {
        Box::pin(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, state) = (tls.clone(), Arc::clone(&state));
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    state.connections.fetch_add(1, Ordering::SeqCst);
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        serve(stream, sockets, state).await;
                    } else {
                        state.seen.lock().push("HTTP/1.1".to_owned());
                    }
                });
            }
        })
    }
}

async fn serve(stream: TlsStream<TcpStream>, sockets: bool, state: Arc<State>) {
    let mut builder = Builder::new();
    if sockets {
        builder.enable_connect_protocol();
    }
    let Ok(mut server) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = server.accept().await {
        let protocol = request.extensions().get::<h2::ext::Protocol>();
        let protocol = protocol.map(|p| p.as_str().to_owned());
        let (method, path) = (request.method(), request.uri().path());
        let head = format!("{method} {path} {protocol:?} {:?}", request.headers());
        state.seen.lock().push(head);
        tokio::spawn(answer(request, respond));
    }
}

/// Tells the key in the first frame of a socket, and sends back what comes; ends as the path says.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let connect = request.method() == Method::CONNECT;
    let key = request.headers()["authorization"].to_str().unwrap().to_owned();
    let status = if path == "/declined" { 403 } else { 200 };
    let head = Response::builder().status(status).header("x-key", &key);
    if path == "/elsewhere" {
        return respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
    }
    let ends = !connect || status != 200;
    let Ok(mut sending) = respond.send_response(head.body(()).unwrap(), ends) else { return };
    if ends {
        return;
    }
    let (mut body, mut masks) = (request.into_body(), Masks::default());
    sending.send_data(text(&key).into(), false).unwrap();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        if path == "/reset" {
            return sending.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        if sending.send_data(masks.take_off(&data).into(), false).is_err() {
            return;
        }
    }
    let _gone = sending.send_data(Bytes::new(), true);
}

/// A short message as servers send it.
fn text(payload: &str) -> Vec<u8> {
    [&[0x81, u8::try_from(payload.len()).unwrap()], payload.as_bytes()].concat()
}

struct Scene {
    serve: Serve,
    agent: Agent,
    key: String,
    home: Home,
}

impl Scene {
    fn new(origin: &Two) -> Self {
        Self::with(|home| home.reach_as(HOST, origin.address, Some(origin.ca_file())))
    }

    fn with(reach: impl FnOnce(&Home)) -> Self {
        let home = Home::new();
        let key = canary();
        reach(&home);
        home.add("main", BEARER, &key);
        let agent = home.agent("worker");
        let serve = home.serve();
        Self { serve, agent, key, home }
    }

    /// A handshake as HTTP/1.1 has it, and its answer.
    fn ask(&self, path: &str) -> (Wire, Answer) {
        let mut wire = self.serve.tunnel(&self.agent, HOST);
        let answer = wire.ask(request(
            "GET",
            path,
            &[
                AUTHORIZED,
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Protocol: chat",
            ],
            "",
        ));
        (wire, answer)
    }

    /// The first frame, without the key.
    fn clean(&self) -> Vec<u8> {
        text(&format!("Bearer locum_main{}", "*".repeat(self.key.len() - 10)))
    }

    /// Opens a socket, and has it bring back what is sent.
    #[track_caller]
    fn socket(&self, path: &str) -> Wire {
        let (mut wire, answer) = self.ask(path);
        assert_eq!(answer.status, 101, "{}", answer.text());
        let accept = answer.header("sec-websocket-accept");
        assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let fields = (answer.header("upgrade"), answer.header("x-key"));
        assert_eq!(fields, (Some("websocket"), Some("Bearer locum_main")));
        let mut first = self.clean();
        wire.read_exact(&mut first);
        assert_eq!(first, self.clean());
        wire
    }

    fn warm(&self) {
        let answer =
            self.serve.tunnel(&self.agent, HOST).ask(request("GET", "/warm", &[AUTHORIZED], ""));
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn an_origin_that_speaks_http2_alone_gets_its_sockets_there() {
    let origin = Two::start(&["h2"], true);
    let scene = Scene::new(&origin);
    for (n, path) in ["/one", "/two"].into_iter().enumerate() {
        let mut wire = scene.socket(path);
        // More than a window.
        let sent = vec![n as u8; 300_000];
        let mut back = vec![7; sent.len()];
        for (piece, back) in sent.chunks(60_000).zip(back.chunks_mut(60_000)) {
            wire.send(frame_of(piece));
            wire.read_exact(&mut [0; 4]);
            wire.read_exact(back);
        }
        assert!(back == sent);
        wire.finish();
        assert_eq!(wire.until_closed(), b"");
        let access = scene.home.accesses_to(path).remove(0);
        let records = scene.home.records_of(access["request_id"].as_str().unwrap(), 2);
        assert_eq!(
            (&records[0]["method"], &records[1]["ending"]),
            (&"GET".into(), &"complete".into())
        );
        assert_eq!((&records[1]["status"], &records[1]["scrubbed"]), (&101.into(), &2.into()));
    }
    assert_eq!(origin.connections(), 1, "both on one");
    for seen in origin.seen() {
        assert!(seen.starts_with("CONNECT /") && seen.contains("Some(\"websocket\")"), "{seen}");
        assert!(seen.contains(&scene.key) && seen.contains("\"sec-websocket-version\": \"13\""));
        for absent in ["sec-websocket-key", "connection", "upgrade"] {
            assert!(!seen.contains(&format!("\"{absent}\"")), "{seen}");
        }
    }
}

/// A long masked message; the mask changes nothing.
fn frame_of(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x82, 0xfe][..], &length, &[0; 4], payload].concat()
}

#[test]
fn a_connection_that_is_there_is_shared_if_the_origin_takes_sockets_on_it() {
    for sockets in [true, false] {
        let origin = Two::start(&["h2", "http/1.1"], sockets);
        let scene = Scene::new(&origin);
        scene.warm();
        if sockets {
            let _socket = scene.socket("/shared");
            assert_eq!(origin.connections(), 1);
        } else {
            // This origin has no HTTP/1.1 to answer with; it is asked all the same.
            let (_wire, answer) = scene.ask("/alone");
            assert_eq!(answer.problem(), "upstream-failed");
            assert_eq!((origin.connections(), &*origin.seen()[1]), (2, "HTTP/1.1"));
        }
    }
}

#[test]
fn what_an_origin_says_instead_reaches_the_agent() {
    let origin = Two::start(&["h2"], true);
    let scene = Scene::new(&origin);
    let (_, answer) = scene.ask("/declined");
    assert_eq!((answer.status, answer.header("x-key")), (403, Some("Bearer locum_main")));
    // And a break is a break.
    let mut wire = scene.socket("/reset");
    wire.send(frame_of(b"now"));
    assert!(wire.try_until_end().is_err(), "it ended in order");
    // What is to be asked elsewhere is, and this one is nowhere else.
    let (_, answer) = scene.ask("/elsewhere");
    assert_eq!(answer.problem(), "upstream-failed");
    // The connection goes on.
    drop(scene.socket("/one"));
    assert_eq!(origin.connections(), 1);
    let neither = Two::start(&["h2"], false);
    let scene = Scene::new(&neither);
    let (_, answer) = scene.ask("/one");
    assert_eq!(answer.problem(), "upstream-failed");
    assert!(answer.text().contains("HTTP/2 alone"), "{}", answer.text());
}

#[test]
fn an_agent_that_breaks_off_resets_its_stream_alone() {
    let origin = Two::start(&["h2"], true);
    let scene = Scene::new(&origin);
    let mut other = scene.socket("/other");
    scene.socket("/gone").cut();
    let open = || scene.serve.metric("locum_tunnels_open{kind=\"websocket\"}");
    eventually("one socket to be left", PATIENCE, || (open() == 1).then_some(()));
    other.send(frame_of(b"still"));
    let mut back = vec![0; 4 + 5];
    other.read_exact(&mut back);
    assert!(back.ends_with(b"still"));
}

/// An agent on HTTP/2 all the way.
#[test]
fn an_extended_connect_stays_one() {
    let origin = Two::start(&["h2"], true);
    let scene = Scene::new(&origin);
    runtime().block_on(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        let mut send = agent.send.clone().ready().await.unwrap();
        while !send.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
            send = send.ready().await.unwrap();
        }
        let fields = [("authorization", "Bearer locum_main"), ("sec-websocket-version", "13")];
        let mut request = request2("CONNECT", "/two", &fields);
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (answer, mut sending) = send.send_request(request, false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().get("sec-websocket-accept").is_none());
        let mut body = answer.into_body();
        let mut first = Vec::new();
        while first.len() < scene.clean().len() {
            first.extend_from_slice(&body.data().await.unwrap().unwrap());
        }
        assert_eq!(first, scene.clean());
        sending.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none_or(|data| data.unwrap().is_empty()));
    });
}

#[test]
fn sockets_go_through_a_proxy_before_the_origin() {
    let next = NextProxy::clear();
    let way = |address: SocketAddr, ca: PathBuf| {
        next.lead("api.test:443", address);
        let proxy = format!("{{url: 'http://{}', vet_names: false}}", next.address);
        let ca = ca.display().to_string();
        move |home: &Home| {
            home.set(&format!("upstream.hosts: {{api.test: {{ca_file: '{ca}', proxy: {proxy}}}}}"));
        }
    };
    let two = Two::start(&["h2"], true);
    let scene = Scene::with(way(two.address, two.ca_file()));
    drop(scene.socket("/two"));
    assert_eq!(next.heads().len(), 2, "one for each protocol: {:?}", next.heads());

    let one = Origin::scripted(HOST, vec![Script::Switch, Script::Echo, Script::Goodbye]);
    let scene = Scene::with(way(one.address, one.ca_file()));
    let (mut wire, answer) = scene.ask("/one");
    assert_eq!(answer.status, 101, "{}", answer.text());
    wire.send(frame_of(b"through"));
    let mut back = vec![0; 4 + 7];
    wire.read_exact(&mut back);
    assert!(back.ends_with(b"through"));
    assert_eq!(next.heads().len(), 3);
    assert!(one.last_raw().contains(&scene.key) && !next.heads().concat().contains(&scene.key));
}
