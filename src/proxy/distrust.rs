//! Clients that do not trust the CA: which program it is, what would mend it, and to say so once.
//!
//! Such a client tries again and again, some dozens of times a minute, and its user sees an error
//! that names neither the proxy nor the CA. Each try costs a handshake and a counter here; the words
//! are for the first.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, Version, header};
use parking_lot::Mutex;

use super::exchange::Route;
use super::{Bound, Caller, Gateway};
use crate::agent::qualified;
use crate::host::{Host, Scheme};
use crate::record::Event;
use crate::reference::Name;
use crate::tls::{self, AcceptError};

macro_rules! clients {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal [$($prefix:literal)*] $fix:literal;)+) => {
        /// A kind of client, told by its CONNECT. Closed, so that it can be a label of metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub enum Client {
            $($(#[doc = $doc])+ $variant,)+
            /// It says nothing by which we know it.
            #[default]
            Unknown,
        }

        impl Client {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+ Self::Unknown];

            /// What it is called in logs, metrics and the audit log.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ Self::Unknown => "unknown" }
            }

            /// How it is made to trust the CA, for those that `locum run` does not start.
            #[must_use]
            pub fn fix(self) -> &'static str {
                match self {
                    $(Self::$variant => $fix,)+
                    Self::Unknown => "set the variables that `locum env` prints; certs/README.md has the clients that need more",
                }
            }

            fn by_user_agent(text: &str) -> Option<Self> {
                const PREFIXES: &[(&str, Client)] = &[$($(($prefix, Client::$variant),)*)+];
                let found = PREFIXES.iter().find(|(prefix, _)| {
                    text.get(..prefix.len()).is_some_and(|s| s.eq_ignore_ascii_case(prefix))
                });
                found.map(|(_, client)| *client)
            }
        }
    };
}

// Measured with the programs themselves; `tests/clients.rs` runs some of them.
clients! {
    /// curl, and what is built on libcurl without a name of its own.
    Curl "curl" ["curl/" "libcurl"]
        "set CURL_CA_BUNDLE to ca-bundle.pem, and look for --cacert and ~/.curlrc";
    /// GNU Wget.
    Wget "wget" ["Wget/"]
        "no variable names a CA: write `ca_certificate = PATH/ca-bundle.pem` into a file, and name that in WGETRC";
    /// git.
    Git "git" ["git/"]
        "set GIT_SSL_CAINFO to ca-bundle.pem, and look for http.sslCAInfo in its config";
    /// Python's own HTTP client, and requests, pip, boto3 and most SDKs of before, which are built on it.
    PythonHttp "python" ["python-requests/" "python-urllib" "Python-urllib/" "pip/"]
        "set REQUESTS_CA_BUNDLE (requests, boto3), PIP_CERT (pip) and SSL_CERT_FILE (urllib) to ca-bundle.pem; Python's stripe takes it from code alone: stripe.ca_bundle_path";
    /// httpx and httpx2, and the SDKs of openai, anthropic and others.
    Httpx "httpx" ["python-httpx/"]
        "set SSL_CERT_FILE to ca-bundle.pem";
    /// aiohttp.
    Aiohttp "aiohttp" ["Python/"]
        "set SSL_CERT_FILE to ca-bundle.pem";
    /// Node: its fetch, undici, axios, npm and everything on `https-proxy-agent`.
    Node "node" ["node" "undici" "npm/" "yarn/" "axios/"]
        "set NODE_EXTRA_CA_CERTS to ca.pem before it starts; where an npmrc sets `cafile`, npm reads npm_config_cafile alone (ca-bundle.pem)";
    /// Bun, and Claude Code, which runs on it.
    Bun "bun" ["Bun/"]
        "set NODE_EXTRA_CA_CERTS to ca.pem";
    /// Deno.
    Deno "deno" ["Deno/"]
        "set DENO_CERT to ca.pem";
    /// Go programs: gh, kubectl, terraform.
    Go "go" ["Go-http-client/"]
        "set SSL_CERT_FILE to ca-bundle.pem; kubectl believes its kubeconfig alone if that has a certificate-authority";
    /// The JVM.
    Java "java" ["Java/" "Java-http-client/" "okhttp/" "Apache-HttpClient/"]
        "set -Djavax.net.ssl.trustStore in JAVA_TOOL_OPTIONS to a store with ca.pem in it (keytool -importcert)";
    /// .NET.
    Dotnet "dotnet" [".NET"]
        "set SSL_CERT_FILE to ca-bundle.pem";
    /// cargo.
    Cargo "cargo" ["cargo/" "cargo "]
        "set CARGO_HTTP_CAINFO to ca-bundle.pem";
    /// uv.
    Uv "uv" ["uv/"]
        "set SSL_CERT_FILE to ca-bundle.pem";
    /// gRPC's C core: Python's grpcio.
    Grpc "grpc" ["grpc"]
        "set GRPC_DEFAULT_SSL_ROOTS_FILE_PATH to ca-bundle.pem";
    /// Codex.
    Codex "codex" ["codex"]
        "set CODEX_CA_CERTIFICATE to ca-bundle.pem";
    /// Chromium, Firefox and what drives them.
    Browser "browser" ["Mozilla/"]
        "add ca.pem to its own store: certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n locum -i ca.pem";
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Client {
    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|client| client.as_str() == name)
    }

    /// Who sends this CONNECT. By its `User-Agent`; without one, by the fields that it sends and
    /// their order, which are the library's and not the program's. A guess, for words of advice alone.
    pub(super) fn of(version: Version, headers: &HeaderMap) -> Self {
        let named = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        if let Some(text) = named {
            return Self::by_user_agent(text).unwrap_or_default();
        }
        let first = |name: HeaderName| headers.keys().next() == Some(&name);
        let closing = headers.get(header::CONNECTION).is_some_and(|v| v == "close");
        let accepting = headers.get(header::ACCEPT).is_some_and(|v| v == "*/*");
        match version {
            // Python's http.client up to 3.11, which has no Host either.
            Version::HTTP_10 => Self::PythonHttp,
            // undici and axios close after the tunnel; https-proxy-agent keeps the old field.
            _ if closing || headers.contains_key("proxy-connection") => Self::Node,
            _ if accepting => Self::Httpx,
            // And from 3.12 on, which has nothing else than these two, in this order.
            _ if headers.len() == 2
                && first(header::PROXY_AUTHORIZATION)
                && headers.contains_key(header::HOST) =>
            {
                Self::PythonHttp
            }
            _ => Self::Unknown,
        }
    }

    /// Whether it opens a connection only to use it, and closes without an alert when it does not
    /// like the certificate. Then one such close says enough.
    fn closes_silently(self) -> bool {
        matches!(self, Self::Node | Self::Wget | Self::Bun)
    }
}

