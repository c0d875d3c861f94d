//! The request as the policy sees it and as it will go on the wire: one reading, or a refusal.
//!
//! Nothing is rewritten here but what belongs to one connection only. Path and query stay as the
//! client sent them; what an origin could read in another way is handed to the policy as a further
//! *reading*, and the policy refuses when its answers differ.

mod body;
mod frames;
mod handshake;
mod length;
mod odd;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Extensions, Method, Uri, Version};

pub(crate) use body::unescape;
pub use body::{
    Behind, BodyKind, BodyText, Found, Malformed, Open, Place, Scanner, See, Seen, Step, is_coded,
    strings,
};
pub use frames::{ClientFrames, Piece, Unfollowed, text_frame};
pub use handshake::Handshake;
pub use length::{Contradiction, one_length};
pub use odd::Odd;

use crate::agent::Context;
use crate::host::{Authority, Origin, Scheme};
use crate::outcome::{Code, Refusal, reason};
use crate::reference;

/// A request whose framing, authority and path have one meaning.
#[derive(Clone, Debug)]
#[must_use]
pub struct InboundRequest {
    parts: Parts,
    origin: Origin,
    readings: Vec<String>,
    other_methods: Vec<Method>,
    context: Context,
    websocket: Option<Handshake>,
    body: Option<BodyText>,
}

