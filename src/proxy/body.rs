//! Bodies on the agent's side: what is handed on is counted, and the end of it is recorded.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use super::State;
use super::exchange::strip_answers_trailers;
use super::expect::Gate;
use super::held::{Full, Held, Purse};
use super::incoming::Incoming;
use super::ledger::{Tally, Uploaded};
use super::linger::{Linger, Signs};
use super::refusal::{GRPC_DENIED, GRPC_INTERNAL, broken_grpc_status, grpc_trailers};
use super::stream::Cut;
use crate::host::Origin;
use crate::inject::{References, Remainder};
use crate::outcome::{Code, Ending, Refusal};
use crate::policy::Permit;
use crate::reference::Spotter;
use crate::request::{InboundRequest, is_coded, is_one_field, strip_trailers};
use crate::scrub::{ScrubError, ScrubbedBody};
use crate::sign::sigv4::{ChunkError, ChunkSigner};
use crate::upstream::{BodyError, UpstreamBody};

/// What is set aside for a body before any of it has come: more than nearly all that are searched.
const GATHERED_AT_FIRST: usize = 16 * 1024;

/// How long a stream says nothing before it is thought to wait for the agent. Pieces of one text come closer behind
/// each other, and what is held back until then is at most three characters.
const QUIET: Duration = Duration::from_millis(500);

type BoxError = Box<dyn Error + Send + Sync>;

type Scrubbed = Result<Frame<Bytes>, ScrubError<BodyError>>;

/// The body of any answer to an agent.
pub struct Body(Kind);

enum Kind {
    /// Made here, sent in one piece.
    Whole(Option<Bytes>),
    /// The origin's, scrubbed and counted.
    Streamed(Box<Streamed>),
}

struct Streamed {
    inner: ScrubbedBody<UpstreamBody>,
    tally: Tally,
    unfinished: Unfinished,
    cut: Cut,
    /// Runs while the stream says nothing, and something is held back that tells nothing. Boxed: few answers have it.
    quiet: Option<Pin<Box<Sleep>>>,
    /// Boxed: few answers break off, and all would have to have room for it.
    broken: Option<Box<Linger<ScrubError<BodyError>>>>,
}

/// How an agent hears that an answer is not whole.
pub(super) enum Unfinished {
    /// By an end that is none: of chunks, of a length.
    Error,
    /// By a reset of its stream, which is one of several on the connection.
    Stream,
    /// By a reset of the connection, whose end would be the answer's. Forgotten when it is whole.
    Reset,
    /// By gRPC's status, as of a call whose connection was lost: of a reset stream gRPC clients think
    /// that the server has a mistake in it.
    GrpcStatus,
}

impl Body {
    /// A body of our own.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(Some(bytes)))
    }

    /// No body.
    pub(super) fn empty() -> Self {
        Self(Kind::Whole(None))
    }

    /// The origin's answer on its way.
    pub(super) fn streamed(
        inner: ScrubbedBody<UpstreamBody>,
        mut tally: Tally,
        (unfinished, cut): (Unfinished, Cut),
    ) -> Self {
        tally.unsearched = inner.unsearched();
        let mut streamed = Streamed { inner, tally, unfinished, cut, quiet: None, broken: None };
        streamed.close_if_over();
        Self(Kind::Streamed(Box::new(streamed)))
    }

    /// The body of an answer that has none, whatever came: to a HEAD, or with a status that says so.
    pub(super) fn without_content(mut self) -> Self {
        if let Kind::Streamed(streamed) = &mut self.0 {
            streamed.close(Ending::Complete);
        }
        Self::empty()
    }

    /// Ready when nothing is left of the rule, token or credential of an answer that its agent does not read:
    /// who does, hears of it by the next frame.
    pub(super) fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Kind::Streamed(streamed) = &mut self.0 else { return Poll::Pending };
        streamed.tally.watch.poll(cx).map(|code| streamed.withdrawn(code))
    }

    /// All of a body of our own.
    #[cfg(test)]
    pub(super) fn as_whole(&self) -> Option<Bytes> {
        match &self.0 {
            Kind::Whole(bytes) => bytes.clone(),
            Kind::Streamed(_) => None,
        }
    }
}

