//! One process takes over from another: it is given the very sockets on which the other listens, so
//! that there is no moment at which a connection would be refused.
//!
//! The running proxy listens on a socket in its home, which only its own user can open. Whoever asks
//! there is sent the listening sockets (`SCM_RIGHTS`), and says that it has them; only then does the
//! running proxy stop taking connections. It finishes its requests, closes the vault and the audit
//! log, and its end shows as the end of that conversation. What comes meanwhile waits in the queue
//! of the sockets, which both have.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Weak;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::service::Socket;
use super::{Failure, Home};
use crate::files::SocketPath;

/// What is asked for; the number is that of this conversation's form.
const ASK: &[u8; 12] = b"take over 1\n";

/// That the sockets have come.
const THANKS: &[u8; 6] = b"taken\n";

/// For each step of the conversation: both sides are on this machine, and have only this to do.
const STEP: Duration = Duration::from_secs(5);

/// The most sockets in one message (`SCM_MAX_FD` of Linux is 253).
const MOST: usize = 64;

/// The running proxy's end.
pub(super) struct Desk {
    listener: tokio::net::UnixListener,
    sockets: Vec<Weak<Socket>>,
}

/// The conversation with the process that takes over. As long as it is held, that one waits.
#[derive(Debug)]
pub(super) struct HandedOver(#[allow(dead_code)] UnixStream);

impl Desk {
    /// Opens the desk. The audit log's lock is held, so whatever has the name is of a dead process.
    pub(super) fn open(home: &Home, sockets: Vec<Weak<Socket>>) -> io::Result<Self> {
        let path = home.take_over();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The home lets nobody else in; the caller's user is looked at besides.
        let listener = tokio::net::UnixListener::bind(SocketPath::of(&path).as_path())?;
        Ok(Self { listener, sockets })
    }

    /// Returns when another process has taken the sockets.
    pub(super) async fn wait(self) -> HandedOver {
        loop {
            match self.serve_one().await {
                Ok(taken) => return taken,
                Err(error) => {
                    tracing::warn!(%error, "the listening sockets were asked for, and not taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve_one(&self) -> io::Result<HandedOver> {
        let (stream, _) = self.listener.accept().await?;
        if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "by another user"));
        }
        let stream = stream.into_std()?;
        let sockets: Vec<_> = self.sockets.iter().filter_map(Weak::upgrade).collect();
        let give = move || {
            stream.set_nonblocking(false)?;
            give(stream, &sockets.iter().map(|socket| socket.as_fd()).collect::<Vec<_>>())
        };
        tokio::task::spawn_blocking(give).await.map_err(io::Error::other)?
    }
}

fn give(mut stream: UnixStream, sockets: &[BorrowedFd<'_>]) -> io::Result<HandedOver> {
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    let mut asked = [0; ASK.len()];
    stream.read_exact(&mut asked)?;
    if asked != *ASK || sockets.len() > MOST {
        return Err(io::Error::other("in a form that this version does not know"));
    }
    let rights = SendAncillaryMessage::ScmRights(sockets);
    let mut space = vec![MaybeUninit::uninit(); rights.size()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(rights) {
        return Err(io::Error::other("the message is too small for its sockets"));
    }
    rustix::net::sendmsg(&stream, &[IoSlice::new(THANKS)], &mut ancillary, SendFlags::empty())?;
    let mut taken = [0; THANKS.len()];
    stream.read_exact(&mut taken)?;
    if taken != *THANKS {
        return Err(io::Error::other("the other side did not say that it has them"));
    }
    Ok(HandedOver(stream))
}

/// What the successor was given.
pub(super) struct Taken {
    pub(super) sockets: Vec<Socket>,
    conversation: UnixStream,
}

impl Taken {
    /// Asks the proxy that runs on this home for its sockets; none when none runs. From here on it
    /// takes no more connections.
    ///
    /// # Errors
    /// When it does not answer as it should. It then goes on as before.
    pub(super) fn ask(home: &Home) -> Result<Option<Self>, Failure> {
        let path = home.take_over();
        let stream = match UnixStream::connect(SocketPath::of(&path).as_path()) {
            Ok(stream) => stream,
            Err(error) if nobody(&error) => return Ok(None),
            Err(error) => return Err(failed(&path, &error)),
        };
        take(stream).map(Some).map_err(|error| failed(&path, &error))
    }

    /// Returns when the predecessor has ended: then the vault and the audit log are free.
    pub(super) async fn predecessor_ended(&self) -> io::Result<()> {
        let stream = self.conversation.try_clone()?;
        stream.set_read_timeout(None)?;
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        let mut byte = [0];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Its end, in order or not.
                _ => return Ok(()),
            }
        }
    }
}

fn nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: the running proxy does not hand over: {error}", path.display()))
        .help("stop it, and start without --take-over")
}

fn take(mut stream: UnixStream) -> io::Result<Taken> {
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    stream.write_all(ASK)?;
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; THANKS.len()];
    let slices = &mut [IoSliceMut::new(&mut text)];
    rustix::net::recvmsg(&stream, slices, &mut ancillary, RecvFlags::empty())?;
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for right in rights {
                sockets.push(socket(right)?);
            }
        }
    }
    if sockets.is_empty() {
        return Err(io::Error::other("no socket came"));
    }
    stream.write_all(THANKS)?;
    Ok(Taken { sockets, conversation: stream })
}

fn socket(right: OwnedFd) -> io::Result<Socket> {
    rustix::io::fcntl_setfd(&right, FdFlags::CLOEXEC)?;
    let tcp = TcpListener::from(right);
    match tcp.local_addr() {
        Ok(SocketAddr::V4(_) | SocketAddr::V6(_)) => Ok(Socket::Tcp(tcp)),
        // std says so of every other family.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Ok(Socket::Unix(UnixListener::from(OwnedFd::from(tcp))))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_change_hands_and_the_end_is_seen() {
        let (near, far) = UnixStream::pair().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(directory.path().join("s")).unwrap();
        let address = tcp.local_addr().unwrap();
        let giving = std::thread::spawn(move || give(far, &[tcp.as_fd(), unix.as_fd()]));
        let taken = take(near).unwrap();
        let held = giving.join().unwrap().unwrap();
        // The giver's own are closed by now; these still listen.
        let _connected = std::net::TcpStream::connect(address).unwrap();
        let _connected = UnixStream::connect(directory.path().join("s")).unwrap();
        assert!(matches!(&taken.sockets[..], [Socket::Tcp(_), Socket::Unix(_)]));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ended = taken.predecessor_ended();
            let mut ended = std::pin::pin!(ended);
            let early = tokio::time::timeout(Duration::from_millis(50), ended.as_mut()).await;
            assert!(early.is_err(), "the giver is still there");
            drop(held);
            ended.await.unwrap();
        });
    }

    #[test]
    fn whoever_asks_for_something_else_gets_nothing() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"take over 9\n").unwrap();
        assert!(give(far, &[]).is_err());
        assert_eq!(near.read(&mut [0; 8]).unwrap(), 0);
    }
}
