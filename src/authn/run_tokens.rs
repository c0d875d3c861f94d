//! By a run token: signed here, good for one agent, and for a while.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Agents, Authenticate, Denied, Shown};
use crate::agent::{Identity, Labels, Proof};
use crate::token::run;

/// Checks run tokens.
#[derive(Debug)]
pub struct ByRunToken {
    agents: Arc<Agents>,
}

impl ByRunToken {
    /// Checks against the run tokens of these agents.
    #[must_use]
    pub fn new(agents: Arc<Agents>) -> Self {
        Self { agents }
    }
}

impl Authenticate for ByRunToken {
    fn authenticate(&self, shown: &Shown<'_>, now: i64) -> Option<Result<Identity, Denied>> {
        let (user, text) = shown.pair().filter(|(_, text)| text.starts_with(run::PREFIX))?;
        let opened = self.agents.runs.open(text, now).map_err(Denied::from);
        Some(opened.and_then(|claims| {
            let own = claims.workspace == self.agents.workspace && claims.agent == user.agent;
            if !own || user.context.contradicts(&claims.context) {
                return Err(Denied::Wrong);
            }
            let (agent, id) = (claims.agent.clone(), Arc::clone(&claims.id));
            let context = user.context.overlaid(&claims.context);
            Ok(self.agents.identity(agent, id, context, Proof::Run(Arc::new(claims))))
        }))
    }

    fn still_valid(&self, identity: &Identity, now: i64) -> Option<bool> {
        let claims = identity.run_token()?;
        Some(self.agents.runs.stands(claims, now).is_ok())
    }

    fn labels(&self, identity: &Identity) -> Option<Cow<'_, Labels>> {
        identity.run_token()?;
        Some(Cow::Borrowed(self.agents.labels(&identity.agent)))
    }
}
