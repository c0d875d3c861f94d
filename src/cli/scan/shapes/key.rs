//! Whether a text of the right form is a key, and not a word, an example or a placeholder.

use memchr::memmem;

use super::What;
use crate::reference;

/// Whether it is, for what it was taken for.
pub(super) fn is_key(what: What, text: &[u8]) -> bool {
    if matches!(what, What::PrivateKey) {
        return true;
    }
    let any = |is: fn(&u8) -> bool| text.iter().any(is);
    let mixed = any(u8::is_ascii_digit) && any(u8::is_ascii_alphabetic)
        || any(u8::is_ascii_uppercase) && any(u8::is_ascii_lowercase);
    let random = match what {
        What::Assigned => any(u8::is_ascii_digit) && is_random(text) && !is_text(text),
        _ => entropy(text) >= 2.5,
    };
    mixed && random && !reference::occurs(text) && !is_example(text) && !is_made(text)
}

/// A word or a path has some entropy, too; a random text of sixteen bytes has more, if it has all letters
/// to choose from.
fn is_random(text: &[u8]) -> bool {
    let hex = text.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    entropy(text) >= if hex { 3.1 } else { 3.5 }
}

/// Bits for each byte, were the bytes drawn by their frequency in the text.
#[allow(clippy::cast_precision_loss)] // Of a text of 2048 bytes.
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
    let code = [&b"::"[..], b"://"].iter().any(|code| memmem::find(text, code).is_some());
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
    let marks = text.iter().filter(|byte| kind(byte) == 3).count();
    code || runs * 4 <= text.len() || marks * 3 > text.len() || is_constant(text)
}

/// A name as constants have: `MAX_TOKEN_SIZE_2`.
fn is_constant(text: &[u8]) -> bool {
    let digits = text.iter().filter(|byte| byte.is_ascii_digit()).count();
    let name = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    text.iter().all(name) && text.contains(&b'_') && digits * 4 <= text.len()
}

/// What a program makes when it reads the text, `${NAME}`, `$(command)`, `{{ name }}`, `$NAME`, `%NAME%`,
/// and what is made of a password, `$argon2id$v=19$`.
fn is_made(text: &[u8]) -> bool {
    let signs: [&[u8]; 4] = [b"${", b"$(", b"{{", b"<%"];
    let name = text.strip_prefix(b"$").or_else(|| text.strip_prefix(b"%")?.strip_suffix(b"%"));
    let named = |byte: &u8| byte.is_ascii_alphanumeric() || b"_$".contains(byte);
    let hash = text.starts_with(b"$") && memchr::memchr_iter(b'$', text).count() > 2;
    hash || signs.iter().any(|sign| memmem::find(text, sign).is_some())
        || name.is_some_and(|name| name.iter().all(named))
}

/// What documents write in the place of a key.
fn is_example(text: &[u8]) -> bool {
    let lower = text.to_ascii_lowercase();
    let words: [&[u8]; 9] = [
        b"example",
        b"xxxx",
        b"your",
        b"placeholder",
        b"changeme",
        b"redacted",
        b"0123456789abcdef0123",
        b"dummy",
        // The payload of jwt.io's token begins so, whose subject is `1234567890`.
        b".eyjzdwiioiixmjm0nty3odkwi",
    ];
    words.iter().any(|word| memmem::find(&lower, word).is_some())
}
