//! Connections of which nobody knows yet whose they are.
//!
//! Once an agent has shown who it is, its connections have a bound of their own. Before that, nothing tells
//! one client from another, and whoever reaches the port could hold all of `limits.connections` by saying
//! nothing, again and again. So when no place is left, who has been here longest without saying who it is
//! makes room: a client that means to say it does so at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Caller, Place};
use crate::outcome::{Code, Refusal};

/// How long a connection is let be in any case: for its handshake and its first head, over a slow way.
const PATIENCE: Duration = Duration::from_secs(1);

/// All of them, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Lobby(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    came: u64,
    visitors: BTreeMap<u64, (Instant, Option<AbortHandle>)>,
}

impl Lobby {
    /// One more. What ends it is said by [`Lobby::runs_in`], once it runs.
    pub(super) fn enter(self: &Arc<Self>) -> Visitor {
        let mut waiting = self.0.lock();
        let number = waiting.came;
        waiting.came += 1;
        waiting.visitors.insert(number, (Instant::now(), None));
        Visitor { lobby: Arc::clone(self), number, of: Mutex::default() }
    }

    /// Ends the connection that has been here longest, if that is long; and says when to ask again, where
    /// nobody was.
    pub(super) fn dismiss(&self) -> Result<(), Instant> {
        let mut waiting = self.0.lock();
        let now = Instant::now();
        let first = waiting.visitors.first_entry().ok_or(now + PATIENCE)?;
        let ripe = first.get().0 + PATIENCE;
        if ripe > now {
            return Err(ripe);
        }
        let Some(task) = first.get().1.clone() else { return Err(now + PATIENCE) };
        first.remove();
        drop(waiting);
        task.abort();
        Ok(())
    }

    /// Whether it was still there.
    fn leave(&self, number: u64) -> bool {
        self.0.lock().visitors.remove(&number).is_some()
    }

    /// How a visitor's task is ended; nothing for one that has left meanwhile.
    pub(super) fn runs_in(&self, number: u64, task: AbortHandle) {
        if let Some(visitor) = self.0.lock().visitors.get_mut(&number) {
            visitor.1 = Some(task);
        }
    }
}

/// A connection at the proxy port, as long as it asks for no tunnel.
pub(super) struct Visitor {
    lobby: Arc<Lobby>,
    number: u64,
    /// Whose it is, since that agent's first request.
    of: Mutex<Option<Arc<Place>>>,
}

impl Visitor {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Counts the connection as one of the caller's, of whom there may be `limit`, until another agent
    /// speaks on it or it ends.
    ///
    /// # Errors
    /// `overloaded` when the agent has as many as it may, or the connection makes room for another.
    pub(super) fn is_of(&self, caller: &Caller, limit: usize) -> Result<Arc<Place>, Refusal> {
        let mut of = self.of.lock();
        if let Some(place) = of.as_ref().filter(|place| place.is_of(caller)) {
            return Ok(Arc::clone(place));
        }
        let place = Arc::new(caller.workspace.place(&caller.identity.agent, limit)?);
        if of.is_none() && !self.lobby.leave(self.number) {
            // Its task ends with this step: it must not have sent anything in it.
            return Err(Refusal::with_detail(Code::Overloaded, "It makes room for another"));
        }
        *of = Some(Arc::clone(&place));
        Ok(place)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.lobby.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_came_first_makes_room_and_nobody_before_its_time() {
        let lobby = Arc::<Lobby>::default();
        assert_eq!(lobby.dismiss(), Err(Instant::now() + PATIENCE));
        let run = |lobby: &Arc<Lobby>| {
            let visitor = lobby.enter();
            let (lobby, number) = (Arc::clone(lobby), visitor.number());
            let task = tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(visitor);
            });
            lobby.runs_in(number, task.abort_handle());
            task
        };
        let begun = Instant::now();
        let first = run(&lobby);
        tokio::time::sleep(PATIENCE / 2).await;
        let second = run(&lobby);
        assert_eq!(lobby.dismiss(), Err(begun + PATIENCE));
        tokio::time::sleep(PATIENCE / 2).await;
        assert_eq!(lobby.dismiss(), Ok(()));
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(lobby.dismiss(), Err(begun + PATIENCE * 3 / 2));
        assert!(!second.is_finished());
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        assert!(lobby.0.lock().visitors.is_empty(), "who is gone has left");
    }
}
