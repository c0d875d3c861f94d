//! Who calls: the agent, the run it is part of, and how the proxy credentials say so.

pub mod certificate;
pub mod mapping;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use certificate::ClientCertificate;

use crate::reference::{Name, NameError};
use crate::token::run::Claims;

/// The workspace of a home that was never told of another.
pub const DEFAULT_WORKSPACE: &str = "default";

/// The same as a name.
///
/// # Panics
/// Never: it is one.
#[must_use]
pub fn default_workspace() -> Name {
    static NAME: LazyLock<Name> =
        LazyLock::new(|| DEFAULT_WORKSPACE.parse().expect("`default` is a name"));
    NAME.clone()
}

/// What something of a workspace is called where those of all workspaces stand together: by its name
/// alone in the default one, so that a home with one workspace reads as if there were none, and as
/// `workspace/name` elsewhere. No name has a slash.
#[must_use]
pub fn qualified<'n>(workspace: &str, name: &'n str) -> Cow<'n, str> {
    if workspace == DEFAULT_WORKSPACE {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(format!("{workspace}/{name}"))
    }
}

/// An authenticated agent and what its starter said about this run of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The unit of isolation that the agent belongs to.
    pub workspace: Name,
    /// The agent.
    pub agent: Name,
    /// Names what it showed, for the records: the token's id, which is no part of its secret, or what
    /// takes its place in another proof.
    pub token_id: Arc<str>,
    /// What the starter said. Nobody vouches for it, but for what the proof fixes.
    pub context: Context,
    /// How it showed who it is.
    pub proof: Proof,
    /// What it is labelled with. The agent has no say in it.
    pub labels: Labels,
    /// The certificate that opened the door, by whatever it was known then.
    pub door: Option<Arc<ClientCertificate>>,
}

impl Identity {
    /// An agent by one of its own tokens, of which its starter said nothing.
    #[must_use]
    pub fn new(workspace: Name, agent: Name, token_id: impl Into<Arc<str>>) -> Self {
        Self {
            workspace,
            agent,
            token_id: token_id.into(),
            context: Context::default(),
            proof: Proof::Token,
            labels: Labels::default(),
            door: None,
        }
    }
}

/// By what an agent was authenticated. Asked again for each request of a live tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// One of its own tokens, which the identity's `token_id` names.
    Token,
    /// A run token, and what it says.
    Run(Arc<Claims>),
    /// A token that somebody else has issued.
    Jwt(Arc<JwtProof>),
    /// A certificate that was shown at the door.
    Certificate(Arc<ClientCertificate>),
    /// The process at the other end of a Unix socket belongs to this user.
    Peer(UnixUser),
}

/// What is left of a token that an issuer has signed: by this it is known whether it still stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtProof {
    /// Who has issued it.
    pub issuer: Box<str>,
    /// What it says of the caller, from which the agent follows.
    pub subject: Box<str>,
    /// The key that it was signed with.
    pub key: [u8; 32],
    /// From when it is good no more, in seconds since the Unix epoch.
    pub until: i64,
    /// On which terms it was taken: a hash of what the config says of its issuer.
    pub terms: u64,
    /// What it says of run and user.
    pub fixed: Context,
    /// What it says that the agent is labelled with.
    pub labels: Labels,
}

impl Proof {
    /// The word for it, as the audit record has it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Run(_) => "run-token",
            Self::Jwt(_) => "jwt",
            Self::Certificate(_) => "client-certificate",
            Self::Peer(_) => "unix-peer",
        }
    }

    /// What it says of run, node and user, which the agent itself cannot say otherwise.
    fn fixed(&self) -> Option<&Context> {
        match self {
            Self::Run(claims) => Some(&claims.context),
            Self::Jwt(proof) => Some(&proof.fixed),
            Self::Token | Self::Certificate(_) | Self::Peer(_) => None,
        }
    }
}

/// The user and the group that a process runs as, as the kernel has them: the effective ones, at the
/// moment at which it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnixUser {
    /// The user's number.
    pub uid: u32,
    /// The number of its group; none of its further groups.
    pub gid: u32,
}

