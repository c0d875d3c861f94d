//! From `locum.yaml` to [`Config`]: one function for each section, each key in one line.

mod admin;
mod identity;
mod listen;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::{
    Anomalies, Approvals, Audit, Breaker, Config, Credentials, Fsync, KeyPair, KeySource, Level,
    Limits, Listen, Log, LogFormat, MAX_GRACE, Ops, Passphrase, Place, Pool, Retain, Timeouts,
    Upstream, UpstreamHost, UpstreamProxy, Vault, Webhook, seconds,
};
use crate::credential::Endpoint;
use crate::document::{Key, Map, Node, Reader, Value, parse_duration};
use crate::host::{Authority, HostPattern, Scheme};
use crate::reference::Name;
use admin::admin;
use identity::{check_doors, identity, settle_order};
use listen::{ADDRESS, address, overlap, proxy, refuse_remote};

const KEYS: &[&str] = &[
    "proxy",
    "identity",
    "ops",
    "upstream",
    "audit",
    "vault",
    "credentials",
    "approvals",
    "anomalies",
    "admin",
    "log",
    "limits",
];

/// The configuration, or `None` when the reader has noted why not.
pub(super) fn config<'d>(reader: &mut Reader<'d>, root: &'d Node, home: &Path) -> Option<Config> {
    let mut map = reader.map(root, KEYS)?;
    let base = Config::defaults(home);
    let paths = Paths { home };
    // Every section is read before the first `?`, so that all mistakes are found.
    let proxy =
        section(&mut map, "proxy", (base.proxy, None), |r, n, base| proxy(r, n, base.0, paths));
    let order = proxy.as_ref().and_then(|(_, order)| order.clone());
    let who =
        section(&mut map, "identity", base.identity, |r, n, base| identity(r, n, base, paths));
    let ops = section(&mut map, "ops", base.ops, ops);
    let upstream =
        section(&mut map, "upstream", base.upstream, |r, n, base| upstream(r, n, base, paths));
    let audit = section(&mut map, "audit", base.audit, |r, n, base| audit(r, n, base, paths));
    let vault = section(&mut map, "vault", base.vault, |r, n, base| vault(r, n, base, paths));
    let credentials = section(&mut map, "credentials", base.credentials, credentials);
    let approvals = section(&mut map, "approvals", base.approvals, |r, n, _| approvals(r, n));
    let anomalies = section(&mut map, "anomalies", base.anomalies, anomalies);
    let admin = section(&mut map, "admin", base.admin, |r, n, base| admin(r, n, base, paths));
    let log = section(&mut map, "log", base.log, log);
    let limits = section(&mut map, "limits", base.limits, limits);
    let (mut proxy, identity) = (proxy?.0, who?);
    proxy.authenticate = settle_order(&mut map, order, &identity);
    let config = Config {
        proxy,
        identity,
        ops: ops?,
        upstream: upstream?,
        audit: audit?,
        vault: vault?,
        credentials: credentials?,
        approvals: approvals?,
        anomalies: anomalies?,
        admin: admin?,
        log: log?,
        limits: limits?,
    };
    check_ports(&mut map, &config);
    check_doors(&mut map, &config);
    Some(config)
}

/// A section that may be absent; then it is its default.
fn section<'d, T>(
    map: &mut Map<'_, 'd>,
    key: &'static str,
    base: T,
    read: impl FnOnce(&mut Reader<'d>, &'d Node, T) -> Option<T>,
) -> Option<T> {
    if map.has(key) { map.optional(key, |r, n| read(r, n, base)) } else { Some(base) }
}

/// Sets a field when its key is there and right. When it is wrong, the reader has noted it, and the
/// whole is refused in the end.
fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn ops<'d>(reader: &mut Reader<'d>, node: &'d Node, mut ops: Ops) -> Option<Ops> {
    let mut map = reader.map(node, &["listen", "allow_remote"])?;
    map.optional("listen", |r, n| listener_or_off(r, n, &mut ops.listen));
    set(&mut ops.allow_remote, map.optional("allow_remote", Reader::boolean));
    if let (false, Some(node), Some(address)) = (ops.allow_remote, map.node("listen"), ops.listen) {
        refuse_remote(map.reader(), node, address, "or ");
    }
    Some(ops)
}

