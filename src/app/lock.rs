//! A proxy that is locked: it listens, and answers 503, until somebody hands the key over; and one that
//! is locked again.
//!
//! The key comes over a Unix socket in the home, from the home's own user or root alone, and is wiped
//! when it has opened the vault. What a wrong one costs grows with each.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::doors::{Doors, Gate, Giver, Inherited, ListenerCertificates, SocketFile, bind_own};
use super::master::{opening_key, unlock};
use super::open::{Opened, check_anchor, operator};
use super::serve::{Stop, announced_as, limits};
use super::service::{self, Activation, Socket};
use super::{Failure, Home, Proxy, ProxyOptions};
use crate::config::{self, Config, Passphrase};
use crate::files::SocketPath;
use crate::metrics::{Metrics, Readings};
use crate::ops::{self, Observe, Readiness};
use crate::outcome::{Code, Refusal};
use crate::proxy::{Entrance, Listener, serve_closed};
use crate::secret::Secret;
use crate::vault::{KeySource, MasterKey, Vault};

/// The most bytes that are handed over: a key file, or a passphrase.
const MOST: usize = 4096;

/// For each step of a conversation: both sides are on this machine.
const STEP: Duration = Duration::from_secs(5);

/// How long an answer is waited for: what it takes to ask another vault, or to make a key of a
/// passphrase on a busy machine, after the wait for a wrong one.
const PATIENCE: Duration = Duration::from_mins(1);

/// After a wrong key: the first wait, and the longest. Each further one doubles it.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long it may take until all that holds a secret is gone after a `lock`.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// What somebody wants.
enum Wish {
    /// To open the vault, with this, or with the key from where the config says.
    Unlock(Secret),
    /// To have nothing that opens it any more.
    Lock,
}

/// A wish, and where the answer to it goes.
struct Asked {
    wish: Wish,
    by: u32,
    answer: Answer,
}

/// Where an answer goes.
struct Answer {
    to: oneshot::Sender<Result<String, String>>,
    /// Resolves when it has gone there, or never will.
    told: oneshot::Receiver<()>,
}

impl Answer {
    fn send(self, text: Result<String, String>) {
        let _nobody_waits = self.to.send(text);
    }

    /// The same, before a process ends.
    async fn send_last(self, text: String) {
        let _nobody_waits = self.to.send(Err(text));
        let _late = tokio::time::timeout(STEP, self.told).await;
    }
}

/// Where wishes come in.
struct Counter {
    asked: mpsc::Receiver<Asked>,
    task: JoinHandle<()>,
    file: Option<SocketFile>,
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.task.abort();
        self.file.iter().for_each(SocketFile::remove);
    }
}

impl Counter {
    fn open(home: &Home) -> Result<Self, Failure> {
        let path = home.control();
        // Whatever has the name is of a dead process: a live one has the audit log, or the ports.
        let listener = bind_own(&path)?;
        let failed = |e: io::Error| Failure::new(format!("{}: {e}", path.display()));
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        // One at a time, so that nobody tries many keys at once.
        let (send, asked) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = converse(&listener, &send).await {
                    tracing::warn!(%error, "somebody at the home's control socket was not heard");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
        Ok(Self { asked, task, file: SocketFile::of(&path) })
    }

    async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            // The task goes on for as long as this does.
            None => std::future::pending().await,
        }
    }
}

async fn converse(listener: &UnixListener, to: &mpsc::Sender<Asked>) -> io::Result<()> {
    let (mut stream, _) = listener.accept().await?;
    let (by, own) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if by != own && by != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("by user {by}")));
    }
    let wish = tokio::time::timeout(STEP, read_wish(&mut stream)).await??;
    let (give, answered) = oneshot::channel();
    // Dropped at the end, whatever that is.
    let (_told, told) = oneshot::channel();
    let answer = Answer { to: give, told };
    let gone = || io::Error::other("the proxy ends");
    to.send(Asked { wish, by, answer }).await.map_err(|_| gone())?;
    let text = match answered.await.map_err(|_| gone())? {
        Ok(text) => format!("ok {text}\n"),
        Err(text) => format!("no {text}\n"),
    };
    tokio::time::timeout(STEP, stream.write_all(text.as_bytes())).await?
}

