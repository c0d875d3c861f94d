//! What the harness's origin answers: like the providers' APIs, and like origins that hand back what
//! they were sent.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::git;
use super::origin::{KEPT, Seen, State};
use super::tools::basic;

pub type Body = http_body_util::combinators::BoxBody<Bytes, io::Error>;

/// Notes the request, and answers it.
pub async fn answer(
    state: &Arc<State>,
    connection: usize,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let number = state.note(Seen {
        connection,
        version: format!("{:?}", parts.version),
        method: parts.method.to_string(),
        target: target(&parts),
        headers: fields(&parts.headers),
        ..Seen::default()
    });
    let path = parts.uri.path();
    let open = path.strip_prefix("/open");
    let shown = presented(&parts);
    let keys = state.keys.lock().clone();
    let key = shown.into_iter().find(|key| open.is_some() || keys.contains(key));
    if open.is_none() && key.is_none() {
        return unauthorized(state);
    }
    let path = open.unwrap_or(path).to_owned();
    // What shows that the answer does not wait for the request's end comes before it is read.
    if path == "/early" {
        return text(StatusCode::OK, "early");
    }
    let body = receive(state, number, body).await;
    let answer = key.as_ref().and_then(|key| state.answers.lock().get(key).cloned());
    if let Some((status, retry_after)) = answer {
        let mut response = empty(StatusCode::from_u16(status).unwrap());
        if let Some(wait) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, wait.parse().unwrap());
        }
        return response;
    }
    let next = key.as_ref().and_then(|_| state.next.lock().pop_front());
    if let Some((status, retry_after, body)) = next {
        let mut response = text(StatusCode::from_u16(status).unwrap(), &body);
        if let Some(wait) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, wait.parse().unwrap());
        }
        return response;
    }
    let file = state.site.lock().get(parts.uri.path()).cloned();
    if let Some((kind, bytes)) = file {
        let mut response = whole(StatusCode::OK, bytes);
        response.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
        return response;
    }
    let mut response = route(state, &path, &parts, &body, key.unwrap_or_default()).await;
    // On HTTP/2 hyper leaves this to its user.
    if parts.method == http::Method::HEAD {
        *response.body_mut() = empty(StatusCode::OK).into_body();
    }
    response
}

/// The target as HTTP/1.1 writes it; HTTP/2 has its parts in fields of their own.
fn target(parts: &Parts) -> String {
    let path = parts.uri.path_and_query().filter(|_| parts.version == http::Version::HTTP_2);
    path.map_or_else(|| parts.uri.to_string(), ToString::to_string)
}

async fn route(
    state: &Arc<State>,
    path: &str,
    parts: &Parts,
    body: &[u8],
    key: String,
) -> Response<Body> {
    let mut segments = path.trim_start_matches('/').splitn(2, '/');
    let (first, rest) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    match first {
        "v1" if rest == "chat/completions" => openai(state, body, &key),
        "v1" if rest == "messages" => anthropic(state, body, &key),
        "echo" if rest.is_empty() => echo(parts, body, &key),
        "echo" => whole(StatusCode::OK, framed(&encode(rest, &key))),
        "shown" => whole(StatusCode::OK, framed(&encode(rest, &head(parts)))),
        "target" => text(StatusCode::OK, &target(parts)),
        "kept" => {
            let keys: Vec<String> = state.keys.lock().iter().cloned().collect();
            whole(StatusCode::OK, framed(keys.concat().as_bytes()))
        }
        "echo-header" => with_header("x-echo", &encode(rest, &key)),
        "echo-cookie" => with_header("set-cookie", format!("session={key}; Path=/").as_bytes()),
        "echo-long" => whole(StatusCode::OK, long(&encode(rest, &key))),
        "echo-chunked" => pieces(vec![framed(&encode(rest, &key))]),
        "echo-trailer" => trailer(&encode(if rest.is_empty() { "raw" } else { rest }, &key)),
        "drip" => pieces(framed(&encode(rest, &key)).iter().map(|b| vec![*b]).collect()),
        "grpc" => grpc(),
        "coded" => coded(rest, &key),
        "abort" => abort(Some(1000)),
        "abort-long" => abort(Some(1_000_000)),
        "abort-chunked" => abort(None),
        "bytes" => download(rest.parse().unwrap()),
        "events" => events(state, rest.parse().unwrap()),
        "hold" => {
            state.pass().await;
            text(StatusCode::OK, "held")
        }
        "status" => empty(StatusCode::from_u16(rest.parse().unwrap()).unwrap()),
        "redirect" => {
            let mut response = empty(StatusCode::FOUND);
            let to = parts.uri.query().unwrap().parse().unwrap();
            response.headers_mut().insert(header::LOCATION, to);
            response
        }
        "git" => git::serve(state, rest, parts, body).await,
        _ => text(StatusCode::OK, "ok"),
    }
}

