//! What goes wrong in a vault: a closed list, each with what to do next, and none with a value in it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::check::{Invalid, SecretProblem};
use super::credentials::VersionState;
use crate::files::FileError;
use crate::reference::Name;
use crate::token::run::TooLong;

/// An operation on a vault failed.
#[derive(Debug)]
pub struct VaultError {
    /// Which vault.
    pub path: Arc<Path>,
    /// What went wrong.
    pub fault: Fault,
}

/// What can go wrong.
#[derive(Debug)]
pub enum Fault {
    /// A file or its directory is missing, loose, a link, or somebody else's.
    File(FileError),
    /// The file is no Locum vault.
    NotAVault,
    /// A later version of Locum wrote it; the number is its format.
    NewerFormat(i64),
    /// The master key is not the one that this vault was made with.
    WrongKey,
    /// The vault is opened by a passphrase and got a key file, or the reverse.
    OtherKeySource,
    /// Another process holds the vault's write lock, and has for five seconds.
    Busy,
    /// SQLite finds the file malformed; the number is its extended error code.
    Damaged(i32),
    /// The disk or the operating system failed; the number is SQLite's extended error code.
    Storage(i32),
    /// The row is not what was sealed: damaged, edited, or moved here from elsewhere.
    Corrupt(Row),
    /// Rows were added, removed, edited or put back by something that does not have the key.
    Changed,
    /// The vault is older than what was last seen of it.
    RolledBack {
        /// The vault's own epoch.
        vault: u64,
        /// The epoch that the anchor names.
        anchor: u64,
    },
    /// The vault has the anchor's epoch in its journal, but with another history.
    Forked {
        /// The epoch that the anchor names.
        anchor: u64,
    },
    /// A sealed backup was damaged, cut off or edited.
    BadBackup,
    /// The text is not an anchor that this vault's key has made.
    BadAnchor,
    /// There is one of that name.
    Exists(Kind, String),
    /// There is none of that name.
    Unknown(Kind, String),
    /// It is there, and revoked.
    Revoked(Kind, String),
    /// There is something in the workspace.
    NotEmpty(Name),
    /// Every home has the default workspace.
    DefaultWorkspace,
    /// The version is not the one that the snapshot holds.
    NoSuchVersion(Name, u32),
    /// No version of the credential waits to be promoted.
    NothingStaged(Name),
    /// The version cannot become the current one; none where it is not there.
    NotPromotable(Name, u32, Option<VersionState>),
    /// A version of the credential has this very secret.
    SameSecret(Name, u32, VersionState),
    /// The request waits for no approval any more.
    Decided(String),
    /// Whoever approves the request is an administrator since later than it waits.
    ApproverIsNew(String),
    /// The credential is not for captured tokens.
    NotForCapture(Name),
    /// What was given cannot be stored.
    Invalid(Invalid),
    /// The secret cannot be stored.
    Secret(SecretProblem),
    /// The run token would be too long.
    RunToken(TooLong),
    /// The operating system gave no random bytes.
    NoRandomness,
    /// So many shares, of which so many are wanted, make no sense.
    BadShares,
}

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A credential.
    Credential,
    /// A credential or a set: policies name both in one list, so they share their names.
    CredentialOrSet,
    /// A credential set.
    Set,
    /// An agent.
    Agent,
    /// A token, by its id.
    Token,
    /// A sealed item, such as the CA's key.
    Item,
    /// A workspace.
    Workspace,
    /// An environment value.
    Value,
    /// An environment that a value knows.
    Environment,
    /// A stand-in.
    StandIn,
    /// An administrator.
    Administrator,
}

