//! From the name that others know a caller by, a subject or a SPIFFE id, to the agent's.

use std::fmt;
use std::str::FromStr;

use crate::reference::Name;

/// Rules in their order, of which the first that fits decides. Without any, the name has to be the
/// agent's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping(Vec<MappingRule>);

impl Mapping {
    /// These rules.
    #[must_use]
    pub fn new(rules: Vec<MappingRule>) -> Self {
        Self(rules)
    }

    /// Who that is; none when no rule fits, or what it makes of the name is no name of ours.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Mapped> {
        if self.0.is_empty() {
            return Some(Mapped { workspace: None, agent: name.parse().ok()? });
        }
        self.0
            .iter()
            .find_map(|rule| Some((rule, rule.pattern.captures(name)?)))
            .and_then(|(rule, captured)| rule.filled(&captured))
    }
}

/// Whom a mapping has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where; none where the rule does not say.
    pub workspace: Option<Name>,
    /// Who.
    pub agent: Name,
}

/// One rule: `{match: 'system:serviceaccount:agents:*', agent: '{1}'}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingRule {
    pattern: Pattern,
    agent: Template,
    workspace: Option<Template>,
}

impl MappingRule {
    /// A rule, if what it says of agent and workspace is in the pattern.
    ///
    /// # Errors
    /// [`MappingError::Capture`].
    pub fn new(
        pattern: Pattern,
        agent: Template,
        workspace: Option<Template>,
    ) -> Result<Self, MappingError> {
        let stars = pattern.0.iter().filter(|part| part.star).count();
        let mut pieces = agent.0.iter().chain(workspace.iter().flat_map(|text| &text.0));
        if pieces.any(|part| matches!(part, Piece::Captured(n) if *n >= stars)) {
            return Err(MappingError::Capture);
        }
        Ok(Self { pattern, agent, workspace })
    }

    fn filled(&self, captured: &[&str]) -> Option<Mapped> {
        let name = |text: &Template| text.filled(captured).parse::<Name>().ok();
        let workspace = match &self.workspace {
            Some(text) => Some(name(text)?),
            None => None,
        };
        Some(Mapped { workspace, agent: name(&self.agent)? })
    }
}

/// Why a rule is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingError {
    /// The pattern is empty, or has two `*` without a `:` or `/` between them.
    Pattern,
    /// The text for agent or workspace is no name, with `{1}` and the like in it.
    Template,
    /// It asks for a `*` that the pattern does not have.
    Capture,
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pattern => {
                "expected a name, in which `*` stands once in each part between `:` and `/`"
            }
            Self::Template => "expected a name, in which {1} is what the first `*` stood for",
            Self::Capture => "there is no such `*` in `match`",
        })
    }
}

impl std::error::Error for MappingError {}

/// A name with `*` in it, each for one or more characters other than `:` and `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

/// What is between two separators, and the separator before it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    before: Option<char>,
    head: String,
    star: bool,
    tail: String,
}

/// The parts of a name, each with the separator before it.
fn parts(name: &str) -> impl Iterator<Item = (Option<char>, &str)> {
    let mut before = None;
    name.split_inclusive([':', '/']).map(move |piece| {
        let text = piece.strip_suffix([':', '/']).unwrap_or(piece);
        let own = before;
        before = piece.get(text.len()..).and_then(|end| end.chars().next());
        (own, text)
    })
}

impl Pattern {
    /// What each `*` stands for, if the name fits.
    fn captures<'n>(&self, name: &'n str) -> Option<Vec<&'n str>> {
        // `split_inclusive` gives nothing after a last separator.
        if name.ends_with([':', '/']) {
            return None;
        }
        let mut captured = Vec::new();
        let mut own = self.0.iter();
        for (before, text) in parts(name) {
            let part = own.next().filter(|part| part.before == before)?;
            if !part.star {
                (part.head == text).then_some(())?;
                continue;
            }
            let rest = text.strip_prefix(part.head.as_str())?.strip_suffix(part.tail.as_str())?;
            captured.push(rest);
            (!rest.is_empty()).then_some(())?;
        }
        own.next().is_none().then_some(captured)
    }
}

impl FromStr for Pattern {
    type Err = MappingError;

    fn from_str(text: &str) -> Result<Self, MappingError> {
        if text.is_empty() || text.ends_with([':', '/']) {
            return Err(MappingError::Pattern);
        }
        let part = |(before, text): (Option<char>, &str)| {
            let (head, tail) = text.split_once('*').unwrap_or((text, ""));
            let star = head.len() < text.len();
            if tail.contains('*') {
                return Err(MappingError::Pattern);
            }
            Ok(Part { before, head: head.to_owned(), star, tail: tail.to_owned() })
        };
        parts(text).map(part).collect::<Result<_, _>>().map(Self)
    }
}

/// The name of an agent or a workspace with `{1}` and the like in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Captured(usize),
}

