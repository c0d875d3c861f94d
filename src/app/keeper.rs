//! Keeping a running proxy in step with its home: the vault, the policies, the audit anchor.
//!
//! One look every quarter of a second covers what other processes change (commands on the vault,
//! editors and git on the policies), so that a change acts well within a second on any file system.
//! What cannot be read leaves the last good state in force, and says so.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::certificates::{self, Certificates};
use super::checkup::Health;
use super::far_side::{breaker, far_side};
use super::issuer_keys::{AllKeys, News, Source};
use super::login::{VaultLogins, check_logins};
use super::open::{Opened, drain_journal, open_unasked, open_vault, write_anchor};
use super::policies::load_policy;
use super::reminders;
use super::space::{Looking, PolicyNews, Space, ways_in};
use super::{Failure, Home};
use crate::agent::{default_workspace, qualified};
use crate::audit::AuditLog;
use crate::config::Config;
use crate::credential::{Credential, Stage};
use crate::files::{self, FileError};
use crate::metrics::{Due, Metrics, Readings};
use crate::ops::{Observe, Readiness};
use crate::outcome::{Code, Refusal};
use crate::proxy::{Gateway, Refresh, State, Workspace, Workspaces};
use crate::record::{AuditSink as _, Event};
use crate::reference::Name;
use crate::secret::Secret;
use crate::supply::{Keep, Keeping};
use crate::upstream::Upstream;
use crate::vault::{
    Action, Administrator, ChangeMark, Fault, MasterKey, Snapshot, Vault, VaultError,
};

/// How often the home is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How soon one look may follow another that a request asked for. Bounds what unknown names cost.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a policy that was put waits for files beside it that are being written.
const SETTLES: Duration = Duration::from_secs(2);

/// How soon a master key that could not be had is looked for again: it may take a program to print it.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The most bytes of a file of runs: somewhat more than all that are seen.
const MAX_RUNS: usize = 1 << 20;

/// How often it is looked for credentials that are due, when nothing has changed.
const REMIND_EVERY: Duration = Duration::from_mins(1);

/// How often the vault notes where the audit log is.
const ANCHOR_EVERY: Duration = Duration::from_secs(1);

/// Why what an administrator asked for is not done, or not known to be.
#[derive(Debug)]
pub(crate) enum Undone {
    /// It failed, and changed nothing.
    Failed(Failure),
    /// The vault did not do it.
    Vault(VaultError),
    /// No record could be made of it, and so it was not begun.
    Unrecordable,
    /// It is written, and not in force or not on record yet.
    Unsettled,
    /// It is written, and the policy has mistakes together with what others wrote meanwhile.
    Mistakes(String),
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<VaultError> for Undone {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

/// Watches over a running proxy.
pub struct Keeper {
    home: Home,
    audit: Arc<AuditLog>,
    metrics: Arc<Metrics>,
    /// Weak, because the gateway holds its keeper.
    gateway: std::sync::OnceLock<Weak<Gateway>>,
    /// Where this process listens, which it never dials.
    own: Vec<SocketAddr>,
    /// Opens the credentials of proxies on the way.
    logins: Arc<VaultLogins>,
    seen: Mutex<Seen>,
    /// The keys of issuers.
    keys: Arc<AllKeys>,
    /// What the listeners show.
    certificates: Mutex<Vec<Certificates>>,
    /// Taken by the request that looks, or waits for the next look. The others wait without a thread
    /// each.
    turn: tokio::sync::Mutex<()>,
}

/// What was seen at the last look. Behind a lock that is held while files are read, and never on
/// the request path.
struct Seen {
    vault: Vault,
    master: MasterKey,
    config: Config,
    keys: Arc<AllKeys>,
    config_stamp: Vec<FileStamp>,
    config_problem: Option<String>,
    mark: Option<ChangeMark>,
    /// The default workspace first.
    spaces: Vec<Space>,
    /// Workspaces that were removed, in which somebody may still be.
    gone: Vec<Space>,
    /// The highest epoch seen. Outlives a vault that cannot be used, so that an older copy is
    /// refused at every look and not only at the first.
    newest: u64,
    vault_problem: Option<String>,
    /// Whether a change of the vault is not in the audit log yet.
    unrecorded: bool,
    /// Loads of policies since the start, of all workspaces.
    generation: u64,
    /// States that requests may still hold.
    retired: Vec<Arc<State>>,
    looked: Option<Instant>,
    anchored: (Instant, u64),
    /// The last verdict on each credential that was tried at its provider.
    health: BTreeMap<String, Health>,
    /// When it was last looked for what is due; none after a change of the vault.
    reminded: Option<Instant>,
    /// When the vault's new master key was last looked for in vain.
    asked: Option<Instant>,
}

/// Tells whether a file may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    path: PathBuf,
    length: u64,
    inode: u64,
    modified: Option<SystemTime>,
}

impl Keeper {
    /// Takes over an opened home.
    ///
    /// # Errors
    /// When the vault or the policies cannot be read: a proxy does not start on a bad home.
    pub(super) fn new(
        opened: Opened,
        audit: Arc<AuditLog>,
        metrics: Arc<Metrics>,
        own: Vec<SocketAddr>,
    ) -> Result<Self, Failure> {
        let Opened { home, config, vault, master } = opened;
        let mark = vault.change_mark()?;
        let snapshots = vault.snapshots()?;
        metrics.reload("config", true);
        let config_stamp = config_stamp(&home, &config);
        let keys = Arc::<AllKeys>::default();
        keys.follow(&config);
        for news in keys.look_at_files(true) {
            if let News::Trouble { issuer, problem } = news {
                return Err(Failure::usage(format!("the keys of {issuer}: {problem}"))
                    .help("mend the file, or `keys` of identity.jwt in locum.yaml"));
            }
        }
        let mut seen = Seen {
            vault,
            master,
            config,
            keys: Arc::clone(&keys),
            config_stamp,
            config_problem: None,
            mark: Some(mark),
            newest: 0,
            spaces: Vec::new(),
            gone: Vec::new(),
            vault_problem: None,
            unrecorded: false,
            generation: 0,
            retired: Vec::new(),
            looked: None,
            anchored: (Instant::now(), 0),
            health: BTreeMap::new(),
            reminded: None,
            asked: None,
        };
        let closed = seen.take(&home, snapshots);
        // The operator's own policy, and the organisation's with it. Another workspace whose policy has
        // mistakes is closed alone.
        load_policy(&home.in_workspace(&default_workspace()))?;
        metrics.reload("policy", seen.policies_are_sound());
        let logins = Arc::new(VaultLogins::new(Arc::clone(&audit)));
        let keeper = Self {
            home,
            logins,
            audit,
            metrics,
            gateway: std::sync::OnceLock::new(),
            own,
            keys,
            seen: Mutex::new(seen),
            certificates: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        };
        for (workspace, problem) in &closed {
            keeper.tell_of_bad_policy(workspace, problem);
        }
        Ok(keeper)
    }

