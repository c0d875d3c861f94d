//! Attacks on what lies on the disk. They are made on copies: the proxy goes on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Facts, Outcome};
use crate::app::{Failure, Opened};
use crate::audit::{self, Anchor, Filter, Kind, Report};
use crate::cli::demo::stage::{AGENT, Stage};
use crate::record::Decision;
use crate::reference::Name;
use crate::vault::{MasterKey, Vault};

/// The audit log as it was before the attacks.
pub(super) struct Early(PathBuf);

impl Early {
    pub(super) fn keep(stage: &Stage) -> Result<Self, Failure> {
        copy_log(stage, "audit-early").map(Self)
    }
}

/// A copy of the audit log, head first: what is written meanwhile comes after it.
fn copy_log(stage: &Stage, name: &str) -> Result<PathBuf, Failure> {
    let (from, to) = (stage.home.audit(), stage.scratch.path().join(name));
    let copied = copy_directory(&from, &to);
    copied.map_err(|e| Failure::new(format!("{}: {e}", from.display())))?;
    Ok(to)
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(to)?;
    let mut names: Vec<_> =
        fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort_by_key(|name| name != "head");
    for name in names {
        fs::copy(from.join(&name), to.join(&name))?;
    }
    Ok(())
}

/// What `locum audit verify` finds, with what the vault remembers of the log.
fn verify(opened: &Opened, log: &Path) -> Result<Report, Failure> {
    let anchor = opened.vault.audit_anchor()?.map(|a| Anchor { seq: a.sequence, mac: a.mac });
    Ok(audit::verify(log, &opened.vault.audit_key(), anchor, &mut |_| {})?)
}

/// Changes one line of the only file of a copied log, and says what verification finds.
fn damaged(
    stage: &Stage,
    name: &str,
    seq: u64,
    change: impl Fn(&str) -> Option<String>,
) -> Result<(Report, Report), Failure> {
    let log = copy_log(stage, name)?;
    let opened = stage.open()?;
    let whole = verify(&opened, &log)?;
    let file = newest_file(&log)?;
    let failed = |e: io::Error| Failure::new(format!("{}: {e}", file.display()));
    let text = fs::read_to_string(&file).map_err(failed)?;
    let of_record = format!("\"seq\":{seq},");
    let lines = text.lines().filter_map(|line| {
        if line.contains(&of_record) { change(line) } else { Some(line.to_owned()) }
    });
    let lines: Vec<String> = lines.collect();
    fs::write(&file, lines.join("\n") + "\n").map_err(failed)?;
    Ok((whole, verify(&opened, &log)?))
}

fn newest_file(log: &Path) -> Result<PathBuf, Failure> {
    let failed = |e: io::Error| Failure::new(format!("{}: {e}", log.display()));
    let entries = fs::read_dir(log).map_err(failed)?.flatten().map(|entry| entry.path());
    let files = entries.filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.max().ok_or_else(|| Failure::new(format!("{} has no file", log.display())))
}

/// The first call that the agent was allowed to make.
fn first_call(stage: &Stage) -> Result<u64, Failure> {
    let filter = Filter {
        agent: Some(AGENT.to_owned()),
        kind: Some(Kind::Access),
        decision: Some(Decision::Permit),
        ..Filter::default()
    };
    let mut entries = audit::query(&stage.home.audit(), filter)?.filter_map(Result::ok);
    let seq = entries.find_map(|entry| entry.seq());
    seq.ok_or_else(|| Failure::new("the log has no call in it"))
}

/// What both kinds of damage to a record come to.
fn found_at(whole: &Report, damaged: &Report, seq: u64) -> Facts {
    let mut facts = Facts::default();
    let records = whole.records;
    facts.note(
        whole.ok,
        format!("{records} records verify as they are"),
        "the log does not verify even before",
    );
    match &damaged.first_bad {
        Some(bad) => {
            let told = format!("then: record {}: {}", bad.seq, bad.what);
            facts.note(!damaged.ok && bad.seq == seq, told.clone(), format!("{told}, not {seq}"));
        }
        None => facts.note(false, "", format!("record {seq} was changed unseen")),
    }
    facts
}

/// Somebody else made the call, says the log now.
pub(super) fn edited_record(stage: &Stage) -> Outcome {
    let seq = first_call(stage)?;
    let blame = |line: &str| Some(line.replace(AGENT, "intern"));
    let (whole, damaged) = damaged(stage, "audit-edited", seq, blame)?;
    Ok(found_at(&whole, &damaged, seq))
}

/// The call was never made, says the log now.
pub(super) fn removed_record(stage: &Stage) -> Outcome {
    let seq = first_call(stage)?;
    let (whole, damaged) = damaged(stage, "audit-removed", seq, |_| None)?;
    Ok(found_at(&whole, &damaged, seq))
}

