//! `init`, and then what its last lines say, to a rotation.

use super::*;
use crate::processes::answer;

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_a_rotation() {
    let world = World::shared().await;
    let at = Installation::new().await;
    let folder = at.path("first");
    let endpoint = world.endpoint();
    let (a, b, group) = (world.name("a"), world.name("b"), world.name("group"));
    let reader = at.path("db.env");
    let mut init = tokio::process::Command::new(env!("CARGO_BIN_EXE_rekeyd"));
    init.args([
        "init",
        "--target",
        "postgres",
        "--host",
        &endpoint.host,
        "--port",
        &endpoint.port.to_string(),
    ])
    .args(["--database", &endpoint.database, "--users", &format!("{a},{b}"), "--member-of", group.as_str()])
    .args(["--admin-user", world.admin().principal.as_str(), "--name", "orders-db", "--namespace", "orders"])
    .args(["--consumer", &format!("file:{}", reader.display()), "--directory"])
    .arg(&folder)
    .stdin(std::process::Stdio::null());
    let said = answer(init).await.ended(0).stdout;

    // What a person is asked to do: the admin's value into a file that nobody else may read.
    let admin = folder.join("orders-db-admin");
    assert!(said.contains(&format!("into {}, with mode 0600", admin.display())), "{said}");
    write_secret(&admin, text(world.admin()));
    let prefix = format!("    rekeyd --config {} ", folder.join("rekeyd.yaml").display());
    let commands: Vec<Vec<&str>> = said
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .map(|line| line.split(' ').collect())
        .collect();
    let verbs: Vec<&str> = commands.iter().map(|words| words[0]).collect();
    assert_eq!(verbs, ["check", "preflight", "adopt", "rotate", "run"], "{said}");
    // There is no value to take over yet, and no daemon is started here.
    for words in commands.iter().filter(|words| !["adopt", "run"].contains(&words[0])) {
        answer(at.command_by("first/rekeyd.yaml", words)).await.ended(0);
    }
    let file = read(&reader);
    let value = |key: &str| {
        let line =
            file.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} there"));
        line.to_owned()
    };
    let delivered = credential_of(&value("PGUSER=").parse().expect("a user"), &value("PGPASSWORD="));
    assert!([&a, &b].contains(&&delivered.principal));
    assert!(world.connect(&delivered).await.is_ok(), "the reader's value does not let it in");
}