impl Streamed {
    /// Nobody asks again once the announced length is out, so the end is looked for after each frame.
    fn close_if_over(&mut self) {
        if self.inner.is_end_stream() {
            self.close(Ending::Complete);
        }
    }

    fn close(&mut self, ending: Ending) {
        if ending == Ending::Complete {
            self.unfinished = Unfinished::Error;
        }
        self.tally.scrubbed = self.inner.replaced();
        self.tally.close(ending);
    }

    fn withdrawn(&mut self, code: Code) {
        self.tally.code = Some(code);
        self.close(Ending::Failed);
    }

    /// Cuts an answer of whose rule, token or credential nothing is left.
    fn cut(&mut self, code: Code) -> Result<Frame<Bytes>, BoxError> {
        self.withdrawn(code);
        match self.unfinished {
            Unfinished::GrpcStatus => {
                Ok(Frame::trailers(grpc_trailers(GRPC_DENIED, &code.title())))
            }
            Unfinished::Error | Unfinished::Stream | Unfinished::Reset => Err(code.title().into()),
        }
    }

    /// The error goes on to the connection, which breaks off: an answer that was cut upstream is
    /// cut here, and never ended as if whole.
    fn broke(&mut self, error: ScrubError<BodyError>) -> Result<Frame<Bytes>, BoxError> {
        if matches!(error, ScrubError::Unscrubbable) {
            self.tally.code = Some(Code::Unscrubbable);
        }
        self.close(Ending::UpstreamAborted);
        match self.unfinished {
            Unfinished::GrpcStatus => Ok(Frame::trailers(broken_grpc(&error))),
            Unfinished::Error | Unfinished::Stream | Unfinished::Reset => Err(error.into()),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(code) = self.tally.watch.poll(cx) {
            return Poll::Ready(Some(self.cut(code)));
        }
        if let Some(broken) = &mut self.broken {
            let why = ready!(broken.poll(cx));
            return Poll::Ready(why.map(|why| self.broke(why)));
        }
        match ready!(self.poll_scrubbed(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_answers_trailers(trailers);
                }
                self.tally.passed(frame.data_ref().map_or(&[], |data| data));
                // Nothing follows trailers, and nobody asks again.
                if frame.is_trailers() {
                    self.close(Ending::Complete);
                }
                self.close_if_over();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let signs = match self.unfinished {
                    // Trailers, or the connection's end, come behind what waits, whenever that is.
                    Unfinished::GrpcStatus | Unfinished::Error => {
                        return Poll::Ready(Some(self.broke(error)));
                    }
                    Unfinished::Stream => Signs::AMONG_OTHERS,
                    Unfinished::Reset => Signs::ALONE,
                };
                self.broken = Some(Box::new(Linger::new(error, self.cut.clone(), signs)));
                self.poll_frame(cx)
            }
            None => {
                self.close(Ending::Complete);
                Poll::Ready(None)
            }
        }
    }
}

impl Streamed {
    /// The next of what is scrubbed; what tells nothing, too, when nothing else came for a while: it could be the
    /// last byte of a prompt.
    fn poll_scrubbed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Scrubbed>> {
        let next = Pin::new(&mut self.inner).poll_frame(cx);
        if next.is_ready() || !self.inner.waits() {
            self.quiet = None;
            return next;
        }
        ready!(self.quiet.get_or_insert_with(|| Box::pin(sleep(QUIET))).as_mut().poll(cx));
        self.quiet = None;
        self.inner.pause();
        Pin::new(&mut self.inner).poll_frame(cx)
    }
}

