//! What a permit stood on, kept for as long as what it opened is open.
//!
//! A request is decided on once and is soon over. A socket stays, and is asked about again whenever
//! there is a new state: what would not be opened any more is ended.

use std::sync::Arc;

use http::HeaderMap;

use super::{Asked, Kind, Permit, Policy};
use crate::agent::Identity;
use crate::credential::{Credential, CredentialIndex};
use crate::host::Origin;
use crate::outcome::Code;
use crate::reference::Name;
use crate::request::InboundRequest;

/// An open WebSocket, as the policy saw its handshake.
#[derive(Debug)]
pub struct Standing {
    who: Arc<Identity>,
    origin: Origin,
    /// The path as sent, and its other readings.
    paths: Box<[String]>,
    query: Option<Box<str>>,
    headers: HeaderMap,
    /// The credentials that the handshake carried.
    credentials: Box<[Name]>,
}

impl Standing {
    /// What is to be asked again of the socket that `request` opens.
    #[must_use]
    pub fn new(who: &Arc<Identity>, request: &InboundRequest, permit: &Permit) -> Self {
        let own = std::iter::once(request.path().to_owned());
        let name = |grant: &super::Grant| grant.credential().name.clone();
        Self {
            who: Arc::clone(who),
            origin: request.origin().clone(),
            paths: own.chain(request.other_readings().iter().cloned()).collect(),
            query: request.query().map(Into::into),
            headers: request.headers().clone(),
            credentials: permit.grants().iter().map(name).collect(),
        }
    }
}

impl Policy {
    /// Why a socket may not go on, if it may not. A new version of a credential is no reason: the
    /// origin has accepted the one that it was shown. A revoked one is.
    #[must_use]
    pub fn withdrawn(&self, standing: &Standing, index: &CredentialIndex, at: i64) -> Option<Code> {
        let live = |name: &Name| {
            let credential: &Credential = index.get(name.as_str())?;
            let live = credential.version.is_some() && credential.is_bound_to(&standing.origin);
            live.then_some(credential)
        };
        let credentials: Option<Vec<&Credential>> = standing.credentials.iter().map(live).collect();
        let Some(credentials) = credentials else { return Some(Code::CredentialRefused) };
        let asked = Asked {
            who: &standing.who,
            origin: &standing.origin,
            kind: Kind::WebSocket,
            query: standing.query.as_deref(),
            headers: &standing.headers,
            at,
        };
        let mut verdicts =
            standing.paths.iter().map(|path| self.verdict(asked, path, &credentials, index, false));
        let first = verdicts.next()?;
        if verdicts.any(|other| other != first) {
            return Some(Code::AmbiguousPath);
        }
        first.err().map(|denied| self.refusal(denied, Kind::WebSocket, None).code)
    }
}
