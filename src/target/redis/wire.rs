//! A connection: commands out, replies in.
//!
//! Commands and replies are the driver's; its client is not used. A refusal that a server sends unasked (it has
//! too many clients, it is in protected mode) has to be read as the answer to the first command, and a login
//! has to be ours to judge.

use std::io;

use combine::parser::combinator::AnySendSyncPartialState;
use combine::stream::{Decoder, PointerOffset};
use redis::{Cmd, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Take};

/// More than any answer has: a list of a hundred thousand clients.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// What a connection runs over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

/// An open connection. Dropping it cuts it; [`Wire::leave`] takes leave of the server.
pub(super) struct Wire {
    stream: Take<Box<dyn Stream>>,
    decoder: Decoder<AnySendSyncPartialState, PointerOffset<[u8]>>,
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    Cut(io::ErrorKind),
    /// What came is not this protocol.
    Garbled,
}

impl Wire {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: (Box::new(stream) as Box<dyn Stream>).take(MOST_BYTES), decoder: Decoder::new() }
    }

    /// Sends commands in one piece and reads a reply to each; an error of the server's is a reply.
    pub(super) async fn ask(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Lost> {
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        for command in commands {
            command.write_packed_command(&mut bytes);
        }
        // A server that has refused the connection says why, although nothing can be sent to it any more.
        let sent = async {
            self.stream.get_mut().write_all(&bytes).await?;
            self.stream.get_mut().flush().await
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
        redis::parse_redis_value_async(&mut self.decoder, &mut self.stream).await.map_err(|error| match error
            .kind()
        {
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

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cut(kind) => write!(f, "the connection was lost: {kind}"),
            Self::Garbled => f.write_str("the answer is not one of a Redis server"),
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
}
