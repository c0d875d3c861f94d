//! Many agents and credentials in one transaction. Each has its line in the journal as if it had come
//! alone, but the state is checked and signed once for all, so that their number adds up and does not
//! multiply.

use super::Vault;
use super::agents::{insert_agent, insert_token};
use super::credentials::{NewCredential, check_new, insert_credential};
use super::error::{Fault, VaultError};
use super::journal::{self, Action};
use crate::reference::Name;
use crate::secret::Secret;
use crate::token::Token;

impl Vault {
    /// Adds many agents, each with a token, and many credentials: all of them, or none. The tokens are
    /// in the order of the agents, and the only copies.
    ///
    /// # Errors
    /// As [`Vault::agent_add`], [`Vault::token_add`] and [`Vault::add_credential`].
    pub fn add_all(
        &mut self,
        agents: &[Name],
        credentials: &[(NewCredential, Secret)],
    ) -> Result<Vec<Token>, VaultError> {
        let path = std::sync::Arc::clone(&self.path);
        self.insert_all(agents, credentials).map_err(|fault| fault.at(&path))
    }

    fn insert_all(
        &mut self,
        agents: &[Name],
        credentials: &[(NewCredential, Secret)],
    ) -> Result<Vec<Token>, Fault> {
        let (tx, keys) = self.begin()?;
        let change = self.change_with(&keys);
        let line = |action, subject: &str| {
            let subject = journal::placed(action, &self.workspace, subject);
            journal::write_line(&tx, &keys.own, (action, &subject, &self.by))
        };
        let mut tokens = Vec::with_capacity(agents.len());
        for agent in agents {
            insert_agent(&tx, &change, agent)?;
            line(Action::AgentAdded, agent.as_str())?;
            let token = insert_token(&tx, &change, agent, (None, None))?;
            line(Action::TokenAdded, &format!("{agent} token {}", token.id()))?;
            tokens.push(token);
        }
        for (new, secret) in credentials {
            check_new(new, secret)?;
            insert_credential(&tx, &change, new, secret)?;
            line(Action::CredentialAdded, new.name.as_str())?;
        }
        journal::sign(&tx, &keys.own, &journal::head(&tx)?)?;
        tx.commit()?;
        Ok(tokens)
    }
}
