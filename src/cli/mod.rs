//! The command line: what was typed, and which command it means.
//!
//! Exit codes: 0 for success, 1 for failure, 64 for a wrong command line, config or policy. Secrets
//! never come by argument; they come from a prompt without echo, standard input, a private file, or
//! an environment variable that is named.

mod admin;
mod agent;
mod anomalies;
mod approvals;
mod audit;
mod ca;
mod config;
mod credential;
mod demo;
mod doctor;
mod env;
mod import;
mod init;
mod keys;
mod output;
mod policy;
mod remote;
mod run;
mod run_token;
mod scan;
mod serve;
mod set;
mod unlock;
mod value;
mod vault;
mod way;
mod workspace;
mod wrapped;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub(crate) use credential::{
    follow_certificate, kept_material, provider_slots, provider_to, rotated_material,
};
pub(crate) use policy::{explained, recorded};
pub(crate) use scan::looks_like_a_key;
use way::{Admin, Where};

use crate::app::{Exit, Failure, Opened, SHARED_PROXY};
use crate::catalog::{Catalog, Provider};
use crate::reference::Name;

/// A forward proxy that holds the keys, so that agents need not.
#[derive(Debug, Parser)]
#[command(
    name = "locum",
    version,
    max_term_width = 100,
    after_help = "Example:\n  locum init\n  locum credential add openai --provider openai < key.txt\n  locum agent add researcher\n  locum run --agent researcher -- python agent.py"
)]
struct Cli {
    /// The home directory [env: `LOCUM_HOME`; default: the platform's data directory]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,

    /// The workspace to work in [env: `LOCUM_WORKSPACE`; default: `default`]
    #[arg(long, global = true, value_name = "NAME")]
    workspace: Option<Name>,

    #[command(flatten)]
    admin: Admin,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a home: vault, CA, config, first policy
    Init(init::Args),
    /// Add, list, rotate and remove credentials
    #[command(
        subcommand,
        visible_alias = "credentials",
        after_help = "Example:\n  locum credential add openai --provider openai < key.txt\n  locum credential list\n  locum credential rotate openai < new-key.txt"
    )]
    Credential(credential::Command),
    /// Group credentials under one name
    #[command(
        subcommand,
        after_help = "Example:\n  locum set add salesforce-prod sf-oauth sf-token\n  locum set list"
    )]
    Set(set::Command),
    /// Set values that programs get by their environment: regions, addresses, names of models
    #[command(
        subcommand,
        visible_alias = "values",
        after_help = "Example:\n  locum value set region eu-west-1 --environment prod\n  locum value list"
    )]
    Value(value::Command),
    /// Add, list and revoke agents and their tokens
    #[command(
        subcommand,
        visible_alias = "agents",
        after_help = "Example:\n  locum agent add researcher\n  locum agent list\n  locum agent revoke researcher"
    )]
    Agent(agent::Command),
    /// Make a short-lived token for one run, which may do less than its agent
    RunToken(run_token::Args),
    /// Run the proxy
    Serve(serve::Args),
    /// Open the vault of a proxy that is locked
    Unlock(unlock::Args),
    /// Have the proxy forget every key and secret; it answers 503 until it is unlocked
    Lock(unlock::LockArgs),
    /// Run a program as an agent, through the proxy
    Run(run::Args),
    /// The private proxy that runs share
    #[command(name = SHARED_PROXY, hide = true)]
    SharedProxy,
    /// Print the environment of an agent, for a shell to read
    Env(env::Args),
    /// Check policies
    #[command(
        subcommand,
        after_help = "Example:\n  locum policy check\n  locum policy explain --agent researcher POST https://api.openai.com/v1/responses"
    )]
    Policy(policy::Command),
    /// Check locum.yaml
    #[command(subcommand, after_help = "Example:\n  locum config check")]
    Config(config::Command),
    /// Approve or refuse requests that a rule holds for a person
    #[command(
        subcommand,
        visible_alias = "approval",
        after_help = "Example:\n  locum approvals list\n  locum approvals approve ID"
    )]
    Approvals(approvals::Command),
    /// See what agents do that they usually do not
    #[command(subcommand, after_help = "Example:\n  locum anomalies list --since 7d")]
    Anomalies(anomalies::Command),
    /// Search and verify the audit log
    #[command(
        subcommand,
        after_help = "Example:\n  locum audit query --since 1h\n  locum audit verify"
    )]
    Audit(audit::Command),
    /// Show the CA that agents trust
    #[command(subcommand, after_help = "Example:\n  locum ca show\n  locum ca rotate")]
    Ca(ca::Command),
    /// Add, list and remove workspaces: each has its own agents, credentials and policies
    #[command(
        subcommand,
        visible_alias = "workspaces",
        after_help = "Example:\n  locum workspace add billing\n  locum workspace list"
    )]
    Workspace(workspace::Command),
    /// Say who may administer a workspace without the home's files
    #[command(
        subcommand,
        after_help = "Example:\n  locum admin add alice --role owner\n  locum admin list"
    )]
    Admin(admin::Command),
    /// Look after the vault
    #[command(subcommand, after_help = "Example:\n  locum vault status\n  locum vault backup FILE")]
    Vault(vault::Command),
    /// Check a home and its proxy, and say what to mend
    Doctor(doctor::Args),
    /// Find keys that lie about in a tree, and in git's history
    Scan(scan::Args),
    /// See all of it work on this machine, in a throw-away home
    Demo(demo::Args),
    /// The agent of the demo
    #[command(hide = true)]
    DemoAgent(demo::AgentArgs),
}

