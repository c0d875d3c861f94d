//! `locum policy diff`: what a change adds and takes away, for who reviews it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{output, rejected};
use crate::app::{Failure, read_policies};
use crate::policy::{Change, Combination, Diff};

pub(super) fn run(old: &Path, new: &Path, json: bool) -> Result<ExitCode, Failure> {
    let mut policies = Vec::with_capacity(2);
    for path in [old, new] {
        let read = read_policies(&[path.to_owned()]);
        match read.policy {
            Ok(compiled) => policies.push(compiled.policy),
            Err(report) => return rejected(read.files, &report, json),
        }
    }
    let diff = policies[0].diff(&policies[1]);
    if json {
        output::json(&as_json(&diff))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(bound) = diff.bound {
        output::line(in_bounds(bound))?;
    }
    for change in &diff.changes {
        let who = in_words(&change.combination);
        let lines = |mark: char, hows: &BTreeSet<String>, others: &BTreeSet<String>| {
            hows.difference(others)
                .try_for_each(|how| output::line(&output::plain(&format!("{mark} {who}: {how}"))))
        };
        lines('-', &change.before, &change.after)?;
        lines('+', &change.after, &change.before)?;
    }
    for (first, second) in &diff.order {
        let line = format!("~ where both match, `{first}` now comes before `{second}`");
        output::line(&output::plain(&line))?;
    }
    if diff.is_empty() {
        output::line("nothing changes")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the first bounding rule of the organisation does to all others, and the last one's end.
fn in_bounds(bound: bool) -> &'static str {
    if bound {
        "- all that follows and all that was: only where a rule of the organisation allows it, too"
    } else {
        "+ all that any rule allows: no rule of the organisation bounds it any more"
    }
}

/// Names of one kind that a line shows; the others are in `--json`.
const SHOWN: usize = 12;

fn some(names: &[&str]) -> String {
    match names.get(SHOWN + 1) {
        None => names.join(", "),
        Some(_) => {
            format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN)
        }
    }
}

fn in_words(combination: &Combination) -> String {
    let Combination { denied, organisation, shadow, agents, credentials, destinations } =
        combination;
    let layer = if *organisation { "organisation: " } else { "" };
    let shadow = if *shadow { " (only recorded)" } else { "" };
    let agents: Vec<&str> =
        agents.iter().map(|agent| if agent == "*" { "any agent" } else { agent }).collect();
    let verb = if *denied { "may not" } else { "may" };
    let names: Vec<&str> = credentials.iter().filter_map(Option::as_deref).collect();
    let what = match names[..] {
        [] => "send".to_owned(),
        ["*"] => "use any credential".to_owned(),
        _ => format!("use {}", some(&names)),
    };
    let places: Vec<&str> = destinations.iter().filter_map(Option::as_deref).collect();
    let place = match places[..] {
        [] => "where it is bound".to_owned(),
        _ => format!("at {}", some(&places)),
    };
    format!("{layer}{} {verb} {what} {place}{shadow}", some(&agents))
}

fn as_json(diff: &Diff) -> Value {
    let change = |change: &Change| {
        let Combination { denied, organisation, shadow, agents, credentials, destinations } =
            &change.combination;
        let credentials: Vec<&str> = credentials.iter().filter_map(Option::as_deref).collect();
        let destinations: Vec<&str> = destinations.iter().filter_map(Option::as_deref).collect();
        json!({
            "change": match (change.before.is_empty(), change.after.is_empty()) {
                (true, _) => "added",
                (_, true) => "removed",
                _ => "changed",
            },
            "decision": if *denied { "deny" } else { "allow" },
            "layer": if *organisation { "organisation" } else { "workspace" },
            "shadow": shadow, "agents": agents, "credentials": credentials,
            "destinations": destinations, "before": change.before, "after": change.after,
        })
    };
    json!({
        "bound_by_organisation": diff.bound,
        "changes": diff.changes.iter().map(change).collect::<Vec<_>>(),
        "order": diff.order,
    })
}
