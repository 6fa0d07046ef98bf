//! Every command with right and wrong input: what it says, and its exit code.

use std::process::Stdio;

use super::*;
use crate::processes::answer;

const COMMANDS: [&[&str]; 17] = [
    &["init"],
    &["check"],
    &["preflight"],
    &["plan"],
    &["rotate"],
    &["contain"],
    &["adopt"],
    &["run"],
    &["status"],
    &["resume"],
    &["supply"],
    &["recipe"],
    &["audit"],
    &["audit", "log"],
    &["audit", "verify"],
    &["keygen"],
    &["completions"],
];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_help_with_an_example() {
    let at = Installation::new().await;
    at.run(&["--help"]).await.ended(0).says(&["Examples:\n  rekeyd ", "Exit codes: 0 done, 1 failed"]);
    for command in COMMANDS {
        let example = format!("Examples:\n  rekeyd {}", command.join(" "));
        at.run(&[command, &["--help"]].concat()).await.ended(0).says(&["Usage: rekeyd", &example]);
    }
    at.run(&["--version"]).await.ended(0).says(&[concat!("rekeyd ", env!("CARGO_PKG_VERSION"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_ends_with_2() {
    let at = Installation::new().await;
    for (arguments, text) in [
        (&[][..], "requires a subcommand"),
        (&["rotat", POLICY], "similar subcommands exist: 'status', 'rotate'"),
        (&["rotate"], "<POLICY>"),
        (&["rotate", "../orders-db"], "`..` is not a DNS label"),
        (&["rotate", "orders/../db"], "is not a DNS label"),
        (&["contain", "Orders/orders-db"], "`Orders` is not a DNS label"),
        (&["resume", "orders/orders_db"], "`orders_db` is not a DNS label"),
        (&["status", ""], "is not a DNS label"),
        (&["adopt", POLICY, "--principal", ""], "--principal"),
        (&["rotate", POLICY, "--patience", "soon"], "write for example 90s, 15m"),
        (&["rotate", POLICY, "--request", "two words\n"], "--request"),
        (&["rotate", POLICY, "--abandon"], "unexpected argument '--abandon'"),
        (&["rotate", POLICY, POLICY], "unexpected argument"),
        (&["plan", "--days", "0"], "0 is not in 1..=3660"),
        (&["plan", "--days", "many"], "invalid digit"),
        (&["status", "-o", "xml"], "[possible values: text, json]"),
        (&["status", "--log", "rekeyd=nonsense"], "error parsing level filter"),
        (&["status", "--log-format", "yaml"], "[possible values: pretty, json]"),
        (&["audit"], "Usage: rekeyd audit"),
        (&["audit", "log", "--limit", "-1"], "'-1'"),
        (&["audit", "log", "--since", "yesterday"], "is not a length of time"),
        (&["run", "now"], "unexpected argument 'now'"),
        (&["keygen"], "<FILE>"),
        (&["completions", "ksh"], "[possible values: bash, elvish, fish, powershell, zsh]"),
    ] {
        let answer = at.run(arguments).await.ended(2).says(&[text]);
        assert_eq!(answer.stdout, "", "a mistake belongs on standard error: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_are_scripts_that_know_every_command() {
    let at = Installation::new().await;
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = at.run(&["completions", shell]).await.ended(0).stdout;
        for command in COMMANDS {
            assert!(script.contains(command[0]), "{shell} does not know {command:?}");
        }
        if shell == "bash" {
            let file = at.path("completions");
            std::fs::write(&file, &script).expect("written");
            let mut bash = tokio::process::Command::new("bash");
            bash.arg("-n").arg(file);
            answer(bash).await.ended(0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_not_there_is_named() {
    let at = Installation::new().await;
    for command in ["preflight", "plan", "rotate", "contain", "adopt", "status"] {
        let answer = at.run(&[command, "orders/nowhere", "-o", "text"]).await.ended(1);
        answer.says(&["error: cannot ", " orders/nowhere", "remedy: see `rekeyd "]);
    }
    let answer = at.run(&["resume", "orders/nowhere", "-o", "text"]).await.ended(1);
    answer.says(&[
        "error: cannot resume orders/nowhere: no rotation of it is open",
        "remedy: see `rekeyd status`",
    ]);
    at.run(&["audit", "log"]).await.ended(0).says(&["no rotation is recorded"]);
    at.write_policy(&generated(&at));
    at.run(&["rotate", "shop/session-key"]).await.ended(0);
    at.run(&["audit", "log", "orders/nowhere"]).await.ended(0).says(&["no rotation is recorded"]);
    // In a pipe, the answer of a rotation is a JSON line even then.
    let ending = at.run(&["rotate", "orders/nowhere"]).await.ended(1).ending();
    assert_eq!(ending["ending"], "failed", "{ending:#}");
    // A name without a namespace is one of `default`.
    at.run(&["status", "nowhere"]).await.ended(1).says(&["cannot find policy default/nowhere"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_used_stop_every_command() {
    let at = Installation::new().await;
    let commands = [
        &["check"][..],
        &["preflight"],
        &["plan"],
        &["rotate", POLICY],
        &["contain", POLICY],
        &["adopt", POLICY],
        &["run"],
        &["status"],
        &["resume", POLICY],
        &["audit", "log"],
        &["audit", "verify"],
    ];
    for (text, fault) in [
        (None, "rekeyd.yaml: error: cannot be read: no such file or folder (check that it exists"),
        (Some(""), "rekeyd.yaml: error: holds no settings (see deploy/rekeyd.yaml"),
        (Some("stores: [}"), "rekeyd.yaml:1:"),
        (Some("listen: nowhere\npolices: {}\n"), "did you mean `policies`"),
    ] {
        match text {
            None => std::fs::remove_file(at.path("rekeyd.yaml")).expect("removed"),
            Some(text) => std::fs::write(at.path("rekeyd.yaml"), text).expect("written"),
        }
        for command in commands {
            at.run(command).await.ended(1).says(&[fault]);
        }
    }
}

/// Mistakes of every kind, in several files: all are shown at once, each with its place and a remedy.
#[tokio::test(flavor = "multi_thread")]
async fn check_shows_every_mistake_in_every_file() {
    let at = Installation::new().await;
    at.change_settings(|settings| {
        settings["credentials"] = json!({"admin": {"file": {"username": "root_of_all", "path": "p"}}});
    });
    let policy = |name: &str, path: &str, users: &str, rest: &str| {
        format!(
            "apiVersion: rekeyd.dev/v1alpha1\nkind: RotationPolicy\n\
             metadata: {{name: {name}, namespace: orders}}\nspec:\n\
             \x20 target:\n    postgres:\n\
             \x20     endpoint: {{host: db.example.com, database: orders, tls: {{mode: verify-full}}}}\n\
             \x20     admin: admin\n      strategy: {users}\n\
             \x20 store: {{name: main, path: {path}}}\n{rest}"
        )
    };
    let one = |user: &str| format!("{{inPlace: {{user: {user}}}}}");
    let write =
        |file: &str, text: String| std::fs::write(at.path("policies").join(file), text).expect("written");
    write("good.yaml", policy("good", "apps/good", &one("good"), ""));
    write(
        "schedule.yml",
        policy("schedule", "apps/schedule", &one("s"), "  schedule: {cron: '61 3 * * *', windw: 2h}\n")
            + "---\n"
            + &policy(
                "window",
                "apps/window",
                &one("w"),
                "  schedule: {cron: '0 3 * * *', window: 2h, jitter: 3h}\n",
            ),
    );
    write("names.yaml", policy("Bad_Name", "apps/../admin", &one("n"), ""));
    write(
        "twice.yaml",
        policy("first", "apps/twice", &one("first"), "")
            + "---\n"
            + &policy("second", "apps/twice", &one("second"), "")
            + "---\n"
            + &policy("third", "apps/third", &one("first"), ""),
    );
    write(
        "target.yaml",
        policy("admin", "apps/admin", &one("root_of_all"), "")
            .replace("{mode: verify-full}", "{mode: disable}")
            + "  consumers: [{file: {path: /run/x.env, content: '{{ password }}'}}]\n",
    );
    let mistakes = [
        ("schedule.yml", "spec.schedule.cron"),
        ("schedule.yml", "spec.schedule.windw"),
        ("schedule.yml", "spec.schedule.jitter"),
        ("names.yaml", "metadata.name"),
        ("names.yaml", "spec.store.path"),
        ("twice.yaml", "spec.store.path"),
        ("twice.yaml", "spec.target.postgres.strategy.inPlace.user"),
        ("target.yaml", "spec.target.postgres.strategy.inPlace.user"),
        ("target.yaml", "spec.target.postgres.endpoint.tls.mode"),
        ("target.yaml", "spec.consumers[0].file.content"),
    ];

    let text = at.run(&["check"]).await.ended(1);
    assert!(text.stdout.contains("10 errors, 0 warnings; 1 valid policy"), "{text}");
    assert_eq!(text.stderr.lines().count(), mistakes.len(), "{text}");
    for (file, field) in mistakes {
        let file = at.path("policies").join(file);
        let shown = |line: &str| {
            let place = line.strip_prefix(&format!("{}:", file.display()));
            place.is_some_and(|rest| rest.contains(&format!(": error: {field}: ")) && rest.ends_with(')'))
        };
        assert!(text.stderr.lines().any(shown), "{field} in {}: {text}", file.display());
    }

    let json = at.run(&["check", "-o", "json"]).await.ended(1).json();
    assert_eq!((&json["valid"], &json["policies"]), (&json!(false), &json!(1)), "{json:#}");
    let diagnostics = json["diagnostics"].as_array().expect("a list");
    assert_eq!(diagnostics.len(), mistakes.len(), "{json:#}");
    for (diagnostic, line) in diagnostics.iter().zip(text.stderr.lines()) {
        for field in ["message", "remedy"] {
            assert!(line.contains(diagnostic[field].as_str().expect("text")), "{diagnostic} {line}");
        }
        let place = format!(
            "{}:{}:{}:",
            diagnostic["file"].as_str().expect("text"),
            diagnostic["line"],
            diagnostic["column"]
        );
        assert!(line.starts_with(&place), "{diagnostic} {line}");
    }

    for file in ["schedule.yml", "names.yaml", "twice.yaml", "target.yaml"] {
        std::fs::remove_file(at.path("policies").join(file)).expect("removed");
    }
    at.run(&["check"]).await.ended(0).says(&["valid: 1 policy"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keygen_writes_a_key_for_its_owner_and_never_over_another() {
    use std::os::unix::fs::PermissionsExt as _;
    let at = Installation::new().await;
    let file = at.path("other.key");
    let path = file.to_str().expect("a path");
    let answer = at.run(&["keygen", path]).await.ended(0).says(&["written: ", "keep a copy"]);
    let key = read(&file);
    assert!(!answer.to_string().contains(key.trim()));
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    at.run(&["keygen", path]).await.ended(1).says(&["there is a file already", "remedy: ", path]);
    assert_eq!(read(&file), key);
    at.run(&["keygen", "/nowhere/store.key"]).await.ended(1).says(&["/nowhere/store.key", "No such file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_tells_its_steps_as_lines_in_a_pipe_and_as_text_on_request() {
    let site = Site::alternating().await;
    site.rotate().await;
    let lines = site.at.run(&["rotate", POLICY, "--reason", "CHG-1042"]).await.ended(0).lines();
    let events: Vec<_> = lines
        .iter()
        .filter(|line| line["event"]["event"] == "done")
        .map(|line| line["event"]["step"].as_str().expect("a step"))
        .collect();
    let steps = [
        "install", "verify", "promote", "publish", "restart", "converge", "retire", "prove", "record",
        "close",
    ];
    assert_eq!(events, steps);
    let record = &lines.last().expect("an ending")["ending"]["record"];
    assert_eq!((&record["from"], &record["to"]), (&json!(1), &json!(2)), "{record:#}");
    assert_eq!(record["reason"], "CHG-1042");
    assert_eq!(
        record["proof"],
        json!({"newAccepted": true, "oldRefused": true, "sessionsClosed": 0, "sessionsLeft": 0})
    );
    assert_eq!(record, &site.records().await[0], "the ledger says the same");

    let text = site.at.run(&["rotate", POLICY, "-o", "text"]).await.ended(0);
    let words: Vec<_> =
        text.stdout.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(words[..steps.len()], steps, "{text}");
    assert!(text.stdout.starts_with("orders/orders-db -> v3 [manual]\n"), "{text}");
    assert!(text.stdout.ends_with("\norders/orders-db: v2 -> v3\n"), "{text}");
    assert!(!text.stdout.contains('\x1b'), "colours in a pipe: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_never_rotates_twice() {
    let site = Site::in_place().await;
    site.at.run(&["rotate", POLICY, "--request", "chg-1"]).await.ended(0);
    let value = site.delivered();
    let ending = site.at.run(&["rotate", POLICY, "--request", "chg-1"]).await.ended(0).ending();
    assert_eq!(ending["ending"], "repeated", "{ending:#}");
    assert!(ending["message"].as_str().is_some_and(|text| text.contains("chg-1")), "{ending:#}");
    assert_eq!(site.delivered(), value);
    site.assert_in_order(&[], 1).await;
}

/// Nobody reads the answer, or no disk takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_goes_on_when_its_reader_is_gone() {
    let site = Site::in_place().await;
    let mut old = vec![site.rotate().await];
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    for (format, stdout) in [("json", Stdio::from(writer)), ("text", Stdio::from(full))] {
        let mut command = site.at.command(&["rotate", POLICY, "-o", format]);
        let mut child = command.stdout(stdout).spawn().expect("rekeyd starts");
        assert!(child.wait().await.expect("a status").success(), "{format}");
        site.assert_in_order(&old, old.len() + 1).await;
        old.push(site.delivered());
    }
    // An answer that is the whole point is missed, though.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let mut command = site.at.command(&["audit", "log"]);
    let output =
        command.stdout(full).spawn().expect("rekeyd starts").wait_with_output().await.expect("output");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot write the answer to standard output"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_tells_whether_a_rotation_would_work() {
    let site = Site::in_place().await;
    let passed = site.at.run(&["preflight"]).await.ended(0);
    assert!(passed.stdout.contains("ledger") && !passed.stdout.contains("FAIL"), "{passed}");
    assert!(!site.at.path("store.db-wal").exists(), "looking has changed something");
    assert!(!site.at.path("ledger.git").exists(), "looking has made a ledger");

    site.world.sql("DROP ROLE {p}_a").await;
    let role = site.world.name("a");
    let missing = site.at.run(&["preflight", POLICY]).await.ended(1);
    missing.says(&[
        "FAIL",
        &format!("role {role}"),
        "does not exist",
        &format!("CREATE ROLE \"{role}\" NOLOGIN"),
    ]);
    let json = site.at.run(&["preflight", POLICY, "-o", "json"]).await.ended(1).json();
    assert_eq!(json["passed"], false, "{json:#}");

    site.world.sql("CREATE ROLE {p}_a NOLOGIN").await;
    site.at.change_policy("orders-db", |policy| {
        policy["spec"]["target"]["postgres"]["endpoint"]["tls"] =
            json!({"mode": "verify-full", "caFile": "/nowhere/ca.pem"});
    });
    let missing = site.at.run(&["preflight", POLICY, "-o", "json"]).await.ended(1).json();
    let findings = missing["policies"][0]["findings"].as_array().expect("findings");
    let failed: Vec<_> = findings.iter().filter(|finding| finding["verdict"] == "fail").collect();
    assert!(failed.len() > 1, "{missing:#}");
    for finding in failed {
        let text = |field: &str| finding[field].as_str().expect("a text").to_owned();
        assert!(text("detail").contains("/nowhere/ca.pem: no such file"), "{finding:#}");
        assert!(text("remedy").contains("name a PEM file that rekeyd may read"), "{finding:#}");
    }

    std::fs::remove_file(site.at.path("admin.password")).expect("removed");
    let missing = site.at.run(&["preflight", POLICY]).await.ended(1);
    missing.says(&[
        "cannot read credential orders-admin from",
        "no such file or folder",
        "put the password there",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_shows_what_is_coming_in_both_zones() {
    let at = Installation::new().await;
    let mut policy = generated(&at);
    policy["spec"]["schedule"] = json!({"cron": "30 3 * * *", "timeZone": "Asia/Tokyo"});
    at.write_policy(&policy);
    at.run(&["rotate", "shop/session-key"]).await.ended(0);
    let text = at.run(&["plan", "--days", "3"]).await.ended(0);
    assert_eq!(text.stdout.matches("03:30 JST").count(), 3, "{text}");
    assert_eq!(text.stdout.matches("18:30 UTC").count(), 3, "{text}");
    let json = at.run(&["plan", "--days", "30", "shop/session-key", "-o", "json"]).await.ended(0).json();
    assert_eq!(json["rotations"].as_array().map(Vec::len), Some(30), "{json:#}");
    assert_eq!(json["notPlanned"], json!([]), "{json:#}");
}

/// Whatever has no rotation in the plan is named with the reason, and what is assumed is marked.
#[tokio::test(flavor = "multi_thread")]
async fn plan_leaves_nothing_out_in_silence() {
    let at = Installation::new().await;
    let write = |name: &str, schedule: serde_json::Value| {
        let mut policy = generated(&at);
        policy["metadata"]["name"] = json!(name);
        policy["spec"]["schedule"] = schedule;
        policy["spec"]["store"]["path"] = json!(format!("shop/{name}"));
        policy["spec"]["consumers"] = json!([]);
        at.write_policy(&policy);
    };
    write("never-made", json!({"cron": "30 3 * * *"}));
    write("rarely", json!({"cron": "0 0 29 2 *"}));
    write("often", json!({"cron": "* * * * *"}));
    write("by-hand", json!(null));
    for policy in ["shop/rarely", "shop/often", "shop/by-hand"] {
        at.run(&["rotate", policy]).await.ended(0);
    }
    let text = at.run(&["plan", "--days", "2"]).await.ended(0);
    text.says(&[
        "not planned:",
        "shop/never-made: ",
        "shop/rarely: the next one is due at ",
        "shop/by-hand: ",
        "shortened:",
        "shop/often: only the first 1000 are shown",
    ]);
    let json = at.run(&["plan", "--days", "2", "-o", "json"]).await.ended(0).json();
    let policies = |list: &str| {
        let list = json[list].as_array().expect("a list");
        list.iter().map(|each| each["policy"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(policies("notPlanned"), ["shop/by-hand", "shop/never-made", "shop/rarely"], "{json:#}");
    assert_eq!(policies("shortened"), ["shop/often"], "{json:#}");
    assert_eq!(policies("rotations").len(), 1000);

    // Out of reach: planned all the same, and said so.
    std::fs::remove_file(at.path("store.key")).expect("removed");
    let json = at.run(&["plan", "shop/rarely", "--days", "3000", "-o", "json"]).await.ended(0).json();
    assert_eq!(json["rotations"][0]["assumed"], true, "{json:#}");
    assert_eq!(json["assumed"][0]["policy"], "shop/rarely", "{json:#}");
    at.run(&["plan", "shop/rarely", "--days", "3000"]).await.ended(0).says(&["(assumed)", "assumed:"]);
}

/// One run shows what is wrong with the settings and with every policy, as far as it does not depend on
/// the settings' mistakes.
#[tokio::test(flavor = "multi_thread")]
async fn check_shows_the_mistakes_of_all_files() {
    let at = Installation::new().await;
    let mut policy = generated(&at);
    policy["spec"]["value"] = json!({"length": 4});
    policy["spec"]["store"]["name"] = json!("elsewhere");
    at.write_policy(&policy);
    std::fs::write(at.path("policies/other.yaml"), "kind: RotationPolicy\n").expect("written");
    let settings = std::fs::read_to_string(at.path("rekeyd.yaml")).expect("the settings");
    let mut broken: serde_json::Value = serde_saphyr::from_str(&settings).expect("YAML");
    broken["limits"] = json!({"rotations": "many"});
    broken["stores"]["elsewhere"] = json!({"embedded": {"path": 1}});
    std::fs::write(at.path("rekeyd.yaml"), broken.to_string()).expect("written");
    let checked = at.run(&["check"]).await.ended(1).says(&[
        "limits.rotations: expected a whole number",
        "stores.elsewhere.embedded.path: expected text, found a number",
        "the field `key` is missing",
        "spec.value.length: a value of 4 characters is not supported",
        "the field `metadata` is missing",
        "the field `spec` is missing",
    ]);
    assert!(!checked.stderr.contains("have no store"), "that may come of the settings' mistake: {checked}");

    broken["policies"] = json!({"folder": "policies"});
    std::fs::write(at.path("rekeyd.yaml"), broken.to_string()).expect("written");
    at.run(&["check"]).await.ended(1).says(&["policies.folder: unknown field", "no policy was looked at"]);
}

/// A script that reads JSON gets the reason as JSON too.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_json_where_answers_are() {
    let at = Installation::new().await;
    at.write_policy(&generated(&at));
    for command in [&["status", "shop/nobody"][..], &["plan", "shop/nobody"], &["preflight", "shop/nobody"]] {
        let json = at.run(&[command, &["-o", "json"]].concat()).await.ended(1).json();
        let message = json["error"]["message"].as_str().expect("a message");
        assert!(message.contains("shop/nobody"), "{command:?}: {json:#}");
    }
    std::fs::write(at.path("ledger.git"), "no folder").expect("written");
    for command in [&["audit", "log"][..], &["audit", "verify"]] {
        let json = at.run(&[command, &["-o", "json"]].concat()).await.ended(1).json();
        assert_eq!(json["error"]["class"], "invalid", "{command:?}: {json:#}");
    }
    std::fs::write(at.path("rekeyd.yaml"), "polices: {}\n").expect("written");
    for command in [&["status"][..], &["plan"], &["preflight"], &["audit", "log"], &["audit", "verify"]] {
        let json = at.run(&[command, &["-o", "json"]].concat()).await.ended(1).json();
        let first = &json["error"]["diagnostics"][0];
        assert_eq!(
            (&first["line"], &first["severity"]),
            (&json!(1), &json!("error")),
            "{command:?}: {json:#}"
        );
    }
    let refused = at.run(&["rotate", "shop/session-key", "-o", "json"]).await.ended(1);
    let last: serde_json::Value =
        serde_json::from_str(refused.stdout.lines().last().expect("a line")).expect("JSON");
    let message = last["ending"]["message"].as_str().expect("a message");
    assert!(message.contains("rekeyd.yaml"), "{last:#}");
}

/// On a terminal: colours, live steps, mistakes with their place in the file, and no value typed in sight.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal() {
    let site = Site::alternating().await;
    let on_a_terminal = async |arguments: &str| {
        let mut script = tokio::process::Command::new("script");
        let config = site.at.path("rekeyd.yaml");
        let line = format!("{} --config {} {arguments}", env!("CARGO_BIN_EXE_rekeyd"), config.display());
        script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm").kill_on_drop(true);
        script.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        answer(script).await
    };
    let rotated = on_a_terminal("rotate orders/orders-db").await.ended(0);
    rotated.says(&["orders/orders-db -> v1 [manual]", "\x1b[32mdone\x1b[0m  install", "v0 -> v1"]);
    let table = on_a_terminal("status").await.ended(0);
    table.says(&["POLICY", "\x1b[38;5;10m ready", "v1"]);
    site.at.change_policy(NAME, |policy| policy["spec"]["targte"] = json!({}));
    let mistake = on_a_terminal("check").await.ended(1);
    mistake.says(&["targte", "did you mean `target`", "orders-db.yaml", "\x1b["]);
    site.at
        .change_policy(NAME, |policy| drop(policy["spec"].as_object_mut().map(|spec| spec.remove("targte"))));
    let user = site.world.name("a");
    let typed = on_a_terminal(&format!("adopt orders/orders-db --replace --principal {user}")).await.ended(1);
    typed.says(&["standard input is a terminal, which would show the value", "pipe it"]);
}