/// The head of a request, as a debugging origin would print it.
fn head(parts: &Parts) -> String {
    let fields = fields(&parts.headers);
    let fields: String =
        fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{} {} HTTP/1.1\r\n{fields}\r\n", parts.method, target(parts))
}

/// The keys that a request could be meant to show.
fn presented(parts: &Parts) -> Vec<String> {
    let mut keys = Vec::new();
    for value in parts.headers.get_all(header::AUTHORIZATION) {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match value.split_once(' ') {
            Some(("Basic", token)) => {
                let pair = BASE64.decode(token.as_bytes()).unwrap_or_default();
                let pair = String::from_utf8_lossy(&pair).into_owned();
                let (user, password) = pair.split_once(':').unwrap_or((&pair, ""));
                keys.extend([password.to_owned(), user.to_owned()]);
            }
            Some((_, token)) => {
                // Of a signature, who says that it has signed.
                let signer = token.strip_prefix("Credential=").and_then(|t| t.split('/').next());
                keys.push(signer.unwrap_or(token).to_owned());
            }
            None => keys.push(value),
        }
    }
    let exchanges = ["ok-access-key", "key", "x-mbx-apikey", "api-key"];
    for name in ["x-api-key", "x-key", "private-token"].into_iter().chain(exchanges) {
        let values = parts.headers.get_all(name).iter();
        keys.extend(values.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()));
    }
    for pair in parts.uri.query().unwrap_or_default().split('&') {
        if let Some(value) = pair.strip_prefix("key=") {
            keys.push(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into());
        }
    }
    keys
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Reads the body to its end, or to where it breaks off.
async fn receive(state: &State, number: usize, mut body: Incoming) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut length = 0;
    let mut digest = Sha256::new();
    let mut complete = true;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            complete = false;
            break;
        };
        if let Some(data) = frame.data_ref() {
            length += data.len() as u64;
            digest.update(data);
            let room = KEPT - kept.len();
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    state.amend(number, |seen| {
        seen.body.clone_from(&kept);
        seen.length = length;
        seen.digest = HEXLOWER.encode(&digest.finalize());
        seen.complete = complete;
    });
    kept
}

/// The names of the encodings that [`encode`] knows.
pub const ENCODINGS: [&str; 12] = [
    "raw",
    "base64",
    "base64-1",
    "base64-2",
    "base64url",
    "hex",
    "HEX",
    "percent",
    "percent-lower",
    "json",
    "html",
    "basic",
];

/// More of them, for bodies: the key spelled out.
pub const SPELLINGS: [&str; 14] = [
    "percent-all",
    "percent-twice",
    "json-all",
    "json-twice",
    "html-decimal",
    "html-hex",
    "html-some",
    "hex-colons",
    "numbers",
    "numbers-blank",
    "base64-lines",
    "base64-json-lines",
    "quoted-printable",
    "utf-16",
];

