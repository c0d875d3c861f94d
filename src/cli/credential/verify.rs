//! `locum credential verify`: a credential is tried at its provider, by the catalogue's own cheap call.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::app::{Checked, Failure, Opened, Probe, Subject, Verdict, WithoutLog, far_side};
use crate::cli::{output, runtime};
use crate::credential::{Kind, OauthGrant};
use crate::mint::{self, Material, MintError};
use crate::proxy::{Errand, run_errand};
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
        kind: info.properties.kind.as_ref(),
    };
    let minted = info.properties.kind.as_ref().filter(|kind| kind.endpoint().is_some());
    let checked = match minted {
        Some(kind) if info.properties.source.is_none() => {
            check_alone(opened, &info, kind, version)?;
            let material = material(opened, &info, kind, version)?;
            // No record, no call.
            note(opened, &info.name, version)?;
            mint(opened, (&info.name, version), kind, &material)?
        }
        _ => {
            let probe = probe(opened, &info, subject)?;
            note(opened, &info.name, version)?;
            ask(opened, &probe, subject)?
        }
    };
    report(args, version, &checked)
}

fn note(opened: &mut Opened, name: &Name, version: u32) -> Result<(), Failure> {
    opened.vault.note_verification(name, version)?;
    opened.changed()
}

/// A refresh token that two exchange at once is taken for a stolen one: a proxy that runs is left alone
/// with those that it uses.
fn check_alone(
    opened: &Opened,
    info: &CredentialInfo,
    kind: &Kind,
    version: u32,
) -> Result<(), Failure> {
    let exchanged = matches!(kind, Kind::Oauth(oauth) if oauth.grant == OauthGrant::Refresh);
    let used =
        info.versions.iter().any(|one| one.version == version && one.state != VersionState::Staged);
    if !exchanged || !used || opened.running().is_none() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{} cannot be tried beside a proxy that runs: both might exchange its refresh token at once",
        info.name
    ))
    .help("that proxy tries it with each renewal: see locum_minted_total, and `locum audit query --credential`"))
}

fn material(
    opened: &Opened,
    info: &CredentialInfo,
    kind: &Kind,
    version: u32,
) -> Result<Material, Failure> {
    let secret = opened.vault.open_version(&info.name, version)?;
    let material = Material::read(&secret, kind);
    material.map_err(|e| Failure::new(format!("version {version} of {}: {e}", info.name)))
}

/// Has a value made: whoever makes it says whether what it is made of is good.
fn mint(
    opened: &mut Opened,
    (name, version): (&Name, u32),
    kind: &Kind,
    material: &Material,
) -> Result<Checked, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let call = mint::call(kind, material, i64::try_from(now).unwrap_or(i64::MAX));
    let call = call.map_err(|e| Failure::new(e.to_string()))?;
    let at = call.endpoint.origin().to_string();
    let errand = Errand {
        purpose: "health",
        workspace: None,
        uses: None,
        endpoint: &call.endpoint,
        method: call.method,
        headers: call.headers,
        body: call.body,
        within: None,
    };
    let runtime = runtime()?;
    let sent = runtime.block_on(async {
        let upstream = far_side(&opened.config, &[], Arc::new(NoLogins))?;
        Ok::<_, Failure>(run_errand(&upstream, &WithoutLog, (0, ""), errand).await)
    });
    runtime.shutdown_background();
    let unknown = |why: String, status| Checked {
        verdict: Verdict::Unknown,
        at: at.clone(),
        status,
        why: Some(why),
    };
    let reply = match sent? {
        Ok(reply) => reply,
        Err(refusal) => {
            return Ok(unknown(format!("{}: {}", refusal.code, refusal.detail), None));
        }
    };
    let status = Some(reply.status.as_u16());
    match mint::answer(kind, material, reply.status, &reply.body) {
        Ok(minted) => {
            // What was given in exchange is kept before anything is said: the old one may be void.
            if let Some(replacement) = &minted.replacement {
                opened.vault.renew(name, version, replacement)?;
                opened.changed()?;
            }
            Ok(Checked { verdict: Verdict::Good, at, status, why: None })
        }
        Err(MintError::Refused(why)) => {
            Ok(Checked { verdict: Verdict::Bad, at, status, why: Some(why.to_owned()) })
        }
        Err(error) => Ok(unknown(error.to_string(), status)),
    }
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
        let sent = run_errand(&upstream, &WithoutLog, (0, ""), probe.errand(subject)).await;
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
