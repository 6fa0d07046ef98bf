//! A server that speaks MySQL's protocol and keeps accounts as MySQL 8 does: two passwords in one account, `RETAIN
//! CURRENT PASSWORD`, `DISCARD OLD PASSWORD`, `ATTRIBUTE`. It knows the statements that rekeyd sends and answers
//! anything else with a syntax error. `tests/contract/mysql8.rs` holds it to the answers of a real one.

#[path = "mysql8/statements.rs"]
mod statements;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use mysql_common::constants::{CapabilityFlags, StatusFlags};
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthPlugin, AuthSwitchRequest, HandshakePacket, HandshakeResponse};
use mysql_common::proto::MySerialize as _;
use rekeyd::secret::SecretValue;
use rekeyd::target::mysql::accepts;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;

use self::statements::{Reply, answer};

/// A running server.
pub(crate) struct Mysql8 {
    pub(crate) state: Arc<State>,
    pub(crate) socket: PathBuf,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// What it keeps.
#[derive(Default)]
pub(crate) struct State {
    tables: Mutex<Tables>,
    lock_released: tokio::sync::Notify,
}

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) accounts: BTreeMap<(String, String), Account>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    locks: HashMap<String, u64>,
    last_session: u64,
    /// What becomes of the next statement that holds a text.
    pub(crate) faults: Vec<(&'static str, Fault)>,
    /// The next connections are turned away with these errors.
    pub(crate) turned_away: Vec<u16>,
    /// How many values it was handed.
    pub(crate) handed: usize,
    /// What it was asked and did not know.
    pub(crate) strange: Vec<String>,
    /// How often it hashes by `caching_sha2_password`; 0 for one that cannot be told.
    pub(crate) rounds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is refused with this error.
    Error(u16),
    /// The connection is cut before it is carried out.
    LoseRequest,
    /// It is carried out, and the connection is cut.
    LoseReply,
    /// It is carried out, and answered without an end.
    Endless,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    pub(crate) plugin: String,
    pub(crate) primary: Vec<u8>,
    pub(crate) secondary: Option<Vec<u8>>,
    pub(crate) locked: bool,
    pub(crate) attribute: serde_json::Map<String, serde_json::Value>,
    /// Once it had one, it keeps an empty one.
    pub(crate) had_attribute: bool,
    pub(crate) grants: Vec<String>,
    pub(crate) default_roles: Vec<String>,
}

pub(crate) struct Session {
    pub(crate) user: String,
    end: AbortHandle,
}

impl State {
    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no panic")
    }

    fn fault(&self, statement: &str) -> Option<Fault> {
        let mut tables = self.tables();
        let at = tables.faults.iter().position(|(text, _)| statement.contains(text))?;
        Some(tables.faults.remove(at).1)
    }
}

impl Mysql8 {
    /// One with an admin, whose password this is.
    pub(crate) fn start(admin: &str, password: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("mysql.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let state = Arc::new(State::default());
        let account = Account {
            plugin: "mysql_native_password".into(),
            primary: native(password),
            ..Account::default()
        };
        state.tables().accounts.insert((admin.to_owned(), "%".to_owned()), account);
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (state, id) = {
                        let mut tables = state.tables();
                        tables.last_session += 1;
                        (Arc::clone(&state), tables.last_session)
                    };
                    let (tell, told) = tokio::sync::oneshot::channel::<AbortHandle>();
                    let serving = tokio::spawn(async move {
                        let Ok(end) = told.await else { return };
                        let _leave = Leave { state: Arc::clone(&state), id };
                        let _ = serve(&state, Packets { stream, sequence: 0 }, id, end).await;
                    });
                    let _ = tell.send(serving.abort_handle());
                }
            }
        });
        Self { state, socket, task, _folder: folder }
    }

    /// What it says to a user without a connection.
    pub(crate) async fn answer(&self, user: &str, statement: &str) -> Result<Vec<String>, u16> {
        let who = Who { id: 0, user: user.to_owned(), host: "%".to_owned() };
        match answer(&self.state, &who, statement).await {
            Reply::Done => Ok(Vec::new()),
            Reply::Error(code) => Err(code),
            Reply::Rows(_, rows) => {
                let cell = |cell: Option<String>| cell.unwrap_or_else(|| "NULL".to_owned());
                let row = |row: Vec<Option<String>>| row.into_iter().map(cell).collect::<Vec<_>>().join("\t");
                Ok(rows.into_iter().map(row).collect())
            }
        }
    }
}