/// The key as an origin might show it.
pub fn encode(encoding: &str, key: &str) -> Vec<u8> {
    let text = match encoding {
        "raw" => key.to_owned(),
        "base64" => BASE64.encode(key.as_bytes()),
        "base64-1" => BASE64.encode(format!("u{key}").as_bytes()),
        "base64-2" => BASE64.encode(format!("us{key}").as_bytes()),
        "base64url" => BASE64URL_NOPAD.encode(key.as_bytes()),
        "hex" => HEXLOWER.encode(key.as_bytes()),
        "HEX" => HEXUPPER.encode(key.as_bytes()),
        "percent" => percent_unreserved(key, |b| format!("%{b:02X}")),
        "percent-lower" => percent_unreserved(key, |b| format!("%{b:02x}")),
        "json" => Value::from(key).to_string(),
        "html" => key
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&#39;"),
        "basic" => basic("user", key),
        "percent-all" => each(key, |b| format!("%{b:02X}")),
        "percent-twice" => each(key, |b| format!("%25{b:02x}")),
        "json-all" => each(key, |b| format!("\\u{b:04x}")),
        "json-twice" => each(key, |b| format!("\\\\u{b:04X}")),
        "html-decimal" => each(key, |b| format!("&#{b};")),
        "html-hex" => each(key, |b| format!("&#x{b:X};")),
        "html-some" => each(key, |b| match b {
            b if b.is_ascii_lowercase() => char::from(b).to_string(),
            b => format!("&#{b};"),
        }),
        "hex-colons" => each(key, |b| format!("{b:02x}:")),
        "numbers-blank" => each(key, |b| format!("{b}, ")).trim_end_matches(", ").to_owned(),
        "numbers" => each(key, |b| format!("{b},")),
        "base64-lines" => lines(&BASE64.encode(mail(key).as_bytes()), "\r\n"),
        "base64-json-lines" => lines(&BASE64.encode(mail(key).as_bytes()), "\\n"),
        "quoted-printable" => lines(&mail(key).replace('=', "=3D"), "=\r\n"),
        "utf-16" => each(key, |b| format!("{}\0", char::from(b))),
        other => panic!("no such encoding: {other}"),
    };
    text.into_bytes()
}

fn each(key: &str, write: impl Fn(u8) -> String) -> String {
    key.bytes().map(write).collect()
}

/// A text so long before the key that the end of a line falls into it.
fn mail(key: &str) -> String {
    format!("Dear all of you, and those who are not, the key is {key} and that is all.")
}

/// In lines of 76 characters, as MIME has them.
fn lines(text: &str, end: &str) -> String {
    let lines = text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap());
    lines.collect::<Vec<_>>().join(end)
}

fn percent_unreserved(key: &str, escape: impl Fn(u8) -> String) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    key.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { escape(b) }).collect()
}

/// What stands around the echo in bodies.
pub const BEFORE: &str = "it was: [";
pub const AFTER: &str = "] and that is all";

fn framed(echo: &[u8]) -> Vec<u8> {
    [BEFORE.as_bytes(), echo, AFTER.as_bytes()].concat()
}

/// Longer than what the proxy gathers, with the echo in the middle.
fn long(echo: &[u8]) -> Vec<u8> {
    let filling = vec![b'.'; 100_000];
    [&filling, BEFORE.as_bytes(), echo, AFTER.as_bytes(), &filling].concat()
}

/// Everything that came, in the head and the body of the answer.
fn echo(parts: &Parts, body: &[u8], key: &str) -> Response<Body> {
    let mut all = BTreeMap::new();
    for encoding in ENCODINGS {
        let text = String::from_utf8(encode(encoding, key)).unwrap();
        all.insert(encoding, json!({ "it is": text, "in words": format!("the key {text}!") }));
    }
    let value = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "headers": fields(&parts.headers).into_iter().collect::<BTreeMap<_, _>>(),
        "body": String::from_utf8_lossy(body),
        "encodings": all,
    });
    let mut response = json_answer(StatusCode::OK, &value);
    for (name, value) in &parts.headers {
        let name = HeaderName::try_from(format!("x-echo-{name}")).unwrap();
        response.headers_mut().append(name, value.clone());
    }
    response
}

