//! The proxy: the only place that knows the order of the steps.
//!
//! A connection is accepted ([`listener`]), its CONNECT authenticated and answered ([`tunnel`]), and
//! each request in it ([`inside`]) taken through the steps of [`exchange`]. All of it works on one immutable
//! [`State`] per request, that of the agent's [`Workspace`], so a reload acts on the next request and never
//! within one.

mod approval;
mod asked;
mod body;
mod breaker;
mod calling;
mod captured;
mod closed;
mod complaint;
mod copy;
mod date;
mod distrust;
mod errand;
mod exchange;
mod expect;
mod failures;
mod habits;
mod handed;
mod held;
mod http1;
mod http2;
mod incoming;
mod inside;
mod interim;
mod ledger;
mod linger;
mod listener;
mod lobby;
mod queue;
mod refusal;
mod retry;
mod runs;
mod signal;
mod socket;
mod spares;
#[cfg(target_os = "linux")]
mod splice;
mod stream;
mod supplied;
mod tunnel;
mod unread;
mod withdrawal;
mod workspace;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

pub use body::Body;
pub use breaker::BreakerRule;
pub use closed::serve_closed;
pub use distrust::{Client, EVENT as DISTRUST_EVENT};
pub use errand::{Errand, Reply, run_errand};
pub use habits::EVENT as ANOMALY_EVENT;
pub use listener::{Entrance, Leave, Listener, serve};
pub use workspace::{Workspace, Workspaces};

use failures::Failures;
use listener::Doorkeeper;
use workspace::Place;

use crate::agent::Identity;
use crate::agent::certificate::ClientCertificate;
use crate::anomaly::{Baseline, Baselines};
use crate::approval::Approvals;
use crate::authn::Authenticators;
use crate::credential::{Credential, CredentialIndex};
use crate::metrics::Metrics;
use crate::outcome::{Code, Refusal};
use crate::policy::{Policy, Ticket};
use crate::record::{AuditSink, Peer, RequestId};
use crate::reference::Name;
use crate::secret::Secret;
use crate::supply::{Keep, Supply};
use crate::tls::LeafCache;
use crate::upstream::Upstream;
use crate::vault::{Snapshot, VaultError};

/// Everything that a decision depends on, at one moment.
pub struct State {
    /// The rules.
    pub policy: Arc<Policy>,
    /// Which load of the policy this is.
    pub generation: u64,
    /// What requests may refer to.
    pub credentials: Arc<CredentialIndex>,
    /// Who is who.
    pub authn: Authenticators,
    /// The sealed secrets; none when the vault cannot be used.
    pub sealed: Option<Arc<Snapshot>>,
}

impl State {
    /// What stands in a request for a credential: its secret, or the text of a value.
    ///
    /// # Errors
    /// `vault-unavailable`, `vault-corrupt`.
    pub fn value(&self, credential: &Credential, version: u32) -> Result<Secret, Refusal> {
        match credential.as_text().filter(|_| self.sealed.is_some()) {
            Some(text) => Ok(Secret::new(text.as_bytes().to_vec())),
            None => self.open(&credential.name, version),
        }
    }

    /// Opens one version of a credential.
    ///
    /// # Errors
    /// `vault-unavailable`, `vault-corrupt`.
    pub fn open(&self, credential: &Name, version: u32) -> Result<Secret, Refusal> {
        let sealed = self.sealed.as_ref();
        let sealed = sealed.ok_or_else(|| Refusal::new(Code::VaultUnavailable))?;
        sealed.open(credential, version).map_err(|error| corrupt(credential, version, &error))
    }
}

fn corrupt(credential: &Name, version: u32, error: &VaultError) -> Refusal {
    tracing::error!(%credential, version, %error, "a sealed secret does not open");
    Refusal::new(Code::VaultCorrupt)
}

/// Looks for changes of the vault now, rather than at the next poll.
pub trait Refresh: Send + Sync {
    /// Returns when a look that began after the call is over. True when it is worth asking again;
    /// bounded in how often it really looks.
    fn refresh(self: Arc<Self>) -> Pin<Box<dyn Future<Output = bool> + Send>>;
}

/// Times and counts that bound what a client can take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections from agents, open at once.
    pub connections: usize,
    /// Of these, those of one agent.
    pub connections_per_agent: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Bytes of a request's target.
    pub url_bytes: usize,
    /// Bytes of a body that a credential may enter.
    pub body_slot: usize,
    /// Bytes of all bodies that are read before they are sent, at once.
    pub bodies: usize,
    /// The same, of one agent.
    pub bodies_per_agent: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Streams of one HTTP/2 connection, open at once.
    pub streams: u32,
    /// From the first byte of a head to its last; on a new connection, from its start.
    pub head_time: Duration,
    /// For the TLS handshake with the agent.
    pub handshake: Duration,
    /// How long the answer to a caller that fails to show who it is waits at most.
    pub failure_delay: Duration,
    /// How long an intercepted tunnel may say nothing between two requests.
    pub idle_tunnel: Duration,
    /// How long an agent may take nothing of an answer.
    pub idle_reader: Duration,
    /// How long an agent's HTTP/2 connection may say nothing before it is asked whether it lives.
    pub ping_after: Duration,
}

