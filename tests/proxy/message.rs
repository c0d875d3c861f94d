//! Messages as RFC 9110 and 9112 have them: interim answers, answers without a body, trailers,
//! HTTP/1.0, and who closes when.

use crate::support::*;

fn get(target: &str) -> String {
    request("GET", target, &[AUTHORIZED], "")
}

fn post(target: &str, fields: &[&str]) -> String {
    request("POST", target, &[&[AUTHORIZED], fields].concat(), "")
}

#[test]
fn interim_answers_of_the_origin_do_not_disturb_the_final_one() {
    let scene = Scene::new();
    let (mut near, mut far, _) = scene.begin(get("/hints"));
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    far.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n");
    far.send(hint.repeat(50));
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal");
    let answer = near.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "final"));
    // In the middle of a head, too.
    near.send(get("/hints"));
    far.until("\r\n\r\n");
    far.send(&hint[..20]);
    far.send(&hint[20..]);
    far.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(near.answer().status, 204);
}

/// The end of a head.
const END: &str = "\r\n\r\n";

#[test]
fn hints_of_the_origin_reach_the_agent_before_its_answer_and_without_the_secret() {
    let scene = Scene::new();
    let (mut near, mut far, _) = scene.begin(get("/hints"));
    let key = &scene.key;
    far.send(format!(
        "HTTP/1.1 103 Hints of {key}\r\nLink: </a.css>; rel=preload\r\nX-Key: Bearer {key}\r\nX-{key}: 1\r\n\
         Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"
    ));
    // The origin has said no more than that, so nothing else can have brought it.
    let hint = near.until(END);
    assert_eq!(
        hint,
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nx-key: Bearer locum_main\r\n\r\n"
    );
    // In one piece with the next and the answer, they come in their order.
    far.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 199 Mine\r\nX-Last: 1\r\n\r\n");
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal");
    assert_eq!(near.until(END), "HTTP/1.1 102 Processing\r\n\r\n");
    assert_eq!(near.until(END), "HTTP/1.1 199 \r\nx-last: 1\r\n\r\n");
    assert!(near.until("final").starts_with("HTTP/1.1 200 OK\r\n"));
    // The next request on the connection has its own.
    near.send(get("/next"));
    far.until(END);
    far.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert!(near.until(END).starts_with("HTTP/1.1 204"));
    assert_eq!(scene.ending("/hints"), "complete");
    let access = scene.home.accesses_to("/hints").remove(0);
    let records = scene.home.records_of(access["request_id"].as_str().unwrap(), 2);
    assert_eq!(records[1]["scrubbed"], 2, "{}", records[1]);
    let transcript = String::from_utf8_lossy(&near.transcript).into_owned();
    assert!(!transcript.contains(key.as_str()), "{transcript}");
}

