//! From what was typed to what it means: policy files become a [`Policy`], or a report of all that
//! is wrong with them.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use http::Method;
use sha2::{Digest, Sha256};

use super::limits::{Limits, Meter, Per, Rate};
use super::{Agents, Policy, Rule, Timeouts, Uses};
use crate::document::{self, Document, Map, Node, Reader, Report, Source};
use crate::host::{Destination, Scheme};
use crate::reference::Name;
use crate::scrub::Undecodable;

/// What `locum init` writes: every agent may use each credential at its own destinations, and the
/// rest of the public internet is tunnelled.
pub const FIRST_POLICY: &str = include_str!("../../policies/first.yaml");

/// What `locum init --strict` writes: the same without the tunnel rule.
pub const STRICT_POLICY: &str = include_str!("../../policies/strict.yaml");

const TOP_KEYS: &[&str] = &["version", "groups", "rules"];
const RULE_KEYS: &[&str] = &[
    "name",
    "agents",
    "to",
    "methods",
    "paths",
    "use",
    "tunnel",
    "inject",
    "misplaced",
    "scrub",
    "timeouts",
    "websocket",
    "limits",
];

/// The range of `upstream.timeouts` in `locum.yaml`: shorter is no network, longer is forgotten.
const WAIT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);

/// A rule as typed: checked piece by piece, not yet against the other rules and groups.
struct Draft<'d> {
    name: (&'d str, &'d Node),
    agents: Vec<(&'d str, &'d Node)>,
    rule: Rule,
}

struct Drafts<'d> {
    groups: Vec<(&'d str, &'d Node, Vec<Name>)>,
    rules: Vec<Draft<'d>>,
}

/// Compiles policy files, all merged. The order of rules is that of the files, then of each file.
///
/// # Errors
/// Every mistake in every file, with its place.
pub fn compile(sources: Vec<Source>) -> Result<Policy, Report> {
    let digest = digest(&sources);
    let mut report = Report::default();
    let mut documents = Vec::with_capacity(sources.len());
    for source in sources {
        match Document::parse(source, &document::Limits::POLICY) {
            Ok(document) => documents.push(document),
            Err(problems) => report.extend(problems),
        }
    }
    let mut drafts = Vec::with_capacity(documents.len());
    for document in &documents {
        let mut reader = document.reader();
        let read = read_document(&mut reader, document.root());
        match reader.finish(read) {
            Ok(read) => drafts.push((document, read)),
            Err(problems) => report.extend(problems),
        }
    }
    let rules = link(drafts, &mut report);
    report.into_result()?;
    Ok(Policy::new(rules, digest))
}

/// Names a state of the policy in records and metrics.
fn digest(sources: &[Source]) -> String {
    let mut hash = Sha256::new();
    for source in sources {
        hash.update((source.name().len() as u64).to_be_bytes());
        hash.update(source.name());
        hash.update((source.text().len() as u64).to_be_bytes());
        hash.update(source.text());
    }
    HEXLOWER.encode(&hash.finalize()[..8])
}

fn read_document<'d>(reader: &mut Reader<'d>, root: &'d Node) -> Option<Drafts<'d>> {
    let mut map = reader.map(root, TOP_KEYS)?;
    let version = map.required("version", |r, n| r.integer(n, 1..=1_u8));
    let groups = if map.has("groups") { map.optional("groups", read_groups)? } else { Vec::new() };
    let rules = if map.has("rules") {
        map.optional("rules", |r, n| r.list(n, read_rule))
    } else {
        Some(Vec::new())
    };
    version?;
    Some(Drafts { groups, rules: rules? })
}

fn read_groups<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
) -> Option<Vec<(&'d str, &'d Node, Vec<Name>)>> {
    let mut groups = Vec::new();
    for (key, members) in reader.entries(node)? {
        if key.text.parse::<Name>().is_err() {
            reader.problem(key, "a group's name has 1 to 63 characters of a-z, 0-9 and `-`");
        }
        let members = reader.list(members, Reader::parsed::<Name>).map(|names| (names, members));
        if let Some((names, at)) = members {
            groups.push((&*key.text, at, names));
        }
    }
    Some(groups)
}