fn listener_or_off<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    listen: &mut Option<SocketAddr>,
) -> Option<()> {
    match &node.value {
        Value::String(text) if &**text == "off" => *listen = None,
        Value::Bool(false) => {
            reader.problem_with_help(node, format!("expected {ADDRESS}"), "write `off`");
            return None;
        }
        _ => *listen = Some(address(reader, node)?),
    }
    Some(())
}

/// The proxy port never serves operations, so the two may not meet.
fn check_ports(map: &mut Map<'_, '_>, config: &Config) {
    let Some(ops) = config.ops.listen else { return };
    let mut addresses = config.proxy.listen.iter().filter_map(Listen::address);
    if !addresses.any(|address| overlap(address, ops)) {
        return;
    }
    let spot = map.node("ops").or(map.node("proxy")).unwrap_or(map.whole());
    let message = format!("`ops.listen` and `proxy.listen` meet at port {}", ops.port());
    map.reader().problem_with_help(spot, message, "give each a port of its own");
}

fn upstream<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    mut upstream: Upstream,
    paths: Paths<'_>,
) -> Option<Upstream> {
    let mut map = reader.map(node, &["allow_addresses", "hosts", "timeouts", "pool", "breaker"])?;
    let addresses = map.optional("allow_addresses", |r, n| r.list(n, network));
    set(&mut upstream.allow_addresses, addresses);
    set(&mut upstream.hosts, map.optional("hosts", |r, n| hosts(r, n, paths)));
    set(&mut upstream.timeouts, map.optional("timeouts", timeouts));
    set(&mut upstream.pool, map.optional("pool", pool));
    set(&mut upstream.breaker, map.optional("breaker", breaker));
    Some(upstream)
}

/// Fewer would open for one lost packet; more never.
const FAILURES: RangeInclusive<u32> = 2..=1000;

/// `off`, `on`, or how.
#[allow(clippy::option_option)] // Wrong, off, or on, as each key of a section may be.
fn breaker<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Option<Breaker>> {
    if !matches!(node.value, Value::Map(_)) {
        let words = [("off", None), ("on", Some(Breaker::default()))];
        return reader.choice(node, &words);
    }
    let mut map = reader.map(node, &["failures", "window", "open"])?;
    let mut breaker = Breaker::default();
    set(&mut breaker.failures, map.optional("failures", |r, n| r.integer(n, FAILURES)));
    set(&mut breaker.window, map.optional("window", |r, n| r.duration(n, STEP)));
    set(&mut breaker.open, map.optional("open", |r, n| r.duration(n, STEP)));
    Some(Some(breaker))
}

/// A network, or one address.
fn network<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<IpNet> {
    let text = reader.text(node)?;
    if let Ok(address) = text.parse() {
        return Some(IpNet::from(std::net::IpAddr::to_canonical(&address)));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        let advice = "write an address or a network, such as 10.1.0.0/16 or fd12::/32";
        reader.problem_with_help(node, "not an address or network", advice);
        return None;
    };
    if network != network.trunc() {
        let message = "the address has bits after the prefix, so its size can be read in two ways";
        let advice = format!("write {} for the network", network.trunc());
        reader.problem_with_help(node, message, advice);
        return None;
    }
    Some(network)
}

fn hosts<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    paths: Paths<'_>,
) -> Option<Vec<UpstreamHost>> {
    let entries = reader.entries(node)?;
    let mut seen: HashMap<HostPattern, &Key> = HashMap::new();
    let mut hosts = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let Some(host) = host(reader, key, node, paths) else { continue };
        // One host in two spellings; the same spelling twice is a duplicate key.
        if let Some(first) = seen.insert(host.pattern.clone(), key) {
            reader.problem(key, format!("the same host as at {}", first.at));
        }
        hosts.push(host);
    }
    Some(hosts)
}

const HOST: &[&str] = &["address", "ca_file", "crl_file", "client_cert", "proxy", "http1_only"];

