//! The schema of `locum.yaml`, in the same way.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use locum::config::{Config, SCHEMA};
use locum::document::{Document, Limits, Source};
use serde_json::Value;

use crate::markdown;
use crate::support::{Home, tree};

/// A file as the reader sees it.
fn as_json(text: &str) -> Value {
    let document = Document::parse(Source::new("locum.yaml", text), &Limits::CONFIG);
    tree(document.unwrap_or_else(|report| panic!("{report}")).root())
}

fn read(text: &str) -> Result<Config, String> {
    let source = Source::new("locum.yaml", text);
    Config::parse(source, Path::new("/home/locum")).map_err(|report| report.to_string())
}

fn validate(documents: &[String]) -> Vec<Option<String>> {
    let trees: Vec<Value> = documents.iter().map(|text| as_json(text)).collect();
    super::validate_with(SCHEMA, &trees)
}

/// Each mapping of the file: where the schema has it, and a file that has a key in it which is unknown.
const MAPPINGS: [(&str, &str); 28] = [
    ("", "zzzz: 1"),
    ("/properties/proxy", "proxy: {zzzz: 1}"),
    ("/$defs/listenerTls", "proxy: {tls: {zzzz: 1}}"),
    ("/$defs/listen/anyOf/2", "proxy: {listen: [{zzzz: 1}]}"),
    ("/properties/identity", "identity: {zzzz: 1}"),
    ("/properties/identity/properties/jwt/items", "identity: {jwt: [{zzzz: 1}]}"),
    (
        "/properties/identity/properties/jwt/items/properties/claims",
        "identity: {jwt: [{claims: {zzzz: 1}}]}",
    ),
    ("/$defs/mapping", "identity: {jwt: [{map: [{zzzz: 1}]}]}"),
    (
        "/properties/identity/properties/client_certificates",
        "identity: {client_certificates: {zzzz: 1}}",
    ),
    ("/properties/identity/properties/unix_peers/items", "identity: {unix_peers: [{zzzz: 1}]}"),
    ("/properties/ops", "ops: {zzzz: 1}"),
    ("/properties/upstream", "upstream: {zzzz: 1}"),
    (
        "/properties/upstream/properties/hosts/additionalProperties",
        "upstream: {hosts: {x.test: {zzzz: 1}}}",
    ),
    (
        "/properties/upstream/properties/hosts/additionalProperties/properties/client_cert",
        "upstream: {hosts: {x.test: {client_cert: {zzzz: 1}}}}",
    ),
    (
        "/properties/upstream/properties/hosts/additionalProperties/properties/proxy/anyOf/1",
        "upstream: {hosts: {x.test: {proxy: {zzzz: 1}}}}",
    ),
    ("/properties/upstream/properties/timeouts", "upstream: {timeouts: {zzzz: 1}}"),
    ("/properties/upstream/properties/pool", "upstream: {pool: {zzzz: 1}}"),
    ("/properties/upstream/properties/breaker/anyOf/1", "upstream: {breaker: {zzzz: 1}}"),
    ("/properties/audit", "audit: {zzzz: 1}"),
    ("/properties/vault", "vault: {zzzz: 1}"),
    ("/properties/vault/properties/key", "vault: {key: {zzzz: 1}}"),
    (
        "/properties/vault/properties/key/properties/passphrase/anyOf/1",
        "vault: {key: {passphrase: {zzzz: 1}}}",
    ),
    ("/properties/credentials", "credentials: {zzzz: 1}"),
    ("/properties/approvals", "approvals: {zzzz: 1}"),
    ("/properties/anomalies", "anomalies: {zzzz: 1}"),
    ("/properties/admin", "admin: {zzzz: 1}"),
    ("/properties/log", "log: {zzzz: 1}"),
    ("/properties/limits", "limits: {zzzz: 1}"),
];

