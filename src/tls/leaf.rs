//! Leaf certificates: one for exactly one host, signed when it is first asked for, kept ready to
//! serve.
//!
//! All leaves share one key, made with the cache, so that a new host costs one signature. All
//! configurations share one ticketer and one provider, so that a host costs little memory. Tickets
//! carry the name they were made for, and a new cache (a rotated CA) has new ticket keys: a client
//! that resumes has verified this host against this CA.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::ca::{BACKDATE, CertificateAuthority, P256Key, generate_key, random_serial};
use super::{Alpn, TlsError, nearby_provider, provider};
use crate::host::Host;

/// How long a leaf lives. Every client accepts it (the strictest limit met is 398 days), a leaf
/// that leaks with its key is soon worth nothing, and a proxy that runs for weeks signs each host
/// anew every few days, which costs nothing.
const LIFE: Duration = Duration::from_hours(168);

/// The longest common name (RFC 5280 appendix A, `ub-common-name`). A longer host goes without:
/// clients read the subject alternative name.
const COMMON_NAME_MAX: usize = 64;

/// Below this many hosts a bound saves nothing and evicts what is in use.
const CAPACITY_MIN: usize = 16;

/// Evicting takes this share of the capacity at once, so that its one pass over the hosts is paid
/// for by that many new ones.
const EVICTED_SHARE: usize = 8;

/// The leaves in use, by host; bounded.
///
/// Under contention a host's leaf is signed once: the others wait for it. They hold no lock of the
/// map meanwhile, so other hosts go on. Hosts go in the order of their last use, counted in new
/// hosts and not in time: a host that is used at least once while seven eighths of the capacity are
/// newly signed is never evicted, however fast that happens.
pub struct LeafCache {
    authority: Arc<CertificateAuthority>,
    key: P256Key,
    /// All but the certificate, for any client.
    template: ServerConfig,
    /// The same, for clients on this machine.
    nearby: ServerConfig,
    leaves: DashMap<Host, Arc<Slot>>,
    capacity: usize,
    evicting: Mutex<()>,
    /// Counts the slots ever made: the clock of `Slot::used`.
    age: AtomicU64,
    issued: AtomicU64,
}

/// A host's place in the cache: empty while its leaf is being signed.
struct Slot {
    leaf: OnceLock<Result<Leaf, TlsError>>,
    /// The cache's `age` at the last use.
    used: AtomicU64,
}

struct Leaf {
    configs: LeafConfigs,
    not_before: SystemTime,
    renew_at: SystemTime,
}

/// What a host's leaf is served with. The two differ in the groups of the key exchange alone: tickets
/// of one are good with the other.
#[derive(Clone, Debug)]
pub struct LeafConfigs {
    /// With every group that the library has, the hybrid of X25519 and ML-KEM-768 among them.
    pub any: Arc<ServerConfig>,
    /// Without the hybrid, for clients whose bytes do not leave this machine ([`Wire`](super::Wire)).
    pub nearby: Arc<ServerConfig>,
}

