//! `locum audit`: the record of every use, searched and proved.
//!
//! Searching needs no key, so it works without the vault, and on a log whose vault is broken.
//! Proving needs the vault, which has the key and the anchor.

mod rows;
mod there;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::json;

use super::output::{self, Lines, Progress, counted};
use super::way::Where;
use crate::agent::Label;
use crate::app::{Failure, Home, Opened};
use crate::audit::{Filter, Finding, Follow, Kind, Query, Report, query, tail, verify};
use crate::config::Config;
use crate::document::parse_duration;
use crate::files::Temporary;
use crate::host::Host;
use crate::record::Decision;
use crate::reference::Name;
use rows::{Rows, one_line};

/// Subcommands of `locum audit`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Search the log: who used which credential, when, from which run, allowed or refused
    #[command(
        after_help = "Example:\n  locum audit query --agent researcher --since 2h\n  locum audit query --credential openai --decision refuse --since 2026-11-01 --json"
    )]
    Query(Box<QueryArgs>),
    /// Show the newest records, and those to come
    #[command(
        after_help = "Example:\n  locum audit tail -n 50\n  locum audit tail -f --json | jq .decision"
    )]
    Tail {
        /// How many
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20)]
        lines: usize,
        /// Wait for more
        #[arg(short, long)]
        follow: bool,
        /// Print the records as they are stored, one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Prove that the log is whole, or name the first record that is not
    #[command(
        after_help = "Example:\n  locum audit verify\n  locum audit verify --json\n\nExit code 1 if the log is not whole. A running proxy may go on writing meanwhile."
    )]
    Verify {
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write whole records, one JSON object a line
    #[command(
        after_help = "Example:\n  locum audit export --since 2026-11-01 --until 2026-12-01 --output november.jsonl"
    )]
    Export {
        /// From this time on: RFC 3339, a date, or a duration ago (15m, 2h, 7d)
        #[arg(long, value_name = "TIME", value_parser = moment)]
        since: Option<SystemTime>,
        /// Before this time
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Option<SystemTime>,
        /// A new file, of mode 0600, in place of standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Arguments of `locum audit query`.
#[derive(Debug, clap::Args)]
pub(super) struct QueryArgs {
    /// Of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<Name>,
    /// With this credential
    #[arg(long, value_name = "NAME")]
    credential: Option<Name>,
    /// To this host
    #[arg(long, value_name = "HOST", value_parser = host)]
    host: Option<Host>,
    /// Of this run
    #[arg(long, value_name = "ID")]
    run: Option<Label>,
    /// Decided so
    #[arg(long, value_enum)]
    decision: Option<DecisionWord>,
    /// Only records of this kind
    #[arg(long, value_enum)]
    kind: Option<KindWord>,
    /// From this time on: RFC 3339, a date, or a duration ago (15m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<SystemTime>,
    /// Of this request: the `instance` of a refusal
    #[arg(long, value_name = "ID", value_parser = request_id)]
    request: Option<String>,
    /// The newest so many: requests in the table, records with --json
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print the records as they are stored, one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DecisionWord {
    Permit,
    Refuse,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum KindWord {
    Access,
    Outcome,
    Event,
}

impl From<DecisionWord> for Decision {
    fn from(word: DecisionWord) -> Self {
        match word {
            DecisionWord::Permit => Self::Permit,
            DecisionWord::Refuse => Self::Refuse,
        }
    }
}

impl From<KindWord> for Kind {
    fn from(word: KindWord) -> Self {
        match word {
            KindWord::Access => Self::Access,
            KindWord::Outcome => Self::Outcome,
            KindWord::Event => Self::Event,
        }
    }
}

/// Whoever names no workspace has the home, and sees all of it; an administrator sees one.
pub(super) fn run(to: &Where, command: Command) -> Result<ExitCode, Failure> {
    if to.is_there() {
        return there::run(to.open()?, command);
    }
    let (home, workspace) = (&to.home()?, to.workspace.as_ref());
    if let Command::Verify { json } = command {
        return prove(home, json);
    }
    let dir = directory(home)?;
    match command {
        Command::Query(args) => search(&dir, workspace, *args),
        Command::Tail { lines, follow, json } => newest(&dir, workspace, lines, (follow, json)),
        Command::Verify { json } => prove(home, json),
        Command::Export { since, until, output } => {
            let filter =
                Filter { workspace: text_of(workspace), since, until, ..Filter::default() };
            export(&dir, filter, output.as_deref())
        }
    }
}

fn text_of(workspace: Option<&Name>) -> Option<String> {
    workspace.map(ToString::to_string)
}

/// Where the log is. Asks for no key: reading the log takes none.
fn directory(home: &Home) -> Result<PathBuf, Failure> {
    let config = Config::load(&home.config(), home.path())?;
    let dir = config.audit.dir;
    if dir.symlink_metadata().is_err() {
        home.require()?;
        return Err(Failure::new(format!("there is no audit log in {}", dir.display()))
            .help("`locum serve` makes it; audit.dir in locum.yaml says where"));
    }
    Ok(dir)
}

/// A time in the past: RFC 3339, a date (its start, UTC), or how long ago.
pub(super) fn moment(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.into());
    }
    if let Ok(midnight) = text.parse::<Date>().and_then(|date| date.in_tz("UTC")) {
        return Ok(midnight.timestamp().into());
    }
    let ago = parse_duration(text).map_err(
        |_| "not a time; write 2026-11-21T12:00:00Z, 2026-11-21, or how long ago: 15m, 2h, 7d",
    )?;
    SystemTime::now().checked_sub(ago).ok_or_else(|| "longer ago than time goes".to_owned())
}

fn host(text: &str) -> Result<Host, String> {
    Host::parse(text).map_err(|e| e.to_string())
}

fn request_id(text: &str) -> Result<String, &'static str> {
    let text = text.rsplit(':').next().unwrap_or(text).to_ascii_lowercase();
    let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if hex { Ok(text) } else { Err("a request's id has 32 hex digits") }
}

