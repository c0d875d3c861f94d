//! Wrapping and unwrapping the master key by a key of somebody else's: a transit key of `OpenBao` or
//! `HashiCorp` Vault, or one of AWS KMS.
//!
//! This comes before the vault is open, so that neither its credentials nor the audit log are there:
//! what logs in lies in a file or in the environment, and the call goes through the address guard,
//! `upstream.hosts` and verified TLS, and into the log of whoever has the key.

use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use serde_json::json;
use zeroize::Zeroizing;

use super::Failure;
use super::far_side::{WithoutLog, far_side};
use super::remote::{Caller, Failed, Via, aws, file, login_file, text_of, vault};
use crate::config::Config;
use crate::credential::{Aws, CloudLogin, Kind};
use crate::mint::Material;
use crate::upstream::NoLogins;
use crate::vault::{KmsLogin, MasterKey, WrappedKey, Wrapper};

/// What the key of KMS is told that it is used for, so that its policy can ask for that, and so that
/// nothing else that it has wrapped opens here.
const CONTEXT: (&str, &str) = ("locum", "vault master key");

/// What is done with the key.
enum Act<'a> {
    Wrap(&'a [u8; 32]),
    Unwrap(&'a str),
}

/// Wraps a master key.
pub(super) fn wrap(
    config: &Config,
    mut wrapper: Wrapper,
    master: &MasterKey,
) -> Result<WrappedKey, Failure> {
    let done = master.expose(|key| call(config, &wrapper, &Act::Wrap(key)))?;
    // An alias may be another key's tomorrow, which unwraps nothing of this one's.
    if let (Wrapper::Kms { key, .. }, Some(arn)) = (&mut wrapper, done.by) {
        *key = arn;
    }
    let ciphertext = String::from_utf8(done.bytes.to_vec())
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()));
    let ciphertext = ciphertext
        .ok_or_else(|| Failure::new(format!("{wrapper} answered with no wrapped key")))?;
    Ok(WrappedKey { wrapper, ciphertext })
}

/// Unwraps a master key.
pub(super) fn unwrap(config: &Config, wrapped: &WrappedKey) -> Result<MasterKey, Failure> {
    let done = call(config, &wrapped.wrapper, &Act::Unwrap(&wrapped.ciphertext))?;
    MasterKey::from_bytes(&done.bytes)
        .ok_or_else(|| Failure::new(format!("{} unwrapped no master key", wrapped.wrapper)))
}

/// What came of it.
struct Done {
    bytes: Zeroizing<Vec<u8>>,
    /// The key that it was wrapped by, where that has a name that is no other's ever.
    by: Option<String>,
}

impl From<Zeroizing<Vec<u8>>> for Done {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { bytes, by: None }
    }
}

fn call(config: &Config, wrapper: &Wrapper, act: &Act<'_>) -> Result<Done, Failure> {
    let called = runtime_of_one_call(async {
        let upstream = far_side(config, &[], Arc::new(NoLogins))?;
        let caller = Caller {
            via: Via::Alone(&upstream, &WithoutLog),
            purpose: "master-key",
            workspace: None,
            uses: None,
        };
        let done = match wrapper {
            Wrapper::Transit { .. } => transit(&caller, wrapper, act).await,
            Wrapper::Kms { .. } => kms(&caller, wrapper, act).await,
        };
        Ok::<_, Failure>(done)
    });
    called??.map_err(|failed| {
        let did = match act {
            Act::Wrap(_) => "wrapped",
            Act::Unwrap(_) => "unwrapped",
        };
        Failure::new(format!("the master key cannot be {did} by {wrapper}: {}", failed.why))
            .help("mend that and try again; `locum serve --locked` listens meanwhile, and waits for `locum unlock --configured`")
    })
}

