//! Keeping this process's memory out of core dumps and away from debuggers of the same user.

use std::fmt;

use rustix::process::{Resource, Rlimit};

/// A protection that the platform does not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unhardened {
    /// Other processes of the same user can read this one's memory.
    Dumpable,
    /// A crash may write the memory to a core file.
    CoreFiles,
}

impl fmt::Display for Unhardened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dumpable => {
                "other processes of this user can read the proxy's memory; run it as a user of its own"
            }
            Self::CoreFiles => "a crash may write the proxy's memory to a core file; set `ulimit -c 0`",
        })
    }
}

/// Turns off core files, and reading of this process's memory and environment by others of its
/// user (ptrace, `/proc/PID/mem`, `/proc/PID/environ`). Returns what could not be done. To be called
/// first thing, before any key is read.
#[must_use]
pub fn harden_process() -> Vec<Unhardened> {
    let mut missing = Vec::new();
    if !make_undumpable() {
        missing.push(Unhardened::Dumpable);
    }
    // The maximum stays: a program that `locum run` starts may want its own core files.
    let maximum = rustix::process::getrlimit(Resource::Core).maximum;
    let none = Rlimit { current: Some(0), maximum };
    if rustix::process::setrlimit(Resource::Core, none).is_err() {
        missing.push(Unhardened::CoreFiles);
    }
    missing
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn make_undumpable() -> bool {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn make_undumpable() -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_hardened_process_cannot_be_dumped() {
        assert_eq!(harden_process(), []);
        let behaviour = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behaviour, rustix::process::DumpableBehavior::NotDumpable);
        assert_eq!(rustix::process::getrlimit(Resource::Core).current, Some(0));
        // For the other tests of this process: some read /proc/self.
        let dumpable = rustix::process::DumpableBehavior::Dumpable;
        rustix::process::set_dumpable_behavior(dumpable).unwrap();
    }
}
