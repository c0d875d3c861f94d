//! From a request on the proxy port to a tunnel: who asks, for which host, and what becomes of it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Body;
use super::copy::copy;
use super::distrust::{self, Client, Sign};
use super::exchange::{Route, exchange};
use super::failures::{Noted, Source};
use super::habits;
use super::handed::Handed;
use super::incoming::Incoming;
use super::inside::serve_inside;
use super::interim::Outlet;
use super::ledger::{Ledger, Uploaded};
use super::listener::Shutdown;
use super::lobby::Visitor;
use super::stream::{Cut, Stream};
use super::{Caller, Gateway, Near, Place, State, Workspace, refusal, unix_now};
use crate::agent::{Context, Identity};
use crate::authn::{self, Credentials, Denied, Shown};
use crate::host::{Authority, Host, Origin, Scheme};
use crate::inject;
use crate::metrics::{Failure, TunnelKind};
use crate::outcome::{Code, Ending, Refusal};
use crate::policy::{Meters, TunnelDecision};
use crate::record::Event;
use crate::reference::Name;
use crate::request::{absolute_origin, check_seen, read_context};
use crate::tls::{self, Alpn, FirstByte, Prefixed, SniMatch, Wire};
use crate::upstream::Transport;

/// What is left of a connection when its CONNECT has been answered.
pub(super) struct Left {
    pub(super) stream: Stream,
    /// What was read of it beyond the request.
    pub(super) unread: Vec<u8>,
}

/// What a request on the proxy port can do to its connection beside answering.
pub(super) struct AgentEnd<'a> {
    pub(super) outlet: Outlet,
    pub(super) cut: Cut,
    pub(super) visitor: &'a Visitor,
}

/// Answers one request on the proxy port.
pub(super) async fn front(
    gateway: &Arc<Gateway>,
    near: &Near,
    shutdown: &Shutdown,
    mut request: Request<Incoming>,
    end: &AgentEnd<'_>,
) -> Response<Body> {
    let target = match target(&request) {
        Ok(target) => target,
        Err(refusal) => return anonymous(gateway, near, String::new(), &refusal),
    };
    let (workspace, identity) = match authenticate(gateway, near, &request).await {
        Ok(found) => found,
        // To all alike: without the vault nobody can be told from anybody.
        Err(_) if gateway.default_workspace().state().sealed.is_none() => {
            let refusal = Refusal::new(Code::VaultUnavailable);
            return anonymous(gateway, near, target.unless_secret(gateway), &refusal);
        }
        Err(failed) => return challenge(gateway, near, (&target, shutdown), failed).await,
    };
    // An orchestrator may say more of the run beside the credentials.
    let identity = match read_context(request.headers()) {
        Ok(context) if context == Context::default() => identity,
        Ok(context) => Arc::new(identity.saying(&context)),
        Err(refusal) => return anonymous(gateway, near, target.unless_secret(gateway), &refusal),
    };
    // Why here: what is said of the run stands in each record from here on.
    let (identity, sighted) = unless_secret(&workspace, identity);
    // And the destination, which a resolver would hear of beside.
    let in_host = target.has_secret(&workspace);
    let client = Client::of(request.version(), request.headers());
    let (near, cut, baseline) = (near.clone(), end.cut.clone(), OnceLock::new());
    let caller = Caller { near, workspace, identity, client, cut, baseline };
    if sighted || in_host {
        let destination = if in_host { String::new() } else { target.destination() };
        let ledger = Ledger::at(gateway, &caller, destination.into());
        let refusal = Refusal::new(Code::RealCredential);
        ledger.refuse(&caller.state(), &refusal, &[]);
        return refusal::respond(&refusal, ledger.id);
    }
    let place = match end.visitor.is_of(&caller, gateway.limits.connections_per_agent) {
        Ok(place) => place,
        Err(refused) => {
            let mut ledger = Ledger::new(gateway, &caller, &target.into_origin());
            // What else a method may be was not looked at yet.
            if request.method() == http::Method::CONNECT {
                ledger.asked("CONNECT", None);
            }
            ledger.refuse(&caller.state(), &refused, &[]);
            return refusal::respond(&refused, ledger.id);
        }
    };
    match target {
        Target::Connect(authority) => {
            // There is one with every CONNECT.
            let Some(handed) = request.extensions_mut().remove() else {
                let id = super::request_id();
                return refusal::respond(&Refusal::new(Code::Internal), id);
            };
            connect(gateway, (caller, place), authority, handed, shutdown.clone()).await
        }
        Target::Absolute(origin) => {
            let shutdown = shutdown.clone();
            let route = Route::new((caller, shutdown), origin, false, place);
            // Boxed: most of these connections become tunnels, and would carry the room for it.
            Box::pin(exchange(gateway, &route, request, &end.outlet)).await
        }
    }
}

