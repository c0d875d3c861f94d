//! Policy files of the workspace.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::Method;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Call, Desk, Order, Trouble};
use crate::app::{Failure, Home, policies_of, read_policies};
use crate::reference::Name;

/// All files that count in the workspace: its own, and the organisation's as `org/NAME`.
pub(crate) struct ListPolicies;

#[derive(Serialize, Deserialize)]
pub(crate) struct Policies {
    pub(crate) files: BTreeMap<String, File>,
    /// What is wrong with them together.
    pub(crate) mistakes: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) text: String,
    pub(crate) organisation: bool,
}

impl Order for ListPolicies {
    type Answer = Policies;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get("/v1/policies"))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Policies, Trouble> {
        let home = desk.home();
        let read = read_policies(&policies_of(home)?);
        let organisation = home.organisation();
        let files = read.sources.iter().map(|source| {
            let of_all = std::path::Path::new(source.name()).starts_with(&organisation);
            let name = source.name().rsplit('/').next().unwrap_or_default();
            let name = if of_all { format!("org/{name}") } else { name.to_owned() };
            (name, File { text: source.text().to_owned(), organisation: of_all })
        });
        let mistakes = read.policy.as_ref().err().map(|report| hide(&report.to_string(), home));
        Ok(Policies { files: files.collect(), mistakes })
    }
}

/// Puts a file in force, if all are sound with it, and the organisation's above them.
pub(crate) struct PutPolicy {
    pub(crate) file: String,
    pub(crate) text: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Put {
    pub(crate) file: String,
}

impl Order for PutPolicy {
    type Answer = Put;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call {
            method: Method::PUT,
            target: target(&self.file)?,
            body: Zeroizing::new(self.text.clone().into_bytes()),
        })
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Put, Trouble> {
        let path = own_file(desk.home(), &self.file)?;
        desk.change_policy(&path, Some(&self.text))?;
        Ok(Put { file: self.file })
    }
}

/// Takes a file away, if the others are sound without it.
pub(crate) struct RemovePolicy {
    pub(crate) file: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Removed {
    pub(crate) file: String,
    pub(crate) removed: bool,
}

impl Order for RemovePolicy {
    type Answer = Removed;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call { method: Method::DELETE, target: target(&self.file)?, body: Zeroizing::default() })
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Removed, Trouble> {
        let path = own_file(desk.home(), &self.file)?;
        desk.change_policy(&path, None)?;
        Ok(Removed { file: self.file, removed: true })
    }
}

fn target(file: &str) -> Result<String, Failure> {
    Ok(format!("/v1/policies/{}.yaml", stem(file)?))
}

/// A file of the workspace's own, and never one of the organisation's: a name has no slash and no dot but
/// the last.
fn own_file(home: &Home, file: &str) -> Result<PathBuf, Failure> {
    Ok(home.policies().join(format!("{}.yaml", stem(file)?)))
}

fn stem(file: &str) -> Result<Name, Failure> {
    let stem = file.strip_suffix(".yaml").and_then(|stem| stem.parse::<Name>().ok());
    stem.ok_or_else(|| Failure::usage("a policy's file is named NAME.yaml"))
}

/// A report whose paths begin in the home.
pub(crate) fn hide(report: &str, home: &Home) -> String {
    report.replace(&format!("{}/", home.path().display()), "")
}
