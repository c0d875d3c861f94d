//! The body of a request in which a credential may have its place: searched for references by the
//! rules of its own encoding, whole, or its beginning first and the rest as it comes.
//!
//! Nothing is changed here. What cannot be read while it holds a reference is not guessed at: it is
//! a fault, and the request is refused.

mod form;
mod json;
mod multipart;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use memchr::memmem;

pub use json::Step;
pub(crate) use json::unescape;

use crate::credential::{Pointer, Slot};
use crate::reference::{self, Spotter};

/// The body breaks the grammar of its kind, or a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a [`Scanner`] comes across.
#[derive(Debug)]
pub enum Seen<'a> {
    /// Something is in this place: a text, another value, or a list or an object with values in it.
    Entry(&'a Place),
    /// In the text there is what starts like a reference, with this name if it has one.
    Reference(&'a Place, Option<&'a str>),
    /// The text there is over.
    Text {
        /// Where it stands.
        place: &'a Place,
        /// Its bytes in the body, as they are written.
        at: Range<usize>,
        /// Whether there was what starts like a reference.
        refers: bool,
        /// Whether it is no text of the encoding: a file, or the head of a part.
        opaque: bool,
        /// What it says, decoded, if it is no longer than a stand-in can be. What is not ASCII, or a control
        /// character, may be another of the kind.
        says: Option<&'a [u8]>,
    },
}