    /// The workspaces to start with.
    pub(super) fn first_workspaces(&self) -> Workspaces {
        self.seen.lock().workspaces()
    }

    /// The far side to start with.
    pub(super) fn first_far_side(&self) -> Result<Upstream, Failure> {
        let seen = self.seen.lock();
        self.far_side(&seen.config, seen.snapshot().as_deref())
    }

    fn far_side(&self, config: &Config, vault: Option<&Snapshot>) -> Result<Upstream, Failure> {
        // Without the vault nothing is known of its credentials; then nothing is sent either.
        if let Some(vault) = vault {
            check_logins(config, &vault.credentials)?;
        }
        far_side(config, &self.own, Arc::<VaultLogins>::clone(&self.logins))
    }

    /// Says whose state to keep.
    pub(super) fn watch_over(self: &Arc<Self>, gateway: &Arc<Gateway>) {
        let _already_set = self.gateway.set(Arc::downgrade(gateway));
        gateway.break_by(breaker(&self.seen.lock().config));
        self.recall_runs(gateway);
        self.logins.open_for(gateway);
        gateway.refresh_with(Arc::<Self>::clone(self));
        gateway.keep_with(Arc::<Self>::clone(self));
    }

    /// Looks at the vault and the policies, and puts what changed in force. True when anything did.
    /// Blocks on files.
    pub(super) fn look(&self, thorough: bool) -> bool {
        self.look_holding(&mut self.seen.lock(), thorough)
    }

    fn look_holding(&self, seen: &mut Seen, thorough: bool) -> bool {
        // The beginning of the look: what is changed while it lasts may have been missed.
        seen.looked = Some(Instant::now());
        let vault = self.look_at_vault(seen);
        let policies = self.look_at_policies(seen, thorough);
        // What lives longer than one decision asks anew whether its key is still there.
        let keys = self.tell_of_keys(self.keys.look_at_files(thorough));
        if vault || keys {
            self.put_in_force(seen);
        } else {
            seen.put_policies_in_force(&policies);
        }
        if vault {
            self.cut(seen);
        }
        // Only now: the record of a change says that it is in force.
        if vault || seen.unrecorded {
            self.record_changes(seen);
        }
        // With a version in its grace no further run begins: what is written now is good also after a
        // crash.
        if vault && seen.spaces.iter().any(|space| space.grace_ends().is_some()) {
            self.save_runs();
        }
        // Taken apart here, and not by the last request that held it.
        seen.retired.retain(|old| Arc::strong_count(old) > 1);
        vault || keys || !policies.is_empty()
    }

    /// Says what became of a look at issuers' keys. True when there are others than before.
    fn tell_of_keys(&self, all: impl IntoIterator<Item = News>) -> bool {
        let mut changed = false;
        for news in all {
            match news {
                News::Changed { issuer, count } => {
                    tracing::info!(issuer, keys = count, "the keys of an issuer were loaded");
                    self.note("issuer-keys-loaded", &format!("{issuer}: {count} keys"));
                    changed = true;
                }
                News::Trouble { issuer, problem } => {
                    tracing::error!(
                        issuer,
                        problem,
                        "the keys of an issuer cannot be had; the last good ones stay in force"
                    );
                    self.note("issuer-keys-rejected", &format!("{issuer}: {problem}"));
                }
            }
        }
        if let Some(sound) = self.keys.sound() {
            self.metrics.reload("issuer-keys", sound);
        }
        changed
    }

    /// Fetches the keys that are due, beside everything else, for as long as `fetches` is there.
    pub(super) fn fetch_due_keys(self: &Arc<Self>, fetches: &mut JoinSet<()>) {
        while fetches.try_join_next().is_some() {}
        for source in self.keys.due() {
            fetches.spawn(Arc::clone(self).fetch_keys(source, Instant::now()));
        }
    }

    async fn fetch_keys(self: Arc<Self>, source: Arc<Source>, asked: Instant) {
        let Some(gateway) = self.gateway() else { return };
        let news = source.fetch(&gateway, asked).await;
        let told = self.apart(move |keeper| {
            if keeper.tell_of_keys(news) {
                keeper.put_in_force(&mut keeper.seen.lock());
            }
        });
        let _done = told.await;
    }

    /// Has the next request decided on what was seen, in every workspace.
    fn put_in_force(&self, seen: &mut Seen) {
        let Some(gateway) = self.gateway() else { return };
        let all: Vec<usize> = (0..seen.spaces.len()).collect();
        seen.put_policies_in_force(&all);
        // Nobody goes into a workspace before it is ready, or after it is gone.
        gateway.set_workspaces(seen.workspaces());
        for space in std::mem::take(&mut seen.gone) {
            seen.retired.push(space.served.set_state(space.closed()));
            let connections = gateway.cut_all(space.name());
            tracing::info!(workspace = %space.name(), connections, "a workspace is gone");
        }
    }

    fn look_at_vault(&self, seen: &mut Seen) -> bool {
        match seen.read_vault(&self.home) {
            Ok(changed) => {
                if seen.vault_problem.take().is_some() {
                    tracing::info!("the vault can be used again");
                }
                if changed {
                    seen.reminded = None;
                }
                changed
            }
            Err(error) => {
                let text = error.to_string();
                let news = seen.vault_problem.as_ref() != Some(&text);
                if news {
                    tracing::error!(
                        error = text,
                        "the vault cannot be used; no credential is injected"
                    );
                    self.note("vault-unusable", &text);
                }
                seen.vault_problem = Some(text);
                seen.mark = None;
                // Fails closed: what was revoked since could not be seen any more.
                let taken = seen.spaces.iter_mut().map(|space| space.snapshot.take().is_some());
                taken.fold(false, |any, had| any | had)
            }
        }
    }

