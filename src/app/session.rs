//! What a program needs in order to speak through the proxy as an agent: a token of its own, the
//! certificates, and the placeholders in the variables where it looks for keys.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Failure, Opened};
use crate::agent::{Proof, UserName};
use crate::catalog::Catalog;
use crate::credential::{Held, Values, stand_in_for};
use crate::environment::{self, Bundle, Inputs, Placeholder, Plan};
use crate::reference::Name;
use crate::token::run::{MAX_TTL, Which};
use crate::vault::{CredentialInfo, NewRunToken, SetInfo};

/// Marks a tag that names the environment variable where programs look for the credential.
pub const VARIABLE_TAG: &str = "env:";

/// A program's access to the proxy.
#[derive(Debug)]
pub struct Session {
    /// Names the token, for its end.
    pub token_id: String,
    /// The proxy URL, with the token in it.
    pub proxy_url: String,
    /// What the child's environment becomes.
    pub plan: Plan,
    /// The variables that held real keys, and got no placeholder in their place.
    pub withheld: BTreeSet<String>,
    /// The caller's environment, without real keys.
    pub inherited: environment::Snapshot,
}

/// What a session is for.
#[derive(Debug)]
pub struct SessionOptions<'a> {
    /// The agent, and what its starter says of this run.
    pub user: &'a UserName,
    /// Where the proxy listens.
    pub proxy: SocketAddr,
    /// A port without authentication, if there is one.
    pub open_port: Option<SocketAddr>,
    /// Where the files of its clients go; Locum's own.
    pub state: PathBuf,
    /// Settings, by their variables.
    pub settings: BTreeMap<String, String>,
    /// Variables of the caller that hold real keys, which the program is not to have.
    pub real_keys: BTreeSet<String>,
}

/// A token that was made for a session: its id and its text.
pub type SessionToken = (String, zeroize::Zeroizing<String>);

/// Makes a token for a session in an environment: a run token, which fixes that.
///
/// # Errors
/// When there is no such agent or environment, and for a longer time than run tokens are good for.
pub fn mint_in(
    opened: &Opened,
    user: &UserName,
    environment: &Name,
    ttl: Duration,
) -> Result<(SessionToken, Proof), Failure> {
    let ttl = ttl.as_secs().cast_signed();
    if ttl > MAX_TTL {
        return Err(Failure::usage("a token that fixes an environment is good for 7 days at most"));
    }
    let (claims, text) = opened.vault.run_token(NewRunToken {
        agent: user.agent.clone(),
        context: user.context.clone(),
        uses: None,
        environment: Some(environment.clone()),
        ttl,
    })?;
    Ok(((claims.id.to_string(), text), Proof::Run(Arc::new(claims))))
}

/// Ends a session's token.
///
/// # Errors
/// When the vault cannot be written.
pub fn end(opened: &mut Opened, agent: &Name, id: &str, proof: &Proof) -> Result<(), Failure> {
    match proof {
        Proof::Run(_) => opened.vault.run_revoke(agent, Which::Token(id.to_owned()))?,
        _ => opened.vault.token_revoke(id)?,
    }
    opened.changed()
}

/// Makes a token for an agent that must exist.
///
/// # Errors
/// When there is no such agent, or the vault cannot be written.
pub fn mint(
    opened: &mut Opened,
    agent: &Name,
    expires: Option<i64>,
    note: &str,
) -> Result<SessionToken, Failure> {
    let live = opened.vault.agents()?.iter().any(|a| a.name == *agent && a.revoked.is_none());
    if !live {
        return Err(Failure::usage(format!("there is no agent `{agent}`"))
            .help(format!("add it with `locum agent add {agent}`")));
    }
    let token = opened.vault.token_add(agent, expires, Some(note))?;
    opened.changed()?;
    Ok((token.id().to_owned(), token.into_text()))
}