/// Is told what is seen.
pub type See<'a> = &'a mut dyn FnMut(Seen<'_>);

/// The longest stand-in that is looked for in what streams. Keys of providers, which stand-ins are made after,
/// have some hundred bytes, and no field of a head in which one would be sent is longer.
const LONGEST_STAND_IN: usize = 4096;

/// A text, as far as it has come.
#[derive(Debug, Default)]
struct Text {
    spotter: Spotter,
    /// Its beginning, as long as it may be a stand-in, and one byte more.
    says: Vec<u8>,
    start: usize,
    refers: bool,
    opaque: bool,
}

impl Text {
    fn begin(&mut self, start: usize, opaque: bool) {
        (self.start, self.opaque, self.refers) = (start, opaque, false);
        self.says.clear();
    }

    /// What comes next, decoded.
    fn push(&mut self, text: &[u8], place: &Place, see: See<'_>) {
        let Self { spotter, refers, opaque, says, .. } = self;
        if !*opaque {
            let room = (LONGEST_STAND_IN + 1 - says.len()).min(text.len());
            says.extend_from_slice(&text[..room]);
        }
        spotter.push(text, &mut |name| {
            *refers = true;
            see(Seen::Reference(place, name.filter(|_| !*opaque)));
        });
    }

    fn refers(&self) -> bool {
        self.refers || self.spotter.is_at_one()
    }

    fn end(&mut self, end: usize, place: &Place, see: See<'_>) {
        let Self { spotter, refers, opaque, start, says } = self;
        spotter.finish(&mut |name| {
            *refers = true;
            see(Seen::Reference(place, name.filter(|_| !*opaque)));
        });
        let whole = !*opaque && says.len() <= LONGEST_STAND_IN;
        let says = whole.then_some(says.as_slice());
        see(Seen::Text { place, at: *start..end, refers: *refers, opaque: *opaque, says });
    }
}

/// Follows a body as it comes, by the grammar of its kind, and keeps nothing of it but names.
#[derive(Debug)]
pub struct Scanner {
    grammar: Grammar,
    /// How much has come. Wraps: where something stands is asked only of what is in memory.
    at: usize,
}

#[derive(Debug)]
enum Grammar {
    Json(json::Scanner),
    Form(form::Scanner),
    Multipart(multipart::Scanner),
    Any,
}

impl Scanner {
    /// For a body of this kind. What has to be kept of it (names of fields on the way to a value, the head
    /// of a part) may have `bound` bytes; with more it is malformed.
    #[must_use]
    pub fn new(kind: &BodyKind, bound: usize) -> Self {
        let json = |root| Grammar::Json(json::Scanner::new(root, bound));
        let grammar = match kind {
            BodyKind::Json => json(Place::Json(Vec::new())),
            BodyKind::Message => json(Place::Message(Vec::new())),
            BodyKind::Form => Grammar::Form(form::Scanner::new(bound)),
            BodyKind::Multipart { boundary } => {
                Grammar::Multipart(multipart::Scanner::new(boundary, bound))
            }
            BodyKind::Whole | BodyKind::Unclear(_) => Grammar::Any,
        };
        Self { grammar, at: 0 }
    }

    /// Reads on.
    ///
    /// # Errors
    /// [`Malformed`], after what came before the fault was seen. Nothing more may be read then.
    pub fn push(&mut self, piece: &[u8], see: See<'_>) -> Result<(), Malformed> {
        let from = self.at;
        self.at = from.wrapping_add(piece.len());
        match &mut self.grammar {
            Grammar::Json(scanner) => scanner.push(piece, from, see),
            Grammar::Form(scanner) => scanner.push(piece, from, see),
            Grammar::Multipart(scanner) => scanner.push(piece, from, see),
            Grammar::Any => Ok(()),
        }
    }

    /// The body is over.
    ///
    /// # Errors
    /// [`Malformed`] when it breaks off.
    pub fn finish(&mut self, see: See<'_>) -> Result<(), Malformed> {
        match &mut self.grammar {
            Grammar::Json(scanner) => scanner.finish(),
            Grammar::Form(scanner) => {
                scanner.finish(self.at, see);
                Ok(())
            }
            Grammar::Multipart(scanner) => scanner.finish(),
            Grammar::Any => Ok(()),
        }
    }

    /// Whether there is what starts like a reference in the text of a document that is not over.
    fn refers(&self) -> bool {
        matches!(&self.grammar, Grammar::Json(scanner) if scanner.refers())
    }

    /// Where the text is that is not over, if one is.
    fn place(&self) -> Option<&Place> {
        match &self.grammar {
            Grammar::Json(scanner) => Some(scanner.place()),
            Grammar::Form(scanner) => scanner.place(),
            Grammar::Multipart(scanner) => Some(scanner.place()),
            Grammar::Any => None,
        }
    }
}

/// Shows all of a body that is in memory.
fn find(bytes: &[u8], kind: &BodyKind, see: See<'_>) -> Result<(), Malformed> {
    let mut scanner = Scanner::new(kind, usize::MAX);
    scanner.push(bytes, see)?;
    scanner.finish(see)
}

/// Shows every string of a JSON document: the way to it, and its bytes between the quotes.
///
/// # Errors
/// [`Malformed`], after what came before the fault was shown.
pub fn strings(bytes: &[u8], show: &mut dyn FnMut(&[Step], Range<usize>)) -> Result<(), Malformed> {
    find(bytes, &BodyKind::Json, &mut |seen| {
        if let Seen::Text { place: Place::Json(path), at, .. } = seen {
            show(path, at);
        }
    })
}

const BOUNDARIES: &str = "The Content-Type has no one `boundary`, by which all find the same parts";
const CHARSETS: &str = "The Content-Type has a `charset` that is not UTF-8, or two of them";
const UTF: &str = "The body is JSON in another encoding than UTF-8 (RFC 8259 section 8.1)";
const MARK: &str = "The JSON begins with a byte order mark, which not all take for one";

/// Whether texts in that charset are read by their bytes of ASCII, as they are here.
fn is_of_ascii(charset: Option<&[u8]>) -> bool {
    const ALIKE: [&str; 7] =
        ["utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"];
    let known =
        |charset: &[u8]| ALIKE.iter().any(|one| charset.eq_ignore_ascii_case(one.as_bytes()));
    charset.is_none_or(known)
}

/// Whether JSON that begins so is UTF-16 or UTF-32: by its mark, or by a NUL in one of its first two characters,
/// which are of ASCII.
fn is_wide(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xfe\xff")
        || bytes.starts_with(b"\xff\xfe")
        || bytes.iter().take(4).any(|b| *b == 0)
}

/// How a body is written, and so which slots may be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON (RFC 8259).
    Json,
    /// Pairs as of a query (WHATWG URL, section 5).
    Form,
    /// Parts with a name each (RFC 7578).
    Multipart {
        /// What stands between them.
        boundary: Box<[u8]>,
    },
    /// JSON in a text message of a WebSocket: no body, but read like one.
    Message,
    /// Anything, read to be digested: no slot is in it.
    Whole,
    /// A body of which the head says two things, or nothing that is understood: any slot of a body may be in it.
    Unclear(&'static str),
}

impl BodyKind {
    /// What the head says of the body. None for all that has no slots in it.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let value = types.next()?;
        if types.next().is_some() {
            return Some(Self::Unclear("The request has two Content-Type fields"));
        }
        let Ok(text) = value.to_str() else {
            return Some(Self::Unclear("The Content-Type is no text"));
        };
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let essence = essence.trim().to_ascii_lowercase();
        let kind = match essence.as_str() {
            "application/json" | "text/json" => Self::Json,
            "application/x-www-form-urlencoded" => Self::Form,
            "multipart/form-data" => {
                match multipart::boundary(parameters) {
                    Ok(Some(boundary)) => {
                        Self::Multipart { boundary: boundary.into_bytes().into() }
                    }
                    // Without one nobody finds a part.
                    Ok(None) => return None,
                    Err(Malformed) => Self::Unclear(BOUNDARIES),
                }
            }
            list if list.contains(',') => Self::Unclear("The Content-Type is a list"),
            other if other.ends_with("+json") => Self::Json,
            _ => return None,
        };
        let ascii =
            multipart::charset(parameters).is_ok_and(|charset| is_of_ascii(charset.as_deref()));
        Some(if ascii { kind } else { Self::Unclear(CHARSETS) })
    }

    /// What a text says that is written so.
    fn decoded(&self, text: &[u8]) -> Vec<u8> {
        match self {
            Self::Json | Self::Message => unescape(text),
            Self::Form => form::decode(text),
            Self::Multipart { .. } | Self::Whole | Self::Unclear(_) => text.to_vec(),
        }
    }

    /// What is wrong with a body that is not written as it says, and holds a reference.
    #[must_use]
    pub fn malformed(&self) -> Option<&'static str> {
        match self {
            Self::Json | Self::Message => Some(
                "The body is said to be JSON, and is not: it holds a reference that may stand anywhere",
            ),
            Self::Multipart { .. } => Some(
                "The body is said to be multipart/form-data, and is not, or can be read in two ways: it holds a reference that may stand anywhere",
            ),
            // Whatever it is, it is pairs.
            Self::Form | Self::Whole => None,
            Self::Unclear(why) => Some(why),
        }
    }

    /// Whether the slot is a place in such a body.
    #[must_use]
    pub fn has(&self, slot: &Slot) -> bool {
        matches!(
            (self, slot),
            (Self::Json, Slot::Json { .. })
                | (Self::Form, Slot::Form { .. })
                | (Self::Multipart { .. }, Slot::Multipart { .. })
                | (Self::Message, Slot::WebSocket { .. })
                | (
                    Self::Unclear(_),
                    Slot::Json { .. } | Slot::Form { .. } | Slot::Multipart { .. }
                )
        )
    }
}

