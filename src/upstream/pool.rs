//! Connections that wait for their next request, or take one more beside those they have.
//!
//! The key holds everything that is bound to a connection, the principal among it: two agents, or
//! one agent with two credentials, never share one, so that what an origin remembers of a connection
//! (NTLM does) is never lent to somebody else. The newest is taken first: the others can age out.
//!
//! HTTP/2 connections are shared by the requests of one key. While one is being opened the others
//! wait for it ([`Opening`]), so that a hundred first requests do not open a hundred. What an origin
//! speaks is remembered, so that nobody waits where nothing can be shared.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::h2::{Multiplex, Seat, Turn};
use super::link::{Link, here};
use crate::host::Origin;
use crate::outcome::Refusal;

/// How many connections wait, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// For one origin and one principal.
    pub per_key: usize,
    /// In all.
    pub total: usize,
    /// How long one may wait. Load balancers close at 60 s (AWS) and web servers at 75 s (nginx);
    /// giving up before they do avoids the race in which a request meets the other side's close. An
    /// origin that says less (`Keep-Alive: timeout=5`) is believed.
    pub idle: Duration,
    /// How long one may live, so that a change of DNS is followed even by a connection that is never
    /// idle.
    pub age: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            per_key: 512,
            total: 2048,
            idle: Duration::from_secs(50),
            age: Duration::from_mins(10),
        }
    }
}

/// Everything that is bound to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolKey {
    /// Of all the others, made once for a request. First, because it tells keys apart soonest.
    hash: u64,
    /// Scheme, host, port.
    pub(super) origin: Origin,
    /// Address override and TLS profile: both belong to the route.
    route: usize,
    /// Who sends, and with which credentials; opaque here.
    pub(super) principal: Arc<str>,
}

impl Hash for PoolKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Hands on the hash that a [`PoolKey`] brings with it.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not reached: a key writes one number. Correct all the same.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

struct Idle {
    link: Box<Link>,
    until: Instant,
}

/// A connection for one request.
pub(super) enum Lane {
    /// HTTP/1.1: the connection itself, until the answer is over.
    Own(Box<Link>),
    /// HTTP/2: a stream of it.
    Shared(Seat),
}

/// Streams of shared connections that other runtimes than their own have, until one of these opens its own: each
/// wakes two threads for what one would do. So many cost about what a handshake does, so that a busy agent
/// has a connection for each thread, and one that asks now and then has one in all.
const LENT: u64 = 64;

/// What there is for one key.
#[derive(Default)]
struct Entry {
    /// Oldest first.
    idle: Vec<Idle>,
    /// Oldest first.
    shared: Vec<Arc<Multiplex>>,
    /// How many streams other runtimes had of these since the last was opened.
    lent: u64,
    opening: Option<Arc<Opening>>,
}

/// Lets one request at a time open a connection that the others may then share.
#[derive(Default)]
pub(super) struct Opening {
    /// How many attempts have failed.
    failures: AtomicU64,
    /// The last failure, and its number.
    turn: Arc<tokio::sync::Mutex<Option<(u64, Refusal)>>>,
}

impl Opening {
    /// Waits for those before.
    ///
    /// # Errors
    /// What an attempt failed with that ended during the wait: it would have failed here too.
    pub(super) async fn turn(&self) -> Result<Turn, Refusal> {
        let before = self.failures.load(Relaxed);
        let turn = Arc::clone(&self.turn).lock_owned().await;
        match &*turn {
            Some((number, refusal)) if *number > before => Err(refusal.clone()),
            _ => Ok(turn),
        }
    }

    /// The turn, if nobody has it.
    pub(super) fn free_turn(&self) -> Option<Turn> {
        Arc::clone(&self.turn).try_lock_owned().ok()
    }

    /// Tells those who wait that there is no connection.
    pub(super) fn failed(&self, mut turn: Turn, refusal: &Refusal) {
        let number = self.failures.fetch_add(1, Relaxed) + 1;
        *turn = Some((number, refusal.clone()));
    }
}

/// What an origin spoke when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
    /// HTTP/2, in which it said that it wants HTTP/1.1.
    Http1Required,
}

/// Origins of which it is remembered what they speak. An agent may go to any number of hosts; what is
/// forgotten costs a wait of one handshake.
const REMEMBERED: usize = 4096;

