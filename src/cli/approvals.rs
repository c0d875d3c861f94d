//! `locum approvals`: what waits for a person, and the person's word.

use super::output::{self, Table};
use super::way::{Way, Where};
use crate::admin::orders::approvals::{Answer, Asked, Decide, Decided, ListQuestions};
use crate::app::Failure;
use crate::approval::Question;

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

pub(super) fn run(to: &Where, command: Command) -> Result<(), Failure> {
    // Who can neither open the vault nor show a token has no business with what waits for its keys.
    let mut way = to.open()?;
    let questions = way.order(ListQuestions)?;
    match command {
        Command::List { json } => list(&questions, json),
        Command::Show { id, json } => show(find(&questions, &id)?, json),
        Command::Approve { ids, json } => decide(&mut way, &questions, (&ids, true), json),
        Command::Deny { ids, json } => decide(&mut way, &questions, (&ids, false), json),
    }
}

fn find<'q>(questions: &'q [Asked], id: &str) -> Result<&'q Asked, Failure> {
    let mut found = questions.iter().filter(|q| !id.is_empty() && q.question.id.starts_with(id));
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

fn list(questions: &[Asked], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&questions);
    }
    let mut table = Table::of_any_texts(&["ID", "AGENT", "REQUEST", "USE", "BODY", "UNTIL"]);
    for Asked { question, .. } in questions {
        let Question { id, agent, uses, .. } = question;
        table.row(vec![
            id.clone(),
            output::plain(agent),
            output::plain(&question.request()),
            output::list(uses),
            format!("{} B", question.body_bytes),
            output::time(question.until),
        ]);
    }
    table.print()
}

fn show(asked: &Asked, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(asked);
    }
    let Asked { question, approved_by } = asked;
    let none = || "-".to_owned();
    let said = |text: &Option<String>| text.as_deref().map_or_else(none, output::plain);
    for (name, value) in [
        ("id", question.id.clone()),
        ("agent", output::plain(&question.agent)),
        ("run", said(&question.run)),
        ("user", said(&question.user)),
        ("rule", output::plain(&question.rule)),
        ("request", output::plain(&question.request())),
        ("use", output::list(&question.uses)),
        ("content type", said(&question.content_type)),
        ("body", format!("{} B, SHA-256 {}", question.body_bytes, question.body_sha256)),
        ("asked", output::time(question.asked)),
        ("until", output::time(question.until)),
        ("digest", question.digest()),
    ] {
        output::line(&format!("{name:<13} {value}"))?;
    }
    if question.approvers > 1 {
        let so_far = output::list(approved_by.iter().map(|who| output::plain(who)));
        output::line(&format!("{:<13} {}, so far {so_far}", "approvers", question.approvers))?;
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
    way: &mut Way,
    questions: &[Asked],
    (ids, approve): (&[String], bool),
    json: bool,
) -> Result<(), Failure> {
    let found = ids.iter().map(|id| find(questions, id)).collect::<Result<Vec<_>, _>>()?;
    let decide = |Asked { question, .. }: &Asked| {
        // Of what was looked at, and nothing else.
        let word = Answer { approve, digest: Some(question.digest()) };
        way.order(Decide { id: question.id.clone(), word })
    };
    let made: Vec<Decided> = found.into_iter().map(decide).collect::<Result<_, _>>()?;
    if json {
        return output::json(&made);
    }
    let word = if approve { "approved" } else { "refused" };
    made.iter().try_for_each(|Decided { id, missing, .. }| match missing {
        0 => output::line(&format!("{word} {id}")),
        1 => output::line(&format!("{word} {id}; one more has to")),
        more => output::line(&format!("{word} {id}; {more} more have to")),
    })
}
