//! AWS Signature Version 4: a request that a client signed with a placeholder is signed anew.
//!
//! What the client said of its signature is kept: scope, time, which fields are signed, and what it
//! says of the payload. Only who signs changes. See the AWS documentation, *Signature Version 4 for
//! API requests* and *Authenticating requests (Amazon S3)*.

mod canonical;
mod chunks;
mod own;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub use canonical::{Canonical, Payload};
pub use chunks::{ChunkError, ChunkSigner};
pub use own::{OwnCall, OwnKey, sign as sign_own};

/// The one algorithm. The other, which signs with elliptic curves for several regions at once, has
/// keys of its own that a secret key is only the seed of.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// A SHA-256 of nothing.
pub(crate) const OF_NOTHING: &str =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What a client said of its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The access key id: who it says to be.
    pub key_id: String,
    /// `20130524`.
    pub date: String,
    /// `us-east-1`.
    pub region: String,
    /// `s3`.
    pub service: String,
    /// Names of fields, in lower case and in order.
    pub signed_headers: Vec<String>,
    /// 64 hex digits.
    pub signature: String,
}

/// The access key id of a value of `Authorization`, wherever else it may be wrong.
#[must_use]
pub fn key_id(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let rest = text.strip_prefix("AWS4-")?;
    let at = rest.find("Credential=")? + "Credential=".len();
    rest[at..].split(['/', ',', ' ']).next()
}

impl Claim {
    /// Reads a value of `Authorization`. None for all that has not one reading.
    #[must_use]
    pub fn of_header(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let rest = text.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let (mut credential, mut headers, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim_ascii().split_once('=')?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        Self::of(credential?, headers?, signature?)
    }

    /// Reads the parameters of a presigned URL, decoded.
    #[must_use]
    pub fn of(credential: &str, signed_headers: &str, signature: &str) -> Option<Self> {
        let mut parts = credential.split('/');
        let mut part = || parts.next().filter(|part| !part.is_empty());
        let (key_id, date, region, service) = (part()?, part()?, part()?, part()?);
        if part() != Some("aws4_request") || parts.next().is_some() {
            return None;
        }
        let word =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let is_date = date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit());
        let is_signature = signature.len() == 64
            && signature.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_date || !is_signature || !word(region) || !word(service) {
            return None;
        }
        let signed_headers: Vec<String> = signed_headers.split(';').map(str::to_owned).collect();
        let lower = |name: &String| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase())
        };
        let ordered = signed_headers.windows(2).all(|pair| pair[0] < pair[1]);
        // A signature that does not say for which host it is, is good for others.
        let has_host = signed_headers.iter().any(|name| name == "host");
        if !signed_headers.iter().all(lower) || !ordered || !has_host {
            return None;
        }
        Some(Self {
            key_id: key_id.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            signed_headers,
            signature: signature.to_owned(),
        })
    }

    /// `20130524/us-east-1/s3/aws4_request`.
    #[must_use]
    pub fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }

    /// The value of `Authorization` with another signature.
    #[must_use]
    pub fn header(&self, key_id: &str, names: &[String], signature: &str) -> String {
        format!(
            "{ALGORITHM} Credential={key_id}/{}, SignedHeaders={}, Signature={signature}",
            self.scope(),
            names.join(";")
        )
    }

    /// Whether the service takes paths as they are sent: S3 and its kin do, and all others encode once
    /// more what is encoded.
    #[must_use]
    pub fn is_s3(&self) -> bool {
        matches!(&*self.service, "s3" | "s3express" | "s3-object-lambda" | "s3-outposts")
    }
}

/// Whether the text is a moment of the date: `20130524T000000Z`.
#[must_use]
pub fn is_moment_of(time: &str, date: &str) -> bool {
    time.len() == 16
        && time.starts_with(date)
        && time.as_bytes().get(8) == Some(&b'T')
        && time.ends_with('Z')
        && time[9..15].bytes().all(|b| b.is_ascii_digit())
}

/// What signs in one scope: good for a day, one region and one service.
pub struct SigningKey {
    key: Zeroizing<[u8; 32]>,
    scope: String,
}

impl SigningKey {
    /// `HMAC(HMAC(HMAC(HMAC("AWS4" || secret, date), region), service), "aws4_request")`.
    #[must_use]
    pub fn derive(secret: &str, claim: &Claim) -> Self {
        let first = Zeroizing::new(format!("AWS4{secret}"));
        let mut key = hmac(first.as_bytes(), claim.date.as_bytes());
        for part in [&*claim.region, &claim.service, "aws4_request"] {
            key = hmac(&*key, part.as_bytes());
        }
        Self { key, scope: claim.scope() }
    }

    /// The signature of a canonical request.
    #[must_use]
    pub fn sign(&self, time: &str, canonical: &str) -> String {
        let digest = sha256(canonical.as_bytes());
        self.sign_text(&format!("{ALGORITHM}\n{time}\n{}\n{digest}", self.scope))
    }

    fn sign_text(&self, text: &str) -> String {
        HEXLOWER.encode(&*hmac(&*self.key, text.as_bytes()))
    }
}

