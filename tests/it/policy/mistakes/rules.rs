//! Mistakes about schedules, values, stores and retirement.

use super::{generated, orders, said, sample, takes, tells};

#[test]
fn schedules() {
    let orders = orders();
    let at = "spec.schedule";
    for (from, to, expected) in [
        (
            "timeZone: Europe/Berlin",
            "timeZone: «Mars/Olympus",
            format!(
                "error: {at}.timeZone: `Mars/Olympus` is not a time zone of the IANA database (write for example Europe/Berlin or UTC)"
            ),
        ),
        (
            "window: 2h",
            "window: «soon",
            format!(
                "error: {at}.window: `soon` is not a length of time (write for example 90s, 15m, 2h or 30d)"
            ),
        ),
        (
            "window: 2h",
            "window: «0s",
            format!(
                "error: {at}.window: an interval of 0s never has room for a rotation (give it a length, or remove it)"
            ),
        ),
        (
            "jitter: 30m",
            "jitter: «0s",
            format!(
                "error: {at}.jitter: an interval of 0s never has room for a rotation (give it a length, or remove it)"
            ),
        ),
        (
            "maxAge: 30d",
            "maxAge: «0s",
            format!(
                "error: {at}.maxAge: an interval of 0s never has room for a rotation (give it a length, or remove it)"
            ),
        ),
        (
            "jitter: 30m",
            "jitter: «3h",
            format!(
                "error: {at}.jitter: the jitter of 3h is longer than the window of 2h: some rotations could never start (use a jitter of at most 2h)"
            ),
        ),
        (
            "cron: \"0 3 * * SUN\"",
            "cron: «\"0 33 * * SUN\"",
            format!(
                "error: {at}.cron: the hour field `33` is not valid (use 0 to 23, `*`, lists `6,18`, ranges `9-17` or steps `*/6`)"
            ),
        ),
        (
            "cron: \"0 3 * * SUN\"",
            "cron: «\"0 3 30 2 *\"",
            format!(
                "error: {at}.cron: cron `0 3 30 2 *` matches no date up to the year 2100 (choose a day that exists in the month; leave the schedule out to rotate on request only)"
            ),
        ),
        (
            "maxAge: 30d",
            "maxAge: «14d",
            format!(
                "warning: {at}.maxAge: the maximum age of 14d is shorter than the freeze from 2026-12-19T23:00:00Z to 2027-01-03T23:00:00Z (shorten the freeze or raise maxAge: the value is reported as overdue in it)"
            ),
        ),
        (
            "to: 2027-01-04",
            "to: «2026-01-04",
            format!(
                "error: {at}.freezes[0].to: the freeze ends before it begins (put the later moment in `to`)"
            ),
        ),
        (
            "to: 2027-01-04",
            "to: «2026-12-20",
            format!(
                "error: {at}.freezes[0].to: the freeze ends before it begins (put the later moment in `to`)"
            ),
        ),
        (
            "reason: Christmas trade",
            "reason: «\" \"",
            format!("error: {at}.freezes[0].reason: this text is empty (give it a text, or remove it)"),
        ),
    ] {
        tells(&orders, from, to, &expected);
    }
    let (lines, place) = said(&orders.replace("maxAge: 30d", "maxAge: «5m"));
    let within_grace = format!(
        "{place}warning: {at}.maxAge: a value may be 5m old, and an outgoing one lives for 15m longer (use a maxAge beyond retire.grace, or a shorter grace)"
    );
    assert!(lines.contains(&within_grace), "{lines:?}");
    let (lines, place) = said(
        &orders
            .replace("cron: \"0 3 * * SUN\"", "cron: «\"0 3 20 12 *\"")
            .replace("to: 2027-01-04", "to: 2040-01-04"),
    );
    assert!(
        lines.iter().any(|line| line.starts_with(&format!("{place}error: {at}.cron: freezes leave no time to start"))),
        "{lines:?}"
    );
    takes(&orders, "jitter: 30m", "jitter: 2h");
    takes(&orders, "to: 2027-01-04", "to: 2026-12-20T00:01");
    let (lines, place) = said(&orders.replace("from: 2026-12-20", "from: «2026-13-20"));
    assert!(
        lines.len() == 1 && lines[0].starts_with(&format!("{place}error: {at}.freezes[0].from: ")),
        "{lines:?}"
    );
}

#[test]
fn values_and_owners() {
    let length = |length: u16| {
        format!(
            "error: spec.value.length: a value of {length} characters is not supported (use a length from 16 to 256)"
        )
    };
    tells(&orders(), "length: 40", "length: «15", &length(15));
    tells(&orders(), "length: 40", "length: «257", &length(257));
    takes(&orders(), "length: 40", "length: 16");
    takes(&orders(), "length: 40", "length: 256");
    tells(
        &generated(),
        "length: 64",
        "length: «19",
        "error: spec.value.length: a value of this length and alphabet has 76 bits: it can be guessed (use more characters: 80 bits are the least)",
    );
    takes(&generated(), "length: 64", "length: 20");
    tells(
        &orders(),
        "owner: payments@example.com",
        "owner: «\"\"",
        "error: spec.owner: this text is empty (give it a text, or remove it)",
    );
    tells(
        &orders(),
        "owner: payments@example.com",
        "owner: «\"a\\tb\"",
        "error: spec.owner: this text holds a control character (remove line breaks and control characters)",
    );
}

