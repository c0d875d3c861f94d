//! A connection on which every byte is put by hand, and every byte that comes back is kept.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use serde_json::Value;

use super::PATIENCE;

/// A connection.
pub struct Wire {
    stream: Stream,
    /// Read, and not yet part of an answer.
    ahead: Vec<u8>,
    /// All that was ever read.
    pub transcript: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, Stream>>),
    /// The origin's end.
    Served(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.shutdown(Shutdown::Write),
            Self::Unix(unix) => unix.shutdown(Shutdown::Write),
            Self::Tls(tls) => {
                tls.conn.send_close_notify();
                tls.flush()?;
                tls.sock.finish()
            }
            Self::Served(tls) => {
                tls.conn.send_close_notify();
                tls.flush()?;
                tls.sock.shutdown(Shutdown::Write)
            }
        }
    }

    fn set_write_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.set_write_timeout(Some(time)),
            Self::Unix(unix) => unix.set_write_timeout(Some(time)),
            Self::Tls(tls) => tls.sock.set_write_timeout(time),
            Self::Served(tls) => tls.sock.set_write_timeout(Some(time)),
        }
    }

    fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.set_read_timeout(Some(time)),
            Self::Unix(unix) => unix.set_read_timeout(Some(time)),
            Self::Tls(tls) => tls.sock.set_read_timeout(time),
            Self::Served(tls) => tls.sock.set_read_timeout(Some(time)),
        }
    }
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Unix(_) => panic!("no TCP"),
            Self::Tls(tls) => tls.sock.tcp(),
            Self::Served(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Unix(unix) => unix.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
            Self::Served(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Unix(unix) => unix.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
            Self::Served(tls) => tls.write(bytes),
        }
    }

    /// All at once: with the first piece alone, an alert behind it would stay here.
    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write_vectored(pieces),
            Self::Unix(unix) => unix.write_vectored(pieces),
            Self::Tls(tls) => tls.write_vectored(pieces),
            Self::Served(tls) => tls.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Unix(unix) => unix.flush(),
            Self::Tls(tls) => tls.flush(),
            Self::Served(tls) => tls.flush(),
        }
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// An answer that did not come, or not to its end.
#[derive(Debug)]
pub struct Broken {
    pub why: String,
    /// What had come of the answer's body.
    pub body: Vec<u8>,
}

impl Wire {
    #[track_caller]
    pub fn plain(address: SocketAddr) -> Self {
        Self::try_plain(address).unwrap_or_else(|e| panic!("no connection to {address}: {e}"))
    }

