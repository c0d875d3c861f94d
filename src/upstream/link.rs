//! One HTTP/1.1 connection to an origin, driven by whoever uses it.
//!
//! hyper splits a connection into a handle and a driver, and expects the driver to be spawned. Here
//! the two stay together: the task that waits for the answer also moves the bytes. That saves two
//! wake-ups of another task for each request, a task for each idle connection, and gives an exact
//! answer to *is it dead?* when a connection is taken from the pool. And whoever drives a connection
//! can take its stream and buffer back, which is how a WebSocket begins (`upgrade`).

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{self, Handle};
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::client::TlsStream;

use super::Spelling;
use super::body::{RequestBody, Upload};
use super::gather::Gather;
use super::hear::HeardOut;
use super::leash::{End, Leash};
use super::trust::{agreed_on_http2, refuses_our_certificate};
use super::via::Transport;

/// The longest response head: over 64 KiB they are refused by every server and browser in use.
const HEAD: usize = 64 * 1024;

/// The most that hyper reads ahead of a slow reader, and the most that it gathers before it writes.
/// Buffers start at 8 KiB and grow to this only for a bulk transfer: six TLS records. More would cost
/// less of the kernel's work, and be held for each slow reader.
const BUFFER: usize = 96 * 1024;

/// The bytes below HTTP.
pub(super) enum Stream {
    /// In the clear.
    Plain(Transport),
    /// Verified TLS. Boxed: its state is some ten times that of a socket.
    Tls(Box<TlsStream<Transport>>),
    /// A pipe of the tests.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

impl Stream {
    /// Whether its TLS agreed on HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Tls(tls) if agreed_on_http2(tls))
    }

    /// Has this thread's runtime wait for the socket, in place of the one that did.
    fn enter_this_runtime(&mut self) -> io::Result<()> {
        let socket = match self {
            Self::Plain(transport) => transport.socket(),
            Self::Tls(tls) => tls.get_mut().0.socket(),
            #[cfg(test)]
            Self::Memory(_) => return Ok(()),
        };
        // Under another number: the old one is still with the old runtime until it is dropped.
        let again = socket.as_fd().try_clone_to_owned()?;
        *socket = TcpStream::from_std(again.into())?;
        Ok(())
    }
}

/// A stream that can be handed to another runtime. Who has the connection cannot reach the stream
/// inside it, so it leaves word, and the stream moves when it is next used.
pub(super) struct Movable {
    pub(super) stream: Stream,
    gather: Gather,
    leash: Leash,
    move_here: Arc<AtomicBool>,
}

impl Movable {
    fn settle(&mut self) -> io::Result<()> {
        self.leash.check()?;
        if self.move_here.load(Ordering::Relaxed) {
            self.move_here.store(false, Ordering::Relaxed);
            self.stream.enter_this_runtime()?;
        }
        Ok(())
    }

    fn settled(&mut self) -> io::Result<Pin<&mut Stream>> {
        self.settle()?;
        Ok(Pin::new(&mut self.stream))
    }
}

/// The runtime of this thread, if it has one.
pub(super) fn here() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

type Driver = Connection<TokioIo<HeardOut<Movable>>, RequestBody>;

/// Why an exchange gave no answer.
pub(super) enum Failure {
    /// The connection was dead before a byte of the request had left, or the origin said that it has
    /// not looked at it; here is the request.
    Unsent(Box<Request<RequestBody>>),
    /// The origin wants HTTP/1.1 for it, and has not looked at it; here is the request.
    Http1Required(Box<Request<RequestBody>>),
    /// The connection broke, or what came over it was not HTTP.
    Broken(hyper::Error),
    /// The answer's head did not come in time.
    Late,
    /// The request's body did not move for the idle time.
    Stalled,
    /// The HTTP/2 stream, or its connection, ended before the answer.
    Stream(h2::Error),
    /// The request cannot be said in HTTP/2, or its body broke off.
    Unfit,
}

impl Failure {
    /// The request back, where it may be sent again; the error, where it may not.
    pub(super) fn stream(error: h2::Error, back: Option<Box<Request<RequestBody>>>) -> Self {
        back.map_or(Self::Stream(error), Self::Unsent)
    }
}

/// The times that bound an exchange.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// From the end of the request to the head of the answer.
    pub(super) response: Duration,
    /// Between two pieces of a body.
    pub(super) idle: Duration,
}

