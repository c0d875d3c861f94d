//! One HTTP/1.1 connection to an origin, driven by whoever uses it.
//!
//! The task that waits for an answer also moves the bytes. That saves two wake-ups of another task for each
//! request, a task for each idle connection, and gives an exact answer to *is it dead?* when a connection is
//! taken from the pool. While it waits there it has no buffer.

mod alarm;
mod answer;
mod outgoing;
mod stream;
mod wire;

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf, ReadHalf, WriteHalf};
use tokio::runtime::{self, Handle};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;

pub(super) use alarm::Alarm;
pub(super) use answer::{Answer, Incoming};
pub(super) use outgoing::{Outgoing, Stop};
pub(super) use stream::Stream;

use super::body::{BodyError, RequestBody, Upload};
use super::interim::{Hearing, Interims};
use super::leash::{End, Leash};
use super::trust::refuses_our_certificate;
use crate::http1::{ChunksError, HeadError};
use wire::Wire;

/// The runtime of this thread, if it has one.
pub(super) fn here() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

/// Why an exchange gave no answer.
pub(super) enum Failure {
    /// The connection was dead before a byte of the request had left, or the origin said that it has
    /// not looked at it; here is the request.
    Unsent(Box<Request<RequestBody>>),
    /// The origin wants HTTP/1.1 for it, and has not looked at it; here is the request.
    Http1Required(Box<Request<RequestBody>>),
    /// The connection broke, or what came over it was not HTTP.
    Broken(LinkError),
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

/// Why a connection is of no use any more.
#[derive(Debug)]
pub enum LinkError {
    /// The head of the answer cannot be read.
    Head(HeadError),
    /// The answer's body is not in the coding that its head names.
    Chunks(ChunksError),
    /// It ended before the answer.
    Closed,
    /// It broke: the system says so, or TLS.
    Io(io::Error),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head(_) | Self::Chunks(_) => "the host's answer is no valid HTTP/1.1",
            Self::Closed => "the host closed the connection before its answer",
            Self::Io(_) => "the connection to the host broke",
        })
    }
}

impl StdError for LinkError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Head(error) => Some(error),
            Self::Chunks(error) => Some(error),
            Self::Closed => None,
            Self::Io(error) => Some(error),
        }
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

/// A connection. What is read and written of one exchange has its buffers with that.
pub(super) struct Link {
    wire: Wire<Stream>,
    alarm: Alarm,
    /// What ends it from outside.
    end: Arc<End>,
    opened: Instant,
    /// The runtime that waits for its socket.
    home: Option<runtime::Id>,
    /// Whether nothing can come any more, or nothing that was asked for.
    ended: bool,
    /// Whether it came to this runtime, and has not been looked at since.
    unheard: bool,
}

impl Link {
    /// Makes an HTTP/1.1 connection of a stream. Sends nothing yet.
    pub(super) fn new(stream: Stream, leash: Leash) -> Self {
        let end = leash.end();
        Self {
            wire: Wire::new(stream, leash),
            alarm: Alarm::default(),
            end,
            opened: Instant::now(),
            home: here(),
            ended: false,
            unheard: false,
        }
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

    /// Makes this thread's runtime its home.
    pub(super) fn adopt(&mut self) {
        let here = here();
        if here.is_some() && self.home != here {
            self.home = here;
            self.alarm = Alarm::default();
            self.unheard = true;
            self.ended |= self.wire.stream.enter_this_runtime().is_err();
        }
    }

    /// Whether it is alive after it came from another runtime. That one's ear was at the socket, and
    /// this one has only begun to listen: what arrived before is known when it has looked once.
    pub(super) async fn is_alive_here(&mut self) -> bool {
        if !std::mem::take(&mut self.unheard) {
            return true;
        }
        // What this runtime hears of the socket is there after its next turn, and not before.
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
        self.poll_end(&mut silent()).is_pending()
    }

    /// Ready when it has ended: with an error, if there was one.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Error>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut byte = [0];
        let read = ready!(Pin::new(&mut self.wire).poll_read(cx, &mut ReadBuf::new(&mut byte)));
        self.ended = true;
        Poll::Ready(read.err())
    }

    /// Whether the next exchange may begin, now that one is over. Lets go of the task that waited last: a
    /// waker holds all the memory of its task, for as long as the connection waits in the pool.
    pub(super) fn is_settled(&mut self) -> bool {
        let settled = self.is_alive();
        if settled {
            self.alarm.forget_waker();
            self.end.forget_waker();
        }
        settled
    }

