//! Cases beside the rules: a request, and what has to come of it. Asked of the same engine that decides
//! in the proxy, so a policy is tested as code is.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Request};

use super::read::given;
use super::rule::Place;
use super::when::moment;
use super::{Policy, Question, TunnelDecision};
use crate::agent::{
    Context, Identity, Label, LabelName, Labels, LabelsError, UserName, default_workspace,
};
use crate::credential::{Credential, CredentialIndex, Properties, Slot, Template};
use crate::document::{Key, Map, Node, Reader};
use crate::host::{Authority, Destination, Origin, Scheme};
use crate::inject::{References, Unknown, alone_in_their_places};
use crate::outcome::{Code, Refusal};
use crate::reference::Name;
use crate::request::InboundRequest;

/// What is asked for: `POST https://host/path`, `SOCKET https://host/path`, or `CONNECT host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A request, or for `socket` the handshake of a WebSocket.
    Request {
        /// Its method; of a socket GET.
        method: http::Method,
        /// Whether it asks to go on as a WebSocket.
        socket: bool,
        /// Where it goes.
        origin: Origin,
        /// Path and query, as they are sent.
        target: Box<str>,
    },
    /// A tunnel.
    Connect(Authority),
}

/// A text says no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WishError;

impl fmt::Display for WishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write a method and a URL, such as POST https://api.example.com/v1/x; for a WebSocket SOCKET and its URL, for a tunnel CONNECT host:443")
    }
}

impl std::error::Error for WishError {}

impl FromStr for Wish {
    type Err = WishError;

    fn from_str(text: &str) -> Result<Self, WishError> {
        let (method, url) = text.split_once(' ').ok_or(WishError)?;
        if method == "CONNECT" {
            return Authority::parse(url, None).map(Self::Connect).map_err(|_| WishError);
        }
        // No client sends these as they are, and a list of cases is no place to guess.
        if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(WishError);
        }
        let start = url.find("://").ok_or(WishError)? + 3;
        let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
        let (base, target) = url.split_at(end);
        let destination: Destination = base.parse().map_err(|_| WishError)?;
        let host = destination.host.exact().ok_or(WishError)?.clone();
        let authority = Authority { host, port: destination.port };
        let origin = Origin { scheme: destination.scheme, authority };
        let target = if target.starts_with('/') { target.into() } else { format!("/{target}") };
        let socket = method == "SOCKET" || base.starts_with("ws");
        let method = if socket { "GET" } else { method };
        let method = method.parse().map_err(|_| WishError)?;
        Ok(Self::Request { method, socket, origin, target: target.into() })
    }
}

/// A request on which a policy can be asked without a proxy.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// Who.
    pub who: Identity,
    /// What for.
    pub wish: Wish,
    /// A credential that it refers to, in the first of its slots that such a request has.
    pub refers: Option<Name>,
    /// What a request was seen to refer to, where there was one: asked about as it is then.
    pub seen: Option<Box<Referred>>,
    /// Fields that it has.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// When, in seconds of Unix time.
    pub at: i64,
}

/// What a request was seen to refer to, as its record has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Referred {
    /// Credentials, each with the label of the slot in which its reference stood; none for a value that
    /// had the shape of no slot.
    pub credentials: Vec<(Name, Option<Box<str>>)>,
    /// A reference to nothing.
    pub unknown: Option<Unknown>,
    /// How many references stood outside the slots.
    pub misplaced: usize,
}

impl Referred {
    /// The same references, to the credentials of now.
    fn references(&self, index: &CredentialIndex) -> References {
        let mut located = Vec::with_capacity(self.credentials.len());
        let mut unknown = self.unknown.clone();
        for (name, label) in &self.credentials {
            let place = label.as_deref().unwrap_or_default();
            match index.referred(name.as_str()) {
                Some(credential) => {
                    let slot = credential.slots.iter().position(|slot| slot.label() == place);
                    located.push((Arc::clone(credential), slot));
                }
                // It is not there any more.
                None => unknown = Some(Unknown { name: Some(name.clone()), place: place.into() }),
            }
        }
        References::seen(located, unknown, self.misplaced)
    }
}

