//! Mistakes in the form of a document.

use super::super::{lines, now};
use super::{generated, orders, sample, sample_settings, tells};

use rekeyd::policy::load::{Loaded, parse_policies};
use serde_json::{Value, json};

#[test]
fn fields_and_kinds() {
    let orders = orders();
    for (from, to, expected) in [
        (
            "    window: 2h",
            "    «windwo: 2h",
            "error: spec.schedule.windwo: unknown field `windwo` (did you mean `window`? Known: `cron`, `timeZone`, `window`, `jitter`, `maxAge`, `catchUp`, `freezes`)",
        ),
        (
            "  value:\n",
            "  value: {length: 20}\n  «value:\n",
            "error: spec.value: the field `value` stands here twice (keep one of the two)",
        ),
        (
            "  store:\n    name: bao\n    path: apps/orders/db\n",
            "  «store:\n    name: bao\n",
            "error: spec.store: the field `path` is missing (add `path:`)",
        ),
        (
            "port: 6432",
            "port: «643200",
            "error: spec.target.postgres.alsoVerify[0].port: expected a whole number from 0 to 65535, found a number (write a whole number from 0 to 65535)",
        ),
        (
            "port: 6432",
            "port: «6432.5",
            "error: spec.target.postgres.alsoVerify[0].port: expected a whole number from 0 to 65535, found a number (write a whole number from 0 to 65535)",
        ),
        (
            "mode: \"0640\"",
            "mode: «0640",
            "error: spec.consumers[0].file.mode: expected text, found a number (put it in quotes)",
        ),
        (
            "owner: payments@example.com",
            "owner: «true",
            "error: spec.owner: expected text, found true or false (put it in quotes)",
        ),
        (
            "  retire:\n    grace: 15m\n    containmentDeadline: 60s\n",
            "  «retire:\n",
            "error: spec.retire: expected a mapping, found nothing (give it a value, or remove it)",
        ),
        (
            "database: orders\n",
            "«database: [orders]\n",
            "error: spec.target.postgres.endpoint.database: expected text, found a list (write text)",
        ),
        (
            "mode: verify-full\n",
            "mode: verify-full\n          allowPlaintext: «yes\n",
            "error: spec.target.postgres.endpoint.tls.allowPlaintext: expected true or false, found text (write true or false)",
        ),
    ] {
        tells(&orders, from, to, expected);
    }
}

#[test]
fn choices() {
    let orders = orders();
    for (from, to, expected) in [
        (
            "mode: verify-full",
            "mode: «prefer",
            "error: spec.target.postgres.endpoint.tls.mode: `prefer` is not among the choices (use one of `disable`, `require`, `verify-ca`, `verify-full`)",
        ),
        (
            "postgres:\n",
            "«postgresql:\n",
            // The last two are in builds for proving alone.
            "error: spec.target.postgresql: `postgresql` is not among the choices (did you mean `postgres`? Known: `postgres`, `mysql`, `redis`, `rabbitmq`, `clickhouse`, `http`, `vault`, `awsIam`, `kubernetesServiceAccount`, `exec`, `generated`, `simulated`, `simulatedKeys`)",
        ),
        (
            "containment: keepServing",
            "containment: {«cutNow: {}}",
            "error: spec.containment.cutNow: this choice has no fields (write its name alone)",
        ),
        (
            "users: [orders_a, orders_b]",
            "«users: [orders_a]",
            "error: spec.target.postgres.strategy.alternating.users: expected a list of 2, found one of 1 (write 2 of them)",
        ),
        (
            "users: [orders_a, orders_b]",
            "«users: [a, b, c]",
            "error: spec.target.postgres.strategy.alternating.users: expected a list of 2, found one of 3 (write 2 of them)",
        ),
    ] {
        tells(&orders, from, to, expected);
    }
    let generated = generated();
    let target = "    generated:\n      principal: session-key\n";
    tells(
        &generated,
        target,
        "    generated: {}\n    «postgres: {}\n",
        "error: spec.target.postgres: expected exactly one of `postgres`, `mysql`, `redis`, `rabbitmq`, `clickhouse`, `http`, `vault`, `awsIam`, `kubernetesServiceAccount`, `exec`, `generated`, `simulated`, `simulatedKeys` (keep one of them)",
    );
    tells(
        &generated,
        &format!("target:\n{target}"),
        "target: «generated\n",
        "error: spec.target: `generated` needs fields of its own (write `generated:` and its fields below it)",
    );
    tells(
        &generated,
        &format!("target:\n{target}"),
        "«target: {}\n",
        "error: spec.target: expected exactly one of `postgres`, `mysql`, `redis`, `rabbitmq`, `clickhouse`, `http`, `vault`, `awsIam`, `kubernetesServiceAccount`, `exec`, `generated`, `simulated`, `simulatedKeys` (keep one of them)",
    );
}

