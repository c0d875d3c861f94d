//! Signed assertions (RFC 7515, 7519, 7518), in the few algorithms that authorization servers ask for.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

/// A private key, with the algorithm that goes with it.
pub(super) enum SigningKey {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// The first private key in a PEM text. None for what cannot be used.
    pub(super) fn read(text: &str) -> Option<Self> {
        let blocks = pem::parse_many(text).ok()?;
        let block = blocks.iter().find(|block| block.tag().ends_with("PRIVATE KEY"))?;
        let der = block.contents();
        match block.tag() {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).ok().map(Self::Rsa),
            "EC PRIVATE KEY" => {
                Self::elliptic(|algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).ok())
            }
            "PRIVATE KEY" => RsaKeyPair::from_pkcs8(der)
                .ok()
                .map(Self::Rsa)
                .or_else(|| Self::elliptic(|a| EcdsaKeyPair::from_pkcs8(a, der).ok()))
                .or_else(|| {
                    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(Self::Ed25519)
                }),
            _ => None,
        }
    }

    fn elliptic(
        read: impl Fn(&'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>,
    ) -> Option<Self> {
        read(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map(Self::P256)
            .or_else(|| read(&ECDSA_P384_SHA384_FIXED_SIGNING).map(Self::P384))
    }

    /// `alg` (RFC 7518 section 3.1, RFC 8037).
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::P384(_) => "ES384",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text, &mut signature).ok()?;
                Some(signature)
            }
            Self::P256(key) | Self::P384(key) => {
                key.sign(&random, text).ok().map(|signature| signature.as_ref().to_vec())
            }
            Self::Ed25519(key) => Some(key.sign(text).as_ref().to_vec()),
        }
    }

    /// `header.claims.signature`. None when the system has no randomness.
    pub(super) fn assertion(&self, key_id: Option<&str>, claims: &Value) -> Option<String> {
        let mut header = json!({"alg": self.algorithm(), "typ": "JWT"});
        if let Some(key_id) = key_id {
            header["kid"] = key_id.into();
        }
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let text = format!("{}.{}", part(&header), part(claims));
        let signature = self.sign(text.as_bytes())?;
        Some(format!("{text}.{}", BASE64URL_NOPAD.encode(&signature)))
    }
}

/// A `jti`: no two assertions have the same.
pub(super) fn unique() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(data_encoding::HEXLOWER.encode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa;
    use aws_lc_rs::signature::{self, KeyPair as _, UnparsedPublicKey};

    fn verified(key: &SigningKey, jwt: &str) -> bool {
        let (text, signature) = jwt.rsplit_once('.').unwrap();
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        let verify = |algorithm: &'static dyn signature::VerificationAlgorithm, public: &[u8]| {
            UnparsedPublicKey::new(algorithm, public).verify(text.as_bytes(), &signature).is_ok()
        };
        match key {
            SigningKey::Rsa(key) => {
                verify(&signature::RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref())
            }
            SigningKey::P256(key) => {
                verify(&signature::ECDSA_P256_SHA256_FIXED, key.public_key().as_ref())
            }
            SigningKey::P384(key) => {
                verify(&signature::ECDSA_P384_SHA384_FIXED, key.public_key().as_ref())
            }
            SigningKey::Ed25519(key) => verify(&signature::ED25519, key.public_key().as_ref()),
        }
    }

    #[test]
    fn assertions_of_every_algorithm_verify() {
        let ec = |alg| rcgen::KeyPair::generate_for(alg).unwrap().serialize_pem();
        let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = rsa.as_der().unwrap();
        let rsa = pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref().to_vec()));
        for (text, algorithm) in [
            (ec(&rcgen::PKCS_ECDSA_P256_SHA256), "ES256"),
            (ec(&rcgen::PKCS_ECDSA_P384_SHA384), "ES384"),
            (ec(&rcgen::PKCS_ED25519), "EdDSA"),
            (rsa, "RS256"),
        ] {
            let key = SigningKey::read(&text).unwrap_or_else(|| panic!("{algorithm}"));
            let jwt = key.assertion(Some("k1"), &json!({"iss": "me"})).unwrap();
            let part = |at: usize| -> Value {
                let part = jwt.split('.').nth(at).unwrap();
                serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
            };
            assert_eq!(part(0), json!({"alg": algorithm, "typ": "JWT", "kid": "k1"}));
            assert_eq!(part(1), json!({"iss": "me"}));
            assert!(verified(&key, &jwt), "{algorithm}");
        }
    }

    #[test]
    fn what_is_no_key_is_none() {
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        ] {
            assert!(SigningKey::read(text).is_none(), "{text}");
        }
    }
}
