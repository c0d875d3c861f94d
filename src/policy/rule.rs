//! One rule, as it decides.

use std::collections::HashSet;
use std::fmt;
use std::iter::once;
use std::sync::Arc;

use http::{HeaderMap, Method};

use super::Timeouts;
use super::approval::Approval;
use super::capture::Capture;
use super::conditions::{Conditions, Wanted};
use super::limits::{Meter, Meters};
use super::path::PathPattern;
use super::retry::Retry;
use super::text::TextPattern;
use super::verdict::Kind;
use super::when::When;
use crate::agent::{Identity, LabelName, Labels};
use crate::credential::{Credential, CredentialIndex, Within};
use crate::document::Position;
use crate::host::{Destination, Host, Origin};
use crate::reference::Name;
use crate::request::InboundRequest;
use crate::scrub::Undecodable;

/// One entry of the document, as it decides.
#[allow(clippy::struct_excessive_bools)] // Each is a key of its own, and none implies another.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    /// Whether it stands in the organisation's layer, which bounds all others.
    pub(super) organisation: bool,
    /// Whether it wins over any that allows.
    pub(super) deny: bool,
    /// Whether it is only recorded what it would do.
    pub(super) shadow: bool,
    pub(super) agents: Agents,
    /// `None`: wherever a credential of `uses` is bound.
    pub(super) to: Option<Vec<Destination>>,
    pub(super) methods: Option<Vec<Method>>,
    pub(super) paths: Option<Vec<PathPattern>>,
    pub(super) conditions: Option<Box<Conditions>>,
    pub(super) when: Option<Box<When>>,
    pub(super) uses: Uses,
    pub(super) opaque: bool,
    pub(super) inject_always: bool,
    pub(super) refuse_misplaced: bool,
    pub(super) undecodable: Undecodable,
    /// What is taken out of its answers. Empty in nearly all.
    pub(super) captures: Arc<[Capture]>,
    pub(super) timeouts: Timeouts,
    /// Whether a request is sent again when its origin fails.
    pub(super) retry: Option<Retry>,
    /// Whether sockets may be opened, where the rule says so; else its methods do.
    pub(super) websocket: Option<bool>,
    pub(super) meter: Option<Arc<Meter>>,
    /// Whether a person is asked first.
    pub(super) approval: Option<Approval>,
    /// Whether requests are cut when it is withdrawn, and not finished.
    pub(super) cut_when_withdrawn: bool,
    /// Whether what is not as usual for the agent is refused, and not only told of.
    pub(super) refuse_unusual: bool,
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of the policy's files.
    pub(super) file: u32,
    pub(super) at: Position,
}

#[derive(Debug)]
pub(super) enum Agents {
    Any,
    /// Those with one of the names, and those with all labels of one of the choices.
    Some {
        names: HashSet<Name>,
        labelled: Vec<Choice>,
    },
}

/// Agents by their labels: each of these has to be there, with a value that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice(pub(super) Box<[Wanted<LabelName>]>);

impl Choice {
    /// Whether it takes all agents that `other` takes.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.0.iter().all(|wanted| wanted.is_asked_by(&other.0))
    }

    pub(super) fn takes(&self, labels: &Labels) -> bool {
        let has = |wanted: &Wanted<LabelName>| {
            let value = labels.get(wanted.name.as_str());
            value.is_some_and(|value| wanted.takes(value.as_str().as_bytes()))
        };
        self.0.iter().all(has)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels ")?;
        for (at, wanted) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}={}", wanted.name, Patterns(&wanted.values))?;
        }
        Ok(())
    }
}

/// Values of which one is enough.
struct Patterns<'p>(&'p [TextPattern]);

impl fmt::Display for Patterns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, value) in self.0.iter().enumerate() {
            write!(f, "{}{value}", if at == 0 { "" } else { "|" })?;
        }
        Ok(())
    }
}

/// The credentials that a rule grants.
#[derive(Clone, Debug)]
pub(super) enum Uses {
    /// `"*"`: each credential.
    All,
    /// Credentials and sets, by name.
    Named(HashSet<Name>),
}

