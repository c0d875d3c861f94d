//! What is said of a kind on the command line, and what it comes to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Value, from_env, from_file};
use crate::admin::orders::kinds::{login_slots, token_slots};
use crate::app::Failure;
use crate::catalog::Provider;
use crate::credential::{
    Aws, ClientAuth, Encoding, Endpoint, GithubApp, HmacHash, KeyForm, Kind, Login, Oauth,
    OauthGrant, Pattern, Role, Schedule, Signing, SigningError, Slot, Timestamp, Totp, TotpHash,
    days_between,
};
use crate::mint::Material;
use crate::reference::Name;
use crate::secret::Secret;
use crate::vault::{Vault, without_line_end};

/// `--kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum KindName {
    /// Access tokens for a refresh token
    OauthRefresh,
    /// Access tokens for a client's own secret or key
    OauthClientCredentials,
    /// Access tokens for another token (RFC 8693)
    OauthTokenExchange,
    /// Access tokens for a signed assertion (RFC 7523)
    OauthJwtBearer,
    /// Access tokens for the key of a Google service account, as it is downloaded
    GoogleServiceAccount,
    /// Signatures of AWS, in the place of those that a program makes with a placeholder
    Aws,
    /// Tokens of an installation of a GitHub App
    GithubApp,
    /// One-time passwords of the moment (RFC 6238)
    Totp,
    /// Signatures with a shared key (HMAC), as the provider describes them
    Hmac,
    /// A certificate that the connection shows (mutual TLS), with its key
    ClientCertificate,
    /// A user name with its password: into Basic, or each into a field of its own
    Basic,
}