/// What the reader says that it knows there.
fn known(text: &str) -> BTreeSet<String> {
    let report = read(text).unwrap_err();
    let (_, list) = report.split_once("known here: ").unwrap_or_else(|| panic!("{report}"));
    list.lines().next().unwrap().split(", ").map(str::to_owned).collect()
}

#[test]
fn the_schema_of_the_config_has_the_keys_of_the_reader_and_no_others() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    for (pointer, text) in MAPPINGS {
        let object = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
        let named = object["properties"].as_object().unwrap();
        assert_eq!(named.keys().cloned().collect::<BTreeSet<_>>(), known(text), "{pointer}");
        assert_eq!(object["additionalProperties"], false, "{pointer}");
        for (key, value) in named {
            let at = value["$ref"].as_str().map(|to| schema.pointer(&to[1..]).unwrap());
            let described =
                [Some(value), at].into_iter().flatten().any(|v| v.get("description").is_some());
            assert!(described, "{pointer}: {key} has no description");
        }
    }
    // Whoever adds a mapping adds it to the table above.
    let closed = SCHEMA.matches("\"additionalProperties\": false").count();
    assert_eq!(closed, MAPPINGS.len(), "a mapping that is not compared");
    let sources = ["read.rs", "read/admin.rs", "read/identity.rs", "read/listen.rs"];
    let sources = sources.map(|file| markdown::read(&format!("src/config/{file}")));
    let read: usize = sources.iter().map(|text| text.matches("reader.map(").count()).sum();
    assert_eq!(read, MAPPINGS.len(), "a mapping of the reader that is not compared");
}

#[test]
fn the_schema_of_the_config_has_the_words_of_the_reader() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let words = |pointer: &str| -> BTreeSet<String> {
        let words = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
        words.as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect()
    };
    for (pointer, text) in [
        ("/$defs/listenerTls/properties/client_auth/enum", "proxy: {tls: {client_auth: zzzz}}"),
        ("/properties/proxy/properties/authenticate/items/enum", "proxy: {authenticate: [zzzz]}"),
        (
            "/properties/identity/properties/client_certificates/properties/name/enum",
            "identity: {client_certificates: {name: zzzz}}",
        ),
        ("/$defs/admitted/enum", "identity: {client_certificates: {name: cn, agents: zzzz}}"),
        (
            "/properties/identity/properties/jwt/items/properties/algorithms/anyOf/0/enum",
            "identity: {jwt: [{algorithms: [zzzz]}]}",
        ),
        ("/properties/upstream/properties/breaker/anyOf/0/enum", "upstream: {breaker: zzzz}"),
        ("/properties/log/properties/level/enum", "log: {level: zzzz}"),
        ("/properties/log/properties/format/enum", "log: {format: zzzz}"),
    ] {
        let report = read(text).unwrap_err();
        let (_, list) = report.split_once("is not one of: ").unwrap_or_else(|| panic!("{report}"));
        let known = list.lines().next().unwrap().split(", ").map(str::to_owned).collect();
        assert_eq!(words(pointer), known, "{pointer}");
    }
}

/// Every config that is shipped or shown.
fn shown() -> Vec<(String, String)> {
    let mut found = vec![("locum.yaml".to_owned(), Config::default_text().to_owned())];
    for document in markdown::documents() {
        for block in markdown::blocks(&document) {
            if block.language == "yaml" && block.text.starts_with("# locum.yaml") {
                found.push((format!("{document}:{}", block.line), block.text));
            }
        }
    }
    found
}

