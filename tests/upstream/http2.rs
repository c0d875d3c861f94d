//! Shared connections: what brings requests onto one, what opens another, and what is sent again.

use std::sync::atomic::AtomicU32;

use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;

type Server = Connection<TlsStream<TcpStream>, Bytes>;
type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// An origin that speaks HTTP/2. Each connection is served by `serve`, with its number.
struct Two {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    ca: tempfile::TempDir,
}

impl Two {
    async fn start<F, R>(builder: Builder, serve: F) -> Self
    where
        F: Fn(usize, Server) -> R + std::marker::Send + Sync + 'static,
        R: Future<Output = ()> + std::marker::Send + 'static,
    {
        let authority = origin::Authority::new();
        let mut config = authority.leaf("origin.test").server();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(config));
        let ca = tempfile::tempdir().unwrap();
        authority.write(&ca.path().join("ca.pem"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let serve = Arc::new(serve);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (tls, builder, serve) = (tls.clone(), builder.clone(), Arc::clone(&serve));
                tokio::spawn(async move {
                    let Ok(mut stream) = tls.accept(stream).await else { return };
                    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                        return one(&mut stream).await;
                    }
                    if let Ok(server) = builder.handshake(stream).await {
                        serve(number, server).await;
                    }
                });
            }
        });
        Self { address, connections, ca }
    }

    fn upstream(&self) -> Upstream {
        self.upstream_with(PoolLimits::default())
    }

    fn upstream_with(&self, pool: PoolLimits) -> Upstream {
        Upstream::new(self.settings(pool)).unwrap()
    }

    fn settings(&self, pool: PoolLimits) -> Settings {
        let rule = HostRule {
            ca_file: Some(self.ca.path().join("ca.pem")),
            ..HostRule::new("origin.test".parse().unwrap())
        };
        let mut settings = settings();
        settings.hosts = vec![rule];
        settings.pool = pool;
        settings.timeouts.response = Duration::from_secs(10);
        settings.timeouts.tls = Duration::from_secs(10);
        settings
    }

    fn target(&self) -> Target {
        target(Scheme::Https, self.address)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Answers one request in HTTP/1.1.
async fn one(stream: &mut TlsStream<TcpStream>) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"once") {
        seen.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(OK.as_bytes()).await.unwrap();
    let _closed = stream.read_u8().await;
}

/// Answers with the body of the request.
async fn echo((request, mut respond): Asked) {
    let mut body = request.into_body();
    let mut whole = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        whole.extend_from_slice(&data);
    }
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let _ = stream.send_data(whole.into(), true);
    }
}

/// Answers all.
async fn serve_all(mut server: Server) {
    while let Some(Ok(asked)) = server.accept().await {
        tokio::spawn(echo(asked));
    }
}

fn say(text: &'static str) -> Request<Full<Bytes>> {
    post(text)
}

#[tokio::test]
async fn what_an_origin_has_not_looked_at_is_sent_again_with_its_body() {
    for refuse_with_goaway in [false, true] {
        let origin = Two::start(Builder::new(), move |number, mut server| async move {
            if number > 0 {
                return serve_all(server).await;
            }
            let Some(Ok(asked)) = server.accept().await else { return };
            tokio::spawn(echo(asked));
            if refuse_with_goaway {
                // The first is the last that it will have looked at.
                server.graceful_shutdown();
                while let Some(Ok(asked)) = server.accept().await {
                    tokio::spawn(echo(asked));
                }
                return;
            }
            while let Some(Ok((_, mut respond))) = server.accept().await {
                respond.send_reset(Reason::REFUSED_STREAM);
            }
        })
        .await;
        let (upstream, target) = (origin.upstream(), origin.target());
        let first = send(&upstream, &target, "a", say("first")).await.unwrap();
        assert_eq!(text(first).await.unwrap(), "first");
        if refuse_with_goaway {
            for _ in 0..20 {
                let sent = send(&upstream, &target, "a", say("again")).await.unwrap();
                assert_eq!(text(sent).await.unwrap(), "again");
            }
            assert_eq!(origin.connections(), 2);
            continue;
        }
        // The same connection refuses for ever: three attempts, and no more.
        let code = refused(send(&upstream, &target, "a", say("again")).await);
        assert_eq!(code, Code::UpstreamFailed);
        assert_eq!(upstream.pool_counts().retried, 2);
    }
}