impl Template {
    fn filled(&self, captured: &[&str]) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Captured(n) => captured.get(*n).copied().unwrap_or_default().to_owned(),
        };
        self.0.iter().map(piece).collect()
    }
}

impl FromStr for Template {
    type Err = MappingError;

    fn from_str(text: &str) -> Result<Self, MappingError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (number, after) = after.split_once('}').ok_or(MappingError::Template)?;
            let number: usize = number.parse().map_err(|_| MappingError::Template)?;
            let index = number.checked_sub(1).ok_or(MappingError::Template)?;
            pieces.extend([Piece::Text(before.to_owned()), Piece::Captured(index)]);
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let template = Self(pieces);
        // With something plain in the blanks, it is a name: so much can be said before.
        let plain = template.filled(&["x"; 16]);
        plain.parse::<Name>().map_err(|_| MappingError::Template)?;
        Ok(template)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, agent: &str) -> Result<MappingRule, MappingError> {
        MappingRule::new(pattern.parse()?, agent.parse()?, None)
    }

    #[test]
    fn the_first_rule_that_fits_says_who_it_is() {
        let mapping = Mapping::new(vec![
            rule("system:serviceaccount:agents:special", "chosen").unwrap(),
            rule("system:serviceaccount:agents:*", "{1}").unwrap(),
            rule("spiffe://prod.example/ns/*/sa/agent-*", "{1}-{2}").unwrap(),
            rule("*@example.org", "mail-{1}").unwrap(),
        ]);
        for (name, agent) in [
            ("system:serviceaccount:agents:special", Some("chosen")),
            ("system:serviceaccount:agents:writer", Some("writer")),
            ("system:serviceaccount:others:writer", None),
            ("system:serviceaccount:agents:", None),
            ("system:serviceaccount:agents:a:b", None),
            ("system:serviceaccount:agents:a/b", None),
            ("system/serviceaccount:agents:writer", None),
            ("x:system:serviceaccount:agents:writer", None),
            ("spiffe://prod.example/ns/ml/sa/agent-7", Some("ml-7")),
            ("spiffe://prod.example/ns/ml/sa/agent-", None),
            ("spiffe://evil.example/ns/ml/sa/agent-7", None),
            ("spiffe://prod.example/ns/ml/x/sa/agent-7", None),
            ("spiffe://prod.example/ns/ml/sa/agent-7/", None),
            ("alice@example.org", Some("mail-alice")),
            ("alice@example.org.evil", None),
            ("@example.org", None),
            // What a star stands for is held to the grammar of names.
            ("system:serviceaccount:agents:Not A Name", None),
            ("", None),
        ] {
            let found = mapping.find(name).map(|found| found.agent.to_string());
            assert_eq!(found.as_deref(), agent, "{name}");
        }
    }

    #[test]
    fn without_rules_the_name_is_the_agents_own() {
        let own = |name: &str| Mapping::default().find(name).is_some();
        assert!(own("researcher") && !own("Researcher") && !own("system:x"));
    }

    #[test]
    fn a_rule_may_say_the_workspace_too() {
        let rule = |workspace: &str| {
            let pattern = "spiffe://prod.example/ns/*/sa/*".parse().unwrap();
            MappingRule::new(pattern, "{2}".parse().unwrap(), Some(workspace.parse().unwrap()))
        };
        let find = |workspace: &str, name: &str| {
            let found = Mapping::new(vec![rule(workspace).unwrap()]).find(name)?;
            Some((found.workspace?.to_string(), found.agent.to_string()))
        };
        let pair = |w: &str, a: &str| Some((w.to_owned(), a.to_owned()));
        assert_eq!(find("{1}", "spiffe://prod.example/ns/ml/sa/x"), pair("ml", "x"));
        assert_eq!(find("fixed", "spiffe://prod.example/ns/ml/sa/x"), pair("fixed", "x"));
        // What is no workspace's name is nobody, and not somebody of another workspace.
        assert_eq!(find("{1}", "spiffe://prod.example/ns/ML/sa/x"), None);
        assert_eq!(rule("{3}"), Err(MappingError::Capture));
    }

    #[test]
    fn rules_that_could_not_be_meant_are_refused() {
        for (pattern, agent, why) in [
            ("", "a", MappingError::Pattern),
            ("a:", "a", MappingError::Pattern),
            ("a*b*", "a", MappingError::Pattern),
            ("*:*", "{3}", MappingError::Capture),
            ("a", "{1}", MappingError::Capture),
            ("*", "{0}", MappingError::Template),
            ("*", "{1", MappingError::Template),
            ("*", "{one}", MappingError::Template),
            ("*", "Not a name", MappingError::Template),
            ("*", "", MappingError::Template),
        ] {
            assert_eq!(rule(pattern, agent), Err(why), "{pattern} {agent}");
        }
        assert!(rule("*:*", "{2}-{1}").is_ok());
    }
}
