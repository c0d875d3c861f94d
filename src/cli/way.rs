//! Which way a command goes: to the home's files, or to a proxy that runs, with an administrator's token.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::remote::Remote;
use crate::admin::orders::{Call, Desk, Order, Trouble};
use crate::app::{Failure, Home, Opened};
use crate::reference::Name;

/// What was said of where to work.
pub(super) struct Where {
    pub(super) home: Option<PathBuf>,
    pub(super) workspace: Option<Name>,
    pub(super) admin: Admin,
}

/// A proxy to ask, in place of a home.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Admin {
    /// Administer a running proxy, by its administrators' socket: `unix:/PATH` or <https://HOST:PORT>
    /// [env: `LOCUM_ADMIN_URL`; the token: `LOCUM_ADMIN_TOKEN`, or a prompt]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "home")]
    admin_url: Option<String>,

    /// A file with the administrator's token [env: `LOCUM_ADMIN_TOKEN_FILE`]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    admin_token_file: Option<PathBuf>,

    /// The CA that the socket's certificate comes from, where it is https [env: `LOCUM_ADMIN_CA`; default:
    /// the system's]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    admin_ca: Option<PathBuf>,
}

/// The way to what is administered.
pub(super) enum Way {
    /// The home's files.
    Here(Box<Opened>),
    /// A proxy that runs.
    There(Box<Remote>),
}

impl Where {
    /// The home, for what needs its files.
    pub(super) fn home(&self) -> Result<Home, Failure> {
        if self.admin.admin_url.is_some() {
            return Err(Failure::usage("this command works on the home's files")
                .help("leave --admin-url out, and run it on the proxy's machine"));
        }
        let home = Home::locate(self.home.as_deref())?;
        Ok(self.workspace.as_ref().map_or(home.clone(), |name| home.in_workspace(name)))
    }

    /// Whether a proxy is to be asked.
    pub(super) fn is_there(&self) -> bool {
        self.url().is_some()
    }

    /// The way to it: nothing is asked for before it is gone.
    pub(super) fn open(&self) -> Result<Way, Failure> {
        let Some(url) = self.url() else {
            return Ok(Way::Here(Box::new(Opened::open(&self.home()?)?)));
        };
        let file = self.admin.admin_token_file.clone().or_else(|| path("LOCUM_ADMIN_TOKEN_FILE"));
        let ca = self.admin.admin_ca.clone().or_else(|| path("LOCUM_ADMIN_CA"));
        let mut way = Way::There(Box::new(Remote::new(&url, file.as_deref(), ca.as_deref())?));
        if let Some(named) = &self.workspace {
            let own = way.order(Me)?.workspace;
            if own != *named {
                return Err(Failure::usage(format!(
                    "the token is of the workspace {own}, not of {named}"
                ))
                .help("take one that was made with `locum --workspace NAME admin add`"));
            }
        }
        Ok(way)
    }

    fn url(&self) -> Option<String> {
        // Who names a home means its files.
        let variable = || std::env::var("LOCUM_ADMIN_URL").ok().filter(|_| self.home.is_none());
        self.admin.admin_url.clone().or_else(variable).filter(|url| !url.is_empty())
    }
}

fn path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

impl Way {
    /// Has an order carried out.
    pub(super) fn order<O: Order>(&mut self, order: O) -> Result<O::Answer, Failure> {
        match self {
            Self::Here(opened) => Ok(order.carry_out(&mut **opened)?),
            Self::There(remote) => remote.order(&order),
        }
    }

    /// The home's files, for what no proxy does for an administrator.
    pub(super) fn here(self, what: &str) -> Result<Opened, Failure> {
        match self {
            Self::Here(opened) => Ok(*opened),
            Self::There(_) => {
                Err(Failure::usage(format!("{what} is done beside the home's files"))
                    .help("run it on the proxy's machine, without --admin-url and LOCUM_ADMIN_URL"))
            }
        }
    }
}

/// Who the token is of.
struct Me;

#[derive(Serialize, Deserialize)]
struct Myself {
    workspace: Name,
}

impl Order for Me {
    type Answer = Myself;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get("/v1/me"))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Myself, Trouble> {
        Ok(Myself { workspace: desk.home().workspace().clone() })
    }
}
