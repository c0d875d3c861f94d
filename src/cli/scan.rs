//! `locum scan`: keys that lie about in a tree, in what is about to be committed, and in git's history.
//!
//! A key is never printed: a report has its place, its kind, what all keys of that kind start with,
//! and its length.

mod history;
mod moving;
mod shapes;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use super::import;
use super::output::{self, Table};
use crate::app::{Exit, Failure, Opened};
use shapes::{Hit, Shapes};

/// Arguments of `locum scan`.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)] // Each is a flag of its own.
#[command(
    after_help = "Exit code 0: nothing found; 1: found; 64: it could not be looked at.\n\nExample:\n  locum scan\n  locum scan --move src\n  locum scan --history --sarif . > keys.sarif\n  printf '#!/bin/sh\\nexec locum scan --staged\\n' > .git/hooks/pre-commit && chmod +x .git/hooks/pre-commit"
)]
pub(super) struct Args {
    /// The directory, or file
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// Also every change in git's history, on all branches
    #[arg(long, conflicts_with = "staged")]
    history: bool,
    /// Only what is about to be committed: for a pre-commit hook
    #[arg(long)]
    staged: bool,
    /// Also what .gitignore leaves out
    #[arg(long, conflicts_with = "staged")]
    no_ignore: bool,
    /// Move each key of a provider into the vault, and write its placeholder into the file; asks for each
    #[arg(long = "move", conflicts_with_all = ["history", "staged", "sarif"])]
    moving: bool,
    /// Ask nothing
    #[arg(long, requires = "moving")]
    yes: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "sarif")]
    json: bool,
    /// Print SARIF 2.1.0, for code scanning
    #[arg(long)]
    sarif: bool,
}

/// A key, where it was found.
#[derive(Debug, Serialize)]
struct Finding {
    /// Relative to the directory, where it can be.
    path: String,
    /// From 1.
    line: usize,
    /// In bytes, from 1.
    column: usize,
    /// The provider's id in the catalogue, `private-key` or `assigned-secret`.
    kind: &'static str,
    #[serde(skip)]
    name: &'static str,
    /// What all keys of the kind start with.
    prefix: &'static str,
    /// In bytes.
    length: usize,
    /// The commit that brought it; none for what is there now.
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
}

/// `open` opens the home, which only moving keys needs.
pub(super) fn run(
    args: &Args,
    open: impl FnOnce() -> Result<Opened, Failure>,
) -> Result<ExitCode, Failure> {
    let mut findings = Vec::new();
    let mut left = Vec::new();
    if args.staged {
        findings.extend(history::staged(&args.directory)?);
    } else {
        let looked = tree::scan(&args.directory, args.no_ignore)?;
        (findings, left) = (looked.findings, looked.left);
    }
    if args.history {
        findings.extend(history::all(&args.directory)?);
    }
    findings.sort_by(|a, b| {
        (&a.commit, &a.path, a.line, a.column).cmp(&(&b.commit, &b.path, b.line, b.column))
    });
    let clean = if args.moving && !findings.is_empty() {
        let moved = moving::all(&mut open()?, &args.directory, &findings, args.yes)?;
        if args.json {
            output::json(&moved)?;
        } else {
            moving::report(&moved)?;
        }
        moved.iter().all(|one| one.credential.is_some())
    } else {
        report(args, &findings)?;
        findings.is_empty()
    };
    for what in &left {
        output::note(&format!("warning: not looked at: {what}"));
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(Exit::Failure as u8) })
}

fn report(args: &Args, findings: &[Finding]) -> Result<(), Failure> {
    if args.json {
        return output::json(&findings);
    }
    if args.sarif {
        return output::json(&sarif(findings));
    }
    if findings.is_empty() {
        output::note("no key found");
        return Ok(());
    }
    let mut table = Table::new(&["PLACE", "KIND", "KEY", "COMMIT"]);
    for finding in findings {
        table.row(vec![
            format!("{}:{}:{}", finding.path, finding.line, finding.column),
            finding.name.to_owned(),
            format!("{}… ({} bytes)", finding.prefix, finding.length),
            finding.commit.as_deref().map_or("-", |id| id.get(..12).unwrap_or(id)).to_owned(),
        ]);
    }
    table.print()?;
    output::note(&format!(
        "{} found. `locum scan --move` puts them into the vault, where it knows their provider, and writes placeholders in their places (for a .env file also `locum credential import FILE --replace`); others take `locum credential add`. Then change each key at its provider: whoever could read the files has it.",
        findings.len()
    ));
    Ok(())
}

/// SARIF 2.1.0 (OASIS), of one run.
fn sarif(findings: &[Finding]) -> Value {
    let mut kinds: Vec<(&str, &str)> = findings.iter().map(|f| (f.kind, f.name)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let rules = kinds.iter().map(|(id, name)| {
        json!({"id": id, "shortDescription": {"text": format!("{name}: a key in the clear")}})
    });
    let results = findings.iter().map(|finding| {
        let mut text = format!("{}, {}… ({} bytes)", finding.name, finding.prefix, finding.length);
        if let Some(commit) = &finding.commit {
            text = format!("{text}, brought by commit {commit}");
        }
        json!({
            "ruleId": finding.kind,
            "level": "error",
            "message": {"text": text},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": finding.path},
                "region": {"startLine": finding.line, "startColumn": finding.column},
            }}],
        })
    });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "locum", "version": env!("CARGO_PKG_VERSION"), "rules": rules.collect::<Vec<_>>(),
            }},
            "columnKind": "utf16CodeUnits",
            "results": results.collect::<Vec<_>>(),
        }],
    })
}

impl Finding {
    /// What a hit in `text` is, whose first line is line `first` of `path`.
    fn new(path: &str, text: &[u8], hit: &Hit, first: usize) -> Self {
        let before = text.get(..hit.span.start).unwrap_or_default();
        let start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        let key = text.get(hit.span.clone()).unwrap_or_default();
        Self {
            path: path.to_owned(),
            line: first + memchr::memchr_iter(b'\n', before).count(),
            column: hit.span.start - start + 1,
            kind: hit.what.id(),
            name: hit.what.name(),
            prefix: hit.what.prefix(key),
            length: key.len(),
            commit: None,
        }
    }
}

/// All keys in the text of a file. Those of a `.env` file are what `credential import` would take.
fn hits(path: &str, text: &[u8]) -> Vec<Hit> {
    let mut hits = Shapes::all().find(text);
    if tree::is_env(Path::new(path)) {
        for (provider, span, plain) in import::values(text) {
            Shapes::settle(&mut hits, text, provider, (span, plain));
        }
    }
    hits
}

fn look(path: &str, text: &[u8], first: usize) -> Vec<Finding> {
    let hits = hits(path, text);
    hits.iter().map(|hit| Finding::new(path, text, hit, first)).collect()
}

/// What kind of key a text is, by its shape; none for a text that is no key.
pub(crate) fn looks_like_a_key(text: &str) -> Option<&'static str> {
    Some(shapes::Shapes::all().find(text.as_bytes()).first()?.what.name())
}
