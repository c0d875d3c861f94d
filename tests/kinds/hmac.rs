//! Requests that are signed with a shared key, held against what the providers' own libraries make of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::*;

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kinds").join(name)
}

fn python() -> PathBuf {
    let packages = [
        "ccxt==4.5.22",
        "slack_sdk==3.39.0",
        "stripe==13.2.0",
        "tencentcloud-sdk-python-common==3.1.195",
    ];
    Tools::python_as("hmac", &packages).path.join("bin/python")
}

fn fields(seen: &Seen) -> Value {
    let fields: BTreeMap<&str, &str> =
        seen.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = String::from_utf8(seen.body.clone()).unwrap();
    json!({ "target": seen.target, "headers": fields, "body": body })
}

/// Whether the library called `name` takes the request as signed with these keys.
#[track_caller]
fn takes(name: &str, seen: &Value, keys: &Value) -> bool {
    let asked = json!({ "as": name, "seen": seen, "keys": keys }).to_string();
    let mut command = Command::new(python());
    let ran = run(command.arg(script("signed.py")).arg("check"), asked.as_bytes()).ok();
    serde_json::from_str(&ran.out).unwrap()
}

#[track_caller]
fn octokit_takes(seen: &Seen, key: &str) -> bool {
    let modules = Tools::node_as("octokit", &["@octokit/webhooks-methods@6.0.0"]).path;
    let mut node = Command::new("node");
    node.arg(script("signed.mjs")).env("MODULES", modules).env("KEY", key);
    node.env("BODY", String::from_utf8(seen.body.clone()).unwrap());
    node.env("SIGNATURE", seen.header("x-hub-signature-256").unwrap());
    serde_json::from_str(&command_output(&mut node)).unwrap()
}

const SLACK: &[&str] = &[
    "--kind",
    "hmac",
    "--sign",
    "v0:{timestamp}:{body}",
    "--signed-header",
    "X-Slack-Signature: v0={signature}",
    "--signed-header",
    "X-Slack-Request-Timestamp: {timestamp}",
    "--to",
    "https://api.test",
];

const STRIPE: &[&str] = &[
    "--kind",
    "hmac",
    "--sign",
    "{timestamp}.{body}",
    "--signed-header",
    "Stripe-Signature: t={timestamp},v1={signature}",
    "--to",
    "https://api.test",
];

const GITHUB: &[&str] = &[
    "--kind",
    "hmac",
    "--sign",
    "{body}",
    "--signed-header",
    "X-Hub-Signature-256: sha256={signature}",
    "--to",
    "https://api.test",
];

#[test]
fn senders_of_webhooks_are_believed_by_the_libraries_that_receive_them() {
    let keys: Vec<String> = (0..3).map(|_| canary()).collect();
    let world = World::with(BEARER, canary(), |home, _| {
        home.add("slack", SLACK, &keys[0]);
        home.add("stripe", STRIPE, &keys[1]);
        home.add("github", GITHUB, &keys[2]);
    });
    let body = "{\"text\": \"ümlaut & more\", \"n\": [1, 2]}";
    let ask = |field: &str| {
        assert_eq!(world.ask("POST", "/open/hook?x=1", &[field], body).status, 200, "{field}");
        let seen = world.origin.last();
        assert_eq!(seen.body, body.as_bytes(), "the body is as it was");
        seen
    };
    let slack = ask("X-Slack-Signature: locum_slack");
    assert!(takes("slack", &fields(&slack), &json!({ "key": keys[0] })));
    let stripe = ask("Stripe-Signature: locum_stripe");
    assert!(takes("stripe", &fields(&stripe), &json!({ "key": keys[1] })));
    let github = ask("X-Hub-Signature-256: sha256=locum_github");
    assert!(octokit_takes(&github, &keys[2]));
    // They would have said something of another key, or another body.
    assert!(!takes("slack", &fields(&slack), &json!({ "key": keys[1] })));
    assert!(!octokit_takes(&Seen { body: b"{}".to_vec(), ..github }, &keys[2]));
    // A body that comes in chunks is signed all the same, and no body is one of no bytes.
    let chunked = format!(
        "POST /open/hook HTTP/1.1\r\nHost: {HOST}\r\nX-Hub-Signature-256: locum_github\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n4\r\n you\r\n0\r\n\r\n"
    );
    assert_eq!(world.tunnel().ask(chunked).status, 200);
    let seen = world.origin.last();
    assert_eq!(seen.body, b"hi you");
    assert!(octokit_takes(&seen, &keys[2]));
    let record = world.home.accesses_to("/open/hook").pop().unwrap();
    assert_eq!(record["slot"], "header:x-hub-signature-256");
    let all: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.home.never_leaks(&all, &[]);
}

