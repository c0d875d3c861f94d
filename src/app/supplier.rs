//! Values that are made of what lies in the vault, for requests that wait for them.
//!
//! Of each version of each credential one renewal is in flight at most, whoever asks; it goes on when
//! they have all gone, because what an authorization server has given in exchange must be written
//! down. A value is renewed before it runs out, while requests go on with the one that is good; one
//! that has run out is never given. What is kept is sealed ([`Shelf`]).

mod entry;
mod source;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use entry::{Entry, Lifetime, Moment};
use source::Fetch;

use super::Failure;
use super::keeper::Keeper;
use super::remote::Fetched;
use crate::agent::qualified;
use crate::credential::{Credential, Kind};
use crate::metrics::Minting;
use crate::mint::{self, Material, MintError};
use crate::outcome::{Code, Refusal};
use crate::proxy::{Errand, Gateway, State};
use crate::record::{Use, Why};
use crate::reference::Name;
use crate::secret::Secret;
use crate::supply::{Supply, Supplying};
use crate::vault::Shelf;

/// What errands for tokens are called in records.
const PURPOSE: &str = "token";

/// How long the end of the process waits for renewals that are under way: as long as one may take,
/// nearly. A refresh token that was exchanged and not written down is lost.
const AT_THE_END: Duration = Duration::from_secs(10);

/// Which version of which credential: by its row, which no other credential of its name ever has.
type Key = (i64, u32);

/// Makes values over the gateway's own far side, and keeps them.
pub(super) struct Supplier {
    /// Weak, because the gateway holds this.
    gateway: Weak<Gateway>,
    keeper: Arc<Keeper>,
    shelf: Shelf,
    entries: Mutex<HashMap<Key, Arc<Mutex<Entry>>>>,
    /// Where renewals run: not on the thread of the request that was first, which may be busy.
    runtime: Handle,
    /// The renewals that are under way.
    flights: Mutex<JoinSet<()>>,
    /// This itself, for those renewals.
    own: Weak<Self>,
}

impl Supplier {
    /// Makes one for a gateway. To be called on the runtime that is to run the renewals.
    pub(super) fn new(gateway: &Arc<Gateway>, keeper: &Arc<Keeper>) -> Result<Arc<Self>, Failure> {
        let shelf = Shelf::new().map_err(|e| Failure::new(e.to_string()))?;
        Ok(Arc::new_cyclic(|own| Self {
            gateway: Arc::downgrade(gateway),
            keeper: Arc::clone(keeper),
            shelf,
            entries: Mutex::default(),
            runtime: Handle::current(),
            flights: Mutex::default(),
            own: own.clone(),
        }))
    }

    /// Returns when no renewal is under way any more. What takes too long is given up: it holds keys.
    /// To be called when there is nobody left who could begin another.
    pub(super) async fn settle(&self) {
        let mut flights = std::mem::take(&mut *self.flights.lock());
        let all = async { while flights.join_next().await.is_some() {} };
        if tokio::time::timeout(AT_THE_END, all).await.is_err() {
            tracing::warn!(count = flights.len(), "renewals of tokens were broken off");
        }
        flights.shutdown().await;
    }

    fn entry(&self, of: &Credential, version: u32) -> Result<Arc<Mutex<Entry>>, Refusal> {
        let gone = || Refusal::new(Code::VaultUnavailable);
        let state = state_of(&*self.gateway.upgrade().ok_or_else(gone)?, &of.workspace)?;
        let sealed = state.sealed.as_ref().ok_or_else(gone)?;
        let identity = sealed.identity(&of.name).ok_or_else(gone)?;
        let mut entries = self.entries.lock();
        if !entries.contains_key(&(identity, version)) {
            // Those of credentials and versions that are gone go with the first that is new.
            let now = Moment::now();
            entries.retain(|_, entry| !entry.lock().is_over(now));
        }
        Ok(Arc::clone(entries.entry((identity, version)).or_default()))
    }

    /// Begins a renewal, unless one is under way.
    fn begin(
        &self,
        credential: &Arc<Credential>,
        version: u32,
        entry: &Arc<Mutex<Entry>>,
        held: &mut Entry,
    ) -> watch::Receiver<bool> {
        if let Some(flight) = held.flight() {
            return flight;
        }
        let (landed, flight) = watch::channel(false);
        held.flies(flight.clone());
        let Some(own) = self.own.upgrade() else { return flight };
        let (credential, entry) = (Arc::clone(credential), Arc::clone(entry));
        let renewal = async move {
            let kind = credential.properties.kind.clone();
            let minted = own.mint(&credential, version, &entry).await;
            own.count(&credential, &minted);
            let mut held = entry.lock();
            match minted {
                Ok((value, lifetime)) => held.has(value, lifetime, kind),
                Err(refusal) => held.failed(refusal, Moment::now()),
            }
            drop(held);
            let _nobody_waits = landed.send(true);
        };
        let mut flights = self.flights.lock();
        while flights.try_join_next().is_some() {}
        flights.spawn_on(renewal, &self.runtime);
        flight
    }

