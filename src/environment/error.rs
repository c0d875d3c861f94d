//! Why no environment could be planned.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Why no environment could be planned. Paths and names are told, values never.
#[derive(Debug)]
pub enum EnvironmentError {
    /// A path in a variable must not depend on the directory of the child.
    RelativePath {
        /// As it was given.
        path: PathBuf,
    },
    /// A path has a character for which a client's syntax has no way of writing it.
    UnusablePath {
        /// As it was given.
        path: PathBuf,
        /// The syntax: a variable or a kind of file.
        within: &'static str,
    },
    /// The port without authentication would be open to other machines.
    NotLoopback {
        /// As it was given.
        address: SocketAddr,
    },
    /// A credential names a variable that no shell would take.
    Name {
        /// As it was given.
        name: String,
    },
    /// A credential names a variable that Locum itself sets or removes.
    Reserved {
        /// As it was given.
        name: String,
    },
    /// A value is empty or has a character that is not visible ASCII.
    Value {
        /// The variable that was to have it.
        name: String,
    },
    /// A value is not UTF-8, which the lines of `locum env` have to be.
    NotUtf8 {
        /// The variable that has it.
        name: String,
    },
    /// The PEM text of our own CA holds no certificate.
    NoOwnCertificate,
    /// The Java trust store could not be built.
    TrustStore(p12_keystore::error::Error),
}

impl EnvironmentError {
    pub(super) fn unusable(path: &Path, within: &'static str) -> Self {
        Self::UnusablePath { path: path.to_owned(), within }
    }
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RelativePath { path } => {
                write!(
                    f,
                    "the path {} must be absolute: a child may change its directory",
                    path.display()
                )
            }
            Self::UnusablePath { path, within } => write!(
                f,
                "the path {:?} has a character that cannot be written in {within}; \
                 choose another --home",
                path.to_string_lossy()
            ),
            Self::NotLoopback { address } => {
                write!(
                    f,
                    "the proxy port without authentication must be on loopback, not {address}"
                )
            }
            Self::Name { name } => write!(
                f,
                "{name:?} cannot be the name of a variable: \
                 use letters, digits and _, not a digit first"
            ),
            Self::Reserved { name } => write!(
                f,
                "a credential cannot have the variable {name}, which Locum sets or removes itself"
            ),
            Self::Value { name } => {
                write!(
                    f,
                    "the value for {name} must be visible ASCII, without spaces, and not empty"
                )
            }
            Self::NotUtf8 { name } => write!(
                f,
                "the value of {name} is not UTF-8, so it cannot be printed for a shell; \
                 use locum run"
            ),
            Self::NoOwnCertificate => f.write_str("the CA file holds no certificate"),
            Self::TrustStore(_) => f.write_str("cannot build the Java trust store"),
        }
    }
}

impl Error for EnvironmentError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TrustStore(source) => Some(source),
            _ => None,
        }
    }
}
