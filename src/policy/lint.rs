//! What is no mistake and still probably not meant: rules that never decide, hosts that anybody can
//! register, credentials that nobody may use.

use std::collections::HashSet;

use http::Method;

use super::Policy;
use super::rule::{Agents, Rule, Uses};
use crate::agent::Labels;
use crate::credential::CredentialIndex;
use crate::document::Position;
use crate::host::{Authority, Destination, HostPattern, Origin};
use crate::reference::Name;

/// What a lint is about; the id that it has in JSON and SARIF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LintKind {
    /// A credential may go to hosts that a pattern names.
    WildcardWithCredential,
    /// Anybody can register a host that the pattern names.
    WildcardUnderPublicSuffix,
    /// An earlier rule decides on all of it.
    Unreachable,
    /// Another rule denies all of it.
    Denied,
    /// Nothing can match it.
    WithoutEffect,
    /// No credential that it grants may go there.
    WiderThanBinding,
    /// No rule grants it.
    UnusedCredential,
    /// No rule is for it.
    AgentWithoutRules,
}

impl LintKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::WildcardWithCredential,
        Self::WildcardUnderPublicSuffix,
        Self::Unreachable,
        Self::Denied,
        Self::WithoutEffect,
        Self::WiderThanBinding,
        Self::UnusedCredential,
        Self::AgentWithoutRules,
    ];

    /// The stable id.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::WildcardWithCredential => "wildcard-with-credential",
            Self::WildcardUnderPublicSuffix => "wildcard-under-public-suffix",
            Self::Unreachable => "unreachable-rule",
            Self::Denied => "denied-rule",
            Self::WithoutEffect => "rule-without-effect",
            Self::WiderThanBinding => "wider-than-binding",
            Self::UnusedCredential => "unused-credential",
            Self::AgentWithoutRules => "agent-without-rules",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::WildcardWithCredential => {
                "name the hosts, or leave `to` out: the credential's own destinations bound it then"
            }
            Self::WildcardUnderPublicSuffix => "name the hosts, or the domain that is yours",
            Self::Unreachable => "remove it, or move it before the other",
            Self::Denied => {
                "remove it, or narrow the rule that denies: that one wins wherever it stands"
            }
            Self::WithoutEffect => "remove it, or give it what is missing",
            Self::WiderThanBinding => "remove the destination, or bind a credential to it",
            Self::UnusedCredential => "grant it in a rule, or remove it: `locum credential remove`",
            Self::AgentWithoutRules => "write a rule for it, or remove it: `locum agent revoke`",
        }
    }
}

/// One thing that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// What it is about.
    pub kind: LintKind,
    /// File, and place of the rule; none for what stands in no file.
    pub place: Option<(String, Position)>,
    /// What is found, with names.
    pub message: String,
}

/// Rules that are compared with each other: each pair costs, and a file of more was made by a program.
const COMPARED: usize = 3000;

impl Policy {
    /// Looks at the rules by themselves, in a second of Unix time.
    #[must_use]
    pub fn lint(&self, now: i64) -> Vec<Lint> {
        let mut lints = Vec::new();
        let compared = self.rules.len() <= COMPARED;
        let places: Vec<Places<'_>> =
            self.rules.iter().filter(|_| compared).map(Places::of).collect();
        for (at, rule) in self.rules.iter().enumerate() {
            let mut found = |kind, message: String| lints.push(self.found(rule, kind, &message));
            if let Some(why) = without_effect(rule, now) {
                found(LintKind::WithoutEffect, why.to_owned());
                continue;
            }
            for destination in rule.to.iter().flatten().filter(|_| !rule.deny) {
                wildcard(rule, destination, &mut found);
            }
            if !compared || rule.shadow {
                continue;
            }
            if let Some((kind, other, how)) = self.eclipses(at, rule, &places) {
                let message = format!("`{}`, at {}, {how}", other.name, self.shown(other));
                found(kind, message);
            }
        }
        lints
    }

    /// Looks at the rules beside what the vault has.
    #[must_use]
    pub fn lint_with(&self, index: &CredentialIndex, agents: &[(Name, Labels)]) -> Vec<Lint> {
        let mut lints = self.lint_destinations(index);
        let allowing = || self.rules.iter().filter(|rule| !rule.deny && !rule.shadow);
        let nowhere = |kind, message| Lint { kind, place: None, message };
        let mut credentials: Vec<_> = index.iter().filter(|c| c.version.is_some()).collect();
        credentials.sort_by_key(|credential| &credential.name);
        for credential in credentials {
            if !allowing().any(|rule| rule.uses.contain(credential, index)) {
                let message =
                    format!("no rule lets anybody use the credential `{}`", credential.name);
                lints.push(nowhere(LintKind::UnusedCredential, message));
            }
        }
        for (agent, labels) in agents {
            if !allowing().any(|rule| rule.agents.contain(agent, labels)) {
                let message = format!("no rule allows the agent `{agent}` anything");
                lints.push(nowhere(LintKind::AgentWithoutRules, message));
            }
        }
        lints
    }