impl Default for Uses {
    fn default() -> Self {
        Self::Named(HashSet::new())
    }
}

/// What is asked for, but for the path: that has readings.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) who: &'a Identity,
    pub(super) origin: &'a Origin,
    pub(super) kind: Kind<'a>,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    /// Seconds of Unix time.
    pub(super) at: i64,
}

impl<'a> Asked<'a> {
    pub(super) fn of(who: &'a Identity, request: &'a InboundRequest, at: i64) -> Self {
        Self {
            who,
            origin: request.origin(),
            kind: Kind::of(request),
            query: request.query(),
            headers: request.headers(),
            at,
        }
    }
}

/// One of the things that a rule may be particular about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// `agents`.
    Agent,
    /// `to`, or where the credentials of `use` are bound.
    Destination,
    /// `methods` and `websocket`.
    Method,
    /// `paths`.
    Path,
    /// `query`.
    Query,
    /// `headers`.
    Headers,
    /// `users`.
    User,
    /// `runs`.
    Run,
    /// `when`.
    Time,
}

impl Check {
    /// All of them, the cheap and telling ones first.
    pub(super) const ALL: [Self; 9] = [
        Self::Agent,
        Self::Destination,
        Self::Method,
        Self::Path,
        Self::Query,
        Self::Headers,
        Self::User,
        Self::Run,
        Self::Time,
    ];

    /// What can be told of a CONNECT: nothing of what will be sent in the tunnel.
    pub(super) const OUTSIDE: [Self; 5] =
        [Self::Agent, Self::Destination, Self::User, Self::Run, Self::Time];
}

impl Rule {
    /// Whether the rule matches the request. That it allows it, or not, is another thing.
    pub(super) fn matches(&self, asked: Asked<'_>, path: &str, index: &CredentialIndex) -> bool {
        Check::ALL.iter().all(|check| self.passes(*check, asked, path, index))
    }

    /// Whether the rule speaks of a tunnel, as far as that can be told from outside.
    pub(super) fn concerns(&self, asked: Asked<'_>, index: &CredentialIndex) -> bool {
        Check::OUTSIDE.iter().all(|check| self.passes(*check, asked, "", index))
    }

    /// The one place that compares a request with a rule: decisions and explanations cannot disagree.
    pub(super) fn passes(
        &self,
        check: Check,
        asked: Asked<'_>,
        path: &str,
        index: &CredentialIndex,
    ) -> bool {
        let conditions = self.conditions.as_deref();
        match check {
            Check::Agent => self.agents.contain(&asked.who.agent, &asked.who.labels),
            Check::Destination => {
                self.reaches(asked.origin, index, Within::One(asked.who.environment()))
            }
            Check::Method => self.takes(asked.kind),
            Check::Path => {
                self.paths.as_ref().is_none_or(|paths| paths.iter().any(|p| p.matches(path)))
            }
            Check::Query => conditions.is_none_or(|c| c.query(asked.query, self.deny)),
            Check::Headers => conditions.is_none_or(|c| c.headers(asked.headers, self.deny)),
            Check::User => conditions.is_none_or(|c| c.users(&asked.who.context)),
            Check::Run => conditions.is_none_or(|c| c.runs(&asked.who.context)),
            Check::Time => self.when.as_ref().is_none_or(|when| when.contains(asked.at)),
        }
    }

    fn takes(&self, kind: Kind<'_>) -> bool {
        match kind {
            Kind::Request(method) => self.methods.as_ref().is_none_or(|m| m.contains(method)),
            // It begins with a GET, and whoever denies that denies what comes of it.
            Kind::WebSocket if self.deny => {
                self.websocket == Some(false)
                    || self.methods.as_ref().is_none_or(|m| m.contains(&Method::GET))
            }
            // A rule that lists methods was written to say what may be done, and a socket is none of
            // them.
            Kind::WebSocket => self.websocket.unwrap_or(self.methods.is_none()),
        }
    }

