//! Removing a secret from what comes back, whatever the chunks and in every usual encoding.
//!
//! A response to a request that carried a secret arrives as [`Unscrubbed`], whose body nobody can
//! read; [`scrub`] is the only way out of it. The search is Wu and Manber's ("A fast algorithm for
//! multi-pattern searching", 1994): one table look-up for about every `shortest needle` bytes.

mod alike;
mod capture;
mod codings;
mod deflate;
mod engine;
mod escapes;
mod frames;
mod listed;
mod messages;
mod needles;
mod search;
mod spelled;
mod table;

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

pub use capture::{Minted, Whole};
use codings::{Coding, Source, decoded_head};
use deflate::Agreed;
use engine::Engine;
pub use engine::{ScrubError, Unscrubbable};
use frames::FrameScrubber;
use messages::MessageScrubber;
pub use needles::Needles;
use search::Search;
pub use search::{Fit, Scrubber};

use crate::outcome::{Code, Refusal};

/// The longest body of known length that is gathered (event streams are not), so that its length can be told anew when a
/// secret was replaced in it. Longer ones keep their length, and matches are overwritten in place.
pub const GATHERED: u64 = 64 * 1024;

/// The codings that a request with a secret asks for. Others are undone where they come, but not asked
/// for: a strong validator would become a weak one, which no `If-Match` accepts, for bytes on a wire that
/// is seldom the narrow one; and undoing them costs more than searching what is plain.
pub const ACCEPTED_CODINGS: HeaderValue = HeaderValue::from_static("identity");

/// An answer that may still hold the secret. Its body has no public face.
#[must_use]
pub struct Unscrubbed<B> {
    response: Response<B>,
    method: Method,
    hidden: Hidden,
    undecodable: Undecodable,
    /// Whether the agent's WebSocket was offered with compressed messages.
    deflates: bool,
}

/// What becomes of a body in a coding that cannot be undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Undecodable {
    /// It does not pass.
    #[default]
    Refuse,
    /// It passes as it is, and is known as [`ScrubbedBody::unsearched`].
    Pass,
}

impl<B> Unscrubbed<B> {
    /// Holds back an answer, which must not contain what is `hidden`.
    pub fn new(response: Response<B>, method: Method, hidden: impl Into<Hidden>) -> Self {
        let (hidden, undecodable) = (hidden.into(), Undecodable::Refuse);
        Self { response, method, hidden, undecodable, deflates: true }
    }

    /// Says what becomes of a body that cannot be decoded.
    pub fn with_undecodable(mut self, undecodable: Undecodable) -> Self {
        self.undecodable = undecodable;
        self
    }

    /// Says whether compressed messages were offered. An origin that agrees to what nobody offered would
    /// have its messages read in one way here, and in another by the agent.
    pub fn with_deflate(mut self, offered: bool) -> Self {
        self.deflates = offered;
        self
    }
}

/// What neither an answer nor what comes before it may contain.
pub struct Hidden {
    /// None when there is nothing to hide. In a box: on its way to the answer it is moved often.
    search: Option<Box<Search>>,
    /// How often it stood in what came before the answer.
    replaced: u64,
}

impl From<Option<Needles>> for Hidden {
    fn from(needles: Option<Needles>) -> Self {
        Self { search: needles.map(|needles| Box::new(Search::new(needles))), replaced: 0 }
    }
}

/// The head of an interim answer (1xx), without the secret. Only [`Hidden::scrub_interim`] makes one.
#[must_use]
pub struct Interim {
    status: StatusCode,
    headers: HeaderMap,
}

impl Interim {
    /// Its status and its fields.
    #[must_use]
    pub fn into_parts(self) -> (StatusCode, HeaderMap) {
        (self.status, self.headers)
    }
}

impl Hidden {
    /// Takes every occurrence of the secret out of the head of an interim answer.
    pub fn scrub_interim(&mut self, response: Response<()>) -> Interim {
        let (Parts { status, mut headers, .. }, ()) = response.into_parts();
        if let Some(search) = &self.search {
            self.replaced += scrub_fields(&mut headers, search);
        }
        Interim { status, headers }
    }
}