    /// Destinations of rules at which none of their credentials may arrive.
    #[must_use]
    pub fn lint_destinations(&self, index: &CredentialIndex) -> Vec<Lint> {
        let mut lints = Vec::new();
        for rule in self.rules.iter().filter(|rule| !rule.deny && !rule.uses.is_empty()) {
            let Uses::Named(names) = &rule.uses else { continue };
            let known = |name: &Name| {
                index.referred(name.as_str()).is_some() || index.set(name.as_str()).is_some()
            };
            if !names.iter().all(known) {
                continue;
            }
            for destination in rule.to.iter().flatten() {
                let arrives = |c: &crate::credential::Credential| {
                    rule.uses.contain(c, index)
                        && c.destinations.iter().any(|d| meet(d, destination))
                };
                if !index.iter().any(|credential| arrives(credential)) {
                    let message = format!("no credential of `use` may go to {destination}");
                    lints.push(self.found(rule, LintKind::WiderThanBinding, &message));
                }
            }
        }
        lints
    }

    fn found(&self, rule: &Rule, kind: LintKind, message: &str) -> Lint {
        let file = self.files.get(rule.place.file as usize).map_or("", |file| file);
        let message = format!("rule `{}`: {message}", rule.name);
        Lint { kind, place: Some((file.to_owned(), rule.place.at)), message }
    }

    fn shown(&self, rule: &Rule) -> String {
        let file = self.files.get(rule.place.file as usize).map_or("", |file| file);
        format!("{file}:{}", rule.place.at.line)
    }

    /// A rule that leaves nothing for this one to decide.
    fn eclipses(
        &self,
        at: usize,
        rule: &Rule,
        places: &[Places<'_>],
    ) -> Option<(LintKind, &Rule, &'static str)> {
        if rule.deny {
            return None;
        }
        let others = || self.rules.iter().zip(places);
        let mut denying = others().filter(|(r, _)| r.deny && !r.shadow && r.uses.is_empty());
        if let Some((other, _)) = denying.find(|other| covers(*other, rule)) {
            return Some((LintKind::Denied, other, "denies all that this one allows"));
        }
        let like = |r: &Rule| !r.deny && !r.shadow && r.organisation == rule.organisation;
        let mut earlier = others().take(at).filter(|(r, _)| like(r));
        let (other, _) = earlier.find(|other| grants(other.0, rule) && covers(*other, rule))?;
        Some((LintKind::Unreachable, other, "allows all that this one allows, and comes first"))
    }
}

fn without_effect(rule: &Rule, now: i64) -> Option<&'static str> {
    let sockets = rule.websocket == Some(!rule.deny);
    if matches!(&rule.agents, Agents::Some { names, labelled } if names.is_empty() && labelled.is_empty())
    {
        return Some("`agents` names nobody");
    }
    if rule.to.as_ref().is_some_and(Vec::is_empty) {
        return Some("`to` names no destination");
    }
    if rule.methods.as_ref().is_some_and(Vec::is_empty) && !sockets {
        return Some("`methods` names none, and sockets are none of its own");
    }
    if rule.paths.as_ref().is_some_and(Vec::is_empty) {
        return Some("`paths` names none");
    }
    let over = |last: i64| last < now;
    if rule.when.as_ref().and_then(|when| when.not_after).is_some_and(over) {
        return Some("its last moment has passed");
    }
    None
}

fn wildcard(rule: &Rule, destination: &Destination, found: &mut impl FnMut(LintKind, String)) {
    let host = &destination.host;
    if host.exact().is_some() {
        return;
    }
    if !rule.uses.is_empty() {
        let message = format!("a credential may go to whatever {destination} names");
        found(LintKind::WildcardWithCredential, message);
    }
    let suffix = host.literal_suffix().unwrap_or_default();
    if !host.is_any() && is_public_suffix(&suffix) {
        let message = format!("anybody can have a host that {destination} names");
        found(LintKind::WildcardUnderPublicSuffix, message);
    }
}

/// Whether names right below this one are given to the public (publicsuffix.org): `com`, `co.uk`,
/// `github.io`. What the list does not know is somebody's own, such as `internal`.
fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|s| s.is_known() && s.as_bytes() == name.as_bytes())
}

