//! One workspace as the proxy serves it, and the way in to all of them.
//!
//! Whoever has been authenticated is in a workspace, and holds it from there on: the state that its
//! requests are decided on, the connections that count as its agents', what rests of its credentials. No
//! step of a request looks for a workspace by its name, so none can find another's.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::sync::watch;

use super::distrust::Distrust;
use super::spares::Spares;
use super::{Gateway, State, unix_now};
use crate::agent::Identity;
use crate::agent::default_workspace;
use crate::authn::{Authenticators, Denied, Shown};
use crate::inject;
use crate::outcome::{Code, Refusal};
use crate::record::Use;
use crate::reference::Name;

/// How often a tunnel and a socket ask whether their token has run out, beside each time there is
/// news.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(5);

/// A workspace, for as long as it is served or somebody is in it.
pub struct Workspace {
    name: Name,
    state: ArcSwap<State>,
    connections: DashMap<Name, usize>,
    /// Bytes of each agent's bodies that are held in memory.
    bodies: DashMap<Name, usize>,
    pub(super) spares: Spares,
    pub(super) distrust: Distrust,
    /// Tells what lives longer than one decision that there is a new state.
    news: watch::Sender<()>,
}

impl Workspace {
    /// One that begins with this state.
    #[must_use]
    pub fn new(name: Name, state: State) -> Arc<Self> {
        Arc::new(Self {
            name,
            state: ArcSwap::from_pointee(state),
            connections: DashMap::new(),
            bodies: DashMap::new(),
            spares: Spares::default(),
            distrust: Distrust::default(),
            news: watch::Sender::new(()),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The state of this moment.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Replaces the state: the next request, also in open tunnels, is decided on the new one. Requests
    /// that have begun hold the old one, which is returned: whoever lets go of it last takes it apart,
    /// and of 100,000 rules that is 50 ms, in which a core does nothing else.
    pub fn set_state(&self, state: State) -> Arc<State> {
        let old = self.state.swap(Arc::new(state));
        self.news.send_replace(());
        old
    }

    /// Whether what was decided on `state` may still leave for this agent, with these credentials.
    /// Nearly always the state is the same still, and this is one comparison.
    pub(super) fn still(
        &self,
        state: &Arc<State>,
        who: &Identity,
        uses: &[Use],
    ) -> Result<(), Refusal> {
        let now = self.state.load();
        if Arc::ptr_eq(&now, state) {
            return Ok(());
        }
        if now.sealed.is_none() {
            return Err(Refusal::new(Code::VaultUnavailable));
        }
        if !now.authn.still_valid(who, unix_now()) {
            return Err(Refusal::new(Code::AgentRevoked));
        }
        let stands = |used: &Use| {
            let version = used.version.unwrap_or_default();
            now.credentials.stands(used.credential.as_str(), version)
        };
        if uses.iter().all(stands) { Ok(()) } else { Err(Refusal::new(Code::CredentialRevoked)) }
    }

    /// Goes on at once where nothing has changed since `state`; else asks what stands against it now.
    pub(super) fn is_as(
        &self,
        state: &Arc<State>,
        against: impl FnOnce(&State) -> Option<Code>,
    ) -> Result<(), Refusal> {
        let now = self.state.load();
        if Arc::ptr_eq(&now, state) {
            return Ok(());
        }
        let refused =
            |code| Refusal::new(code).because("it is not allowed any more, after the wait");
        against(&now).map_or(Ok(()), |code| Err(refused(code)))
    }

    /// Whether what carries one of these was broken off for it.
    pub(super) fn is_cut(&self, uses: &[Use]) -> bool {
        let state = self.state.load();
        let Some(sealed) = state.sealed.as_ref().filter(|sealed| !sealed.cut.is_empty()) else {
            return false;
        };
        uses.iter().any(|used| {
            used.version.is_some_and(|v| sealed.cut.contains(&(used.credential.clone(), v)))
        })
    }

    /// A place for one more connection of `agent`; none when it has as many as it may.
    pub(super) fn place(self: &Arc<Self>, agent: &Name, limit: usize) -> Result<Place, Refusal> {
        let mut open = self.connections.entry(agent.clone()).or_insert(0);
        if *open >= limit {
            return Err(Refusal::with_detail(
                Code::Overloaded,
                format!("This agent has {limit} connections open, which is as many as it may"),
            ));
        }
        *open += 1;
        Ok(Place { workspace: Arc::clone(self), agent: agent.clone() })
    }

    /// Counts so many more bytes of bodies of `agent`, if that is no more than `most` then.
    pub(super) fn takes(&self, agent: &Name, more: usize, most: usize) -> bool {
        let mut held = self.bodies.entry(agent.clone()).or_insert(0);
        let fits = held.saturating_add(more) <= most;
        *held += if fits { more } else { 0 };
        fits
    }

    /// Counts so many bytes less.
    pub(super) fn gives_back(&self, agent: &Name, bytes: usize) {
        if let Some(mut held) = self.bodies.get_mut(agent) {
            *held = held.saturating_sub(bytes);
        }
        self.bodies.remove_if(agent, |_, held| *held == 0);
    }

    /// Waits for a reason to end what lives longer than one decision: asks now, at each new state,
    /// and now and then.
    pub(super) async fn until<T>(&self, mut reason: impl FnMut(&State) -> Option<T>) -> T {
        let mut news = self.news.subscribe();
        loop {
            if let Some(found) = reason(&self.state()) {
                return found;
            }
            let _either = tokio::time::timeout(LOOK_AT_CLOCK, news.changed()).await;
        }
    }
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspace").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One tunnel among those that its agent may have open. Given back on drop.
pub(super) struct Place {
    workspace: Arc<Workspace>,
    agent: Name,
}

impl Place {
    /// Whether it is one of the caller's.
    pub(super) fn is_of(&self, caller: &super::Caller) -> bool {
        self.agent == caller.identity.agent && Arc::ptr_eq(&self.workspace, &caller.workspace)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connections = &self.workspace.connections;
        if let Some(mut open) = connections.get_mut(&self.agent) {
            *open = open.saturating_sub(1);
        }
        // So that the map holds busy agents only.
        connections.remove_if(&self.agent, |_, open| *open == 0);
    }
}

/// The workspaces of a home, and who may go into which.
#[derive(Clone)]
pub struct Workspaces {
    authn: Authenticators,
    all: Arc<[Arc<Workspace>]>,
}

impl Workspaces {
    /// These, of which the first is the default one, with what knows the agents of all of them.
    #[must_use]
    pub fn new(authn: Authenticators, all: Vec<Arc<Workspace>>) -> Self {
        Self { authn, all: all.into() }
    }

    /// The default one alone.
    #[must_use]
    pub fn one(state: State) -> Self {
        let authn = state.authn.clone();
        Self::new(authn, vec![Workspace::new(default_workspace(), state)])
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Workspace>> {
        self.all.iter()
    }

    fn find(&self, name: &Name) -> Option<&Arc<Workspace>> {
        self.iter().find(|workspace| workspace.name == *name)
    }
}

impl std::fmt::Debug for Workspaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Gateway {
    /// The workspaces of this moment.
    #[must_use]
    pub fn workspaces(&self) -> Arc<Workspaces> {
        self.workspaces.load_full()
    }

    /// Replaces them: who comes from now on is let in by the new ones. Whoever is in a workspace stays
    /// in it, so one that is gone has to be given a state in which nobody stands any more.
    pub fn set_workspaces(&self, workspaces: Workspaces) {
        self.workspaces.store(Arc::new(workspaces));
    }

    /// The default workspace, which every home has. What belongs to the home itself is done in it.
    #[must_use]
    pub fn default_workspace(&self) -> &Arc<Workspace> {
        &self.default
    }

    /// The workspace of a name, if it is served.
    #[must_use]
    pub fn workspace(&self, name: &Name) -> Option<Arc<Workspace>> {
        self.workspaces.load().find(name).map(Arc::clone)
    }

    /// Who the caller is, and where it may go.
    pub(super) fn let_in(
        &self,
        shown: &Shown<'_>,
    ) -> Result<(Arc<Workspace>, Arc<Identity>), Denied> {
        let workspaces = self.workspaces.load();
        let identity = workspaces.authn.authenticate(shown, unix_now())?;
        let workspace = workspaces.find(&identity.workspace).ok_or(Denied::Unknown)?;
        Ok((Arc::clone(workspace), Arc::new(identity)))
    }

    /// Breaks off what carries one of these versions of a workspace's credentials, and says how many
    /// connections that were. To be called when they are revoked in the state. Sockets end by themselves.
    pub fn cut(&self, workspace: &Name, versions: &[(Name, u32)]) -> usize {
        self.upstream().cut(|principal| {
            let carries = |(name, version): &(Name, u32)| {
                inject::carries(principal, (workspace, name), *version)
            };
            versions.iter().any(carries)
        })
    }

    /// Breaks off what goes out for anybody of a workspace, which is gone.
    pub fn cut_all(&self, workspace: &Name) -> usize {
        self.upstream().cut(|principal| inject::is_of(principal, workspace))
    }
}