/// Takes every occurrence of the secret out of head and body.
///
/// # Errors
/// `response-unscrubbable` when the body has a coding that cannot be undone, `upstream-failed` when
/// a short body breaks off before its announced end.
pub async fn scrub<B>(unscrubbed: Unscrubbed<B>) -> Result<Response<ScrubbedBody<B>>, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Unscrubbed { response, method, hidden, undecodable, deflates } = unscrubbed;
    let (mut parts, body) = response.into_parts();
    let Hidden { search: Some(search), replaced } = hidden else {
        return Ok(Response::from_parts(parts, ScrubbedBody::untouched(Source::plain(body))));
    };
    let has_body = has_body(&method, &parts);
    if has_body {
        check_transfer(&parts.headers)?;
    }
    let read = read_codings(&parts, has_body);
    let replaced = replaced + scrub_fields(&mut parts.headers, &search);
    let codings = match read {
        Ok(codings) => codings,
        Err(_) if undecodable == Undecodable::Pass => {
            let body = Source::plain(body);
            let body = ScrubbedBody::unsearchable(body, search, replaced);
            return Ok(Response::from_parts(parts, body));
        }
        Err(refusal) => return Err(refusal),
    };
    if !codings.is_empty() {
        decoded_head(&mut parts.headers);
    }
    let body = if has_body { Source::decoded(body, &codings) } else { Source::plain(body) };
    let length = if has_body { body.size_hint().exact() } else { None };
    let body = match length {
        // What follows this head are frames, each with its length before it.
        _ if parts.status == StatusCode::SWITCHING_PROTOCOLS => {
            let refuse = |why| Refusal::new(Code::Unscrubbable).because(why);
            let agreed = Agreed::read(&parts.headers)
                .map_err(|_| refuse("a WebSocket extension that is not known"))?;
            if agreed.is_some() && !deflates {
                return Err(refuse("a WebSocket extension that nobody offered"));
            }
            let frames = FrameScrubber::new(Scrubber::new(search, Fit::InPlace), agreed);
            ScrubbedBody::searching(body, Engine::Frames(frames), replaced)
        }
        _ if has_messages(&parts.headers) => {
            let messages = MessageScrubber::new(Scrubber::new(search, Fit::InPlace));
            ScrubbedBody::searching(body, Engine::Messages(messages), replaced)
        }
        Some(length) if length <= GATHERED && !is_stream(&parts.headers) => {
            let (body, now) = gather(body, search, replaced).await?;
            if now != length || !parts.headers.contains_key(header::CONTENT_LENGTH) {
                parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(now));
            }
            body
        }
        known => {
            let fit = if known.is_some() { Fit::InPlace } else { Fit::Exact };
            ScrubbedBody::searching(body, Engine::Bytes(Scrubber::new(search, fit)), replaced)
        }
    };
    Ok(Response::from_parts(parts, body))
}

/// Whether bytes follow the head (RFC 9112 section 6.3).
fn has_body(method: &Method, parts: &Parts) -> bool {
    let none = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    *method != Method::HEAD && !none && !parts.status.is_informational()
}

/// Media types whose parts are worth something before the whole is there. Their lengths are seldom
/// known beforehand; where one is, gathering would hold the first event until the last has come.
const STREAMS: [&str; 5] = [
    "text/event-stream",
    "application/x-ndjson",
    "application/jsonl",
    "application/json-seq",
    "multipart/x-mixed-replace",
];

fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    STREAMS.iter().any(|stream| stream.eq_ignore_ascii_case(essence))
}

/// Whether the body is made of messages with their lengths before them.
fn has_messages(headers: &HeaderMap) -> bool {
    // Of two, nobody knows which one is believed.
    let starts = |with: &[u8]| {
        let mut types = headers.get_all(header::CONTENT_TYPE).iter().map(HeaderValue::as_bytes);
        types.any(|t| t.get(..with.len()).is_some_and(|t| t.eq_ignore_ascii_case(with)))
    };
    // The text form of gRPC-Web is base64, and its lengths are not to be seen.
    (starts(b"application/grpc") && !starts(b"application/grpc-web-text"))
        || starts(b"application/connect+")
}

/// What says how messages are compressed within the body.
const MESSAGE_CODINGS: [HeaderName; 2] =
    [HeaderName::from_static("grpc-encoding"), HeaderName::from_static("connect-content-encoding")];

