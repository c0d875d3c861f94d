//! What keys look like: the catalogue's patterns, what stands beside the names of its variables, and
//! what is assigned to something that is called a secret.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ast::Ast;
use regex_syntax::hir::literal::{Extractor, Literal};
use regex_syntax::hir::{Hir, HirKind};

use crate::catalog::{Catalog, Provider};
use crate::reference;

/// What was found, and where in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) what: What,
    pub(super) span: Range<usize>,
    /// Whether it ends, for certain, where the key does. A key that is taken out in part is lost.
    pub(super) whole: bool,
}

/// How much a find says of whose a key is. Of two that overlap, the one that says more counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It looks like this provider's keys.
    Shape,
    /// It is given to this provider's variable.
    Variable,
    /// It is given to something that is called a secret.
    Called,
}

/// What a key was known by.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// The shape or the variable of a provider.
    Provider(&'static Provider),
    /// A private key in PEM.
    PrivateKey,
    /// A random text that is assigned to something which is called a secret.
    Assigned,
}

impl What {
    /// Names the kind in reports.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Provider(provider) => provider.id(),
            Self::PrivateKey => "private-key",
            Self::Assigned => "assigned-secret",
        }
    }

    /// The kind in words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Provider(provider) => provider.name(),
            Self::PrivateKey => "private key",
            Self::Assigned => "secret by its name",
        }
    }

    /// What may be shown of a value: what all keys of the kind start with.
    pub(super) fn prefix(self, value: &[u8]) -> &'static str {
        let Self::Provider(provider) = self else { return "" };
        let known = provider.prefixes().iter().filter(|p| value.starts_with(p.as_bytes()));
        known.max_by_key(|prefix| prefix.len()).map_or("", String::as_str)
    }
}

impl PartialEq for What {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for What {}

/// All shapes, compiled once.
pub(super) struct Shapes {
    /// The texts that a key begins with or stands after: one pass for all of them.
    leads: AhoCorasick,
    /// What to look for at each of them.
    places: Vec<Place>,
    /// The few that begin with nothing in particular, as one pattern.
    others: Regex,
    /// Whose each of its groups is.
    other_kinds: Vec<What>,
}

/// What may be found at a text.
struct Place {
    what: What,
    rank: Rank,
    /// As it is written; the search takes any case.
    lead: Vec<u8>,
    /// Whether capitals matter.
    exact: bool,
    /// Whether the pattern begins with the text, or comes after it.
    includes: bool,
    /// What the text may not stand in the middle of.
    before: fn(u8) -> bool,
    /// From its start.
    pattern: Regex,
}

/// A key in the place where a variable gets its value: `NAME=`, `"name": "`, `name := '`.
const VALUE: &str = r#"["']?\]?\s{0,4}(?::=|=>|=|:)\s{0,4}(?P<open>["'`])?(?P<key>[0-9A-Za-z_+/][0-9A-Za-z_+/=.~:!-]{15,511})"#;

/// What secrets are called, in part.
const NAMES: [&str; 12] = [
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
    "private_key",
    "credential",
];

const PRIVATE_KEY: &str =
    r"(?P<key>-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[0-9A-Za-z+/=]{32}[0-9A-Za-z+/=\s]*)";

/// How far a key can reach: the longest that the catalogue knows has 700 bytes.
const REACH: usize = 2048;

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-".contains(&byte)
}

fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl Shapes {
    /// Those of the catalogue, and the general ones.
    pub(super) fn all() -> &'static Self {
        static ALL: LazyLock<Shapes> = LazyLock::new(Shapes::compile);
        &ALL
    }

    fn compile() -> Self {
        let mut places = vec![Place::at(What::PrivateKey, "-----BEGIN ", PRIVATE_KEY)];
        let (mut others, mut other_kinds) = (Vec::new(), Vec::new());
        for provider in Catalog::embedded().iter() {
            let what = What::Provider(provider);
            for part in provider.pattern().map(alternatives).into_iter().flatten() {
                match leads(&part) {
                    Leads::Texts(texts) => {
                        let pattern = format!("(?P<key>{part})");
                        places.extend(texts.iter().map(|text| Place::at(what, text, &pattern)));
                    }
                    Leads::Marks => {
                        others.push(format!("(?:^|[^0-9A-Za-z_-])({part})"));
                        other_kinds.push(what);
                    }
                    Leads::None => {}
                }
            }
            places.extend(provider.env().iter().map(|name| Place::after(what, name)));
        }
        places.extend(NAMES.iter().map(|name| Place::called(name)));
        let texts = places.iter().map(|place| &place.lead);
        let leads = AhoCorasick::builder().ascii_case_insensitive(true).build(texts);
        Self {
            leads: leads.expect("a few hundred short texts"),
            places,
            others: compile(&others.join("|")),
            other_kinds,
        }
    }

    /// What is in a text, in the order of the text. What several shapes find is one hit: of the shape
    /// that says most, and of those the one that takes in most.
    pub(super) fn find(&self, text: &[u8]) -> Vec<Hit> {
        let mut found: Vec<(Rank, usize, Hit)> = Vec::new();
        for lead in self.leads.find_overlapping_iter(text) {
            let place = self.places.get(lead.pattern().as_usize());
            let hit = place.and_then(|place| Some((place.rank, place.look(text, lead.range())?)));
            found.extend(hit.map(|(rank, hit)| (rank, lead.range().len(), hit)));
        }
        for groups in self.others.captures_iter(text) {
            let kinds = self.other_kinds.iter().zip(groups.iter().skip(1));
            let keys = kinds.filter_map(|(what, group)| group.map(|key| (*what, key.range())));
            found.extend(keys.map(|(what, span)| (Rank::Shape, 0, Hit::shaped(what, text, span))));
        }
        found.retain(|(_, _, hit)| is_key(hit.what, hit.of(text)));
        // What begins with more of a text is more particular: `sk-admin-` is, beside `sk-`.
        found.sort_by_key(|(rank, lead, hit)| (*rank, Reverse((hit.span.len(), hit.whole, *lead))));
        let mut hits: Vec<Hit> = Vec::new();
        for (_, _, hit) in found {
            let mut known = hits.iter_mut().filter(|known| known.overlaps(&hit.span)).peekable();
            if known.peek().is_none() {
                drop(known);
                hits.push(hit);
                continue;
            }
            // Two readings of where the key ends are one too many.
            known.for_each(|known| known.whole &= known.covers(&hit.span));
        }
        hits.sort_by_key(|hit| hit.span.start);
        hits
    }

    /// Brings into `hits` what a file that has a grammar gives to a provider's variable, which is the
    /// whole key. `plain` says whether all programs read it so.
    pub(super) fn settle(
        hits: &mut Vec<Hit>,
        text: &[u8],
        provider: &'static Provider,
        (span, plain): (Range<usize>, bool),
    ) {
        let parts: Vec<Hit> = hits.iter().filter(|hit| hit.overlaps(&span)).cloned().collect();
        let what = parts.iter().find(|part| part.span == span);
        let what = what.map_or(What::Provider(provider), |same| same.what);
        let hit = Hit { what, span, whole: plain };
        // A value that is made when the file is read, like `$(cat key)`, is none that is written in it.
        if (plain || !parts.is_empty()) && is_key(hit.what, hit.of(text)) {
            hits.retain(|known| !known.overlaps(&hit.span));
            hits.push(hit);
            hits.sort_by_key(|hit| hit.span.start);
        }
    }
}

impl Hit {
    /// What looks like a key as far as `span`. A word that goes on behind it is in the hit, so that no
    /// part of a key is taken for the whole.
    fn shaped(what: What, text: &[u8], mut span: Range<usize>) -> Self {
        while text.get(span.clone()).is_some_and(|key| key.ends_with(b".")) {
            span.end -= 1;
        }
        let rest = |at: usize| text.get(at..).unwrap_or_default();
        let whole =
            !goes_on(rest(span.end)) && !comes_after(text.get(..span.start).unwrap_or_default());
        while span.len() < REACH && goes_on(rest(span.end)) {
            span.end += 1;
        }
        Self { what, span, whole }
    }

    /// A value, which began with the quote `open` or with none.
    fn held(what: What, text: &[u8], mut span: Range<usize>, open: Option<u8>) -> Self {
        let mut whole = is_end(open, text.get(span.end..).unwrap_or_default());
        // A sentence may end here, or a key.
        while open.is_none()
            && text.get(span.clone()).is_some_and(|key| key.ends_with(b".") || key.ends_with(b":"))
        {
            (span.end, whole) = (span.end - 1, false);
        }
        Self { what, span, whole }
    }

