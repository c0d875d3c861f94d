//! HTTP/1.1 as it goes over a wire (RFC 9112): heads and the framing of bodies, read and written strictly,
//! without I/O.
//!
//! What can be read in two ways is told, or refused, and never settled: where a message ends is what
//! everything else here rests on.

mod chunked;
mod head;
mod spelling;

pub use chunked::{Chunks, ChunksError, Piece, write_end, write_size};
pub use head::{
    HeadError, Length, Limits, RequestHead, ResponseHead, Seen, read_request, read_response,
    write_fields, write_request_line, write_status_line,
};
pub use spelling::Spelling;
