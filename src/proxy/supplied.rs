//! From a permit to its secrets: out of the vault at once, or made and fetched where a credential
//! says so.

use std::sync::Arc;

use super::{Gateway, State};
use crate::inject::Resolved;
use crate::outcome::{Code, Refusal};
use crate::policy::{Grant, Permit};
use crate::secret::Secret;
use crate::supply::Supply;

/// The secrets that a permit grants. Waits for nothing where all of them are in the vault.
pub(super) async fn resolve(
    gateway: &Gateway,
    state: &State,
    permit: &Permit,
) -> Result<Resolved, Refusal> {
    if !permit.is_supplied() {
        return Resolved::open(permit, |credential, version| state.open(&credential.name, version));
    }
    // Boxed: no other request shall carry room for it.
    Box::pin(supplied(gateway, state, permit)).await
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
        let secret = only_hidden.then(|| state.open(&grant.credential().name, grant.version()));
        Ok(secret.transpose()?.into_iter().collect())
    };
    Resolved::gather(permit, granted, known)
}

async fn value(supply: &Arc<dyn Supply>, state: &State, grant: &Grant) -> Result<Secret, Refusal> {
    let (credential, version) = (grant.shared(), grant.version());
    if !credential.is_supplied() {
        return state.open(&credential.name, version);
    }
    match supply.at_hand(credential, version)? {
        Some(value) => Ok(value),
        None => supply.supply(credential, version).await,
    }
}

/// Tells those who make values that an origin did not take one.
pub(super) fn rejected(gateway: &Gateway, permit: &Permit) {
    let Some(supply) = gateway.supply.get() else { return };
    for grant in permit.grants().iter().filter(|grant| grant.credential().is_supplied()) {
        supply.rejected(grant.shared(), grant.version());
    }
}
