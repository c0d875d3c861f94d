//! Who may use which credential where: the compiled policy and its decision.
//!
//! Everything is decided on what goes on the wire, per request. What no rule allows is refused. A
//! [`Permit`] is the only way on, and [`Policy::authorize`] the only way to one.

mod compile;
mod limits;
mod path;
mod standing;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::iter::once;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

pub use compile::{FIRST_POLICY, STRICT_POLICY, compile};
pub use limits::{Limits, Meters, Per, Rate, RateError, Ticket};
pub use path::{PathError, PathPattern};
pub use standing::Standing;

use limits::Meter;

use crate::agent::Identity;
use crate::credential::{Credential, CredentialIndex};
use crate::host::{Authority, Destination, Host, Origin, Scheme};
use crate::inject::{Located, References};
use crate::outcome::{Code, Refusal, reason};
use crate::reference::Name;
use crate::request::{BodyKind, InboundRequest};
use crate::scrub::Undecodable;

/// All rules in force, ready to decide.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    /// Rules whose `to` names the host itself, by host.
    by_host: HashMap<Host, Vec<u32>>,
    /// Rules with a pattern in `to`, or with none.
    by_pattern: Vec<u32>,
    /// Rules that name agents, by agent.
    by_agent: HashMap<Name, Vec<u32>>,
    /// Rules for any agent.
    by_anyone: Vec<u32>,
    digest: String,
}

/// One entry of the document, as it decides.
#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    agents: Agents,
    /// `None`: wherever a credential of `uses` is bound.
    to: Option<Vec<Destination>>,
    methods: Option<Vec<Method>>,
    paths: Option<Vec<PathPattern>>,
    uses: Uses,
    opaque: bool,
    inject_always: bool,
    refuse_misplaced: bool,
    undecodable: Undecodable,
    timeouts: Timeouts,
    /// Whether sockets may be opened, where the rule says so; else its methods do.
    websocket: Option<bool>,
    meter: Option<Arc<Meter>>,
}

/// How long the origin may take, where a rule says so: in place of `upstream.timeouts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the head of the answer.
    pub response: Option<Duration>,
    /// Between two pieces of a body.
    pub idle: Option<Duration>,
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

#[derive(Debug)]
enum Agents {
    Any,
    Named(HashSet<Name>),
}

/// The credentials that a rule grants.
#[derive(Debug)]
enum Uses {
    /// `"*"`: each credential.
    All,
    /// Credentials and sets, by name.
    Named(HashSet<Name>),
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
    undecodable: Undecodable,
    meters: Meters,
}

/// One credential that may enter the request, and where.
#[derive(Debug)]
pub struct Grant {
    credential: Arc<Credential>,
    version: u32,
    slot: usize,
    placeholder: Arc<str>,
}

impl Grant {
    /// A live credential in its first slot, with its own placeholder.
    fn whole(credential: &Arc<Credential>) -> Option<Self> {
        let (version, placeholder) = (credential.version?, credential.placeholder().into());
        Some(Self { credential: Arc::clone(credential), version, slot: 0, placeholder })
    }

    /// A live credential where a request needs no reference to say where it goes.
    fn alone(credential: &Arc<Credential>) -> Option<Self> {
        let slot = credential.slots.iter().position(crate::credential::Slot::stands_alone)?;
        Some(Self { slot, ..Self::whole(credential)? })
    }

    /// Which credential.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Which version of it.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
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

    /// How long the origin may take, by the rule that decided.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// What becomes of an answer that cannot be searched, by the rule that decided.
    #[must_use]
    pub fn undecodable(&self) -> Undecodable {
        self.undecodable
    }

    /// Lets the request in by the limits of the rule that decided, if it has any.
    ///
    /// # Errors
    /// `rate-limited`.
    pub fn admit(&self, agent: &Name, now: Duration) -> Result<Option<Arc<Ticket>>, Refusal> {
        let credentials = self.grants.iter().map(|grant| &grant.credential.name);
        self.meters.admit(agent, &credentials, now).map_err(|refusal| refusal.by(&self.rule))
    }

    /// What may be injected. Empty for a request that needs no credential.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }
}

/// What is asked for, but for the path: that has readings.
#[derive(Clone, Copy)]
struct Asked<'a> {
    who: &'a Name,
    origin: &'a Origin,
    kind: Kind<'a>,
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
struct Verdict<'p> {
    /// The first rule that matches, by index.
    rule: u32,
    /// For each credential of the request, the rule that grants it.
    granted: Vec<u32>,
    /// For a request without references, the rule whose credentials enter it all the same.
    always: Option<u32>,
    name: &'p Arc<str>,
}

