//! What the demo plays on: a throw-away home, origins, the real proxy and an agent. Everything is
//! made with the commands that a newcomer would type, run from this very binary.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::agent::Agent;
use super::client;
use super::forms::Search;
use super::origin::{Origin, OriginAuthority};
use super::scratch::Scratch;
use crate::app::{Failure, Home, Opened, Serving};
use crate::files;
use crate::reference::Name;
use crate::secret::Secret;

/// Whose agent it is.
pub(super) const AGENT: &str = "researcher";
/// The provider whose key the story is about.
pub(super) const OPENAI: &str = "api.openai.com";
/// Another provider, with a key of its own.
pub(super) const ANTHROPIC: &str = "api.anthropic.com";
/// A host that the policy allows and that no credential is bound to.
pub(super) const COLLECTOR: &str = "collector.example.net";

/// What the two keys begin with, in bytes at least: as much of them as is no secret.
const KNOWN: usize = "sk-proj-".len();

/// The proxy has that long to start.
const START: Duration = Duration::from_secs(20);
/// The proxy has that long to stop, with nothing in flight.
const STOP: Duration = Duration::from_secs(10);

/// All of it. Dropped in the order of the fields: nobody writes any more when the directory goes.
pub(in crate::cli) struct Stage {
    pub(super) agent: Agent,
    pub(super) proxy: Child,
    pub(super) serving: Serving,
    pub(super) openai: Origin,
    pub(super) anthropic: Origin,
    pub(super) collector: Origin,
    /// A listener that nobody may be led to.
    pub(super) canary: TcpListener,
    /// The CA of the origins, PEM.
    pub(super) origin_ca: String,
    /// Finds the keys of the demo, whatever became of them.
    pub(super) search: Search,
    pub(super) home: Home,
    pub(super) scratch: Scratch,
}

impl Stage {
    /// Makes the home, and starts everybody.
    pub(in crate::cli) async fn raise() -> Result<Self, Failure> {
        let scratch = Scratch::make()?;
        let keys = Keys::make()?;
        let search = keys.search();
        let authority = OriginAuthority::make()?;
        let openai = Origin::start(OPENAI, Some(Arc::clone(&keys.openai)), &authority).await?;
        let anthropic =
            Origin::start(ANTHROPIC, Some(Arc::clone(&keys.anthropic)), &authority).await?;
        let collector = Origin::start(COLLECTOR, None, &authority).await?;
        let home = Home::locate(Some(&scratch.path().join("home")))?;
        write_config(&home, &authority, &[&openai, &anthropic, &collector])?;
        furnish(&home, &keys).await?;
        let mut proxy = serve(&home)?;
        let serving = started(&home, &mut proxy).await?;
        let agent = Agent::start(&home, AGENT).await?;
        let origin_ca = authority.pem;
        let canary = canary()?;
        let stage = Self {
            agent,
            proxy,
            serving,
            openai,
            anthropic,
            collector,
            canary,
            origin_ca,
            search,
            home,
            scratch,
        };
        stage.allow_local_ports().await?;
        Ok(stage)
    }

