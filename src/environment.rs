//! What `locum run` and `locum env` set, remove and write, so that an unchanged program reaches its
//! providers through Locum, trusts Locum's CA, and holds placeholders where it held keys.
//!
//! No two HTTP clients agree on which variables they read, so the whole list is set, and every
//! inherited value that would lead around it is removed. What a client reads only from a file
//! (wget, PHP, the JVM) is written into a private directory. [`plan`] computes all this and touches
//! nothing; [`write_files`] is the part that does.

mod bundle;
mod error;
mod shell;
mod syntax;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bundle::STORE_PASSWORD;
pub use bundle::{Bundle, bundle, certificates, system_roots};
pub use error::EnvironmentError;
pub use shell::{Shell, shell_exports};
use syntax::{jvm_word, php_string, wgetrc};
pub use write::write_files;

/// A snapshot of an environment, in the order of the process's own block; of two entries with one
/// name the first counts, as it does for `getenv`.
pub type Snapshot = Vec<(OsString, OsString)>;

/// All that [`plan`] needs to know. Its `Debug` form shows no value: the URL holds an agent's token
/// and the inherited environment may hold keys.
pub struct Inputs {
    /// `http://agent:token@127.0.0.1:3128`, already percent-encoded.
    pub proxy_url: String,
    /// A loopback listener without authentication, bound to this run's agent, for the clients that
    /// never send proxy credentials.
    pub open_proxy: Option<SocketAddr>,
    /// Our CA alone, PEM; the caller keeps this file.
    pub ca_file: PathBuf,
    /// Where the roots of the system and our own CA go; [`plan`] plans this file.
    pub bundle_file: PathBuf,
    /// What goes there, and into the Java trust store.
    pub bundle: Bundle,
    /// A private directory for the other files of the plan. It must be Locum's own: PHP reads every
    /// `*.ini` in it.
    pub state_dir: PathBuf,
    /// The placeholders to hand out. Where two claim one variable, the first has it.
    pub placeholders: Vec<Placeholder>,
    /// Settings that are no secrets, by their variables. They go before placeholders.
    pub settings: BTreeMap<String, String>,
    /// Variables that would point an SDK away from its provider, such as `OPENAI_BASE_URL`.
    pub base_url_variables: Vec<String>,
    /// The environment of the parent.
    pub inherited: Snapshot,
    /// The contents of the user's own wgetrc, the file that [`user_wgetrc`] names.
    pub wgetrc: Option<Vec<u8>>,
}

/// What stands in the child's environment in place of a key.
pub struct Placeholder {
    /// The variables that clients of this credential read, such as `OPENAI_API_KEY`.
    pub variables: Vec<String>,
    /// The reference or stand-in.
    pub value: String,
}

/// What to do to an environment, and which files to write for it. Its `Debug` form names the
/// variables and shows no value.
pub struct Plan {
    /// Variables to set, whatever was inherited.
    pub set: BTreeMap<String, OsString>,
    /// Variables to remove; none of them is in `set`.
    pub remove: BTreeSet<String>,
    /// Variables that two placeholders with different values claim; the first of them is in `set`.
    pub contested: BTreeSet<String>,
    /// Files that the variables name.
    pub files: Vec<PlannedFile>,
}

/// A file to write. Its `Debug` form shows no contents.
pub struct PlannedFile {
    /// Absolute.
    pub path: PathBuf,
    /// All of it.
    pub contents: Vec<u8>,
    /// The permission bits it is created with.
    pub mode: u32,
}

/// Computes the environment of a child: it reads no file, no clock and no variable.
///
/// # Errors
/// When a path, address, variable name or value cannot be handed to the clients unchanged; nothing
/// is planned then, because a client that missed one setting would quietly go around Locum.
pub fn plan(inputs: &Inputs) -> Result<Plan, EnvironmentError> {
    inputs.check()?;
    let mut plan = Plan {
        set: BTreeMap::new(),
        remove: BTreeSet::new(),
        contested: BTreeSet::new(),
        files: vec![PlannedFile {
            path: inputs.bundle_file.clone(),
            contents: inputs.bundle.pem().into_bytes(),
            mode: 0o600,
        }],
    };
    plan.set_variables(inputs);
    plan.set_git(inputs);
    plan.set_wget(inputs)?;
    plan.set_php(inputs)?;
    plan.set_java(inputs)?;
    let settings = inputs.settings.iter();
    plan.set.extend(settings.map(|(name, text)| (name.clone(), OsString::from(text))));
    plan.hand_out_placeholders(inputs);
    plan.remove_ways_around(inputs);
    Ok(plan)
}