impl Patience {
    /// Until when an answer is waited for, and what it is when that has passed.
    ///
    /// The clock of the answer starts when the last byte of the request's body was taken, so that a
    /// slow upload is not a slow answer; until then only a body that stands still ends the wait.
    pub(super) fn deadline(self, sent: Instant, upload: Option<&Upload>) -> (Instant, Failure) {
        match upload {
            Some(upload) if !upload.is_done() => {
                (upload.last_moved() + self.idle, Failure::Stalled)
            }
            Some(upload) => (upload.last_moved() + self.response, Failure::Late),
            None => (sent + self.response, Failure::Late),
        }
    }
}

/// A connection: hyper's handle and its driver.
pub(super) struct Link {
    pub(super) sender: SendRequest<RequestBody>,
    /// None once the connection has ended. It must not be polled after that.
    pub(super) driver: Option<Driver>,
    /// What the origin said of our certificate, if that was the end.
    verdict: Option<hyper::Error>,
    alarm: Alarm,
    /// What ends it from outside.
    end: Arc<End>,
    opened: Instant,
    /// The runtime that waits for its socket.
    home: Option<runtime::Id>,
    /// How it writes the names of fields, which hyper is told when a connection begins.
    spelling: Spelling,
    move_here: Arc<AtomicBool>,
    /// Whether it came to this runtime, and has not been looked at since.
    unheard: bool,
}

impl Link {
    /// Makes an HTTP/1.1 connection of a stream. Sends nothing yet.
    pub(super) async fn new(
        stream: Stream,
        leash: Leash,
        spelling: Spelling,
    ) -> hyper::Result<Self> {
        let move_here = Arc::<AtomicBool>::default();
        let (gather, moves) = (Gather::default(), Arc::clone(&move_here));
        let end = leash.end();
        let stream = Movable { stream, gather, leash, move_here: moves };
        let (sender, driver) =
            Self::settings(spelling).handshake(TokioIo::new(HeardOut::new(stream))).await?;
        let (alarm, opened, home) = (Alarm::default(), Instant::now(), here());
        Ok(Self {
            sender,
            driver: Some(driver),
            verdict: None,
            alarm,
            end,
            opened,
            home,
            spelling,
            move_here,
            unheard: false,
        })
    }

    /// Strict where responses can be read in two ways (no obsolete folding, no ignored lines, no
    /// HTTP/0.9), which are hyper's defaults and are left alone. `max_headers` too stays at its
    /// default of 100, because any other value makes hyper allocate for each response.
    fn settings(spelling: Spelling) -> Builder {
        let mut builder = Builder::new();
        // Origins that mind the case of field names see it as the client wrote it: in the way that is told
        // here, or as the agent's side noted it of each name. The answer's is not noted, which is a tenth
        // of the work on it: names in answers are lower-case in HTTP/2 and HTTP/3, and clients are used to it.
        builder.max_buf_size(BUFFER).max_header_size(HEAD);
        builder.title_case_headers(spelling == Spelling::Title);
        builder
    }

    /// When it was opened.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// The runtime that waits for its socket. It works in any, and best in this one: in another, each
    /// event would come by way of this one's thread.
    pub(super) fn home(&self) -> Option<runtime::Id> {
        self.home
    }

    /// How it writes the names of fields.
    pub(super) fn spelling(&self) -> Spelling {
        self.spelling
    }

    /// Makes this thread's runtime its home.
    pub(super) fn adopt(&mut self) {
        let here = here();
        if self.home != here {
            self.home = here;
            self.move_here.store(true, Ordering::Relaxed);
            self.alarm = Alarm::default();
            self.unheard = true;
        }
    }

    /// Whether it is alive after it came from another runtime. That one's ear was at the socket, and
    /// this one has only begun to listen: what arrived before is known when it has looked once.
    pub(super) async fn is_alive_here(&mut self) -> bool {
        if !std::mem::take(&mut self.unheard) {
            return true;
        }
        // The first look is what moves the socket. What this runtime then hears of it is there after
        // its next turn, and not before.
        if !self.is_alive() {
            return false;
        }
        yield_now().await;
        self.is_alive()
    }