/// What offers such codings. A request with a secret offers none.
pub const MESSAGE_CODINGS_ACCEPTED: [HeaderName; 2] = [
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("connect-accept-encoding"),
];

/// Nothing but chunks around the body: a transfer coding hides the secret as well as a content coding
/// does, no other is undone here, and its name goes no further than to us.
fn check_transfer(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.all(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Ok(());
    }
    Err(Refusal::new(Code::Unscrubbable).because("a transfer coding that was not offered"))
}

/// The content codings of an answer, which can all be undone.
fn read_codings(parts: &Parts, has_body: bool) -> Result<Vec<Coding>, Refusal> {
    let headers = &parts.headers;
    let refuse = |why| Err(Refusal::new(Code::Unscrubbable).because(why));
    if !has_body {
        // Nothing to undo; the head of a HEAD says what it would be of a GET.
        return Ok(Coding::all(headers).unwrap_or_default());
    }
    let identity = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !MESSAGE_CODINGS.iter().all(|name| headers.get_all(name).iter().all(identity)) {
        return refuse("a coding of messages that was not offered");
    }
    let Ok(codings) = Coding::all(headers) else {
        return refuse("a content coding that cannot be undone");
    };
    if !codings.is_empty() && parts.status == StatusCode::PARTIAL_CONTENT {
        return refuse("a part of a coded body, which cannot be undone");
    }
    Ok(codings)
}

/// Replaces the secret in field values, and takes out fields that are named by it. Returns how
/// often it stood there.
fn scrub_fields(headers: &mut HeaderMap, search: &Search) -> u64 {
    let mut replaced = 0;
    let named = |name: &HeaderName| search.in_name(name.as_str());
    let named: Vec<HeaderName> = headers.keys().filter(|name| named(name)).cloned().collect();
    for name in named {
        headers.remove(name);
        replaced += 1;
    }
    for value in headers.values_mut() {
        let mut out: Vec<u8> = Vec::new();
        let found = search.replace_all(value.as_bytes(), Fit::Exact, &mut out);
        if found > 0 {
            replaced += found;
            *value = HeaderValue::from_bytes(&out).unwrap_or(HeaderValue::from_static(""));
        }
    }
    replaced
}