/// `lock`, or `unlock` with the length of what follows, on the first line.
async fn read_wish(stream: &mut tokio::net::UnixStream) -> io::Result<Wish> {
    let unknown = || io::Error::other("in a form that this version does not know");
    let mut line = Vec::with_capacity(16);
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if line.len() < 16 => line.push(byte),
            _ => return Err(unknown()),
        }
    }
    let line = String::from_utf8(line).map_err(|_| unknown())?;
    if line == "lock 1" {
        return Ok(Wish::Lock);
    }
    let length: usize =
        line.strip_prefix("unlock 1 ").and_then(|n| n.parse().ok()).ok_or_else(unknown)?;
    if length > MOST {
        return Err(unknown());
    }
    let mut given = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut given).await?;
    Ok(Wish::Unlock(Secret::new(std::mem::take(&mut *given))))
}

/// Asks the proxy of this home to open its vault, or to close it. `given` is a passphrase, or a key; an
/// empty one has it take the key from where its config says.
///
/// # Errors
/// When none runs, or it does not do it; with its reason.
pub fn ask_to_unlock(home: &Home, given: &Secret) -> Result<String, Failure> {
    let head = given.expose(|bytes| format!("unlock 1 {}\n", bytes.len()));
    given.expose(|bytes| ask(home, head.as_bytes(), bytes))
}

/// The same for closing it.
///
/// # Errors
/// As [`ask_to_unlock`].
pub fn ask_to_lock(home: &Home) -> Result<String, Failure> {
    ask(home, b"lock 1\n", b"")
}

fn ask(home: &Home, head: &[u8], given: &[u8]) -> Result<String, Failure> {
    let path = home.control();
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure::new("no proxy runs on this home").help("start one: locum serve --locked")
        }
        _ => Failure::new(format!("{}: the proxy does not answer: {error}", path.display())),
    };
    let converse = || {
        let mut stream = UnixStream::connect(SocketPath::of(&path).as_path())?;
        stream.set_write_timeout(Some(STEP))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(head)?;
        stream.write_all(given)?;
        let mut text = String::new();
        stream.take(64 * 1024).read_to_string(&mut text)?;
        Ok(text)
    };
    let text: String = converse().map_err(failed)?;
    match text.trim_end().split_once(' ') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some(("no", text)) => Err(Failure::new(text)),
        _ => Err(Failure::new("the proxy broke off").help("look at its log")),
    }
}

/// Whether a person would have to be asked for the vault's passphrase, and there is none to ask.
///
/// # Errors
/// When the home cannot be read.
pub fn nobody_to_ask(home: &Home) -> Result<bool, Failure> {
    use std::io::IsTerminal as _;
    home.require()?;
    let config = Config::load(&home.config(), home.path())?;
    let asks = match &config.vault.key {
        config::KeySource::Passphrase(from) => matches!(from, Passphrase::Prompt),
        _ => matches!(super::master::key_source(&config.vault.store)?, KeySource::Passphrase(_)),
    };
    Ok(asks && !io::stdin().is_terminal())
}

/// Opens the home with what was handed over.
fn open_with(home: &Home, given: &Secret) -> Result<Opened, Failure> {
    home.require()?;
    let config = Config::load(&home.config(), home.path())?;
    let path = config.vault.store.clone();
    let open = |master: &MasterKey| Vault::open(&path, master);
    let (vault, master) = match (given.expose(<[u8]>::is_empty), Vault::key_source(&path)?) {
        (true, KeySource::Passphrase(_))
            if matches!(config.vault.key, config::KeySource::Passphrase(Passphrase::Prompt)) =>
        {
            return Err(Failure::new("the vault wants a passphrase"));
        }
        (true, _) => unlock(home, &config, &path, None, open)?,
        (false, source) => {
            let master = match source {
                KeySource::Passphrase(params) => opening_key(given, params)?,
                KeySource::File => {
                    given.expose(|text| MasterKey::from_text(text, Path::new("whoever unlocks")))?
                }
            };
            (open(&master)?, master)
        }
    };
    let vault = vault.acting_as(&operator());
    check_anchor(&vault, &config)?;
    Ok(Opened { home: home.clone(), config, vault, master })
}

