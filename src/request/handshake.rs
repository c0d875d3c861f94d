//! The client's half of a WebSocket handshake, and whether an answer is the other half (RFC 6455
//! section 4). An HTTP/2 client asks in another way (RFC 8441), which becomes the same.
//!
//! Both halves are checked here and not left to the two ends: once a 101 has passed, nothing on the
//! connection is HTTP any more, so both must have meant it, and meant the same.

use data_encoding::BASE64;
use h2::ext::Protocol;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Version};
use sha1::{Digest, Sha1};

use crate::outcome::{Code, Refusal};

/// The constant that makes a key's answer one that only a WebSocket server gives (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How long a key is: 16 bytes in base64.
const KEY: usize = 24;

/// A request to go on as a WebSocket: all that its answer is held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The one right `Sec-WebSocket-Accept`.
    accept: HeaderValue,
    /// Whether the client asked by an extended CONNECT, and so knows of no key.
    extended: bool,
}

impl Handshake {
    /// Reads a request's handshake, in either form. An extended CONNECT becomes the GET that it stands
    /// for: that is what is decided on, and what an origin gets.
    ///
    /// # Errors
    /// `upgrade-refused`.
    pub(super) fn take(parts: &mut Parts) -> Result<Option<Self>, Refusal> {
        match parts.extensions.remove::<Protocol>() {
            Some(protocol) => Self::extended(parts, &protocol).map(Some),
            None => Self::read(parts),
        }
    }

    /// RFC 8441 section 5: a CONNECT that names the protocol, and neither key nor `Connection`.
    fn extended(parts: &mut Parts, protocol: &Protocol) -> Result<Self, Refusal> {
        let websocket = protocol.as_str().eq_ignore_ascii_case("websocket");
        if !websocket || parts.method != Method::CONNECT {
            return Err(Refusal::new(Code::UpgradeRefused));
        }
        check_version(&parts.headers)?;
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| Refusal::new(Code::Internal))?;
        let key = HeaderValue::try_from(BASE64.encode(&bytes));
        let key = key.map_err(|_| Refusal::new(Code::Internal))?;
        let accept = accept_of(&key).ok_or_else(|| Refusal::new(Code::Internal))?;
        parts.headers.insert(header::SEC_WEBSOCKET_KEY, key);
        parts.method = Method::GET;
        Ok(Self { accept, extended: true })
    }

    /// Whether the client asked by an extended CONNECT. It is answered with 200, and with nothing
    /// that belongs to a connection.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.extended
    }

    /// Completes an answer that came by an extended CONNECT, whose two ends know of no key, for a client
    /// that waits for one.
    pub fn complete_answer(&self, headers: &mut HeaderMap) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept.clone());
    }

    /// Reads a request's `Upgrade`. `h2c` is an offer that may be ignored, and is; a WebSocket is
    /// understood; anything else is refused, because the client waits for it and would then send
    /// what nobody here can read.
    ///
    /// # Errors
    /// `upgrade-refused` for another protocol, and for a handshake that RFC 6455 section 4.2.1 does
    /// not allow: an origin that took it all the same would be led out of HTTP unseen.
    fn read(parts: &Parts) -> Result<Option<Self>, Refusal> {
        let mut asked = parts.headers.get_all(header::UPGRADE).iter().filter(|v| !is(v, b"h2c"));
        let Some(protocol) = asked.next() else { return Ok(None) };
        if !is(protocol, b"websocket") || parts.headers.get_all(header::UPGRADE).iter().count() > 1
        {
            return Err(Refusal::new(Code::UpgradeRefused));
        }
        let refuse = |detail: &'static str| Refusal::with_detail(Code::UpgradeRefused, detail);
        if parts.method != Method::GET || parts.version != Version::HTTP_11 {
            return Err(refuse("A WebSocket begins with a GET over HTTP/1.1"));
        }
        if !lists_upgrade(&parts.headers) {
            return Err(refuse("The handshake has an Upgrade, and no `Connection: Upgrade`"));
        }
        if announces_body(&parts.headers) {
            return Err(refuse("The handshake has a body, and could be read in two ways"));
        }
        check_version(&parts.headers)?;
        one(&parts.headers, &header::SEC_WEBSOCKET_KEY)
            .and_then(accept_of)
            .map(|accept| Some(Self { accept, extended: false }))
            .ok_or_else(|| refuse("The handshake has no Sec-WebSocket-Key of 16 bytes in base64"))
    }

    /// Whether the head of a 101 is the other half of this handshake (RFC 6455 section 4.1, from
    /// where the server's answer is validated).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_answer(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        if one(headers, &header::UPGRADE).is_none_or(|v| !is(v, b"websocket")) {
            return Err("switched to another protocol than WebSocket");
        }
        if !lists_upgrade(headers) {
            return Err("switched protocols without `Connection: Upgrade`");
        }
        // Spaces around a value are no part of it; the reader of a head has taken them off.
        if one(headers, &header::SEC_WEBSOCKET_ACCEPT) != Some(&self.accept) {
            return Err("answered the WebSocket handshake with a wrong Sec-WebSocket-Accept");
        }
        Ok(())
    }
}

fn is(value: &HeaderValue, text: &[u8]) -> bool {
    value.as_bytes().eq_ignore_ascii_case(text)
}

/// The field's value when it stands there exactly once.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn lists_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    if one(headers, &header::SEC_WEBSOCKET_VERSION).is_some_and(|v| is(v, b"13")) {
        return Ok(());
    }
    let detail = "The only version of WebSocket that is forwarded is 13";
    Err(Refusal::with_detail(Code::UpgradeRefused, detail))
}

