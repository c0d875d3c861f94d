//! The versions of a credential: rotated, staged, promoted and revoked.

use std::time::{Duration, Instant, SystemTime};

use super::Value;
use super::users::{table, users};
use crate::admin::orders::Given;
use crate::admin::orders::credentials::{
    PromoteCredential, Promoting, RevokeCredential, Revoked, Revoking, RotateCredential, Rotated,
    Rotation, ShowCredential, require_own_secret,
};
use crate::admin::orders::register::User;
use crate::app::Failure;
use crate::cli::output::{self, Json};
use crate::cli::way::Way;
use crate::config::MAX_GRACE;
use crate::document::{parse_duration, show_duration};
use crate::reference::Name;

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
    #[command(flatten)]
    json: Json,
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
    /// This version, which is staged or retired, and not revoked; by default the one that is staged
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    #[command(flatten)]
    json: Json,
}

fn grace(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let grace = parse_duration(text).map_err(|e| e.to_string())?;
    if grace > MAX_GRACE { Err("a grace is 30d at most".to_owned()) } else { Ok(grace) }
}

pub(super) fn rotate(way: &mut Way, args: Rotate) -> Result<(), Failure> {
    let Rotate { name, grace, stage, value, json } = args;
    // Asked before the secret is: a wrong name should not cost a paste.
    let known = way.order(ShowCredential { name: name.clone() })?;
    require_own_secret(&name, known.source.as_ref())?;
    let prompt = format!("New secret of {name}: ");
    let secret = match (&known.kind, &known.source) {
        // What a kind makes its value of may have several lines.
        (Some(_), None) => value.read_any(&prompt)?,
        _ => value.read(&prompt)?,
    };
    let grace = grace.map(|grace| grace.as_secs());
    let new = Rotation { secret: Given(secret), grace, stage, force_short: value.force_short };
    let rotated = way.order(RotateCredential { name, new })?;
    json.tell(&rotated, || say("rotated", &rotated))
}

pub(super) fn promote(way: &mut Way, args: Promote) -> Result<(), Failure> {
    let grace = args.grace.map(|grace| grace.as_secs());
    let how = Promoting { grace, version: args.version };
    let promoted = way.order(PromoteCredential { name: args.name, how })?;
    args.json.tell(&promoted, || say("promoted", &promoted))
}

fn say(did: &str, rotated: &Rotated) -> Result<(), Failure> {
    let Rotated { name, version, staged, before, grace } = rotated;
    if *staged {
        return output::line(&format!(
            "staged version {version} of {name}; `locum credential promote {name}` has requests get it"
        ));
    }
    output::line(&format!("{did} {name}; requests get version {version} from now on"))?;
    match before {
        Some(before) if *grace > 0 => output::line(&format!(
            "what began with version {before} may finish with it, for {}",
            show_duration(Duration::from_secs(*grace))
        )),
        Some(before) => output::line(&format!("version {before} is used no more")),
        None => output::line(&format!(
            "{name} was revoked, and no request got it; now it is used again"
        )),
    }
}

pub(super) const REVOKE_EXAMPLE: &str = "Example:
  locum credential revoke openai
  locum credential revoke openai --now --cut
  locum credential revoke openai --version 2 --now

With --now the command returns when the running proxy acts on it, and lists the runs that used what was
revoked within the last hour.";

/// How long a running proxy may take to act on a revocation: twenty times as long as it does.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(5);

/// Whoever used a version longer ago than this is not said to be hit. A run that waits longer between
/// two calls is found with `who-uses`.
const HIT_SINCE: Duration = Duration::from_hours(1);

/// Arguments of `locum credential revoke`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Revoke {
    /// The credential's name
    name: Name,
    /// Only this version
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// Wait until it is in force, and say which runs it hits
    #[arg(long)]
    now: bool,
    /// Also break off what carries it: requests under way, answers that stream, sockets
    #[arg(long)]
    cut: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What a revocation has done.
#[derive(serde::Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    revoked: &'a Revoked,
    /// Milliseconds until it was in force; none when that was not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runs: Option<Vec<User>>,
}

pub(super) fn revoke(way: &mut Way, args: Revoke) -> Result<(), Failure> {
    let Revoke { name, version, now, cut, json } = args;
    let start = Instant::now();
    let revoked =
        way.order(RevokeCredential { name, what: Revoking { version, cut, again: now } })?;
    if version.is_some() && revoked.current.is_none() {
        let name = &revoked.credential;
        output::note(&format!(
            "{name} has no current version now: requests are refused until `locum credential rotate {name}`, or `promote {name} --version N` of one that is not revoked"
        ));
    }
    let mut outcome = Outcome { revoked: &revoked, in_force_ms: None, runs: None };
    if now {
        let after = match way {
            Way::Here(opened) => opened.in_force(IN_FORCE_WITHIN)?.after,
            // A proxy that has answered acts on it.
            Way::There(_) => start.elapsed(),
        };
        outcome.in_force_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let since = SystemTime::now().checked_sub(HIT_SINCE);
        outcome.runs = Some(users(way, &revoked.credential, revoked.versions.clone(), since)?);
    }
    if json { output::json(&outcome) } else { say_revoked(&outcome, version) }
}

fn say_revoked(outcome: &Outcome<'_>, version: Option<u32>) -> Result<(), Failure> {
    let name = &outcome.revoked.credential;
    output::line(&match version {
        Some(version) => format!("revoked version {version} of {name}"),
        None => {
            format!("revoked {name}; requests that refer to it are refused from now on")
        }
    })?;
    if let Some(took) = outcome.in_force_ms {
        let cut = if outcome.revoked.cut { ", and what carried it is broken off" } else { "" };
        output::line(&format!("in force after {took} ms{cut}"))?;
    }
    match &outcome.runs {
        None => Ok(()),
        Some(runs) if runs.is_empty() => output::line("nobody used it within the last hour"),
        Some(runs) => {
            output::line("it was used within the last hour by")?;
            table(runs).print()
        }
    }
}