    /// Sends the request and waits for the head of the answer.
    pub(super) async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        upload: Option<&Upload>,
        patience: Patience,
        interims: Option<&Interims>,
    ) -> Result<Answer, Failure> {
        let sent = Instant::now();
        // With the task's own waker, which then is where what comes first is told.
        if let Poll::Ready(error) = poll_fn(|cx| Poll::Ready(self.poll_end(cx))).await {
            return Err(match error {
                // The next connection would hear the same.
                Some(error) if refuses_our_certificate(&error) => {
                    Failure::Broken(LinkError::Io(error))
                }
                _ => Failure::Unsent(Box::new(request)),
            });
        }
        let method = request.method().clone();
        let hearing = Hearing::of(&request, interims);
        let Some(outgoing) = Outgoing::new(request) else { return Err(Failure::Unfit) };
        let (mut rest, mut incoming) = (Some(outgoing), Incoming::new());
        let mut begun = false;
        let answered = poll_fn(|cx| {
            // It was listened to a moment ago. After that it is heard before more is sent, which may always move.
            let head = if std::mem::replace(&mut begun, true) {
                incoming.poll_head(&mut self.wire, cx, (&method, &hearing))
            } else {
                Poll::Pending
            };
            match rest.as_mut().map(|rest| rest.poll(&mut self.wire, cx)) {
                Some(Poll::Ready(Ok(()))) => rest = None,
                Some(Poll::Ready(Err(Stop::Body))) => return Poll::Ready(Err(Failure::Unfit)),
                Some(Poll::Ready(Err(Stop::Wire(error)))) => {
                    return Poll::Ready(Err(Failure::Broken(LinkError::Io(error))));
                }
                Some(Poll::Pending) | None => {}
            }
            if let Poll::Ready(head) = head {
                return Poll::Ready(head.map_err(Failure::Broken));
            }
            let (deadline, late) = patience.deadline(sent, upload);
            self.alarm.poll(cx, deadline).map(|()| Err(late))
        });
        match answered.await {
            Ok(response) => Ok(Answer { response, incoming, rest }),
            Err(failure) => {
                self.ended = true;
                Err(failure)
            }
        }
    }

    /// The next of the body of its answer.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        incoming.poll_frame(&mut self.wire, cx)
    }

    /// Ready when `deadline` is over.
    pub(super) fn poll_alarm(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.alarm.poll(cx, deadline)
    }

    /// Has the rest of a request sent by a task, for an answer that came before: the reader of the answer
    /// may wait for the writer of the request.
    pub(super) fn detach(self, rest: Outgoing) -> Detached {
        let (read, write) = tokio::io::split(self.wire);
        let uploading = tokio::spawn(upload(rest, write, self.end));
        Detached { read, alarm: self.alarm, uploading }
    }

    /// Ends it in order: nothing comes any more that is worth a wait.
    pub(super) fn close(mut self) {
        let _the_origin_may_be_gone = Pin::new(&mut self.wire).poll_shutdown(&mut silent());
    }

    /// The stream, for whoever goes on without HTTP.
    pub(super) fn into_stream(self) -> Stream {
        self.wire.stream
    }
}

/// Sends the rest of a request, and ends the connection when that comes to nothing.
async fn upload(mut rest: Outgoing, mut wire: WriteHalf<Wire<Stream>>, end: Arc<End>) {
    if poll_fn(|cx| rest.poll(&mut wire, cx)).await.is_err() {
        end.now();
    }
}

/// A connection whose answer came before all of the request was sent. It is not used again.
pub(super) struct Detached {
    read: ReadHalf<Wire<Stream>>,
    alarm: Alarm,
    uploading: JoinHandle<()>,
}

impl Detached {
    /// The next of the body of its answer.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        incoming: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        incoming.poll_frame(&mut self.read, cx)
    }

    /// Ready when `deadline` is over.
    pub(super) fn poll_alarm(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.alarm.poll(cx, deadline)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        self.uploading.abort();
    }
}

