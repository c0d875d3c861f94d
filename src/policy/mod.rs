//! Who may use which credential where: the compiled policy and its decision.
//!
//! Everything is decided on what goes on the wire, per request. What no rule allows is refused. A
//! [`Permit`] is the only way on, and [`Policy::authorize`] the only way to one.

mod approval;
mod candidates;
mod capture;
mod cases;
mod choice;
mod compile;
mod conditions;
mod diff;
mod explain;
mod learn;
mod limits;
mod line;
mod lint;
mod path;
mod read;
mod retry;
mod rule;
mod standing;
mod text;
mod when;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::iter::once;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};

pub use approval::Approval;
pub use capture::Capture;
pub use cases::{
    Answer, Case, Expected, Given, Inquiry, Referred, Wish, WishError, Word, supposed,
};
pub use choice::Alternative;
pub use compile::{
    Compiled, FIRST_POLICY, ORGANISATION, SCHEMA, STRICT_POLICY, compile, compile_all,
};
pub use diff::{Change, Combination};
pub use explain::{Explanation, Verdict as RuleVerdict};
pub use learn::{Act, Learned, Learner, Lesson, Observed};
pub use limits::{Limits, Met, Meters, Per, Queue, Rate, RateError, Ticket, Waiting};
pub use lint::{Lint, LintKind};
pub use path::{PathError, PathPattern};
pub use retry::{Cause, Causes, Retry};
pub use rule::Check;
pub use standing::Standing;
pub use text::{TextError, TextPattern};

use candidates::Candidates;
use choice::{Picked, is_for};
use limits::Meter;
use rule::{Agents, Asked, Rule, Uses};

use crate::agent::Identity;
use crate::credential::{Credential, CredentialIndex, Kind as CredentialKind, Older, Slot, Within};
use crate::document::Position;
use crate::host::{Authority, Origin, Scheme};
use crate::inject::References;
use crate::outcome::{Code, Refusal, reason};
use crate::record::Why;
use crate::reference::Name;
use crate::request::{BodyKind, InboundRequest};
use crate::scrub::Undecodable;

/// All rules in force, ready to decide.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    candidates: Candidates,
    /// Whether any rule is only recorded.
    shadows: bool,
    /// Whether the organisation's rules bound what others allow: those in force, and with those that
    /// are only recorded.
    bounded: (bool, bool),
    files: Vec<Arc<str>>,
    digest: String,
}

/// How long the origin may take, where a rule says so: in place of `upstream.timeouts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the head of the answer.
    pub response: Option<Duration>,
    /// Between two pieces of a body.
    pub idle: Option<Duration>,
}

impl Timeouts {
    /// The shorter of two, each.
    fn within(self, bound: Option<Self>) -> Self {
        let Some(bound) = bound else { return self };
        let shorter = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        Self {
            response: shorter(self.response, bound.response),
            idle: shorter(self.idle, bound.idle),
        }
    }
}

/// The names in one rule. `*` is none of them, and groups are their members.
#[derive(Clone, Debug)]
pub struct RuleNames<'p> {
    /// The rule's own.
    pub rule: &'p str,
    /// Of agents, in order.
    pub agents: Vec<&'p Name>,
    /// Of credentials and sets, in order.
    pub uses: Vec<&'p Name>,
}

fn sorted(names: &HashSet<Name>) -> Vec<&Name> {
    let mut names: Vec<&Name> = names.iter().collect();
    names.sort_unstable();
    names
}

/// What to do with a CONNECT. A refusal is not among them: it is given inside the intercepted
/// tunnel, because clients hide the body of a failed CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelDecision {
    /// TLS ends here, and each request is decided on.
    Intercept,
    /// Bytes are copied. No credential is bound to the host.
    Opaque {
        /// The rule that allows it.
        rule: Arc<str>,
        /// What the tunnel has to be let in by.
        meters: Meters,
        /// Whether it is refused when it is not as usual for its agent.
        refuse_unusual: bool,
    },
}

/// The right to send one request with the credentials it names. Cannot be copied, and cannot be
/// made but by [`Policy::authorize`]:
///
/// ```compile_fail
/// let permit = locum::policy::Permit { rule: "mine".into(), grants: Vec::new(), always: false };
/// ```
#[derive(Debug)]
#[must_use]
pub struct Permit {
    rule: Arc<str>,
    grants: Vec<Grant>,
    hidden: Vec<Grant>,
    timeouts: Timeouts,
    retry: Option<Retry>,
    undecodable: Undecodable,
    captures: Arc<[Capture]>,
    meters: Meters,
    approval: Option<Approval>,
    cut_when_withdrawn: bool,
    refuse_misplaced: bool,
    refuse_unusual: bool,
}

/// One credential that may enter the request, and where.
#[derive(Debug)]
pub struct Grant {
    credential: Arc<Credential>,
    version: u32,
    slot: usize,
    placeholder: Arc<str>,
    why: Why,
    /// What could be injected in its place, where several are equal.
    pool: Box<[Alternative]>,
}

