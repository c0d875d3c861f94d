//! Random rules and questions, and the rules as files: everything that a rule can be particular about, and
//! questions that stand right at its borders.

use locum::agent::{Identity, Labels};
use locum::document::Source;
use locum::policy::{Inquiry, supposed};

/// Numbers that look random, and are the same for the same seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).unwrap()
    }

    /// Once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub fn some<T: Copy>(&mut self, of: &[T], most: usize) -> Vec<T> {
        (0..=self.below(most)).map(|_| self.one(of)).collect()
    }
}

pub const AGENTS: [&str; 6] = ["a", "b", "c", "d", "e", "crew"];
/// Agents and groups, as rules name them. `crew` is an agent too, whom no rule of the workspace can name;
/// `far` is a group of the organisation alone, and `near` one of the workspace alone.
const NAMED: [&str; 9] = ["a", "b", "c", "d", "e", "crew", "staff", "far", "near"];
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
/// What origins read in more than one way, and what they read in no way.
const ODD: [&str; 27] = [
    "/v/../w",
    "/v/%2e%2e/w",
    "/v/%252e%252e/w",
    "/v/..%2fw",
    "/v%2Fa",
    "/v%2fa/c",
    "/v/./a",
    "/v//a",
    "//v/a",
    "/v/a;x",
    "/v;x/a",
    "/v/..;/w",
    "/v\\a",
    "/v/..\\w",
    "/v/%61",
    "/v/a/",
    "/v/a/.",
    "/v/a/..",
    "/w/%2561",
    "/v/%5ca",
    "/v/a%20",
    "/v/a%3fb",
    "/v./a.",
    "/w%23/a",
    "/v/..%20/w",
    "/w/%25252525252e",
    "/v/a%00",
];
const GLOBS: [&str; 12] = [
    "/v", "/v/*", "/v/**", "/**", "/*/a", "/**/a", "/w/a*", "/v/a", "/w", "/v%2Fa", "/v/../w",
    "/v/*/",
];
const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "HEAD"];
const OVERRIDES: [(&str, &str); 6] = [
    ("x-http-method-override", "DELETE"),
    ("x-http-method-override", "post"),
    ("x-method-override", "GET"),
    ("x-http-method", "TRACE"),
    ("x_http_method_override", "DELETE"),
    ("x-http-method-override", "no method"),
];
const USERS: [&str; 3] = ["alice", "bob", "eve"];
const USER_PATTERNS: [&str; 4] = ["alice", "bob", "*e", "eve"];
const RUNS: [&str; 3] = ["42", "nightly-1", "nightly-2"];
const RUN_PATTERNS: [&str; 3] = ["42", "nightly-*", "*1"];
const STATES: [&str; 3] = ["open", "draft", "done"];
const KINDS: [&str; 5] = ["one", "two", "one, two", "one,three", "three"];
const KIND_PATTERNS: [&str; 4] = ["one", "two", "t*", "*"];
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const HOURS: [(u16, u16); 6] =
    [(480, 1080), (1320, 360), (120, 180), (0, 1440), (1410, 30), (570, 600)];
/// Summer time in two hemispheres' worth of rules, half an hour, and none.
pub const ZONES: [&str; 4] = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"];
/// Midnights (UTC) of days that matter: an ordinary Monday, the days on which clocks are set in Berlin and
/// in New York, and a new year.
const MIDNIGHTS: [i64; 6] =
    [1_767_571_200, 1_774_742_400, 1_792_886_400, 1_772_928_000, 1_793_491_200, 1_767_225_600];

/// The credentials, where each may go, and the one set.
pub const CREDENTIALS: [(&str, &[&str]); 4] = [
    ("k1", &["https://x.test"]),
    ("k2", &["https://x.test", "https://a.x.test:8443"]),
    ("k3", &["https://*.x.test"]),
    ("k4", &["https://a.y.test"]),
];
pub const SET: (&str, [&str; 2]) = ("both", ["k1", "k3"]);

