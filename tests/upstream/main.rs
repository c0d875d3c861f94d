//! The upstream against origins on loopback: what they receive, and what becomes of their answers.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(clippy::unwrap_used, clippy::too_many_lines, clippy::items_after_statements)]

mod http2;
mod origin;

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use locum::host::{Authority, Destination, Origin as Target, Scheme};
use locum::outcome::{Code, Refusal};
use locum::record::{Access, AuditSink, Event, Outcome, Recorded, RequestId, Unrecorded};
use locum::upstream::{
    AddressGuard, BodyError, Call, ClientCertificate, HostRule, Interims, PoolLimits, Resolve,
    Resolving, SelfAddresses, Sent, Settings, Timeouts, Transport, Upstream, UpstreamBody,
};
use origin::Step::{Goodbye, Hang, Head, Request as ReadRequest, Rest, Send, UntilClosed, Wait};
use origin::{Leaf, Origin, Step};
use tokio::sync::{Notify, mpsc};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Any name is loopback. Counts the questions, and answers the later ones with `then` if it is set.
#[derive(Default)]
struct Loopback {
    asked: AtomicUsize,
    then: Option<SocketAddr>,
}

impl Resolve for Loopback {
    fn resolve<'a>(&'a self, _: &'a str, port: u16, _: &'a str) -> Resolving<'a> {
        let first = self.asked.fetch_add(1, Ordering::SeqCst) == 0;
        let loopback = SocketAddr::from(([127, 0, 0, 1], port));
        let answer = self.then.filter(|_| !first).unwrap_or(loopback);
        Box::pin(async move { Ok(vec![answer]) })
    }
}

/// Takes every record.
struct Sink;

impl AuditSink for Sink {
    fn access(&self, _: &Access<'_>) -> Result<(), Unrecorded> {
        Ok(())
    }
    fn outcome(&self, _: &Outcome) {}
    fn event(&self, _: &Event) -> Result<(), Unrecorded> {
        Ok(())
    }
}

fn recorded<T>(value: T) -> Recorded<T> {
    let record = Access::new(RequestId([0; 16]), "https://origin.test");
    Recorded::new(value, &Sink, &record).unwrap()
}

/// Loopback open, names resolved to it, short times.
fn settings() -> Settings {
    Settings {
        guard: AddressGuard::new(vec!["127.0.0.0/8".parse().unwrap()]),
        resolver: Arc::new(Loopback::default()),
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            tls: Duration::from_millis(500),
            response: Duration::from_millis(500),
            idle: Duration::from_millis(500),
        },
        ..Settings::default()
    }
}

fn upstream() -> Upstream {
    Upstream::new(settings()).unwrap()
}

fn target(scheme: Scheme, address: SocketAddr) -> Target {
    Target { scheme, authority: authority(address) }
}

fn authority(address: SocketAddr) -> Authority {
    Authority::parse("origin.test", Some(address.port())).unwrap()
}

async fn send<B>(
    upstream: &Upstream,
    target: &Target,
    principal: &str,
    request: Request<B>,
) -> Result<Sent, Refusal>
where
    B: Body<Data = Bytes> + std::marker::Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + std::marker::Send + Sync>>,
{
    let principal = Arc::from(principal);
    let call = Call {
        origin: target,
        principal: &principal,
        response_timeout: None,
        idle_timeout: None,
        interims: None,
        last_look: None,
        certificate: None,
    };
    upstream.send(recorded(request), call).await
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path).header("Host", "origin.test");
    request.body(Empty::new()).unwrap()
}

fn post(text: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("/").header("Host", "origin.test");
    request.body(Full::from(text)).unwrap()
}

async fn text(sent: Sent) -> Result<String, BodyError> {
    let bytes = sent.response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

fn refused(result: Result<Sent, Refusal>) -> Code {
    result.map(|sent| sent.response.status()).unwrap_err().code
}

/// A body that the test feeds.
struct Fed(mpsc::UnboundedReceiver<Result<Frame<Bytes>, Refusal>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        self.0.poll_recv(cx)
    }
}

fn fed() -> (mpsc::UnboundedSender<Result<Frame<Bytes>, Refusal>>, Request<Fed>) {
    let (feed, body) = mpsc::unbounded_channel();
    let request = Request::post("/upload").header("Host", "origin.test");
    (feed, request.body(Fed(body)).unwrap())
}

