//! How a client writes the names of its fields, read along as its heads come.
//!
//! HTTP minds no case, some origins do, and so an origin gets names as the client wrote them. hyper can keep
//! the writing of each name, in a second map of all names for each request, which is a tenth of what a
//! request costs. Nearly all clients write all names in one of two ways, and a way can be told once.

use crate::http1::Spelling;

/// Reads along with the heads on one connection.
pub(super) struct Speller {
    at: At,
    /// Whether no name so far has a capital.
    lower: bool,
    /// Whether each word of each name so far begins with a capital, and has no other.
    title: bool,
}

/// Where in a head the next byte stands.
#[derive(Clone, Copy)]
enum At {
    /// In the request line, or behind a name.
    Line,
    /// In a name, behind this byte of it.
    Name(u8),
    /// Behind the head.
    Over,
}

/// What stands before a name.
const NEW_LINE: u8 = b'\n';

impl Default for Speller {
    fn default() -> Self {
        Self { at: At::Line, lower: true, title: true }
    }
}

impl Speller {
    /// Reads the next bytes. What comes behind the head is not looked at.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        loop {
            match (self.at, bytes) {
                (At::Over, _) | (_, []) => return,
                (At::Name(NEW_LINE), [b'\r' | b'\n', ..]) => self.at = At::Over,
                (At::Name(before), _) => {
                    let end = memchr::memchr(b':', bytes);
                    let (name, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    self.look(name, before);
                    self.at = match (end, name.last()) {
                        (Some(_), _) => At::Line,
                        (None, last) => At::Name(last.copied().unwrap_or(before)),
                    };
                    bytes = rest;
                }
                (At::Line, _) => {
                    let Some(end) = memchr::memchr(b'\n', bytes) else { return };
                    self.at = At::Name(NEW_LINE);
                    bytes = &bytes[end + 1..];
                }
            }
        }
    }

    fn look(&mut self, name: &[u8], mut before: u8) {
        self.lower &= !name.iter().any(u8::is_ascii_uppercase);
        self.title = self.title
            && name.iter().all(|byte| {
                let begins = matches!(before, NEW_LINE | b'-');
                before = *byte;
                if begins { !byte.is_ascii_lowercase() } else { !byte.is_ascii_uppercase() }
            });
    }

    /// The way in which all names so far are written; none when there is none.
    pub(super) fn spelling(&self) -> Option<Spelling> {
        match (self.lower, self.title) {
            (true, _) => Some(Spelling::Lower),
            (false, true) => Some(Spelling::Title),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [(&str, Option<Spelling>); 14] = [
        ("host: A\r\naccept: */*\r\n\r\n", Some(Spelling::Lower)),
        ("Host: a\r\nUser-Agent: x\r\n\r\n", Some(Spelling::Title)),
        ("Host: a\r\nX-Stainless-Os: x\r\n\r\n", Some(Spelling::Title)),
        ("Host: a\r\nX-1-A_b: x\r\n\r\n", Some(Spelling::Title)),
        ("\r\n", Some(Spelling::Lower)),
        ("1: a\r\n\r\n", Some(Spelling::Lower)),
        ("1: a\r\nHost: a\r\n\r\n", Some(Spelling::Title)),
        ("Host: a\n\nX-API-Key: in a body\r\n", Some(Spelling::Title)),
        ("Host: a\r\naccept: */*\r\n\r\n", None),
        ("host: a\r\nX-a: x\r\n\r\n", None),
        ("Host: a\r\nUser-agent: x\r\n\r\n", None),
        ("Host: a\r\nX-API-Key: x\r\n\r\n", None),
        ("HOST: a\r\n\r\n", None),
        ("Host: a\r\nTE: trailers\r\n\r\n", None),
    ];

    #[test]
    fn names_are_read_and_nothing_else() {
        for (head, spelling) in CASES {
            let head = format!("GET /A:b HTTP/1.1\r\n{head}");
            let mut speller = Speller::default();
            speller.read(head.as_bytes());
            assert_eq!(speller.spelling(), spelling, "{head}");
        }
    }

    #[test]
    fn however_a_head_is_cut_it_reads_the_same() {
        for (head, spelling) in CASES {
            let head = format!("GET /A:b HTTP/1.1\r\n{head}");
            for cut in 0..=head.len() {
                let (first, rest) = head.as_bytes().split_at(cut);
                let mut speller = Speller::default();
                speller.read(first);
                speller.read(rest);
                assert_eq!(speller.spelling(), spelling, "{head} cut at {cut}");
            }
            let mut speller = Speller::default();
            head.as_bytes().chunks(1).for_each(|byte| speller.read(byte));
            assert_eq!(speller.spelling(), spelling, "{head}");
        }
    }
}