#[test]
fn stores() {
    let orders = orders();
    let at = "spec.store";
    for (from, to, expected) in [
        (
            "name: bao",
            "name: «boa",
            format!(
                "error: {at}.name: the settings have no store `boa` (did you mean `bao`? Known: `aws`, `bao`, `local`)"
            ),
        ),
        (
            "path: apps/orders/db",
            "path: «rekeyd/orders",
            format!(
                "error: {at}.path: `rekeyd/orders` is in the folder that rekeyd keeps its control documents in (use a path outside the store's `controlPath`)"
            ),
        ),
        (
            "path: apps/orders/db",
            "path: «rekeyd",
            format!(
                "error: {at}.path: `rekeyd` is in the folder that rekeyd keeps its control documents in (use a path outside the store's `controlPath`)"
            ),
        ),
        (
            "path: apps/orders/db",
            "path: «platform/orders-db/admin",
            format!(
                "error: {at}.path: `platform/orders-db/admin` holds the credential `orders-admin` that rekeyd itself uses (use a path of the application's own)"
            ),
        ),
    ] {
        tells(&orders, from, to, &expected);
    }
    takes(&orders, "path: apps/orders/db", "path: rekeyd-apps/orders");
    takes(
        &orders.replace("name: bao", "name: local"),
        "path: apps/orders/db",
        "path: platform/orders-db/admin",
    );
    tells(
        &generated(),
        "value: key\n",
        "value: «id\n",
        "error: spec.store.fields.value: principal and value have the same key `id` (use two different keys)",
    );
    tells(
        &generated(),
        "principal: id\n",
        "principal: «\"\"\n",
        "error: spec.store.fields.principal: this text is empty (give it a text, or remove it)",
    );
}

#[test]
fn what_aws_secrets_manager_keeps_beside_a_value() {
    let accounts = super::super::sample("aws-secretsmanager.yaml");
    let at = "spec.store";
    for (from, to, expected) in [
        (
            "      engine: postgres",
            "      password: «hunter2",
            format!("error: {at}.extra.password: `password` is the key of the principal or of the value (remove it: rekeyd writes it)"),
        ),
        (
            "      port: 5432",
            "      «port: [5432]",
            format!("error: {at}.extra.port: expected text or a whole number, found something else (write text or a whole number)"),
        ),
        (
            "path: accounts/accounts-db",
            "path: «rekeyd/control/accounts",
            format!(
                "error: {at}.path: `rekeyd/control/accounts` is in the folder that rekeyd keeps its control documents in (use a path outside the store's `controlPath`)"
            ),
        ),
        (
            "    cron: \"0 4 * * *\"",
            "    cron: «\"0 * * * *\"",
            "warning: spec.schedule.cron: cron starts 24 rotations within a day, and the versions that store `aws` keeps are enough for 16 (let cron fire less often, or the store refuses writes, those of a containment too)".to_owned(),
        ),
    ] {
        tells(&accounts, from, to, &expected);
    }
    // A copy there needs some, too, wherever the value itself is.
    let copied = generated().replacen(
        "  consumers:\n",
        "  consumers:\n    - awsSecretsManager: {store: aws, name: team/db}\n",
        1,
    );
    let cron = "cron: \"0 5 * * MON\"\n    window: 4h\n    maxAge: 14d";
    tells(
        &copied,
        cron,
        "cron: «\"*/20 * * * *\"",
        "warning: spec.schedule.cron: cron starts 72 rotations within a day, and the versions that store `aws` keeps are enough for 50 (let cron fire less often, or the store refuses writes, those of a containment too)",
    );
    takes(&copied, cron, "cron: \"*/30 * * * *\"");
    takes(&generated(), cron, "cron: \"*/20 * * * *\"");
    takes(&accounts, "    cron: \"0 4 * * *\"", "    cron: \"0 */2 * * *\"");
    takes(&accounts, "      port: 5432", "      port: \"5432\"");
    tells(
        &orders(),
        "    path: apps/orders/db",
        "    path: apps/orders/db\n    «extra: {engine: postgres}",
        "error: spec.store.extra: store `bao` keeps nothing beside principal and value (remove it: it is for AWS Secrets Manager)",
    );
}

#[test]
fn retirement() {
    let orders = orders().replace("    maxAge: 30d\n", "");
    tells(
        &orders,
        "grace: 15m",
        "grace: «31d",
        "error: spec.retire.grace: a grace of 31d keeps the outgoing value alive for too long (use at most 30d)",
    );
    takes(&orders, "grace: 15m", "grace: 30d");
    let hand_off = sample("http-hand-off.yaml");
    takes(&hand_off, "    grace: 1h\n", "    grace: 1h\n  byHand: {deadline: 5d, remindEvery: 1d}\n");
    for (policy, says, told) in [
        (
            &hand_off,
            "byHand: {deadline: «0s}",
            ".deadline: nobody makes a key in 0s (give it a length, or remove it)",
        ),
        (&hand_off, "byHand: {deadline: «91d}", ".deadline: who has 91d for it forgets it (use at most 90d)"),
        (
            &hand_off,
            "byHand: {remindEvery: «59s}",
            ".remindEvery: to be told every 59s is to be told all the time (use 1m or more)",
        ),
        (
            &hand_off,
            "byHand: {deadline: 2h, remindEvery: «2h}",
            ".remindEvery: with 2h between two reminders there is none within the deadline of 2h (use a remindEvery that is shorter than the deadline)",
        ),
        (
            &sample("http-key.yaml"),
            "«byHand: {deadline: 5d}",
            ": no person is asked for anything at this target (leave `byHand` out)",
        ),
        (
            &orders,
            "«byHand: {deadline: 5d}",
            ": no person is asked for anything at this target (leave `byHand` out)",
        ),
    ] {
        tells(policy, "  retire:\n", &format!("  {says}\n  retire:\n"), &format!("error: spec.byHand{told}"));
    }
    tells(
        &orders,
        "Deadline: 60s",
        "Deadline: «25h",
        "error: spec.retire.containmentDeadline: a containment that waits for 1d 1h contains nothing (use at most 1d)",
    );
}