fn read_rule<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Draft<'d>> {
    let mut map = reader.map(node, RULE_KEYS)?;
    let name = map.required("name", |r, n| Some((r.text(n)?, n)));
    let agents = map.required("agents", |r, n| r.list(n, |r, n| Some((r.text(n)?, n))));
    let to = given(&mut map, "to", |r, n| r.list(n, Reader::parsed::<Destination>));
    let methods = given(&mut map, "methods", |r, n| r.list(n, method));
    let paths = given(&mut map, "paths", |r, n| r.list(n, Reader::parsed));
    let uses = given(&mut map, "use", read_uses);
    let opaque =
        given(&mut map, "tunnel", |r, n| r.choice(n, &[("opaque", true), ("intercept", false)]));
    let always =
        given(&mut map, "inject", |r, n| r.choice(n, &[("always", true), ("referenced", false)]));
    let refuse =
        given(&mut map, "misplaced", |r, n| r.choice(n, &[("refuse", true), ("inert", false)]));
    let scrub = given(&mut map, "scrub", read_scrub);
    let timeouts = given(&mut map, "timeouts", read_timeouts);
    let websocket =
        given(&mut map, "websocket", |r, n| r.choice(n, &[("allow", true), ("refuse", false)]));
    let limits = given(&mut map, "limits", read_limits);
    check_together(&mut map);
    let (name, agents) = (name?, agents?);
    let rule = Rule {
        name: Arc::from(name.0),
        agents: Agents::Any,
        to: to?,
        methods: methods?,
        paths: paths?,
        uses: uses?.unwrap_or_else(|| Uses::Named(HashSet::new())),
        opaque: opaque?.unwrap_or(false),
        inject_always: always?.unwrap_or(false),
        refuse_misplaced: refuse?.unwrap_or(false),
        undecodable: scrub?.unwrap_or_default(),
        timeouts: timeouts?.unwrap_or_default(),
        websocket: websocket?,
        meter: limits?.map(Meter::new),
    };
    check_schemes(&mut map, &rule);
    Some(Draft { name, agents, rule })
}

/// `Some(None)` for a key that is absent, `None` for one that is wrong.
#[allow(clippy::option_option)] // Three outcomes, and `?` on the outer one reads best.
fn given<'d, T>(
    map: &mut Map<'_, 'd>,
    key: &'static str,
    read: impl FnOnce(&mut Reader<'d>, &'d Node) -> Option<T>,
) -> Option<Option<T>> {
    if map.has(key) { map.optional(key, read).map(Some) } else { Some(None) }
}

fn read_uses<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Uses> {
    let names = reader.list(node, |r, n| Some((r.text(n)?, n)))?;
    if names.iter().any(|(text, _)| *text == "*") {
        return if names.len() == 1 {
            Some(Uses::All)
        } else {
            reader.problem(node, "`*` stands for all credentials, and so stands alone");
            None
        };
    }
    let parsed: Vec<Option<Name>> = names.iter().map(|(_, n)| reader.parsed::<Name>(n)).collect();
    parsed.into_iter().collect::<Option<_>>().map(Uses::Named)
}

fn read_scrub<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Undecodable> {
    let mut map = reader.map(node, &["undecodable"])?;
    let words = [("refuse", Undecodable::Refuse), ("pass", Undecodable::Pass)];
    map.required("undecodable", |r, n| r.choice(n, &words))
}

fn read_timeouts<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Timeouts> {
    let mut map = reader.map(node, &["response", "idle"])?;
    let response = given(&mut map, "response", |r, n| r.duration(n, WAIT));
    let idle = given(&mut map, "idle", |r, n| r.duration(n, WAIT));
    Some(Timeouts { response: response?, idle: idle? })
}

/// Requests at once: more is none, for a process has as many files.
const AT_ONCE: RangeInclusive<u32> = 1..=1_000_000;

fn read_limits<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Limits> {
    let mut map = reader.map(node, &["requests", "concurrent", "bytes", "per"])?;
    let requests = given(&mut map, "requests", |r, n| r.parsed_with(n, Rate::of_requests));
    let concurrent = given(&mut map, "concurrent", |r, n| r.integer(n, AT_ONCE));
    let bytes = given(&mut map, "bytes", |r, n| r.parsed_with(n, Rate::of_bytes));
    let words = [("agent", Per::Agent), ("credential", Per::Credential), ("rule", Per::Rule)];
    let per = given(&mut map, "per", |r, n| r.choice(n, &words));
    if ["requests", "concurrent", "bytes"].iter().all(|key| !map.has(key)) {
        map.reader().problem_with_help(
            node,
            "`limits` says nothing of how much",
            "add one of requests, concurrent and bytes, such as `requests: 60/min`",
        );
        return None;
    }
    Some(Limits {
        requests: requests?,
        concurrent: concurrent?,
        bytes: bytes?,
        per: per?.unwrap_or_default(),
    })
}

