//! The commands as a person or a script meets them: the real binary in homes that are thrown away.
//! What it prints, where, its exit code, and what is on the disk afterwards.

#![allow(clippy::unwrap_used, reason = "tests")]

mod audit;
mod home;
mod import;
mod mistakes;
mod policy;
mod scan;
mod secrets;
mod vault;
