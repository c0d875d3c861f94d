//! `locum approvals`: what waits for a person, and the person's word.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::output::{self, Table};
use crate::app::{Failure, Home, Opened, Place};
use crate::approval::{Decision, Question};

/// Subcommands of `locum approvals`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the requests that wait for an approval
    #[command(after_help = "Example:\n  locum approvals list\n  locum approvals list --json")]
    List {
        /// Print JSON, with all that will be sent
        #[arg(long)]
        json: bool,
    },
    /// Show all of a request that waits: what it will send where, and with which credential
    #[command(after_help = "Example:\n  locum approvals show 019a3f0c5e7a4d0e9b1c2d3e4f5a6b7c")]
    Show {
        /// The id that `list` shows; the start of it is enough
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Approve a request, once, exactly as it is shown
    #[command(
        after_help = "Example:\n  locum approvals approve 019a3f0c5e7a4d0e9b1c2d3e4f5a6b7c\n\nOne that waits goes on within a second; one that was refused goes through when it is sent again."
    )]
    Approve {
        /// The ids that `list` shows; the start of each is enough
        #[arg(required = true)]
        ids: Vec<String>,
        /// Print the decisions as JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse a request
    #[command(after_help = "Example:\n  locum approvals deny 019a3f0c5e7a4d0e9b1c2d3e4f5a6b7c")]
    Deny {
        /// The ids that `list` shows; the start of each is enough
        #[arg(required = true)]
        ids: Vec<String>,
        /// Print the decisions as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(home: &Home, command: Command) -> Result<(), Failure> {
    // Who cannot open the vault has no business with what waits for its keys.
    let mut opened = Opened::open(home)?;
    let questions = undecided(home, &opened)?;
    match command {
        Command::List { json } => list(&questions, json),
        Command::Show { id, json } => show(find(&questions, &id)?, json),
        Command::Approve { ids, json } => decide(&mut opened, &questions, (&ids, true), json),
        Command::Deny { ids, json } => decide(&mut opened, &questions, (&ids, false), json),
    }
}

/// The questions that can be answered: neither over nor decided.
fn undecided(home: &Home, opened: &Opened) -> Result<Vec<Question>, Failure> {
    let decided = opened.vault.snapshot()?.approvals;
    let mut questions = Place::of(home).open()?;
    questions.retain(|q| {
        let decided = decided.get(&q.id).is_some_and(|decision| decision.digest == q.digest());
        let own = q.workspace == *opened.vault.workspace();
        own && q.until >= now() && !decided && q.shows_its_body()
    });
    Ok(questions)
}

fn find<'q>(questions: &'q [Question], id: &str) -> Result<&'q Question, Failure> {
    let mut found = questions.iter().filter(|q| !id.is_empty() && q.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("more than one id begins with {}", output::plain(id))))
        }
        (None, _) => Err(Failure::new(format!(
            "no request with the id {} waits for an approval",
            output::plain(id)
        ))
        .help("`locum approvals list` shows those that do")),
    }
}

fn list(questions: &[Question], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&questions.iter().map(as_json).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["ID", "AGENT", "REQUEST", "USE", "BODY", "UNTIL"]);
    for question in questions {
        let Question { id, agent, method, destination, target, uses, .. } = question;
        table.row(vec![
            id.clone(),
            output::plain(agent),
            output::plain(&format!("{method} {destination}{target}")),
            output::list(uses),
            format!("{} B", question.body_bytes),
            output::time(question.until),
        ]);
    }
    table.print()
}

fn as_json(question: &Question) -> Value {
    let mut value = serde_json::to_value(question).unwrap_or_default();
    value["digest"] = Value::from(question.digest());
    value
}

fn show(question: &Question, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&as_json(question));
    }
    let none = || "-".to_owned();
    let said = |text: &Option<String>| text.as_deref().map_or_else(none, output::plain);
    for (name, value) in [
        ("id", question.id.clone()),
        ("agent", output::plain(&question.agent)),
        ("run", said(&question.run)),
        ("user", said(&question.user)),
        ("rule", output::plain(&question.rule)),
        ("request", {
            let Question { method, destination, target, .. } = question;
            output::plain(&format!("{method} {destination}{target}"))
        }),
        ("use", output::list(&question.uses)),
        ("content type", said(&question.content_type)),
        ("body", format!("{} B, SHA-256 {}", question.body_bytes, question.body_sha256)),
        ("asked", output::time(question.asked)),
        ("until", output::time(question.until)),
        ("digest", question.digest()),
    ] {
        output::line(&format!("{name:<13} {value}"))?;
    }
    match &question.body {
        Some(body) => {
            output::line("")?;
            body.lines().try_for_each(|line| output::line(&output::plain(line)))
        }
        None if question.body_bytes > 0 => {
            output::line("(the body is not shown: it is long, or no text, or has a key in it)")
        }
        None => Ok(()),
    }
}

fn decide(
    opened: &mut Opened,
    questions: &[Question],
    (ids, approved): (&[String], bool),
    json: bool,
) -> Result<(), Failure> {
    let found = ids.iter().map(|id| find(questions, id)).collect::<Result<Vec<_>, _>>()?;
    let mut made = Vec::with_capacity(found.len());
    for question in found {
        let at = now();
        let decision = Decision {
            id: question.id.clone(),
            digest: question.digest(),
            approved,
            at,
            until: at.saturating_add(question.valid),
        };
        opened.vault.decide(decision.clone())?;
        made.push(decision);
    }
    opened.changed()?;
    if json {
        let all =
            made.iter().map(|d| json!({"id": d.id, "approved": d.approved, "until": d.until}));
        return output::json(&all.collect::<Vec<_>>());
    }
    let word = if approved { "approved" } else { "refused" };
    made.iter().try_for_each(|decision| output::line(&format!("{word} {}", decision.id)))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
