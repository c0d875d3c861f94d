//! What one request leaves in the audit log and the metrics: an access record before the call, an
//! outcome record when all is over, however it ends.

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::complaint::Listening;
use super::habits::Habit;
use super::withdrawal::Watch;
use super::{Caller, Gateway, Near, State, unix_now};
use crate::agent::{Identity, qualified};
use crate::credential::Credential;
use crate::host::Origin;
use crate::inject::{References, Remainder, Unknown};
use crate::metrics;
use crate::outcome::{Code, Ending, Refusal, reason};
use crate::policy::{Shadow, Ticket};
use crate::record::{
    Access, Decision, Event, Outcome, Peer, Recorded, RequestId, ShadowDecision, Taken, Use, Who,
};
use crate::reference::Name;
use crate::request::InboundRequest;

/// The longest path and method that a record keeps, in bytes. What was cut ends in `…`.
const MAX_TEXT: usize = 2048;

/// `VERSION-CONTROL`: what is longer is a method of nobody's, and could be a secret.
const LONGEST_METHOD: usize = 15;

/// Lets the other tasks that are ready go first.
async fn next_turn() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// One request, as the log will know it.
pub(super) struct Ledger {
    pub(super) id: RequestId,
    pub(super) start: Instant,
    gateway: Arc<Gateway>,
    identity: Option<Arc<Identity>>,
    near: Near,
    destination: Arc<str>,
    method: String,
    path: Option<String>,
    websocket: bool,
    /// The methods that fields ask for in place of its own.
    other_methods: Option<Box<str>>,
    /// A reference to nothing in a slot.
    unknown: Option<Box<Unknown>>,
    misplaced: u32,
    /// What was sent so far of the request's body.
    up: Uploaded,
    /// Whether a call was permitted that has no outcome yet.
    pending: AtomicBool,
    /// The request's place in the limits of its rule, if that has any.
    ticket: Option<Arc<Ticket>>,
    /// What rules that are only recorded would have changed.
    shadow: Option<Box<Shadow>>,
    /// The credentials in the call that was permitted.
    uses: Vec<Use>,
    /// What it is counted for when it is over.
    habit: Option<Habit>,
}

impl Ledger {
    pub(super) fn new(gateway: &Arc<Gateway>, caller: &Caller, destination: &Origin) -> Self {
        Self::at(gateway, caller, destination.to_string().into())
    }

    /// For a request to a destination as records name it.
    pub(super) fn at(gateway: &Arc<Gateway>, caller: &Caller, destination: Arc<str>) -> Self {
        let identity = Some(Arc::clone(&caller.identity));
        Self::open(gateway, identity, caller.near.clone(), destination)
    }

    /// For a request whose sender is not known.
    pub(super) fn anonymous(gateway: &Arc<Gateway>, near: &Near, destination: String) -> Self {
        Self::open(gateway, None, near.clone(), destination.into())
    }

    fn open(
        gateway: &Arc<Gateway>,
        identity: Option<Arc<Identity>>,
        near: Near,
        destination: Arc<str>,
    ) -> Self {
        Self {
            id: super::request_id(),
            start: Instant::now(),
            gateway: Arc::clone(gateway),
            identity,
            near,
            destination,
            method: String::new(),
            path: None,
            websocket: false,
            other_methods: None,
            unknown: None,
            misplaced: 0,
            up: Uploaded::default(),
            pending: AtomicBool::new(false),
            ticket: None,
            shadow: None,
            uses: Vec::new(),
            habit: None,
        }
    }

    /// Notes with which credentials the call goes out.
    pub(super) fn carries(&mut self, uses: Vec<Use>) {
        self.uses = uses;
    }

    /// The credentials with which the call goes out.
    pub(super) fn carried(&self) -> &[Use] {
        &self.uses
    }

    /// Whether what carries its credentials was broken off for it.
    fn is_cut(&self) -> bool {
        let workspace = self.workspace().and_then(|name| self.gateway.workspace(name));
        workspace.is_some_and(|workspace| workspace.is_cut(&self.uses))
    }