    /// Writes what was done to the vault to the audit log; what fails is tried at every look.
    fn record_changes(&self, seen: &mut Seen) {
        // The record of a change says that it is in force, and what came after the look is not yet.
        let in_force = seen.snapshot().map_or(u64::MAX, |snapshot| snapshot.epoch);
        let recorded = write_anchor(&seen.vault, &seen.config)
            .and_then(|()| drain_journal(&seen.vault, &seen.config, &self.audit, in_force));
        match recorded {
            Ok(()) => seen.unrecorded = false,
            Err(error) => {
                if !std::mem::replace(&mut seen.unrecorded, true) {
                    tracing::error!(%error, "a change of the vault was not recorded yet");
                }
            }
        }
    }

    /// Breaks off what carries a version that was revoked with that wish since the last look.
    fn cut(&self, seen: &mut Seen) {
        for space in &mut seen.spaces {
            let new = space.newly_cut();
            if new.is_empty() {
                continue;
            }
            let workspace = space.name();
            let connections = self.gateway().map_or(0, |gateway| gateway.cut(workspace, &new));
            for (name, version) in new {
                tracing::warn!(
                    credential = %qualified(workspace.as_str(), name.as_str()), version, connections,
                    "what carried it is broken off"
                );
                let event = Event {
                    event: "credential-cut",
                    workspace: Some(workspace.clone()),
                    subject: Some(format!("{name} version {version}")),
                    detail: Some(format!("connections to origins: {connections}")),
                    by: None,
                    vault_epoch: None,
                };
                let _unrecorded = self.audit.event(&event);
            }
        }
    }

    /// Writes down with which versions runs began, for a later process.
    fn save_runs(&self) {
        let Some(bytes) = self.gateway().and_then(|gateway| gateway.runs()) else { return };
        if let Err(error) = files::replace_private(&self.home.runs(), &bytes) {
            tracing::warn!(%error, "after a restart, runs will not be known by their versions");
        }
    }

    /// Knows again the runs of the process before this one.
    fn recall_runs(&self, gateway: &Gateway) {
        let path = self.home.runs();
        match files::read_private(&path, MAX_RUNS) {
            Ok(bytes) if gateway.recall_runs(&bytes) => {}
            Ok(_) => {
                tracing::warn!(path = %path.display(), "these runs cannot be read; they begin anew");
            }
            Err(FileError::Missing(_)) => {}
            Err(error) => tracing::warn!(%error, "runs that were seen before begin anew"),
        }
    }

    /// The last word of a process that ends in order.
    pub(super) fn end(&self) {
        self.anchor(true);
        self.save_runs();
    }

    /// Looks at the policies of every workspace. Returns those that have another one now.
    fn look_at_policies(&self, seen: &mut Seen, thorough: bool) -> Vec<usize> {
        let looking = if thorough { Looking::Asked } else { Looking::Usual };
        let generation = &mut seen.generation;
        let look = |(index, space): (usize, &mut Space)| {
            let news = self.look_at_policy_of(space, generation, looking);
            matches!(news, PolicyNews::Loaded).then_some(index)
        };
        let changed = seen.spaces.iter_mut().enumerate().filter_map(look).collect();
        self.metrics.reload("policy", seen.policies_are_sound());
        changed
    }

    fn look_at_policy_of(
        &self,
        space: &mut Space,
        generation: &mut u64,
        looking: Looking<'_>,
    ) -> PolicyNews {
        let news = space.look_at_policy(*generation + 1, looking);
        match &news {
            PolicyNews::Same | PolicyNews::Written => {}
            PolicyNews::Loaded => {
                *generation += 1;
                let (workspace, rules) = (space.name(), space.policy.len());
                let digest = space.policy.digest();
                tracing::info!(%workspace, generation, digest, rules, "policy reloaded");
                let detail = format!("generation {generation}, digest {digest}");
                self.note_in(Some(workspace), "policy-reloaded", None, &detail);
            }
            PolicyNews::Rejected(text) => self.tell_of_bad_policy(space.name(), text),
        }
        news
    }

    fn tell_of_bad_policy(&self, workspace: &Name, problem: &str) {
        tracing::error!(
            %workspace,
            error = problem,
            "the new policy has mistakes; the last good one stays in force"
        );
        let detail = "the last good policy stays in force";
        self.note_in(Some(workspace), "policy-rejected", None, detail);
    }

    /// How often credentials are to be tried at their providers, if at all.
    pub(super) fn health_every(&self) -> Option<Duration> {
        self.seen.lock().config.credentials.health
    }

    /// Keeps a verdict, for metrics and for lists. Returns the one before.
    pub(super) fn keep_health(&self, of: &Credential, health: Health) -> Option<String> {
        let mut seen = self.seen.lock();
        let Seen { spaces, health: all, .. } = &mut *seen;
        let name = qualified(of.workspace.as_str(), of.name.as_str()).into_owned();
        let before = all.insert(name, health).map(|before| before.verdict);
        // What is gone is not healthy or ill.
        let lives = |name: &str| {
            let own = |space: &Space| {
                let plain = name.rsplit('/').next().unwrap_or_default();
                let known =
                    space.snapshot.as_ref().is_none_or(|s| s.credentials.get(plain).is_some());
                known && *qualified(space.name().as_str(), plain) == *name
            };
            spaces.iter().any(own)
        };
        all.retain(|name, _| lives(name));
        if let Err(error) = self.home.write_health(&seen.health) {
            tracing::warn!(%error, "what is known of the credentials' health could not be written");
        }
        before
    }