impl Limits {
    /// Of a connection of HTTP/1.1 that may say nothing for `idle` between two requests.
    fn bounds(&self, idle: Duration, half_close: bool) -> http1::Bounds {
        http1::Bounds {
            head_bytes: self.head_bytes,
            headers: self.headers,
            clocks: http1::Clocks { head: self.head_time, unread: self.idle_reader },
            idle,
            half_close,
        }
    }
}

/// What all connections share.
pub struct Gateway {
    default: Arc<Workspace>,
    workspaces: ArcSwap<Workspaces>,
    leaves: ArcSwap<LeafCache>,
    upstream: ArcSwap<Upstream>,
    audit: Arc<dyn AuditSink>,
    metrics: Arc<Metrics>,
    limits: Limits,
    refresh: std::sync::OnceLock<Arc<dyn Refresh>>,
    supply: std::sync::OnceLock<Arc<dyn Supply>>,
    keep: std::sync::OnceLock<Arc<dyn Keep>>,
    approvals: std::sync::OnceLock<Arc<dyn Approvals>>,
    baselines: std::sync::OnceLock<Arc<Baselines>>,
    strangers: Bound,
    failures: Failures,
    runs: runs::Runs,
    budgets: retry::Budgets,
    breakers: breaker::Breakers,
    doorkeeper: Doorkeeper,
    /// Bytes of bodies that are held in memory.
    bodies: AtomicUsize,
    unopened: supplied::Unopened,
    /// Where the time of limits begins.
    start: Instant,
}

impl Gateway {
    /// Puts the parts together.
    ///
    /// # Panics
    /// Without a workspace: every home has the default one.
    #[must_use]
    pub fn new(
        workspaces: Workspaces,
        leaves: LeafCache,
        upstream: Upstream,
        audit: Arc<dyn AuditSink>,
        metrics: Arc<Metrics>,
        limits: Limits,
    ) -> Self {
        let default = workspaces.iter().next().expect("every home has the default workspace");
        Self {
            default: Arc::clone(default),
            workspaces: ArcSwap::from_pointee(workspaces),
            leaves: ArcSwap::from_pointee(leaves),
            upstream: ArcSwap::from_pointee(upstream),
            audit,
            metrics,
            limits,
            refresh: std::sync::OnceLock::new(),
            supply: std::sync::OnceLock::new(),
            keep: std::sync::OnceLock::new(),
            approvals: std::sync::OnceLock::new(),
            baselines: std::sync::OnceLock::new(),
            strangers: Bound::default(),
            failures: Failures::new(limits.failure_delay),
            runs: runs::Runs::default(),
            budgets: retry::Budgets::default(),
            breakers: breaker::Breakers::default(),
            doorkeeper: Doorkeeper::new(limits.connections),
            bodies: AtomicUsize::new(0),
            unopened: supplied::Unopened::default(),
            start: Instant::now(),
        }
    }

    /// Says who looks for changes on request. Only the first call counts.
    pub fn refresh_with(&self, refresh: Arc<dyn Refresh>) {
        let _already_set = self.refresh.set(refresh);
    }

    /// Says who makes values that are not in the vault. Only the first call counts.
    pub fn supply_with(&self, supply: Arc<dyn Supply>) {
        let _already_set = self.supply.set(supply);
    }

    /// Says who keeps tokens that origins mint. Only the first call counts.
    pub fn keep_with(&self, keep: Arc<dyn Keep>) {
        let _already_set = self.keep.set(keep);
    }

    /// Says where questions to people are kept. Only the first call counts.
    pub fn ask_with(&self, approvals: Arc<dyn Approvals>) {
        let _already_set = self.approvals.set(approvals);
    }

    /// Says what agents usually do, to tell what they do not. Only the first call counts.
    pub fn compare_with(&self, baselines: Arc<Baselines>) {
        let _already_set = self.baselines.set(baselines);
    }

    /// With which versions the runs began that were seen: for a later process, which recalls it. None
    /// when there was no run.
    #[must_use]
    pub fn runs(&self) -> Option<Vec<u8>> {
        self.runs.save()
    }

