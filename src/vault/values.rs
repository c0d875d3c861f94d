//! Environment values: settings by name and environment, as one sealed item for each workspace. None of
//! them is secret; what is, is a credential, which a value can name.

use rusqlite::Connection;

use super::error::{Fault, Kind, VaultError};
use super::keys::DataKey;
use super::{Action, Vault, check, items};
use crate::credential::{Enters, Held, Slot, Values};
use crate::reference::Name;
use crate::secret::Secret;

impl Vault {
    /// All settings.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] when they are not what was sealed.
    pub fn values(&self) -> Result<Values, VaultError> {
        let open = || {
            let tx = self.db.unchecked_transaction()?;
            all(&tx, &self.keys(&tx)?.own, self.workspace())
        };
        open().map_err(|fault| self.fault(fault))
    }

    /// Sets a value in an environment, or where nothing else is said. Without a variable, and without
    /// places in requests, it keeps those that it has.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for places that no text can have, and when the database cannot be written.
    pub fn value_set(
        &mut self,
        name: &Name,
        environment: Option<&Name>,
        (held, variable, enters): (Held, Option<&str>, Option<Enters>),
    ) -> Result<(), VaultError> {
        if let Some(enters) = &enters {
            check_enters(enters).map_err(|fault| self.fault(fault))?;
        }
        self.change(Action::ValueSet, &subject(name, environment), |tx, change| {
            let item = item(change.workspace);
            let mut all = read(tx, change.own, &item)?;
            let value = all.entry(name.clone()).or_default();
            match environment {
                Some(environment) => drop(value.environments.insert(environment.clone(), held)),
                None => value.default = Some(held),
            }
            value.enters = enters.or_else(|| value.enters.take());
            if let Some(variable) = variable {
                variable.clone_into(&mut value.variable);
            } else if value.variable.is_empty() {
                value.variable = usual_variable(name);
            }
            write(tx, change.own, (&item, &all), change.now)
        })
    }

    /// Removes a value from an environment, or from all of them.
    ///
    /// # Errors
    /// [`Fault::Unknown`] when there is none.
    pub fn value_remove(
        &mut self,
        name: &Name,
        environment: Option<&Name>,
    ) -> Result<(), VaultError> {
        self.change(Action::ValueRemoved, &subject(name, environment), |tx, change| {
            let item = item(change.workspace);
            let mut all = read(tx, change.own, &item)?;
            let unknown = || Fault::Unknown(Kind::Value, subject(name, environment));
            let value = all.get_mut(name).ok_or_else(unknown)?;
            if let Some(environment) = environment {
                value.environments.remove(environment).ok_or_else(unknown)?;
            }
            if environment.is_none() || (value.environments.is_empty() && value.default.is_none()) {
                all.remove(name);
            }
            write(tx, change.own, (&item, &all), change.now)
        })
    }
}

/// `api-region` is `API_REGION`, unless another is named.
#[must_use]
pub fn usual_variable(name: &Name) -> String {
    name.as_str().to_ascii_uppercase().replace('-', "_")
}

fn subject(name: &Name, environment: Option<&Name>) -> String {
    environment.map_or_else(|| name.to_string(), |environment| format!("{name} in {environment}"))
}

fn item(workspace: &Name) -> String {
    format!("values/{workspace}")
}

/// Places in the head and in bodies: the others are made for what is secret.
fn check_enters(enters: &Enters) -> Result<(), Fault> {
    check::destinations(&enters.to)?;
    check::slots(&enters.slots)?;
    let fits = |slot: &Slot| {
        slot.is_in_body()
            || matches!(slot, Slot::Header { .. } | Slot::Query { .. } | Slot::Path { .. })
    };
    match enters.slots.iter().find(|slot| !fits(slot)) {
        Some(slot) => Err(check::Invalid::Slot(slot.to_string()).into()),
        None => Ok(()),
    }
}

/// All of a workspace.
pub(super) fn all(db: &Connection, own_key: &DataKey, workspace: &Name) -> Result<Values, Fault> {
    read(db, own_key, &item(workspace))
}

/// How many a workspace has.
pub(super) fn count(db: &Connection, own_key: &DataKey, workspace: &Name) -> Result<u64, Fault> {
    Ok(all(db, own_key, workspace)?.len() as u64)
}

fn read(db: &Connection, own_key: &DataKey, name: &str) -> Result<Values, Fault> {
    let Some(item) = items::get(db, own_key, name)? else { return Ok(Values::new()) };
    let values = item.expose(|json| serde_json::from_slice(json).ok());
    values.ok_or_else(|| items::corrupt(name))
}

fn write(
    db: &Connection,
    own_key: &DataKey,
    (name, values): (&str, &Values),
    now: i64,
) -> Result<(), Fault> {
    let json = serde_json::to_vec(values).map_err(|_| items::corrupt(name))?;
    items::put(db, own_key, name, &Secret::new(json), now)
}
