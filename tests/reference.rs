//! A second evaluator, as simple and as slow as can be, written from docs/POLICY.md: it looks at every
//! rule in turn and knows no index. The compiled one has to agree with it on random policies and
//! requests.
//!
//! `LOCUM_REFERENCE=1000000` asks so many questions, and `LOCUM_SEED=7` begins elsewhere.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string,
    clippy::struct_excessive_bools,
    clippy::format_collect
)]

use locum::agent::{Identity, Labels};
use locum::document::Source;
use locum::outcome::Code;
use locum::policy::{Answer, Around, Inquiry, LintKind, compile_all, supposed};

/// Numbers that look random, and are the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).unwrap()
    }

    /// Once in `n`.
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn some<T: Copy>(&mut self, of: &[T], most: usize) -> Vec<T> {
        (0..=self.below(most)).map(|_| self.one(of)).collect()
    }
}

const AGENTS: [&str; 3] = ["a", "b", "c"];
const TEAMS: [&str; 3] = ["ml", "web", "ops"];
const ENVS: [&str; 3] = ["prod", "prod-eu", "dev"];
const ENV_PATTERNS: [&str; 4] = ["prod", "prod*", "dev", "*"];
const HOSTS: [&str; 6] = ["x.test", "y.test", "a.x.test", "b.a.x.test", "a.y.test", "other.org"];
const PATTERNS: [&str; 10] = [
    "x.test",
    "a.x.test",
    "a.y.test",
    "*.x.test",
    "**.x.test",
    "*.test",
    "**.test",
    "a.*.test",
    "*",
    "b.*.x.test",
];
const PORTS: [u16; 2] = [443, 8443];
const PATHS: [&str; 7] = ["/", "/v", "/v/a", "/v/b", "/v/a/c", "/w", "/w/a"];
const GLOBS: [&str; 7] = ["/v", "/v/*", "/v/**", "/**", "/*/a", "/**/a", "/w/a*"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const USERS: [&str; 3] = ["alice", "bob", "eve"];

/// The credentials, where each may go, and the one set.
const CREDENTIALS: [(&str, &[&str]); 4] = [
    ("k1", &["https://x.test"]),
    ("k2", &["https://x.test", "https://a.x.test:8443"]),
    ("k3", &["https://*.x.test"]),
    ("k4", &["https://a.y.test"]),
];
const SET: (&str, [&str; 2]) = ("both", ["k1", "k3"]);

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    organisation: bool,
    deny: bool,
    shadow: bool,
    agents: Vec<&'static str>,
    /// A team and an environment that an agent has to have, in place of one of the names.
    labelled: Vec<(Option<&'static str>, Option<&'static str>)>,
    to: Option<Vec<(&'static str, &'static str, u16)>>,
    methods: Option<Vec<&'static str>>,
    websocket: Option<bool>,
    paths: Option<Vec<&'static str>>,
    state: Option<Vec<&'static str>>,
    users: Option<Vec<&'static str>>,
    when: Option<(i64, i64)>,
    uses: Vec<&'static str>,
    opaque: bool,
    always: bool,
}

struct Question {
    agent: &'static str,
    team: Option<&'static str>,
    env: Option<&'static str>,
    user: Option<&'static str>,
    connect: bool,
    scheme: &'static str,
    host: &'static str,
    port: u16,
    method: &'static str,
    socket: bool,
    path: &'static str,
    states: Vec<&'static str>,
    refers: Option<&'static str>,
    at: i64,
}