/// Serves a home until `stop` resolves, locked or open, as people ask for it at its control socket.
/// `opened` is the home, if it is open at the start; `said` is told where it listens.
///
/// # Errors
/// Those of [`Proxy::start`] and [`Proxy::serve`].
pub async fn serve_lockable(
    home: &Home,
    mut opened: Option<Opened>,
    mut options: ProxyOptions,
    stop: impl Future<Output = ()> + Send,
    mut said: impl FnMut(&super::Serving),
) -> Result<(), Failure> {
    let mut counter = None;
    let mut stop = std::pin::pin!(stop);
    let mut sockets: Option<Vec<Socket>> = None;
    let mut locking: Option<Answer> = None;
    let mut first = true;
    loop {
        let now = if let Some(opened) = opened.take() {
            opened
        } else {
            let was_open = sockets.is_some();
            // Started anew by a service manager, it would be open, though somebody has locked it.
            let after = |failure: Failure| if was_open { failure.after_lock() } else { failure };
            let closed = Closed::open(home, sockets.take(), &mut options).map_err(after);
            match (&closed, locking.take()) {
                (Ok(_), Some(answer)) => {
                    answer.send(Ok("locked; no secret is in the proxy's memory".to_owned()));
                }
                (Err(failure), Some(answer)) => answer.send_last(ended_locked(failure)).await,
                (_, None) => {}
            }
            let closed = closed?;
            if std::mem::take(&mut first) {
                said(&closed.serving);
            }
            let counter = counter_of(home, &mut counter).map_err(after)?;
            let Some((opened, kept)) = closed.wait(counter, &mut stop).await.map_err(after)? else {
                return Ok(());
            };
            sockets = Some(kept);
            opened
        };
        let drain = now.config.limits.drain;
        let inherited = sockets.take().map(|sockets| Inherited::new(sockets, Giver::Ourselves));
        let one = ProxyOptions {
            accept_audit_damage: options.accept_audit_damage,
            activation: std::mem::take(&mut options.activation),
            take_over: std::mem::take(&mut options.take_over),
            ..ProxyOptions::default()
        };
        let proxy = Proxy::start_with(now, one, inherited).await?;
        if std::mem::take(&mut first) {
            said(&proxy.serving);
        }
        // An open proxy serves as well without one.
        if let Err(error) = counter_of(home, &mut counter) {
            tracing::warn!(%error, "this proxy cannot be locked");
        }
        match run(proxy, counter.as_mut(), &mut stop, drain).await? {
            None => return Ok(()),
            Some((kept, answer)) => (sockets, locking) = (Some(kept), Some(answer)),
        }
    }
}

/// What whoever locked a proxy hears, when it could not go on locked.
fn ended_locked(failure: &Failure) -> String {
    format!("the proxy has ended, and is to stay so, instead of being locked: {failure}")
}

/// The counter opens when the process has the home: its predecessor has ended by then.
fn counter_of<'a>(
    home: &Home,
    counter: &'a mut Option<Counter>,
) -> Result<&'a mut Counter, Failure> {
    match counter {
        Some(counter) => Ok(counter),
        None => Ok(counter.insert(Counter::open(home)?)),
    }
}

