//! What a parser of HTTP/1.1 settles without a word, seen in the bytes that it is about to read.
//!
//! hyper takes a length away beside a coding, makes one of two equal lengths, and cuts a fragment off a target.
//! RFC 9112 allows all of it, and somebody else reads such a request in another way. So the heads are followed
//! here as they come: how each one frames its body, and nothing else of it.

use http::header::{CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};

/// The longest line that is kept of what came in pieces. Heads have a bound of their own, which is less unless
/// somebody says otherwise.
const LINE: usize = 1 << 20;

/// Why a head has more than one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// It says more than once where its body ends (RFC 9112 section 6.3).
    Framing,
    /// Its target has a fragment, which no request has (RFC 9112 section 3.2).
    Fragment,
}

impl Odd {
    /// What is wrong.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Framing => "The request has more than one Content-Length or Transfer-Encoding",
            Self::Fragment => "The target has a fragment (`#`), which belongs to the client alone",
        }
    }
}

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub struct Heads {
    stage: Stage,
    /// The line that is being read, as far as it came in earlier pieces.
    line: Vec<u8>,
    /// What the head said so far.
    framing: Framing,
    /// Heads that are over. Wraps.
    over: u32,
}

/// Where in a request the next byte is.
#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// The first line, or empty ones before it.
    #[default]
    First,
    Fields,
    /// So many bytes of a body are to come; or of a chunk, and the end of its line.
    Body(u64),
    Chunk(u64),
    Size,
    Trailers,
    /// What the parser will not read either.
    Lost,
}

#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    fields: u8,
    length: u64,
    chunked: bool,
}

impl Heads {
    /// Looks at what comes next. Gives the first head that is odd, counted from 0, before or together with
    /// its last byte; what follows it is not looked at.
    pub fn push(&mut self, mut piece: &[u8]) -> Option<(u32, Odd)> {
        while !piece.is_empty() {
            match &mut self.stage {
                Stage::Lost => return None,
                Stage::Body(left) | Stage::Chunk(left) => {
                    let here = usize::try_from(*left).map_or(piece.len(), |l| l.min(piece.len()));
                    *left -= here as u64;
                    let (done, chunk) = (*left == 0, matches!(self.stage, Stage::Chunk(_)));
                    if done {
                        self.stage = if chunk { Stage::Size } else { Stage::First };
                    }
                    piece = &piece[here..];
                }
                _ => {
                    let Some(end) = memchr::memchr(b'\n', piece) else {
                        self.keep(piece);
                        return None;
                    };
                    let (line, rest) = piece.split_at(end + 1);
                    piece = rest;
                    if let Some(odd) = self.read(line) {
                        self.stage = Stage::Lost;
                        return Some((self.over, odd));
                    }
                }
            }
        }
        None
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.line.len() + piece.len() > LINE {
            (self.stage, self.line) = (Stage::Lost, Vec::new());
        } else {
            self.line.extend_from_slice(piece);
        }
    }

    /// Reads the end of a line, which nearly always is all of it.
    fn read(&mut self, end: &[u8]) -> Option<Odd> {
        if self.line.is_empty() {
            return self.line_over(end);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(end);
        self.line_over(&line)
    }

    fn line_over(&mut self, line: &[u8]) -> Option<Odd> {
        // Who takes a bare LF for the end of a line does so for each of them.
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.stage {
            Stage::First if line.is_empty() => {}
            Stage::First => {
                (self.stage, self.framing) = (Stage::Fields, Framing::default());
                // A method may have one in its name.
                let target = memchr::memchr(b' ', line).map_or(line, |at| &line[at..]);
                return memchr::memchr(b'#', target).map(|_| Odd::Fragment);
            }
            Stage::Fields if line.is_empty() => {
                self.over = self.over.wrapping_add(1);
                self.stage = self.framing.body();
            }
            Stage::Fields => return self.framing.note(line),
            Stage::Size => self.stage = after_size(line),
            Stage::Trailers if line.is_empty() => self.stage = Stage::First,
            _ => {}
        }
        None
    }
}

impl Framing {
    /// Takes note of a field that says where the body ends.
    fn note(&mut self, line: &[u8]) -> Option<Odd> {
        // Of most fields the first letter tells.
        match line.first()?.to_ascii_lowercase() {
            b'c' => {
                let value = value(line, &CONTENT_LENGTH)?;
                self.length = number(value, 10).unwrap_or_default();
            }
            b't' => {
                value(line, &TRANSFER_ENCODING)?;
                self.chunked = true;
            }
            _ => return None,
        }
        self.fields = self.fields.saturating_add(1);
        (self.fields > 1).then_some(Odd::Framing)
    }

    /// What follows the head.
    fn body(self) -> Stage {
        match self {
            Self { chunked: true, .. } => Stage::Size,
            Self { length: 0, .. } => Stage::First,
            Self { length, .. } => Stage::Body(length),
        }
    }
}

/// The value of a field of that name.
fn value<'l>(line: &'l [u8], name: &HeaderName) -> Option<&'l [u8]> {
    let (own, rest) = line.split_at_checked(name.as_str().len())?;
    let value = rest.strip_prefix(b":")?;
    own.eq_ignore_ascii_case(name.as_str().as_bytes()).then(|| value.trim_ascii())
}

/// What follows the line with the size of a chunk.
fn after_size(line: &[u8]) -> Stage {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    match number(&line[..digits], 16).map(|size| (size, size.checked_add(2))) {
        Some((0, _)) => Stage::Trailers,
        Some((_, Some(with_its_end))) => Stage::Chunk(with_its_end),
        _ => Stage::Lost,
    }
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u64::from_str_radix(digits, radix).ok()
}

