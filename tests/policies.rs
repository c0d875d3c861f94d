//! The example policies do what their comments say: each is compiled and asked questions.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use locum::agent::{Context, Identity};
use locum::credential::{Credential, CredentialIndex};
use locum::document::Source;
use locum::host::{Authority, Origin, Scheme};
use locum::inject::References;
use locum::outcome::Code;
use locum::policy::{Meters, Policy, TunnelDecision, compile};
use locum::request::InboundRequest;

/// A question, and its answer: the rule, or the code.
struct Case {
    file: &'static str,
    agent: &'static str,
    /// `METHOD URL`, or `CONNECT host:port`.
    request: &'static str,
    /// `name: value`, or nothing.
    field: &'static str,
    answer: Answer,
}

#[derive(Debug, PartialEq)]
enum Answer {
    /// Permitted by this rule, with this credential or none.
    Permit(&'static str, Option<&'static str>),
    Refuse(Code),
    /// Tunnelled unseen, under this rule.
    Opaque(&'static str),
    Intercept,
}

use Answer::{Intercept, Opaque, Permit, Refuse};

const OPENAI: &str = "authorization: Bearer locum_openai";
const ANTHROPIC: &str = "x-api-key: locum_anthropic";
const GITHUB: &str = "authorization: Basic eC1hY2Nlc3MtdG9rZW46bG9jdW1fZ2l0aHVi"; // x-access-token:locum_github
const NPM: &str = "authorization: Bearer locum_npm-publish";
const WAREHOUSE: &str = "authorization: Bearer locum_warehouse";
const BILLING: &str = "x-api-key: locum_billing";
const SEARCH: &str = "x-api-key: locum_search";

#[rustfmt::skip] // A table.
fn cases() -> Vec<Case> {
    let case = |file, agent, request, field, answer| Case { file, agent, request, field, answer };
    vec![
        case("first.yaml", "anyone", "POST https://api.openai.com/v1/responses", OPENAI, Permit("each credential at its own destinations", Some("openai"))),
        case("first.yaml", "anyone", "POST https://billing.example.com/v1", OPENAI, Refuse(Code::CredentialRefused)),
        case("first.yaml", "anyone", "SOCKET https://api.openai.com/v1/realtime", OPENAI, Permit("each credential at its own destinations", Some("openai"))),
        case("first.yaml", "anyone", "CONNECT api.openai.com:443", "", Intercept),
        case("first.yaml", "anyone", "CONNECT packages.example.org:443", "", Opaque("the rest of the web, not decrypted")),
        case("first.yaml", "anyone", "CONNECT packages.example.org:8443", "", Intercept),
        case("first.yaml", "anyone", "GET http://deb.example.org/x", "", Permit("the rest of the web, in the clear", None)),
        case("first.yaml", "anyone", "GET http://deb.example.org/x", OPENAI, Refuse(Code::Plaintext)),

        case("strict.yaml", "anyone", "POST https://api.openai.com/v1/responses", OPENAI, Permit("each credential at its own destinations", Some("openai"))),
        case("strict.yaml", "anyone", "SOCKET https://api.openai.com/v1/realtime", OPENAI, Permit("each credential at its own destinations", Some("openai"))),
        case("strict.yaml", "anyone", "CONNECT packages.example.org:443", "", Intercept),
        case("strict.yaml", "anyone", "GET https://packages.example.org/simple/", "", Refuse(Code::NotAllowed)),

        case("research-agent.yaml", "researcher", "POST https://api.openai.com/v1/responses", OPENAI, Permit("think", Some("openai"))),
        case("research-agent.yaml", "researcher", "GET https://api.openai.com/v1/models", OPENAI, Permit("which models there are", Some("openai"))),
        case("research-agent.yaml", "researcher", "SOCKET https://api.openai.com/v1/responses", OPENAI, Refuse(Code::CredentialRefused)),
        case("research-agent.yaml", "researcher", "SOCKET https://search.example.com/v2/search", SEARCH, Refuse(Code::CredentialRefused)),
        case("research-agent.yaml", "researcher", "GET https://api.openai.com/v1/files", OPENAI, Refuse(Code::CredentialRefused)),
        case("research-agent.yaml", "researcher", "GET https://api.openai.com/v1/files", "", Permit("read the web", None)),
        case("research-agent.yaml", "researcher", "POST https://api.openai.com/v1/responses/../files", OPENAI, Refuse(Code::CredentialRefused)),
        case("research-agent.yaml", "writer", "POST https://api.openai.com/v1/responses", OPENAI, Refuse(Code::NotAllowed)),
        case("research-agent.yaml", "researcher", "GET https://search.example.com/v2/search?q=rust", SEARCH, Permit("search", Some("search"))),
        case("research-agent.yaml", "researcher", "GET https://search.example.com/v2/search?q=locum_search", SEARCH, Refuse(Code::Misplaced)),
        case("research-agent.yaml", "researcher", "GET https://search.example.com/v2/search?q=rust", OPENAI, Refuse(Code::CredentialRefused)),
        case("research-agent.yaml", "researcher", "CONNECT news.example.org:443", "", Opaque("read the web")),
        case("research-agent.yaml", "researcher", "CONNECT api.openai.com:443", "", Intercept),

        case("ci.yaml", "ci-test", "GET https://npm.example.com/@types%2Fnode", "", Permit("install from npm", None)),
        case("ci.yaml", "ci-test", "POST https://npm.example.com/-/npm/v1/security/advisories/bulk", "", Permit("audit packages", None)),
        case("ci.yaml", "ci-test", "PUT https://npm.example.com/@acme%2Fwidget", NPM, Refuse(Code::NotAllowed)),
        case("ci.yaml", "ci-release", "PUT https://npm.example.com/@acme%2Fwidget", NPM, Permit("publish our package", Some("npm-publish"))),
        case("ci.yaml", "ci-release", "PUT https://npm.example.com/@acme%2fwidget", NPM, Permit("publish our package", Some("npm-publish"))),
        case("ci.yaml", "ci-release", "PUT https://npm.example.com/@acme/other", NPM, Refuse(Code::NotAllowed)),
        case("ci.yaml", "ci-lint", "CONNECT packages.example.org:443", "", Opaque("other package sources")),
        case("ci.yaml", "researcher", "CONNECT packages.example.org:443", "", Intercept),

        case("read-only-git.yaml", "reviewer", "GET https://github.com/acme/widget.git/info/refs?service=git-upload-pack", GITHUB, Permit("list branches", Some("github"))),
        case("read-only-git.yaml", "reviewer", "GET https://github.com/acme/widget.git/info/refs?service=git-receive-pack", GITHUB, Refuse(Code::NotAllowed)),
        case("read-only-git.yaml", "reviewer", "GET https://github.com/acme/widget.git/info/refs", GITHUB, Refuse(Code::NotAllowed)),
        case("read-only-git.yaml", "reviewer", "POST https://github.com/acme/widget.git/git-upload-pack", GITHUB, Permit("fetch", Some("github"))),
        case("read-only-git.yaml", "reviewer", "POST https://github.com/acme/widget.git/git-receive-pack", GITHUB, Refuse(Code::NotAllowed)),
        case("read-only-git.yaml", "reviewer", "POST https://github.com/other/widget.git/git-upload-pack", GITHUB, Refuse(Code::NotAllowed)),
        case("read-only-git.yaml", "reviewer", "GET https://api.github.com/repos/acme/widget/pulls/7/files", GITHUB, Permit("read pull requests", Some("github"))),
        case("read-only-git.yaml", "reviewer", "POST https://api.github.com/repos/acme/widget/pulls/7/merge", GITHUB, Refuse(Code::NotAllowed)),

        case("groups.yaml", "translator", "POST https://api.anthropic.com/v1/messages", ANTHROPIC, Permit("models for writers", Some("anthropic"))),
        case("groups.yaml", "translator", "GET https://warehouse.example.com/v1/tables", WAREHOUSE, Refuse(Code::NotAllowed)),
        case("groups.yaml", "churn-model", "GET https://warehouse.example.com/v1/tables", WAREHOUSE, Permit("models and the warehouse for analysts", Some("warehouse"))),
        case("groups.yaml", "stranger", "POST https://api.anthropic.com/v1/messages", ANTHROPIC, Refuse(Code::NotAllowed)),

        case("inject-always.yaml", "importer", "GET https://billing.example.com/v1/invoices/7", "", Permit("the importer reads invoices", Some("billing"))),
        case("inject-always.yaml", "importer", "GET https://billing.example.com/v1/invoices/7", "x-api-key: whatever", Permit("the importer reads invoices", Some("billing"))),
        case("inject-always.yaml", "importer", "GET https://billing.example.com/v1/invoices/7", BILLING, Permit("the importer reads invoices", Some("billing"))),
        case("inject-always.yaml", "importer", "GET https://billing.example.com/status", "", Permit("the importer asks for the state of the service", None)),
        case("inject-always.yaml", "importer", "GET https://billing.example.com/v1/invoices/../../status", "", Refuse(Code::AmbiguousPath)),
        case("inject-always.yaml", "importer", "DELETE https://billing.example.com/v1/invoices/7", "", Refuse(Code::NotAllowed)),
        case("inject-always.yaml", "other", "GET https://billing.example.com/v1/invoices/7", "", Refuse(Code::NotAllowed)),

        case("opaque-allow-list.yaml", "a", "CONNECT serde.readthedocs.io:443", "", Opaque("documentation")),
        case("opaque-allow-list.yaml", "a", "CONNECT a.b.readthedocs.io:443", "", Intercept),
        case("opaque-allow-list.yaml", "a", "CONNECT a.b.acme.example:443", "", Opaque("our own services")),
        case("opaque-allow-list.yaml", "a", "CONNECT evilacme.example:443", "", Intercept),
        case("opaque-allow-list.yaml", "a", "GET https://evilacme.example/", "", Refuse(Code::NotAllowed)),
        case("opaque-allow-list.yaml", "ci", "CONNECT cache.acme.example:8443", "", Opaque("the build cache")),
        case("opaque-allow-list.yaml", "a", "CONNECT cache.acme.example:8443", "", Intercept),
        case("opaque-allow-list.yaml", "a", "GET http://mirror.acme.example/dists", "", Permit("the package mirror", None)),
        case("opaque-allow-list.yaml", "a", "POST http://mirror.acme.example/dists", "", Refuse(Code::NotAllowed)),
    ]
}

/// The credentials that the examples expect.
fn index() -> CredentialIndex {
    let credential = |name: &str, to: &[&str], slots: &[&str]| Credential {
        name: name.parse().unwrap(),
        provider: None,
        destinations: to.iter().map(|t| t.parse().unwrap()).collect(),
        slots: slots.iter().map(|s| s.parse().unwrap()).collect(),
        stand_in: None,
        version: Some(1),
    };
    const BEARER: &str = "header authorization: Bearer {secret}";
    const KEY: &str = "header x-api-key: {secret}";
    let github = &["https://github.com", "https://api.github.com"];
    let all = vec![
        credential("openai", &["https://api.openai.com"], &[BEARER]),
        credential("anthropic", &["https://api.anthropic.com"], &[KEY, BEARER]),
        credential("github", github, &[BEARER, "basic x-access-token"]),
        credential("npm-publish", &["https://npm.example.com"], &[BEARER]),
        credential("search", &["https://search.example.com"], &[KEY]),
        credential("billing", &["https://billing.example.com"], &[KEY]),
        credential("warehouse", &["https://warehouse.example.com"], &[BEARER]),
    ];
    let models = ["openai", "anthropic"].map(|name| name.parse().unwrap()).to_vec();
    CredentialIndex::new(all, HashMap::from([("models".parse().unwrap(), models)]))
}

const HANDSHAKE: &[(&str, &str)] = &[
    ("upgrade", "websocket"),
    ("connection", "upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn who(agent: &str) -> Identity {
    Identity {
        workspace: "default".parse().unwrap(),
        agent: agent.parse().unwrap(),
        token_id: "t".into(),
        context: Context::default(),
        run_token: None,
    }
}

fn decide(policy: &Policy, case: &Case) -> Result<(String, Option<String>), Code> {
    let (method, url) = case.request.split_once(' ').unwrap();
    let (scheme, rest) = url.split_once("://").unwrap();
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let authority = Authority::parse(host, Some(scheme.default_port())).unwrap();
    // A socket begins with a GET.
    let (method, handshake) =
        if method == "SOCKET" { ("GET", HANDSHAKE) } else { (method, &[][..]) };
    let mut request = http::Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in handshake {
        request = request.header(*name, *value);
    }
    if let Some((name, value)) = case.field.split_once(": ") {
        request = request.header(name, value);
    }
    let parts = request.body(()).unwrap().into_parts().0;
    let request =
        InboundRequest::parse(parts, &Origin { scheme, authority }).map_err(|r| r.code)?;
    let index = index();
    let references = References::locate(&request, &index);
    let who = who(case.agent);
    let permit = policy.authorize(&who, &request, &references, &index, 0).map_err(|r| r.code)?;
    let credential = permit.grants().first().map(|grant| grant.credential().name.to_string());
    Ok((permit.rule().to_string(), credential))
}

fn files() -> BTreeMap<String, Source> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    yaml.map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name.clone(), Source::new(&name, &fs::read_to_string(&path).unwrap()))
    })
    .collect()
}