    /// Its text.
    fn of<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        text.get(self.span.clone()).unwrap_or_default()
    }

    fn overlaps(&self, span: &Range<usize>) -> bool {
        self.span.start < span.end && span.start < self.span.end
    }

    fn covers(&self, span: &Range<usize>) -> bool {
        self.span.start <= span.start && span.end <= self.span.end
    }
}

/// Whether a word goes on here that looked like a key so far.
fn goes_on(rest: &[u8]) -> bool {
    match rest {
        [byte, ..] if in_word(*byte) => true,
        // Padding, and a text that is put together of parts.
        [b'=' | b'{', ..] | [b'$', b'{' | b'(', ..] => true,
        // Dots and the like end a sentence, too.
        [b'.' | b'+' | b'~' | b'#' | b'$', next, ..] => in_word(*next),
        [b'%', next, ..] => next.is_ascii_hexdigit(),
        _ => false,
    }
}

/// Whether what looks like a key comes after something that belongs to it.
fn comes_after(before: &[u8]) -> bool {
    match before {
        [.., b'}'] => true,
        [.., last, b'.' | b'+' | b'~'] => in_word(*last),
        _ => false,
    }
}

/// Whether a value ends here for certain, which began with the quote `open` or with none.
fn is_end(open: Option<u8>, rest: &[u8]) -> bool {
    match (open, rest) {
        (None, []) => true,
        (None, [b'\\', next, ..]) => b"nrt\"'".contains(next),
        (None, [next, ..]) => next.is_ascii_whitespace() || b"\"'`,;)]}&|<>".contains(next),
        (Some(quote), [b'\\', next, ..] | [next, ..]) => *next == quote,
        (Some(_), []) => false,
    }
}

impl Place {
    fn at(what: What, lead: &str, pattern: &str) -> Self {
        let (lead, pattern) = (lead.as_bytes().to_vec(), compile(&format!("^{pattern}")));
        let rank = Rank::Shape;
        Self { what, rank, lead, exact: true, includes: true, before: in_word, pattern }
    }

    fn after(what: What, name: &str) -> Self {
        let (lead, pattern) = (name.as_bytes().to_vec(), value());
        let rank = Rank::Variable;
        Self { what, rank, lead, exact: true, includes: false, before: in_name, pattern }
    }

    fn called(name: &str) -> Self {
        let pattern = compile(&format!(r"^[\w-]{{0,20}}{VALUE}"));
        let lead = name.as_bytes().to_vec();
        Self {
            what: What::Assigned,
            rank: Rank::Called,
            lead,
            exact: false,
            includes: false,
            before: |_| false,
            pattern,
        }
    }

    fn look(&self, text: &[u8], lead: Range<usize>) -> Option<Hit> {
        let before = lead.start.checked_sub(1).and_then(|at| text.get(at));
        let inside = before.is_some_and(|&byte| (self.before)(byte));
        if inside || (self.exact && text.get(lead.clone()) != Some(&*self.lead)) {
            return None;
        }
        let start = if self.includes { lead.start } else { lead.end };
        let rest = text.get(start..text.len().min(start + REACH))?;
        let groups = self.pattern.captures(rest)?;
        let key = groups.name("key")?;
        let span = start + key.start()..start + key.end();
        match (self.what, self.rank) {
            (What::PrivateKey, _) => Some(Hit { what: self.what, span, whole: false }),
            (_, Rank::Shape) => Some(Hit::shaped(self.what, text, span)),
            _ => {
                let open = groups.name("open").and_then(|quote| quote.as_bytes().first().copied());
                Some(Hit::held(self.what, text, span, open))
            }
        }
    }
}

fn compile(pattern: &str) -> Regex {
    let built = RegexBuilder::new(pattern).unicode(false).build();
    built.expect("the tests compile every shape")
}

/// [`VALUE`] from the start: the same for all variables.
fn value() -> Regex {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| compile(&format!("^{VALUE}")));
    PATTERN.clone()
}

