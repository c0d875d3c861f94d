//! Which run uses which version of a credential: a run finishes with the version that it began with,
//! for as long as that may be used.
//!
//! A run is known by a keyed hash in a table of fixed size, one cache line for each place. A look-up
//! takes no lock and allocates nothing, and a request without a run costs nothing here. When a place is
//! full, the run is forgotten that was not seen for longest; it then goes on with the current version.

use std::hash::Hasher as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

use crate::agent::{Identity, qualified};
use crate::credential::Credential;
use crate::policy::Permit;

/// Runs that share a cache line: 64 bytes of 8.
const WAYS: usize = 8;

/// How many there are: 65,536 pairs of a run and a credential in 512 KiB, which are set aside with the
/// first run that is named.
const PLACES: usize = 1 << 13;

/// What the bytes of a saved table begin with. Another version of Locum may see runs otherwise.
const MAGIC: &[u8; 8] = b"lcmruns1";

/// The runs that were seen.
#[derive(Debug, Default)]
pub(super) struct Runs(OnceLock<Table>);

#[derive(Debug)]
struct Table {
    /// Of the hash. Random, so that nobody makes runs that meet.
    key: [u8; 16],
    seen: Box<[AtomicU64]>,
}

/// A run and a credential, in one word that is read and written as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// 32 bits of the hash; 13 others say where it stands. Never 0.
    tag: u32,
    /// The low bits of the version. Those that may be used are few and near one another.
    version: u16,
    /// The low bits of the minute in which it was last seen.
    minute: u16,
}

impl Seen {
    fn read(word: u64) -> Option<Self> {
        // Cut into its parts.
        #[allow(clippy::cast_possible_truncation)]
        let seen =
            Self { tag: (word >> 32) as u32, version: (word >> 16) as u16, minute: word as u16 };
        (word != 0).then_some(seen)
    }

    fn word(self) -> u64 {
        u64::from(self.tag) << 32 | u64::from(self.version) << 16 | u64::from(self.minute)
    }
}

impl Runs {
    /// Has a permit inject what the run of its request began with, and notes with what others begin.
    pub(super) fn settle(&self, who: &Identity, permit: &mut Permit, at: i64) {
        let Some(run) = &who.context.run else { return };
        if permit.grants().is_empty() {
            return;
        }
        let table = self.0.get_or_init(Table::new);
        permit.choose_versions(at, |grant| {
            let credential = grant.credential();
            // Of the default workspace as it was when there was one: what was saved then is known again.
            let agent = qualified(who.workspace.as_str(), who.agent.as_str());
            table.version([&*agent, run.as_str(), credential.name.as_str()], credential, at)
        });
    }

