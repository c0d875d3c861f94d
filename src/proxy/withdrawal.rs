//! Requests that are cut when what they stood on is withdrawn, where their rule says so.
//!
//! What waited before it was sent is decided on anew in any case. Sockets and opaque tunnels, which might never end, are asked about in any case; a request is, for
//! most rules, finished as it was begun.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{Caller, State, Workspace, unix_now};
use crate::agent::Identity;
use crate::inject::References;
use crate::outcome::{Code, Refusal};
use crate::policy::{Grant, Permit, Standing};
use crate::request::InboundRequest;

/// Why what stands on a permit may not go on, if it may not.
pub(super) fn no_longer(
    state: &State,
    identity: &Arc<Identity>,
    standing: &Standing,
) -> Option<Code> {
    if !state.authn.still_valid(identity, unix_now()) {
        return Some(Code::AgentRevoked);
    }
    let who = state.authn.relabelled(standing.who());
    state.policy.withdrawn((standing, &who), &state.credentials, unix_now())
}

/// Decides anew, after a wait, on what was permitted before it; on which state. By the clock, too: a token
/// may have run out meanwhile, or the hours of a rule.
///
/// # Errors
/// What the rules say now, and what they stand on.
pub(super) fn still_stands(
    workspace: &Workspace,
    (who, inbound): (&Arc<Identity>, &InboundRequest),
    permit: &Permit,
) -> Result<Arc<State>, Refusal> {
    let (now, at) = (workspace.state(), unix_now());
    // Of the very credentials and versions that were settled on.
    let standing = Standing::new(who, inbound, permit);
    if let Some(code) = no_longer(&now, who, &standing) {
        return Err(Refusal::new(code).because("it is not allowed any more, after the wait"));
    }
    let stands = |grant: &Grant| {
        let of = grant.credential();
        let credential = now.credentials.used(&of.name, of.held_by(), who.environment());
        credential.is_some_and(|credential| credential.stands(grant.version(), at))
    };
    if !permit.grants().iter().all(stands) {
        return Err(Refusal::new(Code::CredentialRevoked)
            .because("the version was ended while the request waited"));
    }
    let who = now.authn.relabelled(who);
    let references = References::locate(inbound, &now.credentials);
    let again = now.policy.authorize(&who, inbound, &references, &now.credentials, at)?;
    if again.approval().is_some() && permit.approval().is_none() {
        return Err(Refusal::new(Code::ApprovalRequired)
            .because("the rule has asked for an approval while the request waited"));
    }
    Ok(now)
}

/// Waits for a reason to cut a request. Costs nothing where the rule does not want that.
pub(super) struct Watch(Option<Pin<Box<dyn Future<Output = Code> + Send + Sync>>>);

impl Watch {
    /// Of a request that is about to be sent.
    pub(super) fn of(
        caller: &Caller,
        who: &Arc<Identity>,
        inbound: &InboundRequest,
        permit: &Permit,
    ) -> Self {
        if !permit.is_cut_when_withdrawn() {
            return Self(None);
        }
        let (workspace, identity) = (Arc::clone(&caller.workspace), Arc::clone(&caller.identity));
        let standing = Standing::new(who, inbound, permit);
        let reason = async move {
            workspace.until(|state: &State| no_longer(state, &identity, &standing)).await
        };
        Self(Some(Box::pin(reason)))
    }

    /// For what is never cut so.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Ready when it is to be cut.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Code> {
        let Some(reason) = &mut self.0 else { return Poll::Pending };
        let cut = reason.as_mut().poll(cx);
        if cut.is_ready() {
            self.0 = None;
        }
        cut
    }

    /// What `sending` leads to, unless it is cut before. Pinned by the caller, in whose future there is
    /// room for it once.
    pub(super) async fn over<T>(
        &mut self,
        mut sending: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Refusal> {
        poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Pending => self.poll(cx).map(|code| Err(Refusal::new(code))),
            Poll::Ready(sent) => Poll::Ready(Ok(sent)),
        })
        .await
    }
}