/// The end of a gRPC answer that has none.
fn broken_grpc(error: &ScrubError<BodyError>) -> HeaderMap {
    match error {
        ScrubError::Body(error) => grpc_trailers(broken_grpc_status(error.reset_reason()), error),
        // The call was carried out.
        ScrubError::Unscrubbable => grpc_trailers(GRPC_INTERNAL, error),
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if matches!(self.unfinished, Unfinished::Reset) {
            self.cut.now();
        }
        self.tally.scrubbed = self.inner.replaced();
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Streamed(streamed) => streamed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_none(),
            // One that broke off has nothing more to give, and is not over.
            Kind::Streamed(streamed) => streamed.broken.is_none() && streamed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Kind::Streamed(streamed) => streamed.inner.size_hint(),
        }
    }
}

/// An agent's body on its way up, counted.
pub(super) struct Upload {
    inner: Source,
    /// Whether the end of the stream says that the body was whole.
    told: bool,
    count: Uploaded,
    gate: Option<Gate>,
    /// What looks at what comes behind a beginning that was decided on.
    remainder: Option<Box<Remainder>>,
    /// What signs its chunks anew on their way.
    chunks: Option<Chunks>,
    /// What looks for references in it, for as long as nobody else reads it.
    passing: Option<Passing>,
    /// What knows which trailers may not go on.
    trailing: Option<Box<Trailing>>,
    /// What it has of the memory for bodies.
    held: Option<Arc<Held>>,
}

/// Where a body comes from.
enum Source {
    /// The agent, as it sends it.
    Agent(Incoming),
    /// Memory: it had to be read before it could be sent.
    Gathered { data: Option<Bytes>, trailers: Option<HeaderMap> },
    /// Memory, as far as it was read before it is sent, and then the agent.
    Begun { read: Option<Bytes>, ahead: Option<Bytes>, rest: Incoming },
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Agent(incoming) => incoming.is_end_stream(),
            Self::Gathered { data, trailers } => data.is_none() && trailers.is_none(),
            Self::Begun { read, ahead, rest } => {
                read.is_none() && ahead.is_none() && rest.is_end_stream()
            }
        }
    }
}

/// A body that was read before it is sent, at least its beginning.
pub(super) enum Begun {
    /// All of it.
    Whole(Bytes),
    /// As much of it as is held in memory; there is more.
    Beginning(Bytes),
}

/// Why a body could not be gathered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ungathered {
    /// It is longer than it may be.
    TooLarge,
    /// Nothing came for too long.
    Late,
    /// The agent broke off.
    Broken,
    /// What follows it may not go on.
    Refused(Code),
    /// There is no more memory for bodies.
    Full(Full),
}

impl From<BoxError> for Ungathered {
    fn from(error: BoxError) -> Self {
        let refused = error.downcast_ref::<Refusal>();
        refused.map_or(Self::Broken, |refusal| Self::Refused(refusal.code))
    }
}

/// What looks at the fields behind a body.
struct Trailing {
    state: Arc<State>,
    origin: Origin,
    /// Whether a reference that stands there is a reason to refuse; not known before it is decided.
    refuse_misplaced: bool,
}

impl Trailing {
    /// Takes out what may not stand there, and what a credential has in its hands; the rest is watched as
    /// a head is.
    fn settle(&self, trailers: &mut HeaderMap, count: &Uploaded) -> Result<(), Refusal> {
        let Self { state, origin, refuse_misplaced } = self;
        let watch = state.sealed.as_ref().map(|sealed| &sealed.watch);
        if watch.is_some_and(|watch| watch.is_in_trailers(trailers)) {
            return Err(Refusal::new(Code::RealCredential));
        }
        let index = &state.credentials;
        let found = References::locate_trailers(trailers, origin, index);
        count.saw_aside(found.misplaced(), found.honeytoken(), found.moved());
        if *refuse_misplaced && found.misplaced() > 0 {
            return Err(Refusal::new(Code::Misplaced));
        }
        let reads_as = |name: &HeaderName| {
            index.owned_headers().any(|slot| is_one_field(slot.as_str(), name.as_str()))
        };
        strip_trailers(trailers, reads_as);
        Ok(())
    }
}