/// How the value is made of the secret; without --kind it is sent as it is.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Kinds")]
pub(super) struct KindArgs {
    /// What is made of the secret before it is sent; docs/CREDENTIALS.md has all about each
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Option<KindName>,
    /// Where tokens come from; by default the provider's own
    #[arg(long, value_name = "URL")]
    token_endpoint: Option<Endpoint>,
    /// What stands for {tenant}, or another {word}, in the provider's token endpoint
    #[arg(long, value_name = "TEXT")]
    tenant: Option<String>,
    /// Who we are to the authorization server
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// How we show it: `none`, `basic`, `post` or `jwt`; by default `basic` where there is a client
    /// secret, else `none`
    #[arg(long, value_name = "METHOD", value_parser = client_auth)]
    client_auth: Option<ClientAuth>,
    /// Take the client secret, where the secret itself is another, from this environment variable
    #[arg(long, value_name = "NAME", conflicts_with = "client_secret_from_file")]
    client_secret_from_env: Option<String>,
    /// Take the client secret from this file
    #[arg(long, value_name = "FILE")]
    client_secret_from_file: Option<PathBuf>,
    /// What the token shall be good for. Repeatable
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Whom the token shall be good for
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// The same as an address (RFC 8707)
    #[arg(long, value_name = "URL")]
    resource: Option<String>,
    /// A further parameter of the token request. Repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    parameter: Vec<(String, String)>,
    /// The `kid` of assertions; for --kind hmac, who signs
    #[arg(long, value_name = "TEXT")]
    key_id: Option<String>,
    /// The `iss` of the assertion; by default the client id
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// The `sub` of the assertion: whom the token speaks for; by default the issuer
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// The `aud` of assertions; by default the token endpoint
    #[arg(long, value_name = "TEXT")]
    assertion_audience: Option<String>,
    /// What is exchanged; by default an access token
    #[arg(long, value_name = "URN")]
    subject_token_type: Option<String>,
    /// What it is exchanged for
    #[arg(long, value_name = "URN")]
    requested_token_type: Option<String>,
    /// How many seconds a token is good for, where the server does not say; by default 300
    #[arg(long, value_name = "SECONDS")]
    lifetime: Option<u32>,
    /// The role of AWS that is assumed with the key
    #[arg(long, value_name = "ARN")]
    role: Option<String>,
    /// What the role's owner wants to hear
    #[arg(long, value_name = "TEXT", requires = "role")]
    external_id: Option<String>,
    /// How the session is called in the log of AWS; by default `locum`
    #[arg(long, value_name = "NAME", requires = "role")]
    session_name: Option<String>,
    /// How many seconds the session lasts; by default 3600
    #[arg(long, value_name = "SECONDS", requires = "role", value_parser = clap::value_parser!(u32).range(900..=43200))]
    session_duration: Option<u32>,
    /// STS, of the first --region; by default <https://sts.REGION.amazonaws.com>
    #[arg(long, value_name = "URL", requires = "role")]
    sts_endpoint: Option<Endpoint>,
    /// A region that may be signed for; by default all. Repeatable
    #[arg(long, value_name = "REGION")]
    region: Vec<String>,
    /// A service that may be signed for, by its signing name; by default that of the host. Repeatable
    #[arg(long, value_name = "SERVICE")]
    service: Vec<String>,
    /// The field of a form that the user name enters, beside --form for the password. Repeatable
    #[arg(long, value_name = "FIELD")]
    user_form: Vec<String>,
    /// The string of a JSON body that the user name enters, beside --json-pointer. Repeatable
    #[arg(long, value_name = "PTR")]
    user_json_pointer: Vec<String>,
    /// What is signed, with words in braces: '{timestamp}{method}{target}{body}'
    #[arg(long, value_name = "PATTERN")]
    sign: Option<Pattern>,
    /// What stands by a name in what is signed, as {part:NAME} or as a digest, {part:NAME:sha256:hex}.
    /// Repeatable; each may have those before it
    #[arg(long, value_name = "NAME=PATTERN", value_parser = signed_query)]
    part: Vec<(String, Pattern)>,
    /// What the key that signs is derived of, such as '{date}': signed with the key, and the next with what
    /// comes of it. Repeatable
    #[arg(long, value_name = "PATTERN")]
    derive: Vec<Pattern>,
    /// What stands before the key
    #[arg(long, value_name = "TEXT")]
    key_prefix: Option<String>,
    /// A field that goes out with it: 'X-Signature: sha256={signature}'. Repeatable
    #[arg(long, value_name = "NAME: PATTERN", value_parser = signed_header)]
    signed_header: Vec<(String, Pattern)>,
    /// A parameter of the query that goes out with it: 'signature={signature}'. Repeatable
    #[arg(long, value_name = "NAME=PATTERN", value_parser = signed_query)]
    signed_query: Vec<(String, Pattern)>,
    /// By which hash: sha1, sha256, sha384 or sha512; by default sha256
    #[arg(long, value_name = "HASH")]
    hash: Option<HmacHash>,
    /// How the signature is written: hex, base64 or base64url; by default hex
    #[arg(long, value_name = "ENCODING")]
    encoding: Option<Encoding>,
    /// How the key is written: text, hex or base64; by default text
    #[arg(long, value_name = "FORM")]
    key_form: Option<KeyForm>,
    /// How the time is written: seconds, millis or iso; by default seconds
    #[arg(long, value_name = "FORM")]
    timestamp: Option<Timestamp>,
    /// The GitHub App's id, or its client id
    #[arg(long, value_name = "ID")]
    app_id: Option<String>,
    /// The installation of the GitHub App
    #[arg(long, value_name = "ID", requires = "app_id")]
    installation: Option<u64>,
    /// A repository that the token shall be good for, by its name without the owner; by default all.
    /// Repeatable
    #[arg(long, value_name = "NAME", requires = "app_id")]
    repository: Vec<String>,
    /// What the token shall be good for, such as contents=read; by default all. Repeatable
    #[arg(long, value_name = "NAME=LEVEL", requires = "app_id", value_parser = parameter)]
    permission: Vec<(String, String)>,
    /// The API, of a GitHub of one's own; by default <https://api.github.com>
    #[arg(long, value_name = "URL", requires = "app_id")]
    github_api: Option<Endpoint>,
}

fn client_auth(text: &str) -> Result<ClientAuth, String> {
    let all = [
        ("none", ClientAuth::None),
        ("basic", ClientAuth::ClientSecretBasic),
        ("post", ClientAuth::ClientSecretPost),
        ("jwt", ClientAuth::PrivateKeyJwt),
    ];
    let found = all.into_iter().find(|(short, auth)| *short == text || auth.name() == text);
    found.map(|(_, auth)| auth).ok_or_else(|| "it is none, basic, post or jwt".to_owned())
}