    /// Goes on with what an earlier process knew of its runs, before the first request. False for bytes
    /// that are not of [`Gateway::runs`].
    pub fn recall_runs(&self, bytes: &[u8]) -> bool {
        self.runs.recall(bytes)
    }

    /// The far side.
    #[must_use]
    pub fn upstream(&self) -> Arc<Upstream> {
        self.upstream.load_full()
    }

    /// Replaces the far side: new calls take the new one.
    pub fn set_upstream(&self, mut upstream: Upstream) {
        upstream.succeed(&self.upstream.load());
        self.upstream.store(Arc::new(upstream));
    }

    /// Says when destinations that fail are left alone from now on; without a rule, never.
    pub fn break_by(&self, rule: Option<BreakerRule>) {
        self.breakers.set(rule);
    }

    /// The leaf certificates.
    #[must_use]
    pub fn leaves(&self) -> Arc<LeafCache> {
        self.leaves.load_full()
    }

    /// How many connections of agents there are now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.doorkeeper.open()
    }

    /// The numbers.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The time of limits: it never goes back, and nobody can set it.
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Charges what a socket or a tunnel has moved so far, and says when that is more than its rule
    /// lets it. A request that was let in is finished; these might never be.
    fn over_limit(&self, ticket: Option<&Ticket>, up: u64, down: u64) -> Option<Code> {
        let ticket = ticket?;
        ticket.charge(up, down, self.elapsed());
        ticket.is_spent(self.elapsed()).then_some(Code::RateLimited)
    }

    async fn look_again(&self) -> bool {
        match self.refresh.get() {
            Some(refresh) => Arc::clone(refresh).refresh().await,
            None => false,
        }
    }
}

/// Refusals of unknown clients that are recorded each second. More than a person mistypes, and less
/// than fills a disk: under 1 GiB a month.
const STRANGERS_EACH_SECOND: u64 = 10;

/// Lets so many through in each second. The second and the count share one word.
#[derive(Debug, Default)]
struct Bound(AtomicU64);

impl Bound {
    fn admits(&self) -> bool {
        let second = unix_now().unsigned_abs() << 16;
        let next = |word: u64| Some(if word >> 16 == second >> 16 { word + 1 } else { second + 1 });
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let word = before.unwrap_or(second);
        word >> 16 != second >> 16 || word & 0xffff < STRANGERS_EACH_SECOND
    }
}

/// Seconds since the Unix epoch.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A fresh request id. Random bytes are drawn from the system many at a time.
pub(crate) fn request_id() -> RequestId {
    const DRAW: usize = 640;
    thread_local! {
        static POOL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut id = [0; 16];
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).to_be_bytes();
    id[..6].copy_from_slice(&millis[2..]);
    POOL.with_borrow_mut(|pool| {
        if pool.len() < 10 {
            pool.resize(DRAW, 0);
            // Ids name requests and protect nothing: should the system have no randomness, they
            // are only less unlikely to repeat.
            if getrandom::fill(pool).is_err() {
                pool.fill(millis[7]);
            }
        }
        let rest = pool.len() - 10;
        id[6..].copy_from_slice(&pool[rest..]);
        pool.truncate(rest);
    });
    RequestId(id)
}

/// The agent's end of a connection, as it was before anything was said on it.
#[derive(Clone, Debug)]
pub struct Near {
    /// Where it is.
    pub peer: Peer,
    /// The certificate that it showed at the door.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// Who is at the other end of a connection, and how we know.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where the connection came from.
    pub near: Near,
    /// The workspace that the agent is in.
    pub workspace: Arc<Workspace>,
    /// The agent, once it is known.
    pub identity: Arc<Identity>,
    /// What program it seems to be.
    pub client: Client,
    /// What ends its connection with a reset.
    cut: stream::Cut,
    /// What it usually does, once that was asked.
    baseline: std::sync::OnceLock<Arc<Baseline>>,
}

impl Caller {
    /// What its requests are decided on, at this moment.
    fn state(&self) -> Arc<State> {
        self.workspace.state()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_distinct_and_ordered_by_time() {
        let ids: std::collections::HashSet<_> =
            (0..1000).map(|_| request_id().to_string()).collect();
        assert_eq!(ids.len(), 1000);
        let first = request_id().0;
        std::thread::sleep(Duration::from_millis(2));
        assert!(first[..6] < request_id().0[..6]);
    }

    #[test]
    fn strangers_are_admitted_so_many_a_second() {
        let bound = Bound::default();
        let admitted = (0..1000).filter(|_| bound.admits()).count() as u64;
        // The second may have turned in between.
        assert!(
            (STRANGERS_EACH_SECOND..=2 * STRANGERS_EACH_SECOND).contains(&admitted),
            "{admitted}"
        );
    }
}
