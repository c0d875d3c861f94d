//! What is no mistake and still probably not meant: rules that never decide, hosts that anybody can
//! register, credentials that nobody may use.
//!
//! What is said is certain. A rule that is called unreachable, denied or without effect decides on no
//! request at all, which `tests/reference` holds every lint to.

mod beside;
mod eclipse;
mod spots;

use std::collections::HashSet;

use super::Policy;
use super::rule::{Agents, Rule};
use crate::agent::Labels;
use crate::credential::CredentialIndex;
use crate::document::{Position, Source};
use crate::host::{Destination, is_public_suffix};
use crate::reference::Name;
use eclipse::{Eclipse, Eclipses};
use spots::{About, Spots};

/// What a lint is about; the id that it has in JSON and SARIF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LintKind {
    /// A credential may go to hosts that a pattern names.
    WildcardWithCredential,
    /// Anybody can register a host that the pattern names.
    WildcardUnderPublicSuffix,
    /// An earlier rule decides on all of it.
    Unreachable,
    /// Another rule denies all of it.
    Denied,
    /// No rule of the organisation lets any of it through.
    BeyondOrganisation,
    /// Nothing can match it.
    WithoutEffect,
    /// Each request that one of its paths matches is refused.
    PathNeverMatches,
    /// No credential that it grants may go there.
    WiderThanBinding,
    /// The vault does not have it.
    UnknownName,
    /// A group has the name of an agent.
    GroupLikeAgent,
    /// No rule grants it.
    UnusedCredential,
    /// No rule is for it.
    AgentWithoutRules,
    /// The rules are so alike that not all were compared.
    NotCompared,
}

impl LintKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::WildcardWithCredential,
        Self::WildcardUnderPublicSuffix,
        Self::Unreachable,
        Self::Denied,
        Self::BeyondOrganisation,
        Self::WithoutEffect,
        Self::PathNeverMatches,
        Self::WiderThanBinding,
        Self::UnknownName,
        Self::GroupLikeAgent,
        Self::UnusedCredential,
        Self::AgentWithoutRules,
        Self::NotCompared,
    ];

    /// The stable id.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::WildcardWithCredential => "wildcard-with-credential",
            Self::WildcardUnderPublicSuffix => "wildcard-under-public-suffix",
            Self::Unreachable => "unreachable-rule",
            Self::Denied => "denied-rule",
            Self::BeyondOrganisation => "beyond-organisation",
            Self::WithoutEffect => "rule-without-effect",
            Self::PathNeverMatches => "path-never-matches",
            Self::WiderThanBinding => "wider-than-binding",
            Self::UnknownName => "unknown-name",
            Self::GroupLikeAgent => "group-like-agent",
            Self::UnusedCredential => "unused-credential",
            Self::AgentWithoutRules => "agent-without-rules",
            Self::NotCompared => "not-compared",
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
            Self::BeyondOrganisation => {
                "remove it, or have a rule of policies/org let it through: those bound all others"
            }
            Self::WithoutEffect => "remove it, or give it what is missing",
            Self::PathNeverMatches => {
                "write `*` for what is escaped or odd: a path that origins read in more than one way is allowed where the rule allows each reading"
            }
            Self::WiderThanBinding => "remove the destination, or bind a credential to it",
            Self::UnknownName => "add it to the vault, or take it out of the rule",
            Self::GroupLikeAgent => "give the group another name, such as the plural",
            Self::UnusedCredential => "grant it in a rule, or remove it: `locum credential remove`",
            Self::AgentWithoutRules => "write a rule for it, or remove it: `locum agent revoke`",
            Self::NotCompared => {
                "rules that never decide may be among those that were not; put what is the same in them into fewer rules"
            }
        }
    }
}

/// One thing that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// What it is about.
    pub kind: LintKind,
    /// File, and place of the key, item or rule; none for what stands in no file.
    pub place: Option<(String, Position)>,
    /// What is found, with names.
    pub message: String,
    /// What to do about it.
    pub advice: String,
}

/// What rules are looked at beside.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The second of Unix time.
    pub now: i64,
    /// The files that the policy was compiled from, to point into.
    pub sources: &'a [Source],
    /// The credentials of a vault, or those that the tests suppose.
    pub index: &'a CredentialIndex,
    /// What else the vault has, where there is one.
    pub vault: Option<Has<'a>>,
}

