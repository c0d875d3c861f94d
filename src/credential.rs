//! Credentials without their secrets: where each may go, how it enters a request, and the index by
//! which a request finds them.

mod care;
mod chain;
mod endpoint;
mod kind;
mod path;
mod pointer;
mod properties;
mod signing;
mod source;
mod value;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::iter::once;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderName;

pub use care::{Schedule, Sensitivity, SensitivityError, Stage, days_between};
pub use chain::{Chain, Group, MAX_WEIGHT, Tier, TierError, by_weight, stand_in_for};
pub use endpoint::{Endpoint, EndpointError};
pub use kind::{
    Aws, ClientAuth, GithubApp, Grant as OauthGrant, Kind, Login, Oauth, Role, Totp, TotpHash,
};
pub use path::{PathTemplate, segments};
pub use pointer::Pointer;
pub use properties::Properties;
pub use signing::{
    DateForm, Encoding, HmacHash, KeyForm, Pattern, Piece, Signing, SigningError, Timestamp,
    UnknownWord, Word,
};
pub use source::{
    AwsVersion, Beside, CloudLogin, ELSEWHERE, Place, Source, SourceError, VaultLogin, aws_endpoint,
};
pub use value::{ByEnvironment, Enters, Held, Value, Values, Within};

use crate::agent::default_workspace;
use crate::host::{Destination, Host, Origin};
use crate::reference::{self, Name};

/// Where the secret stands in a slot's template.
pub const SECRET: &str = "{secret}";

/// The fewest bytes of a stand-in. Shorter strings turn up by chance.
pub const MIN_STAND_IN: usize = 16;

/// A named thing in the vault, as all but the vault see it.
#[derive(Debug)]
pub struct Credential {
    /// The workspace that it is in: its name means another one elsewhere.
    pub workspace: Name,
    /// The name; `locum_<name>` is its reference.
    pub name: Name,
    /// The catalogue's id, when it came from there.
    pub provider: Option<Arc<str>>,
    /// Whose it is.
    pub tier: Tier,
    /// Where it may go. Never empty, and never in the clear.
    pub destinations: Box<[Destination]>,
    /// How it enters a request, in order of preference. Never empty.
    pub slots: Box<[Slot]>,
    /// A reference dressed in the provider's key format.
    pub stand_in: Option<Arc<str>>,
    /// The version that a request gets now, and `None` when the credential is revoked or a honeytoken:
    /// the name stays known, so that its destinations stay intercepted and its use stays refused.
    pub version: Option<u32>,
    /// Versions before it that may still be used by what began with them. Empty but after a rotation.
    pub older: Box<[Older]>,
    /// Versions whose use was ended.
    pub revoked: Box<[u32]>,
    /// The highest number of a version that was ever the current one: higher ones are not known here.
    pub newest: u32,
    /// What else there is to say of it.
    pub properties: Properties,
    /// Whether it stands for itself alone.
    pub part: Part,
}

/// What a credential of the index stands for.
#[derive(Debug, Default)]
pub enum Part {
    /// Itself, under its own name.
    #[default]
    Plain,
    /// Itself, under another's name too: what that may look like.
    Server(Box<[Arc<str>]>),
    /// No credential of the vault, but what is common to all that serve a reference.
    Face(Chain),
    /// Itself, as what a value stands for.
    Held {
        /// The value.
        value: Name,
        /// What it may look like.
        texts: Box<[Arc<str>]>,
    },
    /// No credential, but a text that a value stands for, and no secret.
    Text(Box<str>),
    /// No credential, but what is common to all that a value stands for.
    Value(ByEnvironment),
}

/// A version that another one took the place of, in its time of grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Older {
    /// Which.
    pub version: u32,
    /// The last second, since the Unix epoch, in which it may be used.
    pub until: i64,
}

impl Credential {
    /// Whether a version may be used at a second of Unix time: the current one, or one in its grace.
    #[must_use]
    pub fn stands(&self, version: u32, at: i64) -> bool {
        let graced = |older: &Older| older.version == version && older.until >= at;
        self.version.is_some_and(|current| current == version || self.older.iter().any(graced))
    }

    /// Whether the credential may go to `origin` at all.
    #[must_use]
    pub fn is_bound_to(&self, origin: &Origin) -> bool {
        self.destinations.iter().any(|d| d.matches(origin))
    }

    /// Whether it is found at `host` by that end of its name: not where it is bound to just that host as well, and
    /// of several patterns by the first, so that it is found once.
    fn is_found_by(&self, end: &str, host: &Host) -> bool {
        let mut there = self.destinations.iter().map(|d| &d.host).filter(|d| d.matches(host));
        let first = there.clone().next().is_some_and(|first| first.has_suffix(end));
        first && !there.any(|pattern| pattern.exact().is_some())
    }

