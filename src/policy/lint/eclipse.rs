//! Rules that leave nothing for another to decide, and rules that nothing of the organisation lets through.
//!
//! A rule is compared with those alone that name one of its agents, one of its destinations or the
//! beginning of one of its paths, whichever are fewest: a file of 100,000 rules is looked through in a
//! moment. One that is written to make that slow is not looked through to its end, and is told so.

use std::collections::{HashMap, HashSet};

use http::Method;

use super::super::path::PathPattern;
use super::super::rule::{Agents, Rule, Uses};
use crate::host::{Destination, HostPattern, Scheme};
use crate::reference::Name;

/// Steps of comparing, each some ten nanoseconds.
const WORK: u64 = 20_000_000;

/// Segments of a path by which rules are found.
const HEAD: usize = 8;

/// Destinations, agents or paths of one rule by which the others are found: of more, the first do.
const TRIED: usize = 16;

/// What a rule has in it, for many comparisons.
struct Parts<'r> {
    rule: &'r Rule,
    to: Set<'r, Destination>,
    paths: Set<'r, PathPattern>,
}

/// Destinations or paths: what is in two rules is mostly the same in both, so the patterns are only tried
/// for those that are not.
struct Set<'r, T> {
    named: HashSet<&'r T>,
    patterns: Vec<&'r T>,
}

impl<'r, T: Eq + std::hash::Hash> Set<'r, T> {
    fn of(all: Option<&'r Vec<T>>, is_pattern: impl Fn(&T) -> bool) -> Self {
        let all = || all.into_iter().flatten();
        Self { named: all().collect(), patterns: all().filter(|one| is_pattern(one)).collect() }
    }

    fn cover(&self, few: &[T], covers: impl Fn(&T, &T) -> bool, work: &mut Work) -> bool {
        few.iter().all(|one| {
            work.spend(1);
            self.named.contains(one)
                || self.patterns.iter().any(|pattern| work.spend(1) && covers(pattern, one))
        })
    }
}

/// What comparing may still cost.
struct Work(u64);

impl Work {
    /// Whether there was so much left.
    fn spend(&mut self, steps: usize) -> bool {
        let steps = steps as u64;
        let enough = self.0 >= steps;
        self.0 = self.0.saturating_sub(steps);
        enough
    }
}

/// Why a rule decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eclipse {
    /// This one denies all of it.
    Denied(usize),
    /// This one, of the same layer, allows all of it and comes first.
    Earlier(usize),
    /// No rule of the organisation may match what it does.
    Unbound,
}

/// All rules, as far as they can eclipse another.
pub(super) struct Eclipses<'r> {
    parts: Vec<Parts<'r>>,
    denying: Others<'r>,
    /// Those that allow: the workspace's, and the organisation's.
    allowing: [Others<'r>; 2],
    bounded: bool,
    work: Work,
}

impl<'r> Eclipses<'r> {
    pub(super) fn new(rules: &'r [Rule], bounded: bool) -> Self {
        let parts = rules.iter().map(|rule| Parts {
            rule,
            to: Set::of(rule.to.as_ref(), |to| to.host.exact().is_none()),
            paths: Set::of(rule.paths.as_ref(), |path| path.exact().is_none()),
        });
        let mut all = Self {
            parts: parts.collect(),
            denying: Others::default(),
            allowing: [Others::default(), Others::default()],
            bounded,
            work: Work(WORK),
        };
        for (at, rule) in rules.iter().enumerate().filter(|(_, rule)| !rule.shadow) {
            match rule.deny {
                // One that denies a credential leaves the request without it.
                true if rule.uses.is_empty() => all.denying.add(at, rule),
                true => {}
                false => all.allowing[usize::from(rule.organisation)].add(at, rule),
            }
        }
        all
    }

    /// Whether all could be compared.
    pub(super) fn is_whole(&self) -> bool {
        self.work.0 > 0
    }