fn host<'d>(
    reader: &mut Reader<'d>,
    key: &'d Key,
    node: &'d Node,
    paths: Paths<'_>,
) -> Option<UpstreamHost> {
    let pattern = key.text.parse::<HostPattern>();
    let pattern = pattern.map_err(|error| {
        let advice = "write the host alone, without scheme, port or path";
        reader.problem_with_help(key, error.to_string(), advice);
    });
    let mut map = reader.map(node, HOST)?;
    let address = map.optional("address", host_and_port);
    let ca_file = map.optional("ca_file", |r, n| paths.read(r, n));
    let crl_file = map.optional("crl_file", |r, n| paths.read(r, n));
    let client_cert = map.optional("client_cert", |r, n| key_pair(r, n, paths));
    let proxy = map.optional("proxy", upstream_proxy);
    let http1_only = map.optional("http1_only", Reader::boolean).unwrap_or(false);
    let pattern = pattern.ok()?;
    let at = Place(reader.place(key).into());
    Some(UpstreamHost { at, pattern, address, ca_file, crl_file, client_cert, proxy, http1_only })
}

fn host_and_port<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Authority> {
    let authority = Authority::parse(reader.text(node)?, None);
    let advice = "write HOST:PORT, such as 10.1.2.3:8443";
    authority.map_err(|e| reader.problem_with_help(node, e.to_string(), advice)).ok()
}

fn key_pair<'d>(reader: &mut Reader<'d>, node: &'d Node, paths: Paths<'_>) -> Option<KeyPair> {
    let mut map = reader.map(node, &["certificate", "key"])?;
    let certificate = map.required("certificate", |r, n| paths.read(r, n));
    let key = map.required("key", |r, n| paths.read(r, n));
    Some(KeyPair { certificate: certificate?, key: key? })
}

/// `http://proxy:3128`, or `{url: http://proxy:3128, credential: NAME}`.
fn upstream_proxy<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<UpstreamProxy> {
    let Value::Map(_) = node.value else {
        let (scheme, authority) = proxy_url(reader, node)?;
        return Some(UpstreamProxy {
            scheme,
            authority,
            credential: None,
            allow_cleartext: false,
            vet_names: true,
        });
    };
    let mut map = reader.map(node, &["url", "credential", "allow_cleartext", "vet_names"])?;
    let url = map.required("url", proxy_url);
    let credential: Option<Name> = map.optional("credential", Reader::parsed);
    let allow_cleartext = map.optional("allow_cleartext", Reader::boolean).unwrap_or(false);
    let vet_names = map.optional("vet_names", Reader::boolean).unwrap_or(true);
    let (scheme, authority) = url?;
    let on_this_machine = authority.host.address().is_some_and(|ip| ip.is_loopback());
    let in_the_clear = scheme == Scheme::Http && !on_this_machine && !allow_cleartext;
    if credential.is_some() && in_the_clear {
        let message = "the credential would cross the network to this proxy in the clear";
        let advice = "use https://, or write `allow_cleartext: true` if that network is trusted by other means";
        reader.problem_with_help(node, message, advice);
        return None;
    }
    Some(UpstreamProxy { scheme, authority, credential, allow_cleartext, vet_names })
}

fn proxy_url<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<(Scheme, Authority)> {
    let text = reader.text(node)?;
    if text.contains('@') {
        let message = "a password does not belong into this file";
        let advice = "put it into the vault, and write {url: http://HOST:PORT, credential: NAME}";
        reader.problem_with_help(node, message, advice);
        return None;
    }
    let split = [Scheme::Https, Scheme::Http].into_iter().find_map(|scheme| {
        let rest = text.strip_prefix(scheme.as_str())?.strip_prefix("://")?;
        Some((scheme, rest.strip_suffix('/').unwrap_or(rest)))
    });
    let Some((scheme, rest)) = split else {
        reader.problem(node, "expected the URL of a proxy, such as `http://proxy.internal:3128`");
        return None;
    };
    let authority = Authority::parse(rest, Some(scheme.default_port()));
    let authority = authority.map_err(|error| reader.problem(node, error.to_string())).ok()?;
    Some((scheme, authority))
}

/// Waiting for the network: long enough for any link, short enough to be a mistake beyond.
const STEP: RangeInclusive<Duration> = Duration::from_millis(10)..=seconds(5 * 60);
/// Waiting for somebody to think or to speak.
const WAIT: RangeInclusive<Duration> = Duration::from_millis(10)..=seconds(24 * 3600);