impl Policy {
    fn new(rules: Vec<Rule>, digest: String) -> Self {
        let mut policy = Self { digest, ..Self::default() };
        for (at, rule) in rules.iter().enumerate() {
            // A document has far fewer than 2^32 rules: its size is limited.
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            let hosts = rule.to.iter().flatten().map(|d| d.host.exact());
            let exact: Option<Vec<&Host>> = hosts.collect();
            match exact {
                Some(hosts) if rule.to.is_some() => {
                    for host in hosts {
                        let list = policy.by_host.entry(host.clone()).or_default();
                        if list.last() != Some(&at) {
                            list.push(at);
                        }
                    }
                }
                _ => policy.by_pattern.push(at),
            }
            match &rule.agents {
                Agents::Any => policy.by_anyone.push(at),
                Agents::Named(names) => {
                    for name in names {
                        policy.by_agent.entry(name.clone()).or_default().push(at);
                    }
                }
            }
        }
        policy.rules = rules;
        policy
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
                Agents::Named(names) => sorted(names),
            },
            uses: match &rule.uses {
                Uses::All => Vec::new(),
                Uses::Named(names) => sorted(names),
            },
        })
    }

    /// The rules for `agent` that may match at `origin`, in the order of the document. Found among
    /// those for the agent or those for the host, whichever are fewer: then neither many agents at one
    /// host nor one agent of many hosts makes a decision slow.
    fn candidates<'p, 'a>(
        &'p self,
        agent: &'a Name,
        origin: &'a Origin,
    ) -> impl Iterator<Item = (u32, &'p Rule)> {
        let host = &origin.authority.host;
        let there = Merge::of(self.by_host.get(host), &self.by_pattern);
        let theirs = Merge::of(self.by_agent.get(agent), &self.by_anyone);
        let fewer = if theirs.len() < there.len() { theirs } else { there };
        fewer
            .filter_map(|at| Some((at, self.rules.get(at as usize)?)))
            .filter(move |(_, rule)| rule.agents.contain(agent) && rule.may_name(host))
    }

    /// Decides on a CONNECT to `authority`. A host to which any credential of the workspace is bound
    /// is always intercepted: it must never be reachable uninspected.
    #[must_use]
    pub fn tunnel(
        &self,
        agent: &Name,
        authority: &Authority,
        index: &CredentialIndex,
    ) -> TunnelDecision {
        let mut opaque = None;
        for scheme in [Scheme::Https, Scheme::Http] {
            let origin = Origin { scheme, authority: authority.clone() };
            if scheme == Scheme::Https && index.bound_to(&origin).next().is_some() {
                return TunnelDecision::Intercept;
            }
            for (_, rule) in self.candidates(agent, &origin) {
                if !rule.reaches(&origin, index) {
                    continue;
                }
                if !rule.opaque {
                    return TunnelDecision::Intercept;
                }
                opaque.get_or_insert(rule);
            }
        }
        opaque.map_or(TunnelDecision::Intercept, |rule| TunnelDecision::Opaque {
            rule: Arc::clone(&rule.name),
            meters: rule.meters(),
        })
    }

    /// Decides on one request. Every reading of its path must lead to the same decision.
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
    ) -> Result<Permit, Refusal> {
        let (located, problem) = match usable(who, references, request.origin(), index) {
            Ok(located) => (located, None),
            Err(refusal) => (Vec::new(), Some(refusal)),
        };
        let kind = Kind::of(request);
        let asked = Asked { who: &who.agent, origin: request.origin(), kind };
        let credentials: Vec<&Credential> = located.iter().map(|l| &**l.credential()).collect();
        let decide = |path: &str| self.verdict(asked, path, &credentials, index);
        let verdict = decide(request.path());
        for method in request.other_methods() {
            let other = Asked { kind: Kind::Request(method), ..asked };
            if self.verdict(other, request.path(), &credentials, index) != verdict {
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
        let verdict = verdict.map_err(|denied| denied.refusal(kind, why))?;
        if let Some(refusal) = problem {
            return Err(refusal);
        }
        // Said only now: to an agent that may not use the credential, it does not exist.
        if located.iter().any(|l| l.slot().is_none()) {
            return Err(Refusal::new(Code::SlotMismatch));
        }
        if let Some(fault) = references.fault() {
            return Err(Refusal::with_detail(Code::BodyUnreadable, fault));
        }
        let rule = &self.rules[verdict.rule as usize];
        if rule.refuse_misplaced && references.misplaced() > 0 {
            return Err(Refusal::new(Code::Misplaced));
        }
        let mut grants: Vec<Grant> = located.iter().filter_map(|l| l.grant()).collect();
        if let Some(always) = verdict.always {
            grants = self.unreferenced(always, request.origin(), index);
            if grants.iter().any(|grant| !within(who, &grant.credential.name, index)) {
                return Err(Refusal::new(Code::CredentialRefused).because(reason::NOT_OF_THE_RUN));
            }
            if !grants.is_empty() && request.origin().scheme != Scheme::Https {
                return Err(Refusal::new(Code::Plaintext));
            }
        }
        let hidden = self.hidden(who, request.origin(), &grants, index);
        Ok(Permit {
            rule: Arc::clone(verdict.name),
            grants,
            hidden,
            timeouts: rule.timeouts,
            undecodable: rule.undecodable,
            meters: rule.meters(),
        })
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
        index: &CredentialIndex,
    ) -> Option<BodyKind> {
        if !index.has_body_slots() || request.origin().scheme != Scheme::Https {
            return None;
        }
        let body = BodyKind::of(request.headers())?;
        let (kind, origin) = (Kind::of(request), request.origin());
        let enters = |credential: &Arc<Credential>| {
            // A revoked one as well: its use is to be refused, and not passed as text.
            credential.slots.iter().any(|slot| body.has(slot)) && !references.refer_to(credential)
        };
        let wants = |rule: &Rule| {
            let mut paths =
                once(request.path()).chain(request.other_readings().iter().map(String::as_str));
            paths.any(|path| rule.allows(kind, path))
                && rule.reaches(origin, index)
                && rule.uses.bound_to(origin, index).any(enters)
        };
        let wanted = self.candidates(&who.agent, origin).any(|(_, rule)| wants(rule));
        wanted.then_some(body)
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
        index: &CredentialIndex,
    ) -> Result<(), Refusal> {
        let kind = Kind::of(request);
        let asked = Asked { who: &who.agent, origin: request.origin(), kind };
        let credentials: Vec<&Credential> = permit.grants.iter().map(Grant::credential).collect();
        let decide = |path: &str| self.verdict(asked, path, &credentials, index);
        let verdict = decide(path);
        let same = |reading: &String| decide(reading) == verdict;
        if crate::request::readings(path)?.iter().all(same) {
            return Ok(());
        }
        Err(Refusal::new(Code::AmbiguousPath)
            .because("the policy decides differently on a reading of the path with the secret"))
    }

    /// The live credentials that the agent may use at `origin` in any request, but for `grants`.
    fn hidden(
        &self,
        who: &Identity,
        origin: &Origin,
        grants: &[Grant],
        index: &CredentialIndex,
    ) -> Vec<Grant> {
        let mut hidden = Vec::new();
        let mut seen: HashSet<&Name> = grants.iter().map(|g| &g.credential.name).collect();
        for (_, rule) in self.candidates(&who.agent, origin) {
            let bound = rule.uses.bound_to(origin, index);
            hidden.extend(bound.filter(|c| seen.insert(&c.name)).filter_map(Grant::whole));
        }
        hidden
    }

    fn verdict(
        &self,
        Asked { who, origin, kind }: Asked<'_>,
        path: &str,
        credentials: &[&Credential],
        index: &CredentialIndex,
    ) -> Result<Verdict<'_>, Denied> {
        let (mut first, mut always) = (None, None);
        let mut granted = vec![None; credentials.len()];
        for (at, rule) in self.candidates(who, origin) {
            if !rule.allows(kind, path) || !rule.reaches(origin, index) {
                continue;
            }
            first.get_or_insert((at, &rule.name));
            if always.is_none() && credentials.is_empty() && rule.injects_at(origin, index) {
                always = Some(at);
            }
            for (grant, credential) in granted.iter_mut().zip(credentials) {
                if grant.is_none() && rule.uses.contain(credential, index) {
                    *grant = Some(at);
                }
            }
        }
        let (rule, name) = first.ok_or(Denied::NoRule)?;
        let granted: Option<Vec<u32>> = granted.into_iter().collect();
        let granted = granted.ok_or(Denied::NoGrant)?;
        // The rule that grants the credential is the one that decided.
        let rule = granted.first().copied().or(always).unwrap_or(rule);
        let name = self.rules.get(rule as usize).map_or(name, |r| &r.name);
        Ok(Verdict { rule, granted, always, name })
    }

    /// What `inject: always` adds to a request that carries no reference: the live credentials of
    /// that rule that are bound here, each in the first slot of its own that says where it is.
    fn unreferenced(&self, rule: u32, origin: &Origin, index: &CredentialIndex) -> Vec<Grant> {
        let Some(rule) = self.rules.get(rule as usize) else { return Vec::new() };
        let bound = rule.uses.bound_to(origin, index);
        let mut grants: Vec<Grant> = bound.filter_map(Grant::alone).collect();
        grants.sort_by(|a, b| a.credential.name.cmp(&b.credential.name));
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
) -> Result<Vec<&'r Located>, Refusal> {
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
        if !credential.is_bound_to(origin) {
            return refuse(reason::NOT_BOUND);
        }
        if credential.version.is_none() {
            return refuse("the credential is revoked");
        }
        if !within(who, &credential.name, index) {
            return refuse(reason::NOT_OF_THE_RUN);
        }
    }
    Ok(references.located().iter().collect())
}

