//! What a permit stood on, kept for as long as what it opened is open.
//!
//! A request is decided on once and is soon over. A socket stays, and is asked about again whenever
//! there is a new state: what would not be opened any more is ended.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri};

use super::choice::Picked;
use super::decide::usable;
use super::rule::Asked;
use super::verdict::{Denied, Kind, Verdict};
use super::{Permit, Policy};
use crate::agent::Identity;
use crate::credential::{Credential, CredentialIndex};
use crate::host::Origin;
use crate::inject::References;
use crate::outcome::{Code, Refusal};
use crate::reference::Name;
use crate::request::InboundRequest;

/// What was permitted and is not over, as the policy saw it when it began: a WebSocket, or a request
/// whose rule wants to be asked again.
#[derive(Clone, Debug)]
pub struct Standing {
    who: Arc<Identity>,
    origin: Origin,
    /// The path as sent, and its other readings.
    paths: Box<[String]>,
    query: Option<Box<str>>,
    headers: HeaderMap,
    /// None for a socket.
    method: Option<Method>,
    /// The credentials that the handshake carried, and in which version.
    credentials: Vec<Carried>,
}

/// One credential that was carried.
#[derive(Clone, Debug)]
struct Carried {
    credential: Name,
    /// The value by which it was referred to, if it was by one.
    value: Option<Name>,
    version: u32,
}

impl Standing {
    /// What is to be asked again of `request`, or of the socket that it opens.
    #[must_use]
    pub fn new(who: &Arc<Identity>, request: &InboundRequest, permit: &Permit) -> Self {
        let own = std::iter::once(request.path().to_owned());
        Self {
            who: Arc::clone(who),
            origin: request.origin().clone(),
            paths: own.chain(request.other_readings().iter().cloned()).collect(),
            query: request.query().map(Into::into),
            headers: request.headers().clone(),
            method: request.websocket().is_none().then(|| request.method().clone()),
            credentials: carried(permit),
        }
    }

    /// The same of a request that is on its way, of which nothing is left but its target as the agent sent
    /// it and the fields that go out: no rule asks for one that we have changed, but for a slot's.
    #[must_use]
    pub fn leaving(
        who: &Arc<Identity>,
        (origin, method, target): (&Origin, &Method, &Uri),
        headers: &HeaderMap,
        permit: &Permit,
    ) -> Self {
        let path = target.path();
        // It had readings when it was decided on.
        let others = crate::request::readings(path).unwrap_or_default();
        Self {
            who: Arc::clone(who),
            origin: origin.clone(),
            paths: std::iter::once(path.to_owned()).chain(others).collect(),
            query: target.query().map(Into::into),
            headers: headers.clone(),
            method: Some(method.clone()),
            credentials: carried(permit),
        }
    }

    fn kind(&self) -> Kind<'_> {
        self.method.as_ref().map_or(Kind::WebSocket, Kind::Request)
    }

    /// Who opened it, as it was then.
    #[must_use]
    pub fn who(&self) -> &Arc<Identity> {
        &self.who
    }

    /// Where the socket leads.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

fn carried(permit: &Permit) -> Vec<Carried> {
    let used = |grant: &super::Grant| Carried {
        credential: grant.credential().name.clone(),
        value: grant.credential().held_by().cloned(),
        version: grant.version(),
    };
    permit.grants().iter().map(used).collect()
}

