//! A backup: the whole vault as it is at one moment, sealed under the master key, names included.
//!
//! Two lines say what opens it; the rest is the database in pieces, each sealed for its place in this
//! one file, so that none can be changed, left out, put elsewhere or taken from another backup.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::crypto::{self, DoesNotOpen, Encoder, Key, NONCE, TAG};
use super::error::{Fault, VaultError};
use super::keys::{VaultId, WrappingKey};
use super::{
    KeySource, MasterKey, PassphraseParams, RecoveryRecord, Vault, VaultRow, journal, schema,
};
use crate::files::{self, FileError, Temporary};

/// The first line.
const TITLE: &str = "locum vault backup 1\n";
/// The most bytes of the second line.
const HEADER_LIMIT: u64 = 4096;
/// What is sealed in one piece: little enough to hold in memory twice.
const PIECE: usize = 64 * 1024;

/// The second line: what is known before there is a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    vault_id: String,
    epoch: u64,
    salt: String,
    key_check: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    passphrase: Option<Stretch>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    recovery: Option<RecoveryRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stretch {
    salt: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// A sealed backup, not opened yet.
#[derive(Debug)]
pub struct Backup {
    path: Arc<Path>,
    header: Header,
    /// Of the first two lines.
    digest: [u8; 32],
    vault_id: VaultId,
    salt: [u8; 16],
}

impl Vault {
    /// Copies the vault, as it is at this moment, to a new file of mode 0600 that only the master key
    /// of this moment opens. Every seal, MAC and line of the copy has been checked when this returns,
    /// and that the file opens to that copy.
    ///
    /// # Errors
    /// [`FileError::Exists`] when there is a file; others when it cannot be written, or something of
    /// the vault is not as it should be.
    pub fn backup(&self, to: &Path) -> Result<(), VaultError> {
        self.backup_with(to, None)
    }

    /// The same, with the master key sealed for recovery in it.
    ///
    /// # Errors
    /// As [`Vault::backup`].
    pub fn backup_with(
        &self,
        to: &Path,
        recovery: Option<RecoveryRecord>,
    ) -> Result<(), VaultError> {
        let make = || {
            if to.symlink_metadata().is_ok() {
                return Err(FileError::Exists(to.to_owned()).into());
            }
            files::sweep_temporaries(&self.path);
            let plain = self.plain_copy()?;
            self.check_copy(plain.path())?;
            let sealed = Temporary::beside(&schema::resolve(to)?)?;
            let written = self.seal_copy(plain.path(), sealed.path(), recovery)?;
            let opened =
                Backup::read(sealed.path())?.map(|b| b.open_into(&self.wrapping, io::sink()));
            if opened.transpose()? != Some(written) {
                return Err(Fault::BadBackup);
            }
            Ok(sealed.publish_as_new(to)?)
        };
        make().map_err(|fault| self.fault(fault))
    }

    /// The same, as the database itself: its names can be read by whoever has it.
    ///
    /// # Errors
    /// As [`Vault::backup`].
    pub fn backup_plain(&self, to: &Path) -> Result<(), VaultError> {
        let make = || {
            let copy = self.copy_beside(&schema::resolve(to)?)?;
            self.check_copy(copy.path())?;
            Ok(copy.publish_as_new(to)?)
        };
        make().map_err(|fault: Fault| self.fault(fault))
    }

    /// A copy of the database beside the vault, where it is no less safe.
    fn plain_copy(&self) -> Result<Temporary, Fault> {
        self.copy_beside(&schema::resolve(&self.path)?)
    }

    fn copy_beside(&self, place: &Path) -> Result<Temporary, Fault> {
        let copy = Temporary::beside(place)?;
        let name = copy.path().to_str().ok_or_else(|| {
            FileError::Io(place.to_owned(), io::ErrorKind::InvalidFilename.into())
        })?;
        self.db.execute("VACUUM INTO ?1", [name])?;
        Ok(copy)
    }

    /// Whether all of a copy is whole: the state, every seal, and every line of the journal.
    fn check_copy(&self, copy: &Path) -> Result<(), Fault> {
        let db = schema::connect(copy)?;
        let keys = self.check_state(&db)?;
        self.find_corrupt_row(&db)?;
        journal::verify(&db, &keys.own)?;
        db.close().map_err(|(_, error)| error)?;
        Ok(())
    }

    /// Seals the copy `from` into the file `to`. Returns the hash of what was sealed.
    fn seal_copy(
        &self,
        from: &Path,
        to: &Path,
        recovery: Option<RecoveryRecord>,
    ) -> Result<[u8; 32], Fault> {
        let db = schema::connect(from)?;
        let (row, epoch) = (VaultRow::read(&db)?, journal::head(&db)?.epoch.cast_unsigned());
        db.close().map_err(|(_, error)| error)?;
        let salt = crypto::random::<16>()?;
        let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
        let header = Header {
            vault_id: hex(&row.vault_id),
            epoch,
            salt: hex(&*salt),
            key_check: hex(self.wrapping.check()),
            passphrase: row.passphrase.map(|p| Stretch {
                salt: hex(&p.salt),
                memory_kib: p.memory_kib,
                passes: p.passes,
                lanes: p.lanes,
            }),
            recovery,
        };
        let lines = format!("{TITLE}{}\n", serde_json::json!(header));
        let place = Place { lines: Sha256::digest(lines.as_bytes()).into() };
        let key = self.wrapping.backup_key(&salt);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| Fault::from(FileError::Io(path.clone(), error))
        };
        let plain = File::open(from).map_err(failed(from))?;
        let file = fs::OpenOptions::new().write(true).open(to).map_err(failed(to))?;
        let mut file = BufWriter::new(file);
        file.write_all(lines.as_bytes()).map_err(failed(to))?;
        let hash = in_pieces(plain, PIECE, failed(from), |index, last, piece| {
            let sealed = crypto::seal(&key, &place.of(index, last), piece)?;
            file.write_all(&sealed).map_err(failed(to))
        })?;
        file.flush().map_err(failed(to))?;
        Ok(hash)
    }
}