/// What comes of an inquiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Permitted by the rule.
    Allow(Box<str>),
    /// Permitted by the rule, once a person has approved it.
    Ask(Box<str>),
    /// Refused with the code; by the rule, where one denies.
    Refuse(Code, Option<Box<str>>),
    /// Tunnelled unseen under the rule.
    Opaque(Box<str>),
    /// The tunnel's requests will be asked about, each by itself.
    Intercept,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(rule) => write!(f, "allow, by the rule `{rule}`"),
            Self::Ask(rule) => {
                write!(f, "ask, by the rule `{rule}`: allowed once a person approves")
            }
            Self::Refuse(code, None) => write!(f, "refuse, with {code}"),
            Self::Refuse(code, Some(rule)) => {
                write!(f, "refuse, with {code}, by the rule `{rule}`")
            }
            Self::Opaque(rule) => write!(f, "opaque, by the rule `{rule}`"),
            Self::Intercept => f.write_str("intercept"),
        }
    }
}

/// An identity that no token vouches for: for questions, never for requests.
#[must_use]
pub fn supposed(user: UserName) -> Option<Identity> {
    let identity = Identity::new(default_workspace(), user.agent, "none");
    Some(Identity { context: user.context, ..identity })
}

impl Inquiry {
    /// The request as it would come; none for a tunnel, and for what no client could send.
    pub(super) fn request(
        &self,
        index: &CredentialIndex,
    ) -> Option<Result<InboundRequest, Refusal>> {
        let Wish::Request { method, socket, origin, target } = &self.wish else { return None };
        let mut target = target.to_string();
        let mut builder =
            Request::builder().method(method).header("host", origin.authority.to_string());
        for (name, value) in &self.fields {
            builder = builder.header(name, value);
        }
        if *socket {
            builder = builder
                .header("upgrade", "websocket")
                .header("connection", "upgrade")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        }
        if let Some(name) = self.refers.as_ref().filter(|name| !self.refers_by_itself(name, index))
        {
            let slot = self.slot(name, index);
            if slot.is_some() || index.referred(name.as_str()).is_none() {
                (builder, target) = refer(builder, target, name, slot);
            }
        }
        let parts = builder.uri(target).body(()).ok()?.into_parts().0;
        Some(InboundRequest::parse(parts, origin))
    }

    /// Whether the target has the reference in it already, there where a path or query wants it.
    fn refers_by_itself(&self, name: &Name, index: &CredentialIndex) -> bool {
        let Wish::Request { target, .. } = &self.wish else { return self.seen.is_some() };
        let stand_in = index.referred(name.as_str()).and_then(|c| c.stand_in.as_deref());
        self.seen.is_some()
            || crate::reference::names_in(target.as_bytes()).any(|found| found == name.as_str())
            || stand_in.is_some_and(|text| target.contains(text))
    }

