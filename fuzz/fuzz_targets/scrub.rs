//! The scrubber: any chunking gives what the whole gives, and the secret never comes out.
#![cfg_attr(fuzzing, no_main)]

use std::io::Write as _;

use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::scrub::{Fit, Needles, Scrubber};
use locum::secret::Secret;
use locum_fuzz::{cut, has_lines};

/// Bytes that every notation escapes, and letters of every kind; a search learns from what a secret is made of.
const SECRETS: [[&[u8]; 2]; 4] = [
    [b"abcabcab+/", b"\"q=<&>'%"],
    [b"sk-live_9fK2.xQ7-zT04mWb", b"0123456789abcdef0123456789ABCDEF"],
    ["p\u{e4}ss w\u{f6}rd\u{20ac}!".as_bytes(), b"\\u0041\\n&amp;%41"],
    [b"MIIEvAIBADANBgkqhkiG9w0BAQEF", b"aaaaaaaaaaaaaaaa"],
];

fn scrub(secrets: &[&[u8]], chunks: &[&[u8]], fit: Fit) -> Vec<u8> {
    let mut needles = Needles::default();
    for secret in secrets {
        needles.add(&Secret::new(secret.to_vec()), "_");
    }
    let mut scrubber = Scrubber::for_needles(needles, fit);
    let mut out = Vec::new();
    for chunk in chunks {
        scrubber.push(Bytes::copy_from_slice(chunk), &mut |data| out.extend_from_slice(&data));
    }
    scrubber.finish(&mut |data| out.extend_from_slice(&data));
    out
}

/// An echo of `secret` in a notation, in which the bytes that `mix` says are percent-encoded instead.
fn echo(secret: &[u8], notation: u8, mix: u8) -> Vec<u8> {
    let mut out = Vec::new();
    match notation % 10 {
        6 => return HEXLOWER.encode(secret).into_bytes(),
        7 => return BASE64.encode(secret).into_bytes(),
        8 => return BASE64URL_NOPAD.encode(&[&[mix], secret].concat()).into_bytes(),
        9 => return secret.to_vec(),
        n => {
            for (i, b) in secret.iter().enumerate() {
                let n = if mix >> (i % 8) & 1 == 0 { n } else { 0 };
                let _never_fails = match n {
                    1 => write!(out, "%{b:02X}"),
                    2 => write!(out, "%25{b:02x}"),
                    3 if b.is_ascii() => write!(out, "\\u{b:04x}"),
                    4 if b.is_ascii() => write!(out, "&#{b};"),
                    5 if b.is_ascii() => write!(out, "&#x{b:x};"),
                    _ => write!(out, "%{b:02x}"),
                };
            }
        }
    }
    out
}

// The first byte chooses the fit and the secrets, the next seven the sizes of the chunks; where 0xff stands in the text, an
// echo comes in its place, in the notation of the byte behind it.
fuzz_target!(|data: &[u8]| {
    let Some((head, text)) = data.split_at_checked(8) else { return };
    let fit = if head[0] & 1 == 0 { Fit::Exact } else { Fit::InPlace };
    let secrets = &SECRETS[usize::from(head[0] >> 1) % SECRETS.len()];
    let (mut echoes, mut spliced, mut rest) = (Vec::new(), Vec::new(), text);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let (0xff, Some((&notation, after))) = (byte, rest.split_first()) else {
            spliced.push(byte);
            continue;
        };
        rest = after;
        let echo = echo(secrets[usize::from(notation >> 7)], notation, head[1]);
        spliced.push(b' ');
        spliced.extend_from_slice(&echo);
        spliced.push(b' ');
        echoes.push(echo);
    }
    let text = &spliced[..];
    let whole = scrub(secrets, &[text], fit);
    let pieces = scrub(secrets, &cut(text, &head[1..]), fit);
    if !has_lines(text) {
        assert_eq!(pieces, whole);
    }
    if fit == Fit::InPlace {
        assert_eq!((whole.len(), pieces.len()), (text.len(), text.len()));
    }
    // A replacement could complete a secret with its neighbours only if it had a byte of one.
    let gone = secrets.iter().copied().chain(echoes.iter().map(Vec::as_slice));
    for secret in gone {
        assert!(![&whole, &pieces].iter().any(|t| t.windows(secret.len()).any(|w| w == secret)));
    }
});