    /// Writes a rule that lets the agent through to the ports of the attacks, so that it is not the
    /// policy that stops them, and waits until the running proxy has it.
    async fn allow_local_ports(&self) -> Result<(), Failure> {
        let generation = self.counter("locum_policy_generation").await?;
        let canary = self.canary.local_addr().ok();
        let addresses = self.serving.proxy.iter().copied().chain(self.serving.ops).chain(canary);
        let to: Vec<String> = addresses.map(|a| format!("\"https://*:{}\"", a.port())).collect();
        let text = LOCAL_PORTS_POLICY.replace("{to}", &to.join(", "));
        write(&self.home.policies().join("local-ports.yaml"), &text)?;
        let begun = Instant::now();
        while self.counter("locum_policy_generation").await? == generation {
            if begun.elapsed() > START {
                return Err(with_log(&self.home, "the proxy took up no new policy"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// `http://127.0.0.1:port` of the proxy, without a token.
    pub(super) fn proxy_url(&self) -> String {
        self.serving.proxy.first().map_or_else(String::new, |address| format!("http://{address}"))
    }

    /// A page of the operations port.
    pub(super) async fn operations(&self, path: &str) -> Result<client::Answer, Failure> {
        let address =
            self.serving.ops.ok_or_else(|| Failure::new("there is no operations port"))?;
        client::get_plain(address, path)
            .await
            .map_err(|e| Failure::new(format!("http://{address}{path}: {e}")))
    }

    /// The value of a counter.
    pub(super) async fn counter(&self, name: &str) -> Result<u64, Failure> {
        let page = self.operations("/metrics").await?;
        let text = String::from_utf8_lossy(&page.body).into_owned();
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = values.find_map(|value| value.parse().ok());
        value.ok_or_else(|| Failure::new(format!("/metrics has no {name}")))
    }

    /// Connections and requests that reached each origin: a refused call changes none of them.
    pub(super) fn reached(&self) -> Vec<usize> {
        let origins = [&self.openai, &self.anthropic, &self.collector];
        origins.iter().flat_map(|origin| [origin.connections(), origin.requests()]).collect()
    }

    /// The home, opened as any command would.
    pub(super) fn open(&self) -> Result<Opened, Failure> {
        Opened::open(&self.home)
    }

    /// The fingerprint of the secret that the vault holds under a name, and its version.
    pub(super) fn vault_fingerprint(&self, name: &str) -> Result<(String, u32), Failure> {
        let opened = self.open()?;
        let name: Name = name.parse().map_err(|_| Failure::new("no name"))?;
        let version = opened.vault.credential(&name)?.current().map_or(0, |v| v.version);
        let secret = opened.vault.snapshot()?.open(&name, version)?;
        Ok((secret.expose(super::origin::fingerprint), version))
    }

    /// Asks the proxy to stop, and waits until it has.
    pub(super) async fn stop_proxy(&mut self) -> Result<ExitStatus, Failure> {
        let id = self.proxy.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself; its status tells.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(STOP, self.proxy.wait()).await {
            Ok(status) => status.map_err(|e| Failure::new(format!("the proxy: {e}"))),
            Err(_) => Err(Failure::new(format!("the proxy did not stop within {STOP:?}"))),
        }
    }
}

/// The keys that the origins demand. Only the origins, the vault and the search have them.
struct Keys {
    openai: Arc<Secret>,
    anthropic: Arc<Secret>,
}

impl Keys {
    fn make() -> Result<Self, Failure> {
        Ok(Self {
            openai: Arc::new(make_key("sk-proj-")?),
            anthropic: Arc::new(make_key("sk-ant-api03-")?),
        })
    }

    fn search(&self) -> Search {
        self.openai.expose(|one| self.anthropic.expose(|other| Search::new([one, other], KNOWN)))
    }
}

/// A key that nobody has, in the shape of a provider's, with the characters that encodings change.
fn make_key(prefix: &str) -> Result<Secret, Failure> {
    let mut random = [0; 36];
    getrandom::fill(&mut random).map_err(|_| Failure::new("the system has no randomness"))?;
    let text = data_encoding::BASE64URL_NOPAD.encode(&random);
    let (first, rest) = text.split_at(20);
    Ok(Secret::new(format!("{prefix}{first}/{rest}+{}=", &first[..8]).into_bytes()))
}

/// Decrypts the host, so that what an agent sends there is looked at.
const COLLECTOR_POLICY: &str = "\
version: 1
rules:
  - name: a host that is looked into, and that no credential may go to
    agents: [\"*\"]
    to: [https://collector.example.net]
";

/// Names everything on these ports, and so also this machine.
const LOCAL_PORTS_POLICY: &str = "\
version: 1
rules:
  - name: ports that only the address guard keeps shut
    agents: [\"*\"]
    to: [{to}]
    tunnel: opaque
";

/// Its port is bound to loopback. Asked without waiting, it says whether anybody came.
fn canary() -> Result<TcpListener, Failure> {
    let failed = |e: std::io::Error| Failure::new(format!("the canary: {e}"));
    let canary = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
    canary.set_nonblocking(true).map_err(failed)?;
    Ok(canary)
}

fn write_config(
    home: &Home,
    authority: &OriginAuthority,
    origins: &[&Origin],
) -> Result<(), Failure> {
    files::create_directory(home.path())?;
    let ca = home.path().join("origin-ca.pem");
    write(&ca, &authority.pem)?;
    let mut text = String::from(
        "# Free ports; logs at the level that tells most; origins that this machine plays itself.\n\
         proxy: {listen: '127.0.0.1:0'}\n\
         ops: {listen: '127.0.0.1:0'}\n\
         log: {level: trace, format: json}\n\
         upstream:\n  hosts:\n",
    );
    for origin in origins {
        let (host, address) = (origin.host, origin.address);
        text +=
            &["    ", host, ": {address: '", &address.to_string(), "', ca_file: origin-ca.pem}\n"]
                .concat();
    }
    write(&home.config(), &text)
}

/// Does what the first page of the documentation says.
async fn furnish(home: &Home, keys: &Keys) -> Result<(), Failure> {
    locum(home, &["init"], None).await?;
    write(&home.policies().join("collector.yaml"), COLLECTOR_POLICY)?;
    for (name, key) in [("openai", &keys.openai), ("anthropic", &keys.anthropic)] {
        locum(home, &["credential", "add", name, "--provider", name], Some(key)).await?;
    }
    locum(home, &["agent", "add", AGENT], None).await
}

fn write(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    Ok(files::create_private(path, text.as_bytes())?)
}

/// A command of this binary on a home, and on nothing else. Killed when dropped.
pub(super) fn command(home: &Home, arguments: &[&str]) -> Result<Command, Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::new(format!("this program does not know its own file: {e}")))?;
    let mut command = Command::new(program);
    command
        .arg("--home")
        .arg(home.path())
        .args(arguments)
        .env_remove("LOCUM_HOME")
        .stdin(Stdio::null())
        .stderr(log(home)?)
        .kill_on_drop(true);
    Ok(command)
}

/// Where everything that is said on standard error goes: it is searched for keys later.
fn log(home: &Home) -> Result<Stdio, Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = log_path(home);
    let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    Ok(file.map_err(|e| Failure::new(format!("{}: {e}", path.display())))?.into())
}

fn log_path(home: &Home) -> PathBuf {
    home.path().with_file_name("log")
}

/// Runs a command to its end, with `input` on its standard input.
async fn locum(home: &Home, arguments: &[&str], input: Option<&Secret>) -> Result<(), Failure> {
    let what = arguments.join(" ");
    let failed = |e: std::io::Error| Failure::new(format!("locum {what}: {e}"));
    let mut command = command(home, arguments)?;
    command.stdout(log(home)?);
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().map_err(failed)?;
    if let (Some(secret), Some(mut pipe)) = (input, child.stdin.take()) {
        let bytes = zeroize::Zeroizing::new(secret.expose(<[u8]>::to_vec));
        pipe.write_all(&bytes).await.map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() { Ok(()) } else { Err(with_log(home, &format!("locum {what}: {status}"))) }
}

/// A failure of a child process, with the last that it said.
fn with_log(home: &Home, what: &str) -> Failure {
    let log = fs::read_to_string(log_path(home)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.len().saturating_sub(8);
    let said = lines.get(last..).unwrap_or_default().join("\n  ");
    Failure::new(format!("{what}\n  {said}"))
}

fn serve(home: &Home) -> Result<Child, Failure> {
    let mut command = command(home, &["serve"])?;
    command.stdout(Stdio::null());
    command.spawn().map_err(|e| Failure::new(format!("locum serve: {e}")))
}

/// Waits until the proxy says where it listens.
async fn started(home: &Home, proxy: &mut Child) -> Result<Serving, Failure> {
    let begun = Instant::now();
    while begun.elapsed() < START {
        if let Ok(Some(status)) = proxy.try_wait() {
            return Err(with_log(home, &format!("locum serve ended at once: {status}")));
        }
        match home.announced() {
            Some(serving) if Some(serving.pid) == proxy.id() => return Ok(serving),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    Err(with_log(home, &format!("locum serve did not start within {START:?}")))
}
