//! The published JSON Schemas of the policy document and of `locum.yaml`, held by a validator that others
//! wrote (Python's `jsonschema`) against what their readers take, and against what they refuse.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

#[path = "../docs/markdown.rs"]
mod markdown;
#[path = "../support/mod.rs"]
mod support;

mod config;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use locum::document::{Document, Limits, Source};
use locum::policy::{SCHEMA, compile_all};
use serde_json::{Value, json};
use support::{Tools, tree};

/// A file as the reader sees it.
fn as_json(text: &str) -> Value {
    let document = Document::parse(Source::new("p.yaml", text), &Limits::POLICY);
    tree(document.unwrap_or_else(|report| panic!("{report}")).root())
}

/// What the validator has against each document, if anything.
fn validate(documents: &[Value]) -> Vec<Option<String>> {
    validate_with(SCHEMA, documents)
}

fn validate_with(schema: &str, documents: &[Value]) -> Vec<Option<String>> {
    let tools = Tools::python_as("jsonschema", &["jsonschema==4.25.1"]);
    let schema: Value = serde_json::from_str(schema).unwrap();
    let script = markdown::root().join("tests/schema/validate.py");
    let mut command = Command::new(tools.path.join("bin/python"));
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let asked = json!({ "schema": schema, "documents": documents }).to_string();
    child.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let said = String::from_utf8(output.stdout).unwrap();
    let verdicts: Vec<_> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), documents.len());
    verdicts
}

/// Every policy that is shipped, shown or tested, with the place where it stands.
fn policies() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for directory in ["policies", "policies/tests", "tests/vectors"] {
        for entry in fs::read_dir(markdown::root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if path.extension().is_some_and(|e| e == "yaml") && text.contains("version: 1") {
                found.push((path.display().to_string(), text));
            }
        }
    }
    for document in markdown::documents() {
        for block in markdown::blocks(&document) {
            let policy =
                block.text.starts_with("version: 1") || block.text.contains("\nversion: 1\n");
            if block.language == "yaml" && policy {
                found.push((format!("{document}:{}", block.line), block.text));
            }
        }
    }
    found
}

#[test]
fn every_policy_that_is_shipped_or_shown_fits_the_schema() {
    let policies = policies();
    assert!(policies.len() >= 30, "{}", policies.len());
    let documents: Vec<Value> = policies.iter().map(|(_, text)| as_json(text)).collect();
    for ((place, _), verdict) in policies.iter().zip(validate(&documents)) {
        assert_eq!(verdict, None, "{place}");
    }
}

#[test]
fn the_command_prints_the_schema_and_the_files_name_it() {
    let ran =
        Command::new(env!("CARGO_BIN_EXE_locum")).args(["policy", "schema"]).output().unwrap();
    assert!(ran.status.success());
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), markdown::read("policies/schema.json"));
    for (place, text) in policies() {
        if place.contains("/policies/") {
            let line = text.lines().next().unwrap();
            let schema = if place.contains("/tests/") { "../schema.json" } else { "schema.json" };
            assert_eq!(line, format!("# yaml-language-server: $schema={schema}"), "{place}");
        }
    }
}

/// What a rule may say beside `name`, `agents` and `to`: all of it fits both.
const RIGHT: [&str; 48] = [
    "methods: [GET, M-SEARCH]",
    "methods: []",
    "paths: [/, /v1/*, '/**']",
    "query: {a: b}",
    "query: {a: [b, 'c*']}",
    "headers: {X-Api-Version: '2024-*'}",
    "users: alice",
    "users: [alice, 'b*']",
    "runs: ['7']",
    "when: {days: mon-fri, zone: Europe/Berlin}",
    "when: {days: [mon, sat-sun], hours: '08:00-18:00', zone: UTC}",
    "when: {hours: ['08:00-12:00', '22:00-06:00'], zone: America/Argentina/Buenos_Aires}",
    "when: {not_before: '2026-01-01T00:00:00Z'}",
    "when: {not_after: 2026-01-01T00:00:00+01:00}",
    "use: [k, set-1]",
    "use: ['*']",
    "use: []",
    "tunnel: intercept",
    "tunnel: opaque",
    "use: [k], inject: always",
    "inject: referenced",
    "misplaced: refuse",
    "misplaced: inert",
    "scrub: {undecodable: pass}",
    "timeouts: {response: 30s}",
    "timeouts: {response: 1h30m, idle: 24h}",
    "timeouts: {}",
    "websocket: allow",
    "websocket: refuse",
    "limits: {requests: 60/min}",
    "limits: {concurrent: 8, per: rule}",
    "limits: {bytes: 1GiB/day, requests: 10/s, per: credential}",
    "on_withdrawal: cut",
    "anomalies: tell",
    "anomalies: refuse",
    "tunnel: opaque, anomalies: refuse",
    "approval: required",
    "approval: {wait: 10m, valid: 1h}",
    "approval: {approvers: 2}",
    "approval: {answer: refuse}",
    "mode: shadow",
    "mode: enforce",
    "deny: true",
    "deny: true, methods: [DELETE], use: [k]",
    "deny: true, methods: [], websocket: refuse",
    "with: []",
    "agents: [], mode: shadow",
    "to: ['wss://X.test:8443/', 'https://[::1]', 'http://127.0.0.1:80']",
];

