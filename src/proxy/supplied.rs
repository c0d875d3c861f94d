//! From a permit to its secrets: out of the vault at once, or made and fetched where a credential
//! says so.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Gateway, State, corrupt};
use crate::agent::Identity;
use crate::credential::{Credential, Slot};
use crate::host::Origin;
use crate::inject::{self, Resolved};
use crate::outcome::{Code, Refusal};
use crate::policy::{Grant, Permit};
use crate::reference::Name;
use crate::secret::Secret;
use crate::sign::hmac::Stamp;
use crate::supply::Supply;
use crate::vault::VaultError;

/// Who asks, and where.
type Asker<'a> = (&'a Identity, &'a Origin);

/// The secrets of others that do not open, each told once.
#[derive(Default)]
pub(super) struct Unopened(Mutex<HashSet<(Name, Name, u32)>>);

impl Unopened {
    /// Whether it was not told before.
    fn is_news(&self, workspace: &Name, credential: &Name, version: u32) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert((workspace.clone(), credential.clone(), version))
    }
}

/// The secrets that a permit grants. Waits for nothing where all of them are in the vault.
pub(super) async fn resolve(
    gateway: &Gateway,
    state: &State,
    permit: &Permit,
    asker: Asker<'_>,
) -> Result<Resolved, Refusal> {
    let resolved = if permit.is_supplied() {
        // Boxed: no other request shall carry room for it.
        Box::pin(supplied(gateway, state, permit, asker)).await?
    } else {
        let granted = |grant: &Grant| state.value(grant.credential(), grant.version());
        Resolved::gather(permit, granted, |grant| hidden(gateway, state, asker, grant))?
    };
    // Why here: a value may have been long in coming, and a signature is of its time.
    if permit.is_stamped() { Ok(resolved.stamped(stamp()?)) } else { Ok(resolved) }
}

/// What the answer must not contain of a credential that lies in the vault, and that the request does not
/// carry. One that does not open stops those who may use it, and nobody else.
fn hidden(
    gateway: &Gateway,
    state: &State,
    (who, origin): Asker<'_>,
    grant: &Grant,
) -> Result<Option<Secret>, Refusal> {
    let (credential, version) = (grant.credential(), grant.version());
    let Some(sealed) = state.sealed.as_ref().filter(|_| credential.as_text().is_none()) else {
        return state.value(credential, version).map(Some);
    };
    let name = &credential.name;
    let may_use = || state.policy.may_use(who, origin, credential, &state.credentials);
    let skip = |error: &VaultError| {
        if gateway.unopened.is_news(&who.workspace, name, version) {
            tracing::warn!(credential = %name, version, %error, "a sealed secret does not open: the answers to agents that may not use it are not searched for it");
        }
    };
    let opened = unless_of_others(sealed.open(name, version), may_use, skip);
    opened.map_err(|error| corrupt(name, version, &error))
}

