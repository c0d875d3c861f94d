//! When credentials are due, who uses them, and who may: `schedule`, `register`, and what lists show.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::admin::orders::credentials::{LONGEST_DAYS, ScheduleCredential, Scheduled, Scheduling};
use crate::admin::orders::now;
use crate::admin::orders::register::{self as orders, Line};
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
    let date: String = output::time(due).chars().take(10).collect();
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

const HEADINGS: [&str; 8] =
    ["CREDENTIAL", "WHAT", "GOES TO", "MAY USE IT", "USED BY", "LAST USE", "ROTATED", "DUE"];

fn row(line: &Line) -> Vec<String> {
    let agents: BTreeSet<&str> = line.may_use.values().flatten().map(String::as_str).collect();
    let join = |all: &mut dyn Iterator<Item = &str>| {
        let all: Vec<String> = all.map(plain).collect();
        if all.is_empty() { "-".to_owned() } else { all.join(", ") }
    };
    let last = line.used.last.as_deref().map_or("-", |time| time.get(..10).unwrap_or(time));
    vec![
        line.credential.clone(),
        plain(&format!("{}{}", line.what, if line.state == "live" { "" } else { ", revoked" })),
        join(&mut line.goes_to.iter().map(String::as_str)),
        join(&mut agents.into_iter()),
        join(&mut line.used.agents.iter().map(String::as_str)),
        plain(last),
        format!(
            "{} ({} d ago)",
            output::time(line.rotated).get(..10).unwrap_or_default(),
            line.age_days
        ),
        due_text(line.due),
    ]
}

/// A table as Markdown has it.
fn markdown(mut rows: impl Iterator<Item = Vec<String>>) -> Result<(), Failure> {
    let line = |cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        output::line(&format!("| {} |", cells.join(" | ")))
    };
    line(HEADINGS.map(str::to_lowercase).to_vec())?;
    line(HEADINGS.map(|_| "---".to_owned()).to_vec())?;
    rows.try_for_each(line)
}
