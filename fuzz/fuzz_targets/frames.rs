//! A client's frames in a WebSocket: nothing is lost or added, whatever the chunks; and a text with a
//! reference in its place is filled there and nowhere else.
//!
//! The first byte of the input is the size of the chunks.
#![cfg_attr(fuzzing, no_main)]

use bytes::Bytes;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::request::{BodyKind, BodyText, ClientFrames, Piece, text_frame};

fuzz_target!(|data: &[u8]| {
    let Some((size, bytes)) = data.split_first() else { return };
    let whole = through(bytes, bytes.len().max(1));
    let pieces = through(bytes, usize::from(*size).max(1));
    match (whole, pieces) {
        (Some((out, texts)), Some((same, again))) => {
            assert_eq!(texts, again);
            assert!(out.len() <= bytes.len());
            // A text that has begun is held; how much of a header that is cut is not told.
            assert!(out.len().abs_diff(same.len()) < 14);
            for text in texts {
                // What was read is written so that it is read again.
                let frame = text_frame(&text, [1, 2, 3, 4]);
                let (out, again) = through(&frame, 7).expect("a frame of our own");
                assert_eq!((&out[..], again), (&frame[..], vec![text.clone()]));
                let read = BodyText::read(text.into(), BodyKind::Message);
                for found in read.found() {
                    assert!(found.at.end <= read.bytes().len());
                }
            }
        }
        (whole, pieces) => assert_eq!(whole.is_some(), pieces.is_some()),
    }
});

fn through(bytes: &[u8], size: usize) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut frames = ClientFrames::new(4096);
    let (mut out, mut texts) = (Vec::new(), Vec::new());
    for chunk in bytes.chunks(size) {
        for piece in frames.push(Bytes::copy_from_slice(chunk)).ok()? {
            match piece {
                Piece::Raw(raw) => out.extend_from_slice(&raw),
                Piece::Text { text, raw } => {
                    texts.push(text.to_vec());
                    out.extend_from_slice(&raw);
                }
            }
        }
    }
    Some((out, texts))
}
