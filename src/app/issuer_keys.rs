//! The keys of issuers: read from files as these change, and fetched from URLs, now and then and when a
//! token comes that was signed with one that is not there yet.
//!
//! What cannot be had leaves the last good keys in force. A process starts without those of a URL: an
//! issuer that is down must not keep everybody else out.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;

use super::stamp::FileStamp;
use crate::agent::certificate::RevocationList;
use crate::authn::IssuerKeys;
use crate::config::{Config, JwtIssuer, Keys};
use crate::credential::Endpoint;
use crate::proxy::{Errand, Gateway};
use crate::token::jwt::KeySet;

/// How soon a fetch may follow another, whoever comes with whatever key: bounds what strangers can make
/// us ask of an issuer.
const FLOOR: Duration = Duration::from_secs(5);

/// How soon a fetch that failed is tried again without being asked for.
const RETRY: Duration = Duration::from_secs(15);

/// How long an issuer may take. An agent waits for it when its key is new.
const FETCH: Duration = Duration::from_secs(5);

/// A set of a hundred large RSA keys has 150 KiB.
const FILE_LIMIT: u64 = 256 << 10;

/// What an audit record says that a fetch is for.
const PURPOSE: &str = "issuer-keys";

/// The keys of all issuers that are configured; and what the CAs of client certificates, which vouch for
/// agents as issuers do, have taken back.
#[derive(Default)]
pub(super) struct AllKeys(Mutex<Vec<Arc<Source>>>, Mutex<Arc<[RevocationList]>>);

/// Where the keys of one issuer come from.
pub(super) struct Source {
    issuer: String,
    from: Keys,
    refresh: Duration,
    keys: Arc<IssuerKeys>,
    progress: Mutex<Progress>,
    /// Taken by whoever fetches. The others wait, and then have what it got.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Progress {
    /// When the last fetch began.
    tried: Option<Instant>,
    /// The state of the file that was read; none when the next look must read it.
    stamp: Option<FileStamp>,
    problem: Option<String>,
}

/// What became of a look at keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// There are others than before.
    Changed { issuer: String, count: usize },
    /// They cannot be had. Told once for each problem.
    Trouble { issuer: String, problem: String },
}

impl AllKeys {
    /// What CAs have taken back, from now on.
    pub(super) fn revoke(&self, lists: Arc<[RevocationList]>) {
        *self.1.lock() = lists;
    }

    /// What CAs have taken back.
    pub(super) fn revoked(&self) -> Arc<[RevocationList]> {
        Arc::clone(&self.1.lock())
    }

    /// Follows the config: what it names as before keeps its keys.
    pub(super) fn follow(&self, config: &Config) {
        let mut all = self.0.lock();
        let known = std::mem::take(&mut *all);
        let source = |jwt: &JwtIssuer| {
            let same = |one: &&Arc<Source>| {
                one.issuer == jwt.issuer && one.from == jwt.keys && one.refresh == jwt.refresh
            };
            known.iter().find(same).cloned().unwrap_or_else(|| Arc::new(Source::new(jwt)))
        };
        *all = config.identity.jwt.iter().map(source).collect();
    }

    /// Those of one issuer.
    pub(super) fn of(&self, jwt: &JwtIssuer) -> Arc<IssuerKeys> {
        let all = self.0.lock();
        let source = all.iter().find(|one| one.issuer == jwt.issuer && one.from == jwt.keys);
        source.map(|source| Arc::clone(&source.keys)).unwrap_or_default()
    }

    /// Reads the files that changed, or all if `asked`.
    pub(super) fn look_at_files(&self, asked: bool) -> Vec<News> {
        let all = self.0.lock().clone();
        all.iter().filter_map(|source| source.look_at_file(asked)).collect()
    }

    /// Those that are to be fetched now: for the first time, or again.
    pub(super) fn due(&self) -> Vec<Arc<Source>> {
        self.0.lock().iter().filter(|source| source.is_due()).cloned().collect()
    }

    /// Those that somebody waits for.
    pub(super) fn wanted(&self) -> Vec<Arc<Source>> {
        let wanted = |source: &&Arc<Source>| source.url().is_some() && source.keys.is_wanted();
        self.0.lock().iter().filter(wanted).cloned().collect()
    }

    /// Whether there are issuers, and all is well with their keys.
    pub(super) fn sound(&self) -> Option<bool> {
        let all = self.0.lock();
        let sound = |source: &Arc<Source>| source.progress.lock().problem.is_none();
        (!all.is_empty()).then(|| all.iter().all(sound))
    }
}

impl Source {
    fn new(jwt: &JwtIssuer) -> Self {
        Self {
            issuer: jwt.issuer.clone(),
            from: jwt.keys.clone(),
            refresh: jwt.refresh,
            keys: Arc::default(),
            progress: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    fn url(&self) -> Option<&Endpoint> {
        match &self.from {
            Keys::Url(endpoint) => Some(endpoint),
            Keys::File(_) => None,
        }
    }

    fn is_due(&self) -> bool {
        let progress = self.progress.lock();
        let wait = if progress.problem.is_some() { RETRY.min(self.refresh) } else { self.refresh };
        self.url().is_some() && progress.tried.is_none_or(|at| at.elapsed() >= wait)
    }

    fn look_at_file(&self, asked: bool) -> Option<News> {
        let Keys::File(path) = &self.from else { return None };
        let now = FileStamp::of(path.clone());
        // As with policies: what is being written is read when it has been.
        let settled = now.is_settled();
        let first = self.keys.count() == 0;
        {
            let mut progress = self.progress.lock();
            let same = progress.stamp.as_ref() == Some(&now);
            if same || !(settled || asked || first) {
                return None;
            }
            progress.stamp = settled.then_some(now);
        }
        self.take(read(path).and_then(|text| parse(&text)))
    }

    /// Fetches the keys, unless that was done since `asked`, or a moment ago.
    pub(super) async fn fetch(&self, gateway: &Gateway, asked: Instant) -> Option<News> {
        let endpoint = self.url()?;
        let _turn = self.turn.lock().await;
        {
            let mut progress = self.progress.lock();
            if progress.tried.is_some_and(|at| at >= asked || at.elapsed() < FLOOR) {
                return None;
            }
            progress.tried = Some(Instant::now());
        }
        self.keys.take_wanted();
        let errand = Errand {
            purpose: PURPOSE,
            workspace: None,
            uses: None,
            endpoint,
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            within: Some(FETCH),
        };
        let fetched = match gateway.errand(errand).await {
            Err(refusal) => Err(refusal.to_string()),
            Ok(reply) if reply.status != StatusCode::OK => {
                Err(format!("the answer was {}", reply.status))
            }
            Ok(reply) => reply.body.expose(parse),
        };
        self.take(fetched)
    }

    fn take(&self, got: Result<KeySet, String>) -> Option<News> {
        let issuer = self.issuer.clone();
        let mut progress = self.progress.lock();
        match got {
            Ok(keys) => {
                progress.problem = None;
                let count = keys.count();
                self.keys.replace(keys).then_some(News::Changed { issuer, count })
            }
            Err(problem) => {
                let known = progress.problem.replace(problem.clone());
                (known.as_ref() != Some(&problem)).then_some(News::Trouble { issuer, problem })
            }
        }
    }
}

fn parse(text: &[u8]) -> Result<KeySet, String> {
    KeySet::parse(text).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(format!("{}: it is over 256 KiB", path.display()));
    }
    Ok(bytes)
}
