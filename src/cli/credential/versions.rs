//! The versions of a credential: rotated, staged, promoted and revoked.

use std::time::{Duration, SystemTime};

use super::users::{User, users};
use super::{Value, kind};
use crate::app::{Failure, Opened};
use crate::cli::output;
use crate::config::MAX_GRACE;
use crate::credential::Source;
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
    let known = opened.vault.credential(name)?;
    let prompt = format!("New secret of {name}: ");
    let secret = match (&known.properties.kind, &known.properties.source) {
        // What a kind makes its value of lies elsewhere; what lies here is the login there.
        (_, Some(source)) if source.wants_login() => args.value.read(&prompt)?,
        (_, Some(source)) => return Err(nothing_here(name, source)),
        (Some(kind), None) => kind::rotated(opened, name, kind, &args.value.read_any(&prompt)?)?,
        (None, None) => args.value.read(&prompt)?,
    };
    if args.stage {
        let version = opened.vault.stage(name, &secret)?;
        opened.changed()?;
        return output::line(&format!(
            "staged version {version} of {name}; `locum credential promote {name}` has requests get it"
        ));
    }
    let grace = args.grace.unwrap_or(opened.config.credentials.grace);
    let promotion = opened.vault.rotate_with_grace(name, &secret, seconds(grace))?;
    kind::follow_certificate(opened, name, false)?;
    opened.changed()?;
    say("rotated", name, promotion, grace)
}

fn nothing_here(name: &Name, source: &Source) -> Failure {
    Failure::usage(format!("{name} has no secret in this vault: it comes from {source}"))
        .help("change it there; it is followed by itself")
}

pub(super) fn promote(opened: &mut Opened, args: &Promote) -> Result<(), Failure> {
    let grace = args.grace.unwrap_or(opened.config.credentials.grace);
    let promotion = opened.vault.promote(&args.name, seconds(grace))?;
    kind::follow_certificate(opened, &args.name, false)?;
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
struct Revoked<'a> {
    credential: &'a Name,
    versions: &'a [u32],
    cut: bool,
    /// Milliseconds until it was in force; none when that was not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runs: Option<Vec<User>>,
}

pub(super) fn revoke(opened: &mut Opened, args: &Revoke) -> Result<(), Failure> {
    let live = revoked_by(opened, args, false)?;
    // Asked again, because nothing said that it was in force.
    let again = args.now && live.is_empty();
    let versions = if args.cut || again { revoked_by(opened, args, true)? } else { live };
    match (args.cut, args.version) {
        (true, version) => opened.vault.cut(&args.name, version)?,
        (false, _) if again && !versions.is_empty() => {}
        (false, Some(version)) => opened.vault.revoke_version(&args.name, version)?,
        (false, None) => opened.vault.revoke(&args.name)?,
    }
    opened.changed()?;
    if args.version.is_some() && opened.vault.credential(&args.name)?.current().is_none() {
        let name = &args.name;
        output::note(&format!(
            "{name} has no current version now: requests are refused until `locum credential rotate {name}`"
        ));
    }
    let mut revoked = Revoked {
        credential: &args.name,
        versions: &versions,
        cut: args.cut,
        in_force_ms: None,
        runs: None,
    };
    if args.now {
        let after = opened.in_force(IN_FORCE_WITHIN)?.after;
        revoked.in_force_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let since = SystemTime::now().checked_sub(HIT_SINCE);
        revoked.runs = Some(users(opened, &args.name, &versions, since)?);
    }
    if args.json { output::json(&revoked) } else { say_revoked(&revoked, args.version) }
}

/// The versions that are not revoked yet, or all that are meant.
fn revoked_by(opened: &Opened, args: &Revoke, all: bool) -> Result<Vec<u32>, Failure> {
    use crate::vault::VersionState::Revoked;
    let info = opened.vault.credential(&args.name)?;
    let all = info.versions.iter().filter(|version| all || version.state != Revoked);
    let all = all.map(|version| version.version);
    Ok(all.filter(|own| args.version.is_none_or(|version| version == *own)).collect())
}

fn say_revoked(revoked: &Revoked<'_>, version: Option<u32>) -> Result<(), Failure> {
    let name = revoked.credential;
    output::line(&match version {
        Some(version) => format!("revoked version {version} of {name}"),
        None => {
            format!("revoked {name}; requests that refer to it are refused from now on")
        }
    })?;
    if let Some(took) = revoked.in_force_ms {
        let cut = if revoked.cut { ", and what carried it is broken off" } else { "" };
        output::line(&format!("in force after {took} ms{cut}"))?;
    }
    match &revoked.runs {
        None => Ok(()),
        Some(runs) if runs.is_empty() => output::line("nobody used it within the last hour"),
        Some(runs) => {
            output::line("it was used within the last hour by")?;
            User::table(runs).print()
        }
    }
}