impl Identity {
    /// The user for whom it runs, where somebody else than the agent says so: what it showed of itself
    /// has it.
    #[must_use]
    pub fn vouched_user(&self) -> Option<&Label> {
        self.proof.fixed()?.user.as_ref()
    }

    /// The same caller, of whom the request itself says more. What the proof fixes stays.
    #[must_use]
    pub fn saying(&self, said: &Context) -> Self {
        let mut context = self.context.overlaid(said);
        if let Some(fixed) = self.proof.fixed() {
            context = context.overlaid(fixed);
        }
        Self { context, ..self.clone() }
    }

    /// The environment whose values it gets; none for those of none. A run token says it, and nobody
    /// else.
    #[must_use]
    pub fn environment(&self) -> Option<&Name> {
        self.run_token()?.environment.as_ref()
    }

    /// What the run token says by which the agent came, if it came by one.
    #[must_use]
    pub fn run_token(&self) -> Option<&Claims> {
        match &self.proof {
            Proof::Run(claims) => Some(claims),
            _ => None,
        }
    }
}

/// What an agent is labelled with, by its operator in the vault or by the issuer of what it showed, and
/// never by itself: rules choose agents by it. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Arc<[(LabelName, Label)]>);

/// The most labels that one agent has: people choose by two or three, and each request may look at all.
pub const MAX_LABELS: usize = 32;

impl Labels {
    /// Labels in any order.
    ///
    /// # Errors
    /// [`LabelsError`] for more than [`MAX_LABELS`], and for a name that is there twice.
    pub fn new(labels: impl IntoIterator<Item = (LabelName, Label)>) -> Result<Self, LabelsError> {
        let mut labels: Vec<_> = labels.into_iter().take(MAX_LABELS + 1).collect();
        labels.sort_by(|(a, _), (b, _)| a.cmp(b));
        if labels.len() > MAX_LABELS {
            return Err(LabelsError::TooMany);
        }
        let twice = labels.windows(2).any(|pair| pair[0].0 == pair[1].0);
        if twice { Err(LabelsError::Twice) } else { Ok(Self(labels.into())) }
    }

    /// The value of one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Label> {
        let at = self.0.binary_search_by(|(own, _)| own.as_str().cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&LabelName, &Label)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `self`, with what `other` says put over it.
    ///
    /// # Errors
    /// [`LabelsError::TooMany`].
    pub fn overlaid(&self, other: &Self) -> Result<Self, LabelsError> {
        if self.is_empty() || other.is_empty() {
            return Ok(if self.is_empty() { other.clone() } else { self.clone() });
        }
        let own = self.0.iter().filter(|(name, _)| other.get(name.as_str()).is_none());
        Self::new(own.chain(other.0.iter()).cloned())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{name}={}", value.as_str())?;
        }
        Ok(())
    }
}

impl serde::Serialize for Labels {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.iter().map(|(name, value)| (name.as_str(), value)))
    }
}

impl<'de> serde::Deserialize<'de> for Labels {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // A name that is there twice has the last of its values, as in any JSON.
        let labels = std::collections::BTreeMap::<LabelName, Label>::deserialize(d)?;
        Self::new(labels).map_err(serde::de::Error::custom)
    }
}

/// The name of a label: 1 to 63 characters of `a-z 0-9 . _ / -`, of which the first and the last are
/// a letter or a digit. `app.kubernetes.io/name` is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelName(Box<str>);

impl LabelName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for LabelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LabelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LabelName {
    type Err = LabelsError;

    fn from_str(text: &str) -> Result<Self, LabelsError> {
        let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        let inside = bytes.iter().all(|b| end(Some(b)) || b"._/-".contains(b));
        let fits = bytes.len() <= 63 && end(bytes.first()) && end(bytes.last()) && inside;
        if fits { Ok(Self(text.into())) } else { Err(LabelsError::Name) }
    }
}

impl<'de> serde::Deserialize<'de> for LabelName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for LabelName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

/// Why texts are no labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelsError {
    /// No name of a label.
    Name,
    /// No value of one.
    Value,
    /// Not `name=value`.
    Pair,
    /// One name has two values.
    Twice,
    /// More than [`MAX_LABELS`].
    TooMany,
}

