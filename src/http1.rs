//! HTTP/1.1 as it goes over a wire (RFC 9112): heads and the framing of bodies, read and written strictly,
//! without I/O.
//!
//! What can be read in two ways is told, or refused, and never settled: where a message ends is what
//! everything else here rests on.

mod chunked;
mod fields;
mod head;
mod spelling;

pub use chunked::{Chunks, ChunksError, Piece, write_end, write_size};
pub use fields::done_with;
pub use head::{
    HeadError, Length, Limits, RequestHead, ResponseHead, Seen, read_request, read_response,
    write_fields, write_request_line, write_status_line,
};
pub use spelling::Spelling;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { bytes: 4096, fields: 32 };

    enum Place {
        Head(Seen),
        Exact(u64),
        Chunked(Chunks),
    }

    /// The target of each request with its body; and whether it was odd, behind which nothing is read.
    fn read<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<(String, Vec<u8>, bool)> {
        let (mut from, mut place) = (BytesMut::new(), Place::Head(Seen::default()));
        let mut requests: Vec<(String, Vec<u8>, bool)> = Vec::new();
        for piece in pieces {
            from.extend_from_slice(piece);
            loop {
                let end = match &mut place {
                    Place::Head(seen) => {
                        let Some(head) = read_request(&mut from, seen, LIMITS).unwrap() else {
                            break;
                        };
                        let odd = head.two_framings || head.fragment;
                        requests.push((head.request.uri().to_string(), Vec::new(), odd));
                        if odd {
                            return requests;
                        }
                        place = match head.length {
                            Length::Exact(length) => Place::Exact(length),
                            _ => Place::Chunked(Chunks::new(LIMITS)),
                        };
                        false
                    }
                    Place::Exact(left) => {
                        let here = from.len().min(usize::try_from(*left).unwrap());
                        *left -= here as u64;
                        requests.last_mut().unwrap().1.extend_from_slice(&from.split_to(here));
                        if *left > 0 {
                            break;
                        }
                        true
                    }
                    Place::Chunked(chunks) => match chunks.read(&mut from).unwrap() {
                        None => break,
                        Some(Piece::Data(data)) => {
                            requests.last_mut().unwrap().1.extend_from_slice(&data);
                            false
                        }
                        Some(Piece::End(_)) => true,
                    },
                };
                if end {
                    place = Place::Head(Seen::default());
                }
            }
        }
        requests
    }

    /// A request, its body, and whether it is odd.
    fn any_request() -> impl Strategy<Value = (String, String, bool)> {
        let post = |fields: &str| format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let body = prop_oneof![
            Just("\r\n\r\nGET /#x HTTP/1.1\r\nContent-Length: 1\r\n\r\n".to_owned()),
            "[a\r\n:#]{0,20}",
        ];
        prop_oneof![
            Just(("\r\n\r\nGET /a HTTP/1.1\nHost: a#b\r\n\n".to_owned(), String::new(), false)),
            body.clone().prop_map(move |body| {
                (post(&format!("Content-Length: {}", body.len())) + &body, body, false)
            }),
            prop::collection::vec(body, 0..4).prop_map(move |chunks| {
                let mut text = post("Transfer-Encoding: chunked").into_bytes();
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    write_size(chunk.len(), &mut text);
                    text.extend_from_slice(chunk.as_bytes());
                    text.extend_from_slice(b"\r\n");
                }
                text.extend_from_slice(b"0\r\nX: #\r\n\r\n");
                (String::from_utf8(text).unwrap(), chunks.concat(), false)
            }),
            Just((post("Content-Length: 0\r\nTransfer-Encoding: chunked"), String::new(), true)),
            Just(("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), String::new(), true)),
        ]
    }

    proptest! {
        /// However the bytes come, the requests are those that were sent, up to the first that is odd.
        #[test]
        fn in_any_pieces_requests_are_the_same(
            requests in prop::collection::vec(any_request(), 1..8),
            cuts in prop::collection::vec(0_usize..600, 0..12),
        ) {
            let bytes: Vec<u8> = requests.iter().flat_map(|(text, ..)| text.bytes()).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends: &[usize]| &bytes[ends[0]..ends[1]]);
            let mut expected = Vec::new();
            for (_, body, odd) in requests {
                expected.push(("/a".to_owned(), body.into_bytes(), odd));
                if odd {
                    break;
                }
            }
            prop_assert_eq!(read(pieces), expected);
        }
    }
}
