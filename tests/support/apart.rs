//! Tests that need the machine for themselves: a part of it that `unshare` makes, in which they are root.

use std::ffi::OsStr;
use std::process::Command;

use super::run;

/// Runs the ignored test `name` of this binary in namespaces of its own (`kinds`, as `unshare` has them),
/// after `prelude`, in a shell that has `variables`.
///
/// # Panics
/// With all that it said, when it did not pass, or when there is none of that name.
#[track_caller]
pub fn apart(name: &str, kinds: &[&str], prelude: &str, variables: &[(&str, &OsStr)]) {
    let script =
        format!("set -e; {prelude} exec \"$TEST\" --ignored --exact \"$NAME\" --nocapture");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--kill-child"]).args(kinds);
    command.args(["sh", "-c", &script]).envs(variables.iter().copied());
    command.env("TEST", std::env::current_exe().unwrap()).env("NAME", name);
    let ran = run(&mut command, b"").ok();
    assert!(ran.out.contains("1 passed"), "{}{}", ran.out, ran.err);
}
