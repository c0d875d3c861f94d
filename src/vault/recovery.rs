//! Recovery: the master key sealed to a public key, whose private half nobody has whole. It was cut into
//! shares (Shamir's scheme over GF(2^8)) when it was made, and any so many of them give it back.
//!
//! The vault knows the public half alone, so that each new master key can be sealed to it, and whoever
//! has opened the vault once has nothing that opens a later one.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use vsss_rs::Gf256;
use zeroize::Zeroizing;

use super::crypto::{self, Encoder, Key};
use super::error::{Fault, VaultError};
use super::keys::VAULT_ID;
use super::{KeySource, MasterKey, Vault, check_wrapping, items};
use crate::secret::Secret;

/// The sealed item that names the set of shares that is in force.
const ITEM: &str = "recovery";

/// How the text of a share begins: what it is, and the version of its form.
const PREFIX: &str = "lrs1";

/// The bytes of a share: vault id, epoch, set, threshold, number of shares, its place, its part of the
/// key, and a checksum.
const SHARE: usize = VAULT_ID + 8 + SET + 1 + 1 + 1 + 32 + 4;

/// The bytes of a set's id: to tell sets apart, and no secret.
const SET: usize = 4;

/// The most shares: more people than that cannot be asked for them one by one.
pub const MAX_SHARES: u8 = 16;

/// A set of shares that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverySet {
    /// Its id, in hex.
    pub set: String,
    /// How many shares give the key back.
    pub threshold: u8,
    /// How many there are.
    pub shares: u8,
    /// The vault's epoch when it was made.
    pub epoch: u64,
    /// The public key, in hex.
    public: String,
}

/// A master key, sealed to the public key of a set. No secret: it lies beside the vault and in backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryRecord {
    /// Of which vault, in hex.
    pub vault_id: String,
    /// The set whose shares open it.
    #[serde(flatten)]
    pub set: RecoverySet,
    /// The public half of a key that was made for this record alone.
    ephemeral: String,
    /// The master key.
    sealed: String,
}

/// One share, as somebody has kept it.
pub struct Share {
    vault_id: [u8; VAULT_ID],
    set: [u8; SET],
    /// How many give the key back.
    pub threshold: u8,
    /// Which of them it is.
    pub place: u8,
    part: Zeroizing<[u8; 32]>,
}

/// Why a text is no share that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareError {
    /// It is no share, or was mistyped.
    Text,
    /// It is of another vault.
    Vault,
    /// It is of a set that is not in force any more, or not yet.
    Set,
    /// It was given before.
    Twice,
}

impl std::fmt::Display for ShareError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "this is no share, or it was mistyped: its checksum is wrong",
            Self::Vault => "this share is of another vault",
            Self::Set => "this share is of another set: a newer one has taken its place, or an older one is wanted",
            Self::Twice => "this share was given before",
        })
    }
}

impl std::error::Error for ShareError {}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// `Expand(Extract(vault id, X25519(own, other)), label || set || ephemeral || public)`.
fn agreed(own: &PrivateKey, other: [u8; 32], vault_id: &[u8], info: &Encoder) -> Option<Key> {
    agree(own, UnparsedPublicKey::new(&X25519, other), (), |shared| {
        Ok(crypto::expand(&crypto::extract(vault_id, shared), info))
    })
    .ok()
}

fn info(set: &[u8], ephemeral: &[u8], public: &[u8]) -> Encoder {
    Encoder::new("locum/recovery/1/key").bytes(set).bytes(ephemeral).bytes(public)
}

fn place(vault_id: &[u8], set: &[u8]) -> Vec<u8> {
    Encoder::new("locum/recovery/1/master").bytes(vault_id).bytes(set).finish()
}

/// A private key, as bytes and as a key, and its public half.
type Pair = (Zeroizing<[u8; 32]>, PrivateKey, [u8; 32]);

fn pair() -> Result<Pair, Fault> {
    let bytes = crypto::random::<32>()?;
    let private =
        PrivateKey::from_private_key(&X25519, &*bytes).map_err(|_| Fault::NoRandomness)?;
    let public = private.compute_public_key().map_err(|_| Fault::NoRandomness)?;
    let public = public.as_ref().try_into().map_err(|_| Fault::NoRandomness)?;
    Ok((bytes, private, public))
}

