//! How a request ends: the closed list of refusals and failures that HTTP answers, metrics and the
//! audit log share.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident $code:literal $status:literal $proxy_status:literal $title:literal $hint:literal;)+) => {
        /// Why Locum answered in the origin's place. The list is closed and its texts are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable text: label of metrics, field of the audit log, end of the problem type.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $code,)+ } }

            /// The status of the answer.
            #[must_use]
            pub fn status(self) -> StatusCode {
                let status = match self { $(Self::$variant => $status,)+ };
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// The error type of the `Proxy-Status` field (RFC 9209 section 2.3).
            #[must_use]
            pub fn proxy_status(self) -> &'static str { match self { $(Self::$variant => $proxy_status,)+ } }

            /// One line that says what happened.
            #[must_use]
            pub fn title(self) -> &'static str { match self { $(Self::$variant => $title,)+ } }

            /// What to do next.
            #[must_use]
            pub fn hint(self) -> &'static str { match self { $(Self::$variant => $hint,)+ } }
        }
    };
}

codes! {
    /// The request's framing or fields have no single meaning.
    BadRequest "bad-request" 400 "http_request_error"
        "The request cannot be read in one way only"
        "Send one Host, one Content-Length or one Transfer-Encoding, and an absolute path.";
    /// An origin could read the path in two ways.
    AmbiguousPath "ambiguous-path" 400 "http_request_error"
        "An origin could read this path in two ways"
        "Send the path without dot segments, encoded slashes or dots, backslashes or empty segments.";
    /// No, bad or revoked proxy credentials.
    ProxyAuthRequired "proxy-auth-required" 407 "http_request_denied"
        "The proxy does not know this agent"
        "Set HTTPS_PROXY=http://AGENT:TOKEN@HOST:PORT; `locum agent add NAME` prints a token.";
    /// The agent's token was revoked, or ran out, while its tunnel was open.
    AgentRevoked "agent-revoked" 403 "http_request_denied"
        "The agent's token is no longer valid"
        "Ask for a new token: `locum agent add NAME` prints one.";
    /// Host, SNI or target disagree with the CONNECT.
    AuthorityMismatch "authority-mismatch" 421 "http_request_error"
        "The request names another host than its tunnel"
        "Open one tunnel for each host; CONNECT target, SNI and Host must be the same.";
    /// No rule allows it.
    NotAllowed "not-allowed" 403 "http_request_denied"
        "No policy rule allows this request"
        "Ask for a rule that allows this agent, host, method and path; whoever runs the proxy sees by `locum policy explain --request` and this id what is missing.";
    /// A rule allows it once a person has approved it.
    ApprovalRequired "approval-required" 403 "http_request_denied"
        "A person has to approve this request"
        "Ask whoever runs the proxy to look at `locum approvals list`, and send the same request again once it is approved.";
    /// A person was asked, and said no.
    ApprovalDenied "approval-denied" 403 "http_request_denied"
        "A person refused to approve this request"
        "Do not send it again as it is; ask whoever runs the proxy why.";
    /// A rule wants what is not as usual for the agent to be refused.
    Unusual "unusual-request" 403 "http_request_denied"
        "The request is not what this agent usually does"
        "Send what the agent is made for, from where and when it usually runs; or ask whoever runs the proxy to accept what is new: `locum anomalies list` shows it.";
    /// A reference that cannot be resolved here: unknown, forbidden and wrong destination look alike.
    CredentialRefused "credential-refused" 403 "http_request_denied"
        "The credential that this request refers to cannot be used here"
        "Check its name, that it is bound to this host, and that a rule lets this agent use it; the audit record of this id says which.";
    /// The version of the credential that a request carries was revoked while it was under way.
    CredentialRevoked "credential-revoked" 403 "http_request_denied"
        "The credential was revoked while the request was under way"
        "Send it again: it gets the credential's next version, or is refused where there is none.";
    /// All credentials of a pool are at their limit.
    CredentialExhausted "credential-exhausted" 429 "http_request_denied"
        "All credentials that serve this reference are at their provider's limit"
        "Wait as long as Retry-After says; or ask for more credentials in the pool.";
    /// What the agent sent holds a secret of the vault itself, in place of its placeholder.
    RealCredential "real-credential" 403 "http_request_denied"
        "The request carries a credential itself, where its placeholder belongs"
        "Put the placeholder that `locum env` prints where the key is now; the key is in this agent's hands, so rotate it.";
    /// A reference in a slot whose value has another shape than the credential's templates.
    SlotMismatch "slot-mismatch" 403 "http_request_denied"
        "The reference stands in a value that has not the shape its credential declares"
        "Send the value in the form that `locum credential show NAME` lists under slots.";
    /// A reference outside the slots, on a rule that says `misplaced: refuse`.
    Misplaced "misplaced-reference" 403 "http_request_denied"
        "A reference stands outside the slots of its credential"
        "Send the reference only where the credential enters the request.";
    /// A credential was asked for over plain HTTP.
    Plaintext "plaintext-refused" 403 "http_request_denied"
        "A credential never travels without TLS"
        "Use https:// for this host.";
    /// The method reflects the request or tunnels through it.
    MethodRefused "method-refused" 405 "http_request_denied"
        "This method is not forwarded"
        "Methods are written in capitals. TRACE, TRACK and CONNECT inside a tunnel would hand the credential back or escape inspection; a field that asks for another method, such as X-HTTP-Method-Override, has to go where that one is not allowed alike.";
    /// An upgrade that is not understood: another protocol than WebSocket, or no valid handshake.
    UpgradeRefused "upgrade-refused" 403 "http_request_denied"
        "This protocol upgrade is not forwarded"
        "Remove the Upgrade field; inside an inspected tunnel Locum passes HTTP, and WebSocket after a handshake as RFC 6455 has it.";
    /// The destination's address is private, local or otherwise closed.
    AddressForbidden "address-forbidden" 403 "destination_ip_prohibited"
        "The host has an address that the proxy does not connect to"
        "If this is meant, add its network to upstream.allow_addresses in locum.yaml.";
    /// The destination is the proxy itself.
    Loop "proxy-loop" 508 "proxy_loop_detected"
        "The request leads back to the proxy"
        "Remove the proxy's own address from the request, or HTTPS_PROXY from the proxy's environment.";
    /// Head or fields over the limit.
    HeadTooLarge "head-too-large" 431 "http_request_error"
        "The request's header section is over the limit"
        "Send fewer or shorter header fields; limits.head_bytes and limits.headers in locum.yaml set the limits.";
    /// A target over the limit.
    UrlTooLong "url-too-long" 414 "http_request_error"
        "The request's URL is over the limit"
        "Send what is long in a body; limits.url_bytes in locum.yaml sets the limit.";
    /// A body over the limit, where it would have to be searched for a reference.
    BodyTooLarge "body-too-large" 413 "http_request_error"
        "The request's body is over the limit for bodies that a credential may enter"
        "Put the field with the reference before the file, or send it in a header if the credential has such a slot; limits.body_slot in locum.yaml sets how far bodies are searched before they are sent.";
    /// A body that cannot be read, where it would have to be searched for a reference.
    BodyUnreadable "body-unreadable" 400 "http_request_error"
        "The request's body cannot be read in one way, and a credential may enter it"
        "Send it without Content-Encoding and well-formed, with the reference as one whole text in the field that `locum credential show NAME` lists under slots, and that field once.";
    /// A head, or a body, that does not come to its end.
    RequestTimeout "request-timeout" 408 "http_request_error"
        "The request did not come to its end in time"
        "Send the header section at once, and keep the body moving; limits.head_time and upstream.timeouts.idle in locum.yaml set the times.";
    /// Too many at once.
    Overloaded "overloaded" 503 "connection_limit_reached"
        "The proxy has as much in hand as it may"
        "Close idle connections, or try again in a moment; limits.connections and limits.bodies in locum.yaml set what is in hand at once.";
    /// A limit of the rule that allows it is used up.
    RateLimited "rate-limited" 429 "http_request_denied"
        "A limit of the policy rule that allows this request is used up"
        "Wait as long as Retry-After says, or ask for a higher limit; the audit record of this id names the rule.";
    /// The audit log cannot be written.
    AuditUnavailable "audit-unavailable" 503 "proxy_internal_error"
        "The audit log cannot be written, and no call is made without its record"
        "Free space on, or mend, the disk of the audit directory; the proxy goes on by itself.";
    /// The vault is locked, gone, or was put back.
    VaultUnavailable "vault-unavailable" 503 "proxy_internal_error"
        "The vault cannot be read"
        "Run `locum doctor` on the proxy's home; it names the cause.";
    /// A sealed secret does not open.
    VaultCorrupt "vault-corrupt" 503 "proxy_internal_error"
        "The credential's record in the vault does not open"
        "The row was changed outside Locum, or its key is another; restore the vault or add the credential again.";
    /// What the credential's value is made from is refused by those who make it.
    CredentialExpired "credential-expired" 502 "proxy_configuration_error"
        "The credential's grant is no longer accepted where its tokens come from"
        "It ran out, or was withdrawn: get a new one with `locum credential connect` or `locum credential rotate`; the audit record of this id says why.";
    /// The credential's value could not be made.
    RefreshFailed "refresh-failed" 502 "proxy_internal_error"
        "The credential's token could not be renewed, and none is left that is valid"
        "Try again; if it stays, look at the host that the tokens come from: the audit record of this id says what it did.";
    /// Where the credential's secret lies does not give it out.
    SourceUnavailable "source-unavailable" 503 "proxy_internal_error"
        "The credential's secret lies elsewhere, and could not be had from there"
        "Try again; if it stays, look at the credential's source: the audit record of this id says why, and docs/SOURCES.md what to do.";
    /// The name does not resolve.
    DnsError "dns-error" 502 "dns_error"
        "The host's name does not resolve"
        "Check the name, and the resolver of the machine that runs the proxy.";
    /// Nothing answers there.
    ConnectFailed "connect-failed" 502 "connection_refused"
        "The host does not accept a connection"
        "Check host, port and network from the machine that runs the proxy.";
    /// The proxy on the way to the host opens no tunnel.
    NextProxyRefused "next-proxy-refused" 502 "connection_refused"
        "The proxy before the host did not open a tunnel to it"
        "Look at that proxy's own log; upstream.hosts.HOST.proxy in locum.yaml names it and its credential.";
    /// The certificate does not verify.
    CertificateInvalid "certificate-invalid" 502 "tls_certificate_error"
        "The host's certificate does not verify"
        "If the host has a private CA, set upstream.hosts.HOST.ca_file in locum.yaml; verification is never turned off.";
    /// The client certificate of a credential is not accepted.
    ClientCertificateRefused "client-certificate-refused" 502 "tls_alert_received"
        "The host does not accept the client certificate"
        "It ran out, was revoked there, or is for another host: rotate it with `locum credential rotate`; the audit record of this id names it.";
    /// TLS failed in another way.
    TlsFailed "tls-failed" 502 "tls_protocol_error"
        "TLS with the host failed"
        "The host must speak TLS 1.2 or 1.3 at this port.";
    /// The upstream broke HTTP or the connection before an answer.
    UpstreamFailed "upstream-failed" 502 "connection_terminated"
        "The host broke off before it answered"
        "Try again; if it stays, look at the host's own log.";
    /// The answer cannot be searched for the secret.
    Unscrubbable "response-unscrubbable" 502 "http_response_content_coding_error"
        "The answer came in a form that cannot be searched for the credential"
        "The host used a coding that the proxy cannot undo; ask its operator, use it without a credential, or have a rule say `scrub: {undecodable: pass}`.";
    /// A rule takes a token out of the answer, and it could not be taken or kept.
    CaptureFailed "capture-failed" 502 "proxy_internal_error"
        "The answer holds a token that the proxy keeps, and it could not be kept"
        "Nothing of the answer was passed on. Show the id of this refusal to whoever runs the proxy; the audit record says what was missing.";
    /// Connecting took too long.
    ConnectTimeout "connect-timeout" 504 "connection_timeout"
        "The host did not accept the connection in time"
        "Check the network from the machine that runs the proxy; upstream.timeouts.connect sets the time.";
    /// No answer in time.
    ResponseTimeout "response-timeout" 504 "http_response_timeout"
        "The host did not answer in time"
        "upstream.timeouts.response sets the time.";
    /// The destination has failed again and again, and is left alone for a while.
    CircuitOpen "circuit-open" 503 "destination_unavailable"
        "The host has failed again and again, and is not asked for a while"
        "Wait as long as Retry-After says; upstream.breaker in locum.yaml sets when a host is left alone, and the audit log has what failed.";
    /// A fault of Locum.
    Internal "internal-error" 500 "proxy_internal_error"
        "The proxy failed"
        "Please report this with the request's id and the proxy's log.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

/// A request that Locum answers itself, and why. Turned into a response in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which of the closed list.
    pub code: Code,
    /// What the agent is told beyond the title. Names hosts and slots that the agent itself sent,
    /// never a value, and never what exists.
    pub detail: Cow<'static, str>,
    /// What only the operator is told, in the audit record: the true reason.
    pub reason: Option<&'static str>,
    /// What only the operator is told, too: the rule that refused, where one did.
    pub rule: Option<Arc<str>>,
    /// The limit that is used up, where one is.
    pub quota: Option<Box<Quota>>,
    /// When it is worth to ask again, where no limit of ours says so.
    pub retry_after: Option<Duration>,
}

