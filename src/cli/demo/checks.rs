//! The attacks, one function each. A check passes when every fact that it looked for was seen, at
//! the agent's end and at the other.

use serde::Serialize;

use super::show::Show;
use super::stage::Stage;
use super::story::Call;
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
        if holds { self.good.push(good.into()) } else { self.bad.push(bad.into()) }
    }

    fn into_check(self, name: &'static str) -> Check {
        let passed = self.bad.is_empty() && !self.good.is_empty();
        let texts = if passed { self.good } else { self.bad };
        Check { name, passed, seen: texts.join("; ") }
    }
}

type Outcome = Result<Facts, Failure>;

/// An attack that could not be carried out has not been withstood.
fn judge(name: &'static str, outcome: Outcome) -> Check {
    outcome.map_or_else(
        |failure| Check { name, passed: false, seen: failure.to_string() },
        |facts| facts.into_check(name),
    )
}

pub(super) async fn play(
    _stage: &mut Stage,
    _call: &Call,
    _show: &mut Show,
) -> Result<Vec<Check>, Failure> {
    Ok(Vec::new())
}

/// The last: the proxy stops in order.
pub(super) async fn stop(stage: &mut Stage, show: &mut Show) -> Result<Check, Failure> {
    let outcome = stage.stop_proxy().await.map(|status| {
        let mut facts = Facts::default();
        facts.note(
            status.success(),
            "SIGTERM: the proxy ends with exit code 0",
            format!("SIGTERM: the proxy ended with {status}"),
        );
        facts
    });
    let check = judge("an orderly end", outcome);
    show.check(&check)?;
    Ok(check)
}