#[test]
fn envelopes() {
    let orders = orders();
    for (from, to, expected) in [
        (
            "kind: RotationPolicy",
            "kind: «Kustomization",
            "error: kind: a `Kustomization` is not read from the policy directory (move it elsewhere; policies are of kind `RotationPolicy`)",
        ),
        (
            "kind: RotationPolicy",
            "kind: «RotationPolice",
            "error: kind: a `RotationPolice` is not read from the policy directory (did you mean `RotationPolicy`? Known: `RotationPolicy`)",
        ),
        (
            "rekeyd.dev/v1alpha1",
            "«rekeyd.dev/v2",
            "error: apiVersion: `rekeyd.dev/v2` is not a version that this rekeyd reads (write `apiVersion: rekeyd.dev/v1alpha1`)",
        ),
        (
            "apiVersion: rekeyd.dev/v1alpha1\nkind: RotationPolicy\n",
            "«apiVersion: rekeyd.dev/v1alpha1\n",
            "error: the field `kind` is missing (add `kind:`)",
        ),
    ] {
        tells(&orders, from, to, expected);
    }
}

#[test]
fn names() {
    let orders = orders();
    for bad in ["Orders", "../orders", "..", "orders.db", "-orders"] {
        let expected = format!(
            "error: metadata.name: `{bad}` is not a DNS label (use 1 to 63 lower-case letters, digits and inner hyphens)"
        );
        tells(&orders, "name: orders-db\n", &format!("name: «{bad}\n"), &expected);
    }
    let label = "is not a DNS label (use 1 to 63 lower-case letters, digits and inner hyphens)";
    let path = "is not a store path (use segments of letters, digits, `.`, `_`, `-` joined by `/`, none of them `.` or `..`)";
    for (from, to, expected) in [
        ("namespace: orders", "namespace: «..", format!("error: metadata.namespace: `..` {label}")),
        ("admin: orders-admin", "admin: «..", format!("error: spec.target.postgres.admin: `..` {label}")),
        ("name: bao", "name: «../bao", format!("error: spec.store.name: `../bao` {label}")),
        ("path: apps/orders/db", "path: «apps/../rekeyd", format!("error: spec.store.path: `apps/../rekeyd` {path}")),
        ("path: apps/orders/db", "path: «/apps", format!("error: spec.store.path: `/apps` {path}")),
        ("team: payments", "team: «../payments", "error: metadata.labels.team: `../payments` is not a label value (use up to 63 letters, digits and inner `-`, `_`, `.`)".into()),
        ("team: payments", "«../team: payments", "error: metadata.labels[\"../team\"]: `../team` is not a label key (write for example team or example.com/team)".into()),
        ("orders_b]", "«\"a\\nb\"]", "error: spec.target.postgres.strategy.alternating.users[1]: `a\\nb` is not a principal (use 1 to 255 bytes without control characters, outer spaces or `..`)".into()),
    ] {
        tells(&orders, from, to, &expected);
    }
}

#[test]
fn every_missing_field_of_every_mapping() {
    let text = "apiVersion: rekeyd.dev/v1alpha1\nkind: RotationPolicy\nmetadata: {}\nspec:\n  value: {length: x}\n  \
                target:\n    postgres: {}\n  store: {}\n  consumers: [{file: {}}]\n";
    assert_eq!(
        fields(&parse_policies("p.yaml", text, &sample_settings(), now())),
        [
            "metadata: the field `name` is missing",
            "spec.value.length: expected a whole number from 0 to 65535, found text",
            "spec.target.postgres: the field `endpoint` is missing",
            "spec.target.postgres: the field `admin` is missing",
            "spec.target.postgres: the field `strategy` is missing",
            "spec.store: the field `name` is missing",
            "spec.store: the field `path` is missing",
            "spec.consumers[0].file: the field `path` is missing",
            "spec.consumers[0].file: the field `content` is missing",
        ]
    );
    let text = "apiVersion: rekeyd.dev/v1alpha1\n";
    assert_eq!(
        fields(&parse_policies("p.yaml", text, &sample_settings(), now())),
        [
            ": the field `kind` is missing",
            ": the field `metadata` is missing",
            ": the field `spec` is missing",
        ]
    );
}