/// Which sealed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// The wrapped data key of a scope.
    DataKey(String),
    /// A version of a credential.
    Version(String, u32),
    /// A credential's description cannot be read.
    Credential(String),
    /// A sealed item.
    Item(String),
    /// The journal's row of an epoch.
    Journal(u64),
    /// The audit log's anchor.
    AuditAnchor,
    /// A set.
    Set(String),
    /// An agent.
    Agent(String),
    /// A token, by its id.
    Token(String),
    /// The vault's own row.
    Vault,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credential => "credential",
            Self::CredentialOrSet => "credential or set",
            Self::Set => "set",
            Self::Agent => "agent",
            Self::Token => "token",
            Self::Item => "item",
            Self::Workspace => "workspace",
            Self::Value => "value",
            Self::Environment => "environment",
            Self::StandIn => "stand-in",
            Self::Administrator => "administrator",
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DataKey(scope) => write!(f, "data key of '{}'", scope.escape_debug()),
            Self::Version(name, version) => {
                write!(f, "credential '{}', version {version}", name.escape_debug())
            }
            Self::Credential(name) => write!(f, "credential '{}'", name.escape_debug()),
            Self::Item(name) => write!(f, "item '{}'", name.escape_debug()),
            Self::Journal(epoch) => write!(f, "journal, epoch {epoch}"),
            Self::AuditAnchor => f.write_str("anchor of the audit log"),
            Self::Set(name) => write!(f, "set '{}'", name.escape_debug()),
            Self::Agent(name) => write!(f, "agent '{}'", name.escape_debug()),
            Self::Token(id) => write!(f, "token '{}'", id.escape_debug()),
            Self::Vault => f.write_str("vault's own row"),
        }
    }
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fault.is_about_the_file() {
            write!(f, "{}: ", self.path.display())?;
        }
        self.fault.fmt(f)
    }
}

impl Fault {
    /// The others are about what was asked, and the path would only be in the way.
    fn is_about_the_file(&self) -> bool {
        !matches!(
            self,
            Self::File(_)
                | Self::Exists(..)
                | Self::Unknown(..)
                | Self::Revoked(..)
                | Self::NotEmpty(_)
                | Self::DefaultWorkspace
                | Self::NoSuchVersion(..)
                | Self::NotForCapture(_)
                | Self::NothingStaged(_)
                | Self::NotPromotable(..)
                | Self::SameSecret(..)
                | Self::Decided(_)
                | Self::ApproverIsNew(_)
                | Self::Invalid(_)
                | Self::Secret(_)
                | Self::RunToken(_)
                | Self::NoRandomness
                | Self::BadShares
        )
    }

    pub(super) fn unknown(kind: Kind, name: &Name) -> Self {
        Self::Unknown(kind, name.to_string())
    }

    pub(super) fn at(self, path: &Arc<Path>) -> VaultError {
        VaultError { path: Arc::clone(path), fault: self }
    }
}