    /// What broke off because its credential was revoked says so, and not that the origin did it.
    pub(super) fn true_cause(&self, refusal: Refusal) -> Refusal {
        if refusal.code == Code::UpstreamFailed && self.is_cut() {
            return Refusal::new(Code::CredentialRevoked);
        }
        refusal
    }

    /// Notes what was asked for, as it was sent. The query never comes here.
    pub(super) fn asked(&mut self, method: &str, path: Option<&str>) {
        self.method = bounded(method);
        self.path = path.map(bounded);
    }

    /// Notes what of the request's fields has a say in the decision.
    pub(super) fn reads(&mut self, inbound: &InboundRequest) {
        self.websocket = inbound.websocket().is_some();
        if !inbound.other_methods().is_empty() {
            let methods: Vec<&str> = inbound.other_methods().iter().map(Method::as_str).collect();
            self.other_methods = Some(bounded(&methods.join(",")).into());
        }
    }

    /// Leaves what was asked for out of the records.
    pub(super) fn withhold_target(&mut self) {
        self.path = None;
        if self.method.len() > LONGEST_METHOD {
            self.method.clear();
        }
    }

    /// Notes where the bytes of the request's body are counted.
    pub(super) fn uploads(&mut self, up: Uploaded) {
        self.up = up;
    }

    /// Notes who the request says it is for, beside what the tunnel said.
    pub(super) fn identify(&mut self, identity: Arc<Identity>) {
        self.identity = Some(identity);
    }

    /// Notes references outside the slots, and what is an alarm wherever it stands.
    pub(super) fn refers(&mut self, references: &References) {
        self.unknown = references.unknown().map(|unknown| Box::new(unknown.clone()));
        let misplaced = references.misplaced();
        self.misplaced = u32::try_from(misplaced).unwrap_or(u32::MAX);
        if misplaced > 0 {
            self.gateway.metrics.misplaced(misplaced);
        }
        if references.moved() {
            self.unbound();
        }
        if let Some(bait) = references.honeytoken() {
            self.baited(&bait.name);
        }
    }

    /// Raises the alarm over a honeytoken: no program was given one.
    pub(super) fn baited(&self, honeytoken: &Name) {
        self.gateway.metrics.honeytoken();
        tracing::warn!(
            agent = &*self.agent(),
            destination = &*self.destination,
            request_id = %self.id,
            %honeytoken,
            "an agent sent a honeytoken"
        );
        let detail =
            format!("agent {}, request {}, to {}", self.agent(), self.id, self.destination);
        // What cannot be recorded is in the log and the metric all the same.
        let _unrecorded = self.gateway.audit.event(&Event {
            event: "honeytoken-used",
            workspace: self.workspace().cloned(),
            subject: Some(honeytoken.to_string()),
            detail: Some(detail),
            by: None,
            vault_epoch: None,
        });
    }

    /// Notes what rules that are only recorded would have changed.
    pub(super) fn shadowed(&mut self, shadow: Option<Shadow>) {
        let Some(shadow) = shadow else { return };
        self.gateway.metrics.shadow(shadow.code.is_some());
        self.shadow = Some(Box::new(shadow));
    }

    /// Keeps the request's place in the limits of its rule for as long as the account of it is open.
    pub(super) fn hold(&mut self, ticket: Option<Arc<Ticket>>) {
        self.ticket = ticket;
    }

    /// The request's place in the limits of its rule.
    pub(super) fn ticket(&self) -> Option<Arc<Ticket>> {
        self.ticket.clone()
    }

    /// Notes what it is counted for when it is over.
    pub(super) fn counts_for(&mut self, habit: Habit) {
        self.habit = Some(habit);
    }

    pub(super) fn habit(&self) -> Option<&Habit> {
        self.habit.as_ref()
    }