type Origins = HashMap<(usize, Origin), (Spoken, Instant)>;

#[derive(Default)]
struct Shard {
    entries: HashMap<PoolKey, Entry, BuildHasherDefault<Ready>>,
}

/// What the pool has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Connections opened.
    pub opened: u64,
    /// Requests sent on a connection that had served before.
    pub reused: u64,
    /// Connections that aged out, or died while waiting.
    pub expired: u64,
    /// Requests sent again because their reused connection was dead before a byte had left, or
    /// because their origin said that it had not looked at them.
    pub retried: u64,
    /// Connections that wait now: nobody's request is on them.
    pub idle: usize,
}

#[derive(Default)]
struct Counters {
    opened: AtomicU64,
    reused: AtomicU64,
    expired: AtomicU64,
    retried: AtomicU64,
    idle: AtomicUsize,
}

/// How many locks the waiting connections are spread over, so that cores do not queue for one.
const SHARDS: usize = 16;

/// The waiting connections, in shards. All of one key are in one shard, so the bounds are counted
/// over the whole pool and not by shard. No lock is held across an await, and never two at once.
pub(super) struct Pool {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    limits: PoolLimits,
    /// Where the next connection is looked for that has to go for a newer one.
    evict_from: AtomicUsize,
    origins: Mutex<Origins>,
    counters: Counters,
}

impl Pool {
    pub(super) fn new(limits: PoolLimits) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            limits,
            evict_from: AtomicUsize::new(0),
            origins: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// The key of a connection to `origin` over `route` for `principal`. The hash is keyed at
    /// random, so that nobody can choose names that fall together.
    pub(super) fn key(&self, origin: &Origin, route: usize, principal: &Arc<str>) -> PoolKey {
        PoolKey {
            hash: self.hasher.hash_one((origin, route, principal)),
            origin: origin.clone(),
            route,
            principal: principal.clone(),
        }
    }

    fn shard(&self, key: &PoolKey) -> &Mutex<Shard> {
        // The middle bits: the shard's own map uses the low and the topmost ones.
        let [_, _, _, _, bits, ..] = key.hash.to_le_bytes();
        &self.shards[usize::from(bits) % SHARDS]
    }

    /// A stream of a shared connection, or the newest waiting one that is alive; the dead ones before it are
    /// dropped. Without `links`, streams only.
    pub(super) fn take(&self, key: &PoolKey, links: bool) -> Option<Lane> {
        let now = Instant::now();
        loop {
            let mut idle = match self.shard(key).lock().take(key, links, now, &self.limits)? {
                Taken::Seat(seat) => {
                    self.counters.reused.fetch_add(u64::from(seat.reused), Relaxed);
                    return Some(Lane::Shared(seat));
                }
                Taken::Idle(idle) => idle,
            };
            self.counters.idle.fetch_sub(1, Relaxed);
            // Looked at where it was: a socket that has just moved has heard of nothing yet, a close
            // among it, and a request would be lost on it.
            if idle.until > now && idle.link.is_alive() {
                idle.link.adopt();
                self.counters.reused.fetch_add(1, Relaxed);
                return Some(Lane::Own(idle.link));
            }
            self.counters.expired.fetch_add(1, Relaxed);
        }
    }

    /// A stream of a shared connection whose origin takes a WebSocket on it.
    pub(super) fn socket_seat(&self, key: &PoolKey) -> Option<Seat> {
        let mut shard = self.shard(key).lock();
        let entry = shard.entries.get_mut(key)?;
        let now = Instant::now();
        entry.shared.retain(|connection| !is_over(connection, now, &self.limits));
        let mut able = entry.shared.iter().rev().filter(|connection| connection.takes_sockets());
        let seat = able.find_map(Multiplex::seat)?;
        self.counters.reused.fetch_add(1, Relaxed);
        Some(seat)
    }

