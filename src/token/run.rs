//! Run tokens: short-lived, signed, and narrower than the agent that they stand for.
//!
//! The text has all that it is good for in it, and a MAC: it is checked without asking the vault, and
//! an orchestrator makes one for each run without changing anything. What it says of the run and its
//! user is vouched for by whoever could read the vault, and the agent cannot say otherwise.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{BASE32, ID_BYTES};
use crate::agent::{Context, Label};
use crate::reference::Name;

/// What every run token starts with.
pub const PREFIX: &str = "lcr_";

/// The longest time that one may be good for, in seconds: seven days. A revocation is kept as long.
pub const MAX_TTL: i64 = 7 * 24 * 60 * 60;

/// The most bytes of one. In base64, beside a user name, it has to fit into the proxy credentials.
const MAX_LENGTH: usize = 1024;

/// What a run token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Names the token in records. No part of what makes it good.
    pub id: Arc<str>,
    /// The workspace that it is for.
    pub workspace: Name,
    /// The agent that it stands for.
    pub agent: Name,
    /// Run, node and user, as far as they are fixed.
    pub context: Context,
    /// The credentials and sets that it may use; none for all that the agent may.
    pub uses: Option<Box<[Name]>>,
    /// The environment whose values it gets; none for those of none.
    pub environment: Option<Name>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub issued: i64,
    /// The vault's epoch at which it was made: what comes before a revocation and what after, no clock
    /// says reliably. None in those of earlier versions.
    pub epoch: Option<u64>,
    /// The last second, since the Unix epoch, in which it is good.
    pub expires: i64,
}

/// The claims as JSON: the order is the signed one, and a reader takes no other fields.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    id: String,
    ws: String,
    agent: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    user: Option<String>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none", default)]
    uses: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    env: Option<String>,
    iat_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    epoch: Option<u64>,
    exp: i64,
}

impl Claims {
    /// An id for a new one.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn new_id() -> Result<Arc<str>, getrandom::Error> {
        let mut random = [0; ID_BYTES];
        getrandom::fill(&mut random)?;
        Ok(BASE32.encode(&random).into())
    }

    /// Whether it may use the credential of this name, `sets` being those of its workspace.
    #[must_use]
    pub fn may_use<'s>(
        &self,
        credential: &Name,
        sets: impl Fn(&str) -> Option<&'s [Name]>,
    ) -> bool {
        self.uses.as_ref().is_none_or(|uses| {
            uses.iter().any(|name| {
                name == credential
                    || sets(name.as_str()).is_some_and(|members| members.contains(credential))
            })
        })
    }

    fn payload(&self) -> Payload {
        let label = |label: &Option<Label>| label.as_ref().map(|label| label.as_str().to_owned());
        Payload {
            id: self.id.to_string(),
            ws: self.workspace.to_string(),
            agent: self.agent.to_string(),
            run: label(&self.context.run),
            node: label(&self.context.node),
            user: label(&self.context.user),
            uses: self.uses.as_ref().map(|uses| uses.iter().map(ToString::to_string).collect()),
            env: self.environment.as_ref().map(ToString::to_string),
            iat_ms: self.issued,
            epoch: self.epoch,
            exp: self.expires,
        }
    }

    fn read(payload: &Payload) -> Option<Self> {
        let label = |text: &Option<String>| text.as_ref().map(|text| text.parse()).transpose();
        let names = |all: &Vec<String>| all.iter().map(|name| name.parse()).collect();
        let uses: Option<Result<Box<[Name]>, _>> = payload.uses.as_ref().map(names);
        Some(Self {
            id: payload.id.as_str().into(),
            workspace: payload.ws.parse().ok()?,
            agent: payload.agent.parse().ok()?,
            context: Context {
                run: label(&payload.run).ok()?,
                node: label(&payload.node).ok()?,
                user: label(&payload.user).ok()?,
            },
            uses: uses.transpose().ok()?,
            environment: payload.env.as_ref().map(|name| name.parse()).transpose().ok()?,
            issued: payload.iat_ms,
            epoch: payload.epoch,
            expires: payload.exp,
        })
    }
}

/// The workspace that a text says it is for, if it reads as a run token: to know whose key it has to be
/// checked with, and for nothing else. Nobody has vouched for it.
#[must_use]
pub fn claimed_workspace(text: &str) -> Option<Name> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let (signed, _) = text.strip_prefix(PREFIX)?.rsplit_once('.')?;
    let payload = BASE64URL_NOPAD.decode(signed.as_bytes()).ok()?;
    let payload: Payload = serde_json::from_slice(&payload).ok()?;
    payload.ws.parse().ok()
}

/// The key that signs a workspace's run tokens.
pub struct RunKey(Zeroizing<[u8; 32]>);

/// Why a run token is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the run token would be over {MAX_LENGTH} bytes, more than proxy credentials carry; name a \
             set in place of many credentials"
        )
    }
}

impl std::error::Error for TooLong {}

