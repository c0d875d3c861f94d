//! What a decision gives: the right to send one request, with the credentials that may enter it.

use std::sync::Arc;
use std::time::Duration;

use super::{Alternative, Approval, Capture, Met, Meters, Retry, Ticket, Waiting};
use crate::credential::{Credential, Kind as CredentialKind, Older};
use crate::outcome::Refusal;
use crate::record::Why;
use crate::reference::Name;
use crate::scrub::Undecodable;

/// How long the origin may take, where a rule says so: in place of `upstream.timeouts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the head of the answer.
    pub response: Option<Duration>,
    /// Between two pieces of a body.
    pub idle: Option<Duration>,
}

impl Timeouts {
    /// The shorter of two, each.
    pub(super) fn within(self, bound: Option<Self>) -> Self {
        let Some(bound) = bound else { return self };
        let shorter = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        Self {
            response: shorter(self.response, bound.response),
            idle: shorter(self.idle, bound.idle),
        }
    }
}

/// The right to send one request with the credentials it names. Cannot be copied, and cannot be
/// made but by [`Policy::authorize`](super::Policy::authorize):
///
/// ```compile_fail
/// let permit = locum::policy::Permit { rule: "mine".into(), grants: Vec::new(), always: false };
/// ```
#[derive(Debug)]
#[must_use]
pub struct Permit {
    pub(super) rule: Arc<str>,
    pub(super) grants: Vec<Grant>,
    pub(super) hidden: Vec<Grant>,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<Retry>,
    pub(super) undecodable: Undecodable,
    pub(super) captures: Arc<[Capture]>,
    pub(super) meters: Meters,
    pub(super) approval: Option<Approval>,
    pub(super) cut_when_withdrawn: bool,
    pub(super) refuse_misplaced: bool,
    pub(super) refuse_unusual: bool,
}

/// One credential that may enter the request, and where.
#[derive(Debug)]
pub struct Grant {
    pub(super) credential: Arc<Credential>,
    pub(super) version: u32,
    pub(super) slot: usize,
    pub(super) placeholder: Arc<str>,
    pub(super) why: Why,
    /// What could be injected in its place, where several are equal.
    pub(super) pool: Box<[Alternative]>,
}

impl Grant {
    /// A live credential in its first slot, with its own placeholder.
    pub(super) fn whole(credential: &Arc<Credential>) -> Option<Self> {
        let (version, placeholder) = (credential.version?, credential.placeholder().into());
        let credential = Arc::clone(credential);
        let why = Why::default();
        Some(Self { credential, version, slot: 0, placeholder, why, pool: Box::default() })
    }

    /// An older version of the same, in the same place.
    pub(super) fn of(&self, older: Older) -> Self {
        Self {
            credential: Arc::clone(&self.credential),
            version: older.version,
            slot: self.slot,
            placeholder: Arc::clone(&self.placeholder),
            why: Why::default(),
            pool: Box::default(),
        }
    }

    /// A live credential where a request needs no reference to say where it goes.
    pub(super) fn alone(credential: &Arc<Credential>) -> Option<Self> {
        let slot = credential.slots.iter().position(crate::credential::Slot::stands_alone)?;
        let why = Why { unasked: true, ..Why::default() };
        Some(Self { slot, why, ..Self::whole(credential)? })
    }

    /// Which credential.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The same, for those who keep it.
    #[must_use]
    pub fn shared(&self) -> &Arc<Credential> {
        &self.credential
    }

    /// Which version of it.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The same for the record: none of what has no versions.
    #[must_use]
    pub fn numbered(&self) -> Option<u32> {
        Some(self.version).filter(|_| self.credential.as_text().is_none())
    }

    /// What stands for the secret in what the agent sees.
    #[must_use]
    pub fn placeholder(&self) -> &Arc<str> {
        &self.placeholder
    }

    /// The index of the slot among the credential's.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }
}

impl Permit {
    /// The rule that decided.
    #[must_use]
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }

    /// What this request does not carry, but others of the same agent to the same origin may: an
    /// origin can show in one answer what another request brought. Opened to be scrubbed, and never
    /// injected.
    #[must_use]
    pub fn hidden(&self) -> &[Grant] {
        &self.hidden
    }

    /// Whether any of its values may have to be waited for.
    #[must_use]
    pub fn is_supplied(&self) -> bool {
        self.grants.iter().chain(&self.hidden).any(|grant| grant.credential.is_supplied())
    }

    /// Whether any of its credentials signs with a shared key, and so needs the time and a nonce.
    #[must_use]
    pub fn is_stamped(&self) -> bool {
        let kinds = self.grants.iter().map(|grant| &grant.credential.properties.kind);
        kinds.flatten().any(|kind| matches!(kind, CredentialKind::Hmac(_)))
    }

    /// Whether any of its credentials cannot enter before all of the body is there.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        let kinds = self.grants.iter().map(|grant| &grant.credential.properties.kind);
        kinds.flatten().any(CredentialKind::reads_body)
    }

    /// How long the origin may take, by the rule that decided.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Whether the request is sent again when its origin fails, by the rule that decided.
    #[must_use]
    pub fn retry(&self) -> Option<Retry> {
        self.retry
    }

    /// What is taken out of the answer, and kept.
    #[must_use]
    pub fn captures(&self) -> &Arc<[Capture]> {
        &self.captures
    }

    /// What becomes of an answer that cannot be searched, by the rule that decided.
    #[must_use]
    pub fn undecodable(&self) -> Undecodable {
        self.undecodable
    }

    /// Whether the request is cut when its rule is withdrawn before it is over.
    #[must_use]
    pub fn is_cut_when_withdrawn(&self) -> bool {
        self.cut_when_withdrawn
    }

    /// Whether the request is refused when it is not as usual for its agent.
    #[must_use]
    pub fn refuses_unusual(&self) -> bool {
        self.refuse_unusual
    }

    /// Whether a reference outside the slots is refused.
    #[must_use]
    pub fn refuses_misplaced(&self) -> bool {
        self.refuse_misplaced
    }

    /// Whether a person has to approve the request first.
    #[must_use]
    pub fn approval(&self) -> Option<Approval> {
        self.approval
    }

    /// Lets the request in by the limits of the rule that decided, if it has any: one that has just come,
    /// or one that is `waiting`.
    ///
    /// # Errors
    /// `rate-limited`, by a limit that can perhaps be waited for.
    pub fn admit(
        &self,
        agent: &Name,
        now: Duration,
        waiting: Option<&Waiting>,
    ) -> Result<Option<Arc<Ticket>>, Box<Met>> {
        let credentials = self.grants.iter().map(|grant| &grant.credential.name);
        self.meters.enter(agent, &credentials, now, waiting).map_err(|mut met| {
            met.refusal.rule = Some(Arc::clone(&self.rule));
            met
        })
    }

    /// Counts a message of a socket that is open as one request more, by the limits of the rule that decided.
    ///
    /// # Errors
    /// `rate-limited`. A message cannot wait.
    pub fn count(&self, agent: &Name, now: Duration) -> Result<(), Refusal> {
        let credentials = self.grants.iter().map(|grant| &grant.credential.name);
        self.meters.count(agent, &credentials, now).map_err(|refusal| refusal.by(&self.rule))
    }

    /// What may be injected. Empty for a request that needs no credential.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }
}
