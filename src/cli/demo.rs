//! `locum demo`: to be written.

use std::process::ExitCode;

use crate::app::Failure;

/// Arguments of `locum demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  locum demo")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args) -> Result<ExitCode, Failure> {
    Err(Failure::new("not written yet"))
}