#[test]
fn several_at_once_and_none_that_only_follows_from_another() {
    let broken = [
        ("    window: 2h\n", "    windwo: 2h\n"),
        ("timeZone: Europe/Berlin", "timeZone: Mars/Olympus"),
        ("jitter: 30m", "jitter: 0s"),
        ("mode: \"0640\"", "mode: 0640"),
        ("path: /run/orders/db.env", "path: db.env"),
        ("length: 40", "length: 4"),
        ("name: bao", "name: boa"),
    ];
    let text = broken.iter().fold(orders(), |text, (from, to)| text.replacen(from, to, 1));
    assert_eq!(
        fields(&parse_policies("p.yaml", &text, &sample_settings(), now())),
        [
            "spec.schedule.timeZone: `Mars/Olympus` is not a time zone of the IANA database",
            "spec.schedule.windwo: unknown field `windwo`",
            "spec.schedule.jitter: an interval of 0s never has room for a rotation",
            "spec.value.length: a value of 4 characters is not supported",
            "spec.store.name: the settings have no store `boa`",
            "spec.consumers[0].file.path: `db.env` is not an absolute path",
            "spec.consumers[0].file.mode: expected text, found a number",
        ]
    );
    // Something stands in for a part that must be there, and nothing is said of that.
    let text = text.replace("[orders_a, orders_b]", "[orders_a, \" \"]");
    assert_eq!(
        fields(&parse_policies("p.yaml", &text, &sample_settings(), now())),
        [
            "spec.schedule.timeZone: `Mars/Olympus` is not a time zone of the IANA database",
            "spec.schedule.windwo: unknown field `windwo`",
            "spec.schedule.jitter: an interval of 0s never has room for a rotation",
            "spec.target.postgres.strategy.alternating.users[1]: ` ` is not a principal",
            "spec.value.length: a value of 4 characters is not supported",
            "spec.store.name: the settings have no store `boa`",
            "spec.consumers[0].file.path: `db.env` is not an absolute path",
            "spec.consumers[0].file.mode: expected text, found a number",
        ]
    );
}

/// Each part of the samples is made something else or is taken out, in a document with two mistakes
/// elsewhere: those are told as well, and nothing that would only follow.
#[test]
fn a_fault_hides_nothing_and_causes_nothing() {
    let planted = [("/spec/value", json!({"length": 4})), ("/spec/store/name", json!("boa"))];
    let own = ["spec.value.length", "spec.store.name"];
    let mut seen = 0;
    for sample in [orders(), generated(), sample("postgres-in-place.yaml")] {
        let mut whole: Value = serde_saphyr::from_str(&sample).expect("YAML");
        for (pointer, value) in &planted {
            let (holder, name) = pointer.rsplit_once('/').expect("a name");
            whole.pointer_mut(holder).expect("a mapping")[name] = value.clone();
        }
        let mut pointers = Vec::new();
        parts(&whole, "", &mut pointers);
        for pointer in pointers {
            for removed in [false, true] {
                let mut text = whole.clone();
                let (holder, name) = pointer.rsplit_once('/').expect("a name");
                match (text.pointer_mut(holder).expect("a part"), removed) {
                    (Value::Object(entries), true) => drop(entries.remove(name)),
                    (Value::Array(items), true) => drop(items.remove(name.parse().expect("an index"))),
                    (holder, false) => {
                        *holder.pointer_mut(&format!("/{name}")).expect("a part") = json!([[[]]])
                    }
                    _ => unreachable!("only these hold parts"),
                }
                let loaded = parse_policies("p.yaml", &text.to_string(), &sample_settings(), now());
                let told = fields(&loaded);
                let field = pointer.replace("/", ".").trim_start_matches('.').to_owned();
                for own in own {
                    let hidden = own.starts_with(&field)
                        || field.starts_with(own)
                        || field == "kind"
                        || field == "apiVersion";
                    assert!(
                        hidden || told.iter().any(|line| line.starts_with(own)),
                        "{pointer}, {removed}: {told:?}"
                    );
                }
                // A list in brackets in one notation, with dots in the other.
                let plain = |line: &str| line.replace('[', ".").replace(']', "");
                let holder = field.rsplit_once('.').map_or("", |(holder, _)| holder).to_owned();
                for line in &told {
                    let line = plain(line);
                    let follows = line.starts_with(&field)
                        || line.starts_with(&format!("{holder}: "))
                        || field.starts_with(line.split(": ").next().expect("a field"));
                    assert!(
                        follows || own.iter().any(|own| line.starts_with(own)),
                        "{pointer}, {removed}: {told:?}"
                    );
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

/// The way to each part of a value.
fn parts(value: &Value, at: &str, pointers: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(entries) => {
            entries.iter().map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect()
        }
        _ => Vec::new(),
    };
    for (name, child) in children {
        let at = format!("{at}/{name}");
        parts(child, &at, pointers);
        pointers.push(at);
    }
}

#[test]
fn a_document_that_is_something_else_is_told_so_shortly() {
    let text: String = (0..1_000).map(|index| format!("key{index}: {index}\n")).collect();
    let lines = lines(&parse_policies("p.yaml", &text, &sample_settings(), now()));
    assert_eq!(lines.len(), 102);
    assert!(lines.iter().any(|line| line.contains("more than 100 errors in one document")));
    for text in ["just text\n", "- a\n- b\n", "42\n"] {
        let loaded = parse_policies("p.yaml", text, &sample_settings(), now());
        assert!(
            loaded.diagnostics[0].message.starts_with("expected a mapping, found"),
            "{:?}",
            loaded.diagnostics
        );
    }
}

fn fields(loaded: &Loaded) -> Vec<String> {
    loaded
        .diagnostics
        .iter()
        .map(|diagnostic| format!("{}: {}", diagnostic.field, diagnostic.message))
        .collect()
}
