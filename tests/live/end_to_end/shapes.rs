//! The field names of what is printed as JSON: scripts rely on them. A field that goes, or changes its name,
//! fails here; a new one is added to the list.

use std::collections::BTreeSet;

use super::*;

/// The paths of all fields, with `[]` for the entries of lists.
fn fields(value: &Value) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    collect(value, "", &mut fields);
    fields
}

fn collect(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(value, &path, fields);
                fields.insert(path);
            }
        }
        Value::Array(entries) => {
            let path = format!("{path}[]");
            entries.iter().for_each(|entry| collect(entry, &path, fields));
        }
        _ => {}
    }
}

#[track_caller]
fn assert_fields(what: &str, values: &[Value], expected: &str) {
    let found: BTreeSet<String> = values.iter().flat_map(fields).collect();
    let expected: BTreeSet<String> = expected.split_whitespace().map(ToOwned::to_owned).collect();
    let (missing, new) = (expected.difference(&found), found.difference(&expected));
    let (missing, new): (Vec<_>, Vec<_>) = (missing.collect(), new.collect());
    assert!(missing.is_empty() && new.is_empty(), "{what}: missing {missing:?}, new {new:?}");
}

const RECORD: &str = "apiVersion kind rotation policy owner trigger request requestedBy reason outcome from to strategy \
    target principal outgoing store consumers policyHash openedAt closedAt previousPromotedAt proof \
    proof.newAccepted proof.oldRefused proof.sessionsClosed proof.sessionsLeft windowMs containedMs failure writer";

/// The fields of a record, below a path.
fn record_at(path: &str) -> String {
    RECORD.split_whitespace().map(|field| format!(" {path}.{field}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_json_answer_keeps_its_fields() {
    let site = Site::in_place().await;
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["owner"] = json!("orders@example.com");
        policy["spec"]["schedule"] = json!({"cron": "0 3 * * *", "maxAge": "30d"});
    });
    let mut lines = Vec::new();
    for command in [
        &["rotate", POLICY, "--reason", "first"][..],
        &["rotate", POLICY],
        &["contain", POLICY, "--reason", "leak"],
    ] {
        lines.extend(site.at.run(command).await.ended(0).lines());
    }
    // One that is taken back, one that stays open, one that goes on.
    let check = |statement: &str| {
        site.at
            .change_policy(NAME, |policy| policy["spec"]["target"]["postgres"]["check"] = json!(statement));
    };
    check("select 1 / 0");
    lines.extend(site.at.run(&["rotate", POLICY]).await.ended(1).lines());
    check("select 1");
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["file"]["reload"] = json!(["/nowhere/reload"]);
        policy["spec"]["retire"]["grace"] = json!("1h");
    });
    lines.extend(site.at.run(&["rotate", POLICY, "--patience", "1s"]).await.ended(1).lines());
    let open = site.at.run(&["status", "-o", "json"]).await.ended(0).json();

    let event = |name: &str| -> Vec<Value> {
        let events = lines.iter().map(|line| &line["event"]);
        events.filter(|event| event["event"] == name).cloned().collect()
    };
    let common = "at policy rotation version trigger event";
    assert_fields("opened", &event("opened"), common);
    assert_fields("started", &event("started"), &format!("{common} step"));
    assert_fields("done", &event("done"), &format!("{common} step elapsedMs detail"));
    assert_fields("retrying", &event("retrying"), &format!("{common} step class failure delayMs"));
    assert_fields("turnedBack", &event("turnedBack"), &format!("{common} step failure remedy"));
    assert_fields("parked", &event("parked"), &format!("{common} step failure remedy"));
    assert_fields("closed", &event("closed"), &format!("{common} record{}", record_at("record")));
    let endings: Vec<Value> =
        lines.iter().map(|line| line["ending"].clone()).filter(Value::is_object).collect();
    assert_eq!(endings.len(), 5, "each command has one");
    assert_fields("the ending", &endings, &format!("ending message remedy record{}", record_at("record")));
    let names: BTreeSet<&str> =
        lines.iter().flat_map(|line| line.as_object().expect("a line").keys()).map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["ending", "event"]));

    let status = "[].policy [].state [].version [].principal [].since [].ageSeconds [].maxAge [].overdue [].nextDue \
        [].nextCause [].last [].last.rotation [].last.outcome [].last.trigger [].last.closedAt [].last.failure";
    let open_fields = "[].open [].open.rotation [].open.trigger [].open.requestedBy [].open.to [].open.openedAt \
        [].open.step [].open.driven [].open.direction [].open.mayAbandon";
    assert_fields("status", &[open, before_it_was_open(&site).await], &format!("{status} {open_fields}"));

    // The rest, with something wrong in each so that remedies show.
    std::fs::write(
        site.at.path("policies/broken.yaml"),
        "apiVersion: rekeyd.dev/v1alpha1\nkind: RotationPolicy\nmetadata: {name: _}\n",
    )
    .expect("written");
    let json = async |arguments: &[&str]| site.at.run(&[arguments, &["-o", "json"]].concat()).await.json();
    assert_fields(
        "check",
        &[json(&["check"]).await],
        "valid policies diagnostics diagnostics[].severity diagnostics[].file diagnostics[].line diagnostics[].column \
         diagnostics[].field diagnostics[].message diagnostics[].remedy",
    );
    std::fs::remove_file(site.at.path("policies/broken.yaml")).expect("removed");
    site.world.sql("DROP ROLE {p}_z").await;
    assert_fields(
        "preflight",
        &[json(&["preflight"]).await],
        "passed ledger ledger[].subject ledger[].verdict ledger[].detail policies policies[].policy \
         policies[].findings policies[].findings[].subject policies[].findings[].verdict \
         policies[].findings[].detail policies[].findings[].remedy",
    );
    let plan = json(&["plan"]).await;
    let (key, aside) = (site.at.path("store.key"), site.at.path("aside.key"));
    std::fs::rename(&key, &aside).expect("moved");
    let plan = [plan, json(&["plan"]).await];
    std::fs::rename(&aside, &key).expect("moved");
    assert_fields("plan", &plan, PLAN);
    let refused = json(&["status", "orders/nobody"]).await;
    assert_fields("a refusal", &[refused], "error error.class error.message error.remedy");
    assert_fields(
        "audit log",
        &[json(&["audit", "log"]).await],
        &format!("[].commit [].record{}", record_at("[].record")),
    );
    forge(&site);
    assert_fields(
        "audit verify",
        &[json(&["audit", "verify"]).await],
        "verified ledger ledger.head ledger.commits ledger.policies ledger.findings ledger.findings[].commit \
         ledger.findings[].problem ledger.unpushed stores stores[].policy stores[].what",
    );
}

