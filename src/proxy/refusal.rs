//! The one place that turns a refusal into HTTP: problem details (RFC 9457) and `Proxy-Status`
//! (RFC 9209), so that an SDK can tell Locum's answers from the origin's.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use super::Body;
use crate::outcome::{Code, Measure, Quota, Refusal};
use crate::record::RequestId;

pub(super) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: RequestId,
    code: Code,
    hint: &'a str,
}

/// The answer to a refused request. What only the operator may know stays out of it.
pub(super) fn respond(refusal: &Refusal, id: RequestId) -> Response<Body> {
    let code = refusal.code;
    let problem = Problem {
        r#type: format!("urn:locum:problem:{code}"),
        title: code.title(),
        status: code.status().as_u16(),
        detail: &refusal.detail,
        instance: id,
        code,
        hint: code.hint(),
    };
    // A struct of strings and numbers always serialises.
    let text = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Body::whole(Bytes::from(text)));
    *response.status_mut() = code.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    mark(headers, code);
    if let Some(wait) = refusal.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
    }
    if let Some(quota) = &refusal.quota {
        say_limit(headers, quota);
    }
    match code.status() {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            let challenge = HeaderValue::from_static("Basic realm=\"locum\", charset=\"UTF-8\"");
            headers.insert(header::PROXY_AUTHENTICATE, challenge);
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            headers.insert(header::ALLOW, allow);
        }
        _ => {}
    }
    // After a request whose end is in doubt, nothing on the connection can be trusted.
    if matches!(code, Code::AgentRevoked | Code::BadRequest | Code::UrlTooLong) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What tells our answers from the origin's.
fn mark(headers: &mut HeaderMap, code: Code) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let status = format!("locum; error={}; details=\"{code}\"", code.proxy_status());
    if let Ok(status) = HeaderValue::try_from(status) {
        headers.insert(PROXY_STATUS, status);
    }
}

/// In whole seconds, rounded up: whoever comes back after so many is let in.
fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// When to ask again (RFC 9110 section 10.2.3), and the limit that was met
/// (draft-ietf-httpapi-ratelimit-headers-10). Not the rule: its name is the operator's.
fn say_limit(headers: &mut HeaderMap, quota: &Quota) {
    let wait = seconds(quota.wait);
    headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
    let (name, unit) = match quota.what {
        Measure::Requests => ("requests", ""),
        Measure::Concurrent => ("concurrent", ";qu=\"concurrent-requests\""),
        Measure::Bytes => ("bytes", ";qu=\"content-bytes\""),
    };
    let window = quota.window.map(|window| format!(";w={}", window.as_secs()));
    let policy = format!("\"{name}\";q={}{unit}{}", quota.limit, window.unwrap_or_default());
    let left = format!("\"{name}\";r=0;t={wait}");
    for (field, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, left)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(field, value);
        }
    }
}

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whether whoever sent the request reads `grpc-status` and not bodies.
pub(super) fn wants_grpc<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2
        && request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc)
}

/// `application/grpc`, `application/grpc+proto`, …; gRPC-Web is something else.
pub(super) fn is_grpc(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The same for a gRPC client: an answer of trailers only, as Envoy makes its own, because such a
/// client shows its user the message and drops a body. HTTP's status has to be 200 for that.
pub(super) fn respond_grpc(refusal: &Refusal, id: RequestId) -> Response<Body> {
    let code = refusal.code;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let text = format!("{} ({code}, request {id}): {}", refusal.detail, code.hint());
    headers.extend(grpc_trailers(grpc_status(code), &text));
    mark(headers, code);
    if let Some(wait) = refusal.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
    }
    if let Some(quota) = &refusal.quota {
        say_limit(headers, quota);
    }
    response
}

/// What ends a gRPC call.
pub(super) fn grpc_trailers(status: u16, message: &impl fmt::Display) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(status));
    let text = utf8_percent_encode(&message.to_string(), GRPC_ESCAPED).to_string();
    if let Ok(text) = HeaderValue::try_from(text) {
        trailers.insert(GRPC_MESSAGE, text);
    }
    trailers
}

/// `PERMISSION_DENIED`.
pub(super) const GRPC_DENIED: u16 = 7;

/// INTERNAL.
pub(super) const GRPC_INTERNAL: u16 = 13;

/// What a gRPC client would make of an answer that broke off: the connection was lost, or the origin
/// reset the stream for this reason (gRPC over HTTP/2, "Errors").
pub(super) fn broken_grpc_status(reason: Option<u32>) -> u16 {
    match reason {
        None | Some(7) => 14, // UNAVAILABLE; REFUSED_STREAM
        Some(8) => 1,         // CANCELLED; CANCEL
        Some(11) => 8,        // RESOURCE_EXHAUSTED; ENHANCE_YOUR_CALM
        Some(12) => 7,        // PERMISSION_DENIED; INADEQUATE_SECURITY
        Some(_) => GRPC_INTERNAL,
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// All but printable ASCII, and the percent sign (gRPC's wire format, "Percent-Encoded").
const GRPC_ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// What a gRPC client would make of the status ("HTTP to gRPC Status Code Mapping"), and where that
/// says only that something is wrong, what is.
fn grpc_status(code: Code) -> u16 {
    match code.status().as_u16() {
        // The call was carried out: of UNAVAILABLE clients think that it was not, and repeat it.
        _ if code == Code::Unscrubbable => GRPC_INTERNAL,
        401 | 407 => 16,       // UNAUTHENTICATED
        403 => 7,              // PERMISSION_DENIED
        405 => 12,             // UNIMPLEMENTED
        429 | 431 => 8,        // RESOURCE_EXHAUSTED
        502..=504 | 508 => 14, // UNAVAILABLE
        _ => GRPC_INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_makes_a_complete_answer_for_grpc() {
        for code in Code::ALL {
            let refusal = Refusal::with_detail(*code, "100 %\nΩ").because("for nobody else's eyes");
            let response = respond_grpc(&refusal, RequestId([7; 16]));
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["content-type"], "application/grpc");
            let status: u16 = response.headers()["grpc-status"].to_str().unwrap().parse().unwrap();
            assert!((1..=16).contains(&status), "{code}");
            let message = response.headers()["grpc-message"].to_str().unwrap();
            assert!(message.starts_with("100 %25%0A%CE%A9 (") && message.contains(code.as_str()));
            assert!(!message.contains("nobody"), "{code} shows the reason");
            assert!(response.body().as_whole().is_none());
        }
    }

    #[test]
    fn grpc_is_told_from_what_is_called_like_it() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&HeaderValue::from_static(text)), expected, "{text}");
        }
    }

    #[test]
    fn every_code_makes_a_complete_answer() {
        for code in Code::ALL {
            let refusal = Refusal::new(*code).because("for nobody else's eyes");
            let response = respond(&refusal, RequestId([7; 16]));
            assert_eq!(response.status(), code.status());
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers()["cache-control"], "no-store");
            let status = response.headers()["proxy-status"].to_str().unwrap();
            assert!(status.starts_with("locum; error=") && status.contains(code.as_str()));
            let body = response.into_body().as_whole().unwrap();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            for key in ["type", "title", "status", "detail", "instance", "hint"] {
                assert!(problem.get(key).is_some(), "{code} has no {key}");
            }
            assert!(!body.windows(8).any(|w| w == b"nobody e"), "{code} shows the reason");
        }
    }
}
