//! The real binary on a clock that the test sets: what agents usually do, learned and left in hours that
//! pass in an instant, and everything else that a time decides, over steps of the clock.
#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

#[path = "../support/mod.rs"]
mod support;

mod anomalies;
mod reminders;
mod steps;