/// What looks for references in a body that nobody reads: there each is text.
struct Passing {
    state: Arc<State>,
    spotter: Spotter,
    /// Whether one is a reason to refuse; not known before it is decided.
    refuse_misplaced: bool,
}

impl Passing {
    /// Looks at a piece before it is sent, `over` being whether it is the last one.
    fn look(&mut self, piece: &[u8], over: bool, count: &Uploaded) -> Result<(), Refusal> {
        let Self { state, spotter, refuse_misplaced } = self;
        let (mut references, mut honeytoken) = (0, None);
        let mut found = |name: Option<&str>| {
            references += 1;
            let named = name.and_then(|name| state.credentials.get(name));
            honeytoken = named.filter(|named| named.properties.honeytoken).or(honeytoken.take());
        };
        spotter.push(piece, &mut found);
        // What is refused does not wait for the rest of a name.
        if over || *refuse_misplaced && spotter.is_at_one() {
            spotter.finish(&mut found);
        }
        count.saw_aside(references, honeytoken, false);
        if *refuse_misplaced && references > 0 {
            return Err(Refusal::new(Code::Misplaced));
        }
        Ok(())
    }
}

impl Upload {
    /// The head of a request, and its body, of which nothing is read before it is wanted.
    pub(super) fn of(mut request: Request<Incoming>) -> (Parts, Self) {
        let gate = Gate::of(&mut request);
        let (parts, inner) = request.into_parts();
        let told = parts.version == Version::HTTP_2;
        let count = if inner.is_end_stream() { Uploaded::default() } else { Uploaded::counting() };
        let inner = Source::Agent(inner);
        (
            parts,
            Self {
                inner,
                told,
                count,
                gate,
                remainder: None,
                chunks: None,
                passing: None,
                trailing: None,
                held: None,
            },
        )
    }

    /// Has it looked at on its way to where its head asks for, and what follows it as that head was. Nothing follows
    /// a body of HTTP/1.1 that has a length, and nothing can be seen under a coding.
    pub(super) fn watched(&mut self, state: &Arc<State>, head: &InboundRequest) {
        if self.is_empty() {
            return;
        }
        if !is_coded(head.headers()) {
            let (state, spotter) = (Arc::clone(state), Spotter::default());
            self.passing = Some(Passing { state, spotter, refuse_misplaced: false });
        }
        if self.told || self.size_hint().exact().is_none() {
            let (state, origin) = (Arc::clone(state), head.origin().clone());
            self.trailing = Some(Box::new(Trailing { state, origin, refuse_misplaced: false }));
        }
    }

    /// Leaves it to whoever reads it to tell what in it is a reference.
    pub(super) fn is_read(&mut self) {
        self.passing = None;
    }

    /// Holds it, and what follows it, to the permit of its request.
    ///
    /// # Errors
    /// `misplaced-reference` where it is in memory by now, and has a reference that was not decided on.
    pub(super) fn held_to(&mut self, permit: &Permit) -> Result<(), Refusal> {
        if !permit.refuses_misplaced() {
            return Ok(());
        }
        if let Some(passing) = &mut self.passing {
            passing.refuse_misplaced = true;
        }
        if let Some(trailing) = &mut self.trailing {
            trailing.refuse_misplaced = true;
        }
        if self.count.aside() > 0 {
            return Err(Refusal::new(Code::Misplaced));
        }
        Ok(())
    }

    /// Whether fields follow it, of one that was read.
    pub(super) fn has_trailers(&self) -> bool {
        let Source::Gathered { trailers, .. } = &self.inner else { return false };
        trailers.as_ref().is_some_and(|trailers| !trailers.is_empty())
    }

    /// How much of it was sent, for as long as it is.
    pub(super) fn uploaded(&self) -> Uploaded {
        self.count.clone()
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.inner.is_end_stream()
    }

