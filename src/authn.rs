//! Who is calling: what a connection and its first request show, put to authenticators in the order
//! that the config gives.
//!
//! Absent, unknown, revoked and expired credentials get one answer, after the same work. What was
//! wrong is for the audit record alone.

mod certificates;
mod jwt;
mod peers;
mod run_tokens;
mod tokens;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use data_encoding::BASE64;
use zeroize::Zeroizing;

pub use certificates::{ByCertificate, NameIn};
pub use jwt::{ByJwt, Claims, Issuer, IssuerKeys};
pub use peers::{PeerRule, Peers};
pub use run_tokens::ByRunToken;
pub use tokens::ByToken;

use crate::agent::certificate::ClientCertificate;
use crate::agent::{Context, Identity, Labels, Proof, TokenRecord, UserName};
use crate::outcome::{Code, Refusal};
use crate::record::Peer;
use crate::reference::Name;
use crate::token::jwt::Fault;
use crate::token::run::{NotGood, RunTokens};
use crate::token::{self, TokenKey};

/// What a caller shows of itself.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Its proxy credentials, if it sent any.
    pub credentials: Option<&'a Credentials>,
    /// The other end of its connection.
    pub peer: Peer,
    /// The certificate that it showed at the door, which has verified.
    pub certificate: Option<&'a Arc<ClientCertificate>>,
}

impl<'a> Shown<'a> {
    /// The user name and the password, where there are both.
    fn pair(&self) -> Option<(&'a UserName, &'a str)> {
        match self.credentials {
            Some(Credentials::Basic { user, password }) if !password.is_empty() => {
                Some((user, password))
            }
            _ => None,
        }
    }

    /// What a caller says of its run, whose agent is known by other means than a password. It may say
    /// nothing, and it may not say that it is another.
    fn said_by(&self, agent: &Name) -> Result<Context, Denied> {
        match self.credentials {
            None | Some(Credentials::Bearer(_)) => Ok(Context::default()),
            Some(Credentials::Basic { user, .. }) if user.agent == *agent => {
                Ok(user.context.clone())
            }
            Some(Credentials::Basic { .. }) => Err(Denied::Wrong),
        }
    }
}

/// Proxy credentials.
pub enum Credentials {
    /// A user name and a password.
    Basic {
        /// Who the caller says it is.
        user: UserName,
        /// What is to prove it.
        password: Zeroizing<String>,
    },
    /// A token alone, which says itself who the caller is.
    Bearer(Zeroizing<String>),
}

impl Credentials {
    /// Who the caller says it is, if it does.
    #[must_use]
    pub fn user(&self) -> Option<&UserName> {
        match self {
            Self::Basic { user, .. } => Some(user),
            Self::Bearer(_) => None,
        }
    }
}

/// One way to know a caller. Which there are, and in which order they are asked, is chosen at start.
pub trait Authenticate: Send + Sync {
    /// The identity behind what is shown, at the time `now` in seconds since the Unix epoch; none when
    /// nothing is shown that is for this authenticator to judge.
    ///
    /// # Errors
    /// [`Denied`]; nobody else is asked then, and the client is told no more than that.
    fn authenticate(&self, shown: &Shown<'_>, now: i64) -> Option<Result<Identity, Denied>>;

    /// Whether an identity that was authenticated earlier still stands: asked for each request of a
    /// live tunnel, after which a revoked token must not be used. None when the identity is not of this
    /// authenticator's making.
    fn still_valid(&self, identity: &Identity, now: i64) -> Option<bool>;

    /// What an identity of this authenticator's making is labelled with now: the vault may have been
    /// changed since. None for identities of others.
    fn labels(&self, _: &Identity) -> Option<Cow<'_, Labels>> {
        None
    }
}

/// The authenticators, in their order. The first to which something of its own kind is shown decides:
/// what it denies, no other lets in.
#[derive(Clone, Default)]
pub struct Authenticators(Arc<[Arc<dyn Authenticate>]>);

impl Authenticators {
    /// In this order. Without any, nobody gets in.
    #[must_use]
    pub fn new(order: Vec<Arc<dyn Authenticate>>) -> Self {
        Self(order.into())
    }

    /// Those that every vault has: tokens and run tokens.
    #[must_use]
    pub fn of_tokens(directory: &Directory) -> Self {
        Self::new(vec![
            Arc::new(ByToken::new(directory.clone())),
            Arc::new(ByRunToken::new(directory.clone())),
        ])
    }