#[test]
fn hints_pass_outside_of_a_tunnel_and_not_to_an_agent_of_http_1_0() {
    let peer = Peer::clear("plain.test");
    let home = Home::new();
    home.reach_as("plain.test", peer.address, None);
    let worker = home.agent("worker");
    home.policy("version: 1\nrules:\n  - {name: all, agents: ['*'], to: ['http://plain.test']}\n");
    let serve = home.serve();
    for (version, hears) in [("1.1", true), ("1.0", false)] {
        let mut near = Wire::plain(serve.proxy);
        near.send(format!(
            "GET http://plain.test/ HTTP/{version}\r\nHost: plain.test\r\n\
             Proxy-Authorization: {}\r\n\r\n",
            worker.authorization()
        ));
        let (mut far, _) = peer.request();
        far.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
        if hears {
            assert_eq!(near.until(END), "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
        }
        far.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        let head = near.until(END);
        assert!(head.starts_with(&format!("HTTP/{version} 204")), "{head}");
    }
}

#[test]
fn an_origin_that_never_comes_to_its_answer_is_late() {
    let scene = Scene::with(|home| home.set("upstream.timeouts: {response: 400ms}"));
    let (mut near, mut far, _) = scene.begin(get("/endless"));
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(100);
    // As fast as they are taken, until nobody takes them any more.
    let flood = std::thread::spawn(move || while far.try_send(hint.as_bytes()).is_ok() {});
    let answer = near.answer();
    assert_eq!((answer.status, &*answer.problem()), (504, "response-timeout"));
    flood.join().unwrap();
}

#[test]
fn answers_without_a_body_have_none_whatever_they_announce() {
    let scene = Scene::new();
    let mut near = scene.tunnel();
    let mut far = None;
    for (method, head, length) in [
        ("HEAD", "200 OK\r\nContent-Length: 1000", Some("1000")),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", None),
        ("HEAD", "200 OK", None),
        ("HEAD", "404 Not Found\r\nContent-Length: 9", Some("9")),
        ("GET", "204 No Content", None),
        ("GET", "304 Not Modified\r\nETag: \"x\"", None),
        // hyper gives none with this one, which RFC 9110 section 8.6 leaves to the sender.
        ("GET", "304 Not Modified\r\nContent-Length: 1000", None),
        ("HEAD", "304 Not Modified\r\nContent-Length: 1000", Some("1000")),
        ("GET", "205 Reset Content\r\nContent-Length: 0", Some("0")),
        ("GET", "200 OK\r\nContent-Length: 0", Some("0")),
    ] {
        near.send(request(method, "/none", &[AUTHORIZED], ""));
        let far = far.get_or_insert_with(|| scene.peer.accept());
        far.until("\r\n\r\n");
        far.send(format!("HTTP/1.1 {head}\r\n\r\n"));
        let answer = near.answer_to(method);
        assert!(head.starts_with(&answer.status.to_string()), "{method} {head}: {answer:?}");
        assert_eq!(answer.header("content-length"), length, "{method} {head}");
        assert!(answer.body.is_empty() && near.taken_ahead() == 0, "{method} {head}");
    }
    // All of it on one connection on either side: they never fell out of step.
}

#[test]
fn trailers_pass_in_both_directions() {
    let scene = Scene::new();
    let fields = ["TE: trailers", "Trailer: X-Sum, X-Gone", "Transfer-Encoding: chunked"];
    let (mut near, mut far, head) = scene.begin(post("/trailers", &fields));
    assert!(head.to_ascii_lowercase().contains("te: trailers"), "{head}");
    near.send("3\r\nabc\r\n0\r\nX-Sum: up\r\nLocum-Run: 7\r\nX-Else: 1\r\n\r\n");
    let body = far.until("\r\n\r\n").to_ascii_lowercase();
    assert!(body.ends_with("0\r\nx-sum: up\r\n\r\n"), "{body}");
    let key = &scene.key;
    far.send(format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Key\r\n\r\n\
         4\r\ndown\r\n0\r\nX-Sum: down\r\nX-Key: {key}\r\n\r\n"
    ));
    let answer = near.answer_to("POST");
    assert_eq!(answer.text(), "down");
    let trailer = |name: &str| answer.trailers.iter().find(|(n, _)| n == name).map(|(_, v)| &**v);
    assert_eq!((trailer("x-sum"), trailer("x-key")), (Some("down"), Some("locum_main")));
    // Without `TE` they are dropped, as RFC 9110 section 6.5.1 asks, and nothing else is.
    near.send(get("/trailers"));
    far.until("\r\n\r\n");
    far.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         4\r\ndown\r\n0\r\nX-Sum: down\r\n\r\n",
    );
    let answer = near.answer();
    assert_eq!((answer.text().as_str(), answer.trailers.len()), ("down", 0));
}

