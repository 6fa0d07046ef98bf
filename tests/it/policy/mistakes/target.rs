//! Mistakes about a target.

use rekeyd::policy::load::{Text, load_policies};
use rekeyd::settings::{CredentialSource, ResourcesSettings};

use super::{lines, now, orders, said, said_by, sample, sample_settings, takes, tells};

const TLS: &str = "          mode: verify-full\n          caFile: /etc/rekeyd/tls/databases.pem\n";

#[test]
fn endpoints() {
    let orders = orders();
    for host in ["", "orders-db:5432", "postgres://orders-db", "a b", "user@db"] {
        let expected = format!(
            "error: spec.target.postgres.endpoint.host: `{host}` is not a host name, an address or the absolute path of a Unix socket (write the name alone: the port goes to `port`, the database to `database`)"
        );
        tells(&orders, "host: orders-db.example.com", &format!("host: «\"{host}\""), &expected);
    }
    let at = "spec.target.postgres";
    for (from, to, expected) in [
        (
            "database: orders\n",
            "database: «\"\"\n",
            format!("error: {at}.endpoint.database: this text is empty (give it a text, or remove it)"),
        ),
        (
            "database: orders\n",
            "database: «\"a\\nb\"\n",
            format!(
                "error: {at}.endpoint.database: this text holds a control character (remove line breaks and control characters)"
            ),
        ),
        (
            "port: 6432",
            "port: «0",
            format!(
                "error: {at}.alsoVerify[0].port: port 0 does not exist (use the server's port, or remove it for the usual one)"
            ),
        ),
        (
            "host: orders-pooler.example.com",
            "host: «a/b",
            format!(
                "error: {at}.alsoVerify[0].host: `a/b` is not a host name, an address or the absolute path of a Unix socket (write the name alone: the port goes to `port`, the database to `database`)"
            ),
        ),
        (
            "check: SELECT count(*) FROM orders WHERE false",
            "check: «\" \"",
            format!("error: {at}.check: this text is empty (give it a text, or remove it)"),
        ),
        (
            "admin: orders-admin",
            "admin: «order-admin",
            format!(
                "error: {at}.admin: the settings have no credential `order-admin` (did you mean `orders-admin`? Known: `accounts-admin`, `billing-admin`, `cache-admin`, `github-admin`, `gitlab-admin`, `jenkins-admin`, `local-admin`, `orders-admin`, `sendgrid-admin`, `slack-app`)"
            ),
        ),
    ] {
        tells(&orders, from, to, &expected);
    }
}

/// Whoever writes policies does not get to send an admin's login to a server of theirs.
#[test]
fn an_admin_credential_is_used_where_the_settings_say() {
    let reports = sample("postgres-in-place.yaml");
    let mut settings = sample_settings();
    let admin =
        settings.credentials.get_mut(&"local-admin".parse().expect("a label")).expect("the sample has it");
    let CredentialSource::File(file) = admin else { panic!("it is in a file") };
    file.hosts = ["localhost", "::1", "/run/postgresql"].map(ToOwned::to_owned).into();
    let said_of = |host: &str| {
        said_by(&settings, &reports.replacen("host: /run/postgresql", &format!("host: {host}"), 1)).0
    };
    let at = "spec.target.postgres.endpoint.host";
    for host in ["db.example.org", "localhost.example.org", "/tmp", "\"::2\""] {
        let plain = host.trim_matches('"');
        let said = said_of(host);
        let expected = format!(
            "error: {at}: the settings do not let the admin credential `local-admin` be used at `{plain}` (use an admin that is for this host, or have it added to the credential's `hosts`)"
        );
        assert!(said.iter().any(|line| line.ends_with(&expected)), "{said:?}");
    }
    for host in ["/run/postgresql", "localhost", "LOCALHOST.", "\"::1\""] {
        assert!(!said_of(host).iter().any(|line| line.contains("do not let")), "{host}");
    }
}

