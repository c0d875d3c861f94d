//! `locum policy learn`: rules out of the audit log, for a person to read and to narrow.

use std::process::ExitCode;
use std::time::SystemTime;

use super::output;
use crate::admin::orders::learn::{Learn, Taught, learned};
use crate::app::Failure;
use crate::audit::Filter;
use crate::cli::audit::moment;
use crate::cli::way::Where;
use crate::config::Config;
use crate::outcome::Code;
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

pub(super) fn run(to: &Where, args: &Args) -> Result<ExitCode, Failure> {
    let order = Learn { agent: args.agent.clone(), since: args.since };
    let taught = if to.is_there() { to.open()?.order(order)? } else { here(to, &order)? };
    if args.json {
        output::json(&taught)?;
    } else {
        output::line(taught.policy.trim_end())?;
        say_what_was_left_out(&taught);
    }
    if taught.requests == 0 {
        let whose = args.agent.as_ref().map(|agent| format!(" of the agent `{agent}`"));
        let whose = whose.unwrap_or_default();
        output::note(&format!(
            "the audit log has no request{whose} that rules can be learned from"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Beside the log, which takes no key to read.
fn here(to: &Where, order: &Learn) -> Result<Taught, Failure> {
    let home = to.home()?;
    home.require()?;
    let config = Config::load(&home.config(), home.path())?;
    let workspace = Some(home.workspace().to_string());
    learned(&config.audit.dir, Filter { workspace, ..order.filter() })
}

fn say_what_was_left_out(taught: &Taught) {
    for (code, count) in &taught.left_out {
        let requests = output::counted(*count, "request");
        let why = why_left_out(code);
        output::note(&format!("left out: {requests} refused with {code}, {why}"));
    }
    for (count, what, why) in [
        (
            taught.tunnels_left_out,
            "tunnel",
            "to hosts where the same agent's requests were looked into",
        ),
        (
            taught.beyond_rules,
            "request",
            "that no rule can allow: a credential over http://, or a method that no list can have",
        ),
        (
            taught.refused_readings,
            "refused request",
            "with a path of more than one reading, which only a rule for any path would allow",
        ),
    ] {
        if count > 0 {
            output::note(&format!("left out: {} {why}", output::counted(count, what)));
        }
    }
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
