//! What `locum run` and `locum env` set, remove and write, so that an unchanged program reaches its
//! providers through Locum, trusts Locum's CA, and holds placeholders where it held keys.
//!
//! No two HTTP clients agree on which variables they read, so the whole list is set, and every
//! inherited value that would lead around it is removed. What a client reads only from a file
//! (wget, PHP, the JVM) is written into a private directory. [`plan`] computes all this and touches
//! nothing; [`write_files`] is the part that does.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use p12_keystore::{Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm};
use pem::{EncodeConfig, LineEnding, Pem};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

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

/// The commands of a wgetrc that would lead around the proxy or its CA, as wget compares them: in
/// lower case, without `-` and `_`. A proxy named in a wgetrc wins over the variables.
const WGETRC_DROPPED: [&str; 10] = [
    "cacertificate",
    "cadirectory",
    "checkcertificate",
    "httpproxy",
    "httpsproxy",
    "noproxy",
    "proxypassword",
    "proxypasswd",
    "proxyuser",
    "useproxy",
];

fn wgetrc(user: &[u8], bundle: &Path) -> Result<Vec<u8>, EnvironmentError> {
    let bundle_path = bundle.as_os_str().as_bytes();
    // A value runs to the end of the line, with the blanks around it stripped.
    if bundle_path.contains(&b'\n') || bundle_path.trim_ascii_end() != bundle_path {
        return Err(EnvironmentError::unusable(bundle, "a wgetrc"));
    }
    let mut contents = Vec::new();
    for line in user.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        let command = line.split(|byte| *byte == b'=').next().unwrap_or_default();
        let command: Vec<u8> = command
            .iter()
            .filter(|byte| !matches!(**byte, b'-' | b'_' | b' ' | b'\t'))
            .map(u8::to_ascii_lowercase)
            .collect();
        if !line.is_empty() && !WGETRC_DROPPED.iter().any(|one| one.as_bytes() == command) {
            contents.extend([line, b"\n"].concat());
        }
    }
    contents.extend([b"ca_certificate = ", bundle_path, b"\n"].concat());
    Ok(contents)
}

/// A path as a PHP ini string: single quotes take everything literally but themselves, double
/// quotes everything but an escape or a `${variable}`.
fn php_string(path: &Path) -> Result<Vec<u8>, EnvironmentError> {
    let bytes = path.as_os_str().as_bytes();
    let has = |set: &[u8]| bytes.iter().any(|byte| set.contains(byte));
    let quote: &[u8] = if !has(b"'\n\r") {
        b"'"
    } else if !has(b"\"\\$\n\r") {
        b"\""
    } else {
        return Err(EnvironmentError::unusable(path, "a PHP ini file"));
    };
    Ok([quote, bytes, quote].concat())
}

/// One word of `JAVA_TOOL_OPTIONS`: the JVM splits at white space, knows both quotes, also in the
/// middle of a word, and no escapes.
fn jvm_word(word: &OsStr) -> OsString {
    let special = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0x0b | b'"' | b'\'');
    if !word.as_bytes().iter().any(special) {
        return word.to_owned();
    }
    let parts: Vec<Vec<u8>> = word
        .as_bytes()
        .split(|byte| *byte == b'"')
        .map(|part| [b"\"", part, b"\""].concat())
        .collect();
    OsString::from_vec(parts.join(&b"'\"'"[..]))
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

// ------------------------------------------------------------------------------------------------
// Roots, bundle, trust store.

/// Where the roots of the system are, in the order of asking, after an inherited `SSL_CERT_FILE`.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The password of a store that holds nothing secret; the JVM's own has the same one.
const STORE_PASSWORD: &str = "changeit";

/// What the store's key derivation costs, here and at the start of each JVM. It protects public
/// certificates with a public password, so it is kept to what RFC 7292 recommends as the least.
const STORE_ITERATIONS: u32 = 1024;

/// Certificates for clients to trust: each once, our own CA last.
#[derive(Clone)]
pub struct Bundle {
    /// Our own, the last ones.
    own: Vec<CertificateDer<'static>>,
    /// All others.
    roots: Vec<CertificateDer<'static>>,
}

/// The roots that the parent's clients trust: the first of `ssl_cert_file` (the inherited
/// `SSL_CERT_FILE`) and the usual places that holds a certificate; on macOS the keychains come
/// before the usual places. Mozilla's roots, as compiled in, where there is none. `own_bundle` is
/// passed over, so that a run inside a run does not take a CA of ours that was rotated for a root.
#[must_use]
pub fn system_roots(
    ssl_cert_file: Option<&OsStr>,
    own_bundle: &Path,
) -> Vec<CertificateDer<'static>> {
    let places = SYSTEM_BUNDLES.map(Path::new);
    first_roots(ssl_cert_file.map(Path::new), keychain_roots, &places, own_bundle)
}

fn first_roots(
    inherited: Option<&Path>,
    keychain: impl FnOnce() -> Option<Vec<CertificateDer<'static>>>,
    places: &[&Path],
    own_bundle: &Path,
) -> Vec<CertificateDer<'static>> {
    let read = |path: &Path| {
        if same_file(path, own_bundle) {
            return None;
        }
        fs::read(path).ok().map(|file| certificates(&file)).filter(|found| !found.is_empty())
    };
    inherited
        .and_then(read)
        .or_else(keychain)
        .or_else(|| places.iter().copied().find_map(read))
        .unwrap_or_else(|| webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec())
}