    /// Reads all of it, up to `most` bytes; an agent that waits for a `100 Continue` is sent one. What
    /// is announced to be longer is not read at all.
    pub(super) async fn gather(
        &mut self,
        most: usize,
        (purse, idle): (&Purse, Duration),
    ) -> Result<Bytes, Ungathered> {
        let announced = usize::try_from(self.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > most || matches!(self.inner, Source::Begun { .. }) {
            return Err(Ungathered::TooLarge);
        }
        match self.begin(most, (purse, idle)).await? {
            Begun::Whole(bytes) => Ok(bytes),
            Begun::Beginning(_) => Err(Ungathered::TooLarge),
        }
    }

    /// Reads it, or its first `most` bytes if it has more.
    pub(super) async fn begin(
        &mut self,
        most: usize,
        (purse, idle): (&Purse, Duration),
    ) -> Result<Begun, Ungathered> {
        self.gate = None;
        let mut held = purse.open();
        // Not for an agent to say how much memory it takes before it has sent anything.
        let announced = usize::try_from(self.size_hint().lower()).unwrap_or(usize::MAX);
        let mut read = BytesMut::with_capacity(announced.min(GATHERED_AT_FIRST));
        let mut trailers = None;
        while let Some(frame) = timeout(idle, poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)))
            .await
            .map_err(|_| Ungathered::Late)?
        {
            let mut data = match frame.map_err(Ungathered::from)?.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    trailers = frame.into_trailers().ok();
                    continue;
                }
            };
            let room = most - read.len();
            held.grow(read.len() + data.len().min(room)).map_err(Ungathered::Full)?;
            if data.len() > room {
                self.held = Some(Arc::new(held));
                read.extend_from_slice(&data.split_to(room));
                return self.begun(read.freeze(), data);
            }
            read.extend_from_slice(&data);
        }
        let whole = read.freeze();
        self.held = Some(Arc::new(held));
        self.inner = Source::Gathered { data: Some(whole.clone()), trailers };
        Ok(Begun::Whole(whole))
    }

    /// The beginning was read, and what came with it.
    fn begun(&mut self, read: Bytes, ahead: Bytes) -> Result<Begun, Ungathered> {
        let nothing = Source::Gathered { data: None, trailers: None };
        let Source::Agent(rest) = std::mem::replace(&mut self.inner, nothing) else {
            return Err(Ungathered::TooLarge);
        };
        self.inner = Source::Begun { read: Some(read.clone()), ahead: Some(ahead), rest };
        Ok(Begun::Beginning(read))
    }

    /// Has `remainder` look at what comes behind the beginning, from now on.
    ///
    /// # Errors
    /// What it says of what is here already.
    pub(super) fn follow(&mut self, remainder: Remainder) -> Result<(), Refusal> {
        self.remainder = Some(Box::new(remainder));
        let ahead = match &self.inner {
            Source::Begun { ahead, .. } => ahead.clone(),
            Source::Agent(_) | Source::Gathered { .. } => None,
        };
        self.look(&ahead.unwrap_or_default())
    }

    /// Looks at a piece before it is sent; at the last one it is asked whether that is all.
    fn look(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        let over = self.is_all_here();
        let Some(remainder) = &mut self.remainder else { return Ok(()) };
        let looked = remainder.push(piece);
        let looked = looked.and_then(|()| if over { remainder.finish() } else { Ok(()) });
        self.count.saw(remainder, looked.as_ref().err());
        if over {
            self.remainder = None;
        }
        looked
    }

    /// Looks at what the agent has sent before it is sent on.
    fn look_at(&mut self, frame: Option<&Result<Frame<Bytes>, BoxError>>) -> Result<(), Refusal> {
        match frame {
            // It breaks off of itself.
            Some(Err(_)) => Ok(()),
            Some(Ok(frame)) if frame.is_data() => {
                let piece = frame.data_ref().cloned().unwrap_or_default();
                self.look(&piece)
            }
            // Trailers, or nothing more.
            Some(Ok(_)) | None => {
                let Some(mut remainder) = self.remainder.take() else { return Ok(()) };
                let looked = remainder.finish();
                self.count.saw(&remainder, looked.as_ref().err());
                looked
            }
        }
    }

    /// Whether it can be sent more than once, after it has been read if need be: when it is in memory, or
    /// announces that it has no more than `most` bytes.
    ///
    /// # Errors
    /// When it was to be read, and could not be.
    pub(super) async fn keep(
        &mut self,
        most: usize,
        of: (&Purse, Duration),
    ) -> Result<bool, Ungathered> {
        match self.inner {
            Source::Gathered { .. } => return Ok(true),
            Source::Begun { .. } => return Ok(false),
            Source::Agent(_) if self.is_empty() => return Ok(true),
            Source::Agent(_) => {}
        }
        let announced = self.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        if announced.is_none_or(|bytes| bytes > most) {
            return Ok(false);
        }
        self.gather(most, of).await.map(|_kept| true)
    }

    /// The same once more, of one that can be sent more than once.
    pub(super) fn again(&self) -> Self {
        let (data, trailers) = match &self.inner {
            Source::Gathered { data, trailers } => (data.clone(), trailers.clone()),
            Source::Agent(_) | Source::Begun { .. } => (None, None),
        };
        let (inner, count) = (Source::Gathered { data, trailers }, self.count.clone());
        let (gate, remainder, chunks, passing) = (None, None, None, None);
        let held = self.held.clone();
        Self { inner, told: false, count, gate, remainder, chunks, passing, trailing: None, held }
    }

    /// All of it, if it was read before.
    pub(super) fn gathered(&self) -> Option<Bytes> {
        match &self.inner {
            Source::Gathered { data, .. } => Some(data.clone().unwrap_or_default()),
            Source::Agent(_) | Source::Begun { .. } => None,
        }
    }

    /// Sends `filled` in place of what was read, if there is anything to put in its place.
    pub(super) fn filled(mut self, filled: Option<Bytes>) -> Self {
        if let (
            Source::Gathered { data: read, .. } | Source::Begun { read, .. },
            filled @ Some(_),
        ) = (&mut self.inner, filled)
        {
            *read = filled;
        }
        self
    }

    /// Signs its chunks on their way, with memory out of `purse`.
    pub(super) fn signed(
        mut self,
        chunks: Option<Box<ChunkSigner>>,
        purse: impl FnOnce() -> Purse,
    ) -> Self {
        self.chunks = chunks.map(|signer| Chunks { signer, held: purse().open() });
        self
    }

    /// Whether a body that has nothing more was reset: on HTTP/2 its end is told.
    fn was_cut(&self) -> bool {
        self.told && !self.inner.is_end_stream()
    }
}