/// A member of a group: an agent, or those of a team.
#[derive(Clone, Copy, Debug)]
pub enum Member {
    Agent(&'static str),
    Team(&'static str),
}

/// The groups of the organisation, and those of the workspace.
pub const GROUPS: [&[(&str, &[Member])]; 2] = [
    &[("staff", &[Member::Agent("a"), Member::Agent("d")]), ("far", &[Member::Team("ops")])],
    &[
        ("staff", &[Member::Agent("b"), Member::Team("web")]),
        ("near", &[Member::Agent("c"), Member::Agent("e")]),
        ("crew", &[Member::Agent("a"), Member::Agent("e")]),
    ],
];

#[derive(Clone, Debug)]
pub struct When {
    /// Rows of days, each from the first to the last.
    pub days: Option<Vec<(usize, usize)>>,
    /// In minutes.
    pub hours: Option<Vec<(u16, u16)>>,
    pub zone: Option<&'static str>,
    pub first: Option<i64>,
    pub last: Option<i64>,
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub organisation: bool,
    pub deny: bool,
    pub shadow: bool,
    pub agents: Vec<&'static str>,
    /// A team and an environment that an agent has to have, in place of one of the names.
    pub labelled: Vec<(Option<&'static str>, Option<&'static str>)>,
    pub to: Option<Vec<(&'static str, &'static str, u16)>>,
    pub methods: Option<Vec<&'static str>>,
    pub websocket: Option<bool>,
    pub paths: Option<Vec<&'static str>>,
    pub state: Option<Vec<&'static str>>,
    pub kind: Option<Vec<&'static str>>,
    pub users: Option<Vec<&'static str>>,
    pub runs: Option<Vec<&'static str>>,
    pub when: Option<When>,
    pub uses: Vec<&'static str>,
    pub opaque: bool,
    pub always: bool,
    pub asks: bool,
}

#[derive(Clone, Debug)]
pub struct Question {
    pub agent: &'static str,
    pub team: Option<&'static str>,
    pub env: Option<&'static str>,
    pub user: Option<&'static str>,
    pub run: Option<&'static str>,
    pub connect: bool,
    pub scheme: &'static str,
    pub host: &'static str,
    pub port: u16,
    pub method: &'static str,
    pub socket: bool,
    pub path: &'static str,
    pub states: Vec<&'static str>,
    /// Lines of the one field that rules ask for.
    pub kinds: Vec<&'static str>,
    /// A field by which another method is asked for.
    pub instead: Option<(&'static str, &'static str)>,
    pub refers: Option<&'static str>,
    pub at: i64,
}

/// A second at, before or after a full or half hour of a day that matters.
fn second(dice: &mut Dice) -> i64 {
    let half_hours = i64::try_from(dice.below(96)).unwrap() - 24;
    dice.one(&MIDNIGHTS) + half_hours * 1800 + dice.one(&[-1, 0, 0, 1])
}

fn when(dice: &mut Dice) -> When {
    let local = !dice.once_in(3);
    let both = !local || dice.once_in(2);
    let days = (local && dice.once_in(2))
        .then(|| (0..=dice.below(2)).map(|_| (dice.below(7), dice.below(7))).collect::<Vec<_>>());
    let hours = (local && (days.is_none() || dice.once_in(2))).then(|| dice.some(&HOURS, 2));
    let (one, other) = (second(dice), second(dice));
    When {
        days,
        hours,
        zone: local.then(|| dice.one(&ZONES)),
        first: (both && dice.once_in(2)).then(|| one.min(other)),
        last: both.then(|| one.max(other)),
    }
}

fn labelled(dice: &mut Dice) -> Vec<(Option<&'static str>, Option<&'static str>)> {
    let one = |dice: &mut Dice| match dice.below(3) {
        0 => (Some(dice.one(&TEAMS)), None),
        1 => (None, Some(dice.one(&ENV_PATTERNS))),
        _ => (Some(dice.one(&TEAMS)), Some(dice.one(&ENV_PATTERNS))),
    };
    (0..=dice.below(2)).map(|_| one(dice)).collect()
}

pub fn rule(dice: &mut Dice, name: String) -> Rule {
    let organisation = dice.once_in(4);
    let deny = dice.once_in(5);
    let opaque = !deny && dice.once_in(4);
    let mut uses = Vec::new();
    if !opaque && dice.once_in(2) {
        let some = ["k1", "k2", "k3", "k4", "both"];
        uses = if dice.once_in(4) { vec!["*"] } else { dice.some(&some, 2) };
    }
    let in_the_clear = uses.is_empty();
    let places = |dice: &mut Dice| -> Vec<(&'static str, &'static str, u16)> {
        let place = |dice: &mut Dice| {
            let scheme = if in_the_clear && dice.once_in(3) { "http" } else { "https" };
            (scheme, dice.one(&PATTERNS), dice.one(&PORTS))
        };
        (0..=dice.below(2)).map(|_| place(dice)).collect()
    };
    let to = (uses.is_empty() || dice.once_in(2)).then(|| places(dice));
    let inside = !opaque;
    let anyone = dice.once_in(2);
    let labelled = if !anyone && dice.once_in(3) { labelled(dice) } else { Vec::new() };
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
            (false, false) => dice.some(&NAMED, 3),
        },
        to,
        methods: (inside && dice.once_in(4)).then(|| dice.some(&METHODS, 2)),
        websocket: (inside && !deny && dice.once_in(4)).then(|| dice.once_in(2)),
        paths: (inside && dice.once_in(2)).then(|| dice.some(&GLOBS, 2)),
        state: (inside && dice.once_in(8)).then(|| dice.some(&STATES, 2)),
        kind: (inside && dice.once_in(8)).then(|| dice.some(&KIND_PATTERNS, 2)),
        users: (!deny && dice.once_in(8)).then(|| dice.some(&USER_PATTERNS, 2)),
        runs: (!deny && dice.once_in(10)).then(|| dice.some(&RUN_PATTERNS, 2)),
        when: dice.once_in(5).then(|| when(dice)),
        always: !deny && !organisation && !uses.is_empty() && dice.once_in(4),
        asks: inside && !deny && dice.once_in(8),
        uses,
        opaque,
    }
}

