//! What was typed: one policy file as a tree of values, checked piece by piece and not yet against
//! the other files.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, Method};

use super::Timeouts;
use super::approval::{Approval, read_approval};
use super::capture::Capture;
use super::cases::{Case, Given, read_case, read_given};
use super::conditions::{Conditions, Wanted, is_fit};
use super::limits::{Limits, Per, Queue, Rate};
use super::path::PathPattern;
use super::retry::{Retry, read_retry};
use super::rule::{Choice, Uses};
use super::text::TextPattern;
use super::when::{Days, EVERY_DAY, When, WhenError, first_moment, moment, zone};
use crate::agent::LabelName;
use crate::credential::Pointer;
use crate::document::{Key, Map, Node, Reader, Value};
use crate::host::Destination;
use crate::reference::Name;
use crate::scrub::{Minted, Undecodable};

pub(super) const TOP_KEYS: &[&str] =
    &["version", "layer", "groups", "parts", "rules", "given", "tests"];

/// The keys that a part may have: what a rule may be particular about, and what comes of it. Whom a
/// rule is for, and that it denies, stands in the rule itself.
pub(super) const PART_KEYS: &[&str] = &[
    "to",
    "methods",
    "paths",
    "query",
    "headers",
    "users",
    "runs",
    "when",
    "use",
    "tunnel",
    "inject",
    "misplaced",
    "scrub",
    "capture",
    "timeouts",
    "retry",
    "websocket",
    "limits",
    "approval",
    "on_withdrawal",
    "anomalies",
];

pub(super) const RULE_KEYS: &[&str] = &[
    "name",
    "agents",
    "with",
    "deny",
    "mode",
    "to",
    "methods",
    "paths",
    "query",
    "headers",
    "users",
    "runs",
    "when",
    "use",
    "tunnel",
    "inject",
    "misplaced",
    "scrub",
    "capture",
    "timeouts",
    "retry",
    "websocket",
    "limits",
    "approval",
    "on_withdrawal",
    "anomalies",
];

pub(super) const CHOICE_KEYS: &[&str] = &["labels"];
pub(super) const WHEN_KEYS: &[&str] = &["days", "hours", "zone", "not_before", "not_after"];
pub(super) const CAPTURE_KEYS: &[&str] = &["json", "form", "header", "as"];
pub(super) const SCRUB_KEYS: &[&str] = &["undecodable"];
pub(super) const TIMEOUT_KEYS: &[&str] = &["response", "idle"];
pub(super) const LIMIT_KEYS: &[&str] = &["requests", "concurrent", "bytes", "per", "queue"];
pub(super) const QUEUE_KEYS: &[&str] = &["size", "wait"];

/// The range of `upstream.timeouts` in `locum.yaml`: shorter is no network, longer is forgotten.
const WAIT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);

/// Requests at once: more is none, for a process has not as many files.
const AT_ONCE: RangeInclusive<u32> = 1..=1_000_000;

/// Requests of one agent that wait: each holds its connection and its head, 20 KiB or so.
const QUEUED: RangeInclusive<u32> = 1..=10_000;

/// How long one waits: shorter is not at all, longer no client bears.
const QUEUES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(10);

/// One file.
pub(super) struct Drafts<'d> {
    /// The organisation's, and where it says so.
    pub(super) organisation: Option<&'d Node>,
    pub(super) groups: Vec<(&'d Key, Vec<Member>)>,
    pub(super) parts: Vec<(&'d Key, Fields)>,
    pub(super) rules: Vec<Draft<'d>>,
    pub(super) given: Given,
    pub(super) cases: Vec<(Case, &'d Node)>,
}

/// A rule as typed.
pub(super) struct Draft<'d> {
    /// All of it, to find the places of its keys.
    pub(super) node: &'d Node,
    pub(super) name: (&'d str, &'d Node),
    pub(super) agents: Vec<Meant<'d>>,
    pub(super) with: Vec<(&'d str, &'d Node)>,
    pub(super) deny: bool,
    pub(super) shadow: bool,
    pub(super) fields: Fields,
}

/// An entry of `agents`.
pub(super) enum Meant<'d> {
    /// An agent, a group or `*`.
    Named(&'d str, &'d Node),
    /// Agents by their labels.
    Labelled(Choice),
}

