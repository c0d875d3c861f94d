//! The one directory that everything is in, and the names in it.

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Failure;
use super::checkup::Health;
use crate::agent::{DEFAULT_WORKSPACE, default_workspace, qualified};
use crate::files::{self, FileError};
use crate::policy;
use crate::reference::Name;

/// A home: one directory of mode 0700.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
    /// Which of its workspaces is worked in.
    workspace: Name,
}

impl Home {
    /// The home that the flag names, or `LOCUM_HOME`, or the platform's data directory.
    ///
    /// # Errors
    /// When none of them is given and there is no home directory to look in.
    pub fn locate(flag: Option<&Path>) -> Result<Self, Failure> {
        let given = flag.map(Path::to_owned).or_else(|| env_path("LOCUM_HOME"));
        let Some(path) = given.or_else(default_home) else {
            return Err(Failure::usage("there is no home to work in")
                .help("give one with --home DIR, or set LOCUM_HOME"));
        };
        let path = std::path::absolute(&path)
            .map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
        Ok(Self { path, workspace: default_workspace() })
    }

    /// The workspace that is worked in.
    #[must_use]
    pub fn workspace(&self) -> &Name {
        &self.workspace
    }

    /// The same home, to work in another of its workspaces.
    #[must_use]
    pub fn in_workspace(&self, workspace: &Name) -> Self {
        Self { path: self.path.clone(), workspace: workspace.clone() }
    }

    /// Whether `init` was run here.
    #[must_use]
    pub fn exists(&self) -> bool {
        // Either will do: `vault.store` may lead elsewhere, and no config means the defaults.
        [self.config(), self.vault()].iter().any(|path| path.symlink_metadata().is_ok())
    }

