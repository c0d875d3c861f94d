//! The numbers that Prometheus scrapes. Label sets are bounded: agents and credentials by the vault,
//! codes by their enum; nothing that the network names becomes a label.

use std::time::Duration;

use prometheus::core::{AtomicU64, GenericCounter, GenericCounterVec};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::anomaly;
use crate::outcome::{Code, Complaint};

type Counter = GenericCounter<AtomicU64>;
type CounterVec = GenericCounterVec<AtomicU64>;

/// Upper bounds in seconds: from a loopback answer to a model that thinks for minutes.
const UPSTREAM_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

/// Upper bounds in seconds: what the proxy itself adds is microseconds.
const PROXY_BUCKETS: [f64; 12] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0,
];

/// All of Locum's metrics and the registry that they are in.
pub struct Metrics {
    registry: Registry,
    requests: CounterVec,
    refusals: CounterVec,
    injections: CounterVec,
    minted: CounterVec,
    scrubbed: Counter,
    misplaced: Counter,
    unbound: Counter,
    honeytokens: Counter,
    shadow: CounterVec,
    credential_failures: CounterVec,
    credential_answers: CounterVec,
    retries: CounterVec,
    queue_waiting: IntGauge,
    bodies_held: IntGauge,
    queued: CounterVec,
    circuits: IntGaugeVec,
    approvals: CounterVec,
    approvals_open: IntGauge,
    anomalies: CounterVec,
    untrusted_ca: CounterVec,
    authentication_failures: CounterVec,
    authentication_slowed: Counter,
    connections_dismissed: Counter,
    bytes_up: Counter,
    bytes_down: Counter,
    upstream_seconds: Histogram,
    proxy_seconds: Histogram,
    tunnels: IntGaugeVec,
    gauges: Gauges,
}

/// Values that other parts of the process own, written when Prometheus asks.
struct Gauges {
    connections: IntGauge,
    leaves_issued: IntGauge,
    leaves_cached: IntGauge,
    pool_idle: IntGauge,
    pool_opened: IntGauge,
    pool_reused: IntGauge,
    vault_up: IntGauge,
    vault_epoch: IntGauge,
    credentials: IntGauge,
    audit_up: IntGauge,
    audit_records: IntGauge,
    audit_failures: IntGauge,
    policy_generation: IntGauge,
    policy_rules: IntGauge,
    policies: IntGaugeVec,
    reload_success: IntGaugeVec,
    due: IntGaugeVec,
    told_from: IntGaugeVec,
    healthy: IntGaugeVec,
}

/// A reading of the values that are not counted here.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Connections of agents.
    pub connections: u64,
    /// Leaf certificates signed since the start.
    pub leaves_issued: u64,
    /// Leaf certificates ready.
    pub leaves_cached: u64,
    /// Upstream connections waiting.
    pub pool_idle: u64,
    /// Upstream connections made.
    pub pool_opened: u64,
    /// Requests on a connection that had served before.
    pub pool_reused: u64,
    /// Whether secrets can be opened.
    pub vault_up: bool,
    /// The vault's epoch.
    pub vault_epoch: u64,
    /// Live credentials.
    pub credentials: u64,
    /// Whether records can be written.
    pub audit_up: bool,
    /// Records written.
    pub audit_records: u64,
    /// Records that could not be written.
    pub audit_failures: u64,
    /// Loads of the policy.
    pub policy_generation: u64,
    /// Rules in force.
    pub policy_rules: u64,
    /// Of each workspace, the digest of its policy in force.
    pub policies: Vec<(String, String)>,
    /// The credentials with a schedule.
    pub due: Vec<Due>,
    /// Whether the provider of each credential that was tried there took it.
    pub healthy: Vec<(String, bool)>,
}

/// When a credential is to be rotated. Times are in seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its name, as labels have it.
    pub credential: String,
    /// The moment.
    pub at: i64,
    /// From when on that is told.
    pub told_from: i64,
}

/// The kind of a tunnel, as a label.
#[derive(Clone, Copy, Debug)]
pub enum TunnelKind {
    /// TLS ends here.
    Intercepted,
    /// Bytes are copied.
    Opaque,
    /// A WebSocket whose handshake was decided on.
    WebSocket,
}

impl TunnelKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Intercepted => "intercepted",
            Self::Opaque => "opaque",
            Self::WebSocket => "websocket",
        }
    }
}

/// How getting a token went, as a label.
#[derive(Clone, Copy, Debug)]
pub enum Minting {
    /// There is one.
    Made,
    /// What it is made from is not accepted any more.
    Refused,
    /// It went wrong, and is tried again.
    Failed,
}

