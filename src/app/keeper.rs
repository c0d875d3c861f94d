//! Keeping a running proxy in step with its home: the vault, the policies, the audit anchor.
//!
//! One look every quarter of a second covers what other processes change (commands on the vault,
//! editors and git on the policies), so that a change acts well within a second on any file system.
//! What cannot be read leaves the last good state in force, and says so.

mod administered;
mod care;
mod seen;
#[cfg(test)]
mod tests;
mod written;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::certificates::{self, Certificates};
use super::far_side::{breaker, far_side};
use super::issuer_keys::{AllKeys, News, Source};
use super::login::{VaultLogins, check_logins};
use super::open::{Opened, drain_journal, write_anchor};
use super::policies::load_policy;
use super::space::{Looking, PolicyNews, Space};
use super::stamp::{FileStamp, config_stamp};
use super::{Failure, Home};
use crate::agent::{default_workspace, qualified};
use crate::audit::AuditLog;
use crate::config::Config;
use crate::credential::Credential;
use crate::files::{self, FileError};
use crate::metrics::Metrics;
use crate::proxy::{Gateway, Refresh, Workspaces};
use crate::record::{AuditSink as _, Event};
use crate::reference::Name;
use crate::upstream::Upstream;
use crate::vault::Snapshot;

pub(crate) use administered::Undone;

use seen::Seen;

/// How often the home is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How soon one look may follow another that a request asked for. Bounds what unknown names cost.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The most bytes of a file of runs: somewhat more than all that are seen.
const MAX_RUNS: usize = 1 << 20;

/// How often it is said that it cannot.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// How often the vault notes where the audit log is.
const ANCHOR_EVERY: Duration = Duration::from_secs(1);

/// Watches over a running proxy.
pub struct Keeper {
    home: Home,
    audit: Arc<AuditLog>,
    metrics: Arc<Metrics>,
    /// Weak, because the gateway holds its keeper.
    gateway: std::sync::OnceLock<Weak<Gateway>>,
    /// Where this process listens, which it never dials.
    own: Vec<SocketAddr>,
    /// What it was started with: some of it holds until its end.
    started: Config,
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
        let started = config.clone();
        let mark = vault.change_mark()?;
        let snapshots = vault.snapshots()?;
        metrics.reload("config", true);
        let mut config_stamp: Vec<_> =
            config_stamp(&home, &config).into_iter().map(FileStamp::once_settled).collect();
        if Config::load(&home.config(), home.path()).as_ref() != Ok(&config) {
            // It changed since it was read. The first look finds that.
            config_stamp.clear();
        }
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
            unanchored: None,
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
            started,
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
        // Made before, so that whoever is none any more inside is none at the door in the next moment.
        let workspaces = seen.workspaces();
        seen.put_policies_in_force(&all);
        // Nobody goes into a workspace before it is ready, or after it is gone.
        gateway.set_workspaces(workspaces);
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
            seen.config_stamp.clone_from(&now);
        }
        match self.load_config(&seen.config, files, seen.snapshot().as_deref()) {
            Ok(Some((config, stamp))) => {
                tracing::info!("config reloaded");
                self.note("config-reloaded", "locum.yaml");
                if settled {
                    // Of the config itself, what it was before it was read: it may have changed again.
                    let files = stamp.into_iter().skip(1).map(FileStamp::once_settled);
                    seen.config_stamp = now.into_iter().take(1).chain(files).collect();
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
    ) -> Result<Option<(Config, Vec<FileStamp>)>, Failure> {
        let new = Config::load(&self.home.config(), self.home.path())?;
        if new == *old && !files {
            return Ok(None);
        }
        // Before its files are read.
        let stamp = config_stamp(&self.home, &new);
        let upstream = self.far_side(&new, vault)?;
        // What is put back to what is in force needs no start, and what was told is not told again.
        let changed = old.restart_needed(&new);
        for key in self.started.restart_needed(&new).iter().filter(|key| changed.contains(key)) {
            tracing::warn!(key, "this setting takes effect at the next start");
        }
        if let Some(gateway) = self.gateway() {
            gateway.set_upstream(upstream);
            gateway.break_by(breaker(&new));
        }
        Ok(Some((new, stamp)))
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
            Ok(()) => {
                seen.anchored = (Instant::now(), anchor.seq);
                if seen.unanchored.take().is_some() {
                    tracing::info!("the audit log is anchored in the vault again");
                }
            }
            Err(error) => {
                // A disk that is full stays so for a while, and its log is on it too.
                seen.anchored.0 = Instant::now();
                if seen.unanchored.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
                    seen.unanchored = Some(Instant::now());
                    tracing::warn!(%error, "the audit log could not be anchored in the vault");
                }
            }
        }
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
