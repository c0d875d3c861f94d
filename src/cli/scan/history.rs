//! What git has: the keys that each commit of the history brought, or that the next one will.
//!
//! Files are read as they lie in the repository, and no change is read as git shows it: what a difference
//! looks like is for attributes, configuration and the lines themselves to bend.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::rc::Rc;

use super::Finding;
use super::git::{self, Blobs, Change};
use super::tree::{self, Looked};
use crate::app::Failure;

/// Every key that any commit brought into a file of `directory`, each once for each file: where it came in first.
pub(super) fn all(directory: &Path) -> Result<Looked, Failure> {
    let (place, path) = place(directory);
    let mut search = Search::open(place)?;
    git::history(place, path, |change| search.brought(&change))?;
    search.end()
}

/// Every key that the next commit brings: in all of it, or in what is below `directory`.
pub(super) fn staged(directory: Option<&Path>) -> Result<Looked, Failure> {
    let (place, path) = directory.map_or((Path::new("."), None), |directory| {
        let (place, path) = place(directory);
        (place, Some(path))
    });
    let mut search = Search::open(place)?;
    git::staged(place, path, |change| search.added(&change))?;
    search.end()
}

/// Where git is to look, and at what there.
fn place(directory: &Path) -> (&Path, &OsStr) {
    match (directory.is_file(), directory.parent(), directory.file_name()) {
        (true, Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
        (true, Some(parent), Some(name)) => (parent, name),
        _ => (directory, OsStr::new(".")),
    }
}

/// A key in some file, wherever that is.
struct Key {
    finding: Finding,
    /// A digest under a key of this run, so that no text of a key is kept.
    digest: u64,
}

/// A search through the files of a repository, each of which is read once.
struct Search {
    blobs: Blobs,
    /// The keys of the files that were read, by id. Whether a file is a `.env` file is told by its name.
    read: HashMap<(String, bool), Option<Rc<[Key]>>>,
    /// Of the keys that were reported, with their paths.
    seen: HashSet<u64>,
    digest: RandomState,
    /// How many files this clone has not.
    missing: usize,
    looked: Looked,
}

impl Search {
    fn open(directory: &Path) -> Result<Self, Failure> {
        Ok(Self {
            blobs: Blobs::open(directory)?,
            read: HashMap::new(),
            seen: HashSet::new(),
            digest: RandomState::new(),
            missing: 0,
            looked: Looked::default(),
        })
    }

    fn end(mut self) -> Result<Looked, Failure> {
        self.blobs.end()?;
        if self.missing > 0 {
            let missing = self.missing;
            self.looked.left.push(format!("{missing} files that this partial clone has not"));
        }
        Ok(self.looked)
    }

    /// Reports the keys that were not in this file at any time before.
    fn brought(&mut self, change: &Change) -> Result<(), Failure> {
        for key in self.keys(&change.new, &change.path)?.iter() {
            if self.seen.insert(self.digest.hash_one((&change.path, key.digest))) {
                self.report(key, change);
            }
        }
        Ok(())
    }

    /// Reports the keys that are more often in this file than before.
    fn added(&mut self, change: &Change) -> Result<(), Failure> {
        let mut before: HashMap<u64, usize> = HashMap::new();
        if let Some(old) = &change.old {
            for key in self.keys(old, &change.path)?.iter() {
                *before.entry(key.digest).or_default() += 1;
            }
        }
        for key in self.keys(&change.new, &change.path)?.iter() {
            match before.get_mut(&key.digest).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => self.report(key, change),
            }
        }
        Ok(())
    }

    fn report(&mut self, key: &Key, change: &Change) {
        let commit = Some(change.commit.clone()).filter(|id| !id.is_empty());
        let path = change.path.clone();
        self.looked.findings.push(Finding { path, commit, ..key.finding.clone() });
    }

    /// The keys in a file.
    fn keys(&mut self, id: &str, path: &str) -> Result<Rc<[Key]>, Failure> {
        let known = (id.to_owned(), tree::is_env(Path::new(path)));
        if let Some(keys) = self.read.get(&known) {
            return Ok(keys.clone().unwrap_or_default());
        }
        let (digest, mut keys) = (&self.digest, Vec::new());
        let there = self.blobs.with(id, |length, content| {
            tree::look_through(path, length, content, |finding, key| {
                keys.push(Key { finding, digest: digest.hash_one(key) });
            })
        })?;
        self.missing += usize::from(there.is_none());
        let keys: Option<Rc<[Key]>> = Some(keys).filter(|keys| !keys.is_empty()).map(Into::into);
        self.read.insert(known, keys.clone());
        Ok(keys.unwrap_or_default())
    }
}
