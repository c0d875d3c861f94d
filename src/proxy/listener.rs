//! Accepting connections, and letting go of them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::http1::{self, Refuse};
use super::lobby::{Lobby, Visitor};
use super::signal::{Bell, Signal};
use super::stream::{Io, Stream};
use super::tunnel::{AgentEnd, Left};
use super::{Gateway, Near, tunnel};
use crate::agent::UnixUser;
use crate::agent::certificate::Vouch as _;
use crate::metrics::Metrics;
use crate::record::Peer;
use crate::tls::ListenerTls;

/// One place where agents connect.
#[derive(Debug)]
pub struct Entrance {
    /// The socket.
    pub listener: Listener,
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

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Accepted::Tcp(stream), Peer::Tcp(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred().ok();
                let user = user.map(|cred| UnixUser { uid: cred.uid(), gid: cred.gid() });
                Ok((Accepted::Unix(stream), Peer::Unix(user)))
            }
        }
    }
}

pub(super) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}
use crate::upstream;

/// What becomes of the listening sockets when the proxy stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// They close. Whoever waits in their queues would be reset, and is served before.
    Closed,
    /// Another process has them too, and takes those that wait.
    Open,
}

/// Held by every task; the receiver at the other end hears when the last one is gone.
pub(super) type Alive = mpsc::Sender<Infallible>;

/// Tells every task of the proxy that it is time to stop, and knows when all have.
#[derive(Clone, Debug)]
pub(super) struct Shutdown {
    begun: Signal,
    /// And how long what is under way may take then.
    leave: Arc<OnceLock<(Leave, Duration)>>,
    alive: Alive,
    abort: Signal,
}

impl Shutdown {
    /// Returns when the proxy has begun to stop.
    pub(super) async fn begun(&self) {
        self.begun.clone().given().await;
    }

    /// Whether the proxy has begun to stop.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.is_given()
    }

    /// Returns when a connection that was made at `since` is to be let go of: when the proxy has
    /// begun to stop, but not within [`FRESH`] of its making. The HTTP layer closes a connection on
    /// which nothing has come yet, and for a client that is about to send that is a refusal.
    pub(super) async fn reached(&self, since: Instant) {
        self.begun().await;
        tokio::time::sleep_until(since + FRESH).await;
    }

    fn leave(&self) -> Leave {
        self.leave.get().map_or(Leave::Closed, |(leave, _)| *leave)
    }

    /// How long what is under way may take when the proxy stops; nothing is known of it before.
    pub(super) fn drain(&self) -> Duration {
        self.leave.get().map_or(Duration::ZERO, |(_, drain)| *drain)
    }

    /// What keeps the shutdown waiting while it is held.
    pub(super) fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Runs a task that is waited for, and cut off when the time for draining is over.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        // In a box, because the future of a block has room for what it captured beside what it runs.
        let task = Cuttable { task: Box::pin(task), cut: self.abort.clone() };
        let alive = self.alive.clone();
        let running = tokio::spawn(async move {
            task.await;
            drop(alive);
        });
        running.abort_handle()
    }
}

/// A task that ends when it is over, or is cut off.
struct Cuttable<F> {
    task: Pin<Box<F>>,
    cut: Signal,
}

impl<F: Future<Output = ()>> Future for Cuttable<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.cut.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        self.task.as_mut().poll(cx)
    }
}

/// How long a client may take from its connection to its first byte without being cut off by a stop.
/// It sends at once, which is a round trip and the slowness of a busy machine.
const FRESH: Duration = Duration::from_secs(1);

/// Accepts connections on `entrances` until `stop` resolves; then takes no more, lets requests in
/// flight finish for at most the time that it says, and returns.
pub async fn serve(
    gateway: Arc<Gateway>,
    entrances: Vec<Entrance>,
    stop: impl Future<Output = (Leave, Duration)>,
) {
    let (begin, cut) = (Bell::default(), Bell::default());
    let left = Arc::<OnceLock<(Leave, Duration)>>::default();
    let (alive, mut gone) = mpsc::channel::<Infallible>(1);
    let shutdown =
        Shutdown { begun: begin.signal(), leave: Arc::clone(&left), alive, abort: cut.signal() };
    for entrance in entrances {
        shutdown.spawn(accept(Arc::clone(&gateway), Arc::new(entrance), shutdown.clone()));
    }
    drop(shutdown);
    let (leave, drain) = stop.await;
    let _only_here = left.set((leave, drain));
    begin.ring();
    if tokio::time::timeout(drain, gone.recv()).await.is_err() {
        tracing::warn!(?drain, "requests were still in flight at the end of the time for draining");
        cut.ring();
        let _ended = gone.recv().await;
    }
}

