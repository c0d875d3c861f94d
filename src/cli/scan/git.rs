//! git as a reader of what a repository has, which runs nothing that the repository names.
//!
//! Only plumbing is asked: it heeds neither attributes nor the ways of showing a change that a configuration
//! can set, such as filters, programs that compare, and programs that verify signatures.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use crate::app::Failure;

/// Variables by which git tells a hook where things are. They may be relative to where the hook was started.
const PLACES: [&str; 4] = ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY"];

/// A git that is running.
struct Git {
    child: Child,
    /// What it says when something is wrong.
    words: JoinHandle<String>,
}

/// A git that reads in `directory`.
fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.arg("--no-pager").arg("-C").arg(directory);
    // A monitor of files is a program that the repository names, and hooks are others.
    git.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]);
    // What a partial clone has not is not fetched: that would run what the repository names as its transport.
    git.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "none");
    // Nothing is written, and nothing is shown in another thing's place.
    git.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_NO_REPLACE_OBJECTS", "1");
    git.env("GIT_TERMINAL_PROMPT", "0");
    for name in PLACES {
        let place = std::env::var_os(name).and_then(|place| std::path::absolute(place).ok());
        place.map(|place| git.env(name, place));
    }
    git.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    git
}

fn failed(error: &io::Error) -> Failure {
    Failure::usage(format!("git cannot be run: {error}"))
}

