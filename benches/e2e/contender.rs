//! Who is measured: no proxy, the plain tunnel, and Locum as a user would start it.

use std::cell::OnceCell;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Result;
use super::client::{Way, connector};
use super::origin::{COLD, HOST, KEY, Origin, UNBOUND};
use super::process::Process;

/// The kinds of contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// No proxy.
    Direct,
    /// The plain CONNECT tunnel: the floor, which the others are compared with.
    Tunnel,
    /// Locum, intercepting and injecting.
    Locum,
    /// Locum, copying bytes to a host that no credential is bound to.
    #[value(name = "opaque")]
    LocumOpaque,
    /// Another build of Locum, in the same part. Takes part where its binary is given.
    Other,
    /// Envoy, intercepting and injecting. Takes part where its binary is given.
    Envoy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "no proxy",
            Self::Tunnel => "plain tunnel",
            Self::Locum => "Locum",
            Self::LocumOpaque => "Locum, opaque",
            Self::Other => "other Locum",
            Self::Envoy => "Envoy",
        })
    }
}

/// One who is measured. Its process, if it has one, ends with it.
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) way: Way,
    pub(crate) host: &'static str,
    pub(crate) process: Option<Process>,
}

/// Starts contenders before one origin.
pub(crate) struct Field {
    pub(crate) origin: Origin,
    /// For homes, certificates and logs.
    scratch: tempfile::TempDir,
    /// One home for each process of Locum, made when it is first wanted.
    injecting: OnceCell<Home>,
    copying: OnceCell<Home>,
    other: OnceCell<Home>,
    tools: Tools,
}

/// What is not built with this benchmark.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct Tools {
    /// The binary of Envoy, which then takes part.
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// The binary of another build of Locum, which then takes part: before and after, in one run.
    #[arg(long, value_name = "FILE")]
    other: Option<PathBuf>,
    /// A profiler with its arguments, under which Locum runs: `--under "valgrind --tool=callgrind"`.
    #[arg(long, value_name = "COMMAND", default_value = "")]
    under: String,
}

impl Field {
    pub(crate) fn new(tools: Tools) -> Result<Self> {
        let origin = Origin::start()?;
        // Beside the other build products: the audit log belongs on a disk, and /tmp is often none.
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        Ok(Self {
            origin,
            scratch,
            injecting: OnceCell::new(),
            copying: OnceCell::new(),
            other: OnceCell::new(),
            tools,
        })
    }

    /// Whether such a one can be started.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Envoy => self.tools.envoy.is_some(),
            Kind::Other => self.tools.other.is_some(),
            _ => true,
        }
    }

    /// The home of one process of Locum; made when it is first wanted.
    fn home(&self, kind: Kind) -> Result<&Home> {
        let other = self.tools.other.as_deref();
        let (cell, binary) = match kind {
            Kind::LocumOpaque => (&self.copying, None),
            Kind::Other => (&self.other, other),
            _ => (&self.injecting, None),
        };
        if let Some(home) = cell.get() {
            return Ok(home);
        }
        let binary = binary.unwrap_or(Path::new(LOCUM));
        let scratch = self.scratch.path().join(format!("{kind:?}"));
        let home = Home::new(binary, &scratch, &self.origin)?;
        Ok(cell.get_or_init(|| home))
    }

    /// Starts a fresh one, so that no scenario finds the memory of the one before.
    pub(crate) fn start(&self, kind: Kind) -> Result<Contender> {
        let direct = |address, proxy: Option<&str>| -> Result<Way> {
            Ok(Way {
                address,
                proxy: proxy.map(str::to_owned),
                bearer: format!("Bearer {KEY}").parse()?,
                tls: connector(Arc::clone(&self.origin.roots))?,
            })
        };
        Ok(match kind {
            Kind::Direct => {
                let way = direct(self.origin.address, None)?;
                Contender { kind, way, host: HOST, process: None }
            }
            Kind::Tunnel => {
                let (process, address) = start_tunnel(self.origin.address)?;
                let way = direct(address, Some("Basic bm9ib2R5Og=="))?;
                Contender { kind, way, host: HOST, process: Some(process) }
            }
            Kind::Locum | Kind::Other => {
                let home = self.home(kind)?;
                let process = home.serve(&self.tools.under)?;
                Contender { kind, way: home.way()?, host: HOST, process: Some(process) }
            }
            Kind::LocumOpaque => {
                let home = self.home(kind)?;
                let process = home.serve(&self.tools.under)?;
                let way = direct(home.proxy, Some(&home.credentials))?;
                Contender { kind, way, host: UNBOUND, process: Some(process) }
            }
            Kind::Envoy => {
                let (process, address) = self.start_envoy()?;
                let mut way = direct(address, Some("Basic bm9ib2R5Og=="))?;
                way.bearer = "Bearer placeholder".parse()?;
                Contender { kind, way, host: HOST, process: Some(process) }
            }
        })
    }

    fn start_envoy(&self) -> Result<(Process, SocketAddr)> {
        let binary = self.tools.envoy.as_ref().ok_or("give the binary of Envoy with --envoy")?;
        let address = free_port()?;
        let dir = self.scratch.path();
        let files = ["ca.pem", "leaf.pem", "key.pem", "envoy.yaml", "envoy.log"];
        let [ca, leaf, key, config, log] = files.map(|name| dir.join(name));
        fs::write(&ca, &self.origin.ca_pem)?;
        fs::write(&leaf, &self.origin.leaf_pem)?;
        fs::write(&key, &self.origin.key_pem)?;
        let text = include_str!("envoy.yaml")
            .replace("@PORT@", &address.port().to_string())
            .replace("@ORIGIN@", &self.origin.address.port().to_string())
            .replace("@CA@", &ca.to_string_lossy())
            .replace("@LEAF@", &leaf.to_string_lossy())
            .replace("@KEY@", &key.to_string_lossy())
            .replace("@HOST@", HOST)
            .replace("@SECRET@", KEY);
        fs::write(&config, text)?;
        let mut command = Command::new(binary);
        command.args(["--log-level", "warn", "--disable-hot-restart", "--concurrency"]);
        // As many as Locum's runtime has.
        command.arg(std::thread::available_parallelism()?.to_string());
        command.arg("-c").arg(config);
        Ok((serve_with(&mut command, &log, address)?, address))
    }

    /// Checks that the audit log holds, record for record.
    pub(crate) fn verify_audit(&self) -> Result<()> {
        for home in
            [&self.injecting, &self.copying, &self.other].into_iter().filter_map(OnceCell::get)
        {
            home.run(&["audit", "verify"], "")?;
        }
        Ok(())
    }
}

