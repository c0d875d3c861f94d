//! The CA that a home has for its agents: made when the first certificate is asked for, its key in the
//! vault, its certificate in a file that a listener can name.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{Failure, Home, Opened};
use crate::agent::default_workspace;
use crate::files;
use crate::reference::Name;
use crate::secret::Secret;
use crate::tls::{ClientAuthority, ClientIssued};
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

impl Opened {
    /// Issues a certificate for an agent that lives; of `request`, where there is one, the key is taken.
    ///
    /// # Errors
    /// When there is no such agent, the CA cannot be used, or the request is none.
    pub fn issue_certificate(
        &mut self,
        agent: &Name,
        ttl: Duration,
        request: Option<&str>,
    ) -> Result<ClientIssued, Failure> {
        let agents = self.vault.agents()?;
        let known = agents.iter().find(|one| one.name == *agent);
        match known.map(|one| one.revoked) {
            Some(None) => {}
            Some(Some(_)) => return Err(Failure::new(format!("the agent {agent} was revoked"))),
            None => {
                let failure = Failure::new(format!("there is no agent {agent}"));
                return Err(failure.help(format!("locum agent add {agent} --no-token")));
            }
        }
        let now = SystemTime::now();
        let authority = self.agent_authority(now)?;
        let issued = authority.issue(agent, &self.spiffe_id(agent), (now, ttl), request)?;
        self.vault.note_certificate(agent, &issued.serial)?;
        self.changed()?;
        Ok(issued)
    }

    /// `spiffe://DOMAIN/agent/NAME`, and with its workspace where that is another than the default one.
    fn spiffe_id(&self, agent: &Name) -> String {
        let (domain, workspace) = (self.trust_domain(), self.vault.workspace());
        if *workspace == default_workspace() {
            format!("spiffe://{domain}/agent/{agent}")
        } else {
            format!("spiffe://{domain}/workspace/{workspace}/agent/{agent}")
        }
    }

    /// The trust domain of the config, where certificates are known by their SPIFFE ids.
    fn trust_domain(&self) -> &str {
        use crate::config::CertificateName;
        let names = self.config.identity.client_certificates.as_ref();
        match names.map(|names| &names.name) {
            Some(CertificateName::Spiffe(domain)) => domain,
            _ => DOMAIN,
        }
    }

    fn agent_authority(&mut self, now: SystemTime) -> Result<ClientAuthority, Failure> {
        let key = match open(&self.vault, KEY_ITEM)? {
            Some(key) => key,
            None => make(&mut self.vault, now)?,
        };
        let certificate = open(&self.vault, CERTIFICATE_ITEM)?;
        let certificate =
            certificate.ok_or_else(|| Failure::new("the agents' CA has no certificate"))?;
        let pem = certificate.expose(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let file = self.home.agent_ca();
        if std::fs::read(&file).ok().as_deref() != Some(pem.as_bytes()) {
            files::replace_private(&file, pem.as_bytes())?;
        }
        Ok(ClientAuthority::load(&pem, &key, now)?)
    }
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
