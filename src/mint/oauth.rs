//! Access tokens by OAuth 2.0: RFC 6749 (refresh, client credentials), RFC 8693 (exchange), RFC 7523
//! (assertions).

use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::jwt::unique;
use super::material::Material;
use super::{Call, LONGEST, MintError, Minted, UNSAID, token};
use crate::credential::{ClientAuth, Oauth, OauthGrant};
use crate::secret::Secret;

/// How long an assertion is good for: it is used once, at once. Google takes an hour at most.
const ASSERTION: i64 = 300;

/// How long before now an assertion says that it was made: for a server whose clock is behind ours.
const BEFORE: i64 = 10;

pub(super) fn call(oauth: &Oauth, material: &Material, now: i64) -> Result<Call, MintError> {
    let mut form = Form { oauth, text: Zeroizing::new(String::with_capacity(1024)) };
    form.grant(material, now)?;
    finished(form, material, now)
}

/// The same with a grant of its own.
pub(super) fn call_with(
    oauth: &Oauth,
    material: &Material,
    grant: &[(&str, &str)],
    now: i64,
) -> Result<Call, MintError> {
    let mut form = Form { oauth, text: Zeroizing::new(String::with_capacity(1024)) };
    for (name, value) in grant {
        form.push(name, value);
    }
    finished(form, material, now)
}

fn finished(mut form: Form<'_>, material: &Material, now: i64) -> Result<Call, MintError> {
    let oauth = form.oauth;
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    if let Some(basic) = form.client(material, now)? {
        headers.insert(header::AUTHORIZATION, basic);
    }
    for (name, value) in &oauth.parameters {
        form.push(name, value);
    }
    let body = Zeroizing::new(std::mem::take(&mut *form.text).into_bytes());
    Ok(Call {
        endpoint: oauth.token_endpoint.clone(),
        method: Method::POST,
        headers,
        body: Bytes::from_owner(body),
    })
}

/// The body of the request while it is written.
struct Form<'a> {
    oauth: &'a Oauth,
    text: Zeroizing<String>,
}

impl Form<'_> {
    /// A parameter, unless the credential says another value for it: some servers have grants of
    /// their own (`grant_type=account_credentials`).
    fn add(&mut self, name: &str, value: &str) {
        if !self.oauth.parameters.contains_key(name) {
            self.push(name, value);
        }
    }

    fn push(&mut self, name: &str, value: &str) {
        if !self.text.is_empty() {
            self.text.push('&');
        }
        encode(&mut self.text, name);
        self.text.push('=');
        encode(&mut self.text, value);
    }

    fn grant(&mut self, material: &Material, now: i64) -> Result<(), MintError> {
        let oauth = self.oauth;
        match oauth.grant {
            OauthGrant::Refresh => {
                self.add("grant_type", "refresh_token");
                self.add("refresh_token", material.refresh_token()?);
            }
            OauthGrant::ClientCredentials => self.add("grant_type", "client_credentials"),
            OauthGrant::TokenExchange => {
                self.add("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
                self.add("subject_token", material.subject_token()?);
                let access = "urn:ietf:params:oauth:token-type:access_token";
                let kind = oauth.subject_token_type.as_deref().unwrap_or(access);
                self.add("subject_token_type", kind);
                if let Some(kind) = &oauth.requested_token_type {
                    self.add("requested_token_type", kind);
                }
            }
            OauthGrant::JwtBearer => {
                self.add("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
                self.add("assertion", &grant_assertion(oauth, material, now)?);
            }
        }
        let optional =
            [("scope", &oauth.scope), ("audience", &oauth.audience), ("resource", &oauth.resource)];
        for (name, value) in optional {
            if let Some(value) = value {
                self.add(name, value);
            }
        }
        Ok(())
    }

    /// How the client shows who it is: by more parameters, or by a field of the head.
    fn client(&mut self, material: &Material, now: i64) -> Result<Option<HeaderValue>, MintError> {
        let oauth = self.oauth;
        let id = oauth.client_id.as_deref();
        if oauth.client_auth == ClientAuth::ClientSecretBasic {
            return basic(id.unwrap_or_default(), material.client_secret()?).map(Some);
        }
        if let Some(id) = id {
            self.add("client_id", id);
        }
        match oauth.client_auth {
            ClientAuth::ClientSecretPost => self.add("client_secret", material.client_secret()?),
            ClientAuth::PrivateKeyJwt => {
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                self.add("client_assertion_type", kind);
                self.add("client_assertion", &client_assertion(oauth, material, now)?);
            }
            ClientAuth::None | ClientAuth::TlsClientAuth | ClientAuth::ClientSecretBasic => {}
        }
        Ok(None)
    }
}

/// Id and secret, each encoded as in a form before they are joined (RFC 6749 section 2.3.1).
fn basic(id: &str, secret: &str) -> Result<HeaderValue, MintError> {
    let mut pair = Zeroizing::new(String::with_capacity(3 * (id.len() + secret.len()) + 1));
    encode(&mut pair, id);
    pair.push(':');
    encode(&mut pair, secret);
    let text = Zeroizing::new(format!("Basic {}", BASE64.encode(pair.as_bytes())).into_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text))
        .map_err(|_| MintError::Failed("the client secret cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn grant_assertion(oauth: &Oauth, material: &Material, now: i64) -> Result<String, MintError> {
    let issuer = oauth.issuer.as_deref().or(oauth.client_id.as_deref()).unwrap_or_default();
    let subject = oauth.subject.as_deref().unwrap_or(issuer);
    let mut claims = claims(oauth, issuer, subject, now)?;
    // Google reads it here and nowhere else; others read the parameter.
    if let Some(scope) = &oauth.scope {
        claims["scope"] = scope.as_str().into();
    }
    sign(oauth, material, &claims)
}

fn client_assertion(oauth: &Oauth, material: &Material, now: i64) -> Result<String, MintError> {
    let id = oauth.client_id.as_deref().unwrap_or_default();
    sign(oauth, material, &claims(oauth, id, id, now)?)
}

fn claims(oauth: &Oauth, issuer: &str, subject: &str, now: i64) -> Result<Value, MintError> {
    let audience = oauth.assertion_audience.clone();
    Ok(json!({
        "iss": issuer,
        "sub": subject,
        "aud": audience.unwrap_or_else(|| oauth.token_endpoint.to_string()),
        "iat": now - BEFORE,
        "exp": now + ASSERTION,
        "jti": unique().ok_or(MintError::Failed("the system has no randomness"))?,
    }))
}

fn sign(oauth: &Oauth, material: &Material, claims: &Value) -> Result<String, MintError> {
    let key = material.signing_key()?;
    let signed = key.assertion(oauth.key_id.as_deref(), claims);
    signed.ok_or(MintError::Failed("the assertion could not be signed"))
}

/// As in a form (WHATWG URL, section 5.2).
pub(super) fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'*' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => {
                let digit = |n: u8| char::from(b"0123456789ABCDEF"[usize::from(n & 15)]);
                out.extend(['%', digit(byte >> 4), digit(byte)]);
            }
        }
    }
}

