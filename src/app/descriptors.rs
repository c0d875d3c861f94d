//! File descriptors: as many as there may be, and enough of them kept for what is not a connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A connection of an agent, and its other half at an origin.
const EACH: u64 = 2;

/// What connections may not take: the vault and its journal, the audit log, policy files as they are read,
/// listeners, the administrators' and the operations port with 64 connections each, and some to spare.
const KEPT: u64 = 256;

/// Asks the system for as many descriptors as it lets this process have.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // macOS gives less than its own maximum says; what there is stays then.
        let _as_before = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// How many descriptors there may be; none for any number.
fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many descriptors the system would let this process have, and how many so many connections take,
/// where those are more.
pub(crate) fn lacking(connections: usize) -> Option<(u64, u64)> {
    let most = getrlimit(Resource::Nofile).maximum?;
    let taken = (connections as u64).saturating_mul(EACH);
    (taken > most).then_some((most, taken))
}

/// As many of `connections` as there are descriptors for, when the others have theirs.
pub(crate) fn fitting(connections: usize) -> usize {
    most().map_or(connections, |most| within(most, connections))
}

fn within(most: u64, connections: usize) -> usize {
    // With very few descriptors half of them is kept: a proxy that takes no connection is none.
    let free = most.saturating_sub(KEPT).max(most / 2);
    let fit = usize::try_from(free / EACH).unwrap_or(usize::MAX);
    connections.min(fit.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        for (most, asked, fit) in [
            (1_048_576, 10_000, 10_000),
            (20_256, 10_000, 10_000),
            (20_000, 10_000, 9_872),
            (1_024, 10_000, 384),
            (256, 10_000, 64),
            (0, 10_000, 1),
            (1_024, 3, 3),
        ] {
            assert_eq!(within(most, asked), fit, "{most} {asked}");
        }
    }
}
