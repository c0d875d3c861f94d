//! Finding the references of a request, and telling those in slots from those that are mere text.

use std::sync::Arc;

use data_encoding::{BASE64, BASE64_NOPAD};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::path::{self, may_refer};
use super::{aws, query, subprotocol};
use crate::credential::{BasicPart, Credential, CredentialIndex, Kind, PathTemplate, Slot};
use crate::host::Origin;
use crate::reference::{self, Name};
use crate::request::{BodyText, InboundRequest};
use crate::sign::sigv4;

/// One credential that the request refers to in a slot.
#[derive(Clone, Debug)]
pub struct Located {
    credential: Arc<Credential>,
    slot: Option<usize>,
    sent: Arc<str>,
}

impl Located {
    /// Which credential.
    #[must_use]
    pub fn credential(&self) -> &Arc<Credential> {
        &self.credential
    }

    /// The placeholder as the client sent it: its reference or its stand-in. An echo of the secret
    /// is turned back into this.
    #[must_use]
    pub fn sent(&self) -> &Arc<str> {
        &self.sent
    }

    /// The index of the slot; none when the value has not the shape of any of them.
    #[must_use]
    pub fn slot(&self) -> Option<usize> {
        self.slot
    }
}

/// A reference to nothing, in a place where one has to name a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The name, where it can be told ([`reference::told`]).
    pub name: Option<Name>,
    /// Where it stands, as [`Slot::label`] has it.
    pub place: Box<str>,
}

/// All references of a request.
#[derive(Debug, Default)]
pub struct References {
    located: Vec<Located>,
    unknown: Option<Box<Unknown>>,
    misplaced: usize,
    /// Whether one of those is of a credential that does not go where the head does.
    moved: bool,
    honeytoken: Option<Arc<Credential>>,
    fault: Option<&'static str>,
}

impl References {
    /// Looks through fields, query and path. For a request without any reference this is one
    /// substring search per field, and no allocation.
    #[must_use]
    pub fn locate(request: &InboundRequest, index: &CredentialIndex) -> Self {
        let mut found = Self::default();
        for (name, value) in request.headers() {
            if reference::occurs(value.as_bytes()) {
                if name == header::SEC_WEBSOCKET_PROTOCOL && !index.is_slot_header(name) {
                    found.in_subprotocols(value, request.origin(), index);
                } else {
                    found.in_header(name, value, (request.origin(), index));
                }
            } else if name == header::AUTHORIZATION {
                found.in_basic(value, index);
            }
        }
        if let Some(query) = request.query().filter(|q| may_refer(q)) {
            found.in_query(query, request.origin(), index);
        }
        if !index.has_path_slots() {
            let path = request.path().as_bytes();
            if reference::occurs(path) {
                found.outside(path, 1, Some(request.origin()), index);
            }
        } else if may_refer(request.path()) {
            found.in_path(request, index);
        }
        if let Some(body) = request.body() {
            found.in_body(body, request.origin(), index);
        }
        found
    }

    /// Looks through a message that is sent in a WebSocket to `origin`.
    #[must_use]
    pub fn locate_message(message: &BodyText, origin: &Origin, index: &CredentialIndex) -> Self {
        let mut found = Self::default();
        found.in_body(message, origin, index);
        found
    }

    /// Looks through the fields behind a body on its way to `origin`. None of them is a slot.
    #[must_use]
    pub fn locate_trailers(trailers: &HeaderMap, origin: &Origin, index: &CredentialIndex) -> Self {
        let mut found = Self::default();
        for (name, value) in trailers {
            let text = value.as_bytes();
            if reference::occurs(text) {
                found.outside(text, 1, Some(origin), index);
            } else if name == header::AUTHORIZATION
                && let Some(pair) = BasicPair::decode(value)
            {
                let halves = [BasicPart::Password, BasicPart::User].map(|part| pair.half(part));
                for half in halves.into_iter().filter(|half| reference::occurs(half)) {
                    found.outside(half, 1, Some(origin), index);
                }
            }
        }
        found
    }

    /// References as they were seen once, to decide on them again.
    pub(crate) fn seen(
        located: impl IntoIterator<Item = (Arc<Credential>, Option<usize>)>,
        unknown: Option<Unknown>,
        misplaced: usize,
    ) -> Self {
        let mut seen = Self { unknown: unknown.map(Box::new), misplaced, ..Self::default() };
        for (credential, slot) in located {
            seen.suppose(&credential, slot);
        }
        seen
    }

    /// Takes it that a slot refers to the credential, which nothing that was looked at does.
    pub(crate) fn suppose(&mut self, credential: &Arc<Credential>, slot: Option<usize>) {
        self.add(credential, slot, credential.placeholder().as_bytes());
    }

