//! A secret value: readable only inside a closure of this crate, and wiped when it goes.
//!
//! The type has no `Clone`, `Display`, `Serialize`, `PartialEq` or `Deref`, so that a secret cannot
//! be copied, printed, stored or compared by accident:
//!
//! ```compile_fail
//! let secret = locum::secret::Secret::new(b"value".to_vec());
//! let copy = secret.clone();
//! ```
//! ```compile_fail
//! let secret = locum::secret::Secret::new(b"value".to_vec());
//! println!("{secret}");
//! ```
//! ```compile_fail
//! let secret = locum::secret::Secret::new(b"value".to_vec());
//! let same = secret == locum::secret::Secret::new(b"value".to_vec());
//! ```
//! ```compile_fail
//! let secret = locum::secret::Secret::new(b"value".to_vec());
//! let text = serde_json::to_string(&secret);
//! ```
//! ```compile_fail
//! let secret = locum::secret::Secret::new(b"value".to_vec());
//! let bytes: &[u8] = &secret;
//! ```
//! ```compile_fail,E0624
//! let secret = locum::secret::Secret::new(b"value".to_vec());
//! secret.expose(|bytes| bytes.len());
//! ```

use std::fmt;

use zeroize::Zeroizing;

/// The plaintext of one version of a credential, or a key. Wiped on drop.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of the bytes. The caller's buffer becomes the secret's own, so nothing is
    /// left behind to wipe.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Lends the bytes to `f`. The only way to read a secret, and only this crate has it.
    pub(crate) fn expose<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(&self.0)
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Overwrites `bytes`, though nobody reads them after. Eight bytes of `Zeroize` are eight stores; this
/// is one call of `memset`, which matters where it is done for each request.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // The compiler has to believe that the zeros are looked at.
    zeroize::optimization_barrier(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_value() {
        let secret = Secret::new(b"sk-canary".to_vec());
        let shown = format!("{secret:?} {:?}", Some(&secret));
        assert!(!shown.contains("canary"), "{shown}");
        assert!(!shown.contains('9'), "not even the length: {shown}");
    }

    #[test]
    fn expose_lends_the_bytes() {
        assert_eq!(Secret::new(b"abc".to_vec()).expose(<[u8]>::len), 3);
    }
}
