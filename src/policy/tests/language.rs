//! What rules can say beyond whom, where and what: deny, when, shadow, conditions, parts, layers.

use super::*;

/// Monday noon, UTC.
const NOON: &str = "2026-01-05T12:00:00Z";

fn seconds(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_second()
}

/// `agent`, or `agent+user=alice`.
fn someone(text: &str) -> Identity {
    let user: crate::agent::UserName = text.parse().unwrap();
    Identity { context: user.context, ..who(user.agent.as_str()) }
}

fn decide_at(
    policy: &Policy,
    who: &str,
    request: &str,
    fields: &[&str],
    at: &str,
) -> (Result<Permit, Refusal>, Option<Shadow>) {
    let (request, index, who) = (parsed(request, fields).unwrap(), index(), someone(who));
    let references = References::locate(&request, &index);
    let at = seconds(at);
    let decision = policy.authorize(&who, &request, &references, &index, at);
    let question =
        Question { who: &who, request: &request, references: &references, index: &index, at };
    let outcome = decision.as_ref().map(drop).map_err(|refusal| refusal.code);
    (decision, policy.shadow(question, outcome))
}

/// The rule that permits, or the code and the rule that refuse.
fn answer(policy: &Policy, who: &str, request: &str, fields: &[&str], at: &str) -> String {
    match decide_at(policy, who, request, fields, at).0 {
        Ok(permit) => permit.rule().to_string(),
        Err(Refusal { code, rule: Some(rule), .. }) => format!("{code} by {rule}"),
        Err(Refusal { code, .. }) => code.to_string(),
    }
}

