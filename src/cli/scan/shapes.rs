//! What keys look like: the catalogue's patterns, what stands beside the names of its variables, and
//! what is assigned to something that is called a secret.

mod ends;
mod key;
mod place;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ast::Ast;
use regex_syntax::hir::literal::{Extractor, Literal};
use regex_syntax::hir::{Hir, HirKind};

use crate::catalog::{Catalog, Provider, SlotText};
use key::is_key;
use place::{Place, REACH};

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
    /// It is given to this provider's variable, header, or what else has its name.
    Variable,
    /// It looks like keys of some kind that many have.
    General,
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
    /// A JSON web token, which many providers give out.
    WebToken,
    /// A random text that is assigned to something which is called a secret.
    Assigned,
}

impl What {
    /// Names the kind in reports.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Provider(provider) => provider.id(),
            Self::PrivateKey => "private-key",
            Self::WebToken => "json-web-token",
            Self::Assigned => "assigned-secret",
        }
    }

    /// The kind in words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Provider(provider) => provider.name(),
            Self::PrivateKey => "private key",
            Self::WebToken => "JSON web token",
            Self::Assigned => "secret by its name",
        }
    }

    /// What may be shown of a value: what all keys of the kind start with.
    pub(super) fn prefix(self, value: &[u8]) -> &'static str {
        let provider = match self {
            Self::Provider(provider) => provider,
            Self::WebToken => return WEB_TOKEN,
            Self::PrivateKey | Self::Assigned => return "",
        };
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

const PRIVATE_KEY: &str =
    r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[0-9A-Za-z+/=]{32}[0-9A-Za-z+/=\s]*";

/// What stands before a key that begins with nothing in particular: no word, but for an escape.
const BEFORE: &str = r"(?:^|\\[nrt]|%2[0-9A-Fa-f]|%3[A-Fa-f]|[^0-9A-Za-z_-])";

/// What a JSON web token begins with: `{"` in base64.
const WEB_TOKEN: &str = "eyJ";

impl Shapes {
    /// Those of the catalogue, and the general ones.
    pub(super) fn all() -> &'static Self {
        static ALL: LazyLock<Shapes> = LazyLock::new(Shapes::compile);
        &ALL
    }

    fn compile() -> Self {
        let private = Place::at(What::PrivateKey, Rank::Shape, "-----BEGIN ", PRIVATE_KEY);
        let token = format!(r"{WEB_TOKEN}[\w-]+\.[\w-]+\.[\w-]+");
        let mut places = vec![private, Place::at(What::WebToken, Rank::General, WEB_TOKEN, &token)];
        let (mut others, mut other_kinds) = (Vec::new(), Vec::new());
        for provider in Catalog::embedded().iter() {
            let what = What::Provider(provider);
            for part in provider.pattern().map(alternatives).into_iter().flatten() {
                match leads(&part) {
                    Leads::Texts(texts) => places
                        .extend(texts.iter().map(|text| Place::at(what, Rank::Shape, text, &part))),
                    Leads::Marks => {
                        others.push(format!("{BEFORE}({part})"));
                        other_kinds.push(what);
                    }
                    Leads::None => {}
                }
            }
            places.extend(provider.env().iter().map(|name| Place::variable(what, name)));
            places.extend(addresses(provider));
        }
        places.extend(headers());
        places.extend(words());
        places.extend(Place::general());
        let texts = places.iter().map(|place| &place.lead);
        let leads = AhoCorasick::builder().ascii_case_insensitive(true).build(texts);
        Self {
            leads: leads.expect("some hundred short texts"),
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
        let key = text.get(span.clone()).unwrap_or_default();
        let whole = !ends::goes_on(rest(span.end))
            && !ends::goes_on_like(key, rest(span.end))
            && !ends::comes_after(text.get(..span.start).unwrap_or_default());
        let word = |at: usize| text.get(at).is_some_and(|byte| !b"${".contains(byte));
        while span.len() < REACH && word(span.end) && ends::goes_on(rest(span.end)) {
            span.end += 1;
        }
        Self { what, span, whole }
    }

    /// A value, which began with the quote `open` or with none.
    fn held(what: What, text: &[u8], mut span: Range<usize>, open: Option<u8>) -> Self {
        let value = text.get(span.clone()).unwrap_or_default();
        let mut whole = ends::is_end(open, text.get(span.end..).unwrap_or_default())
            && !ends::is_expanded(open, value);
        // A sentence may end here, or a key.
        while open.is_none()
            && text.get(span.clone()).is_some_and(|key| key.ends_with(b".") || key.ends_with(b":"))
        {
            (span.end, whole) = (span.end - 1, false);
        }
        Self { what, span, whole }
    }

    /// Its text.
    pub(super) fn of<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        text.get(self.span.clone()).unwrap_or_default()
    }

    fn overlaps(&self, span: &Range<usize>) -> bool {
        self.span.start < span.end && span.start < self.span.end
    }

    fn covers(&self, span: &Range<usize>) -> bool {
        self.span.start <= span.start && span.end <= self.span.end
    }
}

