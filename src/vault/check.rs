//! What may be stored: secrets that a header can carry, and credentials that cannot go astray.

use std::fmt;

use crate::agent::LabelsError;
use crate::credential::{MIN_STAND_IN, Slot};
use crate::host::{Destination, HostPattern, Scheme, is_public_suffix};
use crate::reference::{self, Name};

/// The fewest bytes of a secret, unless it is forced: shorter ones turn up in answers by chance, and
/// the scrubber would cut them out of unrelated text.
pub const MIN_SECRET: usize = 8;
/// The most bytes of a secret. Servers take headers of 8 to 16 KiB in all.
pub const MAX_SECRET: usize = 16 * 1024;
/// The most bytes of a note, a tag, or the name of who did something.
const MAX_TEXT: usize = 200;

/// Why a secret is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretProblem {
    /// Nothing there.
    Empty,
    /// Under [`MIN_SECRET`] bytes.
    Short,
    /// Over [`MAX_SECRET`] bytes.
    Long,
    /// CR or LF: it would end the header, and start another.
    LineBreak,
    /// NUL, tab, or another control character.
    Control,
    /// A byte beyond ASCII.
    NotAscii,
    /// A space at the start or the end: HTTP cuts it off.
    Space,
    /// It has a reference in it: the placeholder was given in the key's place.
    Reference,
    /// It starts with `Bearer ` or the like, which the slot puts there itself.
    Scheme,
}

impl fmt::Display for SecretProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the secret is empty"),
            Self::Short => write!(
                f,
                "the secret is under {MIN_SECRET} bytes: as short a text turns up in answers by \
                 chance; use --force-short if it is right"
            ),
            Self::Long => {
                write!(f, "the secret is over {MAX_SECRET} bytes, more than a header can carry")
            }
            Self::LineBreak => f.write_str(
                "the secret has a line break inside, which no header can carry; give one line",
            ),
            Self::Control => {
                f.write_str("the secret has a control character in it, which no header can carry")
            }
            Self::NotAscii => f.write_str(
                "the secret has a character beyond ASCII; was it copied from formatted text?",
            ),
            Self::Space => {
                f.write_str("the secret starts or ends with a space, which HTTP cuts off")
            }
            Self::Reference => f.write_str(
                "the secret has `locum_` in it: this is a placeholder, and not the key itself",
            ),
            Self::Scheme => f.write_str(
                "the secret starts with the name of an auth scheme; give the key alone, the slot \
                 puts the rest around it",
            ),
        }
    }
}

impl std::error::Error for SecretProblem {}

/// Whether `secret` can be stored, and sent. `force_short` lets one under [`MIN_SECRET`] pass.
///
/// # Errors
/// [`SecretProblem`], the first that is found.
pub fn validate_secret(secret: &[u8], force_short: bool) -> Result<(), SecretProblem> {
    use SecretProblem as P;
    let has = |f: fn(&u8) -> bool| secret.iter().any(f);
    let problems = [
        (secret.is_empty(), P::Empty),
        (has(|b| matches!(b, b'\r' | b'\n')), P::LineBreak),
        (has(u8::is_ascii_control), P::Control),
        (!secret.is_ascii(), P::NotAscii),
        (secret.trim_ascii().len() != secret.len(), P::Space),
        (secret.len() > MAX_SECRET, P::Long),
        (reference::occurs(secret), P::Reference),
        (starts_with_scheme(secret), P::Scheme),
        (secret.len() < MIN_SECRET && !force_short, P::Short),
    ];
    problems.into_iter().find_map(|(bad, why)| bad.then_some(Err(why))).unwrap_or(Ok(()))
}

fn starts_with_scheme(secret: &[u8]) -> bool {
    [&b"bearer "[..], b"basic "].iter().any(|scheme| {
        secret
            .split_at_checked(scheme.len())
            .is_some_and(|(start, _)| start.eq_ignore_ascii_case(scheme))
    })
}

