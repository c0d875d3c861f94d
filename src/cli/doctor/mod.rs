//! `locum doctor`: what is right and wrong with a home, its proxy and this machine, and what to do
//! about it. Looks, and changes nothing.

mod clients;
mod keeping;
mod proxy;
mod surroundings;

use std::process::ExitCode;

use serde::Serialize;

use super::demo::{Call, Stage};
use super::output::{self, Paint};
use super::runtime;
use crate::app::{Failure, Home};

/// Arguments of `locum doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  locum doctor\n  locum doctor --json\n\nExit code 0 when nothing is a problem, 1 otherwise."
)]
pub(super) struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// It works, and could do harm.
    Warning,
    /// It does not work, or is not safe.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    what: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The findings so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, level: Level, what: String, next: Option<String>) {
        self.0.push(Finding { check, level, what, next });
    }

    fn ok(&mut self, check: &'static str, what: impl Into<String>) {
        self.add(check, Level::Ok, what.into(), None);
    }

    /// As it should be, and there is a next step all the same.
    fn ok_next(&mut self, check: &'static str, what: impl Into<String>, next: impl Into<String>) {
        self.add(check, Level::Ok, what.into(), Some(next.into()));
    }

    fn warning(&mut self, check: &'static str, what: impl Into<String>, next: impl Into<String>) {
        self.add(check, Level::Warning, what.into(), Some(next.into()));
    }

    fn problem(&mut self, check: &'static str, what: impl Into<String>, next: impl Into<String>) {
        self.add(check, Level::Problem, what.into(), Some(next.into()));
    }

    /// A failure as commands report it. Those that have no advice of their own give it after a
    /// semicolon.
    fn failure(&mut self, check: &'static str, failure: &Failure, otherwise: &str) {
        let text = failure.to_string();
        let (what, next) = match (failure.advice(), text.split_once("; ")) {
            (Some(advice), _) => (text.clone(), advice.to_owned()),
            (None, Some((what, next))) if !text.contains('\n') => {
                (what.to_owned(), next.to_owned())
            }
            (None, _) => (text.clone(), otherwise.to_owned()),
        };
        self.add(check, Level::Problem, what, Some(next));
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }
}

pub(super) fn run(home: &Home, args: &Args) -> Result<ExitCode, Failure> {
    let mut findings = Findings::default();
    // Before there are threads: a passphrase may have to be asked for.
    let opened = keeping::look(home, &mut findings);
    surroundings::look(home, opened.as_ref(), &mut findings);
    runtime()?.block_on(async {
        if let Some(opened) = &opened {
            proxy::look(opened, &mut findings).await;
            clients::look(opened, opened.running().as_ref(), &mut findings).await;
        }
        call(&mut findings).await;
    });
    report(home, &findings, args.json)?;
    let sound = findings.count(Level::Problem) == 0;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A real call with an injected key, from an agent's process to an origin that demands it. The proxy
/// of this home would refuse an origin on loopback, as it should; so the call is made by this same
/// program in a throw-away home.
async fn call(findings: &mut Findings) {
    const CHECK: &str = "call";
    let begun = std::time::Instant::now();
    let made = async {
        let mut stage = Stage::raise().await?;
        Call::make(&mut stage).await
    };
    match made.await {
        Ok(call) => match call.problem() {
            None => findings.ok(
                CHECK,
                format!(
                    "in a throw-away home, an agent with a placeholder got its answer from an \
                     origin on loopback that demands the key ({:.1} s)",
                    begun.elapsed().as_secs_f64()
                ),
            ),
            Some(problem) => findings.problem(
                CHECK,
                format!("a call in a throw-away home went wrong: {problem}"),
                "run `locum demo`, which shows each step",
            ),
        },
        Err(failure) => {
            findings.failure(CHECK, &failure, "run `locum demo`, which shows each step");
        }
    }
}

fn report(home: &Home, findings: &Findings, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&serde_json::json!({
            "home": home.path(),
            "ok": findings.count(Level::Problem) == 0,
            "findings": findings.0,
        }));
    }
    let paint = Paint::for_stdout();
    output::line(&format!("{}\n", paint.bold(&home.path().display().to_string())))?;
    for finding in &findings.0 {
        output::line(&render(finding, paint))?;
    }
    let count = |level, one: &str, many: &str| {
        let count = findings.count(level);
        format!("{count} {}", if count == 1 { one } else { many })
    };
    let summary = format!(
        "\n{} ok, {}, {}",
        findings.count(Level::Ok),
        count(Level::Warning, "warning", "warnings"),
        count(Level::Problem, "problem", "problems")
    );
    output::line(&paint.bold(&summary))
}

/// Columns before the text.
const INDENT: usize = 2 + 9 + 13;
/// Columns in all.
const WIDTH: usize = 100;

fn render(finding: &Finding, paint: Paint) -> String {
    let mark = match finding.level {
        Level::Ok => paint.green("ok       "),
        Level::Warning => paint.yellow("warning  "),
        Level::Problem => paint.red("problem  "),
    };
    let indent = " ".repeat(INDENT);
    let block = |text: &str| {
        let lines = text.lines().flat_map(|line| output::wrap(line, WIDTH - INDENT));
        lines.collect::<Vec<_>>().join(&format!("\n{indent}"))
    };
    let mut text = format!("  {mark}{:<13}{}", finding.check, block(&finding.what));
    if let Some(next) = &finding.next {
        text += &["\n", &indent, &block(&format!("-> {next}"))].concat();
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_told_apart_from_what_is_wrong() {
        let mut findings = Findings::default();
        findings.failure("a", &Failure::new("it is loose; run: chmod 600 it"), "look");
        findings.failure("b", &Failure::new("it is gone").help("bring it back; hurry"), "look");
        findings.failure("c", &Failure::new("two\nlines; with a semicolon"), "look");
        let seen: Vec<_> =
            findings.0.iter().map(|f| (f.what.as_str(), f.next.as_deref().unwrap_or(""))).collect();
        assert_eq!(
            seen,
            [
                ("it is loose", "run: chmod 600 it"),
                ("it is gone", "bring it back; hurry"),
                ("two\nlines; with a semicolon", "look"),
            ]
        );
    }

    #[test]
    fn findings_align() {
        let finding = Finding {
            check: "vault",
            level: Level::Problem,
            what: "broken".to_owned(),
            next: Some("mend it".to_owned()),
        };
        let text = render(&finding, Paint::plain());
        assert_eq!(text, "  problem  vault        broken\n                        -> mend it");
    }
}
