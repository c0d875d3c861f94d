//! Why a request is decided as it is: each rule, and what of it does not fit.
//!
//! The comparison is the one that decides ([`Rule::passes`]), asked for every thing that a rule may be
//! particular about instead of for the first that does not fit.

use std::iter::once;

use super::cases::{Answer, Inquiry, Wish};
use super::conditions::Wanted;
use super::decide::Question;
use super::diff::either;
use super::rule::{Asked, Check, Rule};
use super::text::TextPattern;
use super::verdict::Kind;
use super::{Group, Policy};
use crate::credential::{Credential, CredentialIndex};
use crate::document::Position;
use crate::host::{Authority, Origin, Scheme};
use crate::inject::alone_in_their_places;
use crate::outcome::{Code, Refusal};

/// One rule, held against one request.
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
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
    /// What the rule asks for in each of those, where it can be told in few words.
    pub wants: Vec<Option<String>>,
    /// Whether it grants the credential that the request refers to; none when it refers to none.
    pub grants: Option<bool>,
    /// Whether it denies credentials alone, and none that enters this request.
    pub spares: bool,
}

/// The decision, and every rule that has anything to do with the agent, or with the host.
#[derive(Clone, Debug)]
pub struct Explanation<'p> {
    /// What comes of it.
    pub answer: Answer,
    /// Why, where the rules that match do not show it: one line each.
    pub because: Vec<String>,
    /// Rules that match first, then those for this destination, the nearest first, then others; each in the
    /// order of the document.
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
        let because = self.because(inquiry, &answer, index);
        let unbound = because.iter().any(|why| why.contains("no rule of the organisation"));
        let near = |verdict: &Verdict<'_>| {
            let misses = |check| verdict.misses.contains(&check);
            // Where the organisation's are missing, they are what it is about.
            let bounds = unbound && verdict.organisation && !verdict.deny;
            bounds || !(misses(Check::Agent) && misses(Check::Destination))
        };
        let count = all.len();
        let mut rules: Vec<Verdict<'_>> = all.into_iter().filter(near).collect();
        for verdict in &mut rules {
            // Whatever enters the request, a rule that decided was about it.
            verdict.spares &=
                !matches!(&answer, Answer::Refuse(_, Some(rule)) if **rule == *verdict.rule);
        }
        rules.sort_by_key(|verdict| {
            // Another host is further away than anything else: nobody would add it.
            let elsewhere = verdict.misses.contains(&Check::Destination);
            (elsewhere, verdict.misses.len(), verdict.spares)
        });
        Explanation { answer, because, others: count - rules.len(), rules }
    }

    /// What the rules that match do not show of a decision.
    fn because(&self, inquiry: &Inquiry, answer: &Answer, index: &CredentialIndex) -> Vec<String> {
        if let (Wish::Connect(authority), Answer::Intercept) = (&inquiry.wish, answer) {
            return vec![self.why_intercepted(inquiry, authority, index)];
        }
        let Answer::Refuse(code, _) = answer else { return Vec::new() };
        let readings = |q: Question<'_>| match code {
            Code::AmbiguousPath => self.by_reading(q),
            Code::MethodRefused => self.by_method(q),
            _ => match self.authorize(q.who, q.request, q.references, q.index, q.at) {
                Ok(permit) => {
                    let claimed = alone_in_their_places(&permit).err();
                    claimed.into_iter().map(|why| why.detail.into_owned()).collect()
                }
                Err(Refusal { reason: Some(reason), .. }) => vec![reason.to_owned()],
                Err(_) => Vec::new(),
            },
        };
        // What is no request to decide on is refused before any rule, and says why itself.
        let told = |refusal: Refusal| vec![refusal.detail.into_owned()];
        inquiry.with_question(self, index, readings).unwrap_or_else(told)
    }

    /// What is decided on each reading of the path.
    fn by_reading(&self, q: Question<'_>) -> Vec<String> {
        let asked = Asked::of(q.who, q.request, q.at);
        let others = q.request.other_readings().iter().map(String::as_str);
        let all = once(q.request.path()).chain(others);
        all.map(|path| format!("read as {path}: {}", self.in_short(q, asked, path))).collect()
    }

    /// What is decided on each method that the request may be taken for.
    fn by_method(&self, q: Question<'_>) -> Vec<String> {
        let asked = Asked::of(q.who, q.request, q.at);
        let others = q.request.other_methods().iter();
        let all = once(q.request.method()).chain(others);
        let one = |method: &http::Method| {
            let asked = Asked { kind: Kind::Request(method), ..asked };
            format!("read as {method}: {}", self.in_short(q, asked, q.request.path()))
        };
        all.map(one).collect()
    }

    /// What one reading leads to.
    fn in_short(&self, q: Question<'_>, asked: Asked<'_>, path: &str) -> String {
        let credentials: Vec<&Credential> =
            q.references.located().iter().map(|located| &**located.credential()).collect();
        let named = |at: u32| self.rules.get(at as usize).map_or("", |rule| &*rule.name);
        match self.verdict(asked, path, &credentials, q.index, false) {
            Ok(verdict) => format!("allowed by the rule `{}`", named(verdict.rule)),
            Err(denied) => {
                let Refusal { code, rule, reason, .. } = self.refusal(denied, asked.kind, None);
                let rule = rule.map(|rule| format!(" by the rule `{rule}`")).unwrap_or_default();
                let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                format!("{code}{rule}{reason}")
            }
        }
    }

    /// Why a tunnel is looked into.
    fn why_intercepted(
        &self,
        inquiry: &Inquiry,
        authority: &Authority,
        index: &CredentialIndex,
    ) -> String {
        let https = Origin { scheme: Scheme::Https, authority: authority.clone() };
        if let Some(credential) = index.bound_to(&https).next() {
            return format!("the credential `{}` may go there", credential.name);
        }
        let (headers, kind) = (http::HeaderMap::new(), Kind::Request(&http::Method::CONNECT));
        let (who, at) = (&inquiry.who, inquiry.at);
        let (mut own, mut bound) = (false, false);
        for scheme in [Scheme::Https, Scheme::Http] {
            let origin = &Origin { scheme, authority: authority.clone() };
            let asked = Asked { who, origin, kind, query: None, headers: &headers, at };
            for rule in &self.rules {
                if rule.shadow || !rule.concerns(asked, index) {
                    continue;
                }
                if rule.deny || !rule.opaque {
                    return format!("the rule `{}` has a say in what is sent there", rule.name);
                }
                own |= !rule.organisation;
                bound |= rule.organisation;
            }
        }
        match (own, bound) {
            (true, false) => "no rule of the organisation allows the tunnel".to_owned(),
            _ => "no rule with `tunnel: opaque` matches".to_owned(),
        }
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
        let misses: Vec<Check> = Check::ALL.into_iter().filter(misses).collect();
        let credential = |name| index.referred(crate::reference::Name::as_str(name));
        let grants = inquiry
            .refers
            .as_ref()
            .map(|name| credential(name).is_some_and(|c| rule.uses.contain(c, index)));
        Verdict {
            rule: &rule.name,
            file: self.files.get(rule.place.file as usize).map_or("", |file| file),
            at: rule.place.at,
            deny: rule.deny,
            shadow: rule.shadow,
            organisation: rule.organisation,
            wants: misses.iter().map(|check| self.wants(rule, *check, asked)).collect(),
            misses,
            spares: rule.deny && !rule.uses.is_empty() && grants != Some(true),
            grants,
        }
    }

    /// What a rule asks for under one of its keys.
    fn wants(&self, rule: &Rule, check: Check, asked: Asked<'_>) -> Option<String> {
        let conditions = rule.conditions.as_deref();
        let texts = |all: &Vec<TextPattern>| (!all.is_empty()).then(|| either(all));
        let Asked { who, origin, .. } = asked;
        match check {
            // Lists to which something can be added, which is said in place of what they have, and where
            // that would not do, why.
            Check::Agent => {
                let own = |group: &&Group| *group.name == *who.agent.as_str();
                self.groups.iter().find(own)?;
                Some(format!("`{}` means a group of others; give that another name", who.agent))
            }
            Check::Destination if rule.to.is_none() => {
                Some(format!("there is none, and no credential of `use` may go to {origin}"))
            }
            Check::Destination if origin.scheme == Scheme::Http && !rule.uses.is_empty() => {
                Some("credentials go over https:// alone; send it there".to_owned())
            }
            Check::Destination | Check::Method | Check::Path => None,
            Check::Query => {
                let one = |w: &Wanted<Box<str>>| format!("{}={}", w.name, either(&w.values));
                conditions.map(|all| all.query.iter().map(one).collect::<Vec<_>>().join(", "))
            }
            Check::Headers => {
                let one =
                    |w: &Wanted<http::HeaderName>| format!("{}: {}", w.name, either(&w.values));
                conditions.map(|all| all.headers.iter().map(one).collect::<Vec<_>>().join(", "))
            }
            Check::User => conditions.and_then(|all| texts(&all.users)),
            Check::Run => conditions.and_then(|all| texts(&all.runs)),
            Check::Time => rule.when.as_ref().map(ToString::to_string),
        }
    }
}

fn seen_from_outside(mut verdict: Verdict<'_>) -> Verdict<'_> {
    let pairs = verdict.misses.into_iter().zip(verdict.wants);
    (verdict.misses, verdict.wants) =
        pairs.filter(|(check, _)| Check::OUTSIDE.contains(check)).unzip();
    verdict
}
