//! `locum env`: to be written.

use crate::app::{Failure, Home};

/// Arguments of `locum env`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  locum env")]
pub(super) struct Args {}

pub(super) fn run(_home: &Home, _args: &Args) -> Result<(), Failure> {
    Err(Failure::new("not written yet"))
}
