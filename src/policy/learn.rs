//! What was recorded, as the least rules that would have allowed it.
//!
//! Rules are put together from requests, and then asked: a request that they would refuse makes the
//! rules for its agent and host as wide as they have to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::cases::{Answer, Given, Inquiry, Wish, supposed};
use super::compile::compile_all;
use crate::agent::{Context, UserName};
use crate::document::Source;
use crate::host::{Destination, Origin, Scheme};
use crate::outcome::Code;
use crate::reference::Name;

/// One request of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observed {
    /// Who.
    pub agent: Name,
    /// What for.
    pub act: Act,
    /// Where.
    pub destination: String,
    /// The path as it was sent, without its query; none of a tunnel.
    pub path: String,
    /// With which credentials.
    pub uses: BTreeSet<Name>,
    /// Whether the rule that let it put them in unasked.
    pub always: bool,
    /// Whether it was refused.
    pub refused: bool,
}

/// What a request was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// A request with this method.
    Request(String),
    /// A WebSocket.
    Socket,
    /// A tunnel that was not looked into.
    Tunnel,
}

/// A rule that was learned.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Learned {
    /// Its name.
    pub name: String,
    /// For whom.
    pub agents: Vec<Name>,
    /// Where.
    pub to: Vec<String>,
    /// What; sockets are said apart.
    pub methods: Vec<String>,
    /// Whether sockets, too.
    pub websocket: bool,
    /// On which paths; empty for any.
    pub paths: Vec<String>,
    /// With which credentials.
    #[serde(rename = "use")]
    pub uses: Vec<Name>,
    /// Whether they are put in unasked.
    pub inject_always: bool,
    /// Whether it is a tunnel that is not looked into.
    pub opaque: bool,
    /// How many requests it covers.
    pub requests: u64,
    /// How many of them were refused.
    pub refused: u64,
}

/// The rules, and what could not be learned from.
#[derive(Clone, Debug, Default)]
pub struct Lesson {
    /// The rules, in the order of the policy.
    pub rules: Vec<Learned>,
    /// Tunnels to hosts where the same agent sent requests that were looked into.
    pub seen_otherwise: u64,
    /// Requests that no rule can allow: with a credential over `http://`, or with a method that no list
    /// can have.
    pub beyond_rules: u64,
    /// Refused requests whose paths have readings that could be allowed with any path alone.
    pub refused_readings: u64,
}

/// Requests that differ in path and method alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    agent: Name,
    destination: String,
    uses: BTreeSet<Name>,
    always: bool,
}

#[derive(Clone, Debug, Default)]
struct Paths {
    /// By pattern: what was done there.
    patterns: BTreeMap<String, Seen>,
    /// Patterns of one path's readings, which have to be decided alike.
    readings: BTreeSet<BTreeSet<String>>,
    /// Paths as they were sent, to ask the rules about: with what was done there.
    asked: BTreeSet<(Act, String)>,
    /// Whether no list of paths would do.
    any: bool,
    /// What was refused so far and has a path of more than one reading. Whoever may send nothing can
    /// send that: it makes no rule wider than what was permitted does.
    odd: Option<Box<Paths>>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    acts: BTreeSet<Act>,
    requests: u64,
    refused: u64,
}

/// Takes requests, and makes rules of them.
#[derive(Debug, Default)]
pub struct Learner {
    groups: BTreeMap<Group, Paths>,
    tunnels: BTreeMap<(Name, String), Seen>,
    /// Whether any rule can allow such requests, for each kind that was seen.
    expressible: BTreeMap<(Act, Group), bool>,
    beyond_rules: u64,
    refused_readings: u64,
}

/// So many paths of one group are asked about, after the rules are made: more of one kind say nothing
/// new.
const ASKED: usize = 20_000;

