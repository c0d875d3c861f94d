//! AWS: whose keys sign, and calls that are signed with them.

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use super::{Caller, Failed, Fetched, chosen, json_of, login_file, text_of};
use crate::credential::{AwsVersion, CloudLogin, Endpoint};
use crate::mint::{self, Material};
use crate::proxy::Reply;
use crate::secret::Secret;
use crate::sign::sigv4::{OwnCall, OwnKey, sign_own};

/// How long the token of the instance metadata service is asked to live, in seconds: for the two calls
/// that it is asked for.
const METADATA_TOKEN_TTL: &str = "60";

const NO_KEY: &str = "the vault refuses the login: its key is wrong, or has expired";
const DENIED: &str = "the vault refuses the login: it may not read this";
const NO_SESSION: &str = "STS gives no session for the workload's token";

/// A service of AWS that speaks JSON.
pub(in crate::app) struct Service<'a> {
    pub(in crate::app) url: &'a Endpoint,
    pub(in crate::app) region: &'a str,
    /// Its signing name: `secretsmanager`.
    pub(in crate::app) name: &'static str,
}

/// The keys that a login other than by a credential comes to.
pub(in crate::app) async fn keys(
    caller: &Caller<'_>,
    login: &CloudLogin,
    region: &str,
) -> Result<Material, Failed> {
    match login {
        CloudLogin::Credential { .. } => Err("the login is a credential".into()),
        CloudLogin::Environment => of_environment(),
        CloudLogin::WebIdentity => of_workload(caller, region).await,
        CloudLogin::Instance => of_instance(caller).await,
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn of_environment() -> Result<Material, Failed> {
    let material = Material {
        access_key_id: variable("AWS_ACCESS_KEY_ID"),
        secret_access_key: variable("AWS_SECRET_ACCESS_KEY"),
        session_token: variable("AWS_SESSION_TOKEN"),
        ..Material::default()
    };
    let whole = material.aws_key().is_ok();
    whole
        .then_some(material)
        .ok_or_else(|| "there is no key of AWS in the proxy's environment".into())
}

/// As EKS and others have it: a token in a file, and a role that trusts its issuer.
async fn of_workload(caller: &Caller<'_>, region: &str) -> Result<Material, Failed> {
    let missing = "AWS_WEB_IDENTITY_TOKEN_FILE or AWS_ROLE_ARN is not in the proxy's environment";
    let file = variable("AWS_WEB_IDENTITY_TOKEN_FILE").ok_or(missing)?;
    let role = variable("AWS_ROLE_ARN").ok_or(missing)?;
    let session = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "locum".to_owned());
    let token = login_file(&file).await?;
    let sts = crate::credential::aws_endpoint("sts", region).ok_or("its region is none")?;
    let call = token.expose(|token| {
        let token = String::from_utf8_lossy(token);
        mint::with_web_identity(sts, &role, &session, &token)
    });
    let reply = caller.call(call.method, &call.endpoint, call.headers, call.body).await?;
    let keys = reply.status.is_success().then(|| mint::session_keys(&reply.body)).flatten();
    keys.ok_or_else(|| NO_SESSION.into())
}

/// The instance metadata service, version 2: a token first, which no redirected call brings along.
async fn of_instance(caller: &Caller<'_>) -> Result<Material, Failed> {
    let none = "the metadata service has no role for this machine";
    let at = |target: &str| Endpoint::metadata_service("169.254.169.254", target);
    let mut headers = HeaderMap::new();
    let ttl = HeaderValue::from_static(METADATA_TOKEN_TTL);
    headers.insert("x-aws-ec2-metadata-token-ttl-seconds", ttl);
    let token = at("/latest/api/token");
    let reply = caller.call(Method::PUT, &token, headers, Bytes::new()).await?;
    if !reply.status.is_success() {
        return Err(none.into());
    }
    let mut headers = HeaderMap::new();
    headers.insert("x-aws-ec2-metadata-token", super::sensitive(&reply.body)?);
    let roles = "/latest/meta-data/iam/security-credentials/";
    let reply = caller.call(Method::GET, &at(roles), headers.clone(), Bytes::new()).await?;
    let role = reply.body.expose(|bytes| {
        let name = std::str::from_utf8(bytes).ok()?.lines().next()?.trim();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
        (reply.status.is_success() && !name.is_empty() && name.bytes().all(fits))
            .then(|| name.to_owned())
    });
    let role = role.ok_or(none)?;
    let role = at(&format!("{roles}{role}"));
    let reply = caller.call(Method::GET, &role, headers, Bytes::new()).await?;
    let said = json_of(&reply)?;
    let field = |name: &str| said.get(name).and_then(Value::as_str).map(str::to_owned);
    let material = Material {
        access_key_id: field("AccessKeyId"),
        secret_access_key: field("SecretAccessKey"),
        session_token: field("Token"),
        ..Material::default()
    };
    material.aws_key().is_ok().then_some(material).ok_or_else(|| none.into())
}

impl Service<'_> {
    /// Calls an action, such as `secretsmanager.GetSecretValue`.
    pub(in crate::app) async fn call(
        &self,
        caller: &Caller<'_>,
        keys: &Material,
        action: &'static str,
        body: &Value,
    ) -> Result<Value, Failed> {
        let (id, secret) = keys.aws_key().map_err(|_| "the login is no key of AWS")?;
        let body = zeroize::Zeroizing::new(body.to_string().into_bytes());
        let mut headers = HeaderMap::new();
        headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
        headers.insert("x-amz-target", HeaderValue::from_static(action));
        let call = OwnCall {
            region: self.region,
            service: self.name,
            method: "POST",
            host: &self.url.origin().host_field(),
            target: "/",
            body: &body,
        };
        let key = OwnKey { id, secret, session: keys.session_token.as_deref() };
        let now = jiff::Timestamp::now().as_second();
        let headers = sign_own(headers, &key, &call, now).ok_or("the login is no key of AWS")?;
        let endpoint = self.url.at("/");
        let reply = caller.call(Method::POST, &endpoint, headers, Bytes::from_owner(body)).await?;
        if reply.status.is_success() { json_of(&reply) } else { Err(refused(&reply)) }
    }

    /// One version of a secret, or one field of it.
    pub(in crate::app) async fn secret(
        &self,
        caller: &Caller<'_>,
        keys: &Material,
        (secret, version): (&str, Option<&AwsVersion>),
        field: Option<&str>,
    ) -> Result<Fetched, Failed> {
        let mut asked = json!({"SecretId": secret});
        match version {
            Some(AwsVersion::Stage(stage)) => asked["VersionStage"] = json!(stage),
            Some(AwsVersion::Id(id)) => asked["VersionId"] = json!(id),
            // What AWS takes where nothing is said; said, it cannot be taken for anything else.
            None => asked["VersionStage"] = json!("AWSCURRENT"),
        }
        let said = self.call(caller, keys, "secretsmanager.GetSecretValue", &asked).await?;
        let value = match text_of(&said, "SecretString") {
            Ok(text) => text,
            Err(_) => bytes_of(&said, "SecretBinary")?,
        };
        let secret = value.expose(|bytes| chosen(bytes, field))?;
        Ok(Fetched { secret, lease: None, ends: None })
    }
}

