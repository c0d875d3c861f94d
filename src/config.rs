//! The process configuration, `locum.yaml`: where Locum listens, how it reaches upstreams, where
//! it keeps what, and what a client may take of it. Who may use which credential is policy, not here.
//!
//! A [`Config`] is what the file means: every default filled in, every path absolute, every value
//! in its range. There is no other way to make one, so nothing later has to check again.

mod admin;
mod identity;
mod listen;
mod read;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use admin::Admin;
pub use identity::{CertificateName, ClientNames, Identity, JwtIssuer, Keys, Method, UnixPeer};
pub use listen::{ClientCertificates, Listen, ListenAt, ListenerTls, Proxy};

use crate::credential::Endpoint;
use crate::document::{Document, Limits as ReadLimits, Report, Source};
use crate::host::{Authority, HostPattern, Scheme};
use crate::reference::Name;

/// The name of the file in the home.
pub const FILE: &str = "locum.yaml";

/// The published JSON Schema (draft 2020-12) of the file: what `locum config schema` prints.
pub const SCHEMA: &str = include_str!("config/schema.json");

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The port of the agents.
    pub proxy: Proxy,
    /// Who the agents are, beside their tokens.
    pub identity: Identity,
    /// The port of the operators.
    pub ops: Ops,
    /// The way to the origins.
    pub upstream: Upstream,
    /// The audit log.
    pub audit: Audit,
    /// The vault.
    pub vault: Vault,
    /// How credentials live.
    pub credentials: Credentials,
    /// Requests that a person has to approve.
    pub approvals: Approvals,
    /// What agents usually do.
    pub anomalies: Anomalies,
    /// `admin`.
    pub admin: Admin,
    /// What Locum says of itself.
    pub log: Log,
    /// What clients may take.
    pub limits: Limits,
}

/// `ops`: metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ops {
    /// `listen`, or `off`. Default `127.0.0.1:3129`, next to the proxy and never on its port: what
    /// answers there is not for agents.
    pub listen: Option<SocketAddr>,
    /// `allow_remote`: the explicit word for a listener beyond loopback. Names of agents and
    /// credentials are in the metrics, in the clear. Default `false`.
    pub allow_remote: bool,
}

/// `upstream`: the way to the origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// `allow_addresses`: holes in the address guard. Default none: private, loopback, link-local
    /// and metadata addresses are not for agents.
    pub allow_addresses: Vec<IpNet>,
    /// `hosts`, in the order of the file. Default none.
    pub hosts: Vec<UpstreamHost>,
    /// `timeouts`.
    pub timeouts: Timeouts,
    /// `pool`.
    pub pool: Pool,
    /// `breaker`: when hosts that fail are left alone. Default `off`: an answer of ours in the place of
    /// the host's own is for the operator to want.
    pub breaker: Option<Breaker>,
}

/// `upstream.breaker`: a host that fails again and again is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// `failures`: so many in a row, none of them good. Default 10: a deployment that restarts fails less
    /// often than that, and one that is down is known in a second or two.
    pub failures: u32,
    /// `window`: from the first of them to the last. Default 30 s: what fails less often than that costs
    /// nobody much.
    pub window: Duration,
    /// `open`: how long the host is left alone. Default 30 s: as long as most need to come back.
    pub open: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 10, window: seconds(30), open: seconds(30) }
    }
}

/// `upstream.hosts.<pattern>`: how some hosts are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamHost {
    /// Where it stands.
    pub at: Place,
    /// The hosts.
    pub pattern: HostPattern,
    /// `address`: whom to dial in place of what the name resolves to.
    pub address: Option<Authority>,
    /// `ca_file`: PEM, the only CAs that are believed for the hosts.
    pub ca_file: Option<PathBuf>,
    /// `crl_file`: PEM, the revoked certificates of the CA that issues the hosts' own.
    pub crl_file: Option<PathBuf>,
    /// `client_cert`: what Locum shows to the hosts.
    pub client_cert: Option<KeyPair>,
    /// `proxy`: the proxy in front of the hosts.
    pub proxy: Option<UpstreamProxy>,
    /// `http1_only`: never offer HTTP/2. Default `false`.
    pub http1_only: bool,
}

/// Where in `locum.yaml` something stands, as `FILE:LINE:COLUMN`. What says the same is the same wherever it stands:
/// a line that is moved changes no setting.
#[derive(Clone, Debug, Default)]
pub struct Place(pub Box<str>);

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

/// `approvals`: requests that a person has to approve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approvals {
    /// `webhook` and `key`: where word of each goes. Default none; `locum approvals list` shows them.
    pub webhook: Option<Webhook>,
}