/// The caller without what it says of its run, where that is a secret of the vault; and whether it is.
fn unless_secret(workspace: &Workspace, identity: Arc<Identity>) -> (Arc<Identity>, bool) {
    let state = workspace.state();
    let watch = state.sealed.as_ref().map(|sealed| &sealed.watch);
    if !watch.is_some_and(|watch| watch.is_in_context(&identity.context)) {
        return (identity, false);
    }
    let context = Context::default();
    (Arc::new(Identity { context, ..(*identity).clone() }), true)
}

enum Target {
    Connect(Authority),
    Absolute(Origin),
}

impl Target {
    fn destination(&self) -> String {
        match self {
            Self::Connect(authority) => authority.to_string(),
            Self::Absolute(origin) => origin.to_string(),
        }
    }

    /// As records name it.
    fn into_origin(self) -> Origin {
        match self {
            Self::Connect(authority) => Origin { scheme: Scheme::Https, authority },
            Self::Absolute(origin) => origin,
        }
    }

    /// Whether the host's name has a secret of this workspace in it.
    fn has_secret(&self, workspace: &Workspace) -> bool {
        let host = match self {
            Self::Connect(authority) => &authority.host,
            Self::Absolute(origin) => &origin.authority.host,
        };
        let Host::Name(name) = host else { return false };
        let state = workspace.state();
        state.sealed.as_ref().is_some_and(|sealed| sealed.watch.is_in_host(name))
    }

    /// The destination of somebody of whom nobody knows the workspace; empty with a secret of any in it.
    fn unless_secret(&self, gateway: &Gateway) -> String {
        let secret = gateway.workspaces().iter().any(|workspace| self.has_secret(workspace));
        if secret { String::new() } else { self.destination() }
    }
}

fn target(request: &Request<Incoming>) -> Result<Target, Refusal> {
    check_seen(request.extensions())?;
    if *request.method() != http::Method::CONNECT {
        return absolute_origin(request.uri()).map(Target::Absolute);
    }
    // What follows the head is the tunnel (RFC 9110 section 9.3.6). Who takes some of it for a body
    // and who does not would see two different tunnels.
    let fields = request.headers();
    let length = fields.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    if length || fields.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::with_detail(Code::BadRequest, "A CONNECT has no body"));
    }
    // Host and port and nothing else (RFC 9112 section 3.2.3): a URL says more than is looked at.
    let uri = request.uri();
    let authority = uri.authority().filter(|_| uri.scheme().is_none());
    let text = authority.map_or("", http::uri::Authority::as_str);
    Authority::parse(text, None).map(Target::Connect).map_err(|error| {
        Refusal::with_detail(
            Code::BadRequest,
            format!("The CONNECT target cannot be used: {error}"),
        )
    })
}

/// Who calls, and in which workspace; or why nobody is let in, and who it says that it is.
async fn authenticate(
    gateway: &Arc<Gateway>,
    near: &Near,
    request: &Request<Incoming>,
) -> Result<(Arc<Workspace>, Arc<Identity>), (Denied, Option<Name>)> {
    let credentials = proxy_credentials(request).map_err(|denied| (denied, None))?;
    let claimed = || credentials.as_ref().and_then(Credentials::user).map(|u| u.agent.clone());
    let check = |gateway: &Gateway| {
        let certificate = near.certificate.as_ref();
        let shown = Shown { credentials: credentials.as_ref(), peer: near.peer, certificate };
        gateway.let_in(&shown)
    };
    let checked = match check(gateway) {
        // A token that was made a moment ago is as good as any.
        Err(denied) if denied != Denied::Absent && gateway.look_again().await => check(gateway),
        checked => checked,
    };
    checked.map_err(|denied| (denied, claimed()))
}

