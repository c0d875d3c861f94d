//! What a command says when it cannot do what was asked: what happened, where, and what to do next.

use std::fmt;

use crate::audit::AuditError;
use crate::document::Report;
use crate::files::FileError;
use crate::tls::TlsError;
use crate::upstream::UpstreamError;
use crate::vault::{KeyError, VaultError};

/// The exit code of a failed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It went wrong.
    Failure = 1,
    /// The command line, or a file of the user's, is wrong (`EX_USAGE`).
    Usage = 64,
    /// A proxy that was locked cannot go on so, and has ended (`EX_SOFTWARE`). Its service manager must
    /// not start it anew: it would be open again.
    AfterLock = 70,
}

/// Why a command failed, as a person reads it. Holds no secret: its texts come from the closed
/// errors of the modules, or are written out where they are used.
#[derive(Debug)]
pub struct Failure {
    what: String,
    help: Option<String>,
    exit: Exit,
}

impl Failure {
    /// Something went wrong.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, exit: Exit::Failure }
    }

    /// The command was used wrongly.
    #[must_use]
    pub fn usage(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, exit: Exit::Usage }
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, with what was being done before it: `the log cannot be verified: ...`.
    #[must_use]
    pub fn within(mut self, what: &str) -> Self {
        self.what = format!("{what}: {}", self.what);
        self
    }

    /// The same, of something that the config says or names.
    #[must_use]
    pub(super) fn of_config(self) -> Self {
        Self { exit: Exit::Usage, ..self }
    }

    /// The same, of a proxy that somebody has locked.
    #[must_use]
    pub(super) fn after_lock(self) -> Self {
        Self { exit: Exit::AfterLock, ..self }
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What to do next, where it is told apart.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self::usage(report.to_string())
    }
}

/// An error and what caused it, in one sentence: the errors of the modules tell one level each.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

macro_rules! from_errors {
    ($($error:ty),+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(with_causes(&error))
            }
        })+
    };
}

from_errors!(VaultError, KeyError, FileError, AuditError, TlsError, UpstreamError);
