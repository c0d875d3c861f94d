//! Each refusal, from both sides: what the agent is told to change, and what the operator finds by its id.

use crate::support::*;

const RULES: &str = "version: 1
rules:
  - {name: reads, agents: ['*'], use: [main], paths: [/open/**, /v1/**]}
  - {name: once, agents: ['*'], use: [main], methods: [GET], paths: [/once], limits: {requests: 1/day}}
  - {name: strict, agents: ['*'], use: [main], paths: [/strict], misplaced: refuse}
  - {name: asked, agents: ['*'], use: [main], methods: [DELETE], paths: [/asked], approval: {answer: refuse}}
  - {name: never, deny: true, agents: ['*'], to: ['https://api.test'], paths: [/v1/admin]}
";

#[test]
fn each_refusal_says_what_to_change_and_its_id_finds_all_of_it() {
    let world = World::with(BEARER, canary(), |home, _| {
        home.add(
            "other",
            &["--to", "https://other.test", "--header", "Authorization: Bearer {secret}"],
            "another-secret-of-some-length",
        );
        home.policy(RULES);
    });
    assert_eq!(world.get("/once").status, 200);
    let real = format!("X-Key: {}", world.key);
    let long = format!("/v1/{}", "x".repeat(20_000));
    for (code, answer) in [
        ("not-allowed", world.ask("GET", "/elsewhere", &[], "")),
        ("not-allowed", world.ask("GET", "/v1/admin", &[AUTHORIZED], "")),
        (
            "credential-refused",
            world.ask("GET", "/v1/x", &["Authorization: Bearer locum_nobody"], ""),
        ),
        (
            "credential-refused",
            world.ask("GET", "/v1/x", &["Authorization: Bearer locum_other"], ""),
        ),
        ("slot-mismatch", world.ask("GET", "/v1/x", &["Authorization: Digest locum_main"], "")),
        ("misplaced-reference", world.ask("GET", "/strict?x=locum_main", &[AUTHORIZED], "")),
        ("real-credential", world.ask("GET", "/v1/x", &[&real], "")),
        ("ambiguous-path", world.ask("GET", "/v1/../strict", &[AUTHORIZED], "")),
        ("method-refused", world.ask("TRACE", "/v1/x", &[], "")),
        (
            "upgrade-refused",
            world.ask("GET", "/v1/x", &["Upgrade: foo", "Connection: upgrade"], ""),
        ),
        ("authority-mismatch", {
            world.tunnel().ask("GET /v1/x HTTP/1.1\r\nHost: third.test\r\n\r\n")
        }),
        ("url-too-long", world.ask("GET", &long, &[], "")),
        ("rate-limited", world.get("/once")),
        ("approval-required", world.ask("DELETE", "/asked", &[AUTHORIZED], "")),
    ] {
        assert_eq!(&*answer.problem(), code);
        let told = answer.text();
        let problem: serde_json::Value = serde_json::from_str(&told).unwrap();
        for key in ["type", "title", "status", "detail", "instance", "hint"] {
            assert!(!problem[key].is_null(), "{code}: {key} of {told}");
        }
        // Nothing of what exists: neither rules, nor credentials, nor where they may go.
        for secret in ["reads", "strict\"", "never", "other.test", "policies/", &world.key] {
            assert!(!told.contains(secret), "{code}: {secret} in {told}");
        }
        let id = answer.request_id();
        eventually("the record", PATIENCE, || world.home.records_of(&id, 1).pop());
        let explained = world.home.locum(&["policy", "explain", "--request", &id]);
        let recorded = format!("recorded: refuse, with {code}");
        assert!(explained.out.contains(&recorded), "{code}: {} {}", explained.out, explained.err);
        let title = problem["title"].as_str().unwrap();
        assert!(explained.out.contains(title), "{code}: {}", explained.out);
        assert!(explained.out.contains("decision: "), "{code}: {}", explained.out);
    }
}
