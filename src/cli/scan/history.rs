//! What git has: the lines that each commit of the history added, or that the next one will.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::{Finding, look};
use crate::app::Failure;

/// A line of this length is no line that a key was written in.
const LONGEST: u64 = 1 << 20;

/// Every key that any commit added, each once for each file: where it came in first.
pub(super) fn all(directory: &Path) -> Result<Vec<Finding>, Failure> {
    let log = ["log", "--all", "--reverse", "--topo-order", "--diff-merges=first-parent", "-p"];
    added(directory, &[&log[..], &["--format=commit %H"]].concat())
}

/// Every key in what the next commit adds.
pub(super) fn staged(directory: &Path) -> Result<Vec<Finding>, Failure> {
    added(directory, &["diff", "--cached"])
}

/// What any configuration and attributes of the tree would make of a diff is turned off: a tree that
/// is looked at runs nothing.
const PLAIN: [&str; 7] = [
    "--unified=0",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-renames",
    "--src-prefix=a/",
    "--dst-prefix=b/",
];

fn added(directory: &Path, asked: &[&str]) -> Result<Vec<Finding>, Failure> {
    let directory =
        if directory.is_file() { directory.parent().unwrap_or(directory) } else { directory };
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["-c", "core.quotePath=false", "-c", "core.fsmonitor=false"]);
    git.args(asked).args(PLAIN).arg("--").arg(".");
    git.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |e: std::io::Error| Failure::usage(format!("git cannot be run: {e}"));
    let mut child = git.spawn().map_err(failed)?;
    let mut said = child.stderr.take();
    let words = std::thread::spawn(move || {
        let mut text = String::new();
        said.as_mut().map(|said| said.read_to_string(&mut text));
        text
    });
    let mut diff = Diff::default();
    if let Some(out) = child.stdout.take() {
        diff.read(BufReader::with_capacity(1 << 16, out)).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    let words = words.join().unwrap_or_default();
    if status.success() {
        Ok(diff.findings)
    } else {
        let why = words.lines().next().unwrap_or("it failed").to_owned();
        Err(Failure::usage(format!("git: {why}")))
    }
}

/// A diff without context, as it is read.
#[derive(Default)]
struct Diff {
    commit: Option<String>,
    path: String,
    /// Lines that were added one after the other, and where the first is.
    lines: Zeroizing<Vec<u8>>,
    first: usize,
    /// Digests of what was found, so that no key is kept.
    seen: HashSet<u64>,
    digest: RandomState,
    findings: Vec<Finding>,
}

impl Diff {
    fn read(&mut self, mut from: impl std::io::BufRead) -> std::io::Result<()> {
        let mut line = Zeroizing::new(Vec::new());
        loop {
            line.clear();
            if from.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            self.take(&line);
        }
        self.look();
        Ok(())
    }

    fn take(&mut self, line: &[u8]) {
        let text = |start: &[u8]| {
            let rest = line.strip_prefix(start)?;
            Some(String::from_utf8_lossy(rest.trim_ascii_end()).into_owned())
        };
        if let Some(added) = line.strip_prefix(b"+").filter(|_| !line.starts_with(b"+++ ")) {
            self.lines.extend_from_slice(added);
            return;
        }
        self.look();
        if let Some(commit) = text(b"commit ") {
            self.commit = Some(commit);
        } else if let Some(path) = text(b"+++ b/") {
            self.path = path;
        } else if let Some(hunk) = text(b"@@ -") {
            self.first = first_line(&hunk).unwrap_or(1);
        }
    }

    /// Looks at the lines that have come together.
    fn look(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        for mut finding in look(&self.path, &self.lines, self.first) {
            let line = self.lines.split(|&byte| byte == b'\n').nth(finding.line - self.first);
            let start = finding.column - 1;
            let key = line.and_then(|line| line.get(start..line.len().min(start + finding.length)));
            if self.seen.insert(self.digest.hash_one((&self.path, key))) {
                finding.commit.clone_from(&self.commit);
                self.findings.push(finding);
            }
        }
        self.lines.clear();
    }
}

/// The line that a hunk starts at: `-1,2 +3,4 @@` after its `@@ `.
fn first_line(hunk: &str) -> Option<usize> {
    let (_, new) = hunk.split_once('+')?;
    new.split([',', ' ']).next()?.parse().ok()
}
