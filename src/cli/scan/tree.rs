//! The files of a tree, on all cores.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use ignore::{WalkBuilder, WalkState};
use zeroize::Zeroizing;

use super::{Finding, Start, git, hits};
use crate::app::Failure;

/// How much of a file is looked at in one piece.
const WINDOW: usize = 16 << 20;

/// How much of a piece is looked at again with the next one: more than a key and what it is known by.
const OVERLAP: usize = 1 << 16;

/// How much of a file is looked at for a NUL, by which grep knows what is no text.
const HEAD: u64 = 8192;

/// What was found, and what could not be looked at.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) findings: Vec<Finding>,
    pub(super) left: Vec<String>,
}

/// Looks at every file that git tracks or would take, and at every `.env` file whether it would or not.
pub(super) fn scan(directory: &Path, no_ignore: bool) -> Result<Looked, Failure> {
    let wrong = |e: io::Error| Failure::usage(format!("{}: {e}", directory.display()));
    std::fs::metadata(directory).map_err(wrong)?;
    let mut looked = Looked::default();
    let mut visited = HashSet::new();
    let all = |_: &Path| true;
    walk(
        directory,
        no_ignore,
        all,
        |path| file(directory, path),
        |path, done| {
            visited.insert(path);
            looked.take(done);
        },
    );
    let others = if no_ignore { Vec::new() } else { others(directory, &mut looked) };
    for path in others.into_iter().filter(|path| is_file(path)) {
        if !visited.contains(&path) {
            looked.take(file(directory, &path));
            visited.insert(path);
        }
    }
    looked.left.sort();
    looked.left.dedup();
    Ok(looked)
}

/// What is to be looked at though it is ignored: every `.env` file, and what git tracks all the same.
fn others(directory: &Path, looked: &mut Looked) -> Vec<PathBuf> {
    let mut others = Vec::new();
    let mut take = |path, done| {
        others.push(path);
        looked.take(done);
    };
    walk(directory, true, is_env, |_| Ok(Vec::new()), &mut take);
    if directory.is_dir() {
        match git::tracked(directory) {
            Ok(tracked) => others.extend(tracked.iter().map(|path| directory.join(path))),
            Err(why) => {
                looked.left.push(format!("what git tracks though it is ignored ({why})"));
            }
        }
    }
    others
}

impl Looked {
    fn take(&mut self, done: Done) {
        match done {
            Ok(findings) => self.findings.extend(findings),
            Err(left) => self.left.push(left),
        }
    }
}

/// What became of a file: the keys in it, or why it could not be looked at.
type Done = Result<Vec<Finding>, String>;

/// Has `look` look at the files that are `wanted`, in several threads, and `take` take what comes of it.
fn walk(
    directory: &Path,
    no_ignore: bool,
    wanted: impl Fn(&Path) -> bool + Sync,
    look: impl Fn(&Path) -> Done + Sync,
    mut take: impl FnMut(PathBuf, Done),
) {
    let mut walk = WalkBuilder::new(directory);
    // Only what is git's: a file `.ignore` is for the searches of people.
    walk.hidden(false).follow_links(false).require_git(false).ignore(false);
    walk.git_ignore(!no_ignore).git_exclude(!no_ignore).git_global(false).parents(!no_ignore);
    walk.threads(std::thread::available_parallelism().map_or(1, Into::into));
    walk.filter_entry(|entry| entry.file_name() != ".git");
    let (found, all) = mpsc::channel();
    let (wanted, look) = (&wanted, &look);
    walk.build_parallel().run(|| {
        let found = found.clone();
        Box::new(move |entry| {
            let sent = match entry {
                Ok(entry) if !entry.file_type().is_some_and(|kind| kind.is_file()) => Ok(()),
                Ok(entry) if !wanted(entry.path()) => Ok(()),
                Ok(entry) => found.send((entry.path().to_owned(), look(entry.path()))),
                Err(error) => found.send((PathBuf::new(), Err(error.to_string()))),
            };
            if sent.is_ok() { WalkState::Continue } else { WalkState::Quit }
        })
    });
    drop(found);
    for (path, done) in all {
        take(path, done);
    }
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|file| file.is_file())
}

/// `.env`, `.env.local`, `.envrc`, `prod.env`: where keys are kept, and what git is told to leave out.
pub(super) fn is_env(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with(".env") || path.extension().is_some_and(|extension| extension == "env")
}

fn file(root: &Path, path: &Path) -> Done {
    let shown = path.strip_prefix(root).ok().filter(|path| path.file_name().is_some());
    let shown = shown.unwrap_or(path).to_string_lossy().into_owned();
    let mut findings = Vec::new();
    let looked = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        look_through(&shown, length, &mut file, |finding, _| findings.push(finding))
    });
    looked.map(|()| findings).map_err(|error| format!("{shown}: {error}"))
}

/// Gives each key of a text to `each`, with what is to be said of it. What is no text has none. `length` is
/// how long it is said to be.
pub(super) fn look_through(
    path: &str,
    length: u64,
    from: &mut dyn Read,
    mut each: impl FnMut(Finding, &[u8]),
) -> io::Result<()> {
    let mut text = room(length);
    from.take(HEAD).read_to_end(&mut text)?;
    if memchr::memchr(0, &text).is_some() {
        return Ok(());
    }
    let mut start = Start::default();
    loop {
        from.take((WINDOW - text.len()) as u64).read_to_end(&mut text)?;
        let ends = text.len() < WINDOW;
        let done = if ends { text.len() } else { cut(&text) };
        // What begins behind the cut is found with all of what comes after it.
        for hit in hits(path, &text).iter().filter(|hit| ends || hit.span.start < done) {
            each(Finding::new(path, &text, hit, &start), hit.of(&text));
        }
        if ends {
            return Ok(());
        }
        start.pass(text.get(..done).unwrap_or_default());
        text.drain(..done);
    }
}

/// Where the next piece begins: at a line, if there is one.
fn cut(text: &[u8]) -> usize {
    let latest = text.len() - OVERLAP;
    let near = text.get(latest - OVERLAP..latest).unwrap_or_default();
    memchr::memrchr(b'\n', near).map_or(latest, |at| latest - OVERLAP + at + 1)
}

/// Memory for a text of that length, or a piece of it, which is wiped, and not outgrown.
fn room(length: u64) -> Zeroizing<Vec<u8>> {
    let length = usize::try_from(length).unwrap_or(WINDOW);
    Zeroizing::new(Vec::with_capacity(length.min(WINDOW) + 1))
}

/// The text of a file that can be replaced as a whole; none for what is no text.
pub(super) fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > WINDOW as u64 {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    let mut text = room(length);
    (&mut file).take(HEAD).read_to_end(&mut text)?;
    if memchr::memchr(0, &text).is_some() {
        return Ok(None);
    }
    file.take(WINDOW as u64).read_to_end(&mut text)?;
    Ok(Some(text))
}
