//! Client certificates that are credentials: shown in one handshake, and gone after it.
//!
//! The key of such a certificate is in memory for the handshake alone. Its connection holds a place for
//! it that is empty by then, and no session of it is resumed with another.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::secret::Secret;

/// Why a text is no client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// No certificate in PEM.
    NoCertificate,
    /// No private key in PEM that can be read.
    NoKey,
    /// The key is another certificate's.
    Mismatch,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCertificate => "there is no certificate in it, in PEM",
            Self::NoKey => {
                "there is no private key in it that can be read: PKCS #8, PKCS #1 or SEC 1, in PEM and without a passphrase"
            }
            Self::Mismatch => "its private key does not belong to its first certificate",
        })
    }
}

impl std::error::Error for IdentityError {}

/// Reads certificate, intermediates and key, and says until when the certificate is good, in seconds
/// since the Unix epoch.
///
/// # Errors
/// [`IdentityError`], which quotes nothing.
pub fn check_identity(pem: &[u8]) -> Result<i64, IdentityError> {
    read(pem).map(|(_, until)| until)
}

fn read(pem: &[u8]) -> Result<(CertifiedKey, i64), IdentityError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| IdentityError::NoCertificate)?;
    let first = chain.first().ok_or(IdentityError::NoCertificate)?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(|_| IdentityError::NoCertificate)?;
    let until = parsed.validity().not_after.timestamp();
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| IdentityError::NoKey)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|_| IdentityError::NoKey)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| IdentityError::Mismatch)?;
    Ok((certified, until))
}

/// What is shown in one handshake.
pub(super) struct OneHandshake(Mutex<Option<Arc<CertifiedKey>>>);

impl OneHandshake {
    /// Of what lies in the vault.
    pub(super) fn of(secret: &Secret) -> Result<Arc<Self>, IdentityError> {
        let (certified, _) = secret.expose(read)?;
        Ok(Arc::new(Self(Mutex::new(Some(Arc::new(certified))))))
    }

    /// The handshake is over.
    pub(super) fn forget(&self) {
        self.0.lock().take();
    }
}

impl fmt::Debug for OneHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneHandshake").finish_non_exhaustive()
    }
}

impl ResolvesClientCert for OneHandshake {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let certified = self.0.lock().clone()?;
        certified.key.choose_scheme(schemes).is_some().then_some(certified)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["me.test".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_comes_with_its_own_key_in_any_order() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        assert!(check_identity(format!("{certificate}{key}").as_bytes()).unwrap() > 0);
        assert!(check_identity(format!("{key}\n{certificate}").as_bytes()).is_ok());
        for (text, why) in [
            (key.clone(), IdentityError::NoCertificate),
            (certificate.clone(), IdentityError::NoKey),
            (format!("{certificate}{other}"), IdentityError::Mismatch),
            ("sk-canary".to_owned(), IdentityError::NoCertificate),
        ] {
            assert_eq!(check_identity(text.as_bytes()), Err(why));
        }
    }

    #[test]
    fn nothing_is_left_after_the_handshake() {
        let (certificate, key) = pair();
        let secret = Secret::new(format!("{certificate}{key}").into_bytes());
        let once = OneHandshake::of(&secret).unwrap();
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        assert!(once.resolve(&[], &schemes).is_some());
        once.forget();
        assert!(once.resolve(&[], &schemes).is_none());
        assert!(!format!("{once:?}").contains("Certified"));
    }
}