/// What the request says of itself. Two of them could be read in two ways.
fn proxy_credentials(request: &Request<Incoming>) -> Result<Option<Credentials>, Denied> {
    let mut fields = request.headers().get_all(header::PROXY_AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    let read = authn::parse_proxy_authorization(field.as_bytes());
    read.filter(|_| fields.next().is_none()).map(Some).ok_or(Denied::Malformed)
}

/// 407, the same for absent, unknown and revoked. The connection stays open: git, the JVM and .NET
/// send their credentials only after it.
async fn challenge(
    gateway: &Arc<Gateway>,
    near: &Near,
    (target, shutdown): (&Target, &Shutdown),
    (denied, claimed): (Denied, Option<Name>),
) -> Response<Body> {
    let refusal = Refusal::from(denied);
    let Some(why) = failure(denied) else {
        // Half of all clients ask before they tell: that is no event.
        gateway.metrics.refusal(Code::ProxyAuthRequired);
        return refusal::respond(&refusal, super::request_id());
    };
    let source = Source::from(near.peer);
    let noted = gateway.failures.note(source, claimed.as_ref(), gateway.elapsed());
    gateway.metrics.authentication_failed(why, !noted.wait.is_zero());
    if noted.tell {
        tell_of_failures(gateway, source, claimed.as_ref(), (denied, noted));
    }
    let answer = anonymous(gateway, near, target.unless_secret(gateway), &refusal);
    if !noted.wait.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(noted.wait) => {}
            () = shutdown.begun() => {}
        }
    }
    answer
}

/// As the metric has it; none for a caller that showed nothing, which is no failure.
fn failure(denied: Denied) -> Option<Failure> {
    match denied {
        Denied::Absent => None,
        Denied::Malformed => Some(Failure::Malformed),
        Denied::Unknown => Some(Failure::Unknown),
        Denied::Wrong => Some(Failure::Wrong),
        Denied::Expired => Some(Failure::Expired),
        Denied::Jwt(_) => Some(Failure::Jwt),
    }
}

/// Says who fails again and again: once when the answers begin to wait, and then ever more seldom.
fn tell_of_failures(
    gateway: &Gateway,
    source: Source,
    claimed: Option<&Name>,
    (denied, noted): (Denied, Noted),
) {
    let (failures, reason) = (noted.from_source, denied.reason());
    let agent = claimed.map_or("-", Name::as_str);
    tracing::warn!(%source, agent, failures, reason, "a source fails again and again to show who it is");
    // Bounded as records of strangers are: of these, too, there may be one for each address.
    if gateway.strangers.admits() {
        let detail = format!("{failures} failures; it said last that it is {agent}: {reason}");
        let event = Event {
            event: "authentication-failures",
            workspace: None,
            subject: Some(source.to_string()),
            detail: Some(detail),
            by: None,
            vault_epoch: None,
        };
        // An unwritable audit log shows in its own metric and in the readiness.
        let _unrecorded = gateway.audit.event(&event);
    }
}

fn anonymous(
    gateway: &Arc<Gateway>,
    near: &Near,
    destination: String,
    refused: &Refusal,
) -> Response<Body> {
    let ledger = Ledger::anonymous(gateway, near, destination);
    // Whoever can reach the port could fill the disk with these; what is over the bound is counted.
    if gateway.strangers.admits() {
        ledger.refuse(&gateway.default_workspace().state(), refused, &[]);
    } else {
        gateway.metrics.refusal(refused.code);
        return refusal::respond(refused, ledger.id);
    }
    tracing::info!(request_id = %ledger.id, peer = %near.peer, code = %refused.code, "refused at the door");
    refusal::respond(refused, ledger.id)
}

/// The answer to a request on the proxy port that could not be read.
pub(super) fn unreadable(gateway: &Arc<Gateway>, near: &Near, code: Code) -> Response<Body> {
    anonymous(gateway, near, String::new(), &Refusal::new(code))
}

async fn connect(
    gateway: &Arc<Gateway>,
    (caller, place): (Caller, Arc<Place>),
    authority: Authority,
    handed: Handed<Left>,
    shutdown: Shutdown,
) -> Response<Body> {
    let state = caller.state();
    match state.policy.tunnel(&caller.identity, &authority, &state.credentials, unix_now()) {
        TunnelDecision::Opaque { rule, meters, refuse_unusual } => {
            let by = (&rule, &meters, refuse_unusual);
            match open_opaque(gateway, &caller, authority.clone(), by).await {
                Ok((upstream, ledger)) => {
                    let gateway = Arc::clone(gateway);
                    let inner = shutdown.clone();
                    shutdown.spawn(async move {
                        let ends = (handed, upstream);
                        copy_opaque(&gateway, &caller, &authority, ends, ledger, &inner).await;
                        drop(place);
                    });
                    Response::new(Body::empty())
                }
                Err((refused, id)) => refusal::respond(&refused, id),
            }
        }
        TunnelDecision::Intercept => {
            let gateway = Arc::clone(gateway);
            let inner = Inner { caller, authority, place, shutdown: shutdown.clone() };
            shutdown.spawn(async move { intercept(&gateway, inner, handed).await });
            Response::new(Body::empty())
        }
    }
}

