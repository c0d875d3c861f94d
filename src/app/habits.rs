//! What agents usually do, kept over the end of a process.
//!
//! The baselines are a file that says up to which record of the audit log it goes; what came after is read
//! again from there, so a kill loses nothing. The file has a MAC by a key of the vault, and one that is gone
//! or was written by others is made anew from the log, which has MACs of its own: nobody makes something
//! usual, or everything, by writing or deleting a file.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::open::operator;
use super::{Failure, Home, Opened};
use crate::agent::default_workspace;
use crate::anomaly::{Baselines, Kept, Network, Seen, Settings};
use crate::audit::{AuditLog, Entry, Filter, Kind, query};
use crate::credential::CredentialIndex;
use crate::files::{self, FileError};
use crate::proxy::Gateway;
use crate::record::{AuditSink as _, Event};
use crate::reference::Name;
use crate::vault::Vault;

/// How often what was noted is written; what a kill takes of it is in the audit log.
const SAVE_EVERY: Duration = Duration::from_mins(1);

/// How much of the log is read to make baselines anew, and its newest file in any case: some 250,000
/// records, in about a second.
const FROM_LOG: u64 = 128 << 20;

/// The longest file of baselines: thousands of agents that are at the bounds of all.
const LONGEST: usize = 256 << 20;

/// Requests whose end has not been read yet, at once.
const OPEN: usize = 1 << 16;

/// Records carry the time at which they were made, and not that at which they were written.
const SLACK: Duration = Duration::from_mins(1);

/// The baselines of a home, and their file.
pub(super) struct Habits {
    place: Place,
    key: Hmac<Sha256>,
    audit: Arc<AuditLog>,
    baselines: Arc<Baselines>,
    next: Mutex<Instant>,
}

/// What the file says, behind its MAC.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// The last record of the audit log that is in it.
    seq: u64,
    /// When it was written, in seconds of Unix time.
    at: i64,
    agents: Vec<Kept>,
}

/// Where the file lies, and the words of people beside it.
#[derive(Clone, Debug)]
struct Place(PathBuf);

impl Place {
    fn of(home: &Home) -> Self {
        Self(home.path().join("anomalies"))
    }

    fn file(&self) -> PathBuf {
        self.0.join("baseline")
    }
}

/// A person's word that what was told of an agent is usual.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    #[serde(default = "default_workspace")]
    workspace: Name,
    agent: Name,
    credential: Option<Name>,
    by: String,
}

fn key(vault: &Vault) -> Hmac<Sha256> {
    let key = vault.audit_key().expose(|key| {
        #[allow(clippy::expect_used)] // Of any length, by its definition.
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        mac.update(b"locum baselines 1");
        mac.finalize().into_bytes()
    });
    #[allow(clippy::expect_used)]
    Hmac::new_from_slice(&key).expect("HMAC takes a key of any length")
}

