//! The operations port: `/metrics`, `/healthz` and `/readyz`, on a listener of its own.

pub(crate) mod seats;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use seats::Seats;

use crate::host::{Authority, Host};
use crate::metrics::{Metrics, Readings};

/// What the port shows of the process.
pub trait Observe: Send + Sync {
    /// The values behind the gauges.
    fn readings(&self) -> Readings;
    /// Whether requests can be served, and if not, why.
    fn readiness(&self) -> Readiness;
}

/// One look at what serving needs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Readiness {
    /// Whether all of it is there.
    pub ready: bool,
    /// What is missing, in words, with the next step.
    pub problems: Vec<String>,
}

/// Scrapers and probes are few; more connections than this are somebody's mistake.
const CONNECTIONS: usize = 64;

/// Serves the port until `stop` resolves. On return nobody has `observe` any more: a scraper that keeps
/// its connection would keep alive what is observed, keys and all, and hear of it after its end.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    observe: Arc<dyn Observe>,
    stop: impl Future<Output = ()>,
) {
    let seats = Seats::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let seat = Arc::new(seats.take().await);
            while connections.try_join_next().is_some() {}
            let (metrics, observe) = (Arc::clone(&metrics), Arc::clone(&observe));
            let loopback =
                stream.local_addr().is_ok_and(|own| own.ip().to_canonical().is_loopback());
            connections.spawn(async move {
                let service = {
                    let seat = Arc::clone(&seat);
                    service_fn(move |request| {
                        let turn = seat.turn();
                        let answer = if loopback && is_misled(&request) {
                            text(
                                StatusCode::MISDIRECTED_REQUEST,
                                "ask for localhost, or an address\n",
                            )
                        } else {
                            answer(&request, &metrics, &*observe)
                        };
                        drop(turn);
                        async move { Ok::<_, Infallible>(answer) }
                    })
                };
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(std::time::Duration::from_mins(1))
                    .serve_connection(TokioIo::new(stream), service);
                if let Some(Err(error)) = seat.during(connection).await {
                    tracing::debug!(%error, "a connection of the operations port ended");
                }
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
    connections.shutdown().await;
}

/// Whether the request names a host that loopback is not: a page of that name, led here by DNS in a browser of this
/// machine (DNS rebinding), could read the answer. No page is of somebody else's at `localhost` or at an address.
fn is_misled(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    hosts.any(|host| {
        let host = host.to_str().ok().and_then(|text| Authority::parse(text, Some(80)).ok());
        host.is_none_or(|own| matches!(own.host, Host::Name(name) if &*name != "localhost"))
    })
}

fn answer(
    request: &Request<Incoming>,
    metrics: &Metrics,
    observe: &dyn Observe,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/metrics" => match metrics.text(&observe.readings()) {
            Ok(body) => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded\n"),
        },
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readiness(&observe.readiness()),
        _ => text(StatusCode::NOT_FOUND, "here are /metrics, /healthz and /readyz\n"),
    }
}

fn readiness(readiness: &Readiness) -> Response<Full<Bytes>> {
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Strings and a flag always serialise.
    respond(status, "application/json", serde_json::to_vec(readiness).unwrap_or_default())
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