/// Where in a body a text stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A string of a document, by the way to it.
    Json(Vec<Step>),
    /// The same in a message.
    Message(Vec<Step>),
    /// The value of a field.
    Form(Vec<u8>),
    /// A whole part.
    Multipart(Vec<u8>),
}

impl Place {
    /// Whether this is the place that the slot names.
    #[must_use]
    pub fn is(&self, slot: &Slot) -> bool {
        match (self, slot) {
            (Self::Json(path), Slot::Json { pointer })
            | (Self::Message(path), Slot::WebSocket { pointer }) => {
                path.len() == pointer.tokens().len() && leads_to(pointer, path)
            }
            (Self::Form(name), Slot::Form { field })
            | (Self::Multipart(name), Slot::Multipart { field }) => name == field.as_bytes(),
            _ => false,
        }
    }

    /// Whether the place is inside of what the slot names, which then is no string.
    #[must_use]
    pub fn is_inside(&self, slot: &Slot) -> bool {
        match (self, slot) {
            (Self::Json(path), Slot::Json { pointer })
            | (Self::Message(path), Slot::WebSocket { pointer }) => {
                path.len() > pointer.tokens().len() && leads_to(pointer, path)
            }
            _ => false,
        }
    }

    /// Whether what is here, once more, makes it uncertain what is `there`: it is at the same place, or on
    /// the way to it.
    #[must_use]
    pub fn leads_to(&self, there: &Self) -> bool {
        match (self, there) {
            (Self::Json(path), Self::Json(way)) | (Self::Message(path), Self::Message(way)) => {
                !path.is_empty() && way.starts_with(path)
            }
            (Self::Form(name), Self::Form(own)) | (Self::Multipart(name), Self::Multipart(own)) => {
                name == own
            }
            _ => false,
        }
    }