    /// Why nobody can tell whether it is there; none when it is not.
    fn hidden(&self) -> Option<(PathBuf, std::io::Error)> {
        use std::io::ErrorKind;
        let each = [self.config(), self.vault()].into_iter();
        let errors = each.filter_map(|path| path.symlink_metadata().err().map(|e| (path, e)));
        let absent = |kind| matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory);
        errors.into_iter().find(|(_, error)| !absent(error.kind()))
    }

    /// An error that says what to run, when `init` was not.
    ///
    /// # Errors
    /// When there is no vault here.
    pub fn require(&self) -> Result<(), Failure> {
        if !self.exists() {
            if let Some((path, error)) = self.hidden() {
                return Err(Failure::new(format!("{}: {error}", path.display())).help(
                    "run this as the user whose home it is, or name another with --home DIR or LOCUM_HOME",
                ));
            }
            return Err(Failure::usage(format!("{} is not a Locum home", self.path.display()))
                .help("run `locum init`, or name the right home with --home DIR or LOCUM_HOME"));
        }
        files::check_directory(&self.path)?;
        self.require_closed()
    }

    /// A home lets nobody else in. One that does is not changed behind its owner's back.
    ///
    /// # Errors
    /// When group or others may read the directory, with the command that mends it.
    pub fn require_closed(&self) -> Result<(), Failure> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path.display();
        let metadata = std::fs::symlink_metadata(&self.path)
            .map_err(|e| Failure::new(format!("{path}: {e}")))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 == 0 {
            return Ok(());
        }
        Err(Failure::new(format!("{path} has mode {mode:04o}, and others could look into it"))
            .help(format!("run `chmod 700 {path}`, or choose another home")))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process config.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join("locum.yaml")
    }

    /// The directory of the workspace's policies.
    #[must_use]
    pub fn policies(&self) -> PathBuf {
        if self.workspace.as_str() == DEFAULT_WORKSPACE {
            self.path.join("policies")
        } else {
            self.own_directory().join("policies")
        }
    }

    /// What another workspace than the default one has in the home for itself.
    pub(super) fn own_directory(&self) -> PathBuf {
        self.path.join("workspaces").join(self.workspace.as_str())
    }

    /// The organisation's policies, which bound those of every workspace. Beside the default one's, where
    /// they were when there was no other.
    #[must_use]
    pub fn organisation(&self) -> PathBuf {
        self.path.join("policies").join(policy::ORGANISATION)
    }

    /// The vault.
    #[must_use]
    pub fn vault(&self) -> PathBuf {
        self.path.join("vault.db")
    }

    /// The master key's default file.
    #[must_use]
    pub fn master_key(&self) -> PathBuf {
        self.path.join("master.key")
    }

    /// Our CA's certificate, alone.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.path.join("ca.pem")
    }

    /// The system's roots and our CA.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.path.join("ca-bundle.pem")
    }

    /// The audit log's default directory.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.path.join("audit")
    }

    /// Where `run` and `env` put the files of their clients.
    #[must_use]
    pub fn clients(&self) -> PathBuf {
        self.path.join("clients")
    }

    /// Where a successor asks the running proxy for its sockets.
    #[must_use]
    pub fn take_over(&self) -> PathBuf {
        self.path.join("take-over.sock")
    }

    /// The master key, sealed for those who keep shares.
    #[must_use]
    pub fn recovery(&self) -> PathBuf {
        self.path.join("master.recovery")
    }

    /// Where the running proxy is told to open its vault, or to lock it.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Where runs join the private proxy that one of them has started.
    #[must_use]
    pub fn run_socket(&self) -> PathBuf {
        self.path.join("run.sock")
    }

    /// Whose lock a run has while it looks for that proxy, or starts it; and an `init` at its work.
    #[must_use]
    pub fn run_lock(&self) -> PathBuf {
        self.path.join("run.lock")
    }

    /// Which versions the runs began with that the proxy has seen: kept over its restart.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.path.join("runs.seen")
    }

    fn health_file(&self) -> PathBuf {
        self.path.join("health.json")
    }

    /// Notes the last verdict on each credential that a running proxy has tried at its provider.
    pub(super) fn write_health(&self, all: &BTreeMap<String, Health>) -> Result<(), FileError> {
        // Plain strings and numbers always serialise.
        let text = serde_json::to_vec_pretty(all).unwrap_or_default();
        files::replace_private(&self.health_file(), &text)
    }

    /// The last verdicts on credentials of the workspace, by name; none without health checks.
    #[must_use]
    pub fn health(&self) -> BTreeMap<String, Health> {
        let text = files::read_private(&self.health_file(), 16 * 1024 * 1024).ok();
        let all: BTreeMap<String, Health> =
            text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let own = |(name, health): (String, Health)| {
            let plain = name.rsplit('/').next()?.to_owned();
            (*qualified(self.workspace.as_str(), &plain) == *name).then_some((plain, health))
        };
        all.into_iter().filter_map(own).collect()
    }

    fn serving_file(&self) -> PathBuf {
        self.path.join("serve.json")
    }

    /// Says where the proxy of this home listens.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn announce(&self, serving: &Serving) -> Result<(), FileError> {
        // Plain strings and numbers always serialise.
        let text = serde_json::to_vec_pretty(serving).unwrap_or_default();
        files::replace_private(&self.serving_file(), &text)
    }

    /// Takes the announcement back.
    pub fn withdraw(&self) {
        // Gone already, or a next proxy's start will replace it.
        let _ = std::fs::remove_file(self.serving_file());
    }

    /// Where the proxy of this home said that it listens. It may have been killed since: the lock of
    /// the audit log tells.
    #[must_use]
    pub fn announced(&self) -> Option<Serving> {
        let text = files::read_private(&self.serving_file(), 64 * 1024).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// Where a proxy listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serving {
    /// Its process.
    pub pid: u32,
    /// Its proxy ports in the clear.
    pub proxy: Vec<SocketAddr>,
    /// Its proxy ports with TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<SocketAddr>,
    /// Its Unix sockets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unix: Vec<PathBuf>,
    /// Its operations port.
    pub ops: Option<SocketAddr>,
    /// The administrators' port, where they have one and no Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// The fingerprint of the CA that it shows its clients; none where it is locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

impl Serving {
    /// Every place where agents connect, as they would write it.
    pub fn places(&self) -> impl Iterator<Item = String> {
        let clear = self.proxy.iter().map(|address| format!("http://{address}"));
        let tls = self.tls.iter().map(|address| format!("https://{address}"));
        let unix = self.unix.iter().map(|path| format!("unix:{}", path.display()));
        clear.chain(tls).chain(unix)
    }

    /// A port in the clear, which every client can use.
    ///
    /// # Errors
    /// When all of them have TLS or are Unix sockets.
    pub fn clear(&self) -> Result<SocketAddr, Failure> {
        self.proxy.first().copied().ok_or_else(|| {
            Failure::new("the proxy of this home has no port in the clear, and many clients cannot use another")
                .help("add one on loopback to proxy.listen, such as {address: '127.0.0.1:3128', tls: off}")
        })
    }
}

fn env_path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// `$XDG_DATA_HOME/locum` or `~/.local/share/locum`; on macOS `~/Library/Application Support/locum`.
fn default_home() -> Option<PathBuf> {
    if let Some(data) = env_path("XDG_DATA_HOME").filter(|p| p.is_absolute()) {
        return Some(data.join("locum"));
    }
    let home = env_path("HOME")?;
    let data =
        if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
    Some(home.join(data).join("locum"))
}
