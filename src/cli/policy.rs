//! `locum policy`: rules, checked before they are in force.

mod cases;
mod check;
mod diff;
mod explain;
mod learn;
mod put;

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{self, Json};
use super::way::Where;
use crate::agent::Labels;
pub(crate) use explain::{explained, recorded};

use crate::app::{Failure, Home, Opened, policies_of, read_policies};
use crate::config::{self, Config};
use crate::document::Report;
use crate::policy::SCHEMA;
use crate::reference::Name;
use crate::vault::{KeySource, Vault};
use check::{Beside, Form, Known};

/// Subcommands of `locum policy`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Read and compile policies, and report every mistake with its place
    #[command(
        after_help = "Example:\n  locum policy check\n  locum policy check policies/ --json   # in CI, without a home\n\nExit code 64 if there is a mistake. Warnings are about what is none and probably not meant; with\n--deny-warnings they make exit code 1."
    )]
    Check {
        /// Files and directories, checked as one policy [default: the home's policies]
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
        /// Print the result as SARIF 2.1.0, which code hosts show beside the lines
        #[arg(long, conflicts_with = "json")]
        sarif: bool,
        /// Fail on warnings, too
        #[arg(long)]
        deny_warnings: bool,
    },
    /// Ask the policies what their own tests ask, and say which answers are not as expected
    #[command(
        after_help = "Example:\n  locum policy test policies/\n\nTests stand beside the rules, under `tests`. Exit code 1 if one fails or there is none, 64 if a file
has a mistake."
    )]
    Test {
        /// Files and directories, as one policy [default: the home's policies]
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain a decision: which rules match, which do not, and what would have to change
    #[command(
        after_help = "Example:\n  locum policy explain --agent researcher POST https://api.openai.com/v1/chat/completions --use openai\n  locum policy explain --request 019a3f0c5e7a…   # of the audit log\n\nExit code 0 for what is allowed, 1 for what is refused."
    )]
    Explain(Box<explain::Args>),
    /// Propose rules that would have allowed what the audit log has: the least that do
    #[command(
        after_help = "Example:\n  locum policy learn --since 7d > /tmp/learned.yaml\n  locum policy learn --agent researcher --json\n\nThe result is a policy for a person to read: it says what was done, not what should be."
    )]
    Learn(learn::Args),
    /// List the policy files that count in the workspace
    #[command(
        after_help = "Example:\n  locum policy list\n  locum policy list --json   # with their texts"
    )]
    List {
        /// Print JSON, with the text of each
        #[arg(long)]
        json: bool,
    },
    /// Put a policy file in force, if all are sound with it
    #[command(
        after_help = "Example:\n  locum policy put team.yaml\n  locum --admin-url https://locum.internal:3130 policy put ci/team.yaml\n\nThe file keeps its name. With mistakes, or above what the organisation lets be written, nothing changes."
    )]
    Put {
        /// The file, named NAME.yaml
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        json: Json,
    },
    /// Take a policy file away, if the others are sound without it
    #[command(after_help = "Example:\n  locum policy remove team.yaml")]
    Remove {
        /// The file's name
        #[arg(value_name = "NAME.yaml")]
        file: String,
        #[command(flatten)]
        json: Json,
    },
    /// Print a JSON Schema of the policy document, by which editors complete and check
    #[command(
        after_help = "Example:\n  locum policy schema > policies/schema.json\n\nand as the first line of each file beside it:\n  # yaml-language-server: $schema=schema.json"
    )]
    Schema,
    /// Say what a change adds and takes away: which agent, with which credential, where and how
    #[command(
        after_help = "Example:\n  git worktree add /tmp/before main\n  locum policy diff /tmp/before/policies policies\n\nExit code 0 whether anything changes or not; 64 if a file has a mistake."
    )]
    Diff {
        /// A file or directory
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// Another
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Takes the home as it was found or not: with paths given, none is needed.
pub(super) fn run(to: &Where, command: Command) -> Result<ExitCode, Failure> {
    let home = to.home();
    let (paths, form, strict) = match command {
        Command::Check { paths, json, sarif, deny_warnings } => {
            let form = match (json, sarif) {
                (true, _) => Form::Json,
                (_, true) => Form::Sarif,
                _ => Form::Text,
            };
            (paths, form, deny_warnings)
        }
        Command::Test { paths, json } if paths.is_empty() => {
            return cases::run(&policies_of(&home?)?, json);
        }
        Command::Test { paths, json } => return cases::run(&paths, json),
        Command::Explain(args) if to.is_there() && args.is_of_the_home() => {
            return explain::run_there(to, &args);
        }
        Command::Explain(args) => return explain::run(home, &args),
        Command::Learn(args) => return learn::run(to, &args),
        Command::Schema => {
            output::line(SCHEMA.trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Diff { old, new, json } => return diff::run(&old, &new, json),
        Command::List { json } => return put::list(to, json),
        Command::Put { file, json } => return put::put(to, &file, json),
        Command::Remove { file, json } => return put::remove(to, file, json),
    };
    if !paths.is_empty() {
        return check::run(read_policies(&paths), form, strict, Beside::default);
    }
    let home = home?;
    let policies = home.policies();
    if policies.symlink_metadata().is_err() {
        home.require()?;
    }
    check::run(read_policies(&policies_of(&home)?), form, strict, || beside(&home))
}

fn rejected(files: usize, report: &Report, json: bool) -> Result<ExitCode, Failure> {
    check::rejected(files, report, if json { Form::Json } else { Form::Text })
}

/// What the home's vault has. One that cannot be opened without asking for a passphrase is not asked: a
/// check of files should not hang on a person.
fn beside(home: &Home) -> Beside {
    if !home.exists() || asks(home) {
        return Beside::default();
    }
    match Opened::open(home).and_then(|opened| Known::of(&opened)) {
        Ok(known) => Beside { warnings: Vec::new(), known: Some(known) },
        Err(failure) => {
            let warning = format!("the names could not be compared with the vault: {failure}");
            Beside { warnings: vec![warning], known: None }
        }
    }
}

fn asks(home: &Home) -> bool {
    let Ok(config) = Config::load(&home.config(), home.path()) else { return false };
    let by_passphrase =
        matches!(Vault::key_source(&config.vault.store), Ok(KeySource::Passphrase(_)));
    let prompt = matches!(
        config.vault.key,
        config::KeySource::File(_) | config::KeySource::Passphrase(config::Passphrase::Prompt)
    );
    by_passphrase && prompt
}

impl Known {
    fn of(opened: &Opened) -> Result<Self, Failure> {
        let agents = opened.vault.agents()?.into_iter().filter(|agent| agent.revoked.is_none());
        let mut agents: Vec<(Name, Labels)> =
            agents.map(|agent| (agent.name, agent.labels)).collect();
        agents.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let credentials = opened.vault.credentials()?.into_iter().map(|c| c.name);
        let sets = opened.vault.sets()?.into_iter().map(|s| s.name);
        let uses = credentials.chain(sets).collect();
        Ok(Self { index: opened.vault.snapshot()?.credentials, agents, uses })
    }
}
