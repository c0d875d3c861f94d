//! The private proxy that the runs of a home share, where no `locum serve` runs on it.
//!
//! It is a process of its own, so that no run waits for another, and none breaks another by its end.
//! The first run starts it and hands it the master key; each holds a connection to it for as long as
//! its program runs. It ends when nobody holds one, however that came: a process's connections end with it.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines, ReadHalf,
    WriteHalf,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};
use zeroize::Zeroizing;

use super::doors::{SocketFile, bind_own};
use super::log::start_to;
use super::open::Opened;
use super::{Failure, Home, Proxy, ProxyOptions, Serving};
use crate::config::{Config, Level};
use crate::files::SocketPath;
use crate::vault::{MasterKey, Vault};

/// What a run says at the home's socket; the number is that of this conversation's form.
const ASK: &[u8; 7] = b"join 1\n";

/// For one message between two processes of this machine.
const STEP: Duration = Duration::from_secs(5);

/// How long a start may take: the end of a proxy before it is waited for, and of its last requests.
const START: Duration = Duration::from_mins(1);

/// How long the last requests of the last program may take: it is gone.
const DRAIN: Duration = Duration::from_secs(2);

/// How long the last run waits for the end of the proxy: [`DRAIN`], and what is written then.
const END: Duration = Duration::from_secs(30);

/// Lines of the log that wait for a run which does not read. It loses the oldest.
const LINES: usize = 256;

/// The argument that makes this program the proxy. No command of a person's.
pub const COMMAND: &str = "shared-proxy";

/// What the proxy says to a run, a line each.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// Clients may connect.
    Ready { proxy: SocketAddr, ca: Option<String> },
    /// It could not be started, or did not end in order.
    Failed { what: String, help: Option<String> },
    /// It has logged this.
    Log(String),
}

/// What every run is told when it has joined.
struct Ready {
    proxy: SocketAddr,
    ca: Option<String>,
}

impl Ready {
    fn said(&self) -> Said {
        Said::Ready { proxy: self.proxy, ca: self.ca.clone() }
    }
}

impl Said {
    fn failed(failure: &Failure) -> Self {
        Self::Failed { what: failure.to_string(), help: failure.advice().map(str::to_owned) }
    }

