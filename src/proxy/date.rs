//! The `date` of an answer that brings none: a server says when it answers (RFC 9110 section 6.6.1).

use std::cell::RefCell;
use std::time::SystemTime;

use http::HeaderValue;

use super::unix_now;

/// A second, and how it is written.
type Written = (i64, HeaderValue);

/// The time of day. Written once a second on each thread.
pub(super) fn now() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<Written> = const { RefCell::new((i64::MIN, HeaderValue::from_static(""))) };
    }
    let second = unix_now();
    LAST.with_borrow_mut(|(at, written)| {
        if *at != second {
            let text = httpdate::fmt_http_date(SystemTime::now());
            *written = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
            *at = second;
        }
        written.clone()
    })
}