/// What is read of an answer (RFC 6749 sections 5.1 and 5.2). Servers say more.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<Value>,
    refresh_token: Option<String>,
    error: Option<Value>,
}

pub(super) fn answer(
    oauth: &Oauth,
    material: &Material,
    status: StatusCode,
    body: &Secret,
) -> Result<Minted, MintError> {
    let answer = body
        .expose(|bytes| serde_json::from_slice::<Answer>(bytes))
        .map_err(|_| unreadable(status))?;
    // Some say 200 beside an error.
    if let Some(error) = &answer.error {
        return Err(named(error.as_str().unwrap_or_default()));
    }
    if !status.is_success() {
        return Err(unreadable(status));
    }
    let value = answer.access_token.as_deref().unwrap_or_default();
    if value.is_empty() {
        return Err(MintError::Failed("it answered without an access token"));
    }
    // `N_A` is a token of RFC 8693 that is no access token.
    let known =
        |kind: &str| ["bearer", "n_a", "bot", "user"].contains(&&*kind.to_ascii_lowercase());
    if !answer.token_type.as_deref().is_none_or(known) {
        return Err(MintError::Failed("it answered with a token that is no bearer token"));
    }
    Ok(Minted {
        value: token(value)?,
        lifetime: lifetime(oauth, answer.expires_in.as_ref())?,
        replacement: replacement(oauth, material, answer.refresh_token)?,
    })
}

fn lifetime(oauth: &Oauth, said: Option<&Value>) -> Result<Duration, MintError> {
    // A number (RFC 6749 section 5.1), which some write as a text.
    let seconds = match said {
        None | Some(Value::Null) => {
            let own = oauth.lifetime.map(|seconds| Duration::from_secs(seconds.into()));
            return Ok(own.unwrap_or(UNSAID).min(LONGEST));
        }
        Some(Value::String(text)) => text.parse().ok(),
        Some(other) => other.as_f64(),
    };
    let seconds = seconds.filter(|s: &f64| s.is_finite());
    let seconds = seconds.ok_or(MintError::Failed("its `expires_in` is no number"))?;
    if seconds < 1.0 {
        return Err(MintError::Failed("it answered with a token that has expired already"));
    }
    Ok(Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64())))
}

