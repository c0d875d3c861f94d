//! The call that Locum is for, seen from the agent, the origin, the vault, the audit log and the
//! counters.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::{Ask, Client, Via};
use super::origin::fingerprint;
use super::stage::{AGENT, OPENAI, Stage};
use crate::app::Failure;
use crate::audit::{self, Filter, Kind};

/// The path that the agent calls.
const PATH: &str = "/v1/chat/completions";

/// What was measured of one call.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Call {
    pub(super) agent: Held,
    pub(super) origin: Received,
    pub(super) vault: InVault,
    pub(super) came_back: CameBack,
    /// What the origin says to the placeholder when Locum is not between.
    pub(super) without_locum: u16,
    pub(super) audit: Vec<serde_json::Value>,
    /// The counters that have counted, by name and labels.
    pub(super) counters: BTreeMap<String, u64>,
}

/// What the agent had.
#[derive(Debug, Serialize)]
pub(super) struct Held {
    pub(super) placeholder: String,
    pub(super) fingerprint: String,
    /// The proxy's URL, without the token.
    pub(super) proxy: String,
    /// Variables in its environment.
    pub(super) variables: usize,
    /// Whether any form of a key is in its environment or arguments.
    pub(super) key_in_environment: bool,
}

/// What the origin got.
#[derive(Debug, Serialize)]
pub(super) struct Received {
    pub(super) place: String,
    pub(super) length: usize,
    pub(super) fingerprint: String,
    pub(super) authorized: bool,
    pub(super) placeholder: bool,
}

/// What the vault has.
#[derive(Debug, Serialize)]
pub(super) struct InVault {
    pub(super) credential: &'static str,
    pub(super) version: u32,
    pub(super) fingerprint: String,
}

/// What the agent got.
#[derive(Debug, Serialize)]
pub(super) struct CameBack {
    pub(super) status: u16,
    pub(super) text: String,
    pub(super) bytes: usize,
    pub(super) key_in_answer: bool,
}

/// The agent's everyday request: the key's place holds what its environment has.
pub(super) fn everyday() -> Ask {
    Ask::new("POST", format!("https://{OPENAI}{PATH}"))
        .header("authorization", "Bearer ${OPENAI_API_KEY}")
        .header("content-type", "application/json")
        .body(r#"{"model":"demo","messages":[{"role":"user","content":"Hello?"}]}"#)
}

impl Call {
    /// Makes the call.
    pub(in crate::cli) async fn make(stage: &mut Stage) -> Result<Self, Failure> {
        let without_locum = without_locum(stage).await?;
        let answer = stage.agent.ask(&everyday()).await?;
        let seen = stage.openai.last().unwrap_or_default();
        let (key, version) = stage.vault_fingerprint("openai")?;
        let audit = records(stage).await?;
        let counters = counters(stage).await?;
        let came_back = CameBack {
            status: answer.status,
            text: content(&answer.body),
            bytes: answer.wire.len(),
            key_in_answer: !stage.search.is_clean(&answer.wire)
                || !stage.search.is_clean(&answer.body),
        };
        Ok(Self {
            agent: held(stage)?,
            origin: Received {
                place: seen.place,
                length: seen.length,
                fingerprint: seen.fingerprint.unwrap_or_default(),
                authorized: seen.authorized,
                placeholder: seen.placeholder,
            },
            vault: InVault { credential: "openai", version, fingerprint: key },
            came_back,
            without_locum,
            audit,
            counters,
        })
    }

    /// Whether all of it is as it should be.
    pub(in crate::cli) fn is_good(&self) -> bool {
        self.problem().is_none()
    }

    /// The first thing that is not as it should be.
    pub(in crate::cli) fn problem(&self) -> Option<&'static str> {
        let asked =
            |kind: Kind| self.audit.iter().filter(|r| r["kind"] == kind.as_str()).count() == 1;
        let conditions = [
            (self.without_locum == 401, "the origin takes the placeholder for a key"),
            (!self.agent.key_in_environment, "the agent's environment holds a key"),
            (self.came_back.status == 200, "the origin did not accept the call"),
            (self.origin.authorized, "the origin did not get its key"),
            (self.origin.fingerprint == self.vault.fingerprint, "the origin got another key"),
            (!self.origin.placeholder, "the origin got the placeholder too"),
            (!self.came_back.key_in_answer, "the answer holds the key"),
            (asked(Kind::Access), "there is no access record of the call"),
            (asked(Kind::Outcome), "there is no outcome record of the call"),
        ];
        conditions.into_iter().find(|(holds, _)| !holds).map(|(_, problem)| problem)
    }
}