impl LeafCache {
    /// A cache of at most `capacity` hosts (but not under 16), whose handshakes offer `alpn` in
    /// that order of preference. The server's order decides, because some clients list `http/1.1`
    /// first and mean nothing by it. With an empty list ALPN is not negotiated.
    ///
    /// # Errors
    /// [`TlsError::Signing`] or [`TlsError::Library`] when the library has no randomness.
    pub fn new(
        authority: Arc<CertificateAuthority>,
        capacity: usize,
        alpn: &[Alpn],
    ) -> Result<Self, TlsError> {
        let tickets = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Self {
            authority,
            key: P256Key::read(&generate_key()?)?,
            template: template(alpn, provider(), &tickets)?,
            nearby: template(alpn, nearby_provider(), &tickets)?,
            leaves: DashMap::new(),
            capacity: capacity.max(CAPACITY_MIN),
            evicting: Mutex::new(()),
            age: AtomicU64::new(0),
            issued: AtomicU64::new(0),
        })
    }

    /// The configurations that serve a certificate for exactly `host`, valid at `now`.
    ///
    /// Costs one look-up, or one signature (tens of microseconds: short enough for a runtime
    /// thread) when the host is new or its leaf has spent two thirds of its life. Call it as soon
    /// as the CONNECT is answered: the signature is then done while the `ClientHello` is on its
    /// way.
    ///
    /// # Errors
    /// [`TlsError::Expired`] or [`TlsError::NotYetValid`] when the CA cannot sign at `now`;
    /// [`TlsError::Signing`] when the leaf cannot be built. Errors are not kept.
    pub fn server_config(&self, host: &Host, now: SystemTime) -> Result<LeafConfigs, TlsError> {
        if let Some(configs) = self.ready(host, now) {
            return Ok(configs);
        }
        self.authority.check_validity(now)?;
        let slot = self.slot(host, now);
        self.make_room();
        match slot.leaf.get_or_init(|| self.issue(host, now)) {
            Ok(leaf) => Ok(leaf.configs.clone()),
            Err(error) => Err(error.clone()),
        }
    }

    /// How many leaves were signed since the start.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// How many hosts are held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Whether no host is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// How many hosts are held at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The CA that signs.
    #[must_use]
    pub fn authority(&self) -> &Arc<CertificateAuthority> {
        &self.authority
    }

    fn ready(&self, host: &Host, now: SystemTime) -> Option<LeafConfigs> {
        let slot = self.leaves.get(host)?;
        let leaf = slot.leaf.get()?.as_ref().ok()?;
        if !leaf.is_fresh(now) {
            return None;
        }
        slot.touch(self.age.load(Ordering::Relaxed));
        Some(leaf.configs.clone())
    }

    /// The slot to wait for or to fill: the one there, unless its leaf is stale.
    fn slot(&self, host: &Host, now: SystemTime) -> Arc<Slot> {
        match self.leaves.entry(host.clone()) {
            Entry::Occupied(mut there) => {
                if there.get().is_stale(now) {
                    there.insert(self.new_slot());
                }
                Arc::clone(there.get())
            }
            Entry::Vacant(free) => Arc::clone(&free.insert(self.new_slot())),
        }
    }

    fn new_slot(&self) -> Arc<Slot> {
        Arc::new(Slot {
            leaf: OnceLock::new(),
            used: AtomicU64::new(self.age.fetch_add(1, Ordering::Relaxed) + 1),
        })
    }

    /// Evicts the hosts that were not used for longest, if there are too many.
    fn make_room(&self) {
        if self.leaves.len() <= self.capacity {
            return;
        }
        let _one_at_a_time = self.evicting.lock();
        let mut by_use: Vec<(u64, Host)> = self
            .leaves
            .iter()
            .map(|slot| (slot.used.load(Ordering::Relaxed), slot.key().clone()))
            .collect();
        let Some(surplus) = by_use.len().checked_sub(self.capacity) else {
            return;
        };
        if surplus == 0 {
            return;
        }
        let evicted = surplus + self.capacity / EVICTED_SHARE;
        if evicted < by_use.len() {
            by_use.select_nth_unstable_by_key(evicted, |(used, _)| *used);
            by_use.truncate(evicted);
        }
        for (used, host) in by_use {
            // A host that was used meanwhile stays.
            self.leaves.remove_if(&host, |_, slot| slot.used.load(Ordering::Relaxed) == used);
        }
    }

    fn issue(&self, host: &Host, now: SystemTime) -> Result<Leaf, TlsError> {
        let ca = self.authority.info();
        let not_before = (now - BACKDATE).max(ca.not_before);
        let not_after = (now + LIFE).min(ca.not_after);
        let params = leaf_params(host, not_before, not_after)?;
        let chain = self.authority.sign(&params, &self.key)?;
        self.issued.fetch_add(1, Ordering::Relaxed);
        Ok(Leaf {
            configs: self.configs(CertifiedKey::new(chain, self.key.for_handshakes())),
            not_before,
            renew_at: renewal(now, not_after, ca.not_after),
        })
    }

    fn configs(&self, certified: CertifiedKey) -> LeafConfigs {
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let made = |template: &ServerConfig| {
            let mut config = template.clone();
            config.cert_resolver = Arc::<SingleCertAndKey>::clone(&resolver);
            Arc::new(config)
        };
        LeafConfigs { any: made(&self.template), nearby: made(&self.nearby) }
    }
}