/// A member of a group.
#[derive(Clone)]
pub(super) enum Member {
    /// An agent.
    Named(Name),
    /// Agents by their labels.
    Labelled(Choice),
}

/// What a rule and a part have in common; none of what is not there.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pub(super) to: Option<Vec<Destination>>,
    pub(super) methods: Option<Vec<Method>>,
    pub(super) paths: Option<Vec<PathPattern>>,
    pub(super) query: Option<Vec<Wanted<Box<str>>>>,
    pub(super) headers: Option<Vec<Wanted<HeaderName>>>,
    pub(super) users: Option<Vec<TextPattern>>,
    pub(super) runs: Option<Vec<TextPattern>>,
    pub(super) when: Option<Box<When>>,
    pub(super) uses: Option<Uses>,
    pub(super) opaque: Option<bool>,
    pub(super) always: Option<bool>,
    pub(super) refuse_misplaced: Option<bool>,
    pub(super) scrub: Option<Undecodable>,
    pub(super) captures: Option<Vec<Capture>>,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) retry: Option<Retry>,
    pub(super) websocket: Option<bool>,
    pub(super) limits: Option<Limits>,
    pub(super) approval: Option<Approval>,
    pub(super) cut: Option<bool>,
    pub(super) refuse_unusual: Option<bool>,
}

impl Fields {
    /// Takes over what a part has. Returns the keys that both have: silently, neither wins.
    pub(super) fn merge(&mut self, part: &Self) -> Vec<&'static str> {
        let mut twice = Vec::new();
        macro_rules! take {
            ($($field:ident $key:literal),+) => { $(
                match (&mut self.$field, &part.$field) {
                    (Some(_), Some(_)) => twice.push($key),
                    (own @ None, Some(value)) => *own = Some(value.clone()),
                    (_, None) => {}
                }
            )+ };
        }
        take!(
            to "to", methods "methods", paths "paths", query "query", headers "headers",
            users "users", runs "runs", when "when", uses "use", opaque "tunnel", always "inject",
            refuse_misplaced "misplaced", scrub "scrub", captures "capture", timeouts "timeouts",
            retry "retry", websocket "websocket", limits "limits", approval "approval", cut "on_withdrawal",
            refuse_unusual "anomalies"
        );
        twice
    }

    /// The keys of it that are there.
    pub(super) fn keys(&self) -> Vec<&'static str> {
        // A merge with itself names them all.
        self.clone().merge(self)
    }

    pub(super) fn conditions(&mut self) -> Option<Box<Conditions>> {
        let conditions = Conditions {
            query: self.query.take().unwrap_or_default(),
            headers: self.headers.take().unwrap_or_default(),
            users: self.users.take().unwrap_or_default(),
            runs: self.runs.take().unwrap_or_default(),
        };
        (!conditions.is_empty()).then(|| Box::new(conditions))
    }
}

pub(super) fn read_document<'d>(reader: &mut Reader<'d>, root: &'d Node) -> Option<Drafts<'d>> {
    let mut map = reader.map(root, TOP_KEYS)?;
    map.required_as("version", "add `version: 1` at the top", |r, n| r.integer(n, 1..=1_u8));
    let layers = [("organisation", true), ("workspace", false)];
    let layer = given(&mut map, "layer", |r, n| Some((r.choice(n, &layers)?, n)));
    let groups = if map.has("groups") { map.optional("groups", read_groups)? } else { Vec::new() };
    let parts = if map.has("parts") { map.optional("parts", read_parts) } else { Some(Vec::new()) };
    let mut rules = Vec::new();
    map.optional("rules", |r, n| {
        r.list(n, |r, n| {
            // Those that can be read are looked at further, whatever is wrong with the others; behind
            // more mistakes than are told, nothing is.
            if !r.is_full() {
                rules.extend(read_rule(r, n));
            }
            Some(())
        })
    });
    let supposed = given(&mut map, "given", read_given);
    let mut cases = Vec::new();
    map.optional("tests", |r, n| {
        r.list(n, |r, n| {
            cases.extend(read_case(r, n));
            Some(())
        })
    });
    let organisation = layer?.and_then(|(organisation, node)| organisation.then_some(node));
    let parts = parts.unwrap_or_default();
    let given = supposed.flatten().unwrap_or_default();
    Some(Drafts { organisation, groups, parts, rules, given, cases })
}