impl Upload {
    /// The next piece as it comes.
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll(cx));
            self.gate = None;
        }
        let inner = match &mut self.inner {
            Source::Agent(incoming) => incoming,
            Source::Begun { read, ahead, rest } => {
                // Counted, and looked at, when it came.
                if let Some(piece) = read.take().or_else(|| ahead.take()) {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                rest
            }
            // Counted and read when it came.
            Source::Gathered { data, trailers } => {
                let data = data.take().filter(|data| !data.is_empty()).map(Frame::data);
                return Poll::Ready(data.or_else(|| trailers.take().map(Frame::trailers)).map(Ok));
            }
        };
        let mut frame = ready!(inner.poll_frame(cx));
        if frame.is_none() && self.was_cut() {
            return Poll::Ready(Some(Err("the agent reset its request".into())));
        }
        if let Some(trailers) = frame.as_mut().and_then(|f| f.as_mut().ok()?.trailers_mut()) {
            let settled = if let Some(trailing) = &self.trailing {
                trailing.settle(trailers, &self.count)
            } else {
                trailers.clear();
                Ok(())
            };
            if let Err(refusal) = settled {
                self.count.cut(refusal.code);
                return Poll::Ready(Some(Err(refusal.into())));
            }
        }
        if let Some(Ok(frame)) = &frame {
            self.count.add(frame.data_ref().map_or(0, Bytes::len));
        }
        if self.remainder.is_some()
            && let Err(refusal) = self.look_at(frame.as_ref())
        {
            return Poll::Ready(Some(Err(refusal.into())));
        }
        if self.passing.is_some()
            && let Err(refusal) = self.let_pass(frame.as_ref())
        {
            self.count.cut(refusal.code);
            return Poll::Ready(Some(Err(refusal.into())));
        }
        Poll::Ready(frame)
    }

    /// Looks for references in what nobody reads.
    fn let_pass(&mut self, frame: Option<&Result<Frame<Bytes>, BoxError>>) -> Result<(), Refusal> {
        let (piece, over) = match frame {
            // It breaks off of itself.
            Some(Err(_)) => return Ok(()),
            Some(Ok(frame)) => (frame.data_ref(), frame.is_trailers() || self.is_all_here()),
            None => (None, true),
        };
        let Some(passing) = &mut self.passing else { return Ok(()) };
        let looked = passing.look(piece.map_or(&[], |piece| piece), over, &self.count);
        if over {
            self.passing = None;
        }
        looked
    }

    /// Whether the agent has sent the last of it. Who is told a length does not wait for an end behind it.
    fn is_all_here(&self) -> bool {
        match &self.inner {
            Source::Agent(rest) | Source::Begun { rest, .. } => {
                rest.is_end_stream() || rest.size_hint().exact() == Some(0)
            }
            Source::Gathered { .. } => true,
        }
    }

    /// The next whole chunk with its new signature.
    fn poll_signed(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = ready!(self.poll_own(cx));
            let over = frame.is_none() || self.inner.is_end_stream();
            let Some(chunks) = &mut self.chunks else { return Poll::Ready(frame) };
            let data = match frame {
                None => Bytes::new(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
            };
            match chunks.sign(&data, over) {
                Ok(signed) if !signed.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::data(signed))));
                }
                Ok(_) if over => return Poll::Ready(None),
                Ok(_) => {}
                Err(refusal) => {
                    self.count.cut(refusal.code);
                    return Poll::Ready(Some(Err(refusal.into())));
                }
            }
        }
    }
}