impl Grant {
    /// A live credential in its first slot, with its own placeholder.
    fn whole(credential: &Arc<Credential>) -> Option<Self> {
        let (version, placeholder) = (credential.version?, credential.placeholder().into());
        let credential = Arc::clone(credential);
        let why = Why::default();
        Some(Self { credential, version, slot: 0, placeholder, why, pool: Box::default() })
    }

    /// An older version of the same, in the same place.
    fn of(&self, older: Older) -> Self {
        Self {
            credential: Arc::clone(&self.credential),
            version: older.version,
            slot: self.slot,
            placeholder: Arc::clone(&self.placeholder),
            why: Why::default(),
            pool: Box::default(),
        }
    }

    /// A live credential where a request needs no reference to say where it goes.
    fn alone(credential: &Arc<Credential>) -> Option<Self> {
        let slot = credential.slots.iter().position(crate::credential::Slot::stands_alone)?;
        let why = Why { unasked: true, ..Why::default() };
        Some(Self { slot, why, ..Self::whole(credential)? })
    }

    /// Which credential.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The same, for those who keep it.
    #[must_use]
    pub fn shared(&self) -> &Arc<Credential> {
        &self.credential
    }

    /// Which version of it.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The same for the record: none of what has no versions.
    #[must_use]
    pub fn numbered(&self) -> Option<u32> {
        Some(self.version).filter(|_| self.credential.as_text().is_none())
    }

    /// What stands for the secret in what the agent sees.
    #[must_use]
    pub fn placeholder(&self) -> &Arc<str> {
        &self.placeholder
    }

    /// The index of the slot among the credential's.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }
}

impl Permit {
    /// The rule that decided.
    #[must_use]
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }

    /// What this request does not carry, but others of the same agent to the same origin may: an
    /// origin can show in one answer what another request brought. Opened to be scrubbed, and never
    /// injected.
    #[must_use]
    pub fn hidden(&self) -> &[Grant] {
        &self.hidden
    }

    /// Whether any of its values may have to be waited for.
    #[must_use]
    pub fn is_supplied(&self) -> bool {
        self.grants.iter().chain(&self.hidden).any(|grant| grant.credential.is_supplied())
    }

    /// Whether any of its credentials signs with a shared key, and so needs the time and a nonce.
    #[must_use]
    pub fn is_stamped(&self) -> bool {
        let kinds = self.grants.iter().map(|grant| &grant.credential.properties.kind);
        kinds.flatten().any(|kind| matches!(kind, CredentialKind::Hmac(_)))
    }

    /// Whether any of its credentials cannot enter before all of the body is there.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        let kinds = self.grants.iter().map(|grant| &grant.credential.properties.kind);
        kinds.flatten().any(CredentialKind::reads_body)
    }

    /// How long the origin may take, by the rule that decided.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Whether the request is sent again when its origin fails, by the rule that decided.
    #[must_use]
    pub fn retry(&self) -> Option<Retry> {
        self.retry
    }

    /// What is taken out of the answer, and kept.
    #[must_use]
    pub fn captures(&self) -> &Arc<[Capture]> {
        &self.captures
    }

    /// What becomes of an answer that cannot be searched, by the rule that decided.
    #[must_use]
    pub fn undecodable(&self) -> Undecodable {
        self.undecodable
    }

    /// Whether the request is cut when its rule is withdrawn before it is over.
    #[must_use]
    pub fn is_cut_when_withdrawn(&self) -> bool {
        self.cut_when_withdrawn
    }

    /// Whether the request is refused when it is not as usual for its agent.
    #[must_use]
    pub fn refuses_unusual(&self) -> bool {
        self.refuse_unusual
    }

    /// Whether a reference outside the slots is refused.
    #[must_use]
    pub fn refuses_misplaced(&self) -> bool {
        self.refuse_misplaced
    }

    /// Whether a person has to approve the request first.
    #[must_use]
    pub fn approval(&self) -> Option<Approval> {
        self.approval
    }

    /// Lets the request in by the limits of the rule that decided, if it has any: one that has just come,
    /// or one that is `waiting`.
    ///
    /// # Errors
    /// `rate-limited`, by a limit that can perhaps be waited for.
    pub fn admit(
        &self,
        agent: &Name,
        now: Duration,
        waiting: Option<&Waiting>,
    ) -> Result<Option<Arc<Ticket>>, Box<Met>> {
        let credentials = self.grants.iter().map(|grant| &grant.credential.name);
        self.meters.enter(agent, &credentials, now, waiting).map_err(|mut met| {
            met.refusal.rule = Some(Arc::clone(&self.rule));
            met
        })
    }

    /// What may be injected. Empty for a request that needs no credential.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }
}

/// What a rule allows or does not. A socket is no GET, though it begins with one: what passes in it
/// afterwards is no more a reading than a writing.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Request(&'a Method),
    WebSocket,
}

impl<'a> Kind<'a> {
    fn of(request: &'a InboundRequest) -> Self {
        request.websocket().map_or(Self::Request(request.method()), |_| Self::WebSocket)
    }
}