    /// Accounts for what was seen of a body behind its beginning: why it was cut, if it was, and how many
    /// references stood outside the slots there.
    fn behind(&self) -> (Option<Code>, u64) {
        let Some(behind) = self.up.behind() else { return (None, 0) };
        let misplaced = behind.misplaced.load(Ordering::Relaxed);
        if misplaced > 0 {
            self.gateway.metrics.misplaced(misplaced);
        }
        if let Some(honeytoken) = behind.honeytoken.get() {
            self.baited(honeytoken);
        }
        if behind.moved.load(Ordering::Relaxed) {
            self.unbound();
        }
        (behind.cut.get().copied(), misplaced as u64)
    }

    fn weigh(&self, moved: u64) {
        if let Some(habit) = &self.habit {
            habit.weigh(self, moved, unix_now());
        }
    }

    pub(super) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    pub(super) fn destination(&self) -> &str {
        &self.destination
    }

    pub(super) fn peer(&self) -> Peer {
        self.near.peer
    }

    fn charge(&self, up: u64, down: u64) {
        if let Some(ticket) = &self.ticket {
            ticket.charge(up, down, self.gateway.elapsed());
        }
    }

    /// A name of the agent's workspace, as metrics and the log have it.
    fn label<'n>(&self, name: &'n str) -> Cow<'n, str> {
        match &self.identity {
            Some(identity) => qualified(identity.workspace.as_str(), name),
            None => Cow::Borrowed(name),
        }
    }

    /// The agent as metrics and the log have it.
    pub(super) fn agent(&self) -> Cow<'_, str> {
        self.label(self.agent_name())
    }

    /// The agent by its own name.
    pub(super) fn agent_name(&self) -> &str {
        self.identity.as_ref().map_or("", |identity| identity.agent.as_str())
    }

    /// The agent's workspace.
    pub(super) fn workspace(&self) -> Option<&Name> {
        self.identity.as_ref().map(|identity| &identity.workspace)
    }

    fn access<'a>(&'a self, state: &'a State, uses: &'a [Use]) -> Access<'a> {
        Access {
            request_id: self.id,
            workspace: None,
            agent: self.identity.as_deref().map(Who::from),
            peer: Some(self.near.peer),
            client_certificate: self.near.certificate.as_deref(),
            destination: &self.destination,
            method: Some(&self.method),
            path: self.path.as_deref(),
            websocket: self.websocket,
            method_override: self.other_methods.as_deref(),
            rule: None,
            policy_generation: state.generation,
            policy_digest: state.policy.digest(),
            credential: uses.first(),
            more_credentials: uses.get(1..).unwrap_or_default(),
            unknown_reference: self.unknown.as_ref().and_then(|unknown| unknown.name.as_ref()),
            unknown_in: self.unknown.as_ref().map(|unknown| &*unknown.place),
            misplaced: self.misplaced as usize,
            decision: Decision::Refuse,
            code: None,
            reason: None,
            shadow: self
                .shadow
                .as_deref()
                .map(|shadow| ShadowDecision { rule: shadow.rule.as_deref(), code: shadow.code }),
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
        let recorded = self.also(value, state, rule, uses)?;
        self.pending.store(true, Ordering::Relaxed);
        self.gateway.metrics.proxy_time(self.start.elapsed());
        Ok(recorded)
    }

    /// Whether a call was permitted that has no outcome yet.
    pub(super) fn is_permitted(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Another account of the same request, for what is sent in the socket that it opened.
    pub(super) fn for_messages(&self) -> Self {
        let mut same = Self::open(
            &self.gateway,
            self.identity.clone(),
            self.near.clone(),
            Arc::clone(&self.destination),
        );
        (same.id, same.start) = (self.id, self.start);
        (same.method, same.path) = (self.method.clone(), self.path.clone());
        (same.websocket, same.other_methods) = (self.websocket, self.other_methods.clone());
        same.habit.clone_from(&self.habit);
        same
    }

    /// Writes a further access record of a request that was permitted before, and only then lets
    /// `value` go on. There is one outcome for all of them.
    pub(super) fn also<T>(
        &self,
        value: T,
        state: &State,
        rule: &str,
        uses: &[Use],
    ) -> Result<Recorded<T>, Refusal> {
        let recorded =
            Recorded::new(value, &*self.gateway.audit, &self.permitted(state, rule, uses));
        let recorded = recorded.map_err(|_| Refusal::new(Code::AuditUnavailable))?;
        self.injected(uses);
        Ok(recorded)
    }

    /// Lets `value` go on when the access record of the request is written: with those of the requests whose turn
    /// is now, so that many cost one system call. `first`: no call of it was permitted before.
    pub(super) async fn in_turn<T>(
        &self,
        value: T,
        (state, rule, first): (&State, &str, bool),
        uses: &[Use],
    ) -> Result<Recorded<T>, Refusal> {
        let unrecorded = |_| Refusal::new(Code::AuditUnavailable);
        let audit = &*self.gateway.audit;
        let taken = Taken::by(audit, &self.permitted(state, rule, uses)).map_err(unrecorded)?;
        // From here on there may be a record of it, and then it has an outcome, also if its agent leaves now.
        self.pending.store(true, Ordering::Relaxed);
        next_turn().await;
        let recorded = Recorded::once_written(value, audit, taken).map_err(|unwritten| {
            self.pending.store(!first, Ordering::Relaxed);
            unrecorded(unwritten)
        })?;
        self.injected(uses);
        if first {
            self.gateway.metrics.proxy_time(self.start.elapsed());
        }
        Ok(recorded)
    }

    fn permitted<'r>(&'r self, state: &'r State, rule: &'r str, uses: &'r [Use]) -> Access<'r> {
        let mut record = self.access(state, uses);
        record.rule = Some(rule);
        record.decision = Decision::Permit;
        record
    }

    fn injected(&self, uses: &[Use]) {
        for item in uses {
            self.gateway.metrics.injection(&self.label(item.credential.as_str()));
        }
    }

    /// Writes a further access record of a request that was permitted before, for what of it is
    /// refused.
    pub(super) fn refuse_also(
        &self,
        state: &State,
        refusal: &Refusal,
        (uses, unknown): (&[Use], Option<&Unknown>),
    ) {
        let mut record = self.access(state, uses);
        record.unknown_reference = unknown.and_then(|unknown| unknown.name.as_ref());
        record.unknown_in = unknown.map(|unknown| &*unknown.place);
        record.code = Some(refusal.code);
        record.reason = refusal.reason;
        self.record_refusal(&record, refusal);
        self.count_refusal(refusal);
    }

    /// Writes the access record of a refused request. When even that fails, the request is refused
    /// all the same.
    pub(super) fn refuse(&self, state: &State, refusal: &Refusal, uses: &[Use]) {
        let mut record = self.access(state, uses);
        record.rule = refusal.rule.as_deref();
        record.code = Some(refusal.code);
        record.reason = refusal.reason;
        if let Some(ticket) = &self.ticket {
            ticket.give_back();
        }
        let (_cut, misplaced) = self.behind();
        record.misplaced += usize::try_from(misplaced).unwrap_or(usize::MAX);
        self.record_refusal(&record, refusal);
        self.count_refusal(refusal);
        self.gateway.metrics.request(&self.agent(), metrics::Result::Refused);
    }

    /// What is refused because its record could not be written was counted as that by the log.
    fn record_refusal(&self, record: &Access<'_>, refusal: &Refusal) {
        if refusal.code != Code::AuditUnavailable {
            let _unrecorded = self.gateway.audit.access(record);
        }
    }

    fn count_refusal(&self, refusal: &Refusal) {
        self.gateway.metrics.refusal(refusal.code);
        if refusal.code == Code::RealCredential {
            tracing::warn!(
                agent = &*self.agent(),
                destination = &*self.destination,
                request_id = %self.id,
                "an agent sent a secret of the vault, in place of its placeholder"
            );
        }
        if refusal.reason == Some(reason::NOT_BOUND) {
            self.unbound();
        }
    }

    /// Raises the alarm over a reference that went to another host: someone is trying to move a key.
    pub(super) fn unbound(&self) {
        self.gateway.metrics.unbound();
        tracing::warn!(
            agent = &*self.agent(),
            destination = &*self.destination,
            request_id = %self.id,
            "a reference was sent to a host that its credential is not bound to"
        );
    }

    /// Writes the outcome of a permitted request that got no answer from the origin.
    pub(super) fn failed(&self, refusal: &Refusal, up: u64) {
        self.charge(up, 0);
        self.weigh(up);
        let (_cut, misplaced) = self.behind();
        self.pending.store(false, Ordering::Relaxed);
        self.gateway.audit.outcome(&Outcome {
            request_id: self.id,
            ending: Ending::Failed,
            code: Some(refusal.code),
            status: Some(refusal.code.status().as_u16()),
            complaint: None,
            bytes_up: up,
            bytes_down: 0,
            scrubbed: 0,
            unsearched: false,
            misplaced,
            upstream_us: None,
            total_us: micros(self.start.elapsed()),
        });
        self.count_refusal(refusal);
        self.gateway.metrics.request(&self.agent(), metrics::Result::Failed);
    }

    /// Counts on until the answer, or the tunnel, is over.
    pub(super) fn answered(self, status: Option<u16>, up: Uploaded, upstream: Duration) -> Tally {
        self.pending.store(false, Ordering::Relaxed);
        if status.is_some() {
            self.gateway.metrics.upstream_time(upstream);
        }
        let upstream = status.map(|_| micros(upstream));
        let said = status.filter(|_| !self.uses.is_empty());
        let said = said.and_then(|status| StatusCode::from_u16(status).ok());
        let listening = said.and_then(Listening::to);
        let copied = Uploaded::default();
        Tally {
            ledger: self,
            status,
            code: None,
            up,
            down: 0,
            copied,
            scrubbed: 0,
            unsearched: false,
            upstream,
            closed: false,
            watch: Watch::none(),
            listening,
        }
    }
}