    /// The steps of the way there.
    fn way(&self) -> impl DoubleEndedIterator<Item = Key<'_>> + ExactSizeIterator {
        let (path, name) = match self {
            Self::Json(path) | Self::Message(path) => (path.as_slice(), None),
            Self::Form(name) | Self::Multipart(name) => (&[][..], Some(name)),
        };
        let length = path.len() + usize::from(name.is_some());
        let key = move |at: usize| match path.get(at) {
            Some(Step::Name(name)) => Key::Name(name),
            Some(Step::At(place)) => Key::At(*place),
            None => Key::Name(name.map_or(&[], Vec::as_slice)),
        };
        (0..length).map(key)
    }

    /// How many bytes of memory it takes.
    fn weight(&self) -> usize {
        let own = |key: Key<'_>| match key {
            Key::Name(name) => name.len(),
            Key::At(_) => 0,
        };
        self.way().map(|key| size_of::<Step>() + own(key)).sum()
    }
}

/// A step, to compare it with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key<'p> {
    Name(&'p [u8]),
    At(usize),
}

/// Whether the way begins with all of the pointer.
fn leads_to(pointer: &Pointer, path: &[Step]) -> bool {
    let tokens = pointer.tokens();
    path.len() >= tokens.len() && tokens.iter().zip(path).all(|(token, step)| step.is(token))
}

/// A text with a reference in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it stands.
    pub place: Place,
    /// What it says, decoded.
    pub text: Vec<u8>,
    /// Which bytes of the body say so.
    pub at: Range<usize>,
    /// Whether there is another value for the same place, and readers differ in which one counts.
    pub ambiguous: bool,
}

/// The longest that names on the way and heads of parts may be in what streams: far more than they are, and
/// as much as an agent can have us hold.
const HELD: usize = 64 * 1024;

/// The most texts with references that one body may have, and the most bytes that the ways to them may take
/// together. Each is kept with its way, which can be as long as the body, so that without a bound a body would
/// take its own length squared; and nobody refers to so much.
const MOST_FOUND: usize = 1000;
const MOST_OF_WAYS: usize = 1 << 20;

/// Why a body with more of them is not read.
const TOO_MANY: &str =
    "The body holds more references, or references deeper inside, than are looked at in one body";

/// A body that was read, whole or as far as it is in memory, with all texts in it that hold references.
#[derive(Clone, Debug)]
pub struct BodyText {
    bytes: Bytes,
    kind: BodyKind,
    found: Vec<Found>,
    /// What is wrong with a body that holds a reference.
    fault: Option<&'static str>,
    /// Whether it goes on.
    begun: bool,
}

/// A text with references in it that is not over: where it stands, and their names.
pub type Open = (Place, BTreeSet<Option<String>>);

/// What reads on behind the beginning of a body.
#[derive(Debug)]
pub struct Behind {
    /// Has read the beginning.
    pub scanner: Scanner,
    /// The text that is not over there, if it refers to anything.
    pub open: Option<Open>,
}

/// Notes the texts of a body that hold references.
struct Search<'b> {
    bytes: &'b Bytes,
    kind: &'b BodyKind,
    begun: bool,
    found: Vec<Found>,
    /// The bytes of the ways to them.
    ways: usize,
    too_many: bool,
    /// Whether there is any reference.
    any: bool,
    /// The references of the text that is being read. Asked for at the end of a beginning alone.
    names: BTreeSet<Option<String>>,
}

impl Search<'_> {
    fn see(&mut self, seen: &Seen<'_>) {
        match seen {
            Seen::Entry(_) => {}
            Seen::Reference(_, name) => {
                self.any = true;
                if self.begun {
                    self.names.insert(name.map(str::to_owned));
                }
            }
            Seen::Text { place, at, refers, opaque, .. } => {
                self.names.clear();
                if *refers && !self.too_many {
                    self.note(place, at.clone(), *opaque);
                }
            }
        }
    }

    fn note(&mut self, place: &Place, at: Range<usize>, opaque: bool) {
        self.ways += place.weight();
        self.too_many = self.found.len() == MOST_FOUND || self.ways > MOST_OF_WAYS;
        if self.too_many {
            self.found = Vec::new();
            return;
        }
        let text = if opaque { Vec::new() } else { self.kind.decoded(&self.bytes[at.clone()]) };
        self.found.push(Found { place: place.clone(), text, at, ambiguous: false });
    }
}