    /// Who the caller is.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn authenticate(&self, shown: &Shown<'_>, now: i64) -> Result<Identity, Denied> {
        let decided = self.0.iter().find_map(|one| one.authenticate(shown, now));
        let nobody = if shown.credentials.is_some() { Denied::Malformed } else { Denied::Absent };
        let identity = decided.unwrap_or(Err(nobody))?;
        // The connection may be older than what its door believes now.
        if shown.certificate.is_some_and(|certificate| !certificate.stands()) {
            return Err(Denied::Unknown);
        }
        Ok(Identity { door: shown.certificate.cloned(), ..identity })
    }

    /// Whether an identity still stands. It does not when its way in is no longer configured, nor when
    /// the door that it came by would not open to its certificate any more.
    #[must_use]
    pub fn still_valid(&self, identity: &Identity, now: i64) -> bool {
        if identity.door.as_ref().is_some_and(|certificate| !certificate.stands()) {
            return false;
        }
        self.0.iter().find_map(|one| one.still_valid(identity, now)).unwrap_or(false)
    }
}

impl Authenticators {
    /// The identity of a live tunnel, with the labels of now: they may have been changed since.
    #[must_use]
    pub fn relabelled(&self, identity: &Arc<Identity>) -> Arc<Identity> {
        match self.0.iter().find_map(|one| one.labels(identity)) {
            Some(labels) if *labels != identity.labels => {
                Arc::new(Identity { labels: labels.into_owned(), ..(**identity).clone() })
            }
            _ => Arc::clone(identity),
        }
    }
}

/// The agents of the workspaces that a caller may turn out to belong to: all of a home, where it is not
/// known yet who calls, and one, where an identity of that one is looked at again.
#[derive(Clone, Debug)]
pub struct Directory(Arc<[Arc<Agents>]>);

impl Directory {
    /// Those of these workspaces, the default one first.
    #[must_use]
    pub fn new(all: Vec<Arc<Agents>>) -> Self {
        Self(all.into())
    }

    /// The agents of a workspace, if it is one of these.
    fn of(&self, workspace: &Name) -> Option<&Agents> {
        self.iter().find(|agents| agents.workspace == *workspace)
    }

    fn iter(&self) -> impl Iterator<Item = &Agents> {
        self.0.iter().map(|agents| &**agents)
    }

    /// The only workspace, where there is one.
    fn only(&self) -> Option<&Agents> {
        match &*self.0 {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The first: for work that has to be done although nobody is found.
    fn first(&self) -> Option<&Agents> {
        self.iter().next()
    }
}

impl From<Arc<Agents>> for Directory {
    fn from(agents: Arc<Agents>) -> Self {
        Self::new(vec![agents])
    }
}

/// The agents of a workspace as the vault has them, and what their tokens are checked with.
#[derive(Debug)]
pub struct Agents {
    workspace: Name,
    tokens: Arc<HashMap<Arc<str>, TokenRecord>>,
    key: Arc<TokenKey>,
    runs: Arc<RunTokens>,
    /// Those that are not to be let in by any means.
    revoked: Arc<HashSet<Name>>,
    labels: Arc<HashMap<Name, Labels>>,
    /// Of those that have none.
    no_labels: Labels,
}

impl Agents {
    /// Those with these tokens, by id, of one workspace; which of them live, its run tokens know.
    #[must_use]
    pub fn new(
        workspace: &Name,
        tokens: Arc<HashMap<Arc<str>, TokenRecord>>,
        key: Arc<TokenKey>,
        runs: Arc<RunTokens>,
        revoked: Arc<HashSet<Name>>,
    ) -> Self {
        let (labels, no_labels) = (Arc::default(), Labels::default());
        Self { workspace: workspace.clone(), tokens, key, runs, revoked, labels, no_labels }
    }

    /// The same, and what they are labelled with, as far as they are.
    #[must_use]
    pub fn labelled(self, labels: Arc<HashMap<Name, Labels>>) -> Self {
        Self { labels, ..self }
    }

    /// What an agent is labelled with.
    fn labels(&self, agent: &Name) -> &Labels {
        self.labels.get(agent).unwrap_or(&self.no_labels)
    }

    /// Whether an agent may be let in whom somebody else vouches for.
    fn admit(&self, agent: &Name, which: Admit) -> bool {
        match which {
            Admit::Known => self.runs.knows(agent),
            Admit::Any => !self.revoked.contains(agent),
        }
    }

    /// Whether what an agent came by was revoked by its id, whoever vouches for it.
    fn has_ended(&self, agent: &Name, id: &str) -> bool {
        self.runs.has_ended(agent, id)
    }

    fn identity(
        &self,
        agent: Name,
        token_id: Arc<str>,
        context: Context,
        proof: Proof,
    ) -> Identity {
        let labels = self.labels(&agent).clone();
        let workspace = self.workspace.clone();
        Identity { workspace, agent, token_id, context, proof, labels, door: None }
    }
}

/// Which agents somebody else than the vault may vouch for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Those that live in the vault.
    Known,
    /// All but those that were revoked there.
    Any,
}

/// Why a caller is not let in: for the operator. The client learns only that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nothing that could be judged.
    Absent,
    /// The credentials cannot be read, or the password is not a token at all, or a mistyped one.
    Malformed,
    /// No live token has this id: it never had, or is revoked. Or no live agent has the name.
    Unknown,
    /// The token's id is known, and the rest is wrong, or it is another agent's.
    Wrong,
    /// It was good once.
    Expired,
    /// A token of an issuer, and what is wrong with it.
    Jwt(Fault),
}

