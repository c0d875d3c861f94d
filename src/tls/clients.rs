//! Certificates of clients: the CA of their own that a home can have for its agents, and the lists by which
//! any CA takes back what it has issued.
//!
//! The CA is not the one that intercepts: whoever trusts that one for origins trusts this one for nothing,
//! and a listener believes this one for agents alone.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CidrSubnet, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints,
    PublicKeyData, SanType,
};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::TlsError;
use super::ca::{
    CaInfo, CaMaterial, P256Key, first_certificate, generate_key, may_sign, parse, random_serial,
};
use crate::agent::certificate::{RevocationList, canonical_serial};
use crate::reference::Name;
use crate::secret::Secret;

/// How long the CA lives: the machines that believe it are the proxies of one home, and its certificates
/// are short.
const LIFE: Duration = Duration::from_hours(10 * 365 * 24);

/// The longest that a certificate is good for. Longer ones are forgotten where they lie.
pub const MAX_TTL: Duration = Duration::from_hours(90 * 24);

/// A certificate begins so long before it is made: clocks differ by seconds. The CA itself begins a day
/// before, because the proxy's clock may be set right meanwhile.
const BACKDATE: Duration = Duration::from_mins(5);

/// The one domain under which the CA may name hosts. There is none: its certificates have no such names,
/// and nobody's server can be named by one.
const NO_HOSTS: &str = "agents.locum.invalid";

/// The CA that issues certificates to agents.
pub struct ClientAuthority {
    issuer: Issuer<'static, P256Key>,
    not_after: SystemTime,
}

/// A certificate for an agent.
#[derive(Debug)]
pub struct ClientIssued {
    /// PEM, one block.
    pub certificate_pem: String,
    /// In lower-case hex, as in audit records.
    pub serial: String,
    /// The SPIFFE id in it.
    pub id: String,
    /// When it ends.
    pub not_after: SystemTime,
}

impl ClientAuthority {
    /// Makes a CA: ECDSA P-256, for ten years, for clients of TLS alone, without CAs below it, and under
    /// name constraints (RFC 5280 section 4.2.1.10) by which it names no host and no address.
    ///
    /// # Errors
    /// [`TlsError::Signing`] or [`TlsError::Library`] when the library has no randomness.
    pub fn generate(now: SystemTime) -> Result<CaMaterial, TlsError> {
        let secret = generate_key()?;
        let key = P256Key::read(&secret)?;
        let mut params = CertificateParams::default();
        let key_id = HEXLOWER.encode(&params.key_identifier(&key));
        let name = format!("Locum agents {}", key_id.get(..8).unwrap_or(&key_id));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(NO_HOSTS.to_owned())],
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
        params.serial_number = Some(random_serial()?);
        params.not_before = (now - super::ca::BACKDATE).into();
        params.not_after = (now + LIFE).into();
        let certificate = params.self_signed(&key)?;
        Ok(CaMaterial { certificate_pem: certificate.pem(), key: secret })
    }

    /// Takes up a CA. `now` must lie within its validity.
    ///
    /// # Errors
    /// As [`CertificateAuthority::load`](super::CertificateAuthority::load).
    pub fn load(certificate_pem: &str, key: &Secret, now: SystemTime) -> Result<Self, TlsError> {
        let der = first_certificate(certificate_pem)?;
        let key = P256Key::read(key)?;
        let certificate = parse(&der)?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(TlsError::KeyMismatch);
        }
        if !may_sign(&certificate) {
            return Err(TlsError::NotAnAuthority);
        }
        let CaInfo { not_before, not_after, .. } = CaInfo::read(certificate_pem)?;
        if now < not_before {
            return Err(TlsError::NotYetValid { not_before });
        }
        if now >= not_after {
            return Err(TlsError::Expired { not_after });
        }
        Ok(Self { issuer: Issuer::from_ca_cert_der(&der, key)?, not_after })
    }

    /// Issues a certificate whose one name is this SPIFFE id, for as long as `ttl` and no
    /// longer than the CA. Of the request (PKCS #10, PEM) the key is taken, and that whoever asks has it is
    /// checked; what else it asks for is not looked at.
    ///
    /// # Errors
    /// [`TlsError::RequestUnreadable`]; [`TlsError::Signing`].
    pub fn issue(
        &self,
        agent: &Name,
        id: &str,
        (now, ttl): (SystemTime, Duration),
        request: &str,
    ) -> Result<ClientIssued, TlsError> {
        let not_after = (now + ttl.min(MAX_TTL)).min(self.not_after);
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, agent.as_str());
        let uri = id.try_into().map_err(TlsError::Signing)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial.clone());
        params.not_before = (now - BACKDATE).into();
        params.not_after = not_after.into();
        let asked = CertificateSigningRequestParams::from_pem(request)
            .map_err(|_| TlsError::RequestUnreadable)?;
        let certificate = params.signed_by(&asked.public_key, &self.issuer)?;
        Ok(ClientIssued {
            certificate_pem: certificate.pem(),
            serial: HEXLOWER.encode(serial.as_ref()),
            id: id.to_owned(),
            not_after,
        })
    }
}

/// A new key, in PEM, and a request for a certificate of it. It asks for no name: who it is for, whoever
/// issues it says.
///
/// # Errors
/// [`TlsError::Signing`] or [`TlsError::Library`] when the library has no randomness.
pub fn request() -> Result<(Secret, String), TlsError> {
    let secret = generate_key()?;
    let key = P256Key::read(&secret)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&key)?.pem()?;
    Ok((pem_of(&secret), request))
}

