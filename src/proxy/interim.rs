//! What an origin says before its answer (1xx): searched as the answer is, and handed on while the
//! answer is waited for.
//!
//! hyper's server sends none, so they go out below it, through the [inlet](super::inlet). On HTTP/2
//! there is no such place (the h2 crate's server could, `SendResponse::send_informational`, but hyper keeps
//! that to itself, and below both, heads are compressed by what went before), and an agent of HTTP/1.0
//! knows none (RFC 9110 section 15.2): those two hear the answer alone.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, Version, header};

use super::exchange::strip_answer;
use super::inlet::Progress;
use crate::inject::Pending;
use crate::scrub::Interim;
use crate::upstream::{Interims, Spelling};

/// The way of interim answers to an agent: its connection's, if that has one.
#[derive(Clone)]
pub(super) struct Outlet(Option<Arc<Progress>>);

impl Outlet {
    /// Below hyper's HTTP/1.1.
    pub(super) fn of(progress: &Arc<Progress>) -> Self {
        Self(Some(Arc::clone(progress)))
    }

    /// None.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Where to listen for those of one call: nowhere, when its agent would not hear of them.
    pub(super) fn listens(&self, version: Version) -> Option<Interims> {
        let hears = version == Version::HTTP_11 && self.0.is_some();
        hears.then(Interims::default)
    }

    /// How the names in the head of the request are written, where that is not kept for each.
    pub(super) fn spelling(&self) -> Spelling {
        self.0.as_ref().map_or(Spelling::Lower, |progress| progress.spelling())
    }

    /// Has it go out before the answer.
    pub(super) fn send(&self, interim: Interim) {
        if let Some(progress) = &self.0 {
            progress.put_interim(&text(interim));
        }
    }
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
fn text(interim: Interim) -> Vec<u8> {
    let (status, mut headers) = interim.into_parts();
    strip_answer(&mut headers);
    headers.remove(header::CONTENT_LENGTH);
    head(status, &headers)
}

fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    for (name, value) in headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}
