//! httpbin, which hands back whatever it is sent, as an origin: asked with a placeholder through the
//! proxy, and with the key directly. The origin sees the same in both, the agent's bytes have the key in
//! them in no form, and all else is the same to the byte.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

#[path = "support/mod.rs"]
mod support;

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use support::*;

/// Versions are fixed, so that a failure is ours.
const PYTHON: &[&str] = &["httpbin==0.10.4", "hypercorn[h2]==0.18.0"];

/// Each place in which httpbin takes something and hands it back.
const SLOTS: &[&str] = &[
    "--to",
    "https://api.test",
    "--header",
    "Authorization: Bearer {secret}",
    "--header",
    "Cookie: session={secret}",
    "--basic",
    "user",
    "--query",
    "show",
    "--query",
    "url",
];

/// Fields are dropped in this order: the proxy goes before its home.
struct Bin {
    serve: Serve,
    server: Running,
    port: u16,
    agent: Agent,
    key: String,
    identity: Identity,
    home: Home,
}

impl Bin {
    fn new(key: String, version: &str) -> Self {
        let home = Home::new();
        let identity = Identity::new(HOST);
        let file = |name: &str, text: &str| {
            let path = home.work().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let ca = file("origin-ca.pem", &identity.ca);
        let python = Tools::python_as("python-reflect", PYTHON).path.join("bin/python");
        let mut command = Command::new(python);
        home.clean(&mut command);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reflect/httpbin_server.py");
        command.arg(script).arg(file("origin.pem", &identity.certificate));
        command.arg(file("origin-key.pem", &identity.key)).arg(version);
        let mut server = Running::start(&mut command);
        let port: u16 = server.line("port ").parse().unwrap();
        home.reach_as(HOST, ([127, 0, 0, 1], port).into(), Some(ca));
        home.add("main", SLOTS, &key);
        let agent = home.agent("worker");
        let serve = home.serve();
        Self { serve, server, port, agent, key, identity, home }
    }

    /// The same request with the key itself, past the proxy.
    fn direct(&self, request: &Asked) -> Answer {
        let ca = self.home.work().join("origin-ca.pem");
        let wire = Wire::plain(([127, 0, 0, 1], self.port).into());
        let text = request.text(&self.key);
        wire.tls(HOST, &ca).unwrap().ask(text)
    }

    /// The forms in which httpbin shows the key, as the agent should see them.
    fn clean(&self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        let pair = basic("user", &self.key);
        for (from, to) in
            [(pair, basic("user", "locum_main")), (self.key.clone(), "locum_main".into())]
        {
            while let Some(at) = memchr::memmem::find(&text, from.as_bytes()) {
                text.splice(at..at + from.len(), to.bytes());
            }
        }
        text
    }
}

/// A request in which `{}` is where the credential belongs.
#[derive(Clone)]
struct Asked {
    method: &'static str,
    target: String,
    fields: Vec<String>,
    body: String,
}

impl Asked {
    fn get(target: &str, field: &str) -> Self {
        let fields = vec!["Accept-Encoding: identity".to_owned(), field.to_owned()];
        Self { method: "GET", target: target.to_owned(), fields, body: String::new() }
    }

    fn with(mut self, method: &'static str, body: &str) -> Self {
        self.method = method;
        self.fields.push("Content-Type: application/json".to_owned());
        body.clone_into(&mut self.body);
        self
    }

    /// With a Basic pair encoded, which is how one is sent.
    fn fields(&self, value: &str) -> Vec<String> {
        let fill = |field: &String| match field.strip_prefix("Basic ") {
            Some(user) => format!("Authorization: {}", basic(user, value)),
            None => field.replace("{}", value),
        };
        self.fields.iter().map(fill).filter(|field| !field.is_empty()).collect()
    }

