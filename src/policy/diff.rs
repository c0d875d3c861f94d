//! What a change of policy adds and takes away, as the reviewer asks it: which agent, with which
//! credential, where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Policy;
use super::conditions::Conditions;
use super::rule::{Agents, Rule, Uses};

/// Whom something is allowed, or denied, with what and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Combination {
    /// Whether it is denied.
    pub denied: bool,
    /// Whether the organisation says so.
    pub organisation: bool,
    /// Whether it is only recorded.
    pub shadow: bool,
    /// The agent; `*` for any, and `labels team=ml` for those that have them.
    pub agent: String,
    /// The credential or set; `*` for any, none for requests as they are.
    pub credential: Option<String>,
    /// The destination; none for wherever the credential is bound.
    pub destination: Option<String>,
}

/// One combination of two policies, and how it is allowed in each; not at all, where it is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub combination: Combination,
    /// In the old one.
    pub before: BTreeSet<String>,
    /// In the new one.
    pub after: BTreeSet<String>,
}

impl Policy {
    /// What is not the same in `new`, in the order of the combinations.
    #[must_use]
    pub fn diff(&self, new: &Self) -> Vec<Change> {
        let (mut before, mut after) = (self.combinations(), new.combinations());
        let all: BTreeSet<Combination> = before.keys().chain(after.keys()).cloned().collect();
        let change = |combination: Combination| Change {
            before: before.remove(&combination).unwrap_or_default(),
            after: after.remove(&combination).unwrap_or_default(),
            combination,
        };
        all.into_iter().map(change).filter(|change| change.before != change.after).collect()
    }

    fn combinations(&self) -> BTreeMap<Combination, BTreeSet<String>> {
        let mut all: BTreeMap<Combination, BTreeSet<String>> = BTreeMap::new();
        for rule in &self.rules {
            let how = how(rule);
            for agent in agents(rule) {
                for credential in credentials(rule) {
                    for destination in destinations(rule) {
                        let combination = Combination {
                            denied: rule.deny,
                            organisation: rule.organisation,
                            shadow: rule.shadow,
                            agent: agent.clone(),
                            credential: credential.clone(),
                            destination,
                        };
                        all.entry(combination).or_default().insert(how.clone());
                    }
                }
            }
        }
        all
    }
}

fn agents(rule: &Rule) -> Vec<String> {
    match &rule.agents {
        Agents::Any => vec!["*".to_owned()],
        Agents::Some { names, labelled } => {
            let names = names.iter().map(ToString::to_string);
            names.chain(labelled.iter().map(ToString::to_string)).collect()
        }
    }
}

fn credentials(rule: &Rule) -> Vec<Option<String>> {
    match &rule.uses {
        Uses::All => vec![Some("*".to_owned())],
        Uses::Named(names) if names.is_empty() => vec![None],
        Uses::Named(names) => names.iter().map(|name| Some(name.to_string())).collect(),
    }
}

fn destinations(rule: &Rule) -> Vec<Option<String>> {
    match &rule.to {
        None => vec![None],
        Some(to) => to.iter().map(|destination| Some(destination.to_string())).collect(),
    }
}

fn listed<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Everything of a rule but whom, with what and where. Two rules that say the same here allow the same.
fn how(rule: &Rule) -> String {
    if rule.opaque {
        let mut text = "tunnelled unseen".to_owned();
        add_times(&mut text, rule);
        return text;
    }
    let mut text = match &rule.methods {
        None => "any method".to_owned(),
        Some(methods) if methods.is_empty() => "no method".to_owned(),
        Some(methods) => listed(methods),
    };
    match rule.websocket {
        Some(true) => text += " and WebSockets",
        Some(false) => text += if rule.deny { " and WebSockets" } else { ", no WebSockets" },
        None => {}
    }
    match &rule.paths {
        None => text += ", any path",
        Some(paths) => {
            let _ = write!(text, ", at {}", listed(paths));
        }
    }
    if let Some(conditions) = &rule.conditions {
        add_conditions(&mut text, conditions);
    }
    add_times(&mut text, rule);
    for (is, word) in [
        (rule.inject_always, "injected unasked"),
        (rule.refuse_misplaced, "misplaced references refused"),
        (rule.cut_when_withdrawn, "cut when it is withdrawn"),
        (rule.refuse_unusual, "refused when it is unusual"),
        (
            rule.undecodable == crate::scrub::Undecodable::Pass,
            "answers that cannot be searched pass",
        ),
    ] {
        if is {
            text += ", ";
            text += word;
        }
    }
    for capture in &*rule.captures {
        let _ = write!(text, ", taken from answers: {capture}");
    }
    for (word, time) in [("answer", rule.timeouts.response), ("pauses", rule.timeouts.idle)] {
        if let Some(time) = time {
            let _ = write!(text, ", {word} within {}", crate::document::show_duration(time));
        }
    }
    if let Some(retry) = rule.retry {
        let _ = write!(text, ", {retry}");
    }
    text
}