impl fmt::Debug for LeafCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafCache")
            .field("authority", &self.authority)
            .field("len", &self.len())
            .field("capacity", &self.capacity)
            .field("issued", &self.issued())
            .finish_non_exhaustive()
    }
}

impl Slot {
    /// Whether it has to be replaced. One that is being filled has not.
    fn is_stale(&self, now: SystemTime) -> bool {
        match self.leaf.get() {
            Some(Ok(leaf)) => !leaf.is_fresh(now),
            Some(Err(_)) => true,
            None => false,
        }
    }

    /// Writes only what changes, so that hits on one host do not fight for a cache line.
    fn touch(&self, age: u64) {
        if self.used.load(Ordering::Relaxed) < age {
            self.used.store(age, Ordering::Relaxed);
        }
    }
}

impl Leaf {
    /// Not before its begin either: a clock that was set back makes leaves from the future.
    fn is_fresh(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.renew_at
    }
}

/// When a third of life is left. A leaf that ends with the CA is kept to the end, since a new one
/// would end no later.
fn renewal(now: SystemTime, not_after: SystemTime, ca_end: SystemTime) -> SystemTime {
    if not_after == ca_end {
        return not_after;
    }
    let left = not_after.duration_since(now).unwrap_or_default();
    not_after - left / 3
}

/// What strict verifiers ask of a leaf (RFC 5280 section 4.2, `-x509_strict` of OpenSSL, Python
/// 3.13): key identifiers of subject and authority, critical key usage, `CA:FALSE`, and the host as
/// the only subject alternative name.
fn leaf_params(
    host: &Host,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(host);
    params.subject_alt_names = vec![alternative_name(host)?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial()?);
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    Ok(params)
}

fn alternative_name(host: &Host) -> Result<SanType, TlsError> {
    Ok(match host {
        Host::Name(name) => SanType::DnsName(name.to_string().try_into()?),
        Host::Address(address) => SanType::IpAddress(*address),
    })
}

/// Empty when the host does not fit. The alternative name is then marked critical, as RFC 5280
/// section 4.1.2.6 asks.
fn common_name(host: &Host) -> DistinguishedName {
    let text = match host {
        Host::Name(name) => name.to_string(),
        Host::Address(IpAddr::V4(v4)) => v4.to_string(),
        Host::Address(IpAddr::V6(v6)) => v6.to_string(),
    };
    let mut name = DistinguishedName::new();
    if text.len() <= COMMON_NAME_MAX {
        name.push(DnType::CommonName, text);
    }
    name
}

fn template(
    alpn: &[Alpn],
    provider: Arc<CryptoProvider>,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoCertificate));
    config.alpn_protocols = Alpn::wire_list(alpn);
    // Our order of cipher suites and not the client's: most clients name the dearest first.
    config.ignore_client_order = true;
    // Sessions live in the tickets that clients keep (RFC 8446 section 4.6.1, RFC 5077), under keys
    // that rotate every six hours; nothing is stored here per session.
    config.ticketer = Arc::clone(tickets);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One ticket renews itself on each use; a second one would be paid for in each handshake and
    // used by few agents.
    config.send_tls13_tickets = 1;
    // Early data can be replayed (RFC 8446 section 8), and no request here may run twice.
    config.max_early_data_size = 0;
    // Nothing may be said before the client has proved that it completed this handshake.
    config.send_half_rtt_data = false;
    Ok(config)
}