/// Some rules, the organisation's first; in half of all policies those bound nothing.
pub fn policy(dice: &mut Dice, count: usize) -> Vec<Rule> {
    let bounded = dice.once_in(2);
    let mut rules: Vec<Rule> = (0..count).map(|n| rule(dice, format!("r{n}"))).collect();
    for rule in &mut rules {
        rule.organisation &= bounded || rule.deny;
    }
    rules.sort_by_key(|rule| !rule.organisation);
    rules
}

/// A rule that is much like another: at times it is inside of it, and at times by a hair not.
pub fn like(dice: &mut Dice, one: &Rule, name: String) -> Rule {
    let mut other = rule(dice, name.clone());
    let deny = one.deny && dice.once_in(2);
    let mut like = Rule { name, deny, shadow: false, ..one.clone() };
    match dice.below(10) {
        0 => like.agents = other.agents,
        1 => like.to = other.to.take().or(like.to),
        2 if !like.opaque => like.methods = other.methods,
        3 if !like.opaque => like.paths = other.paths,
        4 if !like.opaque => like.state = other.state,
        5 if !like.opaque => like.kind = other.kind,
        6 if !like.deny => like.users = other.users,
        7 if !like.deny => like.runs = other.runs,
        8 => like.when = other.when,
        _ => {}
    }
    like
}

/// One change, as people make them.
pub fn changed(dice: &mut Dice, rules: &[Rule]) -> Vec<Rule> {
    let mut rules = rules.to_vec();
    let at = dice.below(rules.len());
    let other = rule(dice, rules[at].name.clone());
    let one = &mut rules[at];
    match dice.below(15) {
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
        11 => one.kind = None,
        12 => one.runs = None,
        13 => one.asks = false,
        _ => one.to = other.to.clone().or(one.to.take()),
    }
    rules.sort_by_key(|rule| !rule.organisation);
    rules
}

pub fn question(dice: &mut Dice) -> Question {
    let connect = dice.once_in(5);
    let socket = !connect && dice.once_in(6);
    let method = if dice.once_in(40) { "TRACE" } else { dice.one(&METHODS) };
    Question {
        agent: dice.one(&AGENTS),
        team: dice.once_in(2).then(|| dice.one(&TEAMS)),
        env: dice.once_in(2).then(|| dice.one(&ENVS)),
        user: dice.once_in(2).then(|| dice.one(&USERS)),
        run: dice.once_in(2).then(|| dice.one(&RUNS)),
        connect,
        scheme: if !connect && dice.once_in(6) { "http" } else { "https" },
        host: dice.one(&HOSTS),
        port: dice.one(&PORTS),
        method: if socket { "GET" } else { method },
        socket,
        path: if dice.once_in(3) { dice.one(&ODD) } else { dice.one(&PATHS) },
        states: if dice.once_in(3) { dice.some(&STATES, 2) } else { Vec::new() },
        kinds: if dice.once_in(3) { dice.some(&KINDS, 2) } else { Vec::new() },
        instead: (!connect && dice.once_in(12)).then(|| dice.one(&OVERRIDES)),
        refers: (!connect && dice.once_in(2)).then(|| dice.one(&["k1", "k2", "k3", "k4"])),
        at: second(dice),
    }
}

fn moment(second: i64) -> String {
    jiff::Timestamp::from_second(second).unwrap().to_string()
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    format!("[{}]", words.join(", "))
}