    /// Why nothing is left for this rule to decide, if that is certain.
    pub(super) fn of(&mut self, at: usize, rule: &Rule) -> Option<Eclipse> {
        if rule.deny || rule.shadow || !self.is_whole() {
            return None;
        }
        let Self { parts, denying, allowing, work, .. } = self;
        let mut covering = |others: &Others<'_>, all: bool| {
            let lists = others.like(rule);
            let found = lists.into_iter().filter_map(|list| {
                let before = list.iter().take_while(|other| all || **other < at);
                before.copied().find(|other| {
                    let one = &parts[*other];
                    work.spend(1) && (all || grants(one.rule, rule)) && covers(one, rule, work)
                })
            });
            found.min()
        };
        if let Some(other) = covering(denying, true) {
            return Some(Eclipse::Denied(other));
        }
        if let Some(other) = covering(&allowing[usize::from(rule.organisation)], false) {
            return Some(Eclipse::Earlier(other));
        }
        let unbound = self.bounded && !rule.organisation && !self.is_let_through(rule);
        unbound.then_some(Eclipse::Unbound)
    }

    /// Whether a rule of the organisation may match what this one does. When in doubt, one does.
    fn is_let_through(&mut self, rule: &Rule) -> bool {
        let Self { parts, allowing: [_, floor], work, .. } = self;
        let mut lists = floor.for_some_of(&rule.agents).into_iter().flatten();
        lists.any(|at| !work.spend(1) || may_meet(parts[*at].rule, rule, work))
    }
}

/// Rules by what they speak of, each list in their order.
#[derive(Default)]
struct Others<'r> {
    all: Vec<usize>,
    by_agent: HashMap<&'r Name, Vec<usize>>,
    labelled: Vec<usize>,
    by_anyone: Vec<usize>,
    /// Those whose `to` names hosts.
    by_host: HashMap<&'r Destination, Vec<usize>>,
    /// Those with patterns, by the literal labels at their end.
    by_suffix: HashMap<(Scheme, u16, String), Vec<usize>>,
    /// Those without `to`.
    nowhere: Vec<usize>,
    /// Those with paths, by the segments at their beginning that have no `*`.
    by_head: HashMap<String, Vec<usize>>,
    pathless: Vec<usize>,
}

impl<'r> Others<'r> {
    fn add(&mut self, at: usize, rule: &'r Rule) {
        self.all.push(at);
        match &rule.agents {
            Agents::Any => self.by_anyone.push(at),
            Agents::Some { names, labelled } => {
                for name in names {
                    self.by_agent.entry(name).or_default().push(at);
                }
                self.labelled.extend((!labelled.is_empty()).then_some(at));
            }
        }
        match &rule.to {
            None => self.nowhere.push(at),
            Some(to) => {
                for destination in to {
                    let list = match destination.host.exact() {
                        Some(_) => self.by_host.entry(destination).or_default(),
                        None => self.by_suffix.entry(suffix_of(destination)).or_default(),
                    };
                    push(list, at);
                }
            }
        }
        match &rule.paths {
            None => self.pathless.push(at),
            Some(paths) => {
                for path in paths {
                    push(self.by_head.entry(head_of(path)).or_default(), at);
                }
            }
        }
    }

    /// Among these are all that may cover the rule.
    fn like(&self, rule: &Rule) -> Vec<&[usize]> {
        let ways = [self.by_agent(rule), self.by_place(rule), self.by_path(rule)];
        ways.into_iter().flatten().min_by_key(length).unwrap_or_else(|| vec![&self.all])
    }

    fn by_agent(&self, rule: &Rule) -> Option<Vec<&[usize]>> {
        let anyone: &[usize] = &self.by_anyone;
        let Agents::Some { names, labelled } = &rule.agents else { return Some(vec![anyone]) };
        if !labelled.is_empty() {
            return Some(vec![anyone, &self.labelled]);
        }
        let named = names.iter().take(TRIED).map(|name| list(self.by_agent.get(name)));
        Some(vec![anyone, named.min_by_key(|list| list.len())?])
    }