    /// The first slot of a credential that a request of this kind has. A path has one only if it was
    /// written there.
    fn slot<'i>(&self, name: &Name, index: &'i CredentialIndex) -> Option<(usize, &'i Slot)> {
        let is_socket = matches!(self.wish, Wish::Request { socket: true, .. });
        let fits = |slot: &Slot| match slot {
            Slot::Header { .. } | Slot::Basic { .. } | Slot::Query { .. } | Slot::Aws => true,
            Slot::Subprotocol { .. } | Slot::WebSocket { .. } => is_socket,
            Slot::Json { .. } | Slot::Form { .. } | Slot::Multipart { .. } => !is_socket,
            Slot::Path { .. } | Slot::Certificate => false,
        };
        let mut slots = index.referred(name.as_str())?.slots.iter().enumerate();
        slots.find(|(_, slot)| fits(slot))
    }

    /// Whether the reference has no place in a request of this kind but the path, where it is not
    /// written.
    #[must_use]
    pub fn lacks_place(&self, index: &CredentialIndex) -> bool {
        let Some(name) = &self.refers else { return false };
        let known = index.referred(name.as_str()).is_some();
        let request = matches!(self.wish, Wish::Request { .. });
        request && known && !self.refers_by_itself(name, index) && self.slot(name, index).is_none()
    }

    /// The references of the request: those that it shows, those that were seen, and the one in what of
    /// a request an inquiry does not have, if that would be looked into.
    fn references(
        &self,
        policy: &Policy,
        request: &InboundRequest,
        index: &CredentialIndex,
    ) -> References {
        if let Some(seen) = &self.seen {
            return seen.references(index);
        }
        let mut references = References::locate(request, index);
        let name = self.refers.as_ref().filter(|name| !self.refers_by_itself(name, index));
        let Some(credential) = name.and_then(|name| index.referred(name.as_str())) else {
            return references;
        };
        if references.refer_to(credential) {
            return references;
        }
        let slot = self.slot(&credential.name, index);
        let moment = (index, self.at);
        let looks = match slot {
            Some((_, Slot::WebSocket { .. })) => {
                policy.wants_messages(&self.who, request, &references, moment)
            }
            Some((_, slot @ (Slot::Json { .. } | Slot::Form { .. } | Slot::Multipart { .. }))) => {
                let permitted = policy.authorize(&self.who, request, &references, index, self.at);
                let kind = policy.wants_body(&self.who, request, &references, moment);
                permitted.is_ok() && kind.is_some_and(|kind| kind.has(slot))
            }
            _ => true,
        };
        if looks {
            let path = |slot: &Slot| matches!(slot, Slot::Path { .. });
            let slot = slot.map(|(at, _)| at).or_else(|| credential.slots.iter().position(path));
            references.suppose(credential, slot);
        }
        references
    }

    /// What the policy says.
    #[must_use]
    pub fn ask(&self, policy: &Policy, index: &CredentialIndex) -> Answer {
        if let Wish::Connect(authority) = &self.wish {
            return match policy.tunnel(&self.who, authority, index, self.at) {
                TunnelDecision::Intercept => Answer::Intercept,
                TunnelDecision::Opaque { rule, .. } => Answer::Opaque((&*rule).into()),
            };
        }
        let request = match self.request(index) {
            Some(Ok(request)) => request,
            Some(Err(refusal)) => return Answer::Refuse(refusal.code, None),
            None => return Answer::Refuse(Code::BadRequest, None),
        };
        let references = self.references(policy, &request, index);
        let Self { who, at, .. } = self;
        let permitted = policy.authorize(who, &request, &references, index, *at);
        // Asked of a call when its secrets are put in.
        match permitted.and_then(|permit| alone_in_their_places(&permit).map(|()| permit)) {
            Ok(permit) if permit.approval().is_some() => Answer::Ask((&**permit.rule()).into()),
            Ok(permit) => Answer::Allow((&**permit.rule()).into()),
            Err(refusal) => Answer::Refuse(refusal.code, refusal.rule.map(|rule| (&*rule).into())),
        }
    }

    /// Calls `look` with the request as the engine sees it.
    pub(super) fn with_question<T>(
        &self,
        policy: &Policy,
        index: &CredentialIndex,
        look: impl FnOnce(Question<'_>) -> T,
    ) -> Result<T, Refusal> {
        let none = || Err(Refusal::new(Code::BadRequest));
        let request = self.request(index).unwrap_or_else(none)?;
        let references = self.references(policy, &request, index);
        let question = Question {
            who: &self.who,
            request: &request,
            references: &references,
            index,
            at: self.at,
        };
        Ok(look(question))
    }
}

/// Puts a reference where a client would, if that is in the head. One that is not known goes where most
/// clients put one. Of a body there is what the head says of it.
fn refer(
    builder: http::request::Builder,
    target: String,
    name: &Name,
    slot: Option<(usize, &Slot)>,
) -> (http::request::Builder, String) {
    let reference = name.reference();
    let filled = |t: &Template| format!("{}{reference}{}", t.prefix(), t.suffix());
    let slot = slot.map(|(_, slot)| slot);
    match slot {
        Some(Slot::Header { name, template }) => (builder.header(name, filled(template)), target),
        Some(Slot::Query { name }) => {
            let separator = if target.contains('?') { '&' } else { '?' };
            (builder, format!("{target}{separator}{name}={reference}"))
        }
        Some(Slot::Basic { .. }) => {
            let pair = data_encoding::BASE64.encode(format!("{reference}:{reference}").as_bytes());
            (builder.header("authorization", format!("Basic {pair}")), target)
        }
        Some(Slot::Subprotocol { template }) => {
            (builder.header("sec-websocket-protocol", filled(template)), target)
        }
        Some(slot @ (Slot::Json { .. } | Slot::Form { .. } | Slot::Multipart { .. })) => {
            let said = builder.headers_ref().is_some_and(|all| all.contains_key(CONTENT_TYPE));
            (if said { builder } else { builder.header(CONTENT_TYPE, content_type(slot)) }, target)
        }
        // Nothing of the head says that there is one.
        Some(Slot::WebSocket { .. } | Slot::Aws | Slot::Path { .. } | Slot::Certificate) => {
            (builder, target)
        }
        None => (builder.header("authorization", format!("Bearer {reference}")), target),
    }
}

/// What a client calls a body that has such a slot.
fn content_type(slot: &Slot) -> &'static str {
    match slot {
        Slot::Form { .. } => "application/x-www-form-urlencoded",
        Slot::Multipart { .. } => "multipart/form-data; boundary=parts",
        _ => "application/json",
    }
}

/// A case of a policy file, and what has to come of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is called; what it asks for, where it has no name.
    pub name: Box<str>,
    pub(super) place: Place,
    /// The request.
    pub inquiry: Inquiry,
    /// What has to come of it.
    pub expected: Expected,
}

