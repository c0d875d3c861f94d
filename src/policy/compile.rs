//! From what was typed to what it means: policy files become a [`Policy`], or a report of all that
//! is wrong with them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::cases::{Case, Given};
use super::limits::Meter;
use super::read::{Draft, Drafts, Fields, Meant, Member, read_document};
use super::rule::{Agents, Place, Rule};
use super::{Group, Policy};
use crate::document::{Document, Key, Limits, Node, Problem, Report, Source, Value, suggest};
use crate::host::Scheme;
use crate::reference::Name;

/// What `locum init` writes: every agent may use each credential at its own destinations, and the
/// rest of the public internet is tunnelled.
pub const FIRST_POLICY: &str = include_str!("../../policies/first.yaml");

/// What `locum init --strict` writes: the same without the tunnel rule.
pub const STRICT_POLICY: &str = include_str!("../../policies/strict.yaml");

/// A JSON Schema (draft 2020-12) of a policy file, by which editors complete and check.
pub const SCHEMA: &str = include_str!("../../policies/schema.json");

/// The directory beside a workspace's policies whose files are the organisation's: one that others
/// may read and not write.
pub const ORGANISATION: &str = "org";

/// Policy files as a policy, and what stands beside the rules.
#[derive(Debug)]
pub struct Compiled {
    /// The rules.
    pub policy: Policy,
    /// The tests.
    pub cases: Vec<Case>,
    /// What the tests suppose of the vault.
    pub given: Given,
}

/// Compiles policy files, all merged. The order of rules is that of the files, then of each file.
///
/// # Errors
/// Every mistake in every file, with its place.
pub fn compile(sources: Vec<Source>) -> Result<Policy, Report> {
    compile_all(sources).map(|compiled| compiled.policy)
}

/// The same, with the tests.
///
/// # Errors
/// Every mistake in every file, with its place.
pub fn compile_all(sources: Vec<Source>) -> Result<Compiled, Report> {
    let digest = digest(&sources);
    let mut report = Report::default();
    let mut documents = Vec::with_capacity(sources.len());
    for source in sources {
        match Document::parse(source, &Limits::POLICY) {
            Ok(document) => documents.push(document),
            Err(problems) => report.extend(problems),
        }
    }
    let mut drafts = Vec::with_capacity(documents.len());
    for document in &documents {
        let mut reader = document.reader();
        let read = read_document(&mut reader, document.root());
        let whole = reader.finish(read.as_ref().map(drop));
        // What could be read of it is looked at further: all mistakes are reported at once.
        drafts.extend(read.map(|read| (document, read)));
        report.extend(whole.err().unwrap_or_default());
    }
    let files = drafts.iter().map(|(document, _)| Arc::from(document.source().name())).collect();
    let (mut cases, mut given) = (Vec::new(), Given::default());
    for ((_, drafts), file) in drafts.iter_mut().zip(0..) {
        given.credentials.append(&mut drafts.given.credentials);
        given.sets.extend(drafts.given.sets.drain());
        cases.extend(drafts.cases.iter().map(|(case, _)| {
            let place = Place { file, ..case.place };
            Case { place, ..case.clone() }
        }));
    }
    check_cases(&drafts, &given, &mut report);
    let groups = groups(&drafts);
    let rules = link(drafts, &mut report);
    report.into_result()?;
    Ok(Compiled { policy: Policy::new(rules, (files, groups), digest), cases, given })
}

