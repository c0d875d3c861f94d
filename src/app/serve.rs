//! A proxy from its home to its last request.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::cores::Cores;
use super::init::write_certificates;
use super::keeper::{Keeper, LOOK_EVERY};
use super::open::{Opened, drain_journal, write_anchor};
use super::{Failure, Home, Serving};
use crate::agent::Identity;
use crate::audit::AuditLog;
use crate::config::Config;
use crate::environment;
use crate::metrics::Metrics;
use crate::ops;
use crate::proxy::{Door, Gateway, Limits};
use crate::record::{AuditSink as _, Event};
use crate::tls::{Alpn, LeafCache};
use crate::vault::harden_process;

/// Hosts whose leafs are kept ready: about 1.5 KiB each.
const LEAVES: usize = 1024;

/// How a proxy is started.
#[derive(Clone, Debug, Default)]
pub struct ProxyOptions {
    /// Listens on a free loopback port instead of the configured one, and on no operations port:
    /// for the private proxy of one `run`.
    pub private: bool,
    /// Goes on over a damaged audit log, in a new chain that says so.
    pub accept_audit_damage: bool,
    /// Also opens a loopback port without authentication, for this identity alone.
    pub open_for: Option<Identity>,
}

/// A proxy that listens.
pub struct Proxy {
    /// Where it listens.
    pub serving: Serving,
    /// The port without authentication, when one was asked for.
    pub open_port: Option<SocketAddr>,
    /// The certificates that its clients need.
    pub bundle: environment::Bundle,
    home: Home,
    keeper: Arc<Keeper>,
    gateway: Arc<Gateway>,
    audit: Arc<AuditLog>,
    listeners: Vec<(TcpListener, Door)>,
    ops: Option<TcpListener>,
    private: bool,
}

impl Proxy {
    /// Opens the home and binds the ports. From here on clients may connect.
    ///
    /// # Errors
    /// Whatever keeps it from serving, with the next step.
    pub async fn start(home: &Home, options: ProxyOptions) -> Result<Self, Failure> {
        let opened = Opened::open(home)?;
        Self::start_opened(opened, options).await
    }

    /// The same, for a home that is open.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub async fn start_opened(opened: Opened, options: ProxyOptions) -> Result<Self, Failure> {
        for gap in harden_process() {
            tracing::warn!(%gap, "the process could not be hardened as it should be");
        }
        let home = opened.home.clone();
        let config = opened.config.clone();
        if config.proxy.tls.is_some() && !options.private {
            // Listening in the clear instead would show agents' tokens to the network.
            return Err(Failure::usage("proxy.tls: this version cannot serve TLS on its own port")
                .help(
                    "remove the setting; on a network that is private by other means write \
                     `allow_remote: true`",
                ));
        }
        // Before the log: where there are records, there is an anchor.
        write_anchor(&opened.vault, &config)?;
        let audit = Arc::new(opened.audit_with(options.accept_audit_damage)?);
        drain_journal(&opened.vault, &config, &audit)?;
        let bundle = write_certificates(&opened)?;
        let leaves =
            LeafCache::new(Arc::new(opened.authority()?), LEAVES, &[Alpn::Http2, Alpn::Http11])?;
        let metrics = Arc::new(
            Metrics::new().map_err(|e| Failure::new(format!("the metrics cannot be made: {e}")))?,
        );
        let (listeners, ops, open_port) = bind(&config, &options).await?;
        let serving = Serving {
            pid: std::process::id(),
            proxy: addresses(&listeners)?,
            ops: ops.as_ref().and_then(|l| l.local_addr().ok()),
        };
        let own: Vec<SocketAddr> =
            serving.proxy.iter().copied().chain(serving.ops).chain(open_port).collect();
        let keeper = Arc::new(Keeper::new(opened, Arc::clone(&audit), Arc::clone(&metrics), own)?);
        let upstream = keeper.first_far_side()?;
        let sink = Arc::<AuditLog>::clone(&audit);
        let state = keeper.first_state();
        let gateway = Gateway::new(state, leaves, upstream, sink, metrics, limits(&config));
        let gateway = Arc::new(gateway);
        keeper.watch_over(&gateway);
        if !options.private {
            home.announce(&serving)?;
        }
        let private = options.private;
        let proxy = Self {
            serving,
            open_port,
            bundle,
            home,
            keeper,
            gateway,
            audit,
            listeners,
            ops,
            private,
        };
        proxy.note("proxy-started")?;
        Ok(proxy)
    }

    fn note(&self, event: &'static str) -> Result<(), Failure> {
        let detail = self.serving.proxy.iter().map(ToString::to_string).collect::<Vec<_>>();
        let event = Event {
            event,
            subject: Some(format!("pid {}", self.serving.pid)),
            detail: Some(detail.join(", ")),
            by: None,
            vault_epoch: None,
        };
        self.audit.event(&event).map_err(|_| {
            let trouble = self.audit.trouble().unwrap_or_default();
            Failure::new(format!("the audit log cannot be written: {trouble}"))
        })
    }

    /// Serves until `stop` resolves, then lets requests in flight finish for at most `drain`.
    ///
    /// # Errors
    /// When the audit log could not be closed in order. It is then as after a `kill -9`: whole.
    pub async fn serve(
        mut self,
        stop: impl Future<Output = ()> + Send,
        drain: Duration,
    ) -> Result<(), Failure> {
        let listeners = std::mem::take(&mut self.listeners);
        let (begin, begun) = tokio::sync::watch::channel(false);
        let until = |mut signal: tokio::sync::watch::Receiver<bool>| async move {
            let _gone = signal.wait_for(|on| *on).await;
        };
        let looking = tokio::spawn(look(Arc::clone(&self.keeper), Arc::clone(&self.gateway)));
        let ops = self.ops.take().map(|listener| {
            let metrics = Arc::clone(self.gateway.metrics());
            let observe = Arc::<Keeper>::clone(&self.keeper);
            tokio::spawn(ops::serve(listener, metrics, observe, until(begun)))
        });
        tracing::info!(proxy = ?self.serving.proxy, ops = ?self.serving.ops, "serving");
        let cores = Cores::start(&self.gateway, listeners, drain)?;
        stop.await;
        cores.stop().await;
        let _nobody_listens = begin.send(true);
        looking.abort();
        if let Some(ops) = ops {
            let _ended = ops.await;
        }
        self.finish()
    }

    fn finish(self) -> Result<(), Failure> {
        self.note("proxy-stopped")?;
        let closed = self.audit.close()?;
        tracing::info!(records = closed.seq, "stopped");
        self.keeper.anchor(true);
        if !self.private {
            self.home.withdraw();
        }
        Ok(())
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("serving", &self.serving).finish_non_exhaustive()
    }
}

