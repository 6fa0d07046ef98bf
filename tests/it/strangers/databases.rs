//! In the place of a Redis, a PostgreSQL, a MySQL or a MariaDB, and a ClickHouse.

use rekeyd::policy::spec::{
    AlternatingSpec, ClickhouseNode, ClickhouseSpec, ClickhouseStrategy, DualPasswordSpec, MysqlEndpoint,
    MysqlSpec, MysqlStrategy, PostgresEndpoint, PostgresSpec, PostgresStrategy, RedisNode, RedisSpec,
    RedisStrategy,
};
use rekeyd::target::clickhouse::ClickhouseTarget;
use rekeyd::target::mysql::MysqlTarget;
use rekeyd::target::postgres::PostgresTarget;
use rekeyd::target::redis::RedisTarget;
use rekeyd::target::{dial, mysql, postgres, redis};

use super::*;
use crate::stranger::Stranger;

fn redis(host: &str, port: u16, tls: TlsSpec, patience: Duration) -> RedisTarget {
    let spec = RedisSpec {
        nodes: vec![RedisNode { host: host.into(), port }],
        tls,
        admin: "admin".parse().expect("a label"),
        strategy: RedisStrategy::DualPassword(DualPasswordSpec { user: name("app") }),
        check: Vec::new(),
    };
    let deadlines = redis::Deadlines { login: patience, command: patience, ..redis::Deadlines::default() };
    RedisTarget::new(spec, admin()).with_deadlines(deadlines)
}

fn deadlines(patience: Duration) -> dial::Deadlines {
    dial::Deadlines { login: patience, statement: patience, ..dial::Deadlines::default() }
}

fn pair() -> AlternatingSpec {
    AlternatingSpec { users: ["app", "spare"].map(name), member_of: Vec::new() }
}

fn postgres(host: &str, port: u16, tls: TlsSpec, patience: Duration) -> PostgresTarget {
    let spec = PostgresSpec {
        endpoint: PostgresEndpoint { host: host.into(), port, database: "orders".into(), tls },
        also_verify: Vec::new(),
        admin: "admin".parse().expect("a label"),
        strategy: PostgresStrategy::Alternating(pair()),
        check: None,
    };
    let pool = Arc::new(postgres::Pool::new(1, patience));
    PostgresTarget::new(spec, admin(), pool).with_deadlines(deadlines(patience))
}

fn mysql(host: &str, port: u16, tls: TlsSpec, patience: Duration) -> MysqlTarget {
    let spec = MysqlSpec {
        endpoint: MysqlEndpoint { host: host.into(), port, database: None, tls },
        also_verify: Vec::new(),
        admin: "admin".parse().expect("a label"),
        account_host: "%".to_owned(),
        authentication: None,
        strategy: MysqlStrategy::Alternating(pair()),
        check: None,
    };
    MysqlTarget::new(spec, admin(), Arc::new(mysql::Pool::new(1))).with_deadlines(deadlines(patience))
}

fn clickhouse(host: &str, port: u16, tls: TlsSpec) -> ClickhouseTarget {
    let spec = ClickhouseSpec {
        nodes: vec![ClickhouseNode { host: host.into(), port }],
        tls,
        admin: "admin".parse().expect("a label"),
        strategy: ClickhouseStrategy::DualPassword(DualPasswordSpec { user: name("app") }),
        check: None,
    };
    ClickhouseTarget::new(spec, admin())
}

/// A message of PostgreSQL's: a tag, and the length of what follows.
fn message(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).expect("a length");
    [&[tag], &length.to_be_bytes()[..], content].concat()
}

fn error(severity: &str, code: &str) -> Vec<u8> {
    message(b'E', format!("S{severity}\0V{severity}\0C{code}\0M{INMOST}\0\0").as_bytes())
}

/// A packet of MySQL's, the first of a connection.
fn packet(content: &[u8]) -> Vec<u8> {
    packets(0, [content])
}

/// Some of MySQL's, from this place on.
fn packets<'a>(first: u8, contents: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut all = Vec::new();
    for (place, content) in contents.into_iter().enumerate() {
        all.extend_from_slice(&u32::try_from(content.len()).expect("a length").to_le_bytes()[..3]);
        all.push(first.wrapping_add(place as u8));
        all.extend_from_slice(content);
    }
    all
}

