//! `rekeyd init`: what it writes is read without a word, and what is there stays.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rekeyd::policy::load::load_policies;
use rekeyd::settings;
use serde_json::{Value, json};

const AT: &str = "--host db.example.com --admin-user rekeyd";
const BAO: &str = "--vault-address https://bao.example.com:8200";
const AWS: &str = "--aws-region eu-central-1 --aws-account 123456789012";

/// Kind, strategy and what else has to be said.
fn targets() -> Vec<(&'static str, &'static str, String)> {
    let pair = "--users orders_a,orders_b";
    let one = "--user orders";
    vec![
        ("postgres", "alternating", format!("{AT} --database orders {pair} --member-of orders_app")),
        (
            "postgres",
            "inPlace",
            format!("--host /run/postgresql --admin-user rekeyd --database orders {one}"),
        ),
        ("mysql", "alternating", format!("{AT} {pair} --port 3307 --database orders")),
        ("mysql", "dualPassword", format!("{AT} {one} --ca-file /etc/rekeyd/ca.pem")),
        ("mysql", "inPlace", format!("--host localhost --admin-user rekeyd {one}")),
        ("redis", "dualPassword", format!("{AT} {one}")),
        ("rabbitmq", "alternating", format!("{AT} {pair}")),
        ("clickhouse", "alternating", format!("{AT} {pair} --member-of orders_reader --port 9443")),
        ("clickhouse", "dualPassword", format!("--host localhost --admin-user rekeyd {one}")),
        ("http", "", format!("--recipe datadog-api-key {one}")),
        ("http", "", format!("--recipe cohere {one}")),
        ("http", "", format!("--recipe gitea-token --base https://git.example.com --admin-user bot {one}")),
        (
            "http",
            "",
            format!("--recipe gitlab-project-token --parameter project=12 --parameter scopes=[api] {one}"),
        ),
        ("vault", "secretId", one.to_owned()),
        ("vault", "token", format!("--token-role orders --token-policies orders,metrics {one}")),
        ("vault", "token", format!("--token-role orders {one}")),
        ("awsIam", "", one.to_owned()),
        ("kubernetesServiceAccount", "longLived", one.to_owned()),
        ("kubernetesServiceAccount", "bound", format!("--expiration 20d {one}")),
        ("generated", "", String::new()),
    ]
}

fn init(folder: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rekeyd"))
        .args(["init", "--directory"])
        .arg(folder)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .env("TZ", "UTC")
        .output()
        .expect("rekeyd starts")
}

/// What it says when it writes nothing, and with which exit code.
#[track_caller]
fn refusal(folder: &Path, arguments: &str, code: i32) -> String {
    let output = init(folder, arguments);
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
    said
}

