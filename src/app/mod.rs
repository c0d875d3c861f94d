//! Composition: a home is opened, its parts are put together, and kept in step with what changes
//! on disk. The only place that picks adapters.

mod agent_ca;
mod approvals;
mod authority;
mod certificates;
mod checkup;
mod cores;
pub(crate) mod descriptors;
mod doors;
mod failure;
mod far_side;
mod habits;
mod handover;
mod health;
mod home;
mod identity;
mod init;
mod issuer_keys;
mod keeper;
mod lock;
mod log;
mod login;
mod master;
mod open;
mod policies;
mod program;
mod recovery;
mod relay;
mod reminders;
mod remote;
mod restore;
mod serve;
mod service;
mod session;
mod shared;
mod space;
mod stamp;
mod supplier;
mod workspaces;
mod wrapping;

pub use crate::anomaly::{Kept as Habit, Shown as Usual};
pub(crate) use agent_ca::{issue_certificate, trust_domain};
pub(crate) use approvals::Place;
pub use authority::is_published;
pub use checkup::Health;
pub use doors::check_files;
pub use failure::{Exit, Failure};
pub(crate) use far_side::WithoutLog;
pub use far_side::far_side;
pub use habits::{accept as accept_anomalies, baselines};
pub use health::{Checked, Probe, Subject, Verdict};
pub use home::{Home, Serving};
pub use init::{Init, KeyChoice, init};
pub use keeper::Keeper;
pub(crate) use keeper::Undone;
pub use lock::{ask_to_lock, ask_to_unlock, nobody_to_ask, serve_lockable};
pub use log::{start as start_log, tell_panics};
pub use login::check_logins;
pub use master::{NewKey, Rekeyed, key_described, rekey};
pub use open::{CA_CERTIFICATE_ITEM, CA_KEY_ITEM, Opened, passphrase};
pub use policies::load_policy;
pub(crate) use policies::{ReadPolicy, check_policy_file, policies_of, read_policies};
pub use recovery::{Recovered, make_recovery, recover, restore_by_key};
pub use relay::Relay;
pub use restore::{Accept, Restored, restore};
pub use serve::{Proxy, ProxyOptions};
pub use service::Activation;
pub(crate) use session::placeholders_of;
pub use session::{
    Session, SessionOptions, SessionToken, VARIABLE_TAG, end as end_session, mint as mint_session,
    mint_in as mint_session_in, plan as plan_session, settings, taken_names,
};
pub use shared::{COMMAND as SHARED_PROXY, Joined, answering, join, serve_shared};
pub use workspaces::{PolicyFile, make_workspace, policy_files, remove_workspace_files};
