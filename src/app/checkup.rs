//! Health checks of a running proxy: each credential that the catalogue has a call for is tried at its
//! provider once in a while, if `credentials.health` says so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::health::{Checked, Probe, Subject, Verdict, call_for};
use super::keeper::Keeper;
use super::reminders::now;
use crate::credential::{Credential, Kind};
use crate::outcome::Code;
use crate::proxy::Gateway;
use crate::reference::Name;

/// How many are asked about at a time: a provider that does not answer keeps few others waiting, and a home with hundreds
/// of credentials does not call all of their providers in one moment.
const AT_ONCE: usize = 8;

/// Of a credential, in a workspace, in a version.
type Key = (Name, Name, u32);

/// How often it is looked whose turn it is.
const TICK: Duration = Duration::from_secs(1);

/// The last verdict on a credential, as the home keeps it for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Which version was tried.
    pub version: u32,
    /// `good`, `bad` or `unknown`.
    pub verdict: String,
    /// The answer's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// When, in seconds since the Unix epoch.
    pub at: i64,
}

/// Looks after the credentials of a gateway until it is dropped.
pub(super) async fn watch(keeper: Arc<Keeper>, gateway: Arc<Gateway>) {
    let mut turns: HashMap<Key, Instant> = HashMap::new();
    let mut checks = Checks::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(every) = keeper.health_every() else {
            turns.clear();
            continue;
        };
        let workspaces = gateway.workspaces();
        let states: Vec<_> = workspaces.iter().map(|workspace| workspace.state()).collect();
        let all = states.iter().flat_map(|state| state.credentials.iter());
        let candidates: Vec<_> = all.filter(|one| trial(one).is_some()).collect();
        turns.retain(|(workspace, name, _), _| {
            candidates.iter().any(|one| one.workspace == *workspace && one.name == *name)
        });
        for credential in candidates {
            let Some(version) = credential.version else { continue };
            let key = (credential.workspace.clone(), credential.name.clone(), version);
            // The first time at any moment of the interval, so that not all go out at the start.
            let turn =
                *turns.entry(key.clone()).or_insert_with(|| Instant::now() + part_of(every, 0.0));
            if turn <= Instant::now() && checks.is_free(&key).await {
                turns.insert(key.clone(), Instant::now() + part_of(every, 0.9));
                let (keeper, gateway) = (Arc::clone(&keeper), Arc::clone(&gateway));
                let credential = Arc::clone(credential);
                checks.start(key, async move {
                    check(&keeper, &gateway, &credential, version).await;
                });
            }
        }
    }
}

/// Those that are under way. They end with it.
#[derive(Default)]
struct Checks {
    tasks: JoinSet<Key>,
    of: HashSet<Key>,
}

impl Checks {
    /// Waits until one more may be made; false while that of the same credential is under way.
    async fn is_free(&mut self, key: &Key) -> bool {
        while let Some(ended) = self.tasks.try_join_next() {
            self.ended(ended);
        }
        if self.of.contains(key) {
            return false;
        }
        while self.tasks.len() >= AT_ONCE {
            if let Some(ended) = self.tasks.join_next().await {
                self.ended(ended);
            }
        }
        true
    }

    fn start(&mut self, key: Key, check: impl Future<Output = ()> + Send + 'static) {
        self.of.insert(key.clone());
        self.tasks.spawn(async move {
            check.await;
            key
        });
    }

    fn ended(&mut self, ended: Result<Key, tokio::task::JoinError>) {
        match ended {
            Ok(key) => {
                self.of.remove(&key);
            }
            // It does not say which: the next turn of any may be too early, and none is left out.
            Err(_) => self.of.clear(),
        }
    }
}

/// From `least` of the time to a tenth more than all of it, by chance.
fn part_of(time: Duration, least: f64) -> Duration {
    let mut bytes = [0; 2];
    // Without randomness all go out together, which is no fault.
    let _zeros = getrandom::fill(&mut bytes);
    let chance = f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX);
    time.mul_f64(least + (1.1 - least) * chance)
}

/// How a credential is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    /// By its provider's own call, with what a request would get.
    Call,
    /// By getting that: whoever makes it says of what it is made of whether it is good.
    Making,
}

/// How it can be tried, if it can be. What lies in the vault, or elsewhere, for a kind, such as a key that
/// signs, is itself shown to nobody.
fn trial(credential: &Credential) -> Option<Trial> {
    credential.version?;
    let kind = credential.properties.kind.as_ref();
    let is_sent = matches!(kind, None | Some(Kind::Oauth(_) | Kind::GithubApp(_)));
    if is_sent && call_for(credential.provider.as_deref(), kind).is_some() {
        return Some(Trial::Call);
    }
    kind.and_then(Kind::endpoint).map(|_| Trial::Making)
}

