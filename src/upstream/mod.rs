//! The far side: from a request that may leave to the answer of a verified origin.
//!
//! The way is always the same: find the route, resolve once, vet every address, dial the vetted one,
//! shake hands, verify, send. What is sent was recorded first ([`Recorded`] says so), redirects are
//! never followed, and a request is sent again only when not a byte of it had left.
//!
//! Times: connecting (name, TCP) and the TLS handshake have one each; the head of the answer has one
//! that begins when the request has been sent; a body has none in all, only between two pieces.

mod body;
mod dial;
mod gather;
mod guard;
mod h2;
mod identity;
mod interim;
mod leash;
mod link;
mod pool;
mod resolve;
mod route;
mod trust;
mod upgrade;
mod via;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use tokio::time::{Instant, timeout};

pub use self::h2::WithoutWords;
pub use body::{BodyError, UpstreamBody};
pub use dial::{SelfAddresses, tune};
pub use gather::Gather;
pub use guard::{AddressClass, AddressGuard, Forbidden, classify};
pub use identity::{IdentityError, check_identity};
pub use interim::{GoOn, Interims};
pub use link::LinkError;
pub use pool::{PoolCounts, PoolLimits};
pub use resolve::{Resolve, Resolving, SystemResolver};
pub use route::{HostRule, UpstreamError};
pub use trust::{ClientCertificate, RootSummary, TrustError, refuses_certificate};
pub use upgrade::{Chunks, Downlink, Switched, Upgraded, Uplink, poll_send};
pub use via::{Login, LoginAccount, LoginFor, Logins, NoLogins, ProxyRule, Transport};

use body::{Home, RequestBody, Upload};
use dial::Dialer;
use h2::{Multiplex, Turn};
use leash::Leashes;
use link::{Answer, Failure, Link, Patience, Stream};
use pool::{Lane, Pool, PoolKey, Spoken};
use route::{Route, Routes};
use trust::Offer;

use crate::host::{Authority, Origin, Scheme};
use crate::http1::HeadError;
use crate::outcome::{Code, Refusal};
use crate::record::Recorded;
use crate::request::one_length;
use crate::secret::Secret;

/// How often a request may meet a dead connection from the pool before it gets a fresh one. An
/// origin that restarted has closed them all, and each attempt costs only a look.
const STALE_RETRIES: u32 = 2;

/// How long the steps of a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Resolving and connecting, together.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// From the end of the request to the head of the answer. Long: models think before they speak.
    pub response: Duration,
    /// Between two pieces of a body. A stream that says nothing for so long sends no keep-alive
    /// comments either, and has been forgotten by the NATs on its way.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            response: Duration::from_mins(5),
            idle: Duration::from_mins(10),
        }
    }
}

/// What an [`Upstream`] is made from.
pub struct Settings {
    /// `upstream.hosts`.
    pub hosts: Vec<HostRule>,
    /// Which addresses may be dialled.
    pub guard: AddressGuard,
    /// Where this process listens.
    pub own: SelfAddresses,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How many connections wait for their next request.
    pub pool: PoolLimits,
    /// Who turns names into addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Who opens the credentials of proxies on the way.
    pub logins: Arc<dyn Logins>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            guard: AddressGuard::default(),
            own: SelfAddresses::default(),
            timeouts: Timeouts::default(),
            pool: PoolLimits::default(),
            resolver: Arc::new(SystemResolver::default()),
            logins: Arc::new(NoLogins),
        }
    }
}

/// Where a request goes and on whose behalf.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Scheme, host and port. The certificate must be for this host.
    pub origin: &'a Origin,
    /// Who sends, and after a `+` with what: agent, credential versions. Connections are never shared
    /// between two of them; names are looked up in the places of who sends.
    pub principal: &'a Arc<str>,
    /// The rule's own time for the head of the answer, in place of [`Timeouts::response`].
    pub response_timeout: Option<Duration>,
    /// The rule's own time between two pieces of a body, in place of [`Timeouts::idle`].
    pub idle_timeout: Option<Duration>,
    /// Where the origin's interim answers go; none for a caller that does not understand them.
    pub interims: Option<&'a Interims>,
    /// Asked once there is a connection, whose opening may have taken long, and before a byte of the
    /// request leaves on it.
    pub last_look: Option<LastLook<'a>>,
    /// The client certificate, with its key, that a new connection shows: a credential's own, in the
    /// place of that in `upstream.hosts`. The principal names it.
    pub certificate: Option<&'a Secret>,
}

/// How a new connection is made.
#[derive(Clone, Copy)]
struct Way<'a> {
    route: &'a Route,
    certificate: Option<&'a Secret>,
}