#[test]
fn an_agent_of_http_1_0_gets_what_it_understands() {
    let scene = Scene::new();
    let old = |target: &str, fields: &[&str]| {
        let fields = [&[AUTHORIZED], fields].concat();
        request("GET", target, &fields, "").replacen("HTTP/1.1", "HTTP/1.0", 1)
    };
    // No chunks: the connection's end is the body's.
    let (mut near, mut far, head) = scene.begin(old("/old", &[]));
    assert!(head.starts_with("GET /old HTTP/1.1\r\n"), "{head}");
    far.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n");
    let answer = near.answer();
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("old", None));
    // It is kept open where the agent asks for it, and the length allows it.
    let mut near = scene.tunnel();
    for _ in 0..2 {
        near.send(old("/kept", &["Connection: keep-alive"]));
        far.until("\r\n\r\n");
        far.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkept");
        let answer = near.answer();
        assert_eq!(answer.text(), "kept");
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
}

#[test]
fn an_origin_of_http_1_0_is_an_origin() {
    let scene = Scene::new();
    let mut near = scene.tunnel();
    for (answer, text) in [
        ("HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfour", "four"),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nkept", "kept"),
    ] {
        near.send(get("/old"));
        let (mut far, _) = scene.peer.request();
        far.send(answer);
        far.finish();
        let got = near.answer();
        assert_eq!((got.status, got.text().as_str()), (200, text));
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let scene = Scene::new();
    let body = "x".repeat(3000);
    let all = [
        get("/1"),
        request("POST", "/2", &[AUTHORIZED], &body),
        post("/3", &["Transfer-Encoding: chunked"]) + "2\r\nab\r\n0\r\n\r\n",
        request("HEAD", "/4", &[AUTHORIZED], ""),
        get("/5"),
    ];
    let mut near = scene.tunnel();
    near.send(all.concat());
    let mut far = scene.peer.accept();
    for number in 1..=5 {
        let head = far.until("\r\n\r\n");
        assert!(head.contains(&format!(" /{number} ")), "{number}: {head}");
        match number {
            2 => assert_eq!(far.until(&body).len(), body.len()),
            3 => assert!(far.until("0\r\n\r\n").contains("ab")),
            _ => {}
        }
        far.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
        if number != 4 {
            far.send(number.to_string());
        }
        let method = if number == 4 { "HEAD" } else { "GET" };
        let text = near.answer_to(method).text();
        assert_eq!(text, if number == 4 { String::new() } else { number.to_string() });
    }
}

#[test]
fn whoever_closes_is_heard_and_the_other_side_is_not_told() {
    let scene = Scene::new();
    // The origin closes: the agent's connection stays.
    let (mut near, mut far, _) = scene.begin(get("/a"));
    far.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na");
    let answer = near.answer();
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("a", None));
    drop(far);
    near.send(get("/b"));
    let (mut far, head) = scene.peer.request();
    assert!(!head.to_ascii_lowercase().contains("connection:"), "{head}");
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb");
    assert_eq!(near.answer().text(), "b");
    // The agent closes: the origin's stays.
    near.send(request("GET", "/c", &[AUTHORIZED, "Connection: close"], ""));
    let head = far.until("\r\n\r\n");
    assert!(!head.to_ascii_lowercase().contains("connection:"), "{head}");
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nc");
    let answer = near.answer();
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("c", Some("close")));
    assert!(near.until_closed().is_empty());
    let mut near = scene.tunnel();
    near.send(get("/d"));
    far.until("\r\n\r\n");
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nd");
    assert_eq!(near.answer().text(), "d");
}

#[test]
fn a_refusal_in_the_middle_of_an_upload_reaches_the_agent() {
    // Far more than all buffers on the way: who does not read it, stops it.
    const ANNOUNCED: usize = 64 * 1024 * 1024;
    let refusal =
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much";
    for fields in [format!("Content-Length: {ANNOUNCED}"), "Transfer-Encoding: chunked".to_owned()]
    {
        let scene = Scene::new();
        let (mut near, mut far, _) = scene.begin(post("/early", &[&fields]));
        let piece = "x".repeat(16 * 1024);
        let piece = if fields.starts_with('C') { piece } else { chunk(&piece) };
        let refuse = std::thread::spawn(move || {
            far.until("xxxxxxxx");
            far.send(refusal);
            far.finish();
            // Gone with bytes unread, as servers do: the kernel answers what still comes by RST.
            drop(far);
        });
        // The agent sends for as long as anybody takes it, and only then reads.
        let mut sent = 0;
        while sent < ANNOUNCED && near.try_send(piece.as_bytes()).is_ok() {
            sent += piece.len();
        }
        refuse.join().unwrap();
        let answer = near.answer_to("POST");
        assert_eq!((answer.status, answer.text().as_str()), (413, "too much"), "{fields}");
    }
}

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

