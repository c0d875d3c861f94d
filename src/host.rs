//! Where a request goes: hosts, origins, and the patterns that name sets of them.
//!
//! Every spelling of a host is settled here, once: lower case, no trailing dot, IDNA to ASCII, one
//! form of an address. What has no single meaning (`127.1`, `0x7f.0.0.1`, `a..b`) is an error, so
//! that the policy, the pool and the dialler can never read one name in two ways.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// A host in its one canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name: lower-case ASCII, no trailing dot, 1 to 253 bytes.
    Name(Arc<str>),
    /// An address. IPv4-mapped IPv6 (`::ffff:a.b.c.d`) is already IPv4 here.
    Address(IpAddr),
}

/// Why a text is not a host, an authority or a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// Nothing there.
    Empty,
    /// A byte that no host name has, such as a space, `@`, `%` or a control character.
    Character,
    /// An empty label, one over 63 bytes, or a name over 253 bytes.
    Label,
    /// A name that some readers take for an address and others do not, such as `127.1`.
    AmbiguousAddress,
    /// Not valid under IDNA (UTS 46).
    Idna,
    /// An IPv6 address that is not in brackets, or not in both.
    Bracket,
    /// A user name, or one with a password, before the host.
    Userinfo,
    /// The port is missing, zero, or over 65535.
    Port,
    /// A wildcard for the port.
    AnyPort,
    /// The scheme is neither `https` nor `http`.
    Scheme,
    /// A destination has a scheme, a host and a port, and nothing after them.
    Trailing,
    /// `*` stands for one whole label and `**` for one or more; parts of labels have no wildcard.
    Wildcard,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the host is empty",
            Self::Character => "the host has a character that no host name has",
            Self::Label => {
                "the host has an empty label, a label over 63 bytes, or is over 253 bytes"
            }
            Self::AmbiguousAddress => {
                "the host could be read as an address in more than one way; write a.b.c.d or [v6]"
            }
            Self::Idna => "the host is not a valid internationalised name (IDNA)",
            Self::Bracket => {
                "an IPv6 address stands in brackets, with the port behind them: [::1]:443"
            }
            Self::Userinfo => {
                "a user name or password does not belong here; a credential of the vault has it"
            }
            Self::Port => "the port is not a number from 1 to 65535",
            Self::AnyPort => "a port has no wildcard; write each port as a destination of its own",
            Self::Scheme => "the scheme is missing or unknown; write https://host or http://host",
            Self::Trailing => "a destination ends after host and port; paths go into `paths`",
            Self::Wildcard => {
                "`*` stands for one whole label, `**` for one or more, `*` alone for any host"
            }
        })
    }
}

impl std::error::Error for HostError {}

impl Host {
    /// Reads a host as it stands in an authority (IPv6 in brackets) and brings it to its canonical
    /// form (RFC 3986 section 3.2.2, UTS 46).
    ///
    /// # Errors
    /// [`HostError`] when it is not a host, or when it has more than one reading.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostError::Character)?;
            let v6: Ipv6Addr = inner.parse().map_err(|_| HostError::Character)?;
            return Ok(Self::Address(IpAddr::V6(v6).to_canonical()));
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        let ascii = Self::to_ascii(text)?;
        check_labels(&ascii)?;
        if last_label_is_numeric(&ascii) {
            let v4: Ipv4Addr = ascii.parse().map_err(|_| HostError::AmbiguousAddress)?;
            return Ok(Self::Address(IpAddr::V4(v4)));
        }
        Ok(Self::Name(ascii.into()))
    }

    /// Lower-case ASCII. Plain names skip the IDNA tables: they are nearly all there are.
    fn to_ascii(text: &str) -> Result<String, HostError> {
        let plain = text.is_ascii() && !text.to_ascii_lowercase().contains("xn--");
        let ascii = if plain {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii(text).map_err(|_| HostError::Idna)?
        };
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if ascii.bytes().all(legal) { Ok(ascii) } else { Err(HostError::Character) }
    }

    /// The address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name(_) => None,
        }
    }

    /// The DNS name, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }

    /// `a.b.c`, `b.c`, `c`: every end that a pattern may have. An address has none.
    pub fn suffixes(&self) -> impl Iterator<Item = &str> {
        let name = self.name().into_iter();
        let behind = |name| str::match_indices(name, '.').map(move |(at, _)| &name[at + 1..]);
        name.clone().chain(name.flat_map(behind))
    }
}