/// The agent went away while its call was under way: the exchange is dropped where it stands.
impl Drop for Ledger {
    fn drop(&mut self) {
        if !*self.pending.get_mut() {
            return;
        }
        let up = self.up.bytes();
        self.charge(up, 0);
        self.weigh(up);
        let (code, misplaced) = self.behind();
        self.gateway.audit.outcome(&Outcome {
            request_id: self.id,
            ending: Ending::DownstreamAborted,
            code,
            status: None,
            complaint: None,
            bytes_up: up,
            bytes_down: 0,
            scrubbed: 0,
            unsearched: false,
            misplaced,
            upstream_us: None,
            total_us: micros(self.start.elapsed()),
        });
        self.gateway.metrics.bytes(up, 0);
        self.gateway.metrics.request(&self.agent(), metrics::Result::Permitted);
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
    down: u64,
    /// What went down an opaque tunnel, counted where it is copied.
    pub(super) copied: Uploaded,
    pub(super) scrubbed: u64,
    /// Whether the body passes without being searched.
    pub(super) unsearched: bool,
    upstream: Option<u64>,
    closed: bool,
    /// Waits for a reason to cut the answer.
    pub(super) watch: Watch,
    /// What the origin says of the credential, for an answer that may.
    listening: Option<Box<Listening>>,
}

impl Tally {
    /// Counts bytes that were handed on to the agent.
    pub(super) fn passed(&mut self, data: &[u8]) {
        if let Some(listening) = &mut self.listening {
            listening.hear(data);
        }
        self.down += data.len() as u64;
        self.ledger.charge(self.up.bytes(), self.down);
    }