fn timeouts<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Timeouts> {
    let mut map = reader.map(node, &["connect", "tls", "response", "idle"])?;
    let mut timeouts = Timeouts::default();
    set(&mut timeouts.connect, map.optional("connect", |r, n| r.duration(n, STEP)));
    set(&mut timeouts.tls, map.optional("tls", |r, n| r.duration(n, STEP)));
    set(&mut timeouts.response, map.optional("response", |r, n| r.duration(n, WAIT)));
    set(&mut timeouts.idle, map.optional("idle", |r, n| r.duration(n, WAIT)));
    Some(timeouts)
}

fn pool<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Pool> {
    let mut map = reader.map(node, &["per_host", "total", "idle", "age"])?;
    let mut pool = Pool::default();
    // None at all is a choice: each call then has a connection of its own.
    set(&mut pool.per_host, map.optional("per_host", |r, n| r.integer(n, 0..=10_000)));
    set(&mut pool.total, map.optional("total", |r, n| r.integer(n, 0..=100_000)));
    set(&mut pool.idle, map.optional("idle", |r, n| r.duration(n, WAIT)));
    set(&mut pool.age, map.optional("age", |r, n| r.duration(n, WAIT)));
    Some(pool)
}

fn audit<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    mut audit: Audit,
    paths: Paths<'_>,
) -> Option<Audit> {
    // Under 1 MiB a busy proxy would make a file a second; over 64 GiB none would ever be closed.
    let sizes = 1 << 20..=64 << 30;
    let mut map = reader.map(node, &["dir", "fsync", "retain", "max_file"])?;
    set(&mut audit.dir, map.optional("dir", |r, n| paths.read(r, n)));
    set(&mut audit.fsync, map.optional("fsync", fsync));
    set(&mut audit.retain, map.optional("retain", retain));
    set(&mut audit.max_file, map.optional("max_file", |r, n| r.size(n, sizes)));
    Some(audit)
}

fn fsync<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Fsync> {
    let words = [("always", Fsync::Always), ("never", Fsync::Never)];
    let range = Duration::from_millis(1)..=seconds(3600);
    word_or_duration(reader, node, &words, range, Fsync::Every)
}

fn retain<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Retain> {
    // A hundred years is forever too.
    let range = seconds(24 * 3600)..=seconds(36_500 * 24 * 3600);
    word_or_duration(reader, node, &[("forever", Retain::Forever)], range, Retain::For)
}

/// One of a few words, or a duration.
fn word_or_duration<'d, T: Copy>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    words: &[(&str, T)],
    range: RangeInclusive<Duration>,
    make: fn(Duration) -> T,
) -> Option<T> {
    if let Value::String(text) = &node.value {
        if let Some((_, value)) = words.iter().find(|(word, _)| **word == **text) {
            return Some(*value);
        }
        if parse_duration(text).is_err() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("expected {}, or a duration such as `1s`", known.join(", "));
            reader.problem(node, message);
            return None;
        }
    }
    reader.duration(node, range).map(make)
}

fn vault<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    mut vault: Vault,
    paths: Paths<'_>,
) -> Option<Vault> {
    let mut map = reader.map(node, &["store", "key"])?;
    set(&mut vault.store, map.optional("store", |r, n| paths.read(r, n)));
    set(&mut vault.key, map.optional("key", |r, n| key_source(r, n, paths)));
    Some(vault)
}

fn key_source<'d>(reader: &mut Reader<'d>, node: &'d Node, paths: Paths<'_>) -> Option<KeySource> {
    if let Value::String(_) = node.value {
        let advice = "write {file: PATH}, {passphrase: prompt} or {command: [PROGRAM, ARGUMENT]}";
        reader.problem_with_help(node, "expected where the key comes from", advice);
        return None;
    }
    let mut map = reader.map(node, &["file", "passphrase", "command"])?;
    let file = map.optional("file", |r, n| paths.read(r, n)).map(KeySource::File);
    let phrase = map.optional("passphrase", |r, n| passphrase(r, n, paths));
    let command = map.optional("command", program).map(KeySource::Command);
    one_of(&mut map, &["file", "passphrase", "command"])?;
    file.or(phrase.map(KeySource::Passphrase)).or(command)
}

/// A program and its arguments. The program has its whole path: what a service finds along `PATH` is
/// not what a person at a shell finds.
fn program<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Vec<String>> {
    let argument = |r: &mut Reader<'d>, n| r.text(n).map(ToOwned::to_owned);
    let words = reader.list(node, argument)?;
    if words.first().is_some_and(|first| first.starts_with('/')) {
        return Some(words);
    }
    let advice = "write its whole path, such as [/usr/bin/pass, show, locum]";
    reader.problem_with_help(node, "expected a program and its arguments", advice);
    None
}

