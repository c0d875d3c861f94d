//! `locum vault`: to be written.

use crate::app::{Failure, Home};

/// Subcommands of `locum vault`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// To be written
    #[command(after_help = "Example:\n  locum vault")]
    Todo,
}

pub(super) fn run(_home: &Home, _command: Command) -> Result<(), Failure> {
    Err(Failure::new("not written yet"))
}
