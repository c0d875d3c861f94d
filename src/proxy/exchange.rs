//! The life of one request, from its parse to its scrubbed answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use hyper::ext::Protocol;

use super::approval;
use super::body::{Body, Unfinished, Ungathered, Upload};
use super::captured::Captures;
use super::habits;
use super::interim::{Outlet, passing};
use super::ledger::{Ledger, Uploaded};
use super::listener::Shutdown;
use super::socket::{self, AgentSide, Opening};
use super::spares::{self, Tried, Verdict};
use super::stream::Cut;
use super::supplied::{make_ready, rejected, resolve, still_allowed};
use super::withdrawal::Watch;
use super::{Caller, Gateway, Place, State, refusal, unix_now};
use crate::agent::Identity;
use crate::host::Origin;
use crate::inject::{self, OutboundRequest, Pending, References, Resolved, Sighting, inject};
use crate::outcome::{Code, Refusal};
use crate::policy::{Permit, Question, Timeouts};
use crate::record::{Recorded, Use, Why};
use crate::request::{BodyKind, BodyText, InboundRequest, is_coded, strip_hop_by_hop};
use crate::scrub::scrub;
use crate::sign::sigv4::ChunkSigner;
use crate::upstream::{Call, LastLook, Sent, Upgraded};

/// Where a request came from: a connection of `caller` that leads to `origin`.
pub(super) struct Route {
    pub(super) caller: Caller,
    pub(super) origin: Origin,
    /// The client's TLS named another host than its CONNECT: nothing in this tunnel is served.
    pub(super) other_name: bool,
    /// What the agent's tunnel counts as; none outside of one.
    pub(super) place: Option<Arc<Place>>,
    /// Whom a socket that outlives its connection's HTTP has to listen to.
    pub(super) shutdown: Shutdown,
}

/// Answers a request: with the origin's scrubbed answer, or with the refusal.
pub(super) async fn exchange(
    gateway: &Arc<Gateway>,
    route: &Route,
    request: Request<Incoming>,
    outlet: &Outlet,
) -> Response<Body> {
    let mut ledger = Ledger::new(gateway, &route.caller, &route.origin);
    let id = ledger.id;
    // An extended CONNECT stands for a GET.
    let extended = request.extensions().get::<Protocol>().is_some();
    let method = if extended { "GET" } else { request.method().as_str() };
    ledger.asked(method, Some(request.uri().path()));
    let grpc = refusal::wants_grpc(&request);
    let refused = match authorized(gateway, route, request, outlet, ledger).await {
        Ok(response) => return response,
        Err(refused) => refused,
    };
    tracing::info!(request_id = %id, code = %refused.code, detail = %refused.detail, "refused");
    if grpc { refusal::respond_grpc(&refused, id) } else { refusal::respond(&refused, id) }
}

/// The answer to a request in a tunnel that could not be read.
pub(super) fn unreadable(gateway: &Arc<Gateway>, route: &Route, code: Code) -> Response<Body> {
    let ledger = Ledger::new(gateway, &route.caller, &route.origin);
    let refusal = Refusal::new(code);
    ledger.refuse(&gateway.state(), &refusal, &[]);
    tracing::info!(request_id = %ledger.id, %code, "refused unread");
    refusal::respond(&refusal, ledger.id)
}