#[test]
fn an_upload_that_is_not_as_announced_is_cut_and_recorded() {
    let scene = Scene::new();
    // Shorter than announced: the agent ends in the middle.
    for (path, fields, body) in [
        ("/short", "Content-Length: 10", "12345"),
        ("/chunks", "Transfer-Encoding: chunked", "5\r\n12345\r\n"),
    ] {
        let (mut near, mut far, _) = scene.begin(post(path, &[fields]));
        near.send(body);
        far.until("12345");
        near.finish();
        assert!(!far.until_closed().ends_with(b"0\r\n\r\n"), "{path}");
        drop(near);
        assert_ne!(scene.ending(path), "complete", "{path}");
    }
    // Longer than announced: the rest is a request of its own, and no good one.
    let (mut near, mut far, _) = scene.begin(post("/long", &["Content-Length: 5"]));
    near.send("12345678 GET");
    far.until("12345");
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(near.answer_to("POST").text(), "ok");
    near.send("\r\n\r\n");
    let rest = near.until_closed();
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.starts_with("HTTP/1.1 400 "), "{rest}");
    assert_eq!(scene.ending("/long"), "complete");
}

fn expecting(target: &str, length: usize) -> String {
    post(target, &[&format!("Content-Length: {length}"), "Expect: 100-continue"])
}

#[test]
fn an_agent_keeps_its_body_until_the_origin_wants_it() {
    let scene = Scene::new();
    let (mut near, mut far, head) = scene.begin(expecting("/put", 5));
    assert!(head.to_ascii_lowercase().contains("expect: 100-continue"), "{head}");
    assert!(near.is_silent(std::time::Duration::from_millis(100)), "told before the origin");
    far.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(near.until(END), "HTTP/1.1 102 Processing\r\n\r\n");
    assert_eq!(near.until(END), "HTTP/1.1 100 Continue\r\n\r\n");
    near.send("12345");
    far.until("12345");
    far.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    let answer = near.answer_to("POST");
    assert_eq!((answer.status, answer.header("connection")), (201, None));
    // Both connections go on.
    near.send(expecting("/again", 1));
    far.until("\r\n\r\n");
    far.send("HTTP/1.1 100 Continue\r\n\r\n");
    near.until("\r\n\r\n");
    near.send("1");
    far.until("1");
    far.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(near.answer_to("POST").status, 204);
}

#[test]
fn an_origin_may_refuse_a_body_before_it_is_sent() {
    let scene = Scene::new();
    for status in ["401 Unauthorized", "417 Expectation Failed", "413 Content Too Large"] {
        let (mut near, mut far, _) = scene.begin(expecting("/put", 1_000_000_000));
        far.send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno"));
        let answer = near.answer_to("POST");
        assert_eq!((answer.status, answer.text().as_str()), (status[..3].parse().unwrap(), "no"));
        // Whether the body still comes is not known, so nothing else may.
        assert_eq!(answer.header("connection"), Some("close"), "{status}");
        let transcript = String::from_utf8_lossy(&near.transcript).into_owned();
        assert!(!transcript.contains("100 Continue"), "{transcript}");
        near.finish();
        assert!(far.until_closed().is_empty(), "no byte of the body went up");
    }
}