impl QueryArgs {
    fn filter(self) -> Filter {
        Filter {
            agent: self.agent.map(|name| name.to_string()),
            credential: self.credential.map(|name| name.to_string()),
            // As records have it: an IPv6 address without its brackets.
            host: self.host.map(|h| h.address().map_or_else(|| h.to_string(), |a| a.to_string())),
            run: self.run.map(|label| label.as_str().to_owned()),
            decision: self.decision.map(Into::into),
            kind: self.kind.map(Into::into),
            since: self.since,
            until: self.until,
            request_id: self.request,
            limit: self.limit,
            workspace: None,
        }
    }
}

fn search(dir: &Path, workspace: Option<&Name>, args: QueryArgs) -> Result<ExitCode, Failure> {
    let (json, limit) = (args.json, args.limit);
    let mut filter = Filter { workspace: text_of(workspace), ..args.filter() };
    if json {
        return print_all(query(dir, filter)?);
    }
    // The table counts requests; their outcomes must not push them out.
    filter.limit = None;
    let mut rows = Rows::new(limit, filter.kind == Some(Kind::Outcome));
    let mut unreadable = Unreadable::default();
    for entry in query(dir, filter)? {
        match entry {
            Ok(entry) => rows.add(&entry),
            Err(error) => unreadable.note(&error.into()),
        }
    }
    rows.print()?;
    Ok(unreadable.exit())
}

/// Lines that cannot be read are told, and the others shown: what is left of a damaged log counts.
#[derive(Default)]
struct Unreadable(u64);

impl Unreadable {
    fn note(&mut self, failure: &Failure) {
        const ENOUGH: u64 = 10;
        self.0 += 1;
        if self.0 <= ENOUGH {
            output::note(&format!("warning: {failure}"));
        }
    }