/// Serves until the end, or until somebody locks it; then the sockets are given back, and whom to tell when it is locked.
async fn run(
    proxy: Proxy,
    mut counter: Option<&mut Counter>,
    stop: &mut (impl Future<Output = ()> + Send + Unpin),
    drain: Duration,
) -> Result<Option<(Vec<Socket>, Answer)>, Failure> {
    let mut kept = Some(proxy.copies_of_sockets()?);
    let held = proxy.held();
    let mut locking = None;
    let why = async {
        loop {
            let asked = async {
                match &mut counter {
                    Some(counter) => counter.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut *stop => {
                    // Or whoever connects while the last requests finish would wait for nobody.
                    kept = None;
                    return Stop::End;
                }
                asked = asked => match asked.wish {
                    Wish::Unlock(_) => {
                        asked.answer.send(Ok("the proxy is open".to_owned()));
                    }
                    Wish::Lock => {
                        tracing::warn!(by = asked.by, "locking; what is under way is broken off");
                        locking = Some(asked.answer);
                        return Stop::Lock { by: asked.by };
                    }
                },
            }
        }
    };
    let ended = proxy.serve_until(why, drain).await;
    let Some(answer) = locking else { return ended.map(|()| None) };
    if let Err(failure) = ended {
        answer.send_last(ended_locked(&failure)).await;
        return Err(failure.after_lock());
    }
    if !held.is_gone_within(GONE_WITHIN).await {
        // Better no proxy than one that says that it has no key, and has one.
        let what = "something still held the vault's keys after `lock`; the proxy ends";
        let said = format!("{what}, and is to stay so: look whether it was started anew");
        answer.send_last(said).await;
        return Err(Failure::new(what).after_lock());
    }
    Ok(kept.map(|kept| (kept, answer)))
}

/// The doors of a home that is not open.
struct Closed {
    home: Home,
    config: Config,
    serving: super::Serving,
    gates: Vec<Gate>,
    ops: Option<std::net::TcpListener>,
    cause: String,
}

impl Closed {
    fn open(
        home: &Home,
        sockets: Option<Vec<Socket>>,
        options: &mut ProxyOptions,
    ) -> Result<Self, Failure> {
        home.require()?;
        let config = Config::load(&home.config(), home.path())?;
        let again = sockets.is_some();
        let inherited = if let Some(sockets) = sockets {
            Inherited::new(sockets, Giver::Ourselves)
        } else {
            let passed = std::mem::take(&mut options.activation);
            Inherited::new(passed.0, Giver::Service)
        };
        let from_service = inherited.giver() == Giver::Service;
        let doors = Doors::open(&config, ListenerCertificates::read(&config)?, inherited)?;
        if from_service {
            // They are the service manager's still when it is open.
            let gates = doors.gates.iter().map(|gate| &*gate.socket);
            options.activation = Activation(copies(gates, doors.ops.as_ref())?);
        }
        let serving = announced_as(&config, &doors.gates, doors.ops.as_ref());
        home.announce(&serving)?;
        let cause = if again { "it was locked" } else { "it has not been opened since its start" };
        let cause = format!("locked: {cause}; open it with `locum unlock`");
        tracing::warn!(proxy = ?serving.proxy, "the vault is locked; every request is answered with 503");
        service::ready();
        Ok(Self { home: home.clone(), config, serving, gates: doors.gates, ops: doors.ops, cause })
    }

    /// Returns the open home and the sockets; none when it is time to stop.
    async fn wait(
        self,
        counter: &mut Counter,
        stop: &mut (impl Future<Output = ()> + Send + Unpin),
    ) -> Result<Option<(Opened, Vec<Socket>)>, Failure> {
        let kept = copies(self.gates.iter().map(|gate| &*gate.socket), self.ops.as_ref())?;
        let (end, ended) = tokio::sync::watch::channel(false);
        let until = |mut ended: tokio::sync::watch::Receiver<bool>| async move {
            let _gone = ended.wait_for(|on| *on).await;
        };
        let entrances = self.gates.iter().map(entrance).collect::<Result<Vec<_>, _>>()?;
        let limits = limits(&self.config);
        let refusal = Refusal::with_detail(
            Code::VaultUnavailable,
            "The proxy is locked: its vault has to be opened before it can serve",
        );
        let times = (limits.head_time, limits.handshake);
        let answering = tokio::spawn(serve_closed(entrances, refusal, times, until(ended.clone())));
        let ops = self.ops.as_ref().map(|ops| {
            let listener = ops.try_clone().and_then(tokio::net::TcpListener::from_std);
            let listener = listener.map_err(|e| Failure::new(format!("ops.listen: {e}")))?;
            let metrics = Metrics::new().map_err(|e| Failure::new(e.to_string()))?;
            let observe = Arc::new(Locked(self.cause.clone()));
            Ok::<_, Failure>(tokio::spawn(ops::serve(
                listener,
                Arc::new(metrics),
                observe,
                until(ended),
            )))
        });
        let ops = ops.transpose()?;
        let opened = tokio::select! {
            () = &mut *stop => None,
            opened = self.opened(counter) => Some(opened),
        };
        let _nobody_listens = end.send(true);
        let _answered = answering.await;
        if let Some(ops) = ops {
            let _ended = ops.await;
        }
        if opened.is_none() {
            service::stopping();
            self.home.withdraw();
        }
        Ok(opened.map(|opened| (opened, kept)))
    }

    /// Waits for a key that opens the vault.
    async fn opened(&self, counter: &mut Counter) -> Opened {
        let mut wait = WAITS.0;
        loop {
            let Asked { wish, by, answer } = counter.next().await;
            let Wish::Unlock(given) = wish else {
                answer.send(Ok("the proxy is locked".to_owned()));
                continue;
            };
            let home = self.home.clone();
            let tried = tokio::task::spawn_blocking(move || open_with(&home, &given)).await;
            match tried.unwrap_or_else(|_| Err(Failure::new("the vault could not be tried"))) {
                Ok(opened) => {
                    tracing::info!(by, "the vault was opened");
                    answer.send(Ok("the vault is open".to_owned()));
                    return opened;
                }
                Err(failure) => {
                    tracing::warn!(by, error = %failure, "the vault was not opened");
                    // Whoever asks next waits as well, for as long as this does.
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAITS.1);
                    answer.send(Err(failure.to_string()));
                }
            }
        }
    }
}