impl Plan {
    /// The whole environment of the child: `inherited`, less what is removed, with what is set; for
    /// `Command::env_clear().envs(..)`. No name is in it twice.
    #[must_use]
    pub fn child_environment(&self, inherited: &Snapshot) -> BTreeMap<OsString, OsString> {
        let mut child = BTreeMap::new();
        for (name, value) in inherited {
            // The prefix is checked here too: a name that is not UTF-8 cannot be in `remove`.
            let removed = name.as_bytes().starts_with(OWN_PREFIX.as_bytes())
                || name.to_str().is_some_and(|name| self.remove.contains(name));
            if !removed {
                child.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        child.extend(self.set.iter().map(|(name, value)| (name.into(), value.clone())));
        child
    }
}

/// The file that wget would read as the user's own: `WGETRC`, else `.wgetrc` in the home directory.
#[must_use]
pub fn user_wgetrc(inherited: &Snapshot) -> Option<PathBuf> {
    match lookup(inherited, "WGETRC") {
        Some(path) if !path.is_empty() => Some(path.into()),
        _ => lookup(inherited, "HOME").map(|home| Path::new(home).join(".wgetrc")),
    }
}

// ------------------------------------------------------------------------------------------------
// The lists. Each was measured with the real clients; a name stands here only because one reads it.

/// Takes the proxy URL. wget and gRPC read only the lower case, Codex and opencode only the upper;
/// Ruby's `Net::HTTP` and Twilio's JavaScript SDK use `HTTP_PROXY` for https too. The `WS` pairs
/// are for WebSocket libraries, the last two for Yarn 2 and later.
const PROXY_VARIABLES: [&str; 12] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "WS_PROXY",
    "WSS_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "ws_proxy",
    "wss_proxy",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
];

/// Takes [`NO_PROXY`]. Inherited entries are dropped: a provider's host or `*` among them would let
/// its requests go out without injection.
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// Each names a file that *replaces* the client's roots, so it has to hold those too.
const REPLACES_ROOTS: [&str; 18] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "npm_config_cafile",
    "NPM_CONFIG_CAFILE",
    "YARN_HTTPS_CA_FILE_PATH",
    "NIX_SSL_CERT_FILE",
    "BUNDLE_SSL_CA_CERT",
    "HTTPLIB2_CA_CERTS",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "CODEX_CA_CERTIFICATE",
    "WEBSOCKET_CLIENT_CA_BUNDLE",
    "TWINE_CERT",
];

/// Each names a file that is *added* to the client's roots.
const ADDS_ROOTS: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Node (22.21, 24 and later) reads the proxy variables only when told to; AWS SDKs would otherwise
/// ask 169.254.169.254 for credentials, around the proxy.
const SWITCHES: [(&str, &str); 2] =
    [("NODE_USE_ENV_PROXY", "1"), ("AWS_EC2_METADATA_DISABLED", "true")];

/// Turns verification off, or adds roots beside ours: OpenSSL and Go read `SSL_CERT_DIR` as well as
/// the file.
const WEAKENS_TRUST: [&str; 5] = [
    "SSL_CERT_DIR",
    "GIT_SSL_NO_VERIFY",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "PYTHONHTTPSVERIFY",
    "GIT_PROXY_SSL_CAINFO",
];

/// Read *before* the variables above by the one client that each belongs to (gRPC, npm, Cargo, pip,
/// gcloud, git), so an inherited value would win over ours.
const OUTRANKS_PROXY: [&str; 14] = [
    "grpc_proxy",
    "no_grpc_proxy",
    "npm_config_proxy",
    "npm_config_http_proxy",
    "npm_config_https_proxy",
    "npm_config_noproxy",
    "CARGO_HTTP_PROXY",
    "PIP_PROXY",
    "CLOUDSDK_PROXY_TYPE",
    "CLOUDSDK_PROXY_ADDRESS",
    "CLOUDSDK_PROXY_PORT",
    "CLOUDSDK_PROXY_USERNAME",
    "CLOUDSDK_PROXY_PASSWORD",
    "GIT_HTTP_PROXY_AUTHMETHOD",
];

