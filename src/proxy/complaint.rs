//! What an origin says of a credential in an answer that is the agent's: noted on its way, for the
//! people whose credential it is. Nothing of the answer is changed or held back.

use http::StatusCode;
use memchr::memmem;

use crate::outcome::Complaint;

/// Texts by which providers say that what was paid for is used up, where the status does not: with 429
/// (`OpenAI` and those like it) or 400 (Anthropic).
const OUT_OF_QUOTA: [&[u8]; 4] = [
    b"insufficient_quota",
    b"billing_hard_limit_reached",
    b"billing_not_active",
    b"credit balance is too low",
];

/// As much of an answer is looked at: errors of providers are a few hundred bytes.
const MOST: usize = 4096;

/// The complaint of one answer, as far as it has come.
#[derive(Debug)]
pub(super) struct Listening {
    complaint: Option<Complaint>,
    /// The beginning of a body that may say more than its status.
    heard: Vec<u8>,
    listens: bool,
}

impl Listening {
    /// To an answer to a request that carried a credential; none for one that says nothing of it.
    pub(super) fn to(status: StatusCode) -> Option<Box<Self>> {
        let listens = matches!(status.as_u16(), 400 | 403 | 429);
        let complaint = Complaint::of(status);
        let worth = listens || complaint.is_some();
        worth.then(|| Box::new(Self { complaint, heard: Vec::new(), listens }))
    }

    /// Hears a piece of the body as the agent gets it.
    pub(super) fn hear(&mut self, piece: &[u8]) {
        if self.listens {
            let room = MOST - self.heard.len();
            self.heard.extend_from_slice(&piece[..piece.len().min(room)]);
        }
    }

    /// What it says in all.
    pub(super) fn complaint(&self) -> Option<Complaint> {
        let spent = OUT_OF_QUOTA.iter().any(|text| memmem::find(&self.heard, text).is_some());
        if spent { Some(Complaint::OutOfQuota) } else { self.complaint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(status: u16, pieces: &[&str]) -> Option<Complaint> {
        let mut listening = Listening::to(StatusCode::from_u16(status).unwrap())?;
        for piece in pieces {
            listening.hear(piece.as_bytes());
        }
        listening.complaint()
    }

    #[test]
    fn the_status_says_it_and_the_body_says_more() {
        assert_eq!(says(200, &["insufficient_quota"]), None);
        assert_eq!(says(401, &[]), Some(Complaint::NotAccepted));
        assert_eq!(says(402, &[]), Some(Complaint::OutOfQuota));
        assert_eq!(says(403, &["{}"]), None, "what may not be done says nothing of the key");
        assert_eq!(says(429, &["slow down"]), Some(Complaint::RateLimited));
        let split = ["{\"error\":{\"code\":\"insuffi", "cient_quota\"}}"];
        assert_eq!(says(429, &split), Some(Complaint::OutOfQuota));
        let anthropic = "{\"error\":{\"message\":\"Your credit balance is too low to access\"}}";
        assert_eq!(says(400, &[anthropic]), Some(Complaint::OutOfQuota));
        assert_eq!(says(400, &["{\"error\":\"no such model\"}"]), None);
    }

    #[test]
    fn no_more_is_kept_of_a_body_than_an_error_has() {
        let mut listening = Listening::to(StatusCode::TOO_MANY_REQUESTS).unwrap();
        for _ in 0..100 {
            listening.hear(&[b'x'; 1000]);
        }
        assert_eq!(listening.heard.len(), MOST);
    }
}
