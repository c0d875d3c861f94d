//! `locum credential import`: to be written.

use crate::app::{Failure, Opened};

/// Arguments of `locum credential import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_opened: &mut Opened, _args: &Args) -> Result<(), Failure> {
    Err(Failure::new("not written yet"))
}
