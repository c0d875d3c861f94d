//! `policy check`, and sets.

use std::fs;

use serde_json::json;

use crate::home::Home;

const WRONG: &str = "version: 1
rules:
  - name: one
    agents: [a]
    use: [openai]
    method: [GET]
  - name: two
    agents: [a]
    to: [ftp://x.test]
";

#[test]
fn all_mistakes_of_all_files_come_at_once_with_their_places() {
    let home = Home::missing();
    let directory = home.beside("rules");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a.yaml"), WRONG).unwrap();
    fs::write(directory.join("b.yml"), "version: 2\nrules: 7\n").unwrap();
    fs::write(directory.join("not-a-policy.txt"), "]").unwrap();
    fs::write(directory.join(".hidden.yaml"), "]").unwrap();
    let ran = home.run(&["policy", "check", "rules"]);
    ran.refused(
        64,
        &[
            "rules/a.yaml:6:5: rules[0].method: unknown key `method`",
            "   6 |     method: [GET]",
            "help: did you mean `methods`?",
            "rules/a.yaml:9:10: rules[1].to[0]: ",
            "rules/b.yml:1:10: version: ",
            "rules/b.yml:2:8: rules: ",
            "\n4 mistakes",
        ],
    );
    assert!(ran.out.is_empty() && !ran.err.contains("hidden"), "{ran:?}");

    let ran = home.run(&["policy", "check", "--json", "rules/a.yaml", "rules/none.yaml"]);
    assert_eq!(ran.code, 64);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["ok"], false);
    let problems = report["problems"].as_array().unwrap();
    let places: Vec<_> =
        problems.iter().map(|p| json!([p["file"], p["line"], p["column"]])).collect();
    assert_eq!(
        places,
        [
            json!(["rules/a.yaml", 6, 5]),
            json!(["rules/a.yaml", 9, 10]),
            json!(["rules/none.yaml", null, null])
        ]
    );
}

#[test]
fn policies_are_checked_where_there_is_no_home() {
    let home = Home::missing();
    fs::write(home.beside("p.yaml"), "version: 1\nrules:\n  - {name: r, agents: [x], use: [y]}\n")
        .unwrap();
    let output = home.command(&["policy", "check", "p.yaml"]).env_remove("LOCUM_HOME").output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("no mistakes in 1 file with 1 rule (digest "), "{text}");
    let report = home.json(&["policy", "check", "--json", "p.yaml"]);
    assert_eq!(report["ok"], true);
    assert_eq!((&report["files"], &report["rules"]), (&json!(1), &json!(1)));
    assert_eq!(report["digest"].as_str().unwrap().len(), 16);
    assert_eq!((&report["problems"], &report["warnings"]), (&json!([]), &json!([])));
}