/// The value without the one line end that `echo` and editors put after it. More than one is
/// left, for [`validate_secret`] to refuse.
#[must_use]
pub fn without_line_end(piped: &[u8]) -> &[u8] {
    let piped = piped.strip_suffix(b"\n").unwrap_or(piped);
    piped.strip_suffix(b"\r").unwrap_or(piped)
}

/// Why what was given is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// A credential without destinations would go nowhere.
    NoDestination,
    /// A destination in the clear.
    Plaintext(Destination),
    /// A destination that anyone can have a host in.
    Unbound(Destination),
    /// The same, below a name of the public suffix list.
    Public(Destination),
    /// A credential without slots would enter nowhere.
    NoSlot,
    /// A destination or slot is there twice.
    Twice(String),
    /// A slot that does not read back as it was written.
    Slot(String),
    /// The stand-in is too short to be told from other text.
    StandInShort,
    /// The stand-in does not contain the credential's reference.
    StandInReference(Name),
    /// The stand-in has a character that no header can carry, or a space.
    StandInCharacter,
    /// The stand-in is itself a reference to another name.
    StandInIsReference,
    /// A tag or note is empty, too long, or has a control character in it.
    Text(&'static str),
    /// A set without members when it is made.
    NoMembers,
    /// Labels that are none.
    Labels(LabelsError),
    /// The workspace has as many administrators as it may, so many.
    Administrators(usize),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDestination => {
                f.write_str("a credential needs at least one destination; use --to")
            }
            Self::Plaintext(to) => {
                write!(f, "a credential never travels without TLS: write https:// in {to}")
            }
            Self::Unbound(to) => write!(
                f,
                "anyone can have a host that matches {to}; name the hosts that the credential is for"
            ),
            Self::Public(to) => write!(
                f,
                "anyone can register a host that matches {to}, by the public suffix list; name the hosts that the \
                 credential is for"
            ),
            Self::NoSlot => f.write_str("a credential needs at least one slot, such as --header"),
            Self::Twice(text) => write!(f, "'{text}' is there twice"),
            Self::Slot(text) => write!(f, "the slot '{text}' has more than one reading"),
            Self::StandInShort => write!(
                f,
                "a stand-in has at least {MIN_STAND_IN} characters: shorter texts turn up by chance"
            ),
            Self::StandInReference(name) => {
                write!(f, "the stand-in must have {} in it", name.reference())
            }
            Self::StandInCharacter => {
                f.write_str("a stand-in has only visible ASCII characters, and no space")
            }
            Self::StandInIsReference => f.write_str(
                "the stand-in reads as a reference to another name; put something other than a-z, \
                 0-9 and `-` after the reference",
            ),
            Self::Administrators(most) => write!(
                f,
                "a workspace has {most} administrators at most; revoke those who are none any more"
            ),
            Self::Text(what) => {
                write!(f, "{what} has 1 to {MAX_TEXT} characters, and no control characters")
            }
            Self::Labels(error) => error.fmt(f),
            Self::NoMembers => f.write_str("a set needs at least one member"),
        }
    }
}

impl std::error::Error for Invalid {}

/// Whether a credential can be bound to these.
pub(super) fn destinations(all: &[Destination]) -> Result<(), Invalid> {
    if all.is_empty() {
        return Err(Invalid::NoDestination);
    }
    for to in all {
        if to.scheme != Scheme::Https {
            return Err(Invalid::Plaintext(to.clone()));
        }
        if !is_bounded(&to.host) {
            return Err(Invalid::Unbound(to.clone()));
        }
    }
    not_twice(all)
}

/// Top-level names that nobody can register under (RFC 6761, RFC 6762, ICANN on `internal`) and
/// that private networks are known to use.
const PRIVATE_SUFFIXES: [&str; 8] =
    ["internal", "local", "localhost", "test", "lan", "corp", "home", "intranet"];