/// What a client did that does not trust the CA, as far as can be told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sign {
    /// The handshake failed.
    Handshake(AcceptError),
    /// The handshake was completed, and the client closed before its first request.
    Unused,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake(error) => error.fmt(f),
            Self::Unused => f.write_str("the client closed after the handshake, without a request"),
        }
    }
}

/// A close without a word is a sign of distrust when it is all that ever comes: so many times.
const CLOSES: u32 = 3;

/// Pairs of agent and host that are remembered. Hosts are the agent's choice; a pair that is
/// forgotten is only counted anew.
const PAIRS: usize = 4096;

/// How long something that was said is not said again: whoever looks once a day hears of it.
const QUIET: Duration = Duration::from_hours(24);

/// What was seen and said of clients without the CA.
#[derive(Debug, Default)]
pub(super) struct Distrust {
    said: Mutex<HashMap<(Name, Client), Instant>>,
    pairs: Mutex<HashMap<(Name, Host), Pair>>,
    /// Failed handshakes of other kinds, which are logged so many a second.
    others: Bound,
}

/// What an agent did at a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pair {
    /// It has made a request there, so it trusts the CA.
    Trusting,
    /// It has only ever closed, so many times.
    Closing(u32),
}

impl Distrust {
    /// A request came through: this agent has a client that trusts the CA, at this host.
    pub(super) fn trusted(&self, agent: &Name, host: &Host) {
        self.note(agent, host, |_| Pair::Trusting);
    }

    /// Whether a close without a word means that the client does not trust the CA.
    fn closed(&self, agent: &Name, host: &Host, client: Client) -> bool {
        let pair = self.note(agent, host, |pair| match pair {
            Some(Pair::Trusting) => Pair::Trusting,
            Some(Pair::Closing(times)) => Pair::Closing(times.saturating_add(1)),
            None => Pair::Closing(1),
        });
        client.closes_silently() || matches!(pair, Pair::Closing(CLOSES..))
    }

