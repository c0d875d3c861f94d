//! Agents and their tokens. A token is kept as a MAC over it and what it is good for, and a revoked
//! one not even so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row as SqlRow, Transaction};

use super::check;
use super::error::{Fault, Kind, Row, VaultError};
use super::{Action, Change, Vault, journal, runs};
use crate::agent::{Label, LabelName, Labels, LabelsError, TokenRecord};
use crate::reference::Name;
use crate::token::Token;
use crate::token::run::Which;

/// An agent as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its name.
    pub name: Name,
    /// What it is labelled with.
    pub labels: Labels,
    /// When it was first added, in seconds since the Unix epoch.
    pub created: i64,
    /// When it was revoked.
    pub revoked: Option<i64>,
    /// Its tokens, oldest first.
    pub tokens: Vec<TokenInfo>,
}

/// A token as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Names it; stands in its text too.
    pub id: String,
    /// When it was made, in seconds since the Unix epoch.
    pub created: i64,
    /// The last second in which it is valid.
    pub expires: Option<i64>,
    /// When it was revoked.
    pub revoked: Option<i64>,
    /// What it was made for.
    pub note: Option<String>,
}

impl Vault {
    /// Adds an agent, or takes a revoked one back; its old tokens stay revoked.
    ///
    /// # Errors
    /// [`Fault::Exists`] when there is a live one of that name.
    pub fn agent_add(&mut self, name: &Name) -> Result<(), VaultError> {
        self.change(Action::AgentAdded, name.as_str(), |tx, change| insert_agent(tx, change, name))
    }

    /// Changes the labels of an agent: those of `set` get their values, those of `remove` go. Returns
    /// what it is labelled with then.
    ///
    /// # Errors
    /// [`Fault::Unknown`] or [`Fault::Revoked`] for the agent, [`Fault::Invalid`] for too many labels.
    ///
    /// # Panics
    /// Never: names and texts are JSON.
    pub fn agent_label(
        &mut self,
        name: &Name,
        set: &[(LabelName, Label)],
        remove: &[LabelName],
    ) -> Result<Labels, VaultError> {
        self.change(Action::AgentLabelled, name.as_str(), |tx, change| {
            require_live(tx, change.workspace, name)?;
            let place = (change.workspace.as_str(), name.as_str());
            let text: Option<String> = tx.query_row(
                "SELECT labels FROM agents WHERE workspace = ?1 AND name = ?2",
                place,
                |row| row.get(0),
            )?;
            let mut labels: BTreeMap<LabelName, Label> = read_labels(name.as_str(), text)?
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            labels.retain(|name, _| !remove.contains(name));
            labels.extend(set.iter().cloned());
            let labels = Labels::new(labels)
                .map_err(|error| Fault::Invalid(check::Invalid::Labels(error)))?;
            let text = (!labels.is_empty())
                .then(|| serde_json::to_string(&labels).expect("names and texts are JSON"));
            tx.execute(
                "UPDATE agents SET labels = ?3 WHERE workspace = ?1 AND name = ?2",
                (place.0, place.1, text),
            )?;
            Ok(labels)
        })
    }

    /// Revokes an agent and all its tokens. Returns how many there were.
    ///
    /// # Errors
    /// [`Fault::Unknown`] or [`Fault::Revoked`].
    pub fn agent_revoke(&mut self, name: &Name) -> Result<usize, VaultError> {
        let revoked = self.change(Action::AgentRevoked, name.as_str(), |tx, change| {
            require_live(tx, change.workspace, name)?;
            // Should the agent be taken back, its old run tokens stay revoked as the others do.
            runs::revoke(tx, change.own, change.workspace, (name, Which::All))?;
            runs::end_certificates(tx, change.own, change.workspace, Some(name))?;
            tx.execute(
                "UPDATE agents SET revoked = ?3 WHERE workspace = ?1 AND name = ?2",
                (change.workspace.as_str(), name.as_str(), change.now),
            )?;
            Ok(tx.execute(
                "UPDATE tokens SET revoked = ?3, mac = NULL \
                 WHERE workspace = ?1 AND agent = ?2 AND revoked IS NULL",
                (change.workspace.as_str(), name.as_str(), change.now),
            )?)
        })?;
        self.wipe_log();
        Ok(revoked)
    }

