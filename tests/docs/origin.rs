//! A provider's stand-in: TLS on loopback, under a CA of its own, and an API that wants the real key.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The hosts that the documents call, each with its own leaf.
pub(crate) const HOSTS: [&str; 4] =
    ["api.openai.com", "api.github.com", "billing.example.com", "docs.example.com"];

/// An origin that serves until the process ends.
pub(crate) struct Origin {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The CA that has signed its certificate, PEM.
    pub(crate) ca: String,
}

impl Origin {
    /// Starts one. A request that has none of `keys` in it is answered with 401.
    pub(crate) fn start(keys: Vec<String>) -> Self {
        let (config, ca) = tls();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let keys = Arc::new(keys);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, keys) = (Arc::clone(&config), Arc::clone(&keys));
                // A client that goes away is no failure of the origin.
                std::thread::spawn(move || drop(serve(stream, config, &keys)));
            }
        });
        Self { address, ca }
    }
}

fn tls() -> (Arc<ServerConfig>, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.distinguished_name.push(DnType::CommonName, "the provider's CA");
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(HOSTS.map(str::to_owned)).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (Arc::new(config), ca_certificate.pem())
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, keys: &[String]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    while let Some(request) = read(&mut stream)? {
        let (status, body) = answer(&request, keys);
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(answer.as_bytes())?;
        stream.get_mut().flush()?;
    }
    Ok(())
}

struct Request {
    line: String,
    fields: Vec<String>,
}

type Tls = BufReader<StreamOwned<ServerConnection, TcpStream>>;

fn read(stream: &mut Tls) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut fields = Vec::new();
    let mut length = 0;
    loop {
        let mut field = String::new();
        stream.read_line(&mut field)?;
        let field = field.trim_end().to_owned();
        if field.is_empty() {
            break;
        }
        if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
        fields.push(field);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(Request { line: line.trim_end().to_owned(), fields }))
}

fn answer(request: &Request, keys: &[String]) -> (&'static str, String) {
    let known = request.fields.iter().any(|field| keys.iter().any(|key| field.contains(&**key)));
    let path = request.line.split(' ').nth(1).unwrap_or_default();
    match path {
        _ if !known => ("401 Unauthorized", "{\"error\":\"invalid key\"}\n".to_owned()),
        "/v1/models" => {
            let models = r#"{"object":"list","data":[{"id":"gpt-5"},{"id":"gpt-5-mini"}]}"#;
            ("200 OK", format!("{models}\n"))
        }
        // What a careless API does: it repeats what it was sent.
        "/echo" => {
            let fields: Vec<&String> =
                request.fields.iter().filter(|f| keys.iter().any(|k| f.contains(&**k))).collect();
            ("200 OK", format!("{}\n", serde_json::to_string(&fields).unwrap()))
        }
        _ => ("200 OK", "{\"ok\":true}\n".to_owned()),
    }
}
