//! What the home keeps: its files, config, key, vault, CA, policies and audit log.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Findings;
use crate::agent::DEFAULT_WORKSPACE;
use crate::app::{Failure, Home, Opened, check_logins, far_side, load_policy};
use crate::audit::{self, Anchor};
use crate::config::{Config, KeySource};
use crate::environment;
use crate::files;
use crate::upstream::NoLogins;
use crate::vault::KeyFile;

/// Looks at all of it, and returns the home opened if that is possible.
pub(super) fn look(home: &Home, findings: &mut Findings) -> Option<Opened> {
    if !home.exists() {
        findings.problem(
            "home",
            format!("{} is not a Locum home", home.path().display()),
            "run `locum init`, or name the right home with --home DIR or LOCUM_HOME",
        );
        return None;
    }
    look_at_directory(home, findings);
    let config = match Config::load(&home.config(), home.path()) {
        Ok(config) => config,
        Err(report) => {
            const NEXT: &str =
                "mend the file; a proxy that runs keeps the last good one, and none can be started";
            findings.failure("config", &report.into(), NEXT);
            look_at_files(home, &Config::defaults(home.path()), findings);
            return None;
        }
    };
    look_at_files(home, &config, findings);
    look_at_config(&config, findings);
    look_at_policies(home, findings);
    if !look_at_key(&config, findings) {
        findings.problem("vault", "it is not opened without its key", "mend the master key first");
        return None;
    }
    let opened = open(home, findings)?;
    look_at_other_policies(&opened, findings);
    look_at_vault(&opened, findings);
    look_at_logins(&opened, findings);
    look_at_authority(&opened, findings);
    look_at_audit(&opened, findings);
    Some(opened)
}

fn look_at_directory(home: &Home, findings: &mut Findings) {
    const CHECK: &str = "home";
    let path = home.path();
    let mode = fs::symlink_metadata(path).map(|m| m.permissions().mode() & 0o7777);
    match (files::check_directory(path), mode) {
        (Ok(()), Ok(mode)) if mode & 0o077 == 0 => {
            findings.ok(CHECK, "nobody else can look into it");
        }
        (Ok(()), Ok(mode)) => findings.problem(
            CHECK,
            format!("it has mode {mode:04o}, and others can look into it"),
            format!("run: chmod 700 '{}'", path.display()),
        ),
        (Err(error), _) => findings.failure(CHECK, &error.into(), "mend the directory"),
        (Ok(()), Err(error)) => findings.problem(CHECK, error.to_string(), "mend the directory"),
    }
}

/// Every file that only its owner may read, where the config puts it.
fn look_at_files(home: &Home, config: &Config, findings: &mut Findings) {
    const CHECK: &str = "files";
    let mut wrong = 0;
    let mut blame = |failure: Failure, findings: &mut Findings| {
        wrong += 1;
        findings.failure(CHECK, &failure, "put the file itself there, of mode 0600");
    };
    for directory in [home.policies(), config.audit.dir.clone(), home.clients()] {
        match files::check_directory(&directory) {
            Ok(()) | Err(files::FileError::Missing(_)) => {}
            Err(error) => blame(error.into(), findings),
        }
    }
    let files = private_files(home, config);
    for file in &files {
        match files::check_private(file) {
            // One that has to be there is missed by the check that needs it.
            Ok(()) | Err(files::FileError::Missing(_)) => {}
            Err(error) => blame(error.into(), findings),
        }
    }
    if wrong == 0 {
        findings.ok(CHECK, format!("{} files, each for its owner alone", files.len()));
    }
}

