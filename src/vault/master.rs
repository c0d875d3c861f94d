//! The master key: 32 random bytes in a file of their own, or what Argon2id makes of a passphrase.

use std::fmt;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::crypto::{self, Key};
use super::keys::LockedKey;
use crate::files::{self, FileError};
use crate::secret::Secret;

/// The first line of a key file.
const HEADER: &str = "locum master key 1";
/// No key file is longer.
const FILE_LIMIT: usize = 256;
/// The shortest passphrase, in characters.
pub const MIN_PASSPHRASE: usize = 12;

/// The key that opens a vault. Kept in a page that is not swapped out, where the platform allows.
#[derive(Debug)]
pub struct MasterKey {
    pub(super) key: LockedKey,
    pub(super) passphrase: Option<PassphraseParams>,
}

/// Where a vault's master key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A key file.
    File,
    /// A passphrase, with these parameters.
    Passphrase(PassphraseParams),
}

/// How a passphrase becomes a key: Argon2id, version 0x13 (RFC 9106). Stored in the vault, so that
/// the passphrase alone is enough to open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassphraseParams {
    /// Random, one for each vault.
    pub(super) salt: [u8; 16],
    /// Memory, in KiB.
    pub(super) memory_kib: u32,
    /// Passes over the memory.
    pub(super) passes: u32,
    /// Lanes.
    pub(super) lanes: u32,
}

impl PassphraseParams {
    /// RFC 9106 section 4, second recommended option: 64 MiB, 3 passes, 4 lanes. It is the floor
    /// too: what asks for less was edited to make guessing cheap.
    const FLOOR: (u32, u32) = (64 * 1024, 3);
    /// What asks for more was edited to make opening fail: 4 GiB, 64 passes, 64 lanes.
    const CEILING: (u32, u32, u32) = (4 * 1024 * 1024, 64, 64);

    /// Today's parameters, and a new salt.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyError> {
        let salt = crypto::random().map_err(|_| KeyError::NoRandomness)?;
        let (memory_kib, passes) = Self::FLOOR;
        Ok(Self { salt: *salt, memory_kib, passes, lanes: 4 })
    }

    pub(super) fn check(&self) -> Result<(), KeyError> {
        let weak = self.memory_kib < Self::FLOOR.0 || self.passes < Self::FLOOR.1;
        let absurd = self.memory_kib > Self::CEILING.0
            || self.passes > Self::CEILING.1
            || !(1..=Self::CEILING.2).contains(&self.lanes);
        if weak || absurd {
            return Err(KeyError::Parameters {
                memory_kib: self.memory_kib,
                passes: self.passes,
                lanes: self.lanes,
            });
        }
        Ok(())
    }
}

/// Why there is no master key.
#[derive(Debug)]
pub enum KeyError {
    /// The file is missing, loose, or cannot be read.
    File(FileError),
    /// The file is not a key file.
    NotAKeyFile(PathBuf),
    /// What a program printed is no key.
    NotAKey(PathBuf),
    /// The file is cut off, or a character in it is wrong.
    Checksum(PathBuf),
    /// Who is to unwrap the key is said in a way that this version does not know.
    Wrapper(PathBuf),
    /// All zeros: a disk that lost the file's contents, or a placeholder.
    Zero(PathBuf),
    /// Under [`MIN_PASSPHRASE`] characters, or one character over and over.
    WeakPassphrase,
    /// The vault's Argon2id parameters are below the floor, or beyond reason.
    Parameters {
        /// Memory, in KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// Argon2id could not get its memory.
    NoMemory,
    /// The operating system gave no random bytes.
    NoRandomness,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::NotAKeyFile(path) => write!(
                f,
                "{} is not a master key of Locum; put back the file that `locum init` made",
                path.display()
            ),
            Self::NotAKey(program) => write!(
                f,
                "{} printed no master key: 64 hex digits are one (`openssl rand -hex 32` makes them)",
                program.display()
            ),
            Self::Checksum(path) => write!(
                f,
                "{} is damaged: its checksum is wrong; put back your copy of it",
                path.display()
            ),
            Self::Wrapper(path) => write!(
                f,
                "{} is unwrapped by somebody that this version does not know; use the version that wrote it",
                path.display()
            ),
            Self::Zero(path) => write!(
                f,
                "{} holds a key of all zeros, which protects nothing; put back your copy of it",
                path.display()
            ),
            Self::WeakPassphrase => write!(
                f,
                "the passphrase needs at least {MIN_PASSPHRASE} characters, and more than one kind \
                 of them; four random words do well"
            ),
            Self::Parameters { memory_kib, passes, lanes } => write!(
                f,
                "the vault asks for Argon2id with {memory_kib} KiB, {passes} passes and {lanes} \
                 lanes, outside of what Locum writes ({} KiB and {} passes at least): it was edited",
                PassphraseParams::FLOOR.0,
                PassphraseParams::FLOOR.1
            ),
            Self::NoMemory => {
                f.write_str("there is not enough memory to derive the key (Argon2id)")
            }
            Self::NoRandomness => f.write_str("the operating system gave no random bytes"),
        }
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => std::error::Error::source(error),
            _ => None,
        }
    }
}

