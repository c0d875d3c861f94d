//! The credentials of proxies on the way to a host: each use is an access record of Locum's own, and
//! the vault's binding holds for them as for any other.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use zeroize::Zeroizing;

use super::Failure;
use crate::audit::AuditLog;
use crate::config::Config;
use crate::credential::{BasicPart, Credential, CredentialIndex, Slot};
use crate::host::{Origin, Scheme};
use crate::outcome::{Code, Ending, Refusal};
use crate::proxy::{Gateway, State, request_id};
use crate::record::{Access, AuditSink as _, Outcome, Recorded, RequestId, Use, Why};
use crate::reference::Name;
use crate::secret::Secret;
use crate::upstream::{Login, LoginAccount, LoginFor, Logins};

/// Opens them from the vault of a running proxy.
pub(super) struct VaultLogins {
    audit: Arc<AuditLog>,
    /// Weak, because the gateway's far side holds this.
    gateway: OnceLock<Weak<Gateway>>,
}

impl VaultLogins {
    pub(super) fn new(audit: Arc<AuditLog>) -> Self {
        Self { audit, gateway: OnceLock::new() }
    }

    /// Says whose vault it is.
    pub(super) fn open_for(&self, gateway: &Arc<Gateway>) {
        let _already_set = self.gateway.set(Arc::downgrade(gateway));
    }

    /// Writes the access record. No agent stands in it: a connection is the process's own, and may
    /// serve more than the request that it was made for.
    fn record(
        &self,
        id: RequestId,
        asked: LoginFor<'_>,
        state: &State,
        used: &Use,
        pair: Secret,
    ) -> Result<Recorded<Secret>, Refusal> {
        let proxy = asked.proxy.to_string();
        let record = Access {
            method: Some("CONNECT"),
            path: Some(&asked.target.to_string()),
            rule: Some(asked.rule),
            policy_generation: state.generation,
            policy_digest: state.policy.digest(),
            credential: Some(used),
            ..Access::new(id, &proxy)
        };
        Recorded::new(pair, &*self.audit, &record).map_err(|_| Refusal::new(Code::AuditUnavailable))
    }
}

impl Logins for VaultLogins {
    fn login(&self, asked: LoginFor<'_>) -> Result<Login, Refusal> {
        let gone = || Refusal::new(Code::VaultUnavailable);
        let gateway = self.gateway.get().and_then(Weak::upgrade).ok_or_else(gone)?;
        // The config names it, so it is the home's own.
        let state = gateway.default_workspace().state();
        let sealed = state.sealed.as_ref().ok_or_else(gone)?;
        let usable = usable(&state.credentials, asked.credential, asked.proxy).map_err(|why| {
            tracing::error!(credential = %asked.credential, proxy = %asked.proxy, %why, "the next proxy gets no credential");
            let detail = format!("the credential of the proxy {} cannot be used", asked.proxy.authority);
            Refusal::with_detail(Code::NextProxyRefused, detail).because(why.as_str())
        })?;
        let (name, version) = (&usable.credential.name, usable.version);
        let secret = sealed.open(name, version).map_err(|error| {
            tracing::error!(credential = %name, version, %error, "a sealed secret does not open");
            Refusal::new(Code::VaultCorrupt)
        })?;
        let used = Use {
            credential: name.clone(),
            version: Some(version),
            slot: Some("header:proxy-authorization".to_owned()),
            why: Why::default(),
        };
        let id = request_id();
        let pair = self.record(id, asked, &state, &used, usable.pair(&secret))?;
        gateway.metrics().injection(name.as_str());
        let audit = Arc::clone(&self.audit);
        let account = Account {
            audit,
            id,
            start: Instant::now(),
            ending: Ending::DownstreamAborted,
            status: None,
            code: None,
        };
        Ok(Login { pair, account: Box::new(account) })
    }
}

/// Writes the outcome record when it is dropped, however that comes to pass.
struct Account {
    audit: Arc<AuditLog>,
    id: RequestId,
    start: Instant,
    ending: Ending,
    status: Option<u16>,
    code: Option<Code>,
}

impl LoginAccount for Account {
    fn answered(mut self: Box<Self>, status: Option<u16>, code: Option<Code>) {
        self.ending = if code.is_none() { Ending::Complete } else { Ending::Failed };
        (self.status, self.code) = (status, code);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let took = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.audit.outcome(&Outcome {
            request_id: self.id,
            ending: self.ending,
            code: self.code,
            status: self.status,
            complaint: None,
            bytes_up: 0,
            bytes_down: 0,
            scrubbed: 0,
            unsearched: false,
            misplaced: 0,
            upstream_us: self.status.map(|_| took),
            total_us: took,
        });
    }
}