/// Reads a short body whole, replaces, and says its new length.
async fn gather<B>(
    mut body: Source<B>,
    search: Box<Search>,
    mut replaced: u64,
) -> Result<(ScrubbedBody<B>, u64), Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (mut first, mut more) = (Bytes::new(), Vec::new());
    let mut trailers = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Refusal::new(Code::UpstreamFailed))?;
        match frame.into_data() {
            Ok(data) if first.is_empty() => first = data,
            Ok(data) => more.push(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    // Nearly always one frame, and then there is no copy.
    let whole =
        if more.is_empty() { first } else { [&[first], &more[..]].concat().concat().into() };
    let mut out = Vec::new();
    let found = search.replace_all(&whole, Fit::Exact, &mut out);
    let whole = if found > 0 { Bytes::from(out) } else { whole };
    replaced += found;
    if let Some(trailers) = &mut trailers {
        replaced += scrub_fields(trailers, &search);
    }
    let length = whole.len() as u64;
    Ok((ScrubbedBody { inner: Inner::Gathered { whole: Some(whole), trailers }, replaced }, length))
}

/// A body without the secret.
pub struct ScrubbedBody<B> {
    inner: Inner<B>,
    replaced: u64,
}

enum Inner<B> {
    /// Nothing was injected, or nothing can be searched; frames pass as they are.
    Untouched {
        body: Source<B>,
        /// Of what cannot be searched, the fields behind it can.
        unsearched: Option<Box<Search>>,
    },
    /// Read, replaced, and ready.
    Gathered { whole: Option<Bytes>, trailers: Option<HeaderMap> },
    /// Searched as it streams. `ready` holds what one frame became, `done` how it all ended.
    Searching {
        body: Source<B>,
        /// In a box: larger than all else here, and few answers are searched as they stream.
        engine: Box<Engine>,
        /// What came in small pieces while much was held back: searched together, when no more is there.
        few: Vec<u8>,
        ready: VecDeque<Frame<Bytes>>,
        done: Option<Result<(), Unscrubbable>>,
    },
}

impl<B> ScrubbedBody<B> {
    fn untouched(body: Source<B>) -> Self {
        Self { inner: Inner::Untouched { body, unsearched: None }, replaced: 0 }
    }

    fn unsearchable(body: Source<B>, search: Box<Search>, replaced: u64) -> Self {
        Self { inner: Inner::Untouched { body, unsearched: Some(search) }, replaced }
    }

    fn searching(body: Source<B>, engine: Engine, replaced: u64) -> Self {
        let (engine, ready) = (Box::new(engine), VecDeque::new());
        Self {
            inner: Inner::Searching { body, engine, few: Vec::new(), ready, done: None },
            replaced,
        }
    }

    /// How often the secret was found, head and body together, so far.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        match &self.inner {
            Inner::Searching { engine, .. } => self.replaced + engine.scrubber().replaced(),
            Inner::Untouched { .. } | Inner::Gathered { .. } => self.replaced,
        }
    }

    /// Whether something is held back that tells nothing: who waits for it may have it when the stream pauses.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(&self.inner, Inner::Searching { engine, .. } if engine.waits())
    }

    /// Nothing more has come for a while: what [`Self::waits`] comes next.
    pub fn pause(&mut self) {
        if let Inner::Searching { engine, ready, .. } = &mut self.inner {
            engine.pause(&mut |data| ready.push_back(Frame::data(data)));
        }
    }

    /// Whether it should have been searched, and passes without: by a rule that says so.
    #[must_use]
    pub fn unsearched(&self) -> bool {
        matches!(self.inner, Inner::Untouched { unsearched: Some(_), .. })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ScrubbedBody<B> {
    type Data = Bytes;
    type Error = ScrubError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { inner, replaced } = &mut *self;
        match inner {
            Inner::Untouched { body, unsearched } => {
                let mut frame = ready!(Pin::new(body).poll_frame(cx));
                let behind = frame.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut());
                if let (Some(trailers), Some(search)) = (behind, unsearched) {
                    *replaced += scrub_fields(trailers, search);
                }
                Poll::Ready(frame)
            }
            Inner::Gathered { whole, trailers } => {
                let data = whole.take().filter(|data| !data.is_empty()).map(Frame::data);
                let next = data.or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(next.map(Ok))
            }
            Inner::Searching { body, engine, few, ready, done } => loop {
                if let Some(frame) = ready.pop_front() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                if let Some(ending) = done {
                    return Poll::Ready(ending.err().map(|fault| Err(fault.into())));
                }
                let next = match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending if few.is_empty() => return Poll::Pending,
                    Poll::Ready(Some(Ok(frame))) if is_one_of_few(&frame, engine, few) => {
                        few.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                        continue;
                    }
                    // What is held back is not flushed: a broken stream must not look whole.
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                    next => next,
                };
                // What was certain before a fault goes on; what was held back does not.
                if !few.is_empty() {
                    let data = Frame::data(Bytes::from(std::mem::take(few)));
                    *done = scrub_frame(data, engine, ready).err().map(Err);
                }
                match next {
                    Poll::Ready(Some(Ok(frame))) if done.is_none() => {
                        *done = scrub_frame(frame, engine, ready).err().map(Err);
                    }
                    Poll::Ready(None) if done.is_none() => {
                        *done = Some(Ok(()));
                        engine.finish(&mut |data| ready.push_back(Frame::data(data)));
                    }
                    _ => {}
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Untouched { body, .. } => body.is_end_stream(),
            Inner::Gathered { whole, trailers } => {
                whole.as_ref().is_none_or(Bytes::is_empty) && trailers.is_none()
            }
            Inner::Searching { body, engine, few, ready, .. } => {
                (ready.is_empty() && few.is_empty())
                    && engine.scrubber().unshown() == 0
                    && body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Untouched { body, .. } => body.size_hint(),
            Inner::Gathered { whole, .. } => {
                SizeHint::with_exact(whole.as_ref().map_or(0, |w| w.len() as u64))
            }
            Inner::Searching { body, engine, .. } if engine.scrubber().fit() == Fit::InPlace => {
                body.size_hint()
            }
            Inner::Searching { .. } => SizeHint::default(),
        }
    }
}

/// What goes on as it came, and is not joined to what is beside it: a copy of more than this costs more than the
/// chunk and the record of its own that it saves.
const LONG: usize = 2048;

/// What one piece of a body became, its short parts as one: a body full of secrets would else be as many writes.
struct Joined<'r> {
    ready: &'r mut VecDeque<Frame<Bytes>>,
    /// Often the only short part, and then there is no copy.
    first: Bytes,
    all: Vec<u8>,
}