fn signed_header(text: &str) -> Result<(String, Pattern), String> {
    let (name, pattern) = text.split_once(':').ok_or("it is written 'NAME: PATTERN'")?;
    let name = name.trim().to_ascii_lowercase();
    Ok((name, pattern.trim().parse().map_err(|e: SigningError| e.to_string())?))
}

fn signed_query(text: &str) -> Result<(String, Pattern), String> {
    let (name, pattern) = text.split_once('=').ok_or("it is written NAME=PATTERN")?;
    Ok((name.to_owned(), pattern.parse().map_err(|e: SigningError| e.to_string())?))
}

pub(super) fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A Google service account's key, as it is downloaded.
#[derive(serde::Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    token_uri: String,
}

impl KindArgs {
    /// Whether the secret is sent as it is.
    pub(super) fn is_plain(&self) -> bool {
        self.kind.is_none()
    }

    /// The variables in which programs look for what stands for a key of the kind.
    pub(super) fn variables(&self) -> &'static [&'static str] {
        match self.kind {
            Some(KindName::Aws) => &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
            _ => &[],
        }
    }

    /// The slots of the kind: where bearer tokens go, unless something else was said.
    pub(super) fn slots(
        &self,
        typed: Vec<Slot>,
        provider: Vec<Slot>,
    ) -> Result<Vec<Slot>, Failure> {
        if self.kind == Some(KindName::Aws) {
            return Ok(vec![Slot::Aws]);
        }
        if self.kind == Some(KindName::ClientCertificate) {
            return Ok(vec![Slot::Certificate]);
        }
        if self.kind == Some(KindName::Basic) {
            return login_slots(typed, self.users()?);
        }
        // A signature goes where its fields say.
        if self.kind == Some(KindName::Hmac) {
            return Ok(self.signing()?.slots());
        }
        // Nothing is usual for a second factor.
        if self.kind == Some(KindName::Totp) {
            return Ok(typed);
        }
        // A token of an installation goes wherever a personal one does, git included.
        if self.kind == Some(KindName::GithubApp) && typed.is_empty() && !provider.is_empty() {
            return Ok(provider);
        }
        Ok(token_slots(typed, provider))
    }

    /// The kind, and what of the secret the vault keeps for it.
    pub(super) fn read(
        &self,
        name: &Name,
        provider: Option<&Provider>,
        value: &Value,
    ) -> Result<Option<(Kind, Secret)>, Failure> {
        let Some(kind) = self.kind else {
            let said = self.client_id.is_some()
                || self.token_endpoint.is_some()
                || self.role.is_some()
                || self.sign.is_some()
                || self.app_id.is_some();
            return if said {
                Err(Failure::usage("nothing says what is made of the secret")
                    .help("name it with --kind"))
            } else {
                Ok(None)
            };
        };
        let secret = value.read_any(&format!("Secret of {name}: "))?;
        let (kind, material) = match kind {
            KindName::GoogleServiceAccount => self.service_account(&secret)?,
            KindName::Aws => self.aws(&secret)?,
            KindName::GithubApp => self.github_app(&secret)?,
            KindName::Totp => totp(&secret)?,
            KindName::Basic => {
                let kind = self.login()?;
                let material = read(&secret, &kind)?;
                (kind, material)
            }
            KindName::ClientCertificate => {
                (Kind::ClientCertificate, read(&secret, &Kind::ClientCertificate)?)
            }
            KindName::Hmac => {
                let kind = Kind::Hmac(Box::new(self.signing()?));
                let material = read(&secret, &kind)?;
                (kind, material)
            }
            KindName::OauthRefresh => self.oauth(OauthGrant::Refresh, provider, &secret)?,
            KindName::OauthClientCredentials => {
                self.oauth(OauthGrant::ClientCredentials, provider, &secret)?
            }
            KindName::OauthTokenExchange => {
                self.oauth(OauthGrant::TokenExchange, provider, &secret)?
            }
            KindName::OauthJwtBearer => self.oauth(OauthGrant::JwtBearer, provider, &secret)?,
        };
        check(&kind, &material)?;
        Ok(Some((kind, material.to_secret())))
    }

    /// The kind of what lies elsewhere, whatever that is.
    pub(super) fn of_what_lies_elsewhere(
        &self,
        provider: Option<&Provider>,
    ) -> Result<Option<Kind>, Failure> {
        let Some(kind) = self.kind else { return Ok(None) };
        if self.client_secret_from_env.is_some() || self.client_secret_from_file.is_some() {
            return Err(Failure::usage("with --source, the client secret lies there too").help(
                "have a JSON object there with each secret by its name: refresh_token, client_secret",
            ));
        }
        let nothing = Secret::new(b"{}".to_vec());
        let (kind, _) = match kind {
            KindName::Totp => {
                return Err(Failure::usage("a one-time password cannot be made of a source")
                    .help("keep the seed in this vault"));
            }
            KindName::GoogleServiceAccount => {
                let issuer = self.issuer.clone();
                let issuer = issuer.ok_or_else(|| {
                    Failure::usage("nothing says whose key lies there")
                        .help("name its client_email with --issuer")
                })?;
                let known = || "https://oauth2.googleapis.com/token".parse();
                let endpoint = self.token_endpoint.clone().map_or_else(known, Ok);
                let endpoint = endpoint.map_err(|e| Failure::new(format!("Google: {e}")))?;
                let mut oauth = self.described(OauthGrant::JwtBearer, endpoint);
                oauth.issuer = Some(issuer);
                (Kind::Oauth(Box::new(oauth)), Material::default())
            }
            KindName::Aws => self.aws(&nothing)?,
            KindName::Hmac => (Kind::Hmac(Box::new(self.signing()?)), Material::default()),
            KindName::ClientCertificate => {
                return Err(Failure::usage("a client certificate cannot be had from a source")
                    .help("keep it in this vault"));
            }
            KindName::Basic => (self.login()?, Material::default()),
            KindName::GithubApp => self.github_app(&nothing)?,
            KindName::OauthRefresh => self.oauth(OauthGrant::Refresh, provider, &nothing)?,
            KindName::OauthClientCredentials => {
                self.oauth(OauthGrant::ClientCredentials, provider, &nothing)?
            }
            KindName::OauthTokenExchange => {
                self.oauth(OauthGrant::TokenExchange, provider, &nothing)?
            }
            KindName::OauthJwtBearer => self.oauth(OauthGrant::JwtBearer, provider, &nothing)?,
        };
        Ok(Some(kind))
    }

    /// Has the kind be that of a refresh token, which a person is about to give.
    pub(super) fn connects(&mut self) {
        self.kind = Some(KindName::OauthRefresh);
    }

    /// What stands for a {word} of the provider's endpoints.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Who asks for a refresh token, and what shows it.
    pub(super) fn client(&self, provider: Option<&Provider>) -> Result<(Oauth, Material), Failure> {
        let nothing = Secret::new(b"{}".to_vec());
        match self.oauth(OauthGrant::Refresh, provider, &nothing)? {
            (Kind::Oauth(oauth), material) => Ok((*oauth, material)),
            _ => Err(Failure::new("a refresh token is of OAuth")),
        }
    }

    fn oauth(
        &self,
        grant: OauthGrant,
        provider: Option<&Provider>,
        secret: &Secret,
    ) -> Result<(Kind, Material), Failure> {
        let endpoint = self.endpoint(provider)?;
        let client_secret = self.client_secret()?;
        let has_secret = client_secret.is_some() || grant == OauthGrant::ClientCredentials;
        let usual = if has_secret { ClientAuth::ClientSecretBasic } else { ClientAuth::None };
        let oauth = Oauth {
            client_auth: self.client_auth.unwrap_or(usual),
            ..self.described(grant, endpoint)
        };
        let needs_client = oauth.client_auth != ClientAuth::None || grant == OauthGrant::Refresh;
        if needs_client && oauth.client_id.is_none() {
            return Err(Failure::usage("nothing says who asks for the token")
                .help("name the client with --client-id"));
        }
        let kind = Kind::Oauth(Box::new(oauth));
        let material = read(secret, &kind)?;
        let more = Material { client_secret, ..Material::default() };
        Ok((kind, more.merged(&material)))
    }

    fn aws(&self, secret: &Secret) -> Result<(Kind, Material), Failure> {
        let role = self.role.clone().map(|arn| {
            let region = self.region.first().map_or("us-east-1", String::as_str);
            let usual = || {
                let text = format!("https://sts.{region}.amazonaws.com/");
                text.parse().map_err(|e| Failure::usage(format!("--region {region}: {e}")))
            };
            Ok::<Role, Failure>(Role {
                arn,
                endpoint: self.sts_endpoint.clone().map_or_else(usual, Ok)?,
                region: region.to_owned(),
                session: self.session_name.clone().unwrap_or_else(|| "locum".to_owned()),
                external_id: self.external_id.clone(),
                duration: self.session_duration,
            })
        });
        let aws = Aws {
            role: role.transpose()?,
            regions: self.region.clone(),
            services: self.service.clone(),
        };
        let kind = Kind::Aws(Box::new(aws));
        let material = read(secret, &kind)?;
        Ok((kind, material))
    }

    fn github_app(&self, secret: &Secret) -> Result<(Kind, Material), Failure> {
        let (Some(app_id), Some(installation)) = (&self.app_id, self.installation) else {
            return Err(Failure::usage("nothing says which app, and which installation of it")
                .help("name them with --app-id and --installation"));
        };
        let api = self.github_api.clone();
        let api = api.map_or_else(|| "https://api.github.com/".parse(), Ok);
        let api: Endpoint = api.map_err(|e| Failure::new(format!("the API of GitHub: {e}")))?;
        let base = api.target().trim_end_matches('/');
        let endpoint = api.at(&format!("{base}/app/installations/{installation}/access_tokens"));
        let kind = Kind::GithubApp(Box::new(GithubApp {
            endpoint,
            app_id: app_id.clone(),
            repositories: self.repository.clone(),
            permissions: self.permission.iter().cloned().collect(),
        }));
        let material = read(secret, &kind)?;
        Ok((kind, material))
    }

    /// The slots of a user name.
    fn users(&self) -> Result<Vec<Slot>, Failure> {
        let form = self.user_form.iter().map(|field| Slot::form(field));
        let json = self.user_json_pointer.iter().map(|pointer| Slot::json(pointer));
        let all: Result<Vec<Slot>, _> = form.chain(json).collect();
        all.map_err(|e| Failure::usage(format!("where the user name enters: {e}")))
    }

    fn login(&self) -> Result<Kind, Failure> {
        let users = self.users()?.iter().map(ToString::to_string).collect();
        Ok(Kind::Basic(Box::new(Login { users })))
    }

    fn signing(&self) -> Result<Signing, Failure> {
        let Some(message) = self.sign.clone() else {
            return Err(Failure::usage("nothing says what is signed")
                .help("say it with --sign '{timestamp}{method}{target}{body}', and where it goes with --signed-header 'NAME: {signature}'"));
        };
        let signing = Signing {
            hash: self.hash.unwrap_or(HmacHash::Sha256),
            encoding: self.encoding.unwrap_or(Encoding::Hex),
            key: self.key_form.unwrap_or_default(),
            key_prefix: self.key_prefix.clone(),
            derive: self.derive.clone(),
            parts: self.part.clone(),
            message,
            timestamp: self.timestamp.unwrap_or_default(),
            key_id: self.key_id.clone(),
            headers: self.signed_header.clone(),
            parameters: self.signed_query.clone(),
        };
        signing.check().map_err(|e| Failure::usage(e.to_string()))?;
        Ok(signing)
    }

    fn described(&self, grant: OauthGrant, token_endpoint: Endpoint) -> Oauth {
        Oauth {
            grant,
            token_endpoint,
            client_id: self.client_id.clone(),
            client_auth: ClientAuth::None,
            scope: (!self.scope.is_empty()).then(|| self.scope.join(" ")),
            audience: self.audience.clone(),
            resource: self.resource.clone(),
            parameters: self.parameter.iter().cloned().collect::<BTreeMap<_, _>>(),
            key_id: self.key_id.clone(),
            issuer: self.issuer.clone(),
            subject: self.subject.clone(),
            assertion_audience: self.assertion_audience.clone(),
            subject_token_type: self.subject_token_type.clone(),
            requested_token_type: self.requested_token_type.clone(),
            lifetime: self.lifetime,
        }
    }

    fn service_account(&self, secret: &Secret) -> Result<(Kind, Material), Failure> {
        let account: ServiceAccount =
            secret.expose(|bytes| serde_json::from_slice(bytes)).map_err(|_| {
                Failure::usage("the secret is not the key file of a service account").help(
                    "give the JSON as the console or `gcloud iam service-accounts keys create` wrote it",
                )
            })?;
        if self.scope.is_empty() {
            return Err(Failure::usage("nothing says what the token shall be good for")
                .help("name it with --scope https://www.googleapis.com/auth/cloud-platform"));
        }
        let endpoint = match &self.token_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => account
                .token_uri
                .parse()
                .map_err(|e| Failure::usage(format!("the key's token_uri: {e}")))?,
        };
        let mut oauth = self.described(OauthGrant::JwtBearer, endpoint);
        oauth.issuer = oauth.issuer.or(Some(account.client_email));
        oauth.key_id = oauth.key_id.or(account.private_key_id);
        let material = Material { private_key: Some(account.private_key), ..Material::default() };
        Ok((Kind::Oauth(Box::new(oauth)), material))
    }

    /// Where tokens come from: as it is said here, else as the catalogue has it.
    fn endpoint(&self, provider: Option<&Provider>) -> Result<Endpoint, Failure> {
        if let Some(endpoint) = &self.token_endpoint {
            return Ok(endpoint.clone());
        }
        let known = provider.and_then(|p| p.oauth()).and_then(|oauth| oauth.token.as_deref());
        let Some(text) = known else {
            return Err(Failure::usage("nothing says where tokens come from")
                .help("name the endpoint with --token-endpoint https://HOST/PATH"));
        };
        fill_in(text, self.tenant.as_deref())
    }

    fn client_secret(&self) -> Result<Option<String>, Failure> {
        let bytes = match (&self.client_secret_from_env, &self.client_secret_from_file) {
            (Some(name), _) => from_env(name)?,
            (None, Some(path)) => from_file(path)?,
            (None, None) => return Ok(None),
        };
        let text = std::str::from_utf8(without_line_end(&bytes))
            .map_err(|_| Failure::usage("the client secret is no text"))?;
        Ok(Some(text.to_owned()))
    }
}