impl Denied {
    /// The reason as the audit record has it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Absent => "no proxy credentials",
            Self::Malformed => "the proxy credentials are not of a known kind",
            Self::Unknown => "unknown or revoked token or agent",
            Self::Wrong => "wrong token, or another agent's",
            Self::Expired => "expired token",
            Self::Jwt(fault) => fault.reason(),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::new(Code::ProxyAuthRequired).because(denied.reason())
    }
}

impl From<Fault> for Denied {
    fn from(fault: Fault) -> Self {
        Self::Jwt(fault)
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

/// The longest `Proxy-Authorization` that is read: the longest token of an issuer, with user name and
/// context before it, in base64.
const MAX_HEADER: usize = (token::jwt::MAX_LENGTH + 1024) / 3 * 4;

/// Reads `Basic` (RFC 7617) and `Bearer` (RFC 6750) proxy credentials. `None` for anything else: the
/// caller cannot tell us who it is, and why does not matter.
#[must_use]
pub fn parse_proxy_authorization(header: &[u8]) -> Option<Credentials> {
    if header.len() > MAX_HEADER {
        return None;
    }
    let (scheme, rest) = header.split_at_checked("Basic ".len())?;
    if scheme.eq_ignore_ascii_case(b"Basic ") {
        return parse_basic(rest);
    }
    let (scheme, rest) = header.split_at_checked("Bearer ".len())?;
    let bearer = scheme.eq_ignore_ascii_case(b"Bearer ").then(|| rest.trim_ascii())?;
    let token = std::str::from_utf8(bearer).ok().filter(|token| !token.is_empty())?;
    Some(Credentials::Bearer(Zeroizing::new(token.to_owned())))
}

fn parse_basic(rest: &[u8]) -> Option<Credentials> {
    let pair = decode_base64(rest.trim_ascii())?;
    let pair = std::str::from_utf8(&pair).ok()?;
    // RFC 7617 splits at the first colon, as a user name cannot have one. Ours can, in its context
    // (`run=a:b`), and a token cannot: the last colon is the same one, or the right one.
    let (user, password) = pair.rsplit_once(':')?;
    let password = Zeroizing::new(password.to_owned());
    Some(Credentials::Basic { user: user.parse().ok()?, password })
}

fn decode_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; BASE64.decode_len(text.len()).ok()?]);
    let length = BASE64.decode_mut(text, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// What the tests of the authenticators begin with.
#[cfg(test)]
mod fixture {
    use super::*;
    use crate::token::Token;
    use crate::token::run::RunKey;

    pub(super) const NOW: i64 = 1_000;

    pub(super) fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    pub(super) fn token_key() -> Arc<TokenKey> {
        Arc::new(TokenKey::new(Zeroizing::new([3; 32])))
    }

    /// Agents `a` and `b`, of whom `a` has a token; the revoked agent `gone`.
    pub(super) fn agents(expires: Option<i64>) -> (Arc<Agents>, Zeroizing<String>) {
        agents_of("default", (token_key(), 4), expires)
    }

    /// The same in another workspace, with keys of its own.
    pub(super) fn agents_of(
        workspace: &str,
        (key, run_key): (Arc<TokenKey>, u8),
        expires: Option<i64>,
    ) -> (Arc<Agents>, Zeroizing<String>) {
        let token = Token::mint().unwrap();
        let (workspace, agent) = (name(workspace), name("a"));
        let record = TokenRecord {
            mac: key.mac(&workspace, &agent, token.id(), expires, token.text()),
            id: token.id().into(),
            workspace: workspace.clone(),
            agent,
            expires,
        };
        let tokens = Arc::new(HashMap::from([(Arc::clone(&record.id), record)]));
        let run_key = Arc::new(RunKey::new(Zeroizing::new([run_key; 32])));
        let runs = Arc::new(RunTokens::new(run_key, [name("a"), name("b")], Vec::new()));
        let revoked = Arc::new(HashSet::from([name("gone")]));
        let agents = Agents::new(&workspace, tokens, key, runs, revoked);
        (Arc::new(agents), token.into_text())
    }

    pub(super) fn pair(user: &str, password: &str) -> Credentials {
        let password = Zeroizing::new(password.to_owned());
        Credentials::Basic { user: user.parse().unwrap(), password }
    }

    pub(super) fn shown(credentials: Option<&Credentials>) -> Shown<'_> {
        Shown { credentials, peer: Peer::Unix(None), certificate: None }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::*;
    use super::*;

    /// Lets everybody in whose user name it knows, or nobody.
    struct Clerk(&'static str, bool);

    impl Authenticate for Clerk {
        fn authenticate(&self, shown: &Shown<'_>, _: i64) -> Option<Result<Identity, Denied>> {
            let user = shown.credentials?.user()?;
            let (agents, _) = agents(None);
            let id = Arc::from(self.0);
            let identity =
                agents.identity(user.agent.clone(), id, Context::default(), Proof::Token);
            let mine = user.agent.as_str() == self.0;
            mine.then_some(if self.1 { Ok(identity) } else { Err(Denied::Expired) })
        }

        fn still_valid(&self, identity: &Identity, _: i64) -> Option<bool> {
            (*identity.token_id == *self.0).then_some(self.1)
        }
    }

    #[test]
    fn the_first_that_something_is_shown_to_decides() {
        let clerks = |order: &[(&'static str, bool)]| {
            let clerk = |(who, lets_in): &(&'static str, bool)| {
                Arc::new(Clerk(who, *lets_in)) as Arc<dyn Authenticate>
            };
            Authenticators::new(order.iter().map(clerk).collect())
        };
        let a = pair("a", "x");
        let ask = |order| clerks(order).authenticate(&shown(Some(&a)), NOW);
        assert!(ask(&[("b", false), ("a", true), ("a", false)]).is_ok());
        assert_eq!(ask(&[("b", true), ("a", false), ("a", true)]), Err(Denied::Expired));
        assert_eq!(ask(&[("b", true)]), Err(Denied::Malformed));
        assert_eq!(ask(&[]), Err(Denied::Malformed));
        assert_eq!(clerks(&[("a", true)]).authenticate(&shown(None), NOW), Err(Denied::Absent));
        let identity = ask(&[("a", true)]).unwrap();
        assert!(clerks(&[("b", false), ("a", true)]).still_valid(&identity, NOW));
        assert!(!clerks(&[("a", false), ("a", true)]).still_valid(&identity, NOW));
        assert!(!clerks(&[("b", true)]).still_valid(&identity, NOW), "its way in is gone");
    }

    #[test]
    fn whatever_is_wrong_the_client_is_told_the_same() {
        let told = |denied: Denied| Refusal::from(denied).to_string();
        for denied in [Denied::Malformed, Denied::Unknown, Denied::Wrong, Denied::Expired] {
            assert_eq!(told(denied), told(Denied::Absent));
        }
    }

    #[test]
    fn basic_credentials_are_read() {
        let header = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
        let read = |header: &str| match parse_proxy_authorization(header.as_bytes())? {
            Credentials::Basic { user, password } => {
                Some((user.agent.to_string(), password.to_string()))
            }
            Credentials::Bearer(token) => Some(("bearer".to_owned(), token.to_string())),
        };
        let pair = Some(("a".to_owned(), "lct_x".to_owned()));
        assert_eq!(read(&header("a:lct_x")), pair);
        assert_eq!(read(&header("a:lct_x").replace("Basic ", "bAsIc  ")), pair);
        assert_eq!(read(&header("a+run=x:y:lct_x")), pair, "a colon in the context");
        let bearer = Some(("bearer".to_owned(), "a.b.c".to_owned()));
        assert_eq!(read("bEARER  a.b.c "), bearer);
        assert_eq!(read(&header("a:")), Some(("a".to_owned(), String::new())));
        for bad in [
            String::new(),
            "Basic".to_owned(),
            "Basic ".to_owned(),
            "Basic !!!!".to_owned(),
            "Bearer".to_owned(),
            "Bearer  ".to_owned(),
            "Digest a.b.c".to_owned(),
            header("a"),
            header("Not A Name:lct_x"),
            header("a+team=x:lct_x"),
            header("a:lct_x").replace('=', ""),
            header(&format!("a:{}", "x".repeat(10_000))),
            format!("Bearer {}", "x".repeat(13_000)),
            format!("Basic {}", BASE64.encode(b"a:\xff")),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    /// Two workspaces with an agent of the same name in each, and the token of each.
    fn two() -> (Directory, [Zeroizing<String>; 2]) {
        let other = Arc::new(TokenKey::new(Zeroizing::new([5; 32])));
        let (here, own) = agents(None);
        let (there, theirs) = agents_of("other", (other, 6), None);
        (Directory::new(vec![here, there]), [own, theirs])
    }

    fn run_token(workspace: &str, key: u8) -> Zeroizing<String> {
        let claims = crate::token::run::Claims {
            id: "aaaabbbb".into(),
            workspace: name(workspace),
            agent: name("a"),
            context: Context::default(),
            uses: None,
            environment: None,
            epoch: None,
            issued: 0,
            expires: NOW + 10,
        };
        crate::token::run::RunKey::new(Zeroizing::new([key; 32])).sign(&claims).unwrap()
    }

    #[test]
    fn what_is_shown_says_the_workspace_and_no_other_takes_it() {
        let (all, tokens) = two();
        let [here, there] = [0, 1].map(|at| Directory::new(vec![Arc::clone(&all.0[at])]));
        let ask = |directory: &Directory, text: &str| {
            let credentials = pair("a", text);
            Authenticators::of_tokens(directory).authenticate(&shown(Some(&credentials)), NOW)
        };
        let runs = [run_token("default", 4), run_token("other", 6)];
        for texts in [&tokens, &runs] {
            for (text, own) in texts.iter().zip(["default", "other"]) {
                let identity = ask(&all, text).unwrap();
                assert_eq!(identity.workspace, name(own));
                let [mine, theirs] =
                    if own == "default" { [&here, &there] } else { [&there, &here] };
                let stands =
                    |d: &Directory| Authenticators::of_tokens(d).still_valid(&identity, NOW);
                assert!(stands(&all) && stands(mine) && !stands(theirs));
                assert!(ask(mine, text).is_ok() && ask(theirs, text).is_err());
            }
        }
    }

    #[test]
    fn a_run_token_that_says_another_workspace_is_forged() {
        let (all, _) = two();
        let ask = |text: &str| {
            let credentials = pair("a", text);
            Authenticators::of_tokens(&all).authenticate(&shown(Some(&credentials)), NOW)
        };
        // Signed with the key of one, and saying the other; and one that is nowhere.
        for (says, key) in [("other", 4), ("default", 6), ("nowhere", 4), ("nowhere", 6)] {
            assert_eq!(ask(&run_token(says, key)), Err(Denied::Wrong), "{says} {key}");
        }
        // The claims of one before the MAC of the other.
        let (own, theirs) = (run_token("default", 4), run_token("other", 6));
        let mixed = |claims: &str, mac: &str| {
            format!("{}.{}", claims.split_once('.').unwrap().0, mac.split_once('.').unwrap().1)
        };
        assert_eq!(ask(&mixed(&own, &theirs)), Err(Denied::Wrong));
        assert_eq!(ask(&mixed(&theirs, &own)), Err(Denied::Wrong));
        assert_eq!(ask("lcr_bm9uc2Vuc2U.AAAA"), Err(Denied::Wrong));
    }
}
