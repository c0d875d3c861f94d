//! The audit reader: whatever stands in the files, verify and query end, and nobody's log verifies
//! under a key that did not write it.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::audit::{Filter, query, tail, verify};
use locum::secret::Secret;

fuzz_target!(|data: &[u8]| {
    let dir =
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let split = data.len() / 2;
    let log = dir.path().join("audit-00000000000000000001.jsonl");
    std::fs::write(log, &data[..split]).expect("a file");
    std::fs::write(dir.path().join("head"), &data[split..]).expect("a file");
    let key = Secret::new(vec![7; 32]);
    if let Ok(report) = verify(dir.path(), &key, None, &mut |_| {}) {
        assert!(!report.ok || report.records == 0, "a forged log verifies");
    }
    let _ = tail(dir.path(), 10);
    if let Ok(entries) = query(dir.path(), Filter::default()) {
        for entry in entries.flatten() {
            let _ = (entry.seq(), entry.time(), entry.kind(), entry.host());
        }
    }
});