    /// What stands for all `members` that serve a reference, where they are looked for and before one of
    /// them is chosen.
    fn face(reference: &Name, members: &[Arc<Self>]) -> Self {
        let mut slots: Vec<Slot> = Vec::new();
        for slot in members.iter().flat_map(|member| &member.slots) {
            if !slots.contains(slot) {
                slots.push(slot.clone());
            }
        }
        let own = members.iter().find(|member| member.name == *reference);
        let stand_in = own.and_then(|own| own.stand_in.clone());
        let derived = || members.iter().find_map(|member| member.stand_in_for(reference));
        let workspace = members.first().map(|first| first.workspace.clone());
        Self {
            workspace: workspace.unwrap_or_else(default_workspace),
            name: reference.clone(),
            provider: members.first().and_then(|first| first.provider.clone()),
            tier: Tier::default(),
            destinations: members.iter().flat_map(|m| m.destinations.iter().cloned()).collect(),
            slots: slots.into(),
            stand_in: stand_in.or_else(|| derived().map(Into::into)),
            version: members.iter().find_map(|member| member.version),
            older: Box::default(),
            revoked: Box::default(),
            newest: 1,
            properties: Properties::default(),
            part: Part::Face(Chain::of(members)),
        }
    }

    /// Whether `text` is a reference to what it serves, or a stand-in, with nothing around it.
    #[must_use]
    pub fn is_named_by(&self, text: &[u8]) -> bool {
        let named = reference::whole(text);
        named == Some(self.name.as_str())
            || self.texts().iter().any(|own| own.as_bytes() == text)
            || self.stand_in.as_deref().is_some_and(|own| own.as_bytes() == text)
    }

    /// What else it may look like, by whose reference it is used.
    fn texts(&self) -> &[Arc<str>] {
        match &self.part {
            Part::Server(texts) | Part::Held { texts, .. } => texts,
            Part::Plain | Part::Face(_) | Part::Text(_) | Part::Value(_) => &[],
        }
    }

    /// The names by which rules and run tokens may grant it: its own, and those of what it is used by.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.name).chain(&self.properties.serves).chain(self.held_by())
    }

    /// The value that stands for it here, in the place of its own reference.
    #[must_use]
    pub fn held_by(&self) -> Option<&Name> {
        match &self.part {
            Part::Held { value, .. } => Some(value),
            Part::Text(_) => Some(&self.name),
            _ => None,
        }
    }

    /// The text that it is, where it is no secret.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.part {
            Part::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether what a request gets does not lie in the vault, so that it may have to be waited for.
    #[must_use]
    pub fn is_supplied(&self) -> bool {
        let properties = &self.properties;
        properties.source.is_some() || properties.kind.as_ref().is_some_and(Kind::is_minted)
    }

    /// Whether one of several has to be chosen: it is none itself.
    #[must_use]
    pub fn is_face(&self) -> bool {
        matches!(self.part, Part::Face(_) | Part::Value(_))
    }

    /// Whether it is what a value stands for, in all environments.
    #[must_use]
    pub fn is_value(&self) -> bool {
        matches!(self.part, Part::Value(_))
    }

    /// Who serves it in an environment, where it is a face.
    #[must_use]
    pub fn chain_in(&self, environment: Option<&Name>) -> Option<&Chain> {
        match &self.part {
            Part::Face(chain) => Some(chain),
            Part::Value(value) => value.within(environment),
            Part::Plain | Part::Server(_) | Part::Held { .. } | Part::Text(_) => None,
        }
    }

    /// What an agent holds: the stand-in where there is one, else the reference.
    #[must_use]
    pub fn placeholder(&self) -> String {
        self.stand_in.as_deref().map_or_else(|| self.name.reference(), str::to_owned)
    }
}

/// A text around one `{secret}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    prefix: Box<str>,
    suffix: Box<str>,
}

impl Template {
    /// What stands before the secret.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What stands after the secret.
    #[must_use]
    pub fn suffix(&self) -> &str {
        &self.suffix
    }

    /// What `text` has in the secret's place, if it has the template's shape. The scheme word of an
    /// auth header is case-insensitive (RFC 9110 section 11.1), so the prefix is compared so.
    #[must_use]
    pub fn unwrap<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let (prefix, rest) = text.split_at_checked(self.prefix.len())?;
        let inner = rest.strip_suffix(self.suffix.as_bytes())?;
        prefix.eq_ignore_ascii_case(self.prefix.as_bytes()).then(|| trim_spaces(inner))
    }
}

