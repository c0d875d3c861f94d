//! The secret managers of clouds: how a secret in them is named, and how they know us.

use serde::{Deserialize, Serialize};

use super::{Beside, Place, SourceError, plain, wrong};
use crate::credential::Endpoint;
use crate::reference::Name;

/// How a cloud knows its callers. Nothing is looked for anywhere that is not said here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum CloudLogin {
    /// By another credential of our vault, which is for sources alone.
    Credential {
        /// Its name.
        name: Name,
    },
    /// By the key in the proxy's own environment: `AWS_ACCESS_KEY_ID` and its kin.
    Environment,
    /// By the token of a workload, which STS exchanges: `AWS_WEB_IDENTITY_TOKEN_FILE` and
    /// `AWS_ROLE_ARN`.
    WebIdentity,
    /// By what the machine's metadata service gives it.
    Instance,
}

/// Which version of a secret of AWS; `AWSCURRENT` where nothing is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AwsVersion {
    /// That with this label, such as `AWSPREVIOUS`.
    Stage(String),
    /// That with this id.
    Id(String),
}

/// Which cloud.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cloud {
    Aws,
    Other,
}

fn login(beside: &Beside, cloud: Cloud) -> Result<CloudLogin, SourceError> {
    if beside.namespace.is_some() {
        return wrong("only HashiCorp Vault and OpenBao have namespaces");
    }
    match beside.login.as_deref().map(|text| text.split_once(':').unwrap_or((text, ""))) {
        Some(("credential", name)) => match name.parse() {
            Ok(name) => Ok(CloudLogin::Credential { name }),
            Err(_) => wrong(format!("`{name}` is no credential's name")),
        },
        Some(("instance", "")) => Ok(CloudLogin::Instance),
        Some(("environment", "")) if cloud == Cloud::Aws => Ok(CloudLogin::Environment),
        Some(("web-identity", "")) if cloud == Cloud::Aws => Ok(CloudLogin::WebIdentity),
        Some(_) => wrong(
            "a cloud knows us by credential:NAME or instance, and AWS by environment or web-identity too",
        ),
        None => wrong(
            "say how the cloud knows us: --source-login credential:NAME, a credential that was added with --for-sources",
        ),
    }
}

/// Where a service of AWS listens in a region; none where that is no region.
#[must_use]
pub fn aws_endpoint(service: &str, region: &str) -> Option<Endpoint> {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://{service}.{region}.amazonaws.com{china}/").parse().ok()
}

/// A secret of AWS, by its name or ARN.
pub(super) fn aws(secret: &str, beside: &Beside) -> Result<Place, SourceError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"/_+=.@-:".contains(&b);
    let arn: Vec<&str> = secret.split(':').collect();
    let is_arn = matches!(&*arn, ["arn", _, "secretsmanager", _, _, "secret", _]);
    // A name has no colon in it (CreateSecret), and 512 characters at most.
    if !(1..=2048).contains(&secret.len())
        || !secret.bytes().all(fits)
        || (!is_arn && arn.len() > 1)
    {
        return wrong("expected the name of a secret, or its ARN");
    }
    let own = is_arn.then(|| arn[3]);
    let region = match (beside.region.as_deref(), own) {
        (Some(said), Some(own)) if said != own => {
            return wrong(format!("the ARN is of {own}, and --source-region says {said}"));
        }
        (Some(region), _) | (None, Some(region)) => plain("a region", region)?,
        (None, None) => return wrong("say which region, with --source-region"),
    };
    let version = match beside.version.as_deref().map(|text| text.strip_prefix("id:").ok_or(text)) {
        None => None,
        Some(Ok(id)) => Some(AwsVersion::Id(plain("the id of a version", id)?)),
        Some(Err(stage)) => Some(AwsVersion::Stage(plain("a label of versions", stage)?)),
    };
    let usual = || aws_endpoint("secretsmanager", &region);
    let Some(url) = beside.url.clone().or_else(usual).filter(|url| url.target() == "/") else {
        return wrong("expected https://HOST:PORT for --source-url");
    };
    let login = login(beside, Cloud::Aws)?;
    Ok(Place::Aws { url, region, secret: secret.to_owned(), version, login })
}

