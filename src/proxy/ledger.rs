//! What one request leaves in the audit log and the metrics: an access record before the call, an
//! outcome record when all is over, however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Caller, Gateway, State};
use crate::agent::Identity;
use crate::host::Origin;
use crate::metrics;
use crate::outcome::{Code, Ending, Refusal, reason};
use crate::record::{Access, Decision, Outcome, Recorded, RequestId, Use, Who};

/// The longest path and method that a record keeps, in bytes. What was cut ends in `…`.
const MAX_TEXT: usize = 2048;

/// One request, as the log will know it.
pub(super) struct Ledger {
    pub(super) id: RequestId,
    pub(super) start: Instant,
    gateway: Arc<Gateway>,
    identity: Option<Arc<Identity>>,
    peer: SocketAddr,
    destination: String,
    method: String,
    path: Option<String>,
    misplaced: usize,
}

impl Ledger {
    pub(super) fn new(gateway: &Arc<Gateway>, caller: &Caller, destination: &Origin) -> Self {
        let identity = Some(Arc::clone(&caller.identity));
        Self::open(gateway, identity, caller.peer, destination.to_string())
    }

    /// For a request whose sender is not known.
    pub(super) fn anonymous(gateway: &Arc<Gateway>, peer: SocketAddr, destination: String) -> Self {
        Self::open(gateway, None, peer, destination)
    }

    fn open(
        gateway: &Arc<Gateway>,
        identity: Option<Arc<Identity>>,
        peer: SocketAddr,
        destination: String,
    ) -> Self {
        Self {
            id: super::request_id(),
            start: Instant::now(),
            gateway: Arc::clone(gateway),
            identity,
            peer,
            destination,
            method: String::new(),
            path: None,
            misplaced: 0,
        }
    }

    /// Notes what was asked for, as it was sent. The query never comes here.
    pub(super) fn asked(&mut self, method: &str, path: Option<&str>) {
        self.method = bounded(method);
        self.path = path.map(bounded);
    }

    /// Notes who the request says it is for, beside what the tunnel said.
    pub(super) fn identify(&mut self, identity: Arc<Identity>) {
        self.identity = Some(identity);
    }

    /// Notes references outside the slots.
    pub(super) fn misplaced(&mut self, count: usize) {
        self.misplaced = count;
        if count > 0 {
            self.gateway.metrics.misplaced(count);
        }
    }

    fn agent(&self) -> &str {
        self.identity.as_ref().map_or("", |identity| identity.agent.as_str())
    }

