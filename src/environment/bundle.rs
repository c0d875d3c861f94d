//! Roots, the bundle of them and our own CA, and the same as a Java trust store.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::Path;

use p12_keystore::{Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm};
use pem::{EncodeConfig, LineEnding, Pem};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::EnvironmentError;

/// Where the roots of the system are, in the order of asking, after an inherited `SSL_CERT_FILE`.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The password of a store that holds nothing secret; the JVM's own has the same one.
pub(super) const STORE_PASSWORD: &str = "changeit";

/// What the store's key derivation costs, here and at the start of each JVM. It protects public
/// certificates with a public password, so it is kept to what RFC 7292 recommends as the least.
const STORE_ITERATIONS: u32 = 1024;

/// Certificates for clients to trust: each once, our own CA last.
#[derive(Clone)]
pub struct Bundle {
    /// Our own, the last ones.
    own: Vec<CertificateDer<'static>>,
    /// All others.
    roots: Vec<CertificateDer<'static>>,
}

/// The roots that the parent's clients trust: the first of `ssl_cert_file` (the inherited
/// `SSL_CERT_FILE`) and the usual places that holds a certificate; on macOS the keychains come
/// before the usual places. Mozilla's roots, as compiled in, where there is none. `own_bundle` is
/// passed over, so that a run inside a run does not take a CA of ours that was rotated for a root.
#[must_use]
pub fn system_roots(
    ssl_cert_file: Option<&OsStr>,
    own_bundle: &Path,
) -> Vec<CertificateDer<'static>> {
    let places = SYSTEM_BUNDLES.map(Path::new);
    first_roots(ssl_cert_file.map(Path::new), keychain_roots, &places, own_bundle)
}

pub(super) fn first_roots(
    inherited: Option<&Path>,
    keychain: impl FnOnce() -> Option<Vec<CertificateDer<'static>>>,
    places: &[&Path],
    own_bundle: &Path,
) -> Vec<CertificateDer<'static>> {
    let read = |path: &Path| {
        if same_file(path, own_bundle) {
            return None;
        }
        fs::read(path).ok().map(|file| certificates(&file)).filter(|found| !found.is_empty())
    };
    inherited
        .and_then(read)
        .or_else(keychain)
        .or_else(|| places.iter().copied().find_map(read))
        .unwrap_or_else(|| webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec())
}

/// An administrator's roots are only in the keychains there. The library itself gives the file of
/// `SSL_CERT_FILE` where that is set, which is a bundle of ours then, or had no certificate.
#[cfg(target_os = "macos")]
fn keychain_roots() -> Option<Vec<CertificateDer<'static>>> {
    let overridden =
        ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|n| std::env::var_os(n).is_some());
    let roots = (!overridden).then(|| rustls_native_certs::load_native_certs().certs);
    roots.filter(|roots| !roots.is_empty())
}

#[cfg(not(target_os = "macos"))]
fn keychain_roots() -> Option<Vec<CertificateDer<'static>>> {
    None
}

fn same_file(one: &Path, other: &Path) -> bool {
    one == other
        || fs::canonicalize(one)
            .is_ok_and(|one| fs::canonicalize(other).is_ok_and(|two| one == two))
}

/// The certificates of a PEM file, in order. What else the file holds is passed over, damaged
/// sections too: one bad root in the system's file is no reason to trust none of it.
#[must_use]
pub fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// Joins the roots with our own CA, each certificate once, compared by DER. `own_ca_pem` may hold
/// more than one while a CA is rotated.
///
/// # Errors
/// When `own_ca_pem` holds no certificate.
pub fn bundle(roots: &[CertificateDer<'_>], own_ca_pem: &str) -> Result<Bundle, EnvironmentError> {
    let mut seen = HashSet::new();
    let mut own = certificates(own_ca_pem.as_bytes());
    own.retain(|certificate| seen.insert(certificate.to_vec()));
    if own.is_empty() {
        return Err(EnvironmentError::NoOwnCertificate);
    }
    let fresh = roots.iter().filter(|certificate| seen.insert(certificate.to_vec()));
    let roots = fresh.map(|certificate| certificate.clone().into_owned()).collect();
    Ok(Bundle { own, roots })
}

impl Bundle {
    /// All of it, our own CA last.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().chain(&self.own)
    }

    /// The contents of `ca-bundle.pem`: PEM and nothing else (RFC 7468).
    #[must_use]
    pub fn pem(&self) -> String {
        let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
        let encode = |one: &CertificateDer<'_>| {
            pem::encode_config(&Pem::new("CERTIFICATE", one.as_ref()), config)
        };
        self.certificates().map(encode).collect()
    }

    /// The same certificates as a Java trust store: PKCS#12, password `changeit`, each entry marked
    /// as trusted in Oracle's way, without which the JVM ignores it. The ciphers are the old ones,
    /// since they hide nothing and a JDK before 11.0.12 cannot read the new.
    ///
    /// A root that does not parse is left out, because for the JVM it would spoil the whole store.
    ///
    /// # Errors
    /// When our own CA does not parse, or the store cannot be encoded.
    pub fn java_trust_store(&self) -> Result<Vec<u8>, EnvironmentError> {
        let mut store = KeyStore::new();
        let mut add = |alias: String, certificate: Certificate| {
            store.add_entry(&alias, KeyStoreEntry::Certificate(certificate));
        };
        // The JVM compares aliases in lower case, so they are counted rather than named.
        for (index, certificate) in self.own.iter().enumerate() {
            let parsed =
                Certificate::from_der(certificate).map_err(EnvironmentError::TrustStore)?;
            add(format!("locum-{:03}", index + 1), parsed);
        }
        for (index, certificate) in self.roots.iter().enumerate() {
            if let Ok(parsed) = Certificate::from_der(certificate) {
                add(format!("system-{:03}", index + 1), parsed);
            }
        }
        store
            .writer(STORE_PASSWORD)
            .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
            .encryption_iterations(STORE_ITERATIONS)
            .mac_algorithm(MacAlgorithm::HmacSha1)
            .mac_iterations(STORE_ITERATIONS)
            .write()
            .map_err(EnvironmentError::TrustStore)
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("roots", &self.roots.len())
            .field("own", &self.own.len())
            .finish()
    }
}
