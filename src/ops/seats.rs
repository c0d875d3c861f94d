//! Places for connections where few are to be: one that has nothing to say yields to one that comes.
//!
//! Anybody who reaches a port can open as many connections as there are places and say nothing. So a
//! connection holds its place for good only while a request of it is being answered.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// From the start of a connection to the end of its first head: a scraper and a person's tool send it at once.
const FIRST_HEAD: Duration = Duration::from_secs(5);

/// As many as there may be at once.
pub(crate) struct Seats {
    most: usize,
    open: Mutex<Open>,
    freed: Notify,
}

#[derive(Default)]
struct Open {
    count: usize,
    next: u64,
    /// Those of which no request is being answered, the one that has said nothing for longest first.
    silent: BTreeMap<u64, Arc<Notify>>,
}

impl Open {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Seats {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default(), freed: Notify::new() })
    }

    /// A place for a connection that was accepted. Over the bound it waits for one that is asked to go, or if all
    /// are being answered for the first that is done.
    pub(crate) async fn take(self: &Arc<Self>) -> Seat {
        loop {
            let freed = self.freed.notified();
            if let Some(seat) = self.free() {
                return seat;
            }
            freed.await;
        }
    }

    /// A place if there is one; else the one that is to be free soon is told.
    fn free(self: &Arc<Self>) -> Option<Seat> {
        let mut open = self.open.lock();
        if open.count >= self.most {
            if let Some((_, leave)) = open.silent.pop_first() {
                leave.notify_one();
            }
            return None;
        }
        open.count += 1;
        let (at, leave) = (open.number(), Arc::new(Notify::new()));
        open.silent.insert(at, Arc::clone(&leave));
        let state = Mutex::new(State { at, turns: 0, spoke: false });
        Some(Seat { seats: Arc::clone(self), leave, state })
    }
}

/// The place of one connection. Given back on drop.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    leave: Arc<Notify>,
    state: Mutex<State>,
}

struct State {
    at: u64,
    /// Requests that are being answered.
    turns: usize,
    spoke: bool,
}

impl Seat {
    /// Goes on with the connection for as long as it has its place. None when that was lost.
    pub(crate) async fn during<T>(&self, talk: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = talk => Some(done),
            () = self.lost() => None,
        }
    }

    async fn lost(&self) {
        let silent = async {
            tokio::time::sleep(FIRST_HEAD).await;
            if self.state.lock().spoke {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.leave.notified() => {}
            () = silent => {}
        }
    }

    /// A request of the connection is being answered until the result is dropped.
    pub(crate) fn turn(self: &Arc<Self>) -> Turn {
        let mut state = self.state.lock();
        state.spoke = true;
        state.turns += 1;
        self.seats.open.lock().silent.remove(&state.at);
        Turn(Arc::clone(self))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.seats.open.lock();
        open.count -= 1;
        open.silent.remove(&self.state.get_mut().at);
        drop(open);
        self.seats.freed.notify_one();
    }
}

/// A request that is being answered.
pub(crate) struct Turn(Arc<Seat>);

impl Drop for Turn {
    fn drop(&mut self) {
        let Seat { seats, leave, state } = &*self.0;
        let mut state = state.lock();
        state.turns -= 1;
        if state.turns == 0 {
            let mut open = seats.open.lock();
            state.at = open.number();
            open.silent.insert(state.at, Arc::clone(leave));
        }
    }
}