fn piece(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

mod reuse {
    use super::*;

    #[tokio::test]
    async fn a_connection_serves_again_after_its_body_was_read() {
        let script = vec![ReadRequest, Send(OK), ReadRequest, Send(OK), UntilClosed];
        let origin = Origin::plain(vec![script]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let first = send(&upstream, &target, "a", get("/1")).await.unwrap();
        assert!(!first.reused && first.timing.connect.is_some());
        assert_eq!(text(first).await.unwrap(), "ok");
        assert_eq!(upstream.pool_counts().idle, 1);
        let second = send(&upstream, &target, "a", get("/2")).await.unwrap();
        assert!(second.reused && second.timing.connect.is_none());
        assert_eq!(text(second).await.unwrap(), "ok");
        assert_eq!(origin.connections(), 1);
        let counts = upstream.pool_counts();
        assert_eq!((counts.opened, counts.reused, counts.idle), (1, 1, 1));
    }

    #[tokio::test]
    async fn answers_without_a_body_bring_their_connection_home_at_once() {
        let script = vec![
            ReadRequest,
            Send("HTTP/1.1 204 No Content\r\n\r\n"),
            ReadRequest,
            Send("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
            ReadRequest,
            Send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
            UntilClosed,
        ];
        let origin = Origin::plain(vec![script]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let mut head = get("/3");
        *head.method_mut() = Method::HEAD;
        for request in [get("/1"), get("/2"), head] {
            // Dropped unread: there is nothing to read.
            send(&upstream, &target, "a", request).await.unwrap();
        }
        assert_eq!(origin.connections(), 1);
    }

    #[tokio::test]
    async fn chunked_bodies_and_trailers_end_at_their_end() {
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n";
        let script = vec![ReadRequest, Send(chunked), ReadRequest, Send(OK), UntilClosed];
        let origin = Origin::plain(vec![script]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
        let whole = sent.response.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-sum"], "1");
        assert!(send(&upstream, &target, "a", get("/")).await.unwrap().reused);
    }

    #[tokio::test]
    async fn two_principals_never_share_a_connection() {
        let script = vec![ReadRequest, Send(OK), ReadRequest, Send(OK), UntilClosed];
        let origin = Origin::plain(vec![script]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        for principal in ["a", "b", "a", "b"] {
            let path = format!("/{principal}");
            let sent = send(&upstream, &target, principal, get(&path)).await.unwrap();
            text(sent).await.unwrap();
        }
        let received = origin.received();
        assert_eq!(received.len(), 2);
        for (connection, principal) in received.iter().zip(["a", "b"]) {
            let requests = connection.matches("GET /").count();
            let own = connection.matches(&format!("GET /{principal} ")).count();
            assert_eq!((requests, own), (2, 2), "{connection}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_not_shared_while_its_body_is_read() {
        let script = vec![ReadRequest, Send(OK), UntilClosed];
        let origin = Origin::plain(vec![script]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let open = send(&upstream, &target, "a", get("/1")).await.unwrap();
        let other = send(&upstream, &target, "a", get("/2")).await.unwrap();
        assert!(!other.reused);
        drop(open);
        assert_eq!(text(other).await.unwrap(), "ok");
        assert_eq!(upstream.pool_counts().idle, 1, "what was dropped unread is closed");
    }

    #[tokio::test]
    async fn a_connection_that_the_origin_closed_is_not_used() {
        let scripts = vec![vec![ReadRequest, Send(OK)], vec![ReadRequest, Send(OK), UntilClosed]];
        let origin = Origin::plain(scripts).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let sent = send(&upstream, &target, "a", get("/1")).await.unwrap();
        text(sent).await.unwrap();
        closed_by_origin(&upstream).await;
        let sent = send(&upstream, &target, "a", post("once")).await.unwrap();
        assert!(!sent.reused);
        text(sent).await.unwrap();
        let received = origin.received();
        assert_eq!(received.len(), 2);
        assert_eq!(received.concat().matches("POST").count(), 1);
    }

    /// Waits until the close of the one waiting connection has arrived.
    async fn closed_by_origin(upstream: &Upstream) {
        for _ in 0..500 {
            upstream.sweep();
            if upstream.pool_counts().idle == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the sweep did not find the closed connection");
    }

    #[tokio::test]
    async fn bytes_after_an_answer_close_the_connection() {
        let two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        let scripts = vec![
            vec![ReadRequest, Send(two), UntilClosed],
            vec![ReadRequest, Send(OK), UntilClosed],
        ];
        let origin = Origin::plain(scripts).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        for path in ["/1", "/2"] {
            let sent = send(&upstream, &target, "a", get(path)).await.unwrap();
            assert_eq!(text(sent).await.unwrap(), "ok");
        }
        assert_eq!(origin.connections(), 2);
    }

    #[tokio::test]
    async fn close_and_http_1_0_end_the_connection() {
        for answer in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
        ] {
            let origin = Origin::plain(vec![vec![ReadRequest, Send(answer), UntilClosed]]).await;
            let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
            let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
            assert_eq!(text(sent).await.unwrap(), "ok");
            assert_eq!(upstream.pool_counts().idle, 0, "{answer}");
        }
    }

    #[tokio::test]
    async fn the_pool_keeps_no_more_than_its_bounds() {
        let script = vec![ReadRequest, Send(OK), UntilClosed];
        let origin = Origin::plain(vec![script]).await;
        let upstream = Upstream::new(Settings {
            pool: PoolLimits { per_key: 2, total: 3, ..PoolLimits::default() },
            ..settings()
        })
        .unwrap();
        let target = target(Scheme::Http, origin.address);
        let mut open = Vec::new();
        for principal in ["a", "a", "a", "b", "b", "c"] {
            open.push(send(&upstream, &target, principal, get("/")).await.unwrap());
        }
        for sent in open {
            text(sent).await.unwrap();
            assert!(upstream.pool_counts().idle <= 3);
        }
        assert_eq!(upstream.pool_counts().idle, 3);
        upstream.close_idle();
        assert_eq!(upstream.pool_counts().idle, 0);
    }

    /// All connections of one key are in one shard of the pool; its part of `total` is no bound.
    #[tokio::test]
    async fn one_agent_and_host_may_have_as_many_as_per_key_says() {
        let origin = Origin::plain(vec![vec![ReadRequest, Send(OK), UntilClosed]]).await;
        let upstream = Upstream::new(Settings {
            pool: PoolLimits { per_key: 300, total: 512, ..PoolLimits::default() },
            ..settings()
        })
        .unwrap();
        let target = target(Scheme::Http, origin.address);
        let mut open = Vec::new();
        for _ in 0..310 {
            open.push(send(&upstream, &target, "a", get("/")).await.unwrap());
        }
        for sent in open {
            text(sent).await.unwrap();
        }
        assert_eq!(upstream.pool_counts().idle, 300);
    }

    #[tokio::test]
    async fn a_connection_that_waited_too_long_is_swept() {
        let origin = Origin::plain(vec![vec![ReadRequest, Send(OK), UntilClosed]]).await;
        let upstream = Upstream::new(Settings {
            pool: PoolLimits { idle: Duration::from_millis(10), ..PoolLimits::default() },
            ..settings()
        })
        .unwrap();
        let target = target(Scheme::Http, origin.address);
        let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
        text(sent).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        upstream.sweep();
        let counts = upstream.pool_counts();
        assert_eq!((counts.idle, counts.expired), (0, 1));
    }
}

mod requests {
    use super::*;

    #[tokio::test]
    async fn what_leaves_is_what_was_given() {
        let origin = Origin::plain(vec![vec![ReadRequest, Send(OK), UntilClosed]]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let request = Request::post("/a/../b//c?x=%2F&&y")
            .header("Host", "origin.test")
            .header("X-Odd", "  two  spaces ")
            .body(Full::from("body"))
            .unwrap();
        send(&upstream, &target, "a", request).await.unwrap();
        let received = origin.received().remove(0);
        let (head, body) = received.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /a/../b//c?x=%2F&&y HTTP/1.1\r\n"), "{head}");
        assert_eq!(head.lines().count(), 4, "{head}");
        assert_eq!(body, "body");
    }

    #[tokio::test]
    async fn a_request_that_left_is_not_sent_again() {
        for (request, step) in [("POST", ReadRequest), ("POST", Head)] {
            let scripts =
                vec![vec![ReadRequest, Send(OK), step, Goodbye], vec![ReadRequest, Send(OK)]];
            let origin = Origin::plain(scripts).await;
            let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
            let first = send(&upstream, &target, "a", get("/")).await.unwrap();
            text(first).await.unwrap();
            let second = send(&upstream, &target, "a", post("charge the card")).await;
            assert_eq!(refused(second), Code::UpstreamFailed, "{request}");
            assert_eq!(origin.connections(), 1);
            assert_eq!(upstream.pool_counts().retried, 0);
        }
    }

    #[tokio::test]
    async fn a_body_that_is_partly_sent_is_not_sent_again() {
        let scripts = vec![vec![ReadRequest, Send(OK), Head], vec![ReadRequest, Send(OK)]];
        let origin = Origin::plain(scripts).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let first = send(&upstream, &target, "a", get("/")).await.unwrap();
        text(first).await.unwrap();
        let (feed, request) = fed();
        feed.send(Ok(piece("first half, "))).unwrap();
        let second = send(&upstream, &target, "a", request).await;
        assert_eq!(refused(second), Code::UpstreamFailed);
        assert_eq!(origin.connections(), 1);
    }

    #[tokio::test]
    async fn an_answer_may_come_before_the_request_is_sent() {
        let early = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n";
        let late = "4\r\nlate\r\n0\r\n\r\n";
        let script = vec![Head, Send(early), Rest, Send(late), UntilClosed];
        let origin = Origin::plain(vec![script]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let (feed, request) = fed();
        feed.send(Ok(piece("half"))).unwrap();
        let sent = send(&upstream, &target, "a", request).await.unwrap();
        let mut body = sent.response.into_body();
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "early");
        // The rest of the request goes on its way while nobody reads the answer.
        feed.send(Ok(piece("other half"))).unwrap();
        drop(feed);
        arrived(&origin, "other half").await;
        assert_eq!(body.collect().await.unwrap().to_bytes(), "late");
        assert_eq!(upstream.pool_counts().idle, 0, "not used again");
    }

    /// The connection is driven by its user, partly without a waker: a wake-up that gets lost would
    /// show here as a timeout.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_at_once_up_and_down_all_arrive_whole() {
        const REQUESTS: usize = 20;
        let up: &'static str = Box::leak("u".repeat(64 * 1024).into());
        let chunk = format!("20000\r\n{}\r\n", "d".repeat(0x20000)).repeat(4);
        let answer =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
        let answer: &'static str = Box::leak(answer.into());
        let ca = origin::Authority::new();
        let (rule, _dir) = trust::rule(&ca, None);
        // A machine that does other work is not a wake-up that was lost.
        let patient = Duration::from_secs(30);
        let timeouts =
            Timeouts { tls: patient, response: patient, idle: patient, ..settings().timeouts };
        let upstream =
            Upstream::new(Settings { hosts: vec![rule], timeouts, ..settings() }).unwrap();
        let script = vec![[ReadRequest, Send(answer)]; REQUESTS].concat();
        let origin = Origin::tls(vec![script], ca.leaf("origin.test").server()).await;
        let (upstream, target) = (Arc::new(upstream), target(Scheme::Https, origin.address));
        let mut agents = tokio::task::JoinSet::new();
        for agent in 0..16 {
            let (upstream, target) = (upstream.clone(), target.clone());
            agents.spawn(async move {
                for _ in 0..REQUESTS {
                    let sent = send(&upstream, &target, &agent.to_string(), post(up)).await;
                    assert_eq!(text(sent.unwrap()).await.unwrap().len(), 4 * 0x20000);
                }
            });
        }
        while let Some(done) = agents.join_next().await {
            done.unwrap();
        }
        assert_eq!(origin.connections(), 16);
    }

    async fn arrived(origin: &Origin, what: &str) {
        for _ in 0..500 {
            if origin.received().concat().contains(what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{what} did not arrive: {:?}", origin.received());
    }

    #[tokio::test]
    async fn a_body_that_ends_with_a_refusal_ends_the_call_with_it() {
        let origin = Origin::plain(vec![vec![UntilClosed]]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let (feed, request) = fed();
        feed.send(Ok(piece("half"))).unwrap();
        feed.send(Err(Refusal::new(Code::SlotMismatch))).unwrap();
        let sent = send(&upstream, &target, "a", request).await;
        assert_eq!(refused(sent), Code::SlotMismatch);
    }

    #[tokio::test]
    async fn dropping_the_call_closes_the_connection() {
        let origin = Origin::plain(vec![vec![ReadRequest, UntilClosed, Send("gone")]]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let call = send(&upstream, &target, "a", get("/"));
        let _ = tokio::time::timeout(Duration::from_millis(50), call).await;
        assert_eq!(upstream.pool_counts().idle, 0);
    }
}

mod times {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_a_response_timeout() {
        let origin = Origin::plain(vec![vec![ReadRequest, Hang]]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let late = send(&upstream, &target, "a", get("/")).await;
        assert_eq!(refused(late), Code::ResponseTimeout);
        let late = send(&upstream, &target, "a", post("x")).await;
        assert_eq!(refused(late), Code::ResponseTimeout);
    }

    #[tokio::test]
    async fn a_slow_upload_is_not_a_slow_answer() {
        let origin = Origin::plain(vec![vec![ReadRequest, Send(OK), UntilClosed]]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let (feed, request) = fed();
        tokio::spawn(async move {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let _ = feed.send(Ok(piece("slow")));
            }
        });
        let sent = send(&upstream, &target, "a", request).await.unwrap();
        assert!(sent.timing.head > Duration::from_millis(700));
        assert_eq!(text(sent).await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn an_upload_that_stands_still_ends() {
        let origin = Origin::plain(vec![vec![ReadRequest, Send(OK)]]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let (_feed, request) = fed();
        let stalled = send(&upstream, &target, "a", request).await;
        assert_eq!(refused(stalled), Code::RequestTimeout);
    }

    #[tokio::test]
    async fn a_body_that_stands_still_ends_with_an_error() {
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
        let origin = Origin::plain(vec![vec![ReadRequest, Send(half), Hang]]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
        let error = text(sent).await.unwrap_err();
        assert!(matches!(error, BodyError::Idle(_)), "{error}");
    }

    #[tokio::test]
    async fn a_stream_may_last_longer_than_any_timeout() {
        let mut script =
            vec![ReadRequest, Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")];
        let tick = Arc::new(Notify::new());
        for _ in 0..4 {
            script.extend([Wait(tick.clone()), Send("4\r\ntick\r\n")]);
        }
        script.push(Send("0\r\n\r\n"));
        let origin = Origin::plain(vec![script]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let ticker = tokio::spawn(async move {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                tick.notify_one();
            }
        });
        let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
        assert_eq!(text(sent).await.unwrap(), "ticktickticktick");
        ticker.await.unwrap();
    }

    #[tokio::test]
    async fn a_rule_has_its_own_time() {
        let go = Arc::new(Notify::new());
        let origin = Origin::plain(vec![vec![ReadRequest, Wait(go.clone()), Send(OK)]]).await;
        let (upstream, target) = (upstream(), target(Scheme::Http, origin.address));
        let principal = Arc::from("a");
        let call = Call {
            origin: &target,
            principal: &principal,
            response_timeout: Some(Duration::from_secs(20)),
            idle_timeout: None,
            interims: None,
            last_look: None,
            certificate: None,
        };
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            go.notify_one();
        });
        let sent = upstream.send(recorded(get("/")), call).await.unwrap();
        assert_eq!(text(sent).await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn a_handshake_that_does_not_end_is_a_connect_timeout() {
        let server = Leaf::self_signed("origin.test").server();
        let origin = Origin::tls(vec![vec![Hang]], server).await;
        let target = target(Scheme::Https, origin.address);
        let slow = send(&upstream(), &target, "a", get("/")).await;
        assert_eq!(refused(slow), Code::ConnectTimeout);
    }

    /// A listener whose queue is full answers no SYN on Linux.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_host_that_does_not_accept_is_a_connect_timeout() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        let wait = Duration::from_millis(100);
        while let Ok(queued) =
            tokio::time::timeout(wait, tokio::net::TcpStream::connect(address)).await
        {
            queue.push(queued.unwrap());
        }
        let mut settings = settings();
        settings.timeouts.connect = Duration::from_millis(200);
        let upstream = Upstream::new(settings).unwrap();
        let slow = send(&upstream, &target(Scheme::Http, address), "a", get("/")).await;
        assert_eq!(refused(slow), Code::ConnectTimeout);
    }
}

mod broken_answers {
    use super::*;

    async fn body_of(scheme: Scheme, script: Vec<Step>) -> Result<String, BodyError> {
        let ca = origin::Authority::new();
        let (origin, upstream, _dir) = match scheme {
            Scheme::Http => (Origin::plain(vec![script]).await, upstream(), None),
            Scheme::Https => {
                let leaf = ca.leaf("origin.test");
                let (upstream, dir) = trust::pinned(&ca, None);
                (Origin::tls(vec![script], leaf.server()).await, upstream, Some(dir))
            }
        };
        let target = target(scheme, origin.address);
        let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
        let whole = text(sent).await;
        assert!(whole.is_ok() || upstream.pool_counts().idle == 0);
        whole
    }

    #[tokio::test]
    async fn a_truncated_body_is_an_error() {
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        let in_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf";
        for scheme in [Scheme::Http, Scheme::Https] {
            for half in [length, chunked, in_chunk] {
                for end in [vec![], vec![Goodbye]] {
                    let script = [vec![ReadRequest, Send(half)], end].concat();
                    assert!(body_of(scheme, script).await.is_err(), "{scheme} {half}");
                }
            }
        }
    }

    /// Without a length, only TLS can tell the end of a body from a cut (RFC 9112 section 9.8).
    #[tokio::test]
    async fn a_body_that_ends_with_the_connection_needs_the_goodbye_of_tls() {
        let open = "HTTP/1.1 200 OK\r\n\r\nall of it";
        let whole = vec![ReadRequest, Send(open), Goodbye];
        assert_eq!(body_of(Scheme::Https, whole).await.unwrap(), "all of it");
        let cut = vec![ReadRequest, Send(open)];
        assert!(body_of(Scheme::Https, cut).await.is_err());
        let clear = vec![ReadRequest, Send(open)];
        assert_eq!(body_of(Scheme::Http, clear).await.unwrap(), "all of it");
    }

    #[tokio::test]
    async fn an_answer_that_can_be_read_in_two_ways_is_refused() {
        for answer in [
            "",
            "HTTP/1.1 200",
            "ICY 200 OK\r\n\r\n",
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 2,\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n folded: x\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nX Y: z\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nX : z\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ] {
            let origin = Origin::plain(vec![vec![ReadRequest, Send(answer)]]).await;
            let target = target(Scheme::Http, origin.address);
            let sent = send(&upstream(), &target, "a", get("/")).await;
            assert_eq!(refused(sent), Code::UpstreamFailed, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_length_that_is_said_again_is_handed_on_once() {
        for fields in ["Content-Length: 2\r\nContent-Length: 2", "Content-Length: 2, 2"] {
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nab");
            let script = vec![ReadRequest, Send(Box::leak(answer.into()))];
            let origin = Origin::plain(vec![script]).await;
            let target = target(Scheme::Http, origin.address);
            let sent = send(&upstream(), &target, "a", get("/")).await.unwrap();
            let lengths = sent.response.headers().get_all("content-length");
            assert_eq!(lengths.iter().collect::<Vec<_>>(), ["2"], "{fields:?}");
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let line: &'static str = Box::leak(format!("X-Long: {}\r\n", "x".repeat(4000)).into());
        let mut script = vec![ReadRequest, Send("HTTP/1.1 200 OK\r\n")];
        script.extend(std::iter::repeat_n(Send(line), 50));
        script.push(Hang);
        let origin = Origin::plain(vec![script]).await;
        let target = target(Scheme::Http, origin.address);
        let refusal = send(&upstream(), &target, "a", get("/")).await.unwrap_err();
        assert_eq!(refusal.code, Code::UpstreamFailed);
        assert!(refusal.detail.contains("over the limit"), "{refusal}");
    }
}

mod trust {
    use super::*;

    /// An upstream that believes `ca` for `origin.test`, and the directory that holds its file.
    pub(crate) fn pinned(
        ca: &origin::Authority,
        client: Option<&Leaf>,
    ) -> (Upstream, tempfile::TempDir) {
        let (rule, dir) = rule(ca, client);
        let upstream = Upstream::new(Settings { hosts: vec![rule], ..settings() });
        (upstream.unwrap(), dir)
    }

    pub(crate) fn rule(
        ca: &origin::Authority,
        client: Option<&Leaf>,
    ) -> (HostRule, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        ca.write(&file("ca.pem"));
        let client_cert = client.map(|leaf| {
            std::fs::write(file("client.pem"), &leaf.pem).unwrap();
            std::fs::write(file("client.key"), leaf.key.serialize_pem()).unwrap();
            ClientCertificate { chain_file: file("client.pem"), key_file: file("client.key") }
        });
        let rule = HostRule {
            ca_file: Some(file("ca.pem")),
            client_cert,
            ..HostRule::new("origin.test".parse().unwrap())
        };
        (rule, dir)
    }

    #[tokio::test]
    async fn a_host_with_a_ca_file_is_verified_against_it() {
        let ca = origin::Authority::new();
        let script = vec![ReadRequest, Send(OK), ReadRequest, Send(OK), UntilClosed];
        let origin = Origin::tls(vec![script], ca.leaf("origin.test").server()).await;
        let (upstream, _dir) = pinned(&ca, None);
        let target = target(Scheme::Https, origin.address);
        let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
        assert!(sent.timing.tls.is_some());
        assert_eq!(text(sent).await.unwrap(), "ok");
        assert!(send(&upstream, &target, "a", get("/")).await.unwrap().reused);
    }

    #[tokio::test]
    async fn a_bad_certificate_is_refused_before_a_byte_of_the_request_leaves() {
        let ca = origin::Authority::new();
        let other = origin::Authority::new();
        for (leaf, why) in [
            (ca.leaf("other.test"), "another name"),
            (ca.expired("origin.test"), "expired"),
            (ca.not_yet_valid("origin.test"), "not valid yet"),
            (ca.for_clients_only("origin.test"), "not meant for servers"),
            (other.leaf("origin.test"), "not trusted"),
            (Leaf::self_signed("origin.test"), "not trusted"),
            (ca.without_the_middle("origin.test"), "a chain is incomplete"),
        ] {
            let origin = Origin::tls(vec![vec![UntilClosed]], leaf.server()).await;
            let (upstream, _dir) = pinned(&ca, None);
            let target = target(Scheme::Https, origin.address);
            let refusal = send(&upstream, &target, "a", post("secret")).await.unwrap_err();
            assert_eq!(refusal.code, Code::CertificateInvalid, "{refusal}");
            assert!(refusal.detail.contains(why), "{refusal}");
            assert_eq!(origin.received(), [""], "{why}");
        }
    }

    #[tokio::test]
    async fn a_revoked_certificate_is_refused_and_so_is_one_that_no_list_speaks_of() {
        let (ca, other) = (origin::Authority::new(), origin::Authority::new());
        for (list, why) in [
            (ca.revoke(&[8], 2999), None),
            (ca.revoke(&[7, 8], 2999), Some("it is revoked")),
            (ca.revoke(&[8], 2021), Some("has run out")),
            (other.revoke(&[], 2999), Some("is of its issuer")),
        ] {
            let script = vec![ReadRequest, Send(OK), UntilClosed];
            let origin = Origin::tls(vec![script], ca.numbered("origin.test", 7).server()).await;
            let (mut rule, dir) = rule(&ca, None);
            let path = dir.path().join("revoked.pem");
            std::fs::write(&path, list).unwrap();
            rule.crl_file = Some(path);
            let upstream = Upstream::new(Settings { hosts: vec![rule], ..settings() }).unwrap();
            let target = target(Scheme::Https, origin.address);
            let sent = send(&upstream, &target, "a", post("secret")).await;
            let Some(why) = why else {
                assert_eq!(text(sent.unwrap()).await.unwrap(), "ok");
                continue;
            };
            let refusal = sent.unwrap_err();
            assert_eq!(refusal.code, Code::CertificateInvalid, "{refusal}");
            assert!(refusal.detail.contains(why), "{refusal}");
            assert_eq!(origin.received(), [""], "{why}");
        }
    }

    #[tokio::test]
    async fn a_list_that_cannot_be_read_is_named() {
        let ca = origin::Authority::new();
        for text in ["", "nothing", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
            let (mut rule, dir) = rule(&ca, None);
            let path = dir.path().join("revoked.pem");
            std::fs::write(&path, text).unwrap();
            rule.crl_file = Some(path);
            let made = Upstream::new(Settings { hosts: vec![rule], ..settings() });
            let error = made.map(drop).unwrap_err().to_string();
            assert!(error.contains("origin.test") && error.contains("revoked.pem"), "{error}");
        }
    }

    #[tokio::test]
    async fn without_a_ca_file_a_private_ca_is_not_believed() {
        let leaf = origin::Authority::new().leaf("origin.test");
        let origin = Origin::tls(vec![vec![UntilClosed]], leaf.server()).await;
        let sent = send(&upstream(), &target(Scheme::Https, origin.address), "a", get("/")).await;
        assert_eq!(refused(sent), Code::CertificateInvalid);
    }

    #[tokio::test]
    async fn a_host_that_does_not_speak_tls_is_not_spoken_to_in_the_clear() {
        let origin = Origin::plain(vec![vec![Send("HTTP/1.1 200 OK\r\n\r\n"), UntilClosed]]).await;
        let target = target(Scheme::Https, origin.address);
        let sent = send(&upstream(), &target, "a", get("/secret-path")).await;
        assert_eq!(refused(sent), Code::TlsFailed);
        assert!(!origin.received().concat().contains("secret-path"));
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown_where_it_was_configured() {
        let ca = origin::Authority::new();
        let server = ca.leaf("origin.test");
        let script = vec![ReadRequest, Send(OK), UntilClosed];
        let origin = Origin::tls(vec![script], ca.mutual(&server)).await;
        let target = target(Scheme::Https, origin.address);
        let client = ca.leaf("client.test");
        let (upstream, _dir) = pinned(&ca, Some(&client));
        let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
        assert_eq!(text(sent).await.unwrap(), "ok");
        let (upstream, _dir) = pinned(&ca, None);
        assert!(send(&upstream, &target, "a", get("/")).await.is_err());
    }
}

mod sessions {
    use super::*;
    use rustls::crypto::aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
    use rustls::version::{TLS12, TLS13};
    use rustls::{HandshakeKind, NamedGroup};

    /// One connection for each request: nothing is kept but sessions.
    fn unpooled(ca: &origin::Authority, client: Option<&Leaf>) -> (Upstream, tempfile::TempDir) {
        let (rule, dir) = trust::rule(ca, client);
        let pool = PoolLimits { per_key: 0, ..PoolLimits::default() };
        let settings = Settings { hosts: vec![rule], pool, ..settings() };
        (Upstream::new(settings).unwrap(), dir)
    }

    async fn ask(upstream: &Upstream, origin: &Origin, principal: &str) {
        let target = target(Scheme::Https, origin.address);
        let sent = send(upstream, &target, principal, get("/")).await.unwrap();
        assert!(!sent.reused);
        assert_eq!(text(sent).await.unwrap(), "ok");
    }

    fn kinds(origin: &Origin) -> Vec<HandshakeKind> {
        origin.handshakes().into_iter().map(|(kind, _)| kind).collect()
    }

    fn script() -> Vec<Vec<Step>> {
        vec![vec![ReadRequest, Send(OK), UntilClosed]]
    }

    #[tokio::test]
    async fn the_next_connection_of_a_principal_resumes_and_that_of_another_does_not() {
        use HandshakeKind::{Full, Resumed};
        let ca = origin::Authority::new();
        for version in [&TLS12, &TLS13] {
            let leaf = ca.leaf("origin.test");
            let config = leaf.server_of(&[version], vec![X25519MLKEM768, X25519]);
            let origin = Origin::tls(script(), config).await;
            let (upstream, _dir) = unpooled(&ca, None);
            for principal in ["a", "a", "b", "a", "b"] {
                ask(&upstream, &origin, principal).await;
            }
            assert_eq!(kinds(&origin), [Full, Resumed, Full, Resumed, Resumed], "{version:?}");
        }
    }

    /// The same name, the same server, another profile: what was proved to one is not taken for
    /// the other.
    #[tokio::test]
    async fn a_session_is_not_resumed_under_another_profile() {
        let ca = origin::Authority::new();
        let origin = Origin::tls(script(), ca.leaf("origin.test").server()).await;
        let (plain, _dir) = unpooled(&ca, None);
        ask(&plain, &origin, "a").await;
        let client = ca.leaf("client.test");
        let (with_certificate, _dir) = unpooled(&ca, Some(&client));
        ask(&with_certificate, &origin, "a").await;
        assert_eq!(kinds(&origin), [HandshakeKind::Full, HandshakeKind::Full]);
        // A host of the same profile list, under a pattern that has another CA, is refused: no
        // session of the right one stands in for its certificate.
        let other = origin::Authority::new();
        let (wrong, _dir) = unpooled(&other, None);
        let refusal = send(&wrong, &target(Scheme::Https, origin.address), "a", get("/")).await;
        assert_eq!(refused(refusal), Code::CertificateInvalid);
    }

    #[tokio::test]
    async fn the_key_exchange_is_post_quantum_where_the_origin_has_it() {
        let ca = origin::Authority::new();
        let leaf = ca.leaf("origin.test");
        for (groups, expected) in [
            (vec![X25519, X25519MLKEM768], NamedGroup::X25519MLKEM768),
            (vec![X25519], NamedGroup::X25519),
        ] {
            let origin = Origin::tls(script(), leaf.server_of(&[&TLS13], groups)).await;
            let (upstream, _dir) = unpooled(&ca, None);
            ask(&upstream, &origin, "a").await;
            // No second round trip: both shares are in the first message.
            assert_eq!(origin.handshakes(), [(HandshakeKind::Full, Some(expected))]);
        }
    }
}

mod addresses {
    use super::*;

    async fn canary() -> Origin {
        Origin::plain(vec![vec![UntilClosed]]).await
    }

    #[tokio::test]
    async fn a_closed_port_is_a_failed_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let refusal = send(&upstream(), &target(Scheme::Http, address), "a", get("/secret")).await;
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.code, Code::ConnectFailed);
        let detail = format!("origin.test:{} refused the connection", address.port());
        assert_eq!(refusal.detail, detail);
    }

    #[tokio::test]
    async fn loopback_is_closed_by_default_in_every_spelling() {
        let origin = canary().await;
        let port = origin.address.port();
        let upstream =
            Upstream::new(Settings { guard: AddressGuard::default(), ..settings() }).unwrap();
        for host in
            ["127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "[::127.0.0.1]", "any.test"]
        {
            let target = Authority::parse(host, Some(port)).unwrap();
            let refusal = upstream.tunnel(recorded(target), "a").await.unwrap_err();
            assert_eq!(refusal.code, Code::AddressForbidden, "{host}");
        }
        assert_eq!(origin.connections(), 0);
    }

    #[tokio::test]
    async fn a_name_is_resolved_once_for_a_connection_and_not_at_all_for_a_reused_one() {
        let canary = canary().await;
        let script = vec![ReadRequest, Send(OK), ReadRequest, Send(OK), UntilClosed];
        let origin = Origin::plain(vec![script]).await;
        let resolver = Arc::new(Loopback {
            // Where a second look would lead.
            then: Some(canary.address),
            ..Loopback::default()
        });
        let upstream =
            Upstream::new(Settings { resolver: resolver.clone(), ..settings() }).unwrap();
        let target = target(Scheme::Http, origin.address);
        for _ in 0..2 {
            let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
            text(sent).await.unwrap();
        }
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
        assert_eq!(canary.connections(), 0);
    }

    /// Every name has these addresses.
    struct All(&'static [&'static str]);

    impl Resolve for All {
        fn resolve<'a>(&'a self, _: &'a str, port: u16, _: &'a str) -> Resolving<'a> {
            let addresses = self.0.iter().map(|ip| (ip.parse::<IpAddr>().unwrap(), port).into());
            let addresses = addresses.collect();
            Box::pin(async move { Ok(addresses) })
        }
    }

    fn led_to(addresses: &'static [&'static str]) -> Upstream {
        let guard = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap());
        let guard = AddressGuard::new(guard.to_vec());
        Upstream::new(Settings { resolver: Arc::new(All(addresses)), guard, ..settings() }).unwrap()
    }

    /// Twenty that refuse: were the next one tried after the stagger only, the time for connecting
    /// would be over before its turn.
    #[tokio::test]
    async fn the_next_address_is_tried_at_once_when_one_refuses() {
        const REFUSING: usize = 20;
        struct Many;
        impl Resolve for Many {
            fn resolve<'a>(&'a self, _: &'a str, port: u16, _: &'a str) -> Resolving<'a> {
                let last = [127, 0, 0, 1];
                let refusing = (1..=REFUSING).map(|n| [127, 0, 1, u8::try_from(n).unwrap()]);
                let all = refusing.chain([last]).map(|ip| (ip, port).into()).collect();
                Box::pin(async move { Ok(all) })
            }
        }
        let settings = Settings { resolver: Arc::new(Many), ..settings() };
        let staggered = STAGGER * u32::try_from(REFUSING).unwrap();
        assert!(staggered >= settings.timeouts.connect);
        let origin = Origin::plain(vec![vec![ReadRequest, Send(OK)]]).await;
        let upstream = Upstream::new(settings).unwrap();
        let sent = send(&upstream, &target(Scheme::Http, origin.address), "a", get("/")).await;
        assert_eq!(text(sent.unwrap()).await.unwrap(), "ok");
    }

    /// RFC 8305 section 5.
    const STAGGER: Duration = Duration::from_millis(250);

    /// A listener whose queue is full: it answers no SYN on Linux, as a network that drops does.
    #[cfg(target_os = "linux")]
    async fn black_hole(
        address: SocketAddr,
    ) -> (tokio::net::TcpListener, Vec<tokio::net::TcpStream>) {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        };
        let socket = socket.unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut queue = Vec::new();
        let wait = Duration::from_millis(100);
        let connect = || tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        while let Ok(queued) = tokio::time::timeout(wait, connect()).await {
            queue.push(queued.unwrap());
        }
        (listener, queue)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_swallows_packets_costs_the_stagger_and_no_more() {
        let origin = Origin::plain(vec![vec![ReadRequest, Send(OK)]]).await;
        let port = origin.address.port();
        let third = tokio::net::TcpListener::bind(("127.0.0.3", port)).await.unwrap();
        let upstream = led_to(&["127.0.0.2", "127.0.0.1", "127.0.0.3"]);
        let _hole = black_hole(SocketAddr::from(([127, 0, 0, 2], port))).await;
        let start = std::time::Instant::now();
        let sent = send(&upstream, &target(Scheme::Http, origin.address), "a", get("/")).await;
        assert_eq!(text(sent.unwrap()).await.unwrap(), "ok");
        let took = start.elapsed();
        assert!(took >= STAGGER && took < 8 * STAGGER, "{took:?}");
        // Won by the second, so the third was never asked.
        let asked = tokio::time::timeout(2 * STAGGER, third.accept()).await;
        assert!(asked.is_err(), "{asked:?}");
    }

    /// The whole of IPv6 is a black hole: the resolver's favourite is tried first, IPv4 at once after.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_black_hole_for_ipv6_is_passed_by() {
        let origin = Origin::plain(vec![vec![ReadRequest, Send(OK)]]).await;
        let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, origin.address.port()));
        if std::net::TcpListener::bind(v6).is_err() {
            return; // A machine without IPv6: there is no black hole to be had.
        }
        let _hole = black_hole(v6).await;
        let upstream = led_to(&["::1", "127.0.0.1"]);
        let start = std::time::Instant::now();
        let sent = send(&upstream, &target(Scheme::Http, origin.address), "a", get("/")).await;
        assert_eq!(text(sent.unwrap()).await.unwrap(), "ok");
        let took = start.elapsed();
        assert!(took >= STAGGER && took < 8 * STAGGER, "{took:?}");
    }

    #[tokio::test]
    async fn when_all_refuse_the_first_refusal_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let upstream = led_to(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
        let refusal = send(&upstream, &target(Scheme::Http, address), "a", get("/")).await;
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.code, Code::ConnectFailed);
        assert!(refusal.detail.contains("refused the connection"), "{refusal}");
    }

    #[tokio::test]
    async fn a_connection_has_no_delay_and_is_kept_alive() {
        let origin = canary().await;
        let stream = upstream().tunnel(recorded(authority(origin.address)), "a").await;
        let Transport::Tcp(stream) = stream.unwrap() else { panic!("no socket") };
        assert!(stream.nodelay().unwrap());
        assert!(rustix::net::sockopt::socket_keepalive(&stream).unwrap());
        let idle = rustix::net::sockopt::tcp_keepidle(&stream).unwrap();
        assert_eq!(idle, Duration::from_mins(1));
    }

    #[tokio::test]
    async fn an_override_leads_to_a_private_address_and_keeps_the_name() {
        let ca = origin::Authority::new();
        let leaf = ca.leaf("api.example.test");
        let origin = Origin::tls(vec![vec![ReadRequest, Send(OK)]], leaf.server()).await;
        let dir = tempfile::tempdir().unwrap();
        let ca_file = dir.path().join("ca.pem");
        ca.write(&ca_file);
        let rule = HostRule {
            address: Some(Authority::parse(&origin.address.to_string(), None).unwrap()),
            ca_file: Some(ca_file),
            ..HostRule::new("*.example.test".parse().unwrap())
        };
        let upstream = Upstream::new(Settings {
            hosts: vec![rule],
            guard: AddressGuard::default(),
            ..settings()
        })
        .unwrap();
        let destination: Destination = "https://api.example.test".parse().unwrap();
        let target = Target {
            scheme: destination.scheme,
            authority: Authority {
                host: destination.host.exact().unwrap().clone(),
                port: destination.port,
            },
        };
        let sent = send(&upstream, &target, "a", get("/")).await.unwrap();
        assert_eq!(text(sent).await.unwrap(), "ok");
    }

    #[tokio::test]
    async fn an_override_does_not_lead_to_the_proxy() {
        let own = canary().await;
        let rule = HostRule {
            address: Some(Authority::parse(&own.address.to_string(), None).unwrap()),
            ..HostRule::new("*".parse().unwrap())
        };
        let upstream = Upstream::new(Settings {
            hosts: vec![rule],
            own: SelfAddresses::new(vec![own.address]),
            ..settings()
        })
        .unwrap();
        let target = Authority::parse("any.test:443", None).unwrap();
        let refusal = upstream.tunnel(recorded(target), "a").await.unwrap_err();
        assert_eq!(refusal.code, Code::Loop);
        assert_eq!(own.connections(), 0);
    }

    #[tokio::test]
    async fn a_tunnel_is_dialled_like_a_request() {
        let origin = canary().await;
        let stream = upstream().tunnel(recorded(authority(origin.address)), "a").await;
        let Transport::Tcp(stream) = stream.unwrap() else { panic!("no socket") };
        assert_eq!(stream.peer_addr().unwrap(), origin.address);
    }
}

/// The proxy moves these between threads.
#[test]
fn what_the_proxy_holds_can_move_between_threads() {
    fn send<T: std::marker::Send>() {}
    fn sync<T: Sync>() {}
    send::<UpstreamBody>();
    send::<Upstream>();
    sync::<Upstream>();
}
