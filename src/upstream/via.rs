//! The proxy that stands before some hosts: a tunnel through it, by CONNECT (RFC 9110 section 9.3.6).
//!
//! Everything goes through a tunnel, `http://` origins too, so that what the proxy gets to see is a
//! host, a port and its own credential. What it answers is read for its status, and then forgotten.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use data_encoding::BASE64;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::dial::{Dialer, Names, Vetting};
use super::trust::{Offer, TlsProfile};
use crate::host::{Authority, Origin, Scheme};
use crate::outcome::{Code, Refusal};
use crate::record::Recorded;
use crate::reference::Name;
use crate::secret::Secret;

/// The longest head of an answer to CONNECT. A challenge has a handful of fields; proxies put their
/// error pages into the body, which is not read.
const MAX_HEAD: usize = 16 * 1024;

/// What `upstream.hosts.PATTERN.proxy` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRule {
    /// How the proxy is spoken to, and where it is.
    pub proxy: Origin,
    /// The credential that it asks for.
    pub credential: Option<Name>,
    /// Whether names are resolved here too, so that their addresses can be vetted.
    pub vet_names: bool,
}

/// Who asks which proxy for a tunnel to where.
#[derive(Clone, Copy, Debug)]
pub struct LoginFor<'a> {
    /// The credential that the config names.
    pub credential: &'a Name,
    /// The proxy that gets it.
    pub proxy: &'a Origin,
    /// Whom the proxy is to connect to.
    pub target: &'a Authority,
    /// The entry of the config that says so.
    pub rule: &'a str,
}

/// What a proxy is told of who we are.
pub struct Login {
    /// `user:password`, whose use has been recorded.
    pub pair: Recorded<Secret>,
    /// Where the proxy's answer is noted.
    pub account: Box<dyn LoginAccount>,
}

/// Notes how it went. Dropped without a word, the call was given up.
pub trait LoginAccount: Send {
    /// The proxy's status, if it answered, and our code, if that was the end of it.
    fn answered(self: Box<Self>, status: Option<u16>, code: Option<Code>);
}

/// Opens the credentials of the proxies on the way.
pub trait Logins: Send + Sync {
    /// Records the use of the credential, and only then opens it.
    ///
    /// # Errors
    /// A [`Refusal`] when the credential is not there, is not meant for this proxy, or when its use
    /// cannot be recorded.
    fn login(&self, asked: LoginFor<'_>) -> Result<Login, Refusal>;
}

/// Opens none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLogins;

impl Logins for NoLogins {
    fn login(&self, _: LoginFor<'_>) -> Result<Login, Refusal> {
        Err(Refusal::new(Code::VaultUnavailable))
    }
}

/// A connection below HTTP and below the origin's TLS: straight, or through a proxy.
pub enum Transport {
    /// To the origin, or to a proxy that is spoken to in the clear.
    Tcp(TcpStream),
    /// To a proxy that is spoken to over TLS. Boxed: its state is some ten times that of a socket.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// The socket at the bottom.
    pub(super) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }
}

/// A proxy on the way, ready to be used.
pub(super) struct NextProxy {
    origin: Origin,
    /// `upstream.hosts` of the proxy's own name may say whom to dial and whom to believe.
    address: Option<Authority>,
    tls: TlsProfile,
    credential: Option<Name>,
    names: Names,
    /// The entry of the config, for records and messages.
    rule: String,
    /// Connections to the proxy are Locum's own, whoever they are made for.
    principal: Arc<str>,
}

impl NextProxy {
    pub(super) fn new(
        rule: ProxyRule,
        pattern: &impl fmt::Display,
        address: Option<Authority>,
        tls: TlsProfile,
    ) -> Self {
        Self {
            origin: rule.proxy,
            address,
            tls,
            credential: rule.credential,
            names: if rule.vet_names { Names::Vetted } else { Names::LeftToProxy },
            rule: format!("upstream.hosts.{pattern}.proxy"),
            principal: Arc::from("locum"),
        }
    }

    /// A tunnel to `target`, for the asker. What can be known here of where that leads is checked meanwhile.
    pub(super) async fn tunnel(
        &self,
        target: &Authority,
        vetting: Vetting,
        (dialer, asker): (&Dialer, &str),
        handshake: Duration,
        logins: &dyn Logins,
    ) -> Result<Transport, Refusal> {
        let (mut transport, ()) = tokio::try_join!(
            self.reach(target, (dialer, asker), handshake),
            dialer.vet_behind_proxy(target, (vetting, self.names), asker),
        )?;
        timeout(dialer.timeout, self.ask(&mut transport, target, logins)).await.map_err(
            |_| {
                let what = format!("did not open a tunnel to {target} in {:?}", dialer.timeout);
                self.refusal(Code::ConnectTimeout, &what)
            },
        )??;
        Ok(transport)
    }

