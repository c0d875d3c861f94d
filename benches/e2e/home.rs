//! A home of Locum as a user would make it: with its own commands, a credential and an agent.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::client::{Way, connector};
use super::contender::{basic, free_port, serve_with};
use super::origin::{COLD, HOST, KEY, Origin, UNBOUND};
use super::process::Process;
use super::{Http, Result};

/// The binary that was built with this benchmark.
pub(crate) const LOCUM: &str = env!("CARGO_BIN_EXE_locum");

/// A home of Locum with a credential and an agent in it.
#[derive(Clone)]
pub(crate) struct Home {
    binary: PathBuf,
    pub(crate) path: PathBuf,
    /// What `serve` says.
    log: PathBuf,
    pub(crate) proxy: SocketAddr,
    /// `Basic ...` of the agent.
    pub(crate) credentials: String,
    http: Http,
}

impl Home {
    pub(crate) fn new(binary: &Path, scratch: &Path, origin: &Origin, http: Http) -> Result<Self> {
        fs::create_dir(scratch)?;
        let (path, log) = (scratch.join("home"), scratch.join("log"));
        let binary = binary.to_owned();
        let mut home =
            Self { binary, path, log, proxy: free_port()?, credentials: String::new(), http };
        home.run(&["init"], "")?;
        home.run(&["credential", "add", "openai", "--provider", "openai"], KEY)?;
        let header = "Authorization: Bearer {secret}";
        let to = format!("https://{COLD}");
        home.run(&["credential", "add", "cold", "--to", &to, "--header", header], KEY)?;
        home.credentials = home.add_agent("bench")?;
        home.configure(scratch, origin)?;
        Ok(home)
    }

    /// Has answers to the measured agent that cannot be searched pass.
    pub(crate) fn let_unsearched_pass(&self) -> Result<()> {
        let rule = format!(
            "version: 1\nrules:\n  - {{name: unsearched, agents: [bench], to: ['https://{HOST}'], \
             use: [openai], scrub: {{undecodable: pass}}}}\n"
        );
        Ok(fs::write(self.path.join("policies/first.yaml"), rule)?)
    }

    /// Returns the `Basic ...` of a new agent.
    pub(crate) fn add_agent(&self, name: &str) -> Result<String> {
        let agent = self.run(&["agent", "add", name, "--json"], "")?;
        let agent: serde_json::Value = serde_json::from_str(&agent)?;
        let token = agent["token"].as_str().ok_or("`agent add --json` gave no token")?;
        Ok(basic(name, token))
    }

    /// All hosts lead to the origin, whose CA is believed for them and no other. One agent has all
    /// the tunnels.
    fn configure(&self, scratch: &Path, origin: &Origin) -> Result<()> {
        let ca_file = scratch.join("origin-ca.pem");
        fs::write(&ca_file, &origin.papers.ca)?;
        let mut config = format!(
            "proxy:\n  listen: {}\nops:\n  listen: {}\n\
             limits:\n  connections_per_agent: 10000\n\
             upstream:\n  hosts:\n",
            self.proxy,
            free_port()?
        );
        for host in [HOST, UNBOUND, COLD] {
            let (address, ca_file) = (origin.address(self.http), ca_file.display());
            writeln!(config, "    '{host}': {{address: '{address}', ca_file: '{ca_file}'}}")?;
        }
        fs::write(self.path.join("locum.yaml"), config)?;
        Ok(())
    }

    /// Runs a command as a user would, and returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Result<String> {
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

    /// Starts the proxy, under a profiler if one is named.
    pub(crate) fn serve(&self, under: &str) -> Result<Process> {
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

    /// The agent's way through this home's proxy, with the placeholder in the key's place.
    pub(crate) fn way(&self) -> Result<Way> {
        let ca = fs::read(self.path.join("ca.pem"))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            roots.add(certificate?)?;
        }
        Ok(Way {
            address: self.proxy,
            port: 443,
            proxy: Some(self.credentials.clone()),
            bearer: "Bearer locum_openai".parse()?,
            http: self.http,
            tls: connector(Arc::new(roots), self.http)?,
        })
    }
}
