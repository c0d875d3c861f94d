//! The certificate that a client has shown at a door, as far as it says who that is.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::ser::SerializeMap as _;

/// What a client's certificate says, which a CA of the door has vouched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its serial number, as [`canonical_serial`] writes it.
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
    /// Where it was shown, and is to stand as long as it is used.
    pub standing: Option<Arc<Standing>>,
}

/// A door at which certificates are shown. Its CAs, and what they take back, change while it is open.
pub trait Vouch: fmt::Debug + Send + Sync {
    /// Counts the changes.
    fn generation(&self) -> u64;

    /// Whether this chain, leaf first and each in DER, would be let in at this moment.
    fn vouches(&self, chain: &[Box<[u8]>]) -> bool;
}

/// What a door makes of a chain that was shown at it: looked at anew after each change of the door, and
/// remembered until the next.
#[derive(Debug)]
pub struct Standing {
    door: Arc<dyn Vouch>,
    chain: Box<[Box<[u8]>]>,
    /// A generation of the door, and in the last bit what it said.
    found: AtomicU64,
}

impl Standing {
    /// Of a chain that the door has let in when it was in that generation, or a later one.
    #[must_use]
    pub fn new(door: Arc<dyn Vouch>, chain: Box<[Box<[u8]>]>, generation: u64) -> Self {
        Self { door, chain, found: AtomicU64::new(generation << 1 | 1) }
    }

    /// Of a chain that the door was not asked about: one that came with a session that was resumed.
    #[must_use]
    pub fn unasked(door: Arc<dyn Vouch>, chain: Box<[Box<[u8]>]>) -> Self {
        // A generation that no door comes to.
        Self { door, chain, found: AtomicU64::new(u64::MAX) }
    }

    /// Whether the door would let it in still.
    #[must_use]
    pub fn holds(&self) -> bool {
        // Asked before the door is: what changes meanwhile is seen the next time.
        let now = self.door.generation();
        let found = self.found.load(Ordering::Relaxed);
        if found >> 1 == now {
            return found & 1 == 1;
        }
        let holds = self.door.vouches(&self.chain);
        self.found.store(now << 1 | u64::from(holds), Ordering::Relaxed);
        holds
    }
}

/// The same chain.
impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl Eq for Standing {}

/// A serial number in hex, as certificates and lists should have it in DER: without leading zeros, but for
/// one byte of them before a number that would else be negative. So two encodings of one number are one.
#[must_use]
pub fn canonical_serial(hex: &str) -> String {
    let digits = hex.trim_start_matches('0').to_ascii_lowercase();
    let whole = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
    match whole.as_bytes().first() {
        None => "00".to_owned(),
        Some(first) if *first >= b'8' => format!("00{whole}"),
        Some(_) => whole,
    }
}

impl ClientCertificate {
    /// Whether the door at which it was shown would let it in still.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.standing.as_ref().is_none_or(|standing| standing.holds())
    }

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
    /// The serial numbers that are revoked, as [`canonical_serial`] writes them.
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
            standing: None,
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

    /// A door that says yes or no, and counts how often it is asked.
    #[derive(Debug)]
    struct Says {
        generation: AtomicU64,
        yes: std::sync::atomic::AtomicBool,
        asked: AtomicU64,
    }

    impl Vouch for Says {
        fn generation(&self) -> u64 {
            self.generation.load(Ordering::Relaxed)
        }

        fn vouches(&self, chain: &[Box<[u8]>]) -> bool {
            assert_eq!(chain, [Box::from([1, 2])]);
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.yes.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_door_is_asked_again_after_each_change_and_once() {
        let door = Arc::new(Says {
            generation: AtomicU64::new(3),
            yes: true.into(),
            asked: AtomicU64::default(),
        });
        let own: Arc<dyn Vouch> = Arc::<Says>::clone(&door);
        let standing = Some(Arc::new(Standing::new(own, [Box::from([1, 2])].into(), 3)));
        let one = ClientCertificate { standing, ..certificate(&[]) };
        let after = |yes: bool| {
            door.yes.store(yes, Ordering::Relaxed);
            door.generation.fetch_add(1, Ordering::Relaxed);
            (one.stands(), one.stands(), door.asked.load(Ordering::Relaxed))
        };
        // The handshake has asked.
        assert!(one.stands() && door.asked.load(Ordering::Relaxed) == 0);
        assert_eq!(after(true), (true, true, 1));
        assert_eq!(after(false), (false, false, 2));
        assert_eq!(after(true), (true, true, 3));
        assert!(certificate(&[]).stands(), "one that was shown nowhere");
    }

    #[test]
    fn a_serial_number_is_one_number_however_it_is_written() {
        for (written, canonical) in [
            ("0a", "0a"),
            ("A", "0a"),
            ("00000a", "0a"),
            ("80", "0080"),
            ("0080", "0080"),
            ("00000080ff", "0080ff"),
            ("7f00", "7f00"),
            ("00", "00"),
            ("", "00"),
        ] {
            assert_eq!(canonical_serial(written), canonical, "{written}");
        }
    }
}
