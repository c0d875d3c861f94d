//! What the audit log records, and the proof that it did.
//!
//! [`Recorded`] can only be made by a sink that accepted the access record, and the upstream sends
//! nothing else: *no record, no call* does not compile any other way.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;

use crate::agent::certificate::ClientCertificate;
use crate::agent::{Identity, Label, Labels, UnixUser};
use crate::credential::Tier;
use crate::outcome::{Code, Complaint, Ending};
use crate::reference::Name;

/// Names one request in the audit log, in the log and in the `instance` of a refusal. 32 hex
/// digits: 48 bits of Unix time in milliseconds, then 80 random bits (as UUID version 7 orders them).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub [u8; 16]);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not byte by byte through `{:02x}`: this runs twice a request, and was a tenth of its
        // audit's cost.
        let mut hex = [0; 32];
        data_encoding::HEXLOWER.encode_mut(&self.0, &mut hex);
        f.write_str(str::from_utf8(&hex).unwrap_or_default())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The other end of a connection, as the operating system names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Over TCP: an address, `192.0.2.7:51000`.
    Tcp(SocketAddr),
    /// Over a Unix socket: the user of the process that connected, `unix:uid=1000`; none when the
    /// system did not say.
    Unix(Option<UnixUser>),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(user)) => write!(f, "unix:uid={}", user.uid),
            Self::Unix(None) => f.write_str("unix"),
        }
    }
}

impl Serialize for Peer {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            // serde's own way, without an allocation.
            Self::Tcp(address) => address.serialize(s),
            Self::Unix(_) => s.collect_str(self),
        }
    }
}

/// Whether a request may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It may.
    Permit,
    /// It may not; the code says why.
    Refuse,
}

/// Why one credential, or one version of it, and not another. Nothing where there was only the one.
#[allow(clippy::struct_excessive_bools)] // Each is a word of its own in the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// Several serve the reference, and this tier was the first to have one.
    pub tier: Option<Tier>,
    /// It is for the step of the run.
    pub node: bool,
    /// It was its turn in a pool.
    pub pool: bool,
    /// A value stands for it in the environment of the run.
    pub value: bool,
    /// The run began with this version.
    pub run: bool,
    /// Nothing in the request refers to it: a rule puts it in unasked.
    pub unasked: bool,
    /// Another was tried before, and the origin answered so.
    pub after: Option<u16>,
}

impl Why {
    /// Whether there was nothing to choose.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// `user`, `platform,value,node,pool`, `run`, `unasked`, `after-401`.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.value, "value"),
            (self.node, "node"),
            (self.pool, "pool"),
            (self.run, "run"),
            (self.unasked, "unasked"),
        ];
        let words = words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word);
        let mut comma = "";
        for word in self.tier.map(Tier::as_str).into_iter().chain(words) {
            write!(f, "{comma}{word}")?;
            comma = ",";
        }
        self.after.map_or(Ok(()), |status| write!(f, "{comma}after-{status}"))
    }
}

impl Serialize for Why {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// One credential that enters, or would have entered, the request.
#[derive(Clone, Debug, Serialize)]
pub struct Use {
    /// Which.
    pub credential: Name,
    /// Which version of it; none when it was refused before a version was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Where it enters: `header:authorization`. Of a refused request where its reference stands; none
    /// when that has not the shape of any slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Why this one.
    #[serde(rename = "chosen_by", skip_serializing_if = "Why::is_plain")]
    pub why: Why,
}

/// The record before the call. Holds what the agent sent, never a query value, a header value or
/// what a reference became. Texts from the network are cut to a bound by who fills this in; JSON
/// escapes the rest.
#[derive(Clone, Debug, Serialize)]
pub struct Access<'a> {
    /// Which request.
    pub request_id: RequestId,
    /// The workspace of a call of Locum's own, which no agent is behind; an agent's stands among its
    /// fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<&'a Name>,
    /// Who; none when the proxy credentials were bad.
    #[serde(flatten)]
    pub agent: Option<Who<'a>>,
    /// From where.
    pub peer: Option<Peer>,
    /// What was shown at the door, whoever the agent was by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<&'a ClientCertificate>,
    /// `https://host` or `https://host:port`.
    pub destination: &'a str,
    /// `CONNECT` for an opaque tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// As the agent sent it, without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// Whether it asks to go on as a WebSocket.
    #[serde(skip_serializing_if = "is_false")]
    pub websocket: bool,
    /// The methods that its fields ask for in place of its own, with commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method_override: Option<&'a str>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// The generation of the policy that decided: counts loads since the process started.
    pub policy_generation: u64,
    /// The first eight bytes, in hex, of the SHA-256 of the policy's files.
    pub policy_digest: &'a str,
    /// The first credential; nearly always the only one.
    #[serde(flatten)]
    pub credential: Option<&'a Use>,
    /// The others.
    #[serde(skip_serializing_if = "<[Use]>::is_empty")]
    pub more_credentials: &'a [Use],
    /// The name of a reference to nothing in a slot; none where that may be a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_reference: Option<&'a Name>,
    /// In which slot it stands: there whether its name is told or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_in: Option<&'a str>,
    /// References that stood outside the slots.
    #[serde(skip_serializing_if = "is_zero")]
    pub misplaced: usize,
    /// The outcome of the decision.
    pub decision: Decision,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Why not, in words that only the operator sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// What rules with `mode: shadow` would have made of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowDecision<'a>>,
}