/// A field in base64.
pub(in crate::app) fn bytes_of(said: &Value, field: &str) -> Result<Secret, Failed> {
    let text = text_of(said, field).map_err(|_| "the vault's answer has no secret")?;
    let bytes = text.expose(|text| BASE64.decode(text));
    Ok(Secret::new(bytes.map_err(|_| "the vault's answer has no secret")?))
}

/// What an error means. Its name stands in `__type`, or in XML where the service has not seen the call.
fn refused(reply: &Reply) -> Failed {
    let says = |name: &str| {
        reply.body.expose(|body| {
            body.windows(name.len()).any(|window| window.eq_ignore_ascii_case(name.as_bytes()))
        })
    };
    let any = |names: &[&str]| names.iter().any(|name| says(name));
    if any(&["ResourceNotFoundException", "NotFoundException"]) {
        return Failed::gone("there is no such secret in the vault");
    }
    if says("InvalidRequestException") {
        return Failed::gone("the secret is marked for deletion in the vault");
    }
    if says("AccessDenied") {
        return DENIED.into();
    }
    if any(&["Throttl", "TooManyRequests", "LimitExceeded"]) || reply.status.as_u16() == 429 {
        return "the vault asks for fewer calls".into();
    }
    if any(&["DecryptionFailure", "KMSInvalidState", "DisabledException"]) {
        return "the vault's own key cannot be used".into();
    }
    if any(&["InvalidCiphertext", "IncorrectKey"]) {
        return "the key was not wrapped by this key of KMS".into();
    }
    match reply.status.as_u16() {
        400 | 401 | 403 if any(&["Signature", "Token", "UnrecognizedClient", "InvalidClient"]) => {
            Failed::login(NO_KEY)
        }
        401 | 403 => Failed::login(NO_KEY),
        _ => "the vault failed".into(),
    }
}