    /// What a later process is to know, if there is anything.
    pub(super) fn save(&self) -> Option<Vec<u8>> {
        let table = self.0.get()?;
        let mut bytes = [&MAGIC[..], &table.key].concat();
        for (place, seen) in table.seen.iter().enumerate() {
            let word = seen.load(Ordering::Relaxed);
            if word != 0 {
                bytes.extend_from_slice(&u32::try_from(place).unwrap_or(u32::MAX).to_le_bytes());
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        Some(bytes)
    }

    /// Knows again what an earlier process knew. False for bytes that are not of [`Runs::save`], and
    /// when runs were seen already.
    pub(super) fn recall(&self, bytes: &[u8]) -> bool {
        let Some(table) = Table::of(bytes) else { return false };
        self.0.set(table).is_ok()
    }
}

impl Table {
    fn new() -> Self {
        let mut key = [0; 16];
        // Without randomness runs could be made to meet, and lose each other their versions.
        let _as_good_as_can_be = getrandom::fill(&mut key);
        Self::with(key)
    }

    fn with(key: [u8; 16]) -> Self {
        Self { key, seen: (0..PLACES * WAYS).map(|_| AtomicU64::new(0)).collect() }
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (key, entries) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<16>()?;
        let table = Self::with(*key);
        let (entries, rest) = entries.as_chunks::<12>();
        for entry in entries {
            let (place, word) = entry.split_first_chunk::<4>()?;
            let seen = table.seen.get(usize::try_from(u32::from_le_bytes(*place)).ok()?)?;
            seen.store(u64::from_le_bytes(word.try_into().ok()?), Ordering::Relaxed);
        }
        rest.is_empty().then_some(table)
    }

    fn hash(&self, names: [&str; 3]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        for name in names {
            hasher.write(name.as_bytes());
            // In no name and no label: two lists of names are never the same bytes.
            hasher.write_u8(0);
        }
        hasher.finish()
    }

    /// The version for this run, which is from now on the one that it began with.
    fn version(&self, names: [&str; 3], credential: &Credential, at: i64) -> Option<u32> {
        let hash = self.hash(names);
        #[allow(clippy::cast_possible_truncation)] // Cut into its parts.
        let (tag, place) = ((hash >> 32) as u32 | 1, hash as usize % PLACES * WAYS);
        let ways = self.seen.get(place..place + WAYS)?;
        let minute = minute(at);
        let current = credential.version?;
        // The one that is found, or else the emptiest, and how long ago that was seen.
        let mut way = (ways.first()?, u16::MAX);
        for (nth, one) in ways.iter().enumerate() {
            let seen = Seen::read(one.load(Ordering::Relaxed));
            let age = match seen {
                Some(seen) if seen.tag == tag => {
                    return Some(again(one, seen, credential, (at, minute), current));
                }
                Some(seen) => minute.wrapping_sub(seen.minute),
                None => u16::MAX,
            };
            if nth == 0 || age > way.1 {
                way = (one, age);
            }
        }
        let seen = Seen { tag, version: low(current), minute };
        way.0.store(seen.word(), Ordering::Relaxed);
        Some(current)
    }
}

/// The version of a run that was seen before.
fn again(
    one: &AtomicU64,
    seen: Seen,
    credential: &Credential,
    (at, minute): (i64, u16),
    current: u32,
) -> u32 {
    let older = credential.older.iter().find(|older| low(older.version) == seen.version);
    let version = match older.filter(|older| older.until >= at) {
        Some(older) if low(current) != seen.version => older.version,
        _ => current,
    };
    // A request that began before a rotation knows nothing of the version of a run that began after it, and must not
    // take that back. (Which is the current one says nothing: that may be an older one again.)
    let newer = seen.version.wrapping_sub(low(credential.newest));
    let is_newer = newer != 0 && newer < u16::MAX / 2;
    let now = Seen { version: low(version), minute, ..seen };
    if now != seen && !is_newer {
        one.store(now.word(), Ordering::Relaxed);
    }
    version
}

#[allow(clippy::cast_possible_truncation)] // As `Seen` says.
fn low(version: u32) -> u16 {
    version as u16
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // As `Seen` says.
fn minute(at: i64) -> u16 {
    (at / 60) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Older;
    use crate::policy::tests::credential;

    const NOW: i64 = 1_800_000_000;

    fn at_version(current: u32, older: &[(u32, i64)]) -> Credential {
        let older = older.iter().map(|(version, until)| Older { version: *version, until: *until });
        let new = credential("main", &["https://api.test"], &["query key"]);
        Credential { version: Some(current), older: older.collect(), newest: current, ..new }
    }

    fn version(table: &Table, run: &str, credential: &Credential, at: i64) -> u32 {
        table.version(["agent", run, "main"], credential, at).unwrap()
    }

    #[test]
    fn a_run_finishes_with_what_it_began_with_and_no_longer_than_the_grace() {
        let table = Table::new();
        let (first, second) = (at_version(1, &[]), at_version(2, &[(1, NOW + 60)]));
        assert_eq!(version(&table, "early", &first, NOW), 1);
        assert_eq!(version(&table, "early", &second, NOW), 1);
        assert_eq!(version(&table, "late", &second, NOW), 2);
        assert_eq!(version(&table, "early", &second, NOW + 60), 1);
        assert_eq!(version(&table, "early", &second, NOW + 61), 2);
        // Once moved on, it does not go back, whatever the clock says.
        assert_eq!(version(&table, "early", &second, NOW), 2);
        // Another agent's run of the same name is another run.
        assert_eq!(table.version(["other", "early", "main"], &second, NOW), Some(2));
    }

    #[test]
    fn a_run_keeps_its_version_over_several_rotations() {
        let table = Table::new();
        let third = at_version(3, &[(1, NOW + 60), (2, NOW + 60)]);
        assert_eq!(version(&table, "one", &at_version(1, &[]), NOW), 1);
        assert_eq!(version(&table, "two", &at_version(2, &[(1, NOW + 60)]), NOW), 2);
        let all = ["one", "two", "three"].map(|run| version(&table, run, &third, NOW));
        assert_eq!(all, [1, 2, 3]);
        // A grace of none, and a version that was revoked in its grace, are the same here.
        assert_eq!(version(&table, "one", &at_version(4, &[]), NOW), 4);
    }

    #[test]
    fn a_run_that_went_back_with_its_credential_finishes_with_what_it_went_back_to() {
        let table = Table::new();
        let back = Credential { newest: 2, ..at_version(1, &[(2, NOW + 60)]) };
        assert_eq!(version(&table, "run", &at_version(2, &[]), NOW), 2);
        assert_eq!(version(&table, "run", &back, NOW), 2);
        // Its grace is over, and then there is a third.
        assert_eq!(version(&table, "run", &back, NOW + 61), 1);
        let third = at_version(3, &[(1, NOW + 120)]);
        assert_eq!(version(&table, "run", &third, NOW + 62), 1);
        assert_eq!(version(&table, "run", &third, NOW + 121), 3);
    }

    #[test]
    fn a_request_that_is_late_does_not_take_its_run_back() {
        let table = Table::new();
        let (first, second) = (at_version(1, &[]), at_version(2, &[(1, NOW + 60)]));
        assert_eq!(version(&table, "late", &second, NOW), 2);
        assert_eq!(version(&table, "late", &first, NOW), 1, "decided before the rotation");
        assert_eq!(version(&table, "late", &second, NOW), 2);
    }

    #[test]
    fn memory_is_bounded_and_those_not_seen_for_longest_are_forgotten() {
        let table = Table::new();
        let (first, second) = (at_version(1, &[]), at_version(2, &[(1, NOW + 100_000)]));
        for run in 0..PLACES * WAYS * 2 {
            version(&table, &format!("old{run}"), &first, NOW);
        }
        // Seen since, so the old ones make room for it; and there is room for a third of all.
        let new: Vec<String> = (0..PLACES * WAYS / 3).map(|run| format!("new{run}")).collect();
        for run in &new {
            version(&table, run, &first, NOW + 600);
        }
        let kept = new.iter().filter(|run| version(&table, run, &second, NOW + 600) == 1).count();
        assert!(kept * 100 > new.len() * 99, "{kept} of {}", new.len());
    }

    #[test]
    fn what_was_saved_is_known_again() {
        let runs = Runs::default();
        assert_eq!(runs.save(), None);
        let table = runs.0.get_or_init(Table::new);
        for run in 0..100 {
            version(table, &format!("{run}"), &at_version(7, &[]), NOW);
        }
        let bytes = runs.save().unwrap();
        let again = Runs::default();
        assert!(again.recall(&bytes));
        assert!(!again.recall(&bytes), "runs have been seen");
        let second = at_version(8, &[(7, NOW)]);
        let table = again.0.get().unwrap();
        assert!((0..100).all(|run| version(table, &format!("{run}"), &second, NOW) == 7));
        assert_eq!(version(table, "100", &second, NOW), 8);
        for cut in [0, 7, 20, bytes.len() - 1] {
            assert!(!Runs::default().recall(&bytes[..cut]), "{cut}");
        }
    }
}
