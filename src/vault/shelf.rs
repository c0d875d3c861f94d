//! Secrets that live in this process alone, and are sealed there too: tokens that were minted, values
//! that other vaults keep. Under a key that is made at the start and written nowhere.

use std::fmt;

use super::crypto::{self, Encoder};
use super::error::Fault;
use super::keys::LockedKey;
use crate::outcome::{Code, Refusal};
use crate::secret::Secret;

/// Seals and opens them.
pub struct Shelf {
    key: LockedKey,
}

/// A secret as it lies on a [`Shelf`].
pub struct Shelved {
    place: Box<[u8]>,
    ciphertext: Box<[u8]>,
}

impl Shelf {
    /// A shelf with a key of its own.
    ///
    /// # Errors
    /// [`Fault::NoRandomness`].
    pub fn new() -> Result<Self, Fault> {
        Ok(Self { key: LockedKey::new(&crypto::random::<32>()?) })
    }

    /// Puts a secret on the shelf, under the name of whom it belongs to: under another it does not
    /// open.
    ///
    /// # Errors
    /// `internal-error` when the system has no randomness.
    pub fn put(&self, owner: &str, secret: &Secret) -> Result<Shelved, Refusal> {
        let place = Encoder::new("locum/shelf/1").text(owner).finish();
        let sealed = secret.expose(|bytes| crypto::seal(self.key.bytes(), &place, bytes));
        let ciphertext = sealed.map_err(|_| Refusal::new(Code::Internal))?;
        Ok(Shelved { place: place.into(), ciphertext: ciphertext.into() })
    }

    /// Opens what was put here.
    ///
    /// # Errors
    /// `internal-error` for what was put on another shelf, or was changed in memory.
    pub fn open(&self, shelved: &Shelved) -> Result<Secret, Refusal> {
        crypto::open(self.key.bytes(), &shelved.place, &shelved.ciphertext)
            .map_err(|crypto::DoesNotOpen| Refusal::new(Code::Internal))
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shelf(..)")
    }
}

impl fmt::Debug for Shelved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shelved(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_there_is_sealed_and_opens_on_its_own_shelf_alone() {
        let shelf = Shelf::new().unwrap();
        let token = Secret::new(b"at-canary".to_vec());
        let shelved = shelf.put("google", &token).unwrap();
        assert!(!shelved.ciphertext.windows(9).any(|w| w == b"at-canary"));
        assert_eq!(shelf.open(&shelved).unwrap().expose(<[u8]>::to_vec), b"at-canary");
        assert_eq!(Shelf::new().unwrap().open(&shelved).unwrap_err().code, Code::Internal);
        let other = Shelved { place: b"another".to_vec().into(), ..shelved };
        assert!(shelf.open(&other).is_err());
    }
}
