//! What a rule takes out of answers: a value, and the credential that it becomes.

use std::fmt;

use crate::reference::Name;
use crate::scrub::Minted;

/// One value that an origin mints for the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Where in the answer it stands.
    pub from: Minted,
    /// Whose next version it is.
    pub credential: Name,
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Minted::Json(pointer) => write!(f, "json {pointer}")?,
            Minted::Form(field) => write!(f, "form {field}")?,
            Minted::Header(name) => write!(f, "header {name}")?,
        }
        write!(f, " as {}", self.credential)
    }
}
