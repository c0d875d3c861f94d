//! `multipart/form-data` (RFC 7578): parts between boundaries, each with a name.

use memchr::memmem;

use super::{Malformed, Place, See, Seen, Text};

/// The boundary among the parameters of a type (RFC 2046 section 5.1.1), if there is one.
///
/// # Errors
/// There are two, or one that is not legal.
pub(super) fn boundary(parameters: &str) -> Result<Option<String>, Malformed> {
    // As RFC 2231 would have it, which some readers take for the same.
    if parameters.to_ascii_lowercase().contains("boundary*") {
        return Err(Malformed);
    }
    let Some(boundary) = sole(parameters.as_bytes(), b"boundary")? else { return Ok(None) };
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(b);
    let fits = (1..=70).contains(&boundary.len()) && boundary.iter().all(legal);
    let text = String::from_utf8(boundary).ok().filter(|text| fits && !text.ends_with(' '));
    text.map(Some).ok_or(Malformed)
}

/// The charset among the parameters of a type.
///
/// # Errors
/// There are two, or parameters that are none.
pub(super) fn charset(parameters: &str) -> Result<Option<Vec<u8>>, Malformed> {
    sole(parameters.as_bytes(), b"charset")
}

/// The value of a parameter in `; name=value; name="value"`. None if it is there twice.
fn parameter(text: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    sole(text, name).ok().flatten()
}

/// The same, told apart from one that is there twice.
fn sole(text: &[u8], name: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut found = None;
    let mut rest = text;
    while !rest.is_empty() {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|b| matches!(b, b'=' | b';')).unwrap_or(rest.len());
        let (own, after) = rest.split_at(end);
        let Some(after) = after.strip_prefix(b"=") else {
            rest = after.strip_prefix(b";").unwrap_or_default();
            continue;
        };
        let (value, after) = value(after.trim_ascii_start()).ok_or(Malformed)?;
        if own.trim_ascii().eq_ignore_ascii_case(name) && found.replace(value).is_some() {
            return Err(Malformed);
        }
        rest = after.trim_ascii_start();
        rest = if rest.is_empty() { rest } else { rest.strip_prefix(b";").ok_or(Malformed)? };
    }
    Ok(found)
}

/// A token or a quoted text, and what follows it.
fn value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|b| *b == b';').unwrap_or(text.len());
        return Some((text[..end].trim_ascii().to_vec(), &text[end..]));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &quoted[at + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(*byte),
        }
    }
    None
}

/// Parts, as far as they have come.
#[derive(Debug)]
pub(super) struct Scanner {
    /// A line end, two dashes and the boundary.
    delimiter: Box<[u8]>,
    /// How much of it has come. It begins with a CR and has no other, so that what breaks off is no
    /// beginning of another.
    matched: usize,
    /// How much of a boundary begins the line that is being read, for those to whom a CR or an LF alone ends
    /// one; nothing where it begins otherwise.
    line: Option<usize>,
    stage: Stage,
    /// The head that is being read, where it began, and how long it may be.
    head: Vec<u8>,
    head_at: usize,
    bound: usize,
    /// Where the content is that is being read; nowhere if it is no field.
    place: Place,
    text: Text,
    /// The last of what follows the parts.
    epilogue: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Before the first boundary.
    Preamble,
    /// Right behind a boundary; and behind a dash, behind blanks, behind a CR there.
    Behind,
    Dash,
    Blank,
    Return,
    Head,
    Content,
    Epilogue,
}

impl Scanner {
    pub(super) fn new(boundary: &[u8], bound: usize) -> Self {
        Self {
            delimiter: [b"\r\n--", boundary].concat().into(),
            // The first boundary may stand at the very start, without the line end that belongs to it.
            matched: 2,
            line: Some(0),
            stage: Stage::Preamble,
            head: Vec::new(),
            head_at: 0,
            bound,
            place: Place::Multipart(Vec::new()),
            text: Text::default(),
            epilogue: Vec::new(),
        }
    }