    /// Says which credentials are to be rotated, as their dates come near.
    pub(super) fn remind(&self) {
        let mut seen = self.seen.lock();
        if seen.reminded.is_some_and(|at| at.elapsed() < REMIND_EVERY) {
            return;
        }
        if seen.reminded.is_none() {
            let Seen { vault, spaces, .. } = &mut *seen;
            for space in spaces {
                match vault.within(space.served.name(), |vault| vault.scheduled()) {
                    Ok(scheduled) => space.reminders.follow(scheduled),
                    // It is said where the vault itself is looked at.
                    Err(error) => return tracing::debug!(%error, "dates could not be read"),
                }
            }
        }
        seen.reminded = Some(Instant::now());
        let now = reminders::now();
        let due = seen.spaces.iter_mut().flat_map(|space| {
            let due = space.reminders.due(now);
            due.into_iter().map(|reminder| (space.served.name().clone(), reminder))
        });
        let due: Vec<_> = due.collect();
        drop(seen);
        for (workspace, reminder) in due {
            let (credential, text) = (&reminder.credential, &reminder.text);
            let subject = Some(credential.as_str());
            self.note_in(Some(&workspace), reminder.event(), subject, text);
            let credential = qualified(workspace.as_str(), credential.as_str());
            match reminder.stage {
                Stage::Over => tracing::error!(%credential, "to be rotated: {text}"),
                Stage::Near => tracing::warn!(%credential, "to be rotated: {text}"),
                Stage::Soon | Stage::Far => tracing::info!(%credential, "to be rotated: {text}"),
            }
        }
    }

    fn gateway(&self) -> Option<Arc<Gateway>> {
        self.gateway.get().and_then(Weak::upgrade)
    }

    /// Reads the config anew if it changed, or if `asked`. The far side takes the new one at once;
    /// what needs a restart is named.
    pub(super) fn look_at_config(&self, asked: bool) {
        let mut seen = self.seen.lock();
        let now = config_stamp(&self.home, &seen.config);
        let settled = now.iter().all(FileStamp::is_settled);
        // As with policies: what is being written is read when it has been.
        if !asked && (!settled || now == seen.config_stamp) {
            return;
        }
        // Beside the config itself, which comes first.
        let files = now.get(1..) != seen.config_stamp.get(1..);
        if settled {
            seen.config_stamp = now;
        }
        match self.load_config(&seen.config, files, seen.snapshot().as_deref()) {
            Ok(Some(config)) => {
                tracing::info!("config reloaded");
                self.note("config-reloaded", "locum.yaml");
                if settled {
                    seen.config_stamp = config_stamp(&self.home, &config);
                }
                (seen.config, seen.config_problem) = (config, None);
                self.keys.follow(&seen.config);
                self.tell_of_keys(self.keys.look_at_files(true));
                // Who is let in, and how, is part of what requests are decided on.
                self.put_in_force(&mut seen);
                self.metrics.reload("config", true);
            }
            Ok(None) => {
                seen.config_problem = None;
                self.metrics.reload("config", true);
            }
            Err(error) => {
                let text = error.to_string();
                if seen.config_problem.as_ref() != Some(&text) {
                    tracing::error!(
                        error = text,
                        "the new config has mistakes; the last good one stays in force"
                    );
                    self.note("config-rejected", "the last good config stays in force");
                }
                seen.config_problem = Some(text);
                self.metrics.reload("config", false);
            }
        }
    }

    /// Says which certificates to keep in step with their files.
    pub(super) fn keep_certificates(&self, all: Vec<Certificates>) {
        if !all.is_empty() {
            self.metrics.reload("certificate", true);
        }
        self.keys.revoke(all.iter().flat_map(Certificates::lists).cloned().collect());
        *self.certificates.lock() = all;
    }

    /// Reads the certificates of the listeners anew where their files changed, or if `asked`.
    pub(super) fn look_at_certificates(&self, asked: bool) {
        let mut all = self.certificates.lock();
        if all.is_empty() {
            return;
        }
        let config = self.seen.lock().config.clone();
        let mut changed = false;
        for one in all.iter_mut() {
            match one.look(&config, asked) {
                certificates::Look::Same | certificates::Look::Rejected { news: None } => {}
                certificates::Look::Reloaded => {
                    changed = true;
                    tracing::info!(listener = %one.at(), "certificate reloaded");
                    self.note("certificate-reloaded", &one.at().to_string());
                }
                certificates::Look::RunOut(file) => {
                    changed = true;
                    tracing::error!(
                        listener = %one.at(), file,
                        "the revocation list has run out: no certificate of its CA is let in until there is a new one"
                    );
                    self.note("revocation-list-run-out", &file);
                }
                certificates::Look::Rejected { news: Some(error) } => {
                    tracing::error!(
                        listener = %one.at(), error,
                        "the new certificate cannot be used; the last good one is shown"
                    );
                    self.note("certificate-rejected", "the last good certificate is shown");
                }
            }
        }
        self.metrics.reload("certificate", all.iter().all(Certificates::sound));
        if changed {
            // What is revoked now ends what is open.
            self.keys.revoke(all.iter().flat_map(Certificates::lists).cloned().collect());
            self.put_in_force(&mut self.seen.lock());
        }
    }

    /// The new config, put in force; none when it says what the old one did, and the `files` that it
    /// names are as they were.
    fn load_config(
        &self,
        old: &Config,
        files: bool,
        vault: Option<&Snapshot>,
    ) -> Result<Option<Config>, Failure> {
        let new = Config::load(&self.home.config(), self.home.path())?;
        if new == *old && !files {
            return Ok(None);
        }
        let upstream = self.far_side(&new, vault)?;
        for key in old.restart_needed(&new) {
            tracing::warn!(key, "this setting takes effect at the next start");
        }
        if let Some(gateway) = self.gateway() {
            gateway.set_upstream(upstream);
            gateway.break_by(breaker(&new));
        }
        Ok(Some(new))
    }

    /// Writes to the vault what the use of a version has made of its secret, and puts it in force.
    pub(super) async fn renew(
        self: &Arc<Self>,
        (workspace, name): (Name, Name),
        version: u32,
        secret: Secret,
    ) -> Result<(), Failure> {
        let write = move |keeper: &Self| {
            let renew = |vault: &mut Vault| vault.renew(&name, version, &secret);
            keeper.seen.lock().write(&keeper.home, &workspace, renew)?;
            keeper.look(false);
            Ok(())
        };
        let gone = || Failure::new("the thread that writes to the vault has failed");
        self.apart(write).await.ok_or_else(gone)?
    }

    /// Looks something up in the vault as it is now. Blocks on files.
    pub(crate) fn consult<T>(&self, read: impl FnOnce(&mut Vault) -> T) -> Result<T, Failure> {
        let mut seen = self.seen.lock();
        seen.follow_file(&self.home)?;
        Ok(read(&mut seen.vault))
    }

