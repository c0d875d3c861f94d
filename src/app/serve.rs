//! A proxy from its home to its last request.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::approvals::Questions;
use super::checkup;
use super::cores::Cores;
use super::descriptors;
use super::doors::{Doors, Gate, Giver, Inherited, ListenerCertificates, SocketFile};
use super::far_side::far_side;
use super::habits::Habits;
use super::handover::{Desk, HandedOver, Taken};
use super::init::write_certificates;
use super::keeper::{Keeper, LOOK_EVERY};
use super::lock::copies;
use super::login::check_logins;
use super::open::{Opened, drain_journal, write_anchor};
use super::policies::load_policy;
use super::service::{self, Activation, Socket};
use super::supplier::Supplier;
use super::{Failure, Home, Serving};
use crate::admin::{self, Listening, Office};
use crate::agent::default_workspace;
use crate::audit::AuditLog;
use crate::config::{Config, ListenAt};
use crate::environment;
use crate::metrics::Metrics;
use crate::ops;
use crate::proxy::{Gateway, Leave, Limits};
use crate::record::{AuditSink as _, Event};
use crate::tls::{Alpn, LeafCache};
use crate::upstream::NoLogins;
use crate::vault::harden_process;

/// Hosts whose leafs are kept ready: about 1.5 KiB each.
const LEAVES: usize = 1024;

/// How a proxy is started.
#[derive(Debug, Default)]
pub struct ProxyOptions {
    /// Listens on a free loopback port instead of the configured one, and on no operations port:
    /// for the private proxy of runs.
    pub private: bool,
    /// Goes on over a damaged audit log, in a new chain that says so.
    pub accept_audit_damage: bool,
    /// Sockets that the service manager has passed.
    pub activation: Activation,
    /// Takes over from the proxy that runs on this home, if one does.
    pub take_over: bool,
}