    /// Reads on, from the byte `from` of the body. The body has to be written as RFC 2046 has it, and no
    /// line may look like a boundary without being one.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        from: usize,
        see: See<'_>,
    ) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(rest) = piece.get(at..).filter(|rest| !rest.is_empty()) {
            let here = from.wrapping_add(at);
            at += match self.stage {
                Stage::Preamble | Stage::Content => self.seek(rest, here, see)?,
                Stage::Head => self.in_head(rest[0], here, see)?,
                Stage::Epilogue => return self.in_epilogue(rest),
                Stage::Behind | Stage::Dash | Stage::Blank | Stage::Return => {
                    self.behind(rest[0], here)?
                }
            };
        }
        Ok(())
    }

    /// The body is over.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        if matches!(self.stage, Stage::Epilogue) { Ok(()) } else { Err(Malformed) }
    }

    /// Where the content is that is being read.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Goes on to the next boundary.
    fn seek(&mut self, rest: &[u8], from: usize, see: See<'_>) -> Result<usize, Malformed> {
        let (mut at, mut told) = (0, 0);
        while at < rest.len() {
            if self.matched == 0 {
                at = memchr::memchr(b'\r', &rest[at..]).map_or(rest.len(), |more| at + more);
                self.say(&rest[told..at], see)?;
                self.matched = usize::from(at < rest.len());
                at = (at + 1).min(rest.len());
            } else if self.delimiter[self.matched] == rest[at] {
                self.matched += 1;
                at += 1;
            } else {
                self.not_a_boundary(see)?;
            }
            told = at;
            if self.matched == self.delimiter.len() {
                self.boundary(from.wrapping_add(at), see);
                return Ok(at);
            }
        }
        Ok(at)
    }

    /// What looked like a boundary is content.
    fn not_a_boundary(&mut self, see: See<'_>) -> Result<(), Malformed> {
        let matched = std::mem::take(&mut self.matched);
        let text: Box<[u8]> = self.delimiter[..matched].into();
        self.say(&text, see)
    }

    fn say(&mut self, text: &[u8], see: See<'_>) -> Result<(), Malformed> {
        let fault = odd_boundary(&mut self.line, &self.delimiter[2..], text);
        if matches!(self.stage, Stage::Content) {
            self.text.push(&text[..fault.unwrap_or(text.len())], &self.place, see);
        }
        fault.map_or(Ok(()), |_| Err(Malformed))
    }

    /// A boundary has come, up to `end`.
    fn boundary(&mut self, end: usize, see: See<'_>) {
        if matches!(self.stage, Stage::Content) {
            let end = end.wrapping_sub(self.delimiter.len());
            self.text.end(end, &self.place, see);
        }
        self.matched = 0;
        self.stage = Stage::Behind;
    }

    /// What may follow a boundary: two dashes at the end, or blanks and the end of the line.
    fn behind(&mut self, byte: u8, at: usize) -> Result<usize, Malformed> {
        self.stage = match (self.stage, byte) {
            (Stage::Behind, b'-') => Stage::Dash,
            (Stage::Dash, b'-') => Stage::Epilogue,
            (Stage::Behind | Stage::Blank, b' ' | b'\t') => Stage::Blank,
            (Stage::Behind | Stage::Blank, b'\r') => Stage::Return,
            (Stage::Return, b'\n') => {
                self.head_at = at.wrapping_add(1);
                Stage::Head
            }
            _ => return Err(Malformed),
        };
        Ok(1)
    }

    /// A head ends with its first empty line.
    fn in_head(&mut self, byte: u8, at: usize, see: See<'_>) -> Result<usize, Malformed> {
        if self.head.len() == self.bound {
            return Err(Malformed);
        }
        self.head.push(byte);
        if self.head == b"\r\n" || self.head.ends_with(b"\r\n\r\n") {
            let head = std::mem::take(&mut self.head);
            self.head_over(&head, at.wrapping_add(1), see)?;
        }
        Ok(1)
    }

    fn head_over(&mut self, head: &[u8], end: usize, see: See<'_>) -> Result<(), Malformed> {
        // Who wants no empty line takes it for a boundary.
        let line = &self.delimiter[2..];
        if head.starts_with(line) || memmem::find(head, &self.delimiter).is_some() {
            return Err(Malformed);
        }
        let (name, file) = name(head).ok_or(Malformed)?;
        self.place = Place::Multipart(Vec::new());
        // In a head a reference is text, but it has to be counted.
        self.text.begin(self.head_at, true);
        self.text.push(head, &self.place, see);
        self.text.end(end, &self.place, see);
        if let Some(name) = name {
            let place = Place::Multipart(name);
            see(Seen::Entry(&place));
            if !file {
                self.place = place;
            }
        }
        // A file is not read any further.
        self.text.begin(end, file);
        self.line = Some(0);
        self.stage = Stage::Content;
        Ok(())
    }

    /// What follows the last boundary is nobody's, and must not be a part to anyone.
    fn in_epilogue(&mut self, rest: &[u8]) -> Result<(), Malformed> {
        let boundary = &self.delimiter[4..];
        // A part of a boundary and the next piece, in pieces that are short enough to be copied.
        for piece in rest.chunks(4096) {
            self.epilogue.extend_from_slice(piece);
            if memmem::find(&self.epilogue, boundary).is_some() {
                return Err(Malformed);
            }
            let over = (self.epilogue.len() + 1).saturating_sub(boundary.len());
            self.epilogue.drain(..over);
        }
        Ok(())
    }
}

