//! What is left of a request's connection, or of its stream, when it is no more HTTP's: a tunnel, or a socket.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Hands it on. Whoever does not take it ends it.
pub(super) type Hand<T> = oneshot::Sender<T>;

/// Takes it. Among the extensions of a request, which are to be cloned, so whoever asks first has it.
pub(super) struct Handed<T>(Arc<Mutex<Option<oneshot::Receiver<T>>>>);

impl<T> Handed<T> {
    /// And who hands it on.
    pub(super) fn new() -> (Hand<T>, Self) {
        let (hand, handed) = oneshot::channel();
        (hand, Self(Arc::new(Mutex::new(Some(handed)))))
    }

    /// When it is there. None when that came to nothing.
    pub(super) async fn come(self) -> Option<T> {
        let handed = self.0.lock().take();
        handed?.await.ok()
    }
}

impl<T> Clone for Handed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
