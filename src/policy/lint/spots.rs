//! Where in its file the key or the item stands that a lint is about.
//!
//! A policy in force keeps the place of each rule and no more. Whoever asks for lints has the files at
//! hand: they are read once more, and only if there is something to point at.

use std::collections::HashMap;

use super::super::rule::{Place, Rule};
use crate::document::{Document, Limits, Node, Position, Source, Value};

/// What a lint is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum About<'r> {
    /// All of a rule.
    Rule(&'r Rule),
    /// A key of it, down the way.
    Key(&'r Rule, &'static [&'static str]),
    /// An item of a list of it.
    Item(&'r Rule, &'static str, usize),
    /// A name in a list of it, or in a group that the list names.
    Named(&'r Rule, &'static str, &'r str),
    /// The key of a group.
    Group(Place),
    /// Nothing that stands in a file.
    Nothing,
}

/// The files of a policy, read when the first place is asked for.
pub(super) struct Spots<'s> {
    sources: &'s [Source],
    files: &'s [std::sync::Arc<str>],
    documents: Option<HashMap<&'s str, Document>>,
}

impl<'s> Spots<'s> {
    pub(super) fn new(files: &'s [std::sync::Arc<str>], sources: &'s [Source]) -> Self {
        Self { sources, files, documents: None }
    }

    /// File and place; those of the rule, where nothing better is found.
    pub(super) fn find(&mut self, about: &About<'_>) -> Option<(String, Position)> {
        let (rule, way) = match about {
            About::Nothing => return None,
            About::Group(place) => return Some(self.whole(*place)),
            About::Rule(rule) => return Some(self.whole(rule.place)),
            About::Key(rule, way) => (rule, Way::Key(way)),
            About::Item(rule, key, at) => (rule, Way::Item(key, *at)),
            About::Named(rule, key, name) => (rule, Way::Named(key, name)),
        };
        Some(self.inside(rule, way).unwrap_or_else(|| self.whole(rule.place)))
    }

    fn whole(&self, place: Place) -> (String, Position) {
        let file = self.files.get(place.file as usize).map_or("", |file| file);
        (file.to_owned(), place.at)
    }

    fn documents(&mut self) -> &HashMap<&'s str, Document> {
        let sources = self.sources;
        self.documents.get_or_insert_with(|| {
            let read = sources.iter().filter_map(|source| {
                let document = Document::parse(source.clone(), &Limits::POLICY).ok()?;
                Some((source.name(), document))
            });
            read.collect()
        })
    }

    fn inside(&mut self, rule: &Rule, way: Way<'_>) -> Option<(String, Position)> {
        let file = self.files.get(rule.place.file as usize)?;
        let documents = self.documents();
        let own = documents.get(&**file)?;
        let Value::Seq(rules) = &entry(own.root(), "rules")?.1.value else { return None };
        let at = rules.binary_search_by_key(&rule.place.at, |node| node.at).ok()?;
        let node = rules.get(at)?;
        if let Some((key, value)) = entry(node, way.key()) {
            return match way.within(key, value) {
                Some(at) => Some((own.source().name().to_owned(), at)),
                None => in_groups(documents, own, value, way),
            };
        }
        // A part has it.
        let parts = items(entry(node, "with")?.1);
        let parts: Vec<&str> = parts.iter().filter_map(text).collect();
        for document in near(documents, own) {
            let Some((_, all)) = entry(document.root(), "parts") else { continue };
            for part in parts.iter().filter_map(|name| entry(all, name)) {
                let Some((key, value)) = entry(part.1, way.key()) else { continue };
                let at = way.within(key, value).unwrap_or(key);
                return Some((document.source().name().to_owned(), at));
            }
        }
        None
    }
}

/// How to get from a rule to what is meant.
#[derive(Clone, Copy)]
enum Way<'a> {
    Key(&'static [&'static str]),
    Item(&'static str, usize),
    Named(&'static str, &'a str),
}

impl Way<'_> {
    fn key(self) -> &'static str {
        match self {
            Self::Key(way) => way.first().copied().unwrap_or_default(),
            Self::Item(key, _) | Self::Named(key, _) => key,
        }
    }

    /// The place under a key and its value; none for a name that is not there.
    fn within(self, key: Position, value: &Node) -> Option<Position> {
        match self {
            Self::Key(way) => {
                let mut place = (key, value);
                for key in way.iter().skip(1) {
                    place = entry(place.1, key).unwrap_or(place);
                }
                Some(place.0)
            }
            Self::Item(_, at) => Some(items(value).get(at).map_or(value.at, |item| item.at)),
            Self::Named(_, name) => {
                let found = items(value).iter().find(|item| text(item) == Some(name));
                found.map(|item| item.at)
            }
        }
    }
}

/// The place of a name in one of the groups that a list names.
fn in_groups(
    documents: &HashMap<&str, Document>,
    own: &Document,
    list: &Node,
    way: Way<'_>,
) -> Option<(String, Position)> {
    let groups: Vec<&str> = items(list).iter().filter_map(text).collect();
    near(documents, own).find_map(|document| {
        let all = entry(document.root(), "groups")?.1;
        let mut named = groups.iter().filter_map(|group| entry(all, group));
        let at = named.find_map(|(key, members)| way.within(key, members))?;
        Some((document.source().name().to_owned(), at))
    })
}

/// All documents, the rule's own first.
fn near<'d>(
    documents: &'d HashMap<&str, Document>,
    own: &'d Document,
) -> impl Iterator<Item = &'d Document> {
    let name = own.source().name();
    let mut others: Vec<&Document> =
        documents.values().filter(|document| document.source().name() != name).collect();
    others.sort_by_key(|document| document.source().name());
    std::iter::once(own).chain(others)
}

/// A key of a mapping: its place, and its value.
fn entry<'d>(map: &'d Node, key: &str) -> Option<(Position, &'d Node)> {
    let Value::Map(entries) = &map.value else { return None };
    let found = entries.iter().find(|(name, _)| *name.text == *key);
    found.map(|(key, value)| (key.at, value))
}

/// The items of a list; a single value stands for a list of one.
fn items(node: &Node) -> &[Node] {
    match &node.value {
        Value::Seq(items) => items,
        _ => std::slice::from_ref(node),
    }
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::String(text) => Some(text),
        _ => None,
    }
}
