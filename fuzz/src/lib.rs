//! What the targets share that scrub an answer as the proxy does: a body in chunks, and what comes out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Response};
use http_body::{Body, Frame};
use locum::scrub::{Needles, Unscrubbed, scrub};
use locum::secret::Secret;

/// What must not come out. Short, so that the fuzzer finds it; of bytes that it likes.
pub const SECRET: &[u8] = b"abcabcab+/";

/// A body of these chunks.
struct Chunks(VecDeque<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// Cuts `text` into chunks of sizes that `sizes` says, again and again.
#[must_use]
pub fn cut<'t>(mut text: &'t [u8], sizes: &[u8]) -> Vec<&'t [u8]> {
    let mut chunks = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !text.is_empty() {
        let size = sizes.next().map_or(1, |s| usize::from(*s % 24) + 1).min(text.len());
        let (chunk, rest) = text.split_at(size);
        chunks.push(chunk);
        text = rest;
    }
    chunks
}

/// What an agent gets of an answer with this head, and whether it is whole.
#[must_use]
pub fn scrubbed(head: &Response<()>, chunks: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut needles = Needles::default();
    needles.add(&Secret::new(SECRET.to_vec()), "_");
    let body = Chunks(chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect());
    let mut response = Response::new(body);
    *response.status_mut() = head.status();
    *response.headers_mut() = head.headers().clone();
    let mut cx = Context::from_waker(Waker::noop());
    let unscrubbed = Unscrubbed::new(response, Method::GET, Some(needles));
    let Poll::Ready(Ok(response)) = pin!(scrub(unscrubbed)).poll(&mut cx) else {
        return (Vec::new(), false);
    };
    let (mut body, mut out) = (response.into_body(), Vec::new());
    loop {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => out.extend(frame.into_data().unwrap_or_default()),
            Poll::Ready(None) => return (out, true),
            Poll::Ready(Some(Err(_))) | Poll::Pending => return (out, false),
        }
    }
}

/// Whether the secret stands in `text`.
#[must_use]
pub fn leaks(text: &[u8]) -> bool {
    text.windows(SECRET.len()).any(|window| window == SECRET)
}

/// Whether a line ends in `text`, in any notation. At the end of a line that comes by itself the first bytes
/// of a secret may have been shown, so what a secret over lines becomes is then a matter of chunks.
#[must_use]
pub fn has_lines(text: &[u8]) -> bool {
    let ends = |w: &[u8]| matches!(w, [b'\n' | b'\r', _] | [b'\\', b'n' | b'r']);
    text.ends_with(b"\n") || text.ends_with(b"\r") || text.windows(2).any(ends)
}