fn read_groups<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Vec<(&'d Key, Vec<Member>)>> {
    let mut groups = Vec::new();
    for (key, members) in reader.entries(node)? {
        if key.text.parse::<Name>().is_err() {
            reader.problem(key, "a group's name has 1 to 63 characters of a-z, 0-9 and `-`");
        }
        let members = reader.list(members, |r, n| match n.value {
            Value::Map(_) => read_choice(r, n).map(Member::Labelled),
            _ => r.parsed(n).map(Member::Named),
        });
        groups.extend(members.map(|names| (key, names)));
    }
    Some(groups)
}

fn read_parts<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Vec<(&'d Key, Fields)>> {
    let mut parts = Vec::new();
    let entries = reader.entries(node)?;
    for (key, part) in entries {
        if key.text.parse::<Name>().is_err() {
            reader.problem(key, "a part's name has 1 to 63 characters of a-z, 0-9 and `-`");
        }
        let fields = reader.map(part, PART_KEYS).map(|mut map| read_fields(&mut map));
        parts.extend(fields.map(|fields| (key, fields)));
    }
    (parts.len() == entries.len()).then_some(parts)
}

fn read_rule<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Draft<'d>> {
    let mut map = reader.map(node, RULE_KEYS)?;
    let named = |r: &mut Reader<'d>, n: &'d Node| r.list(n, |r, n| Some((r.text(n)?, n)));
    let advice = "add `name: what it is for`; records and reports name the rule by it";
    let name = map.required_as("name", advice, |r, n| Some((r.text(n)?, n)));
    let advice = "add `agents: [NAME]`, or `agents: [\"*\"]` for all";
    let agents = map.required_as("agents", advice, read_agents);
    let with = given(&mut map, "with", named);
    let deny = given(&mut map, "deny", deny_is_true);
    let modes = [("enforce", false), ("shadow", true)];
    let shadow = given(&mut map, "mode", |r, n| r.choice(n, &modes));
    let fields = read_fields(&mut map);
    Some(Draft {
        node,
        // No text is empty: this is one that is missing, which is noted.
        name: name.unwrap_or(("", node)),
        agents: agents.unwrap_or_default(),
        with: with.flatten().unwrap_or_default(),
        deny: deny.flatten().unwrap_or(false),
        shadow: shadow.flatten().unwrap_or(false),
        fields,
    })
}

fn read_agents<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Vec<Meant<'d>>> {
    let one = |r: &mut Reader<'d>, n: &'d Node| match n.value {
        Value::Map(_) => read_choice(r, n).map(Meant::Labelled),
        _ => Some(Meant::Named(r.text(n)?, n)),
    };
    match node.value {
        Value::Map(_) => one(reader, node).map(|meant| vec![meant]),
        _ => reader.list(node, one),
    }
}

/// `{labels: {team: ml, env: [prod, staging]}}`.
fn read_choice<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Choice> {
    let mut map = reader.map(node, CHOICE_KEYS)?;
    let name = |r: &mut Reader<'d>, key: &'d Key| {
        let name = key.text.parse::<LabelName>();
        name.map_err(|error| r.problem(key, error.to_string())).ok()
    };
    map.required("labels", |r, n| read_wanted(r, n, name)).map(|wanted| Choice(wanted.into()))
}

