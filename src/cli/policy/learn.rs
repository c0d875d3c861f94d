//! `locum policy learn`: rules out of the audit log, for a person to read and to narrow.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::output;
use crate::app::{Failure, Home};
use crate::audit::{Entry, Filter, Kind, query};
use crate::cli::audit::moment;
use crate::config::Config;
use crate::outcome::Code;
use crate::policy::{Act, Learner, Lesson, Observed};
use crate::reference::Name;

/// Arguments of `locum policy learn`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// From this time on: RFC 3339, a date, or a duration ago (15m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,
    /// Only what this agent did
    #[arg(long, value_name = "AGENT")]
    agent: Option<Name>,
    /// Print the rules as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(home: &Home, args: &Args) -> Result<ExitCode, Failure> {
    home.require()?;
    let config = Config::load(&home.config(), home.path())?;
    let filter = Filter {
        workspace: Some(home.workspace().to_string()),
        since: args.since,
        agent: args.agent.as_ref().map(ToString::to_string),
        ..Filter::default()
    };
    let mut log = Log::default();
    for entry in query(&config.audit.dir, filter)? {
        log.read(&entry?);
    }
    let (read, left_out) = (log.read, std::mem::take(&mut log.left_out));
    let lesson = log.finish();
    if args.json {
        output::json(&json!({
            "requests": read, "rules": lesson.rules, "left_out": left_out,
            "tunnels_left_out": lesson.seen_otherwise, "beyond_rules": lesson.beyond_rules,
            "refused_readings": lesson.refused_readings,
            "policy": lesson.to_yaml(&above(read)),
        }))?;
    } else {
        output::line(lesson.to_yaml(&above(read)).trim_end())?;
        for (code, count) in &left_out {
            let requests = output::counted(*count, "request");
            let why = why_left_out(code);
            output::note(&format!("left out: {requests} refused with {code}, {why}"));
        }
        for (count, what, why) in [
            (
                lesson.seen_otherwise,
                "tunnel",
                "to hosts where the same agent's requests were looked into",
            ),
            (
                lesson.beyond_rules,
                "request",
                "that no rule can allow: a credential over http://, or a method that no list can have",
            ),
            (
                lesson.refused_readings,
                "refused request",
                "with a path of more than one reading, which only a rule for any path would allow",
            ),
        ] {
            if count > 0 {
                output::note(&format!("left out: {} {why}", output::counted(count, what)));
            }
        }
    }
    if read == 0 {
        let whose = args.agent.as_ref().map(|agent| format!(" of the agent `{agent}`"));
        let whose = whose.unwrap_or_default();
        output::note(&format!(
            "the audit log has no request{whose} that rules can be learned from"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn above(read: u64) -> String {
    format!(
        "Learned by `locum policy learn` from {}: what was done, not what should be.\n\
         Read each rule, narrow it, and remove what nobody needs.",
        output::counted(read, "request")
    )
}

/// Why nothing is learned from what was refused with this code.
fn why_left_out(code: &str) -> &'static str {
    match Code::ALL.iter().find(|known| known.as_str() == code) {
        Some(Code::NotAllowed) => "because a rule denies it",
        Some(Code::CredentialRefused) => {
            "because a rule denies the credential, or because of the credential itself"
        }
        Some(Code::ApprovalRequired | Code::ApprovalDenied) => {
            "which a rule allows once a person approves; keep that rule"
        }
        Some(Code::Unusual) => "which a rule allows while it is usual; keep that rule",
        Some(
            Code::BadRequest
            | Code::AmbiguousPath
            | Code::AuthorityMismatch
            | Code::SlotMismatch
            | Code::Plaintext
            | Code::MethodRefused
            | Code::UpgradeRefused
            | Code::RealCredential,
        ) => "which no rule allows",
        _ => "on which rules have no say",
    }
}

/// The audit log, as it is read.
#[derive(Default)]
struct Log {
    learner: Learner,
    read: u64,
    /// By code: refused for another reason than the rules.
    left_out: BTreeMap<String, u64>,
}

impl Log {
    fn read(&mut self, entry: &Entry) {
        if entry.kind() != Some(Kind::Access) {
            return;
        }
        let Some(observed) = self.observed(entry) else { return };
        self.read += 1;
        self.learner.add(observed);
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

    fn finish(self) -> Lesson {
        self.learner.finish()
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
