//! An HTTP/2 client over a tunnel, and the frames themselves.

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{Agent, HOST, Serve, Wire, client_config, connect};

/// One HTTP/2 connection in a tunnel.
pub struct Http2 {
    pub send: SendRequest<Bytes>,
    /// How the connection ended.
    pub end: JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer, or what came of it.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    /// Why it is not whole.
    pub broken: Option<h2::Error>,
}

impl Http2 {
    pub async fn open(serve: &Serve, agent: &Agent) -> Self {
        Self::open_with(serve, agent, &h2::client::Builder::new()).await
    }

    pub async fn open_with(serve: &Serve, agent: &Agent, builder: &h2::client::Builder) -> Self {
        let mut tcp = TcpStream::connect(serve.proxy).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let hello = connect(&format!("{HOST}:443"), &agent.authorization());
        tcp.write_all(hello.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        let mut config = client_config(&serve.ca());
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(HOST).unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        let tls = tls.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (send, connection) = builder.handshake(tls).await.unwrap();
        Self { send, end: tokio::spawn(connection) }
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&self, request: Request<()>, body: &[u8]) -> Reply {
        ask2(self.send.clone(), request, body).await.unwrap()
    }

    /// Sends the head of a request whose body is to come.
    pub async fn begin(&self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = self.send.clone().ready().await.unwrap();
        send.send_request(request, false).unwrap()
    }
}

/// Sends a request and reads its answer; an error if there is no head of it.
pub async fn ask2(
    send: SendRequest<Bytes>,
    request: Request<()>,
    body: &[u8],
) -> Result<Reply, h2::Error> {
    let mut send = send.ready().await?;
    let (answer, mut stream) = send.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body), true)?;
    }
    reply2(answer).await
}

/// Reads an answer; an error if there is no head of it.
pub async fn reply2(answer: ResponseFuture) -> Result<Reply, h2::Error> {
    let (parts, mut stream) = answer.await?.into_parts();
    let mut reply = Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: Vec::new(),
        trailers: HeaderMap::new(),
        broken: None,
    };
    while let Some(data) = stream.data().await {
        match data {
            Ok(data) => {
                stream.flow_control().release_capacity(data.len()).unwrap();
                reply.body.extend_from_slice(&data);
            }
            Err(error) => {
                reply.broken = Some(error);
                return Ok(reply);
            }
        }
    }
    match stream.trailers().await {
        Ok(trailers) => reply.trailers = trailers.unwrap_or_default(),
        Err(error) => reply.broken = Some(error),
    }
    Ok(reply)
}

/// What comes next before an answer; none when the answer does.
pub async fn interim2(answer: &mut ResponseFuture) -> Option<Response<()>> {
    std::future::poll_fn(|cx| answer.poll_informational(cx)).await.map(Result::unwrap)
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The code of a problem that Locum made.
    #[track_caller]
    pub fn problem(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(json["status"], self.status);
        json["code"].as_str().unwrap().to_owned()
    }
}

/// A request to the usual origin.
pub fn request2(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let uri = format!("https://{HOST}{path}");
    let mut request = Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

impl Serve {
    /// A tunnel whose TLS agreed on HTTP/2, after the preface and empty SETTINGS: what comes next is
    /// put there by hand.
    #[track_caller]
    pub fn raw_http2(&self, agent: &Agent) -> Wire {
        let mut wire = self.bare_http2(agent);
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        wire.send(frame(4, 0, 0, b""));
        wire
    }

    /// The same before the preface.
    #[track_caller]
    pub fn bare_http2(&self, agent: &Agent) -> Wire {
        let mut config = client_config(&self.ca());
        config.alpn_protocols = vec![b"h2".to_vec()];
        let wire = self.open_tunnel(agent, &format!("{HOST}:443"));
        wire.tls_with(HOST, config).expect("TLS with the proxy")
    }
}

/// A frame (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The frames of a transcript: type, flags, stream, payload. What is not whole at the end is left out.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut all = Vec::new();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        let Some(payload) = bytes.get(9..9 + length) else { break };
        all.push((bytes[3], bytes[4], stream, payload.to_vec()));
        bytes = &bytes[9 + length..];
    }
    all
}