/// Where a piece belongs.
struct Place {
    /// The hash of the lines before the first.
    lines: [u8; 32],
}

impl Place {
    fn of(&self, index: i64, last: bool) -> Vec<u8> {
        Encoder::new("locum/backup/1/piece")
            .bytes(&self.lines)
            .int(index)
            .int(i64::from(last))
            .finish()
    }
}

/// Reads all of `from` in pieces of `size` bytes, the last one as long as it is, and the hash of all.
fn in_pieces(
    mut from: impl io::Read,
    size: usize,
    failed: impl Fn(io::Error) -> Fault,
    mut take: impl FnMut(i64, bool, &[u8]) -> Result<(), Fault>,
) -> Result<[u8; 32], Fault> {
    let mut hash = Sha256::new();
    let read = |from: &mut dyn io::Read| {
        let mut piece = Vec::with_capacity(size);
        from.take(size as u64).read_to_end(&mut piece).map(|_| piece)
    };
    let mut piece = read(&mut from).map_err(&failed)?;
    for index in 0.. {
        let next = read(&mut from).map_err(&failed)?;
        hash.update(&piece);
        take(index, next.is_empty(), &piece)?;
        if next.is_empty() {
            break;
        }
        piece = next;
    }
    Ok(hash.finalize().into())
}

impl Backup {
    /// What the file says of itself; none when it is something else than a sealed backup.
    ///
    /// # Errors
    /// [`Fault::BadBackup`] when it is one that cannot be read.
    pub fn at(path: &Path) -> Result<Option<Self>, VaultError> {
        Self::read(path).map_err(|fault| fault.at(&path.into()))
    }

