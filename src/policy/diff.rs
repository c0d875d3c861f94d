//! What a change of policy adds and takes away, as the reviewer asks it: which agents, with which
//! credentials, where.
//!
//! Rules are compared by all that they are made of but their name and place, and told in groups: those
//! agents, credentials and destinations that the same rules are about stand in one line, and are never
//! multiplied out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use http::Method;

use super::approval::Approval;
use super::capture::Capture;
use super::conditions::{Conditions, Wanted};
use super::limits::Limits;
use super::path::PathPattern;
use super::retry::Retry;
use super::rule::{Agents, Choice, Rule, Uses};
use super::text::TextPattern;
use super::when::When;
use super::{Policy, Timeouts};
use crate::document::show_duration;
use crate::scrub::Undecodable;

/// Whom something is allowed, or denied, with what and where: each agent with each credential at each
/// destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Combination {
    /// Whether it is denied.
    pub denied: bool,
    /// Whether the organisation says so.
    pub organisation: bool,
    /// Whether it is only recorded.
    pub shadow: bool,
    /// The agents; `*` for any, and `labels team=ml` for those that have them.
    pub agents: Vec<String>,
    /// The credentials and sets; `*` for any, one that is none for requests as they are.
    pub credentials: Vec<Option<String>>,
    /// The destinations; one that is none for wherever the credentials are bound.
    pub destinations: Vec<Option<String>>,
}

/// Combinations of two policies, and how they are allowed in each; not at all, where it is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub combination: Combination,
    /// In the old one.
    pub before: BTreeSet<String>,
    /// In the new one.
    pub after: BTreeSet<String>,
}

/// All that is not the same in two policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Whether rules of the organisation bound all others now, where they did not before; or no longer.
    pub bound: Option<bool>,
    /// In the order of the combinations.
    pub changes: Vec<Change>,
    /// Rules that are in both, may match the same request, and now stand in the other order: each as the
    /// one that comes first now, and the other.
    pub order: Vec<(String, String)>,
}

impl Diff {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Policy {
    /// What is not the same in `new`.
    #[must_use]
    pub fn diff(&self, new: &Self) -> Diff {
        let mut known = Known::default();
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(self.rules.len() + new.rules.len());
        for (policy, is_new) in [(self, false), (new, true)] {
            entries.extend(policy.rules.iter().map(|rule| Entry::of(rule, is_new, &mut known)));
        }
        let of = |is_new: bool| {
            let keys = entries.iter().filter(|entry| entry.is_new == is_new).map(Entry::key);
            keys.collect::<HashSet<_>>()
        };
        let (old_keys, new_keys) = (of(false), of(true));
        let changed = |entry: &Entry<'_>| {
            !(if entry.is_new { &old_keys } else { &new_keys }).contains(&entry.key())
        };
        let changed: Vec<bool> = entries.iter().map(changed).collect();
        for (entry, changed) in entries.iter_mut().zip(changed) {
            entry.changed = changed;
        }
        let bound = (self.bounded != new.bounded).then_some(new.bounded.0 || new.bounded.1);
        Diff { bound, changes: changes(&entries, &known), order: order(&entries) }
    }
}

/// One rule of one of the two.
struct Entry<'p> {
    rule: &'p Rule,
    is_new: bool,
    /// Whether the other policy has no rule that is the same.
    changed: bool,
    layer: Layer,
    agents: Vec<String>,
    credentials: Vec<Option<String>>,
    destinations: Vec<Option<String>>,
    /// How, as [`Known`] counts it.
    how: usize,
}

/// Whether it denies, is the organisation's, is only recorded.
type Layer = (bool, bool, bool);

