//! Requests that wait for a person, and the person's word.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Call, Desk, Order, Trouble, now};
use crate::admin::problem::Problem;
use crate::app::{Failure, Place};
use crate::approval::{Decision, Question};

/// All that wait in the workspace.
pub(crate) struct ListQuestions;

/// A question, with the digest that an answer is bound to.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub(crate) struct Asked(pub(crate) Question);

impl TryFrom<Value> for Asked {
    type Error = serde_json::Error;

    fn try_from(mut value: Value) -> Result<Self, serde_json::Error> {
        if let Some(fields) = value.as_object_mut() {
            // Whoever reads it makes it anew, of what there is to read.
            fields.remove("digest");
        }
        serde_json::from_value(value).map(Self)
    }
}

impl From<Asked> for Value {
    fn from(Asked(question): Asked) -> Self {
        let mut value = serde_json::to_value(&question).unwrap_or_default();
        value["digest"] = Self::from(question.digest());
        value
    }
}

impl Order for ListQuestions {
    type Answer = Vec<Asked>;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get("/v1/approvals"))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Asked>, Trouble> {
        Ok(undecided(desk)?.into_iter().map(Asked).collect())
    }
}

/// The questions that can be answered: neither over nor decided.
fn undecided(desk: &impl Desk) -> Result<Vec<Question>, Trouble> {
    // What is older than the workspace is of another of its name.
    let (decided, since) = desk.read(|vault| Ok((vault.decisions()?, vault.workspace_since()?)))?;
    let workspace = desk.home().workspace();
    let mut open = Place::of(desk.home()).open()?;
    open.retain(|question| {
        let decision = decided.get(&question.id);
        let decided = decision.is_some_and(|decision| decision.digest == question.digest());
        let own = question.workspace == *workspace && since.is_none_or(|at| question.asked >= at);
        own && !decided && question.until >= now() && question.shows_its_body()
    });
    Ok(open)
}

/// Yes or no to one of them.
pub(crate) struct Decide {
    pub(crate) id: String,
    pub(crate) word: Answer,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) approve: bool,
    /// Of what was shown: no other question is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Decided {
    pub(crate) id: String,
    pub(crate) approved: bool,
    pub(crate) until: i64,
}

impl Order for Decide {
    type Answer = Decided;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/approvals/{}", self.id), &self.word)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Decided, Trouble> {
        let Self { id, word: Answer { approve, digest } } = self;
        let open = undecided(desk)?;
        let question = open.into_iter().find(|question| question.id == id);
        let question = question.ok_or_else(|| missing(&id))?;
        if digest.is_some_and(|seen| seen != question.digest()) {
            let what = format!("the request {id} is not the one that was shown");
            return Err(Failure::usage(what).into());
        }
        // Whoever asked for it, by a run of their own, is not the one to say yes.
        if let Some(who) = desk.who()
            && question.user.as_deref() == Some(who.name.as_str())
        {
            desk.note("administration-refused", Some(&id), "to decide on a request of one's own")?;
            return Err(Problem::own_request().into());
        }
        let at = now();
        let until = at.saturating_add(question.valid);
        let decision =
            Decision { id: id.clone(), digest: question.digest(), approved: approve, at, until };
        desk.write(|vault| Ok(vault.decide(decision)?))?;
        Ok(Decided { id, approved: approve, until })
    }
}

fn missing(id: &str) -> Trouble {
    let failure = Failure::new(format!("no request with the id {id} waits for an approval"));
    Trouble::Missing(failure.help("`locum approvals list` shows those that do"))
}
