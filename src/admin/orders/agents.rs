//! Agents, what they are labelled with, and their tokens.

use serde::{Deserialize, Serialize};

use super::{Call, Desk, Made, Order, Trouble, after};
use crate::agent::certificate::canonical_serial;
use crate::agent::{Label, LabelName, Labels};
use crate::app::Failure;
use crate::reference::Name;
use crate::token::run::Which;
use crate::vault::{AgentInfo, TokenInfo};

/// All agents of the workspace.
pub(crate) struct ListAgents;

#[derive(Serialize, Deserialize)]
pub(crate) struct Agent {
    pub(crate) agent: Name,
    pub(crate) labels: Labels,
    pub(crate) created: i64,
    pub(crate) revoked: Option<i64>,
    pub(crate) tokens: Vec<Token>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) token_id: String,
    pub(crate) created: i64,
    pub(crate) expires: Option<i64>,
    pub(crate) revoked: Option<i64>,
    pub(crate) note: Option<String>,
}

impl Order for ListAgents {
    type Answer = Vec<Agent>;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get("/v1/agents"))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Agent>, Trouble> {
        desk.read(|vault| Ok(vault.agents()?.into_iter().map(Agent::from).collect()))
    }
}

/// An agent, or a further token of one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddAgent {
    pub(crate) name: Name,
    /// What the token is for, as lists show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// How long the token is good for, in seconds; until it is revoked where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<u64>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub(crate) labels: Labels,
    /// The agent shows who it is in another way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_token: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AddedAgent {
    pub(crate) agent: Name,
    #[serde(flatten)]
    pub(crate) token: Option<AddedToken>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AddedToken {
    pub(crate) token_id: String,
    pub(crate) token: Made,
}

impl Order for AddAgent {
    type Answer = AddedAgent;

    fn call(&self) -> Result<Call, Failure> {
        Call::post("/v1/agents", self)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<AddedAgent, Trouble> {
        let Self { name, note, ttl, labels, no_token } = self;
        if no_token && (note.is_some() || ttl.is_some()) {
            return Err(Trouble::wrong("`note` and `ttl` are a token's", "leave them out"));
        }
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let token = desk.write(|vault| {
            // One that is there may have too many labels with these: then nothing is done, and no token is lost.
            let is_there = |one: &AgentInfo| one.name == name && one.revoked.is_none();
            let known = !labels.is_empty() && vault.agents()?.iter().any(is_there);
            if known && !no_token {
                vault.agent_label(&name, &labels, &[])?;
            }
            let token = if no_token {
                vault.agent_add(&name)?;
                None
            } else {
                Some(vault.agent_admit(&name, ttl.map(after), note.as_deref())?)
            };
            // Nobody has the token yet: no request comes before the labels.
            if !labels.is_empty() && !known {
                vault.agent_label(&name, &labels, &[])?;
            }
            Ok(token)
        })?;
        let token = token.map(|token| AddedToken {
            token_id: token.id().to_owned(),
            token: Made(token.into_text()),
        });
        Ok(AddedAgent { agent: name, token })
    }
}

/// What an agent is labelled with from now on, and what not any more.
pub(crate) struct LabelAgent {
    pub(crate) name: Name,
    pub(crate) change: Labelling,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Labelling {
    #[serde(default)]
    pub(crate) labels: Labels,
    #[serde(default)]
    pub(crate) remove: Vec<LabelName>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Labelled {
    pub(crate) agent: Name,
    pub(crate) labels: Labels,
}

impl Order for LabelAgent {
    type Answer = Labelled;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/agents/{}/labels", self.name), &self.change)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Labelled, Trouble> {
        let Self { name, change: Labelling { labels, remove } } = self;
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        if labels.is_empty() && remove.is_empty() {
            return Err(Trouble::wrong("no label is given and none is to be removed", "give one"));
        }
        let labels = desk.write(|vault| Ok(vault.agent_label(&name, &labels, &remove)?))?;
        Ok(Labelled { agent: name, labels })
    }
}

/// The end of an agent, or of one thing that it shows.
pub(crate) struct RevokeAgent {
    pub(crate) name: Name,
    pub(crate) only: Only,
}

/// At most one of them; without any it is the agent with all of its tokens.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Only {
    /// The token of this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// The run tokens of this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<Label>,
    /// The run token of this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_token: Option<String>,
    /// The certificate of this serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<String>,
    /// The token of an issuer with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwt: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct RevokedAgent {
    pub(crate) agent: Name,
    /// How many live tokens it had, where all of it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<usize>,
}

impl Order for RevokeAgent {
    type Answer = RevokedAgent;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/agents/{}/revoke", self.name), &self.only)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<RevokedAgent, Trouble> {
        let Self { name, only } = self;
        let mut tokens = None;
        match only.which()? {
            None => tokens = Some(desk.write(|vault| Ok(vault.agent_revoke(&name)?))?),
            Some(End::Token(id)) => desk.write(|vault| {
                let own = |agent: &AgentInfo| {
                    agent.name == name && agent.tokens.iter().any(|token| token.id == id)
                };
                if !vault.agents()?.iter().any(own) {
                    let failure = Failure::usage(format!("{name} has no token {id}"));
                    return Err(Trouble::Missing(failure.help("`locum agent list` shows the ids")));
                }
                Ok(vault.token_revoke(&id)?)
            })?,
            Some(End::Run(which)) => desk.write(|vault| Ok(vault.run_revoke(&name, which)?))?,
        }
        Ok(RevokedAgent { agent: name, tokens })
    }
}

enum End {
    Token(String),
    Run(Which),
}

impl Only {
    fn which(self) -> Result<Option<End>, Trouble> {
        let Self { token, run, run_token, certificate, jwt } = self;
        let certificate = certificate.map(|text| serial(&text)).transpose();
        let certificate = certificate
            .map_err(|why| Trouble::Failed(Failure::usage(format!("certificate: {why}"))))?;
        let all = [
            token.map(End::Token),
            run.map(|run| End::Run(Which::Run(run.as_str().to_owned()))),
            run_token.map(|id| End::Run(Which::Token(id))),
            certificate.map(|serial| End::Run(Which::Proof(format!("serial:{serial}")))),
            jwt.map(|id| End::Run(Which::Proof(id))),
        ];
        let mut said = all.into_iter().flatten();
        match (said.next(), said.next()) {
            (one, None) => Ok(one),
            _ => Err(Trouble::wrong("several things are to be revoked", "name one at a time")),
        }
    }
}

/// A serial number in hex, as records have it, or with the colons and capitals of other tools.
pub(crate) fn serial(text: &str) -> Result<String, String> {
    let digits: String = text.trim().to_ascii_lowercase().replace(':', "");
    let sound = (1..=42).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !sound {
        return Err("a serial number is hex: 5f0c… or 5F:0C:…".into());
    }
    Ok(canonical_serial(&digits))
}

impl From<AgentInfo> for Agent {
    fn from(info: AgentInfo) -> Self {
        Self {
            agent: info.name,
            labels: info.labels,
            created: info.created,
            revoked: info.revoked,
            tokens: info.tokens.into_iter().map(Token::from).collect(),
        }
    }
}

impl From<TokenInfo> for Token {
    fn from(info: TokenInfo) -> Self {
        let TokenInfo { id, created, expires, revoked, note } = info;
        Self { token_id: id, created, expires, revoked, note }
    }
}