impl<'a> Access<'a> {
    /// A permitted call to `destination`, of which nothing else is known yet.
    #[must_use]
    pub fn new(request_id: RequestId, destination: &'a str) -> Self {
        Self {
            request_id,
            workspace: None,
            agent: None,
            peer: None,
            client_certificate: None,
            destination,
            method: None,
            path: None,
            websocket: false,
            method_override: None,
            rule: None,
            policy_generation: 0,
            policy_digest: "",
            credential: None,
            more_credentials: &[],
            unknown_reference: None,
            unknown_in: None,
            misplaced: 0,
            decision: Decision::Permit,
            code: None,
            reason: None,
            shadow: None,
        }
    }
}

/// A decision that was recorded and not enforced: a permit, unless there is a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ShadowDecision<'a> {
    /// The rule that would have decided, where one would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// With what it would have been refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's skip_serializing_if passes a reference.
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// The agent's fields of a record.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Who<'a> {
    /// The unit of isolation.
    pub workspace: &'a Name,
    /// The agent.
    pub agent: &'a Name,
    /// Which of its tokens, or what took a token's place.
    pub token_id: &'a str,
    /// What it showed: [`Proof::as_str`](crate::agent::Proof::as_str).
    pub authenticated_by: &'static str,
    /// As its starter said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<&'a Label>,
    /// As its starter said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'a Label>,
    /// As its starter said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a Label>,
    /// The environment that its run token fixes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<&'a Name>,
    /// What it is labelled with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<&'a Labels>,
    /// The credentials and sets that its run token leaves it, where that is narrower than the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_token_use: Option<&'a [Name]>,
}

impl<'a> From<&'a Identity> for Who<'a> {
    fn from(id: &'a Identity) -> Self {
        Self {
            workspace: &id.workspace,
            agent: &id.agent,
            token_id: &id.token_id,
            authenticated_by: id.proof.as_str(),
            run: id.context.run.as_ref(),
            node: id.context.node.as_ref(),
            user: id.context.user.as_ref(),
            environment: id.environment(),
            labels: Some(&id.labels).filter(|labels| !labels.is_empty()),
            run_token_use: id.run_token().and_then(|claims| claims.uses.as_deref()),
        }
    }
}

/// The record after the call: when the body ended, broke, or was dropped.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Which request.
    pub request_id: RequestId,
    /// How it ended.
    pub ending: Ending,
    /// Locum's code, when Locum made the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The status that the agent got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What the origin said of the credential by its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complaint: Option<Complaint>,
    /// Bytes of body (or tunnel) from the agent to the upstream.
    pub bytes_up: u64,
    /// Bytes of body (or tunnel) that were handed on to the agent.
    pub bytes_down: u64,
    /// How often the credential was found in the answer, and replaced.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub scrubbed: u64,
    /// Whether the answer's body passed without being searched, by a rule that says so.
    #[serde(skip_serializing_if = "is_false")]
    pub unsearched: bool,
    /// How many references stood outside the slots in what of the body came behind the beginning that was
    /// decided on. The access record has those before it.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub misplaced: u64,
    /// From sending the request to the answer's head, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_us: Option<u64>,
    /// From the first byte of the request to the end, in microseconds.
    pub total_us: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's skip_serializing_if passes a reference.
