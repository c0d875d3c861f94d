//! The CA of a home: its key and certificate in the vault, its certificate in two files.

use std::time::SystemTime;

use super::init::write_certificates;
use super::open::{CA_CERTIFICATE_ITEM, CA_KEY_ITEM, Opened, ca_certificate};
use super::{Failure, Home};
use crate::secret::Secret;
use crate::tls::{CaInfo, CertificateAuthority};
use crate::vault::Vault;

impl Opened {
    /// The CA's certificate as the vault has it, PEM; also of a CA that has expired.
    ///
    /// # Errors
    /// When the vault has none.
    pub fn certificate(&self) -> Result<String, Failure> {
        ca_certificate(&self.vault)
    }

    /// Makes a new CA in the place of the one there, and writes `ca.pem` and `ca-bundle.pem` anew.
    /// A proxy that runs goes on with the old one until it is started again.
    ///
    /// # Errors
    /// When the vault or the files cannot be written. After `kill -9` the vault has the old CA or the
    /// new one, and the files are put right by the next start.
    pub fn rotate_authority(&mut self) -> Result<CaInfo, Failure> {
        make(&mut self.vault)?;
        self.changed()?;
        write_certificates(self)?;
        Ok(CaInfo::read(&self.certificate()?)?)
    }
}

/// Whether `ca.pem` is the certificate that the vault has. Programs that read another one will not
/// trust the proxy.
#[must_use]
pub fn is_published(home: &Home, certificate: &str) -> bool {
    std::fs::read(home.ca()).is_ok_and(|there| there == certificate.as_bytes())
}

/// Makes a CA if the vault has none; false when it has one.
pub(super) fn make_missing(vault: &mut Vault) -> Result<bool, Failure> {
    if vault.open_item(CA_KEY_ITEM).is_ok() && vault.open_item(CA_CERTIFICATE_ITEM).is_ok() {
        return Ok(false);
    }
    make(vault)?;
    Ok(true)
}

/// Key and certificate in one change: one without the other would be no CA.
fn make(vault: &mut Vault) -> Result<(), Failure> {
    let material = CertificateAuthority::generate(SystemTime::now())?;
    let certificate = Secret::new(material.certificate_pem.into_bytes());
    let items = [(CA_CERTIFICATE_ITEM, &certificate), (CA_KEY_ITEM, &material.key)];
    Ok(vault.seal_items(&items)?)
}