/// A seed by itself, or in the address that a QR code holds, which says the rest.
fn totp(secret: &Secret) -> Result<(Kind, Material), Failure> {
    let mut totp = Totp { digits: 6, period: 30, hash: TotpHash::Sha1 };
    let text = secret.expose(|bytes| String::from_utf8(bytes.to_vec()));
    let text = text.map_err(|_| Failure::usage("the seed is no text"))?;
    let mut seed = text.clone();
    if let Some(address) = text.strip_prefix("otpauth://") {
        let unknown = || {
            Failure::usage("the otpauth address asks for what is not known")
                .help("known are totp, 6 to 8 digits, and SHA1, SHA256 and SHA512")
        };
        if !address.starts_with("totp/") {
            return Err(unknown());
        }
        seed.clear();
        for pair in address.split_once('?').map_or("", |(_, query)| query).split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "secret" => value.clone_into(&mut seed),
                "digits" => totp.digits = value.parse().map_err(|_| unknown())?,
                "period" => totp.period = value.parse().map_err(|_| unknown())?,
                "algorithm" => {
                    totp.hash = match &*value.to_ascii_uppercase() {
                        "SHA1" => TotpHash::Sha1,
                        "SHA256" => TotpHash::Sha256,
                        "SHA512" => TotpHash::Sha512,
                        _ => return Err(unknown()),
                    };
                }
                _ => {}
            }
        }
        if !(6..=8).contains(&totp.digits) || !(1..=3600).contains(&totp.period) {
            return Err(unknown());
        }
    }
    let kind = Kind::Totp(totp);
    let material = read(&Secret::new(seed.into_bytes()), &kind)?;
    Ok((kind, material))
}

