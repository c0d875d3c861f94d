//! Putting secrets into a request: the places are found first, then filled all or none.
//!
//! Strip, then set: a credential owns its slots, so whatever the client sent in any of them in the
//! head is taken out, and exactly one copy of the secret goes in.

mod aws;
mod body;
mod locate;
mod path;
mod query;
mod remainder;
mod signed;
mod subprotocol;
mod watch;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::BASE64;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use body::Edits;
pub use locate::{Located, References, Unknown};
pub use remainder::{Known, Remainder, Unfollowed};
pub use watch::{Digest, DigestKey, Sighting, Watch};

use crate::credential::{BasicPart, Credential, Kind, Login, PathTemplate, Slot};
use crate::host::Origin;
use crate::mint::Material;
use crate::outcome::{Code, Refusal};
use crate::policy::{Grant, Permit};
use crate::record::{Recorded, Use};
use crate::reference::Name;
use crate::request::{BodyText, InboundRequest, is_one_field};
use crate::scrub::{self, Hidden, Interim, Needles, Undecodable, Unscrubbed};
use crate::secret::Secret;
use crate::sign::hmac::Stamp;
use crate::sign::sigv4::ChunkSigner;

/// The secrets that a permit grants, opened. Can only be made by going through a [`Permit`].
#[must_use]
pub struct Resolved {
    granted: Vec<Secret>,
    hidden: HiddenSecrets,
    /// What signatures of ours have in them that is of this request alone.
    stamp: Option<Stamp>,
}

/// What a secret becomes in a slot that encodes it; nothing where it stands as it is.
fn rendered(slot: &Slot, bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = match slot {
        Slot::Basic { part, other } => encode_pair(*part, bytes, other.as_bytes()),
        Slot::Query { .. } => query::rendered(bytes),
        Slot::Path { .. } => path::rendered(bytes),
        slot if slot.is_in_body() || matches!(slot, Slot::WebSocket { .. }) => {
            body::rendered(slot, bytes)
        }
        _ => return None,
    };
    (text.as_slice() != bytes).then_some(text)
}

/// What an answer must not contain, each with what stands for it in what the agent sees.
#[derive(Default)]
struct HiddenSecrets {
    sent: Vec<(Arc<str>, Secret)>,
    /// Keys that sign and are never sent, so that no origin can show them. They are searched for all
    /// the same, as far as that changes nothing of a request.
    unsent: Vec<(Arc<str>, Secret)>,
    /// What those that are sent become in slots that encode them.
    rendered: Vec<(Arc<str>, Zeroizing<Vec<u8>>)>,
}

impl HiddenSecrets {
    fn add(&mut self, grant: &Grant, secret: Secret) {
        let placeholder = grant.placeholder();
        let kind = grant.credential().properties.kind.as_ref();
        // A key whose signatures are seen in handshakes alone has no text that an origin could show.
        if kind == Some(&Kind::ClientCertificate) {
            return;
        }
        if let Some(kind @ Kind::Basic(_)) = kind {
            let material = Material::read(&secret, kind).unwrap_or_default();
            let password = material.password.map(|text| Secret::new(text.into_bytes()));
            self.sent.extend(password.map(|password| (Arc::clone(placeholder), password)));
            return;
        }
        let Some(kind @ (Kind::Aws(_) | Kind::Hmac(_))) = kind else {
            let slots = grant.credential().slots.iter();
            let rendered = slots.filter_map(|slot| secret.expose(|bytes| rendered(slot, bytes)));
            self.rendered.extend(rendered.map(|text| (Arc::clone(placeholder), text)));
            self.sent.push((Arc::clone(placeholder), secret));
            return;
        };
        // A passphrase beside a signature is sent.
        let signs_alone = !matches!(kind, Kind::Hmac(signing) if signing.wants_passphrase());
        let place = if signs_alone { &mut self.unsent } else { &mut self.sent };
        let parts = Material::read(&secret, kind).map(Material::parts).unwrap_or_default();
        place.extend(parts.into_iter().map(|part| (Arc::clone(placeholder), part)));
    }
}