impl Minting {
    fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Why a caller is not let in, as a label.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// Its credentials are of no known kind.
    Malformed,
    /// Its token or its agent is unknown, or revoked.
    Unknown,
    /// What it showed is wrong.
    Wrong,
    /// What it showed was good once.
    Expired,
    /// A token of an issuer is not good.
    Jwt,
}

impl Failure {
    const ALL: [Self; 5] = [Self::Malformed, Self::Unknown, Self::Wrong, Self::Expired, Self::Jwt];

    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Wrong => "wrong",
            Self::Expired => "expired",
            Self::Jwt => "jwt",
        }
    }
}

/// What becomes of a question to a person, as a label.
#[derive(Clone, Copy, Debug)]
pub enum Asking {
    /// It was asked.
    Asked,
    /// The person refused.
    Denied,
    /// Nobody decided, or used the approval, in time.
    Expired,
    /// It was approved, and the request sent.
    Used,
}

impl Asking {
    fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Used => "used",
        }
    }
}

/// Whether a request was sent again, as a label.
#[derive(Clone, Copy, Debug)]
pub enum Again {
    /// It was.
    Sent,
    /// As many were as may be of those of this agent to this destination.
    NoBudget,
    /// It would have been after the time that its rule sets.
    TooLate,
}

impl Again {
    const ALL: [Self; 3] = [Self::Sent, Self::NoBudget, Self::TooLate];

    fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::NoBudget => "no-budget",
            Self::TooLate => "too-late",
        }
    }
}

/// What became of a request that waited for a limit, as a label.
#[derive(Clone, Copy, Debug)]
pub enum Queued {
    /// It was let in.
    Admitted,
    /// It waited in vain, or there was no room to wait.
    Refused,
    /// Its agent went away.
    Gone,
}

impl Queued {
    const ALL: [Self; 3] = [Self::Admitted, Self::Refused, Self::Gone];

    fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

/// To whom a destination is closed, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circle {
    /// To all agents.
    All,
    /// To the one whose requests failed there.
    Agent,
}

impl Circle {
    fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Agent => "agent",
        }
    }
}

/// How a request ended, as a label.
#[derive(Clone, Copy, Debug)]
pub enum Result {
    /// The answer was handed on.
    Permitted,
    /// Locum refused.
    Refused,
    /// It was allowed, and failed.
    Failed,
}

