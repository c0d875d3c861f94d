//! `locum anomalies`: what agents did that they usually do not, what they usually do, and the word that
//! something new is usual.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::audit::moment;
use super::output::{self, Table};
use crate::app::{self, Failure, Home, Opened};
use crate::audit::{Entry, Filter, Kind, query};
use crate::config::Config;
use crate::proxy::ANOMALY_EVENT;
use crate::reference::Name;

/// How long a running proxy may take to hear a word: it listens four times a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Subcommands of `locum anomalies`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List what was not as usual, from the audit log
    #[command(
        after_help = "Example:\n  locum anomalies list --since 7d\n  locum anomalies list --agent researcher --json"
    )]
    List {
        /// Of this agent only
        #[arg(long, value_name = "NAME")]
        agent: Option<Name>,
        /// From this time on: RFC 3339, a date, or a duration ago (15m, 2h, 7d)
        #[arg(long, value_name = "TIME", value_parser = moment, default_value = "7d")]
        since: SystemTime,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what agents usually do, as a proxy has learned it
    #[command(after_help = "Example:\n  locum anomalies show researcher")]
    Show {
        /// The agent; all of them, when there is none
        agent: Option<Name>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take for usual what was told of an agent
    #[command(
        after_help = "Example:\n  locum anomalies accept researcher\n  locum anomalies accept researcher --credential billing\n\nWithout it, what is new becomes usual when it was told of on seven days; what a rule refuses does not."
    )]
    Accept {
        /// The agent
        agent: Name,
        /// Only with this credential
        #[arg(long, value_name = "NAME")]
        credential: Option<Name>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(home: &Home, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { agent, since, json } => {
            let filter = Filter {
                workspace: Some(home.workspace().to_string()),
                kind: Some(Kind::Event),
                since: Some(since),
                ..Filter::default()
            };
            let log = Config::load(&home.config(), home.path())?.audit.dir;
            let entries = query(&log, filter)?.filter_map(Result::ok);
            let of =
                |told: &Told| agent.as_ref().is_none_or(|agent| *told.agent == *agent.as_str());
            list(entries.filter_map(|entry| Told::of(&entry)).filter(of), json)
        }
        Command::Show { agent, json } => show(&Opened::open(home)?, agent.as_ref(), json),
        Command::Accept { agent, credential, json } => {
            let opened = Opened::open(home)?;
            require_known(&opened, &agent, credential.as_ref())?;
            let heard = app::accept_anomalies(&opened, &agent, credential.as_ref(), PATIENCE)?;
            if json {
                let from = if heard { "now" } else { "next-start" };
                return output::json(&json!({
                    "agent": agent, "credential": credential, "usual_from": from,
                }));
            }
            let word = if heard {
                "what was told of it is usual from now on"
            } else {
                "what was told of it is usual from the next start of the proxy on"
            };
            output::line(&format!("{agent}: {word}"))
        }
    }
}

/// A slip of the pen would look like a word that was heard. An agent whom an issuer names is in no vault, but in what
/// was learned.
fn require_known(opened: &Opened, agent: &Name, credential: Option<&Name>) -> Result<(), Failure> {
    let baselines = app::baselines(opened)?;
    let mut own = baselines.iter().filter(|one| one.workspace() == opened.vault.workspace());
    let kept = opened.vault.agents()?.iter().any(|one| one.name == *agent);
    if !kept && !own.any(|one| one.agent() == agent) {
        let failure =
            Failure::new(format!("there is no agent {agent}, and nothing was told of it"));
        return Err(failure.help("`locum anomalies list` has those of which something was told"));
    }
    let there =
        |name: &Name| opened.vault.credentials().map(|all| all.iter().any(|one| one.name == *name));
    match credential {
        Some(name) if !there(name)? => Err(Failure::new(format!("there is no credential {name}"))
            .help("`locum anomalies list` names the credential of each anomaly")),
        _ => Ok(()),
    }
}

/// An event, taken apart.
struct Told {
    time: String,
    agent: String,
    kind: String,
    seen: String,
    credential: String,
    usual: String,
    request: String,
}

impl Told {
    fn of(entry: &Entry) -> Option<Self> {
        if entry.text("event") != Some(ANOMALY_EVENT) {
            return None;
        }
        let mut parts = entry.text("detail")?.splitn(5, "; ").map(ToOwned::to_owned);
        let (kind, seen, credential) = (parts.next()?, parts.next()?, parts.next()?);
        let (usual, request) = (parts.next()?, parts.next()?);
        Some(Self {
            time: entry.time()?.to_owned(),
            agent: entry.text("subject")?.to_owned(),
            kind,
            seen,
            credential,
            usual: usual.trim_start_matches("usual ").to_owned(),
            request: request.trim_start_matches("request ").to_owned(),
        })
    }
}

fn list(told: impl Iterator<Item = Told>, json: bool) -> Result<(), Failure> {
    if json {
        let all = told.map(|told| {
            json!({
                "time": told.time, "agent": told.agent, "kind": told.kind, "seen": told.seen,
                "credential": Some(&told.credential).filter(|name| **name != "-"),
                "usual": told.usual, "request_id": told.request,
            })
        });
        return output::json(&all.collect::<Vec<_>>());
    }
    let mut table =
        Table::of_any_texts(&["TIME", "AGENT", "CREDENTIAL", "NEW", "SEEN", "USUAL", "REQUEST"]);
    for Told { time, agent, kind, seen, credential, usual, request } in told {
        let cells = [time, agent, credential, kind, seen, usual, request];
        table.row(cells.iter().map(|cell| output::plain(cell)).collect());
    }
    table.print()
}

fn show(opened: &Opened, agent: Option<&Name>, json: bool) -> Result<(), Failure> {
    let mut all = app::baselines(opened)?;
    all.retain(|one| {
        let own = one.workspace() == opened.vault.workspace();
        own && agent.is_none_or(|agent| one.agent() == agent)
    });
    if let Some(agent) = agent.filter(|_| all.is_empty()) {
        let failure = Failure::new(format!("nothing is known of the agent {agent} yet"));
        return Err(
            failure.help("a proxy writes what it has learned once a minute, and at its end")
        );
    }
    let shown: Vec<_> = all.iter().flat_map(app::Usual::show).collect();
    if json {
        return output::json(&shown);
    }
    let listed = |all: &[String]| if all.is_empty() { "-".to_owned() } else { all.join(", ") };
    for one in shown {
        let with = one.credential.as_ref().map_or_else(
            || "without a credential".to_owned(),
            |credential| format!("with {credential}"),
        );
        output::line(&format!("{} {with}", one.agent))?;
        let state = if one.learning { ", still learned" } else { "" };
        for (name, value) in [
            ("known since", format!("{}{state}", output::time(one.since))),
            ("destinations", listed(&one.destinations)),
            ("hours", listed(&one.hours)),
            ("calls from", listed(&one.sources)),
            ("busiest hour", format!("{} requests, {} bytes", one.requests, one.bytes)),
            ("told of", listed(&one.unusual)),
        ] {
            output::line(&format!("  {name:<13} {}", output::plain(&value)))?;
        }
    }
    Ok(())
}
