//! A permitted request on its way: filled, recorded, sent, and its answer on the way back.

use std::pin::pin;
use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode, Version};

use super::asked::{Admitted, unread};
use super::body::{Body, Upload};
use super::breaker::Pass;
use super::captured::Captures;
use super::exchange::{Route, Way, answer, failed, named, refused};
use super::held::Purse;
use super::interim::{Outlet, listens, passing};
use super::ledger::Ledger;
use super::retry::Plan;
use super::socket::{self, AgentSide, Opening};
use super::spares::{self, Tried, Verdict};
use super::supplied::{make_ready, rejected, resolve};
use super::withdrawal::{Watch, no_longer, still_stands};
use super::{Gateway, State, Workspace};
use crate::agent::Identity;
use crate::host::Origin;
use crate::inject::{self, OutboundRequest, Pending, References, Resolved, inject};
use crate::outcome::{Code, Refusal};
use crate::policy::{Permit, Standing, Timeouts};
use crate::record::{Recorded, Use};
use crate::request::InboundRequest;
use crate::secret::Secret;
use crate::sign::sigv4::ChunkSigner;
use crate::upstream::{Call, LastLook, Sent, Upgraded, refuses_certificate};

/// The circumstances of a call, which are the same however often it is made.
pub(super) struct Calling<'a> {
    gateway: &'a Arc<Gateway>,
    route: &'a Route,
    state: Arc<State>,
    who: Arc<Identity>,
    references: References,
    at: i64,
    outlet: &'a Outlet,
    version: Version,
}

/// Why there is no answer of the origin: what the agent is told.
enum Unanswered {
    /// The call was not made. It is recorded.
    Refused(Refusal),
    /// The call was made, and came to nothing. That is still to be recorded.
    Failed(Refusal),
}

/// A request that is recorded, on whose behalf it goes, what signs its body on the way, and what a new
/// connection of it shows.
type Leaving = (Recorded<OutboundRequest>, Arc<str>, Option<Box<ChunkSigner>>, Option<Secret>);

/// One of the times that a request is sent.
struct Attempt {
    /// Whether it is the first.
    first: bool,
    /// What allowed it, if that is not what allowed the call.
    state: Option<Arc<State>>,
}

impl Attempt {
    const FIRST: Self = Self { first: true, state: None };
}

/// A request that can be sent again.
struct Again {
    inbound: InboundRequest,
    body: Upload,
}

impl<'a> Calling<'a> {
    /// The call that was admitted, and by whose leave it is made.
    pub(super) fn new(
        gateway: &'a Arc<Gateway>,
        (route, outlet, version): (&'a Route, &'a Outlet, Version),
        who: Arc<Identity>,
        admitted: Admitted,
    ) -> (Self, Permit) {
        let Admitted { state, references, permit, at } = admitted;
        (Self { gateway, route, state, who, references, at, outlet, version }, permit)
    }

    /// The way back of the answer, and what is needed should it open a socket.
    ///
    /// # Errors
    /// Why the request is not to be sent. It is recorded.
    pub(super) fn prepared(
        &self,
        (inbound, body): (&InboundRequest, &Upload),
        permit: &Permit,
        ledger: &Ledger,
        agent_side: Option<AgentSide>,
    ) -> Result<(Way<'a>, Option<Opening>), Refusal> {
        let refused = |refusal| self.refused(ledger, refusal);
        let captures = Captures::of(self.gateway, &self.state, permit).map_err(refused)?;
        let opening =
            Opening::new(self.route, &self.who, inbound, permit, agent_side).map_err(refused)?;
        let watch = Watch::of(&self.route.caller, &self.who, inbound, permit);
        let (up, cut) = (body.uploaded(), &self.route.caller.cut);
        Ok((Way { captures, up, version: self.version, cut, watch }, opening))
    }

