//! What two policies may not share.

use jiff::Timestamp;
use rekeyd::policy::load::{Loaded, Text, load_policies, parse_policies};

use super::{generated, lines, now, orders, sample, sample_settings, write};

/// The second sample policy made into one that shares nothing with the first.
fn other() -> String {
    [
        ("name: orders-db", "name: billing-db"),
        ("[orders_a, orders_b]", "[billing_a, billing_b]"),
        ("path: apps/orders/db", "path: apps/billing/db"),
        ("path: /run/orders/db.env", "path: /run/billing/db.env"),
    ]
    .into_iter()
    .fold(orders(), |text, (from, to)| text.replacen(from, to, 1))
}

/// Reads the sample and another policy, changed, from two documents.
fn both(changes: &[(&str, &str)]) -> Loaded {
    let other = changes.iter().fold(other(), |text, (from, to)| {
        assert!(text.contains(from), "the policy does not hold {from:?}");
        text.replacen(from, to, 1)
    });
    parse_policies("p.yaml", &format!("{}---\n{other}", orders()), &sample_settings(), now())
}

/// Neither is given, and the second is told where the first is.
#[track_caller]
fn dispute(changes: &[(&str, &str)], expected: &str) {
    let loaded = both(changes);
    let lines = lines(&loaded);
    assert!(lines.len() == 1 && lines[0].contains(expected), "{lines:#?}");
    assert!(loaded.policies.is_empty());
    // The first is in the first document and the second in the second.
    let length = orders().matches('\n').count();
    let line =
        |place: &str| place.split(':').nth(1).and_then(|line| line.parse::<usize>().ok()).expect("a line");
    let (second, first) = (
        line(&lines[0]),
        line(
            lines[0]
                .split_once("at p.yaml")
                .expect("the other")
                .1
                .split(' ')
                .next()
                .map(|p| format!("p{p}"))
                .as_deref()
                .expect("a place"),
        ),
    );
    assert!(first <= length && second > length, "{lines:#?}");
}

#[test]
fn policies_that_share_nothing_stand_together() {
    let loaded = both(&[]);
    assert_eq!(lines(&loaded), Vec::<String>::new());
    assert_eq!(loaded.policies.len(), 2);
}

#[test]
fn a_name() {
    dispute(
        &[("name: billing-db", "name: orders-db")],
        ": error: metadata.name: the policy `orders/orders-db` is already at p.yaml:8:9 (rename one of the two, or use another namespace)",
    );
    let loaded =
        both(&[("name: billing-db", "name: orders-db"), ("namespace: orders", "namespace: billing")]);
    assert_eq!(lines(&loaded), Vec::<String>::new());
}

/// A resource of a cluster that claims a path of the store, made at a second.
fn resource(name: &str, second: i64) -> Text {
    let document = serde_json::json!({
        "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationPolicy",
        "metadata": {"name": name, "namespace": "orders"},
        "spec": {"target": {"generated": {}}, "store": {"name": "bao", "path": "apps/orders/db"}},
    });
    Text {
        name: format!("RotationPolicy orders/{name}"),
        text: document.to_string().into(),
        since: Timestamp::from_second(second).expect("a moment"),
    }
}

/// However they are read: a later claim takes nothing away from whoever was there, also after a restart.
#[test]
fn what_two_resources_claim_belongs_to_the_one_that_was_there_first() {
    for texts in [
        [resource("a", 20), resource("b", 10), resource("c", 30)],
        [resource("c", 30), resource("a", 20), resource("b", 10)],
        [resource("b", 10), resource("c", 30), resource("a", 20)],
    ] {
        let loaded = load_policies(None, &texts, &sample_settings(), now());
        let given: Vec<_> = loaded.policies.iter().map(|policy| policy.name().to_string()).collect();
        assert_eq!(given, ["orders/b"], "{:#?}", lines(&loaded));
        let lines = lines(&loaded);
        for (line, name) in lines.iter().zip(["a", "c"]) {
            assert!(line.starts_with(&format!("RotationPolicy orders/{name}:")), "{line}");
            assert!(line.contains("already belongs to"), "{line}");
        }
        assert!(lines.len() >= 2, "{lines:#?}");
    }
    // Of one second: neither, and both are told.
    let texts = [resource("a", 10), resource("b", 10)];
    let loaded = load_policies(None, &texts, &sample_settings(), now());
    assert!(loaded.policies.is_empty());
    let told: Vec<_> = loaded.diagnostics.iter().map(|diagnostic| diagnostic.file.to_string()).collect();
    assert_eq!(told, ["RotationPolicy orders/a", "RotationPolicy orders/b"]);
    // A file is the operator's, and before all of them.
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("orders.yaml"), &orders());
    let loaded = load_policies(Some(folder.path()), &[resource("a", 0)], &sample_settings(), now());
    let given: Vec<_> = loaded.policies.iter().map(|policy| policy.name().to_string()).collect();
    assert_eq!(given, ["orders/orders-db"], "{:#?}", lines(&loaded));
}

