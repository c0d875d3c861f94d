//! The client of the administrators' socket: one connection for each order, over a Unix socket or TLS, with
//! the token of an administrator.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::output;
use crate::admin::orders::{Call, Order};
use crate::app::Failure;
use crate::files::{self, SocketPath};
use crate::vault::without_line_end;

/// From the first byte to the last of an answer: a change waits until it is in force and on record.
const PATIENCE: Duration = Duration::from_mins(2);

/// The longest answer: lists of a large workspace.
const LONGEST: usize = 64 << 20;

/// The longest file of a token, in bytes.
const LONGEST_TOKEN: usize = 4096;

/// A proxy that runs, and whoever administers it.
pub(super) struct Remote {
    to: To,
    authorization: HeaderValue,
    runtime: tokio::runtime::Runtime,
}

enum To {
    Unix(PathBuf),
    Tls { host: String, port: u16, name: ServerName<'static>, connector: TlsConnector },
}

impl Remote {
    /// The proxy of a URL, with the token of whoever asks.
    pub(super) fn new(url: &str, token: Option<&Path>, ca: Option<&Path>) -> Result<Self, Failure> {
        let to = To::read(url, ca)?;
        let token = self::token(token)?;
        let mut authorization =
            HeaderValue::from_str(&Zeroizing::new(format!("Bearer {}", *token)))
                .map_err(|_| Failure::usage("the administrator's token is none"))?;
        authorization.set_sensitive(true);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|e| Failure::new(format!("the runtime cannot be started: {e}")))?;
        Ok(Self { to, authorization, runtime })
    }

    /// Has an order carried out there.
    pub(super) fn order<O: Order>(&self, order: &O) -> Result<O::Answer, Failure> {
        self.bring(order.call()?)
    }

    /// Looks up what only a proxy that runs has.
    pub(super) fn look_up<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        self.bring(Call::get(target))
    }

    fn bring<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let changes = call.method != Method::GET;
        let (status, body) = self.runtime.block_on(async {
            let asked = tokio::time::timeout(PATIENCE, self.ask(call)).await;
            asked.unwrap_or_else(|_| Err(self.broken_off("it does not answer", changes)))
        })?;
        if status != StatusCode::OK {
            return Err(refused(status, &body));
        }
        serde_json::from_slice(&body).map_err(|_| {
            Failure::new("the answer is not what this version of locum expects")
                .help("use the version that the proxy has")
        })
    }

    async fn ask(&self, call: Call) -> Result<(StatusCode, Bytes), Failure> {
        let failed = |error: std::io::Error| self.unreachable(&error.to_string());
        match &self.to {
            To::Unix(path) => {
                let path = SocketPath::of(path);
                self.talk(UnixStream::connect(path.as_path()).await.map_err(failed)?, call).await
            }
            To::Tls { host, port, name, connector } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                let stream = connector.connect(name.clone(), stream).await.map_err(failed)?;
                self.talk(stream, call).await
            }
        }
    }

    async fn talk<S>(&self, stream: S, call: Call) -> Result<(StatusCode, Bytes), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let changes = call.method != Method::GET;
        let failed = |error: hyper::Error| self.broken_off(&error.to_string(), changes);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let Call { method, target, body } = call;
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, self.to.host())
            .header(header::AUTHORIZATION, &self.authorization)
            // In memory that is wiped as it is freed, as all of this process is.
            .body(Full::new(Bytes::from_owner(body)))
            .map_err(|_| Failure::usage("what is asked for cannot stand in a URL"))?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        connection.abort();
        let body = body.map_err(|error| self.broken_off(&error.to_string(), changes))?;
        Ok((status, body.to_bytes()))
    }

    /// Where it was reached: a change may have been made, and a token that was made is lost.
    fn broken_off(&self, why: &str, changes: bool) -> Failure {
        let failure = self.unreachable(why);
        if !changes {
            return failure;
        }
        failure
            .help("what was asked for may have been done all the same: look before you ask again")
    }

    fn unreachable(&self, why: &str) -> Failure {
        let to = match &self.to {
            To::Unix(path) => path.display().to_string(),
            To::Tls { host, port, .. } => format!("{host}:{port}"),
        };
        Failure::new(format!("{to}: {why}"))
            .help("`admin.listen` in the proxy's locum.yaml says where administrators connect; is it running?")
    }
}

impl To {
    fn read(url: &str, ca: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        if url.starts_with('/') {
            return Ok(Self::Unix(url.into()));
        }
        let wrong = || {
            Failure::usage(format!("{} is no administrators' socket", output::plain(url)))
                .help("write unix:/PATH/admin.sock or https://HOST:PORT; a token never travels without TLS")
        };
        let authority = url.strip_prefix("https://").ok_or_else(wrong)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let authority: http::uri::Authority = authority.parse().map_err(|_| wrong())?;
        if authority.as_str().contains('@') {
            return Err(wrong());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
        let port = authority.port_u16().unwrap_or(443);
        Ok(Self::Tls { host, port, name, connector: connector(ca)? })
    }

    fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "locum",
            Self::Tls { host, .. } => host,
        }
    }
}

/// With a CA that is named, that one and no other vouches for the proxy.
fn connector(ca: Option<&Path>) -> Result<TlsConnector, Failure> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let failed = |what: String| Failure::usage(format!("{}: {what}", path.display()));
            let all = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
            for one in all {
                let one = one.map_err(|e| failed(e.to_string()))?;
                roots.add(one).map_err(|e| failed(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(failed("there is no certificate in it".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Failure::new(format!("TLS cannot be set up: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The token: from a private file, the environment, or a prompt without echo.
fn token(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    const VARIABLE: &str = "LOCUM_ADMIN_TOKEN";
    let bytes = if let Some(path) = file {
        Zeroizing::new(files::read_lent(path, LONGEST_TOKEN)?.to_vec())
    } else if let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        use std::os::unix::ffi::OsStringExt as _;
        Zeroizing::new(value.into_vec())
    } else if std::io::stdin().is_terminal() {
        let text = rpassword::prompt_password("Administrator's token: ")
            .map_err(|e| Failure::new(format!("the token could not be read: {e}")))?;
        Zeroizing::new(text.into_bytes())
    } else {
        return Err(Failure::usage("there is no administrator's token to show")
            .help(format!("set {VARIABLE}, or name a file with --admin-token-file")));
    };
    let text = std::str::from_utf8(without_line_end(&bytes));
    let text = text.map_err(|_| Failure::usage("the administrator's token is none"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// What the socket says of a request that it does not do.
#[derive(Deserialize)]
struct Told {
    code: String,
    detail: String,
    hint: Option<String>,
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let Ok(Told { code, detail, hint }) = serde_json::from_slice(body) else {
        return Failure::new(format!(
            "it answers {status}, and is no administrators' socket of locum"
        ));
    };
    let detail = harmless(&detail);
    let failure = match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Failure::usage(detail),
        _ => Failure::new(detail),
    };
    match (hint, &*code) {
        (Some(hint), _) => failure.help(harmless(&hint)),
        (None, "unauthorized") => {
            failure.help("`locum admin list` on the proxy's machine shows whose tokens are good")
        }
        (None, _) => failure,
    }
}

/// A text of several lines, harmless to print.
fn harmless(text: &str) -> String {
    text.lines().map(output::plain).collect::<Vec<_>>().join("\n")
}
