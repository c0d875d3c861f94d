//! The questions that wait for a person: one private file each in the home, so that commands see them
//! and no kill loses one, and word of each to whom the config names.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue, Method, header};
use parking_lot::Mutex;
use sha2::Sha256;

use super::{Failure, Home};
use crate::approval::{Approvals, Decision, NotAsked, Question};
use crate::config::Webhook;
use crate::files::{self, FileError};
use crate::metrics::{Asking, Metrics};
use crate::proxy::{Errand, Gateway};
use crate::record::{AuditSink, Event, Use};

/// Questions of one agent that are open at once. An agent that has more asks for too much.
const OF_ONE: usize = 32;

/// Questions of one workspace that are open at once. More nobody answers.
const OF_ALL: usize = 1000;

/// The longest file of a question: a body that is shown has 8 KiB, a target up to `limits.url_bytes`.
const LONGEST: usize = 2 * 1024 * 1024;

/// Settled questions that are kept, for whoever looks.
const SETTLED: usize = 1000;

/// The questions of a home.
pub(super) struct Questions {
    place: Place,
    open: Mutex<HashMap<String, Question>>,
    audit: Arc<dyn AuditSink>,
    metrics: Arc<Metrics>,
    webhook: Option<Webhook>,
    gateway: OnceLock<Weak<Gateway>>,
}

/// Where questions lie: `open/ID.json`, and once they are settled `done/ID.json`.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    open: PathBuf,
    done: PathBuf,
}

impl Place {
    pub(crate) fn of(home: &Home) -> Self {
        let all = home.path().join("approvals");
        Self { open: all.join("open"), done: all.join("done") }
    }

    fn file(directory: &Path, id: &str) -> PathBuf {
        directory.join(format!("{id}.json"))
    }

    /// The open questions, oldest first. What cannot be read is none.
    ///
    /// # Errors
    /// When the directory cannot be read; one that is missing has no questions.
    pub(crate) fn open(&self) -> Result<Vec<Question>, Failure> {
        let entries = match fs::read_dir(&self.open) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(FileError::Io(self.open.clone(), error).into()),
        };
        let mut all: Vec<Question> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
            .filter_map(|entry| read(&entry.path()))
            .collect();
        all.sort_by(|a, b| (a.asked, &a.id).cmp(&(b.asked, &b.id)));
        Ok(all)
    }
}

/// The question in a file, if it is the one that the file is named after.
fn read(path: &Path) -> Option<Question> {
    let bytes = files::read_private(path, LONGEST).ok()?;
    let question: Question = serde_json::from_slice(&bytes).ok()?;
    (path.file_stem()?.to_str()? == question.id).then_some(question)
}

impl Questions {
    /// Takes over what earlier processes left open.
    pub(super) fn open(
        home: &Home,
        audit: Arc<dyn AuditSink>,
        metrics: Arc<Metrics>,
        webhook: Option<Webhook>,
    ) -> Result<Self, Failure> {
        let place = Place::of(home);
        let open = place.open()?.into_iter().map(|q| (q.id.clone(), q)).collect();
        let gateway = OnceLock::new();
        Ok(Self { place, open: Mutex::new(open), audit, metrics, webhook, gateway })
    }

    /// Says by whom word is sent.
    pub(super) fn serves(&self, gateway: &Arc<Gateway>) {
        let _already = self.gateway.set(Arc::downgrade(gateway));
    }

    fn note(&self, event: &'static str, question: &Question, detail: String) {
        // What cannot be recorded is no reason to forget what was decided; the call itself needs its
        // own record.
        let _unrecorded = self.audit.event(&Event {
            event,
            workspace: Some(question.workspace.clone()),
            subject: Some(question.id.clone()),
            detail: Some(detail),
            by: None,
            vault_epoch: None,
        });
    }

    fn write(&self, question: &Question) -> Result<(), FileError> {
        for directory in
            [self.place.open.parent(), Some(&*self.place.open), Some(&*self.place.done)]
        {
            files::create_directory(directory.unwrap_or(&self.place.open))?;
        }
        let json = serde_json::to_vec_pretty(question).unwrap_or_default();
        files::create_private(&Place::file(&self.place.open, &question.id), &json)
    }

    /// Puts a question away. True for whoever did it: of several, and of several processes, one.
    fn settle(&self, question: &Question) -> bool {
        self.open.lock().remove(&question.id);
        let from = Place::file(&self.place.open, &question.id);
        let to = Place::file(&self.place.done, &question.id);
        if let Err(error) = files::rename_private(&from, &to) {
            if !matches!(error, FileError::Missing(_)) {
                tracing::error!(%error, "a question could not be put away");
            }
            return false;
        }
        let json = serde_json::to_vec_pretty(&question.settled()).unwrap_or_default();
        if let Err(error) = files::replace_private(&to, &json) {
            tracing::warn!(%error, "a settled question could not be shortened");
        }
        true
    }

    /// Puts away what was refused, and what nobody decided or used in time.
    pub(super) fn sweep(&self, gateway: &Gateway) {
        let now = unix_now();
        let all: Vec<Question> = self.open.lock().values().cloned().collect();
        for question in all {
            let state = gateway.workspace(&question.workspace).map(|workspace| workspace.state());
            let sealed = state.as_ref().and_then(|state| state.sealed.as_ref());
            let decision = sealed.and_then(|sealed| sealed.approvals.get(&question.id));
            // A yes that waits for others has not decided anything.
            let decision =
                decision.filter(|decision| decision.settles(&question.digest()).is_some());
            let (what, event) = match decision {
                _ if state.is_none() => (Asking::Expired, Some("its workspace is gone")),
                Some(Decision { approved: false, .. }) => (Asking::Denied, None),
                Some(decision) if decision.until < now => {
                    (Asking::Expired, Some("the approval was not used in time"))
                }
                None if question.until < now => (Asking::Expired, Some("nobody decided in time")),
                Some(_) | None => continue,
            };
            if self.settle(&question) {
                self.metrics.asking(what);
                if let Some(why) = event {
                    self.note("approval-expired", &question, why.to_owned());
                }
            }
        }
        self.metrics.asking_open(self.open.lock().len());
        self.forget();
    }

