//! What people approved and refused: a sealed item, so that nobody without the master key decides, and
//! a line of the journal for each, so that the record has who it was.

use std::collections::HashMap;

use rusqlite::Connection;

use super::administrators::{self, Administrator};
use super::error::{Fault, VaultError};
use super::keys::DataKey;
use super::{Action, Change, Vault, items};
use crate::approval::Decision;
use crate::reference::Name;
use crate::secret::Secret;

/// How long a decision is kept after it is good for nothing, in seconds: a day, for whoever looks.
const KEPT: i64 = 24 * 60 * 60;

/// The most decisions that are kept. What is older goes first.
const MOST: usize = 10_000;

impl Vault {
    /// Writes down what whoever acts here says of a question. A yes counts once as many have said it of the same as are
    /// wanted, each for themselves, and until then only for as long as it is open. A no counts at once. What is decided
    /// stays so. Returns what has come of it.
    ///
    /// # Errors
    /// [`Fault::Decided`]; [`Fault::ApproverIsNew`] for an administrator who was added after the question was asked, where
    /// several are wanted; [`VaultError`] when the database cannot be written.
    ///
    /// # Panics
    /// Never: texts and numbers are JSON.
    pub fn decide(&mut self, decision: Decision, wanted: Wanted) -> Result<Decision, VaultError> {
        let action =
            if decision.approved { Action::ApprovalGranted } else { Action::ApprovalDenied };
        let subject = decision.id.clone();
        let who = self.administrator.as_ref().map(|who| who.name.clone());
        // A person's tokens change, and they stay the same person.
        let who = who.map_or_else(|| self.by.clone(), |name| signature(&name));
        self.change(action, &subject, |tx, change| {
            let name = item(change.workspace);
            let mut all = read(tx, change.own, &name)?;
            let electors = Electors::of(tx, change, wanted)?;
            let before = all.iter().find(|one| one.id == decision.id).cloned();
            let decision = joined(decision, before, who, (wanted, change.now), &electors)?;
            all.retain(|one| one.until > change.now - KEPT && one.id != decision.id);
            all.push(decision.clone());
            let surplus = all.len().saturating_sub(MOST);
            all.drain(..surplus);
            let json = serde_json::to_vec(&all).expect("texts and numbers are JSON");
            items::put(tx, change.own, &name, &Secret::new(json), change.now)?;
            Ok(decision)
        })
    }

    /// What was decided in the workspace, by question.
    ///
    /// # Errors
    /// [`VaultError`] when it cannot be read.
    pub fn decisions(&self) -> Result<HashMap<String, Decision>, VaultError> {
        let read = || {
            let tx = self.db.unchecked_transaction()?;
            // An answer that was put back from an earlier day opens by itself.
            all(&tx, &self.check_state(&tx)?.own, self.workspace())
        };
        read().map_err(|fault| self.fault(fault))
    }
}

/// An administrator, as one who decided.
fn signature(name: &Name) -> String {
    format!("{ADMINISTRATOR}{name}")
}

/// What stands before an administrator's name; no user of the machine has a name with a blank in it.
const ADMINISTRATOR: &str = "administrator ";

/// What a question wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// How many have to say yes.
    pub approvers: u32,
    /// When it was asked, in seconds since the Unix epoch.
    pub asked: i64,
    /// The last second in which it can be answered.
    pub open: i64,
}

/// Whose yes counts: administrators of now, and where several are wanted those who were there before the question,
/// or an owner could make the others up when they are needed.
struct Electors {
    several: bool,
    names: Vec<String>,
}

impl Electors {
    fn of(db: &Connection, change: &Change<'_>, wanted: Wanted) -> Result<Self, Fault> {
        let several = wanted.approvers > 1;
        let counts = |one: &&Administrator| {
            let there = one.workspace == *change.workspace && one.lives(change.now);
            there && (!several || one.created <= wanted.asked)
        };
        let all = administrators::read(db, change.own)?;
        let names = all.iter().filter(counts).map(|one| signature(&one.name)).collect();
        Ok(Self { several, names })
    }

    fn have(&self, who: &String) -> bool {
        !who.starts_with(ADMINISTRATOR) || self.names.contains(who)
    }
}

/// What somebody says, with what others have said before of the same.
fn joined(
    new: Decision,
    before: Option<Decision>,
    who: String,
    (wanted, now): (Wanted, i64),
    electors: &Electors,
) -> Result<Decision, Fault> {
    let before = before.filter(|old| old.digest == new.digest && now <= old.until);
    if before.as_ref().is_some_and(|old| old.settles(&new.digest).is_some()) {
        return Err(Fault::Decided(new.id));
    }
    if !new.approved {
        return Ok(Decision { by: vec![who], missing: 0, ..new });
    }
    if electors.several && !electors.have(&who) {
        return Err(Fault::ApproverIsNew(new.id));
    }
    let mut by = before.filter(|old| old.approved).map(|old| old.by).unwrap_or_default();
    by.retain(|one| electors.have(one));
    if !by.contains(&who) {
        by.push(who);
    }
    let said = u32::try_from(by.len()).unwrap_or(u32::MAX);
    let missing = wanted.approvers.saturating_sub(said);
    let until = if missing == 0 { new.until } else { wanted.open };
    Ok(Decision { until, by, missing, ..new })
}

/// All decisions, by question.
pub(super) fn all(
    db: &Connection,
    own_key: &DataKey,
    workspace: &Name,
) -> Result<HashMap<String, Decision>, Fault> {
    let all = read(db, own_key, &item(workspace))?;
    Ok(all.into_iter().map(|decision| (decision.id.clone(), decision)).collect())
}

fn read(db: &Connection, own_key: &DataKey, name: &str) -> Result<Vec<Decision>, Fault> {
    let Some(item) = items::get(db, own_key, name)? else { return Ok(Vec::new()) };
    let list = item.expose(|json| serde_json::from_slice(json).ok());
    list.ok_or_else(|| items::corrupt(name))
}

fn item(workspace: &Name) -> String {
    format!("approvals/{workspace}")
}