fn check_labels(ascii: &str) -> Result<(), HostError> {
    let fits = ascii.len() <= 253 && ascii.split('.').all(|l| (1..=63).contains(&l.len()));
    if fits { Ok(()) } else { Err(HostError::Label) }
}

/// Whether a reader may take the name for an IPv4 address: WHATWG URL, "ends in a number checker".
fn last_label_is_numeric(ascii: &str) -> bool {
    let last = ascii.rsplit('.').next().unwrap_or(ascii);
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    digits(last) || last.strip_prefix("0x").is_some_and(hex)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// How the origin is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Over verified TLS. The only scheme that may carry a credential.
    Https,
    /// In the clear.
    Http,
}

impl Scheme {
    /// The port that the scheme means when none is written.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }

    /// `https` or `http`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A host and a port: the target of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    /// Canonical host.
    pub host: Host,
    /// 1 to 65535.
    pub port: u16,
}

impl Authority {
    /// Reads `host:port`; `default` is the port when none is written. Userinfo is refused: a
    /// reader that stops at `@` and one that does not would see two hosts.
    ///
    /// # Errors
    /// [`HostError`] when host or port are not what they should be.
    pub fn parse(text: &str, default: Option<u16>) -> Result<Self, HostError> {
        let (host, port) = split_port(text)?;
        let port = match port {
            Some(digits) => parse_port(digits)?,
            None => default.ok_or(HostError::Port)?,
        };
        Ok(Self { host: Host::parse(host)?, port })
    }
}

/// Splits off `:port`, minding the colons of a bracketed IPv6 address.
fn split_port(text: &str) -> Result<(&str, Option<&str>), HostError> {
    if text.contains('@') {
        return Err(HostError::Userinfo);
    }
    let colons = || text.bytes().filter(|b| *b == b':').count();
    if text.starts_with('[') != text.contains(']') || (!text.starts_with('[') && colons() > 1) {
        return Err(HostError::Bracket);
    }
    let tail_start = match text.rfind(']') {
        Some(bracket) => bracket + 1,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, tail) = text.split_at(tail_start);
    if tail.is_empty() {
        return Ok((host, None));
    }
    tail.strip_prefix(':').map(|port| (host, Some(port))).ok_or(HostError::Character)
}

fn parse_port(digits: &str) -> Result<u16, HostError> {
    if digits == "*" {
        return Err(HostError::AnyPort);
    }
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    digits.parse().ok().filter(|port| *port != 0).ok_or(HostError::Port)
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Scheme, host and port of an origin server (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Who is spoken to.
    pub authority: Authority,
}

impl Origin {
    /// What stands in `Host`: without the port that the scheme has anyway.
    #[must_use]
    pub fn host_field(&self) -> String {
        if self.authority.port == self.scheme.default_port() {
            self.authority.host.to_string()
        } else {
            self.authority.to_string()
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority.host)?;
        if self.authority.port == self.scheme.default_port() {
            return Ok(());
        }
        write!(f, ":{}", self.authority.port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Label {
    Literal(Box<str>),
    /// `*`: exactly one label.
    One,
    /// `**`: one or more labels.
    Many,
}

/// A set of hosts: one host, a name with wildcard labels, or any host. Never a bare suffix match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern(PatternKind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PatternKind {
    Any,
    Exact(Host),
    Labels(Box<[Label]>),
}

impl HostPattern {
    /// Whether `host` is in the set.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        match (&self.0, host) {
            (PatternKind::Any, _) => true,
            (PatternKind::Exact(exact), host) => exact == host,
            (PatternKind::Labels(labels), Host::Name(name)) => {
                match_labels(labels, &mut name.split('.'))
            }
            (PatternKind::Labels(_), Host::Address(_)) => false,
        }
    }

    /// Whether each host of `other` is in the set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (PatternKind::Any, _) => true,
            (_, PatternKind::Exact(host)) => self.matches(host),
            (PatternKind::Labels(all), PatternKind::Labels(few)) => covers_labels(all, few),
            (PatternKind::Exact(_) | PatternKind::Labels(_), _) => false,
        }
    }

    /// Whether a host may be in both sets. That a name has at most 253 bytes is not looked at.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (PatternKind::Any, _) | (_, PatternKind::Any) => true,
            (PatternKind::Exact(host), _) => other.matches(host),
            (_, PatternKind::Exact(host)) => self.matches(host),
            (PatternKind::Labels(a), PatternKind::Labels(b)) => labels_meet(a, b),
        }
    }

    /// The one host that the pattern names, if it names just one.
    #[must_use]
    pub fn exact(&self) -> Option<&Host> {
        match &self.0 {
            PatternKind::Exact(host) => Some(host),
            _ => None,
        }
    }

    /// Whether it is `*` as the whole host.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0 == PatternKind::Any
    }

    /// Whether these are the literal labels at its end, as [`Self::literal_suffix`] has them, and none before them:
    /// `""` for a pattern that has none, or that any host is in.
    #[must_use]
    pub fn has_suffix(&self, suffix: &str) -> bool {
        let PatternKind::Labels(labels) = &self.0 else {
            return self.is_any() && suffix.is_empty();
        };
        let literal = labels.iter().rev().map_while(|label| match label {
            Label::Literal(text) => Some(&**text),
            Label::One | Label::Many => None,
        });
        literal.eq(suffix.rsplit('.').filter(|label| !label.is_empty()))
    }

    /// The literal labels at the end, such as `amazonaws.com` of `s3.*.amazonaws.com`: what decides
    /// who can register a matching name.
    #[must_use]
    pub fn literal_suffix(&self) -> Option<String> {
        let PatternKind::Labels(labels) = &self.0 else {
            return None;
        };
        let tail: Vec<&str> = labels
            .iter()
            .rev()
            .map_while(|l| match l {
                Label::Literal(text) => Some(&**text),
                Label::One | Label::Many => None,
            })
            .collect();
        Some(tail.into_iter().rev().collect::<Vec<_>>().join("."))
    }
}

