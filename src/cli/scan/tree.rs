//! The files of a tree, on all cores.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::mpsc;

use ignore::{DirEntry, WalkBuilder, WalkState};
use zeroize::Zeroizing;

use super::{Finding, look};
use crate::app::Failure;

/// Nobody writes a key by hand into a file that is larger.
const LARGEST: u64 = 16 << 20;

/// How much of a file is looked at for a NUL, by which grep knows what is no text.
const HEAD: usize = 8192;

/// What was found, and what could not be looked at.
pub(super) struct Looked {
    pub(super) findings: Vec<Finding>,
    pub(super) left: Vec<String>,
}

/// Looks at every file that git would take, and at every `.env` file whether it would or not.
pub(super) fn scan(directory: &Path, no_ignore: bool) -> Result<Looked, Failure> {
    let wrong = |e: std::io::Error| Failure::usage(format!("{}: {e}", directory.display()));
    std::fs::metadata(directory).map_err(wrong)?;
    let (found, all) = mpsc::channel();
    let mut walk = WalkBuilder::new(directory);
    walk.hidden(false).follow_links(false).require_git(false);
    walk.git_ignore(!no_ignore).git_exclude(!no_ignore).git_global(false).ignore(!no_ignore);
    walk.parents(!no_ignore).threads(std::thread::available_parallelism().map_or(1, Into::into));
    walk.filter_entry(|entry| entry.file_name() != ".git");
    walk.build_parallel().run(|| {
        let found = found.clone();
        Box::new(move |entry| {
            let done = match entry {
                Ok(entry) => visit(directory, &entry, !no_ignore),
                Err(error) => vec![Err(error.to_string())],
            };
            let open = done.into_iter().try_for_each(|one| found.send(one));
            if open.is_ok() { WalkState::Continue } else { WalkState::Quit }
        })
    });
    drop(found);
    let mut looked = Looked { findings: Vec::new(), left: Vec::new() };
    for one in all {
        match one {
            Ok(findings) => looked.findings.extend(findings),
            Err(left) => looked.left.push(left),
        }
    }
    looked.left.sort();
    Ok(looked)
}

type Done = Result<Vec<Finding>, String>;

fn visit(root: &Path, entry: &DirEntry, ignoring: bool) -> Vec<Done> {
    match entry.file_type() {
        Some(kind) if kind.is_file() => {
            // Those that are ignored are not come by; all are looked at with their directory.
            let twice = ignoring && is_env(entry.path()) && entry.depth() > 0;
            if twice { Vec::new() } else { vec![file(root, entry.path())] }
        }
        Some(kind) if kind.is_dir() && ignoring => {
            let inside = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
            let files = inside.filter(|e| e.file_type().is_ok_and(|kind| kind.is_file()));
            let paths = files.map(|e| e.path()).filter(|path| is_env(path));
            paths.map(|path| file(root, &path)).collect()
        }
        _ => Vec::new(),
    }
}

/// `.env`, `.env.local`, `prod.env`: where keys are kept, and what git is told to leave out.
pub(super) fn is_env(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with(".env.") || name.rsplit('.').next() == Some("env")
}

fn file(root: &Path, path: &Path) -> Done {
    let shown = path.strip_prefix(root).ok().filter(|path| path.file_name().is_some());
    let shown = shown.unwrap_or(path).to_string_lossy().into_owned();
    match read(path) {
        Ok(Some(text)) => Ok(look(&shown, &text, 1)),
        Ok(None) => Ok(Vec::new()),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

/// The text of a file, in memory that is wiped; none for what is no text.
pub(super) fn read(path: &Path) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut text =
        Zeroizing::new(Vec::with_capacity(usize::try_from(length.min(LARGEST)).unwrap_or(0) + 1));
    file.by_ref().take(HEAD as u64).read_to_end(&mut text)?;
    if memchr::memchr(0, &text).is_some() {
        return Ok(None);
    }
    if length > LARGEST {
        return Err(std::io::Error::other("it is larger than 16 MiB"));
    }
    file.take(LARGEST).read_to_end(&mut text)?;
    Ok(Some(text))
}
