use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512,
};
use serde_json::json;
use std::sync::LazyLock;

const NOW: i64 = 1_000_000;

/// Keys of an issuer. RSA is slow to make, so there is one for all tests.
struct Keys {
    rsa: RsaPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    rsa: RsaPair::generate(KeySize::Rsa2048).unwrap(),
    p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
    ed: Ed25519KeyPair::generate().unwrap(),
});

fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

impl Keys {
    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |encoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &random, message, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => self.p256.sign(&random, message).unwrap().as_ref().to_vec(),
            "ES384" => self.p384.sign(&random, message).unwrap().as_ref().to_vec(),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            "HS256" => hmac(self.rsa_spki().as_bytes(), message),
            _ => Vec::new(),
        }
    }

    /// The public key as text, as it lies about in files: what a confused verifier would take for a
    /// shared secret.
    fn rsa_spki(&self) -> String {
        encode(self.rsa.public_key().as_ref())
    }

    /// The set with the names `r`, `p`, `q` and `e`.
    fn set(&self) -> Value {
        json!({ "keys": [self.rsa_key("r"), ec("p", "P-256", &self.p256), ec("q", "P-384", &self.p384),
            { "kty": "OKP", "crv": "Ed25519", "kid": "e", "x": encode(self.ed.public_key().as_ref()) }] })
    }

    fn rsa_key(&self, id: &str) -> Value {
        let public = self.rsa.public_key();
        let n = public.modulus().big_endian_without_leading_zero().to_vec();
        let e = public.exponent().big_endian_without_leading_zero().to_vec();
        json!({ "kty": "RSA", "use": "sig", "kid": id, "n": encode(&n), "e": encode(&e) })
    }
}

fn ec(id: &str, curve: &str, pair: &EcdsaKeyPair) -> Value {
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at((point.len() - 1) / 2);
    json!({ "kty": "EC", "crv": curve, "kid": id, "x": encode(x), "y": encode(y) })
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    use ::hmac::{Hmac, KeyInit as _, Mac as _};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn set() -> KeySet {
    KeySet::parse(KEYS.set().to_string().as_bytes()).unwrap()
}

fn claims() -> Value {
    json!({ "iss": "https://issuer.test", "aud": "locum", "sub": "agent", "exp": NOW + 60, "nbf": NOW })
}

/// Signed with this header, and these bytes as claims.
fn sealed(header: &Value, claims: &str) -> String {
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.as_bytes()));
    let signature = KEYS.sign(header["alg"].as_str().unwrap_or_default(), signed.as_bytes());
    format!("{signed}.{}", encode(&signature))
}

fn token(claims: &Value) -> String {
    sealed(&json!({ "alg": "ES256", "kid": "p" }), &claims.to_string())
}

fn expected() -> Expected {
    Expected {
        issuer: "https://issuer.test".into(),
        audiences: ["other".into(), "locum".into()].into(),
        types: ["JWT".into(), "at+jwt".into()].into(),
        leeway: 5,
    }
}

const ALL: [Algorithm; 9] = {
    let mut all = [Algorithm::Rs256; 9];
    let mut at = 0;
    while at < all.len() {
        all[at] = Algorithm::ALL[at].1;
        at += 1;
    }
    all
};

fn judge(text: &str) -> Result<i64, Fault> {
    Unverified::read(text)?.verify(&set(), &ALL)?.check(&expected(), NOW)
}