/// A proxy that listens.
pub struct Proxy {
    /// Where it listens.
    pub serving: Serving,
    /// The certificates that its clients need.
    pub bundle: environment::Bundle,
    home: Home,
    keeper: Arc<Keeper>,
    gateway: Arc<Gateway>,
    supplier: Arc<Supplier>,
    questions: Arc<Questions>,
    habits: Option<Arc<Habits>>,
    audit: Arc<AuditLog>,
    gates: Vec<Gate>,
    ops: Option<std::net::TcpListener>,
    admin: Option<Listening>,
    /// Where the audit log is.
    log: std::path::PathBuf,
    files: Vec<SocketFile>,
    /// Whether the sockets stay open, with the service manager, when this process ends.
    leave: Leave,
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
        Self::start_with(opened, options, None).await
    }

    /// The same on sockets that this process has already.
    pub(super) async fn start_with(
        opened: Opened,
        options: ProxyOptions,
        own: Option<Inherited>,
    ) -> Result<Self, Failure> {
        for gap in harden_process() {
            tracing::warn!(%gap, "the process could not be hardened as it should be");
        }
        let mut opened = opened;
        // All workspaces are served, whichever the command was for.
        let home = opened.home.in_workspace(&default_workspace());
        opened.vault.use_workspace(&default_workspace())?;
        opened.home = home.clone();
        let config = opened.config.clone();
        let private = options.private;
        // Not for the proxy of one run: the program that it starts would have them too, and some that look at
        // all that there may be have trouble with a million.
        if !private {
            descriptors::raise();
            tell_of_descriptors(config.limits.connections);
        }
        let certificates = if private { None } else { Some(ListenerCertificates::read(&config)?) };
        let passed = !options.activation.0.is_empty();
        let inherited = match own {
            _ if private => Inherited::default(),
            Some(own) => own,
            None => inherit(&opened, options.activation, options.take_over).await?,
        };
        // The service manager's stay open when this process ends.
        let leave = if passed { Leave::Open } else { Leave::Closed };
        // Before the log: where there are records, there is an anchor.
        write_anchor(&opened.vault, &config)?;
        let audit = opened.audit_when_free(options.accept_audit_damage, private).await?;
        let audit = Arc::new(audit);
        drain_journal(&opened.vault, &config, &audit, u64::MAX)?;
        let bundle = write_certificates(&opened)?;
        let authority = Arc::new(opened.authority()?);
        let ca = Some(authority.info().fingerprint());
        let leaves = LeafCache::new(authority, LEAVES, &[Alpn::Http2, Alpn::Http11])?;
        let metrics = Arc::new(
            Metrics::new().map_err(|e| Failure::new(format!("the metrics cannot be made: {e}")))?,
        );
        let doors = match certificates {
            None => Doors::open_private()?,
            Some(certificates) => Doors::open(&config, certificates, inherited)?,
        };
        let Doors { gates, ops, admin, certificates, files } = doors;
        let administrators = admin.as_ref().and_then(Listening::address);
        let serving = Serving {
            admin: administrators,
            ca,
            ..serving(&config, &gates, ops.as_ref(), private)
        };
        let own = gates.iter().filter_map(Gate::address).chain(serving.ops).chain(serving.admin);
        let own: Vec<SocketAddr> = own.collect();
        let habits = Habits::open(&opened, &audit)?.map(Arc::new);
        let keeper = Keeper::new(opened, Arc::clone(&audit), Arc::clone(&metrics), own)?;
        keeper.keep_certificates(certificates);
        let keeper = Arc::new(keeper);
        let upstream = keeper.first_far_side()?;
        let sink = Arc::<AuditLog>::clone(&audit);
        let workspaces = keeper.first_workspaces();
        let gateway = Gateway::new(workspaces, leaves, upstream, sink, metrics, limits(&config));
        let gateway = Arc::new(gateway);
        keeper.watch_over(&gateway);
        let sink = Arc::<AuditLog>::clone(&audit);
        let webhook = config.approvals.webhook.clone();
        let questions = Questions::open(&home, sink, Arc::clone(gateway.metrics()), webhook)?;
        let questions = Arc::new(questions);
        questions.serves(&gateway);
        gateway.ask_with(Arc::<Questions>::clone(&questions));
        if let Some(habits) = &habits {
            habits.serve(&gateway);
        }
        let supplier = Supplier::new(&gateway, &keeper)?;
        gateway.supply_with(Arc::<Supplier>::clone(&supplier));
        if private {
            // The log is this process's: what is announced is of one that was killed.
            home.withdraw();
        } else {
            home.announce(&serving)?;
        }
        let proxy = Self {
            serving,
            bundle,
            home,
            keeper,
            gateway,
            supplier,
            questions,
            habits,
            audit,
            gates,
            ops,
            admin,
            log: config.audit.dir.clone(),
            files,
            leave,
            private,
        };
        proxy.note("proxy-started")?;
        Ok(proxy)
    }

    fn note(&self, event: &'static str) -> Result<(), Failure> {
        self.note_by(event, None)
    }

    fn note_by(&self, event: &'static str, by: Option<String>) -> Result<(), Failure> {
        let detail: Vec<String> = self.serving.places().collect();
        let event = Event {
            event,
            workspace: None,
            subject: Some(format!("pid {}", self.serving.pid)),
            detail: Some(detail.join(", ")),
            by,
            vault_epoch: None,
        };
        self.audit.event(&event).map_err(|_| {
            let trouble = self.audit.trouble().unwrap_or_default();
            Failure::new(format!("the audit log cannot be written: {trouble}"))
        })
    }

    /// Serves until `stop` resolves, or until another process has taken over; then lets requests in
    /// flight finish for at most `drain`.
    ///
    /// # Errors
    /// When the audit log could not be closed in order. It is then as after a `kill -9`: whole.
    pub async fn serve(
        self,
        stop: impl Future<Output = ()> + Send,
        drain: Duration,
    ) -> Result<(), Failure> {
        let stop = async {
            stop.await;
            Stop::End
        };
        self.serve_until(stop, drain).await
    }

    /// The same, until it is said why it is to stop.
    pub(super) async fn serve_until(
        mut self,
        stop: impl Future<Output = Stop> + Send,
        drain: Duration,
    ) -> Result<(), Failure> {
        let gates = std::mem::take(&mut self.gates);
        let (begin, begun) = tokio::sync::watch::channel(false);
        let until = |mut signal: tokio::sync::watch::Receiver<bool>| async move {
            let _gone = signal.wait_for(|on| *on).await;
        };
        let checking =
            tokio::spawn(checkup::watch(Arc::clone(&self.keeper), Arc::clone(&self.gateway)));
        let looking = tokio::spawn(look(
            Arc::clone(&self.keeper),
            Arc::clone(&self.gateway),
            Arc::clone(&self.questions),
            self.habits.clone(),
        ));
        let asked_to_end = begun.clone();
        let ops = self.ops.take().map(TcpListener::from_std).transpose();
        let ops = ops.map_err(|e| Failure::new(format!("ops.listen cannot be served: {e}")))?;
        let ops = ops.map(|listener| {
            let metrics = Arc::clone(self.gateway.metrics());
            let observe = Arc::<Keeper>::clone(&self.keeper);
            tokio::spawn(ops::serve(listener, metrics, observe, until(begun)))
        });
        let admin = self.admin.take().map(|listening| {
            let (keeper, audit) = (Arc::clone(&self.keeper), Arc::clone(&self.audit));
            let office = Office::new(keeper, audit, self.home.clone(), self.log.clone());
            tokio::spawn(admin::serve(listening, Arc::new(office), until(asked_to_end)))
        });
        let desk = self.desk(&gates);
        let places: Vec<String> = self.serving.places().collect();
        tracing::info!(proxy = ?places, ops = self.serving.ops.map(display), "serving");
        let cores = Cores::start(&self.gateway, &gates)?;
        service::ready();
        let (leave, end) = tokio::select! {
            stop = stop => match stop {
                Stop::End => (self.leave, End::Stopped),
                Stop::Lock { by } => (Leave::Open, End::Locked { by }),
            },
            by = handed_over(desk) => (Leave::Open, End::Taken(by)),
        };
        if matches!(end, End::Taken(_)) {
            tracing::info!("another process takes over");
        }
        let locked = matches!(end, End::Locked { .. });
        if locked {
            // An administrator does not go on with an open vault while agents are sent away.
            let _nobody_listens = begin.send(true);
        } else {
            service::stopping();
        }
        // The threads have the sockets too, until each has taken its last connection.
        drop(gates);
        cores.stop(leave, if locked { Duration::ZERO } else { drain }).await;
        let _nobody_listens = begin.send(true);
        // With what they have begun; nobody else begins anything now.
        for watching in [checking, looking] {
            watching.abort();
            let _aborted = watching.await;
        }
        self.supplier.settle().await;
        if let Some(ops) = ops {
            let _ended = ops.await;
        }
        if let Some(admin) = admin {
            let _ended = admin.await;
        }
        self.finish(end)
    }

    /// The sockets once more, for when this is locked.
    pub(super) fn copies_of_sockets(&self) -> Result<Vec<Socket>, Failure> {
        copies(self.gates.iter().map(|gate| &*gate.socket), self.ops.as_ref())
    }

    /// What of this has secrets, or keys to them.
    pub(super) fn held(&self) -> Held {
        Held {
            keeper: Arc::downgrade(&self.keeper),
            gateway: Arc::downgrade(&self.gateway),
            supplier: Arc::downgrade(&self.supplier),
            audit: Arc::downgrade(&self.audit),
        }
    }

    /// Where a successor asks for the sockets. Without one the proxy serves as well.
    fn desk(&self, gates: &[Gate]) -> Option<Desk> {
        if self.private {
            return None;
        }
        let sockets = gates.iter().map(|gate| Arc::downgrade(&gate.socket));
        Desk::open(&self.home, sockets.collect())
            .inspect_err(|error| {
                tracing::warn!(%error, "no other process will be able to take over from this one");
            })
            .ok()
    }

    fn finish(self, end: End) -> Result<(), Failure> {
        if let End::Locked { by } = end {
            self.note_by("vault-locked", Some(format!("user {by}")))?;
        }
        self.note("proxy-stopped")?;
        // While the log's lock is held: after it, the files may be those of the next process.
        if !self.private {
            self.home.withdraw();
        }
        if matches!(end, End::Stopped) {
            self.files.iter().for_each(SocketFile::remove);
        }
        if let Some(habits) = &self.habits {
            habits.save();
        }
        let closed = self.audit.close()?;
        tracing::info!(records = closed.seq, "stopped");
        self.keeper.end();
        // A successor has waited for this.
        drop(end);
        Ok(())
    }
}