impl<'p> Entry<'p> {
    fn of(rule: &'p Rule, is_new: bool, known: &mut Known) -> Self {
        // Taken apart by name, so that a new field is not forgotten: it is part of the terms, or one of
        // those that have a place of their own.
        let Rule {
            name: _,
            place: _,
            organisation,
            deny,
            shadow,
            agents,
            to,
            methods,
            paths,
            conditions,
            when,
            uses,
            opaque,
            inject_always,
            refuse_misplaced,
            undecodable,
            captures,
            timeouts,
            retry,
            websocket,
            meter,
            approval,
            cut_when_withdrawn,
            refuse_unusual,
        } = rule;
        let terms = Terms {
            deny: *deny,
            methods: methods.as_ref().map(|all| settled(all, Method::to_string)),
            websocket: *websocket,
            paths: paths.as_ref().map(|all| settled(all, PathPattern::to_string)),
            conditions: conditions.as_deref().map(settled_conditions),
            when: when.as_deref().cloned(),
            opaque: *opaque,
            inject_always: *inject_always,
            refuse_misplaced: *refuse_misplaced,
            undecodable: *undecodable,
            captures: Arc::clone(captures),
            timeouts: *timeouts,
            retry: *retry,
            limits: meter.as_ref().map(|meter| *meter.limits()),
            approval: *approval,
            cut_when_withdrawn: *cut_when_withdrawn,
            refuse_unusual: *refuse_unusual,
        };
        Self {
            rule,
            is_new,
            changed: false,
            layer: (*deny, *organisation, *shadow),
            agents: names_of(agents),
            credentials: credentials(uses),
            destinations: to.as_ref().map_or_else(
                || vec![None],
                |to| settled(to, ToString::to_string).iter().map(|d| Some(d.to_string())).collect(),
            ),
            how: known.number(terms),
        }
    }

    fn key(&self) -> Key {
        (
            self.layer,
            self.agents.clone(),
            self.credentials.clone(),
            self.destinations.clone(),
            self.how,
        )
    }
}

type Key = (Layer, Vec<String>, Vec<Option<String>>, Vec<Option<String>>, usize);

/// Everything of a rule but whom, with what and where, in an order that says nothing. Two rules that
/// are the same here allow the same.
#[allow(clippy::struct_excessive_bools)] // They are the rule's.
#[derive(Clone, Debug, PartialEq)]
struct Terms {
    deny: bool,
    methods: Option<Vec<Method>>,
    websocket: Option<bool>,
    paths: Option<Vec<PathPattern>>,
    conditions: Option<Conditions>,
    when: Option<When>,
    opaque: bool,
    inject_always: bool,
    refuse_misplaced: bool,
    undecodable: Undecodable,
    captures: Arc<[Capture]>,
    timeouts: Timeouts,
    retry: Option<Retry>,
    limits: Option<Limits>,
    approval: Option<Approval>,
    cut_when_withdrawn: bool,
    refuse_unusual: bool,
}

/// Terms by number, each with words that no others have.
#[derive(Default)]
struct Known {
    all: Vec<(Terms, String)>,
    by_words: HashMap<String, Vec<usize>>,
}

impl Known {
    fn number(&mut self, terms: Terms) -> usize {
        let words = terms.in_words();
        let same = self.by_words.entry(words.clone()).or_default();
        if let Some(known) = same.iter().find(|at| self.all[**at].0 == terms) {
            return *known;
        }
        // Words are for people; whether something changes is not for them to say.
        let words = match same.len() {
            0 => words,
            n => format!("{words}, in another way ({n}) that only the files tell"),
        };
        same.push(self.all.len());
        self.all.push((terms, words));
        self.all.len() - 1
    }

    fn words(&self, hows: &BTreeSet<usize>) -> BTreeSet<String> {
        hows.iter().filter_map(|at| self.all.get(*at)).map(|(_, words)| words.clone()).collect()
    }
}

/// Sorted by their texts, each once.
fn settled<T: Clone>(all: &[T], text: impl Fn(&T) -> String) -> Vec<T> {
    let all: BTreeMap<String, &T> = all.iter().map(|one| (text(one), one)).collect();
    all.into_values().cloned().collect()
}

