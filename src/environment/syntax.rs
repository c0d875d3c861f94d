//! How a path or a word is written for the clients that take it in a syntax of their own: wget, PHP, the JVM.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::EnvironmentError;

/// The commands of a wgetrc that would lead around the proxy or its CA, as wget compares them: in
/// lower case, without `-` and `_`. A proxy named in a wgetrc wins over the variables.
const WGETRC_DROPPED: [&str; 10] = [
    "cacertificate",
    "cadirectory",
    "checkcertificate",
    "httpproxy",
    "httpsproxy",
    "noproxy",
    "proxypassword",
    "proxypasswd",
    "proxyuser",
    "useproxy",
];

pub(super) fn wgetrc(user: &[u8], bundle: &Path) -> Result<Vec<u8>, EnvironmentError> {
    let bundle_path = bundle.as_os_str().as_bytes();
    // A value runs to the end of the line, with the blanks around it stripped.
    if bundle_path.contains(&b'\n') || bundle_path.trim_ascii_end() != bundle_path {
        return Err(EnvironmentError::unusable(bundle, "a wgetrc"));
    }
    let mut contents = Vec::new();
    for line in user.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        let command = line.split(|byte| *byte == b'=').next().unwrap_or_default();
        let command: Vec<u8> = command
            .iter()
            .filter(|byte| !matches!(**byte, b'-' | b'_' | b' ' | b'\t'))
            .map(u8::to_ascii_lowercase)
            .collect();
        if !line.is_empty() && !WGETRC_DROPPED.iter().any(|one| one.as_bytes() == command) {
            contents.extend([line, b"\n"].concat());
        }
    }
    contents.extend([b"ca_certificate = ", bundle_path, b"\n"].concat());
    Ok(contents)
}

/// A path as a PHP ini string: single quotes take everything literally but themselves, double
/// quotes everything but an escape or a `${variable}`.
pub(super) fn php_string(path: &Path) -> Result<Vec<u8>, EnvironmentError> {
    let bytes = path.as_os_str().as_bytes();
    let has = |set: &[u8]| bytes.iter().any(|byte| set.contains(byte));
    let quote: &[u8] = if !has(b"'\n\r") {
        b"'"
    } else if !has(b"\"\\$\n\r") {
        b"\""
    } else {
        return Err(EnvironmentError::unusable(path, "a PHP ini file"));
    };
    Ok([quote, bytes, quote].concat())
}

/// One word of `JAVA_TOOL_OPTIONS`: the JVM splits at white space, knows both quotes, also in the
/// middle of a word, and no escapes.
pub(super) fn jvm_word(word: &OsStr) -> OsString {
    let special = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0x0b | b'"' | b'\'');
    if !word.as_bytes().iter().any(special) {
        return word.to_owned();
    }
    let parts: Vec<Vec<u8>> = word
        .as_bytes()
        .split(|byte| *byte == b'"')
        .map(|part| [b"\"", part, b"\""].concat())
        .collect();
    OsString::from_vec(parts.join(&b"'\"'"[..]))
}