fn private_files(home: &Home, config: &Config) -> Vec<PathBuf> {
    let store = &config.vault.store;
    let beside = |suffix: &str| {
        let mut name = store.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut all = vec![store.clone(), beside("-wal"), beside("-shm"), home.ca(), home.bundle()];
    all.extend(inside(&config.audit.dir));
    all.retain(|path| path.symlink_metadata().is_ok());
    all
}

/// What is in a directory, as far as it can be read.
pub(super) fn inside(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn look_at_config(config: &Config, findings: &mut Findings) {
    match far_side(config, &[], Arc::new(NoLogins)) {
        Ok(_) => {
            let hosts = config.upstream.hosts.len();
            findings.ok("config", format!("no mistake; entries in upstream.hosts: {hosts}"));
        }
        Err(failure) => {
            findings.failure("config", &failure, "mend locum.yaml, or the file it names");
        }
    }
}

/// False when the vault cannot be opened for want of its key.
fn look_at_key(config: &Config, findings: &mut Findings) -> bool {
    const CHECK: &str = "master key";
    let path = match &config.vault.key {
        KeySource::File(path) => path,
        KeySource::Passphrase(_) => {
            findings.ok(CHECK, "made from a passphrase");
            return true;
        }
        KeySource::Command(words) => {
            findings.ok(CHECK, format!("printed by {}", words.first().map_or("", |w| w)));
            return true;
        }
    };
    match KeyFile::load(path) {
        Ok(KeyFile::Wrapped(wrapped)) => {
            findings.ok(CHECK, format!("a whole key file, wrapped by {}", wrapped.wrapper));
        }
        Ok(KeyFile::Plain(key)) if key.is_locked_in_memory() => {
            findings.ok(CHECK, "a whole key file");
        }
        Ok(KeyFile::Plain(_)) => findings.warning(
            CHECK,
            "the system lets it be swapped to the disk",
            "raise the limit of locked memory (`ulimit -l`, or LimitMEMLOCK= of systemd)",
        ),
        Err(error) => {
            let next = "put the key back from its backup; without it the vault does not open";
            findings.failure(CHECK, &error.into(), next);
            return false;
        }
    }
    true
}

fn look_at_policies(home: &Home, findings: &mut Findings) {
    const CHECK: &str = "policies";
    match load_policy(home) {
        Ok(policy) if policy.is_empty() => findings.warning(
            CHECK,
            "there is no rule, and what no rule allows is refused",
            format!("write a rule into {}", home.policies().display()),
        ),
        Ok(policy) => {
            let rules = policy.len();
            let of = Some(home.workspace()).filter(|name| name.as_str() != DEFAULT_WORKSPACE);
            let of = of.map(|name| format!(" in the workspace {name}")).unwrap_or_default();
            findings.ok(CHECK, format!("{rules} rules{of}, no mistake"));
        }
        Err(failure) => {
            let next = "mend the file; a proxy that runs keeps the last good policy";
            findings.failure(CHECK, &failure, next);
        }
    }
}

/// Those of the workspaces that the command was not for: one proxy serves them all.
fn look_at_other_policies(opened: &Opened, findings: &mut Findings) {
    // Where they cannot be listed, the vault's own check says so.
    let others = opened.vault.workspaces().unwrap_or_default();
    for other in others.iter().filter(|other| other.name != *opened.home.workspace()) {
        look_at_policies(&opened.home.in_workspace(&other.name), findings);
    }
}

fn open(home: &Home, findings: &mut Findings) -> Option<Opened> {
    match Opened::open(home) {
        Ok(opened) => Some(opened),
        Err(failure) => {
            findings.failure("vault", &failure, "restore it from a backup");
            None
        }
    }
}

fn look_at_vault(opened: &Opened, findings: &mut Findings) {
    const CHECK: &str = "vault";
    if let Err(error) = opened.vault.verify() {
        return findings.failure(CHECK, &error.into(), "restore it from a backup");
    }
    let counts = opened.vault.credentials().and_then(|c| Ok((c, opened.vault.agents()?)));
    let (credentials, agents) = match counts {
        Ok(counts) => counts,
        Err(error) => return findings.failure(CHECK, &error.into(), "restore it from a backup"),
    };
    let live = credentials.iter().filter(|c| c.current().is_some()).count();
    let agents = agents.iter().filter(|a| a.revoked.is_none()).count();
    let text = format!("every row opens; credentials: {live}, agents: {agents}");
    match (live, agents) {
        (0, _) => findings.ok_next(
            CHECK,
            text,
            "add a credential: locum credential add openai --provider openai < key.txt",
        ),
        (_, 0) => findings.ok_next(CHECK, text, "add an agent: locum agent add researcher"),
        _ => findings.ok(CHECK, text),
    }
}

/// Whether the proxies on the way can be shown what they ask for.
fn look_at_logins(opened: &Opened, findings: &mut Findings) {
    let hosts = &opened.config.upstream.hosts;
    let asked = hosts.iter().filter_map(|host| host.proxy.as_ref()?.credential.as_ref()).count();
    // The config names them, so they are the default workspace's.
    let snapshots = opened.vault.snapshots().unwrap_or_default();
    let Some(snapshot) = snapshots.first() else { return };
    match check_logins(&opened.config, &snapshot.credentials) {
        Ok(()) if asked == 0 => {}
        Ok(()) => findings.ok("next proxy", "its credential is in the vault, and bound to it"),
        Err(failure) => findings.failure("next proxy", &failure, "add the credential"),
    }
}

/// A CA that ends so soon should be rotated now.
const SOON: Duration = Duration::from_hours(30 * 24);

fn look_at_authority(opened: &Opened, findings: &mut Findings) {
    const CHECK: &str = "CA";
    let authority = match opened.authority() {
        Ok(authority) => authority,
        Err(failure) => return findings.failure(CHECK, &failure, "run `locum ca rotate`"),
    };
    let until = jiff::Timestamp::try_from(authority.not_after())
        .map_or_else(|_| "?".to_owned(), |t| t.strftime("%Y-%m-%d").to_string());
    if SystemTime::now() + SOON >= authority.not_after() {
        findings.warning(
            CHECK,
            format!("it ends on {until}"),
            "run `locum ca rotate`, then start the agents again so that they read the new bundle",
        );
    } else {
        findings.ok(CHECK, format!("valid until {until}"));
    }
    let own = environment::certificates(authority.certificate_pem().as_bytes());
    look_at_certificates(&opened.home, &own, findings);
}

/// Whether the files that clients read are what the vault and the system say.
fn look_at_certificates(
    home: &Home,
    own: &[rustls::pki_types::CertificateDer<'static>],
    findings: &mut Findings,
) {
    const CHECK: &str = "CA bundle";
    const NEXT: &str = "`locum run` and `locum serve` write it anew; then start the agents again";
    let read = |path: &Path| environment::certificates(&fs::read(path).unwrap_or_default());
    if read(&home.ca()) == own {
        findings.ok("CA file", "ca.pem is the vault's CA");
    } else {
        findings.problem("CA file", "ca.pem is not the CA that is in the vault", NEXT);
    }
    let bundle = read(&home.bundle());
    let inherited = std::env::var_os("SSL_CERT_FILE");
    let system = environment::system_roots(inherited.as_deref(), &home.bundle());
    let missing = system.iter().filter(|root| !bundle.contains(root)).count();
    if !own.iter().all(|ca| bundle.contains(ca)) {
        let what = "the CA is not in ca-bundle.pem: no agent trusts the proxy";
        findings.problem(CHECK, what, NEXT);
    } else if missing > 0 {
        let all = system.len();
        let what = format!("{missing} of the system's {all} roots are not in ca-bundle.pem");
        findings.warning(CHECK, what, NEXT);
    } else {
        findings.ok(CHECK, format!("{} roots of the system, and the CA", system.len()));
    }
}

/// Verified in about a second; more is for `locum audit verify`.
const VERIFIED: u64 = 256 * 1024 * 1024;
/// Less free space is soon used up.
const FREE: u64 = 256 * 1024 * 1024;

fn look_at_audit(opened: &Opened, findings: &mut Findings) {
    const CHECK: &str = "audit log";
    let dir = &opened.config.audit.dir;
    look_at_space(dir, findings);
    let size = inside(dir).iter().filter_map(|p| Some(p.metadata().ok()?.len())).sum::<u64>();
    if size > VERIFIED {
        let what = format!("{} MiB, not verified here", size / 1024 / 1024);
        return findings.ok_next(CHECK, what, "run `locum audit verify`");
    }
    let verified = opened
        .vault
        .audit_anchor()
        .map_err(Failure::from)
        .map(|anchor| anchor.map(|a| Anchor { seq: a.sequence, mac: a.mac }))
        .and_then(|anchor| Ok(audit::verify(dir, &opened.vault.audit_key(), anchor, &mut |_| {})?));
    match verified {
        Ok(report) => match report.first_bad {
            None => findings.ok(CHECK, format!("{} records verify", report.records)),
            Some(bad) => findings.problem(
                CHECK,
                format!("it was changed: {bad}"),
                "keep a copy of the directory, and find out who changed it; `locum audit verify` says more",
            ),
        },
        Err(failure) => findings.failure(CHECK, &failure, "run `locum audit verify`"),
    }
}

/// Whether the next record can be written.
fn look_at_space(dir: &Path, findings: &mut Findings) {
    use rustix::fs::{Access, access, statvfs};
    const CHECK: &str = "audit log";
    const NEXT: &str =
        "no call is made that cannot be recorded: give the proxy's user this directory";
    if let Err(error) = access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        let error = std::io::Error::from(error);
        return findings.problem(CHECK, format!("{}: {error}", dir.display()), NEXT);
    }
    let free = statvfs(dir).map_or(FREE, |space| space.f_bavail.saturating_mul(space.f_frsize));
    if free < FREE {
        let what = format!("its disk has {} MiB left", free / 1024 / 1024);
        findings.warning(CHECK, what, "free some space: no call is made that cannot be recorded");
    }
}