/// An exchange, and a program of `ccxt` that has placeholders for its keys.
fn exchange(name: &str, host: &str, arguments: &[&str], secret: &str) -> (Home, Seen) {
    let home = Home::new();
    let origin = Origin::start(host);
    origin.accept(&format!("{name}-7"));
    home.reach(&origin);
    let to = format!("https://{host}");
    home.add(name, &[&["--kind", "hmac", "--to", &to], arguments].concat(), secret);
    home.agent("worker");
    let _serve = home.serve();
    let mut command = home.command(&["run", "--agent", "worker", "--"]);
    command.arg(python()).arg(script("signed.py"));
    let ran = run(command.args(["send", name, &format!("locum_{name}")]), b"").ok();
    home.said(&ran);
    let seen = origin.seen();
    assert_eq!(seen.len(), 1, "{ran:?}");
    (home, seen.into_iter().next().unwrap())
}

#[test]
fn a_program_of_ccxt_with_placeholders_trades_as_one_with_keys() {
    let (key, passphrase) = (canary(), canary());
    let secret = json!({ "key": key, "passphrase": passphrase }).to_string();
    let okx = &[
        "--sign",
        "{timestamp}{method}{target}{body}",
        "--timestamp",
        "iso",
        "--encoding",
        "base64",
        "--key-id",
        "okx-7",
        "--signed-header",
        "OK-ACCESS-KEY: {key-id}",
        "--signed-header",
        "OK-ACCESS-SIGN: {signature}",
        "--signed-header",
        "OK-ACCESS-TIMESTAMP: {timestamp}",
        "--signed-header",
        "OK-ACCESS-PASSPHRASE: {passphrase}",
    ];
    let (home, seen) = exchange("okx", "www.okx.com", okx, &secret);
    let keys = json!({ "id": "okx-7", "key": key, "passphrase": passphrase });
    assert!(takes("okx", &fields(&seen), &keys), "{seen:?}");
    home.never_leaks(&[&key, &passphrase], &[]);

    let gate = &[
        "--sign",
        "{method}\\n{path}\\n{query}\\n{body:sha512:hex}\\n{timestamp}",
        "--hash",
        "sha512",
        "--key-id",
        "gate-7",
        "--signed-header",
        "KEY: {key-id}",
        "--signed-header",
        "Timestamp: {timestamp}",
        "--signed-header",
        "SIGN: {signature}",
    ];
    let (home, seen) = exchange("gate", "api.gateio.ws", gate, &key);
    assert!(takes("gate", &fields(&seen), &json!({ "id": "gate-7", "key": key })), "{seen:?}");
    home.never_leaks(&[&key], &[]);

    let binance = &[
        "--sign",
        "{query}{body}",
        "--key-id",
        "binance-7",
        "--signed-header",
        "X-MBX-APIKEY: {key-id}",
        "--signed-query",
        "signature={signature}",
    ];
    let (home, seen) = exchange("binance", "api.binance.com", binance, &key);
    assert!(
        takes("binance", &fields(&seen), &json!({ "id": "binance-7", "key": key })),
        "{seen:?}"
    );
    assert_eq!(seen.target.matches("signature=").count(), 1, "{}", seen.target);
    home.never_leaks(&[&key], &[]);
}

const KRAKEN: &[&str] = &[
    "--part",
    "content={form:nonce}{body}",
    "--sign",
    "{path}{part:content:sha256:raw}",
    "--hash",
    "sha512",
    "--encoding",
    "base64",
    "--key-form",
    "base64",
    "--key-id",
    "kraken-7",
    "--signed-header",
    "API-Key: {key-id}",
    "--signed-header",
    "API-Sign: {signature}",
];

const TC3: &[&str] = &[
    "--part",
    "request={method}\\n{path}\\n{query}\\ncontent-type:{header:content-type}\\nhost:{host}\\n\\ncontent-type;host\\n{body:sha256:hex}",
    "--sign",
    "TC3-HMAC-SHA256\\n{timestamp}\\n{date}/cvm/tc3_request\\n{part:request:sha256:hex}",
    "--key-prefix",
    "TC3",
    "--derive",
    "{date}",
    "--derive",
    "cvm",
    "--derive",
    "tc3_request",
    "--key-id",
    "tencent-7",
    "--signed-header",
    "Authorization: TC3-HMAC-SHA256 Credential={key-id}/{date}/cvm/tc3_request, SignedHeaders=content-type;host, Signature={signature}",
    "--signed-header",
    "X-TC-Timestamp: {timestamp}",
];