impl Resolved {
    /// Opens the secret of each grant, in order; the first failure is the result.
    ///
    /// # Errors
    /// What `open` says.
    pub fn open(
        permit: &Permit,
        mut open: impl FnMut(&Credential, u32) -> Result<Secret, Refusal>,
    ) -> Result<Self, Refusal> {
        let mut one = |grant: &Grant| open(grant.credential(), grant.version());
        let granted = permit.grants().iter().map(&mut one).collect::<Result<_, Refusal>>()?;
        let mut hidden = HiddenSecrets::default();
        for grant in permit.hidden() {
            hidden.add(grant, one(grant)?);
        }
        Ok(Self { granted, hidden, stamp: None })
    }

    /// The same where values come from elsewhere, or need not all be had: `granted` gives the one that is
    /// injected, and `known` all those that the answer must not contain, of what is made or fetched and of
    /// what this request does not carry. What it carries is hidden by being injected.
    ///
    /// # Errors
    /// What `granted` and `known` say.
    pub fn gather<K: IntoIterator<Item = Secret>>(
        permit: &Permit,
        granted: impl FnMut(&Grant) -> Result<Secret, Refusal>,
        mut known: impl FnMut(&Grant) -> Result<K, Refusal>,
    ) -> Result<Self, Refusal> {
        let granted = permit.grants().iter().map(granted).collect::<Result<_, Refusal>>()?;
        let mut hidden = HiddenSecrets::default();
        let made = permit.grants().iter().filter(|grant| grant.credential().is_supplied());
        for grant in made.chain(permit.hidden()) {
            for secret in known(grant)? {
                hidden.add(grant, secret);
            }
        }
        Ok(Self { granted, hidden, stamp: None })
    }

    /// The same, with the time and the nonce for what is signed with a shared key.
    pub fn stamped(self, stamp: Stamp) -> Self {
        Self { stamp: Some(stamp), ..self }
    }

    /// Whether nothing that is made or fetched enters but what one of these digests is of.
    #[must_use]
    pub fn is_among(&self, permit: &Permit, digests: &[[u8; 32]]) -> bool {
        let entering = permit.grants().iter().zip(&self.granted);
        let mut made = entering.filter(|(grant, _)| grant.credential().is_supplied());
        made.all(|(_, secret)| digests.contains(&digest(secret)))
    }
}

/// What a secret can be known by without being kept.
#[must_use]
pub fn digest(secret: &Secret) -> [u8; 32] {
    secret.expose(|bytes| Sha256::digest(bytes).into())
}

/// A request as it will go on the wire. Only [`inject`] makes one.
#[must_use]
pub struct OutboundRequest {
    parts: Parts,
    origin: Origin,
    uses: Vec<Use>,
    needles: Option<Needles>,
    body: Option<Bytes>,
    chunks: Option<Box<ChunkSigner>>,
    certificate: Option<Secret>,
    undecodable: Undecodable,
}

impl OutboundRequest {
    /// Where it goes.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What was injected, for the record.
    #[must_use]
    pub fn uses(&self) -> &[Use] {
        &self.uses
    }

    /// The same, handed over: nothing after the record asks for it.
    pub(crate) fn take_uses(&mut self) -> Vec<Use> {
        std::mem::take(&mut self.uses)
    }

    /// What signs the chunks of the body as it streams, where each has a signature.
    pub(crate) fn take_chunks(&mut self) -> Option<Box<ChunkSigner>> {
        self.chunks.take()
    }

    /// The client certificate that goes with it, and its key.
    pub(crate) fn take_certificate(&mut self) -> Option<Secret> {
        self.certificate.take()
    }

    #[cfg(test)]
    pub(crate) fn into_wire<B>(self, body: B) -> (Request<B>, Origin, Option<Needles>) {
        (Request::from_parts(self.parts, body), self.origin, self.needles)
    }

    /// The method, which decides whether an answer has a body.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.parts.method
    }
}