/// The settings and the one policy, which are read without a word.
#[track_caller]
fn read(folder: &Path, what: &str) -> (Value, Value) {
    let settings =
        settings::load(&folder.join("rekeyd.yaml")).unwrap_or_else(|found| panic!("{what}: {found:?}"));
    let directory = settings.policies.directory.clone().expect("a directory");
    let now = "2026-10-01T00:00:00Z".parse().expect("a moment");
    let loaded = load_policies(Some(&directory), &[], &settings, now);
    assert!(loaded.diagnostics.is_empty(), "{what}: {:?}", loaded.diagnostics);
    let [policy] = loaded.policies.as_slice() else { panic!("{what}: {} policies", loaded.policies.len()) };
    assert_eq!(policy.name().to_string(), "shop/orders-db", "{what}");
    let value = |result: serde_json::Result<Value>| result.expect("JSON");
    (value(serde_json::to_value(&settings)), value(serde_json::to_value(policy.spec())))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("text")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn every_target_in_every_store_is_read_without_a_word() {
    let folder = tempfile::tempdir().expect("a folder");
    let readers = "--consumer file:/run/orders/db.env --consumer kubernetes:shop/orders-db";
    let stores = [
        ("embedded", "embedded", ""),
        ("vault --vault-auth appRole", "vault", BAO),
        ("vault --vault-auth token", "vault", BAO),
        ("vault --vault-auth kubernetes --vault-role rekeyd", "vault", BAO),
        ("aws", "awsSecretsManager", AWS),
    ];
    for (number, (kind, strategy, more)) in targets().into_iter().enumerate() {
        for (index, (store, field, place)) in stores.into_iter().enumerate() {
            let at = folder.path().join(format!("{number}-{index}"));
            let needs = match kind {
                "vault" if field != "vault" => BAO,
                "awsIam" if field != "awsSecretsManager" => AWS,
                _ => "",
            };
            let way = if strategy.is_empty() { String::new() } else { format!("--strategy {strategy}") };
            let arguments = format!(
                "--target {kind} {way} {more} --store {store} {place} {needs} {readers} --name orders-db --namespace shop"
            );
            let output = init(&at, &arguments);
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
            let (settings, spec) = read(&at, &arguments);
            assert!(settings["stores"]["main"][field].is_object(), "{arguments}: {settings:#}");
            assert!(spec["target"][kind].is_object(), "{arguments}: {spec:#}");
            if !strategy.is_empty() {
                assert!(spec["target"][kind]["strategy"][strategy].is_object(), "{arguments}: {spec:#}");
            }
            assert_eq!(spec["consumers"].as_array().map(Vec::len), Some(2), "{arguments}");
            assert_eq!(spec["schedule"]["cron"], json!("0 3 * * 0"), "{arguments}");
            let key = at.join("store.key");
            assert_eq!(key.exists(), field == "embedded", "{arguments}");
            if key.exists() {
                assert_eq!(mode(&key), 0o600);
            }
            // Whatever rekeyd logs in with is for the hosts that the policy names, and nobody's file was made.
            for credential in settings["credentials"].as_object().into_iter().flatten() {
                let file = &credential.1["file"];
                assert!(
                    file["hosts"].as_array().is_some_and(|hosts| !hosts.is_empty()),
                    "{arguments}: {file}"
                );
                assert!(!Path::new(file["path"].as_str().expect("a path")).exists(), "{arguments}");
            }
        }
    }
}

#[test]
fn what_was_said_stands_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("new");
    let arguments = format!(
        "--target postgres {AT} --port 6432 --database orders --users 1a,no --member-of orders_app --ca-file /etc/ca.pem \
         --owner shop@example.com --consumer none --name orders-db --namespace shop --time-zone Europe/Berlin"
    );
    let output = init(&at, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (settings, spec) = read(&at, &arguments);
    let endpoint = json!({"host": "db.example.com", "port": 6432, "database": "orders", "tls": {"mode": "verify-full", "caFile": "/etc/ca.pem"}});
    assert_eq!(spec["target"]["postgres"]["endpoint"], endpoint);
    let pair = json!({"users": ["1a", "no"], "memberOf": ["orders_app"]});
    assert_eq!(spec["target"]["postgres"]["strategy"]["alternating"], pair);
    assert_eq!((&spec["owner"], &spec["consumers"]), (&json!("shop@example.com"), &json!([])));
    assert_eq!(spec["schedule"]["timeZone"], json!("Europe/Berlin"));
    let admin = at.join("orders-db-admin").to_str().expect("text").to_owned();
    let credential = json!({"file": {"username": "rekeyd", "path": admin, "hosts": ["db.example.com"]}});
    assert_eq!(settings["credentials"], json!({"orders-db-admin": credential}));
    assert_eq!((mode(&at.join("rekeyd.yaml")), mode(&at.join("policies/orders-db.yaml"))), (0o644, 0o644));
    assert_eq!(names(&at), ["policies", "rekeyd.yaml", "store.key"]);
    let said = String::from_utf8(output.stdout).expect("text");
    let config = format!("rekeyd --config {}/rekeyd.yaml", at.display());
    for line in [
        format!("put the value that `rekeyd` logs in with into {admin}, with mode 0600:"),
        format!("{config} check"),
        format!("{config} preflight shop/orders-db"),
        format!("{config} adopt shop/orders-db --principal 1a < FILE"),
        format!("{config} rotate shop/orders-db"),
    ] {
        assert!(said.contains(&line), "it does not say `{line}`:\n{said}");
    }
}

/// The next value is asked for with a part of the one before.
#[test]
fn what_follows_from_a_value_that_there_is_begins_with_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("new");
    let output = init(
        &at,
        "--target http --recipe slack-token --user bot --consumer none --name bot --namespace chat",
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(said.contains("the next one is made by means of it"), "{said}");
    assert!(said.contains(" adopt chat/bot --principal bot --part refreshToken=FILE < FILE"), "{said}");
}

/// What is usual for a target is what it needs to work.
#[test]
fn what_a_target_needs_beside_it_is_written_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = |name: &str, arguments: &str| {
        let at = folder.path().join(name);
        let arguments = format!("{arguments} --consumer none --name orders-db --namespace shop");
        let output = init(&at, &arguments);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        let (settings, spec) = read(&at, &arguments);
        (settings, spec, fs::read_to_string(at.join("rekeyd.yaml")).expect("settings"))
    };
    let prints = "`rekeyd iam-policy` prints the rights";
    let (_, spec, text) = made("account", &format!("--target awsIam --user reports --store aws {AWS}"));
    assert_eq!(
        spec["store"]["fields"],
        json!({"principal": "accessKeyId", "value": "secretAccessKey"}),
        "{spec:#}"
    );
    assert!(text.contains(prints), "{text}");
    let (.., text) = made("none", "--target awsIam --user reports --store aws --aws-region eu-central-1");
    assert!(!text.contains(prints) && text.contains("Add `account`"), "{text}");
    for (number, (base, private)) in [
        ("http://127.0.0.1:3000", json!(["127.0.0.1"])),
        ("https://10.1.2.3", json!(["10.1.2.3"])),
        ("http://localhost:3000", json!(["localhost"])),
        ("http://[::1]:3000", json!(["::1"])),
        ("https://git.example.com", json!([])),
    ]
    .into_iter()
    .enumerate()
    {
        let arguments =
            format!("--target http --recipe gitea-token --base {base} --admin-user bot --user ci");
        let (settings, ..) = made(&format!("http-{number}"), &arguments);
        let found = settings.pointer("/outbound/privateHosts").cloned().unwrap_or(json!([]));
        assert_eq!(found, private, "{base}: {settings:#}");
    }
}

