//! Keys of earlier generations that are still needed, as sealed items: to check what was made with them
//! and cannot be made anew, such as the MAC of a token that only its agent has.

use rusqlite::{Connection, Transaction};

use super::crypto::{Encoder, Key};
use super::error::Fault;
use super::items;
use super::keys::DataKey;
use crate::secret::Secret;

/// What a kept key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Agents' tokens that were made up to a second.
    Token,
    /// Run tokens that end up to a second.
    RunToken,
    /// Fingerprints of versions that were revoked up to a second.
    Fingerprint,
    /// Lines of the journal up to an epoch.
    Journal,
    /// The anchor beside the audit log, up to an epoch.
    Anchor,
    /// The audit log.
    Audit,
}

impl Purpose {
    /// The name, which is also the last word of the derivation's label.
    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::RunToken => "run-token",
            Self::Fingerprint => "fingerprint",
            Self::Journal => "journal",
            Self::Anchor => "anchor",
            Self::Audit => "audit",
        }
    }

    /// The key of this purpose that is derived from a data key.
    pub(super) fn derive(self, data_key: &DataKey) -> Key {
        data_key.derive(&Encoder::new(&format!("locum/vault/1/key/{}", self.as_str())))
    }
}

/// One of them.
pub(super) struct Kept {
    /// The item's name.
    pub(super) name: String,
    /// Up to when, in seconds or epochs, it may have made what it is to check.
    pub(super) until: i64,
    /// The key.
    pub(super) key: Key,
}

/// `kept-key/<scope>/<purpose>/`, which the generation follows.
fn prefix(scope: &str, purpose: Purpose) -> String {
    format!("kept-key/{scope}/{}/", purpose.as_str())
}

/// Keeps the key that `data_key`, of that generation, had for the purpose.
pub(super) fn keep(
    tx: &Transaction<'_>,
    own_key: &DataKey,
    (scope, purpose, generation): (&str, Purpose, i64),
    (key, until, now): (&Key, i64, i64),
) -> Result<(), Fault> {
    let mut bytes = Vec::with_capacity(8 + key.len());
    bytes.extend_from_slice(&until.to_be_bytes());
    bytes.extend_from_slice(&**key);
    let name = format!("{}{generation}", prefix(scope, purpose));
    items::put(tx, own_key, &name, &Secret::new(bytes), now)
}

/// All that are kept for a purpose, in no order.
pub(super) fn all(
    db: &Connection,
    own_key: &DataKey,
    scope: &str,
    purpose: Purpose,
) -> Result<Vec<Kept>, Fault> {
    let begin = prefix(scope, purpose);
    let open = |(name, item): (String, Secret)| {
        let read = item.expose(|bytes| {
            let (until, key) = bytes.split_first_chunk::<8>()?;
            let mut kept = Key::default();
            kept.copy_from_slice(key.first_chunk::<32>().filter(|whole| whole.len() == key.len())?);
            Some((i64::from_be_bytes(*until), kept))
        });
        let (until, key) = read.ok_or_else(|| items::corrupt(&name))?;
        Ok(Kept { name, until, key })
    };
    items::starting_with(db, own_key, &begin)?.into_iter().map(open).collect()
}

/// What the audit log's MACs are made with, in every generation.
pub(super) fn audit_key(db: &Connection, own_key: &DataKey) -> Result<Key, Fault> {
    let kept = all(db, own_key, super::VAULT_SCOPE, Purpose::Audit)?.pop();
    Ok(kept.map_or_else(|| Purpose::Audit.derive(own_key), |kept| kept.key))
}