/// What one reading of a request leads to. Two readings that differ here are refused.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// The rule that decided, by index.
    rule: u32,
    /// For each credential of the request, the rule that grants it.
    granted: Vec<u32>,
    /// For a request without references, the rule whose credentials enter it all the same.
    always: Option<u32>,
    /// The organisation's rule that lets it.
    bound: Option<u32>,
}

/// What the rules of one layer that match have to say.
#[derive(Default)]
struct Found {
    first: Option<u32>,
    always: Option<u32>,
    granted: Vec<Option<u32>>,
}

impl Found {
    fn new(credentials: usize) -> Self {
        Self { granted: vec![None; credentials], ..Self::default() }
    }

    fn note(
        &mut self,
        (at, rule): (u32, &Rule),
        asked: Asked<'_>,
        credentials: &[&Credential],
        index: &CredentialIndex,
    ) {
        let (origin, within) = (asked.origin, Within::One(asked.who.environment()));
        self.first.get_or_insert(at);
        let unreferred = self.always.is_none() && credentials.is_empty();
        if unreferred && rule.injects_at(origin, index, within) {
            self.always = Some(at);
        }
        for (grant, credential) in self.granted.iter_mut().zip(credentials) {
            if grant.is_none() && rule.uses.contain(credential, index) {
                *grant = Some(at);
            }
        }
    }

    /// The rule that decided: the one that grants the first credential, else the first that matches.
    fn decided(&self) -> Option<u32> {
        self.granted.first().copied().flatten().or(self.always).or(self.first)
    }
}

/// What the rules that are only recorded would have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The rule, where one would have decided.
    pub rule: Option<Arc<str>>,
    /// With what code it would have been refused; none for a permit.
    pub code: Option<Code>,
}

/// Up to how many credentials of one host all answers of it are searched for each, whoever asks. A search for
/// one costs its opening and some microseconds for its forms; few hosts have more than a handful.
const HIDDEN_FROM_ALL: usize = 16;

impl Policy {
    fn new(rules: Vec<Rule>, files: Vec<Arc<str>>, digest: String) -> Self {
        let bounds =
            |shadows| rules.iter().any(|r| r.organisation && !r.deny && (shadows || !r.shadow));
        Self {
            candidates: Candidates::of(&rules),
            shadows: rules.iter().any(|rule| rule.shadow),
            bounded: (bounds(false), bounds(true)),
            files,
            digest,
            rules,
        }
    }

    /// Goes on counting where `old` was, for each rule that has the same name and the same limits
    /// in both: a reload gives nobody a fresh allowance.
    pub fn take_over(&mut self, old: &Self) {
        let counted = |rule: &&Rule| rule.meter.is_some();
        if !self.rules.iter().any(|rule| counted(&rule)) {
            return;
        }
        let before: HashMap<&str, &Arc<Meter>> =
            old.rules.iter().filter_map(|rule| Some((&*rule.name, rule.meter.as_ref()?))).collect();
        for rule in &mut self.rules {
            let Some(meter) = &mut rule.meter else { continue };
            if let Some(old) = before.get(&*rule.name).filter(|o| o.limits() == meter.limits()) {
                *meter = Arc::clone(old);
            }
        }
    }

    /// The first eight bytes, in hex, of the SHA-256 of the policy's files.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The file of a rule, as its source is named, and where in it the rule begins.
    #[must_use]
    pub fn place(&self, rule: &str) -> Option<(&str, Position)> {
        let place = self.rules.iter().find(|r| *r.name == *rule)?.place;
        Some((self.files.get(place.file as usize)?, place.at))
    }

    /// The file of a test, and where in it the test begins.
    #[must_use]
    pub fn place_of(&self, case: &Case) -> (&str, Position) {
        (self.files.get(case.place.file as usize).map_or("", |file| file), case.place.at)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule, and so nothing is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The names that each rule has in it, for checks against a vault.
    pub fn names(&self) -> impl Iterator<Item = RuleNames<'_>> {
        self.rules.iter().map(|rule| RuleNames {
            rule: &rule.name,
            agents: match &rule.agents {
                Agents::Any => Vec::new(),
                Agents::Some { names, .. } => sorted(names),
            },
            uses: match &rule.uses {
                Uses::All => Vec::new(),
                Uses::Named(names) => sorted(names),
            },
        })
    }

    /// The rules that allow and have one of these names in them, or name no credential: each with its
    /// agents as it names them.
    #[must_use]
    pub fn users_of(&self, names: &[&Name]) -> Vec<(&str, Vec<String>)> {
        let allows =
            |rule: &&Rule| !rule.deny && !rule.shadow && !rule.organisation && !rule.opaque;
        let named = |rule: &&Rule| match &rule.uses {
            Uses::All => true,
            Uses::Named(uses) => names.iter().any(|name| uses.contains(*name)),
        };
        let agents = |rule: &Rule| match &rule.agents {
            Agents::Any => vec!["any agent".to_owned()],
            Agents::Some { names, labelled } => {
                let names = sorted(names).into_iter().map(ToString::to_string);
                names.chain((!labelled.is_empty()).then(|| "agents by label".to_owned())).collect()
            }
        };
        let rules = self.rules.iter().filter(allows).filter(named);
        rules.map(|rule| (&*rule.name, agents(rule))).collect()
    }