fn settled_conditions(conditions: &Conditions) -> Conditions {
    let Conditions { query, headers, users, runs } = conditions;
    let texts = |all: &[TextPattern]| settled(all, TextPattern::to_string);
    let mut query: Vec<_> =
        query.iter().map(|w| Wanted { name: w.name.clone(), values: texts(&w.values) }).collect();
    query.sort_by(|a, b| a.name.cmp(&b.name));
    let mut headers: Vec<_> =
        headers.iter().map(|w| Wanted { name: w.name.clone(), values: texts(&w.values) }).collect();
    headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    Conditions { query, headers, users: texts(users), runs: texts(runs) }
}

fn names_of(agents: &Agents) -> Vec<String> {
    match agents {
        Agents::Any => vec!["*".to_owned()],
        Agents::Some { names, labelled } => {
            let all = names.iter().map(ToString::to_string).chain(labelled.iter().map(labels));
            all.collect::<BTreeSet<_>>().into_iter().collect()
        }
    }
}

fn labels(choice: &Choice) -> String {
    let Choice(wanted) = choice;
    let one = |wanted: &Wanted<_>| {
        let Wanted { name, values } = wanted;
        format!("{name}={}", either(values))
    };
    let all: BTreeSet<String> = wanted.iter().map(one).collect();
    format!("labels {}", all.into_iter().collect::<Vec<_>>().join(", "))
}

fn credentials(uses: &Uses) -> Vec<Option<String>> {
    match uses {
        Uses::All => vec![Some("*".to_owned())],
        Uses::Named(names) if names.is_empty() => vec![None],
        Uses::Named(names) => {
            let names: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
            names.into_iter().map(Some).collect()
        }
    }
}

/// Values of which one is enough, in quotes where they could be taken for more than one.
pub(super) fn either(values: &[TextPattern]) -> String {
    let quoted = |text: String| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/:@%+~*-".contains(&b);
        if text.bytes().all(plain) { text } else { serde_json::Value::from(text).to_string() }
    };
    settled(values, TextPattern::to_string)
        .iter()
        .map(|value| quoted(value.to_string()))
        .collect::<Vec<_>>()
        .join("|")
}