const PLAN: &str = "from until rotations rotations[].policy rotations[].at rotations[].local rotations[].inZone \
    rotations[].cause rotations[].assumed notPlanned notPlanned[].policy notPlanned[].reason assumed \
    assumed[].policy assumed[].reason assumed[].remedy shortened budgets diagnostics";

/// The status while nothing is open: it says when the next one is due.
async fn before_it_was_open(site: &Site) -> Value {
    site.at.change_policy(NAME, |policy| {
        policy["metadata"]["name"] = json!("orders-other");
        policy["spec"]["store"]["path"] = json!("apps/orders/other");
        policy["spec"]["consumers"] = json!([]);
        policy["spec"]["retire"]["grace"] = json!("0s");
        policy["spec"]["target"]["postgres"]["strategy"]["inPlace"]["user"] =
            json!(site.world.name("z").as_str());
    });
    site.world.sql("CREATE ROLE {p}_z NOLOGIN").await;
    site.at.run(&["rotate", "orders/orders-other"]).await.ended(0);
    site.at.run(&["status", "orders/orders-other", "-o", "json"]).await.ended(0).json()
}

/// Takes the latest record out, and puts a commit in its place that is not as rekeyd makes them.
fn forge(site: &Site) {
    let script = "commit=$(git commit-tree main~1^{tree} -p main~1 -m forged) && git update-ref refs/heads/main $commit";
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", script]).current_dir(site.at.path("ledger.git"));
    for (name, value) in [
        ("GIT_AUTHOR_NAME", "me"),
        ("GIT_AUTHOR_EMAIL", "me"),
        ("GIT_COMMITTER_NAME", "me"),
        ("GIT_COMMITTER_EMAIL", "me"),
    ] {
        sh.env(name, value);
    }
    assert!(sh.status().expect("git").success());
}
