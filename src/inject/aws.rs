//! Signing a request to AWS anew, as the last step before it goes out: everything else of it is final.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use zeroize::Zeroizing;

use super::{query, sensitive, target_of};
use crate::credential::{Aws, Kind};
use crate::host::Origin;
use crate::mint::Material;
use crate::outcome::{Code, Refusal};
use crate::policy::Grant;
use crate::scrub::Needles;
use crate::secret::Secret;
use crate::sign::sigv4::{
    Canonical, ChunkSigner, Claim, OF_NOTHING, Payload, SigningKey, is_moment_of, sha256,
};

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// What signs, and for whom.
pub(super) struct Signer<'a> {
    pub(super) grant: &'a Grant,
    pub(super) secret: &'a Secret,
    pub(super) origin: &'a Origin,
}

/// Whether the signature is over all of the body, of which the head does not say the digest.
pub(super) fn is_over_all(headers: &http::HeaderMap) -> bool {
    Payload::of(headers) == Some(Payload::Unsaid)
}

/// What the client says of a signature, wherever it stands.
struct Asked {
    claim: Claim,
    time: String,
    presigned: bool,
}

impl Signer<'_> {
    /// Signs the head. Where each chunk of the body has a signature, what signs those is given back.
    pub(super) fn sign(
        &self,
        parts: &mut Parts,
        body: Option<&Bytes>,
        needles: &mut Needles,
    ) -> Result<Option<ChunkSigner>, Refusal> {
        let asked = asked(parts).ok_or_else(|| Refusal::new(Code::SlotMismatch))?;
        let Some(Kind::Aws(aws)) = &self.grant.credential().properties.kind else {
            return Err(Refusal::new(Code::Internal));
        };
        fits(aws, self.origin, &asked.claim)
            .map_err(|why| Refusal::new(Code::CredentialRefused).because(why))?;
        let payload =
            Payload::of(&parts.headers).ok_or_else(|| Refusal::new(Code::SlotMismatch))?;
        let material = Material::read(self.secret, &Kind::Aws(aws.clone()));
        let material = material.map_err(|_| unusable())?;
        let (key_id, secret) = material.aws_key().map_err(|_| unusable())?;
        let session = material.session_token.as_deref();
        let key = SigningKey::derive(secret, &asked.claim);
        let digest = digest(&asked, &payload, body);
        let signature = if asked.presigned {
            presign(parts, &asked, (key_id, session), &key, &digest)?
        } else {
            sign_head(parts, &asked, (key_id, session), &key, &digest)?
        };
        self.hide(&asked.claim, &signature, key_id, needles);
        for part in
            Material::read(self.secret, &Kind::Aws(aws.clone())).map_err(|_| unusable())?.parts()
        {
            needles.add_late(part, self.grant.placeholder());
        }
        Ok(match payload {
            Payload::Chunks { trailers, .. } => {
                Some(ChunkSigner::new(key, asked.time, signature, trailers))
            }
            Payload::Said(_) | Payload::Unsaid => None,
        })
    }

    /// What an answer quotes of the signature becomes what the client knows of it.
    fn hide(&self, claim: &Claim, signature: &str, key_id: &str, needles: &mut Needles) {
        let placeholder = self.grant.placeholder();
        needles.add_rendered(signature.as_bytes(), claim.signature.as_bytes(), placeholder);
        needles.add_rendered(key_id.as_bytes(), placeholder.as_bytes(), placeholder);
    }
}

fn unusable() -> Refusal {
    Refusal::new(Code::CredentialRefused).because("what lies in the vault is no key of AWS")
}

/// What the client says, in the head or else in the query; none when it says it twice or not in full.
fn asked(parts: &Parts) -> Option<Asked> {
    let mut headers = parts.headers.get_all(header::AUTHORIZATION).iter();
    if let Some(value) = headers.next() {
        let claim = Claim::of_header(value.as_bytes()).filter(|_| headers.next().is_none())?;
        let mut times = parts.headers.get_all(DATE).iter();
        let time = times.next().filter(|_| times.next().is_none())?.to_str().ok()?.to_owned();
        return is_moment_of(&time, &claim.date).then_some(Asked { claim, time, presigned: false });
    }
    let query = parts.uri.query()?;
    let one = |wanted: &str| {
        let mut found =
            query::pairs(query).filter(|pair| query::decode(pair.name) == wanted.as_bytes());
        let value = found.next().filter(|_| found.next().is_none())?.value;
        String::from_utf8(query::decode(value)).ok()
    };
    let signature = one("X-Amz-Signature")?;
    let claim = Claim::of(&one("X-Amz-Credential")?, &one("X-Amz-SignedHeaders")?, &signature)?;
    let time = one("X-Amz-Date").filter(|time| is_moment_of(time, &claim.date))?;
    let known = one("X-Amz-Algorithm")? == crate::sign::sigv4::ALGORITHM;
    known.then_some(Asked { claim, time, presigned: true })
}