impl BodyText {
    /// Reads a whole body.
    #[must_use]
    pub fn read(bytes: Bytes, kind: BodyKind) -> Self {
        let mut text = Self { bytes, kind, found: Vec::new(), fault: None, begun: false };
        text.fault = text.encoding();
        if text.fault.is_none() && text.may_refer() {
            let mut scanner = Scanner::new(&text.kind, usize::MAX);
            text.search(&mut scanner);
        }
        text
    }

    /// Reads the beginning of a body, with the texts that are over in it. There is nothing to read on where
    /// nothing in it refers to anything, or where it is known already that the body cannot be read.
    #[must_use]
    pub fn begin(bytes: Bytes, kind: BodyKind) -> (Self, Option<Behind>) {
        let mut text = Self { bytes, kind, found: Vec::new(), fault: None, begun: true };
        text.fault = text.encoding();
        if text.fault.is_some() || !text.may_refer() {
            return (text, None);
        }
        let mut scanner = Scanner::new(&text.kind, HELD);
        let open = text.search(&mut scanner);
        let refers = open.is_some() || !text.found.is_empty();
        let behind = refers.then_some(Behind { scanner, open });
        (text, behind)
    }

    /// Notes what there is. The text that is not over is given back.
    fn search(&mut self, scanner: &mut Scanner) -> Option<Open> {
        let Self { bytes, kind, begun, .. } = self;
        let (begun, any) = (*begun, reference::occurs(bytes));
        let (found, names) = (Vec::new(), BTreeSet::new());
        let mut search = Search { bytes, kind, begun, found, ways: 0, too_many: false, any, names };
        let see = &mut |seen: Seen<'_>| search.see(&seen);
        let read = scanner.push(bytes, see);
        let read = read.and_then(|()| if begun { Ok(()) } else { scanner.finish(see) });
        let Search { mut found, too_many, any, names, .. } = search;
        if too_many {
            self.fault = Some(TOO_MANY);
            return None;
        }
        if read.is_err() {
            self.fault = if any || scanner.refers() { kind.malformed() } else { None };
            return None;
        }
        mark_repeated(bytes, kind, &mut found, begun);
        self.found = found;
        let open = scanner.place().filter(|_| !names.is_empty()).cloned()?;
        Some((open, names))
    }

    /// Why JSON cannot be read by its bytes.
    fn encoding(&self) -> Option<&'static str> {
        if self.kind != BodyKind::Json {
            return None;
        }
        let marked = || self.bytes.starts_with(b"\xef\xbb\xbf") && self.may_refer();
        if is_wide(&self.bytes) { Some(UTF) } else { marked().then_some(MARK) }
    }

    /// Shows what each text says that stands where `is` says: of a beginning, and of what is malformed, as far as
    /// it goes.
    pub fn texts_in(&self, is: &dyn Fn(&Place) -> bool, show: &mut dyn FnMut(&[u8])) {
        let mut scanner = Scanner::new(&self.kind, usize::MAX);
        let see = &mut |seen: Seen<'_>| {
            if let Seen::Text { place, at, opaque: false, .. } = seen
                && is(place)
            {
                show(&self.kind.decoded(&self.bytes[at]));
            }
        };
        let _as_far_as_it_goes = scanner.push(&self.bytes, see).and_then(|()| scanner.finish(see));
    }

    /// Whether it may hold a reference, whose characters may be escaped. Nearly no body does, and then
    /// nothing else is looked at.
    fn may_refer(&self) -> bool {
        let escape: &[u8] = match self.kind {
            BodyKind::Json | BodyKind::Message => b"\\u00",
            BodyKind::Form => b"%",
            BodyKind::Multipart { .. } => return reference::occurs(&self.bytes),
            BodyKind::Whole | BodyKind::Unclear(_) => return false,
        };
        reference::occurs(&self.bytes) || memmem::find(&self.bytes, escape).is_some()
    }

    /// The body as it was sent, as far as it was read.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether this is its beginning alone.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// How it is written.
    #[must_use]
    pub fn kind(&self) -> &BodyKind {
        &self.kind
    }

    /// The texts that hold references.
    #[must_use]
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// Why it cannot be read, though it holds a reference.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }
}