    /// The rules that may match, in the order of the document.
    fn candidates<'p>(
        &'p self,
        who: &Identity,
        origin: &Origin,
        index: &CredentialIndex,
    ) -> impl Iterator<Item = (u32, &'p Rule)> {
        let found = self.candidates.find(who, origin, index);
        found.filter_map(|at| Some((at, self.rules.get(at as usize)?)))
    }

    /// Decides on a CONNECT to `authority`, at a second of Unix time. A host to which any credential of
    /// the workspace is bound is always intercepted: it must never be reachable uninspected. So is one
    /// of which any rule has something to say that cannot be seen from outside.
    #[must_use]
    pub fn tunnel(
        &self,
        who: &Identity,
        authority: &Authority,
        index: &CredentialIndex,
        at: i64,
    ) -> TunnelDecision {
        let headers = HeaderMap::new();
        let kind = Kind::Request(&Method::CONNECT);
        let (mut opaque, mut bound) = (None, None);
        for scheme in [Scheme::Https, Scheme::Http] {
            let origin = &Origin { scheme, authority: authority.clone() };
            if scheme == Scheme::Https && index.concerned(origin).next().is_some() {
                return TunnelDecision::Intercept;
            }
            let asked = Asked { who, origin, kind, query: None, headers: &headers, at };
            for (_, rule) in self.candidates(who, origin, index) {
                if rule.shadow || !rule.concerns(asked, index) {
                    continue;
                }
                if rule.deny || !rule.opaque {
                    return TunnelDecision::Intercept;
                }
                let layer = if rule.organisation { &mut bound } else { &mut opaque };
                layer.get_or_insert(rule);
            }
        }
        let bound = match (self.bounded.0, bound) {
            (true, None) => return TunnelDecision::Intercept,
            (_, bound) => bound,
        };
        opaque.map_or(TunnelDecision::Intercept, |rule: &Rule| TunnelDecision::Opaque {
            rule: Arc::clone(&rule.name),
            meters: rule.meters().and(bound),
            refuse_unusual: rule.refuse_unusual || bound.is_some_and(|bound| bound.refuse_unusual),
        })
    }

    /// Decides on one request, at a second of Unix time. Every reading of its path must lead to the
    /// same decision.
    ///
    /// # Errors
    /// `not-allowed`, `credential-refused`, `slot-mismatch`, `misplaced-reference`,
    /// `plaintext-refused`, `ambiguous-path`.
    pub fn authorize(
        &self,
        who: &Identity,
        request: &InboundRequest,
        references: &References,
        index: &CredentialIndex,
        at: i64,
    ) -> Result<Permit, Refusal> {
        let question = Question { who, request, references, index, at };
        let (verdict, grants) = self.decide(question, false)?;
        let rule = &self.rules[verdict.rule as usize];
        let bound = verdict.bound.and_then(|at| self.rules.get(at as usize));
        let hidden = self.hidden(who, request.origin(), &grants, index);
        Ok(Permit {
            rule: Arc::clone(&rule.name),
            grants,
            hidden,
            timeouts: rule.timeouts.within(bound.map(|bound| bound.timeouts)),
            retry: rule.retry,
            undecodable: bound.map_or(rule.undecodable, |bound| {
                // Passes only what both let pass.
                if bound.undecodable == Undecodable::Refuse {
                    bound.undecodable
                } else {
                    rule.undecodable
                }
            }),
            captures: Arc::clone(&rule.captures),
            meters: rule.meters().and(bound),
            approval: self.approval(&verdict),
            cut_when_withdrawn: rule.cut_when_withdrawn
                || bound.is_some_and(|bound| bound.cut_when_withdrawn),
            refuse_misplaced: self.deciding(&verdict).any(|rule| rule.refuse_misplaced),
            refuse_unusual: self.refuses_unusual(&verdict),
        })
    }

    /// The rule that decided, and the organisation's.
    fn deciding(&self, verdict: &Verdict) -> impl Iterator<Item = &Rule> {
        let deciding = [Some(verdict.rule), verdict.bound].into_iter().flatten();
        deciding.filter_map(|at| self.rules.get(at as usize))
    }

    /// Whether a rule that this verdict stands on wants a person to be asked: the one that decided, the
    /// ones that grant its credentials, and the organisation's.
    fn approval(&self, verdict: &Verdict) -> Option<Approval> {
        let mut wanted = self.standing_on(verdict).filter_map(|rule| rule.approval);
        let first = wanted.next()?;
        // The first says how, and whoever wants the most people says how many.
        let approvers = wanted.fold(first.approvers, |most, other| most.max(other.approvers));
        Some(Approval { approvers, ..first })
    }

    /// Whether one of them wants what is not as usual to be refused.
    fn refuses_unusual(&self, verdict: &Verdict) -> bool {
        self.standing_on(verdict).any(|rule| rule.refuse_unusual)
    }

    fn standing_on<'p>(&'p self, verdict: &'p Verdict) -> impl Iterator<Item = &'p Rule> {
        let Verdict { rule, granted, always, bound } = verdict;
        let rules = once(*rule).chain(granted.iter().copied()).chain(*always).chain(*bound);
        rules.filter_map(|at| self.rules.get(at as usize))
    }

    /// How the body is written, if it has to be read before the request is decided on: when a
    /// credential that the agent may use here has a slot in such a body, and the head does not refer
    /// to it. Every other body stays a stream that nobody looks at.
    #[must_use]
    pub fn wants_body(
        &self,
        who: &Identity,
        request: &InboundRequest,
        references: &References,
        (index, at): (&CredentialIndex, i64),
    ) -> Option<BodyKind> {
        if !index.has_body_slots() || request.origin().scheme != Scheme::Https {
            return None;
        }
        let body = BodyKind::of(request.headers())?;
        self.may_enter((who, at), request, references, index, &body).then_some(body)
    }

    /// Whether the first messages of the WebSocket that `request` opens have to be read, because a
    /// credential may enter them.
    #[must_use]
    pub fn wants_messages(
        &self,
        who: &Identity,
        request: &InboundRequest,
        references: &References,
        (index, at): (&CredentialIndex, i64),
    ) -> bool {
        index.has_message_slots()
            && request.websocket().is_some()
            && request.origin().scheme == Scheme::Https
            && self.may_enter((who, at), request, references, index, &BodyKind::Message)
    }

    fn may_enter(
        &self,
        (who, at): (&Identity, i64),
        request: &InboundRequest,
        references: &References,
        index: &CredentialIndex,
        body: &BodyKind,
    ) -> bool {
        let (asked, origin) = (Asked::of(who, request, at), request.origin());
        let within = Within::One(who.environment());
        let enters = |credential: &Arc<Credential>| {
            // A revoked one as well: its use is to be refused, and not passed as text.
            credential.slots.iter().any(|slot| body.has(slot)) && !references.refer_to(credential)
        };
        let wants = |rule: &Rule| {
            let readings = request.other_readings().iter().map(String::as_str);
            let mut paths = once(request.path()).chain(readings);
            let allows = !rule.deny && !rule.shadow;
            allows
                && paths.any(|path| rule.matches(asked, path, index))
                && rule.uses.bound_to(origin, index, within).any(enters)
        };
        self.candidates(who, origin, index).any(|(_, rule)| wants(rule))
    }

    /// Whether a permit holds for every reading of `path`, which is what its request's path becomes
    /// once the secret is in it.
    ///
    /// # Errors
    /// `ambiguous-path`.
    pub fn holds_for(
        &self,
        who: &Identity,
        request: &InboundRequest,
        permit: &Permit,
        path: &str,
        (index, at): (&CredentialIndex, i64),
    ) -> Result<(), Refusal> {
        let asked = Asked::of(who, request, at);
        let credentials: Vec<&Credential> = permit.grants.iter().map(Grant::credential).collect();
        let decide = |path: &str| self.verdict(asked, path, &credentials, index, false);
        let verdict = decide(path);
        let same = |reading: &String| decide(reading) == verdict;
        if crate::request::readings(path)?.iter().all(same) {
            return Ok(());
        }
        Err(Refusal::new(Code::AmbiguousPath)
            .because("the policy decides differently on a reading of the path with the secret"))
    }

    /// What the rules that are only recorded would have made of a request on which `authorize` gave
    /// this decision. None where there is no such rule, or where none of them has anything to say.
    #[must_use]
    pub fn shadow(&self, question: Question<'_>, decision: Result<(), Code>) -> Option<Shadow> {
        if !self.shadows {
            return None;
        }
        let (rule, code) = match self.decide(question, true) {
            Ok((verdict, _)) => {
                (self.rules.get(verdict.rule as usize).map(|r| r.name.clone()), None)
            }
            Err(refusal) => (refusal.rule, Some(refusal.code)),
        };
        let shadowed = |name: &Arc<str>| self.rules.iter().any(|r| r.shadow && r.name == *name);
        let differs = code.is_some() != decision.is_err();
        (differs || rule.as_ref().is_some_and(shadowed)).then_some(Shadow { rule, code })
    }

    /// The decision, by the rules that are in force, or with those that are only recorded.
    fn decide(
        &self,
        question: Question<'_>,
        shadows: bool,
    ) -> Result<(Verdict, Vec<Grant>), Refusal> {
        let Question { who, request, references, index, at } = question;
        let origin = request.origin();
        let (mut picked, mut problem) = match usable(who, references, origin, index) {
            Ok(picked) => (picked, None),
            Err(refusal) => (Vec::new(), Some(refusal)),
        };
        let asked = Asked::of(who, request, at);
        for one in &mut picked {
            let path = request.path();
            let allows = |c: &Credential| {
                self.verdict(asked, path, &[c], index, shadows).is_ok() && !leads_back(c, request)
            };
            problem = problem.or(one.choose((who, index), origin, allows).err());
        }
        if problem.is_some() {
            picked.clear();
        }
        let credentials: Vec<&Credential> = picked.iter().map(|one| &**one.credential).collect();
        let back = credentials.iter().any(|credential| leads_back(credential, request));
        let problem = problem.or_else(|| back.then(to_its_source));
        let decide = |path: &str| self.verdict(asked, path, &credentials, index, shadows);
        let verdict = decide(request.path());
        for method in request.other_methods() {
            let other = Asked { kind: Kind::Request(method), ..asked };
            let path = request.path();
            if self.verdict(other, path, &credentials, index, shadows) != verdict {
                return Err(Refusal::new(Code::MethodRefused).because(
                    "the policy decides differently on the method that a field asks for",
                ));
            }
        }
        for reading in request.other_readings() {
            if decide(reading) != verdict {
                return Err(Refusal::new(Code::AmbiguousPath)
                    .because("the policy decides differently on another reading of the path"));
            }
        }
        // An agent that may not go there at all learns nothing of credentials; the record does.
        let why = problem.as_ref().and_then(|refusal| refusal.reason);
        let verdict = verdict.map_err(|denied| self.refusal(denied, asked.kind, why))?;
        if let Some(refusal) = problem {
            return Err(refusal);
        }
        // Said only now: to an agent that may not use the credential, it does not exist.
        if picked.iter().any(|one| !one.has_slot()) {
            return Err(Refusal::new(Code::SlotMismatch));
        }
        if let Some(fault) = references.fault() {
            return Err(Refusal::with_detail(Code::BodyUnreadable, fault));
        }
        let refuses = || self.deciding(&verdict).any(|rule| rule.refuse_misplaced);
        if references.misplaced() > 0 && refuses() {
            return Err(Refusal::new(Code::Misplaced));
        }
        let mut grants: Vec<Grant> = picked.iter().filter_map(Picked::grant).collect();
        if let Some(always) = verdict.always {
            grants = self.unreferenced(always, asked, index);
            if grants.iter().any(|grant| !within(who, &grant.credential, index)) {
                return Err(Refusal::new(Code::CredentialRefused).because(reason::NOT_OF_THE_RUN));
            }
            if grants.iter().any(|grant| leads_back(&grant.credential, request)) {
                return Err(to_its_source());
            }
            if !grants.is_empty() && origin.scheme != Scheme::Https {
                return Err(Refusal::new(Code::Plaintext));
            }
        }
        // Texts of values behind what is secret, of which there may be another to try.
        grants.sort_by_key(|grant| grant.credential.as_text().is_some());
        if index.has_certificates() && origin.scheme == Scheme::Https {
            grants.extend(self.certificate(question, shadows)?);
        }
        Ok((verdict, grants))
    }

    /// The client certificate that goes with a request: the first by name of those that are bound there,
    /// are for the caller, and that the rules grant. Nothing of a request refers to one.
    fn certificate(
        &self,
        Question { who, request, index, at, .. }: Question<'_>,
        shadows: bool,
    ) -> Result<Option<Grant>, Refusal> {
        let (asked, node) = (Asked::of(who, request, at), who.context.node.as_ref());
        let is_one = |c: &&Arc<Credential>| {
            c.slots.contains(&Slot::Certificate)
                && c.version.is_some()
                && within(who, c, index)
                && c.is_for(node, |owner| is_for(who, owner, index))
        };
        let mut all: Vec<_> = index.bound_to(request.origin()).filter(is_one).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for one in all {
            let allows = |path: &str| self.verdict(asked, path, &[one], index, shadows).is_ok();
            let allowed = allows(request.path());
            if request.other_readings().iter().any(|reading| allows(reading) != allowed) {
                return Err(Refusal::new(Code::AmbiguousPath)
                    .because("the policy decides differently on another reading of the path"));
            }
            if allowed {
                return Ok(Grant::whole(one));
            }
        }
        Ok(None)
    }

    /// The live credentials that go to `origin`, but for `grants`: an origin may show an agent what another
    /// one's request brought. Where so many are bound to it that a search for all would slow each answer
    /// down, only those that this agent may use in any request.
    fn hidden(
        &self,
        who: &Identity,
        origin: &Origin,
        grants: &[Grant],
        index: &CredentialIndex,
    ) -> Vec<Grant> {
        let mut hidden = Vec::new();
        let mut seen: HashSet<&Name> = grants.iter().map(|g| &g.credential.name).collect();
        // Not those of other users: of thousands, all would have to be opened for each request.
        let theirs = |c: &&Arc<Credential>| {
            let their_own = c.properties.owner.as_ref();
            // Nor texts: they are no secrets.
            c.as_text().is_none() && their_own.is_none_or(|owner| is_for(who, owner, index))
        };
        let bound = || index.bound_to(origin).filter(theirs);
        let few = bound().nth(HIDDEN_FROM_ALL).is_none();
        if few {
            hidden.extend(bound().filter(|c| seen.insert(&c.name)).filter_map(Grant::whole));
        }
        for (_, rule) in self.candidates(who, origin, index).filter(|_| !few) {
            // More rather than less: what a condition leaves out now may have been used a moment ago.
            let may = !rule.deny && rule.agents.contain(&who.agent, &who.labels);
            if rule.uses.is_empty() || !may || !rule.may_name(&origin.authority.host) {
                continue;
            }
            // Those of other environments too.
            let bound = rule.uses.bound_to(origin, index, Within::Any).filter(theirs);
            hidden.extend(bound.filter(|c| seen.insert(&c.name)).filter_map(Grant::whole));
        }
        // What a run that began before a rotation still brings is shown to others as easily.
        let all = grants.iter().chain(&hidden);
        let older = all.flat_map(|grant| grant.credential.older.iter().map(|one| grant.of(*one)));
        let older: Vec<Grant> = older.collect();
        hidden.extend(older);
        hidden
    }

    fn verdict(
        &self,
        asked: Asked<'_>,
        path: &str,
        credentials: &[&Credential],
        index: &CredentialIndex,
        shadows: bool,
    ) -> Result<Verdict, Denied> {
        let bounded = if shadows { self.bounded.1 } else { self.bounded.0 };
        let mut found = Found::new(credentials.len());
        let mut bounds = bounded.then(|| Found::new(credentials.len()));
        let (mut denying, mut bounding) = (Vec::new(), Vec::new());
        for (at, rule) in self.candidates(asked.who, asked.origin, index) {
            if (rule.shadow && !shadows) || !rule.matches(asked, path, index) {
                continue;
            }
            if rule.deny {
                if rule.uses.is_empty() {
                    return Err(Denied::Rule(at));
                }
                denying.push((at, rule));
                continue;
            }
            let layer = match &mut bounds {
                Some(bounds) if rule.organisation => {
                    bounding.push(rule);
                    bounds
                }
                _ => &mut found,
            };
            layer.note((at, rule), asked, credentials, index);
        }
        let rule = found.decided().ok_or(Denied::NoRule)?;
        let granted: Option<Vec<u32>> = found.granted.into_iter().collect();
        let granted = granted.ok_or(Denied::NoGrant)?;
        let always = found.always;
        if bounds.is_some() || !denying.is_empty() {
            // Those that it refers to, or those that a rule puts into it.
            let unasked = always.map(|always| self.unreferenced(always, asked, index));
            let entering: Vec<&Credential> = match &unasked {
                Some(grants) => grants.iter().map(Grant::credential).collect(),
                None => credentials.to_vec(),
            };
            for (at, rule) in denying {
                if entering.iter().any(|credential| rule.uses.contain(credential, index)) {
                    return Err(Denied::Use(at));
                }
            }
            let granted = |c: &&Credential| bounding.iter().any(|r| r.uses.contain(c, index));
            if bounds.as_ref().is_some_and(|bounds| bounds.first.is_none()) {
                return Err(Denied::Unbound);
            }
            if bounds.is_some() && !entering.iter().all(granted) {
                return Err(Denied::UnboundUse);
            }
        }
        Ok(Verdict { rule, granted, always, bound: bounds.and_then(|bounds| bounds.decided()) })
    }

    /// What `inject: always` adds to a request that carries no reference: the live credentials of
    /// that rule that are bound here, each in the first slot of its own that says where it is.
    ///
    /// Where several serve one reference, the first by its tier that is for the caller; of a pool the
    /// first by name, because nothing here says which request is the same one.
    fn unreferenced(&self, rule: u32, asked: Asked<'_>, index: &CredentialIndex) -> Vec<Grant> {
        let Some(rule) = self.rules.get(rule as usize) else { return Vec::new() };
        let (who, node) = (asked.who, asked.who.context.node.as_ref());
        let theirs = |c: &&Arc<Credential>| c.is_for(node, |owner| is_for(who, owner, index));
        let within = Within::One(who.environment());
        let bound = rule.uses.bound_to(asked.origin, index, within).filter(theirs);
        let mut grants: Vec<Grant> = bound.filter_map(Grant::alone).collect();
        grants.sort_by_key(|grant| {
            let Credential { name, tier, properties, .. } = &*grant.credential;
            // Those that stand alone by name, as ever; others behind what they serve.
            let order = (*tier, properties.owner.is_none(), properties.nodes.is_empty());
            (grant.credential.serves().clone(), order, name.clone())
        });
        grants.dedup_by(|later, first| later.credential.serves() == first.credential.serves());
        // Two credentials cannot share a place: the first by name takes it.
        let mut taken: Vec<String> = Vec::new();
        grants.retain(|grant| {
            let place = grant.credential.slots.get(grant.slot).map(place).unwrap_or_default();
            let free = !taken.contains(&place);
            taken.push(place);
            free
        });
        grants
    }
}

