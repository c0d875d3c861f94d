//! By a token that somebody else has issued: an identity provider, a cluster, a CI system.
//!
//! What an issuer has signed says who the caller is; which issuers are believed, for whom they may
//! speak, and by which claims, says the config. A signature is checked once, and its result kept for as
//! long as the issuer's keys are the same: an agent opens many tunnels with one token.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Admit, Agents, Authenticate, Credentials, Denied, Directory, Shown};
use crate::agent::mapping::Mapping;
use crate::agent::{
    Context, Identity, JwtProof, Label, LabelName, Labels, MAX_LABELS, Proof, UserName,
};
use crate::reference::Name;
use crate::token::jwt::{
    Algorithm, ClaimPath, Expected, Fault, KeySet, Unverified, Verified, is_shaped,
};
use crate::token::{self, run};

/// Results that are kept for one set of keys: as many as agents have tokens at one time. A result has a
/// few KiB.
const KEPT: usize = 1024;

/// One issuer that is believed.
#[derive(Debug)]
pub struct Issuer {
    /// What each of its tokens has to be.
    pub expected: Expected,
    /// By what it signs.
    pub algorithms: Box<[Algorithm]>,
    /// Where its tokens say who the caller is.
    pub claims: Claims,
    /// From what they say to the agent.
    pub agents: Mapping,
    /// Where agents are of whom the mapping does not say.
    pub workspace: Name,
    /// Which agents it may speak for.
    pub admit: Admit,
    /// Its keys.
    pub keys: Arc<IssuerKeys>,
}

impl Issuer {
    /// Whom a subject stands for, and where.
    fn find(&self, subject: &str) -> Option<(Name, Name)> {
        let found = self.agents.find(subject)?;
        Some((found.workspace.unwrap_or_else(|| self.workspace.clone()), found.agent))
    }

    /// Tells whether what is asked of its tokens has changed. Within one process: nobody keeps it longer.
    fn terms(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.expected, &self.algorithms).hash(&mut hasher);
        hasher.finish()
    }
}

/// Which claims say what.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Who the caller is.
    pub agent: ClaimPath,
    /// For whom it runs.
    pub user: Option<ClaimPath>,
    /// In which run.
    pub run: Option<ClaimPath>,
    /// What it is labelled with.
    pub labels: Box<[(LabelName, ClaimPath)]>,
}

/// The keys of an issuer, as far as they are known, and what was verified with them.
#[derive(Debug, Default)]
pub struct IssuerKeys {
    loaded: ArcSwapOption<Loaded>,
    /// Whether somebody came with a key that is not among them.
    wanted: AtomicBool,
}

#[derive(Debug)]
struct Loaded {
    keys: KeySet,
    /// By the SHA-256 of the token's text. What fails is not kept.
    verified: Mutex<HashMap<[u8; 32], Arc<Verified>>>,
}

impl IssuerKeys {
    /// Takes over a set of keys. True when it is another than before.
    pub fn replace(&self, keys: KeySet) -> bool {
        if self.loaded.load().as_ref().is_some_and(|old| old.keys.same_as(&keys)) {
            return false;
        }
        self.loaded.store(Some(Arc::new(Loaded { keys, verified: Mutex::default() })));
        true
    }

    /// Whether a token named a key that is not among them, since this was asked last.
    pub fn take_wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    /// Whether somebody is waiting for a key.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// How many keys there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.loaded.load().as_ref().map_or(0, |loaded| loaded.keys.count())
    }

    fn verify(
        &self,
        text: &str,
        token: Unverified<'_>,
        algorithms: &[Algorithm],
        now: i64,
    ) -> Result<Arc<Verified>, Fault> {
        let loaded = self.loaded.load();
        let verified = match &*loaded {
            Some(loaded) => loaded.verify(text, token, algorithms, now),
            None => Err(Fault::UnknownKey),
        };
        if verified.as_ref().is_err_and(|fault| *fault == Fault::UnknownKey) {
            self.wanted.store(true, Ordering::Relaxed);
        }
        verified
    }
}