impl Learner {
    /// One more request.
    pub fn add(&mut self, observed: Observed) {
        let Observed { agent, act, destination, path, uses, always, refused } = observed;
        let group = Group { agent, destination, uses, always };
        let kind = (act.clone(), group.clone());
        let expressible = self.expressible.entry(kind).or_insert_with(|| can_be_said(&act, &group));
        if !*expressible {
            self.beyond_rules += 1;
            return;
        }
        if act == Act::Tunnel {
            let Group { agent, destination, .. } = group;
            self.tunnels.entry((agent, destination)).or_default().note(act, refused);
            return;
        }
        let mut paths = self.groups.entry(group).or_default();
        let readings = crate::request::readings(&path);
        if refused
            && (readings.as_ref().map_or(true, |o| !o.is_empty()) || pattern(&path).is_none())
        {
            paths = paths.odd.get_or_insert_default();
        }
        paths.add(act, path, &readings.unwrap_or_default(), refused);
    }

    /// The rules.
    #[must_use]
    pub fn finish(mut self) -> Lesson {
        let settled = |paths: &Paths| {
            let mut all = paths.clone();
            if let Some(odd) = all.odd.take() {
                all.join(&odd);
            }
            all.settle();
            all
        };
        let seen = std::mem::take(&mut self.groups);
        self.groups = seen.iter().map(|(group, paths)| (group.clone(), settled(paths))).collect();
        // Each round leaves what was refused out of at least one more group, or makes it wide.
        let mut left = BTreeSet::new();
        for _ in 0..=2 * seen.len() {
            let lesson = self.lesson();
            let refused = self.refused(&lesson);
            if refused.is_empty() {
                return lesson;
            }
            let is_refused =
                |group: &Group| refused.contains(&(group.agent.clone(), group.destination.clone()));
            let odd = |(group, paths): (&Group, &Paths)| {
                let odd = paths.odd.as_ref().filter(|_| is_refused(group))?;
                (!left.contains(group)).then(|| (group.clone(), odd.requests()))
            };
            let leave: Vec<(Group, u64)> = seen.iter().filter_map(odd).collect();
            if leave.is_empty() {
                for (_, paths) in self.groups.iter_mut().filter(|(group, _)| is_refused(group)) {
                    paths.any = true;
                }
            }
            for (group, requests) in leave {
                let sure = seen.get(&group).map(|paths| Paths { odd: None, ..paths.clone() });
                let mut sure = sure.unwrap_or_default();
                sure.settle();
                self.refused_readings += requests;
                if sure.patterns.is_empty() {
                    self.groups.remove(&group);
                } else {
                    self.groups.insert(group.clone(), sure);
                }
                left.insert(group);
            }
        }
        self.lesson()
    }

    /// The agents and hosts of which something would still be refused.
    fn refused(&self, lesson: &Lesson) -> BTreeSet<(Name, String)> {
        let text = lesson.to_yaml("");
        let Ok(compiled) = compile_all(vec![Source::new("learned.yaml", &text)]) else {
            // Something that no policy can have in it, and that no kind of request shows by itself: a
            // path. Everything is as wide as it can be.
            return self.groups.keys().map(|g| (g.agent.clone(), g.destination.clone())).collect();
        };
        let index = self.given().index();
        let mut refused = BTreeSet::new();
        for (group, paths) in self.groups.iter().filter(|(_, paths)| !paths.any) {
            let place = (group.agent.clone(), group.destination.clone());
            let asks = |(act, path): &(Act, String)| {
                let names =
                    group.uses.iter().map(Some).chain(group.uses.is_empty().then_some(None));
                names.into_iter().all(|name| {
                    inquiry(group, act, path, name).is_none_or(|inquiry| {
                        // What no client could send so was never permitted for what the rules say.
                        match inquiry.ask(&compiled.policy, &index) {
                            Answer::Refuse(code, _) => {
                                !matches!(code, Code::NotAllowed | Code::CredentialRefused)
                                    && (code != Code::AmbiguousPath
                                        || inquiry.request(&index).is_some_and(|r| r.is_err()))
                            }
                            _ => true,
                        }
                    })
                })
            };
            if !paths.asked.iter().all(asks) {
                refused.insert(place);
            }
        }
        refused
    }

    /// A vault in which the credentials may go where they were seen to go.
    fn given(&self) -> Given {
        let mut to: BTreeMap<&Name, Vec<Destination>> = BTreeMap::new();
        for group in self.groups.keys() {
            let Ok(destination) = group.destination.parse::<Destination>() else { continue };
            for name in &group.uses {
                to.entry(name).or_default().push(destination.clone());
            }
        }
        let credentials = to.into_iter().map(|(name, to)| (name.clone(), to)).collect();
        Given { credentials, ..Given::default() }
    }

