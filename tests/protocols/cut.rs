//! A download that the origin cuts off is an error to the client, whether or not its length was
//! announced: nothing that is half there ever looks whole.

use crate::support::*;
use crate::{agent, modules, python, runs, script};

#[track_caller]
fn sees_an_error(world: &World, ran: &Ran) {
    let said = |path: &str| {
        let line = ran.out.lines().find_map(|line| line.strip_prefix(&format!("{path}: ")));
        line.unwrap_or_else(|| panic!("no line for {path}: {}", ran.out))
    };
    // What is short enough to be searched as a whole is not begun before it has come as a whole.
    assert_eq!(said("/abort"), "502");
    for path in ["/abort-long", "/abort-chunked"] {
        assert!(said(path).starts_with("error after 14 bytes"), "{}", ran.out);
    }
    assert_eq!(said("/bytes/100000"), "whole, 100000 bytes");
    assert_eq!(world.origin.seen().len(), 4, "no client asked twice: {:?}", world.origin.seen());
}

#[test]
fn undici() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new();
        let mut command = agent(&world, "node");
        command.arg(script("cut_undici.mjs")).arg(protocol).env("MODULES", modules());
        let ran = runs(&world, &mut command);
        assert!(ran.out.contains(&format!("spoken: {protocol}\n")), "{}", ran.out);
        sees_an_error(&world, &ran);
    }
}

#[test]
fn aiohttp() {
    let world = World::new();
    let ran = runs(&world, agent(&world, python()).arg(script("cut_aiohttp.py")));
    sees_an_error(&world, &ran);
}