/// Whom to tell of a request that waits for an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// `webhook`: an `https` URL, which is sent a POST.
    pub url: Endpoint,
    /// `key`: the credential whose secret signs what is sent. It is bound to that host, and is itself
    /// sent nowhere.
    pub key: Name,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// `certificate`: PEM, the certificate and then its intermediates.
    pub certificate: PathBuf,
    /// `key`: PEM, the private key.
    pub key: PathBuf,
}

/// A proxy on the way out. Its password is a credential in the vault: this file holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamProxy {
    /// Whether the proxy itself is spoken to over TLS.
    pub scheme: Scheme,
    /// Where it is.
    pub authority: Authority,
    /// `credential`: what it asks for. Default none.
    pub credential: Option<Name>,
    /// `allow_cleartext`: the explicit word for a credential on an `http://` proxy that is not on
    /// this machine, on a network that is trusted by other means. Default `false`.
    pub allow_cleartext: bool,
    /// `vet_names`: whether Locum resolves the names too, and refuses those with private addresses,
    /// before the proxy resolves them for itself. Default `true`; `false` where only the proxy can
    /// resolve names.
    pub vet_names: bool,
}

/// `upstream.timeouts`. There is none for a whole call: streams may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `connect`: name and TCP together. Default 10 s: three lost SYNs (1, 3, 7 s) are bad luck,
    /// four are an outage.
    pub connect: Duration,
    /// `tls`: the handshake. Default 10 s: two round trips and a slow origin.
    pub tls: Duration,
    /// `response`: from the end of the request to the head of the answer. Default 5 min: models
    /// think before they speak. A rule may say otherwise.
    pub response: Duration,
    /// `idle`: between two pieces of a body. Default 10 min: a stream that says nothing for so long
    /// sends no keep-alives either, and has been forgotten by the NATs on its way.
    pub idle: Duration,
}

/// `upstream.pool`: connections that wait for their next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// `per_host`: for one origin and one agent. Default 512: with fewer than an agent has calls at
    /// once, every further call makes a connection anew, with its TLS handshake. On HTTP/2, where calls
    /// share connections, all of them.
    pub per_host: usize,
    /// `total`. Default 2048, at about 20 KiB each.
    pub total: usize,
    /// `idle`: how long one waits. Default 50 s, under the 60 s after which load balancers close.
    pub idle: Duration,
    /// `age`: how long one lives. Default 10 min, so that a change of DNS is followed.
    pub age: Duration,
}

/// `audit`: the record of every use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// `dir`. Default `audit` in the home.
    pub dir: PathBuf,
    /// `fsync`. Default every second: what `kill -9` must not lose is with the kernel before the
    /// call goes out in any case, and a power failure then costs a second at most.
    pub fsync: Fsync,
    /// `retain`: how long files are kept. Default `forever`: what may be deleted, and when, is for
    /// the people who answer for it.
    pub retain: Retain,
    /// `max_file`: size after which a new file begins. Default 256 MiB: some 500,000 records, and
    /// small enough to open, ship and verify at one go.
    pub max_file: u64,
}

/// When records are forced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before each call goes out. Costs the disk's latency on every call.
    Always,
    /// When the kernel likes.
    Never,
    /// Once in so long.
    Every(Duration),
}

/// How long closed audit files are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// Until somebody else removes them.
    Forever,
    /// For so long after their last record.
    For(Duration),
}

/// `vault`: where secrets are kept, and what opens them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vault {
    /// `store`. Default `vault.db` in the home.
    pub store: PathBuf,
    /// `key`. Default the file `master.key` in the home: a start without a person, and no weaker
    /// than the account that Locum runs under.
    pub key: KeySource,
}

/// `vault.key`: what the master key is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `{file: PATH}`: a key file.
    File(PathBuf),
    /// `{passphrase: …}`: a passphrase, through Argon2id.
    Passphrase(Passphrase),
    /// `{command: [PROGRAM, ARGUMENT, …]}`: what a program prints, for a key that a manager of
    /// secrets keeps. Never through a shell.
    Command(Vec<String>),
}