/// Locum's own variables (`LOCUM_HOME`, `LOCUM_PASSPHRASE`) are for Locum, never for a child.
const OWN_PREFIX: &str = "LOCUM_";

const GIT_COUNT: &str = "GIT_CONFIG_COUNT";
const GIT_KEY_PREFIX: &str = "GIT_CONFIG_KEY_";
const GIT_VALUE_PREFIX: &str = "GIT_CONFIG_VALUE_";
const WGETRC: &str = "WGETRC";
const PHP_INI_SCAN_DIR: &str = "PHP_INI_SCAN_DIR";
const JAVA_TOOL_OPTIONS: &str = "JAVA_TOOL_OPTIONS";

/// Whether this module decides about the variable, so that no placeholder may take it. Case does
/// not count: npm and Python's urllib read some of these names in any case.
fn is_reserved(name: &str) -> bool {
    let listed = PROXY_VARIABLES
        .iter()
        .chain(&NO_PROXY_VARIABLES)
        .chain(&REPLACES_ROOTS)
        .chain(&ADDS_ROOTS)
        .chain(SWITCHES.iter().map(|(name, _)| name))
        .chain(&WEAKENS_TRUST)
        .chain(&OUTRANKS_PROXY)
        .chain(&[GIT_COUNT, WGETRC, PHP_INI_SCAN_DIR, JAVA_TOOL_OPTIONS])
        .any(|listed| listed.eq_ignore_ascii_case(name));
    listed
        || [OWN_PREFIX, GIT_KEY_PREFIX, GIT_VALUE_PREFIX]
            .iter()
            .any(|prefix| name.to_ascii_uppercase().starts_with(prefix))
}

// ------------------------------------------------------------------------------------------------
// The steps of the plan.

impl Inputs {
    fn check(&self) -> Result<(), EnvironmentError> {
        for path in [&self.ca_file, &self.bundle_file, &self.state_dir] {
            // The child may change its directory before it reads the variable.
            if !path.is_absolute() {
                return Err(EnvironmentError::RelativePath { path: path.clone() });
            }
        }
        if !is_plain(&self.proxy_url) {
            return Err(EnvironmentError::Value { name: "HTTPS_PROXY".to_owned() });
        }
        if let Some(address) = self.open_proxy.filter(|address| !address.ip().is_loopback()) {
            return Err(EnvironmentError::NotLoopback { address });
        }
        for name in self.claimed_variables() {
            if !is_identifier(name) {
                return Err(EnvironmentError::Name { name: name.to_owned() });
            }
            if is_reserved(name) {
                return Err(EnvironmentError::Reserved { name: name.to_owned() });
            }
        }
        if let Some((name, _)) = self.settings.iter().find(|(_, text)| !is_one_line(text)) {
            return Err(EnvironmentError::Value { name: name.clone() });
        }
        let mut unfit = self.placeholders.iter().filter(|one| !is_plain(&one.value));
        if let Some(name) = unfit.find_map(|one| one.variables.first()) {
            return Err(EnvironmentError::Value { name: name.clone() });
        }
        Ok(())
    }

    /// The variables that the configuration, not this module, chose.
    fn claimed_variables(&self) -> impl Iterator<Item = &str> {
        let of_placeholders = self.placeholders.iter().flat_map(|one| &one.variables);
        let of_settings = self.settings.keys();
        of_placeholders.chain(of_settings).chain(&self.base_url_variables).map(String::as_str)
    }

    fn inherited(&self, name: &str) -> Option<&OsStr> {
        lookup(&self.inherited, name)
    }

    fn state_file(&self, name: &str) -> PathBuf {
        self.state_dir.join(name)
    }
}

impl Plan {
    fn set_variables(&mut self, inputs: &Inputs) {
        let mut set_all = |names: &[&str], value: &OsStr| {
            self.set.extend(names.iter().map(|name| ((*name).to_owned(), value.to_owned())));
        };
        set_all(&PROXY_VARIABLES, inputs.proxy_url.as_ref());
        set_all(&NO_PROXY_VARIABLES, NO_PROXY.as_ref());
        set_all(&REPLACES_ROOTS, inputs.bundle_file.as_os_str());
        set_all(&ADDS_ROOTS, inputs.ca_file.as_os_str());
        for (name, value) in SWITCHES {
            set_all(&[name], value.as_ref());
        }
    }

