//! `admin`: where people and automations administer that have not the home's files.

use std::path::Path;

use super::{ListenAt, ListenerTls};

/// `admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// `listen`: `unix:PATH` with its `mode`, or an address with `tls`, or `off`. Default `unix:admin.sock`
    /// in the home, of mode 0600: nobody is let in who could not read the home anyway, until somebody
    /// says so.
    pub listen: Option<ListenAt>,
    /// `tls`: for an address, where it must not be missing, because administrators' tokens and new
    /// secrets go over it.
    pub tls: Option<ListenerTls>,
    /// Whether another place than the usual one was said: what nobody asked for keeps no proxy from
    /// starting.
    pub asked: bool,
}

impl Admin {
    pub(super) fn defaults(home: &Path) -> Self {
        let path = home.join("admin.sock");
        Self { listen: Some(ListenAt::Unix { path, mode: 0o600 }), tls: None, asked: false }
    }
}
