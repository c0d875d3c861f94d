//! HTTP/2 inside the tunnel, beyond it, and from one to the other.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;

use crate::support::*;

const KEY: (&str, &str) = ("authorization", "Bearer locum_main");

fn run<T>(test: impl Future<Output = T>) -> T {
    runtime().block_on(test)
}

/// What has to happen soon.
async fn soon<T>(what: &str, it: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, it).await.unwrap_or_else(|_| panic!("no {what}"))
}

fn open(world: &World) -> Http2 {
    run(Http2::open(&world.serve, &world.agent))
}

fn get(world: &World, path: &str) -> Reply {
    run(open(world).ask(request2("GET", path, &[KEY]), b""))
}

/// The records of the last request, once its outcome is there.
#[track_caller]
fn outcome(world: &World) -> serde_json::Value {
    eventually("the outcome", PATIENCE, || {
        let audit = world.home.audit();
        let access = audit.iter().rfind(|r| r["kind"] == "access")?;
        let same = |r: &&serde_json::Value| {
            r["kind"] == "outcome" && r["request_id"] == access["request_id"]
        };
        audit.iter().find(same).cloned()
    })
}

#[test]
fn each_side_speaks_what_it_has_and_all_four_pairs_work() {
    for (two, version) in [(false, "HTTP/1.1"), (true, "HTTP/2.0")] {
        let world = if two { World::http2() } else { World::new() };
        // From an HTTP/1.1 agent.
        let answer = world.ask("POST", "/echo", &[AUTHORIZED, "TE: trailers"], "body");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = world.origin.last();
        assert_eq!((&*seen.version, &*seen.body, seen.complete), (version, &b"body"[..], true));
        assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", world.key)));
        assert_eq!(seen.header("te"), Some("trailers"));
        let answer = world.ask("GET", "/echo-trailer", &[AUTHORIZED, "TE: trailers"], "");
        assert_eq!(answer.trailers, [("x-echo".to_owned(), "locum_main".to_owned())], "{version}");
        // From an HTTP/2 agent, all on one connection.
        run(async {
            let agent = Http2::open(&world.serve, &world.agent).await;
            let fields = [KEY, ("te", "trailers"), ("x-mine", "1")];
            let reply = agent.ask(request2("POST", "/echo", &fields), b"body").await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let seen = world.origin.last();
            assert_eq!((&*seen.version, &*seen.body, seen.complete), (version, &b"body"[..], true));
            assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", world.key)));
            assert_eq!((seen.header("te"), seen.header("x-mine")), (Some("trailers"), Some("1")));
            if !two {
                assert_eq!(seen.header("host"), Some(HOST));
            }
            assert!(reply.text().contains("locum_main") && !reply.text().contains(&world.key));
            assert_eq!(reply.header("content-length"), Some(&*reply.body.len().to_string()));
            let fields = [KEY, ("te", "trailers")];
            let reply = agent.ask(request2("GET", "/echo-trailer", &fields), b"").await;
            assert_eq!(
                (&*reply.text(), reply.trailers["x-echo"].to_str().unwrap()),
                ("see the end", "locum_main")
            );
            for (method, path, status) in
                [("HEAD", "/v1/x", 200), ("GET", "/status/204", 204), ("GET", "/status/304", 304)]
            {
                let reply = agent.ask(request2(method, path, &[KEY]), b"").await;
                assert_eq!((reply.status, reply.body.len()), (status, 0), "{method} {path}");
                assert!(reply.broken.is_none());
            }
            let mut seen = Vec::new();
            for encoding in ENCODINGS.into_iter().chain(SPELLINGS) {
                let echoed = encode(encoding, &world.key);
                for path in ["echo", "drip", "echo-long", "echo-chunked"] {
                    let path = format!("/{path}/{encoding}");
                    let reply = agent.ask(request2("GET", &path, &[KEY]), b"").await;
                    assert!(reply.broken.is_none(), "{path}");
                    let text = reply.text();
                    assert!(text.contains(BEFORE) && text.contains(AFTER), "{path}: {text}");
                    assert_eq!(memchr::memmem::find(&reply.body, &echoed), None, "{path}");
                    seen.push((path, reply.body));
                }
            }
            for encoding in ENCODINGS {
                for path in ["echo-header", "echo-trailer"] {
                    let path = format!("/{path}/{encoding}");
                    let fields = [KEY, ("te", "trailers")];
                    let reply = agent.ask(request2("GET", &path, &fields), b"").await;
                    let field = reply.header("x-echo").map(str::as_bytes);
                    let field =
                        field.or(reply.trailers.get("x-echo").map(http::HeaderValue::as_bytes));
                    seen.push((path, field.expect("the field stays").to_vec()));
                }
            }
            let seen: Vec<(&str, &[u8])> = seen.iter().map(|(p, b)| (&**p, &**b)).collect();
            world.never_leaks(&seen);
        });
    }
}

#[test]
fn what_an_origin_says_before_its_answer_reaches_an_agent_of_http_2() {
    let scene = Scene::new();
    let key = scene.key.clone();
    scene.peer.serve(move |mut far| {
        while far.try_head().is_some() {
            far.send("HTTP/1.1 102 Processing\r\n\r\n");
            far.send(format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Key: Bearer {key}\r\n\
                 Content-Length: 5\r\nConnection: x-mine\r\nX-Mine: 1\r\n\r\n"
            ));
            far.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal");
        }
    });
    run(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        for _ in 0..2 {
            let mut send = agent.send.clone().ready().await.unwrap();
            let (mut answer, _) =
                send.send_request(request2("GET", "/hints", &[KEY]), true).unwrap();
            let processing = interim2(&mut answer).await.unwrap();
            assert_eq!((processing.status().as_u16(), processing.headers().len()), (102, 0));
            let hints = interim2(&mut answer).await.unwrap();
            assert_eq!(hints.status(), 103);
            assert_eq!(
                (&hints.headers()["link"], hints.headers().len()),
                (&"</a.css>".parse().unwrap(), 2)
            );
            assert_eq!(hints.headers()["x-key"], "Bearer locum_main");
            assert!(interim2(&mut answer).await.is_none());
            let reply = reply2(answer).await.unwrap();
            assert_eq!((reply.status, &*reply.text()), (200, "final"));
            assert!(reply.broken.is_none());
        }
        // A client that does not ask hears the answer.
        let reply = agent.ask(request2("GET", "/hints", &[KEY]), b"").await;
        assert_eq!((reply.status, &*reply.text()), (200, "final"));
    });
    scene.home.never_leaks(&[&scene.key], &[]);
}

