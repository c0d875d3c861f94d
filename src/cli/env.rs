//! `locum env`: the environment of an agent, as lines for a shell.

use std::net::SocketAddr;
use std::time::Duration;

use super::keys::{Keep, real_keys, warn_withheld};
use super::output;
use crate::agent::{Context, Label, UserName};
use crate::app::{
    Failure, Home, Opened, SessionOptions, mint_session, mint_session_in, plan_session,
};
use crate::config::Listen;
use crate::document::parse_duration;
use crate::environment::{Shell, shell_exports};
use crate::reference::Name;

/// Arguments of `locum env`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  eval \"$(locum env --agent researcher)\"\n  locum env --agent researcher --shell fish | source"
)]
pub(super) struct Args {
    /// The agent
    #[arg(long, value_name = "NAME")]
    agent: Name,
    /// Names the run in the audit log
    #[arg(long, value_name = "ID")]
    run: Option<Label>,
    /// The person on whose behalf it runs
    #[arg(long, value_name = "NAME")]
    user: Option<Label>,
    /// The environment whose values it gets (`locum value`), and no other's; by default those of none
    #[arg(long, value_name = "NAME")]
    environment: Option<Name>,
    /// When the token ends
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "24h")]
    expires: Duration,
    /// The shell that reads it
    #[arg(long, value_enum, default_value = "sh")]
    shell: ShellName,
    #[command(flatten)]
    keep: Keep,
    /// Print variables to set and to remove as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ShellName {
    /// POSIX shells: sh, bash, zsh
    Sh,
    /// fish
    Fish,
    /// PowerShell
    Powershell,
}

pub(super) fn run(home: &Home, args: &Args) -> Result<(), Failure> {
    let mut opened = Opened::open(home)?;
    let proxy = proxy_address(&opened)?;
    let settings = super::value::settings(&opened, args.environment.as_ref())?;
    let context = Context { run: args.run.clone(), node: None, user: args.user.clone() };
    let user = UserName { agent: args.agent.clone(), context };
    let token = if let Some(environment) = &args.environment {
        mint_session_in(&opened, &user, environment, args.expires)?.0
    } else {
        let expires = Some(super::agent::from_now(args.expires));
        mint_session(&mut opened, &args.agent, expires, "env")?
    };
    let bundle = opened.write_certificates()?;
    let credentials = opened.vault.credentials()?;
    let state = home.clients().join("env");
    let real_keys = real_keys(&opened, &args.keep)?;
    let options =
        SessionOptions { user: &user, proxy, open_port: None, state, settings, real_keys };
    let session = plan_session(&credentials, home, bundle, &token, &options)?;
    session.write_files()?;
    warn_withheld(&session.withheld);
    if args.json {
        let set: std::collections::BTreeMap<&str, String> = session
            .plan
            .set
            .iter()
            .map(|(k, v)| (k.as_str(), v.to_string_lossy().into_owned()))
            .collect();
        return output::json(&serde_json::json!({
            "token_id": session.token_id, "set": set, "unset": session.plan.remove,
        }));
    }
    let shell = match args.shell {
        ShellName::Sh => Shell::Sh,
        ShellName::Fish => Shell::Fish,
        ShellName::Powershell => Shell::PowerShell,
    };
    let lines = shell_exports(&session.plan, shell).map_err(|e| {
        Failure::new(format!("the environment cannot be written for this shell: {e}"))
    })?;
    output::line(lines.trim_end())
}

/// Where the proxy listens, or will once it is started.
fn proxy_address(opened: &Opened) -> Result<SocketAddr, Failure> {
    if let Some(serving) = opened.running() {
        return serving.clear();
    }
    let mut clear = opened.config.proxy.listen.iter().filter(|listen| listen.tls.is_none());
    let configured = clear.find_map(Listen::address).filter(|a| a.port() != 0);
    let address = configured.ok_or_else(|| {
        Failure::usage("no proxy runs, and no port in the clear is known before")
            .help("start it with `locum serve`")
    })?;
    output::note(&format!("locum: no proxy runs on {address} yet; start it with `locum serve`"));
    Ok(address)
}
