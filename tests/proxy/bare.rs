//! What only an origin without an HTTP library below it says, and what an agent on HTTP/2 hears of it.

use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{Request, Response};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::*;

const KEY: (&str, &str) = ("authorization", "Bearer locum_main");

/// A proxy before an origin that speaks HTTP/2 as the h2 crate lets it, which is nearly anything.
fn before_bare() -> (Home, Serve, Agent, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let identity = Identity::new(HOST);
    std::fs::write(&ca, &identity.ca).unwrap();
    let mut config = identity.server_config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    runtime().spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, tls.clone()));
        }
    });
    let home = Home::new();
    home.reach_as(HOST, address, Some(ca));
    home.add("main", BEARER, &canary());
    let agent = home.agent("worker");
    let serve = home.serve();
    (home, serve, agent, directory)
}

async fn serve(stream: TcpStream, tls: TlsAcceptor) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let Ok(mut server) = Builder::new().handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = server.accept().await {
        answer(&request, respond);
    }
}

/// The status is that of the path, and content comes whether there may be any or not.
fn answer(request: &Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let status = request.uri().path().trim_start_matches("/status/");
    let head = Response::builder().status(status);
    if request.method() == "HEAD" {
        let head = head.header("content-length", "99").body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        return body.send_data(Bytes::new(), true).unwrap();
    }
    let head = head.header("content-length", "5").body(()).unwrap();
    let mut body = respond.send_response(head, false).unwrap();
    body.send_data(Bytes::from_static(b"body!"), true).unwrap();
}

#[track_caller]
fn ending(home: &Home, path: &str) -> serde_json::Value {
    let access = home.accesses_to(path).remove(0);
    home.records_of(access["request_id"].as_str().unwrap(), 2)[1]["ending"].clone()
}

#[test]
fn answers_without_content_have_none_whatever_the_origin_sends() {
    let (home, serve, agent, _ca) = before_bare();
    for (method, status) in [("GET", 204), ("GET", 304), ("HEAD", 200)] {
        let path = format!("/status/{status}");
        let reply = runtime().block_on(async {
            let agent = Http2::open(&serve, &agent).await;
            agent.ask(request2(method, &path, &[KEY]), b"").await
        });
        assert_eq!((reply.status, reply.body.len()), (status, 0), "{reply:?}");
        assert!(reply.broken.is_none(), "{reply:?}");
        assert_eq!(reply.headers.contains_key("content-length"), status != 204, "{reply:?}");
        assert_eq!(ending(&home, &path), "complete");
        let mut wire = serve.tunnel(&agent, HOST);
        let path = format!("/status/{status}?1");
        wire.send(request(method, &path, &[AUTHORIZED], ""));
        let head = wire.until("\r\n\r\n");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        // The next answer stands right behind it.
        wire.send(request("GET", "/status/201", &[AUTHORIZED], ""));
        let head = wire.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    }
}

#[test]
fn what_may_not_stand_behind_an_answer_costs_no_agent_the_answer() {
    let scene = Scene::new();
    let reply = runtime().block_on(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        let asked = tokio::spawn(ask2(agent.send.clone(), request2("GET", "/t", &[KEY]), b""));
        let (mut far, _) = scene.peer.request();
        far.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n");
        far.send("connection: close\r\nkeep-alive: 1\r\ntransfer-encoding: chunked\r\n");
        far.send("content-length: 7\r\nproxy-status: locum; error=x\r\n\r\n");
        asked.await.unwrap().unwrap()
    });
    assert_eq!((reply.text().as_str(), reply.broken.is_none()), ("ok", true), "{reply:?}");
    let names: Vec<_> = reply.trailers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-t"]);
    assert_eq!(scene.ending("/t"), "complete");
}

#[test]
fn an_answer_that_is_not_read_is_cut_all_the_same() {
    let scene = Scene::with(|home| {
        home.policy(
            "version: 1\nrules:\n  - {name: s, agents: ['*'], use: ['*'], on_withdrawal: cut}\n",
        );
    });
    runtime().block_on(async {
        let mut small = h2::client::Builder::new();
        small.initial_window_size(5);
        let agent = Http2::open_with(&scene.serve, &scene.agent, &small).await;
        let (answer, mut end) = agent.begin(request2("GET", "/events", &[KEY])).await;
        end.send_data(Bytes::new(), true).unwrap();
        let (mut far, _) = scene.peer.request();
        far.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst.\r\n");
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "first");
        scene.home.policy("version: 1\nrules: []\n");
        let broken = tokio::time::timeout(PATIENCE, body.data()).await.expect("it is not cut");
        assert!(broken.unwrap().unwrap_err().is_reset());
    });
    assert_eq!(scene.ending("/events"), "failed");
}

#[test]
fn a_connect_with_a_body_is_on_record() {
    let scene = Scene::new();
    let error = runtime().block_on(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        let fields = [KEY, ("content-length", "5")];
        ask2(agent.send.clone(), request2("CONNECT", "/", &fields), b"12345").await.unwrap_err()
    });
    assert_eq!(error.reason(), Some(h2::Reason::PROTOCOL_ERROR));
    eventually("its record", PATIENCE, || {
        let records = scene.home.audit_now();
        records.iter().any(|r| r["kind"] == "access" && r["code"] == "bad-request").then_some(())
    });
}

/// Its head goes out when it is known that nothing follows it, and not before.
#[test]
fn a_request_that_says_it_is_empty_waits_for_its_end() {
    let scene = Scene::new();
    runtime().block_on(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        let empty = |path: &str| request2("POST", path, &[KEY, ("content-length", "0")]);
        let (bad, mut body) = agent.begin(empty("/bad")).await;
        // Whatever has come of the first by the time that this one's is answered, was not sent on.
        let good = agent.begin(empty("/good")).await;
        let mut end = good.1;
        end.send_data(Bytes::new(), true).unwrap();
        let (mut far, head) = scene.peer.request();
        assert!(head.starts_with("POST /good "), "{head}");
        far.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(good.0.await.unwrap().status(), 200);
        body.send_data(Bytes::from_static(b"GET /smuggled"), true).unwrap();
        let error = bad.await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::PROTOCOL_ERROR));
    });
}