    /// The credentials that slots refer to, each once: the first slot it was found in, in the
    /// order of the credential's own slots.
    #[must_use]
    pub fn located(&self) -> &[Located] {
        &self.located
    }

    /// Whether a slot holds a reference to nothing.
    #[must_use]
    pub fn unresolved(&self) -> bool {
        self.unknown.is_some()
    }

    /// The first reference to nothing in a slot.
    #[must_use]
    pub fn unknown(&self) -> Option<&Unknown> {
        self.unknown.as_deref()
    }

    /// Whether a slot holds a reference at all, to something or to nothing.
    #[must_use]
    pub fn any(&self) -> bool {
        self.unresolved() || !self.located.is_empty()
    }

    /// Why a body that refers to a credential cannot be read in one way.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// Whether the body has to be read for a signature that is over it, because the head does not say
    /// its digest.
    #[must_use]
    pub fn wants_digest(&self, request: &InboundRequest) -> bool {
        request.body().is_none() && self.wants_all(request)
    }

    /// Whether a signature is over all of the body, because the head does not say its digest.
    #[must_use]
    pub fn wants_all(&self, request: &InboundRequest) -> bool {
        let signs =
            |l: &Located| l.slot.is_some_and(|at| l.credential.slots.get(at) == Some(&Slot::Aws));
        self.located.iter().any(signs) && aws::is_over_all(request.headers())
    }

    /// Whether a slot refers to the credential.
    #[must_use]
    pub fn refer_to(&self, credential: &Credential) -> bool {
        self.located.iter().any(|l| l.credential.name == credential.name)
    }

    /// How many references stand outside the slots.
    #[must_use]
    pub fn misplaced(&self) -> usize {
        self.misplaced
    }

    /// Whether a reference in the head, outside of all slots, is of a credential that is not bound to where
    /// the request goes. In a body it may be no more than a text that tells of it.
    #[must_use]
    pub fn moved(&self) -> bool {
        self.moved
    }

    /// The honeytoken that the request names, in a slot or outside of all.
    #[must_use]
    pub fn honeytoken(&self) -> Option<&Arc<Credential>> {
        self.honeytoken.as_ref()
    }

    /// Notes a reference to nothing in `text`, which stands in a slot.
    fn nothing(&mut self, text: &[u8], place: impl FnOnce() -> String) {
        let note = || Box::new(Unknown { name: reference::told(text), place: place().into() });
        self.unknown.get_or_insert_with(note);
    }

    /// Counts what stands outside the slots in `text`, in the head of a request to `origin`.
    fn outside(
        &mut self,
        text: &[u8],
        count: usize,
        origin: Option<&Origin>,
        index: &CredentialIndex,
    ) {
        self.misplaced += count;
        if let Some(origin) = origin {
            let mut named = reference::names_in(text).filter_map(|name| index.referred(name));
            self.moved |= named.any(|credential| !credential.is_bound_to(origin));
        }
        if let Some(bait) = index.honeytoken_in(text) {
            self.honeytoken = Some(Arc::clone(bait));
        }
    }

    fn in_header(
        &mut self,
        name: &HeaderName,
        value: &HeaderValue,
        (origin, index): (&Origin, &CredentialIndex),
    ) {
        let text = value.as_bytes();
        if name == header::AUTHORIZATION
            && let Some(key_id) = sigv4::key_id(text)
        {
            let whole = sigv4::Claim::of_header(text).is_some();
            return self.in_signature(key_id, whole, index);
        }
        for template in index.templates(name) {
            let Some(inner) = template.unwrap(text) else { continue };
            if let Some(credential) = index.named_by(inner) {
                let same = |s: &Slot| matches!(s, Slot::Header { name: n, template: t } if n == name && t == template);
                let slot = credential.slots.iter().position(same);
                return self.add(credential, slot, inner);
            }
        }
        // The value has no shape that anyone declared. Whole, or after its scheme word, it may
        // still name a credential, whose holder should hear that the shape is wrong.
        let token = text.iter().position(|b| *b == b' ').map_or(text, |at| &text[at + 1..]);
        let texts = [text, token].map(<[u8]>::trim_ascii);
        let named = texts.into_iter().find_map(|t| Some((index.named_by(t)?, t)));
        match named {
            Some((credential, sent))
                if credential.slots.iter().any(|s| s.header_name() == Some(name)) =>
            {
                self.add(credential, None, sent);
            }
            _ if index.is_slot_header(name) || name == header::AUTHORIZATION => {
                match signer_of(name, text, index) {
                    Some((credential, slot)) => {
                        self.add(credential, Some(slot), credential.name.reference().as_bytes());
                    }
                    None => self.nothing(text, || format!("header:{name}")),
                }
            }
            _ => self.outside(text, 1, Some(origin), index),
        }
    }