    fn read(path: &Path) -> Result<Option<Self>, Fault> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Fault::from(FileError::Missing(path.to_owned())),
            _ => FileError::Io(path.to_owned(), error).into(),
        };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let mut lines = Vec::new();
        let title = TITLE.len() as u64;
        (&mut file).take(title).read_to_end(&mut lines).map_err(failed)?;
        if lines != TITLE.as_bytes() {
            return Ok(None);
        }
        file.take(HEADER_LIMIT).read_until(b'\n', &mut lines).map_err(failed)?;
        let line = lines.get(TITLE.len()..).unwrap_or_default();
        let header: Header = serde_json::from_slice(line).map_err(|_| Fault::BadBackup)?;
        Ok(Some(Self {
            path: path.into(),
            digest: Sha256::digest(&lines).into(),
            vault_id: bytes(&header.vault_id)?,
            salt: bytes(&header.salt)?,
            header,
        }))
    }

    /// What its master key comes from.
    ///
    /// # Errors
    /// [`Fault::BadBackup`].
    pub fn key_source(&self) -> Result<KeySource, VaultError> {
        let source = || match &self.header.passphrase {
            None => Ok(KeySource::File),
            Some(stretch) => Ok(KeySource::Passphrase(PassphraseParams {
                salt: bytes(&stretch.salt)?,
                memory_kib: stretch.memory_kib,
                passes: stretch.passes,
                lanes: stretch.lanes,
            })),
        };
        source().map_err(|fault: Fault| fault.at(&self.path))
    }

    /// Which vault it is of, in hex.
    #[must_use]
    pub fn vault_id(&self) -> String {
        HEXLOWER.encode(&self.vault_id)
    }

    /// The master key that opens it, sealed for recovery, if there were shares.
    #[must_use]
    pub fn recovery(&self) -> Option<&RecoveryRecord> {
        self.header.recovery.as_ref()
    }

    /// Whether this is its master key.
    #[must_use]
    pub fn fits(&self, master: &MasterKey) -> bool {
        let wrapping = WrappingKey::derive(self.vault_id, &master.key);
        bytes::<32>(&self.header.key_check)
            .is_ok_and(|check| crypto::same(&check, wrapping.check()))
    }

    /// Opens it into a file of its own beside `place`, which is then a vault.
    ///
    /// # Errors
    /// [`Fault::WrongKey`], or [`Fault::BadBackup`] when a piece is not what was sealed, and there.
    pub fn unseal(&self, master: &MasterKey, place: &Path) -> Result<Temporary, VaultError> {
        let unseal = || {
            let copy = Temporary::beside(&schema::resolve(place)?)?;
            let at = copy.path().to_owned();
            let failed = |error| Fault::from(FileError::Io(at.clone(), error));
            let file = fs::OpenOptions::new().write(true).open(&at).map_err(failed)?;
            self.open_into(&WrappingKey::derive(self.vault_id, &master.key), file)?;
            Ok(copy)
        };
        unseal().map_err(|fault: Fault| fault.at(&self.path))
    }

    /// Writes what was sealed, and returns its hash.
    fn open_into(&self, wrapping: &WrappingKey, mut to: impl io::Write) -> Result<[u8; 32], Fault> {
        let check: [u8; 32] = bytes(&self.header.key_check)?;
        if !crypto::same(&check, wrapping.check()) {
            return Err(Fault::WrongKey);
        }
        let (key, place) = (self.key(wrapping), Place { lines: self.digest });
        let failed = |error| Fault::from(FileError::Io(self.path.to_path_buf(), error));
        let mut file = BufReader::new(File::open(&self.path).map_err(failed)?);
        for _ in 0..2 {
            file.skip_until(b'\n').map_err(failed)?;
        }
        let mut hash = Sha256::new();
        in_pieces(file, NONCE + PIECE + TAG, failed, |index, last, sealed| {
            let piece = crypto::open(&key, &place.of(index, last), sealed)
                .map_err(|DoesNotOpen| Fault::BadBackup)?;
            piece.expose(|bytes| {
                hash.update(bytes);
                to.write_all(bytes).map_err(failed)
            })
        })?;
        to.flush().map_err(failed)?;
        Ok(hash.finalize().into())
    }

    fn key(&self, wrapping: &WrappingKey) -> Key {
        wrapping.backup_key(&self.salt)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }
}

