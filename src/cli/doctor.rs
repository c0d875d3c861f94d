//! `locum doctor`: to be written.

use std::process::ExitCode;

use crate::app::{Failure, Home};

/// Arguments of `locum doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  locum doctor")]
pub(super) struct Args {}

pub(super) fn run(_home: &Home, _args: &Args) -> Result<ExitCode, Failure> {
    Err(Failure::new("not written yet"))
}
