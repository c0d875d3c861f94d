//! A download that its origin cuts, at any byte and in any way, is an error to every client.
//!
//! Which client, and which cut, is all there is to it: the proxy itself is watched by
//! `tests/proxy/stream.rs`.

use std::process::Command;

use super::support::*;
use super::{modules, python, script};

/// An answer, as it is when nobody cuts it; and whether it says itself where it ends.
fn answers() -> Vec<(&'static str, String, bool)> {
    let long = "x".repeat(70_000);
    vec![
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnine byte".to_owned(), true),
        ("long", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{long}", long.len()), true),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n4;x=y\r\nmore\r\n0\r\n\r\n".to_owned(),
            true,
        ),
        ("closed", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it".to_owned(), false),
        ("old", "HTTP/1.0 200 OK\r\n\r\nall of it".to_owned(), false),
    ]
}

/// Where to cut: within the head, at every byte of a small body, and around the borders of a long one.
fn cuts(answer: &str, end: &str) -> Vec<usize> {
    let (head, all) = (answer.find("\r\n\r\n").unwrap() + 4, answer.len());
    let mut cuts = vec![0, 1, head / 2, head - 1];
    match (all - head, end) {
        (1000.., _) => cuts.extend([head, head + 1, head + 16_384, head + 65_536, all - 1, all]),
        (_, "reset") => cuts.extend([head, head + 4, all - 1]),
        _ => cuts.extend(head..=all),
    }
    cuts
}

/// Serves `/NAME/END/BYTES`: so many bytes of that answer, and then that end.
fn serve(mut wire: Wire) {
    let Some(head) = wire.try_head() else { return };
    let path = head.split(' ').nth(1).unwrap();
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let all = answers();
    let (_, answer, _) = all.iter().find(|(name, ..)| *name == words[0]).unwrap();
    let at: usize = words[2].parse().unwrap();
    if wire.try_send(&answer.as_bytes()[..at]).is_err() {
        return;
    }
    match words[1] {
        "goodbye" => {
            wire.finish();
            wire.until_closed();
        }
        "fin" => wire.cut(),
        "reset" => wire.reset(),
        end => panic!("no such end: {end}"),
    }
}

/// Has a client fetch every cut, and looks at what it says of each.
#[track_caller]
fn fetched_by(client: impl Fn(&Scene) -> Command) {
    let scene = Scene::new();
    scene.peer.serve(serve);
    let mut urls = Vec::new();
    for (name, answer, framed) in answers() {
        for end in ["goodbye", "fin", "reset"] {
            for at in cuts(&answer, end) {
                // What is framed is whole when its last byte is there, the rest when TLS says so. A
                // reset may overtake the last bytes, on their way to us: then it is no whole answer.
                let head = answer.find("\r\n\r\n").unwrap() + 4;
                let whole =
                    if framed { at == answer.len() } else { at >= head && end == "goodbye" };
                urls.push((format!("https://{HOST}/{name}/{end}/{at}"), whole, end));
            }
        }
    }
    let input: String = urls.iter().map(|(url, ..)| format!("{url}\n")).collect();
    let ran = run(&mut client(&scene), input.as_bytes()).ok();
    let said: Vec<&str> = ran.out.lines().collect();
    assert_eq!(said.len(), urls.len(), "{}{}", ran.out, ran.err);
    let mut wrong = Vec::new();
    for ((url, whole, end), said) in urls.iter().zip(said) {
        let took_for_whole = said.starts_with("whole");
        let lost = *whole && *end == "reset" && !took_for_whole;
        if took_for_whole != *whole && !lost {
            wrong.push(format!("{url}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn with_python(scene: &Scene, library: &str) -> Command {
    let mut command = scene.home.command(&["run", "--agent", "worker", "--"]);
    command.arg(python()).arg(script("cut.py")).arg(library);
    command
}

/// curl, with one more option.
fn with_curl(scene: &Scene, option: &str) -> Command {
    let mut command = scene.home.command(&["run", "--agent", "worker", "--", "sh", "-c"]);
    command.arg(format!(
        "while read -r url; do \
         if curl -sS {option} --fail -o body -H 'Authorization: Bearer locum_main' \"$url\" 2>&1; \
         then echo whole; else echo; fi | tail -n 1; done",
    ));
    command
}

#[test]
fn curl() {
    fetched_by(|scene| with_curl(scene, ""));
}

/// Without chunks: where no length is told, the end of the connection is the answer's.
#[test]
fn curl_with_http_1_0() {
    fetched_by(|scene| with_curl(scene, "--http1.0"));
}

#[test]
fn python_http_client() {
    fetched_by(|scene| with_python(scene, "http.client"));
}

#[test]
fn python_requests() {
    fetched_by(|scene| with_python(scene, "requests"));
}

#[test]
fn python_httpx() {
    fetched_by(|scene| with_python(scene, "httpx"));
}

#[test]
fn node_fetch() {
    fetched_by(|scene| {
        let mut command = scene.home.command(&["run", "--agent", "worker", "--", "node"]);
        command.arg(script("cut.mjs")).env("MODULES", modules());
        command
    });
}
