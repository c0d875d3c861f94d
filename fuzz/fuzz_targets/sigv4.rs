//! Signatures of AWS: a claim that is read is written back as one of the same meaning, and a body in signed
//! chunks is, however it is cut, as long as it was, or refused as the whole is.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::sign::sigv4::{ChunkSigner, Claim, SigningKey};
use locum_fuzz::cut;

const SCOPE: &str = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";

fn signed(pieces: &[&[u8]], trailers: bool) -> Option<Vec<u8>> {
    let claim = Claim::of(SCOPE, "host", &"0".repeat(64)).unwrap();
    let key = SigningKey::derive("secret", &claim);
    let time = "20130524T000000Z".to_owned();
    let mut signer = ChunkSigner::new(key, time, "0".repeat(64), trailers);
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&signer.push(piece).ok()?);
    }
    signer.finish().ok()?;
    Some(out)
}

// The first eight bytes are the sizes of the pieces.
fuzz_target!(|data: &[u8]| {
    if let Some(claim) = Claim::of_header(data) {
        let again = claim.header(&claim.key_id, &claim.signed_headers, &claim.signature);
        assert_eq!(Claim::of_header(again.as_bytes()), Some(claim));
    }
    let Some((sizes, body)) = data.split_at_checked(8) else { return };
    for trailers in [false, true] {
        let whole = signed(&[body], trailers);
        assert_eq!(whole, signed(&cut(body, sizes), trailers));
        let _ = whole.map(|whole| assert_eq!(whole.len(), body.len()));
    }
});
