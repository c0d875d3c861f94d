//! Run tokens.

use serde::{Deserialize, Serialize};

use super::{Call, Desk, Made, Order, Trouble};
use crate::admin::problem::Problem;
use crate::agent::{Context, Label};
use crate::app::Failure;
use crate::reference::Name;
use crate::vault::NewRunToken;

/// How long a run token is good for, in seconds, where its maker does not say.
const TTL: i64 = 60 * 60;

/// A token for one run of an agent. One that is made over the socket names whoever asks as its user: what
/// is done with it is done for that person, and says so.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MakeRunToken {
    pub(crate) agent: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<Label>,
    /// In seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<i64>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub(crate) uses: Option<Vec<Name>>,
    /// Whose values it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) environment: Option<Name>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct MadeRunToken {
    pub(crate) agent: Name,
    pub(crate) token_id: String,
    pub(crate) token: Made,
    pub(crate) expires: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<Label>,
}

impl Order for MakeRunToken {
    type Answer = MadeRunToken;

    fn call(&self) -> Result<Call, Failure> {
        Call::post("/v1/run-tokens", self)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<MadeRunToken, Trouble> {
        let Self { agent, run, node, user, ttl, uses, environment } = self;
        let user = match desk.who().map(|who| who.name.as_str().parse::<Label>()) {
            None => user,
            Some(own) => {
                let own = own.ok();
                if user.is_some() && user != own {
                    let detail = "a run token names whoever asks for it as its user, and no other";
                    return Err(Problem::forbidden(detail).into());
                }
                own
            }
        };
        let context = Context { run, node, user: user.clone() };
        let new = NewRunToken { agent, context, uses, environment, ttl: ttl.unwrap_or(TTL) };
        let (claims, token) = desk.read(|vault| Ok(vault.run_token(new)?))?;
        let subject = Some(claims.agent.as_str());
        desk.note("run-token-made", subject, &format!("run token {}", claims.id))?;
        Ok(MadeRunToken {
            agent: claims.agent.clone(),
            token_id: claims.id.to_string(),
            token: Made(token),
            expires: claims.expires,
            user,
        })
    }
}