fn pem_of(key: &Secret) -> Secret {
    let text = key.expose(|der| {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("PRIVATE KEY", der), config)
    });
    Secret::new(text.into_bytes())
}

/// The lists in a PEM file, as a handshake takes them.
pub(super) fn lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Revocations)?;
    if lists.is_empty() { Err(TlsError::Revocations) } else { Ok(lists) }
}

/// What the lists in a PEM file say, for connections whose handshake is over.
///
/// # Errors
/// [`TlsError::Revocations`].
pub fn revocation_lists(pem: &[u8]) -> Result<Vec<RevocationList>, TlsError> {
    let read = |der: &CertificateRevocationListDer<'_>| {
        let (_, list) =
            CertificateRevocationList::from_der(der).map_err(|_| TlsError::Revocations)?;
        let serials: HashSet<Box<str>> = list
            .iter_revoked_certificates()
            .map(|one| canonical_serial(&HEXLOWER.encode(one.raw_serial())).into())
            .collect();
        let until = list.next_update().map(|time| time.timestamp());
        Ok(RevocationList { issuer: list.issuer().as_raw().into(), serials, until })
    };
    lists(pem)?.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::now;
    use x509_parser::prelude::{GeneralName, X509Certificate};

    fn authority() -> ClientAuthority {
        let made = ClientAuthority::generate(now()).unwrap();
        ClientAuthority::load(&made.certificate_pem, &made.key, now()).unwrap()
    }

    fn hour() -> (SystemTime, Duration) {
        (now(), Duration::from_hours(1))
    }

    #[test]
    fn a_certificate_names_one_agent_and_is_for_clients_alone() {
        let agent: Name = "researcher".parse().unwrap();
        let (key, request) = request().unwrap();
        let issued = authority()
            .issue(&agent, "spiffe://prod.example/agent/researcher", hour(), &request)
            .unwrap();
        assert_eq!(issued.id, "spiffe://prod.example/agent/researcher");
        let der = first_certificate(&issued.certificate_pem).unwrap();
        let (_, read) = X509Certificate::from_der(&der).unwrap();
        let names = &read.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names[..], [GeneralName::URI("spiffe://prod.example/agent/researcher")]);
        let usage = read.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any && !read.is_ca());
        assert_eq!(HEXLOWER.encode(read.raw_serial()), issued.serial);
        let own = key.expose(|pem| rcgen::KeyPair::from_pem(std::str::from_utf8(pem).unwrap()));
        assert_eq!(read.public_key().raw, own.unwrap().subject_public_key_info());
        assert!(key.expose(|pem| pem.starts_with(b"-----BEGIN PRIVATE KEY-----\n")));
        let long = (now(), Duration::from_hours(10_000));
        let issued = authority()
            .issue(&agent, "spiffe://prod.example/agent/researcher", long, &request)
            .unwrap();
        assert_eq!(issued.not_after, now() + MAX_TTL);
    }

    #[test]
    fn of_a_request_the_key_is_taken_and_nothing_else() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = CertificateParams::new(vec!["evil.test".to_owned()]).unwrap();
        wanted.distinguished_name.push(DnType::CommonName, "admin");
        wanted.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let request = wanted.serialize_request(&key).unwrap().pem().unwrap();
        let agent: Name = "writer".parse().unwrap();
        let issued =
            authority().issue(&agent, "spiffe://locum/agent/writer", hour(), &request).unwrap();
        let der = first_certificate(&issued.certificate_pem).unwrap();
        let (_, read) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(read.public_key().raw, key.subject_public_key_info());
        let text = format!("{read:?}");
        assert!(!text.contains("evil.test"), "{text}");
        assert_eq!(read.subject().to_string(), "CN=writer");
        assert!(!read.extended_key_usage().unwrap().unwrap().value.server_auth);
        // Somebody else's key, and no request at all.
        let (first, rest) = request.split_at(200);
        let broken =
            format!("{first}{}{}", if rest.starts_with('A') { 'B' } else { 'A' }, &rest[1..]);
        for bad in [&*broken, "", &issued.certificate_pem] {
            let refused = authority().issue(&agent, "spiffe://locum/agent/writer", hour(), bad);
            assert!(matches!(refused, Err(TlsError::RequestUnreadable)), "{bad}");
        }
    }

    #[test]
    fn the_ca_is_for_agents_and_for_its_time() {
        let made = ClientAuthority::generate(now()).unwrap();
        let load = |at| ClientAuthority::load(&made.certificate_pem, &made.key, at).err();
        assert!(matches!(load(now() + LIFE), Some(TlsError::Expired { .. })));
        let early = now() - Duration::from_hours(48);
        assert!(matches!(load(early), Some(TlsError::NotYetValid { .. })));
        let other = ClientAuthority::generate(now()).unwrap();
        let mixed = ClientAuthority::load(&made.certificate_pem, &other.key, now()).err();
        assert_eq!(mixed, Some(TlsError::KeyMismatch));
        let der = first_certificate(&made.certificate_pem).unwrap();
        let (_, read) = X509Certificate::from_der(&der).unwrap();
        let constraints = read.name_constraints().unwrap().unwrap().value;
        assert_eq!(constraints.permitted_subtrees.as_ref().unwrap().len(), 1);
        assert_eq!(constraints.excluded_subtrees.as_ref().unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
            assert_eq!(revocation_lists(text.as_bytes()), Err(TlsError::Revocations));
        }
    }
}