/// Whether names right below this one are given to the public (publicsuffix.org): `com`, `co.uk`,
/// `github.io`. What the list does not know is somebody's own, such as `internal`.
#[must_use]
pub fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|s| s.is_known() && s.as_bytes() == name.as_bytes())
}

/// Matches label by label from the left. A host has at most 127 labels and a pattern few wildcards,
/// so trying every split of `**` is bounded.
fn match_labels<'a>(
    pattern: &[Label],
    labels: &mut (impl Iterator<Item = &'a str> + Clone),
) -> bool {
    let Some((first, rest)) = pattern.split_first() else {
        return labels.next().is_none();
    };
    let Some(label) = labels.next() else {
        return false;
    };
    match first {
        Label::Literal(text) => **text == *label && match_labels(rest, labels),
        Label::One => match_labels(rest, labels),
        Label::Many => loop {
            if match_labels(rest, &mut labels.clone()) {
                return true;
            }
            if labels.next().is_none() {
                return false;
            }
        },
    }
}

/// Whether each name of `few` is one of `all`: what stands in `few` for any label has to be met by what
/// stands for any.
fn covers_labels(all: &[Label], few: &[Label]) -> bool {
    let Some(((first, rest), (label, more))) = all.split_first().zip(few.split_first()) else {
        return all.is_empty() && few.is_empty();
    };
    match first {
        Label::Literal(_) => first == label && covers_labels(rest, more),
        Label::One => *label != Label::Many && covers_labels(rest, more),
        Label::Many => (1..=few.len()).any(|taken| covers_labels(rest, &few[taken..])),
    }
}

/// Whether a name is in both. A pattern has one `**` at most, so the ways to try are few.
fn labels_meet(a: &[Label], b: &[Label]) -> bool {
    let Some(((first, rest), (other, others))) = a.split_first().zip(b.split_first()) else {
        return a.is_empty() && b.is_empty();
    };
    if let (Label::Literal(text), Label::Literal(other)) = (first, other)
        && text != other
    {
        return false;
    }
    labels_meet(rest, others)
        || (*first == Label::Many && labels_meet(a, others))
        || (*other == Label::Many && labels_meet(rest, b))
}

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text == "*" {
            return Ok(Self(PatternKind::Any));
        }
        if !text.contains('*') {
            return Ok(Self(PatternKind::Exact(Host::parse(text)?)));
        }
        let labels: Vec<Label> = text.split('.').map(parse_label).collect::<Result<_, _>>()?;
        // Two `**` would make matching ambiguous and slow for no use anybody has.
        let many = labels.iter().filter(|l| **l == Label::Many).count();
        let literals = labels.iter().filter(|l| matches!(l, Label::Literal(_))).count();
        if many > 1 || literals == 0 {
            return Err(HostError::Wildcard);
        }
        Ok(Self(PatternKind::Labels(labels.into())))
    }
}