    /// Whether the rule may speak of `host`: it names it, or has a pattern, or names nowhere.
    pub(super) fn may_name(&self, host: &Host) -> bool {
        let mut to = self.to.iter().flatten();
        self.to.is_none() || to.any(|d| d.host.exact().is_none_or(|exact| exact == host))
    }

    /// Whether the rule speaks of `origin`.
    pub(super) fn reaches(
        &self,
        origin: &Origin,
        index: &CredentialIndex,
        within: Within<'_>,
    ) -> bool {
        match &self.to {
            Some(to) => to.iter().any(|d| d.matches(origin)),
            None => self.uses.bound_to(origin, index, within).next().is_some(),
        }
    }

    /// Whether the rule puts a credential into requests to `origin` that refer to none.
    pub(super) fn injects_at(
        &self,
        origin: &Origin,
        index: &CredentialIndex,
        within: Within<'_>,
    ) -> bool {
        let mut bound = self.uses.bound_to(origin, index, within);
        self.inject_always && bound.any(|c| c.version.is_some())
    }

    /// What it counts, as the decisions share it.
    pub(super) fn meters(&self) -> Meters {
        Meters(self.meter.iter().cloned().collect())
    }
}

impl Agents {
    pub(super) fn contain(&self, agent: &Name, labels: &Labels) -> bool {
        match self {
            Self::Any => true,
            Self::Some { names, labelled } => {
                names.contains(agent) || labelled.iter().any(|choice| choice.takes(labels))
            }
        }
    }
}

impl Uses {
    /// Whether it grants nothing.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Named(names) if names.is_empty())
    }

    /// The credentials among these that may go to `origin`, some of them perhaps twice; of a value, what it
    /// is in those environments.
    ///
    /// It has to agree with [`Self::contain`]: a text that is granted and not listed here would be injected
    /// into heads, and no body would be read for it.
    pub(super) fn bound_to<'a>(
        &'a self,
        origin: &'a Origin,
        index: &'a CredentialIndex,
        within: Within<'a>,
    ) -> impl Iterator<Item = &'a Arc<Credential>> {
        let (all, named) = match self {
            Self::All => (Some(index.concerned(origin)), None),
            Self::Named(names) => (None, Some(names)),
        };
        // What a value leads to is there under its own name, but for the texts.
        let all = all.into_iter().flatten().flat_map(move |one| {
            let (own, value) = if one.is_value() { (None, Some(one)) } else { (Some(one), None) };
            let held = value.into_iter().flat_map(move |v| index.held(v.name.as_str(), within));
            own.into_iter().chain(held.filter(|c| c.as_text().is_some() && c.is_bound_to(origin)))
        });
        let named =
            named.into_iter().flatten().flat_map(move |name| granted_by(name, index, within));
        all.chain(named.filter(|c| c.is_bound_to(origin)))
    }

    /// All that the names grant, some perhaps twice; of `"*"`, which grants what there is, nothing.
    pub(super) fn named<'a>(
        &'a self,
        index: &'a CredentialIndex,
    ) -> impl Iterator<Item = &'a Arc<Credential>> {
        let names = match self {
            Self::All => None,
            Self::Named(names) => Some(names),
        };
        names.into_iter().flatten().flat_map(|name| granted_by(name, index, Within::Any))
    }

    /// Whether it grants the credential, by its own name, a value's or a set's.
    pub(super) fn contain(&self, credential: &Credential, index: &CredentialIndex) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => {
                let granted = |name: &Name| {
                    names.contains(name)
                        || index.sets_with(name).iter().any(|set| names.contains(set))
                };
                credential.names().any(granted)
            }
        }
    }
}

/// What the name of a credential, a value or a set grants: the credentials themselves, and what serves
/// their references or is their value.
fn granted_by<'a>(
    name: &'a Name,
    index: &'a CredentialIndex,
    within: Within<'a>,
) -> impl Iterator<Item = &'a Arc<Credential>> {
    let members = index.set(name.as_str()).unwrap_or_default();
    once(name).chain(members).flat_map(move |name| {
        let name = name.as_str();
        let own = index.get(name).into_iter().chain(index.servers(name));
        own.chain(index.held(name, within))
    })
}