    fn by_place(&self, rule: &Rule) -> Option<Vec<&[usize]>> {
        let Some(to) = &rule.to else { return Some(vec![&self.nowhere]) };
        let lists = |destination: &Destination| {
            let mut lists = vec![list(self.by_host.get(destination))];
            for end in ends(&destination.host) {
                let key = (destination.scheme, destination.port, end);
                lists.push(list(self.by_suffix.get(&key)));
            }
            lists
        };
        to.iter().take(TRIED).map(lists).min_by_key(length)
    }

    fn by_path(&self, rule: &Rule) -> Option<Vec<&[usize]>> {
        // Without paths, only what takes any path covers it.
        let Some(paths) = &rule.paths else { return Some(self.by_head("")) };
        let heads = paths.iter().take(TRIED).map(head_of);
        heads.map(|head| self.by_head(&head)).min_by_key(length)
    }

    fn by_head(&self, head: &str) -> Vec<&[usize]> {
        let ends = head.match_indices('/').map(|(at, _)| at).chain([head.len()]);
        let mut ends: Vec<usize> = ends.collect();
        ends.dedup();
        let lists = ends.into_iter().map(|end| list(self.by_head.get(&head[..end])));
        std::iter::once(&*self.pathless).chain(lists).collect()
    }

    /// Among these are all that are for one of the agents.
    fn for_some_of(&self, agents: &Agents) -> Vec<&[usize]> {
        match agents {
            Agents::Some { names, labelled } if labelled.is_empty() => {
                let named = names.iter().map(|name| list(self.by_agent.get(name)));
                named.chain([&*self.by_anyone, &*self.labelled]).collect()
            }
            _ => vec![&self.all],
        }
    }
}

#[allow(clippy::ptr_arg)] // It is the key of a `min_by_key` over such vectors.
fn length(lists: &Vec<&[usize]>) -> usize {
    lists.iter().map(|list| list.len()).sum()
}

fn list(found: Option<&Vec<usize>>) -> &[usize] {
    found.map_or(&[], Vec::as_slice)
}

/// Each rule once, though more than one of its destinations or paths may lead here.
fn push(list: &mut Vec<usize>, at: usize) {
    if list.last() != Some(&at) {
        list.push(at);
    }
}

/// The segments at the beginning of a path that have no `*`, each behind its slash.
fn head_of(path: &PathPattern) -> String {
    path.head(HEAD).flat_map(|segment| ["/", segment]).collect()
}

fn suffix_of(destination: &Destination) -> (Scheme, u16, String) {
    let suffix = destination.host.literal_suffix().unwrap_or_default();
    (destination.scheme, destination.port, suffix)
}

/// The literal labels at the end of whatever covers a host or pattern: none, or some of its own.
fn ends(host: &HostPattern) -> Vec<String> {
    let own = match host.exact() {
        Some(host) => host.name().unwrap_or_default().to_owned(),
        None => host.literal_suffix().unwrap_or_default(),
    };
    let inner = own.match_indices('.').map(|(at, _)| own[at + 1..].to_owned());
    let mut ends: Vec<String> = inner.collect();
    ends.push(String::new());
    ends.push(own);
    ends.dedup();
    ends
}

/// Whether `a` matches every request that `b` matches. When in doubt, it does not. What is cheap is
/// asked first.
fn covers(a: &Parts<'_>, b: &Rule, work: &mut Work) -> bool {
    let rule = a.rule;
    let methods = match (&rule.methods, &b.methods) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(all), Some(few)) => few.iter().all(|method| all.contains(method)),
    };
    let sockets = !takes_sockets(b) || takes_sockets(rule);
    let seen = !rule.opaque || b.opaque;
    let conditions = match (&rule.conditions, &b.conditions) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => a.cover(b),
    };
    let when = match (&rule.when, &b.when) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => a.covers(b),
    };
    if !(methods && sockets && seen && conditions && when) {
        return false;
    }
    covers_agents(&rule.agents, &b.agents, work)
        && covers_places(a, b, work)
        && covers_paths(a, b, work)
}

