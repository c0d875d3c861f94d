//! What was allowed is taken back while a tunnel is open: the next request in it must know.

use std::fs;
use std::time::{Duration, Instant};

use super::{Facts, Outcome};
use crate::app::{Failure, mint_session};
use crate::cli::demo::client::{Answer, Ask, Via};
use crate::cli::demo::stage::{AGENT, Stage};
use crate::cli::demo::story::everyday;
use crate::files;

/// A tightened policy or a revoked token acts within this time.
const PROMISED: Duration = Duration::from_secs(1);

/// Then nobody looks any longer whether it acts at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two requests on the open tunnel.
const PAUSE: Duration = Duration::from_millis(10);

/// The rule that lets the agent use its key is now for somebody else.
const TIGHTER: &str = "\
version: 1
rules:
  - name: keys for the auditor alone
    agents: [auditor]
    use: [\"*\"]
";

/// The policy loses the rule that the agent lives by.
pub(super) async fn policy(stage: &mut Stage) -> Outcome {
    let file = stage.home.policies().join("first.yaml");
    let before = fs::read(&file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
    let ask = everyday();
    until(stage, &ask, 200).await?;
    let tightened = Instant::now();
    files::replace_private(&file, TIGHTER.as_bytes())?;
    let refused = until(stage, &ask, 403).await;
    let took = tightened.elapsed();
    files::replace_private(&file, &before)?;
    let facts = in_open_tunnel(&refused?, took);
    // What comes next needs the old policy.
    until(stage, &ask, 200).await?;
    Ok(facts)
}

/// A token of the agent's is revoked.
pub(super) async fn token(stage: &mut Stage) -> Outcome {
    let mut opened = stage.open()?;
    let agent = AGENT.parse().map_err(|_| Failure::new("no name"))?;
    let (id, token) = mint_session(&mut opened, &agent, None, "to be revoked")?;
    let url = stage.proxy_url().replace("//", &format!("//{AGENT}:{}@", *token));
    let ask = everyday().via(Via::Proxy(url));
    until(stage, &ask, 200).await?;
    let revoked = Instant::now();
    opened.vault.token_revoke(&id)?;
    opened.changed()?;
    let refused = until(stage, &ask, 403).await?;
    let took = revoked.elapsed();
    let mut facts = in_open_tunnel(&refused, took);
    let next = stage.agent.ask(&ask).await?;
    let told = next.in_words();
    facts.note(next.status == 407, "the next tunnel gets 407", format!("the next tunnel: {told}"));
    Ok(facts)
}

/// An answer, and whether anything reached an origin when it was given.
struct Last {
    answer: Answer,
    untouched: bool,
}

fn in_open_tunnel(last: &Last, took: Duration) -> Facts {
    let mut facts = Facts::default();
    let millis = took.as_millis();
    let told = last.answer.in_words();
    facts.note(
        took <= PROMISED,
        format!("{told} after {millis} ms"),
        format!("{told} only after {millis} ms"),
    );
    facts.note(last.answer.reused, "in the open tunnel", "in a new tunnel");
    facts.note(last.untouched, "the origin saw nothing", "the origin was reached");
    facts
}

/// Asks again and again, until the answer has this status.
async fn until(stage: &mut Stage, ask: &Ask, status: u16) -> Result<Last, Failure> {
    let begun = Instant::now();
    loop {
        let before = stage.reached();
        let answer = stage.agent.ask(ask).await?;
        if answer.status == status {
            return Ok(Last { answer, untouched: stage.reached() == before });
        }
        if begun.elapsed() > PATIENCE {
            let told = answer.in_words();
            return Err(Failure::new(format!("still {told} after {PATIENCE:?}, not {status}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The directory of the audit log is taken away; a file stands in its place.
pub(super) async fn audit(stage: &mut Stage) -> Outcome {
    let (at, away) = (stage.home.audit(), stage.scratch.path().join("audit-away"));
    let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", at.display()));
    fs::rename(&at, &away).and_then(|()| fs::write(&at, "")).map_err(failed)?;
    let during = without_audit(stage).await;
    fs::remove_file(&at).and_then(|()| fs::rename(&away, &at)).map_err(failed)?;
    let mut facts = during?;
    let mended = Instant::now();
    until(stage, &everyday(), 200).await?;
    let millis = mended.elapsed().as_millis();
    facts.note(true, format!("calls go on {millis} ms after it is back"), "");
    Ok(facts)
}

async fn without_audit(stage: &mut Stage) -> Outcome {
    let mut facts = Facts::default();
    let begun = Instant::now();
    while stage.operations("/readyz").await?.status == 200 {
        if begun.elapsed() > PATIENCE {
            return Err(Failure::new("the proxy did not notice that its audit log is gone"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    facts.note(true, "/readyz 503", "");
    let before = stage.reached();
    let answer = stage.agent.ask(&everyday()).await?;
    let told = answer.in_words();
    let right = answer.code().as_deref() == Some("audit-unavailable") && answer.status == 503;
    facts.note(right, told.clone(), format!("{told}, not 503 audit-unavailable"));
    facts.note(stage.reached() == before, "the origin saw nothing", "the origin was reached");
    Ok(facts)
}