fn parse_label(text: &str) -> Result<Label, HostError> {
    match text {
        "*" => Ok(Label::One),
        "**" => Ok(Label::Many),
        _ if text.contains('*') => Err(HostError::Wildcard),
        _ => {
            let ascii = Host::to_ascii(text)?;
            check_labels(&ascii)?;
            Ok(Label::Literal(ascii.into()))
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            PatternKind::Any => f.write_str("*"),
            PatternKind::Exact(host) => host.fmt(f),
            PatternKind::Labels(labels) => {
                for (i, label) in labels.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { "." })?;
                    f.write_str(match label {
                        Label::Literal(text) => text,
                        Label::One => "*",
                        Label::Many => "**",
                    })?;
                }
                Ok(())
            }
        }
    }
}

/// A set of origins: scheme, host pattern, port. No port written means the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The scheme, exactly.
    pub scheme: Scheme,
    /// The hosts.
    pub host: HostPattern,
    /// The port, exactly.
    pub port: u16,
}

impl Destination {
    /// Whether `origin` is in the set.
    #[must_use]
    pub fn matches(&self, origin: &Origin) -> bool {
        self.scheme == origin.scheme
            && self.port == origin.authority.port
            && self.host.matches(&origin.authority.host)
    }

    /// Whether each origin of `other` is in the set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let same = self.scheme == other.scheme && self.port == other.port;
        same && self.host.covers(&other.host)
    }

    /// Whether an origin may be in both sets.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let same = self.scheme == other.scheme && self.port == other.port;
        same && self.host.meets(&other.host)
    }
}