/// The same request and placeholder, straight to the origin.
async fn without_locum(stage: &Stage) -> Result<u16, Failure> {
    let held = stage.agent.hello.variable("OPENAI_API_KEY").unwrap_or_default();
    let roots = crate::environment::certificates(stage.origin_ca.as_bytes());
    let ask = Ask::new("POST", format!("https://{OPENAI}{PATH}"))
        .header("authorization", &format!("Bearer {held}"))
        .via(Via::Direct(stage.openai.address));
    let direct = async { Client::new(roots, None)?.call(&ask).await };
    let answer = direct.await.map_err(|e| Failure::new(format!("the origin: {e}")))?;
    Ok(answer.status)
}

fn held(stage: &Stage) -> Result<Held, Failure> {
    let hello = &stage.agent.hello;
    let placeholder = hello
        .variable("OPENAI_API_KEY")
        .ok_or_else(|| Failure::new("`locum run` gave the agent no OPENAI_API_KEY"))?;
    let proxy = hello.variable("HTTPS_PROXY").unwrap_or_default();
    Ok(Held {
        placeholder: placeholder.to_owned(),
        fingerprint: fingerprint(placeholder.as_bytes()),
        proxy: without_token(proxy),
        variables: hello.environment.len(),
        key_in_environment: !stage.search.is_clean(&stage.agent.had_at_start()),
    })
}

/// A proxy URL with its token left out.
pub(super) fn without_token(url: &str) -> String {
    let parts = url.rsplit_once('@').and_then(|(user, host)| {
        let (user, _) = user.rsplit_once(':')?;
        Some(format!("{user}:…@{host}"))
    });
    parts.unwrap_or_else(|| url.to_owned())
}

/// What the assistant of the answer says.
fn content(body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

/// The records of the agent's requests so far. An outcome is written when the last byte is out,
/// which may be a moment after the agent has it.
async fn records(stage: &Stage) -> Result<Vec<serde_json::Value>, Failure> {
    let begun = Instant::now();
    loop {
        let filter = Filter { agent: Some(AGENT.to_owned()), ..Filter::default() };
        let entries = audit::query(&stage.home.audit(), filter)?;
        let entries: Vec<_> = entries.filter_map(Result::ok).collect();
        let over = entries.iter().any(|entry| entry.kind() == Some(Kind::Outcome));
        if over || begun.elapsed() > Duration::from_secs(5) {
            return Ok(entries.iter().map(|entry| entry.value().clone()).collect());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The counters that have counted.
async fn counters(stage: &Stage) -> Result<BTreeMap<String, u64>, Failure> {
    const SHOWN: [&str; 7] = [
        "locum_requests_total",
        "locum_injections_total",
        "locum_refusals_total",
        "locum_scrubbed_total",
        "locum_unbound_references_total",
        "locum_bytes_total",
        "locum_audit_records",
    ];
    let page = stage.operations("/metrics").await?;
    let text = String::from_utf8_lossy(&page.body).into_owned();
    let lines = text.lines().filter(|line| SHOWN.iter().any(|name| line.starts_with(name)));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    let numbers = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    Ok(numbers.filter(|(_, value)| *value != 0).collect())
}