/// The user is what is wrong, and not that no policy can be called so.
#[test]
fn a_name_that_is_none_is_told_as_such() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("new");
    let output = Command::new(env!("CARGO_BIN_EXE_rekeyd"))
        .args(["init", "--directory"])
        .arg(&at)
        .args(["--target", "awsIam", "--user", "rep orts", "--store", "aws", "--consumer", "none"])
        .args(AWS.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("rekeyd starts");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`rep orts` is not the name of a user of IAM"), "{said}");
    assert!(!at.exists());
}

#[test]
fn nothing_is_written_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    fs::create_dir(at.join("policies")).expect("a folder");
    for name in ["rekeyd.yaml", "store.key", "policies/generated.yaml"] {
        fs::write(at.join(name), "mine").expect("a file");
        let said = refusal(at, "--target generated --consumer none", 1);
        assert!(
            said.contains(&format!("cannot write {}/{name}: there is such a file already", at.display())),
            "{said}"
        );
        assert_eq!(fs::read_to_string(at.join(name)).expect("a file"), "mine");
        fs::remove_file(at.join(name)).expect("a file");
        // Nor was anything written beside it.
        assert_eq!(
            (names(at), names(&at.join("policies"))),
            (vec!["policies".to_owned()], Vec::new()),
            "{name}"
        );
    }
    // A link that leads nowhere is something, too.
    std::os::unix::fs::symlink("/nowhere", at.join("rekeyd.yaml")).expect("a link");
    assert!(refusal(at, "--target generated --consumer none", 1).contains("there is such a file already"));
}

