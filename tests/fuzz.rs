//! A short run of every fuzz target with every test run, on the compiler that everybody has: its corpus
//! as it is, and mutations of it from a fixed seed (`FUZZ_TIMES=100` for as many times more). The long runs are those of `cargo fuzz`
//! (fuzz/README.md); what they found is in the corpora.

#![allow(missing_docs, unreachable_pub, dead_code)] // The targets are made for another crate.
#![allow(unexpected_cfgs)] // `fuzzing` is set by cargo-fuzz.
#![allow(clippy::unwrap_used, clippy::too_many_lines)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

extern crate self as locum_fuzz;

#[path = "../fuzz/src/lib.rs"]
mod shared;
pub use shared::*;

/// What libFuzzer makes a program of is a function here.
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:block) => {
        pub fn run($data: &[u8]) {
            $body
        }
    };
    (|$text:ident: &str| $body:block) => {
        pub fn run(data: &[u8]) {
            if let Ok($text) = std::str::from_utf8(data) {
                $body
            }
        }
    };
}

#[path = "../fuzz/fuzz_targets/audit_reader.rs"]
mod audit_reader;
#[path = "../fuzz/fuzz_targets/authority.rs"]
mod authority;
#[path = "../fuzz/fuzz_targets/client_hello.rs"]
mod client_hello;
#[path = "../fuzz/fuzz_targets/config.rs"]
mod config;
#[path = "../fuzz/fuzz_targets/decide.rs"]
mod decide;
#[path = "../fuzz/fuzz_targets/frames.rs"]
mod frames;
#[path = "../fuzz/fuzz_targets/grpc.rs"]
mod grpc;
#[path = "../fuzz/fuzz_targets/heads.rs"]
mod heads;
#[path = "../fuzz/fuzz_targets/inject.rs"]
mod inject;
#[path = "../fuzz/fuzz_targets/inject_head.rs"]
mod inject_head;
#[path = "../fuzz/fuzz_targets/jwt.rs"]
mod jwt;
#[path = "../fuzz/fuzz_targets/policy.rs"]
mod policy;
#[path = "../fuzz/fuzz_targets/proxy_authorization.rs"]
mod proxy_authorization;
#[path = "../fuzz/fuzz_targets/request.rs"]
mod request;
#[path = "../fuzz/fuzz_targets/scrub.rs"]
mod scrub;
#[path = "../fuzz/fuzz_targets/sigv4.rs"]
mod sigv4;
#[path = "../fuzz/fuzz_targets/vault_file.rs"]
mod vault_file;
#[path = "../fuzz/fuzz_targets/websocket.rs"]
mod websocket;

type Target = (&'static str, u32, fn(&[u8]));

/// Each target, and how many mutations it is given: about a second's worth without optimisation.
const TARGETS: &[Target] = &[
    ("audit_reader", 200, audit_reader::run),
    ("authority", 1500, authority::run),
    ("client_hello", 200, client_hello::run),
    ("config", 1500, config::run),
    ("decide", 1500, decide::run),
    ("frames", 1500, frames::run),
    ("grpc", 1500, grpc::run),
    ("heads", 1500, heads::run),
    ("inject", 1500, inject::run),
    ("inject_head", 1500, inject_head::run),
    ("jwt", 1500, jwt::run),
    ("policy", 1500, policy::run),
    ("proxy_authorization", 1500, proxy_authorization::run),
    ("request", 1500, request::run),
    ("scrub", 1500, scrub::run),
    ("sigv4", 1500, sigv4::run),
    ("vault_file", 150, vault_file::run),
    ("websocket", 1500, websocket::run),
];

#[test]
fn every_target_bears_its_corpus_and_mutations_of_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut written: Vec<String> = fs::read_dir(directory.join("fuzz_targets"))
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    written.sort();
    let known: Vec<&str> = TARGETS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(written, known, "every target is run here");
    std::thread::scope(|threads| {
        for (name, rounds, run) in TARGETS {
            let corpus = directory.join("corpus").join(name);
            threads.spawn(move || short_run(name, *rounds, *run, &corpus));
        }
    });
}

fn short_run(name: &str, rounds: u32, run: fn(&[u8]), corpus: &Path) {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(corpus).into_iter().flatten().map(|file| file.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "{name} has no corpus in {}", corpus.display());
    let attempt = |input: &[u8]| {
        let ran = catch_unwind(AssertUnwindSafe(|| run(input)));
        assert!(ran.is_ok(), "{name} fails on b\"{}\"", input.escape_ascii());
    };
    for seed in &seeds {
        attempt(seed);
    }
    let times = std::env::var("FUZZ_TIMES").map_or(1, |times| times.parse().unwrap());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds * times {
        attempt(&dice.mutated(&seeds));
    }
}

/// Xorshift (Marsaglia, 2003): the same numbers in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound.max(1)
    }

    /// One seed with a few things done to it.
    fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut text = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(text.len() + 1);
            match self.below(6) {
                0 if at < text.len() => text[at] ^= 1 << self.below(8),
                1 if at < text.len() => text[at] = INTERESTING[self.below(INTERESTING.len())],
                2 => text.insert(at, INTERESTING[self.below(INTERESTING.len())]),
                3 => {
                    let end = at + self.below(text.len() - at + 1);
                    text.drain(at..end);
                }
                // A piece of another seed, or of the same one again.
                4 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    let piece = &other[from..from + self.below(other.len() - from + 1)];
                    text.splice(at..at, piece.iter().copied());
                }
                _ => text.truncate(at),
            }
            text.truncate(64 * 1024);
        }
        text
    }
}

/// Bytes that mean something to some parser.
const INTERESTING: &[u8] = b"\0\x01\x1b\x7f\x80\xff \t\r\n\"'%&+,-./:;<=>?@[\\]^_`{|}~0A_aZ";
