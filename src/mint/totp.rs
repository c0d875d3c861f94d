//! One-time passwords of the moment (RFC 6238, 4226).

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use crate::credential::{Totp, TotpHash};
use crate::secret::Secret;

pub(super) fn password(totp: Totp, seed: &[u8], now: i64) -> Secret {
    let counter = now.max(0).unsigned_abs() / u64::from(totp.period.max(1));
    let mac = match totp.hash {
        TotpHash::Sha1 => mac::<Hmac<Sha1>>(seed, counter),
        TotpHash::Sha256 => mac::<Hmac<Sha256>>(seed, counter),
        TotpHash::Sha512 => mac::<Hmac<Sha512>>(seed, counter),
    };
    // Dynamic truncation (RFC 4226 section 5.3): the last four bits say where.
    let at = usize::from(mac.last().copied().unwrap_or_default() & 15);
    let word = mac.iter().skip(at).take(4).fold(0, |word: u32, byte| word << 8 | u32::from(*byte));
    let digits = usize::from(totp.digits.clamp(6, 8));
    let number = (word & 0x7fff_ffff) % 10_u32.pow(digits as u32);
    Secret::new(format!("{number:0digits$}").into_bytes())
}

fn mac<M: Mac + KeyInit>(seed: &[u8], counter: u64) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(seed).expect("HMAC takes a key of any length");
    mac.update(&counter.to_be_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix B of RFC 6238.
    #[test]
    fn the_vectors_of_the_rfc() {
        let seed = b"1234567890123456789012345678901234567890123456789012345678901234";
        for (now, sha1, sha256, sha512) in [
            (59, "94287082", "46119246", "90693936"),
            (1_111_111_109, "07081804", "68084774", "25091201"),
            (1_111_111_111, "14050471", "67062674", "99943326"),
            (1_234_567_890, "89005924", "91819424", "93441116"),
            (2_000_000_000, "69279037", "90698825", "38618901"),
            (20_000_000_000, "65353130", "77737706", "47863826"),
        ] {
            for (hash, length, expected) in [
                (TotpHash::Sha1, 20, sha1),
                (TotpHash::Sha256, 32, sha256),
                (TotpHash::Sha512, 64, sha512),
            ] {
                let totp = Totp { digits: 8, period: 30, hash };
                let text = password(totp, &seed[..length], now).expose(<[u8]>::to_vec);
                assert_eq!(text, expected.as_bytes(), "{now} {hash:?}");
                let six = password(Totp { digits: 6, ..totp }, &seed[..length], now);
                assert_eq!(six.expose(<[u8]>::to_vec), &expected.as_bytes()[2..]);
            }
        }
    }
}