    /// git sends proxy credentials only after a 407 unless its configuration says `basic`; this
    /// saves that round trip. Entries that the parent passed to git the same way are kept.
    fn set_git(&mut self, inputs: &Inputs) {
        const KEY: &str = "http.proxyAuthMethod";
        const VALUE: &str = "basic";
        let count = inputs.inherited(GIT_COUNT).map_or(0, git_count);
        let entry = |prefix: &str, index: u32| inputs.inherited(&format!("{prefix}{index}"));
        let is_ours = |index: u32| {
            entry(GIT_KEY_PREFIX, index) == Some(KEY.as_ref())
                && entry(GIT_VALUE_PREFIX, index) == Some(VALUE.as_ref())
        };
        // In a run inside a run, or after a second `eval "$(locum env)"`, the last is ours already.
        let index = match count.checked_sub(1) {
            Some(last) if is_ours(last) => last,
            _ => count,
        };
        self.set.insert(GIT_COUNT.to_owned(), (index + 1).to_string().into());
        self.set.insert(format!("{GIT_KEY_PREFIX}{index}"), KEY.into());
        self.set.insert(format!("{GIT_VALUE_PREFIX}{index}"), VALUE.into());
    }

    /// wget reads no variable for roots, only the file that `WGETRC` names, and that replaces the
    /// user's own; so the user's lines go into ours.
    fn set_wget(&mut self, inputs: &Inputs) -> Result<(), EnvironmentError> {
        let path = inputs.state_file("wgetrc");
        let contents = wgetrc(inputs.wgetrc.as_deref().unwrap_or_default(), &inputs.bundle_file)?;
        self.set.insert(WGETRC.to_owned(), path.clone().into());
        // The user's lines may hold a password.
        self.files.push(PlannedFile { path, contents, mode: 0o600 });
        Ok(())
    }

    /// PHP reads no variable for roots either, but it reads the `*.ini` files of the directories
    /// that this one lists, where an empty entry stands for the compiled-in directory.
    fn set_php(&mut self, inputs: &Inputs) -> Result<(), EnvironmentError> {
        if inputs.state_dir.as_os_str().as_bytes().contains(&b':') {
            return Err(EnvironmentError::unusable(&inputs.state_dir, "PHP_INI_SCAN_DIR"));
        }
        let inherited = inputs.inherited(PHP_INI_SCAN_DIR);
        let mut directories = inherited.unwrap_or_default().to_owned();
        let state_dir = inputs.state_dir.as_os_str().as_bytes();
        if !directories.as_bytes().split(|byte| *byte == b':').any(|one| one == state_dir) {
            // Set but empty means no directory at all; an entry more must not bring one back.
            if inherited.is_none_or(|list| !list.is_empty()) {
                directories.push(":");
            }
            directories.push(&inputs.state_dir);
        }
        self.set.insert(PHP_INI_SCAN_DIR.to_owned(), directories);
        let bundle = php_string(&inputs.bundle_file)?;
        let lines: [&[u8]; 5] =
            [b"curl.cainfo = ", &bundle, b"\nopenssl.cafile = ", &bundle, b"\n"];
        self.files.push(PlannedFile {
            path: inputs.state_file("zz.ini"),
            contents: lines.concat(),
            mode: 0o600,
        });
        Ok(())
    }