/// `Bearer  x` with two spaces is still a bearer token.
fn trim_spaces(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

impl FromStr for Template {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        let (prefix, suffix) = text.split_once(SECRET).ok_or(SlotError::NoSecret)?;
        if suffix.contains(SECRET) {
            return Err(SlotError::NoSecret);
        }
        let printable = |s: &str| s.bytes().all(|b| (0x20..0x7f).contains(&b));
        if !printable(prefix) || !printable(suffix) {
            return Err(SlotError::Character);
        }
        Ok(Self { prefix: prefix.into(), suffix: suffix.into() })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SECRET}{}", self.prefix, self.suffix)
    }
}

/// Which part of a Basic pair (RFC 7617) holds the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicPart {
    /// The user name, as with API keys that come with an empty password.
    User,
    /// The password.
    Password,
}

/// A place in a request that a secret may enter. Each new kind must pass policy, injection,
/// scrubbing and audit, so this is an enum and not a trait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A header field, with the text around the secret.
    Header {
        /// The field.
        name: HeaderName,
        /// Its value.
        template: Template,
    },
    /// `Authorization: Basic`, decoded and encoded again.
    Basic {
        /// Where the secret stands.
        part: BasicPart,
        /// The other part, for injection without a reference. A client's own is kept.
        other: Box<str>,
    },
    /// A parameter of the query.
    Query {
        /// The parameter's name, decoded.
        name: Box<str>,
    },
    /// A segment of the path, or a part of one.
    Path {
        /// Which; without one, wherever the reference stands.
        template: Option<PathTemplate>,
    },
    /// One entry of `Sec-WebSocket-Protocol` (RFC 6455 section 11.3.4), with the text around the
    /// secret.
    Subprotocol {
        /// The entry.
        template: Template,
    },
    /// A string of a JSON body.
    Json {
        /// Which.
        pointer: Pointer,
    },
    /// A field of a form in the body.
    Form {
        /// Its name, decoded.
        field: Box<str>,
    },
    /// A part of a `multipart/form-data` body.
    Multipart {
        /// Its name.
        field: Box<str>,
    },
    /// A string of a JSON message that the client sends in a WebSocket.
    WebSocket {
        /// Which.
        pointer: Pointer,
    },
    /// The signature of AWS in `Authorization`, or in the query. The secret itself enters nowhere.
    Aws,
    /// The certificate that the connection's handshake shows. Its key enters nowhere.
    Certificate,
}

/// Why a text is not a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// A header slot is `NAME: TEMPLATE`.
    Header,
    /// The template does not have `{secret}` once.
    NoSecret,
    /// The template has a control character or one beyond ASCII.
    Character,
    /// The header belongs to the connection or to the proxy, or frames the message.
    ReservedHeader,
    /// A path slot is a path around `{secret}`.
    Path,
    /// A JSON slot is a pointer.
    Pointer,
    /// A kind of slot that this version does not know.
    Kind,
    /// An empty name, or a `:` in a Basic user.
    Empty,
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "a header slot is written 'NAME: TEMPLATE', such as 'X-Api-Key: {secret}'",
            Self::NoSecret => "the template must have {secret} in it exactly once",
            Self::Character => "the template may only have printable ASCII",
            Self::ReservedHeader => {
                "this header belongs to the connection or frames the message, and cannot carry a secret"
            }
            Self::Path => {
                "a path slot is a path with {secret} in one segment, such as '/bot{secret}/**'; `*` is one whole segment, and `**` stands at the end only"
            }
            Self::Pointer => {
                "a JSON pointer begins with '/', such as '/auth/token'; `~1` is a slash in a name, and `~0` a tilde"
            }
            Self::Kind => {
                "this version knows the slots header, basic, query, path, subprotocol, json, form, multipart, websocket, aws and certificate"
            }
            Self::Empty => "the slot's name is empty, or a Basic user has a ':' in it",
        })
    }
}

impl std::error::Error for SlotError {}

/// Headers that no credential may use: another reader of the request acts on them, or Locum writes
/// them itself.
const RESERVED: [&str; 22] = [
    "accept-encoding",
    "connect-accept-encoding",
    "connect-content-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "grpc-accept-encoding",
    "grpc-encoding",
    "host",
    "http2-settings",
    "if-range",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The same by how they begin: Locum's own, and those of a WebSocket's handshake, of which one entry
/// has a slot of its own.
const RESERVED_BEGINNINGS: [&str; 2] = ["locum-", "sec-websocket-"];

fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    RESERVED.contains(&name) || RESERVED_BEGINNINGS.iter().any(|with| name.starts_with(with))
}

impl Slot {
    /// Reads `NAME: TEMPLATE`.
    ///
    /// # Errors
    /// [`SlotError`] naming what is wrong with it.
    pub fn header(text: &str) -> Result<Self, SlotError> {
        let (name, template) = text.split_once(':').ok_or(SlotError::Header)?;
        let name: HeaderName = name.trim().parse().map_err(|_| SlotError::Header)?;
        if is_reserved(&name) {
            return Err(SlotError::ReservedHeader);
        }
        Ok(Self::Header { name, template: template.trim().parse()? })
    }

