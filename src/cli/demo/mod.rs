//! `locum demo`: all of Locum at work on this machine, in a throw-away home.
//!
//! Real processes, sockets and TLS over loopback, no network, no account. First the call that Locum
//! is for, seen from all sides; then the attacks that it is to withstand. Nothing is asserted that
//! was not measured: each PASS stands behind what was seen at both ends.

mod agent;
mod checks;
mod client;
mod forms;
mod origin;
mod scratch;
mod show;
mod stage;
mod story;

use std::process::ExitCode;
use std::time::Instant;

pub(super) use agent::{AgentArgs, act};
pub(super) use client::{get_plain, knock};
pub(super) use stage::Stage;
pub(super) use story::Call;

use super::serve::stop_signal;
use super::{output, runtime};
use crate::app::Failure;
use show::Show;

/// Arguments of `locum demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  locum demo\n  locum demo --keep\n  locum demo --json")]
pub(super) struct Args {
    /// Leave it running at the end, and print what to paste to try it by hand
    #[arg(long, conflicts_with = "json")]
    keep: bool,
    /// Print what was measured as one JSON document
    #[arg(long)]
    json: bool,
}

/// The exit code of a program that Ctrl-C ended, as shells have it.
const INTERRUPTED: u8 = 130;

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    runtime()?.block_on(async {
        let interrupted = stop_signal()?;
        tokio::select! {
            done = perform(args) => done,
            // What was started ends with the future that is dropped here.
            () = interrupted => Ok(ExitCode::from(INTERRUPTED)),
        }
    })
}

async fn perform(args: &Args) -> Result<ExitCode, Failure> {
    let begun = Instant::now();
    let mut show = if args.json { Show::silent() } else { Show::on_terminal() };
    show.welcome()?;
    let mut stage = Stage::raise().await?;
    show.stage(&stage)?;
    let call = Call::make(&mut stage).await?;
    show.call(&call)?;
    let mut checks = checks::play(&mut stage, &mut show).await?;
    if args.keep {
        show.end(&checks, begun.elapsed())?;
        show.by_hand(&stage)?;
        // Until Ctrl-C, which drops this future.
        std::future::pending::<()>().await;
    }
    checks.push(checks::stop(&mut stage, &mut show).await?);
    drop(stage);
    show.end(&checks, begun.elapsed())?;
    let passed = call.is_good() && checks.iter().all(|check| check.passed);
    if args.json {
        output::json(&serde_json::json!({
            "ok": passed,
            "seconds": begun.elapsed().as_secs_f64(),
            "call": call,
            "checks": checks,
        }))?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
