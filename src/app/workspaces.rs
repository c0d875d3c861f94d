//! The files that a workspace has in the home beside its rows in the vault: its policies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Failure, Home};
use crate::files;
use crate::policy::{FIRST_POLICY, SCHEMA, STRICT_POLICY};

/// A file among a workspace's policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// Where.
    pub path: PathBuf,
    /// Whether it says what Locum wrote into it: nobody would miss it.
    pub as_made: bool,
}

/// Makes the directory of a workspace's policies, and the first one in it. `home` is to be seen from
/// that workspace. Done again after it was cut short, it comes to the same.
///
/// # Errors
/// When there are policies that somebody wrote, unless they are to be taken: those of a workspace that
/// was removed must not come back with its name.
pub fn make_workspace(home: &Home, strict: bool, take: bool) -> Result<(), Failure> {
    let there = policy_files(home)?;
    let foreign = there.iter().find(|file| !file.as_made);
    if let Some(foreign) = foreign.filter(|_| !take) {
        let path = foreign.path.display();
        return Err(Failure::usage(format!("{path} is there already, and would be in force"))
            .help("remove it, or take it with --with-policies"));
    }
    let policies = home.policies();
    let own = home.own_directory();
    for directory in [own.parent(), Some(&*own), Some(&*policies)].into_iter().flatten() {
        files::create_directory(directory)?;
    }
    if take {
        return Ok(());
    }
    let text = if strict { STRICT_POLICY } else { FIRST_POLICY };
    files::replace_private(&policies.join("first.yaml"), text.as_bytes())?;
    // For editors alone; the proxy does not read it.
    Ok(files::replace_private(&policies.join("schema.json"), SCHEMA.as_bytes())?)
}

/// The files in the directory of a workspace's policies; none where there is no such directory.
///
/// # Errors
/// When it cannot be read.
pub fn policy_files(home: &Home) -> Result<Vec<PolicyFile>, Failure> {
    let directory = home.policies();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(&directory, &error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(&directory, &error))?.path();
        let text = fs::read(&path).unwrap_or_default();
        let as_made =
            [FIRST_POLICY, STRICT_POLICY, SCHEMA].iter().any(|own| own.as_bytes() == text);
        all.push(PolicyFile { path, as_made });
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// Removes what a workspace has in the home.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_workspace_files(home: &Home) -> Result<(), Failure> {
    let own = home.own_directory();
    match fs::remove_dir_all(&own) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unreadable(&own, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}
