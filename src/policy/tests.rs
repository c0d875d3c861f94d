//! The decision, as tables. Requests go through the real request engine and the real locator.

mod language;
mod schema;

use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::agent::Labels;
use crate::credential::{Credential, Properties, Within};
use crate::document::Source;
use crate::host::{Authority, Destination};
use crate::inject::References;
use crate::outcome::{Code, Refusal};
use crate::request::InboundRequest;

pub(crate) fn credential(name: &str, to: &[&str], slots: &[&str]) -> Credential {
    Credential {
        workspace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
        provider: None,
        destinations: to.iter().map(|t| t.parse().unwrap()).collect(),
        slots: slots.iter().map(|s| s.parse().unwrap()).collect(),
        stand_in: None,
        version: Some(1),
        older: Box::default(),
        revoked: Box::default(),
        newest: 1,
        properties: Properties::default(),
        part: crate::credential::Part::default(),
        tier: crate::credential::Tier::default(),
    }
}

fn index() -> CredentialIndex {
    let bearer = "header authorization: Bearer {secret}";
    let mut dead = credential("dead", &["https://dead.test"], &[bearer]);
    dead.version = None;
    let all = vec![
        credential("openai", &["https://api.openai.com"], &[bearer]),
        credential(
            "anthropic",
            &["https://api.anthropic.com"],
            &["header x-api-key: {secret}", bearer],
        ),
        credential("git", &["https://git.test:8443"], &["basic x", "basic {secret}"]),
        credential("maps", &["https://*.maps.test"], &["query key"]),
        dead,
    ];
    let set =
        ("llm".parse().unwrap(), vec!["openai".parse().unwrap(), "anthropic".parse().unwrap()]);
    CredentialIndex::new(all, HashMap::from([set]))
}

fn policy(yaml: &str) -> Policy {
    let text = format!("version: 1\nrules:\n{yaml}");
    compile(vec![Source::new("p.yaml", &text)]).unwrap_or_else(|r| panic!("{r}"))
}

fn who(agent: &str) -> Identity {
    Identity::new("default".parse().unwrap(), agent.parse().unwrap(), "t")
}

fn origin(text: &str) -> Origin {
    let d: Destination = text.parse().unwrap();
    let host = d.host.exact().unwrap().clone();
    Origin { scheme: d.scheme, authority: Authority { host, port: d.port } }
}

/// `METHOD URL` with fields given as `name: value`.
fn parsed(request: &str, fields: &[&str]) -> Result<InboundRequest, Code> {
    let (method, url) = request.split_once(' ').unwrap();
    let at = url.find("://").unwrap() + 3;
    let slash = url[at..].find('/').map_or(url.len(), |i| at + i);
    let (base, path) = url.split_at(slash);
    let origin = origin(base);
    let mut builder = http::Request::builder().method(method).uri(path);
    builder = builder.header("host", origin.authority.to_string());
    for field in fields {
        let (name, value) = field.split_once(": ").unwrap();
        builder = builder.header(name, value);
    }
    let parts = builder.body(()).unwrap().into_parts().0;
    InboundRequest::parse(parts, &origin).map_err(|r| r.code)
}

/// Decides on `METHOD URL` with fields given as `name: value`.
fn decide(policy: &Policy, agent: &str, request: &str, fields: &[&str]) -> Result<Permit, Code> {
    let request = parsed(request, fields)?;
    let index = index();
    let references = References::locate(&request, &index);
    policy.authorize(&who(agent), &request, &references, &index, 0).map_err(|r| r.code)
}

const FIRST: &str = "  - {name: own, agents: ['*'], use: ['*']}\n";
const OPENAI: &str = "authorization: Bearer locum_openai";

#[test]
fn nothing_is_allowed_without_a_rule() {
    let empty = compile(vec![Source::new("p.yaml", "version: 1\n")]).unwrap();
    assert_eq!(
        decide(&empty, "a", "GET https://api.openai.com/", &[]).unwrap_err(),
        Code::NotAllowed
    );
}

