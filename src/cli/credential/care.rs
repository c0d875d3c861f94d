//! When credentials are due, who uses them, and who may: `schedule`, `register`, and what lists show.

use std::time::Duration;

use crate::admin::orders::credentials::{LONGEST_DAYS, ScheduleCredential, Scheduled, Scheduling};
use crate::admin::orders::now;
use crate::admin::orders::register::{self as orders, Line, LiveVersion};
use crate::agent::Label;
use crate::app::Failure;
use crate::cli::output::{self, Table, plain};
use crate::cli::way::Way;
use crate::credential::{Schedule, Sensitivity};
use crate::document::parse_duration;
use crate::reference::Name;

/// How often a credential is to be rotated.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Care")]
pub(super) struct ScheduleArgs {
    /// How often it is to get a new secret, in days: 30d
    #[arg(long, value_name = "DURATION", value_parser = days, conflicts_with = "sensitivity")]
    rotate_every: Option<u32>,
    /// The same by what is behind it: `high` (30 days) or `normal` (90 days)
    #[arg(long, value_name = "WORD")]
    sensitivity: Option<Sensitivity>,
}

fn days(text: &str) -> Result<u32, String> {
    const DAY: u64 = 24 * 60 * 60;
    let seconds = parse_duration(text).map_err(|error| error.to_string())?.as_secs();
    let whole =
        seconds.is_multiple_of(DAY) && (1..=u64::from(LONGEST_DAYS)).contains(&(seconds / DAY));
    let days = u32::try_from(seconds / DAY).ok().filter(|_| whole);
    days.ok_or_else(|| format!("it is whole days, from 1d to {LONGEST_DAYS}d"))
}

impl ScheduleArgs {
    pub(super) fn read(&self) -> Option<Schedule> {
        let days = self.rotate_every.map(Schedule::Days);
        days.or_else(|| self.sensitivity.map(Schedule::Sensitivity))
    }
}

/// Arguments of `locum credential schedule`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ScheduleCommand {
    /// The credential's name
    name: Name,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// It is not reminded of any more
    #[arg(long, conflicts_with_all = ["rotate_every", "sensitivity"])]
    none: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn schedule(way: &mut Way, args: &ScheduleCommand) -> Result<(), Failure> {
    let schedule = args.schedule.read();
    if schedule.is_none() && !args.none {
        return Err(Failure::usage("nothing says how often")
            .help("give --rotate-every 30d, --sensitivity high or --none"));
    }
    let how = Scheduling { rotate: schedule };
    let scheduled = way.order(ScheduleCredential { name: args.name.clone(), how })?;
    if args.json {
        return output::json(&scheduled);
    }
    let Scheduled { credential, due } = scheduled;
    match schedule {
        Some(schedule) => output::line(&format!(
            "{credential} is to be rotated {schedule}; the next time by {}",
            due.map(output::time).unwrap_or_default()
        )),
        None => output::line(&format!("{credential} has no schedule any more")),
    }
}

/// A due date as tables show it.
pub(super) fn due_text(due: Option<i64>) -> String {
    let Some(due) = due else { return "-".to_owned() };
    let left = due - now();
    let date = date(due);
    if left <= 0 { format!("{date}, OVERDUE") } else { date }
}

/// Arguments of `locum credential register`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Register {
    /// How far back the audit log is read for who used what
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = parse_duration)]
    since: Duration,
    /// Print a Markdown table
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn register(way: &mut Way, args: &Register) -> Result<(), Failure> {
    let lines = way.order(orders::Register { since: args.since.as_secs() })?;
    if args.json {
        return output::json(&lines);
    }
    let rows = lines.iter().map(row);
    if args.markdown {
        return markdown(rows);
    }
    let mut table = Table::new(&HEADINGS);
    rows.for_each(|row| table.row(row));
    table.print()
}

const HEADINGS: [&str; 11] = [
    "CREDENTIAL",
    "WHAT",
    "WHOSE",
    "GOES TO",
    "MAY USE IT",
    "USED BY",
    "LAST USE",
    "VERSIONS",
    "ROTATED",
    "SENSITIVITY",
    "DUE",
];

fn row(line: &Line) -> Vec<String> {
    let last = line.used.last.as_deref().map_or("-", |time| time.get(..10).unwrap_or(time));
    let rule =
        |(rule, agents): (&String, &Vec<String>)| format!("{} ({rule})", listed(agents, ", "));
    vec![
        line.credential.clone(),
        plain(&format!("{}{}", line.what, if line.state == "live" { "" } else { ", revoked" })),
        whose(line),
        listed(&line.goes_to, ", "),
        listed(line.may_use.iter().map(rule), "; "),
        listed(&line.used.agents, ", "),
        plain(last),
        listed(line.versions.iter().map(|version| live(line, version)), "; "),
        format!("{} ({} d ago)", date(line.rotated), line.age_days),
        line.sensitivity.map_or("-", Sensitivity::as_str).to_owned(),
        due_text(line.due),
    ]
}

fn listed<T: AsRef<str>>(all: impl IntoIterator<Item = T>, between: &str) -> String {
    let all: Vec<String> = all.into_iter().map(|one| plain(one.as_ref())).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(between) }
}

/// `platform`; `user alice, as search, in fetch`.
fn whose(line: &Line) -> String {
    let tier = line.tier.as_str();
    let owner = line.owner.as_ref().map_or(String::new(), |owner| format!(" {}", owner.as_str()));
    let serves = line.serves.as_ref().map_or(String::new(), |name| format!(", as {name}"));
    let nodes: Vec<&str> = line.nodes.iter().map(Label::as_str).collect();
    let nodes =
        if nodes.is_empty() { String::new() } else { format!(", in {}", nodes.join(" and ")) };
    plain(&format!("{tier}{owner}{serves}{nodes}"))
}

/// `3 current (57 requests)`; `2 retired until 2026-11-23 10:00:00Z (4 requests)`.
fn live(line: &Line, LiveVersion { version, state, grace_until, .. }: &LiveVersion) -> String {
    let until =
        grace_until.map_or(String::new(), |until| format!(" until {}", output::time(until)));
    let requests = line.used.versions.get(&u64::from(*version)).map_or(0, |used| used.requests);
    format!("{version} {state}{until} ({})", output::counted(requests, "request"))
}

fn date(unix: i64) -> String {
    output::time(unix).chars().take(10).collect()
}

/// A table as Markdown has it. Names of rules and texts of paths are no markup.
fn markdown(mut rows: impl Iterator<Item = Vec<String>>) -> Result<(), Failure> {
    let line = |cells: Vec<String>| output::line(&format!("| {} |", cells.join(" | ")));
    line(HEADINGS.map(str::to_lowercase).to_vec())?;
    line(HEADINGS.map(|_| "---".to_owned()).to_vec())?;
    rows.try_for_each(|cells| line(cells.iter().map(|cell| unmarked(cell)).collect()))
}

fn unmarked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '|' | '<' | '*' | '[' | '`') {
            shown.push('\\');
        }
        shown.push(c);
    }
    shown
}