/// An administrator's roots are only in the keychains there. The library itself gives the file of
/// `SSL_CERT_FILE` where that is set, which is a bundle of ours then, or had no certificate.
#[cfg(target_os = "macos")]
fn keychain_roots() -> Option<Vec<CertificateDer<'static>>> {
    let overridden =
        ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|n| std::env::var_os(n).is_some());
    let roots = (!overridden).then(|| rustls_native_certs::load_native_certs().certs);
    roots.filter(|roots| !roots.is_empty())
}

#[cfg(not(target_os = "macos"))]
fn keychain_roots() -> Option<Vec<CertificateDer<'static>>> {
    None
}

fn same_file(one: &Path, other: &Path) -> bool {
    one == other
        || fs::canonicalize(one)
            .is_ok_and(|one| fs::canonicalize(other).is_ok_and(|two| one == two))
}

/// The certificates of a PEM file, in order. What else the file holds is passed over, damaged
/// sections too: one bad root in the system's file is no reason to trust none of it.
#[must_use]
pub fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// Joins the roots with our own CA, each certificate once, compared by DER. `own_ca_pem` may hold
/// more than one while a CA is rotated.
///
/// # Errors
/// When `own_ca_pem` holds no certificate.
pub fn bundle(roots: &[CertificateDer<'_>], own_ca_pem: &str) -> Result<Bundle, EnvironmentError> {
    let mut seen = HashSet::new();
    let mut own = certificates(own_ca_pem.as_bytes());
    own.retain(|certificate| seen.insert(certificate.to_vec()));
    if own.is_empty() {
        return Err(EnvironmentError::NoOwnCertificate);
    }
    let fresh = roots.iter().filter(|certificate| seen.insert(certificate.to_vec()));
    let roots = fresh.map(|certificate| certificate.clone().into_owned()).collect();
    Ok(Bundle { own, roots })
}

impl Bundle {
    /// All of it, our own CA last.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().chain(&self.own)
    }

    /// The contents of `ca-bundle.pem`: PEM and nothing else (RFC 7468).
    #[must_use]
    pub fn pem(&self) -> String {
        let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
        let encode = |one: &CertificateDer<'_>| {
            pem::encode_config(&Pem::new("CERTIFICATE", one.as_ref()), config)
        };
        self.certificates().map(encode).collect()
    }

    /// The same certificates as a Java trust store: PKCS#12, password `changeit`, each entry marked
    /// as trusted in Oracle's way, without which the JVM ignores it. The ciphers are the old ones,
    /// since they hide nothing and a JDK before 11.0.12 cannot read the new.
    ///
    /// A root that does not parse is left out, because for the JVM it would spoil the whole store.
    ///
    /// # Errors
    /// When our own CA does not parse, or the store cannot be encoded.
    pub fn java_trust_store(&self) -> Result<Vec<u8>, EnvironmentError> {
        let mut store = KeyStore::new();
        let mut add = |alias: String, certificate: Certificate| {
            store.add_entry(&alias, KeyStoreEntry::Certificate(certificate));
        };
        // The JVM compares aliases in lower case, so they are counted rather than named.
        for (index, certificate) in self.own.iter().enumerate() {
            let parsed =
                Certificate::from_der(certificate).map_err(EnvironmentError::TrustStore)?;
            add(format!("locum-{:03}", index + 1), parsed);
        }
        for (index, certificate) in self.roots.iter().enumerate() {
            if let Ok(parsed) = Certificate::from_der(certificate) {
                add(format!("system-{:03}", index + 1), parsed);
            }
        }
        store
            .writer(STORE_PASSWORD)
            .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
            .encryption_iterations(STORE_ITERATIONS)
            .mac_algorithm(MacAlgorithm::HmacSha1)
            .mac_iterations(STORE_ITERATIONS)
            .write()
            .map_err(EnvironmentError::TrustStore)
    }
}

// ------------------------------------------------------------------------------------------------
// The lines of `locum env`.

/// Whose syntax `locum env` speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// Any POSIX shell: sh, dash, bash, zsh.
    Sh,
    /// fish.
    Fish,
    /// PowerShell.
    PowerShell,
}

/// The plan as lines that a shell can evaluate: removals first, one variable a line.
///
/// # Errors
/// When a value is not UTF-8, which only an inherited value or a path can be.
pub fn shell_exports(plan: &Plan, shell: Shell) -> Result<String, EnvironmentError> {
    let mut lines = String::new();
    // An inherited name may be anything; one that is no identifier cannot be a shell's variable,
    // and would be evaluated as something else.
    for name in plan.remove.iter().filter(|name| is_identifier(name)) {
        shell.unset(&mut lines, name);
    }
    for (name, value) in &plan.set {
        let value =
            value.to_str().ok_or_else(|| EnvironmentError::NotUtf8 { name: name.clone() })?;
        shell.export(&mut lines, name, value);
    }
    Ok(lines)
}

impl Shell {
    fn unset(self, lines: &mut String, name: &str) {
        lines.push_str(match self {
            Self::Sh => "unset ",
            Self::Fish => "set -e ",
            Self::PowerShell => "Remove-Item -ErrorAction SilentlyContinue Env:",
        });
        lines.push_str(name);
        lines.push('\n');
    }