fn is_false(flag: &bool) -> bool {
    !flag
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's skip_serializing_if passes a reference.
fn is_zero_u64(n: &u64) -> bool {
    *n == 0
}

/// Something that is no request: the proxy started or stopped, the policy was reloaded, the vault
/// was changed.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// A stable word: `proxy-started`, `policy-reloaded`, `credential-rotated`.
    pub event: &'static str,
    /// Where it happened, if in a workspace and not to the home as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Name>,
    /// What it happened to: a credential, an agent, a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// More, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The operating system's user who did it, where a person did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The vault's epoch after it, for changes of the vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault_epoch: Option<u64>,
}

/// The record was not written. The cause is in the sink's own state, log and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unrecorded;

/// Where records go.
pub trait AuditSink: Send + Sync {
    /// Writes the access record. When this returns `Ok`, the record survives `kill -9`.
    ///
    /// # Errors
    /// [`Unrecorded`], and then nothing may go upstream.
    fn access(&self, record: &Access<'_>) -> Result<(), Unrecorded>;

    /// Takes an access record, to write it together with others that come meanwhile. What
    /// [`AuditSink::written`] wants to know of it; none where it is written.
    ///
    /// # Errors
    /// [`Unrecorded`], and then nothing may go upstream.
    fn take(&self, record: &Access<'_>) -> Result<Option<Arc<Commit>>, Unrecorded> {
        self.access(record).map(|()| None)
    }

    /// Writes what was taken, if nobody has. When this returns `Ok`, it survives `kill -9`.
    ///
    /// # Errors
    /// [`Unrecorded`], and then nothing may go upstream.
    fn written(&self, commit: &Commit) -> Result<(), Unrecorded> {
        commit.is_written().then_some(()).ok_or(Unrecorded)
    }

    /// Writes the outcome record. A failure is the sink's to report: the call has been made.
    fn outcome(&self, record: &Outcome);

    /// Writes an event.
    ///
    /// # Errors
    /// [`Unrecorded`]; the caller decides whether it can go on.
    fn event(&self, record: &Event) -> Result<(), Unrecorded>;
}

/// What becomes of records that are written together. Who cannot read a result from it has none.
#[derive(Debug, Default)]
pub struct Commit(AtomicU8);

const WAITING: u8 = 0;
const WRITTEN: u8 = 1;
const FAILED: u8 = 2;

impl Commit {
    pub(crate) fn settle(&self, written: bool) {
        self.0.store(if written { WRITTEN } else { FAILED }, Ordering::Release);
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.0.load(Ordering::Acquire) == WAITING
    }

    /// Whether they are written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.0.load(Ordering::Acquire) == WRITTEN
    }
}

/// An access record that a sink has taken, and that nothing may leave on before it is written.
#[derive(Debug)]
#[must_use]
pub struct Taken(Option<Arc<Commit>>);

impl Taken {
    /// Hands a record over.
    ///
    /// # Errors
    /// [`Unrecorded`] when the sink did not take it.
    pub fn by(sink: &dyn AuditSink, record: &Access<'_>) -> Result<Self, Unrecorded> {
        sink.take(record).map(Self)
    }
}

/// Something that may leave, because its access record was written.
#[derive(Debug)]
#[must_use]
pub struct Recorded<T>(T);

impl<T> Recorded<T> {
    /// Writes the record, and only then lets `value` go on.
    ///
    /// # Errors
    /// [`Unrecorded`] when the sink did not take it; `value` is gone.
    pub fn new(value: T, sink: &dyn AuditSink, record: &Access<'_>) -> Result<Self, Unrecorded> {
        sink.access(record)?;
        Ok(Self(value))
    }

    /// Has the record that was taken written, and only then lets `value` go on. The more records come in between,
    /// the more are written at once.
    ///
    /// # Errors
    /// [`Unrecorded`] when it was not written; `value` is gone.
    pub fn once_written(value: T, sink: &dyn AuditSink, taken: Taken) -> Result<Self, Unrecorded> {
        let Taken(commit) = taken;
        commit.map_or(Ok(()), |commit| sink.written(&commit))?;
        Ok(Self(value))
    }

    /// The same thing in another form. For the crate's own steps between record and wire.
    pub(crate) fn map<U>(self, f: impl FnOnce(T) -> U) -> Recorded<U> {
        Recorded(f(self.0))
    }

    /// What was recorded.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// A look at it.
    pub fn get(&self) -> &T {
        &self.0
    }
}
