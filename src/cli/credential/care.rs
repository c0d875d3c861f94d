//! When credentials are due, who uses them, and who may: `schedule`, `register`, and what lists show.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use crate::app::{Failure, Opened, load_policy};
use crate::audit::{Filter, Kind, query};
use crate::cli::output::{self, Table, plain};
use crate::credential::{Schedule, Sensitivity, days_between};
use crate::document::parse_duration;
use crate::record::Decision;
use crate::reference::Name;
use crate::vault::CredentialInfo;

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

/// Ten years: who means longer means never.
const LONGEST_DAYS: u64 = 3650;

fn days(text: &str) -> Result<u32, String> {
    const DAY: u64 = 24 * 60 * 60;
    let seconds = parse_duration(text).map_err(|error| error.to_string())?.as_secs();
    let whole = seconds.is_multiple_of(DAY) && (1..=LONGEST_DAYS).contains(&(seconds / DAY));
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

pub(super) fn schedule(opened: &mut Opened, args: &ScheduleCommand) -> Result<(), Failure> {
    let schedule = args.schedule.read();
    if schedule.is_none() && !args.none {
        return Err(Failure::usage("nothing says how often")
            .help("give --rotate-every 30d, --sensitivity high or --none"));
    }
    opened.vault.set_properties(&args.name, |properties| properties.rotate = schedule)?;
    opened.changed()?;
    let info = opened.vault.credential(&args.name)?;
    if args.json {
        return output::json(&serde_json::json!({"credential": args.name, "due": due(&info)}));
    }
    match schedule {
        Some(schedule) => output::line(&format!(
            "{} is to be rotated {schedule}; the next time by {}",
            args.name,
            due(&info).map(output::time).unwrap_or_default()
        )),
        None => output::line(&format!("{} has no schedule any more", args.name)),
    }
}

/// When it got the secret that it has, in seconds since the Unix epoch.
pub(super) fn rotated(info: &CredentialInfo) -> i64 {
    info.current().map_or_else(|| info.last_rotation(), |version| version.created)
}

/// Whole days since then.
pub(super) fn age_days(info: &CredentialInfo) -> i64 {
    days_between(rotated(info), unix(SystemTime::now())).max(0)
}

/// When it is due, if it has a schedule and is live.
pub(super) fn due(info: &CredentialInfo) -> Option<i64> {
    let schedule = info.properties.rotate.filter(|_| info.current().is_some())?;
    Some(schedule.due(rotated(info)))
}

/// A due date as tables show it.
pub(super) fn due_text(due: Option<i64>) -> String {
    let Some(due) = due else { return "-".to_owned() };
    let left = due - unix(SystemTime::now());
    let date: String = output::time(due).chars().take(10).collect();
    if left <= 0 { format!("{date}, OVERDUE") } else { date }
}

fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What the audit log has of a credential's use.
#[derive(Debug, Default, Serialize)]
pub(super) struct Usage {
    requests: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    agents: BTreeSet<String>,
}

/// The use of all credentials from a time on. Reads the files of the log that are as new, and no
/// others.
pub(super) fn usage(
    opened: &Opened,
    since: SystemTime,
) -> Result<BTreeMap<String, Usage>, Failure> {
    let filter = Filter {
        workspace: Some(opened.vault.workspace().to_string()),
        decision: Some(Decision::Permit),
        since: Some(since),
        ..Filter::default()
    };
    let mut all = BTreeMap::<String, Usage>::new();
    for entry in query(&opened.config.audit.dir, filter)? {
        let entry = entry?;
        if entry.kind() != Some(Kind::Access) {
            continue;
        }
        let more = entry.value().get("more_credentials").and_then(Value::as_array);
        for one in std::iter::once(entry.value()).chain(more.into_iter().flatten()) {
            let Some(name) = one.get("credential").and_then(Value::as_str) else { continue };
            let usage = all.entry(name.to_owned()).or_default();
            usage.requests += 1;
            usage.last = entry.text("time").map(str::to_owned);
            // Errands of Locum's own have no agent.
            usage.agents.extend(entry.text("agent").map(str::to_owned));
        }
    }
    Ok(all)
}

/// The names of live credentials that were not used for so long, and are as old.
pub(super) fn unused(
    opened: &Opened,
    all: &[CredentialInfo],
    time: Duration,
) -> Result<BTreeSet<String>, Failure> {
    let since = SystemTime::now().checked_sub(time).unwrap_or(UNIX_EPOCH);
    let used = usage(opened, since)?;
    let idle = all.iter().filter(|info| {
        let name = info.name.to_string();
        info.current().is_some() && info.created <= unix(since) && !used.contains_key(&name)
    });
    Ok(idle.map(|info| info.name.to_string()).collect())
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

/// A line of the register.
#[derive(Serialize)]
struct Line {
    credential: String,
    what: String,
    tier: &'static str,
    tags: Vec<String>,
    goes_to: Vec<String>,
    /// Each rule that lets anybody use it, with whom it names.
    may_use: BTreeMap<String, Vec<String>>,
    used: Usage,
    state: &'static str,
    rotated: i64,
    age_days: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
}

pub(super) fn register(opened: &Opened, args: &Register) -> Result<(), Failure> {
    let since = SystemTime::now().checked_sub(args.since).unwrap_or(UNIX_EPOCH);
    let mut used = usage(opened, since)?;
    let policy = load_policy(&opened.home)?;
    let (sets, values) = (opened.vault.sets()?, opened.vault.values()?);
    let line = |info: &CredentialInfo| {
        let within = sets.iter().filter(|set| set.members.contains(&info.name));
        let leads = |reference: &Name| {
            *reference == info.name || info.properties.serves.as_ref() == Some(reference)
        };
        let held = values.iter().filter(|(_, value)| value.credentials().any(leads));
        let names = within.map(|set| &set.name).chain(held.map(|(name, _)| name));
        let names: Vec<&Name> = names.chain([&info.name]).chain(&info.properties.serves).collect();
        let rules = policy.users_of(&names);
        Line {
            credential: info.name.to_string(),
            what: what(info),
            tier: info.tier.as_str(),
            tags: info.tags.clone(),
            goes_to: info.destinations.iter().map(ToString::to_string).collect(),
            may_use: rules.into_iter().map(|(rule, agents)| (rule.to_owned(), agents)).collect(),
            used: used.remove(info.name.as_str()).unwrap_or_default(),
            state: state(info),
            rotated: rotated(info),
            age_days: age_days(info),
            schedule: info.properties.rotate.map(|schedule| schedule.to_string()),
            due: due(info),
        }
    };
    let lines: Vec<Line> = opened.vault.credentials()?.iter().map(line).collect();
    if args.json {
        return output::json(&lines);
    }
    let rows = lines.iter().map(Line::row);
    if args.markdown {
        return markdown(rows);
    }
    let mut table = Table::new(&HEADINGS);
    rows.for_each(|row| table.row(row));
    table.print()
}

const HEADINGS: [&str; 8] =
    ["CREDENTIAL", "WHAT", "GOES TO", "MAY USE IT", "USED BY", "LAST USE", "ROTATED", "DUE"];

impl Line {
    fn row(&self) -> Vec<String> {
        let agents: BTreeSet<&str> = self.may_use.values().flatten().map(String::as_str).collect();
        let join = |all: &mut dyn Iterator<Item = &str>| {
            let all: Vec<String> = all.map(plain).collect();
            if all.is_empty() { "-".to_owned() } else { all.join(", ") }
        };
        let last = self.used.last.as_deref().map_or("-", |time| time.get(..10).unwrap_or(time));
        vec![
            self.credential.clone(),
            plain(&format!("{}{}", self.what, if self.state == "live" { "" } else { ", revoked" })),
            join(&mut self.goes_to.iter().map(String::as_str)),
            join(&mut agents.into_iter()),
            join(&mut self.used.agents.iter().map(String::as_str)),
            plain(last),
            format!(
                "{} ({} d ago)",
                output::time(self.rotated).get(..10).unwrap_or_default(),
                self.age_days
            ),
            due_text(self.due),
        ]
    }
}

fn what(info: &CredentialInfo) -> String {
    let provider = info.provider.as_deref().unwrap_or("own");
    let kind = info.properties.kind.as_ref().map(|kind| format!(", {}", kind.name()));
    let source = info.properties.source.as_ref().map(|source| format!(", from {}", source.kind()));
    format!("{provider}{}{}", kind.unwrap_or_default(), source.unwrap_or_default())
}

fn state(info: &CredentialInfo) -> &'static str {
    match info.current() {
        Some(_) => "live",
        None => "revoked",
    }
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