impl fmt::Display for Fault {
    #[allow(clippy::too_many_lines)] // A list: one entry for each of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::NotAVault => f.write_str(
                "this is not a Locum vault; check --home, or make one with `locum init`",
            ),
            Self::NewerFormat(format) => write!(
                f,
                "a later version of Locum wrote this vault (format {format}, this one knows {}); \
                 run that version",
                super::FORMAT
            ),
            Self::WrongKey => f.write_str(
                "the master key does not open this vault; is it the key of another home, or a \
                 mistyped passphrase?",
            ),
            Self::OtherKeySource => f.write_str(
                "this vault is opened by a passphrase and got a key file, or the reverse; see \
                 vault.key in locum.yaml",
            ),
            Self::Busy => f.write_str(
                "another process has been writing to the vault for five seconds; try again",
            ),
            Self::Damaged(code) => write!(
                f,
                "the database file is damaged (SQLite code {code}); put back a backup with \
                 `locum vault restore`"
            ),
            Self::Storage(code) => write!(
                f,
                "the vault could not be read or written ({}, SQLite code {code}); check the disk's \
                 space and that it is not mounted read-only",
                rusqlite::ffi::code_to_str(*code)
            ),
            Self::Corrupt(row) => write!(
                f,
                "the {row} is not what was sealed: it was damaged, edited or moved here; put back a \
                 backup with `locum vault restore`"
            ),
            Self::Changed => f.write_str(
                "rows were added, removed, edited or put back by something other than Locum; put \
                 back a backup with `locum vault restore`",
            ),
            Self::RolledBack { vault, anchor } => write!(
                f,
                "this is an old copy (epoch {vault}; epoch {anchor} has been seen): what was \
                 revoked since would be back; put back the newer file, or accept this one with \
                 `locum vault restore`"
            ),
            Self::Forked { anchor } => write!(
                f,
                "this is an old copy that was changed since: its history differs from what was seen \
                 at epoch {anchor}; put back the other file, or accept this one with \
                 `locum vault restore`"
            ),
            Self::BadBackup => f.write_str(
                "the backup is damaged, cut off or edited: a piece of it is not what was sealed; take \
                 another",
            ),
            Self::BadAnchor => f.write_str(
                "the anchor beside the audit log was not made by this vault, or was edited; if the \
                 vault is the right one, accept it with `locum vault restore`",
            ),
            Self::Exists(kind, name) => {
                write!(f, "there is a {kind} '{}' already", name.escape_debug())
            }
            Self::Unknown(Kind::Workspace, name) => write!(
                f,
                "there is no workspace '{}'; `locum workspace list` shows those that there are",
                name.escape_debug()
            ),
            Self::Unknown(kind, name) => write!(f, "there is no {kind} '{}'", name.escape_debug()),
            Self::Revoked(kind, name) => {
                write!(f, "the {kind} '{}' is revoked", name.escape_debug())
            }
            Self::NotEmpty(name) => write!(
                f,
                "the workspace '{name}' is not empty; `locum workspace remove {name}` says what would go"
            ),
            Self::DefaultWorkspace => {
                f.write_str("the workspace 'default' cannot be removed: every home has it")
            }
            Self::NotForCapture(name) => write!(
                f,
                "`{name}` does not take tokens out of answers; add one that does with `locum credential \
                 add NAME --captured`"
            ),
            Self::NoSuchVersion(name, version) => {
                write!(f, "the credential '{name}' has no live version {version}")
            }
            Self::Decided(id) => write!(f, "the request {id} is decided already, and stays so"),
            Self::ApproverIsNew(id) => write!(
                f,
                "the request {id} waits for several, and was there before you were an administrator: \
                 somebody has to approve it who was"
            ),
            Self::SameSecret(name, version, VersionState::Revoked) => write!(
                f,
                "this secret is version {version} of '{name}', which was revoked; make a new one at the provider"
            ),
            Self::SameSecret(name, version, state) => write!(
                f,
                "this secret is version {version} of '{name}' already, which is {}; nothing is changed",
                state.as_str()
            ),
            Self::NothingStaged(name) => {
                write!(
                    f,
                    "no version of '{name}' waits to be promoted; add one with \
                     `locum credential rotate {name} --stage`"
                )
            }
            Self::NotPromotable(name, version, None) => write!(
                f,
                "'{name}' has no version {version}; `locum credential show {name}` lists them"
            ),
            Self::NotPromotable(name, version, Some(VersionState::Revoked)) => write!(
                f,
                "version {version} of '{name}' was revoked, and its secret is erased; make a new one at \
                 the provider"
            ),
            Self::NotPromotable(name, version, Some(state)) => {
                write!(f, "version {version} of '{name}' is {} already", state.as_str())
            }
            Self::Invalid(why) => why.fmt(f),
            Self::Secret(why) => why.fmt(f),
            Self::RunToken(why) => why.fmt(f),
            Self::NoRandomness => f.write_str("the operating system gave no random bytes"),
            Self::BadShares => f.write_str(
                "it takes 2 shares or more to give the key back, no more than there are, and 16 at most",
            ),
        }
    }
}

impl std::error::Error for VaultError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::File(error) => error.source(),
            _ => None,
        }
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<Invalid> for Fault {
    fn from(why: Invalid) -> Self {
        Self::Invalid(why)
    }
}

impl From<TooLong> for Fault {
    fn from(problem: TooLong) -> Self {
        Self::RunToken(problem)
    }
}

impl From<SecretProblem> for Fault {
    fn from(why: SecretProblem) -> Self {
        Self::Secret(why)
    }
}

impl From<rusqlite::Error> for Fault {
    /// Keeps the code only: texts of SQLite may quote what they are about.
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        match error {
            rusqlite::Error::SqliteFailure(e, _) => match e.code {
                Code::DatabaseBusy | Code::DatabaseLocked => Self::Busy,
                Code::NotADatabase => Self::NotAVault,
                Code::DatabaseCorrupt => Self::Damaged(e.extended_code),
                _ => Self::Storage(e.extended_code),
            },
            // A column of another type than the schema says.
            _ => Self::Damaged(rusqlite::ffi::SQLITE_CORRUPT),
        }
    }
}