/// The baselines as they were last written. None when there are none, or when somebody else wrote them.
fn read(place: &Place, key: &Hmac<Sha256>) -> Result<Option<Stored>, Failure> {
    let bytes = match files::read_private(&place.file(), LONGEST) {
        Ok(bytes) => bytes,
        Err(FileError::Missing(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let alien = || Failure::new(format!("{} was not written by Locum", place.file().display()));
    let (mac, text) = bytes.split_at_checked(65).ok_or_else(alien)?;
    let mac = HEXLOWER.decode(mac.strip_suffix(b"\n").unwrap_or_default()).map_err(|_| alien())?;
    key.clone().chain_update(text).verify_slice(&mac).map_err(|_| alien())?;
    serde_json::from_slice(text).map(Some).map_err(|_| alien())
}

/// What is known of agents, as a running proxy wrote it within the last minute.
///
/// # Errors
/// When the file cannot be read, or somebody else wrote it.
pub fn baselines(home: &Home, vault: &Vault) -> Result<Vec<Kept>, Failure> {
    let stored = read(&Place::of(home), &key(vault))?;
    Ok(stored.map(|stored| stored.agents).unwrap_or_default())
}

/// Leaves word that what was told of an agent of the home's workspace is usual, and says whether a running
/// proxy has taken it within `patience`; else the next one does at its start. Who says it is whoever runs
/// this, where nobody else is named.
///
/// # Errors
/// When it cannot be written.
pub fn accept(
    (home, log): (&Home, &Path),
    (agent, credential): (&Name, Option<&Name>),
    by: Option<String>,
    patience: Duration,
) -> Result<bool, Failure> {
    let workspace = home.workspace().clone();
    let (agent, credential) = (agent.clone(), credential.cloned());
    let by = by.unwrap_or_else(operator);
    let word = Word { workspace, agent, credential, by };
    let place = Place::of(home);
    files::create_directory(&place.0)?;
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(|e| Failure::new(format!("no randomness: {e}")))?;
    let path = place.0.join(format!("accept-{}.json", HEXLOWER.encode(&id)));
    // Plain strings always serialise.
    files::create_private(&path, &serde_json::to_vec(&word).unwrap_or_default())?;
    let start = Instant::now();
    while AuditLog::is_locked(log) && start.elapsed() < patience {
        if !path.exists() {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(!path.exists())
}

impl Habits {
    /// Knows again what earlier processes knew. None when the config says that nobody looks.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn open(opened: &Opened, audit: &Arc<AuditLog>) -> Result<Option<Self>, Failure> {
        let config = opened.config.anomalies;
        let Some(learn) = config.learn else { return Ok(None) };
        let baselines = Arc::new(Baselines::new(Settings { learn, volume: config.volume }));
        let habits = Self {
            place: Place::of(&opened.home),
            key: key(&opened.vault),
            audit: Arc::clone(audit),
            baselines,
            next: Mutex::new(Instant::now() + SAVE_EVERY),
        };
        files::create_directory(&habits.place.0)?;
        let all = opened.vault.snapshots()?.into_iter();
        let indexes = all.map(|one| (one.workspace, one.credentials)).collect();
        habits.recall(&opened.config.audit.dir, &indexes)?;
        Ok(Some(habits))
    }

    /// Has requests compared with them.
    pub(super) fn serve(&self, gateway: &Gateway) {
        gateway.compare_with(Arc::clone(&self.baselines));
    }

    fn recall(&self, log: &Path, indexes: &Indexes) -> Result<(), Failure> {
        let stored = read(&self.place, &self.key).unwrap_or_else(|failure| {
            tracing::error!(%failure, "what agents usually do is learned anew from the audit log");
            self.note("anomaly-baseline-rejected", (None, None), &failure.to_string(), None);
            None
        });
        let (from, since) = match stored {
            // Of a log that was begun anew since, nothing is known.
            Some(stored) if stored.seq <= self.audit.last().seq => {
                let at = Timestamp::from_second(stored.at).map(SystemTime::from);
                self.baselines.recall(stored.agents);
                (stored.seq, at.ok())
            }
            _ => (0, newest_files(log)),
        };
        let since = since.and_then(|since| since.checked_sub(SLACK));
        let mut replay =
            Replay { baselines: &self.baselines, indexes, open: HashMap::new(), read: 0 };
        for entry in query(log, Filter { since, ..Filter::default() })?.filter_map(Result::ok) {
            if entry.seq().is_some_and(|seq| seq > from) {
                replay.take(&entry);
            }
        }
        if from == 0 {
            let detail = format!("{} requests of the audit log", replay.read);
            self.note("anomaly-baseline-begun", (None, None), &detail, None);
        }
        Ok(())
    }

    /// Takes the words of people, and writes what was noted when it is time.
    pub(super) fn tend(&self) {
        let heard = self.hear();
        let mut next = self.next.lock();
        if !heard && Instant::now() < *next {
            return;
        }
        let start = Instant::now();
        self.save();
        // However many there are, writing them is a fiftieth of a core at most.
        *next = Instant::now() + SAVE_EVERY.max(start.elapsed() * 50);
    }

    /// The last word of a process that ends in order.
    pub(super) fn save(&self) {
        // Before they are read: what is noted meanwhile is read again.
        let seq = self.audit.last().seq;
        let Some(agents) = self.baselines.keep() else { return };
        let stored = Stored { seq, at: Timestamp::now().as_second(), agents };
        // Plain strings and numbers always serialise.
        let text = serde_json::to_vec(&stored).unwrap_or_default();
        let mac = self.key.clone().chain_update(&text).finalize().into_bytes();
        let bytes = [HEXLOWER.encode(&mac).as_bytes(), b"\n", &text].concat();
        if let Err(error) = files::replace_private(&self.place.file(), &bytes) {
            tracing::warn!(%error, "what agents usually do could not be written");
        }
    }

    fn hear(&self) -> bool {
        let Ok(entries) = fs::read_dir(&self.place.0) else { return false };
        let mut heard = false;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with("accept-") || path.extension().is_none_or(|kind| kind != "json") {
                continue;
            }
            let word = files::read_private(&path, 4096).ok();
            let word = word.and_then(|bytes| serde_json::from_slice::<Word>(&bytes).ok());
            if let Some(Word { workspace, agent, credential, by }) = word {
                // What cannot be recorded is not done, and heard again when it can be.
                if !self.audit.healthy() {
                    continue;
                }
                let known = self.baselines.accept((&workspace, &agent), credential.as_ref());
                let with = credential.as_ref().map_or("any", Name::as_str);
                let found = if known { "accepted" } else { "nothing is known of it" };
                let detail = format!("with {with}: {found}");
                let of = (Some(&workspace), Some(&agent));
                self.note("anomaly-accepted", of, &detail, Some(by));
                heard = true;
            }
            // What is no word is nobody's.
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot be removed");
            }
        }
        heard
    }

    fn note(
        &self,
        event: &'static str,
        (workspace, agent): (Option<&Name>, Option<&Name>),
        detail: &str,
        by: Option<String>,
    ) {
        // An unwritable audit log shows in its own metric and in the readiness.
        let _unrecorded = self.audit.event(&Event {
            event,
            workspace: workspace.cloned(),
            subject: agent.map(ToString::to_string),
            detail: Some(detail.to_owned()),
            by,
            vault_epoch: None,
        });
    }
}

/// From when on the newest files of the log are that may be read at a start; none when that is all.
fn newest_files(log: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(log).ok()?.flatten().map(|entry| entry.path());
    let is_log = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "jsonl");
    let mut all: Vec<PathBuf> = entries.filter(is_log).collect();
    all.sort();
    let mut bytes = 0;
    for path in all.into_iter().rev() {
        let metadata = fs::metadata(&path).ok()?;
        let newest = bytes == 0;
        bytes += metadata.len();
        if bytes > FROM_LOG && !newest {
            // Its last record is as old as its last write.
            return metadata.modified().ok();
        }
    }
    None
}

/// Reads records as the requests that they were.
struct Replay<'a> {
    baselines: &'a Baselines,
    indexes: &'a Indexes,
    /// Requests whose end comes later: whose, and with which credential.
    open: HashMap<Box<str>, (Name, Name, Option<Name>)>,
    read: u64,
}