fn rule(dice: &mut Dice, name: String) -> Rule {
    let organisation = dice.once_in(4);
    let deny = dice.once_in(5);
    let opaque = !deny && dice.once_in(4);
    let mut uses = Vec::new();
    if !opaque && dice.once_in(2) {
        uses = if dice.once_in(4) {
            vec!["*"]
        } else {
            dice.some(&["k1", "k2", "k3", "k4", "both"], 2)
        };
    }
    let schemes: &[&str] = if uses.is_empty() { &["https", "https", "http"] } else { &["https"] };
    let places = |dice: &mut Dice| -> Vec<(&'static str, &'static str, u16)> {
        (0..=dice.below(2))
            .map(|_| {
                let scheme = if dice.below(schemes.len()) == 2 { "http" } else { "https" };
                (scheme, dice.one(&PATTERNS), dice.one(&PORTS))
            })
            .collect()
    };
    let to = (uses.is_empty() || dice.once_in(2)).then(|| places(dice));
    let inside = !opaque;
    let anyone = dice.once_in(3);
    let labelled = if !anyone && dice.once_in(3) {
        (0..=dice.below(2))
            .map(|_| match dice.below(3) {
                0 => (Some(dice.one(&TEAMS)), None),
                1 => (None, Some(dice.one(&ENV_PATTERNS))),
                _ => (Some(dice.one(&TEAMS)), Some(dice.one(&ENV_PATTERNS))),
            })
            .collect()
    } else {
        Vec::new()
    };
    let nobody = !labelled.is_empty() && dice.once_in(2);
    Rule {
        name,
        labelled,
        organisation,
        deny,
        shadow: dice.once_in(6),
        agents: match (anyone, nobody) {
            (true, _) => vec!["*"],
            (false, true) => Vec::new(),
            (false, false) => dice.some(&AGENTS, 2),
        },
        to,
        methods: (inside && dice.once_in(3)).then(|| dice.some(&METHODS, 2)),
        websocket: (inside && !deny && dice.once_in(4)).then(|| dice.once_in(2)),
        paths: (inside && dice.once_in(2)).then(|| dice.some(&GLOBS, 2)),
        state: (inside && dice.once_in(5)).then(|| dice.some(&["open", "draft", "done"], 2)),
        users: (!deny && dice.once_in(5)).then(|| dice.some(&USERS, 2)),
        when: dice.once_in(4).then(|| {
            let first = i64::try_from(dice.below(60)).unwrap();
            (first, first + i64::try_from(dice.below(60)).unwrap())
        }),
        always: !deny && !organisation && !uses.is_empty() && dice.once_in(4),
        uses,
        opaque,
    }
}

fn question(dice: &mut Dice) -> Question {
    let connect = dice.once_in(5);
    Question {
        agent: dice.one(&AGENTS),
        team: dice.once_in(2).then(|| dice.one(&TEAMS)),
        env: dice.once_in(2).then(|| dice.one(&ENVS)),
        user: dice.once_in(2).then(|| dice.one(&USERS)),
        connect,
        scheme: if !connect && dice.once_in(6) { "http" } else { "https" },
        host: dice.one(&HOSTS),
        port: dice.one(&PORTS),
        method: dice.one(&METHODS),
        socket: !connect && dice.once_in(6),
        path: dice.one(&PATHS),
        states: if dice.once_in(3) { dice.some(&["open", "draft", "done"], 2) } else { Vec::new() },
        refers: (!connect && dice.once_in(2)).then(|| dice.one(&["k1", "k2", "k3", "k4"])),
        at: i64::try_from(dice.below(120)).unwrap(),
    }
}

fn moment(second: i64) -> String {
    format!("1970-01-01T00:{:02}:{:02}Z", second / 60, second % 60)
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    format!("[{}]", words.join(", "))
}

