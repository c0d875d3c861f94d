//! What is read of a connection: however its bytes come, the same requests with the same bodies, up to the same
//! error; what has two framings in its own lines is told to have them; and what is written reads back.
//!
//! The first seven bytes of the input are the sizes of the pieces.
#![cfg_attr(fuzzing, no_main)]

use bytes::BytesMut;
use http::HeaderMap;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::http1::{
    Chunks, HeadError, Length, Limits, Piece, RequestHead, Seen, read_request, write_fields,
    write_request_line,
};
use locum_fuzz::cut;

const LIMITS: Limits = Limits { bytes: 600, fields: 12 };

/// A request, as far as it came.
#[derive(Debug, PartialEq)]
struct Message {
    head: String,
    body: Vec<u8>,
    /// What follows the body, when that has ended.
    end: Option<HeaderMap>,
}

enum Place {
    Head(Seen),
    Exact(u64),
    Chunked(Chunks),
    /// Nothing behind this can be read.
    Lost,
}

/// The requests, and whether something that is none, or none yet, ended them. Of several reasons for that, another
/// may be found first where less is there; and that a head will be none shows sooner when more of it comes at once.
fn read<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Message>, bool) {
    let (mut messages, mut from) = (Vec::new(), BytesMut::new());
    let mut place = Place::Head(Seen::default());
    for piece in pieces {
        from.extend_from_slice(piece);
        loop {
            match step(&mut place, &mut from, &mut messages) {
                Ok(true) => {}
                Ok(false) => break,
                Err(()) => return (messages, true),
            }
        }
    }
    (messages, matches!(place, Place::Head(_)) && !from.is_empty())
}

/// True when there may be more to do.
fn step(place: &mut Place, from: &mut BytesMut, messages: &mut Vec<Message>) -> Result<bool, ()> {
    match place {
        Place::Lost => Ok(false),
        Place::Head(seen) => {
            let head = read_request(from, seen, LIMITS).map_err(drop)?;
            let Some(head) = head else { return Ok(false) };
            messages.push(Message { head: told(&head), body: Vec::new(), end: None });
            *place = match head.length {
                _ if head.two_framings || head.fragment => Place::Lost,
                Length::Exact(length) => Place::Exact(length),
                Length::Chunked => Place::Chunked(Chunks::new(LIMITS)),
                Length::UntilClose => panic!("a request ends before its connection"),
            };
            Ok(true)
        }
        Place::Exact(left) => {
            let here = usize::try_from(*left).map_or(from.len(), |left| left.min(from.len()));
            *left -= here as u64;
            let message = messages.last_mut().unwrap();
            message.body.extend_from_slice(&from.split_to(here));
            if *left > 0 {
                return Ok(false);
            }
            message.end = Some(HeaderMap::new());
            *place = Place::Head(Seen::default());
            Ok(true)
        }
        Place::Chunked(chunks) => {
            let message = messages.last_mut().unwrap();
            match chunks.read(from).map_err(drop)? {
                None => return Ok(false),
                Some(Piece::Data(data)) => message.body.extend_from_slice(&data),
                Some(Piece::End(fields)) => {
                    message.end = Some(fields);
                    *place = Place::Head(Seen::default());
                }
            }
            Ok(true)
        }
    }
}

fn told(head: &RequestHead) -> String {
    format!("{head:?}")
}

fuzz_target!(|data: &[u8]| {
    let Some((sizes, text)) = data.split_at_checked(7) else { return };
    let whole = read([text]);
    assert_eq!(whole, read(cut(text, sizes)));
    assert_eq!(whole, read(text.chunks(1)));
    // Behind a request that has no body it is the same.
    let before = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut behind, error) = read([&before[..], text]);
    behind.remove(0);
    assert_eq!((behind, error), whole);
    // As a head of its own it has two framings wherever the text stands in it as the value of a field.
    let value: Vec<u8> = text.iter().copied().filter(|b| !b"\r\n".contains(b)).take(400).collect();
    let twice = [
        &b"A / HTTP/1.1\r\nContent-Length: 1\r\nx: "[..],
        &value,
        b"\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]
    .concat();
    match read_request(&mut BytesMut::from(&twice[..]), &mut Seen::default(), LIMITS) {
        Ok(head) => assert!(head.unwrap().two_framings),
        Err(error) => assert_eq!(error, HeadError::Malformed),
    }
    // What is read of a head is what it says when it is written.
    let head = read_request(&mut BytesMut::from(text), &mut Seen::default(), LIMITS);
    let Ok(Some(RequestHead { request, spelling, length, .. })) = head else { return };
    let mut written = Vec::new();
    write_request_line(request.method(), &request.uri().to_string(), &mut written);
    write_fields(request.headers(), &spelling, &mut written);
    written.extend_from_slice(b"\r\n");
    let again = read_request(
        &mut BytesMut::from(&written[..]),
        &mut Seen::default(),
        Limits { bytes: 2 * LIMITS.bytes, ..LIMITS },
    );
    let again = again.unwrap().unwrap();
    assert_eq!(again.request.headers(), request.headers());
    assert_eq!(again.request.uri(), request.uri());
    assert_eq!(again.length, length);
});