impl Drop for Mysql8 {
    fn drop(&mut self) {
        self.task.abort();
        let strange = std::mem::take(&mut self.state.tables().strange);
        assert!(strange.is_empty() || std::thread::panicking(), "unknown statements: {strange:#?}");
    }
}

/// Ends a session, and its locks with it.
struct Leave {
    state: Arc<State>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut tables = self.state.tables();
        tables.sessions.remove(&self.id);
        tables.locks.retain(|_, holder| *holder != self.id);
        drop(tables);
        self.state.lock_released.notify_waiters();
    }
}

/// What `mysql_native_password` keeps.
pub(crate) fn native(password: &str) -> Vec<u8> {
    let twice = Sha1::digest(Sha1::digest(password));
    std::iter::once("*".to_owned())
        .chain(twice.iter().map(|byte| format!("{byte:02X}")))
        .collect::<String>()
        .into()
}

async fn serve(state: &State, mut packets: Packets, id: u64, end: AbortHandle) -> std::io::Result<()> {
    let turned_away = state.tables().turned_away.pop();
    if let Some(code) = turned_away {
        return packets.write(&error(code)).await;
    }
    let nonce = *b"abcdefghijklmnopqrst";
    let greeting = HandshakePacket::new(
        10,
        &b"8.0.31"[..],
        id as u32,
        nonce[..8].try_into().expect("eight"),
        Some([&nonce[8..], b"\0"].concat()),
        CapabilityFlags::all(),
        45,
        StatusFlags::SERVER_STATUS_AUTOCOMMIT,
        Some(&b"caching_sha2_password"[..]),
    );
    let mut packet = Vec::new();
    greeting.serialize(&mut packet);
    packets.write(&packet).await?;
    let packet = packets.read().await?;
    let response: HandshakeResponse<'_> =
        ParseBuf(&packet).parse(()).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
    let user = String::from_utf8_lossy(response.user()).into_owned();
    let chosen = {
        let tables = state.tables();
        let own = tables.accounts.iter().find(|((name, _), _)| *name == user);
        own.map(|((_, host), account)| (host.clone(), account.clone()))
    };
    let verdict = match &chosen {
        Some((_, account)) if account.plugin == "mysql_native_password" => {
            let mut packet = Vec::new();
            AuthSwitchRequest::new(&b"mysql_native_password"[..], [&nonce[..], b"\0"].concat())
                .serialize(&mut packet);
            packets.write(&packet).await?;
            let proof = packets.read().await?;
            passwords(account).any(|kept| proves(&proof, &nonce, kept))
        }
        Some((_, account)) => {
            assert_eq!(response.auth_plugin(), Some(&AuthPlugin::CachingSha2Password));
            // It has seen no value since it started.
            packets.write(b"\x01\x04").await?;
            let mut value = packets.read().await?;
            value.pop();
            state.tables().handed += 1;
            let value = SecretValue::new(value);
            passwords(account).any(|kept| accepts(&account.plugin, kept, &value))
        }
        None => false,
    };
    let locked = chosen.as_ref().is_some_and(|(_, account)| account.locked);
    if !verdict || locked {
        let code = if verdict { 3118 } else { 1045 };
        return packets.write(&error(code)).await;
    }
    let host = chosen.map(|(host, _)| host).unwrap_or_default();
    state.tables().sessions.insert(id, Session { user: user.clone(), end });
    packets.write(&done(false)).await?;
    let who = Who { id, user, host };
    loop {
        packets.sequence = 0;
        let packet = packets.read().await?;
        let Some((3, text)) = packet.split_first() else { return Ok(()) };
        let text = String::from_utf8_lossy(text).into_owned();
        let statements: Vec<&str> = text.split(";\n").collect();
        for (index, statement) in statements.iter().enumerate() {
            let more = index + 1 < statements.len();
            let fault = state.fault(statement);
            let reply = match fault {
                Some(Fault::LoseRequest) => return Ok(()),
                Some(Fault::Error(code)) => Reply::Error(code),
                Some(Fault::LoseReply | Fault::Endless) | None => answer(state, &who, statement).await,
            };
            if fault == Some(Fault::Endless) {
                packets.write(&[1]).await?;
                packets.write(b"\x03def").await?;
                packets.write(&end_of_rows(false)).await?;
                let row = [&b"\xfd\x00\x00\x10"[..], &vec![b'a'; 1 << 20]].concat();
                loop {
                    packets.write(&row).await?;
                }
            }
            if fault == Some(Fault::LoseReply) {
                return Ok(());
            }
            match reply {
                Reply::Done => packets.write(&done(more)).await?,
                Reply::Error(code) => {
                    packets.write(&error(code)).await?;
                    break;
                }
                Reply::Rows(columns, rows) => packets.write_rows(columns, &rows, more).await?,
            }
        }
    }
}