/// A login there hands over the value itself.
#[test]
fn a_redis() {
    let cache = sample("redis.yaml");
    let at = "spec.target.redis";
    for (from, to, expected) in [
        (
            "host: a.cache.example.com",
            "host: «\"a b.cache.example.com\"",
            format!(
                "error: {at}.nodes[0].host: `a b.cache.example.com` is not a host name or an address (write the name alone: the port goes to `port`)"
            ),
        ),
        (
            "host: b.cache.example.com",
            "host: b.cache.example.com\n          port: «0",
            format!(
                "error: {at}.nodes[1].port: port 0 does not exist (use the server's port, or remove it for the usual one)"
            ),
        ),
        (
            "host: b.cache.example.com",
            "host: «db.example.com",
            format!(
                "error: {at}.nodes[1].host: the settings do not let the admin credential `cache-admin` be used at `db.example.com` (use an admin that is for this host, or have it added to the credential's `hosts`)"
            ),
        ),
        (
            "- host: b.cache.example.com",
            "- «host: a.cache.example.com",
            format!(
                "error: {at}.nodes[1]: `a.cache.example.com:6379` stands here twice (name each server once)"
            ),
        ),
        (
            "user: shop\n",
            "user: «rekeyd\n",
            format!(
                "error: {at}.strategy.dualPassword.user: `rekeyd` is the user of the admin credential `cache-admin` (use an admin that is not rotated by this policy)"
            ),
        ),
        (
            "user: shop\n",
            "user: «the shop\n",
            format!(
                "error: {at}.strategy.dualPassword.user: `the shop` holds a space, and no Redis user does (name the user as ACL LIST does)"
            ),
        ),
        (
            "user: shop\n",
            "user: «default\n",
            format!(
                "error: {at}.strategy.dualPassword.user: `default` is whoever has not logged in yet, and nobody's alone: replicas, Sentinels and clients without a name (give its readers a user of their own with ACL SETUSER, and name that)"
            ),
        ),
        (
            "mode: verify-full\n        caFile: /etc/rekeyd/tls/caches.pem\n",
            "mode: «disable\n",
            format!(
                "error: {at}.tls.mode: without TLS, everybody on the way to a.cache.example.com can read the value (use mode `verify-full`, or say `allowPlaintext: true` where the network protects it)"
            ),
        ),
        (
            "[EXISTS, \"shop:health\"]",
            "[EXISTS, «\"\"]",
            format!("error: {at}.check[1]: this text is empty (give it a text, or remove it)"),
        ),
    ] {
        tells(&cache, from, to, &expected);
    }
    let mut settings = sample_settings();
    let admin =
        settings.credentials.get_mut(&"cache-admin".parse().expect("a label")).expect("the sample has it");
    let CredentialSource::File(file) = admin else { panic!("it is in a file") };
    file.hosts.clear();
    let (lines, place) = said_by(&settings, &cache.replacen("admin: cache-admin", "admin: «cache-admin", 1));
    let expected = format!(
        "{place}error: {at}.admin: a login at this server hands it the value, and the settings let `cache-admin` be used at any (name the hosts that the credential is for, in its `hosts`)"
    );
    assert_eq!(lines, [expected]);
}

/// A login there hands over the value itself.
#[test]
fn a_clickhouse() {
    let one = sample("clickhouse-dual-password.yaml");
    let at = "spec.target.clickhouse";
    for (from, to, expected) in [
        (
            "host: olap-2.cache.example.com",
            "host: olap-2.cache.example.com\n          port: «0",
            format!(
                "error: {at}.nodes[1].port: port 0 does not exist (use the server's port, or remove it for the usual one)"
            ),
        ),
        (
            "- host: olap-2.cache.example.com",
            "- «host: olap-1.cache.example.com",
            format!(
                "error: {at}.nodes[1]: `olap-1.cache.example.com:8443` stands here twice (name each server once)"
            ),
        ),
        (
            "host: olap-2.cache.example.com",
            "host: «db.example.com",
            format!(
                "error: {at}.nodes[1].host: the settings do not let the admin credential `cache-admin` be used at `db.example.com` (use an admin that is for this host, or have it added to the credential's `hosts`)"
            ),
        ),
        (
            "user: ingest\n",
            "user: «rekeyd\n",
            format!(
                "error: {at}.strategy.dualPassword.user: `rekeyd` is the user of the admin credential `cache-admin` (use an admin that is not rotated by this policy)"
            ),
        ),
        (
            "user: ingest\n",
            "user: «\"a:b\"\n",
            format!(
                "error: {at}.strategy.dualPassword.user: `a:b` holds a colon, and no login over HTTP can name such a user (rotate a user of another name)"
            ),
        ),
    ] {
        tells(&one, from, to, &expected);
    }
    let pair = sample("clickhouse-alternating.yaml");
    for (from, to, expected) in [
        (
            "[reports_a, reports_b]",
            "[reports_a, «reports_a]",
            format!("error: {at}.strategy.alternating.users[1]: both users are `reports_a` (name two users)"),
        ),
        (
            "check: SELECT count() FROM shop.orders WHERE false",
            "check: «\" \"",
            format!("error: {at}.check: this text is empty (give it a text, or remove it)"),
        ),
    ] {
        tells(&pair, from, to, &expected);
    }
}