/// A context for looking without being told later.
pub(super) fn silent() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::via::Transport;
    use http_body::Body;
    use http_body_util::Full;
    use std::pin::pin;
    use std::task::Wake;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpStream;
    use tokio::sync::mpsc;

    const PATIENCE: Patience =
        Patience { response: Duration::from_secs(5), idle: Duration::from_secs(5) };

    fn link() -> (Link, DuplexStream) {
        let (near, far) = duplex(1024);
        (Link::new(Stream::Memory(near), Leash::default()), far)
    }

    fn request() -> Request<RequestBody> {
        let (body, _) = RequestBody::new(Full::new(Bytes::from_static(b"once")));
        Request::post("/pay").body(body).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_met_a_closed_connection_comes_back_whole() {
        let (mut link, far) = link();
        assert!(link.is_alive());
        drop(far);
        let Err(Failure::Unsent(request)) = link.exchange(request(), None, PATIENCE, None).await
        else {
            panic!("the request was not given back");
        };
        assert_eq!(request.uri(), "/pay");
        assert!(!request.body().is_end_stream());
        assert!(!link.is_alive());
    }

    #[tokio::test]
    async fn a_request_of_which_a_byte_was_read_does_not_come_back() {
        let (mut link, mut far) = link();
        let origin = tokio::spawn(async move { far.read_u8().await });
        let sent = link.exchange(request(), None, PATIENCE, None).await;
        assert!(matches!(sent, Err(Failure::Broken(_))));
        assert_eq!(origin.await.unwrap().unwrap(), b'P');
    }

    #[tokio::test]
    async fn an_answer_before_its_question_ends_the_connection() {
        let (mut link, mut far) = link();
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert!(!link.is_alive());
    }

    #[tokio::test]
    async fn a_request_that_meets_what_nobody_asked_for_comes_back_whole() {
        let (mut link, mut far) = link();
        far.write_all(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let sent = link.exchange(request(), None, PATIENCE, None).await;
        assert!(matches!(sent, Err(Failure::Unsent(_))));
    }

    /// A body that a test feeds.
    struct Fed(mpsc::UnboundedReceiver<io::Result<Bytes>>);

    impl Body for Fed {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
        }
    }

    fn fed() -> (mpsc::UnboundedSender<io::Result<Bytes>>, Request<RequestBody>) {
        let (feed, body) = mpsc::unbounded_channel();
        (feed, Request::post("/pay").body(RequestBody::new(Fed(body)).0).unwrap())
    }

    /// The writes fail, and nothing has been read yet.
    #[tokio::test]
    async fn an_answer_in_the_middle_of_an_upload_is_heard_before_its_end() {
        let (mut link, mut far) = link();
        let (feed, request) = fed();
        feed.send(Ok(vec![b'x'; 5000].into())).unwrap();
        let origin = tokio::spawn(async move {
            far.read_u8().await.unwrap();
            far.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 4\r\n\r\nno").await.unwrap();
        });
        let Ok(answer) = link.exchange(request, None, PATIENCE, None).await else {
            panic!("there is an answer");
        };
        assert_eq!(answer.response.status(), 413);
        origin.await.unwrap();
        let (mut incoming, mut detached) = (answer.incoming, link.detach(answer.rest.unwrap()));
        let mut next = async || poll_fn(|cx| detached.poll_frame(cx, &mut incoming)).await.unwrap();
        assert_eq!(next().await.unwrap().into_data().unwrap(), "no");
        assert!(next().await.is_err(), "and the answer is not whole");
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_ends_the_connection_under_its_answer() {
        let (mut link, mut far) = link();
        let (feed, request) = fed();
        far.write_all(b"").await.unwrap();
        let origin = tokio::spawn(async move {
            far.read_u8().await.unwrap();
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
            far.write_all(head).await.unwrap();
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.unwrap();
            rest
        });
        let Ok(answer) = link.exchange(request, None, PATIENCE, None).await else {
            panic!("there is an answer");
        };
        let (mut incoming, mut detached) = (answer.incoming, link.detach(answer.rest.unwrap()));
        let mut next = async || poll_fn(|cx| detached.poll_frame(cx, &mut incoming)).await.unwrap();
        assert_eq!(next().await.unwrap().into_data().unwrap(), "ok");
        feed.send(Ok(Bytes::from_static(b"half"))).unwrap();
        feed.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        assert!(next().await.is_err());
        drop(detached);
        assert!(!origin.await.unwrap().ends_with(b"0\r\n\r\n"));
    }

    /// Its memory is that of a task, tens of kilobytes.
    #[tokio::test]
    async fn a_connection_that_waits_holds_no_waker() {
        struct Nobody;
        impl Wake for Nobody {
            fn wake(self: Arc<Self>) {}
        }
        let nobody = Arc::new(Nobody);
        let waker = Waker::from(Arc::clone(&nobody));
        let mut cx = Context::from_waker(&waker);
        let (near, mut far) = duplex(8 * 1024);
        let mut link = Link::new(Stream::Memory(near), Leash::default());
        let Answer { mut incoming, rest, .. } = {
            let mut exchange = pin!(link.exchange(request(), None, PATIENCE, None));
            assert!(exchange.as_mut().poll(&mut cx).is_pending());
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n{:2000}", "");
            far.write_all(answer.as_bytes()).await.unwrap();
            let Poll::Ready(Ok(answer)) = exchange.as_mut().poll(&mut cx) else {
                panic!("it is there");
            };
            answer
        };
        assert!(rest.is_none());
        while !incoming.is_over() {
            assert!(link.poll_frame(&mut cx, &mut incoming).is_ready());
        }
        assert!(incoming.leaves_all_well() && link.is_settled());
        drop(waker);
        assert_eq!(Arc::strong_count(&nobody), 1);
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
            let mut link = Link::new(Stream::Plain(Transport::Tcp(stream)), Leash::default());
            assert_eq!(link.home(), here());
            link.exchange(request(), None, PATIENCE, None).await.ok().unwrap();
            assert!(link.is_settled());
            link
        });
        drop(first);
        second.block_on(async {
            assert_ne!(link.home(), here());
            link.adopt();
            assert_eq!(link.home(), here());
            assert!(link.is_alive());
            let answer = link.exchange(request(), None, PATIENCE, None).await.ok().unwrap();
            assert_eq!(answer.response.status(), 200);
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
            Link::new(Stream::Plain(Transport::Tcp(stream)), Leash::default())
        });
        drop(listener.accept().unwrap());
        second.block_on(async {
            link.adopt();
            assert!(!link.is_alive_here().await);
        });
        drop(first);
    }
}