    /// Connects to the proxy itself. Its address is the operator's word.
    async fn reach(
        &self,
        target: &Authority,
        (dialer, asker): (&Dialer, &str),
        handshake: Duration,
    ) -> Result<Transport, Refusal> {
        let on_the_way = |refusal: Refusal| Refusal {
            detail: format!("on the way to {target}, {}", refusal.detail).into(),
            ..refusal
        };
        let authority = &self.origin.authority;
        let address = self.address.as_ref().unwrap_or(authority);
        let tcp = dialer.dial(address, Vetting::Operator, asker).await.map_err(on_the_way)?;
        if self.origin.scheme == Scheme::Http {
            return Ok(Transport::Tcp(tcp));
        }
        let shaking = self.tls.connect(authority, &self.principal, (tcp, None), Offer::Http1);
        let connected = timeout(handshake, shaking).await;
        let stream = connected
            .map_err(|_| {
                let what = format!("did not finish the TLS handshake in {handshake:?}");
                self.refusal(Code::ConnectTimeout, &what)
            })?
            .map_err(on_the_way)?;
        Ok(Transport::Tls(Box::new(stream)))
    }

    async fn ask(
        &self,
        transport: &mut Transport,
        target: &Authority,
        logins: &dyn Logins,
    ) -> Result<(), Refusal> {
        let (login, account) = match &self.credential {
            Some(credential) => {
                let (proxy, rule) = (&self.origin, &*self.rule);
                let login = logins.login(LoginFor { credential, proxy, target, rule })?;
                (Some(login.pair), Some(login.account))
            }
            None => (None, None),
        };
        let question = question(target, login.as_ref());
        drop(login);
        let answer = exchange(transport, &question).await;
        drop(question);
        let judged = self.judge(target, &answer);
        if let Some(account) = account {
            let status = answer.as_ref().ok().map(|answer| answer.status);
            account.answered(status, judged.as_ref().err().map(|refusal| refusal.code));
        }
        judged
    }

    fn judge(&self, target: &Authority, answer: &Result<Answer, Fault>) -> Result<(), Refusal> {
        let code = Code::NextProxyRefused;
        let (what, reason) = match answer {
            Ok(Answer { status: 200..=299, .. }) => return Ok(()),
            Ok(Answer { status: 407, schemes }) => return Err(self.challenged(schemes)),
            Ok(Answer { status: 403, .. }) => {
                (format!("does not allow a tunnel to {target}"), "the next proxy forbids the host")
            }
            Ok(Answer { status: status @ 502..=504, .. }) => (
                format!("could not reach {target}, and answered with {status}"),
                "the next proxy could not reach the host",
            ),
            Ok(Answer { status, .. }) => (
                format!("answered {status} when it was asked for a tunnel to {target}"),
                "the next proxy gave no tunnel",
            ),
            Err(fault) => (fault.to_string(), "the next proxy did not answer in HTTP/1.1"),
        };
        Err(self.refusal(code, &what).because(reason))
    }

    fn challenged(&self, schemes: &[&'static str]) -> Refusal {
        let (what, reason) = match (&self.credential, schemes) {
            (_, others @ [_, ..]) if !others.contains(&"Basic") => (
                format!("asks for {}, and Locum can do Basic alone", others.join(" or ")),
                "the next proxy wants a scheme other than Basic",
            ),
            (Some(_), _) => (
                "does not accept the credential that it was shown".to_owned(),
                "the next proxy does not accept its credential",
            ),
            (None, _) => (
                format!("asks for a credential, and {} names none", self.rule),
                "the next proxy asks for a credential, and none is configured",
            ),
        };
        tracing::warn!(proxy = %self.origin, credential = ?self.credential, reason, "407 from the next proxy");
        self.refusal(Code::NextProxyRefused, &what).because(reason)
    }

    fn refusal(&self, code: Code, what: &str) -> Refusal {
        Refusal::with_detail(code, format!("the proxy {} {what}", self.origin.authority))
    }
}

/// The whole request, in memory that is wiped. Sized at once, because a vector that grows leaves its
/// old memory behind.
fn question(target: &Authority, login: Option<&Recorded<Secret>>) -> Zeroizing<Vec<u8>> {
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    let Some(login) = login else { return Zeroizing::new([&head, "\r\n"].concat().into_bytes()) };
    login.get().expose(|pair| {
        const FIELD: &[u8] = b"Proxy-Authorization: Basic ";
        let encoded = BASE64.encode_len(pair.len());
        let mut whole = Zeroizing::new(vec![0; head.len() + FIELD.len() + encoded + 4]);
        let (start, rest) = whole.split_at_mut(head.len());
        let (field, rest) = rest.split_at_mut(FIELD.len());
        let (value, end) = rest.split_at_mut(encoded);
        start.copy_from_slice(head.as_bytes());
        field.copy_from_slice(FIELD);
        BASE64.encode_mut(pair, value);
        end.copy_from_slice(b"\r\n\r\n");
        whole
    })
}

/// What is kept of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// The known schemes of `Proxy-Authenticate`, in our own spelling: its text is the proxy's.
    schemes: Vec<&'static str>,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Closed,
    TooLong,
    NotHttp,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed the connection when it was asked for a tunnel",
            Self::TooLong => "answered with a header section that is over the limit",
            Self::NotHttp => "did not answer in HTTP/1.1",
        })
    }
}

