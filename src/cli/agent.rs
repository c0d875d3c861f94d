//! `locum agent`: who may use the proxy.

mod certificate;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::output::{self, Table, time_or_dash};
use crate::agent::{Label, LabelName, LabelPair, Labels};
use crate::app::{Failure, Home, Opened};
use crate::document::parse_duration;
use crate::reference::Name;
use crate::token::run::Which;
use crate::vault::{AgentInfo, TokenInfo};

/// Subcommands of `locum agent`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add an agent, or a further token of one, and print the token once
    #[command(
        after_help = "Example:\n  locum agent add researcher\n  locum agent add ci --expires 30d --json"
    )]
    Add {
        /// The agent's name
        name: Name,
        /// When the token ends: 12h, 30d. Without it, when it is revoked
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        expires: Option<Duration>,
        /// What the token is for, as lists show it
        #[arg(long)]
        note: Option<String>,
        /// A label that rules can ask for, as `NAME=VALUE`; may be given more than once
        #[arg(long = "label", value_name = "LABEL")]
        labels: Vec<LabelPair>,
        /// Make no token: the agent shows who it is in another way that locum.yaml names
        #[arg(long, conflicts_with_all = ["expires", "note"])]
        no_token: bool,
        /// Print agent, `token_id` and token as JSON
        #[arg(long)]
        json: bool,
    },
    /// Give an agent labels, or take them from it
    #[command(
        after_help = "Example:\n  locum agent label researcher team=ml env=prod\n  locum agent label researcher --remove env\n\nRules choose agents by labels: `agents: [{labels: {team: ml}}]`. A change acts within a second."
    )]
    Label {
        /// The agent's name
        name: Name,
        /// `NAME=VALUE`: what it is labelled with from now on
        #[arg(value_name = "LABEL", required_unless_present = "remove")]
        labels: Vec<LabelPair>,
        /// The name of a label to take away; may be given more than once
        #[arg(long, value_name = "NAME")]
        remove: Vec<LabelName>,
        /// Print agent and labels as JSON
        #[arg(long)]
        json: bool,
    },
    /// Issue a certificate by which an agent shows who it is
    Certificate(certificate::Args),
    /// List agents and their tokens
    #[command(after_help = "Example:\n  locum agent list")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke an agent with all its tokens, or one token, or the run tokens of one run
    #[command(
        after_help = "Example:\n  locum agent revoke researcher\n  locum agent revoke researcher --token k3v9x2qa\n  locum agent revoke researcher --run 42"
    )]
    Revoke {
        /// The agent's name
        name: Name,
        /// Only the token of this id
        #[arg(long, value_name = "ID", group = "one")]
        token: Option<String>,
        /// Only the run tokens of this run that were made until now
        #[arg(long, value_name = "ID", group = "one")]
        run: Option<Label>,
        /// Only the run token of this id
        #[arg(long, value_name = "ID", group = "one")]
        run_token: Option<String>,
        /// Only the certificate of this serial number, whoever issued it
        #[arg(long, value_name = "SERIAL", group = "one", value_parser = serial)]
        certificate: Option<String>,
        /// Only the token of an issuer (JWT) of this id: its `token_id` in the records
        #[arg(long, value_name = "ID", group = "one")]
        jwt: Option<String>,
    },
}

pub(super) fn run(home: &Home, command: Command) -> Result<(), Failure> {
    let mut opened = Opened::open(home)?;
    match command {
        Command::Add { name, labels, no_token: true, json, .. } => {
            add_alone(&mut opened, &name, &labels, json)
        }
        Command::Add { name, expires, note, labels, json, .. } => {
            let note = note.as_deref();
            add(&mut opened, &name, (expires, note, &labels), json)
        }
        Command::Label { name, labels, remove, json } => {
            label(&mut opened, &name, (&labels, &remove), json)
        }
        Command::List { json } => list(&opened, json),
        Command::Revoke { name, run: Some(run), .. } => {
            end_runs(&mut opened, &name, Which::Run(run.as_str().to_owned()))
        }
        Command::Revoke { name, run_token: Some(id), .. } => {
            end_runs(&mut opened, &name, Which::Token(id))
        }
        Command::Revoke { name, certificate: Some(serial), .. } => {
            end_runs(&mut opened, &name, Which::Proof(format!("serial:{serial}")))
        }
        Command::Revoke { name, jwt: Some(id), .. } => {
            end_runs(&mut opened, &name, Which::Proof(id))
        }
        Command::Revoke { name, token, .. } => revoke(&mut opened, &name, token.as_deref()),
        Command::Certificate(args) => certificate::run(&mut opened, &args),
    }
}

/// A serial number in hex, as records have it, or with the colons and capitals of other tools.
fn serial(text: &str) -> Result<String, String> {
    let digits: String = text.trim().to_ascii_lowercase().replace(':', "");
    let sound = (1..=42).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !sound {
        return Err("a serial number is hex: 5f0c… or 5F:0C:…".into());
    }
    // In a certificate it is a positive number in whole bytes, and so it stands in records.
    let whole = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
    Ok(if whole.as_bytes()[0] >= b'8' { format!("00{whole}") } else { whole })
}