impl Loaded {
    fn verify(
        &self,
        text: &str,
        token: Unverified<'_>,
        algorithms: &[Algorithm],
        now: i64,
    ) -> Result<Arc<Verified>, Fault> {
        // It may have been verified when more ways to sign were allowed.
        token.signed_by(algorithms)?;
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        if let Some(known) = self.verified.lock().get(&digest) {
            return Ok(Arc::clone(known));
        }
        let verified = Arc::new(token.verify(&self.keys, algorithms)?);
        let mut all = self.verified.lock();
        if all.len() >= KEPT {
            all.retain(|_, one| one.expiry().is_some_and(|end| now < end));
        }
        // Whoever fills it with live ones is an issuer; the next look at each costs a signature.
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(digest, Arc::clone(&verified));
        Ok(verified)
    }
}

/// Checks tokens of issuers.
#[derive(Debug)]
pub struct ByJwt {
    directory: Directory,
    issuers: Box<[Issuer]>,
}

impl ByJwt {
    /// Believes these issuers, each of a name of its own.
    #[must_use]
    pub fn new(directory: Directory, issuers: Vec<Issuer>) -> Self {
        Self { directory, issuers: issuers.into() }
    }

    fn issuer(&self, name: &str) -> Option<&Issuer> {
        self.issuers.iter().find(|issuer| *issuer.expected.issuer == *name)
    }

    fn check(&self, user: Option<&UserName>, text: &str, now: i64) -> Result<Identity, Denied> {
        let token = Unverified::read(text)?;
        let issuer = token.issuer().and_then(|name| self.issuer(name)).ok_or(Fault::Issuer)?;
        let verified = issuer.keys.verify(text, token, &issuer.algorithms, now)?;
        let until = verified.check(&issuer.expected, now)?;
        let subject = text_of(&verified, &issuer.claims.agent)?;
        let (workspace, agent) = issuer.find(&subject).ok_or(Fault::NoAgent)?;
        let fixed = issuer.claims.context(&verified)?;
        let said = user.map(|user| &user.context).cloned().unwrap_or_default();
        let another = user.is_some_and(|user| user.agent != agent) || said.contradicts(&fixed);
        if another {
            return Err(Denied::Wrong);
        }
        let agents = self.directory.of(&workspace);
        let agents = agents.filter(|agents| agents.admit(&agent, issuer.admit));
        let agents = agents.ok_or(Denied::Unknown)?;
        let labels = issuer.claims.labels(&verified)?;
        let proof = JwtProof {
            issuer: issuer.expected.issuer.clone(),
            subject: subject.into(),
            key: verified.key(),
            until,
            terms: issuer.terms(),
            fixed: fixed.clone(),
            labels,
        };
        // Of both together there may be too many.
        let labels = labelled(agents, &agent, &proof.labels).ok_or(Fault::Claim)?;
        let id = id(&verified, text);
        if agents.has_ended(&agent, &id) {
            return Err(Denied::Unknown);
        }
        let proof = Proof::Jwt(Arc::new(proof));
        let identity = agents.identity(agent, id, said.overlaid(&fixed), proof);
        Ok(Identity { labels, ..identity })
    }

    fn stands(&self, identity: &Identity, proof: &JwtProof, now: i64) -> bool {
        let Some(issuer) = self.issuer(&proof.issuer) else { return false };
        let loaded = issuer.keys.loaded.load();
        let has_key = loaded.as_ref().is_some_and(|loaded| loaded.keys.has(proof.key));
        let found = issuer.find(&proof.subject);
        let same = found.is_some_and(|(workspace, agent)| {
            workspace == identity.workspace && agent == identity.agent
        }) && issuer.terms() == proof.terms;
        let agents = self.directory.of(&identity.workspace);
        let admitted = agents.is_some_and(|agents| {
            let ended = agents.has_ended(&identity.agent, &identity.token_id);
            agents.admit(&identity.agent, issuer.admit) && !ended
        });
        now < proof.until && has_key && same && admitted
    }
}

