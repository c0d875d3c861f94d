//! The decision on one request: every reading of it must lead to the same, and what comes of it is a
//! [`Permit`] or a refusal.

use std::collections::HashSet;
use std::iter::once;
use std::sync::Arc;

use super::Policy;
use super::approval::Approval;
use super::choice::{Picked, is_for};
use super::permit::{Grant, Permit};
use super::rule::{Asked, Rule};
use super::verdict::{Kind, Verdict};
use crate::agent::Identity;
use crate::credential::{Credential, CredentialIndex, Kind as CredentialKind, Slot, Within};
use crate::host::{Origin, Scheme};
use crate::inject::{Located, References};
use crate::outcome::{Code, Refusal, reason};
use crate::reference::Name;
use crate::request::InboundRequest;
use crate::scrub::Undecodable;

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
    pub(super) fn approval(&self, verdict: &Verdict) -> Option<Approval> {
        let mut wanted = self.standing_on(verdict).filter_map(|rule| rule.approval);
        let first = wanted.next()?;
        // The first says how, and whoever wants the most people says how many.
        let approvers = wanted.fold(first.approvers, |most, other| most.max(other.approvers));
        Some(Approval { approvers, ..first })
    }

    /// Whether one of them wants what is not as usual to be refused.
    pub(super) fn refuses_unusual(&self, verdict: &Verdict) -> bool {
        self.standing_on(verdict).any(|rule| rule.refuse_unusual)
    }

    fn standing_on<'p>(&'p self, verdict: &'p Verdict) -> impl Iterator<Item = &'p Rule> {
        let Verdict { rule, granted, always, bound } = verdict;
        let rules = once(*rule).chain(granted.iter().copied()).chain(*always).chain(*bound);
        rules.filter_map(|at| self.rules.get(at as usize))
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
        // Values lead to credentials that are among these themselves.
        let bound = || index.bound_to(origin).filter(theirs);
        let few = bound().nth(HIDDEN_FROM_ALL).is_none();
        if few {
            hidden.extend(bound().filter(|c| seen.insert(&c.name)).filter_map(Grant::whole));
        }
        for (_, rule) in self.candidates(who, origin, index).filter(|_| !few) {
            if !may_grant(rule, who, origin) {
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

    /// Whether some rule lets this agent use the credential at `origin`, whatever else it asks of a request.
    #[must_use]
    pub fn may_use(
        &self,
        who: &Identity,
        origin: &Origin,
        credential: &Credential,
        index: &CredentialIndex,
    ) -> bool {
        let mut rules = self.candidates(who, origin, index).map(|(_, rule)| rule);
        rules.any(|rule| may_grant(rule, who, origin) && rule.uses.contain(credential, index))
    }

    /// What `inject: always` adds to a request that carries no reference: the live credentials of
    /// that rule that are bound here, each in the first slot of its own that says where it is.
    ///
    /// Where several serve one reference, the first by its tier that is for the caller; of a pool the
    /// first by name, because nothing here says which request is the same one.
    pub(super) fn unreferenced(
        &self,
        rule: u32,
        asked: Asked<'_>,
        index: &CredentialIndex,
    ) -> Vec<Grant> {
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

/// Whether a rule has credentials for this agent at this origin. More rather than less: what a condition
/// leaves out now may have been used a moment ago.
fn may_grant(rule: &Rule, who: &Identity, origin: &Origin) -> bool {
    let theirs = !rule.deny && rule.agents.contain(&who.agent, &who.labels);
    theirs && !rule.uses.is_empty() && rule.may_name(&origin.authority.host)
}

/// Where a slot writes: two slots of one header are one place.
fn place(slot: &crate::credential::Slot) -> String {
    slot.header_name().map_or_else(|| slot.label(), ToString::to_string)
}

/// The references that stand in slots and can be honoured at `origin`; an error for the first that
/// cannot, in one voice whether it is unknown, revoked, or bound elsewhere.
pub(super) fn usable<'r>(
    who: &Identity,
    references: &'r References,
    origin: &Origin,
    index: &CredentialIndex,
) -> Result<Vec<Picked<'r>>, Refusal> {
    let refers = references.unresolved() || !references.located().is_empty();
    if refers && origin.scheme != Scheme::Https {
        return Err(in_the_clear(references, origin));
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

/// A reference that goes out in the clear. To another host than its credential's it is as much of an alarm
/// as over TLS.
fn in_the_clear(references: &References, origin: &Origin) -> Refusal {
    let refusal = Refusal::new(Code::Plaintext);
    let mut located = references.located().iter().map(Located::credential);
    let goes = |credential: &Credential| {
        credential.destinations.iter().any(|own| own.host.matches(&origin.authority.host))
    };
    if located.any(|credential| !goes(credential)) {
        return refusal.because(reason::NOT_BOUND);
    }
    refusal
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
pub(super) fn within(who: &Identity, credential: &Credential, index: &CredentialIndex) -> bool {
    let claims = who.run_token();
    let may = |name: &Name| claims.is_none_or(|claims| claims.may_use(name, |set| index.set(set)));
    claims.is_none() || credential.names().any(may)
}
