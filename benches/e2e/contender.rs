//! Who is measured: no proxy, the plain tunnel, Locum as a user would start it, and its peers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::client::{Way, connector};
use super::home::{Home, LOCUM};
use super::origin::{CODED, HOST, KEY, Origin, UNBOUND};
use super::peers::Peer;
use super::process::{Process, Talking};
use super::{Http, Result};

/// The kinds of contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Kind {
    /// No proxy.
    Direct,
    /// The plain CONNECT tunnel: the floor, which the others are compared with.
    Tunnel,
    /// Locum, intercepting and injecting.
    Locum,
    /// Another build of Locum, in the same part. Takes part where its binary is given.
    Other,
    /// Locum, intercepting and injecting, with answers in a coding that nobody knows, which a rule lets pass
    /// unsearched: what is left of its cost is that of the search.
    #[value(name = "unsearched")]
    LocumUnsearched,
    /// Locum, copying bytes to a host that no credential is bound to.
    #[value(name = "opaque")]
    LocumOpaque,
    /// Envoy, intercepting and injecting with a certificate for one host. Takes part as a peer.
    Envoy,
    /// mitmproxy with an addon. Takes part as a peer.
    Mitmproxy,
    /// Squid with ssl-bump. Takes part as a peer.
    Squid,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "no proxy",
            Self::Tunnel => "plain tunnel",
            Self::Locum => "Locum",
            Self::LocumUnsearched => "Locum, unsearched",
            Self::LocumOpaque => "Locum, opaque",
            Self::Other => "other Locum",
            Self::Envoy => "Envoy",
            Self::Mitmproxy => "mitmproxy",
            Self::Squid => "Squid",
        })
    }
}

impl Kind {
    pub(crate) fn is_peer(self) -> bool {
        self.peer().is_some()
    }

    fn peer(self) -> Option<Peer> {
        match self {
            Self::Envoy => Some(Peer::Envoy),
            Self::Mitmproxy => Some(Peer::Mitmproxy),
            Self::Squid => Some(Peer::Squid),
            _ => None,
        }
    }
}

/// One who is measured. Its process, if it has one, ends with it.
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) way: Way,
    pub(crate) host: &'static str,
    pub(crate) process: Option<Process>,
}

impl Contender {
    /// Where it is asked for an answer that is searched, unless it is the one whose is not.
    pub(crate) fn path(&self, path: &str) -> String {
        let coded = if self.kind == Kind::LocumUnsearched { CODED } else { "" };
        format!("{coded}{path}")
    }
}

/// Starts contenders before one origin.
pub(crate) struct Field {
    pub(crate) origin: Origin,
    /// For homes, certificates and logs.
    pub(crate) scratch: tempfile::TempDir,
    /// One home for each part of Locum, made when it is first wanted.
    homes: RefCell<HashMap<(Kind, Http), Rc<Home>>>,
    tools: Tools,
}

/// What is not built with this benchmark.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct Tools {
    /// Peers that take part, such as `envoy,squid`. What is missing of them is installed under
    /// target/: Python packages with pip, Debian's with apt-get download.
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// The binary of another build of Locum, which then takes part: before and after, in one run.
    #[arg(long, value_name = "FILE")]
    other: Option<PathBuf>,
    /// A profiler with its arguments, under which Locum runs: `--under "valgrind --tool=callgrind"`.
    #[arg(long, value_name = "COMMAND", default_value = "")]
    under: String,
}

/// For the plain tunnel and the peers, which ask nobody who they are.
const NOBODY: &str = "Basic bm9ib2R5Og==";

impl Field {
    pub(crate) fn new(tools: Tools) -> Result<Self> {
        for peer in &tools.peers {
            peer.install()?;
        }
        let origin = Origin::start()?;
        // Beside the other build products: the audit log belongs on a disk, and /tmp is often none.
        let scratch = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        Ok(Self { origin, scratch, homes: RefCell::default(), tools })
    }