impl<'a> Way<'a> {
    fn of(route: &'a Route, call: &Call<'a>) -> Self {
        Self { route, certificate: call.certificate }
    }
}

/// Who sends, of a principal.
fn asker(principal: &str) -> &str {
    principal.split_once('+').map_or(principal, |(asker, _)| asker)
}

/// Says whether a request with these fields may still leave.
#[derive(Clone, Copy)]
pub struct LastLook<'a>(pub &'a (dyn Fn(&HeaderMap) -> Result<(), Refusal> + Sync));

impl fmt::Debug for LastLook<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastLook").finish_non_exhaustive()
    }
}

impl Call<'_> {
    fn look_again(&self, fields: &HeaderMap) -> Result<(), Refusal> {
        self.last_look.map_or(Ok(()), |look| look.0(fields))
    }
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Resolving and connecting; none on a reused connection.
    pub connect: Option<Duration>,
    /// The TLS handshake; none on a reused connection and in the clear.
    pub tls: Option<Duration>,
    /// From the request's first byte to the head of the answer.
    pub head: Duration,
}

impl Timing {
    fn is_reused(&self) -> bool {
        self.connect.is_none()
    }
}

/// The head of an answer, with its body to come.
#[derive(Debug)]
pub struct Sent {
    /// The origin's answer, untouched.
    pub response: Response<UpstreamBody>,
    /// Whether the connection had served before.
    pub reused: bool,
    /// Where the time went.
    pub timing: Timing,
}

/// The far side. One for each configuration: a reload makes a new one, and the old one ends with its
/// last answer. A clone is the same one.
#[derive(Clone)]
pub struct Upstream {
    routes: Arc<Routes>,
    dialer: Arc<Dialer>,
    logins: Arc<dyn Logins>,
    pool: Arc<Pool>,
    leashes: Arc<Leashes>,
    timeouts: Timeouts,
}

impl Upstream {
    /// Reads the certificates that the settings name. Connects to nothing.
    ///
    /// # Errors
    /// [`UpstreamError`] that names the entry of `upstream.hosts` and the file.
    pub fn new(settings: Settings) -> Result<Self, UpstreamError> {
        Ok(Self {
            routes: Arc::new(Routes::new(settings.hosts)?),
            dialer: Arc::new(Dialer {
                other_family: dial::OtherFamily::default(),
                resolver: settings.resolver,
                guard: settings.guard,
                own: settings.own,
                timeout: settings.timeouts.connect,
            }),
            logins: settings.logins,
            pool: Arc::new(Pool::new(settings.pool)),
            leashes: Arc::default(),
            timeouts: settings.timeouts,
        })
    }

    /// Sends a request and waits for the head of the answer. The request is final: origin-form
    /// target, all header fields, `Host` among them.
    ///
    /// Dropping the future, or the body of the answer before its end, closes the connection.
    ///
    /// # Errors
    /// A [`Refusal`] with the code of what failed, in words that name host and port at most. When
    /// the body of the request ends with a [`Refusal`] as its error, that one.
    pub async fn send<B>(
        &self,
        request: Recorded<Request<B>>,
        call: Call<'_>,
    ) -> Result<Sent, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_inner().into_parts();
        let (body, upload) = RequestBody::new(body);
        let mut request = Request::from_parts(parts, body);
        *request.version_mut() = Version::HTTP_11;
        let upload = upload.as_deref();