    /// Whether it can take a request now. Reads what has arrived since anybody looked: a close, or
    /// bytes that nobody asked for (an answer before its question), both end it here.
    pub(super) fn is_alive(&mut self) -> bool {
        // Nobody is to be woken: the next user polls again with a waker of its own.
        self.drive(&mut silent());
        self.is_ready()
    }

    fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Whether the last exchange is over on both sides and the next may begin. An answer that came
    /// before its request was sent in full leaves the connection unfit, and so does `close`.
    pub(super) fn is_settled(&mut self) -> bool {
        let settled = self.is_ready() || self.is_alive();
        if settled {
            self.alarm.forget_waker();
            self.end.forget_waker();
        }
        settled
    }

    /// Moves bytes until `arrived` has something, or nothing moves any more and `cx` will be woken
    /// when something does.
    ///
    /// The driver moves first without a waker. What it fills on the way wakes whoever filled it once
    /// it is taken, and that would be this very task: a second run of everything above, for nothing.
    pub(super) fn drive_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut arrived: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.drive(&mut silent());
        let found = arrived(&mut silent());
        if found.is_ready() {
            return found;
        }
        self.drive(cx);
        arrived(&mut silent())
    }

    /// Moves bytes both ways as far as they go.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(ended) = Pin::new(driver).poll(cx)
        {
            // Dropping it hands a waiting answer or body its error. What the driver's own error
            // would say is in theirs, but not in that of a request that had not left yet.
            self.driver = None;
            self.verdict = ended.err().filter(|error| refuses_our_certificate(error));
        }
    }

    /// Whether nothing can come any more.
    pub(super) fn has_ended(&self) -> bool {
        self.driver.is_none()
    }

    /// Sends the request and waits for the head of the answer.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        upload: Option<&Upload>,
        patience: Patience,
    ) -> Result<Response<Incoming>, Failure> {
        let sent = Instant::now();
        // Unconstrained, because it is polled with a waker that wakes nobody: all that can make it
        // ready happens inside `drive`, and the runtime's budget must not pause it unseen.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        let mut begun = false;
        std::future::poll_fn(|cx| {
            let answered = if std::mem::replace(&mut begun, true) {
                self.drive_for(cx, |cx| answer.as_mut().poll(cx))
            } else {
                // There is something to send and nothing to take yet.
                self.drive(cx);
                answer.as_mut().poll(&mut silent())
            };
            if let Poll::Ready(answer) = answered {
                return Poll::Ready(answer.map_err(|mut error| match error.take_message() {
                    Some(request) => match self.verdict.take() {
                        None => Failure::Unsent(Box::new(request)),
                        // The next connection would hear the same.
                        Some(verdict) => Failure::Broken(verdict),
                    },
                    None => Failure::Broken(error.into_error()),
                }));
            }
            let (deadline, late) = patience.deadline(sent, upload);
            self.alarm.poll(cx, deadline).map(|()| Err(late))
        })
        .await
    }

    /// Lets the driver run as a task of its own, for an answer that came while the request was
    /// still being sent: the reader of the answer may then wait for the writer of the request.
    pub(super) fn into_task(self) -> Task {
        Task { driver: self.driver.map(tokio::spawn), _sender: self.sender, alarm: self.alarm }
    }

    /// Ready when `deadline` is over.
    pub(super) fn poll_alarm(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.alarm.poll(cx, deadline)
    }
}

/// A connection that drives itself to the end of one exchange, and is not used again.
pub(super) struct Task {
    driver: Option<tokio::task::JoinHandle<hyper::Result<()>>>,
    /// hyper ends an idle connection whose handle is gone; this one is not idle yet.
    _sender: SendRequest<RequestBody>,
    alarm: Alarm,
}

