//! Keys for a session in a role of AWS (STS, `AssumeRole`).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::material::Material;
use super::oauth::encode;
use super::{Call, MintError, Minted};
use crate::credential::{Endpoint, Role};
use crate::secret::Secret;
use crate::sign::sigv4::{OwnCall, OwnKey, sign_own};

/// How long a session lasts where nothing is said: STS's own default.
const SESSION: u32 = 3600;

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

pub(super) fn call(role: &Role, material: &Material, now: i64) -> Result<Call, MintError> {
    let (key_id, secret) = material.aws_key()?;
    let duration = role.duration.unwrap_or(SESSION).to_string();
    let form = form(&[
        ("Action", Some("AssumeRole")),
        ("Version", Some("2011-06-15")),
        ("RoleArn", Some(&*role.arn)),
        ("RoleSessionName", Some(&*role.session)),
        ("DurationSeconds", Some(&*duration)),
        ("ExternalId", role.external_id.as_deref()),
    ]);
    let headers = signed(role, (key_id, secret), material.session_token.as_deref(), &form, now)?;
    Ok(Call {
        endpoint: role.endpoint.clone(),
        method: Method::POST,
        headers,
        body: Bytes::from(form.into_bytes()),
    })
}

/// Pairs as a form, without those that have no value.
fn form(pairs: &[(&str, Option<&str>)]) -> String {
    let mut form = String::new();
    for (name, value) in pairs.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        encode(&mut form, value);
    }
    form
}

fn signed(
    role: &Role,
    (id, secret): (&str, &str),
    session: Option<&str>,
    form: &str,
    now: i64,
) -> Result<HeaderMap, MintError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(FORM));
    let call = OwnCall {
        region: &role.region,
        service: "sts",
        method: "POST",
        host: &role.endpoint.origin().host_field(),
        target: role.endpoint.target(),
        body: form.as_bytes(),
    };
    sign_own(headers, &OwnKey { id, secret, session }, &call, now)
        .ok_or(MintError::Failed("the key cannot stand in a header"))
}

/// The call that has a token of a workload's own exchanged for the keys of a session
/// (`AssumeRoleWithWebIdentity`). The token shows who calls; nothing is signed.
#[must_use]
pub fn with_web_identity(endpoint: Endpoint, role: &str, session: &str, token: &str) -> Call {
    let form = form(&[
        ("Action", Some("AssumeRoleWithWebIdentity")),
        ("Version", Some("2011-06-15")),
        ("RoleArn", Some(role)),
        ("RoleSessionName", Some(session)),
        ("WebIdentityToken", Some(token)),
    ]);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(FORM));
    let body = Bytes::from_owner(zeroize::Zeroizing::new(form.into_bytes()));
    Call { endpoint, method: Method::POST, headers, body }
}

/// The keys of a session, out of an answer of STS.
#[must_use]
pub fn session_keys(body: &Secret) -> Option<Material> {
    body.expose(|bytes| keys(std::str::from_utf8(bytes).ok()?))
}

fn keys(text: &str) -> Option<Material> {
    let credentials = element(text, "Credentials")?;
    let part = |name| element(credentials, name).map(str::to_owned);
    let material = Material {
        access_key_id: part("AccessKeyId"),
        secret_access_key: part("SecretAccessKey"),
        session_token: part("SessionToken"),
        ..Material::default()
    };
    let whole = material.aws_key().is_ok() && material.session_token.is_some();
    whole.then_some(material)
}

pub(super) fn answer(role: &Role, status: StatusCode, body: &Secret) -> Result<Minted, MintError> {
    body.expose(|bytes| {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        if !status.is_success() {
            return Err(refused(status, element(text, "Code").unwrap_or_default()));
        }
        let material =
            keys(text).ok_or(MintError::Failed("it answered without the keys of a session"))?;
        let lifetime = Duration::from_secs(role.duration.unwrap_or(SESSION).into());
        Ok(Minted { value: material.to_secret(), lifetime, replacement: None })
    })
}

/// What an error of STS means.
fn refused(status: StatusCode, code: &str) -> MintError {
    match code {
        "SignatureDoesNotMatch" => MintError::Refused("it answered SignatureDoesNotMatch"),
        "InvalidClientTokenId" => MintError::Refused("it answered InvalidClientTokenId"),
        "ExpiredToken" => MintError::Refused("it answered ExpiredToken"),
        "AccessDenied" => {
            MintError::Refused("it answered AccessDenied: the key may not assume the role")
        }
        "RequestExpired" => MintError::Failed("it answered RequestExpired"),
        _ if status == StatusCode::FORBIDDEN => MintError::Refused("it answered 403"),
        _ => MintError::Failed("it answered with an error"),
    }
}

/// What stands in an element, of which the answer has one. Keys and tokens have nothing in them that
/// XML would escape.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let from = text.find(&open)? + open.len();
    let inside = text.get(from..)?;
    Some(inside.get(..inside.find(&close)?)?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::sigv4::Claim;

    fn role() -> Role {
        serde_json::from_str(r#"{"arn":"arn:aws:iam::1:role/r","endpoint":"https://sts.eu-west-1.amazonaws.com/","region":"eu-west-1","session":"locum","external-id":"x y"}"#).unwrap()
    }

    fn material() -> Material {
        serde_json::from_str(r#"{"AccessKeyId":"AKIA1","SecretAccessKey":"s"}"#).unwrap()
    }

    #[test]
    fn the_call_is_signed_for_sts() {
        let call = call(&role(), &material(), 1_369_353_600).unwrap_or_else(|e| panic!("{e}"));
        let body = std::str::from_utf8(&call.body).unwrap();
        assert_eq!(
            body,
            "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&RoleSessionName=locum&DurationSeconds=3600&ExternalId=x+y"
        );
        let authorization = &call.headers[header::AUTHORIZATION];
        assert!(authorization.is_sensitive());
        let claim = Claim::of_header(authorization.as_bytes()).unwrap();
        assert_eq!(
            (&*claim.key_id, claim.scope()),
            ("AKIA1", "20130524/eu-west-1/sts/aws4_request".into())
        );
        assert_eq!(claim.signed_headers, ["content-type", "host", "x-amz-date"]);
    }

    #[test]
    fn an_answer_gives_keys_or_says_why_not() {
        let read = |status, text: &str| {
            answer(&role(), StatusCode::from_u16(status).unwrap(), &Secret::new(text.into()))
        };
        let good = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>k/+=</SecretAccessKey><SessionToken> t== </SessionToken><Expiration>2013</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
        let minted = read(200, good).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(minted.lifetime, Duration::from_hours(1));
        let value = minted.value.expose(<[u8]>::to_vec);
        assert_eq!(
            value,
            br#"{"access_key_id":"ASIA1","secret_access_key":"k/+=","session_token":"t=="}"#
        );
        let refused = |status, text: &str| matches!(read(status, text), Err(MintError::Refused(_)));
        assert!(refused(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>"));
        assert!(refused(403, "nonsense"));
        for (status, text) in [
            (200, ""),
            (200, "<Credentials>"),
            (500, "x"),
            (200, "<Credentials><AccessKeyId>A</AccessKeyId></Credentials>"),
        ] {
            assert!(matches!(read(status, text), Err(MintError::Failed(_))), "{text}");
        }
    }
}
