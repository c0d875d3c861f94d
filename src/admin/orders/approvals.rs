//! Requests that wait for a person, and the person's word.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Call, Desk, Order, Trouble, now};
use crate::admin::problem::Problem;
use crate::app::{Failure, Place};
use crate::approval::{Decision, Question};
use crate::vault::Wanted;

/// All that wait in the workspace.
pub(crate) struct ListQuestions;

/// A question, with the digest that an answer is bound to, and who has said yes so far where several have
/// to.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub(crate) struct Asked {
    pub(crate) question: Question,
    pub(crate) approved_by: Vec<String>,
}

impl TryFrom<Value> for Asked {
    type Error = serde_json::Error;

    fn try_from(mut value: Value) -> Result<Self, serde_json::Error> {
        let mut take = |field: &str| value.as_object_mut().and_then(|all| all.remove(field));
        // Whoever reads it makes it anew, of what there is to read.
        let _of_the_sender = take("digest");
        let approved_by = take("approved_by").map(serde_json::from_value).transpose()?;
        let question = serde_json::from_value(value)?;
        Ok(Self { question, approved_by: approved_by.unwrap_or_default() })
    }
}

impl From<Asked> for Value {
    fn from(Asked { question, approved_by }: Asked) -> Self {
        let mut value = serde_json::to_value(&question).unwrap_or_default();
        value["digest"] = Self::from(question.digest());
        if question.approvers > 1 {
            value["approved_by"] = approved_by.into();
        }
        value
    }
}

impl Order for ListQuestions {
    type Answer = Vec<Asked>;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get("/v1/approvals"))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Asked>, Trouble> {
        undecided(desk)
    }
}

/// The questions that can be answered: neither over nor decided.
fn undecided(desk: &impl Desk) -> Result<Vec<Asked>, Trouble> {
    // What is older than the workspace is of another of its name.
    let (mut decided, since) =
        desk.read(|vault| Ok((vault.decisions()?, vault.workspace_since()?)))?;
    let workspace = desk.home().workspace();
    let asked = Place::of(desk.home()).open()?.into_iter().filter_map(|question| {
        let own = question.workspace == *workspace && since.is_none_or(|at| question.asked >= at);
        if !own || question.until < now() || !question.shows_its_body() {
            return None;
        }
        let digest = question.digest();
        let said = decided.remove(&question.id).filter(|said| said.digest == digest);
        if said.as_ref().is_some_and(|said| said.settles(&digest).is_some()) {
            return None;
        }
        Some(Asked { question, approved_by: said.map(|said| said.by).unwrap_or_default() })
    });
    Ok(asked.collect())
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
    /// How many more have to approve it before it goes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) missing: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Order for Decide {
    type Answer = Decided;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/approvals/{}", self.id), &self.word)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Decided, Trouble> {
        let Self { id, word: Answer { approve, digest } } = self;
        let open = undecided(desk)?;
        let question = open.into_iter().find(|asked| asked.question.id == id);
        let question = question.ok_or_else(|| missing(&id))?.question;
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
        let decision = Decision {
            id,
            digest: question.digest(),
            approved: approve,
            at,
            until: at.saturating_add(question.valid),
            by: Vec::new(),
            missing: 0,
        };
        let wanted =
            Wanted { approvers: question.approvers, asked: question.asked, open: question.until };
        let Decision { id, approved, until, missing, .. } =
            desk.write(|vault| Ok(vault.decide(decision, wanted)?))?;
        Ok(Decided { id, approved, until, missing })
    }
}

fn missing(id: &str) -> Trouble {
    let failure = Failure::new(format!("no request with the id {id} waits for an approval"));
    Trouble::Missing(failure.help("`locum approvals list` shows those that do"))
}