fn with_header(name: &'static str, value: &[u8]) -> Response<Body> {
    let mut response = text(StatusCode::OK, "see the head");
    response.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
    response
}

fn trailer(value: &[u8]) -> Response<Body> {
    let (send, body) = channel();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-echo", HeaderValue::from_bytes(value).unwrap());
    tokio::spawn(async move {
        let _ = send.send(Ok(Frame::data(Bytes::from_static(b"see the end")))).await;
        let _ = send.send(Ok(Frame::trailers(trailers))).await;
    });
    let mut response = streaming(body, "text/plain");
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-echo"));
    response
}

/// What gRPC answers: nothing in its head announces the trailers.
fn grpc() -> Response<Body> {
    let (send, body) = channel();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("5"));
    trailers.insert("grpc-message", HeaderValue::from_static("not here"));
    tokio::spawn(async move {
        let _ = send.send(Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))).await;
        let _ = send.send(Ok(Frame::trailers(trailers))).await;
    });
    streaming(body, "application/grpc+proto")
}

/// The echo under codings that nobody asked for: `gzip,zstd/raw`. Cut short for `cut/`, in pieces for
/// `drip/`, and not under them at all for a coding that there is not.
fn coded(rest: &str, key: &str) -> Response<Body> {
    let (how, rest) = match rest.split_once('/') {
        Some((how @ ("cut" | "drip"), rest)) => (how, rest),
        _ => ("", rest),
    };
    let (codings, encoding) = rest.split_once('/').unwrap();
    let mut bytes = framed(&encode(encoding, key));
    for coding in codings.split(',') {
        bytes = code(coding, bytes);
    }
    let mut response = match how {
        "cut" => whole(StatusCode::OK, bytes[..bytes.len() - 9].to_vec()),
        "drip" => pieces(bytes.iter().map(|b| vec![*b]).collect()),
        _ => whole(StatusCode::OK, bytes),
    };
    let value = HeaderValue::from_str(codings).unwrap();
    response.headers_mut().insert(header::CONTENT_ENCODING, value);
    response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"1\""));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

fn code(coding: &str, text: Vec<u8>) -> Vec<u8> {
    let level = flate2::Compression::default();
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(&text).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(&text).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => {
            let mut out = Vec::with_capacity(zstd_safe::compress_bound(text.len()));
            zstd_safe::compress(&mut out, &text, 3).unwrap();
            out
        }
        _ => text,
    }
}

/// Breaks off in the middle of the body.
fn abort(length: Option<u64>) -> Response<Body> {
    let (send, body) = channel();
    tokio::spawn(async move {
        let _ = send.send(Ok(Frame::data(Bytes::from_static(b"the first half")))).await;
        // Until the first half is out: what breaks before the head is sent is another failure.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let _ = send.send(Err(io::Error::other("on purpose"))).await;
    });
    let mut response = streaming(body, "text/plain");
    if let Some(length) = length {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

/// What a download says, again and again: as texts are, and no run of one character.
pub const DOWNLOADED: &[u8; 36] = b"Nothing of note, (really); \"go on\". ";

/// So many bytes, made as they are sent.
fn download(length: u64) -> Response<Body> {
    let (send, body) = channel();
    tokio::spawn(async move {
        let piece = Bytes::from(DOWNLOADED.repeat(1820));
        let mut left = length;
        while left > 0 {
            let now = piece.slice(..piece.len().min(usize::try_from(left).unwrap()));
            left -= now.len() as u64;
            if send.send(Ok(Frame::data(now))).await.is_err() {
                return;
            }
        }
    });
    let mut response = streaming(body, "application/octet-stream");
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Server-sent events, each but the first after a permit of the gate.
fn events(state: &Arc<State>, count: usize) -> Response<Body> {
    sse(state, (0..count).map(|i| format!("data: {i}\n\n")).collect())
}

fn sse(state: &Arc<State>, events: Vec<String>) -> Response<Body> {
    let (send, body) = channel();
    let state = Arc::clone(state);
    tokio::spawn(async move {
        for (number, event) in events.into_iter().enumerate() {
            if number > 0 {
                state.pass().await;
            }
            if send.send(Ok(Frame::data(Bytes::from(event)))).await.is_err() {
                return;
            }
        }
    });
    streaming(body, "text/event-stream")
}

/// What the model says: words that show that the stream streams, and the key, because models say
/// anything.
fn words(key: &str) -> Vec<String> {
    vec!["one ".to_owned(), "two ".to_owned(), format!("({key}) "), "four".to_owned()]
}

fn openai(state: &Arc<State>, body: &[u8], key: &str) -> Response<Body> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    if request["stream"] != true {
        let message = json!({"role": "assistant", "content": words(key).concat()});
        return json_answer(
            StatusCode::OK,
            &json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }),
        );
    }
    let chunk = |delta: Value, end: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": end});
        let chunk = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [choice],
        });
        format!("data: {chunk}\n\n")
    };
    let mut events: Vec<String> =
        words(key).iter().map(|w| chunk(json!({ "content": w }), Value::Null)).collect();
    let last = events.last_mut().unwrap();
    last.push_str(&chunk(json!({}), json!("stop")));
    last.push_str("data: [DONE]\n\n");
    sse(state, events)
}

