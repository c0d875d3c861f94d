//! One runtime for each core: a connection stays on the thread that accepted it, with its calls to
//! origins, so that nothing of it waits for, wakes or is stolen by another thread.
//!
//! What this costs: a connection is never faster than one core, and a core with more busy connections
//! than another gets no help. Which thread takes a new connection is decided by who is free to accept.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Barrier, watch};

use super::Failure;
use super::doors::Gate;
use super::service::Socket;
use crate::proxy::{self, Entrance, Gateway, Leave, Listener};

/// So many tasks go on before the thread looks at the network again: fewer than a runtime takes by itself,
/// because a turn of a large answer is long, and an agent with a short one waits for all of them.
const TURNS: u32 = 16;

/// The threads that serve.
pub(super) struct Cores {
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<Option<(Leave, Duration)>>,
}

impl Cores {
    /// Starts as many threads as there are cores. Each has all listeners, and accepts for itself.
    pub(super) fn start(gateway: &Arc<Gateway>, gates: &[Gate]) -> Result<Self, Failure> {
        let (stop, stopped) = watch::channel(None);
        let count = std::thread::available_parallelism().map_or(1, NonZero::get);
        let failed = |error| Failure::new(format!("a thread cannot be started: {error}"));
        let ended = Arc::new(Barrier::new(count));
        let mut cores = Self { threads: Vec::with_capacity(count), stop };
        for number in 0..count {
            let mut runtime = Builder::new_current_thread();
            let runtime = runtime.enable_all().event_interval(TURNS).build().map_err(failed)?;
            let own = gates.iter().map(|gate| attach(&runtime, gate));
            let own = own.collect::<io::Result<Vec<_>>>().map_err(failed)?;
            let (gateway, stopped) = (Arc::clone(gateway), stopped.clone());
            let ended = Arc::clone(&ended);
            let serve = async move {
                let (told, drain) = (stopped.clone(), begun(stopped));
                proxy::serve(gateway, own, drain).await;
                let (_, drain) = begun(told).await;
                // A call may be on a connection that another core opened, and still waits for.
                let _late = tokio::time::timeout(drain, ended.wait()).await;
            };
            let thread = std::thread::Builder::new()
                .name(format!("locum-{number}"))
                .spawn(move || runtime.block_on(serve))
                .map_err(failed)?;
            cores.threads.push(thread);
        }
        Ok(cores)
    }

    /// Takes no more connections, and returns when the last one has ended, or after `drain`.
    pub(super) async fn stop(self, leave: Leave, drain: Duration) {
        let _nobody_listens = self.stop.send(Some((leave, drain)));
        let threads = self.threads;
        let ended = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count() == 0
        });
        if !ended.await.unwrap_or(false) {
            tracing::error!("a thread that served did not end in order");
        }
    }
}

/// Returns when it is time to stop, or when nobody is left to say so.
async fn begun(mut stop: watch::Receiver<Option<(Leave, Duration)>>) -> (Leave, Duration) {
    let told = stop.wait_for(Option::is_some).await.ok().and_then(|told| *told);
    told.unwrap_or((Leave::Closed, Duration::ZERO))
}

/// The same door once more, for one thread's runtime.
fn attach(runtime: &Runtime, gate: &Gate) -> io::Result<Entrance> {
    let _inside = runtime.enter();
    let listener = match &*gate.socket {
        Socket::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener.try_clone()?)?),
        Socket::Unix(listener) => Listener::Unix(UnixListener::from_std(listener.try_clone()?)?),
    };
    Ok(Entrance { listener, tls: gate.tls.clone() })
}