impl Vault {
    /// Makes a set of shares, which is not in force before [`Vault::put_in_force`]. What is returned is
    /// all that there is of them.
    ///
    /// # Errors
    /// [`Fault::BadShares`] for numbers that make no sense.
    pub fn make_recovery(
        &self,
        threshold: u8,
        shares: u8,
    ) -> Result<(RecoverySet, Vec<Zeroizing<String>>), VaultError> {
        self.split(threshold, shares).map_err(|fault| self.fault(fault))
    }

    /// Puts a set in the place of the one before: people have its shares.
    ///
    /// # Errors
    /// When the vault cannot be written; the one before is in force still.
    pub fn put_in_force(&mut self, set: &RecoverySet) -> Result<(), VaultError> {
        let item = Secret::new(serde_json::to_vec(set).unwrap_or_default());
        self.seal_item(ITEM, &item)
    }

    fn split(
        &self,
        threshold: u8,
        shares: u8,
    ) -> Result<(RecoverySet, Vec<Zeroizing<String>>), Fault> {
        if threshold < 2 || threshold > shares || shares > MAX_SHARES {
            return Err(Fault::BadShares);
        }
        let (private, _, public) = pair()?;
        let id = *crypto::random::<SET>()?;
        let epoch = self.epoch().map_err(|error| error.fault)? + 1;
        let set = RecoverySet {
            set: HEXLOWER.encode(&id),
            threshold,
            shares,
            epoch,
            public: HEXLOWER.encode(&public),
        };
        let parts = Gf256::split_bytes(
            usize::from(threshold),
            usize::from(shares),
            &private[..],
            rand_core::UnwrapErr(getrandom::SysRng),
        );
        let parts = parts.map_err(|_| Fault::BadShares)?;
        let vault_id = *self.keys.borrow().own.vault_id();
        let write = |part: Vec<u8>| {
            let part = Zeroizing::new(part);
            let mut bytes = Zeroizing::new(Vec::with_capacity(SHARE));
            bytes.extend_from_slice(&vault_id);
            bytes.extend_from_slice(&epoch.to_be_bytes());
            bytes.extend_from_slice(&id);
            bytes.extend_from_slice(&[threshold, shares]);
            bytes.extend_from_slice(&part);
            let sum = crc32fast::hash(&bytes).to_be_bytes();
            bytes.extend_from_slice(&sum);
            spelled(&bytes)
        };
        Ok((set, parts.into_iter().map(write).collect()))
    }

    /// The set of shares that is in force, if one is.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub fn recovery(&self) -> Result<Option<RecoverySet>, VaultError> {
        let item = match self.open_item(ITEM) {
            Err(error) if matches!(error.fault, Fault::Unknown(..)) => return Ok(None),
            other => other?,
        };
        let set = item.expose(|bytes| serde_json::from_slice(bytes).ok());
        set.map(Some).ok_or_else(|| self.fault(items::corrupt(ITEM)))
    }

    /// A master key, sealed to the set that is in force.
    ///
    /// # Errors
    /// As [`Vault::recovery`].
    pub fn recovery_record(
        &self,
        master: &MasterKey,
    ) -> Result<Option<RecoveryRecord>, VaultError> {
        let Some(set) = self.recovery()? else { return Ok(None) };
        let seal = || {
            // Shares that give back a key which another process has replaced would be of no use.
            check_wrapping(&self.db, &self.wrapping)?;
            let corrupt = || items::corrupt(ITEM);
            let vault_id = *self.keys.borrow().own.vault_id();
            let id: [u8; SET] = hex(&set.set).ok_or_else(corrupt)?;
            let public: [u8; 32] = hex(&set.public).ok_or_else(corrupt)?;
            let (_, private, ephemeral) = pair()?;
            let info = info(&id, &ephemeral, &public);
            let key = agreed(&private, public, &vault_id, &info).ok_or_else(corrupt)?;
            let sealed =
                master.expose(|bytes| crypto::seal(&key, &place(&vault_id, &id), bytes))?;
            Ok(RecoveryRecord {
                vault_id: HEXLOWER.encode(&vault_id),
                ephemeral: HEXLOWER.encode(&ephemeral),
                sealed: HEXLOWER.encode(&sealed),
                set: set.clone(),
            })
        };
        seal().map(Some).map_err(|fault: Fault| self.fault(fault))
    }
}