impl fmt::Display for LabelsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str(
                "a label's name is 1 to 63 characters of a-z 0-9 . _ / -, and begins and ends with a letter or digit",
            ),
            Self::Value => {
                f.write_str("a label's value is 1 to 128 characters of A-Z a-z 0-9 . _ : @ / = -")
            }
            Self::Pair => f.write_str("a label is written name=value"),
            Self::Twice => f.write_str("a label has one value, and this one is there twice"),
            Self::TooMany => write!(f, "an agent has at most {MAX_LABELS} labels"),
        }
    }
}

impl std::error::Error for LabelsError {}

/// One label as people type it: `team=ml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPair(pub LabelName, pub Label);

impl FromStr for LabelPair {
    type Err = LabelsError;

    fn from_str(text: &str) -> Result<Self, LabelsError> {
        let (name, value) = text.split_once('=').ok_or(LabelsError::Pair)?;
        Ok(Self(name.parse()?, value.parse().map_err(|_| LabelsError::Value)?))
    }
}

/// Run, node and user, as the starter of an agent gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// One execution of the agent.
    pub run: Option<Label>,
    /// A step inside the run.
    pub node: Option<Label>,
    /// The person on whose behalf it runs.
    pub user: Option<Label>,
}

impl Context {
    /// Whether it says something else than `fixed`, where that says anything.
    #[must_use]
    pub fn contradicts(&self, fixed: &Self) -> bool {
        let differs = |own: &Option<Label>, fixed: &Option<Label>| {
            own.is_some() && fixed.is_some() && own != fixed
        };
        differs(&self.run, &fixed.run)
            || differs(&self.node, &fixed.node)
            || differs(&self.user, &fixed.user)
    }

    /// `self`, with what `other` says put over it.
    #[must_use]
    pub fn overlaid(&self, other: &Self) -> Self {
        let pick = |over: &Option<Label>, own: &Option<Label>| over.clone().or_else(|| own.clone());
        Self {
            run: pick(&other.run, &self.run),
            node: pick(&other.node, &self.node),
            user: pick(&other.user, &self.user),
        }
    }
}

/// A value of the context: 1 to 128 bytes of `[A-Za-z0-9._:@/=-]`, so that it can stand in a log
/// line, a user name of a URL and a table without being escaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label(Arc<str>);

impl Label {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = UserNameError;

    fn from_str(text: &str) -> Result<Self, UserNameError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._:@/=-".contains(&b);
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(legal);
        if fits { Ok(Self(text.into())) } else { Err(UserNameError::Label) }
    }
}

impl<'de> serde::Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

/// The user name of the proxy credentials: `researcher+run=42+node=writer+user=alice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName {
    /// The agent that the client says it is.
    pub agent: Name,
    /// The context after the `+` signs.
    pub context: Context,
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.agent)?;
        let context = &self.context;
        let parts = [("run", &context.run), ("node", &context.node), ("user", &context.user)];
        let given = parts.iter().filter_map(|(key, value)| value.as_ref().map(|v| (key, v)));
        given.into_iter().try_for_each(|(key, value)| write!(f, "+{key}={}", value.as_str()))
    }
}

/// Why a user name cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserNameError {
    /// The agent's part is not a [`Name`].
    Agent,
    /// A part after `+` is not `run=`, `node=` or `user=`, or stands twice.
    Key,
    /// A value is not a [`Label`].
    Label,
}

impl From<NameError> for UserNameError {
    fn from(_: NameError) -> Self {
        Self::Agent
    }
}

impl fmt::Display for UserNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "the user name does not start with an agent's name",
            Self::Key => "after `+` comes one each of run=, node= and user=",
            Self::Label => {
                "run, node and user are 1 to 128 characters of A-Z a-z 0-9 . _ : @ / = -"
            }
        })
    }
}

impl std::error::Error for UserNameError {}

impl FromStr for UserName {
    type Err = UserNameError;