fn hmac(key: &[u8], message: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// SHA-256, in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const SIGNATURE: &str = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";

    fn header(credential: &str, headers: &str, signature: &str) -> String {
        format!(
            "{ALGORITHM} Credential={credential},SignedHeaders={headers}, Signature={signature}"
        )
    }

    #[test]
    fn a_claim_has_one_reading_or_none() {
        let scope = "AKIAlocum_aws_000000/20130524/us-east-1/s3/aws4_request";
        let good = header(scope, "host;x-amz-date", SIGNATURE);
        let claim = Claim::of_header(good.as_bytes()).unwrap();
        assert_eq!(claim.key_id, "AKIAlocum_aws_000000");
        assert_eq!(claim.scope(), "20130524/us-east-1/s3/aws4_request");
        assert_eq!(claim.signed_headers, ["host", "x-amz-date"]);
        assert_eq!(key_id(good.as_bytes()), Some("AKIAlocum_aws_000000"));
        for bad in [
            header(scope, "host;x-amz-date", &SIGNATURE[1..]),
            header(scope, "host;x-amz-date", &SIGNATURE.to_uppercase()),
            header(scope, "x-amz-date", SIGNATURE),
            header(scope, "x-amz-date;host", SIGNATURE),
            header(scope, "Host;x-amz-date", SIGNATURE),
            header(scope, "host;host", SIGNATURE),
            header(scope, "host;", SIGNATURE),
            header("AKIA/20130524/us-east-1/s3", "host", SIGNATURE),
            header("AKIA/20130524/us-east-1/s3/aws4_request/x", "host", SIGNATURE),
            header("AKIA/2013/us-east-1/s3/aws4_request", "host", SIGNATURE),
            header("AKIA/20130524/us east/s3/aws4_request", "host", SIGNATURE),
            header("AKIA/20130524//s3/aws4_request", "host", SIGNATURE),
            format!("{good}, Signature={SIGNATURE}"),
            format!("{good}, More=1"),
            good.replace("HMAC", "ECDSA-P256"),
            good.replacen(' ', "", 1),
        ] {
            assert_eq!(Claim::of_header(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn moments_are_of_their_date() {
        assert!(is_moment_of("20130524T235959Z", "20130524"));
        for bad in [
            "20130524",
            "20130525T000000Z",
            "20130524T0000Z",
            "20130524t000000Z",
            "20130524T00000aZ",
        ] {
            assert!(!is_moment_of(bad, "20130524"), "{bad}");
        }
    }

    /// The examples of *Authenticating Requests: Using the Authorization Header* and *Using Query
    /// Parameters* in the API reference of Amazon S3.
    #[test]
    fn the_examples_of_amazon_s3() {
        let host = ("host", "examplebucket.s3.amazonaws.com");
        let date = ("x-amz-date", "20130524T000000Z");
        let payload = ("x-amz-content-sha256", OF_NOTHING);
        let text = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        let list = [host, payload, date];
        for (method, target, headers, hash, signature) in [
            (
                "GET",
                "/test.txt",
                &[host, ("range", "bytes=0-9"), payload, date][..],
                OF_NOTHING,
                SIGNATURE,
            ),
            (
                "PUT",
                "/test$file.text",
                &[
                    ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                    host,
                    ("x-amz-content-sha256", text),
                    date,
                    ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ],
                text,
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                "GET",
                "/?lifecycle",
                &list,
                OF_NOTHING,
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "GET",
                "/?max-keys=2&prefix=J",
                &list,
                OF_NOTHING,
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
            (
                "GET",
                "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=0000",
                &[host],
                "UNSIGNED-PAYLOAD",
                "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
            ),
        ] {
            let (signed, canonical) = canonical(method, target, headers, hash, "s3");
            let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
            assert_eq!(signed, names);
            let claim = claim("s3", &names.join(";"));
            let key = SigningKey::derive(SECRET, &claim);
            assert_eq!(
                key.sign("20130524T000000Z", &canonical),
                signature,
                "{target}\n{canonical}"
            );
        }
    }

    fn claim(service: &str, headers: &str) -> Claim {
        let scope = format!("AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/{service}/aws4_request");
        Claim::of(&scope, headers, SIGNATURE).unwrap()
    }

    fn canonical(
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        payload: &str,
        service: &str,
    ) -> (Vec<String>, String) {
        let mut map = http::HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let claim = claim(service, &names.join(";"));
        let uri: http::Uri = target.parse().unwrap();
        let canonical = Canonical {
            method,
            path: uri.path(),
            query: uri.query().unwrap_or_default(),
            headers: &map,
        };
        canonical.text(&claim, payload)
    }

    /// Of the test suite that AWS publishes: paths, queries and values in odd forms, as a service
    /// that is not S3 reads them.
    #[test]
    fn forms_that_mean_the_same_are_signed_alike() {
        let service = |target: &str, headers: &[(&str, &str)]| {
            canonical("GET", target, headers, OF_NOTHING, "service").1
        };
        let host = ("host", "example.amazonaws.com");
        for (target, path, query) in [
            ("/", "/", ""),
            ("/example1/example2/../..", "/", ""),
            ("/./", "/", ""),
            ("/./example", "/example", ""),
            ("//example//", "/example/", ""),
            ("/-._~0123456789", "/-._~0123456789", ""),
            ("/%E1%88%B4", "/%25E1%2588%25B4", ""),
            ("/?Param2=value2&Param1=value1", "/", "Param1=value1&Param2=value2"),
            ("/?Param1=value2&Param1=Value1", "/", "Param1=Value1&Param1=value2"),
            ("/?%E1%88%B4=bar", "/", "%E1%88%B4=bar"),
            ("/?a", "/", "a="),
            ("/?b=/&a=%2f", "/", "a=%2F&b=%2F"),
            ("/?a=b=c", "/", "a=b%3Dc"),
        ] {
            let text = service(target, &[host]);
            let lines: Vec<&str> = text.split('\n').collect();
            assert_eq!((lines[1], lines[2]), (path, query), "{target}");
        }
        let text = service("/", &[host, ("my-header1", "  a   b   c  ")]);
        assert!(text.contains("\nmy-header1:a b c\n"), "{text}");
        // S3 takes the path as it is.
        let s3 = canonical("GET", "/a%20b//./c", &[host], OF_NOTHING, "s3").1;
        assert!(s3.starts_with("GET\n/a%20b//./c\n\n"), "{s3}");
    }
}