/// Parses the command line, does what it says, and reports.
#[must_use]
pub fn main() -> ExitCode {
    crate::app::tell_panics();
    let (cli, json) = match parsed() {
        Ok(parsed) => parsed,
        Err(error) => return mistyped(&error),
    };
    // Before any key is read, in every command: `run` holds them beside the program that it starts.
    // `serve` says what the platform does not give.
    let _gaps = crate::vault::harden_process();
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => {
            if json {
                output::report_json(&failure);
            } else {
                output::report(&failure);
            }
            ExitCode::from(failure.exit() as u8)
        }
    }
}

/// The command line, and whether a machine reads what comes of it.
fn parsed() -> Result<(Cli, bool), clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    let cli = Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut Cli::command()))?;
    Ok((cli, wants_json(&matches)))
}

/// Whether the command has `--json`, and was given it.
fn wants_json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, matches)) => wants_json(matches),
        None => matches!(matches.try_get_one::<bool>("json"), Ok(Some(true))),
    }
}

/// Says what is wrong with a command line, or what was asked of it: help, or the version.
fn mistyped(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody is left to tell when the terminal is gone.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    // What is no text is a word like any other.
    let words = || std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let keys: Vec<String> = words().skip(1).filter(|word| has_a_key(word)).collect();
    // It was not understood, so this is what it looks like. What is behind `--` is another program's.
    if words().take_while(|word| word != "--").any(|word| word == "--json") {
        let text = without(&keys, error.render().to_string());
        let (what, more) = text.trim_end().split_once("\n\n").unwrap_or((text.trim_end(), ""));
        let failure = Failure::usage(what.strip_prefix("error: ").unwrap_or(what));
        output::report_json(&failure.help(more));
    } else if !keys.is_empty() {
        output::note(without(&keys, error.render().to_string()).trim_end());
        output::note(
            "\na secret is never given on the command line, where others can read it: give it on standard input, \
             or with --from-env or --from-file; and take this one for seen",
        );
    } else {
        let _ = error.print();
    }
    ExitCode::from(Exit::Usage as u8)
}

/// Whether a word of the command line is a key, or is given one: `--secret=KEY`.
fn has_a_key(word: &str) -> bool {
    // No option and no name of anything is so long and begins as keys do.
    let value = word.split_once('=').map_or(word, |(_, value)| value);
    let known = |prefix: &String| value.len() >= 16 && value.starts_with(prefix.as_str());
    let mut prefixes = Catalog::embedded().iter().flat_map(Provider::prefixes);
    looks_like_a_key(word).is_some() || prefixes.any(known)
}