#[test]
fn the_shipped_policies_do_what_they_say() {
    for (text, web) in [(FIRST_POLICY, true), (STRICT_POLICY, false)] {
        let policy = compile(vec![Source::new("first.yaml", text)]).unwrap();
        let permit = decide(&policy, "any", "POST https://api.openai.com/v1/x", &[OPENAI]).unwrap();
        assert_eq!(permit.grants().len(), 1);
        let other = decide(&policy, "any", "GET https://elsewhere.test/", &[OPENAI]);
        let refused = if web { Code::CredentialRefused } else { Code::NotAllowed };
        assert_eq!(other.unwrap_err(), refused);
        let authority = Authority::parse("docs.test:443", None).unwrap();
        let tunnel = policy.tunnel(&who("any"), &authority, &index(), 0);
        assert_eq!(matches!(tunnel, TunnelDecision::Opaque { .. }), web);
        let ssh = Authority::parse("docs.test:22", None).unwrap();
        assert_eq!(policy.tunnel(&who("any"), &ssh, &index(), 0), TunnelDecision::Intercept);
    }
}

#[test]
fn a_host_with_a_credential_is_never_opaque() {
    let policy = policy(
        "  - {name: web, agents: ['*'], to: ['https://*', 'https://git.test:8443'], tunnel: opaque}\n",
    );
    let tunnel =
        |host: &str| policy.tunnel(&who("a"), &Authority::parse(host, None).unwrap(), &index(), 0);
    for bound in ["api.openai.com:443", "git.test:8443", "x.maps.test:443", "dead.test:443"] {
        assert_eq!(tunnel(bound), TunnelDecision::Intercept, "{bound}");
    }
    assert!(matches!(tunnel("other.test:443"), TunnelDecision::Opaque { .. }));
    // Inside, such a rule lets plain requests through, and no credential.
    assert!(decide(&policy, "a", "GET https://api.openai.com/", &[]).unwrap().grants().is_empty());
    let with = decide(&policy, "a", "GET https://api.openai.com/", &[OPENAI]);
    assert_eq!(with.unwrap_err(), Code::CredentialRefused);
}

