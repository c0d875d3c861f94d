//! By an agent's own token, of which the vault keeps a MAC.

use std::borrow::Cow;
use std::sync::Arc;

use super::jwt::is_jwt;
use super::{Agents, Authenticate, Denied, Directory, Shown};
use crate::agent::{Identity, Labels, Proof, TokenRecord, UserName, default_workspace};
use crate::token::{self, run};

/// Checks agents' tokens. Every password that is not plainly something else is one for it.
#[derive(Debug)]
pub struct ByToken {
    directory: Directory,
    /// Stands in for the record of an id that there is none of, so that its check costs the same.
    nobody: TokenRecord,
}

impl ByToken {
    /// Checks against the tokens of these agents. The id of a token, which no two of a vault share, says
    /// in which workspace it is good.
    #[must_use]
    pub fn new(directory: Directory) -> Self {
        let nobody = TokenRecord {
            id: "aaaaaaaa".into(),
            workspace: default_workspace(),
            agent: default_workspace(),
            mac: [0; 32],
            expires: None,
        };
        Self { directory, nobody }
    }

    fn find(&self, password: &str) -> Result<(&Agents, &TokenRecord), Denied> {
        let id = token::parse(password).map_err(|_| Denied::Malformed)?;
        let mut all = self.directory.iter();
        all.find_map(|agents| Some((agents, agents.tokens.get(id)?))).ok_or(Denied::Unknown)
    }

    fn check(&self, user: &UserName, password: &str, now: i64) -> Result<Identity, Denied> {
        let found = self.find(password);
        let decoy = self.directory.first().map(|agents| (agents, &self.nobody));
        let (agents, record) = found.ok().or(decoy).ok_or(Denied::Unknown)?;
        // The MAC is over the agent that the caller says it is: another agent's token does not
        // verify, and takes as long as a right one.
        let verifies = agents.key.verifies(record, &user.agent, password);
        // Not to be put off until after the early return that does not use it.
        let verifies = std::hint::black_box(verifies);
        let (agents, record) = found?;
        let own = record.workspace == agents.workspace && record.agent == user.agent;
        if !verifies || !own {
            return Err(Denied::Wrong);
        }
        if is_expired(record, now) {
            return Err(Denied::Expired);
        }
        let (agent, id) = (record.agent.clone(), Arc::clone(&record.id));
        Ok(agents.identity(agent, id, user.context.clone(), Proof::Token))
    }
}

impl Authenticate for ByToken {
    fn authenticate(&self, shown: &Shown<'_>, now: i64) -> Option<Result<Identity, Denied>> {
        let others = |text: &str| text.starts_with(run::PREFIX) || is_jwt(text);
        let (user, password) = shown.pair().filter(|(_, text)| !others(text))?;
        Some(self.check(user, password, now))
    }

    fn still_valid(&self, identity: &Identity, now: i64) -> Option<bool> {
        let Proof::Token = identity.proof else { return None };
        let agents = self.directory.of(&identity.workspace);
        let record = agents.and_then(|agents| agents.tokens.get(&*identity.token_id));
        Some(record.is_some_and(|record| {
            record.workspace == identity.workspace
                && record.agent == identity.agent
                && !is_expired(record, now)
        }))
    }

    fn labels(&self, identity: &Identity) -> Option<Cow<'_, Labels>> {
        let Proof::Token = identity.proof else { return None };
        Some(Cow::Borrowed(self.directory.of(&identity.workspace)?.labels(&identity.agent)))
    }
}

