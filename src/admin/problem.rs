//! Why a request of an administrator comes to nothing, as its answer says it: status, a stable code, and
//! what to do.

use http::StatusCode;

use super::orders::Trouble;
use crate::app::{Exit, Failure, Undone};
use crate::vault::{Fault, Kind, VaultError};

/// An answer that says why not.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    pub(crate) hint: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), hint: None }
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
    }

    pub(super) fn missing() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is nothing of this kind here")
    }

    pub(super) fn unauthorized() -> Self {
        let detail = "the token of an administrator is missing, unknown, revoked or expired";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    pub(super) fn own_request() -> Self {
        let detail = "this request was made for you; somebody else has to decide on it";
        Self::new(StatusCode::FORBIDDEN, "own-request", detail)
    }

    pub(super) fn unrecorded() -> Self {
        let detail = "it cannot be recorded, and is not done";
        Self::unavailable("audit-unavailable", detail)
    }

    fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// What a failure says to whoever asked.
    pub(super) fn told(self, failure: &Failure) -> Self {
        Self { detail: failure.to_string(), hint: failure.advice().map(str::to_owned), ..self }
    }
}

impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Self {
        let (status, code) = match &error.fault {
            // Since the request was begun.
            Fault::Revoked(Kind::Administrator, _) => return Self::unauthorized(),
            Fault::Unknown(..) | Fault::NoSuchVersion(..) | Fault::NotPromotable(_, _, None) => {
                (StatusCode::NOT_FOUND, "not-found")
            }
            Fault::ApproverIsNew(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Fault::Exists(..)
            | Fault::Revoked(..)
            | Fault::NothingStaged(_)
            | Fault::NotPromotable(..)
            | Fault::SameSecret(..)
            | Fault::Decided(_) => (StatusCode::CONFLICT, "conflict"),
            Fault::Invalid(_) | Fault::Secret(_) | Fault::RunToken(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid")
            }
            _ => {
                tracing::error!(%error, "an administrator's request failed");
                return Self::unavailable("vault-unavailable", "the vault cannot be used");
            }
        };
        Self::new(status, code, error.fault.to_string())
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        if failure.exit() == Exit::Usage {
            // What was asked for is wrong, and the words say what.
            return Self::invalid("").told(&failure);
        }
        tracing::error!(error = %failure, "an administrator's request failed");
        Self::unavailable("unavailable", "it cannot be done now; the proxy's log says why")
    }
}

impl From<Undone> for Problem {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::Failed(failure) => failure.into(),
            Undone::Vault(error) => error.into(),
            Undone::Unrecordable => Self::unrecorded(),
            Undone::Unsettled => Self::unavailable(
                "not-settled",
                "it is written, and comes in force and on record as soon as it can; the proxy's log says \
                 what is in the way",
            ),
            Undone::Mistakes(report) => Self::new(
                StatusCode::CONFLICT,
                "policy-mistakes",
                format!(
                    "it is written, and not in force, with what was written beside it: {report}"
                ),
            ),
        }
    }
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Vault(error) => error.into(),
            Trouble::Missing(failure) => Self::missing().told(&failure),
            Trouble::Failed(failure) => failure.into(),
            Trouble::Refused(problem) => problem,
        }
    }
}

impl From<Undone> for Trouble {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::Vault(error) => Self::Vault(error),
            Undone::Failed(failure) => Self::Failed(failure),
            other => Self::Refused(other.into()),
        }
    }
}
