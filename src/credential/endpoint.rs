//! Addresses that Locum itself calls for a credential: token endpoints and the like.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::host::{Authority, HostError, Origin, Scheme};

/// An `https` URL without a fragment. Sealed with the credential, so that nobody who edits a row sends
/// a client secret elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    origin: Origin,
    target: Box<str>,
}

/// A text is not an [`Endpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointError {
    /// It does not begin with `https://`.
    Scheme,
    /// Its host or port is none.
    Host(HostError),
    /// It has a space, a control character, a fragment or something beyond ASCII in it.
    Character,
    /// It has a `{word}` in it, which is the customer's to fill in.
    Blank,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str("it must begin with https://, because secrets go there"),
            Self::Host(error) => error.fmt(f),
            Self::Character => {
                f.write_str("it has a space, a `#` or a character that no URL has in it")
            }
            Self::Blank => f.write_str("its {word} has to be filled in"),
        }
    }
}

impl std::error::Error for EndpointError {}

impl Endpoint {
    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Path and query. Never empty.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// A cloud's metadata service, which has no TLS: it is on the machine's own link, and its address
    /// is closed to the proxy unless the config opens it.
    ///
    /// # Panics
    /// When the host is none, which is Locum's own text.
    #[must_use]
    #[allow(clippy::missing_panics_doc)]
    pub fn metadata_service(host: &str, target: &str) -> Self {
        let authority = Authority::parse(host, Some(Scheme::Http.default_port()));
        let authority = authority.expect("the host is one of a few constants");
        Self { origin: Origin { scheme: Scheme::Http, authority }, target: target.into() }
    }

    /// The same origin with another target. Both are Locum's own texts.
    #[must_use]
    pub fn at(&self, target: &str) -> Self {
        Self { origin: self.origin.clone(), target: target.into() }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let rest = text.strip_prefix("https://").ok_or(EndpointError::Scheme)?;
        if rest.contains(['{', '}']) {
            return Err(EndpointError::Blank);
        }
        if !rest.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>\\^`|".contains(&b)) {
            return Err(EndpointError::Character);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let authority = Authority::parse(authority, Some(Scheme::Https.default_port()))
            .map_err(EndpointError::Host)?;
        let target = match target.as_bytes().first() {
            None => "/".into(),
            Some(b'?') => format!("/{target}").into(),
            Some(_) => target.into(),
        };
        Ok(Self { origin: Origin { scheme: Scheme::Https, authority }, target })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_https_and_read_back_as_they_are_written() {
        for (text, shown) in [
            ("https://a.test/token", "https://a.test/token"),
            ("https://A.test:443", "https://a.test/"),
            ("https://a.test:8443?x=1", "https://a.test:8443/?x=1"),
            ("https://a.test/t?x=1&y=%20", "https://a.test/t?x=1&y=%20"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(shown.parse(), Ok(endpoint));
        }
        for (text, why) in [
            ("http://a.test/token", EndpointError::Scheme),
            ("a.test", EndpointError::Scheme),
            ("https://a.test/{tenant}/token", EndpointError::Blank),
            ("https://a.test/a b", EndpointError::Character),
            ("https://a.test/#x", EndpointError::Character),
            ("https://a.test/\u{e4}", EndpointError::Character),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(why), "{text}");
        }
        assert!(matches!("https://u@a.test/".parse::<Endpoint>(), Err(EndpointError::Host(_))));
        assert!(matches!("https:///token".parse::<Endpoint>(), Err(EndpointError::Host(_))));
    }
}
