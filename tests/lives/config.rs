//! `locum.yaml` changed under a proxy that serves.

use crate::support::*;

#[test]
fn what_needs_a_start_is_told_once_and_not_of_what_is_put_back() {
    let world = World::new();
    let said = |what: &str| world.serve.log().matches(what).count();
    let until = |what: &str, count: usize| {
        eventually(what, PATIENCE, || (said(what) >= count).then_some(()));
    };
    world.home.set("log.format: json");
    until("takes effect at the next start", 1);
    // Another change, of what takes effect at once; and then back to what is in force.
    world.home.set("upstream.pool: {total: 77}");
    until("config reloaded", 2);
    world.home.unset("log.format");
    until("config reloaded", 3);
    assert_eq!(said("takes effect at the next start"), 1, "{}", world.serve.log());
}
