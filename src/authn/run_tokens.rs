//! By a run token: signed here, good for one agent, and for a while.

use std::sync::Arc;

use super::{Agents, Authenticate, Denied, Shown};
use crate::agent::{Identity, Proof};
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
            if claims.agent != user.agent || user.context.contradicts(&claims.context) {
                return Err(Denied::Wrong);
            }
            Ok(Identity {
                workspace: claims.workspace.clone(),
                agent: claims.agent.clone(),
                token_id: Arc::clone(&claims.id),
                context: user.context.overlaid(&claims.context),
                proof: Proof::Run(Arc::new(claims)),
            })
        }))
    }

    fn still_valid(&self, identity: &Identity, now: i64) -> Option<bool> {
        let claims = identity.run_token()?;
        Some(self.agents.runs.stands(claims, now).is_ok())
    }
}
