//! Sources: where a credential's secret lies when it does not lie in our own vault.
//!
//! What is said of a source holds no secret, and is sealed with the credential: who edits a row cannot
//! have a login sent elsewhere. What the source asks of its callers, a token or the secret half of a
//! login, is the credential's secret in our vault.

mod cloud;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cloud::{AwsVersion, CloudLogin, aws_endpoint};

use super::Endpoint;

/// What the vault keeps for a credential whose source asks for no login. Too short to be recognised in
/// anything by chance.
pub const ELSEWHERE: &[u8] = b"external";

/// Where a secret lies, and how long a copy of it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Where.
    pub place: Place,
    /// Which field of what is found there; without it, all of it, or its only field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// After how many seconds it is looked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<u32>,
    /// For how many seconds more the last value is used when it cannot be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<u32>,
}

/// Where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Place {
    /// A file on the machine of the proxy.
    File {
        /// Its whole path.
        path: String,
    },
    /// A variable of the proxy's own environment.
    Env {
        /// Its name.
        variable: String,
    },
    /// A file in systemd's `$CREDENTIALS_DIRECTORY`.
    Systemd {
        /// Its name.
        credential: String,
    },
    /// What a program prints.
    Command {
        /// The program's whole path, and its arguments.
        words: Vec<String>,
    },
    /// `HashiCorp` Vault or `OpenBao`.
    Vault {
        /// Where it listens.
        url: Endpoint,
        /// The path of the API below `/v1/`, such as `kv/data/billing` or `database/creds/app`.
        path: String,
        /// How it knows us.
        login: VaultLogin,
        /// `X-Vault-Namespace`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
    /// AWS Secrets Manager.
    Aws {
        /// Where it listens.
        url: Endpoint,
        /// The region that calls are signed for.
        region: String,
        /// The secret's name or ARN.
        secret: String,
        /// Which of its versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<AwsVersion>,
        /// How it knows us.
        login: CloudLogin,
    },
    /// Google Secret Manager.
    Gcp {
        /// Where it listens.
        url: Endpoint,
        /// The version's whole name: `projects/P/secrets/S/versions/V`.
        name: String,
        /// How it knows us.
        login: CloudLogin,
    },
    /// Azure Key Vault.
    Azure {
        /// The vault: `https://NAME.vault.azure.net`.
        url: Endpoint,
        /// The secret's name.
        name: String,
        /// Its version; the current one where none is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// How it knows us.
        login: CloudLogin,
    },
}

/// How a vault knows its callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum VaultLogin {
    /// By a token, which is the credential's secret.
    Token,
    /// By a token that something else, such as the vault's own agent, keeps in a file.
    TokenFile {
        /// Its whole path.
        path: String,
    },
    /// By an `AppRole`, whose `secret_id` is the credential's secret.
    Approle {
        /// Its `role_id`.
        role: String,
        /// Where the method is mounted.
        mount: String,
    },
    /// By the token of a Kubernetes service account.
    Kubernetes {
        /// The role.
        role: String,
        /// Where the method is mounted.
        mount: String,
        /// The file with its token; where Kubernetes puts it, if nothing is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token_file: Option<String>,
    },
}

/// A text is not a [`Source`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError(String);

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SourceError {}

fn wrong<T>(text: impl Into<String>) -> Result<T, SourceError> {
    Err(SourceError(text.into()))
}

/// What else is said of a source, beside its own text.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Where the other vault listens.
    pub url: Option<Endpoint>,
    /// How it knows us: a [`VaultLogin`] or a [`CloudLogin`].
    pub login: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Which version of the secret.
    pub version: Option<String>,
}

impl Beside {
    fn is_empty(&self) -> bool {
        let Self { url, login, namespace, region, version } = self;
        let texts = [login, namespace, region, version];
        url.is_none() && texts.iter().all(|text| text.is_none())
    }
}

/// What is looked for on this machine costs nothing to look for again.
const NEAR: Duration = Duration::from_secs(10);
/// What lies elsewhere: short enough that a rotation there is followed, and long enough that it is not
/// asked for each call.
const FAR: Duration = Duration::from_mins(5);
/// How long the last value is used when its source does not answer: what a restart or an upgrade of a
/// vault takes, and what somebody who is called takes to look.
const STALE: Duration = Duration::from_hours(1);

