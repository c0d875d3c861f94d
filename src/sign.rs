//! Signing: what a request says in place of the secret itself.
//!
//! Pure, like the other engines: the time is the client's own, which it has signed too, or is handed in.

pub mod hmac;
pub mod sigv4;
