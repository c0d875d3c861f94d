//! Real keys among the variables that a program would inherit: it is to have placeholders.
//!
//! A variable has one when its value is, or has in it, a secret of the vault, be it revoked, or when it
//! is shaped like a key of a provider of the catalogue. Variables are told by their names alone.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::output;
use super::scan::is_a_providers_key;
use crate::app::{Failure, Opened};
use crate::inject::Watch;
use crate::reference;
use crate::secret::Secret;
use crate::vault::{Fingerprint, Snapshot};

/// A secret that is shorter could be a word that stands in a variable for other reasons.
const SHORTEST: usize = 8;

/// Arguments of commands that make an environment.
#[derive(Debug, clap::Args)]
pub(super) struct Keep {
    /// Leave the program this variable of yours, though it holds a real key; repeatable
    #[arg(long, value_name = "VARIABLE")]
    keep_env: Vec<String>,
}

/// The variables of this process that hold a real key, but for those that are to be kept.
pub(super) fn real_keys(opened: &Opened, keep: &Keep) -> Result<BTreeSet<String>, Failure> {
    let known = Known::of(opened)?;
    let mut found = BTreeSet::new();
    for (name, value) in std::env::vars_os() {
        // No shell and no library makes others.
        let Some(name) = name.to_str() else { continue };
        if !keep.keep_env.iter().any(|kept| kept == name) && known.is_key(name, &value) {
            found.insert(name.to_owned());
        }
    }
    Ok(found)
}

/// Says which variables were taken away, and what to do.
pub(super) fn warn_withheld(withheld: &BTreeSet<String>) {
    let names: Vec<&str> = withheld.iter().map(String::as_str).collect();
    if let Some(first) = names.first() {
        output::note(&format!(
            "locum: the program does not get {}: real keys; put them into the vault (`locum credential import`, \
             or `locum credential add NAME --from-env {first}`), or keep one with `--keep-env {first}`",
            names.join(", ")
        ));
    }
}

/// The secrets of a home, by what the vault keeps to know them by.
struct Known<'o> {
    opened: &'o Opened,
    /// Those of this workspace, also short ones.
    fingerprints: HashSet<[u8; 8]>,
    /// Those of all workspaces, and of keys before these.
    watches: Vec<Watch>,
}

impl<'o> Known<'o> {
    fn of(opened: &'o Opened) -> Result<Self, Failure> {
        let credentials = opened.vault.credentials()?;
        let versions = credentials.iter().flat_map(|credential| &credential.versions);
        let fingerprints = versions.map(|version| version.fingerprint.0).collect();
        let snapshots = opened.vault.snapshots()?;
        let watches = snapshots.into_iter().map(|Snapshot { watch, .. }| watch).collect();
        Ok(Self { opened, fingerprints, watches })
    }

    fn is_key(&self, name: &str, value: &OsStr) -> bool {
        let bytes = value.as_bytes();
        if bytes.len() < SHORTEST {
            return false;
        }
        let mut texts = std::iter::once(bytes).chain(parts(bytes));
        texts.any(|text| self.is_secret(text))
            // What has a reference in it is a stand-in, which looks like a key.
            || !reference::occurs(bytes) && is_a_providers_key(name, bytes)
    }

    fn is_secret(&self, text: &[u8]) -> bool {
        let decoded: Vec<u8> = percent_encoding::percent_decode(text).collect();
        let mut forms = [text, &decoded].into_iter().filter(|form| form.len() >= SHORTEST);
        forms.any(|form| {
            let Fingerprint(own) = self.opened.vault.fingerprint(&Secret::new(form.to_vec()));
            self.fingerprints.contains(&own) || self.watches.iter().any(|watch| watch.knows(form))
        })
    }
}

/// What of a longer text could be a secret that has characters which tokens do not have: the password of
/// a URL, a value of a connection string or of a list of settings, a string of JSON.
fn parts(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let userinfo = memchr::memmem::find(text, b"://").and_then(|at| {
        let rest = text.get(at + 3..)?;
        rest.get(..memchr::memrchr(b'@', rest)?)
    });
    let password = userinfo.and_then(|pair| pair.get(memchr::memchr(b':', pair)? + 1..));
    let values = text.split(|byte| b";&,\n".contains(byte)).filter_map(|pair| {
        let at = pair.iter().position(|byte| b"=:".contains(byte))?;
        pair.get(at + 1..).map(<[u8]>::trim_ascii)
    });
    let strings = text.split(|byte| b"\"'".contains(byte)).skip(1).step_by(2);
    userinfo.into_iter().chain(password).chain(values).chain(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_longer_texts_are_parts_of_them() {
        for (text, part) in [
            ("postgres://app:p@ss word!@db.test/x", "p@ss word!"),
            ("https://ghp_abc@github.test/x", "ghp_abc"),
            ("Server=db;Password=p: w!;Encrypt=yes", "p: w!"),
            (r#"{"user": "a", "password": "p, w!"}"#, "p, w!"),
            ("--user 'me:it is'", "me:it is"),
        ] {
            assert!(parts(text.as_bytes()).any(|one| one == part.as_bytes()), "{text}");
        }
        assert_eq!(parts(b"C.UTF-8").count(), 0);
    }
}