/// What is called a group, and where.
fn groups(drafts: &[(&Document, Drafts<'_>)]) -> Vec<Group> {
    let all = || {
        (0..).zip(drafts).flat_map(|(file, (_, drafts))| {
            drafts.groups.iter().map(move |(key, members)| (file, *key, members))
        })
    };
    let members: HashSet<&str> = all()
        .flat_map(|(_, _, members)| members)
        .filter_map(|member| match member {
            Member::Named(name) => Some(name.as_str()),
            Member::Labelled(_) => None,
        })
        .collect();
    let group = |(file, key, _): (u32, &Key, &Vec<Member>)| Group {
        name: key.text.clone(),
        place: Place { file, at: key.at },
        is_member: members.contains(&*key.text),
    };
    all().map(group).collect()
}

/// Names in tests that nothing has: the test would pass or fail for another reason than it says.
fn check_cases(drafts: &[(&Document, Drafts<'_>)], given: &Given, report: &mut Report) {
    let rules: HashSet<&str> =
        drafts.iter().flat_map(|(_, drafts)| drafts.rules.iter().map(|rule| rule.name.0)).collect();
    let known: HashSet<&str> = given.credentials.iter().map(|(name, _)| name.as_str()).collect();
    for (document, drafts) in drafts {
        for (case, node) in &drafts.cases {
            if let Some(rule) = case.expected.rule.as_deref().filter(|rule| !rules.contains(rule)) {
                let spot = value_of(node, "rule").unwrap_or(node);
                let problem = document.problem(spot, "no rule has this name");
                let near = suggest(rule, rules.iter().copied());
                report.push(match near {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem.help("name a rule of these files, or remove `rule`"),
                });
            }
            let refers = case.inquiry.refers.as_ref().map(Name::as_str);
            if refers.is_some_and(|name| !known.contains(name)) {
                let spot = value_of(node, "use").unwrap_or(node);
                report.push(document.problem(spot, "the tests do not say where this credential may go").help(
                    "add `given: {credentials: {NAME: [https://host]}}` at the top of a file",
                ));
            }
        }
    }
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

/// What the files of one layer name for use in rules. The organisation's rules use what the
/// organisation names, and nothing else: a workspace cannot widen them by a group.
#[derive(Default)]
struct Names {
    groups: HashMap<String, Vec<Member>>,
    parts: HashMap<String, Fields>,
}

struct Linker<'r> {
    report: &'r mut Report,
    /// The organisation's, and the workspace's.
    names: [Names; 2],
    /// Whether a name that is not found may be in a file that could not be read.
    incomplete: bool,
}

/// Puts the drafts of all files together: names are unique, and agents may be groups of any file.
fn link(drafts: Vec<(&Document, Drafts<'_>)>, report: &mut Report) -> Vec<Rule> {
    let incomplete = hides_names(report);
    let mut linker = Linker { report, names: Default::default(), incomplete };
    for (document, drafts) in &drafts {
        linker.check_layer(document, drafts.organisation);
        linker.define(document, drafts);
    }
    let mut seen: HashMap<Arc<str>, String> = HashMap::new();
    let mut rules = Vec::new();
    for ((document, drafts), file) in drafts.into_iter().zip(0..) {
        let organisation = drafts.organisation.is_some();
        for draft in drafts.rules {
            let at = draft.name.1;
            let rule = linker.rule(document, file, draft, organisation);
            let place = format!("{}:{}:{}", document.source().name(), at.at.line, at.at.column);
            let twice = seen.insert(Arc::clone(&rule.name), place);
            if let Some(first) = twice.filter(|_| !rule.name.is_empty()) {
                let problem =
                    document.problem(at, format!("two rules have the name `{}`", rule.name));
                linker.report.push(
                    problem.help(format!("the other is at {first}; records name rules by it")),
                );
            }
            rules.push(rule);
        }
    }
    rules
}

/// Whether a part may be among what could not be read: a file, its parts, or a key that was meant for them.
/// What is wrong with a rule or a test hides none.
fn hides_names(report: &Report) -> bool {
    let hides = |problem: &Problem| {
        let key = problem.path.split(['.', '[']).next().unwrap_or_default();
        !["rules", "groups", "tests", "given"].contains(&key)
    };
    report.is_full() || report.problems().into_iter().any(hides)
}

impl Linker<'_> {
    /// The layer that a file says and the directory that it is in are one, so that who may write to
    /// which directory decides who may bound whom.
    fn check_layer(&mut self, document: &Document, says: Option<&Node>) {
        let parent = Path::new(document.source().name()).parent().and_then(Path::file_name);
        let there = parent.is_some_and(|name| name == ORGANISATION);
        let (message, help) = match (says, there) {
            (Some(_), false) => (
                "the organisation's rules stand in a directory of their own",
                "move the file to policies/org/, or remove `layer`",
            ),
            (None, true) => (
                "the file stands among the organisation's, and does not say that it is one",
                "add `layer: organisation`, or move the file to policies/",
            ),
            _ => return,
        };
        let spot = says.unwrap_or(document.root());
        self.report.push(document.problem(spot, message).help(help));
    }

    fn define(&mut self, document: &Document, drafts: &Drafts<'_>) {
        let names = &mut self.names[usize::from(drafts.organisation.is_none())];
        for (key, members) in &drafts.groups {
            if names.groups.insert(key.text.to_string(), members.clone()).is_some() {
                let twice = format!("the group `{}` is defined twice", key.text);
                let problem = document.problem(*key, twice);
                self.report.push(problem.help("give one another name, or make one list of both"));
            }
        }
        for (key, fields) in &drafts.parts {
            if names.parts.insert(key.text.to_string(), fields.clone()).is_some() {
                let twice = format!("the part `{}` is defined twice", key.text);
                self.report.push(document.problem(*key, twice).help("give one another name"));
            }
        }
    }

    /// What a rule of a layer may name: its own layer's first.
    fn visible(&self, organisation: bool) -> impl Iterator<Item = &Names> {
        let [floor, own] = &self.names;
        let own = (!organisation).then_some(own);
        own.into_iter().chain([floor])
    }

    fn rule(
        &mut self,
        document: &Document,
        file: u32,
        mut draft: Draft<'_>,
        organisation: bool,
    ) -> Rule {
        if self.add_parts(document, &mut draft, organisation) {
            self.check(document, &draft, organisation);
        }
        let agents = self.agents(document, &draft.agents, organisation);
        let mut fields = draft.fields;
        Rule {
            name: Arc::from(draft.name.0),
            place: Place { file, at: draft.node.at },
            organisation,
            deny: draft.deny,
            shadow: draft.shadow,
            agents,
            conditions: fields.conditions(),
            to: fields.to,
            methods: fields.methods,
            paths: fields.paths,
            when: fields.when,
            uses: fields.uses.unwrap_or_default(),
            opaque: fields.opaque.unwrap_or(false),
            inject_always: fields.always.unwrap_or(false),
            refuse_misplaced: fields.refuse_misplaced.unwrap_or(false),
            undecodable: fields.scrub.unwrap_or_default(),
            captures: fields.captures.unwrap_or_default().into(),
            timeouts: fields.timeouts.unwrap_or_default(),
            retry: fields.retry,
            websocket: fields.websocket,
            meter: fields.limits.map(Meter::new),
            approval: fields.approval,
            cut_when_withdrawn: fields.cut.unwrap_or(false),
            refuse_unusual: fields.refuse_unusual.unwrap_or(false),
        }
    }

    /// Whether all of them were found.
    fn add_parts(
        &mut self,
        document: &Document,
        draft: &mut Draft<'_>,
        organisation: bool,
    ) -> bool {
        let mut all = true;
        for (name, node) in &draft.with {
            let part = self.visible(organisation).find_map(|names| names.parts.get(*name));
            let Some(part) = part else {
                if !self.incomplete {
                    let known = self.visible(organisation).flat_map(|names| names.parts.keys());
                    let near = suggest(name, known.map(String::as_str));
                    let problem = document.problem(*node, format!("no part is called `{name}`"));
                    let problem = match near {
                        Some(near) => problem.help(format!("did you mean `{near}`?")),
                        None => problem.help("define it under `parts`, at the top of a file"),
                    };
                    self.report.push(problem);
                }
                all = false;
                continue;
            };
            for key in draft.fields.merge(part) {
                let spot = value_of(draft.node, key).unwrap_or(node);
                let message = format!("the part `{name}` has `{key}`, too");
                self.report.push(
                    document
                        .problem(spot, message)
                        .help("a rule has each key once: keep one of them"),
                );
            }
        }
        all
    }

    /// Keys that contradict each other, wherever each of them came from.
    fn check(&mut self, document: &Document, draft: &Draft<'_>, organisation: bool) {
        let fields = &draft.fields;
        let keys = fields.keys();
        let has = |key: &str| keys.contains(&key) || value_of(draft.node, key).is_some();
        let mut problem = |key: &str, message: String, help: &str| {
            let spot = value_of(draft.node, key);
            let spot = spot.or_else(|| draft.with.first().map(|(_, node)| *node));
            let problem = document.problem(spot.unwrap_or(draft.node), message);
            self.report.push(problem.help(help));
        };
        if !has("to") && !has("use") {
            self.report.push(document.problem(draft.node, "the rule has neither `to` nor `use`, so nothing says where it applies").help(
                "add `to: [https://host]`; a rule without `to` applies where its credentials are bound",
            ));
            return;
        }
        if draft.deny {
            for key in DENY_HAS_NO.into_iter().filter(|key| has(key)) {
                let message = format!("`{key}` is for rules that allow, and this one denies");
                problem(key, message, &format!("remove `{key}`, or `deny`"));
            }
            for key in ["users", "runs"].into_iter().filter(|key| has(key)) {
                let message = format!(
                    "`{key}` is what the agent's starter says: who wants to escape this rule says something else"
                );
                problem(key, message, "allow the others instead: what no rule allows is refused");
            }
            if fields.websocket == Some(true) {
                let help = "write `websocket: refuse` to deny sockets";
                problem("websocket", "`websocket: allow` on a rule that denies".to_owned(), help);
            }
        }
        if organisation && !draft.deny && fields.always == Some(true) {
            let message =
                "a rule of the organisation bounds what others allow, and injects nothing";
            problem("inject", message.to_owned(), "remove `inject`");
        }
        if organisation && !draft.deny && has("capture") {
            let message = "only the rule that decides takes tokens out of answers, and one of the organisation decides nothing";
            problem("capture", message.to_owned(), "say it in the rule of the workspace");
        }
        if organisation && !draft.deny && has("retry") {
            let message = "only the rule that decides has a request sent again, and one of the organisation decides nothing";
            problem("retry", message.to_owned(), "say it in the rule of the workspace");
        }
        if fields.opaque == Some(true) && fields.limits.is_some_and(|limits| limits.queue.is_some())
        {
            let message =
                "a CONNECT does not wait: its client gives up on the proxy, and not on the host";
            problem("limits", message.to_owned(), "remove `queue`, or `tunnel: opaque`");
        }
        if fields.opaque == Some(true) {
            for key in OPAQUE_HAS_NO.into_iter().filter(|key| has(key)) {
                let message =
                    format!("`{key}` needs a look inside, and `tunnel: opaque` is never decrypted");
                problem(key, message, &format!("remove `{key}`, or `tunnel: opaque`"));
            }
        }
        if fields.always == Some(true) && !has("use") {
            let message = "`inject: always` needs `use`, to say what to inject";
            problem("inject", message.to_owned(), "add `use: [NAME]`");
        }
        let grants = !draft.deny && fields.uses.as_ref().is_some_and(|uses| !uses.is_empty());
        let clear = fields.to.iter().flatten().any(|d| d.scheme == Scheme::Http);
        if grants && clear {
            problem(
                "to",
                "the rule grants a credential over http://, where it never goes".to_owned(),
                "write https://, or give plain http:// a rule of its own without `use`",
            );
        }
    }

    fn agents(&mut self, document: &Document, agents: &[Meant<'_>], organisation: bool) -> Agents {
        let (mut names, mut labelled) = (HashSet::new(), Vec::new());
        for meant in agents {
            let (text, node) = match meant {
                Meant::Named(text, node) => (text, node),
                Meant::Labelled(choice) => {
                    labelled.push(choice.clone());
                    continue;
                }
            };
            if *text == "*" {
                if agents.len() > 1 {
                    let message = "`*` stands for all agents, and so stands alone";
                    let problem = document.problem(*node, message);
                    self.report.push(problem.help("remove the others, or `*`"));
                }
                return Agents::Any;
            }
            let group = self.visible(organisation).find_map(|names| names.groups.get(*text));
            match (group, text.parse::<Name>()) {
                (Some(members), _) => {
                    for member in members {
                        match member {
                            Member::Named(name) => drop(names.insert(name.clone())),
                            Member::Labelled(choice) => labelled.push(choice.clone()),
                        }
                    }
                }
                (None, Ok(name)) => {
                    names.insert(name);
                }
                (None, Err(error)) => {
                    self.report.push(document.problem(*node, error.to_string()));
                }
            }
        }
        Agents::Some { names, labelled }
    }
}

/// What a rule that denies has no use for.
const DENY_HAS_NO: [&str; 11] = [
    "tunnel",
    "inject",
    "misplaced",
    "scrub",
    "capture",
    "timeouts",
    "retry",
    "limits",
    "approval",
    "on_withdrawal",
    "anomalies",
];

/// What cannot be seen, or done, from outside of a tunnel.
const OPAQUE_HAS_NO: [&str; 14] = [
    "use",
    "methods",
    "paths",
    "query",
    "headers",
    "inject",
    "misplaced",
    "scrub",
    "capture",
    "timeouts",
    "retry",
    "websocket",
    "approval",
    "on_withdrawal",
];

/// The value of a key in a mapping, to point at.
fn value_of<'d>(map: &'d Node, key: &str) -> Option<&'d Node> {
    let Value::Map(entries) = &map.value else { return None };
    entries.iter().find(|(name, _)| *name.text == *key).map(|(_, value)| value)
}
