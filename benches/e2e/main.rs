//! Locum beside a plain CONNECT tunnel and beside no proxy at all: one interleaved run on loopback,
//! with an origin and a closed-loop client of our own.
//!
//! ```text
//! cargo bench --bench e2e                       all scenarios, some minutes
//! cargo bench --bench e2e -- keepalive --json   one of them, for a program
//! cargo bench --bench e2e -- --quick            a look whether the harness works
//! ```
//!
//! Method and figures stand in `docs/PERFORMANCE.md`. The origin refuses a request without the real
//! key, and one such request fails the run.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

mod body;
mod client;
mod contender;
mod origin;
mod process;
mod report;
mod scenario;
mod tunnel;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::{Parser, ValueEnum};
use tokio::task::LocalSet;

use contender::{Field, Kind, Tools};
use scenario::{Scenario, Size};

/// Failures of the harness are for people to read.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The end-to-end benchmark of Locum.
#[derive(Parser)]
struct Arguments {
    /// The scenarios to run; all when none is named.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Runs each scenario once, with few calls.
    #[arg(long)]
    quick: bool,
    /// Lets only this contender run; repeatable.
    #[arg(long, value_enum)]
    only: Vec<Kind>,
    /// How many connections `keepalive` has; repeatable.
    #[arg(long, default_values_t = [1, 32, 256])]
    connections: Vec<usize>,
    #[command(flatten)]
    tools: Tools,
    /// How often each contender has its turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
    /// Makes this process the plain tunnel.
    #[arg(long, hide = true)]
    as_tunnel_to: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.as_tunnel_to {
        Some(origin) => tunnel::run(origin),
        None => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let (rounds, shrink) = if arguments.quick { (1, 50) } else { (arguments.rounds.max(1), 1) };
    let size = Size {
        only: arguments.only.clone(),
        connections: arguments.connections.clone(),
        rounds,
        shrink,
    };
    let scenarios = match &arguments.scenarios[..] {
        [] => Scenario::value_variants(),
        named => named,
    };
    let field = Field::new(arguments.tools.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut tables = Vec::new();
    for scenario in scenarios {
        eprintln!("{scenario:?} ...");
        let done = LocalSet::new().block_on(&runtime, scenario.run(&field, &size))?;
        for table in done.iter().filter(|_| !arguments.json) {
            table.print();
        }
        tables.extend(done);
    }
    if arguments.json {
        let tables: Vec<_> = tables.iter().map(report::Table::json).collect();
        println!("{}", serde_json::to_string_pretty(&tables)?);
    }
    check(&field)
}

/// Figures count only when every call carried the key and was recorded.
fn check(field: &Field) -> Result<()> {
    let counts = &field.origin.counts;
    let (right, wrong) =
        (counts.right.load(Ordering::Relaxed), counts.wrong.load(Ordering::Relaxed));
    if wrong > 0 {
        return Err(format!("{wrong} of {} requests came without the key", right + wrong).into());
    }
    field.verify_audit()?;
    eprintln!("{right} requests, each with the key; the audit log verifies");
    Ok(())
}