    /// Keeps a connection that is ready for its next request. `wait` is how long the origin said
    /// that it keeps it, if it did.
    pub(super) fn put(&self, key: PoolKey, link: Box<Link>, wait: Option<Duration>) {
        let now = Instant::now();
        let idle = wait.map_or(self.limits.idle, |wait| wait.min(self.limits.idle));
        let until = (now + idle).min(link.opened() + self.limits.age);
        if until <= now || !self.keeps() {
            return;
        }
        let new = Idle { link, until };
        let evicted = self.shard(&key).lock().push(key, new, self.limits.per_key);
        if evicted.is_some() {
            self.counters.expired.fetch_add(1, Relaxed);
        } else if self.counters.idle.fetch_add(1, Relaxed) >= self.limits.total {
            self.evict();
        }
    }

    /// Lets others use a connection too. A pool that keeps nothing shares nothing.
    pub(super) fn share(&self, key: &PoolKey, connection: Arc<Multiplex>) {
        if self.keeps() {
            let mut shard = self.shard(key).lock();
            let entry = shard.entries.entry(key.clone()).or_default();
            entry.shared.push(connection);
            // For the next runtime that has none.
            entry.lent = 0;
        }
    }

    fn keeps(&self) -> bool {
        self.limits.per_key > 0 && self.limits.total > 0
    }

    /// Where the key's requests wait while one of them opens a connection.
    pub(super) fn opening(&self, key: &PoolKey) -> Arc<Opening> {
        let mut shard = self.shard(key).lock();
        let entry = shard.entries.entry(key.clone()).or_default();
        Arc::clone(entry.opening.get_or_insert_default())
    }

    /// What the key's origin spoke last.
    pub(super) fn spoken(&self, key: &PoolKey) -> Option<Spoken> {
        let known = (key.route, key.origin.clone());
        self.origins.lock().get(&known).map(|(spoken, _)| *spoken)
    }

    /// Has the key's requests go over HTTP/1.1 from now on.
    pub(super) fn require_http1(&self, key: &PoolKey) {
        self.spoke(key, Spoken::Http1Required);
        if let Some(entry) = self.shard(key).lock().entries.get_mut(key) {
            entry.shared.clear();
        }
    }

    /// Remembers it.
    pub(super) fn spoke(&self, key: &PoolKey, spoken: Spoken) {
        let mut origins = self.origins.lock();
        if origins.len() >= REMEMBERED {
            origins.clear();
        }
        origins.insert((key.route, key.origin.clone()), (spoken, Instant::now()));
    }

    /// Drops the oldest connection of one shard. Each time of another, so that no key is safe from
    /// a flood of others, and none suffers alone.
    fn evict(&self) {
        let start = self.evict_from.fetch_add(1, Relaxed);
        let evicted =
            (0..SHARDS).find_map(|i| self.shards[(start + i) % SHARDS].lock().remove_oldest());
        if evicted.is_some() {
            self.counters.idle.fetch_sub(1, Relaxed);
            self.counters.expired.fetch_add(1, Relaxed);
        }
    }

    /// Drops what has aged out or was closed by its origin. To be called every few seconds: nothing
    /// else looks at a connection that nobody asks for.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let (dead, retired) = shard.lock().remove_dead(now, &self.limits);
            self.counters.idle.fetch_sub(dead.len(), Relaxed);
            self.counters.expired.fetch_add((dead.len() + retired.len()) as u64, Relaxed);
        }
        let age = self.limits.age;
        self.origins.lock().retain(|_, (_, when)| now.duration_since(*when) < age);
    }

    /// Drops all: the proxy stops, or its configuration changed. Shared connections live on until
    /// their last answer.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let dropped = std::mem::take(&mut *shard.lock());
            let count = dropped.entries.values().map(|entry| entry.idle.len()).sum();
            self.counters.idle.fetch_sub(count, Relaxed);
        }
    }

    pub(super) fn count_opened(&self) {
        self.counters.opened.fetch_add(1, Relaxed);
    }

    pub(super) fn count_retried(&self) {
        self.counters.retried.fetch_add(1, Relaxed);
    }

    pub(super) fn counts(&self) -> PoolCounts {
        let unused: usize = self.shards.iter().map(|shard| shard.lock().unused()).sum();
        PoolCounts {
            opened: self.counters.opened.load(Relaxed),
            reused: self.counters.reused.load(Relaxed),
            expired: self.counters.expired.load(Relaxed),
            retried: self.counters.retried.load(Relaxed),
            idle: self.counters.idle.load(Relaxed) + unused,
        }
    }
}

