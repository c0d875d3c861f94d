//! Who administers the workspace without the home's files.

use serde::{Deserialize, Serialize};

use super::{Call, Desk, Made, Order, Trouble, after};
use crate::app::Failure;
use crate::reference::Name;
use crate::vault;
use crate::vault::Role;

#[derive(Serialize, Deserialize)]
pub(crate) struct Administrator {
    pub(crate) name: Name,
    pub(crate) role: Role,
    pub(crate) token_id: String,
    pub(crate) created: i64,
    pub(crate) expires: Option<i64>,
    pub(crate) revoked: Option<i64>,
}

/// All of them, with those who were revoked last.
pub(crate) struct ListAdministrators;

impl Order for ListAdministrators {
    type Answer = Vec<Administrator>;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get("/v1/administrators"))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Administrator>, Trouble> {
        let shown = |one: vault::Administrator| {
            let vault::Administrator { name, role, token_id, created, expires, revoked, .. } = one;
            Administrator { name, role, token_id, created, expires, revoked }
        };
        desk.read(|vault| Ok(vault.administrators()?.into_iter().map(shown).collect()))
    }
}

/// One more.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddAdministrator {
    pub(crate) name: Name,
    pub(crate) role: Role,
    /// How long the token is good for, in seconds; until it is revoked where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AddedAdministrator {
    pub(crate) name: Name,
    pub(crate) role: Role,
    pub(crate) workspace: Name,
    pub(crate) token_id: String,
    pub(crate) token: Made,
}

impl Order for AddAdministrator {
    type Answer = AddedAdministrator;

    fn call(&self) -> Result<Call, Failure> {
        Call::post("/v1/administrators", self)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<AddedAdministrator, Trouble> {
        let Self { name, role, ttl } = self;
        let (token_id, token) =
            desk.write(|vault| Ok(vault.administrator_add(&name, role, ttl.map(after))?))?;
        let workspace = desk.home().workspace().clone();
        Ok(AddedAdministrator { name, role, workspace, token_id, token: Made(token) })
    }
}

/// The end of one's administration.
pub(crate) struct RevokeAdministrator {
    pub(crate) name: Name,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Revoked {
    pub(crate) name: Name,
    pub(crate) revoked: bool,
}

impl Order for RevokeAdministrator {
    type Answer = Revoked;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/administrators/{}/revoke", self.name), &serde_json::json!({}))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Revoked, Trouble> {
        desk.write(|vault| Ok(vault.administrator_revoke(&self.name)?))?;
        Ok(Revoked { name: self.name, revoked: true })
    }
}
