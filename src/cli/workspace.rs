//! `locum workspace`: units of isolation in one home, each with its own agents, credentials, policies and
//! data key.

use std::io::IsTerminal as _;

use serde_json::json;

use super::output::{self, Table, counted};
use crate::app::{Failure, Home, Opened, make_workspace, policy_files, remove_workspace_files};
use crate::reference::Name;
use crate::vault::Contents;

/// Subcommands of `locum workspace`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a workspace, with a data key and a first policy of its own
    #[command(
        after_help = "Example:\n  locum workspace add team-b\n  locum --workspace team-b agent add researcher\n  locum --workspace team-b credential add openai --provider openai < key.txt\n\nA proxy that runs serves it within a second. Its policies stand in workspaces/NAME/policies; those in policies/org bound them."
    )]
    Add {
        /// The workspace's name
        name: Name,
        /// Begin with a policy that tunnels nothing
        #[arg(long, conflicts_with = "with_policies")]
        strict: bool,
        /// Take the policies that stand in its directory already
        #[arg(long)]
        with_policies: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List workspaces, and what is in them
    #[command(after_help = "Example:\n  locum workspace list")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a workspace with all that is in it: its data key goes, and nothing of it opens again
    #[command(
        after_help = "Example:\n  locum workspace remove team-b\n  locum workspace remove team-b --yes\n\nWithout --yes, one that is not empty stays, and what would go is listed."
    )]
    Remove {
        /// The workspace's name
        name: Name,
        /// Remove what is in it too
        #[arg(long)]
        yes: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(home: &Home, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add { name, strict, with_policies, json } => {
            add(home, &name, (strict, with_policies), json)
        }
        Command::List { json } => list(home, json),
        Command::Remove { name, yes, json } => remove(home, &name, yes, json),
    }
}

fn add(
    home: &Home,
    name: &Name,
    (strict, with_policies): (bool, bool),
    json: bool,
) -> Result<(), Failure> {
    let mut opened = Opened::open(home)?;
    if opened.vault.workspaces()?.iter().any(|one| one.name == *name) {
        return Err(Failure::usage(format!("there is a workspace `{name}` already")));
    }
    let own = home.in_workspace(name);
    // Its files come first: from the moment that it is in the vault, it is served by them.
    make_workspace(&own, strict, with_policies)?;
    opened.vault.workspace_add(name)?;
    opened.changed()?;
    let policies = own.policies();
    if json {
        return output::json(&json!({ "workspace": name, "policies": policies }));
    }
    output::line(&format!("added {name}; its policies are in {}", policies.display()))
}

fn list(home: &Home, json: bool) -> Result<(), Failure> {
    let all = Opened::open(home)?.vault.workspaces()?;
    if json {
        let shown = all.iter().map(|one| {
            let Contents { credentials, sets, agents, tokens, values, administrators } =
                one.contents;
            json!({
                "workspace": one.name, "created": one.created, "credentials": credentials,
                "sets": sets, "agents": agents, "tokens": tokens, "values": values,
                "administrators": administrators,
                "policies": home.in_workspace(&one.name).policies(),
            })
        });
        return output::json(&shown.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["WORKSPACE", "CREDENTIALS", "SETS", "AGENTS", "TOKENS"]);
    for one in &all {
        let Contents { credentials, sets, agents, tokens, .. } = one.contents;
        let counts = [credentials, sets, agents, tokens].map(|count| count.to_string());
        table.row([one.name.to_string()].into_iter().chain(counts).collect());
    }
    table.print()
}

fn remove(home: &Home, name: &Name, yes: bool, json: bool) -> Result<(), Failure> {
    let mut opened = Opened::open(&home.in_workspace(&crate::agent::default_workspace()))?;
    let own = home.in_workspace(name);
    if *name == crate::agent::default_workspace() {
        return Err(Failure::usage("the workspace `default` cannot be removed: every home has it")
            .help("remove its credentials and agents one by one, or the home itself"));
    }
    let known = opened.vault.workspaces()?.into_iter().find(|one| one.name == *name);
    let files = policy_files(&own)?;
    let contents = match &known {
        Some(known) => known.contents,
        // What a removal that was cut short has left.
        None if yes && !files.is_empty() => Contents::default(),
        None => {
            return Err(Failure::usage(format!("there is no workspace `{name}`"))
                .help("`locum workspace list` shows those that there are"));
        }
    };
    let what = what_goes(contents, &files);
    if !yes && (!contents.is_empty() || files.iter().any(|file| !file.as_made)) {
        return Err(Failure::usage(format!("the workspace `{name}` is not empty: {what}"))
            .help("all of it goes with --yes; nothing brings it back but a backup"));
    }
    if known.is_some() {
        opened.vault.workspace_remove(name, yes)?;
        opened.changed()?;
    }
    // After the vault: what is cut short here leaves files that nobody is served by.
    remove_workspace_files(&own)?;
    if json {
        let Contents { credentials, sets, agents, tokens, values, administrators } = contents;
        return output::json(&json!({
            "workspace": name, "credentials": credentials, "sets": sets, "agents": agents,
            "tokens": tokens, "values": values, "administrators": administrators,
            "policy_files": files.len(),
        }));
    }
    output::line(&format!("removed {name}: {what}"))?;
    if std::io::stderr().is_terminal() {
        output::note("its records stay in the audit log");
    }
    Ok(())
}

fn what_goes(contents: Contents, files: &[crate::app::PolicyFile]) -> String {
    let Contents { credentials, sets, agents, tokens, values, administrators } = contents;
    let counts = [
        (credentials, "credential"),
        (sets, "set"),
        (agents, "agent"),
        (tokens, "live token"),
        (values, "value"),
        (administrators, "administrator"),
        (files.len() as u64, "policy file"),
    ];
    let there = counts.into_iter().filter(|(count, _)| *count > 0);
    let there: Vec<String> = there.map(|(count, what)| counted(count, what)).collect();
    if there.is_empty() { "nothing was in it".to_owned() } else { there.join(", ") }
}