/// What signs the chunks of a body, and the memory for the one that is not whole yet.
struct Chunks {
    signer: Box<ChunkSigner>,
    held: Held,
}

impl Chunks {
    fn sign(&mut self, data: &[u8], over: bool) -> Result<Bytes, Refusal> {
        let signed = self.signer.push(data).map_err(unsignable)?;
        self.held.grow(self.signer.held())?;
        if over {
            self.signer.finish().map_err(unsignable)?;
        }
        Ok(signed)
    }
}

fn unsignable(why: ChunkError) -> Refusal {
    match why {
        ChunkError::TooLong => Refusal::new(Code::BodyTooLarge),
        ChunkError::Malformed | ChunkError::Cut => Refusal::with_detail(
            Code::BodyUnreadable,
            "The body is not in the signed chunks that its head announces",
        ),
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.chunks.is_none() { self.poll_own(cx) } else { self.poll_signed(cx) }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Source::Agent(incoming) => incoming.size_hint(),
            // With trailers to come no length may be told: HTTP/1.1 sends them in chunks alone.
            Source::Gathered { trailers: Some(_), .. } => SizeHint::default(),
            Source::Gathered { data, .. } => SizeHint::with_exact(length(data.as_ref())),
            Source::Begun { read, ahead, rest } => {
                let here = length(read.as_ref()) + length(ahead.as_ref());
                let (mut hint, to_come) = (SizeHint::new(), rest.size_hint());
                // The upper bound first: the lower one may not be above it.
                if let Some(upper) = to_come.upper() {
                    hint.set_upper(upper + here);
                }
                hint.set_lower(to_come.lower() + here);
                hint
            }
        }
    }
}

fn length(data: Option<&Bytes>) -> u64 {
    data.map_or(0, |data| data.len() as u64)
}
