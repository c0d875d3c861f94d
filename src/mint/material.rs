//! What lies in the vault for a kind: one JSON object of named secrets, on one line, so that whatever
//! can be stored for a header can be stored for a kind.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::credential::{ClientAuth, Kind, OauthGrant};
use crate::secret::Secret;

/// The secrets of a kind. Their memory is wiped when it is freed, as all of the process's is.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Material {
    /// A refresh token (RFC 6749 section 1.5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// A client's secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    /// A token that is exchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_token: Option<String>,
    /// A private key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// Who signs, to AWS.
    #[serde(alias = "AccessKeyId", skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// What signs.
    #[serde(alias = "SecretAccessKey", skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<String>,
    /// What belongs to a key that is good for a session only.
    #[serde(alias = "SessionToken", skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
    /// What one-time passwords are made of, in base32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// A user name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// A client certificate with its key, and its intermediates, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// A shared key that signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is sent beside a signature, and is secret too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<String>,
}

/// Why what lies in the vault cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaterialError {
    /// It is no text.
    NotText,
    /// It begins like JSON and is none.
    NotJson,
    /// A secret is not there.
    Missing(&'static str),
    /// The key is none that is known.
    Key,
    /// The seed is no base32.
    Seed,
    /// The shared key is not written as the kind says.
    SharedKey,
    /// User name or password cannot be sent.
    Login,
}

impl fmt::Display for MaterialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => f.write_str("the secret is no text"),
            Self::Seed => f.write_str("the seed is no base32, as apps for one-time passwords show it"),
            Self::Login => f.write_str(
                "user name and password may have printable ASCII in them, the user name no `:`, and the password has to have 4 characters at least",
            ),
            Self::SharedKey => f.write_str("the key is not written as `--key-form` says"),
            Self::NotJson => f.write_str("the secret begins like JSON, and is none"),
            Self::Missing(what) => write!(f, "the secret has no `{what}`"),
            Self::Key => f.write_str(
                "the private key cannot be read: it has to be RSA, P-256, P-384 or Ed25519, in PEM (PKCS #8, PKCS #1 or SEC 1), and without a passphrase",
            ),
        }
    }
}

impl std::error::Error for MaterialError {}

/// What a secret that is not JSON is taken for, by the kind's name: for help texts.
pub const NATURAL: &[(&str, &str)] = &[
    ("oauth-refresh", "the refresh token"),
    ("oauth-client-credentials", "the client secret, or the private key for private_key_jwt"),
    ("oauth-token-exchange", "the token that is exchanged"),
    ("oauth-jwt-bearer", "the private key, in PEM"),
    ("github-app", "the app's private key, in PEM"),
    ("totp", "the seed in base32, or the otpauth:// address of the QR code"),
    ("hmac", "the key that signs"),
    ("basic", "USER:PASSWORD"),
    ("client-certificate", "the certificate, its intermediates and its private key, in PEM"),
    (
        "aws",
        "ID:SECRET, a section of ~/.aws/credentials, or the JSON that `aws iam create-access-key` prints",
    ),
];

impl Material {
    /// Reads what lies in the vault, or what another vault has: JSON with these names, or the one
    /// secret that the kind cannot do without.
    ///
    /// # Errors
    /// [`MaterialError`] when it is neither. What is missing is found by [`Material::check`].
    pub fn read(secret: &Secret, kind: &Kind) -> Result<Self, MaterialError> {
        secret.expose(|bytes| {
            let text = std::str::from_utf8(bytes).map_err(|_| MaterialError::NotText)?.trim();
            if text.starts_with('{') {
                return Self::of_json(text);
            }
            let mut material = Self::default();
            match material.natural(kind) {
                Some(place) => *place = Some(text.to_owned()),
                None if matches!(kind, Kind::Basic(_)) => {
                    let pair = text.split_once(':');
                    material.username = pair.map(|(user, _)| user.to_owned());
                    material.password = pair.map(|(_, password)| password.to_owned());
                }
                None => material.of_aws(text),
            }
            Ok(material)
        })
    }

