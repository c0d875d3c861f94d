//! `locum policy list`, `put` and `remove`: the files of a workspace, also where a proxy that runs has them.

use std::path::Path;
use std::process::ExitCode;

use crate::admin::orders::policies::{ListPolicies, PutPolicy, RemovePolicy};
use crate::app::Failure;
use crate::cli::output::{self, Json, Table};
use crate::cli::way::Where;

pub(super) fn list(to: &Where, json: bool) -> Result<ExitCode, Failure> {
    let policies = to.open()?.order(ListPolicies)?;
    if json {
        output::json(&policies)?;
    } else {
        let mut table = Table::new(&["FILE", "BYTES", "OF"]);
        for (name, file) in &policies.files {
            let of = if file.organisation { "the organisation" } else { "the workspace" };
            table.row(vec![output::plain(name), file.text.len().to_string(), of.to_owned()]);
        }
        table.print()?;
        if let Some(mistakes) = &policies.mistakes {
            output::note(mistakes);
        }
    }
    Ok(if policies.mistakes.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(super) fn put(to: &Where, path: &Path, json: Json) -> Result<ExitCode, Failure> {
    let wrong = |what: String| Failure::usage(format!("{}: {what}", path.display()));
    let name = path.file_name().and_then(|name| name.to_str());
    let file = name.ok_or_else(|| wrong("it has no name".to_owned()))?.to_owned();
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let put = to.open()?.order(PutPolicy { file, text })?;
    json.tell(&put, || output::line(&format!("{} is in force", put.file)))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn remove(to: &Where, file: String, json: Json) -> Result<ExitCode, Failure> {
    let removed = to.open()?.order(RemovePolicy { file })?;
    json.tell(&removed, || output::line(&format!("removed {}", removed.file)))?;
    Ok(ExitCode::SUCCESS)
}