/// Why a proxy is to stop.
pub(super) enum Stop {
    /// It is over.
    End,
    /// Somebody wants nothing in its memory that opens the vault.
    Lock {
        /// The user.
        by: u32,
    },
}

/// What it came to.
enum End {
    Stopped,
    Locked { by: u32 },
    Taken(#[allow(dead_code)] HandedOver),
}

/// What has secrets, or keys to them, as long as it is there.
pub(super) struct Held {
    keeper: Weak<Keeper>,
    gateway: Weak<Gateway>,
    supplier: Weak<Supplier>,
    audit: Weak<AuditLog>,
}

impl Held {
    /// Whether it is gone, or goes within so long: a call that blocks may be at its end.
    pub(super) async fn is_gone_within(&self, time: Duration) -> bool {
        let count = || {
            self.keeper.strong_count()
                + self.gateway.strong_count()
                + self.supplier.strong_count()
                + self.audit.strong_count()
        };
        let gone = async {
            while count() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(time, gone).await.is_ok()
    }
}

async fn handed_over(desk: Option<Desk>) -> HandedOver {
    match desk {
        Some(desk) => desk.wait().await,
        None => std::future::pending().await,
    }
}

/// The sockets that are there already. When they come from a predecessor, it has ended on return.
async fn inherit(
    opened: &Opened,
    activation: Activation,
    take_over: bool,
) -> Result<Inherited, Failure> {
    let passed = Inherited::new(activation.0, Giver::Service);
    if !take_over || passed.giver() == Giver::Service {
        return Ok(passed);
    }
    // What would keep this process from starting is found while the other still serves.
    load_policy(&opened.home.in_workspace(&default_workspace()))?;
    far_side(&opened.config, &[], Arc::new(NoLogins))?;
    let snapshots = opened.vault.snapshots()?;
    if let Some(default) = snapshots.first() {
        check_logins(&opened.config, &default.credentials)?;
    }
    opened.authority()?;
    let Some(taken) = Taken::ask(&opened.home)? else { return Ok(passed) };
    tracing::info!("taking over; the other process finishes its requests");
    taken.predecessor_ended().await.map_err(|error| {
        Failure::new(format!("the end of the other process cannot be waited for: {error}"))
    })?;
    Ok(Inherited::new(taken.sockets, Giver::Predecessor))
}

/// What the home says of this process, before it is open.
pub(super) fn announced_as(
    config: &Config,
    gates: &[Gate],
    ops: Option<&std::net::TcpListener>,
) -> Serving {
    serving(config, gates, ops, false)
}

/// What the home says of this process.
fn serving(
    config: &Config,
    gates: &[Gate],
    ops: Option<&std::net::TcpListener>,
    private: bool,
) -> Serving {
    let ports = |tls: bool| {
        let of_kind = gates.iter().filter(|g| g.tls.is_some() == tls);
        of_kind.filter_map(Gate::address).collect()
    };
    let paths = config.proxy.listen.iter().filter_map(|listen| match &listen.at {
        ListenAt::Unix { path, .. } if !private => Some(path.clone()),
        _ => None,
    });
    Serving {
        pid: std::process::id(),
        proxy: ports(false),
        tls: ports(true),
        unix: paths.collect(),
        ops: ops.and_then(|listener| listener.local_addr().ok()),
        admin: None,
        ca: None,
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("serving", &self.serving).finish_non_exhaustive()
    }
}

/// Keeps the proxy in step with its home, until it is stopped.
async fn look(
    keeper: Arc<Keeper>,
    gateway: Arc<Gateway>,
    questions: Arc<Questions>,
    habits: Option<Arc<Habits>>,
) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // They end with this: each holds the keys.
    let mut fetches = JoinSet::new();
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok();
    loop {
        let asked = tokio::select! {
            _ = ticks.tick() => false,
            () = hung_up(&mut hangup) => true,
        };
        let due = Arc::clone(&keeper);
        let keeper = Arc::clone(&keeper);
        let gateway = Arc::clone(&gateway);
        let questions = Arc::clone(&questions);
        let habits = habits.clone();
        if asked {
            service::reloading();
        }
        let looked = tokio::task::spawn_blocking(move || {
            keeper.look_at_config(asked);
            keeper.look_at_certificates(asked);
            keeper.look(asked);
            keeper.remind();
            keeper.anchor(false);
            gateway.upstream().sweep();
            questions.sweep(&gateway);
            if let Some(habits) = habits {
                habits.tend();
            }
        });
        if looked.await.is_err() {
            tracing::error!("a look at the home failed; the next one is soon");
        }
        due.fetch_due_keys(&mut fetches);
        if asked {
            service::ready();
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

fn tell_of_descriptors(connections: usize) {
    if let Some((most, needed)) = descriptors::lacking(connections) {
        let fit = descriptors::fitting(connections);
        tracing::warn!(
            most,
            needed,
            "limits.connections is {connections}, and the limit of open files leaves room for {fit}; raise it (LimitNOFILE, ulimit -n)"
        );
    }
}

pub(super) fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        connections: descriptors::fitting(limits.connections),
        connections_per_agent: limits.connections_per_agent,
        head_bytes: limits.head_bytes,
        url_bytes: limits.url_bytes,
        body_slot: limits.body_slot,
        bodies: limits.bodies,
        bodies_per_agent: limits.bodies_per_agent,
        headers: limits.headers,
        streams: limits.streams,
        head_time: limits.head_time,
        handshake: limits.handshake,
        failure_delay: limits.failure_delay,
        idle_tunnel: limits.idle_tunnel,
        idle_reader: limits.idle_reader,
        ping_after: limits.ping_after,
    }
}
