//! The far side as the config wants it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Failure;
use crate::config::{Breaker, Config, UpstreamHost};
use crate::host::Origin;
use crate::proxy::BreakerRule;
use crate::record::{Access, AuditSink, Event, Outcome, Unrecorded};
use crate::upstream::{
    AddressGuard, ClientCertificate, HostRule, Logins, PoolLimits, ProxyRule, SelfAddresses,
    Settings, SystemResolver, Timeouts, Upstream,
};

/// For calls of our own that the audit log cannot have: it is the running proxy's, or, where the master key
/// is unwrapped, not open yet. A command notes its call in the vault's journal before it makes it, which
/// whoever writes the log takes over. No request of an agent comes here.
pub(crate) struct WithoutLog;

impl AuditSink for WithoutLog {
    fn access(&self, _: &Access<'_>) -> Result<(), Unrecorded> {
        Ok(())
    }

    fn outcome(&self, _: &Outcome) {}

    fn event(&self, _: &Event) -> Result<(), Unrecorded> {
        Ok(())
    }
}

/// Makes the far side. `own` are the addresses where this process listens, which it never dials;
/// `logins` opens the credentials of proxies on the way.
///
/// # Errors
/// When a certificate cannot be read.
pub fn far_side(
    config: &Config,
    own: &[SocketAddr],
    logins: Arc<dyn Logins>,
) -> Result<Upstream, Failure> {
    let upstream = &config.upstream;
    let settings = Settings {
        hosts: upstream.hosts.iter().map(host_rule).collect(),
        guard: AddressGuard::new(upstream.allow_addresses.clone()),
        own: SelfAddresses::new(own.to_vec()),
        timeouts: Timeouts {
            connect: upstream.timeouts.connect,
            tls: upstream.timeouts.tls,
            response: upstream.timeouts.response,
            idle: upstream.timeouts.idle,
        },
        pool: PoolLimits {
            per_key: upstream.pool.per_host,
            total: upstream.pool.total,
            idle: upstream.pool.idle,
            age: upstream.pool.age,
        },
        resolver: Arc::new(SystemResolver::default()),
        logins,
    };
    Upstream::new(settings).map_err(|error| {
        let of_it = |host: &&UpstreamHost| Some(&host.pattern) == error.pattern.as_ref();
        let at = upstream.hosts.iter().find(of_it).map(|host| host.at.0.clone());
        let failure = Failure::from(error);
        match at {
            Some(at) => failure.within(&at).of_config(),
            None => failure,
        }
    })
}

/// When hosts that fail are left alone, as the config wants it.
pub(super) fn breaker(config: &Config) -> Option<BreakerRule> {
    let breaker = config.upstream.breaker?;
    let Breaker { failures, window, open } = breaker;
    Some(BreakerRule { failures, window, open })
}

fn host_rule(host: &UpstreamHost) -> HostRule {
    HostRule {
        pattern: host.pattern.clone(),
        address: host.address.clone(),
        ca_file: host.ca_file.clone(),
        crl_file: host.crl_file.clone(),
        client_cert: host.client_cert.as_ref().map(|pair| ClientCertificate {
            chain_file: pair.certificate.clone(),
            key_file: pair.key.clone(),
        }),
        proxy: host.proxy.as_ref().map(|proxy| ProxyRule {
            proxy: Origin { scheme: proxy.scheme, authority: proxy.authority.clone() },
            credential: proxy.credential.clone(),
            vet_names: proxy.vet_names,
        }),
        http1_only: host.http1_only,
    }
}