/// Of two fields of one name some readers take the first and some the last, so a place is certain only if
/// each step on the way to it is there once.
fn mark_repeated(bytes: &[u8], kind: &BodyKind, found: &mut [Found], begun: bool) {
    if found.is_empty() {
        return;
    }
    let mut ways = Ways::to(found);
    let see = &mut |seen: Seen<'_>| {
        if let Seen::Entry(place) = seen {
            ways.pass(place);
        }
    };
    // It was read before, as far as it goes. A name at the end of a beginning may be cut.
    let mut scanner = Scanner::new(kind, usize::MAX);
    let read = scanner.push(bytes, see);
    let _read = read.and_then(|()| if begun { Ok(()) } else { scanner.finish(see) });
    let repeated: Vec<bool> = found.iter().map(|found| ways.repeat(&found.place)).collect();
    for (found, repeated) in found.iter_mut().zip(repeated) {
        found.ambiguous = repeated;
    }
}

/// The ways to what was found, as a tree in which a body is followed: of each of its entries the last step
/// alone is looked up, however many ways there are and however long.
struct Ways<'p> {
    /// Where a step leads from a place of the tree. The root is 0.
    next: HashMap<(usize, Key<'p>), usize>,
    /// How often each place was passed.
    times: Vec<usize>,
    /// The places of the entry that was the last, and of those that it is in; none off the ways.
    here: Vec<Option<usize>>,
}

impl<'p> Ways<'p> {
    fn to(found: &'p [Found]) -> Self {
        let (mut next, mut times) = (HashMap::new(), vec![0]);
        for found in found {
            found.place.way().fold(0, |at, key| {
                *next.entry((at, key)).or_insert_with(|| {
                    times.push(0);
                    times.len() - 1
                })
            });
        }
        Self { next, times, here: vec![Some(0)] }
    }

    /// The next entry of the body. What it is in came before it.
    fn pass(&mut self, place: &Place) {
        let mut way = place.way();
        let depth = way.len();
        let Some(last) = way.next_back() else { return };
        let above = self.here.get(depth - 1).copied().flatten();
        let own = above.and_then(|above| self.next.get(&(above, last)).copied());
        self.here.resize(depth, None);
        self.here.push(own);
        if let Some(own) = own {
            self.times[own] += 1;
        }
    }

    /// Whether a step of the way is there more than once.
    fn repeat(&self, place: &Place) -> bool {
        let mut at = Some(0);
        place.way().any(|key| {
            at = at.and_then(|from| self.next.get(&(from, key)).copied());
            at.is_some_and(|at| self.times[at] > 1)
        })
    }
}