/// What a case asks of its answer. What is none does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// In a word.
    pub word: Word,
    /// The rule that decides.
    pub rule: Option<Box<str>>,
    /// The code of a refusal.
    pub code: Option<Code>,
}

/// What comes of a request, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It is permitted.
    Allow,
    /// It is permitted once a person has approved it.
    Ask,
    /// It is refused.
    Refuse,
    /// The tunnel is not looked into.
    Opaque,
    /// The tunnel is looked into.
    Intercept,
}

impl Word {
    /// As it is written.
    pub(super) const ALL: [(&'static str, Self); 5] = [
        ("allow", Self::Allow),
        ("ask", Self::Ask),
        ("refuse", Self::Refuse),
        ("opaque", Self::Opaque),
        ("intercept", Self::Intercept),
    ];
}

impl Expected {
    /// Whether the answer is the one.
    #[must_use]
    pub fn is_met(&self, answer: &Answer) -> bool {
        let (word, rule, code) = match answer {
            Answer::Allow(rule) => (Word::Allow, Some(rule), None),
            // What an agent is told until then.
            Answer::Ask(rule) if self.code == Some(Code::ApprovalRequired) => {
                (Word::Refuse, Some(rule), self.code)
            }
            Answer::Ask(rule) => (Word::Ask, Some(rule), None),
            Answer::Refuse(code, rule) => (Word::Refuse, rule.as_ref(), Some(*code)),
            Answer::Opaque(rule) => (Word::Opaque, Some(rule), None),
            Answer::Intercept => (Word::Intercept, None, None),
        };
        let rule_fits = self.rule.is_none() || self.rule.as_ref() == rule;
        word == self.word && rule_fits && (self.code.is_none() || self.code == code)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word =
            Word::ALL.iter().find(|(_, word)| *word == self.word).map_or("", |(text, _)| text);
        f.write_str(word)?;
        if let Some(code) = self.code {
            write!(f, ", with {code}")?;
        }
        self.rule.as_ref().map_or(Ok(()), |rule| write!(f, ", by the rule `{rule}`"))
    }
}

/// What the cases suppose of a vault that is not there: credentials by where they may go, and sets.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub(super) credentials: Vec<(Name, Vec<Destination>)>,
    pub(super) sets: HashMap<Name, Vec<Name>>,
}

impl Given {
    /// Whether nothing is supposed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.credentials.is_empty() && self.sets.is_empty()
    }

    /// The credentials, each in the header of most APIs.
    ///
    /// # Panics
    /// Never: the slot is a constant.
    #[must_use]
    pub fn index(&self) -> CredentialIndex {
        let slot = Slot::header("authorization: Bearer {secret}").expect("a slot");
        // Several files may suppose the same credential.
        let mut all: BTreeMap<&Name, Vec<Destination>> = BTreeMap::new();
        for (name, destinations) in &self.credentials {
            all.entry(name).or_default().extend(destinations.iter().cloned());
        }
        let credentials = all.into_iter().map(|(name, destinations)| Credential {
            workspace: default_workspace(),
            name: name.clone(),
            provider: None,
            destinations: destinations.into(),
            slots: [slot.clone()].into(),
            stand_in: None,
            version: Some(1),
            older: Box::default(),
            revoked: Box::default(),
            newest: 1,
            properties: Properties::default(),
            part: crate::credential::Part::default(),
            tier: crate::credential::Tier::default(),
        });
        CredentialIndex::new(credentials.collect(), self.sets.clone())
    }
}

pub(super) const CASE_KEYS: &[&str] = &[
    "name", "agent", "labels", "user", "run", "request", "use", "headers", "at", "expect", "rule",
    "code",
];

/// When a case is asked that does not say: a Thursday noon, UTC.
const SOME_TIME: i64 = 1_767_268_800;

pub(super) fn read_case<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<(Case, &'d Node)> {
    let mut map = reader.map(node, CASE_KEYS)?;
    let name = given(&mut map, "name", Reader::text);
    let agent = map.required("agent", Reader::parsed::<Name>);
    let labels = given(&mut map, "labels", read_labels);
    let user = given(&mut map, "user", Reader::parsed::<LabelText>);
    let run = given(&mut map, "run", Reader::parsed::<LabelText>);
    let text = map.node("request");
    let wish = map.required("request", Reader::parsed::<Wish>);
    let refers = given(&mut map, "use", Reader::parsed::<Name>);
    let fields = given(&mut map, "headers", read_fields);
    let at = given(&mut map, "at", |r, n| r.parsed_with(n, moment));
    let expected = read_expected(&mut map);
    let context =
        Context { run: run?.map(|label| label.0), user: user?.map(|label| label.0), node: None };
    let inquiry = Inquiry {
        who: Identity {
            labels: labels?.unwrap_or_default(),
            ..supposed(UserName { agent: agent?, context })?
        },
        wish: wish?,
        refers: refers?,
        seen: None,
        fields: fields?.unwrap_or_default(),
        at: at?.unwrap_or(SOME_TIME),
    };
    let asked = match text.map(|node| &node.value) {
        Some(crate::document::Value::String(text)) => text,
        _ => "",
    };
    let name = name?.unwrap_or(asked).into();
    let place = Place { file: 0, at: node.at };
    Some((Case { name, place, inquiry, expected: expected? }, node))
}

