//! The certificate that a client has shown at a door, as far as it says who that is.

use std::collections::HashSet;

use serde::Serialize;
use serde::ser::SerializeMap as _;

/// What a client's certificate says, which a CA of the door has vouched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its serial number, in hex.
    pub serial: Box<str>,
    /// Its subject, as a distinguished name. Empty in many: then the names below say who it is.
    pub subject: Box<str>,
    /// Who has issued it: a distinguished name, DER.
    pub issuer: Box<[u8]>,
    /// The common names of the subject.
    pub common_names: Box<[Box<str>]>,
    /// The names of hosts in the subject alternative name.
    pub dns: Box<[Box<str>]>,
    /// The URIs there; a SPIFFE id is one.
    pub uris: Box<[Box<str>]>,
    /// The mail addresses there.
    pub emails: Box<[Box<str>]>,
    /// The last second in which it is valid, since the Unix epoch.
    pub not_after: i64,
}

impl ClientCertificate {
    /// The SPIFFE id (SPIFFE X.509-SVID section 2): the certificate's one URI.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<SpiffeId<'_>> {
        match &*self.uris {
            [uri] => SpiffeId::parse(uri),
            _ => None,
        }
    }

    /// What people know it by: its SPIFFE id, its subject, or its first name.
    #[must_use]
    pub fn shown(&self) -> &str {
        if let Some(id) = self.spiffe_id() {
            return id.text;
        }
        let names = [&self.uris, &self.dns, &self.emails].into_iter().flat_map(|all| all.iter());
        let first = names.map(|name| &**name).next();
        if self.subject.is_empty() { first.unwrap_or_default() } else { &self.subject }
    }
}

/// What one issuer has taken back, and until when that is all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// Whose list it is: a distinguished name, DER.
    pub issuer: Box<[u8]>,
    /// The serial numbers that are revoked, in lower-case hex.
    pub serials: HashSet<Box<str>>,
    /// The last second of Unix time in which there is no newer list; none for one without.
    pub until: Option<i64>,
}

impl RevocationList {
    /// Whether a certificate may still be used by all that the lists say. Where all lists of its issuer
    /// have run out, nothing may.
    #[must_use]
    pub fn allow(lists: &[Self], certificate: &ClientCertificate, now: i64) -> bool {
        let mut own = lists.iter().filter(|list| list.issuer == certificate.issuer).peekable();
        if own.peek().is_none() {
            return true;
        }
        let (mut current, mut revoked) = (false, false);
        for list in own {
            current |= list.is_current(now);
            revoked |= list.serials.contains(&certificate.serial);
        }
        current && !revoked
    }

    /// Whether it has not run out.
    #[must_use]
    pub fn is_current(&self, now: i64) -> bool {
        self.until.is_none_or(|until| now <= until)
    }
}

/// As the audit record has it: who, and which of its certificates.
impl Serialize for ClientCertificate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("subject", self.shown())?;
        map.serialize_entry("serial", &self.serial)?;
        map.end()
    }
}

/// `spiffe://trust-domain/path` (SPIFFE-ID section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpiffeId<'a> {
    /// All of it.
    pub text: &'a str,
    /// The name of who vouches for it.
    pub trust_domain: &'a str,
}

/// The longest id (SPIFFE-ID section 2.3).
const MAX_ID: usize = 2048;

impl<'a> SpiffeId<'a> {
    /// Reads one. It has one spelling: no port, no query, no escapes, no empty and no dotted segments.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix("spiffe://").filter(|_| text.len() <= MAX_ID)?;
        let (trust_domain, path) = rest.split_once('/').map_or((rest, None), |(d, p)| (d, Some(p)));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let domain = is_trust_domain(trust_domain);
        let segment = |segment: &str| {
            let legal = segment.bytes().all(|b| plain(b) || b.is_ascii_uppercase());
            !segment.is_empty() && segment != "." && segment != ".." && legal
        };
        let sound = domain && path.is_none_or(|path| path.split('/').all(segment));
        sound.then_some(Self { text, trust_domain })
    }
}

/// Whether a text can be the name of a trust domain: 1 to 255 of `a-z 0-9 . - _`.
#[must_use]
pub fn is_trust_domain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    (1..=255).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(uris: &[&str]) -> ClientCertificate {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).into()).collect();
        ClientCertificate {
            serial: "0a".into(),
            subject: "".into(),
            issuer: Box::default(),
            common_names: texts(&[]),
            dns: texts(&["client.test"]),
            uris: texts(uris),
            emails: texts(&[]),
            not_after: 0,
        }
    }

    #[test]
    fn a_list_speaks_of_its_issuers_certificates_until_it_has_run_out() {
        let list = |issuer: u8, serial: &str, until| RevocationList {
            issuer: [issuer].into(),
            serials: HashSet::from([serial.into()]),
            until,
        };
        let of = |issuer: u8| ClientCertificate { issuer: [issuer].into(), ..certificate(&[]) };
        let allow =
            |lists: &[RevocationList], issuer| RevocationList::allow(lists, &of(issuer), 10);
        assert!(allow(&[], 1));
        assert!(!allow(&[list(1, "0a", Some(20))], 1));
        assert!(allow(&[list(1, "0b", Some(10))], 1));
        assert!(allow(&[list(2, "0a", Some(5))], 1), "another issuer's");
        assert!(!allow(&[list(1, "0b", Some(9))], 1), "it has run out");
        assert!(
            allow(&[list(1, "0b", Some(9)), list(1, "0b", Some(20))], 1),
            "there is a newer one"
        );
        assert!(!allow(&[list(1, "0a", Some(9)), list(1, "0b", Some(20))], 1));
    }

    #[test]
    fn a_spiffe_id_has_one_spelling() {
        for (text, domain) in [
            ("spiffe://prod.example/ns/agents/sa/writer", Some("prod.example")),
            ("spiffe://prod.example", Some("prod.example")),
            ("spiffe://prod_1/A.b-c_d", Some("prod_1")),
            ("spiffe://Prod.example/x", None),
            ("SPIFFE://prod.example/x", None),
            ("spiffe:///x", None),
            ("spiffe://", None),
            ("spiffe://prod.example/", None),
            ("spiffe://prod.example//x", None),
            ("spiffe://prod.example/x/", None),
            ("spiffe://prod.example/./x", None),
            ("spiffe://prod.example/../x", None),
            ("spiffe://prod.example/%2e", None),
            ("spiffe://prod.example/x?y", None),
            ("spiffe://prod.example/x#y", None),
            ("spiffe://prod.example:443/x", None),
            ("spiffe://user@prod.example/x", None),
            ("https://prod.example/x", None),
        ] {
            assert_eq!(SpiffeId::parse(text).map(|id| id.trust_domain), domain, "{text}");
        }
        assert_eq!(SpiffeId::parse(&format!("spiffe://a/{}", "x".repeat(2048))), None);
    }

    #[test]
    fn two_uris_are_no_id() {
        let one = certificate(&["spiffe://a/x"]);
        assert_eq!(one.spiffe_id().unwrap().text, "spiffe://a/x");
        assert_eq!(one.shown(), "spiffe://a/x");
        assert!(certificate(&["spiffe://a/x", "spiffe://a/y"]).spiffe_id().is_none());
        assert!(certificate(&["spiffe://a/x", "https://b/"]).spiffe_id().is_none());
        assert_eq!(certificate(&[]).shown(), "client.test");
        let json = serde_json::to_value(&one).unwrap();
        assert_eq!(json, serde_json::json!({ "subject": "spiffe://a/x", "serial": "0a" }));
    }
}
