//! `locum policy`: rules, checked before they are in force.

mod cases;
mod explain;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::output::{self, counted};
use crate::app::{Exit, Failure, Home, Opened, ReadPolicy, read_policy};
use crate::config::{self, Config};
use crate::document::{Report, suggest};
use crate::policy::Policy;
use crate::vault::{KeySource, Vault};

/// Subcommands of `locum policy`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Read and compile policies, and report every mistake with its place
    #[command(
        after_help = "Example:\n  locum policy check\n  locum policy check policies/ --json   # in CI, without a home\n\nExit code 64 if there is a mistake. Warnings are about names that the vault does not have."
    )]
    Check {
        /// Files and directories, checked as one policy [default: the home's policies]
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the policies what their own tests ask, and say which answers are not as expected
    #[command(
        after_help = "Example:\n  locum policy test policies/\n\nTests stand beside the rules, under `tests`. Exit code 1 if one fails, 64 if a file has a mistake."
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
}

/// Takes the home as it was found or not: with paths given, none is needed.
pub(super) fn run(home: Result<Home, Failure>, command: Command) -> Result<ExitCode, Failure> {
    let (paths, json) = match command {
        Command::Check { paths, json } => (paths, json),
        Command::Test { paths, json } if paths.is_empty() => {
            return cases::run(&[home?.policies()], json);
        }
        Command::Test { paths, json } => return cases::run(&paths, json),
        Command::Explain(args) => return explain::run(home, &args),
    };
    if !paths.is_empty() {
        return check(&paths, json, |_| Vec::new());
    }
    let home = home?;
    let policies = home.policies();
    if policies.symlink_metadata().is_err() {
        home.require()?;
    }
    check(&[policies], json, |policy| compare(policy, &home))
}

fn check(
    paths: &[PathBuf],
    json: bool,
    lint: impl FnOnce(&Policy) -> Vec<String>,
) -> Result<ExitCode, Failure> {
    let ReadPolicy { files, policy } = read_policy(paths);
    match policy {
        Ok(policy) => {
            let mut warnings = lint(&policy);
            if policy.is_empty() {
                warnings.push("there is no rule, so nothing is allowed".to_owned());
            }
            accepted(files, &policy, &warnings, json)
        }
        Err(report) => rejected(files, &report, json),
    }
}

fn accepted(
    files: usize,
    policy: &Policy,
    warnings: &[String],
    json: bool,
) -> Result<ExitCode, Failure> {
    let (rules, digest) = (policy.len(), policy.digest());
    if json {
        output::json(&json!({
            "ok": true, "files": files, "rules": rules, "digest": digest,
            "problems": [], "warnings": warnings,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for warning in warnings {
        output::note(&format!("warning: {warning}"));
    }
    let (files, rules) = (counted(files as u64, "file"), counted(rules as u64, "rule"));
    output::line(&format!("no mistakes in {files} with {rules} (digest {digest})"))?;
    Ok(ExitCode::SUCCESS)
}

fn rejected(files: usize, report: &Report, json: bool) -> Result<ExitCode, Failure> {
    if json {
        let mut value = report.to_json();
        value["ok"] = json!(false);
        value["files"] = json!(files);
        value["rules"] = json!(null);
        value["digest"] = json!(null);
        value["warnings"] = json!([]);
        output::json(&value)?;
    } else {
        output::note(&report.to_string());
        output::note(&format!("\n{}", counted(report.len() as u64, "mistake")));
    }
    Ok(ExitCode::from(Exit::Usage as u8))
}

/// What the rules name and the vault does not have. A vault that cannot be opened without asking
/// for a passphrase is not asked: a check of files should not hang on a person.
fn compare(policy: &Policy, home: &Home) -> Vec<String> {
    if !home.exists() || asks(home) {
        return Vec::new();
    }
    let known = Opened::open(home).and_then(|opened| Known::of(&opened));
    match known {
        Ok(known) => known.missing(policy),
        Err(failure) => vec![format!("the names could not be compared with the vault: {failure}")],
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

/// The names that a vault has.
struct Known {
    agents: HashSet<String>,
    uses: HashSet<String>,
}

impl Known {
    fn of(opened: &Opened) -> Result<Self, Failure> {
        let agents = opened.vault.agents()?.into_iter().filter(|a| a.revoked.is_none());
        let credentials = opened.vault.credentials()?.into_iter().map(|c| c.name);
        let sets = opened.vault.sets()?.into_iter().map(|s| s.name);
        Ok(Self {
            agents: agents.map(|a| a.name.to_string()).collect(),
            uses: credentials.chain(sets).map(|name| name.to_string()).collect(),
        })
    }

    fn missing(&self, policy: &Policy) -> Vec<String> {
        let mut warnings = Vec::new();
        for names in policy.names() {
            let mut look = |kind: &str, name: &str, known: &HashSet<String>| {
                if !known.contains(name) {
                    warnings.push(unknown(names.rule, kind, name, known));
                }
            };
            names.agents.iter().for_each(|name| look("live agent", name.as_str(), &self.agents));
            let kind = "credential or set";
            names.uses.iter().for_each(|name| look(kind, name.as_str(), &self.uses));
        }
        warnings
    }
}

fn unknown(rule: &str, kind: &str, name: &str, known: &HashSet<String>) -> String {
    let rule = output::plain(rule);
    let mut words: Vec<&str> = known.iter().map(String::as_str).collect();
    words.sort_unstable();
    let near = suggest(name, words);
    let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    format!("rule `{rule}`: the vault has no {kind} `{name}`{near}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Source;
    use crate::policy;

    fn compile(text: &str) -> Policy {
        policy::compile(vec![Source::new("p.yaml", text)]).unwrap()
    }

    #[test]
    fn names_that_the_vault_lacks_are_warned_of_with_the_nearest() {
        let policy = compile(
            "version: 1\ngroups: {all: [writer, reader]}\nrules:\n  - {name: r, agents: [all], use: [opnai]}\n  - {name: s, agents: ['*'], use: ['*']}\n",
        );
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let known = Known { agents: set(&["reader"]), uses: set(&["openai"]) };
        assert_eq!(
            known.missing(&policy),
            [
                "rule `r`: the vault has no live agent `writer`",
                "rule `r`: the vault has no credential or set `opnai`; did you mean `openai`?",
            ]
        );
    }
}