    /// The same in the workspace of an administrator, who must still be one. Nobody is revoked over the
    /// socket while it lasts.
    pub(crate) fn consult_for<T>(
        &self,
        who: &Administrator,
        read: impl FnOnce(&mut Vault) -> Result<T, VaultError>,
    ) -> Result<T, Undone> {
        let read = |vault: &mut Vault| {
            vault.require_administrator(who)?;
            vault.within(&who.workspace, read)
        };
        Ok(self.consult(read)??)
    }

    /// Changes the vault in an administrator's name and workspace. In force, and on record, when it returns.
    /// Blocks on files.
    pub(crate) fn administer<T>(
        &self,
        who: &Administrator,
        change: impl FnOnce(&mut Vault) -> Result<T, VaultError>,
    ) -> Result<T, Undone> {
        let mut seen = self.seen.lock();
        if !self.audit.healthy() {
            return Err(Undone::Unrecordable);
        }
        seen.follow_file(&self.home)?;
        let done = seen.vault.on_behalf_of(who, change);
        // The connection that has written does not see by the mark that it has.
        seen.mark = None;
        self.look_holding(&mut seen, false);
        let done = done?;
        if seen.unrecorded || seen.vault_problem.is_some() {
            return Err(Undone::Unsettled);
        }
        Ok(done)
    }

    /// Takes the policy of a workspace, of which a file has just been put there whole, or taken away: in
    /// force when this returns. Other files that are being written are waited for, and no other workspace's
    /// are looked at. Blocks on files.
    pub(crate) fn take_policy(&self, workspace: &Name, placed: &Path) -> Result<(), Undone> {
        let start = Instant::now();
        loop {
            let mut seen = self.seen.lock();
            let Seen { spaces, generation, .. } = &mut *seen;
            let mut all = spaces.iter_mut().enumerate();
            let Some((index, space)) = all.find(|(_, one)| one.name() == workspace) else {
                return Err(Undone::Unsettled);
            };
            let news = self.look_at_policy_of(space, generation, Looking::Placed(placed));
            let mistakes = space.mistakes().map(str::to_owned);
            self.metrics.reload("policy", seen.policies_are_sound());
            match news {
                PolicyNews::Loaded => seen.put_policies_in_force(&[index]),
                PolicyNews::Written if start.elapsed() < SETTLES => {
                    drop(seen);
                    std::thread::sleep(LOOK_AGAIN);
                    continue;
                }
                PolicyNews::Written => return Err(Undone::Unsettled),
                PolicyNews::Same | PolicyNews::Rejected(_) => {}
            }
            return mistakes.map_or(Ok(()), |mistakes| Err(Undone::Mistakes(mistakes)));
        }
    }

    /// How long what began with the old version of a credential may use it, where nobody says otherwise.
    pub(crate) fn grace(&self) -> Duration {
        self.seen.lock().config.credentials.grace
    }

    /// A workspace as it is served.
    pub(crate) fn served(&self, workspace: &Name) -> Option<Arc<Workspace>> {
        self.gateway()?.workspace(workspace)
    }

    /// Writes down what a version was given in exchange for a refresh token that lies elsewhere.
    pub(super) async fn keep_exchanged(
        self: &Arc<Self>,
        (workspace, name): (Name, Name),
        version: u32,
        (lent, given): (Secret, Secret),
    ) -> Result<(), Failure> {
        let write = move |keeper: &Self| {
            let keep = |vault: &mut Vault| vault.keep_exchanged((&name, version), &lent, &given);
            keeper.seen.lock().write(&keeper.home, &workspace, keep)?;
            keeper.look(false);
            Ok(())
        };
        let gone = || Failure::new("the thread that writes to the vault has failed");
        self.apart(write).await.ok_or_else(gone)?
    }

    /// What was given in exchange for it, if anything was.
    pub(super) async fn exchanged(
        self: &Arc<Self>,
        (workspace, name): (Name, Name),
        lent: Secret,
    ) -> Result<(Secret, Option<Secret>), Failure> {
        let read = move |keeper: &Self| {
            let mut seen = keeper.seen.lock();
            seen.follow_file(&keeper.home)?;
            let given = seen.vault.within(&workspace, |vault| vault.exchanged(&name, &lent))?;
            Ok((lent, given))
        };
        let gone = || Failure::new("the thread that reads the vault has failed");
        self.apart(read).await.ok_or_else(gone)?
    }

    /// Records an event about a credential.
    pub(super) fn note_about(&self, event: &'static str, of: &Credential, detail: &str) {
        self.note_in(Some(&of.workspace), event, Some(of.name.as_str()), detail);
    }

    fn note(&self, event: &'static str, detail: &str) {
        self.note_in(None, event, None, detail);
    }

    fn note_in(
        &self,
        workspace: Option<&Name>,
        event: &'static str,
        subject: Option<&str>,
        detail: &str,
    ) {
        let event = Event {
            event,
            workspace: workspace.cloned(),
            subject: subject.map(str::to_owned),
            detail: Some(detail.to_owned()),
            by: None,
            vault_epoch: None,
        };
        // An unwritable audit log shows in its own metric and in the readiness.
        let _unrecorded = self.audit.event(&event);
    }

