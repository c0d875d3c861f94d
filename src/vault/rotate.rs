//! New data keys: every secret and every item is sealed anew, in one transaction. What was made with the
//! old ones and cannot be made anew is checked with keys that are [kept](super::kept) for it.
//!
//! Readers go on meanwhile: a proxy has a snapshot in memory, and takes the new keys with its next look.

use rusqlite::Transaction;

use super::credentials;
use super::error::{Fault, Row, VaultError};
use super::journal::{self, Action, AuditAnchor};
use super::kept::{self, Purpose};
use super::keys::DataKey;
use super::{Keys, VAULT_SCOPE, Vault, all_data_keys, check_wrapping, items, now};
use crate::token::run::MAX_TTL;

/// How many generations an anchor may be behind. It is written after each change: one command that was
/// killed leaves it one behind, and a few may be at work at once.
const ANCHORS: usize = 8;

/// What becomes of run tokens that were signed with the old key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldRuns {
    /// They are good until they expire.
    Stand,
    /// They end now: whoever may have the old key could sign some.
    End,
}

/// What a rotation of the data keys did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// How many generations of data keys there have been.
    pub generation: u64,
    /// Versions of credentials that were sealed anew.
    pub secrets: u64,
    /// Items that were.
    pub items: u64,
}

impl Vault {
    /// Puts new data keys in the place of the old, and seals everything anew. Agents' tokens stay
    /// good, and so does the audit log's key. After `kill -9` the vault has all of the old keys or all
    /// of the new.
    ///
    /// # Errors
    /// [`Fault::WrongKey`] when the vault got another master key since it was opened here,
    /// [`Fault::Corrupt`] naming what does not open; nothing is changed then.
    pub fn rotate_data_keys(&mut self, runs: OldRuns) -> Result<Rotated, VaultError> {
        let rotated = self.put_new_keys(runs).map_err(|fault| self.fault(fault))?;
        self.wipe_log();
        Ok(rotated)
    }

    fn put_new_keys(&self, runs: OldRuns) -> Result<Rotated, Fault> {
        let (tx, old) = self.begin()?;
        check_wrapping(&tx, &self.wrapping)?;
        let turn = Turn { tx: &tx, now: now(), old: &old, runs };
        let generation = old.generation + 1;
        let mut secrets = 0;
        let (mut kept, mut own) = (Vec::new(), None);
        for (scope, sealed) in all_data_keys(&tx)? {
            let corrupt = |_| Fault::Corrupt(Row::DataKey(scope.clone()));
            let before = self.wrapping.unwrap(&scope, &sealed).map_err(corrupt)?;
            let sealed = self.wrapping.mint(&scope)?;
            let after = self.wrapping.unwrap(&scope, &sealed).map_err(corrupt)?;
            tx.execute(
                "UPDATE keys SET sealed = ?2, created = ?3, generation = ?4 WHERE scope = ?1",
                (&scope, sealed, turn.now, generation),
            )?;
            if let Some(workspace) = scope.strip_prefix("workspace/") {
                secrets += credentials::seal_all_anew(&tx, workspace, &before, &after)?;
                kept.push((scope, before));
            } else {
                own = Some(after);
            }
        }
        let own = own.ok_or_else(|| Fault::Corrupt(Row::DataKey(VAULT_SCOPE.to_owned())))?;
        let anchor = journal::read_audit_anchor(&tx, &old.own)?;
        let items = items::seal_all_anew(&tx, &old.own, &own)?;
        for (scope, before) in &kept {
            turn.keep_of_workspace(&own, scope, before)?;
        }
        turn.keep_of_vault(&own)?;
        journal::write_audit_anchor(&tx, &own, &anchor.unwrap_or(AuditAnchor::NONE))?;
        journal::append(&tx, &own, (Action::DataKeysRotated, "vault", &self.by))?;
        let new = Keys::unwrap(&tx, &self.wrapping, &self.workspace, generation)?;
        tx.commit()?;
        *self.keys.borrow_mut() = new;
        Ok(Rotated { generation: generation.cast_unsigned(), secrets, items })
    }
}

/// One change of the data keys.
struct Turn<'t> {
    tx: &'t Transaction<'t>,
    now: i64,
    old: &'t Keys,
    runs: OldRuns,
}

impl Turn<'_> {
    fn keep(
        &self,
        own: &DataKey,
        (scope, purpose): (&str, Purpose),
        from: &DataKey,
        until: i64,
    ) -> Result<(), Fault> {
        let which = (scope, purpose, self.old.generation);
        kept::keep(self.tx, own, which, (&purpose.derive(from), until, self.now))
    }

    /// Keeps what tokens and revoked versions are checked with, and forgets what checks none any more.
    fn keep_of_workspace(&self, own: &DataKey, scope: &str, from: &DataKey) -> Result<(), Fault> {
        self.keep(own, (scope, Purpose::Token), from, self.now)?;
        self.keep(own, (scope, Purpose::Fingerprint), from, self.now)?;
        match self.runs {
            OldRuns::Stand => {
                self.keep(own, (scope, Purpose::RunToken), from, self.now + MAX_TTL)?;
            }
            OldRuns::End => self.forget(own, scope, Purpose::RunToken, |_| Ok(false))?,
        }
        let workspace = scope.strip_prefix("workspace/").unwrap_or(scope);
        let any = |query: &str, until: i64| {
            Ok(self.tx.prepare_cached(query)?.exists((workspace, until))?)
        };
        self.forget(own, scope, Purpose::RunToken, |until| Ok(until >= self.now))?;
        self.forget(own, scope, Purpose::Token, |until| {
            let query = "SELECT 1 FROM tokens \
                         WHERE workspace = ?1 AND mac IS NOT NULL AND created <= ?2";
            any(query, until)
        })?;
        self.forget(own, scope, Purpose::Fingerprint, |until| {
            let query = "SELECT 1 FROM versions JOIN credentials ON credential = id \
                         WHERE workspace = ?1 AND state = 'revoked' AND versions.ended <= ?2";
            any(query, until)
        })
    }

    /// Keeps what the journal's lines are checked with for as long as there are any, the keys of the
    /// anchor that is outside for some generations, and the first audit key for good.
    fn keep_of_vault(&self, own: &DataKey) -> Result<(), Fault> {
        let (scope, from) = (VAULT_SCOPE, &*self.old.own);
        let last = journal::head(self.tx)?.epoch;
        let mut known: Vec<i64> = kept::all(self.tx, own, scope, Purpose::Anchor)?
            .iter()
            .map(|kept| kept.until)
            .collect();
        known.sort_unstable();
        let oldest = known.iter().rev().nth(ANCHORS - 2).copied().unwrap_or(0);
        self.forget(own, scope, Purpose::Anchor, |until| Ok(until >= oldest))?;
        self.keep(own, (scope, Purpose::Anchor), from, last)?;
        self.keep(own, (scope, Purpose::Journal), from, last)?;
        if kept::all(self.tx, own, scope, Purpose::Audit)?.is_empty() {
            self.keep(own, (scope, Purpose::Audit), from, i64::MAX)?;
        }
        Ok(())
    }

    fn forget(
        &self,
        own: &DataKey,
        scope: &str,
        purpose: Purpose,
        needed: impl Fn(i64) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        for kept in kept::all(self.tx, own, scope, purpose)? {
            if !needed(kept.until)? {
                self.tx.execute("DELETE FROM items WHERE name = ?1", [kept.name])?;
            }
        }
        Ok(())
    }
}