    pub fn try_plain(address: SocketAddr) -> io::Result<Self> {
        Self::of(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    /// Either end of a connection.
    pub fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Stream::Plain(stream), ahead: Vec::new(), transcript: Vec::new() })
    }

    /// A connection to a Unix socket.
    pub fn try_unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Stream::Unix(stream), ahead: Vec::new(), transcript: Vec::new() })
    }

    /// Begins TLS on this connection, in TLS if it has it already, and finishes the handshake.
    pub fn tls(self, name: &str, ca: &Path) -> io::Result<Self> {
        self.tls_with(name, client_config(ca))
    }

    pub fn tls_with(self, name: &str, config: ClientConfig) -> io::Result<Self> {
        let mut below = self.stream;
        assert!(self.ahead.is_empty(), "bytes before TLS: {:?}", self.ahead);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut below)?;
        }
        let stream = Stream::Tls(Box::new(StreamOwned::new(tls, below)));
        Ok(Self { stream, ahead: Vec::new(), transcript: self.transcript })
    }

    /// The same as an origin.
    pub fn tls_server(self, config: Arc<ServerConfig>) -> io::Result<Self> {
        let Stream::Plain(mut tcp) = self.stream else { panic!("it is TLS already") };
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        let stream = Stream::Served(Box::new(StreamOwned::new(tls, tcp)));
        Ok(Self { stream, ahead: Vec::new(), transcript: Vec::new() })
    }

    /// The certificate chain that the other side showed.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        match &self.stream {
            Stream::Plain(_) | Stream::Unix(_) | Stream::Served(_) => Vec::new(),
            Stream::Tls(tls) => tls
                .conn
                .peer_certificates()
                .unwrap()
                .iter()
                .map(|c| c.clone().into_owned())
                .collect(),
        }
    }

    /// How the handshake came to be: full or resumed, and over which key exchange.
    pub fn handshake(&self) -> (rustls::HandshakeKind, rustls::NamedGroup) {
        let Stream::Tls(tls) = &self.stream else { panic!("no TLS") };
        let group = tls.conn.negotiated_key_exchange_group().unwrap().name();
        (tls.conn.handshake_kind().unwrap(), group)
    }

    /// The port at this end of a TCP connection.
    pub fn port(&self) -> u16 {
        let mut stream = &self.stream;
        while let Stream::Tls(tls) = stream {
            stream = &tls.sock;
        }
        let Stream::Plain(tcp) = stream else { panic!("no TCP") };
        tcp.local_addr().unwrap().port()
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("the other side takes what is sent");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush())
    }

    /// Sends nothing more, and says so. The other side may have gone already.
    pub fn finish(&mut self) {
        let _gone = self.stream.finish();
    }

    /// Ends the connection below TLS, without TLS's own goodbye.
    pub fn cut(self) {
        let _gone = self.stream.tcp().shutdown(Shutdown::Both);
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        // Closed with a linger of zero, Linux sends RST (`man 7 socket`).
        rustix::net::sockopt::set_socket_linger(self.stream.tcp(), Some(Duration::ZERO)).unwrap();
    }

    /// Some more bytes; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.transcript.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Reads exactly so much.
    #[track_caller]
    pub fn read_exact(&mut self, buffer: &mut [u8]) {
        let length = buffer.len();
        let taken = self.take(length);
        let taken =
            taken.unwrap_or_else(|| panic!("closed before {length} bytes: {:?}", self.ahead));
        buffer.copy_from_slice(&taken);
    }

    /// Throws away what was read ahead; how much it was.
    pub fn taken_ahead(&mut self) -> usize {
        std::mem::take(&mut self.ahead).len()
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let n = self.read(&mut buffer)?;
        self.ahead.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Whether nothing comes for so long.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.set_read_timeout(time);
        let silent = self.ahead.is_empty()
            && self.more().is_err_and(|e| {
                matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            });
        self.set_read_timeout(PATIENCE);
        silent
    }

    /// Gives up soon when the other side takes nothing.
    pub fn impatient(&mut self, time: Duration) {
        self.stream.set_write_timeout(time).unwrap();
    }

    fn set_read_timeout(&mut self, time: Duration) {
        self.stream.set_read_timeout(time).unwrap();
    }

    /// Reads on until the other side closes; what came before that.
    #[track_caller]
    pub fn until_closed(&mut self) -> Vec<u8> {
        loop {
            match self.more() {
                Ok(0) => break,
                Ok(_) => {}
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                {
                    panic!("the other side does not close");
                }
                Err(_) => break,
            }
        }
        std::mem::take(&mut self.ahead)
    }

    /// Reads on to an orderly end: with TLS, its goodbye; what came before that.
    pub fn try_until_end(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// The head of the next request; none when the other side has closed.
    pub fn try_head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.ahead, b"\r\n\r\n") {
                let head: Vec<u8> = self.ahead.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if self.more().ok()? == 0 {
                return None;
            }
        }
    }

    /// Reads on until `end` has come; what came up to and with it.
    #[track_caller]
    pub fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = memchr::memmem::find(&self.ahead, end.as_bytes()) {
                let taken: Vec<u8> = self.ahead.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let n = self.more().unwrap_or_else(|e| panic!("waiting for {end:?}: {e}"));
            assert!(n > 0, "closed before {end:?}; {:?}", String::from_utf8_lossy(&self.ahead));
        }
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        let request = request.as_ref();
        self.send(request);
        let method = request.split(|b| *b == b' ').next().unwrap();
        self.answer_to(&String::from_utf8_lossy(method))
    }

    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer(method).unwrap_or_else(|broken| {
            panic!("{}; after {:?}", broken.why, String::from_utf8_lossy(&broken.body))
        })
    }

    /// Reads an answer to a request of this method. 1xx answers are passed over.
    pub fn try_answer(&mut self, method: &str) -> Result<Answer, Broken> {
        let mut answer = loop {
            let answer = self.head()?;
            if !(100..200).contains(&answer.status) || answer.status == 101 {
                break answer;
            }
        };
        match self.body(method, &mut answer) {
            Ok(()) => Ok(answer),
            Err(why) => Err(Broken { why, body: answer.body }),
        }
    }

    fn head(&mut self) -> Result<Answer, Broken> {
        let broken = |why: String| Broken { why, body: Vec::new() };
        let end = loop {
            if let Some(at) = memchr::memmem::find(&self.ahead, b"\r\n\r\n") {
                break at + 4;
            }
            match self.more() {
                Ok(0) => return Err(broken("closed before the end of the head".to_owned())),
                Ok(_) => {}
                Err(e) => return Err(broken(format!("no head: {e}"))),
            }
        };
        let head: Vec<u8> = self.ahead.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let mut words = status_line.splitn(3, ' ');
        let (version, status) = (words.next().unwrap_or_default(), words.next());
        let status = status.and_then(|s| s.parse().ok()).filter(|_| version.starts_with("HTTP/1."));
        let status = status.ok_or_else(|| broken(format!("no status line: {status_line:?}")))?;
        Ok(Answer {
            status,
            reason: words.next().unwrap_or_default().to_owned(),
            headers: lines.map(field).collect(),
            body: Vec::new(),
            trailers: Vec::new(),
        })
    }

    fn body(&mut self, method: &str, answer: &mut Answer) -> Result<(), String> {
        let tunnel = method == "CONNECT" && answer.status == 200;
        if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) || tunnel {
            return Ok(());
        }
        let chunked = answer.header("transfer-encoding").is_some_and(|t| t == "chunked");
        let length = answer.header("content-length").map(|l| l.parse::<usize>().unwrap());
        match (chunked, length) {
            (true, _) => self.chunks(answer),
            (false, Some(length)) => {
                let taken = self.take(length);
                answer.body = taken.unwrap_or_else(|| std::mem::take(&mut self.ahead));
                if answer.body.len() == length { Ok(()) } else { Err("the body is cut".to_owned()) }
            }
            (false, None) => loop {
                match self.more() {
                    Ok(0) => {
                        answer.body = std::mem::take(&mut self.ahead);
                        return Ok(());
                    }
                    Ok(_) => {}
                    Err(e) => {
                        answer.body = std::mem::take(&mut self.ahead);
                        return Err(format!("the body is cut: {e}"));
                    }
                }
            },
        }
    }

    fn chunks(&mut self, answer: &mut Answer) -> Result<(), String> {
        loop {
            let line = self.line().ok_or("cut before a chunk's length")?;
            let length = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16);
            let length = length.map_err(|_| format!("no chunk length: {line:?}"))?;
            if length == 0 {
                break;
            }
            let Some(data) = self.take(length) else {
                answer.body.append(&mut self.ahead);
                return Err("cut within a chunk".to_owned());
            };
            answer.body.extend_from_slice(&data);
            if self.line().as_deref() != Some("") {
                return Err("no line end after a chunk".to_owned());
            }
        }
        loop {
            match self.line().ok_or("cut in the trailers")?.as_str() {
                "" => return Ok(()),
                line => answer.trailers.push(field(line)),
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.ahead, b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..at + 2).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.more().ok()? == 0 {
                return None;
            }
        }
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < length {
            if self.more().ok()? == 0 {
                return None;
            }
        }
        Some(self.ahead.drain(..length).collect())
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The code of a problem that Locum made: the status fits, and `Proxy-Status` says the same.
    #[track_caller]
    pub fn problem(&self) -> String {
        let text = self.text();
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{text}");
        let json = self.json();
        let code = json["code"].as_str().unwrap().to_owned();
        assert_eq!(json["status"], self.status, "{text}");
        let status = self.header("proxy-status").expect("Proxy-Status");
        assert!(status.starts_with("locum;") && status.contains(&code), "{status}");
        code
    }

    #[track_caller]
    pub fn request_id(&self) -> String {
        self.json()["instance"].as_str().unwrap().to_owned()
    }
}

/// A client that believes the CAs in this file and no others.
pub fn client_config(ca: &Path) -> ClientConfig {
    client_config_of(ca, rustls::crypto::aws_lc_rs::default_provider())
}

/// The same, with ciphers and groups of the test's choice.
pub fn client_config_of(ca: &Path, provider: CryptoProvider) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
