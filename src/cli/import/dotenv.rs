//! `.env` files: which variable stands where, and the same file with other values.
//!
//! There is no one grammar of these files; Node, Python, Ruby, Docker and shells each read them in
//! their own way. Here a value counts only if they all read it alike, and every byte that is not such
//! a value is kept as it is.

use std::fmt;
use std::ops::Range;

use zeroize::Zeroizing;

/// A variable that gets a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    /// Its name.
    pub(super) name: String,
    /// On which line it begins, from 1.
    pub(super) line: usize,
    /// Where its value stands, without quotes around it.
    pub(super) span: Range<usize>,
    /// Why programs read it in more than one way.
    pub(super) doubt: Option<Doubt>,
}

/// What makes a value ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// A quote that does not end, or text after it.
    Quote,
    /// `$`, a backslash or a backtick, where some readers put something else.
    Expansion,
    /// `#` without a space before it: a comment for some.
    Comment,
    /// A space inside, without quotes.
    Space,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quote => "the quotes do not go once around the whole value",
            Self::Expansion => {
                "it has a `$`, a backslash or a backtick, which some programs expand; put it in single quotes"
            }
            Self::Comment => {
                "it has a `#`, which some programs take for a comment; put it in single quotes"
            }
            Self::Space => "it has a space inside; put it in single quotes",
        })
    }
}

/// Finds the variables of a file, in order.
pub(super) fn parse(text: &[u8]) -> Vec<Assignment> {
    let mut parser = Parser { text, at: 0, line: 1 };
    if text.starts_with(b"\xef\xbb\xbf") {
        parser.at = 3;
    }
    let mut found = Vec::new();
    while parser.at < text.len() {
        found.extend(parser.assignment());
        parser.skip_line();
    }
    found
}

/// The same file with some spans replaced. Spans that do not follow one another are left out.
pub(in crate::cli) fn replace(text: &[u8], spans: &[(Range<usize>, &str)]) -> Zeroizing<Vec<u8>> {
    let more: usize = spans.iter().map(|(_, new)| new.len()).sum();
    // Never outgrown, so that no copy of what is in it stays behind.
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() + more));
    let mut at = 0;
    for (span, new) in spans {
        let Some(kept) = text.get(at..span.start) else { continue };
        out.extend_from_slice(kept);
        out.extend_from_slice(new.as_bytes());
        at = span.end;
    }
    out.extend_from_slice(text.get(at..).unwrap_or_default());
    out
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Skips bytes of a kind, and returns them.
    fn take(&mut self, is: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().take_while(|b| is(**b)).count();
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn take_blanks(&mut self) {
        self.take(is_blank);
    }

    fn skip_line(&mut self) {
        self.take(|b| b != b'\n');
        self.at += 1;
        self.line += 1;
    }

    /// The assignment at the start of a line; none on a blank line, a comment, and what is no
    /// assignment.
    fn assignment(&mut self) -> Option<Assignment> {
        self.take_blanks();
        let mut name = self.name()?;
        if name == "export" && self.rest().first().is_some_and(|b| is_blank(*b)) {
            self.take_blanks();
            name = self.name()?;
        }
        self.take_blanks();
        (self.rest().first() == Some(&b'=')).then(|| self.at += 1)?;
        self.take_blanks();
        let line = self.line;
        let (span, doubt) = match self.rest().first() {
            Some(quote @ (b'\'' | b'"' | b'`')) => self.quoted(*quote),
            _ => self.unquoted(),
        };
        Some(Assignment { name: name.to_owned(), line, span, doubt })
    }

    fn name(&mut self) -> Option<&'a str> {
        let name = self.take(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        let starts_well = name.first().is_some_and(|b| !b.is_ascii_digit());
        starts_well.then(|| std::str::from_utf8(name).ok()).flatten()
    }

    fn quoted(&mut self, quote: u8) -> (Range<usize>, Option<Doubt>) {
        let start = self.at + 1;
        let inside = self.text.get(start..).unwrap_or_default();
        let Some(length) = closing(inside, quote) else {
            return (self.unquoted().0, Some(Doubt::Quote));
        };
        let value = inside.get(..length).unwrap_or_default();
        self.at = start + length + 1;
        self.line += memchr::memchr_iter(b'\n', value).count();
        let after = self.rest().iter().find(|b| !is_blank(**b)).copied();
        let ends = matches!(after, None | Some(b'\r' | b'\n' | b'#'));
        let doubt = if !ends || quote == b'`' {
            Some(Doubt::Quote)
        } else if quote == b'"' && value.iter().any(|b| b"$\\`".contains(b)) {
            Some(Doubt::Expansion)
        } else {
            None
        };
        (start..start + length, doubt)
    }

    fn unquoted(&mut self) -> (Range<usize>, Option<Doubt>) {
        let start = self.at;
        let line = self.take(|b| b != b'\n');
        let comment = line.windows(2).position(|pair| is_blank(pair[0]) && pair[1] == b'#');
        let comment = if line.starts_with(b"#") { Some(0) } else { comment };
        let value = line.get(..comment.unwrap_or(line.len())).unwrap_or_default();
        let value = value.trim_ascii_end();
        let has = |bytes: &[u8]| value.iter().any(|b| bytes.contains(b));
        let doubt = if has(b"$\\`") {
            Some(Doubt::Expansion)
        } else if has(b"'\"") {
            Some(Doubt::Quote)
        } else if has(b"#") {
            Some(Doubt::Comment)
        } else if has(b" \t") {
            Some(Doubt::Space)
        } else {
            None
        };
        (start..start + value.len(), doubt)
    }
}

fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// Where the quote ends. Double quotes can be escaped.
fn closing(inside: &[u8], quote: u8) -> Option<usize> {
    let mut escaped = false;
    inside.iter().position(|b| {
        let ends = *b == quote && !escaped;
        escaped = quote == b'"' && *b == b'\\' && !escaped;
        ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, usize, String, Option<Doubt>)> {
        let each = parse(text.as_bytes()).into_iter();
        each.map(|a| (a.name, a.line, text[a.span].to_owned(), a.doubt)).collect()
    }

    fn one(text: &str) -> (String, Option<Doubt>) {
        let mut all = read(text);
        assert_eq!(all.len(), 1, "{text}");
        let (_, _, value, doubt) = all.remove(0);
        (value, doubt)
    }

    #[test]
    fn values_that_all_programs_read_alike() {
        for text in [
            "A=sk-1/2+3==",
            "export A=sk-1/2+3==",
            "  export\tA = 'sk-1/2+3=='  ",
            "A=\"sk-1/2+3==\" # comment",
            "A=sk-1/2+3== # comment",
            "A=sk-1/2+3==\r\n",
            "A='sk-1/2+3=='\r\n",
            "\u{feff}A=sk-1/2+3==",
            "# B=x\n\n  # C=y\nA=sk-1/2+3==\nnot an assignment\n1D=z\n",
        ] {
            assert_eq!(one(text), ("sk-1/2+3==".to_owned(), None), "{text}");
        }
        assert_eq!(one("A=").0, "");
        assert_eq!(one("A=''").0, "");
        assert_eq!(one("A= # nothing").0, "");
        assert_eq!(one("A='x#y$z'"), ("x#y$z".to_owned(), None));
    }

    #[test]
    fn values_that_programs_read_differently_are_told() {
        for (text, doubt) in [
            ("A=x$y", Doubt::Expansion),
            ("A=\"x${y}\"", Doubt::Expansion),
            ("A=\"x\\ny\"", Doubt::Expansion),
            ("A=x\\y", Doubt::Expansion),
            ("A=x#y", Doubt::Comment),
            ("A=x y", Doubt::Space),
            ("A='x'y", Doubt::Quote),
            ("A=x'y'", Doubt::Quote),
            ("A='x", Doubt::Quote),
            ("A=\"x\\\"", Doubt::Quote),
            ("A=`x`", Doubt::Quote),
        ] {
            assert_eq!(one(text).1, Some(doubt), "{text}");
        }
    }

    #[test]
    fn lines_are_counted_through_quotes() {
        let text = "A='1\n2'\nB=\"\n\n\"\r\nC=3\n";
        let lines: Vec<_> = read(text).into_iter().map(|(name, line, ..)| (name, line)).collect();
        assert_eq!(lines, [("A".into(), 1), ("B".into(), 3), ("C".into(), 6)]);
        // A quote that does not end takes its own line only.
        assert_eq!(read("A='x\nB=y\n").len(), 2);
    }

    #[test]
    fn a_variable_may_be_there_more_than_once() {
        assert_eq!(read("A=1\nB=2\nA=3\n").len(), 3);
    }

    #[test]
    fn all_but_the_replaced_values_is_kept_to_the_byte() {
        let text = b"\xef\xbb\xbf# head\r\nexport A = \"old\"  # why\r\nB=\xff\xfe\r\n\r\n C='old' \r\nD=x";
        let assignments = parse(text);
        let spans: Vec<_> = assignments
            .iter()
            .filter(|a| a.name != "B")
            .map(|a| (a.span.clone(), "locum_x"))
            .collect();
        let new = replace(text, &spans);
        let wanted = b"\xef\xbb\xbf# head\r\nexport A = \"locum_x\"  # why\r\nB=\xff\xfe\r\n\r\n C='locum_x' \r\nD=locum_x";
        assert_eq!(new.as_slice(), wanted.as_slice(), "{}", new.escape_ascii());
        assert_eq!(replace(text, &[]).as_slice(), text.as_slice());
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_read_without_panic_and_kept(text: Vec<u8>) {
            let found = parse(&text);
            let same: Vec<_> = found
                .iter()
                .map(|a| (a.span.clone(), String::from_utf8_lossy(&text[a.span.clone()]).into_owned()))
                .filter(|(_, value)| !value.contains('\u{fffd}'))
                .collect();
            let same: Vec<_> = same.iter().map(|(span, value)| (span.clone(), value.as_str())).collect();
            let kept = replace(&text, &same);
            proptest::prop_assert_eq!(kept.as_slice(), text.as_slice());
        }

        #[test]
        fn files_of_assignments(text in "([A-Z]{1,3} ?= ?['\"]?[a-z$#\\\\ ]{0,6}['\"]?(\r?\n| #c\n)){0,8}") {
            for a in parse(text.as_bytes()) {
                proptest::prop_assert!(text.get(a.span).is_some());
            }
        }
    }
}
