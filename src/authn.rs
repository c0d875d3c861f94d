//! Who is calling: the proxy credentials of a request, checked against the tokens of the vault.
//!
//! Absent, unknown, revoked and expired credentials get one answer, after the same work. What was
//! wrong is for the audit record alone.

use std::collections::HashMap;
use std::sync::Arc;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::agent::{Identity, Labels, TokenRecord, UserName};
use crate::outcome::{Code, Refusal};
use crate::reference::Name;
use crate::token::run::{self, NotGood, RunTokens};
use crate::token::{self, TokenKey};

/// Decides who is calling. Chosen at start; tokens are the one that every vault has.
pub trait Authenticate: Send + Sync {
    /// The identity behind a user name and password, at the time `now` in seconds since the Unix
    /// epoch.
    ///
    /// # Errors
    /// [`Denied`], and the client is told no more than that.
    fn authenticate(&self, user: &UserName, password: &str, now: i64) -> Result<Identity, Denied>;

    /// Whether an identity that was authenticated earlier still stands: asked for each request of a
    /// live tunnel, after which a revoked token must not be used.
    fn still_valid(&self, identity: &Identity, now: i64) -> bool;
}

/// Why a caller is not let in: for the operator. The client learns only that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No proxy credentials that can be read.
    Absent,
    /// The password is not a token at all, or a mistyped one.
    Malformed,
    /// No live token has this id: it never had, or is revoked.
    Unknown,
    /// The token's id is known, and the rest is wrong, or it is another agent's.
    Wrong,
    /// It was good once.
    Expired,
}

impl Denied {
    /// The reason as the audit record has it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Absent => "no proxy credentials",
            Self::Malformed => "the password is not a token",
            Self::Unknown => "unknown or revoked token",
            Self::Wrong => "wrong token, or another agent's",
            Self::Expired => "expired token",
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::new(Code::ProxyAuthRequired).because(denied.reason())
    }
}

/// The longest `Proxy-Authorization` that is read. User name, context and token have room in it.
const MAX_HEADER: usize = 2048;

/// Reads `Basic` proxy credentials (RFC 7617). `None` for anything else: the caller cannot tell us
/// who it is, and why does not matter.
#[must_use]
pub fn parse_proxy_authorization(header: &[u8]) -> Option<(UserName, Zeroizing<String>)> {
    let (scheme, rest) = header.split_at_checked("Basic ".len())?;
    if header.len() > MAX_HEADER || !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let pair = decode_base64(rest.trim_ascii())?;
    let pair = std::str::from_utf8(&pair).ok()?;
    // RFC 7617 splits at the first colon, as a user name cannot have one. Ours can, in its context
    // (`run=a:b`), and a token cannot: the last colon is the same one, or the right one.
    let (user, password) = pair.rsplit_once(':')?;
    Some((user.parse().ok()?, Zeroizing::new(password.to_owned())))
}

