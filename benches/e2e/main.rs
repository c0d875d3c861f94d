//! Locum beside a plain CONNECT tunnel, its peers, and no proxy at all: one interleaved run on loopback,
//! with an origin and a closed-loop client of our own.
//!
//! ```text
//! cargo bench --bench e2e                          all scenarios, without peers
//! cargo bench --bench e2e -- --peers envoy,mitmproxy,squid --targets
//! cargo bench --bench e2e -- keepalive --json      one of them, for a program
//! cargo bench --bench e2e -- --quick               a look whether the harness works
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
mod crowd;
mod home;
mod install;
mod load;
mod origin;
mod peers;
mod process;
mod report;
mod scenario;
mod targets;
mod tunnel;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::LocalSet;

use contender::{Field, Kind, Tools};
use scenario::{Scenario, Size};

/// Failures of the harness are for people to read.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The version of HTTP that is spoken within the tunnel, on both sides of whoever opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Http {
    /// HTTP/1.1.
    #[value(name = "1")]
    One,
    /// HTTP/2.
    #[value(name = "2")]
    Two,
}

impl Http {
    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Self::One => b"http/1.1",
            Self::Two => b"h2",
        }
    }
}

/// The end-to-end benchmark of Locum.
#[derive(Parser)]
#[allow(clippy::struct_excessive_bools)] // Switches of a command line.
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
    /// Says of each target of the project whether this run met it.
    #[arg(long)]
    targets: bool,
    /// Lets only this contender run; repeatable.
    #[arg(long, value_enum)]
    only: Vec<Kind>,
    /// How many connections `keepalive` has; repeatable.
    #[arg(long, default_values_t = [1, 32, 256])]
    connections: Vec<usize>,
    /// The versions of HTTP that `keepalive` speaks; repeatable. The other scenarios speak the first.
    #[arg(long, value_enum, default_values_t = [Http::One, Http::Two])]
    http: Vec<Http>,
    /// How many tunnels `memory` opens; repeatable.
    #[arg(long, default_values_t = [1_000, 10_000])]
    tunnels: Vec<u64>,
    /// How many rules, agents and credentials `growth` has; repeatable.
    #[arg(long, default_values_t = [10, 1_000, 100_000])]
    crowds: Vec<u32>,
    /// How many seconds a measurement in a closed loop takes.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
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
    /// Makes this process the origin.
    #[arg(long, hide = true)]
    as_origin: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    allow_descriptors();
    let done = match arguments.as_tunnel_to {
        Some(origin) => tunnel::run(origin),
        None if arguments.as_origin => origin::run(),
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

/// As many as the hard limit grants, to this process and those it starts.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        eprintln!("the limit on open files stays: {error}");
    }
}

/// How many descriptors a process may have.
pub(crate) fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

fn run(arguments: &Arguments) -> Result<()> {
    let size = Size {
        only: arguments.only.clone(),
        connections: arguments.connections.clone(),
        http: arguments.http.clone(),
        tunnels: arguments.tunnels.clone(),
        crowds: arguments.crowds.clone(),
        rounds: if arguments.quick { 1 } else { arguments.rounds.max(1) },
        shrink: if arguments.quick { 50 } else { 1 },
        long: Duration::from_secs_f64(arguments.seconds),
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
    let targets = targets::of(&tables);
    if arguments.json {
        let tables: Vec<_> = tables.iter().map(report::Table::json).collect();
        let targets: Vec<_> = targets.iter().map(targets::Target::json).collect();
        let all = serde_json::json!({ "tables": tables, "targets": targets });
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else if arguments.targets {
        targets::print(&targets);
    }
    check(&field)
}

/// Figures count only when every call carried the key and was recorded.
fn check(field: &Field) -> Result<()> {
    let (right, wrong) = field.origin.counts()?;
    if wrong > 0 {
        return Err(format!("{wrong} of {} requests came without the key", right + wrong).into());
    }
    field.verify_audit()?;
    eprintln!("{right} requests, each with the key; the audit logs verify");
    Ok(())
}
