//! Accepting connections, and letting go of them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::stream::{Io, Stream};
use super::{Gateway, tunnel};
use crate::agent::Identity;
use crate::record::Peer;
use crate::tls::ListenerTls;

/// One place where agents connect.
#[derive(Debug)]
pub struct Entrance {
    /// The socket.
    pub listener: Arc<Listener>,
    /// How one gets in.
    pub door: Door,
    /// For `https://` proxy URLs. Only on TCP: a Unix socket has no wire.
    pub tls: Option<Arc<ListenerTls>>,
}

/// A socket that listens.
#[derive(Debug)]
pub enum Listener {
    /// On a port.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// The address and port; none for a Unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Accepted::Tcp(stream), Peer::Tcp(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|cred| cred.uid());
                Ok((Accepted::Unix(stream), Peer::Unix(uid)))
            }
        }
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// How one gets in.
#[derive(Clone, Debug)]
pub enum Door {
    /// With proxy credentials.
    Credentials,
    /// Without: every connection is this agent. For a loopback port of one run, whose clients never
    /// send credentials.
    Open(Arc<Identity>),
}

/// What becomes of the listening sockets when the proxy stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// They close. Whoever waits in their queues would be reset, and is served before.
    Closed,
    /// Another process has them too, and takes those that wait.
    Open,
}

/// Tells every task of the proxy that it is time to stop, and knows when all have.
#[derive(Clone, Debug)]
pub(super) struct Shutdown {
    begun: watch::Receiver<Option<Leave>>,
    /// Held by every task; the receiver at the other end hears when the last one is gone.
    alive: mpsc::Sender<Infallible>,
    abort: watch::Receiver<Option<()>>,
}

impl Shutdown {
    /// Returns when the proxy has begun to stop.
    pub(super) async fn begun(&self) {
        wait(self.begun.clone()).await;
    }

    /// Returns when a connection that was made at `since` is to be let go of: when the proxy has
    /// begun to stop, but not within [`FRESH`] of its making. The HTTP layer closes a connection on
    /// which nothing has come yet, and for a client that is about to send that is a refusal.
    pub(super) async fn reached(&self, since: Instant) {
        self.begun().await;
        tokio::time::sleep_until((since + FRESH).into()).await;
    }

    fn leave(&self) -> Leave {
        self.begun.borrow().unwrap_or(Leave::Closed)
    }

    /// Runs a task that is waited for, and cut off when the time for draining is over.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let abort = self.abort.clone();
        let alive = self.alive.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                () = wait(abort) => {}
            }
            drop(alive);
        });
    }
}

/// How long a client may take from its connection to its first byte without being cut off by a stop.
/// It sends at once, which is a round trip and the slowness of a busy machine.
const FRESH: Duration = Duration::from_secs(1);

/// Returns when there is a value, or when nobody is left to give one.
async fn wait<T>(mut signal: watch::Receiver<Option<T>>) {
    let _gone = signal.wait_for(Option::is_some).await;
}

/// Accepts connections on `entrances` until `stop` resolves; then takes no more, lets requests in
/// flight finish for at most `drain`, and returns.
pub async fn serve(
    gateway: Arc<Gateway>,
    entrances: Vec<Entrance>,
    stop: impl Future<Output = Leave>,
    drain: Duration,
) {
    let (begin, begun) = watch::channel(None);
    let (cut, abort) = watch::channel(None);
    let (alive, mut gone) = mpsc::channel::<Infallible>(1);
    let shutdown = Shutdown { begun, alive, abort };
    let places = Arc::new(Places::new(gateway.limits.connections, entrances.len()));
    for entrance in entrances {
        let (gateway, places) = (Arc::clone(&gateway), Arc::clone(&places));
        shutdown.spawn(accept(gateway, Arc::new(entrance), shutdown.clone(), places));
    }
    drop(shutdown);
    let leave = stop.await;
    let _all_gone = begin.send(Some(leave));
    if tokio::time::timeout(drain, gone.recv()).await.is_err() {
        tracing::warn!(?drain, "requests were still in flight at the end of the time for draining");
        let _all_gone = cut.send(Some(()));
        let _ended = gone.recv().await;
    }
}

/// As many connections as there may be at once, tunnels among them.
struct Places {
    free: Arc<Semaphore>,
    full: Seldom,
}

impl Places {
    /// Each listener keeps a place for the connection that it waits for, so that one it has accepted
    /// never waits: only the first of them is among the `connections`.
    fn new(connections: usize, listeners: usize) -> Self {
        let places = connections.saturating_add(listeners.saturating_sub(1));
        let free = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self { free, full: Seldom::default() }
    }

    /// A connection over the limit waits in the kernel's queue; it is not refused.
    async fn one(&self) -> OwnedSemaphorePermit {
        let free = Arc::clone(&self.free);
        if let Ok(place) = Arc::clone(&free).try_acquire_owned() {
            return place;
        }
        if self.full.admits() {
            tracing::warn!("limits.connections are open; new ones wait until one closes");
        }
        // Invariant: the semaphore is never closed, so this branch waits or returns.
        match free.acquire_owned().await {
            Ok(place) => place,
            Err(_) => std::future::pending().await,
        }
    }
}

