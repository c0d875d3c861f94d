//! What the rules say of one reading of a request: which decides, which grant its credentials, and why not
//! where they do not.

use http::Method;

use super::Policy;
use super::permit::Grant;
use super::rule::{Asked, Rule};
use crate::credential::{Credential, CredentialIndex, Within};
use crate::outcome::{Code, Refusal};
use crate::request::InboundRequest;

/// What a rule allows or does not. A socket is no GET, though it begins with one: what passes in it
/// afterwards is no more a reading than a writing.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    Request(&'a Method),
    WebSocket,
}

impl<'a> Kind<'a> {
    pub(super) fn of(request: &'a InboundRequest) -> Self {
        request.websocket().map_or(Self::Request(request.method()), |_| Self::WebSocket)
    }
}

/// What one reading of a request leads to. Two readings that differ here are refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The rule that decided, by index.
    pub(super) rule: u32,
    /// For each credential of the request, the rule that grants it.
    pub(super) granted: Vec<u32>,
    /// For a request without references, the rule whose credentials enter it all the same.
    pub(super) always: Option<u32>,
    /// The organisation's rule that lets it.
    pub(super) bound: Option<u32>,
}

/// What the rules of one layer that match have to say.
#[derive(Default)]
pub(super) struct Found {
    first: Option<u32>,
    always: Option<u32>,
    granted: Vec<Option<u32>>,
}

impl Found {
    fn new(credentials: usize) -> Self {
        Self { granted: vec![None; credentials], ..Self::default() }
    }

    fn note(
        &mut self,
        (at, rule): (u32, &Rule),
        asked: Asked<'_>,
        credentials: &[&Credential],
        index: &CredentialIndex,
    ) {
        let (origin, within) = (asked.origin, Within::One(asked.who.environment()));
        self.first.get_or_insert(at);
        let unreferred = self.always.is_none() && credentials.is_empty();
        if unreferred && rule.injects_at(origin, index, within) {
            self.always = Some(at);
        }
        for (grant, credential) in self.granted.iter_mut().zip(credentials) {
            if grant.is_none() && rule.uses.contain(credential, index) {
                *grant = Some(at);
            }
        }
    }

    /// The rule that decided: the one that grants the first credential, else the first that matches.
    fn decided(&self) -> Option<u32> {
        self.granted.first().copied().flatten().or(self.always).or(self.first)
    }
}

/// Why a reading is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// No rule matches.
    NoRule,
    /// None that matches grants the credential.
    NoGrant,
    /// This rule denies it.
    Rule(u32),
    /// This rule denies it with the credential.
    Use(u32),
    /// No rule of the organisation matches.
    Unbound,
    /// None of the organisation that matches grants the credential.
    UnboundUse,
}

impl Policy {
    pub(super) fn verdict(
        &self,
        asked: Asked<'_>,
        path: &str,
        credentials: &[&Credential],
        index: &CredentialIndex,
        shadows: bool,
    ) -> Result<Verdict, Denied> {
        let bounded = if shadows { self.bounded.1 } else { self.bounded.0 };
        let mut found = Found::new(credentials.len());
        let mut bounds = bounded.then(|| Found::new(credentials.len()));
        let (mut denying, mut bounding) = (Vec::new(), Vec::new());
        for (at, rule) in self.candidates(asked.who, asked.origin, index) {
            if (rule.shadow && !shadows) || !rule.matches(asked, path, index) {
                continue;
            }
            if rule.deny {
                if rule.uses.is_empty() {
                    return Err(Denied::Rule(at));
                }
                denying.push((at, rule));
                continue;
            }
            let layer = match &mut bounds {
                Some(bounds) if rule.organisation => {
                    bounding.push(rule);
                    bounds
                }
                _ => &mut found,
            };
            layer.note((at, rule), asked, credentials, index);
        }
        let rule = found.decided().ok_or(Denied::NoRule)?;
        let granted: Option<Vec<u32>> = found.granted.into_iter().collect();
        let granted = granted.ok_or(Denied::NoGrant)?;
        let always = found.always;
        if bounds.is_some() || !denying.is_empty() {
            // Those that it refers to, or those that a rule puts into it.
            let unasked = always.map(|always| self.unreferenced(always, asked, index));
            let entering: Vec<&Credential> = match &unasked {
                Some(grants) => grants.iter().map(Grant::credential).collect(),
                None => credentials.to_vec(),
            };
            for (at, rule) in denying {
                if entering.iter().any(|credential| rule.uses.contain(credential, index)) {
                    return Err(Denied::Use(at));
                }
            }
            let granted = |c: &&Credential| bounding.iter().any(|r| r.uses.contain(c, index));
            if bounds.as_ref().is_some_and(|bounds| bounds.first.is_none()) {
                return Err(Denied::Unbound);
            }
            if bounds.is_some() && !entering.iter().all(granted) {
                return Err(Denied::UnboundUse);
            }
        }
        Ok(Verdict { rule, granted, always, bound: bounds.and_then(|bounds| bounds.decided()) })
    }

    pub(super) fn refusal(
        &self,
        denied: Denied,
        kind: Kind<'_>,
        reason: Option<&'static str>,
    ) -> Refusal {
        let by = |at: u32, refusal: Refusal| match self.rules.get(at as usize) {
            Some(rule) => refusal.by(&rule.name),
            None => refusal,
        };
        let not_allowed = || Refusal::new(Code::NotAllowed);
        let no_credential = || Refusal::new(Code::CredentialRefused);
        match denied {
            Denied::NoRule if matches!(kind, Kind::WebSocket) => Refusal {
                reason,
                ..Refusal::with_detail(
                    Code::NotAllowed,
                    "No policy rule allows this WebSocket; one that lists methods needs `websocket: allow`",
                )
            },
            Denied::NoRule => Refusal { reason, ..not_allowed() },
            Denied::NoGrant => {
                no_credential().because("no rule lets this agent use the credential here")
            }
            Denied::Rule(at) => by(at, not_allowed().because("a rule denies it")),
            Denied::Use(at) => by(at, no_credential().because("a rule denies the credential here")),
            Denied::Unbound => not_allowed().because("no rule of the organisation allows it"),
            Denied::UnboundUse => {
                no_credential().because("no rule of the organisation grants the credential here")
            }
        }
    }
}