    /// What the origin says to a request that is HTTP to its end.
    ///
    /// # Errors
    /// Why it says nothing. It is recorded.
    pub(super) async fn sent(
        &self,
        (inbound, mut body): (InboundRequest, Upload),
        permit: &mut Permit,
        ledger: &mut Ledger,
        way: &mut Way<'_>,
    ) -> Result<(Sent, Pending), Refusal> {
        // Why here: whether it can be sent again is known before it is sent. In a box, as what follows
        // from it: few need it, and all would have to have room for it.
        let plan = Plan::of(self.gateway, &self.who, &inbound, permit);
        let again = if plan.is_some() || spares::has_spare(permit, self.at) {
            let again = Box::pin(self.again(permit, &inbound, &mut body)).await;
            again.map_err(|refusal| self.refused(ledger, refusal))?
        } else {
            None
        };
        let called = match again {
            None => {
                let once = self.once((inbound, body), permit, ledger, Attempt::FIRST);
                way.watch.over(pin!(once)).await
            }
            Some(again) => {
                let until = self.until_answered((again, plan), permit, ledger);
                way.watch.over(Box::pin(until).as_mut()).await
            }
        };
        let called = called.unwrap_or_else(|refusal| Err(self.cut_off(ledger, refusal)));
        called.map_err(|why| told(ledger, why, way))
    }

    /// The answer to the handshake of a socket, which the origin may decline. One that it declines for the
    /// sake of the credential is sent again with another, as any request is.
    ///
    /// # Errors
    /// Why there is none. It is recorded.
    pub(super) async fn over_socket(
        &self,
        mut opening: Opening,
        (mut inbound, mut body): (InboundRequest, Upload),
        mut permit: Permit,
        mut ledger: Ledger,
        way: Way<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let moment = (&*self.state.credentials, self.at);
        let reads = self.state.policy.wants_messages(&self.who, &inbound, &self.references, moment);
        if reads {
            inbound.without_extensions();
        }
        let mut again = None;
        if spares::has_spare(&permit, self.at) {
            let kept = self.again(&permit, &inbound, &mut body).await;
            again = kept.map_err(|refusal| self.refused(&ledger, refusal))?;
        }
        let (mut tried, mut attempt) = (Tried::default(), Attempt::FIRST);
        loop {
            if reads {
                self.read_messages(&mut opening, &inbound, &permit).await;
            }
            let request = (inbound, body);
            let asked = self.handshake(&opening, request, &permit, &mut ledger, &mut attempt).await;
            let (upgraded, pending) = asked.map_err(|why| told(&ledger, why, &way))?;
            let status = match &upgraded {
                Upgraded::Switched(_) => StatusCode::SWITCHING_PROTOCOLS,
                Upgraded::Declined(sent) => sent.response.status(),
            };
            let Some(once_more) = &again else {
                return self.opened(opening, (upgraded, pending), ledger, way).await;
            };
            let workspace = &self.route.caller.workspace;
            match self.gateway.judge(workspace, &mut permit, &mut tried, (status, self.at)) {
                Verdict::Take => {
                    return self.opened(opening, (upgraded, pending), ledger, way).await;
                }
                Verdict::Exhausted(refusal) => {
                    return Err(failed(&ledger, refusal, way.up.bytes()));
                }
                Verdict::Again => {}
            }
            (inbound, body) = (once_more.inbound.clone(), once_more.body.again());
            opening.carries(&inbound, &permit);
            attempt = Attempt { first: false, state: attempt.state };
        }
    }

    /// What is needed to look at the messages of a socket with this permit.
    async fn read_messages(
        &self,
        opening: &mut Opening,
        inbound: &InboundRequest,
        permit: &Permit,
    ) {
        opening.read_messages(permit);
        if permit.is_supplied() {
            let asker = (&*self.who, inbound.origin());
            opening.knows(make_ready(self.gateway, &self.state, permit, asker).await);
        }
    }