        let authority = &call.origin.authority;
        let route = self.routes.find(&authority.host);
        let key = self.pool.key(call.origin, route.id, call.principal);
        let way = Way::of(route, &call);
        let patience = Patience {
            response: call.response_timeout.unwrap_or(self.timeouts.response),
            idle: call.idle_timeout.unwrap_or(self.timeouts.idle),
        };
        let mut stale = 0;
        loop {
            let (lane, mut timing) = self.lane(&key, way, stale).await?;
            call.look_again(request.headers())?;
            let start = Instant::now();
            let (failure, again) = match lane {
                Lane::Own(mut link) => {
                    match link.exchange(request, upload, patience, call.interims).await {
                        Ok(answer) => {
                            timing.head = start.elapsed();
                            let response = self.receive(answer, link, key, patience.idle)?;
                            return Ok(Sent { response, reused: timing.is_reused(), timing });
                        }
                        Err(failure) => (failure, timing.is_reused()),
                    }
                }
                Lane::Shared(seat) => {
                    match seat
                        .exchange(interim::at_once(request), upload, patience, call.interims)
                        .await
                    {
                        Ok(answer) => {
                            timing.head = start.elapsed();
                            let mut response =
                                answer.into_body(patience.idle).map(UpstreamBody::stream);
                            one_framing(response.headers_mut(), authority)?;
                            return Ok(Sent { response, reused: timing.is_reused(), timing });
                        }
                        // The origin itself says that it may be sent again, which it can say for ever.
                        Err(failure) => (failure, stale < STALE_RETRIES),
                    }
                }
            };
            match failure {
                Failure::Unsent(unsent) if again => request = *unsent,
                Failure::Http1Required(unsent) if again => {
                    self.pool.require_http1(&key);
                    request = *unsent;
                }
                failure => return Err(refusal(&failure, authority, upload)),
            }
            stale += 1;
            self.pool.count_retried();
        }
    }

    /// A connection that is there, or a new one. Where it could be shared, one opens it for all.
    async fn lane(
        &self,
        key: &PoolKey,
        way: Way<'_>,
        stale: u32,
    ) -> Result<(Lane, Timing), Refusal> {
        let links = stale < STALE_RETRIES;
        if let Some(lane) = self.waiting(key, links).await {
            if let Lane::Shared(seat) = &lane
                && seat.wants_own
                && way.certificate.is_none()
            {
                self.grow(key);
            }
            return Ok((lane, Timing::default()));
        }
        if !self.may_share(key, way.route) {
            return self.open(key, way, None).await;
        }
        let opening = self.pool.opening(key);
        let turn = opening.turn().await?;
        if let Some(lane) = self.waiting(key, links).await {
            return Ok((lane, Timing::default()));
        }
        // Those before have found that there is nothing to share.
        if !self.may_share(key, way.route) {
            drop(turn);
            return self.open(key, way, None).await;
        }
        let mut turn = Some(turn);
        let opened = self.open(key, way, Some(&mut turn)).await;
        if let (Err(refusal), Some(turn)) = (&opened, turn) {
            opening.failed(turn, refusal);
        }
        opened
    }

    /// Opens one more shared connection, for this runtime, which has streams of others' meanwhile. Nobody waits
    /// for it, and nobody is told when it comes to nothing: it is tried again.
    fn grow(&self, key: &PoolKey) {
        let Some(turn) = self.pool.opening(key).free_turn() else { return };
        let (this, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            let route = this.routes.find(&key.origin.authority.host);
            let way = Way { route, certificate: None };
            if let Err(refusal) = this.open(&key, way, Some(&mut Some(turn))).await {
                let (target, code) = (&key.origin.authority, refusal.code);
                tracing::debug!(%target, %code, "one more shared connection could not be opened");
            }
        });
    }

    /// A connection that is there, and alive.
    async fn waiting(&self, key: &PoolKey, links: bool) -> Option<Lane> {
        loop {
            let mut lane = self.pool.take(key, links)?;
            let alive = match &mut lane {
                Lane::Own(link) => link.is_alive_here().await,
                Lane::Shared(_) => true,
            };
            if alive {
                return Some(lane);
            }
        }
    }

    /// Whether a connection might be HTTP/2.
    fn may_share(&self, key: &PoolKey, route: &Route) -> bool {
        key.origin.scheme == Scheme::Https
            && !route.http1_only
            && matches!(self.pool.spoken(key), None | Some(Spoken::Http2))
    }

    /// Opens a connection. `turn` is taken when others are to wait on for its SETTINGS.
    async fn open(
        &self,
        key: &PoolKey,
        way: Way<'_>,
        turn: Option<&mut Option<Turn>>,
    ) -> Result<(Lane, Timing), Refusal> {
        let required = self.pool.spoken(key) == Some(Spoken::Http1Required);
        let offer = if required { Offer::Http1 } else { Offer::Both };
        let (stream, timing) = self.stream(&key.origin, &key.principal, way, offer).await?;
        let target = &key.origin.authority;
        let leash = self.leashes.hold(&key.principal);
        if stream.is_http2() {
            self.pool.spoke(key, Spoken::Http2);
            let turn = turn.and_then(Option::take);
            let opened = Multiplex::open(stream, target, turn, leash).await;
            let connection = opened.map_err(|error| stream_broken(&error, target))?;
            // Before the others can take it.
            let seat = connection.queue();
            self.pool.share(key, connection);
            return Ok((Lane::Shared(seat), timing));
        }
        if offer == Offer::Both && key.origin.scheme == Scheme::Https {
            self.pool.spoke(key, Spoken::Http1);
        }
        Ok((Lane::Own(Box::new(Link::new(stream, leash))), timing))
    }

    /// A connection before its HTTP.
    async fn stream(
        &self,
        origin: &Origin,
        principal: &Arc<str>,
        Way { route, certificate }: Way<'_>,
        offer: Offer,
    ) -> Result<(Stream, Timing), Refusal> {
        let mut timing = Timing::default();
        let target = &origin.authority;
        let start = Instant::now();
        let transport = self.connect(target, route, asker(principal)).await?;
        timing.connect = Some(start.elapsed());
        let stream = match origin.scheme {
            Scheme::Http => Stream::Plain(transport),
            Scheme::Https => {
                let start = Instant::now();
                let offer = if route.http1_only { Offer::Http1 } else { offer };
                let shaking = route.tls.connect(target, principal, (transport, certificate), offer);
                let tls = timeout(self.timeouts.tls, shaking)
                    .await
                    .map_err(|_| self.slow_handshake(target))??;
                timing.tls = Some(start.elapsed());
                Stream::Tls(Box::new(tls))
            }
        };
        self.pool.count_opened();
        Ok((stream, timing))
    }

    async fn connect(
        &self,
        target: &Authority,
        route: &Route,
        asker: &str,
    ) -> Result<Transport, Refusal> {
        let (address, vetting) = route.dial(target);
        let Some(proxy) = &route.proxy else {
            return self.dialer.dial(address, vetting, asker).await.map(Transport::Tcp);
        };
        let (dialer, logins) = (&*self.dialer, &*self.logins);
        let dialer = (dialer, asker);
        proxy.tunnel(address, vetting, dialer, self.timeouts.tls, logins).await
    }

    fn slow_handshake(&self, target: &Authority) -> Refusal {
        Refusal::with_detail(
            Code::ConnectTimeout,
            format!("{target} did not finish the TLS handshake in {:?}", self.timeouts.tls),
        )
    }

    /// Ties the answer's body to its connection.
    fn receive(
        &self,
        Answer { response, incoming, rest }: Answer,
        link: Box<Link>,
        key: PoolKey,
        idle: Duration,
    ) -> Result<Response<UpstreamBody>, Refusal> {
        // Nobody asked for another protocol, and what follows would not be HTTP.
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refusal::with_detail(
                Code::UpstreamFailed,
                format!("{} switched protocols unasked", key.origin.authority),
            ));
        }
        // Nor for a transfer coding: the field belongs to this connection and is not handed on, so
        // nobody could undo it.
        let chunks = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !response.headers().get_all(TRANSFER_ENCODING).iter().all(chunks) {
            return Err(Refusal::with_detail(
                Code::UpstreamFailed,
                format!("{} used a transfer coding unasked", key.origin.authority),
            ));
        }
        let (mut parts, ()) = response.into_parts();
        one_framing(&mut parts.headers, &key.origin.authority)?;
        let body = if let Some(rest) = rest {
            UpstreamBody::detached(incoming, *link, rest, idle)
        } else {
            let home = Home { pool: self.pool.clone(), key, wait: announced_wait(&parts.headers) };
            UpstreamBody::inline(incoming, link, home, idle)
        };
        Ok(Response::from_parts(parts, body))
    }

    /// Connects for an opaque tunnel of `asker`: the same resolving, vetting, overrides and self-check as
    /// for a request, and then bytes are the caller's.
    ///
    /// # Errors
    /// A [`Refusal`] with the code of what failed.
    pub async fn tunnel(
        &self,
        target: Recorded<Authority>,
        asker: &str,
    ) -> Result<Transport, Refusal> {
        let target = target.into_inner();
        let route = self.routes.find(&target.host);
        self.connect(&target, route, asker).await
    }

    /// Also knows of the connections of the one before it, which live on until their last answer.
    pub fn succeed(&mut self, old: &Self) {
        self.leashes = Arc::clone(&old.leashes);
    }

    /// Ends the connections of the principals for which `whose` is true, with all that is under way on
    /// them, and says how many they were. Not those that became sockets: whoever serves one ends it.
    pub fn cut(&self, whose: impl Fn(&str) -> bool) -> usize {
        self.leashes.end(whose)
    }

    /// Drops waiting connections that aged out or were closed by their origin. Call it every few
    /// seconds.
    pub fn sweep(&self) {
        self.pool.sweep();
    }

    /// How long a body may stand still, where no rule says otherwise.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.timeouts.idle
    }

    /// Drops all waiting connections.
    pub fn close_idle(&self) {
        self.pool.clear();
    }

    /// What the pool did so far.
    #[must_use]
    pub fn pool_counts(&self) -> PoolCounts {
        self.pool.counts()
    }

    /// Where the trusted roots came from.
    #[must_use]
    pub fn roots(&self) -> &RootSummary {
        &self.routes.roots
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("pool", &self.pool.counts()).finish_non_exhaustive()
    }
}

