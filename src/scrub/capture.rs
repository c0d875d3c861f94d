//! Tokens that an origin mints for the agent: the answer is read whole, the value is taken out of it,
//! and every copy of it, in any encoding, becomes the placeholder of the credential that it is now.

use std::pin::Pin;

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http_body::Body;
use percent_encoding::percent_decode;

use super::{Fit, Inner, Needles, ScrubbedBody, Search, scrub_fields};
use crate::credential::Pointer;
use crate::outcome::{Code, Refusal};
use crate::request::{strings, unescape};
use crate::secret::Secret;

/// The longest answer of which a value is taken. Those that mint a token are a few KiB.
const LONGEST: usize = 1024 * 1024;

/// Where in an answer the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Minted {
    /// A string of a JSON document.
    Json(Pointer),
    /// A field of a form, as older token endpoints answer.
    Form(Box<str>),
    /// A header field.
    Header(HeaderName),
}

/// An answer that is all there, of which nothing has gone on.
pub struct Whole {
    parts: Parts,
    body: Bytes,
    trailers: Option<HeaderMap>,
    replaced: u64,
    unsearched: bool,
}

impl Whole {
    /// Reads the answer to its end.
    ///
    /// # Errors
    /// `capture-failed` when it is longer than 1 MiB, `upstream-failed` when it breaks off.
    pub async fn read<B>(response: Response<ScrubbedBody<B>>) -> Result<Self, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (parts, mut body) = response.into_parts();
        let (mut read, mut trailers) = (Vec::new(), None);
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            let frame = frame.map_err(|_| Refusal::new(Code::UpstreamFailed))?;
            match frame.into_data() {
                Ok(data) if read.len() + data.len() > LONGEST => {
                    return Err(missing("the answer is longer than 1 MiB"));
                }
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        let (replaced, unsearched) = (body.replaced(), body.unsearched());
        Ok(Self { parts, body: read.into(), trailers, replaced, unsearched })
    }

    /// The value that stands there. Only an answer that did not go well may be without one.
    ///
    /// # Errors
    /// `capture-failed` when there is none, or more than one.
    pub fn value(&self, from: &Minted) -> Result<Option<Secret>, Refusal> {
        let may_lack = !self.parts.status.is_success();
        let mut values = match from {
            Minted::Json(pointer) => match self.in_json(pointer) {
                Err(_) if may_lack => return Ok(None),
                values => values?,
            },
            Minted::Form(name) => self.in_form(name),
            Minted::Header(name) => {
                let values = self.parts.headers.get_all(name).iter();
                values.map(|value| Secret::new(value.as_bytes().to_vec())).collect()
            }
        };
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Ok(Some(value)),
            (None, _) if may_lack => Ok(None),
            (Some(_), false) => Err(missing("the answer has the value twice")),
            (None, _) => Err(missing("the answer does not have the value where the rule says")),
        }
    }

    fn in_json(&self, pointer: &Pointer) -> Result<Vec<Secret>, Refusal> {
        let mut found = Vec::new();
        let tokens = pointer.tokens();
        strings(&self.body, &mut |path, at| {
            let there = path.len() == tokens.len() && path.iter().zip(tokens).all(|(s, t)| s.is(t));
            if there {
                found.push(Secret::new(unescape(&self.body[at])));
            }
        })
        .map_err(|_| missing("the answer is no JSON"))?;
        Ok(found)
    }

    fn in_form(&self, name: &str) -> Vec<Secret> {
        let decode = |text: &[u8]| {
            let text: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
            percent_decode(&text).collect::<Vec<u8>>()
        };
        let pairs = self.body.trim_ascii().split(|b| *b == b'&').filter_map(|pair| {
            let at = memchr::memchr(b'=', pair)?;
            (decode(&pair[..at]) == name.as_bytes()).then(|| Secret::new(decode(&pair[at + 1..])))
        });
        pairs.collect()
    }

    /// The answer, with placeholders in the place of what `needles` names.
    #[must_use]
    pub fn without<B>(self, needles: Needles) -> Response<ScrubbedBody<B>> {
        let Self { mut parts, body, mut trailers, mut replaced, .. } = self;
        let search = Search::new(needles);
        let mut out = Vec::new();
        let found = search.replace_all(&body, Fit::Exact, &mut out);
        let body = if found > 0 { Bytes::from(out) } else { body };
        replaced += found + scrub_fields(&mut parts.headers, &search);
        if let Some(trailers) = &mut trailers {
            replaced += scrub_fields(trailers, &search);
        }
        parts.headers.remove(header::TRANSFER_ENCODING);
        // The length of what is not there, as an answer to a HEAD says it, stays as it is.
        if !body.is_empty() {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let inner = Inner::Gathered { whole: Some(body), trailers };
        Response::from_parts(parts, ScrubbedBody { inner, replaced })
    }

    /// Whether the body passed a search that could not read it: then nothing may be taken from it.
    #[must_use]
    pub fn is_unsearched(&self) -> bool {
        self.unsearched
    }
}

