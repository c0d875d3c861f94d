//! The scrubber: any chunking gives what the whole gives, and the secret never comes out.
#![cfg_attr(fuzzing, no_main)]

use bytes::Bytes;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::scrub::{Fit, Needles, Scrubber};
use locum::secret::Secret;
use locum_fuzz::has_lines;

const SECRETS: [&[u8]; 2] = [b"abcabcab+/", b"\"q=<&>'%"];

fn scrub(chunks: &[&[u8]], fit: Fit) -> Vec<u8> {
    let mut needles = Needles::default();
    for secret in SECRETS {
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

// The first byte chooses the fit, the next seven the sizes of the chunks.
fuzz_target!(|data: &[u8]| {
    let Some((head, text)) = data.split_at_checked(8) else { return };
    let fit = if head[0] & 1 == 0 { Fit::Exact } else { Fit::InPlace };
    let mut chunks = Vec::new();
    let mut rest = text;
    let mut sizes = head[1..].iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(1, |s| usize::from(*s % 24) + 1).min(rest.len());
        let (chunk, after) = rest.split_at(size);
        chunks.push(chunk);
        rest = after;
    }
    let whole = scrub(&[text], fit);
    let pieces = scrub(&chunks, fit);
    if !has_lines(text) {
        assert_eq!(pieces, whole);
    }
    if fit == Fit::InPlace {
        assert_eq!((whole.len(), pieces.len()), (text.len(), text.len()));
    }
    // A replacement could complete a secret with its neighbours only if it had a byte of one.
    for secret in SECRETS {
        assert!(![&whole, &pieces].iter().any(|t| t.windows(secret.len()).any(|w| w == secret)));
    }
});
