//! What is said of a credential whose secret is not sent as it is, or lies elsewhere: whether it is sound, and
//! where it enters requests.

use serde::{Deserialize, Serialize};

use super::Trouble;
use crate::app::Failure;
use crate::credential::{
    BasicPart, Beside, ClientAuth, CloudLogin, Endpoint, Kind, OauthGrant, Slot, Source,
};
use crate::vault::Vault;

/// A day: what is older is not a copy any more.
pub(crate) const LONGEST: u32 = 24 * 60 * 60;

/// Where a secret lies, in the words of the command line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AtSource {
    /// `vault:PATH#FIELD`, `aws:SECRET#FIELD`, …
    pub(crate) from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<Endpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) login: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// After how many seconds it is looked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refresh: Option<u32>,
    /// For how many seconds more the last value is used when it cannot be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stale: Option<u32>,
}

impl AtSource {
    pub(crate) fn read(&self) -> Result<Source, Failure> {
        let Self { from, url, login, namespace, region, version, refresh, stale } = self;
        let beside = Beside {
            url: url.clone(),
            login: login.clone(),
            namespace: namespace.clone(),
            region: region.clone(),
            version: version.clone(),
        };
        let mut source = Source::parse(from, beside)
            .map_err(|error| Failure::usage(format!("source '{from}': {error}")))?;
        if [refresh, stale].iter().any(|time| time.is_some_and(|seconds| seconds > LONGEST)) {
            return Err(Failure::usage("refresh and stale are a day at most"));
        }
        // Not at each call, whatever is said.
        source.refresh = refresh.map(|seconds| seconds.max(1));
        source.stale = *stale;
        Ok(source)
    }
}

/// That a source is none for which the proxy's machine vouches: what that may read is not a workspace's.
pub(crate) fn check_is_not_of_the_machine(source: &Source) -> Result<(), Failure> {
    if source.is_of_the_machine() {
        return Err(Failure::usage(format!(
            "what the proxy's own machine reads or is known by ({source}) is not for an administrator to use"
        ))
        .help("add it beside the home's files; a source with a login of the workspace's own can be added here"));
    }
    Ok(())
}

/// What a source logs in with is there, is for that, and may go there.
pub(crate) fn check_login(vault: &Vault, source: &Source) -> Result<(), Trouble> {
    let (Some(CloudLogin::Credential { name }), Some(url)) = (source.cloud_login(), source.url())
    else {
        return Ok(());
    };
    let login = vault.credential(name)?;
    if !login.properties.for_sources {
        return Err(Failure::usage(format!("{name} is a credential that agents may get"))
            .help("add one for this with --for-sources")
            .into());
    }
    let own = login.properties.source.as_ref().and_then(Source::cloud_login);
    if matches!(own, Some(CloudLogin::Credential { .. })) {
        return Err(Failure::usage(format!("{name} is itself got by logging in with another"))
            .help("give the key of the cloud to this vault, or have it come from a file or a vault")
            .into());
    }
    if !login.destinations.iter().any(|to| to.matches(url.origin())) {
        return Err(Failure::usage(format!("{name} may not go to {}", url.origin()))
            .help(format!("add it with --to {}", url.origin()))
            .into());
    }
    Ok(())
}

/// That a kind, as it was sent, says what it has to, and can have its secret from where that is.
pub(crate) fn check_kind(kind: &Kind, source: Option<&Source>) -> Result<(), Failure> {
    match kind {
        Kind::Hmac(signing) => signing.check().map_err(|e| Failure::usage(e.to_string()))?,
        Kind::Totp(totp) => {
            if !(6..=8).contains(&totp.digits) || !(1..=3600).contains(&totp.period) {
                return Err(Failure::usage(
                    "a one-time password has 6 to 8 digits, and a period of 1 to 3600 seconds",
                ));
            }
        }
        Kind::Oauth(oauth) => {
            let shows = oauth.client_auth != ClientAuth::None || oauth.grant == OauthGrant::Refresh;
            if shows && oauth.client_id.is_none() {
                return Err(Failure::usage("nothing says who asks for the token")
                    .help("name the client: `client-id`"));
            }
        }
        Kind::Aws(_) | Kind::GithubApp(_) | Kind::ClientCertificate | Kind::Basic(_) => {}
    }
    if source.is_some() && matches!(kind, Kind::Totp(_) | Kind::ClientCertificate) {
        return Err(Failure::usage(format!("a {} cannot be had from a source", kind.name()))
            .help("keep it in this vault"));
    }
    Ok(())
}

/// Where what is made of the secret enters: as it is said, else as is usual for the kind.
pub(crate) fn slots_of(
    kind: &Kind,
    given: Vec<Slot>,
    provider: Vec<Slot>,
) -> Result<Vec<Slot>, Failure> {
    let slots = match kind {
        Kind::Aws(_) => vec![Slot::Aws],
        Kind::ClientCertificate => vec![Slot::Certificate],
        // A signature goes where its fields say.
        Kind::Hmac(signing) => signing.slots(),
        // Nothing is usual for a second factor.
        Kind::Totp(_) => given,
        Kind::Basic(login) => {
            let parsed = login.users.iter().map(|text| text.parse());
            let users: Vec<Slot> = parsed
                .collect::<Result<_, _>>()
                .map_err(|e| Failure::usage(format!("where the user name enters: {e}")))?;
            let own = given.into_iter().filter(|slot| !users.contains(slot)).collect();
            login_slots(own, users)?
        }
        Kind::GithubApp(_) if given.is_empty() && !provider.is_empty() => provider,
        Kind::Oauth(_) | Kind::GithubApp(_) => token_slots(given, provider),
    };
    if slots.is_empty() {
        return Err(Failure::usage("nothing says how the secret enters a request")
            .help("give a slot, such as `header X-Otp: {secret}`"));
    }
    Ok(slots)
}

/// The slots of a user name with its password. Those of the password first: where both are referred to, the
/// record names it.
pub(crate) fn login_slots(typed: Vec<Slot>, users: Vec<Slot>) -> Result<Vec<Slot>, Failure> {
    let fits =
        |slot: &Slot| slot.is_in_body() || matches!(slot, Slot::Basic { .. } | Slot::Header { .. });
    if !typed.iter().all(fits) {
        return Err(Failure::usage("a user name with its password cannot enter a slot of this shape")
            .help("give --basic, --header, --form, --multipart or --json-pointer for the password, and --user-form or --user-json-pointer for the name"));
    }
    let usual = [BasicPart::Password, BasicPart::User];
    let usual = usual.map(|part| Slot::Basic { part, other: "".into() });
    let own = if typed.is_empty() { usual.into() } else { typed };
    Ok(own.into_iter().chain(users).collect())
}

/// The slots of a credential whose token is made: where bearer tokens go, unless something else was said.
pub(crate) fn token_slots(typed: Vec<Slot>, provider: Vec<Slot>) -> Vec<Slot> {
    if !typed.is_empty() {
        return typed;
    }
    let bearer = Slot::header("Authorization: Bearer {secret}").ok();
    let own: Vec<Slot> =
        provider.into_iter().filter(|slot| Some(slot) == bearer.as_ref()).collect();
    if own.is_empty() { bearer.into_iter().collect() } else { own }
}

/// A stand-in for a key of the kind, where programs want it in a shape of its own.
pub(crate) fn stand_in_of(kind: &Kind, reference: &str) -> Option<String> {
    // As long as a key id is, and told from a longer name by what is no part of one.
    matches!(kind, Kind::Aws(_)).then(|| format!("{:0<20}", format!("AKIA{reference}_")))
}
