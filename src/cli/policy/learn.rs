//! `locum policy learn`: rules out of the audit log, for a person to read and to narrow.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::json;

use super::output;
use crate::app::{Failure, Home, policies_of, read_policies};
use crate::audit::{Entry, Filter, Kind, query};
use crate::cli::audit::moment;
use crate::config::Config;
use crate::outcome::Code;
use crate::policy::{Act, Learner, Lesson, Observed, Policy};
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
    // Which rules put a credential in unasked, no record says; rules that are gone are taken for others.
    let policy = read_policies(&policies_of(home)?).policy.map(|compiled| compiled.policy);
    let mut log = Log { policy: policy.unwrap_or_default(), ..Log::default() };
    for entry in query(&config.audit.dir, filter)? {
        log.read(&entry?);
    }
    let (read, left_out) = (log.read, std::mem::take(&mut log.left_out));
    let lesson = log.finish();
    if args.json {
        output::json(&json!({
            "requests": read, "rules": lesson.rules, "left_out": left_out,
            "tunnels_left_out": lesson.seen_otherwise,
            "policy": lesson.to_yaml(&above(read)),
        }))?;
    } else {
        output::line(lesson.to_yaml(&above(read)).trim_end())?;
        for (code, count) in &left_out {
            let requests = output::counted(*count, "request");
            output::note(&format!(
                "left out: {requests} refused with {code}, which no rule allows"
            ));
        }
        if lesson.seen_otherwise > 0 {
            let tunnels = output::counted(lesson.seen_otherwise, "tunnel");
            output::note(&format!(
                "left out: {tunnels} to hosts where the same agent's requests were looked into"
            ));
        }
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

/// The audit log, as it is read.
#[derive(Default)]
struct Log {
    policy: Policy,
    learner: Learner,
    /// Requests whose outcome says whether they became a socket.
    open: HashMap<Box<str>, Observed>,
    read: u64,
    /// By code: refused for another reason than the rules.
    left_out: BTreeMap<String, u64>,
}

impl Log {
    fn read(&mut self, entry: &Entry) {
        let id = entry.request_id().unwrap_or_default();
        match entry.kind() {
            Some(Kind::Access) => {
                let Some(observed) = self.observed(entry) else { return };
                self.read += 1;
                // A socket begins with a GET, and only its outcome says what became of it.
                if observed.act == Act::Request("GET".to_owned()) && !observed.refused {
                    self.open.insert(id.into(), observed);
                } else {
                    self.learner.add(observed);
                }
            }
            Some(Kind::Outcome) => {
                let Some(mut observed) = self.open.remove(id) else { return };
                if entry.number("status") == Some(101) {
                    observed.act = Act::Socket;
                }
                self.learner.add(observed);
            }
            _ => {}
        }
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
        let rule = entry.text("rule").unwrap_or_default();
        let uses = entry.credentials().filter_map(|name| name.parse().ok()).collect();
        let act = if tunnel { Act::Tunnel } else { Act::Request(method.to_owned()) };
        let always = !refused && self.policy.injects_unasked(rule);
        Some(Observed { agent, act, destination, path: path.to_owned(), uses, always, refused })
    }

    fn finish(mut self) -> Lesson {
        for (_, observed) in self.open.drain() {
            self.learner.add(observed);
        }
        self.learner.finish()
    }
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