/// Whether one party decides who has a matching host: one host, or wildcards under a name that
/// somebody owns. `https://*` and `https://*.com` would let a credential go to anyone.
fn is_bounded(host: &HostPattern) -> bool {
    if host.exact().is_some() {
        return true;
    }
    host.literal_suffix()
        .is_some_and(|suffix| suffix.contains('.') || PRIVATE_SUFFIXES.contains(&suffix.as_str()))
}

/// Names of the public suffix list under which nobody but their owner has hosts: they are there for cookies' sake.
const OWNED_SUFFIXES: [&str; 1] = ["googleapis.com"];

/// Whether no wildcard among these lies right below a name that the public registers hosts under, as
/// `https://*.github.io` does: whoever gets there is told the secret.
pub(super) fn owned(all: &[Destination]) -> Result<(), Invalid> {
    let is_public = |to: &&Destination| {
        let suffix = to.host.exact().is_none().then(|| to.host.literal_suffix()).flatten();
        suffix.is_some_and(|suffix| {
            is_public_suffix(&suffix) && !OWNED_SUFFIXES.contains(&suffix.as_str())
        })
    };
    all.iter().find(is_public).map_or(Ok(()), |to| Err(Invalid::Public(to.clone())))
}

/// Whether each thing is there once, by its text.
pub(super) fn not_twice(all: &[impl fmt::Display]) -> Result<(), Invalid> {
    let mut texts: Vec<String> = all.iter().map(ToString::to_string).collect();
    texts.sort_unstable();
    match texts.windows(2).find(|pair| pair.first() == pair.last()) {
        Some(pair) => Err(Invalid::Twice(pair.first().cloned().unwrap_or_default())),
        None => Ok(()),
    }
}

/// Whether `text` can stand for the credential of this name.
pub(super) fn stand_in(text: &str, name: &Name) -> Result<(), Invalid> {
    if text.len() < MIN_STAND_IN {
        return Err(Invalid::StandInShort);
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Invalid::StandInCharacter);
    }
    if !text.contains(&name.reference()) {
        return Err(Invalid::StandInReference(name.clone()));
    }
    if reference::whole(text.as_bytes()).is_some_and(|other| other != name.as_str()) {
        return Err(Invalid::StandInIsReference);
    }
    Ok(())
}

/// Whether a tag, a note or a person's name can be stored, and printed.
pub(super) fn text(what: &'static str, text: &str) -> Result<(), Invalid> {
    let fits = (1..=MAX_TEXT).contains(&text.chars().count());
    if fits && !text.chars().any(char::is_control) { Ok(()) } else { Err(Invalid::Text(what)) }
}