/// What a shard has for a request.
enum Taken {
    Seat(Seat),
    Idle(Idle),
}

impl Shard {
    fn take(
        &mut self,
        key: &PoolKey,
        links: bool,
        now: Instant,
        limits: &PoolLimits,
    ) -> Option<Taken> {
        // An empty entry stays for the next check-in; the sweep removes it.
        let entry = self.entries.get_mut(key)?;
        if let Some(seat) = entry.seat(now, limits) {
            return Some(Taken::Seat(seat));
        }
        if !links {
            return None;
        }
        // One of this runtime's own, so that its socket need not move; another rather than none.
        let own = entry.idle.iter().rposition(|idle| idle.link.home() == here());
        let at = own.or_else(|| entry.idle.len().checked_sub(1))?;
        Some(Taken::Idle(entry.idle.remove(at)))
    }

    /// Adds one, and gives back the key's oldest when it had to go for it.
    fn push(&mut self, key: PoolKey, new: Idle, per_key: usize) -> Option<Idle> {
        let list = &mut self.entries.entry(key).or_default().idle;
        let evicted = (list.len() >= per_key).then(|| list.remove(0));
        list.push(new);
        evicted
    }

    fn remove_oldest(&mut self) -> Option<Idle> {
        let lists = self.entries.values_mut().map(|entry| &mut entry.idle);
        let oldest = lists
            .filter(|list| !list.is_empty())
            .min_by_key(|list| list.first().map(|idle| idle.until))?;
        Some(oldest.remove(0))
    }

    fn remove_dead(
        &mut self,
        now: Instant,
        limits: &PoolLimits,
    ) -> (Vec<Idle>, Vec<Arc<Multiplex>>) {
        let (mut dead, mut retired) = (Vec::new(), Vec::new());
        self.entries.retain(|_, entry| {
            let over = |idle: &mut Idle| idle.until <= now || !idle.link.is_alive();
            dead.extend(entry.idle.extract_if(.., over));
            let waited = |c: &Multiplex| c.idle_since().is_some_and(|t| t + limits.idle <= now);
            let over = |c: &mut Arc<Multiplex>| is_over(c, now, limits) || waited(c);
            retired.extend(entry.shared.extract_if(.., over));
            // Somebody who opens a connection holds on to where the others wait.
            let opening = entry.opening.as_ref().is_some_and(|o| Arc::strong_count(o) > 1);
            opening || !(entry.idle.is_empty() && entry.shared.is_empty())
        });
        (dead, retired)
    }

    /// Shared connections without a stream.
    fn unused(&self) -> usize {
        let shared = self.entries.values().flat_map(|entry| &entry.shared);
        shared.filter(|c| c.load() == 0 && !c.is_closing()).count()
    }
}

impl Entry {
    /// A stream of the newest connection of this runtime that has one; or of another's, see [`LENT`]. When
    /// all are full and there may be no more of them, a place in the shortest queue.
    fn seat(&mut self, now: Instant, limits: &PoolLimits) -> Option<Seat> {
        if self.shared.is_empty() {
            return None;
        }
        self.shared.retain(|connection| !is_over(connection, now, limits));
        let (here, may_grow) = (here(), self.shared.len() < limits.per_key);
        let own = |connection: &&Arc<Multiplex>| connection.home() == here;
        let mut newest = self.shared.iter().rev();
        if let Some(seat) = newest.clone().filter(own).find_map(Multiplex::seat) {
            return Some(seat);
        }
        let mut seat = newest.find_map(Multiplex::seat);
        if let Some(seat) = &mut seat
            && may_grow
            && !self.shared.iter().any(|connection| own(&connection))
        {
            self.lent += 1;
            seat.wants_own = self.lent > LENT;
            // One that comes to nothing is not tried again for each request.
            self.lent %= LENT + 1;
        }
        if seat.is_some() || may_grow {
            return seat;
        }
        self.shared.iter().min_by_key(|connection| connection.load()).map(Multiplex::queue)
    }
}

/// Whether a connection takes no more streams. It ends with those that it has.
fn is_over(connection: &Multiplex, now: Instant, limits: &PoolLimits) -> bool {
    connection.is_closing() || connection.opened() + limits.age <= now
}