#[test]
fn an_origin_that_says_nothing_gets_the_body_after_a_while() {
    let scene = Scene::new();
    let (mut near, mut far, _) = scene.begin(expecting("/put", 5));
    assert_eq!(near.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    near.send("12345");
    far.until("12345");
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(near.answer_to("POST").text(), "ok");
    // An agent does not have to wait either.
    near.send(expecting("/put", 5) + "67890");
    far.until("\r\n\r\n");
    far.send("HTTP/1.1 100 Continue\r\n\r\n");
    far.until("67890");
    far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(near.answer_to("POST").text(), "ok");
}

#[test]
fn a_refusal_of_ours_comes_before_the_body_too() {
    let scene = Scene::new();
    let mut near = scene.tunnel();
    let unknown = expecting("/put", 1_000_000_000).replace("locum_main", "locum_unknown");
    let answer = near.ask(unknown);
    assert_eq!(answer.problem(), "credential-refused");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(!String::from_utf8_lossy(&near.transcript).contains("100 Continue"));
}

#[test]
fn an_upload_that_stands_still_is_the_agents_fault() {
    let scene = Scene::with(|home| home.set("upstream.timeouts: {idle: 1s, response: 1h}"));
    let (mut near, mut far, _) = scene.begin(post("/stalled", &["Content-Length: 10"]));
    near.send("12345");
    far.until("12345");
    let answer = near.answer_to("POST");
    assert_eq!((answer.status, &*answer.problem()), (408, "request-timeout"));
    assert_eq!(scene.ending("/stalled"), "failed");
}

#[test]
fn chunks_of_any_size_pass_and_none_without_bound() {
    let scene = Scene::with(|home| home.set("limits.head_bytes: 8KiB"));
    let bytes: String = ('a'..='z').cycle().take(2000).collect();
    let single: String = bytes.chars().map(|c| chunk(&c.to_string())).collect();
    // One byte each, both ways.
    let (mut near, mut far, _) = scene.begin(post("/single", &["Transfer-Encoding: chunked"]));
    near.send(single.clone() + "0\r\n\r\n");
    let mut seen = String::new();
    while !seen.ends_with("0\r\n\r\n") {
        seen += &far.until("\r\n");
    }
    let data: String = seen.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(data, bytes);
    far.send(CHUNKED.to_owned() + &single + "0\r\n\r\n");
    assert_eq!(near.answer_to("POST").text(), bytes);
    drop(far);
    // Extensions and trailers that never end: from the agent, and from the origin.
    let extension = format!("1;{}\r\na\r\n", "e".repeat(9000)).repeat(3);
    let trailers = "0\r\n".to_owned() + &format!("X-T: {}\r\n", "t".repeat(900)).repeat(80);
    let fields: String = "0\r\n".to_owned() + &"X-T: 1\r\n".repeat(2000);
    for flood in [&extension, &trailers, &fields] {
        let (mut near, mut far, _) = scene.begin(post("/flood", &["Transfer-Encoding: chunked"]));
        let _ = near.try_send(flood.as_bytes());
        assert!(!far.until_closed().ends_with(b"0\r\n\r\n"), "{flood:.30}");
        assert!(near.try_answer("POST").map_or(true, |answer| answer.status == 400));
        let (mut near, mut far, _) = scene.begin(get("/flood"));
        far.send(CHUNKED);
        near.until("\r\n\r\n");
        let _ = far.try_send(flood.as_bytes());
        assert!(!near.until_closed().ends_with(b"0\r\n\r\n"), "{flood:.30}");
    }
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn heads_of_an_origin_are_bounded_too() {
    let scene = Scene::with(|home| home.set("upstream.timeouts: {response: 1s}"));
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(200_000));
    let many = "HTTP/1.1 200 OK\r\n".to_owned() + &"X: 1\r\n".repeat(2000) + "\r\n";
    let slow = "HTTP/1.1 200 OK\r\nX: 1\r\n".to_owned();
    for (head, code) in
        [(long, "upstream-failed"), (many, "upstream-failed"), (slow, "response-timeout")]
    {
        let (mut near, mut far, _) = scene.begin(get("/head"));
        let _ = far.try_send(head.as_bytes());
        assert_eq!(near.answer().problem(), code, "{head:.30}");
        // The agent's connection is none the worse for it.
        near.send(get("/next"));
        let (mut far, _) = scene.peer.request();
        far.send("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(near.answer().status, 204);
    }
}