    /// Sends the handshake of a socket once.
    async fn handshake(
        &self,
        opening: &Opening,
        (inbound, body): (InboundRequest, Upload),
        permit: &Permit,
        ledger: &mut Ledger,
        attempt: &mut Attempt,
    ) -> Result<(Upgraded, Pending), Unanswered> {
        let pass = self.pass(&inbound, ledger, attempt.first)?;
        let recorded = self.recorded(inbound, permit, ledger, attempt).await;
        let (recorded, principal, chunks, certificate) = recorded?;
        let (request, pending) =
            recorded.into_wire(|filled| body.filled(filled).signed(chunks, || self.purse()));
        let origin = pending.origin().clone();
        let still = |_: &HeaderMap| {
            pass.connected();
            let allowed_by = self.allowed_by(attempt);
            self.workspace().still(allowed_by, &self.who, ledger.carried())?;
            // Why here: as before any other request leaves.
            let identity = &self.route.caller.identity;
            self.workspace().is_as(allowed_by, |now| no_longer(now, identity, opening.standing()))
        };
        let call = Call {
            certificate: certificate.as_ref(),
            ..call(permit, (&origin, &principal), LastLook(&still))
        };
        match self.gateway.upstream().upgrade(request, call, opening.handshake()).await {
            Ok(upgraded) => {
                let declined = match &upgraded {
                    Upgraded::Switched(_) => None,
                    Upgraded::Declined(sent) => Some(&sent.response),
                };
                pass.answered(
                    declined.map_or(StatusCode::SWITCHING_PROTOCOLS, Response::status).as_u16(),
                );
                if let Some(response) = declined {
                    self.note(permit, response.status(), response.headers());
                }
                Ok((upgraded, pending))
            }
            Err(refusal) => {
                pass.failed(refusal.code);
                Err(Unanswered::Failed(of_certificate(refusal, certificate.is_some())))
            }
        }
    }

    /// The origin's last word on a socket.
    async fn opened(
        &self,
        opening: Opening,
        (upgraded, pending): (Upgraded, Pending),
        ledger: Ledger,
        way: Way<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let sent = match upgraded {
            Upgraded::Switched(switched) => {
                return socket::open(self.gateway, opening, switched, pending, ledger).await;
            }
            Upgraded::Declined(sent) => sent,
        };
        // To an agent that asked by an extended CONNECT a 2xx is an open socket (RFC 8441 section 5).
        if opening.handshake().is_extended() && sent.response.status().is_success() {
            let detail = "The host answered the WebSocket's handshake, and opened none";
            let refusal = Refusal::with_detail(Code::UpstreamFailed, detail);
            return Err(failed(&ledger, refusal, way.up.bytes()));
        }
        answer((sent, pending), ledger, way).await
    }

    /// Learns from an answer what it says of the credential.
    fn note(&self, permit: &Permit, status: StatusCode, headers: &HeaderMap) {
        if status == StatusCode::UNAUTHORIZED {
            rejected(self.gateway, permit);
        }
        self.route.caller.workspace.spares.note(permit, status, headers);
    }

    /// The request as it is sent as often as need be, if all of it can be had.
    async fn again(
        &self,
        permit: &Permit,
        inbound: &InboundRequest,
        body: &mut Upload,
    ) -> Result<Option<Again>, Refusal> {
        let idle = permit.timeouts().idle.unwrap_or_else(|| self.gateway.upstream().idle());
        let kept = body.keep(self.gateway.limits.body_slot, (&self.purse(), idle)).await;
        let kept = kept.map_err(unread)?;
        Ok(kept.then(|| Again { inbound: inbound.clone(), body: body.again() }))
    }

    /// Sends a request, and again with another credential as long as the origin does not accept the one
    /// that it had, or as its rule has it sent again when the origin fails. Nothing of an answer has been
    /// handed on by then.
    async fn until_answered(
        &self,
        (again, mut plan): (Again, Option<Box<Plan>>),
        permit: &mut Permit,
        ledger: &mut Ledger,
    ) -> Result<(Sent, Pending), Unanswered> {
        let (mut tried, mut attempt) = (Tried::default(), Attempt::FIRST);
        loop {
            let request = (again.inbound.clone(), again.body.again());
            let next = Attempt { first: false, state: attempt.state.clone() };
            let sent = self.once(request, permit, ledger, attempt).await;
            attempt = next;
            let end = match &sent {
                Ok((sent, _)) => {
                    let status = sent.response.status();
                    let workspace = &self.route.caller.workspace;
                    match self.gateway.judge(workspace, permit, &mut tried, (status, self.at)) {
                        Verdict::Take => Ok((status.as_u16(), sent.response.headers())),
                        Verdict::Again => continue,
                        Verdict::Exhausted(refusal) => return Err(Unanswered::Failed(refusal)),
                    }
                }
                Err(Unanswered::Failed(refusal)) => Err(refusal),
                Err(Unanswered::Refused(_)) => return sent,
            };
            let Some(wait) = plan.as_mut().and_then(|plan| plan.next(self.gateway, end)) else {
                return sent;
            };
            drop(sent);
            tokio::time::sleep(wait).await;
            // Why here: what was permitted before the wait may not be any more.
            let stands = self.still_stands(&again.inbound, permit);
            attempt.state = Some(stands.map_err(Unanswered::Failed)?);
        }
    }