/// Frames by hand: an origin that tells with GOAWAY which requests it has not looked at, after it has
/// read them.
#[tokio::test]
async fn a_body_that_was_sent_in_vain_is_sent_again_if_it_is_short() {
    let reads = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&reads);
    let origin = Two::start(Builder::new(), move |number, mut server| {
        let counted = Arc::clone(&counted);
        async move {
            if number % 2 == 1 {
                return serve_all(server).await;
            }
            while let Some(Ok((request, mut respond))) = server.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    let data = body.data().await.unwrap().unwrap();
                    let _ = body.flow_control().release_capacity(data.len());
                    counted.fetch_add(1, Ordering::SeqCst);
                    respond.send_reset(Reason::REFUSED_STREAM);
                });
                server.graceful_shutdown();
            }
        }
    })
    .await;
    let (upstream, target) = (origin.upstream(), origin.target());
    let sent = send(&upstream, &target, "a", say("short")).await.unwrap();
    assert_eq!(text(sent).await.unwrap(), "short");
    assert_eq!((reads.load(Ordering::SeqCst), origin.connections()), (1, 2));
    let long = Request::post("/").header("Host", "origin.test");
    let long = long.body(Full::from(vec![b'x'; 200_000])).unwrap();
    upstream.close_idle();
    assert_eq!(refused(send(&upstream, &target, "a", long).await), Code::UpstreamFailed);
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn what_an_origin_may_have_looked_at_is_not_sent_again() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let origin = Two::start(Builder::new(), move |_, mut server| {
            let count = Arc::clone(&count);
            async move {
                while let Some(Ok((_, mut respond))) = server.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    respond.send_reset(reason);
                }
            }
        })
        .await;
        let (upstream, target) = (origin.upstream(), origin.target());
        for n in 1..=2 {
            let code = refused(send(&upstream, &target, "a", say("pay")).await);
            assert_eq!((code, asked.load(Ordering::SeqCst)), (Code::UpstreamFailed, n));
        }
    }
    // The connection is cut when the request has arrived.
    let origin = Two::start(Builder::new(), |_, mut server| async move {
        let _ = server.accept().await;
    })
    .await;
    let (upstream, target) = (origin.upstream(), origin.target());
    assert_eq!(refused(send(&upstream, &target, "a", say("pay")).await), Code::UpstreamFailed);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_origin_that_asks_for_http_1_gets_it() {
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let origin = Two::start(Builder::new(), move |_, mut server| {
        let count = Arc::clone(&count);
        async move {
            while let Some(Ok((_, mut respond))) = server.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                respond.send_reset(Reason::HTTP_1_1_REQUIRED);
            }
        }
    })
    .await;
    let (upstream, target) = (origin.upstream(), origin.target());
    for n in 2..=4 {
        let sent = send(&upstream, &target, "a", say("once")).await.unwrap();
        assert_eq!(text(sent).await.unwrap(), "ok");
        upstream.close_idle();
        // Asked once in HTTP/2, and never again.
        assert_eq!((asked.load(Ordering::SeqCst), origin.connections()), (1, n));
    }
}

#[tokio::test]
async fn a_connection_that_closed_while_it_waited_costs_nobody_an_error() {
    let origin = Two::start(Builder::new(), |_, mut server| async move {
        let Some(Ok(asked)) = server.accept().await else { return };
        let answered = tokio::spawn(echo(asked));
        // Cut, without a word.
        tokio::select! {
            _ = server.accept() => {}
            () = async { let _ = answered.await; tokio::time::sleep(Duration::from_millis(20)).await } => {}
        }
    })
    .await;
    let (upstream, target) = (origin.upstream(), origin.target());
    for n in 1..=5 {
        let sent = send(&upstream, &target, "a", say("call")).await.unwrap();
        assert_eq!(text(sent).await.unwrap(), "call");
        assert_eq!(origin.connections(), n);
        while upstream.pool_counts().idle > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn more_streams_than_an_origin_takes_get_another_connection_up_to_a_bound() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let at_once = Arc::new(AtomicUsize::new(0));
    let (held, counted) = (Arc::clone(&gate), Arc::clone(&at_once));
    let mut builder = Builder::new();
    builder.max_concurrent_streams(3);
    let origin = Two::start(builder, move |_, mut server| {
        let (held, counted) = (Arc::clone(&held), Arc::clone(&counted));
        async move {
            while let Some(Ok(asked)) = server.accept().await {
                let (held, counted) = (Arc::clone(&held), Arc::clone(&counted));
                tokio::spawn(async move {
                    counted.fetch_add(1, Ordering::SeqCst);
                    held.acquire().await.unwrap().forget();
                    echo(asked).await;
                });
            }
        }
    })
    .await;
    let pool = PoolLimits { per_key: 4, ..PoolLimits::default() };
    let (upstream, target) = (Arc::new(origin.upstream_with(pool)), origin.target());
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let (upstream, target) = (Arc::clone(&upstream), target.clone());
            tokio::spawn(async move {
                let sent = send(&upstream, &target, "a", say("many")).await?;
                Ok::<_, Refusal>(text(sent).await.unwrap())
            })
        })
        .collect();
    // Four connections with three streams each, and eight that wait.
    while at_once.load(Ordering::SeqCst) < 12 {
        tokio::task::yield_now().await;
    }
    assert_eq!(origin.connections(), 4);
    gate.add_permits(20);
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap(), "many");
    }
    assert_eq!((origin.connections(), upstream.pool_counts().opened), (4, 4));
    assert_eq!(upstream.pool_counts().idle, 4);
}