/// Dials for an opaque tunnel. This is answered before the 200, as there is no inside to say it in.
async fn open_opaque(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    authority: Authority,
    (rule, meters, refuse_unusual): (&Arc<str>, &Meters, bool),
) -> Result<(Transport, Ledger), (Refusal, crate::record::RequestId)> {
    let state = caller.state();
    let origin = Origin { scheme: Scheme::Https, authority: authority.clone() };
    let mut ledger = Ledger::new(gateway, caller, &origin);
    ledger.asked("CONNECT", None);
    let id = ledger.id;
    let refused = |ledger: &Ledger, refusal: Refusal| {
        ledger.refuse(&state, &refusal, &[]);
        (refusal, id)
    };
    let ticket = meters
        .admit(&caller.identity.agent, &std::iter::empty(), gateway.elapsed())
        .map_err(|refusal| refused(&ledger, refusal.by(rule)))?;
    ledger.hold(ticket);
    habits::look_at_tunnel(caller, refuse_unusual, &mut ledger, unix_now())
        .map_err(|refusal| refused(&ledger, refusal.by(rule)))?;
    let recorded =
        ledger.permit(authority, &state, rule, &[]).map_err(|refusal| refused(&ledger, refusal))?;
    let (workspace, agent) = (caller.workspace.name().as_str(), caller.identity.agent.as_str());
    let asker = inject::principal(workspace, agent, &[]);
    match gateway.upstream().tunnel(recorded, &asker).await {
        Ok(upstream) => Ok((upstream, ledger)),
        Err(refused) => {
            ledger.failed(&refused, 0);
            Err((refused, id))
        }
    }
}

/// Copies an opaque tunnel until both sides have ended, or until it would not be opened any more.
async fn copy_opaque(
    gateway: &Gateway,
    caller: &Caller,
    authority: &Authority,
    (handed, upstream): (Handed<Left>, Transport),
    ledger: Ledger,
    shutdown: &Shutdown,
) {
    let _open = gateway.metrics.tunnel(TunnelKind::Opaque);
    let (up, down) = (Uploaded::counting(), Uploaded::counting());
    let mut tally = ledger.answered(None, up.clone(), Duration::ZERO);
    tally.copied = down.clone();
    let moved = (up.clone(), down.clone());
    let ticket = tally.ticket();
    let over = || gateway.over_limit(ticket.as_deref(), moved.0.bytes(), moved.1.bytes());
    let withdrawn = async {
        let reason = |state: &State| no_longer(state, caller, authority).or_else(over);
        tokio::select! {
            code = caller.workspace.until(reason) => Some(code),
            () = quiet(shutdown, || moved.0.bytes() + moved.1.bytes()) => None,
        }
    };
    let Some(Left { stream, unread }) = handed.come().await else { return };
    let (ending, code) = tokio::select! {
        ending = copy(stream, unread, upstream, (up, down)) => (ending, None),
        code = withdrawn => match code {
            Some(_) => (Ending::Failed, code),
            None => (Ending::Complete, None),
        },
    };
    if let Some(code) = code {
        let agent = &caller.identity.agent;
        tracing::info!(%agent, %authority, %code, "an opaque tunnel was ended");
    }
    tally.code = code;
    tally.close(ending);
}

/// How long an opaque tunnel may say nothing once the proxy has begun to stop. What is in flight in it
/// cannot be seen; bytes that are on their way pause for less, and keep-alive connections for more.
const QUIET: Duration = Duration::from_secs(2);

/// Returns when the proxy has begun to stop, and nothing has moved since for [`QUIET`].
async fn quiet(shutdown: &Shutdown, moved: impl Fn() -> u64) {
    shutdown.begun().await;
    loop {
        let before = moved();
        tokio::time::sleep(QUIET).await;
        if moved() == before {
            return;
        }
    }
}

/// Why an opaque tunnel may not go on, if it may not.
fn no_longer(state: &State, caller: &Caller, authority: &Authority) -> Option<Code> {
    if !state.authn.still_valid(&caller.identity, unix_now()) {
        return Some(Code::AgentRevoked);
    }
    let who = state.authn.relabelled(&caller.identity);
    match state.policy.tunnel(&who, authority, &state.credentials, unix_now()) {
        TunnelDecision::Opaque { .. } => None,
        TunnelDecision::Intercept => Some(Code::NotAllowed),
    }
}

