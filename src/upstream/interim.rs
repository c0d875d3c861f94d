//! What an origin says before its answer (1xx, RFC 9110 section 15.2): `100 Continue` for whoever
//! holds a body back until then, and the others for the agent.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use parking_lot::Mutex;

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

/// How many interim answers wait to be taken. Origins that send any send one or two; those over it
/// are dropped, because an origin could send them without end.
const WAITING: usize = 16;

/// Interim answers, untouched, as they came: all but `100 Continue`, which has its own use, and `101`,
/// which is final. Belongs to one request.
#[derive(Clone, Default)]
pub struct Interims(Arc<Mutex<VecDeque<Response<()>>>>);

impl Interims {
    /// The oldest that nobody has taken.
    #[must_use]
    pub fn take(&self) -> Option<Response<()>> {
        self.0.lock().pop_front()
    }

    pub(super) fn hear(&self, interim: Response<()>) {
        let mut heard = self.0.lock();
        let other = [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS];
        if !other.contains(&interim.status()) && heard.len() < WAITING {
            heard.push_back(interim);
        }
    }
}

impl fmt::Debug for Interims {
    /// Not their fields, which may echo a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Interims").field(&self.0.lock().len()).finish()
    }
}

/// Who hears of the interim answers to one request.
#[derive(Default)]
pub(super) struct Hearing<'a> {
    pub(super) go_on: Option<GoOn>,
    pub(super) interims: Option<&'a Interims>,
}

impl<'a> Hearing<'a> {
    /// Of this request.
    pub(super) fn of<B>(request: &Request<B>, interims: Option<&'a Interims>) -> Self {
        Self { go_on: request.extensions().get().cloned(), interims }
    }

    pub(super) fn hear(&self, interim: Response<()>) {
        if interim.status() == StatusCode::CONTINUE {
            if let Some(GoOn(told)) = &self.go_on {
                told();
            }
        } else if let Some(interims) = self.interims {
            interims.hear(interim);
        }
    }
}

/// On HTTP/2 nobody has to wait: a body that is not wanted is stopped by a reset of its stream, and
/// costs a window at most.
pub(super) fn at_once<B>(request: Request<B>) -> Request<B> {
    if let Some(GoOn(told)) = request.extensions().get() {
        told();
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_wait_and_no_more_and_the_oldest_goes_first() {
        let interims = Interims::default();
        for status in [100, 101, 102, 103].into_iter().cycle().take(3 * WAITING) {
            interims.hear(Response::builder().status(status).body(()).unwrap());
        }
        let taken: Vec<u16> =
            std::iter::from_fn(|| interims.take()).map(|i| i.status().as_u16()).collect();
        assert_eq!(taken.len(), WAITING);
        assert_eq!(taken[..4], [102, 103, 102, 103]);
    }
}
