//! Kinds: how the value that enters a request is made of the secret that lies in the vault. A
//! credential without a kind is sent as it lies there.
//!
//! Nothing here is secret, and all of it is sealed with the credential's versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Endpoint, Signing, Slot};

/// What is made of the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kind {
    /// An access token, by an OAuth 2.0 grant.
    Oauth(Box<Oauth>),
    /// A signature of AWS (Signature Version 4), in the place of that which the client made with a
    /// placeholder.
    Aws(Box<Aws>),
    /// A token of an installation of a GitHub App.
    GithubApp(Box<GithubApp>),
    /// The one-time password of the moment (RFC 6238).
    Totp(Totp),
    /// A signature with a shared key, as the provider describes it.
    Hmac(Box<Signing>),
    /// A certificate and its key, by which the connection shows who we are (mutual TLS).
    ClientCertificate,
    /// A user name and its password, which enter together.
    Basic(Box<Login>),
}

impl Kind {
    /// How the command line and `credential show` name it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Oauth(oauth) => oauth.grant.name(),
            Self::Aws(_) => "aws",
            Self::GithubApp(_) => "github-app",
            Self::Totp(_) => "totp",
            Self::Hmac(_) => "hmac",
            Self::ClientCertificate => "client-certificate",
            Self::Basic(_) => "basic",
        }
    }

    /// Whether a value has to be made before the request can be filled.
    #[must_use]
    pub fn is_minted(&self) -> bool {
        match self {
            Self::Oauth(_) | Self::GithubApp(_) | Self::Totp(_) => true,
            Self::Aws(aws) => aws.role.is_some(),
            Self::Hmac(_) | Self::ClientCertificate | Self::Basic(_) => false,
        }
    }

    /// Whether the value is made at once, of the secret and the time, and is good for one use.
    #[must_use]
    pub fn is_of_the_moment(&self) -> bool {
        matches!(self, Self::Totp(_))
    }

    /// Whether the body has to be read before the request can be filled.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        matches!(self, Self::Hmac(signing) if signing.reads_body())
    }

    /// Whether what is sent for a value says what time it is.
    #[must_use]
    pub fn minds_the_clock(&self) -> bool {
        match self {
            Self::Oauth(oauth) => {
                oauth.grant == Grant::JwtBearer || oauth.client_auth == ClientAuth::PrivateKeyJwt
            }
            Self::Aws(_) | Self::GithubApp(_) => true,
            Self::Totp(_) | Self::Hmac(_) | Self::ClientCertificate | Self::Basic(_) => false,
        }
    }

    /// Where no agent may send what is made of the secret: those who make it would make more of it.
    #[must_use]
    pub fn token_endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Oauth(oauth) => Some(&oauth.token_endpoint),
            Self::GithubApp(app) => Some(&app.endpoint),
            // Programs ask AWS for much else there; a one-time password is made here.
            Self::Aws(_)
            | Self::Totp(_)
            | Self::Hmac(_)
            | Self::ClientCertificate
            | Self::Basic(_) => None,
        }
    }

    /// Where Locum itself sends the secret, or what it signs with it, to get a value.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Oauth(oauth) => Some(&oauth.token_endpoint),
            Self::Aws(aws) => aws.role.as_ref().map(|role| &role.endpoint),
            Self::GithubApp(app) => Some(&app.endpoint),
            Self::Totp(_) | Self::Hmac(_) | Self::ClientCertificate | Self::Basic(_) => None,
        }
    }
}

/// Where a user name enters a request; its password enters in all other slots of the credential, and
/// Basic takes both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Login {
    /// Those slots that are the user name's, as slots are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
}

impl Login {
    /// Whether a slot is the user name's.
    #[must_use]
    pub fn is_user(&self, slot: &Slot) -> bool {
        // Few have more than one, and each request that uses it asks once for each.
        self.users.iter().any(|text| text.parse::<Slot>().is_ok_and(|own| own == *slot))
    }
}

