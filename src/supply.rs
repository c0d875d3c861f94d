//! Values that do not lie in the vault as they are sent: tokens that are minted from what lies there,
//! and secrets that other vaults keep.
//!
//! One trait stands between the request path, which knows neither OAuth nor other vaults, and those
//! who make values. A credential whose value is in the vault never comes here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::credential::Credential;
use crate::outcome::Refusal;
use crate::secret::Secret;

/// A value under way.
pub type Supplying<'a> = Pin<Box<dyn Future<Output = Result<Secret, Refusal>> + Send + 'a>>;

/// A token on its way into the vault.
pub type Keeping<'a> = Pin<Box<dyn Future<Output = Result<u32, Refusal>> + Send + 'a>>;

/// Takes in tokens that origins mint for agents.
pub trait Keep: Send + Sync {
    /// Makes `token` the next version of a credential that is for captured tokens, and returns when it
    /// is written and in force. Dropping the future does not stop that.
    fn keep(self: Arc<Self>, credential: Arc<Credential>, token: Secret) -> Keeping<'static>;
}

/// Makes or fetches values. Whoever implements it sees to it that one credential has one refresh in
/// flight, that what is kept in memory is sealed there, and that no value is given out that has
/// expired.
pub trait Supply: Send + Sync {
    /// The value, if it is at hand and good. Waits for nothing; may begin to renew it.
    ///
    /// # Errors
    /// Those of opening what is kept.
    fn at_hand(
        &self,
        credential: &Arc<Credential>,
        version: u32,
    ) -> Result<Option<Secret>, Refusal>;

    /// The value, made or fetched now if need be.
    ///
    /// Dropping the future gives up the wait, and not what is waited for: a refresh token that an
    /// authorization server has exchanged must be written down, whoever asked for it is gone or not.
    fn supply<'a>(&'a self, credential: &'a Arc<Credential>, version: u32) -> Supplying<'a>;

    /// Values of the credential that may still mean something to an origin, the current one among
    /// them: what an answer must not contain, whether this request carries it or not.
    fn known(&self, credential: &Credential, version: u32) -> Vec<Secret>;

    /// An origin said of a request with this value that it is not valid (401): the next use gets
    /// another, if another can be had.
    fn rejected(&self, credential: &Arc<Credential>, version: u32);
}