impl From<FileError> for KeyError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl MasterKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyError> {
        let key = crypto::random().map_err(|_| KeyError::NoRandomness)?;
        Ok(Self::new(&key, None))
    }

    fn new(key: &Key, passphrase: Option<PassphraseParams>) -> Self {
        Self { key: LockedKey::new(key), passphrase }
    }

    /// Derives the key from a passphrase, which is taken byte for byte. Takes about a tenth of a
    /// second and 64 MiB.
    ///
    /// # Errors
    /// [`KeyError`] when the passphrase is weak, or the parameters are not what Locum writes.
    pub fn from_passphrase(
        passphrase: &Secret,
        params: PassphraseParams,
    ) -> Result<Self, KeyError> {
        params.check()?;
        passphrase.expose(check_passphrase)?;
        let cost = Params::new(params.memory_kib, params.passes, params.lanes, Some(32))
            .map_err(|_| KeyError::NoMemory)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost);
        let mut key = Key::default();
        passphrase
            .expose(|bytes| argon2.hash_password_into(bytes, &params.salt, &mut *key))
            .map_err(|_| KeyError::NoMemory)?;
        Ok(Self::new(&key, Some(params)))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyError`] when the file is missing, loose, or not a whole key file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = files::read_private(path, FILE_LIMIT)?;
        let key = parse_key_file(&text, path)?;
        Ok(Self::new(&key, None))
    }

    /// The key of a key file.
    pub(super) fn of_file(key: &Key) -> Self {
        Self::new(key, None)
    }

    /// The key that somebody has unwrapped; none for what is no key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Key::default();
        if bytes.len() != key.len() || bytes.iter().all(|byte| *byte == 0) {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self::new(&key, None))
    }

    /// The same, of a vault whose key comes from there otherwise.
    #[must_use]
    pub fn recovered(bytes: &[u8], source: &KeySource) -> Option<Self> {
        let master = Self::from_bytes(bytes)?;
        let passphrase = match source {
            KeySource::File => None,
            KeySource::Passphrase(params) => Some(params.clone()),
        };
        Some(Self { passphrase, ..master })
    }

    /// The same key once more.
    pub(crate) fn again(&self) -> Self {
        self.expose(|key| {
            let mut copy = Key::default();
            copy.copy_from_slice(key);
            Self::new(&copy, self.passphrase.clone())
        })
    }

    /// Shows the key to whoever wraps it.
    pub(crate) fn expose<R>(&self, show: impl FnOnce(&[u8; 32]) -> R) -> R {
        show(self.key.bytes())
    }

    /// Reads the key from what a program printed: a key file's text, or 64 hex digits alone.
    /// `origin` is what errors name.
    ///
    /// # Errors
    /// [`KeyError`] when it is neither.
    pub fn from_text(text: &[u8], origin: &Path) -> Result<Self, KeyError> {
        if let Some(key) = decode_hex::<32>(Some(text.trim_ascii())) {
            if key.iter().all(|b| *b == 0) {
                return Err(KeyError::Zero(origin.to_owned()));
            }
            return Ok(Self::new(&key, None));
        }
        match parse_key_file(text, origin) {
            Ok(key) => Ok(Self::new(&key, None)),
            Err(KeyError::NotAKeyFile(origin)) => Err(KeyError::NotAKey(origin)),
            Err(other) => Err(other),
        }
    }

    /// Writes the key to a new file of mode 0600.
    ///
    /// # Errors
    /// [`FileError::Exists`] when there is a file, and never over it: a lost master key is a lost
    /// vault. Others when it cannot be written.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyError> {
        let mut text = Zeroizing::new(String::with_capacity(FILE_LIMIT));
        text.push_str(HEADER);
        text.push('\n');
        HEXLOWER.encode_append(self.key.bytes(), &mut text);
        text.push('\n');
        HEXLOWER.encode_append(&checksum(self.key.bytes()), &mut text);
        text.push('\n');
        Ok(files::create_private(path, text.as_bytes())?)
    }

    /// Whether the operating system keeps the key out of the swap.
    #[must_use]
    pub fn is_locked_in_memory(&self) -> bool {
        self.key.is_locked()
    }
}

/// Not a measure of strength, which nobody can take from one passphrase; it stops what is certainly
/// weak.
fn check_passphrase(bytes: &[u8]) -> Result<(), KeyError> {
    let characters = std::str::from_utf8(bytes).map_or(bytes.len(), |text| text.chars().count());
    let distinct = bytes.iter().collect::<std::collections::HashSet<_>>().len();
    if characters >= MIN_PASSPHRASE && distinct > 4 {
        Ok(())
    } else {
        Err(KeyError::WeakPassphrase)
    }
}

/// CRC-32 (IEEE), big endian: tells a cut-off or mistyped file from a wrong key.
fn checksum(key: &[u8; 32]) -> [u8; 4] {
    crc32fast::hash(key).to_be_bytes()
}

pub(super) fn parse_key_file(text: &[u8], path: &Path) -> Result<Key, KeyError> {
    let mut lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    if lines.next() != Some(HEADER.as_bytes()) {
        return Err(KeyError::NotAKeyFile(path.to_owned()));
    }
    let damaged = || KeyError::Checksum(path.to_owned());
    let key: Key = decode_hex(lines.next()).ok_or_else(damaged)?;
    let sum: Zeroizing<[u8; 4]> = decode_hex(lines.next()).ok_or_else(damaged)?;
    if *sum != checksum(&key) || lines.any(|rest| !rest.is_empty()) {
        return Err(damaged());
    }
    if key.iter().all(|b| *b == 0) {
        return Err(KeyError::Zero(path.to_owned()));
    }
    Ok(key)
}

/// Decodes into a buffer that is wiped, whatever comes of it.
fn decode_hex<const N: usize>(text: Option<&[u8]>) -> Option<Zeroizing<[u8; N]>> {
    let text = text?;
    let mut bytes = Zeroizing::new([0; N]);
    if HEXLOWER.decode_len(text.len()).ok()? != N {
        return None;
    }
    HEXLOWER.decode_mut(text, &mut *bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    fn saved() -> (tempfile::TempDir, PathBuf, MasterKey) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("master.key");
        let master = MasterKey::generate().unwrap();
        master.save_new(&path).unwrap();
        (home, path, master)
    }

    #[test]
    fn a_key_file_reads_back_and_is_never_replaced() {
        let (_home, path, master) = saved();
        let loaded = MasterKey::load(&path).unwrap();
        assert_eq!(loaded.key.bytes(), master.key.bytes());
        let again = MasterKey::generate().unwrap().save_new(&path);
        assert!(matches!(again, Err(KeyError::File(FileError::Exists(_)))));
        // As an editor may leave it.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace('\n', "\r\n")).unwrap();
        assert_eq!(MasterKey::load(&path).unwrap().key.bytes(), master.key.bytes());
    }

    #[test]
    fn a_cut_or_edited_key_file_is_known_for_one() {
        let (_home, path, _) = saved();
        let text = fs::read(&path).unwrap();
        for length in 0..text.len() - 1 {
            fs::write(&path, &text[..length]).unwrap();
            let error = MasterKey::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::NotAKeyFile(_) | KeyError::Checksum(_)), "{length}");
        }
        for at in 0..text.len() - 1 {
            let mut edited = text.clone();
            edited[at] = if edited[at] == b'0' { b'1' } else { b'0' };
            fs::write(&path, &edited).unwrap();
            let error = MasterKey::load(&path).unwrap_err();
            assert!(!error.to_string().contains(std::str::from_utf8(&text[19..40]).unwrap()));
        }
        fs::write(&path, [text.as_slice(), b"more\n"].concat()).unwrap();
        assert!(matches!(MasterKey::load(&path), Err(KeyError::Checksum(_))));
    }

    #[test]
    fn a_printed_key_is_a_key_file_or_its_digits() {
        let (_home, path, master) = saved();
        let (text, from) = (fs::read(&path).unwrap(), Path::new("/bin/print"));
        let digits = HEXLOWER.encode(master.key.bytes());
        for printed in [text.as_slice(), digits.as_bytes(), format!(" {digits}\n\n").as_bytes()] {
            let read = MasterKey::from_text(printed, from).unwrap();
            assert_eq!(read.key.bytes(), master.key.bytes());
        }
        for wrong in ["", "hello", &digits[1..], &format!("{digits}00")] {
            let error = MasterKey::from_text(wrong.as_bytes(), from).unwrap_err();
            assert!(error.to_string().contains("/bin/print printed no"), "{error}");
            assert!(!error.to_string().contains(&digits[1..32]));
        }
        let zeros = "0".repeat(64);
        assert!(matches!(MasterKey::from_text(zeros.as_bytes(), from), Err(KeyError::Zero(_))));
    }

    #[test]
    fn a_key_of_zeros_is_refused() {
        let (_home, path, _) = saved();
        let sum = HEXLOWER.encode(&checksum(&[0; 32]));
        fs::write(&path, format!("{HEADER}\n{}\n{sum}\n", "0".repeat(64))).unwrap();
        assert!(matches!(MasterKey::load(&path), Err(KeyError::Zero(_))));
    }

    #[test]
    fn weak_passphrases_are_refused_before_any_work() {
        let params = PassphraseParams::generate().unwrap();
        for weak in ["", "short", "elevenchars", "aaaaaaaaaaaaaaaaaaaaaaaa", "abababababababab"] {
            let weak = Secret::new(weak.as_bytes().to_vec());
            let error = MasterKey::from_passphrase(&weak, params.clone()).unwrap_err();
            assert!(matches!(error, KeyError::WeakPassphrase));
        }
    }

    #[test]
    fn parameters_below_the_floor_or_beyond_reason_are_refused() {
        let good = PassphraseParams::generate().unwrap();
        good.check().unwrap();
        let edits: [fn(&mut PassphraseParams); 7] = [
            |p| p.memory_kib = 64 * 1024 - 1,
            |p| p.passes = 2,
            |p| p.lanes = 0,
            |p| p.memory_kib = u32::MAX,
            |p| p.passes = u32::MAX,
            |p| p.lanes = 65,
            |p| (p.memory_kib, p.passes) = (8, 1),
        ];
        for edit in edits {
            let mut params = good.clone();
            edit(&mut params);
            assert!(matches!(params.check(), Err(KeyError::Parameters { .. })), "{params:?}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let master = MasterKey::generate().unwrap();
        assert_eq!(format!("{master:?}"), "MasterKey { key: LockedKey(..), passphrase: None }");
    }
}