/// From that second on, as for the `exp` of RFC 7519 section 4.1.4.
fn is_expired(record: &TokenRecord, now: i64) -> bool {
    record.expires.is_some_and(|expires| now >= expires)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use zeroize::Zeroizing;

    /// An authenticator that knows one token of agent `a`, and the token.
    fn knows(expires: Option<i64>) -> (ByToken, Zeroizing<String>) {
        let (agents, token) = agents(expires);
        (ByToken::new(agents.into()), token)
    }

    fn ask(to: &ByToken, user: &str, password: &str, now: i64) -> Result<Identity, Denied> {
        let credentials = pair(user, password);
        to.authenticate(&shown(Some(&credentials)), now).expect("a password is its own")
    }

    #[test]
    fn the_right_token_gives_the_agent_and_its_context() {
        let (authenticator, token) = knows(None);
        let identity = ask(&authenticator, "a+run=42+user=eve", &token, NOW).unwrap();
        assert_eq!(identity.agent, name("a"));
        assert_eq!(identity.context.run.as_ref().unwrap().as_str(), "42");
        assert_eq!(authenticator.still_valid(&identity, NOW), Some(true));
    }

    #[test]
    fn all_others_are_denied() {
        let (authenticator, token) = knows(Some(NOW + 1));
        let (_, other) = knows(None);
        // The id of the known token with the secret of another.
        let mixed = format!("{}{}", &token[..12], &other[12..]);
        let crc = crc32fast::hash(&mixed.as_bytes()[..65]).to_be_bytes();
        let crc = data_encoding::BASE32_NOPAD.encode(&crc).to_lowercase();
        let mixed = format!("{}{crc}", &mixed[..65]);
        for (user, password, now, why) in [
            ("a", "secret", NOW, Denied::Malformed),
            ("a", &token[..71], NOW, Denied::Malformed),
            ("a", &other, NOW, Denied::Unknown),
            ("a", &mixed, NOW, Denied::Wrong),
            ("b", &token, NOW, Denied::Wrong),
            ("a", &token, NOW + 1, Denied::Expired),
        ] {
            let denied = ask(&authenticator, user, password, now).unwrap_err();
            assert_eq!(denied, why, "{user} {password}");
        }
        assert!(ask(&authenticator, "a", &token, NOW).is_ok());
    }

    #[test]
    fn what_is_plainly_something_else_is_left_to_others() {
        let (authenticator, _) = knows(None);
        for password in ["", "lcr_x.y", "eyJ.e30.x"] {
            let credentials = pair("a", password);
            assert!(authenticator.authenticate(&shown(Some(&credentials)), NOW).is_none());
        }
        assert!(authenticator.authenticate(&shown(None), NOW).is_none());
    }

    #[test]
    fn a_record_that_was_moved_or_prolonged_does_not_verify() {
        let (authenticator, token) = knows(Some(NOW + 1));
        let edit = |edit: fn(&mut TokenRecord)| {
            let known = authenticator.directory.first().unwrap();
            let mut tokens = (*known.tokens).clone();
            tokens.values_mut().for_each(edit);
            let (key, runs) = (Arc::clone(&known.key), Arc::clone(&known.runs));
            let revoked = Arc::clone(&known.revoked);
            let agents = Agents::new(&known.workspace, Arc::new(tokens), key, runs, revoked);
            ByToken::new(Arc::new(agents).into())
        };
        for (user, edited) in [
            ("b", edit(|r| r.agent = name("b"))),
            ("a", edit(|r| r.workspace = name("other"))),
            ("a", edit(|r| r.expires = None)),
            ("a", edit(|r| r.expires = Some(NOW + 9))),
        ] {
            assert_eq!(ask(&edited, user, &token, NOW).unwrap_err(), Denied::Wrong);
        }
    }

    #[test]
    fn an_identity_falls_with_its_token() {
        let (authenticator, token) = knows(Some(NOW + 1));
        let identity = ask(&authenticator, "a", &token, NOW).unwrap();
        assert_eq!(authenticator.still_valid(&identity, NOW + 1), Some(false));
        let (without, _) = knows(None);
        assert_eq!(without.still_valid(&identity, NOW), Some(false));
        let renamed = Identity { agent: name("b"), ..identity };
        assert_eq!(authenticator.still_valid(&renamed, NOW), Some(false));
    }

    /// Not a measurement, which would fail on a busy machine: the same number of MACs over the same
    /// number of bytes, whatever is wrong. `benches` and the black-box tests measure.
    #[test]
    fn unknown_ids_cost_a_mac_too() {
        let (authenticator, _) = knows(None);
        let known = authenticator.directory.first().unwrap().tokens.values().next().unwrap();
        let input = |record: &TokenRecord| {
            TokenRecord::mac_input(&record.workspace, &name("a"), &record.id, record.expires).len()
        };
        assert_eq!(input(known), input(&authenticator.nobody));
    }
}
