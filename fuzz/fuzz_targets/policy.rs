//! Policy files: no text panics, and what compiles compiles to the same digest again.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::document::Source;
use locum::policy::compile;

fuzz_target!(|text: &str| {
    match compile(vec![Source::new("p.yaml", text)]) {
        Ok(policy) => {
            let again = compile(vec![Source::new("p.yaml", text)]).expect("it compiled before");
            assert_eq!(policy.digest(), again.digest());
        }
        Err(report) => assert!(!report.is_empty() && !report.to_string().is_empty()),
    }
});
