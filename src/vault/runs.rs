//! Run tokens: made without a change of the vault, and ended by a list of what was revoked, which is a
//! sealed item.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction};
use zeroize::Zeroizing;

use super::error::{Fault, Kind, VaultError};
use super::kept::{self, Purpose};
use super::keys::DataKey;
use super::{Action, Vault, agents, items, journal, now, sets, values};
use crate::agent::{Context, qualified};
use crate::reference::Name;
use crate::secret::Secret;
use crate::token::run::{Claims, MAX_TTL, Revocation, RunKey, RunTokens, Which};

/// Revocations beyond which those are forgotten whose tokens have run out by themselves. Not before: by
/// a clock that is far ahead, none of them is needed, and when it is set right, all are.
const PLENTY: usize = 1000;

/// How long what somebody else vouches for may be good at the most, in seconds: nobody tells us. Longer
/// than certificates of services are, and tokens by far.
const LONGEST_PROOF: i64 = 400 * 24 * 60 * 60;

/// How long a certificate of the home's own CA is good at the most, in seconds: ninety days.
const LONGEST_CERTIFICATE: i64 = 90 * 24 * 60 * 60;

/// A certificate that was issued to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedOnce {
    /// In lower-case hex.
    pub serial: String,
    /// When, in seconds of Unix time.
    pub issued: i64,
    /// When it was ended before its time, if it was.
    pub revoked: Option<i64>,
}

/// What a run token is to say.
#[derive(Clone, Debug)]
pub struct NewRunToken {
    /// The agent that it stands for.
    pub agent: Name,
    /// What it fixes of run, node and user.
    pub context: Context,
    /// The credentials and sets that it may use; none for all that the agent may.
    pub uses: Option<Vec<Name>>,
    /// The environment whose values it gets.
    pub environment: Option<Name>,
    /// How long it is good for, in seconds: 1 to [`MAX_TTL`].
    pub ttl: i64,
}

impl Vault {
    /// Makes a run token. Returns its claims, and the only copy of its text. The vault stays as it is.
    ///
    /// # Errors
    /// [`Fault::Unknown`] for the agent, a credential, set or value, or the environment; [`Fault::Revoked`] for the agent;
    /// [`Fault::RunToken`] when it would be too long.
    pub fn run_token(&self, new: NewRunToken) -> Result<(Claims, Zeroizing<String>), VaultError> {
        self.make_run_token(new).map_err(|fault| self.fault(fault))
    }

    fn make_run_token(&self, new: NewRunToken) -> Result<(Claims, Zeroizing<String>), Fault> {
        let tx = self.db.unchecked_transaction()?;
        agents::require_live(&tx, &self.workspace, &new.agent)?;
        let values = values::all(&tx, &self.keys(&tx)?.own, &self.workspace)?;
        for name in new.uses.iter().flatten() {
            if !sets::is_any(&tx, &self.workspace, name)? && !values.contains_key(name) {
                return Err(Fault::unknown(Kind::CredentialOrSet, name));
            }
        }
        if let Some(environment) = &new.environment
            && !values.values().any(|value| value.environments.contains_key(environment))
        {
            return Err(Fault::unknown(Kind::Environment, environment));
        }
        let claims = Claims {
            id: Claims::new_id().map_err(|_| Fault::NoRandomness)?,
            workspace: self.workspace.clone(),
            agent: new.agent,
            context: new.context,
            uses: new.uses.map(Vec::into_boxed_slice),
            environment: new.environment,
            issued: now_ms(),
            epoch: Some(journal::head(&tx)?.epoch.cast_unsigned()),
            expires: now() + new.ttl.clamp(1, MAX_TTL),
        };
        let text = self.check_state(&tx)?.workspace.run_key().sign(&claims)?;
        Ok((claims, text))
    }

    /// Notes that a certificate was issued to an agent: who has it is in no other place.
    ///
    /// # Errors
    /// [`Fault::Unknown`] for the agent.
    pub fn note_certificate(&mut self, agent: &Name, serial: &str) -> Result<(), VaultError> {
        let subject = format!("{agent} serial:{serial}");
        self.change(Action::CertificateIssued, &subject, |tx, change| {
            agents::require_known(tx, change.workspace, agent).map(drop)
        })
    }

    /// The certificates that were issued to an agent within the time for which one can be good, the oldest
    /// first.
    ///
    /// # Errors
    /// [`Fault::Unknown`] for the agent.
    pub fn certificates(&self, agent: &Name) -> Result<Vec<IssuedOnce>, VaultError> {
        self.issued_to(agent).map_err(|fault| self.fault(fault))
    }