/// `vault.key.passphrase`: where the passphrase comes from. Never from this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passphrase {
    /// `prompt`: a person types it at the start.
    Prompt,
    /// `{file: PATH}`: the first line of a file.
    File(PathBuf),
    /// `{credential: NAME}`: a file in systemd's `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// `credentials`: how credentials live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `grace`: how long what began with a version may still use it after a rotation, where the
    /// command does not say. Default 1 h: nearly all runs of agents are over by then, and a key that
    /// is rotated on schedule is not an urgent one. The provider has to accept the old key for so long.
    pub grace: Duration,
    /// `health`: how often each credential is tried at its provider, by the cheap call that the
    /// catalogue has for it. Default `off`: a call with every key that nobody has asked for is seen by
    /// providers, counts with some, and is for the operator to want.
    pub health: Option<Duration>,
    /// `trust_claims`: whether the user that an agent names is believed where nobody vouches for it, so
    /// that it gets this user's own credentials. Default `false`: an agent that is talked into it would
    /// name another user.
    pub trust_claims: bool,
}

/// The longest grace: what is not over after a month is no run any more, and the old key would stay in
/// use without anybody having meant it.
pub const MAX_GRACE: Duration = seconds(30 * 24 * 60 * 60);

impl Default for Credentials {
    fn default() -> Self {
        Self { grace: seconds(60 * 60), trust_claims: false, health: None }
    }
}

/// `anomalies`: what agents usually do is learned, and what they do otherwise is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anomalies {
    /// `learn`: for how long, from when an agent is first seen with a credential. Default 7 d: a week has
    /// all that most work has, the weekend included. `off` for nobody to look.
    pub learn: Option<Duration>,
    /// `volume`: how many times the requests and bytes of the busiest hour are told of. Default 4: days
    /// differ by two or three times, and a key that is misused is used far more.
    pub volume: u32,
}

impl Default for Anomalies {
    fn default() -> Self {
        Self { learn: Some(Duration::from_hours(7 * 24)), volume: 4 }
    }
}

/// `log`: what Locum says of itself, on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// `level`. Default `info`: what an operator acts on; requests are in the audit log.
    pub level: Level,
    /// `format`. Default `text`: for the person who has just started it. Services want `json`.
    pub format: LogFormat,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Somebody has to act.
    Error,
    /// Somebody should look.
    Warn,
    /// What happened.
    Info,
    /// Why it happened.
    Debug,
    /// How it happened.
    Trace,
}

impl Level {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `limits`: what a client may take, so that one cannot starve the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `connections`: open at once. Default 10,000: two descriptors each, and 240 MiB if all are
    /// intercepted.
    pub connections: usize,
    /// `connections_per_agent`: of these, one agent's. Default 2,000: a fleet under one token, but not the
    /// whole proxy.
    pub connections_per_agent: usize,
    /// `head_bytes`: of one request's head. Default 64 KiB: four times what nginx allows, because
    /// cookies and traces are long; far under what hurts.
    pub head_bytes: usize,
    /// `url_bytes`: of one request's target. Default 16 KiB: as much as the large load balancers and
    /// CDNs take, so what is longer works nowhere else either.
    pub url_bytes: usize,
    /// `body_slot`: of a body that a credential may enter, which is held in memory until it has been
    /// searched; what is longer is searched on its way behind that. Default 1 MiB: forms and JSON with a key among their fields are a few KiB, and a
    /// hundred of the largest at once are no more than a hundred MiB.
    pub body_slot: usize,
    /// `bodies`: of all bodies that are read before they are sent (`body_slot`, signatures over a body, approvals),
    /// held at once. Default 256 MiB: eight of the largest that are signed, and thousands of those with a key.
    pub bodies: usize,
    /// `bodies_per_agent`: the same, of one agent. Default 64 MiB, a quarter: four agents that send nothing else
    /// leave nothing for a fifth, and one leaves most.
    pub bodies_per_agent: usize,
    /// `headers`: fields of one request. Default 100, as of Apache: browsers send 20, SDKs 15.
    pub headers: usize,
    /// `streams`: of one HTTP/2 connection, open at once. Default 128: what nginx allows, and more
    /// than the 100 under which the protocol advises not to go. A client with more waits, or opens
    /// another connection.
    pub streams: u32,
    /// `handshake`: TLS with the agent. Default 10 s.
    pub handshake: Duration,
    /// `failure_delay`: how long the answer to a caller that fails to show who it is waits at most, after
    /// several failures from its source or for its agent. Default 2 s: a client that retries at once for
    /// ever asks 30 times a minute and not 30,000 times; `0s` lets none wait.
    pub failure_delay: Duration,
    /// `head_time`: from the first byte of a head to its end. Default 15 s: a head fits into ten
    /// packets; what takes longer is slow on purpose.
    pub head_time: Duration,
    /// `idle_tunnel`: how long a tunnel may say nothing. Default 10 min: longer than the keep-alive
    /// of every client seen, shorter than a forgotten one.
    pub idle_tunnel: Duration,
    /// `idle_reader`: how long an agent may take nothing of an answer. Default 5 min: a program that
    /// is stopped in a debugger, or a laptop that sleeps, may yet go on; a connection that is held
    /// open for nothing has an origin's connection at its other end.
    pub idle_reader: Duration,
    /// `ping_after`: how long an agent's HTTP/2 connection may say nothing before it is asked whether
    /// it lives. Default 1 min: load balancers forget after four minutes or six what says nothing
    /// (Azure's, AWS's), and a question costs one packet each way.
    pub ping_after: Duration,
    /// `drain`: how long requests in flight may take at shutdown. Default 25 s, under the 30 s
    /// after which Kubernetes kills.
    pub drain: Duration,
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Config {
    /// What an empty file means, with everything in `home`.
    #[must_use]
    pub fn defaults(home: &Path) -> Self {
        Self {
            proxy: Proxy::default(),
            identity: Identity::default(),
            ops: Ops::default(),
            upstream: Upstream::default(),
            audit: Audit {
                dir: home.join("audit"),
                fsync: Fsync::Every(seconds(1)),
                retain: Retain::Forever,
                max_file: 256 << 20,
            },
            vault: Vault {
                store: home.join("vault.db"),
                key: KeySource::File(home.join("master.key")),
            },
            approvals: Approvals::default(),
            anomalies: Anomalies::default(),
            admin: Admin::defaults(home),
            credentials: Credentials::default(),
            log: Log { level: Level::Info, format: LogFormat::Text },
            limits: Limits::default(),
        }
    }

    /// The file that `locum init` writes: every setting with its default, commented out, so that a
    /// better default of a later version is not held back by a file that only repeats the old one.
    /// Lines with `##` explain; a setting is set by removing the `#` before it and its sections.
    #[must_use]
    pub fn default_text() -> &'static str {
        include_str!("config/locum.yaml")
    }

