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
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::ca::{BACKDATE, CertificateAuthority, P256Key, generate_key, random_serial};
use super::{Alpn, TlsError, provider};
use crate::host::Host;

/// How long a leaf lives. Every client accepts it (the strictest limit met is 398 days), a leaf
/// that leaks with its key is soon worth nothing, and a proxy that runs for weeks signs each host
/// anew every few days, which costs nothing.
const LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

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
    /// All but the certificate.
    template: ServerConfig,
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
    config: Arc<ServerConfig>,
    not_before: SystemTime,
    renew_at: SystemTime,
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
        Ok(Self {
            authority,
            key: P256Key::read(&generate_key()?)?,
            template: template(alpn)?,
            leaves: DashMap::new(),
            capacity: capacity.max(CAPACITY_MIN),
            evicting: Mutex::new(()),
            age: AtomicU64::new(0),
            issued: AtomicU64::new(0),
        })
    }

    /// The configuration that serves a certificate for exactly `host`, valid at `now`.
    ///
    /// Costs one look-up, or one signature (tens of microseconds: short enough for a runtime
    /// thread) when the host is new or its leaf has spent two thirds of its life. Call it as soon
    /// as the CONNECT is answered: the signature is then done while the `ClientHello` is on its
    /// way.
    ///
    /// # Errors
    /// [`TlsError::Expired`] or [`TlsError::NotYetValid`] when the CA cannot sign at `now`;
    /// [`TlsError::Signing`] when the leaf cannot be built. Errors are not kept.
    pub fn server_config(
        &self,
        host: &Host,
        now: SystemTime,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        if let Some(config) = self.ready(host, now) {
            return Ok(config);
        }
        self.authority.check_validity(now)?;
        let slot = self.slot(host, now);
        self.make_room();
        match slot.leaf.get_or_init(|| self.issue(host, now)) {
            Ok(leaf) => Ok(Arc::clone(&leaf.config)),
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

    fn ready(&self, host: &Host, now: SystemTime) -> Option<Arc<ServerConfig>> {
        let slot = self.leaves.get(host)?;
        let leaf = slot.leaf.get()?.as_ref().ok()?;
        if !leaf.is_fresh(now) {
            return None;
        }
        slot.touch(self.age.load(Ordering::Relaxed));
        Some(Arc::clone(&leaf.config))
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
            config: Arc::new(self.config(CertifiedKey::new(chain, self.key.for_handshakes()))),
            not_before,
            renew_at: renewal(now, not_after, ca.not_after),
        })
    }

    fn config(&self, certified: CertifiedKey) -> ServerConfig {
        let mut config = self.template.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        config
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

fn template(alpn: &[Alpn]) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoCertificate));
    config.alpn_protocols = Alpn::wire_list(alpn);
    // Sessions live in the tickets that clients keep (RFC 8446 section 4.6.1, RFC 5077), under keys
    // that rotate every six hours; nothing is stored here per session.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
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