fn add(
    opened: &mut Opened,
    name: &Name,
    (expires, note, labels): (Option<Duration>, Option<&str>, &[LabelPair]),
    json: bool,
) -> Result<(), Failure> {
    let labels = pairs(labels)?;
    let token = opened.vault.agent_admit(name, expires.map(from_now), note)?;
    // Nobody has the token yet: no request comes before the labels.
    if !labels.is_empty() {
        opened.vault.agent_label(name, &labels, &[])?;
    }
    opened.changed()?;
    let id = token.id().to_owned();
    let text = token.into_text();
    if json {
        return output::json(&serde_json::json!({
            "agent": name, "token_id": id, "token": text.as_str(),
        }));
    }
    output::line(&text)?;
    output::note(&format!(
        "This is {name}'s token {id}; it is not shown again.\nSet HTTPS_PROXY=http://{name}:TOKEN@HOST:PORT, or use `locum run --agent {name}`."
    ));
    Ok(())
}

/// An agent without a token.
fn add_alone(
    opened: &mut Opened,
    name: &Name,
    labels: &[LabelPair],
    json: bool,
) -> Result<(), Failure> {
    let labels = pairs(labels)?;
    opened.vault.agent_add(name)?;
    if !labels.is_empty() {
        opened.vault.agent_label(name, &labels, &[])?;
    }
    opened.changed()?;
    if json {
        return output::json(&serde_json::json!({ "agent": name }));
    }
    output::note(&format!(
        "added {name}, without a token; `identity` in locum.yaml says by what it is known"
    ));
    Ok(())
}

/// Labels of the command line, each name once.
fn pairs(labels: &[LabelPair]) -> Result<Vec<(LabelName, Label)>, Failure> {
    let pairs = labels.iter().map(|LabelPair(name, value)| (name.clone(), value.clone()));
    let pairs: Vec<_> = pairs.collect();
    Labels::new(pairs.clone()).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(pairs)
}

fn label(
    opened: &mut Opened,
    name: &Name,
    (labels, remove): (&[LabelPair], &[LabelName]),
    json: bool,
) -> Result<(), Failure> {
    let labels = opened.vault.agent_label(name, &pairs(labels)?, remove)?;
    opened.changed()?;
    if json {
        return output::json(&serde_json::json!({ "agent": name, "labels": labels }));
    }
    if labels.is_empty() {
        return output::line(&format!("{name} has no labels"));
    }
    output::line(&format!("{name}: {labels}"))
}

/// The Unix time that far from now, in seconds.
pub(super) fn from_now(duration: Duration) -> i64 {
    let then = SystemTime::now() + duration;
    let since = then.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[derive(Serialize)]
struct Agent<'a> {
    agent: &'a Name,
    labels: &'a Labels,
    created: i64,
    revoked: Option<i64>,
    tokens: Vec<Token<'a>>,
}

#[derive(Serialize)]
struct Token<'a> {
    token_id: &'a str,
    created: i64,
    expires: Option<i64>,
    revoked: Option<i64>,
    note: Option<&'a str>,
}

fn list(opened: &Opened, json: bool) -> Result<(), Failure> {
    let agents = opened.vault.agents()?;
    if json {
        return output::json(&agents.iter().map(Agent::from).collect::<Vec<_>>());
    }
    let mut table =
        Table::new(&["AGENT", "LABELS", "TOKEN", "CREATED", "EXPIRES", "REVOKED", "NOTE"]);
    for agent in &agents {
        for token in &agent.tokens {
            table.row(vec![
                agent.name.to_string(),
                shown(&agent.labels),
                token.id.clone(),
                output::time(token.created),
                time_or_dash(token.expires),
                time_or_dash(token.revoked.or(agent.revoked)),
                token.note.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        if agent.tokens.is_empty() {
            let revoked = time_or_dash(agent.revoked);
            let dash = || "-".to_owned();
            let (name, labels) = (agent.name.to_string(), shown(&agent.labels));
            table.row(vec![name, labels, dash(), dash(), dash(), revoked, dash()]);
        }
    }
    table.print()
}

fn shown(labels: &Labels) -> String {
    if labels.is_empty() { "-".to_owned() } else { labels.to_string() }
}

fn revoke(opened: &mut Opened, name: &Name, token: Option<&str>) -> Result<(), Failure> {
    let said = match token {
        None => {
            let tokens = opened.vault.agent_revoke(name)?;
            format!("revoked {name} and its {tokens} live tokens")
        }
        Some(id) => {
            let agents = opened.vault.agents()?;
            let known =
                agents.iter().any(|a| a.name == *name && a.tokens.iter().any(|t| t.id == id));
            if !known {
                return Err(Failure::usage(format!("{name} has no token {id}"))
                    .help("`locum agent list` shows the ids"));
            }
            opened.vault.token_revoke(id)?;
            format!("revoked the token {id} of {name}")
        }
    };
    opened.changed()?;
    output::line(&said)
}

fn end_runs(opened: &mut Opened, name: &Name, which: Which) -> Result<(), Failure> {
    let said = match &which {
        Which::All => format!("revoked the run tokens of {name}"),
        Which::Run(run) => format!("revoked the tokens of {name}'s run {run}"),
        Which::Token(id) => format!("revoked the run token {id} of {name}"),
        Which::Proof(id) => format!("revoked {id} of {name}"),
    };
    opened.vault.run_revoke(name, which)?;
    opened.changed()?;
    output::line(&said)
}

impl<'a> From<&'a AgentInfo> for Agent<'a> {
    fn from(info: &'a AgentInfo) -> Self {
        Self {
            agent: &info.name,
            labels: &info.labels,
            created: info.created,
            revoked: info.revoked,
            tokens: info.tokens.iter().map(Token::from).collect(),
        }
    }
}

impl<'a> From<&'a TokenInfo> for Token<'a> {
    fn from(info: &'a TokenInfo) -> Self {
        Self {
            token_id: &info.id,
            created: info.created,
            expires: info.expires,
            revoked: info.revoked,
            note: info.note.as_deref(),
        }
    }
}
