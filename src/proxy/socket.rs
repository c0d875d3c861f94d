//! A WebSocket: from the origin's 101 to the last byte of either side.
//!
//! The handshake went through the steps of [`exchange`](super::exchange) like any request. From here
//! on bytes pass as they come, those from the origin through the scrub, for as long as the agent's
//! token and the policy would let the socket be opened.

mod messages;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Response, StatusCode, header};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use self::messages::{Following, Messages};
use super::body::Body;
use super::exchange::{Route, failed, strip_answer};
use super::handed::Handed;
use super::http2::Duplex;
use super::ledger::{Ledger, Tally, Uploaded};
use super::listener::Shutdown;
use super::tunnel::Left;
use super::withdrawal::no_longer;
use super::{Caller, Gateway, Place};
use crate::agent::Identity;
use crate::inject::Pending;
use crate::metrics::TunnelKind;
use crate::outcome::{Code, Ending, Refusal};
use crate::policy::{Permit, Standing};
use crate::record::Use;
use crate::request::{Handshake, InboundRequest, ask_for_websocket};
use crate::scrub::{ScrubError, ScrubbedBody, scrub};
use crate::tls::Prefixed;
use crate::upstream::{Chunks, Downlink, Switched, Uplink};

/// The agent's end of a request that may become a socket.
pub(super) enum AgentSide {
    /// Its connection to the proxy itself.
    Door(Handed<Left>),
    /// Its connection in a tunnel.
    Http1(Handed<Box<dyn Both>>),
    /// Its stream.
    Http2(Handed<Duplex>),
}

/// Bytes both ways.
pub(super) trait Both: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

impl AgentSide {
    /// Takes it off a request, for it is not to travel with it.
    pub(super) fn take(extensions: &mut Extensions) -> Option<Self> {
        let stream = extensions.remove().map(Self::Http2);
        let connection = stream.or_else(|| extensions.remove().map(Self::Http1));
        connection.or_else(|| extensions.remove().map(Self::Door))
    }

    /// What is read and written, once HTTP is out of its way. None when that came to nothing.
    async fn opened(self) -> Option<Box<dyn Both>> {
        match self {
            Self::Door(handed) => {
                let Left { stream, unread } = handed.come().await?;
                Some(Box::new(Prefixed::new(unread, stream)))
            }
            Self::Http1(handed) => handed.come().await,
            Self::Http2(handed) => Some(Box::new(handed.come().await?)),
        }
    }
}

/// A handshake that may be sent: what is needed should the origin agree.
pub(super) struct Opening {
    handshake: Handshake,
    standing: Standing,
    caller: Caller,
    agent_side: AgentSide,
    place: Arc<Place>,
    shutdown: Shutdown,
    /// Where a credential may enter the agent's messages.
    messages: Option<Messages>,
    /// What may have entered them.
    known: Box<[Use]>,
}

impl Opening {
    /// None for a request that asks for no WebSocket.
    ///
    /// # Errors
    /// `upgrade-refused` where a token is to be taken out of the answer.
    pub(super) fn new(
        route: &Route,
        who: &Arc<Identity>,
        inbound: &InboundRequest,
        permit: &Permit,
        agent_side: Option<AgentSide>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(handshake) = inbound.websocket().cloned() else { return Ok(None) };
        if !permit.captures().is_empty() {
            let detail =
                "The rule takes a token out of the answer, and a WebSocket has none to take it of";
            return Err(Refusal::with_detail(Code::UpgradeRefused, detail));
        }
        let caller = route.caller.clone();
        Ok(Some(Self {
            handshake,
            standing: Standing::new(who, inbound, permit),
            caller,
            // There is one with every request that has an Upgrade or is a CONNECT.
            agent_side: agent_side.ok_or_else(|| Refusal::new(Code::Internal))?,
            place: Arc::clone(&route.place),
            shutdown: route.shutdown.clone(),
            messages: None,
            known: Box::default(),
        }))
    }

    /// Has the agent's messages read.
    pub(super) fn read_messages(&mut self, permit: &Permit) {
        let messages = Messages::new(self.standing.clone(), permit);
        self.known = messages.known().into();
        self.messages = Some(messages);
    }