fn anthropic(state: &Arc<State>, body: &[u8], key: &str) -> Response<Body> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let usage = json!({"input_tokens": 1, "output_tokens": 1});
    let message = |content: Value| {
        json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
            "content": content, "stop_reason": "end_turn", "stop_sequence": null, "usage": usage,
        })
    };
    if request["stream"] != true {
        let text = json!([{"type": "text", "text": words(key).concat()}]);
        return json_answer(StatusCode::OK, &message(text));
    }
    let event = |name: &str, mut data: Value| {
        data["type"] = json!(name);
        format!("event: {name}\ndata: {data}\n\n")
    };
    let word = |text: &String| {
        let delta = json!({"type": "text_delta", "text": text});
        event("content_block_delta", json!({"index": 0, "delta": delta}))
    };
    let mut events: Vec<String> = words(key).iter().map(word).collect();
    let block = json!({"type": "text", "text": ""});
    let start = event("message_start", json!({ "message": message(json!([])) }))
        + &event("content_block_start", json!({"index": 0, "content_block": block}));
    events[0].insert_str(0, &start);
    let last = events.last_mut().unwrap();
    last.push_str(&event("content_block_stop", json!({"index": 0})));
    let delta = json!({"stop_reason": "end_turn", "stop_sequence": null});
    last.push_str(&event("message_delta", json!({"delta": delta, "usage": usage})));
    last.push_str(&event("message_stop", json!({})));
    sse(state, events)
}

fn unauthorized(state: &State) -> Response<Body> {
    let error = json!({"error": {"message": "Incorrect API key provided", "type": "auth"}});
    let mut response = json_answer(StatusCode::UNAUTHORIZED, &error);
    let challenge = state.challenge.lock().parse().unwrap();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

pub fn text(status: StatusCode, text: &str) -> Response<Body> {
    whole(status, text.as_bytes().to_vec())
}

pub fn whole(status: StatusCode, bytes: Vec<u8>) -> Response<Body> {
    let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    whole(status, Vec::new())
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = whole(status, value.to_string().into_bytes());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn pieces(pieces: Vec<Vec<u8>>) -> Response<Body> {
    let (send, body) = channel();
    tokio::spawn(async move {
        for piece in pieces {
            if send.send(Ok(Frame::data(Bytes::from(piece)))).await.is_err() {
                return;
            }
        }
    });
    streaming(body, "text/plain")
}

fn streaming(body: Piped, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body.boxed());
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// One frame at a time, so that each is a chunk and a TLS record of its own.
fn channel() -> (mpsc::Sender<Result<Frame<Bytes>, io::Error>>, Piped) {
    let (send, receive) = mpsc::channel(1);
    (send, Piped(receive))
}

pub struct Piped(mpsc::Receiver<Result<Frame<Bytes>, io::Error>>);

impl HttpBody for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx)
    }
}