    /// Reads a configuration. Relative paths start at `home`.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its place and what to do.
    pub fn parse(source: Source, home: &Path) -> Result<Self, Report> {
        let document = Document::parse(source, &ReadLimits::CONFIG)?;
        let mut reader = document.reader();
        let config = read::config(&mut reader, document.root(), home);
        reader.finish(config)
    }

    /// Reads a configuration file. One that does not exist means the defaults.
    ///
    /// # Errors
    /// As [`Config::parse`]; also when the file cannot be read, or everyone can write it.
    pub fn load(path: &Path, home: &Path) -> Result<Self, Report> {
        let name = path.display().to_string();
        match Source::read(path, &name, &ReadLimits::CONFIG)? {
            Some(source) => Self::parse(source, home),
            None => Ok(Self::defaults(home)),
        }
    }

    /// The settings in which `new` differs and which this process cannot change while it runs.
    /// All others (upstreams, the log's level) act from the next request on.
    #[must_use]
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let fixed = [
            // Sockets are made once, at the start; their certificates may change.
            ("proxy.listen", self.proxy.same_doors(&new.proxy)),
            ("ops.listen", self.ops.listen == new.ops.listen),
            ("admin", self.admin == new.admin),
            // One process writes one log and reads one vault, each under a lock.
            ("audit", self.audit == new.audit),
            ("vault", self.vault == new.vault),
            // The log's writer is global to the process.
            ("log.format", self.log.format == new.log.format),
            // Whom to tell is known from the start.
            ("approvals", self.approvals == new.approvals),
            // What is learned is learned by one measure.
            ("anomalies", self.anomalies == new.anomalies),
            // A live connection keeps the limits it began with; two sets at once would add up.
            ("limits", self.limits == new.limits),
        ];
        fixed.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

impl Default for Ops {
    fn default() -> Self {
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 3129)));
        Self { listen, allow_remote: false }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: seconds(10),
            tls: seconds(10),
            response: seconds(5 * 60),
            idle: seconds(10 * 60),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self { per_host: 512, total: 2048, idle: seconds(50), age: seconds(10 * 60) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_agent: 2_000,
            head_bytes: 64 << 10,
            url_bytes: 16 << 10,
            body_slot: 1 << 20,
            bodies: 256 << 20,
            bodies_per_agent: 64 << 20,
            headers: 100,
            streams: 128,
            handshake: seconds(10),
            failure_delay: seconds(2),
            head_time: seconds(15),
            idle_tunnel: seconds(10 * 60),
            idle_reader: seconds(5 * 60),
            ping_after: seconds(60),
            drain: seconds(25),
        }
    }
}

#[cfg(test)]
mod tests;
