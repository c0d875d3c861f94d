//! `locum credential connect`: a refresh token from a person at a browser, straight into the vault.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Add, added, describe, kind};
use crate::admin::orders::credentials::provider_of;
use crate::app::{Failure, Opened, WithoutLog, far_side};
use crate::catalog::Provider;
use crate::cli::{output, runtime};
use crate::credential::{Endpoint, Kind, Oauth};
use crate::mint::authorize::{self, DeviceCode, Granted, Pkce};
use crate::mint::{Call, Material, MintError};
use crate::proxy::{Errand, Reply, run_errand};
use crate::upstream::{NoLogins, Upstream};

pub(super) const EXAMPLE: &str = "Example:
  locum credential connect gmail --provider google-workspace --client-id ID --client-secret-from-env GOOGLE_SECRET --scope https://www.googleapis.com/auth/gmail.readonly --authorize-parameter access_type=offline
  locum credential connect hub --provider huggingface --client-id ID --device";

/// How long a person may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// How often a device asks where nothing is said (RFC 8628 section 3.5).
const INTERVAL: u64 = 5;

/// Arguments of `locum credential connect`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Connect {
    #[command(flatten)]
    add: Add,
    /// For a machine without a browser: print a code to type elsewhere (RFC 8628)
    #[arg(long)]
    device: bool,
    /// Where a person consents; by default the provider's own
    #[arg(long, value_name = "URL")]
    authorize_endpoint: Option<Endpoint>,
    /// Where a device gets its code; by default the provider's own
    #[arg(long, value_name = "URL", requires = "device")]
    device_endpoint: Option<Endpoint>,
    /// A further parameter of the address at which a person consents. Repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = kind::parameter)]
    authorize_parameter: Vec<(String, String)>,
    /// The loopback port that the browser is sent back to; by default a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    redirect_port: u16,
}

pub(super) fn run(opened: &mut Opened, mut args: Connect) -> Result<(), Failure> {
    args.add.kind.connects();
    let provider = args.add.provider.as_deref().map(provider_of).transpose()?;
    let mut new = describe(&args.add)?;
    // A refresh token that is granted and then not kept lives on at the provider.
    opened.vault.check_is_free(&new)?;
    let (oauth, material) = args.add.kind.client(provider)?;
    let upstream = far_side(&opened.config, &[], Arc::new(NoLogins))?;
    let client = Client { oauth: &oauth, material: &material, upstream: &upstream };
    let token = runtime()?.block_on(async {
        if args.device {
            by_device(&client, &args, provider).await
        } else {
            by_browser(&client, &args, provider).await
        }
    })?;
    let whole = Material { refresh_token: Some(token), ..Material::default() }.merged(&material);
    let kind = Kind::Oauth(Box::new(oauth));
    whole.check(&kind).map_err(|e| Failure::new(e.to_string()))?;
    new.properties.kind = Some(kind);
    opened.vault.add_credential(&new, &whole.to_secret())?;
    opened.changed()?;
    added(&args.add, &new)
}

/// Who asks, and how.
struct Client<'a> {
    oauth: &'a Oauth,
    material: &'a Material,
    upstream: &'a Upstream,
}

impl Client<'_> {
    async fn send(&self, call: Result<Call, MintError>) -> Result<Reply, Failure> {
        let call = call.map_err(|e| Failure::new(e.to_string()))?;
        let errand = Errand {
            purpose: "connect",
            workspace: None,
            uses: None,
            endpoint: &call.endpoint,
            method: call.method,
            headers: call.headers,
            body: call.body,
            within: None,
        };
        let sent = run_errand(self.upstream, &WithoutLog, (0, ""), errand).await;
        sent.map_err(|refusal| Failure::new(format!("{}: {}", call.endpoint, refusal.detail)))
    }
}

/// Why there is no token, with the name that the server has for it.
fn refused(at: &str, error: &MintError, name: Option<&str>) -> Failure {
    let why = error.to_string();
    match name {
        Some(name) if !why.contains(name) => Failure::new(format!("{at}: {why} ({name})")),
        _ => Failure::new(format!("{at}: {why}")),
    }
}

/// Tells the person what to do; beside the output, where a machine reads that.
fn tell(args: &Connect, text: &str) -> Result<(), Failure> {
    if args.add.json {
        output::note(text);
        Ok(())
    } else {
        output::line(text)
    }
}

fn endpoint(
    typed: Option<&Endpoint>,
    known: Option<&str>,
    tenant: Option<&str>,
    flag: &str,
) -> Result<Endpoint, Failure> {
    match (typed, known) {
        (Some(endpoint), _) => Ok(endpoint.clone()),
        (None, Some(text)) => kind::fill_in(text, tenant),
        (None, None) => Err(Failure::usage("nothing says where a person consents")
            .help(format!("name the endpoint with {flag} https://HOST/PATH"))),
    }
}

