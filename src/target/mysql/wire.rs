//! Packets: framing, and the few that a client needs besides those of a login.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html>. The forms of packets
//! are `mysql_common`'s. What a server sends is not trusted: a packet that does not parse ends the session.

use std::io;

use mysql_common::io::ParseBuf;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A connection, whatever it runs over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Packets on a connection.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    sequence: u8,
}

/// No answer that is asked for is nearly as long.
const LONGEST_PACKET: usize = 32 * 1024 * 1024;

/// The longest part of a packet that a frame holds; one that is full is followed by another.
const FULL_FRAME: usize = 0xff_ffff;

impl Wire {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), sequence: 0 }
    }

    /// The connection itself, to be protected; goes on with the sequence.
    pub(super) fn into_parts(self) -> (Box<dyn Stream>, u8) {
        (self.stream, self.sequence)
    }

    pub(super) fn from_parts(stream: impl Stream + 'static, sequence: u8) -> Self {
        Self { stream: Box::new(stream), sequence }
    }

    /// The next packet.
    pub(super) async fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut packet = Vec::new();
        loop {
            let mut head = [0; 4];
            self.stream.read_exact(&mut head).await?;
            let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
            if head[3] != self.sequence || packet.len() + length > LONGEST_PACKET {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.sequence = self.sequence.wrapping_add(1);
            let start = packet.len();
            packet.resize(start + length, 0);
            self.stream.read_exact(&mut packet[start..]).await?;
            if length < FULL_FRAME {
                return Ok(packet);
            }
        }
    }

    /// Sends a packet.
    pub(super) async fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        let mut frames = zeroize::Zeroizing::new(Vec::with_capacity(packet.len() + 8));
        let mut rest = packet;
        loop {
            let (part, after) = rest.split_at(rest.len().min(FULL_FRAME));
            frames.extend_from_slice(&(part.len() as u32).to_le_bytes()[..3]);
            frames.push(self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            frames.extend_from_slice(part);
            rest = after;
            if part.len() < FULL_FRAME {
                break;
            }
        }
        self.stream.write_all(&frames).await?;
        self.stream.flush().await
    }

    /// Sends a command, which begins a new sequence.
    pub(super) async fn command(&mut self, code: u8, argument: &[u8]) -> io::Result<()> {
        self.sequence = 0;
        let mut packet = zeroize::Zeroizing::new(Vec::with_capacity(argument.len() + 1));
        packet.push(code);
        packet.extend_from_slice(argument);
        self.write(&packet).await
    }

    /// Says that nothing more comes, and waits until the server has ended the session, too.
    pub(super) async fn close(&mut self) {
        const COM_QUIT: u8 = 1;
        let mut rest = [0; 256];
        if self.command(COM_QUIT, &[]).await.is_ok() && self.stream.shutdown().await.is_ok() {
            while matches!(self.stream.read(&mut rest).await, Ok(1..)) {}
        }
    }
}

/// What a packet of an answer is.
pub(super) enum Answer {
    /// The statement is done; whether another's answer follows.
    Done {
        more: bool,
    },
    /// The server's error number: its text could quote a statement and is not read.
    Error(u16),
    /// Rows follow, of so many columns.
    Rows {
        columns: usize,
    },
    Unknown,
}

/// There is a `SERVER_MORE_RESULTS_EXISTS` in a packet's status flags.
const MORE_RESULTS: u64 = 0x0008;

impl Answer {
    /// The first packet of an answer.
    pub(super) fn first(packet: &[u8]) -> Self {
        match packet {
            [0x00, rest @ ..] => {
                let mut rest = ParseBuf(rest);
                let counts = rest.checked_eat_lenenc_int().zip(rest.checked_eat_lenenc_int());
                match counts.and_then(|_| rest.checked_eat_u16_le()) {
                    Some(status) => Self::Done { more: u64::from(status) & MORE_RESULTS != 0 },
                    None => Self::Unknown,
                }
            }
            [0xff, low, high, ..] => Self::Error(u16::from_le_bytes([*low, *high])),
            // A file of this machine's is not the server's to ask for.
            [0xfb, ..] => Self::Unknown,
            _ => match ParseBuf(packet).checked_eat_lenenc_int() {
                Some(columns @ 1..=4096) => Self::Rows { columns: columns as usize },
                _ => Self::Unknown,
            },
        }
    }

    /// A packet after the columns': a row, or the end of the rows.
    pub(super) fn end_of_rows(packet: &[u8]) -> Option<Self> {
        match packet {
            [0xfe, _, _, low, high] => {
                let status = u64::from(u16::from_le_bytes([*low, *high]));
                Some(Self::Done { more: status & MORE_RESULTS != 0 })
            }
            [0xff, low, high, ..] => Some(Self::Error(u16::from_le_bytes([*low, *high]))),
            _ => None,
        }
    }
}

/// One row's values as text; `None` is `NULL`.
pub(super) fn row(packet: &[u8], columns: usize) -> io::Result<Vec<Option<String>>> {
    let mut rest = ParseBuf(packet);
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        if rest.0.first() == Some(&0xfb) {
            rest.skip(1);
            row.push(None);
            continue;
        }
        let value = rest.checked_eat_lenenc_str().ok_or(io::ErrorKind::InvalidData)?;
        row.push(Some(String::from_utf8_lossy(value).into_owned()));
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_packet_passes_in_frames_and_one_out_of_order_does_not() {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (mut ours, mut theirs) = (Wire::new(ours), Wire::new(theirs));
        for length in [0, 1, 300, FULL_FRAME - 1, FULL_FRAME, FULL_FRAME + 1] {
            let packet = vec![7; length];
            let (sent, read) = tokio::join!(ours.write(&packet), theirs.read());
            sent.expect("sent");
            assert!(read.expect("read") == packet, "{length}");
        }
        ours.sequence = ours.sequence.wrapping_add(1);
        let (sent, read) = tokio::join!(ours.write(b"late"), theirs.read());
        sent.expect("sent");
        assert_eq!(read.map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData));
    }

    #[test]
    fn what_a_server_sends_is_not_trusted() {
        for packet in [&b""[..], b"\x00", b"\x00\x00\x00\x02", b"\xfb/etc/passwd", b"\xfe", b"\xff\x01"] {
            assert!(matches!(Answer::first(packet), Answer::Unknown), "{packet:?}");
        }
        assert!(matches!(Answer::first(b"\x00\x00\x00\x0a\x00\x00\x00"), Answer::Done { more: true }));
        assert!(matches!(Answer::first(b"\xff\x15\x04#28000"), Answer::Error(1045)));
        assert!(row(b"\x05ab", 1).is_err());
        assert!(row(b"", 1).is_err());
        assert_eq!(row(b"\x02ab\xfb", 2).ok(), Some(vec![Some("ab".to_owned()), None]));
    }
}
