//! locum.yaml: no text panics, and a refusal says why.
#![cfg_attr(fuzzing, no_main)]

use std::path::Path;

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::config::Config;
use locum::document::Source;

fuzz_target!(|text: &str| {
    if let Err(report) = Config::parse(Source::new("locum.yaml", text), Path::new("/home")) {
        assert!(!report.to_string().is_empty());
    }
});
