//! `locum credential verify`: a credential is tried at its provider, by the catalogue's own cheap call.

use std::sync::Arc;

use serde_json::json;

use crate::app::{Checked, Failure, Opened, Probe, Subject, Verdict, far_side};
use crate::cli::{output, runtime};
use crate::proxy::run_errand;
use crate::record::{Access, AuditSink, Event, Outcome, Unrecorded};
use crate::reference::Name;
use crate::upstream::NoLogins;
use crate::vault::{CredentialInfo, VersionState};

/// Arguments of `locum credential verify`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Verify {
    /// The credential's name
    name: Name,
    /// This version, instead of the staged one, or the current one where none is staged
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

pub(super) fn verify(opened: &mut Opened, args: &Verify) -> Result<(), Failure> {
    let info = opened.vault.credential(&args.name)?;
    let version = args.version.or_else(|| newest(&info)).ok_or_else(|| {
        Failure::usage(format!("all versions of {} are revoked", info.name))
            .help(format!("give it a new secret: `locum credential rotate {}`", info.name))
    })?;
    let subject = Subject {
        workspace: None,
        name: &info.name,
        version,
        provider: info.provider.as_deref(),
        destinations: &info.destinations,
        slots: &info.slots,
    };
    let probe = probe(opened, &info, subject)?;
    // No record, no call.
    opened.vault.note_verification(&info.name, version)?;
    opened.changed()?;
    let checked = ask(opened, &probe, subject)?;
    report(args, version, &checked)
}

/// The staged version, which is tried before it is promoted; else the current one.
fn newest(info: &CredentialInfo) -> Option<u32> {
    let staged = info.versions.iter().find(|version| version.state == VersionState::Staged);
    staged.or_else(|| info.current()).map(|version| version.version)
}

fn probe(opened: &Opened, info: &CredentialInfo, subject: Subject<'_>) -> Result<Probe, Failure> {
    let unfit = |why: &str| {
        Failure::usage(format!("{} cannot be tried: {why}", info.name))
            .help("try it with a request of your own, by its reference")
    };
    if info.properties.source.is_some() || info.properties.kind.is_some() {
        return Err(unfit("its value is made or fetched when it is used, and is tried then"));
    }
    let secret = opened.vault.open_version(&info.name, subject.version)?;
    Probe::new(subject, &secret).map_err(unfit)
}

fn ask(opened: &Opened, probe: &Probe, subject: Subject<'_>) -> Result<Checked, Failure> {
    let runtime = runtime()?;
    let sent = runtime.block_on(async {
        let upstream = far_side(&opened.config, &[], Arc::new(NoLogins))?;
        let sent = run_errand(&upstream, &Journalled, (0, ""), probe.errand(subject)).await;
        Ok(probe.verdict(sent))
    });
    // What still looks up a name is not waited for.
    runtime.shutdown_background();
    sent
}

fn report(args: &Verify, version: u32, checked: &Checked) -> Result<(), Failure> {
    let Checked { verdict, at, status, why } = checked;
    let name = &args.name;
    if args.json {
        output::json(&json!({
            "credential": name, "version": version, "at": at, "verdict": verdict, "status": status,
            "why": why,
        }))?;
    } else if *verdict == Verdict::Good {
        output::line(&format!("version {version} of {name} is good: {at} takes it"))?;
    }
    match verdict {
        Verdict::Good => Ok(()),
        Verdict::Bad => {
            Err(Failure::new(format!("version {version} of {name} is bad: {at} does not take it"))
                .help(format!("make a new key there, and run `locum credential rotate {name}`")))
        }
        Verdict::Unknown => Err(Failure::new(format!(
            "nothing is known of version {version} of {name}: {}",
            why.as_deref().unwrap_or("no answer")
        ))),
    }
}
