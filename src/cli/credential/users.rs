//! Who used a credential, as the audit log has it.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use crate::app::{Failure, Opened};
use crate::audit::{Entry, Filter, Kind, query};
use crate::cli::audit::moment;
use crate::cli::output::{self, Table, plain};
use crate::record::Decision;
use crate::reference::Name;

/// The most rows that are kept. More runs than a person reads; a script asks for less time at once.
const MOST: usize = 100_000;

/// Arguments of `locum credential who-uses`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct WhoUses {
    /// The credential's name
    name: Name,
    /// Only this version
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// From this time on: RFC 3339, a date, or a duration ago (15m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One run, or what an agent did outside of any, with one version.
#[derive(Debug, Serialize)]
pub(super) struct User {
    agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    version: u64,
    requests: u64,
    /// Requests that have no outcome yet.
    open: u64,
    first: String,
    last: String,
}

pub(super) fn who_uses(opened: &Opened, args: &WhoUses) -> Result<(), Failure> {
    let versions: Vec<u32> = args.version.into_iter().collect();
    let users = users(opened, &args.name, &versions, args.since)?;
    if args.json { output::json(&users) } else { User::table(&users).print() }
}

/// Who used one of these versions of a credential, or any when none is named; the last first.
pub(super) fn users(
    opened: &Opened,
    name: &Name,
    versions: &[u32],
    since: Option<SystemTime>,
) -> Result<Vec<User>, Failure> {
    let filter = Filter {
        workspace: Some(opened.vault.workspace().to_string()),
        credential: Some(name.to_string()),
        decision: Some(Decision::Permit),
        since,
        ..Filter::default()
    };
    let mut found = Found::default();
    for entry in query(&opened.config.audit.dir, filter)? {
        found.take(&entry?, name, versions);
    }
    if found.left_out {
        output::note(&format!("warning: there are more than {MOST} runs; give a later --since"));
    }
    let mut all: Vec<User> = found.users.into_values().collect();
    all.sort_by(|a, b| b.last.cmp(&a.last).then_with(|| a.agent.cmp(&b.agent)));
    Ok(all)
}

type Key = (String, Option<String>, u64);

#[derive(Default)]
struct Found {
    users: HashMap<Key, User>,
    /// Requests without an outcome, each with all that it is counted under: another attempt may carry another version.
    open: HashMap<String, Vec<Key>>,
    left_out: bool,
}

impl Found {
    fn take(&mut self, entry: &Entry, name: &Name, versions: &[u32]) {
        if entry.kind() == Some(Kind::Outcome) {
            let keys = entry.request_id().and_then(|id| self.open.remove(id));
            for key in keys.into_iter().flatten() {
                self.users.entry(key).and_modify(|user| user.open -= 1);
            }
            return;
        }
        let Some(version) = version_of(entry, name) else { return };
        let wanted = |own: &u32| u64::from(*own) == version;
        if !versions.is_empty() && !versions.iter().any(wanted) {
            return;
        }
        let text = |field: &str| entry.text(field).map(str::to_owned);
        let key = (text("agent").unwrap_or_default(), text("run"), version);
        if !self.users.contains_key(&key) && self.users.len() >= MOST {
            self.left_out = true;
            return;
        }
        let time = text("time").unwrap_or_default();
        let user = self.users.entry(key.clone()).or_insert_with(|| User {
            agent: key.0.clone(),
            run: key.1.clone(),
            user: text("user"),
            version,
            requests: 0,
            open: 0,
            first: time.clone(),
            last: String::new(),
        });
        user.last = time;
        let keys = self.open.entry(text("request_id").unwrap_or_default()).or_default();
        if !keys.contains(&key) {
            keys.push(key);
            (user.requests, user.open) = (user.requests + 1, user.open + 1);
        }
    }
}

/// In which version a request carried the credential.
fn version_of(entry: &Entry, name: &Name) -> Option<u64> {
    let more = entry.value().get("more_credentials").and_then(Value::as_array);
    let mut all = std::iter::once(entry.value()).chain(more.into_iter().flatten());
    let is_it = |one: &&Value| one.get("credential").and_then(Value::as_str) == Some(name.as_str());
    all.find(is_it)?.get("version")?.as_u64()
}

impl User {
    pub(super) fn table(all: &[Self]) -> Table {
        let mut table =
            Table::new(&["AGENT", "RUN", "USER", "VERSION", "REQUESTS", "OPEN", "FIRST", "LAST"]);
        let or_dash = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), plain);
        for user in all {
            table.row(vec![
                plain(&user.agent),
                or_dash(&user.run),
                or_dash(&user.user),
                user.version.to_string(),
                user.requests.to_string(),
                user.open.to_string(),
                second(&user.first),
                second(&user.last),
            ]);
        }
        table
    }
}

/// `2026-11-21 12:00:00Z`.
fn second(time: &str) -> String {
    match (time.get(..10), time.get(11..19)) {
        (Some(date), Some(time)) => plain(&format!("{date} {time}Z")),
        _ => "-".to_owned(),
    }
}
