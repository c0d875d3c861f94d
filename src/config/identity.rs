//! `identity`: who agents are, beside the tokens of the vault, and the order in which they are asked.

use std::path::PathBuf;
use std::time::Duration;

use crate::agent::LabelName;
use crate::agent::mapping::Mapping;
use crate::credential::Endpoint;
use crate::reference::Name;
use crate::token::jwt::{Algorithm, ClaimPath};

/// One of `proxy.authenticate`: a way to show who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `tokens`: an agent's own token, as the password.
    Tokens,
    /// `run-tokens`: one that `locum run-token` has signed, as the password.
    RunTokens,
    /// `jwt`: a token of an issuer, as the password or as `Bearer`.
    Jwt,
    /// `client-certificates`: one that was shown at a door with TLS.
    ClientCertificates,
    /// `unix-peers`: the user of the process behind a Unix socket.
    UnixPeers,
}

impl Method {
    /// All of them, with their words, in the order in which they are asked unless said otherwise: what
    /// an agent sends with its request comes before what its connection shows anyway.
    pub const ALL: [(&'static str, Self); 5] = [
        ("tokens", Self::Tokens),
        ("run-tokens", Self::RunTokens),
        ("jwt", Self::Jwt),
        ("client-certificates", Self::ClientCertificates),
        ("unix-peers", Self::UnixPeers),
    ];
}

/// `identity`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `jwt`: the issuers that are believed, each of a name of its own. Default none.
    pub jwt: Vec<JwtIssuer>,
    /// `client_certificates`. Default none: a certificate opens a door, and is nobody's identity.
    pub client_certificates: Option<ClientNames>,
    /// `unix_peers`, in the order of the file: the first that covers a process decides. Default none:
    /// the mode of a socket says who may open it, and not who that is.
    pub unix_peers: Vec<UnixPeer>,
}

/// One of `identity.jwt`: an issuer, where its keys are, and what of its tokens counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtIssuer {
    /// `issuer`: what stands in `iss`, to the letter.
    pub issuer: String,
    /// `audience`, one or a list: `aud` must name one of them. Has to be said: a token that was made
    /// for another service must not open this one.
    pub audiences: Vec<String>,
    /// `keys`.
    pub keys: Keys,
    /// `algorithms`. Default all that have a public key: which one is right, the key says.
    pub algorithms: Vec<Algorithm>,
    /// `leeway`: how far clocks may be apart. Default 30 s: machines that keep their time by NTP are
    /// within one.
    pub leeway: Duration,
    /// `refresh`: how often keys behind a URL are fetched. Default 10 min: a key that is withdrawn is
    /// good for no longer. One that is new is fetched when it is needed.
    pub refresh: Duration,
    /// `types`: which `typ` a token may have, if it has one. Default `JWT` and `at+jwt` (RFC 9068).
    pub types: Vec<String>,
    /// `claims.agent`. Default `sub`.
    pub agent: ClaimPath,
    /// `claims.user`. Default none.
    pub user: Option<ClaimPath>,
    /// `claims.run`. Default none.
    pub run: Option<ClaimPath>,
    /// `claims.labels`: label and claim. Default none.
    pub labels: Vec<(LabelName, ClaimPath)>,
    /// `map`: from what the claim says to the agent. Default the claim is the agent's name.
    pub map: Mapping,
    /// `workspace`: where its agents are, unless a rule of `map` says so. Default `default`.
    pub workspace: Name,
    /// `agents`: `known`, or `any`. Default known: what the vault can revoke.
    pub any_agent: bool,
}

/// `keys` of an issuer: public keys as a JSON Web Key Set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// A path: read again when the file changes.
    File(PathBuf),
    /// `https://…`: fetched as agents' calls are.
    Url(Endpoint),
}

/// `identity.client_certificates`: who the client is that shows a certificate of `client_ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientNames {
    /// `name`, and `trust_domain` for a SPIFFE id.
    pub name: CertificateName,
    /// `map`: from the name to the agent. Default the name is the agent's.
    pub map: Mapping,
    /// `workspace`: where the agents are, unless a rule of `map` says so. Default `default`.
    pub workspace: Name,
    /// `agents`: `known`, or `any`. Default known: what the vault can revoke.
    pub any_agent: bool,
}

/// Which of a certificate's names counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// `spiffe`: its SPIFFE id, of this trust domain.
    Spiffe(String),
    /// `uri`: a URI of the subject alternative name.
    Uri,
    /// `dns`: the name of a host there.
    Dns,
    /// `email`: a mail address there.
    Email,
    /// `cn`: the common name of the subject.
    CommonName,
}

/// One of `identity.unix_peers`: a user, a group, or both, and the agent that its processes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixPeer {
    /// `user`: a number, or a name that this machine knows.
    pub uid: Option<u32>,
    /// `group`: a number, or a name that this machine knows. The process's own, of which it has one.
    pub gid: Option<u32>,
    /// `workspace`: where the agent is. Default `default`.
    pub workspace: Name,
    /// `agent`, which has to live in the vault.
    pub agent: Name,
}