impl RunKey {
    /// Takes over the key's bytes.
    pub(crate) fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// `lcr_<claims>.<mac>`, both in base64url without padding (RFC 4648 section 5): nothing in it
    /// needs an escape in a URL, a shell or a header.
    ///
    /// # Errors
    /// [`TooLong`].
    pub(crate) fn sign(&self, claims: &Claims) -> Result<Zeroizing<String>, TooLong> {
        let payload = serde_json::to_vec(&claims.payload()).expect("strings and numbers are JSON");
        let mut text = Zeroizing::new(String::with_capacity(MAX_LENGTH));
        text.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(&payload, &mut text);
        let mac = self.mac(&text).finalize().into_bytes();
        text.push('.');
        BASE64URL_NOPAD.encode_append(&mac, &mut text);
        if text.len() > MAX_LENGTH { Err(TooLong) } else { Ok(text) }
    }

    /// What a run token says, if it was signed with this key.
    pub(crate) fn open(&self, text: &str) -> Option<Claims> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let (signed, mac) = text.rsplit_once('.')?;
        let mac = BASE64URL_NOPAD.decode(mac.as_bytes()).ok()?;
        // Before anything is read: what is not ours is not parsed.
        self.mac(signed).verify_slice(&mac).ok()?;
        let payload = BASE64URL_NOPAD.decode(signed.strip_prefix(PREFIX)?.as_bytes()).ok()?;
        Claims::read(&serde_json::from_slice(&payload).ok()?)
    }

    /// `HMAC-SHA-256[key]("locum/run-token/1\n" || text up to the dot)`.
    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes a key of any length");
        mac.update(b"locum/run-token/1\n");
        mac.update(signed.as_bytes());
        mac
    }
}

impl fmt::Debug for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunKey(..)")
    }
}

/// Which run tokens of an agent a revocation ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// All of them.
    All,
    /// Those of one run.
    Run(String),
    /// The one of this id.
    Token(String),
    /// No run token, but what the agent came by otherwise, by its id in records: a token of an issuer,
    /// a certificate.
    Proof(String),
}

/// The end of run tokens that were made up to a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Whose.
    pub agent: String,
    /// Which.
    pub which: Which,
    /// Those that were made up to then, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// And those that were made before the vault had this epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epoch: Option<u64>,
}

impl Revocation {
    fn ends(&self, claims: &Claims) -> bool {
        let meant = match &self.which {
            Which::All => true,
            Which::Run(run) => claims.context.run.as_ref().is_some_and(|own| own.as_str() == run),
            Which::Token(id) => *claims.id == **id,
            Which::Proof(_) => false,
        };
        let before = match (claims.epoch, self.epoch) {
            (Some(made), Some(ended)) => made < ended,
            _ => claims.issued <= self.at_ms,
        };
        // There is one of an id, whenever it was made.
        meant && (before || matches!(self.which, Which::Token(_)))
    }
}

/// Everything by which run tokens of one workspace are checked.
#[derive(Debug)]
pub struct RunTokens {
    key: Arc<RunKey>,
    /// Keys before that one, each with the last second that its tokens may be good for.
    older: Vec<(RunKey, i64)>,
    /// The live agents, each with what was revoked of its own.
    agents: HashMap<Name, Box<[Revocation]>>,
}

/// Why a run token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGood {
    /// It was not signed here, or not as it is.
    Forged,
    /// Its agent is not there any more, or it was revoked.
    Revoked,
    /// It was good once.
    Expired,
}

impl RunTokens {
    /// Those of `live` agents that none of `revoked` ends.
    #[must_use]
    pub fn new(
        key: Arc<RunKey>,
        live: impl IntoIterator<Item = Name>,
        revoked: Vec<Revocation>,
    ) -> Self {
        let mut by_agent: HashMap<String, Vec<Revocation>> = HashMap::new();
        for one in revoked {
            by_agent.entry(one.agent.clone()).or_default().push(one);
        }
        let own = |agent: &Name| by_agent.get(agent.as_str()).cloned().unwrap_or_default();
        let with = |agent: Name| (agent.clone(), own(&agent).into_boxed_slice());
        Self { key, older: Vec::new(), agents: live.into_iter().map(with).collect() }
    }

    /// The same, which also knows tokens that were signed with one of these and end by that second.
    #[must_use]
    pub(crate) fn or_older(mut self, keys: impl IntoIterator<Item = (RunKey, i64)>) -> Self {
        self.older.extend(keys);
        self
    }