    /// The JVM ignores the proxy variables and the roots of the system, but takes options from a
    /// variable; of two that set one property, the last counts. It has no property for proxy
    /// credentials, so without a port that needs none it is not sent to the proxy at all: a direct
    /// call carries a worthless placeholder and the provider says so, a 407 says nothing useful.
    fn set_java(&mut self, inputs: &Inputs) -> Result<(), EnvironmentError> {
        let store = inputs.state_file("cacerts.p12");
        let mut options = Vec::new();
        if let Some(address) = inputs.open_proxy {
            for scheme in ["https", "http"] {
                options.push(format!("-D{scheme}.proxyHost={}", address.ip()).into());
                options.push(format!("-D{scheme}.proxyPort={}", address.port()).into());
            }
            // Serves both schemes; `[::1]` is in the JVM's own default, which this replaces.
            options.push("-Dhttp.nonProxyHosts=localhost|127.*|[::1]".into());
        }
        let mut trust_store = OsString::from("-Djavax.net.ssl.trustStore=");
        trust_store.push(&store);
        options.push(jvm_word(&trust_store));
        options.push(format!("-Djavax.net.ssl.trustStorePassword={STORE_PASSWORD}").into());
        let options = options.join(OsStr::new(" "));

        let inherited = inputs.inherited(JAVA_TOOL_OPTIONS).unwrap_or_default();
        let mut value = inherited.to_owned();
        if !inherited.as_bytes().ends_with(options.as_bytes()) {
            if !value.is_empty() {
                value.push(" ");
            }
            value.push(options);
        }
        self.set.insert(JAVA_TOOL_OPTIONS.to_owned(), value);
        self.files.push(PlannedFile {
            path: store,
            contents: inputs.bundle.java_trust_store()?,
            mode: 0o600,
        });
        Ok(())
    }

    fn hand_out_placeholders(&mut self, inputs: &Inputs) {
        for placeholder in &inputs.placeholders {
            // What somebody has set by name is meant.
            let free = |name: &&String| !inputs.settings.contains_key(*name);
            for name in placeholder.variables.iter().filter(free) {
                let value = OsStr::new(&placeholder.value);
                let holder = self.set.entry(name.clone()).or_insert_with(|| value.to_owned());
                if holder != value {
                    self.contested.insert(name.clone());
                }
            }
        }
    }

    fn remove_ways_around(&mut self, inputs: &Inputs) {
        let listed = WEAKENS_TRUST.into_iter().chain(OUTRANKS_PROXY).map(str::to_owned);
        self.remove.extend(listed.chain(inputs.base_url_variables.iter().cloned()));
        // Other spellings of what is set or removed: npm and Python's urllib read their names in
        // any case, and so do settings libraries the names of keys.
        let lower = |name: &String| name.to_ascii_lowercase();
        let ours: HashSet<String> = self.set.keys().chain(&self.remove).map(lower).collect();
        for name in inputs.inherited.iter().filter_map(|(name, _)| name.to_str()) {
            if name.starts_with(OWN_PREFIX) || ours.contains(&name.to_ascii_lowercase()) {
                self.remove.insert(name.to_owned());
            }
        }
        self.remove.retain(|name| !self.set.contains_key(name));
    }
}

fn lookup<'a>(environment: &'a Snapshot, name: &str) -> Option<&'a OsStr> {
    let found = environment.iter().find(|(one, _)| one == name);
    found.map(|(_, value)| value.as_os_str())
}

/// Reads an inherited count as git does (`strtoul`, at most `INT_MAX`). With one that git would
/// call bogus every git command would fail; its entries are unusable anyway, so counting starts
/// anew.
fn git_count(value: &OsStr) -> u32 {
    let count = value.to_str().and_then(|text| text.trim_start().parse::<u32>().ok());
    count.filter(|count| i32::try_from(*count).is_ok_and(|count| count < i32::MAX)).unwrap_or(0)
}

/// Whether every shell takes this as the name of a variable. What `locum env` prints is evaluated,
/// so any other name would be a command.
fn is_identifier(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Placeholders and URLs go into HTTP headers: visible ASCII, and not empty.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a variable of an operator's own may be: any text of one line.
fn is_one_line(value: &str) -> bool {
    !value.is_empty() && !value.chars().any(char::is_control)
}

/// Whether a variable of that name can be set, and is none of those that this module decides about.
#[must_use]
pub fn is_variable(name: &str) -> bool {
    is_identifier(name) && !is_reserved(name)
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inputs")
            .field("open_proxy", &self.open_proxy)
            .field("ca_file", &self.ca_file)
            .field("bundle_file", &self.bundle_file)
            .field("state_dir", &self.state_dir)
            .field("placeholders", &self.placeholders)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placeholder").field("variables", &self.variables).finish_non_exhaustive()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("set", &self.set.keys())
            .field("remove", &self.remove)
            .field("contested", &self.contested)
            .field("files", &self.files)
            .finish()
    }
}

impl fmt::Debug for PlannedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlannedFile")
            .field("path", &self.path)
            .field("length", &self.contents.len())
            .field("mode", &format_args!("{:o}", self.mode))
            .finish()
    }
}

#[cfg(test)]
mod tests;
