//! The cryptography of TLS, the same towards agents and towards origins.
//!
//! Key exchange, with the post-quantum hybrid, and signatures are aws-lc's. The ciphers are ring's, which has AES-GCM
//! for processors that do two blocks in one instruction (VAES with AVX2): a record of 16 KiB takes half the time, and
//! so does one of 200 bytes, because ring has less to do around it.

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};

/// Named wherever TLS is set up, so that no process-wide default decides.
///
/// AES-128 comes before AES-256: both are out of reach, and with AES-256 the handshake hashes with
/// SHA-384, for which few processors have instructions, which is an eighth of its cost.
#[must_use]
pub fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = ring::DEFAULT_CIPHER_SUITES.to_vec();
    provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite.suite()));
    provider
}

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_the_one_library_is_there_with_the_other_and_the_hybrid_is() {
        let provider = provider();
        let names = |provider: &CryptoProvider| {
            let mut names: Vec<u16> =
                provider.cipher_suites.iter().map(|suite| suite.suite().into()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&provider), names(&aws_lc_rs::default_provider()));
        assert_eq!(provider.cipher_suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        let groups = provider.kx_groups.iter().map(|group| group.name());
        assert!(groups.into_iter().any(|name| name == rustls::NamedGroup::X25519MLKEM768));
    }
}
