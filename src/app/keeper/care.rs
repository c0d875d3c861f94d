//! What is told of the credentials and of the proxy: health, dates, readings.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Keeper, Seen};
use crate::agent::qualified;
use crate::app::checkup::Health;
use crate::app::reminders;
use crate::app::space::Space;
use crate::credential::{Credential, Stage};
use crate::metrics::{Due, Readings};
use crate::ops::{Observe, Readiness};

/// How often it is looked for credentials that are due, when nothing has changed.
const REMIND_EVERY: Duration = Duration::from_mins(1);

impl Keeper {
    /// How often credentials are to be tried at their providers, if at all.
    pub(in crate::app) fn health_every(&self) -> Option<Duration> {
        self.seen.lock().config.credentials.health
    }

    /// Keeps a verdict, for metrics and for lists. Returns the one before.
    pub(in crate::app) fn keep_health(&self, of: &Credential, health: Health) -> Option<String> {
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
    pub(in crate::app) fn remind(&self) {
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
}

impl Observe for Keeper {
    fn readings(&self) -> Readings {
        let Some(gateway) = self.gateway() else { return Readings::default() };
        let (leaves, pool, audit) =
            (gateway.leaves(), gateway.upstream().pool_counts(), self.audit.stats());
        let seen = self.seen.lock();
        let snapshots = || seen.spaces.iter().filter_map(|space| space.snapshot.as_ref());
        Readings {
            connections: gateway.connections() as u64,
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
            policies: seen.spaces.iter().map(in_force).collect(),
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

/// Those that are known to be good or bad.
fn verdicts(health: &BTreeMap<String, Health>) -> Vec<(String, bool)> {
    let known = health.iter().filter(|(_, health)| health.verdict != "unknown");
    known.map(|(name, health)| (name.clone(), health.verdict == "good")).collect()
}

/// The workspace and the digest of its policy.
fn in_force(space: &Space) -> (String, String) {
    (space.name().to_string(), space.policy.digest().to_owned())
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
