//! The vault file: the frozen vault of the tests with bytes changed. It opens whole, or not at all.
#![cfg_attr(fuzzing, no_main)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::vault::{MasterKey, Vault};

const VAULT: &[u8] = include_bytes!("../../tests/vectors/vault-2/vault.db");
const KEY: &[u8] = include_bytes!("../../tests/vectors/vault-2/master.key");

fn private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode");
}

// Each five bytes are a place and what to put there.
fuzz_target!(|data: &[u8]| {
    let dir =
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let mut bytes = VAULT.to_vec();
    for change in data.chunks_exact(5).take(16) {
        let at = u32::from_be_bytes([change[0], change[1], change[2], change[3]]) as usize;
        let at = at % bytes.len();
        bytes[at] = change[4];
    }
    private(&dir.path().join("vault.db"), &bytes);
    private(&dir.path().join("master.key"), KEY);
    let key = MasterKey::load(&dir.path().join("master.key")).expect("the frozen key");
    let Ok(vault) = Vault::open(&dir.path().join("vault.db"), &key) else { return };
    // What opens must be what was sealed, or say so.
    let Ok(snapshot) = vault.snapshot() else { return };
    for credential in snapshot.credentials.iter() {
        if let Some(version) = credential.version {
            let _ = snapshot.open(&credential.name, version);
        }
    }
});