fn refusal(code: u16) -> Vec<u8> {
    packet(&[&[0xff], &code.to_le_bytes()[..], b"#08004", INMOST.as_bytes()].concat())
}

/// Texts that are nobody's first words, of whatever protocol.
fn nonsense() -> Vec<(Vec<u8>, Duration)> {
    let html = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: 17\r\n\r\n{INMOST}");
    let texts = [
        html.into_bytes(),
        format!("220 {INMOST} ESMTP\r\n").into_bytes(),
        vec![0; 4096],
        vec![0xff; 4096],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        Vec::new(),
    ];
    texts.into_iter().map(|text| (text, HASTY)).collect()
}

#[tokio::test]
async fn nobody_speaks_redis_by_chance() {
    let said = [
        "*2147483647\r\n",
        "$9223372036854775807\r\n",
        "$-2\r\nab",
        "$5\r\nab",
        ":1\r\n",
        "*1\r\n",
        "%1\r\n+K9xW2vInmostValue\r\n+OK\r\n",
        "-K9xW2vInmostValue\r\n",
        "-ERR K9xW2vInmostValue\r\n",
        "-ERR max number of clients reached\r\n",
        "-NOAUTH Authentication required.\r\n",
        "-NOPERM this user has no permissions\r\n",
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-DENIED Redis is running in protected mode\r\n",
    ];
    let deep = "*1\r\n".repeat(100_000).into_bytes();
    let said = said.into_iter().map(|text| text.as_bytes().to_vec()).chain([deep]);
    let meet = async |(text, patience): (Vec<u8>, Duration)| {
        let stranger = Stranger::blurts(text.clone(), 1).await;
        let target = redis("127.0.0.1", stranger.port(), plain(), patience);
        nothing_comes_of_it(&target, &new("app"), &text.escape_ascii().to_string()).await;
    };
    let all = said.map(|text| (text, HASTY)).chain(nonsense());
    futures_util::future::join_all(all.map(meet)).await;
}

#[tokio::test]
async fn nobody_speaks_postgresql_by_chance() {
    let said = [
        error("FATAL", "53300"),
        error("FATAL", "57P03"),
        error("FATAL", "28000"),
        error("FATAL", "3D000"),
        error("FATAL", "XX000"),
        error("ERROR", INMOST),
        message(b'E', b""),
        message(b'E', b"S"),
        message(b'R', &[0, 0, 0, 10, 0]),
        message(b'R', &[0, 0, 0, 99]),
        message(b'R', &[0]),
        message(b'Z', b"I"),
        b"R\xff\xff\xff\xff".to_vec(),
        b"R\0\0\0\0".to_vec(),
        b"R\x7f\xff\xff\xff\0\0\0\x0a".to_vec(),
    ];
    let meet = async |(text, patience): (Vec<u8>, Duration)| {
        let stranger = Stranger::blurts(text.clone(), 1).await;
        let target = postgres("127.0.0.1", stranger.port(), plain(), patience);
        nothing_comes_of_it(&target, &new("app"), &text.escape_ascii().to_string()).await;
    };
    let all = said.into_iter().map(|text| (text, HASTY)).chain(nonsense());
    futures_util::future::join_all(all.map(meet)).await;
}

#[tokio::test]
async fn nobody_speaks_mysql_by_chance() {
    let said = [1040, 1129, 1130, 1045, 1203, 1226, 4151, 3118, 1053, 9999].map(refusal);
    let odd = [
        packet(b""),
        packet(b"\x09old\0"),
        packet(b"\x0a8.0.36\0"),
        packet(b"\x0a8.0.36"),
        packet(b"\xff\x10"),
        packet(b"\xfb/etc/passwd"),
        packet(&[&b"\x0a8.0.36\0"[..], &[255; 200]].concat()),
        b"\xff\xff\xff\0".to_vec(),
        b"\x01\0\0\x07\0".to_vec(),
    ];
    let meet = async |(text, patience): (Vec<u8>, Duration)| {
        let stranger = Stranger::blurts(text.clone(), 1).await;
        let target = mysql("127.0.0.1", stranger.port(), plain(), patience);
        nothing_comes_of_it(&target, &new("app"), &text.escape_ascii().to_string()).await;
    };
    let all = said.into_iter().chain(odd).map(|text| (text, HASTY)).chain(nonsense());
    futures_util::future::join_all(all.map(meet)).await;
}

