//! The far side as the config wants it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Failure;
use crate::config::{Config, UpstreamHost};
use crate::upstream::{
    AddressGuard, ClientCertificate, HostRule, PoolLimits, SelfAddresses, Settings, SystemResolver,
    Timeouts, Upstream,
};

/// Makes the far side. `own` are the addresses where this process listens, which it never dials.
///
/// # Errors
/// When a certificate cannot be read, or a setting asks for what this version cannot do.
pub fn far_side(config: &Config, own: &[SocketAddr]) -> Result<Upstream, Failure> {
    let upstream = &config.upstream;
    let settings = Settings {
        hosts: upstream.hosts.iter().map(host_rule).collect::<Result<_, _>>()?,
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
        resolver: Arc::new(SystemResolver),
    };
    Ok(Upstream::new(settings)?)
}

fn host_rule(host: &UpstreamHost) -> Result<HostRule, Failure> {
    if host.proxy.is_some() {
        // Going direct without a word would break the rule that a corporate proxy stands for.
        let key = format!("upstream.hosts.{}.proxy", host.pattern);
        return Err(Failure::usage(format!("{key}: this version cannot go through another proxy"))
            .help("remove the setting, or wait for the version that can"));
    }
    Ok(HostRule {
        pattern: host.pattern.clone(),
        address: host.address.clone(),
        ca_file: host.ca_file.clone(),
        client_cert: host.client_cert.as_ref().map(|pair| ClientCertificate {
            chain_file: pair.certificate.clone(),
            key_file: pair.key.clone(),
        }),
        http1_only: host.http1_only,
    })
}