fn covers_agents(a: &Agents, b: &Agents, work: &mut Work) -> bool {
    let (Agents::Some { names, labelled }, Agents::Some { names: few, labelled: fewer }) = (a, b)
    else {
        return matches!(a, Agents::Any);
    };
    work.spend(few.len() + labelled.len().saturating_mul(fewer.len()))
        && few.is_subset(names)
        && fewer.iter().all(|choice| labelled.iter().any(|wider| wider.covers(choice)))
}

fn covers_places(a: &Parts<'_>, b: &Rule, work: &mut Work) -> bool {
    match (&a.rule.to, &b.to) {
        (Some(_), Some(few)) => a.to.cover(few, Destination::covers, work),
        (None, None) => grants(a.rule, b),
        _ => false,
    }
}

fn covers_paths(a: &Parts<'_>, b: &Rule, work: &mut Work) -> bool {
    match (&a.rule.paths, &b.paths) {
        (None, _) => true,
        (Some(all), None) => {
            // `OPTIONS *` has no path that a pattern could match.
            let options =
                b.methods.as_ref().is_none_or(|methods| methods.contains(&Method::OPTIONS));
            !options && all.iter().any(|path| work.spend(1) && path.to_string() == "/**")
        }
        (Some(_), Some(few)) => a.paths.cover(few, PathPattern::covers, work),
    }
}

fn takes_sockets(rule: &Rule) -> bool {
    if rule.deny {
        let get = rule.methods.as_ref().is_none_or(|methods| methods.contains(&Method::GET));
        return rule.websocket == Some(false) || get;
    }
    rule.websocket.unwrap_or(rule.methods.is_none())
}

/// Whether `a` grants every credential that `b` grants, and injects where `b` does.
fn grants(a: &Rule, b: &Rule) -> bool {
    let uses = match (&a.uses, &b.uses) {
        (Uses::All, _) => true,
        (Uses::Named(_), Uses::All) => false,
        (Uses::Named(all), Uses::Named(few)) => few.is_subset(all),
    };
    uses && (a.inject_always || !b.inject_always)
}

/// Whether some request may match both, as far as agents, destinations, methods and paths say.
fn may_meet(a: &Rule, b: &Rule, work: &mut Work) -> bool {
    let agents = match (&a.agents, &b.agents) {
        (
            Agents::Some { names: all, labelled: some },
            Agents::Some { names: few, labelled: others },
        ) if some.is_empty() && others.is_empty() => !all.is_disjoint(few),
        _ => true,
    };
    let methods = match (&a.methods, &b.methods) {
        (Some(all), Some(few)) => {
            let sockets = takes_sockets(a) && takes_sockets(b);
            sockets || few.iter().any(|method| all.contains(method))
        }
        _ => true,
    };
    if !agents || !methods {
        return false;
    }
    // Nobody knows what will be spoken in a tunnel that is not looked into.
    let tunnel = |one: &Destination, other: &Destination| {
        a.opaque && b.opaque && one.port == other.port && one.host.meets(&other.host)
    };
    let places = |one: &Destination, other: &Destination| one.meets(other) || tunnel(one, other);
    some_meet((&a.to, &b.to), places, work)
        && some_meet((&a.paths, &b.paths), PathPattern::meets, work)
}

/// Whether one of each may meet; of what is not said, any does.
fn some_meet<T>(
    (all, few): (&Option<Vec<T>>, &Option<Vec<T>>),
    meets: impl Fn(&T, &T) -> bool,
    work: &mut Work,
) -> bool {
    let Some((all, few)) = all.as_ref().zip(few.as_ref()) else { return true };
    !work.spend(all.len().saturating_mul(few.len()))
        || all.iter().any(|one| few.iter().any(|other| meets(one, other)))
}