/// `deny: false` would be a rule that looks like the opposite of what it is.
fn deny_is_true<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<bool> {
    let deny = reader.boolean(node)?;
    if !deny {
        reader.problem_with_help(node, "a rule that does not deny allows", "remove `deny`");
    }
    deny.then_some(true)
}

fn read_fields(map: &mut Map<'_, '_>) -> Fields {
    let to = given(map, "to", |r, n| r.list(n, Reader::parsed::<Destination>));
    let methods = given(map, "methods", |r, n| r.list(n, method));
    let paths = given(map, "paths", |r, n| r.list(n, Reader::parsed));
    let query = given(map, "query", |r, n| read_wanted(r, n, |_, key| Some(key.text.clone())));
    let headers = given(map, "headers", |r, n| read_wanted(r, n, field));
    let users = given(map, "users", read_patterns);
    let runs = given(map, "runs", read_patterns);
    let when = given(map, "when", read_when);
    let uses = given(map, "use", read_uses);
    let opaque =
        given(map, "tunnel", |r, n| r.choice(n, &[("opaque", true), ("intercept", false)]));
    let always =
        given(map, "inject", |r, n| r.choice(n, &[("always", true), ("referenced", false)]));
    let refuse = given(map, "misplaced", |r, n| r.choice(n, &[("refuse", true), ("inert", false)]));
    let scrub = given(map, "scrub", read_scrub);
    let captures = given(map, "capture", |r, n| r.list(n, read_capture));
    let timeouts = given(map, "timeouts", read_timeouts);
    let retry = given(map, "retry", read_retry);
    let websocket =
        given(map, "websocket", |r, n| r.choice(n, &[("allow", true), ("refuse", false)]));
    let limits = given(map, "limits", read_limits);
    let approval = given(map, "approval", read_approval);
    let cut = given(map, "on_withdrawal", |r, n| r.choice(n, &[("cut", true), ("finish", false)]));
    let unusual = given(map, "anomalies", |r, n| r.choice(n, &[("refuse", true), ("tell", false)]));
    // What is wrong is noted, and no policy comes of it; the rest is looked at further.
    Fields {
        to: to.flatten(),
        methods: methods.flatten(),
        paths: paths.flatten(),
        query: query.flatten(),
        headers: headers.flatten(),
        users: users.flatten(),
        runs: runs.flatten(),
        when: when.flatten().map(Box::new),
        uses: uses.flatten(),
        opaque: opaque.flatten(),
        always: always.flatten(),
        refuse_misplaced: refuse.flatten(),
        scrub: scrub.flatten(),
        captures: captures.flatten(),
        timeouts: timeouts.flatten(),
        retry: retry.flatten(),
        websocket: websocket.flatten(),
        limits: limits.flatten(),
        approval: approval.flatten(),
        cut: cut.flatten(),
        refuse_unusual: unusual.flatten(),
    }
}

/// `Some(None)` for a key that is absent, `None` for one that is wrong.
#[allow(clippy::option_option)] // Three outcomes, and `?` on the outer one reads best.
pub(super) fn given<'d, T>(
    map: &mut Map<'_, 'd>,
    key: &'static str,
    read: impl FnOnce(&mut Reader<'d>, &'d Node) -> Option<T>,
) -> Option<Option<T>> {
    if map.has(key) { map.optional(key, read).map(Some) } else { Some(None) }
}

fn read_patterns<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Vec<TextPattern>> {
    let patterns = reader.one_or_list(node, Reader::parsed)?;
    if patterns.is_empty() {
        // It would be read as *nobody* by one and as *anybody* by another.
        reader.problem_with_help(node, "the list is empty", "name one, or remove the key");
        return None;
    }
    Some(patterns)
}