    fn count(&self, credential: &Credential, minted: &Result<Made, Refusal>) {
        let Some(gateway) = self.gateway.upgrade() else { return };
        let result = match minted {
            Ok(_) => Minting::Made,
            Err(refusal) if refusal.code == Code::CredentialExpired => Minting::Refused,
            Err(_) => Minting::Failed,
        };
        gateway.metrics().minted(&owner(credential), result);
        if let Err(refusal) = minted {
            let why = refusal.reason.unwrap_or_default();
            tracing::warn!(
                credential = %credential.name, code = %refusal.code, why, detail = %refusal.detail,
                "a value could not be made"
            );
        }
    }

    /// Makes a value for which nobody is asked.
    fn of_the_moment(&self, credential: &Credential, version: u32) -> Result<Secret, Refusal> {
        let gateway = self.gateway.upgrade().ok_or_else(|| Refusal::new(Code::VaultUnavailable))?;
        let kind = credential.properties.kind.as_ref();
        let kind = kind.ok_or_else(|| Refusal::new(Code::Internal))?;
        let state = state_of(&gateway, &credential.workspace)?;
        let secret = state.open(&credential.name, version)?;
        let material = Material::read(&secret, kind).map_err(|e| refused(e.into()))?;
        mint::of_the_moment(kind, &material, unix_now()).map_err(refused)
    }

    /// Gets a value. What replaces the secret in the vault is there before this returns.
    async fn mint(
        &self,
        credential: &Credential,
        version: u32,
        entry: &Mutex<Entry>,
    ) -> Result<Made, Refusal> {
        self.write_back(credential, version, entry).await?;
        let gateway = self.gateway.upgrade().ok_or_else(|| Refusal::new(Code::VaultUnavailable))?;
        let kind = credential.properties.kind.as_ref().filter(|kind| kind.is_minted());
        let fetch = credential.properties.source.as_ref().map(|source| Fetch {
            supplier: self,
            gateway: &gateway,
            credential,
            version,
            source,
        });
        let (secret, lent) = match (fetch, kind) {
            (Some(fetch), None) => return self.copy(fetch, entry).await,
            // What lies elsewhere is what a kind makes its value of.
            (Some(fetch), Some(_)) => match self.lent(&fetch, entry).await? {
                (lent, Some(given)) => (given, Some(lent)),
                (lent, None) => (again(&lent), Some(lent)),
            },
            (None, _) => {
                let state = state_of(&gateway, &credential.workspace)?;
                // Removed and added anew under its name meanwhile: the new secret is for other endpoints.
                let now = state.credentials.get(credential.name.as_str());
                if now.is_none_or(|now| now.properties != credential.properties) {
                    return Err(Refusal::new(Code::CredentialRefused)
                        .because("the credential has changed since the request was decided on"));
                }
                (state.open(&credential.name, version)?, None)
            }
        };
        let kind = kind.ok_or_else(|| Refusal::new(Code::Internal))?;
        let material = Material::read(&secret, kind).map_err(|e| refused(e.into()))?;
        drop(secret);
        let (minted, sent) = self.call(&gateway, (credential, version), kind, &material).await?;
        if let Some(replacement) = &minted.replacement {
            let put = |secret: &Secret| self.shelf.put(&owner(credential), secret);
            let lent = lent.as_ref().map(put).transpose()?;
            entry.lock().owes(put(replacement)?, lent);
            self.write_back(credential, version, entry).await?;
        }
        let value = self.shelf.put(&owner(credential), &minted.value)?;
        Ok((value, Lifetime::from(sent, minted.lifetime)))
    }

    /// Takes a copy of what lies elsewhere.
    async fn copy(&self, fetch: Fetch<'_>, entry: &Mutex<Entry>) -> Result<Made, Refusal> {
        let sent = Moment::now();
        let fetched = self.fetched(&fetch, entry).await?;
        let lifetime = if let Some(lease) = fetched.lease {
            Lifetime::from(sent, lease)
        } else {
            let (refresh, stale) = (fetch.source.refresh(), fetch.source.stale());
            Lifetime::of_copy(sent, refresh, stale, fetched.ends)
        };
        Ok((self.shelf.put(&owner(fetch.credential), &fetched.secret)?, lifetime))
    }