#[test]
fn without_a_terminal_the_missing_answer_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("new");
    let mut arguments = String::new();
    for (flag, answer) in [
        ("--target", "postgres"),
        ("--host", "db.example.com"),
        ("--database", "orders"),
        ("--users", "a,b"),
        ("--admin-user", "rekeyd"),
        ("--consumer", "none"),
    ] {
        let said = refusal(&at, &arguments, 2);
        assert!(
            said.contains(&format!("say it with {flag}, or run it on a terminal")),
            "{arguments}: {said}"
        );
        assert!(!at.exists());
        arguments += &format!(" {flag} {answer}");
    }
    assert!(init(&at, &arguments).status.success());
    for (arguments, flag) in [
        ("--target redis --host a", "--user"),
        ("--target http --user a", "--recipe"),
        ("--target http --recipe gitea-token --user a", "--base"),
        (
            "--target http --recipe grafana-service-account --user a --base https://a",
            "--parameter NAME=VALUE",
        ),
        ("--target vault --strategy token --user a", "--token-role"),
        ("--target vault --user a --consumer none", "--vault-address"),
        ("--target awsIam --user a --consumer none", "--aws-region"),
    ] {
        let said = refusal(&folder.path().join("other"), arguments, 2);
        assert!(said.contains(&format!("say it with {flag},")), "{arguments}: {said}");
    }
}

#[test]
fn mistakes_are_told_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("new");
    let made = "--target generated --consumer none";
    for (arguments, text) in [
        (
            format!("{made} --host db --recipe cohere"),
            "--host, --recipe would have no effect with the other answers",
        ),
        (format!("{made} --strategy inPlace"), "--strategy would have no effect"),
        (format!("{made} --time-zone Mars/Base"), "is not a time zone"),
        (format!("{made} --schedule soon"), "--schedule five fields of cron"),
        (format!("{made} --name Orders"), "`Orders` is not a DNS label"),
        (format!("{made} --consumer file:/run/x"), "nobody is to be found at the reader \"none\""),
        ("--target generated --consumer kubernetes:orders".to_owned(), "the reader \"kubernetes:orders\""),
        (
            "--target redis --strategy alternating".to_owned(),
            "a target that is redis has no strategy alternating",
        ),
        (format!("--target postgres {AT} --database o --users a"), "two users take turns, and these are 1"),
        ("--target http --recipe nosuch".to_owned(), "there are anthropic, azure-application-secret"),
        (
            "--target http --recipe github-secret".to_owned(),
            "tells of a place that is written, and of no keys",
        ),
        (
            "--target http --recipe cohere --user a --parameter x=1".to_owned(),
            "the parameter \"x\" is one too many",
        ),
        (format!("{made} --config /etc/rekeyd.yaml"), "instead of --config"),
    ] {
        let said = refusal(&at, &arguments, 2);
        assert!(said.contains(text), "{arguments}: {said}");
        assert!(!at.exists(), "{arguments}");
    }
    // What only the loader finds.
    for (arguments, text) in [
        (
            format!("--target postgres {AT} --database o --users a,a --consumer none"),
            "strategy.alternating.users",
        ),
        (format!("--target postgres {AT} --database o --users a,rekeyd --consumer none"), "`rekeyd`"),
        ("--target generated --consumer file:db.env".to_owned(), "consumers[0].file.path"),
        (
            "--target generated --store vault --vault-address http://bao.example.com".to_owned(),
            "stores.main.vault.address",
        ),
    ] {
        let said = refusal(&at, &arguments, 1);
        assert!(said.contains(text) && said.contains("nothing was written"), "{arguments}: {said}");
        assert!(!at.exists(), "{arguments}");
    }
    // A folder above it that is not there is not made.
    let said = refusal(&at.join("below"), made, 1);
    assert!(said.contains("make the folder above it first"), "{said}");
    assert!(!at.exists());
}

/// Policies that are in the folder already are looked at with the new one.
#[test]
fn a_policy_of_the_same_place_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    assert!(init(at, "--target generated --consumer file:/run/x --name one").status.success());
    fs::remove_file(at.join("rekeyd.yaml")).expect("a file");
    fs::remove_file(at.join("store.key")).expect("a file");
    let said = refusal(at, "--target generated --consumer file:/run/x --name two", 1);
    assert!(said.contains("nothing was written"), "{said}");
    assert_eq!(
        (names(at), names(&at.join("policies"))),
        (vec!["policies".to_owned()], vec!["one.yaml".to_owned()])
    );
}
