//! Records as people read them: a table of requests, or one line for each record.

use std::collections::{HashMap, VecDeque};

use crate::app::Failure;
use crate::audit::{Entry, Kind};
use crate::cli::output::{self, Table, plain};

/// The rows of a table, at most so many: one for each request, with its outcome, and each event.
pub(super) struct Rows {
    limit: Option<usize>,
    /// Outcomes have rows of their own.
    outcomes_only: bool,
    rows: VecDeque<Row>,
    /// The number of the first row that is kept.
    first: usize,
    /// Requests that wait for their outcome, by the number of their row.
    open: HashMap<String, usize>,
}

#[derive(Debug, Default)]
struct Row {
    time: String,
    who: String,
    decision: String,
    method: String,
    target: String,
    credential: String,
    result: String,
}

impl Rows {
    pub(super) fn new(limit: Option<usize>, outcomes_only: bool) -> Self {
        Self { limit, outcomes_only, rows: VecDeque::new(), first: 0, open: HashMap::new() }
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        match entry.kind() {
            Some(Kind::Access) => {
                if let Some(id) = entry.request_id() {
                    self.open.insert(id.to_owned(), self.first + self.rows.len());
                }
                self.push(access(entry));
            }
            Some(Kind::Outcome) if self.outcomes_only => self.push(outcome(entry)),
            Some(Kind::Outcome) => self.end(entry),
            Some(Kind::Event) | None => self.push(event(entry)),
        }
    }

    fn push(&mut self, row: Row) {
        self.rows.push_back(row);
        if self.limit.is_some_and(|limit| self.rows.len() > limit) {
            self.rows.pop_front();
            self.first += 1;
        }
    }

    /// Puts the outcome into its request's row, if that is still there.
    fn end(&mut self, entry: &Entry) {
        let row = entry.request_id().and_then(|id| self.open.remove(id));
        let row = row.and_then(|n| self.rows.get_mut(n.checked_sub(self.first)?));
        if let Some(row) = row {
            row.result = result(entry);
        }
    }

    pub(super) fn print(self) -> Result<(), Failure> {
        let mut table = Table::of_any_texts(&[
            "TIME",
            "AGENT",
            "DECISION",
            "METHOD",
            "DESTINATION",
            "CREDENTIAL",
            "RESULT",
        ]);
        for row in self.rows {
            let Row { time, who, decision, method, target, credential, result } = row;
            table.row(vec![time, who, decision, method, target, credential, result]);
        }
        table.print()
    }
}

fn access(entry: &Entry) -> Row {
    Row {
        time: time(entry),
        who: text(entry, "agent"),
        decision: text(entry, "decision"),
        method: text(entry, "method"),
        target: target(entry),
        credential: credentials(entry),
        result: refusal(entry).unwrap_or_else(|| "-".to_owned()),
    }
}

/// Why it was refused; a permitted request gets its result from its outcome.
fn refusal(entry: &Entry) -> Option<String> {
    let code = plain(entry.text("code")?);
    let reason = entry.text("reason").map(|reason| format!(": {}", plain(reason)));
    Some(format!("{code}{}", reason.unwrap_or_default()))
}

fn outcome(entry: &Entry) -> Row {
    let dash = || "-".to_owned();
    Row {
        time: time(entry),
        who: dash(),
        decision: "outcome".to_owned(),
        method: dash(),
        target: format!("request {}", text(entry, "request_id")),
        credential: dash(),
        result: result(entry),
    }
}

fn event(entry: &Entry) -> Row {
    let dash = || "-".to_owned();
    Row {
        time: time(entry),
        who: text(entry, "by"),
        decision: "event".to_owned(),
        method: dash(),
        target: happening(entry),
        credential: dash(),
        result: dash(),
    }
}

/// One record on one line, as it comes.
pub(super) fn one_line(entry: &Entry) -> String {
    let time = time(entry);
    match entry.kind() {
        Some(Kind::Access) => {
            let Row { who, decision, method, target, credential, .. } = access(entry);
            let code = refusal(entry).map(|why| format!(" ({why})")).unwrap_or_default();
            let with =
                if credential == "-" { String::new() } else { format!(" with {credential}") };
            format!("{time}  {decision}{code}  {who}  {method} {target}{with}")
        }
        Some(Kind::Outcome) => {
            let bytes = |field| entry.number(field).unwrap_or(0);
            let (up, down) = (bytes("bytes_up"), bytes("bytes_down"));
            let id = text(entry, "request_id");
            let took = entry.number("total_us").unwrap_or(0) / 1000;
            format!("{time}  outcome  {}  {up} B up, {down} B down, {took} ms  {id}", result(entry))
        }
        Some(Kind::Event) | None => {
            let by = entry.text("by").map(|by| format!("  by {}", plain(by))).unwrap_or_default();
            format!("{time}  event  {}{by}", happening(entry))
        }
    }
}

/// `2026-11-21 12:00:00.123Z`: milliseconds tell neighbours apart.
fn time(entry: &Entry) -> String {
    let text = entry.time().unwrap_or_default();
    match (text.get(..10), text.get(11..23)) {
        (Some(date), Some(time)) => plain(&format!("{date} {time}Z")),
        _ => "-".to_owned(),
    }
}

fn text(entry: &Entry, field: &str) -> String {
    entry.text(field).filter(|t| !t.is_empty()).map_or_else(|| "-".to_owned(), plain)
}

fn target(entry: &Entry) -> String {
    let path = entry.text("path").unwrap_or_default();
    format!("{}{}", text(entry, "destination"), plain(path))
}

fn happening(entry: &Entry) -> String {
    let more = ["subject", "detail"].iter().filter_map(|field| entry.text(field));
    let words = entry.text("event").into_iter().chain(more);
    plain(&words.collect::<Vec<_>>().join(" "))
}

/// `openai@3`; more than one is rare.
fn credentials(entry: &Entry) -> String {
    let more = entry.value().get("more_credentials").and_then(|more| more.as_array());
    let all = std::iter::once(entry.value()).chain(more.into_iter().flatten());
    let each = all.filter_map(|one| {
        let name = plain(one.get("credential")?.as_str()?);
        let version = one.get("version").and_then(serde_json::Value::as_u64);
        Some(version.map_or_else(|| name.clone(), |version| format!("{name}@{version}")))
    });
    output::list(each)
}

/// Status and code, and how the answer ended unless it simply did.
fn result(entry: &Entry) -> String {
    let status = entry.number("status").map(|status| status.to_string());
    let code = entry.text("code").map(plain);
    let ending = entry.text("ending").filter(|e| *e != "complete" && code.is_none()).map(plain);
    let words: Vec<String> = [status, code, ending].into_iter().flatten().collect();
    if words.is_empty() { "complete".to_owned() } else { words.join(" ") }
}