/// Whether a caller's run token, if it came by one, leaves it this credential.
fn within(who: &Identity, credential: &Name, index: &CredentialIndex) -> bool {
    let claims = who.run_token.as_ref();
    claims.is_none_or(|claims| claims.may_use(credential, |set| index.set(set)))
}

impl Located {
    fn grant(&self) -> Option<Grant> {
        let credential = Arc::clone(self.credential());
        let placeholder = Arc::clone(self.sent());
        Some(Grant { version: credential.version?, slot: self.slot()?, placeholder, credential })
    }
}

/// Why a reading is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    NoRule,
    NoGrant,
}

impl Denied {
    fn refusal(self, kind: Kind<'_>, reason: Option<&'static str>) -> Refusal {
        match self {
            Self::NoRule if matches!(kind, Kind::WebSocket) => Refusal {
                reason,
                ..Refusal::with_detail(
                    Code::NotAllowed,
                    "No policy rule allows this WebSocket; one that lists methods needs `websocket: allow`",
                )
            },
            Self::NoRule => Refusal { reason, ..Refusal::new(Code::NotAllowed) },
            Self::NoGrant => Refusal::new(Code::CredentialRefused)
                .because("no rule lets this agent use the credential here"),
        }
    }
}

impl Rule {
    fn meters(&self) -> Meters {
        Meters(self.meter.iter().cloned().collect())
    }

