//! What of a body comes behind its beginning: read as it is sent, and cut where it holds what would have
//! had a say in the decision, which was made on the beginning.
//!
//! Nothing is replaced here. What passes is what would have passed, byte by byte, if all of the body had
//! been there to be decided on.

use std::fmt;
use std::sync::Arc;

use super::References;
use crate::credential::{Credential, CredentialIndex, Slot};
use crate::host::Origin;
use crate::outcome::{Code, Refusal};
use crate::policy::{Grant, Permit};
use crate::reference::Name;
use crate::request::{Behind, BodyKind, BodyText, InboundRequest, Place, Scanner, Seen};

/// The rest of a body whose beginning was decided on.
pub struct Remainder {
    scanner: Scanner,
    kind: BodyKind,
    judge: Judge,
}

impl fmt::Debug for Remainder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remainder").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Why what comes behind a beginning is not read, and the request is refused.
#[derive(Debug)]
pub struct Unfollowed {
    /// What is said.
    pub refusal: Refusal,
    /// The honeytoken that was named, if one was.
    pub honeytoken: Option<Name>,
    /// Whether a reference stood in a field of a credential that is bound elsewhere.
    pub moved: bool,
}

/// Whether a text is a secret of the vault.
pub type Known = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

impl From<Unfollowed> for Refusal {
    fn from(why: Unfollowed) -> Self {
        why.refusal
    }
}

impl Remainder {
    /// For the request that `permit` is for, of whose body the beginning was read.
    ///
    /// # Errors
    /// `body-too-large` when nothing enters the beginning, or all of the body has a say; and what
    /// [`Self::push`] says of a text that is not over at its end.
    pub fn new(
        behind: Option<Behind>,
        (request, references): (&InboundRequest, &References),
        permit: &Permit,
        index: &Arc<CredentialIndex>,
    ) -> Result<Self, Unfollowed> {
        let (Some(body), Some(Behind { scanner, open })) = (request.body(), behind) else {
            return Err(Unfollowed { refusal: too_late(), honeytoken: None, moved: false });
        };
        let is_slot = |place: &Place| {
            let located = references.located().iter().flat_map(|l| &l.credential().slots);
            located.into_iter().any(|slot| place.is(slot))
        };
        let filled = body.found().iter().map(|found| &found.place).filter(|place| is_slot(place));
        let mut judge = Judge {
            index: Arc::clone(index),
            origin: request.origin().clone(),
            filled: filled.cloned().collect(),
            refuse_misplaced: permit.refuses_misplaced(),
            counted: false,
            misplaced: 0,
            honeytoken: None,
            moved: false,
            known: None,
            verdict: enters_beginning((request, body, references), permit),
        };
        if let Some((place, names)) = &open {
            for name in names {
                judge.reference(place, name.as_deref());
            }
        }
        match judge.verdict.clone() {
            Ok(()) => Ok(Self { scanner, kind: body.kind().clone(), judge }),
            Err(refusal) => {
                let Judge { honeytoken, moved, .. } = judge;
                Err(Unfollowed { refusal, honeytoken, moved })
            }
        }
    }

    /// Has the fields that a credential enters looked at for secrets of the vault.
    #[must_use]
    pub fn watching(mut self, known: Known) -> Self {
        self.judge.known = Some(known);
        self
    }

    /// Reads on: what may be sent after it, if it may.
    ///
    /// # Errors
    /// `body-too-large` for a reference in a slot, `body-unreadable` for a field that was filled and is
    /// there again and for what cannot be read, `misplaced-reference` where the rule says so, `real-credential`
    /// for a secret in a slot. Nothing of the body may be sent any more.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        let Self { scanner, judge, .. } = self;
        let read = scanner.push(piece, &mut |seen| judge.see(&seen));
        self.verdict(read.is_ok())
    }

    /// The body is over. Asked before the last of it is sent.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(&mut self) -> Result<(), Refusal> {
        let Self { scanner, judge, .. } = self;
        let read = scanner.finish(&mut |seen| judge.see(&seen));
        self.verdict(read.is_ok())
    }

    /// How many references stood outside the slots so far.
    #[must_use]
    pub fn misplaced(&self) -> usize {
        self.judge.misplaced
    }

    /// The honeytoken that was named, if one was.
    #[must_use]
    pub fn honeytoken(&self) -> Option<&Name> {
        self.judge.honeytoken.as_ref()
    }

    /// Whether a reference stood in a field of a credential that is bound elsewhere.
    #[must_use]
    pub fn moved(&self) -> bool {
        self.judge.moved
    }

    fn verdict(&self, read: bool) -> Result<(), Refusal> {
        self.judge.verdict.clone()?;
        if read {
            return Ok(());
        }
        let why = self.kind.malformed().unwrap_or("The name of a field is too long to be read");
        Err(Refusal::with_detail(Code::BodyUnreadable, why))
    }
}