/// Both take each of these.
const RIGHT: [&str; 37] = [
    "",
    "{}",
    "proxy: {listen: 127.0.0.1:0}",
    "proxy: {listen: '[::1]:3128'}",
    "proxy: {listen: unix:proxy.sock}",
    "proxy: {listen: [127.0.0.1:1, {address: unix:/run/x, mode: '660'}]}",
    "proxy: {listen: [{address: 127.0.0.1:1, tls: off}], tls: {certificate: c, key: k}}",
    "proxy: {tls: {certificate: c, key: k, client_ca: a, client_crl: r, client_auth: optional}}",
    "proxy: {authenticate: [run-tokens, tokens]}",
    "identity: {jwt: [{issuer: i, audience: a, keys: k.json}]}",
    "identity: {jwt: [{issuer: i, audience: [a, b], keys: 'https://x.test/k', leeway: 0s, types: JWT}]}",
    "identity: {jwt: [{issuer: i, audience: a, keys: k, claims: {agent: /a/b, labels: {team: team}}, map: {match: 'x*', agent: '{1}'}}]}",
    "ops: {listen: off}",
    "ops: {listen: 0.0.0.0:3129, allow_remote: true}",
    "upstream: {allow_addresses: [10.0.0.0/8, 192.0.2.1, 'fd00::/8']}",
    "upstream: {hosts: {'*': {proxy: 'http://127.0.0.1:3128'}, '**.x.test': {}}}",
    "upstream: {hosts: {x.test: {address: '10.1.1.1:443', ca_file: a, http1_only: true}}}",
    "upstream: {timeouts: {connect: 1s, tls: 1s500ms, response: 1h30m, idle: 24h}}",
    "upstream: {pool: {per_host: 0, total: 0, idle: 1s, age: 1s}}",
    "upstream: {breaker: off}",
    "upstream: {breaker: {failures: 2}}",
    "audit: {dir: /var/log/locum, fsync: always, retain: 400d, max_file: 1MiB}",
    "audit: {fsync: 250ms, retain: forever}",
    "vault: {key: {file: k}}",
    "vault: {key: {passphrase: prompt}}",
    "vault: {key: {passphrase: {credential: locum.key}}}",
    "vault: {key: {command: [/usr/bin/pass, show, x]}}",
    "credentials: {grace: 0s, health: 5m, trust_claims: true}",
    "credentials: {health: off}",
    "approvals: {webhook: 'https://x.test/h', key: hook}",
    "anomalies: {learn: off, volume: 10}",
    "anomalies: {learn: 1d}",
    "admin: {listen: off}",
    "admin: {listen: unix:/run/locum/admin.sock, mode: '0660'}",
    "admin: {listen: 0.0.0.0:3130, tls: {certificate: c, key: k}}",
    "log: {level: warn, format: json}",
    "limits: {connections: 1, head_bytes: 64KiB, headers: 16, drain: 0s}",
];

/// Both refuse each of these.
const WRONG: [&str; 38] = [
    "[]",
    "text",
    "proxi: {}",
    "proxy: []",
    "proxy: {listen: []}",
    "proxy: {listen: 3128}",
    "proxy: {listen: localhost:3128}",
    "proxy: {listen: [{tls: off}]}",
    "proxy: {listen: [{address: unix:/run/x, mode: 660}]}",
    "proxy: {tls: {certificate: c}}",
    "proxy: {tls: {certificate: c, key: k, client_auth: required}}",
    "proxy: {tls: {certificate: c, key: k, client_crl: r}}",
    "proxy: {tls: {certificate: ~/c, key: k}}",
    "proxy: {allow_remote: yes}",
    "proxy: {authenticate: []}",
    "identity: {jwt: [{issuer: i, audience: a}]}",
    "identity: {jwt: [{issuer: i, audience: [], keys: k}]}",
    "identity: {jwt: [{issuer: i, audience: a, keys: 'http://x.test/k'}]}",
    "identity: {client_certificates: {name: spiffe}}",
    "identity: {client_certificates: {name: cn, trust_domain: x}}",
    "identity: {unix_peers: [{agent: a}]}",
    "ops: {listen: false}",
    "upstream: {allow_addresses: [x.test]}",
    "upstream: {hosts: {x.test: {proxy: 'http://user:password@x.test'}}}",
    "upstream: {hosts: {x.test: {client_cert: {certificate: c}}}}",
    "upstream: {timeouts: {connect: 30}}",
    "upstream: {breaker: {failures: 1}}",
    "audit: {fsync: sometimes}",
    "audit: {max_file: 1MB}",
    "vault: {key: k}",
    "vault: {key: {file: a, passphrase: prompt}}",
    "vault: {key: {passphrase: hunter2}}",
    "vault: {key: {command: [pass]}}",
    "approvals: {webhook: 'https://x.test/h'}",
    "anomalies: {volume: 1}",
    "admin: {listen: 127.0.0.1:3130}",
    "admin: {listen: unix:a.sock, tls: {certificate: c, key: k}}",
    "admin: {listen: 127.0.0.1:3130, mode: '0660', tls: {certificate: c, key: k}}",
];