/// In base32, in groups that one can read out.
fn spelled(bytes: &[u8]) -> Zeroizing<String> {
    let plain = Zeroizing::new(BASE32_NOPAD.encode(bytes));
    let mut text = Zeroizing::new(String::with_capacity(plain.len() * 5 / 4 + PREFIX.len() + 8));
    text.push_str(PREFIX);
    for (index, letter) in plain.chars().enumerate() {
        if index % 5 == 0 {
            text.push('-');
        }
        text.push(letter);
    }
    text
}

impl Share {
    /// Reads a share, however its groups are set and whatever its case.
    ///
    /// # Errors
    /// [`ShareError::Text`].
    pub fn read(text: &Secret) -> Result<Self, ShareError> {
        let letters: Zeroizing<String> = text.expose(|text| {
            let text = String::from_utf8_lossy(text);
            let kept = text.chars().filter(|c| !c.is_whitespace() && *c != '-');
            Zeroizing::new(kept.map(|c| c.to_ascii_uppercase()).collect())
        });
        let rest = letters.strip_prefix(&PREFIX.to_ascii_uppercase()).ok_or(ShareError::Text)?;
        let bytes = BASE32_NOPAD.decode(rest.as_bytes()).map_err(|_| ShareError::Text)?;
        let bytes = Zeroizing::new(bytes);
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(ShareError::Text)?;
        if bytes.len() != SHARE || crc32fast::hash(body).to_be_bytes() != *sum {
            return Err(ShareError::Text);
        }
        let part = |from: usize, to: usize| body.get(from..to).unwrap_or_default();
        let after = VAULT_ID + 8;
        let mut own = Zeroizing::new([0; 32]);
        own.copy_from_slice(part(after + SET + 3, body.len()));
        Ok(Self {
            vault_id: part(0, VAULT_ID).try_into().map_err(|_| ShareError::Text)?,
            set: part(after, after + SET).try_into().map_err(|_| ShareError::Text)?,
            threshold: body[after + SET],
            place: body[after + SET + 2],
            part: own,
        })
    }
}

impl RecoveryRecord {
    /// Whether a share is one of those that open this.
    ///
    /// # Errors
    /// Why it is not.
    pub fn takes(&self, share: &Share, others: &[Share]) -> Result<(), ShareError> {
        if Some(share.vault_id) != hex(&self.vault_id) {
            return Err(ShareError::Vault);
        }
        if Some(share.set) != hex(&self.set.set) || share.threshold != self.set.threshold {
            return Err(ShareError::Set);
        }
        if others.iter().any(|other| other.place == share.place) {
            return Err(ShareError::Twice);
        }
        Ok(())
    }

