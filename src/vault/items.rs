//! Sealed items: what Locum itself must keep secret, such as the CA's private key.

use rusqlite::{Connection, OptionalExtension as _, Transaction};

use super::check;
use super::crypto::{self, DoesNotOpen, Encoder, Key};
use super::error::{Fault, Kind, Row, VaultError};
use super::keys::DataKey;
use super::{Action, Vault};
use crate::secret::Secret;

impl Vault {
    /// Stores an item, in the place of the one of that name if there is one.
    ///
    /// # Errors
    /// [`VaultError`] when the database cannot be written.
    pub fn seal_item(&mut self, name: &str, item: &Secret) -> Result<(), VaultError> {
        self.seal_items(&[(name, item)])
    }

    /// Stores items that belong together: all of them or none.
    ///
    /// # Errors
    /// As [`Vault::seal_item`].
    pub fn seal_items(&mut self, items: &[(&str, &Secret)]) -> Result<(), VaultError> {
        let names: Vec<&str> = items.iter().map(|(name, _)| *name).collect();
        self.change(Action::ItemSealed, &names.join(", "), |tx, change| {
            let mut all = items.iter();
            all.try_for_each(|(name, item)| put(tx, change.own, name, item, change.now))
        })?;
        self.wipe_log();
        Ok(())
    }

    /// Opens an item.
    ///
    /// # Errors
    /// [`Fault::Unknown`], or [`Fault::Corrupt`] when it is not what was sealed.
    pub fn open_item(&self, name: &str) -> Result<Secret, VaultError> {
        let open = || {
            let tx = self.db.unchecked_transaction()?;
            let item = get(&tx, &self.keys(&tx)?.own, name)?;
            item.ok_or_else(|| Fault::Unknown(Kind::Item, name.to_owned()))
        };
        open().map_err(|fault| self.fault(fault))
    }
}

/// Seals and stores an item, within a change.
pub(super) fn put(
    tx: &Connection,
    own_key: &DataKey,
    name: &str,
    item: &Secret,
    now: i64,
) -> Result<(), Fault> {
    write(tx, name, &seal_one(own_key, name, item)?, now)
}

fn write(tx: &Connection, name: &str, sealed: &[u8], now: i64) -> Result<(), Fault> {
    tx.execute(
        "INSERT INTO items (name, sealed, created) VALUES (?1, ?2, ?3) \
         ON CONFLICT (name) DO UPDATE SET \
         sealed = excluded.sealed, created = excluded.created",
        (name, sealed, now),
    )?;
    Ok(())
}

/// Opens an item, if there is one of that name.
pub(super) fn get(db: &Connection, own_key: &DataKey, name: &str) -> Result<Option<Secret>, Fault> {
    let sealed: Option<Vec<u8>> = db
        .prepare_cached("SELECT sealed FROM items WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    sealed.map(|sealed| open_one(own_key, name, &sealed)).transpose()
}

/// Opens the items whose names start so.
pub(super) fn starting_with(
    db: &Connection,
    own_key: &DataKey,
    start: &str,
) -> Result<Vec<(String, Secret)>, Fault> {
    let query = "SELECT name, sealed FROM items WHERE substr(name, 1, length(?1)) = ?1 \
                 AND name >= ?1 ORDER BY name";
    let mut statement = db.prepare_cached(query)?;
    let mut rows = statement.query([start])?;
    let mut opened = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, sealed): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let item = open_one(own_key, &name, &sealed)?;
        opened.push((name, item));
    }
    Ok(opened)
}

/// Seals every item under another data key. Returns how many.
pub(super) fn seal_all_anew(
    tx: &Transaction<'_>,
    before: &DataKey,
    after: &DataKey,
) -> Result<u64, Fault> {
    let mut count = 0;
    for (name, item) in starting_with(tx, before, "")? {
        tx.execute(
            "UPDATE items SET sealed = ?2 WHERE name = ?1",
            (&name, seal_one(after, &name, &item)?),
        )?;
        count += 1;
    }
    Ok(count)
}

/// An item is not what it should be.
pub(super) fn corrupt(name: &str) -> Fault {
    Fault::Corrupt(Row::Item(name.to_owned()))
}

fn key(vault_key: &DataKey, name: &str) -> Key {
    vault_key.derive(&Encoder::new("locum/vault/1/key/item").text(name))
}

fn place(vault_key: &DataKey, name: &str) -> Vec<u8> {
    Encoder::new("locum/vault/1/item").bytes(vault_key.vault_id()).text(name).finish()
}

fn seal_one(own_key: &DataKey, name: &str, item: &Secret) -> Result<Vec<u8>, Fault> {
    check::text("an item's name", name)?;
    item.expose(|bytes| crypto::seal(&key(own_key, name), &place(own_key, name), bytes))
}

fn open_one(vault_key: &DataKey, name: &str, sealed: &[u8]) -> Result<Secret, Fault> {
    crypto::open(&key(vault_key, name), &place(vault_key, name), sealed)
        .map_err(|DoesNotOpen| corrupt(name))
}

/// Opens every item.
pub(super) fn open_all(db: &Connection, vault_key: &DataKey) -> Result<(), Fault> {
    let mut statement = db.prepare_cached("SELECT name, sealed FROM items ORDER BY name")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, sealed): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        open_one(vault_key, &name, &sealed)?;
    }
    Ok(())
}