    /// Notes digests of the values that the scrub of the socket knows.
    pub(super) fn knows(&mut self, values: Box<[[u8; 32]]>) {
        if let Some(messages) = &mut self.messages {
            messages.knows(values);
        }
    }

    /// Notes that it is sent with another credential than it was to be.
    pub(super) fn carries(&mut self, inbound: &InboundRequest, permit: &Permit) {
        self.standing = Standing::new(&Arc::clone(self.standing.who()), inbound, permit);
    }

    /// What it was permitted on.
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(super) fn handshake(&self) -> &Handshake {
        &self.handshake
    }
}

/// Answers the agent with the origin's scrubbed 101, or what HTTP/2 has in its place, and has a task pass on what follows it.
pub(super) async fn open(
    gateway: &Arc<Gateway>,
    mut opening: Opening,
    switched: Switched,
    pending: Pending,
    ledger: Ledger,
) -> Result<Response<Body>, Refusal> {
    let Switched { response, uplink, timing, idle } = switched;
    // Why here: neither the head nor what follows it can be read before it is scrubbed.
    let response = match scrub(pending.answered(response)).await {
        Ok(response) => response,
        Err(refusal) => return Err(failed(&ledger, refusal, 0)),
    };
    let (mut head, downlink) = response.into_parts();
    strip_answer(&mut head.headers);
    // A 101 has none (RFC 9110 section 8.6), and a reader that believed it would lose the first frames.
    head.headers.remove(header::CONTENT_LENGTH);
    if opening.handshake.is_extended() {
        head.status = StatusCode::OK;
        head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    } else {
        ask_for_websocket(&mut head.headers);
    }
    let messages = opening.messages.take();
    let following =
        messages.map(|messages| messages.follow((gateway, &opening.caller), ledger.for_messages()));
    let up = Uploaded::counting();
    let mut tally = ledger.answered(Some(head.status.as_u16()), up.clone(), timing.head);
    tally.scrubbed = downlink.replaced();
    let socket = Socket { downlink, uplink, up, moved: Moved::new(idle), tally, following };
    let shutdown = opening.shutdown.clone();
    let gateway = Arc::clone(gateway);
    // Boxed: it is as long-lived as the task, and the task is moved about before it begins.
    shutdown.spawn(async move { Box::pin(socket.run(&gateway, opening)).await });
    Ok(Response::from_parts(head, Body::empty()))
}

/// Both ways to the origin, and the account of them.
struct Socket {
    downlink: ScrubbedBody<Downlink>,
    uplink: Uplink,
    up: Uploaded,
    moved: Moved,
    tally: Tally,
    following: Option<Following>,
}

impl Socket {
    async fn run(self, gateway: &Gateway, opening: Opening) {
        let _open = gateway.metrics.tunnel(TunnelKind::WebSocket);
        let Opening { standing, caller, agent_side, place, known, .. } = opening;
        let Some(agent) = agent_side.opened().await else { return };
        let Self { downlink, uplink, up, moved, mut tally, following } = self;
        let (ticket, sent) = (tally.ticket(), up.clone());
        let (from_agent, to_agent) = tokio::io::split(agent);
        let ways = async {
            let from_agent = Chunks::new(from_agent, Bytes::new());
            let up = upwards(from_agent, uplink, &up, &moved, following);
            let down = downwards(downlink, to_agent, &mut tally, &moved);
            both(pin!(up), pin!(down)).await
        };
        let (ending, withdrawn) = tokio::select! {
            ending = ways => ending,
            () = moved.stalled() => (Ending::UpstreamAborted, None),
            code = caller.workspace.until(|state| no_longer(state, &caller.identity, &standing)
                .or_else(|| caller.workspace.is_cut(&known).then_some(Code::CredentialRevoked))
                .or_else(|| gateway.over_limit(ticket.as_deref(), sent.bytes(), 0))) => {
                (Ending::Failed, Some(code))
            }
        };
        tally.code = withdrawn.or(tally.code);
        if let Some(code) = tally.code {
            let agent = &caller.identity.agent;
            tracing::info!(%agent, %code, "a WebSocket was ended");
        }
        tally.close(ending);
        drop(place);
    }
}

