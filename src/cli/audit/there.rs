//! `locum audit` by a proxy that runs: the records of an administrator's workspace, the newest first so many.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::rows::{Rows, one_line};
use super::{Command, QueryArgs, export_to};
use crate::admin::orders::records::{ExportRecords, Lines, QueryRecords, RECORDS};
use crate::app::Failure;
use crate::audit::{Entry, Filter, Kind};
use crate::cli::output;
use crate::cli::way::Way;

/// How often a followed log is asked for: each time, the proxy reads the end of it.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn run(mut way: Way, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Query(args) => search(&mut way, *args),
        Command::Tail { lines, follow, json } => tail(&mut way, lines, (follow, json)),
        Command::Verify { .. } => way.here("verifying the log").map(|_| ExitCode::SUCCESS),
        Command::Export { since, until, output: None } => {
            let mut lines = output::Lines::new();
            let (_, unreadable) = export(&mut way, (since, until), |line| lines.line(line))?;
            lines.flush()?;
            Ok(said(unreadable))
        }
        Command::Export { since, until, output: Some(path) } => export_to(&path, |write| {
            let (records, unreadable) = export(&mut way, (since, until), write)?;
            Ok((records, said(unreadable)))
        }),
    }
}

fn search(way: &mut Way, args: QueryArgs) -> Result<ExitCode, Failure> {
    let (json, wanted) = (args.json, args.limit);
    let filter = args.filter();
    let outcomes_only = filter.kind == Some(Kind::Outcome);
    // The table counts requests; their outcomes must not push them out.
    let limit = if json { wanted.unwrap_or(RECORDS).min(RECORDS) } else { RECORDS };
    let found = way.order(QueryRecords { filter: Filter { limit: None, ..filter }, limit })?;
    if found.lines.len() >= RECORDS {
        output::note(&format!(
            "warning: these are the newest {RECORDS} records; say --since and --until for older ones"
        ));
    }
    if json {
        let mut lines = output::Lines::new();
        for line in &found.lines {
            if !lines.line(line)? {
                break;
            }
        }
        lines.flush()?;
    } else {
        let mut rows = Rows::new(wanted, outcomes_only);
        entries(&found).for_each(|entry| rows.add(&entry));
        rows.print()?;
    }
    Ok(unreadable(&found))
}

fn entries(found: &Lines) -> impl Iterator<Item = Entry> {
    found.lines.iter().filter_map(|line| Entry::read(line))
}

/// All of it, part by part, until whoever takes it has enough: how many records, and lines that cannot be
/// read.
fn export(
    way: &mut Way,
    (since, until): (Option<SystemTime>, Option<SystemTime>),
    mut take: impl FnMut(&str) -> Result<bool, Failure>,
) -> Result<(u64, u64), Failure> {
    let (mut records, mut unreadable, mut after) = (0, 0, 0);
    loop {
        let part = way.order(ExportRecords { since, until, after, limit: None })?;
        unreadable += part.unreadable;
        for line in &part.lines {
            records += 1;
            if !take(line)? {
                return Ok((records, unreadable));
            }
        }
        match part.next {
            Some(next) => after = next,
            None => return Ok((records, unreadable)),
        }
    }
}

/// Lines that cannot be read are told, and the others shown, as beside the files.
fn unreadable(found: &Lines) -> ExitCode {
    said(found.unreadable)
}

fn said(unreadable: u64) -> ExitCode {
    if unreadable == 0 {
        return ExitCode::SUCCESS;
    }
    let lines = output::counted(unreadable, "line");
    output::note(&format!("warning: {lines} of the log cannot be read"));
    ExitCode::FAILURE
}

fn tail(way: &mut Way, count: usize, (follow, json): (bool, bool)) -> Result<ExitCode, Failure> {
    let mut limit = count.min(RECORDS);
    let mut out = output::Lines::new();
    let (mut last, mut since) = (0, None);
    loop {
        let found =
            way.order(QueryRecords { filter: Filter { since, ..Filter::default() }, limit })?;
        for entry in entries(&found) {
            let number = entry.seq();
            if number.is_some_and(|n| n <= last) {
                continue; // It was there at the look before.
            }
            last = number.unwrap_or(last);
            // What comes in the same second is asked for again, and known by its number.
            let at = entry.time().and_then(|time| time.parse::<Timestamp>().ok());
            since = at.map(SystemTime::from).or(since);
            let text = if json { entry.line().to_owned() } else { one_line(&entry) };
            if !out.line(&text)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if !out.flush()? || !follow {
            return Ok(ExitCode::SUCCESS);
        }
        limit = RECORDS;
        std::thread::sleep(LOOK);
    }
}