#[test]
fn a_rabbitmq() {
    let queue = sample("rabbitmq.yaml");
    let at = "spec.target.rabbitmq";
    for (from, to, expected) in [
        (
            "host: queue.cache.example.com",
            "host: «db.example.com",
            format!(
                "error: {at}.endpoint.host: the settings do not let the admin credential `cache-admin` be used at `db.example.com` (use an admin that is for this host, or have it added to the credential's `hosts`)"
            ),
        ),
        (
            "[shop_a, shop_b]",
            "[shop_a, «shop_a]",
            format!("error: {at}.strategy.alternating.users[1]: both users are `shop_a` (name two users)"),
        ),
        (
            "[shop_a, shop_b]",
            "[«rekeyd, shop_b]",
            format!(
                "error: {at}.strategy.alternating.users[0]: `rekeyd` is the user of the admin credential `cache-admin` (use an admin that is not rotated by this policy)"
            ),
        ),
        (
            "mode: verify-full\n          caFile: /etc/rekeyd/tls/caches.pem\n",
            "mode: «disable\n",
            format!(
                "error: {at}.endpoint.tls.mode: without TLS, everybody on the way to queue.cache.example.com can read the value (use mode `verify-full`, or say `allowPlaintext: true` where the network protects it)"
            ),
        ),
    ] {
        tells(&queue, from, to, &expected);
    }
}

#[test]
fn a_vault() {
    let (login, token) = (sample("vault-secret-id.yaml"), sample("vault-token.yaml"));
    let at = "spec.target.vault";
    for (from, to, expected) in [
        (
            "store: bao",
            "store: «local",
            format!(
                "error: {at}.store: store `local` is no OpenBao or Vault (name a store of the settings that is a `vault`)"
            ),
        ),
        (
            "role: orders\n",
            "role: «orders/admin\n",
            format!(
                "error: {at}.strategy.secretId.role: `orders/admin` is not a name that an OpenBao or a Vault takes (use letters, digits, `-`, `_` and `.`)"
            ),
        ),
    ] {
        tells(&login, from, to, &expected);
    }
    let at = "spec.target.vault.strategy.token";
    for (from, to, expected) in [
        (
            "role: metrics\n",
            "policies: [metrics, «root]\n",
            format!(
                "error: {at}.policies[1]: a token with the policy `root` may do anything, for ever (name the policies that the program needs)"
            ),
        ),
        (
            "role: metrics\n",
            "«policies: []\n",
            format!(
                "error: {at}.policies: the token would have every policy of rekeyd's own (name a `role`, or `policies`)"
            ),
        ),
        (
            "role: metrics\n",
            "role: metrics\n          period: «0s\n",
            format!(
                "error: {at}.period: an interval of 0s never has room for a rotation (give it a length, or remove it)"
            ),
        ),
    ] {
        tells(&token, from, to, &expected);
    }
}

#[test]
fn a_user_of_iam() {
    let key = sample("aws-iam.yaml");
    let at = "spec.target.awsIam";
    for (from, to, expected) in [
        (
            "store: aws\n",
            "store: «bao\n",
            format!(
                "error: {at}.store: store `bao` is not at AWS (name a store of the settings that is an `awsSecretsManager`)"
            ),
        ),
        (
            "user: reports-exports",
            "user: «reports/exports",
            format!(
                "error: {at}.user: `reports/exports` is not the name of a user of IAM (use letters, digits and `+=,.@-_`, without a path)"
            ),
        ),
    ] {
        tells(&key, from, to, &expected);
    }
}

