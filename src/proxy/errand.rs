//! Errands: calls that Locum makes for itself, to token endpoints, other vaults and the like.
//!
//! They go the way of every other call: the address guard, `upstream.hosts`, verified TLS, the
//! timeouts, and a record before the first byte. What comes back is read whole, under a limit, and is
//! handled as a secret.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body::Body as _;
use http_body_util::Full;
use tokio::time::timeout;

use super::{Gateway, request_id};
use crate::agent::DEFAULT_WORKSPACE;
use crate::credential::Endpoint;
use crate::inject;
use crate::outcome::{Code, Ending, Refusal};
use crate::record::{Access, AuditSink, Outcome, Recorded, RequestId, Use};
use crate::reference::Name;
use crate::secret::Secret;
use crate::upstream::{Call, Upstream, UpstreamBody};

/// The longest that an errand may take in all. An agent's request waits for it, and gives up at some
/// time of its own; a minute is what most of them bear.
const LONGEST: Duration = Duration::from_secs(30);

/// The most bytes of an answer. The longest token is a few KiB; a secret that another vault keeps is
/// bounded by what a vault takes.
const MOST: usize = 256 * 1024;

/// One call of Locum's own.
pub struct Errand<'a> {
    /// What it is for, as a record names it in the place of a rule: `token-refresh`.
    pub purpose: &'static str,
    /// For which workspace; none for what the home does for itself.
    pub workspace: Option<&'a Name>,
    /// What it is made with, if with a credential: the record names it.
    pub uses: Option<Use>,
    /// Where it goes.
    pub endpoint: &'a Endpoint,
    /// How.
    pub method: Method,
    /// Its fields, but for those of the connection. Values that are secret are marked sensitive.
    pub headers: HeaderMap,
    /// Its body. Give it as [`Bytes::from_owner`] of memory that is wiped.
    pub body: Bytes,
    /// How long it may take, if less than the upstream's own time for an answer.
    pub within: Option<Duration>,
}

/// The answer to an errand.
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body, decoded of nothing.
    pub body: Secret,
}

impl Gateway {
    /// Runs an errand over the gateway's own far side and into its own audit log.
    ///
    /// # Errors
    /// Those of [`Upstream::send`], `response-timeout`, and `upstream-failed` for an answer that is
    /// too long or breaks off.
    pub async fn errand(&self, errand: Errand<'_>) -> Result<Reply, Refusal> {
        let of = errand.workspace.and_then(|name| self.workspace(name));
        let state = of.as_ref().unwrap_or_else(|| self.default_workspace()).state();
        let digest = (state.generation, state.policy.digest());
        run_errand(&self.upstream(), &*self.audit, digest, errand).await
    }
}

/// The same without a gateway, for commands.
///
/// # Errors
/// As [`Gateway::errand`].
pub async fn run_errand(
    upstream: &Upstream,
    audit: &dyn AuditSink,
    policy: (u64, &str),
    errand: Errand<'_>,
) -> Result<Reply, Refusal> {
    let id = request_id();
    let longest = errand.within.unwrap_or(LONGEST).min(LONGEST);
    let mut account =
        Account { audit, id, start: Instant::now(), up: errand.body.len(), end: None };
    let recorded = recorded(audit, id, policy, errand)?;
    let sent = timeout(longest, send(upstream, recorded)).await;
    let sent = sent.unwrap_or_else(|_| {
        let detail = format!("it did not answer within {longest:?}");
        Err(Refusal::with_detail(Code::ResponseTimeout, detail))
    });
    account.end = Some(match &sent {
        Ok(reply) => Ok((reply.status.as_u16(), reply.body.len())),
        Err(refusal) => Err(refusal.code),
    });
    sent
}

/// What is sent, once its record is written. No record, no call.
struct Leaving {
    request: Request<Full<Bytes>>,
    endpoint: Endpoint,
    principal: Arc<str>,
}