impl<'r> Joined<'r> {
    fn new(ready: &'r mut VecDeque<Frame<Bytes>>) -> Self {
        Self { ready, first: Bytes::new(), all: Vec::new() }
    }

    fn add(&mut self, data: Bytes) {
        if data.len() > LONG {
            self.close();
            self.ready.push_back(Frame::data(data));
        } else if self.first.is_empty() {
            self.first = data;
        } else {
            if self.all.is_empty() {
                self.all.extend_from_slice(&self.first);
            }
            self.all.extend_from_slice(&data);
        }
    }

    /// What was joined is a piece.
    fn close(&mut self) {
        let (first, all) = (std::mem::take(&mut self.first), std::mem::take(&mut self.all));
        let whole = if all.is_empty() { first } else { all.into() };
        if !whole.is_empty() {
            self.ready.push_back(Frame::data(whole));
        }
    }
}

/// How much may be held back before small pieces wait for one another, and how many bytes of them do: each time
/// something comes, all that is held back is searched again.
const MUCH: usize = 256;
const FEW: usize = 1024;

/// Whether a piece is so small, beside what is held back, that it is searched with what comes next.
fn is_one_of_few(frame: &Frame<Bytes>, engine: &Engine, few: &[u8]) -> bool {
    let length = frame.data_ref().map_or(usize::MAX, Bytes::len);
    engine.scrubber().held() >= MUCH && length < FEW.saturating_sub(few.len())
}