/// The steps, in the one order in which they compile.
#[allow(clippy::too_many_lines)] // A list of steps, of which each is a line or two.
async fn authorized(
    gateway: &Arc<Gateway>,
    route: &Route,
    request: Request<Incoming>,
    outlet: &Outlet,
    mut ledger: Ledger,
) -> Result<Response<Body>, Refusal> {
    let state = gateway.state();
    // From here on the request is its head and, untouched, its body.
    let version = request.version();
    let mut request = request;
    let agent_side = AgentSide::take(request.extensions_mut());
    let (parts, mut body, up) = Upload::of(request);
    ledger.uploads(up.clone());

    // Why here: everything after this line works on one reading of one request.
    let inbound = check(gateway, &state, route, parts)
        .map_err(|refusal| refused(&ledger, &state, refusal, &[]))?;
    let who = identify(&state.authn.relabelled(&route.caller.identity), &inbound);
    ledger.identify(Arc::clone(&who));

    // Why here: a secret in the agent's own hands is news, whatever the policy says of the request.
    if let Some(sighting) = state.sealed.as_ref().and_then(|s| s.watch.find(&inbound)) {
        return Err(sighted(&mut ledger, &state, sighting));
    }

    // Why here: what follows can only be done with a permit, and only this makes one.
    let mut asked = Asked { gateway, caller: &route.caller, who, inbound };
    let mut decided = asked.decide(state).await;
    // Why here: a reference in the body is decided on and recorded like those in the head, so a body
    // that may hold one is read before, and only for an agent that may send the request at all.
    if let Some(wanted) = asked.wants_body(&decided).filter(|_| !body.is_empty()) {
        decided = match asked.read(&mut body, wanted).await {
            Ok(()) => {
                ledger.identify(Arc::clone(&asked.who));
                asked.decide(gateway.state()).await
            }
            Err(refusal) => return Err(refused(&ledger, &decided.state, refusal, &[])),
        };
    }
    // Why here: what a person has to approve is whole by now, and has used up no limit, opened no
    // secret and reached nobody.
    let decided = approval::obtain(&mut asked, decided, &mut body, &ledger).await?;
    let Asked { who, mut inbound, .. } = asked;
    let Decided { state, references, decision, at } = decided;
    ledger.refers(&references);
    let question = Question {
        who: &who,
        request: &inbound,
        references: &references,
        index: &state.credentials,
        at,
    };
    let outcome = decision.as_ref().map(drop).map_err(|refusal| refusal.code);
    ledger.shadowed(state.policy.shadow(question, outcome));
    let mut permit =
        decision.map_err(|refusal| refused(&ledger, &state, refusal, &named(&references)))?;
    // Why here: all that follows, the socket's own record of what it knows included, is of one version.
    gateway.runs.settle(&who, &mut permit, at);
    let settled = gateway.spares.settle(&mut permit, at);
    settled.map_err(|refusal| refused(&ledger, &state, refusal, &named(&references)))?;
    // Why here: what no rule allows uses up no limit, and what meets one opens no secret.
    let ticket = permit
        .admit(&who.agent, gateway.elapsed())
        .map_err(|refusal| refused(&ledger, &state, refusal, &named(&references)))?;
    ledger.hold(ticket);
    // Why here: what met a limit is no habit.
    habits::look(&route.caller, &permit, &mut ledger, at)
        .map_err(|refusal| refused(&ledger, &state, refusal, &named(&references)))?;
    let captures = Captures::of(gateway, &state, &permit)
        .map_err(|refusal| refused(&ledger, &state, refusal, &named(&references)))?;
    let mut opening = Opening::new(gateway, route, &who, &inbound, &permit, agent_side)
        .map_err(|refusal| refused(&ledger, &state, refusal, &named(&references)))?;
    if let Some(opening) = &mut opening
        && state.policy.wants_messages(&who, &inbound, &references, (&state.credentials, at))
    {
        inbound.without_extensions();
        opening.read_messages(&permit);
        if permit.is_supplied() {
            opening.knows(Box::pin(make_ready(gateway, &state, &permit)).await);
        }
    }
    let mut watch = Watch::of(gateway, (&route.caller.identity, &who), &inbound, &permit);
    let calling =
        Calling { gateway, state: &state, who: &who, at, outlet, version, references: &references };
    let cut = &route.caller.cut;
    let Some(opening) = opening else {
        // Why here: whether it can be sent again is known before it is sent. In a box, as what follows from
        // it: few need it, and all would have to have room for it.
        let again = if spares::has_spare(&permit, at) {
            Box::pin(calling.again(&permit, &inbound, &mut body))
                .await
                .map_err(|refusal| refused(&ledger, &state, refusal, &named(&references)))?
        } else {
            None
        };
        let called = match again {
            None => {
                let call = (inbound, body);
                watch.over(pin!(calling.once(call, &permit, &mut ledger, true))).await
            }
            Some(again) => {
                let until = calling.until_answered(again, &mut permit, &mut ledger);
                watch.over(Box::pin(until).as_mut()).await
            }
        };
        return match called.unwrap_or_else(|refusal| Err(cut_off(&ledger, &state, refusal))) {
            Ok((sent, pending)) => {
                answer(sent, (pending, captures), ledger, up, (version, cut, watch)).await
            }
            Err(Unanswered::Refused(refusal)) => Err(refusal),
            Err(Unanswered::Failed(refusal)) => Err(failed(&ledger, refusal, up.bytes())),
        };
    };
    let (recorded, principal, chunks) =
        match calling.recorded(inbound, &permit, &mut ledger, true).await {
            Ok(recorded) => recorded,
            Err(Unanswered::Refused(refusal) | Unanswered::Failed(refusal)) => return Err(refusal),
        };
    let (request, pending) = recorded.into_wire(|filled| body.filled(filled).signed(chunks));
    let origin = pending.origin().clone();
    let Timeouts { response, idle } = permit.timeouts();
    let still = || gateway.still(&state, &who, ledger.carried());
    let call = Call {
        origin: &origin,
        principal: &principal,
        response_timeout: response,
        idle_timeout: idle,
        interims: None,
        last_look: Some(LastLook(&still)),
    };
    match gateway.upstream().upgrade(request, call, opening.handshake()).await {
        Ok(Upgraded::Switched(switched)) => {
            socket::open(gateway, opening, switched, pending, ledger).await
        }
        Ok(Upgraded::Declined(sent)) => {
            answer(sent, (pending, captures), ledger, up, (version, cut, watch)).await
        }
        Err(refusal) => Err(failed(&ledger, refusal, up.bytes())),
    }
}