    /// The master key, with enough shares. None when they do not open it.
    #[must_use]
    pub fn open(&self, shares: &[Share], source: &KeySource) -> Option<MasterKey> {
        let parts: Vec<Vec<u8>> =
            shares.iter().map(|share| [&[share.place][..], &share.part[..]].concat()).collect();
        // What is left of the parts is wiped when it is freed, as all of the process's memory is.
        let private = Zeroizing::new(Gf256::combine_bytes(&parts).ok()?);
        let private = PrivateKey::from_private_key(&X25519, &private).ok()?;
        let public = private.compute_public_key().ok()?;
        let vault_id: [u8; VAULT_ID] = hex(&self.vault_id)?;
        let (id, ephemeral) = (hex::<SET>(&self.set.set)?, hex::<32>(&self.ephemeral)?);
        let info = info(&id, &ephemeral, public.as_ref());
        let key = agreed(&private, ephemeral, &vault_id, &info)?;
        let sealed = HEXLOWER.decode(self.sealed.as_bytes()).ok()?;
        let master = crypto::open(&key, &place(&vault_id, &id), &sealed).ok()?;
        master.expose(|bytes| MasterKey::recovered(bytes, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> (tempfile::TempDir, Vault, MasterKey) {
        let home = tempfile::tempdir().unwrap();
        let master = MasterKey::generate().unwrap();
        let vault = Vault::create(&home.path().join("vault.db"), &master).unwrap();
        (home, vault, master)
    }

    fn made(vault: &mut Vault, threshold: u8, shares: u8) -> (RecoverySet, Vec<Zeroizing<String>>) {
        let made = vault.make_recovery(threshold, shares).unwrap();
        vault.put_in_force(&made.0).unwrap();
        made
    }

    fn read(text: &str) -> Share {
        Share::read(&Secret::new(text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn so_many_shares_give_the_key_back_and_fewer_nothing() {
        let (_home, mut vault, master) = scene();
        let (set, texts) = made(&mut vault, 3, 5);
        assert_eq!((set.threshold, set.shares, texts.len()), (3, 5, 5));
        let record = vault.recovery_record(&master).unwrap().unwrap();
        let json = serde_json::to_string(&record).unwrap();
        let record: RecoveryRecord = serde_json::from_str(&json).unwrap();
        let open = |places: &[usize]| {
            let shares: Vec<Share> = places.iter().map(|at| read(&texts[*at])).collect();
            record.open(&shares, &KeySource::File)
        };
        for places in [[0, 1, 2], [4, 2, 0], [1, 3, 4]] {
            let back = open(&places).unwrap();
            assert!(back.expose(|a| master.expose(|b| a == b)), "{places:?}");
        }
        for places in [&[0, 1][..], &[2], &[], &[0, 0, 1]] {
            assert!(open(places).is_none(), "{places:?}");
        }
        // A new set ends the old one, for what is sealed from then on.
        let (next, newer) = vault.make_recovery(2, 2).unwrap();
        assert_eq!(vault.recovery().unwrap(), Some(set), "it has been made, and no more");
        vault.put_in_force(&next).unwrap();
        let next = vault.recovery_record(&master).unwrap().unwrap();
        assert_eq!(next.takes(&read(&texts[0]), &[]), Err(ShareError::Set));
        assert_eq!(next.takes(&read(&newer[0]), &[]), Ok(()));
        assert_eq!(next.takes(&read(&newer[0]), &[read(&newer[0])]), Err(ShareError::Twice));
        let old: Vec<Share> = texts.iter().take(3).map(|text| read(text)).collect();
        assert!(next.open(&old, &KeySource::File).is_none());
    }

    #[test]
    fn a_share_that_was_mistyped_or_is_of_another_vault_is_known_for_it() {
        let (_home, mut vault, _) = scene();
        let (_other_home, mut other, other_master) = scene();
        let (_, texts) = made(&mut vault, 2, 3);
        made(&mut other, 2, 3);
        let text = texts[1].as_str();
        let share = read(text);
        assert_eq!(read(&text.to_lowercase().replace('-', " ")).place, share.place);
        let record = other.recovery_record(&other_master).unwrap().unwrap();
        assert_eq!(record.takes(&share, &[]), Err(ShareError::Vault));
        for at in 0..text.len() {
            let mut odd = text.as_bytes().to_vec();
            if odd[at] == b'-' {
                continue;
            }
            odd[at] = if odd[at] == b'A' { b'B' } else { b'A' };
            assert!(Share::read(&Secret::new(odd)).is_err(), "letter {at}");
            assert!(Share::read(&Secret::new(text.as_bytes()[..at].to_vec())).is_err());
        }
    }

    #[test]
    fn a_key_that_is_not_the_vaults_any_more_is_not_sealed_for_recovery() {
        let (home, mut vault, master) = scene();
        made(&mut vault, 2, 3);
        let next = MasterKey::generate().unwrap();
        let mut other = Vault::open(&home.path().join("vault.db"), &master).unwrap();
        other.rekey(&next).unwrap();
        assert!(matches!(vault.recovery_record(&master).unwrap_err().fault, Fault::WrongKey));
        assert!(other.recovery_record(&next).unwrap().is_some());
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        let (_home, vault, master) = scene();
        for (threshold, shares) in [(0, 0), (1, 1), (1, 3), (3, 2), (2, 17)] {
            assert!(vault.make_recovery(threshold, shares).is_err(), "{threshold} of {shares}");
        }
        assert!(vault.recovery_record(&master).unwrap().is_none());
    }
}