/// Plans the environment of a program that uses `token`.
///
/// # Errors
/// When a path or value cannot stand in an environment.
pub fn plan(
    credentials: &[CredentialInfo],
    home: &super::Home,
    bundle: Bundle,
    token: &SessionToken,
    options: &SessionOptions<'_>,
) -> Result<Session, Failure> {
    let mut inherited: environment::Snapshot = std::env::vars_os().collect();
    let (emptied, withheld): (BTreeSet<String>, BTreeSet<String>) =
        options.real_keys.iter().cloned().partition(|name| is_counted(name));
    withhold(&mut inherited, &emptied, &withheld);
    let proxy_url = proxy_url(options.user, &token.1, options.proxy);
    let wgetrc = environment::user_wgetrc(&inherited).and_then(|path| std::fs::read(path).ok());
    let inputs = Inputs {
        proxy_url: proxy_url.clone(),
        open_proxy: options.open_port,
        ca_file: home.ca(),
        bundle_file: home.bundle(),
        bundle,
        state_dir: options.state.clone(),
        placeholders: placeholders(credentials),
        settings: options.settings.clone(),
        base_url_variables: base_urls(credentials),
        inherited: inherited.clone(),
        wgetrc,
    };
    let mut plan = environment::plan(&inputs)
        .map_err(|e| Failure::new(format!("the environment cannot be made: {e}")))?;
    plan.set.extend(emptied.iter().map(|name| (name.clone(), OsString::new())));
    let withheld: BTreeSet<String> =
        withheld.into_iter().filter(|name| !plan.set.contains_key(name)).collect();
    plan.remove.extend(withheld.iter().cloned());
    let withheld = withheld.into_iter().chain(emptied).collect();
    Ok(Session { token_id: token.0.clone(), proxy_url, plan, withheld, inherited })
}

/// A value that git counts: without it, every git command would fail.
fn is_counted(name: &str) -> bool {
    name.starts_with("GIT_CONFIG_VALUE_")
}

/// Takes real keys out of what is inherited, so that nothing is made of them either.
fn withhold(
    inherited: &mut environment::Snapshot,
    emptied: &BTreeSet<String>,
    withheld: &BTreeSet<String>,
) {
    let of = |names: &BTreeSet<String>, name: &OsString| {
        name.to_str().is_some_and(|name| names.contains(name))
    };
    inherited.retain(|(name, _)| !of(withheld, name));
    for (_, value) in inherited.iter_mut().filter(|(name, _)| of(emptied, name)) {
        *value = OsString::new();
    }
}

impl Session {
    /// Writes the files that the environment names.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write_files(&self) -> Result<(), Failure> {
        environment::write_files(&self.plan).map_err(|e| {
            Failure::new(format!("the files of the environment cannot be written: {e}"))
        })
    }

    /// The whole environment of the program.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<OsString, OsString> {
        self.plan.child_environment(&self.inherited)
    }
}

/// The names that credentials, what serves a reference, and sets have: no value is referred to by one.
#[must_use]
pub fn taken_names(credentials: &[CredentialInfo], sets: &[SetInfo]) -> BTreeSet<Name> {
    let names = credentials.iter().flat_map(|one| [&one.name, serves(one)]);
    names.chain(sets.iter().map(|set| &set.name)).cloned().collect()
}

/// What programs find in an environment, by its variables: a text, or what refers to the value. `taken`
/// names refer to something else.
///
/// # Errors
/// When a value names a credential that cannot be used any more.
pub fn settings(
    values: &Values,
    environment: Option<&Name>,
    (credentials, taken): (&[CredentialInfo], &BTreeSet<Name>),
) -> Result<BTreeMap<String, String>, Failure> {
    let mut settings = BTreeMap::new();
    for (name, value) in values {
        let free = !taken.contains(name);
        let text = match value.within(environment) {
            None => continue,
            Some(Held::Text(_)) if free && value.enters.is_some() => name.reference(),
            Some(Held::Text(text)) => text.clone(),
            Some(Held::Credential(reference)) => {
                let own = if free { name } else { reference };
                let text = placeholder_of(reference, own, credentials);
                text.ok_or_else(|| {
                    Failure::new(format!(
                        "the value {name} stands for {reference}, which cannot be used any more"
                    ))
                    .help(format!("set it anew, or `locum value remove {name}`"))
                })?
            }
        };
        settings.insert(value.variable.clone(), text);
    }
    Ok(settings)
}

/// What agents hold of each live credential, with the variables in which programs look for it.
pub(crate) fn placeholders_of(credentials: &[CredentialInfo]) -> Vec<(Vec<String>, String)> {
    let all = placeholders(credentials).into_iter();
    all.map(|one| (one.variables, one.value)).collect()
}