    /// A Basic slot. `user` as the CLI takes it: `{secret}` makes the secret the user name, any
    /// other text is the user beside a secret password.
    ///
    /// # Errors
    /// [`SlotError::Empty`] for a user with a `:` in it (RFC 7617 section 2).
    pub fn basic(user: &str) -> Result<Self, SlotError> {
        if user.contains(':') {
            return Err(SlotError::Empty);
        }
        Ok(match user {
            SECRET => Self::Basic { part: BasicPart::User, other: "".into() },
            _ => Self::Basic { part: BasicPart::Password, other: user.into() },
        })
    }

    /// A query slot.
    ///
    /// # Errors
    /// [`SlotError::Empty`] without a name.
    pub fn query(name: &str) -> Result<Self, SlotError> {
        if name.is_empty() { Err(SlotError::Empty) } else { Ok(Self::Query { name: name.into() }) }
    }

    /// A path slot; without a template it is wherever the reference stands.
    ///
    /// # Errors
    /// [`SlotError`] naming what is wrong with the template.
    pub fn path(template: &str) -> Result<Self, SlotError> {
        let template = if template.is_empty() { None } else { Some(template.parse()?) };
        Ok(Self::Path { template })
    }

    /// A subprotocol slot.
    ///
    /// # Errors
    /// [`SlotError`] naming what is wrong with the template.
    pub fn subprotocol(template: &str) -> Result<Self, SlotError> {
        let template: Template = template.parse()?;
        let token = |text: &str| text.bytes().all(is_token);
        if token(template.prefix()) && token(template.suffix()) {
            Ok(Self::Subprotocol { template })
        } else {
            Err(SlotError::Character)
        }
    }

    /// A slot in a JSON body.
    ///
    /// # Errors
    /// [`SlotError::Pointer`].
    pub fn json(pointer: &str) -> Result<Self, SlotError> {
        Ok(Self::Json { pointer: pointer.parse()? })
    }

    /// A slot in a form.
    ///
    /// # Errors
    /// [`SlotError::Empty`] without a name.
    pub fn form(field: &str) -> Result<Self, SlotError> {
        if field.is_empty() {
            Err(SlotError::Empty)
        } else {
            Ok(Self::Form { field: field.into() })
        }
    }

    /// A slot in a `multipart/form-data` body.
    ///
    /// # Errors
    /// [`SlotError::Empty`] without a name.
    pub fn multipart(field: &str) -> Result<Self, SlotError> {
        if field.is_empty() {
            return Err(SlotError::Empty);
        }
        Ok(Self::Multipart { field: field.into() })
    }

    /// A slot in the messages of a WebSocket.
    ///
    /// # Errors
    /// [`SlotError::Pointer`].
    pub fn websocket(pointer: &str) -> Result<Self, SlotError> {
        Ok(Self::WebSocket { pointer: pointer.parse()? })
    }

    /// Whether the slot is in a request's body.
    #[must_use]
    pub fn is_in_body(&self) -> bool {
        matches!(self, Self::Json { .. } | Self::Form { .. } | Self::Multipart { .. })
    }

    /// The header that the slot owns, if it is in one.
    #[must_use]
    pub fn header_name(&self) -> Option<&HeaderName> {
        match self {
            Self::Header { name, .. } => Some(name),
            Self::Basic { .. } => Some(&http::header::AUTHORIZATION),
            _ => None,
        }
    }

    /// Whether the slot can be filled in a request that holds no reference: whether it says by
    /// itself where the secret goes.
    #[must_use]
    pub fn stands_alone(&self) -> bool {
        match self {
            Self::Header { .. } | Self::Basic { .. } | Self::Query { .. } => true,
            Self::Path { .. }
            | Self::Subprotocol { .. }
            | Self::Json { .. }
            | Self::Form { .. }
            | Self::Multipart { .. }
            | Self::WebSocket { .. }
            // What is signed is what the client says of its signature.
            | Self::Aws
            // It goes with each request that a rule grants it to.
            | Self::Certificate => false,
        }
    }

    /// How records and messages name the slot: `header:x-api-key`, `basic:password`, `query:key`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Header { name, .. } => ["header:", name.as_str()].concat(),
            Self::Basic { part: BasicPart::User, .. } => "basic:user".to_owned(),
            Self::Basic { part: BasicPart::Password, .. } => "basic:password".to_owned(),
            Self::Query { name } => ["query:", name].concat(),
            Self::Path { .. } => "path".to_owned(),
            Self::Subprotocol { .. } => "subprotocol".to_owned(),
            Self::Json { pointer } => format!("json:{pointer}"),
            Self::Form { field } => format!("form:{field}"),
            Self::Multipart { field } => format!("multipart:{field}"),
            Self::WebSocket { pointer } => format!("websocket:{pointer}"),
            Self::Aws => "signature:aws".to_owned(),
            Self::Certificate => "certificate".to_owned(),
        }
    }
}