    fn export(self, lines: &mut String, name: &str, value: &str) {
        let quoted = self.quote(value);
        // Writing to a `String` cannot fail.
        let _ = match self {
            Self::Sh => writeln!(lines, "export {name}='{quoted}'"),
            Self::Fish => writeln!(lines, "set -gx {name} '{quoted}'"),
            Self::PowerShell => writeln!(lines, "$env:{name} = '{quoted}'"),
        };
    }

    /// What goes between single quotes.
    fn quote(self, value: &str) -> Cow<'_, str> {
        match self {
            Self::Sh => value.replace('\'', r"'\''").into(),
            Self::Fish => value.replace('\\', r"\\").replace('\'', r"\'").into(),
            // PowerShell takes the typographic ones for quotes as well.
            Self::PowerShell => {
                let is_quote = |one: char| matches!(one, '\'' | '\u{2018}'..='\u{201b}');
                let twice = |one| {
                    if is_quote(one) { vec![one, one] } else { vec![one] }
                };
                value.chars().flat_map(twice).collect()
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------
// Writing.

/// Writes the files of the plan, each whole or not at all. A directory that is missing is made for
/// the owner alone.
///
/// # Errors
/// When a file cannot be written, or others could write to its directory.
pub fn write_files(plan: &Plan) -> io::Result<()> {
    plan.files.iter().try_for_each(write_file)
}

/// Writes one file: into a new one beside it, created with the mode it will have, which then takes
/// its place. A reader finds the old contents or the new; a symbolic link is replaced, not
/// followed.
fn write_file(file: &PlannedFile) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", file.path.display()))
    };
    let directory = file.path.parent().ok_or_else(|| named(io::ErrorKind::InvalidInput.into()))?;
    private_directory(directory)?;
    let temporary =
        directory.join(format!(".locum-{:016x}", getrandom::u64().map_err(io::Error::other)?));
    let written = create(&temporary, file).and_then(|()| fs::rename(&temporary, &file.path));
    if written.is_err() {
        // What is reported is why it failed, not that something was left.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(named)
}

fn create(path: &Path, file: &PlannedFile) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut created = options.write(true).create_new(true).mode(file.mode).open(path)?;
    created.write_all(&file.contents)?;
    // Else a crash soon after the rename could leave the name with nothing in it.
    created.sync_all()
}

fn private_directory(path: &Path) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot use the directory {}: {error}", path.display()),
        )
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(named)?;
    let mode = fs::metadata(path).map_err(named)?.permissions().mode();
    if mode & 0o022 != 0 {
        let advice = io::Error::new(
            io::ErrorKind::PermissionDenied,
            "other users can write to it, so they could replace the certificates that clients \
             trust; run chmod go-w on it",
        );
        return Err(named(advice));
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------------
// Errors.

/// Why no environment could be planned. Paths and names are told, values never.
#[derive(Debug)]
pub enum EnvironmentError {
    /// A path in a variable must not depend on the directory of the child.
    RelativePath {
        /// As it was given.
        path: PathBuf,
    },
    /// A path has a character for which a client's syntax has no way of writing it.
    UnusablePath {
        /// As it was given.
        path: PathBuf,
        /// The syntax: a variable or a kind of file.
        within: &'static str,
    },
    /// The port without authentication would be open to other machines.
    NotLoopback {
        /// As it was given.
        address: SocketAddr,
    },
    /// A credential names a variable that no shell would take.
    Name {
        /// As it was given.
        name: String,
    },
    /// A credential names a variable that Locum itself sets or removes.
    Reserved {
        /// As it was given.
        name: String,
    },
    /// A value is empty or has a character that is not visible ASCII.
    Value {
        /// The variable that was to have it.
        name: String,
    },
    /// A value is not UTF-8, which the lines of `locum env` have to be.
    NotUtf8 {
        /// The variable that has it.
        name: String,
    },
    /// The PEM text of our own CA holds no certificate.
    NoOwnCertificate,
    /// The Java trust store could not be built.
    TrustStore(p12_keystore::error::Error),
}

impl EnvironmentError {
    fn unusable(path: &Path, within: &'static str) -> Self {
        Self::UnusablePath { path: path.to_owned(), within }
    }
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RelativePath { path } => {
                write!(
                    f,
                    "the path {} must be absolute: a child may change its directory",
                    path.display()
                )
            }
            Self::UnusablePath { path, within } => write!(
                f,
                "the path {:?} has a character that cannot be written in {within}; \
                 choose another --home",
                path.to_string_lossy()
            ),
            Self::NotLoopback { address } => {
                write!(
                    f,
                    "the proxy port without authentication must be on loopback, not {address}"
                )
            }
            Self::Name { name } => write!(
                f,
                "{name:?} cannot be the name of a variable: \
                 use letters, digits and _, not a digit first"
            ),
            Self::Reserved { name } => write!(
                f,
                "a credential cannot have the variable {name}, which Locum sets or removes itself"
            ),
            Self::Value { name } => {
                write!(
                    f,
                    "the value for {name} must be visible ASCII, without spaces, and not empty"
                )
            }
            Self::NotUtf8 { name } => write!(
                f,
                "the value of {name} is not UTF-8, so it cannot be printed for a shell; \
                 use locum run"
            ),
            Self::NoOwnCertificate => f.write_str("the CA file holds no certificate"),
            Self::TrustStore(_) => f.write_str("cannot build the Java trust store"),
        }
    }
}

