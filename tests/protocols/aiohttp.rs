//! Python's aiohttp, which has an HTTP parser of its own.

use crate::site::Site;
use crate::support::*;
use crate::{agent, had_the_key, python, script};

#[test]
fn requests_uploads_and_an_event_stream() {
    let world = World::new();
    world.origin.hold();
    let mut program = Running::start(agent(&world, python()).arg(script("with_aiohttp.py")));
    assert_eq!(program.line("echo: "), "200 hello");
    assert_eq!(program.line("chunked upload: "), "200");
    for event in 0..4 {
        assert_eq!(program.line("event: "), event.to_string());
        // The origin says the next one only now.
        world.origin.release();
    }
    assert_eq!(program.line("refused: "), "403 urn:locum:problem:credential-refused");
    world.home.said(&program.end().ok());
    had_the_key(&world, &["/echo?aiohttp", "/upload", "/events/4"]);
    let upload = world.origin.seen_at("/upload").pop().unwrap();
    assert_eq!((upload.length, upload.complete), (300_000, true));
    assert_eq!(upload.header("content-length"), None, "it came in chunks");
    world.never_leaks(&[]);
}

#[test]
fn a_web_socket() {
    let site = Site::new();
    let mut command = site.home.command(&["run", "--agent", "worker", "--"]);
    let ran = run(command.arg(python()).arg(script("with_aiohttp_socket.py")), b"").ok();
    let line = "probe: hello 300000 bytes, pong, closed 4321 as asked";
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), [line, line, "refused: 403"], "{}", ran.err);
    site.never_leaks(&ran);
}