    /// Whether the rule may speak of `host`: it names it, or has a pattern, or names nowhere.
    fn may_name(&self, host: &Host) -> bool {
        let mut to = self.to.iter().flatten();
        self.to.is_none() || to.any(|d| d.host.exact().is_none_or(|exact| exact == host))
    }

    /// Whether the rule speaks of `origin`.
    fn reaches(&self, origin: &Origin, index: &CredentialIndex) -> bool {
        match &self.to {
            Some(to) => to.iter().any(|d| d.matches(origin)),
            None => self.uses.bound_to(origin, index).next().is_some(),
        }
    }

    /// Whether the rule puts a credential into requests to `origin` that refer to none.
    fn injects_at(&self, origin: &Origin, index: &CredentialIndex) -> bool {
        self.inject_always && self.uses.bound_to(origin, index).any(|c| c.version.is_some())
    }

    fn allows(&self, kind: Kind<'_>, path: &str) -> bool {
        let listed = match kind {
            Kind::Request(method) => self.methods.as_ref().is_none_or(|m| m.contains(method)),
            // A rule that lists methods was written to say what may be done, and a socket is none
            // of them.
            Kind::WebSocket => self.websocket.unwrap_or(self.methods.is_none()),
        };
        listed && self.paths.as_ref().is_none_or(|paths| paths.iter().any(|p| p.matches(path)))
    }
}

impl Agents {
    fn contain(&self, agent: &Name) -> bool {
        match self {
            Self::Any => true,
            Self::Named(names) => names.contains(agent),
        }
    }
}

impl Uses {
    /// The credentials among these that may go to `origin`, some of them perhaps twice.
    fn bound_to<'a>(
        &'a self,
        origin: &'a Origin,
        index: &'a CredentialIndex,
    ) -> impl Iterator<Item = &'a Arc<Credential>> {
        let (all, named) = match self {
            Self::All => (Some(index.bound_to(origin)), None),
            Self::Named(names) => (None, Some(names)),
        };
        let members = |name: &'a Name| index.set(name.as_str()).unwrap_or_default();
        let names = named.into_iter().flatten().flat_map(move |n| once(n).chain(members(n)));
        let named = names.filter_map(|name| index.get(name.as_str()));
        all.into_iter().flatten().chain(named.filter(|c| c.is_bound_to(origin)))
    }

    fn contain(&self, credential: &Credential, index: &CredentialIndex) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => {
                names.contains(&credential.name)
                    || names.iter().any(|name| {
                        index.set(name.as_str()).is_some_and(|set| set.contains(&credential.name))
                    })
            }
        }
    }
}

/// Two ascending lists as one.
struct Merge<'a> {
    left: &'a [u32],
    right: &'a [u32],
}

impl<'a> Merge<'a> {
    fn of(left: Option<&'a Vec<u32>>, right: &'a [u32]) -> Self {
        Self { left: left.map_or(&[], Vec::as_slice), right }
    }

    fn len(&self) -> usize {
        self.left.len() + self.right.len()
    }
}

impl Iterator for Merge<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let side = match (self.left.first(), self.right.first()) {
            (Some(l), Some(r)) if l <= r => &mut self.left,
            (Some(_), None) => &mut self.left,
            (_, Some(_)) => &mut self.right,
            (None, None) => return None,
        };
        let (first, rest) = side.split_first()?;
        *side = rest;
        Some(*first)
    }
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
mod tests;
