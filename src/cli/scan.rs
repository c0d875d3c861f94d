//! `locum scan`: keys that lie about in a tree, in what is about to be committed, and in git's history.
//!
//! A key is never printed: a report has its place, its kind, what all keys of that kind start with,
//! and its length.

mod git;
mod history;
mod moving;
mod sarif;
mod shapes;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::import;
use super::output::{self, Table};
use crate::app::{Exit, Failure, Opened};
use crate::catalog::{Catalog, Provider};
use shapes::{Hit, Shapes, What};
use tree::Looked;

/// Arguments of `locum scan`.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)] // Each is a flag of its own.
#[command(
    after_help = "Exit code 0: nothing found; 1: found; 64: it could not be looked at.\n\nExample:\n  locum scan\n  locum scan --move src\n  locum scan --history --sarif . > keys.sarif\n  printf '#!/bin/sh\\nexec locum scan --staged\\n' > .git/hooks/pre-commit && chmod +x .git/hooks/pre-commit"
)]
pub(super) struct Args {
    /// The directory, or file. By default this directory, and with --staged all of the commit
    directory: Option<PathBuf>,
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
#[derive(Clone, Debug, Serialize)]
struct Finding {
    /// Relative to the directory, where it can be; what git has, to the top of the repository.
    path: String,
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// The same in UTF-16, by which SARIF counts.
    #[serde(skip)]
    utf16: usize,
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
    let directory = args.directory.as_deref().unwrap_or(Path::new("."));
    let Looked { mut findings, mut left } = if args.staged {
        history::staged(args.directory.as_deref())?
    } else {
        tree::scan(directory, args.no_ignore)?
    };
    if args.history {
        let brought = history::all(directory)?;
        findings.extend(brought.findings);
        left.extend(brought.left);
    }
    findings.sort_by(|a, b| {
        (&a.commit, &a.path, a.line, a.column).cmp(&(&b.commit, &b.path, b.line, b.column))
    });
    let clean = if args.moving && !findings.is_empty() {
        let moved = moving::all(&mut open()?, directory, &findings, args.yes)?;
        if args.json {
            output::json(&moved)?;
        } else {
            moving::report(&moved)?;
        }
        moved.iter().all(|one| one.credential.is_some())
    } else {
        report(args, &findings, &left)?;
        findings.is_empty()
    };
    for what in &left {
        output::note(&format!("warning: not looked at: {}", output::plain(what)));
    }
    Ok(match (clean, left.is_empty()) {
        (true, true) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(Exit::Failure as u8),
        // Nothing was found, and nobody knows whether there is something.
        (true, false) => ExitCode::from(Exit::Usage as u8),
    })
}

fn report(args: &Args, findings: &[Finding], left: &[String]) -> Result<(), Failure> {
    if args.json {
        return output::json(&findings);
    }
    if args.sarif {
        return output::json(&sarif::log(findings, left));
    }
    if findings.is_empty() {
        output::note(if left.is_empty() {
            "no key found"
        } else {
            "no key found, in what was looked at"
        });
        return Ok(());
    }
    let mut table = Table::new(&["PLACE", "KIND", "KEY", "COMMIT"]);
    for finding in findings {
        table.row(vec![
            format!("{}:{}:{}", output::plain(&finding.path), finding.line, finding.column),
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

impl Finding {
    /// What a hit in `text` is, which begins at `start` of `path`.
    fn new(path: &str, text: &[u8], hit: &Hit, start: &Start) -> Self {
        let mut at = *start;
        at.pass(text.get(..hit.span.start).unwrap_or_default());
        let key = hit.of(text);
        Self {
            path: path.to_owned(),
            line: at.line,
            column: at.characters + 1,
            utf16: at.utf16 + 1,
            kind: hit.what.id(),
            name: hit.what.name(),
            prefix: hit.what.prefix(key),
            length: key.len(),
            commit: None,
        }
    }
}

/// Where in a file a piece of it begins.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// From 1.
    line: usize,
    /// How many stand before it on its line.
    characters: usize,
    /// The same in UTF-16.
    utf16: usize,
}

impl Default for Start {
    fn default() -> Self {
        Self { line: 1, characters: 0, utf16: 0 }
    }
}

impl Start {
    /// Goes on behind `text`.
    fn pass(&mut self, text: &[u8]) {
        let lines = memchr::memchr_iter(b'\n', text).count();
        if lines > 0 {
            *self = Self { line: self.line + lines, ..Self::default() };
        }
        let line = memchr::memrchr(b'\n', text).and_then(|at| text.get(at + 1..)).unwrap_or(text);
        for character in String::from_utf8_lossy(line).chars() {
            self.characters += 1;
            self.utf16 += character.len_utf16();
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

/// Whether what a variable holds is shaped like a key of a provider: of whoever has such a prefix, or of the
/// one whose variable it is.
pub(super) fn is_a_providers_key(variable: &str, value: &[u8]) -> bool {
    let text = [variable.as_bytes(), b"=", value].concat();
    let own = Catalog::embedded().by_variable(variable).map(Provider::id);
    Shapes::all().find(&text).iter().any(|hit| match hit.what {
        What::Provider(provider) => {
            !hit.what.prefix(hit.of(&text)).is_empty() || own == Some(provider.id())
        }
        What::PrivateKey | What::WebToken | What::Assigned => false,
    })
}

/// What kind of key a text is, by its shape; none for a text that is no key.
pub(crate) fn looks_like_a_key(text: &str) -> Option<&'static str> {
    Some(shapes::Shapes::all().find(text.as_bytes()).first()?.what.name())
}