#[test]
fn decisions() {
    let rules = policy(
        "  - name: chat
    agents: [researcher]
    to: [https://api.openai.com]
    methods: [POST]
    paths: [/v1/chat/completions, /v1/responses/*]
    use: [openai]
  - name: sets
    agents: [writer]
    use: [llm]
  - name: browse
    agents: [writer, researcher]
    to: ['https://*.docs.test', 'http://plain.test']
    methods: [GET, HEAD]
    paths: ['/public/**', /@scope%2Fname]
  - name: strict
    agents: [strict]
    use: ['*']
    misplaced: refuse
  - name: always
    agents: [legacy]
    use: [openai, maps]
    inject: always
",
    );
    let anthropic_key = "x-api-key: locum_anthropic";
    let anthropic_bearer = "authorization: Bearer locum_anthropic";
    // agent, request, fields, what comes of it: a rule's name or a code
    let table: &[(&str, &str, &[&str], Result<&str, Code>)] = &[
        ("researcher", "POST https://api.openai.com/v1/chat/completions", &[OPENAI], Ok("chat")),
        (
            "researcher",
            "POST https://api.openai.com/v1/chat/completions?x=1",
            &[OPENAI],
            Ok("chat"),
        ),
        ("researcher", "POST https://api.openai.com/v1/responses/r1", &[OPENAI], Ok("chat")),
        ("researcher", "POST https://api.openai.com/v1/chat/completions", &[], Ok("chat")),
        (
            "researcher",
            "GET https://api.openai.com/v1/chat/completions",
            &[OPENAI],
            Err(Code::NotAllowed),
        ),
        ("researcher", "POST https://api.openai.com/v1/files", &[OPENAI], Err(Code::NotAllowed)),
        (
            "researcher",
            "POST https://api.openai.com/v1/chat/completions/",
            &[OPENAI],
            Err(Code::NotAllowed),
        ),
        (
            "researcher",
            "POST https://api.openai.com:8443/v1/chat/completions",
            &[OPENAI],
            Err(Code::NotAllowed),
        ),
        (
            "stranger",
            "POST https://api.openai.com/v1/chat/completions",
            &[OPENAI],
            Err(Code::NotAllowed),
        ),
        (
            "researcher",
            "POST https://api.anthropic.com/v1/messages",
            &[anthropic_key],
            Err(Code::NotAllowed),
        ),
        ("writer", "POST https://api.anthropic.com/v1/messages", &[anthropic_key], Ok("sets")),
        ("writer", "POST https://api.anthropic.com/v1/messages", &[anthropic_bearer], Ok("sets")),
        ("writer", "POST https://api.openai.com/v1/files", &[OPENAI], Ok("sets")),
        // One answer for unknown, elsewhere, revoked and not granted.
        (
            "writer",
            "GET https://api.openai.com/",
            &["authorization: Bearer locum_nothing"],
            Err(Code::CredentialRefused),
        ),
        (
            "writer",
            "GET https://api.openai.com/",
            &[anthropic_bearer],
            Err(Code::CredentialRefused),
        ),
        ("writer", "GET https://x.docs.test/public/a", &[OPENAI], Err(Code::CredentialRefused)),
        (
            "strict",
            "GET https://dead.test/",
            &["authorization: Bearer locum_dead"],
            Err(Code::CredentialRefused),
        ),
        // The slot is known, the shape is not.
        (
            "writer",
            "GET https://api.openai.com/",
            &["authorization: token locum_openai"],
            Err(Code::SlotMismatch),
        ),
        (
            "writer",
            "GET https://api.openai.com/",
            &["authorization: locum_openai"],
            Err(Code::SlotMismatch),
        ),
        (
            "writer",
            "GET https://api.openai.com/",
            &["authorization: Bearer locum_openai;x"],
            Err(Code::CredentialRefused),
        ),
        (
            "writer",
            "GET https://api.openai.com/",
            &["x-api-key: locum_openai"],
            Err(Code::SlotMismatch),
        ),
        // Outside the slots a reference is text.
        ("writer", "GET https://api.openai.com/", &["user-agent: locum_openai"], Ok("sets")),
        ("writer", "GET https://api.openai.com/locum_openai?q=locum_openai", &[], Ok("sets")),
        (
            "strict",
            "GET https://api.openai.com/",
            &["user-agent: locum_openai"],
            Err(Code::Misplaced),
        ),
        ("strict", "GET https://api.openai.com/", &[OPENAI], Ok("strict")),
        // Basic, in either half, and encoded.
        (
            "strict",
            "GET https://git.test:8443/r.git",
            &["authorization: Basic eDpsb2N1bV9naXQ="],
            Ok("strict"),
        ),
        (
            "strict",
            "GET https://git.test:8443/r.git",
            &["authorization: basic   bG9jdW1fZ2l0Og"],
            Ok("strict"),
        ),
        (
            "strict",
            "GET https://git.test:8443/r.git",
            &["authorization: Basic eDpsb2N1bV94"],
            Err(Code::CredentialRefused),
        ),
        (
            "strict",
            "GET https://git.test:8443/r.git",
            &["authorization: Bearer locum_git"],
            Err(Code::SlotMismatch),
        ),
        // Query.
        ("strict", "GET https://a.maps.test/m?key=locum_maps&z=1", &[], Ok("strict")),
        ("strict", "GET https://a.maps.test/m?key=locum%5Fmaps", &[], Ok("strict")),
        (
            "strict",
            "GET https://a.maps.test/m?key=locum_nothing",
            &[],
            Err(Code::CredentialRefused),
        ),
        ("strict", "GET https://a.b.maps.test/m?key=locum_maps", &[], Err(Code::NotAllowed)),
        // Injection without a reference.
        ("legacy", "GET https://api.openai.com/", &[], Ok("always")),
        ("legacy", "GET https://api.openai.com/", &["authorization: Bearer sk-own"], Ok("always")),
        ("legacy", "GET https://api.anthropic.com/", &[], Err(Code::NotAllowed)),
        // Hosts, ports and schemes of wildcard rules.
        ("writer", "GET https://x.docs.test/public/a", &[], Ok("browse")),
        ("writer", "GET https://docs.test/public/a", &[], Err(Code::NotAllowed)),
        ("writer", "GET https://x.y.docs.test/public/a", &[], Err(Code::NotAllowed)),
        ("writer", "GET http://x.docs.test/public/a", &[], Err(Code::NotAllowed)),
        ("writer", "GET https://x.docs.test:444/public/a", &[], Err(Code::NotAllowed)),
        ("writer", "GET http://plain.test/public/a", &[], Ok("browse")),
        ("writer", "GET http://plain.test/public/a", &[OPENAI], Err(Code::Plaintext)),
        // Paths that could be read in two ways, where the rule cares.
        ("writer", "GET https://x.docs.test/public/../secret", &[], Err(Code::AmbiguousPath)),
        ("writer", "GET https://x.docs.test/public/%2e%2e/secret", &[], Err(Code::AmbiguousPath)),
        ("writer", "GET https://x.docs.test/public/..%2fsecret", &[], Err(Code::AmbiguousPath)),
        ("writer", "GET https://x.docs.test/public/..;/secret", &[], Err(Code::AmbiguousPath)),
        ("writer", "GET https://x.docs.test/public/a%2Fb", &[], Ok("browse")),
        ("writer", "GET https://x.docs.test/public/a;v=1", &[], Ok("browse")),
        ("writer", "GET https://x.docs.test//public/a", &[], Err(Code::AmbiguousPath)),
        ("writer", "GET https://x.docs.test/@scope%2Fname", &[], Err(Code::AmbiguousPath)),
        // A method that a field asks for, where the rule cares.
        (
            "writer",
            "GET https://x.docs.test/public/a",
            &["x-http-method-override: GET"],
            Ok("browse"),
        ),
        (
            "writer",
            "GET https://x.docs.test/public/a",
            &["x-http-method-override: put"],
            Err(Code::MethodRefused),
        ),
        (
            "writer",
            "GET https://x.docs.test/public/a",
            &["x-method-override: PUT"],
            Err(Code::MethodRefused),
        ),
        ("writer", "GET https://api.openai.com/", &[OPENAI, "x-http-method: DELETE"], Ok("sets")),
        // And where it does not.
        ("writer", "GET https://api.openai.com/@scope%2Fname/../x", &[OPENAI], Ok("sets")),
    ];
    for (agent, request, fields, expected) in table {
        let got = decide(&rules, agent, request, fields).map(|p| p.rule().to_string());
        assert_eq!(got.as_deref(), expected.as_ref().copied(), "{agent} {request} {fields:?}");
    }
}

#[test]
fn injection_without_a_reference_uses_the_first_slot() {
    let rules =
        policy("  - {name: always, agents: ['*'], use: [anthropic, openai], inject: always}\n");
    let permit = decide(&rules, "a", "GET https://api.anthropic.com/", &[]).unwrap();
    assert_eq!((permit.grants().len(), permit.grants()[0].slot()), (1, 0));
}

#[test]
fn who_may_use_a_credential_at_an_origin_is_known_without_a_request() {
    let rules = policy(
        "  - {name: one, agents: [a], to: ['https://*.openai.com'], use: [llm], methods: [POST]}\n\
         \x20 - {name: no, agents: [b], use: [openai], deny: true}\n\
         \x20 - {name: open, agents: ['*'], to: ['https://*.openai.com']}\n",
    );
    let index = index();
    let credential = index.get("openai").unwrap();
    for (agent, to, may) in [
        ("a", "https://api.openai.com", true),
        ("a", "https://api.anthropic.com", false),
        ("b", "https://api.openai.com", false),
        ("c", "https://api.openai.com", false),
    ] {
        assert_eq!(
            rules.may_use(&who(agent), &origin(to), credential, &index),
            may,
            "{agent} {to}"
        );
    }
}

#[test]
fn a_text_of_a_value_is_granted_into_bodies_by_its_name_and_by_all() {
    let values = r#"{"account":{"variable":"A","default":{"text":"acct_1"},"environments":{"prod":{"text":"x"}},
        "enters":{"to":["https://pay.test"],"slots":["json /account"]}}}"#;
    let values = serde_json::from_str(values).unwrap();
    let index = index().with_values(&"default".parse().unwrap(), &values);
    for (uses, granted) in [("['*']", true), ("[account]", true), ("[openai]", false)] {
        let rules = policy(&format!(
            "  - {{name: pay, agents: ['*'], to: [https://pay.test], use: {uses}}}\n"
        ));
        let json = ["content-type: application/json"];
        let mut request = parsed("POST https://pay.test/", &json).unwrap();
        let (who, none) = (who("a"), References::default());
        let kind = rules.wants_body(&who, &request, &none, (&index, 0));
        assert_eq!(kind, granted.then_some(crate::request::BodyKind::Json), "{uses}");
        let body = r#"{"account":"locum_account"}"#.into();
        request.take_body(crate::request::BodyText::read(body, crate::request::BodyKind::Json));
        let references = References::locate(&request, &index);
        let permit = rules.authorize(&who, &request, &references, &index, 0);
        let texts =
            permit.iter().flat_map(Permit::grants).map(|grant| grant.credential().as_text());
        let texts: Vec<_> = texts.collect();
        assert_eq!(texts, if granted { vec![Some("acct_1")] } else { Vec::new() }, "{uses}");
    }
    let origin = origin("https://elsewhere.test");
    let mut texts = rule::Uses::All.bound_to(&origin, &index, Within::Any).map(|one| one.as_text());
    assert!(!texts.any(|text| text.is_some()), "it is bound elsewhere");
}

#[test]
fn injection_without_a_reference_is_decided_under_every_reading_of_the_path() {
    let rules = policy(
        "  - {name: anything, agents: ['*'], to: [https://api.openai.com]}
  - {name: v1, agents: ['*'], use: [openai], paths: [/v1/**], inject: always}\n",
    );
    let decide = |path: &str| {
        let request = format!("GET https://api.openai.com{path}");
        decide(&rules, "a", &request, &[]).map(|p| (p.rule().to_string(), p.grants().len()))
    };
    assert_eq!(decide("/admin"), Ok(("anything".to_owned(), 0)));
    assert_eq!(decide("/v1/models"), Ok(("v1".to_owned(), 1)), "named after the rule that injects");
    for path in ["/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1/..;/admin"] {
        assert_eq!(decide(path), Err(Code::AmbiguousPath), "{path}");
    }
}

#[test]
fn a_rule_is_found_by_host_among_many() {
    let mut yaml = String::new();
    for i in 0..2000 {
        yaml += &format!(
            "  - {{name: r{i}, agents: [a], to: ['https://h{i}.test'], methods: [GET]}}\n"
        );
    }
    let rules = policy(&yaml);
    assert_eq!(&**decide(&rules, "a", "GET https://h1234.test/", &[]).unwrap().rule(), "r1234");
    assert_eq!(rules.candidates(&who("a"), &origin("https://h1234.test"), &index()).count(), 1);
}

#[test]
fn a_rule_is_found_by_agent_among_many_at_one_host() {
    let rule = |i| format!("  - {{name: r{i}, agents: [a{i}], to: ['https://h.test']}}\n");
    let rules = policy(&(0..2000).map(rule).collect::<String>());
    assert_eq!(&**decide(&rules, "a1234", "GET https://h.test/", &[]).unwrap().rule(), "r1234");
    assert_eq!(rules.candidates(&who("a1234"), &origin("https://h.test"), &index()).count(), 1);
}

/// Whichever list is shorter, the candidates are the rules that a look at all of them finds.
#[test]
fn candidates_do_not_depend_on_the_list_they_were_found_in() {
    let agents = ["a", "b", "a, b", "'*'"];
    let places = [
        "'https://x.test'",
        "'https://*.test'",
        "'https://y.test', 'https://x.test:8443'",
        "'https://y.test', 'https://*.x.test'",
    ];
    let mut yaml = String::new();
    for i in 0..16 {
        let (agents, places) = (agents[i % 4], places[i / 4]);
        yaml += &format!("  - {{name: r{i}, agents: [{agents}], to: [{places}]}}\n");
    }
    // Most rules are for `a`, then for `x.test`: both lists are the shorter one somewhere.
    yaml += &(64..164)
        .map(|i| format!("  - {{name: r{i}, agents: [a], to: ['https://h{i}.test']}}\n"))
        .collect::<String>();
    yaml += &(164..464)
        .map(|i| format!("  - {{name: r{i}, agents: [d{i}], to: ['https://x.test']}}\n"))
        .collect::<String>();
    let rules = policy(&yaml);
    for agent in ["a", "b", "d200", "nobody"] {
        let asks = who(agent);
        for place in ["https://x.test", "https://y.test", "https://h99.test", "https://x.test:8443"]
        {
            let origin = origin(place);
            let index = index();
            let all = rules.rules.iter().zip(0..);
            let fits = |rule: &super::rule::Rule| {
                rule.agents.contain(&asks.agent, &asks.labels)
                    && rule.reaches(&origin, &index, Within::Any)
            };
            let right = all.filter(|(rule, _)| fits(rule));
            let right: Vec<u32> = right.map(|(_, at)| at).collect();
            let found = rules.candidates(&asks, &origin, &index);
            let found = found.filter(|(_, rule)| fits(rule));
            assert_eq!(found.map(|(at, _)| at).collect::<Vec<u32>>(), right, "{agent} {place}");
        }
    }
}

#[test]
fn the_rule_that_decides_says_how_long_the_origin_may_take() {
    let rules = policy(
        "  - {name: quick, agents: [a], to: [https://api.openai.com], paths: [/quick], timeouts: {response: 30s}}
  - {name: both, agents: [a], use: [openai], paths: [/v1/**], timeouts: {response: 20m, idle: 1h}}
  - {name: plain, agents: [a], to: [https://api.openai.com]}\n",
    );
    let seconds = Duration::from_secs;
    for (path, fields, response, idle) in [
        ("/quick", &[][..], Some(seconds(30)), None),
        ("/v1/x", &[OPENAI], Some(seconds(1200)), Some(seconds(3600))),
        ("/other", &[], None, None),
    ] {
        let request = format!("GET https://api.openai.com{path}");
        let permit = decide(&rules, "a", &request, fields).unwrap();
        assert_eq!(permit.timeouts(), Timeouts { response, idle }, "{path}");
    }
}

#[test]
fn mistakes_in_timeouts_are_reported_with_their_places() {
    let shown = report(
        "version: 1
rules:
  - name: one
    agents: [a]
    use: [x]
    timeouts: {response: 30, idle: 48h}
  - name: two
    agents: [a]
    use: [x]
    timeouts: {total: 1h}
  - name: three
    agents: [a]
    use: [x]
    timeouts: 30s
  - name: four
    agents: [a]
    to: [https://a.test]
    tunnel: opaque
    timeouts: {idle: 1m}
",
    );
    for place in [
        "p.yaml:6:26: rules[0].timeouts.response",
        "p.yaml:6:36: rules[0].timeouts.idle",
        "p.yaml:10:16: rules[1].timeouts",
        "p.yaml:14:15: rules[2].timeouts",
        "p.yaml:19:15: rules[3].timeouts",
        "`timeouts` needs a look inside",
    ] {
        assert!(shown.contains(place), "{place} is not in:\n{shown}");
    }
}

fn report(text: &str) -> String {
    compile(vec![Source::new("p.yaml", text)]).unwrap_err().to_string()
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_places() {
    let text = "version: 2
groups:
  Team: [a, B]
rules:
  - name: one
    agents: researcher
    to: [api.openai.com, 'https://*bad.test', 'https://x.test/path']
    methods: [get, TRACE]
    paths: [v1, '/a**']
    usse: [openai]
  - name: two
    agents: ['*', a]
    to: ['http://a.test']
    use: [openai, 'No Name']
    tunnel: opaque
    websocket: maybe
    scrub: {undecodable: sometimes, more: 1}
  - agents: [a]
";
    let shown = report(text);
    for place in [
        "p.yaml:1:10: version",
        "p.yaml:3:3: groups",
        "p.yaml:6:13: rules[0].agents",
        "p.yaml:7:10: rules[0].to[0]",
        "p.yaml:7:26: rules[0].to[1]",
        "rules[0].to[2]",
        "rules[0].methods[0]",
        "rules[0].methods[1]",
        "rules[0].paths[0]",
        "rules[0].paths[1]",
        "did you mean `use`?",
        "rules[1].use[1]",
        "`use` needs a look inside",
        "rules[1].websocket",
        "`websocket` needs a look inside",
        "`scrub` needs a look inside",
        "rules[1].scrub.undecodable",
        "rules[1].scrub.more",
        "the key `name` is missing",
        "neither `to` nor `use`",
    ] {
        assert!(shown.contains(place), "{place} is not in:\n{shown}");
    }
}

#[test]
fn mistakes_across_rules_and_files() {
    let rule =
        |name: &str| format!("version: 1\nrules:\n  - {{name: {name}, agents: [a], use: [x]}}\n");
    let two = vec![Source::new("a.yaml", &rule("same")), Source::new("b.yaml", &rule("same"))];
    let shown = compile(two).unwrap_err().to_string();
    assert!(shown.contains("b.yaml:3:12") && shown.contains("a.yaml:3:12"), "{shown}");
    let shown = report(
        "version: 1\nrules:\n  - {name: x, agents: ['*', a], use: [y]}\n  - {name: z, agents: [A b], use: [y]}\n",
    );
    assert!(shown.contains("stands alone") && shown.contains("rules[1].agents[0]"), "{shown}");
    let shown =
        report("version: 1\nrules:\n  - {name: x, agents: [a], to: ['http://b.test'], use: [y]}\n");
    assert!(shown.contains("never goes"), "{shown}");
}

#[test]
fn groups_stand_for_their_members() {
    let text = "version: 1\ngroups: {team: [a, b]}\nrules:\n  - {name: x, agents: [team, c], use: ['*']}\n";
    let rules = compile(vec![Source::new("p.yaml", text)]).unwrap();
    for (agent, allowed) in [("a", true), ("b", true), ("c", true), ("team", false)] {
        let got = decide(&rules, agent, "GET https://api.openai.com/", &[]);
        assert_eq!(got.is_ok(), allowed, "{agent}");
    }
}

const SOCKET: [&str; 5] = [
    "upgrade: websocket",
    "connection: upgrade",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    OPENAI,
];

#[test]
fn a_socket_is_a_kind_of_its_own_beside_the_methods() {
    for (more, get, post, socket) in [
        ("", true, true, true),
        (", websocket: allow", true, true, true),
        (", websocket: refuse", true, true, false),
        (", methods: [GET]", true, false, false),
        (", methods: [GET], websocket: allow", true, false, true),
        (", methods: [POST], websocket: allow", false, true, true),
        (", methods: [], websocket: allow", false, false, true),
        (", methods: []", false, false, false),
    ] {
        let rules = policy(&format!("  - {{name: r, agents: [a], use: [openai]{more}}}\n"));
        let allows = |request: &str, fields: &[&str]| match decide(&rules, "a", request, fields) {
            Ok(permit) => {
                assert_eq!(permit.grants().len(), 1);
                true
            }
            Err(code) => {
                assert_eq!(code, Code::NotAllowed);
                false
            }
        };
        let url = "https://api.openai.com/v1/realtime";
        assert_eq!(allows(&format!("GET {url}"), &[OPENAI]), get, "GET{more}");
        assert_eq!(allows(&format!("POST {url}"), &[OPENAI]), post, "POST{more}");
        assert_eq!(allows(&format!("GET {url}"), &SOCKET), socket, "socket{more}");
    }
}

#[test]
fn destinations_may_be_written_as_sockets() {
    let rules = policy(
        "  - {name: tls, agents: [a], to: ['wss://s.test', 'wss://p.test:8443']}
  - {name: clear, agents: [a], to: ['ws://c.test']}\n",
    );
    for (url, allowed) in [
        ("https://s.test/", true),
        ("https://p.test:8443/", true),
        ("http://c.test/", true),
        ("http://s.test/", false),
        ("https://c.test/", false),
        ("https://s.test:80/", false),
    ] {
        for fields in [&SOCKET[..4], &[]] {
            let got = decide(&rules, "a", &format!("GET {url}"), fields);
            assert_eq!(got.map(drop).err(), (!allowed).then_some(Code::NotAllowed), "{url}");
        }
    }
}

#[test]
fn an_open_socket_stands_as_long_as_it_would_be_opened() {
    let url = "https://api.openai.com/v1/../v2/realtime";
    let (request, index) = (parsed(&format!("GET {url}"), &SOCKET).unwrap(), index());
    let references = References::locate(&request, &index);
    let first = policy(FIRST);
    let permit = first.authorize(&who("a"), &request, &references, &index, 0).unwrap();
    let standing = Standing::new(&Arc::new(who("a")), &request, &permit);
    let with = |version: Option<u32>, to: &str| {
        let bearer = "header authorization: Bearer {secret}";
        let mut openai = credential("openai", &[to], &[bearer]);
        openai.version = version;
        CredentialIndex::new(vec![openai], HashMap::new())
    };
    let to = "https://api.openai.com";
    for (rules, index, expected) in [
        (FIRST, with(Some(1), to), None),
        (FIRST, with(Some(2), to), None),
        (FIRST, with(None, to), Some(Code::CredentialRefused)),
        (FIRST, with(Some(1), "https://other.test"), Some(Code::CredentialRefused)),
        (FIRST, CredentialIndex::default(), Some(Code::CredentialRefused)),
        ("  - {name: r, agents: [b], use: ['*']}\n", with(Some(1), to), Some(Code::NotAllowed)),
        (
            "  - {name: r, agents: [a], use: ['*'], methods: [GET]}\n",
            with(Some(1), to),
            Some(Code::NotAllowed),
        ),
        (
            "  - {name: r, agents: [a], to: ['https://api.openai.com']}\n",
            with(Some(1), to),
            Some(Code::CredentialRefused),
        ),
        (
            "  - {name: r, agents: [a], use: ['*'], paths: [/v1/**]}\n",
            with(Some(1), to),
            Some(Code::AmbiguousPath),
        ),
    ] {
        let now = (&standing, &**standing.who());
        assert_eq!(policy(rules).withdrawn(now, &index, 0), expected, "{rules}");
    }
}

#[test]
fn the_digest_names_the_text() {
    let one = policy(FIRST);
    assert_eq!(one.digest().len(), 16);
    assert_ne!(one.digest(), policy("  - {name: own, agents: [a], use: ['*']}\n").digest());
}