    fn line(&self) -> Vec<u8> {
        // Plain strings and addresses always serialise.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// What a run does with what it is told.
type Note = fn(&str);

/// A run's hold on the proxy.
#[derive(Debug)]
pub struct Joined {
    /// Where it listens.
    pub proxy: SocketAddr,
    /// The fingerprint of the CA that it shows its clients.
    pub ca: Option<String>,
    write: WriteHalf<UnixStream>,
    listening: JoinHandle<()>,
    note: Note,
}

/// The proxy that runs on this home and answers. Of one that was killed, what it announced is still there.
#[must_use]
pub fn answering(opened: &Opened) -> Option<Serving> {
    let serving = opened.running()?;
    let answers = serving.proxy.first().is_none_or(|address| {
        std::net::TcpStream::connect_timeout(&super::session::reachable(*address), STEP).is_ok()
    });
    answers.then_some(serving)
}

/// Whether such a proxy is there, and takes runs.
pub(super) fn is_there(home: &Home) -> bool {
    StdUnixStream::connect(SocketPath::of(&home.run_socket()).as_path()).is_ok()
}

/// Joins the private proxy of this home, or starts it. `note` is told what it logs.
///
/// # Errors
/// What keeps it from starting.
pub async fn join(opened: &Opened, note: fn(&str)) -> Result<Joined, Failure> {
    let home = &opened.home;
    // Who starts it has the lock until it is there: of many runs that begin at once, one does.
    let _turn = turn(home).await?;
    if let Some(stream) = ask(home).await
        && let Some(joined) = Joined::over(stream, STEP, note).await?
    {
        return Ok(joined);
    }
    let stream = start(opened)?;
    let joined = Joined::over(stream, START, note).await?;
    joined.ok_or_else(|| Failure::new("the proxy of this run ended before it was ready"))
}

async fn turn(home: &Home) -> Result<File, Failure> {
    let home = home.clone();
    let waited = tokio::task::spawn_blocking(move || take_turn(&home)).await;
    waited.map_err(|error| Failure::new(format!("a lock could not be waited for: {error}")))?
}

/// Waits for a file of the system's locks, which end with their process.
pub(super) fn take_turn(home: &Home) -> Result<File, Failure> {
    let path = home.run_lock();
    let locked = || {
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    locked().map_err(|error: io::Error| {
        Failure::new(format!("{}: cannot be locked: {error}", path.display()))
    })
}

/// None when no such proxy runs, or it is just ending.
async fn ask(home: &Home) -> Option<UnixStream> {
    let path = SocketPath::of(&home.run_socket());
    let mut stream = UnixStream::connect(path.as_path()).await.ok()?;
    stream.write_all(ASK).await.ok()?;
    Some(stream)
}

/// Starts it, and hands it the key.
fn start(opened: &Opened) -> Result<UnixStream, Failure> {
    let failed = |error: io::Error| Failure::new(format!("the proxy cannot be started: {error}"));
    let (mut ours, theirs) = StdUnixStream::pair().map_err(failed)?;
    let mut command = Command::new(own_program().map_err(failed)?);
    command.arg("--home").arg(opened.home.path()).arg(COMMAND);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C on the terminal is for the programs. Its end is that of its connections.
    command.process_group(0).kill_on_drop(false).spawn().map_err(failed)?;
    opened.master.expose(|key| ours.write_all(key)).map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    UnixStream::from_std(ours).map_err(failed)
}

/// This very program, also when its file was replaced meanwhile.
fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

impl Joined {
    /// None when the other side ends without a word: it was about to.
    async fn over(
        stream: UnixStream,
        patience: Duration,
        note: Note,
    ) -> Result<Option<Self>, Failure> {
        let (read, write) = tokio::io::split(stream);
        let mut lines = BufReader::new(read).lines();
        let first = async {
            loop {
                match next(&mut lines).await {
                    Some(Said::Log(line)) => note(&line),
                    other => return other,
                }
            }
        };
        let late = |_| {
            Failure::new("the private proxy of this home does not answer")
                .help("end the `locum run` that is stopped, or start `locum serve`")
        };
        match tokio::time::timeout(patience, first).await.map_err(late)? {
            Some(Said::Ready { proxy, ca }) => {
                let listening = tokio::spawn(listen(lines, note));
                Ok(Some(Self { proxy, ca, write, listening, note }))
            }
            Some(Said::Failed { what, help }) => {
                let failure = Failure::new(what);
                Err(match help {
                    Some(help) => failure.help(help),
                    None => failure,
                })
            }
            _ => Ok(None),
        }
    }

    /// Lets go of it. When no other run holds it, this returns when it has ended, its log closed.
    pub async fn leave(mut self) {
        if self.listening.is_finished() {
            (self.note)(
                "locum: the private proxy of this run ended before its program did; calls after that failed",
            );
            return;
        }
        let _gone_already = self.write.shutdown().await;
        if tokio::time::timeout(END, self.listening).await.is_err() {
            (self.note)("locum: the private proxy of this run has not ended yet");
        }
    }
}

/// Passes on what the proxy says, until it has nothing more to say.
async fn listen(mut lines: Lines<BufReader<ReadHalf<UnixStream>>>, note: Note) {
    loop {
        match next(&mut lines).await {
            Some(Said::Log(line)) => note(&line),
            Some(Said::Failed { what, .. }) => {
                note(&format!("locum: the proxy did not end in order: {what}"));
            }
            Some(Said::Ready { .. }) => {}
            None => return,
        }
    }
}

async fn next(lines: &mut Lines<BufReader<ReadHalf<UnixStream>>>) -> Option<Said> {
    let line = lines.next_line().await.ok()??;
    serde_json::from_str(&line).ok()
}

/// Is that proxy: serves the home until the last run has let go of it. `first` is the connection of the
/// run that started this process.
///
/// # Errors
/// When it was started by somebody else; what the run can be told, it is told.
pub async fn serve_shared(
    home: &Home,
    first: StdUnixStream,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), Failure> {
    let foreign = |_| Failure::usage(format!("`{COMMAND}` is started by `locum run` alone"));
    // Whatever is no socket has no address.
    first.local_addr().map_err(foreign)?;
    first.set_nonblocking(true).map_err(foreign)?;
    let mut first = UnixStream::from_std(first).map_err(foreign)?;
    let (log, lines) = broadcast::channel(LINES);
    match prepare(home, &mut first, log.clone()).await {
        Ok((company, proxy)) => company.serve(proxy, (first, lines), stop).await,
        Err(failure) => {
            tell(&mut first, &Said::failed(&failure)).await;
            Err(failure)
        }
    }
}

async fn prepare(
    home: &Home,
    first: &mut UnixStream,
    log: broadcast::Sender<Arc<str>>,
) -> Result<(Company, Proxy), Failure> {
    let mut key = Zeroizing::new([0; 32]);
    let read = tokio::time::timeout(STEP, first.read_exact(&mut *key)).await;
    if !matches!(read, Ok(Ok(_))) {
        return Err(Failure::new("the run that started this proxy handed over no key"));
    }
    let config = Config::load(&home.config(), home.path())?;
    let source = Vault::key_source(&config.vault.store)?;
    let master = MasterKey::recovered(&*key, &source)
        .ok_or_else(|| Failure::new("the run that started this proxy handed over no key"))?;
    let mut opened = Opened::open_by(home, master)?;
    // The programs own the terminal; only what they should not miss is said on it.
    opened.config.log.level = Level::Warn;
    start_to(opened.config.log, ToRuns(log.clone()));
    let options = ProxyOptions { private: true, ..ProxyOptions::default() };
    let proxy = Proxy::start_opened(opened, options).await?;
    let ready = Ready { proxy: proxy.serving.clear()?, ca: proxy.serving.ca.clone() };
    let path = home.run_socket();
    let failed = |e: io::Error| Failure::new(format!("{}: {e}", path.display()));
    let listener = bind_own(&path)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    let file = SocketFile::of(&path);
    Ok((Company { listener, file, log, ready, runs: JoinSet::new() }, proxy))
}

/// A line of the log, for every run.
#[derive(Clone)]
struct ToRuns(broadcast::Sender<Arc<str>>);

impl io::Write for ToRuns {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let _nobody_listens = self.0.send(text.trim_end().into());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The runs that hold this proxy, and where more of them come.
struct Company {
    listener: UnixListener,
    file: Option<SocketFile>,
    log: broadcast::Sender<Arc<str>>,
    ready: Ready,
    /// One task for each, which ends when the run lets go.
    runs: JoinSet<UnixStream>,
}

impl Company {
    async fn serve(
        mut self,
        proxy: Proxy,
        (first, lines): (UnixStream, broadcast::Receiver<Arc<str>>),
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), Failure> {
        let ready = self.ready.said();
        self.runs.spawn(attend(first, lines, ready));
        // The last one's connection lasts until everything is closed: it waits for that.
        let mut last = None;
        let until = async {
            tokio::select! {
                alone = self.until_alone() => last = alone,
                () = stop => {}
            }
            // Whoever comes now finds nobody, and starts the next proxy.
            self.file.iter().for_each(SocketFile::remove);
            drop(self.listener);
        };
        let ended = proxy.serve(until, DRAIN).await;
        if let (Err(failure), Some(last)) = (&ended, &mut last) {
            tell(last, &Said::failed(failure)).await;
        }
        ended
    }

    /// Returns with the connection of the last run when it lets go.
    async fn until_alone(&mut self) -> Option<UnixStream> {
        loop {
            let left = tokio::select! {
                come = self.listener.accept() => {
                    match come {
                        Ok((stream, _)) => self.admit(stream),
                        Err(error) => {
                            tracing::warn!(%error, "a run could not join the private proxy");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                    continue;
                }
                left = self.runs.join_next() => left?.ok(),
            };
            if self.runs.is_empty() {
                return left;
            }
            if let Some(mut left) = left {
                // It may end: the proxy stays for others.
                let _gone_already = left.shutdown().await;
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream) {
        let own = rustix::process::geteuid().as_raw();
        // The home lets nobody else in; this is a second look.
        if stream.peer_cred().is_ok_and(|peer| peer.uid() == own) {
            let (lines, ready) = (self.log.subscribe(), self.ready.said());
            self.runs.spawn(async move {
                let mut asked = [0; ASK.len()];
                let read = tokio::time::timeout(STEP, stream.read_exact(&mut asked)).await;
                if matches!(read, Ok(Ok(_))) && asked == *ASK {
                    attend(stream, lines, ready).await
                } else {
                    stream
                }
            });
        }
    }
}

/// Tells a run what there is to tell, until it lets go.
async fn attend(
    mut stream: UnixStream,
    mut lines: broadcast::Receiver<Arc<str>>,
    ready: Said,
) -> UnixStream {
    tell(&mut stream, &ready).await;
    loop {
        let mut byte = [0];
        tokio::select! {
            read = stream.read(&mut byte) => match read {
                Ok(1..) => {}
                Ok(0) | Err(_) => return stream,
            },
            line = lines.recv() => match line {
                Ok(line) => tell(&mut stream, &Said::Log(line.to_string())).await,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                // The log lives as long as the process.
                Err(broadcast::error::RecvError::Closed) => return stream,
            },
        }
    }
}

/// A run that does not read holds nobody up.
async fn tell(stream: &mut UnixStream, said: &Said) {
    let _not_heard = tokio::time::timeout(STEP, stream.write_all(&said.line())).await;
}
