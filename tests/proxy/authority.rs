//! One tunnel, one host: what disagrees is refused before the origin sees a byte.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{EchConfig, EchGreaseConfig, EchMode};
use rustls::crypto::hpke::Hpke as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::support::*;

/// A request whose `Host` lines, or whose target, are the test's own.
fn get(target: &str, hosts: &[&str]) -> String {
    let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
    format!("GET {target} HTTP/1.1\r\n{AUTHORIZED}\r\n{hosts}\r\n")
}

#[test]
fn other_hosts_are_refused_on_every_request_of_a_connection() {
    let world = World::new();
    let evil = Origin::start("evil.test");
    world.home.reach(&evil);
    let mismatched: &[(&str, &[&str], u16)] = &[
        ("/", &["evil.test"], 421),
        ("/", &["api.test:444"], 421),
        ("/", &["api.test:80"], 421),
        ("/", &["127.0.0.1"], 421),
        ("/", &["api.test.evil.test"], 421),
        ("https://evil.test/", &["api.test"], 421),
        ("https://evil.test/", &["evil.test"], 421),
        ("http://api.test/", &["api.test"], 421),
        ("https://api.test:444/", &["api.test"], 421),
        ("/", &[], 400),
        ("/", &["api.test", "api.test"], 400),
        ("/", &["api.test", "evil.test"], 400),
        ("/", &[""], 400),
        ("/", &["api.test, evil.test"], 400),
        ("/", &["api.test@evil.test"], 400),
        ("/", &["user@api.test"], 400),
        ("/", &["api.test/x"], 400),
        ("/", &["api.test#"], 400),
        ("/", &["api.test:x"], 400),
    ];
    for (target, hosts, status) in mismatched {
        let mut wire = world.tunnel();
        assert_eq!(wire.ask(get("/first", &["api.test"])).status, 200);
        let before = world.origin.raw().concat();
        let answer = wire.ask(get(target, hosts));
        assert_eq!(answer.status, *status, "{target} {hosts:?}");
        let code = if *status == 421 { "authority-mismatch" } else { "bad-request" };
        assert_eq!(answer.problem(), code, "{target} {hosts:?}");
        assert_eq!(world.origin.raw().concat(), before, "bytes went upstream: {target} {hosts:?}");
    }
    assert_eq!(evil.connections(), 0);
}

#[test]
fn every_spelling_of_the_right_host_is_served() {
    let world = World::new();
    let mut wire = world.tunnel();
    for (target, host) in [
        ("/", "api.test"),
        ("/", "API.Test"),
        ("/", "api.test."),
        ("/", "api.test:443"),
        ("https://api.test/", "api.test"),
        ("https://API.TEST:443/", "api.test"),
    ] {
        let answer = wire.ask(get(target, &[host]));
        assert_eq!(answer.status, 200, "{target} {host}: {}", answer.text());
        assert_eq!(world.origin.last().target, "/", "the origin gets a path");
    }
    // HTTP/1.0 needs no Host; the origin gets one all the same.
    let answer = wire.ask(format!("GET / HTTP/1.0\r\n{AUTHORIZED}\r\n\r\n"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.origin.last().header("host"), Some("api.test"));
}

#[test]
fn the_tls_handshake_names_the_host_or_nothing() {
    let world = World::new();
    let evil = Origin::start("evil.test");
    world.home.reach(&evil);
    for (name, status) in
        [("api.test", 200), ("127.0.0.1", 200), ("evil.test", 421), ("a.api.test", 421)]
    {
        let wire = world.serve.open_tunnel(&world.agent, "api.test:443");
        // An address is not sent as a name.
        let mut wire = wire.tls_with(name, unverified()).unwrap();
        for _ in 0..2 {
            let answer = wire.ask(get("/", &["api.test"]));
            assert_eq!(answer.status, status, "{name}: {}", answer.text());
        }
    }
    let seen = world.origin.seen().len();
    assert_eq!(seen, 4, "only what was named rightly arrived");
    // The leaf is for the CONNECT target, so a client that verifies ends it by itself.
    assert!(world.serve.tunnel_named(&world.agent, "api.test:443", "evil.test").is_err());
    assert_eq!(evil.connections(), 0);
}

/// Encrypted ClientHello (RFC 9849): what a browser sends in any case is ignored; one that is meant for
/// somebody hides the host's name behind another, which is not the tunnel's.
#[test]
fn a_name_hidden_in_the_handshake_is_not_believed() {
    let world = World::new();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = |mode: EchMode| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(world.serve.ca()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_ech(mode);
        client.unwrap().with_root_certificates(roots).with_no_client_auth()
    };
    let suite = rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
    let (public, _) = suite.generate_key_pair().unwrap();
    let grease = EchMode::Grease(EchGreaseConfig::new(suite, public.clone()));
    let wire = world.serve.open_tunnel(&world.agent, "api.test:443");
    let mut wire = wire.tls_with("api.test", client(grease)).unwrap();
    assert_eq!(wire.ask(get("/", &["api.test"])).status, 200);
    for outer in ["evil.test", "api.test"] {
        let mut contents = vec![7, 0, 0x20, 0, 32];
        contents.extend_from_slice(&public.0);
        contents.extend_from_slice(&[0, 4, 0, 1, 0, 1, 0, u8::try_from(outer.len()).unwrap()]);
        contents.extend_from_slice(outer.as_bytes());
        contents.extend_from_slice(&[0, 0]);
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let config = [&[0xfe, 0x0d][..], &length(&contents), &contents].concat();
        let list = [&length(&config)[..], &config].concat();
        let config = EchConfig::new(list.into(), &[suite]).unwrap();
        let wire = world.serve.open_tunnel(&world.agent, "api.test:443");
        // The client sees that nobody could read it, and ends.
        assert!(wire.tls_with("evil.test", client(config.into())).is_err(), "{outer}");
    }
    assert_eq!(world.origin.seen().len(), 1);
}

#[test]
fn a_leaf_is_what_strict_verifiers_want() {
    let world = World::new();
    let wire = world.tunnel();
    let chain = wire.certificates();
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(format!("{:?}", names.value.general_names), "[DNSName(\"api.test\")]");
    let oids: Vec<String> = leaf.extensions().iter().map(|e| e.oid.to_id_string()).collect();
    for (oid, what) in [
        ("2.5.29.14", "subject key identifier"),
        ("2.5.29.35", "authority key identifier"),
        ("2.5.29.15", "key usage"),
        ("2.5.29.37", "extended key usage"),
    ] {
        assert!(oids.iter().any(|o| o == oid), "no {what}");
    }
    assert!(leaf.raw_serial()[0] & 0x80 == 0 && leaf.raw_serial() != [0]);
    let validity = leaf.validity();
    let now = x509_parser::time::ASN1Time::now();
    let hours = |from: x509_parser::time::ASN1Time, to: x509_parser::time::ASN1Time| {
        (to - from).unwrap().whole_hours()
    };
    assert!(hours(validity.not_before, now) >= 1, "backdated for clocks that are behind");
    assert!(hours(validity.not_before, validity.not_after) <= 24 * 398);
    // The key of the CA is nowhere in the home but in the vault.
    for file in ["ca.pem", "ca-bundle.pem"] {
        let text = std::fs::read_to_string(world.home.path().join(file)).unwrap();
        assert!(!text.contains("PRIVATE"), "{file}");
    }
}

/// A client that believes anybody, to see what a careless one could reach.
fn unverified() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}
