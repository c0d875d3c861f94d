//! `locum policy`: to be written.

use std::process::ExitCode;

use crate::app::{Failure, Home};

/// Subcommands of `locum policy`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// To be written
    #[command(after_help = "Example:\n  locum policy")]
    Todo,
}

pub(super) fn run(_home: &Home, _command: Command) -> Result<ExitCode, Failure> {
    Err(Failure::new("not written yet"))
}
