//! What follows the requests of a connection: however their bytes come, the same head is told to be odd, and
//! one that has two framings in its own lines always is.
//!
//! The first seven bytes of the input are the sizes of the pieces.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::request::{Heads, Odd};
use locum_fuzz::cut;

fn told<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Option<(u32, Odd)> {
    let mut heads = Heads::default();
    let mut told = None;
    for piece in pieces {
        let news = heads.push(piece);
        // Nothing is told of what comes after an odd one.
        assert!(told.is_none() || news.is_none());
        told = told.or(news);
    }
    told
}

fuzz_target!(|data: &[u8]| {
    let Some((sizes, text)) = data.split_at_checked(7) else { return };
    let whole = told([text]);
    assert_eq!(whole, told(cut(text, sizes)));
    assert_eq!(whole, told(text.chunks(1)));
    // Behind a request that has no body it is the same, one later.
    let before = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let behind = told([&before[..], text]);
    assert_eq!(behind, whole.map(|(number, odd)| (number + 1, odd)));
    // As a head of its own it has two framings wherever the text stands in it as the value of a field.
    let value: Vec<u8> = text.iter().copied().filter(|b| !b"\r\n".contains(b)).collect();
    let twice = [
        &b"A / HTTP/1.1\r\nContent-Length: 1\r\nx: "[..],
        &value,
        b"\r\nTransfer-Encoding: chunked\r\n",
    ];
    assert_eq!(told(twice), Some((0, Odd::Framing)));
});
