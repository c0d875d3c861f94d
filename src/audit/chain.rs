//! The chain: each line carries a keyed MAC over itself and the MAC of the line before.
//!
//! ```text
//! Kr      = HMAC-SHA256(key, "locum audit 1 record")
//! Kh      = HMAC-SHA256(key, "locum audit 1 head")
//! genesis = HMAC-SHA256(key, "locum audit 1 genesis" || log id)
//! mac(n)  = HMAC-SHA256(Kr, signed(n) || mac(n-1))        mac(0) = genesis
//! ```
//!
//! `signed(n)` is the line up to, and without, `,"mac":"`. The MAC before comes last and has a fixed
//! length, so that all of the line but its sequence number is hashed before the log's lock is taken.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::AuditError;
use crate::secret::Secret;

/// An HMAC-SHA256 tag.
pub(super) type Tag = [u8; 32];

/// The random name of one log, drawn when its directory is first used.
pub(super) type LogId = [u8; 16];

/// The length of the key, in bytes.
pub const KEY_LENGTH: usize = 32;

/// A position in the log: a record's sequence number and its MAC. Kept outside the log (in the
/// vault, on paper, with an auditor) it pins everything up to that record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The record's number; 0 is the position before the first record.
    pub seq: u64,
    /// The record's MAC.
    pub mac: Tag,
}

impl Anchor {
    /// The MAC in hex, as it stands in the log.
    #[must_use]
    pub fn mac_hex(&self) -> String {
        HEXLOWER.encode(&self.mac)
    }
}

/// `<seq>:<mac in hex>`, for a terminal, a ticket or a second system.
impl std::fmt::Display for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.seq, self.mac_hex())
    }
}

/// A text is not an [`Anchor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorError;

impl std::fmt::Display for AnchorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an anchor is SEQ:MAC, a number and 64 hex digits")
    }
}

impl std::error::Error for AnchorError {}

impl std::str::FromStr for Anchor {
    type Err = AnchorError;

    fn from_str(text: &str) -> Result<Self, AnchorError> {
        let (seq, mac) = text.split_once(':').ok_or(AnchorError)?;
        let seq = seq.parse().map_err(|_| AnchorError)?;
        let mac = tag_from_hex(mac.as_bytes()).ok_or(AnchorError)?;
        Ok(Self { seq, mac })
    }
}

/// The log's keys, expanded once. Cloning a MAC state is cheaper than keying it anew.
pub(super) struct Keys {
    root: Hmac<Sha256>,
    record: Hmac<Sha256>,
    head: Hmac<Sha256>,
}

impl Keys {
    pub(super) fn new(key: &Secret) -> Result<Self, AuditError> {
        if key.len() != KEY_LENGTH {
            return Err(AuditError::KeyLength { found: key.len() });
        }
        let root = key.expose(keyed);
        let record = subkey(&root, b"locum audit 1 record");
        let head = subkey(&root, b"locum audit 1 head");
        Ok(Self { root, record, head })
    }

    /// The MAC before the first record of a log.
    pub(super) fn genesis(&self, log: &LogId) -> Tag {
        let mac = self.root.clone().chain_update(b"locum audit 1 genesis");
        mac.chain_update(log).finalize().into_bytes().into()
    }