impl Git {
    fn start(command: &mut Command) -> Result<(Self, ChildStdout), Failure> {
        let mut child = command.spawn().map_err(|e| failed(&e))?;
        let (said, out) = (child.stderr.take(), child.stdout.take());
        let words = std::thread::spawn(move || {
            let mut text = Vec::new();
            said.map(|mut said| said.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok((Self { child, words }, out.ok_or_else(|| failed(&io::ErrorKind::BrokenPipe.into()))?))
    }

    /// Waits for its end.
    fn end(mut self) -> Result<(), Failure> {
        let status = self.child.wait().map_err(|e| failed(&e))?;
        if status.success() {
            return Ok(());
        }
        let words = self.words.join().unwrap_or_default();
        Err(Failure::usage(format!("git: {}", words.lines().next().unwrap_or("it failed"))))
    }
}

/// All that a git prints.
fn output(directory: &Path, arguments: &[&str]) -> Result<Vec<u8>, Failure> {
    let (git, mut out) = Git::start(&mut command(directory, arguments))?;
    let mut text = Vec::new();
    out.read_to_end(&mut text).map_err(|e| failed(&e))?;
    git.end().map(|()| text)
}

/// The files below a directory that its repository tracks, relative to it. None where there is no repository.
pub(super) fn tracked(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let absolute = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    if !absolute.ancestors().any(|above| above.join(".git").exists()) {
        return Ok(Vec::new());
    }
    let names = output(directory, &["ls-files", "-z", "--cached", "--", "."])?;
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| PathBuf::from(os_text(name))).collect())
}

#[cfg(unix)]
fn os_text(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// A file that a commit, or the next one, has in another state than before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// The commit; empty for the next one.
    pub(super) commit: String,
    /// What it was, where it was a file.
    pub(super) old: Option<String>,
    /// What it is.
    pub(super) new: String,
    /// From the top of the repository.
    pub(super) path: String,
}

/// Every change that any commit of the history made to files below `path`, the oldest first.
pub(super) fn history(
    directory: &Path,
    path: &OsStr,
    each: impl FnMut(Change) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let order = ["rev-list", "--all", "--reverse", "--topo-order"];
    let (commits, ids) = Git::start(&mut command(directory, &order))?;
    // Of a merge, what differs from each side: what the merge itself brought is among it, and all else is known.
    let mut diff = command(directory, &["diff-tree", "--stdin", "-m", "--root"]);
    diff.args(RAW).arg("--").arg(path).stdin(ids);
    let (changes, out) = Git::start(&mut diff)?;
    read(BufReader::with_capacity(1 << 16, out), each)?;
    changes.end()?;
    commits.end()
}

/// Every change that the next commit makes; with a `path`, only below it.
pub(super) fn staged(
    directory: &Path,
    path: Option<&OsStr>,
    each: impl FnMut(Change) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // Before the first commit there is nothing to compare with.
    let head = ["rev-parse", "--quiet", "--verify", "HEAD^{commit}"];
    let head = output(directory, &head);
    let base = head.or_else(|_| output(directory, &["hash-object", "-t", "tree", "--stdin"]))?;
    let base = String::from_utf8_lossy(&base);
    let mut diff = command(directory, &["diff-index", "--cached"]);
    diff.args(RAW).arg(base.trim_ascii()).arg("--").args(path);
    let (git, out) = Git::start(&mut diff)?;
    read(BufReader::new(out), each)?;
    git.end()
}

/// Modes, ids and paths as they are, each path behind a NUL: no path can look like something else.
const RAW: [&str; 6] = ["-r", "--raw", "-z", "--no-renames", "--no-abbrev", "--no-ext-diff"];

fn read(
    mut from: impl BufRead,
    mut each: impl FnMut(Change) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut next = || {
        let mut part = Vec::new();
        from.read_until(0, &mut part).map_err(|e| failed(&e))?;
        Ok::<_, Failure>(
            part.strip_suffix(&[0]).map(|part| String::from_utf8_lossy(part).into_owned()),
        )
    };
    let mut commit = String::new();
    while let Some(part) = next()? {
        let Some(raw) = part.strip_prefix(':') else {
            commit = part;
            continue;
        };
        let path = next()?.unwrap_or_default();
        each_file(raw, path, &commit).map_or(Ok(()), &mut each)?;
    }
    Ok(())
}

/// The change of a raw line: old mode, mode, old id, id, and a letter. None where nothing is left, and for
/// what is no file: a link, or another repository.
fn each_file(raw: &str, path: String, commit: &str) -> Option<Change> {
    let is_file = |mode: &str| mode.starts_with("100");
    let mut parts = raw.split(' ');
    let (was, is) = (parts.next()?, parts.next()?);
    let (old, new) = (parts.next()?, parts.next()?);
    let old = is_file(was).then(|| old.to_owned());
    let (commit, new) = (commit.to_owned(), new.to_owned());
    is_file(is).then_some(Change { commit, old, new, path })
}

/// A git that gives out the contents of files by their ids.
pub(super) struct Blobs {
    git: Git,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Blobs {
    pub(super) fn open(directory: &Path) -> Result<Self, Failure> {
        let mut command = command(directory, &["cat-file", "--batch"]);
        let (mut git, out) = Git::start(command.stdin(Stdio::piped()))?;
        let asks =
            git.child.stdin.take().ok_or_else(|| failed(&io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { git, asks, answers: BufReader::with_capacity(1 << 16, out) })
    }

    /// Has `reader` read a file; none where the repository has it not.
    pub(super) fn with<T>(
        &mut self,
        id: &str,
        reader: impl FnOnce(u64, &mut dyn io::Read) -> io::Result<T>,
    ) -> Result<Option<T>, Failure> {
        self.read(id, reader).map_err(|e| failed(&e))
    }

    fn read<T>(
        &mut self,
        id: &str,
        reader: impl FnOnce(u64, &mut dyn io::Read) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        writeln!(self.asks, "{id}")?;
        self.asks.flush()?;
        let mut head = String::new();
        self.answers.read_line(&mut head)?;
        let Some(length) = head.strip_prefix(id).and_then(|rest| rest.strip_prefix(" blob "))
        else {
            return if head.is_empty() {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                Ok(None)
            };
        };
        let length: u64 = length.trim_end().parse().map_err(io::Error::other)?;
        let mut content = (&mut self.answers).take(length);
        let read = reader(length, &mut content)?;
        io::copy(&mut content, &mut io::sink())?;
        self.answers.read_exact(&mut [0])?;
        Ok(Some(read))
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        drop(self.asks);
        self.git.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_whatever_a_path_is_called() {
        const ID: &str = "78981922613b2afb6025042ff6bd878ac1994e85";
        let none = "0".repeat(40);
        let raw = format!(
            "c1\0:000000 100644 {none} {ID} A\0:100644 \"x\n.py\0:100644 100755 {ID} {ID} M\0a\0\
             c2\0:100644 000000 {ID} {none} D\0a\0:120000 100644 {ID} {ID} T\0b\0:000000 160000 {none} {ID} A\0m\0"
        );
        let mut all = Vec::new();
        read(raw.as_bytes(), |change| {
            all.push((change.commit, change.path, change.old.is_some()));
            Ok(())
        })
        .unwrap();
        let expected = [("c1", ":100644 \"x\n.py", false), ("c1", "a", true), ("c2", "b", false)];
        assert_eq!(all, expected.map(|(c, p, o)| (c.to_owned(), p.to_owned(), o)));
    }
}
