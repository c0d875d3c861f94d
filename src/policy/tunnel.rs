//! What becomes of a CONNECT, before anything of what goes through it is known.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method};

use super::rule::{Asked, Rule};
use super::verdict::Kind;
use super::{Meters, Policy};
use crate::agent::Identity;
use crate::credential::CredentialIndex;
use crate::host::{Authority, Origin, Scheme};

/// What to do with a CONNECT. A refusal is not among them: it is given inside the intercepted
/// tunnel, because clients hide the body of a failed CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelDecision {
    /// TLS ends here, and each request is decided on.
    Intercept,
    /// Bytes are copied. No credential is bound to the host.
    Opaque {
        /// The rule that allows it.
        rule: Arc<str>,
        /// What the tunnel has to be let in by.
        meters: Meters,
        /// Whether it is refused when it is not as usual for its agent.
        refuse_unusual: bool,
    },
}

impl Policy {
    /// Decides on a CONNECT to `authority`, at a second of Unix time. A host to which any credential of
    /// the workspace is bound is always intercepted: it must never be reachable uninspected. So is one
    /// of which any rule has something to say that cannot be seen from outside.
    #[must_use]
    pub fn tunnel(
        &self,
        who: &Identity,
        authority: &Authority,
        index: &CredentialIndex,
        at: i64,
    ) -> TunnelDecision {
        let headers = HeaderMap::new();
        let kind = Kind::Request(&Method::CONNECT);
        let (mut opaque, mut bound) = (None, None);
        for scheme in [Scheme::Https, Scheme::Http] {
            let origin = &Origin { scheme, authority: authority.clone() };
            if scheme == Scheme::Https && index.concerned(origin).next().is_some() {
                return TunnelDecision::Intercept;
            }
            let asked = Asked { who, origin, kind, query: None, headers: &headers, at };
            for (_, rule) in self.candidates(who, origin, index) {
                if rule.shadow || !rule.concerns(asked, index) {
                    continue;
                }
                if rule.deny || !rule.opaque {
                    return TunnelDecision::Intercept;
                }
                let layer = if rule.organisation { &mut bound } else { &mut opaque };
                layer.get_or_insert(rule);
            }
        }
        let bound = match (self.bounded.0, bound) {
            (true, None) => return TunnelDecision::Intercept,
            (_, bound) => bound,
        };
        opaque.map_or(TunnelDecision::Intercept, |rule: &Rule| TunnelDecision::Opaque {
            rule: Arc::clone(&rule.name),
            meters: rule.meters().and(bound),
            refuse_unusual: rule.refuse_unusual || bound.is_some_and(|bound| bound.refuse_unusual),
        })
    }
}

impl fmt::Display for TunnelDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intercept => f.write_str("intercept"),
            Self::Opaque { rule, .. } => write!(f, "opaque by rule `{rule}`"),
        }
    }
}