    fn issued_to(&self, agent: &Name) -> Result<Vec<IssuedOnce>, Fault> {
        let tx = self.db.unchecked_transaction()?;
        agents::require_known(&tx, &self.workspace, agent)?;
        let revoked = revocations(&tx, &self.keys(&tx)?.own, &self.workspace)?;
        let ends = |serial: &str| {
            let proof = Which::Proof(format!("serial:{serial}"));
            let mut own = revoked.iter().filter(|one| one.agent == agent.as_str());
            own.find(|one| one.which == proof).map(|one| one.at_ms / 1000)
        };
        let begin = format!("{} serial:", qualified(self.workspace.as_str(), agent.as_str()));
        let mut statement = tx.prepare_cached(
            "SELECT subject, at FROM journal WHERE action = ?1 AND at >= ?2 ORDER BY epoch",
        )?;
        // What was issued in another workspace of its name is nobody's here.
        let since = self.began(&tx)?.unwrap_or_default().max(now() - LONGEST_CERTIFICATE);
        let rows = statement.query_map((Action::CertificateIssued.as_str(), since), |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?))
        })?;
        let mut all = Vec::new();
        for row in rows {
            let (subject, issued) = row?;
            if let Some(serial) = subject.strip_prefix(&begin) {
                all.push(IssuedOnce { revoked: ends(serial), serial: serial.to_owned(), issued });
            }
        }
        Ok(all)
    }

    /// Ends run tokens of an agent that were made until now. Later ones are good.
    ///
    /// # Errors
    /// [`Fault::Unknown`] for the agent.
    pub fn run_revoke(&mut self, agent: &Name, which: Which) -> Result<(), VaultError> {
        let subject = match &which {
            Which::All => agent.to_string(),
            Which::Run(run) => format!("{agent} run={run}"),
            Which::Token(id) => format!("{agent} run token {id}"),
            Which::Proof(id) => format!("{agent} {id}"),
        };
        self.change(Action::RunsRevoked, &subject, |tx, change| {
            agents::require_known(tx, change.workspace, agent)?;
            revoke(tx, change.own, change.workspace, (agent, which))
        })
    }
}

/// Writes down that run tokens are ended, and forgets what can end none any more.
pub(super) fn revoke(
    tx: &Transaction<'_>,
    own_key: &DataKey,
    workspace: &Name,
    (agent, which): (&Name, Which),
) -> Result<(), Fault> {
    let at_ms = now_ms();
    // The one of the change that this is part of. In a vault that was put back they are counted anew, and
    // tokens of the time that is gone have higher ones: there the clock tells which were before.
    let next = journal::head(tx)?.epoch.cast_unsigned() + 1;
    let epoch = (!journal::was_put_back(tx)?).then_some(next);
    let mut all = revocations(tx, own_key, workspace)?;
    if all.len() >= PLENTY {
        let longest = |which: &Which| match which {
            Which::Proof(_) => LONGEST_PROOF,
            Which::All | Which::Run(_) | Which::Token(_) => MAX_TTL,
        };
        all.retain(|one| one.at_ms > at_ms - longest(&one.which) * 1000);
    }
    all.retain(|one| one.agent != agent.as_str() || one.which != which);
    all.push(Revocation { agent: agent.to_string(), which, at_ms, epoch });
    let json = serde_json::to_vec(&all).expect("strings and numbers are JSON");
    items::put(tx, own_key, &item(workspace), &Secret::new(json), now())
}

/// Ends the certificates that were issued to an agent, or to all of the workspace. Their names are all that
/// they say, and may be given again.
pub(super) fn end_certificates(
    tx: &Transaction<'_>,
    own_key: &DataKey,
    workspace: &Name,
    agent: Option<&Name>,
) -> Result<(), Fault> {
    let mut statement = tx.prepare_cached("SELECT subject FROM journal WHERE action = ?1")?;
    let issued = statement.query_map([Action::CertificateIssued.as_str()], |row| row.get(0))?;
    let issued: Vec<String> = issued.collect::<Result<_, _>>()?;
    for subject in issued {
        let Some((of, serial)) = subject.split_once(' ') else { continue };
        let Ok(name) = of.rsplit('/').next().unwrap_or_default().parse::<Name>() else { continue };
        let own = of == qualified(workspace.as_str(), name.as_str());
        if own && agent.is_none_or(|agent| *agent == name) {
            revoke(tx, own_key, workspace, (&name, Which::Proof(serial.to_owned())))?;
        }
    }
    Ok(())
}

/// Drops what ends nothing once the workspace has gone, with the key of its run tokens. Certificates are
/// good by themselves, so that their ends stay.
pub(super) fn forget(
    tx: &Transaction<'_>,
    own_key: &DataKey,
    workspace: &Name,
) -> Result<(), Fault> {
    end_certificates(tx, own_key, workspace, None)?;
    let mut all = revocations(tx, own_key, workspace)?;
    all.retain(|one| matches!(one.which, Which::Proof(_)));
    if all.is_empty() {
        tx.execute("DELETE FROM items WHERE name = ?1", [item(workspace)])?;
        return Ok(());
    }
    let json = serde_json::to_vec(&all).expect("strings and numbers are JSON");
    items::put(tx, own_key, &item(workspace), &Secret::new(json), now())
}

/// Everything by which run tokens are checked.
pub(super) fn all(
    db: &Connection,
    own_key: &DataKey,
    (workspace, key): (&Name, &DataKey),
) -> Result<RunTokens, Fault> {
    let live = agents::live(db, workspace)?;
    let revoked = revocations(db, own_key, workspace)?;
    let older = kept::all(db, own_key, &super::scope_of(workspace), Purpose::RunToken)?;
    let older = older.into_iter().map(|kept| (RunKey::new(kept.key), kept.until));
    Ok(RunTokens::new(Arc::new(key.run_key()), live, revoked).or_older(older))
}

fn revocations(
    db: &Connection,
    own_key: &DataKey,
    workspace: &Name,
) -> Result<Vec<Revocation>, Fault> {
    let name = item(workspace);
    let Some(item) = items::get(db, own_key, &name)? else { return Ok(Vec::new()) };
    let list = item.expose(|json| serde_json::from_slice(json).ok());
    list.ok_or_else(|| items::corrupt(&name))
}

fn item(workspace: &Name) -> String {
    format!("run-revocations/{workspace}")
}

/// Milliseconds since the Unix epoch: what is made after a revocation, in the same second, is good.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