impl Recorded<OutboundRequest> {
    /// The request as the wire takes it, and the key to its answer.
    /// The body is the client's own, or what `body` makes of it when it is told what to send instead.
    pub fn into_wire<B>(
        self,
        body: impl FnOnce(Option<Bytes>) -> B,
    ) -> (Recorded<Request<B>>, Pending) {
        let mut pending = None;
        let request = self.map(|outbound| {
            let OutboundRequest { parts, origin, needles, body: filled, undecodable, .. } =
                outbound;
            let body = body(filled);
            let method = parts.method.clone();
            let deflates = offers_deflate(&parts.headers);
            let hidden = needles.into();
            pending = Some(Pending { method, origin, hidden, undecodable, deflates });
            Request::from_parts(parts, body)
        });
        let Some(pending) = pending else { unreachable!("map calls its closure once") };
        (request, pending)
    }
}

/// A call whose answer is still to come. Knows what the answer must not contain, and turns it into
/// something that can only be scrubbed.
#[must_use]
pub struct Pending {
    method: Method,
    origin: Origin,
    hidden: Hidden,
    undecodable: Undecodable,
    deflates: bool,
}

impl Pending {
    /// Where the call went.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Takes the secret out of what comes before the answer.
    pub fn interim(&mut self, head: Response<()>) -> Interim {
        self.hidden.scrub_interim(head)
    }

    /// Takes hold of the answer.
    pub fn answered<B>(self, response: Response<B>) -> Unscrubbed<B> {
        Unscrubbed::new(response, self.method, self.hidden)
            .with_undecodable(self.undecodable)
            .with_deflate(self.deflates)
    }
}

/// Whether a handshake offers compressed messages (RFC 7692).
fn offers_deflate(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    offers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|offer| {
        let name = offer.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("permessage-deflate")
    })
}

impl fmt::Debug for OutboundRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboundRequest").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Fills every granted slot, or none.
///
/// # Errors
/// `credential-refused` when a secret cannot stand in its slot.
pub fn inject(
    request: InboundRequest,
    permit: &Permit,
    resolved: Resolved,
) -> Result<OutboundRequest, Refusal> {
    alone_in_their_places(permit)?;
    let (parts, origin, body) = request.into_parts();
    let places = places(permit);
    let (edits, needles) = (Edits::default(), Needles::default());
    let mut filling = Filling { parts, body, edits, needles, places };
    let mut uses = Vec::with_capacity(permit.grants().len());
    let (mut signature, mut signed, mut certificate) = (None, Vec::new(), None);
    for (grant, secret) in permit.grants().iter().zip(resolved.granted) {
        let slot = grant.credential().slots.get(grant.slot());
        let slot = slot.ok_or_else(|| Refusal::new(Code::Internal))?;
        if *slot == Slot::Aws {
            if signature.replace((grant, secret)).is_some() {
                return Err(Refusal::new(Code::SlotMismatch));
            }
        } else if let Some(kind @ Kind::Basic(login)) = &grant.credential().properties.kind {
            filling.fill_login(grant, slot, (kind, login), &secret)?;
        } else if *slot == Slot::Certificate {
            certificate = Some(identity(&secret)?);
        } else if signed::signs(grant) {
            // One would sign what the other changes after it.
            if !signed.is_empty() {
                return Err(Refusal::new(Code::SlotMismatch));
            }
            filling.strip(grant.credential(), slot, &secret)?;
            signed.push((grant, secret));
        } else {
            // The text of a value is no secret, in whatever form it enters.
            let plain = grant.credential().as_text().is_some();
            let before = plain.then(|| std::mem::take(&mut filling.needles));
            filling.fill(grant, slot, &secret)?;
            if let Some(before) = before {
                filling.needles = before;
            }
            // Six digits turn up by chance, and are worth nothing once they were used.
            let kind = grant.credential().properties.kind.as_ref();
            if !plain && !kind.is_some_and(Kind::is_of_the_moment) {
                filling.needles.add_late(secret, grant.placeholder());
            }
        }
        uses.push(Use {
            credential: grant.credential().name.clone(),
            version: grant.numbered(),
            slot: Some(slot.label()),
            why: grant.why(),
        });
    }
    let Filling { mut parts, body: sent, edits, mut needles, .. } = filling;
    let body = sent.as_ref().and_then(|sent| edits.apply(sent.bytes()));
    if let (Some(sent), Some(body)) = (&sent, &body) {
        set_length(&mut parts.headers, sent.bytes().len(), body.len())?;
    }
    for (placeholder, secret) in resolved.hidden.sent {
        needles.add_late(secret, &placeholder);
    }
    for (placeholder, text) in resolved.hidden.rendered {
        needles.add_rendered(&text, placeholder.as_bytes(), &placeholder);
    }
    // Why here: what is signed is what goes out, but for what makes the answer readable, which no
    // pattern may ask for; and a secret that is sent beside a signature has to be looked for.
    let begun = sent.as_ref().is_some_and(BodyText::is_begun);
    let whole = body.as_ref().or(sent.as_ref().map(BodyText::bytes)).filter(|_| !begun);
    // And this was refused before: nothing is signed over the beginning of a body.
    if begun && (permit.reads_body() || (signature.is_some() && aws::is_over_all(&parts.headers))) {
        return Err(Refusal::new(Code::Internal));
    }
    for (grant, secret) in &signed {
        let stamp = resolved.stamp.ok_or_else(|| Refusal::new(Code::Internal))?;
        let signer = signed::Signer { grant, secret, origin: &origin, stamp };
        signer.sign(&mut parts, whole, &mut needles)?;
    }
    // An answer of which a value is taken has to be read, whether a secret went up or not.
    let taken = !permit.captures().is_empty();
    if taken || !needles.is_empty() {
        make_scrubbable(&mut parts.headers);
    }
    // Why here: what is signed is what goes out. A range of an answer has nothing of a secret that
    // never left, so that one stays.
    let mut chunks = None;
    if let Some((grant, secret)) = &signature {
        let signer = aws::Signer { grant, secret, origin: &origin };
        chunks = signer.sign(&mut parts, whole, &mut needles)?.map(Box::new);
    }
    if !needles.is_empty() {
        for (placeholder, secret) in resolved.hidden.unsent {
            needles.add_late(secret, &placeholder);
        }
    }
    let needles = (taken || !needles.is_empty()).then_some(needles);
    let undecodable = permit.undecodable();
    Ok(OutboundRequest { parts, origin, uses, needles, body, chunks, certificate, undecodable })
}