    /// Notes in the vault how far the audit log is, about once a second.
    pub(super) fn anchor(&self, now: bool) {
        let anchor = self.audit.anchor();
        let mut seen = self.seen.lock();
        let (at, seq) = seen.anchored;
        if seq == anchor.seq || (!now && at.elapsed() < ANCHOR_EVERY) {
            return;
        }
        match seen.vault.set_audit_anchor(anchor.seq, &anchor.mac) {
            Ok(()) => seen.anchored = (Instant::now(), anchor.seq),
            Err(error) => {
                tracing::warn!(%error, "the audit log could not be anchored in the vault");
            }
        }
    }
}

/// Those that are known to be good or bad.
fn verdicts(health: &BTreeMap<String, Health>) -> Vec<(String, bool)> {
    let known = health.iter().filter(|(_, health)| health.verdict != "unknown");
    known.map(|(name, health)| (name.clone(), health.verdict == "good")).collect()
}

/// When credentials of a workspace are due, as metrics name them.
fn dates(space: &Space) -> impl Iterator<Item = Due> {
    let workspace = space.name().as_str();
    let dates = space.reminders.dates().into_iter();
    dates.map(move |due| {
        let credential = qualified(workspace, &due.credential).into_owned();
        Due { credential, ..due }
    })
}

/// The vault as the config says that it is to be used.
fn as_configured(mut snapshot: Snapshot, config: &Config) -> Snapshot {
    // Nobody else has it yet.
    if let Some(index) = Arc::get_mut(&mut snapshot.credentials) {
        index.trust_claims(config.credentials.trust_claims);
    }
    snapshot
}

impl Seen {
    /// Reads the vault if it changed; true when it did.
    fn read_vault(&mut self, home: &Home) -> Result<bool, Failure> {
        if self.follow_file(home)? {
            self.mark = None;
        }
        let mut mark = self.vault.change_mark()?;
        // A version whose grace is over need not be searched for in answers any more.
        let over = self.spaces.iter().any(Space::grace_is_over);
        let trusts = self.config.credentials.trust_claims;
        let trusted = self.snapshot().map(|old| old.credentials.trusts_claims());
        let as_it_was = !over && trusted.is_none_or(|trusted| trusted == trusts);
        if self.mark == Some(mark) && as_it_was {
            return Ok(false);
        }
        let snapshots = match self.vault.snapshots() {
            Err(error) if matches!(error.fault, Fault::WrongKey) => {
                self.follow_master_key(home)?;
                // Each connection counts for itself.
                mark = self.vault.change_mark()?;
                self.vault.snapshots()?
            }
            other => other?,
        };
        // All of them are of one.
        let epoch = snapshots.first().map_or(0, |snapshot| snapshot.epoch);
        let same = self.snapshot().is_some_and(|old| old.epoch == epoch) && as_it_was;
        if epoch < self.newest {
            return Err(Failure::new("the vault was put back to an older state")
                .help("put back the newest copy of the vault"));
        }
        // One that was removed and added anew since has the name of the old one, and nothing else of it.
        if epoch > self.newest {
            let since = self.vault.journal_since(self.newest)?;
            let removed = since.iter().filter(|line| line.action == Action::WorkspaceRemoved);
            let removed: Vec<&str> = removed.map(|line| &*line.subject).collect();
            let gone = |space: &mut Space| removed.contains(&space.name().as_str());
            self.gone.extend(self.spaces.extract_if(.., gone));
        }
        self.mark = Some(mark);
        for (workspace, problem) in self.take(home, snapshots) {
            tracing::error!(%workspace, error = problem, "the policy of a workspace has mistakes, and nothing is allowed in it");
        }
        Ok(!same)
    }

    /// Takes what the vault says now. Returns the workspaces that are new and whose policy has mistakes.
    fn take(&mut self, home: &Home, snapshots: Vec<Snapshot>) -> Vec<(Name, String)> {
        let named = |space: &Space| snapshots.iter().any(|one| one.workspace == *space.name());
        self.gone.extend(self.spaces.extract_if(.., |space| !named(space)));
        let mut closed = Vec::new();
        for snapshot in snapshots {
            let snapshot = Arc::new(as_configured(snapshot, &self.config));
            self.newest = snapshot.epoch;
            let known = self.spaces.iter_mut().find(|one| *one.name() == snapshot.workspace);
            if let Some(space) = known {
                space.snapshot = Some(snapshot);
                continue;
            }
            self.generation += 1;
            let with = (&self.config, &*self.keys);
            let (space, problem) = Space::open(home, snapshot, with, self.generation);
            closed.extend(problem.map(|problem| (space.name().clone(), problem.to_string())));
            self.spaces.push(space);
        }
        closed
    }

    /// The default workspace's part of the vault; none while that cannot be used.
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.spaces.first().and_then(|space| space.snapshot.clone())
    }

    fn policies_are_sound(&self) -> bool {
        self.spaces.iter().all(Space::is_sound)
    }

    /// Has the next request in these workspaces decided on what was seen.
    fn put_policies_in_force(&mut self, changed: &[usize]) {
        let with = (&self.config, &*self.keys);
        let spaces = changed.iter().filter_map(|index| self.spaces.get(*index));
        let old = spaces.map(|space| space.served.set_state(space.state(with)));
        self.retired.extend(old);
    }

    fn workspaces(&self) -> Workspaces {
        let authn = ways_in(&self.spaces, (&self.config, &self.keys));
        Workspaces::new(authn, self.spaces.iter().map(|one| Arc::clone(&one.served)).collect())
    }

    /// Opens the file that has taken the vault's place, if one has.
    fn follow_file(&mut self, home: &Home) -> Result<bool, Failure> {
        if !self.vault.was_replaced() {
            return Ok(false);
        }
        let path = self.vault.path().to_owned();
        match open_vault(&path, &self.master, &self.config)? {
            Some(vault) => self.vault = vault,
            None => self.follow_master_key(home)?,
        }
        Ok(true)
    }

    /// Opens the vault with the master key that it has now, from where the config says, unless a person
    /// would have to be asked. What needs it is rare: new data keys after a new master key.
    fn follow_master_key(&mut self, home: &Home) -> Result<(), Failure> {
        if self.asked.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return Err(Failure::new("the vault has another master key, which is not to be had"));
        }
        self.asked = Some(Instant::now());
        let (vault, master) = open_unasked(home, &self.config)?;
        (self.vault, self.master, self.asked) = (vault, master, None);
        Ok(())
    }

    /// Over the connection that also reads: it does not see by the mark what it has written itself, so
    /// the next look reads all.
    fn write<T>(
        &mut self,
        home: &Home,
        workspace: &Name,
        write: impl FnOnce(&mut Vault) -> Result<T, VaultError>,
    ) -> Result<T, Failure> {
        self.follow_file(home)?;
        let written = self.vault.within(workspace, write)?;
        self.mark = None;
        Ok(written)
    }
}

impl Refresh for Keeper {
    fn refresh(self: Arc<Self>) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        Box::pin(async move {
            let asked = Instant::now();
            let looked = self.look_soon(asked).await;
            for source in self.keys.wanted() {
                // As a task of its own, so that it goes on when the one who asked goes away.
                let _done = tokio::spawn(Arc::clone(&self).fetch_keys(source, asked)).await;
            }
            looked
        })
    }
}

