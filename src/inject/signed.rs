//! Signing a request with a shared key, as the last step before it goes out: everything else of it is
//! final.

use bytes::Bytes;
use http::HeaderName;
use http::request::Parts;
use zeroize::Zeroizing;

use super::{query, sensitive, strip_namesakes, target_of};
use crate::credential::{Kind, Pattern, Signing, Word};
use crate::host::Origin;
use crate::mint::Material;
use crate::outcome::{Code, Refusal};
use crate::policy::Grant;
use crate::request::is_one_field;
use crate::scrub::Needles;
use crate::secret::Secret;
use crate::sign::hmac::{self, Message, Stamp, Words, form_values};

/// What signs, and for whom.
pub(super) struct Signer<'a> {
    pub(super) grant: &'a Grant,
    pub(super) secret: &'a Secret,
    pub(super) origin: &'a Origin,
    pub(super) stamp: Stamp,
}

/// Whether the credential of a grant signs with a shared key.
pub(super) fn signs(grant: &Grant) -> bool {
    matches!(grant.credential().properties.kind, Some(Kind::Hmac(_)))
}

impl Signer<'_> {
    /// Signs. Whatever the client had in the places of the signature is taken out.
    pub(super) fn sign(
        &self,
        parts: &mut Parts,
        body: Option<&Bytes>,
        needles: &mut Needles,
    ) -> Result<(), Refusal> {
        let Some(kind @ Kind::Hmac(signing)) = &self.grant.credential().properties.kind else {
            return Err(Refusal::new(Code::Internal));
        };
        let material = Material::read(self.secret, kind).map_err(|_| unusable())?;
        let key = material.key.as_deref().and_then(|text| hmac::key(signing.key, text));
        let key = key.ok_or_else(unusable)?;
        clear(parts, signing)?;
        let mut words = Words {
            timestamp: signing.timestamp,
            stamp: self.stamp,
            key_id: signing.key_id.as_deref().unwrap_or_default(),
            passphrase: material.passphrase.as_deref().unwrap_or_default(),
            signature: "",
            parts: &signing.parts,
        };
        let host = self.origin.host_field();
        let body = body.map_or(&[][..], |body| body);
        is_one_reading(parts, signing, body)?;
        // What is not the signature may itself be signed.
        set(parts, signing, (&words, false), (&host, body))?;
        let request = message(parts, &host, body);
        let key = hmac::signing_key(signing, key, &words, &request);
        let signature = hmac::signature(signing, &key, &words.fill(&signing.message, &request));
        words.signature = &signature;
        set(parts, signing, (&words, true), (&host, body))?;
        // Good for this request, and by some patterns for others: what an origin shows of it is hidden, too.
        let signature = Secret::new(signature.into_bytes());
        for part in material.parts().into_iter().chain([signature]) {
            needles.add_late(part, self.grant.placeholder());
        }
        Ok(())
    }
}

/// A field that is signed and there twice, by its own name or one that an origin may take for it, could be read in
/// two ways, of which one is not signed.
fn is_one_reading(parts: &Parts, signing: &Signing, body: &[u8]) -> Result<(), Refusal> {
    let twice = |word: &Word| match word {
        Word::Header(name) => {
            let same = |other: &HeaderName| is_one_field(other.as_str(), name.as_str());
            let mut all = parts.headers.iter().filter(|(other, _)| same(other));
            all.nth(1).map(|_| name.as_str().to_owned())
        }
        Word::Form(name) => form_values(body, name.as_bytes()).nth(1).map(|_| name.to_string()),
        _ => None,
    };
    match signing.signed_words().into_iter().find_map(twice) {
        Some(name) => {
            let detail = format!("The request has the field {name} twice, and is signed over it");
            Err(Refusal::with_detail(Code::BadRequest, detail))
        }
        None => Ok(()),
    }
}

/// Sets the fields and parameters that have the signature in them, or those that have not.
fn set(
    parts: &mut Parts,
    signing: &Signing,
    (words, signed): (&Words<'_>, bool),
    (host, body): (&str, &[u8]),
) -> Result<(), Refusal> {
    let due = |pattern: &Pattern| pattern.has(&Word::Signature) == signed;
    for (name, pattern) in signing.headers.iter().filter(|(_, pattern)| due(pattern)) {
        let name: HeaderName = name.parse().map_err(|_| Refusal::new(Code::Internal))?;
        let value = words.fill(pattern, &message(parts, host, body));
        parts.headers.insert(name, sensitive(value)?);
    }
    for (name, pattern) in signing.parameters.iter().filter(|(_, pattern)| due(pattern)) {
        let value = words.fill(pattern, &message(parts, host, body));
        let value = Secret::new(value.to_vec());
        let target = query::with_secret(parts.uri.path(), parts.uri.query(), name, &value);
        parts.uri = target_of(target)?;
    }
    Ok(())
}

fn message<'a>(parts: &'a Parts, host: &'a str, body: &'a [u8]) -> Message<'a> {
    Message {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        host,
        headers: &parts.headers,
        body,
    }
}

/// Takes out what the client sent in the places that are the signature's, and what an origin may join with them.
fn clear(parts: &mut Parts, signing: &Signing) -> Result<(), Refusal> {
    for (name, _) in &signing.headers {
        let name: HeaderName = name.parse().map_err(|_| Refusal::new(Code::Internal))?;
        parts.headers.remove(&name);
        strip_namesakes(&mut parts.headers, &name);
    }
    let ours = |sent: &[u8]| signing.parameters.iter().any(|(name, _)| name.as_bytes() == sent);
    let query = parts.uri.query().unwrap_or_default();
    if let Some(target) = query::without(parts.uri.path(), query, ours) {
        parts.uri = target_of(Zeroizing::new(target.into_bytes()))?;
    }
    Ok(())
}

fn unusable() -> Refusal {
    Refusal::new(Code::CredentialRefused).because("what lies in the vault is no key of this kind")
}