/// How the way up ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Up {
    /// The agent has finished, and the origin was told so.
    Finished,
    /// The origin takes no more.
    Refused,
    /// The agent broke off.
    Aborted,
    /// A message of the agent may not be sent.
    Forbidden(Code),
}

/// Runs both ways until the socket is over. Each may be finished long before the other. A break of
/// either ends both, and then neither stream is ended in order: what was cut on one side is cut on the
/// other. But an origin that takes no more may still have said why.
///
/// The ways are lent: what is given would lie in this future twice.
async fn both(
    mut up: Pin<&mut impl Future<Output = Up>>,
    mut down: Pin<&mut impl Future<Output = Ending>>,
) -> (Ending, Option<Code>) {
    let ending = tokio::select! {
        ended = &mut up => match ended {
            Up::Finished | Up::Refused => down.await,
            Up::Aborted => Ending::DownstreamAborted,
            Up::Forbidden(code) => return (Ending::Failed, Some(code)),
        },
        ended = &mut down => {
            if ended == Ending::Complete {
                // The origin has said all, and so it is whole, however the agent goes.
                let _however = up.await;
            }
            ended
        }
    };
    (ending, None)
}

async fn upwards<R, W>(
    mut from: Chunks<R>,
    mut to: W,
    count: &Uploaded,
    moved: &Moved,
    mut following: Option<Following>,
) -> Up
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| from.poll_next(cx)).await {
            Ok(Some(chunk)) => {
                moved.now();
                let length = chunk.len();
                let passed = match &mut following {
                    None => pass(&mut to, &chunk).await,
                    Some(follow) => match follow.take(chunk).await {
                        Ok(pieces) => pass_all(&mut to, &pieces).await,
                        Err(refusal) => return Up::Forbidden(refusal.code),
                    },
                };
                if passed.is_err() {
                    return Up::Refused;
                }
                count.add(length);
            }
            Ok(None) => {
                let told = to.shutdown().await;
                return if told.is_ok() { Up::Finished } else { Up::Refused };
            }
            Err(_) => return Up::Aborted,
        }
    }
}

async fn downwards<W>(
    mut from: ScrubbedBody<Downlink>,
    mut to: W,
    tally: &mut Tally,
    moved: &Moved,
) -> Ending
where
    W: AsyncWrite + Unpin,
{
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut from).poll_frame(cx)).await;
        tally.scrubbed = from.replaced();
        let chunk = match frame {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(ScrubError::Body(_))) => return Ending::UpstreamAborted,
            Some(Err(ScrubError::Unscrubbable)) => {
                tally.code = Some(Code::Unscrubbable);
                return Ending::UpstreamAborted;
            }
            None => {
                let told = to.shutdown().await;
                return told.map_or(Ending::DownstreamAborted, |()| Ending::Complete);
            }
        };
        moved.now();
        if pass(&mut to, &chunk).await.is_err() {
            return Ending::DownstreamAborted;
        }
        tally.passed(&chunk);
    }
}

/// Writes a chunk through to the network: the next one may be long in coming.
async fn pass<W: AsyncWrite + Unpin>(to: &mut W, chunk: &[u8]) -> std::io::Result<()> {
    to.write_all(chunk).await?;
    to.flush().await
}

/// The same for what came of one chunk, which may be nothing yet: at once, as each write becomes a record of TLS.
async fn pass_all<W: AsyncWrite + Unpin>(to: &mut W, pieces: &[Bytes]) -> std::io::Result<()> {
    match pieces {
        [] => Ok(()),
        [piece] => pass(to, piece).await,
        pieces => pass(to, &pieces.concat()).await,
    }
}

/// When a byte last came from either side.
struct Moved {
    start: Instant,
    /// Milliseconds from `start`.
    last: AtomicU64,
    idle: Duration,
}

impl Moved {
    fn new(idle: Duration) -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0), idle }
    }

    fn now(&self) {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// Returns when nothing has come for the idle time.
    async fn stalled(&self) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let deadline = self.start + last + self.idle;
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}
