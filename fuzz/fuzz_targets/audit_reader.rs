//! The audit reader: whatever stands in the files, verify and query end; nobody's log verifies under a key
//! that did not write it; and of the frozen log of the tests no change is missed.
#![cfg_attr(fuzzing, no_main)]

use std::fs;
use std::path::Path;

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::audit::{Filter, Report, query, tail, verify};
use locum::secret::Secret;

/// Name and content of a file of the frozen log.
macro_rules! frozen {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../tests/vectors/audit-1/", $name)))
    };
}

const FROZEN: [(&str, &[u8]); 4] = [
    frozen!("audit-00000000000000000001.jsonl"),
    frozen!("audit-00000000000000000005.jsonl"),
    frozen!("audit-00000000000000000009.jsonl"),
    frozen!("head"),
];

// The first byte says which of the two.
fuzz_target!(|data: &[u8]| {
    let dir =
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    match data.split_first() {
        Some((b'c', changes)) => changed(dir.path(), changes),
        Some((_, text)) => foreign(dir.path(), text),
        None => {}
    }
});

/// A log of whatever text, and a head.
fn foreign(dir: &Path, text: &[u8]) {
    let (log, head) = text.split_at(text.len() / 2);
    fs::write(dir.join(FROZEN[0].0), log).expect("a file");
    fs::write(dir.join("head"), head).expect("a file");
    if let Some(report) = read(dir) {
        assert!(!report.ok || report.records == 0, "a forged log verifies");
    }
}

/// The frozen log, changed: each piece of up to six bytes says in which file, where, how many bytes go, and which
/// come in their place.
fn changed(dir: &Path, changes: &[u8]) {
    let mut files = FROZEN.map(|(_, bytes)| bytes.to_vec());
    for change in changes.chunks(6).take(16) {
        let [file, high, low, many, come @ ..] = change else { break };
        let file = &mut files[usize::from(*file) % FROZEN.len()];
        let at = usize::from(u16::from_be_bytes([*high, *low])) % (file.len() + 1);
        let end = file.len().min(at + usize::from(*many));
        file.splice(at..end, come.iter().copied());
    }
    let same = FROZEN.iter().zip(&files).all(|((_, was), is)| is == was);
    for ((name, _), bytes) in FROZEN.iter().zip(files) {
        fs::write(dir.join(name), bytes).expect("a file");
    }
    let verified = read(dir).is_some_and(|report| report.ok);
    assert_eq!(verified, same, "a change is missed, or found where there is none");
}

fn read(dir: &Path) -> Option<Report> {
    let _ = tail(dir, 10);
    if let Ok(entries) = query(dir, Filter::default()) {
        for entry in entries.flatten() {
            let _ = (entry.seq(), entry.time(), entry.kind(), entry.host());
        }
    }
    verify(dir, &Secret::new(vec![7; 32]), None, &mut |_| {}).ok()
}