/// It is left long before the deadline.
#[tokio::test]
async fn an_answer_without_an_end_is_left() {
    let begun = std::time::Instant::now();
    let stranger = Stranger::blurts(vec![b'N'; 1 << 20], usize::MAX).await;
    no_verdict(&postgres("127.0.0.1", stranger.port(), plain(), PATIENT), &new("app"), &"endless").await;
    let full = [&b"\xff\xff\xff\0"[..], &vec![b'N'; 0xff_ffff]].concat();
    let stranger = Stranger::blurts(full, usize::MAX).await;
    no_verdict(&mysql("127.0.0.1", stranger.port(), plain(), PATIENT), &new("app"), &"endless").await;
    let long = [&b"$1099511627776\r\n"[..], &vec![b'N'; 1 << 20]].concat();
    let stranger = Stranger::blurts(long, usize::MAX).await;
    no_verdict(&redis("127.0.0.1", stranger.port(), plain(), PATIENT), &new("app"), &"endless").await;
    assert!(begun.elapsed() < PATIENT, "{:?}", begun.elapsed());
}

/// Nor is one to a question that is asked after the login.
#[tokio::test]
async fn rows_without_an_end_are_left() {
    let begun = std::time::Instant::now();
    let greeting = [
        &b"\x0a8.0.36\0\x07\0\0\x0012345678\0\xff\xff\x2d\x02\0\xff\xff\x15"[..],
        &[0; 10],
        b"123456789012\0mysql_native_password\0",
    ];
    let done = b"\x00\x00\x00\x02\x00\x00\x00".as_slice();
    let login = [packet(&greeting.concat()), packets(2, [done])].concat();
    let (column, end_of_columns) = (b"\x03def".as_slice(), b"\xfe\x00\x00\x02\x00".as_slice());
    let of_columns = |count: usize| {
        let length = [&[0xfc], &(count as u16).to_le_bytes()[..]].concat();
        let described = std::iter::repeat_n(column, count);
        let all = std::iter::once(length.as_slice()).chain(described).chain([end_of_columns]);
        // And the place of what follows: they begin anew after 256.
        (packets(1, all), (count + 3) as u8)
    };
    let long = [&b"\xfc\x00\x7f"[..], &[b'a'; 0x7f00]].concat();
    let more = [&b"\x00\x00\x00\x0a\x00\x00\x00"[..], &[b'a'; 0x7f00]].concat();
    // Long rows; rows that are short on the wire and long in memory; and one answer after the other.
    let answers = [
        (of_columns(251), [long.as_slice(), &[0xfb; 250]].concat()),
        (of_columns(4096), vec![0xfb; 4096]),
        ((Vec::new(), 1), more),
    ];
    for ((begin, next), row) in answers {
        let rows = packets(next, std::iter::repeat_n(row.as_slice(), 256));
        let stranger = Stranger::goes_on([login.as_slice(), &begin].concat(), rows).await;
        let target = mysql("127.0.0.1", stranger.port(), plain(), PATIENT);
        let failure = no_verdict(&target, &new("app"), &"endless").await;
        assert!(failure.reason().contains("does not end"), "{failure}");
        let failure = target.usage(&name("app")).await.expect_err("it is taken for an answer");
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        assert!(failure.reason().contains("does not end"), "{failure}");
    }
    assert!(begun.elapsed() < PATIENT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn who_cannot_show_who_it_is_is_told_nothing() {
    let reasons = ["trusted authority", "does not name this host", "TLS handshake failed"];
    for ((stranger, authority), reason) in impostors().await.into_iter().zip(reasons) {
        let ca_file = Some(authority.path().to_owned());
        let tls = || TlsSpec { mode: TlsMode::VerifyFull, ca_file: ca_file.clone(), allow_plaintext: false };
        let targets: [Box<dyn Target>; 2] = [
            Box::new(redis("localhost", stranger.port(), tls(), PATIENT)),
            Box::new(clickhouse("localhost", stranger.port(), tls())),
        ];
        for target in targets {
            nothing_comes_of_it(&*target, &new("app"), &reason).await;
            let failure = no_verdict(&*target, &new("app"), &reason).await;
            assert!(failure.to_string().contains(reason), "{reason}: {failure}");
        }
    }
}
