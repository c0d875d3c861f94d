//! Requests that wait for a person: what is asked, and what was answered.
//!
//! An answer is good for one digest, which covers all that will be sent and all that the person was
//! shown: a question that somebody edited gets an answer that fits no request.

use std::fmt;

use data_encoding::HEXLOWER;
use http::header::{self, HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::agent::{DEFAULT_WORKSPACE, default_workspace};
use crate::reference::Name;

/// What a person is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Names it: the id of the request that asked first.
    pub id: String,
    /// The workspace of the agent, and of whoever answers.
    #[serde(skip_serializing_if = "is_default", default = "default_workspace")]
    pub workspace: Name,
    /// Who.
    pub agent: String,
    /// As its starter said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<String>,
    /// As its starter said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// The rule that wants to be asked.
    pub rule: String,
    /// What for.
    pub method: String,
    /// What it asks to go on as (`websocket`): a GET then, behind which anything may be sent. Among the fields, too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub upgrade: Option<String>,
    /// Scheme, host and port.
    pub destination: String,
    /// Path and query as they will be sent, with references in the place of secrets.
    pub target: String,
    /// The credentials that enter it.
    #[serde(rename = "use")]
    pub uses: Vec<String>,
    /// `Content-Type`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    /// Of all fields that count, in hex.
    pub fields_sha256: String,
    /// Of the body.
    pub body_bytes: u64,
    /// Of the body, in hex.
    pub body_sha256: String,
    /// The body itself, where it is short and text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body: Option<String>,
    /// When it was asked, in seconds since the Unix epoch.
    pub asked: i64,
    /// The last second in which it can be answered.
    pub until: i64,
    /// How long an answer is good, in seconds.
    pub valid: i64,
    /// How many people have to say yes.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub approvers: u32,
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_one(count: &u32) -> bool {
    *count == 1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn is_default(workspace: &Name) -> bool {
    workspace.as_str() == DEFAULT_WORKSPACE
}

impl Question {
    /// What is asked for, in one line.
    #[must_use]
    pub fn request(&self) -> String {
        let Self { method, destination, target, upgrade, .. } = self;
        let upgrade = upgrade.as_ref().map(|to| format!(" as a {to}")).unwrap_or_default();
        format!("{method}{upgrade} {destination}{target}")
    }

    /// What an answer is bound to: SHA-256 over all that will be sent and by whom, each text with its
    /// length before it, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        let Self { agent, rule, method, destination, target, uses, .. } = self;
        let content_type = self.content_type.as_deref().unwrap_or_default();
        let body_bytes = self.body_bytes.to_string();
        let uses = uses.join(",");
        let texts = [
            "locum/approval/1",
            agent,
            rule,
            method,
            destination,
            target,
            &uses,
            content_type,
            &self.fields_sha256,
            &body_bytes,
            &self.body_sha256,
        ];
        // Said where it is another than the one that homes had when there was one: what was approved then
        // is good still.
        let workspace = Some(&self.workspace).filter(|name| !is_default(name));
        // For whom it is made, where that is said: nobody gets what was approved for another, nor approves
        // for oneself what another is named for. No workspace is written so.
        let user = self.user.as_ref().map(|user| format!("user={user}"));
        // How many are asked, where it is more than one: nobody makes one of two.
        let approvers = (self.approvers != 1).then(|| format!("approvers={}", self.approvers));
        let mut hash = Sha256::new();
        let more = workspace.map(Name::as_str).into_iter().chain(user.as_deref());
        let more = more.chain(approvers.as_deref());
        for text in texts.into_iter().chain(more) {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        HEXLOWER.encode(&hash.finalize())
    }

    /// Whether the body that is shown is the one that will be sent.
    #[must_use]
    pub fn shows_its_body(&self) -> bool {
        self.body.as_ref().is_none_or(|body| sha256(body.as_bytes()) == self.body_sha256)
    }

    /// The same without what a log would not keep either.
    #[must_use]
    pub fn settled(&self) -> Self {
        let path = self.target.split('?').next().unwrap_or_default().to_owned();
        Self { body: None, target: path, ..self.clone() }
    }
}

/// SHA-256, in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// Fields that differ from one sending of the same request to the next, and mean nothing to what is
/// done: an answer is good whatever they say.
const PASSING: [HeaderName; 9] = [
    header::SEC_WEBSOCKET_KEY,
    header::ACCEPT_ENCODING,
    header::CONTENT_LENGTH,
    header::DATE,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-stainless-retry-count"),
];

/// SHA-256 over the fields that count, by name, and those of one name in their order; in hex.
#[must_use]
pub fn digest_of_fields(headers: &HeaderMap) -> String {
    let mut names: Vec<&HeaderName> = headers.keys().filter(|n| !PASSING.contains(n)).collect();
    names.sort_by_key(|name| name.as_str());
    let mut hash = Sha256::new();
    for name in names {
        for value in headers.get_all(name) {
            for text in [name.as_str().as_bytes(), value.as_bytes()] {
                hash.update((text.len() as u64).to_be_bytes());
                hash.update(text);
            }
        }
    }
    HEXLOWER.encode(&hash.finalize())
}

/// What a person said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// To which question.
    pub id: String,
    /// To what, exactly.
    pub digest: String,
    /// Yes, or no.
    pub approved: bool,
    /// When, in seconds since the Unix epoch.
    pub at: i64,
    /// The last second in which it is good.
    pub until: i64,
    /// Who said so, one after the other. Empty in those of earlier versions.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub by: Vec<String>,
    /// How many more have to say yes before it counts as one.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub missing: u32,
}

impl Decision {
    /// What it says of a digest, if anything: a yes that waits for others is none yet.
    #[must_use]
    pub fn settles(&self, digest: &str) -> Option<bool> {
        (self.digest == digest && self.missing == 0).then_some(self.approved)
    }
}

/// As many questions are open as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAsked {
    /// Of this agent, or of all.
    TooMany,
    /// It cannot be written down, and what is not written down is not asked.
    Unwritten,
}