/// Who is logged in.
pub(crate) struct Who {
    pub(crate) id: u64,
    pub(crate) user: String,
    pub(crate) host: String,
}

fn passwords(account: &Account) -> impl Iterator<Item = &Vec<u8>> {
    [Some(&account.primary), account.secondary.as_ref()].into_iter().flatten()
}

/// Whether `SHA1(value) XOR SHA1(nonce, kept)` shows that the value is known.
fn proves(proof: &[u8], nonce: &[u8], kept: &[u8]) -> bool {
    let Some(hex) = std::str::from_utf8(kept).ok().and_then(|kept| kept.strip_prefix('*')) else {
        return false;
    };
    let twice: Vec<u8> =
        (0..20).map(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).expect("hex")).collect();
    let mask = Sha1::new().chain_update(nonce).chain_update(&twice).finalize();
    let once: Vec<u8> = proof.iter().zip(mask).map(|(proof, mask)| proof ^ mask).collect();
    Sha1::digest(once).as_slice() == twice
}

fn done(more: bool) -> Vec<u8> {
    vec![0, 0, 0, if more { 0x0a } else { 0x02 }, 0, 0, 0]
}

fn end_of_rows(more: bool) -> Vec<u8> {
    vec![0xfe, 0, 0, if more { 0x0a } else { 0x02 }, 0]
}

fn error(code: u16) -> Vec<u8> {
    [&[0xff], &code.to_le_bytes()[..], b"#HY000", b"a text that nobody reads"].concat()
}

/// Packets on a connection, from the server's side.
pub(crate) struct Packets {
    pub(crate) stream: UnixStream,
    pub(crate) sequence: u8,
}

impl Packets {
    pub(crate) async fn read(&mut self) -> std::io::Result<Vec<u8>> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await?;
        self.sequence = head[3].wrapping_add(1);
        let mut packet = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        self.stream.read_exact(&mut packet).await?;
        Ok(packet)
    }

    pub(crate) async fn write(&mut self, packet: &[u8]) -> std::io::Result<()> {
        let length = (packet.len() as u32).to_le_bytes();
        let frame = [&length[..3], &[self.sequence], packet].concat();
        self.sequence = self.sequence.wrapping_add(1);
        self.stream.write_all(&frame).await
    }

    async fn write_rows(
        &mut self,
        columns: usize,
        rows: &[Vec<Option<String>>],
        more: bool,
    ) -> std::io::Result<()> {
        self.write(&[columns as u8]).await?;
        for _ in 0..columns {
            self.write(b"\x03def").await?;
        }
        self.write(&end_of_rows(false)).await?;
        for row in rows {
            let mut packet = Vec::new();
            for value in row {
                match value {
                    None => packet.push(0xfb),
                    Some(text) => {
                        // A number below 251 is one byte, and others are three.
                        match u8::try_from(text.len()) {
                            Ok(length @ ..251) => packet.push(length),
                            _ => packet.extend([0xfc, text.len() as u8, (text.len() >> 8) as u8]),
                        }
                        packet.extend(text.as_bytes());
                    }
                }
            }
            self.write(&packet).await?;
        }
        self.write(&end_of_rows(more)).await
    }
}