#[test]
fn a_path_of_a_store() {
    dispute(
        &[("path: apps/billing/db", "path: apps/orders/db")],
        ": error: spec.store.path: the path `apps/orders/db` of this store already belongs to `orders/orders-db`, at p.yaml:",
    );
    assert_eq!(
        lines(&both(&[("path: apps/billing/db", "path: apps/orders/db"), ("name: bao", "name: local")])),
        Vec::<String>::new()
    );
}

/// Two names for one store do not make two stores.
#[test]
fn a_path_of_a_store_under_two_names() {
    let mut settings = sample_settings();
    let bao = settings.stores[&"bao".parse().expect("a name")].clone();
    settings.stores.insert("vault".parse().expect("a name"), bao);
    let other = other().replacen("name: bao", "name: vault", 1).replacen(
        "path: apps/billing/db",
        "path: apps/orders/db",
        1,
    );
    let loaded = parse_policies("p.yaml", &format!("{}---\n{other}", orders()), &settings, now());
    assert_eq!(lines(&loaded).len(), 1, "{:?}", lines(&loaded));
    let mut embedded = |name: &str, path: &str| {
        let store = serde_json::json!({"embedded": {"path": path, "key": {"file": "/etc/rekeyd/store.key"}}});
        settings
            .stores
            .insert(name.parse().expect("a name"), serde_json::from_value(store).expect("a store"));
    };
    embedded("near", "/var/lib/rekeyd/store.db");
    embedded("far", "/var/lib/rekeyd/sub/.././store.db");
    let near = orders().replacen("name: bao", "name: near", 1);
    let far = other.replacen("name: vault", "name: far", 1);
    let loaded = parse_policies("p.yaml", &format!("{near}---\n{far}"), &settings, now());
    assert!(lines(&loaded)[0].contains("spec.store.path"), "{:?}", lines(&loaded));
    let other = other.replacen("path: apps/orders/db", "path: platform/orders-db/admin", 1);
    let loaded = parse_policies("p.yaml", &other, &settings, now());
    assert!(lines(&loaded)[0].contains("holds the credential `orders-admin`"), "{:?}", lines(&loaded));
}

#[test]
fn a_user_of_a_server() {
    let taken = ": error: spec.target.postgres.strategy.alternating.users[0]: the user `orders_b` of orders-db.example.com:5432 is already rotated by `orders/orders-db`, at p.yaml:";
    dispute(&[("billing_a", "orders_b")], taken);
    // Another way to write the host, and another database on it.
    dispute(
        &[
            ("billing_a", "orders_b"),
            ("host: orders-db.example.com", "host: Orders-DB.example.com."),
            ("database: orders\n", "database: billing\n"),
        ],
        taken,
    );
    for elsewhere in [
        ("host: orders-db.example.com", "host: other.example.com"),
        ("host: orders-db.example.com\n", "host: orders-db.example.com\n        port: 5433\n"),
    ] {
        assert_eq!(lines(&both(&[("billing_a", "orders_b"), elsewhere])), Vec::<String>::new());
    }
}

/// The users of a replicated set are each node's own.
#[test]
fn a_user_of_any_node() {
    let cache = sample("redis.yaml");
    let other = |user: &str| {
        cache
            .replace("name: shop-cache", "name: other-cache")
            .replace("path: shop/cache", "path: other/cache")
            .replace("/var/lib/shop/cache.env", "/var/lib/other/cache.env")
            .replace("host: a.cache.example.com", "host: C.cache.example.com.")
            .replace("user: shop\n", &format!("user: {user}\n"))
    };
    let both =
        |user| parse_policies("p.yaml", &format!("{cache}---\n{}", other(user)), &sample_settings(), now());
    let taken = "the user `shop` of b.cache.example.com:6379 is already rotated by `shop/shop-cache`";
    let told = lines(&both("shop"));
    assert!(told.len() == 1 && told[0].contains(taken), "{told:?}");
    assert_eq!(lines(&both("another")), Vec::<String>::new());
}