    /// What lies elsewhere, and that it could not be had is on record once.
    async fn fetched(&self, fetch: &Fetch<'_>, entry: &Mutex<Entry>) -> Result<Fetched, Refusal> {
        let (credential, source) = (fetch.credential, fetch.source);
        let fetched = match fetch.credential.properties.kind {
            None => fetch.for_requests().await,
            Some(_) => fetch.raw().await,
        };
        match fetched {
            Ok(fetched) => {
                if entry.lock().is_fresh_again() {
                    self.keeper.note_about("source-recovered", credential, &source.to_string());
                }
                Ok(fetched)
            }
            Err(failed) => {
                let left = entry.lock().goes_stale(Moment::now(), failed.gone);
                if let Some(left) = left {
                    let (why, left) = (failed.why, left.as_secs());
                    let detail = format!(
                        "{source}: {why}; the last value is used for {left} s more at most"
                    );
                    self.keeper.note_about("source-stale", credential, &detail);
                }
                Err(failed.into())
            }
        }
    }

    /// What lies elsewhere for a kind to make its value of; or what an authorization server has given
    /// in exchange for it since.
    async fn lent(
        &self,
        fetch: &Fetch<'_>,
        entry: &Mutex<Entry>,
    ) -> Result<(Secret, Option<Secret>), Refusal> {
        let lent = self.fetched(fetch, entry).await?.secret;
        let of = full_name(fetch.credential);
        self.keeper.exchanged(of, lent).await.map_err(|error| {
            tracing::error!(credential = %fetch.credential.name, %error, "what was given in exchange cannot be read");
            Refusal::new(Code::VaultUnavailable)
        })
    }

    /// Makes the call; a second time where the first shows that our clocks differ.
    async fn call(
        &self,
        gateway: &Gateway,
        (credential, version): (&Credential, u32),
        kind: &Kind,
        material: &Material,
    ) -> Result<(mint::Minted, Moment), Refusal> {
        let mut skew = 0;
        loop {
            let sent = Moment::now();
            let call = mint::call(kind, material, unix_now() + skew).map_err(refused)?;
            let uses = Use {
                credential: credential.name.clone(),
                version: Some(version),
                slot: Some(format!("mint:{}", kind.name())),
                why: Why::default(),
            };
            let errand = Errand {
                purpose: PURPOSE,
                workspace: Some(&credential.workspace),
                uses: Some(uses),
                endpoint: &call.endpoint,
                method: call.method,
                headers: call.headers,
                body: call.body,
                within: None,
            };
            let reply = gateway.errand(errand).await.map_err(failed)?;
            match mint::answer(kind, material, reply.status, &reply.body) {
                Ok(minted) => return Ok((minted, sent)),
                Err(error) => {
                    let other = skew_of(&reply.headers);
                    if skew != 0 || !kind.minds_the_clock() || other.abs() < SKEW {
                        return Err(refused(error));
                    }
                    tracing::warn!(
                        credential = %credential.name, seconds = other,
                        "the clock of the host that tokens come from differs from ours; its time is used"
                    );
                    skew = other;
                }
            }
        }
    }

    /// Writes to the vault what an earlier exchange has given, if anything is owed.
    async fn write_back(
        &self,
        credential: &Credential,
        version: u32,
        entry: &Mutex<Entry>,
    ) -> Result<(), Refusal> {
        let owed = entry.lock().owed().map(|(owed, lent)| {
            let lent = lent.map(|lent| self.shelf.open(lent)).transpose()?;
            Ok::<_, Refusal>((self.shelf.open(owed)?, lent))
        });
        let Some((secret, lent)) = owed.transpose()? else { return Ok(()) };
        let of = full_name(credential);
        let written = match lent {
            None => self.keeper.renew(of, version, secret).await,
            Some(lent) => self.keeper.keep_exchanged(of, version, (lent, secret)).await,
        };
        written.map_err(|error| {
            tracing::error!(
                credential = %credential.name, version, %error,
                "the refresh token that was given in exchange could not be written to the vault; it is kept in memory, and no token is used before it is written"
            );
            Refusal::new(Code::RefreshFailed)
                .because("the new refresh token could not be written to the vault")
        })?;
        entry.lock().is_settled();
        Ok(())
    }
}

/// Another copy of a secret, which is wiped too.
fn again(secret: &Secret) -> Secret {
    secret.expose(|bytes| Secret::new(bytes.to_vec()))
}

/// The state of a workspace: a credential's name means another one elsewhere.
fn state_of(gateway: &Gateway, workspace: &Name) -> Result<Arc<State>, Refusal> {
    let state = gateway.workspace(workspace).map(|workspace| workspace.state());
    state.ok_or_else(|| Refusal::new(Code::VaultUnavailable))
}

