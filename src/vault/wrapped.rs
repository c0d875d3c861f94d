//! A key file that holds the master key wrapped by a key of somebody else's, which never leaves them.
//!
//! The file says itself who can unwrap it and how they know us, so that it takes the place of a plain
//! key file, and is followed by another, in the same steps.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::MasterKey;
use super::master::{KeyError, parse_key_file};
use crate::credential::{Endpoint, VaultLogin};
use crate::files;

/// The first line of such a file.
const HEADER: &str = "locum wrapped master key 1";

/// No such file is longer: a ciphertext of KMS has 6 KiB at most, and the rest is names.
const LIMIT: usize = 16 * 1024;

/// Who unwraps the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Wrapper {
    /// A transit key of `OpenBao` or `HashiCorp` Vault.
    Transit {
        /// Where it listens.
        url: Endpoint,
        /// Where the engine is mounted.
        mount: String,
        /// The key's name.
        key: String,
        /// How it knows us.
        login: VaultLogin,
        /// The private file with what the login asks for beside that: the `secret_id`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret_file: Option<String>,
        /// `X-Vault-Namespace`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
    /// A key of AWS KMS.
    Kms {
        /// Where it listens.
        url: Endpoint,
        /// The region that calls are signed for.
        region: String,
        /// Its ARN. Before it has wrapped anything, also its id or alias.
        key: String,
        /// How it knows us.
        login: KmsLogin,
    },
}

/// How KMS knows us, before there is a vault that has a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum KmsLogin {
    /// By a key of AWS in a private file.
    File {
        /// Its whole path.
        path: String,
    },
    /// By the key in the environment.
    Environment,
    /// By the token of a workload.
    WebIdentity,
    /// By what the metadata service gives the machine.
    Instance,
}

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transit { url, mount, key, .. } => {
                write!(f, "the transit key {mount}/{key} at {}", url.origin())
            }
            Self::Kms { url, key, .. } => write!(f, "the KMS key {key} at {}", url.origin()),
        }
    }
}

/// A wrapped key, and who unwraps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Who.
    pub wrapper: Wrapper,
    /// What they have made of the key, in a form of their own: printable ASCII.
    pub ciphertext: String,
}

/// What a key file holds.
#[derive(Debug)]
pub enum KeyFile {
    /// The key itself.
    Plain(MasterKey),
    /// The key wrapped.
    Wrapped(Box<WrappedKey>),
}

impl KeyFile {
    /// Reads a key file of either form.
    ///
    /// # Errors
    /// [`KeyError`] when the file is missing, loose, or not a whole key file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = files::read_private(path, LIMIT)?;
        match text.strip_prefix(HEADER.as_bytes()) {
            Some(rest) => Ok(Self::Wrapped(Box::new(parse(rest, path)?))),
            None => Ok(Self::Plain(MasterKey::of_file(&parse_key_file(&text, path)?))),
        }
    }
}

fn parse(rest: &[u8], path: &Path) -> Result<WrappedKey, KeyError> {
    let damaged = || KeyError::Checksum(path.to_owned());
    let text = std::str::from_utf8(rest).map_err(|_| damaged())?;
    let mut lines = text.lines().skip(1).map(str::trim_ascii_end);
    let (wrapper, ciphertext) = (lines.next(), lines.next());
    let (wrapper, ciphertext) = wrapper.zip(ciphertext).ok_or_else(damaged)?;
    let sum = lines.next().ok_or_else(damaged)?;
    if sum != checksum(wrapper, ciphertext) || lines.any(|line| !line.is_empty()) {
        return Err(damaged());
    }
    let wrapper = serde_json::from_str(wrapper).map_err(|_| KeyError::Wrapper(path.to_owned()))?;
    Ok(WrappedKey { wrapper, ciphertext: ciphertext.to_owned() })
}

fn checksum(wrapper: &str, ciphertext: &str) -> String {
    format!("{:08x}", crc32fast::hash(format!("{wrapper}\n{ciphertext}\n").as_bytes()))
}

impl WrappedKey {
    /// Writes a new key file of mode 0600.
    ///
    /// # Errors
    /// As [`MasterKey::save_new`].
    ///
    /// # Panics
    /// Never: the wrapper is texts.
    #[allow(clippy::missing_panics_doc)]
    pub fn save_new(&self, path: &Path) -> Result<(), KeyError> {
        let wrapper = serde_json::to_string(&self.wrapper).expect("texts are JSON");
        let sum = checksum(&wrapper, &self.ciphertext);
        let text = Zeroizing::new(format!("{HEADER}\n{wrapper}\n{}\n{sum}\n", self.ciphertext));
        Ok(files::create_private(path, text.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_wrapped_key_reads_back_and_a_damaged_one_is_known_for_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("master.key");
        let wrapped = WrappedKey {
            wrapper: Wrapper::Kms {
                url: "https://kms.eu-west-1.amazonaws.com/".parse().unwrap(),
                region: "eu-west-1".into(),
                key: "alias/locum".into(),
                login: KmsLogin::Instance,
            },
            ciphertext: "AQICAHh+/=".into(),
        };
        wrapped.save_new(&path).unwrap();
        let KeyFile::Wrapped(read) = KeyFile::load(&path).unwrap() else { panic!("it is wrapped") };
        assert_eq!(*read, wrapped);
        assert!(matches!(wrapped.save_new(&path), Err(KeyError::File(_))), "never over another");
        let text = fs::read(&path).unwrap();
        for at in 0..text.len() - 1 {
            let mut edited = text.clone();
            edited[at] = if edited[at] == b'0' { b'1' } else { b'0' };
            fs::write(&path, &edited).unwrap();
            assert!(KeyFile::load(&path).is_err(), "byte {at}");
            fs::write(&path, &text[..at]).unwrap();
            assert!(KeyFile::load(&path).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_plain_key_file_is_one_still() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("master.key");
        MasterKey::generate().unwrap().save_new(&path).unwrap();
        assert!(matches!(KeyFile::load(&path).unwrap(), KeyFile::Plain(_)));
    }
}
