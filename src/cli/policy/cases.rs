//! `locum policy test`: the cases beside the rules, asked of the engine that decides.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::{output, rejected};
use crate::app::{Failure, read_policies};
use crate::cli::output::counted;

pub(super) fn run(paths: &[PathBuf], json: bool) -> Result<ExitCode, Failure> {
    let read = read_policies(paths);
    let compiled = match read.policy {
        Ok(compiled) => compiled,
        Err(report) => return rejected(read.files, &report, json),
    };
    let index = compiled.given.index();
    let mut failed = Vec::new();
    for case in &compiled.cases {
        let answer = case.inquiry.ask(&compiled.policy, &index);
        if !case.expected.is_met(&answer) {
            failed.push((case, answer));
        }
    }
    let count = compiled.cases.len();
    if json {
        let shown: Vec<_> = failed
            .iter()
            .map(|(case, answer)| {
                let (file, at) = compiled.policy.place_of(case);
                json!({
                    "name": case.name, "file": file, "line": at.line, "column": at.column,
                    "expected": case.expected.to_string(), "answer": answer.to_string(),
                })
            })
            .collect();
        output::json(
            &json!({ "ok": failed.is_empty() && count > 0, "tests": count, "failed": shown }),
        )?;
    } else {
        for (case, answer) in &failed {
            let (file, at) = compiled.policy.place_of(case);
            let name = output::plain(&case.name);
            output::note(&format!(
                "{file}:{}:{}: {name}\n  expected: {}\n  answer:   {answer}\n",
                at.line, at.column, case.expected
            ));
        }
        let tests = counted(count as u64, "test");
        match failed.len() {
            0 if count == 0 => {
                output::note("there are no tests: add `tests:` to a policy file");
            }
            0 => output::line(&format!("{tests} passed"))?,
            n => output::note(&format!("{n} of {tests} failed")),
        }
    }
    // A check that checks nothing is no reason to go on.
    let passed = failed.is_empty() && count > 0;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
