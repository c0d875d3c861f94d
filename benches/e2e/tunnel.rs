//! The floor: a CONNECT tunnel that copies bytes, as small as one can be. It checks nobody, looks
//! into nothing and injects nothing, so whatever an intercepting proxy costs more is the price of
//! doing so.

use std::io::{self, Write};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::Result;

/// Serves until the process is ended. Every tunnel leads to `origin`, whatever its CONNECT names.
pub(crate) fn run(origin: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        io::stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(tunnel(stream, origin));
        }
    })
}

async fn tunnel(mut client: TcpStream, origin: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    drop(head);
    let mut origin = TcpStream::connect(origin).await?;
    origin.set_nodelay(true)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut origin).await?;
    Ok(())
}
