//! TLS on the proxy's own listener, for `https://` proxy URLs.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroize;

use super::{Alpn, TlsError, provider};
use crate::secret::Secret;

/// A server configuration from a PEM chain (leaf first) and its PEM key. With `client_ca_pem`, a
/// client must show a certificate that one of those CAs signed; without it none is asked for.
///
/// # Errors
/// [`TlsError`]: unreadable, not a pair, or no usable client CA.
pub fn listener_config(
    certificate_pem: &[u8],
    key_pem: &Secret,
    client_ca_pem: Option<&[u8]>,
    alpn: &[Alpn],
) -> Result<Arc<ServerConfig>, TlsError> {
    let certified = certified_key(certificate_pem, key_pem)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match client_ca_pem {
        Some(pem) => builder.with_client_cert_verifier(client_verifier(pem)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = Alpn::wire_list(alpn);
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn certified_key(certificate_pem: &[u8], key_pem: &Secret) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate_pem).ok_or(TlsError::CertificateUnreadable)?;
    let mut key =
        key_pem.expose(PrivateKeyDer::from_pem_slice).map_err(|_| TlsError::KeyUnreadable)?;
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key);
    key.zeroize();
    let certified = CertifiedKey::new(chain, signing.map_err(|_| TlsError::KeyUnreadable)?);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch),
        Err(_) => Err(TlsError::CertificateUnreadable),
    }
}

fn client_verifier(pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(pem).ok_or(TlsError::ClientAuthority)? {
        roots.add(root).map_err(|_| TlsError::ClientAuthority)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|_| TlsError::ClientAuthority)
}

/// All certificates of the PEM; none when there is none, or one that cannot be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::CertificateAuthority;
    use crate::tls::ca::generate_key;
    use crate::tls::fixture::now;

    /// A certificate and its key; both PEM.
    fn pair() -> (String, Secret) {
        let made = CertificateAuthority::generate(now()).unwrap();
        (made.certificate_pem, pem(&made.key))
    }

    fn pem(key: &Secret) -> Secret {
        let encoded = key.expose(|der| data_encoding::BASE64.encode(der));
        let text = format!("-----BEGIN PRIVATE KEY-----\n{encoded}\n-----END PRIVATE KEY-----\n");
        Secret::new(text.into_bytes())
    }

    fn error(certificate: &str, key: &Secret, client_ca: Option<&str>) -> Option<TlsError> {
        let client_ca = client_ca.map(str::as_bytes);
        listener_config(certificate.as_bytes(), key, client_ca, &[]).err()
    }

    #[test]
    fn a_pair_makes_a_listener_with_or_without_client_certificates() {
        let (certificate, key) = pair();
        assert_eq!(error(&certificate, &key, None), None);
        assert_eq!(error(&certificate, &key, Some(&certificate)), None);
        let config = listener_config(certificate.as_bytes(), &key, None, &[Alpn::Http11]).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let (certificate, key) = pair();
        let stranger = pem(&generate_key().unwrap());
        let nothing = Secret::new(Vec::new());
        for (certificate, key, client_ca, why) in [
            ("", &key, None, TlsError::CertificateUnreadable),
            (&certificate, &nothing, None, TlsError::KeyUnreadable),
            (&certificate, &stranger, None, TlsError::KeyMismatch),
            (&certificate, &key, Some("x"), TlsError::ClientAuthority),
        ] {
            assert_eq!(error(certificate, key, client_ca), Some(why));
        }
    }
}