fn digest(asked: &Asked, payload: &Payload, body: Option<&Bytes>) -> String {
    match payload {
        Payload::Said(said) | Payload::Chunks { said, .. } => said.clone(),
        Payload::Unsaid if asked.presigned && asked.claim.is_s3() => "UNSIGNED-PAYLOAD".to_owned(),
        Payload::Unsaid => body.map_or_else(|| OF_NOTHING.to_owned(), |body| sha256(body)),
    }
}

fn sign_head(
    parts: &mut Parts,
    asked: &Asked,
    (key_id, session): (&str, Option<&str>),
    key: &SigningKey,
    digest: &str,
) -> Result<String, Refusal> {
    let mut claim = asked.claim.clone();
    parts.headers.remove(&TOKEN);
    if let Some(session) = session {
        parts.headers.insert(TOKEN, hidden_value(session)?);
        let name = TOKEN.as_str().to_owned();
        if let Err(at) = claim.signed_headers.binary_search(&name) {
            claim.signed_headers.insert(at, name);
        }
    }
    let (names, canonical) = canonical(parts).text(&claim, digest);
    let signature = key.sign(&asked.time, &canonical);
    let value = claim.header(key_id, &names, &signature);
    parts.headers.insert(header::AUTHORIZATION, hidden_value(&value)?);
    Ok(signature)
}

fn presign(
    parts: &mut Parts,
    asked: &Asked,
    (key_id, session): (&str, Option<&str>),
    key: &SigningKey,
    digest: &str,
) -> Result<String, Refusal> {
    let path = parts.uri.path().to_owned();
    let mut target = Zeroizing::new(Vec::with_capacity(4096));
    target.extend_from_slice(path.as_bytes());
    let mut separator = b'?';
    let mut push = |name: &str, value: &str, target: &mut Vec<u8>| {
        target.push(std::mem::replace(&mut separator, b'&'));
        target.extend_from_slice(name.as_bytes());
        target.push(b'=');
        target.extend_from_slice(value.as_bytes());
    };
    let escaped = |text: &str| {
        let mut out = Zeroizing::new(Vec::with_capacity(3 * text.len()));
        query::push_encoded(&mut out, text.as_bytes(), b"-._~");
        String::from_utf8_lossy(&out).into_owned()
    };
    for pair in query::pairs(parts.uri.query().unwrap_or_default()) {
        match &*query::decode(pair.name) {
            b"X-Amz-Signature" | b"X-Amz-Security-Token" => {}
            b"X-Amz-Credential" => {
                let credential = escaped(&format!("{key_id}/{}", asked.claim.scope()));
                push("X-Amz-Credential", &credential, &mut target);
            }
            _ => push(pair.name, pair.value, &mut target),
        }
    }
    if let Some(session) = session {
        push("X-Amz-Security-Token", &escaped(session), &mut target);
    }
    parts.uri = target_of(target.clone())?;
    let (_, canonical) = canonical(parts).text(&asked.claim, digest);
    let signature = key.sign(&asked.time, &canonical);
    push("X-Amz-Signature", &signature, &mut target);
    parts.uri = target_of(target)?;
    Ok(signature)
}

fn canonical(parts: &Parts) -> Canonical<'_> {
    Canonical {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
    }
}

fn hidden_value(text: &str) -> Result<HeaderValue, Refusal> {
    sensitive(Zeroizing::new(text.as_bytes().to_vec()))
}

/// Whether what is asked for may be signed, and belongs to where it goes.
fn fits(aws: &Aws, origin: &Origin, claim: &Claim) -> Result<(), &'static str> {
    let Claim { region, service, .. } = claim;
    if !aws.regions.is_empty() && !aws.regions.contains(region) {
        return Err("the credential signs for other regions of AWS");
    }
    if !aws.services.is_empty() {
        let known = aws.services.contains(service);
        return if known { Ok(()) } else { Err("the credential signs for other services of AWS") };
    }
    let host = origin.authority.host.to_string();
    let Some(labels) = own_labels(&host) else { return Ok(()) };
    let labels: Vec<&str> = labels.split('.').collect();
    let regional = labels.iter().find(|label| is_region(label));
    if regional.is_some_and(|label| label != region) {
        return Err("the signature is for another region than the host");
    }
    if labels.iter().any(|label| serves(label, service)) {
        return Ok(());
    }
    Err("the signature is for another service than the host")
}