    /// The key id of a request to AWS. What is signed beside it cannot be read in every form.
    fn in_signature(&mut self, key_id: &str, whole: bool, index: &CredentialIndex) {
        match index.named_by(key_id.as_bytes()) {
            Some(credential) => {
                let slot = credential.slots.iter().position(|slot| *slot == Slot::Aws);
                self.add(credential, slot.filter(|_| whole), key_id.as_bytes());
            }
            None => self.nothing(key_id.as_bytes(), || Slot::Aws.label()),
        }
    }

    fn in_basic(&mut self, value: &HeaderValue, index: &CredentialIndex) {
        let Some(pair) = BasicPair::decode(value) else { return };
        for part in [BasicPart::Password, BasicPart::User] {
            let text = pair.half(part);
            if !reference::occurs(text) {
                continue;
            }
            if let Some(credential) = index.named_by(text) {
                let same = |s: &Slot| matches!(s, Slot::Basic { part: p, .. } if *p == part);
                let slot = credential.slots.iter().position(same);
                self.add(credential, slot, text);
            } else {
                let other = Box::default();
                self.nothing(text, || Slot::Basic { part, other }.label());
            }
        }
    }

    fn in_query(&mut self, query: &str, origin: &Origin, index: &CredentialIndex) {
        for pair in query::pairs(query) {
            let (name, value) = (query::decode(pair.name), query::decode(pair.value));
            if reference::occurs(&name) {
                self.outside(&name, 1, Some(origin), index);
            }
            if !reference::occurs(&value) {
                continue;
            }
            if name == b"X-Amz-Credential" {
                let key_id = value.split(|b| *b == b'/').next().unwrap_or_default();
                self.in_signature(&String::from_utf8_lossy(key_id), true, index);
                continue;
            }
            let same = |s: &Slot| matches!(s, Slot::Query { name: n } if n.as_bytes() == name);
            match index.named_by(&value) {
                Some(credential) if credential.slots.iter().any(same) => {
                    let slot = credential.slots.iter().position(same);
                    self.add(credential, slot, &value);
                }
                _ if index.is_slot_parameter(&name) => {
                    self.nothing(&value, || format!("query:{}", String::from_utf8_lossy(&name)));
                }
                _ => self.outside(&value, 1, Some(origin), index),
            }
        }
    }

    /// The credentials that the path names, each in a path slot of its own; and the places of those
    /// that are bound here, where a name has to be a credential's.
    fn in_path(&mut self, request: &InboundRequest, index: &CredentialIndex) {
        let path = request.path();
        let decoded = path::text(path);
        let named = reference::names_in(&decoded).filter_map(|name| index.referred(name));
        let bound = || index.concerned(request.origin());
        let mut found = 0;
        for credential in named.chain(bound()) {
            for (slot, template) in path_slots(credential) {
                if let Some(at) = path::place(path, template, credential) {
                    found += usize::from(!self.holds(credential));
                    self.add(credential, Some(slot), &path::text(&path[at]));
                }
            }
        }
        let mut places = bound().flat_map(|c| path_slots(c)).filter_map(|(_, t)| t?.find(path));
        if found == 0 && places.any(|at| may_refer(&path[at])) {
            self.nothing(&decoded, || "path".to_owned());
        } else {
            let others = path::count(path).max(1).saturating_sub(found);
            self.outside(&decoded, others, Some(request.origin()), index);
        }
    }

    fn in_subprotocols(&mut self, value: &HeaderValue, origin: &Origin, index: &CredentialIndex) {
        for entry in subprotocol::entries(value.as_bytes()) {
            let named = reference::names_in(entry).find_map(|name| index.referred(name));
            match named {
                Some(credential) => match subprotocol::slot(entry, credential) {
                    Some((slot, sent)) => self.add(credential, Some(slot), sent),
                    None if credential.slots.iter().any(is_subprotocol) => {
                        self.add(credential, None, entry.trim_ascii());
                    }
                    None => self.outside(entry, 1, Some(origin), index),
                },
                None if reference::occurs(entry) => self.outside(entry, 1, Some(origin), index),
                None => {}
            }
        }
    }

