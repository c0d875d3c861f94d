//! Proxy credentials and tokens: no bytes panic, and what is read prints as it was written.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::agent::UserName;
use locum::{authn, token};

fuzz_target!(|data: &[u8]| {
    if let Some(credentials) = authn::parse_proxy_authorization(data)
        && let Some(user) = credentials.user()
    {
        let text = user.to_string();
        assert_eq!(&text.parse::<UserName>().expect("it was read before"), user);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = token::parse(text);
        let _ = text.parse::<UserName>();
    }
});