    fn note(&self, agent: &Name, host: &Host, next: impl Fn(Option<Pair>) -> Pair) -> Pair {
        let mut pairs = self.pairs.lock();
        let key = (agent.clone(), host.clone());
        if pairs.len() >= PAIRS && !pairs.contains_key(&key) {
            pairs.clear();
        }
        let pair = next(pairs.get(&key).copied());
        pairs.insert(key, pair);
        pair
    }

    /// Whether it is to be said now.
    fn is_news(&self, agent: &Name, client: Client) -> bool {
        let now = Instant::now();
        let mut said = self.said.lock();
        let key = (agent.clone(), client);
        let news = said.get(&key).is_none_or(|at| now.duration_since(*at) >= QUIET);
        if news {
            // No bound is needed: agents are the vault's, and clients a closed list.
            said.insert(key, now);
        }
        news
    }
}

/// Watches over a tunnel whose handshake was completed: some clients look at the certificate only
/// then.
pub(super) struct Watch {
    gateway: Arc<Gateway>,
    route: Arc<Route>,
    used: AtomicBool,
}

impl Watch {
    pub(super) fn new(gateway: &Arc<Gateway>, route: &Arc<Route>) -> Self {
        let used = AtomicBool::new(false);
        Self { gateway: Arc::clone(gateway), route: Arc::clone(route), used }
    }

    /// The client has sent what only a client sends that accepts the certificate: a request, or
    /// HTTP/2's preface. Cheap after the first.
    pub(super) fn spoke(&self) {
        if self.used.load(Ordering::Relaxed) || self.used.swap(true, Ordering::Relaxed) {
            return;
        }
        // In the clear there was no certificate to trust.
        if self.route.origin.scheme == Scheme::Https {
            let (agent, host) = self.whose();
            self.route.caller.workspace.distrust.trusted(agent, host);
        }
    }

