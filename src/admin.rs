//! Administration over a socket of its own: for people and automations that have not the home's files.
//!
//! Never the proxy's port, and never an agent's token: an administrator has a token of a kind of its own,
//! a role, and one workspace. What is changed is in the vault's journal, and so in the audit log, with the
//! name of whoever did it.

mod office;
pub(crate) mod orders;
mod problem;
mod routes;
mod timed;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use office::Asked;
pub(crate) use office::Office;
use problem::Problem;
use timed::Timed;

use crate::ops::seats::{Seat, Seats};
use crate::tls::ListenerTls;

/// People and automations that administer are few; more connections than this are somebody's mistake.
const CONNECTIONS: usize = 64;

/// The most bytes of a request: a policy file is the longest, and larger ones are written by machines that
/// have the files.
const LONGEST: usize = 1 << 20;

/// From the first byte of a request to its last, and of an answer.
const TIME: Duration = Duration::from_secs(30);

/// How long the answer to a token that is nobody's waits: a guess each second and connection.
const GUESS: Duration = Duration::from_secs(1);

/// Where administrators connect.
#[derive(Debug)]
pub(crate) enum Listening {
    /// In the file system.
    Unix(UnixListener),
    /// On a port, with TLS.
    Tcp(TcpListener, Arc<ListenerTls>),
}

impl Listening {
    /// The port, which the proxy never dials.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(listener, _) => listener.local_addr().ok(),
        }
    }
}

/// Serves the socket until `stop` resolves.
pub(crate) async fn serve(
    listening: Listening,
    office: Arc<Office>,
    stop: impl Future<Output = ()>,
) {
    let seats = Seats::new(CONNECTIONS);
    // They end with the socket: a vault that is locked is in nobody's hands.
    let mut talks = JoinSet::new();
    let accept = async {
        loop {
            let accepted = match &listening {
                Listening::Unix(listener) => listener.accept().await.map(|(it, _)| Near::Unix(it)),
                Listening::Tcp(listener, tls) => {
                    let tls = Arc::clone(tls);
                    listener.accept().await.map(|(it, _)| Near::Tcp(it, tls))
                }
            };
            let Ok(near) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let seat = Arc::new(seats.take().await);
            while talks.try_join_next().is_some() {}
            let office = Arc::clone(&office);
            talks.spawn(async move {
                let _lost = seat.during(near.talk(office, &seat)).await;
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
    talks.shutdown().await;
}

/// A connection that was accepted.
enum Near {
    Unix(UnixStream),
    Tcp(TcpStream, Arc<ListenerTls>),
}

impl Near {
    async fn talk(self, office: Arc<Office>, seat: &Arc<Seat>) {
        match self {
            Self::Unix(stream) => talk(stream, office, seat).await,
            Self::Tcp(stream, tls) => match tls.accept(stream, TIME).await {
                Ok(stream) => talk(stream, office, seat).await,
                Err(error) => tracing::debug!(%error, "no TLS with an administrator"),
            },
        }
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(stream: S, office: Arc<Office>, seat: &Arc<Seat>) {
    let room = Arc::new(Room { office, seat: Arc::clone(seat) });
    let service = service_fn(move |request| {
        let room = Arc::clone(&room);
        async move {
            let _turn = room.seat.turn();
            Ok::<_, Infallible>(answer(&room, request).await)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIME)
        .serve_connection(TokioIo::new(Timed::new(stream, TIME)), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of an administrator ended");
    }
}

/// A connection's place among those that there may be. What is done for it on another thread goes on when
/// it is gone, and has the place till it is done.
struct Room {
    office: Arc<Office>,
    seat: Arc<Seat>,
}

impl Room {
    /// The vault, the log and the policies are files: on a thread that may block.
    async fn apart<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&Office) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let room = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || act(&room.office)).await;
        done.unwrap_or_else(|_| {
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal-error", "it failed"))
        })
    }
}

async fn answer(room: &Arc<Room>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let done = done(room, request).await;
    if done.as_ref().is_err_and(|problem| problem.status == StatusCode::UNAUTHORIZED) {
        tokio::time::sleep(GUESS).await;
    }
    respond(done)
}

async fn done(room: &Arc<Room>, request: Request<Incoming>) -> Result<serde_json::Value, Problem> {
    let (parts, body) = request.into_parts();
    let token = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let path = parts.uri.path().to_owned();
    let place = path.clone();
    let admit = move |office: &Office| office.admit(token.as_deref(), &place, orders::now());
    // Before any of the body: nobody's is not read.
    let who = room.apart(admit).await?;
    let whole = tokio::time::timeout(TIME, Limited::new(body, LONGEST).collect()).await;
    let Ok(Ok(whole)) = whole else {
        let why = format!("the request is over {LONGEST} bytes, or did not come within {TIME:?}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "unreadable", why));
    };
    let asked = Asked {
        method: parts.method,
        path,
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: whole.to_bytes(),
        at: orders::now(),
    };
    room.apart(move |office| office.answer(who, &asked)).await
}

fn respond(done: Result<serde_json::Value, Problem>) -> Response<Full<Bytes>> {
    let (status, kind, body) = match done {
        Ok(value) => (StatusCode::OK, "application/json", value),
        Err(Problem { status, code, detail, hint }) => {
            let title = status.canonical_reason().unwrap_or_default();
            let mut body = json!({
                "type": "about:blank", "title": title, "status": status.as_u16(), "code": code,
                "detail": detail,
            });
            if let Some(hint) = hint {
                body["hint"] = hint.into();
            }
            (status, "application/problem+json", body)
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
