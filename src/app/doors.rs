//! The listening sockets: bound, or taken over from whoever had them before.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;
use tokio::net::TcpSocket;

use super::Failure;
use super::certificates::Certificates;
use super::far_side::far_side;
use super::service::Socket;
use crate::admin::Listening;
use crate::config::{Config, Listen, ListenAt};
use crate::files::SocketPath;
use crate::tls::ListenerTls;
use crate::upstream::NoLogins;

/// Connections that the kernel keeps for us while we are busy, or while a predecessor finishes: it
/// cuts this to its own `somaxconn`, which is 4096 by default.
const BACKLOG: u32 = 4096;

/// One place where agents connect. The sockets do not block; each thread has its own handle of each.
pub(super) struct Gate {
    pub(super) socket: Arc<Socket>,
    pub(super) tls: Option<Arc<ListenerTls>>,
}

impl Gate {
    /// The address and port; none for a Unix socket.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match &*self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }
}

/// Everything that listens.
pub(super) struct Doors {
    pub(super) gates: Vec<Gate>,
    pub(super) ops: Option<TcpListener>,
    pub(super) certificates: Vec<Certificates>,
    /// Where administrators connect.
    pub(super) admin: Option<Listening>,
    /// Files of our own Unix sockets, which go with us.
    pub(super) files: Vec<SocketFile>,
}

/// Sockets that were made by another process, and who that was.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    sockets: Vec<Socket>,
    giver: Giver,
}

/// Who made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Giver {
    /// Nobody.
    #[default]
    None,
    /// The service manager, which keeps them open when we are gone.
    Service,
    /// The process whose place we take, which does not.
    Predecessor,
    /// This process, before it was open, or before it was locked.
    Ourselves,
}

impl Inherited {
    pub(super) fn new(sockets: Vec<Socket>, giver: Giver) -> Self {
        let giver = if sockets.is_empty() { Giver::None } else { giver };
        Self { sockets, giver }
    }

    pub(super) fn giver(&self) -> Giver {
        self.giver
    }

    /// The socket at this place. Where the config leaves the port open, that of a predecessor may
    /// have any: it was opened for the same line.
    fn tcp(&mut self, wanted: SocketAddr, config: &Config) -> Option<TcpListener> {
        let named = |address| {
            config.ops.listen == Some(address)
                || config.proxy.listen.iter().any(|listen| listen.address() == Some(address))
        };
        let open =
            wanted.port() == 0 && matches!(self.giver, Giver::Predecessor | Giver::Ourselves);
        let index = self.sockets.iter().position(|socket| {
            let Socket::Tcp(listener) = socket else { return false };
            let any_port = |at: SocketAddr| open && at.ip() == wanted.ip() && !named(at);
            listener.local_addr().is_ok_and(|at| at == wanted || any_port(at))
        })?;
        // In their order: of two that may have any port, the first is the first.
        match self.sockets.remove(index) {
            Socket::Tcp(listener) => Some(listener),
            Socket::Unix(_) => None,
        }
    }

    fn unix(&mut self, wanted: &Path) -> Option<UnixListener> {
        let index = self.sockets.iter().position(|socket| {
            let Socket::Unix(listener) = socket else { return false };
            listener.local_addr().is_ok_and(|at| at.as_pathname() == Some(wanted))
        })?;
        match self.sockets.swap_remove(index) {
            Socket::Unix(listener) => Some(listener),
            Socket::Tcp(_) => None,
        }
    }

    /// What is left when every door has its socket. The service manager's would take connections
    /// that nobody answers; a predecessor's is of a door that the config has no more.
    fn finish(self) -> Result<(), Failure> {
        let places: Vec<String> = self.sockets.iter().map(place).collect();
        if self.giver != Giver::Service || places.is_empty() {
            return Ok(());
        }
        let places = places.join(", ");
        Err(Failure::usage(format!(
            "the service manager passed a socket on {places}, and locum.yaml has no listener there"
        ))
        .help("make proxy.listen (or ops.listen) and ListenStream= of the .socket unit the same"))
    }
}

