//! What the demo prints for people: 100 columns, colour on a terminal only.

use std::time::Duration;

use super::checks::Check;
use super::stage::{AGENT, OPENAI, Stage};
use super::story::Call;
use crate::app::Failure;
use crate::cli::output::{self, Paint};

/// The width of all that is printed.
const WIDTH: usize = 100;
/// The width of one of three columns, with two spaces between them.
const COLUMN: usize = (WIDTH - 2 - 2 * 2) / 3;
/// The width of an attack's name.
const NAME: usize = 30;

/// Prints, or does not.
pub(super) struct Show {
    paint: Option<Paint>,
}

impl Show {
    pub(super) fn on_terminal() -> Self {
        Self { paint: Some(Paint::for_stdout()) }
    }

    /// For `--json`: only the document at the end is printed.
    pub(super) fn silent() -> Self {
        Self { paint: None }
    }

    fn print(&self, text: impl FnOnce(Paint) -> String) -> Result<(), Failure> {
        match self.paint {
            Some(paint) => output::line(&text(paint)),
            None => Ok(()),
        }
    }

    pub(super) fn welcome(&self) -> Result<(), Failure> {
        self.print(|paint| {
            format!(
                "{}\nWhat you see is measured now, on this machine: real processes, sockets and TLS \
                 over loopback,\na throw-away home, no account, no network.\n",
                paint.bold("Locum demo")
            )
        })
    }

    pub(super) fn stage(&self, stage: &Stage) -> Result<(), Failure> {
        self.print(|paint| {
            let row = |name: &str, text: String| format!("  {} {text}", paint.dim(&pad(name, 7)));
            let proxy = stage.proxy_url();
            let rows = [
                row("home", stage.home.path().display().to_string()),
                row(
                    "origin",
                    format!(
                        "https://{OPENAI}, played on {}; it demands its real key",
                        stage.openai.address
                    ),
                ),
                row("proxy", format!("locum serve, {proxy}, process {}", stage.serving.pid)),
                row(
                    "agent",
                    format!("locum run --agent {AGENT}, process {}", stage.agent.hello.pid),
                ),
            ];
            rows.join("\n")
        })
    }

    pub(super) fn call(&self, call: &Call) -> Result<(), Failure> {
        self.print(|paint| {
            let title =
                heading(paint, "1", "A placeholder goes in, an authenticated call goes out");
            let verdict = match call.problem() {
                None => format!(
                    "  {}  The origin got the key that only the vault holds. The same placeholder \
                     sent to it\n        without Locum: {}.",
                    paint.green("PASS"),
                    call.without_locum
                ),
                Some(problem) => format!("  {}  {problem}", paint.red("FAIL")),
            };
            [title, sides(paint, call), verdict, records(paint, call), counters(paint, call)]
                .join("\n\n")
        })?;
        self.print(|paint| format!("\n{}\n", heading(paint, "2", "Attacks")))
    }

    pub(super) fn check(&self, check: &Check) -> Result<(), Failure> {
        self.print(|paint| {
            let mark = if check.passed { paint.green("PASS") } else { paint.red("FAIL") };
            let room = WIDTH - 8 - NAME - 1;
            let lines = output::wrap(&check.seen, room);
            let indent = " ".repeat(8 + NAME + 1);
            let seen = lines.join(&format!("\n{indent}"));
            format!("  {mark}  {} {seen}", pad(check.name, NAME))
        })
    }

    pub(super) fn end(&self, checks: &[Check], took: Duration) -> Result<(), Failure> {
        self.print(|paint| {
            let passed = checks.iter().filter(|check| check.passed).count();
            let text = format!("{passed} of {} passed, {:.1} s", checks.len(), took.as_secs_f64());
            let text = if passed == checks.len() { paint.green(&text) } else { paint.red(&text) };
            format!("\n{text}")
        })
    }

