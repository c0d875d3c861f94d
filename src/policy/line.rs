//! Requests that wait for a limit: those of one agent in the order in which they came, and the agents
//! in turn, so that none waits behind all that another has sent.
//!
//! No clock and no runtime: whoever waits is told when it is first, and when something was given back.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::reference::Name;

/// Who waits for one allowance.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// How many wait, to be seen without the lock by those who come.
    waiting: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The agent whose turn it is in front, each with its requests.
    agents: VecDeque<(Name, VecDeque<u64>)>,
    /// Whom to tell.
    wakers: HashMap<u64, Waker>,
    /// The name of the next to come.
    next: u64,
    /// How often something was given back.
    news: u64,
}

impl Inner {
    fn first(&self) -> Option<u64> {
        self.agents.front()?.1.front().copied()
    }

    /// Takes one out. The turn goes to the next agent when it was the first.
    fn remove(&mut self, agent: &Name, id: u64) {
        self.wakers.remove(&id);
        let was_first = self.first() == Some(id);
        let Some(at) = self.agents.iter().position(|(name, _)| name == agent) else { return };
        let Some((_, own)) = self.agents.get_mut(at) else { return };
        own.retain(|one| *one != id);
        let is_over = own.is_empty();
        if is_over {
            self.agents.remove(at);
        }
        if was_first && !is_over {
            self.agents.rotate_left(1);
        }
    }

    fn wake_first(&mut self) {
        let waker = self.first().and_then(|first| self.wakers.remove(&first));
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// Puts one more request of `agent` at the end; none when as many of it wait as may.
    pub(super) fn join(&self, agent: &Name, most: usize) -> Option<u64> {
        let mut inner = self.inner.lock();
        let id = inner.next;
        match inner.agents.iter_mut().find(|(name, _)| name == agent) {
            Some((_, own)) if own.len() >= most => return None,
            Some((_, own)) => own.push_back(id),
            None => inner.agents.push_back((agent.clone(), VecDeque::from([id]))),
        }
        inner.next += 1;
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Some(id)
    }

    pub(super) fn leave(&self, agent: &Name, id: u64) {
        let mut inner = self.inner.lock();
        inner.remove(agent, id);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        inner.wake_first();
    }

    pub(super) fn is_first(&self, id: u64) -> bool {
        self.inner.lock().first() == Some(id)
    }

    /// Says that something was given back, to whoever is first.
    pub(super) fn tell(&self) {
        if self.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        inner.news += 1;
        inner.wake_first();
    }

    pub(super) fn news(&self) -> u64 {
        self.inner.lock().news
    }

    /// Ready when `id` is first and, for one that knows of `seen` times, when there was another.
    pub(super) fn poll(&self, id: u64, seen: Option<u64>, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock();
        if inner.first() == Some(id) && seen.is_none_or(|seen| seen != inner.news) {
            return Poll::Ready(());
        }
        inner.wakers.insert(id, cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn agents_take_turns_and_each_has_its_own_order() {
        let line = Line::default();
        let (a, b) = (name("a"), name("b"));
        let ids: Vec<u64> = (0..3).map(|_| line.join(&a, 3).unwrap()).collect();
        assert_eq!(line.join(&a, 3), None, "as many of it wait as may");
        let other = line.join(&b, 3).unwrap();
        let mut order = Vec::new();
        for (agent, id) in [(&a, ids[0]), (&b, other), (&a, ids[1]), (&a, ids[2])] {
            assert!(line.is_first(id), "{id}");
            line.leave(agent, id);
            order.push(id);
        }
        assert_eq!(order, [0, 3, 1, 2]);
        assert!(line.is_empty() && line.inner.lock().wakers.is_empty());
    }

    #[test]
    fn whoever_goes_away_makes_room_and_is_never_told() {
        let line = Line::default();
        let a = name("a");
        let (one, two) = (line.join(&a, 8).unwrap(), line.join(&a, 8).unwrap());
        let told = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&told));
        let mut cx = Context::from_waker(&waker);
        assert!(
            line.poll(one, None, &mut cx).is_ready() && line.poll(two, None, &mut cx).is_pending()
        );
        line.leave(&a, one);
        assert_eq!(told.0.load(Ordering::SeqCst), 1, "it is first now");
        assert!(line.poll(two, None, &mut cx).is_ready());
        // Something that is given back between a look and the wait for it is not missed.
        let seen = line.news();
        line.tell();
        assert!(line.poll(two, Some(seen), &mut cx).is_ready());
        assert!(line.poll(two, Some(line.news()), &mut cx).is_pending());
        line.leave(&a, two);
        line.tell();
        assert!(line.is_empty());
        assert_eq!(told.0.load(Ordering::SeqCst), 1);
    }
}