/// A credential that a proxy may be shown.
struct Usable<'a> {
    credential: &'a Credential,
    version: u32,
    part: BasicPart,
    other: &'a str,
}

impl Usable<'_> {
    /// `user:password` (RFC 7617), in memory that is wiped.
    fn pair(&self, secret: &Secret) -> Secret {
        secret.expose(|secret| {
            let other = self.other.as_bytes();
            let (user, password) = match self.part {
                BasicPart::User => (secret, other),
                BasicPart::Password => (other, secret),
            };
            let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + 1 + password.len()));
            pair.extend_from_slice(user);
            pair.push(b':');
            pair.extend_from_slice(password);
            Secret::new(std::mem::take(&mut *pair))
        })
    }
}

/// Why a proxy is not shown a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    Unknown,
    Revoked,
    Elsewhere,
    NoBasic,
    OfAKind,
}

impl Unusable {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "the vault has no credential of this name",
            Self::Revoked => "the credential is revoked",
            Self::Elsewhere => "the credential is not bound to the proxy's host and port",
            Self::NoBasic => "the credential has no Basic slot",
            Self::OfAKind => {
                "the credential is of a kind, and a proxy is shown what lies in the vault; add the password by itself, with --basic USER"
            }
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The binding is to the proxy's host and port. In the vault it is written with `https://`, as all
/// are; whether the way there may be in the clear is said in the config.
fn usable<'a>(
    credentials: &'a CredentialIndex,
    name: &Name,
    proxy: &Origin,
) -> Result<Usable<'a>, Unusable> {
    let credential = credentials.get(name.as_str()).ok_or(Unusable::Unknown)?;
    let version = credential.version.ok_or(Unusable::Revoked)?;
    if credential.properties.kind.is_some() {
        return Err(Unusable::OfAKind);
    }
    let bound = Origin { scheme: Scheme::Https, authority: proxy.authority.clone() };
    if !credential.is_bound_to(&bound) {
        return Err(Unusable::Elsewhere);
    }
    let basic = credential.slots.iter().find_map(|slot| match slot {
        Slot::Basic { part, other } => Some((*part, &**other)),
        _ => None,
    });
    let (part, other) = basic.ok_or(Unusable::NoBasic)?;
    Ok(Usable { credential, version, part, other })
}

/// Whether every proxy of the config could be shown its credential.
///
/// # Errors
/// Which could not, why, and the command that mends it.
pub fn check_logins(config: &Config, credentials: &CredentialIndex) -> Result<(), Failure> {
    for host in &config.upstream.hosts {
        let Some(proxy) = &host.proxy else { continue };
        let Some(name) = &proxy.credential else { continue };
        let origin = Origin { scheme: proxy.scheme, authority: proxy.authority.clone() };
        usable(credentials, name, &origin).map(|_| ()).map_err(|why| {
            let key = format!("upstream.hosts.{}.proxy.credential", host.pattern);
            Failure::usage(format!("{key}: {name}: {why}")).help(format!(
                "locum credential add {name} --to https://{} --basic USER < password.txt",
                proxy.authority
            ))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::credential;

    fn verdict(to: &str, slot: &str, proxy: &str) -> Option<Unusable> {
        let index = CredentialIndex::new(vec![credential("corp", &[to], &[slot])], [].into());
        let (scheme, rest) = proxy.split_once("://").unwrap();
        let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
        let authority = crate::host::Authority::parse(rest, None).unwrap();
        let name = "corp".parse().unwrap();
        usable(&index, &name, &Origin { scheme, authority }).err()
    }

    #[test]
    fn a_proxy_is_shown_the_credential_that_is_bound_to_it_and_no_other() {
        let to = "https://proxy.test:3128";
        assert_eq!(verdict(to, "basic us", "http://proxy.test:3128"), None);
        assert_eq!(verdict(to, "basic us", "https://proxy.test:3128"), None);
        let elsewhere = Some(Unusable::Elsewhere);
        assert_eq!(verdict(to, "basic us", "http://proxy.test:3129"), elsewhere);
        assert_eq!(verdict("https://api.test", "basic us", "http://proxy.test:3128"), elsewhere);
        let bearer = "header authorization: Bearer {secret}";
        assert_eq!(verdict(to, bearer, "http://proxy.test:3128"), Some(Unusable::NoBasic));
    }

    #[test]
    fn the_pair_is_user_and_password() {
        let one = credential("corp", &["https://proxy.test"], &["basic us"]);
        let pair = |part, other| {
            let usable = Usable { credential: &one, version: 1, part, other };
            usable.pair(&Secret::new(b"pass".to_vec())).expose(<[u8]>::to_vec)
        };
        assert_eq!(pair(BasicPart::Password, "us"), b"us:pass");
        assert_eq!(pair(BasicPart::User, ""), b"pass:");
    }
}