impl Task {
    pub(super) fn poll_alarm(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.alarm.poll(cx, deadline)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

/// A context for looking without being told later.
pub(super) fn silent() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A timer that is set seldom. Deadlines move with every piece of a body; the timer is left where it
/// is, and looks at the true deadline when it goes off. It stays with the connection, so that a
/// request on a warm connection touches the runtime's timer wheel about once in a timeout.
#[derive(Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        // Unconstrained: an origin that always has more to say would take all of the runtime's
        // budget, and no clock would ever be looked at.
        while pin!(unconstrained(sleep.as_mut())).poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Lets go of the task that waited last. A waker holds all the memory of its task, and the timer
    /// would hold the waker for as long as the connection waits in the pool.
    pub(super) fn forget_waker(&mut self) {
        if let Some(sleep) = &mut self.0 {
            let _ = sleep.as_mut().poll(&mut silent());
        }
    }
}

/// Calls the same method of whichever stream it is.
macro_rules! either {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Self::Tls(stream) => Pin::new(stream).$method($($argument),*),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Movable {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.settle()?;
        let read = this.gather.poll_read(&mut this.stream, cx, buf);
        if read.is_pending() {
            this.leash.wait(cx)?;
        }
        read
    }
}

impl AsyncWrite for Movable {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().settled()?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().settled()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().settled()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().settled()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.poll_write_vectored(cx, bufs))
    }

    /// Both kinds do it well: a socket by `writev`, rustls by gathering into one record.
    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body::Body;
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const PATIENCE: Patience =
        Patience { response: Duration::from_secs(5), idle: Duration::from_secs(5) };

    async fn link() -> (Link, DuplexStream) {
        let (near, far) = duplex(1024);
        (Link::new(Stream::Memory(near), Leash::default(), Spelling::Lower).await.unwrap(), far)
    }

    fn request() -> Request<RequestBody> {
        let (body, _) = RequestBody::new(Full::new(Bytes::from_static(b"once")));
        Request::post("/pay").body(body).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_met_a_closed_connection_comes_back_whole() {
        let (mut link, far) = link().await;
        assert!(link.is_alive());
        drop(far);
        let Err(Failure::Unsent(request)) = link.exchange(request(), None, PATIENCE).await else {
            panic!("the request was not given back");
        };
        assert_eq!(request.uri(), "/pay");
        assert!(!request.body().is_end_stream());
        assert!(link.has_ended());
    }

    #[tokio::test]
    async fn a_request_of_which_a_byte_was_read_does_not_come_back() {
        let (mut link, mut far) = link().await;
        let origin = tokio::spawn(async move { far.read_u8().await });
        let sent = link.exchange(request(), None, PATIENCE).await;
        assert!(matches!(sent, Err(Failure::Broken(_))));
        assert_eq!(origin.await.unwrap().unwrap(), b'P');
    }

    #[tokio::test]
    async fn an_answer_before_its_question_ends_the_connection() {
        let (mut link, mut far) = link().await;
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert!(!link.is_alive());
    }

    /// A connection that one runtime opened serves another, also when the first is gone.
    #[test]
    fn a_link_moves_to_the_runtime_that_takes_it() {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let origin = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut served = 0;
            let mut byte = [0];
            let mut head = Vec::new();
            while std::io::Read::read(&mut stream, &mut byte).unwrap() > 0 {
                head.push(byte[0]);
                if head.ends_with(b"\r\n\r\nonce") {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    std::io::Write::write_all(&mut stream, answer).unwrap();
                    head.clear();
                    served += 1;
                }
            }
            served
        });
        let (first, second) = (runtime(), runtime());
        let mut link = first.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut link =
                Link::new(Stream::Plain(Transport::Tcp(stream)), Leash::default(), Spelling::Lower)
                    .await
                    .unwrap();
            assert_eq!(link.home(), here());
            link.exchange(request(), None, PATIENCE).await.ok().unwrap();
            assert!(link.is_settled());
            link
        });
        drop(first);
        second.block_on(async {
            assert_ne!(link.home(), here());
            link.adopt();
            assert_eq!(link.home(), here());
            assert!(link.is_alive());
            let answer = link.exchange(request(), None, PATIENCE).await.ok().unwrap();
            assert_eq!(answer.status(), 200);
            drop(link);
        });
        assert_eq!(origin.join().unwrap(), 2);
    }

    /// The runtime that heard of the close is gone; the one that takes the link hears of it in time.
    #[test]
    fn a_link_that_was_closed_before_it_moved_is_known_to_be_dead() {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (first, second) = (runtime(), runtime());
        let mut link = first.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            Link::new(Stream::Plain(Transport::Tcp(stream)), Leash::default(), Spelling::Lower)
                .await
                .unwrap()
        });
        drop(listener.accept().unwrap());
        second.block_on(async {
            link.adopt();
            assert!(!link.is_alive_here().await);
        });
        drop(first);
    }
}