/// A genuine copy from before, head and all, hides what came after. The vault remembers.
pub(super) async fn older_log(stage: &Stage, early: &Early) -> Outcome {
    let mut facts = Facts::default();
    let opened = stage.open()?;
    let alone = audit::verify(&early.0, &opened.vault.audit_key(), None, &mut |_| {})?;
    facts.note(alone.ok, "genuine by itself", "the copy does not verify even by itself");
    wait_for_anchor(&opened, alone.last.map_or(0, |last| last.seq)).await?;
    let report = verify(&opened, &early.0)?;
    match report.first_bad {
        Some(bad) => {
            let told = format!("with the vault's memory: record {}: {}", bad.seq, bad.what);
            facts.note(!report.ok, told.clone(), told);
        }
        None => facts.note(false, "", "nobody noticed"),
    }
    Ok(facts)
}

/// The vault takes note of where the log is about once a second.
async fn wait_for_anchor(opened: &Opened, after: u64) -> Result<(), Failure> {
    let begun = Instant::now();
    while opened.vault.audit_anchor()?.is_none_or(|anchor| anchor.sequence <= after) {
        if begun.elapsed() > Duration::from_secs(5) {
            return Err(Failure::new("the vault took no note of the audit log"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Two credentials change places in the database, ciphertext and all.
pub(super) fn swapped_rows(stage: &Stage) -> Outcome {
    let mut facts = Facts::default();
    let opened = stage.open()?;
    let copy = stage.scratch.path().join("swapped.db");
    opened.vault.backup_plain(&copy)?;
    let master = MasterKey::load(&stage.home.master_key())?;
    let opens = |credential: &str| -> Result<bool, Failure> {
        let name: Name = credential.parse().map_err(|_| Failure::new("no name"))?;
        let vault = Vault::open(&copy, &master)?;
        Ok(vault.snapshot()?.open(&name, 1).is_ok())
    };
    facts.note(
        opens("openai")? && opens("anthropic")?,
        "a copy opens",
        "a copy does not open even before",
    );
    swap(&copy).map_err(|e| Failure::new(format!("{}: {e}", copy.display())))?;
    match Vault::open(&copy, &master) {
        Ok(_) => facts.note(false, "", "the vault opens with its rows swapped"),
        Err(error) => {
            let told = error.fault.to_string();
            let told = told.split(';').next().unwrap_or_default().to_owned();
            facts.note(true, format!("then: {told}"), "");
        }
    }
    // Even an operator who takes the state as it is gets no secret out of the wrong row.
    let forced = Vault::accept(&copy, &master, "demo").and_then(|vault| vault.snapshot());
    let leaked = forced.is_ok_and(|snapshot| {
        ["openai", "anthropic"].iter().any(|credential| {
            credential.parse().is_ok_and(|name: Name| snapshot.open(&name, 1).is_ok())
        })
    });
    facts.note(!leaked, "accepted by force, no secret opens", "accepted by force, a secret opens");
    Ok(facts)
}

fn swap(vault: &Path) -> rusqlite::Result<()> {
    let db = rusqlite::Connection::open(vault)?;
    let read = "SELECT credential, sealed FROM versions WHERE version = 1 ORDER BY credential";
    let mut statement = db.prepare(read)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(i64, Vec<u8>)> = rows.collect::<Result<_, _>>()?;
    let [(first, one), (second, other)] = rows.as_slice() else {
        return Err(rusqlite::Error::QueryReturnedNoRows);
    };
    let write = "UPDATE versions SET sealed = ?2 WHERE credential = ?1 AND version = 1";
    db.execute(write, (first, other))?;
    db.execute(write, (second, one))?;
    Ok(())
}

/// The keys, in all that was written and said: files, logs at the most talkative level, metrics,
/// and all that the agent ever had.
pub(super) async fn leaks(stage: &Stage) -> Outcome {
    let mut facts = Facts::default();
    let (mut files, mut bytes) = (0, 0);
    let mut look = |path: &Path, contents: &[u8]| {
        files += 1;
        bytes += contents.len();
        let found = stage.search.found_in(contents);
        if !found.is_empty() {
            facts.note(false, "", format!("{} has it: {}", path.display(), found.join(", ")));
        }
    };
    let walked = walk(stage.scratch.path(), &mut look);
    walked.map_err(|e| Failure::new(format!("{}: {e}", stage.scratch.path().display())))?;
    facts.note(files > 0, format!("none in {files} files ({} KiB)", bytes / 1024), "no file");
    let metrics = stage.operations("/metrics").await?.body;
    facts.note(stage.search.is_clean(&metrics), "none in the metrics", "the metrics have it");
    let had = &stage.agent.had;
    let told = format!("none in the {} KiB that the agent ever had", had.len() / 1024);
    facts.note(stage.search.is_clean(had), told, "the agent had it");
    Ok(facts)
}

fn walk(directory: &Path, look: &mut impl FnMut(&Path, &[u8])) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), look)?;
        } else if kind.is_file() {
            match fs::read(entry.path()) {
                Ok(contents) => look(&entry.path(), &contents),
                // A temporary file of the running proxy.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