/// A permitted request on its way.
struct Calling<'a> {
    gateway: &'a Arc<Gateway>,
    state: &'a Arc<State>,
    who: &'a Arc<Identity>,
    at: i64,
    outlet: &'a Outlet,
    version: Version,
    references: &'a References,
}

/// Why there is no answer of the origin.
enum Unanswered {
    /// The call was not made. It is recorded.
    Refused(Refusal),
    /// The call was made, and came to nothing.
    Failed(Refusal),
}

/// A call that was cut short because nothing allows it any more: before it was made, or after.
fn cut_off(ledger: &Ledger, state: &State, refusal: Refusal) -> Unanswered {
    if ledger.is_permitted() {
        return Unanswered::Failed(refusal);
    }
    Unanswered::Refused(refused(ledger, state, refusal, &[]))
}

/// A request that is recorded, on whose behalf it goes, and what signs its body on the way.
type Leaving = (Recorded<OutboundRequest>, Arc<str>, Option<ChunkSigner>);

/// A request that can be sent again.
struct Again {
    inbound: InboundRequest,
    body: Upload,
}

impl Calling<'_> {
    /// The request as it is sent as often as need be, if all of it can be had.
    async fn again(
        &self,
        permit: &Permit,
        inbound: &InboundRequest,
        body: &mut Upload,
    ) -> Result<Option<Again>, Refusal> {
        let idle = permit.timeouts().idle.unwrap_or_else(|| self.gateway.upstream().idle());
        let kept = body.keep(self.gateway.limits.body_slot, idle).await.map_err(unread)?;
        Ok(kept.then(|| Again { inbound: inbound.clone(), body: body.again() }))
    }

    /// Sends a request, and again with another credential as long as the origin does not accept the one
    /// that it had. Nothing of an answer has been handed on by then.
    async fn until_answered(
        &self,
        again: Again,
        permit: &mut Permit,
        ledger: &mut Ledger,
    ) -> Result<(Sent, Pending), Unanswered> {
        let mut tried = Tried::default();
        loop {
            let request = (again.inbound.clone(), again.body.again());
            let (sent, pending) = self.once(request, permit, ledger, tried.is_empty()).await?;
            let status = sent.response.status();
            match self.gateway.judge(permit, &mut tried, status, self.at) {
                Verdict::Take => return Ok((sent, pending)),
                Verdict::Again => {}
                Verdict::Exhausted(refusal) => return Err(Unanswered::Failed(refusal)),
            }
        }
    }

    /// Sends a request once.
    async fn once(
        &self,
        (inbound, body): (InboundRequest, Upload),
        permit: &Permit,
        ledger: &mut Ledger,
        first: bool,
    ) -> Result<(Sent, Pending), Unanswered> {
        let (recorded, principal, chunks) = self.recorded(inbound, permit, ledger, first).await?;
        let (request, mut pending) =
            recorded.into_wire(|filled| body.filled(filled).signed(chunks));
        let origin = pending.origin().clone();
        let Timeouts { response, idle } = permit.timeouts();
        // What comes before an answer of which a token is taken could have it too.
        let takes = !permit.captures().is_empty();
        let heard = if takes { None } else { self.outlet.listens(self.version) };
        let still = || self.gateway.still(self.state, self.who, ledger.carried());
        let call = Call {
            origin: &origin,
            principal: &principal,
            response_timeout: response,
            idle_timeout: idle,
            interims: heard.as_ref(),
            last_look: Some(LastLook(&still)),
        };
        let upstream = self.gateway.upstream();
        let sending = upstream.send(request, call);
        let sent = passing(sending, heard.as_ref(), self.outlet, &mut pending).await;
        let sent = sent.map_err(Unanswered::Failed)?;
        if sent.response.status() == StatusCode::UNAUTHORIZED {
            rejected(self.gateway, permit);
        }
        self.gateway.spares.note(permit, sent.response.status(), sent.response.headers());
        Ok((sent, pending))
    }

    /// The request with its secrets in it, of which a record was written.
    async fn recorded(
        &self,
        inbound: InboundRequest,
        permit: &Permit,
        ledger: &mut Ledger,
        first: bool,
    ) -> Result<Leaving, Unanswered> {
        // A request that was sent before has a record, and gets its outcome.
        let refused = |ledger: &Ledger, refusal: Refusal, uses: &[Use]| {
            if first {
                Unanswered::Refused(refused(ledger, self.state, refusal, uses))
            } else {
                Unanswered::Failed(refusal)
            }
        };
        let named = || named(self.references);
        let resolved = resolve(self.gateway, self.state, permit)
            .await
            .map_err(|refusal| refused(ledger, refusal, &named()))?;
        // Why here: a value may have been long in coming.
        still_allowed(self.gateway, self.state, (self.who, &inbound), permit)
            .map_err(|refusal| refused(ledger, refusal, &named()))?;
        let who = (&**self.who, self.at);
        let mut outbound = filled(self.state, who, inbound, (permit, resolved))
            .map_err(|refusal| refused(ledger, refusal, &named()))?;
        // Why here: the last step before a byte may leave. No record, no call.
        let uses = outbound.take_uses();
        let chunks = outbound.take_chunks();
        let (workspace, agent) = (self.who.workspace.as_str(), self.who.agent.as_str());
        let principal = inject::principal(workspace, agent, &uses);
        let recorded = if first {
            ledger.permit(outbound, self.state, permit.rule(), &uses)
        } else {
            ledger.also(outbound, self.state, permit.rule(), &uses)
        };
        let recorded = recorded.map_err(|refusal| refused(ledger, refusal, &uses))?;
        ledger.carries(uses);
        Ok((recorded, principal, chunks))
    }
}

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
    references: References,
    pub(super) decision: Result<Permit, Refusal>,
    /// In which second of Unix time.
    at: i64,
}

