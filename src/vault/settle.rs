//! Taking a vault's file out of service, so that another can take its place.

use std::path::Path;
use std::sync::Arc;

use super::error::{Fault, VaultError};
use super::{Vault, schema};

impl Vault {
    /// Brings all that was committed into the file itself: without its write-ahead log, it alone is
    /// the vault. A log that is left beside a file which replaces this one would be played into it.
    /// The next [`Vault::open`] makes a new log.
    ///
    /// # Errors
    /// [`Fault::Busy`] when another process has the vault open, or whatever is wrong with the file.
    pub fn settle(path: &Path) -> Result<(), VaultError> {
        let at: Arc<Path> = path.into();
        let settle = || {
            let db = schema::connect(&schema::check_files(path)?)?;
            schema::check_format(&db)?;
            // Needs the file for itself, and fails otherwise.
            db.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
            Ok(())
        };
        settle().map_err(|fault: Fault| fault.at(&at))
    }
}
