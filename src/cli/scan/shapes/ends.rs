//! Where a key begins and ends. A key that is taken out in part is lost, so what is not certain is doubted.

/// Whether a byte is in the middle of words, as keys are.
pub(super) fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-".contains(&byte)
}

/// Whether a word goes on here that looked like a key so far.
pub(super) fn goes_on(rest: &[u8]) -> bool {
    match rest {
        [byte, ..] if in_word(*byte) => true,
        // Padding, and a text that is put together of parts.
        [b'=' | b'{', ..] | [b'$', b'{' | b'(', ..] => true,
        // Dots and the like end a sentence, too.
        [b'.' | b'+' | b'~' | b'#' | b'$', next, ..] => in_word(*next),
        [b'%', high, low, ..] => {
            unescaped(*high, *low).is_some_and(|byte| in_word(byte) || b"+/=.~".contains(&byte))
        }
        _ => false,
    }
}

/// Whether a key goes on here with a mark that it had before: `a/b` with `/c`.
pub(super) fn goes_on_like(key: &[u8], rest: &[u8]) -> bool {
    matches!(rest, [mark @ (b'/' | b':' | b','), next, ..] if key.contains(mark) && in_word(*next))
}

/// Whether what looks like a key comes after something that belongs to it.
pub(super) fn comes_after(before: &[u8]) -> bool {
    match before {
        [.., b'}' | b'%'] => true,
        [.., last, b'.' | b'+' | b'~'] => in_word(*last),
        _ => false,
    }
}

/// Whether the letters before a key are those of an escape: `\n`, `%22`.
pub(super) fn is_escape(before: &[u8]) -> bool {
    match before {
        [.., b'\\', b'n' | b'r' | b't'] => true,
        [.., b'%', high, low] => unescaped(*high, *low).is_some_and(|byte| !in_word(byte)),
        _ => false,
    }
}

/// The byte of `%HL`.
fn unescaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Whether a value ends here for certain, which began with the quote `open` or with none.
pub(super) fn is_end(open: Option<u8>, rest: &[u8]) -> bool {
    match (open, rest) {
        (None, []) => true,
        (None, [b'\\', next, ..]) => b"nrt\"'".contains(next),
        (None, [next, ..]) => next.is_ascii_whitespace() || b"\"'`,;)]}&|<>".contains(next),
        (Some(quote), [b'\\', next, ..] | [next, ..]) => *next == quote,
        (Some(_), []) => false,
    }
}

/// Whether programs read a value that is quoted so in more than one way, as `.env` files are read.
pub(super) fn is_expanded(open: Option<u8>, value: &[u8]) -> bool {
    let has = |byte| memchr::memchr(byte, value).is_some();
    open != Some(b'\'') && has(b'$') || open.is_none() && has(b'#')
}