impl InboundRequest {
    /// Checks a request that came through a tunnel to `origin`, or that names `origin` itself.
    ///
    /// # Errors
    /// `bad-request`, `ambiguous-path`, `authority-mismatch`, `method-refused`, `upgrade-refused`.
    pub fn parse(mut parts: Parts, origin: &Origin) -> Result<Self, Refusal> {
        // Why here: what its parser has settled cannot be seen in it any more.
        check_seen(&parts.extensions)?;
        let websocket = Handshake::take(&mut parts)?;
        check_method(&parts.method)?;
        check_framing(&parts)?;
        check_authority(&parts, origin)?;
        let context = take_context(&mut parts.headers)?;
        keep_references(&parts.headers)?;
        strip_hop_by_hop(&mut parts.headers);
        if websocket.is_some() {
            ask_for_websocket(&mut parts.headers);
        }
        if parts.version == Version::HTTP_2 {
            join_cookies(&mut parts.headers);
        }
        settle_target(&mut parts, origin)?;
        let readings = readings(parts.uri.path())?;
        check_other_targets(&parts)?;
        let other_methods = other_methods(&parts.headers, parts.uri.query())?;
        let origin = origin.clone();
        Ok(Self { parts, origin, readings, other_methods, context, websocket, body: None })
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// The methods that fields ask for in place of [`InboundRequest::method`]: an origin may follow
    /// them.
    #[must_use]
    pub fn other_methods(&self) -> &[Method] {
        &self.other_methods
    }

    /// Where it goes.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path as sent.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// The query as sent.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }

    /// The fields that will be forwarded.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Other paths that some origin would make of this one. Empty for nearly every request.
    #[must_use]
    pub fn other_readings(&self) -> &[String] {
        &self.readings
    }

    /// What the `Locum-Run`, `Locum-Node` and `Locum-User` fields said.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The handshake, when the request asks to go on as a WebSocket.
    #[must_use]
    pub fn websocket(&self) -> Option<&Handshake> {
        self.websocket.as_ref()
    }

    /// The target as it was sent, which shares its memory.
    #[must_use]
    pub fn target(&self) -> Uri {
        self.parts.uri.clone()
    }

    /// The body, where it had to be read.
    #[must_use]
    pub fn body(&self) -> Option<&BodyText> {
        self.body.as_ref()
    }

    /// Takes the body, which was read, at least its beginning. Whoever held it back for a `100 Continue` has been told
    /// to go on, so the origin is not asked for one.
    pub fn take_body(&mut self, body: BodyText) {
        self.parts.headers.remove(header::EXPECT);
        self.body = Some(body);
    }

    /// Asks the origin for no extension of its WebSocket: what a credential may enter has to be read,
    /// and so may not be compressed.
    pub fn without_extensions(&mut self) {
        self.parts.headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    }

    /// Hands over the parts, for the injection to write on.
    pub(crate) fn into_parts(self) -> (Parts, Origin, Option<BodyText>) {
        (self.parts, self.origin, self.body)
    }
}

/// The origin that an absolute-form request names (RFC 9112 section 3.2.2). Only `http`: an
/// `https` URL would have the client's secrets pass in the clear on this side.
///
/// # Errors
/// `bad-request` when the target is not an absolute `http` URL.
pub fn absolute_origin(uri: &Uri) -> Result<Origin, Refusal> {
    let refuse = |detail: &'static str| Refusal::with_detail(Code::BadRequest, detail);
    match uri.scheme_str() {
        Some("http") => {}
        Some(_) => return Err(refuse("Use CONNECT for anything but http:// URLs")),
        None => return Err(refuse("This is a proxy; send CONNECT or an absolute http:// URL")),
    }
    let authority = uri.authority().ok_or_else(|| refuse("The URL has no host"))?;
    let authority = parse_authority(authority.as_str(), Scheme::Http)?;
    Ok(Origin { scheme: Scheme::Http, authority })
}

fn parse_authority(text: &str, scheme: Scheme) -> Result<Authority, Refusal> {
    Authority::parse(text, Some(scheme.default_port()))
        .map_err(|e| Refusal::with_detail(Code::BadRequest, e.to_string()))
}

/// TRACE and TRACK hand the request back, injected header and all; CONNECT would leave inspection. A method
/// with a small letter is none that a rule can name, and many an origin takes it for the one in capitals.
fn check_method(method: &Method) -> Result<(), Refusal> {
    let text = method.as_str();
    if ["TRACE", "TRACK", "CONNECT"].iter().any(|never| text.eq_ignore_ascii_case(never)) {
        return Err(Refusal::new(Code::MethodRefused));
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        let detail = "Methods are written in capitals, as DELETE: in small letters it is another to HTTP, and the same to many servers";
        return Err(Refusal::with_detail(Code::MethodRefused, detail));
    }
    Ok(())
}

/// By these, frameworks let a form or a firewalled client ask for a method that it cannot send. CGI and
/// all that follow it read `_` for `-`.
const METHOD_OVERRIDES: [&str; 4] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-method"];

/// The parameters by which Rails, Laravel and Symfony, and Google's front ends do the same; and the one by which the
/// last take fields.
const METHOD_PARAMETERS: [&[u8]; 3] = [b"_method", b"$httpMethod", HEADERS_PARAMETER];
const HEADERS_PARAMETER: &[u8] = b"$httpHeaders";

fn is_asking(name: &[u8]) -> bool {
    METHOD_PARAMETERS.iter().any(|own| is_named(name, own))
}

/// By these, servers behind one that rewrites take another path for the request's own: IIS, and frameworks that
/// have followed it.
const PATH_OVERRIDES: [&str; 2] = ["x-original-url", "x-rewrite-url"];

fn is_one_of(fields: &[&str], name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with('x') && fields.iter().any(|own| is_one_field(own, name))
}

/// Where an origin may take a field for the target, that is the target.
fn check_other_targets(parts: &Parts) -> Result<(), Refusal> {
    for (name, value) in parts.headers.iter().filter(|(name, _)| is_one_of(&PATH_OVERRIDES, name)) {
        let target = value.to_str().ok().and_then(|text| text.trim().parse::<Uri>().ok());
        if target.as_ref().and_then(Uri::path_and_query) != parts.uri.path_and_query() {
            let detail = format!(
                "The field {name} asks for another target than the request's own; send it without"
            );
            return Err(Refusal::with_detail(Code::BadRequest, detail));
        }
    }
    Ok(())
}

/// Whether two names are one field to CGI and all that follow it, which make `_` of `-`, and some of `.`: what
/// comes under both they join, or take the last.
#[must_use]
pub fn is_one_field(one: &str, other: &str) -> bool {
    let settled = |b: u8| if matches!(b, b'_' | b'.') { b'-' } else { b };
    one.len() == other.len() && one.bytes().map(settled).eq(other.bytes().map(settled))
}

fn other_methods(headers: &HeaderMap, query: Option<&str>) -> Result<Vec<Method>, Refusal> {
    let mut methods = Vec::new();
    for (_, value) in headers.iter().filter(|(name, _)| is_one_of(&METHOD_OVERRIDES, name)) {
        // Whoever follows the field takes it in any case.
        let method = value.as_bytes().trim_ascii().to_ascii_uppercase();
        let method = Method::from_bytes(&method).map_err(|_| {
            Refusal::with_detail(Code::BadRequest, "A field asks for a method that is none")
        })?;
        check_other_method(&method)?;
        methods.push(method);
    }
    if let Some(query) = query {
        in_parameters(query, &mut methods)?;
    }
    Ok(methods)
}

/// The same for a method that is asked for beside the request's own: what is to go is not the method.
fn check_other_method(method: &Method) -> Result<(), Refusal> {
    check_method(method).map_err(|refusal| {
        let detail = "A field or a parameter asks for a method that is never forwarded, such as X-HTTP-Method-Override: TRACE; send it without";
        Refusal::with_detail(refusal.code, detail).because(reason::OTHER_METHOD)
    })
}

/// What a query asks for beside the request's own method, in any of the ways in which its parameters are read.
///
/// # Errors
/// `method-refused` for what is never forwarded, and for fields that a parameter asks for: Google's front ends take
/// an override from there as well.
fn in_parameters(query: &str, methods: &mut Vec<Method>) -> Result<(), Refusal> {
    for pair in query.split(['&', ';']) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // Of nearly all names nothing is to be read twice.
        if !name.contains(['%', '+']) && !is_asking(name.as_bytes()) {
            continue;
        }
        let (mut name, mut value) = (decoded(name.as_bytes()), decoded(value.as_bytes()));
        // However often it is decoded.
        for _ in 0..DECODINGS {
            if is_named(&name, HEADERS_PARAMETER) {
                let detail = "The parameter $httpHeaders asks for fields; send them as fields";
                return Err(Refusal::with_detail(Code::MethodRefused, detail));
            }
            if is_asking(&name) {
                let method = known_method(settled(&value));
                if let Some(method) = method.filter(|method| !methods.contains(method)) {
                    check_other_method(&method)?;
                    methods.push(method);
                }
            }
            if !name.contains(&b'%') && !value.contains(&b'%') {
                break;
            }
            (name, value) = (decoded(&name), decoded(&value));
        }
    }
    Ok(())
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let blanks: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    percent_encoding::percent_decode(&blanks).collect()
}