/// Where a line of content turns out to begin like a boundary: there are readers to whom a line ends with any of
/// CR and LF, or for whom the empty line of a head belongs to a boundary behind it, and it is another part.
fn odd_boundary(line: &mut Option<usize>, boundary: &[u8], text: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if let Some(matched) = line.filter(|matched| boundary[*matched] == *byte) {
            *line = Some(matched + 1);
            if matched + 1 == boundary.len() {
                return Some(at);
            }
            at += 1;
        } else {
            // No boundary has a line end in it, so that what breaks off is no beginning of another.
            let end = memchr::memchr2(b'\r', b'\n', &text[at..]);
            *line = end.map(|_| 0);
            at = end.map_or(text.len(), |end| at + end + 1);
        }
    }
    None
}

/// The lines of a head, each a name and a value. None where readers differ in where one ends or whether it goes
/// on (RFC 2045 folds lines, and HTTP no longer does), or in what is a name.
fn lines(head: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    head.strip_suffix(b"\r\n")?.split_inclusive(|b| *b == b'\n').map(line).collect()
}

fn line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"\r\n")?;
    let (name, value) = line.split_at(line.iter().position(|b| *b == b':')?);
    let odd = |b: &u8| b.is_ascii_control() && *b != b'\t';
    let token = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    (token && !value.iter().any(odd)).then(|| (name, value[1..].trim_ascii()))
}

/// The part's name, and whether it is something else than a field. None for a head that says it twice, or that
/// says it to some readers and not to others.
fn name(head: &[u8]) -> Option<(Option<Vec<u8>>, bool)> {
    let (mut name, mut file) = (None, false);
    for (field, value) in lines(head)? {
        if field.eq_ignore_ascii_case(b"content-transfer-encoding") {
            file |=
                ![&b"7bit"[..], b"8bit", b"binary"].iter().any(|c| value.eq_ignore_ascii_case(c));
        }
        if !field.eq_ignore_ascii_case(b"content-disposition") {
            continue;
        }
        let (kind, parameters) = value.split_at(value.iter().position(|b| *b == b';')?);
        if name.is_some() || !kind.trim_ascii().eq_ignore_ascii_case(b"form-data") {
            return None;
        }
        name = Some(parameter(&parameters[1..], b"name")?);
        let lower = parameters.to_ascii_lowercase();
        file |=
            memmem::find(&lower, b"filename").is_some() || memmem::find(&lower, b"name*").is_some();
        // Some take it for itself, and some for an escape.
        if !file && parameters.contains(&b'\\') {
            return None;
        }
    }
    Some((name, file))
}

#[cfg(test)]
mod tests {
    use super::super::{BodyKind, BodyText, Found};
    use super::*;
    use bytes::Bytes;

    const BODY: &str = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b\r\n\
        content-disposition: form-data; name=token\r\n\r\nlocum_x\r\n--b--\r\n";

