//! Which host is reached how: the compiled form of `upstream.hosts`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use super::dial::Vetting;
use super::trust::{ClientCertificate, RootSummary, Roots, TlsProfile, TrustError};
use super::via::{NextProxy, ProxyRule};
use crate::host::{Authority, Host, HostPattern};

/// One entry of `upstream.hosts`. The most specific pattern that matches a host decides alone:
/// entries are not merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// The hosts.
    pub pattern: HostPattern,
    /// Where to connect in place of the host's own address and port. The host keeps its name in
    /// `Host`, SNI and certificate. The operator wrote it, so a private address is meant.
    pub address: Option<Authority>,
    /// PEM file with the only CAs that are believed for the hosts.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the lists of revoked certificates of the CA that issues the hosts' own.
    pub crl_file: Option<PathBuf>,
    /// The certificate that the proxy shows to the hosts.
    pub client_cert: Option<ClientCertificate>,
    /// The proxy that stands before the hosts.
    pub proxy: Option<ProxyRule>,
    /// Whether HTTP/2 must not be offered.
    pub http1_only: bool,
}

impl HostRule {
    /// A rule that changes nothing yet.
    #[must_use]
    pub fn new(pattern: HostPattern) -> Self {
        Self {
            pattern,
            address: None,
            ca_file: None,
            crl_file: None,
            client_cert: None,
            proxy: None,
            http1_only: false,
        }
    }
}

/// Which entry of `upstream.hosts` cannot be used, and why. None: the roots of all other hosts.
#[derive(Debug)]
pub struct UpstreamError {
    /// The entry's pattern.
    pub pattern: Option<HostPattern>,
    /// What is wrong.
    pub cause: TrustError,
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            Some(pattern) => write!(f, "upstream.hosts.{pattern}: {}", self.cause),
            None => write!(f, "upstream: {}", self.cause),
        }
    }
}

impl std::error::Error for UpstreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.cause)
    }
}

/// How a set of hosts is reached.
pub(super) struct Route {
    /// Distinguishes routes in the pool's key.
    pub(super) id: usize,
    address: Option<Authority>,
    pub(super) tls: TlsProfile,
    /// Whether HTTP/2 must not be offered.
    pub(super) http1_only: bool,
    /// Through which proxy, if not straight.
    pub(super) proxy: Option<NextProxy>,
}

impl Route {
    /// Whom to dial for `target`, and how far the answer is trusted.
    pub(super) fn dial<'a>(&'a self, target: &'a Authority) -> (&'a Authority, Vetting) {
        match &self.address {
            Some(address) => (address, Vetting::Operator),
            None => (target, Vetting::Guarded),
        }
    }
}

/// All routes, with the one for hosts that no rule names.
pub(super) struct Routes {
    all: Vec<Route>,
    exact: HashMap<Host, usize>,
    /// Most specific first.
    patterns: Vec<(HostPattern, usize)>,
    pub(super) roots: RootSummary,
}

impl Routes {
    /// Route 0 is the default one.
    pub(super) fn new(rules: Vec<HostRule>) -> Result<Self, UpstreamError> {
        let blame = |pattern: Option<&HostPattern>| {
            let pattern = pattern.cloned();
            move |cause| UpstreamError { pattern, cause }
        };
        let roots = Roots::system().map_err(blame(None))?;
        let default = TlsProfile::new(&roots, None, None, None).map_err(blame(None))?;
        let mut this = Self {
            all: vec![Route {
                id: 0,
                address: None,
                tls: default.clone(),
                http1_only: false,
                proxy: None,
            }],
            exact: HashMap::new(),
            patterns: Vec::new(),
            roots: roots.summary.clone(),
        };
        let mut proxies = Vec::new();
        for mut rule in rules {
            let tls = profile(&roots, &default, &rule).map_err(blame(Some(&rule.pattern)))?;
            let proxy = rule.proxy.take().map(|proxy| (proxy, rule.pattern.clone()));
            proxies.push((this.all.len(), proxy));
            this.add(rule, tls);
        }
        this.patterns.sort_by_key(|(pattern, _)| Reverse(specificity(pattern)));
        // Last, because an entry for the proxy's own name says how the proxy is reached.
        for (id, proxy) in proxies {
            this.all[id].proxy = proxy.map(|(rule, pattern)| this.next_proxy(rule, &pattern));
        }
        Ok(this)
    }

