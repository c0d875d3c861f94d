//! `locum admin`: who may administer a workspace over the administration socket, without the home's files.

use std::time::Duration;

use super::output::{self, Json, Table, time_or_dash};
use super::way::Where;
use crate::admin::orders::administrators::{
    AddAdministrator, AddedAdministrator, Administrator, ListAdministrators, RevokeAdministrator,
};
use crate::app::Failure;
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
        #[command(flatten)]
        json: Json,
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

pub(super) fn run(to: &Where, command: Command) -> Result<(), Failure> {
    let mut way = to.open()?;
    match command {
        Command::Add { name, role, expires, json } => {
            let role = match role {
                RoleWord::Viewer => Role::Viewer,
                RoleWord::Member => Role::Member,
                RoleWord::Owner => Role::Owner,
            };
            let ttl = expires.map(|time| time.as_secs());
            let added = way.order(AddAdministrator { name, role, ttl })?;
            let told = if json {
                output::json_for_good(&added)
            } else {
                output::line_for_good(&added.token.0)
            };
            if let Err(failure) = told {
                // Nobody has read the token, so nobody could use it.
                let name = added.name;
                let revoked = way.order(RevokeAdministrator { name: name.clone() }).is_ok();
                return Err(failure.help(if revoked {
                    format!("{name} was revoked, for nobody has read the token; add it again")
                } else {
                    format!(
                        "nobody has read the token: `locum admin revoke {name}`, and add it again"
                    )
                }));
            }
            if json {
                return Ok(());
            }
            let AddedAdministrator { name, role, workspace, token_id, .. } = &added;
            output::note(&format!(
                "This is the token {token_id} of {name}, {} of {workspace}; it is not shown again.",
                role.as_str()
            ));
            Ok(())
        }
        Command::List { json } => list(&way.order(ListAdministrators)?, json),
        Command::Revoke { name, json } => {
            let revoked = way.order(RevokeAdministrator { name })?;
            json.tell(&revoked, || output::line(&format!("revoked {}", revoked.name)))
        }
    }
}

fn list(all: &[Administrator], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&all);
    }
    let mut table = Table::new(&["NAME", "ROLE", "TOKEN", "CREATED", "EXPIRES", "REVOKED"]);
    for one in all {
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
