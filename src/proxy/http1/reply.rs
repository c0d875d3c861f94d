//! An answer on its way: its head, how its body is framed (RFC 9112 sections 6 and 7), and what is next of it.

use std::error::Error;
use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::body::Body;
use super::super::date;
use super::wire::{Out, Owner};
use crate::http1::{
    RequestHead, Spelling, done_with, write_end, write_fields, write_size, write_status_line,
};
use crate::request::strip_trailers;

/// What is no longer than this goes out with what stands before it; a copy costs less than another piece.
pub(super) const SHORT: usize = 4 * 1024;

/// So much is gathered of short pieces before they are written.
const FULL: usize = 16 * 1024;

/// So often is written before other connections have their turn: an answer that comes as fast as it goes would
/// keep its thread for as long as it lasts.
const AT_ONCE: usize = 4;

type BoxError = Box<dyn Error + Send + Sync>;

/// What of a request its answer depends on.
pub(super) struct Asked {
    method: Method,
    version: Version,
    /// Whether the agent may send another request behind it.
    pub(super) keeps_alive: bool,
    /// Whether it takes trailers.
    trailers: bool,
}

impl Asked {
    pub(super) fn of(head: &RequestHead) -> Self {
        let te = head.request.headers().get_all(header::TE).iter();
        Self {
            method: head.request.method().clone(),
            version: head.request.version(),
            keeps_alive: head.keeps_alive && !head.two_framings && !head.fragment,
            trailers: te.flat_map(words).any(|word| word.eq_ignore_ascii_case(b"trailers")),
        }
    }

    /// Of a request that could not be read.
    pub(super) fn unread() -> Self {
        let (method, version) = (Method::GET, Version::HTTP_11);
        Self { method, version, keeps_alive: false, trailers: false }
    }

    /// Whether an answer of this status is the end of HTTP on the connection.
    pub(super) fn leaves_http(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || self.is_tunnel(status)
    }

    /// Whether an answer of this status has a body.
    fn has_body(&self, status: StatusCode) -> bool {
        let none = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || self.method == Method::HEAD;
        !none && !self.is_tunnel(status)
    }

    fn is_tunnel(&self, status: StatusCode) -> bool {
        self.method == Method::CONNECT && status.is_success()
    }

    /// Whether the head of such an answer may say how long its body is, or would be.
    fn has_length(&self, status: StatusCode) -> bool {
        match status {
            StatusCode::NO_CONTENT => false,
            // Who asked for the body may take it for one (RFC 9110 section 8.6 leaves it to the sender).
            StatusCode::NOT_MODIFIED => self.method == Method::HEAD,
            status => !status.is_informational() && !self.is_tunnel(status),
        }
    }
}