/// What a vault has.
#[derive(Clone, Copy, Debug)]
pub struct Has<'a> {
    /// Its live agents, each with its labels.
    pub agents: &'a [(Name, Labels)],
    /// Its credentials and sets.
    pub uses: &'a [Name],
}

/// A lint whose place is not looked up yet.
struct Found<'p> {
    kind: LintKind,
    about: About<'p>,
    message: String,
    advice: Option<String>,
}

impl<'p> Found<'p> {
    fn new(kind: LintKind, about: About<'p>, message: impl Into<String>) -> Self {
        Self { kind, about, message: message.into(), advice: None }
    }
}

impl Policy {
    /// Looks at the rules by themselves and beside what there is, in the order of their places.
    #[must_use]
    pub fn lint(&self, around: Around<'_>) -> Vec<Lint> {
        let Around { now, sources, index, vault } = around;
        let mut found = Vec::new();
        let idle = self.lint_rules(now, &mut found);
        beside::bindings(self, index, &mut found);
        let agents = vault.map_or(&[][..], |vault| vault.agents);
        beside::groups(self, agents, &mut found);
        if let Some(Has { agents, uses }) = vault {
            beside::unknown(self, index, (agents, uses), &mut found);
            beside::unused(self, index, agents, |at| !idle.contains(&at), &mut found);
        }
        let mut spots = Spots::new(&self.files, sources);
        let mut told = HashSet::new();
        let mut lints = Vec::with_capacity(found.len());
        for one in found {
            let place = spots.find(&one.about);
            // A name in a group is not there once for each rule that names the group.
            if told.insert((one.kind, place.clone(), one.message.clone())) {
                lints.push(one.at(place));
            }
        }
        lints.sort_by(|a, b| a.place.cmp(&b.place));
        lints
    }

    /// Looks at each rule, and beside the others. Returns those that can allow nothing.
    fn lint_rules<'p>(&'p self, now: i64, found: &mut Vec<Found<'p>>) -> HashSet<usize> {
        let mut eclipses = Eclipses::new(&self.rules, self.bounded.0);
        let mut idle = HashSet::new();
        for (at, rule) in self.rules.iter().enumerate() {
            if let Some((way, why)) = without_effect(rule, now) {
                let about = if way.is_empty() { About::Rule(rule) } else { About::Key(rule, way) };
                found.push(Found::new(LintKind::WithoutEffect, about, why));
                idle.insert(at);
                continue;
            }
            if never_match(rule, found) {
                idle.insert(at);
                continue;
            }
            if !rule.deny {
                wildcards(rule, found);
            }
            let Some(eclipse) = eclipses.of(at, rule) else { continue };
            if !matches!(eclipse, Eclipse::Earlier(_)) {
                idle.insert(at);
            }
            let (kind, why) = self.shown(eclipse);
            found.push(Found::new(kind, About::Rule(rule), why));
        }
        if !eclipses.is_whole() {
            let message = "the rules are so alike that not all of them were compared";
            found.push(Found::new(LintKind::NotCompared, About::Nothing, message));
        }
        idle
    }

    fn shown(&self, eclipse: Eclipse) -> (LintKind, String) {
        let other = |at: usize| {
            let rule = &self.rules[at];
            let file = self.files.get(rule.place.file as usize).map_or("", |file| file);
            format!("`{}`, at {file}:{}", rule.name, rule.place.at.line)
        };
        match eclipse {
            Eclipse::Denied(at) => {
                (LintKind::Denied, format!("{}, denies all that this one allows", other(at)))
            }
            Eclipse::Earlier(at) => {
                let how = "allows all that this one allows, and comes first";
                (LintKind::Unreachable, format!("{}, {how}", other(at)))
            }
            Eclipse::Unbound => {
                let message = "no rule of the organisation allows any of what this one allows";
                (LintKind::BeyondOrganisation, message.to_owned())
            }
        }
    }
}

impl Found<'_> {
    fn at(self, place: Option<(String, Position)>) -> Lint {
        let rule = match self.about {
            About::Rule(rule)
            | About::Key(rule, _)
            | About::Item(rule, ..)
            | About::Named(rule, ..) => Some(rule),
            About::Group(_) | About::Nothing => None,
        };
        let message = match rule {
            Some(rule) => format!("rule `{}`: {}", rule.name, self.message),
            None => self.message,
        };
        let advice = self.advice.unwrap_or_else(|| self.kind.advice().to_owned());
        Lint { kind: self.kind, place, message, advice }
    }
}