async fn by_browser(
    client: &Client<'_>,
    args: &Connect,
    provider: Option<&Provider>,
) -> Result<String, Failure> {
    let known = provider.and_then(Provider::oauth).and_then(|oauth| oauth.authorize.as_deref());
    let tenant = args.add.kind.tenant();
    let consent =
        endpoint(args.authorize_endpoint.as_ref(), known, tenant, "--authorize-endpoint")?;
    let bound = TcpListener::bind(("127.0.0.1", args.redirect_port)).await;
    let listener = bound.map_err(|e| Failure::new(format!("--redirect-port: {e}")))?;
    let port = listener.local_addr().map_err(|e| Failure::new(e.to_string()))?.port();
    // By address: a name could lead elsewhere (RFC 8252 section 8.3).
    let redirect = format!("http://127.0.0.1:{port}/callback");
    let failed = |e: MintError| Failure::new(e.to_string());
    let (state, pkce) = (authorize::unguessable().map_err(failed)?, Pkce::new().map_err(failed)?);
    let shown = (&*redirect, &*state, &pkce);
    let address = authorize::address(&consent, client.oauth, shown, &args.authorize_parameter);
    tell(args, "open this address in a browser on this machine, and consent:")?;
    tell(args, &address)?;
    let waiting = tokio::time::timeout(PATIENCE, callback(&listener, &state)).await;
    let code = waiting.map_err(|_| Failure::new("nobody has consented in ten minutes"))??;
    let call = authorize::exchange(
        client.oauth,
        client.material,
        (&code, &redirect, &pkce.verifier),
        unix_now(),
    );
    let reply = client.send(call).await?;
    match authorize::granted(reply.status, &reply.body) {
        Ok(Granted::Token(token)) => Ok(token),
        Ok(Granted::Pending | Granted::SlowDown) => {
            Err(Failure::new("the token endpoint asks to wait, which fits no code"))
        }
        Err(error) => {
            let name = authorize::error_of(&reply.body);
            Err(refused("the token endpoint", &error, name.as_deref()))
        }
    }
}

/// Waits for the browser to bring the code. What has not our state is not from whom we asked.
async fn callback(listener: &TcpListener, state: &str) -> Result<String, Failure> {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let reading = tokio::time::timeout(Duration::from_secs(5), head(&mut stream)).await;
        let Ok(Some(target)) = reading else { continue };
        let query = target.strip_prefix("/callback?");
        let value = |wanted: &str| {
            let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
            let mut found = pairs.filter(|(name, _)| *name == wanted);
            let text = found.next()?.1.replace('+', " ");
            percent_encoding::percent_decode_str(&text).decode_utf8().ok().map(String::from)
        };
        if value("state").as_deref() != Some(state) {
            answer(&mut stream, "404 Not Found", "This is not what was waited for.").await;
            continue;
        }
        if let Some(code) = value("code") {
            answer(&mut stream, "200 OK", "Locum is connected. This page can be closed.").await;
            return Ok(code);
        }
        answer(&mut stream, "200 OK", "Locum is not connected. This page can be closed.").await;
        let what = "the provider gave no code: the person has refused, or the request was wrong";
        let name = value("error");
        return Err(match name.as_deref().and_then(authorize::error_name) {
            Some(name) => Failure::new(format!("{what} ({name})")),
            None => Failure::new(what),
        });
    }
}

/// The target of a GET.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        if bytes.len() > 16 * 1024 {
            return None;
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut words = text.lines().next()?.split(' ');
    (words.next() == Some("GET")).then(|| words.next().map(str::to_owned)).flatten()
}

async fn answer(stream: &mut TcpStream, status: &str, text: &str) {
    let length = text.len();
    let whole = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{text}"
    );
    // The browser may have gone; what it brought is here.
    let _gone = stream.write_all(whole.as_bytes()).await;
    let _gone = stream.shutdown().await;
}

async fn by_device(
    client: &Client<'_>,
    args: &Connect,
    provider: Option<&Provider>,
) -> Result<String, Failure> {
    let known = provider.and_then(Provider::oauth).and_then(|oauth| oauth.device.as_deref());
    let tenant = args.add.kind.tenant();
    let at = endpoint(args.device_endpoint.as_ref(), known, tenant, "--device-endpoint")?;
    let reply = client.send(authorize::device(client.oauth, client.material, &at)).await?;
    let code: DeviceCode = authorize::device_code(reply.status, &reply.body).map_err(|error| {
        refused(&at.to_string(), &error, authorize::error_of(&reply.body).as_deref())
    })?;
    // Texts of a server, before whoever reads them on a terminal.
    let (at, type_it) = (output::plain(&code.verification_uri), output::plain(&code.user_code));
    tell(args, &format!("open {at} in a browser, and type {type_it}"))?;
    let mut interval = code.interval.unwrap_or(INTERVAL).clamp(1, 60);
    let patience = code.expires_in.map_or(PATIENCE, Duration::from_secs).min(PATIENCE);
    let start = Instant::now();
    while start.elapsed() < patience {
        tokio::time::sleep(Duration::from_secs(interval)).await;
        let call = authorize::poll(client.oauth, client.material, &code.device_code, unix_now());
        let reply = client.send(call).await?;
        match authorize::granted(reply.status, &reply.body) {
            Ok(Granted::Token(token)) => return Ok(token),
            Ok(Granted::Pending) => {}
            // As the RFC has it, for good.
            Ok(Granted::SlowDown) => interval += 5,
            Err(error) => {
                let name = authorize::error_of(&reply.body);
                return Err(refused("the token endpoint", &error, name.as_deref()));
            }
        }
    }
    Err(Failure::new("the code has run out"))
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
