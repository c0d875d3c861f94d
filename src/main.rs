//! The `locum` binary: all of it is in the library.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed. What this crate holds of a secret is wiped by its types; the buffers in which
/// h2 writes a request's head, and rustls its records, are not ours, and would keep it until
/// somebody else happened to be given the same memory.
#[global_allocator]
static MEMORY: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    locum::cli::main()
}
