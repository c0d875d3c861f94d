//! Connections that wait for their next request.
//!
//! The key holds everything that is bound to a connection, the principal among it: two agents, or
//! one agent with two credentials, never share one, so that what an origin remembers of a connection
//! (NTLM does) is never lent to somebody else. The newest is taken first: the others can age out.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::link::Link;
use crate::host::Origin;

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
#[derive(Debug, PartialEq, Eq)]
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

#[derive(Default)]
struct Shard {
    /// Oldest first.
    idle: HashMap<PoolKey, Vec<Idle>, BuildHasherDefault<Ready>>,
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
    /// Requests sent again because their reused connection was dead before a byte had left.
    pub retried: u64,
    /// Connections that wait now.
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
    counters: Counters,
}

impl Pool {
    pub(super) fn new(limits: PoolLimits) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            limits,
            evict_from: AtomicUsize::new(0),
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

    /// The newest connection for the key that is alive; the dead ones before it are dropped.
    pub(super) fn take(&self, key: &PoolKey) -> Option<Box<Link>> {
        let now = Instant::now();
        loop {
            let mut idle = self.shard(key).lock().pop(key)?;
            self.counters.idle.fetch_sub(1, Relaxed);
            if idle.until > now && idle.link.is_alive() {
                self.counters.reused.fetch_add(1, Relaxed);
                return Some(idle.link);
            }
            self.counters.expired.fetch_add(1, Relaxed);
        }
    }

    /// Keeps a connection that is ready for its next request. `wait` is how long the origin said
    /// that it keeps it, if it did.
    pub(super) fn put(&self, key: PoolKey, link: Box<Link>, wait: Option<Duration>) {
        let now = Instant::now();
        let idle = wait.map_or(self.limits.idle, |wait| wait.min(self.limits.idle));
        let until = (now + idle).min(link.opened() + self.limits.age);
        if until <= now || self.limits.per_key == 0 || self.limits.total == 0 {
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
            let dead = shard.lock().remove_dead(now);
            self.counters.idle.fetch_sub(dead.len(), Relaxed);
            self.counters.expired.fetch_add(dead.len() as u64, Relaxed);
        }
    }

    /// Drops all: the proxy stops, or its configuration changed.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let dropped = std::mem::take(&mut *shard.lock());
            let count = dropped.idle.values().map(Vec::len).sum();
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
        PoolCounts {
            opened: self.counters.opened.load(Relaxed),
            reused: self.counters.reused.load(Relaxed),
            expired: self.counters.expired.load(Relaxed),
            retried: self.counters.retried.load(Relaxed),
            idle: self.counters.idle.load(Relaxed),
        }
    }
}

impl Shard {
    fn pop(&mut self, key: &PoolKey) -> Option<Idle> {
        // An empty list stays for the next check-in; the sweep removes it.
        self.idle.get_mut(key)?.pop()
    }

    /// Adds one, and gives back the key's oldest when it had to go for it.
    fn push(&mut self, key: PoolKey, new: Idle, per_key: usize) -> Option<Idle> {
        let list = self.idle.entry(key).or_default();
        let evicted = (list.len() >= per_key).then(|| list.remove(0));
        list.push(new);
        evicted
    }

    fn remove_oldest(&mut self) -> Option<Idle> {
        let oldest = self
            .idle
            .values_mut()
            .filter(|list| !list.is_empty())
            .min_by_key(|list| list.first().map(|idle| idle.until))?;
        Some(oldest.remove(0))
    }

    fn remove_dead(&mut self, now: Instant) -> Vec<Idle> {
        let mut dead = Vec::new();
        self.idle.retain(|_, list| {
            dead.extend(list.extract_if(.., |idle| idle.until <= now || !idle.link.is_alive()));
            !list.is_empty()
        });
        dead
    }
}