/// Where a slot writes: two slots of one header are one place.
fn place(slot: &crate::credential::Slot) -> String {
    slot.header_name().map_or_else(|| slot.label(), ToString::to_string)
}

/// The references that stand in slots and can be honoured at `origin`; an error for the first that
/// cannot, in one voice whether it is unknown, revoked, or bound elsewhere.
fn usable<'r>(
    who: &Identity,
    references: &'r References,
    origin: &Origin,
    index: &CredentialIndex,
) -> Result<Vec<Picked<'r>>, Refusal> {
    let refers = references.unresolved() || !references.located().is_empty();
    if refers && origin.scheme != Scheme::Https {
        return Err(Refusal::new(Code::Plaintext));
    }
    if references.unresolved() {
        return Err(Refusal::new(Code::CredentialRefused).because(reason::UNKNOWN));
    }
    for located in references.located() {
        let credential = located.credential();
        let refuse = |why| Err(Refusal::new(Code::CredentialRefused).because(why));
        if credential.properties.honeytoken {
            return refuse(reason::HONEYTOKEN);
        }
        if !credential.is_bound_to(origin) {
            return refuse(reason::NOT_BOUND);
        }
        if credential.properties.for_sources {
            return refuse("the credential is for sources alone");
        }
        if credential.version.is_none() {
            return refuse("the credential is revoked");
        }
        let node = who.context.node.as_ref();
        if !credential.is_for(node, |owner| is_for(who, owner, index)) {
            return refuse(reason::NOT_FOR_THEM);
        }
        if !credential.is_face() && !within(who, credential, index) {
            return refuse(reason::NOT_OF_THE_RUN);
        }
    }
    Ok(references.located().iter().map(Picked::of).collect())
}