impl Result {
    fn as_str(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice, which is a mistake in this file.
    #[allow(clippy::too_many_lines)] // A list: one entry for each of them.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let build =
            gauge_vec(r, "locum_build_info", "Version of the running binary.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let bytes = counter_vec(
            r,
            "locum_bytes_total",
            "Bytes of bodies and tunnels, by direction.",
            &["direction"],
        )?;
        let metrics = Self {
            requests: counter_vec(
                r,
                "locum_requests_total",
                "Requests by agent and result.",
                &["agent", "result"],
            )?,
            refusals: counter_vec(
                r,
                "locum_refusals_total",
                "Answers that Locum made itself, by code.",
                &["code"],
            )?,
            minted: counter_vec(
                r,
                "locum_minted_total",
                "Tokens that were got for a credential, or were not: made, refused, failed.",
                &["credential", "result"],
            )?,
            injections: counter_vec(
                r,
                "locum_injections_total",
                "Requests that a credential entered.",
                &["credential"],
            )?,
            scrubbed: counter(
                r,
                "locum_scrubbed_total",
                "Echoes of a credential removed from answers.",
            )?,
            misplaced: counter(
                r,
                "locum_misplaced_references_total",
                "References found outside the slots of their credential.",
            )?,
            unbound: counter(
                r,
                "locum_unbound_references_total",
                "References sent to a host that their credential is not bound to. Alert on any.",
            )?,
            honeytokens: counter(
                r,
                "locum_honeytokens_total",
                "Requests that named or carried a honeytoken. Alert on any.",
            )?,
            shadow: counter_vec(
                r,
                "locum_shadow_decisions_total",
                "Requests on which rules with `mode: shadow` would have decided, by decision.",
                &["decision"],
            )?,
            credential_failures: counter_vec(
                r,
                "locum_credential_failures_total",
                "Answers by which an origin said that a credential does not work, where another was used in its place, by credential and cause.",
                &["credential", "cause"],
            )?,
            credential_answers: counter_vec(
                r,
                "locum_credential_answers_total",
                "Answers by which an origin said of a credential that it is not accepted, out of quota or rate-limited, and that were handed on.",
                &["credential", "says"],
            )?,
            retries: counter_vec(
                r,
                "locum_retries_total",
                "Requests whose origin failed and whose rule has them sent again, by what came of it.",
                &["result"],
            )?,
            queue_waiting: gauge(
                r,
                "locum_queue_waiting",
                "Requests that wait for a limit of their rule now.",
            )?,
            bodies_held: gauge(
                r,
                "locum_bodies_held_bytes",
                "Bytes of bodies that are held in memory until their requests have left.",
            )?,
            queued: counter_vec(
                r,
                "locum_queued_total",
                "Requests that waited for a limit of their rule, by what came of it.",
                &["result"],
            )?,
            circuits: gauge_vec(
                r,
                "locum_circuits_open",
                "Destinations that are left alone because they failed, by whom they are closed to.",
                &["closed_to"],
            )?,
            approvals: counter_vec(
                r,
                "locum_approvals_total",
                "Requests that a person has to approve, by what became of the question.",
                &["result"],
            )?,
            approvals_open: gauge(
                r,
                "locum_approvals_open",
                "Requests that wait for a person now.",
            )?,
            anomalies: counter_vec(
                r,
                "locum_anomalies_total",
                "What was not as usual for an agent, by respect. Alert on any.",
                &["kind"],
            )?,
            untrusted_ca: counter_vec(
                r,
                "locum_untrusted_ca_total",
                "TLS handshakes in which the client did not trust the CA, by agent and kind of client.",
                &["agent", "client"],
            )?,
            authentication_failures: counter_vec(
                r,
                "locum_authentication_failures_total",
                "Callers that failed to show who they are, by what was wrong.",
                &["reason"],
            )?,
            authentication_slowed: counter(
                r,
                "locum_authentication_slowed_total",
                "Of those, how many answers waited.",
            )?,
            connections_dismissed: counter(
                r,
                "locum_connections_dismissed_total",
                "Connections that did not say whose they are, and made room for others.",
            )?,
            bytes_up: bytes.with_label_values(&["up"]),
            bytes_down: bytes.with_label_values(&["down"]),
            upstream_seconds: histogram(
                r,
                "locum_upstream_seconds",
                "Time from sending a request to the head of its answer.",
                &UPSTREAM_BUCKETS,
            )?,
            proxy_seconds: histogram(
                r,
                "locum_proxy_seconds",
                "Time that the proxy spent on a request before sending it.",
                &PROXY_BUCKETS,
            )?,
            tunnels: gauge_vec(r, "locum_tunnels_open", "Tunnels open now, by kind.", &["kind"])?,
            gauges: Gauges::new(r)?,
            registry,
        };
        // Series that alerts watch exist from the start, at zero.
        for code in Code::ALL {
            metrics.refusals.with_label_values(&[code.as_str()]);
        }
        for kind in [TunnelKind::Intercepted, TunnelKind::Opaque, TunnelKind::WebSocket] {
            metrics.tunnels.with_label_values(&[kind.as_str()]);
        }
        for kind in anomaly::Kind::ALL {
            metrics.anomalies.with_label_values(&[kind.as_str()]);
        }
        for result in Again::ALL {
            metrics.retries.with_label_values(&[result.as_str()]);
        }
        for result in Queued::ALL {
            metrics.queued.with_label_values(&[result.as_str()]);
        }
        for circle in [Circle::All, Circle::Agent] {
            metrics.circuits.with_label_values(&[circle.as_str()]);
        }
        for reason in Failure::ALL.map(Failure::as_str) {
            metrics.authentication_failures.with_label_values(&[reason]);
        }
        Ok(metrics)
    }

    /// Counts a request.
    pub fn request(&self, agent: &str, result: Result) {
        self.requests.with_label_values(&[agent, result.as_str()]).inc();
    }

    /// Counts an answer of our own.
    pub fn refusal(&self, code: Code) {
        self.refusals.with_label_values(&[code.as_str()]).inc();
    }

    /// Counts a credential that entered a request.
    pub fn injection(&self, credential: &str) {
        self.injections.with_label_values(&[credential]).inc();
    }

    /// Counts a token that was got for a credential, or was not.
    pub fn minted(&self, credential: &str, result: Minting) {
        self.minted.with_label_values(&[credential, result.as_str()]).inc();
    }

    /// Counts echoes that were removed.
    pub fn scrubbed(&self, times: u64) {
        self.scrubbed.inc_by(times);
    }

    /// Counts references outside the slots.
    pub fn misplaced(&self, times: usize) {
        self.misplaced.inc_by(times as u64);
    }