    fn lesson(&self) -> Lesson {
        // What is the same for several agents is one rule.
        let mut rules: BTreeMap<Learned, (BTreeSet<Name>, u64, u64)> = BTreeMap::new();
        let mut add = |rule: Learned, agent: &Name, (requests, refused): (u64, u64)| {
            let merged = rules.entry(rule).or_default();
            merged.0.insert(agent.clone());
            merged.1 += requests;
            merged.2 += refused;
        };
        for (group, paths) in &self.groups {
            for (rule, counted) in paths.rules(group) {
                add(rule, &group.agent, counted);
            }
        }
        let mut lesson = Lesson {
            beyond_rules: self.beyond_rules,
            refused_readings: self.refused_readings,
            ..Lesson::default()
        };
        let mut unseen: BTreeMap<BTreeSet<&Name>, (BTreeSet<String>, u64, u64)> = BTreeMap::new();
        let mut by_host: BTreeMap<&str, Vec<(&Name, &Seen)>> = BTreeMap::new();
        for ((agent, destination), seen) in &self.tunnels {
            let inside = |g: &Group| g.agent == *agent && g.destination == *destination;
            if self.groups.keys().any(inside) {
                lesson.seen_otherwise += seen.requests;
            } else {
                by_host.entry(destination).or_default().push((agent, seen));
            }
        }
        for (destination, of) in by_host {
            let agents = of.iter().map(|(agent, _)| *agent).collect();
            let all = unseen.entry(agents).or_default();
            all.0.insert(destination.to_owned());
            all.1 += of.iter().map(|(_, seen)| seen.requests).sum::<u64>();
            all.2 += of.iter().map(|(_, seen)| seen.refused).sum::<u64>();
        }
        lesson.rules = rules
            .into_iter()
            .map(|(rule, (agents, requests, refused))| Learned {
                agents: agents.into_iter().collect(),
                requests,
                refused,
                ..rule
            })
            .collect();
        // Rules for any path come first: a path of two readings is decided by one of them.
        lesson.rules.sort_by_key(|rule| !rule.paths.is_empty());
        for (agents, (to, requests, refused)) in unseen {
            lesson.rules.push(Learned {
                agents: agents.into_iter().cloned().collect(),
                to: to.into_iter().collect(),
                opaque: true,
                requests,
                refused,
                ..Learned::nothing()
            });
        }
        name_them(&mut lesson.rules);
        lesson
    }
}

impl Seen {
    fn note(&mut self, act: Act, refused: bool) {
        self.acts.insert(act);
        self.requests += 1;
        self.refused += u64::from(refused);
    }
}

/// Whether any rule can allow a request of this kind.
fn can_be_said(act: &Act, group: &Group) -> bool {
    let mut rule = Learned {
        name: "one".to_owned(),
        agents: vec![group.agent.clone()],
        to: vec![group.destination.clone()],
        uses: group.uses.iter().cloned().collect(),
        inject_always: group.always,
        ..Learned::nothing()
    };
    match act {
        Act::Request(method) => rule.methods.push(method.clone()),
        Act::Socket => rule.websocket = true,
        Act::Tunnel => (rule.opaque, rule.inject_always) = (true, false),
    }
    let lesson = Lesson { rules: vec![rule], ..Lesson::default() };
    compile_all(vec![Source::new("learned.yaml", &lesson.to_yaml(""))]).is_ok()
}

impl Paths {
    fn add(&mut self, act: Act, path: String, readings: &[String], refused: bool) {
        let texts = std::iter::once(path.as_str()).chain(readings.iter().map(String::as_str));
        let patterns: Option<BTreeSet<String>> = texts.map(pattern).collect();
        if let Some(patterns) = patterns {
            for pattern in &patterns {
                self.patterns.entry(pattern.clone()).or_default().acts.insert(act.clone());
            }
            if patterns.len() > 1 {
                self.readings.insert(patterns);
            }
        } else {
            self.any = true;
        }
        let counted = pattern(&path).unwrap_or_else(|| "/".to_owned());
        self.patterns.entry(counted).or_default().note(act.clone(), refused);
        if self.asked.len() < ASKED {
            self.asked.insert((act, path));
        }
    }