fn times(when: &When) -> String {
    let mut keys = Vec::new();
    if let Some(days) = &when.days {
        let rows = days.iter().map(|(first, last)| format!("{}-{}", DAYS[*first], DAYS[*last]));
        keys.push(format!("days: [{}]", rows.collect::<Vec<_>>().join(", ")));
    }
    if let Some(hours) = &when.hours {
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        let rows = hours.iter().map(|(from, to)| format!("'{}-{}'", clock(*from), clock(*to)));
        keys.push(format!("hours: [{}]", rows.collect::<Vec<_>>().join(", ")));
    }
    keys.extend(when.zone.map(|zone| format!("zone: {zone}")));
    keys.extend(when.first.map(|first| format!("not_before: '{}'", moment(first))));
    keys.extend(when.last.map(|last| format!("not_after: '{}'", moment(last))));
    format!("{{{}}}", keys.join(", "))
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
    let lists = [
        ("methods", &rule.methods),
        ("paths", &rule.paths),
        ("users", &rule.users),
        ("runs", &rule.runs),
    ];
    for (name, list) in lists {
        if let Some(list) = list {
            key(name, quoted(list));
        }
    }
    if let Some(state) = &rule.state {
        key("query", format!("{{state: {}}}", quoted(state)));
    }
    if let Some(kind) = &rule.kind {
        key("headers", format!("{{X-Kind: {}}}", quoted(kind)));
    }
    if let Some(when) = &rule.when {
        key("when", times(when));
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
    if rule.asks && !rule.deny {
        key("approval", "{answer: refuse}".into());
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

fn groups(of: &[(&str, &[Member])]) -> String {
    let member = |member: &Member| match member {
        Member::Agent(name) => (*name).to_owned(),
        Member::Team(team) => format!("{{labels: {{team: {team}}}}}"),
    };
    let group = |(name, members): &(&str, &[Member])| {
        let members: Vec<String> = members.iter().map(member).collect();
        format!("  {name}: [{}]\n", members.join(", "))
    };
    format!("groups:\n{}", of.iter().map(group).collect::<String>())
}

/// The rules as files, the organisation's first.
pub fn sources(rules: &[Rule]) -> Vec<Source> {
    let given: String =
        CREDENTIALS.iter().map(|(name, to)| format!("    {name}: {}\n", quoted(to))).collect();
    let given =
        format!("given:\n  credentials:\n{given}  sets: {{{}: {}}}\n", SET.0, quoted(&SET.1));
    let of = |organisation: bool| -> String {
        let rules = rules.iter().filter(|rule| rule.organisation == organisation);
        let rules: String = rules.map(yaml).collect();
        if rules.is_empty() { rules } else { format!("rules:\n{rules}") }
    };
    let [floor, own] = GROUPS.map(groups);
    let floor = format!("version: 1\nlayer: organisation\n{floor}{}", of(true));
    let own = format!("version: 1\n{own}{given}{}", of(false));
    vec![Source::new("org/floor.yaml", &floor), Source::new("own.yaml", &own)]
}

fn labels(q: &Question) -> Labels {
    let pairs = [("team", q.team), ("env", q.env)].into_iter();
    let pairs = pairs.filter_map(|(name, value)| Some((name.parse().unwrap(), value?)));
    Labels::new(pairs.map(|(name, value)| (name, value.parse().unwrap()))).unwrap()
}

pub fn inquiry(q: &Question) -> Inquiry {
    let user = q.user.map(|user| format!("+user={user}")).unwrap_or_default();
    let run = q.run.map(|run| format!("+run={run}")).unwrap_or_default();
    let query: Vec<String> = q.states.iter().map(|state| format!("state={state}")).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let wish = match (q.connect, q.socket) {
        (true, _) => format!("CONNECT {}:{}", q.host, q.port),
        (_, true) => format!("SOCKET {}://{}:{}{}{query}", q.scheme, q.host, q.port, q.path),
        _ => format!("{} {}://{}:{}{}{query}", q.method, q.scheme, q.host, q.port, q.path),
    };
    let kinds = q.kinds.iter().map(|kind| ("x-kind", *kind));
    let fields = kinds.chain(q.instead).map(|(name, value)| {
        (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
    });
    Inquiry {
        who: Identity {
            labels: labels(q),
            ..supposed(format!("{}{run}{user}", q.agent).parse().unwrap()).unwrap()
        },
        wish: wish.parse().unwrap(),
        refers: q.refers.map(|name| name.parse().unwrap()),
        seen: None,
        fields: fields.collect(),
        at: q.at,
    }
}