impl Asked<'_> {
    /// Decides. What was given a moment ago is no reason to refuse. Asked for whatever stands in the
    /// way, so that the time of the answer does not tell a reference to nothing from a forbidden one.
    pub(super) async fn decide(&self, state: Arc<State>) -> Decided {
        let decided = self.decide_on(state);
        let refers = decided.references.any();
        if decided.decision.is_err() && refers && self.gateway.look_again().await {
            return self.decide_on(self.gateway.state());
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
        let digested = || references.wants_digest(&self.inbound).then_some(BodyKind::Whole);
        let kind = kind.or_else(digested)?;
        Some(Wanted { kind, idle: permit.timeouts().idle })
    }

    /// Reads the body, or says why it cannot be.
    async fn read(&mut self, body: &mut Upload, wanted: Wanted) -> Result<(), Refusal> {
        let digested = wanted.kind == BodyKind::Whole;
        if is_coded(self.inbound.headers()) && !digested {
            let detail = "The body has a Content-Encoding, under which a reference cannot be seen";
            return Err(Refusal::with_detail(Code::BodyUnreadable, detail));
        }
        let most = self.gateway.limits.body_slot.max(if digested { SIGNED } else { 0 });
        let bytes = self.gathered(body, most, wanted.idle).await?;
        self.inbound.take_body(BodyText::read(bytes, wanted.kind));
        // Whoever sends slowly has the labels of then no longer.
        let state = self.gateway.state();
        self.renew(&state);
        Ok(())
    }

    /// All of the body, which is sent from memory then.
    pub(super) async fn whole(&self, body: &mut Upload) -> Result<Bytes, Refusal> {
        match body.gathered() {
            Some(bytes) => Ok(bytes),
            None if body.is_empty() => Ok(Bytes::new()),
            None => self.gathered(body, self.gateway.limits.body_slot, None).await,
        }
    }

    async fn gathered(
        &self,
        body: &mut Upload,
        most: usize,
        idle: Option<Duration>,
    ) -> Result<Bytes, Refusal> {
        let idle = idle.unwrap_or_else(|| self.gateway.upstream().idle());
        let bytes = body.gather(most, idle).await.map_err(unread)?;
        // That may have taken long.
        if !self.gateway.state().authn.still_valid(&self.caller.identity, unix_now()) {
            return Err(Refusal::new(Code::AgentRevoked));
        }
        Ok(bytes)
    }

    /// The labels of the agent as they are now.
    pub(super) fn renew(&mut self, state: &State) {
        self.who = state.authn.relabelled(&self.who);
    }
}

