//! Clients that did not trust the CA: what the audit log keeps of them, how often a running proxy has
//! met them, and what mends each.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::Findings;
use crate::agent::{DEFAULT_WORKSPACE, qualified};
use crate::app::{Opened, Serving};
use crate::audit::{self, Filter, Kind};
use crate::cli::demo::get_plain;
use crate::proxy::{Client, DISTRUST_EVENT};

const CHECK: &str = "clients";

/// What is older has been mended, or does not matter to anybody. A proxy says it again each day.
const LOOK_BACK: Duration = Duration::from_hours(7 * 24);

/// When and where it was last said.
struct Said {
    time: String,
    what: String,
}

pub(super) async fn look(opened: &Opened, serving: Option<&Serving>, findings: &mut Findings) {
    // Where the log cannot be read, its own check says so.
    let Ok(said) = said(opened) else { return };
    let counts = match serving.and_then(|serving| serving.ops) {
        Some(address) => get_plain(address, "/metrics").await.ok().map(|answer| answer.body),
        None => None,
    };
    let counts = counts.map(|body| String::from_utf8_lossy(&body).into_owned());
    for ((agent, client), last) in &said {
        let met = counts.as_deref().and_then(|text| count(text, agent, *client));
        let met = met.map(|n| format!("; handshakes since the proxy started: {n}"));
        findings.warning(
            CHECK,
            format!(
                "agent {agent}: {}; last said at {}{}",
                last.what,
                last.time,
                met.unwrap_or_default()
            ),
            format!("start it with `locum run`, or {}", client.fix()),
        );
    }
    if said.is_empty() {
        findings.ok(CHECK, "in seven days none that did not trust the CA");
    }
}

/// The last event of each agent and kind of client.
fn said(opened: &Opened) -> Result<BTreeMap<(String, Client), Said>, audit::AuditError> {
    let since = SystemTime::now().checked_sub(LOOK_BACK);
    let filter = Filter { kind: Some(Kind::Event), since, ..Filter::default() };
    let mut found = BTreeMap::new();
    for entry in audit::query(&opened.config.audit.dir, filter)?.flatten() {
        if entry.text("event") != Some(DISTRUST_EVENT) {
            continue;
        }
        let (Some(agent), Some(what)) = (entry.text("subject"), entry.text("detail")) else {
            continue;
        };
        let client = what.split(' ').next().and_then(Client::named).unwrap_or_default();
        let time = entry.time().unwrap_or_default();
        let time = time.split('.').next().unwrap_or_default().replace('T', " ");
        let said = Said { time: format!("{time} UTC"), what: what.to_owned() };
        let workspace = entry.text("workspace").unwrap_or(DEFAULT_WORKSPACE);
        found.insert((qualified(workspace, agent).into_owned(), client), said);
    }
    Ok(found)
}

/// One series of the exposition text.
fn count(metrics: &str, agent: &str, client: Client) -> Option<u64> {
    let series = format!("locum_untrusted_ca_total{{agent=\"{agent}\",client=\"{client}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
}
