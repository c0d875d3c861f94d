//! From a permit to its secrets: out of the vault at once, or made and fetched where a credential
//! says so.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Gateway, State};
use crate::credential::{Credential, Slot};
use crate::inject::{self, Resolved};
use crate::outcome::{Code, Refusal};
use crate::policy::{Grant, Permit};
use crate::secret::Secret;
use crate::sign::hmac::Stamp;
use crate::supply::Supply;

/// The secrets that a permit grants. Waits for nothing where all of them are in the vault.
pub(super) async fn resolve(
    gateway: &Gateway,
    state: &State,
    permit: &Permit,
) -> Result<Resolved, Refusal> {
    let resolved = if permit.is_supplied() {
        // Boxed: no other request shall carry room for it.
        Box::pin(supplied(gateway, state, permit)).await?
    } else {
        Resolved::open(permit, |credential, version| state.value(credential, version))?
    };
    // Why here: a value may have been long in coming, and a signature is of its time.
    if permit.is_stamped() { Ok(resolved.stamped(stamp()?)) } else { Ok(resolved) }
}

fn stamp() -> Result<Stamp, Refusal> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|_| Refusal::new(Code::Internal))?;
    Ok(Stamp { time, nonce })
}

async fn supplied(gateway: &Gateway, state: &State, permit: &Permit) -> Result<Resolved, Refusal> {
    let supply = gateway.supply.get().ok_or_else(|| Refusal::new(Code::Internal))?;
    let mut values = Vec::with_capacity(permit.grants().len());
    for grant in permit.grants() {
        values.push(value(supply, state, grant).await?);
    }
    // In the order of the grants, as it was made.
    let mut values = values.into_iter();
    let granted = |_: &Grant| values.next().ok_or_else(|| Refusal::new(Code::Internal));
    let known = |grant: &Grant| {
        if grant.credential().is_supplied() {
            return Ok(supply.known(grant.credential(), grant.version()));
        }
        // Those that are granted are hidden by being injected.
        let only_hidden = permit.hidden().iter().any(|hidden| std::ptr::eq(hidden, grant));
        let secret = only_hidden.then(|| state.value(grant.credential(), grant.version()));
        Ok(secret.transpose()?.into_iter().collect())
    };
    Resolved::gather(permit, granted, known)
}

/// Has what may enter the messages of a socket made before it is opened: what the origin says in it is
/// searched for what is known then, and nothing else may enter than what these are the digests of.
pub(super) async fn make_ready(
    gateway: &Gateway,
    state: &State,
    permit: &Permit,
) -> Box<[[u8; 32]]> {
    let Some(supply) = gateway.supply.get() else { return Box::default() };
    let mut known = Vec::new();
    let enters = |grant: &&Grant| {
        let mut slots = grant.credential().slots.iter();
        grant.credential().is_supplied() && slots.any(|slot| matches!(slot, Slot::WebSocket { .. }))
    };
    for grant in permit.grants().iter().chain(permit.hidden()).filter(enters) {
        // Where there is none, a message that refers to it is refused, and says why.
        let _made = value(supply, state, grant).await;
        known.extend(supply.known(grant.credential(), grant.version()).iter().map(inject::digest));
    }
    known.into()
}

async fn value(supply: &Arc<dyn Supply>, state: &State, grant: &Grant) -> Result<Secret, Refusal> {
    let (credential, version) = (grant.shared(), grant.version());
    if !credential.is_supplied() {
        return state.value(credential, version);
    }
    match supply.at_hand(credential, version)? {
        Some(value) => Ok(value),
        None => supply.supply(credential, version).await,
    }
}

impl Gateway {
    /// The value of a credential as a request would get it, for who tries it at its provider.
    ///
    /// # Errors
    /// Those of opening it, and of making it.
    pub async fn value_of(
        &self,
        state: &State,
        credential: &Arc<Credential>,
        version: u32,
    ) -> Result<Secret, Refusal> {
        if !credential.is_supplied() {
            return state.open(&credential.name, version);
        }
        let supply = self.supply.get().ok_or_else(|| Refusal::new(Code::Internal))?;
        match supply.at_hand(credential, version)? {
            Some(value) => Ok(value),
            None => supply.supply(credential, version).await,
        }
    }

    /// Takes an origin's word for it that a value which was made is not good: the next use gets another.
    pub fn rejects(&self, credential: &Arc<Credential>, version: u32) {
        if let Some(supply) = self.supply.get().filter(|_| credential.is_supplied()) {
            supply.rejected(credential, version);
        }
    }
}

/// Tells those who make values that an origin did not take one.
pub(super) fn rejected(gateway: &Gateway, permit: &Permit) {
    let Some(supply) = gateway.supply.get() else { return };
    for grant in permit.grants().iter().filter(|grant| grant.credential().is_supplied()) {
        supply.rejected(grant.shared(), grant.version());
    }
}