impl Keeper {
    /// Looks, or waits for a look that began after `asked`.
    async fn look_soon(self: &Arc<Self>, asked: Instant) -> bool {
        let _turn = self.turn.lock().await;
        // Another look may have begun since, and be worth as much as one of our own.
        let last = self.apart(|keeper| keeper.seen.lock().looked).await.flatten();
        if last.is_some_and(|at| at > asked) {
            return true;
        }
        if let Some(wait) = last.and_then(|at| LOOK_AGAIN.checked_sub(at.elapsed())) {
            tokio::time::sleep(wait).await;
            let last = self.apart(|keeper| keeper.seen.lock().looked).await.flatten();
            if last.is_some_and(|at| at > asked) {
                return true;
            }
        }
        // Also when it found nothing: a look that was under way when we came may have.
        self.apart(|keeper| keeper.look(false)).await.is_some()
    }
}

impl Keeper {
    /// Does something on a thread that may block. A look at an unchanged vault is one `stat` and one
    /// counter; at a changed one it reads the vault, which takes milliseconds for a large one, and
    /// whoever asks it meanwhile waits as long.
    async fn apart<R: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&Self) -> R + Send + 'static,
    ) -> Option<R> {
        let keeper = Arc::clone(self);
        tokio::task::spawn_blocking(move || act(&keeper)).await.ok()
    }
}

impl Keep for Keeper {
    fn keep(self: Arc<Self>, credential: Arc<Credential>, token: Secret) -> Keeping<'static> {
        let name = credential.name.clone();
        let writing = tokio::spawn(async move {
            let write = move |keeper: &Self| {
                let write = |vault: &mut Vault| vault.capture(&credential.name, &token);
                let workspace = &credential.workspace;
                let version = keeper.seen.lock().write(&keeper.home, workspace, write)?;
                keeper.look(false);
                Ok::<u32, Failure>(version)
            };
            self.apart(write).await
        });
        Box::pin(async move {
            let error = match writing.await {
                Ok(Some(Ok(version))) => return Ok(version),
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) | Err(_) => "the thread that writes to the vault has failed".to_owned(),
            };
            tracing::error!(credential = %name, %error, "a token that an origin minted could not be kept");
            Err(Refusal::new(Code::CaptureFailed).because("the vault did not take the token"))
        })
    }
}

impl Observe for Keeper {
    fn readings(&self) -> Readings {
        let Some(gateway) = self.gateway() else { return Readings::default() };
        let (leaves, pool, audit) =
            (gateway.leaves(), gateway.upstream().pool_counts(), self.audit.stats());
        let seen = self.seen.lock();
        let snapshots = || seen.spaces.iter().filter_map(|space| space.snapshot.as_ref());
        Readings {
            leaves_issued: leaves.issued(),
            leaves_cached: leaves.len() as u64,
            pool_idle: pool.idle as u64,
            pool_opened: pool.opened,
            pool_reused: pool.reused,
            vault_up: seen.snapshot().is_some(),
            vault_epoch: seen.snapshot().map_or(0, |s| s.epoch),
            credentials: snapshots().map(|s| s.credentials.len() as u64).sum(),
            audit_up: self.audit.healthy(),
            audit_records: audit.accesses + audit.outcomes + audit.events,
            audit_failures: audit.refused_accesses + audit.lost_outcomes + audit.lost_events,
            policy_generation: seen.generation,
            policy_rules: seen.spaces.iter().map(|space| space.policy.len() as u64).sum(),
            due: seen.spaces.iter().flat_map(dates).collect(),
            healthy: verdicts(&seen.health),
        }
    }

    fn readiness(&self) -> Readiness {
        let seen = self.seen.lock();
        let mut problems = Vec::new();
        if let Some(problem) = &seen.vault_problem {
            problems.push(format!("vault: {problem}"));
        }
        if !self.audit.healthy() {
            let trouble = self.audit.trouble().unwrap_or_else(|| "not writable".to_owned());
            problems.push(format!("audit: {trouble}"));
        }
        Readiness { ready: problems.is_empty(), problems }
    }
}

impl FileStamp {
    /// Only whether it is there, and which one: what a directory holds is stamped by itself.
    pub(super) fn presence(path: PathBuf) -> Self {
        Self { length: 0, modified: None, ..Self::of(path) }
    }

    /// Of which file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn of(path: PathBuf) -> Self {
        let metadata = std::fs::metadata(&path).ok();
        Self {
            length: metadata.as_ref().map_or(0, std::fs::Metadata::len),
            inode: metadata.as_ref().map_or(0, std::os::unix::fs::MetadataExt::ino),
            modified: metadata.and_then(|m| m.modified().ok()),
            path,
        }
    }

    /// Whether its time of change is so long ago that a further change would show.
    pub(super) fn is_settled(&self) -> bool {
        const TICK: Duration = Duration::from_millis(50);
        let age = self.modified.and_then(|at| at.elapsed().ok());
        age.is_none_or(|age| age > TICK)
    }
}

