//! The frames of a WebSocket: any chunking gives what the whole gives, headers pass as they are, and
//! no payload that is not compressed has the secret in it.
#![cfg_attr(fuzzing, no_main)]

use http::Response;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum_fuzz::{cut, has_lines, leaks, scrubbed};

/// Each whole frame: how long its header is, and its payload.
fn frames(mut bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut all = Vec::new();
    while let Some(second) = bytes.get(1) {
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let header = 2 + extended + if second & 0x80 == 0 { 0 } else { 4 };
        let Some(digits) = bytes.get(2..2 + extended) else { break };
        let long = digits.iter().fold(0_u64, |length, digit| length << 8 | u64::from(*digit));
        let length = if extended == 0 { u64::from(second & 0x7f) } else { long };
        let end = usize::try_from(length).ok().and_then(|length| length.checked_add(header));
        let Some(frame) = end.and_then(|end| bytes.get(..end)) else { break };
        all.push(frame.split_at(header));
        bytes = &bytes[frame.len()..];
    }
    all
}

// The first byte chooses whether messages may be compressed, the next seven the sizes of the chunks.
fuzz_target!(|data: &[u8]| {
    let Some((head, text)) = data.split_at_checked(8) else { return };
    let compressed = head[0] & 1 == 1;
    let mut answer = Response::builder().status(101);
    if compressed {
        answer = answer.header("sec-websocket-extensions", "permessage-deflate");
    }
    let answer = answer.body(()).unwrap();
    let (whole, ended) = scrubbed(&answer, &[text]);
    let (pieces, also) = scrubbed(&answer, &cut(text, &head[1..]));
    assert_eq!(ended, also);
    if !ended {
        return;
    }
    assert!(has_lines(text) || whole == pieces, "{whole:?}\n{pieces:?}");
    if compressed {
        return;
    }
    let (before, after) = (frames(text), frames(&whole));
    assert_eq!(before.len(), after.len());
    for ((header, payload), (same, clean)) in before.into_iter().zip(after) {
        assert_eq!((header, payload.len()), (same, clean.len()));
        assert!(!leaks(clean), "{clean:?}");
    }
});