/// Where a rule may be about, to be found by the very destination: nearly all that are compared name the
/// same ones.
struct Places<'r> {
    named: HashSet<&'r Destination>,
    patterns: Vec<&'r Destination>,
}

impl<'r> Places<'r> {
    fn of(rule: &'r Rule) -> Self {
        let to = || rule.to.iter().flatten();
        let patterns = to().filter(|d| d.host.exact().is_none()).collect();
        Self { named: to().collect(), patterns }
    }

    fn contain(&self, destination: &Destination) -> bool {
        self.named.contains(destination) || self.patterns.iter().any(|p| contains(p, destination))
    }
}

/// Whether `a` matches every request that `b` matches. When in doubt, it does not. What is cheap is
/// asked first: this runs for each pair of rules.
fn covers((a, of_a): (&Rule, &Places<'_>), b: &Rule) -> bool {
    let agents = match (&a.agents, &b.agents) {
        (Agents::Any, _) => true,
        (Agents::Some { .. }, Agents::Any) => false,
        (
            Agents::Some { names: all, labelled: choices },
            Agents::Some { names: few, labelled: fewer },
        ) => few.is_subset(all) && fewer.iter().all(|choice| choices.contains(choice)),
    };
    if !agents {
        return false;
    }
    let places = match (&a.to, &b.to) {
        (Some(_), Some(few)) => few.iter().all(|destination| of_a.contain(destination)),
        (None, None) => grants(a, b),
        _ => false,
    };
    let methods = match (&a.methods, &b.methods) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(all), Some(few)) => few.iter().all(|method| all.contains(method)),
    };
    let sockets = !takes_sockets(b) || takes_sockets(a);
    let paths = match (&a.paths, &b.paths) {
        (None, _) => true,
        (Some(all), few) => {
            let anything = |p: &super::PathPattern| p.to_string() == "/**";
            all.iter().any(anything)
                || few.as_ref().is_some_and(|few| few.iter().all(|path| all.contains(path)))
        }
    };
    let conditions = a.conditions.is_none() || a.conditions == b.conditions;
    let when = a.when.is_none() || a.when == b.when;
    let seen = !a.opaque || b.opaque;
    places && methods && sockets && paths && conditions && when && seen
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

/// Whether each host of `b` is one of `a`. When in doubt, it is not.
fn contains(a: &Destination, b: &Destination) -> bool {
    let host = |a: &HostPattern| match b.host.exact() {
        Some(host) => a.matches(host),
        None => a.is_any() || *a == b.host,
    };
    a.scheme == b.scheme && a.port == b.port && host(&a.host)
}

