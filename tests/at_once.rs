//! What a command has added is in force when the command has ended: a script adds and uses in one breath.

#![allow(missing_docs, unreachable_pub, dead_code)] // A harness is shared by halves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::items_after_statements,
    clippy::format_push_string
)]

mod support;

use support::Home;

/// A token that was refused because a look at the vault was under way failed once in some twenty
/// times, so this asks often.
#[test]
fn a_token_is_good_as_soon_as_it_is_printed() {
    let home = Home::strict();
    let serve = home.serve();
    for _ in 0..80 {
        let agent = home.agent("hasty");
        serve.open_tunnel(&agent, "nowhere.test:443");
    }
}