    /// The MAC before the first record after damage that the operator accepted. Different from any
    /// record's, so that the break in the chain stays visible.
    pub(super) fn segment(&self, log: &LogId, before: u64) -> Tag {
        let mac = self.root.clone().chain_update(b"locum audit 1 segment");
        let mac = mac.chain_update(log).chain_update(before.to_be_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Starts the MAC of a line with what is known of it so far.
    pub(super) fn begin(&self, body: &[u8]) -> LineMac {
        LineMac(self.record.clone().chain_update(body))
    }

    /// The MAC of a whole line.
    pub(super) fn record(&self, signed: &[u8], before: &Tag) -> Tag {
        let mac = self.record.clone().chain_update(signed);
        mac.chain_update(before).finalize().into_bytes().into()
    }

    /// The MAC of the head file.
    pub(super) fn head(&self, bytes: &[u8]) -> Tag {
        let mac = self.head.clone().chain_update(bytes);
        mac.finalize().into_bytes().into()
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // Invariant: HMAC takes keys of every length (RFC 2104 section 2).
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn subkey(root: &Hmac<Sha256>, purpose: &[u8]) -> Hmac<Sha256> {
    let key: Tag = root.clone().chain_update(purpose).finalize().into_bytes().into();
    keyed(Zeroizing::new(key).as_slice())
}

/// A line's MAC, under way: the body is in it, its number and the MAC before are not.
#[derive(Clone)]
pub(super) struct LineMac(Hmac<Sha256>);

impl LineMac {
    /// Appends the sealed line to `out`: body, sequence number, MAC, newline. Returns its position.
    pub(super) fn seal(self, body: &[u8], before: Anchor, out: &mut Vec<u8>) -> Anchor {
        // Invariant: 2^64 records are out of reach (580,000 years at a million a second).
        let seq = before.seq.wrapping_add(1);
        out.extend_from_slice(body);
        let start = out.len();
        out.extend_from_slice(SEQ);
        push_decimal(out, seq);
        let number = out.get(start..).unwrap_or_default();
        let mac = self.0.chain_update(number).chain_update(before.mac);
        let mac: Tag = mac.finalize().into_bytes().into();
        out.extend_from_slice(MAC);
        push_hex(out, &mac);
        out.extend_from_slice(b"\"}\n");
        Anchor { seq, mac }
    }
}

const SEQ: &[u8] = b",\"seq\":";
const MAC: &[u8] = b",\"mac\":\"";
/// `,"mac":"`, 64 digits, `"}`.
const SUFFIX: usize = 8 + 64 + 2;

/// What [`LineMac::seal`] adds to a body at most: a number of 20 digits, and the newline.
pub(super) const SEAL: usize = 7 + 20 + SUFFIX + 1;

/// A line taken apart. Nothing in it is verified.
pub(super) struct Sealed<'a> {
    signed: &'a [u8],
    /// What the line says of itself.
    pub(super) claim: Anchor,
}

impl<'a> Sealed<'a> {
    /// Reads the end of a line (without its newline). None when it has not the exact form that
    /// [`LineMac::seal`] writes.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let (signed, suffix) = line.split_at_checked(line.len().checked_sub(SUFFIX)?)?;
        let hex = suffix.strip_prefix(MAC)?.strip_suffix(b"\"}")?;
        let mac = tag_from_hex(hex)?;
        let digits = signed.iter().rev().take_while(|b| b.is_ascii_digit()).count();
        let (before, number) = signed.split_at_checked(signed.len() - digits)?;
        before.ends_with(SEQ).then_some(())?;
        let canonical = !number.starts_with(b"0");
        let seq = std::str::from_utf8(number).ok()?.parse().ok()?;
        let claim = Anchor { seq, mac };
        canonical.then_some(Self { signed, claim })
    }

    /// Whether the line is genuine after a record with this MAC.
    pub(super) fn follows(&self, keys: &Keys, before: &Tag) -> bool {
        keys.record(self.signed, before) == self.claim.mac
    }
}

/// 32 bytes from 64 lower-case hex digits.
pub(super) fn tag_from_hex(hex: &[u8]) -> Option<Tag> {
    let mut tag = [0; 32];
    (hex.len() == 64).then_some(())?;
    HEXLOWER.decode_mut(hex, &mut tag).ok()?;
    Some(tag)
}

fn push_hex(out: &mut Vec<u8>, tag: &Tag) {
    let mut hex = [0; 64];
    HEXLOWER.encode_mut(tag, &mut hex);
    out.extend_from_slice(&hex);
}

pub(super) fn push_decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        // Invariant: a remainder of ten fits into a byte.
        *digit = b'0' + u8::try_from(n % 10).unwrap_or(0);
        n /= 10;
        start -= 1;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn keys() -> Keys {
        Keys::new(&Secret::new((0..32).collect())).unwrap()
    }

    #[test]
    fn decimals() {
        for n in [0, 1, 9, 10, 99, 100, 18_446_744_073_709_551_615] {
            let mut out = Vec::new();
            push_decimal(&mut out, n);
            assert_eq!(out, n.to_string().into_bytes());
        }
    }

    #[test]
    fn a_sealed_line_parses_and_follows_only_its_own_predecessor() {
        let keys = keys();
        let before = Anchor { seq: 41, mac: keys.genesis(&[7; 16]) };
        let mut line = Vec::new();
        let body = br#"{"time":"t","kind":"event""#;
        let at = keys.begin(body).seal(body, before, &mut line);
        assert_eq!(at.seq, 42);
        assert!(line.len() <= body.len() + SEAL);
        let line = line.strip_suffix(b"\n").unwrap();
        let sealed = Sealed::parse(line).unwrap();
        assert_eq!(sealed.claim, at);
        assert!(sealed.follows(&keys, &before.mac));
        assert!(!sealed.follows(&keys, &at.mac));
        assert_eq!(at.to_string().parse(), Ok(at));
    }

    #[test]
    fn other_forms_of_a_line_are_no_lines() {
        let hex = "0".repeat(64);
        let good = format!(r#"{{"time":"t","seq":7,"mac":"{hex}"}}"#);
        assert!(Sealed::parse(good.as_bytes()).is_some());
        for (from, to) in [
            (r#""seq":7"#, r#""seq":07"#),
            (r#""seq":7"#, r#""seq":+7"#),
            (r#""seq":7"#, r#""seq": 7"#),
            (r#""seq":7"#, r#""seq":"#),
            (r#""seq":7"#, r#""seq":99999999999999999999"#),
            (r#""mac":"0"#, r#""mac":"A"#),
            (r#""mac":"0"#, r#""mac":""#),
            ("\"}", "\"} "),
        ] {
            let bad = good.replacen(from, to, 1);
            assert!(Sealed::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Sealed::parse(b"").is_none());
    }

    /// The vector of `docs/AUDIT_FORMAT.md`.
    #[test]
    fn vector() {
        let keys = keys();
        let log: LogId = std::array::from_fn(|i| u8::try_from(i).unwrap() + 0xa0);
        let genesis = Anchor { seq: 0, mac: keys.genesis(&log) };
        let body =
            br#"{"time":"2026-11-21T12:00:00.000000Z","kind":"event","event":"proxy-started""#;
        let mut line = Vec::new();
        let at = keys.begin(body).seal(body, genesis, &mut line);
        assert_eq!(genesis.mac_hex(), VECTOR_GENESIS);
        assert_eq!(at.mac_hex(), VECTOR_MAC);
    }

    const VECTOR_GENESIS: &str = "398f43d3a60e446bac2a09d80c9b16be97d4eb18f6e636913894c6c8593170e4";
    const VECTOR_MAC: &str = "a9ceffe538edd9b90dd0a0a4e51a88453c97b1d9ba3fb7f3b40f210b6d85742e";
}