/// Whether the head says that the body is coded, so that it cannot be searched as it is.
#[must_use]
pub fn is_coded(headers: &HeaderMap) -> bool {
    let identity = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    !headers.get_all(header::CONTENT_ENCODING).iter().all(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    /// All that is seen, of a body in pieces.
    fn seen<'b>(kind: &BodyKind, pieces: impl Iterator<Item = &'b [u8]>) -> (Vec<String>, bool) {
        let (mut all, mut scanner) = (Vec::new(), Scanner::new(kind, usize::MAX));
        let see = &mut |seen: Seen<'_>| all.push(format!("{seen:?}"));
        let mut read = Ok(());
        for piece in pieces {
            read = read.and_then(|()| scanner.push(piece, see));
        }
        let read = read.and_then(|()| scanner.finish(see));
        (all, read.is_ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// However a body is cut, the same is seen of it.
        #[test]
        fn a_body_in_pieces_is_the_whole(
            text in "(\\{|\\}|\\[|\\]|\"|:|,|\\\\u006c|\\\\|locum_|a|1|-|\\.|e|true|&|=|%6c|%|\r\n|\r|--b|; name=a|Content-Disposition: form-data| ){0,24}",
            piece in 1usize..9,
        ) {
            let multipart = BodyKind::Multipart { boundary: b"b"[..].into() };
            for kind in [BodyKind::Json, BodyKind::Message, BodyKind::Form, multipart] {
                let whole = seen(&kind, std::iter::once(text.as_bytes()));
                let pieces = seen(&kind, text.as_bytes().chunks(piece));
                prop_assert_eq!(whole, pieces);
            }
        }
    }

    /// What is kept of a body stays within its bounds, and is found within them.
    #[test]
    fn a_hostile_body_keeps_no_more_than_a_bound() {
        let (name, deep) = ("n".repeat(500_000), "[".repeat(500));
        let row = |text: &str, times: usize| vec![text; times].join(",");
        let multipart = BodyKind::Multipart { boundary: b"b"[..].into() };
        let part = "--b\r\nContent-Disposition: form-data; name=a; x=";
        for (kind, body, texts) in [
            (BodyKind::Json, format!("{{\"{name}\":\"{}\"}}", "locum_ ".repeat(70_000)), Some(1)),
            (BodyKind::Json, format!("{{\"{name}\":[{}]}}", row("\"locum_\"", 2)), Some(2)),
            (BodyKind::Json, format!("{{\"{name}\":[{}]}}", row("\"locum_\"", 50_000)), None),
            (BodyKind::Message, format!("[{}]", row("\"locum_\"", 60_000)), None),
            (BodyKind::Json, format!("[{}]", row("\"locum_\"", MOST_FOUND)), Some(MOST_FOUND)),
            (BodyKind::Json, format!("[{}]", row("\"locum_\"", MOST_FOUND + 1)), None),
            (BodyKind::Json, format!("{deep}{}{}", row("\"locum_\"", 900), "]".repeat(500)), None),
            (BodyKind::Form, "a=locum_&".repeat(116_000), None),
            (BodyKind::Form, format!("{name}=locum_&").repeat(3), None),
            (
                multipart.clone(),
                format!("{part}{}\r\n\r\n\r\n--b--", "locum_ ".repeat(100_000)),
                Some(1),
            ),
            (
                multipart,
                format!("{}--b--", format!("{part}locum_\r\n\r\n\r\n").repeat(10_000)),
                None,
            ),
        ] {
            let start = &body[..60.min(body.len())];
            let bytes = Bytes::from(body.clone());
            let read = BodyText::read(bytes.clone(), kind.clone());
            assert_eq!(
                read.fault(),
                if texts.is_none() { Some(TOO_MANY) } else { None },
                "{start}"
            );
            assert_eq!(read.found().len(), texts.unwrap_or(0), "{start}");
            for cut in [bytes.len(), bytes.len() / 2, bytes.len() - 3] {
                let (begun, behind) = BodyText::begin(bytes.slice(..cut), kind.clone());
                let ways: usize = begun.found().iter().map(|found| found.place.weight()).sum();
                assert!(begun.found().len() <= MOST_FOUND && ways <= MOST_OF_WAYS, "{start}");
                let open = behind.and_then(|behind| behind.open);
                assert!(open.is_none_or(|(_, names)| names.len() == 1), "{start}");
            }
        }
    }

    #[test]
    fn the_type_says_which_slots_there_are() {
        let kind = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
            BodyKind::of(&headers)
        };
        for json in
            ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"]
        {
            assert_eq!(kind(json), Some(BodyKind::Json), "{json}");
        }
        assert_eq!(kind("application/x-www-form-urlencoded;charset=UTF-8"), Some(BodyKind::Form));
        let multipart =
            |boundary: &str| Some(BodyKind::Multipart { boundary: boundary.as_bytes().into() });
        assert_eq!(kind("multipart/form-data; boundary=abc"), multipart("abc"));
        assert_eq!(kind("multipart/form-data; x=1; Boundary=\"a b\""), multipart("a b"));
        for other in [
            "text/plain",
            "multipart/form-data",
            "multipart/mixed; boundary=a",
            "application/jsonl",
            "",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
        let mut two = HeaderMap::new();
        two.append(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        two.append(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let unclear = |kind: Option<BodyKind>| matches!(kind, Some(BodyKind::Unclear(_)));
        assert!(unclear(BodyKind::of(&two)));
        for odd in [
            "application/json, text/plain",
            "text/plain, multipart/form-data; boundary=a",
            "application/json; charset=utf-16",
            "application/json; charset=utf-8; Charset=utf-8",
            "application/x-www-form-urlencoded; charset=ibm037",
            "multipart/form-data; boundary=a; boundary=a",
            "multipart/form-data; boundary=a; boundary*=utf-8''b",
            "multipart/form-data; boundary=\"a",
            "multipart/form-data; boundary=a; charset=utf-7",
            "application/json; charset=\"",
        ] {
            assert!(unclear(kind(odd)), "{odd}");
        }
        for usual in ["application/json; charset=\"UTF-8\"", "text/json;charset=us-ascii; x=y;"] {
            assert_eq!(kind(usual), Some(BodyKind::Json), "{usual}");
        }
    }
}