/// Whether a credential can enter by these.
pub(super) fn slots(all: &[Slot]) -> Result<(), Invalid> {
    if all.is_empty() {
        return Err(Invalid::NoSlot);
    }
    for slot in all {
        // The vault keeps the text, and the seal is over the text.
        let text = slot.to_string();
        if text.parse::<Slot>().as_ref() != Ok(slot) {
            return Err(Invalid::Slot(text));
        }
    }
    not_twice(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_a_header_cannot_carry_are_refused() {
        use SecretProblem as P;
        let long = vec![b'a'; MAX_SECRET + 1];
        for (secret, why) in [
            (&b""[..], P::Empty),
            (b"sk-12345\r\nX: y", P::LineBreak),
            (b"sk-12345\n", P::LineBreak),
            (b"sk-123\x0045", P::Control),
            (b"sk-123\t45", P::Control),
            (b"sk-123\x7f45", P::Control),
            ("sk-1234–5".as_bytes(), P::NotAscii),
            (b"\xff\xfe12345678", P::NotAscii),
            (b" sk-12345", P::Space),
            (b"sk-12345 ", P::Space),
            (b"sk-proj-locum_openai_000", P::Reference),
            (b"Bearer sk-12345", P::Scheme),
            (b"basic dTpw12345", P::Scheme),
            (b"1234567", P::Short),
            (&long, P::Long),
        ] {
            assert_eq!(validate_secret(secret, false), Err(why), "{}", secret.escape_ascii());
        }
        for good in ["sk-12345", "correct horse battery staple", "a:b/c+d=={}~"] {
            assert_eq!(validate_secret(good.as_bytes(), false), Ok(()), "{good}");
        }
        assert_eq!(validate_secret(b"1234567", true), Ok(()));
        assert_eq!(validate_secret(b"", true), Err(P::Empty));
    }

    #[test]
    fn one_line_end_is_cut_off_and_no_more() {
        for (piped, value) in [
            ("key\n", "key"),
            ("key\r\n", "key"),
            ("key", "key"),
            ("key\n\n", "key\n"),
            ("key \n", "key "),
            ("\n", ""),
        ] {
            assert_eq!(without_line_end(piped.as_bytes()), value.as_bytes(), "{piped:?}");
        }
    }

    #[test]
    fn a_credential_is_bound_to_hosts_that_one_party_decides_about() {
        let check = |to: &str| destinations(&[to.parse().unwrap()]);
        for good in [
            "https://api.example.com",
            "https://*.example.com:8443",
            "https://s3.*.amazonaws.com",
            "https://**.svc.internal",
            "https://*.internal",
            "https://10.0.0.1",
            "https://[::1]:8443",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for unbound in ["https://*", "https://*.com", "https://**.com", "https://api.*"] {
            assert!(matches!(check(unbound), Err(Invalid::Unbound(_))), "{unbound}");
        }
        for public in
            ["*.vercel.app", "**.github.io", "*.s3.amazonaws.com", "*.co.uk", "*.workers.dev"]
        {
            let to = format!("https://{public}").parse().unwrap();
            assert!(matches!(owned(&[to]), Err(Invalid::Public(_))), "{public}");
        }
        for owned_by_one in [
            "*.googleapis.com",
            "mine.github.io",
            "*.mine.github.io",
            "*.example.com",
            "*.internal",
        ] {
            let to = format!("https://{owned_by_one}").parse().unwrap();
            assert_eq!(owned(&[to]), Ok(()), "{owned_by_one}");
        }
        assert!(matches!(check("http://api.example.com"), Err(Invalid::Plaintext(_))));
        assert_eq!(destinations(&[]), Err(Invalid::NoDestination));
        let twice = ["https://a.test".parse().unwrap(), "https://A.test:443/".parse().unwrap()];
        assert_eq!(destinations(&twice), Err(Invalid::Twice("https://a.test".into())));
    }

    #[test]
    fn stand_ins_hold_their_own_reference() {
        let check = |text: &str| stand_in(text, &"openai".parse().unwrap());
        assert_eq!(check("sk-proj-locum_openai_0000"), Ok(()));
        for (text, why) in [
            ("sk-locum_openai", Invalid::StandInShort),
            ("sk-proj-locum_openai 0000", Invalid::StandInCharacter),
            ("sk-proj-locum_openai\u{e9}000", Invalid::StandInCharacter),
            ("sk-proj-locum_other_00000", Invalid::StandInReference("openai".parse().unwrap())),
            ("locum_openai-00000000000", Invalid::StandInIsReference),
        ] {
            assert_eq!(check(text), Err(why), "{text}");
        }
    }

    #[test]
    fn slots_must_read_back_as_they_were_meant() {
        use crate::credential::BasicPart;
        let odd = Slot::Basic { part: BasicPart::Password, other: "{secret}".into() };
        assert!(matches!(slots(&[odd]), Err(Invalid::Slot(_))));
        let one: Slot = "query key".parse().unwrap();
        assert!(matches!(slots(&[one.clone(), one]), Err(Invalid::Twice(_))));
        assert_eq!(slots(&[]), Err(Invalid::NoSlot));
    }
}