/// A method of HTTP's. Any other text is somebody's own.
fn known_method(text: &[u8]) -> Option<Method> {
    let method = Method::from_bytes(&text.to_ascii_uppercase()).ok()?;
    let known = method.is_safe()
        || method.is_idempotent()
        || matches!(method, Method::POST | Method::PATCH | Method::CONNECT);
    known.then_some(method)
}

/// A text without what some origins leave out: what follows a NUL, which ends it in C and in names of PHP, and
/// what is blank around it.
pub(crate) fn settled(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    text[..end].trim_ascii()
}

/// Whether some origin takes a parameter for the one that is asked for: by its very name, in another
/// case, as an array of it or a part (`service[]`, `service[0]`, `[service]`), or as PHP has names, in which a blank,
/// `.` and `[` are `_`.
pub(crate) fn is_named(name: &[u8], wanted: &[u8]) -> bool {
    let (name, wanted) = (settled(name), settled(wanted));
    let bracket = |b: &u8| matches!(b, b'[' | b']');
    let base = name.strip_prefix(b"[").unwrap_or(name).split(bracket).next().unwrap_or(name);
    let in_php =
        |b: u8| if matches!(b, b' ' | b'.' | b'[') { b'_' } else { b.to_ascii_lowercase() };
    let same = |name: &[u8]| {
        name.len() == wanted.len() && name.iter().zip(wanted).all(|(a, b)| in_php(*a) == in_php(*b))
    };
    same(name) || same(base.trim_ascii())
}

/// Whether the bytes of the request had one meaning, by whoever saw them before they were read.
///
/// # Errors
/// `bad-request`.
pub fn check_seen(extensions: &Extensions) -> Result<(), Refusal> {
    extensions
        .get::<Odd>()
        .map_or(Ok(()), |odd| Err(Refusal::with_detail(Code::BadRequest, odd.detail())))
}

/// One framing, or none (RFC 9112 section 6.3): the message ends where both sides think it does.
fn check_framing(parts: &Parts) -> Result<(), Refusal> {
    let refuse = |detail: &'static str| Err(Refusal::with_detail(Code::BadRequest, detail));
    let count = |name: HeaderName| parts.headers.get_all(name).iter().count();
    let lengths = count(header::CONTENT_LENGTH);
    let codings = count(header::TRANSFER_ENCODING);
    if lengths > 1 || codings > 1 || (lengths > 0 && codings > 0) {
        return refuse("The request has more than one Content-Length or Transfer-Encoding");
    }
    if let Some(coding) = parts.headers.get(header::TRANSFER_ENCODING) {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !chunked || parts.version != Version::HTTP_11 {
            return refuse("The only transfer coding is `chunked`, on HTTP/1.1");
        }
    }
    if let Some(length) = parts.headers.get(header::CONTENT_LENGTH)
        && !length.as_bytes().iter().all(u8::is_ascii_digit)
    {
        return refuse("Content-Length is not a number");
    }
    Ok(())
}

/// Host, `:authority`, an absolute target and the tunnel name one authority (RFC 9110 section 7.2).
fn check_authority(parts: &Parts, origin: &Origin) -> Result<(), Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => {
            return Err(Refusal::with_detail(Code::BadRequest, "The request has two Host fields"));
        }
        (Some(host), None) => {
            let host = host.to_str().map_err(|_| Refusal::new(Code::BadRequest))?;
            same_authority(host, origin)?;
        }
        (None, _) => {
            // HTTP/1.0 needs no Host, and HTTP/2 has `:authority`.
            let named = match parts.version {
                Version::HTTP_11 => false,
                Version::HTTP_2 => parts.uri.authority().is_some(),
                _ => true,
            };
            if !named {
                return Err(Refusal::with_detail(Code::BadRequest, "The request has no Host"));
            }
        }
    }
    match parts.uri.authority() {
        Some(authority) => {
            let scheme_differs =
                parts.uri.scheme_str().is_some_and(|s| s != origin.scheme.as_str());
            if scheme_differs {
                return Err(mismatch(parts.uri.scheme_str().unwrap_or_default(), origin));
            }
            same_authority(authority.as_str(), origin)
        }
        None => Ok(()),
    }
}

fn same_authority(text: &str, origin: &Origin) -> Result<(), Refusal> {
    // Nearly every client writes the one canonical form, which needs no reading.
    let default = origin.authority.port == origin.scheme.default_port();
    if default && origin.authority.host.name() == Some(text) {
        return Ok(());
    }
    let authority = parse_authority(text, origin.scheme)?;
    if authority == origin.authority { Ok(()) } else { Err(mismatch(text, origin)) }
}