/// A text that is shown, without keys that were typed where none belongs.
fn without(keys: &[String], mut text: String) -> String {
    for key in keys {
        let value = key.split_once('=').map_or(key.as_str(), |(_, value)| value);
        text = text.replace(key, "...").replace(value, "...");
    }
    text
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let to = Where { home: cli.home, workspace: named_workspace(cli.workspace)?, admin: cli.admin };
    let locate = || to.home();
    let done = |result: Result<(), Failure>| result.map(|()| ExitCode::SUCCESS);
    match cli.command {
        Command::Init(args) => done(init::run(&locate()?, &args)),
        Command::Credential(command) => done(credential::run(&to, command)),
        Command::Set(command) => done(set::run(&to, command)),
        Command::Value(command) => done(value::run(&to, command)),
        Command::Agent(command) => done(agent::run(&to, command)),
        Command::RunToken(args) => done(run_token::run(&to, args)),
        Command::Serve(args) => done(serve::run(&locate()?, &args)),
        Command::Unlock(args) => done(unlock::unlock(&locate()?, &args)),
        Command::Lock(args) => done(unlock::lock(&locate()?, &args)),
        Command::Run(args) => run::run(&locate()?, &args),
        Command::SharedProxy => done(run::shared_proxy(&locate()?)),
        Command::Env(args) => done(env::run(&locate()?, &args)),
        Command::Policy(command) => policy::run(&to, command),
        Command::Config(command) => config::run(locate(), command),
        Command::Approvals(command) => done(approvals::run(&to, command)),
        Command::Anomalies(command) => done(anomalies::run(&to, command)),
        Command::Audit(command) => audit::run(&to, command),
        Command::Ca(command) => done(ca::run(&locate()?, command)),
        Command::Admin(command) => done(admin::run(&to, command)),
        Command::Workspace(command) => done(workspace::run(&locate()?, command)),
        Command::Vault(command) => done(vault::run(&locate()?, to.workspace.is_some(), command)),
        Command::Doctor(args) => doctor::run(&locate()?, &args),
        Command::Scan(args) => scan::run(&args, || Opened::open(&locate()?)),
        Command::Demo(args) => demo::run(&args),
        Command::DemoAgent(args) => demo::act(&args),
    }
}

/// The workspace that was named, by the flag or in the environment; none where neither does.
fn named_workspace(flag: Option<Name>) -> Result<Option<Name>, Failure> {
    const VARIABLE: &str = "LOCUM_WORKSPACE";
    if flag.is_some() {
        return Ok(flag);
    }
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let name = text.to_str().and_then(|text| text.parse().ok());
    name.map(Some).ok_or_else(|| {
        Failure::usage(format!("{VARIABLE} is no workspace's name"))
            .help("set it to one that `locum workspace list` shows, or unset it")
    })
}

/// The runtime of the commands that serve. Panics of a task end that task's connection only.
pub(in crate::cli) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        // Connections have runtimes of their own; this one keeps the home and waits for signals.
        .worker_threads(1)
        .enable_all()
        .thread_name("locum")
        .build()
        .map_err(|e| Failure::new(format!("the runtime cannot be started: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands of the tree, with its groups, whose help has no example. `help` repeats the tree.
    fn without_example(command: &clap::Command, missing: &mut Vec<String>) {
        if command.get_name() == "help" || command.is_hide_set() {
            return;
        }
        let example = command.get_after_help().is_some_and(|h| h.to_string().contains("Example"));
        if !example {
            missing.push(command.get_name().to_owned());
        }
        command.get_subcommands().for_each(|c| without_example(c, missing));
    }

    /// The leaves of the command tree without `--json`, by their whole names.
    fn without_json(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        if command.get_name() == "help" || command.is_hide_set() {
            return;
        }
        let has = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
        if !command.has_subcommands() && !has {
            found.push(path.trim_start().to_owned());
        }
        for below in command.get_subcommands() {
            without_json(below, &format!("{path} {}", below.get_name()), found);
        }
    }

    #[test]
    fn every_command_with_a_result_prints_it_as_json_where_that_is_asked_for() {
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        without_json(&command, "", &mut found);
        // Those whose output is another program's, or is JSON, or goes on for as long as they run.
        let without = [
            "agent revoke",
            "anomalies accept",
            "audit export",
            "config schema",
            "policy schema",
            "run",
            "serve",
        ];
        found.retain(|name| !without.contains(&&**name));
        assert!(found.is_empty(), "no --json: {found:?}");
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        let mut missing = Vec::new();
        without_example(&command, &mut missing);
        assert!(missing.is_empty(), "no example in: {missing:?}");
    }
}