/// A token that is not taken may be one that was withdrawn alone: then the next is asked about, once.
async fn check(keeper: &Keeper, gateway: &Gateway, credential: &Arc<Credential>, version: u32) {
    let Some(checked) = ask(gateway, credential, version).await else { return };
    let again = checked.verdict == Verdict::Bad && credential.is_supplied();
    let checked = if again {
        gateway.rejects(credential, version);
        ask(gateway, credential, version).await.unwrap_or(checked)
    } else {
        checked
    };
    let health =
        Health { version, verdict: checked.verdict.to_string(), status: checked.status, at: now() };
    keeper.is_healthy(credential, health, checked.verdict, checked.why.as_deref());
}

async fn ask(gateway: &Gateway, credential: &Arc<Credential>, version: u32) -> Option<Checked> {
    let subject = Subject {
        workspace: Some(&credential.workspace),
        name: &credential.name,
        version,
        provider: credential.provider.as_deref(),
        destinations: &credential.destinations,
        slots: &credential.slots,
        kind: credential.properties.kind.as_ref(),
    };
    let state = gateway.workspace(&credential.workspace)?.state();
    let secret = match gateway.value_of(&state, credential, version).await {
        Ok(secret) => secret,
        Err(refusal) if refusal.code == Code::CredentialExpired => {
            let why = refusal.reason.map(str::to_owned);
            let at = "where its tokens come from".to_owned();
            return Some(Checked { verdict: Verdict::Bad, at, status: None, why });
        }
        // That it could not be had is told of where it comes from, and is no verdict.
        Err(_) => return None,
    };
    if trial(credential)? == Trial::Making {
        let at =
            subject.kind.and_then(Kind::endpoint).map(|endpoint| endpoint.origin().to_string());
        let at = at.unwrap_or_default();
        return Some(Checked { verdict: Verdict::Good, at, status: None, why: None });
    }
    let probe = Probe::new(subject, &secret).ok()?;
    drop(secret);
    Some(probe.verdict(gateway.errand(probe.errand(subject)).await))
}

impl Keeper {
    /// Takes note of a verdict, and tells of one that is another than the last.
    fn is_healthy(&self, of: &Credential, health: Health, verdict: Verdict, why: Option<&str>) {
        let name = &of.name;
        let version = health.version;
        let before = self.keep_health(of, health);
        let was_bad = before.is_some_and(|before| before == "bad");
        match verdict {
            Verdict::Bad if !was_bad => {
                tracing::error!(credential = %name, version, "its provider does not take the key any more");
                let detail = format!("version {version}: its provider does not take it");
                self.note_about("credential-unhealthy", of, &detail);
            }
            Verdict::Good if was_bad => {
                tracing::info!(credential = %name, version, "its provider takes the key again");
                self.note_about("credential-healthy", of, &format!("version {version}"));
            }
            Verdict::Unknown => {
                tracing::debug!(credential = %name, version, why, "a check said nothing");
            }
            Verdict::Good | Verdict::Bad => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::credential;

    #[test]
    fn what_is_not_sent_as_it_lies_in_the_vault_is_not_sent_by_a_check() {
        let mut one = credential(
            "x",
            &["https://api.openai.com"],
            &["header authorization: Bearer {secret}"],
        );
        assert_eq!(trial(&one), None, "nobody knows a call for it");
        one.provider = Some("openai".into());
        assert_eq!(trial(&one), Some(Trial::Call));
        one.properties.source = Some(
            crate::credential::Source::parse("file:/run/key", crate::credential::Beside::default())
                .unwrap(),
        );
        assert_eq!(trial(&one), Some(Trial::Call));
        for kind in
            [Kind::ClientCertificate, Kind::Basic(Box::default()), Kind::Aws(Box::default())]
        {
            one.properties.kind = Some(kind);
            assert_eq!(trial(&one), None);
        }
        let oauth =
            r#"{"oauth":{"grant":"client-credentials","token-endpoint":"https://a.test/t"}}"#;
        let app = r#"{"github-app":{"endpoint":"https://a.test/t","app-id":"7"}}"#;
        for (kind, provider, expected) in [
            (oauth, Some("openai"), Trial::Call),
            (oauth, None, Trial::Making),
            (app, Some("github"), Trial::Call),
            (app, None, Trial::Making),
        ] {
            one.properties.kind = Some(serde_json::from_str(kind).unwrap());
            one.provider = provider.map(Into::into);
            assert_eq!(trial(&one), Some(expected), "{kind} {provider:?}");
        }
        // An installation's token may not ask who its user is.
        let call = call_for(Some("github"), one.properties.kind.as_ref()).unwrap();
        assert!(call.path.starts_with("/installation/"), "{}", call.path);
        one.version = None;
        assert_eq!(trial(&one), None);
    }
}