    fn allowed_by<'s>(&'s self, attempt: &'s Attempt) -> &'s Arc<State> {
        attempt.state.as_ref().unwrap_or(&self.state)
    }

    /// Whether the request may go to its destination now: not to one that has failed again and again.
    fn pass(
        &self,
        inbound: &InboundRequest,
        ledger: &Ledger,
        first: bool,
    ) -> Result<Pass<'_>, Unanswered> {
        let pass = Pass::ask(self.gateway, &self.who, inbound.origin());
        pass.map_err(|refusal| self.unsent(ledger, refusal, &named(&self.references), first))
    }

    /// Sends a request once.
    async fn once(
        &self,
        (inbound, body): (InboundRequest, Upload),
        permit: &Permit,
        ledger: &mut Ledger,
        mut attempt: Attempt,
    ) -> Result<(Sent, Pending), Unanswered> {
        let pass = self.pass(&inbound, ledger, attempt.first)?;
        let (method, target) = (inbound.method().clone(), inbound.target());
        let (recorded, principal, chunks, certificate) =
            self.recorded(inbound, permit, ledger, &mut attempt).await?;
        let (request, mut pending) =
            recorded.into_wire(|filled| body.filled(filled).signed(chunks, || self.purse()));
        let origin = pending.origin().clone();
        // What comes before an answer of which a token is taken could have it too.
        let takes = !permit.captures().is_empty();
        let heard = if takes { None } else { listens(self.version) };
        let still = |fields: &HeaderMap| {
            pass.connected();
            let allowed_by = self.allowed_by(&attempt);
            self.workspace().still(allowed_by, &self.who, ledger.carried())?;
            // Why here: a connection may have been long in coming. Nearly always nothing has changed.
            self.workspace().is_as(allowed_by, |now| {
                let standing =
                    Standing::leaving(&self.who, (&origin, &method, &target), fields, permit);
                no_longer(now, &self.route.caller.identity, &standing)
            })
        };
        let call = Call {
            interims: heard.as_ref(),
            certificate: certificate.as_ref(),
            ..call(permit, (&origin, &principal), LastLook(&still))
        };
        let upstream = self.gateway.upstream();
        let sent = {
            let sending = pin!(upstream.send(request, call));
            passing(sending, heard.as_ref(), self.outlet, &mut pending).await
        };
        let sent = match sent {
            Ok(sent) => sent,
            Err(refusal) => {
                pass.failed(refusal.code);
                let refusal = of_certificate(refusal, certificate.is_some());
                return Err(Unanswered::Failed(refusal));
            }
        };
        pass.answered(sent.response.status().as_u16());
        self.note(permit, sent.response.status(), sent.response.headers());
        Ok((sent, pending))
    }

    /// The request with its secrets in it, of which a record was written.
    async fn recorded(
        &self,
        inbound: InboundRequest,
        permit: &Permit,
        ledger: &mut Ledger,
        attempt: &mut Attempt,
    ) -> Result<Leaving, Unanswered> {
        let first = attempt.first;
        let refused = |ledger: &Ledger, refusal: Refusal, uses: &[Use]| {
            self.unsent(ledger, refusal, uses, first)
        };
        let named = || named(&self.references);
        let asker = (&*self.who, inbound.origin());
        let resolved = resolve(self.gateway, &self.state, permit, asker)
            .await
            .map_err(|refusal| refused(ledger, refusal, &named()))?;
        // Why here: a value may have been long in coming.
        if permit.is_supplied() && !Arc::ptr_eq(&self.workspace().state(), self.allowed_by(attempt))
        {
            let stands = self.still_stands(&inbound, permit);
            attempt.state = Some(stands.map_err(|refusal| refused(ledger, refusal, &named()))?);
        }
        let mut outbound = self
            .filled(inbound, permit, resolved)
            .map_err(|refusal| refused(ledger, refusal, &named()))?;
        // Why here: the last step before a byte may leave. No record, no call.
        let uses = outbound.take_uses();
        let (chunks, certificate) = (outbound.take_chunks(), outbound.take_certificate());
        let (workspace, agent) = (self.who.workspace.as_str(), self.who.agent.as_str());
        let principal = inject::principal(workspace, agent, &uses);
        let by = (&**self.allowed_by(attempt), &**permit.rule(), first);
        let recorded = ledger.in_turn(outbound, by, &uses).await;
        let recorded = recorded.map_err(|refusal| refused(ledger, refusal, &uses))?;
        ledger.carries(uses);
        Ok((recorded, principal, chunks, certificate))
    }

    fn purse(&self) -> Purse {
        Purse::of(self.gateway, &self.route.caller)
    }

    fn workspace(&self) -> &Workspace {
        &self.route.caller.workspace
    }

    fn still_stands(
        &self,
        inbound: &InboundRequest,
        permit: &Permit,
    ) -> Result<Arc<State>, Refusal> {
        still_stands(self.workspace(), (&self.who, inbound), permit)
    }

    /// The request with its secrets in it.
    fn filled(
        &self,
        inbound: InboundRequest,
        permit: &Permit,
        resolved: Resolved,
    ) -> Result<OutboundRequest, Refusal> {
        if let Some(path) = inject::masked_path(&inbound, permit, &resolved) {
            let moment = (&*self.state.credentials, self.at);
            self.state.policy.holds_for(&self.who, &inbound, permit, &path, moment)?;
        }
        inject(inbound, permit, resolved)
    }

    /// Refuses before a call was made.
    fn refused(&self, ledger: &Ledger, refusal: Refusal) -> Refusal {
        refused(ledger, &self.state, refusal, &named(&self.references))
    }

    /// The end of a request that does not leave. One that was sent before has a record, and gets its
    /// outcome.
    fn unsent(&self, ledger: &Ledger, refusal: Refusal, uses: &[Use], first: bool) -> Unanswered {
        if first {
            Unanswered::Refused(refused(ledger, &self.state, refusal, uses))
        } else {
            Unanswered::Failed(refusal)
        }
    }

    /// A call that was cut short because nothing allows it any more: before it was made, or after.
    fn cut_off(&self, ledger: &Ledger, refusal: Refusal) -> Unanswered {
        if ledger.is_permitted() {
            return Unanswered::Failed(refusal);
        }
        Unanswered::Refused(refused(ledger, &self.state, refusal, &[]))
    }
}

/// What the agent is told where there is no answer, which is on record then.
fn told(ledger: &Ledger, why: Unanswered, way: &Way<'_>) -> Refusal {
    match why {
        Unanswered::Refused(refusal) => refusal,
        Unanswered::Failed(refusal) => failed(ledger, refusal, way.up.bytes()),
    }
}

/// Where a call goes, and within which times.
fn call<'c>(
    permit: &Permit,
    (origin, principal): (&'c Origin, &'c Arc<str>),
    last_look: LastLook<'c>,
) -> Call<'c> {
    let Timeouts { response, idle } = permit.timeouts();
    Call {
        origin,
        principal,
        response_timeout: response,
        idle_timeout: idle,
        interims: None,
        last_look: Some(last_look),
        certificate: None,
    }
}

/// What an origin did not take was the credential, where one was shown to it.
fn of_certificate(refusal: Refusal, shown: bool) -> Refusal {
    if shown && refuses_certificate(&refusal) {
        return Refusal { code: Code::ClientCertificateRefused, ..refusal };
    }
    refusal
}
