//! Tokens that an origin mints: out of the answer, into the vault, and a placeholder in their place.

use std::sync::Arc;

use http::Response;

use super::{Gateway, State};
use crate::credential::Credential;
use crate::outcome::{Code, Refusal};
use crate::policy::{Capture, Permit};
use crate::scrub::{Needles, ScrubbedBody, Whole};
use crate::supply::Keep;
use crate::upstream::UpstreamBody;

/// What has to be taken out of the answer to one request.
pub(super) struct Captures {
    keep: Arc<dyn Keep>,
    /// Each with the credential that it is for.
    all: Vec<(Capture, Arc<Credential>)>,
}

impl Captures {
    /// Those of the permit; none for nearly all.
    ///
    /// # Errors
    /// `capture-failed` when there is nowhere to keep one: said before the request leaves, because a
    /// token that nobody keeps is lost.
    pub(super) fn of(
        gateway: &Gateway,
        state: &State,
        permit: &Permit,
    ) -> Result<Option<Self>, Refusal> {
        if permit.captures().is_empty() {
            return Ok(None);
        }
        let refuse = |why| Refusal::new(Code::CaptureFailed).because(why);
        let keep = gateway.keep.get().ok_or_else(|| refuse("nobody keeps tokens here"))?;
        let mut all = Vec::with_capacity(permit.captures().len());
        for capture in &**permit.captures() {
            let credential = state.credentials.get(capture.credential.as_str());
            let credential = credential.filter(|credential| credential.properties.captured);
            let credential = credential
                .ok_or_else(|| refuse("no credential of this name takes captured tokens"))?;
            all.push((capture.clone(), Arc::clone(credential)));
        }
        Ok(Some(Self { keep: Arc::clone(keep), all }))
    }

    /// Takes the values out of an answer. One that did not go well may be without.
    ///
    /// # Errors
    /// `capture-failed` when a value is not there or was not kept. Nothing of the answer may go on
    /// then.
    pub(super) async fn take(
        self,
        response: Response<ScrubbedBody<UpstreamBody>>,
    ) -> Result<Response<ScrubbedBody<UpstreamBody>>, Refusal> {
        let whole = Whole::read(response).await?;
        if whole.is_unsearched() {
            return Err(Refusal::new(Code::CaptureFailed).because("the answer cannot be decoded"));
        }
        // All are found before any is kept.
        let mut values = Vec::with_capacity(self.all.len());
        let mut needles = Needles::default();
        for (capture, credential) in self.all {
            let Some(value) = whole.value(&capture.from)? else { continue };
            // The one that is kept already, which was taken out as any other secret of the origin.
            if value.expose(|text| text == credential.placeholder().as_bytes()) {
                continue;
            }
            needles.add(&value, &credential.placeholder());
            values.push((credential, value));
        }
        for (credential, value) in values {
            Arc::clone(&self.keep).keep(credential, value).await?;
        }
        Ok(whole.without(needles))
    }
}