#[test]
fn each_algorithm_is_verified_with_a_key_for_it_and_no_other() {
    let ids = [("RS", "r"), ("PS", "r"), ("ES256", "p"), ("ES384", "q"), ("EdDSA", "e")];
    for (name, algorithm) in Algorithm::ALL {
        let id = ids.iter().find(|(start, _)| name.starts_with(start)).unwrap().1;
        let text = sealed(&json!({ "alg": name, "kid": id }), &claims().to_string());
        assert_eq!(judge(&text), Ok(NOW + 65), "{name}");
        let unnamed = sealed(&json!({ "alg": name }), &claims().to_string());
        assert_eq!(judge(&unnamed), Ok(NOW + 65), "{name} without a name: one key fits");
        for other in ["r", "p", "q", "e", "../../etc/passwd", ""] {
            let text = sealed(&json!({ "alg": name, "kid": other }), &claims().to_string());
            let judged = judge(&text);
            assert_eq!(judged.is_ok(), other == id, "{name} {other}: {judged:?}");
        }
        let others: Vec<Algorithm> = ALL.into_iter().filter(|one| *one != algorithm).collect();
        let read = Unverified::read(&text).unwrap();
        assert_eq!(read.verify(&set(), &others).unwrap_err(), Fault::Algorithm);
    }
}

#[test]
fn every_byte_counts() {
    let text = token(&claims());
    assert!(judge(&text).is_ok());
    for at in 0..text.len() {
        assert!(judge(&text[..at]).is_err(), "cut at {at}");
        let mut changed = text.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(judge(&String::from_utf8(changed).unwrap()).is_err(), "changed at {at}");
    }
    for longer in [format!("{text}A"), format!("{text}=="), format!("{text}."), format!(" {text}")]
    {
        assert!(judge(&longer).is_err(), "{longer}");
    }
}

#[test]
fn headers_that_could_mislead_are_refused_or_mean_nothing() {
    let with = |header: Value| judge(&sealed(&header, &claims().to_string()));
    for none in ["none", "None", "NONE", "nOnE", "", "es256", "HS256", "HS512", "ES512", "RSA-OAEP"]
    {
        assert_eq!(with(json!({ "alg": none, "kid": "r" })), Err(Fault::Algorithm), "{none}");
    }
    assert_eq!(with(json!({ "kid": "r" })), Err(Fault::Algorithm));
    assert_eq!(with(json!({ "alg": ["ES256"], "kid": "p" })), Err(Fault::Algorithm));
    let more = |name: &str, value: Value| {
        let mut header = json!({ "alg": "ES256", "kid": "p" });
        header[name] = value;
        with(header)
    };
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!("x")] {
        assert_eq!(more("crit", crit), Err(Fault::Critical));
    }
    assert_eq!(more("cty", json!("JWT")), Err(Fault::Critical));
    for (kind, good) in [
        ("JWT", true),
        ("jwt", true),
        ("at+jwt", true),
        ("application/AT+JWT", true),
        ("logout+jwt", false),
        ("application/", false),
        ("", false),
    ] {
        let result = more("typ", json!(kind));
        assert_eq!(result.is_ok(), good, "{kind}");
    }
    assert_eq!(more("typ", json!(7)), Err(Fault::Unreadable));
    assert_eq!(more("kid", json!(["p"])), Err(Fault::Unreadable));
    assert_eq!(more("kid", json!("p".repeat(300))), Err(Fault::Unreadable));
    // A key that the token brings along is nobody's: the signature is by the issuer's, or by none.
    let own = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let header = json!({ "alg": "ES256", "kid": "p", "jwk": ec("p", "P-256", &own),
        "jku": "https://evil.test/keys", "x5u": "https://evil.test/x", "x5c": ["AAAA"] });
    assert!(with(header.clone()).is_ok(), "they mean nothing");
    let text = sealed(&header, &claims().to_string());
    let (signed, _) = text.rsplit_once('.').unwrap();
    let forged = own.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    assert_eq!(judge(&format!("{signed}.{}", encode(forged.as_ref()))), Err(Fault::Signature));
}

