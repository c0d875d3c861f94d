//! What a service manager (systemd, or whoever speaks its protocol) gives and is told: sockets that
//! listen already, and how far we are.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use super::Failure;

/// A listening socket that was made by another process.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// The sockets of socket activation (`LISTEN_FDS`): they listened before we ran, and do after, so
/// that no connection is refused in between.
#[derive(Debug, Default)]
pub struct Activation(pub(super) Vec<Socket>);

impl Activation {
    /// Takes what the service manager has passed, if it has. To be called before there are threads:
    /// it takes the variables out of the environment, so that no child takes the sockets for its own.
    ///
    /// # Errors
    /// When what was passed is no stream socket.
    pub fn take() -> Result<Self, Failure> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(passed.len());
        for index in 0..passed.len() {
            // One that is of the other kind is left in its place, and asked for again.
            let unix = passed.take_unix_listener(index).ok().flatten().map(Socket::Unix);
            let socket = match unix {
                Some(socket) => Some(socket),
                None => passed.take_tcp_listener(index).map_err(foreign)?.map(Socket::Tcp),
            };
            sockets.extend(socket);
        }
        Ok(Self(sockets))
    }
}

#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn foreign(error: std::io::Error) -> Failure {
    Failure::new(format!("the service manager passed what is no listening socket: {error}"))
        .help("in the .socket unit, use ListenStream= and nothing else")
}

/// Clients may connect.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The config is read anew; [`ready`] follows.
pub(super) fn reloading() {
    let now = NotifyState::monotonic_usec_now().ok();
    tell(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
}

/// No more connections are taken.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Without a service manager this does nothing.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