fn mismatch(text: &str, origin: &Origin) -> Refusal {
    // The right host, and a tunnel for TLS that was not begun.
    let in_the_clear =
        origin.scheme == Scheme::Http && origin.authority.port == Scheme::Https.default_port();
    if in_the_clear && origin.authority.host.name() == Some(text) {
        let detail =
            format!("The request came without TLS, in a tunnel to port {}", origin.authority.port);
        return Refusal::with_detail(Code::AuthorityMismatch, detail);
    }
    let shown: String = text.chars().filter(char::is_ascii_graphic).take(80).collect();
    Refusal::with_detail(
        Code::AuthorityMismatch,
        format!("The request names {shown}, its tunnel goes to {origin}"),
    )
}

const RUN: HeaderName = HeaderName::from_static("locum-run");
const NODE: HeaderName = HeaderName::from_static("locum-node");
const USER: HeaderName = HeaderName::from_static("locum-user");

/// What our own fields say of the run.
///
/// # Errors
/// `bad-request` when a value is no [`Label`](crate::agent::Label).
pub fn read_context(headers: &HeaderMap) -> Result<Context, Refusal> {
    Ok(Context {
        run: label(headers, &RUN)?,
        node: label(headers, &NODE)?,
        user: label(headers, &USER)?,
    })
}

/// Takes our own fields out of the request: they are for the record, and never forwarded.
fn take_context(headers: &mut HeaderMap) -> Result<Context, Refusal> {
    if !headers.keys().any(is_ours) {
        return Ok(Context::default());
    }
    let context = read_context(headers)?;
    strip_own(headers);
    Ok(context)
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with("locum-")
}

fn strip_own(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().filter(|n| is_ours(n)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn label(headers: &HeaderMap, name: &HeaderName) -> Result<Option<crate::agent::Label>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    let refuse = || Refusal::with_detail(Code::BadRequest, format!("{name} has a bad value"));
    parsed.map(Some).ok_or_else(refuse)
}

/// Fields that belong to one connection (RFC 9110 section 7.6.1), beside those `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// The fields that `Connection` names, which belong to this connection alone.
fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
}

/// A reference that went with its field would be a call without its secret, and nobody would know why.
fn keep_references(headers: &HeaderMap) -> Result<(), Refusal> {
    let refers = |name: HeaderName| {
        let mut values = headers.get_all(&name).iter();
        values.any(|value| name == header::AUTHORIZATION || reference::occurs(value.as_bytes()))
    };
    if named_by_connection(headers).any(refers) {
        let detail =
            "The Connection field names a field that holds a reference, and would take it away";
        return Err(Refusal::with_detail(Code::BadRequest, detail));
    }
    Ok(())
}

/// Removes the hop-by-hop fields. This runs before anything is injected, so a client that lists the
/// credential's header under `Connection` removes its own text and not the secret.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = named_by_connection(headers)
        // Framing and authority were checked, and are not the client's to take away.
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    // `TE: trailers` is the one value that HTTP/2 and gRPC need end to end.
    let wants_trailers = |v: &http::HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"trailers");
    if !headers.get_all(header::TE).iter().all(wants_trailers) {
        headers.remove(header::TE);
    }
}

/// What may not stand behind a body (RFC 9110 section 6.5.1): it frames or routes the message, shows who
/// sends it, changes what is asked, or says how the body is to be read. Many servers merge what they get
/// there into the head, where all of this was decided on.
const NOT_IN_TRAILERS: [HeaderName; 20] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::MAX_FORWARDS,
    header::PRAGMA,
    header::RANGE,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
];

/// Removes from the fields behind a body what belongs to a head, to one connection, to us, or `is_slot`
/// of a credential: exactly one copy of that goes out.
pub fn strip_trailers(trailers: &mut HeaderMap, is_slot: impl Fn(&HeaderName) -> bool) {
    strip_hop_by_hop(trailers);
    let of_a_head = |name: &HeaderName| {
        NOT_IN_TRAILERS.iter().any(|own| is_one_field(own.as_str(), name.as_str()))
    };
    let overrides =
        |name: &HeaderName| is_one_of(&METHOD_OVERRIDES, name) || is_one_of(&PATH_OVERRIDES, name);
    let goes =
        |name: &&HeaderName| is_ours(name) || of_a_head(name) || overrides(name) || is_slot(name);
    let names: Vec<HeaderName> = trailers.keys().filter(goes).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Writes the two fields with which each hop asks the next for a WebSocket, on a head that has been
/// stripped of what the hop before it said.
pub fn ask_for_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// HTTP/2 may send a cookie in pieces; to all that is not HTTP/2 they are one field (RFC 9113 section
/// 8.2.3), and what is looked at is what is sent.
fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (pieces.next(), pieces.next()) else { return };
    let mut whole = first.as_bytes().to_vec();
    for piece in headers.get_all(header::COOKIE).iter().skip(1) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(piece.as_bytes());
    }
    // Joined of values, it is one.
    if let Ok(whole) = http::HeaderValue::try_from(whole) {
        headers.insert(header::COOKIE, whole);
    }
}