impl fmt::Display for NotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooMany => {
                "As many requests wait for an approval as may; some of them have to be decided first"
            }
            Self::Unwritten => "The request for an approval cannot be written down",
        })
    }
}

/// Where questions are kept, so that people and later processes find them.
pub trait Approvals: Send + Sync {
    /// Asks. One that is open for the same digest is returned in its place.
    ///
    /// # Errors
    /// [`NotAsked`].
    fn ask(&self, question: Question) -> Result<Question, NotAsked>;

    /// Uses an approval up: true once, and for whoever comes first. Durable when it returns.
    fn take(&self, id: &str, request: &str) -> bool;
}

/// The agent of a question as a name, where it still is one.
#[must_use]
pub fn agent_of(question: &Question) -> Option<Name> {
    question.agent.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn question() -> Question {
        Question {
            id: "1".into(),
            workspace: default_workspace(),
            agent: "a".into(),
            run: None,
            user: None,
            rule: "r".into(),
            method: "POST".into(),
            upgrade: None,
            destination: "https://x.test".into(),
            target: "/v1/mail?to=bob".into(),
            uses: vec!["k".into()],
            content_type: Some("application/json".into()),
            fields_sha256: "f".into(),
            body_bytes: 2,
            body_sha256: sha256(b"{}"),
            body: Some("{}".into()),
            asked: 1,
            until: 2,
            valid: 3,
            approvers: 1,
        }
    }

    #[test]
    fn the_digest_covers_all_that_will_be_sent() {
        let one = question();
        let same = Question {
            id: "2".into(),
            asked: 9,
            until: 9,
            valid: 9,
            run: Some("7".into()),
            ..one.clone()
        };
        assert_eq!(one.digest(), same.digest());
        for other in [
            Question { agent: "b".into(), ..one.clone() },
            Question { rule: "s".into(), ..one.clone() },
            Question { method: "PUT".into(), ..one.clone() },
            Question { destination: "https://y.test".into(), ..one.clone() },
            Question { target: "/v1/mail?to=eve".into(), ..one.clone() },
            Question { uses: vec!["l".into()], ..one.clone() },
            Question { uses: vec!["k".into(), "l".into()], ..one.clone() },
            Question { content_type: None, ..one.clone() },
            Question { fields_sha256: "g".into(), ..one.clone() },
            Question { body_bytes: 3, ..one.clone() },
            Question { body_sha256: sha256(b"{ }"), ..one.clone() },
            Question { approvers: 2, ..one.clone() },
            // What stands at the end of one text does not count for the start of the next.
            Question { agent: "ar".into(), rule: String::new(), ..one.clone() },
        ] {
            assert_ne!(one.digest(), other.digest(), "{other:?}");
        }
        assert!(one.shows_its_body());
        assert!(!Question { body: Some("{\"x\": 1}".into()), ..one.clone() }.shows_its_body());
        assert_eq!((one.settled().target.as_str(), one.settled().body), ("/v1/mail", None));
    }

    #[test]
    fn fields_count_but_for_those_that_pass() {
        let fields = |pairs: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.append(*name, HeaderValue::from_static(value));
            }
            digest_of_fields(&map)
        };
        let one = fields(&[("x-a", "1"), ("x-b", "2"), ("x-a", "3")]);
        assert_eq!(
            one,
            fields(&[("x-b", "2"), ("x-a", "1"), ("x-a", "3"), ("traceparent", "00-1")])
        );
        assert_ne!(one, fields(&[("x-a", "3"), ("x-b", "2"), ("x-a", "1")]));
        assert_ne!(one, fields(&[("x-a", "1"), ("x-b", "2")]));
        assert_ne!(one, fields(&[("x-a", "13"), ("x-b", "2")]));
    }
}
