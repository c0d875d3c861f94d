//! The CA that a home has for its agents: made when the first certificate is asked for, its key in the
//! vault, its certificate in a file that a listener can name.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{Failure, Home};
use crate::agent::default_workspace;
use crate::config::{CertificateName, Config};
use crate::files;
use crate::reference::Name;
use crate::secret::Secret;
use crate::tls::{ClientAuthority, ClientIssued, TlsError};
use crate::vault::{Fault, Vault};

/// The items of the vault.
const KEY_ITEM: &str = "agent-ca-key";
const CERTIFICATE_ITEM: &str = "agent-ca-certificate";

/// In SPIFFE ids, unless the config names another trust domain.
const DOMAIN: &str = "locum";

impl Home {
    /// The certificate of the CA for agents.
    #[must_use]
    pub fn agent_ca(&self) -> PathBuf {
        self.path().join("agents-ca.pem")
    }
}

/// Issues a certificate of the home's CA to an agent of the vault's workspace, with the key of `request`.
/// That the agent lives is asked before.
///
/// # Errors
/// When the CA cannot be used, or the request is none.
pub(crate) fn issue_certificate(
    vault: &mut Vault,
    (home, domain): (&Home, &str),
    (agent, ttl): (&Name, Duration),
    request: &str,
) -> Result<ClientIssued, Failure> {
    let now = SystemTime::now();
    let authority = authority(vault, home, now)?;
    let id = spiffe_id(domain, vault.workspace(), agent);
    let issued = authority.issue(agent, &id, (now, ttl), request);
    let issued = issued.map_err(|error| match error {
        TlsError::RequestUnreadable => Failure::usage(error.to_string()),
        other => other.into(),
    })?;
    vault.note_certificate(agent, &issued.serial)?;
    Ok(issued)
}

/// `spiffe://DOMAIN/agent/NAME`, and with its workspace where that is another than the default one.
fn spiffe_id(domain: &str, workspace: &Name, agent: &Name) -> String {
    if *workspace == default_workspace() {
        format!("spiffe://{domain}/agent/{agent}")
    } else {
        format!("spiffe://{domain}/workspace/{workspace}/agent/{agent}")
    }
}

/// The trust domain of the config, where certificates are known by their SPIFFE ids.
pub(crate) fn trust_domain(config: &Config) -> &str {
    let names = config.identity.client_certificates.as_ref();
    match names.map(|names| &names.name) {
        Some(CertificateName::Spiffe(domain)) => domain,
        _ => DOMAIN,
    }
}

fn authority(vault: &mut Vault, home: &Home, now: SystemTime) -> Result<ClientAuthority, Failure> {
    let key = match open(vault, KEY_ITEM)? {
        Some(key) => key,
        None => make(vault, now)?,
    };
    let certificate = open(vault, CERTIFICATE_ITEM)?;
    let certificate =
        certificate.ok_or_else(|| Failure::new("the agents' CA has no certificate"))?;
    let pem = certificate.expose(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let file = home.agent_ca();
    if std::fs::read(&file).ok().as_deref() != Some(pem.as_bytes()) {
        files::replace_private(&file, pem.as_bytes())?;
    }
    Ok(ClientAuthority::load(&pem, &key, now)?)
}

/// An item, if there is one.
fn open(vault: &Vault, name: &str) -> Result<Option<Secret>, Failure> {
    match vault.open_item(name) {
        Ok(item) => Ok(Some(item)),
        Err(error) if matches!(error.fault, Fault::Unknown(..)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Key and certificate in one change: one without the other would be no CA.
fn make(vault: &mut Vault, now: SystemTime) -> Result<Secret, Failure> {
    let material = ClientAuthority::generate(now)?;
    let certificate = Secret::new(material.certificate_pem.into_bytes());
    vault.seal_items(&[(CERTIFICATE_ITEM, &certificate), (KEY_ITEM, &material.key)])?;
    Ok(material.key)
}