#[test]
fn a_key_that_is_decoded_or_derived_signs_what_has_digests_in_it() {
    let key = canary();
    let encoded = data_encoding::BASE64.encode(key.as_bytes());
    let (home, seen) = exchange("kraken", "api.kraken.com", KRAKEN, &encoded);
    assert!(seen.target.ends_with("/private/AddOrder"), "{}", seen.target);
    let keys = json!({ "id": "kraken-7", "key": encoded });
    assert!(takes("kraken", &fields(&seen), &keys), "{seen:?}");
    let other = json!({ "id": "kraken-7", "key": data_encoding::BASE64.encode(b"another") });
    assert!(!takes("kraken", &fields(&seen), &other));
    home.never_leaks(&[&key, &encoded], &[]);

    let host = "cvm.tencentcloudapi.com";
    let (home, seen) = exchange("tencent", host, TC3, &key);
    let keys = json!({ "id": "tencent-7", "key": key });
    assert!(takes("tencent", &fields(&seen), &keys), "{seen:?}");
    assert!(!takes("tencent", &fields(&seen), &json!({ "id": "tencent-7", "key": "another" })));
    home.never_leaks(&[&key], &[]);
}

#[test]
fn a_reference_among_other_text_counts_in_a_field_that_is_signed_anew_and_alone() {
    let key = canary();
    let world = World::with(BEARER, canary(), |home, _| {
        let to = ["--kind", "hmac", "--to", "https://api.test"];
        home.add("tencent", &[&to, TC3].concat(), &key);
        home.add("kraken", &[&to, KRAKEN].concat(), &data_encoding::BASE64.encode(key.as_bytes()));
    });
    let ask = |text: &str| {
        let authorization = format!("Authorization: TC3-HMAC-SHA256 {text}");
        world.ask("POST", "/open/x", &[&authorization, "Content-Type: application/json"], "{}")
    };
    assert_eq!(ask("Credential=locum_tencent/2026-01-05/cvm, Signature=00").status, 200);
    let seen = world.origin.last();
    let sent = seen.header("authorization").unwrap();
    assert!(sent.contains("Credential=tencent-7/") && !sent.contains("Signature=00"), "{sent}");
    assert_eq!(world.home.accesses_to("/open/x").pop().unwrap()["credential"], "tencent");
    let before = world.origin.seen().len();
    for text in [
        "Credential=locum_tencent/2026-01-05, Signature=locum_kraken",
        "Credential=locum_none/2026-01-05",
        // It signs other fields than this one, or is sent as it is.
        "Credential=locum_kraken/2026-01-05",
        "Credential=locum_main/2026-01-05",
    ] {
        assert_eq!(ask(text).problem(), "credential-refused", "{text}");
    }
    assert_eq!(world.origin.seen().len(), before, "nothing was sent");
    world.home.never_leaks(&[&key], &[]);
}

#[test]
fn a_field_of_a_form_that_is_there_twice_is_not_signed() {
    let world = World::with(BEARER, canary(), |home, _| {
        let to = ["--kind", "hmac", "--to", "https://api.test"];
        let key = data_encoding::BASE64.encode(canary().as_bytes());
        home.add("kraken", &[&to, KRAKEN].concat(), &key);
    });
    let form = "Content-Type: application/x-www-form-urlencoded";
    let ask = |body: &str| {
        world.ask("POST", "/open/0/private/Balance", &["API-Key: locum_kraken", form], body)
    };
    assert_eq!(ask("nonce=7&a=1").status, 200);
    let before = world.origin.seen().len();
    for body in ["nonce=7&nonce=8", "nonce=7&a=1&n%6Fnce=8"] {
        assert_eq!(ask(body).problem(), "bad-request", "{body}");
    }
    assert_eq!(world.origin.seen().len(), before, "nothing was sent");
}