#[test]
fn an_origin_that_says_very_much_before_its_answer_is_not_kept_in_memory() {
    let scene = Scene::new();
    scene.peer.serve(|mut far| {
        while far.try_head().is_some() {
            let hint = format!("HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n", "a".repeat(1000));
            far.send(hint.repeat(100));
            far.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal");
        }
    });
    run(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        let mut send = agent.send.clone().ready().await.unwrap();
        let (mut answer, _) = send.send_request(request2("GET", "/hints", &[KEY]), true).unwrap();
        let mut hints = 0;
        while interim2(&mut answer).await.is_some() {
            hints += 1;
        }
        assert!((1..=64).contains(&hints), "{hints}");
        assert_eq!(reply2(answer).await.unwrap().text(), "final");
    });
}

#[test]
fn an_agent_of_http_2_keeps_its_body_until_the_origin_wants_it() {
    let scene = Scene::new();
    run(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        let fields = [KEY, ("expect", "100-continue"), ("content-length", "5")];
        let (mut answer, mut body) = agent.begin(request2("PUT", "/put", &fields)).await;
        let (mut far, head) = scene.peer.request();
        assert!(head.to_ascii_lowercase().contains("expect: 100-continue"), "{head}");
        far.send("HTTP/1.1 100 Continue\r\n\r\n");
        let told = soon("100 Continue", interim2(&mut answer)).await;
        assert_eq!(told.unwrap().status(), 100);
        body.send_data(Bytes::from_static(b"12345"), true).unwrap();
        far.until("12345");
        far.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(reply2(answer).await.unwrap().status, 201);
        // One that does not want it says so, and the connection goes on.
        let (answer, _body) = agent.begin(request2("PUT", "/put", &fields)).await;
        far.until("\r\n\r\n");
        far.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
        assert_eq!(reply2(answer).await.unwrap().text(), "no");
        drop(far);
        let after = request2("GET", "/after", &[KEY]);
        let after = tokio::spawn(ask2(agent.send.clone(), after, b""));
        let (mut far, _) = scene.peer.request();
        far.send("HTTP/1.1 204 No Content\r\n\r\n");
        let reply = after.await.unwrap().unwrap();
        assert_eq!(reply.status, 204);
    });
}

#[test]
fn a_body_that_we_read_ourselves_is_asked_for() {
    let slot: &[&str] = &["--to", "https://api.test", "--json-pointer", "/key"];
    let world = World::with(slot, canary(), |_, _| {});
    run(async {
        let agent = Http2::open(&world.serve, &world.agent).await;
        let body = br#"{"key": "locum_main"}"#;
        let fields = [("expect", "100-continue"), ("content-type", "application/json")];
        let (mut answer, mut sending) = agent.begin(request2("POST", "/open/x", &fields)).await;
        let told = soon("100 Continue", interim2(&mut answer)).await;
        assert_eq!(told.unwrap().status(), 100);
        sending.send_data(Bytes::from_static(body), true).unwrap();
        let reply = reply2(answer).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
    });
    let seen = world.origin.last();
    assert!(String::from_utf8_lossy(&seen.body).contains(&world.key));
}

#[test]
fn a_head_that_is_too_long_is_answered_by_us_and_recorded() {
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.head_bytes: 8KiB"));
    let series = "locum_refusals_total{code=\"head-too-large\"}";
    run(async {
        let agent = Http2::open(&world.serve, &world.agent).await;
        let path = "a".repeat(9000);
        let long = "a".repeat(30_000);
        let just = "a".repeat(8192);
        for (nth, (path, value)) in
            [("/v1/x", &*long), ("/v1/x", &*just), (&*format!("/{path}"), "1")].iter().enumerate()
        {
            let reply = agent.ask(request2("GET", path, &[KEY, ("x-long", value)]), b"").await;
            assert_eq!((reply.status, &*reply.problem()), (431, "head-too-large"));
            assert!(reply.header("proxy-status").unwrap().starts_with("locum;"));
            assert!(reply.header("date").is_some() && reply.broken.is_none());
            assert_eq!(world.serve.metric(series), nth as u64 + 1);
        }
        // Beyond what is read of one it is h2's own answer, and the connection is as good as before.
        let far_too_long = "a".repeat(60_000);
        let request = request2("GET", "/v1/x", &[KEY, ("x-long", &far_too_long)]);
        let bare = ask2(agent.send.clone(), request, b"").await;
        assert!(bare.as_ref().map_or(true, |bare| bare.status == 431), "{bare:?}");
        // 32 bytes a field, and a little for the rest.
        let fits = "a".repeat(8192 - 500);
        let reply = agent.ask(request2("GET", "/v1/x", &[KEY, ("x-long", &fits)]), b"").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    });
    let audit = world.home.audit();
    let refused =
        audit.iter().filter(|r| r["code"] == "head-too-large" && r["decision"] == "refuse");
    assert_eq!(refused.count(), 3);
    assert_eq!(world.origin.seen().len(), 1);
}

/// HPACK's literals that are never indexed (RFC 7541 section 6.2.3): `authorization` is name 23 of the
/// static table, and four bits hold 15 of it.
const NEVER_INDEXED: &[u8] = &[0x1f, 23 - 15];

