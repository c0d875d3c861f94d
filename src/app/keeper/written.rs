//! What the use of a credential has the proxy itself write to the vault.

use std::sync::Arc;

use super::Keeper;
use crate::app::Failure;
use crate::credential::Credential;
use crate::outcome::{Code, Refusal};
use crate::reference::Name;
use crate::secret::Secret;
use crate::supply::{Keep, Keeping};
use crate::vault::Vault;

impl Keeper {
    /// Writes to the vault what the use of a version has made of its secret, and puts it in force.
    pub(in crate::app) async fn renew(
        self: &Arc<Self>,
        (workspace, name): (Name, Name),
        version: u32,
        secret: Secret,
    ) -> Result<(), Failure> {
        let write = move |keeper: &Self| {
            let renew = |vault: &mut Vault| vault.renew(&name, version, &secret);
            keeper.seen.lock().write(&keeper.home, &workspace, renew)?;
            keeper.look(false);
            Ok(())
        };
        let gone = || Failure::new("the thread that writes to the vault has failed");
        self.apart(write).await.ok_or_else(gone)?
    }

    /// Writes down what a version was given in exchange for a refresh token that lies elsewhere.
    pub(in crate::app) async fn keep_exchanged(
        self: &Arc<Self>,
        (workspace, name): (Name, Name),
        version: u32,
        (lent, given): (Secret, Secret),
    ) -> Result<(), Failure> {
        let write = move |keeper: &Self| {
            let keep = |vault: &mut Vault| vault.keep_exchanged((&name, version), &lent, &given);
            keeper.seen.lock().write(&keeper.home, &workspace, keep)?;
            keeper.look(false);
            Ok(())
        };
        let gone = || Failure::new("the thread that writes to the vault has failed");
        self.apart(write).await.ok_or_else(gone)?
    }

    /// What was given in exchange for it, if anything was.
    pub(in crate::app) async fn exchanged(
        self: &Arc<Self>,
        (workspace, name): (Name, Name),
        lent: Secret,
    ) -> Result<(Secret, Option<Secret>), Failure> {
        let read = move |keeper: &Self| {
            let mut seen = keeper.seen.lock();
            seen.follow_file(&keeper.home)?;
            let look =
                |vault: &mut Vault| vault.within(&workspace, |vault| vault.exchanged(&name, &lent));
            let given = seen.with_its_key(&keeper.home, look)?;
            Ok((lent, given))
        };
        let gone = || Failure::new("the thread that reads the vault has failed");
        self.apart(read).await.ok_or_else(gone)?
    }
}

impl Keep for Keeper {
    fn keep(self: Arc<Self>, credential: Arc<Credential>, token: Secret) -> Keeping<'static> {
        let name = credential.name.clone();
        let writing = tokio::spawn(async move {
            let write = move |keeper: &Self| {
                let write = |vault: &mut Vault| vault.capture(&credential.name, &token);
                let workspace = &credential.workspace;
                let version = keeper.seen.lock().write(&keeper.home, workspace, write)?;
                keeper.look(false);
                Ok::<u32, Failure>(version)
            };
            self.apart(write).await
        });
        Box::pin(async move {
            let error = match writing.await {
                Ok(Some(Ok(version))) => return Ok(version),
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) | Err(_) => "the thread that writes to the vault has failed".to_owned(),
            };
            tracing::error!(credential = %name, %error, "a token that an origin minted could not be kept");
            Err(Refusal::new(Code::CaptureFailed).because("the vault did not take the token"))
        })
    }
}