fn missing(why: &'static str) -> Refusal {
    Refusal::new(Code::CaptureFailed).because(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrub::{Unscrubbed, scrub};
    use http::Method;
    use http_body_util::{BodyExt as _, Full};

    const TOKEN: &str = "tok/en+0123456789==";

    fn answered(kind: &str, body: &str) -> Response<ScrubbedBody<Full<Bytes>>> {
        let response = Response::builder()
            .header("content-type", kind)
            .header("x-subject-token", TOKEN)
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .unwrap();
        let unscrubbed = Unscrubbed::new(response, Method::POST, None);
        pollster(scrub(unscrubbed)).unwrap_or_else(|_| panic!("scrubbed"))
    }

    fn pollster<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn taken(from: &Minted, body: &str) -> Result<String, &'static str> {
        let whole = pollster(Whole::read(answered("application/json", body))).unwrap();
        let value = whole.value(from).map_err(|refusal| refusal.reason.unwrap_or_default())?;
        Ok(value.unwrap().expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))
    }

    #[test]
    fn values_are_found_where_the_rule_says_and_nowhere_else() {
        let json = |pointer: &str| Minted::Json(pointer.parse().unwrap());
        for (from, body) in [
            (json("/access_token"), format!(r#"{{"access_token":"{TOKEN}"}}"#)),
            (
                json("/access_token"),
                r#"{"x":1, "access_token" : "tok\/en\u002b0123456789=="}"#.into(),
            ),
            (json("/data/0/token"), format!(r#"{{"data":[{{"token":"{TOKEN}"}}]}}"#)),
            (
                Minted::Form("access_token".into()),
                format!("a=b&access_token={}&c=d", "tok%2Fen%2B0123456789%3D%3D"),
            ),
            (Minted::Header(HeaderName::from_static("x-subject-token")), String::new()),
        ] {
            assert_eq!(taken(&from, &body).as_deref(), Ok(TOKEN), "{body}");
        }
        for (from, body) in [
            (json("/access_token"), "{}"),
            (json("/access_token"), r#"{"access_token":1}"#),
            (json("/access_token"), r#"{"a":{"access_token":"x"}}"#),
            (json("/access_token"), r#"{"access_token":"aaaaaaaa","access_token":"bbbbbbbb"}"#),
            (json("/access_token"), "access_token"),
            (Minted::Form("access_token".into()), "a=b"),
            (Minted::Header(HeaderName::from_static("x-other")), "{}"),
        ] {
            assert!(taken(&from, body).is_err(), "{body}");
        }
    }

    #[test]
    fn every_copy_becomes_the_placeholder() {
        let body = format!(r#"{{"access_token":"{TOKEN}","again":"tok\/en+0123456789==","n":1}}"#);
        let whole = pollster(Whole::read(answered("application/json", &body))).unwrap();
        let value = whole.value(&Minted::Json("/access_token".parse().unwrap())).unwrap().unwrap();
        let mut needles = Needles::default();
        needles.add(&value, "locum_session");
        let answer = whole.without::<Full<Bytes>>(needles);
        assert_eq!(answer.headers()["x-subject-token"], "locum_session");
        let length = answer.headers()["content-length"].to_str().unwrap().to_owned();
        let body = pollster(answer.into_body().collect()).unwrap_or_else(|_| panic!("read"));
        let body = body.to_bytes();
        assert_eq!(length, body.len().to_string());
        assert_eq!(
            body,
            r#"{"access_token":"locum_session","again":"locum_session","n":1}"#.as_bytes()
        );
    }
}
