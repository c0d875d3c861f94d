//! `locum set`: credentials under one name, for policies to grant as one.

use serde::Serialize;

use super::output::{self, Table};
use crate::app::{Failure, Home, Opened};
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
    },
    /// List sets and their members
    #[command(after_help = "Example:\n  locum set list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(home: &Home, command: Command) -> Result<(), Failure> {
    let mut opened = Opened::open(home)?;
    match command {
        Command::Add { name, members } => add(&mut opened, &name, &members),
        Command::Remove { name, members } => remove(&mut opened, &name, &members),
        Command::List { json } => list(&opened, json),
    }
}

fn add(opened: &mut Opened, name: &Name, members: &[Name]) -> Result<(), Failure> {
    opened.vault.set_add(name, members)?;
    opened.changed()?;
    say_members(opened, name)
}

fn remove(opened: &mut Opened, name: &Name, members: &[Name]) -> Result<(), Failure> {
    if members.is_empty() {
        opened.vault.set_remove(name)?;
        opened.changed()?;
        return output::line(&format!("removed the set {name}; its members stay"));
    }
    opened.vault.set_reduce(name, members)?;
    opened.changed()?;
    say_members(opened, name)
}

fn say_members(opened: &Opened, name: &Name) -> Result<(), Failure> {
    let sets = opened.vault.sets()?;
    let members = sets.iter().find(|set| set.name == *name).map(|set| &set.members[..]);
    match members {
        None | Some([]) => output::line(&format!("{name} is empty")),
        Some(members) => output::line(&format!("{name} has {}", output::list(members))),
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a Name,
    members: &'a [Name],
}

fn list(opened: &Opened, json: bool) -> Result<(), Failure> {
    let sets = opened.vault.sets()?;
    if json {
        let each = sets.iter().map(|set| Shown { name: &set.name, members: &set.members });
        return output::json(&each.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["SET", "MEMBERS"]);
    for set in &sets {
        table.row(vec![set.name.to_string(), output::list(&set.members)]);
    }
    table.print()
}