/// The name of a host of AWS without its suffix; none for hosts of others.
fn own_labels(host: &str) -> Option<&str> {
    [".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".on.aws", ".aws.dev"]
        .iter()
        .find_map(|suffix| host.strip_suffix(suffix))
}

/// `us-east-1`, `us-gov-west-1`, `ap-southeast-2`.
fn is_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let word = |part: &&str| part.bytes().all(|b| b.is_ascii_lowercase()) && !part.is_empty();
    matches!(parts.as_slice(), [area, .., number]
        if (3..=4).contains(&parts.len())
            && area.len() == 2
            && number.bytes().all(|b| b.is_ascii_digit())
            && !number.is_empty()
            && parts[..parts.len() - 1].iter().all(word))
}

/// Whether a label names a service: by its signing name, by one that begins with it
/// (`bedrock-runtime`), or by a name of its own.
fn serves(label: &str, service: &str) -> bool {
    let own = match service {
        "ses" => "email",
        "codecommit" => "git-codecommit",
        "iotdata" | "iotdevicegateway" => "iot",
        "aws-marketplace" => "marketplace",
        "cloudsearch" => "cloudsearch",
        "elasticmapreduce" => "elasticmapreduce",
        "execute-api" => "execute-api",
        "mobiletargeting" => "pinpoint",
        "opsworks-cm" => "opsworks-cm",
        "s3express" => "s3express-control",
        _ => service,
    };
    let begins = label.strip_prefix(service).is_some_and(|rest| rest.starts_with('-'));
    label == service
        || label == own
        || begins
        || (service == "s3express" && label.starts_with("s3express"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Authority, Scheme};

    fn verdict(host: &str, region: &str, service: &str, aws: &Aws) -> Result<(), &'static str> {
        let authority = Authority::parse(host, Some(443)).unwrap();
        let scope = format!("AKIA/20130524/{region}/{service}/aws4_request");
        let claim = Claim::of(&scope, "host", &"0".repeat(64)).unwrap();
        fits(aws, &Origin { scheme: Scheme::Https, authority }, &claim)
    }

    #[test]
    fn a_scope_belongs_to_the_host_it_is_sent_to() {
        let any = Aws::default();
        for (host, region, service) in [
            ("sts.amazonaws.com", "us-east-1", "sts"),
            ("sts.eu-west-1.amazonaws.com", "eu-west-1", "sts"),
            ("dynamodb.us-east-1.amazonaws.com", "us-east-1", "dynamodb"),
            ("streams.dynamodb.us-east-1.amazonaws.com", "us-east-1", "dynamodb"),
            ("s3.amazonaws.com", "us-west-2", "s3"),
            ("my.bucket.s3.us-west-2.amazonaws.com", "us-west-2", "s3"),
            ("b.s3.dualstack.us-west-2.amazonaws.com", "us-west-2", "s3"),
            ("b.s3-accelerate.amazonaws.com", "us-west-2", "s3"),
            ("bedrock-runtime.us-gov-west-1.amazonaws.com", "us-gov-west-1", "bedrock"),
            ("email.us-east-1.amazonaws.com", "us-east-1", "ses"),
            ("x1.execute-api.us-east-1.amazonaws.com", "us-east-1", "execute-api"),
            ("minio.internal", "eu-1", "s3"),
        ] {
            assert_eq!(verdict(host, region, service, &any), Ok(()), "{host}");
        }
        for (host, region, service) in [
            ("sts.eu-west-1.amazonaws.com", "us-east-1", "sts"),
            ("dynamodb.us-east-1.amazonaws.com", "us-east-1", "iam"),
            ("b.s3.us-west-2.amazonaws.com", "us-west-2", "sts"),
            ("secretsmanager.us-east-1.amazonaws.com", "us-east-2", "secretsmanager"),
        ] {
            assert!(verdict(host, region, service, &any).is_err(), "{host}");
        }
        let some = Aws {
            regions: vec!["eu-west-1".to_owned()],
            services: vec!["s3".to_owned()],
            ..Aws::default()
        };
        assert_eq!(verdict("odd.amazonaws.com", "eu-west-1", "s3", &some), Ok(()));
        assert!(verdict("odd.amazonaws.com", "eu-west-1", "sts", &some).is_err());
        assert!(verdict("odd.amazonaws.com", "us-east-1", "s3", &some).is_err());
    }
}
