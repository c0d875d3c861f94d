//! Requests that wait for a person, held until one has decided or nobody has.
//!
//! A request waits before it has used up a limit, opened a secret or reached an origin, and is decided
//! anew afterwards: what was approved must still be allowed, and be the same to the last byte.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::asked::{Asked, Decided};
use super::body::Upload;
use super::exchange::{named, refused};
use super::ledger::Ledger;
use super::{State, unix_now};
use crate::approval::{Decision, Question, digest_of_fields, sha256};
use crate::inject::alone_in_their_places;
use crate::outcome::{Code, Refusal};
use crate::policy::{Approval, Permit};
use crate::record::RequestId;

/// The longest body that a question shows. More nobody reads; its digest covers all of it.
const SHOWN: usize = 8 * 1024;

/// Goes on at once where no rule asks for an approval. Else returns when a person has approved, with
/// the decision of then; or refuses.
pub(super) async fn obtain(
    asked: &mut Asked<'_>,
    decided: Decided,
    body: &mut Upload,
    ledger: &Ledger,
) -> Result<Decided, Refusal> {
    let Ok(permit) = &decided.decision else { return Ok(decided) };
    // Why here: nobody is asked, and no secret opened or token fetched, for what cannot be filled.
    if let Err(refusal) = alone_in_their_places(permit) {
        return Err(refused(ledger, &decided.state, refusal, &named(&decided.references)));
    }
    let Some(approval) = permit.approval() else { return Ok(decided) };
    let uses = named(&decided.references);
    // Boxed: no other request shall carry room for it.
    let held = Box::pin(held(asked, decided, (body, approval), ledger.id)).await;
    held.map_err(|(refusal, state)| refused(ledger, &state, refusal, &uses))
}

async fn held(
    asked: &mut Asked<'_>,
    decided: Decided,
    (body, approval): (&mut Upload, Approval),
    id: RequestId,
) -> Result<Decided, (Refusal, Arc<State>)> {
    let state = Arc::clone(&decided.state);
    let on = |state: &Arc<State>| {
        let state = Arc::clone(state);
        move |refusal: Refusal| (refusal, state)
    };
    let whole = asked.whole(body).await.map_err(on(&state))?;
    // A question shows none, so what a person approved would not be all that is sent.
    if body.has_trailers() {
        let detail = "A request that a person has to approve may have no trailers";
        return Err(on(&state)(Refusal::with_detail(Code::BadRequest, detail)));
    }
    let Ok(permit) = &decided.decision else { return Ok(decided) };
    let question = question(asked, &state, permit, (&whole, approval), id);
    let digest = question.digest();
    let desk = asked.gateway.approvals.get();
    let desk = desk.ok_or_else(|| on(&state)(Refusal::new(Code::Internal)))?;
    let open = desk
        .ask(question)
        .map_err(|why| on(&state)(Refusal::with_detail(Code::ApprovalRequired, why.to_string())))?;
    let wait = approval.wait.unwrap_or_default();
    match answer(asked, &open, &digest, wait).await {
        Answer::Approved => {}
        Answer::Denied => {
            let detail = format!("A person refused the request {}", open.id);
            let refusal = Refusal::with_detail(Code::ApprovalDenied, detail);
            return Err(on(&asked.caller.state())(refusal));
        }
        Answer::Revoked => {
            return Err(on(&asked.caller.state())(Refusal::new(Code::AgentRevoked)));
        }
        Answer::None => {
            let detail = waiting(&open, approval);
            let refusal = Refusal::with_detail(Code::ApprovalRequired, detail);
            return Err(on(&asked.caller.state())(refusal));
        }
    }
    // That may have taken long: all is decided anew.
    let now = asked.caller.state();
    asked.renew(&now);
    let decided = asked.decide(now).await;
    let Ok(permit) = &decided.decision else { return Ok(decided) };
    let state = Arc::clone(&decided.state);
    let again = self::question(asked, &state, permit, (&whole, approval), id);
    if again.digest() != digest || !desk.take(&open.id, &id.to_string()) {
        let detail = "What was approved is not what would be sent now, or was used already";
        return Err(on(&state)(Refusal::with_detail(Code::ApprovalRequired, detail)));
    }
    Ok(decided)
}

