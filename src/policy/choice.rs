//! Which of several credentials that serve one reference a request gets: the first that there is for
//! its agent, step and user, and that the rules allow.

use std::sync::Arc;

use super::decide::within;
use super::{Grant, Permit};
use crate::agent::{Identity, Label};
use crate::credential::{Chain, Credential, CredentialIndex, Group, by_weight};
use crate::host::Origin;
use crate::inject::Located;
use crate::outcome::{Code, Refusal};
use crate::record::Why;

/// A reference of a request, and what it gets.
pub(super) struct Picked<'r> {
    located: &'r Located,
    pub(super) credential: &'r Arc<Credential>,
    slot: Option<usize>,
    why: Why,
    /// All that could serve as well, the one that was taken among them.
    pool: Vec<(&'r Arc<Credential>, usize)>,
}

/// One that could serve as well.
#[derive(Clone, Debug)]
pub struct Alternative {
    credential: Arc<Credential>,
    slot: usize,
}

impl Alternative {
    /// Which credential.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }
}

/// Whether a credential of this owner may be used for the caller: somebody vouches for the user, or the
/// operator said that nobody has to.
pub(super) fn is_for(who: &Identity, owner: &Label, index: &CredentialIndex) -> bool {
    who.vouched_user() == Some(owner)
        || (index.trusts_claims() && who.context.user.as_ref() == Some(owner))
}

impl<'r> Picked<'r> {
    /// What the reference leads to by itself.
    pub(super) fn of(located: &'r Located) -> Self {
        Self {
            located,
            credential: located.credential(),
            slot: located.slot(),
            why: Why::default(),
            pool: Vec::new(),
        }
    }

    pub(super) fn has_slot(&self) -> bool {
        self.slot.is_some()
    }

    /// Chooses, where several serve the reference.
    pub(super) fn choose(
        &mut self,
        (who, index): (&Identity, &CredentialIndex),
        origin: &Origin,
        allows: impl Fn(&Credential) -> bool,
    ) -> Result<(), Refusal> {
        if !self.credential.is_face() {
            return Ok(());
        }
        let groups = self.credential.chain_in(who.environment()).map_or(&[][..], Chain::groups);
        let node = who.context.node.as_ref();
        let face = self.credential;
        let wanted = self.slot.and_then(|slot| face.slots.get(slot));
        let fit = |member: &Arc<Credential>| {
            let serves = member.is_bound_to(origin) && member.version.is_some();
            let slot = match wanted {
                Some(wanted) => member.slots.iter().position(|slot| slot == wanted),
                // Of a shape that nobody declared, which is said later.
                None => Some(0),
            };
            slot.filter(|_| serves && within(who, member, index))
        };
        let mut first = None;
        let theirs = |group: &&Group| group.is_for(node, |owner| is_for(who, owner, index));
        for group in groups.iter().filter(theirs) {
            let fitting = group.members().iter().filter_map(|member| Some((member, fit(member)?)));
            let fitting: Vec<_> = fitting.collect();
            first = first.or_else(|| fitting.first().map(|one| (group, vec![*one])));
            let allowed: Vec<_> =
                fitting.into_iter().filter(|(member, _)| allows(member)).collect();
            if !allowed.is_empty() {
                self.take(group, allowed);
                return Ok(());
            }
        }
        // One that is not allowed is refused by the rules, in their words.
        let (group, only) = first.ok_or_else(|| {
            Refusal::new(Code::CredentialRefused).because(if face.is_value() {
                "the value has nothing for this environment, agent, node and user"
            } else {
                "no credential serves this reference for this agent, node and user"
            })
        })?;
        self.take(group, only);
        Ok(())
    }

    fn take(&mut self, group: &Group, members: Vec<(&'r Arc<Credential>, usize)>) {
        let pool = members.len() > 1;
        let weights: Vec<u32> = members.iter().map(|(member, _)| member.weight()).collect();
        let turn = if pool { group.turn() } else { 0 };
        let Some((credential, slot)) = members.get(by_weight(&weights, turn)) else { return };
        self.credential = credential;
        self.slot = self.slot.map(|_| *slot);
        let value = credential.held_by().is_some();
        let tier = Some(group.tier()).filter(|_| credential.as_text().is_none());
        self.why = Why { tier, node: group.is_for_nodes(), pool, value, ..self.why };
        if pool {
            self.pool = members;
        }
    }

    pub(super) fn grant(&self) -> Option<Grant> {
        let alternative = |(credential, slot): &(&Arc<Credential>, usize)| Alternative {
            credential: Arc::clone(credential),
            slot: *slot,
        };
        Some(Grant {
            version: self.credential.version?,
            slot: self.slot?,
            placeholder: Arc::clone(self.located.sent()),
            credential: Arc::clone(self.credential),
            why: self.why,
            pool: self.pool.iter().map(alternative).collect(),
        })
    }
}

impl Grant {
    /// Why this credential, and this version of it.
    #[must_use]
    pub fn why(&self) -> Why {
        self.why
    }

    /// What could be injected in its place, itself among them. Empty but for a pool.
    #[must_use]
    pub fn pool(&self) -> &[Alternative] {
        &self.pool
    }
}

impl Permit {
    /// Has each grant inject the version that `choose` names, if that is one which may be used at the
    /// second `at`: the current one, or an older one in its grace. The one that it would have been is
    /// hidden like the others.
    pub fn choose_versions(&mut self, at: i64, mut choose: impl FnMut(&Grant) -> Option<u32>) {
        for grant in 0..self.grants.len() {
            let Some(version) = self.grants.get(grant).and_then(&mut choose) else { continue };
            let why = Why { run: true, ..self.grants[grant].why };
            self.choose_version(grant, (version, at), why);
        }
    }

    /// The same for one grant; false when it is the one that it has, or may not be used.
    pub fn choose_version(&mut self, grant: usize, (version, at): (u32, i64), why: Why) -> bool {
        let Some(grant) = self.grants.get_mut(grant) else { return false };
        if version == grant.version || !grant.credential.stands(version, at) {
            return false;
        }
        let same = |other: &&mut Grant| {
            other.version == version && Arc::ptr_eq(&other.credential, &grant.credential)
        };
        if let Some(other) = self.hidden.iter_mut().find(same) {
            other.version = grant.version;
        }
        (grant.version, grant.why) = (version, why);
        true
    }

    /// Has a grant inject another credential of its pool, in its current version.
    pub fn choose_member(&mut self, grant: usize, member: usize, why: Why) -> bool {
        let Some(grant) = self.grants.get_mut(grant) else { return false };
        let Some(Alternative { credential, slot }) = grant.pool.get(member).cloned() else {
            return false;
        };
        let Some(version) = credential.version else { return false };
        if Arc::ptr_eq(&credential, &grant.credential) {
            return false;
        }
        // What is not injected is hidden: the one that was tried before, too.
        let same = |other: &&mut Grant| {
            other.version == version && Arc::ptr_eq(&other.credential, &credential)
        };
        match self.hidden.iter_mut().find(same) {
            Some(other) => {
                other.credential = Arc::clone(&grant.credential);
                other.version = grant.version;
            }
            None => self.hidden.push(Grant {
                credential: Arc::clone(&grant.credential),
                version: grant.version,
                slot: grant.slot,
                placeholder: Arc::clone(&grant.placeholder),
                why: Why::default(),
                pool: Box::default(),
            }),
        }
        grant.credential = credential;
        (grant.version, grant.slot, grant.why) = (version, slot, why);
        true
    }
}
