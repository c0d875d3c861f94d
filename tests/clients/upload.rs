//! Uploads of many megabytes with a credential in a field before the file, by clients as they are.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::{World, python, script};
use crate::support::*;

const HOST: &str = "upload.test";

const SLOTS: &[&str] =
    &["--to", "https://upload.test", "--multipart", "token", "--json-pointer", "/token"];

const FILE: usize = 20 << 20;
const TEXT: usize = 5 << 20;

/// What a proxy may grow by while all of it passes, in KiB: a fraction of one of the files.
const GROWTH: u64 = 16 * 1024;

fn world(two: bool) -> World {
    let origin = if two { Origin::http2(HOST) } else { Origin::start(HOST) };
    let world = World::before(origin, "main", SLOTS, |_| {});
    std::fs::write(world.home.work().join("file.bin"), bytes()).unwrap();
    let text = format!("{{\"token\": \"locum_main\", \"text\": \"{}\"}}", text());
    std::fs::write(world.home.work().join("text.json"), text).unwrap();
    world
}

/// Bytes of any value, boundaries in the making and line ends among them.
fn bytes() -> Vec<u8> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..FILE).map(|at| if at % 1000 < 4 { b"\r\n--"[at % 1000] } else { next() }).collect()
}

fn text() -> String {
    "All work and no play, and locum_nothing in it.\\n".chars().cycle().take(TEXT).collect()
}

fn digest(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    data_encoding::HEXLOWER.encode(&digest.finalize())
}

/// The origin got the form with the key in its field, and of the file every byte.
#[track_caller]
fn multipart_arrived(world: &World, seen: &Seen) {
    let file = bytes();
    let kind = seen.header("content-type").unwrap();
    let boundary = kind.split_once("boundary=").unwrap().1;
    let start = memchr::memmem::find(&seen.body, &file[..64]).expect("the file is there");
    let head = std::str::from_utf8(&seen.body[..start]).unwrap();
    let field = "Content-Disposition: form-data; name=\"token\"\r\n\r\n";
    assert!(
        head.starts_with(&format!("--{boundary}\r\n{field}{}\r\n--{boundary}\r\n", world.key)),
        "{head}"
    );
    let end = format!("\r\n--{boundary}--\r\n");
    assert_eq!(seen.length, (head.len() + file.len() + end.len()) as u64);
    assert_eq!(seen.digest, digest(&[head.as_bytes(), &file, end.as_bytes()]));
}

#[track_caller]
fn json_arrived(world: &World, seen: &Seen) {
    let text = format!("{{\"token\": \"{}\", \"text\": \"{}\"}}", world.key, text());
    assert_eq!((seen.length, &seen.digest), (text.len() as u64, &digest(&[text.as_bytes()])));
}

/// Runs a program, and looks how much memory the proxy takes meanwhile.
#[track_caller]
fn watched(world: &World, command: &mut Command) -> Ran {
    let serve = world.serve.as_ref().unwrap();
    let before = serve.resident();
    let (over, most) = (AtomicBool::new(false), AtomicU64::new(before));
    let ran = std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(serve.resident(), Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        let ran = run(command, b"");
        over.store(true, Ordering::Relaxed);
        ran
    });
    let most = most.into_inner();
    assert!(most < before + GROWTH, "from {before} to {most} KiB");
    ran.ok()
}

#[test]
fn curl_uploads() {
    for two in [false, true] {
        let world = world(two);
        let work = world.home.work();
        let curl = |arguments: &[&str]| {
            let mut command = world.run("curl".as_ref());
            command.args(["-sS", "--fail", "--max-time", "120"]).args(arguments);
            watched(&world, command.arg("https://upload.test/open/x").current_dir(&work));
            world.origin.last()
        };
        let form = ["--form-string", "token=locum_main", "-F", "file=@file.bin"];
        let chunked = ["--http1.1", "-H", "Transfer-Encoding: chunked"];
        for (version, framed) in [
            (&["--http1.1"][..], "content-length"),
            (&["--http2"], "content-length"),
            (&chunked, "transfer-encoding"),
        ] {
            let seen = curl(&[version, &form].concat());
            multipart_arrived(&world, &seen);
            // HTTP/2 has no other way to say that there is no length.
            assert_eq!(
                seen.header(framed).is_some(),
                !two || framed == "content-length",
                "{version:?}"
            );
            let json = ["-H", "Content-Type: application/json", "--data-binary", "@text.json"];
            json_arrived(&world, &curl(&[version, &json].concat()));
        }
        never_leaks(&world, &work);
    }
}

#[test]
fn python_requests_uploads() {
    let world = world(false);
    let work = world.home.work();
    let mut command = world.run(python().as_os_str());
    watched(&world, command.arg(script("upload_with_requests.py")).current_dir(&work));
    let seen = world.origin.seen();
    assert_eq!(seen.len(), 4);
    for (one, framed) in seen.iter().zip(["content-length", "transfer-encoding"].iter().cycle()) {
        assert!(one.header(framed).is_some(), "{:?}", one.headers);
    }
    seen[..2].iter().for_each(|one| multipart_arrived(&world, one));
    seen[2..].iter().for_each(|one| json_arrived(&world, one));
    never_leaks(&world, &work);
}

#[track_caller]
fn never_leaks(world: &World, work: &Path) {
    for name in ["file.bin", "text.json"] {
        std::fs::remove_file(work.join(name)).unwrap();
    }
    let metrics = world.serve.as_ref().map(Serve::metrics).unwrap_or_default();
    world.home.never_leaks(&[&world.key], &[("metrics", metrics.as_bytes())]);
}