    /// Counts a reference that was sent where it may not go.
    pub fn unbound(&self) {
        self.unbound.inc();
    }

    /// Counts a request with a honeytoken in it.
    pub fn honeytoken(&self) {
        self.honeytokens.inc();
    }

    /// Counts a decision that was recorded and not enforced.
    pub fn shadow(&self, refused: bool) {
        let decision = if refused { "refuse" } else { "permit" };
        self.shadow.with_label_values(&[decision]).inc();
    }

    /// Counts an answer after which another credential was used: `invalid` or `rate-limited`.
    pub fn credential_failure(&self, credential: &str, cause: &str) {
        self.credential_failures.with_label_values(&[credential, cause]).inc();
    }

    /// Counts an answer that says something of a credential.
    pub fn credential_answer(&self, credential: &str, complaint: Complaint) {
        self.credential_answers.with_label_values(&[credential, complaint.as_str()]).inc();
    }

    /// Counts a request that was sent again, or was not.
    pub fn retry(&self, what: Again) {
        self.retries.with_label_values(&[what.as_str()]).inc();
    }

    /// So much more of a body is held in memory.
    pub fn body_grew(&self, bytes: usize) {
        self.bodies_held.add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A body of so many bytes is held no more.
    pub fn body_gone(&self, bytes: usize) {
        self.bodies_held.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// One more waits.
    pub fn queue_joined(&self) {
        self.queue_waiting.inc();
    }

    /// One waits no more.
    pub fn queue_left(&self, how: Queued) {
        self.queue_waiting.dec();
        self.queued.with_label_values(&[how.as_str()]).inc();
    }

    /// So many more destinations are closed, or fewer.
    pub fn circuit(&self, circle: Circle, change: i64) {
        self.circuits.with_label_values(&[circle.as_str()]).add(change);
    }

    /// Counts what became of a question to a person.
    pub fn asking(&self, what: Asking) {
        self.approvals.with_label_values(&[what.as_str()]).inc();
    }

    /// Says how many questions are open.
    pub fn asking_open(&self, count: usize) {
        self.approvals_open.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts something that was not as usual for an agent, by respect.
    pub fn anomaly(&self, kind: anomaly::Kind) {
        self.anomalies.with_label_values(&[kind.as_str()]).inc();
    }

    /// Counts a handshake of a client that does not trust the CA.
    pub fn untrusted_ca(&self, agent: &str, client: &str) {
        self.untrusted_ca.with_label_values(&[agent, client]).inc();
    }

    /// Counts a caller that failed to show who it is, and whether its answer waited.
    pub fn authentication_failed(&self, why: Failure, slowed: bool) {
        self.authentication_failures.with_label_values(&[why.as_str()]).inc();
        self.authentication_slowed.inc_by(u64::from(slowed));
    }

    /// Counts a connection that had to go for another one.
    pub fn connection_dismissed(&self) {
        self.connections_dismissed.inc();
    }

    /// Counts bytes from (`up`) and to the agent.
    pub fn bytes(&self, up: u64, down: u64) {
        self.bytes_up.inc_by(up);
        self.bytes_down.inc_by(down);
    }

    /// Notes how long the origin took to answer.
    pub fn upstream_time(&self, time: Duration) {
        self.upstream_seconds.observe(time.as_secs_f64());
    }

    /// Notes how long the proxy took before it sent the request.
    pub fn proxy_time(&self, time: Duration) {
        self.proxy_seconds.observe(time.as_secs_f64());
    }

    /// A tunnel that counts as open until the guard is dropped.
    #[must_use]
    pub fn tunnel(&self, kind: TunnelKind) -> TunnelGuard {
        let gauge = self.tunnels.with_label_values(&[kind.as_str()]);
        gauge.inc();
        TunnelGuard(gauge)
    }

    /// Notes whether the last load of `what` (`policy`, `config`) went well.
    pub fn reload(&self, what: &str, success: bool) {
        self.gauges.reload_success.with_label_values(&[what]).set(i64::from(success));
    }

    /// The exposition text.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn text(&self, readings: &Readings) -> prometheus::Result<Vec<u8>> {
        self.gauges.set(readings);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Counts a tunnel as closed when dropped.
#[derive(Debug)]
pub struct TunnelGuard(IntGauge);

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Gauges {
    fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            connections: gauge(r, "locum_connections_open", "Connections of agents open now.")?,
            leaves_issued: gauge(
                r,
                "locum_leaves_issued",
                "Leaf certificates signed since the start.",
            )?,
            leaves_cached: gauge(r, "locum_leaves_cached", "Leaf certificates in the cache.")?,
            pool_idle: gauge(
                r,
                "locum_pool_idle_connections",
                "Upstream connections waiting for a request.",
            )?,
            pool_opened: gauge(
                r,
                "locum_pool_opened_connections",
                "Upstream connections made since the start.",
            )?,
            pool_reused: gauge(
                r,
                "locum_pool_reused_connections",
                "Requests sent on a connection that had served before, since the start.",
            )?,
            vault_up: gauge(r, "locum_vault_up", "Whether secrets can be opened.")?,
            vault_epoch: gauge(r, "locum_vault_epoch", "Changes made to the vault.")?,
            credentials: gauge(r, "locum_credentials", "Credentials in the vault.")?,
            audit_up: gauge(r, "locum_audit_up", "Whether audit records can be written.")?,
            audit_records: gauge(
                r,
                "locum_audit_records",
                "Audit records written since the start.",
            )?,
            audit_failures: gauge(
                r,
                "locum_audit_failures",
                "Audit records that could not be written since the start.",
            )?,
            policy_generation: gauge(
                r,
                "locum_policy_generation",
                "Loads of the policy since the start.",
            )?,
            policy_rules: gauge(r, "locum_policy_rules", "Rules in force.")?,
            policies: gauge_vec(
                r,
                "locum_policy_info",
                "The policy in force of each workspace, by its digest.",
                &["workspace", "digest"],
            )?,
            healthy: gauge_vec(
                r,
                "locum_credential_healthy",
                "Whether a credential's provider took it when it was last tried there.",
                &["credential"],
            )?,
            due: gauge_vec(
                r,
                "locum_credential_due_timestamp_seconds",
                "When a credential with a schedule is to be rotated.",
                &["credential"],
            )?,
            told_from: gauge_vec(
                r,
                "locum_credential_reminder_timestamp_seconds",
                "From when on the next rotation of a credential with a schedule is reminded of.",
                &["credential"],
            )?,
            reload_success: gauge_vec(
                r,
                "locum_reload_success",
                "Whether the last load went well, by what was loaded.",
                &["what"],
            )?,
        })
    }

    fn set(&self, now: &Readings) {
        let set =
            |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.connections, now.connections);
        set(&self.leaves_issued, now.leaves_issued);
        set(&self.leaves_cached, now.leaves_cached);
        set(&self.pool_idle, now.pool_idle);
        set(&self.pool_opened, now.pool_opened);
        set(&self.pool_reused, now.pool_reused);
        set(&self.vault_up, u64::from(now.vault_up));
        set(&self.vault_epoch, now.vault_epoch);
        set(&self.credentials, now.credentials);
        set(&self.audit_up, u64::from(now.audit_up));
        set(&self.audit_records, now.audit_records);
        set(&self.audit_failures, now.audit_failures);
        set(&self.policy_generation, now.policy_generation);
        set(&self.policy_rules, now.policy_rules);
        // The one before is not in force any more.
        self.policies.reset();
        for (workspace, digest) in &now.policies {
            self.policies.with_label_values(&[workspace, digest]).set(1);
        }
        // One that is gone or has no schedule any more is not due.
        self.due.reset();
        self.told_from.reset();
        for Due { credential, at, told_from } in &now.due {
            self.due.with_label_values(&[credential]).set(*at);
            self.told_from.with_label_values(&[credential]).set(*told_from);
        }
        self.healthy.reset();
        for (credential, good) in &now.healthy {
            self.healthy.with_label_values(&[credential]).set(i64::from(*good));
        }
    }
}

fn counter(r: &Registry, name: &str, help: &str) -> prometheus::Result<Counter> {
    let counter = Counter::new(name, help)?;
    r.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counter_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<CounterVec> {
    let counter = CounterVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn gauge(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    r.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauge_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn histogram(
    r: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
    r.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_registers_and_encodes() {
        let metrics = Metrics::new().unwrap();
        metrics.request("a", Result::Permitted);
        metrics.refusal(Code::NotAllowed);
        let guard = metrics.tunnel(TunnelKind::Opaque);
        let text = |m: &Metrics| String::from_utf8(m.text(&Readings::default()).unwrap()).unwrap();
        assert!(
            text(&metrics).contains("locum_requests_total{agent=\"a\",result=\"permitted\"} 1")
        );
        assert!(text(&metrics).contains("locum_tunnels_open{kind=\"opaque\"} 1"));
        drop(guard);
        assert!(text(&metrics).contains("locum_tunnels_open{kind=\"opaque\"} 0"));
    }
}