/// CGI, and all that has its fields from there, makes one name of both.
#[test]
fn a_field_that_an_origin_takes_for_a_signed_one_does_not_go_out_beside_it() {
    let world = World::with(BEARER, canary(), |home, _| {
        let to = ["--kind", "hmac", "--to", "https://api.test"];
        home.add("tencent", &[&to, TC3].concat(), &canary());
    });
    let ask = |field: &str| {
        let authorization = "Authorization: TC3-HMAC-SHA256 Credential=locum_tencent/2026-01-05";
        world.ask(
            "POST",
            "/open/x",
            &[authorization, "Content-Type: application/json", field],
            "{}",
        )
    };
    assert_eq!(ask("X_TC_Timestamp: 7").status, 200);
    let seen = world.origin.last();
    assert_eq!(seen.header("x_tc_timestamp"), None);
    assert_ne!(seen.header("x-tc-timestamp"), Some("7"));
    // Signed as the agent wrote it, so that nothing can be taken out.
    assert_eq!(ask("Content_Type: text/plain").problem(), "bad-request");
}

#[test]
fn what_is_echoed_is_hidden_and_each_request_is_signed_anew() {
    let (key, passphrase) = (canary(), canary());
    let arguments = &[
        "--kind",
        "hmac",
        "--sign",
        "{nonce}{target}",
        "--signed-header",
        "X-Sign: {signature}",
        "--signed-header",
        "X-Nonce: {nonce}",
        "--signed-header",
        "X-Pass: {passphrase}",
        "--to",
        "https://api.test",
    ];
    let secret = json!({ "key": key, "passphrase": passphrase }).to_string();
    let world = World::with(BEARER, canary(), |home, _| home.add("signed", arguments, &secret));
    let answer = world.ask("GET", "/shown/raw", &["X-Sign: locum_signed", AUTHORIZED], "");
    let one = world.origin.last();
    assert_eq!(one.header("x-pass"), Some(&*passphrase));
    assert!(answer.text().contains(one.header("x-nonce").unwrap()), "the head is shown");
    assert!(!answer.text().contains(&passphrase), "it is taken out of the answer");
    let signature = one.header("x-sign").unwrap();
    assert!(!answer.text().contains(signature), "and so is the signature: {}", answer.text());
    world.ask("GET", "/open/x", &["X-Sign: locum_signed", "X-Nonce: mine"], "");
    let two = world.origin.last();
    assert_ne!(one.header("x-nonce"), two.header("x-nonce"));
    assert_ne!(two.header("x-nonce"), Some("mine"), "what the client had there is taken out");
    assert_ne!(one.header("x-sign"), two.header("x-sign"));
    // The next key signs what comes after it; the passphrase, of which nothing is said, stays.
    let next = canary();
    world.home.rotate("signed", &next);
    eventually("the new key", PATIENCE, || {
        world.ask("GET", "/open/x", &["X-Sign: locum_signed"], "");
        let records = world.home.accesses_to("/open/x");
        records.iter().any(|record| record["version"] == 2).then_some(())
    });
    assert_eq!(world.origin.last().header("x-pass"), Some(&*passphrase));
    world.home.never_leaks(&[&key, &next, &passphrase], &[]);
}

#[test]
fn a_signature_that_proves_nothing_is_not_added() {
    let home = Home::new();
    let add = |more: &[&str], secret: &str| {
        let to = ["credential", "add", "x", "--kind", "hmac", "--to", "https://api.test"];
        home.locum_with(&[&to, more].concat(), secret.as_bytes())
    };
    let out = ["--signed-header", "X-Sign: {signature}"];
    for (more, why) in [
        (&[][..], "--sign"),
        (&["--sign", "{body}"], "no field"),
        (&[&["--sign", "hello"][..], &out].concat(), "the same for all requests"),
        (&[&["--sign", "{bdy}"][..], &out].concat(), "is none of"),
        (
            &["--sign", "{body}", "--signed-header", "Host: {signature}"],
            "belongs to the connection",
        ),
        (&[&["--sign", "{body}{key-id}"][..], &out].concat(), "who signs"),
        (&[&["--sign", "{body}", "--key-form", "hex"][..], &out].concat(), "--key-form"),
        (&[&["--sign", "{part:x}"][..], &out].concat(), "the part `x`"),
        (&[&["--sign", "{body}", "--derive", "{body}"][..], &out].concat(), "what is of the body"),
        (&[&["--sign", "{body}", "--encoding", "raw"][..], &out].concat(), "{raw} has no place"),
    ] {
        let ran = add(more, "not hex at all");
        assert!(ran.code != 0 && ran.err.contains(why), "{more:?}: {}", ran.err);
    }
}