    /// Makes a token for an agent, valid up to and in the second `expires` (since the Unix epoch).
    /// What is returned is the only copy.
    ///
    /// # Errors
    /// [`Fault::Unknown`] or [`Fault::Revoked`] for the agent, [`Fault::Invalid`] for the note.
    pub fn token_add(
        &mut self,
        agent: &Name,
        expires: Option<i64>,
        note: Option<&str>,
    ) -> Result<Token, VaultError> {
        let path = Arc::clone(&self.path);
        let live = |tx: &Transaction<'_>, change: &Change<'_>, agent: &Name| {
            require_live(tx, change.workspace, agent).map(|()| None)
        };
        self.admit(agent, (expires, note), live).map_err(|fault| fault.at(&path))
    }

    /// Makes a token, as [`Vault::token_add`], for an agent that is added first where there is no
    /// live one: both, or nothing.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for the note.
    pub fn agent_admit(
        &mut self,
        agent: &Name,
        expires: Option<i64>,
        note: Option<&str>,
    ) -> Result<Token, VaultError> {
        let path = Arc::clone(&self.path);
        let add = |tx: &Transaction<'_>, change: &Change<'_>, agent: &Name| match insert_agent(
            tx, change, agent,
        ) {
            Ok(()) => Ok(Some(Action::AgentAdded)),
            Err(Fault::Exists(..)) => Ok(None),
            Err(other) => Err(other),
        };
        self.admit(agent, (expires, note), add).map_err(|fault| fault.at(&path))
    }

    /// Makes a token for an agent that `prepare` finds or adds, in one transaction.
    fn admit(
        &mut self,
        agent: &Name,
        (expires, note): (Option<i64>, Option<&str>),
        prepare: impl FnOnce(&Transaction<'_>, &Change<'_>, &Name) -> Result<Option<Action>, Fault>,
    ) -> Result<Token, Fault> {
        note.map_or(Ok(()), |note| check::text("a note", note))?;
        let (tx, keys) = self.begin()?;
        let change = self.change_with(&keys);
        let line = |action, subject: &str| {
            let subject = journal::placed(action, &self.workspace, subject);
            journal::write_line(&tx, &keys.own, (action, &subject, &self.by))
        };
        if let Some(action) = prepare(&tx, &change, agent)? {
            line(action, agent.as_str())?;
        }
        let token = insert_token(&tx, &change, agent, (expires, note))?;
        let head = line(Action::TokenAdded, &format!("{agent} token {}", token.id()))?;
        journal::sign(&tx, &keys.own, &head)?;
        tx.commit()?;
        Ok(token)
    }

    /// Revokes one token.
    ///
    /// # Errors
    /// [`Fault::Unknown`] or [`Fault::Revoked`].
    pub fn token_revoke(&mut self, id: &str) -> Result<(), VaultError> {
        self.change(Action::TokenRevoked, id, |tx, change| {
            let query = "SELECT revoked FROM tokens WHERE workspace = ?1 AND id = ?2";
            let revoked: Option<Option<i64>> = tx
                .query_row(query, (change.workspace.as_str(), id), |row| row.get(0))
                .optional()?;
            match revoked {
                None => return Err(Fault::Unknown(Kind::Token, id.to_owned())),
                Some(Some(_)) => return Err(Fault::Revoked(Kind::Token, id.to_owned())),
                Some(None) => {}
            }
            tx.execute(
                "UPDATE tokens SET revoked = ?2, mac = NULL WHERE id = ?1",
                (id, change.now),
            )?;
            Ok(())
        })?;
        self.wipe_log();
        Ok(())
    }