    pub(super) fn by_hand(&self, stage: &Stage) -> Result<(), Failure> {
        self.print(|paint| {
            let program = std::env::current_exe().unwrap_or_else(|_| "locum".into());
            let locum = format!("{} --home {}", program.display(), stage.home.path().display());
            format!(
                "\n{}\nIn another terminal, become the agent (in a subshell, to leave it again):\n\n\
                 sh\n\
                 eval \"$({locum} env --agent {AGENT})\"\n\
                 echo $OPENAI_API_KEY\n\
                 curl https://{OPENAI}/v1/chat/completions -d '{{}}' -H \"Authorization: Bearer $OPENAI_API_KEY\"\n\
                 curl https://{OPENAI}/echo -H \"Authorization: Bearer $OPENAI_API_KEY\"\n\
                 curl https://api.anthropic.com/ -H \"Authorization: Bearer $OPENAI_API_KEY\"\n\n\
                 and look at what it left:\n\n\
                 {locum} audit query\n\
                 curl http://{}/metrics\n\n{}",
                paint.bold("It goes on running."),
                stage.serving.ops.map(|a| a.to_string()).unwrap_or_default(),
                paint.bold("Ctrl-C ends it and removes everything."),
            )
        })
    }
}

fn heading(paint: Paint, number: &str, text: &str) -> String {
    let title = paint.bold(&format!("{number}  {text}"));
    if number == "1" { format!("\n{title}") } else { title }
}

/// What the agent held, what the origin received, and what the agent got back.
fn told(call: &Call) -> [Vec<String>; 3] {
    let held = vec![
        "OPENAI_API_KEY=".to_owned(),
        shortened(&call.agent.placeholder, COLUMN),
        format!("sha256 {}", call.agent.fingerprint),
        format!(
            "in {} variables: {}",
            call.agent.variables,
            if call.agent.key_in_environment { "A KEY" } else { "no key" }
        ),
    ];
    let received = vec![
        call.origin.place.clone(),
        format!("a key of {} bytes", call.origin.length),
        format!("sha256 {}", call.origin.fingerprint),
        if call.origin.fingerprint == call.vault.fingerprint {
            format!("= {} v{} in the vault", call.vault.credential, call.vault.version)
        } else {
            format!("the vault has {}", call.vault.fingerprint)
        },
    ];
    let key = if call.came_back.key_in_answer { "THE KEY" } else { "no key" };
    let back = vec![
        call.came_back.status.to_string(),
        format!("\"{}\"", call.came_back.text),
        format!("{} bytes, {key} in them", call.came_back.bytes),
    ];
    [held, received, back]
}

/// The three of them side by side.
fn sides(paint: Paint, call: &Call) -> String {
    let heads = ["THE AGENT HELD", "THE ORIGIN RECEIVED", "THE AGENT GOT BACK"];
    let columns = told(call).map(|rows| -> Vec<String> {
        rows.iter().flat_map(|row| output::wrap(row, COLUMN)).collect()
    });
    let height = columns.iter().map(Vec::len).max().unwrap_or(0);
    let line = |texts: [&str; 3]| {
        let cells = texts.map(|text| pad(text, COLUMN));
        format!("  {}", cells.join("  ")).trim_end().to_owned()
    };
    let mut lines = vec![paint.dim(&line(heads))];
    for row in 0..height {
        let at = |column: usize| columns[column].get(row).map_or("", String::as_str);
        lines.push(line([at(0), at(1), at(2)]));
    }
    lines.join("\n")
}

/// The audit records, one line each.
fn records(paint: Paint, call: &Call) -> String {
    let text = |record: &serde_json::Value, key: &str| match &record[key] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut lines =
        vec![paint.dim("  AUDIT LOG: written before the call leaves, and when it is over")];
    for record in &call.audit {
        let of = |key| text(record, key);
        let what = if of("kind") == "access" {
            let slot = format!("{} v{} in {}", of("credential"), of("version"), of("slot"));
            format!(
                "{}  {} {}{}\n{}{}, {slot}",
                of("agent"),
                of("method"),
                of("destination"),
                of("path"),
                " ".repeat(17),
                of("decision"),
            )
        } else {
            let millis = record["total_us"].as_f64().unwrap_or_default() / 1000.0;
            format!("{}, status {}, {millis:.1} ms", of("ending"), of("status"))
        };
        lines.push(format!(
            "  {} {} {what}",
            pad(&format!("#{}", of("seq")), 5),
            pad(&of("kind"), 8)
        ));
    }
    lines.join("\n")
}

fn counters(paint: Paint, call: &Call) -> String {
    let widest = call.counters.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut lines = vec![paint.dim("  COUNTERS: for Prometheus, on a port of their own")];
    for (name, value) in &call.counters {
        lines.push(format!("  {} {value}", pad(name, widest + 1)));
    }
    lines.join("\n")
}

fn pad(text: &str, width: usize) -> String {
    format!("{text:<width$}")
}

/// A text with its end cut off.
fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width - 1).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(shortened("sk-proj-locum", 5), "sk-p…");
    }
}