/// The addresses that have a provider's key in them.
fn addresses(provider: &'static Provider) -> Vec<Place> {
    let hosts = provider.to().iter().filter_map(|to| to.strip_prefix("https://"));
    let templates = provider.slots().iter().filter_map(|slot| match slot {
        SlotText::Path(template) => Some(template),
        _ => None,
    });
    let pattern = provider.pattern().unwrap_or(r"[\w-]{16,}");
    let all = hosts.flat_map(|host| templates.clone().map(move |template| (host, template)));
    let what = What::Provider(provider);
    all.filter_map(|(host, template)| Place::address(what, host, template, pattern)).collect()
}

/// The headers of providers that have them to themselves.
fn headers() -> Vec<Place> {
    let mut all: BTreeMap<String, Vec<What>> = BTreeMap::new();
    for provider in Catalog::embedded().iter() {
        for slot in provider.slots() {
            let SlotText::Header(header) = slot else { continue };
            if let Some(name) = header.strip_suffix(": {secret}") {
                all.entry(name.to_ascii_lowercase()).or_default().push(What::Provider(provider));
            }
        }
    }
    let own = all.iter().filter_map(|(name, kinds)| Some((name, only(kinds)?)));
    own.filter(|(name, _)| name.contains('-'))
        .map(|(name, what)| Place::header(what, name))
        .collect()
}

/// The words of providers whose keys look like hashes, ids and ordinary words: what is given to
/// something that has the word in its name, and looks like such a key, is one.
fn words() -> Vec<Place> {
    let mut all: BTreeMap<(&str, String), Vec<What>> = BTreeMap::new();
    for provider in Catalog::embedded().iter().filter(|provider| !provider.env().is_empty()) {
        let word = provider.id().split('-').next().unwrap_or_default();
        for part in provider.pattern().map(alternatives).into_iter().flatten() {
            if matches!(leads(&part), Leads::None) {
                all.entry((word, part)).or_default().push(What::Provider(provider));
            }
        }
    }
    let place = |((word, part), kinds): (&(&str, String), &Vec<What>)| {
        Place::near(only(kinds).unwrap_or(What::Assigned), word, part)
    };
    all.iter().map(place).collect()
}

fn only(kinds: &[What]) -> Option<What> {
    if let [what] = kinds { Some(*what) } else { None }
}

