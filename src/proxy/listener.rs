//! Accepting connections, and letting go of them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};

use super::inlet::{Inlet, Progress, Refuse};
use super::{Gateway, tunnel};
use crate::agent::Identity;
use crate::upstream;

/// How one gets in.
#[derive(Clone, Debug)]
pub enum Door {
    /// With proxy credentials.
    Credentials,
    /// Without: every connection is this agent. For a loopback port of one run, whose clients never
    /// send credentials.
    Open(Arc<Identity>),
}

/// Held by every task; the receiver at the other end hears when the last one is gone.
pub(super) type Alive = mpsc::Sender<Infallible>;

/// Tells every task of the proxy that it is time to stop, and knows when all have.
#[derive(Clone, Debug)]
pub(super) struct Shutdown {
    begun: watch::Receiver<bool>,
    alive: Alive,
    abort: watch::Receiver<bool>,
}

impl Shutdown {
    /// Returns when the proxy has begun to stop.
    pub(super) async fn begun(&self) {
        wait(self.begun.clone()).await;
    }

    /// Whether the proxy has begun to stop.
    pub(super) fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// What keeps the shutdown waiting while it is held.
    pub(super) fn alive(&self) -> Alive {
        self.alive.clone()
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

/// Returns when the value turns true, or when nobody is left to turn it.
async fn wait(mut signal: watch::Receiver<bool>) {
    let _gone = signal.wait_for(|on| *on).await;
}

/// Accepts connections on `listeners` until `stop` resolves; then takes no more, lets requests in
/// flight finish for at most `drain`, and returns.
pub async fn serve(
    gateway: Arc<Gateway>,
    listeners: Vec<(TcpListener, Door)>,
    stop: impl Future<Output = ()>,
    drain: Duration,
) {
    let (begin, begun) = watch::channel(false);
    let (cut, abort) = watch::channel(false);
    let (alive, mut gone) = mpsc::channel::<Infallible>(1);
    let shutdown = Shutdown { begun, alive, abort };
    let slots = Arc::clone(&gateway.slots);
    for (listener, door) in listeners {
        let accepting =
            accept(Arc::clone(&gateway), listener, door, shutdown.clone(), Arc::clone(&slots));
        shutdown.spawn(accepting);
    }
    drop(shutdown);
    stop.await;
    let _all_gone = begin.send(true);
    if tokio::time::timeout(drain, gone.recv()).await.is_err() {
        tracing::warn!(?drain, "requests were still in flight at the end of the time for draining");
        let _all_gone = cut.send(true);
        let _ended = gone.recv().await;
    }
}

/// Waits longer after each failure: out of descriptors, an accept loop must not spin.
const BACKOFF: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
];

async fn accept(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    door: Door,
    shutdown: Shutdown,
    slots: Arc<Semaphore>,
) {
    let door = Arc::new(door);
    let mut failures = 0;
    loop {
        // A connection over the limit waits in the kernel's queue; it is not refused.
        let permit = tokio::select! {
            permit = Arc::clone(&slots).acquire_owned() => permit,
            () = shutdown.begun() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.begun() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                failures = 0;
                let (gateway, door) = (Arc::clone(&gateway), Arc::clone(&door));
                let inner = shutdown.clone();
                shutdown.spawn(async move {
                    connection(gateway, door, stream, peer, inner).await;
                    drop(permit);
                });
                // The new connection's first steps come before the next one, which another thread may
                // be free to take meanwhile.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                pause(&error, failures).await;
                failures += 1;
            }
        }
    }
}

async fn pause(error: &io::Error, failures: usize) {
    // A client that was gone before we looked is no trouble of ours.
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(BACKOFF[failures.min(BACKOFF.len() - 1)]).await;
}

async fn connection(
    gateway: Arc<Gateway>,
    door: Arc<Door>,
    stream: TcpStream,
    peer: SocketAddr,
    shutdown: Shutdown,
) {
    if let Err(error) = upstream::tune(&stream) {
        tracing::debug!(%error, "the options of a connection were not set");
    }
    let limits = gateway.limits;
    let progress = Arc::<Progress>::default();
    let refuse: Refuse = {
        let gateway = Arc::clone(&gateway);
        Arc::new(move |code| tunnel::unreadable(&gateway, peer, code))
    };
    let stream = Inlet::new(stream, Arc::clone(&progress), limits.clocks(), refuse);
    let service = {
        let shutdown = shutdown.clone();
        service_fn(move |request| {
            let (gateway, door, shutdown) =
                (Arc::clone(&gateway), Arc::clone(&door), shutdown.clone());
            let (answering, request) = progress.begin(request);
            async move {
                let answer = tunnel::front(&gateway, &door, peer, &shutdown, request).await;
                Ok::<_, Infallible>(answering.until_the_end_of(answer))
            }
        })
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes.max(8192))
        .max_header_size(limits.head_bytes)
        .max_headers(limits.headers)
        .preserve_header_case(true)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "the connection ended");
    }
}