    /// Whether such a one was asked for and can be started.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        match kind.peer() {
            Some(peer) => self.tools.peers.contains(&peer),
            None => kind != Kind::Other || self.tools.other.is_some(),
        }
    }

    /// The home of one part of Locum; made when it is first wanted.
    fn home(&self, kind: Kind, http: Http) -> Result<Rc<Home>> {
        if let Some(home) = self.homes.borrow().get(&(kind, http)) {
            return Ok(Rc::clone(home));
        }
        let scratch = self.scratch.path().join(format!("{kind:?}-{http:?}"));
        let home = Home::new(self.binary(kind), &scratch, &self.origin, http)?;
        if kind == Kind::LocumUnsearched {
            home.let_unsearched_pass()?;
        }
        let home = Rc::new(home);
        self.homes.borrow_mut().insert((kind, http), Rc::clone(&home));
        Ok(home)
    }

    fn binary(&self, kind: Kind) -> &Path {
        let other = self.tools.other.as_deref().filter(|_| kind == Kind::Other);
        other.unwrap_or(Path::new(LOCUM))
    }

    /// Starts a fresh one, so that no scenario finds the memory of the one before.
    pub(crate) fn start(&self, kind: Kind, http: Http) -> Result<Contender> {
        Ok(match kind {
            Kind::Direct => {
                let way = self.straight(self.origin.address(http), None, http)?;
                Contender { kind, way, host: HOST, process: None }
            }
            Kind::Tunnel => {
                let (process, address) = start_tunnel(self.origin.address(http))?;
                let way = self.straight(address, Some(NOBODY), http)?;
                Contender { kind, way, host: HOST, process: Some(process) }
            }
            Kind::Locum | Kind::Other | Kind::LocumUnsearched => {
                let home = self.home(kind, http)?;
                let process = home.serve(&self.tools.under)?;
                Contender { kind, way: home.way()?, host: HOST, process: Some(process) }
            }
            Kind::LocumOpaque => {
                let home = self.home(kind, http)?;
                let process = home.serve(&self.tools.under)?;
                let way = self.straight(home.proxy, Some(&home.credentials), http)?;
                Contender { kind, way, host: UNBOUND, process: Some(process) }
            }
            Kind::Envoy | Kind::Mitmproxy | Kind::Squid => {
                let peer = kind.peer().ok_or("no peer")?;
                let dir = self.scratch.path().join(format!("{peer:?}-{http:?}"));
                let (process, address) = peer.start(&dir, &self.origin, http)?;
                let mut way = self.straight(address, Some(NOBODY), http)?;
                way.bearer = "Bearer placeholder".parse()?;
                if kind == Kind::Squid {
                    way.port = self.origin.address(http).port();
                }
                Contender { kind, way, host: HOST, process: Some(process) }
            }
        })
    }

    /// A way on which the client holds the key, and believes the benchmark's CA.
    fn straight(&self, address: SocketAddr, proxy: Option<&str>, http: Http) -> Result<Way> {
        Ok(Way {
            address,
            port: 443,
            proxy: proxy.map(str::to_owned),
            bearer: format!("Bearer {KEY}").parse()?,
            http,
            tls: connector(Arc::clone(&self.origin.roots), http)?,
        })
    }

    /// Checks that the audit logs hold, record for record.
    pub(crate) fn verify_audit(&self) -> Result<()> {
        for home in self.homes.borrow().values() {
            home.run(&["audit", "verify"], "")?;
        }
        Ok(())
    }
}

/// The tunnel is this very program in another part.
fn start_tunnel(origin: SocketAddr) -> Result<(Process, SocketAddr)> {
    let (tunnel, line) = Talking::start(&["--as-tunnel-to", &origin.to_string()])?;
    Ok((tunnel.process, line.trim().parse()?))
}

/// Starts a proxy, and waits until it accepts connections.
pub(crate) fn serve_with(
    command: &mut Command,
    log: &Path,
    address: SocketAddr,
) -> Result<Process> {
    let file = File::create(log)?;
    let command = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut process = Process::start(command).map_err(|e| format!("{command:?}: {e}"))?;
    let deadline = Instant::now() + Duration::from_mins(1);
    while TcpStream::connect(address).is_err() {
        if process.check().is_err() || Instant::now() > deadline {
            let said = fs::read_to_string(log)?;
            return Err(format!("{command:?} did not start:\n{said}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(process)
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    let pair = format!("{user}:{password}");
    format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()))
}

/// A port that was free a moment ago. Locum's contract has no way to say which one it chose.
pub(crate) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