#[test]
fn a_rule_that_denies_wins_over_any_that_allows() {
    let rules = policy(
        "  - {name: all, agents: ['*'], use: ['*']}
  - {name: web, agents: ['*'], to: ['https://*.test']}
  - {name: no deletes, deny: true, agents: ['*'], to: ['https://*'], methods: [DELETE]}
  - {name: no admin, deny: true, agents: [a], to: ['https://api.openai.com'], paths: [/admin/**]}
  - {name: no drafts, deny: true, agents: ['*'], to: ['https://x.test'], query: {state: [draft, 'tmp-*']}}
  - {name: not maps, deny: true, agents: [b], use: [maps]}
  - {name: no sockets, deny: true, agents: [c], to: ['https://api.openai.com'], methods: [], websocket: refuse}\n",
    );
    for (who, request, fields, expected) in [
        ("a", "GET https://api.openai.com/v1", &[OPENAI][..], "all"),
        ("a", "DELETE https://api.openai.com/v1", &[OPENAI], "not-allowed by no deletes"),
        ("a", "DELETE https://nobody.elsewhere/", &[], "not-allowed by no deletes"),
        ("a", "GET https://api.openai.com/admin/x", &[OPENAI], "not-allowed by no admin"),
        ("b", "GET https://api.openai.com/admin/x", &[OPENAI], "all"),
        // Any reading of the path that is denied is a reading too many.
        ("a", "GET https://api.openai.com/v1/../admin/x", &[OPENAI], "ambiguous-path"),
        ("a", "GET https://api.openai.com/%61dmin/x", &[OPENAI], "ambiguous-path"),
        ("a", "GET https://x.test/?state=open", &[], "web"),
        ("a", "GET https://x.test/?state=draft", &[], "not-allowed by no drafts"),
        ("a", "GET https://x.test/?STATE=draft", &[], "not-allowed by no drafts"),
        ("a", "GET https://x.test/?state=open&state=tmp-1", &[], "not-allowed by no drafts"),
        ("a", "GET https://x.test/?state=%64raft", &[], "not-allowed by no drafts"),
        ("a", "GET https://x.test/?state=%2564raft", &[], "not-allowed by no drafts"),
        ("a", "GET https://x.test/?y=1;state=draft", &[], "not-allowed by no drafts"),
        // With a credential it may not use; without one it may.
        ("b", "GET https://a.maps.test/?key=locum_maps", &[], "credential-refused by not maps"),
        ("b", "GET https://a.maps.test/", &[], "all"),
        ("a", "GET https://a.maps.test/?key=locum_maps", &[], "all"),
        ("c", "GET https://api.openai.com/rt", &SOCKET, "not-allowed by no sockets"),
        ("c", "GET https://api.openai.com/rt", &[OPENAI], "all"),
    ] {
        assert_eq!(answer(&rules, who, request, fields, NOON), expected, "{who} {request}");
    }
}

#[test]
fn a_denied_credential_is_not_injected_unasked_either() {
    let rules = policy(
        "  - {name: always, agents: ['*'], use: [llm], inject: always}
  - {name: not now, deny: true, agents: ['*'], use: [openai]}\n",
    );
    let ask = |host: &str| answer(&rules, "a", &format!("GET https://{host}/"), &[], NOON);
    assert_eq!(ask("api.openai.com"), "credential-refused by not now");
    assert_eq!(ask("api.anthropic.com"), "always");
}

#[test]
fn nothing_is_tunnelled_of_which_a_rule_has_something_to_say() {
    let rules = policy(
        "  - {name: web, agents: ['*'], to: ['https://*'], tunnel: opaque}
  - {name: no uploads, deny: true, agents: ['*'], to: ['https://files.test'], methods: [PUT]}
  - {name: nights, deny: true, agents: ['*'], to: ['https://late.test'], when: {hours: 22:00-06:00, zone: UTC}}
  - {name: tried, mode: shadow, deny: true, agents: ['*'], to: ['https://tried.test']}
  - {name: hers, agents: ['*'], to: ['https://hers.test'], users: [alice]}\n",
    );
    let tunnel = |who: &str, host: &str, at: &str| {
        let authority = Authority::parse(&format!("{host}:443"), None).unwrap();
        let decision = rules.tunnel(&someone(who), &authority, &index(), seconds(at));
        matches!(decision, TunnelDecision::Opaque { .. })
    };
    let midnight = "2026-01-05T00:00:00Z";
    for (who, host, at, opaque) in [
        ("a", "any.test", NOON, true),
        ("a", "files.test", NOON, false),
        ("a", "late.test", NOON, true),
        ("a", "late.test", midnight, false),
        ("a", "tried.test", NOON, true),
        ("a", "hers.test", NOON, true),
        ("a+user=alice", "hers.test", NOON, false),
    ] {
        assert_eq!(tunnel(who, host, at), opaque, "{who} {host} {at}");
    }
}

#[test]
fn rules_have_their_times() {
    let rules = policy(
        "  - {name: office, agents: [a], use: [openai], when: {days: mon-fri, hours: 08:00-18:00, zone: Europe/Berlin}}
  - {name: trial, agents: [b], use: [openai], when: {not_before: '2026-02-01T00:00:00Z', not_after: '2026-02-28T23:59:59Z'}}
  - {name: always, agents: [c], use: [openai]}
  - {name: freeze, deny: true, agents: [c], to: ['https://api.openai.com'], when: {days: [sat, sun], zone: UTC}}\n",
    );
    for (who, at, expected) in [
        ("a", NOON, "office"),
        ("a", "2026-01-05T17:00:00Z", "not-allowed"),
        ("a", "2026-01-10T12:00:00Z", "not-allowed"),
        ("b", NOON, "not-allowed"),
        ("b", "2026-02-01T00:00:00Z", "trial"),
        ("b", "2026-02-28T23:59:59Z", "trial"),
        ("b", "2026-03-01T00:00:00Z", "not-allowed"),
        ("c", NOON, "always"),
        ("c", "2026-01-10T12:00:00Z", "not-allowed by freeze"),
        // A clock that is wrong by decades opens nothing that has an end.
        ("b", "1970-01-01T00:00:00Z", "not-allowed"),
        ("b", "2999-01-01T00:00:00Z", "not-allowed"),
    ] {
        let got = answer(&rules, who, "GET https://api.openai.com/", &[OPENAI], at);
        assert_eq!(got, expected, "{who} {at}");
    }
}

#[test]
fn conditions_narrow_and_nothing_else() {
    let rules = policy(
        "  - name: fetch
    agents: [git]
    to: [https://code.test]
    paths: ['/*/info/refs']
    query: {service: git-upload-pack}
  - name: versioned
    agents: [api]
    to: [https://code.test]
    headers: {X-Api-Version: ['2024-*', '2025-01']}
  - name: hers
    agents: [shared]
    to: [https://code.test]
    users: [alice, '*@example.org']
    runs: ['nightly-*']\n",
    );
    let refs = "GET https://code.test/r/info/refs";
    for (who, request, fields, expected) in [
        ("git", format!("{refs}?service=git-upload-pack"), &[][..], "fetch"),
        ("git", format!("{refs}?service=git-receive-pack"), &[], "not-allowed"),
        ("git", refs.to_owned(), &[], "not-allowed"),
        (
            "git",
            format!("{refs}?service=git-upload-pack&service=git-receive-pack"),
            &[],
            "not-allowed",
        ),
        ("api", "GET https://code.test/".to_owned(), &["x-api-version: 2024-06"], "versioned"),
        ("api", "GET https://code.test/".to_owned(), &["x-api-version: 2025-01"], "versioned"),
        ("api", "GET https://code.test/".to_owned(), &["x-api-version: 2025-02"], "not-allowed"),
        ("api", "GET https://code.test/".to_owned(), &[], "not-allowed"),
        ("shared+user=alice+run=nightly-7", refs.to_owned(), &[], "hers"),
        ("shared+user=eve@example.org+run=nightly-7", refs.to_owned(), &[], "hers"),
        ("shared+user=alice", refs.to_owned(), &[], "not-allowed"),
        ("shared+user=eve+run=nightly-7", refs.to_owned(), &[], "not-allowed"),
        ("shared", refs.to_owned(), &[], "not-allowed"),
        ("other+user=alice+run=nightly-7", refs.to_owned(), &[], "not-allowed"),
    ] {
        assert_eq!(answer(&rules, who, &request, fields, NOON), expected, "{who} {request}");
    }
}

#[test]
fn a_rule_in_shadow_is_recorded_and_changes_nothing() {
    let rules = policy(
        "  - {name: now, agents: [a, b], to: ['https://x.test'], methods: [GET]}
  - {name: wider, mode: shadow, agents: [a], to: ['https://x.test'], methods: [POST]}
  - {name: tighter, mode: shadow, deny: true, agents: [b], to: ['https://x.test'], paths: [/old/**]}
  - {name: plain, mode: enforce, agents: [c], to: ['https://x.test']}\n",
    );
    let refused = |rule: Option<&str>, code| Some(Shadow { rule: rule.map(Into::into), code });
    for (who, request, now, shadow) in [
        ("a", "GET https://x.test/", "now", None),
        ("a", "POST https://x.test/", "not-allowed", refused(Some("wider"), None)),
        ("a", "PUT https://x.test/", "not-allowed", None),
        ("b", "GET https://x.test/", "now", None),
        ("b", "GET https://x.test/old/x", "now", refused(Some("tighter"), Some(Code::NotAllowed))),
        ("c", "POST https://x.test/", "plain", None),
    ] {
        let (decision, recorded) = decide_at(&rules, who, request, &[], NOON);
        let got = decision.map_or_else(|r| r.code.to_string(), |p| p.rule().to_string());
        assert_eq!((&*got, recorded), (now, shadow), "{who} {request}");
    }
    assert!(policy(FIRST).shadow_free());
}

impl Policy {
    fn shadow_free(&self) -> bool {
        !self.shadows
    }
}

fn layered(organisation: &str, workspace: &str) -> Policy {
    let floor = format!("version: 1\nlayer: organisation\n{organisation}");
    let own = format!("version: 1\n{workspace}");
    let sources = vec![
        Source::new("policies/org/floor.yaml", &floor),
        Source::new("policies/own.yaml", &own),
    ];
    compile(sources).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn a_workspace_cannot_widen_what_the_organisation_bounds() {
    let rules = layered(
        "groups: {staff: [a, b]}
rules:
  - {name: models, agents: [staff], use: [llm], limits: {requests: 1/day, per: rule}}
  - {name: company, agents: ['*'], to: ['https://**.corp.test'], timeouts: {idle: 1m}, misplaced: refuse}
  - {name: company tunnels, agents: ['*'], to: ['https://**.corp.test:8443'], tunnel: opaque}
  - {name: never, deny: true, agents: ['*'], to: ['https://secret.corp.test']}\n",
        "groups: {everyone: [a, b, c]}
rules:
  - {name: all credentials, agents: [everyone], use: ['*']}
  - {name: the web, agents: ['*'], to: ['https://*'], timeouts: {idle: 1h}}
  - {name: tunnels, agents: ['*'], to: ['https://*:8443'], tunnel: opaque}\n",
    );
    for (who, request, fields, expected) in [
        ("a", "GET https://api.openai.com/", &[OPENAI][..], "all credentials"),
        // A rule of the workspace, and none of the organisation for this agent.
        ("c", "GET https://api.openai.com/", &[OPENAI], "not-allowed"),
        ("a", "GET https://a.maps.test/?key=locum_maps", &[], "not-allowed"),
        ("a", "GET https://www.corp.test/", &[], "the web"),
        ("a", "GET https://www.elsewhere.test/", &[], "not-allowed"),
        ("a", "GET https://secret.corp.test/", &[], "not-allowed by never"),
        ("a", "GET https://www.corp.test/", &["user-agent: locum_openai"], "misplaced-reference"),
    ] {
        assert_eq!(answer(&rules, who, request, fields, NOON), expected, "{who} {request}");
    }
    let permit = decide_at(&rules, "a", "GET https://www.corp.test/", &[], NOON).0.unwrap();
    assert_eq!(permit.timeouts().idle, Some(Duration::from_mins(1)), "the shorter of the two");
    // The organisation's limits count, whatever the workspace's rule says.
    let admit = || {
        let request = "GET https://api.openai.com/";
        let permit = decide_at(&rules, "a", request, &[OPENAI], NOON).0.unwrap();
        permit.admit(&"a".parse().unwrap(), Duration::ZERO, None).is_ok()
    };
    assert!(admit() && !admit());
    let opaque = |host: &str| {
        let authority = Authority::parse(host, None).unwrap();
        let decision = rules.tunnel(&who("a"), &authority, &index(), 0);
        matches!(decision, TunnelDecision::Opaque { .. })
    };
    assert!(opaque("www.corp.test:8443"));
    assert!(!opaque("www.elsewhere.test:8443") && !opaque("www.corp.test:443"));
}

#[test]
fn what_the_organisation_grants_bounds_each_credential() {
    let rules = layered(
        "rules:\n  - {name: one host, agents: ['*'], to: ['https://api.openai.com'], use: [openai]}\n  - {name: any host, agents: ['*'], to: ['https://*']}\n",
        "rules:\n  - {name: always, agents: [legacy], use: [openai, maps], inject: always}\n  - {name: all, agents: [a], use: ['*']}\n",
    );
    for (who, request, fields, expected) in [
        ("a", "GET https://api.openai.com/", &[OPENAI][..], "all"),
        ("a", "GET https://x.maps.test/?key=locum_maps", &[], "credential-refused"),
        ("a", "GET https://x.maps.test/", &[], "all"),
        ("legacy", "GET https://api.openai.com/", &[], "always"),
        ("legacy", "GET https://x.maps.test/", &[], "credential-refused"),
    ] {
        assert_eq!(answer(&rules, who, request, fields, NOON), expected, "{who} {request}");
    }
}

#[test]
fn an_organisation_that_only_denies_bounds_nothing_else() {
    let rules = layered(
        "rules:\n  - {name: never, deny: true, agents: ['*'], to: ['https://secret.test']}\n",
        "rules:\n  - {name: web, agents: ['*'], to: ['https://*']}\n",
    );
    assert_eq!(answer(&rules, "a", "GET https://other.test/", &[], NOON), "web");
    assert_eq!(answer(&rules, "a", "GET https://secret.test/", &[], NOON), "not-allowed by never");
}

#[test]
fn parts_are_put_in_where_they_are_named() {
    let rules = layered(
        "parts:
  hours: {when: {hours: 08:00-18:00, zone: UTC}}
rules: []\n",
        "parts:
  chat:
    to: [https://api.openai.com]
    methods: [POST]
    paths: [/v1/chat/completions]
    use: [openai]
rules:
  - {name: both, agents: [a], with: [chat, hours]}
  - {name: one, agents: [b], with: [chat]}\n",
    );
    let night = "2026-01-05T02:00:00Z";
    for (who, request, at, expected) in [
        ("a", "POST https://api.openai.com/v1/chat/completions", NOON, "both"),
        ("a", "POST https://api.openai.com/v1/chat/completions", night, "not-allowed"),
        ("b", "POST https://api.openai.com/v1/chat/completions", night, "one"),
        ("b", "GET https://api.openai.com/v1/chat/completions", night, "not-allowed"),
        ("b", "POST https://api.openai.com/v1/files", night, "not-allowed"),
    ] {
        assert_eq!(answer(&rules, who, request, &[OPENAI], at), expected, "{who} {request} {at}");
    }
}

#[test]
fn mistakes_in_all_of_it_are_reported_at_once() {
    let own = "version: 1
layer: workspace
parts:
  web: {to: ['https://*'], agents: [a]}
  twice: {methods: [GET]}
rules:
  - {name: both, agents: [a], to: ['https://a.test'], methods: [PUT], with: [twice]}
  - {name: near, agents: [a], to: ['https://a.test'], with: [twic]}
  - {name: not, deny: false, agents: [a], to: ['https://a.test']}
  - {name: limited, deny: true, agents: [a], to: ['https://a.test'], limits: {concurrent: 1}}
  - {name: evaded, deny: true, agents: [a], to: ['https://a.test'], users: [mallory]}
  - {name: sockets, deny: true, agents: [a], to: ['https://a.test'], websocket: allow}
  - {name: never, agents: [a], to: ['https://a.test'], when: {not_before: '2027-01-01T00:00:00Z', not_after: '2026-01-01T00:00:00Z'}}
  - {name: where, agents: [a], to: ['https://a.test'], when: {days: [mon]}}
  - {name: mars, agents: [a], to: ['https://a.test'], when: {days: [mon], zone: Mars/Olympus}}
  - {name: no time, agents: [a], to: ['https://a.test'], when: {}}
  - {name: number, agents: [a], to: ['https://a.test'], query: {page: 1}}
  - {name: own field, agents: [a], to: ['https://a.test'], headers: {Locum-Run: x, Authorization: y, 'a b': z}}
  - {name: nobody, agents: [a], to: ['https://a.test'], users: []}
  - {name: seen, agents: [a], to: ['https://a.test'], tunnel: opaque, query: {a: b}}
  - {name: mode, agents: [a], to: ['https://a.test'], mode: shadows}
  - {name: much, agents: [a], to: ['https://a.test'], limits: {requests: 60/week, per: agents}}
  - {name: none, agents: [a], to: ['https://a.test'], limits: {per: rule}}
";
    let floor = "version: 1\nlayer: organisation\nrules:
  - {name: floor, agents: [a], use: [x], inject: always}
  - {name: borrowed, agents: [a], with: [twice]}
  - {name: taker, agents: [a], to: ['https://a.test'], capture: [{json: /t, as: x}]}
";
    let sources = vec![
        Source::new("policies/own.yaml", own),
        Source::new("policies/org/floor.yaml", floor),
        Source::new("policies/misplaced.yaml", "version: 1\nlayer: organisation\n"),
        Source::new("policies/org/unsaid.yaml", "version: 1\n"),
    ];
    let shown = compile(sources).unwrap_err().to_string();
    for message in [
        "unknown key `agents`",
        "own.yaml:7:64: rules[0].methods: the part `twice` has `methods`, too",
        "a rule that does not deny allows",
        "`limits` is for rules that allow",
        "`users` is what the agent's starter says",
        "`websocket: allow` on a rule that denies",
        "`not_after` is before `not_before`",
        "`days` and `hours` are those of a place",
        "no time zone has this name",
        "`when` says no time",
        "own.yaml:17:71: rules[10].query.page: expected text",
        "own.yaml:18:70: rules[11].headers.Locum-Run: no rule can ask for this field",
        "own.yaml:18:84: rules[11].headers.Authorization: no rule can ask for this field",
        "not the name of a header field",
        "the list is empty",
        "`query` needs a look inside",
        "did you mean `shadow`?",
        "not a rate",
        "did you mean `agent`?",
        "`limits` says nothing of how much",
        "injects nothing",
        "one of the organisation decides nothing",
        "misplaced.yaml:2:8: layer: the organisation's rules stand in a directory of their own",
        "org/unsaid.yaml:1:1: the file stands among the organisation's",
    ] {
        assert!(shown.contains(message), "{message} is not in:\n{shown}");
    }
    // A part that another file may have is not missed before all files can be read.
    let missed = |own: &str| {
        let floor = Source::new(
            "org/floor.yaml",
            "version: 1\nlayer: organisation\nrules:\n  - {name: f, agents: [a], with: [twice]}\n",
        );
        let own = Source::new("own.yaml", own);
        compile(vec![floor, own]).unwrap_err().to_string()
    };
    let part = "version: 1\nparts: {twice: {to: ['https://a.test']}}\n";
    assert!(missed(part).contains("no part is called `twice`"), "a part of the workspace's");
    assert!(!missed("version: 2\n").contains("no part"));
    assert!(!missed("version: 1\npart: {twice: {to: ['https://a.test']}}\n").contains("no part"));
    // What is wrong with a rule hides no part.
    let both = missed(
        "version: 1\nrules: [{name: r, agents: [a], to: ['https://a.test'], methods: [get]}]\n",
    );
    assert!(both.contains("no part is called `twice`") && both.contains("write GET"), "{both}");
}

#[test]
fn agents_are_chosen_by_their_labels() {
    let text = "version: 1
groups: {production: [ops, {labels: {env: [prod, 'prod-*']}}]}
rules:
  - {name: team, agents: {labels: {team: ml}}, to: ['https://team.test']}
  - {name: both, agents: [{labels: {team: ml, env: dev}}, b], to: ['https://both.test']}
  - {name: group, agents: [production], to: ['https://group.test']}
  - {name: any, agents: ['*'], to: ['https://any.test']}
  - {name: not in dev, deny: true, agents: [{labels: {env: dev}}], to: ['https://any.test']}
";
    let policy = compile(vec![Source::new("p.yaml", text)]).unwrap_or_else(|r| panic!("{r}"));
    let ask = |agent: &str, labels: &[&str], url: &str| {
        let pairs = labels.iter().map(|text| text.parse().unwrap());
        let pairs = pairs.map(|crate::agent::LabelPair(name, value)| (name, value));
        let who = Identity { labels: Labels::new(pairs).unwrap(), ..who(agent) };
        let (request, index) = (parsed(&format!("GET {url}/"), &[]).unwrap(), index());
        let references = References::locate(&request, &index);
        let decision = policy.authorize(&who, &request, &references, &index, 0);
        decision.is_ok_and(|permit| !permit.rule().is_empty())
    };
    for (agent, labels, url, expected) in [
        ("a", &["team=ml"][..], "https://team.test", true),
        ("a", &["team=mlx"], "https://team.test", false),
        ("a", &["team=ml", "env=x"], "https://team.test", true),
        ("team", &[], "https://team.test", false),
        ("a", &["team=ml", "env=dev"], "https://both.test", true),
        ("a", &["team=ml"], "https://both.test", false),
        ("a", &["env=dev"], "https://both.test", false),
        ("b", &[], "https://both.test", true),
        ("a", &["env=prod"], "https://group.test", true),
        ("a", &["env=prod-eu"], "https://group.test", true),
        ("a", &["env=preprod"], "https://group.test", false),
        ("ops", &["env=dev"], "https://group.test", true),
        ("a", &["env=prod"], "https://any.test", true),
        ("a", &["env=dev"], "https://any.test", false),
    ] {
        assert_eq!(ask(agent, labels, url), expected, "{agent} {labels:?} {url}");
    }
}

#[test]
fn a_rule_is_found_by_label_among_many_at_one_host() {
    let rule = |i| {
        format!(
            "  - {{name: r{i}, agents: {{labels: {{env: 'p*', team: t{i}}}}}, to: ['https://h.test']}}\n"
        )
    };
    let rules = policy(&(0..2000).map(rule).collect::<String>());
    let labels = ["team=t1234", "env=prod"].map(|text| text.parse().unwrap());
    let labels = labels.map(|crate::agent::LabelPair(name, value)| (name, value));
    let who = Identity { labels: Labels::new(labels).unwrap(), ..who("a") };
    assert_eq!(rules.candidates(&who, &origin("https://h.test"), &index()).count(), 1);
}

#[test]
fn labels_that_say_nothing_or_are_none_are_mistakes() {
    for (agents, mistake) in [
        ("{labels: {}}", "nothing is asked for"),
        ("[{labels: {team: []}}]", "the list is empty"),
        ("[{labels: {Team: ml}}]", "a label's name is"),
        ("[{label: {team: ml}}]", "did you mean `labels`?"),
        ("[{labels: team}]", "expected a mapping"),
        ("[{labels: {team: 7}}]", "put it in quotes"),
        ("[{}]", "the key `labels` is missing"),
        ("['*', {labels: {team: ml}}]", "`*` stands for all agents"),
        ("[{labels: {team: ml}}, '*']", "`*` stands for all agents"),
    ] {
        let text = format!(
            "version: 1\nrules:\n  - {{name: r, agents: {agents}, to: ['https://x.test']}}\n"
        );
        let report = compile(vec![Source::new("p.yaml", &text)]).unwrap_err().to_string();
        assert!(report.contains(mistake), "{agents}: {report}");
    }
}

/// One mistake, one message, and each says what to do.
#[test]
fn a_mistake_is_named_for_what_it_is() {
    let rule = |keys: &str| format!("version: 1\nrules:\n  - {{name: r, agents: [a], {keys}}}\n");
    let case = |keys: &str| format!("version: 1\ntests:\n  - {{agent: a, {keys}}}\n");
    for (text, mistake, help) in [
        (rule("to: ['https://[::1']"), "an IPv6 address stands in brackets", ""),
        (rule("to: ['https://u:p@x.test']"), "a user name or password does not belong here", ""),
        (rule("to: ['https://*.x.test:*']"), "a port has no wildcard", ""),
        (rule("to: ['https://x.test'], query: {1: a}"), "a key has to be text", "put it in quotes"),
        (
            rule("to: ['https://x.test'], query: {}"),
            "nothing is asked for",
            "name one, or remove the key",
        ),
        (rule("to: ['https://x.test'], methods: ['GE T']"), "not a method", "a method is one word"),
        (rule("to: ['https://x.test'], methods: [TRACE]"), "TRACE is never forwarded", "remove it"),
        (
            rule("to: ['https://x.test'], inject: always"),
            "`inject: always` needs `use`",
            "add `use",
        ),
        (rule("use: ['*', k]"), "`*` stands for all credentials", "remove the others"),
        (rule("use: [k], when: {days: mon, zone: Factory}"), "no time zone has this name", ""),
        (
            rule(
                "use: [k], when: {not_before: '2027-01-01T00:00:00Z', not_after: '2026-01-01T00:00:00Z'}",
            ),
            "`not_after` is before",
            "correct one of the two",
        ),
        ("rules: []\n".to_owned(), "the key `version` is missing", "add `version: 1`"),
        (
            "version: 1\nrules:\n  - {name: r, to: ['https://x.test']}\n".to_owned(),
            "the key `agents` is missing",
            "add `agents: [NAME]`",
        ),
        (
            case("request: GET https://x.test/, expect: allow, rule: nothing like it"),
            "no rule has this name",
            "name a rule of these files",
        ),
        (case("request: GET https://x.test/a b, expect: refuse"), "write a method and a URL", ""),
    ] {
        let report = compile(vec![Source::new("p.yaml", &text)]).unwrap_err();
        let problems = report.problems();
        let [problem] = &problems[..] else { panic!("{text}: {report}") };
        assert!(problem.message.contains(mistake), "{text}: {report}");
        assert!(problem.advice.as_deref().unwrap_or_default().contains(help), "{text}: {report}");
    }
}