impl Source {
    /// Reads `KIND:PLACE`, with `#FIELD` after it where one field is meant.
    ///
    /// # Errors
    /// [`SourceError`] saying what is wrong, and how it is written.
    pub fn parse(text: &str, beside: Beside) -> Result<Self, SourceError> {
        let Some((kind, rest)) = text.split_once(':') else {
            return wrong("a source is written KIND:PLACE, such as vault:kv/data/billing#key");
        };
        let (rest, field) = match rest.rsplit_once('#') {
            Some((rest, field)) if kind != "command" && !field.is_empty() => {
                (rest, Some(field.to_owned()))
            }
            _ => (rest, None),
        };
        let is_far = matches!(kind, "vault" | "openbao" | "aws" | "gcp" | "azure");
        if !is_far && !beside.is_empty() {
            return wrong(format!("a source of kind `{kind}` is at no URL, and asks for no login"));
        }
        let place = match kind {
            "file" => Place::File { path: whole_path(rest)? },
            "env" => Place::Env { variable: plain("the name of a variable", rest)? },
            "systemd" => Place::Systemd { credential: plain("the name of a credential", rest)? },
            "command" => {
                let (words, field) = command(rest)?;
                let source =
                    Self { place: Place::Command { words }, field, refresh: None, stale: None };
                return Ok(source);
            }
            "vault" | "openbao" => vault(rest, beside)?,
            "aws" => cloud::aws(rest, &beside)?,
            "gcp" => cloud::gcp(rest, &beside)?,
            "azure" => cloud::azure(rest, &beside)?,
            other => {
                return wrong(format!(
                    "there is no kind of source `{other}`; there are file, env, systemd, command, vault, openbao, aws, gcp and azure"
                ));
            }
        };
        Ok(Self { place, field, refresh: None, stale: None })
    }

    /// What its kind is called, in lists and in records.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.place {
            Place::File { .. } => "file",
            Place::Env { .. } => "env",
            Place::Systemd { .. } => "systemd",
            Place::Command { .. } => "command",
            Place::Vault { .. } => "vault",
            Place::Aws { .. } => "aws",
            Place::Gcp { .. } => "gcp",
            Place::Azure { .. } => "azure",
        }
    }

    /// How a cloud that has it knows us.
    #[must_use]
    pub fn cloud_login(&self) -> Option<&CloudLogin> {
        match &self.place {
            Place::Aws { login, .. } | Place::Gcp { login, .. } | Place::Azure { login, .. } => {
                Some(login)
            }
            _ => None,
        }
    }

    /// Where it is asked, if it lies elsewhere.
    #[must_use]
    pub fn url(&self) -> Option<&Endpoint> {
        match &self.place {
            Place::Vault { url, .. }
            | Place::Aws { url, .. }
            | Place::Gcp { url, .. }
            | Place::Azure { url, .. } => Some(url),
            Place::File { .. }
            | Place::Env { .. }
            | Place::Systemd { .. }
            | Place::Command { .. } => None,
        }
    }

    /// Whether the credential's secret in our vault is what the source asks its callers for. If not,
    /// [`ELSEWHERE`] lies there.
    #[must_use]
    pub fn wants_login(&self) -> bool {
        match &self.place {
            Place::Vault { login, .. } => {
                matches!(login, VaultLogin::Token | VaultLogin::Approle { .. })
            }
            _ => false,
        }
    }

    /// Whether the proxy's own machine is what reads it, or what it is known by elsewhere: its files, its
    /// environment, its programs, its identity in a cloud or cluster.
    #[must_use]
    pub fn is_of_the_machine(&self) -> bool {
        match &self.place {
            Place::File { .. }
            | Place::Env { .. }
            | Place::Systemd { .. }
            | Place::Command { .. } => true,
            Place::Vault { login, .. } => {
                !matches!(login, VaultLogin::Token | VaultLogin::Approle { .. })
            }
            Place::Aws { login, .. } | Place::Gcp { login, .. } | Place::Azure { login, .. } => {
                !matches!(login, CloudLogin::Credential { .. })
            }
        }
    }

    /// After what time it is looked for again.
    #[must_use]
    pub fn refresh(&self) -> Duration {
        let default = match &self.place {
            Place::File { .. } | Place::Env { .. } | Place::Systemd { .. } => NEAR,
            _ => FAR,
        };
        self.refresh.map_or(default, |seconds| Duration::from_secs(seconds.into()))
    }

    /// For what time more the last value is used when there is no other.
    #[must_use]
    pub fn stale(&self) -> Duration {
        self.stale.map_or(STALE, |seconds| Duration::from_secs(seconds.into()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind())?;
        match &self.place {
            Place::File { path } | Place::Vault { path, .. } => f.write_str(path)?,
            Place::Aws { secret, .. } => f.write_str(secret)?,
            Place::Gcp { name, .. } | Place::Azure { name, version: None, .. } => {
                f.write_str(name)?;
            }
            Place::Azure { name, version: Some(version), .. } => write!(f, "{name}/{version}")?,
            Place::Env { variable } => f.write_str(variable)?,
            Place::Systemd { credential } => f.write_str(credential)?,
            Place::Command { words } => {
                f.write_str(&serde_json::Value::from(words.as_slice()).to_string())?;
            }
        }
        if let Some(field) = &self.field {
            write!(f, "#{field}")?;
        }
        match &self.place {
            Place::Aws { version: Some(AwsVersion::Stage(stage)), .. } => write!(f, " ({stage})")?,
            Place::Aws { version: Some(AwsVersion::Id(id)), .. } => write!(f, " (version {id})")?,
            _ => {}
        }
        match self.url() {
            Some(url) => write!(f, " at {}", url.origin()),
            None => Ok(()),
        }
    }
}

