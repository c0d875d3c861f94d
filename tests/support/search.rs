//! Looking for a secret in files and texts, in every form in which it could be there.

use std::path::{Path, PathBuf};

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use memchr::memmem;

/// A form of a secret, and what to call it.
pub struct Form {
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// The forms in which a secret is still a secret.
pub fn forms(secret: &[u8]) -> Vec<Form> {
    let mut forms = vec![
        Form { name: "raw", bytes: secret.to_vec() },
        Form { name: "hex", bytes: HEXLOWER.encode(secret).into_bytes() },
        Form { name: "HEX", bytes: HEXUPPER.encode(secret).into_bytes() },
        Form { name: "UTF-16", bytes: secret.iter().flat_map(|b| [*b, 0]).collect() },
        Form { name: "reversed", bytes: secret.iter().rev().copied().collect() },
        Form { name: "percent, all", bytes: each(secret, |b| format!("%{b:02X}")) },
        Form { name: "percent, all, lower case", bytes: each(secret, |b| format!("%{b:02x}")) },
        Form { name: "percent", bytes: reserved(secret, |b| format!("%{b:02X}")) },
        Form { name: "percent, lower case", bytes: reserved(secret, |b| format!("%{b:02x}")) },
        Form { name: "percent, twice", bytes: reserved(secret, |b| format!("%25{b:02X}")) },
        Form { name: "JSON, all escaped", bytes: each(secret, |b| format!("\\u{b:04x}")) },
        Form { name: "JSON, escaped for HTML", bytes: reserved(secret, |b| format!("\\u{b:04x}")) },
        Form { name: "JSON", bytes: json(secret) },
        Form { name: "HTML, all", bytes: each(secret, |b| format!("&#{b};")) },
        Form { name: "hex with colons", bytes: each(secret, |b| format!("{b:02x}:")) },
        Form { name: "numbers", bytes: each(secret, |b| format!("{b},")) },
    ];
    for before in 0..3 {
        for encoding in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
            forms.push(Form { name: "base64", bytes: base64(secret, before, encoding) });
        }
    }
    forms
}

fn each(secret: &[u8], escape: impl Fn(u8) -> String) -> Vec<u8> {
    secret.iter().flat_map(|b| escape(*b).into_bytes()).collect()
}

/// Escapes what URLs do not carry as it is.
fn reserved(secret: &[u8], escape: impl Fn(u8) -> String) -> Vec<u8> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let escape = |b: &u8| if plain(*b) { vec![*b] } else { escape(*b).into_bytes() };
    secret.iter().flat_map(escape).collect()
}

fn json(secret: &[u8]) -> Vec<u8> {
    let text = serde_json::Value::from(String::from_utf8_lossy(secret)).to_string();
    text.trim_matches('"').as_bytes().to_vec()
}

/// The characters that do not depend on what stands before and after, where the secret begins
/// `before` bytes after a group of three.
fn base64(secret: &[u8], before: usize, encoding: &data_encoding::Encoding) -> Vec<u8> {
    let padded = [&[0; 2][..before], secret].concat();
    let text = encoding.encode(&padded).into_bytes();
    text[(before * 8).div_ceil(6)..padded.len() * 8 / 6].to_vec()
}

/// A form of a secret that was found, and what stands around it.
#[derive(Clone, Debug)]
pub struct Leak {
    pub form: &'static str,
    pub context: String,
}

/// The forms of `secret`, or of a half of it, that occur in `text`: half a key in a log is a leak
/// as well.
pub fn leaks(secret: &str, text: &[u8]) -> Vec<Leak> {
    let secret = secret.as_bytes();
    let middle = secret.len() / 2;
    // What stands before the last `-` is the same in every key and in stand-ins.
    let start = secret.iter().rposition(|b| *b == b'-').map_or(0, |at| at + 1);
    let mut parts = vec![secret];
    for part in [&secret[start.min(middle)..middle], &secret[middle..]] {
        if part.len() >= 12 {
            parts.push(part);
        }
    }
    let mut found: Vec<Leak> = Vec::new();
    for part in parts {
        for form in forms(part) {
            let at = memmem::find(text, &form.bytes);
            if let Some(at) = at.filter(|_| !found.iter().any(|leak| leak.form == form.name)) {
                let around = at.saturating_sub(80)..(at + form.bytes.len() + 80).min(text.len());
                let context = String::from_utf8_lossy(&text[around]).into_owned();
                found.push(Leak { form: form.name, context });
            }
        }
    }
    found
}

/// Panics when a secret is in one of the files under `directories` or in one of `texts`, in any
/// form. Panics too when there was nothing to search, because then the search would prove nothing.
#[track_caller]
pub fn search_everywhere(secrets: &[&str], directories: &[&Path], texts: &[(&str, &[u8])]) {
    let mut files = Vec::new();
    for directory in directories {
        walk(directory, &mut files);
    }
    assert!(directories.is_empty() || !files.is_empty(), "no file in {directories:?}");
    let mut found = Vec::new();
    for secret in secrets {
        let mut search = |name: &str, text: &[u8]| {
            for leak in leaks(secret, text) {
                found.push(format!("{name} holds a secret ({}): {:?}", leak.form, leak.context));
            }
        };
        for path in &files {
            // SQLite removes its own files in the middle of a walk.
            let Ok(bytes) = std::fs::read(path) else { continue };
            search(&path.display().to_string(), &bytes);
        }
        for (name, text) in texts {
            search(name, text);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn walk(path: &Path, files: &mut Vec<PathBuf>) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    if metadata.is_file() {
        files.push(path.to_owned());
    } else if metadata.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), files);
        }
    }
}
