//! Which bodies and messages have to be read before they are decided on: those that a credential may enter.

use std::iter::once;
use std::sync::Arc;

use super::Policy;
use super::rule::{Asked, Rule};
use crate::agent::Identity;
use crate::credential::{Credential, CredentialIndex, Within};
use crate::host::Scheme;
use crate::inject::References;
use crate::request::{BodyKind, InboundRequest};

impl Policy {
    /// How the body is written, if it has to be read before the request is decided on: when a
    /// credential that the agent may use here has a slot in such a body, and the head does not refer
    /// to it. Every other body stays a stream that nobody looks at.
    #[must_use]
    pub fn wants_body(
        &self,
        who: &Identity,
        request: &InboundRequest,
        references: &References,
        (index, at): (&CredentialIndex, i64),
    ) -> Option<BodyKind> {
        if !index.has_body_slots() || request.origin().scheme != Scheme::Https {
            return None;
        }
        let body = BodyKind::of(request.headers())?;
        self.may_enter((who, at), request, references, index, &body).then_some(body)
    }

    /// Whether the messages of the WebSocket that `request` opens have to be read, because a credential
    /// may enter them.
    #[must_use]
    pub fn wants_messages(
        &self,
        who: &Identity,
        request: &InboundRequest,
        references: &References,
        (index, at): (&CredentialIndex, i64),
    ) -> bool {
        index.has_message_slots()
            && request.websocket().is_some()
            && request.origin().scheme == Scheme::Https
            && self.may_enter((who, at), request, references, index, &BodyKind::Message)
    }

    fn may_enter(
        &self,
        (who, at): (&Identity, i64),
        request: &InboundRequest,
        references: &References,
        index: &CredentialIndex,
        body: &BodyKind,
    ) -> bool {
        let (asked, origin) = (Asked::of(who, request, at), request.origin());
        let within = Within::One(who.environment());
        let enters = |credential: &Arc<Credential>| {
            // A revoked one as well: its use is to be refused, and not passed as text.
            credential.slots.iter().any(|slot| body.has(slot)) && !references.refer_to(credential)
        };
        let wants = |rule: &Rule| {
            let readings = request.other_readings().iter().map(String::as_str);
            let mut paths = once(request.path()).chain(readings);
            let allows = !rule.deny && !rule.shadow;
            allows
                && paths.any(|path| rule.matches(asked, path, index))
                && rule.uses.bound_to(origin, index, within).any(enters)
        };
        self.candidates(who, origin, index).any(|(_, rule)| wants(rule))
    }
}