/// The same with two users, on one node that both policies name.
#[test]
fn a_pair_of_any_node() {
    let pair = sample("clickhouse-alternating.yaml");
    let other = |users: &str| {
        pair.replace("name: reports-olap", "name: other-olap")
            .replace("path: apps/reports/olap", "path: apps/other/olap")
            .replace("secret: reports-olap", "secret: other-olap")
            .replace("host: olap-1.cache.example.com", "host: OLAP-3.cache.example.com.")
            .replace("[reports_a, reports_b]", users)
    };
    let both =
        |users| parse_policies("p.yaml", &format!("{pair}---\n{}", other(users)), &sample_settings(), now());
    let taken =
        "the user `reports_b` of olap-2.cache.example.com:8443 is already rotated by `reports/reports-olap`";
    let told = lines(&both("[others_a, reports_b]"));
    assert!(told.len() == 1 && told[0].contains(taken), "{told:?}");
    assert_eq!(lines(&both("[others_a, others_b]")), Vec::<String>::new());
}

#[test]
fn a_user_of_this_machine() {
    let at = |host: &str, name: &str| {
        sample("postgres-in-place.yaml")
            .replace("/run/postgresql", host)
            .replace("name: reports-db", &format!("name: {name}"))
            .replace("path: reports/db", &format!("path: {name}/db"))
            .replace("path: /var/lib/reports/.pgpass", &format!("path: /var/lib/{name}/.pgpass"))
    };
    let taken = "the user `reports` of localhost:5432 is already rotated by `reports/a`";
    for (one, other) in [
        ("localhost", "127.0.0.1"),
        ("/run/postgresql", "/var/run/postgresql/"),
        ("/run/postgresql", "localhost"),
        ("::1", "::ffff:127.0.0.1"),
    ] {
        let text = format!("{}---\n{}", at(one, "a"), at(other, "b"));
        let loaded = parse_policies("p.yaml", &text, &sample_settings(), now());
        assert!(
            lines(&loaded).iter().any(|line| line.contains(taken)),
            "{one} and {other}: {:?}",
            lines(&loaded)
        );
    }
    let text = format!("{}---\n{}", at("/run/postgresql", "a"), at("/run/another", "b"));
    assert_eq!(lines(&parse_policies("p.yaml", &text, &sample_settings(), now())), Vec::<String>::new());
}

#[test]
fn a_file() {
    dispute(
        &[("path: /run/billing/db.env", "path: /run//orders/./db.env")],
        ": error: spec.consumers[0].file.path: the file `/run//orders/./db.env` is already written by `orders/orders-db`, at p.yaml:",
    );
}

#[test]
fn a_file_within_one_policy() {
    let consumer = "    - file:\n        path: /run/shop/session.toml\n        content: \"{{ value }}\"\n";
    let text = generated().replace("  consumers:\n", &format!("  consumers:\n{consumer}"));
    let loaded = parse_policies("p.yaml", &text, &sample_settings(), now());
    let lines = lines(&loaded);
    assert!(lines.len() == 1 && lines[0].contains("spec.consumers[1].file.path: the file `/run/shop/session.toml` is already written by `shop/session-key`, at p.yaml:"), "{lines:?}");
    assert!(loaded.policies.is_empty());
}

#[test]
fn a_secret() {
    let shop = sample("postgres-kubernetes.yaml");
    let other = shop
        .replace("name: shop-db\n  namespace: shop\n", "name: other\n  namespace: elsewhere\n")
        .replace("path: apps/shop/db", "path: apps/other/db")
        .replace("shop_a, shop_b", "other_a, other_b")
        .replace(
            "    - kubernetes:\n        secret: shop-db\n",
            "    - kubernetes:\n        namespace: shop\n        secret: shop-db\n",
        );
    let loaded = parse_policies("p.yaml", &format!("{shop}---\n{other}"), &sample_settings(), now());
    let lines = lines(&loaded);
    // Its own namespace is the first one's; the second names it.
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (index, secret) in ["shop/shop-db", "shop-edge/shop-db"].iter().enumerate() {
        let told = format!(
            "spec.consumers[{index}].kubernetes.secret: the Secret `{secret}` is already written by `shop/shop-db`, at p.yaml:"
        );
        assert!(lines[index].contains(&told), "{lines:?}");
    }
    let apart = other.replace("        namespace: shop\n", "").replace("cluster: edge", "cluster: main");
    let loaded = parse_policies("p.yaml", &format!("{shop}---\n{apart}"), &sample_settings(), now());
    assert_eq!(self::lines(&loaded), Vec::<String>::new());
}

