//! Tokens of issuers: no bytes panic; nothing that was not signed verifies; and what is accepted says, to
//! any other reader of JSON, what it was accepted for.
#![cfg_attr(fuzzing, no_main)]

use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::agent::mapping::{Pattern, Template};
use locum::token::jwt::{Algorithm, ClaimPath, Expected, KeySet, Unverified};

const NOW: i64 = 1_000_000;

static ISSUER: LazyLock<(Ed25519KeyPair, KeySet)> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
    let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}}]}}"#);
    (pair, KeySet::parse(set.as_bytes()).unwrap())
});

fuzz_target!(|data: &[u8]| {
    let (pair, keys) = &*ISSUER;
    let _ = KeySet::parse(data);
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(token) = Unverified::read(text) {
            let all = Algorithm::ALL.map(|(_, algorithm)| algorithm);
            assert!(token.verify(keys, &all).is_err(), "nobody has signed it");
        }
        let _ = (text.parse::<ClaimPath>(), text.parse::<Pattern>(), text.parse::<Template>());
    }
    // The same bytes as claims that the issuer has signed.
    let header = BASE64URL_NOPAD.encode(br#"{"alg":"EdDSA","kid":"k"}"#);
    let signed = format!("{header}.{}", BASE64URL_NOPAD.encode(data));
    let signature = pair.sign(signed.as_bytes());
    let text = format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()));
    let Ok(token) = Unverified::read(&text) else { return };
    let verified = token.verify(keys, &[Algorithm::EdDsa]).expect("it was signed");
    let expected = Expected {
        issuer: "i".into(),
        audiences: ["a".into()].into(),
        types: [].into(),
        leeway: 0,
    };
    let Ok(until) = verified.check(&expected, NOW) else { return };
    let plain: serde_json::Value = serde_json::from_slice(data).expect("it is JSON");
    assert_eq!(plain["iss"], "i");
    assert!(until > NOW && plain["exp"].as_f64().is_some_and(|end| end > NOW as f64 - 1.0));
    let aud = &plain["aud"];
    assert!(aud == "a" || aud.as_array().is_some_and(|all| all.iter().any(|one| one == "a")));
});