/// The parts of a pattern at its top, as they are written: in the parsed form their common beginning
/// is put before them, and then the first that fits would count, and not the longest.
fn alternatives(pattern: &str) -> Vec<String> {
    let parsed = regex_syntax::ast::parse::Parser::new().parse(pattern);
    match &parsed.expect("the tests compile every shape") {
        Ast::Alternation(parts) => parts.asts.iter().map(ToString::to_string).collect(),
        _ => vec![pattern.to_owned()],
    }
}

/// By what a pattern is told from hashes, identifiers and ordinary words.
enum Leads {
    /// It begins with one of these.
    Texts(Vec<String>),
    /// By a word in it, or by its length and its punctuation.
    Marks,
    /// By nothing but the name of its variable.
    None,
}

fn leads(part: &str) -> Leads {
    let parsed = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(part);
    let hir = parsed.expect("the tests compile every shape");
    let starts = Extractor::new().extract(&hir);
    if let Some(starts) = starts.literals().filter(|all| all.iter().all(|one| one.len() >= 3)) {
        let text = |one: &Literal| String::from_utf8_lossy(one.as_bytes()).into_owned();
        return Leads::Texts(starts.iter().map(text).collect());
    }
    let mut marks = Vec::new();
    literals(&hir, &mut marks);
    let long = hir.properties().minimum_len().is_some_and(|length| length >= 40);
    let marked = marks.iter().any(|mark| mark.len() >= 3)
        || (long && marks.iter().any(|mark| mark.iter().any(|byte| b".:!".contains(byte))));
    if marked { Leads::Marks } else { Leads::None }
}

/// The texts that are in every match.
fn literals(hir: &Hir, into: &mut Vec<Vec<u8>>) {
    match hir.kind() {
        HirKind::Literal(literal) => into.push(literal.0.to_vec()),
        HirKind::Concat(parts) => parts.iter().for_each(|part| literals(part, into)),
        HirKind::Capture(capture) => literals(&capture.sub, into),
        _ => {}
    }
}

/// Whether a text of the right form is a key, and not a word, an example or a placeholder.
fn is_key(what: What, text: &[u8]) -> bool {
    if matches!(what, What::PrivateKey) {
        return true;
    }
    let text = text.strip_suffix(b".").unwrap_or(text);
    let any = |is: fn(&u8) -> bool| text.iter().any(is);
    let mixed = any(u8::is_ascii_digit) && any(u8::is_ascii_alphabetic)
        || any(u8::is_ascii_uppercase) && any(u8::is_ascii_lowercase);
    let random = match what {
        // A word or a path has some of this, too; a random text of sixteen bytes has more.
        What::Assigned => any(u8::is_ascii_digit) && entropy(text) >= 3.5 && !is_text(text),
        _ => entropy(text) >= 2.5,
    };
    mixed && random && !reference::occurs(text) && !is_example(text)
}

/// Bits for each byte, were the bytes drawn by their frequency in the text.
#[allow(clippy::cast_precision_loss)] // Of a text of 512 bytes.
fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for &byte in text {
        counts[usize::from(byte)] += 1;
    }
    let length = text.len() as f64;
    let bits = |count: &u32| {
        let share = f64::from(*count) / length;
        -share * share.log2()
    };
    counts.iter().filter(|&&count| count > 0).map(bits).sum()
}

/// Code, a path, or a name with words in it: these have long runs of one kind of character, and a
/// random text has not.
fn is_text(text: &[u8]) -> bool {
    let code = [&b"::"[..], b"://"].iter().any(|code| memchr::memmem::find(text, code).is_some());
    let kind = |byte: &u8| match byte {
        byte if byte.is_ascii_lowercase() => 0,
        byte if byte.is_ascii_uppercase() => 1,
        byte if byte.is_ascii_digit() => 2,
        _ => 3,
    };
    let pairs = text.windows(2).filter_map(|pair| Some((kind(pair.first()?), kind(pair.last()?))));
    // A capital belongs to the word that it begins, and what is between words to none.
    let begins = |(from, to): &(u8, u8)| from != to && (*from, *to) != (1, 0) && *to != 3;
    let runs = 1 + pairs.filter(begins).count();
    code || runs * 4 <= text.len()
}

