//! `locum set`: credentials under one name, for policies to grant as one.

use super::output::{self, Json, Table};
use super::way::Where;
use crate::admin::orders::sets::{AddToSet, ListSets, Set, TakeFromSet, Taken};
use crate::app::Failure;
use crate::reference::Name;

/// Subcommands of `locum set`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a set, or add members to one
    #[command(after_help = "Example:\n  locum set add salesforce-prod sf-oauth sf-token")]
    Add {
        /// The set's name; no credential may have it
        name: Name,
        /// Credentials that belong to it
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<Name>,
        #[command(flatten)]
        json: Json,
    },
    /// Take members out of a set; without members, remove the set itself
    #[command(
        after_help = "Example:\n  locum set remove salesforce-prod sf-token\n  locum set remove salesforce-prod"
    )]
    Remove {
        /// The set's name
        name: Name,
        /// Credentials that no longer belong to it; they themselves stay
        #[arg(value_name = "MEMBER")]
        members: Vec<Name>,
        #[command(flatten)]
        json: Json,
    },
    /// List sets and their members
    #[command(after_help = "Example:\n  locum set list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(to: &Where, command: Command) -> Result<(), Failure> {
    let mut way = to.open()?;
    match command {
        Command::Add { name, members, json } => {
            let set = way.order(AddToSet { name, members })?;
            json.tell(&set, || say_members(&set))
        }
        Command::Remove { name, members, json } => {
            let whole = members.is_empty();
            let set = way.order(TakeFromSet { name, taken: Taken { members } })?;
            json.tell(&set, || {
                if whole {
                    output::line(&format!("removed the set {}; its members stay", set.name))
                } else {
                    say_members(&set)
                }
            })
        }
        Command::List { json } => list(&way.order(ListSets)?, json),
    }
}

fn say_members(set: &Set) -> Result<(), Failure> {
    match &set.members[..] {
        [] => output::line(&format!("{} is empty", set.name)),
        members => output::line(&format!("{} has {}", set.name, output::list(members))),
    }
}

fn list(sets: &[Set], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&sets);
    }
    let mut table = Table::new(&["SET", "MEMBERS"]);
    for set in sets {
        table.row(vec![set.name.to_string(), output::list(&set.members)]);
    }
    table.print()
}