async fn transit(caller: &Caller<'_>, wrapper: &Wrapper, act: &Act<'_>) -> Result<Done, Failed> {
    let Wrapper::Transit { url, mount, key, login, secret_file, namespace } = wrapper else {
        return Err("it is no transit key".into());
    };
    let server = vault::Server { url, login, namespace: namespace.as_deref() };
    let own = || match secret_file {
        Some(path) => Ok(trimmed(&file(Path::new(path))?)),
        None => Err("nothing says where the login's secret lies".into()),
    };
    let (what, body) = match act {
        Act::Wrap(key) => ("encrypt", json!({"plaintext": BASE64.encode(*key)})),
        Act::Unwrap(text) => ("decrypt", json!({"ciphertext": text})),
    };
    let said = server.write(caller, own, &format!("{mount}/{what}/{key}"), &body).await?;
    let field = |name: &str| text_of(&said["data"], name).map_err(|_| Failed::from(NO_KEY));
    match act {
        Act::Wrap(_) => Ok(plain(&field("ciphertext")?).into()),
        Act::Unwrap(_) => Ok(decoded(&field("plaintext")?)?.into()),
    }
}

const NO_KEY: &str = "its answer has no key";

async fn kms(caller: &Caller<'_>, wrapper: &Wrapper, act: &Act<'_>) -> Result<Done, Failed> {
    let Wrapper::Kms { url, region, key, login } = wrapper else {
        return Err("it is no key of KMS".into());
    };
    let keys = match login {
        KmsLogin::File { path } => {
            let secret = login_file(path).await?;
            let kind = Kind::Aws(Box::<Aws>::default());
            Material::read(&secret, &kind).map_err(|_| "the file has no key of AWS in it")?
        }
        KmsLogin::Environment => aws::keys(caller, &CloudLogin::Environment, region).await?,
        KmsLogin::WebIdentity => aws::keys(caller, &CloudLogin::WebIdentity, region).await?,
        KmsLogin::Instance => aws::keys(caller, &CloudLogin::Instance, region).await?,
    };
    let service = aws::Service { url, region, name: "kms" };
    let context = json!({CONTEXT.0: CONTEXT.1});
    let (action, given, taken) = match act {
        Act::Wrap(plain) => (
            "TrentService.Encrypt",
            json!({"KeyId": key, "EncryptionContext": context, "Plaintext": BASE64.encode(*plain)}),
            "CiphertextBlob",
        ),
        Act::Unwrap(text) => (
            "TrentService.Decrypt",
            json!({"KeyId": key, "EncryptionContext": context, "CiphertextBlob": text}),
            "Plaintext",
        ),
    };
    let said = service.call(caller, &keys, action, &given).await?;
    let field = text_of(&said, taken).map_err(|_| Failed::from(NO_KEY))?;
    match act {
        Act::Wrap(_) => {
            let arn = said["KeyId"].as_str().filter(|name| name.starts_with("arn:"));
            let arn = arn.ok_or_else(|| Failed::from("its answer does not say by which key"))?;
            Ok(Done { bytes: plain(&field), by: Some(arn.to_owned()) })
        }
        Act::Unwrap(_) => Ok(decoded(&field)?.into()),
    }
}

fn plain(text: &crate::secret::Secret) -> Zeroizing<Vec<u8>> {
    text.expose(|text| Zeroizing::new(text.to_vec()))
}

fn decoded(text: &crate::secret::Secret) -> Result<Zeroizing<Vec<u8>>, Failed> {
    text.expose(|text| BASE64.decode(text)).map(Zeroizing::new).map_err(|_| NO_KEY.into())
}

fn trimmed(secret: &crate::secret::Secret) -> crate::secret::Secret {
    secret.expose(|bytes| crate::secret::Secret::new(bytes.trim_ascii().to_vec()))
}

/// Runs one call to its end. Callers may be on a runtime's own thread, where nothing may block on
/// another: it gets a thread for itself.
fn runtime_of_one_call<T: Send>(work: impl Future<Output = T> + Send) -> Result<T, Failure> {
    let failed = |why: String| Failure::new(format!("the call could not be begun: {why}"));
    std::thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok::<T, std::io::Error>(runtime.block_on(work))
        };
        let done = scope.spawn(run).join();
        done.map_err(|_| failed("its thread has failed".to_owned()))?
            .map_err(|error| failed(error.to_string()))
    })
}
