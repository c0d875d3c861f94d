//! Where keys may stand: at a text that they begin with, or behind one that they are given to.

use std::ops::Range;
use std::sync::{LazyLock, OnceLock};

use regex::bytes::{Captures, Regex, RegexBuilder};

use super::{Hit, Rank, What, ends};

/// What may be found at a text.
pub(super) struct Place {
    what: What,
    pub(super) rank: Rank,
    /// As it is written; the search takes any case.
    pub(super) lead: Vec<u8>,
    /// Whether capitals matter.
    exact: bool,
    /// Whether the pattern begins with the text, or comes after it.
    includes: bool,
    /// What the text may not stand in the middle of.
    before: fn(u8) -> bool,
    /// Whether what comes after it is worth the pattern.
    likely: fn(&[u8]) -> bool,
    /// What the key is to look like; if it does not, it is somebody's else.
    form: Option<Pattern>,
    /// From its start. The key is its group `key`, which the quote `open` opened, or `bare`, which none did.
    pattern: Pattern,
}

/// A pattern from the start, which is compiled when it is first needed: few of them are, in most trees.
enum Pattern {
    /// Of one place.
    Own(String, OnceLock<Regex>),
    /// Of many.
    Shared(&'static LazyLock<Regex>),
}

impl Pattern {
    fn own(text: String) -> Self {
        Self::Own(text, OnceLock::new())
    }

