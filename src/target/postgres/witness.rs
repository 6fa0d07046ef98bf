//! Watches what a server asks for at login.
//!
//! A server whose `pg_hba.conf` says `trust` accepts any value, so a login there proves nothing. The
//! driver does not tell; the server's first message does, and this reads it on its way to the driver.
//! It also stops a login in which the value would have to be sent in the clear, an answer that the driver would keep
//! whole and that does not end, and sees a closed session to its end at the server.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// No answer to what is asked is nearly as long, in bytes.
const LONGEST_ANSWER: usize = 32 << 20;

/// What the server asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing about the value: `trust`, `peer`, `cert` and their like.
    Nothing,
    /// An MD5 digest over the value.
    Md5,
    /// A proof of knowledge; the value stays here.
    Scram,
}

/// Where a [`Witness`] writes down what it saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Observation {
    demand: Arc<OnceLock<Demand>>,
}

impl Observation {
    /// What the server asked for; `None` while it has not asked, or if it asked for something unknown.
    pub(super) fn demand(&self) -> Option<Demand> {
        self.demand.get().copied()
    }
}

/// The server asked for the value itself. Whoever can put up a server, or has taken one over, could ask; a server
/// that checks a verifier never needs to.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the server asks for the value in the clear")]
pub(super) struct CleartextDemanded;

/// The stream below the driver.
pub(super) struct Witness<S> {
    inner: S,
    /// The head of the server's first message: a tag, a length and, in an authentication request, its code.
    head: [u8; 9],
    seen: usize,
    /// How much was read since something was sent.
    answered: usize,
    observation: Observation,
}

impl<S> Witness<S> {
    pub(super) const fn new(inner: S, observation: Observation) -> Self {
        Self { inner, head: [0; 9], seen: 0, answered: 0, observation }
    }

    fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.seen == self.head.len() {
            return Ok(());
        }
        let taken = bytes.len().min(self.head.len() - self.seen);
        self.head[self.seen..self.seen + taken].copy_from_slice(&bytes[..taken]);
        self.seen += taken;
        if self.seen < self.head.len() {
            return Ok(());
        }
        // https://www.postgresql.org/docs/current/protocol-message-formats.html, Authentication*
        let demand = match self.head {
            [b'R', _, _, _, _, 0, 0, 0, 0] => Demand::Nothing,
            [b'R', _, _, _, _, 0, 0, 0, 3] => {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, CleartextDemanded));
            }
            [b'R', _, _, _, _, 0, 0, 0, 5] => Demand::Md5,
            [b'R', _, _, _, _, 0, 0, 0, 10] => Demand::Scram,
            _ => return Ok(()),
        };
        let _ = self.observation.demand.set(demand);
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Witness<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.answered += buf.filled().len() - before;
        if self.answered > LONGEST_ANSWER {
            buf.set_filled(before);
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let looked = self.look(&buf.filled()[before..]);
        if looked.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(looked)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Witness<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.answered = 0;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Done when the server has closed its side too: its process lets go of the session before that.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        let mut rest = [0; 256];
        loop {
            let mut rest = ReadBuf::new(&mut rest);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut rest)) {
                Ok(()) if !rest.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: TlsStream + Unpin> TlsStream for Witness<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

/// A TLS connector whose streams are watched inside the encryption.
pub(super) struct WatchedTls<C> {
    pub(super) connector: C,
    pub(super) observation: Observation,
}

impl<S, C> TlsConnect<S> for WatchedTls<C>
where
    C: TlsConnect<S>,
    C::Future: Send + 'static,
{
    type Stream = Witness<C::Stream>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let handshake = self.connector.connect(stream);
        let observation = self.observation;
        Box::pin(async move { Ok(Witness::new(handshake.await?, observation)) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn seen(message: &[u8]) -> (io::Result<usize>, Option<Demand>) {
        let observation = Observation::default();
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut witness = Witness::new(ours, observation.clone());
        let message = message.to_vec();
        let (read, ()) = tokio::join!(
            async move {
                let mut whole = Vec::new();
                witness.read_to_end(&mut whole).await
            },
            async move {
                // One byte at a time: a message may arrive in any pieces.
                for byte in message {
                    if theirs.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        );
        (read, observation.demand())
    }

    #[tokio::test]
    async fn the_first_message_tells_what_is_asked_for() {
        for (code, demand) in [(0, Demand::Nothing), (5, Demand::Md5), (10, Demand::Scram)] {
            let message = [b'R', 0, 0, 0, 23, 0, 0, 0, code, b'S', b'C'];
            let (read, seen) = seen(&message).await;
            assert_eq!((read.ok(), seen), (Some(message.len()), Some(demand)));
        }
    }

    #[tokio::test]
    async fn an_error_or_an_unknown_method_is_no_demand() {
        for message in [&b"E\0\0\0\x20SFATAL\0"[..], &[b'R', 0, 0, 0, 8, 0, 0, 0, 7], b"R\0\0"] {
            assert_eq!(seen(message).await.1, None);
        }
    }

    #[tokio::test]
    async fn a_session_is_closed_when_the_server_has_let_go_of_it() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut witness = Witness::new(ours, Observation::default());
        let mut close =
            async || std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut witness).poll_shutdown(cx))).await;
        assert!(close().await.is_pending());
        theirs.write_all(b"a last notice").await.expect("room");
        assert!(close().await.is_pending());
        drop(theirs);
        assert!(matches!(close().await, Poll::Ready(Ok(()))));
    }

    #[tokio::test]
    async fn an_answer_has_an_end() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut witness = Witness::new(ours, Observation::default());
        let endless = tokio::spawn(async move {
            let part = vec![b'N'; 1 << 20];
            while theirs.write_all(&part).await.is_ok() {}
        });
        let mut part = vec![0; 1 << 20];
        let mut read = 0;
        let error = loop {
            match witness.read(&mut part).await {
                Ok(length) => read += length,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(read <= LONGEST_ANSWER);
        // What comes after another question is another answer.
        witness.write_all(b"Q").await.expect("sent");
        assert!(matches!(witness.read(&mut part).await, Ok(1..)));
        endless.abort();
    }

    #[tokio::test]
    async fn a_demand_for_the_value_itself_ends_the_login() {
        let (read, seen) = seen(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]).await;
        let error = read.expect_err("it was let through");
        assert!(error.get_ref().is_some_and(|inner| inner.is::<CleartextDemanded>()));
        assert_eq!(seen, None);
    }
}