/// Brings the target to origin-form and sees to it that there is a Host: what goes upstream names
/// the authority once.
fn settle_target(parts: &mut Parts, origin: &Origin) -> Result<(), Refusal> {
    // The authority form is for CONNECT alone (RFC 9112 section 3.2.3); of the path it says nothing.
    if parts.uri.authority().is_some() && parts.uri.scheme().is_none() {
        return Err(Refusal::with_detail(Code::BadRequest, "The target is a host without a path"));
    }
    if parts.uri.authority().is_some() {
        let path = parts.uri.path_and_query().cloned();
        let path = path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
    let asterisk = parts.uri.path() == "*" && parts.method == Method::OPTIONS;
    if !parts.uri.path().starts_with('/') && !asterisk {
        return Err(Refusal::with_detail(Code::BadRequest, "The path does not start with `/`"));
    }
    if !parts.headers.contains_key(header::HOST) {
        let default = origin.authority.port == origin.scheme.default_port();
        let host =
            if default { origin.authority.host.to_string() } else { origin.authority.to_string() };
        let host = host.parse().map_err(|_| Refusal::new(Code::BadRequest))?;
        parts.headers.insert(header::HOST, host);
    }
    Ok(())
}

/// What some origin could make of `path`, other than `path` itself. Servers differ in how often
/// they decode, whether they resolve dot segments before or after, merge slashes, take `\` for `/`
/// and cut `;parameters`; each combination is one reading.
pub(crate) fn readings(path: &str) -> Result<Vec<String>, Refusal> {
    let plain = path.is_ascii()
        && !path.contains(['%', '\\', ';'])
        && !path.contains("//")
        && !path.contains("/.")
        && !path.contains("./")
        && !path.ends_with('.');
    if plain {
        return Ok(Vec::new());
    }
    refuse_traps(path)?;
    let mut found: Vec<String> = Vec::new();
    let mut room = READINGS_BYTES;
    for text in &decodings(path)? {
        let folded = fold(text);
        let folded = Some(folded).filter(|folded| folded != text);
        for text in [Some(text), folded.as_ref()].into_iter().flatten() {
            for options in 0..32_u8 {
                let reading = reread(text, options);
                if reading != path && !found.contains(&reading) {
                    room = room.checked_sub(reading.len()).ok_or_else(too_many)?;
                    if found.len() == READINGS {
                        return Err(too_many());
                    }
                    found.push(reading);
                }
            }
        }
    }
    Ok(found)
}

/// The most readings that a path may have. One with a trick of each kind in it has a few dozen.
const READINGS: usize = 128;

/// How many bytes they may have together: a request that waits holds them.
const READINGS_BYTES: usize = 256 << 10;

fn too_many() -> Refusal {
    Refusal::new(Code::AmbiguousPath).because("the path can be read in too many ways")
}

/// How often an origin, and the proxies before it, may decode a path.
const DECODINGS: usize = 4;

/// A path as it is and however often it is decoded, each time with `%u002e` or without.
fn decodings(path: &str) -> Result<Vec<String>, Refusal> {
    let mut texts = vec![path.to_owned()];
    let mut done = 0;
    for _ in 0..=DECODINGS {
        let last = texts.len();
        for at in done..last {
            let text = &texts[at];
            let plain = percent_encoding::percent_decode_str(text).collect();
            let wide = has_wide(text.as_bytes()).then(|| decode_wide(text.as_bytes()));
            for next in std::iter::once(plain).chain(wide) {
                let next = String::from_utf8_lossy(&next).into_owned();
                if !texts.contains(&next) {
                    texts.push(next);
                }
            }
        }
        if texts.len() == last {
            return Ok(texts);
        }
        done = last;
    }
    Err(Refusal::new(Code::AmbiguousPath).because("the path is encoded too often"))
}

/// How long `%u002e` is.
const WIDE: usize = 6;

/// What `%u002e` at the beginning of a text stands for, to those who read it.
fn wide(text: &[u8]) -> Option<char> {
    let [b'%', b'u' | b'U', digits @ ..] = text.get(..WIDE)? else { return None };
    let digit = |code: u32, b: &u8| Some(code * 16 + char::from(*b).to_digit(16)?);
    digits.iter().try_fold(0, digit).and_then(char::from_u32)
}

/// Whether `%u002e` or its like stands in a text.
pub(crate) fn has_wide(text: &[u8]) -> bool {
    memchr::memchr_iter(b'%', text).any(|at| wide(&text[at..]).is_some())
}

/// Decodes a text as classic ASP, IIS and some firewalls do, which read `%u002e` beside the percent-encoding of
/// RFC 3986.
pub(crate) fn decode_wide(text: &[u8]) -> Vec<u8> {
    let (mut out, mut done) = (Vec::with_capacity(text.len()), 0);
    for at in memchr::memchr_iter(b'%', text) {
        if let Some(read) = wide(&text[at..]) {
            out.extend(percent_encoding::percent_decode(&text[done..at]));
            out.extend_from_slice(read.encode_utf8(&mut [0; 4]).as_bytes());
            done = at + WIDE;
        }
    }
    out.extend(percent_encoding::percent_decode(&text[done..]));
    out
}

/// The characters that become a dot, a slash or a backslash where text is normalised (UAX 15, NFKC)
/// or squeezed into a code page.
fn fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{ff0e}' | '\u{2024}' | '\u{fe52}' => out.push('.'),
            '\u{2025}' => out.push_str(".."),
            '\u{ff0f}' | '\u{2044}' | '\u{2215}' => out.push('/'),
            '\u{ff3c}' | '\u{fe68}' | '\u{2216}' => out.push('\\'),
            c => out.push(c),
        }
    }
    out
}