/// The key that makes that nothing can match a rule, and why.
fn without_effect(rule: &Rule, now: i64) -> Option<(&'static [&'static str], &'static str)> {
    let sockets = rule.websocket == Some(!rule.deny);
    if matches!(&rule.agents, Agents::Some { names, labelled } if names.is_empty() && labelled.is_empty())
    {
        return Some((&["agents"], "`agents` names nobody"));
    }
    if rule.to.as_ref().is_some_and(Vec::is_empty) {
        return Some((&["to"], "`to` names no destination"));
    }
    if rule.to.is_none() && rule.uses.is_empty() {
        let why = "`use` names no credential, and without `to` it says where the rule applies";
        return Some((&["use"], why));
    }
    if rule.methods.as_ref().is_some_and(Vec::is_empty) && !sockets {
        return Some((&["methods"], "`methods` names none, and sockets are none of its own"));
    }
    if rule.paths.as_ref().is_some_and(Vec::is_empty) {
        return Some((&["paths"], "`paths` names none"));
    }
    let over = |last: i64| last < now;
    if rule.when.as_ref().and_then(|when| when.not_after).is_some_and(over) {
        return Some((&["when", "not_after"], "its last moment has passed"));
    }
    None
}

/// Looks for paths of a rule that allows whose own request would be refused: one reading of it leads here,
/// and another does not. Returns whether the rule has no other.
fn never_match<'p>(rule: &'p Rule, found: &mut Vec<Found<'p>>) -> bool {
    let Some(paths) = rule.paths.as_ref().filter(|_| !rule.deny) else { return false };
    let mut idle = 0;
    for (at, path) in paths.iter().enumerate() {
        let Some(text) = path.exact() else { continue };
        let allowed = |reading: &String| paths.iter().any(|path| path.matches(reading));
        let why = match crate::request::readings(&text) {
            _ if text.parse::<http::uri::PathAndQuery>().is_err() => {
                "has a character that no client sends as it is"
            }
            Ok(readings) if readings.iter().all(allowed) => continue,
            Ok(_) => "is read otherwise by some origins, and the rule does not allow that reading",
            Err(_) => "is refused, whatever the rules say",
        };
        idle += 1;
        let message = format!("no request is allowed by `{text}`: it {why}");
        found.push(Found::new(LintKind::PathNeverMatches, About::Item(rule, "paths", at), message));
    }
    idle == paths.len()
}