fn entrance(gate: &Gate) -> Result<Entrance, Failure> {
    let failed = |e: io::Error| Failure::new(format!("a socket cannot be used: {e}"));
    let listener = match &*gate.socket {
        Socket::Tcp(listener) => {
            let listener = listener.try_clone().map_err(failed)?;
            Listener::Tcp(tokio::net::TcpListener::from_std(listener).map_err(failed)?)
        }
        Socket::Unix(listener) => {
            let listener = listener.try_clone().map_err(failed)?;
            Listener::Unix(UnixListener::from_std(listener).map_err(failed)?)
        }
    };
    Ok(Entrance { listener, tls: gate.tls.clone() })
}

/// The same sockets once more, those of agents first.
pub(super) fn copies<'a>(
    gates: impl Iterator<Item = &'a Socket>,
    ops: Option<&std::net::TcpListener>,
) -> Result<Vec<Socket>, Failure> {
    let copy = |socket: &Socket| match socket {
        Socket::Tcp(listener) => listener.try_clone().map(Socket::Tcp),
        Socket::Unix(listener) => listener.try_clone().map(Socket::Unix),
    };
    let gates = gates.map(copy);
    let ops = ops.map(|ops| ops.try_clone().map(Socket::Tcp));
    let all: io::Result<Vec<Socket>> = gates.chain(ops).collect();
    all.map_err(|e| Failure::new(format!("a socket cannot be kept: {e}")))
}

/// What the operations port says of a locked proxy.
struct Locked(String);

impl Observe for Locked {
    fn readings(&self) -> Readings {
        Readings::default()
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: false, problems: vec![format!("vault: {}", self.0)] }
    }
}
