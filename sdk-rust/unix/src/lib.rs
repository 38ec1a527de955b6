//! Unix stream sockets for tokio and tonic that are woken only for what is waited for.
//!
//! Tokio's own `UnixStream` is registered for reading and writing at once. Linux reports "writable"
//! of a Unix socket each time the other end *reads*, so every message wakes its sender a second time
//! for nothing: at one message under way that is a third of all wake-ups. A [`UnixStream`] of this
//! crate is registered for reading alone; it writes at once, and only where the system's buffer is
//! full does it register for writing, until that write is done.
//!
//! ```
//! # async fn example() -> std::io::Result<()> {
//! let stream = kar_unix::connect("/run/example.sock").await?; // AsyncRead + AsyncWrite
//! # drop(stream); Ok(()) }
//! ```

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Socket;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::StreamExt as _;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Connected;

/// Bytes read at once: the buffer is zeroed before each read, so it is not made longer than pays.
const READ_BYTES_MAX: usize = 64 << 10;

/// A connected Unix stream socket. See the crate's documentation.
#[derive(Debug)]
pub struct UnixStream {
    /// Registered for reading.
    socket: AsyncFd<Socket>,
    /// Registered for writing, while a write waits for room.
    room: Option<AsyncFd<Socket>>,
}

/// Connects to a socket.
///
/// # Errors
///
/// If nobody listens there.
pub async fn connect(path: impl AsRef<Path>) -> io::Result<UnixStream> {
    UnixStream::new(tokio::net::UnixStream::connect(path).await?)
}

/// The connections that come in to a listener, for `tonic`'s servers.
pub fn incoming(
    listener: tokio::net::UnixListener,
) -> impl Stream<Item = io::Result<UnixStream>> + Send {
    UnixListenerStream::new(listener).map(|stream| UnixStream::new(stream?))
}

// === impl UnixStream ===

impl UnixStream {
    /// Takes tokio's stream over.
    ///
    /// # Errors
    ///
    /// If it cannot be registered anew.
    pub fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        // It stays in non-blocking mode.
        let socket = stream.into_std()?;
        Ok(Self { socket: register(socket, Interest::READABLE)?, room: None })
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.room.is_none() {
            match write(self.socket.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            let again = self.socket.get_ref().try_clone()?;
            self.room = Some(register(again, Interest::WRITABLE)?);
        }
        let Some(room) = &self.room else { return Poll::Pending };
        loop {
            let mut guard = ready!(room.poll_write_ready(cx))?;
            // An error is "would block": readiness was stale, and is cleared by it.
            if let Ok(done) = guard.try_io(|socket| write(socket.get_ref())) {
                drop(guard);
                self.room = None;
                return Poll::Ready(done);
            }
        }
    }
}

impl AsyncRead for UnixStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            let room = buf.remaining().min(READ_BYTES_MAX);
            let into = buf.initialize_unfilled_to(room);
            match guard.try_io(|socket| socket.get_ref().read(into)) {
                Ok(Ok(count)) => {
                    // A short read has emptied the socket: what comes next is reported anew.
                    if count > 0 && count < room {
                        guard.clear_ready();
                    }
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for UnixStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |mut socket| socket.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |mut socket| socket.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.socket.get_ref().shutdown(Shutdown::Write) {
            // The other side was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

impl Connected for UnixStream {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

/// Registers a socket with the runtime.
#[expect(deprecated, reason = "unsound only for types that lend another descriptor than they own")]
fn register(socket: Socket, interest: Interest) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::with_interest(socket, interest)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (a, b) = tokio::net::UnixStream::pair().expect("a pair of sockets");
        (UnixStream::new(a).expect("registers"), UnixStream::new(b).expect("registers"))
    }

    #[tokio::test]
    async fn more_than_the_buffers_hold_arrives_whole() {
        let (mut a, mut b) = pair();
        let bytes: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
        let expected = bytes.clone();
        let writer = tokio::spawn(async move {
            a.write_all(&bytes).await.expect("the other end reads");
            a.shutdown().await.expect("shuts down");
            assert!(a.room.is_none(), "it is registered for writing only while it waits");
        });
        let mut read = Vec::new();
        b.read_to_end(&mut read).await.expect("reads to the end");
        assert!(read == expected, "{} bytes came", read.len());
        writer.await.expect("the writer ended");
    }

    #[tokio::test]
    async fn a_reader_waits_for_what_comes_later_in_pieces() {
        let (mut a, mut b) = pair();
        for round in 0..1_000_u32 {
            let echo = async {
                let mut bytes = [0; 4];
                b.read_exact(&mut bytes).await?;
                b.write_all(&bytes).await
            };
            let ask = async {
                a.write_all(&round.to_be_bytes()[..1]).await?;
                a.write_all(&round.to_be_bytes()[1..]).await?;
                a.read_u32().await
            };
            let (echoed, answer) = tokio::join!(echo, ask);
            echoed.expect("echoes");
            assert_eq!(answer.expect("is answered"), round);
        }
    }

    #[tokio::test]
    async fn a_vanished_reader_is_an_error_and_an_end() {
        let (mut a, b) = pair();
        drop(b);
        assert_eq!(a.read(&mut [0; 8]).await.expect("the end"), 0);
        let error = a.write_all(&[0; 1 << 20]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn listeners_hand_out_connections() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).expect("listens");
        let mut incoming = std::pin::pin!(incoming(listener));
        let mut client = connect(&path).await.expect("connects");
        let mut server = incoming.next().await.expect("one").expect("a connection");
        client.write_all(b"hello").await.expect("writes");
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).await.expect("reads");
        assert_eq!(&bytes, b"hello");
    }
}