fn wildcards<'p>(rule: &'p Rule, found: &mut Vec<Found<'p>>) {
    for (at, destination) in rule.to.iter().flatten().enumerate() {
        let mut lint = |kind, message| {
            found.push(Found::new(kind, About::Item(rule, "to", at), message));
        };
        wildcard(rule, destination, &mut lint);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Compiled, compile_all};

    const NOW: i64 = 1_767_268_800;

    fn compiled(text: &str) -> (Vec<Source>, Compiled) {
        let sources = vec![Source::new("p.yaml", text)];
        let compiled = compile_all(sources.clone()).unwrap_or_else(|r| panic!("{r}"));
        (sources, compiled)
    }

    fn found(text: &str, vault: Option<Has<'_>>) -> Vec<(String, Option<(u32, u32)>)> {
        let (sources, compiled) = compiled(text);
        let index = &compiled.given.index();
        let around = Around { now: NOW, sources: &sources, index, vault };
        let shown = |lint: Lint| {
            let place = lint.place.map(|(_, at)| (at.line, at.column));
            (format!("{}: {}", lint.kind.id(), lint.message), place)
        };
        compiled.policy.lint(around).into_iter().map(shown).collect()
    }

    fn lints(rules: &str) -> Vec<String> {
        let text = format!("version: 1\nrules:\n{rules}");
        found(&text, None).into_iter().map(|(text, _)| text).collect()
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
                "  - {name: r, agents: [a], use: []}\n",
                &[
                    "rule-without-effect: rule `r`: `use` names no credential, and without `to` it says where the rule applies",
                ],
            ),
            ("  - {name: r, agents: [a], to: ['https://x.test'], use: []}\n", &[]),
            (
                "  - {name: r, agents: [a], use: [k], when: {not_after: '2020-01-01T00:00:00Z'}}\n",
                &["rule-without-effect: rule `r`: its last moment has passed"],
            ),
        ] {
            assert_eq!(lints(rules), expected, "{rules}");
        }
    }

    /// What a second rule is called behind, or before, the first.
    #[test]
    fn rules_that_leave_nothing_to_decide() {
        let (free, unreachable, denied) = (None, Some("unreachable-rule"), Some("denied-rule"));
        for (first, second, expected) in [
            ("agents: ['*'], use: ['*']", "agents: [a], use: [k]", unreachable),
            ("agents: [a], use: [k]", "agents: ['*'], use: ['*']", free),
            ("to: ['https://x.test'], methods: [GET]", "to: ['https://x.test'], paths: [/a]", free),
            (
                "to: ['https://*'], paths: ['/**']",
                "to: ['https://*.x.test'], methods: [GET]",
                unreachable,
            ),
            // `OPTIONS *` has no path.
            ("to: ['https://*'], paths: ['/**']", "to: ['https://*.x.test']", free),
            ("to: ['https://x.test']", "to: ['https://x.test'], use: [k]", free),
            ("use: [k], users: [alice]", "use: [k]", free),
            ("mode: shadow, use: [k]", "use: [k]", free),
            ("to: ['https://x.test'], tunnel: opaque", "to: ['https://x.test']", free),
            (
                "to: ['https://x.test'], paths: ['/v1/**']",
                "to: ['https://x.test'], paths: [/v1/models]",
                unreachable,
            ),
            (
                "to: ['https://x.test'], paths: ['/v1/**']",
                "to: ['https://x.test'], paths: [/v1/models, /v2]",
                free,
            ),
            (
                "to: ['https://x.test'], paths: ['/v1/*']",
                "to: ['https://x.test'], paths: ['/v1/**']",
                free,
            ),
            (
                "to: ['https://x.test'], paths: ['/*/b*', '/a']",
                "to: ['https://x.test'], paths: ['/a/b*c', '/a']",
                unreachable,
            ),
            ("to: ['https://**.acme.example']", "to: ['https://*.acme.example']", unreachable),
            ("to: ['https://*.acme.example']", "to: ['https://**.acme.example']", free),
            ("to: ['https://**.acme.example']", "to: ['https://*.acme.example:8443']", free),
            (
                "to: ['https://x.test'], methods: [GET, POST]",
                "to: ['https://x.test'], methods: [POST]",
                unreachable,
            ),
            (
                "to: ['https://x.test'], methods: [GET]",
                "to: ['https://x.test'], methods: [GET], websocket: allow",
                free,
            ),
            (
                "use: [k], when: {days: mon-fri, zone: UTC}",
                "use: [k], when: {days: mon, zone: UTC}",
                unreachable,
            ),
            (
                "use: [k], when: {days: mon-fri, zone: UTC}",
                "use: [k], when: {days: sat, zone: UTC}",
                free,
            ),
            (
                "use: [k], when: {days: mon-fri, zone: UTC}",
                "use: [k], when: {days: mon, zone: Europe/Berlin}",
                free,
            ),
            (
                "use: [k], when: {not_after: '2030-01-01T00:00:00Z'}",
                "use: [k], when: {not_after: '2029-01-01T00:00:00Z'}",
                unreachable,
            ),
            ("use: [k], query: {a: [x, 'y*']}", "use: [k], query: {a: yes, b: z}", unreachable),
            ("use: [k], query: {a: [x, 'y*'], c: '*'}", "use: [k], query: {a: yes, b: z}", free),
            ("use: [k], headers: {x-a: '*'}", "use: [k], headers: {X-A: '2*'}", unreachable),
            (
                "use: [k], users: ['*@acme.example']",
                "use: [k], users: [bob@acme.example], runs: ['nightly-*']",
                unreachable,
            ),
            (
                "agents: {labels: {team: ml}}, use: [k]",
                "agents: {labels: {team: ml, env: prod}}, use: [k]",
                unreachable,
            ),
            (
                "agents: {labels: {team: [ml, 'web*']}}, use: [k]",
                "agents: {labels: {team: [ml, web-1]}}, use: [k]",
                unreachable,
            ),
            (
                "agents: {labels: {team: ml, env: prod}}, use: [k]",
                "agents: {labels: {team: ml}}, use: [k]",
                free,
            ),
            ("agents: {labels: {team: ml}}, use: [k]", "use: [k]", free),
            (
                "deny: true, to: ['https://x.test'], paths: ['/admin/**']",
                "to: ['https://x.test'], paths: [/admin/users]",
                denied,
            ),
            (
                "deny: true, to: ['https://x.test'], use: [k]",
                "to: ['https://x.test'], use: [k]",
                free,
            ),
            (
                "deny: true, to: ['https://x.test'], query: {a: '*'}",
                "to: ['https://x.test'], query: {a: b}",
                denied,
            ),
        ] {
            let rule = |name: &str, keys: &str| {
                let agents = if keys.contains("agents:") { "" } else { "agents: [a], " };
                format!("  - {{name: {name}, {agents}{keys}}}\n")
            };
            let rules = rule("first", first) + &rule("second", second);
            let of_the_second =
                |found: &String| found.contains("rule `second`: `first`, at p.yaml:3,");
            let found = lints(&rules).into_iter().find(of_the_second);
            let id = found.as_ref().and_then(|text| text.split(':').next());
            assert_eq!(id, expected, "{rules}");
            if expected == denied {
                // That one wins wherever it stands.
                let rules = rule("second", second) + &rule("first", first);
                assert!(lints(&rules)[0].starts_with("denied-rule: rule `second`"), "{rules}");
            }
        }
    }

    #[test]
    fn paths_whose_own_request_is_refused() {
        for (paths, never) in [
            ("['/v1/x%20y']", &["/v1/x%20y"][..]),
            ("['/v1/x%20y', '/v1/*']", &[]),
            ("['/v1/x*y']", &[]),
            ("['/a/../b', /c]", &["/a/../b"]),
            ("['/a%2fb', /a/b]", &[]),
            ("['/a//b']", &["/a//b"]),
            ("['/a;b']", &["/a;b"]),
            ("['/a;b', /a]", &[]),
            ("['/a%00']", &["/a%00"]),
            ("['/a\\b']", &["/a\\b"]),
            ("['/caf\u{e9}']", &[]),
        ] {
            let rules =
                format!("  - {{name: r, agents: [a], to: ['https://x.test'], paths: {paths}}}\n");
            let found = lints(&rules);
            let said = |text: &String| {
                let path =
                    text.strip_prefix("path-never-matches: rule `r`: no request is allowed by `")?;
                path.split('`').next().map(ToOwned::to_owned)
            };
            assert_eq!(found.iter().filter_map(said).collect::<Vec<_>>(), never, "{paths}");
            assert_eq!(found.len(), never.len(), "{found:?}");
            // What is denied under one reading is refused, so such a rule is not without effect.
            let denying = rules.replace("agents: [a]", "deny: true, agents: [a]");
            assert_eq!(lints(&denying), [""; 0]);
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
        let begin = std::time::Instant::now();
        assert_eq!(lints(&rules), [""; 0]);
        let took = begin.elapsed();
        assert!(took < std::time::Duration::from_mins(1), "{took:?}");
    }

    /// Rules that have agent, host and path in common can only be told apart by comparing each with each;
    /// of so many that this would take minutes, it is said that they were not.
    #[test]
    fn what_cannot_be_compared_in_time_is_said() {
        let rules: String = (0..20_000)
            .map(|n| {
                format!(
                    "  - {{name: r{n}, agents: [a], to: ['https://x.test'], query: {{q: v{n}}}}}\n"
                )
            })
            .collect();
        let found = lints(&rules);
        assert_eq!(
            found,
            ["not-compared: the rules are so alike that not all of them were compared"]
        );
    }

    #[test]
    fn rules_are_compared_with_what_the_vault_has() {
        let text = "version: 1
groups: {all: [a, gone], b: [a], c: [c]}
parts:
  far: {to: ['https://far.test'], use: [used]}
rules:
  - name: r
    agents: [all]
    to: ['https://api.test', 'https://other.test']
    use: [used]
  - {name: s, agents: [a], to: ['https://*.api.test'], use: [used, unuse]}
  - {name: t, agents: [a], with: [far]}
  - {name: u, agents: [a], to: ['https://*.b.test'], use: [wild]}
  - {name: v, agents: [lonly, all], to: ['https://x.test'], when: {not_after: '2020-01-01T00:00:00Z'}, use: [over]}
  - {name: w, agents: [b], deny: true, use: [denied]}
given:
  credentials:
    {used: ['https://api.test'], unused: ['https://api.test'], over: ['https://x.test'],
     denied: ['https://x.test'], wild: ['https://*.a.test']}
";
        let agents = ["a", "b", "lonely"].map(|name| (name.parse().unwrap(), Labels::default()));
        let uses = ["used", "unused", "over", "denied", "wild"].map(|name| name.parse().unwrap());
        let found = found(text, Some(Has { agents: &agents, uses: &uses }));
        let found: Vec<_> = found.iter().map(|(text, at)| (text.as_str(), *at)).collect();
        let at = |line, column| Some((line, column));
        assert_eq!(
            found,
            [
                ("unused-credential: no rule lets anybody use the credential `denied`", None),
                ("unused-credential: no rule lets anybody use the credential `over`", None),
                ("unused-credential: no rule lets anybody use the credential `unused`", None),
                ("agent-without-rules: no rule allows the agent `b` anything", None),
                ("agent-without-rules: no rule allows the agent `lonely` anything", None),
                ("unknown-name: rule `r`: the vault has no live agent `gone`", at(2, 19)),
                (
                    "group-like-agent: the group `b` is called as an agent is: rules that name it mean the group",
                    at(2, 26)
                ),
                (
                    "group-like-agent: the group `c` is called as an agent is: rules that name it mean the group",
                    at(2, 34)
                ),
                (
                    "wider-than-binding: rule `t`: no credential of `use` may go to https://far.test",
                    at(4, 14)
                ),
                (
                    "wider-than-binding: rule `r`: no credential of `use` may go to https://other.test",
                    at(8, 30)
                ),
                (
                    "wildcard-with-credential: rule `s`: a credential may go to whatever https://*.api.test names",
                    at(10, 33)
                ),
                ("unknown-name: rule `s`: the vault has no credential or set `unuse`", at(10, 68)),
                (
                    "wildcard-with-credential: rule `u`: a credential may go to whatever https://*.b.test names",
                    at(12, 33)
                ),
                (
                    "wider-than-binding: rule `u`: no credential of `use` may go to https://*.b.test",
                    at(12, 33)
                ),
                ("unknown-name: rule `v`: the vault has no live agent `lonly`", at(13, 24)),
                ("rule-without-effect: rule `v`: its last moment has passed", at(13, 68)),
            ]
        );
    }

    #[test]
    fn the_organisation_lets_through_or_not() {
        let floor = "version: 1\nlayer: organisation\nrules:
  - {name: floor, agents: ['*'], to: ['https://*.acme.example', 'https://x.test'], methods: [GET], use: [k]}
";
        let own = "version: 1\nrules:
  - {name: inside, agents: [a], to: ['https://a.acme.example'], use: [k]}
  - {name: outside, agents: [a], to: ['https://a.b.acme.example']}
  - {name: writing, agents: [a], to: ['https://x.test'], methods: [POST, PUT]}
  - {name: wide, agents: [a], to: ['https://**.acme.example'], use: [l]}
  - {name: none, agents: [b], to: ['https://y.test'], use: [m]}
";
        let sources = vec![Source::new("org/floor.yaml", floor), Source::new("own.yaml", own)];
        let policy = crate::policy::compile(sources.clone()).unwrap();
        let given = "version: 1\ngiven: {credentials: {k: ['https://*.acme.example'], l: ['https://*.acme.example'], m: ['https://y.test']}}\n";
        let (_, given) = compiled(given);
        let agents = ["a", "b"].map(|name| (name.parse().unwrap(), Labels::default()));
        let uses = ["k", "l", "m"].map(|name| name.parse().unwrap());
        let vault = Some(Has { agents: &agents, uses: &uses });
        let index = &given.given.index();
        let found = policy.lint(Around { now: NOW, sources: &sources, index, vault });
        let said: Vec<_> = found
            .iter()
            .filter(|lint| lint.kind != LintKind::WildcardWithCredential)
            .filter(|lint| lint.kind != LintKind::WiderThanBinding)
            .map(|lint| (lint.kind.id(), lint.message.as_str()))
            .collect();
        let beyond = |rule| {
            format!("rule `{rule}`: no rule of the organisation allows any of what this one allows")
        };
        assert_eq!(
            said,
            [
                (
                    "unused-credential",
                    "no rule of the organisation grants the credential `l`, so nobody may use it"
                ),
                ("unused-credential", "no rule lets anybody use the credential `m`"),
                ("agent-without-rules", "no rule allows the agent `b` anything"),
                ("beyond-organisation", &*beyond("outside")),
                ("beyond-organisation", &*beyond("writing")),
                ("beyond-organisation", &*beyond("none")),
            ]
        );
    }
}