fn compile(pattern: &str) -> Regex {
    let built = RegexBuilder::new(pattern).unicode(false).build();
    built.expect("the tests compile every shape")
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
    if part.starts_with(WEB_TOKEN) {
        return Leads::None;
    }
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

    /// The kind, the text, and whether it is the whole.
    fn found(text: &str) -> Vec<(&'static str, &str, bool)> {
        let hits = Shapes::all().find(text.as_bytes());
        hits.into_iter().map(|hit| (hit.what.id(), &text[hit.span], hit.whole)).collect()
    }

    /// Every pattern of every provider, part by part.
    fn parts() -> impl Iterator<Item = (&'static Provider, String)> {
        let providers = Catalog::embedded().iter();
        let patterns = providers.filter_map(|provider| Some((provider, provider.pattern()?)));
        patterns.flat_map(|(provider, all)| {
            alternatives(all).into_iter().map(move |part| (provider, part))
        })
    }

    /// Keys of that form. What is drawn may be a word, an example, or no key to anybody.
    fn samples(part: &str) -> impl Iterator<Item = String> {
        let keys = (1..60).map(|seed| sample(part, seed));
        let alone = matches!(leads(part), Leads::None);
        let random = move |key: &String| {
            let key = key.as_bytes();
            is_key(if alone { What::Assigned } else { What::WebToken }, key)
                && !b".-".contains(key.last().unwrap())
        };
        keys.filter(random).take(3)
    }

    #[test]
    fn every_pattern_compiles_and_has_keys() {
        Shapes::all().places.iter().for_each(Place::compiled);
        for (provider, part) in parts() {
            assert_eq!(samples(&part).count(), 3, "{}: {part}", provider.id());
        }
    }

    #[test]
    fn a_key_of_every_provider_is_found_beside_its_variable() {
        for (provider, part) in parts() {
            let Some(variable) = provider.env().first() else { continue };
            for key in samples(&part).filter(|key| key.len() >= 16) {
                for text in [
                    format!("import os\nos.environ[\"{variable}\"] = \"{key}\"\n"),
                    format!("export {variable}='{key}'\n"),
                    format!("env:\n  - name: {variable}\n    value: {key}\n"),
                    format!("{{\"name\": \"{variable}\", \"value\": \"{key}\"}}"),
                    format!("\"{{\\\"{variable}\\\": \\\"{key}\\\"}}\""),
                ] {
                    let all = found(&text);
                    let whole = |(_, text, whole): &(&str, &str, bool)| *text == key && *whole;
                    assert!(all.len() == 1 && whole(&all[0]), "{}: {text}: {all:?}", provider.id());
                }
            }
        }
    }

    #[test]
    fn a_key_that_says_enough_is_found_wherever_it_stands() {
        let mut shapes = 0;
        let said =
            |part: &String| part.starts_with(WEB_TOKEN) || !matches!(leads(part), Leads::None);
        for (provider, part) in parts().filter(|(_, part)| said(part)) {
            shapes += 1;
            for key in samples(&part) {
                for text in [
                    format!("call({key:?});\n"),
                    format!("see {key}\n"),
                    format!("\"one\\n{key}\\n\""),
                    format!("?a=%22{key}%22"),
                ] {
                    let all = found(&text);
                    assert!(
                        all.len() == 1 && all[0].1 == key,
                        "{}: {text}: {all:?}",
                        provider.id()
                    );
                }
            }
        }
        assert!(shapes > 70, "{shapes}");
    }

    /// How a program or a person sends it, in the words of the catalogue.
    fn sent(provider: &Provider, slot: &SlotText, key: &str) -> Option<String> {
        let host = provider.to().iter().chain(provider.own_hosts()).next()?.replace('*', "acme");
        Some(match slot {
            SlotText::Header(header) => {
                format!("curl -H '{}' {host}/v1", header.replace("{secret}", key))
            }
            SlotText::Basic(user) if user == "{secret}" => return None,
            SlotText::Basic(user) => format!("curl -u '{user}:{key}' {host}/v1"),
            SlotText::Query(name) if name == "key" => return None,
            SlotText::Query(name) => format!("fetch(\"{host}/v1?{name}={key}&a=b\")"),
            SlotText::Path(template) => {
                let path = template.split("/**").next()?.replace("{secret}", key);
                format!("curl {host}{} -d a=b", path.replace('*', "T0123"))
            }
            SlotText::Json(pointer) => {
                format!("{{\"{}\": \"{key}\"}}", pointer.rsplit('/').next()?)
            }
            SlotText::Form(field) => format!("curl -d {field}={key} {host}"),
            SlotText::Subprotocol(_) => return None,
        })
    }

    #[test]
    fn a_key_of_every_provider_is_found_where_it_is_sent() {
        let mut shapes = 0;
        for (provider, part) in parts() {
            for slot in provider.slots() {
                for key in samples(&part).filter(|key| key.len() >= 16) {
                    let Some(text) = sent(provider, slot, &key) else { continue };
                    let all = found(&text);
                    let there = all.iter().any(|(_, text, _)| *text == key);
                    assert!(there, "{}: {text}: {all:?}", provider.id());
                    shapes += 1;
                }
            }
        }
        assert!(shapes > 500, "{shapes}");
    }

    #[test]
    fn a_key_without_a_form_of_its_own_is_found_by_its_providers_word() {
        for (provider, part) in parts() {
            let word = provider.id().split('-').next().unwrap();
            if !matches!(leads(&part), Leads::None) || provider.env().is_empty() {
                continue;
            }
            let upper = word.to_ascii_uppercase();
            for key in samples(&part) {
                for text in [
                    format!("{word} = '{key}'"),
                    format!("client = {word}.Client(\"{key}\")"),
                    format!("MY_{upper}_VALUE={key}\n"),
                    format!("{{\"{word}Live\": \"{key}\"}}"),
                ] {
                    let all = found(&text);
                    assert!(
                        all.len() == 1 && all[0].1 == key,
                        "{}: {text}: {all:?}",
                        provider.id()
                    );
                }
            }
        }
        for text in [
            "heroku_app_id = \"123e4567-e89b-42d3-a456-426614174000\"",
            "wandb_commit = '3f2a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a'",
            "exact = '123e4567-e89b-42d3-a456-426614174000'",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn an_address_with_a_key_in_it_is_known_by_its_host() {
        let slack = "kJ8s2LmQ9xZr4TtW7vBn5Yd3";
        let discord = sample(r"[\w-]{68}", 7);
        for (id, text, key) in [
            (
                "slack-webhook",
                format!("https://hooks.slack.com/services/T0AB12CD3/B0EF45GH6/{slack}"),
                slack,
            ),
            (
                "discord-webhook",
                format!("'https://discord.com/api/webhooks/1100220033004400/{discord}?wait=true'"),
                &discord,
            ),
            (
                "discord-webhook",
                format!(
                    "https://ptb.discordapp.com/api/v10/webhooks/1100220033004400/{discord}/slack"
                ),
                &discord,
            ),
        ] {
            assert_eq!(found(&text), [(id, key, true)], "{text}");
        }
    }

    #[test]
    fn no_part_of_a_key_is_taken_for_the_whole() {
        const MORE: &str = "6hr66cocq";
        for (provider, part) in parts() {
            for (seed, between) in (1..).zip(["", "-", ".", "_", "=", "+", "==", "/", ":", ","]) {
                let key = sample(&part, seed);
                // What may be between the parts of a key is told by what was in the one before.
                if b"/:,".contains(between.as_bytes().first().unwrap_or(&b' '))
                    && !key.contains(between)
                {
                    continue;
                }
                let key = format!("{key}{between}{MORE}");
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
            "token = sqlite3DbSpanDup2(db, token)",
            "#define TOKENS FTS5_MAX_TOKEN_SIZE_2",
            "password: \"${DATABASE_PASSWORD_2}\"",
            "password: \"$DATABASE_PASSWORD_2\"",
            "PASSWORD=\"%DATABASE_PASSWORD_2%\"",
            "password = '$argon2id$v=19$m=65536$t=2'",
            "  token: https://auth.provider-2.test/v4/oauth2/T0ken",
            "postgres://user:password1234@localhost/db",
            "postgres://$USER:$DATABASE_PASSWORD_2@localhost/db",
            "postgres://app:{database_password_2}@localhost/db",
            "Authorization: AWS4-ECDSA-P256-SHA256 Credential=AKIDEXAMPLE/20150830/service",
            "Authorization: Bearer ${ACCESS_TOKEN_OF_SERVICE_2}",
            "<password>the-password-goes-here-2</password>",
        ] {
            let hits = Shapes::all().find(text.as_bytes());
            assert!(hits.is_empty(), "{text}: {hits:?}");
        }
    }

    #[test]
    fn other_secrets_are_found_by_what_they_are_called() {
        const KEY: &str = "kJ8s2LmQ9xZr4TtW7vBn";
        const ODD: &str = "p@ss$kJ8s2!Lm^Q9xZr4T";
        for (text, key) in [
            (format!("db_password = '{KEY}'"), KEY),
            (format!("{{\"clientSecret\": \"{KEY}\"}}"), KEY),
            (format!("password = \"{ODD}\""), ODD),
            (format!("  DB_PASSWORD: \"{ODD}\"\n"), ODD),
            (format!("DB_PASSWORD={ODD}\n"), ODD),
            (format!("const PASSWORD: &'static str = \"{KEY}\";"), KEY),
            (format!("let password: string = `{KEY}`"), KEY),
            (format!("FROM scratch\nENV SECRET_KEY {KEY}\n"), KEY),
            (format!("passphrase = {KEY}\n"), KEY),
            (format!("<password>{KEY}</password>"), KEY),
            (format!("<db:password>{ODD}</db:password>"), ODD),
            (format!("DATABASE_URL=postgres://app:{KEY}@db.internal:5432/app\n"), KEY),
            (format!("url: \"redis://:{KEY}@[::1]/0\""), KEY),
            (format!("curl -H 'Authorization: Bearer {KEY}'"), KEY),
            (format!("headers={{\"Authorization\": \"Token {KEY}\"}}"), KEY),
            (format!(".header(\"Authorization\", \"{KEY}\")"), KEY),
            (format!("curl --user app:{KEY} https://db.internal"), KEY),
            (format!("- name: DB_PASSWORD\n  value: {KEY}\n"), KEY),
        ] {
            assert_eq!(
                found(&text).first().map(|hit| (hit.0, hit.1)),
                Some(("assigned-secret", key)),
                "{text}"
            );
        }
        for (text, id) in [
            (
                "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIKJ2ZtXnRk3wTzq5nV8m0s1yqj8Zr\n-----END",
                "private-key",
            ),
            (
                "x = eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UifQ.dBjftJeZ4CVPmB92K27uhbUJU1p1r",
                "json-web-token",
            ),
        ] {
            let hits = Shapes::all().find(text.as_bytes());
            assert_eq!(hits.first().map(|hit| hit.what.id()), Some(id), "{text}");
        }
    }
}