/// Bytes that no origin needs and some stumble over: NUL ends a C string, and overlong UTF-8 is a
/// slash to decoders that do not check (RFC 3629 section 10).
fn refuse_traps(path: &str) -> Result<(), Refusal> {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..DECODINGS {
        bytes = decode_wide(&bytes);
        let nul = bytes.contains(&0);
        let overlong = bytes.iter().any(|b| matches!(b, 0xC0 | 0xC1 | 0xF5..=0xFF))
            || bytes.windows(2).any(|w| {
                (w[0] == 0xE0 && (0x80..0xA0).contains(&w[1]))
                    || (w[0] == 0xF0 && (0x80..0x90).contains(&w[1]))
            });
        if nul || overlong {
            return Err(
                Refusal::new(Code::AmbiguousPath).because("NUL or overlong UTF-8 in the path")
            );
        }
    }
    Ok(())
}

/// Reads `text` as an origin with these habits would.
fn reread(text: &str, options: u8) -> String {
    let backslashes = options & 1 != 0;
    let parameters = options & 2 != 0;
    let merge = options & 4 != 0;
    let dots = options & 8 != 0;
    let ends = options & 16 != 0;
    let text = if backslashes { text.replace('\\', "/") } else { text.to_owned() };
    // Once decoded, what was part of a name ends the path for whoever reads it again.
    let text = if ends { text.split(['?', '#']).next().unwrap_or_default() } else { &text };
    let mut segments: Vec<&str> = Vec::new();
    let last = text.split('/').count() - 1;
    for (i, segment) in text.split('/').enumerate() {
        let segment =
            if parameters { segment.split(';').next().unwrap_or_default() } else { segment };
        // Some trim what is blank at the end of a name, Windows among them.
        let name = segment.trim_end_matches(|c| c <= ' ');
        let bare = name.trim_end_matches(['.', ' ']);
        let segment = if ends && !bare.is_empty() { bare } else { segment };
        match if dots && (name == "." || name == "..") { name } else { segment } {
            // But for the root, and for the slash that a path ends with.
            "" if merge && i > 0 && i < last => {}
            "." if dots => {}
            ".." if dots => {
                // The first, empty segment is the root, and stays.
                if segments.len() > 1 {
                    segments.pop();
                }
            }
            _ => segments.push(segment),
        }
    }
    let end = text.trim_end_matches(|c| c <= ' ');
    if dots && (end.ends_with("/.") || end.ends_with("/..")) {
        segments.push("");
    }
    if segments.len() < 2 {
        return "/".to_owned();
    }
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn origin() -> Origin {
        Origin { scheme: Scheme::Https, authority: Authority::parse("api.test:443", None).unwrap() }
    }

    fn request(target: &str, fields: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().uri(target);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn parse(target: &str, fields: &[(&str, &str)]) -> Result<InboundRequest, Refusal> {
        InboundRequest::parse(request(target, fields), &origin())
    }

    fn code(target: &str, fields: &[(&str, &str)]) -> Option<Code> {
        parse(target, fields).err().map(|r| r.code)
    }

    #[test]
    fn every_spelling_of_the_tunnels_host_is_one_host() {
        for host in ["api.test", "API.test", "api.test:443", "api.test.", "api.test.:443"] {
            assert_eq!(code("/", &[("host", host)]), None, "{host}");
        }
        for (host, why) in [
            ("evil.test", Code::AuthorityMismatch),
            ("api.test:8443", Code::AuthorityMismatch),
            ("api.test:80", Code::AuthorityMismatch),
            ("api.test@evil.test", Code::BadRequest),
            ("evil.test#api.test", Code::BadRequest),
            ("", Code::BadRequest),
        ] {
            assert_eq!(code("/", &[("host", host)]), Some(why), "{host}");
        }
        assert_eq!(code("/", &[]), Some(Code::BadRequest));
        assert_eq!(
            code("/", &[("host", "api.test"), ("host", "api.test")]),
            Some(Code::BadRequest)
        );
    }

    #[test]
    fn a_request_in_the_clear_where_tls_is_spoken_is_told_so() {
        let authority = Authority::parse("api.test:443", None).unwrap();
        let origin = Origin { scheme: Scheme::Http, authority };
        let told = |host: &str| {
            let refusal =
                InboundRequest::parse(request("/", &[("host", host)]), &origin).err().unwrap();
            assert_eq!(refusal.code, Code::AuthorityMismatch);
            refusal.detail.to_string()
        };
        assert_eq!(told("api.test"), "The request came without TLS, in a tunnel to port 443");
        assert!(told("evil.test").starts_with("The request names evil.test"));
    }

    #[test]
    fn an_absolute_target_must_agree_too() {
        let host = [("host", "api.test")];
        assert_eq!(parse("https://api.test/v1?q=1", &host).unwrap().path(), "/v1");
        assert_eq!(code("https://evil.test/v1", &host), Some(Code::AuthorityMismatch));
        assert_eq!(code("http://api.test:443/v1", &host), Some(Code::AuthorityMismatch));
        for alone in ["api.test", "api.test:443"] {
            assert_eq!(code(alone, &host), Some(Code::BadRequest), "{alone}");
        }
    }

    #[test]
    fn framing_with_two_meanings_is_refused() {
        for fields in [
            &[("content-length", "1"), ("content-length", "2")][..],
            &[("content-length", "1"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "identity")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "xchunked")],
            &[("content-length", "+1")],
            &[("content-length", "1, 1")],
        ] {
            let all: Vec<_> = [("host", "api.test")].iter().chain(fields).copied().collect();
            assert_eq!(code("/", &all), Some(Code::BadRequest), "{fields:?}");
        }
    }

    #[test]
    fn our_fields_and_hop_by_hop_fields_do_not_go_on() {
        let request = parse(
            "/",
            &[
                ("host", "api.test"),
                ("locum-run", "42"),
                ("locum-user", "alice"),
                ("locum-anything", "x"),
                ("proxy-authorization", "Basic eDp5"),
                ("connection", "close, X-Secret, Host"),
                ("x-secret", "1"),
                ("te", "gzip"),
                ("x-kept", "1"),
            ],
        )
        .unwrap();
        let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["host", "x-kept"]);
        for (codings, kept) in [(&["trailers"][..], true), (&["trailers", "gzip"], false)] {
            let fields = codings.iter().map(|coding| ("te", *coding));
            let fields: Vec<_> = fields.chain([("host", "api.test")]).collect();
            let request = parse("/", &fields).unwrap();
            assert_eq!(request.headers().contains_key("te"), kept, "{codings:?}");
        }
        assert_eq!(request.context().run.as_ref().unwrap().as_str(), "42");
        assert_eq!(
            code("/", &[("host", "api.test"), ("locum-run", "a b")]),
            Some(Code::BadRequest)
        );
    }

    #[test]
    fn what_belongs_to_a_head_does_not_go_on_behind_a_body() {
        let mut trailers = HeaderMap::new();
        for name in [
            "host",
            "content-length",
            "transfer-encoding",
            "authorization",
            "cookie",
            "x-api-key",
            "proxy-authorization",
            "locum-run",
            "x-http-method-override",
            "x-original-url",
            "content-type",
            "content_type",
            "te",
            "grpc-status",
            "x-amz-trailer-signature",
            "x-checksum",
        ] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        strip_trailers(&mut trailers, |name| name == "x-api-key");
        let mut names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["grpc-status", "x-amz-trailer-signature", "x-checksum"]);
    }

    #[test]
    fn upgrades_and_reflecting_methods_are_refused() {
        let host = ("host", "api.test");
        assert_eq!(code("/", &[host, ("upgrade", "foo")]), Some(Code::UpgradeRefused));
        assert_eq!(code("/", &[host, ("upgrade", "h2c")]), None);
        for method in
            ["TRACE", "TRACK", "track", "CONNECT", "Trace", "Connect", "get", "dELETE", "purge"]
        {
            let mut parts = request("/", &[("host", "api.test")]);
            parts.method = method.parse().unwrap();
            let refused = InboundRequest::parse(parts, &origin()).unwrap_err();
            assert_eq!(refused.code, Code::MethodRefused, "{method}");
        }
    }

    #[test]
    fn fields_that_ask_for_another_method_are_read() {
        let ask = |value| parse("/", &[("host", "api.test"), ("x-http-method-override", value)]);
        assert_eq!(ask("delete").unwrap().other_methods(), [Method::DELETE]);
        assert_eq!(ask("TRACE").unwrap_err().code, Code::MethodRefused);
        assert_eq!(ask("PUT, DELETE").unwrap_err().code, Code::BadRequest);
        let host = ("host", "api.test");
        for name in ["x_http_method_override", "x-original-method", "x_method-override"] {
            let asked = parse("/", &[host, (name, "PUT")]).unwrap();
            assert_eq!(asked.other_methods(), [Method::PUT], "{name}");
        }
        for (target, methods) in [
            ("/?_method=delete", vec![Method::DELETE]),
            ("/?a=b&%5Fmethod=PATCH&c", vec![Method::PATCH]),
            ("/?.method=DELETE", vec![Method::DELETE]),
            ("/?+_method=DELETE", vec![Method::DELETE]),
            ("/?%20_method=+delete", vec![Method::DELETE]),
            ("/?_method%00x=DELETE", vec![Method::DELETE]),
            ("/?%5B_method%5D=DELETE", vec![Method::DELETE]),
            ("/?a;_method=DELETE", vec![Method::DELETE]),
            ("/?%255fmethod=%2544ELETE", vec![Method::DELETE]),
            ("/?$httpMethod=DELETE", vec![Method::DELETE]),
            ("/?%24httpMethod=DELETE&_method=PUT", vec![Method::DELETE, Method::PUT]),
            ("/?_method=list&method=PUT&x_method=PUT&_method", vec![]),
        ] {
            assert_eq!(parse(target, &[host]).unwrap().other_methods(), methods, "{target}");
        }
        assert!(parse("/", &[host]).unwrap().other_methods().is_empty());
        for target in ["/?$httpHeaders=X-HTTP-Method-Override:DELETE", "/?_method=trace"] {
            assert_eq!(code(target, &[host]), Some(Code::MethodRefused), "{target}");
        }
    }

    #[test]
    fn a_field_that_asks_for_another_target_is_refused() {
        let ask = |name, value| parse("/public?a=b", &[("host", "api.test"), (name, value)]);
        for (name, value) in [
            ("x-original-url", "/admin"),
            ("x-original-url", "/public"),
            ("x-original-url", "/public?a=c"),
            ("x_rewrite_url", "/admin"),
            ("x-rewrite-url", "https://other.test/admin"),
            ("x.original.url", "/a/../admin"),
            ("x-original-url", ""),
            ("x-original-url", "public?a=b"),
            ("x-original-url", "/\u{fc}"),
        ] {
            assert_eq!(ask(name, value).unwrap_err().code, Code::BadRequest, "{name}: {value}");
        }
        for (name, value) in [
            ("x-original-url", " /public?a=b"),
            ("x-rewrite-url", "https://api.test/public?a=b"),
            ("x-original-uri", "/admin"),
        ] {
            assert!(ask(name, value).is_ok(), "{name}: {value}");
        }
    }

    #[test]
    fn plain_paths_have_one_reading_and_tricky_ones_have_more() {
        let readings =
            |p: &str| parse(p, &[("host", "api.test")]).unwrap().other_readings().to_vec();
        assert_eq!(readings("/v1/chat/completions?x=/../"), [""; 0]);
        assert!(readings("/public/../admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/%2e%2e/admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/%252e%252e/admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/%25252e%25252e/admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/%u002e%u002e/admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/%25u002e%U002e/admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/%u002e%2e/admin").contains(&"/admin".to_owned()));
        // One that does not read it decodes all else.
        for read in ["/admin/a%u002fb", "/admin/a/b"] {
            assert!(readings("/public/%2e%2e/admin/a%u002fb").contains(&read.to_owned()), "{read}");
        }
        assert_eq!(readings("/50%u00/%u+041"), [""; 0]);
        assert!(readings("/public/%ef%bc%8e%ef%bc%8e/admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/..%e2%88%95admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/..%20/admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/..%0d%0a/admin").contains(&"/admin".to_owned()));
        assert_eq!(
            code("/%2525252525252e", &[("host", "api.test")]),
            Some(Code::AmbiguousPath),
            "encoded more often than anybody means"
        );
        assert!(readings("/public/..;/admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/..%5cadmin").contains(&"/admin".to_owned()));
        assert!(readings("//admin").contains(&"/admin".to_owned()));
        assert!(readings("/a//b").contains(&"/a/b".to_owned()));
        assert!(readings("/a///b//").contains(&"/a/b/".to_owned()));
        // Servers that merge slashes do so before they resolve dots.
        assert!(readings("/public//../admin").contains(&"/admin".to_owned()));
        assert!(readings("/public/%2f../admin").contains(&"/admin".to_owned()));
        assert!(readings("/admin;a=b/x").contains(&"/admin/x".to_owned()));
        assert!(readings("/a/%2E").contains(&"/a/".to_owned()));
        assert!(readings("/@scope%2Fname").contains(&"/@scope/name".to_owned()));
        // A trick of each kind, each encoded up to four times: 903 readings of 16 KB each.
        let mut tricks = String::new();
        for times in 0..4 {
            let percent = format!("%{}", "25".repeat(times));
            tricks += &format!(
                "/a{times};b//c{percent}5Cd/./e{percent}EF{percent}BC{percent}8Ff/g{percent}20/i{percent}uff0e/{percent}u0041"
            );
        }
        let long = format!("/{}{tricks}%3Fj", "a".repeat(16_000));
        let refused = parse(&long, &[("host", "api.test")]).unwrap_err();
        assert_eq!(refused.reason, Some("the path can be read in too many ways"));
        for trap in ["/a%00b", "/a%c0%afb", "/a%25c0%25af", "/%e0%80%af"] {
            assert_eq!(code(trap, &[("host", "api.test")]), Some(Code::AmbiguousPath), "{trap}");
        }
    }

    #[test]
    fn the_target_is_origin_form_and_has_a_host() {
        let mut parts = request("/x", &[]);
        parts.version = Version::HTTP_10;
        let request = InboundRequest::parse(parts, &origin()).unwrap();
        assert_eq!(request.headers()["host"], "api.test");
        assert_eq!(code("*", &[("host", "api.test")]), Some(Code::BadRequest));
    }
}
