//! By the user behind a Unix socket: the kernel says who connected, and nobody else has a say in it.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Admit, Authenticate, Denied, Directory, Shown};
use crate::agent::{Identity, Labels, Proof, UnixUser};
use crate::record::Peer;
use crate::reference::Name;

/// Which agent the processes of a user are. Where a user and a group are given, both must be the
/// process's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRule {
    /// The user's number.
    pub uid: Option<u32>,
    /// The group's.
    pub gid: Option<u32>,
    /// In which workspace.
    pub workspace: Name,
    /// Who that is.
    pub agent: Name,
}

impl PeerRule {
    fn covers(&self, user: UnixUser) -> bool {
        self.uid.is_none_or(|uid| uid == user.uid) && self.gid.is_none_or(|gid| gid == user.gid)
    }

    /// What the records have in place of a token's id: what of the process decided.
    fn id(&self) -> Arc<str> {
        match (self.uid, self.gid) {
            (Some(uid), Some(gid)) => format!("uid:{uid},gid:{gid}").into(),
            (Some(uid), None) => format!("uid:{uid}").into(),
            (None, Some(gid)) => format!("gid:{gid}").into(),
            (None, None) => "unix".into(),
        }
    }
}

/// Knows processes by their user and group. The first rule that covers one decides.
#[derive(Debug)]
pub struct Peers {
    directory: Directory,
    rules: Box<[PeerRule]>,
}

impl Peers {
    /// By these rules.
    #[must_use]
    pub fn new(directory: Directory, rules: Vec<PeerRule>) -> Self {
        Self { directory, rules: rules.into() }
    }

    fn rule(&self, user: UnixUser) -> Option<&PeerRule> {
        self.rules.iter().find(|rule| rule.covers(user))
    }
}

impl Authenticate for Peers {
    fn authenticate(&self, shown: &Shown<'_>, _: i64) -> Option<Result<Identity, Denied>> {
        let Peer::Unix(Some(user)) = shown.peer else { return None };
        let rule = self.rule(user)?;
        let agents = self.directory.of(&rule.workspace);
        let Some(agents) = agents.filter(|agents| agents.admit(&rule.agent, Admit::Known)) else {
            return Some(Err(Denied::Unknown));
        };
        let identity =
            |said| agents.identity(rule.agent.clone(), rule.id(), said, Proof::Peer(user));
        Some(shown.said_by(&rule.agent).map(identity))
    }

    fn still_valid(&self, identity: &Identity, _: i64) -> Option<bool> {
        let Proof::Peer(user) = identity.proof else { return None };
        let same = self.rule(user).is_some_and(|rule| {
            rule.agent == identity.agent && rule.workspace == identity.workspace
        });
        let agents = self.directory.of(&identity.workspace).filter(|_| same);
        Some(agents.is_some_and(|agents| agents.admit(&identity.agent, Admit::Known)))
    }

    fn labels(&self, identity: &Identity) -> Option<Cow<'_, Labels>> {
        let Proof::Peer(_) = identity.proof else { return None };
        Some(Cow::Borrowed(self.directory.of(&identity.workspace)?.labels(&identity.agent)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;

    fn rule(uid: Option<u32>, gid: Option<u32>, agent: &str) -> PeerRule {
        PeerRule { uid, gid, workspace: name("default"), agent: name(agent) }
    }

    fn peers(rules: Vec<PeerRule>) -> Peers {
        Peers::new(agents(None).0.into(), rules)
    }

    fn by(uid: u32, gid: u32) -> Shown<'static> {
        let peer = Peer::Unix(Some(UnixUser { uid, gid }));
        Shown { credentials: None, peer, certificate: None }
    }

    #[test]
    fn the_first_rule_that_covers_the_process_says_who_it_is() {
        let peers = peers(vec![
            rule(Some(7), Some(8), "a"),
            rule(Some(7), None, "b"),
            rule(None, Some(9), "a"),
        ]);
        let who = |uid, gid| Some(peers.authenticate(&by(uid, gid), NOW)?.unwrap());
        let found = |uid, gid| who(uid, gid).map(|id| (id.agent.to_string(), id.token_id));
        let is = |agent: &str, id: &str| Some((agent.to_owned(), Arc::from(id)));
        assert_eq!(found(7, 8), is("a", "uid:7,gid:8"));
        assert_eq!(found(7, 9), is("b", "uid:7"));
        assert_eq!(found(1, 9), is("a", "gid:9"));
        assert_eq!(found(1, 1), None, "somebody else may know it");
        assert!(peers.authenticate(&shown(None), NOW).is_none(), "the system did not say");
    }

    #[test]
    fn a_process_may_name_itself_and_its_run_and_nobody_else() {
        let peers = peers(vec![rule(Some(7), None, "a"), rule(Some(8), None, "gone")]);
        let ask = |credentials, uid| {
            let Shown { peer, .. } = by(uid, 1);
            peers.authenticate(&Shown { credentials, peer, certificate: None }, NOW).unwrap()
        };
        let (own, other) = (pair("a+run=42", ""), pair("b", ""));
        assert_eq!(ask(Some(&own), 7).unwrap().context.run.unwrap().as_str(), "42");
        assert_eq!(ask(Some(&other), 7), Err(Denied::Wrong));
        assert_eq!(ask(None, 8), Err(Denied::Unknown), "a revoked agent is none by any means");
    }

    #[test]
    fn it_stands_as_long_as_its_rule_and_its_agent() {
        let identity = peers(vec![rule(Some(7), None, "a")]).authenticate(&by(7, 1), NOW);
        let identity = identity.unwrap().unwrap();
        let stands = |rules| peers(rules).still_valid(&identity, NOW);
        assert_eq!(stands(vec![rule(None, Some(1), "a")]), Some(true));
        assert_eq!(stands(vec![rule(Some(7), None, "b")]), Some(false));
        assert_eq!(stands(vec![]), Some(false));
        let token = Identity { proof: Proof::Token, ..identity.clone() };
        assert_eq!(peers(vec![]).still_valid(&token, NOW), None);
    }
}
