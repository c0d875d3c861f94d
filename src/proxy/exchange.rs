//! The life of one request, from its parse to its scrubbed answer.

use std::sync::Arc;

use h2::ext::Protocol;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, header};

use super::asked::Asked;
use super::body::{Body, Unfinished, Upload};
use super::calling::Calling;
use super::captured::Captures;
use super::incoming::Incoming;
use super::interim::Outlet;
use super::ledger::{Ledger, Uploaded};
use super::listener::Shutdown;
use super::socket::AgentSide;
use super::stream::Cut;
use super::withdrawal::Watch;
use super::{Caller, Gateway, Place, State, refusal, unix_now};
use crate::agent::Identity;
use crate::credential::Slot;
use crate::host::Origin;
use crate::inject::{self, Pending, References, Sighting};
use crate::outcome::{Code, Refusal};
use crate::record::{Use, Why};
use crate::request::{InboundRequest, strip_hop_by_hop};
use crate::scrub::scrub;
use crate::upstream::Sent;

/// Where a request came from: a connection of `caller` that leads to `origin`.
pub(super) struct Route {
    pub(super) caller: Caller,
    pub(super) origin: Origin,
    /// The same as records name it: once for all requests.
    destination: Arc<str>,
    /// The client's TLS named another host than its CONNECT: nothing in this tunnel is served.
    pub(super) other_name: bool,
    /// What it counts as.
    pub(super) place: Arc<Place>,
    /// Whom a socket that outlives its connection's HTTP has to listen to.
    pub(super) shutdown: Shutdown,
}

impl Route {
    pub(super) fn new(
        (caller, shutdown): (Caller, Shutdown),
        origin: Origin,
        other_name: bool,
        place: Arc<Place>,
    ) -> Self {
        let destination = origin.to_string().into();
        Self { caller, origin, destination, other_name, place, shutdown }
    }

    /// A new account of a request.
    fn ledger(&self, gateway: &Arc<Gateway>) -> Ledger {
        Ledger::at(gateway, &self.caller, Arc::clone(&self.destination))
    }
}

/// Answers a request: with the origin's scrubbed answer, or with the refusal.
pub(super) async fn exchange(
    gateway: &Arc<Gateway>,
    route: &Route,
    request: Request<Incoming>,
    outlet: &Outlet,
) -> Response<Body> {
    let mut ledger = route.ledger(gateway);
    let id = ledger.id;
    // An extended CONNECT stands for a GET.
    let extended = request.extensions().get::<Protocol>().is_some();
    let method = if extended { "GET" } else { request.method().as_str() };
    ledger.asked(method, Some(request.uri().path()));
    let grpc = refusal::wants_grpc(&request);
    let is_head = *request.method() == Method::HEAD;
    let refused = match authorized(gateway, route, request, outlet, ledger).await {
        Ok(response) if is_head || has_no_content(response.status()) => {
            return response.map(Body::without_content);
        }
        Ok(response) => return response,
        Err(refused) => refused,
    };
    tracing::info!(request_id = %id, code = %refused.code, detail = %refused.detail, "refused");
    if grpc { refusal::respond_grpc(&refused, id) } else { refusal::respond(&refused, id) }
}

/// Whether answers of this status have no content (RFC 9110 sections 15.3.5 and 15.4.5).
fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The answer to a request in a tunnel that could not be read.
pub(super) fn unreadable(gateway: &Arc<Gateway>, route: &Route, code: Code) -> Response<Body> {
    let ledger = route.ledger(gateway);
    let refusal = Refusal::new(code);
    ledger.refuse(&route.caller.state(), &refusal, &[]);
    tracing::info!(request_id = %ledger.id, %code, "refused unread");
    refusal::respond(&refusal, ledger.id)
}