    /// The object itself, or the one in which the tools of AWS wrap it.
    fn of_json(text: &str) -> Result<Self, MaterialError> {
        let not = |_| MaterialError::NotJson;
        let mut object: serde_json::Value = serde_json::from_str(text).map_err(not)?;
        for wrapper in ["AccessKey", "Credentials"] {
            if object.get(wrapper).is_some_and(serde_json::Value::is_object) {
                object = object[wrapper].take();
            }
        }
        serde_json::from_value(object).map_err(not)
    }

    /// `ID:SECRET`, or lines as in `~/.aws/credentials`.
    fn of_aws(&mut self, text: &str) {
        if !text.contains('=') || !text.contains("aws_") {
            let pair = text.split_once(':');
            self.access_key_id = pair.map(|(id, _)| id.to_owned());
            self.secret_access_key = pair.map(|(_, secret)| secret.to_owned());
            return;
        }
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let place = match name.trim() {
                "aws_access_key_id" => &mut self.access_key_id,
                "aws_secret_access_key" => &mut self.secret_access_key,
                "aws_session_token" => &mut self.session_token,
                _ => continue,
            };
            *place = Some(value.trim().to_owned());
        }
    }

    /// Where the one secret goes that is given by itself; none where there are two.
    fn natural(&mut self, kind: &Kind) -> Option<&mut Option<String>> {
        Some(match kind {
            Kind::Aws(_) | Kind::Basic(_) => return None,
            Kind::GithubApp(_) => &mut self.private_key,
            Kind::Totp(_) => &mut self.seed,
            Kind::Hmac(_) => &mut self.key,
            Kind::ClientCertificate => &mut self.identity,
            Kind::Oauth(oauth) => match (oauth.grant, oauth.client_auth) {
                (OauthGrant::Refresh, _) => &mut self.refresh_token,
                (OauthGrant::ClientCredentials, ClientAuth::PrivateKeyJwt)
                | (OauthGrant::JwtBearer, _) => &mut self.private_key,
                (OauthGrant::ClientCredentials, _) => &mut self.client_secret,
                (OauthGrant::TokenExchange, _) => &mut self.subject_token,
            },
        })
    }

    /// The same, and what `old` says besides.
    #[must_use]
    pub fn merged(mut self, old: &Self) -> Self {
        let keep = |new: &mut Option<String>, old: &Option<String>| {
            if new.is_none() {
                new.clone_from(old);
            }
        };
        keep(&mut self.refresh_token, &old.refresh_token);
        keep(&mut self.client_secret, &old.client_secret);
        keep(&mut self.subject_token, &old.subject_token);
        keep(&mut self.private_key, &old.private_key);
        keep(&mut self.seed, &old.seed);
        keep(&mut self.key, &old.key);
        keep(&mut self.identity, &old.identity);
        keep(&mut self.username, &old.username);
        keep(&mut self.password, &old.password);
        keep(&mut self.passphrase, &old.passphrase);
        // A key and its session belong together.
        if self.access_key_id.is_none() {
            keep(&mut self.access_key_id, &old.access_key_id);
            keep(&mut self.secret_access_key, &old.secret_access_key);
            keep(&mut self.session_token, &old.session_token);
        }
        self
    }

    /// As the vault keeps it.
    #[must_use]
    #[allow(clippy::missing_panics_doc)] // Names and texts are JSON.
    pub fn to_secret(&self) -> Secret {
        Secret::new(serde_json::to_vec(self).expect("names and texts are JSON"))
    }

    /// Whether all is there that the kind needs, and can be used.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self, kind: &Kind) -> Result<(), MaterialError> {
        match kind {
            Kind::Oauth(oauth) => {
                match oauth.grant {
                    OauthGrant::Refresh => self.refresh_token().map(drop)?,
                    OauthGrant::ClientCredentials => {}
                    OauthGrant::TokenExchange => self.subject_token().map(drop)?,
                    OauthGrant::JwtBearer => self.signing_key().map(drop)?,
                }
                match oauth.client_auth {
                    ClientAuth::ClientSecretBasic | ClientAuth::ClientSecretPost => {
                        self.client_secret().map(drop)
                    }
                    ClientAuth::PrivateKeyJwt => self.signing_key().map(drop),
                    ClientAuth::None | ClientAuth::TlsClientAuth => Ok(()),
                }
            }
            Kind::Aws(_) => self.aws_key().map(drop),
            Kind::GithubApp(_) => self.signing_key().map(drop),
            Kind::Totp(_) => self.seed().map(drop),
            Kind::Basic(_) => self.login().map(drop),
            // What is in it is looked at by whoever can read certificates.
            Kind::ClientCertificate => present(self.identity.as_deref(), "identity").map(drop),
            Kind::Hmac(signing) => {
                let text = present(self.key.as_deref(), "key")?;
                crate::sign::hmac::key(signing.key, text).ok_or(MaterialError::SharedKey)?;
                if signing.wants_passphrase() {
                    present(self.passphrase.as_deref(), "passphrase")?;
                }
                Ok(())
            }
        }
    }

    /// Key id and key of AWS.
    ///
    /// # Errors
    /// [`MaterialError::Missing`].
    pub fn aws_key(&self) -> Result<(&str, &str), MaterialError> {
        Ok((
            present(self.access_key_id.as_deref(), "access_key_id")?,
            present(self.secret_access_key.as_deref(), "secret_access_key")?,
        ))
    }

    /// User name and password.
    ///
    /// # Errors
    /// [`MaterialError`] when one is not there, or cannot be sent.
    pub fn login(&self) -> Result<(&str, &str), MaterialError> {
        let user = present(self.username.as_deref(), "username")?;
        let password = present(self.password.as_deref(), "password")?;
        let fits = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b));
        // Basic ends a user name at the first colon (RFC 7617 section 2).
        let sound = fits(user) && fits(password) && !user.contains(':') && password.len() >= 4;
        if sound { Ok((user, password)) } else { Err(MaterialError::Login) }
    }

    /// What an answer must not contain of what lies in the vault: each secret by itself.
    #[must_use]
    pub fn parts(self) -> Vec<Secret> {
        let Self {
            refresh_token,
            client_secret,
            subject_token,
            private_key,
            access_key_id: _,
            secret_access_key,
            session_token,
            seed,
            key,
            passphrase,
            identity,
            username: _,
            password,
        } = self;
        let all = [
            refresh_token,
            client_secret,
            subject_token,
            private_key,
            secret_access_key,
            session_token,
            seed,
            key,
            passphrase,
            identity,
            password,
        ];
        all.into_iter().flatten().map(|text| Secret::new(text.into_bytes())).collect()
    }

    pub(super) fn refresh_token(&self) -> Result<&str, MaterialError> {
        present(self.refresh_token.as_deref(), "refresh_token")
    }

    pub(super) fn client_secret(&self) -> Result<&str, MaterialError> {
        present(self.client_secret.as_deref(), "client_secret")
    }

    pub(super) fn subject_token(&self) -> Result<&str, MaterialError> {
        present(self.subject_token.as_deref(), "subject_token")
    }

    /// The seed's bytes; written in groups, in lower case or with padding, as apps show it.
    pub(super) fn seed(&self) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
        let text = present(self.seed.as_deref(), "seed")?;
        let plain = text.chars().filter(|c| !c.is_whitespace() && !"-=".contains(*c));
        let plain: Zeroizing<String> =
            Zeroizing::new(plain.map(|c| c.to_ascii_uppercase()).collect());
        let bytes = BASE32_NOPAD.decode(plain.as_bytes()).map_err(|_| MaterialError::Seed)?;
        Ok(Zeroizing::new(bytes))
    }

    pub(super) fn signing_key(&self) -> Result<super::jwt::SigningKey, MaterialError> {
        let pem = present(self.private_key.as_deref(), "private_key")?;
        super::jwt::SigningKey::read(pem).ok_or(MaterialError::Key)
    }
}

fn present<'a>(value: Option<&'a str>, what: &'static str) -> Result<&'a str, MaterialError> {
    value.filter(|text| !text.is_empty()).ok_or(MaterialError::Missing(what))
}