#[test]
fn an_injected_value_is_never_indexed_by_hpack() {
    let world = World::http2();
    for _ in 0..3 {
        assert_eq!(world.get("/v1/x").status, 200);
        assert_eq!(get(&world, "/v1/x").status, 200);
    }
    let raw = world.origin.raw_bytes();
    assert_eq!(raw.len(), 1, "all on one connection");
    let heads: Vec<Vec<u8>> = frames(&raw[0]["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()..])
        .into_iter()
        .filter_map(|(kind, _, _, payload)| (kind == 1).then_some(payload))
        .collect();
    assert_eq!(heads.len(), 6);
    let mut values = Vec::new();
    for head in &heads {
        let at = memchr::memmem::find(head, NEVER_INDEXED).expect("never indexed") + 2;
        let length = usize::from(head[at] & 0x7f);
        values.push(head[at + 1..at + 1 + length].to_vec());
    }
    values.dedup();
    assert_eq!(values.len(), 1, "each head has the whole value");
    // A field that is no secret is indexed from the second time on: the search above would see it.
    assert!(heads[5].len() < heads[0].len(), "{} {}", heads[5].len(), heads[0].len());
}

/// SETTINGS of this type and value (RFC 9113 section 6.5.2): whoever pushes to one that says so is cut off.
const NO_PUSH: [u8; 6] = [0, 2, 0, 0, 0, 0];

#[test]
fn an_origin_is_told_that_it_may_push_nothing() {
    let world = World::http2();
    assert_eq!(world.get("/v1/x").status, 200);
    let raw = world.origin.raw_bytes();
    let (kind, _, stream, settings) =
        frames(&raw[0]["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()..]).remove(0);
    assert_eq!((kind, stream), (4, 0));
    assert!(settings.chunks(6).any(|setting| setting == NO_PUSH), "{settings:?}");
}

#[test]
fn every_stream_is_decided_and_recorded_for_itself() {
    let world = World::ruled(
        "version: 1\nrules:\n  - {name: some, agents: [worker], to: ['https://api.test'], paths: [/v1/**], use: [main]}\n",
    );
    run(async {
        let agent = Http2::open(&world.serve, &world.agent).await;
        assert_eq!(agent.ask(request2("GET", "/v1/x", &[KEY]), b"").await.status, 200);
        let reply = agent.ask(request2("GET", "/v2/x", &[KEY]), b"").await;
        assert_eq!((reply.status, &*reply.problem()), (403, "not-allowed"));
        assert_eq!(reply.header("connection"), None);
        let other = http::Request::get("https://evil.test/v1/x").header("authorization", KEY.1);
        let reply = agent.ask(other.body(()).unwrap(), b"").await;
        assert_eq!((reply.status, &*reply.problem()), (421, "authority-mismatch"));
        let two = request2("GET", "/v1/x", &[KEY, ("host", "evil.test")]);
        let reply = agent.ask(two, b"").await;
        assert_eq!((reply.status, &*reply.problem()), (421, "authority-mismatch"));
        let reply = agent.ask(request2("HEAD", "/v2/x", &[KEY]), b"").await;
        assert_eq!((reply.status, reply.body.len(), reply.broken.is_none()), (403, 0, true));
        let connect = http::Request::connect("api.test:443").body(()).unwrap();
        let reply = agent.ask(connect, b"").await;
        assert_eq!((reply.status, &*reply.problem()), (405, "method-refused"));
        let many: Vec<String> = (0..130).map(|n| format!("x-{n}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|n| (&**n, "1")).collect();
        let reply = agent.ask(request2("GET", "/v1/x", &many), b"").await;
        assert_eq!((reply.status, &*reply.problem()), (431, "head-too-large"));
        // The connection is as good as before.
        assert_eq!(agent.ask(request2("GET", "/v1/x", &[KEY]), b"").await.status, 200);
    });
    assert_eq!(world.origin.seen().len(), 2);
    let audit = world.home.audit();
    let decisions: Vec<&str> = audit
        .iter()
        .filter(|r| r["kind"] == "access" && r["path"] != serde_json::Value::Null)
        .filter_map(|r| r["decision"].as_str())
        .collect();
    assert_eq!(
        decisions,
        ["permit", "refuse", "refuse", "refuse", "refuse", "refuse", "refuse", "permit"]
    );
}

#[test]
fn a_cookie_in_pieces_is_one_for_http_1() {
    let world = World::new();
    let fields = [KEY, ("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    assert_eq!(run(open(&world).ask(request2("GET", "/v1/x", &fields), b"")).status, 200);
    assert_eq!(world.origin.last().all("cookie"), ["a=1; b=2; c=3"]);
}

/// HPACK of `:method GET`, `:scheme https`, `:path /`: what every malformed head below has.
const GET: &[u8] = &[0x82, 0x87, 0x84];

/// A literal without indexing, with a new name.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |t: &str| [&[u8::try_from(t.len()).unwrap()], t.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

#[test]
fn malformed_heads_reach_no_origin() {
    let world = World::new();
    let authority = literal(":authority", HOST);
    let cases: [(&str, Vec<u8>); 8] = [
        ("no authority", GET.to_vec()),
        ("upper case", [GET, &authority, &literal("X-A", "1")].concat()),
        ("connection", [GET, &authority, &literal("connection", "close")].concat()),
        ("coding", [GET, &authority, &literal("transfer-encoding", "chunked")].concat()),
        ("te", [GET, &authority, &literal("te", "gzip")].concat()),
        ("twice", [GET, &[0x82], &authority].concat()),
        ("after", [GET, &literal("a", "1"), &authority].concat()),
        ("unknown", [GET, &authority, &literal(":sudo", "1")].concat()),
    ];
    for (name, head) in cases {
        let mut wire = world.serve.raw_http2(&world.agent);
        wire.send(frame(1, 0x5, 1, &head));
        // A ping after it: its answer says that the head was read.
        wire.send(frame(6, 0, 0, b"12345678"));
        let answered =
            answered_until(&mut wire, |kind, flags, _| kind == 7 || (kind == 6 && flags == 1));
        let status_200 =
            answered.iter().any(|(kind, _, _, p)| *kind == 1 && p.first() == Some(&0x88));
        assert!(!status_200, "{name}: {answered:?}");
    }
    assert_eq!(world.origin.seen().len(), 0);
    assert_eq!(world.get("/v1/x").status, 200);
}

/// Reads frames until one is it, or the other side closes.
fn answered_until(
    wire: &mut Wire,
    is_it: impl Fn(u8, u8, u32) -> bool,
) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let found = frames(&bytes);
        if found.iter().any(|(kind, flags, stream, _)| is_it(*kind, *flags, *stream)) {
            return found;
        }
        match wire.read(&mut buffer) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return found,
        }
    }
}

#[test]
fn first_requests_wait_for_one_connection_and_agents_share_none() {
    let world = World::http2();
    let other = world.home.agent("other");
    let all = |agent: Agent| {
        let serve = &world.serve;
        async move {
            let two = Http2::open(serve, &agent).await;
            let asked: Vec<_> = (0..100)
                .map(|n| {
                    let request = request2("POST", &format!("/v1/{n}"), &[KEY]);
                    tokio::spawn(ask2(two.send.clone(), request, b"once"))
                })
                .collect();
            for asked in asked {
                assert_eq!(asked.await.unwrap().unwrap().status, 200);
            }
        }
    };
    run(all(world.agent.clone()));
    assert_eq!(world.origin.connections(), 1);
    run(all(other));
    assert_eq!(world.origin.connections(), 2, "each agent has its own");
    let seen = world.origin.seen();
    assert_eq!(seen.len(), 200);
    assert!(seen.iter().all(|s| s.version == "HTTP/2.0" && s.body == b"once"));
    // An HTTP/1.1 agent of the same name has the connection too.
    assert_eq!(world.get("/v1/x").status, 200);
    assert_eq!(world.origin.connections(), 2);
    assert_eq!(world.serve.metric("locum_pool_idle_connections"), 2);
}

#[test]
fn a_host_that_is_said_to_want_http_1_is_spoken_to_so() {
    let home = Home::new();
    let origin = Origin::http2(HOST);
    origin.accept("sk-canary-http1");
    home.reach(&origin);
    home.http1_only(HOST);
    home.add("main", BEARER, "sk-canary-http1");
    let agent = home.agent("worker");
    let serve = home.serve();
    let reply = run(async {
        let two = Http2::open(&serve, &agent).await;
        two.ask(request2("GET", "/v1/x", &[KEY]), b"").await
    });
    assert_eq!(reply.status, 200);
    assert_eq!(origin.last().version, "HTTP/1.1");
}

#[test]
fn a_cut_answer_is_a_reset_stream_and_no_end() {
    for two in [false, true] {
        let world = if two { World::http2() } else { World::new() };
        // A short one of known length is not begun.
        let reply = get(&world, "/abort");
        assert_eq!((reply.status, &*reply.problem()), (502, "upstream-failed"));
        let reply = get(&world, "/abort-chunked");
        assert_eq!((reply.status, &*reply.text()), (200, "the first half"));
        let error = reply.broken.expect("a reset");
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(outcome(&world)["ending"], "upstream-aborted");
        // And for an HTTP/1.1 agent a connection that is cut.
        let mut wire = world.tunnel();
        wire.send(request("GET", "/abort-chunked", &[AUTHORIZED], ""));
        assert!(wire.try_answer("GET").is_err());
    }
}

#[test]
fn an_agent_that_gives_up_a_stream_gives_up_that_one_alone() {
    for two in [false, true] {
        let world = if two { World::http2() } else { World::new() };
        world.origin.hold();
        run(async {
            let agent = Http2::open(&world.serve, &world.agent).await;
            let held =
                tokio::spawn(ask2(agent.send.clone(), request2("GET", "/hold", &[KEY]), b""));
            world.origin.until_seen(1);
            // Given up before the answer, and within an upload.
            let given_up =
                tokio::spawn(ask2(agent.send.clone(), request2("GET", "/hold", &[KEY]), b""));
            world.origin.until_seen(2);
            given_up.abort();
            assert_eq!(outcome(&world)["ending"], "downstream-aborted");
            for reason in [Reason::CANCEL, Reason::NO_ERROR] {
                let mut send = agent.send.clone().ready().await.unwrap();
                let before = world.origin.seen().len();
                let halves_before = world.origin.raw().concat().matches("half").count();
                let post = request2("POST", "/v1/x", &[KEY]);
                let (answer, mut stream) = send.send_request(post, false).unwrap();
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                world.origin.until_seen(before + 1);
                // A reset overtakes what waits to be sent.
                eventually("the first half", PATIENCE, || {
                    let halves = world.origin.raw().concat().matches("half").count();
                    (halves > halves_before).then_some(())
                });
                stream.send_reset(reason);
                assert!(answer.await.is_err());
                eventually("the record", PATIENCE, || {
                    let last = outcome(&world);
                    (last["bytes_up"] == 4 && last["ending"] != "complete").then_some(())
                });
                eventually("the origin to notice", PATIENCE, || {
                    let seen = world.origin.last();
                    (seen.length == 4 || two).then_some(())
                });
                assert!(!world.origin.last().complete, "{reason:?}");
            }
            world.origin.release();
            world.origin.release();
            assert_eq!(held.await.unwrap().unwrap().text(), "held");
        });
    }
}

#[test]
fn a_stream_that_is_not_read_stops_its_origin_and_no_other() {
    for two in [false, true] {
        let world = if two { World::http2() } else { World::new() };
        let resident = world.serve.resident();
        // Room enough for the others.
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(256 * 1024).initial_connection_window_size(16 << 20);
        run(async {
            let agent = Http2::open_with(&world.serve, &world.agent, &builder).await;
            let mut stalled = Vec::new();
            for _ in 0..10 {
                let mut send = agent.send.clone().ready().await.unwrap();
                let big = request2("GET", "/bytes/100000000", &[KEY]);
                let (answer, _) = send.send_request(big, true).unwrap();
                // Its window is never given back.
                stalled.push(answer.await.unwrap().into_body());
            }
            for n in 0..50 {
                let asked = agent.ask(request2("GET", &format!("/v1/{n}"), &[KEY]), b"");
                let reply = tokio::time::timeout(PATIENCE, asked).await.expect("no stall");
                assert_eq!(reply.status, 200);
            }
            let grown = world.serve.resident().saturating_sub(resident);
            assert!(grown < 64 * 1024, "{grown} KiB for ten answers of 100 MB");
            // And it goes on where it was.
            let mut stream = stalled.pop().unwrap();
            let mut length = 0;
            while let Some(data) = stream.data().await {
                let data = data.unwrap();
                stream.flow_control().release_capacity(data.len()).unwrap();
                length += data.len();
            }
            assert_eq!(length, 100_000_000);
        });
    }
}

#[test]
fn uploads_are_streamed_and_wait_for_the_origin() {
    for two in [false, true] {
        let world = if two { World::http2() } else { World::new() };
        run(async {
            let agent = Http2::open(&world.serve, &world.agent).await;
            let body = vec![b'u'; 3_000_000];
            let reply = agent.ask(request2("POST", "/v1/x", &[KEY]), &body).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            let seen = world.origin.last();
            assert_eq!((seen.length, seen.complete), (3_000_000, true));
            // An answer may come before the request is over.
            let mut send = agent.send.clone().ready().await.unwrap();
            let early = request2("POST", "/early", &[KEY]);
            let (answer, mut stream) = send.send_request(early, false).unwrap();
            stream.send_data(Bytes::from_static(b"first"), false).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
        });
    }
}

#[test]
fn rapid_resets_end_the_connection() {
    let world = World::new();
    assert_eq!(world.get("/v1/x").status, 200);
    let resident = world.serve.resident();
    // In one batch, before anybody has looked at them; and one by one.
    let head = [GET, &literal(":authority", HOST), &literal("authorization", KEY.1)].concat();
    for (name, each) in [("batch", 1000_u32), ("one by one", 1)] {
        let mut wire = world.serve.raw_http2(&world.agent);
        let mut id = 1;
        let cut_off = (0..10_000).any(|_| {
            let mut bytes = Vec::new();
            for _ in 0..each {
                bytes.extend(frame(1, 0x5, id, &head));
                if each > 1 {
                    bytes.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
                }
                id += 2;
            }
            let sent = wire.try_send(&bytes).is_ok();
            if each > 1 {
                return !sent || id > 2 * 50_000;
            }
            // Lets it begin, so that it is not among those which nobody has looked at.
            std::thread::sleep(Duration::from_micros(300));
            !sent || wire.try_send(&frame(3, 0, id - 2, &8_u32.to_be_bytes())).is_err()
        });
        assert!(cut_off, "{name}");
        // What was said last may be lost: the connection is closed with bytes unread.
        wire.until_closed();
    }
    assert_eq!(world.get("/v1/x").status, 200);
    let grown = world.serve.resident().saturating_sub(resident);
    assert!(grown < 64 * 1024, "{grown} KiB");
}

#[test]
fn floods_of_other_frames_end_the_connection_or_wait() {
    let world = World::new();
    assert_eq!(world.get("/v1/x").status, 200);
    let resident = world.serve.resident();
    // A head that never ends (CVE-2024-24549 and its like).
    let mut wire = world.serve.raw_http2(&world.agent);
    wire.send(frame(1, 0x1, 1, GET));
    let piece = frame(9, 0, 1, &literal("x-a", "0123456789"));
    let cut_off = (0..200_000).any(|_| wire.try_send(&piece).is_err());
    assert!(cut_off, "CONTINUATION");
    let rest = wire.until_closed();
    let calm = frames(&rest).iter().any(|(kind, _, _, p)| *kind == 7 && p[7] == 11);
    assert!(calm || rest.is_empty(), "{rest:?}");
    // SETTINGS and PING whose answers nobody reads.
    for kind in [4, 6] {
        let payload: &[u8] = if kind == 4 { b"" } else { b"12345678" };
        let many = frame(kind, 0, 0, payload).repeat(1000);
        let mut wire = world.serve.raw_http2(&world.agent);
        wire.impatient(Duration::from_millis(500));
        let stopped = (0..20_000).any(|_| wire.try_send(&many).is_err());
        assert!(stopped, "frames of type {kind} were all taken");
    }
    assert_eq!(world.get("/v1/x").status, 200);
    let grown = world.serve.resident().saturating_sub(resident);
    assert!(grown < 64 * 1024, "{grown} KiB");
}

#[test]
fn a_client_that_is_gone_without_a_word_is_found_by_a_ping() {
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.ping_after: 300ms"));
    let is_ping = |kind, flags| kind == 6 && flags == 0;
    let mut gone = world.serve.raw_http2(&world.agent);
    let rest = gone.until_closed();
    assert!(frames(&rest).iter().any(|(kind, flags, ..)| is_ping(*kind, *flags)), "{rest:?}");
    // One that answers stays, and is asked again.
    let mut there = world.serve.raw_http2(&world.agent);
    for _ in 0..4 {
        let asked = answered_until(&mut there, |kind, flags, _| is_ping(kind, flags));
        let (.., payload) = asked.last().expect("a ping");
        there.send(frame(6, 1, 0, payload));
    }
}

#[test]
fn idle_connections_are_told_to_go_and_busy_ones_are_not() {
    let world = World::with(BEARER, canary(), |home, _| {
        for limit in ["head_time", "idle_tunnel"] {
            home.set(&format!("limits.{limit}: 500ms"));
        }
    });
    let mut mute = world.serve.bare_http2(&world.agent);
    let mut half = world.serve.bare_http2(&world.agent);
    half.send(b"PRI * HTTP");
    for wire in [&mut mute, &mut half] {
        assert_eq!(wire.until_closed(), b"");
    }
    world.origin.hold();
    run(async {
        let busy = Http2::open(&world.serve, &world.agent).await;
        let held = tokio::spawn(ask2(busy.send.clone(), request2("GET", "/hold", &[KEY]), b""));
        tokio::time::sleep(Duration::from_millis(1200)).await;
        world.origin.release();
        assert_eq!(held.await.unwrap().unwrap().text(), "held");
        // Whether its own goodbye still got out or not.
        let _ended = tokio::time::timeout(PATIENCE, busy.end).await.unwrap().unwrap();
    });
    // In order: GOAWAY with NO_ERROR, and the end, also for a client that does not answer.
    let mut idle = world.serve.raw_http2(&world.agent);
    let said = frames(&idle.until_closed());
    let (_, _, _, goodbye) = said.iter().find(|(kind, ..)| *kind == 7).expect("GOAWAY");
    assert_eq!(goodbye[4..], [0; 4]);
}

#[test]
fn at_shutdown_streams_finish_and_new_ones_are_sent_away() {
    for two in [false, true] {
        let origin = if two { Origin::http2(HOST) } else { Origin::start(HOST) };
        let mut world = World::before(origin, BEARER, canary(), |home, _| {
            // A third of it is quiet.
            home.set("limits.drain: 9s");
        });
        world.origin.hold();
        let (held, agent) = run(async {
            let agent = Http2::open(&world.serve, &world.agent).await;
            let held =
                tokio::spawn(ask2(agent.send.clone(), request2("GET", "/hold", &[KEY]), b""));
            world.origin.until_seen(1);
            (held, agent)
        });
        world.serve.terminate();
        run(async {
            let refused = async {
                while ask2(agent.send.clone(), request2("GET", "/v1/x", &[KEY]), b"").await.is_ok()
                {
                }
            };
            tokio::time::timeout(PATIENCE, refused).await.expect("GOAWAY");
            world.origin.release();
            assert_eq!(held.await.unwrap().unwrap().text(), "held");
            // Whether its own goodbye still got out or not.
            let _ended = tokio::time::timeout(PATIENCE, agent.end).await.unwrap().unwrap();
        });
        assert!(world.serve.ended(PATIENCE).success());
        assert_eq!(outcome(&world)["ending"], "complete");
    }
}

/// Python's `h2` takes nothing after a GOAWAY, and no client a second one: so it is said once, when all
/// that was under way has been answered.
#[test]
fn a_stop_is_told_when_the_last_stream_has_ended_and_in_one_word() {
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    for two in [false, true] {
        let mut world = if two { World::http2() } else { World::new() };
        world.origin.hold();
        let head = |path: &str| {
            let fields = [(":path", path), (":authority", HOST), ("authorization", KEY.1)];
            let fields = fields.map(|(name, value)| literal(name, value)).concat();
            [&[0x82, 0x87][..], &fields].concat()
        };
        let mut busy = world.serve.raw_http2(&world.agent);
        busy.send(frame(1, 0x5, 1, &head("/hold")));
        world.origin.until_seen(1);
        let mut idle = world.serve.raw_http2(&world.agent);
        world.serve.terminate();
        let said = frames(&idle.until_closed());
        let goodbyes: Vec<_> = said.iter().filter(|(kind, ..)| *kind == GOAWAY).collect();
        let [(_, _, _, goodbye)] = &goodbyes[..] else { panic!("{said:?}") };
        assert_eq!(goodbye[..], [0; 8], "no stream was looked at, and nothing is wrong");
        assert!(!said.iter().any(|(kind, ..)| *kind == PING), "{said:?}");
        // By now the other has heard of the stop as well, and says nothing of it: what comes is served.
        busy.send(frame(1, 0x5, 3, &head("/v1/x")));
        let is_last = |kind, flags, stream| kind <= 1 && flags & 1 == 1 && stream == 3;
        let before = answered_until(&mut busy, is_last);
        assert!(!before.iter().any(|(kind, ..)| [PING, GOAWAY].contains(kind)), "{before:?}");
        world.origin.release();
        let said = frames(&busy.until_closed());
        let kinds: Vec<u8> = said.iter().map(|(kind, ..)| *kind).collect();
        assert!(
            said.iter()
                .any(|(kind, flags, stream, _)| *kind <= 1 && flags & 1 == 1 && *stream == 1)
        );
        assert!(!kinds.contains(&PING) && kinds.last() == Some(&GOAWAY), "{kinds:?}");
        assert_eq!(said.last().unwrap().3, [0, 0, 0, 3, 0, 0, 0, 0]);
        assert!(world.serve.ended(PATIENCE).success());
    }
}

/// An agent that takes nothing of an answer is not waited for without end, and keeps its other streams.
#[test]
fn an_answer_that_nobody_reads_is_let_go_of() {
    for two in [false, true] {
        let origin = if two { Origin::http2(HOST) } else { Origin::start(HOST) };
        let world = World::before(origin, BEARER, canary(), |home, _| {
            home.set("limits.idle_reader: 1s");
        });
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(16 << 20);
        run(async {
            let agent = Http2::open_with(&world.serve, &world.agent, &builder).await;
            let mut send = agent.send.clone().ready().await.unwrap();
            let big = request2("GET", "/bytes/3000000", &[KEY]);
            let (answer, _) = send.send_request(big, true).unwrap();
            let mut unread = answer.await.unwrap().into_body();
            let broken = loop {
                // Its window is never given back.
                match soon("reset", unread.data()).await {
                    Some(Ok(_)) => {}
                    end => break end,
                }
            };
            let error = broken.expect("no end of the body").expect_err("a reset");
            assert!(error.is_reset() && error.is_remote(), "{error}");
            assert_eq!(error.reason(), Some(Reason::CANCEL));
            assert_eq!(agent.ask(request2("GET", "/v1/x", &[KEY]), b"").await.status, 200);
        });
        let access = world.home.accesses_to("/bytes/3000000").remove(0);
        let id = access["request_id"].as_str().unwrap();
        assert_eq!(world.home.records_of(id, 2)[1]["ending"], "downstream-aborted");
    }
}

#[test]
fn streams_that_outlast_the_drain_are_cut_and_recorded() {
    let mut world = World::before(Origin::http2(HOST), BEARER, canary(), |home, _| {
        home.set("limits.drain: 300ms");
    });
    world.origin.hold();
    let (held, _agent) = run(async {
        let agent = Http2::open(&world.serve, &world.agent).await;
        let held = tokio::spawn(ask2(agent.send.clone(), request2("GET", "/hold", &[KEY]), b""));
        world.origin.until_seen(1);
        (held, agent)
    });
    world.serve.terminate();
    assert!(world.serve.ended(PATIENCE).success());
    assert!(run(held).unwrap().is_err());
    assert_eq!(outcome(&world)["ending"], "downstream-aborted");
    world.home.locum(&["audit", "verify"]).ok();
}

#[test]
fn an_agent_has_so_many_streams_and_no_more() {
    let world = World::with(BEARER, canary(), |home, _| home.set("limits.streams: 7"));
    world.origin.hold();
    run(async {
        let agent = Http2::open(&world.serve, &world.agent).await;
        assert_eq!(agent.ask(request2("GET", "/v1/x", &[KEY]), b"").await.status, 200);
        assert_eq!(agent.send.current_max_send_streams(), 7);
    });
    // A client that does not listen: seven streams are under way, and the eighth is refused.
    let mut wire = world.serve.raw_http2(&world.agent);
    let head = [
        &[0x82, 0x87][..],
        &literal(":path", "/hold"),
        &literal(":authority", HOST),
        &literal("authorization", KEY.1),
    ]
    .concat();
    for n in 0..8 {
        wire.send(frame(1, 0x5, 2 * n + 1, &head));
    }
    let answered = answered_until(&mut wire, |kind, _, _| kind == 3);
    let refused = answered.iter().find(|(kind, ..)| *kind == 3).expect("a reset");
    assert_eq!((refused.2, &refused.3[..]), (15, &7_u32.to_be_bytes()[..]), "REFUSED_STREAM");
    world.origin.until_seen(8);
}

#[test]
fn the_status_of_grpc_reaches_an_http_1_agent() {
    let world = World::http2();
    let answer = world.ask("POST", "/grpc", &[AUTHORIZED, "TE: trailers"], "");
    let trailers: Vec<(&str, &str)> =
        answer.trailers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(trailers, [("grpc-status", "5"), ("grpc-message", "not here")]);
}

#[test]
fn a_grpc_answer_that_breaks_off_has_the_status_of_a_lost_connection() {
    let scene = Scene::new();
    scene.peer.serve(|mut far| {
        let Some(head) = far.try_head() else { return };
        let kind = if head.contains("/pkg.") { "grpc" } else { "json" };
        far.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/{kind}\r\nTransfer-Encoding: chunked\r\n\r\n\
             7\r\n\0\0\0\0\x02ab\r\n"
        ));
        far.cut();
    });
    let (call, other) = run(async {
        let agent = Http2::open(&scene.serve, &scene.agent).await;
        let call = agent.ask(request2("POST", "/pkg.Service/Call", &[KEY]), b"").await;
        (call, ask2(agent.send.clone(), request2("POST", "/other", &[KEY]), b"").await)
    });
    assert!(call.broken.is_none() && call.trailers["grpc-status"] == "14", "{call:?}");
    assert_eq!(call.body, b"\0\0\0\0\x02ab");
    // A reset may overtake the head.
    let reset = other.as_ref().map_or(true, |other| other.broken.is_some());
    assert!(reset, "{other:?}");
    for path in ["/pkg.Service/Call", "/other"] {
        assert_eq!(scene.ending(path), "upstream-aborted");
    }
}

#[test]
fn grpc_clients_are_refused_in_their_own_words() {
    let world = World::http2();
    let fields =
        [("authorization", "Bearer locum_nothing"), ("content-type", "application/grpc+proto")];
    let reply =
        run(open(&world).ask(request2("POST", "/pkg.Service/Call", &fields), b"\0\0\0\0\0"));
    assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("7")));
    assert_eq!(reply.header("content-type"), Some("application/grpc"));
    let message = reply.header("grpc-message").unwrap();
    assert!(message.contains("credential-refused"), "{message}");
    assert!(reply.header("proxy-status").unwrap().starts_with("locum;"));
    assert!(reply.body.is_empty() && reply.trailers.is_empty() && reply.broken.is_none());
    let id = message.split("(credential-refused, request ").nth(1).unwrap().split(')').next();
    let audit = world.home.audit();
    let record = audit.iter().find(|r| r["request_id"].as_str() == id).expect("its record");
    assert_eq!(record["code"], "credential-refused");
}

/// HPACK without any table: a literal of any length.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let text = |t: &[u8]| {
        let mut out = Vec::new();
        if t.len() < 127 {
            out.push(u8::try_from(t.len()).unwrap());
        } else {
            out.push(127);
            let mut rest = t.len() - 127;
            while rest >= 128 {
                out.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            out.push(u8::try_from(rest).unwrap());
        }
        [&out, t].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

#[test]
#[allow(clippy::too_many_lines)] // A table.
fn heads_that_http_1_would_read_otherwise_reach_no_origin() {
    type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;
    let key: (&[u8], &[u8]) = (b"authorization", b"Bearer locum_main");
    let usual: Fields<'_> = vec![
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/v1/x"),
        (b":authority", b"api.test"),
        key,
    ];
    let with = |more: &[(&'static [u8], &'static [u8])]| [&usual[..], more].concat();
    let instead = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = usual.clone();
        fields.iter_mut().find(|field| field.0 == name).unwrap().1 = value;
        fields
    };
    let second = b"/v1/x HTTP/1.1\r\nHost: api.test\r\n\r\nGET /smuggled";
    let cases: Vec<(&str, Fields<'_>)> = vec![
        ("two authorities", with(&[(b":authority", b"api.test")])),
        (
            "two other authorities",
            [&[(&b":authority"[..], &b"evil.test"[..])], &usual[..]].concat(),
        ),
        ("two paths", [&[(&b":path"[..], &b"/other"[..])], &usual[..]].concat()),
        ("two methods", [&[(&b":method"[..], &b"GET"[..])], &usual[..]].concat()),
        ("two schemes", [&[(&b":scheme"[..], &b"http"[..])], &usual[..]].concat()),
        ("an empty path", instead(b":path", b"")),
        ("a path with a blank", instead(b":path", b"/v1/x y")),
        ("a path with a request in it", instead(b":path", second)),
        ("a path with a line feed", instead(b":path", b"/v1/x\nX: y")),
        ("a path with NUL", instead(b":path", b"/v1/x\0")),
        ("a path with a version", instead(b":path", b"/v1/x HTTP/1.1")),
        ("a path that is a URL", instead(b":path", b"https://evil.test/v1/x")),
        ("a path without a slash", instead(b":path", b"v1/x")),
        ("a path that is a star", instead(b":path", b"*")),
        ("another scheme", instead(b":scheme", b"http")),
        ("an unknown scheme", instead(b":scheme", b"ftp")),
        ("a scheme with a host", instead(b":scheme", b"https://evil.test/?")),
        ("a scheme with a line", instead(b":scheme", b"https\r\nX: y")),
        ("another authority", instead(b":authority", b"evil.test")),
        ("an authority with a user", instead(b":authority", b"evil.test@api.test")),
        ("an authority with a path", instead(b":authority", b"api.test/evil")),
        ("an authority with another port", instead(b":authority", b"api.test:8443")),
        ("an authority with a line", instead(b":authority", b"api.test\r\nX: y")),
        ("an authority with a blank", instead(b":authority", b"api.test evil.test")),
        ("two names in an authority", instead(b":authority", b"api.test,evil.test")),
        ("an empty authority", instead(b":authority", b"")),
        ("another host", with(&[(b"host", b"evil.test")])),
        ("two hosts", with(&[(b"host", b"api.test"), (b"host", b"evil.test")])),
        ("a host with a line", with(&[(b"host", b"api.test\r\nX: y")])),
        (
            "a method with a request in it",
            instead(b":method", b"GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\nPOST"),
        ),
        ("a method with a blank", instead(b":method", b"GET /smuggled")),
        ("an empty method", instead(b":method", b"")),
        ("a method of TRACE", instead(b":method", b"TRACE")),
        ("a method of CONNECT", instead(b":method", b"CONNECT")),
        ("a value with a line", with(&[(b"x-a", b"1\r\nX-B: 2")])),
        ("a value with a line feed", with(&[(b"x-a", b"1\nX-B: 2")])),
        ("a value with a carriage return", with(&[(b"x-a", b"1\rX-B: 2")])),
        ("a value with NUL", with(&[(b"x-a", b"1\x002")])),
        (
            "a value with a request in it",
            with(&[(b"x-a", b"1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n")]),
        ),
        ("a name with a line", with(&[(b"x-a: 1\r\nx-b", b"2")])),
        ("a name with a colon", with(&[(b"x-a: 1", b"2")])),
        ("a name with a blank", with(&[(b"x a", b"2")])),
        ("an empty name", with(&[(b"", b"2")])),
        ("a name in capitals", with(&[(b"X-A", b"2")])),
        ("a coding", with(&[(b"transfer-encoding", b"chunked")])),
        (
            "a coding and a length",
            with(&[(b"transfer-encoding", b"chunked"), (b"content-length", b"0")]),
        ),
        ("a connection", with(&[(b"connection", b"keep-alive")])),
        ("a connection that names the key", with(&[(b"connection", b"authorization")])),
        ("a kept connection", with(&[(b"keep-alive", b"timeout=5")])),
        ("a proxy's connection", with(&[(b"proxy-connection", b"keep-alive")])),
        ("an upgrade", with(&[(b"upgrade", b"websocket")])),
        ("a TE that is not trailers", with(&[(b"te", b"trailers, chunked")])),
        ("two lengths", with(&[(b"content-length", b"0"), (b"content-length", b"5")])),
        ("a list of lengths", with(&[(b"content-length", b"0, 5")])),
        ("a signed length", with(&[(b"content-length", b"+0")])),
        ("a length in words", with(&[(b"content-length", b"none")])),
        ("a length and no body", with(&[(b"content-length", b"5")])),
        ("a pseudo-field behind the others", with(&[(b"x-a", b"1"), (b":path", b"/smuggled")])),
        ("a pseudo-field of answers", with(&[(b":status", b"200")])),
        ("an unknown pseudo-field", with(&[(b":sudo", b"1")])),
        ("a protocol without CONNECT", with(&[(b":protocol", b"websocket")])),
    ];
    for two in [false, true] {
        let world = if two { World::http2() } else { World::new() };
        for (name, fields) in &cases {
            let head: Vec<u8> =
                fields.iter().flat_map(|(name, value)| field(name, value)).collect();
            let mut wire = world.serve.raw_http2(&world.agent);
            wire.send(frame(1, 0x5, 1, &head));
            let heard = answered_until(&mut wire, |kind, _, stream| {
                kind == 7 || (stream == 1 && (kind == 1 || kind == 3))
            });
            let good = heard.iter().any(|(kind, .., p)| *kind == 1 && p.first() == Some(&0x88));
            assert!(!heard.is_empty() && !good, "{name}: {heard:?}");
        }
        assert_eq!(world.origin.seen().len(), 0, "{:?}", world.origin.seen());
        assert_eq!(world.origin.connections(), 0, "not even a part of one");
        assert_eq!(world.get("/after").status, 200);
    }
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_is_not_whole_for_an_origin_of_http_1() {
    let world = World::new();
    let head = |length: &str| {
        [GET_OPEN, &literal(":authority", HOST), &literal("content-length", length)].concat()
    };
    let second = b"GET /open/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n";
    for (name, length, body) in [
        ("longer than it says", "1", &[b"x", &second[..]].concat()[..]),
        ("none where some is said", "5", b""),
        ("shorter than it says", "500", b"x"),
        ("longer than nothing", "0", second),
    ] {
        let mut wire = world.serve.raw_http2(&world.agent);
        wire.send(frame(1, 0x4, 1, &head(length)));
        wire.send(frame(0, 0x1, 1, body));
        let heard = answered_until(&mut wire, |kind, _, stream| {
            kind == 7 || (stream == 1 && (kind == 1 || kind == 3))
        });
        let good = heard.iter().any(|(kind, .., p)| *kind == 1 && p.first() == Some(&0x88));
        assert!(!good, "{name}: {heard:?}");
    }
    eventually("what was begun is over", PATIENCE, || {
        let audit = world.home.audit();
        let count = |kind: &str| audit.iter().filter(|r| r["kind"] == kind).count();
        (count("outcome") >= audit.iter().filter(|r| r["decision"] == "permit").count())
            .then_some(())
    });
    assert!(world.origin.seen().iter().all(|seen| !seen.complete), "{:?}", world.origin.seen());
    assert!(!world.origin.raw().concat().contains("smuggled"));
}

/// `:method POST`, `:scheme https`, `:path /open/x`.
const GET_OPEN: &[u8] = b"\x83\x87\x04\x07/open/x";

/// HPACK: one field goes into the table, and each byte that follows is all of it again.
#[test]
fn a_head_of_a_few_bytes_that_says_megabytes_is_not_taken() {
    let world = World::new();
    assert_eq!(world.get("/v1/x").status, 200);
    let before = world.serve.resident();
    let mut put = field(b"x-more", &[b'a'; 4000]);
    // With incremental indexing; 62 is the first index of the dynamic table (RFC 7541 section 6).
    put[0] = 0x40;
    let again =
        |count: usize| [GET, &literal(":authority", HOST), &put, &vec![0xbe; count]].concat();
    let mut wire = world.serve.raw_http2(&world.agent);
    // A few are a head like any other.
    wire.send(frame(1, 0x5, 1, &again(3)));
    let heard = answered_until(&mut wire, |kind, _, id| kind == 1 && id == 1);
    assert!(!heard.is_empty());
    let calls = world.origin.seen().len();
    for id in [3, 5, 7] {
        // 48 MB in 12 KB.
        let _may_be_gone = wire.try_send(&frame(1, 0x5, id, &again(12_000)));
    }
    let _refused = answered_until(&mut wire, |kind, _, _| kind == 7 || kind == 3 || kind == 1);
    let (kept, most) = (world.serve.resident().saturating_sub(before), 16 * 1024);
    assert!(kept < most, "{kept} KiB were kept");
    assert_eq!(world.origin.seen().len(), calls);
    assert_eq!(world.get("/after").status, 200);
}

#[test]
fn a_head_in_ever_more_pieces_ends_the_connection() {
    let world = World::new();
    let mut wire = world.serve.raw_http2(&world.agent);
    let first = [GET, &literal(":authority", HOST)].concat();
    let mut ended = wire.try_send(&frame(1, 0x1, 1, &first)).is_err();
    // 64 MiB of fields, or as many empty pieces.
    let piece = field(b"x-more", &[b'a'; 16_000]);
    let before = world.serve.resident();
    for _ in 0..4096 {
        ended = ended || wire.try_send(&frame(9, 0, 1, &piece)).is_err();
    }
    let heard = answered_until(&mut wire, |kind, _, _| kind == 7 || kind == 3 || kind == 1);
    assert!(ended || !heard.is_empty());
    let (kept, most) = (world.serve.resident().saturating_sub(before), 24 * 1024);
    assert!(kept < most, "{kept} KiB were kept");
    let mut wire = world.serve.raw_http2(&world.agent);
    let _may_be_gone = wire.try_send(&frame(1, 0x1, 1, &first));
    let empty = frame(9, 0, 1, b"").repeat(100_000);
    let _may_be_gone = wire.try_send(&empty);
    let heard = answered_until(&mut wire, |kind, _, _| kind == 7 || kind == 3 || kind == 1);
    assert!(
        heard.iter().any(|(kind, ..)| *kind == 7) || wire.try_send(&empty).is_err(),
        "{heard:?}"
    );
    assert_eq!(world.origin.connections(), 0);
    assert_eq!(world.get("/after").status, 200);
}
