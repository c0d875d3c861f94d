//! Looking into the compressed messages of a WebSocket (RFC 7692).
//!
//! They cannot be written anew: what a message says may point back into any before it, and the other
//! side keeps the same account. So they pass as they are, a copy is inflated to be searched, and the
//! connection ends before the last piece of a secret goes on.

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use http::header::{HeaderMap, SEC_WEBSOCKET_EXTENSIONS};
use zeroize::Zeroizing;

use super::Unscrubbable;
use super::codings::{BURST, RATIO};
use super::search::Scrubber;

/// What is inflated at once: room for what an ordinary message says, on the stack.
const PIECE: usize = 4096;

/// The most that is held back: more than is ever read at once. What could be the start of a secret is
/// short; only padding without end, made to be held on to, is longer than this.
const MOST_HELD: usize = 64 * 1024;

/// What each message ends with, and does not send (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// That the handshake agreed on `permessage-deflate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Whether each message of the origin begins anew (`server_no_context_takeover`).
    pub(super) forgets: bool,
}

impl Agreed {
    /// What a 101 says of extensions.
    ///
    /// # Errors
    /// For any other extension than one `permessage-deflate`: its frames could not be read.
    pub(super) fn read(headers: &HeaderMap) -> Result<Option<Self>, Unscrubbable> {
        let mut agreed = None;
        for value in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
            let value = value.to_str().map_err(|_| Unscrubbable)?;
            for extension in value.split(',').map(str::trim).filter(|e| !e.is_empty()) {
                let mut words = extension.split(';').map(str::trim);
                let known =
                    words.next().is_some_and(|n| n.eq_ignore_ascii_case("permessage-deflate"));
                if !known || agreed.is_some() {
                    return Err(Unscrubbable);
                }
                let forgets = words.any(|w| w.eq_ignore_ascii_case("server_no_context_takeover"));
                agreed = Some(Self { forgets });
            }
        }
        Ok(agreed)
    }
}

/// Follows the compressed messages of an origin. What is inflated is searched by the scrubber that
/// each call brings, and what that would write goes nowhere.
pub(super) struct Deflate {
    /// None before the first message, and between messages that do not point back: this is most of
    /// what a socket with an account of its past costs.
    inflate: Option<Decompress>,
    agreed: Agreed,
    /// What may not go on before more is known.
    held: Vec<u8>,
    /// How many bytes came, of all messages.
    fed: u64,
    /// What they were inflated to.
    inflated: u64,
}

impl Deflate {
    pub(super) fn new(agreed: Agreed) -> Self {
        Self { inflate: None, agreed, held: Vec::new(), fed: 0, inflated: 0 }
    }

    /// Takes some of a message, and hands it on unless its text ends like the start of a secret.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        scrubber: &mut Scrubber,
        out: &mut Vec<u8>,
    ) -> Result<(), Unscrubbable> {
        self.look_into(bytes, scrubber)?;
        self.hold(bytes)?;
        if scrubber.is_idle() {
            self.release(scrubber, out)?;
        }
        Ok(())
    }

    /// Has bytes wait with what is held back.
    pub(super) fn hold(&mut self, bytes: &[u8]) -> Result<(), Unscrubbable> {
        self.held.extend_from_slice(bytes);
        if self.held.len() > MOST_HELD { Err(Unscrubbable) } else { Ok(()) }
    }

    /// The message is over: all of its text is known.
    pub(super) fn end_message(&mut self, scrubber: &mut Scrubber) -> Result<(), Unscrubbable> {
        self.look_into(&TAIL, scrubber)?;
        if self.agreed.forgets {
            self.inflate = None;
        }
        Ok(())
    }

    /// Hands on what was held back, unless it is a secret by itself.
    pub(super) fn release(
        &mut self,
        scrubber: &mut Scrubber,
        out: &mut Vec<u8>,
    ) -> Result<(), Unscrubbable> {
        let found = scrubber.replaced();
        scrubber.finish(&mut drop);
        if scrubber.replaced() > found {
            return Err(Unscrubbable);
        }
        // Taken, so that a socket that waits holds no buffer.
        out.extend_from_slice(&std::mem::take(&mut self.held));
        Ok(())
    }

    fn look_into(&mut self, mut bytes: &[u8], scrubber: &mut Scrubber) -> Result<(), Unscrubbable> {
        let inflate = self.inflate.get_or_insert_with(|| Decompress::new(false));
        let found = scrubber.replaced();
        // Nobody else wipes a stack.
        let mut text = Zeroizing::new([0; PIECE]);
        loop {
            let (read, written) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(bytes, &mut text[..], FlushDecompress::Sync);
            let status = status.map_err(|_| Unscrubbable)?;
            let count = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
            let (read, written) =
                (count(inflate.total_in(), read), count(inflate.total_out(), written));
            self.fed += read as u64;
            self.inflated += written as u64;
            if self.inflated > BURST + RATIO * self.fed {
                return Err(Unscrubbable);
            }
            scrubber.push(Bytes::copy_from_slice(&text[..written]), &mut drop);
            if scrubber.replaced() > found {
                return Err(Unscrubbable);
            }
            bytes = &bytes[read..];
            if status == Status::StreamEnd {
                // A block may say that it is the last, and others follow (RFC 7692 section 7.2.3.4).
                inflate.reset(false);
            } else if read == 0 && written == 0 {
                // Only now: text may be left in it that needs no more input.
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_was_agreed_on_is_read() {
        let agreed = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(value));
            }
            Agreed::read(&headers)
        };
        let (keeps, forgets) = (Agreed { forgets: false }, Agreed { forgets: true });
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&[""], Ok(None)),
            (&["permessage-deflate"], Ok(Some(keeps))),
            (&["Permessage-Deflate; server_max_window_bits=12"], Ok(Some(keeps))),
            (
                &["permessage-deflate; client_no_context_takeover;Server_No_Context_Takeover"],
                Ok(Some(forgets)),
            ),
            (&["permessage-deflate, permessage-deflate"], Err(Unscrubbable)),
            (&["permessage-deflate", "permessage-deflate"], Err(Unscrubbable)),
            (&["x-webkit-deflate-frame"], Err(Unscrubbable)),
            (&["permessage-bzip2"], Err(Unscrubbable)),
        ] {
            assert_eq!(agreed(values), expected, "{values:?}");
        }
    }
}
