//! The certificate authority: made once on a machine, trusted by that machine's agents only.
//!
//! Its certificate is public (`ca.pem`). Its key comes from the vault as a [`Secret`] and is then
//! held by the cryptography library alone, which wipes it; no encoded copy stays behind.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SignatureAlgorithm,
};
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroize;

use super::TlsError;
use crate::secret::Secret;

const DAY: Duration = Duration::from_hours(24);

/// Certificates begin this long before they are made: a container, a virtual machine or a laptop
/// that has just woken may run hours behind, and would refuse a certificate from its future.
pub(super) const BACKDATE: Duration = DAY;

/// How long a CA lives. Long enough that nobody has to trust a new one often, which teaches people
/// to click; short enough that a stolen or forgotten CA ends by itself. Agents read the bundle
/// when they start, so rotating well before the end costs a restart at most.
const LIFE: Duration = Duration::from_hours(17520);

/// A new CA: what to publish and what to seal.
#[derive(Debug)]
pub struct CaMaterial {
    /// The self-signed certificate, PEM, one block with a final newline.
    pub certificate_pem: String,
    /// The private key, PKCS#8 DER (RFC 5208). Belongs into the vault and nowhere else.
    pub key: Secret,
}

/// What may be shown about a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaInfo {
    /// The distinguished name, such as `CN=Locum CA 1f0c9a2e (this machine's agents)`.
    pub subject: String,
    /// The serial number in lower-case hex.
    pub serial: String,
    /// The subject key identifier in lower-case hex; empty if the certificate has none.
    pub key_id: String,
    /// When its validity begins.
    pub not_before: SystemTime,
    /// When its validity ends.
    pub not_after: SystemTime,
    /// SHA-256 of the certificate's DER: what `openssl x509 -fingerprint -sha256` shows.
    pub fingerprint_sha256: [u8; 32],
}

impl CaInfo {
    /// Reads a CA certificate without its key, also one that has expired.
    ///
    /// # Errors
    /// [`TlsError::CertificateUnreadable`].
    pub fn read(certificate_pem: &str) -> Result<Self, TlsError> {
        Self::of(&first_certificate(certificate_pem)?)
    }

    fn of(der: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let certificate = parse(der)?;
        let key_id = certificate.iter_extensions().find_map(|extension| {
            match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
                _ => None,
            }
        });
        Ok(Self {
            subject: certificate.subject().to_string(),
            serial: HEXLOWER.encode(certificate.raw_serial()),
            key_id: HEXLOWER.encode(key_id.unwrap_or_default()),
            not_before: time(certificate.validity().not_before),
            not_after: time(certificate.validity().not_after),
            fingerprint_sha256: Sha256::digest(der).into(),
        })
    }

    /// The fingerprint as tools print it: upper-case hex in pairs, with colons between.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let pairs: Vec<String> =
            self.fingerprint_sha256.iter().map(|byte| format!("{byte:02X}")).collect();
        pairs.join(":")
    }
}

/// The CA, able to sign.
pub struct CertificateAuthority {
    pem: Box<str>,
    der: CertificateDer<'static>,
    info: CaInfo,
    self_issued: bool,
    issuer: Issuer<'static, P256Key>,
}

impl CertificateAuthority {
    /// Makes a CA: ECDSA P-256, valid for two years from `now` and backdated by a day, able to sign
    /// leaves but no further CA (path length 0), for TLS servers only (RFC 5280 section 4.2).
    ///
    /// # Errors
    /// [`TlsError::Signing`] or [`TlsError::Library`] when the library has no randomness.
    pub fn generate(now: SystemTime) -> Result<CaMaterial, TlsError> {
        let secret = generate_key()?;
        let key = P256Key::read(&secret)?;
        let certificate = authority_params(&key, now)?.self_signed(&key)?;
        Ok(CaMaterial { certificate_pem: certificate.pem(), key: secret })
    }

    /// Takes up a CA: the certificate from its file, the key (PKCS#8 DER, ECDSA P-256) from the
    /// vault. `now` must lie within its validity.
    ///
    /// # Errors
    /// [`TlsError`]: unreadable, not a pair, not a CA, not yet valid, or expired.
    pub fn load(certificate_pem: &str, key: &Secret, now: SystemTime) -> Result<Self, TlsError> {
        let der = first_certificate(certificate_pem)?;
        let key = P256Key::read(key)?;
        let certificate = parse(&der)?;
        if certificate.public_key().raw != key.public_info {
            return Err(TlsError::KeyMismatch);
        }
        if !may_sign(&certificate) {
            return Err(TlsError::NotAnAuthority);
        }
        let authority = Self {
            self_issued: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            info: CaInfo::of(&der)?,
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            pem: certificate_pem.into(),
            der,
        };
        authority.check_validity(now)?;
        Ok(authority)
    }

    /// The certificate as it was loaded, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the certificate's DER.
    #[must_use]
    pub fn fingerprint_sha256(&self) -> [u8; 32] {
        self.info.fingerprint_sha256
    }