/// What documents write in the place of a key.
fn is_example(text: &[u8]) -> bool {
    let lower = text.to_ascii_lowercase();
    let words: [&[u8]; 8] = [
        b"example",
        b"xxxx",
        b"your",
        b"placeholder",
        b"changeme",
        b"redacted",
        b"0123456789abcdef0123",
        b"dummy",
    ];
    words.iter().any(|word| memchr::memmem::find(&lower, word).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that a pattern matches, with characters from `seed`.
    pub(super) fn sample(pattern: &str, seed: u64) -> String {
        let hir = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build();
        let hir = { hir }.parse(pattern).unwrap();
        let mut random = seed;
        let mut text = Vec::new();
        write(&hir, &mut text, &mut random);
        String::from_utf8(text).unwrap()
    }

    fn next(random: &mut u64, below: usize) -> usize {
        *random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*random >> 33).unwrap() % below
    }

    fn write(hir: &Hir, text: &mut Vec<u8>, random: &mut u64) {
        match hir.kind() {
            HirKind::Literal(literal) => text.extend_from_slice(&literal.0),
            HirKind::Class(regex_syntax::hir::Class::Bytes(class)) => {
                let all: Vec<u8> =
                    class.ranges().iter().flat_map(|r| r.start()..=r.end()).collect();
                text.push(all[next(random, all.len())]);
            }
            HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
                let all: Vec<char> =
                    class.ranges().iter().flat_map(|r| r.start()..=r.end()).collect();
                text.push(u8::try_from(all[next(random, all.len())]).unwrap());
            }
            HirKind::Repetition(repetition) => {
                let least =
                    repetition.min.max(if repetition.max.is_none() { 24 } else { repetition.min });
                (0..least).for_each(|_| write(&repetition.sub, text, random));
            }
            HirKind::Capture(capture) => write(&capture.sub, text, random),
            HirKind::Concat(parts) => parts.iter().for_each(|part| write(part, text, random)),
            HirKind::Alternation(parts) => write(&parts[next(random, parts.len())], text, random),
            HirKind::Empty | HirKind::Look(_) => {}
        }
    }

    #[test]
    fn a_key_of_every_provider_is_found_beside_its_variable() {
        for provider in Catalog::embedded().iter() {
            let (Some(pattern), Some(variable)) = (provider.pattern(), provider.env().first())
            else {
                continue;
            };
            for seed in 1..4 {
                let key = sample(pattern, seed);
                if key.len() < 16 {
                    continue;
                }
                let text = format!("import os\nos.environ[\"{variable}\"] = \"{key}\"\n");
                let hits = Shapes::all().find(text.as_bytes());
                let found: Vec<&str> = hits.iter().map(|hit| &text[hit.span.clone()]).collect();
                assert!(
                    found.iter().any(|found| key.contains(found) && found.len() * 2 > key.len()),
                    "{}: {key}: {found:?}",
                    provider.id()
                );
            }
        }
    }

    #[test]
    fn a_key_that_says_enough_is_found_wherever_it_stands() {
        let mut shapes = 0;
        for provider in Catalog::embedded().iter() {
            let Some(pattern) = provider.pattern() else { continue };
            for part in
                alternatives(pattern).iter().filter(|part| !matches!(leads(part), Leads::None))
            {
                shapes += 1;
                for seed in 1..4 {
                    let key = sample(part, seed);
                    let text = format!("call({key:?});\n");
                    let hits = Shapes::all().find(text.as_bytes());
                    assert!(!hits.is_empty(), "{}: {key}", provider.id());
                }
            }
        }
        assert!(shapes > 70, "{shapes}");
    }

    /// The kind, the text, and whether it is the whole.
    fn found(text: &str) -> Vec<(&'static str, &str, bool)> {
        let hits = Shapes::all().find(text.as_bytes());
        hits.into_iter().map(|hit| (hit.what.id(), &text[hit.span], hit.whole)).collect()
    }

    #[test]
    fn no_part_of_a_key_is_taken_for_the_whole() {
        const MORE: &str = "6hr66cocq";
        let providers = Catalog::embedded().iter();
        let patterns = providers.filter_map(|provider| Some((provider, provider.pattern()?)));
        for (provider, part) in
            patterns.flat_map(|(p, all)| alternatives(all).into_iter().map(move |one| (p, one)))
        {
            for (seed, between) in (1..).zip(["", "-", ".", "_", "=", "+", "=="]) {
                let key = format!("{}{between}{MORE}", sample(&part, seed));
                let variable = provider.env().first().map_or("export X", String::as_str);
                for text in [format!("call({key:?});\n"), format!("{variable}={key}\n")] {
                    for (kind, text, whole) in found(&text) {
                        assert!(
                            !whole || text == key,
                            "{} as {kind}: {key}: {text}",
                            provider.id()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn of_several_readings_the_longest_counts() {
        let long = sample(r"glpat-[\w-]{235}\.[0-9a-z]{9}", 7);
        let routed = sample(r"glpat-[\w-]{51}\.01\.[0-9a-z]{9}", 7);
        let admin = sample(r"sk-admin-[\w-]{58}T3BlbkFJ[\w-]{58}", 7);
        for (id, key) in [("gitlab", long), ("gitlab", routed), ("openai-admin", admin)] {
            for text in [format!("call('{key}')"), format!("export GITLAB_TOKEN={key}\n")] {
                assert_eq!(found(&text), [(id, &*key, true)]);
            }
        }
    }

    #[test]
    fn where_a_key_ends_is_told_or_doubted() {
        let groq = sample("gsk_[0-9A-Za-z]{52}", 7);
        let variable = "kJ8s2LmQ9xZr4TtW7vBn";
        for (text, whole) in [
            (format!("use {groq}. Then"), true),
            (format!("https://{groq}@api.test/"), true),
            (format!("-H \"Authorization: Bearer {groq}\""), true),
            (format!("f\"{groq}{{rest}}\""), false),
            (format!("\"{groq}${{REST}}\""), false),
            (format!("\"${{START}}{groq}\""), false),
            (format!("start.{groq}"), false),
            (format!("{groq}%2Babc"), false),
            (format!("GROQ_API_KEY={groq}:more"), false),
            (format!("GROQ_API_KEY=more:{groq}"), false),
            (format!("MISTRAL_API_KEY={variable}"), true),
            (format!("MISTRAL_API_KEY={variable}\nA=1"), true),
            (format!("(MISTRAL_API_KEY='{variable}')"), true),
            (format!("MISTRAL_API_KEY={variable}$REST"), false),
            (format!("MISTRAL_API_KEY=\"{variable}$REST\""), false),
            (format!("set MISTRAL_API_KEY={variable}. Then"), false),
        ] {
            let hits = found(&text);
            assert!(hits.len() == 1 && hits[0].2 == whole, "{text}: {hits:?}");
        }
    }

    #[test]
    fn words_examples_and_references_are_no_keys() {
        for text in [
            "OPENAI_API_KEY=locum_openai",
            "OPENAI_API_KEY=sk-proj-locum_openai_000000000000000000000000000000000000",
            "api_key = \"your-api-key-goes-here-0\"",
            "STRIPE_KEY=sk_test_xxxxxxxxxxxxxxxxxxxxxxxx",
            "password: get_password_from_the_environment()",
            "token = os.environ[\"SOME_TOKEN_OF_THE_SERVICE_2\"]",
            "commit 3f2a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a",
            "id: 123e4567-e89b-12d3-a456-426614174000",
            "let pre_something_longer_than_that_2 = 1;",
            "secret_name: projects/acme/secrets/database-2/versions/latest",
        ] {
            let hits = Shapes::all().find(text.as_bytes());
            assert!(hits.is_empty(), "{text}: {hits:?}");
        }
    }

    #[test]
    fn other_secrets_are_found_by_what_they_are_called() {
        for (text, id) in [
            ("db_password = 'kJ8s2LmQ9xZr4TtW7vBn'", "assigned-secret"),
            ("{\"clientSecret\": \"Zm9vYmFyMTIzNDU2Nzg5MGFiY2RlZg==\"}", "assigned-secret"),
            (
                "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIKJ2ZtXnRk3wTzq5nV8m0s1yqj8Zr\n-----END",
                "private-key",
            ),
        ] {
            let hits = Shapes::all().find(text.as_bytes());
            assert_eq!(hits.first().map(|hit| hit.what.id()), Some(id), "{text}");
        }
    }
}