fn bytes<const N: usize>(hex: &str) -> Result<[u8; N], Fault> {
    let decoded = HEXLOWER.decode(hex.as_bytes()).ok();
    decoded.and_then(|bytes| bytes.try_into().ok()).ok_or(Fault::BadBackup)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        home: tempfile::TempDir,
        vault: Vault,
        master: MasterKey,
    }

    impl Scene {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let master = MasterKey::generate().unwrap();
            let path = home.path().join("vault.db");
            let mut vault = Vault::create(&path, &master).unwrap();
            vault.agent_add(&"very-telling-name".parse().unwrap()).unwrap();
            // More than one piece.
            for n in 0..3 {
                vault
                    .seal_item(&format!("i{n}"), &crate::secret::Secret::new(vec![7; 90_000]))
                    .unwrap();
            }
            Self { home, vault, master }
        }

        fn backup(&self) -> PathBuf {
            let path = self.home.path().join("backup");
            self.vault.backup(&path).unwrap();
            path
        }

        fn unseal(&self, path: &Path) -> Result<Temporary, VaultError> {
            let place = self.home.path().join("back.db");
            Backup::at(path)?.expect("a sealed backup").unseal(&self.master, &place)
        }
    }

    #[test]
    fn a_backup_opens_to_the_vault_and_shows_no_name() {
        let scene = Scene::new();
        let path = scene.backup();
        let text = fs::read(&path).unwrap();
        assert!(text.len() > 4 * PIECE, "{}", text.len());
        assert!(memchr::memmem::find(&text, b"very-telling-name").is_none());
        let copy = scene.unseal(&path).unwrap();
        let vault = Vault::open(copy.path(), &scene.master).unwrap();
        vault.verify().unwrap();
        assert_eq!(vault.epoch().unwrap(), scene.vault.epoch().unwrap());
        assert!(matches!(scene.vault.backup(&path).unwrap_err().fault, Fault::File(_)));
        let left = fs::read_dir(scene.home.path()).unwrap().count();
        drop((vault, copy));
        assert!(fs::read_dir(scene.home.path()).unwrap().count() < left, "nothing is left over");
        assert!(Backup::at(scene.vault.path()).unwrap().is_none());
    }

    #[test]
    fn no_changed_cut_or_reordered_backup_opens() {
        let scene = Scene::new();
        let path = scene.backup();
        let text = fs::read(&path).unwrap();
        let begin = text.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
        let sealed = NONCE + PIECE + TAG;
        let mut swapped = text.clone();
        let (one, two) = swapped[begin..].split_at_mut(sealed);
        one.swap_with_slice(&mut two[..sealed]);
        let left_out = [&text[..begin], &text[begin + sealed..]].concat();
        let twice = [&text[..], &text[begin..]].concat();
        let mut wrong = vec![swapped, left_out, twice, text[..begin + sealed].to_vec()];
        wrong.push(text[..text.len() - 1].to_vec());
        wrong.push(text[..begin].to_vec());
        for at in (0..text.len()).step_by(3571).chain(TITLE.len()..begin - 1) {
            let mut edited = text.clone();
            edited[at] ^= 1;
            wrong.push(edited);
        }
        for (n, bytes) in wrong.into_iter().enumerate() {
            fs::write(&path, bytes).unwrap();
            let opened = match Backup::at(&path) {
                Ok(None) => continue, // Its first line.
                Ok(Some(_)) => scene.unseal(&path).map(|_| ()),
                Err(error) => Err(error),
            };
            let fault = opened.unwrap_err().fault;
            assert!(matches!(fault, Fault::BadBackup | Fault::WrongKey), "{n}: {fault:?}");
        }
    }

    #[test]
    fn only_its_own_key_opens_a_backup() {
        let mut scene = Scene::new();
        let path = scene.backup();
        scene.master = MasterKey::generate().unwrap();
        assert!(matches!(scene.unseal(&path).unwrap_err().fault, Fault::WrongKey));
        // And a vault that got another key since it was opened here makes none.
        let own = MasterKey::generate().unwrap();
        let mut other = Scene::new();
        let mut same = Vault::open(other.vault.path(), &other.master).unwrap();
        same.rekey(&own).unwrap();
        let stale = other.home.path().join("stale");
        assert!(matches!(other.vault.backup(&stale).unwrap_err().fault, Fault::WrongKey));
        assert!(!stale.exists());
        other.master = own;
        same.backup(&stale).unwrap();
        other.unseal(&stale).unwrap();
    }

    #[test]
    fn a_vault_that_is_not_whole_is_not_backed_up() {
        let scene = Scene::new();
        let db = rusqlite::Connection::open(scene.vault.path()).unwrap();
        db.execute("UPDATE items SET sealed = zeroblob(60) WHERE name = 'i1'", []).unwrap();
        let path = scene.home.path().join("backup");
        assert!(scene.vault.backup(&path).is_err() && !path.exists());
        assert!(scene.vault.backup_plain(&path).is_err() && !path.exists());
    }
}