fn add_conditions(text: &mut String, conditions: &Conditions) {
    for wanted in &conditions.query {
        let _ = write!(text, ", query {}={}", wanted.name, listed(&wanted.values));
    }
    for wanted in &conditions.headers {
        let _ = write!(text, ", field {}: {}", wanted.name, listed(&wanted.values));
    }
    for (word, values) in [("users", &conditions.users), ("runs", &conditions.runs)] {
        if !values.is_empty() {
            let _ = write!(text, ", {word} {}", listed(values));
        }
    }
}

fn add_times(text: &mut String, rule: &Rule) {
    if let Some(when) = &rule.when {
        let _ = write!(text, ", {when}");
    }
    if let Some(approval) = rule.approval {
        match approval.approvers {
            1 => *text += ", once a person approves",
            several => {
                let _ = write!(text, ", once {several} people approve");
            }
        }
        if approval.wait.is_none() {
            *text += ", refused until then";
        }
    }
    let Some(limits) = rule.meter.as_ref().map(|meter| meter.limits()) else { return };
    let _ = write!(text, ", {limits}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Source;
    use crate::policy::compile;

    fn policy(rules: &str) -> Policy {
        let text = format!("version: 1\nrules:\n{rules}");
        compile(vec![Source::new("p.yaml", &text)]).unwrap_or_else(|report| panic!("{report}"))
    }

    #[test]
    fn each_way_to_change_a_rule_is_a_change() {
        const RULE: &str = "name: r, agents: [a], to: ['https://x.test'], use: [k]";
        let base = policy(&format!("  - {{{RULE}}}\n"));
        assert_eq!(
            base.diff(&policy(&format!("  - {{{}}}\n", RULE.replace("name: r", "name: other")))),
            []
        );
        let labelled = RULE.replace("[a]", "[a, {labels: {team: ml}}]");
        let labelled = base.diff(&policy(&format!("  - {{{labelled}}}\n")));
        let [more] = &labelled[..] else { panic!("{labelled:?}") };
        assert_eq!(more.combination.agent, "labels team=ml");
        for more in [
            "methods: [GET]",
            "paths: [/v1]",
            "websocket: refuse",
            "websocket: allow",
            "query: {a: b}",
            "headers: {a: b}",
            "users: [alice]",
            "runs: ['7']",
            "when: {days: mon, zone: UTC}",
            "when: {hours: 08:00-18:00, zone: UTC}",
            "when: {not_before: '2026-01-01T00:00:00Z'}",
            "when: {not_after: '2026-01-01T00:00:00Z'}",
            "inject: always",
            "misplaced: refuse",
            "scrub: {undecodable: pass}",
            "capture: [{json: /t, as: s}]",
            "timeouts: {response: 1s}",
            "timeouts: {idle: 1s}",
            "limits: {requests: 1/s}",
            "limits: {concurrent: 1}",
            "limits: {bytes: 1KiB/s}",
            "limits: {bytes: 1KiB/s, per: rule}",
            "limits: {concurrent: 1, queue: {size: 1, wait: 1s}}",
            "retry: {attempts: 2}",
            "retry: {attempts: 2, on: [broken]}",
            "retry: {attempts: 2, idempotency_key: true}",
            "on_withdrawal: cut",
            "anomalies: refuse",
            "approval: required",
            "approval: {answer: refuse}",
            "approval: {approvers: 2}",
            "mode: shadow",
            "deny: true",
        ] {
            let changed = policy(&format!("  - {{{RULE}, {more}}}\n"));
            assert!(!base.diff(&changed).is_empty(), "{more}");
            assert_eq!(changed.diff(&changed), [], "{more}");
        }
    }
}