#[test]
fn a_public_key_is_nobodys_shared_secret() {
    let text = sealed(&json!({ "alg": "HS256", "kid": "r" }), &claims().to_string());
    assert_eq!(judge(&text), Err(Fault::Algorithm));
    // Nor does a MAC pass for a signature of another kind.
    let (signed, _) = text.rsplit_once('.').unwrap();
    let header = encode(json!({ "alg": "RS256", "kid": "r" }).to_string().as_bytes());
    let signed = format!("{header}.{}", signed.split_once('.').unwrap().1);
    let mac = hmac(KEYS.rsa_spki().as_bytes(), signed.as_bytes());
    assert_eq!(judge(&format!("{signed}.{}", encode(&mac))), Err(Fault::Signature));
    let unsigned = format!("{signed}.");
    assert_eq!(judge(&unsigned), Err(Fault::Signature));
    // A symmetric key in a set is a mistake, and not a key.
    let with = json!({ "keys": [{ "kty": "oct", "kid": "r", "k": "AAAA" }, KEYS.rsa_key("r")] });
    let set = KeySet::parse(with.to_string().as_bytes());
    assert_eq!(set.unwrap_err(), KeySetError::Private);
}

#[test]
fn claims_are_held_to_what_is_expected() {
    let with = |name: &str, value: Value| {
        let mut all = claims();
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        } else {
            all[name] = value;
        }
        judge(&token(&all))
    };
    let good = |limit: i64| Ok(limit);
    for (name, value, judged) in [
        ("iss", json!("https://issuer.test/"), Err(Fault::Issuer)),
        ("iss", json!("HTTPS://issuer.test"), Err(Fault::Issuer)),
        ("iss", json!(["https://issuer.test"]), Err(Fault::Issuer)),
        ("iss", Value::Null, Err(Fault::Issuer)),
        ("aud", json!("other"), good(NOW + 65)),
        ("aud", json!(["x", "locum"]), good(NOW + 65)),
        ("aud", json!("locum "), Err(Fault::Audience)),
        ("aud", json!("Locum"), Err(Fault::Audience)),
        ("aud", json!(["x"]), Err(Fault::Audience)),
        ("aud", json!([]), Err(Fault::Audience)),
        ("aud", json!({ "locum": true }), Err(Fault::Audience)),
        ("aud", json!(["locum", 7]), Err(Fault::Audience)),
        ("aud", Value::Null, Err(Fault::Audience)),
        ("exp", json!(NOW - 4), good(NOW + 1)),
        ("exp", json!(NOW - 5), Err(Fault::Expired)),
        ("exp", json!(NOW as f64 - 4.5), Err(Fault::Expired)),
        ("exp", json!(-1), Err(Fault::Expired)),
        ("exp", Value::Null, Err(Fault::NoExpiry)),
        ("exp", json!((NOW + 60).to_string()), Err(Fault::Claim)),
        ("exp", json!(1e300), Err(Fault::Claim)),
        ("exp", json!(u64::MAX), Err(Fault::Claim)),
        ("exp", json!(true), Err(Fault::Claim)),
        ("nbf", json!(NOW + 5), good(NOW + 65)),
        ("nbf", json!(NOW + 6), Err(Fault::NotYet)),
        ("nbf", json!("x"), Err(Fault::Claim)),
        ("iat", json!(NOW + 6), Err(Fault::NotYet)),
        ("iat", json!(NOW + 5), good(NOW + 65)),
    ] {
        assert_eq!(with(name, value.clone()), judged, "{name} {value}");
    }
}

