//! What a permit stood on, kept for as long as what it opened is open.
//!
//! A request is decided on once and is soon over. A socket stays, and is asked about again whenever
//! there is a new state: what would not be opened any more is ended.

use std::sync::Arc;

use super::{Asked, Denied, Kind, Meters, Permit, Policy, usable};
use crate::agent::Identity;
use crate::credential::{Credential, CredentialIndex};
use crate::host::Origin;
use crate::inject::References;
use crate::outcome::{Code, Refusal};
use crate::reference::Name;
use crate::request::InboundRequest;

/// An open WebSocket, as the policy saw its handshake.
#[derive(Clone, Debug)]
pub struct Standing {
    agent: Name,
    origin: Origin,
    /// The path as sent, and its other readings.
    paths: Box<[String]>,
    /// The credentials that the handshake carried.
    credentials: Box<[Name]>,
}

impl Standing {
    /// What is to be asked again of the socket that `request` opens.
    #[must_use]
    pub fn new(agent: &Name, request: &InboundRequest, permit: &Permit) -> Self {
        let own = std::iter::once(request.path().to_owned());
        let name = |grant: &super::Grant| grant.credential().name.clone();
        Self {
            agent: agent.clone(),
            origin: request.origin().clone(),
            paths: own.chain(request.other_readings().iter().cloned()).collect(),
            credentials: permit.grants().iter().map(name).collect(),
        }
    }

    /// Where the socket leads.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Policy {
    /// Decides on a message that is sent in a socket: as on a request that refers to the same
    /// credentials, and that would open the socket now.
    ///
    /// # Errors
    /// As [`Policy::authorize`].
    pub fn authorize_message(
        &self,
        who: &Identity,
        standing: &Standing,
        references: &References,
        index: &CredentialIndex,
    ) -> Result<Permit, Refusal> {
        let located = usable(who, references, &standing.origin, index)?;
        let credentials: Vec<&Credential> = located.iter().map(|l| &**l.credential()).collect();
        let asked = Asked { who: &standing.agent, origin: &standing.origin, kind: Kind::WebSocket };
        let mut verdicts =
            standing.paths.iter().map(|path| self.verdict(asked, path, &credentials, index));
        let first = verdicts.next().unwrap_or(Err(Denied::NoRule));
        if verdicts.any(|other| other != first) {
            return Err(Refusal::new(Code::AmbiguousPath));
        }
        let verdict = first.map_err(|denied| denied.refusal(Kind::WebSocket, None))?;
        if located.iter().any(|l| l.slot().is_none()) {
            return Err(Refusal::new(Code::SlotMismatch));
        }
        if let Some(fault) = references.fault() {
            return Err(Refusal::with_detail(Code::BodyUnreadable, fault));
        }
        let rule = &self.rules[verdict.rule as usize];
        if rule.refuse_misplaced && references.misplaced() > 0 {
            return Err(Refusal::new(Code::Misplaced));
        }
        Ok(Permit {
            rule: Arc::clone(verdict.name),
            grants: located.iter().filter_map(|l| l.grant()).collect(),
            // What the socket's answers must not contain was settled when it was opened.
            hidden: Vec::new(),
            timeouts: rule.timeouts,
            undecodable: rule.undecodable,
            meters: Meters::default(),
        })
    }

    /// Why a socket may not go on, if it may not. A new version of a credential is no reason: the
    /// origin has accepted the one that it was shown. A revoked one is.
    #[must_use]
    pub fn withdrawn(&self, standing: &Standing, index: &CredentialIndex) -> Option<Code> {
        let live = |name: &Name| {
            let credential: &Credential = index.get(name.as_str())?;
            let live = credential.version.is_some() && credential.is_bound_to(&standing.origin);
            live.then_some(credential)
        };
        let credentials: Option<Vec<&Credential>> = standing.credentials.iter().map(live).collect();
        let Some(credentials) = credentials else { return Some(Code::CredentialRefused) };
        let asked = Asked { who: &standing.agent, origin: &standing.origin, kind: Kind::WebSocket };
        let mut verdicts =
            standing.paths.iter().map(|path| self.verdict(asked, path, &credentials, index));
        let first = verdicts.next()?;
        if verdicts.any(|other| other != first) {
            return Some(Code::AmbiguousPath);
        }
        first.err().map(|denied| denied.refusal(Kind::WebSocket, None).code)
    }
}