    /// The request's place in the limits of its rule.
    pub(super) fn ticket(&self) -> Option<Arc<Ticket>> {
        self.ledger.ticket()
    }

    pub(super) fn close(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let broke_off = ending == Ending::UpstreamAborted && self.code.is_none();
        if broke_off && self.ledger.is_cut() {
            self.code = Some(Code::CredentialRevoked);
        }
        // An origin that has answered already hears no reason, and the agent neither.
        let (cut, misplaced) = self.ledger.behind();
        self.code = self.code.or(cut);
        let (up, down) = (self.up.bytes(), self.down + self.copied.bytes());
        self.ledger.charge(up, down);
        self.ledger.weigh(up.saturating_add(down));
        let complaint = self.listening.as_ref().and_then(|listening| listening.complaint());
        let gateway = &self.ledger.gateway;
        if let Some(complaint) = complaint {
            for used in &self.ledger.uses {
                let credential = self.ledger.label(used.credential.as_str());
                gateway.metrics.credential_answer(&credential, complaint);
            }
        }
        gateway.audit.outcome(&Outcome {
            request_id: self.ledger.id,
            ending,
            code: self.code,
            status: self.status,
            complaint,
            bytes_up: up,
            bytes_down: down,
            scrubbed: self.scrubbed,
            unsearched: self.unsearched,
            misplaced,
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
        gateway.metrics.request(&self.ledger.agent(), result);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.close(Ending::DownstreamAborted);
    }
}

/// Bytes of a body or of one way of a tunnel, counted while they are sent. Without a body there is nothing to share.
#[derive(Clone, Debug, Default)]
pub(super) struct Uploaded(Option<Arc<Count>>);

#[derive(Debug, Default)]
struct Count {
    bytes: AtomicU64,
    /// What was seen behind the beginning that was decided on, of a body that is followed.
    behind: OnceLock<Box<Behind>>,
}

#[derive(Debug, Default)]
struct Behind {
    misplaced: AtomicUsize,
    /// Of those, how many were in a body that nobody reads, or in fields behind one.
    aside: AtomicUsize,
    /// Whether one of the latter, or one in a field of its credential, is of one that does not go there.
    moved: AtomicBool,
    honeytoken: OnceLock<Name>,
    /// Why it was cut.
    cut: OnceLock<Code>,
}

impl Uploaded {
    pub(super) fn counting() -> Self {
        Self(Some(Arc::default()))
    }

    pub(super) fn add(&self, bytes: usize) {
        if let Some(count) = &self.0 {
            count.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |count| count.bytes.load(Ordering::Relaxed))
    }

    /// Notes what was seen of the body so far, and why it goes no further.
    pub(super) fn saw(&self, remainder: &Remainder, cut: Option<&Refusal>) {
        let Some(count) = &self.0 else { return };
        let behind = count.behind.get_or_init(Box::default);
        let aside = behind.aside.load(Ordering::Relaxed);
        behind.misplaced.store(remainder.misplaced() + aside, Ordering::Relaxed);
        behind.moved.fetch_or(remainder.moved(), Ordering::Relaxed);
        if let Some(honeytoken) = remainder.honeytoken() {
            let _noted_before = behind.honeytoken.set(honeytoken.clone());
        }
        if let Some(refusal) = cut {
            let _cut_before = behind.cut.set(refusal.code);
        }
    }

    /// Notes references in a body that nobody reads, or in the fields behind one: how many more, the honeytoken
    /// among them, and whether one goes where its credential does not.
    pub(super) fn saw_aside(
        &self,
        references: usize,
        honeytoken: Option<&Arc<Credential>>,
        moved: bool,
    ) {
        let Some(count) = self.0.as_ref().filter(|_| references > 0) else { return };
        let behind = count.behind.get_or_init(Box::default);
        behind.misplaced.fetch_add(references, Ordering::Relaxed);
        behind.aside.fetch_add(references, Ordering::Relaxed);
        behind.moved.fetch_or(moved, Ordering::Relaxed);
        if let Some(honeytoken) = honeytoken {
            let _noted_before = behind.honeytoken.set(honeytoken.name.clone());
        }
    }

    /// Notes why the body goes no further.
    pub(super) fn cut(&self, code: Code) {
        if let Some(count) = &self.0 {
            let _cut_before = count.behind.get_or_init(Box::default).cut.set(code);
        }
    }

    /// How many references stood where nobody reads, so far.
    pub(super) fn aside(&self) -> usize {
        self.behind().map_or(0, |behind| behind.aside.load(Ordering::Relaxed))
    }

    fn behind(&self) -> Option<&Behind> {
        self.0.as_ref()?.behind.get().map(Box::as_ref)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::Authenticators;
    use crate::credential::CredentialIndex;
    use crate::metrics::Metrics;
    use crate::policy::Policy;
    use crate::proxy::{Limits, Workspaces};
    use crate::record::{AuditSink, Event, Unrecorded};
    use crate::tls::{Alpn, CertificateAuthority, LeafCache};
    use crate::upstream::{Settings, Upstream};
    use parking_lot::Mutex;
    use std::time::SystemTime;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Ending>>);

    impl AuditSink for Kept {
        fn access(&self, _: &Access<'_>) -> Result<(), Unrecorded> {
            Ok(())
        }
        fn outcome(&self, record: &Outcome) {
            self.0.lock().push(record.ending);
        }
        fn event(&self, _: &Event) -> Result<(), Unrecorded> {
            Ok(())
        }
    }

    fn state() -> State {
        State {
            policy: Arc::new(Policy::default()),
            generation: 1,
            credentials: Arc::new(CredentialIndex::default()),
            authn: Authenticators::default(),
            sealed: None,
        }
    }

    fn gateway(sink: Arc<Kept>) -> Arc<Gateway> {
        let now = SystemTime::now();
        let made = CertificateAuthority::generate(now).unwrap();
        let ca = CertificateAuthority::load(&made.certificate_pem, &made.key, now).unwrap();
        let leaves = LeafCache::new(Arc::new(ca), 1, &[Alpn::Http11]).unwrap();
        let upstream = Upstream::new(Settings::default()).unwrap();
        let second = Duration::from_secs(1);
        let limits = Limits {
            connections: 1,
            connections_per_agent: 1,
            head_bytes: 8192,
            url_bytes: 8192,
            body_slot: 8192,
            bodies: 1 << 20,
            bodies_per_agent: 1 << 20,
            headers: 100,
            streams: 100,
            head_time: second,
            handshake: second,
            idle_tunnel: second,
            idle_reader: second,
            ping_after: second,
            failure_delay: second,
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        Arc::new(Gateway::new(Workspaces::one(state()), leaves, upstream, sink, metrics, limits))
    }

    #[test]
    fn a_permitted_call_has_one_outcome_however_it_ends() {
        let sink = Arc::new(Kept::default());
        let gateway = gateway(Arc::clone(&sink));
        let near = Near { peer: Peer::Unix(None), certificate: None };
        let open = || Ledger::anonymous(&gateway, &near, "https://api.test".to_owned());
        let permitted = || {
            let ledger = open();
            let _recorded = ledger.permit((), &state(), "rule", &[]).unwrap();
            ledger
        };
        drop(open());
        open().refuse(&state(), &Refusal::new(Code::NotAllowed), &[]);
        assert_eq!(*sink.0.lock(), [], "what was not permitted has no outcome");
        drop(permitted());
        permitted().failed(&Refusal::new(Code::UpstreamFailed), 0);
        permitted()
            .answered(Some(200), Uploaded::default(), Duration::ZERO)
            .close(Ending::Complete);
        drop(permitted().answered(Some(200), Uploaded::default(), Duration::ZERO));
        let all = [
            Ending::DownstreamAborted,
            Ending::Failed,
            Ending::Complete,
            Ending::DownstreamAborted,
        ];
        assert_eq!(*sink.0.lock(), all);
    }
    /// The sink has the record from the first poll on, whether it is written then or later.
    #[test]
    fn a_request_that_ends_while_its_record_is_written_has_an_outcome() {
        let sink = Arc::new(Kept::default());
        let gateway = gateway(Arc::clone(&sink));
        let near = Near { peer: Peer::Unix(None), certificate: None };
        let ledger = Ledger::anonymous(&gateway, &near, "https://api.test".to_owned());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        {
            let state = state();
            let mut turn = Box::pin(ledger.in_turn((), (&state, "rule", true), &[]));
            assert!(turn.as_mut().poll(&mut cx).is_pending(), "others have their turn");
        }
        assert!(ledger.is_permitted());
        drop(ledger);
        assert_eq!(*sink.0.lock(), [Ending::DownstreamAborted]);
    }
}