    /// Deletes the tokens of the workspace that expired before `before`. Returns how many.
    ///
    /// # Errors
    /// [`VaultError`] when the database cannot be written.
    pub fn tokens_purge(&mut self, before: i64) -> Result<usize, VaultError> {
        let (condition, workspace) = ("workspace = ?1 AND expires < ?2", self.workspace.clone());
        let any = self
            .db
            .prepare(&format!("SELECT 1 FROM tokens WHERE {condition}"))
            .and_then(|mut any| any.exists((workspace.as_str(), before)))
            .map_err(|error| self.fault(error.into()))?;
        if !any {
            return Ok(0); // No change, no line in the journal.
        }
        let delete = format!("DELETE FROM tokens WHERE {condition}");
        self.change(Action::TokensPurged, "expired tokens", |tx, _| {
            Ok(tx.execute(&delete, (workspace.as_str(), before))?)
        })
    }

    /// All agents of the workspace, by name, with their tokens.
    ///
    /// # Errors
    /// [`VaultError`] when they cannot be read.
    pub fn agents(&self) -> Result<Vec<AgentInfo>, VaultError> {
        list(&self.db, &self.workspace).map_err(|fault| self.fault(fault))
    }
}

pub(super) fn insert_agent(
    tx: &Transaction<'_>,
    change: &Change<'_>,
    name: &Name,
) -> Result<(), Fault> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO agents (workspace, name, created) VALUES (?1, ?2, ?3) \
         ON CONFLICT (workspace, name) DO UPDATE SET revoked = NULL \
         WHERE revoked IS NOT NULL",
    )?;
    match statement.execute((change.workspace.as_str(), name.as_str(), change.now))? {
        0 => Err(Fault::Exists(Kind::Agent, name.to_string())),
        _ => Ok(()),
    }
}

/// Makes a token of an id that no other has: of 100,000 tokens, two have the same once in 200 times.
pub(super) fn insert_token(
    tx: &Transaction<'_>,
    change: &Change<'_>,
    agent: &Name,
    (expires, note): (Option<i64>, Option<&str>),
) -> Result<Token, Fault> {
    let key = change.key.token_key();
    let mut statement = tx.prepare_cached(
        "INSERT INTO tokens (id, workspace, agent, mac, created, expires, note) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
    )?;
    let workspace = change.workspace.as_str();
    loop {
        let token = Token::mint().map_err(|_| Fault::NoRandomness)?;
        let mac = key.mac(change.workspace, agent, token.id(), expires, token.text());
        let row = (token.id(), workspace, agent.as_str(), mac, change.now, expires, note);
        if statement.execute(row)? == 1 {
            return Ok(token);
        }
    }
}

pub(super) fn require_live(db: &Connection, workspace: &Name, name: &Name) -> Result<(), Fault> {
    match require_known(db, workspace, name)? {
        Some(_) => Err(Fault::Revoked(Kind::Agent, name.to_string())),
        None => Ok(()),
    }
}

/// When the agent was revoked, if it was.
pub(super) fn require_known(
    db: &Connection,
    workspace: &Name,
    name: &Name,
) -> Result<Option<i64>, Fault> {
    let query = "SELECT revoked FROM agents WHERE workspace = ?1 AND name = ?2";
    let revoked: Option<Option<i64>> =
        db.query_row(query, (workspace.as_str(), name.as_str()), |row| row.get(0)).optional()?;
    revoked.ok_or_else(|| Fault::unknown(Kind::Agent, name))
}

/// The labels of a row, as JSON; none for NULL.
fn read_labels(agent: &str, text: Option<String>) -> Result<Labels, Fault> {
    let Some(text) = text else { return Ok(Labels::default()) };
    let pairs = || -> Result<Labels, LabelsError> {
        let map: BTreeMap<String, String> =
            serde_json::from_str(&text).map_err(|_| LabelsError::Pair)?;
        let pairs = map.into_iter().map(|(name, value)| {
            Ok((name.parse()?, value.parse().map_err(|_| LabelsError::Value)?))
        });
        Labels::new(pairs.collect::<Result<Vec<_>, LabelsError>>()?)
    };
    pairs().map_err(|_| Fault::Corrupt(Row::Agent(agent.to_owned())))
}