fn decode_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; BASE64.decode_len(text.len()).ok()?]);
    let length = BASE64.decode_mut(text, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// Checks agents' tokens.
#[derive(Debug)]
pub struct Authenticator {
    tokens: Arc<HashMap<Arc<str>, TokenRecord>>,
    key: Arc<TokenKey>,
    runs: Arc<RunTokens>,
    /// Stands in for the record of an id that there is none of, so that its check costs the same.
    nobody: TokenRecord,
}

impl Authenticator {
    /// Checks against these tokens, by id, of one workspace, and its run tokens.
    #[must_use]
    pub fn new(
        workspace: &Name,
        tokens: Arc<HashMap<Arc<str>, TokenRecord>>,
        key: Arc<TokenKey>,
        runs: Arc<RunTokens>,
    ) -> Self {
        let nobody = TokenRecord {
            id: "aaaaaaaa".into(),
            workspace: workspace.clone(),
            agent: workspace.clone(),
            mac: [0; 32],
            expires: None,
        };
        Self { tokens, key, runs, nobody }
    }

    fn find(&self, password: &str) -> Result<&TokenRecord, Denied> {
        let id = token::parse(password).map_err(|_| Denied::Malformed)?;
        self.tokens.get(id).ok_or(Denied::Unknown)
    }
}

impl Authenticator {
    fn by_run_token(&self, user: &UserName, text: &str, now: i64) -> Result<Identity, Denied> {
        let claims = self.runs.open(text, now)?;
        if claims.agent != user.agent || user.context.contradicts(&claims.context) {
            return Err(Denied::Wrong);
        }
        Ok(Identity {
            workspace: claims.workspace.clone(),
            agent: claims.agent.clone(),
            token_id: Arc::clone(&claims.id),
            context: user.context.overlaid(&claims.context),
            run_token: Some(Arc::new(claims)),
            labels: Labels::default(),
        })
    }
}

impl From<NotGood> for Denied {
    fn from(why: NotGood) -> Self {
        match why {
            NotGood::Forged => Self::Wrong,
            NotGood::Revoked => Self::Unknown,
            NotGood::Expired => Self::Expired,
        }
    }
}

impl Authenticate for Authenticator {
    fn authenticate(&self, user: &UserName, password: &str, now: i64) -> Result<Identity, Denied> {
        if password.starts_with(run::PREFIX) {
            return self.by_run_token(user, password, now);
        }
        let found = self.find(password);
        let record = found.unwrap_or(&self.nobody);
        // The MAC is over the agent that the caller says it is: another agent's token does not
        // verify, and takes as long as a right one.
        let verifies = self.key.verifies(record, &user.agent, password);
        // Not to be put off until after the early return that does not use it.
        let verifies = std::hint::black_box(verifies);
        let record = found?;
        if !verifies || record.agent != user.agent {
            return Err(Denied::Wrong);
        }
        if is_expired(record, now) {
            return Err(Denied::Expired);
        }
        Ok(Identity {
            workspace: record.workspace.clone(),
            agent: record.agent.clone(),
            token_id: Arc::clone(&record.id),
            context: user.context.clone(),
            run_token: None,
            labels: Labels::default(),
        })
    }

    fn still_valid(&self, identity: &Identity, now: i64) -> bool {
        if let Some(claims) = &identity.run_token {
            return self.runs.stands(claims, now).is_ok();
        }
        self.tokens.get(&*identity.token_id).is_some_and(|record| {
            record.workspace == identity.workspace
                && record.agent == identity.agent
                && !is_expired(record, now)
        })
    }
}

fn is_expired(record: &TokenRecord, now: i64) -> bool {
    record.expires.is_some_and(|expires| now > expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::token::Token;

    const NOW: i64 = 1_000;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn no_runs() -> Arc<RunTokens> {
        Arc::new(RunTokens::none())
    }

    /// An authenticator that knows one token of agent `a`, and the token.
    fn knows(expires: Option<i64>) -> (Authenticator, Zeroizing<String>) {
        let token = Token::mint().unwrap();
        let (workspace, agent) = (name("default"), name("a"));
        let key = TokenKey::new(Zeroizing::new([3; 32]));
        let record = TokenRecord {
            mac: key.mac(&workspace, &agent, token.id(), expires, token.text()),
            id: token.id().into(),
            workspace: workspace.clone(),
            agent,
            expires,
        };
        let tokens = HashMap::from([(Arc::clone(&record.id), record)]);
        let authenticator =
            Authenticator::new(&workspace, Arc::new(tokens), Arc::new(key), no_runs());
        (authenticator, token.into_text())
    }

    fn ask(to: &Authenticator, user: &str, password: &str, now: i64) -> Result<Identity, Denied> {
        to.authenticate(&user.parse().unwrap(), password, now)
    }

    #[test]
    fn the_right_token_gives_the_agent_and_its_context() {
        let (authenticator, token) = knows(None);
        let identity = ask(&authenticator, "a+run=42+user=eve", &token, NOW).unwrap();
        assert_eq!(identity.agent, name("a"));
        assert_eq!(identity.context.run.as_ref().unwrap().as_str(), "42");
        assert!(authenticator.still_valid(&identity, NOW));
    }

    #[test]
    fn all_others_are_denied_and_told_the_same() {
        let (authenticator, token) = knows(Some(NOW));
        let (_, other) = knows(None);
        // The id of the known token with the secret of another.
        let mixed = format!("{}{}", &token[..12], &other[12..]);
        let crc = crc32fast::hash(&mixed.as_bytes()[..65]).to_be_bytes();
        let crc = data_encoding::BASE32_NOPAD.encode(&crc).to_lowercase();
        let mixed = format!("{}{crc}", &mixed[..65]);
        for (user, password, now, why) in [
            ("a", "", NOW, Denied::Malformed),
            ("a", "secret", NOW, Denied::Malformed),
            ("a", &token[..71], NOW, Denied::Malformed),
            ("a", &other, NOW, Denied::Unknown),
            ("a", &mixed, NOW, Denied::Wrong),
            ("b", &token, NOW, Denied::Wrong),
            ("a", &token, NOW + 1, Denied::Expired),
        ] {
            let denied = ask(&authenticator, user, password, now).unwrap_err();
            assert_eq!(denied, why, "{user} {password}");
            let refusal = Refusal::from(denied);
            assert_eq!(refusal.to_string(), Refusal::from(Denied::Absent).to_string());
        }
        assert!(ask(&authenticator, "a", &token, NOW).is_ok());
    }

    #[test]
    fn a_record_that_was_moved_or_prolonged_does_not_verify() {
        let (authenticator, token) = knows(Some(NOW));
        let edit = |edit: fn(&mut TokenRecord)| {
            let mut tokens = (*authenticator.tokens).clone();
            tokens.values_mut().for_each(edit);
            let key = Arc::clone(&authenticator.key);
            Authenticator::new(&name("default"), Arc::new(tokens), key, no_runs())
        };
        for (user, edited) in [
            ("b", edit(|r| r.agent = name("b"))),
            ("a", edit(|r| r.workspace = name("other"))),
            ("a", edit(|r| r.expires = None)),
            ("a", edit(|r| r.expires = Some(NOW + 9))),
        ] {
            assert_eq!(ask(&edited, user, &token, NOW).unwrap_err(), Denied::Wrong);
        }
    }

    #[test]
    fn an_identity_falls_with_its_token() {
        let (authenticator, token) = knows(Some(NOW));
        let identity = ask(&authenticator, "a", &token, NOW).unwrap();
        assert!(!authenticator.still_valid(&identity, NOW + 1));
        let (without, _) = knows(None);
        assert!(!without.still_valid(&identity, NOW));
        let renamed = Identity { agent: name("b"), ..identity };
        assert!(!authenticator.still_valid(&renamed, NOW));
    }

    /// Not a measurement, which would fail on a busy machine: the same number of MACs over the same
    /// number of bytes, whatever is wrong. `benches` and the black-box tests measure.
    #[test]
    fn unknown_ids_cost_a_mac_too() {
        let (authenticator, _) = knows(None);
        let known = authenticator.tokens.values().next().unwrap();
        let input = |record: &TokenRecord| {
            TokenRecord::mac_input(&record.workspace, &name("a"), &record.id, record.expires).len()
        };
        assert_eq!(input(known), input(&authenticator.nobody));
    }

    #[test]
    fn basic_credentials_are_read() {
        let header = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
        let read = |header: &str| {
            let (user, password) = parse_proxy_authorization(header.as_bytes())?;
            Some((user.agent.to_string(), password.to_string()))
        };
        let pair = Some(("a".to_owned(), "lct_x".to_owned()));
        assert_eq!(read(&header("a:lct_x")), pair);
        assert_eq!(read(&header("a:lct_x").replace("Basic ", "bAsIc  ")), pair);
        assert_eq!(read(&header("a+run=x:y:lct_x")), pair, "a colon in the context");
        for bad in [
            String::new(),
            "Basic".to_owned(),
            "Basic ".to_owned(),
            "Basic !!!!".to_owned(),
            "Bearer bGN0X3g=".to_owned(),
            header("a"),
            header("Not A Name:lct_x"),
            header("a+team=x:lct_x"),
            header("a:lct_x").replace('=', ""),
            header(&format!("a:{}", "x".repeat(3000))),
            format!("Basic {}", BASE64.encode(b"a:\xff")),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