/// `name: pattern` or `name: [pattern, pattern]`, for each of the names.
fn read_wanted<'d, N>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    name: impl Fn(&mut Reader<'d>, &'d Key) -> Option<N>,
) -> Option<Vec<Wanted<N>>> {
    let entries = reader.entries(node)?;
    // A key that was refused is gone from the tree, and was told of.
    if entries.is_empty() && !reader.is_told(node) {
        reader.problem_with_help(node, "nothing is asked for", "name one, or remove the key");
    }
    let mut all = Vec::with_capacity(entries.len());
    for (key, values) in entries {
        let (name, values) = (name(reader, key), read_patterns(reader, values));
        all.extend(name.zip(values).map(|(name, values)| Wanted { name, values }));
    }
    (all.len() == entries.len() && !all.is_empty()).then_some(all)
}

fn field<'d>(reader: &mut Reader<'d>, key: &'d Key) -> Option<HeaderName> {
    let Ok(name) = key.text.parse::<HeaderName>() else {
        reader.problem(key, "not the name of a header field");
        return None;
    };
    if !is_fit(&name) {
        reader.problem_with_help(
            key,
            "no rule can ask for this field: the proxy takes it out, sets it anew, or it may hold a secret",
            "ask for another; the run context is asked for by `users` and `runs`",
        );
        return None;
    }
    Some(name)
}

fn read_when<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<When> {
    let mut map = reader.map(node, WHEN_KEYS)?;
    let days = given(&mut map, "days", |r, n| r.one_or_list(n, Reader::parsed::<Days>));
    let hours = given(&mut map, "hours", |r, n| r.one_or_list(n, Reader::parsed));
    let found = |name: &str| zone(name).ok_or(WhenError::Zone);
    let zone = given(&mut map, "zone", |r, n| r.parsed_with(n, found));
    let not_before = given(&mut map, "not_before", |r, n| r.parsed_with(n, first_moment));
    let not_after = given(&mut map, "not_after", |r, n| r.parsed_with(n, moment));
    let local = map.has("days") || map.has("hours");
    let problem = if local && !map.has("zone") {
        Some((
            "`days` and `hours` are those of a place",
            "add `zone: Europe/Berlin`, or `zone: UTC`",
        ))
    } else if map.has("zone") && !local {
        Some(("`zone` is for `days` and `hours`, and neither is here", "remove `zone`"))
    } else if !local && !map.has("not_before") && !map.has("not_after") {
        Some(("`when` says no time", "add days, hours, not_before or not_after, or remove `when`"))
    } else {
        None
    };
    let empty = |list: &Option<Option<usize>>| matches!(list, Some(Some(0)));
    let lengths = [
        days.as_ref().map(|d| d.as_ref().map(Vec::len)),
        hours.as_ref().map(|h: &Option<Vec<super::when::Hours>>| h.as_ref().map(Vec::len)),
    ];
    let problem = problem.or_else(|| {
        lengths.iter().any(empty).then_some(("a list of no days or hours", "remove the key"))
    });
    if let Some((message, help)) = problem {
        map.reader().problem_with_help(node, message, help);
        return None;
    }
    let (not_before, not_after) = (not_before?, not_after?);
    if not_before.zip(not_after).is_some_and(|(first, last)| first > last) {
        let spot = map.node("not_after").unwrap_or(node);
        let message = "`not_after` is before `not_before`: the rule is never in force";
        map.reader().problem_with_help(spot, message, "correct one of the two");
        return None;
    }
    let days = days?.map_or(EVERY_DAY, |days| days.iter().fold(0, |all, day| all | day.0));
    Some(When { days, hours: hours?.unwrap_or_default(), zone: zone?, not_before, not_after })
}

fn read_uses<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Uses> {
    let names = reader.list(node, |r, n| Some((r.text(n)?, n)))?;
    if names.iter().any(|(text, _)| *text == "*") {
        return if names.len() == 1 {
            Some(Uses::All)
        } else {
            let message = "`*` stands for all credentials, and so stands alone";
            reader.problem_with_help(node, message, "remove the others, or `*`");
            None
        };
    }
    let parsed: Vec<Option<Name>> = names.iter().map(|(_, n)| reader.parsed::<Name>(n)).collect();
    parsed.into_iter().collect::<Option<HashSet<_>>>().map(Uses::Named)
}