fn recorded(
    audit: &dyn AuditSink,
    id: RequestId,
    (generation, digest): (u64, &str),
    errand: Errand<'_>,
) -> Result<Recorded<Leaving>, Refusal> {
    let Errand { purpose, workspace, uses, endpoint, method, headers, body, .. } = errand;
    let path = endpoint.target().split('?').next();
    let destination = endpoint.origin().to_string();
    let record = Access {
        workspace,
        method: Some(method.as_str()),
        path,
        rule: Some(purpose),
        policy_generation: generation,
        policy_digest: digest,
        credential: uses.as_ref(),
        ..Access::new(id, &destination)
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    *request.uri_mut() =
        endpoint.target().parse::<Uri>().map_err(|_| Refusal::new(Code::Internal))?;
    *request.headers_mut() = headers;
    settle(request.headers_mut(), endpoint)?;
    // A connection of its own for each credential: servers may know a caller by its connection. No agent
    // has an empty name.
    let of = workspace.map_or(DEFAULT_WORKSPACE, Name::as_str);
    let principal = match &uses {
        Some(used) => inject::principal(of, "", std::slice::from_ref(used)),
        None => format!("{of}/+{purpose}").into(),
    };
    let leaving = Leaving { request, endpoint: endpoint.clone(), principal };
    Recorded::new(leaving, audit, &record).map_err(|_| Refusal::new(Code::AuditUnavailable))
}

/// The fields that every errand has.
fn settle(headers: &mut HeaderMap, endpoint: &Endpoint) -> Result<(), Refusal> {
    let host = HeaderValue::try_from(endpoint.origin().host_field())
        .map_err(|_| Refusal::new(Code::Internal))?;
    headers.insert(header::HOST, host);
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("application/json"));
    // Read as it comes; no answer of this size is worth decoding.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let ours = HeaderValue::from_static(concat!("locum/", env!("CARGO_PKG_VERSION")));
    headers.entry(header::USER_AGENT).or_insert(ours);
    Ok(())
}

async fn send(upstream: &Upstream, leaving: Recorded<Leaving>) -> Result<Reply, Refusal> {
    let (mut endpoint, mut principal) = (None, None);
    let request = leaving.map(|leaving| {
        (endpoint, principal) = (Some(leaving.endpoint), Some(leaving.principal));
        leaving.request
    });
    let (Some(endpoint), Some(principal)) = (endpoint, principal) else {
        unreachable!("map calls its closure once")
    };
    let call = Call {
        origin: endpoint.origin(),
        principal: &principal,
        response_timeout: None,
        idle_timeout: None,
        interims: None,
        last_look: None,
        certificate: None,
    };
    let sent = upstream.send(request, call).await?;
    let (parts, body) = sent.response.into_parts();
    let body = whole(body).await.map_err(|why| {
        let detail = format!("the answer of {} {why}", endpoint.origin().authority);
        Refusal::with_detail(Code::UpstreamFailed, detail)
    })?;
    Ok(Reply { status: parts.status, headers: parts.headers, body })
}

/// Reads an answer into one buffer that is never outgrown, so that no part of a token is left behind.
async fn whole(mut body: UpstreamBody) -> Result<Secret, &'static str> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > MOST {
        return Err("is too long");
    }
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.map_err(|_| "broke off")?.into_data() else { continue };
        length += data.len();
        if length > MOST {
            return Err("is too long");
        }
        pieces.push(data);
    }
    let mut all = Vec::with_capacity(length);
    for piece in &pieces {
        all.extend_from_slice(piece);
    }
    Ok(Secret::new(all))
}

/// Writes the outcome when it is dropped, however that comes to pass.
struct Account<'a> {
    audit: &'a dyn AuditSink,
    id: RequestId,
    start: Instant,
    up: usize,
    end: Option<Result<(u16, usize), Code>>,
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let (ending, status, code, down) = match self.end {
            Some(Ok((status, down))) => (Ending::Complete, Some(status), None, down),
            Some(Err(code)) => (Ending::Failed, None, Some(code), 0),
            None => (Ending::DownstreamAborted, None, None, 0),
        };
        let took = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.audit.outcome(&Outcome {
            request_id: self.id,
            ending,
            code,
            status,
            complaint: None,
            bytes_up: self.up as u64,
            bytes_down: down as u64,
            scrubbed: 0,
            unsearched: false,
            misplaced: 0,
            upstream_us: status.map(|_| took),
            total_us: took,
        });
    }
}