/// Keeps the proxy in step with its home, until it is stopped.
async fn look(keeper: Arc<Keeper>, gateway: Arc<Gateway>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok();
    loop {
        let asked = tokio::select! {
            _ = ticks.tick() => false,
            () = hung_up(&mut hangup) => true,
        };
        let keeper = Arc::clone(&keeper);
        let gateway = Arc::clone(&gateway);
        let looked = tokio::task::spawn_blocking(move || {
            keeper.look_at_config(asked);
            keeper.look(asked);
            keeper.anchor(false);
            gateway.upstream().sweep();
        });
        if looked.await.is_err() {
            tracing::error!("a look at the home failed; the next one is soon");
        }
    }
}

async fn hung_up(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

type Bound = (Vec<(TcpListener, Door)>, Option<TcpListener>, Option<SocketAddr>);

async fn bind(config: &Config, options: &ProxyOptions) -> Result<Bound, Failure> {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let wanted = if options.private { vec![loopback] } else { config.proxy.listen.clone() };
    let mut listeners = Vec::new();
    for address in wanted {
        listeners.push((listen(address, "proxy.listen").await?, Door::Credentials));
    }
    let mut open_port = None;
    if let Some(identity) = &options.open_for {
        let listener = listen(loopback, "the open port").await?;
        open_port = listener.local_addr().ok();
        listeners.push((listener, Door::Open(Arc::new(identity.clone()))));
    }
    let ops = match config.ops.listen.filter(|_| !options.private) {
        Some(address) => Some(listen(address, "ops.listen").await?),
        None => None,
    };
    Ok((listeners, ops, open_port))
}

async fn listen(address: SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let failure = Failure::new(format!("{key}: cannot listen on {address}: {error}"));
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure.help(format!(
                "another program has the port; stop it, or set {key} in locum.yaml to another"
            )),
            _ => failure.help(format!("set {key} in locum.yaml to an address of this machine")),
        }
    })
}

fn addresses(listeners: &[(TcpListener, Door)]) -> Result<Vec<SocketAddr>, Failure> {
    let proxies = listeners.iter().filter(|(_, door)| matches!(door, Door::Credentials));
    let addresses = proxies.map(|(listener, _)| listener.local_addr());
    addresses
        .collect::<Result<_, _>>()
        .map_err(|e| Failure::new(format!("a listener has no address: {e}")))
}

fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        connections: limits.connections,
        connections_per_agent: limits.connections_per_agent,
        head_bytes: limits.head_bytes,
        url_bytes: limits.url_bytes,
        headers: limits.headers,
        streams: limits.streams,
        head_time: limits.head_time,
        handshake: limits.handshake,
        idle_tunnel: limits.idle_tunnel,
        idle_reader: limits.idle_reader,
    }
}
