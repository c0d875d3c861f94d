//! What an origin says before its answer (1xx): searched as the answer is, and handed on while the
//! answer is waited for.
//!
//! The connection writes them on HTTP/1.1, and the stream's task on HTTP/2. An agent of HTTP/1.0 knows none
//! (RFC 9110 section 15.2), and hears the answer alone.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode, Version, header};
use parking_lot::Mutex;

use super::exchange::strip_answer;
use super::http1::Source;
use crate::http1::{Spelling, write_fields, write_status_line};
use crate::inject::Pending;
use crate::scrub::Interim;
use crate::upstream::Interims;

/// How many bytes of interim answers one stream is sent. They are held until the agent reads them, and an
/// origin could send them without end; those over it are dropped, because the answer does not depend on them.
const EARLY_BYTES: usize = 64 * 1024;

/// The way of interim answers to an agent.
pub(super) struct Outlet(Way);

enum Way {
    /// On the connection.
    Http1(Arc<dyn Source>),
    /// By the task of the stream.
    Http2(Mutex<Early>),
}

/// What the task of a stream is to send before the answer.
#[derive(Default)]
struct Early {
    waiting: Vec<Response<()>>,
    /// How many bytes there were in all.
    bytes: usize,
}

impl Outlet {
    /// Of one connection.
    pub(super) fn of(wire: Arc<dyn Source>) -> Self {
        Self(Way::Http1(wire))
    }

    /// Of one stream, whose task [takes](Self::take) them.
    pub(super) fn of_stream() -> Self {
        Self(Way::Http2(Mutex::default()))
    }

    /// Has it go out before the answer.
    pub(super) fn send(&self, interim: Interim) {
        match &self.0 {
            Way::Http1(wire) => wire.put_early(&text(interim)),
            Way::Http2(early) => early.lock().put(interim),
        }
    }

    /// What is to go out on the stream, oldest first.
    pub(super) fn take(&self) -> Vec<Response<()>> {
        match &self.0 {
            Way::Http1(_) => Vec::new(),
            Way::Http2(early) => std::mem::take(&mut early.lock().waiting),
        }
    }
}

impl Early {
    fn put(&mut self, interim: Interim) {
        let (status, headers) = fields(interim);
        // As HTTP/2 counts a head.
        let size = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
        self.bytes += 32 + size.sum::<usize>();
        if self.bytes <= EARLY_BYTES {
            let mut head = Response::new(());
            (*head.status_mut(), *head.headers_mut()) = (status, headers);
            self.waiting.push(head);
        }
    }
}

/// Where to listen for those of one call: nowhere, when its agent, who speaks `version`, knows none.
pub(super) fn listens(version: Version) -> Option<Interims> {
    (version >= Version::HTTP_11).then(Interims::default)
}

/// Waits for an answer, and passes on what comes before it. The future is lent: one that is given
/// would lie in this one twice.
pub(super) async fn passing<T>(
    mut answer: Pin<&mut impl Future<Output = T>>,
    heard: Option<&Interims>,
    outlet: &Outlet,
    pending: &mut Pending,
) -> T {
    let Some(heard) = heard else { return answer.await };
    poll_fn(|cx| {
        let answered = answer.as_mut().poll(cx);
        while let Some(interim) = heard.take() {
            // Why here: like any head it cannot be read before it is scrubbed.
            outlet.send(pending.interim(interim));
        }
        answered
    })
    .await
}

/// The head as it goes over the wire. It has no body, whatever it says: who believed a length would
/// take the answer for it.
fn fields(interim: Interim) -> (StatusCode, HeaderMap) {
    let (status, mut headers) = interim.into_parts();
    strip_answer(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    (status, headers)
}

/// The same as HTTP/1.1 has it.
fn text(interim: Interim) -> Vec<u8> {
    let (status, headers) = fields(interim);
    let mut text = Vec::new();
    write_status_line(status, &mut text);
    write_fields(&headers, &Spelling::Lower, &mut text);
    text.extend_from_slice(b"\r\n");
    text
}
