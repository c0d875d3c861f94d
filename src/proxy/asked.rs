//! A request from its head to its permit: read, known by its agent, decided on, admitted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::approval;
use super::body::{Begun, Ungathered, Upload};
use super::exchange::{named, refused, sighted};
use super::habits;
use super::held::Purse;
use super::ledger::Ledger;
use super::queue;
use super::{Caller, Gateway, State, unix_now};
use crate::agent::Identity;
use crate::inject::{References, Remainder};
use crate::outcome::{Code, Refusal};
use crate::policy::{Permit, Question};
use crate::request::{Behind, BodyKind, BodyText, InboundRequest, is_coded};

/// A request that waits for its decision.
pub(super) struct Asked<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) caller: &'a Caller,
    pub(super) who: Arc<Identity>,
    pub(super) inbound: InboundRequest,
}

/// What was decided, and on which state.
pub(super) struct Decided {
    pub(super) state: Arc<State>,
    pub(super) references: References,
    pub(super) decision: Result<Permit, Refusal>,
    /// In which second of Unix time.
    at: i64,
}

/// A request that may be sent, within its limits, and the state that says so.
pub(super) struct Admitted {
    pub(super) state: Arc<State>,
    pub(super) references: References,
    pub(super) permit: Permit,
    /// In which second of Unix time.
    pub(super) at: i64,
}

impl Asked<'_> {
    /// Decides, on all of the request that has a say: its head, its body where a reference may be in
    /// it, and a person where a rule wants one.
    ///
    /// # Errors
    /// What a body or a person stands in the way with. It is recorded.
    pub(super) async fn decided(
        &mut self,
        state: Arc<State>,
        body: &mut Upload,
        ledger: &mut Ledger,
    ) -> Result<Decided, Refusal> {
        ledger.reads(&self.inbound);
        let mut decided = self.decide(state).await;
        // Why here: a reference in the body is decided on and recorded like those in the head, so a body
        // that may hold one is read before, and only for an agent that may send the request at all.
        if let Some(wanted) = self.wants_body(&decided).filter(|_| !body.is_empty()) {
            let read = self.read(body, wanted).await;
            let behind = read.map_err(|refusal| refused(ledger, &decided.state, refusal, &[]))?;
            ledger.identify(Arc::clone(&self.who));
            self.unless_sighted(ledger)?;
            decided = self.decide(self.caller.state()).await;
            // Why here: what goes out is what was decided on, so whatever comes behind it must not have had
            // a say.
            decided.decision = self
                .followed(&decided, (body, ledger), behind)
                .map_or_else(Err, |()| decided.decision);
        }
        // Why here: what follows a body was read with it, or will be looked at on its way.
        if let Ok(permit) = &decided.decision
            && let Err(refusal) = body.held_to(permit)
        {
            decided.decision = Err(refusal);
        }
        // Why here: what a person has to approve is whole by now, and has used up no limit, opened no
        // secret and reached nobody.
        approval::obtain(self, decided, body, ledger).await
    }

    /// Refuses a body that has a secret of the vault in a credential's place.
    fn unless_sighted(&self, ledger: &Ledger) -> Result<(), Refusal> {
        let state = self.caller.state();
        let (Some(sealed), Some(body)) = (&state.sealed, self.inbound.body()) else {
            return Ok(());
        };
        let sighting = sealed.watch.find_in_body(body, self.inbound.origin(), &state.credentials);
        sighting.map_or(Ok(()), |sighting| Err(sighted(ledger, &state, sighting)))
    }

    /// Decides. What was given a moment ago is no reason to refuse. Asked for whatever stands in the
    /// way, so that the time of the answer does not tell a reference to nothing from a forbidden one.
    pub(super) async fn decide(&self, state: Arc<State>) -> Decided {
        let decided = self.decide_on(state);
        let refers = decided.references.any();
        if decided.decision.is_err() && refers && self.gateway.look_again().await {
            return self.decide_on(self.caller.state());
        }
        decided
    }

    fn decide_on(&self, state: Arc<State>) -> Decided {
        let references = References::locate(&self.inbound, &state.credentials);
        let (index, at) = (&state.credentials, unix_now());
        let decision = state.policy.authorize(&self.who, &self.inbound, &references, index, at);
        Decided { state, references, decision, at }
    }

    fn wants_body(&self, decided: &Decided) -> Option<Wanted> {
        let permit = decided.decision.as_ref().ok()?;
        let Decided { state, references, at, .. } = decided;
        let moment = (&*state.credentials, *at);
        let kind = state.policy.wants_body(&self.who, &self.inbound, references, moment);
        // What a signature is over, where its client does not say it.
        let signed = permit.reads_body() && self.inbound.body().is_none();
        let digested =
            || (signed || references.wants_digest(&self.inbound)).then_some(BodyKind::Whole);
        let kind = kind.or_else(digested)?;
        Some(Wanted { kind, idle: permit.timeouts().idle })
    }

    /// Has what comes behind the beginning of a body looked at on its way.
    fn followed(
        &self,
        decided: &Decided,
        (body, ledger): (&mut Upload, &Ledger),
        behind: Option<Behind>,
    ) -> Result<(), Refusal> {
        let (true, Ok(permit)) =
            (self.inbound.body().is_some_and(BodyText::is_begun), &decided.decision)
        else {
            return Ok(());
        };
        let asked = (&self.inbound, &decided.references);
        let index = &decided.state.credentials;
        let remainder = Remainder::new(behind, asked, permit, index).inspect_err(|why| {
            if let Some(bait) = &why.honeytoken {
                ledger.baited(bait);
            }
            if why.moved {
                ledger.unbound();
            }
        })?;
        let sealed = decided.state.sealed.clone();
        let known =
            move |text: &[u8]| sealed.as_ref().is_some_and(|sealed| sealed.watch.knows(text));
        body.follow(remainder.watching(Box::new(known)))
    }

    /// Reads the body, or its beginning if it is longer than what is held; or says why it cannot be.
    async fn read(&mut self, body: &mut Upload, wanted: Wanted) -> Result<Option<Behind>, Refusal> {
        let digested = wanted.kind == BodyKind::Whole;
        if let BodyKind::Unclear(why) = wanted.kind {
            return Err(Refusal::with_detail(Code::BodyUnreadable, why));
        }
        if is_coded(self.inbound.headers()) && !digested {
            let detail = "The body has a Content-Encoding, under which a reference cannot be seen";
            return Err(Refusal::with_detail(Code::BodyUnreadable, detail));
        }
        let held = self.gateway.limits.body_slot;
        let (text, behind) = if digested {
            let bytes = self.gathered(body, held.max(SIGNED), wanted.idle).await?;
            (BodyText::read(bytes, wanted.kind), None)
        } else {
            body.is_read();
            let idle = wanted.idle.unwrap_or_else(|| self.gateway.upstream().idle());
            let begun = body.begin(held, (&self.purse(), idle)).await.map_err(unread)?;
            self.still_valid()?;
            match begun {
                Begun::Whole(bytes) => (BodyText::read(bytes, wanted.kind), None),
                Begun::Beginning(bytes) => BodyText::begin(bytes, wanted.kind),
            }
        };
        self.inbound.take_body(text);
        // Whoever sends slowly has the labels of then no longer.
        let state = self.caller.state();
        self.renew(&state);
        Ok(behind)
    }

    /// All of the body, which is sent from memory then.
    pub(super) async fn whole(&self, body: &mut Upload) -> Result<Bytes, Refusal> {
        match body.gathered() {
            Some(bytes) => Ok(bytes),
            None if body.is_empty() => Ok(Bytes::new()),
            None => self.gathered(body, self.gateway.limits.body_slot, None).await,
        }
    }

    fn purse(&self) -> Purse {
        Purse::of(self.gateway, self.caller)
    }

    async fn gathered(
        &self,
        body: &mut Upload,
        most: usize,
        idle: Option<Duration>,
    ) -> Result<Bytes, Refusal> {
        let idle = idle.unwrap_or_else(|| self.gateway.upstream().idle());
        let bytes = body.gather(most, (&self.purse(), idle)).await.map_err(unread)?;
        self.still_valid()?;
        Ok(bytes)
    }

    /// Reading may have taken long.
    fn still_valid(&self) -> Result<(), Refusal> {
        if self.caller.state().authn.still_valid(&self.caller.identity, unix_now()) {
            return Ok(());
        }
        Err(Refusal::new(Code::AgentRevoked))
    }

    /// The labels of the agent as they are now.
    pub(super) fn renew(&mut self, state: &State) {
        self.who = state.authn.relabelled(&self.who);
    }
}