/// The steps, in the one order in which they compile.
async fn authorized(
    gateway: &Arc<Gateway>,
    route: &Route,
    mut request: Request<Incoming>,
    outlet: &Outlet,
    mut ledger: Ledger,
) -> Result<Response<Body>, Refusal> {
    let state = route.caller.state();
    // From here on the request is its head and, untouched, its body.
    let version = request.version();
    let agent_side = AgentSide::take(request.extensions_mut());
    let (parts, mut body) = Upload::of(request);
    ledger.uploads(body.uploaded());
    // Why here: what cannot be read is recorded, and no record shows a secret.
    let watch = state.sealed.as_ref().map(|sealed| &sealed.watch);
    if watch.is_some_and(|watch| watch.is_in_target(parts.method.as_str(), parts.uri.path())) {
        ledger.withhold_target();
    }
    // Why here: everything after this line works on one reading of one request.
    let inbound = check(gateway, &state, route, parts)
        .map_err(|refusal| refused(&ledger, &state, refusal, &[]))?;
    let who = identify(&state.authn.relabelled(&route.caller.identity), &inbound);
    if !watch.is_some_and(|watch| watch.is_in_context(inbound.context())) {
        ledger.identify(Arc::clone(&who));
    }
    // Why here: a secret in the agent's own hands is news, whatever the policy says of the request.
    if let Some(sighting) = watch.and_then(|watch| watch.find(&inbound)) {
        return Err(sighted(&ledger, &state, sighting));
    }
    body.watched(&state, &inbound);
    // Why here: what follows can only be done with a permit, and only this makes one.
    let mut asked = Asked { gateway, caller: &route.caller, who, inbound };
    let decided = asked.decided(state, &mut body, &mut ledger).await?;
    let admitted = decided.admitted(&asked, &mut ledger).await?;
    let Asked { who, inbound, .. } = asked;
    let (calling, mut permit) = Calling::new(gateway, (route, outlet, version), who, admitted);
    let (mut way, opening) = calling.prepared((&inbound, &body), &permit, &ledger, agent_side)?;
    let call = (inbound, body);
    if let Some(opening) = opening {
        // In a box: few requests open a socket, and all would have to have room for it.
        return Box::pin(calling.over_socket(opening, call, permit, ledger, way)).await;
    }
    // Why here: secrets are opened, recorded and sent in one step, which only a permit leads to...
    let answered = calling.sent(call, &mut permit, &mut ledger, &mut way).await?;
    // ... and what comes back cannot be read before it is scrubbed.
    answer(answered, ledger, way).await
}

/// The way back of an answer.
pub(super) struct Way<'a> {
    pub(super) captures: Option<Captures>,
    pub(super) up: Uploaded,
    /// That the agent speaks.
    pub(super) version: Version,
    pub(super) cut: &'a Cut,
    pub(super) watch: Watch,
}

/// What the agent gets of an answer that is HTTP to its end.
///
/// # Errors
/// An answer that cannot be searched, or whose tokens cannot be kept. It is recorded.
pub(super) async fn answer(
    (sent, pending): (Sent, Pending),
    ledger: Ledger,
    way: Way<'_>,
) -> Result<Response<Body>, Refusal> {
    let Way { captures, up, version, cut, watch } = way;
    let scrubbed = scrub(pending.answered(sent.response)).await;
    let taken = match (scrubbed, captures) {
        (Ok(response), Some(captures)) => captures.take(response).await,
        (scrubbed, _) => scrubbed,
    };
    let mut response = taken.map_err(|refusal| failed(&ledger, refusal, up.bytes()))?;
    strip_answer(response.headers_mut());
    if response.status() == StatusCode::NO_CONTENT {
        // RFC 9110 section 8.6: clients of HTTP/2 take it for a broken answer.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
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
        Version::HTTP_10 => Unfinished::Reset,
        Version::HTTP_2 if is_grpc(response.headers()) => Unfinished::GrpcStatus,
        Version::HTTP_2 => Unfinished::Stream,
        _ => Unfinished::Error,
    };
    Ok(response.map(|body| Body::streamed(body, tally, (unfinished, cut.clone()))))
}

fn check(
    gateway: &Gateway,
    state: &State,
    route: &Route,
    parts: Parts,
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
    // On HTTP/1.1 a head is bounded before there is a request.
    if parts.version == Version::HTTP_2 && head_size(&parts) > gateway.limits.head_bytes {
        let detail = format!("The head has more than {} bytes", gateway.limits.head_bytes);
        return Err(Refusal::with_detail(Code::HeadTooLarge, detail));
    }
    if parts.headers.len() > gateway.limits.headers {
        let detail = format!("The request has more than {} header fields", gateway.limits.headers);
        return Err(Refusal::with_detail(Code::HeadTooLarge, detail));
    }
    InboundRequest::parse(parts, &route.origin)
}

/// The size of a head as HTTP/2 counts it: 32 bytes for each field beside its text (RFC 9113 section
/// 6.5.2). Of the pseudo-fields only the target can be long.
fn head_size(parts: &Parts) -> usize {
    let fields = parts.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 32);
    target_length(&parts.uri) + fields.sum::<usize>()
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
pub(super) fn named(references: &References) -> Vec<Use> {
    let name = |located: &inject::Located| {
        let slots = &located.credential().slots;
        Use {
            credential: located.credential().name.clone(),
            version: None,
            slot: located.slot().and_then(|at| slots.get(at)).map(Slot::label),
            why: Why::default(),
        }
    };
    references.located().iter().map(name).collect()
}

/// Refuses a request that carries a secret.
pub(super) fn sighted(ledger: &Ledger, state: &State, sighting: Sighting) -> Refusal {
    let Sighting { credential, version } = sighting;
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

/// The same for what stands behind an answer's body. What frames it was said in the head.
pub(super) fn strip_answers_trailers(trailers: &mut HeaderMap) {
    strip_answer(trailers);
    trailers.remove(header::CONTENT_LENGTH);
}

/// Takes the origin's hop-by-hop fields out; the connection writes our own. `Trailer` and `Upgrade` alike.
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
