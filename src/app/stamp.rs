//! Whether a file may have changed, told without reading it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Home;
use crate::config::Config;

/// Tells whether a file may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    path: PathBuf,
    length: u64,
    inode: u64,
    modified: Option<SystemTime>,
}

impl FileStamp {
    /// Only whether it is there, and which one: what a directory holds is stamped by itself.
    pub(super) fn presence(path: PathBuf) -> Self {
        Self { length: 0, modified: None, ..Self::of(path) }
    }

    /// Of which file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn of(path: PathBuf) -> Self {
        let metadata = std::fs::metadata(&path).ok();
        Self {
            length: metadata.as_ref().map_or(0, std::fs::Metadata::len),
            inode: metadata.as_ref().map_or(0, std::os::unix::fs::MetadataExt::ino),
            modified: metadata.and_then(|m| m.modified().ok()),
            path,
        }
    }

    /// Whether its time of change is so long ago that a further change would show. Of a file with nothing in it
    /// longer: whoever writes into a file empties it first, and may be stopped there.
    pub(super) fn is_settled(&self) -> bool {
        const TICK: Duration = Duration::from_millis(50);
        const EMPTY: Duration = Duration::from_millis(500);
        let age = self.modified.and_then(|at| at.elapsed().ok());
        age.is_none_or(|age| age > if self.length == 0 { EMPTY } else { TICK })
    }

    /// What no file has, when a further change might not show: so it is looked at once more.
    pub(super) fn once_settled(self) -> Self {
        if self.is_settled() { self } else { Self { length: u64::MAX, ..self } }
    }
}

/// The state of the config, and of the certificates and lists that it names for origins.
pub(super) fn config_stamp(home: &Home, config: &Config) -> Vec<FileStamp> {
    let files = config.upstream.hosts.iter().flat_map(|host| {
        let pair = host.client_cert.as_ref();
        [host.ca_file.as_ref(), host.crl_file.as_ref()]
            .into_iter()
            .chain([pair.map(|pair| &pair.certificate), pair.map(|pair| &pair.key)])
            .flatten()
    });
    std::iter::once(home.config()).chain(files.cloned()).map(FileStamp::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_waited_for_longer() {
        let directory = tempfile::tempdir().unwrap();
        let stamp = |name: &str, text: &str, age: u64| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            let at = SystemTime::now() - Duration::from_millis(age);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
            FileStamp::of(path).is_settled()
        };
        assert!(stamp("a", "x", 100) && !stamp("a", "", 100) && stamp("a", "", 1000));
        assert!(FileStamp::of(directory.path().join("none")).is_settled());
        assert!(FileStamp::presence(directory.path().to_owned()).is_settled());
    }
}