    /// The connection has ended, with an error or in order; `stopped`: by us.
    pub(super) fn ended(&self, error: Option<&(dyn Error + 'static)>, stopped: bool) {
        if self.route.origin.scheme == Scheme::Https
            && let Some(sign) = self.sign(error, stopped)
        {
            came_to_nothing(&self.gateway, &self.route.caller, self.whose().1, &sign);
        }
    }

    fn sign(&self, error: Option<&(dyn Error + 'static)>, stopped: bool) -> Option<Sign> {
        if let Some(alert) = error.and_then(tls::ca_alert) {
            return Some(Sign::Handshake(AcceptError::CaNotTrusted { alert }));
        }
        let closed = !stopped && error.is_none_or(is_a_close);
        (closed && !self.used.load(Ordering::Relaxed)).then_some(Sign::Unused)
    }

    fn whose(&self) -> (&Name, &Host) {
        (&self.route.caller.identity.agent, &self.route.origin.authority.host)
    }
}

/// Not when we waited for too long, and not when the client spoke after all.
fn is_a_close(error: &(dyn Error + 'static)) -> bool {
    if error.is::<h2::Error>() {
        return true;
    }
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() != io::ErrorKind::TimedOut)
}

/// The event in the audit log. `locum doctor` reads it.
pub const EVENT: &str = "client-distrusts-ca";

/// Takes note of a tunnel whose TLS came to nothing, and says what is wrong if that is news.
pub(super) fn came_to_nothing(gateway: &Gateway, caller: &Caller, host: &Host, sign: &Sign) {
    let agent = &caller.identity.agent;
    let client = caller.client;
    let seen = &caller.workspace.distrust;
    let distrust = match sign {
        Sign::Handshake(AcceptError::CaNotTrusted { .. }) => true,
        Sign::Handshake(AcceptError::ClosedOnCertificate) | Sign::Unused => {
            seen.closed(agent, host, client)
        }
        Sign::Handshake(_) => false,
    };
    if distrust {
        let label = qualified(caller.workspace.name().as_str(), agent.as_str());
        gateway.metrics.untrusted_ca(&label, client.as_str());
        if seen.is_news(agent, client) {
            say(gateway, caller, host, sign);
        }
    } else if *sign != Sign::Unused && seen.others.admits() {
        tracing::info!(%agent, %client, %host, error = %sign, "the TLS handshake with the agent failed");
    } else {
        tracing::debug!(%agent, %client, %host, error = %sign, "no TLS came to pass with the agent");
    }
}

fn say(gateway: &Gateway, caller: &Caller, host: &Host, sign: &Sign) {
    let (agent, client) = (&caller.identity.agent, caller.client);
    tracing::warn!(
        %agent, %client, %host, error = %sign, fix = client.fix(),
        "a client does not trust the CA of this proxy (said once a day): start it with `locum run`, or see fix"
    );
    let event = Event {
        event: EVENT,
        workspace: Some(caller.workspace.name().clone()),
        subject: Some(agent.to_string()),
        detail: Some(format!("{client} at {host}: {sign}")),
        by: None,
        vault_epoch: None,
    };
    // An unwritable audit log shows in its own metric and in the readiness.
    let _unrecorded = gateway.audit.event(&event);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap())
        };
        fields.iter().map(field).collect()
    }

    const AUTHORIZED: (&str, &str) = ("proxy-authorization", "Basic dTpw");
    const HOST: (&str, &str) = ("host", "a.test:443");

    #[test]
    fn clients_are_known_by_their_name_or_by_the_shape_of_their_connect() {
        let http11 = Version::HTTP_11;
        for (version, fields, expected) in [
            (http11, &[HOST, AUTHORIZED, ("user-agent", "curl/7.88.1")][..], Client::Curl),
            (http11, &[("user-agent", "Wget/1.21.3"), AUTHORIZED, HOST], Client::Wget),
            (http11, &[HOST, ("user-agent", "git/2.47.3")], Client::Git),
            (http11, &[HOST, ("user-agent", "Python/3.11 aiohttp/3.14.5")], Client::Aiohttp),
            (http11, &[HOST, ("user-agent", "Go-http-client/1.1")], Client::Go),
            (http11, &[HOST, ("user-agent", "Java-http-client/17.0.1")], Client::Java),
            (http11, &[HOST, ("user-agent", "cargo/1.95.0 (f2d3ce0bd 2026)")], Client::Cargo),
            (http11, &[HOST, ("user-agent", "curl")], Client::Unknown),
            (http11, &[HOST, ("user-agent", "ünknown")], Client::Unknown),
            // requests, urllib3 and pip: Python 3.11, and 3.12 and 3.13.
            (Version::HTTP_10, &[AUTHORIZED], Client::PythonHttp),
            (http11, &[AUTHORIZED, HOST], Client::PythonHttp),
            // httpx 0.28.
            (http11, &[HOST, ("accept", "*/*"), AUTHORIZED], Client::Httpx),
            // undici 7.30, axios 1.21, https-proxy-agent, npm 11.
            (http11, &[("host", "a.test"), ("connection", "close"), AUTHORIZED], Client::Node),
            (http11, &[AUTHORIZED, ("host", "a.test"), ("connection", "close")], Client::Node),
            (http11, &[AUTHORIZED, HOST, ("proxy-connection", "Keep-Alive")], Client::Node),
            (http11, &[HOST, AUTHORIZED], Client::Unknown),
            (http11, &[HOST], Client::Unknown),
        ] {
            assert_eq!(Client::of(version, &headers(fields)), expected, "{fields:?}");
        }
    }

    #[test]
    fn every_kind_has_a_name_of_its_own_and_a_way_out() {
        for client in Client::ALL {
            assert_eq!(Client::named(client.as_str()), Some(*client));
            assert!(client.fix().len() > 20 && !client.fix().ends_with('.'), "{client}");
        }
    }

    #[test]
    fn a_close_without_a_word_means_distrust_when_it_is_all_that_ever_comes() {
        let distrust = Distrust::default();
        let (agent, host) = ("a".parse().unwrap(), Host::parse("a.test").unwrap());
        let closed = |client| distrust.closed(&agent, &host, client);
        assert_eq!([(); 4].map(|()| closed(Client::Unknown)), [false, false, true, true]);
        distrust.trusted(&agent, &host);
        assert_eq!([(); 4].map(|()| closed(Client::Unknown)), [false; 4]);
        assert!(closed(Client::Node), "which never connects ahead");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let distrust = Distrust::default();
        let agent: Name = "a".parse().unwrap();
        for number in 0..3 * PAIRS {
            let host = Host::parse(&format!("h{number}.test")).unwrap();
            distrust.closed(&agent, &host, Client::Unknown);
        }
        assert!(distrust.pairs.lock().len() <= PAIRS);
    }

    #[test]
    fn each_agent_and_client_is_news_once() {
        let distrust = Distrust::default();
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let news = |agent, client| distrust.is_news(agent, client);
        assert!(news(&a, Client::Curl) && news(&a, Client::Node) && news(&b, Client::Curl));
        assert!(!news(&a, Client::Curl) && !news(&a, Client::Node) && !news(&b, Client::Curl));
    }
}