    fn exit(&self) -> ExitCode {
        if self.0 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Prints the records as they are stored.
fn print_all(found: Query) -> Result<ExitCode, Failure> {
    let (mut lines, mut unreadable) = (Lines::new(), Unreadable::default());
    for entry in found {
        match entry {
            Ok(entry) => {
                if !lines.line(entry.line())? {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Err(error) => unreadable.note(&error.into()),
        }
    }
    lines.flush()?;
    Ok(unreadable.exit())
}

/// How often a followed log is looked at: soon enough for a person.
const LOOK: Duration = Duration::from_millis(200);

fn newest(
    dir: &Path,
    workspace: Option<&Name>,
    count: usize,
    (follow, json): (bool, bool),
) -> Result<ExitCode, Failure> {
    let filter = Filter { workspace: text_of(workspace), ..Filter::default() };
    // Before the newest are read, so that none falls between.
    let mut more = follow.then(|| Follow::new(dir, filter.clone())).transpose()?;
    let mut lines = Lines::new();
    let mut last = 0;
    let mut entries = if workspace.is_none() {
        tail(dir, count)?
    } else {
        query(dir, Filter { limit: Some(count), ..filter })?.collect::<Result<_, _>>()?
    };
    loop {
        for entry in &entries {
            let number = entry.number("seq");
            if number.is_some_and(|n| n <= last) {
                continue; // Written between the first look and the second.
            }
            last = number.unwrap_or(last);
            let text = if json { entry.line().to_owned() } else { one_line(entry) };
            if !lines.line(&text)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        let Some(more) = more.as_mut().filter(|_| lines.flush().unwrap_or(false)) else {
            lines.flush()?;
            return Ok(ExitCode::SUCCESS);
        };
        std::thread::sleep(LOOK);
        entries = more.poll()?;
    }
}

fn prove(home: &Home, json: bool) -> Result<ExitCode, Failure> {
    let opened = Opened::open(home).map_err(|failure| {
        failure
            .within("the log cannot be verified, because the vault that has its key does not open")
    })?;
    let (key, anchor) = (opened.vault.audit_key(), opened.audit_anchor()?);
    let dir = opened.config.audit.dir.clone();
    drop(opened);
    let mut progress = Progress::new("verifying the audit log");
    let report = verify(&dir, &key, anchor, &mut |at| progress.show(at.bytes, at.total))?;
    drop(progress);
    if json {
        output::json(&proof_as_json(&report))?;
    } else {
        output::line(&proof_as_text(&report))?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn proof_as_json(report: &Report) -> serde_json::Value {
    let first_bad = report.first_bad.as_ref().map(|Finding { file, line, seq, what }| {
        json!({
            "file": file, "line": line, "seq": seq,
            "what": what.code(), "detail": what.to_string(),
        })
    });
    json!({
        "ok": report.ok,
        "records": report.records,
        "files": report.files,
        "first_seq": report.first_seq,
        "last": report.last.map(|last| json!({"seq": last.seq, "mac": last.mac_hex()})),
        "anchor_checked": report.anchor_checked,
        "unfinished_line": report.unfinished_line,
        "findings": report.findings,
        "first_bad": first_bad,
    })
}

fn proof_as_text(report: &Report) -> String {
    let genuine =
        format!("{} in {}", counted(report.records, "record"), counted(report.files, "file"));
    if let Some(first) = &report.first_bad {
        let places = counted(report.findings, "place");
        return format!(
            "the audit log is not whole\n{first}\n{places} in all; {genuine} are genuine and in their place"
        );
    }
    let end = report.last.map_or_else(String::new, |last| {
        format!(", {} to {}\nits end, to keep elsewhere: {last}", report.first_seq, last.seq)
    });
    let unanchored = "\nthere was no anchor in the vault to compare it with";
    let note = if report.anchor_checked { "" } else { unanchored };
    format!("the audit log is whole: {genuine}{end}{note}")
}

fn export(dir: &Path, filter: Filter, to: Option<&Path>) -> Result<ExitCode, Failure> {
    let found = query(dir, filter)?;
    let Some(path) = to else { return print_all(found) };
    export_to(path, |write| {
        let (mut records, mut unreadable) = (0_u64, Unreadable::default());
        for entry in found {
            match entry {
                Ok(entry) => {
                    records += 1;
                    write(entry.line())?;
                }
                Err(error) => unreadable.note(&error.into()),
            }
        }
        Ok((records, unreadable.exit()))
    })
}

/// The file is there whole or not at all: `fill` writes it line by line, and says how many records there are.
fn export_to(
    path: &Path,
    fill: impl FnOnce(&mut dyn FnMut(&str) -> Result<bool, Failure>) -> Result<(u64, ExitCode), Failure>,
) -> Result<ExitCode, Failure> {
    let temporary = Temporary::beside(path)?;
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", path.display()));
    let file = std::fs::OpenOptions::new().write(true).open(temporary.path()).map_err(failed)?;
    let mut file = std::io::BufWriter::with_capacity(64 * 1024, file);
    let mut write = |line: &str| {
        writeln!(file, "{line}").map_err(failed)?;
        Ok(true)
    };
    let (records, exit) = fill(&mut write)?;
    file.flush().map_err(failed)?;
    drop(file);
    temporary.publish_as_new(path)?;
    let records = counted(records, "record");
    output::line(&format!("wrote {records} to {}", path.display()))?;
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_three_ways() {
        let at = |text: &str| moment(text).unwrap();
        let noon = SystemTime::UNIX_EPOCH + Duration::from_hours(498_684);
        assert_eq!(at("2026-11-21T12:00:00Z"), noon);
        assert_eq!(at("2026-11-21T13:00:00+01:00"), noon);
        assert_eq!(at("2026-11-21"), noon - Duration::from_hours(12));
        let ago = at("2h").elapsed().unwrap();
        assert!(ago >= Duration::from_hours(2) && ago < Duration::from_hours(3));
        for bad in ["", "yesterday", "12", "2026-13-01", "7w"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn request_ids_are_taken_as_refusals_print_them() {
        let id = "0192ABcd".repeat(4);
        assert_eq!(request_id(&format!("urn:locum:request:{id}")), Ok(id.to_ascii_lowercase()));
        assert!(request_id("0192").is_err() && request_id(&"g".repeat(32)).is_err());
    }
}