/// How an access token is got (RFC 6749, 7523, 8693).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Oauth {
    /// Which grant.
    pub grant: Grant,
    /// Where (RFC 6749 section 3.2).
    pub token_endpoint: Endpoint,
    /// Who we are to the authorization server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// How we show that.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_auth: ClientAuth,
    /// What the token shall be good for, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Whom it shall be good for (RFC 8693 section 2.1, and what some servers ask for elsewhere).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The same as an address (RFC 8707).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Further parameters of the request that this server wants.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// The `kid` of assertions (RFC 7515 section 4.1.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The `iss` of an assertion that is a grant (RFC 7523 section 3). Without one, the client id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The `sub` of the same: whom the token speaks for. Without one, the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The `aud` of assertions. Without one, the token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion_audience: Option<String>,
    /// What is exchanged (RFC 8693 section 3). Without one, an access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_token_type: Option<String>,
    /// What it is exchanged for. Without one, what the server chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_token_type: Option<String>,
    /// How many seconds a token is good for, where the server does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<u32>,
}

/// An OAuth 2.0 grant that needs nobody at a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// The secret is a refresh token (RFC 6749 section 6).
    Refresh,
    /// The secret is the client's own (RFC 6749 section 4.4).
    ClientCredentials,
    /// The secret is a token that is exchanged (RFC 8693).
    TokenExchange,
    /// The secret is a key that signs an assertion (RFC 7523 section 2.1).
    JwtBearer,
}

impl Grant {
    /// How the command line names the kind.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refresh => "oauth-refresh",
            Self::ClientCredentials => "oauth-client-credentials",
            Self::TokenExchange => "oauth-token-exchange",
            Self::JwtBearer => "oauth-jwt-bearer",
        }
    }
}

/// How a client shows to the authorization server who it is (RFC 7591 section 2,
/// `token_endpoint_auth_method`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// It says it, and shows nothing.
    #[default]
    None,
    /// Id and secret in a Basic header (RFC 6749 section 2.3.1).
    ClientSecretBasic,
    /// Id and secret in the body.
    ClientSecretPost,
    /// An assertion that its key has signed (RFC 7523 section 2.2).
    PrivateKeyJwt,
    /// The certificate that it shows in TLS (RFC 8705).
    TlsClientAuth,
}

impl ClientAuth {
    /// The method's registered name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::TlsClientAuth => "tls_client_auth",
        }
    }
}

/// Which tokens of a GitHub App are got: of one installation, and good for what is named here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GithubApp {
    /// Where: `https://api.github.com/app/installations/ID/access_tokens`.
    pub endpoint: Endpoint,
    /// The app's id, or its client id.
    pub app_id: String,
    /// The names of the repositories. Empty for all of the installation's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<String>,
    /// What may be done: `contents: read`. Empty for all that the installation may.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub permissions: BTreeMap<String, String>,
}

/// How one-time passwords are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Totp {
    /// How many digits: 6 to 8.
    pub digits: u8,
    /// How many seconds each is good for.
    pub period: u32,
    /// By which hash.
    pub hash: TotpHash,
}

/// The hash of one-time passwords (RFC 6238 section 1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TotpHash {
    /// What nearly all have.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How requests to AWS are signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Aws {
    /// The role that Locum assumes with the key; the session's key then signs. Without one, the key
    /// itself does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The regions that may be signed for. Empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// The services that may be signed for, by their signing names. Empty for that which the host's
    /// name says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// A role of AWS (STS, `AssumeRole`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Role {
    /// Its name: `arn:aws:iam::123456789012:role/reader`.
    pub arn: String,
    /// STS: its endpoint, of one region.
    pub endpoint: Endpoint,
    /// The region of that.
    pub region: String,
    /// How the session is called in the log of AWS.
    pub session: String,
    /// What the role's owner wants to hear from us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// How many seconds a session lasts. Without it, an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<u32>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_reads_back_as_it_is_written_and_has_no_unknown_fields() {
        let text = r#"{"oauth":{"grant":"refresh","token-endpoint":"https://a.test/token","client-id":"me","client-auth":"client_secret_post"}}"#;
        let kind: Kind = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&kind).unwrap(), text);
        assert_eq!(kind.name(), "oauth-refresh");
        for wrong in [
            text.replace("client-id", "client-ix"),
            text.replace("oauth", "oath"),
            text.replace("https", "http"),
            text.replace("refresh", "password"),
        ] {
            assert!(serde_json::from_str::<Kind>(&wrong).is_err(), "{wrong}");
        }
    }
}