    fn requests(&self) -> u64 {
        self.patterns.values().map(|seen| seen.requests).sum()
    }

    /// Takes over what `other` has. That no list of paths would do is the word of what was permitted
    /// alone.
    fn join(&mut self, other: &Self) {
        for (pattern, seen) in &other.patterns {
            let own = self.patterns.entry(pattern.clone()).or_default();
            own.acts.extend(seen.acts.iter().cloned());
            own.requests += seen.requests;
            own.refused += seen.refused;
        }
        self.readings.extend(other.readings.iter().cloned());
        self.asked.extend(other.asked.iter().cloned());
    }

    /// Gives all readings of a path the same acts, and puts what differs in one segment together.
    fn settle(&mut self) {
        let mut changed = true;
        while changed {
            changed = false;
            for readings in &self.readings {
                let of = |pattern: &String| self.patterns.get(pattern).map(|seen| &seen.acts);
                let all: BTreeSet<Act> =
                    readings.iter().filter_map(of).flatten().cloned().collect();
                for pattern in readings {
                    let seen = self.patterns.entry(pattern.clone()).or_default();
                    changed |= seen.acts != all;
                    seen.acts.clone_from(&all);
                }
            }
        }
        let deepest = self.patterns.keys().map(|p| p.matches('/').count()).max().unwrap_or(0);
        for at in 1..=deepest {
            self.collapse(at);
        }
    }

    /// Where more than [`SIBLINGS`] patterns differ in one segment alone, that is a `*`.
    fn collapse(&mut self, at: usize) {
        let mut families: BTreeMap<(String, BTreeSet<Act>), Vec<String>> = BTreeMap::new();
        for (pattern, seen) in &self.patterns {
            let mut segments: Vec<&str> = pattern.split('/').collect();
            match segments.get_mut(at) {
                Some(segment) if !segment.is_empty() => *segment = "*",
                _ => continue,
            }
            let family = (segments.join("/"), seen.acts.clone());
            families.entry(family).or_default().push(pattern.clone());
        }
        for ((family, acts), members) in families {
            if members.len() <= SIBLINGS {
                continue;
            }
            let gone: Vec<Seen> =
                members.iter().filter_map(|member| self.patterns.remove(member)).collect();
            let seen = self.patterns.entry(family).or_default();
            seen.acts.extend(acts);
            seen.requests += gone.iter().map(|seen| seen.requests).sum::<u64>();
            seen.refused += gone.iter().map(|seen| seen.refused).sum::<u64>();
        }
    }

    /// One rule for each set of acts: methods and paths of one rule go all together.
    fn rules(&self, group: &Group) -> Vec<(Learned, (u64, u64))> {
        let mut by_acts: BTreeMap<BTreeSet<Act>, (BTreeSet<String>, u64, u64)> = BTreeMap::new();
        for (pattern, seen) in &self.patterns {
            let acts = if self.any {
                self.patterns.values().flat_map(|seen| seen.acts.iter().cloned()).collect()
            } else {
                seen.acts.clone()
            };
            let all = by_acts.entry(acts).or_default();
            if !self.any {
                all.0.insert(pattern.clone());
            }
            all.1 += seen.requests;
            all.2 += seen.refused;
        }
        let rule =
            |(acts, (paths, requests, refused)): (BTreeSet<Act>, (BTreeSet<String>, u64, u64))| {
                let method = |act: &Act| match act {
                    Act::Request(method) => Some(method.clone()),
                    Act::Socket | Act::Tunnel => None,
                };
                let rule = Learned {
                    to: vec![group.destination.clone()],
                    methods: acts.iter().filter_map(method).collect(),
                    websocket: acts.contains(&Act::Socket),
                    paths: paths.into_iter().collect(),
                    uses: group.uses.iter().cloned().collect(),
                    inject_always: group.always,
                    ..Learned::nothing()
                };
                (rule, (requests, refused))
            };
        by_acts.into_iter().map(rule).collect()
    }
}

/// So many texts in one place of a path are names; more are ids.
const SIBLINGS: usize = 12;

/// The longest path that is written down as a pattern. Records cut what is much longer.
const LONG: usize = 1024;