impl FromStr for Destination {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (scheme, rest) = text.split_once("://").ok_or(HostError::Scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            // A WebSocket is a request like any other until it is answered (RFC 6455 section 3).
            "https" | "wss" => Scheme::Https,
            "http" | "ws" => Scheme::Http,
            _ => return Err(HostError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(HostError::Trailing);
        }
        let (host, port) = split_port(rest)?;
        let port = port.map_or(Ok(scheme.default_port()), parse_port)?;
        Ok(Self { scheme, host: host.parse()?, port })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.port == self.scheme.default_port() {
            return Ok(());
        }
        write!(f, ":{}", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn origin(text: &str) -> Origin {
        let d: Destination = text.parse().unwrap();
        let host = d.host.exact().unwrap().clone();
        Origin { scheme: d.scheme, authority: Authority { host, port: d.port } }
    }

    #[test]
    fn spellings_of_one_host_are_one_host() {
        for same in ["API.OpenAI.com", "api.openai.com.", "api.openai.com"] {
            assert_eq!(host(same), host("api.openai.com"), "{same}");
        }
        assert_eq!(host("bücher.example"), host("XN--BCHER-KVA.example"));
        assert_eq!(host("[::ffff:127.0.0.1]"), host("127.0.0.1"));
        assert_eq!(host("[0:0::1]").to_string(), "[::1]");
    }

    #[test]
    fn hosts_with_two_readings_are_refused() {
        for (text, why) in [
            ("127.1", HostError::AmbiguousAddress),
            ("2130706433", HostError::AmbiguousAddress),
            ("0x7f.0.0.1", HostError::AmbiguousAddress),
            ("0x7f000001", HostError::AmbiguousAddress),
            ("0177.0.0.1", HostError::AmbiguousAddress),
            ("1.2.3.4.5", HostError::AmbiguousAddress),
            ("example.0x", HostError::AmbiguousAddress),
            ("１２７.1", HostError::AmbiguousAddress),
            ("a..b", HostError::Label),
            (".a", HostError::Label),
            ("", HostError::Empty),
            (".", HostError::Empty),
            ("user@host", HostError::Character),
            ("a b", HostError::Character),
            ("a%2eb", HostError::Character),
            ("a\0b", HostError::Character),
            ("[::1%25eth0]", HostError::Character),
            ("[::1", HostError::Character),
        ] {
            assert_eq!(Host::parse(text), Err(why), "{text:?}");
        }
        assert!(Host::parse(&"a".repeat(64)).is_err());
    }

    #[test]
    fn authorities() {
        let ok = |t: &str| Authority::parse(t, None).unwrap().to_string();
        assert_eq!(ok("Example.com:8443"), "example.com:8443");
        assert_eq!(ok("[::1]:443"), "[::1]:443");
        assert_eq!(Authority::parse("a.test", Some(443)).unwrap().port, 443);
        for bad in
            ["a.test", "a.test:", "a.test:0", "a.test:65536", "a.test:+80", "a:1:2", "[::1]x"]
        {
            assert!(Authority::parse(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn star_is_one_label_and_never_a_suffix() {
        let p: HostPattern = "*.example.com".parse().unwrap();
        assert!(p.matches(&host("a.example.com")));
        for no in ["example.com", "a.b.example.com", "evilexample.com", "a.example.com.evil.test"] {
            assert!(!p.matches(&host(no)), "{no}");
        }
        let p: HostPattern = "**.example.com".parse().unwrap();
        assert!(p.matches(&host("a.b.example.com")) && !p.matches(&host("example.com")));
        let p: HostPattern = "s3.*.amazonaws.com".parse().unwrap();
        assert!(p.matches(&host("s3.eu-west-1.amazonaws.com")));
        assert_eq!(p.literal_suffix().as_deref(), Some("amazonaws.com"));
        let any: HostPattern = "*".parse().unwrap();
        assert!(any.matches(&host("10.0.0.1")) && any.matches(&host("x.y")));
        for bad in ["a*.example.com", "*.*", "**.a.**", "*-b.c"] {
            assert_eq!(bad.parse::<HostPattern>(), Err(HostError::Wildcard), "{bad}");
        }
    }

    #[test]
    fn patterns_that_cover_or_meet_another() {
        let pattern = |text: &str| text.parse::<HostPattern>().unwrap();
        for (a, b, covers, meets) in [
            ("*", "10.0.0.1", true, true),
            ("*", "**.test", true, true),
            ("**.test", "*", false, true),
            ("*.test", "a.test", true, true),
            ("*.test", "a.b.test", false, false),
            ("*.test", "10.0.0.1", false, false),
            ("**.acme.test", "*.acme.test", true, true),
            ("*.acme.test", "**.acme.test", false, true),
            ("**.test", "*.a.test", true, true),
            ("**.test", "a.**.test", true, true),
            ("a.**.test", "**.test", false, true),
            ("*.a.test", "*.b.test", false, false),
            ("*.a.test", "b.*.test", false, true),
            ("*.*.test", "**.test", false, true),
            ("**.test", "*.*.test", true, true),
            ("a.**.test", "**.b.test", false, true),
            ("a.**.test", "b.**.test", false, false),
            ("**.a.test", "**.b.test", false, false),
            ("a.**.x.test", "a.*.test", false, false),
            ("a.**.test", "a.*.x.test", true, true),
            ("*.test", "*.test", true, true),
        ] {
            let (a, b) = (pattern(a), pattern(b));
            assert_eq!((a.covers(&b), a.meets(&b)), (covers, meets), "{a} {b}");
            assert_eq!(b.meets(&a), meets, "{b} {a}");
        }
    }

    #[test]
    fn destinations_default_their_port_by_scheme() {
        let d: Destination = "https://API.test".parse().unwrap();
        assert!(d.matches(&origin("https://api.test:443")));
        assert!(!d.matches(&origin("https://api.test:8443")));
        assert!(!d.matches(&origin("http://api.test:443")));
        assert_eq!(d.to_string(), "https://api.test");
        for (bad, why) in [
            ("api.test", HostError::Scheme),
            ("ftp://a.test", HostError::Scheme),
            ("https://a.test/v1", HostError::Trailing),
            ("https://a.test?x", HostError::Trailing),
            ("https://u:p@a.test", HostError::Userinfo),
            ("https://u@a.test", HostError::Userinfo),
            ("https://[::1", HostError::Bracket),
            ("https://::1", HostError::Bracket),
            ("https://::1]:443", HostError::Bracket),
            ("https://[::1]443", HostError::Character),
            ("https://*.example.com:*", HostError::AnyPort),
            ("https://a.test:https", HostError::Port),
        ] {
            assert_eq!(bad.parse::<Destination>(), Err(why), "{bad}");
        }
    }
}