/// Fills in the customer's part of an address of the catalogue.
pub(super) fn fill_in(text: &str, tenant: Option<&str>) -> Result<Endpoint, Failure> {
    let wrong = |e| Failure::new(format!("the catalogue's {text}: {e}"));
    let Some((head, rest)) = text.split_once('{') else { return text.parse().map_err(wrong) };
    let (word, tail) = rest.split_once('}').unwrap_or((rest, ""));
    let Some(tenant) = tenant else {
        return Err(Failure::usage(format!("this provider's token endpoint is {text}"))
            .help(format!("say what stands for {{{word}}} with --tenant")));
    };
    // A part of a name or of a path, and nothing that could lead elsewhere.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if tenant.is_empty() || !tenant.bytes().all(plain) || tenant.starts_with('.') {
        return Err(Failure::usage("--tenant may have letters, digits, `-`, `.` and `_` in it"));
    }
    format!("{head}{tenant}{tail}").parse().map_err(wrong)
}

/// What is kept when a credential of a kind gets a new secret: the new one, and what it leaves unsaid.
pub(crate) fn rotated(
    vault: &Vault,
    name: &Name,
    kind: &Kind,
    secret: &Secret,
) -> Result<Secret, Failure> {
    let new = read(secret, kind)?;
    let snapshot = vault.snapshot()?;
    let version = snapshot.credentials.get(name.as_str()).and_then(|c| c.version);
    let old = version.map(|version| snapshot.open(name, version)).transpose()?;
    let material = match old.map(|old| Material::read(&old, kind)) {
        Some(Ok(old)) => new.merged(&old),
        _ => new,
    };
    check(kind, &material)?;
    Ok(material.to_secret())
}

