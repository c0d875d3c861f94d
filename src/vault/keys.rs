//! The key hierarchy: the master key wraps data keys, and data keys are what all others are derived
//! from. Only keys that live as long as the process are here; the others live on the stack.

use std::fmt;

use zeroize::Zeroize as _;

use super::crypto::{self, DoesNotOpen, Encoder, Key};
use super::error::Fault;
use crate::inject::{Digest, DigestKey};
use crate::secret::Secret;
use crate::token::TokenKey;
use crate::token::run::RunKey;

/// Bytes of a vault's id.
pub(super) const VAULT_ID: usize = 16;
/// Names the vault, and salts every derivation: no two vaults have a key in common.
pub(super) type VaultId = [u8; VAULT_ID];

/// A page of its own: locking and unlocking works on whole pages, and the lock of a neighbour must
/// not go with ours. 16 KiB is the page of Apple's processors, and a multiple of most others'.
#[repr(align(16384))]
struct Page([u8; 32]);

/// A 256-bit key in memory that is not swapped out, where the platform allows, and wiped on drop.
pub(super) struct LockedKey {
    // Dropped before the page: unlock, then free.
    lock: Option<region::LockGuard>,
    page: Box<Page>,
}

impl LockedKey {
    /// Copies the key; the caller's copy wipes itself.
    pub(super) fn new(key: &Key) -> Self {
        let mut page = Box::new(Page([0; 32]));
        // Fails where RLIMIT_MEMLOCK is used up; the key is then as swappable as all else.
        let lock = region::lock(page.0.as_ptr(), page.0.len()).ok();
        page.0.copy_from_slice(&**key);
        Self { lock, page }
    }

    /// The key.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.page.0
    }

    /// Whether the platform keeps it out of the swap.
    pub(super) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }
}

impl Drop for LockedKey {
    fn drop(&mut self) {
        self.page.0.zeroize();
    }
}

impl fmt::Debug for LockedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedKey(..)")
    }
}

/// What the master key is for: wrapping data keys, and knowing itself again.
pub(super) struct WrappingKey {
    vault_id: VaultId,
    prk: LockedKey,
    key: LockedKey,
    check: [u8; 32],
}

impl WrappingKey {
    /// `HKDF[salt = vault id](master key, info)`, once for wrapping and once for the key check.
    pub(super) fn derive(vault_id: VaultId, master: &LockedKey) -> Self {
        let prk = crypto::extract(&vault_id, master.bytes());
        let wrap = crypto::expand(&prk, &Encoder::new("locum/vault/1/key/wrap"));
        let check = crypto::expand(&prk, &Encoder::new("locum/vault/1/key/check"));
        Self { vault_id, prk: LockedKey::new(&prk), key: LockedKey::new(&wrap), check: *check }
    }

    /// What one backup is sealed with.
    pub(super) fn backup_key(&self, salt: &[u8; 16]) -> Key {
        crypto::expand(self.prk.bytes(), &Encoder::new("locum/backup/1/key").bytes(salt))
    }

    /// Stored in the clear, to tell a wrong master key from a damaged vault.
    pub(super) fn check(&self) -> &[u8; 32] {
        &self.check
    }

    fn aad(&self, scope: &str) -> Vec<u8> {
        Encoder::new("locum/vault/1/wrap").bytes(&self.vault_id).text(scope).finish()
    }

    /// A new data key for `scope`, wrapped.
    pub(super) fn mint(&self, scope: &str) -> Result<Vec<u8>, Fault> {
        let data_key = crypto::random::<32>()?;
        crypto::seal(self.key.bytes(), &self.aad(scope), &*data_key)
    }

    /// The data key that was wrapped for `scope`.
    pub(super) fn unwrap(&self, scope: &str, sealed: &[u8]) -> Result<DataKey, DoesNotOpen> {
        let data_key = crypto::open(self.key.bytes(), &self.aad(scope), sealed)?;
        Ok(DataKey::new(self.vault_id, &data_key))
    }

    /// The same data key, wrapped by another master key.
    pub(super) fn rewrap(&self, to: &Self, scope: &str, sealed: &[u8]) -> Result<Vec<u8>, Fault> {
        let data_key = crypto::open(self.key.bytes(), &self.aad(scope), sealed)
            .map_err(|DoesNotOpen| Fault::Corrupt(super::Row::DataKey(scope.to_owned())))?;
        data_key.expose(|bytes| crypto::seal(to.key.bytes(), &to.aad(scope), bytes))
    }
}

/// The key of a workspace, or of the vault as a whole, from which each other key is derived:
/// `HKDF[salt = vault id](data key, info)`. Kept as the extracted half.
pub(super) struct DataKey {
    vault_id: VaultId,
    prk: LockedKey,
}

impl DataKey {
    fn new(vault_id: VaultId, data_key: &Secret) -> Self {
        let prk = data_key.expose(|bytes| crypto::extract(&vault_id, bytes));
        Self { vault_id, prk: LockedKey::new(&prk) }
    }

    /// Whether the platform keeps it out of the swap.
    pub(super) fn is_locked(&self) -> bool {
        self.prk.is_locked()
    }

    pub(super) fn vault_id(&self) -> &VaultId {
        &self.vault_id
    }

    pub(super) fn derive(&self, info: &Encoder) -> Key {
        crypto::expand(self.prk.bytes(), info)
    }

    /// The key of one version of one credential: it seals one plaintext, once.
    pub(super) fn record_key(&self, credential: i64, version: u32) -> Key {
        let info = Encoder::new("locum/vault/1/key/record").int(credential).int(version.into());
        self.derive(&info)
    }

    /// What tokens are hashed with.
    pub(super) fn token_key(&self) -> TokenKey {
        TokenKey::new(self.derive(&Encoder::new("locum/vault/1/key/token")))
    }

    /// What run tokens are signed with.
    pub(super) fn run_key(&self) -> RunKey {
        RunKey::new(self.derive(&Encoder::new("locum/vault/1/key/run-token")))
    }

    /// `HMAC[fingerprint key](label || secret)`, the first eight bytes. Equal secrets of a workspace
    /// show equal fingerprints; without the key nobody can try guesses against them.
    pub(super) fn fingerprint(&self, secret: &Secret) -> Digest {
        secret.expose(|bytes| self.digest_key().digest(bytes))
    }

    /// What fingerprints are made with.
    pub(super) fn digest_key(&self) -> DigestKey {
        digest_key(&self.derive(&Encoder::new("locum/vault/1/key/fingerprint")))
    }
}

/// What fingerprints are made with, by the key that is derived for them.
pub(super) fn digest_key(key: &Key) -> DigestKey {
    DigestKey::new(key, &Encoder::new("locum/vault/1/fingerprint").finish())
}