    fn text(&self, value: &str) -> String {
        let fields = self.fields(value);
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        request(self.method, &self.target.replace("{}", value), &fields, &self.body)
    }
}

const BEARER_FIELD: &str = "Authorization: Bearer {}";

/// Each endpoint that reflects, asked so that it reflects the key; and some that do not.
fn all() -> Vec<Asked> {
    let mut all: Vec<Asked> = [
        "/headers",
        "/get?a=b&c=%20d",
        "/anything/a%20b/c?x=1",
        "/bearer",
        "/gzip",
        "/deflate",
        "/brotli",
        "/stream/5",
        "/drip?duration=0&numbytes=200&delay=0",
        "/base64/SFRUUEJJTiBpcyBhd2Vzb21l",
        "/response-headers?X-Mine=1&ETag=x",
        "/redirect-to?status_code=307&to=no",
        "/absolute-redirect/2",
        "/status/418",
        "/html",
        "/xml",
        "/json",
        "/robots.txt",
        "/encoding/utf8",
        "/bytes/70000?seed=7",
        "/stream-bytes/100000?seed=7&chunk_size=1000",
        "/links/5/2",
        "/etag/x",
        "/cache/60",
        "/image/svg",
    ]
    .map(|target| Asked::get(target, BEARER_FIELD))
    .into();
    for target in
        ["/headers", "/anything", "/basic-auth/user/other", "/hidden-basic-auth/user/other"]
    {
        all.push(Asked::get(target, "Basic user"));
    }
    for target in ["/cookies", "/headers", "/anything"] {
        all.push(Asked::get(target, "Cookie: session={}"));
    }
    for target in [
        "/get?show={}",
        "/response-headers?show={}",
        "/response-headers?a=1&show={}&b=%2F",
        "/redirect-to?url={}",
        "/redirect-to?status_code=302&url={}",
        "/cookies/set?show={}",
        "/anything?show={}&show2=1",
    ] {
        all.push(Asked::get(target, ""));
    }
    for (method, target) in [
        ("POST", "/post"),
        ("PUT", "/put"),
        ("PATCH", "/patch"),
        ("DELETE", "/delete"),
        ("POST", "/anything/x"),
    ] {
        all.push(
            Asked::get(target, BEARER_FIELD)
                .with(method, "{\"said\": \"locum_other\", \"n\": [1, 2]}"),
        );
    }
    all
}

/// A direct answer's body without its coding.
fn decoded(answer: &Answer) -> Vec<u8> {
    let mut text = Vec::new();
    let mut coded = &answer.body[..];
    match answer.header("content-encoding") {
        Some("gzip") => flate2::read::GzDecoder::new(coded).read_to_end(&mut text).unwrap(),
        Some("deflate") => flate2::read::ZlibDecoder::new(coded).read_to_end(&mut text).unwrap(),
        Some("br") => {
            brotli_decompressor::Decompressor::new(coded, 4096).read_to_end(&mut text).unwrap()
        }
        None => coded.read_to_end(&mut text).unwrap(),
        Some(other) => panic!("{other}"),
    };
    text
}

/// Fields that are about the connection, the moment or the coding.
fn fields(headers: &[(String, String)]) -> Vec<(String, String)> {
    const OTHERS: [&str; 7] = [
        "date",
        "connection",
        "transfer-encoding",
        "content-length",
        "content-encoding",
        "last-modified",
        "etag",
    ];
    let kept =
        headers.iter().filter(|(name, _)| !OTHERS.contains(&name.to_ascii_lowercase().as_str()));
    let mut kept: Vec<_> = kept.map(|(n, v)| (n.to_ascii_lowercase(), v.clone())).collect();
    kept.sort();
    kept
}

#[track_caller]
fn compare(bin: &Bin, asked: &Asked, status: u16, headers: &[(String, String)], body: &[u8]) {
    let direct = bin.direct(asked);
    let what = format!("{} {} {:?}", asked.method, asked.target, asked.fields);
    assert_eq!(status, direct.status, "{what}: {}", String::from_utf8_lossy(body));
    // `X-Seen` is among them: the origin saw with the placeholder what it saw with the key.
    let clean = |(name, value): (String, String)| {
        (name, String::from_utf8(bin.clean(value.as_bytes())).unwrap())
    };
    let expected: Vec<_> = fields(&direct.headers).into_iter().map(clean).collect();
    assert_eq!(fields(headers), expected, "{what}");
    assert!(headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-seen")), "{what}");
    let expected = bin.clean(&decoded(&direct));
    assert_eq!(String::from_utf8_lossy(body), String::from_utf8_lossy(&expected), "{what}");
    let found = leaks(&bin.key, body);
    assert!(found.is_empty(), "{what}: {found:?}");
}

fn over_http1(bin: &Bin, slow: bool) {
    let mut transcript = Vec::new();
    for mut asked in all() {
        if slow {
            asked.fields.insert(0, "X-Slow: 1".to_owned());
            if asked.target.contains("bytes") {
                continue;
            }
        }
        // Some answers end the connection.
        let mut wire = bin.serve.tunnel(&bin.agent, HOST);
        let answer = wire.ask(asked.text("locum_main"));
        compare(bin, &asked, answer.status, &answer.headers, &answer.body);
        transcript.extend_from_slice(&wire.transcript);
    }
    bin.home.never_leaks(&[&bin.key], &[("the wire", &transcript)]);
    assert!(bin.serve.metric("locum_scrubbed_total") > 20);
}

#[test]
fn each_endpoint_reflects_the_placeholder_over_http1() {
    over_http1(&Bin::new(canary(), "http/1.1"), false);
}

#[test]
fn one_byte_at_a_time_is_the_same() {
    over_http1(&Bin::new(canary(), "http/1.1"), true);
}

#[test]
fn each_endpoint_reflects_the_placeholder_over_http2() {
    let bin = Bin::new(canary(), "h2");
    runtime().block_on(async {
        for slow in [false, true] {
            let agent = Http2::open(&bin.serve, &bin.agent).await;
            for mut asked in all() {
                if slow && !asked.target.contains("bytes") {
                    asked.fields.insert(0, "X-Slow: 1".to_owned());
                }
                let fields = asked.fields("locum_main");
                let pairs: Vec<(String, String)> = fields
                    .iter()
                    .map(|field| field.split_once(": ").unwrap())
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                    .collect();
                let mut pairs: Vec<(&str, &str)> =
                    pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
                let length = asked.body.len().to_string();
                if !asked.body.is_empty() {
                    pairs.push(("content-length", &length));
                }
                let target = asked.target.replace("{}", "locum_main");
                let request = request2(asked.method, &target, &pairs);
                let reply = agent.ask(request, asked.body.as_bytes()).await;
                assert!(reply.broken.is_none(), "{target}: {:?}", reply.broken);
                let text =
                    |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
                let headers: Vec<(String, String)> =
                    reply.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
                compare(&bin, &asked, reply.status, &headers, &reply.body);
            }
        }
    });
    bin.home.never_leaks(&[&bin.key], &[]);
}

/// A key of signs that everybody escapes somehow: what comes back is not compared, only searched.
#[test]
fn a_thorny_key_comes_back_in_no_form() {
    let bin = Bin::new(thorny_canary(), "http/1.1");
    for asked in all().into_iter().filter(|asked| !asked.target.contains("bytes")) {
        let mut wire = bin.serve.tunnel(&bin.agent, HOST);
        let answer = wire.ask(asked.text("locum_main"));
        assert!(answer.status < 500, "{}: {}", asked.target, answer.text());
        let found = leaks(&bin.key, &wire.transcript);
        assert!(found.is_empty(), "{}: {found:?} in {}", asked.target, answer.text());
    }
    assert!(bin.serve.metric("locum_scrubbed_total") > 20);
}
