//! The authenticators as the config wants them.

use std::sync::Arc;

use crate::authn::{Agents, Authenticate, Authenticators, ByRunToken, ByToken, PeerRule, Peers};
use crate::config::{Config, Method, UnixPeer};
use crate::vault::Snapshot;

/// The ways in, in their order, for the agents of this vault.
pub(super) fn authenticators(config: &Config, vault: &Snapshot) -> Authenticators {
    let agents = Agents::new(
        &vault.workspace,
        Arc::clone(&vault.tokens),
        Arc::clone(&vault.token_key),
        Arc::clone(&vault.runs),
        Arc::clone(&vault.revoked_agents),
    );
    let agents = Arc::new(agents.labelled(Arc::clone(&vault.labels)));
    let one = |method: &Method| -> Arc<dyn Authenticate> {
        let agents = Arc::clone(&agents);
        match method {
            Method::Tokens => Arc::new(ByToken::new(agents)),
            Method::RunTokens => Arc::new(ByRunToken::new(agents)),
            Method::UnixPeers => {
                let rules = config.identity.unix_peers.iter().map(peer_rule).collect();
                Arc::new(Peers::new(agents, rules))
            }
        }
    };
    Authenticators::new(config.proxy.authenticate.iter().map(one).collect())
}

fn peer_rule(peer: &UnixPeer) -> PeerRule {
    PeerRule { uid: peer.uid, gid: peer.gid, agent: peer.agent.clone() }
}
