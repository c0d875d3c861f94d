//! The agent's side of TLS: whatever comes after the CONNECT, the first byte is judged and the
//! handshake ends with an error, in time.
#![cfg_attr(fuzzing, no_main)]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use locum::host::Host;
use locum::tls::{self, Alpn, CertificateAuthority, LeafCache, Wire};
use tokio::io::AsyncWriteExt as _;

static CACHE: LazyLock<LeafCache> = LazyLock::new(|| {
    let made = CertificateAuthority::generate(SystemTime::now()).unwrap();
    let ca =
        CertificateAuthority::load(&made.certificate_pem, &made.key, SystemTime::now()).unwrap();
    LeafCache::new(Arc::new(ca), 16, &[Alpn::Http11]).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let _ = theirs.write_all(&data[..data.len().min(1 << 15)]).await;
        let _ = theirs.shutdown().await;
        let limit = Duration::from_millis(200);
        let (_, stream) = tls::first_byte(ours, limit).await;
        let host = Host::parse("api.test").unwrap();
        let wire = if data.len().is_multiple_of(2) { Wire::Local } else { Wire::Network };
        let accepted = tls::accept((stream, wire), &host, &CACHE, limit).await;
        assert!(accepted.is_err(), "a handshake without its second half");
    });
});
