//! `locum config`: what is wrong with `locum.yaml`, and how it is written.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::output;
use crate::app::{Exit, Failure, Home, check_files};
use crate::cli::output::counted;
use crate::config::{Config, FILE, SCHEMA};

/// Subcommands of `locum config`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Find all mistakes of locum.yaml, and of the files that it names
    #[command(
        after_help = "Example:\n  locum config check\n  locum config check deploy/locum.yaml --json\n\nExit code 0 when there is none, 64 when there is one. A running proxy keeps the last good config."
    )]
    Check {
        /// The file; that of the home, unless it is said. Of another, only the text is looked at, because
        /// what it names is on another machine
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a JSON Schema of locum.yaml, by which editors complete and check
    #[command(
        after_help = "Example:\n  locum config schema > locum.schema.json\n\nand as the first line of locum.yaml beside it:\n  # yaml-language-server: $schema=locum.schema.json"
    )]
    Schema,
}

pub(super) fn run(home: Result<Home, Failure>, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Schema => output::line(SCHEMA.trim_end()).map(|()| ExitCode::SUCCESS),
        Command::Check { file: Some(file), json } => {
            if file.symlink_metadata().is_err() {
                return Err(Failure::usage(format!("{}: there is no such file", file.display())));
            }
            let home = file.parent().map(ToOwned::to_owned).unwrap_or_default();
            let loaded = Config::load(&file, &std::path::absolute(&home).unwrap_or(home));
            tell(&file, loaded.map(drop), json)
        }
        Command::Check { file: None, json } => {
            let home = home?;
            let (path, loaded) = (home.config(), Config::load(&home.config(), home.path()));
            if path.symlink_metadata().is_err() {
                home.require()?;
            }
            match loaded.as_ref().map(check_files) {
                Ok(Err(failure)) if json => named(&path, &failure),
                Ok(Err(failure)) => Err(failure),
                Ok(Ok(())) | Err(_) => tell(&path, loaded.map(drop), json),
            }
        }
    }
}

/// A mistake in what the file names, as those in the file itself are told.
fn named(path: &std::path::Path, failure: &Failure) -> Result<ExitCode, Failure> {
    let problem = json!({
        "file": path,
        "line": null,
        "column": null,
        "path": "",
        "message": failure.to_string(),
        "help": failure.advice(),
    });
    output::json(&json!({ "ok": false, "problems": [problem], "left_off": 0 }))?;
    Ok(ExitCode::from(failure.exit() as u8))
}

fn tell(
    path: &std::path::Path,
    loaded: Result<(), crate::document::Report>,
    json: bool,
) -> Result<ExitCode, Failure> {
    match loaded {
        Ok(()) if json => output::json(&json!({ "ok": true, "problems": [] }))?,
        Ok(()) if path.symlink_metadata().is_err() => {
            output::line(&format!("there is no {FILE}: everything is as it is by default"))?;
        }
        Ok(()) => output::line(&format!("no mistakes in {}", path.display()))?,
        Err(report) if json => {
            let mut value = report.to_json();
            value["ok"] = json!(false);
            output::json(&value)?;
            return Ok(ExitCode::from(Exit::Usage as u8));
        }
        Err(report) => {
            output::note(&report.to_string());
            output::note(&format!("\n{}", counted(report.len() as u64, "mistake")));
            return Ok(ExitCode::from(Exit::Usage as u8));
        }
    }
    Ok(ExitCode::SUCCESS)
}