/// What stands for a live credential, or for those that serve a reference, by the name that refers to it.
fn placeholder_of(reference: &Name, by: &Name, credentials: &[CredentialInfo]) -> Option<String> {
    let live = |one: &&CredentialInfo| !one.properties.honeytoken && one.current().is_some();
    let mut live = credentials.iter().filter(live);
    let one = live.find(|one| one.name == *reference || serves(one) == reference)?;
    let own = one.stand_in.as_deref();
    let stand_in = own.and_then(|own| stand_in_for((&one.name, own), by));
    Some(stand_in.unwrap_or_else(|| by.reference()))
}

/// What a URL's userinfo may hold bare, as far as user names have it.
const BARE: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'+')
    .remove(b'=');

/// `http://user:token@host:port`. Neither part needs escaping but for the context's `/`, `@`, `:`
/// and `=`, which a URL's userinfo may not hold bare.
fn proxy_url(user: &UserName, token: &str, proxy: SocketAddr) -> String {
    let name = user.to_string();
    let name = percent_encoding::utf8_percent_encode(&name, BARE);
    format!("http://{name}:{token}@{}", reachable(proxy))
}

/// A proxy that listens on every address is reached on this machine's own.
pub(super) fn reachable(proxy: SocketAddr) -> SocketAddr {
    let host = match proxy.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(host, proxy.port())
}

/// The variables in which programs look for each live credential.
fn placeholders(credentials: &[CredentialInfo]) -> Vec<Placeholder> {
    // A honeytoken is given to nobody, so that whoever sends it has it from where it lies; and what
    // sources log in with is Locum's own.
    let given =
        credentials.iter().filter(|c| !c.properties.honeytoken && !c.properties.for_sources);
    let live = given.filter(|c| c.current().is_some());
    let all: Vec<(&Name, &CredentialInfo)> = live.map(|c| (serves(c), c)).collect();
    // Of all that serve one reference, the one that it is named after; else the first.
    let mut speakers: BTreeMap<&Name, &CredentialInfo> = BTreeMap::new();
    for (reference, one) in &all {
        let speaker = speakers.entry(reference).or_insert(one);
        if one.name == **reference {
            *speaker = one;
        }
    }
    let each = all.iter().filter(|(reference, one)| speakers[reference].name == one.name);
    let each = each.map(|(reference, credential)| {
        let own = credential.stand_in.as_deref();
        let stand_in = own.and_then(|own| stand_in_for((&credential.name, own), reference));
        Placeholder {
            variables: variables(credential),
            value: stand_in.unwrap_or_else(|| reference.reference()),
        }
    });
    each.filter(|placeholder| !placeholder.variables.is_empty()).collect()
}

/// The reference by which agents get it.
fn serves(credential: &CredentialInfo) -> &Name {
    credential.properties.serves.as_ref().unwrap_or(&credential.name)
}

/// A credential's own variables go before its provider's.
fn variables(credential: &CredentialInfo) -> Vec<String> {
    let own = credential.tags.iter().filter_map(|tag| tag.strip_prefix(VARIABLE_TAG));
    let own: Vec<String> = own.map(str::to_owned).collect();
    if !own.is_empty() {
        return own;
    }
    let provider = credential.provider.as_deref().and_then(|id| Catalog::embedded().get(id));
    provider.map(|p| p.env().to_vec()).unwrap_or_default()
}

/// Variables that would send a program past its provider.
fn base_urls(credentials: &[CredentialInfo]) -> Vec<String> {
    let providers = credentials.iter().filter_map(|c| c.provider.as_deref());
    let providers = providers.filter_map(|id| Catalog::embedded().get(id));
    let mut names: Vec<String> = providers.flat_map(|p| p.base_url_env().to_vec()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_urls_are_escaped_and_reachable() {
        let user: UserName = "a+run=42+user=x@y/z".parse().unwrap();
        let url = proxy_url(&user, "lct_t", "0.0.0.0:3128".parse().unwrap());
        assert_eq!(url, "http://a+run=42+user=x%40y%2Fz:lct_t@127.0.0.1:3128");
    }
}
