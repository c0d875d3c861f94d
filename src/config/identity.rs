//! `identity`: who agents are, beside the tokens of the vault, and the order in which they are asked.

use crate::reference::Name;

/// One of `proxy.authenticate`: a way to show who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `tokens`: an agent's own token, as the password.
    Tokens,
    /// `run-tokens`: one that `locum run-token` has signed, as the password.
    RunTokens,
    /// `unix-peers`: the user of the process behind a Unix socket.
    UnixPeers,
}

impl Method {
    /// All of them, with their words, in the order in which they are asked unless said otherwise: what
    /// an agent sends with its request comes before what its connection shows anyway.
    pub const ALL: [(&'static str, Self); 3] = [
        ("tokens", Self::Tokens),
        ("run-tokens", Self::RunTokens),
        ("unix-peers", Self::UnixPeers),
    ];
}

/// `identity`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `unix_peers`, in the order of the file: the first that covers a process decides. Default none:
    /// the mode of a socket says who may open it, and not who that is.
    pub unix_peers: Vec<UnixPeer>,
}

/// One of `identity.unix_peers`: a user, a group, or both, and the agent that its processes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixPeer {
    /// `user`: a number, or a name that this machine knows.
    pub uid: Option<u32>,
    /// `group`: a number, or a name that this machine knows. The process's own, of which it has one.
    pub gid: Option<u32>,
    /// `agent`, which has to live in the vault.
    pub agent: Name,
}
