//! Why a request is decided as it is: each rule, and what of it does not fit.
//!
//! The comparison is the one that decides ([`Rule::passes`]), asked for every thing that a rule may be
//! particular about instead of for the first that does not fit.

use super::Policy;
use super::cases::{Answer, Inquiry, Wish};
use super::rule::{Asked, Check, Rule};
use super::verdict::Kind;
use crate::credential::CredentialIndex;
use crate::document::Position;
use crate::host::{Origin, Scheme};

/// One rule, held against one request.
#[derive(Clone, Debug)]
pub struct Verdict<'p> {
    /// Its name.
    pub rule: &'p str,
    /// Its file, as the source is named.
    pub file: &'p str,
    /// Where in it.
    pub at: Position,
    /// Whether it denies.
    pub deny: bool,
    /// Whether it is only recorded.
    pub shadow: bool,
    /// Whether it is the organisation's, and bounds.
    pub organisation: bool,
    /// What does not fit; nothing, if the rule matches.
    pub misses: Vec<Check>,
    /// Whether it grants the credential that the request refers to; none when it refers to none.
    pub grants: Option<bool>,
}

/// The decision, and every rule that has anything to do with the agent, or with the host.
#[derive(Clone, Debug)]
pub struct Explanation<'p> {
    /// What comes of it.
    pub answer: Answer,
    /// Rules that match first, then the nearest; each in the order of the document.
    pub rules: Vec<Verdict<'p>>,
    /// How many others there are: they have neither this agent nor this host.
    pub others: usize,
}

impl Policy {
    /// Explains what comes of an inquiry.
    #[must_use]
    pub fn explain(&self, inquiry: &Inquiry, index: &CredentialIndex) -> Explanation<'_> {
        let answer = inquiry.ask(self, index);
        let look = |asked: Asked<'_>, path: &str| -> Vec<Verdict<'_>> {
            self.rules.iter().map(|rule| self.held(rule, asked, path, inquiry, index)).collect()
        };
        let all = match &inquiry.wish {
            Wish::Connect(authority) => {
                let origin = Origin { scheme: Scheme::Https, authority: authority.clone() };
                let (headers, method) = (http::HeaderMap::new(), http::Method::CONNECT);
                let kind = Kind::Request(&method);
                let (who, at) = (&inquiry.who, inquiry.at);
                let asked =
                    Asked { who, origin: &origin, kind, query: None, headers: &headers, at };
                look(asked, "/").into_iter().map(seen_from_outside).collect()
            }
            Wish::Request { .. } => inquiry
                .with_question(self, index, |q| {
                    look(Asked::of(q.who, q.request, q.at), q.request.path())
                })
                .unwrap_or_default(),
        };
        let near = |verdict: &Verdict<'_>| {
            let misses = |check| verdict.misses.contains(&check);
            !(misses(Check::Agent) && misses(Check::Destination))
        };
        let count = all.len();
        let mut rules: Vec<Verdict<'_>> = all.into_iter().filter(near).collect();
        rules.sort_by_key(|verdict| verdict.misses.len());
        Explanation { answer, others: count - rules.len(), rules }
    }

    fn held<'p>(
        &'p self,
        rule: &'p Rule,
        asked: Asked<'_>,
        path: &str,
        inquiry: &Inquiry,
        index: &CredentialIndex,
    ) -> Verdict<'p> {
        let misses = |check: &Check| !rule.passes(*check, asked, path, index);
        let credential = |name| index.referred(crate::reference::Name::as_str(name));
        Verdict {
            rule: &rule.name,
            file: self.files.get(rule.place.file as usize).map_or("", |file| file),
            at: rule.place.at,
            deny: rule.deny,
            shadow: rule.shadow,
            organisation: rule.organisation,
            misses: Check::ALL.into_iter().filter(misses).collect(),
            grants: inquiry
                .refers
                .as_ref()
                .map(|name| credential(name).is_some_and(|c| rule.uses.contain(c, index))),
        }
    }
}

fn seen_from_outside(mut verdict: Verdict<'_>) -> Verdict<'_> {
    verdict.misses.retain(|check| Check::OUTSIDE.contains(check));
    verdict
}