    fn access<'a>(&'a self, state: &'a State, uses: &'a [Use]) -> Access<'a> {
        Access {
            request_id: self.id,
            agent: self.identity.as_deref().map(Who::from),
            peer: Some(self.peer),
            destination: &self.destination,
            method: Some(&self.method),
            path: self.path.as_deref(),
            rule: None,
            policy_generation: state.generation,
            policy_digest: state.policy.digest(),
            credential: uses.first(),
            more_credentials: uses.get(1..).unwrap_or_default(),
            misplaced: self.misplaced,
            decision: Decision::Refuse,
            code: None,
            reason: None,
        }
    }

    /// Writes the access record of a permitted request, and only then lets `value` go on.
    pub(super) fn permit<T>(
        &self,
        value: T,
        state: &State,
        rule: &str,
        uses: &[Use],
    ) -> Result<Recorded<T>, Refusal> {
        let mut record = self.access(state, uses);
        record.rule = Some(rule);
        record.decision = Decision::Permit;
        let recorded = Recorded::new(value, &*self.gateway.audit, &record)
            .map_err(|_| Refusal::new(Code::AuditUnavailable))?;
        for item in uses {
            self.gateway.metrics.injection(item.credential.as_str());
        }
        self.gateway.metrics.proxy_time(self.start.elapsed());
        Ok(recorded)
    }

    /// Writes the access record of a refused request. When even that fails, the request is refused
    /// all the same.
    pub(super) fn refuse(&self, state: &State, refusal: &Refusal, uses: &[Use]) {
        let mut record = self.access(state, uses);
        record.code = Some(refusal.code);
        record.reason = refusal.reason;
        let _unrecorded = self.gateway.audit.access(&record);
        self.count_refusal(refusal);
        self.gateway.metrics.request(self.agent(), metrics::Result::Refused);
    }

    fn count_refusal(&self, refusal: &Refusal) {
        self.gateway.metrics.refusal(refusal.code);
        if refusal.reason == Some(reason::NOT_BOUND) {
            self.gateway.metrics.unbound();
            tracing::warn!(
                agent = self.agent(),
                destination = self.destination,
                request_id = %self.id,
                "a reference was sent to a host that its credential is not bound to"
            );
        }
    }

    /// Writes the outcome of a permitted request that got no answer from the origin.
    pub(super) fn failed(&self, refusal: &Refusal, up: u64) {
        self.gateway.audit.outcome(&Outcome {
            request_id: self.id,
            ending: Ending::Failed,
            code: Some(refusal.code),
            status: Some(refusal.code.status().as_u16()),
            bytes_up: up,
            bytes_down: 0,
            scrubbed: 0,
            upstream_us: None,
            total_us: micros(self.start.elapsed()),
        });
        self.count_refusal(refusal);
        self.gateway.metrics.request(self.agent(), metrics::Result::Failed);
    }

    /// Counts on until the answer, or the tunnel, is over.
    pub(super) fn answered(self, status: Option<u16>, up: Uploaded, upstream: Duration) -> Tally {
        if status.is_some() {
            self.gateway.metrics.upstream_time(upstream);
        }
        let upstream = status.map(|_| micros(upstream));
        let copied = Uploaded::default();
        let (down, scrubbed, closed) = (0, 0, false);
        Tally { ledger: self, status, code: None, up, down, copied, scrubbed, upstream, closed }
    }
}

/// The running account of an answer. Its outcome record is written once: at the end, at a break, or
/// when it is dropped.
pub(super) struct Tally {
    ledger: Ledger,
    status: Option<u16>,
    /// Why we ended it, if we did.
    pub(super) code: Option<Code>,
    up: Uploaded,
    pub(super) down: u64,
    /// What went down an opaque tunnel, counted where it is copied.
    pub(super) copied: Uploaded,
    pub(super) scrubbed: u64,
    upstream: Option<u64>,
    closed: bool,
}

impl Tally {
    pub(super) fn close(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let (up, down) = (self.up.bytes(), self.down + self.copied.bytes());
        let gateway = &self.ledger.gateway;
        gateway.audit.outcome(&Outcome {
            request_id: self.ledger.id,
            ending,
            code: self.code,
            status: self.status,
            bytes_up: up,
            bytes_down: down,
            scrubbed: self.scrubbed,
            upstream_us: self.upstream,
            total_us: micros(self.ledger.start.elapsed()),
        });
        gateway.metrics.bytes(up, down);
        if self.scrubbed > 0 {
            gateway.metrics.scrubbed(self.scrubbed);
        }
        let result = match ending {
            Ending::Complete | Ending::DownstreamAborted => metrics::Result::Permitted,
            Ending::UpstreamAborted | Ending::Failed => metrics::Result::Failed,
        };
        gateway.metrics.request(self.ledger.agent(), result);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.close(Ending::DownstreamAborted);
    }
}

/// Bytes of a body or of one way of a tunnel, counted while they are sent. Without a body there is nothing to share.
#[derive(Clone, Debug, Default)]
pub(super) struct Uploaded(Option<Arc<AtomicU64>>);

impl Uploaded {
    pub(super) fn counting() -> Self {
        Self(Some(Arc::default()))
    }

    pub(super) fn add(&self, bytes: usize) {
        if let Some(count) = &self.0 {
            count.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_TEXT);
    format!("{}…", &text[..end])
}
