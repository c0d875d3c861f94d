//! `locum admin`: who may administer a workspace over the administration socket, without the home's files.

use std::time::Duration;

use serde_json::json;

use super::agent::from_now;
use super::output::{self, Table, time_or_dash};
use crate::app::{Failure, Home, Opened};
use crate::document::parse_duration;
use crate::reference::Name;
use crate::vault::Role;

/// Subcommands of `locum admin`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add an administrator of the workspace, and print the token once
    #[command(
        after_help = "Example:\n  locum admin add alice --role owner\n  locum --workspace team-b admin add ci --role member --expires 90d\n\nViewers see, members also use and approve, owners also manage. The token is for `admin.listen` of locum.yaml; it opens no proxy."
    )]
    Add {
        /// The administrator's name
        name: Name,
        /// What it may do
        #[arg(long, value_enum)]
        role: RoleWord,
        /// When the token ends: 12h, 30d. Without it, when it is revoked
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        expires: Option<Duration>,
        /// Print name, role, `token_id` and token as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the administrators of the workspace
    #[command(after_help = "Example:\n  locum admin list")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke an administrator of the workspace
    #[command(after_help = "Example:\n  locum admin revoke alice")]
    Revoke {
        /// The administrator's name
        name: Name,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum RoleWord {
    /// Sees, and does not use
    Viewer,
    /// Uses, and approves what others asked for
    Member,
    /// Manages
    Owner,
}

pub(super) fn run(home: &Home, command: Command) -> Result<(), Failure> {
    let mut opened = Opened::open(home)?;
    match command {
        Command::Add { name, role, expires, json } => {
            let role = match role {
                RoleWord::Viewer => Role::Viewer,
                RoleWord::Member => Role::Member,
                RoleWord::Owner => Role::Owner,
            };
            let expires = expires.map(from_now);
            let (id, token) = opened.vault.administrator_add(&name, role, expires)?;
            opened.changed()?;
            if json {
                return output::json(&json!({
                    "name": name, "role": role, "token_id": id, "token": token.as_str(),
                }));
            }
            output::line(&token)?;
            let (role, workspace) = (role.as_str(), opened.vault.workspace());
            output::note(&format!(
                "This is the token {id} of {name}, {role} of {workspace}; it is not shown again."
            ));
            Ok(())
        }
        Command::List { json } => {
            let all = opened.vault.administrators()?;
            if json {
                let shown = all.iter().map(|one| {
                    json!({
                        "name": one.name, "role": one.role, "token_id": one.token_id,
                        "created": one.created, "expires": one.expires, "revoked": one.revoked,
                    })
                });
                return output::json(&shown.collect::<Vec<_>>());
            }
            let mut table = Table::new(&["NAME", "ROLE", "TOKEN", "CREATED", "EXPIRES", "REVOKED"]);
            for one in &all {
                table.row(vec![
                    one.name.to_string(),
                    one.role.as_str().to_owned(),
                    one.token_id.clone(),
                    output::time(one.created),
                    time_or_dash(one.expires),
                    time_or_dash(one.revoked),
                ]);
            }
            table.print()
        }
        Command::Revoke { name } => {
            opened.vault.administrator_revoke(&name)?;
            opened.changed()?;
            output::line(&format!("revoked {name}"))
        }
    }
}