/// A path, with `*` for what looks like an id. None for what cannot stand in a policy.
fn pattern(path: &str) -> Option<String> {
    let plain = |b: u8| b > b' ' && b < 0x7f && !b"?#".contains(&b);
    if !path.starts_with('/') || path.len() > LONG || !path.bytes().all(plain) {
        return None;
    }
    let segments = path
        .split('/')
        .map(|segment| if is_id(segment) || segment.contains("**") { "*" } else { segment });
    Some(segments.collect::<Vec<_>>().join("/"))
}

/// Whether a segment looks like one of many: a number, a UUID, a hash, a random token, with or without
/// a word before it (`msg_01HX…`, `run-5f3a…`).
fn is_id(segment: &str) -> bool {
    // A reference names its credential, and is written as it is.
    if crate::reference::occurs(segment.as_bytes()) {
        return false;
    }
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    if !segment.is_empty() && digits == segment.len() {
        return true;
    }
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if segment.len() >= 8 && digits >= 2 && hex(segment) {
        return true;
    }
    let tail = segment.rsplit(['_', '-', ':', '.']).next().unwrap_or_default();
    let random = |text: &str| {
        let numbers = text.bytes().filter(u8::is_ascii_digit).count();
        let lower = text.bytes().any(|b| b.is_ascii_lowercase());
        let upper = text.bytes().any(|b| b.is_ascii_uppercase());
        let word = text.bytes().all(|b| b.is_ascii_alphanumeric());
        word && ((text.len() >= 12 && numbers >= 2) || (text.len() >= 16 && lower && upper))
    };
    random(tail) || (segment.len() >= 20 && digits >= 3 && random(&segment.replace(['_', '-'], "")))
}

fn inquiry(group: &Group, act: &Act, path: &str, refers: Option<&Name>) -> Option<Inquiry> {
    let destination: Destination = group.destination.parse().ok()?;
    let authority =
        crate::host::Authority { host: destination.host.exact()?.clone(), port: destination.port };
    let origin = Origin { scheme: destination.scheme, authority };
    let (method, socket) = match act {
        Act::Request(method) => (method.as_str(), false),
        Act::Socket => ("GET", true),
        Act::Tunnel => return None,
    };
    let refers = refers.filter(|_| destination.scheme == Scheme::Https).cloned();
    let user = UserName { agent: group.agent.clone(), context: Context::default() };
    Some(Inquiry {
        who: supposed(user)?,
        wish: Wish::Request { method: method.parse().ok()?, socket, origin, target: path.into() },
        refers,
        seen: None,
        fields: Vec::new(),
        at: 0,
    })
}

impl PartialOrd for Learned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// By what it allows: whom, and how often, is told of each afterwards.
impl Ord for Learned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |r: &Self| {
            (
                r.to.clone(),
                r.uses.clone(),
                r.methods.clone(),
                r.websocket,
                r.paths.clone(),
                (r.inject_always, r.opaque),
            )
        };
        key(self).cmp(&key(other))
    }
}

/// Names that say who may what where, no two of them alike.
fn name_them(rules: &mut [Learned]) {
    let mut taken = BTreeSet::new();
    for rule in rules {
        let short = |names: &[Name], none: &str| match names {
            [] => none.to_owned(),
            [one] => one.to_string(),
            [one, rest @ ..] => format!("{one} and {} more", rest.len()),
        };
        let place = match &rule.to[..] {
            [one] => one.split_once("://").map_or(one.as_str(), |(_, rest)| rest).to_owned(),
            all => format!("{} hosts", all.len()),
        };
        let what = match (rule.opaque, rule.uses.is_empty()) {
            (true, _) => "tunnels to".to_owned(),
            (_, true) => "no credential at".to_owned(),
            _ => format!("{} at", short(&rule.uses, "")),
        };
        let base = format!("{}: {what} {place}", short(&rule.agents, "nobody"));
        let mut name = base.clone();
        let mut n = 2;
        while !taken.insert(name.clone()) {
            name = format!("{base}, {n}");
            n += 1;
        }
        rule.name = name;
    }
}

impl Learned {
    fn nothing() -> Self {
        Self {
            name: String::new(),
            agents: Vec::new(),
            to: Vec::new(),
            methods: Vec::new(),
            websocket: false,
            paths: Vec::new(),
            uses: Vec::new(),
            inject_always: false,
            opaque: false,
            requests: 0,
            refused: 0,
        }
    }
}