    fn found(body: &str) -> Result<Vec<(String, &str, bool)>, &'static str> {
        let one = |f: &Found| match &f.place {
            Place::Multipart(name) => {
                (String::from_utf8(name.clone()).unwrap(), &body[f.at.clone()], f.ambiguous)
            }
            other => panic!("{other:?}"),
        };
        let kind = BodyKind::Multipart { boundary: b"b"[..].into() };
        let read = BodyText::read(Bytes::copy_from_slice(body.as_bytes()), kind);
        read.fault().map_or_else(|| Ok(read.found().iter().map(one).collect()), Err)
    }

    #[test]
    fn a_part_is_found_by_its_name() {
        assert_eq!(found(BODY), Ok(vec![("token".to_owned(), "locum_x", false)]));
        let quoted = BODY.replace("name=token", "name=\"token\"; x=1");
        assert_eq!(found(&quoted), Ok(vec![("token".to_owned(), "locum_x", false)]));
        let twice = BODY.replace("name=\"a\"", "name=\"token\"");
        assert_eq!(found(&twice), Ok(vec![("token".to_owned(), "locum_x", true)]));
        let file = BODY.replace("name=token", "name=token; filename=x");
        assert_eq!(found(&file), Ok(vec![(String::new(), "locum_x", false)]), "a file is no field");
        let coded = BODY.replace("name=token", "name=token\r\nContent-Transfer-Encoding: base64");
        assert_eq!(found(&coded).unwrap()[0].0, "");
        let preamble = format!("hello\r\n{BODY}epilogue");
        assert_eq!(found(&preamble).unwrap().len(), 1);
        let like_one = BODY.replace("\r\n1\r\n", "\r\n1--b\r\r\n\r\n-\r\n--\n-\n--\r\n--\r\n");
        assert_eq!(
            found(&like_one),
            found(BODY).map(|all| vec![(all[0].0.clone(), "locum_x", false)])
        );
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (from, to) in [
            ("--b--", "--b"),
            ("--b--\r\n", "--b--\r\n--b\r\n\r\nx\r\n--b--"),
            ("--b--\r\n", "--b--\r\nab"),
            ("content-disposition", "X: y\r\n--b\r\ncontent-disposition"),
            ("content-disposition", "--b\r\ncontent-disposition"),
            ("--b\r\nC", "--bX\r\nC"),
            ("name=token", "name=token; name=other"),
            ("form-data; name=token", "attachment; name=token"),
            ("name=token", "name=\"token"),
            ("name=token\r\n\r\n", "name=token\r\n"),
            ("name=token", "name=token\r\nContent-Disposition: form-data; name=b"),
            ("name=token", "name=\"to\\ken\""),
            ("name=token", "name=token; x=\"a\\\"; name=message; y=\\\"\""),
            // A line that goes on in the next, to those who fold them.
            ("name=token", "name=token\r\n ; name=message"),
            ("name=token", "name=token\r\n\t; name=message"),
            ("name=token", "name=token\r\n name*=utf-8''message"),
            ("name=token", "name=token;\r\n filename=x"),
            ("name=token", "name=token\r\nX: y\r\n z: w"),
            // A line that is none.
            ("name=token", "name=token\r\n; name=message"),
            ("name=token", "name=token\r\n: name=message"),
            ("name=token", "name=token\r\nContent-Disposition : form-data; name=message"),
            ("name=token", "name=token; x=y\n; name=message"),
            ("name=token", "name=token\nX: y"),
            ("name=token", "name=token\rX: y"),
            ("name=token", "name=token\r; name=message"),
            ("name=token", "name=token; x=y\0"),
            ("name=token", "name=token\u{b}X: y"),
            // Another part, to those to whom the empty line or a single CR or LF belongs to its boundary.
            ("\r\n1\r\n", "\r\n--b\r\nContent-Disposition: form-data; name=token\r\n\r\nevil\r\n"),
            ("\r\n1\r\n", "\r\n1\n--b\nContent-Disposition: form-data; name=token\n\nevil\r\n"),
            (
                "\r\n1\r\n",
                "\r\n1\r--b\r\nContent-Disposition: form-data; name=token\r\n\r\nevil\r\n",
            ),
            ("\r\n1\r\n", "\r\n\r\n\n--b--\r\n"),
            ("\r\n1\r\n", "\r\n-\n--b--\r\n"),
            ("--b\r\nContent-D", "x\n--b\n\n\r\n--b\r\nContent-D"),
        ] {
            let body = BODY.replace(from, to);
            assert_ne!(body, BODY);
            assert!(found(&body).is_err(), "{body}");
        }
    }
}
