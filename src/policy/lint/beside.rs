//! Rules beside what a vault has, or what their tests suppose of one: names that it lacks, destinations at
//! which no credential may arrive, and what no rule is for.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::rule::{Agents, Choice, Rule, Uses};
use super::super::{Group, Policy, sorted};
use super::spots::About;
use super::{Found, LintKind};
use crate::agent::Labels;
use crate::credential::{Credential, CredentialIndex};
use crate::document::suggest;
use crate::reference::Name;

/// Destinations at which none of the rule's credentials may arrive.
pub(super) fn bindings<'p>(
    policy: &'p Policy,
    index: &CredentialIndex,
    found: &mut Vec<Found<'p>>,
) {
    let known =
        |name: &Name| index.referred(name.as_str()).is_some() || index.set(name.as_str()).is_some();
    for rule in policy.rules.iter().filter(|rule| !rule.deny && !rule.uses.is_empty()) {
        let Uses::Named(names) = &rule.uses else { continue };
        if !names.iter().all(known) {
            continue;
        }
        for (at, destination) in rule.to.iter().flatten().enumerate() {
            let mut granted = rule.uses.named(index);
            let arrives = |c: &Credential| c.destinations.iter().any(|d| d.meets(destination));
            if !granted.any(|credential| arrives(credential)) {
                let message = format!("no credential of `use` may go to {destination}");
                let about = About::Item(rule, "to", at);
                found.push(Found::new(LintKind::WiderThanBinding, about, message));
            }
        }
    }
}

/// What the rules of one layer that can allow anything are for.
#[derive(Default)]
struct For<'p> {
    anyone: bool,
    agents: HashSet<&'p Name>,
    choices: BTreeMap<String, &'p Choice>,
    all: bool,
    uses: HashSet<&'p Name>,
}

impl<'p> For<'p> {
    fn of(rules: impl Iterator<Item = &'p Rule>) -> Self {
        let mut found = Self::default();
        for rule in rules {
            match &rule.agents {
                Agents::Any => found.anyone = true,
                Agents::Some { names, labelled } => {
                    found.agents.extend(names);
                    found.choices.extend(labelled.iter().map(|one| (one.to_string(), one)));
                }
            }
            match &rule.uses {
                Uses::All => found.all = true,
                Uses::Named(names) => found.uses.extend(names),
            }
        }
        found
    }

    fn has_agent(&self, name: &Name, labels: &Labels) -> bool {
        self.anyone
            || self.agents.contains(name)
            || self.choices.values().any(|choice| choice.takes(labels))
    }

    fn grants(&self, credential: &Credential, index: &CredentialIndex) -> bool {
        let named = |name: &Name| {
            self.uses.contains(name) || index.sets_with(name).iter().any(|s| self.uses.contains(s))
        };
        self.all || credential.names().any(named)
    }
}

/// Credentials that nobody may use, and agents that are allowed nothing. `allows` says of a rule in force
/// whether there is a request that it could allow.
pub(super) fn unused<'p>(
    policy: &'p Policy,
    index: &CredentialIndex,
    agents: &[(Name, Labels)],
    allows: impl Fn(usize) -> bool,
    found: &mut Vec<Found<'p>>,
) {
    let layer = |organisation: bool| {
        let rules = policy.rules.iter().enumerate().filter(move |(_, rule)| {
            !rule.deny && !rule.shadow && rule.organisation == organisation
        });
        For::of(rules.filter(|(at, _)| allows(*at)).map(|(_, rule)| rule))
    };
    let (own, floor) = (layer(false), policy.bounded.0.then(|| layer(true)));
    // A honeytoken is there to be used by nobody, and a source's login is no agent's.
    let meant = |c: &&std::sync::Arc<Credential>| {
        c.version.is_some() && !c.properties.honeytoken && !c.properties.for_sources
    };
    let mut credentials: Vec<_> = index.iter().filter(meant).collect();
    credentials.sort_by_key(|credential| &credential.name);
    for credential in credentials {
        let name = &credential.name;
        let message = if !own.grants(credential, index) {
            format!("no rule lets anybody use the credential `{name}`")
        } else if floor.as_ref().is_some_and(|floor| !floor.grants(credential, index)) {
            format!(
                "no rule of the organisation grants the credential `{name}`, so nobody may use it"
            )
        } else {
            continue;
        };
        found.push(Found::new(LintKind::UnusedCredential, About::Nothing, message));
    }
    for (agent, labels) in agents {
        let message = if !own.has_agent(agent, labels) {
            format!("no rule allows the agent `{agent}` anything")
        } else if floor.as_ref().is_some_and(|floor| !floor.has_agent(agent, labels)) {
            format!("no rule of the organisation is for the agent `{agent}`, so nothing is allowed")
        } else {
            continue;
        };
        found.push(Found::new(LintKind::AgentWithoutRules, About::Nothing, message));
    }
}

/// Names in rules that the vault does not have. What a group says is said once.
pub(super) fn unknown<'p>(
    policy: &'p Policy,
    index: &CredentialIndex,
    (agents, uses): (&[(Name, Labels)], &[Name]),
    found: &mut Vec<Found<'p>>,
) {
    let agents: BTreeSet<&str> = agents.iter().map(|(name, _)| name.as_str()).collect();
    let uses: BTreeSet<&str> = uses.iter().map(Name::as_str).collect();
    let is_used = |name: &Name| {
        uses.contains(name.as_str())
            || index.referred(name.as_str()).is_some()
            || index.set(name.as_str()).is_some()
    };
    let lacks = |kind: &str, name: &Name, known: &BTreeSet<&str>, about| {
        let message = format!("the vault has no {kind} `{name}`");
        let near = suggest(name.as_str(), known.iter().copied());
        let advice = near.map(|near| format!("did you mean `{near}`?"));
        Found { advice, ..Found::new(LintKind::UnknownName, about, message) }
    };
    for rule in &policy.rules {
        if let Agents::Some { names, .. } = &rule.agents {
            for name in sorted(names) {
                if !agents.contains(name.as_str()) {
                    let about = About::Named(rule, "agents", name.as_str());
                    found.push(lacks("live agent", name, &agents, about));
                }
            }
        }
        if let Uses::Named(names) = &rule.uses {
            for name in sorted(names).into_iter().filter(|name| !is_used(name)) {
                let about = About::Named(rule, "use", name.as_str());
                found.push(lacks("credential or set", name, &uses, about));
            }
        }
    }
}

/// Groups that are called as an agent is: a rule that names one means the group, and not the agent.
pub(super) fn groups<'p>(
    policy: &'p Policy,
    agents: &[(Name, Labels)],
    found: &mut Vec<Found<'p>>,
) {
    let agents: HashSet<&str> = agents.iter().map(|(name, _)| name.as_str()).collect();
    for Group { name, place, is_member } in &policy.groups {
        if *is_member || agents.contains(&**name) {
            let message = format!(
                "the group `{name}` is called as an agent is: rules that name it mean the group"
            );
            found.push(Found::new(LintKind::GroupLikeAgent, About::Group(*place), message));
        }
    }
}
