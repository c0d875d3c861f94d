//! `locum policy diff`: what a change adds and takes away, for who reviews it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{output, rejected};
use crate::app::{Failure, read_policies};
use crate::policy::{Change, Combination};

pub(super) fn run(old: &Path, new: &Path, json: bool) -> Result<ExitCode, Failure> {
    let mut policies = Vec::with_capacity(2);
    for path in [old, new] {
        let read = read_policies(&[path.to_owned()]);
        match read.policy {
            Ok(compiled) => policies.push(compiled.policy),
            Err(report) => return rejected(read.files, &report, json),
        }
    }
    let changes = policies[0].diff(&policies[1]);
    if json {
        output::json(&changes.iter().map(as_json).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in &changes {
        let who = in_words(&change.combination);
        let lines = |mark: char, hows: &BTreeSet<String>, others: &BTreeSet<String>| {
            hows.difference(others)
                .try_for_each(|how| output::line(&output::plain(&format!("{mark} {who}: {how}"))))
        };
        lines('-', &change.before, &change.after)?;
        lines('+', &change.after, &change.before)?;
    }
    if changes.is_empty() {
        output::line("nothing changes")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn in_words(combination: &Combination) -> String {
    let Combination { denied, organisation, shadow, agent, credential, destination } = combination;
    let layer = if *organisation { "organisation: " } else { "" };
    let shadow = if *shadow { " (only recorded)" } else { "" };
    let agent = if agent == "*" { "any agent" } else { agent };
    let verb = if *denied { "may not" } else { "may" };
    let what = match credential.as_deref() {
        None => "send".to_owned(),
        Some("*") => "use any credential".to_owned(),
        Some(name) => format!("use {name}"),
    };
    let place = destination
        .as_deref()
        .map_or_else(|| "where it is bound".to_owned(), |destination| format!("at {destination}"));
    format!("{layer}{agent} {verb} {what} {place}{shadow}")
}

fn as_json(change: &Change) -> Value {
    let Combination { denied, organisation, shadow, agent, credential, destination } =
        &change.combination;
    json!({
        "change": match (change.before.is_empty(), change.after.is_empty()) {
            (true, _) => "added",
            (_, true) => "removed",
            _ => "changed",
        },
        "decision": if *denied { "deny" } else { "allow" },
        "layer": if *organisation { "organisation" } else { "workspace" },
        "shadow": shadow, "agent": agent, "credential": credential, "destination": destination,
        "before": change.before, "after": change.after,
    })
}
