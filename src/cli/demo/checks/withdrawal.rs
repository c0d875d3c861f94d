//! What was allowed is taken back while a tunnel is open: the next request in it must know.

use std::fs;
use std::time::{Duration, Instant};

use super::{Facts, Outcome, Told};
use crate::app::{Failure, mint_session};
use crate::cli::demo::client::{Ask, Via};
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

fn in_open_tunnel(last: &Told, took: Duration) -> Facts {
    let mut facts = Facts::default();
    let millis = took.as_millis();
    let told = last.answer.in_words();
    facts.note(
        took <= PROMISED,
        format!("{told} after {millis} ms"),
        format!("{told} only after {millis} ms"),
    );
    facts.note(last.answer.reused, "in the open tunnel", "in a new tunnel");
    last.note_untouched(&mut facts, "the origin saw nothing");
    facts
}

/// Asks again and again, until the answer has this status.
async fn until(stage: &mut Stage, ask: &Ask, status: u16) -> Result<Told, Failure> {
    let begun = Instant::now();
    loop {
        let told = Told::ask(stage, ask).await?;
        if told.answer.status == status {
            return Ok(told);
        }
        if begun.elapsed() > PATIENCE {
            let told = told.answer.in_words();
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
    let again = until(stage, &everyday(), 200).await?;
    let millis = mended.elapsed().as_millis();
    let goes_on = format!("calls go on {millis} ms after it is back");
    facts.note(!again.untouched, goes_on, "200, but the origin saw nothing");
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
    let ready = stage.operations("/readyz").await?.status;
    facts.note(ready == 503, "/readyz 503", format!("/readyz {ready}"));
    let told = Told::ask(stage, &everyday()).await?;
    told.note(&mut facts, 503, "audit-unavailable");
    told.note_untouched(&mut facts, "the origin saw nothing");
    Ok(facts)
}
