//! The canonical request: what is signed of a request, in the one form in which both sides write it.

use http::{HeaderMap, HeaderName};

use super::Claim;

/// What the client says of the payload: in `x-amz-content-sha256`, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// It says this, and that is signed: a digest, or that there is none.
    Said(String),
    /// Each chunk of the body has a signature of its own; with trailers, these too.
    Chunks {
        /// What it says.
        said: String,
        /// Whether trailers come, with a signature.
        trailers: bool,
    },
    /// It says nothing, and the digest of the body is signed.
    Unsaid,
}

impl Payload {
    /// What the field says; none for what is not known.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all("x-amz-content-sha256").iter();
        let said = match (all.next(), all.next()) {
            (None, _) => return Some(Self::Unsaid),
            (Some(value), None) => value.to_str().ok()?.trim().to_owned(),
            (Some(_), Some(_)) => return None,
        };
        let digest = said.len() == 64 && said.bytes().all(|b| b.is_ascii_hexdigit());
        match &*said {
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Some(Self::Chunks { said, trailers: false }),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => {
                Some(Self::Chunks { said, trailers: true })
            }
            "UNSIGNED-PAYLOAD" | "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Some(Self::Said(said)),
            _ => digest.then_some(Self::Said(said)),
        }
    }
}

/// A request, as far as it is signed.
pub struct Canonical<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, as it goes on the wire.
    pub path: &'a str,
    /// Its query, as it goes on the wire.
    pub query: &'a str,
    /// Its fields, as they go on the wire.
    pub headers: &'a HeaderMap,
}

impl Canonical<'_> {
    /// The names of the fields that are signed, and the text. What the client signed and does not go
    /// out any more (a field of one hop) is left out.
    #[must_use]
    pub fn text(&self, claim: &Claim, payload: &str) -> (Vec<String>, String) {
        let mut names = Vec::with_capacity(claim.signed_headers.len());
        let mut fields = String::with_capacity(256);
        for name in &claim.signed_headers {
            let Ok(header) = name.parse::<HeaderName>() else { continue };
            let mut values = self.headers.get_all(&header).iter().peekable();
            if values.peek().is_none() {
                continue;
            }
            fields.push_str(name);
            let mut separator = ':';
            for value in values {
                fields.push(separator);
                fields.push_str(&collapsed(value.as_bytes()));
                separator = ',';
            }
            fields.push('\n');
            names.push(name.clone());
        }
        let path = if claim.is_s3() { once(self.path) } else { twice(self.path) };
        let text = format!(
            "{}\n{path}\n{}\n{fields}\n{}\n{payload}",
            self.method,
            query(self.query),
            names.join(";"),
        );
        (names, text)
    }
}

/// Without spaces at the ends, and one for each run of them.
fn collapsed(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// As S3 has it: each segment decoded and encoded again, and nothing resolved.
fn once(path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        let mut out = String::with_capacity(segment.len());
        encode(&mut out, &percent_encoding::percent_decode_str(segment).collect::<Vec<u8>>());
        out
    });
    segments.collect::<Vec<_>>().join("/")
}

/// As all others have it: dot segments and empty ones resolved (RFC 3986 section 5.2.4), and what is
/// encoded encoded once more.
fn twice(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let mut out = String::with_capacity(path.len() + 16);
    for segment in &kept {
        out.push('/');
        encode(&mut out, segment.as_bytes());
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    if kept.is_empty() || ["", ".", ".."].contains(&last) {
        out.push('/');
    }
    out
}

/// Parameters decoded, encoded, and in order; without the signature itself.
fn query(text: &str) -> String {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let again = |text: &str| {
            let mut out = String::with_capacity(text.len());
            encode(&mut out, &percent_encoding::percent_decode_str(text).collect::<Vec<u8>>());
            out
        };
        let name = again(name);
        if name != "X-Amz-Signature" {
            pairs.push((name, again(value)));
        }
    }
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.into_iter().map(|(n, v)| format!("{n}={v}")).collect();
    pairs.join("&")
}

fn encode(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            let digit = |n: u8| char::from(b"0123456789ABCDEF"[usize::from(n & 15)]);
            out.extend(['%', digit(byte >> 4), digit(*byte)]);
        }
    }
}