/// The one length that an answer names, where its fields say it once or say the same (RFC 9110 section 8.6).
///
/// # Errors
/// The fields contradict each other, or name no length.
pub fn one_length<'v>(
    values: impl Iterator<Item = &'v [u8]>,
) -> Result<Option<u64>, Contradiction> {
    let mut one = None;
    for value in values.flat_map(|value| value.split(|b| *b == b',')) {
        let length = number(value.trim_ascii(), 10).ok_or(Contradiction)?;
        if one.replace(length).is_some_and(|before| before != length) {
            return Err(Contradiction);
        }
    }
    Ok(one)
}

/// Fields say different lengths, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn odd(text: &str) -> Option<(u32, Odd)> {
        let whole = Heads::default().push(text.as_bytes());
        let mut heads = Heads::default();
        let bytes = text.as_bytes().chunks(1).find_map(|byte| heads.push(byte));
        assert_eq!(whole, bytes, "{text:?}");
        whole
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn post(fields: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
    }

    #[test]
    fn heads_that_frame_twice_are_odd_wherever_they_stand() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "transfer-encoding: chunked\r\nX: y\r\nCONTENT-LENGTH:5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 0\r\nX: y\nContent-Length: 0",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            let head = post(fields);
            assert_eq!(odd(&head), Some((0, Odd::Framing)), "{head}");
            for before in [
                GET.to_owned(),
                "\r\n\r\nGET / HTTP/1.1\n\n".to_owned(),
                post("Content-Length: 4") + "\r\n\r\n",
                post("Transfer-Encoding: chunked")
                    + "3;x=y\r\n\r\n\r\r\n00A\r\n0123456789\r\n0\r\n\r\n",
                post("Transfer-Encoding: chunked")
                    + "0\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            ] {
                let text = format!("{before}{head}");
                assert_eq!(odd(&text), Some((1, Odd::Framing)), "{text}");
            }
        }
    }

    #[test]
    fn a_fragment_in_a_target_is_odd_and_elsewhere_it_is_none() {
        assert_eq!(odd("GET /a#b HTTP/1.1\r\n"), Some((0, Odd::Fragment)));
        assert_eq!(odd(&format!("{GET}GET http://a/#b HTTP/1.1\r\n")), Some((1, Odd::Fragment)));
        for text in [
            "G#T /a HTTP/1.1\r\n\r\n".to_owned(),
            post("Referer: http://a/#b"),
            post("Content-Length: 40") + "GET /a#b HTTP/1.1\r\nContent-Length: 1\r\nC",
        ] {
            assert_eq!(odd(&text), None, "{text}");
        }
    }

    #[test]
    fn heads_with_one_framing_are_not() {
        for text in [
            post("Content-Length: 30") + "Content-Length: 5\r\nX: y\r\n\r\nXYZ",
            post("X-Content-Length: 5\r\nContent-Length: 5\r\nContent-Length-X: 5\r\nTransfer: x"),
            post("Trailer: Content-Length\r\nTransfer-Encoding: chunked") + "0\r\n\r\n",
            post("Content-Length: 1") + "a" + &post("Content-Length: 1") + "b",
        ] {
            assert_eq!(odd(&text), None, "{text}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let mut heads = Heads::default();
        for _ in 0..1000 {
            assert_eq!(heads.push(&[b'a'; 8 * 1024]), None);
            assert!(heads.line.len() <= LINE);
        }
    }

    #[test]
    fn lengths_that_say_the_same_are_one() {
        let one = |values: &[&str]| one_length(values.iter().map(|value| value.as_bytes()));
        assert_eq!(one(&[]), Ok(None));
        assert_eq!(one(&["5"]), Ok(Some(5)));
        assert_eq!(one(&["5", "5", "5 ,05"]), Ok(Some(5)));
        for odd in [&["5", "6"][..], &["5,6"], &["5,"], &["+5"], &[""], &["0x5"], &["-1"]] {
            assert_eq!(one(odd), Err(Contradiction), "{odd:?}");
        }
    }

    /// A request, and whether it is odd.
    fn any_request() -> impl Strategy<Value = (Vec<u8>, bool)> {
        let body = prop_oneof![
            Just(
                "\r\n\r\nGET /#x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"
                    .to_owned()
            ),
            "[a\r\n:#]{0,20}",
        ];
        let chunked = |chunks: Vec<String>| -> String {
            let full = chunks.iter().filter(|chunk| !chunk.is_empty());
            full.map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect()
        };
        prop_oneof![
            Just((GET.to_owned(), false)),
            body.clone().prop_map(|b| (post(&format!("Content-Length: {}", b.len())) + &b, false)),
            prop::collection::vec(body, 0..4).prop_map(move |chunks| {
                let text = chunked(chunks);
                (post("Transfer-Encoding: chunked") + &text + "0\r\nX: #\r\n\r\n", false)
            }),
            Just((post("Content-Length: 0\r\nTransfer-Encoding: chunked"), true)),
        ]
        .prop_map(|(text, odd)| (text.into_bytes(), odd))
    }

    proptest! {
        /// The first one that is odd is told, however the bytes come, and no other.
        #[test]
        fn in_any_pieces_the_first_odd_head_is_told(
            requests in prop::collection::vec(any_request(), 1..8),
            cuts in prop::collection::vec(0_usize..600, 0..12),
        ) {
            let bytes: Vec<u8> = requests.iter().flat_map(|(text, _)| text.clone()).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends: &[usize]| &bytes[ends[0]..ends[1]]);
            let mut heads = Heads::default();
            let told: Vec<_> = pieces.filter_map(|piece| heads.push(piece)).collect();
            let first = requests.iter().position(|(_, odd)| *odd);
            let expected: Vec<_> = first.into_iter().map(|at| (at as u32, Odd::Framing)).collect();
            prop_assert_eq!(told, expected);
        }
    }
}