/// What all listeners share, on all threads.
pub(super) struct Doorkeeper {
    /// As many connections as there may be at once, tunnels among them.
    places: usize,
    free: Arc<Semaphore>,
    lobby: Arc<Lobby>,
    full: Seldom,
    failing: Seldom,
    /// Whether it was said that connections could not be accepted, and not yet that they can.
    told: AtomicBool,
}

impl Doorkeeper {
    pub(super) fn new(connections: usize) -> Self {
        let places = connections.min(Semaphore::MAX_PERMITS);
        Self {
            places,
            free: Arc::new(Semaphore::new(places)),
            lobby: Arc::default(),
            full: Seldom::default(),
            failing: Seldom::default(),
            told: AtomicBool::new(false),
        }
    }

    /// How many connections there are now. Those that wait for a place are not among them.
    pub(super) fn open(&self) -> usize {
        self.places.saturating_sub(self.free.available_permits())
    }

    /// A place for a connection. Over the limit, whoever has long not said who it is makes room; where
    /// there is nobody, one waits here, and those behind it in the kernel's queue; none is refused.
    async fn place(&self, metrics: &Metrics) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return place;
        }
        if self.full.admits() {
            tracing::warn!(
                "limits.connections are open; new ones wait until one closes, and those that do not \
                 say who they are make room"
            );
        }
        let mut free = pin!(Arc::clone(&self.free).acquire_owned());
        loop {
            // One goes for one that comes.
            let again = match self.lobby.dismiss() {
                Ok(()) => {
                    metrics.connection_dismissed();
                    Instant::now() + SLOW_TO_GO
                }
                Err(again) => again,
            };
            match timeout_at(again, free.as_mut()).await {
                Ok(Ok(place)) => return place,
                // Invariant: the semaphore is never closed, so there is no error to wait behind.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => {}
            }
        }
    }

    /// Waits after a failure to accept, longer after each of a row.
    async fn pause(&self, error: &io::Error, failures: usize) {
        if self.failing.admits() {
            self.told.store(true, Ordering::Relaxed);
            tracing::warn!(%error, "a connection could not be accepted; those that come wait");
        }
        tokio::time::sleep(BACKOFF[failures.min(BACKOFF.len() - 1)]).await;
    }

    fn recovered(&self) {
        if self.told.swap(false, Ordering::Relaxed) {
            tracing::info!("connections are accepted again");
        }
    }
}

/// A connection that was ended is gone within microseconds. When it is not, another one goes.
const SLOW_TO_GO: Duration = Duration::from_millis(100);

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

async fn accept(gateway: Arc<Gateway>, entrance: Arc<Entrance>, shutdown: Shutdown) {
    let doorkeeper = &gateway.doorkeeper;
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            accepted = entrance.listener.accept() => accepted,
            () = shutdown.begun() => break,
        };
        match accepted {
            Ok(accepted) => {
                if std::mem::take(&mut failures) > 0 {
                    doorkeeper.recovered();
                }
                admit(&gateway, &entrance, accepted, &shutdown).await;
                // The new connection's first steps come before the next one, which another thread may
                // be free to take meanwhile.
                tokio::task::yield_now().await;
            }
            // A client that was gone before we looked is no trouble of ours.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                doorkeeper.pause(&error, failures).await;
                failures += 1;
            }
        }
    }
    if shutdown.leave() == Leave::Closed {
        last_ones(&gateway, &entrance, &shutdown).await;
    }
}

