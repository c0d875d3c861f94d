//! Messages of an agent that a credential may enter: each text is decided on, filled and recorded by
//! itself, for as long as the socket is open. Some services have a login renewed in the same socket.

use std::sync::Arc;

use bytes::Bytes;

use crate::inject::{References, Sighting, Unknown, fill_message};
use crate::outcome::{Code, Refusal};
use crate::policy::{Permit, Standing};
use crate::proxy::exchange::named;
use crate::proxy::habits;
use crate::proxy::held::{Full, Held, Purse};
use crate::proxy::ledger::Ledger;
use crate::proxy::supplied::resolve;
use crate::proxy::{Caller, Gateway, State, Workspace, unix_now};
use crate::record::{Use, Why};
use crate::request::{BodyKind, BodyText, ClientFrames, Piece, Unfollowed, text_frame};

/// What is needed to decide on a message.
pub(super) struct Messages {
    standing: Standing,
    /// The versions that the scrub of this socket knows: no others may enter it.
    known: Box<[Use]>,
    /// Digests of the values that it knows, where some of them are made and may be made anew.
    values: Box<[[u8; 32]]>,
}

impl Messages {
    pub(super) fn new(standing: Standing, permit: &Permit) -> Self {
        let known = permit.grants().iter().chain(permit.hidden()).map(|grant| Use {
            credential: grant.credential().name.clone(),
            version: Some(grant.version()),
            slot: None,
            why: Why::default(),
        });
        Self { standing, known: known.collect(), values: Box::default() }
    }

    /// Notes digests of the values that the scrub knows.
    pub(super) fn knows(&mut self, values: Box<[[u8; 32]]>) {
        self.values = values;
    }

    /// What may enter the socket.
    pub(super) fn known(&self) -> &[Use] {
        &self.known
    }

    pub(super) fn follow(
        self,
        (gateway, caller): (&Arc<Gateway>, &Caller),
        ledger: Ledger,
    ) -> Following {
        let frames = ClientFrames::new(gateway.limits.body_slot);
        let purse = Purse::of(gateway, caller);
        let (gateway, workspace) = (Arc::clone(gateway), Arc::clone(&caller.workspace));
        Following { messages: self, frames, purse, held: None, gateway, workspace, ledger }
    }

    /// A socket goes on with the version that was there when it was opened, while that may be used.
    fn settle(&self, permit: &mut Permit, at: i64) {
        permit.choose_versions(at, |grant| {
            let of_it = |known: &&Use| known.credential == grant.credential().name;
            let mut known = self.known.iter().filter(of_it).filter_map(|known| known.version);
            let first = known.next()?;
            let is_known = first == grant.version() || known.any(|v| v == grant.version());
            (!is_known).then_some(first)
        });
    }

    fn know(&self, permit: &Permit) -> bool {
        permit.grants().iter().all(|grant| {
            self.known.iter().any(|known| {
                known.credential == grant.credential().name
                    && known.version == Some(grant.version())
            })
        })
    }
}

/// The way up of a socket whose messages are looked at.
pub(super) struct Following {
    messages: Messages,
    frames: ClientFrames,
    purse: Purse,
    /// What there is of a text that is not over.
    held: Option<Held>,
    gateway: Arc<Gateway>,
    workspace: Arc<Workspace>,
    ledger: Ledger,
}

/// What was decided on a message, and on which state.
struct Decided {
    state: Arc<State>,
    references: References,
    decision: Result<Permit, Refusal>,
}

impl Following {
    /// What goes up of the next bytes.
    ///
    /// # Errors
    /// Why nothing more may. It is recorded.
    pub(super) async fn take(&mut self, chunk: Bytes) -> Result<Vec<Bytes>, Refusal> {
        let pieces = self.frames.push(chunk).map_err(|why| {
            let refusal = match why {
                Unfollowed::TooLarge => Refusal::new(Code::BodyTooLarge),
                Unfollowed::Malformed => {
                    let detail = "The frames of the socket cannot be followed";
                    Refusal::with_detail(Code::BodyUnreadable, detail)
                }
            };
            self.refused(&self.workspace.state(), refusal, (&[], None))
        })?;
        self.hold(self.frames.gathered())
            .map_err(|full| self.refused(&self.workspace.state(), full.into(), (&[], None)))?;
        let mut up = Vec::with_capacity(pieces.len());
        for piece in pieces {
            up.push(match piece {
                Piece::Raw(raw) => raw,
                Piece::Text { text, raw } => self.filled(text).await?.unwrap_or(raw),
            });
        }
        Ok(up)
    }

