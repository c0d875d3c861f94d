//! Requests that wait for a limit of their rule, where it says that they do.
//!
//! A request that waits has opened no secret and reached nobody. It gives its place up when its agent
//! goes away, because this future is dropped then, and what was decided before the wait is asked again
//! after it.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::withdrawal::still_stands;
use super::{Gateway, Workspace};
use crate::agent::Identity;
use crate::metrics::Queued;
use crate::outcome::{Measure, Refusal};
use crate::policy::{Met, Permit, Ticket, Waiting};
use crate::reference::Name;
use crate::request::InboundRequest;

/// Lets a request in by the limits of its rule: at once, or when it is its turn.
///
/// # Errors
/// `rate-limited`; and what the rules say after the wait, if they have changed in it.
pub(super) async fn admitted(
    (gateway, workspace): (&Arc<Gateway>, &Workspace),
    (who, inbound): (&Arc<Identity>, &InboundRequest),
    permit: &Permit,
) -> Result<Option<Arc<Ticket>>, Refusal> {
    let met = match permit.admit(&who.agent, gateway.elapsed(), None) {
        Ok(ticket) => return Ok(ticket),
        Err(met) => met,
    };
    if met.queue().is_none() {
        return Err(met.refusal);
    }
    // In a box: few wait, and all would have to have room for it.
    let ticket = Box::pin(waited(gateway, &who.agent, permit, met)).await?;
    let allowed = still_stands(workspace, (who, inbound), permit);
    if let (Err(_), Some(ticket)) = (&allowed, &ticket) {
        ticket.give_back();
    }
    allowed.map(|_| ticket)
}

async fn waited(
    gateway: &Gateway,
    agent: &Name,
    permit: &Permit,
    mut met: Box<Met>,
) -> Result<Option<Arc<Ticket>>, Refusal> {
    let account = Account::open(gateway);
    let start = Instant::now();
    let mut place: Option<Waiting> = None;
    loop {
        let Some(queue) = met.queue() else { return account.refused(met.refusal) };
        let until = start + queue.wait;
        let back = back(&met);
        // None where as many of the agent's wait as may.
        let Some(mut waiting) = met.wait(agent, place.take()) else {
            return account.refused(met.refusal);
        };
        let look = if waiting.has_looked() { back.unwrap_or(until).min(until) } else { until };
        let turn = timeout_at(look, poll_fn(|cx| waiting.poll_turn(cx))).await;
        if turn.is_err() && !waiting.is_first() {
            return account.refused(met.refusal);
        }
        waiting.looks();
        match permit.admit(agent, gateway.elapsed(), Some(&waiting)) {
            Ok(ticket) => {
                account.end(Queued::Admitted);
                return Ok(ticket);
            }
            Err(again) => met = again,
        }
        // What is known to be in vain is not waited for.
        let in_vain = self::back(&met).is_some_and(|back| back > until);
        if in_vain || Instant::now() >= until {
            return account.refused(met.refusal);
        }
        place = Some(waiting);
    }
}

/// When a limit lets somebody in again, where a clock knows it. Of places that become free, those tell
/// who leave them.
fn back(met: &Met) -> Option<Instant> {
    let quota = met.refusal.quota.as_ref().filter(|quota| quota.what != Measure::Concurrent)?;
    Some(Instant::now() + quota.wait)
}

/// One that waits, in the numbers. It went away unless it ended otherwise.
struct Account<'g>(&'g Gateway, Queued);

impl<'g> Account<'g> {
    fn open(gateway: &'g Gateway) -> Self {
        gateway.metrics.queue_joined();
        Self(gateway, Queued::Gone)
    }

    fn end(mut self, how: Queued) {
        self.1 = how;
    }

    fn refused<T>(self, refusal: Refusal) -> Result<T, Refusal> {
        self.end(Queued::Refused);
        Err(refusal)
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        self.0.metrics.queue_left(self.1);
    }
}