/// Begins a connection as soon as there is a place for it. Also when we have begun to stop: it was
/// taken from the kernel, and nobody else can serve it.
async fn admit(
    gateway: &Arc<Gateway>,
    entrance: &Arc<Entrance>,
    (accepted, peer): (Accepted, Peer),
    shutdown: &Shutdown,
) {
    let lobby = Arc::clone(&gateway.doorkeeper.lobby);
    let place = gateway.doorkeeper.place(&gateway.metrics).await;
    let visitor = lobby.enter();
    let number = visitor.number();
    let (gateway, entrance) = (Arc::clone(gateway), Arc::clone(entrance));
    let inner = shutdown.clone();
    let task = connection(gateway, entrance, (accepted, peer), (place, visitor), inner);
    lobby.runs_in(number, shutdown.spawn(task));
}

/// How long the queue of a closing socket is emptied for. Under a steady stream of connections it is
/// never empty, and somebody is reset in any case.
const LAST_ONES: Duration = Duration::from_millis(50);

/// When nobody has come for so long, nobody waits: the kernel says so within microseconds.
const NOBODY_WAITS: Duration = Duration::from_millis(5);

/// Takes those that the kernel has accepted for us already: closing the socket would reset them.
async fn last_ones(gateway: &Arc<Gateway>, entrance: &Arc<Entrance>, shutdown: &Shutdown) {
    let begun = Instant::now();
    while begun.elapsed() < LAST_ONES
        && let Ok(Ok(accepted)) =
            tokio::time::timeout(NOBODY_WAITS, entrance.listener.accept()).await
    {
        admit(gateway, entrance, accepted, shutdown).await;
    }
}

/// Waits longer after each failure: out of descriptors, an accept loop must not spin.
const BACKOFF: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
];

async fn connection(
    gateway: Arc<Gateway>,
    entrance: Arc<Entrance>,
    (accepted, peer): (Accepted, Peer),
    (place, visitor): (OwnedSemaphorePermit, Visitor),
    shutdown: Shutdown,
) {
    let door = entrance.tls.as_ref().map(|tls| (tls, tls.generation()));
    match enter(&gateway, &entrance, accepted).await {
        Ok(io) => {
            let near = Near { peer, certificate: io.certificate(door).map(Arc::new) };
            serve_front(gateway, (Stream::new(io, place), visitor), near, shutdown).await;
        }
        Err(error) => tracing::debug!(%peer, %error, "no TLS with the agent at the door"),
    }
}

/// What happens before the first request: the handshake, where the door has TLS.
async fn enter(gateway: &Gateway, entrance: &Entrance, accepted: Accepted) -> io::Result<Io> {
    let stream = match accepted {
        Accepted::Unix(stream) => return Ok(Io::Unix(stream)),
        Accepted::Tcp(stream) => stream,
    };
    if let Err(error) = upstream::tune(&stream) {
        tracing::debug!(%error, "the options of a connection were not set");
    }
    match &entrance.tls {
        Some(tls) => Ok(Io::Tls(Box::new(tls.accept(stream, gateway.limits.handshake).await?))),
        None => Ok(Io::Tcp(stream)),
    }
}

async fn serve_front(
    gateway: Arc<Gateway>,
    (stream, visitor): (Stream, Visitor),
    near: Near,
    shutdown: Shutdown,
) {
    let since = Instant::now();
    let peer = near.peer;
    let limits = gateway.limits;
    let refuse: Refuse = {
        let (gateway, near) = (Arc::clone(&gateway), near.clone());
        Arc::new(move |code| tunnel::unreadable(&gateway, &near, code))
    };
    let cut = stream.cut();
    let answer = async |request, outlet| {
        let end = AgentEnd { outlet, cut: cut.clone(), visitor: &visitor };
        tunnel::front(&gateway, &near, &shutdown, request, &end).await
    };
    // Clients without a tunnel end their side when they have asked.
    let bounds = limits.bounds(limits.head_time, true);
    let leave = |stream, unread| Left { stream, unread };
    let stop = shutdown.reached(since);
    if let Err(error) = http1::serve(stream, bounds, stop, (refuse, leave), answer).await {
        tracing::debug!(%peer, %error, "the connection ended");
    }
}