    /// Counts what is gathered of a text among the bodies that are held.
    fn hold(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes == 0 {
            self.held = None;
            return Ok(());
        }
        self.held.get_or_insert_with(|| self.purse.open()).grow(bytes)
    }

    /// A text with its secrets in it, as a frame; none when it holds no reference in a slot.
    async fn filled(&self, text: Bytes) -> Result<Option<Bytes>, Refusal> {
        let text = BodyText::read(text, BodyKind::Message);
        self.unless_sighted(&text)?;
        if text.fault().is_none() && text.found().is_empty() {
            return Ok(None);
        }
        let mut decided = self.decide(self.workspace.state(), &text);
        let refers = decided.references.any();
        if decided.decision.is_err() && refers && self.gateway.look_again().await {
            decided = self.decide(self.workspace.state(), &text);
        }
        let Decided { state, references, decision } = decided;
        if let Some(bait) = references.honeytoken() {
            self.ledger.baited(&bait.name);
        }
        let named = named(&references);
        let refused = |refusal| self.refused(&state, refusal, (&named, references.unknown()));
        let permit = decision.map_err(refused)?;
        if references.misplaced() > 0 {
            self.gateway.metrics.misplaced(references.misplaced());
        }
        if permit.grants().is_empty() {
            return Ok(None);
        }
        let standing = &self.messages.standing;
        permit.count(&standing.who().agent, self.gateway.elapsed()).map_err(refused)?;
        habits::look_at_message(&permit, &self.ledger, unix_now()).map_err(refused)?;
        let asker = (&**standing.who(), standing.origin());
        let resolved = resolve(&self.gateway, &state, &permit, asker).await.map_err(refused)?;
        // The scrub of the answers would not know it.
        if permit.is_supplied() && !resolved.is_among(&permit, &self.messages.values) {
            let refusal = Refusal::new(Code::CredentialRefused);
            return Err(refused(
                refusal.because("another token was made since the socket was opened"),
            ));
        }
        let (message, uses) = fill_message(&text, &permit, resolved).map_err(refused)?;
        // Why here: the last step before a byte may leave. No record, no message.
        let message = self.ledger.also(message, &state, permit.rule(), &uses)?;
        let mut mask = [0; 4];
        getrandom::fill(&mut mask).map_err(|_| Refusal::new(Code::Internal))?;
        Ok(Some(Bytes::from_owner(text_frame(&message.into_inner(), mask))))
    }

    /// Refuses a message that has a secret of the vault in a credential's place.
    fn unless_sighted(&self, text: &BodyText) -> Result<(), Refusal> {
        let state = self.workspace.state();
        let Some(sealed) = &state.sealed else { return Ok(()) };
        let origin = self.messages.standing.origin();
        let Some(sighting) = sealed.watch.find_in_body(text, origin, &state.credentials) else {
            return Ok(());
        };
        let Sighting { credential, version } = sighting;
        if state.credentials.get(credential.as_str()).is_some_and(|c| c.properties.honeytoken) {
            self.ledger.baited(&credential);
        }
        let uses = [Use { credential, version: Some(version), slot: None, why: Why::default() }];
        Err(self.refused(&state, Refusal::new(Code::RealCredential), (&uses, None)))
    }

    fn decide(&self, state: Arc<State>, text: &BodyText) -> Decided {
        let standing = &self.messages.standing;
        let index = &state.credentials;
        let references = References::locate_message(text, standing.origin(), index);
        let at = unix_now();
        let who = state.authn.relabelled(standing.who());
        let mut decision = state.policy.authorize_message((standing, &who), &references, index, at);
        if let Ok(permit) = &mut decision {
            self.gateway.runs.settle(&who, permit, at);
            self.messages.settle(permit, at);
        }
        let decision = match decision {
            // The scrub of the answers would not know it.
            Ok(permit) if !self.messages.know(&permit) => {
                Err(Refusal::new(Code::CredentialRefused)
                    .because("the credential changed since the socket was opened"))
            }
            decision => decision,
        };
        Decided { state, references, decision }
    }

    fn refused(
        &self,
        state: &State,
        refusal: Refusal,
        referred: (&[Use], Option<&Unknown>),
    ) -> Refusal {
        self.ledger.refuse_also(state, &refusal, referred);
        refusal
    }
}
