//! Rules out of what was done: the audit log, as the policy's engine learns of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::records::of_the_workspace;
use super::{Call, Desk, Order, Trouble, query_of, unix};
use crate::app::Failure;
use crate::audit::{Entry, Filter, Kind, query};
use crate::outcome::Code;
use crate::policy::{Act, Learned, Learner, Lesson, Observed};
use crate::reference::Name;

/// The least rules that would have allowed what the workspace's agents did.
pub(crate) struct Learn {
    /// Only what this agent did.
    pub(crate) agent: Option<Name>,
    pub(crate) since: Option<SystemTime>,
}

/// What was learned, as `policy learn --json` has it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Taught {
    /// Of how many.
    pub(crate) requests: u64,
    pub(crate) rules: Vec<Learned>,
    /// By code: refused for another reason than the rules.
    pub(crate) left_out: BTreeMap<String, u64>,
    pub(crate) tunnels_left_out: u64,
    pub(crate) beyond_rules: u64,
    pub(crate) refused_readings: u64,
    /// The rules as a file.
    pub(crate) policy: String,
}

impl Order for Learn {
    type Answer = Taught;

    fn call(&self) -> Result<Call, Failure> {
        let pairs = [
            ("agent", self.agent.as_ref().map(ToString::to_string)),
            ("since", self.since.map(|since| unix(since).to_string())),
        ];
        Ok(Call::get(format!("/v1/policies/learn{}", query_of(pairs))))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Taught, Trouble> {
        let filter = of_the_workspace(desk, self.filter())?;
        Ok(learned(desk.log(), filter)?)
    }
}

impl Learn {
    /// The records that it is about, of whatever workspace.
    pub(crate) fn filter(&self) -> Filter {
        let agent = self.agent.as_ref().map(ToString::to_string);
        Filter { since: self.since, agent, ..Filter::default() }
    }
}

/// What the records in the log in `dir` teach.
pub(crate) fn learned(dir: &Path, filter: Filter) -> Result<Taught, Failure> {
    let mut log = Log::default();
    for entry in query(dir, filter)? {
        log.read(&entry?);
    }
    let Log { learner, read, left_out, .. } = log.whole();
    let lesson = learner.finish();
    let policy = lesson.to_yaml(&above(read));
    let Lesson { rules, seen_otherwise, beyond_rules, refused_readings } = lesson;
    Ok(Taught {
        requests: read,
        rules,
        left_out,
        tunnels_left_out: seen_otherwise,
        beyond_rules,
        refused_readings,
        policy,
    })
}

fn above(read: u64) -> String {
    let requests = if read == 1 { "1 request".to_owned() } else { format!("{read} requests") };
    format!(
        "Learned by `locum policy learn` from {requests}: what was done, not what should be.\n\
         Read each rule, narrow it, and remove what nobody needs."
    )
}

/// The audit log, as it is read.
#[derive(Default)]
struct Log {
    learner: Learner,
    read: u64,
    left_out: BTreeMap<String, u64>,
    /// What was permitted and has no outcome yet, by its request.
    open: BTreeMap<String, Vec<Observed>>,
}

impl Log {
    fn read(&mut self, entry: &Entry) {
        match entry.kind() {
            Some(Kind::Access) => {
                let Some(observed) = self.observed(entry) else { return };
                match entry.request_id().filter(|_| !observed.refused) {
                    Some(id) => self.open.entry(id.to_owned()).or_default().push(observed),
                    None => self.learn(observed),
                }
            }
            Some(Kind::Outcome) => self.ended(entry),
            _ => {}
        }
    }

    fn learn(&mut self, observed: Observed) {
        self.read += 1;
        self.learner.add(observed);
    }

    /// A name that led to an address which is closed to the proxy was reached by nobody: a rule for it would
    /// only keep the door open for when it leads elsewhere.
    fn ended(&mut self, entry: &Entry) {
        let Some(all) = entry.request_id().and_then(|id| self.open.remove(id)) else { return };
        match entry.text("code").filter(|code| *code == Code::AddressForbidden.as_str()) {
            Some(code) => *self.left_out.entry(code.to_owned()).or_default() += 1,
            None => all.into_iter().for_each(|observed| self.learn(observed)),
        }
    }

    /// With what goes on still.
    fn whole(mut self) -> Self {
        for observed in std::mem::take(&mut self.open).into_values().flatten() {
            self.learn(observed);
        }
        self
    }

    fn observed(&mut self, entry: &Entry) -> Option<Observed> {
        let agent = entry.text("agent")?.parse().ok()?;
        let destination = entry.text("destination")?.to_owned();
        let method = entry.text("method")?;
        let refused = entry.text("decision") == Some("refuse");
        if refused && !by_the_rules(entry) {
            let code = entry.text("code").unwrap_or("no code").to_owned();
            *self.left_out.entry(code).or_default() += 1;
            return None;
        }
        let tunnel = method == "CONNECT";
        let path = if tunnel { "" } else { entry.text("path")? };
        let uses = entry.credentials().filter_map(|name| name.parse().ok()).collect();
        let act = match (tunnel, &entry.value()["websocket"]) {
            (true, _) => Act::Tunnel,
            (_, Value::Bool(true)) => Act::Socket,
            _ => Act::Request(method.to_owned()),
        };
        let always = !refused && is_unasked(entry.value());
        Some(Observed { agent, act, destination, path: path.to_owned(), uses, always, refused })
    }
}

/// Whether a rule put the credential into a request that did not refer to it.
fn is_unasked(record: &Value) -> bool {
    record["chosen_by"].as_str().is_some_and(|why| why.split(',').any(|word| word == "unasked"))
}

/// Whether a request was refused for want of a rule. What a rule denies was meant to be refused, and no
/// rule allows what cannot be read in one way or refers to what there is none of.
fn by_the_rules(entry: &Entry) -> bool {
    let Some(code) = Code::ALL.iter().find(|code| entry.text("code") == Some(code.as_str())) else {
        return false;
    };
    let reason = entry.text("reason").unwrap_or_default();
    match code {
        Code::NotAllowed => reason != "a rule denies it",
        Code::CredentialRefused => reason.starts_with("no rule"),
        Code::RateLimited | Code::Misplaced => true,
        _ => false,
    }
}