/// Stands in the template, which no handshake uses.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use rustls::pki_types::CertificateDer;
    use rustls::version::{TLS12, TLS13};
    use rustls::{CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion};
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;
    use crate::tls::fixture::{NOW, at, authority, client, host, now, pem_certificates, shake};

    const DAY: u64 = 24 * 60 * 60;

    fn cache_of(capacity: usize) -> LeafCache {
        LeafCache::new(authority(NOW), capacity, &[Alpn::Http2, Alpn::Http11]).unwrap()
    }

    fn cache() -> LeafCache {
        cache_of(1024)
    }

    /// The certificates that a client is shown which trusts the CA and whose clock is right.
    fn shown(cache: &LeafCache, text: &str, seconds: u64) -> Vec<CertificateDer<'static>> {
        let client = Arc::new(client(cache.authority(), seconds, &[&TLS13]));
        let config = cache.server_config(&host(text), at(seconds)).unwrap().any;
        let (client, _) = shake(&client, text, &config).unwrap_or_else(|e| panic!("{text}: {e}"));
        client.peer_certificates().unwrap().to_vec()
    }

    fn long_name() -> String {
        format!("{}.{}.example.com", "a".repeat(63), "b".repeat(63))
    }

    #[test]
    fn clients_accept_the_leaf_for_a_name_and_for_an_address() {
        let cache = cache();
        for text in [
            "api.openai.com",
            "localhost",
            "_dns.example",
            "xn--bcher-kva.example",
            "127.0.0.1",
            "[2001:db8::1]",
            &long_name(),
        ] {
            let client12 = Arc::new(client(cache.authority(), NOW, &[&TLS12]));
            let config = cache.server_config(&host(text), now()).unwrap().any;
            shake(&client12, text, &config).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(shown(&cache, text, NOW).len(), 1, "the leaf alone");
        }
    }

    #[test]
    fn clients_refuse_the_leaf_for_another_host() {
        let cache = cache();
        let client = Arc::new(client(cache.authority(), NOW, &[&TLS13]));
        for (leaf, name) in [
            ("api.openai.com", "evil.test"),
            ("api.openai.com", "x.api.openai.com"),
            ("127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "localhost"),
        ] {
            let config = cache.server_config(&host(leaf), now()).unwrap().any;
            assert!(shake(&client, name, &config).is_err(), "{leaf} as {name}");
        }
    }

    #[test]
    fn a_leaf_has_what_strict_verifiers_ask_for() {
        let cache = cache();
        let ca = pem_certificates(cache.authority().certificate_pem());
        let (_, ca) = X509Certificate::from_der(&ca[0]).unwrap();
        let chain = shown(&cache, "api.openai.com", NOW);
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();

        assert_eq!(leaf.issuer().as_raw(), ca.subject().as_raw());
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(leaf.version().0, 2, "version 3");
        assert_eq!(leaf.subject().to_string(), "CN=api.openai.com");
        let constraints = leaf.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && !constraints.value.ca);
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature());
        assert_eq!(usage.value.flags.count_ones(), 1);
        let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(purposes.server_auth && !purposes.client_auth && !purposes.any);
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(!names.critical);
        assert_eq!(names.value.general_names, [GeneralName::DNSName("api.openai.com")]);
        assert_eq!(authority_key_id(&leaf), subject_key_id(&ca));
        assert!(subject_key_id(&leaf).is_some_and(|id| id.len() == 20));
        assert_eq!(leaf.raw_serial().len(), 16);
        assert_eq!(leaf.raw_serial()[0] & 0x80, 0, "positive");
        assert_eq!(leaf.extensions().len(), 6, "and nothing else");
    }

    fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
        certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
    }

    fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
        certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => None,
        })
    }

    #[test]
    fn an_address_stands_as_an_address_and_a_long_name_without_common_name() {
        let cache = cache();
        let chain = shown(&cache, "[2001:db8::1]", NOW);
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        let address: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::IPAddress(&address.octets())]);
        assert_eq!(leaf.subject().to_string(), "CN=2001:db8::1");

        let chain = shown(&cache, &long_name(), NOW);
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        assert_eq!(leaf.subject().iter().count(), 0);
        assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
    }

    /// The validity of the leaf that is served at `seconds`, in seconds.
    fn validity(cache: &LeafCache, seconds: u64) -> (u64, u64) {
        let chain = shown(cache, "a.test", seconds);
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        let validity = leaf.validity();
        (
            validity.not_before.timestamp().unsigned_abs(),
            validity.not_after.timestamp().unsigned_abs(),
        )
    }

    #[test]
    fn a_leaf_is_renewed_when_a_third_of_its_life_is_left() {
        let cache = cache();
        let (begin, end) = validity(&cache, NOW + 30 * DAY);
        assert_eq!((begin, end), (NOW + 29 * DAY, NOW + 37 * DAY));
        let renewal = NOW + 30 * DAY + 14 * DAY / 3;
        assert_eq!(validity(&cache, renewal - 1), (begin, end));
        assert_eq!(cache.issued(), 1);
        assert_eq!(validity(&cache, renewal), (renewal - DAY, renewal + 7 * DAY));
        assert_eq!((cache.issued(), cache.len()), (2, 1));
    }

    #[test]
    fn no_leaf_outlives_the_ca_or_begins_before_it() {
        let cache = cache();
        let ca_end = NOW + 730 * DAY;
        assert_eq!(validity(&cache, NOW).0, NOW - DAY);
        let (_, end) = validity(&cache, ca_end - DAY);
        assert_eq!(end, ca_end);
        assert_eq!(validity(&cache, ca_end - 1).1, ca_end);
        assert_eq!(cache.issued(), 2, "the last leaf is kept to the end");
        let refused = cache.server_config(&host("a.test"), at(ca_end));
        assert!(matches!(refused, Err(TlsError::Expired { .. })));
        let refused = cache.server_config(&host("new.test"), at(ca_end));
        assert!(matches!(refused, Err(TlsError::Expired { .. })));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_clock_set_back_gets_a_leaf_that_is_valid_then() {
        let cache = cache();
        validity(&cache, NOW + 100 * DAY);
        let (begin, end) = validity(&cache, NOW + DAY);
        assert_eq!((begin, end), (NOW, NOW + 8 * DAY));
        let refused = cache.server_config(&host("a.test"), at(NOW - 2 * DAY));
        assert!(matches!(refused, Err(TlsError::NotYetValid { .. })));
    }

    #[test]
    fn under_contention_a_leaf_is_signed_once() {
        const THREADS: usize = 64;
        let cache = cache();
        // New hosts first, then all of them due for renewal at once.
        for (round, time) in [now(), at(NOW + 6 * DAY)].into_iter().enumerate() {
            let barrier = Barrier::new(THREADS);
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        barrier.wait();
                        for n in 0..8 {
                            let host = host(&format!("h{n}.test"));
                            let config = cache.server_config(&host, time).unwrap().any;
                            let again = cache.server_config(&host, time).unwrap().any;
                            assert!(Arc::ptr_eq(&config, &again));
                        }
                    });
                }
            });
            assert_eq!(cache.issued(), 8 * (round as u64 + 1));
        }
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_in_use() {
        let cache = cache_of(64);
        let hot: Vec<Host> = (0..8).map(|n| host(&format!("hot{n}.test"))).collect();
        for n in 0..1000 {
            for host in &hot {
                cache.server_config(host, now()).unwrap();
            }
            let cold = host(&format!("cold{n}.test"));
            cache.server_config(&cold, now()).unwrap();
            assert!(cache.len() <= 64, "{}", cache.len());
        }
        assert_eq!(cache.issued(), 1008, "no hot host was signed again");
        assert!(cache.len() > 48, "evicted no more than it had to");
    }

    #[test]
    fn a_storm_of_new_hosts_from_many_threads_signs_no_hot_host_again() {
        const THREADS: u64 = 16;
        let cache = cache_of(256);
        let hot = host("hot.test");
        cache.server_config(&hot, now()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (cache, hot) = (&cache, &hot);
                scope.spawn(move || {
                    for n in 0..100 {
                        cache.server_config(hot, now()).unwrap();
                        let cold = host(&format!("cold{n}.t{thread}.test"));
                        cache.server_config(&cold, now()).unwrap();
                    }
                });
            }
        });
        assert_eq!(cache.issued(), 1 + THREADS * 100);
        assert!(cache.len() <= 256);
    }

    #[test]
    fn the_least_capacity_holds() {
        assert_eq!(cache_of(0).capacity(), CAPACITY_MIN);
    }

    fn alpn_client(cache: &LeafCache, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut client = client(cache.authority(), NOW, &[&TLS13, &TLS12]);
        client.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(client)
    }

    #[test]
    fn the_servers_order_decides_the_protocol() {
        let cache = cache();
        let config = cache.server_config(&host("a.test"), now()).unwrap().any;
        let agreed = |alpn: &[&str]| {
            let (_, server) = shake(&alpn_client(&cache, alpn), "a.test", &config).unwrap();
            server.alpn_protocol().and_then(Alpn::from_wire)
        };
        assert_eq!(agreed(&["http/1.1", "h2"]), Some(Alpn::Http2));
        assert_eq!(agreed(&["http/1.1"]), Some(Alpn::Http11));
        assert_eq!(agreed(&["http/1.0"]), Some(Alpn::Http11));
        assert_eq!(agreed(&[]), None);
        let none = shake(&alpn_client(&cache, &["spdy/3"]), "a.test", &config);
        assert_eq!(none.err(), Some(rustls::Error::NoApplicationProtocol));
    }

    #[test]
    fn the_servers_order_decides_the_cipher() {
        let cache = cache();
        let config = cache.server_config(&host("a.test"), now()).unwrap().any;
        for (version, expected) in [
            (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
            (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        ] {
            let client = client(cache.authority(), NOW, &[version]);
            let first = client.crypto_provider().cipher_suites.first();
            let first = first.map(rustls::SupportedCipherSuite::suite);
            assert_eq!(first, Some(CipherSuite::TLS13_AES_256_GCM_SHA384), "what clients prefer");
            let (_, server) = shake(&Arc::new(client), "a.test", &config).unwrap();
            assert_eq!(server.negotiated_cipher_suite().unwrap().suite(), expected);
        }
    }

    #[test]
    fn a_session_resumes_for_its_own_host_and_ca_only() {
        for version in [&TLS12, &TLS13] {
            let (one, other) = (cache(), cache());
            let client = Arc::new(client(one.authority(), NOW, &[version]));
            let config = one.server_config(&host("a.test"), now()).unwrap().any;
            let kind = |name: &str, config: &Arc<ServerConfig>| {
                let (client, _) = shake(&client, name, config).unwrap();
                client.handshake_kind()
            };
            assert_eq!(kind("a.test", &config), Some(HandshakeKind::Full));
            assert_eq!(kind("a.test", &config), Some(HandshakeKind::Resumed));
            let b = one.server_config(&host("b.test"), now()).unwrap().any;
            assert_eq!(kind("b.test", &b), Some(HandshakeKind::Full));
            // A ticket of the old CA is no use at the new one: the client must verify again.
            let rotated = other.server_config(&host("a.test"), now()).unwrap().any;
            assert!(shake(&client, "a.test", &rotated).is_err());
        }
    }

    #[test]
    fn tls_1_2_and_1_3_without_early_data_or_stored_sessions() {
        let cache = cache();
        let config = cache.server_config(&host("a.test"), now()).unwrap().any;
        for (version, number) in
            [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
        {
            let client = Arc::new(client(cache.authority(), NOW, &[version]));
            let (_, server) = shake(&client, "a.test", &config).unwrap();
            assert_eq!(server.protocol_version(), Some(number));
        }
        assert_eq!(config.max_early_data_size, 0);
        assert!(!config.send_half_rtt_data);
        assert!(!config.session_storage.can_cache());
    }

    #[test]
    fn a_ca_that_another_signed_is_sent_along() {
        use rcgen::BasicConstraints;

        let root = authority(NOW);
        let secret = generate_key().unwrap();
        let key = P256Key::read(&secret).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "below");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (now() - BACKDATE).into();
        params.not_after = (now() + LIFE).into();
        let chain = root.sign(&params, &key).unwrap();
        let encoded = data_encoding::BASE64.encode(&chain[0]);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n");
        let below = CertificateAuthority::load(&pem, &secret, now()).unwrap();
        let cache = LeafCache::new(Arc::new(below), 16, &[]).unwrap();
        assert_eq!(shown(&cache, "a.test", NOW)[1..], chain[..]);
    }
}