/// Which slot of whose is filled, where there is more than one.
fn places(permit: &Permit) -> Vec<(&Name, &Slot)> {
    let several = permit.grants().iter().filter(|_| permit.grants().len() > 1);
    let own = several.map(|grant| (grant.credential(), grant.slot()));
    own.filter_map(|(own, slot)| Some((&own.name, own.slots.get(slot)?))).collect()
}

/// Refuses two credentials of which one would take the other out, or stand where it stands: each that a
/// request refers to owns all its places of the head. One of them would be missing, and the record would
/// have both. Those that a rule puts in unasked own the place that they are put in, as it was chosen.
///
/// # Errors
/// `bad-request`, with the two of them.
pub(crate) fn alone_in_their_places(permit: &Permit) -> Result<(), Refusal> {
    let grants = permit.grants();
    for grant in grants.iter().filter(|_| grants.len() > 1) {
        let own = grant.credential();
        let Some(slot) = own.slots.get(grant.slot()) else { continue };
        for other in grants.iter().filter(|other| other.credential().name != own.name) {
            let mut owned = other.credential().slots.iter().enumerate();
            let counts = |at: usize| !other.why().unasked || at == other.slot();
            let sets = |place: &HeaderName| match &other.credential().properties.kind {
                Some(Kind::Hmac(signing)) => {
                    signing.headers.iter().any(|(name, _)| is_one_field(name, place.as_str()))
                }
                _ => false,
            };
            if owned.any(|(at, place)| counts(at) && is_one_place(place, slot))
                || slot.header_name().is_some_and(sets)
            {
                let (own, other) = (&own.name, &other.credential().name);
                return Err(Refusal::with_detail(
                    Code::BadRequest,
                    format!(
                        "The credentials {own} and {other} claim one place of the request; refer to one of them"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Whether two slots are one header or one parameter.
fn is_one_place(one: &Slot, other: &Slot) -> bool {
    match (one, other) {
        (Slot::Query { name: one }, Slot::Query { name: other }) => one == other,
        _ => one
            .header_name()
            .zip(other.header_name())
            .is_some_and(|(one, other)| is_one_field(one.as_str(), other.as_str())),
    }
}

/// The length that the head says, by as much more or less as its body has become.
fn set_length(headers: &mut HeaderMap, sent: usize, filled: usize) -> Result<(), Refusal> {
    let Some(said) = headers.get(header::CONTENT_LENGTH) else { return Ok(()) };
    let said = said.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    let length = said.and_then(|said| said.checked_sub(sent as u64)?.checked_add(filled as u64));
    // Its reader has read it, and given us as much.
    let length = length.ok_or_else(|| Refusal::new(Code::Internal))?;
    headers.insert(header::CONTENT_LENGTH, length.into());
    Ok(())
}

/// What a handshake shows, of what lies in the vault.
fn identity(secret: &Secret) -> Result<Secret, Refusal> {
    let material = Material::read(secret, &Kind::ClientCertificate).ok();
    let identity = material.and_then(|material| material.identity);
    identity.map(|pem| Secret::new(pem.into_bytes())).ok_or_else(|| {
        Refusal::new(Code::CredentialRefused)
            .because("what lies in the vault is no client certificate with its key")
    })
}

/// The answer must be searchable: only codings that we read, and whole, because ranges could carry
/// the secret out in slices, each too short to recognise.
fn make_scrubbable(headers: &mut HeaderMap) {
    headers.insert(header::ACCEPT_ENCODING, scrub::ACCEPTED_CODINGS);
    for name in scrub::MESSAGE_CODINGS_ACCEPTED {
        if headers.contains_key(&name) {
            headers.insert(name, scrub::ACCEPTED_CODINGS);
        }
    }
    let of_ranges = |name: &HeaderName| RANGES.iter().any(|own| is_one_field(own, name.as_str()));
    let asked: Vec<_> = headers.keys().filter(|name| of_ranges(name)).cloned().collect();
    for name in asked {
        headers.remove(name);
    }
}

/// By which a client asks for a part, and on what terms: of HTTP, of Apache's older clients, and of Azure's storage.
const RANGES: [&str; 4] = ["range", "if-range", "request-range", "x-ms-range"];

/// A message of a WebSocket with the secrets in their places, and what was put there. What its answers
/// must not contain was said when the socket was opened.
///
/// # Errors
/// `internal-error` for a permit of another message.
pub fn fill_message(
    message: &BodyText,
    permit: &Permit,
    resolved: Resolved,
) -> Result<(Bytes, Vec<Use>), Refusal> {
    let nowhere = || Refusal::new(Code::Internal);
    let mut edits = Edits::default();
    let mut uses = Vec::with_capacity(permit.grants().len());
    for (grant, secret) in permit.grants().iter().zip(resolved.granted) {
        let credential = grant.credential();
        let slot = credential.slots.get(grant.slot()).ok_or_else(nowhere)?;
        // Of kinds, a message takes values that are made for it, and nothing else of what lies in the vault.
        if credential.properties.kind.as_ref().is_some_and(|kind| !kind.is_minted()) {
            return Err(nowhere());
        }
        edits.add(message, credential, slot, &secret).ok_or_else(nowhere)?;
        uses.push(Use {
            credential: credential.name.clone(),
            version: grant.numbered(),
            slot: Some(slot.label()),
            why: grant.why(),
        });
    }
    Ok((edits.apply(message.bytes()).ok_or_else(nowhere)?, uses))
}

/// A request while it is being filled.
struct Filling<'p> {
    parts: Parts,
    body: Option<BodyText>,
    edits: Edits,
    needles: Needles,
    /// What is filled, and by whom; empty where there is one.
    places: Vec<(&'p Name, &'p Slot)>,
}

impl Filling<'_> {
    fn fill(&mut self, grant: &Grant, slot: &Slot, secret: &Secret) -> Result<(), Refusal> {
        let Self { parts, needles, .. } = self;
        let mut value = None;
        match slot {
            Slot::Header { template, .. } => {
                value = Some(render(secret, template.prefix(), template.suffix())?);
            }
            Slot::Basic { part, other } => {
                let other = (*part, &**other);
                value = Some(render_basic(&parts.headers, grant, other, secret, needles)?);
            }
            Slot::Query { name } => fill_query(parts, grant, name, secret, needles)?,
            Slot::Path { template } => {
                fill_path(parts, grant, template.as_ref(), secret, needles)?;
            }
            Slot::Subprotocol { .. } | Slot::Aws | Slot::Certificate => {}
            Slot::Json { .. }
            | Slot::Form { .. }
            | Slot::Multipart { .. }
            | Slot::WebSocket { .. } => self.fill_body(grant, slot, secret)?,
        }
        self.strip(grant.credential(), slot, secret)?;
        if let (Some(name), Some(value)) = (slot.header_name(), value) {
            self.parts.headers.insert(name, value);
        }
        Ok(())
    }

    /// User name and password, each where the request refers to them.
    fn fill_login(
        &mut self,
        grant: &Grant,
        slot: &Slot,
        (kind, login): (&Kind, &Login),
        secret: &Secret,
    ) -> Result<(), Refusal> {
        let unusable = || {
            Refusal::new(Code::CredentialRefused)
                .because("what lies in the vault is no user name with its password")
        };
        let material = Material::read(secret, kind).map_err(|_| unusable())?;
        let (user, password) = material.login().map_err(|_| unusable())?;
        let own = |slot: &Slot| {
            let text = if login.is_user(slot) { user } else { password };
            Secret::new(text.as_bytes().to_vec())
        };
        if matches!(slot, Slot::Basic { .. }) {
            let known = encode_pair(
                BasicPart::Password,
                grant.placeholder().as_bytes(),
                grant.placeholder().as_bytes(),
            );
            let wire = encode_pair(BasicPart::Password, password.as_bytes(), user.as_bytes());
            self.needles.add_rendered(&wire, &known, grant.placeholder());
            let mut text = Zeroizing::new(Vec::with_capacity(6 + wire.len()));
            text.extend_from_slice(b"Basic ");
            text.extend_from_slice(&wire);
            self.strip(grant.credential(), slot, secret)?;
            self.parts.headers.insert(header::AUTHORIZATION, sensitive(text)?);
        } else if slot.is_in_body() {
            let body = self.body.as_ref().ok_or_else(|| Refusal::new(Code::Internal))?;
            let slots = grant.credential().slots.iter().filter(|slot| slot.is_in_body());
            for slot in slots {
                let value = own(slot);
                let filled = self.edits.add(body, grant.credential(), slot, &value);
                let differs = filled.filter(|filled| filled.len() != value.len());
                if let Some(filled) = differs.filter(|_| !login.is_user(slot)) {
                    let placeholder = grant.placeholder();
                    self.needles.add_rendered(filled, placeholder.as_bytes(), placeholder);
                }
            }
            self.strip(grant.credential(), slot, secret)?;
        } else {
            self.fill(grant, slot, &own(slot))?;
        }
        // A user name is told to everybody, and stands in many an answer.
        let password = Secret::new(password.as_bytes().to_vec());
        self.needles.add_late(password, grant.placeholder());
        Ok(())
    }

    /// The value as it stands in the body is noted among the needles, as that in a path is.
    fn fill_body(&mut self, grant: &Grant, slot: &Slot, secret: &Secret) -> Result<(), Refusal> {
        let nowhere = || Refusal::new(Code::Internal);
        let body = self.body.as_ref().ok_or_else(nowhere)?;
        let value = self.edits.add(body, grant.credential(), slot, secret).ok_or_else(nowhere)?;
        if value.len() != secret.len() {
            let placeholder = grant.placeholder();
            self.needles.add_rendered(value, placeholder.as_bytes(), placeholder);
        }
        Ok(())
    }
    /// Removes what the client sent in any place of the head that is a slot of the credential, but for
    /// `own`, which is being filled, and for those that another credential fills.
    fn strip(
        &mut self,
        credential: &Credential,
        own: &Slot,
        secret: &Secret,
    ) -> Result<(), Refusal> {
        let Self { parts, places, .. } = self;
        let others = places.iter().filter(|(name, _)| **name != credential.name);
        let filled = |slot: &&Slot| others.clone().any(|(_, place)| is_one_place(place, slot));
        let emptied = || credential.slots.iter().filter(|slot| !filled(slot));
        for name in emptied().filter_map(Slot::header_name) {
            parts.headers.remove(name);
            strip_namesakes(&mut parts.headers, name);
        }
        if let Some(query) = parts.uri.query() {
            let is_another = |sent: &[u8]| {
                let mut others = emptied().filter(|slot| *slot != own);
                others.any(|slot| matches!(slot, Slot::Query { name } if name.as_bytes() == sent))
            };
            if let Some(target) = query::without(parts.uri.path(), query, is_another) {
                parts.uri = target_of(Zeroizing::new(target.into_bytes()))?;
            }
        }
        let entry = match own {
            Slot::Subprotocol { template } => Some((template, secret)),
            _ => None,
        };
        let lists = |slot: &Slot| matches!(slot, Slot::Subprotocol { .. });
        if parts.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
            && credential.slots.iter().any(lists)
        {
            subprotocol::rewrite(&mut parts.headers, credential, entry)?;
        }
        Ok(())
    }
}

/// Removes what an origin may join with the field, or take in its place: `X_Api_Key` is `X-Api-Key` to
/// whoever reads fields as CGI has them.
fn strip_namesakes(headers: &mut HeaderMap, name: &HeaderName) {
    let is_namesake = |other: &&HeaderName| is_one_field(other.as_str(), name.as_str());
    // Each removal leaves one less.
    while let Some(other) = headers.keys().find(is_namesake).cloned() {
        headers.remove(other);
    }
}

/// A field value around the secret. Its memory is wiped when the last holder lets go of it, and it
/// is marked sensitive, so that `Debug` hides it and HPACK never indexes it (RFC 7541 section 7.1).
fn render(secret: &Secret, prefix: &str, suffix: &str) -> Result<HeaderValue, Refusal> {
    let text = secret.expose(|bytes| {
        let mut text =
            Zeroizing::new(Vec::with_capacity(prefix.len() + bytes.len() + suffix.len()));
        text.extend_from_slice(prefix.as_bytes());
        text.extend_from_slice(bytes);
        text.extend_from_slice(suffix.as_bytes());
        text
    });
    sensitive(text)
}

fn sensitive(text: Zeroizing<Vec<u8>>) -> Result<HeaderValue, Refusal> {
    // Visible ASCII only: `add` refuses the rest, and this is the second lock on that door.
    let unfit =
        || Refusal::new(Code::CredentialRefused).because("the secret cannot stand in a header");
    if !text.iter().fold(true, |fit, b| fit & (0x20..0x7f).contains(b)) {
        return Err(unfit());
    }
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).map_err(|_| unfit())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Basic credentials (RFC 7617) with the client's other half kept. The encoded pair is noted among
/// the needles as a whole, so that an echo of it becomes the pair that the client knows.
fn render_basic(
    headers: &HeaderMap,
    grant: &Grant,
    (part, other): (BasicPart, &str),
    secret: &Secret,
    needles: &mut Needles,
) -> Result<HeaderValue, Refusal> {
    let sent = locate::basic_pair(headers);
    let sent_other = sent.as_ref().and_then(|pair| pair.other_half(part, grant.credential()));
    let other = sent_other.unwrap_or(other.as_bytes());
    let known = encode_pair(part, grant.placeholder().as_bytes(), other);
    let wire = secret.expose(|bytes| encode_pair(part, bytes, other));
    needles.add_rendered(&wire, &known, grant.placeholder());
    let mut text = Zeroizing::new(Vec::with_capacity(6 + wire.len()));
    text.extend_from_slice(b"Basic ");
    text.extend_from_slice(&wire);
    sensitive(text)
}

fn encode_pair(part: BasicPart, secret: &[u8], other: &[u8]) -> Zeroizing<Vec<u8>> {
    let (user, password) = match part {
        BasicPart::User => (secret, other),
        BasicPart::Password => (other, secret),
    };
    let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + password.len() + 1));
    pair.extend_from_slice(user);
    pair.push(b':');
    pair.extend_from_slice(password);
    let mut text = Zeroizing::new(vec![0; BASE64.encode_len(pair.len())]);
    BASE64.encode_mut(&pair, &mut text);
    text
}

fn fill_query(
    parts: &mut Parts,
    grant: &Grant,
    name: &str,
    secret: &Secret,
    needles: &mut Needles,
) -> Result<(), Refusal> {
    let value = secret.expose(query::rendered);
    if value.len() != secret.len() {
        needles.add_rendered(&value, grant.placeholder().as_bytes(), grant.placeholder());
    }
    let target = query::with_secret(parts.uri.path(), parts.uri.query(), name, secret);
    parts.uri = target_of(target)?;
    Ok(())
}

/// The value as it stands in the path is noted among the needles: no other place has it in just this
/// form.
fn fill_path(
    parts: &mut Parts,
    grant: &Grant,
    template: Option<&PathTemplate>,
    secret: &Secret,
    needles: &mut Needles,
) -> Result<(), Refusal> {
    let path = parts.uri.path();
    let at = path::place(path, template, grant.credential());
    let at = at.ok_or_else(|| Refusal::new(Code::Internal))?;
    let filled = path::with_secret(path, at, parts.uri.query(), secret);
    let filled = filled.ok_or_else(|| {
        Refusal::new(Code::CredentialRefused).because("the secret would be a dot segment")
    })?;
    if filled.value.len() != secret.len() {
        let placeholder = grant.placeholder();
        needles.add_rendered(&filled.value, placeholder.as_bytes(), placeholder);
    }
    parts.uri = target_of(filled.target)?;
    Ok(())
}

fn target_of(text: Zeroizing<Vec<u8>>) -> Result<Uri, Refusal> {
    let target = PathAndQuery::from_maybe_shared(Bytes::from_owner(text)).map_err(|_| {
        Refusal::new(Code::CredentialRefused).because("the secret cannot stand in a URL")
    })?;
    Ok(Uri::from(target))
}

/// The path that this request would have, with the letters and digits of secrets masked, where an
/// origin could read it in more ways than the path that was decided on: the decision has to hold for
/// those too ([`Policy::holds_for`](crate::policy::Policy::holds_for)).
#[must_use]
pub fn masked_path(
    request: &InboundRequest,
    permit: &Permit,
    resolved: &Resolved,
) -> Option<String> {
    permit.grants().iter().zip(&resolved.granted).find_map(|(grant, secret)| {
        let Some(Slot::Path { template }) = grant.credential().slots.get(grant.slot()) else {
            return None;
        };
        let at = path::place(request.path(), template.as_ref(), grant.credential())?;
        path::masked(request.path(), at, secret)
    })
}

/// Names who may share a connection: one agent, with one version of each credential. Connections
/// are never reused across principals, because an origin may tie an identity to its connection.
#[must_use]
pub fn principal(workspace: &str, agent: &str, uses: &[Use]) -> Arc<str> {
    let mut text = String::with_capacity(128);
    for part in [workspace, "/", agent] {
        text.push_str(part);
    }
    for item in uses {
        for part in ["+", item.credential.as_str(), "@"] {
            text.push_str(part);
        }
        // Writing to a text cannot fail.
        let _ = write!(text, "{}", item.version.unwrap_or_default());
    }
    text.into()
}

/// Whether connections of this principal are those of somebody of a workspace.
#[must_use]
pub fn is_of(principal: &str, workspace: &Name) -> bool {
    principal.split_once('/').is_some_and(|(own, _)| own == workspace.as_str())
}

/// Whether connections of this principal carry one version of a workspace's credential.
#[must_use]
pub fn carries(principal: &str, (workspace, credential): (&Name, &Name), version: u32) -> bool {
    if !is_of(principal, workspace) {
        return false;
    }
    let mut uses = principal.split('+').skip(1).filter_map(|part| part.rsplit_once('@'));
    uses.any(|(name, at)| name == credential.as_str() && at.parse() == Ok(version))
}

#[cfg(test)]
mod tests;
