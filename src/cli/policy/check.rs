//! `locum policy check`: every mistake with its place, and what is none and still probably not meant.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::output;
use crate::agent::Labels;
use crate::app::{Exit, Failure, ReadPolicy};
use crate::cli::output::counted;
use crate::credential::CredentialIndex;
use crate::document::{Problem, Report, Source};
use crate::policy::{Around, Compiled, Has, Lint, LintKind};
use crate::reference::Name;

/// How the result is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
    Sarif,
}

/// What there is beside the files.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) warnings: Vec<String>,
    pub(super) known: Option<Known>,
}

/// What a vault has.
pub(super) struct Known {
    pub(super) index: Arc<CredentialIndex>,
    /// The live ones.
    pub(super) agents: Vec<(Name, Labels)>,
    /// Credentials and sets.
    pub(super) uses: Vec<Name>,
}

pub(super) fn run(
    read: ReadPolicy,
    form: Form,
    strict: bool,
    beside: impl FnOnce() -> Beside,
) -> Result<ExitCode, Failure> {
    let ReadPolicy { files, sources, policy } = read;
    let compiled = match policy {
        Ok(compiled) => compiled,
        Err(report) => return rejected(files, &report, form),
    };
    let Beside { mut warnings, known } = beside();
    let Compiled { policy, given, .. } = &compiled;
    if policy.is_empty() {
        warnings.push("there is no rule, so nothing is allowed".to_owned());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let supposed = given.index();
    let lints = policy.lint(Around {
        now: i64::try_from(now).unwrap_or(i64::MAX),
        sources: &sources,
        index: known.as_ref().map_or(&supposed, |known| &known.index),
        vault: known.as_ref().map(|known| Has { agents: &known.agents, uses: &known.uses }),
    });
    let (rules, digest) = (policy.len(), policy.digest());
    match form {
        Form::Json => output::json(&json!({
            "ok": true, "files": files, "rules": rules, "digest": digest,
            "problems": [], "warnings": warnings,
            "lints": lints.iter().map(lint_json).collect::<Vec<_>>(),
        }))?,
        Form::Sarif => {
            // Code hosts take no finding without a place.
            let start = sources.first().map(|source| (source.name(), 1, 1));
            let others = warnings.iter().map(|text| result("warning", "warning", text, start));
            let lints = lints.iter().map(|lint| {
                let place = lint.place.as_ref().map(|(file, at)| (&**file, at.line, at.column));
                let text = format!("{} ({})", lint.message, lint.advice);
                result(lint.kind.id(), "warning", &text, place.or(start))
            });
            output::json(&sarif(&others.chain(lints).collect::<Vec<_>>()))?;
        }
        Form::Text => {
            for warning in &warnings {
                output::note(&format!("warning: {warning}"));
            }
            for lint in &lints {
                output::note(&shown(lint, &sources));
            }
            let (files, rules) = (counted(files as u64, "file"), counted(rules as u64, "rule"));
            output::line(&format!("no mistakes in {files} with {rules} (digest {digest})"))?;
        }
    }
    let clean = warnings.is_empty() && lints.is_empty();
    Ok(if strict && !clean { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A lint with its source line, as a mistake is shown.
fn shown(lint: &Lint, sources: &[Source]) -> String {
    let (id, advice) = (lint.kind.id(), &lint.advice);
    let source = |file: &str| sources.iter().find(|source| source.name() == file);
    let place = lint.place.as_ref().and_then(|(file, at)| Some((source(file)?, *at)));
    let Some((source, at)) = place else {
        return format!("warning[{id}]: {}\n  help: {advice}", lint.message);
    };
    let problem = Problem {
        source: source.clone(),
        at: Some(at),
        path: String::new(),
        message: lint.message.clone(),
        advice: Some(advice.clone()),
    };
    format!("warning[{id}]: {problem}")
}

fn lint_json(lint: &Lint) -> Value {
    let place = lint.place.as_ref();
    json!({
        "id": lint.kind.id(), "message": lint.message, "help": lint.advice,
        "file": place.map(|(file, _)| file),
        "line": place.map(|(_, at)| at.line), "column": place.map(|(_, at)| at.column),
    })
}

pub(super) fn rejected(files: usize, report: &Report, form: Form) -> Result<ExitCode, Failure> {
    match form {
        Form::Json => {
            let mut value = report.to_json();
            value["ok"] = json!(false);
            value["files"] = json!(files);
            value["rules"] = json!(null);
            value["digest"] = json!(null);
            value["warnings"] = json!([]);
            value["lints"] = json!([]);
            output::json(&value)?;
        }
        Form::Sarif => {
            let results = report.problems().into_iter().map(|problem| {
                let at = problem.at.map_or((1, 1), |at| (at.line, at.column));
                let advice = problem.advice.as_deref().map(|advice| format!(" ({advice})"));
                let text = format!("{}{}", problem.message, advice.unwrap_or_default());
                result("mistake", "error", &text, Some((problem.source.name(), at.0, at.1)))
            });
            output::json(&sarif(&results.collect::<Vec<_>>()))?;
        }
        Form::Text => {
            output::note(&report.to_string());
            output::note(&format!("\n{}", counted(report.len() as u64, "mistake")));
        }
    }
    Ok(ExitCode::from(Exit::Usage as u8))
}

/// One finding (SARIF 2.1.0 section 3.27).
fn result(id: &str, level: &str, text: &str, place: Option<(&str, u32, u32)>) -> Value {
    let location = |(file, line, column): (&str, u32, u32)| {
        json!({ "physicalLocation": {
            "artifactLocation": { "uri": uri(file) },
            "region": { "startLine": line, "startColumn": column },
        }})
    };
    json!({
        "ruleId": id, "level": level, "message": { "text": text },
        "locations": place.map(location).into_iter().collect::<Vec<_>>(),
    })
}

/// What may stand in the path of a URI as it is (RFC 3986 section 3.3).
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A file as a URI reference: relative as it was given, or whole.
fn uri(file: &str) -> String {
    let path = file.replace('\\', "/");
    let encoded = utf8_percent_encode(&path, PATH).to_string();
    let drive = path.as_bytes().get(1) == Some(&b':');
    match (path.starts_with('/'), drive) {
        (true, _) => format!("file://{encoded}"),
        (_, true) => format!("file:///{encoded}"),
        _ => encoded,
    }
}

/// A log of one run (SARIF 2.1.0), which code hosts show beside the lines.
fn sarif(results: &[Value]) -> Value {
    let lints =
        LintKind::ALL.map(|kind| json!({ "id": kind.id(), "help": { "text": kind.advice() } }));
    let others = [
        ("mistake", "mend it: no proxy takes the file"),
        ("warning", "what was to be compared could not be, or there is nothing"),
    ];
    let others = others.map(|(id, text)| json!({ "id": id, "help": { "text": text } }));
    let rules: Vec<Value> = others.into_iter().chain(lints).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "locum", "version": env!("CARGO_PKG_VERSION"), "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}
