//! Inside an intercepted tunnel: HTTP/1.1 or HTTP/2, as the handshake agreed, until the agent closes,
//! is idle too long, or we stop.
//!
//! Each request is parsed, decided, recorded and scrubbed as if it were alone.

use std::error::Error;
use std::sync::Arc;

use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Gateway;
use super::distrust::Watch;
use super::exchange::{Route, exchange, unreadable};
use super::http1::Refuse;
use super::http2::Ended;
use super::incoming::Incoming;
use super::interim::Outlet;
use super::socket::Both;
use super::{http1, http2};
use crate::tls::{Alpn, Prefixed};
use crate::upstream::WithoutWords;

/// Serves the requests inside a tunnel.
pub(super) async fn serve_inside<S>(gateway: &Arc<Gateway>, route: Route, stream: S, protocol: Alpn)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let route = Arc::new(route);
    let watch = Arc::new(Watch::new(gateway, &route));
    let inside = Inside { gateway: Arc::clone(gateway), route, watch };
    let ended = match protocol {
        Alpn::Http11 => inside.serve_http1(stream).await,
        // In a box, so that a tunnel of HTTP/1.1, which mostly waits, has no room for it.
        Alpn::Http2 => Box::pin(inside.serve_http2(stream)).await,
    };
    let error = ended.as_ref().err().map(|error| &**error as &(dyn Error + 'static));
    inside.watch.ended(error, inside.route.shutdown.has_begun());
    if let Some(error) = error {
        let Route { caller, origin, .. } = &*inside.route;
        let error = WithoutWords(error);
        tracing::debug!(agent = %caller.identity.agent, %origin, %error, "the agent's connection ended");
    }
}

struct Inside {
    gateway: Arc<Gateway>,
    route: Arc<Route>,
    watch: Arc<Watch>,
}

impl Inside {
    async fn serve_http1<S>(&self, stream: S) -> Ended
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.gateway.limits;
        let bounds = limits.bounds(limits.idle_tunnel, false);
        let leave = |stream, unread| -> Box<dyn Both> { Box::new(Prefixed::new(unread, stream)) };
        let refuse: Refuse = {
            let (gateway, route) = (Arc::clone(&self.gateway), Arc::clone(&self.route));
            Arc::new(move |code| unreadable(&gateway, &route, code))
        };
        let stop = self.route.shutdown.reached(Instant::now());
        let answer = async |request: Request<Incoming>, outlet: Outlet| {
            self.watch.spoke();
            exchange(&self.gateway, &self.route, request, &outlet).await
        };
        http1::serve(stream, bounds, stop, (refuse, leave), answer).await
    }

    async fn serve_http2<S>(&self, stream: S) -> Ended
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        http2::serve(&self.gateway, &self.route, stream, || self.watch.spoke()).await
    }
}
