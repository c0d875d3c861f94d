//! Doors behind which nothing is open yet: every request is answered with one refusal, because without
//! the vault nobody can be told from anybody, and nothing can be recorded or intercepted.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::http1::{self, Bounds, Clocks, Refuse};
use super::listener::{Accepted, Entrance};
use super::refusal::respond;
use super::request_id;
use crate::outcome::Refusal;

/// Connections that are answered at once. More wait in the kernel's queue.
const CONNECTIONS: usize = 512;

/// How long a connection is kept: for some requests of a client that tries again, and not for good.
const KEPT: Duration = Duration::from_secs(30);

/// The bytes of a head, and its fields. The config's own bounds are larger by default.
const HEAD: usize = 16 * 1024;
const FIELDS: usize = 100;

/// How long after a failure to accept the next one is tried.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers everybody with `refusal` until `stop` resolves, and then lets go of them all.
pub async fn serve_closed(
    entrances: Vec<Entrance>,
    refusal: Refusal,
    (head_time, handshake): (Duration, Duration),
    stop: impl Future<Output = ()>,
) {
    let (refusal, free) = (Arc::new(refusal), Arc::new(Semaphore::new(CONNECTIONS)));
    let mut all = JoinSet::new();
    for entrance in entrances {
        let (refusal, free) = (Arc::clone(&refusal), Arc::clone(&free));
        all.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
                let Ok((accepted, _)) = entrance.listener.accept().await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                while connections.try_join_next().is_some() {}
                let (refusal, tls) = (Arc::clone(&refusal), entrance.tls.clone());
                connections.spawn(async move {
                    let _place = place;
                    let served = async {
                        match (accepted, tls) {
                            (Accepted::Tcp(stream), Some(tls)) => {
                                let Ok(stream) = tls.accept(stream, handshake).await else {
                                    return;
                                };
                                answer(stream, &refusal, head_time).await;
                            }
                            (Accepted::Tcp(stream), None) => {
                                answer(stream, &refusal, head_time).await;
                            }
                            (Accepted::Unix(stream), _) => {
                                answer(stream, &refusal, head_time).await;
                            }
                        }
                    };
                    let _too_long = tokio::time::timeout(KEPT, served).await;
                });
            }
        });
    }
    stop.await;
    // Dropping them ends them all.
    drop(all);
}

async fn answer<S>(stream: S, refusal: &Refusal, head: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let clocks = Clocks { head, unread: KEPT };
    let bounds = Bounds { head_bytes: HEAD, headers: FIELDS, clocks, idle: head, half_close: true };
    let refuse: Refuse = Arc::new(|code| respond(&Refusal::new(code), request_id()));
    let answer = async |_request, _outlet| respond(refusal, request_id());
    // Nothing but HTTP is spoken here: no request is granted.
    let leave = |_stream, _unread| ();
    let served = http1::serve(stream, bounds, pending(), (refuse, leave), answer);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to a locked proxy ended");
    }
}