#[test]
fn names_that_the_vault_lacks_are_warnings() {
    let home = Home::new();
    home.add_credential("billing", "a-secret-of-some-length");
    home.ok(&["agent", "add", "researcher"]);
    home.ok(&["set", "add", "money", "billing"]);
    home.write(
        "policies/second.yaml",
        "version: 1\nrules:\n  - {name: r, agents: [reseacher, researcher], use: [billing, money, bilings]}\n",
    );
    let ran = home.run(&["policy", "check"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("no mistakes in 2 files with 2 rules"), "{ran:?}");
    let unknown = ran.err.lines().filter(|line| line.starts_with("warning[unknown-name]: "));
    let unknown: Vec<&str> = unknown.map(|line| line.split_once("policies/").unwrap().1).collect();
    assert_eq!(
        unknown,
        [
            "second.yaml:3:24: rule `r`: the vault has no live agent `reseacher`",
            "second.yaml:3:70: rule `r`: the vault has no credential or set `bilings`",
        ]
    );
    for shown in [
        "     |                        ^\n  help: did you mean `researcher`?",
        "bilings]}\n     |                                                                      ^\n  help: did you mean `billing`?",
    ] {
        assert!(ran.err.contains(shown), "{shown} is not in {ran:?}");
    }
    let report = home.json(&["policy", "check", "--json"]);
    let lints = report["lints"].as_array().unwrap();
    let unknown = lints.iter().filter(|lint| lint["id"] == "unknown-name");
    let unknown: Vec<_> =
        unknown.map(|lint| (&lint["line"], &lint["column"], &lint["help"])).collect();
    let help = [json!("did you mean `researcher`?"), json!("did you mean `billing`?")];
    let (line, columns) = (json!(3), [json!(24), json!(70)]);
    assert_eq!(unknown, [(&line, &columns[0], &help[0]), (&line, &columns[1], &help[1])]);
}

#[test]
fn sets_come_and_go() {
    let home = Home::new();
    for name in ["a", "b"] {
        home.add_credential(name, &format!("secret-of-{name}-123456"));
    }
    assert_eq!(home.ok(&["set", "add", "both", "a", "b"]), "both has a, b\n");
    assert_eq!(home.ok(&["set", "list"]), "SET   MEMBERS\nboth  a, b\n");
    home.run(&["set", "add", "both", "c"]).refused(1, &["there is no credential 'c'"]);
    home.run(&["set", "add", "a", "b"]).refused(1, &["there is a credential 'a' already"]);
    assert_eq!(home.ok(&["set", "remove", "both", "a"]), "both has b\n");
    assert_eq!(home.json(&["set", "list", "--json"]), json!([{"name": "both", "members": ["b"]}]));
    home.ok(&["set", "remove", "both", "b"]);
    home.ok(&["set", "remove", "both"]);
    assert_eq!(home.json(&["set", "list", "--json"]), json!([]));
    home.run(&["set", "remove", "both"]).refused(1, &["there is no set 'both'"]);
    assert_eq!(home.credentials(), ["a", "b"]);
}

const RESEARCH: &str = "version: 1
rules:
  - name: chat for research
    agents: [researcher]
    to: [https://api.openai.com]
    methods: [POST]
    paths: [/v1/chat/completions]
    use: [openai]
  - {name: no deletes, deny: true, agents: ['*'], to: ['https://*'], methods: [DELETE]}
  - {name: others, agents: [somebody], to: ['https://elsewhere.test']}
given: {credentials: {openai: [https://api.openai.com]}}
";

#[test]
fn a_decision_is_explained_with_what_would_have_to_change() {
    let home = Home::missing();
    fs::write(home.beside("p.yaml"), RESEARCH).unwrap();
    let explain = |words: &[&str]| {
        let usual = ["policy", "explain", "--policy", "p.yaml", "--agent", "researcher"];
        home.run(&[&usual[..], words].concat())
    };
    let url = "https://api.openai.com/v1/chat/completions";
    let ran = explain(&["POST", url, "--use", "openai"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.starts_with("decision: allow, by the rule `chat for research`\n"), "{ran:?}");
    assert!(ran.out.contains("matches:  `chat for research` (p.yaml:3)"), "{ran:?}");
    assert!(ran.out.contains("and 1 more rule that does not match"), "{ran:?}");
    let ran = explain(&["GET", "https://api.openai.com/v1/files", "--use", "openai"]);
    assert_eq!(ran.code, 1);
    for line in [
        "decision: refuse, with not-allowed\n",
        "misses:   `chat for research` (p.yaml:3)\n            methods: add GET\n            paths: add /v1/files\n",
        "misses:   `no deletes` (p.yaml:9), denies\n",
    ] {
        assert!(ran.out.contains(line), "{line} is not in {ran:?}");
    }
    let ran = explain(&["DELETE", url]);
    assert!(
        ran.out.starts_with("decision: refuse, with not-allowed, by the rule `no deletes`"),
        "{ran:?}"
    );
    let json = explain(&["CONNECT", "api.openai.com:443", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["decision"], "intercept");
    assert_eq!(json["rules"][0]["matches"], true);
    explain(&["POST", "not a url"]).refused(64, &["write a method and a URL"]);
}

const DOUBTFUL: &str = "version: 1
rules:
  - {name: wide, agents: [a], to: ['https://*.github.io'], use: [pages]}
  - {name: again, agents: [a], to: ['https://x.github.io'], use: [pages]}
";

#[test]
fn what_is_probably_not_meant_is_said_with_its_place() {
    let home = Home::missing();
    fs::write(home.beside("p.yaml"), DOUBTFUL).unwrap();
    let ran = home.run(&["policy", "check", "p.yaml"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for line in [
        "warning[wildcard-with-credential]: p.yaml:3:36: rule `wide`: ",
        "   3 |   - {name: wide, agents: [a], to: ['https://*.github.io'], use: [pages]}\n     |                                    ^",
        "warning[wildcard-under-public-suffix]: p.yaml:3:36: rule `wide`: anybody can have a host",
        "warning[unreachable-rule]: p.yaml:4:5: rule `again`: `wide`, at p.yaml:3, allows all",
        "  help: remove it, or move it before the other",
    ] {
        assert!(ran.err.contains(line), "{line} is not in {ran:?}");
    }
    assert_eq!(home.run(&["policy", "check", "p.yaml", "--deny-warnings"]).code, 1);
    let report = home.json(&["policy", "check", "--json", "p.yaml"]);
    let ids: Vec<_> = report["lints"].as_array().unwrap().iter().map(|lint| &lint["id"]).collect();
    assert_eq!(
        ids,
        ["wildcard-with-credential", "wildcard-under-public-suffix", "unreachable-rule"]
    );
    let sarif = home.json(&["policy", "check", "--sarif", "p.yaml"]);
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!((&sarif["version"], results.len()), (&json!("2.1.0"), 3));
    let region = json!({ "startLine": 3, "startColumn": 36 });
    assert_eq!(results[0]["locations"][0]["physicalLocation"]["region"], region);
    fs::write(home.beside("p.yaml"), WRONG).unwrap();
    let ran = home.run(&["policy", "check", "--sarif", "p.yaml"]);
    let sarif: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &sarif["runs"][0]["results"][0]["level"]), (64, &json!("error")));
}

#[test]
fn what_the_vault_has_and_no_rule_uses_is_said() {
    let home = Home::new();
    home.add_credential("billing", "a-secret-of-some-length");
    home.ok(&["agent", "add", "researcher"]);
    home.write(
        "policies/first.yaml",
        "version: 1\nrules:\n  - {name: r, agents: [other], to: ['https://x.test']}\n",
    );
    let ran = home.run(&["policy", "check"]);
    for line in [
        "warning[unused-credential]: no rule lets anybody use the credential `billing`",
        "warning[agent-without-rules]: no rule allows the agent `researcher` anything",
    ] {
        assert!(ran.err.contains(line), "{line} is not in {ran:?}");
    }
}

#[test]
fn a_change_is_told_in_combinations() {
    let home = Home::missing();
    fs::write(home.beside("old.yaml"), RESEARCH).unwrap();
    let new = RESEARCH
        .replace("methods: [POST]", "methods: [POST, GET]")
        .replace("agents: [somebody]", "agents: [other]");
    fs::write(home.beside("new.yaml"), new).unwrap();
    assert_eq!(home.ok(&["policy", "diff", "old.yaml", "old.yaml"]), "nothing changes\n");
    assert_eq!(
        home.ok(&["policy", "diff", "old.yaml", "new.yaml"]),
        "+ other may send at https://elsewhere.test: any method, any path
- researcher may use openai at https://api.openai.com: POST, at /v1/chat/completions
+ researcher may use openai at https://api.openai.com: GET, POST, at /v1/chat/completions
- somebody may send at https://elsewhere.test: any method, any path
"
    );
    let json = home.json(&["policy", "diff", "old.yaml", "new.yaml", "--json"]);
    let changes: Vec<_> =
        json["changes"].as_array().unwrap().iter().map(|c| c["change"].clone()).collect();
    assert_eq!(changes, ["added", "changed", "removed"]);
}

#[test]
fn that_a_person_is_asked_can_be_tested() {
    let home = Home::missing();
    let write = |approval: &str, expect: &str| {
        let text = format!(
            "version: 1
rules: [{{name: r, agents: [a], to: ['https://x.test'] {approval}}}]
tests: [{{agent: a, request: GET https://x.test/, expect: {expect}, rule: r}}]
"
        );
        fs::write(home.beside("p.yaml"), text).unwrap();
        home.run(&["policy", "test", "p.yaml"])
    };
    for approval in [", approval: required", ", approval: {answer: refuse}"] {
        for expect in ["ask", "refuse, code: approval-required"] {
            let ran = write(approval, expect);
            assert_eq!(ran.code, 0, "{approval} {expect} {ran:?}");
            write("", expect).refused(1, &["1 of 1 test failed"]);
        }
        write(approval, "allow").refused(1, &["answer:   ask, by the rule `r`"]);
    }
    fs::write(home.beside("p.yaml"), "version: 1\nrules: []\n").unwrap();
    home.run(&["policy", "test", "p.yaml"]).refused(1, &["there are no tests"]);
}

#[test]
fn findings_have_places_that_code_hosts_can_read() {
    let home = Home::missing();
    fs::create_dir(home.beside("sp ace")).unwrap();
    let text = "version: 1
rules: [{name: r, agents: [a], to: ['https://*.github.io']}]
";
    fs::write(home.beside("sp ace/a b%.yaml"), text).unwrap();
    let log = home.json(&["policy", "check", "--sarif", "sp ace/a b%.yaml"]);
    let result = &log["runs"][0]["results"][0];
    let place = |result: &serde_json::Value| {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].clone()
    };
    assert_eq!(place(result), "sp%20ace/a%20b%25.yaml");
    let said = result["message"]["text"].as_str().unwrap();
    assert!(said.ends_with("(name the hosts, or the domain that is yours)"), "{said}");
    let whole = home.beside("sp ace/a b%.yaml");
    let log = home.json(&["policy", "check", "--sarif", whole.to_str().unwrap()]);
    let uri = place(&log["runs"][0]["results"][0]);
    let uri = uri.as_str().unwrap();
    assert!(uri.starts_with("file:///") && uri.ends_with("/sp%20ace/a%20b%25.yaml"), "{uri}");
    // What stands in no line is shown at the first.
    let home = Home::new();
    home.ok(&["agent", "add", "lonely"]);
    home.write(
        "policies/one.yaml",
        "version: 1\nrules: [{name: r, agents: [ghost], to: ['https://x.test']}]\n",
    );
    let log = home.json(&["policy", "check", "--sarif"]);
    let results = log["runs"][0]["results"].as_array().unwrap();
    assert!(!results.is_empty() && results.iter().all(|one| !place(one).is_null()), "{log}");
}

#[test]
fn an_explanation_gives_the_reason_whatever_it_is() {
    const RULES: &str = "version: 1
rules:
  - {name: no j, deny: true, agents: ['*'], use: [j]}
  - {name: x, agents: [a], to: ['https://x.test'], methods: [GET], paths: ['/a/**', '/b'], use: [k]}
  - {name: own, agents: [a], methods: [PATCH], use: [k]}
  - {name: denysecret, deny: true, agents: ['*'], to: ['https://x.test'], paths: ['/a/secret/**', '/secret/**']}
  - {name: hours, agents: [a], to: ['https://t.test'], when: {not_after: '2020-01-01T00:00:00Z'}, query: {state: [open, draft]}, headers: {x-v: '1'}, users: [alice], runs: ['7']}
given: {credentials: {k: [https://x.test], j: [https://x.test]}}
";
    const FLOOR: &str = "version: 1
layer: organisation
rules: [{name: floor, agents: [z], to: ['https://elsewhere.test']}]
";
    let home = Home::missing();
    fs::create_dir_all(home.beside("p/org")).unwrap();
    fs::write(home.beside("p/p.yaml"), RULES).unwrap();
    let explain = |words: &[&str]| {
        home.run(&[&["policy", "explain", "--policy", "p/p.yaml", "--agent", "a"], words].concat())
    };
    // What denies another credential than the one that enters is no match.
    let ran = explain(&["GET", "https://x.test/b", "--use", "k"]);
    assert!(ran.code == 0 && !ran.out.contains("matches:  `no j`"), "{ran:?}");
    assert!(ran.out.contains("use: it denies none of the credentials of this request"), "{ran:?}");
    let ran = explain(&["GET", "https://x.test/b", "--use", "j"]);
    assert!(ran.code == 1 && ran.out.contains("matches:  `no j` (p/p.yaml:3), denies"), "{ran:?}");
    // The reading that decides is named.
    let ran = explain(&["GET", "https://x.test/a/%2e%2e/secret/b"]);
    assert!(ran.out.contains("with ambiguous-path"), "{ran:?}");
    assert!(
        ran.out.contains("because:  read as /a/%2e%2e/secret/b: allowed by the rule `x`"),
        "{ran:?}"
    );
    assert!(
        ran.out.contains("because:  read as /secret/b: not-allowed by the rule `denysecret`"),
        "{ran:?}"
    );
    let ran = explain(&["GET", "https://x.test/b", "--header", "X-HTTP-Method-Override: PUT"]);
    assert!(ran.out.contains("because:  read as PUT: not-allowed"), "{ran:?}");
    let ran = explain(&["GET", "https://x.test/b", "--header", "X-HTTP-Method-Override: TRACE"]);
    assert!(ran.out.contains("because:  A field or a parameter asks for a method"), "{ran:?}");
    // No advice that `policy check` would refuse, and none to deny more.
    let ran = explain(&["GET", "http://x.test/c", "--use", "k"]);
    for said in [
        "            to: credentials go over https:// alone; send it there\n            paths: add /c\n",
        "            to: there is none, and no credential of `use` may go to http://x.test\n",
        "            to: it is about other destinations than http://x.test\n",
        "            paths: it is about others than /c\n",
    ] {
        assert!(ran.out.contains(said), "{said}: {ran:?}");
    }
    let ran = explain(&["get", "https://x.test/b"]);
    assert!(
        ran.out.contains("because:  Methods are written in capitals")
            && !ran.out.contains("add get"),
        "{ran:?}"
    );
    // What a rule wants is said.
    let ran = explain(&["GET", "https://t.test/"]);
    for wanted in [
        "query: wants state=draft|open;",
        "headers: wants x-v: 1;",
        "users: wants alice; the starter said nothing",
        "runs: wants 7; the starter said nothing",
        "when: in its times: to 2020-01-01T00:00:00Z, and not at ",
    ] {
        assert!(ran.out.contains(wanted), "{wanted}: {ran:?}");
    }
    // A rule for this host stands before those for others, however much of it does not fit.
    let place = |rule: &str| ran.out.find(&format!("misses:   `{rule}`")).unwrap();
    assert!(place("hours") < place("x") && place("hours") < place("own"), "{ran:?}");
    let ran = explain(&["CONNECT", "x.test:443"]);
    assert!(ran.out.contains("because:  the credential `j` may go there"), "{ran:?}");
    let ran = explain(&["CONNECT", "t.test:443", "--at", "2019-01-01T00:00:00Z"]);
    assert!(ran.out.contains("because:  no rule with `tunnel: opaque` matches"), "{ran:?}");
    // The organisation's rule that does not allow it is shown.
    fs::write(home.beside("p/org/floor.yaml"), FLOOR).unwrap();
    let ran = home.run(&[
        "policy",
        "explain",
        "--policy",
        "p/org/floor.yaml",
        "--policy",
        "p/p.yaml",
        "--agent",
        "a",
        "GET",
        "https://x.test/b",
        "--use",
        "k",
    ]);
    assert!(ran.out.contains("because:  no rule of the organisation"), "{ran:?}");
    assert!(
        ran.out.contains("misses:   `floor` (p/org/floor.yaml:3), the organisation's"),
        "{ran:?}"
    );
}

#[test]
fn an_agent_that_is_called_as_a_group_is_told_so() {
    const RULES: &str = "version: 1
groups: {research: [clerk]}
rules: [{name: x, agents: [research], to: ['https://x.test']}]
";
    let home = Home::missing();
    fs::write(home.beside("p.yaml"), RULES).unwrap();
    let explain = |agent: &str| {
        home.run(&[
            "policy",
            "explain",
            "--policy",
            "p.yaml",
            "--agent",
            agent,
            "GET",
            "https://x.test/",
        ])
    };
    let ran = explain("research");
    let said = "agents: `research` means a group of others; give that another name";
    assert!(ran.code == 1 && ran.out.contains(said), "{ran:?}");
    assert!(explain("other").out.contains("agents: add `other`"));
    assert_eq!(explain("clerk").code, 0);
}

#[test]
fn policies_of_elsewhere_are_explained_with_the_vault_there_is() {
    let home = Home::new();
    home.add_credential("main", "a-secret-of-some-length");
    let text = "version: 1
rules: [{name: r, agents: [a], to: ['https://api.test'], use: [main]}]
";
    fs::write(home.beside("p.yaml"), text).unwrap();
    let words = [
        "policy",
        "explain",
        "--policy",
        "p.yaml",
        "--agent",
        "a",
        "--use",
        "main",
        "GET",
        "https://api.test/x",
    ];
    let ran = home.run(&words);
    assert!(ran.code == 0 && ran.out.starts_with("decision: allow, by the rule `r`"), "{ran:?}");
    // What their own tests suppose goes before it.
    fs::write(
        home.beside("p.yaml"),
        format!("{text}given: {{credentials: {{other: ['https://x.test']}}}}\n"),
    )
    .unwrap();
    assert_eq!(home.run(&words).code, 1);
}