/// A credential, whichever workspace is worked in.
fn full_name(credential: &Credential) -> (Name, Name) {
    (credential.workspace.clone(), credential.name.clone())
}

/// Whose a value is, on the shelf and in metrics.
fn owner(credential: &Credential) -> Cow<'_, str> {
    qualified(credential.workspace.as_str(), credential.name.as_str())
}

/// A value on the shelf, and how long it is good for.
type Made = (crate::vault::Shelved, Lifetime);

impl Supply for Supplier {
    fn at_hand(
        &self,
        credential: &Arc<Credential>,
        version: u32,
    ) -> Result<Option<Secret>, Refusal> {
        if credential.properties.kind.as_ref().is_some_and(Kind::is_of_the_moment)
            && credential.properties.source.is_none()
        {
            return self.of_the_moment(credential, version).map(Some);
        }
        let entry = self.entry(credential, version)?;
        let mut held = entry.lock();
        let now = Moment::now();
        let Some(value) = held.good(now, credential.properties.kind.as_ref()) else {
            return Ok(None);
        };
        let value = self.shelf.open(value)?;
        if held.is_due(now) {
            let _goes_on_alone = self.begin(credential, version, &entry, &mut held);
        }
        Ok(Some(value))
    }

    fn supply<'a>(&'a self, credential: &'a Arc<Credential>, version: u32) -> Supplying<'a> {
        Box::pin(async move {
            let entry = self.entry(credential, version)?;
            let mut flight = {
                let mut held = entry.lock();
                let now = Moment::now();
                if let Some(value) = held.good(now, credential.properties.kind.as_ref()) {
                    return self.shelf.open(value);
                }
                // Not each request asks a host that has just refused.
                if let Some(refusal) = held.refusal(now) {
                    return Err(refusal);
                }
                self.begin(credential, version, &entry, &mut held)
            };
            let landed = flight.wait_for(|landed| *landed).await.is_ok();
            let held = entry.lock();
            match held.good(Moment::now(), credential.properties.kind.as_ref()) {
                Some(value) => self.shelf.open(value),
                None if landed => Err(held.refusal(Moment::now()).unwrap_or_else(|| {
                    Refusal::new(Code::RefreshFailed)
                        .because("the token ran out while it was waited for")
                })),
                None => Err(Refusal::new(Code::Internal)),
            }
        })
    }

    fn known(&self, credential: &Credential, version: u32) -> Vec<Secret> {
        let Ok(entry) = self.entry(credential, version) else { return Vec::new() };
        let held = entry.lock();
        held.known(Moment::now()).filter_map(|shelved| self.shelf.open(shelved).ok()).collect()
    }

    fn rejected(&self, credential: &Arc<Credential>, version: u32) {
        let Ok(entry) = self.entry(credential, version) else { return };
        entry.lock().rejected(Moment::now());
    }
}

/// How far clocks may differ, in seconds, before it is thought of as a cause: assertions are made to
/// be good for minutes.
const SKEW: i64 = 30;

/// How far the other's clock is before ours, by the `Date` of its answer.
fn skew_of(headers: &http::HeaderMap) -> i64 {
    let date = headers.get(http::header::DATE).and_then(|value| value.to_str().ok());
    let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
    let since = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_secs()).ok()).map_or(0, |date| date - unix_now())
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The refusal of a mint that came to nothing.
fn refused(error: MintError) -> Refusal {
    match error {
        MintError::Refused(why) => Refusal::new(Code::CredentialExpired).because(why),
        MintError::Failed(why) => Refusal::new(Code::RefreshFailed).because(why),
        MintError::Material(_) => Refusal::new(Code::RefreshFailed)
            .because("what lies in the vault cannot be used for the credential's kind"),
    }
}

/// The refusal of an errand that did not come back. The agent hears nothing of where it went; the
/// errand's own record says it.
fn failed(refusal: Refusal) -> Refusal {
    tracing::warn!(code = %refusal.code, detail = %refusal.detail, "an errand failed");
    let why = match refusal.code {
        Code::ResponseTimeout => "the token endpoint did not answer in time",
        Code::ConnectTimeout => "the token endpoint could not be connected to in time",
        Code::ConnectFailed => "the token endpoint does not accept a connection",
        Code::DnsError => "the name of the token endpoint does not resolve",
        Code::CertificateInvalid => "the certificate of the token endpoint does not verify",
        Code::TlsFailed => "TLS with the token endpoint failed",
        Code::AddressForbidden => "the address of the token endpoint is closed to the proxy",
        Code::AuditUnavailable => return refusal,
        _ => "the token endpoint broke off",
    };
    Refusal::new(Code::RefreshFailed).because(why)
}