/// What an entry of a list in a field may have in it (RFC 9110 section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The canonical text: stored in the vault, part of what a sealed secret is bound to.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, template } => write!(f, "header {name}: {template}"),
            Self::Basic { part: BasicPart::User, .. } => write!(f, "basic {SECRET}"),
            Self::Basic { part: BasicPart::Password, other } => write!(f, "basic {other}"),
            Self::Query { name } => write!(f, "query {name}"),
            Self::Path { template: None } => f.write_str("path"),
            Self::Path { template: Some(template) } => write!(f, "path {template}"),
            Self::Subprotocol { template } => write!(f, "subprotocol {template}"),
            Self::Json { pointer } => write!(f, "json {pointer}"),
            Self::Form { field } => write!(f, "form {field}"),
            Self::Multipart { field } => write!(f, "multipart {field}"),
            Self::WebSocket { pointer } => write!(f, "websocket {pointer}"),
            Self::Aws => f.write_str("aws"),
            Self::Certificate => f.write_str("certificate"),
        }
    }
}

impl FromStr for Slot {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("header", rest) => Self::header(rest),
            ("basic", rest) => Self::basic(rest),
            ("query", rest) => Self::query(rest),
            ("path", rest) => Self::path(rest),
            ("subprotocol", rest) => Self::subprotocol(rest),
            ("json", rest) => Self::json(rest),
            ("form", rest) => Self::form(rest),
            ("multipart", rest) => Self::multipart(rest),
            ("websocket", rest) => Self::websocket(rest),
            ("aws", "") => Ok(Self::Aws),
            ("certificate", "") => Ok(Self::Certificate),
            _ => Err(SlotError::Kind),
        }
    }
}

/// All credentials of a workspace, found by what a request shows of them.
#[allow(clippy::struct_excessive_bools)] // Each says of what there is any, or what is believed.
#[derive(Debug, Default)]
pub struct CredentialIndex {
    by_name: HashMap<Name, Arc<Credential>>,
    by_stand_in: HashMap<Arc<str>, Arc<Credential>>,
    by_host: HashMap<Host, Vec<Arc<Credential>>>,
    /// Those with a pattern, by the literal labels at its end, or by nothing where it has none.
    by_suffix: HashMap<Box<str>, Vec<Arc<Credential>>>,
    /// References that other credentials serve than the one of that name, or not that one alone.
    faces: HashMap<Name, Arc<Credential>>,
    /// Those other credentials.
    servers: HashMap<Name, Vec<Arc<Credential>>>,
    /// Whether what an agent says of its user is believed where nobody vouches for it.
    trusts_claims: bool,
    sets: HashMap<Name, Vec<Name>>,
    /// The sets that each credential is in.
    sets_with: HashMap<Name, Vec<Name>>,
    /// The distinct templates of each slot header: a handful, however many credentials there are.
    templates: HashMap<HeaderName, Vec<Template>>,
    /// The headers that signatures are over, or that go out beside them.
    signed: HashSet<HeaderName>,
    parameters: HashSet<Box<str>>,
    /// Whether any credential enters a path: nearly no workspace has one, and needs to look there.
    path_slots: bool,
    /// The same for bodies, which nobody reads without need.
    body_slots: bool,
    /// How many exist only to be missed: without any, no text has to be looked at for one.
    honeytokens: usize,
    /// The same for the messages of a socket.
    message_slots: bool,
    /// The same for handshakes.
    certificates: bool,
}

/// Tells those that serve another's reference what that may look like.
fn with_parts(mut credentials: Vec<Credential>) -> Vec<Credential> {
    let serves = |credential: &Credential| *credential.serves() != credential.name;
    let served: HashSet<Name> =
        credentials.iter().filter(|c| serves(c)).map(|c| c.serves().clone()).collect();
    if served.is_empty() {
        return credentials;
    }
    let mut texts: HashMap<Name, HashSet<Arc<str>>> = HashMap::new();
    for credential in credentials.iter().filter(|c| served.contains(c.serves())) {
        let of_it = texts.entry(credential.serves().clone()).or_default();
        of_it.insert(credential.serves().reference().into());
        of_it.extend(credential.stand_in_for(credential.serves()).map(Into::into));
    }
    for credential in credentials.iter_mut().filter(|c| serves(c)) {
        let texts = texts.get(credential.serves()).into_iter().flatten();
        credential.part = Part::Server(texts.cloned().collect());
    }
    credentials
}