/// What of a secret is kept for a kind, as it was given.
pub(crate) fn kept(kind: &Kind, secret: &Secret) -> Result<Secret, Failure> {
    let material = read(secret, kind)?;
    check(kind, &material)?;
    Ok(material.to_secret())
}

fn read(secret: &Secret, kind: &Kind) -> Result<Material, Failure> {
    Material::read(secret, kind).map_err(|e| Failure::usage(e.to_string()))
}

/// Has a client certificate be due for rotation on the day on which it ends; or sooner, by the schedule
/// that it was `added` with. With each new version it is the new one's day.
pub(crate) fn follow_certificate(
    vault: &mut Vault,
    name: &Name,
    added: bool,
) -> Result<(), Failure> {
    let info = vault.credential(name)?;
    if info.properties.kind != Some(Kind::ClientCertificate) || info.properties.source.is_some() {
        return Ok(());
    }
    let Some(current) = info.current() else { return Ok(()) };
    let secret = vault.snapshot()?.open(name, current.version)?;
    let identity = read(&secret, &Kind::ClientCertificate)?.identity.unwrap_or_default();
    let until = crate::upstream::check_identity(identity.as_bytes());
    let until = until.map_err(|e| Failure::usage(e.to_string()))?;
    let days = days_between(current.created, until).clamp(1, MOST_DAYS);
    let its_end = Schedule::Days(u32::try_from(days).unwrap_or(1));
    let said = info.properties.rotate.filter(|said| added && said.days() < its_end.days());
    let schedule = Some(said.unwrap_or(its_end));
    vault.set_properties(name, |properties| properties.rotate = schedule)?;
    Ok(())
}

/// Ten years: what is good for longer is asked about then.
const MOST_DAYS: i64 = 3650;

fn check(kind: &Kind, material: &Material) -> Result<(), Failure> {
    if *kind == Kind::ClientCertificate {
        let identity = material.identity.as_deref().unwrap_or_default();
        crate::upstream::check_identity(identity.as_bytes())
            .map_err(|e| Failure::usage(e.to_string()))?;
    }
    material.check(kind).map_err(|e| {
        let failure = Failure::usage(e.to_string());
        let natural = crate::mint::NATURAL.iter().find(|(name, _)| *name == kind.name());
        match natural {
            Some((name, what)) => failure.help(format!(
                "{name} takes {what}, or a JSON object with each secret by its name; a client secret beside it comes by --client-secret-from-file or --client-secret-from-env"
            )),
            None => failure,
        }
    })
}