    fn get(&self) -> &Regex {
        match self {
            Self::Own(text, built) => built.get_or_init(|| compile(text)),
            Self::Shared(built) => built,
        }
    }
}

/// How far a key can reach: the longest that the catalogue knows has 700 bytes.
pub(super) const REACH: usize = 2048;

/// A value in quotes, with all that passwords are made of and programs are not.
const QUOTED: &str = r"[0-9A-Za-z_+/!@#$%^*.~-][0-9A-Za-z_+/=.~:!@#$%^&*?-]{15,511}";

/// A value without quotes.
const BARE: &str = r"[0-9A-Za-z_+/][0-9A-Za-z_+/=.~:!@#$%^*-]{15,511}";

/// Between a name and its value: `NAME=`, `"name": "`, `name := '`, `name: &str = "`, and `name: NAME`
/// with its `value:` in the next place, as in manifests.
const GIVEN: &str = r#"(?:(?:\\?["'])?\]?(?:\s{0,2}:\s{0,2}&?(?:'static )?[A-Za-z][\w<>\[\]]{1,16}\s{0,4}=|\s{0,4}(?::=|=>|=|:))\s{0,4}|(?:\\?["'])?,?\s{1,60}(?:\\?["'])?value(?:\\?["'])?\s{0,2}[:=]\s{0,4})"#;

/// Between the name of a header and its value: `NAME: `, `"name", "`.
const HEADED: &str = r#"(?:\\?["'])?\]?\s{0,2}(?:=>|[:=,])\s{0,4}"#;

/// A value, in quotes or not.
fn value() -> String {
    format!(r#"(?:(?P<open>\\?["'`])(?P<key>{QUOTED})|(?P<bare>{BARE}))"#)
}

/// Behind the names of variables.
static OF_VARIABLE: LazyLock<Regex> = LazyLock::new(|| compile(&format!("{GIVEN}{}", value())));

/// Behind the names of headers.
static OF_HEADER: LazyLock<Regex> = LazyLock::new(|| compile(&format!("{HEADED}{}", value())));

/// Behind what secrets are called, also as the text of an XML element.
static OF_NAME: LazyLock<Regex> = LazyLock::new(|| {
    compile(&format!(r"[\w-]{{0,20}}(?:{GIVEN}{}|>(?P<text>{QUOTED})</)", value()))
});

/// What secrets are called, in part.
const NAMES: [&str; 16] = [
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "access-key",
    "secret",
    "token",
    "passwd",
    "password",
    "passphrase",
    "private_key",
    "signing_key",
    "encryption_key",
    "routing_key",
    "credential",
];

/// A header with a scheme, or a scheme alone: `Authorization: Bearer KEY`, `Token token=KEY`.
const SCHEMES: [(&str, &str); 2] = [
    ("authorization", r#"(?:\\?["'`])?(?:[A-Za-z][\w-]{0,29}\s{1,4}){0,2}(?:token=)?(?:\\?["'])?"#),
    ("bearer ", r"\s{0,4}"),
];

impl Place {
    /// Keys that begin with `lead`.
    pub(super) fn at(what: What, rank: Rank, lead: &str, pattern: &str) -> Self {
        let pattern = Pattern::own(format!("(?P<key>{pattern})"));
        Self { includes: true, before: ends::in_word, ..Self::new(what, rank, lead, pattern) }
    }

    /// Values of the variable `name`.
    pub(super) fn variable(what: What, name: &str) -> Self {
        let place = Self::new(what, Rank::Variable, name, Pattern::Shared(&OF_VARIABLE));
        Self { before: in_name, ..place }
    }

    /// Values of the header `name`, which another may have, too.
    pub(super) fn header(what: What, name: &str) -> Self {
        let pattern = if let What::Provider(provider) = what { provider.pattern() } else { None };
        let form = pattern.map(|pattern| Pattern::own(format!("(?:{pattern})$")));
        let place = Self::new(what, Rank::Variable, name, Pattern::Shared(&OF_HEADER));
        Self { before: ends::in_word, exact: false, form, ..place }
    }

    /// Keys of the form `pattern` that are given to something with the word of their provider in its name.
    pub(super) fn near(what: What, word: &str, pattern: &str) -> Self {
        let pattern = Pattern::own(format!(
            r#"(?P<name>(?:[_.-][\w.-]{{0,24}}|[A-Z][\w.-]{{0,24}})?)(?:\\?["'])?\]?\s{{0,4}}(?::=|=>|[=:,(])\s{{0,4}}(?:(?P<open>\\?["'`])(?P<key>{pattern})|(?P<bare>{pattern}))"#
        ));
        let rank = if what == What::Assigned { Rank::Called } else { Rank::Variable };
        let place = Self::new(what, rank, word, pattern);
        Self { before: |byte| byte.is_ascii_alphanumeric(), exact: false, ..place }
    }

    /// Keys of the form `pattern` in an address: `template` is a path around `{secret}`, in which `*` is a segment.
    pub(super) fn address(what: What, host: &str, template: &str, pattern: &str) -> Option<Self> {
        let (path, _) = template.split_once("{secret}")?;
        let fixed = path.split('*').next().unwrap_or_default();
        let lead = format!("{host}{fixed}");
        let path = regex_syntax::escape(path.get(fixed.len()..)?).replace(r"\*", "[0-9A-Za-z_.-]+");
        let pattern = Pattern::own(format!("{path}(?P<key>{pattern})"));
        let place = Self::new(what, Rank::Shape, &lead, pattern);
        Some(Self { before: ends::in_word, ..place })
    }

    /// What any secret may be found behind, whosever it is.
    pub(super) fn general() -> Vec<Self> {
        let after = |lead: &str, pattern: &str| {
            let place =
                Self::new(What::Assigned, Rank::Called, lead, Pattern::own(pattern.to_owned()));
            Self { exact: false, ..place }
        };
        let mut all: Vec<Self> = NAMES
            .iter()
            .map(|name| Self::new(What::Assigned, Rank::Called, name, Pattern::Shared(&OF_NAME)))
            .map(|place| Self { exact: false, ..place })
            .collect();
        for (lead, scheme) in SCHEMES {
            let given = if lead.ends_with(' ') { "" } else { HEADED };
            let pattern = format!("{given}{scheme}(?P<bare>{BARE})");
            all.push(Self { before: ends::in_word, ..after(lead, &pattern) });
        }
        // `-u USER:PASSWORD`, as curl takes it.
        for lead in [" -u", " --user"] {
            let user = r#"[ =]{0,2}["']?[^\s:"']{0,64}:"#;
            all.push(after(lead, &format!("{user}(?P<bare>{BARE})")));
        }
        // `ENV NAME VALUE`, in files of which images are made.
        let names = NAMES.join("|");
        let set = format!(r"\s{{1,4}}\w{{0,40}}(?i:{names})\w{{0,20}}\s{{1,4}}{}", value());
        all.push(Self { exact: true, before: |byte| byte != b'\n', ..after("ENV", &set) });
        // `scheme://USER:PASSWORD@HOST`.
        let user =
            r#"[^\s/:@"'<>]{0,64}:(?P<bare>[0-9A-Za-z_+=.~:!$%^*&?#-]{12,256})@[0-9A-Za-z\[]"#;
        all.push(Self { likely: has_user, ..after("://", user) });
        all
    }

    fn new(what: What, rank: Rank, lead: &str, pattern: Pattern) -> Self {
        let lead = lead.as_bytes().to_vec();
        Self {
            what,
            rank,
            lead,
            exact: true,
            includes: false,
            before: |_| false,
            likely: |_| true,
            form: None,
            pattern,
        }
    }

    #[cfg(test)]
    pub(super) fn compiled(&self) {
        self.pattern.get();
        self.form.as_ref().map(Pattern::get);
    }

    pub(super) fn look(&self, text: &[u8], lead: Range<usize>) -> Option<Hit> {
        let before = text.get(..lead.start)?;
        let inside = before.last().is_some_and(|&byte| (self.before)(byte));
        if inside && !(self.includes && ends::is_escape(before))
            || (self.exact && text.get(lead.clone()) != Some(&*self.lead))
        {
            return None;
        }
        let start = if self.includes { lead.start } else { lead.end };
        let rest = text.get(start..text.len().min(start + REACH))?;
        if !(self.likely)(rest) {
            return None;
        }
        let groups = self.pattern.get().captures(rest)?;
        let key = ["key", "bare", "text"].iter().find_map(|name| groups.name(name))?;
        let span = start + key.start()..start + key.end();
        match (self.what, self.rank) {
            (What::PrivateKey, _) => Some(Hit { what: self.what, span, whole: false }),
            (_, Rank::Shape | Rank::General) => Some(Hit::shaped(self.what, text, span)),
            _ => self.held(text, span, &groups),
        }
    }

    /// A value, unless it is code.
    fn held(&self, text: &[u8], span: Range<usize>, groups: &Captures<'_>) -> Option<Hit> {
        let open = groups.name("open").and_then(|quote| quote.as_bytes().last().copied());
        let calls = open.is_none() && text.get(span.end).is_some_and(|next| b"([{".contains(next));
        let foreign = self.form.as_ref().is_some_and(|form| {
            text.get(span.clone()).is_some_and(|value| !form.get().is_match(value))
        });
        let what = if foreign { What::Assigned } else { self.what };
        let hit = Hit::held(what, text, span, open);
        let named = groups.name("name");
        let fits = named.is_none_or(|name| hit.whole && !is_of_something_else(name.as_bytes()));
        (fits && !(calls && self.rank == Rank::Called)).then_some(hit)
    }
}

fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether an address goes on with a user.
fn has_user(rest: &[u8]) -> bool {
    let end = rest.iter().take(384).find(|byte| b"@/ \n\t\"'<>`)".contains(byte));
    end == Some(&b'@')
}

/// Whether a name with a provider's word in it is that of a hash or an id, which look like some keys.
fn is_of_something_else(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let words =
        ["commit", "sha", "hash", "rev", "digest", "checksum", "md5", "etag", "version", "uuid"];
    name.ends_with(b"id")
        || words.iter().any(|w| memchr::memmem::find(&name, w.as_bytes()).is_some())
}

/// A pattern from the start.
fn compile(pattern: &str) -> Regex {
    let built = RegexBuilder::new(&format!("^(?:{pattern})")).unicode(false).build();
    built.expect("the tests compile every shape")
}