/// Both refuse each of these.
const WRONG: [&str; 63] = [
    "method: [GET]",
    "methods: GET",
    "methods: [get]",
    "methods: [TRACE]",
    "methods: [CONNECT]",
    "methods: ['GET POST']",
    "paths: /v1",
    "paths: [v1]",
    "paths: [7]",
    "query: {}",
    "query: {a: []}",
    "query: {a: 7}",
    "query: [a]",
    "headers: {'a b': c}",
    "headers: {a: {b: c}}",
    "users: []",
    "users: ''",
    "runs: 7",
    "when: {}",
    "when: {days: mon-fri}",
    "when: {zone: UTC}",
    "when: {days: monday, zone: UTC}",
    "when: {hours: '8-18', zone: UTC}",
    "when: {days: [], zone: UTC}",
    "when: {not_before: tomorrow}",
    "when: {day: mon, zone: UTC}",
    "use: k",
    "use: ['*', k]",
    "use: [K]",
    "use: [-k]",
    "tunnel: closed",
    "tunnel: opaque, methods: [GET]",
    "tunnel: opaque, use: [k]",
    "tunnel: opaque, scrub: {undecodable: pass}",
    "inject: always",
    "inject: true",
    "misplaced: ignore",
    "scrub: {}",
    "scrub: pass",
    "timeouts: {connect: 1s}",
    "timeouts: {response: 30}",
    "timeouts: {response: 5 minutes}",
    "websocket: true",
    "limits: {}",
    "limits: {per: agent}",
    "limits: {requests: 60}",
    "limits: {requests: 60/month}",
    "limits: {concurrent: 0}",
    "limits: {bytes: 1GB/day}",
    "approval: true",
    "approval: {wait: 5}",
    "approval: {approvers: 0}",
    "approval: {approvers: 11}",
    "approval: {who: me}",
    "on_withdrawal: true",
    "anomalies: block",
    "deny: true, anomalies: refuse",
    "deny: true, on_withdrawal: cut",
    "deny: true, approval: required",
    "tunnel: opaque, approval: required",
    "deny: false",
    "deny: true, limits: {requests: 1/s}",
    "deny: true, users: [alice]",
];

/// Whole documents that both refuse.
const WRONG_DOCUMENTS: [&str; 24] = [
    "rules: []",
    "version: 2",
    "version: '1'",
    "version: 1\nruels: []",
    "version: 1\nrules: {}",
    "version: 1\nrules: [text]",
    "version: 1\nlayer: team",
    "version: 1\ngroups: {Research: [a]}",
    "version: 1\ngroups: {research: a}",
    "version: 1\ngroups: {research: [{team: ml}]}",
    "version: 1\nparts: {p: {agents: [a]}}",
    "version: 1\nparts: {p: {deny: true}}",
    "version: 1\nrules: [{name: r, to: ['https://x.test']}]",
    "version: 1\nrules: [{agents: [a], to: ['https://x.test']}]",
    "version: 1\nrules: [{name: r, agents: [a]}]",
    "version: 1\nrules: [{name: '', agents: [a], use: [k]}]",
    "version: 1\nrules: [{name: r, agents: a, use: [k]}]",
    "version: 1\nrules: [{name: r, agents: ['*', a], use: [k]}]",
    "version: 1\nrules: [{name: r, agents: [{labels: {}}], use: [k]}]",
    "version: 1\nrules: [{name: r, agents: [{labels: {Team: ml}}], use: [k]}]",
    "version: 1\nrules: [{name: r, agents: [a], to: [x.test]}]",
    "version: 1\nrules: [{name: r, agents: [a], to: ['ftp://x.test']}]",
    "version: 1\ntests: [{agent: a, request: GET https://x.test/}]",
    "version: 1\ntests: [{agent: a, request: GET https://x.test/, expect: allow, code: not-allowed}]",
];