fn place(socket: &Socket) -> String {
    let unknown = || "an unknown address".to_owned();
    match socket {
        Socket::Tcp(listener) => {
            listener.local_addr().map_or_else(|_| unknown(), |a| a.to_string())
        }
        Socket::Unix(listener) => {
            let address = listener.local_addr().ok();
            let path = address.as_ref().and_then(|a| a.as_pathname());
            path.map_or_else(unknown, |path| format!("unix:{}", path.display()))
        }
    }
}

/// Whether the files that a config names can be read, and be what they have to be: certificates, keys,
/// CAs and lists. Tells of the first that cannot.
///
/// # Errors
/// Which, and why.
pub fn check_files(config: &Config) -> Result<(), Failure> {
    ListenerCertificates::read(config)?;
    far_side(config, &[], Arc::new(NoLogins)).map(drop)
}

/// What the listeners show, read before a socket is asked for: it can fail, and then whoever listens now
/// goes on.
pub(super) struct ListenerCertificates {
    /// For each of `proxy.listen`.
    proxy: Vec<Option<Certificates>>,
    admin: Option<Certificates>,
}

impl ListenerCertificates {
    pub(super) fn read(config: &Config) -> Result<Self, Failure> {
        let each = config.proxy.listen.iter().map(|listen| {
            listen.tls.as_ref().map(|tls| Certificates::read(&listen.at, tls)).transpose()
        });
        let admin = match (&config.admin.listen, &config.admin.tls) {
            (Some(at @ ListenAt::Tcp(_)), Some(tls)) => Some(Certificates::read(at, tls)?),
            _ => None,
        };
        Ok(Self { proxy: each.collect::<Result<_, _>>()?, admin })
    }
}

impl Doors {
    /// Opens every door of the config.
    pub(super) fn open(
        config: &Config,
        certificates: ListenerCertificates,
        mut inherited: Inherited,
    ) -> Result<Self, Failure> {
        let mut doors = Self::none();
        for (listen, certificates) in config.proxy.listen.iter().zip(certificates.proxy) {
            let tls = certificates.as_ref().map(|one| Arc::clone(&one.tls));
            doors.certificates.extend(certificates);
            let socket = Arc::new(doors.listen(listen, config, &mut inherited)?);
            doors.gates.push(Gate { socket, tls });
        }
        doors.ops = match config.ops.listen {
            // A predecessor keeps its own to the end.
            Some(address) if inherited.giver() == Giver::Predecessor => {
                Some(bind(address, "ops.listen")?)
            }
            Some(address) => Some(tcp(address, "ops.listen", config, &mut inherited)?),
            None => None,
        };
        inherited.finish()?;
        doors.admin = doors.admit(config, certificates.admin)?;
        Ok(doors)
    }

    /// The administrators' socket. A predecessor has ended by now, and its file is nobody's.
    fn admit(
        &mut self,
        config: &Config,
        certificates: Option<Certificates>,
    ) -> Result<Option<Listening>, Failure> {
        let admin = &config.admin;
        let Some(at) = &admin.listen else { return Ok(None) };
        let failed = |error: std::io::Error| unfit(at, &error);
        match (at, certificates) {
            (ListenAt::Unix { path, mode }, _) => {
                let bound = bind_unix(path, *mode).and_then(|listener| {
                    listener.set_nonblocking(true).map_err(failed)?;
                    tokio::net::UnixListener::from_std(listener).map_err(failed)
                });
                match bound {
                    Ok(listener) => {
                        self.files.extend(SocketFile::of(path));
                        Ok(Some(Listening::Unix(listener)))
                    }
                    // Nobody asked for it, and agents are served without it.
                    Err(failure) if !admin.asked => {
                        tracing::warn!(%failure, "nobody can administer over a socket");
                        Ok(None)
                    }
                    Err(failure) => Err(failure),
                }
            }
            (ListenAt::Tcp(address), Some(certificates)) => {
                let listener = bind(*address, "admin.listen")?;
                let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
                let tls = Arc::clone(&certificates.tls);
                self.certificates.push(certificates);
                Ok(Some(Listening::Tcp(listener, tls)))
            }
            // The config is not read so.
            (ListenAt::Tcp(_), None) => Ok(None),
        }
    }