/// The material with the new refresh token in it, if it is another.
fn replacement(
    oauth: &Oauth,
    material: &Material,
    refreshed: Option<String>,
) -> Result<Option<Secret>, MintError> {
    let new = refreshed.filter(|new| !new.is_empty());
    let Some(new) = new.filter(|_| oauth.grant == OauthGrant::Refresh) else { return Ok(None) };
    if material.refresh_token.as_deref() == Some(&new) {
        return Ok(None);
    }
    token(&new)?;
    let changed = Material { refresh_token: Some(new), ..Material::default() };
    Ok(Some(changed.merged(material).to_secret()))
}

/// What an error of the list means; the server's own words are not repeated.
fn named(error: &str) -> MintError {
    let refused = [
        ("invalid_grant", "it answered invalid_grant"),
        ("invalid_client", "it answered invalid_client"),
        ("unauthorized_client", "it answered unauthorized_client"),
        ("access_denied", "it answered access_denied"),
        // GitHub's and Slack's own.
        ("bad_refresh_token", "it answered bad_refresh_token"),
        ("incorrect_client_credentials", "it answered incorrect_client_credentials"),
        ("invalid_refresh_token", "it answered invalid_refresh_token"),
        ("token_expired", "it answered token_expired"),
        ("token_revoked", "it answered token_revoked"),
    ];
    if let Some((_, why)) = refused.iter().find(|(name, _)| *name == error) {
        return MintError::Refused(why);
    }
    MintError::Failed(match error {
        "invalid_request" => "it answered invalid_request",
        "invalid_scope" => "it answered invalid_scope",
        "invalid_target" => "it answered invalid_target",
        "unsupported_grant_type" => "it answered unsupported_grant_type",
        "temporarily_unavailable" => "it answered temporarily_unavailable",
        "slow_down" => "it answered slow_down",
        _ => "it answered with an error",
    })
}

