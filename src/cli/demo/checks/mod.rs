//! The attacks, one function each. A check passes when every fact that it looked for was seen, at
//! the agent's end and at the other.

mod tampering;
mod traffic;
mod withdrawal;

use serde::Serialize;

use super::client::{Answer, Ask};
use super::show::Show;
use super::stage::Stage;
use crate::app::Failure;

/// One attack and what became of it.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) passed: bool,
    /// What was seen; of a failure, what should not have been.
    pub(super) seen: String,
}

/// What was seen, in order.
#[derive(Debug, Default)]
struct Facts {
    good: Vec<String>,
    bad: Vec<String>,
}

impl Facts {
    /// Notes a fact: `good` if it is so, else `bad`.
    fn note(&mut self, holds: bool, good: impl Into<String>, bad: impl Into<String>) {
        let (texts, text) =
            if holds { (&mut self.good, good.into()) } else { (&mut self.bad, bad.into()) };
        // What holds for each of several requests is said once.
        if !texts.contains(&text) {
            texts.push(text);
        }
    }

    fn into_check(self, name: &'static str) -> Check {
        // Without a single fact nothing was shown.
        let passed = self.bad.is_empty() && !self.good.is_empty();
        let texts = if passed { self.good } else { self.bad };
        Check { name, passed, seen: texts.join("; ") }
    }
}

type Outcome = Result<Facts, Failure>;

/// An answer, and whether no origin had heard of the request when it was given.
struct Told {
    answer: Answer,
    untouched: bool,
}

impl Told {
    async fn ask(stage: &mut Stage, ask: &Ask) -> Result<Self, Failure> {
        let before = stage.reached();
        let answer = stage.agent.ask(ask).await?;
        Ok(Self { answer, untouched: stage.reached() == before })
    }

    /// Whether it is Locum's own answer with this status and code.
    fn note(&self, facts: &mut Facts, status: u16, code: &str) {
        let right = self.answer.status == status && self.answer.code().as_deref() == Some(code);
        let told = self.answer.in_words();
        facts.note(right, told.clone(), format!("{told}, not {status} {code}"));
    }

    fn note_untouched(&self, facts: &mut Facts, good: &str) {
        facts.note(self.untouched, good, "an origin was reached");
    }
}

/// The checks so far.
struct Score<'s> {
    show: &'s mut Show,
    checks: Vec<Check>,
}

impl Score<'_> {
    /// An attack that could not be carried out has not been withstood.
    fn add(&mut self, name: &'static str, outcome: Outcome) -> Result<(), Failure> {
        let check = match outcome {
            Ok(facts) => facts.into_check(name),
            Err(failure) => Check { name, passed: false, seen: failure.to_string() },
        };
        self.show.check(&check)?;
        self.checks.push(check);
        Ok(())
    }
}

/// Plays all attacks but the last.
pub(super) async fn play(stage: &mut Stage, show: &mut Show) -> Result<Vec<Check>, Failure> {
    let early = tampering::Early::keep(stage)?;
    let mut score = Score { show, checks: Vec::new() };
    score.add("no token", traffic::no_token(stage).await)?;
    score.add("a wrong token", traffic::wrong_token(stage).await)?;
    score.add("the key for another host", traffic::other_host(stage).await)?;
    score.add("Host is not the tunnel's", traffic::other_authority(stage).await)?;
    score.add("an origin that echoes the key", traffic::echo(stage).await)?;
    score.add("a private address", traffic::private_address(stage).await)?;
    score.add("the proxy's own ports", traffic::own_ports(stage).await)?;
    score.add("policy tightened, tunnel open", withdrawal::policy(stage).await)?;
    score.add("token revoked, tunnel open", withdrawal::token(stage).await)?;
    score.add("no audit log, no call", withdrawal::audit(stage).await)?;
    score.add("an audit record edited", tampering::edited_record(stage))?;
    score.add("an audit record removed", tampering::removed_record(stage))?;
    score.add("an older audit log put back", tampering::older_log(stage, &early).await)?;
    score.add("two vault rows swapped", tampering::swapped_rows(stage))?;
    score.add("the key on disk, in logs, ...", tampering::leaks(stage).await)?;
    Ok(score.checks)
}

/// The last: the proxy stops in order.
pub(super) async fn stop(stage: &mut Stage, show: &mut Show) -> Result<Check, Failure> {
    let mut score = Score { show, checks: Vec::new() };
    let outcome = stage.stop_proxy().await.map(|status| {
        let mut facts = Facts::default();
        let seen = format!("the proxy ended with {status}");
        facts.note(status.success(), "SIGTERM: the proxy ended with exit code 0", seen);
        facts
    });
    score.add("an orderly end", outcome)?;
    score.checks.pop().ok_or_else(|| Failure::new("nothing was checked"))
}