impl Replay<'_> {
    fn take(&mut self, entry: &Entry) {
        match entry.kind() {
            Some(Kind::Access) if entry.text("decision") == Some("permit") => {
                let _not_of_an_agent = self.access(entry);
            }
            Some(Kind::Outcome) => {
                let _not_open = self.outcome(entry);
            }
            _ => {}
        }
    }

    fn access(&mut self, entry: &Entry) -> Option<()> {
        let id = entry.request_id()?;
        // One that was sent again, or said more in its socket.
        if self.open.contains_key(id) {
            return None;
        }
        let workspace: Name = entry.text("workspace")?.parse().ok()?;
        let agent: Name = entry.text("agent")?.parse().ok()?;
        let peer = entry.text("peer")?;
        let source = match peer.parse::<SocketAddr>() {
            Ok(address) => Network::from(address.ip()),
            Err(_) => peer.parse().ok()?,
        };
        let seen = Seen {
            destination: entry.text("destination")?,
            source,
            at: seconds(entry)?,
            refused: false,
        };
        let baseline = self.baselines.of(&workspace, &agent);
        let index = self.indexes.get(&workspace);
        let mut names = entry.credentials().filter_map(|name| referred(index, name));
        let first = names.next();
        // What of it is to be told was told then.
        let _told = baseline.note(first.as_ref(), seen);
        names.for_each(|name| drop(baseline.note(Some(&name), seen)));
        if self.open.len() < OPEN {
            self.open.insert(id.into(), (workspace, agent, first));
        }
        self.read += 1;
        Some(())
    }

    fn outcome(&mut self, entry: &Entry) -> Option<()> {
        let (workspace, agent, credential) = self.open.remove(entry.request_id()?)?;
        let moved = entry.number("bytes_up")?.saturating_add(entry.number("bytes_down")?);
        let baseline = self.baselines.of(&workspace, &agent);
        let _told = baseline.weigh(credential.as_ref(), moved, seconds(entry)?);
        Some(())
    }
}

/// The credentials of each workspace.
type Indexes = HashMap<Name, Arc<CredentialIndex>>;

/// The name by which requests refer to a credential.
fn referred(index: Option<&Arc<CredentialIndex>>, name: &str) -> Option<Name> {
    let known = index.and_then(|index| index.get(name));
    known.map_or_else(|| name.parse().ok(), |one| Some(one.serves().clone()))
}

fn seconds(entry: &Entry) -> Option<i64> {
    Some(entry.time()?.parse::<Timestamp>().ok()?.as_second())
}