fn rule(more: &str) -> String {
    let to = if more.starts_with("to:") { "" } else { "to: ['https://x.test'], " };
    let agents = if more.starts_with("agents:") { "" } else { "agents: [a], " };
    format!("version: 1\nrules:\n  - {{name: r, {agents}{to}{more}}}\n")
}

fn is_read(text: &str) -> bool {
    compile_all(vec![Source::new("p.yaml", text)]).is_ok()
}

#[test]
fn what_the_reader_takes_fits_the_schema() {
    let documents: Vec<String> = RIGHT.iter().map(|more| rule(more)).collect();
    for document in &documents {
        assert!(is_read(document), "{document}");
    }
    let trees: Vec<Value> = documents.iter().map(|text| as_json(text)).collect();
    for (document, verdict) in documents.iter().zip(validate(&trees)) {
        assert_eq!(verdict, None, "{document}");
    }
}

/// Texts that the reader and the schema could read in two ways: both take each, or neither does.
#[test]
fn reader_and_schema_agree_on_moments_and_requests() {
    let moments = [
        ("2026-01-01T00:00:00Z", true),
        ("2026-01-01t00:00:00z", true),
        ("2026-01-01 00:00:00+01:00", true),
        ("2026-01-01T00:00:00.5-05:30", true),
        ("2026-01-01T00:00:00.123456789Z", true),
        ("2026-01-01T00:00:00-00:00", true),
        ("2016-12-31T23:59:60Z", true),
        ("2026-01-01T00Z", false),
        ("2026-01-01T00:00Z", false),
        ("2026-01-01T00:00:00,5Z", false),
        ("2026-01-01T00:00:00.Z", false),
        ("2026-01-01T00:00:00.1234567890Z", false),
        ("20260101T000000Z", false),
        ("+002026-01-01T00:00:00Z", false),
        ("2026-01-01T00:00:00", false),
        ("2026-01-01T00:00:00+01", false),
        ("2026-01-01T00:00:00+0100", false),
        ("2026-01-01T00:00:00+24:00", false),
        ("2026-01-01T00:00:00+23:60", false),
        ("2026-01-01T00:00:61Z", false),
        ("2026-01-01T24:00:00Z", false),
        ("2026-13-01T00:00:00Z", false),
        ("2026-01-32T00:00:00Z", false),
        ("2026-01-01T00:00:00+01:00[Europe/Berlin]", false),
        ("2026-01-01T00:00:00Z ", false),
    ];
    let requests = [
        ("GET https://x.test/a", true),
        ("GET https://x.test", true),
        ("SOCKET wss://x.test/a?b=c", true),
        ("CONNECT x.test:443", true),
        ("GET https://x.test/a b", false),
        ("GET https://x.test/a\u{a0}b", false),
        ("GET  https://x.test/", false),
        ("GET x.test", false),
        ("CONNECT x.test:443 ", false),
        ("https://x.test/", false),
    ];
    let mut asked: Vec<(String, bool)> = Vec::new();
    for (text, good) in moments {
        asked.push((rule(&format!("when: {{not_before: '{text}'}}")), good));
        let case =
            format!("{{agent: a, request: 'GET https://x.test/', at: '{text}', expect: refuse}}");
        asked.push((format!("version: 1\ntests: [{case}]\n"), good));
    }
    for (text, good) in requests {
        let case = format!("{{agent: a, request: '{text}', expect: refuse}}");
        asked.push((format!("version: 1\ntests: [{case}]\n"), good));
    }
    for (document, good) in &asked {
        assert_eq!(is_read(document), *good, "the reader: {document}");
    }
    let trees: Vec<Value> = asked.iter().map(|(text, _)| as_json(text)).collect();
    for ((document, good), verdict) in asked.iter().zip(validate(&trees)) {
        assert_eq!(verdict.is_none(), *good, "the schema: {document}");
    }
}

#[test]
fn wrong_documents_do_not_fit_the_schema() {
    let rules = WRONG.iter().map(|more| rule(more));
    let documents: Vec<String> = rules.chain(WRONG_DOCUMENTS.map(str::to_owned)).collect();
    for document in &documents {
        assert!(!is_read(document), "{document}");
    }
    let trees: Vec<Value> = documents.iter().map(|text| as_json(text)).collect();
    for (document, verdict) in documents.iter().zip(validate(&trees)) {
        assert!(verdict.is_some(), "{document}");
    }
}