#[test]
fn a_credential_of_jenkins() {
    let one = sample("jenkins.yaml");
    let other = |url: &str, folder: &str| {
        one.replace("name: deploy-db\n", "name: other\n")
            .replace("path: delivery/deploy-db\n", "path: delivery/other\n")
            .replace("deploy_a, deploy_b", "other_a, other_b")
            .replace("url: https://ci.example.com/jenkins", &format!("url: {url}"))
            .replace("folder: delivery/releases", &format!("folder: {folder}"))
    };
    let found = |other: String| {
        lines(&parse_policies("p.yaml", &format!("{one}---\n{other}"), &sample_settings(), now()))
    };
    for url in ["https://ci.example.com/jenkins/", "https://CI.example.com.:443/jenkins"] {
        let lines = found(other(url, "/delivery/releases/"));
        let of_conflict: Vec<_> = lines.iter().filter(|line| line.contains("already written")).collect();
        assert_eq!(of_conflict.len(), 3, "{lines:#?}");
        for (index, id) in ["deploy-db", "deploy-db-env", "deploy-db-url"].iter().enumerate() {
            let told = format!(
                "spec.consumers[{index}].jenkins.id: the credential `{id}` of this Jenkins is already written by `delivery/deploy-db`, at p.yaml:"
            );
            assert!(of_conflict[index].contains(&told), "{lines:#?}");
        }
    }
    assert_eq!(found(other("https://ci.example.com/jenkins", "delivery/other")), Vec::<String>::new());
    assert_eq!(found(other("https://ci.example.com/other", "delivery/releases")), Vec::<String>::new());
}

/// Whatever the recipe is called, and however the server is written.
#[test]
fn a_place_told_by_a_recipe() {
    let one = sample("gitlab-ci.yaml");
    let other = one
        .replace("name: signing-key\n", "name: other\n")
        .replace("path: delivery/signing-key", "path: delivery/other");
    let found = |other: String| {
        lines(&parse_policies("p.yaml", &format!("{one}---\n{other}"), &sample_settings(), now()))
    };
    let ours = sample("recipes/gitlab-variable.yaml").replace("{name: gitlab-variable}", "{name: ours}");
    for other in [
        other.replace("base: https://gitlab.example.com", "base: https://GitLab.example.com:443/"),
        format!("{}---\n{ours}", other.replace("recipe: gitlab-variable", "recipe: ours")),
    ] {
        let lines = found(other);
        let told = "spec.consumers[0].http: GitLab variable SIGNING_KEY of project 17 for production is already written by `delivery/signing-key`, at p.yaml:";
        assert!(lines.len() == 1 && lines[0].contains(told), "{lines:#?}");
    }
    for (from, to) in [
        ("scope: production", "scope: staging"),
        ("key: SIGNING_KEY", "key: OTHER"),
        ("project: 17", "project: 18"),
    ] {
        assert_eq!(found(other.replace(from, to)), Vec::<String>::new(), "{to}");
    }
    // GitHub's names are one in upper and lower case.
    let one = sample("github-actions.yaml");
    let other = one
        .replace("name: releases-db\n", "name: other\n")
        .replace("path: delivery/releases-db", "path: delivery/other")
        .replace("releases_a, releases_b", "other_a, other_b")
        .replace("owner: example\n", "owner: Example\n")
        .replace("name: RELEASES_DB_URL", "name: releases_db_url");
    let lines = lines(&parse_policies("p.yaml", &format!("{one}---\n{other}"), &sample_settings(), now()));
    assert_eq!(lines.iter().filter(|line| line.contains("already written by")).count(), 2, "{lines:#?}");
}

#[test]
fn across_files_each_but_the_first_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a.yaml", "b.yaml", "c/d.yaml"] {
        write(&folder.path().join(name), &generated());
    }
    let loaded = load_policies(Some(folder.path()), &[], &sample_settings(), now());
    assert!(loaded.policies.is_empty());
    let lines = lines(&loaded);
    // The name, the path in the store and the file, for two of the three.
    assert_eq!(lines.len(), 6, "{lines:#?}");
    let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    assert!(lines[0].starts_with(&format!("{}:8:9: error: metadata.name: ", b.display())), "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains(&format!(" at {}", a.display()))), "{lines:#?}");
}

/// An account is one, wherever its server is named from and whatever it changes by.
#[test]
fn an_account() {
    let one = sample("mysql-in-place.yaml");
    let two = sample("mysql-dual-password.yaml")
        .replacen("host: search-db.example.com", "host: localhost", 1)
        .replacen("user: search", "user: wiki", 1);
    let loaded = parse_policies("p.yaml", &format!("{one}---\n{two}"), &sample_settings(), now());
    let lines = lines(&loaded);
    let expected = "the user `wiki` of localhost:3306 is already rotated by `wiki/wiki-db`";
    assert!(lines.len() == 1 && lines[0].contains(expected), "{lines:#?}");
}
