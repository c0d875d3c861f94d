//! What is kept in step for one workspace: its part of the vault, its policy, and the state that the
//! proxy serves it with.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::identity::{agents, authenticators};
use super::issuer_keys::AllKeys;
use super::policies::{load_policy, stamp};
use super::reminders::Reminders;
use super::stamp::FileStamp;
use super::{Failure, Home};
use crate::authn::{Agents, Authenticators, Directory};
use crate::config::Config;
use crate::policy::Policy;
use crate::proxy::{State, Workspace};
use crate::reference::Name;
use crate::vault::Snapshot;

/// One workspace of a running proxy.
pub(super) struct Space {
    /// The home, seen from this workspace.
    home: Home,
    /// As the proxy serves it.
    pub(super) served: Arc<Workspace>,
    /// None while the vault cannot be used.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// The versions that were cut, at the start or since.
    cut: HashSet<(Name, u32)>,
    pub(super) policy: Arc<Policy>,
    /// None when the next look must read the files, whatever their stamps say.
    stamp: Option<Vec<FileStamp>>,
    problem: Option<String>,
    /// Which load of a policy this one is, of all that the process has made.
    generation: u64,
    pub(super) reminders: Reminders,
}

/// How policy files are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Looking<'p> {
    /// If they have changed, and once they are settled.
    Usual,
    /// Now, whatever their stamps say: a person says that they are whole.
    Asked,
    /// Once all but this one are settled. It was put in its place whole, or taken away.
    Placed(&'p Path),
}

/// What a look at the policy files came to.
#[derive(Debug)]
pub(super) enum PolicyNews {
    /// They say what they said.
    Same,
    /// They are being written.
    Written,
    /// Another policy is to be put in force.
    Loaded,
    /// They have mistakes, which were not told of yet: the last good one stays.
    Rejected(String),
}

impl Space {
    /// A workspace as the vault has it, and its policy; and what is wrong with that, if anything is: then
    /// nothing is allowed until it is mended.
    pub(super) fn open(
        home: &Home,
        snapshot: Arc<Snapshot>,
        (config, keys): (&Config, &AllKeys),
        generation: u64,
    ) -> (Self, Option<Failure>) {
        let home = home.in_workspace(&snapshot.workspace);
        // What is not settled is read once more at the first look.
        let stamp = Some(stamp(&home)).filter(|all| all.iter().all(FileStamp::is_settled));
        let (policy, failure) = match load_policy(&home) {
            Ok(policy) => (Arc::new(policy), None),
            Err(failure) => (Arc::default(), Some(failure)),
        };
        let state = state((config, keys), Some(&snapshot), (&policy, generation));
        let space = Self {
            served: Workspace::new(snapshot.workspace.clone(), state),
            cut: snapshot.cut.clone(),
            snapshot: Some(snapshot),
            policy,
            stamp,
            problem: failure.as_ref().map(ToString::to_string),
            generation,
            reminders: Reminders::default(),
            home,
        };
        (space, failure)
    }

    pub(super) fn name(&self) -> &Name {
        self.served.name()
    }

    /// Whether the last look at its policy found no mistake.
    pub(super) fn is_sound(&self) -> bool {
        self.problem.is_none()
    }