#[test]
fn what_is_said_twice_or_is_no_object_is_not_read() {
    let header = json!({ "alg": "ES256", "kid": "p" });
    let twice = claims().to_string().replacen('{', "{\"sub\":\"other\",", 1);
    let escaped = claims().to_string().replacen('{', "{\"s\\u0075b\":\"other\",", 1);
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let nested = claims().to_string().replacen('{', "{\"x\":{\"a\":1,\"a\":2},", 1);
    for claims in
        [twice, escaped, nested, deep, "[]".into(), "7".into(), String::new(), "{}x".into()]
    {
        assert_eq!(judge(&sealed(&header, &claims)), Err(Fault::Unreadable), "{claims}");
    }
    let signed = format!(
        "{}.{}",
        encode(br#"{"alg":"none","alg":"ES256","kid":"p"}"#),
        encode(claims().to_string().as_bytes())
    );
    let signature = encode(&KEYS.sign("ES256", signed.as_bytes()));
    assert_eq!(judge(&format!("{signed}.{signature}")), Err(Fault::Unreadable));
    let mut long = claims();
    long["x"] = json!("x".repeat(MAX_LENGTH));
    assert_eq!(judge(&token(&long)), Err(Fault::TooLong));
    for text in ["", ".", "..", "...", "a.b.c", "e30.e30.", "e30.e30"] {
        assert!(judge(text).is_err(), "{text}");
    }
}

#[test]
fn sets_are_read_and_what_is_not_understood_is_left_out() {
    let parse = |keys: Value| KeySet::parse(json!({ "keys": keys }).to_string().as_bytes());
    let count = |keys: Value| parse(keys).map(|set| set.count());
    let with = |name: &str, value: Value| {
        let mut key = KEYS.rsa_key("r");
        key[name] = value;
        key
    };
    assert_eq!(count(json!([KEYS.rsa_key("r"), { "kty": "new" }, 7])), Ok(1));
    for (name, value) in [
        ("use", json!("enc")),
        ("key_ops", json!(["sign"])),
        ("alg", json!("HS256")),
        ("alg", json!("ES256")),
        ("e", json!("AQ")),
        ("e", json!("Ag")),
        ("n", json!("AQAB")),
        ("n", json!("!")),
        ("kty", json!("EC")),
    ] {
        assert_eq!(
            count(json!([with(name, value.clone())])),
            Err(KeySetError::Empty),
            "{name} {value}"
        );
    }
    assert_eq!(count(json!([with("key_ops", json!(["verify"]))])), Ok(1));
    assert_eq!(count(json!([with("d", json!("AAAA"))])), Err(KeySetError::Private));
    assert_eq!(count(json!(vec![KEYS.rsa_key("r"); 101])), Err(KeySetError::TooMany));
    assert_eq!(KeySet::parse(b"[]").unwrap_err(), KeySetError::Unreadable);
    assert_eq!(KeySet::parse(b"{\"keys\":[],\"keys\":[]}").unwrap_err(), KeySetError::Unreadable);
    // A key that says for which algorithm it is, is for no other.
    let set = parse(json!([with("alg", json!("RS512"))])).unwrap();
    for (name, good) in [("RS512", true), ("RS256", false), ("PS512", false)] {
        let text = sealed(&json!({ "alg": name, "kid": "r" }), &claims().to_string());
        let verified = Unverified::read(&text).unwrap().verify(&set, &ALL);
        assert_eq!(verified.is_ok(), good, "{name}");
    }
    // Of two that fit, none is meant.
    let two = parse(json!([KEYS.rsa_key("r"), KEYS.rsa_key("s")])).unwrap();
    let text = sealed(&json!({ "alg": "RS256" }), &claims().to_string());
    let verified = Unverified::read(&text).unwrap().verify(&two, &ALL);
    assert_eq!(verified.unwrap_err(), Fault::UnknownKey);
}

#[test]
fn claims_are_found_by_name_or_by_their_way() {
    let mut all = claims();
    all["kubernetes.io"] = json!({ "serviceaccount": { "name": "writer" }, "a/b~c": "x" });
    let text = token(&all);
    let verified = Unverified::read(&text).unwrap().verify(&set(), &ALL).unwrap();
    let found = |path: &str| {
        let value = verified.claim(&path.parse().unwrap())?;
        value.as_str().map(str::to_owned)
    };
    assert_eq!(found("sub").as_deref(), Some("agent"));
    assert_eq!(found("/sub").as_deref(), Some("agent"));
    assert_eq!(found("/kubernetes.io/serviceaccount/name").as_deref(), Some("writer"));
    assert_eq!(found("/kubernetes.io/a~1b~0c").as_deref(), Some("x"));
    assert_eq!(found("kubernetes.io"), None, "no text");
    assert_eq!(found("/sub/x"), None);
    for bad in ["", "/", "//", "/a~2", "/a/"] {
        assert!(bad.parse::<ClaimPath>().is_err(), "{bad}");
    }
}