fn method<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Method> {
    let text = reader.text(node)?;
    let upper = text.to_ascii_uppercase();
    if matches!(upper.as_str(), "TRACE" | "TRACK" | "CONNECT") {
        reader.problem(node, format!("{upper} is never forwarded"));
        return None;
    }
    if text != upper {
        let advice = format!("write {upper}");
        reader.problem_with_help(node, "methods are case-sensitive", advice);
        return None;
    }
    reader.parsed_with(node, str::parse::<Method>)
}

/// Keys that contradict each other.
fn check_together(map: &mut Map<'_, '_>) {
    if !map.has("to") && !map.has("use") {
        let node = map.whole();
        map.reader().problem_with_help(
            node,
            "the rule has neither `to` nor `use`, so nothing says where it applies",
            "add `to: [https://host]`; a rule without `to` applies where its credentials are bound",
        );
    }
    let opaque =
        |node: &Node| matches!(&node.value, crate::document::Value::String(s) if &**s == "opaque");
    if map.node("tunnel").is_some_and(opaque) {
        for key in
            ["use", "methods", "paths", "inject", "misplaced", "scrub", "timeouts", "websocket"]
        {
            if let Some(node) = map.node(key) {
                map.reader().problem_with_help(
                    node,
                    format!("`{key}` needs a look inside, and `tunnel: opaque` is never decrypted"),
                    format!("remove `{key}`, or `tunnel: opaque`"),
                );
            }
        }
    }
    let always =
        |node: &Node| matches!(&node.value, crate::document::Value::String(s) if &**s == "always");
    if let Some(node) = map.node("inject").filter(|n| always(n))
        && !map.has("use")
    {
        map.reader().problem(node, "`inject: always` needs `use`, to say what to inject");
    }
}

fn check_schemes(map: &mut Map<'_, '_>, rule: &Rule) {
    let grants = !matches!(&rule.uses, Uses::Named(names) if names.is_empty());
    let clear = rule.to.iter().flatten().any(|d| d.scheme == Scheme::Http);
    if let Some(node) = map.node("to").filter(|_| grants && clear) {
        map.reader().problem_with_help(
            node,
            "the rule grants a credential over http://, where it never goes",
            "write https://, or give plain http:// a rule of its own without `use`",
        );
    }
}

/// Puts the drafts of all files together: names are unique, and agents may be groups of any file.
fn link(drafts: Vec<(&Document, Drafts<'_>)>, report: &mut Report) -> Vec<Rule> {
    let mut groups: HashMap<String, Vec<Name>> = HashMap::new();
    for (document, drafts) in &drafts {
        for (name, node, members) in &drafts.groups {
            if groups.insert((*name).to_owned(), members.clone()).is_some() {
                report
                    .push(document.problem(*node, format!("the group `{name}` is defined twice")));
            }
        }
    }
    let mut seen: HashMap<Arc<str>, String> = HashMap::new();
    let mut rules = Vec::new();
    for (document, drafts) in drafts {
        for draft in drafts.rules {
            let Draft { name: (_, at), agents, mut rule } = draft;
            let place = format!("{}:{}:{}", document.source().name(), at.at.line, at.at.column);
            if let Some(first) = seen.insert(Arc::clone(&rule.name), place) {
                let problem =
                    document.problem(at, format!("two rules have the name `{}`", rule.name));
                report.push(
                    problem.help(format!("the other is at {first}; records name rules by it")),
                );
            }
            rule.agents = link_agents(document, &agents, &groups, report);
            rules.push(rule);
        }
    }
    rules
}

fn link_agents(
    document: &Document,
    agents: &[(&str, &Node)],
    groups: &HashMap<String, Vec<Name>>,
    report: &mut Report,
) -> Agents {
    let mut names = HashSet::new();
    for (text, node) in agents {
        if *text == "*" {
            if agents.len() > 1 {
                report.push(
                    document.problem(*node, "`*` stands for all agents, and so stands alone"),
                );
            }
            return Agents::Any;
        }
        match (groups.get(*text), text.parse::<Name>()) {
            (Some(members), _) => names.extend(members.iter().cloned()),
            (None, Ok(name)) => {
                names.insert(name);
            }
            (None, Err(error)) => report.push(document.problem(*node, error.to_string())),
        }
    }
    Agents::Named(names)
}