    /// Those that the last look at its policy found.
    pub(super) fn mistakes(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What requests of it are to be decided on.
    pub(super) fn state(&self, with: (&Config, &AllKeys)) -> State {
        state(with, self.snapshot.as_ref(), (&self.policy, self.generation))
    }

    /// A state in which nobody stands any more: for whoever is in a workspace that is gone.
    pub(super) fn closed(&self) -> State {
        State {
            policy: Arc::default(),
            generation: self.generation,
            credentials: Arc::default(),
            authn: Authenticators::default(),
            // That it cannot be used would be another reason, and not the true one.
            sealed: self.snapshot.clone(),
        }
    }

    /// Its agents, if the vault can be used.
    pub(super) fn agents(&self) -> Option<Arc<Agents>> {
        self.snapshot.as_ref().map(|snapshot| agents(snapshot))
    }

    /// Whether a version's grace has ended since the vault was read.
    pub(super) fn grace_is_over(&self) -> bool {
        self.grace_ends().is_some_and(is_over)
    }

    /// When the first grace of a version is over.
    pub(super) fn grace_ends(&self) -> Option<i64> {
        self.snapshot.as_ref().and_then(|snapshot| snapshot.grace_ends)
    }

    /// The versions that were revoked with the wish to cut them since this was asked last.
    pub(super) fn newly_cut(&mut self) -> Vec<(Name, u32)> {
        let Some(snapshot) = &self.snapshot else { return Vec::new() };
        let new: Vec<_> = snapshot.cut.difference(&self.cut).cloned().collect();
        if !new.is_empty() {
            self.cut.clone_from(&snapshot.cut);
        }
        new
    }

    /// Looks at the policy files, and takes what they say now. `next` is what a load would be numbered.
    pub(super) fn look_at_policy(&mut self, next: u64, looking: Looking<'_>) -> PolicyNews {
        let now = stamp(&self.home);
        // A file that was written in this very moment may be half of what is meant, and half a rule
        // may allow more than the whole: it is read at the next look.
        let settled = now.iter().all(FileStamp::is_settled);
        let others_settled = |placed: &Path| {
            now.iter().filter(|one| one.path() != placed).all(FileStamp::is_settled)
        };
        match looking {
            Looking::Usual if !settled => return PolicyNews::Written,
            Looking::Usual if self.stamp.as_ref() == Some(&now) => return PolicyNews::Same,
            Looking::Placed(path) if !others_settled(path) => return PolicyNews::Written,
            _ => {}
        }
        let loaded = load_policy(&self.home);
        if !matches!(looking, Looking::Asked) && stamp(&self.home) != now {
            return PolicyNews::Written; // While it was read: once more at the next look.
        }
        self.stamp = settled.then_some(now);
        match loaded {
            Ok(policy) if policy.digest() == self.policy.digest() => {
                self.problem = None;
                PolicyNews::Same
            }
            Ok(mut policy) => {
                policy.take_over(&self.policy);
                (self.policy, self.generation, self.problem) = (Arc::new(policy), next, None);
                PolicyNews::Loaded
            }
            Err(error) => {
                let text = error.to_string();
                let news = self.problem.as_ref() != Some(&text);
                self.problem = Some(text.clone());
                if news { PolicyNews::Rejected(text) } else { PolicyNews::Same }
            }
        }
    }
}

/// The ways in to all of these workspaces.
pub(super) fn ways_in(spaces: &[Space], (config, keys): (&Config, &AllKeys)) -> Authenticators {
    let all: Vec<Arc<Agents>> = spaces.iter().filter_map(Space::agents).collect();
    if all.is_empty() {
        // Nobody, while nobody can be told from anybody.
        return Authenticators::default();
    }
    authenticators(config, &Directory::new(all), keys)
}

fn state(
    (config, keys): (&Config, &AllKeys),
    snapshot: Option<&Arc<Snapshot>>,
    (policy, generation): (&Arc<Policy>, u64),
) -> State {
    let policy = Arc::clone(policy);
    match snapshot {
        Some(snapshot) => State {
            policy,
            generation,
            credentials: Arc::clone(&snapshot.credentials),
            authn: authenticators(config, &agents(snapshot).into(), keys),
            sealed: Some(Arc::clone(snapshot)),
        },
        None => State {
            policy,
            generation,
            credentials: Arc::default(),
            // Nobody, while nobody can be told from anybody.
            authn: Authenticators::default(),
            sealed: None,
        },
    }
}

fn is_over(second: i64) -> bool {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).is_ok_and(|now| now > second)
}
