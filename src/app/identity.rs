//! The authenticators as the config wants them.

use std::sync::Arc;

use super::issuer_keys::AllKeys;
use crate::agent::certificate::RevocationList;
use crate::authn::{
    Admit, Agents, Authenticate, Authenticators, ByCertificate, ByJwt, ByRunToken, ByToken, Claims,
    Issuer, NameIn, PeerRule, Peers,
};
use crate::config::{CertificateName, ClientNames, Config, JwtIssuer, Method, UnixPeer};
use crate::token::jwt::Expected;
use crate::vault::Snapshot;

/// The ways in, in their order, for the agents of this vault.
pub(super) fn authenticators(
    config: &Config,
    vault: &Snapshot,
    keys: &AllKeys,
    revoked: &Arc<[RevocationList]>,
) -> Authenticators {
    let agents = Agents::new(
        &vault.workspace,
        Arc::clone(&vault.tokens),
        Arc::clone(&vault.token_key),
        Arc::clone(&vault.runs),
        Arc::clone(&vault.revoked_agents),
    );
    let agents = Arc::new(agents.labelled(Arc::clone(&vault.labels)));
    let one = |method: &Method| -> Option<Arc<dyn Authenticate>> {
        let agents = Arc::clone(&agents);
        Some(match method {
            Method::Tokens => Arc::new(ByToken::new(agents)),
            Method::RunTokens => Arc::new(ByRunToken::new(agents)),
            Method::Jwt => {
                let issuers = config.identity.jwt.iter().map(|one| issuer(one, keys)).collect();
                Arc::new(ByJwt::new(agents, issuers))
            }
            Method::ClientCertificates => {
                let names = config.identity.client_certificates.as_ref()?;
                Arc::new(by_certificate(names, agents).without(Arc::clone(revoked)))
            }
            Method::UnixPeers => {
                let rules = config.identity.unix_peers.iter().map(peer_rule).collect();
                Arc::new(Peers::new(agents, rules))
            }
        })
    };
    Authenticators::new(config.proxy.authenticate.iter().filter_map(one).collect())
}

fn issuer(jwt: &JwtIssuer, keys: &AllKeys) -> Issuer {
    let texts = |all: &[String]| all.iter().map(|text| text.as_str().into()).collect();
    Issuer {
        expected: Expected {
            issuer: jwt.issuer.as_str().into(),
            audiences: texts(&jwt.audiences),
            types: texts(&jwt.types),
            leeway: i64::try_from(jwt.leeway.as_secs()).unwrap_or(i64::MAX),
        },
        algorithms: jwt.algorithms.clone().into(),
        claims: Claims {
            agent: jwt.agent.clone(),
            user: jwt.user.clone(),
            run: jwt.run.clone(),
            labels: jwt.labels.clone().into(),
        },
        agents: jwt.map.clone(),
        admit: admit(jwt.any_agent),
        keys: keys.of(jwt),
    }
}

fn by_certificate(names: &ClientNames, agents: Arc<Agents>) -> ByCertificate {
    let name = match &names.name {
        CertificateName::Spiffe(domain) => NameIn::Spiffe(domain.as_str().into()),
        CertificateName::Uri => NameIn::Uri,
        CertificateName::Dns => NameIn::Dns,
        CertificateName::Email => NameIn::Email,
        CertificateName::CommonName => NameIn::CommonName,
    };
    ByCertificate::new(agents, name, names.map.clone(), admit(names.any_agent))
}

fn admit(any: bool) -> Admit {
    if any { Admit::Any } else { Admit::Known }
}

fn peer_rule(peer: &UnixPeer) -> PeerRule {
    PeerRule { uid: peer.uid, gid: peer.gid, agent: peer.agent.clone() }
}