fn unreadable(status: StatusCode) -> MintError {
    match status.as_u16() {
        401 => MintError::Refused("it answered 401"),
        403 => MintError::Refused("it answered 403"),
        429 => MintError::Failed("it answered 429"),
        300..=399 => MintError::Failed("it answered with a redirect, which is not followed"),
        400..=499 => MintError::Failed("it answered with an error of ours that it does not name"),
        500..=599 => MintError::Failed("it answered with an error of its own"),
        _ => MintError::Failed("it answered something that is no token response"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Kind;
    use crate::mint;

    fn oauth(more: &str) -> Kind {
        let text =
            format!(r#"{{"oauth":{{"token-endpoint":"https://as.test/token?x=1",{more}}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn material(text: &str) -> Material {
        serde_json::from_str(text).unwrap()
    }

    fn body(kind: &Kind, secrets: &str) -> (String, Option<String>) {
        let call =
            mint::call(kind, &material(secrets), 1_000_000).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(call.endpoint.target(), "/token?x=1");
        let authorization = call.headers.get(header::AUTHORIZATION);
        assert!(authorization.is_none_or(HeaderValue::is_sensitive));
        let authorization = authorization.map(|v| v.to_str().unwrap().to_owned());
        (String::from_utf8(call.body.to_vec()).unwrap(), authorization)
    }

    #[test]
    fn requests_are_as_the_rfcs_have_them() {
        let refresh = oauth(r#""grant":"refresh","client-id":"me","scope":"a b""#);
        assert_eq!(
            body(&refresh, r#"{"refresh_token":"r/1"}"#),
            ("grant_type=refresh_token&refresh_token=r%2F1&scope=a+b&client_id=me".into(), None)
        );
        // The example of RFC 6749 section 4.4.2, with a secret that has to be encoded.
        let basic = oauth(
            r#""grant":"client-credentials","client-id":"s6BhdRkqt3","client-auth":"client_secret_basic""#,
        );
        let expected = format!("Basic {}", BASE64.encode(b"s6BhdRkqt3:7Fj%2Fp+%3A"));
        assert_eq!(
            body(&basic, r#"{"client_secret":"7Fj/p :"}"#),
            ("grant_type=client_credentials".into(), Some(expected))
        );
        let post = oauth(
            r#""grant":"client-credentials","client-id":"me","client-auth":"client_secret_post","parameters":{"grant_type":"account_credentials","account_id":"7"}"#,
        );
        assert_eq!(
            body(&post, r#"{"client_secret":"s"}"#).0,
            "client_id=me&client_secret=s&account_id=7&grant_type=account_credentials"
        );
        let exchange = oauth(
            r#""grant":"token-exchange","audience":"x","requested-token-type":"urn:ietf:params:oauth:token-type:jwt""#,
        );
        let text = body(&exchange, r#"{"subject_token":"t"}"#).0;
        assert!(text.starts_with("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=t&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&requested_token_type="), "{text}");
        assert!(text.ends_with("&audience=x"), "{text}");
    }

    #[test]
    fn assertions_say_who_for_whom_and_when() {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let secrets = json!({"private_key": pem}).to_string();
        let claims = |kind: &Kind, name: &str| -> Value {
            let text = body(kind, &secrets).0;
            let name = format!("{name}=");
            let assertion = text.split('&').find_map(|pair| pair.strip_prefix(&name)).unwrap();
            let claims = assertion.split('.').nth(1).unwrap();
            let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
            serde_json::from_slice(&claims).unwrap()
        };
        let google = oauth(
            r#""grant":"jwt-bearer","issuer":"bot@p.test","subject":"user@p.test","scope":"s1 s2""#,
        );
        let said = claims(&google, "assertion");
        assert_eq!(said["iss"], "bot@p.test");
        assert_eq!(said["sub"], "user@p.test");
        assert_eq!(said["aud"], "https://as.test/token?x=1");
        assert_eq!(said["scope"], "s1 s2");
        assert_eq!((&said["iat"], &said["exp"]), (&json!(999_990), &json!(1_000_300)));
        let client = oauth(
            r#""grant":"client-credentials","client-id":"me","client-auth":"private_key_jwt","assertion-audience":"https://as.test""#,
        );
        let said = claims(&client, "client_assertion");
        assert_eq!((&said["iss"], &said["sub"]), (&json!("me"), &json!("me")));
        assert_eq!(said["aud"], "https://as.test");
        assert_ne!(claims(&client, "client_assertion")["jti"], said["jti"], "each is used once");
    }

    fn read(kind: &Kind, status: u16, body: &str) -> Result<Minted, MintError> {
        let secrets = material(r#"{"refresh_token":"old","client_secret":"kept"}"#);
        let status = StatusCode::from_u16(status).unwrap();
        mint::answer(kind, &secrets, status, &Secret::new(body.as_bytes().to_vec()))
    }

    #[test]
    fn answers_give_a_token_its_life_and_the_next_refresh_token() {
        let kind = oauth(r#""grant":"refresh","client-id":"me""#);
        let text = r#"{"access_token":"at","token_type":"Bearer","expires_in":"3600","refresh_token":"new","more":1}"#;
        let minted = read(&kind, 200, text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(minted.value.expose(<[u8]>::to_vec), b"at");
        assert_eq!(minted.lifetime, Duration::from_hours(1));
        let kept = minted.replacement.unwrap().expose(<[u8]>::to_vec);
        assert_eq!(kept, br#"{"refresh_token":"new","client_secret":"kept"}"#);
        let same = read(&kind, 200, r#"{"access_token":"at","refresh_token":"old"}"#).unwrap();
        assert!(same.replacement.is_none());
        assert_eq!(same.lifetime, UNSAID);
        let long = read(&kind, 200, r#"{"access_token":"at","expires_in":1e300}"#).unwrap();
        assert_eq!(long.lifetime, LONGEST);
    }

    #[test]
    fn what_is_no_good_token_is_told_apart_and_not_quoted() {
        let kind = oauth(r#""grant":"refresh""#);
        let error = |status, text: &str| read(&kind, status, text).err().expect(text);
        let refused = |e| matches!(e, MintError::Refused(_));
        assert!(refused(error(400, r#"{"error":"invalid_grant","error_description":"x"}"#)));
        assert!(refused(error(401, r#"{"error":"invalid_client"}"#)));
        assert!(refused(error(401, "<html>")));
        assert!(refused(error(200, r#"{"ok":false,"error":"token_revoked"}"#)));
        for (status, text) in [
            (400, r#"{"error":"invalid_request"}"#),
            (400, r#"{"error":"sk-canary"}"#),
            (400, r#"{"error":{"message":"no"}}"#),
            (500, r#"{"access_token":"at","expires_in":60}"#),
            (503, "busy"),
            (200, ""),
            (200, "null"),
            (200, "[]"),
            (200, "{}"),
            (200, r#"{"access_token":""}"#),
            (200, r#"{"access_token":"a b"}"#),
            (200, r#"{"access_token":"a\nb"}"#),
            (200, r#"{"access_token":7}"#),
            (200, r#"{"access_token":"at","expires_in":0}"#),
            (200, r#"{"access_token":"at","expires_in":-5}"#),
            (200, r#"{"access_token":"at","expires_in":"soon"}"#),
            (200, r#"{"access_token":"at","expires_in":true}"#),
            (200, r#"{"access_token":"at","token_type":"DPoP"}"#),
            (200, r#"{"access_token":"at","refresh_token":"a\u0000b"}"#),
            (302, ""),
        ] {
            let error = error(status, text);
            assert!(matches!(error, MintError::Failed(_)), "{status} {text}: {error}");
            assert!(!error.to_string().contains("canary"));
        }
    }
}
