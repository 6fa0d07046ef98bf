//! A connection: commands out, replies in.
//!
//! Commands and replies are the driver's; its client is not used. A refusal that a server sends unasked (it has
//! too many clients, it is in protected mode) has to be read as the answer to the first command, and a login
//! has to be ours to judge.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use combine::parser::combinator::AnySendSyncPartialState;
use combine::stream::{Decoder, PointerOffset};
use redis::{Cmd, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// More than any answer has: a list of some eighty thousand clients.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// A line for each of so many clients. An element of an answer has a line, too, and takes many times its bytes in memory.
const MOST_LINES: usize = 100_000;

/// What a connection runs over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

/// An open connection. Dropping it cuts it; [`Wire::leave`] takes leave of the server.
pub(super) struct Wire {
    stream: Metered,
    decoder: Decoder<AnySendSyncPartialState, PointerOffset<[u8]>>,
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    Cut(io::ErrorKind),
    /// What came is not this protocol.
    Garbled,
    /// More came than an answer has.
    Endless,
}

/// A stream that ends an answer which is longer than any.
struct Metered {
    inner: Box<dyn Stream>,
    bytes: usize,
    lines: usize,
}

impl Wire {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Metered { inner: Box::new(stream), bytes: 0, lines: 0 }, decoder: Decoder::new() }
    }

    /// Sends commands in one piece and reads a reply to each; an error of the server's is a reply.
    pub(super) async fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Lost> {
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        for command in commands {
            command.write_packed_command(&mut bytes);
        }
        // A server that has refused the connection says why, although nothing can be sent to it any more.
        let sent = async {
            self.stream.inner.write_all(&bytes).await?;
            self.stream.inner.flush().await
        };
        let sent = sent.await.map_err(|error| Lost::Cut(error.kind()));
        let mut replies = Vec::with_capacity(commands.len());
        for _ in commands {
            match (self.reply().await, sent) {
                (Ok(reply), _) => replies.push(reply),
                (Err(_), Err(lost)) | (Err(lost), Ok(())) if replies.is_empty() => return Err(lost),
                (Err(lost), _) if !matches!(replies.last(), Some(Value::ServerError(_))) => return Err(lost),
                // The server said why before it ended the connection.
                (Err(_), _) => break,
            }
        }
        Ok(replies)
    }

    async fn reply(&mut self) -> Result<Value, Lost> {
        (self.stream.bytes, self.stream.lines) = (0, 0);
        let reply = redis::parse_redis_value_async(&mut self.decoder, &mut self.stream).await;
        reply.map_err(|error| match error.kind() {
            _ if self.stream.is_full() => Lost::Endless,
            redis::ErrorKind::Io => Lost::Cut(io::ErrorKind::UnexpectedEof),
            _ => Lost::Garbled,
        })
    }

    /// Takes leave of the server and waits until it has ended the session, so that the session is not taken for
    /// somebody's use of the user afterwards.
    pub(super) async fn leave(mut self) {
        if self.ask(&[redis::cmd("QUIT")]).await.is_ok() {
            let mut rest = [0; 16];
            while matches!(self.stream.read(&mut rest).await, Ok(1..)) {}
        }
    }
}

impl Metered {
    const fn is_full(&self) -> bool {
        self.bytes > MOST_BYTES || self.lines > MOST_LINES
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let new = &buffer.filled()[before..];
        self.bytes += new.len();
        self.lines += new.iter().filter(|byte| **byte == b'\n').count();
        if self.is_full() { Poll::Ready(Err(io::ErrorKind::FileTooLarge.into())) } else { read }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cut(kind) => write!(f, "the connection was lost: {kind}"),
            Self::Garbled => f.write_str("the answer is not one of a Redis server"),
            Self::Endless => f.write_str("the answer is longer than one of a Redis server"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(answer: &'static [u8], commands: usize) -> Result<Vec<Value>, Lost> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(answer).await.expect("room");
        drop(theirs);
        let commands: Vec<Cmd> = (0..commands).map(|_| redis::cmd("PING")).collect();
        Wire::new(ours).ask(&commands).await
    }

    #[tokio::test]
    async fn what_a_server_said_before_it_went_is_the_answer() {
        let refused = asked(b"-ERR max number of clients reached\r\n", 3).await.expect("an answer");
        let [Value::ServerError(error)] = refused.as_slice() else { panic!("{refused:?}") };
        assert_eq!(error.code(), "ERR");
        assert!(error.details().is_some_and(|details| details.contains("max number of clients")));
    }

    #[tokio::test]
    async fn a_reply_that_did_not_come_is_not_made_up() {
        assert_eq!(asked(b"+OK\r\n", 2).await, Err(Lost::Cut(io::ErrorKind::UnexpectedEof)));
        assert!(matches!(asked(b"", 1).await, Err(Lost::Cut(_))));
        // It went at once: whether that or what it said is noticed first is not certain.
        let other = asked(b"HTTP/1.1 400 Bad Request\r\n\r\n", 1).await;
        assert!(matches!(other, Err(Lost::Garbled | Lost::Cut(_))), "{other:?}");
        assert_eq!(asked(b"+OK\r\n+PONG\r\n", 2).await.map(|replies| replies.len()), Ok(2));
    }

    /// What comes of an answer that begins so and goes on with this again and again, and how much of it was taken.
    async fn fed(begin: &'static [u8], again: Vec<u8>) -> (Result<Vec<Value>, Lost>, usize) {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let feeding = tokio::spawn(async move {
            let mut taken = 0;
            theirs.write_all(begin).await.expect("room");
            while theirs.write_all(&again).await.is_ok() {
                taken += again.len();
            }
            taken
        });
        let mut wire = Wire::new(ours);
        let answer = wire.ask(&[redis::cmd("PING")]).await;
        drop(wire);
        (answer, feeding.await.expect("no panic"))
    }

    /// An element of four bytes takes a dozen times as many here.
    #[tokio::test]
    async fn an_answer_of_too_many_elements_is_left_early() {
        for (begin, again) in [
            (&b"*16777216\r\n"[..], b":1\r\n".repeat(256)),
            (b"%16777216\r\n", b"_\r\n".repeat(256)),
            (b"*16777216\r\n", b"*1\r\n$0\r\n\r\n".repeat(256)),
        ] {
            let (answer, taken) = fed(begin, again).await;
            assert_eq!(answer, Err(Lost::Endless));
            assert!(taken < 1024 * 1024, "{taken}");
        }
    }

    #[tokio::test]
    async fn an_answer_of_too_many_bytes_is_left() {
        let (answer, taken) = fed(b"$1073741824\r\n", vec![b'N'; 1024 * 1024]).await;
        assert_eq!(answer, Err(Lost::Endless));
        assert!(taken <= MOST_BYTES + 2 * 1024 * 1024, "{taken}");
    }

    /// Each answer has its own measure: a list is asked for again and again on one connection.
    #[tokio::test]
    async fn long_lists_are_read_one_after_another() {
        let list = "id=7 name=\n".repeat(MOST_LINES * 2 / 3);
        let answer = format!("${}\r\n{list}\r\n", list.len());
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            for _ in 0..3 {
                theirs.write_all(answer.as_bytes()).await.expect("it is read");
            }
        });
        let asked = [redis::cmd("CLIENT"), redis::cmd("CLIENT"), redis::cmd("CLIENT")];
        let replies = Wire::new(ours).ask(&asked).await.expect("answers");
        assert!(replies.iter().all(|reply| *reply == Value::BulkString(list.clone().into_bytes())));
    }
}