    /// Removes the oldest of the settled questions, when there are many.
    fn forget(&self) {
        let Ok(entries) = fs::read_dir(&self.place.done) else { return };
        let mut names: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        if names.len() <= SETTLED {
            return;
        }
        // Their names begin with their time.
        names.sort_unstable();
        let surplus = names.len() - SETTLED;
        for path in names.into_iter().take(surplus) {
            let _gone = fs::remove_file(path);
        }
    }

    /// Sends word of a question to whom the config names, if to anybody.
    fn tell(&self, question: &Question) {
        let Some(webhook) = self.webhook.clone() else { return };
        let Some(gateway) = self.gateway.get().and_then(Weak::upgrade) else { return };
        let body = word_of(question);
        tokio::spawn(async move {
            for pause in [0, 2, 10, 60] {
                tokio::time::sleep(Duration::from_secs(pause)).await;
                match deliver(&gateway, &webhook, &body).await {
                    Ok(()) => return,
                    Err(why) => {
                        tracing::warn!(
                            why,
                            "the word of an approval that is wanted was not delivered"
                        );
                    }
                }
            }
        });
    }
}

/// What is said of a question beyond this machine: nothing of its query, fields and body.
fn word_of(question: &Question) -> Bytes {
    let path = question.target.split('?').next().unwrap_or_default();
    let json = serde_json::json!({
        "event": "approval-asked",
        "id": question.id,
        "workspace": question.workspace,
        "agent": question.agent,
        "run": question.run,
        "user": question.user,
        "rule": question.rule,
        "method": question.method,
        "upgrade": question.upgrade,
        "destination": question.destination,
        "path": path,
        "use": question.uses,
        "body_bytes": question.body_bytes,
        "body_sha256": question.body_sha256,
        "digest": question.digest(),
        "asked": question.asked,
        "until": question.until,
        "approvers": question.approvers,
    });
    Bytes::from(serde_json::to_vec(&json).unwrap_or_default())
}

async fn deliver(gateway: &Arc<Gateway>, webhook: &Webhook, body: &Bytes) -> Result<(), String> {
    // The home's own, whichever workspace asks.
    let state = gateway.default_workspace().state();
    let credential = state.credentials.get(webhook.key.as_str());
    let credential = credential.filter(|c| c.is_bound_to(webhook.url.origin()));
    let version = credential.and_then(|credential| credential.version);
    let version =
        version.ok_or("approvals.key names no live credential that is bound to the host")?;
    let key = state.open(&webhook.key, version).map_err(|refusal| refusal.to_string())?;
    let at = unix_now();
    let signature = key.expose(|key| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        mac.update(format!("{at}.").as_bytes());
        mac.update(body);
        HEXLOWER.encode(&mac.finalize().into_bytes())
    });
    drop(key);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let signature = HeaderValue::try_from(format!("t={at},v1={signature}"));
    headers.insert("locum-signature", signature.map_err(|error| error.to_string())?);
    let errand = Errand {
        purpose: "approval-webhook",
        workspace: None,
        uses: Some(Use {
            credential: webhook.key.clone(),
            version: Some(version),
            slot: None,
            why: crate::record::Why::default(),
        }),
        endpoint: &webhook.url,
        method: Method::POST,
        headers,
        body: body.clone(),
        within: None,
    };
    let reply = gateway.errand(errand).await.map_err(|refusal| refusal.to_string())?;
    if reply.status.is_success() {
        return Ok(());
    }
    Err(format!("it answered {}", reply.status))
}

impl Approvals for Questions {
    fn ask(&self, question: Question) -> Result<Question, NotAsked> {
        let digest = question.digest();
        let mut open = self.open.lock();
        // Of an agent, and so few that a look at each of them costs nothing.
        let of_it = |other: &&Question| {
            other.workspace == question.workspace && other.agent == question.agent
        };
        let own = || open.values().filter(of_it);
        let same = own().find(|other| other.digest() == digest && other.until >= question.asked);
        if let Some(same) = same {
            return Ok(same.clone());
        }
        // Of a workspace: none keeps the others from asking.
        let beside = open.values().filter(|other| other.workspace == question.workspace).count();
        if beside >= OF_ALL || own().count() >= OF_ONE {
            return Err(NotAsked::TooMany);
        }
        self.write(&question).map_err(|error| {
            tracing::error!(%error, "a question could not be written down");
            NotAsked::Unwritten
        })?;
        open.insert(question.id.clone(), question.clone());
        self.metrics.asking_open(open.len());
        drop(open);
        let Question { agent, rule, .. } = &question;
        let request = question.request();
        let request = request.split('?').next().unwrap_or_default();
        let what = format!("agent {agent}, rule {rule}: {request}, digest {digest}");
        self.note("approval-asked", &question, what);
        self.metrics.asking(Asking::Asked);
        self.tell(&question);
        Ok(question)
    }

    fn take(&self, id: &str, request: &str) -> bool {
        let question = self.open.lock().get(id).cloned();
        let Some(question) = question else { return false };
        let taken = self.settle(&question);
        if taken {
            self.metrics.asking(Asking::Used);
            self.note("approval-used", &question, format!("by the request {request}"));
        }
        taken
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