/// A limit of a rule, as an agent that met it is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// What is limited.
    pub what: Measure,
    /// How many.
    pub limit: u64,
    /// In what time; none for what is limited at once.
    pub window: Option<Duration>,
    /// When it is worth to ask again.
    pub wait: Duration,
}

/// What a rule can limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Requests in a time.
    Requests,
    /// Requests at once.
    Concurrent,
    /// Bytes in a time.
    Bytes,
}

impl Refusal {
    /// A refusal with its code's own words.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self::with_detail(code, code.title())
    }

    /// A refusal that says more to the agent.
    #[must_use]
    pub fn with_detail(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            reason: None,
            rule: None,
            quota: None,
            retry_after: None,
        }
    }

    /// The same, with the rule that only the audit record shows.
    #[must_use]
    pub fn by(mut self, rule: &Arc<str>) -> Self {
        self.rule = Some(Arc::clone(rule));
        self
    }

    /// The same, with the reason that only the audit record shows.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Refusal {}

/// Reasons that more than one place has to recognise.
pub mod reason {
    /// A reference was sent where its credential may not go: someone is trying to move a key.
    pub const NOT_BOUND: &str = "the credential is not bound to this destination";
    /// A reference names what no agent was ever given.
    pub const HONEYTOKEN: &str = "the credential is a honeytoken";
    /// A reference names nothing.
    pub const UNKNOWN: &str = "no credential has this name";
    /// A reference names a credential of another user, or for other steps of a run.
    pub const NOT_FOR_THEM: &str = "the credential is another user's, or for other nodes";
    /// A credential was to be shown where its own tokens come from.
    pub const TO_ITS_SOURCE: &str = "the credential's own token endpoint gets it from Locum alone";
    /// A rule refuses what is not as usual.
    pub const UNUSUAL: &str =
        "it is not as usual for this agent; the event `anomaly` of the same request says how";
    /// The agent came by a run token that leaves it other credentials.
    pub const NOT_OF_THE_RUN: &str = "the run token does not name this credential";
    /// The method that is never forwarded is not the request's own.
    pub const OTHER_METHOD: &str =
        "a field or a parameter asks for TRACE, TRACK or CONNECT in place of the request's method";
}