fn passphrase<'d>(reader: &mut Reader<'d>, node: &'d Node, paths: Paths<'_>) -> Option<Passphrase> {
    if let Value::String(text) = &node.value {
        if &**text == "prompt" {
            return Some(Passphrase::Prompt);
        }
        // Most likely the passphrase itself: say where it belongs, and do not repeat it.
        let message = "a passphrase does not belong into this file";
        let advice = "write `prompt`, {file: PATH} or {credential: NAME}";
        reader.problem_with_help(node, message, advice);
        return None;
    }
    let mut map = reader.map(node, &["file", "credential"])?;
    let file = map.optional("file", |r, n| paths.read(r, n)).map(Passphrase::File);
    let credential = map.optional("credential", service_credential).map(Passphrase::Credential);
    one_of(&mut map, &["file", "credential"])?;
    file.or(credential)
}

/// The name of a systemd credential: a file name, never a way out of the directory.
fn service_credential<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<String> {
    let text = reader.text(node)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let sound = text.len() <= 255 && !text.starts_with('.') && text.bytes().all(plain);
    if !sound {
        reader
            .problem(node, "expected the name of a systemd credential, such as `locum.passphrase`");
    }
    sound.then(|| text.to_owned())
}

/// Notes when not exactly one of these keys is there.
fn one_of(map: &mut Map<'_, '_>, keys: &[&'static str]) -> Option<()> {
    if keys.iter().filter(|key| map.has(key)).count() == 1 {
        return Some(());
    }
    let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let (node, message) = (map.whole(), format!("expected either {}", names.join(" or ")));
    map.reader().problem(node, message);
    None
}

fn credentials<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    mut credentials: Credentials,
) -> Option<Credentials> {
    let mut map = reader.map(node, &["grace", "trust_claims", "health"])?;
    let health = map.optional("health", |r, n| {
        let every = Duration::from_secs(1)..=Duration::from_hours(24);
        word_or_duration(r, n, &[("off", None)], every, Some)
    });
    set(&mut credentials.health, health);
    let grace = Duration::ZERO..=MAX_GRACE;
    set(&mut credentials.grace, map.optional("grace", |r, n| r.duration(n, grace)));
    set(&mut credentials.trust_claims, map.optional("trust_claims", Reader::boolean));
    Some(credentials)
}

fn approvals<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Approvals> {
    let mut map = reader.map(node, &["webhook", "key"])?;
    let url = map.optional("webhook", Reader::parsed::<Endpoint>);
    let key = map.optional("key", Reader::parsed::<Name>);
    if map.has("webhook") != map.has("key") {
        map.reader().problem_with_help(
            node,
            "`webhook` and `key` go together: what is sent is signed",
            "name the credential whose secret signs it, such as `key: approval-hook`",
        );
        return None;
    }
    Some(Approvals { webhook: url.zip(key).map(|(url, key)| Webhook { url, key }) })
}

fn anomalies<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    mut anomalies: Anomalies,
) -> Option<Anomalies> {
    let mut map = reader.map(node, &["learn", "volume"])?;
    // In less than an hour nothing is learned; a year is forgotten.
    let times = seconds(3600)..=seconds(365 * 24 * 3600);
    let learn = map.optional("learn", |r, n| word_or_duration(r, n, &[("off", None)], times, Some));
    set(&mut anomalies.learn, learn);
    // The busiest hour itself is none that is remarkable.
    set(&mut anomalies.volume, map.optional("volume", |r, n| r.integer(n, 2..=1000)));
    Some(anomalies)
}

fn log<'d>(reader: &mut Reader<'d>, node: &'d Node, mut log: Log) -> Option<Log> {
    use Level::{Debug, Error, Info, Trace, Warn};
    let levels = [Error, Warn, Info, Debug, Trace].map(|level| (level.as_str(), level));
    let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    let mut map = reader.map(node, &["level", "format"])?;
    set(&mut log.level, map.optional("level", |r, n| r.choice(n, &levels)));
    set(&mut log.format, map.optional("format", |r, n| r.choice(n, &formats)));
    Some(log)
}

