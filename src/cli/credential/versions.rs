//! The versions of a credential: rotated, staged and promoted.

use std::time::Duration;

use super::Value;
use crate::app::{Failure, Opened};
use crate::cli::output;
use crate::config::MAX_GRACE;
use crate::document::{parse_duration, show_duration};
use crate::reference::Name;
use crate::vault::Promotion;

pub(super) const ROTATE_EXAMPLE: &str = "Example:
  locum credential rotate openai < new-key.txt
  locum credential rotate openai --grace 15m --from-env NEW_KEY
  locum credential rotate openai --stage < new-key.txt";

/// Arguments of `locum credential rotate`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Rotate {
    /// The credential's name
    name: Name,
    /// How long what began with the old version may still use it: 15m, 2h, 0. By default
    /// credentials.grace in locum.yaml
    #[arg(long, value_name = "TIME", value_parser = grace)]
    grace: Option<Duration>,
    /// Only add the version; no request gets it before `locum credential promote`
    #[arg(long, conflicts_with = "grace")]
    stage: bool,
    #[command(flatten)]
    value: Value,
}

/// Arguments of `locum credential promote`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Promote {
    /// The credential's name
    name: Name,
    /// How long what began with the old version may still use it: 15m, 2h, 0. By default
    /// credentials.grace in locum.yaml
    #[arg(long, value_name = "TIME", value_parser = grace)]
    grace: Option<Duration>,
}

fn grace(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let grace = parse_duration(text).map_err(|e| e.to_string())?;
    if grace > MAX_GRACE { Err("a grace is 30d at most".to_owned()) } else { Ok(grace) }
}

pub(super) fn rotate(opened: &mut Opened, args: &Rotate) -> Result<(), Failure> {
    let name = &args.name;
    // Asked before the secret is: a wrong name should not cost a paste.
    opened.vault.credential(name)?;
    let secret = args.value.read(&format!("New secret of {name}: "))?;
    if args.stage {
        let version = opened.vault.stage(name, &secret)?;
        opened.changed()?;
        return output::line(&format!(
            "staged version {version} of {name}; `locum credential promote {name}` has requests get it"
        ));
    }
    let grace = args.grace.unwrap_or(opened.config.credentials.grace);
    let promotion = opened.vault.rotate_with_grace(name, &secret, seconds(grace))?;
    opened.changed()?;
    say("rotated", name, promotion, grace)
}

pub(super) fn promote(opened: &mut Opened, args: &Promote) -> Result<(), Failure> {
    let grace = args.grace.unwrap_or(opened.config.credentials.grace);
    let promotion = opened.vault.promote(&args.name, seconds(grace))?;
    opened.changed()?;
    say("promoted", &args.name, promotion, grace)
}

fn seconds(grace: Duration) -> i64 {
    i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)
}

fn say(did: &str, name: &Name, promotion: Promotion, grace: Duration) -> Result<(), Failure> {
    let Promotion { current, before } = promotion;
    output::line(&format!("{did} {name}; requests get version {current} from now on"))?;
    match before {
        Some(before) if !grace.is_zero() => output::line(&format!(
            "what began with version {before} may finish with it, for {}",
            show_duration(grace)
        )),
        Some(before) => output::line(&format!("version {before} is used no more")),
        None => Ok(()),
    }
}