/// Whether a request goes where the credential's own tokens come from. Nobody but Locum asks there
/// with it: who shows a token there may be given another, and have it.
fn leads_back(credential: &Credential, request: &InboundRequest) -> bool {
    let source = credential.properties.kind.as_ref().and_then(CredentialKind::token_endpoint);
    let Some(source) = source.filter(|source| source.origin() == request.origin()) else {
        return false;
    };
    let bare = |path: &str| {
        path.split('?').next().unwrap_or_default().trim_end_matches('/').to_ascii_lowercase()
    };
    let own = bare(source.target());
    let readings = request.other_readings().iter().map(String::as_str);
    once(request.path()).chain(readings).any(|path| bare(path) == own)
}

fn to_its_source() -> Refusal {
    Refusal::new(Code::CredentialRefused).because(reason::TO_ITS_SOURCE)
}

/// Whether a caller's run token, if it came by one, leaves it this credential.
fn within(who: &Identity, credential: &Credential, index: &CredentialIndex) -> bool {
    let claims = who.run_token();
    let may = |name: &Name| claims.is_none_or(|claims| claims.may_use(name, |set| index.set(set)));
    claims.is_none() || credential.names().any(may)
}

/// Why a reading is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    /// No rule matches.
    NoRule,
    /// None that matches grants the credential.
    NoGrant,
    /// This rule denies it.
    Rule(u32),
    /// This rule denies it with the credential.
    Use(u32),
    /// No rule of the organisation matches.
    Unbound,
    /// None of the organisation that matches grants the credential.
    UnboundUse,
}