    fn add(&mut self, rule: HostRule, tls: TlsProfile) {
        let id = self.all.len();
        let HostRule { address, http1_only, .. } = rule;
        self.all.push(Route { id, address, tls, http1_only, proxy: None });
        match rule.pattern.exact() {
            Some(host) => {
                self.exact.insert(host.clone(), id);
            }
            None => self.patterns.push((rule.pattern, id)),
        }
    }

    /// What the entry for the proxy's own name says of address and certificates holds for it; that a
    /// proxy is reached through another proxy is not meant, and a `*` would have each reached through
    /// itself.
    fn next_proxy(&self, rule: ProxyRule, pattern: &HostPattern) -> NextProxy {
        let own = self.find(&rule.proxy.authority.host);
        NextProxy::new(rule, pattern, own.address.clone(), own.tls.for_proxy())
    }

    /// The route for a host.
    pub(super) fn find(&self, host: &Host) -> &Route {
        let id = self.exact.get(host).copied().or_else(|| {
            self.patterns.iter().find(|(pattern, _)| pattern.matches(host)).map(|(_, id)| *id)
        });
        // In bounds: every id is the index of a route that was pushed, and route 0 always exists.
        &self.all[id.unwrap_or(0)]
    }
}

/// A rule without certificates of its own shares the default profile, sessions included.
fn profile(roots: &Roots, default: &TlsProfile, rule: &HostRule) -> Result<TlsProfile, TrustError> {
    let (ca, crl) = (rule.ca_file.as_deref(), rule.crl_file.as_deref());
    if ca.is_none() && crl.is_none() && rule.client_cert.is_none() {
        return Ok(default.clone());
    }
    TlsProfile::new(roots, ca, crl, rule.client_cert.as_ref())
}

/// Later literal labels say more about who owns the name, then the length of the pattern; `*` alone
/// says nothing.
fn specificity(pattern: &HostPattern) -> (usize, usize) {
    let labels = pattern
        .literal_suffix()
        .map_or(0, |suffix| suffix.split('.').filter(|l| !l.is_empty()).count());
    (labels, pattern.to_string().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, address: &str) -> HostRule {
        HostRule {
            address: Some(Authority::parse(address, None).unwrap()),
            ..HostRule::new(pattern.parse().unwrap())
        }
    }

    fn dialled(routes: &Routes, target: &str) -> (String, Vetting) {
        let target = Authority::parse(target, Some(443)).unwrap();
        let (address, vetting) = routes.find(&target.host).dial(&target);
        (address.to_string(), vetting)
    }

    #[test]
    fn the_most_specific_rule_decides_whatever_the_order() {
        let routes = Routes::new(vec![
            rule("*", "10.0.0.1:1"),
            rule("**.example.test", "10.0.0.2:2"),
            rule("*.eu.example.test", "10.0.0.3:3"),
            rule("api.eu.example.test", "10.0.0.4:4"),
        ])
        .unwrap();
        for (target, expected) in [
            ("other.test", "10.0.0.1:1"),
            ("a.example.test", "10.0.0.2:2"),
            ("a.b.example.test", "10.0.0.2:2"),
            ("a.eu.example.test", "10.0.0.3:3"),
            ("api.eu.example.test", "10.0.0.4:4"),
        ] {
            let (address, vetting) = dialled(&routes, target);
            assert_eq!(address, expected, "{target}");
            assert_eq!(vetting, Vetting::Operator);
        }
    }

    #[test]
    fn a_host_without_a_rule_is_dialled_as_named_and_guarded() {
        let routes = Routes::new(vec![rule("a.test", "10.0.0.1:1")]).unwrap();
        let found = dialled(&routes, "b.test:8443");
        assert_eq!(found, ("b.test:8443".to_owned(), Vetting::Guarded));
    }

    #[test]
    fn a_missing_ca_file_is_named_with_its_entry() {
        let broken = HostRule {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..HostRule::new("a.test".parse().unwrap())
        };
        let error = Routes::new(vec![broken]).err().unwrap();
        let text = error.to_string();
        assert_eq!(text, "upstream.hosts.a.test: /nowhere/ca.pem cannot be read");
    }
}