/// A secret of Google: `projects/P/secrets/S`, with `/versions/V` after it or the latest.
pub(super) fn gcp(name: &str, beside: &Beside) -> Result<Place, SourceError> {
    const FORM: &str = "expected projects/PROJECT/secrets/SECRET, and /versions/VERSION after it where one is meant";
    let parts: Vec<&str> = name.split('/').collect();
    let fits = |part: &&str| plain("a part of a name", part).is_ok();
    let (secret, version) = match &*parts {
        ["projects", _, "secrets", _] | ["projects", _, "locations", _, "secrets", _] => {
            (parts.len(), None)
        }
        ["projects", _, "secrets", _, "versions", version]
        | ["projects", _, "locations", _, "secrets", _, "versions", version] => {
            (parts.len() - 2, Some(*version))
        }
        _ => return wrong(FORM),
    };
    if !parts.iter().all(fits) || beside.region.is_some() {
        return wrong(FORM);
    }
    let version = match (beside.version.as_deref(), version) {
        (Some(_), Some(_)) => return wrong("the version is said twice"),
        (said, own) => plain("a version", said.or(own).unwrap_or("latest"))?,
    };
    let url =
        beside.url.clone().map_or_else(|| "https://secretmanager.googleapis.com/".parse(), Ok);
    let Some(url) = url.ok().filter(|url: &Endpoint| url.target() == "/") else {
        return wrong("expected https://HOST for --source-url");
    };
    let name = format!("{}/versions/{version}", parts[..secret].join("/"));
    Ok(Place::Gcp { url, name, login: login(beside, Cloud::Other)? })
}

/// A secret of an Azure Key Vault: its name, with `/VERSION` after it or the current one.
pub(super) fn azure(text: &str, beside: &Beside) -> Result<Place, SourceError> {
    let (name, version) = match text.split_once('/') {
        Some((name, version)) => (name, Some(version)),
        None => (text, beside.version.as_deref()),
    };
    let fits = |text: &str| {
        (1..=127).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if !fits(name) || !version.is_none_or(fits) || beside.region.is_some() {
        return wrong("expected the name of a secret, and /VERSION after it where one is meant");
    }
    let Some(url) = beside.url.clone().filter(|url| url.target() == "/") else {
        return wrong("say which vault, with --source-url https://NAME.vault.azure.net");
    };
    let (name, version) = (name.to_owned(), version.map(str::to_owned));
    Ok(Place::Azure { url, name, version, login: login(beside, Cloud::Other)? })
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    fn beside(login: &str) -> Beside {
        Beside { login: Some(login.to_owned()), ..Beside::default() }
    }

    #[test]
    fn secrets_of_clouds_are_read_and_named() {
        let by = || beside("credential:cloud");
        let paris = || Beside { region: Some("eu-west-3".to_owned()), ..by() };
        let azure = || Beside { url: Some("https://x.vault.azure.net".parse().unwrap()), ..by() };
        let arn = "aws:arn:aws:secretsmanager:eu-west-1:1:secret:a/b-x1#key";
        for (text, beside, shown) in [
            (
                "aws:a/b#key",
                paris(),
                "aws:a/b#key at https://secretsmanager.eu-west-3.amazonaws.com",
            ),
            (arn, by(), &format!("{arn} at https://secretsmanager.eu-west-1.amazonaws.com")),
            (
                "aws:a",
                Beside { version: Some("AWSPENDING".into()), ..paris() },
                "aws:a (AWSPENDING) at https://secretsmanager.eu-west-3.amazonaws.com",
            ),
            (
                "aws:a",
                Beside { region: Some("cn-north-1".into()), ..by() },
                "aws:a at https://secretsmanager.cn-north-1.amazonaws.com.cn",
            ),
            (
                "gcp:projects/p/secrets/s",
                by(),
                "gcp:projects/p/secrets/s/versions/latest at https://secretmanager.googleapis.com",
            ),
            (
                "gcp:projects/p/secrets/s/versions/7",
                by(),
                "gcp:projects/p/secrets/s/versions/7 at https://secretmanager.googleapis.com",
            ),
            ("azure:s", azure(), "azure:s at https://x.vault.azure.net"),
            ("azure:s/0a1b", azure(), "azure:s/0a1b at https://x.vault.azure.net"),
        ] {
            let source = Source::parse(text, beside).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(source.to_string(), shown);
            assert!(!source.wants_login());
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source);
        }
    }

    #[test]
    fn what_does_not_say_where_or_as_whom_is_refused() {
        let by = || beside("credential:cloud");
        let at = |region: &str| Beside { region: Some(region.to_owned()), ..by() };
        for (text, beside, why) in [
            ("aws:a", by(), "region"),
            ("aws:a b", at("eu-west-1"), "name"),
            ("aws:a:b", at("eu-west-1"), "name"),
            ("aws:a", at("eu west"), "region"),
            ("aws:a", at("evil.test/"), "region"),
            ("aws:arn:aws:secretsmanager:eu-west-1:1:secret:a", at("eu-west-2"), "ARN is of"),
            ("aws:a", Beside { login: None, ..at("eu-west-1") }, "how the cloud knows us"),
            ("aws:a", Beside { login: Some("token".into()), ..at("eu-west-1") }, "environment"),
            ("gcp:projects/p/secrets/s", beside("environment"), "knows us by"),
            ("gcp:p/s", by(), "projects/"),
            ("gcp:projects/../secrets/s", by(), "projects/"),
            ("azure:s", by(), "which vault"),
            ("azure:../s", by(), "name of a secret"),
        ] {
            let error = Source::parse(text, beside).expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
