//! The head file: where the log ends, under a MAC, so that a tail that was cut off is missed.
//!
//! 200 bytes, written in place after each record, integers big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `LOCUMAH1` |
//! | 8..24 | log id |
//! | 24..64 | base: number and MAC of the record before the first one that is kept |
//! | 64..104 | synced: number and MAC of the last record known to be on the disk |
//! | 104..120 | the machine's boot id when it was written; zeros where there is none |
//! | 120..121 | 1 when the log was closed in order, else 0 |
//! | 121..128 | zeros |
//! | 128..168 | last: number and MAC of the last record |
//! | 168..200 | HMAC-SHA256(Kh, bytes 0..168) |

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::chain::{Anchor, Keys, LogId, Tag};
use super::files;

/// The length of the head file.
pub(super) const LENGTH: usize = 200;
const MAGIC: &[u8; 8] = b"LOCUMAH1";
const SIGNED: usize = LENGTH - 32;

/// What the head file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) log: LogId,
    pub(super) base: Anchor,
    pub(super) synced: Anchor,
    pub(super) boot: [u8; 16],
    pub(super) closed: bool,
    pub(super) last: Anchor,
}

/// The head file as it was found.
pub(super) enum Stored {
    Absent,
    /// Not of this form, or not under this key.
    Invalid,
    Valid(Head),
}

impl Head {
    /// The head of a log without records.
    pub(super) fn new(keys: &Keys, log: LogId) -> Self {
        let genesis = Anchor { seq: 0, mac: keys.genesis(&log) };
        let boot = boot_id();
        Self { log, base: genesis, synced: genesis, boot, closed: false, last: genesis }
    }

    /// Whether the machine went down under the log: another boot, and no orderly end.
    pub(super) fn machine_crashed(&self) -> bool {
        let now = boot_id();
        !self.closed && self.boot != now && self.boot != [0; 16] && now != [0; 16]
    }

    pub(super) fn encode(&self, keys: &Keys) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let mut rest = bytes.as_mut_slice();
        for part in [
            MAGIC.as_slice(),
            &self.log,
            &self.base.seq.to_be_bytes(),
            &self.base.mac,
            &self.synced.seq.to_be_bytes(),
            &self.synced.mac,
            &self.boot,
            &[u8::from(self.closed), 0, 0, 0, 0, 0, 0, 0],
            &self.last.seq.to_be_bytes(),
            &self.last.mac,
        ] {
            // Invariant: the parts are 168 bytes together.
            let (field, after) = rest.split_at_mut(part.len());
            field.copy_from_slice(part);
            rest = after;
        }
        let (signed, mac) = bytes.split_at_mut(SIGNED);
        mac.copy_from_slice(&keys.head(signed));
        bytes
    }

    pub(super) fn decode(keys: &Keys, bytes: &[u8]) -> Option<Self> {
        let (signed, mac) = bytes.split_at_checked(SIGNED)?;
        (keys.head(signed) == *mac).then_some(())?;
        let mut fields = Fields(signed);
        (fields.take::<8>()? == *MAGIC).then_some(())?;
        let log = fields.take()?;
        let (base, synced) = (fields.anchor()?, fields.anchor()?);
        let boot = fields.take()?;
        let closed = fields.take::<8>()?.first() == Some(&1);
        let last = fields.anchor()?;
        Some(Self { log, base, synced, boot, closed, last })
    }

    /// Reads the head of a directory. A writer may be at work: a read that meets a write is tried
    /// again.
    pub(super) fn read(dir: &Path, keys: &Keys) -> io::Result<Stored> {
        for _ in 0..READ_TRIES {
            let bytes = match files::open_plain(&dir.join(files::HEAD)) {
                Ok(file) => read_all(&file)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Stored::Absent),
                Err(e) => return Err(e),
            };
            if let Some(head) = Self::decode(keys, &bytes) {
                return Ok(Stored::Valid(head));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(Stored::Invalid)
    }

    /// Makes the head file anew, whole or not at all.
    pub(super) fn create(&self, dir: &Path, keys: &Keys) -> io::Result<File> {
        let temporary = dir.join(files::HEAD_NEW);
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = files::create(&temporary, files::Mode::InPlace)?;
        file.write_all_at(&self.encode(keys), 0)?;
        file.sync_all()?;
        std::fs::rename(&temporary, dir.join(files::HEAD))?;
        Ok(file)
    }
}

/// How often an unreadable head is read again; a write in place takes microseconds.
const READ_TRIES: u32 = 5;

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    // One byte more than it may have: a longer file is no head.
    let mut bytes = vec![0; LENGTH + 1];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn anchor(&mut self) -> Option<Anchor> {
        let seq = u64::from_be_bytes(self.take()?);
        let mac: Tag = self.take()?;
        Some(Anchor { seq, mac })
    }
}

/// Linux's name for this boot of the machine; zeros where there is none.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hex: String = text.trim().split('-').collect();
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
    bytes.ok().and_then(|b| b.try_into().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn every_byte_of_the_head_counts() {
        let keys = Keys::new(&Secret::new(vec![1; 32])).unwrap();
        let mut head = Head::new(&keys, [9; 16]);
        head.last = Anchor { seq: 77, mac: [3; 32] };
        head.closed = true;
        let good = head.encode(&keys);
        assert_eq!(Head::decode(&keys, &good), Some(head));
        for at in 0..LENGTH {
            let mut bad = good;
            bad[at] ^= 0x20;
            assert_eq!(Head::decode(&keys, &bad), None, "byte {at}");
        }
        assert_eq!(Head::decode(&keys, &good[..LENGTH - 1]), None);
        assert_eq!(Head::decode(&keys, &[&good[..], b"x"].concat()), None);
        let other = Keys::new(&Secret::new(vec![2; 32])).unwrap();
        assert_eq!(Head::decode(&other, &good), None);
    }

    /// The vector of `docs/AUDIT_FORMAT.md`.
    #[test]
    fn vector() {
        let keys = Keys::new(&Secret::new((0..32).collect())).unwrap();
        let log: LogId = std::array::from_fn(|i| u8::try_from(i).unwrap() + 0xa0);
        let mac = "a9ceffe538edd9b90dd0a0a4e51a88453c97b1d9ba3fb7f3b40f210b6d85742e";
        let mut head = Head::new(&keys, log);
        head.boot = [0; 16];
        head.last = format!("1:{mac}").parse().unwrap();
        let bytes = head.encode(&keys);
        let expected = "25826c83500afd2c16db7eea83f71840662963ecdd126d65e8d4f954e9e261bb";
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes[SIGNED..]), expected);
    }
}
