//! Memory for the bodies that are read before they are sent: how much there is, and what each has of it.
//!
//! One body has a bound of its own, and a client that sends many at once has none by that. What is taken is
//! counted as it comes, because an agent that announces much and sends nothing shall keep nobody out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Caller, Gateway, Workspace};
use crate::outcome::{Code, Refusal};
use crate::reference::Name;

/// How much more is taken at a time: what nearly all such bodies fit into, so that they ask once.
const STEP: usize = 16 << 10;

/// When it is worth to ask again: a body is held until its request has left, which is no time at all, unless
/// somebody sends slowly.
const AGAIN: Duration = Duration::from_secs(1);

/// Whose bodies are counted.
#[derive(Clone)]
pub(super) struct Purse {
    gateway: Arc<Gateway>,
    workspace: Arc<Workspace>,
    agent: Name,
}

/// What one body has. Given back on drop.
pub(super) struct Held {
    purse: Purse,
    bytes: usize,
}

/// What there is no more room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All that there is.
    All,
    /// The agent's share.
    Share,
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        let detail = match full {
            Full::All => {
                "The bodies that the proxy holds in memory are as many as they may be (limits.bodies)"
            }
            Full::Share => {
                "This agent's bodies that the proxy holds in memory are as many as they may be (limits.bodies_per_agent)"
            }
        };
        let refusal = Self::with_detail(Code::Overloaded, detail);
        Self { retry_after: Some(AGAIN), ..refusal }
    }
}

impl Purse {
    pub(super) fn of(gateway: &Arc<Gateway>, caller: &Caller) -> Self {
        Self {
            gateway: Arc::clone(gateway),
            workspace: Arc::clone(&caller.workspace),
            agent: caller.identity.agent.clone(),
        }
    }

    /// A place for a body of which nothing has come.
    pub(super) fn open(&self) -> Held {
        Held { purse: self.clone(), bytes: 0 }
    }
}

impl Held {
    /// Makes room for a body of `bytes`.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let more = (bytes - self.bytes).next_multiple_of(STEP);
        let Purse { gateway, workspace, agent } = &self.purse;
        take(&gateway.bodies, more, gateway.limits.bodies).ok_or(Full::All)?;
        if !workspace.takes(agent, more, gateway.limits.bodies_per_agent) {
            gateway.bodies.fetch_sub(more, Ordering::Relaxed);
            return Err(Full::Share);
        }
        gateway.metrics.body_grew(more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let Purse { gateway, workspace, agent } = &self.purse;
            gateway.bodies.fetch_sub(self.bytes, Ordering::Relaxed);
            workspace.gives_back(agent, self.bytes);
            gateway.metrics.body_gone(self.bytes);
        }
    }
}

fn take(taken: &AtomicUsize, more: usize, most: usize) -> Option<usize> {
    let next = |now: usize| now.checked_add(more).filter(|then| *then <= most);
    taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()
}
