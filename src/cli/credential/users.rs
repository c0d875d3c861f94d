//! Who used a credential, as the audit log has it.

use std::time::SystemTime;

use super::care::due_text;
use crate::admin::orders::credentials::{ShowCredential, Shown};
use crate::admin::orders::register::{self as orders, MOST_USERS, User};
use crate::admin::orders::unix;
use crate::app::Failure;
use crate::cli::audit::moment;
use crate::cli::output::{self, Table, plain};
use crate::cli::way::Way;
use crate::reference::Name;

/// Arguments of `locum credential who-uses`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct WhoUses {
    /// The credential's name
    name: Name,
    /// Only this version
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// From this time on: RFC 3339, a date, or a duration ago (15m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<SystemTime>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn who_uses(way: &mut Way, args: &WhoUses) -> Result<(), Failure> {
    let versions = args.version.into_iter().collect();
    let users = users(way, &args.name, versions, args.since)?;
    if args.json {
        return output::json(&users);
    }
    // One that was removed has records alone.
    if let Ok(shown) = way.order(ShowCredential { name: args.name.clone() }) {
        output::note(&whose(&shown));
    }
    table(&users).print()
}

/// Whose key it is, which version requests get, and when that is due.
fn whose(shown: &Shown) -> String {
    let owner = shown.owner.as_ref().map_or(String::new(), |user| format!(" {}", user.as_str()));
    let version = shown.version.map_or("none: it is revoked".to_owned(), |one| one.to_string());
    let due = match shown.due {
        Some(_) => format!("due {}", due_text(shown.due)),
        None => "without a schedule".to_owned(),
    };
    format!(
        "{} is of the tier {}{}; requests get version {version}, {} old, {due}",
        shown.name,
        shown.tier.as_str(),
        plain(&owner),
        output::counted(shown.age_days.unsigned_abs(), "day"),
    )
}

/// Who used one of these versions of a credential, or any when none is named; the last first.
pub(super) fn users(
    way: &mut Way,
    name: &Name,
    versions: Vec<u32>,
    since: Option<SystemTime>,
) -> Result<Vec<User>, Failure> {
    let since = since.map(|time| unix(time).unsigned_abs());
    let all = way.order(orders::WhoUses { name: name.clone(), versions, since })?;
    if all.len() >= MOST_USERS {
        output::note(&format!(
            "warning: there are {MOST_USERS} runs or more; give a later --since"
        ));
    }
    Ok(all)
}

pub(super) fn table(all: &[User]) -> Table {
    let mut table = Table::of_any_texts(&[
        "AGENT", "RUN", "USER", "VERSION", "REQUESTS", "OPEN", "FIRST", "LAST",
    ]);
    let or_dash = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), plain);
    for user in all {
        table.row(vec![
            plain(&user.agent),
            or_dash(&user.run),
            or_dash(&user.user),
            user.version.to_string(),
            user.requests.to_string(),
            user.open.to_string(),
            second(&user.first),
            second(&user.last),
        ]);
    }
    table
}

/// `2026-11-21 12:00:00Z`.
fn second(time: &str) -> String {
    match (time.get(..10), time.get(11..19)) {
        (Some(date), Some(time)) => plain(&format!("{date} {time}Z")),
        _ => "-".to_owned(),
    }
}