/// Whether something enters the beginning, and the rest has no say.
fn enters_beginning(
    (request, body, references): (&InboundRequest, &BodyText, &References),
    permit: &Permit,
) -> Result<(), Refusal> {
    let slot = |grant: &Grant| grant.credential().slots.get(grant.slot()).cloned();
    let enters = permit.grants().iter().filter_map(slot).any(|slot| body.kind().has(&slot));
    if !enters || body.found().is_empty() {
        return Err(too_late());
    }
    if permit.reads_body() || references.wants_all(request) {
        return Err(Refusal::with_detail(
            Code::BodyTooLarge,
            "The request is signed over all of its body, which is longer than what is held in memory",
        ));
    }
    Ok(())
}

/// A body that is not searched to its end before it is sent.
fn too_late() -> Refusal {
    Refusal::with_detail(
        Code::BodyTooLarge,
        "The body is longer than what is searched before it is sent, and no credential enters that beginning: put the field before the file",
    )
}

struct Judge {
    index: Arc<CredentialIndex>,
    origin: Origin,
    /// The places that were filled.
    filled: Vec<Place>,
    refuse_misplaced: bool,
    /// Whether the text that is being read was counted.
    counted: bool,
    misplaced: usize,
    honeytoken: Option<Name>,
    moved: bool,
    known: Option<Known>,
    verdict: Result<(), Refusal>,
}

impl Judge {
    fn see(&mut self, seen: &Seen<'_>) {
        match seen {
            // What comes behind a reason is not sent, and nobody counts it.
            _ if self.verdict.is_err() => {}
            Seen::Entry(place) if self.filled.iter().any(|filled| place.leads_to(filled)) => {
                let detail = "The field that holds the reference is there twice";
                self.refuse(Refusal::with_detail(Code::BodyUnreadable, detail));
            }
            Seen::Entry(_) => {}
            Seen::Reference(place, name) => self.reference(place, *name),
            Seen::Text { place, refers, says, .. } => {
                self.counted = false;
                if let Some(says) = says.filter(|_| *refers) {
                    self.stand_in(place, says);
                }
                let known = |says: &&[u8]| self.known.as_ref().is_some_and(|known| known(says));
                if self.is_entered(place) && says.as_ref().is_some_and(known) {
                    self.refuse(Refusal::new(Code::RealCredential));
                }
            }
        }
    }

    fn reference(&mut self, place: &Place, name: Option<&str>) {
        let honeytoken = name.and_then(|name| self.index.get(name));
        if let Some(bait) = honeytoken.filter(|credential| credential.properties.honeytoken) {
            self.honeytoken = Some(bait.name.clone());
        }
        if self.is_slot(place, name) {
            let named = name.and_then(|name| self.index.referred(name));
            self.moved |= named.is_some_and(|named| self.is_moved(place, named));
            return self.refuse_late();
        }
        if !std::mem::replace(&mut self.counted, true) {
            self.misplaced += 1;
        }
        if self.refuse_misplaced {
            self.refuse(Refusal::new(Code::Misplaced));
        }
    }

    /// A stand-in may have more behind the reference in it that could be of its name, so that only all of the
    /// text says whose it is.
    fn stand_in(&mut self, place: &Place, says: &[u8]) {
        let Some(named) = self.index.named_by(says) else { return };
        if named.properties.honeytoken {
            self.honeytoken = Some(named.name.clone());
        }
        if is_of(place, named) {
            self.moved |= self.is_moved(place, named);
            self.refuse_late();
        }
    }

    fn is_moved(&self, place: &Place, named: &Credential) -> bool {
        is_of(place, named) && !named.is_bound_to(&self.origin)
    }

    /// Whether a credential that is bound here enters the place, or what it is in.
    fn is_entered(&self, place: &Place) -> bool {
        self.index.concerned(&self.origin).any(|bound| is_of(place, bound))
    }

    fn refuse_late(&mut self) {
        let detail = "A reference stands in a field behind what is searched before the body is sent: put it before the file";
        self.refuse(Refusal::with_detail(Code::BodyTooLarge, detail));
    }

    /// Whether the reference would have had a say: in a field of any credential that is bound here, or of
    /// its own, or within one.
    fn is_slot(&self, place: &Place, name: Option<&str>) -> bool {
        let here = |slot: &Slot| place.is(slot);
        let of = |credential: &Credential| {
            credential.slots.iter().any(|slot| here(slot) || place.is_inside(slot))
        };
        name.and_then(|name| self.index.referred(name)).is_some_and(|named| of(named))
            || self.index.concerned(&self.origin).any(|bound| bound.slots.iter().any(here))
    }

    /// The first reason stands.
    fn refuse(&mut self, refusal: Refusal) {
        if self.verdict.is_ok() {
            self.verdict = Err(refusal);
        }
    }
}

/// Whether the place is a field of the credential's own, or within one.
fn is_of(place: &Place, credential: &Credential) -> bool {
    credential.slots.iter().any(|slot| place.is(slot) || place.is_inside(slot))
}