/// The state of the config, and of the certificates and lists that it names for origins.
fn config_stamp(home: &Home, config: &Config) -> Vec<FileStamp> {
    let files = config.upstream.hosts.iter().flat_map(|host| {
        let pair = host.client_cert.as_ref();
        [host.ca_file.as_ref(), host.crl_file.as_ref()]
            .into_iter()
            .chain([pair.map(|pair| &pair.certificate), pair.map(|pair| &pair.key)])
            .flatten()
    });
    std::iter::once(home.config()).chain(files.cloned()).map(FileStamp::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{KeyChoice, init};
    use crate::vault::Role;

    fn keeper(directory: &Path) -> Keeper {
        let home = Home::locate(Some(&directory.join("home"))).unwrap();
        init(&home, false, &KeyChoice::Config).unwrap();
        let opened = Opened::open(&home).unwrap();
        let audit = Arc::new(opened.audit().unwrap());
        Keeper::new(opened, audit, Arc::new(Metrics::new().unwrap()), Vec::new()).unwrap()
    }

    #[test]
    fn an_older_vault_is_refused_at_every_look() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path());
        {
            let mut seen = keeper.seen.lock();
            seen.newest += 1; // As if a later change had been seen, and taken back in the file.
            seen.mark = None;
        }
        for _ in 0..3 {
            keeper.look(false);
            let seen = keeper.seen.lock();
            assert!(seen.snapshot().is_none() && seen.vault_problem.is_some());
        }
        keeper.seen.lock().newest -= 1;
        keeper.look(false);
        assert!(keeper.seen.lock().snapshot().is_some());
    }

    #[test]
    fn a_change_is_on_record_only_when_it_is_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path());
        let config = keeper.seen.lock().config.clone();
        let master = MasterKey::load(&directory.path().join("home/master.key")).unwrap();
        let mut vault = Vault::open(&config.vault.store, &master).unwrap();
        // Between the look at the vault and the record of what it has seen.
        vault.agent_add(&"late".parse().unwrap()).unwrap();
        let in_force = keeper.seen.lock().snapshot().unwrap().epoch;
        assert!(in_force < vault.epoch().unwrap());
        keeper.record_changes(&mut keeper.seen.lock());
        assert!(super::super::open::drained(&config) <= in_force);
        assert!(keeper.look(false));
        assert_eq!(super::super::open::drained(&config), vault.epoch().unwrap());
    }

    #[test]
    fn a_change_that_could_not_be_recorded_is_recorded_later() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path());
        let anchor = directory.path().join("home/audit/vault.head");
        std::fs::remove_file(&anchor).unwrap();
        std::fs::create_dir(&anchor).unwrap(); // Nothing can be written there.
        let home = Home::locate(Some(&directory.path().join("home"))).unwrap();
        let config = Config::load(&home.config(), home.path()).unwrap();
        let master = MasterKey::load(&home.master_key()).unwrap();
        let mut vault = Vault::open(&config.vault.store, &master).unwrap();
        vault.agent_add(&"late".parse().unwrap()).unwrap();
        assert!(keeper.look(false));
        assert!(keeper.seen.lock().unrecorded);
        std::fs::remove_dir(&anchor).unwrap();
        keeper.look(false);
        assert!(!keeper.seen.lock().unrecorded && anchor.is_file());
    }

    /// The keeper's home with a second workspace `b` in it, and an owner of that.
    fn with_owner(keeper: &Keeper) -> Administrator {
        let b: Name = "b".parse().unwrap();
        let mut seen = keeper.seen.lock();
        seen.vault.workspace_add(&b).unwrap();
        let token = seen.vault.within(&b, |vault| {
            vault.administrator_add(&"bea".parse().unwrap(), Role::Owner, None)
        });
        let (_, token) = token.unwrap();
        let who = seen.vault.administrator_of(&token, 0).unwrap().unwrap();
        std::fs::create_dir_all(keeper.home.in_workspace(&b).policies()).unwrap();
        seen.mark = None;
        drop(seen);
        keeper.look(false);
        who
    }

    #[test]
    fn a_request_that_waited_while_its_owner_was_revoked_does_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path());
        let who = with_owner(&keeper);
        let add = |name: &str| {
            let name: Name = name.parse().unwrap();
            keeper.administer(&who, move |vault| vault.agent_admit(&name, None, None).map(drop))
        };
        let agents = || keeper.consult_for(&who, |vault| Ok(vault.agents()?.len()));
        add("made").unwrap();
        assert_eq!(agents().unwrap(), 1);
        keeper.administer(&who, |vault| vault.administrator_revoke(&who.name)).unwrap();
        let revoked = |undone: Undone| match undone {
            Undone::Vault(error) => matches!(error.fault, Fault::Revoked(..)),
            _ => false,
        };
        assert!(add("late").is_err_and(revoked) && agents().is_err_and(revoked));
        let mut seen = keeper.seen.lock();
        assert_eq!(seen.vault.within(&who.workspace, |vault| vault.agents()).unwrap().len(), 1);
        // What the proxy itself writes is nobody's.
        seen.vault.agent_add(&"own".parse().unwrap()).unwrap();
        assert!(seen.vault.journal_since(0).unwrap().last().unwrap().by.starts_with("uid"));
    }

    #[test]
    fn a_change_that_is_not_on_record_is_not_called_done() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path());
        let who = with_owner(&keeper);
        let anchor = directory.path().join("home/audit/vault.head");
        std::fs::remove_file(&anchor).unwrap();
        std::fs::create_dir(&anchor).unwrap(); // Nothing can be written there.
        let add = |name: &str| {
            let name: Name = name.parse().unwrap();
            keeper.administer(&who, move |vault| vault.agent_admit(&name, None, None).map(drop))
        };
        assert!(matches!(add("early"), Err(Undone::Unsettled)));
        std::fs::remove_dir(&anchor).unwrap();
        add("late").unwrap();
    }

    #[test]
    fn a_policy_that_is_put_has_no_other_workspaces_files_read() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path());
        let who = with_owner(&keeper);
        let own = keeper.home.in_workspace(&who.workspace).policies();
        let (placed, beside) = (own.join("team.yaml"), own.join("more.yaml"));
        let digests = || {
            let seen = keeper.seen.lock();
            [&seen.spaces[0], &seen.spaces[1]].map(|one| one.policy.digest().to_owned())
        };
        let before = digests();
        let rule = |name: &str| {
            format!(
                "version: 1\nrules:\n  - {{name: {name}, agents: ['*'], to: ['https://a.test']}}\n"
            )
        };
        let half = directory.path().join("home/policies/half.yaml");
        std::fs::write(&half, rule("half")).unwrap();
        std::fs::write(&placed, rule("team")).unwrap();
        keeper.take_policy(&who.workspace, &placed).unwrap();
        let after = digests();
        assert!(after[0] == before[0] && after[1] != before[1]);
        // What is sound by itself, and not with what another has written beside it.
        std::fs::write(&beside, "version: 1\nrules: [{nmae: x}]\n").unwrap();
        std::fs::write(&placed, rule("other")).unwrap();
        let taken = keeper.take_policy(&who.workspace, &placed);
        assert!(matches!(taken, Err(Undone::Mistakes(_))) && digests()[1] == after[1]);
        std::fs::remove_file(&beside).unwrap();
        keeper.take_policy(&who.workspace, &beside).unwrap();
        assert_ne!(digests()[1], after[1]);
    }

    #[test]
    fn policies_that_vanish_at_once_after_a_change_are_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path());
        let file = directory.path().join("home/policies/first.yaml");
        std::fs::write(&file, "version: 1\nrules: []\n").unwrap();
        keeper.look(false);
        std::fs::remove_file(&file).unwrap();
        let generation = keeper.seen.lock().generation;
        assert!(keeper.look(false));
        assert_eq!(keeper.seen.lock().generation, generation + 1);
    }
}
