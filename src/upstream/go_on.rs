//! `100 Continue` of an origin (RFC 9110 section 10.1.1), for whoever holds a body back until then.

use std::sync::Arc;

use http::{Request, StatusCode};

/// Called when the origin asks for a request's body. Goes among the request's extensions; may be
/// called more than once.
#[derive(Clone)]
pub struct GoOn(Arc<dyn Fn() + Send + Sync>);

impl GoOn {
    /// Calls `told`.
    pub fn new(told: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }
}

/// Passes a `100 Continue` on, on a connection of HTTP/1.1.
pub(super) fn heard<B>(mut request: Request<B>) -> Request<B> {
    if let Some(GoOn(told)) = request.extensions().get().cloned() {
        hyper::ext::on_informational(&mut request, move |interim| {
            if interim.status() == StatusCode::CONTINUE {
                told();
            }
        });
    }
    request
}

/// On HTTP/2 nobody has to wait: a body that is not wanted is stopped by a reset of its stream, and
/// costs a window at most.
pub(super) fn at_once<B>(request: Request<B>) -> Request<B> {
    if let Some(GoOn(told)) = request.extensions().get() {
        told();
    }
    request
}
