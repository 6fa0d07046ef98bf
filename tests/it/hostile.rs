//! Texts from outside that are not what they should be: some thousand distortions of real ones, on every run.
//! `make fuzz` goes on from the same ones for as long as wanted.

use std::path::Path;

use rekeyd::proving::hostile::FEEDS;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::run::Document;

use crate::figures;
use crate::world::faults::Fault;
use crate::world::{Shape, World};

/// Distortions of each text.
const DISTORTIONS: usize = 400;

fn repository(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file of the repository")
}

/// A document of a rotation that is open, one of a closed one, a record, and the commit of it.
async fn documents() -> ([Vec<u8>; 2], Vec<u8>, Vec<u8>) {
    let world = World::new();
    let subject = world.subject(Shape { schedule: Some("0 3 * * *"), ..Shape::new(Strategy::Alternating) });
    world.begin(&subject).await;
    let wire = async || match world.slots(&subject).await.document {
        Some(Document::Open(run)) => run.to_wire().expose().to_vec(),
        Some(Document::Closed(marker)) => marker.to_wire().expose().to_vec(),
        None => panic!("there is a document"),
    };
    let closed = wire().await;
    let process = world.process(&[&subject]);
    process.script.next("store.promote", 1, Fault::DieBefore);
    process.run(process.rotate(&subject, "dies")).await;
    let open = wire().await;
    let record = subject.checker.records().await.remove(0);
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(world.path("ledger"))
            .args(arguments)
            .output()
            .expect("git runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let listing = String::from_utf8(git(&["ls-tree", "-r", "--name-only", "main"])).expect("text");
    let shown = |name: &str| git(&["show", &format!("main:{name}")]);
    let named = |folder: &str| listing.lines().find(|name| name.starts_with(folder)).expect("it is there");
    let (path, placeholder) = (named("records/"), named("secrets/"));
    let message = git(&["log", "-1", "--format=%B", "main"]);
    let commit = [path.as_bytes(), &shown(path), &shown(placeholder), &message, b"rekeyd"].join(&0);
    ([open, closed], serde_json::to_vec(&record).expect("JSON"), commit)
}

/// Real texts of each kind.
async fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let ([open, closed], record, commit) = documents().await;
    let answers = [
        "\u{0}{\"data\":{\"data\":{\"username\":\"orders_a\",\"password\":\"\u{1}\"},\"metadata\":{\"version\":3}}}",
        "\u{0}{\"data\":{\"data\":{\"document\":\"\u{1}\"},\"metadata\":{\"version\":3,\"destroyed\":false}}}",
        "\u{0}{\"data\":{\"keys\":[\"orders/\",\"\u{1}\"]}}",
        "\u{0}{\"data\":{\"version\":4,\"\u{1}\":1}}",
        "\u{3}{\"errors\":[\"check-and-set parameter did not match the current version \u{1}\"]}",
        "\u{4}{\"errors\":[\"1 error occurred:\\n\\t* permission denied \u{1}\\n\\n\"]}",
        "\u{5}{\"errors\":[]}",
        "\u{5}{\"data\":{\"data\":null,\"metadata\":{\"deletion_time\":\"\u{1}\",\"version\":2}}}",
        "\u{b}{\"errors\":[\"Vault is sealed \u{1}\"]}",
        "\u{a}<html>\u{1}</html>",
        "\u{1}",
    ];
    let names = [
        "orders/orders-db",
        "..",
        "orders/..",
        "apps/orders/db",
        "a\"; DROP ROLE b; --",
        "{{ value }}",
        "{% for x in range(9) %}{{ x }}{% endfor %}",
        "a\u{202e}b",
        "\u{1b}[31m",
        "0 3 * * 0",
        "@daily",
        "1h 30m",
        "0600",
        "Europe/Berlin",
        "01a2226f-47be-73d5-8528-81cc0269a338",
        "v16",
        "x\0y",
        "a/./b",
        "/etc/passwd",
        "%2e%2e/x",
        "-",
        "ＦＵＬＬ",
        "pg_read_all_data",
    ];
    let addresses = [
        "https://api.example.com/v1/keys?size=2",
        "https://API.example.com:443/",
        "http://127.0.0.1:8080/v1",
        "http://[::1]:80/keys",
        "https:/evil.example.com/v1",
        "https:\\\\evil.example.com",
        "https://a:b@evil.example.com/..",
        "/v1/keys/%2e%2e/x?next=https://evil.example.com/",
        "//evil.example.com/keys",
        "/keys/a/b",
    ];
    let bytes = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    vec![
        (
            "policy",
            [
                "aws-secretsmanager",
                "exec",
                "generated",
                "github-actions",
                "gitlab-ci",
                "http-key",
                "jenkins",
                "recipes/azure-application-secret",
                "recipes/github-organization-secret",
                "recipes/google-service-account-key",
                "mysql-dual-password",
                "postgres-alternating",
                "postgres-in-place",
                "rabbitmq",
                "clickhouse-alternating",
                "clickhouse-dual-password",
                "redis",
                "aws-iam",
                "kubernetes-service-account",
                "vault-secret-id",
                "vault-token",
                "vault-copy",
            ]
            .map(|name| repository(&format!("policies/{name}.yaml")))
            .into(),
        ),
        ("settings", vec![repository("deploy/rekeyd.yaml")]),
        ("run_document", vec![open, closed]),
        ("record", vec![record]),
        ("commit", vec![commit]),
        ("answer", bytes(&answers)),
        ("names", bytes(&names)),
        ("address", bytes(&addresses)),
    ]
}