/// What an origin says of a credential by an answer that it gave, and that is the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Complaint {
    /// It does not accept it: it ran out, was withdrawn there, or may not do what was asked.
    NotAccepted,
    /// What was paid for is used up.
    OutOfQuota,
    /// It was used too often in too short a time.
    RateLimited,
}

impl Complaint {
    /// What the status of an answer says.
    #[must_use]
    pub fn of(status: StatusCode) -> Option<Self> {
        match status {
            StatusCode::UNAUTHORIZED => Some(Self::NotAccepted),
            StatusCode::PAYMENT_REQUIRED => Some(Self::OutOfQuota),
            StatusCode::TOO_MANY_REQUESTS => Some(Self::RateLimited),
            _ => None,
        }
    }

    /// The stable text: label of a metric, field of the audit log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAccepted => "not-accepted",
            Self::OutOfQuota => "out-of-quota",
            Self::RateLimited => "rate-limited",
        }
    }
}

/// How a permitted request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The last byte of the answer was handed to the agent.
    Complete,
    /// The upstream broke off, or its answer could not be passed on.
    UpstreamAborted,
    /// The agent went away first.
    DownstreamAborted,
    /// No answer came: the record's code says why.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_distinct_and_every_one_has_advice() {
        let texts: HashSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code}");
            assert!(code.hint().ends_with('.') && !code.title().ends_with('.'), "{code}");
        }
    }
}
