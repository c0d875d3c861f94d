//! Certificates by which agents show who they are: issued for a key that whoever asks has, and never for one
//! that travels.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Call, Desk, Order, Trouble};
use crate::admin::problem::Problem;
use crate::app::{Failure, issue_certificate};
use crate::reference::Name;
use crate::tls::MAX_CLIENT_TTL;
use crate::vault::IssuedOnce;

/// How long a certificate is good for, in seconds, where nobody says.
const TTL: u64 = 24 * 60 * 60;

/// A certificate for an agent that lives.
pub(crate) struct IssueCertificate {
    pub(crate) agent: Name,
    pub(crate) wanted: Wanted,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// A request (PKCS #10, PEM), of which the key is taken.
    pub(crate) csr: String,
    /// In seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct IssuedCertificate {
    pub(crate) agent: Name,
    /// As audit records have it, and revocations take it.
    pub(crate) serial: String,
    /// The SPIFFE id in it.
    pub(crate) id: String,
    pub(crate) expires: i64,
    /// In PEM.
    pub(crate) certificate: String,
}

impl Order for IssueCertificate {
    type Answer = IssuedCertificate;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/agents/{}/certificates", self.agent), &self.wanted)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<IssuedCertificate, Trouble> {
        let Self { agent, wanted: Wanted { csr, ttl } } = self;
        let ttl = checked(Duration::from_secs(ttl.unwrap_or(TTL)));
        let ttl = ttl.map_err(|why| Failure::usage(format!("ttl: {why}")))?;
        let (home, domain) = (desk.home().clone(), desk.trust_domain());
        let issued = desk.write(|vault| {
            let agents = vault.agents()?;
            let known = agents.iter().find(|one| one.name == agent);
            match known.map(|one| one.revoked) {
                Some(None) => {}
                Some(Some(_)) => {
                    return Err(Problem::conflict(format!("the agent {agent} was revoked")).into());
                }
                None => {
                    let failure = Failure::new(format!("there is no agent {agent}"));
                    return Err(Trouble::Missing(
                        failure.help(format!("locum agent add {agent} --no-token")),
                    ));
                }
            }
            Ok(issue_certificate(vault, (&home, &domain), (&agent, ttl), &csr)?)
        })?;
        let expires = jiff::Timestamp::try_from(issued.not_after).map(jiff::Timestamp::as_second);
        Ok(IssuedCertificate {
            agent,
            serial: issued.serial,
            id: issued.id,
            expires: expires.unwrap_or_default(),
            certificate: issued.certificate_pem,
        })
    }
}

/// A time for which a certificate may be good.
pub(crate) fn checked(ttl: Duration) -> Result<Duration, &'static str> {
    if (Duration::from_mins(1)..=MAX_CLIENT_TTL).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("a certificate is good for 1m to 90d; issue it again before it ends")
    }
}

/// The certificates that were issued to an agent and may still be good.
pub(crate) struct ListCertificates {
    pub(crate) agent: Name,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ListedCertificate {
    pub(crate) serial: String,
    pub(crate) issued: i64,
    pub(crate) revoked: Option<i64>,
}

impl Order for ListCertificates {
    type Answer = Vec<ListedCertificate>;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get(format!("/v1/agents/{}/certificates", self.agent)))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<ListedCertificate>, Trouble> {
        let all = desk.read(|vault| Ok(vault.certificates(&self.agent)?))?;
        let shown =
            |IssuedOnce { serial, issued, revoked }| ListedCertificate { serial, issued, revoked };
        Ok(all.into_iter().map(shown).collect())
    }
}