fn whole_path(text: &str) -> Result<String, SourceError> {
    let path = text.strip_prefix("//").map_or(text, |rest| &text[text.len() - rest.len() - 1..]);
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(path.to_owned());
    }
    wrong("a file is named by its whole path, such as file:/run/secrets/billing")
}

fn plain(what: &str, text: &str) -> Result<String, SourceError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let sound = (1..=255).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(fits);
    if sound { Ok(text.to_owned()) } else { wrong(format!("expected {what}, found `{text}`")) }
}

/// A JSON list of words, and a field after it.
fn command(text: &str) -> Result<(Vec<String>, Option<String>), SourceError> {
    const FORM: &str = "a command is written as a JSON list with the program's whole path first: command:[\"/usr/bin/op\",\"read\",\"op://vault/item/field\"]";
    let end = text.rfind(']').map_or(text.len(), |at| at + 1);
    let (list, field) = text.split_at(end);
    let field = match field.strip_prefix('#') {
        None if field.is_empty() => None,
        Some(name) if !name.is_empty() => Some(name.to_owned()),
        _ => return wrong(FORM),
    };
    let words: Vec<String> = serde_json::from_str(list).map_err(|_| SourceError(FORM.into()))?;
    if words.first().is_none_or(|program| !program.starts_with('/')) {
        return wrong(FORM);
    }
    Ok((words, field))
}

fn vault(path: &str, beside: Beside) -> Result<Place, SourceError> {
    let path = path.trim_matches('/');
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    let dots = path.split('/').any(|segment| matches!(segment, "" | "." | ".."));
    if dots || !path.bytes().all(fits) {
        return wrong("expected a path of the vault's API below /v1/, such as kv/data/billing");
    }
    let Some(url) = beside.url.filter(|url| url.target() == "/") else {
        return wrong("say where the vault listens, with --source-url https://HOST:PORT");
    };
    if beside.region.is_some() || beside.version.is_some() {
        return wrong("a vault has no region, and its path says which version");
    }
    let namespace = beside.namespace.map(|text| plain_header(&text)).transpose()?;
    let login = beside.login.map_or(Ok(VaultLogin::Token), |text| text.parse())?;
    Ok(Place::Vault { url, path: path.to_owned(), login, namespace })
}

fn plain_header(text: &str) -> Result<String, SourceError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    wrong("a namespace has visible ASCII characters")
}

impl std::str::FromStr for VaultLogin {
    type Err = SourceError;

