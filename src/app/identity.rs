//! The authenticators as the config wants them.

use std::sync::Arc;

use super::issuer_keys::AllKeys;
use crate::authn::{
    Admit, Agents, Authenticate, Authenticators, ByCertificate, ByJwt, ByRunToken, ByToken, Claims,
    Directory, Issuer, NameIn, PeerRule, Peers,
};
use crate::config::{CertificateName, ClientNames, Config, JwtIssuer, Method, UnixPeer};
use crate::token::jwt::Expected;
use crate::vault::Snapshot;

/// The agents of a workspace, as the vault has them.
pub(super) fn agents(vault: &Snapshot) -> Arc<Agents> {
    let agents = Agents::new(
        &vault.workspace,
        Arc::clone(&vault.tokens),
        Arc::clone(&vault.token_key),
        Arc::clone(&vault.runs),
        Arc::clone(&vault.revoked_agents),
    );
    Arc::new(agents.labelled(Arc::clone(&vault.labels)))
}

/// The ways in, in their order, for these agents.
pub(super) fn authenticators(
    config: &Config,
    directory: &Directory,
    keys: &AllKeys,
) -> Authenticators {
    let one = |method: &Method| -> Option<Arc<dyn Authenticate>> {
        let directory = directory.clone();
        Some(match method {
            Method::Tokens => Arc::new(ByToken::new(directory)),
            Method::RunTokens => Arc::new(ByRunToken::new(directory)),
            Method::Jwt => {
                let issuers = config.identity.jwt.iter().map(|one| issuer(one, keys)).collect();
                Arc::new(ByJwt::new(directory, issuers))
            }
            Method::ClientCertificates => {
                let names = config.identity.client_certificates.as_ref()?;
                Arc::new(by_certificate(names, directory).without(keys.revoked()))
            }
            Method::UnixPeers => {
                let rules = config.identity.unix_peers.iter().map(peer_rule).collect();
                Arc::new(Peers::new(directory, rules))
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
        workspace: jwt.workspace.clone(),
        admit: admit(jwt.any_agent),
        keys: keys.of(jwt),
    }
}

fn by_certificate(names: &ClientNames, directory: Directory) -> ByCertificate {
    let name = match &names.name {
        CertificateName::Spiffe(domain) => NameIn::Spiffe(domain.as_str().into()),
        CertificateName::Uri => NameIn::Uri,
        CertificateName::Dns => NameIn::Dns,
        CertificateName::Email => NameIn::Email,
        CertificateName::CommonName => NameIn::CommonName,
    };
    let name = (name, names.map.clone());
    ByCertificate::new(directory, names.workspace.clone(), name, admit(names.any_agent))
}

fn admit(any: bool) -> Admit {
    if any { Admit::Any } else { Admit::Known }
}

fn peer_rule(peer: &UnixPeer) -> PeerRule {
    PeerRule {
        uid: peer.uid,
        gid: peer.gid,
        workspace: peer.workspace.clone(),
        agent: peer.agent.clone(),
    }
}
