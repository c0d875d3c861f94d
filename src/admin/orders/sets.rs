//! Credential sets.

use serde::{Deserialize, Serialize};

use super::{Call, Desk, Order, Trouble};
use crate::app::Failure;
use crate::reference::Name;
use crate::vault::{SetInfo, Vault};

/// A set and what is in it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Set {
    pub(crate) name: Name,
    pub(crate) members: Vec<Name>,
}

/// All sets of the workspace.
pub(crate) struct ListSets;

impl Order for ListSets {
    type Answer = Vec<Set>;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get("/v1/sets"))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Set>, Trouble> {
        let set = |SetInfo { name, members }| Set { name, members };
        desk.read(|vault| Ok(vault.sets()?.into_iter().map(set).collect()))
    }
}

/// A set, or further members of one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddToSet {
    pub(crate) name: Name,
    pub(crate) members: Vec<Name>,
}

impl Order for AddToSet {
    type Answer = Set;

    fn call(&self) -> Result<Call, Failure> {
        Call::post("/v1/sets", self)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Set, Trouble> {
        let Self { name, members } = self;
        desk.write(|vault| {
            vault.set_add(&name, &members)?;
            now_in(vault, name)
        })
    }
}

/// Takes members out of a set; without any it is the set itself.
pub(crate) struct TakeFromSet {
    pub(crate) name: Name,
    pub(crate) taken: Taken,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Taken {
    #[serde(default)]
    pub(crate) members: Vec<Name>,
}

impl Order for TakeFromSet {
    type Answer = Set;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/sets/{}/remove", self.name), &self.taken)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Set, Trouble> {
        let Self { name, taken: Taken { members } } = self;
        desk.write(|vault| {
            if members.is_empty() {
                vault.set_remove(&name)?;
            } else {
                vault.set_reduce(&name, &members)?;
            }
            now_in(vault, name)
        })
    }
}

fn now_in(vault: &Vault, name: Name) -> Result<Set, Trouble> {
    let members = vault.sets()?.into_iter().find(|set| set.name == name).map(|set| set.members);
    Ok(Set { name, members: members.unwrap_or_default() })
}
