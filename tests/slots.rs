//! Every slot of a request, at httpbin, which shows what it was sent: asked with a placeholder through
//! the proxy, and with the key past it. Both answers are the same but for the one that is a placeholder.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::format_collect)]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::*;

/// Versions are fixed, so that a failure is ours.
const PYTHON: &[&str] = &["httpbin==0.10.4", "hypercorn[h2]==0.18.0"];

const SLOTS: &[&str] = &[
    "--to",
    "https://api.test",
    "--header",
    "Authorization: Bearer {secret}",
    "--header",
    "X-Api-Key: {secret}",
    "--basic",
    "user",
    "--query",
    "key",
    "--path=/anything/{secret}/**",
    "--json-pointer",
    "/auth/0/key",
    "--form",
    "token",
    "--multipart",
    "token",
];

/// Fields are dropped in this order: the proxy goes before its home.
struct Bin {
    serve: Serve,
    server: Running,
    origin: Origin,
    port: u16,
    agent: Agent,
    key: String,
    home: Home,
}

impl Bin {
    fn new(http1_only: bool) -> Self {
        let home = Home::new();
        let python = Tools::python_as("python-reflect", PYTHON).path.join("bin/python");
        let mut command = Command::new(python);
        home.clean(&mut command);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slots/httpbin_server.py");
        let mut server = Running::start(command.arg(script));
        let port: u16 = server.line("port ").parse().unwrap();
        let origin = Origin::before(HOST, ([127, 0, 0, 1], port).into());
        home.reach(&origin);
        if http1_only {
            home.http1_only(HOST);
        }
        let key = canary();
        home.add("main", SLOTS, &key);
        let agent = home.agent("worker");
        let serve = home.serve();
        Self { serve, server, origin, port, agent, key, home }
    }

    /// What httpbin says to the key itself, past the proxy, with the placeholder in its place.
    fn direct(&self, asked: &Asked) -> Value {
        let answer = Wire::plain(([127, 0, 0, 1], self.port).into()).ask(asked.text(&self.key));
        assert_eq!(answer.status, 200, "{asked:?}: {}", answer.text());
        let text = answer.text();
        assert!(text.contains(&self.key) || text.contains(&basic("user", &self.key)), "{text}");
        let pair = (basic("user", &self.key), basic("user", "locum_main"));
        let text = text.replace(&pair.0, &pair.1).replace(&self.key, "locum_main");
        serde_json::from_str(&text).unwrap()
    }
}

/// A request in which `{}` is where the credential belongs.
#[derive(Debug)]
struct Asked {
    target: &'static str,
    field: &'static str,
    body: &'static str,
    slot: &'static str,
}

impl Asked {
    fn text(&self, value: &str) -> String {
        let field = fill(self.field, value);
        let fields: Vec<&str> =
            ["Accept-Encoding: identity", &*field].into_iter().filter(|f| !f.is_empty()).collect();
        request("POST", &fill(self.target, value), &fields, &fill(self.body, value))
    }
}

/// A text with a value in its place, as it is or in a Basic pair.
fn fill(text: &str, value: &str) -> String {
    text.replace("{basic}", &basic("user", value)).replace("{}", value)
}

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
const JSON: &str = "Content-Type: application/json";
const PARTS: &str = "Content-Type: multipart/form-data; boundary=b";

const ALL: &[Asked] = &[
    Asked {
        target: "/anything",
        field: "Authorization: Bearer {}",
        body: "",
        slot: "header:authorization",
    },
    Asked { target: "/post", field: "X-Api-Key: {}", body: "x", slot: "header:x-api-key" },
    Asked {
        target: "/anything",
        field: "Authorization: {basic}",
        body: "",
        slot: "basic:password",
    },
    Asked { target: "/anything?a=%20b&key={}&c", field: "", body: "", slot: "query:key" },
    Asked { target: "/anything/{}/a%20b?x=1", field: "", body: "", slot: "path" },
    Asked {
        target: "/post",
        field: JSON,
        body: "{\"n\":1.50,\"auth\":[{\"key\":\"{}\"}],\"é\":\"\\u00e9\"}",
        slot: "json:/auth/0/key",
    },
    Asked { target: "/post", field: FORM, body: "a=1&token={}&b=%2f", slot: "form:token" },
    Asked {
        target: "/post",
        field: PARTS,
        body: "--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b\r\nContent-Disposition: form-data; name=token\r\n\r\n{}\r\n--b--\r\n",
        slot: "multipart:token",
    },
];

/// httpbin repeats the length, which is another one for another text.
fn without_length(mut answer: Value) -> Value {
    if let Some(headers) = answer["headers"].as_object_mut() {
        headers.remove("Content-Length");
    }
    answer
}

fn same_as_directly(http1_only: bool) {
    let bin = Bin::new(http1_only);
    let mut wire = bin.serve.tunnel(&bin.agent, HOST);
    for asked in ALL {
        let directly = without_length(bin.direct(asked));
        let answer = wire.ask(asked.text("locum_main"));
        assert_eq!(answer.status, 200, "{asked:?}: {}", answer.text());
        assert_eq!(without_length(answer.json()), directly, "{asked:?}");
        let reply = runtime().block_on(async {
            let agent = Http2::open(&bin.serve, &bin.agent).await;
            let field = fill(asked.field, "locum_main");
            let (name, value) = field.split_once(": ").unwrap_or(("x-none", "1"));
            let name = name.to_ascii_lowercase();
            let target = fill(asked.target, "locum_main");
            let body = fill(asked.body, "locum_main");
            // httpbin reads no body whose length it is not told.
            let length = body.len().to_string();
            let all =
                [("accept-encoding", "identity"), ("content-length", &*length), (&*name, value)];
            let is_sent = |(name, value): &(&str, &str)| *name != "x-none" && *value != "0";
            let fields: Vec<(&str, &str)> = all.into_iter().filter(is_sent).collect();
            agent.ask(request2("POST", &target, &fields), body.as_bytes()).await
        });
        assert_eq!(reply.status, 200, "{asked:?}: {}", reply.text());
        let reply: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(without_length(reply), directly, "{asked:?} over HTTP/2");
    }
    bin.home.never_leaks(&[&bin.key], &[("the wire", &wire.transcript)]);
    let records = bin.home.audit();
    let slots: Vec<&Value> =
        records.iter().filter(|r| r["kind"] == "access").map(|r| &r["slot"]).collect();
    let expected: Vec<&str> = ALL.iter().flat_map(|asked| [asked.slot; 2]).collect();
    assert_eq!(slots, expected);
}

#[test]
fn every_slot_arrives_as_if_it_had_been_sent_so_over_http1() {
    same_as_directly(true);
}

#[test]
fn every_slot_arrives_as_if_it_had_been_sent_so_over_http2() {
    same_as_directly(false);
}
