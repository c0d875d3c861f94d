//! Which rules may match at all, found without a look at the others.

use std::collections::HashMap;
use std::iter::once;

use super::conditions::Wanted;
use super::rule::{Agents, Choice, Rule, Uses};
use crate::agent::{Identity, LabelName};
use crate::credential::CredentialIndex;
use crate::host::{Host, HostPattern, Origin};
use crate::reference::Name;

/// Rules by what they speak of, each list in the order of the document.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Rules whose `to` names the host itself.
    by_host: HashMap<Host, Vec<u32>>,
    /// Rules with a pattern in `to`, by the literal labels at its end.
    by_suffix: HashMap<Box<str>, Vec<u32>>,
    /// Rules without `to`, by each credential or set that they grant.
    by_use: HashMap<Name, Vec<u32>>,
    /// Rules that may speak of any host.
    anywhere: Vec<u32>,
    /// Rules that name agents.
    by_agent: HashMap<Name, Vec<u32>>,
    /// Rules that choose agents by their labels, by one label of each choice.
    by_label: HashMap<LabelName, ByValue>,
    /// Rules for any agent.
    by_anyone: Vec<u32>,
}

/// Rules that ask for one label, by the value that they want.
#[derive(Debug, Default)]
struct ByValue {
    exact: HashMap<Box<str>, Vec<u32>>,
    /// Those that want a pattern.
    any: Vec<u32>,
}

impl Candidates {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut found = Self::default();
        for (rule, at) in rules.iter().zip(0..) {
            found.add_places(rule, at);
            match &rule.agents {
                Agents::Any => push(&mut found.by_anyone, at),
                Agents::Some { names, labelled } => {
                    for name in names {
                        push(found.by_agent.entry(name.clone()).or_default(), at);
                    }
                    for choice in labelled {
                        found.add_choice(choice, at);
                    }
                }
            }
        }
        found
    }

    /// A choice asks for all of its labels, so it is found by one: where there is one whose values are
    /// no patterns, by that.
    fn add_choice(&mut self, choice: &Choice, at: u32) {
        let plain = |w: &&Wanted<LabelName>| w.values.iter().all(|value| value.exact().is_some());
        let telling = choice.0.iter().find(plain).or_else(|| choice.0.first());
        let Some(telling) = telling else { return };
        let by_value = self.by_label.entry(telling.name.clone()).or_default();
        for value in &telling.values {
            match value.exact() {
                Some(text) => push(by_value.exact.entry(text.into()).or_default(), at),
                None => push(&mut by_value.any, at),
            }
        }
    }

    fn add_places(&mut self, rule: &Rule, at: u32) {
        let Some(to) = &rule.to else {
            return match &rule.uses {
                Uses::All => push(&mut self.anywhere, at),
                Uses::Named(names) => {
                    for name in names {
                        push(self.by_use.entry(name.clone()).or_default(), at);
                    }
                }
            };
        };
        for destination in to {
            let host: &HostPattern = &destination.host;
            let list = match (host.exact(), host.literal_suffix()) {
                (Some(host), _) => self.by_host.entry(host.clone()).or_default(),
                (None, Some(suffix)) if !suffix.is_empty() => {
                    self.by_suffix.entry(suffix.into()).or_default()
                }
                _ => &mut self.anywhere,
            };
            push(list, at);
        }
    }

    /// The rules for an agent that may match at `origin`, in the order of the document; some may not.
    /// Found among those for the agent or those for the host, whichever are fewer: then neither many
    /// agents at one host nor one agent of many hosts makes a decision slow.
    pub(super) fn find<'a>(
        &'a self,
        who: &Identity,
        origin: &Origin,
        index: &CredentialIndex,
    ) -> Merge<'a> {
        let mut theirs = Merge::default();
        theirs.add(self.by_agent.get(&who.agent));
        theirs.add(Some(&self.by_anyone));
        if !self.by_label.is_empty() {
            for (name, value) in who.labels.iter() {
                let Some(by_value) = self.by_label.get(name) else { continue };
                theirs.add(by_value.exact.get(value.as_str()));
                theirs.add(Some(&by_value.any));
            }
        }
        let mut there = Merge::default();
        let host = &origin.authority.host;
        there.add(self.by_host.get(host));
        there.add(Some(&self.anywhere));
        if !self.by_suffix.is_empty() {
            for suffix in host.suffixes() {
                there.add(self.by_suffix.get(suffix));
            }
        }
        if !self.by_use.is_empty() {
            for credential in index.concerned(origin) {
                for name in once(&credential.name).chain(&credential.properties.serves) {
                    there.add(self.by_use.get(name));
                    for set in index.sets_with(name) {
                        there.add(self.by_use.get(set));
                    }
                }
            }
        }
        if theirs.len < there.len { theirs } else { there }
    }
}

/// Each rule once, though more than one of its destinations may lead here.
fn push(list: &mut Vec<u32>, at: u32) {
    if list.last() != Some(&at) {
        list.push(at);
    }
}

/// Lists that most decisions are merged from: the host, anywhere, and a few ends of its name.
const USUAL: usize = 6;

/// Ascending lists as one, each number once.
#[derive(Clone, Debug, Default)]
pub(super) struct Merge<'a> {
    lists: [&'a [u32]; USUAL],
    used: usize,
    /// For hosts of many labels, or with many credentials.
    more: Vec<&'a [u32]>,
    /// Of all lists together.
    pub(super) len: usize,
}

impl<'a> Merge<'a> {
    fn add(&mut self, list: Option<&'a Vec<u32>>) {
        let Some(list) = list.filter(|list| !list.is_empty()) else { return };
        self.len += list.len();
        match self.lists.get_mut(self.used) {
            Some(place) => *place = list,
            None => self.more.push(list),
        }
        self.used += 1;
    }
}

impl Iterator for Merge<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let used = self.used.min(USUAL);
        let lists = self.lists[..used].iter().chain(&self.more);
        let first = lists.filter_map(|list| list.first().copied()).min()?;
        for list in self.lists[..used].iter_mut().chain(&mut self.more) {
            if let Some((head, rest)) = list.split_first()
                && *head == first
            {
                *list = rest;
            }
        }
        Some(first)
    }
}