fn scrub_frame(
    frame: Frame<Bytes>,
    engine: &mut Engine,
    ready: &mut VecDeque<Frame<Bytes>>,
) -> Result<(), Unscrubbable> {
    match frame.into_data() {
        Ok(data) => {
            let mut joined = Joined::new(ready);
            let pushed = engine.push(data, &mut |data| joined.add(data));
            joined.close();
            pushed
        }
        Err(frame) => {
            engine.finish(&mut |data| ready.push_back(Frame::data(data)));
            if let Ok(mut trailers) = frame.into_trailers() {
                engine.scrub_trailers(&mut trailers);
                ready.push_back(Frame::trailers(trailers));
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use http_body_util::{BodyExt, Full, StreamBody};
    use std::convert::Infallible;

    fn needles() -> Needles {
        let mut needles = Needles::default();
        needles.add(&Secret::new(b"sk-canary-0123456789".to_vec()), "locum_openai");
        needles
    }

    fn run<F: Future>(future: F) -> F::Output {
        let waker = std::task::Waker::noop();
        let mut future = std::pin::pin!(future);
        loop {
            if let Poll::Ready(out) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return out;
            }
        }
    }

    type Frames = Vec<Result<Frame<Bytes>, Infallible>>;

    struct Streamed(VecDeque<Result<Frame<Bytes>, Infallible>>, SizeHint);

    impl Body for Streamed {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front())
        }
        fn size_hint(&self) -> SizeHint {
            self.1
        }
    }

    fn frames(chunks: &[&[u8]]) -> Frames {
        chunks.iter().map(|c| Ok(Frame::data(Bytes::copy_from_slice(c)))).collect()
    }

    fn through<B>(response: Response<B>) -> (Parts, Bytes, u64)
    where
        B: Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        let unscrubbed = Unscrubbed::new(response, Method::GET, Some(needles()));
        let (parts, mut body) = run(scrub(unscrubbed)).unwrap().into_parts();
        let mut all = Vec::new();
        while let Some(frame) = run(body.frame()) {
            if let Ok(data) = frame.unwrap().into_data() {
                all.extend_from_slice(&data);
            }
        }
        (parts, all.into(), body.replaced())
    }

    #[test]
    fn a_short_body_is_replaced_exactly_and_its_length_told_anew() {
        let body = Full::new(Bytes::from_static(b"{\"key\":\"Bearer sk-canary-0123456789\"}"));
        let response = Response::builder()
            .header("content-length", "37")
            .header("x-echo", "k=sk-canary-0123456789;")
            .body(body)
            .unwrap();
        let (parts, body, replaced) = through(response);
        assert_eq!(body, "{\"key\":\"Bearer locum_openai\"}");
        assert_eq!(parts.headers["content-length"], "29");
        assert_eq!(parts.headers["x-echo"], "k=locum_openai;");
        assert_eq!(replaced, 2);
    }

    #[test]
    fn a_stream_is_replaced_across_chunks() {
        let body = Streamed(
            frames(&[b"data: sk-can", b"ary-01", b"23456789\n\ndata: s", b"k-x\n\n"]).into(),
            SizeHint::default(),
        );
        let (_, body, replaced) = through(Response::new(body));
        assert_eq!(body, "data: locum_openai\n\ndata: sk-x\n\n");
        assert_eq!(replaced, 1);
    }

    #[test]
    fn bytes_that_come_one_by_one_are_searched_as_the_whole() {
        // So much is written for each character that more is held back than there is of most answers.
        let spelled = |b: &u8| format!("{}x{b:02x}", "\\".repeat(15));
        let key: String = b"sk-canary-0123456789".iter().map(spelled).collect();
        for (text, clean) in [
            (format!("<{key}>"), "<locum_openai>".to_owned()),
            (format!("<{}>", &key[..key.len() - 1]), format!("<{}>", &key[..key.len() - 1])),
            (format!("<{}!{key}>", &key[..300]), format!("<{}!locum_openai>", &key[..300])),
        ] {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            let body = Streamed(frames(&pieces).into(), SizeHint::default());
            let (_, body, _) = through(Response::new(body));
            assert_eq!(body, clean);
        }
    }

    #[test]
    fn a_long_body_keeps_its_length() {
        let mut text = vec![b'.'; 100_000];
        text[70_000..70_020].copy_from_slice(b"sk-canary-0123456789");
        let hint = SizeHint::with_exact(text.len() as u64);
        let body = Streamed(frames(&[&text[..70_007], &text[70_007..]]).into(), hint);
        let (_, body, replaced) = through(Response::new(body));
        assert_eq!((body.len(), replaced), (100_000, 1));
        assert_eq!(&body[70_000..70_020], b"locum_openai********");
    }

    #[test]
    fn messages_keep_their_lengths_and_are_not_waited_for() {
        for (kind, in_place) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC-Web+proto", true),
            ("application/connect+json", true),
            ("application/grpc-web-text", false),
            ("application/json", false),
        ] {
            let text = b"\0\0\0\0\x1bkey: sk-canary-0123456789 .";
            let clean: &[u8] = if in_place {
                b"\0\0\0\0\x1bkey: locum_openai******** ."
            } else {
                b"\0\0\0\0\x1bkey: locum_openai ."
            };
            let builder = || Response::builder().header("content-type", kind);
            // Known to be short, and of unknown length.
            let (_, whole, _) =
                through(builder().body(Full::new(Bytes::from_static(text))).unwrap());
            assert_eq!(whole, clean, "{kind}");
            let streamed = Streamed(frames(&[&text[..9], &text[9..]]).into(), SizeHint::default());
            let (_, whole, replaced) = through(builder().body(streamed).unwrap());
            assert_eq!((&whole[..], replaced), (clean, 1), "{kind}");
        }
    }

    #[test]
    fn messages_are_messages_whichever_of_two_types_says_so() {
        for types in [["text/plain", "application/grpc"], ["application/grpc", "text/plain"]] {
            let response = Response::builder()
                .header("content-type", types[0])
                .header("content-type", types[1])
                .body(Full::new(Bytes::from_static(b"\0\0\0\0\x16 sk-canary-0123456789.")));
            let (_, whole, replaced) = through(response.unwrap());
            assert_eq!((&whole[..], replaced), (&b"\0\0\0\0\x16 locum_openai********."[..], 1));
        }
    }

    /// Each piece that goes out may be a chunk, a record and a system call.
    #[test]
    fn a_piece_full_of_secrets_goes_out_in_one_piece() {
        let text = Bytes::from(b"sk-canary-0123456789, ".repeat(500));
        let seen = pieces(&[text, Bytes::from_static(b".")]);
        assert_eq!(seen, [&b"locum_openai, ".repeat(500)[..], b"."]);
    }

    /// The pieces of a body that goes out, of these that came in.
    fn pieces(chunks: &[Bytes]) -> Vec<Bytes> {
        let chunks = chunks.iter().map(|chunk| Ok(Frame::data(chunk.clone()))).collect();
        let body = Streamed(chunks, SizeHint::default());
        let unscrubbed = Unscrubbed::new(Response::new(body), Method::GET, Some(needles()));
        let mut body = run(scrub(unscrubbed)).unwrap().into_body();
        std::iter::from_fn(|| Some(run(body.frame())?.unwrap().into_data().unwrap())).collect()
    }

    #[test]
    fn what_is_long_is_not_copied() {
        let dots = [b'.'; LONG + 1];
        let came = Bytes::from(
            [&dots[..], b"sk-canary-0123456789, ", b"sk-canary-0123456789", &dots].concat(),
        );
        let seen = pieces(std::slice::from_ref(&came));
        assert_eq!(seen, [&dots[..], b"locum_openai, locum_openai", &dots]);
        let last = came.len() - dots.len();
        assert_eq!([seen[0].as_ptr(), seen[2].as_ptr()], [came.as_ptr(), came[last..].as_ptr()]);
        // Nor is what is short, and has nothing short beside it.
        let came = [Bytes::from_static(b". "), Bytes::copy_from_slice(&dots)];
        let pointers = |pieces: &[Bytes]| pieces.iter().map(|p| p.as_ptr()).collect::<Vec<_>>();
        assert_eq!(pointers(&pieces(&came)), pointers(&came));
    }

    #[test]
    fn compressed_messages_are_refused() {
        for name in MESSAGE_CODINGS {
            for (coding, refused) in [("gzip", true), ("identity", false)] {
                let builder = Response::builder().header("content-type", "application/grpc");
                let response = builder.header(&name, coding).body(Full::new(Bytes::new())).unwrap();
                let result = run(scrub(Unscrubbed::new(response, Method::POST, Some(needles()))));
                let code = result.err().map(|refusal| refusal.code);
                assert_eq!(code, refused.then_some(Code::Unscrubbable), "{name}: {coding}");
            }
        }
    }

    #[test]
    fn unknown_codings_are_refused_unless_there_is_no_body() {
        let response = |status: u16, coding| {
            let builder = Response::builder().status(status).header("content-encoding", coding);
            builder.body(Full::new(Bytes::from_static(b"sk-canary-0123456789"))).unwrap()
        };
        let result = |status, coding, method| {
            run(scrub(Unscrubbed::new(response(status, coding), method, Some(needles())))).err()
        };
        for coding in ["compress", "gzip, compress", "br;q=1", "gzip,gzip,gzip,gzip", "\"gzip\""] {
            assert_eq!(result(200, coding, Method::GET).unwrap().code, Code::Unscrubbable);
            let none = result(200, coding, Method::HEAD).or(result(304, coding, Method::GET));
            assert!(none.is_none(), "{coding}");
        }
        // A part of a coded body is nothing that a decoder could begin with.
        assert_eq!(result(206, "gzip", Method::GET).unwrap().code, Code::Unscrubbable);
        assert!(result(206, "identity", Method::GET).is_none());
    }

    #[test]
    fn a_rule_may_let_pass_what_cannot_be_undone_and_it_is_known() {
        let response = |name: &str, coding: &str| {
            let builder = Response::builder().header(name, coding);
            let builder = builder.header("x-echo", "sk-canary-0123456789");
            builder.body(Full::new(Bytes::from_static(b"sk-canary-0123456789"))).unwrap()
        };
        let pass = |response| {
            let unscrubbed = Unscrubbed::new(response, Method::GET, Some(needles()));
            run(scrub(unscrubbed.with_undecodable(Undecodable::Pass)))
        };
        let pass_stream = |response: Response<Streamed>| {
            let unscrubbed = Unscrubbed::new(response, Method::GET, Some(needles()));
            run(scrub(unscrubbed.with_undecodable(Undecodable::Pass)))
        };
        let mut passed = pass(response("content-encoding", "compress")).unwrap();
        assert!(passed.body().unsearched());
        assert_eq!(passed.headers()["content-encoding"], "compress");
        assert_eq!(passed.headers()["x-echo"], "locum_openai", "heads are searched all the same");
        let data = run(passed.body_mut().frame()).unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, "sk-canary-0123456789");
        // So are the fields behind it.
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-message", HeaderValue::from_static("bad key sk-canary-0123456789"));
        let mut all = frames(&[b"sk-canary-0123456789"]);
        all.push(Ok(Frame::trailers(trailers)));
        let body = Streamed(all.into(), SizeHint::default());
        let streamed = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-encoding", "gzip")
            .body(body);
        let mut passed = pass_stream(streamed.unwrap()).unwrap().into_body();
        assert!(passed.unsearched());
        let data = run(passed.frame()).unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, "sk-canary-0123456789");
        let trailers = run(passed.frame()).unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-message"], "bad key locum_openai");
        assert_eq!(passed.replaced(), 1);
        // What can be undone is undone and searched under such a rule too.
        let plain = pass(response("content-encoding", "identity")).unwrap();
        assert!(!plain.body().unsearched() && plain.body().replaced() == 2);
        // And a transfer coding is between the origin and us: the agent could not undo it.
        assert!(pass(response("transfer-encoding", "gzip, chunked")).is_err());
    }

    #[test]
    fn transfer_codings_other_than_chunks_are_refused() {
        for (coding, fine) in [("chunked", true), ("gzip, chunked", false), ("gzip", false)] {
            let response = Response::builder()
                .header("transfer-encoding", coding)
                .body(Full::new(Bytes::new()))
                .unwrap();
            let result = run(scrub(Unscrubbed::new(response, Method::GET, Some(needles())))).err();
            let code = result.map(|refusal| refusal.code);
            assert_eq!(code, (!fine).then_some(Code::Unscrubbable), "{coding}");
        }
    }

    #[test]
    fn a_field_that_is_named_by_the_secret_is_taken_out() {
        let mut needles = Needles::default();
        needles.add(&Secret::new(b"sk-Canary-0123456789".to_vec()), "locum_openai");
        let response = Response::builder()
            .header("x-sk-Canary-0123456789-y", "1")
            .header("x-kept", "1")
            .body(Full::new(Bytes::new()))
            .unwrap();
        let unscrubbed = Unscrubbed::new(response, Method::GET, Some(needles));
        let response = run(scrub(unscrubbed)).unwrap();
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-kept", "content-length"]);
        assert_eq!(response.body().replaced(), 1);
    }

    #[test]
    fn without_a_secret_nothing_is_looked_at() {
        let body = StreamBody::new(futures_stream(frames(&[b"sk-canary-0123456789"])));
        let unscrubbed = Unscrubbed::new(Response::new(body), Method::GET, None);
        let mut body = run(scrub(unscrubbed)).unwrap().into_body();
        let data = run(body.frame()).unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, "sk-canary-0123456789");
    }

    fn futures_stream(frames: Frames) -> Streamed2 {
        Streamed2(frames.into())
    }

    struct Streamed2(VecDeque<Result<Frame<Bytes>, Infallible>>);

    impl futures_core::Stream for Streamed2 {
        type Item = Result<Frame<Bytes>, Infallible>;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    #[test]
    fn trailers_are_scrubbed_too() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-t", HeaderValue::from_static("sk-canary-0123456789"));
        let mut all = frames(&[b"abc sk-cana"]);
        all.push(Ok(Frame::trailers(trailers)));
        let body = Streamed(all.into(), SizeHint::default());
        let unscrubbed = Unscrubbed::new(Response::new(body), Method::GET, Some(needles()));
        let mut body = run(scrub(unscrubbed)).unwrap().into_body();
        let mut data = Vec::new();
        let mut seen = None;
        while let Some(frame) = run(body.frame()) {
            match frame.unwrap().into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => seen = frame.into_trailers().ok(),
            }
        }
        assert_eq!(
            (&data[..], &seen.unwrap()["x-t"]),
            (&b"abc sk-cana"[..], &"locum_openai".parse().unwrap())
        );
    }
}