#[test]
fn tls() {
    let orders = orders();
    let at = "spec.target.postgres.endpoint.tls";
    for (from, to, expected) in [
        (
            TLS,
            "          mode: «disable\n",
            format!(
                "error: {at}.mode: without TLS, everybody on the way to orders-db.example.com can read the value (use mode `verify-full`, or say `allowPlaintext: true` where the network protects it)"
            ),
        ),
        (
            TLS,
            "          mode: «require\n",
            format!(
                "warning: {at}.mode: with mode `require` the certificate of orders-db.example.com is not checked: somebody on the way can pose as it (use mode `verify-full` with `caFile`)"
            ),
        ),
        (
            TLS,
            "          mode: disable\n          allowPlaintext: true\n          caFile: «/a.pem\n",
            format!(
                "error: {at}.caFile: the authorities are not looked at in mode `disable` (use mode `verify-full` or `verify-ca`, or remove `caFile`)"
            ),
        ),
        (
            TLS,
            "          mode: verify-full\n          allowPlaintext: «true\n",
            format!(
                "warning: {at}.allowPlaintext: `allowPlaintext` has no effect: TLS is on, or the host is this machine (remove it)"
            ),
        ),
    ] {
        tells(&orders, from, to, &expected);
    }
    takes(&orders, TLS, "          mode: disable\n          allowPlaintext: true\n");
    for host in ["localhost", "127.0.0.1", "\"::1\"", "/run/postgresql"] {
        takes(&orders.replacen("orders-db.example.com", host, 1), TLS, "          mode: disable\n");
    }
    for host in ["localhost.example.com", "10.0.0.1"] {
        let (lines, _) = said(&orders.replacen("orders-db.example.com", host, 1).replacen(
            TLS,
            "          mode: disable\n",
            1,
        ));
        assert!(
            lines.len() == 1 && lines[0].contains(&format!("on the way to {host} can read")),
            "{lines:?}"
        );
    }
}

#[test]
fn a_socket_has_no_tls() {
    let local = sample("postgres-in-place.yaml");
    let expected = "error: spec.target.postgres.endpoint.tls.mode: there is no TLS on a Unix socket (say `tls: {mode: disable}`)";
    tells(&local, "mode: disable", "mode: «require", expected);
    // Said nowhere: the field that would hold it is pointed at.
    let endpoint = "endpoint:\n        # A Unix socket: TLS is neither possible nor needed.\n        host: /run/postgresql\n        database: reports\n        tls:\n          mode: disable\n";
    tells(
        &local,
        endpoint,
        "«endpoint:\n        host: /run/postgresql\n        database: reports\n",
        expected,
    );
}

#[test]
fn users() {
    let orders = orders();
    let at = "spec.target.postgres.strategy.alternating";
    for (from, to, expected) in [
        (
            "[orders_a, orders_b]",
            "[orders_a, «orders_a]",
            format!("error: {at}.users[1]: both users are `orders_a` (name two users)"),
        ),
        (
            "[orders_a, orders_b]",
            "[orders_a, «pg_monitor]",
            format!(
                "error: {at}.users[1]: `pg_monitor` is a name that the database keeps to itself (use a role of the application's own)"
            ),
        ),
        (
            "[orders_a, orders_b]",
            "[«public, orders_b]",
            format!(
                "error: {at}.users[0]: `public` is a name that the database keeps to itself (use a role of the application's own)"
            ),
        ),
        (
            "[orders_app]",
            "[orders_app, «orders_b]",
            format!(
                "error: {at}.memberOf[1]: `orders_b` cannot be a member of itself (name the group role that both users belong to)"
            ),
        ),
        (
            "[orders_app]",
            "[orders_app, «orders_app]",
            format!("error: {at}.memberOf[1]: `orders_app` stands here twice (keep one of the two)"),
        ),
    ] {
        tells(&orders, from, to, &expected);
    }
}

/// The name behind an admin credential in a file is known; behind one in a store it is not, before it is read.
#[test]
fn the_admin_is_no_user() {
    let at = "spec.target.postgres.strategy";
    let admin = "`rekeyd_admin` is the user of the admin credential `local-admin` (use an admin that is not rotated by this policy)";
    let local = orders().replace("admin: orders-admin", "admin: local-admin");
    tells(&local, "orders_b]", "«rekeyd_admin]", &format!("error: {at}.alternating.users[1]: {admin}"));
    tells(
        &local,
        "[orders_app]",
        "[«rekeyd_admin]",
        &format!(
            "error: {at}.alternating.memberOf[0]: `rekeyd_admin` is the admin's user: its members could do whatever rekeyd can (name a group role with the application's rights)"
        ),
    );
    tells(
        &sample("postgres-in-place.yaml"),
        "user: reports\n",
        "user: «rekeyd_admin\n",
        &format!("error: {at}.inPlace.user: {admin}"),
    );
    takes(&orders(), "orders_b]", "rekeyd_admin]");
}