fn waiting(open: &Question, approval: Approval) -> String {
    let until = jiff::Timestamp::from_second(open.until)
        .map_or_else(|_| "further notice".to_owned(), |until| until.to_string());
    let so_far = match approval.wait {
        Some(wait) => format!("Nobody has decided within {}", crate::document::show_duration(wait)),
        None if open.approvers == 1 => "A person has to approve this request".to_owned(),
        None => format!("{} people have to approve this request", open.approvers),
    };
    format!("{so_far}; the question {} stands until {until}", open.id)
}

/// What became of a question.
enum Answer {
    Approved,
    Denied,
    /// The agent's own token, meanwhile.
    Revoked,
    /// Nothing, so far.
    None,
}

async fn answer(asked: &Asked<'_>, open: &Question, digest: &str, wait: Duration) -> Answer {
    let look = |state: &State| {
        if !state.authn.still_valid(&asked.caller.identity, unix_now()) {
            return Some(Answer::Revoked);
        }
        let decision = state.sealed.as_ref()?.approvals.get(&open.id)?;
        Some(if good(decision, digest)? { Answer::Approved } else { Answer::Denied })
    };
    if wait.is_zero() {
        return look(&asked.caller.state()).unwrap_or(Answer::None);
    }
    let waited = tokio::time::timeout(wait, asked.caller.workspace.until(look)).await;
    waited.unwrap_or(Answer::None)
}

/// What a decision says of a digest, while it says anything.
fn good(decision: &Decision, digest: &str) -> Option<bool> {
    decision.settles(digest).filter(|_| unix_now() <= decision.until)
}

fn question(
    asked: &Asked<'_>,
    state: &State,
    permit: &Permit,
    (whole, approval): (&Bytes, Approval),
    id: RequestId,
) -> Question {
    let (who, inbound) = (&asked.who, &asked.inbound);
    let label = |label: &Option<crate::agent::Label>| label.as_ref().map(|l| l.as_str().to_owned());
    let content_type = inbound.headers().get(http::header::CONTENT_TYPE);
    let query = inbound.query().map(|query| format!("?{query}")).unwrap_or_default();
    // A person may read it, and a file on the disk may not hold a secret.
    let shown = (!whole.is_empty() && whole.len() <= SHOWN)
        .then(|| str::from_utf8(whole).ok())
        .flatten()
        .filter(|text| {
            let watch = state.sealed.as_ref().map(|sealed| &sealed.watch);
            watch.is_some_and(|watch| !watch.knows(text.as_bytes()))
        });
    let asked_at = unix_now();
    let valid = i64::try_from(approval.valid.as_secs()).unwrap_or(i64::MAX);
    Question {
        id: id.to_string(),
        workspace: who.workspace.clone(),
        agent: who.agent.to_string(),
        run: label(&who.context.run),
        user: label(&who.context.user),
        rule: permit.rule().to_string(),
        method: inbound.method().to_string(),
        upgrade: inbound.websocket().map(|_| "websocket".to_owned()),
        destination: inbound.origin().to_string(),
        target: format!("{}{query}", inbound.path()),
        uses: permit.grants().iter().map(|g| g.credential().name.to_string()).collect(),
        content_type: content_type
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        fields_sha256: digest_of_fields(inbound.headers()),
        body_bytes: whole.len() as u64,
        body_sha256: sha256(whole),
        body: shown.map(str::to_owned),
        asked: asked_at,
        until: asked_at.saturating_add(valid),
        valid,
        approvers: approval.approvers,
    }
}