fn yaml(rule: &Rule) -> String {
    let mut agents: Vec<String> = rule.agents.iter().map(|name| format!("'{name}'")).collect();
    for (team, env) in &rule.labelled {
        let team = team.map(|team| format!("team: {team}"));
        let env = env.map(|env| format!("env: '{env}'"));
        let labels: Vec<String> = team.into_iter().chain(env).collect();
        agents.push(format!("{{labels: {{{}}}}}", labels.join(", ")));
    }
    let agents = agents.join(", ");
    let mut text = format!("  - name: {}\n    agents: [{agents}]\n", rule.name);
    let mut key = |key: &str, value: String| text += &format!("    {key}: {value}\n");
    if rule.deny {
        key("deny", "true".into());
    }
    if rule.shadow {
        key("mode", "shadow".into());
    }
    if let Some(to) = &rule.to {
        let to: Vec<String> = to.iter().map(|(s, h, p)| format!("{s}://{h}:{p}")).collect();
        key("to", quoted(&to.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    for (name, list) in [("methods", &rule.methods), ("paths", &rule.paths), ("users", &rule.users)]
    {
        if let Some(list) = list {
            key(name, quoted(list));
        }
    }
    if let Some(state) = &rule.state {
        key("query", format!("{{state: {}}}", quoted(state)));
    }
    if let Some((first, last)) = rule.when {
        key("when", format!("{{not_before: '{}', not_after: '{}'}}", moment(first), moment(last)));
    }
    if !rule.uses.is_empty() {
        key("use", quoted(&rule.uses));
    }
    if let Some(allow) = rule.websocket {
        key("websocket", if allow { "allow" } else { "refuse" }.into());
    }
    if rule.opaque {
        key("tunnel", "opaque".into());
    }
    if rule.always {
        key("inject", "always".into());
    }
    // What says how a permitted request is sent changes no decision.
    if !rule.deny && !rule.opaque && rule.name.ends_with(['0', '2', '4']) {
        key("limits", "{requests: 1000000/s, queue: {size: 1, wait: 1s}}".into());
        if !rule.organisation {
            key("retry", "{attempts: 3, on: [connect, 503], budget: 1%}".into());
        }
    }
    text
}

// The reference. From here on nothing is clever.

fn labels_match(pattern: &[&str], labels: &[&str]) -> bool {
    match (pattern, labels) {
        ([], []) => true,
        ([], _) | (_, []) => false,
        (["**", rest @ ..], [_, more @ ..]) => {
            labels_match(rest, more) || labels_match(pattern, more)
        }
        ([first, rest @ ..], [label, more @ ..]) => {
            (*first == "*" || first == label) && labels_match(rest, more)
        }
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let labels = |text| str::split(text, '.').collect::<Vec<&str>>();
    pattern == "*" || labels_match(&labels(pattern), &labels(host))
}

fn segment_matches(pattern: &str, segment: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == segment,
        Some(("", "")) => !segment.is_empty(),
        Some((start, end)) => {
            segment.len() >= start.len() + end.len()
                && segment.starts_with(start)
                && segment.ends_with(end)
        }
    }
}

fn path_matches(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => {
            path_matches(rest, path) || (!path.is_empty() && path_matches(pattern, &path[1..]))
        }
        ([first, rest @ ..], [segment, more @ ..]) => {
            segment_matches(first, segment) && path_matches(rest, more)
        }
        _ => false,
    }
}

fn credential_reaches(name: &str, scheme: &str, host: &str, port: u16) -> bool {
    let (_, destinations) = CREDENTIALS.iter().find(|(other, _)| *other == name).unwrap();
    destinations.iter().any(|destination| {
        let rest = destination.strip_prefix("https://").unwrap();
        let (pattern, wanted) = rest.split_once(':').unwrap_or((rest, "443"));
        scheme == "https" && wanted == port.to_string() && host_matches(pattern, host)
    })
}

/// The credentials that a rule grants, sets opened.
fn granted(rule: &Rule) -> Vec<&'static str> {
    let mut all: Vec<&str> = Vec::new();
    for name in &rule.uses {
        match *name {
            "*" => all.extend(CREDENTIALS.map(|(name, _)| name)),
            name if name == SET.0 => all.extend(SET.1),
            name => all.push(name),
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Agent, destination, user and time: what can be seen of a tunnel, too.
fn concerns(rule: &Rule, q: &Question, scheme: &str) -> bool {
    let labelled = rule.labelled.iter().any(|(team, env)| {
        let team = team.is_none_or(|team| q.team == Some(team));
        let env = env.is_none_or(|pattern| match (pattern.strip_suffix('*'), q.env) {
            (_, None) => false,
            (Some(start), Some(env)) => env.starts_with(start),
            (None, Some(env)) => env == pattern,
        });
        team && env
    });
    let agent = rule.agents.contains(&"*") || rule.agents.contains(&q.agent) || labelled;
    let place = match &rule.to {
        Some(to) => {
            to.iter().any(|(s, h, p)| *s == scheme && *p == q.port && host_matches(h, q.host))
        }
        None => granted(rule).iter().any(|name| credential_reaches(name, scheme, q.host, q.port)),
    };
    let user = rule.users.as_ref().is_none_or(|users| q.user.is_some_and(|u| users.contains(&u)));
    let time = rule.when.is_none_or(|(first, last)| first <= q.at && q.at <= last);
    agent && place && user && time
}

fn matches(rule: &Rule, q: &Question) -> bool {
    let lists = |method| rule.methods.as_ref().is_none_or(|methods| methods.contains(&method));
    let method = match (q.socket, rule.deny) {
        (false, _) => lists(q.method),
        (true, true) => lists("GET"),
        (true, false) => rule.websocket.unwrap_or(rule.methods.is_none()),
    };
    let segments = |path: &'static str| path[1..].split('/').collect::<Vec<_>>();
    let path = rule.paths.as_ref().is_none_or(|globs| {
        globs.iter().any(|glob| path_matches(&segments(glob), &segments(q.path)))
    });
    let query = rule.state.as_ref().is_none_or(|wanted| {
        let mut states = q.states.iter();
        if rule.deny {
            return states.any(|state| wanted.contains(state));
        }
        !q.states.is_empty() && states.all(|state| wanted.contains(state))
    });
    concerns(rule, q, q.scheme) && method && path && query
}

fn refuse(code: Code) -> Answer {
    Answer::Refuse(code, None)
}

fn denied(code: Code, rule: &Rule) -> Answer {
    Answer::Refuse(code, Some(rule.name.as_str().into()))
}

fn decide(rules: &[Rule], q: &Question) -> Answer {
    let in_force: Vec<&Rule> = rules.iter().filter(|rule| !rule.shadow).collect();
    let bounded = in_force.iter().any(|rule| rule.organisation && !rule.deny);
    if q.connect {
        return tunnel(&in_force, bounded, q);
    }
    let matching: Vec<&Rule> = in_force.into_iter().filter(|rule| matches(rule, q)).collect();
    let problem = match q.refers {
        Some(_) if q.scheme == "http" => Some(Code::Plaintext),
        Some(name) if !credential_reaches(name, q.scheme, q.host, q.port) => {
            Some(Code::CredentialRefused)
        }
        _ => None,
    };
    let refers = q.refers.filter(|_| problem.is_none());
    if let Some(rule) = matching.iter().find(|rule| rule.deny && rule.uses.is_empty()) {
        return denied(Code::NotAllowed, rule);
    }
    let allowing = |organisation: bool| {
        matching.iter().copied().filter(move |r| !r.deny && r.organisation == organisation)
    };
    let Some(first) = allowing(false).next() else { return refuse(Code::NotAllowed) };
    let bound_here = |rule: &Rule| {
        let reaches = |name: &&str| credential_reaches(name, q.scheme, q.host, q.port);
        granted(rule).into_iter().find(|name| reaches(name))
    };
    let (decided, entering) = match refers {
        Some(name) => match allowing(false).find(|rule| granted(rule).contains(&name)) {
            Some(rule) => (rule, Some(name)),
            None => return refuse(Code::CredentialRefused),
        },
        // All of them use one slot, so the first by name alone enters.
        None => match allowing(false).find(|rule| rule.always && bound_here(rule).is_some()) {
            Some(rule) => (rule, bound_here(rule)),
            None => (first, None),
        },
    };
    let forbids =
        |rule: &&&Rule| rule.deny && entering.is_some_and(|name| granted(rule).contains(&name));
    if let Some(rule) = matching.iter().find(forbids) {
        return denied(Code::CredentialRefused, rule);
    }
    if bounded && allowing(true).next().is_none() {
        return refuse(Code::NotAllowed);
    }
    if let Some(name) = entering.filter(|_| bounded)
        && !allowing(true).any(|rule| granted(rule).contains(&name))
    {
        return refuse(Code::CredentialRefused);
    }
    problem.map_or_else(|| Answer::Allow(decided.name.as_str().into()), refuse)
}

fn tunnel(in_force: &[&Rule], bounded: bool, q: &Question) -> Answer {
    if CREDENTIALS.iter().any(|(name, _)| credential_reaches(name, "https", q.host, q.port)) {
        return Answer::Intercept;
    }
    let mut opaque: Vec<&&Rule> = Vec::new();
    for scheme in ["https", "http"] {
        opaque.extend(in_force.iter().filter(|rule| concerns(rule, q, scheme)));
    }
    if opaque.iter().any(|rule| rule.deny || !rule.opaque) {
        return Answer::Intercept;
    }
    if bounded && !opaque.iter().any(|rule| rule.organisation) {
        return Answer::Intercept;
    }
    let own = opaque.iter().find(|rule| !rule.organisation);
    own.map_or(Answer::Intercept, |rule| Answer::Opaque(rule.name.as_str().into()))
}

fn labels(q: &Question) -> Labels {
    let pairs = [("team", q.team), ("env", q.env)].into_iter();
    let pairs = pairs.filter_map(|(name, value)| Some((name.parse().unwrap(), value?)));
    Labels::new(pairs.map(|(name, value)| (name, value.parse().unwrap()))).unwrap()
}

fn inquiry(q: &Question) -> Inquiry {
    let user = q.user.map(|user| format!("+user={user}")).unwrap_or_default();
    let query: Vec<String> = q.states.iter().map(|state| format!("state={state}")).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let wish = match (q.connect, q.socket) {
        (true, _) => format!("CONNECT {}:{}", q.host, q.port),
        (_, true) => format!("SOCKET {}://{}:{}{}{query}", q.scheme, q.host, q.port, q.path),
        _ => format!("{} {}://{}:{}{}{query}", q.method, q.scheme, q.host, q.port, q.path),
    };
    Inquiry {
        who: Identity {
            labels: labels(q),
            ..supposed(format!("{}{user}", q.agent).parse().unwrap()).unwrap()
        },
        wish: wish.parse().unwrap(),
        refers: q.refers.map(|name| name.parse().unwrap()),
        seen: None,
        fields: Vec::new(),
        at: q.at,
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// The rules as files, the organisation's first.
fn sources(rules: &[Rule]) -> Vec<Source> {
    let given: String =
        CREDENTIALS.iter().map(|(name, to)| format!("    {name}: {}\n", quoted(to))).collect();
    let given =
        format!("given:\n  credentials:\n{given}  sets: {{{}: {}}}\n", SET.0, quoted(&SET.1));
    let of = |organisation: bool| -> Vec<&Rule> {
        rules.iter().filter(|rule| rule.organisation == organisation).collect()
    };
    let text = |rules: &[&Rule]| rules.iter().map(|rule| yaml(rule)).collect::<String>();
    let (floor, own) = (of(true), of(false));
    let mut sources = Vec::new();
    if !floor.is_empty() {
        let text = format!("version: 1\nlayer: organisation\nrules:\n{}", text(&floor));
        sources.push(Source::new("org/floor.yaml", &text));
    }
    let rules = if own.is_empty() { String::new() } else { format!("rules:\n{}", text(&own)) };
    sources.push(Source::new("own.yaml", &format!("version: 1\n{given}{rules}")));
    sources
}

/// One change, as people make them.
fn changed(dice: &mut Dice, rules: &[Rule]) -> Vec<Rule> {
    let mut rules = rules.to_vec();
    let at = dice.below(rules.len());
    let other = rule(dice, rules[at].name.clone());
    let one = &mut rules[at];
    match dice.below(12) {
        0 => drop(rules.remove(at)),
        1 => rules.insert(at, Rule { name: "new".into(), ..other }),
        2 => rules.swap(at, 0),
        3 => *one = other,
        4 => one.agents = vec!["*"],
        5 => one.shadow = !one.shadow,
        6 => one.when = None,
        7 => one.users = None,
        8 => one.paths = None,
        9 => one.methods = None,
        10 => one.state = None,
        _ => one.to = other.to.clone().or(one.to.take()),
    }
    rules.sort_by_key(|rule| !rule.organisation);
    rules
}

/// What comes of a request, whatever the rule is called that says so.
fn outcome(answer: &Answer) -> (u8, Option<Code>) {
    match answer {
        Answer::Allow(_) => (0, None),
        Answer::Ask(_) => (1, None),
        Answer::Refuse(code, _) => (2, Some(*code)),
        Answer::Opaque(_) => (3, None),
        Answer::Intercept => (4, None),
    }
}

/// Whatever a change of the rules makes of any request, the reviewer is told of some change.
#[test]
fn a_difference_in_decisions_is_a_difference_told() {
    const EACH: u64 = 40;
    let questions = number("LOCUM_REFERENCE", 40_000);
    let seed = number("LOCUM_SEED", 1);
    let (mut differ, mut silent) = (0_u64, 0_u64);
    for round in 0..questions.div_ceil(EACH) {
        let mut dice = Dice(seed.wrapping_mul(7_000_003).wrapping_add(round));
        let count = 1 + dice.below(6);
        let mut rules: Vec<Rule> = (0..count).map(|n| rule(&mut dice, format!("r{n}"))).collect();
        rules.sort_by_key(|rule| !rule.organisation);
        let changed = changed(&mut dice, &rules);
        let [old, new] = [&rules, &changed].map(|rules| compile_all(sources(rules)));
        // A key that was taken away may leave a rule that is none.
        let (Ok(old), Ok(new)) = (old, new) else { continue };
        let index = old.given.index();
        let told = !old.policy.diff(&new.policy).is_empty();
        silent += u64::from(!told);
        for _ in 0..EACH {
            let question = question(&mut dice);
            let inquiry = inquiry(&question);
            let [before, after] =
                [&old, &new].map(|one| outcome(&inquiry.ask(&one.policy, &index)));
            if before != after {
                differ += 1;
                assert!(
                    told,
                    "seed {seed}, round {round}: {:?}: {before:?}, {after:?}\n{rules:#?}\n{changed:#?}",
                    inquiry.wish
                );
            }
        }
    }
    // Changes that change nothing, or all of them told of, would prove little.
    assert!(differ > questions / 400 && silent > questions / 40_000, "{differ} {silent}");
}

#[test]
fn the_compiled_policy_decides_as_the_reference() {
    const EACH: u64 = 40;
    let questions = number("LOCUM_REFERENCE", 40_000);
    let seed = number("LOCUM_SEED", 1);
    let mut seen = std::collections::BTreeMap::<String, u64>::new();
    for round in 0..questions.div_ceil(EACH) {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(round));
        // A few rules, and now and then many, so that each index is the shorter one somewhere.
        let most = if dice.once_in(20) { 120 } else { 9 };
        let count = 1 + dice.below(most);
        let mut rules: Vec<Rule> = (0..count).map(|n| rule(&mut dice, format!("r{n}"))).collect();
        // The organisation's files come first.
        rules.sort_by_key(|rule| !rule.organisation);
        let files = sources(&rules);
        let text = || files.iter().map(Source::text).collect::<Vec<_>>().join("\n");
        let compiled =
            compile_all(files.clone()).unwrap_or_else(|report| panic!("{report}\n{}", text()));
        let index = compiled.given.index();
        for _ in 0..EACH {
            let question = question(&mut dice);
            let inquiry = inquiry(&question);
            let (expected, answer) =
                (decide(&rules, &question), inquiry.ask(&compiled.policy, &index));
            assert_eq!(
                answer,
                expected,
                "seed {seed}, round {round}: {:?} by {:?}, {:?}, at {}\n{}",
                inquiry.wish,
                question.agent,
                question.refers,
                question.at,
                text()
            );
            let word = answer.to_string();
            *seen.entry(word.split(" `").next().unwrap().to_owned()).or_default() += 1;
        }
    }
    // Questions that only ever get one answer would prove little.
    for kind in [
        "allow, by the rule",
        "refuse, with not-allowed",
        "refuse, with not-allowed, by the rule",
        "refuse, with credential-refused",
        "refuse, with credential-refused, by the rule",
        "refuse, with plaintext-refused",
        "opaque, by the rule",
        "intercept",
    ] {
        assert!(seen.get(kind).is_some_and(|n| *n > questions / 4000), "{kind}: {seen:#?}");
    }
}

/// A rule that is much like another: at times it is inside of it, and at times by a hair not.
fn like(dice: &mut Dice, one: &Rule, name: String) -> Rule {
    let mut other = rule(dice, name.clone());
    let deny = one.deny && dice.once_in(2);
    let mut like = Rule { name, deny, shadow: false, opaque: one.opaque && !deny, ..one.clone() };
    if one.deny && !deny {
        // What a rule that denies says of the others' methods holds for one that allows.
        like.always = false;
    }
    match dice.below(8) {
        0 => like.agents = other.agents,
        1 => like.to = other.to.take().or(like.to),
        2 if !like.opaque => like.methods = other.methods,
        3 if !like.opaque => like.paths = other.paths,
        4 if !like.opaque => like.state = other.state,
        5 if !like.deny => like.users = other.users,
        6 => like.when = other.when,
        _ => {}
    }
    like
}

/// A rule that a lint says decides nothing does not decide, and one that an earlier rule eclipses can go.
#[test]
fn a_rule_that_is_said_to_decide_nothing_decides_nothing() {
    const EACH: u64 = 40;
    const NOW: i64 = 40;
    let questions = number("LOCUM_REFERENCE", 40_000);
    let seed = number("LOCUM_SEED", 1);
    let mut seen = std::collections::BTreeMap::<&str, u64>::new();
    for round in 0..questions.div_ceil(EACH) {
        let mut dice = Dice(seed.wrapping_mul(5_000_011).wrapping_add(round));
        let count = 2 + dice.below(7);
        let mut rules: Vec<Rule> = (0..count).map(|n| rule(&mut dice, format!("r{n}"))).collect();
        for copy in 0..2 {
            let one = rules[dice.below(count)].clone();
            let at = dice.below(rules.len());
            rules.insert(at, like(&mut dice, &one, format!("c{copy}")));
        }
        rules.sort_by_key(|rule| !rule.organisation);
        let files = sources(&rules);
        // A copy with other places may be none: a credential never goes over http.
        let Ok(compiled) = compile_all(files.clone()) else { continue };
        let index = compiled.given.index();
        let around = Around { now: NOW, sources: &files, index: &index, vault: None };
        for lint in compiled.policy.lint(around) {
            let (removed, idle) = match lint.kind {
                LintKind::Unreachable | LintKind::Denied => (true, true),
                LintKind::WithoutEffect | LintKind::BeyondOrganisation => (false, true),
                _ => (false, false),
            };
            let Some(one) =
                rules.iter().find(|one| lint.message.contains(&format!("rule `{}`: ", one.name)))
            else {
                continue;
            };
            *seen.entry(lint.kind.id()).or_default() += 1;
            // Without the last rule of the organisation, nothing would be bounded.
            let removed = removed && (lint.kind == LintKind::Unreachable || !one.organisation);
            let others: Vec<Rule> =
                rules.iter().filter(|other| !removed || other.name != one.name).cloned().collect();
            let without = compile_all(sources(&others)).unwrap().policy;
            for _ in 0..if idle { EACH } else { 0 } {
                let question = question(&mut dice);
                let question = Question { at: NOW + question.at, ..question };
                let inquiry = inquiry(&question);
                let answer = inquiry.ask(&compiled.policy, &index);
                let told = || {
                    let text = files.iter().map(Source::text).collect::<Vec<_>>().join("\n");
                    format!("seed {seed}, round {round}: {lint:?}: {:?}\n{text}", inquiry.wish)
                };
                assert_eq!(answer, inquiry.ask(&without, &index), "{}", told());
                let (Answer::Allow(by) | Answer::Ask(by) | Answer::Opaque(by)) = answer else {
                    continue;
                };
                assert_ne!(*by, *one.name, "{}", told());
            }
        }
    }
    for kind in [
        LintKind::Unreachable,
        LintKind::Denied,
        LintKind::WithoutEffect,
        LintKind::BeyondOrganisation,
    ] {
        assert!(seen.get(kind.id()).is_some_and(|n| *n > questions / 4000), "{kind:?}: {seen:#?}");
    }
}