fn read_scrub<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Undecodable> {
    let mut map = reader.map(node, SCRUB_KEYS)?;
    let words = [("refuse", Undecodable::Refuse), ("pass", Undecodable::Pass)];
    map.required("undecodable", |r, n| r.choice(n, &words))
}

/// `{json: /access_token, as: session}`.
fn read_capture<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Capture> {
    let mut map = reader.map(node, CAPTURE_KEYS)?;
    let credential = map.required("as", Reader::parsed::<Name>);
    let json = given(&mut map, "json", Reader::parsed::<Pointer>);
    let form = given(&mut map, "form", Reader::text);
    let header = given(&mut map, "header", Reader::parsed::<HeaderName>);
    let mut from = [
        json.flatten().map(Minted::Json),
        form.flatten().map(|field| Minted::Form(field.into())),
        header.flatten().map(Minted::Header),
    ]
    .into_iter()
    .flatten();
    let places = ["json", "form", "header"].iter().filter(|key| map.has(key)).count();
    if places != 1 {
        map.reader().problem_with_help(
            node,
            "`capture` takes a value from one place",
            "name one of json, form and header, such as `json: /access_token`",
        );
        return None;
    }
    Some(Capture { from: from.next()?, credential: credential? })
}

fn read_timeouts<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Timeouts> {
    let mut map = reader.map(node, TIMEOUT_KEYS)?;
    let response = given(&mut map, "response", |r, n| r.duration(n, WAIT));
    let idle = given(&mut map, "idle", |r, n| r.duration(n, WAIT));
    Some(Timeouts { response: response?, idle: idle? })
}

fn read_limits<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Limits> {
    let mut map = reader.map(node, LIMIT_KEYS)?;
    let requests = given(&mut map, "requests", |r, n| r.parsed_with(n, Rate::of_requests));
    let concurrent = given(&mut map, "concurrent", |r, n| r.integer(n, AT_ONCE));
    let bytes = given(&mut map, "bytes", |r, n| r.parsed_with(n, Rate::of_bytes));
    let words = [("agent", Per::Agent), ("credential", Per::Credential), ("rule", Per::Rule)];
    let per = given(&mut map, "per", |r, n| r.choice(n, &words));
    let queue = given(&mut map, "queue", read_queue);
    if ["requests", "concurrent", "bytes"].iter().all(|key| !map.has(key)) {
        map.reader().problem_with_help(
            node,
            "`limits` says nothing of how much",
            "add one of requests, concurrent and bytes, such as `requests: 60/min`",
        );
        return None;
    }
    Some(Limits {
        requests: requests?,
        concurrent: concurrent?,
        bytes: bytes?,
        per: per?.unwrap_or_default(),
        queue: queue?,
    })
}

/// `{size: 32, wait: 30s}`.
fn read_queue<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Queue> {
    let mut map = reader.map(node, QUEUE_KEYS)?;
    let size = map.required("size", |r, n| r.integer(n, QUEUED));
    let wait = map.required("wait", |r, n| r.duration(n, QUEUES));
    Some(Queue { size: size?, wait: wait? })
}

fn method<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Method> {
    let text = reader.text(node)?;
    let upper = text.to_ascii_uppercase();
    if matches!(upper.as_str(), "TRACE" | "TRACK" | "CONNECT") {
        reader.problem_with_help(node, format!("{upper} is never forwarded"), "remove it");
        return None;
    }
    if text != upper {
        let advice = format!("write {upper}");
        reader.problem_with_help(node, "methods are case-sensitive", advice);
        return None;
    }
    if let Ok(method) = text.parse::<Method>() {
        return Some(method);
    }
    let advice = "a method is one word, such as GET or PROPFIND; several are items of the list";
    reader.problem_with_help(node, "not a method", advice);
    None
}