impl Decided {
    /// The permit, within its limits and settled on the versions that it is about.
    ///
    /// # Errors
    /// Why there is none. It is recorded.
    pub(super) async fn admitted(
        self,
        asked: &Asked<'_>,
        ledger: &mut Ledger,
    ) -> Result<Admitted, Refusal> {
        let Self { state, references, decision, at } = self;
        ledger.refers(&references);
        let outcome = decision.as_ref().map(drop).map_err(|refusal| refusal.code);
        let question = Question {
            who: &asked.who,
            request: &asked.inbound,
            references: &references,
            index: &state.credentials,
            at,
        };
        ledger.shadowed(state.policy.shadow(question, outcome));
        let admitted = match decision {
            Ok(permit) => admit(asked, permit, (at, ledger)).await,
            Err(refusal) => Err(refusal),
        };
        match admitted {
            Ok(permit) => Ok(Admitted { state, references, permit, at }),
            Err(refusal) => Err(refused(ledger, &state, refusal, &named(&references))),
        }
    }
}

async fn admit(
    asked: &Asked<'_>,
    mut permit: Permit,
    (at, ledger): (i64, &mut Ledger),
) -> Result<Permit, Refusal> {
    let Asked { gateway, who, inbound, caller } = asked;
    // Why here: all that follows, a socket's own record of what it knows included, is of one version.
    gateway.runs.settle(who, &mut permit, at);
    caller.workspace.spares.settle(&mut permit, at)?;
    // Why here: what no rule allows uses up no limit, and what meets one opens no secret.
    ledger.hold(queue::admitted((gateway, &caller.workspace), (who, inbound), &permit).await?);
    // Why here: what met a limit is no habit.
    habits::look(caller, &permit, ledger, at)?;
    Ok(permit)
}

/// Why a body that is wanted whole is not to be had.
pub(super) fn unread(why: Ungathered) -> Refusal {
    match why {
        Ungathered::TooLarge => Refusal::new(Code::BodyTooLarge),
        Ungathered::Late => Refusal::new(Code::RequestTimeout),
        Ungathered::Full(full) => full.into(),
        Ungathered::Refused(code) => Refusal::new(code),
        Ungathered::Broken => Refusal::with_detail(Code::BadRequest, "The body broke off"),
    }
}

/// The most bytes of a body that is read to be signed, unless `limits.body_slot` is more. What AWS takes
/// in one request without a digest of its own: a model's input on Bedrock is the longest, with 25 MB.
const SIGNED: usize = 32 << 20;

/// A body that has to be read.
struct Wanted {
    kind: BodyKind,
    idle: Option<Duration>,
}