impl Policy {
    /// Decides on a message that the agent, as it is now, sends in a socket: as on a request that
    /// refers to the same credentials, and that would open the socket now.
    ///
    /// # Errors
    /// As [`Policy::authorize`].
    pub fn authorize_message(
        &self,
        (standing, who): (&Standing, &Identity),
        references: &References,
        index: &CredentialIndex,
        at: i64,
    ) -> Result<Permit, Refusal> {
        let mut picked = usable(who, references, &standing.origin, index)?;
        for one in &mut picked {
            let allows = |c: &Credential| {
                let verdict = self.verdict_now((standing, who), &[c], index, at);
                verdict.is_some_and(|verdict| verdict.is_ok())
            };
            one.choose((who, index), &standing.origin, allows)?;
        }
        let credentials: Vec<&Credential> = picked.iter().map(|one| &**one.credential).collect();
        let verdict = self
            .verdict_now((standing, who), &credentials, index, at)
            .ok_or_else(|| Refusal::new(Code::AmbiguousPath))?
            .map_err(|denied| self.refusal(denied, Kind::WebSocket, None))?;
        if picked.iter().any(|one| !one.has_slot()) {
            return Err(Refusal::new(Code::SlotMismatch));
        }
        if let Some(fault) = references.fault() {
            return Err(Refusal::with_detail(Code::BodyUnreadable, fault));
        }
        if self.approval(&verdict).is_some() {
            let detail = "A message in a socket cannot wait for an approval";
            return Err(Refusal::with_detail(Code::ApprovalRequired, detail));
        }
        let rule = &self.rules[verdict.rule as usize];
        let bound = verdict.bound.and_then(|at| self.rules.get(at as usize));
        if rule.refuse_misplaced && references.misplaced() > 0 {
            return Err(Refusal::new(Code::Misplaced));
        }
        Ok(Permit {
            rule: Arc::clone(&rule.name),
            grants: picked.iter().filter_map(Picked::grant).collect(),
            // What the socket's answers must not contain was settled when it was opened.
            hidden: Vec::new(),
            timeouts: rule.timeouts,
            retry: None,
            undecodable: rule.undecodable,
            captures: Arc::default(),
            meters: rule.meters().and(bound),
            approval: None,
            cut_when_withdrawn: false,
            refuse_misplaced: rule.refuse_misplaced,
            refuse_unusual: self.refuses_unusual(&verdict),
        })
    }

    /// Why the socket of an agent, as it is now, may not go on, if it may not. A new version of a
    /// credential is no reason: the origin has accepted the one that it was shown. A revoked one is.
    #[must_use]
    pub fn withdrawn(
        &self,
        (standing, who): (&Standing, &Identity),
        index: &CredentialIndex,
        at: i64,
    ) -> Option<Code> {
        let now = |one: &Carried| {
            index.used(&one.credential, one.value.as_ref(), who.environment()).map(|own| &**own)
        };
        let revoked =
            |one: &Carried| now(one).is_some_and(|own| own.revoked.contains(&one.version));
        if standing.credentials.iter().any(revoked) {
            return Some(Code::CredentialRevoked);
        }
        let live = |one: &Carried| {
            let credential: &Credential = now(one)?;
            let live = credential.version.is_some() && credential.is_bound_to(&standing.origin);
            live.then_some(credential)
        };
        let credentials: Option<Vec<&Credential>> = standing.credentials.iter().map(live).collect();
        let Some(credentials) = credentials else { return Some(Code::CredentialRefused) };
        match self.verdict_now((standing, who), &credentials, index, at) {
            None => Some(Code::AmbiguousPath),
            Some(verdict) => {
                verdict.err().map(|denied| self.refusal(denied, standing.kind(), None).code)
            }
        }
    }

    /// What each reading of the socket's path leads to now; none when they differ.
    fn verdict_now(
        &self,
        (standing, who): (&Standing, &Identity),
        credentials: &[&Credential],
        index: &CredentialIndex,
        at: i64,
    ) -> Option<Result<Verdict, Denied>> {
        let asked = Asked {
            who,
            origin: &standing.origin,
            kind: standing.kind(),
            query: standing.query.as_deref(),
            headers: &standing.headers,
            at,
        };
        let mut verdicts =
            standing.paths.iter().map(|path| self.verdict(asked, path, credentials, index, false));
        let first = verdicts.next()?;
        verdicts.all(|other| other == first).then_some(first)
    }
}
