//! `locum agent`: who may use the proxy.

mod certificate;

use std::time::{Duration, SystemTime};

use super::output::{self, Table, counted, time_or_dash};
use super::way::{Way, Where};
use crate::admin::orders::agents::{
    AddAgent, AddedAgent, AddedToken, Agent, LabelAgent, Labelled, Labelling, ListAgents, Only,
    RevokeAgent, RevokedAgent, serial,
};
use crate::admin::orders::unix;
use crate::agent::{Label, LabelName, LabelPair, Labels};
use crate::app::Failure;
use crate::document::parse_duration;
use crate::reference::Name;

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
    /// List the certificates that were issued to an agent in the last 90 days
    #[command(
        after_help = "Example:\n  locum agent certificates researcher\n  locum agent revoke researcher --certificate 5f0c…"
    )]
    Certificates {
        /// The agent's name
        name: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List agents and their tokens
    #[command(after_help = "Example:\n  locum agent list")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke an agent with all its tokens, or one token, or the run tokens of one run
    #[command(
        after_help = "Example:\n  locum agent revoke researcher\n  locum agent revoke researcher --token k3v9x2qa\n  locum agent revoke researcher --run 42 --json"
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
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(to: &Where, command: Command) -> Result<(), Failure> {
    let mut way = to.open()?;
    match command {
        Command::Add { name, expires, note, labels, no_token, json } => {
            let ttl = expires.map(|time| time.as_secs());
            let labels = pairs(labels)?;
            let made = way.order(AddAgent { name, note, ttl, labels, no_token })?;
            let (agent, id) = (made.agent.clone(), made.token.as_ref().map(|t| t.token_id.clone()));
            let told = added(made, json);
            match id {
                Some(id) => told.map_err(|failure| unread(&mut way, &agent, &id, failure)),
                None => told,
            }
        }
        Command::Label { name, labels, remove, json } => {
            let change = Labelling { labels: pairs(labels)?, remove };
            labelled(&way.order(LabelAgent { name, change })?, json)
        }
        Command::List { json } => list(&way.order(ListAgents)?, json),
        Command::Revoke { name, token, run, run_token, certificate, jwt, json } => {
            let only = Only { token, run, run_token, certificate, jwt };
            let what = in_words(&name, &only);
            let said = serde_json::json!(&only);
            let revoked = way.order(RevokeAgent { name, only })?;
            if json {
                let RevokedAgent { agent, tokens } = revoked;
                let (all, only) = (what.is_none(), Some(said).filter(|_| what.is_some()));
                return output::json(&serde_json::json!({
                    "agent": agent, "all": all, "tokens": tokens, "only": only,
                }));
            }
            output::line(&what.unwrap_or_else(|| {
                let tokens = revoked.tokens.unwrap_or_default();
                format!(
                    "revoked {} and its {}",
                    revoked.agent,
                    counted(tokens as u64, "live token")
                )
            }))
        }
        Command::Certificate(args) => certificate::run(&mut way, &args),
        Command::Certificates { name, json } => certificate::list(&mut way, name, json),
    }
}

/// The Unix time that far from now, in seconds.
pub(super) fn from_now(duration: Duration) -> i64 {
    unix(SystemTime::now() + duration)
}

/// A token that nobody has read is ended: nobody could use it, and nobody would know of it.
fn unread(way: &mut Way, name: &Name, token: &str, failure: Failure) -> Failure {
    let only = Only { token: Some(token.to_owned()), ..Only::default() };
    match way.order(RevokeAgent { name: name.clone(), only }) {
        Ok(_) => failure.help(format!(
            "the token {token} was revoked, for nobody has read it; `locum agent add {name}` makes another"
        )),
        Err(_) => failure.help(format!(
            "nobody has read the token {token}: end it with `locum agent revoke {name} --token {token}`; `locum agent add {name}` makes another"
        )),
    }
}

fn added(added: AddedAgent, json: bool) -> Result<(), Failure> {
    if json {
        return output::json_for_good(&added);
    }
    let name = added.agent;
    let Some(AddedToken { token_id, token }) = added.token else {
        output::note(&format!(
            "added {name}, without a token; `identity` in locum.yaml says by what it is known"
        ));
        return Ok(());
    };
    output::line_for_good(&token.0)?;
    output::note(&format!(
        "This is {name}'s token {token_id}; it is not shown again.\nSet HTTPS_PROXY=http://{name}:TOKEN@HOST:PORT, or use `locum run --agent {name}`."
    ));
    Ok(())
}

/// Labels of the command line, each name once.
fn pairs(labels: Vec<LabelPair>) -> Result<Labels, Failure> {
    let pairs = labels.into_iter().map(|LabelPair(name, value)| (name, value));
    Labels::new(pairs).map_err(|error| Failure::usage(error.to_string()))
}

fn labelled(Labelled { agent, labels }: &Labelled, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&serde_json::json!({ "agent": agent, "labels": labels }));
    }
    if labels.is_empty() {
        return output::line(&format!("{agent} has no labels"));
    }
    output::line(&format!("{agent}: {labels}"))
}

fn list(agents: &[Agent], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&agents);
    }
    let mut table =
        Table::new(&["AGENT", "LABELS", "TOKEN", "CREATED", "EXPIRES", "REVOKED", "NOTE"]);
    for agent in agents {
        for token in &agent.tokens {
            table.row(vec![
                agent.agent.to_string(),
                shown(&agent.labels),
                token.token_id.clone(),
                output::time(token.created),
                time_or_dash(token.expires),
                time_or_dash(token.revoked.or(agent.revoked)),
                token.note.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        if agent.tokens.is_empty() {
            let revoked = time_or_dash(agent.revoked);
            let dash = || "-".to_owned();
            let (name, labels) = (agent.agent.to_string(), shown(&agent.labels));
            table.row(vec![name, labels, dash(), dash(), dash(), revoked, dash()]);
        }
    }
    table.print()
}

fn shown(labels: &Labels) -> String {
    if labels.is_empty() { "-".to_owned() } else { labels.to_string() }
}

/// What a revocation of one thing has ended; nothing for that of the whole agent.
fn in_words(name: &Name, only: &Only) -> Option<String> {
    let Only { token, run, run_token, certificate, jwt } = only;
    let all = [
        token.as_ref().map(|id| format!("revoked the token {id} of {name}")),
        run.as_ref().map(|run| format!("revoked the tokens of {name}'s run {}", run.as_str())),
        run_token.as_ref().map(|id| format!("revoked the run token {id} of {name}")),
        certificate.as_ref().map(|serial| format!("revoked serial:{serial} of {name}")),
        jwt.as_ref().map(|id| format!("revoked {id} of {name}")),
    ];
    all.into_iter().flatten().next()
}