/// What is said again at most so often: often enough to be seen, too seldom to fill a disk.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// Lets the first through, and then one in each [`SAY_EVERY`].
#[derive(Default)]
struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    fn admits(&self) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

async fn accept(
    gateway: Arc<Gateway>,
    entrance: Arc<Entrance>,
    shutdown: Shutdown,
    places: Arc<Places>,
) {
    let mut trouble = Trouble::default();
    loop {
        let place = tokio::select! {
            place = places.one() => place,
            () = shutdown.begun() => return,
        };
        let accepted = tokio::select! {
            accepted = entrance.listener.accept() => accepted,
            () = shutdown.begun() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                trouble.over();
                let (gateway, entrance) = (Arc::clone(&gateway), Arc::clone(&entrance));
                let inner = shutdown.clone();
                shutdown.spawn(connection(gateway, entrance, stream, peer, place, inner));
            }
            Err(error) => trouble.pause(&error).await,
        }
    }
    if shutdown.leave() == Leave::Closed {
        last_ones(&gateway, &entrance, &shutdown, &places).await;
    }
}

/// How long the queue of a closing socket is emptied for. Under a steady stream of connections it is
/// never empty, and somebody is reset in any case.
const LAST_ONES: Duration = Duration::from_millis(50);

/// When nobody has come for so long, nobody waits: the kernel says so within microseconds.
const NOBODY_WAITS: Duration = Duration::from_millis(5);

/// Takes those that the kernel has accepted for us already: closing the socket would reset them.
async fn last_ones(
    gateway: &Arc<Gateway>,
    entrance: &Arc<Entrance>,
    shutdown: &Shutdown,
    places: &Places,
) {
    let begun = Instant::now();
    while begun.elapsed() < LAST_ONES
        && let Ok(place) = Arc::clone(&places.free).try_acquire_owned()
        && let Ok(Ok((stream, peer))) =
            tokio::time::timeout(NOBODY_WAITS, entrance.listener.accept()).await
    {
        let (gateway, entrance) = (Arc::clone(gateway), Arc::clone(entrance));
        let inner = shutdown.clone();
        shutdown.spawn(connection(gateway, entrance, stream, peer, place, inner));
    }
}

/// Waits longer after each failure: out of descriptors, an accept loop must not spin.
const BACKOFF: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
];

/// A row of failures to accept.
#[derive(Default)]
struct Trouble {
    failures: usize,
    said: Seldom,
    telling: bool,
}

impl Trouble {
    async fn pause(&mut self, error: &io::Error) {
        // A client that was gone before we looked is no trouble of ours.
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        let wait = BACKOFF[self.failures.min(BACKOFF.len() - 1)];
        self.failures += 1;
        if self.said.admits() {
            self.telling = true;
            tracing::warn!(
                %error, failures = self.failures,
                "a connection could not be accepted; those that come wait"
            );
        }
        tokio::time::sleep(wait).await;
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.telling) {
            tracing::info!(failures = self.failures, "connections are accepted again");
        }
        self.failures = 0;
    }
}

async fn connection(
    gateway: Arc<Gateway>,
    entrance: Arc<Entrance>,
    accepted: Accepted,
    peer: Peer,
    place: OwnedSemaphorePermit,
    shutdown: Shutdown,
) {
    match enter(&gateway, &entrance, accepted).await {
        Ok(io) => serve_front(gateway, entrance, Stream::new(io, place), peer, shutdown).await,
        Err(error) => tracing::debug!(%peer, %error, "no TLS with the agent at the door"),
    }
}

/// What happens before the first request: the handshake, where the door has TLS.
async fn enter(gateway: &Gateway, entrance: &Entrance, accepted: Accepted) -> io::Result<Io> {
    let stream = match accepted {
        Accepted::Unix(stream) => return Ok(Io::Unix(stream)),
        Accepted::Tcp(stream) => stream,
    };
    // Without this, Nagle and delayed acknowledgements hold each small answer for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was not set");
    }
    match &entrance.tls {
        Some(tls) => Ok(Io::Tls(Box::new(tls.accept(stream, gateway.limits.handshake).await?))),
        None => Ok(Io::Tcp(stream)),
    }
}

async fn serve_front(
    gateway: Arc<Gateway>,
    entrance: Arc<Entrance>,
    stream: Stream,
    peer: Peer,
    shutdown: Shutdown,
) {
    let since = Instant::now();
    let limits = gateway.limits;
    let service = {
        let shutdown = shutdown.clone();
        service_fn(move |request| {
            let (gateway, entrance, shutdown) =
                (Arc::clone(&gateway), Arc::clone(&entrance), shutdown.clone());
            async move {
                let door = &entrance.door;
                let answer = tunnel::front(&gateway, door, peer, &shutdown, request).await;
                Ok::<_, Infallible>(answer)
            }
        })
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes.max(8192))
        .max_headers(limits.headers)
        .preserve_header_case(true)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.reached(since) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "the connection ended");
    }
}