fn read_labels<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Labels> {
    let entries = reader.entries(node)?;
    let mut labels = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let name = key.text.parse::<LabelName>();
        if let Err(error) = &name {
            reader.problem(key, error.to_string());
        }
        let value = reader.parsed_with(value, |text| text.parse().map_err(|_| LabelsError::Value));
        labels.extend(name.ok().zip(value));
    }
    if labels.len() < entries.len() {
        return None;
    }
    Labels::new(labels).map_err(|error| reader.problem(node, error.to_string())).ok()
}

/// A label, whose own error names the parts of a user name.
struct LabelText(Label);

impl FromStr for LabelText {
    type Err = crate::agent::UserNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

fn read_expected(map: &mut Map<'_, '_>) -> Option<Expected> {
    let word = map.required("expect", |r, n| r.choice(n, &Word::ALL));
    let rule = given(map, "rule", Reader::text);
    let codes: Vec<(&str, Code)> = Code::ALL.iter().map(|code| (code.as_str(), *code)).collect();
    let code = given(map, "code", |r, n| r.choice(n, &codes));
    let word = word?;
    if let Some(node) = map.node("code").filter(|_| word != Word::Refuse) {
        let advice = "remove `code`, or write `expect: refuse`";
        map.reader().problem_with_help(node, "only a refusal has a code", advice);
        return None;
    }
    if let Some(node) = map.node("rule").filter(|_| word == Word::Intercept) {
        let message = "no rule decides on a tunnel that is looked into";
        map.reader().problem_with_help(node, message, "remove `rule`");
        return None;
    }
    Some(Expected { word, rule: rule?.map(Into::into), code: code? })
}

fn read_fields<'d>(
    reader: &mut Reader<'d>,
    node: &'d Node,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let entries: &[(Key, Node)] = reader.entries(node)?;
    let mut fields = Vec::with_capacity(entries.len());
    for (key, values) in entries {
        let name = key.text.parse::<HeaderName>();
        if name.is_err() {
            reader.problem(key, "not the name of a header field");
        }
        let read = |text: &str| {
            text.parse::<HeaderValue>()
                .map_err(|_| "a field's value has no control character but a tab")
        };
        let values = reader.one_or_list(values, |r, n| r.parsed_with(n, read));
        let (Ok(name), Some(values)) = (name, values) else { continue };
        fields.extend(values.into_iter().map(|value| (name.clone(), value)));
    }
    Some(fields)
}

pub(super) const GIVEN_KEYS: &[&str] = &["credentials", "sets"];

pub(super) fn read_given<'d>(reader: &mut Reader<'d>, node: &'d Node) -> Option<Given> {
    let mut map = reader.map(node, GIVEN_KEYS)?;
    let credentials = given(&mut map, "credentials", |r, n| {
        named(r, n, |r, n| r.one_or_list(n, Reader::parsed::<Destination>))
    });
    let sets =
        given(&mut map, "sets", |r, n| named(r, n, |r, n| r.list(n, Reader::parsed::<Name>)));
    let credentials = credentials?.unwrap_or_default();
    if credentials.iter().flat_map(|(_, to)| to).any(|d| d.scheme == Scheme::Http) {
        map.reader().problem(node, "no credential may go in the clear");
        return None;
    }
    Some(Given { credentials, sets: sets?.unwrap_or_default().into_iter().collect() })
}

fn named<'d, T>(
    reader: &mut Reader<'d>,
    node: &'d Node,
    mut read: impl FnMut(&mut Reader<'d>, &'d Node) -> Option<T>,
) -> Option<Vec<(Name, T)>> {
    let entries = reader.entries(node)?;
    let mut all = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let name = key.text.parse::<Name>();
        if let Err(error) = &name {
            reader.problem(key, error.to_string());
        }
        all.extend(name.ok().zip(read(reader, value)));
    }
    (all.len() == entries.len()).then_some(all)
}
