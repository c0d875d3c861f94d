//! What people approved and refused: a sealed item, so that nobody without the master key decides, and
//! a line of the journal for each, so that the record has who it was.

use std::collections::HashMap;

use rusqlite::Connection;

use super::error::{Fault, VaultError};
use super::keys::DataKey;
use super::{Action, Vault, items};
use crate::approval::Decision;
use crate::reference::Name;
use crate::secret::Secret;

/// How long a decision is kept after it is good for nothing, in seconds: a day, for whoever looks.
const KEPT: i64 = 24 * 60 * 60;

/// The most decisions that are kept. What is older goes first.
const MOST: usize = 10_000;

impl Vault {
    /// Writes down what whoever acts here says of a question, in the place of what was said before. A yes
    /// counts once that many `approvers` have said it of the same, each for themselves, and until then only
    /// for as long as it is `open`. A no counts at once. Returns what has come of it.
    ///
    /// # Errors
    /// [`VaultError`] when the database cannot be written.
    ///
    /// # Panics
    /// Never: texts and numbers are JSON.
    pub fn decide(
        &mut self,
        decision: Decision,
        (approvers, open): (u32, i64),
    ) -> Result<Decision, VaultError> {
        let action =
            if decision.approved { Action::ApprovalGranted } else { Action::ApprovalDenied };
        let subject = decision.id.clone();
        // A person's tokens change, and they stay the same person.
        let who = self.administrator.as_ref();
        let who = who.map_or_else(|| self.by.clone(), |who| format!("administrator {}", who.name));
        self.change(action, &subject, |tx, change| {
            let name = item(change.workspace);
            let mut all = read(tx, change.own, &name)?;
            let before = all.iter().find(|one| one.id == decision.id).cloned();
            let decision = joined(decision, before, who, (approvers, open, change.now));
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

/// What somebody says, with what others have said before of the same.
fn joined(
    new: Decision,
    before: Option<Decision>,
    who: String,
    (approvers, open, now): (u32, i64, i64),
) -> Decision {
    if !new.approved {
        return Decision { by: vec![who], missing: 0, ..new };
    }
    let same = |old: &Decision| old.approved && old.digest == new.digest && now <= old.until;
    let mut by = before.filter(same).map(|old| old.by).unwrap_or_default();
    if !by.contains(&who) {
        by.push(who);
    }
    let said = u32::try_from(by.len()).unwrap_or(u32::MAX);
    let missing = approvers.saturating_sub(said);
    let until = if missing == 0 { new.until } else { open };
    Decision { until, by, missing, ..new }
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