    /// `token`, `token-file:PATH`, `approle:ROLE_ID` or `kubernetes:ROLE`, with `@MOUNT` after a role
    /// whose method is mounted elsewhere, and `,FILE` after all where a pod's token lies elsewhere.
    fn from_str(text: &str) -> Result<Self, SourceError> {
        let mounted = |rest: &str, usual: &str| -> Result<(String, String), SourceError> {
            let (role, mount) = rest.split_once('@').unwrap_or((rest, usual));
            let mount = mount.trim_matches('/');
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
            if mount.is_empty() || !mount.bytes().all(fits) {
                return wrong("expected where the method is mounted after the @");
            }
            Ok((plain("a role", role)?, mount.to_owned()))
        };
        match text.split_once(':') {
            None if text == "token" => Ok(Self::Token),
            Some(("token-file", path)) => Ok(Self::TokenFile { path: whole_path(path)? }),
            Some(("approle", rest)) => {
                let (role, mount) = mounted(rest, "approle")?;
                Ok(Self::Approle { role, mount })
            }
            Some(("kubernetes", rest)) => {
                let (rest, file) = rest.split_once(',').map_or((rest, None), |(r, f)| (r, Some(f)));
                let (role, mount) = mounted(rest, "kubernetes")?;
                let token_file = file.map(whole_path).transpose()?;
                Ok(Self::Kubernetes { role, mount, token_file })
            }
            _ => wrong(
                "a login is token, token-file:PATH, approle:ROLE_ID or kubernetes:ROLE, with @MOUNT after a role and ,FILE after that of a pod",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source, SourceError> {
        Source::parse(text, Beside::default())
    }

    fn bao() -> Beside {
        Beside { url: Some("https://bao.internal:8200".parse().unwrap()), ..Beside::default() }
    }

    #[test]
    fn sources_are_read_and_named() {
        for text in [
            "file:/run/secrets/key",
            "file:/run/secrets/all.json#billing",
            "env:BILLING_KEY",
            "systemd:locum.billing",
            "command:[\"/usr/bin/op\",\"read\",\"op://a/b#c\"]",
            "command:[\"/bin/print\"]#token",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let source = Source::parse("openbao:/kv/data/billing#key", bao()).unwrap();
        assert_eq!(source.to_string(), "vault:kv/data/billing#key at https://bao.internal:8200");
        assert!(source.wants_login() && !parse("env:A").unwrap().wants_login());
        let json = serde_json::to_string(&source).unwrap();
        assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source);
    }

    #[test]
    fn what_has_another_meaning_is_refused() {
        for text in [
            "billing",
            "file:relative",
            "env:A B",
            "env:",
            "systemd:../../etc/shadow",
            "command:/usr/bin/op read",
            "command:[]",
            "command:[\"op\",\"read\"]",
            "command:[\"/usr/bin/op\"]x",
            "vault:kv/data/x#key",
            "redis:x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        for path in ["", "kv/../sys/raw", "kv//x", "kv/x?list=true", "kv/x%2f", "kv/ x"] {
            assert!(Source::parse(&format!("vault:{path}"), bao()).is_err(), "{path}");
        }
        assert!(Source::parse("file:/x", bao()).is_err(), "a file is at no URL");
        let deep = Beside { url: Some("https://a.test/v1/x".parse().unwrap()), ..bao() };
        assert!(Source::parse("vault:kv/data/x", deep).is_err());
    }

    #[test]
    fn logins_are_read() {
        let read = |text: &str| text.parse::<VaultLogin>();
        assert_eq!(read("token"), Ok(VaultLogin::Token));
        let role = |role: &str, mount: &str| (role.to_owned(), mount.to_owned());
        let (role_id, mount) = role("a-b", "approle");
        assert_eq!(read("approle:a-b"), Ok(VaultLogin::Approle { role: role_id, mount }));
        let (name, mount) = role("locum", "k8s/prod");
        assert_eq!(
            read("kubernetes:locum@k8s/prod"),
            Ok(VaultLogin::Kubernetes { role: name, mount, token_file: None })
        );
        let elsewhere = read("kubernetes:locum@jwt,/run/token").unwrap();
        let VaultLogin::Kubernetes { mount, token_file, .. } = elsewhere else { panic!() };
        assert_eq!((&*mount, token_file.as_deref()), ("jwt", Some("/run/token")));
        for text in [
            "",
            "approle",
            "approle:",
            "token-file:x",
            "kubernetes:a@",
            "kubernetes:a,x",
            "ldap:me",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