    fn in_body(&mut self, body: &BodyText, origin: &Origin, index: &CredentialIndex) {
        self.fault = body.fault();
        // Nothing is found in what cannot be read, and an alarm is none that can be avoided so.
        if self.fault.is_some() {
            self.honeytoken = index.honeytoken_in(body.bytes()).cloned().or(self.honeytoken.take());
        }
        let bound = || index.concerned(origin).flat_map(|c| &c.slots);
        for found in body.found() {
            let is = |slot: &Slot| found.place.is(slot);
            if let Some(credential) = index.named_by(&found.text) {
                let slot = credential.slots.iter().position(is);
                if slot.is_some() {
                    self.add(credential, slot, &found.text);
                    if found.ambiguous {
                        self.fault = Some("The field that holds the reference is there twice");
                    }
                    continue;
                }
                if credential.slots.iter().any(|slot| found.place.is_inside(slot)) {
                    self.fault = Some("The field that the credential enters is no string");
                }
            }
            let mut named =
                reference::names_in(&found.text).filter_map(|name| index.referred(name));
            match named.find(|credential| credential.slots.iter().any(is)) {
                // With other text around it.
                Some(credential) => self.add(credential, None, &found.text),
                None => match bound().find(|slot| is(slot)) {
                    Some(slot) => self.nothing(&found.text, || slot.label()),
                    None => self.outside(&found.text, 1, None, index),
                },
            }
        }
    }

    fn holds(&self, credential: &Arc<Credential>) -> bool {
        self.located.iter().any(|l| Arc::ptr_eq(&l.credential, credential))
    }

    fn add(&mut self, credential: &Arc<Credential>, slot: Option<usize>, sent: &[u8]) {
        if credential.properties.honeytoken {
            self.honeytoken = Some(Arc::clone(credential));
        }
        let known = self.located.iter_mut().find(|l| Arc::ptr_eq(&l.credential, credential));
        if let Some(known) = known {
            // The slot that stands first on the credential is where its one copy goes.
            known.slot = [known.slot, slot].into_iter().flatten().min();
            return;
        }
        // What names a credential is ASCII.
        let sent = String::from_utf8_lossy(sent).into();
        self.located.push(Located { credential: Arc::clone(credential), slot, sent });
    }
}

/// The credential that signs a field and is the only one that the field names: nothing of what a client has
/// written there goes out, so that the name may stand among other text.
fn signer_of<'i>(
    name: &HeaderName,
    text: &[u8],
    index: &'i CredentialIndex,
) -> Option<(&'i Arc<Credential>, usize)> {
    let mut named = reference::names_in(text);
    let credential = index.referred(named.next()?)?;
    let Some(Kind::Hmac(signing)) = &credential.properties.kind else { return None };
    if named.next().is_some() || !signing.owns(name) {
        return None;
    }
    let slot = credential.slots.iter().position(|slot| slot.header_name() == Some(name))?;
    Some((credential, slot))
}

/// The path slots of a credential, with their places among its slots.
fn path_slots(credential: &Credential) -> impl Iterator<Item = (usize, Option<&PathTemplate>)> {
    credential.slots.iter().enumerate().filter_map(|(at, slot)| match slot {
        Slot::Path { template } => Some((at, template.as_ref())),
        _ => None,
    })
}

fn is_subprotocol(slot: &Slot) -> bool {
    matches!(slot, Slot::Subprotocol { .. })
}

/// User name and password of a Basic header, decoded.
pub(super) struct BasicPair {
    text: Vec<u8>,
    colon: usize,
}

/// The Basic pair that the client sent, if it sent one.
pub(super) fn basic_pair(headers: &HeaderMap) -> Option<BasicPair> {
    headers.get_all(header::AUTHORIZATION).iter().find_map(BasicPair::decode)
}

impl BasicPair {
    /// Any case and spacing of the scheme, padding or none (RFC 9110 section 11.2, RFC 7617).
    fn decode(value: &HeaderValue) -> Option<Self> {
        let text = value.as_bytes().trim_ascii();
        let (scheme, rest) = text.split_at_checked(5)?;
        let token = rest.trim_ascii_start();
        if !scheme.eq_ignore_ascii_case(b"Basic") || token.len() == rest.len() {
            return None;
        }
        let text = BASE64.decode(token).or_else(|_| BASE64_NOPAD.decode(token)).ok()?;
        let colon = text.iter().position(|b| *b == b':').unwrap_or(text.len());
        Some(Self { text, colon })
    }

    pub(super) fn half(&self, part: BasicPart) -> &[u8] {
        match part {
            BasicPart::User => &self.text[..self.colon],
            BasicPart::Password => self.text.get(self.colon + 1..).unwrap_or_default(),
        }
    }

    /// The half beside the secret, when the client put the credential's reference into `part`. A
    /// second copy of the reference there is not the client's own text, and is dropped.
    pub(super) fn other_half(&self, part: BasicPart, credential: &Credential) -> Option<&[u8]> {
        let is_ours = |text: &[u8]| credential.is_named_by(text);
        let other = match part {
            BasicPart::User => BasicPart::Password,
            BasicPart::Password => BasicPart::User,
        };
        let other = self.half(other);
        (is_ours(self.half(part)) && !is_ours(other)).then_some(other)
    }
}