impl CredentialIndex {
    /// Indexes `credentials`, and the sets that group them.
    #[must_use]
    pub fn new(credentials: Vec<Credential>, sets: HashMap<Name, Vec<Name>>) -> Self {
        let mut index = Self { sets, ..Self::default() };
        for (set, members) in &index.sets {
            for member in members {
                index.sets_with.entry(member.clone()).or_default().push(set.clone());
            }
        }
        for credential in with_parts(credentials) {
            index.insert(Arc::new(credential));
        }
        index.insert_faces();
        index
    }

    /// Says whether what an agent says of its user is believed where nobody vouches for it.
    pub fn trust_claims(&mut self, trusts: bool) {
        self.trusts_claims = trusts;
    }

    /// Whether what an agent says of its user is believed where nobody vouches for it.
    #[must_use]
    pub fn trusts_claims(&self) -> bool {
        self.trusts_claims
    }

    fn insert_faces(&mut self) {
        for (reference, servers) in &mut self.servers {
            servers.sort_by(|a, b| a.name.cmp(&b.name));
            let own = self.by_name.get(reference).filter(|own| own.serves() == reference);
            let members: Vec<Arc<Credential>> = own.into_iter().chain(&*servers).cloned().collect();
            let face = Arc::new(Credential::face(reference, &members));
            let stand_ins = members.iter().filter_map(|member| member.stand_in_for(reference));
            for stand_in in stand_ins {
                self.by_stand_in.insert(stand_in.into(), Arc::clone(&face));
            }
            self.faces.insert(reference.clone(), face);
        }
    }

    fn insert(&mut self, credential: Arc<Credential>) {
        self.honeytokens += usize::from(credential.properties.honeytoken);
        self.insert_places(&credential);
        if let Some(stand_in) = &credential.stand_in {
            self.by_stand_in.insert(Arc::clone(stand_in), Arc::clone(&credential));
        }
        if *credential.serves() != credential.name {
            let servers = self.servers.entry(credential.serves().clone()).or_default();
            servers.push(Arc::clone(&credential));
        }
        self.by_name.insert(credential.name.clone(), credential);
    }

    /// Where it may go, and how it enters a request.
    fn insert_places(&mut self, credential: &Arc<Credential>) {
        for destination in &credential.destinations {
            let place = if let Some(host) = destination.host.exact() {
                self.by_host.entry(host.clone()).or_default()
            } else {
                let suffix = destination.host.literal_suffix().unwrap_or_default();
                self.by_suffix.entry(suffix.into()).or_default()
            };
            // Two destinations of one host come one after the other.
            if !place.last().is_some_and(|last| Arc::ptr_eq(last, credential)) {
                place.push(Arc::clone(credential));
            }
        }
        credential.slots.iter().for_each(|slot| self.insert_slot(slot));
        if let Some(Kind::Hmac(signing)) = &credential.properties.kind {
            self.signed.extend(signing.fields());
        }
    }

    fn insert_slot(&mut self, slot: &Slot) {
        match slot {
            Slot::Header { name, template } => {
                let templates = self.templates.entry(name.clone()).or_default();
                if !templates.contains(template) {
                    templates.push(template.clone());
                }
            }
            Slot::Query { name } => {
                self.parameters.insert(name.clone());
            }
            Slot::Path { .. } => self.path_slots = true,
            Slot::Json { .. } | Slot::Form { .. } | Slot::Multipart { .. } => {
                self.body_slots = true;
            }
            Slot::WebSocket { .. } => self.message_slots = true,
            Slot::Certificate => self.certificates = true,
            Slot::Basic { .. } | Slot::Subprotocol { .. } | Slot::Aws => {}
        }
    }

