//! `locum audit`: to be written.

use std::process::ExitCode;

use crate::app::{Failure, Home};

/// Subcommands of `locum audit`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// To be written
    #[command(after_help = "Example:\n  locum audit")]
    Todo,
}

pub(super) fn run(_home: &Home, _command: Command) -> Result<ExitCode, Failure> {
    Err(Failure::new("not written yet"))
}