/// Whether two sets of origins may have one in common. When in doubt, they do.
pub(super) fn meet(a: &Destination, b: &Destination) -> bool {
    let origin = |d: &Destination| {
        let host = d.host.exact()?.clone();
        Some(Origin { scheme: d.scheme, authority: Authority { host, port: d.port } })
    };
    match (origin(a), origin(b)) {
        (Some(origin), _) => b.matches(&origin),
        (_, Some(origin)) => a.matches(&origin),
        (None, None) => a.scheme == b.scheme && a.port == b.port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Source;
    use crate::policy::compile_all;

    fn lints(rules: &str) -> Vec<String> {
        let text = format!("version: 1\nrules:\n{rules}");
        let compiled =
            compile_all(vec![Source::new("p.yaml", &text)]).unwrap_or_else(|r| panic!("{r}"));
        let shown = |lint: Lint| format!("{}: {}", lint.kind.id(), lint.message);
        compiled.policy.lint(1_767_268_800).into_iter().map(shown).collect()
    }

    #[test]
    fn each_lint_is_found_and_nothing_else() {
        for (rules, expected) in [
            (
                "  - {name: r, agents: [a], to: ['https://*.acme.example'], use: [k]}\n",
                &[
                    "wildcard-with-credential: rule `r`: a credential may go to whatever https://*.acme.example names",
                ][..],
            ),
            (
                "  - {name: r, agents: [a], to: ['https://*.github.io']}\n",
                &[
                    "wildcard-under-public-suffix: rule `r`: anybody can have a host that https://*.github.io names",
                ],
            ),
            (
                "  - {name: r, agents: [a], to: ['https://**.co.uk', 'https://*.acme.co.uk', 'https://*.internal', 'https://*']}\n",
                &[
                    "wildcard-under-public-suffix: rule `r`: anybody can have a host that https://**.co.uk names",
                ],
            ),
            (
                "  - {name: r, agents: [], use: [k]}\n",
                &["rule-without-effect: rule `r`: `agents` names nobody"],
            ),
            (
                "  - {name: r, agents: [a], use: [k], methods: []}\n",
                &[
                    "rule-without-effect: rule `r`: `methods` names none, and sockets are none of its own",
                ],
            ),
            ("  - {name: r, agents: [a], use: [k], methods: [], websocket: allow}\n", &[]),
            (
                "  - {name: r, agents: [a], use: [k], when: {not_after: '2020-01-01T00:00:00Z'}}\n",
                &["rule-without-effect: rule `r`: its last moment has passed"],
            ),
            (
                "  - {name: all, agents: ['*'], use: ['*']}\n  - {name: some, agents: [a], use: [k]}\n",
                &[
                    "unreachable-rule: rule `some`: `all`, at p.yaml:3, allows all that this one allows, and comes first",
                ],
            ),
            (
                "  - {name: some, agents: [a], use: [k]}\n  - {name: all, agents: ['*'], use: ['*']}\n",
                &[],
            ),
            (
                "  - {name: all, agents: ['*'], to: ['https://x.test'], methods: [GET]}\n  - {name: some, agents: [a], to: ['https://x.test'], paths: [/a]}\n",
                &[],
            ),
            (
                "  - {name: all, agents: ['*'], to: ['https://*'], paths: ['/**']}\n  - {name: some, agents: [a], to: ['https://*.x.test'], methods: [GET]}\n",
                &[
                    "unreachable-rule: rule `some`: `all`, at p.yaml:3, allows all that this one allows, and comes first",
                ],
            ),
            (
                "  - {name: all, agents: ['*'], to: ['https://x.test']}\n  - {name: keyed, agents: [a], to: ['https://x.test'], use: [k]}\n",
                &[],
            ),
            (
                "  - {name: all, agents: ['*'], use: [k], users: [alice]}\n  - {name: some, agents: [a], use: [k]}\n",
                &[],
            ),
            (
                "  - {name: all, mode: shadow, agents: ['*'], use: [k]}\n  - {name: some, agents: [a], use: [k]}\n",
                &[],
            ),
            (
                "  - {name: all, agents: ['*'], to: ['https://x.test'], tunnel: opaque}\n  - {name: some, agents: [a], to: ['https://x.test']}\n",
                &[],
            ),
            (
                "  - {name: some, agents: [a], to: ['https://x.test']}\n  - {name: none, deny: true, agents: ['*'], to: ['https://*']}\n",
                &["denied-rule: rule `some`: `none`, at p.yaml:4, denies all that this one allows"],
            ),
        ] {
            assert_eq!(lints(rules), expected, "{rules}");
        }
    }

    /// The worst of what a file of this size can ask for, some thousand times more before: each rule is
    /// compared with each other at each host.
    #[test]
    fn many_rules_at_the_same_hosts_are_compared_in_time() {
        let hosts: Vec<String> = (0..300).map(|n| format!("'https://h{n}.test'")).collect();
        let hosts = hosts.join(", ");
        let rules: String = (0..300)
            .map(|n| format!("  - {{name: r{n}, agents: [a], to: [{hosts}], paths: ['/{n}']}}\n"))
            .collect();
        let text = format!("version: 1\nrules:\n{rules}");
        let policy = compile_all(vec![Source::new("p.yaml", &text)]).unwrap().policy;
        let begin = std::time::Instant::now();
        assert_eq!(policy.lint(0), []);
        let took = begin.elapsed();
        assert!(took < std::time::Duration::from_mins(1), "{took:?}");
    }

    #[test]
    fn rules_are_compared_with_what_the_vault_has() {
        let text = "version: 1
rules:
  - {name: r, agents: [a], to: ['https://api.test', 'https://other.test'], use: [used]}
  - {name: s, agents: [a], to: ['https://*.api.test'], use: [used]}
given: {credentials: {used: ['https://api.test'], unused: ['https://api.test']}}
";
        let compiled = compile_all(vec![Source::new("p.yaml", text)]).unwrap();
        let agents = ["a", "lonely"].map(|name| (name.parse().unwrap(), Labels::default()));
        let found = compiled.policy.lint_with(&compiled.given.index(), &agents);
        let shown: Vec<_> = found.iter().map(|l| (l.kind, l.message.as_str())).collect();
        assert_eq!(
            shown,
            [
                (
                    LintKind::WiderThanBinding,
                    "rule `r`: no credential of `use` may go to https://other.test"
                ),
                (
                    LintKind::WiderThanBinding,
                    "rule `s`: no credential of `use` may go to https://*.api.test"
                ),
                (LintKind::UnusedCredential, "no rule lets anybody use the credential `unused`"),
                (LintKind::AgentWithoutRules, "no rule allows the agent `lonely` anything"),
            ]
        );
    }
}