impl Policy {
    fn refusal(&self, denied: Denied, kind: Kind<'_>, reason: Option<&'static str>) -> Refusal {
        let by = |at: u32, refusal: Refusal| match self.rules.get(at as usize) {
            Some(rule) => refusal.by(&rule.name),
            None => refusal,
        };
        let not_allowed = || Refusal::new(Code::NotAllowed);
        let no_credential = || Refusal::new(Code::CredentialRefused);
        match denied {
            Denied::NoRule if matches!(kind, Kind::WebSocket) => Refusal {
                reason,
                ..Refusal::with_detail(
                    Code::NotAllowed,
                    "No policy rule allows this WebSocket; one that lists methods needs `websocket: allow`",
                )
            },
            Denied::NoRule => Refusal { reason, ..not_allowed() },
            Denied::NoGrant => {
                no_credential().because("no rule lets this agent use the credential here")
            }
            Denied::Rule(at) => by(at, not_allowed().because("a rule denies it")),
            Denied::Use(at) => by(at, no_credential().because("a rule denies the credential here")),
            Denied::Unbound => not_allowed().because("no rule of the organisation allows it"),
            Denied::UnboundUse => {
                no_credential().because("no rule of the organisation grants the credential here")
            }
        }
    }
}

/// All that a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub who: &'a Identity,
    /// What for.
    pub request: &'a InboundRequest,
    /// With which references.
    pub references: &'a References,
    /// To which credentials.
    pub index: &'a CredentialIndex,
    /// In which second of Unix time.
    pub at: i64,
}

impl fmt::Display for TunnelDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intercept => f.write_str("intercept"),
            Self::Opaque { rule, .. } => write!(f, "opaque by rule `{rule}`"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