#[test]
fn what_the_reader_of_the_config_takes_fits_its_schema() {
    let shown = shown();
    assert!(shown.len() >= 8, "{}", shown.len());
    for (place, text) in &shown {
        assert!(read(text).is_ok(), "{place}: {}", read(text).unwrap_err());
    }
    for text in RIGHT {
        assert!(read(text).is_ok(), "{text}: {}", read(text).unwrap_err());
    }
    let own = RIGHT.iter().map(|text| (*text).to_owned());
    let documents: Vec<String> = shown.into_iter().map(|(_, text)| text).chain(own).collect();
    for (document, verdict) in documents.iter().zip(validate(&documents)) {
        assert_eq!(verdict, None, "{document}");
    }
}

#[test]
fn wrong_configs_do_not_fit_the_schema() {
    let documents: Vec<String> = WRONG.iter().map(|text| (*text).to_owned()).collect();
    for document in &documents {
        assert!(read(document).is_err(), "{document}");
    }
    for (document, verdict) in documents.iter().zip(validate(&documents)) {
        assert!(verdict.is_some(), "{document}");
    }
}

#[test]
fn the_commands_print_the_schema_and_all_mistakes_at_once() {
    let locum = || Command::new(env!("CARGO_BIN_EXE_locum"));
    let ran = locum().args(["config", "schema"]).output().unwrap();
    assert!(ran.status.success());
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), SCHEMA);
    let home = Home::new();
    let checked = home.locum(&["config", "check"]).ok();
    let path = home.path().join("locum.yaml");
    assert_eq!(checked.out, format!("no mistakes in {}\n", path.display()));
    // A file that it names is looked at, too.
    home.set("upstream.hosts: {x.test: {ca_file: missing.pem}}");
    let missing = home.locum(&["config", "check"]);
    assert!(missing.code != 0 && missing.err.contains("missing.pem"), "{}", missing.err);
    home.unset("upstream.hosts");
    let wrong = "proxy:\n  listen: 3128\nlog:\n  level: loud\nlimts: {}\n";
    std::fs::write(&path, wrong).unwrap();
    let checked = home.locum(&["config", "check"]).failed(64);
    let at = |line: u32| format!("{}:{line}:", path.display());
    for part in [
        at(2),
        at(4),
        at(5),
        "^".to_owned(),
        "did you mean `limits`?".to_owned(),
        "3 mistakes".to_owned(),
    ] {
        assert!(checked.err.contains(&part), "{part}: {}", checked.err);
    }
    let json = home.locum(&["config", "check", "--json"]).failed(64);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["ok"], json["problems"].as_array().unwrap().len()), (&false.into(), 3));
    // Another file needs no home, and what it names is not on this machine.
    let other = home.work().join("other.yaml");
    std::fs::write(&other, "audit: {dir: /var/log/locum}\nvault: {key: {file: /x}}\n").unwrap();
    let other = other.to_str().unwrap();
    let ran =
        locum().args(["--home", "/nowhere", "config", "check", other, "--json"]).output().unwrap();
    assert!(ran.status.success());
    assert_eq!(
        String::from_utf8(ran.stdout).unwrap().split_whitespace().collect::<String>(),
        "{\"ok\":true,\"problems\":[]}"
    );
}