/// What the live agents are labelled with; those without a label are left out.
pub(super) fn labels(db: &Connection, workspace: &Name) -> Result<HashMap<Name, Labels>, Fault> {
    let query = "SELECT name, labels FROM agents \
                 WHERE workspace = ?1 AND revoked IS NULL AND labels IS NOT NULL";
    let mut statement = db.prepare_cached(query)?;
    let mut rows = statement.query([workspace.as_str()])?;
    let mut all = HashMap::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let labels = read_labels(&name, row.get(1)?)?;
        all.insert(name.parse().map_err(|_| Fault::Corrupt(Row::Agent(name.clone())))?, labels);
    }
    Ok(all)
}

/// The names of the live agents.
pub(super) fn live(db: &Connection, workspace: &Name) -> Result<Vec<Name>, Fault> {
    names(db, workspace, "SELECT name FROM agents WHERE workspace = ?1 AND revoked IS NULL")
}

/// The names of the revoked ones.
pub(super) fn revoked(db: &Connection, workspace: &Name) -> Result<HashSet<Name>, Fault> {
    names(db, workspace, "SELECT name FROM agents WHERE workspace = ?1 AND revoked IS NOT NULL")
}

fn names<C: Default + Extend<Name>>(
    db: &Connection,
    workspace: &Name,
    query: &str,
) -> Result<C, Fault> {
    let mut statement = db.prepare_cached(query)?;
    let mut rows = statement.query([workspace.as_str()])?;
    let mut names = C::default();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let name = name.parse().map_err(|_| Fault::Corrupt(Row::Agent(name.clone())))?;
        names.extend([name]);
    }
    Ok(names)
}

fn list(db: &Connection, workspace: &Name) -> Result<Vec<AgentInfo>, Fault> {
    let mut tokens = tokens(db, workspace)?;
    let mut statement = db.prepare_cached(
        "SELECT name, created, revoked, labels FROM agents WHERE workspace = ?1 ORDER BY name",
    )?;
    let mut rows = statement.query([workspace.as_str()])?;
    let mut agents = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        agents.push(AgentInfo {
            name: name.parse().map_err(|_| Fault::Corrupt(Row::Agent(name.clone())))?,
            labels: read_labels(&name, row.get(3)?)?,
            created: row.get(1)?,
            revoked: row.get(2)?,
            tokens: tokens.remove(&name).unwrap_or_default(),
        });
    }
    Ok(agents)
}

/// All tokens, by agent, in one look: there is no index to find one agent's by.
fn tokens(db: &Connection, workspace: &Name) -> Result<HashMap<String, Vec<TokenInfo>>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT agent, id, created, expires, revoked, note FROM tokens \
         WHERE workspace = ?1 ORDER BY created, id",
    )?;
    let mut rows = statement.query([workspace.as_str()])?;
    let mut tokens = HashMap::<String, Vec<TokenInfo>>::new();
    while let Some(row) = rows.next()? {
        tokens.entry(row.get(0)?).or_default().push(TokenInfo {
            id: row.get(1)?,
            created: row.get(2)?,
            expires: row.get(3)?,
            revoked: row.get(4)?,
            note: row.get(5)?,
        });
    }
    Ok(tokens)
}

/// The unrevoked tokens of live agents, by id.
pub(super) fn live_tokens(
    db: &Connection,
    workspace: &Name,
) -> Result<HashMap<Arc<str>, TokenRecord>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT tokens.id, tokens.agent, tokens.mac, tokens.expires FROM tokens JOIN agents \
         ON agents.workspace = tokens.workspace AND agents.name = tokens.agent \
         WHERE tokens.workspace = ?1 AND tokens.mac IS NOT NULL AND agents.revoked IS NULL",
    )?;
    let mut rows = statement.query([workspace.as_str()])?;
    let mut tokens = HashMap::new();
    while let Some(row) = rows.next()? {
        let record = token_record(row, workspace)?;
        tokens.insert(Arc::clone(&record.id), record);
    }
    Ok(tokens)
}

fn token_record(row: &SqlRow<'_>, workspace: &Name) -> Result<TokenRecord, Fault> {
    let (id, agent): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(TokenRecord {
        agent: agent.parse().map_err(|_| Fault::Corrupt(Row::Token(id.clone())))?,
        id: id.into(),
        workspace: workspace.clone(),
        mac: row.get(2)?,
        expires: row.get(3)?,
    })
}