/// A server that cuts a name would change somebody else's, and one that refuses it would do so in the middle.
#[test]
fn names_are_as_long_as_the_server_takes() {
    let long = |length: usize| "n".repeat(length);
    let at = "spec.target";
    let alternating = "strategy.alternating";
    let iam = sample("aws-iam.yaml");
    let account = sample("kubernetes-service-account.yaml");
    let catalog = sample("mysql-alternating.yaml");
    for (policy, name, most, field, what) in [
        (&orders(), "orders_b", 63, format!("{at}.postgres.{alternating}.users[1]"), "63 bytes"),
        (&orders(), "orders_app", 63, format!("{at}.postgres.{alternating}.memberOf[0]"), "63 bytes"),
        (&catalog, "catalog_b", 80, format!("{at}.mysql.{alternating}.users[1]"), "80 characters"),
        (&iam, "reports-exports", 64, format!("{at}.awsIam.user"), "64 characters"),
        (
            &account,
            "deployer",
            63,
            format!("{at}.kubernetesServiceAccount.serviceAccount"),
            "63 characters of a label",
        ),
    ] {
        let from = [format!("{name}]"), format!(": {name}\n")].into_iter().find(|from| policy.contains(from));
        let from = from.expect("it stands there");
        takes(policy, &from, &from.replace(name, &long(most)));
        let longer = long(most + 1);
        let expected = format!(
            "error: {field}: `{longer}` is longer than the {what} that the server takes (use a shorter name)"
        );
        tells(policy, &from, &from.replace(name, &format!("«{longer}")), &expected);
    }
}

#[test]
fn accounts() {
    let catalog = sample("mysql-alternating.yaml");
    let at = "spec.target.mysql";
    for (from, to, expected) in [
        (
            "accountHost: 10.0.%",
            "accountHost: «\"10.0.'\"",
            format!(
                "error: {at}.accountHost: `10.0.'` is not the host part of an account (write it as `SHOW GRANTS` does: `%`, `10.0.0.%`, `app.example.com`)"
            ),
        ),
        (
            "accountHost: 10.0.%",
            "accountHost: «\"%%\"",
            format!(
                "error: {at}.accountHost: `%%` is not the host part of an account (write it as `SHOW GRANTS` does: `%`, `10.0.0.%`, `app.example.com`)"
            ),
        ),
        (
            "[catalog_a, catalog_b]",
            "[catalog_a, «mariadb.sys]",
            format!(
                "error: {at}.strategy.alternating.users[1]: `mariadb.sys` is a name that the database keeps to itself (use a role of the application's own)"
            ),
        ),
        (
            "database: catalog\n",
            "database: «\"\"\n",
            format!("error: {at}.endpoint.database: this text is empty (give it a text, or remove it)"),
        ),
        (
            TLS,
            "          mode: «disable\n",
            format!(
                "error: {at}.endpoint.tls.mode: without TLS, everybody on the way to catalog-db.example.com can read the value (use mode `verify-full`, or say `allowPlaintext: true` where the network protects it)"
            ),
        ),
        (
            "[catalog_app]",
            "[«catalog_b]",
            format!(
                "error: {at}.strategy.alternating.memberOf[0]: `catalog_b` cannot be a member of itself (name the group role that both users belong to)"
            ),
        ),
    ] {
        tells(&catalog, from, to, &expected);
    }
    tells(
        &sample("mysql-in-place.yaml"),
        "user: wiki\n",
        "user: «rekeyd_admin\n",
        &format!(
            "error: {at}.strategy.inPlace.user: `rekeyd_admin` is the user of the admin credential `local-admin` (use an admin that is not rotated by this policy)"
        ),
    );
}

#[test]
fn a_policy_in_a_cluster_makes_nothing_with_rekeyds_own_login() {
    for (name, field, what) in [
        ("vault-secret-id.yaml", "vault", "secret ids and tokens"),
        ("vault-token.yaml", "vault", "secret ids and tokens"),
        ("aws-iam.yaml", "awsIam", "access keys"),
    ] {
        let mut settings = sample_settings();
        let (cluster, namespaces) = ("main".parse().expect("a name"), Vec::new());
        settings.policies.resources = Some(ResourcesSettings { cluster, namespaces, confined: true });
        let text = Text { name: "RotationPolicy a/b".into(), text: sample(name).into(), since: now() };
        let found = lines(&load_policies(None, &[text], &settings, now()));
        let told = format!("spec.target.{field}: rekeyd makes {what} with its own login");
        assert!(found.iter().any(|line| line.contains(&told)), "{found:?}");
    }
}
