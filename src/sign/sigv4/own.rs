//! Requests of our own: signed as an SDK would, with all of their fields.

use http::{HeaderMap, HeaderValue, header};

use super::{Canonical, Claim, OF_NOTHING, SigningKey, sha256};

/// What signs.
pub struct OwnKey<'a> {
    /// The access key id.
    pub id: &'a str,
    /// The secret access key.
    pub secret: &'a str,
    /// What belongs to a key that is good for a session only.
    pub session: Option<&'a str>,
}

/// What is signed.
pub struct OwnCall<'a> {
    /// `us-east-1`.
    pub region: &'a str,
    /// The service, by its signing name.
    pub service: &'a str,
    /// Its method.
    pub method: &'a str,
    /// The `Host` that goes out.
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Its body.
    pub body: &'a [u8],
}

/// Adds what makes a signed request of the fields. None where something of it cannot stand in a header.
#[must_use]
pub fn sign(
    mut headers: HeaderMap,
    key: &OwnKey<'_>,
    call: &OwnCall<'_>,
    now: i64,
) -> Option<HeaderMap> {
    let time = jiff::Timestamp::from_second(now).ok()?.strftime("%Y%m%dT%H%M%SZ").to_string();
    let date = time.get(..8)?;
    headers.insert(header::HOST, HeaderValue::try_from(call.host).ok()?);
    headers.insert("x-amz-date", HeaderValue::try_from(&time).ok()?);
    if let Some(session) = key.session {
        let mut session = HeaderValue::try_from(session).ok()?;
        session.set_sensitive(true);
        headers.insert("x-amz-security-token", session);
    }
    let mut names: Vec<&str> = headers.keys().map(header::HeaderName::as_str).collect();
    names.sort_unstable();
    let scope = format!("{}/{date}/{}/{}/aws4_request", key.id, call.region, call.service);
    let claim = Claim::of(&scope, &names.join(";"), OF_NOTHING)?;
    let (path, query) = call.target.split_once('?').unwrap_or((call.target, ""));
    let canonical = Canonical { method: call.method, path, query, headers: &headers };
    let (names, text) = canonical.text(&claim, &sha256(call.body));
    let signature = SigningKey::derive(key.secret, &claim).sign(&time, &text);
    let mut value = HeaderValue::try_from(claim.header(key.id, &names, &signature)).ok()?;
    value.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, value);
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `get-vanilla` and `post-sts-token` of the test suite that AWS publishes.
    #[test]
    fn the_examples_of_aws() {
        let key = |session| OwnKey {
            id: "AKIDEXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session,
        };
        let call = |method| OwnCall {
            region: "us-east-1",
            service: "service",
            method,
            host: "example.amazonaws.com",
            target: "/",
            body: b"",
        };
        let signed = sign(HeaderMap::new(), &key(None), &call("GET"), 1_440_938_160).unwrap();
        assert_eq!(
            signed[header::AUTHORIZATION],
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        let signed = sign(HeaderMap::new(), &key(Some("t")), &call("POST"), 1_440_938_160).unwrap();
        let value = signed[header::AUTHORIZATION].to_str().unwrap();
        assert!(value.contains("SignedHeaders=host;x-amz-date;x-amz-security-token, "), "{value}");
        assert!(signed[header::AUTHORIZATION].is_sensitive());
        assert!(sign(HeaderMap::new(), &key(Some("a\nb")), &call("GET"), 0).is_none());
    }
}