fn compiled(name: &str, source: Source) -> Policy {
    compile(vec![source]).unwrap_or_else(|report| panic!("policies/{name}:\n{report}"))
}

#[test]
fn every_example_decides_as_it_says() {
    let policies: BTreeMap<String, Policy> =
        files().into_iter().map(|(name, source)| (name.clone(), compiled(&name, source))).collect();
    for case in cases() {
        let Case { file, agent, request, field, answer } = &case;
        let policy = policies.get(*file).unwrap_or_else(|| panic!("there is no policies/{file}"));
        let about = format!("{file}: {agent} {request} {field}");
        if let Some(target) = request.strip_prefix("CONNECT ") {
            let authority = Authority::parse(target, None).unwrap();
            let decision = policy.tunnel(&who(agent), &authority, &index(), 0);
            let wanted = match answer {
                Opaque(rule) => {
                    TunnelDecision::Opaque { rule: (*rule).into(), meters: Meters::default() }
                }
                other => {
                    assert_eq!(*other, Intercept, "{about}");
                    TunnelDecision::Intercept
                }
            };
            assert_eq!(decision, wanted, "{about}");
            continue;
        }
        let decision = decide(policy, &case);
        match answer {
            Permit(rule, credential) => {
                let wanted = ((*rule).to_owned(), credential.map(str::to_owned));
                assert_eq!(decision, Ok(wanted), "{about}");
            }
            Refuse(code) => assert_eq!(decision, Err(*code), "{about}"),
            other => panic!("{about}: {other:?} is for a CONNECT"),
        }
    }
}

/// A new example without questions would be tested for nothing.
#[test]
fn every_example_is_asked_for_a_permit_and_a_refusal() {
    let cases = cases();
    let files = files();
    assert!(files.len() >= 8, "{:?}", files.keys());
    for name in files.keys() {
        let of = |f: fn(&Answer) -> bool| cases.iter().any(|c| c.file == name && f(&c.answer));
        assert!(of(|a| matches!(a, Permit(..) | Opaque(_))), "{name}: nothing is permitted");
        assert!(of(|a| matches!(a, Refuse(_))), "{name}: nothing is refused");
    }
}

/// Copied side by side they are one policy: no name is taken twice.
#[test]
fn the_examples_can_stand_beside_each_other() {
    let sources: Vec<Source> =
        files().into_iter().filter(|(name, _)| name != "strict.yaml").map(|(_, s)| s).collect();
    let rules = compile(sources).unwrap_or_else(|report| panic!("{report}")).len();
    assert!(rules >= 20, "{rules}");
}