    /// None is good.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Arc::new(RunKey::new(Zeroizing::new([0; 32]))), [], Vec::new())
    }

    /// Whether this is a live agent.
    #[must_use]
    pub fn knows(&self, agent: &Name) -> bool {
        self.agents.contains_key(agent)
    }

    /// Whether something else that an agent came by was revoked, by its id in records.
    #[must_use]
    pub fn has_ended(&self, agent: &Name, id: &str) -> bool {
        let ended = |one: &Revocation| matches!(&one.which, Which::Proof(own) if own == id);
        self.agents.get(agent).is_some_and(|revoked| revoked.iter().any(ended))
    }

    /// What the token says, if it is good at the time `now`, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// [`NotGood`].
    pub fn open(&self, text: &str, now: i64) -> Result<Claims, NotGood> {
        let by_older = || {
            let mut older = self.older.iter();
            older.find_map(|(key, until)| key.open(text).filter(|claims| claims.expires <= *until))
        };
        let claims = self.key.open(text).or_else(by_older).ok_or(NotGood::Forged)?;
        self.stands(&claims, now).map(|()| claims)
    }

    /// Whether what a token said still stands.
    ///
    /// # Errors
    /// [`NotGood::Revoked`] or [`NotGood::Expired`].
    pub fn stands(&self, claims: &Claims, now: i64) -> Result<(), NotGood> {
        let revoked = self.agents.get(&claims.agent).ok_or(NotGood::Revoked)?;
        if revoked.iter().any(|one| one.ends(claims)) {
            return Err(NotGood::Revoked);
        }
        // On it or after it, a token is not accepted (RFC 7519 section 4.1.4).
        if now >= claims.expires { Err(NotGood::Expired) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> RunKey {
        RunKey::new(Zeroizing::new([byte; 32]))
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn claims() -> Claims {
        Claims {
            id: "aaaabbbb".into(),
            workspace: name("default"),
            agent: name("researcher"),
            context: "a+run=42+user=alice".parse::<crate::agent::UserName>().unwrap().context,
            uses: Some([name("openai"), name("crm")].into()),
            environment: Some(name("prod")),
            issued: 1_000_000,
            epoch: None,
            expires: 2_000,
        }
    }

    #[test]
    fn what_was_signed_reads_back_and_needs_no_escape() {
        let text = key(1).sign(&claims()).unwrap();
        assert_eq!(key(1).open(&text), Some(claims()));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        assert!(text.bytes().all(plain), "{}", *text);
        assert_eq!(key(2).open(&text), None);
    }

    #[test]
    fn a_byte_that_is_changed_cut_or_added_is_noticed() {
        let (key, text) = (key(1), key(1).sign(&claims()).unwrap());
        for at in 0..text.len() {
            assert_eq!(key.open(&text[..at]), None);
            for other in ["A", "b", "_", "."] {
                let mut changed = text.to_string();
                changed.replace_range(at..=at, other);
                // The last character has bits that stand for nothing; other values are refused.
                assert!(changed == *text || key.open(&changed).is_none(), "{at} {other}");
            }
        }
        assert_eq!(key.open(&format!("{}A", *text)), None);
    }

    #[test]
    fn what_was_made_before_a_revocation_is_said_by_no_clock() {
        let (before, after) = ((Some(7), 9_000_000), (Some(8), 1));
        let ended = |(epoch, issued), which| {
            let claims = Claims { issued, epoch, ..claims() };
            let revoked =
                Revocation { agent: "researcher".into(), which, at_ms: 1_000_000, epoch: Some(8) };
            let tokens = RunTokens::new(Arc::new(key(1)), [name("researcher")], vec![revoked]);
            tokens.stands(&claims, 1_999).is_err()
        };
        for which in [Which::All, Which::Run("42".into())] {
            assert!(ended(before, which.clone()), "made on a clock that was ahead");
            assert!(!ended(after, which), "made on a clock that was behind");
        }
        let this = || Which::Token("aaaabbbb".into());
        assert!(ended(before, this()) && ended((None, 9_000_000), this()));
    }

    #[test]
    fn it_is_good_for_its_time_its_agent_and_until_it_is_revoked() {
        let good = |revoked: Vec<Revocation>, agent: &str, now| {
            RunTokens::new(Arc::new(key(1)), [name(agent)], revoked).stands(&claims(), now)
        };
        assert_eq!(good(vec![], "researcher", 1_999), Ok(()));
        assert_eq!(good(vec![], "researcher", 2_000), Err(NotGood::Expired));
        assert_eq!(good(vec![], "other", 1_999), Err(NotGood::Revoked));
        let one = |which, at_ms| {
            vec![Revocation { agent: "researcher".into(), which, at_ms, epoch: None }]
        };
        for (which, at, stands) in [
            (Which::All, 1_000_000, false),
            (Which::All, 999_999, true),
            (Which::Run("42".into()), 1_000_000, false),
            (Which::Run("43".into()), 1_000_000, true),
            (Which::Token("aaaabbbb".into()), 1_000_000, false),
            (Which::Token("aaaabbbc".into()), 1_000_000, true),
        ] {
            assert_eq!(
                good(one(which.clone(), at), "researcher", 1_999).is_ok(),
                stands,
                "{which:?}"
            );
        }
    }

    #[test]
    fn it_is_narrower_by_names_and_by_sets() {
        let members = [name("sf-token")];
        let sets = |set: &str| (set == "crm").then_some(&members[..]);
        let may = |credential: &str| claims().may_use(&name(credential), sets);
        assert!(may("openai") && may("sf-token") && !may("github"));
        assert!(Claims { uses: None, ..claims() }.may_use(&name("github"), sets));
    }

    #[test]
    fn what_proxy_credentials_cannot_carry_is_not_made() {
        let many = (0..100).map(|n| name(&format!("credential-{n}"))).collect();
        assert_eq!(key(1).sign(&Claims { uses: Some(many), ..claims() }).unwrap_err(), TooLong);
    }
}