    /// When it ends. No leaf outlives it.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.info.not_after
    }

    /// What may be shown about it.
    #[must_use]
    pub fn info(&self) -> &CaInfo {
        &self.info
    }

    pub(super) fn check_validity(&self, now: SystemTime) -> Result<(), TlsError> {
        let CaInfo { not_before, not_after, .. } = self.info;
        if now < not_before {
            return Err(TlsError::NotYetValid { not_before });
        }
        if now >= not_after {
            return Err(TlsError::Expired { not_after });
        }
        Ok(())
    }

    /// Signs a leaf, and gives the chain to send with it. Clients hold the CA itself, and RFC 8446
    /// section 4.4.2 lets a server leave a trust anchor out: so the leaf goes alone, 0.5 kB less in
    /// each full handshake and one certificate less to parse. Only a CA that another one signed is
    /// sent along, since the client may hold just that other.
    pub(super) fn sign(
        &self,
        leaf: &CertificateParams,
        key: &P256Key,
    ) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let leaf = leaf.signed_by(key, &self.issuer)?;
        let mut chain = vec![CertificateDer::from(leaf)];
        if !self.self_issued {
            chain.push(self.der.clone());
        }
        Ok(chain)
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CertificateAuthority").field(&self.info).finish()
    }
}

fn authority_params(key: &P256Key, now: SystemTime) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    let key_id = HEXLOWER.encode(&params.key_identifier(key));
    // The id tells two CAs apart in a trust store's list, and the rest tells people what it is.
    let short_id = key_id.get(..8).unwrap_or(&key_id);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("Locum CA {short_id} (this machine's agents)"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Most verifiers hold the leaves to the CA's purposes too: a stolen key signs no code, no mail.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.serial_number = Some(random_serial()?);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LIFE).into();
    Ok(params)
}

pub(super) fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let signs = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        // RFC 5280 section 4.2.1.3: absent means no restriction.
        Ok(None) => true,
        Err(_) => false,
    };
    certificate.is_ca() && signs
}

/// 127 random bits in 16 bytes. RFC 5280 section 4.1.2.2 asks for a positive number of at most 20
/// bytes; with the second-highest bit set it is never zero and always of one length.
pub(super) fn random_serial() -> Result<rcgen::SerialNumber, TlsError> {
    let mut bytes = [0; 16];
    super::provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|failed| TlsError::Library(failed.into()))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(rcgen::SerialNumber::from_slice(&bytes))
}

/// A new ECDSA P-256 key, PKCS#8 DER.
pub(super) fn generate_key() -> Result<Secret, TlsError> {
    let mut pair = KeyPair::generate()?;
    let secret = Secret::new(pair.serialize_der());
    // The pair keeps an encoded copy and does not wipe it on drop.
    pair.zeroize();
    Ok(secret)
}

/// An ECDSA P-256 key that signs certificates through the TLS library. In place of rcgen's own
/// `KeyPair`, which keeps the encoded key in plain memory for its whole life.
pub(super) struct P256Key {
    key: Arc<dyn SigningKey>,
    signer: Box<dyn Signer>,
    /// `SubjectPublicKeyInfo` (RFC 5480).
    public_info: Vec<u8>,
}

/// An uncompressed point: 0x04, x, y. It ends the `SubjectPublicKeyInfo`.
const POINT_BYTES: usize = 65;

impl P256Key {
    pub(super) fn read(secret: &Secret) -> Result<Self, TlsError> {
        let key = secret
            .expose(|der| {
                let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
                rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der)
            })
            .map_err(|_| TlsError::KeyUnreadable)?;
        // Any other curve has no signer for this scheme.
        let signer = key
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
            .ok_or(TlsError::KeyUnreadable)?;
        let public_info = key.public_key().ok_or(TlsError::KeyUnreadable)?.to_vec();
        Ok(Self { key, signer, public_info })
    }

    /// The same key, for handshakes.
    pub(super) fn for_handshakes(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.key)
    }
}

impl PublicKeyData for P256Key {
    fn der_bytes(&self) -> &[u8] {
        let start = self.public_info.len().saturating_sub(POINT_BYTES);
        &self.public_info[start..]
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for P256Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

pub(super) fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| TlsError::CertificateUnreadable)
}

/// A whole certificate and nothing after it.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, TlsError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(TlsError::CertificateUnreadable),
    }
}

