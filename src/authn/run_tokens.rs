//! By a run token: signed here, good for one agent, and for a while.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Agents, Authenticate, Denied, Directory, Shown};
use crate::agent::{Identity, Labels, Proof, UserName};
use crate::token::run;

/// Checks run tokens.
#[derive(Debug)]
pub struct ByRunToken {
    directory: Directory,
}

impl ByRunToken {
    /// Checks against the run tokens of these agents.
    #[must_use]
    pub fn new(directory: Directory) -> Self {
        Self { directory }
    }

    /// Whose key a token has to be checked with. Where there are several, by what it says itself: nothing
    /// of that is believed, and another workspace's key does not fit.
    fn agents(&self, text: &str) -> Option<&Agents> {
        match self.directory.only() {
            Some(agents) => Some(agents),
            None => run::claimed_workspace(text)
                .and_then(|workspace| self.directory.of(&workspace))
                .or_else(|| self.directory.first()),
        }
    }

    fn check(&self, user: &UserName, text: &str, now: i64) -> Result<Identity, Denied> {
        let agents = self.agents(text).ok_or(Denied::Unknown)?;
        let claims = agents.runs.open(text, now)?;
        let own = claims.workspace == agents.workspace && claims.agent == user.agent;
        if !own || user.context.contradicts(&claims.context) {
            return Err(Denied::Wrong);
        }
        let (agent, id) = (claims.agent.clone(), Arc::clone(&claims.id));
        let context = user.context.overlaid(&claims.context);
        Ok(agents.identity(agent, id, context, Proof::Run(Arc::new(claims))))
    }
}

impl Authenticate for ByRunToken {
    fn authenticate(&self, shown: &Shown<'_>, now: i64) -> Option<Result<Identity, Denied>> {
        let (user, text) = shown.pair().filter(|(_, text)| text.starts_with(run::PREFIX))?;
        Some(self.check(user, text, now))
    }

    fn still_valid(&self, identity: &Identity, now: i64) -> Option<bool> {
        let claims = identity.run_token()?;
        let agents = self.directory.of(&identity.workspace);
        Some(agents.is_some_and(|agents| agents.runs.stands(claims, now).is_ok()))
    }

    fn labels(&self, identity: &Identity) -> Option<Cow<'_, Labels>> {
        identity.run_token()?;
        Some(Cow::Borrowed(self.directory.of(&identity.workspace)?.labels(&identity.agent)))
    }
}
