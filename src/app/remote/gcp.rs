//! Google Secret Manager.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;

use super::{
    Caller, Failed, Fetched, access_token, aws::bytes_of, bearer, chosen, json_of, refused,
};
use crate::credential::Endpoint;
use crate::secret::Secret;

/// A token of the machine's own service account.
pub(in crate::app) async fn of_instance(caller: &Caller<'_>) -> Result<Secret, Failed> {
    let target = "/computeMetadata/v1/instance/service-accounts/default/token";
    let endpoint = Endpoint::metadata_service("metadata.google.internal", target);
    let mut headers = HeaderMap::new();
    headers.insert("metadata-flavor", HeaderValue::from_static("Google"));
    access_token(&caller.call(Method::GET, &endpoint, headers, Bytes::new()).await?)
}

/// One version of a secret, or one field of it.
pub(in crate::app) async fn secret(
    caller: &Caller<'_>,
    token: &Secret,
    (url, name): (&Endpoint, &str),
    field: Option<&str>,
) -> Result<Fetched, Failed> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, bearer(token)?);
    let endpoint = url.at(&format!("/v1/{name}:access"));
    let reply = caller.call(Method::GET, &endpoint, headers, Bytes::new()).await?;
    match reply.status.as_u16() {
        200 => {}
        // A version that is disabled or destroyed.
        400 => return Err(Failed::gone("the version of the secret is disabled or destroyed")),
        status => return Err(refused(status)),
    }
    let said = json_of(&reply)?;
    let payload = said.get("payload").ok_or("the vault's answer has no secret")?;
    let value = bytes_of(payload, "data")?;
    // As a text, because JSON has no integers of 64 bits.
    let sum = payload.get("dataCrc32c").and_then(Value::as_str).map(str::parse::<u32>);
    if sum.is_some_and(|sum| sum != Ok(value.expose(crc32c))) {
        return Err("what the vault answered is damaged".into());
    }
    let secret = value.expose(|bytes| chosen(bytes, field))?;
    Ok(Fetched { secret, lease: None, ends: None })
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), bit by bit: for 64 KiB at most, once in minutes.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| (sum >> 1) ^ (0x82F6_3B78 & (sum & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    /// RFC 3720 appendix B.4, and the check value of the algorithm.
    #[test]
    fn checksums_are_castagnolis() {
        assert_eq!(super::crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(super::crc32c(b"123456789"), 0xE306_9283);
    }
}