fn time(asn1: x509_parser::time::ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(asn1.timestamp().unsigned_abs());
    if asn1.timestamp() < 0 {
        SystemTime::UNIX_EPOCH - seconds
    } else {
        SystemTime::UNIX_EPOCH + seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::{NOW, authority, now};

    fn generated() -> CaMaterial {
        CertificateAuthority::generate(now()).unwrap()
    }

    #[test]
    fn a_new_ca_may_sign_leaves_and_nothing_else() {
        let made = generated();
        let der = first_certificate(&made.certificate_pem).unwrap();
        let ca = parse(&der).unwrap();
        let constraints = ca.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = ca.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert_eq!(usage.value.flags.count_ones(), 2);
        let purposes = ca.extended_key_usage().unwrap().unwrap().value;
        assert!(purposes.server_auth && !purposes.any && !purposes.code_signing);
        assert_eq!(ca.subject().as_raw(), ca.issuer().as_raw());
        assert_eq!(ca.version().0, 2, "version 3");
        ca.verify_signature(None).unwrap();
    }

    #[test]
    fn a_new_ca_tells_people_which_one_it_is() {
        let info = CaInfo::read(&generated().certificate_pem).unwrap();
        let short = &info.key_id[..8];
        assert_eq!(info.subject, format!("CN=Locum CA {short} (this machine's agents)"));
        assert_eq!(info.key_id.len(), 40);
        assert_eq!(info.not_before, now() - DAY);
        assert_eq!(info.not_after, now() + 730 * DAY);
        let shown = info.fingerprint();
        assert_eq!(shown.len(), 32 * 3 - 1);
        assert!(shown.starts_with(&format!("{:02X}:", info.fingerprint_sha256[0])));
    }

    #[test]
    fn serials_are_positive_of_one_length_and_differ() {
        let serials: Vec<_> = (0..256).map(|_| random_serial().unwrap()).collect();
        for serial in &serials {
            let bytes = serial.to_bytes();
            assert_eq!(bytes.len(), 16);
            assert_eq!(bytes[0] & 0xc0, 0x40, "{serial}");
        }
        let mut distinct: Vec<_> = serials.iter().map(rcgen::SerialNumber::to_bytes).collect();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), serials.len());
    }

    #[test]
    fn load_gives_back_what_was_made() {
        let made = generated();
        let ca = CertificateAuthority::load(&made.certificate_pem, &made.key, now()).unwrap();
        assert_eq!(ca.certificate_pem(), made.certificate_pem);
        assert_eq!(ca.info(), &CaInfo::read(&made.certificate_pem).unwrap());
        assert_eq!(ca.not_after(), now() + LIFE);
        assert_eq!(ca.fingerprint_sha256(), ca.info().fingerprint_sha256);
        assert!(ca.self_issued);
    }

    #[test]
    fn load_refuses_what_does_not_belong_together() {
        let (one, other) = (generated(), generated());
        let load = |pem: &str, key: &Secret| CertificateAuthority::load(pem, key, now()).err();
        assert_eq!(load(&one.certificate_pem, &other.key), Some(TlsError::KeyMismatch));
        assert_eq!(load("no PEM", &one.key), Some(TlsError::CertificateUnreadable));
        let torn = one.certificate_pem.replace("MII", "MIJ");
        assert_eq!(load(&torn, &one.key), Some(TlsError::CertificateUnreadable));
        let no_key = Secret::new(b"no key".to_vec());
        assert_eq!(load(&one.certificate_pem, &no_key), Some(TlsError::KeyUnreadable));
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let p384 = Secret::new(p384.serialize_der());
        assert_eq!(load(&one.certificate_pem, &p384), Some(TlsError::KeyUnreadable));
    }

    #[test]
    fn load_refuses_a_certificate_that_may_not_sign() {
        let secret = generate_key().unwrap();
        let key = P256Key::read(&secret).unwrap();
        let pem = |change: fn(&mut CertificateParams)| {
            let mut params = authority_params(&key, now()).unwrap();
            change(&mut params);
            params.self_signed(&key).unwrap().pem()
        };
        for pem in [
            pem(|params| params.is_ca = IsCa::ExplicitNoCa),
            pem(|params| params.is_ca = IsCa::NoCa),
            pem(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ] {
            let error = CertificateAuthority::load(&pem, &secret, now()).err();
            assert_eq!(error, Some(TlsError::NotAnAuthority));
        }
    }

    #[test]
    fn load_refuses_a_ca_out_of_its_time_and_says_what_to_do() {
        let made = generated();
        let load = |now| CertificateAuthority::load(&made.certificate_pem, &made.key, now).err();
        let (begin, end) = (now() - DAY, now() + LIFE);
        assert_eq!(load(begin), None);
        assert_eq!(load(end - Duration::from_secs(1)), None);
        let expired = load(end).unwrap();
        assert_eq!(expired, TlsError::Expired { not_after: end });
        assert!(expired.to_string().contains("locum ca rotate"), "{expired}");
        let early = load(begin - Duration::from_secs(1)).unwrap();
        assert_eq!(early, TlsError::NotYetValid { not_before: begin });
        assert!(early.to_string().contains("2026-"), "{early}");
        assert!(CaInfo::read(&made.certificate_pem).is_ok(), "still shown");
    }

    #[test]
    fn debug_shows_no_key() {
        let made = generated();
        let shown = format!("{made:?} {:?}", authority(NOW));
        assert!(shown.contains("Secret(..)") && !shown.contains("PRIVATE"));
        let start = made.key.expose(|der| format!("{:?}", &der[..8]));
        assert!(!shown.contains(start.trim_matches(['[', ']'])));
    }
}