    fn from_str(text: &str) -> Result<Self, UserNameError> {
        let mut parts = text.split('+');
        let agent = parts.next().unwrap_or_default().parse()?;
        let mut context = Context::default();
        for part in parts {
            let (key, value) = part.split_once('=').ok_or(UserNameError::Key)?;
            let place = match key {
                "run" => &mut context.run,
                "node" => &mut context.node,
                "user" => &mut context.user,
                _ => return Err(UserNameError::Key),
            };
            if place.replace(value.parse()?).is_some() {
                return Err(UserNameError::Key);
            }
        }
        Ok(Self { agent, context })
    }
}

/// One token of an agent as the vault keeps it: never the token itself.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// Names the token in lists and records; stands in the token's text too.
    pub id: Arc<str>,
    /// Whose it is.
    pub workspace: Name,
    /// Whose it is.
    pub agent: Name,
    /// HMAC-SHA-256 over [`TokenRecord::mac_input`] and the token, under the vault's token key.
    pub mac: [u8; 32],
    /// Seconds since the Unix epoch after which it is no longer valid.
    pub expires: Option<i64>,
}

impl TokenRecord {
    /// What the MAC covers beside the token: a row that was moved to another agent, or whose expiry
    /// was edited, does not verify.
    #[must_use]
    pub fn mac_input(workspace: &Name, agent: &Name, id: &str, expires: Option<i64>) -> String {
        let expires = expires.map_or_else(|| "never".to_owned(), |at| at.to_string());
        format!("locum/token/1\n{workspace}\n{agent}\n{id}\n{expires}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_carry_context() {
        let user: UserName = "researcher+run=42+node=writer+user=alice@x.org".parse().unwrap();
        assert_eq!(user.agent.as_str(), "researcher");
        assert_eq!(user.context.run.unwrap().as_str(), "42");
        assert_eq!(user.context.user.unwrap().as_str(), "alice@x.org");
    }

    #[test]
    fn labels_are_found_by_name_and_each_name_has_one_value() {
        let pairs = |texts: &[&str]| {
            let pairs: Result<Vec<LabelPair>, _> = texts.iter().map(|text| text.parse()).collect();
            Labels::new(pairs?.into_iter().map(|LabelPair(name, value)| (name, value)))
        };
        let labels = pairs(&["team=ml", "env=prod", "app.kubernetes.io/name=a=b"]).unwrap();
        assert_eq!(labels.get("team").unwrap().as_str(), "ml");
        assert_eq!(labels.get("app.kubernetes.io/name").unwrap().as_str(), "a=b");
        assert_eq!(labels.get("other"), None);
        assert_eq!(labels.to_string(), "app.kubernetes.io/name=a=b,env=prod,team=ml");
        assert!(Labels::default().is_empty() && pairs(&[]).unwrap().is_empty());
        for (bad, why) in [
            (&["team"][..], LabelsError::Pair),
            (&["Team=x"], LabelsError::Name),
            (&["-team=x"], LabelsError::Name),
            (&["=x"], LabelsError::Name),
            (&["team="], LabelsError::Value),
            (&["team=a b"], LabelsError::Value),
            (&["team=a", "team=b"], LabelsError::Twice),
        ] {
            assert_eq!(pairs(bad), Err(why), "{bad:?}");
        }
        let many: Vec<String> = (0..=MAX_LABELS).map(|n| format!("l{n}=x")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(pairs(&many), Err(LabelsError::TooMany));
        assert!(pairs(&many[1..]).is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (text, why) in [
            ("", UserNameError::Agent),
            ("Researcher", UserNameError::Agent),
            ("a+run", UserNameError::Key),
            ("a+team=x", UserNameError::Key),
            ("a+run=1+run=2", UserNameError::Key),
            ("a+run=", UserNameError::Label),
            ("a+run=x y", UserNameError::Label),
            ("a+run=x\r\ny", UserNameError::Label),
        ] {
            assert_eq!(text.parse::<UserName>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn headers_go_over_the_user_name() {
        let own = "a+run=1+node=x".parse::<UserName>().unwrap().context;
        let over = Context { run: Some("2".parse().unwrap()), ..Context::default() };
        let both = own.overlaid(&over);
        assert_eq!((both.run.unwrap().as_str(), both.node.unwrap().as_str()), ("2", "x"));
    }
}