/// An intercepted tunnel, before its first request.
struct Inner {
    caller: Caller,
    authority: Authority,
    place: Arc<Place>,
    shutdown: Shutdown,
}

impl Inner {
    fn route(self, scheme: Scheme, other_name: bool) -> Route {
        let Self { caller, authority, place, shutdown } = self;
        let origin = Origin { scheme, authority };
        Route::new((caller, shutdown), origin, other_name, place)
    }
}

/// Takes the socket from under the CONNECT, with what the client sent right behind it.
async fn intercept(gateway: &Arc<Gateway>, inner: Inner, handed: Handed<Left>) {
    let _open = gateway.metrics.tunnel(TunnelKind::Intercepted);
    let Some(Left { stream, unread }) = handed.come().await else { return };
    look_inside(gateway, inner, Prefixed::new(unread, stream)).await;
}

async fn look_inside<S>(gateway: &Arc<Gateway>, inner: Inner, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match tls::first_byte(stream, gateway.limits.handshake).await {
        (FirstByte::Tls, stream) => intercept_tls(gateway, inner, stream).await,
        // undici tunnels plain http:// URLs too, and speaks in the clear inside.
        (FirstByte::Http, stream) => {
            let route = inner.route(Scheme::Http, false);
            Box::pin(serve_inside(gateway, route, stream, Alpn::Http11)).await;
        }
        (first, _) => {
            let (agent, authority) = (&inner.caller.identity.agent, &inner.authority);
            tracing::debug!(%agent, %authority, ?first, "no HTTP in the tunnel");
        }
    }
}

async fn intercept_tls<S>(gateway: &Arc<Gateway>, inner: Inner, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let leaves = gateway.leaves();
    let host = &inner.authority.host;
    // In boxes: a tunnel is open for longer than its handshake, and its stream is handed on by many.
    let stream = (stream, Wire::to(inner.caller.near.peer));
    match Box::pin(tls::accept(stream, host, &leaves, gateway.limits.handshake)).await {
        Ok(accepted) => {
            let other_name = matches!(accepted.sni, SniMatch::Other(_));
            let route = inner.route(Scheme::Https, other_name);
            // A client that names no protocol speaks the older one.
            let protocol = accepted.alpn.unwrap_or(Alpn::Http11);
            serve_inside(gateway, route, Box::new(accepted.stream), protocol).await;
        }
        Err(error) => {
            let sign = Sign::Handshake(error);
            distrust::came_to_nothing(gateway, &inner.caller, host, &sign);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::{Authenticate, Authenticators};
    use crate::credential::CredentialIndex;
    use crate::document::Source;
    use crate::policy;
    use crate::record::Peer;

    struct Clerk(bool);

    impl Authenticate for Clerk {
        fn authenticate(&self, _: &Shown<'_>, _: i64) -> Option<Result<Identity, Denied>> {
            None
        }

        fn still_valid(&self, _: &Identity, _: i64) -> Option<bool> {
            Some(self.0)
        }
    }

    fn state(valid: bool, rules: &str) -> State {
        let text = format!("version: 1\nrules:\n{rules}");
        State {
            policy: Arc::new(policy::compile(vec![Source::new("p.yaml", &text)]).unwrap()),
            generation: 1,
            credentials: Arc::new(CredentialIndex::default()),
            authn: Authenticators::new(vec![Arc::new(Clerk(valid))]),
            sealed: None,
        }
    }

    #[test]
    fn an_opaque_tunnel_stands_no_longer_than_its_token_and_its_rule() {
        const OPAQUE: &str = "  - {name: web, agents: [a], to: ['https://*'], tunnel: opaque}\n";
        const NONE: &str = "  - {name: other, agents: [b], to: ['https://*'], tunnel: opaque}\n";
        let identity = Identity::new("default".parse().unwrap(), "a".parse().unwrap(), "t");
        let caller = Caller {
            near: Near { peer: Peer::Unix(None), certificate: None },
            workspace: Workspace::new("default".parse().unwrap(), state(true, OPAQUE)),
            identity: Arc::new(identity),
            client: Client::Unknown,
            cut: Cut::default(),
            baseline: OnceLock::new(),
        };
        let authority = Authority::parse("web.test:443", None).unwrap();
        let now = |valid, rules| no_longer(&state(valid, rules), &caller, &authority);
        assert_eq!(now(true, OPAQUE), None);
        assert_eq!(now(false, OPAQUE), Some(Code::AgentRevoked));
        assert_eq!(now(true, NONE), Some(Code::NotAllowed));
    }
}