    /// The credential of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Credential>> {
        self.by_name.get(name)
    }

    /// What a reference of that name leads to: the credential, or the face of all that serve it.
    #[must_use]
    pub fn referred(&self, name: &str) -> Option<&Arc<Credential>> {
        if self.faces.is_empty() {
            return self.by_name.get(name);
        }
        self.faces.get(name).or_else(|| self.by_name.get(name))
    }

    /// The credentials that serve a reference beside the one of that name.
    #[must_use]
    pub fn servers(&self, reference: &str) -> &[Arc<Credential>] {
        self.servers.get(reference).map_or(&[], Vec::as_slice)
    }

    /// What `text` stands for: a reference or a stand-in, and nothing around it.
    #[must_use]
    pub fn named_by(&self, text: &[u8]) -> Option<&Arc<Credential>> {
        match reference::whole(text) {
            Some(name) => self.referred(name),
            None => std::str::from_utf8(text).ok().and_then(|t| self.by_stand_in.get(t)),
        }
    }

    /// The credentials that may go to `origin`.
    pub fn bound_to(&self, origin: &Origin) -> impl Iterator<Item = &Arc<Credential>> {
        self.concerned(origin).filter(|one| !one.is_value())
    }

    /// The credentials that may go to `origin`, and the values. A host with any is always intercepted.
    pub fn concerned(&self, origin: &Origin) -> impl Iterator<Item = &Arc<Credential>> {
        let host = &origin.authority.host;
        let exact = self.by_host.get(host).map_or(&[][..], Vec::as_slice);
        let ends = host.suffixes().filter(|_| !self.by_suffix.is_empty()).chain(once(""));
        let patterns = ends.flat_map(move |end| {
            let there = self.by_suffix.get(end).map_or(&[][..], Vec::as_slice);
            there.iter().filter(move |c| c.is_found_by(end, host))
        });
        exact.iter().chain(patterns).filter(move |c| c.is_bound_to(origin))
    }

    /// The members of a set.
    #[must_use]
    pub fn set(&self, name: &str) -> Option<&[Name]> {
        self.sets.get(name).map(Vec::as_slice)
    }

    /// The sets that have the credential of that name in them.
    #[must_use]
    pub fn sets_with(&self, name: &Name) -> &[Name] {
        self.sets_with.get(name).map_or(&[], Vec::as_slice)
    }

    /// The shapes that values of this header may have around a reference.
    #[must_use]
    pub fn templates(&self, name: &HeaderName) -> &[Template] {
        self.templates.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether the header is a slot of any credential.
    #[must_use]
    pub fn is_slot_header(&self, name: &HeaderName) -> bool {
        self.templates.contains_key(name)
    }

    /// The headers that are slots of any credential, and those that one sets or signs.
    pub fn owned_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.templates.keys().chain(&self.signed)
    }

    /// Whether the query parameter, decoded, is a slot of any credential.
    #[must_use]
    pub fn is_slot_parameter(&self, name: &[u8]) -> bool {
        std::str::from_utf8(name).is_ok_and(|name| self.parameters.contains(name))
    }

    /// Whether any credential enters a path.
    #[must_use]
    pub fn has_path_slots(&self) -> bool {
        self.path_slots
    }

    /// The honeytoken that `text` names anywhere, if it names one.
    #[must_use]
    pub fn honeytoken_in(&self, text: &[u8]) -> Option<&Arc<Credential>> {
        if self.honeytokens == 0 {
            return None;
        }
        let named = reference::names_in(text).filter_map(|name| self.get(name));
        named.into_iter().find(|credential| credential.properties.honeytoken)
    }

    /// Whether any credential enters a body.
    #[must_use]
    pub fn has_body_slots(&self) -> bool {
        self.body_slots
    }

    /// Whether any credential enters a message of a WebSocket.
    #[must_use]
    pub fn has_message_slots(&self) -> bool {
        self.message_slots
    }

    /// Whether any credential is a client certificate.
    #[must_use]
    pub fn has_certificates(&self) -> bool {
        self.certificates
    }

    /// Whether a version of what a record calls so may still be used, as far as it was not revoked. A
    /// text has none to revoke.
    #[must_use]
    pub fn stands(&self, name: &str, version: u32) -> bool {
        match self.get(name) {
            Some(credential) => !credential.revoked.contains(&version),
            None => version == 0 && self.held(name, Within::Any).any(|one| one.as_text().is_some()),
        }
    }

    /// All credentials, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Credential>> {
        self.by_name.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::host::{Authority, Scheme};

    pub(crate) fn credential(name: &str, to: &[&str], slots: &[&str]) -> Credential {
        Credential {
            workspace: "default".parse().unwrap(),
            name: name.parse().unwrap(),
            provider: None,
            destinations: to.iter().map(|t| t.parse().unwrap()).collect(),
            slots: slots.iter().map(|s| s.parse().unwrap()).collect(),
            stand_in: None,
            version: Some(1),
            older: Box::default(),
            revoked: Box::default(),
            newest: 1,
            properties: Properties::default(),
            part: Part::default(),
            tier: Tier::default(),
        }
    }

    #[test]
    fn slots_read_back_what_they_print() {
        for text in [
            "header authorization: Bearer {secret}",
            "header x-api-key: {secret}",
            "basic {secret}",
            "basic x-access-token",
            "basic ",
            "query key",
            "path",
            "path /bot{secret}/**",
            "path /services/*/*/{secret}",
            "subprotocol openai-insecure-api-key.{secret}",
            "json /auth/0/a~1b",
            "form client_secret",
            "multipart api key",
            "websocket /d/token",
            "aws",
            "certificate",
        ] {
            assert_eq!(text.parse::<Slot>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn headers_of_the_connection_and_of_the_framing_are_no_slots() {
        let named = "Accept-Encoding Connection Content-Encoding Content-Length Content-Type Expect \
                     Grpc-Encoding Host HTTP2-Settings If-Range Keep-Alive Proxy-Connection Range \
                     Sec-WebSocket-Accept Sec-WebSocket-Extensions Sec-WebSocket-Key \
                     Sec-WebSocket-Protocol Sec-WebSocket-Version TE Trailer Transfer-Encoding Upgrade";
        for name in named.split(' ') {
            for name in [name.to_owned(), name.to_ascii_lowercase()] {
                let slot = Slot::header(&format!("{name}: {{secret}}"));
                assert_eq!(slot, Err(SlotError::ReservedHeader), "{name}");
            }
        }
        for name in ["Authorization", "Cookie", "X-Host", "Websocket-Key", "X-Api-Key"] {
            assert!(Slot::header(&format!("{name}: {{secret}}")).is_ok(), "{name}");
        }
    }

    #[test]
    fn slots_that_would_harm_are_refused() {
        for (text, why) in [
            ("header Host: {secret}", SlotError::ReservedHeader),
            ("header Transfer-Encoding: {secret}", SlotError::ReservedHeader),
            ("header Proxy-Authorization: Basic {secret}", SlotError::ReservedHeader),
            ("header Locum-Run: {secret}", SlotError::ReservedHeader),
            ("header X-Key: abc", SlotError::NoSecret),
            ("header X-Key: {secret}{secret}", SlotError::NoSecret),
            ("header X-Key: a\r\nb: {secret}", SlotError::Character),
            ("header nothing", SlotError::Header),
            ("basic a:b", SlotError::Empty),
            ("query ", SlotError::Empty),
            ("path bot{secret}", SlotError::Path),
            ("subprotocol a, {secret}", SlotError::Character),
            ("subprotocol realtime", SlotError::NoSecret),
            ("json api_key", SlotError::Pointer),
            ("form ", SlotError::Empty),
            ("multipart ", SlotError::Empty),
            ("cookie x", SlotError::Kind),
        ] {
            assert_eq!(text.parse::<Slot>(), Err(why), "{text}");
        }
    }

    #[test]
    fn templates_unwrap_by_shape() {
        let t: Template = "Bearer {secret}".parse().unwrap();
        assert_eq!(t.unwrap(b"bearer  locum_a"), Some(&b"locum_a"[..]));
        assert_eq!(t.unwrap(b"token locum_a"), None);
        assert_eq!(t.unwrap(b"Bear"), None);
    }

    #[test]
    fn the_index_knows_references_stand_ins_and_hosts() {
        let mut a = credential("a", &["https://a.test"], &["header x-k: {secret}"]);
        a.stand_in = Some("sk-aaaa-locum_a-0000".into());
        let b = credential("b", &["https://*.b.test:8443", "https://a.test"], &["query k"]);
        let index = CredentialIndex::new(vec![a, b], HashMap::new());
        let named = |t: &[u8]| index.named_by(t).map(|c| c.name.as_str().to_owned());
        assert_eq!(named(b"locum_a").as_deref(), Some("a"));
        assert_eq!(named(b"sk-aaaa-locum_a-0000").as_deref(), Some("a"));
        assert_eq!(named(b"sk-aaaa-locum_a-0001"), None);
        let bound = |host: &str, port| {
            let authority = Authority { host: Host::parse(host).unwrap(), port };
            index.bound_to(&Origin { scheme: Scheme::Https, authority }).count()
        };
        assert_eq!(
            (bound("a.test", 443), bound("x.b.test", 8443), bound("x.b.test", 443)),
            (2, 1, 0)
        );
    }

    #[test]
    fn by_patterns_each_credential_is_found_once() {
        let every = [
            "https://*",
            "https://**.test",
            "https://*.b.test",
            "https://x.b.test",
            "https://x.*.test",
        ];
        let index = CredentialIndex::new(
            vec![
                credential("all", &every, &["query k"]),
                credential("others", &every[..3], &["query k"]),
                credential("any", &every[..1], &["query k"]),
                credential("middle", &every[4..], &["query k"]),
            ],
            HashMap::new(),
        );
        let found = |host: &str| {
            let authority = Authority { host: Host::parse(host).unwrap(), port: 443 };
            let origin = Origin { scheme: Scheme::Https, authority };
            let mut names: Vec<String> =
                index.bound_to(&origin).map(|c| c.name.to_string()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(found("x.b.test"), ["all", "any", "middle", "others"]);
        assert_eq!(found("y.b.test"), ["all", "any", "others"]);
        assert_eq!(found("x.c.test"), ["all", "any", "middle", "others"]);
        assert_eq!(found("a.example"), ["all", "any", "others"]);
        assert_eq!(found("192.0.2.1"), ["all", "any", "others"]);
    }
}