/// `Keep-Alive: timeout=5` (RFC 2068 section 19.7.1.1, still what Node and Apache send), less a
/// second, because the origin counts from its own last byte.
fn announced_wait(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = value
        .split(',')
        .filter_map(|parameter| parameter.trim().strip_prefix("timeout="))
        .find_map(|digits| digits.parse::<u64>().ok())?;
    Some(Duration::from_secs(seconds.saturating_sub(1)))
}

/// An answer says once where it ends, or does not count. Of a length beside a coding the coding is right
/// (RFC 9112 section 6.3), and is so to some readers only: whoever sends both may be showing an answer of
/// its own making behind the first. A length that is said again is handed on once.
fn one_framing(headers: &mut HeaderMap, target: &Authority) -> Result<(), Refusal> {
    let refuse = || {
        let detail = format!("{target} said in two ways where its answer ends");
        Err(Refusal::with_detail(Code::UpstreamFailed, detail))
    };
    let lengths = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let Ok(length) = one_length(lengths) else { return refuse() };
    let Some(length) = length else { return Ok(()) };
    if headers.contains_key(TRANSFER_ENCODING) {
        return refuse();
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let is_list = lengths.next().is_some_and(|first| first.as_bytes().contains(&b','));
    if is_list || lengths.next().is_some() {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Ok(())
}

fn refusal(failure: &Failure, target: &Authority, upload: Option<&Upload>) -> Refusal {
    if let Some(refusal) = upload.and_then(Upload::take_refusal) {
        return refusal;
    }
    match failure {
        Failure::Broken(error) => broken(error, target),
        Failure::Stream(error) => stream_broken(error, target),
        Failure::Unfit => Refusal::with_detail(Code::BadRequest, BROKE_OFF),
        Failure::Unsent(_) | Failure::Http1Required(_) => Refusal::with_detail(
            Code::UpstreamFailed,
            format!("{target} closed the connection, or refused, before it looked at the request"),
        ),
        Failure::Late => {
            Refusal::with_detail(Code::ResponseTimeout, format!("{target} did not answer in time"))
        }
        Failure::Stalled => Refusal::with_detail(
            Code::RequestTimeout,
            format!("the request's body to {target} stood still for too long"),
        ),
    }
}

const BROKE_OFF: &str = "the request's body broke off, or is not as long as announced";

/// What became of a stream, in words of our own: the origin's reasons may be any text.
fn stream_broken(error: &::h2::Error, target: &Authority) -> Refusal {
    if let Some(refusal) = error.get_io().and_then(|io| trust::late_refusal(target, io)) {
        return refusal;
    }
    let detail = match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => {
            format!("{target} reset the stream before it answered: {}", reason.description())
        }
        Some(reason) if error.is_remote() => {
            format!("{target} closed the connection before it answered: {}", reason.description())
        }
        Some(_) => format!("{target} did not answer in valid HTTP/2"),
        None if error.is_io() => format!("{target} broke the connection before it answered"),
        None => {
            return Refusal::with_detail(Code::BadRequest, "the request cannot be sent in HTTP/2");
        }
    };
    Refusal::with_detail(Code::UpstreamFailed, detail)
}

fn broken(error: &LinkError, target: &Authority) -> Refusal {
    let detail = match error {
        LinkError::Io(error) => match trust::late_refusal(target, error) {
            Some(refusal) => return refusal,
            None => format!("{target} broke the connection before it answered"),
        },
        LinkError::Closed => format!("{target} closed the connection before it answered"),
        LinkError::Head(HeadError::TooLarge) => {
            format!("{target} answered with a header section that is over the limit")
        }
        LinkError::Head(_) | LinkError::Chunks(_) => {
            format!("{target} did not answer in valid HTTP/1.1")
        }
    };
    Refusal::with_detail(Code::UpstreamFailed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_says_how_long_it_waits_is_believed_less_a_second() {
        for (value, expected) in [
            ("timeout=5", Some(4)),
            ("timeout=5, max=100", Some(4)),
            ("max=100,timeout=30", Some(29)),
            ("timeout=0", Some(0)),
            ("max=100", None),
            ("timeout=soon", None),
        ] {
            let headers = HeaderMap::from_iter([(
                http::header::HeaderName::from_static("keep-alive"),
                HeaderValue::from_static(value),
            )]);
            let expected = expected.map(Duration::from_secs);
            assert_eq!(announced_wait(&headers), expected, "{value}");
        }
        assert_eq!(announced_wait(&HeaderMap::new()), None);
    }
}