/// The members of a list.
fn words(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// How a body goes over the wire.
enum Coding {
    /// There is none.
    None,
    /// So much of it is still to come.
    Exact(u64),
    /// Behind it go the fields of these names.
    Chunked(Vec<HeaderName>),
    /// Its end is the connection's.
    UntilClose,
}

/// An answer of which some is still to be sent.
pub(super) struct Sending {
    body: Body,
    coding: Coding,
    out: Out,
    /// Whether nothing more comes of the body.
    over: bool,
    /// Why it broke off. Told when all before it has been written.
    broken: Option<BoxError>,
    /// Whether another request may follow.
    pub(super) keeps_alive: bool,
}

impl Sending {
    /// Writes the head to what goes out before it. `last`: no other request is read.
    pub(super) fn new(asked: &Asked, answer: Response<Body>, mut out: Out, last: bool) -> Self {
        let (mut head, body) = answer.into_parts();
        let (coding, length) = asked.coding(&mut head, &body);
        let close = head.headers.get_all(header::CONNECTION).iter().flat_map(words);
        let close = close.into_iter().any(|word| word.eq_ignore_ascii_case(b"close"));
        let until_close = matches!(coding, Coding::UntilClose);
        let keeps_alive = asked.keeps_alive && !close && !last && !until_close;
        let over = matches!(coding, Coding::None);
        write_head(asked, head, (&coding, length, keeps_alive), &mut out.front);
        Self { body, coding, out, over, broken: None, keeps_alive }
    }

    /// Sends it as far as it goes. Ready when all of it has been handed to the network.
    pub(super) fn poll<S>(
        &mut self,
        cx: &mut Context<'_>,
        wire: &Owner<S>,
    ) -> Poll<Result<(), BoxError>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        for _ in 0..AT_ONCE {
            let waits = self.fill(cx);
            if wire.poll_write(cx, &mut self.out, !waits && !self.over)?.is_pending() {
                if self.body.poll_withdrawn(cx).is_ready() {
                    return Poll::Ready(Err("the answer was withdrawn".into()));
                }
                return wire.poll_gone(cx).map(|error| Err(error.into()));
            }
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Err(error));
            }
            if self.over {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return wire.poll_gone(cx).map(|error| Err(error.into()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What goes out next, for as long as there is more and it is short. True when more is waited for.
    fn fill(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.over && self.out.piece.is_empty() && self.out.front.len() < FULL {
            if self.body.is_end_stream() {
                self.end(None);
                break;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                // The agent has all of it, and does not wait for how the origin ends it.
                Poll::Pending if matches!(self.coding, Coding::Exact(0)) => self.over = true,
                Poll::Pending => return true,
                Poll::Ready(Some(Ok(frame))) => self.put(frame),
                Poll::Ready(Some(Err(error))) => self.cut(error),
                Poll::Ready(None) => self.end(None),
            }
        }
        false
    }

    fn cut(&mut self, why: BoxError) {
        (self.broken, self.over) = (Some(why), true);
    }

    fn put(&mut self, frame: Frame<Bytes>) {
        let data = match frame.into_data() {
            Ok(data) if data.is_empty() => return,
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok()),
        };
        let mut end: &[u8] = b"";
        match &mut self.coding {
            Coding::Exact(left) => match left.checked_sub(data.len() as u64) {
                Some(less) => *left = less,
                None => return self.cut("the answer is longer than it says".into()),
            },
            Coding::Chunked(_) => {
                write_size(data.len(), &mut self.out.front);
                end = b"\r\n";
            }
            Coding::None | Coding::UntilClose => {}
        }
        if data.len() <= SHORT {
            self.out.front.extend_from_slice(&data);
            self.out.front.extend_from_slice(end);
        } else {
            self.out.piece = data;
            self.out.back.extend_from_slice(end);
        }
        if self.body.is_end_stream() {
            self.end(None);
        }
    }

    /// The body is over, with these fields behind it.
    fn end(&mut self, trailers: Option<HeaderMap>) {
        self.over = true;
        match &self.coding {
            Coding::Exact(1..) => self.cut("the answer is shorter than it says".into()),
            Coding::Chunked(names) => {
                let trailers = trailers.map(|trailers| announced(trailers, names));
                let out = &mut self.out;
                let behind = if out.piece.is_empty() { &mut out.front } else { &mut out.back };
                write_end(trailers.as_ref(), behind);
            }
            Coding::None | Coding::Exact(_) | Coding::UntilClose => {}
        }
    }

    /// The memory of what was written.
    pub(super) fn into_out(self) -> Out {
        self.out
    }
}

/// The fields behind a body that its head announced, and that may stand there.
fn announced(mut trailers: HeaderMap, names: &[HeaderName]) -> HeaderMap {
    strip_trailers(&mut trailers, |name| !names.contains(name));
    trailers
}

impl Asked {
    /// How the body of an answer goes, and the length that its head does not say yet.
    fn coding(&self, head: &mut Parts, body: &Body) -> (Coding, Option<u64>) {
        if !self.has_length(head.status) {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let said = head.headers.get(header::CONTENT_LENGTH).map(length);
        let known = body.size_hint().exact();
        if !self.has_body(head.status) {
            // What a body would have is told, and that there is none is not.
            let told = known.filter(|known| said.is_none() && *known > 0);
            return (Coding::None, told.filter(|_| self.has_length(head.status)));
        }
        match (said, known) {
            (Some(Some(said)), _) => return (Coding::Exact(said), None),
            (Some(None), _) => drop(head.headers.remove(header::CONTENT_LENGTH)),
            (None, _) => {}
        }
        match known {
            Some(known) => (Coding::Exact(known), Some(known)),
            None if self.version < Version::HTTP_11 => (Coding::UntilClose, None),
            None if self.trailers => (Coding::Chunked(announcement(&head.headers)), None),
            None => (Coding::Chunked(Vec::new()), None),
        }
    }
}

fn length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok().filter(|text| !text.starts_with('+'))?;
    text.parse().ok()
}

/// The names of the fields that the head announces.
fn announcement(head: &HeaderMap) -> Vec<HeaderName> {
    let names = head.get_all(header::TRAILER).iter().flat_map(words);
    names.filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

fn write_head(
    asked: &Asked,
    mut head: Parts,
    (coding, length, keeps_alive): (&Coding, Option<u64>, bool),
    out: &mut Vec<u8>,
) {
    let start = out.len();
    write_status_line(head.status, out);
    let old = asked.version < Version::HTTP_11;
    if old {
        // The version that its client knows. `HTTP/1.` stands before it.
        out[start + 7] = b'0';
    }
    let leaves = asked.leaves_http(head.status);
    if !leaves {
        head.headers.remove(header::CONNECTION);
    }
    write_fields(&head.headers, &Spelling::Lower, out);
    if !leaves && !keeps_alive {
        out.extend_from_slice(b"connection: close\r\n");
    } else if !leaves && old {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    if let Some(length) = length {
        // Writing to memory does not fail.
        let _written = write!(out, "content-length: {length}\r\n");
    }
    if matches!(coding, Coding::Chunked(_)) {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if !head.headers.contains_key(header::DATE) {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(date::now().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    done_with(head.headers);
}
