//! A directory that is gone when it is no longer needed.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::Failure;

/// A new directory of mode 0700 among the system's temporary files. Removed on drop.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn make() -> Result<Self, Failure> {
        let mut random = [0; 6];
        getrandom::fill(&mut random).map_err(|_| Failure::new("the system has no randomness"))?;
        let base = std::env::temp_dir();
        // SQLite opens no database through a link, and /tmp is one on some systems.
        let base = base.canonicalize().unwrap_or(base);
        let path = base.join(format!("locum-demo-{}", data_encoding::HEXLOWER.encode(&random)));
        // Fails if it is there: nobody can have prepared it.
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            Failure::new(format!("{} cannot be made: {error}", path.display()))
                .help("set TMPDIR to a directory that you can write to")
        })?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A process that was just killed may still be writing its last file.
        for _ in 0..10 {
            if fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("locum: {} could not be removed", self.0.display());
    }
}