async fn exchange(transport: &mut Transport, question: &[u8]) -> Result<Answer, Fault> {
    transport.write_all(question).await.map_err(|_| Fault::Closed)?;
    transport.flush().await.map_err(|_| Fault::Closed)?;
    let mut room = MAX_HEAD;
    loop {
        let head = read_head(transport, &mut room).await?;
        let answer = parse(&head)?;
        // Interim answers may come before the one that counts.
        if answer.status >= 200 {
            return Ok(answer);
        }
    }
}

/// Reads to the empty line and no further: what follows belongs to the tunnel. So it reads byte by
/// byte, which for the hundred bytes of a usual answer costs less than a packet's way.
async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    room: &mut usize,
) -> Result<Vec<u8>, Fault> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        *room = room.checked_sub(1).ok_or(Fault::TooLong)?;
        head.push(stream.read_u8().await.map_err(|_| Fault::Closed)?);
    }
    Ok(head)
}

fn parse(head: &[u8]) -> Result<Answer, Fault> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(status).ok_or(Fault::NotHttp)?;
    let challenges = lines.filter_map(|line| line.split_once(':')).filter_map(|(name, value)| {
        name.eq_ignore_ascii_case("proxy-authenticate").then_some(value)
    });
    Ok(Answer { status, schemes: schemes(challenges) })
}

/// `HTTP/1.1 200 Connection established` (RFC 9112 section 4).
fn status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.")?;
    let (minor, rest) = rest.split_once(' ')?;
    let digits = rest.split(' ').next()?;
    let whole = minor.len() == 1 && digits.len() == 3;
    let code = digits.parse().ok().filter(|code| (100..=599).contains(code));
    code.filter(|_| whole && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn schemes<'a>(challenges: impl Iterator<Item = &'a str>) -> Vec<&'static str> {
    const KNOWN: [&str; 5] = ["Basic", "Negotiate", "NTLM", "Digest", "Bearer"];
    let words = challenges.flat_map(|value| value.split(',')).filter_map(|part| {
        let word = part.split_ascii_whitespace().next()?;
        KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(word))
    });
    let mut found = Vec::new();
    for word in words {
        if !found.contains(&word) {
            found.push(word);
        }
    }
    found
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Transport::Tcp",
            Self::Tls(_) => "Transport::Tls",
        })
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_the_schemes_that_we_know() {
        let head = "HTTP/1.1 407 Proxy Authentication Required\r\n\
                    Proxy-Authenticate: Negotiate\r\n\
                    proxy-authenticate: NTLM TlRM, basic realm=\"a, digest b\"\r\n\
                    X: Bearer\r\n\r\n";
        let answer = parse(head.as_bytes()).unwrap();
        assert_eq!(answer.status, 407);
        // A quoted comma may show a scheme too many; it is only a word in a message.
        assert_eq!(answer.schemes, ["Negotiate", "NTLM", "Basic", "Digest"]);
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n\r\n").unwrap().status, 200);
        for broken in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 20 x\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 +20 x\r\n\r\n",
        ] {
            assert_eq!(parse(broken.as_bytes()), Err(Fault::NotHttp), "{broken:?}");
        }
    }

    #[tokio::test]
    async fn a_head_is_read_to_its_end_and_no_further() {
        let mut bytes: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0";
        let mut room = MAX_HEAD;
        read_head(&mut bytes, &mut room).await.unwrap();
        assert_eq!(bytes, b"SSH-2.0");
        let endless = vec![b'a'; MAX_HEAD + 1];
        let mut room = MAX_HEAD;
        assert_eq!(read_head(&mut &endless[..], &mut room).await, Err(Fault::TooLong));
        let mut room = MAX_HEAD;
        assert_eq!(read_head(&mut &b"HTTP/1.1"[..], &mut room).await, Err(Fault::Closed));
    }

    #[test]
    fn the_question_names_the_target_and_no_more() {
        let target = Authority::parse("[2001:db8::1]:8443", None).unwrap();
        let text = String::from_utf8(question(&target, None).to_vec()).unwrap();
        assert_eq!(text, "CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n\r\n");
    }
}