/// One of the things that go wrong with a text.
fn distorted(random: &mut fastrand::Rng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    const PIECES: [&[u8]; 14] = [
        b"\0",
        b"\n",
        b"\r",
        b"\x1b[2J",
        b"..",
        b"/",
        b"\"",
        b"'",
        b"{{",
        b": ",
        b"\xff\xfe",
        b"-1",
        b"18446744073709551616",
        "\u{202e}".as_bytes(),
    ];
    let mut bytes = seed.to_vec();
    for _ in 0..=random.usize(..4) {
        let at = random.usize(..=bytes.len());
        let to = (at + random.usize(..=12)).min(bytes.len());
        match random.u8(..6) {
            0 => drop(bytes.drain(at..to)),
            1 => drop(bytes.splice(at..at, PIECES[random.usize(..PIECES.len())].iter().copied())),
            2 => drop(bytes.splice(at..to, PIECES[random.usize(..PIECES.len())].iter().copied())),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            4 => {
                let piece = bytes[at..to].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            _ => {
                let from = random.usize(..=other.len());
                let until = (from + random.usize(..=40)).min(other.len());
                drop(bytes.splice(at..to, other[from..until].iter().copied()));
            }
        }
    }
    bytes
}

#[tokio::test]
async fn nothing_from_outside_breaks_anything() {
    let seeds = seeds().await;
    if let Some(folder) = figures::asked("REKEYD_FUZZ_SEEDS") {
        for (name, texts) in &seeds {
            let folder = Path::new(&folder).join(name);
            std::fs::create_dir_all(&folder).expect("a folder");
            for (number, text) in texts.iter().enumerate() {
                std::fs::write(folder.join(format!("seed-{number}")), text).expect("written");
            }
        }
        return;
    }
    let fed = tokio::task::spawn_blocking(move || {
        let mut fed = 0;
        for (name, feed) in FEEDS {
            let (_, texts) = seeds.iter().find(|(of, _)| *of == name).expect("it has seeds");
            let mut random = fastrand::Rng::with_seed(7);
            let count = if name == "answer" { DISTORTIONS / 10 } else { DISTORTIONS };
            for text in texts {
                let whole = std::panic::catch_unwind(|| feed(text));
                assert!(whole.is_ok(), "{name}: {}", text.escape_ascii());
                for _ in 0..count {
                    let other = &texts[random.usize(..texts.len())];
                    let text = distorted(&mut random, text, other);
                    let held = std::panic::catch_unwind(|| feed(&text));
                    assert!(held.is_ok(), "{name}: {}", text.escape_ascii());
                    fed += 1;
                }
            }
        }
        fed
    });
    println!("{} texts fed", fed.await.expect("no panic"));
}