fn announces_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|l| l != "0")
}

fn accept_of(key: &HeaderValue) -> Option<HeaderValue> {
    let key = key.as_bytes();
    if key.len() != KEY || BASE64.decode(key).ok()?.len() != 16 {
        return None;
    }
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID);
    HeaderValue::try_from(BASE64.encode(&hash.finalize())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    /// The example of RFC 6455 section 1.2.
    const GOOD: [(&str, &str); 5] = [
        ("host", "api.test"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    fn read(
        change: impl FnOnce(http::request::Builder) -> http::request::Builder,
        fields: &[(&str, &str)],
    ) -> Result<Option<Handshake>, Code> {
        let mut request = Request::builder().uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let parts = change(request).body(()).unwrap().into_parts().0;
        Handshake::read(&parts).map_err(|refusal| refusal.code)
    }

    /// The good handshake with one field changed, added, or (with no value) taken away.
    fn with(name: &str, value: Option<&str>) -> Result<Option<Handshake>, Code> {
        let mut fields: Vec<_> = GOOD.into_iter().filter(|(n, _)| *n != name).collect();
        fields.extend(value.map(|value| (name, value)));
        read(|request| request, &fields)
    }

    #[test]
    fn the_example_of_the_rfc_is_understood() {
        let handshake = with("x", None).unwrap().unwrap();
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(with("upgrade", Some("WebSocket")).unwrap().is_some());
        assert!(with("connection", Some("keep-alive, upgrade")).unwrap().is_some());
        assert!(with("content-length", Some("0")).unwrap().is_some());
        assert_eq!(with("upgrade", None), Ok(None));
        assert_eq!(with("upgrade", Some("h2c")), Ok(None));
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        let refused = Err(Code::UpgradeRefused);
        for (name, value) in [
            ("upgrade", Some("h2c, websocket")),
            ("upgrade", Some("websocket/13")),
            ("upgrade", Some("TLS/1.2")),
            ("upgrade", Some("")),
            ("connection", None),
            ("connection", Some("keep-alive")),
            ("connection", Some("upgrade-insecure")),
            ("sec-websocket-version", None),
            ("sec-websocket-version", Some("8")),
            ("sec-websocket-version", Some("13, 8")),
            ("sec-websocket-key", None),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ")),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZSE=")),
            ("sec-websocket-key", Some("!!!!!!!!!!!!!!!!!!!!!!==")),
            ("content-length", Some("5")),
            ("transfer-encoding", Some("chunked")),
        ] {
            assert_eq!(with(name, value), refused, "{name}: {value:?}");
        }
        assert_eq!(read(|request| request.method("POST"), &GOOD), refused);
        assert_eq!(read(|request| request.version(Version::HTTP_10), &GOOD), refused);
        for twice in GOOD.into_iter().skip(1).filter(|(name, _)| *name != "connection") {
            let fields: Vec<_> = GOOD.into_iter().chain([twice]).collect();
            assert_eq!(read(|request| request, &fields), refused, "{twice:?} twice");
        }
    }

    #[test]
    fn an_extended_connect_becomes_a_get_with_a_key_of_its_own() {
        let ask = |method: &str, protocol: &'static str, version: &str| {
            let mut parts = Request::builder()
                .method(method)
                .uri("https://api.test/x")
                .version(Version::HTTP_2)
                .header("sec-websocket-version", version)
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .extension(Protocol::from_static(protocol))
                .body(())
                .unwrap()
                .into_parts()
                .0;
            let taken = Handshake::take(&mut parts).map_err(|refusal| refusal.code);
            taken.map(|handshake| (handshake.unwrap(), parts))
        };
        let (first, parts) = ask("CONNECT", "websocket", "13").unwrap();
        assert_eq!((&parts.method, first.is_extended()), (&Method::GET, true));
        let keys: Vec<_> = parts.headers.get_all("sec-websocket-key").iter().collect();
        assert_eq!(keys.len(), 1, "the client's own is none");
        assert_eq!(accept_of(keys[0]), Some(first.accept.clone()));
        assert!(parts.extensions.get::<Protocol>().is_none());
        assert_ne!(first, ask("CONNECT", "websocket", "13").unwrap().0, "keys are used once");
        for (method, protocol, version) in [
            ("CONNECT", "connect-udp", "13"),
            ("CONNECT", "webtransport", "13"),
            ("CONNECT", "websocket", "8"),
            ("GET", "websocket", "13"),
        ] {
            let refused = ask(method, protocol, version).map(drop);
            assert_eq!(refused, Err(Code::UpgradeRefused), "{method} {protocol} {version}");
        }
    }

    #[test]
    fn an_answer_must_be_the_other_half() {
        let handshake = with("x", None).unwrap().unwrap();
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ];
        let check = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            handshake.check_answer(&headers)
        };
        assert_eq!(check(&good), Ok(()));
        for without in 0..good.len() {
            let mut fields = good.to_vec();
            fields.remove(without);
            assert!(check(&fields).is_err(), "without {:?}", good[without]);
        }
        for bad in [
            ("upgrade", "h2c"),
            ("connection", "close"),
            ("sec-websocket-accept", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            ("sec-websocket-accept", "S3PPLMBITXAQ9KYGZZHZRBK+XOO="),
        ] {
            let fields: Vec<_> =
                good.into_iter().map(|field| if field.0 == bad.0 { bad } else { field }).collect();
            assert!(check(&fields).is_err(), "{bad:?}");
        }
        assert!(check(&[good[0], good[1], good[2], good[2]]).is_err(), "two answers to one key");
    }
}