    /// A free loopback port, for the private proxy of runs.
    pub(super) fn open_private() -> Result<Self, Failure> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut doors = Self::none();
        let socket = Arc::new(Socket::Tcp(bind(loopback, "proxy.listen")?));
        doors.gates.push(Gate { socket, tls: None });
        Ok(doors)
    }

    fn none() -> Self {
        Self {
            gates: Vec::new(),
            ops: None,
            admin: None,
            certificates: Vec::new(),
            files: Vec::new(),
        }
    }

    fn listen(
        &mut self,
        listen: &Listen,
        config: &Config,
        inherited: &mut Inherited,
    ) -> Result<Socket, Failure> {
        let (path, mode) = match &listen.at {
            ListenAt::Tcp(address) => {
                return tcp(*address, "proxy.listen", config, inherited).map(Socket::Tcp);
            }
            ListenAt::Unix { path, mode } => (path, *mode),
        };
        let passed = inherited.unix(path);
        // The service manager's file stays when we go, as its socket does.
        let own =
            passed.is_none() || matches!(inherited.giver(), Giver::Predecessor | Giver::Ourselves);
        let listener = match passed {
            None => bind_unix(path, mode)?,
            Some(passed) => passed,
        };
        listener.set_nonblocking(true).map_err(|error| unfit(&listen.at, &error))?;
        if own {
            self.files.extend(SocketFile::of(path));
        }
        Ok(Socket::Unix(listener))
    }
}

fn unfit(at: &ListenAt, error: &std::io::Error) -> Failure {
    Failure::new(format!("the socket on {at} cannot be used: {error}"))
}

fn tcp(
    address: SocketAddr,
    key: &str,
    config: &Config,
    inherited: &mut Inherited,
) -> Result<TcpListener, Failure> {
    let Some(passed) = inherited.tcp(address, config) else { return bind(address, key) };
    passed.set_nonblocking(true).map_err(|error| unfit(&ListenAt::Tcp(address), &error))?;
    Ok(passed)
}

fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // The port of a process that has just ended can be had at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)?.into_std()
    };
    bound().map_err(|error| {
        let failure = Failure::new(format!("{key}: cannot listen on {address}: {error}"));
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure.help(format!(
                "another program has the port; stop it, or set {key} in locum.yaml to another"
            )),
            _ => failure.help(format!("set {key} in locum.yaml to an address of this machine")),
        }
    })
}

/// Binds a Unix socket with its mode from the first moment. What a dead process left is replaced.
fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener, Failure> {
    bind_by((path, path), mode)
}

/// The same for a socket of the home's own, which may lie deeper than others could find it.
pub(super) fn bind_own(path: &Path) -> Result<UnixListener, Failure> {
    bind_by((path, SocketPath::of(path).as_path()), 0o600)
}

fn bind_by((path, name): (&Path, &Path), mode: u32) -> Result<UnixListener, Failure> {
    clear(path)?;
    // In the mode of a new file the mask decides. It is the process's, and other threads may make
    // files meanwhile: all of ours are for their owner alone in any case.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(name);
    rustix::process::umask(before);
    let failed = |error: std::io::Error| {
        let at = path.display();
        Failure::new(format!("cannot listen on unix:{at}: {error}"))
            .help("its directory must exist and be this user's; or set another in locum.yaml")
    };
    let listener = bound.map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// Removes a socket on which nobody listens any more.
fn clear(path: &Path) -> Result<(), Failure> {
    let at = path.display();
    let Ok(there) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !there.file_type().is_socket() {
        return Err(Failure::new(format!("{at} exists, and is no socket"))
            .help("move it away, or set another path in locum.yaml"));
    }
    match UnixStream::connect(SocketPath::of(path).as_path()) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
                .map_err(|error| Failure::new(format!("{at} is left of a dead process: {error}")))
        }
        _ => Err(Failure::new(format!("another process listens on unix:{at}"))
            .help("stop it, or set another path in locum.yaml")),
    }
}

/// The name of a Unix socket in the file system, as long as it is ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        Some(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    /// Removes it, unless another has taken its place.
    pub(super) fn remove(&self) {
        let now = Self::of(&self.path);
        if now.is_some_and(|now| (now.device, now.inode) == (self.device, self.inode)) {
            let _gone_already = std::fs::remove_file(&self.path);
        }
    }
}
