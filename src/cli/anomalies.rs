//! `locum anomalies`: what agents did that they usually do not, what they usually do, and the word that
//! something new is usual.

use std::time::SystemTime;

use super::audit::moment;
use super::output::{self, Table};
use super::way::Where;
use crate::admin::orders::anomalies::{
    AcceptAnomalies, ListAnomalies, ShowUsual, Told, Usual, told,
};
use crate::app::{Failure, Home};
use crate::audit::Filter;
use crate::config::Config;
use crate::reference::Name;

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

pub(super) fn run(to: &Where, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { agent, since, json } => {
            let told = if to.is_there() {
                to.open()?.order(ListAnomalies { agent, since })?
            } else {
                here(&to.home()?, agent.as_ref(), since)?
            };
            list(told, json)
        }
        Command::Show { agent, json } => show(&to.open()?.order(ShowUsual { agent })?, json),
        Command::Accept { agent, credential, json } => {
            let accepted = to.open()?.order(AcceptAnomalies { agent, credential })?;
            if json {
                return output::json(&accepted);
            }
            let word = if accepted.usual_from == "now" {
                "what was told of it is usual from now on"
            } else {
                "what was told of it is usual from the next start of the proxy on"
            };
            output::line(&format!("{}: {word}", accepted.agent))
        }
    }
}

/// Beside the log, which takes no key to read.
fn here(home: &Home, agent: Option<&Name>, since: SystemTime) -> Result<Vec<Told>, Failure> {
    let workspace = Some(home.workspace().to_string());
    let filter = Filter { workspace, since: Some(since), ..Filter::default() };
    told(&Config::load(&home.config(), home.path())?.audit.dir, filter, agent)
}

fn list(told: Vec<Told>, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&told);
    }
    let mut table =
        Table::of_any_texts(&["TIME", "AGENT", "CREDENTIAL", "NEW", "SEEN", "USUAL", "REQUEST"]);
    for Told { time, agent, kind, seen, credential, usual, request_id } in told {
        let credential = credential.unwrap_or_else(|| "-".to_owned());
        let cells = [time, agent, credential, kind, seen, usual, request_id];
        table.row(cells.iter().map(|cell| output::plain(cell)).collect());
    }
    table.print()
}

fn show(shown: &[Usual], json: bool) -> Result<(), Failure> {
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