impl Lesson {
    /// The rules as a policy file, `above` being its first comment, line by line.
    #[must_use]
    pub fn to_yaml(&self, above: &str) -> String {
        let mut text = String::from("# yaml-language-server: $schema=schema.json\n");
        for line in above.lines() {
            let _ = writeln!(text, "# {line}");
        }
        text += "version: 1\nrules:";
        if self.rules.is_empty() {
            text += " []\n";
            return text;
        }
        text.push('\n');
        for rule in &self.rules {
            rule.write(&mut text);
        }
        text
    }
}

impl Learned {
    fn write(&self, text: &mut String) {
        let count = |n: u64| if n == 1 { "1 request".to_owned() } else { format!("{n} requests") };
        let _ = write!(text, "  # {}", count(self.requests));
        if self.refused > 0 {
            let _ = write!(text, ", {} of them refused so far", self.refused);
        }
        if self.paths.is_empty() && !self.opaque {
            *text += "; any path, because some of them have more than one reading";
        }
        let _ = writeln!(text, "\n  - name: {}", quoted(&self.name));
        let mut key = |key: &str, value: String| {
            let _ = writeln!(text, "    {key}: {value}");
        };
        key("agents", list(&self.agents));
        key("to", list(&self.to));
        if self.opaque {
            key("tunnel", "opaque".to_owned());
            return;
        }
        key("methods", list(&self.methods));
        if self.websocket {
            key("websocket", "allow".to_owned());
        }
        if !self.paths.is_empty() {
            key("paths", list(&self.paths));
        }
        if !self.uses.is_empty() {
            key("use", list(&self.uses));
        }
        if self.inject_always {
            key("inject", "always".to_owned());
        }
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| plain(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

/// A text as people would write it, or in quotes where YAML could take it for something else.
fn plain(text: &str) -> String {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"._/:@%+~*=-".contains(&b);
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/');
    let word = ["true", "false", "null"].contains(&text);
    if starts && !word && !text.ends_with(':') && text.bytes().all(safe) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// JSON strings are YAML strings, whatever is in them.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(agent: &str, method: &str, url: &str, uses: &[&str]) -> Observed {
        let start = url.find("://").unwrap() + 3;
        let end = url[start..].find('/').map_or(url.len(), |at| start + at);
        let act = match method {
            "SOCKET" => Act::Socket,
            "CONNECT" => Act::Tunnel,
            method => Act::Request(method.to_owned()),
        };
        Observed {
            agent: agent.parse().unwrap(),
            act,
            destination: url[..end].to_owned(),
            path: url[end..].to_owned(),
            uses: uses.iter().map(|name| name.parse().unwrap()).collect(),
            always: false,
            refused: false,
        }
    }

    fn learn(all: &[Observed]) -> Lesson {
        let mut learner = Learner::default();
        for one in all {
            learner.add(one.clone());
        }
        learner.finish()
    }

    #[test]
    fn ids_are_told_from_words() {
        for id in [
            "42",
            "0",
            "5f3a9c01",
            "123e4567-e89b-12d3-a456-426614174000",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "msg_01HX7K2M9QWERTY",
            "chatcmpl-9xQ2LkV7aBcD",
            "run-5f3a9c01e2d4",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "dGhlIHNhbXBsZSBub25jZQ",
        ] {
            assert!(is_id(id), "{id}");
        }
        for word in [
            "",
            "v1",
            "v1beta3",
            "chat",
            "completions",
            "gpt-4o-mini",
            "repos",
            "octocat",
            "facade",
            "deadbeef",
            "2024-01-01.json",
            "models",
            "claude-3",
            "@scope%2Fname",
            "botlocum_telegram",
            "authorization",
            "git-upload-pack",
            "internationalization",
            "X-Api-Version",
        ] {
            assert!(!is_id(word), "{word}");
        }
    }

    #[test]
    fn few_rules_say_what_was_seen_and_no_more() {
        let mut all = vec![
            seen("researcher", "POST", "https://api.openai.com/v1/chat/completions", &["openai"]),
            seen("researcher", "GET", "https://api.openai.com/v1/models", &["openai"]),
            seen("summarizer", "POST", "https://api.openai.com/v1/chat/completions", &["openai"]),
            seen("summarizer", "GET", "https://api.openai.com/v1/models", &["openai"]),
            seen("researcher", "SOCKET", "https://rt.test/v1/realtime", &["openai"]),
            seen("researcher", "CONNECT", "https://docs.test", &[]),
            seen("researcher", "CONNECT", "https://pypi.test", &[]),
            seen("researcher", "CONNECT", "https://api.openai.com", &[]),
        ];
        for n in 0..20 {
            all.push(seen("ci", "GET", &format!("https://git.test/repos/a/issues/{n}"), &["git"]));
            all.push(seen(
                "ci",
                "GET",
                &format!("https://git.test/names/n{}x", "y".repeat(n)),
                &["git"],
            ));
        }
        let refused = Observed { refused: true, ..all[0].clone() };
        all.push(refused);
        let lesson = learn(&all);
        assert_eq!(lesson.seen_otherwise, 1);
        let expected = "# yaml-language-server: $schema=schema.json
# Learned.
version: 1
rules:
  # 2 requests
  - name: \"researcher and 1 more: openai at api.openai.com\"
    agents: [researcher, summarizer]
    to: [https://api.openai.com]
    methods: [GET]
    paths: [/v1/models]
    use: [openai]
  # 3 requests, 1 of them refused so far
  - name: \"researcher and 1 more: openai at api.openai.com, 2\"
    agents: [researcher, summarizer]
    to: [https://api.openai.com]
    methods: [POST]
    paths: [/v1/chat/completions]
    use: [openai]
  # 40 requests
  - name: \"ci: git at git.test\"
    agents: [ci]
    to: [https://git.test]
    methods: [GET]
    paths: [/names/*, /repos/a/issues/*]
    use: [git]
  # 1 request
  - name: \"researcher: openai at rt.test\"
    agents: [researcher]
    to: [https://rt.test]
    methods: []
    websocket: allow
    paths: [/v1/realtime]
    use: [openai]
  # 2 requests
  - name: \"researcher: tunnels to 2 hosts\"
    agents: [researcher]
    to: [https://docs.test, https://pypi.test]
    tunnel: opaque
";
        assert_eq!(lesson.to_yaml("Learned."), expected);
    }

    /// One odd request of an agent makes nobody's rule wider, and no policy that cannot be read.
    #[test]
    fn what_is_refused_and_odd_makes_no_rule_wider() {
        let usual = [
            seen("a", "GET", "https://x.test/v1/models", &["k"]),
            seen("a", "POST", "https://x.test/v1/chat", &["k"]),
            seen("b", "GET", "https://y.test/z", &[]),
            seen("b", "GET", "https://y.test/@scope%2Fname", &[]),
        ];
        let expected = learn(&usual);
        assert!(expected.rules.iter().all(|rule| !rule.paths.is_empty()), "{expected:?}");
        let refused = |one: Observed| Observed { refused: true, ..one };
        for (odd, beyond, readings) in [
            (refused(seen("a", "GET", "http://x.test/v1/a", &["k"])), 1, 0),
            (refused(seen("a", "get", "https://x.test/v1/a", &["k"])), 1, 0),
            (seen("a", "get", "https://x.test/v1/a", &["k"]), 1, 0),
            (refused(seen("a", "GET", "https://x.test/v1/%20/../a", &["k"])), 0, 1),
            (refused(seen("b", "GET", "https://y.test/\u{e9}/", &[])), 0, 1),
            (refused(seen("a", "GET", "https://z.test/v1/%20/../a", &[])), 0, 1),
        ] {
            let mut all = usual.to_vec();
            all.push(odd.clone());
            let lesson = learn(&all);
            assert_eq!(lesson.rules, expected.rules, "{odd:?}");
            assert_eq!(
                (lesson.beyond_rules, lesson.refused_readings),
                (beyond, readings),
                "{odd:?}"
            );
        }
        // What is refused and has readings that can be allowed is learned like all else.
        let mut all = usual.to_vec();
        all.push(refused(seen("b", "GET", "https://y.test/@other%2Fname", &[])));
        let lesson = learn(&all);
        assert!(lesson.to_yaml("").contains("/@other%2Fname"), "{}", lesson.to_yaml(""));
        assert_eq!(lesson.refused_readings, 0);
    }

    #[test]
    fn nothing_seen_is_a_policy_that_allows_nothing() {
        let text = learn(&[]).to_yaml("");
        assert!(compile_all(vec![Source::new("p.yaml", &text)]).unwrap().policy.is_empty());
    }

    fn requests() -> impl Strategy<Value = Vec<Observed>> {
        let segment = prop::sample::select(vec![
            "a",
            "b",
            "v1",
            "42",
            "7",
            "x%2Fy",
            "x",
            "y",
            ".",
            "..",
            "",
            "a;p=1",
            "*",
            "**",
            "a**b",
            "%2e%2e",
            "a\\b",
            "[x]",
            "{y}",
            "'q'",
            "\"dq\"",
            "a,b",
            "a:b",
            "~u",
            "%41",
            "A",
            "locum_k",
            "0123456789abcdef",
            "a&b",
            "!t",
            "&x",
            "%u002f",
        ]);
        let path = prop::collection::vec(segment, 1..5).prop_map(|s| format!("/{}", s.join("/")));
        let one = (
            prop::sample::select(vec!["a", "b"]),
            prop::sample::select(vec![
                "GET", "POST", "DELETE", "SOCKET", "CONNECT", "M-SEARCH", "get",
            ]),
            prop::sample::select(vec!["https://x.test", "https://y.test:8443", "http://x.test"]),
            path,
            prop::sample::subsequence(vec!["k", "l"], 0..2),
        );
        let one = (one, any::<bool>()).prop_map(|((agent, method, host, path, uses), refused)| {
            let uses = if method == "CONNECT" { &[] } else { &uses[..] };
            Observed { refused, ..seen(agent, method, &format!("{host}{path}"), uses) }
        });
        prop::collection::vec(one, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever was seen, the rules compile, and allow each request that any rules could.
        #[test]
        fn each_request_is_permitted_by_what_was_learned(all in requests()) {
            let mut learner = Learner::default();
            for one in &all {
                learner.add(one.clone());
            }
            let index = learner.given().index();
            let lesson = learner.finish();
            let text = lesson.to_yaml("Learned.");
            let compiled = compile_all(vec![Source::new("p.yaml", &text)]);
            let policy = compiled.map_err(|r| TestCaseError::fail(format!("{r}\n{text}")))?.policy;
            for one in &all {
                let group = Group {
                    agent: one.agent.clone(),
                    destination: one.destination.clone(),
                    uses: one.uses.clone(),
                    always: false,
                };
                if !can_be_said(&one.act, &group) {
                    continue;
                }
                // What was refused and reads in more than one way may be left out.
                if one.refused && crate::request::readings(&one.path).map_or(true, |all| !all.is_empty()) {
                    continue;
                }
                let names = one.uses.iter().map(Some).chain(one.uses.is_empty().then_some(None));
                for name in names {
                    let Some(inquiry) = inquiry(&group, &one.act, &one.path, name) else { continue };
                    // What cannot be read in one way is refused before any rule is asked.
                    if inquiry.request(&index).is_none_or(|request| request.is_err()) {
                        continue;
                    }
                    let answer = inquiry.ask(&policy, &index);
                    prop_assert!(matches!(answer, Answer::Allow(_)), "{one:?}: {answer}\n{text}");
                }
            }
            let total: u64 = lesson.rules.iter().map(|rule| rule.requests).sum();
            let left = lesson.seen_otherwise + lesson.beyond_rules + lesson.refused_readings;
            prop_assert_eq!(total + left, all.len() as u64);
            // What was refused makes no rule wider: a rule for any path is the work of what was not.
            for rule in lesson.rules.iter().filter(|rule| rule.paths.is_empty() && !rule.opaque) {
                let permitted = |one: &&Observed| {
                    !one.refused && rule.agents.contains(&one.agent) && rule.to.contains(&one.destination)
                };
                let plain = |one: &&Observed| {
                    crate::request::readings(&one.path).is_ok_and(|all| all.is_empty())
                };
                prop_assert!(all.iter().filter(permitted).any(|one| !plain(&one)), "{}", text);
            }
        }
    }
}