impl Authenticate for ByJwt {
    fn authenticate(&self, shown: &Shown<'_>, now: i64) -> Option<Result<Identity, Denied>> {
        let (user, text) = match shown.credentials? {
            Credentials::Bearer(text) => (None, text),
            Credentials::Basic { user, password } => (Some(user), password),
        };
        is_jwt(text).then(|| self.check(user, text, now))
    }

    fn still_valid(&self, identity: &Identity, now: i64) -> Option<bool> {
        let Proof::Jwt(proof) = &identity.proof else { return None };
        Some(self.stands(identity, proof, now))
    }

    fn labels(&self, identity: &Identity) -> Option<Cow<'_, Labels>> {
        let Proof::Jwt(proof) = &identity.proof else { return None };
        let agents = self.directory.of(&identity.workspace)?;
        labelled(agents, &identity.agent, &proof.labels).map(Cow::Owned)
    }
}

/// What an issuer says of an agent, with what the vault says put over it.
fn labelled(agents: &Agents, agent: &Name, claimed: &Labels) -> Option<Labels> {
    claimed.overlaid(agents.labels(agent)).ok()
}

/// Whether a password is meant as a token of an issuer, and not as one of ours.
pub(super) fn is_jwt(text: &str) -> bool {
    is_shaped(text) && !text.starts_with(token::PREFIX) && !text.starts_with(run::PREFIX)
}

/// What the records know a token by: its own `jti`, where that can stand in a record, or the beginning
/// of its digest.
fn id(verified: &Verified, text: &str) -> Arc<str> {
    const ID: usize = 64;
    let own = ClaimPath::named("jti");
    let own = verified.claim(&own).and_then(Value::as_str).filter(|own| own.len() <= ID);
    if let Some(own) = own.and_then(|own| own.parse::<Label>().ok()) {
        return own.as_str().into();
    }
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&digest[..8])).into()
}

/// A claim that has to be there, as a text.
fn text_of(verified: &Verified, path: &ClaimPath) -> Result<String, Fault> {
    plain(verified.claim(path).ok_or(Fault::Claim)?).ok_or(Fault::Claim)
}

/// Texts, and what is written the same by everybody.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

impl Claims {
    /// What the issuer says of user and run. A claim that the config names has to be there, and to fit:
    /// otherwise the agent could say itself what the issuer was to say.
    fn context(&self, verified: &Verified) -> Result<Context, Fault> {
        let label = |path: &Option<ClaimPath>| -> Result<Option<Label>, Fault> {
            let Some(path) = path else { return Ok(None) };
            text_of(verified, path)?.parse().map(Some).map_err(|_| Fault::Claim)
        };
        Ok(Context { run: label(&self.run)?, node: None, user: label(&self.user)? })
    }

    /// Labels that the token has. One that it does not have is none; of a list, each item is a label
    /// `NAME/ITEM` of its own, where it can be one.
    fn labels(&self, verified: &Verified) -> Result<Labels, Fault> {
        let mut labels = Vec::new();
        for (name, path) in &self.labels {
            match verified.claim(path) {
                None | Some(Value::Null) => {}
                Some(Value::Array(items)) => {
                    let items = items.iter().filter_map(Value::as_str);
                    let item = |item: &str| format!("{name}/{item}").parse::<LabelName>().ok();
                    let yes: Label = "yes".parse().map_err(|_| Fault::Claim)?;
                    labels.extend(items.filter_map(item).map(|name| (name, yes.clone())));
                }
                Some(value) => {
                    let value = plain(value).and_then(|text| text.parse().ok());
                    labels.push((name.clone(), value.ok_or(Fault::Claim)?));
                }
            }
        }
        labels.sort_by(|(a, _), (b, _)| a.cmp(b));
        labels.dedup_by(|(a, _), (b, _)| a == b);
        if labels.len() > MAX_LABELS {
            return Err(Fault::Claim);
        }
        Labels::new(labels).map_err(|_| Fault::Claim)
    }
}

#[cfg(test)]
mod tests;