impl Error for EnvironmentError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TrustStore(source) => Some(source),
            _ => None,
        }
    }
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

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("roots", &self.roots.len())
            .field("own", &self.own.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::LazyLock;

    use p12_keystore::Pkcs12ImportPolicy;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    const URL: &str = "http://researcher:token%2F1@127.0.0.1:3128";

    /// Generating keys costs more than all else here, so the tests share three roots and a CA.
    static ROOTS: LazyLock<Vec<CertificateDer<'static>>> =
        LazyLock::new(|| certificates((authority() + &authority() + &authority()).as_bytes()));
    static OWN_CA: LazyLock<String> = LazyLock::new(authority);

    fn authority() -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn own_ca() -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(OWN_CA.as_bytes()).unwrap()
    }

    fn inputs(inherited: &[(&str, &str)]) -> Inputs {
        Inputs {
            proxy_url: URL.into(),
            open_proxy: None,
            ca_file: "/home/me/locum/ca.pem".into(),
            bundle_file: "/home/me/locum/ca-bundle.pem".into(),
            bundle: bundle(&ROOTS, &OWN_CA).unwrap(),
            state_dir: "/home/me/locum/run".into(),
            placeholders: vec![placeholder("OPENAI_API_KEY", "sk-proj-locum_openai")],
            settings: BTreeMap::new(),
            base_url_variables: vec!["OPENAI_BASE_URL".into()],
            inherited: snapshot(inherited),
            wgetrc: None,
        }
    }

    fn placeholder(variable: &str, value: &str) -> Placeholder {
        Placeholder { variables: vec![variable.into()], value: value.into() }
    }

    fn snapshot(variables: &[(&str, &str)]) -> Snapshot {
        variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn planned(inherited: &[(&str, &str)]) -> Plan {
        plan(&inputs(inherited)).unwrap()
    }

    fn value<'a>(plan: &'a Plan, name: &str) -> Option<&'a str> {
        plan.set.get(name).map(|value| value.to_str().unwrap())
    }

    fn contents<'a>(plan: &'a Plan, name: &str) -> &'a [u8] {
        let file = plan.files.iter().find(|file| file.path.ends_with(name));
        &file.unwrap().contents
    }

    fn refusal(change: impl FnOnce(&mut Inputs)) -> EnvironmentError {
        let mut inputs = inputs(&[]);
        change(&mut inputs);
        plan(&inputs).expect_err("a plan was made")
    }

    // Variables.

    #[test]
    fn every_proxy_variable_has_the_url() {
        let plan = planned(&[("https_proxy", "http://corporate:8080")]);
        for name in PROXY_VARIABLES {
            assert_eq!(value(&plan, name), Some(URL), "{name}");
        }
    }

    #[test]
    fn inherited_no_proxy_is_dropped() {
        for inherited in ["*", "api.openai.com", ".openai.com,10.0.0.0/8"] {
            let plan = planned(&[("NO_PROXY", inherited), ("no_proxy", inherited)]);
            assert_eq!(value(&plan, "NO_PROXY"), Some("localhost,127.0.0.1,::1"));
            assert_eq!(value(&plan, "no_proxy"), Some("localhost,127.0.0.1,::1"));
        }
    }

    #[test]
    fn what_replaces_the_roots_gets_the_bundle_and_what_adds_gets_the_ca() {
        let plan = planned(&[("SSL_CERT_FILE", "/etc/corporate.pem")]);
        for name in REPLACES_ROOTS {
            assert_eq!(value(&plan, name), Some("/home/me/locum/ca-bundle.pem"), "{name}");
        }
        for name in ADDS_ROOTS {
            assert_eq!(value(&plan, name), Some("/home/me/locum/ca.pem"), "{name}");
        }
    }

    #[test]
    fn switches_are_set_over_inherited_ones() {
        let plan = planned(&[("NODE_USE_ENV_PROXY", "0"), ("AWS_EC2_METADATA_DISABLED", "false")]);
        assert_eq!(value(&plan, "NODE_USE_ENV_PROXY"), Some("1"));
        assert_eq!(value(&plan, "AWS_EC2_METADATA_DISABLED"), Some("true"));
    }

    #[test]
    fn nothing_beyond_the_list_is_set() {
        let mut expected: BTreeSet<&str> = PROXY_VARIABLES.into();
        expected.extend(NO_PROXY_VARIABLES.iter().chain(&REPLACES_ROOTS).chain(&ADDS_ROOTS));
        expected.extend(SWITCHES.map(|(name, _)| name));
        expected.extend([GIT_COUNT, "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0"]);
        expected.extend([WGETRC, PHP_INI_SCAN_DIR, JAVA_TOOL_OPTIONS, "OPENAI_API_KEY"]);
        let plan = planned(&[("PATH", "/bin"), ("EDITOR", "vi")]);
        assert_eq!(plan.set.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn an_inherited_key_is_replaced_by_its_placeholder() {
        let inherited = snapshot(&[("OPENAI_API_KEY", "sk-real"), ("PATH", "/bin")]);
        let plan = planned(&[("OPENAI_API_KEY", "sk-real"), ("PATH", "/bin")]);
        assert_eq!(value(&plan, "OPENAI_API_KEY"), Some("sk-proj-locum_openai"));
        let child = plan.child_environment(&inherited);
        assert_eq!(child[OsStr::new("OPENAI_API_KEY")], "sk-proj-locum_openai");
        assert_eq!(child[OsStr::new("PATH")], "/bin");
        assert!(!child.values().any(|value| value == "sk-real"));
    }

    #[test]
    fn a_key_under_another_spelling_is_removed() {
        let plan = planned(&[("openai_api_key", "sk-real"), ("OpenAI_API_Key", "sk-real")]);
        assert!(plan.remove.contains("openai_api_key"));
        assert!(plan.remove.contains("OpenAI_API_Key"));
        assert!(!plan.remove.contains("OPENAI_API_KEY"));
    }

    #[test]
    fn the_first_of_two_placeholders_has_the_variable() {
        let mut inputs = inputs(&[]);
        inputs.placeholders.push(placeholder("OPENAI_API_KEY", "locum_second"));
        inputs.placeholders.push(placeholder("GITHUB_TOKEN", "locum_github"));
        inputs.placeholders.push(placeholder("GITHUB_TOKEN", "locum_github"));
        let plan = plan(&inputs).unwrap();
        assert_eq!(value(&plan, "OPENAI_API_KEY"), Some("sk-proj-locum_openai"));
        assert_eq!(plan.contested, BTreeSet::from(["OPENAI_API_KEY".to_owned()]));
    }

    #[test]
    fn ways_around_are_removed() {
        let plan = planned(&[("No_Grpc_Proxy", "*"), ("NPM_CONFIG_NOPROXY", "*")]);
        let always = WEAKENS_TRUST.into_iter().chain(OUTRANKS_PROXY);
        for name in always.chain(["OPENAI_BASE_URL", "No_Grpc_Proxy", "NPM_CONFIG_NOPROXY"]) {
            assert!(plan.remove.contains(name), "{name}");
        }
    }

    #[test]
    fn another_spelling_of_a_set_variable_is_removed() {
        let plan =
            planned(&[("Https_Proxy", "http://corporate:8080"), ("npm_CONFIG_cafile", "/x")]);
        assert!(plan.remove.contains("Https_Proxy"));
        assert!(plan.remove.contains("npm_CONFIG_cafile"));
        assert!(!plan.remove.contains("https_proxy"));
    }

    #[test]
    fn own_variables_do_not_reach_the_child() {
        let mut inherited =
            snapshot(&[("LOCUM_HOME", "/h"), ("LOCUM_PASSPHRASE", "p"), ("LOCUMOTIVE", "1")]);
        inherited.push((OsString::from_vec(b"LOCUM_\xff".to_vec()), "x".into()));
        let mut inputs = inputs(&[]);
        inputs.inherited.clone_from(&inherited);
        let plan = plan(&inputs).unwrap();
        assert!(plan.remove.contains("LOCUM_HOME") && plan.remove.contains("LOCUM_PASSPHRASE"));
        let child = plan.child_environment(&inherited);
        assert!(!child.keys().any(|name| name.as_bytes().starts_with(b"LOCUM_")));
        assert!(child.contains_key(OsStr::new("LOCUMOTIVE")));
    }

    #[test]
    fn of_two_inherited_entries_with_one_name_the_first_counts() {
        let inherited = snapshot(&[("PATH", "/first"), ("PATH", "/second")]);
        assert_eq!(planned(&[]).child_environment(&inherited)[OsStr::new("PATH")], "/first");
        assert_eq!(lookup(&inherited, "PATH"), Some(OsStr::new("/first")));
    }

    #[test]
    fn no_variable_is_both_set_and_removed() {
        let mut inputs = inputs(&[("LOCUM_HOME", "/h"), ("HTTP_proxy", "x")]);
        inputs.base_url_variables.push("OPENAI_API_KEY".into());
        let plan = plan(&inputs).unwrap();
        assert!(plan.remove.iter().all(|name| !plan.set.contains_key(name)));
        assert!(plan.set.contains_key("OPENAI_API_KEY"));
    }

    // git, wget, PHP, Java.

    #[test]
    fn git_configuration_is_appended_to_the_inherited() {
        let plan = planned(&[
            ("GIT_CONFIG_COUNT", "2"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
        ]);
        assert_eq!(value(&plan, "GIT_CONFIG_COUNT"), Some("3"));
        assert_eq!(value(&plan, "GIT_CONFIG_KEY_2"), Some("http.proxyAuthMethod"));
        assert_eq!(value(&plan, "GIT_CONFIG_VALUE_2"), Some("basic"));
        assert_eq!(value(&plan, "GIT_CONFIG_KEY_0"), None);
    }

    #[test]
    fn git_configuration_is_not_appended_twice() {
        let first = planned(&[]);
        let nested: Vec<_> =
            first.set.keys().map(|name| (name.as_str(), value(&first, name).unwrap())).collect();
        let second = planned(&nested);
        assert_eq!(first.set, second.set);
    }

    #[test]
    fn a_malformed_git_count_starts_anew() {
        for bogus in ["", "x", "-1", "2x", "1.5", "2147483647", "4294967296", "99999999999999"] {
            let plan = planned(&[("GIT_CONFIG_COUNT", bogus)]);
            assert_eq!(value(&plan, "GIT_CONFIG_COUNT"), Some("1"), "{bogus:?}");
            assert_eq!(value(&plan, "GIT_CONFIG_KEY_0"), Some("http.proxyAuthMethod"));
        }
        // As strtoul reads it.
        assert_eq!(value(&planned(&[("GIT_CONFIG_COUNT", " +7")]), "GIT_CONFIG_COUNT"), Some("8"));
    }

    #[test]
    fn wgetrc_keeps_the_users_lines_and_ends_with_ours() {
        let mut inputs = inputs(&[]);
        let user = b"# mine\ntries = 3\r\nCA-Certificate=/old.pem\nhttps_proxy = http://x\n\
            Use_Proxy = off\ncheck_certificate = off\n  no-proxy = *\ntimeout=\xff";
        inputs.wgetrc = Some(user.to_vec());
        let plan = plan(&inputs).unwrap();
        let expected =
            b"# mine\ntries = 3\ntimeout=\xff\nca_certificate = /home/me/locum/ca-bundle.pem\n";
        assert_eq!(contents(&plan, "wgetrc"), expected);
        assert_eq!(value(&plan, "WGETRC"), Some("/home/me/locum/run/wgetrc"));
        let file = plan.files.iter().find(|file| file.path.ends_with("wgetrc")).unwrap();
        assert_eq!(file.mode, 0o600);
    }

    #[test]
    fn wgetrc_without_one_of_the_user() {
        let expected = b"ca_certificate = /home/me/locum/ca-bundle.pem\n";
        assert_eq!(contents(&planned(&[]), "wgetrc"), expected);
    }

    #[test]
    fn the_users_wgetrc_is_the_one_that_wget_would_read() {
        let home = ("HOME", "/home/me");
        let path = |variables: &[(&str, &str)]| user_wgetrc(&snapshot(variables));
        assert_eq!(path(&[home]), Some("/home/me/.wgetrc".into()));
        assert_eq!(path(&[home, ("WGETRC", "")]), Some("/home/me/.wgetrc".into()));
        assert_eq!(path(&[home, ("WGETRC", "/etc/w")]), Some("/etc/w".into()));
        assert_eq!(path(&[]), None);
    }

    #[test]
    fn php_directories_are_appended() {
        let directories = |inherited: &[(&str, &str)]| {
            value(&planned(inherited), "PHP_INI_SCAN_DIR").unwrap().to_owned()
        };
        assert_eq!(directories(&[]), ":/home/me/locum/run");
        assert_eq!(directories(&[("PHP_INI_SCAN_DIR", "")]), "/home/me/locum/run");
        assert_eq!(directories(&[("PHP_INI_SCAN_DIR", ":/a")]), ":/a:/home/me/locum/run");
        assert_eq!(
            directories(&[("PHP_INI_SCAN_DIR", "/a:/home/me/locum/run")]),
            "/a:/home/me/locum/run"
        );
        let expected = b"curl.cainfo = '/home/me/locum/ca-bundle.pem'\n\
            openssl.cafile = '/home/me/locum/ca-bundle.pem'\n";
        assert_eq!(contents(&planned(&[]), "zz.ini"), expected);
    }

    #[test]
    fn php_strings_take_the_quotes_that_fit() {
        assert_eq!(php_string(Path::new("/a b;$c\\\"")).unwrap(), b"'/a b;$c\\\"'");
        assert_eq!(php_string(Path::new("/o'brien")).unwrap(), b"\"/o'brien\"");
        assert!(php_string(Path::new("/o'brien/$x")).is_err());
        assert!(php_string(Path::new("/a\nb")).is_err());
    }

    #[test]
    fn the_jvm_gets_the_trust_store_and_no_proxy_without_an_open_port() {
        let plan = planned(&[]);
        assert_eq!(
            value(&plan, "JAVA_TOOL_OPTIONS"),
            Some(
                "-Djavax.net.ssl.trustStore=/home/me/locum/run/cacerts.p12 \
                 -Djavax.net.ssl.trustStorePassword=changeit"
            )
        );
    }

    #[test]
    fn the_jvm_goes_through_the_open_port() {
        let mut inputs = inputs(&[("JAVA_TOOL_OPTIONS", "-Xmx1g -Dhttps.proxyHost=corporate")]);
        inputs.open_proxy = Some("127.0.0.1:4001".parse().unwrap());
        assert_eq!(
            value(&plan(&inputs).unwrap(), "JAVA_TOOL_OPTIONS"),
            Some(
                "-Xmx1g -Dhttps.proxyHost=corporate \
                 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=4001 \
                 -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=4001 \
                 -Dhttp.nonProxyHosts=localhost|127.*|[::1] \
                 -Djavax.net.ssl.trustStore=/home/me/locum/run/cacerts.p12 \
                 -Djavax.net.ssl.trustStorePassword=changeit"
            )
        );
    }

    #[test]
    fn jvm_words_are_quoted_piecewise() {
        let word = |text: &str| jvm_word(text.as_ref()).into_string().unwrap();
        assert_eq!(word("-Da=/plain|x"), "-Da=/plain|x");
        assert_eq!(word("-Da=/with blank"), "\"-Da=/with blank\"");
        assert_eq!(word("-Da=/o'brien"), "\"-Da=/o'brien\"");
        assert_eq!(word("-Da=/a\"b"), "\"-Da=/a\"'\"'\"b\"");
    }

    // Refusals.

    #[test]
    fn a_refusal_names_the_thing_and_not_the_value() {
        use EnvironmentError as E;
        assert!(matches!(refusal(|i| i.ca_file = "ca.pem".into()), E::RelativePath { .. }));
        assert!(matches!(refusal(|i| i.state_dir = "/a:b".into()), E::UnusablePath { .. }));
        assert!(matches!(refusal(|i| i.bundle_file = "/a\nb".into()), E::UnusablePath { .. }));
        let public = "192.0.2.1:4001".parse().unwrap();
        assert!(matches!(refusal(|i| i.open_proxy = Some(public)), E::NotLoopback { .. }));
        let error = refusal(|i| i.proxy_url = "http://a:secret token@h".into());
        assert!(matches!(error, E::Value { .. }) && !error.to_string().contains("secret"));
        let error = refusal(|i| i.placeholders[0].value = "locum_ö".into());
        assert!(matches!(&error, E::Value { name } if name == "OPENAI_API_KEY"));
        assert!(!error.to_string().contains("locum_"));
    }

    #[test]
    fn a_variable_that_is_no_identifier_is_refused() {
        for name in ["", "1KEY", "A B", "A=B", "A-B", "$(id)", "A;id", "Ä"] {
            let error = refusal(|inputs| inputs.placeholders[0].variables[0] = name.into());
            assert!(matches!(error, EnvironmentError::Name { .. }), "{name:?}");
            let error = refusal(|inputs| inputs.base_url_variables[0] = name.into());
            assert!(matches!(error, EnvironmentError::Name { .. }), "{name:?}");
        }
    }

    #[test]
    fn a_placeholder_cannot_take_a_variable_of_ours() {
        for name in [
            "HTTPS_PROXY",
            "Ssl_Cert_File",
            "SSL_CERT_DIR",
            "GIT_CONFIG_KEY_7",
            "NODE_EXTRA_CA_CERTS",
            "LOCUM_HOME",
            "WGETRC",
        ] {
            let error = refusal(|inputs| inputs.placeholders[0].variables[0] = name.into());
            assert!(matches!(error, EnvironmentError::Reserved { .. }), "{name}");
        }
    }

    // Bundle and trust store.

    #[test]
    fn a_bundle_has_each_certificate_once_and_ours_last() {
        let twice = [ROOTS.clone(), vec![own_ca()], ROOTS.clone()].concat();
        let text = bundle(&twice, &OWN_CA).unwrap().pem();
        let found = certificates(text.as_bytes());
        assert_eq!(found, [ROOTS.clone(), vec![own_ca()]].concat());
        assert!(text.starts_with("-----BEGIN CERTIFICATE-----\n"));
        assert!(text.ends_with("-----END CERTIFICATE-----\n"));
        assert!(!text.contains('\r') && text.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn a_bundle_needs_our_own_ca() {
        for text in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            let error = bundle(&ROOTS, text).unwrap_err();
            assert!(matches!(error, EnvironmentError::NoOwnCertificate));
        }
    }

    #[test]
    fn only_certificates_are_taken_from_a_file() {
        let junk = "# comment\n-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n\
            -----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(certificates(format!("{junk}{}", *OWN_CA).as_bytes()), [own_ca()]);
        let crlf = OWN_CA.replace('\n', "\r\n");
        assert_eq!(certificates(crlf.as_bytes()), [own_ca()]);
    }

    #[test]
    fn the_plan_writes_the_bundle() {
        let plan = planned(&[]);
        let text = contents(&plan, "ca-bundle.pem");
        assert_eq!(text, bundle(&ROOTS, &OWN_CA).unwrap().pem().as_bytes());
    }

    #[test]
    fn roots_come_from_the_first_place_that_has_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let missing = directory.path().join("missing");
        let empty = file("empty.pem", "nothing here");
        let first = file("first.pem", &OWN_CA);
        let second = file("second.pem", &authority());
        let places = [&*missing, &*empty, &*first, &*second];
        let own = Path::new("/none");
        assert_eq!(first_roots(None, || None, &places, own), [own_ca()]);
        assert_eq!(first_roots(Some(&missing), || None, &places, own), [own_ca()]);
        assert_ne!(first_roots(Some(&second), || None, &places, own), [own_ca()]);
        let keychain = || Some(ROOTS.clone());
        assert_eq!(first_roots(None, keychain, &places, own), *ROOTS);
        let fallback = first_roots(None, || None, &[&*missing], own);
        assert_eq!(fallback, webpki_root_certs::TLS_SERVER_ROOT_CERTS);
    }

    #[test]
    fn roots_do_not_come_from_our_own_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let bundle_file = directory.path().join("ca-bundle.pem");
        let system = directory.path().join("system.pem");
        let link = directory.path().join("link.pem");
        fs::write(&bundle_file, authority()).unwrap();
        fs::write(&system, &*OWN_CA).unwrap();
        symlink(&bundle_file, &link).unwrap();
        for inherited in [&bundle_file, &link] {
            assert_eq!(
                first_roots(Some(inherited), || None, &[&*system], &bundle_file),
                [own_ca()]
            );
        }
    }

    #[test]
    fn the_trust_store_parses_back_with_every_certificate_trusted() {
        let bytes = bundle(&ROOTS, &OWN_CA).unwrap().java_trust_store().unwrap();
        // `Strict` keeps only the entries with the attribute by which Java knows a trusted one.
        let store = KeyStore::from_pkcs12(&bytes, "changeit", Pkcs12ImportPolicy::Strict).unwrap();
        let found: Vec<(&str, &[u8])> = store
            .entries()
            .map(|(alias, entry)| match entry {
                KeyStoreEntry::Certificate(certificate) => (alias.as_str(), certificate.as_der()),
                _ => panic!("{alias} is no certificate"),
            })
            .collect();
        let own = own_ca();
        let mut expected = vec![("locum-001", own.as_ref())];
        let aliases = ["system-001", "system-002", "system-003"];
        expected.extend(aliases.into_iter().zip(ROOTS.iter().map(AsRef::as_ref)));
        assert_eq!(found, expected);
        assert!(KeyStore::from_pkcs12(&bytes, "other", Pkcs12ImportPolicy::Strict).is_err());
    }

    #[test]
    fn a_root_that_does_not_parse_is_left_out_of_the_trust_store() {
        let roots = [ROOTS.clone(), vec![CertificateDer::from(vec![0x30, 0x00])]].concat();
        let bytes = bundle(&roots, &OWN_CA).unwrap().java_trust_store().unwrap();
        let store = KeyStore::from_pkcs12(&bytes, "changeit", Pkcs12ImportPolicy::Strict).unwrap();
        assert_eq!(store.entries_len(), ROOTS.len() + 1);
    }

    #[test]
    fn mozillas_roots_all_go_into_the_trust_store() {
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
        let bytes = bundle(roots, &OWN_CA).unwrap().java_trust_store().unwrap();
        let store = KeyStore::from_pkcs12(&bytes, "changeit", Pkcs12ImportPolicy::Strict).unwrap();
        assert_eq!(store.entries_len(), roots.len() + 1);
    }

    // Shells.

    fn one_variable(value: &str) -> Plan {
        Plan {
            set: BTreeMap::from([("NAME".to_owned(), value.into())]),
            remove: BTreeSet::from(["GONE".to_owned()]),
            contested: BTreeSet::new(),
            files: Vec::new(),
        }
    }

    #[test]
    fn values_are_quoted_for_each_shell() {
        let lines =
            |shell| shell_exports(&one_variable("it's $HOME \\ \u{2019}`\n"), shell).unwrap();
        let expected = "unset GONE\nexport NAME='it'\\''s $HOME \\ \u{2019}`\n'\n";
        assert_eq!(lines(Shell::Sh), expected);
        let expected = "set -e GONE\nset -gx NAME 'it\\'s $HOME \\\\ \u{2019}`\n'\n";
        assert_eq!(lines(Shell::Fish), expected);
        let expected = "Remove-Item -ErrorAction SilentlyContinue Env:GONE\n\
            $env:NAME = 'it''s $HOME \\ \u{2019}\u{2019}`\n'\n";
        assert_eq!(lines(Shell::PowerShell), expected);
    }

    #[test]
    fn an_inherited_name_is_never_evaluated() {
        let plan = planned(&[("LOCUM_$(touch x)", "1"), ("LOCUM_A;id", "2"), ("LOCUM_HOME", "3")]);
        let lines = shell_exports(&plan, Shell::Sh).unwrap();
        assert!(plan.remove.contains("LOCUM_$(touch x)"));
        assert!(!lines.contains("touch") && !lines.contains(";id"));
        assert!(lines.contains("unset LOCUM_HOME\n"));
    }

    #[test]
    fn a_value_that_is_not_utf8_is_not_guessed_at() {
        let mut plan = one_variable("x");
        plan.set.insert("RAW".into(), OsString::from_vec(vec![0xff]));
        let error = shell_exports(&plan, Shell::Sh).unwrap_err();
        assert!(matches!(error, EnvironmentError::NotUtf8 { name } if name == "RAW"));
    }

    // Files.

    fn file_plan(path: PathBuf, mode: u32) -> Plan {
        let mut plan = one_variable("x");
        plan.files = vec![PlannedFile { path, contents: b"new".to_vec(), mode }];
        plan
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_written_with_their_mode_into_a_private_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/wgetrc");
        write_files(&file_plan(path.clone(), 0o600)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(mode_of(path.parent().unwrap()), 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        fs::write(&target, "old").unwrap();
        symlink(&target, &link).unwrap();
        write_files(&file_plan(link.clone(), 0o600)).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read(&link).unwrap(), b"new");
        assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let path = directory.path().join("ca-bundle.pem");
        let error = write_files(&file_plan(path.clone(), 0o600)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(!path.exists());
    }

    #[test]
    fn a_failed_write_leaves_nothing_and_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir_all(path.join("by a directory")).unwrap();
        let error = write_files(&file_plan(path.clone(), 0o600)).unwrap_err();
        assert!(error.to_string().contains("taken"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn debug_forms_show_no_value() {
        let inputs = inputs(&[("OPENAI_API_KEY", "sk-real")]);
        let plan = plan(&inputs).unwrap();
        let text = format!("{inputs:?} {plan:?}");
        assert!(text.contains("OPENAI_API_KEY"));
        assert!(!text.contains("token%2F1") && !text.contains("sk-"), "{text}");
    }
}
