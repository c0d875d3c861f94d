//! The messages of gRPC: any chunking of them gives what the whole gives, the five bytes before each message
//! pass as they are, and no message has the secret in it.
#![cfg_attr(fuzzing, no_main)]

use http::Response;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum_fuzz::{cut, has_lines, leaks, scrubbed};

/// Each whole message, and what stands before it.
fn messages(mut bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut all = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(5) {
        let length = header[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let Some((message, after)) = rest.split_at_checked(length) else { break };
        all.push((header, message));
        bytes = after;
    }
    all
}

// The first eight bytes are the sizes of the chunks.
fuzz_target!(|data: &[u8]| {
    let Some((sizes, text)) = data.split_at_checked(8) else { return };
    let answer = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let (whole, ended) = scrubbed(&answer, &[text]);
    let (pieces, also) = scrubbed(&answer, &cut(text, sizes));
    assert_eq!(ended, also);
    if !ended {
        return;
    }
    let (before, after) = (messages(text), messages(&whole));
    // What is no gRPC is searched as it comes, so how much of a match is over is a matter of chunks.
    let known: usize = before.iter().map(|(header, message)| header.len() + message.len()).sum();
    if known != text.len() || before.iter().any(|(header, _)| header[0] > 1) {
        assert!(!leaks(&whole) && !leaks(&pieces), "{whole:?}\n{pieces:?}");
        return;
    }
    assert!(has_lines(text) || whole == pieces, "{whole:?}\n{pieces:?}");
    assert_eq!(before.len(), after.len());
    for ((header, message), (same, clean)) in before.into_iter().zip(after) {
        assert_eq!((header, message.len()), (same, clean.len()));
        assert!(!leaks(clean), "{clean:?}");
    }
});
