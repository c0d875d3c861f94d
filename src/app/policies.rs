//! Finding and reading policy files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::stamp::FileStamp;
use super::{Failure, Home};
use crate::agent::DEFAULT_WORKSPACE;
use crate::document::{Limits, Problem, Report, Source};
use crate::policy::{self, Compiled, Policy};

/// Reads and compiles the policies of the workspace that the home is worked in.
///
/// # Errors
/// Every mistake in every file.
pub fn load_policy(home: &Home) -> Result<Policy, Failure> {
    Ok(read_policies(&policies_of(home)?).policy?.policy)
}

/// Where the policies of the workspace are that the home is worked in: the organisation's, which bound
/// all, and its own.
///
/// # Errors
/// When something stands in the workspace's own directory that looks like the organisation's, and would
/// not be read: whoever put it there thinks that it bounds.
pub(crate) fn policies_of(home: &Home) -> Result<Vec<PathBuf>, Failure> {
    let own = home.policies();
    if home.workspace().as_str() == DEFAULT_WORKSPACE {
        // Its directory has the organisation's in it.
        return Ok(vec![own]);
    }
    let inside = own.join(policy::ORGANISATION);
    if fs::symlink_metadata(&inside).is_ok() {
        return Err(Failure::usage(format!(
            "{}: there is one organisation for all workspaces",
            inside.display()
        ))
        .help(format!("its rules stand in {}", home.organisation().display())));
    }
    let organisation = home.organisation();
    // What is there and cannot be read is a failure, and found when it is read.
    let there = fs::symlink_metadata(&organisation).is_ok();
    Ok(there.then_some(organisation).into_iter().chain([own]).collect())
}

/// Whether the workspace's policies are sound with this text in a file of theirs, or without that file.
///
/// # Errors
/// When they cannot be found at all; within it, every mistake in every file.
pub(crate) fn check_policy_file(
    home: &Home,
    path: &Path,
    text: Option<&str>,
) -> Result<Result<(), String>, Failure> {
    let (mut sources, report) = sources(&policies_of(home)?);
    if !report.is_empty() {
        return Ok(Err(report.to_string()));
    }
    let name = path.display().to_string();
    sources.retain(|source| source.name() != name);
    sources.extend(text.map(|text| Source::new(&name, text)));
    Ok(policy::compile(sources).map(drop).map_err(|report| report.to_string()))
}

/// The state of all that may be policies of the workspace, and of the organisation. What else lies
/// there, such as the schema for editors, is not read.
pub(super) fn stamp(home: &Home) -> Vec<FileStamp> {
    let (own, organisation) = (home.policies(), home.organisation());
    let entries = [&own, &organisation].map(fs::read_dir);
    let paths = entries.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
    let paths = paths.filter(|path| path.extension().is_none_or(|kind| kind != "json"));
    let mut stamps: Vec<FileStamp> = paths.map(FileStamp::of).collect();
    stamps.push(FileStamp::presence(own));
    stamps.sort_by(|a, b| a.path().cmp(b.path()));
    stamps
}

/// What became of policy files.
pub(crate) struct ReadPolicy {
    /// How many files were read.
    pub(crate) files: usize,
    /// Their texts, to show places in.
    pub(crate) sources: Vec<Source>,
    /// The policy, or every mistake in every file, and what could not be read.
    pub(crate) policy: Result<Compiled, Report>,
}

/// Reads and compiles policy files as one policy. Of a directory those that end in `.yaml` or
/// `.yml`, by name and without the hidden ones, after those of its `org`; a file that is named itself is read whatever it is
/// called.
pub(crate) fn read_policies(paths: &[PathBuf]) -> ReadPolicy {
    let (sources, mut report) = sources(paths);
    let files = sources.len();
    let texts = sources.clone();
    let policy = match policy::compile_all(sources) {
        Ok(policy) if report.is_empty() => Ok(policy),
        Ok(_) => Err(report),
        Err(mistakes) => {
            report.extend(mistakes);
            Err(report)
        }
    };
    ReadPolicy { files, sources: texts, policy }
}

fn sources(paths: &[PathBuf]) -> (Vec<Source>, Report) {
    let mut report = Report::default();
    let mut files: Vec<PathBuf> = Vec::new();
    for path in paths {
        match files_of(path) {
            Ok(found) => files.extend(found),
            Err(error) => report.push(unreadable(path, &error)),
        }
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|path| seen.insert(path.clone()));
    let mut sources = Vec::with_capacity(files.len());
    for path in files {
        match Source::read(&path, &path.display().to_string(), &Limits::POLICY) {
            Ok(Some(source)) => sources.push(source),
            Ok(None) => report.push(unreadable(&path, &io::ErrorKind::NotFound.into())),
            Err(problems) => report.extend(problems),
        }
    }
    (sources, report)
}

fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let organisation = path.join(policy::ORGANISATION);
    // What is there and cannot be read is a failure: without the bounds more would be allowed.
    let mut files = match fs::symlink_metadata(&organisation) {
        Ok(_) => yaml_in(&organisation)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.extend(yaml_in(path)?);
    Ok(files)
}

fn yaml_in(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if yaml && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem {
        source: Source::new(&path.display().to_string(), ""),
        at: None,
        path: String::new(),
        message: format!("cannot be read: {error}"),
        advice: Some("policies are files that end in .yaml, in one directory".to_owned()),
    }
}