fn unread(why: Ungathered) -> Refusal {
    match why {
        Ungathered::TooLarge => Refusal::new(Code::BodyTooLarge),
        Ungathered::Late => Refusal::new(Code::RequestTimeout),
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

/// The request with its secrets in it.
fn filled(
    state: &State,
    (who, at): (&Identity, i64),
    inbound: InboundRequest,
    (permit, resolved): (&Permit, Resolved),
) -> Result<OutboundRequest, Refusal> {
    if let Some(path) = inject::masked_path(&inbound, permit, &resolved) {
        state.policy.holds_for(who, &inbound, permit, &path, (&state.credentials, at))?;
    }
    inject(inbound, permit, resolved)
}

/// The way back of an answer that is HTTP to its end.
async fn answer(
    sent: Sent,
    (pending, captures): (Pending, Option<Captures>),
    ledger: Ledger,
    up: Uploaded,
    (version, cut, watch): (Version, &Cut, Watch),
) -> Result<Response<Body>, Refusal> {
    // Why here: the answer cannot be read before it is scrubbed.
    let scrubbed = scrub(pending.answered(sent.response)).await;
    let taken = match (scrubbed, captures) {
        (Ok(response), Some(captures)) => captures.take(response).await,
        (scrubbed, _) => scrubbed,
    };
    let mut response = taken.map_err(|refusal| failed(&ledger, refusal, up.bytes()))?;
    strip_answer(response.headers_mut());
    if version != Version::HTTP_2 {
        announce_trailers(response.headers_mut());
    }
    // An intermediary sends its own version (RFC 9112 section 2.3): an origin's HTTP/1.0 would end
    // the agent's connection.
    *response.version_mut() = Version::HTTP_11;
    let status = response.status().as_u16();
    let mut tally = ledger.answered(Some(status), up, sent.timing.head);
    tally.watch = watch;
    let unfinished = match version {
        // Its agent knows neither chunks nor, where there is none, a length.
        Version::HTTP_10 => Unfinished::Reset(cut.clone()),
        Version::HTTP_2 if is_grpc(response.headers()) => Unfinished::GrpcStatus,
        _ => Unfinished::Error,
    };
    Ok(response.map(|body| Body::streamed(body, tally, unfinished)))
}

fn check(
    gateway: &Gateway,
    state: &State,
    route: &Route,
    parts: http::request::Parts,
) -> Result<InboundRequest, Refusal> {
    // Without the vault nobody knows who is who: that is not the agent's fault.
    if state.sealed.is_none() {
        return Err(Refusal::new(Code::VaultUnavailable));
    }
    // The token may have been revoked since the tunnel was opened.
    if !state.authn.still_valid(&route.caller.identity, unix_now()) {
        return Err(Refusal::new(Code::AgentRevoked));
    }
    if route.other_name {
        return Err(Refusal::with_detail(
            Code::AuthorityMismatch,
            "The TLS handshake named another host than the CONNECT",
        ));
    }
    if target_length(&parts.uri) > gateway.limits.url_bytes {
        return Err(Refusal::new(Code::UrlTooLong));
    }
    // hyper counts those of HTTP/1.1; on HTTP/2 only their bytes are bounded.
    if parts.headers.len() > gateway.limits.headers {
        return Err(Refusal::new(Code::HeadTooLarge));
    }
    InboundRequest::parse(parts, &route.origin)
}

/// The length of a target as it was sent.
fn target_length(uri: &Uri) -> usize {
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    scheme + authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}

/// What the request's own fields say about the run goes over what the tunnel said.
fn identify(tunnel: &Arc<Identity>, inbound: &InboundRequest) -> Arc<Identity> {
    let own = inbound.context();
    if own.run.is_none() && own.node.is_none() && own.user.is_none() {
        return Arc::clone(tunnel);
    }
    Arc::new(tunnel.saying(own))
}

/// The credentials that a refused request asked for.
fn named(references: &References) -> Vec<Use> {
    let name = |located: &inject::Located| Use {
        credential: located.credential().name.clone(),
        version: None,
        slot: None,
        why: Why::default(),
    };
    references.located().iter().map(name).collect()
}

/// Refuses a request that carries a secret, and keeps the secret out of the record.
fn sighted(ledger: &mut Ledger, state: &State, sighting: Sighting) -> Refusal {
    if sighting.in_path {
        ledger.withhold_path();
    }
    let Sighting { credential, version, .. } = sighting;
    if state.credentials.get(credential.as_str()).is_some_and(|c| c.properties.honeytoken) {
        ledger.baited(&credential);
    }
    let uses = [Use { credential, version: Some(version), slot: None, why: Why::default() }];
    refused(ledger, state, Refusal::new(Code::RealCredential), &uses)
}

pub(super) fn refused(ledger: &Ledger, state: &State, refusal: Refusal, uses: &[Use]) -> Refusal {
    ledger.refuse(state, &refusal, uses);
    refusal
}

pub(super) fn failed(ledger: &Ledger, refusal: Refusal, up: u64) -> Refusal {
    let refusal = ledger.true_cause(refusal);
    ledger.failed(&refusal, up);
    refusal
}

/// HTTP/1.1 sends only the trailers that its head announces, and HTTP/2 announces none. Those of gRPC
/// are known (its wire format, "Responses"); an answer without them is no answer.
fn announce_trailers(headers: &mut HeaderMap) {
    if is_grpc(headers) && !headers.contains_key(header::TRAILER) {
        let names = "grpc-status, grpc-message, grpc-status-details-bin";
        headers.insert(header::TRAILER, http::HeaderValue::from_static(names));
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(refusal::is_grpc)
}

/// Takes the origin's hop-by-hop fields out; hyper writes our own. `Trailer` and `Upgrade` alike.
pub(super) fn strip_answer(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(header::PROXY_AUTHENTICATE);
    // By this field clients tell our answers from the origin's, so the origin may not speak as us.
    let ours =
        |v: &http::HeaderValue| v.as_bytes().windows(5).any(|w| w.eq_ignore_ascii_case(b"locum"));
    if headers.get_all(refusal::PROXY_STATUS).iter().any(ours) {
        headers.remove(refusal::PROXY_STATUS);
    }
}
