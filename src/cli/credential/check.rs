//! `locum credential check`: the provider is asked whether a key is good.

use std::sync::Arc;

use serde_json::json;

use crate::app::{Checked, Failure, Opened, Probe, Subject, Verdict, far_side};
use crate::cli::output;
use crate::proxy::run_errand;
use crate::record::{Access, AuditSink, Event, Outcome, Unrecorded};
use crate::reference::Name;
use crate::upstream::NoLogins;

/// Arguments of `locum credential check`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Check {
    /// The credential's name
    name: Name,
    /// Another version than the current one, such as a staged one
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The call's record is a line of the vault's journal, which is written before it and which whoever
/// writes the audit log takes over: a proxy that runs has that log for itself.
struct Journalled;

impl AuditSink for Journalled {
    fn access(&self, _: &Access<'_>) -> Result<(), Unrecorded> {
        Ok(())
    }

    fn outcome(&self, _: &Outcome) {}

    fn event(&self, _: &Event) -> Result<(), Unrecorded> {
        Ok(())
    }
}

pub(super) fn check(opened: &mut Opened, args: &Check) -> Result<(), Failure> {
    let info = opened.vault.credential(&args.name)?;
    if info.properties.source.is_some() || info.properties.kind.is_some() {
        return Err(Failure::usage(format!(
            "the value of {} is made or fetched when it is used",
            info.name
        ))
        .help("make a request with it, and look at the audit record"));
    }
    let version = args.version.or_else(|| info.current().map(|current| current.version));
    let version = version.ok_or_else(|| {
        Failure::new(format!("{} has no current version", info.name))
            .help("name one with --version, or rotate it")
    })?;
    let subject = Subject {
        workspace: None,
        name: &info.name,
        version,
        provider: info.provider.as_deref(),
        destinations: &info.destinations,
        slots: &info.slots,
    };
    let secret = opened.vault.open_version(&info.name, version)?;
    let probe = Probe::new(subject, &secret)
        .map_err(|why| Failure::new(format!("{} cannot be checked: {why}", info.name)))?;
    drop(secret);
    opened.vault.note_verification(&info.name, version)?;
    opened.changed()?;
    let checked = ask(opened, &probe, subject)?;
    report(args, version, &checked)
}

fn ask(opened: &Opened, probe: &Probe, subject: Subject<'_>) -> Result<Checked, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format!("the call could not be made: {e}")))?;
    let sent = runtime.block_on(async {
        let upstream = far_side(&opened.config, &[], Arc::new(NoLogins))?;
        let sent = run_errand(&upstream, &Journalled, (0, ""), probe.errand(subject)).await;
        Ok(probe.verdict(sent))
    });
    // What still looks up a name is not waited for.
    runtime.shutdown_background();
    sent
}

fn report(args: &Check, version: u32, checked: &Checked) -> Result<(), Failure> {
    let Checked { verdict, status, why } = checked;
    if args.json {
        output::json(&json!({
            "credential": args.name, "version": version, "verdict": verdict, "status": status,
            "why": why,
        }))?;
    } else if *verdict == Verdict::Good {
        output::line(&format!("{} version {version} is good: its provider takes it", args.name))?;
    }
    match verdict {
        Verdict::Good => Ok(()),
        Verdict::Bad => Err(Failure::new(format!(
            "{} version {version} is bad: its provider does not take it",
            args.name
        ))
        .help(format!("make a new key there, and run `locum credential rotate {}`", args.name))),
        Verdict::Unknown => Err(Failure::new(format!(
            "nothing is known of {} version {version}: {}",
            args.name,
            why.as_deref().unwrap_or("no answer")
        ))),
    }
}