const LIMITS: &[&str] = &[
    "connections",
    "connections_per_agent",
    "head_bytes",
    "url_bytes",
    "body_slot",
    "bodies",
    "bodies_per_agent",
    "headers",
    "streams",
    "handshake",
    "failure_delay",
    "head_time",
    "idle_tunnel",
    "idle_reader",
    "ping_after",
    "drain",
];

fn limits<'d>(reader: &mut Reader<'d>, node: &'d Node, mut limits: Limits) -> Option<Limits> {
    let counts = 1..=1_000_000;
    let mut map = reader.map(node, LIMITS)?;
    set(&mut limits.connections, map.optional("connections", |r, n| r.integer(n, counts.clone())));
    let per_agent = map.optional("connections_per_agent", |r, n| r.integer(n, counts));
    set(&mut limits.connections_per_agent, per_agent);
    // Under 4 KiB and 16 fields honest requests fail; over 1 MiB and 1,000 only floods succeed.
    set(&mut limits.head_bytes, map.optional("head_bytes", head_bytes));
    // Over 65,534 bytes a target cannot be kept.
    let url_bytes = |r: &mut Reader<'d>, n| usize::try_from(r.size(n, 1024..=65_534)?).ok();
    set(&mut limits.url_bytes, map.optional("url_bytes", url_bytes));
    // Under 4 KiB honest bodies fail, and over 64 MiB a few agents hold all memory.
    let body_slot = |r: &mut Reader<'d>, n| usize::try_from(r.size(n, 4 << 10..=64 << 20)?).ok();
    set(&mut limits.body_slot, map.optional("body_slot", body_slot));
    // Under 1 MiB honest bodies wait for one another, and over 64 GiB there is no machine.
    let bodies = |r: &mut Reader<'d>, n| usize::try_from(r.size(n, 1 << 20..=64 << 30)?).ok();
    set(&mut limits.bodies, map.optional("bodies", bodies));
    set(&mut limits.bodies_per_agent, map.optional("bodies_per_agent", bodies));
    set(&mut limits.headers, map.optional("headers", |r, n| r.integer(n, 16..=1_000)));
    set(&mut limits.streams, map.optional("streams", |r, n| r.integer(n, 1..=10_000)));
    set(&mut limits.handshake, map.optional("handshake", |r, n| r.duration(n, STEP)));
    // Over half a minute clients have given up, and the place that they hold is held for nothing.
    let failure_delay = Duration::ZERO..=seconds(30);
    let failure_delay = map.optional("failure_delay", |r, n| r.duration(n, failure_delay));
    set(&mut limits.failure_delay, failure_delay);
    set(&mut limits.head_time, map.optional("head_time", |r, n| r.duration(n, STEP)));
    set(&mut limits.idle_tunnel, map.optional("idle_tunnel", |r, n| r.duration(n, WAIT)));
    set(&mut limits.idle_reader, map.optional("idle_reader", |r, n| r.duration(n, WAIT)));
    set(&mut limits.ping_after, map.optional("ping_after", |r, n| r.duration(n, WAIT)));
    let drain = Duration::ZERO..=seconds(3600);
    set(&mut limits.drain, map.optional("drain", |r, n| r.duration(n, drain)));
    Some(limits)
}

fn head_bytes<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<usize> {
    let bytes = reader.size(node, 4 << 10..=1 << 20)?;
    usize::try_from(bytes).ok()
}

/// Where relative paths start.
#[derive(Clone, Copy)]
struct Paths<'a> {
    home: &'a Path,
}

impl Paths<'_> {
    fn read<'d>(self, reader: &mut Reader<'d>, node: &'d Node) -> Option<PathBuf> {
        let text = reader.text(node)?;
        self.resolve(reader, node, text)
    }

    /// A path that is part of what the node says.
    fn resolve(self, reader: &mut Reader<'_>, node: &Node, text: &str) -> Option<PathBuf> {
        if text.contains('\n') {
            reader.problem(node, "expected a path, found several lines");
            return None;
        }
        if text.starts_with('~') || text.contains("${") {
            let advice = "write the path in full; a relative one starts at the home of Locum";
            reader.problem_with_help(node, "`~` and variables are not replaced here", advice);
            return None;
        }
        Some(self.home.join(text))
    }
}