/// What was opened; nothing for what does not open where it is none of the asker's, which `skip` is told.
fn unless_of_others<E>(
    opened: Result<Secret, E>,
    may_use: impl FnOnce() -> bool,
    skip: impl FnOnce(&E),
) -> Result<Option<Secret>, E> {
    match opened {
        Err(error) if !may_use() => {
            skip(&error);
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

fn stamp() -> Result<Stamp, Refusal> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|_| Refusal::new(Code::Internal))?;
    Ok(Stamp { time, nonce })
}

async fn supplied(
    gateway: &Gateway,
    state: &State,
    permit: &Permit,
    asker: Asker<'_>,
) -> Result<Resolved, Refusal> {
    let supply = gateway.supply.get().ok_or_else(|| Refusal::new(Code::Internal))?;
    let mut values = Vec::with_capacity(permit.grants().len());
    for grant in permit.grants() {
        values.push(if grant.credential().is_supplied() {
            made(supply, grant).await?
        } else {
            state.value(grant.credential(), grant.version())?
        });
    }
    // In the order of the grants, as it was made.
    let mut values = values.into_iter();
    let granted = |_: &Grant| values.next().ok_or_else(|| Refusal::new(Code::Internal));
    let known = |grant: &Grant| {
        if grant.credential().is_supplied() {
            return Ok(supply.known(grant.credential(), grant.version()));
        }
        Ok(hidden(gateway, state, asker, grant)?.into_iter().collect())
    };
    Resolved::gather(permit, granted, known)
}

/// Has what may enter the messages of a socket made before it is opened: what the origin says in it is
/// searched for what is known then, and nothing else may enter than what these are the digests of.
pub(super) async fn make_ready(
    gateway: &Gateway,
    state: &State,
    permit: &Permit,
    (who, origin): Asker<'_>,
) -> Box<[[u8; 32]]> {
    let Some(supply) = gateway.supply.get() else { return Box::default() };
    let may_use = |one: &Credential| state.policy.may_use(who, origin, one, &state.credentials);
    known_of(supply, permit, may_use).await
}

/// Nothing is made for an agent that may not use it: it is searched for what others had made.
async fn known_of(
    supply: &Arc<dyn Supply>,
    permit: &Permit,
    may_use: impl Fn(&Credential) -> bool,
) -> Box<[[u8; 32]]> {
    let mut known = Vec::new();
    let enters = |grant: &&Grant| {
        let mut slots = grant.credential().slots.iter();
        grant.credential().is_supplied() && slots.any(|slot| matches!(slot, Slot::WebSocket { .. }))
    };
    for grant in permit.grants().iter().chain(permit.hidden()).filter(enters) {
        if may_use(grant.credential()) {
            // Where there is none, a message that refers to it is refused, and says why.
            let _made = made(supply, grant).await;
        }
        known.extend(supply.known(grant.credential(), grant.version()).iter().map(inject::digest));
    }
    known.into()
}

async fn made(supply: &Arc<dyn Supply>, grant: &Grant) -> Result<Secret, Refusal> {
    let (credential, version) = (grant.shared(), grant.version());
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::credential::CredentialIndex;
    use crate::document::Source;
    use crate::host::{Authority, Scheme};
    use crate::inject::References;
    use crate::policy::{self, tests::credential};
    use crate::request::InboundRequest;
    use crate::supply::Supplying;

    /// Makes a value for whoever asks, and notes for which credential; of all it knows an older one.
    #[derive(Default)]
    struct Makes(Mutex<Vec<String>>);

    impl Supply for Makes {
        fn at_hand(&self, _: &Arc<Credential>, _: u32) -> Result<Option<Secret>, Refusal> {
            Ok(None)
        }

        fn supply<'a>(&'a self, credential: &'a Arc<Credential>, _: u32) -> Supplying<'a> {
            self.0.lock().unwrap().push(credential.name.to_string());
            Box::pin(async { Ok(Secret::new(b"made".to_vec())) })
        }

        fn known(&self, credential: &Credential, _: u32) -> Vec<Secret> {
            vec![Secret::new(credential.name.to_string().into_bytes())]
        }

        fn rejected(&self, _: &Arc<Credential>, _: u32) {}
    }

    /// The permit of a request without a reference, at a host with a token of the agent's and one that it
    /// may not use.
    fn permit() -> (Permit, impl Fn(&Credential) -> bool) {
        let token = |name: &str| {
            let mut one = credential(name, &["https://api.test"], &["websocket /token"]);
            let kind =
                r#"{"oauth":{"grant":"client-credentials","token-endpoint":"https://a.test/t"}}"#;
            one.properties.kind = Some(serde_json::from_str(kind).unwrap());
            one
        };
        let index = CredentialIndex::new(vec![token("own"), token("theirs")], HashMap::new());
        let text = "version: 1\nrules:\n  - {name: one, agents: [a], use: [own]}\n  - {name: other, agents: [b], use: [theirs]}\n";
        let policy = policy::compile(vec![Source::new("p.yaml", text)]).unwrap();
        let who = Identity::new("default".parse().unwrap(), "a".parse().unwrap(), "t");
        let authority = Authority::parse("api.test:443", None).unwrap();
        let origin = Origin { scheme: Scheme::Https, authority };
        let head = http::Request::get("/").header("host", "api.test").body(()).unwrap();
        let request = InboundRequest::parse(head.into_parts().0, &origin).unwrap();
        let references = References::locate(&request, &index);
        let permit = policy.authorize(&who, &request, &references, &index, 0).unwrap();
        (permit, move |one: &Credential| policy.may_use(&who, &origin, one, &index))
    }

    #[tokio::test]
    async fn nothing_is_made_for_who_may_not_use_it() {
        let (permit, may_use) = permit();
        assert_eq!(permit.hidden().len(), 2, "the answer is searched for both");
        let makes = Arc::new(Makes::default());
        let supply: Arc<dyn Supply> = Arc::<Makes>::clone(&makes);
        let known = known_of(&supply, &permit, may_use).await;
        assert_eq!(*makes.0.lock().unwrap(), ["own"]);
        assert_eq!(known.len(), 2, "what others had made is known");
    }

    #[test]
    fn a_secret_that_does_not_open_stops_those_who_may_use_it() {
        let secret = || Secret::new(b"key".to_vec());
        let mut told = 0;
        let mut asked = |opened: Result<Secret, ()>, may: bool| {
            let found = unless_of_others(opened, || may, |()| told += 1);
            found.map(|secret| secret.is_some())
        };
        assert_eq!(asked(Ok(secret()), true), Ok(true));
        assert_eq!(asked(Ok(secret()), false), Ok(true));
        assert_eq!(asked(Err(()), true), Err(()));
        assert_eq!(asked(Err(()), false), Ok(false));
        assert_eq!(told, 1);
        // And is told once, for each of its versions.
        let (unopened, name) = (Unopened::default(), "default".parse().unwrap());
        let news = [1, 1, 2].map(|version| unopened.is_news(&name, &name, version));
        assert_eq!(news, [true, false, true]);
    }
}
