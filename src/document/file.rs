//! Reading a file into a [`Source`], without trusting what lies at the path.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use super::{Limits, Position, Problem, Report, Source};

impl Source {
    /// Reads a file, or says `None` when there is none.
    ///
    /// Links are followed, because Kubernetes mounts every file of a `ConfigMap` as one. What is
    /// refused is what anybody could have written to, and what is no regular file (a FIFO would
    /// hang the start).
    ///
    /// # Errors
    /// A report with one problem: unreadable, too large, writable by everyone, not UTF-8.
    pub fn read(path: &Path, name: &str, limits: &Limits) -> Result<Option<Self>, Report> {
        match read_bounded(path, limits.bytes) {
            Ok(bytes) => Self::from_bytes(name, &bytes, limits).map(Some),
            Err(Refusal::Io(e)) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(refusal) => Err(refusal.into_report(name)),
        }
    }

    /// Takes bytes from anywhere, such as standard input.
    ///
    /// # Errors
    /// A report with one problem: too large, or not UTF-8, with the place of the first bad byte.
    pub fn from_bytes(name: &str, bytes: &[u8], limits: &Limits) -> Result<Self, Report> {
        if bytes.len() > limits.bytes {
            return Err(Refusal::TooLarge(limits.bytes).into_report(name));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(name, text)),
            Err(error) => Err(not_utf8(name, bytes, error.valid_up_to())),
        }
    }
}

enum Refusal {
    Io(io::Error),
    NotAFile,
    WritableByAll,
    TooLarge(usize),
}

impl Refusal {
    fn into_report(self, name: &str) -> Report {
        let (message, advice) = match self {
            Self::Io(error) => (format!("cannot be read: {error}"), None),
            Self::NotAFile => ("is not a regular file".to_owned(), None),
            Self::WritableByAll => (
                "can be written by everyone on this machine".to_owned(),
                Some(format!("chmod o-w {name}")),
            ),
            Self::TooLarge(limit) => (
                format!("has more than {}", super::show_size(limit as u64)),
                Some("split it, or check that it is the file you meant".to_owned()),
            ),
        };
        Report::from(Problem {
            source: Source::new(name, ""),
            at: None,
            path: String::new(),
            message,
            advice,
        })
    }
}

fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, Refusal> {
    // Looked at before it is opened: opening a FIFO waits for a writer.
    check(&std::fs::metadata(path).map_err(Refusal::Io)?)?;
    let file = File::open(path).map_err(Refusal::Io)?;
    // And again, on what was opened: the path may lead elsewhere by now.
    check(&file.metadata().map_err(Refusal::Io)?)?;
    let mut bytes = Vec::new();
    let cap = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(cap).read_to_end(&mut bytes).map_err(Refusal::Io)?;
    if bytes.len() > limit {
        return Err(Refusal::TooLarge(limit));
    }
    Ok(bytes)
}

fn check(metadata: &Metadata) -> Result<(), Refusal> {
    if !metadata.is_file() {
        return Err(Refusal::NotAFile);
    }
    if writable_by_all(metadata) {
        return Err(Refusal::WritableByAll);
    }
    Ok(())
}

#[cfg(unix)]
fn writable_by_all(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o002 != 0
}

#[cfg(not(unix))]
fn writable_by_all(_: &Metadata) -> bool {
    false
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> Report {
    let sound = String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default());
    Report::from(Problem {
        source: Source::new(name, ""),
        at: Some(end_of(&sound)),
        path: String::new(),
        message: "is not UTF-8 text".to_owned(),
        advice: Some("save the file as UTF-8".to_owned()),
    })
}

/// The position just after a text.
pub(super) fn end_of(text: &str) -> Position {
    let line_start = text.rfind('\n').map_or(0, |newline| newline + 1);
    let newlines = memchr::memchr_iter(b'\n', text.as_bytes()).count();
    let column = text.get(line_start..).unwrap_or_default().chars().count();
    Position {
        line: u32::try_from(newlines + 1).unwrap_or(u32::MAX),
        column: u32::try_from(column + 1).unwrap_or(u32::MAX),
    }
}