#[tokio::test]
async fn one_opens_for_all_and_fails_for_all() {
    let origin = Two::start(Builder::new(), |_, server| serve_all(server)).await;
    let ask_all = |upstream: Arc<Upstream>, count: usize| {
        let target = origin.target();
        async move {
            let asked: Vec<_> = (0..count)
                .map(|_| {
                    let (upstream, target) = (Arc::clone(&upstream), target.clone());
                    tokio::spawn(async move {
                        send(&upstream, &target, "a", say("all")).await.map(|_| ())
                    })
                })
                .collect();
            let mut results = Vec::new();
            for asked in asked {
                results.push(asked.await.unwrap().map_err(|refusal| refusal.code));
            }
            results
        }
    };
    assert_eq!(ask_all(Arc::new(origin.upstream()), 100).await, vec![Ok(()); 100]);
    assert_eq!(origin.connections(), 1);
    // Whom nobody vouches for.
    let strict = Arc::new(Upstream::new(settings()).unwrap());
    let results = ask_all(strict, 100).await;
    assert_eq!(results, vec![Err(Code::CertificateInvalid); 100]);
    assert!(origin.connections() <= 3, "{}", origin.connections());
}

#[tokio::test]
async fn shared_connections_age_and_are_let_go_of_in_order() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let origin = Two::start(Builder::new(), move |_, mut server| {
        let count = Arc::clone(&count);
        async move {
            loop {
                match server.accept().await {
                    Some(Ok(asked)) => drop(tokio::spawn(echo(asked))),
                    // GOAWAY with NO_ERROR, and then the end: not a cut.
                    None => break,
                    Some(Err(error)) => panic!("{error}"),
                }
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let short = Duration::from_millis(100);
    for pool in [
        PoolLimits { idle: short, ..PoolLimits::default() },
        PoolLimits { age: short, ..PoolLimits::default() },
    ] {
        let (upstream, target) = (origin.upstream_with(pool), origin.target());
        let before = ended.load(Ordering::SeqCst);
        let sent = send(&upstream, &target, "a", say("x")).await.unwrap();
        assert_eq!(text(sent).await.unwrap(), "x");
        assert_eq!(upstream.pool_counts().idle, 1);
        upstream.sweep();
        assert_eq!(upstream.pool_counts().idle, 1);
        tokio::time::sleep(short).await;
        upstream.sweep();
        assert_eq!((upstream.pool_counts().idle, upstream.pool_counts().expired), (0, 1));
        while ended.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_pool_that_keeps_nothing_shares_nothing() {
    let origin = Two::start(Builder::new(), |_, server| serve_all(server)).await;
    let pool = PoolLimits { per_key: 0, ..PoolLimits::default() };
    let (upstream, target) = (origin.upstream_with(pool), origin.target());
    for n in 1..=3 {
        let sent = send(&upstream, &target, "a", say("x")).await.unwrap();
        assert!(!sent.reused);
        assert_eq!(text(sent).await.unwrap(), "x");
        assert_eq!(origin.connections(), n);
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_or_stops_coming_has_its_times() {
    let origin = Two::start(Builder::new(), |_, mut server| async move {
        while let Some(Ok((request, mut respond))) = server.accept().await {
            if request.uri().path() == "/half" {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                tokio::spawn(async move {
                    let _held = stream;
                    std::future::pending::<()>().await;
                });
            } else {
                tokio::spawn(async move {
                    let _held = respond;
                    std::future::pending::<()>().await;
                });
            }
        }
    })
    .await;
    let (upstream, target) = (origin.upstream(), origin.target());
    let principal = Arc::from("a");
    let soon = Some(Duration::from_millis(100));
    let call = Call {
        origin: &target,
        principal: &principal,
        response_timeout: soon,
        idle_timeout: None,
        interims: None,
        last_look: None,
        certificate: None,
    };
    let late = upstream.send(recorded(get("/never")), call).await;
    assert_eq!(refused(late), Code::ResponseTimeout);
    let sent = send(&upstream, &target, "a", get("/half")).await.unwrap();
    assert!(sent.reused, "one stream's silence is not its connection's");
    let error = text(sent).await.unwrap_err();
    assert!(matches!(error, BodyError::Idle(_)), "{error:?}");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn what_an_origin_says_before_its_answer_is_heard_by_who_wants_to() {
    let origin = Two::start(Builder::new(), |_, mut server| async move {
        while let Some(Ok((request, mut respond))) = server.accept().await {
            for status in [100, 102, 103] {
                let interim = Response::builder().status(status).header("link", "</a.css>");
                respond.send_informational(interim.body(()).unwrap()).unwrap();
            }
            tokio::spawn(echo((request, respond)));
        }
    })
    .await;
    let (upstream, target) = (origin.upstream(), origin.target());
    let principal = Arc::from("a");
    let interims = Interims::default();
    for wanted in [None, Some(&interims)] {
        let call = Call {
            origin: &target,
            principal: &principal,
            response_timeout: None,
            idle_timeout: None,
            interims: wanted,
            last_look: None,
            certificate: None,
        };
        let sent = upstream.send(recorded(say("x")), call).await.unwrap();
        assert_eq!(text(sent).await.unwrap(), "x");
    }
    let heard: Vec<u16> =
        std::iter::from_fn(|| interims.take()).map(|i| i.status().as_u16()).collect();
    assert_eq!(heard, [102, 103]);
}

/// HTTP/2 has no 101, and an agent of HTTP/1.1 would take it for the answer.
#[tokio::test]
async fn an_origin_that_switches_protocols_is_not_believed() {
    let origin = Two::start(Builder::new(), |_, mut server| async move {
        while let Some(Ok((request, mut respond))) = server.accept().await {
            let interim = Response::builder().status(101).body(()).unwrap();
            respond.send_informational(interim).unwrap();
            tokio::spawn(echo((request, respond)));
        }
    })
    .await;
    let (upstream, target) = (origin.upstream(), origin.target());
    let (principal, interims) = (Arc::from("a"), Interims::default());
    let call = Call {
        origin: &target,
        principal: &principal,
        response_timeout: None,
        idle_timeout: None,
        interims: Some(&interims),
        last_look: None,
        certificate: None,
    };
    let refusal = upstream.send(recorded(say("x")), call).await;
    assert_eq!(refused(refusal), Code::UpstreamFailed);
    assert!(interims.take().is_none());
}

/// A connection is served by one runtime. Others have streams of it, which wake both, until they have asked so
/// often that a connection of their own is cheaper.
#[test]
fn a_busy_runtime_gets_a_connection_of_its_own() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).enable_all().build().unwrap()
    };
    let (far, one, other, third) = (runtime(), runtime(), runtime(), runtime());
    let origin = far.block_on(Two::start(Builder::new(), |_, server| serve_all(server)));
    let upstream = origin.upstream();
    let ask = |from: &tokio::runtime::Runtime, upstream: &Upstream, count: usize| {
        from.block_on(async {
            for _ in 0..count {
                let sent = send(upstream, &origin.target(), "a", say("hello")).await.unwrap();
                assert_eq!(text(sent).await.unwrap(), "hello");
            }
        });
        origin.connections()
    };
    assert_eq!(ask(&one, &upstream, 200), 1);
    assert_eq!(ask(&other, &upstream, 64), 1);
    // The next one wants it, and does not wait for it.
    ask(&other, &upstream, 1);
    let opened = |from: &tokio::runtime::Runtime, upstream: &Upstream, count: usize| {
        let start = std::time::Instant::now();
        while ask(from, upstream, 0) < count {
            assert!(start.elapsed() < Duration::from_secs(10), "no connection more");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    opened(&other, &upstream, 2);
    // Others may wait for its end of the handshake still.
    assert_eq!(ask(&other, &upstream, 60), 2);
    assert_eq!([ask(&other, &upstream, 300), ask(&one, &upstream, 300)], [2, 2]);
    assert_eq!(ask(&third, &upstream, 64), 2);
    ask(&third, &upstream, 1);
    opened(&third, &upstream, 3);
    assert_eq!([ask(&third, &upstream, 300), ask(&one, &upstream, 300)], [3, 3]);
    // Where there may be but one, it is for all.
    let upstream = origin.upstream_with(PoolLimits { per_key: 1, ..PoolLimits::default() });
    assert_eq!([ask(&one, &upstream, 1), ask(&other, &upstream, 300)], [4, 4]);
    // And where no other can be had, as here, where the name leads elsewhere now: nobody notices that.
    let loopback =
        Arc::new(Loopback { then: Some(([10, 0, 0, 1], 1).into()), ..Loopback::default() });
    let mut settings = origin.settings(PoolLimits::default());
    settings.resolver = Arc::<Loopback>::clone(&loopback);
    let upstream = Upstream::new(settings).unwrap();
    assert_eq!([ask(&one, &upstream, 1), ask(&other, &upstream, 260)], [5, 5]);
    let tried = || (2..=1 + 260 / 65).contains(&loopback.asked.load(Ordering::SeqCst));
    let start = std::time::Instant::now();
    while !tried() {
        assert!(start.elapsed() < Duration::from_secs(10), "it is tried now and then");
        std::thread::sleep(Duration::from_millis(1));
    }
}