/// The tunnel is this very program in another part.
fn start_tunnel(origin: SocketAddr) -> Result<(Process, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--as-tunnel-to", &origin.to_string()]).stdout(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    let out = process.child().stdout.take().ok_or("the tunnel has no output")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    Ok((process, line.trim().parse()?))
}

/// The binary that was built with this benchmark.
const LOCUM: &str = env!("CARGO_BIN_EXE_locum");

/// A home of Locum with a credential and an agent in it.
struct Home {
    binary: PathBuf,
    path: PathBuf,
    /// What `serve` says.
    log: PathBuf,
    proxy: SocketAddr,
    /// `Basic ...` of the agent.
    credentials: String,
}

impl Home {
    fn new(binary: &Path, scratch: &Path, origin: &Origin) -> Result<Self> {
        fs::create_dir(scratch)?;
        let (path, log) = (scratch.join("home"), scratch.join("log"));
        let binary = binary.to_owned();
        let credentials = String::new();
        let mut home = Self { binary, path, log, proxy: free_port()?, credentials };
        home.run(&["init"], "")?;
        home.run(&["credential", "add", "openai", "--provider", "openai"], KEY)?;
        let header = "Authorization: Bearer {secret}";
        let to = format!("https://{COLD}");
        home.run(&["credential", "add", "cold", "--to", &to, "--header", header], KEY)?;
        let agent = home.run(&["agent", "add", "bench", "--json"], "")?;
        let agent: serde_json::Value = serde_json::from_str(&agent)?;
        let token = agent["token"].as_str().ok_or("`agent add --json` gave no token")?;
        home.credentials = basic("bench", token);
        home.configure(scratch, origin)?;
        Ok(home)
    }

    /// All hosts lead to the origin, whose CA is believed for them and no other.
    fn configure(&self, scratch: &Path, origin: &Origin) -> Result<()> {
        let ca_file = scratch.join("origin-ca.pem");
        fs::write(&ca_file, &origin.ca_pem)?;
        let mut config = format!(
            "proxy:\n  listen: {}\nops:\n  listen: {}\nupstream:\n  hosts:\n",
            self.proxy,
            free_port()?
        );
        for host in [HOST, UNBOUND, COLD] {
            let (address, ca_file) = (origin.address, ca_file.display());
            writeln!(config, "    '{host}': {{address: '{address}', ca_file: '{ca_file}'}}")?;
        }
        fs::write(self.path.join("locum.yaml"), config)?;
        Ok(())
    }

    /// Runs a command as a user would, and returns what it printed.
    fn run(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or("the command has no input")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("`locum {}`: {}\n{said}", arguments.join(" "), output.status).into())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--home").arg(&self.path);
        command
    }

    fn serve(&self, under: &str) -> Result<Process> {
        let mut words = under.split_whitespace();
        let mut command = match words.next() {
            None => self.command(),
            Some(tool) => {
                let mut command = Command::new(tool);
                command.args(words).arg(&self.binary).arg("--home").arg(&self.path);
                command
            }
        };
        let mut process = serve_with(command.arg("serve"), &self.log, self.proxy)?;
        if !under.is_empty() {
            process.be_patient();
        }
        Ok(process)
    }

    fn way(&self) -> Result<Way> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path.join("ca.pem"))?)?;
        Ok(Way {
            address: self.proxy,
            proxy: Some(self.credentials.clone()),
            bearer: "Bearer locum_openai".parse()?,
            tls: connector(Arc::new(roots))?,
        })
    }
}

/// Starts a proxy, and waits until it accepts connections.
fn serve_with(command: &mut Command, log: &Path, address: SocketAddr) -> Result<Process> {
    let file = File::create(log)?;
    let mut process = Process::start(command.stdout(file.try_clone()?).stderr(file))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        if process.check().is_err() || Instant::now() > deadline {
            return Err(format!("it did not start:\n{}", fs::read_to_string(log)?).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(process)
}

fn basic(user: &str, password: &str) -> String {
    let pair = format!("{user}:{password}");
    format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()))
}

/// A port that was free a moment ago. Locum's contract has no way to say which one it chose.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