fn listed<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What is different, by what the same rules are about.
fn changes(entries: &[Entry<'_>], known: &Known) -> Vec<Change> {
    let mut layers: BTreeMap<Layer, Vec<&Entry<'_>>> = BTreeMap::new();
    for entry in entries {
        layers.entry(entry.layer).or_default().push(entry);
    }
    let mut changes = Vec::new();
    for ((denied, organisation, shadow), of) in layers {
        // Agents of which the same is said stand together.
        let mut found: BTreeMap<Said<'_>, Vec<&String>> = BTreeMap::new();
        for (agents, of) in classes(&of, |entry| &entry.agents) {
            for (credentials, of) in classes(&of, |entry| &entry.credentials) {
                let mut places: BTreeMap<_, Vec<&Option<String>>> = BTreeMap::new();
                for (destinations, of) in classes(&of, |entry| &entry.destinations) {
                    let [before, after] = [false, true].map(|is_new| hows(&of, is_new));
                    if before != after {
                        let anywhere = destinations.contains(&&None);
                        places.entry((before, after, anywhere)).or_default().extend(destinations);
                    }
                }
                for ((before, after, _), mut destinations) in places {
                    destinations.sort_unstable();
                    let said = (credentials.clone(), destinations, before, after);
                    found.entry(said).or_default().extend(&agents);
                }
            }
        }
        changes.extend(found.into_iter().map(|(said, mut agents)| {
            agents.sort_unstable();
            let (credentials, destinations, before, after) = said;
            Change {
                combination: Combination {
                    denied,
                    organisation,
                    shadow,
                    agents: agents.into_iter().cloned().collect(),
                    credentials: credentials.into_iter().cloned().collect(),
                    destinations: destinations.into_iter().cloned().collect(),
                },
                before: known.words(&before),
                after: known.words(&after),
            }
        }));
    }
    changes.sort_by(|a, b| a.combination.cmp(&b.combination));
    changes
}

/// Credentials, destinations, and how before and after.
type Said<'e> =
    (Vec<&'e Option<String>>, Vec<&'e Option<String>>, BTreeSet<usize>, BTreeSet<usize>);

fn hows(of: &[&Entry<'_>], is_new: bool) -> BTreeSet<usize> {
    of.iter().filter(|entry| entry.is_new == is_new).map(|entry| entry.how).collect()
}

/// What the rules name, put together where the very same rules name it, with those rules. Only what some
/// changed rule names.
fn classes<'e, 'p, T: Ord>(
    of: &[&'e Entry<'p>],
    names: impl Fn(&'e Entry<'p>) -> &'e [T],
) -> Vec<(Vec<&'e T>, Vec<&'e Entry<'p>>)> {
    let mut by_name: BTreeMap<&T, Vec<usize>> = BTreeMap::new();
    for (at, entry) in of.iter().enumerate() {
        for name in names(entry) {
            by_name.entry(name).or_default().push(at);
        }
    }
    let mut by_rules: BTreeMap<Vec<usize>, Vec<&T>> = BTreeMap::new();
    for (name, rules) in by_name {
        if rules.iter().any(|at| of[*at].changed) {
            by_rules.entry(rules).or_default().push(name);
        }
    }
    let rules = |all: Vec<usize>| all.into_iter().map(|at| of[at]).collect();
    by_rules.into_iter().map(|(all, names)| (names, rules(all))).collect()
}

/// Pairs of rules that are told of: the first show what happens.
const PAIRS: usize = 20;

/// Destinations that are compared, for the order of rules: a file that has more was made by a program,
/// and what is left then is taken to overlap.
const COMPARED: usize = 2_000_000;

/// Rules that are the same in both, and of which another one comes first now.
fn order(entries: &[Entry<'_>]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut left = COMPARED;
    for organisation in [false, true] {
        let layer =
            |entry: &&Entry<'_>| !entry.changed && !entry.layer.0 && entry.layer.1 == organisation;
        let mut places: HashMap<Key, usize> = HashMap::new();
        for (at, entry) in entries.iter().filter(layer).filter(|e| e.is_new).enumerate() {
            places.entry(entry.key()).or_insert(at);
        }
        let mut seen = HashSet::new();
        let old = entries.iter().filter(layer).filter(|entry| !entry.is_new);
        let old = old.filter_map(|entry| Some((*places.get(&entry.key())?, entry)));
        let old: Vec<(usize, &Entry<'_>)> = old.filter(|(at, _)| seen.insert(*at)).collect();
        // Nearly always nothing has moved.
        if old.is_sorted_by_key(|(at, _)| *at) {
            continue;
        }
        for (nth, (first, one)) in old.iter().enumerate() {
            for (second, other) in old.get(nth + 1..).unwrap_or_default() {
                if second < first && differ(one, other) && overlap(one.rule, other.rule, &mut left)
                {
                    pairs.push((other.rule.name.to_string(), one.rule.name.to_string()));
                }
                if pairs.len() >= PAIRS {
                    return pairs;
                }
            }
        }
    }
    pairs
}

/// Whether it matters which of two rules decides: on its terms, or on what it puts in unasked.
fn differ(a: &Entry<'_>, b: &Entry<'_>) -> bool {
    a.how != b.how || (a.rule.inject_always && a.credentials != b.credentials)
}

/// Whether two rules may match the same request. When in doubt, they may.
fn overlap(a: &Rule, b: &Rule, left: &mut usize) -> bool {
    let agents = match (&a.agents, &b.agents) {
        (Agents::Some { names, labelled }, Agents::Some { names: others, labelled: choices }) => {
            !labelled.is_empty() || !choices.is_empty() || !names.is_disjoint(others)
        }
        _ => true,
    };
    let (Some(to), Some(others)) = (&a.to, &b.to) else { return agents };
    if !agents {
        return false;
    }
    let pairs = to.len().saturating_mul(others.len());
    if pairs > *left {
        return true;
    }
    *left -= pairs;
    to.iter().any(|one| others.iter().any(|other| one.meets(other)))
}

impl Terms {
    /// As a reviewer reads it. Taken apart by name, so that a new field gets its words.
    fn in_words(&self) -> String {
        let Self {
            deny,
            methods,
            websocket,
            paths,
            conditions,
            when,
            opaque,
            inject_always,
            refuse_misplaced,
            undecodable,
            captures,
            timeouts,
            retry,
            limits,
            approval,
            cut_when_withdrawn,
            refuse_unusual,
        } = self;
        let mut text = String::new();
        if *opaque {
            text += "tunnelled unseen";
        } else {
            add_acts(&mut text, methods.as_deref(), (*websocket, *deny));
            match paths {
                None => text += ", any path",
                Some(paths) => {
                    let _ = write!(text, ", at {}", listed(paths));
                }
            }
        }
        if let Some(conditions) = conditions {
            add_conditions(&mut text, conditions);
        }
        if let Some(when) = when {
            let _ = write!(text, ", {when}");
        }
        if let Some(approval) = approval {
            add_approval(&mut text, *approval);
        }
        if let Some(limits) = limits {
            let _ = write!(text, ", {limits}");
        }
        for (is, word) in [
            (*inject_always, "injected unasked"),
            (*refuse_misplaced, "misplaced references refused"),
            (*cut_when_withdrawn, "cut when it is withdrawn"),
            (*refuse_unusual, "refused when it is unusual"),
            (*undecodable == Undecodable::Pass, "answers that cannot be searched pass"),
        ] {
            if is {
                text += ", ";
                text += word;
            }
        }
        for capture in &**captures {
            let _ = write!(text, ", taken from answers: {capture}");
        }
        let Timeouts { response, idle } = timeouts;
        for (word, time) in [("answer", response), ("pauses", idle)] {
            if let Some(time) = time {
                let _ = write!(text, ", {word} within {}", show_duration(*time));
            }
        }
        if let Some(retry) = retry {
            let _ = write!(text, ", {retry}");
        }
        text
    }
}

fn add_acts(
    text: &mut String,
    methods: Option<&[Method]>,
    (websocket, deny): (Option<bool>, bool),
) {
    *text += &match methods {
        None => "any method".to_owned(),
        Some([]) => "no method".to_owned(),
        Some(methods) => listed(methods),
    };
    match websocket {
        Some(true) => *text += " and WebSockets",
        Some(false) => *text += if deny { " and WebSockets" } else { ", no WebSockets" },
        None => {}
    }
}

fn add_conditions(text: &mut String, conditions: &Conditions) {
    let Conditions { query, headers, users, runs } = conditions;
    for Wanted { name, values } in query {
        let name = serde_json::Value::from(&**name);
        let _ = write!(text, ", query {name}={}", either(values));
    }
    for Wanted { name, values } in headers {
        let _ = write!(text, ", field {name}: {}", either(values));
    }
    for (word, values) in [("users", users), ("runs", runs)] {
        if !values.is_empty() {
            let _ = write!(text, ", {word} {}", either(values));
        }
    }
}

fn add_approval(text: &mut String, approval: Approval) {
    let Approval { wait, valid, approvers } = approval;
    match approvers {
        1 => *text += ", once a person approves",
        several => {
            let _ = write!(text, ", once {several} people approve");
        }
    }
    let _ = match wait {
        Some(wait) => write!(text, " within {}", show_duration(wait)),
        None => write!(text, ", refused until then"),
    };
    let _ = write!(text, ", good for {}", show_duration(valid));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Source;
    use crate::policy::{ORGANISATION, compile};

    fn policy(rules: &str) -> Policy {
        let text = format!("version: 1\nrules:\n{rules}");
        compile(vec![Source::new("p.yaml", &text)]).unwrap_or_else(|report| panic!("{report}"))
    }

    /// Each of the keys makes a change of the rule; and so does each of the pairs.
    fn each_is_a_change(rule: &str, keys: &[&str], pairs: &[(&str, &str)]) {
        let with = |more: &str| policy(&format!("  - {{{rule}{more}}}\n"));
        let base = with("");
        for more in keys {
            let changed = with(&format!(", {more}"));
            assert!(!base.diff(&changed).is_empty(), "{rule}: {more}");
            assert!(!changed.diff(&base).is_empty(), "{rule}: {more}");
            assert!(changed.diff(&with(&format!(", {more}"))).is_empty(), "{rule}: {more}");
        }
        for (one, other) in pairs {
            let [one, other] = [one, other].map(|more| with(&format!(", {more}")));
            assert!(!one.diff(&other).is_empty(), "{rule}: {pairs:?}");
        }
    }

    const OUTSIDE: [&str; 11] = [
        "users: [alice]",
        "runs: ['7']",
        "when: {days: mon, zone: UTC}",
        "when: {hours: 08:00-18:00, zone: UTC}",
        "when: {not_before: '2026-01-01T00:00:00Z'}",
        "when: {not_after: '2026-01-01T00:00:00Z'}",
        "limits: {requests: 1/s}",
        "limits: {concurrent: 1}",
        "limits: {bytes: 1KiB/s}",
        "anomalies: refuse",
        "mode: shadow",
    ];

    const INSIDE: [&str; 25] = [
        "methods: [GET]",
        "paths: [/v1]",
        "websocket: refuse",
        "websocket: allow",
        "query: {a: b}",
        "headers: {a: b}",
        "inject: always",
        "misplaced: refuse",
        "scrub: {undecodable: pass}",
        "capture: [{json: /t, as: s}]",
        "timeouts: {response: 1s}",
        "timeouts: {idle: 1s}",
        "limits: {bytes: 1KiB/s, per: rule}",
        "limits: {concurrent: 1, queue: {size: 1, wait: 1s}}",
        "retry: {attempts: 2}",
        "retry: {attempts: 2, on: [broken]}",
        "retry: {attempts: 2, idempotency_key: true}",
        "on_withdrawal: cut",
        "approval: required",
        "approval: {answer: refuse}",
        "approval: {approvers: 2}",
        "approval: {valid: 1m, wait: 1s}",
        "methods: []",
        "paths: []",
        "deny: true",
    ];

    const OTHERWISE: [(&str, &str); 14] = [
        ("approval: {approvers: 2}", "approval: {approvers: 3}"),
        ("approval: {valid: 10m}", "approval: {valid: 7d}"),
        ("approval: {wait: 1s}", "approval: {wait: 1h}"),
        ("query: {a: [x, y]}", "query: {a: 'x, y'}"),
        ("query: {a: [x, y]}", "query: {a: 'x|y'}"),
        ("query: {a: x, b: y}", "query: {'a=x, query b': y}"),
        ("headers: {a: [x, y]}", "headers: {a: 'x, y'}"),
        ("users: [x, y]", "users: ['x, y']"),
        ("runs: [x, y]", "runs: ['x|y']"),
        ("users: [alice]", "runs: [alice]"),
        ("limits: {requests: 60/min}", "limits: {requests: 1/s}"),
        ("retry: {attempts: 2, budget: 1%}", "retry: {attempts: 2, budget: 2%}"),
        ("when: {days: mon, zone: UTC}", "when: {days: mon, zone: Europe/Berlin}"),
        ("timeouts: {response: 1s}", "timeouts: {idle: 1s}"),
    ];

    #[test]
    fn each_way_to_change_a_rule_is_a_change() {
        const RULE: &str = "name: r, agents: [a], to: ['https://x.test'], use: [k]";
        each_is_a_change(RULE, &[&OUTSIDE[..], &INSIDE].concat(), &OTHERWISE);
        each_is_a_change(
            "name: r, agents: [a], to: ['https://x.test'], tunnel: opaque",
            &OUTSIDE,
            &[],
        );
        let base = policy(&format!("  - {{{RULE}}}\n"));
        let other = RULE.replace("name: r", "name: other");
        assert!(base.diff(&policy(&format!("  - {{{other}}}\n"))).is_empty());
        let labelled = RULE.replace("[a]", "[a, {labels: {team: ml}}]");
        let labelled = base.diff(&policy(&format!("  - {{{labelled}}}\n")));
        let [more] = &labelled.changes[..] else { panic!("{labelled:?}") };
        assert_eq!(more.combination.agents, ["labels team=ml"]);
        for (one, same) in [
            ("methods: [GET, POST]", "methods: [POST, GET]"),
            ("paths: [/a, /b]", "paths: [/b, /a, /b]"),
            ("query: {a: [x, y], b: z}", "query: {b: z, a: [y, x]}"),
            ("users: [a, b]", "users: [b, a]"),
        ] {
            let [one, same] = [one, same].map(|m| policy(&format!("  - {{{RULE}, {m}}}\n")));
            assert!(one.diff(&same).is_empty(), "{:?}", one.diff(&same));
        }
        let [one, other] = ["{team: [a, b]}", "{team: 'a|b'}"].map(|labels| {
            let agents = format!("[{{labels: {labels}}}]");
            policy(&format!("  - {{{}}}\n", RULE.replace("[a]", &agents)))
        });
        assert!(!one.diff(&other).is_empty());
    }

    #[test]
    fn what_stands_together_is_told_together() {
        let hosts = |n: usize| {
            (0..n).map(|i| format!("'https://h{i}.test'")).collect::<Vec<_>>().join(", ")
        };
        let agents = |n: usize| (0..n).map(|i| format!("a{i}")).collect::<Vec<_>>().join(", ");
        let rule = |a: usize, h: usize, more: &str| {
            policy(&format!("  - {{name: r, agents: [{}], to: [{}]{more}}}\n", agents(a), hosts(h)))
        };
        // Multiplied out, it would be millions.
        let diff = rule(1500, 1500, "").diff(&rule(1500, 1500, ", methods: [GET]"));
        let [all] = &diff.changes[..] else { panic!("{}", diff.changes.len()) };
        assert_eq!(
            (all.combination.agents.len(), all.combination.destinations.len()),
            (1500, 1500)
        );
        let diff = rule(1000, 1000, "").diff(&rule(1001, 1001, ""));
        let sizes: BTreeSet<(usize, usize)> = diff
            .changes
            .iter()
            .map(|c| (c.combination.agents.len(), c.combination.destinations.len()))
            .collect();
        assert_eq!(sizes, BTreeSet::from([(1, 1001), (1000, 1)]));
        // What another rule allows in the same way is no change.
        let two = "  - {name: r, agents: [a], to: ['https://x.test', 'https://y.test']}\n";
        let split = "  - {name: r, agents: [a], to: ['https://x.test']}\n  - {name: s, agents: [a], to: ['https://y.test']}\n";
        assert!(policy(two).diff(&policy(split)).is_empty());
    }

    #[test]
    fn who_comes_first_and_who_is_bound_is_told() {
        const ASKS: &str =
            "  - {name: asks, agents: [a], to: ['https://x.test'], approval: required}\n";
        const ALLOWS: &str = "  - {name: allows, agents: ['*'], to: ['https://*.test']}\n";
        const ELSEWHERE: &str =
            "  - {name: elsewhere, agents: ['*'], to: ['https://y.test'], methods: [GET]}\n";
        let [one, other] = [[ASKS, ALLOWS], [ALLOWS, ASKS]].map(|all| policy(&all.concat()));
        let diff = one.diff(&other);
        assert_eq!(diff.order, [("allows".to_owned(), "asks".to_owned())]);
        let [one, other] = [[ASKS, ELSEWHERE], [ELSEWHERE, ASKS]].map(|all| policy(&all.concat()));
        assert!(one.diff(&other).is_empty());
        let of = |rules: &str| {
            let own = "version: 1\nrules: [{name: r, agents: [a], use: [k]}]\n";
            let text = format!("version: 1\nlayer: organisation\nrules: [{rules}]\n");
            let floor = Source::new(&format!("{ORGANISATION}/o.yaml"), &text);
            compile(vec![floor, Source::new("p.yaml", own)])
                .unwrap_or_else(|report| panic!("{report}"))
        };
        let bounding = of("{name: o, agents: [clerk], to: ['https://payroll.test']}");
        assert_eq!(bounding.diff(&of("")).bound, Some(false));
        assert_eq!(of("").diff(&bounding).bound, Some(true));
    }
}
