//! Keeping the two roles of a pair equal.

use rekeyd::failure::FailureClass;
use rekeyd::target::{Probe, ProbeDepth, Target as _};

use super::{install, remedy};
use crate::postgres_support::{Try, World, credential};

/// All that may differ between two roles and is to be equal.
const SHAPE: &str = "SELECT concat_ws(' ', rolinherit, rolcreaterole, rolcreatedb, rolconnlimit,
    coalesce(nullif(rolvaliduntil, 'infinity')::text, 'for ever'),
    (SELECT string_agg(format('%s/%s', roleid::regrole, admin_option), ',' ORDER BY roleid::regrole::text)
       FROM pg_auth_members WHERE member = r.oid),
    (SELECT string_agg(format('%s/%s', setdatabase, s), ',' ORDER BY setdatabase, s)
       FROM pg_db_role_setting, unnest(setconfig) s WHERE setrole = r.oid))
    FROM pg_roles r WHERE rolname = ";

/// A peer that has everything that can be copied.
const PEER: &str = r#"
    CREATE ROLE {p}_more NOLOGIN; CREATE ROLE {p}_most NOLOGIN;
    CREATE ROLE {p}_a LOGIN NOINHERIT CREATEDB CONNECTION LIMIT 17 VALID UNTIL '2099-01-01 00:00+00'
        IN ROLE {p}_group, {p}_more;
    GRANT {p}_most TO {p}_a WITH ADMIN OPTION;
    ALTER ROLE {p}_a SET role TO {p}_group;
    ALTER ROLE {p}_a SET search_path TO "$user", "Odd, ""one""", public;
    ALTER ROLE {p}_a SET work_mem TO '7MB';
    ALTER ROLE {p}_a IN DATABASE {p} SET statement_timeout TO '9s';
    ALTER ROLE {p}_a IN DATABASE {p} SET DateStyle TO 'ISO, DMY'"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_spare_is_made_like_its_peer() {
    let world = World::shared().await;
    world.sql(PEER).await;
    let target = world.target(world.alternating());
    let spare = credential(world.name("b").as_str());
    install(&target, &Try::new(1), &spare, Some(&world.name("a"))).await.expect("installed");
    let [a, b] =
        [world.row(&format!("{SHAPE}'{{p}}_a'")).await, world.row(&format!("{SHAPE}'{{p}}_b'")).await];
    assert_eq!(a, b);
    assert!(a.contains("statement_timeout=9s") && a.contains("_most/t"), "{a}");
    assert_eq!(target.probe(&spare, ProbeDepth::Check).await, Probe::Accepted);

    let session = world.connect(&spare).await.expect("a session");
    let row = session.query_one("SELECT current_user::text, current_setting('search_path')", &[]).await;
    let row = row.expect("a row");
    assert_eq!(row.get::<_, String>(0), world.name("group").as_str());
    assert_eq!(row.get::<_, String>(1), r#""$user", "Odd, ""one""", public"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_role_is_made_a_member_of_its_groups() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    let first = credential(world.name("a").as_str());
    install(&target, &Try::new(1), &first, None).await.expect("installed");
    let groups = "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = '{p}_a'::regrole";
    assert_eq!(world.rows(groups).await, [world.name("group").as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_that_drifted_is_repaired_and_its_peer_left_alone() {
    let world = World::shared().await;
    world.sql(PEER).await;
    world
        .sql(
            "CREATE ROLE {p}_payroll NOLOGIN;
             CREATE ROLE {p}_b CREATEROLE VALID UNTIL '2020-01-01' IN ROLE {p}_payroll;
             GRANT {p}_more TO {p}_b WITH ADMIN OPTION;
             ALTER ROLE {p}_b SET work_mem TO '1GB'; ALTER ROLE {p}_b SET log_parser_stats TO on;
             ALTER ROLE {p}_b IN DATABASE postgres SET work_mem TO '2GB'",
        )
        .await;
    let target = world.target(world.alternating());
    let (a, b) = (world.name("a"), credential(world.name("b").as_str()));
    let before = world.row(&format!("{SHAPE}'{{p}}_a'")).await;

    // Only a superuser may take back what only a superuser may set.
    let failure = install(&target, &Try::new(1), &b, Some(&a)).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.reason().starts_with("the setting log_parser_stats"), "{failure}");
    assert!(remedy(&failure).contains("RESET \"log_parser_stats\""), "{failure:?}");
    let untouched = "SELECT rolcreaterole FROM pg_roles WHERE rolname = '{p}_b'";
    assert_eq!(world.row(untouched).await, "t", "it is one transaction");

    world.sql("ALTER ROLE {p}_b RESET log_parser_stats").await;
    install(&target, &Try::new(1), &b, Some(&a)).await.expect("installed");
    assert_eq!(world.row(&format!("{SHAPE}'{{p}}_b'")).await, before);
    assert_eq!(world.row(&format!("{SHAPE}'{{p}}_a'")).await, before);
    assert_eq!(target.probe(&b, ProbeDepth::Check).await, Probe::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_only_a_superuser_may_copy_is_named_as_a_statement() {
    let world = World::shared().await;
    world.sql(r"CREATE ROLE {p}_a LOGIN; ALTER ROLE {p}_a SET app.tenant TO 'o''neill \1'").await;
    let target = world.target(world.alternating());
    let (a, b) = (world.name("a"), credential(world.name("b").as_str()));
    let failure = install(&target, &Try::new(1), &b, Some(&a)).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    let statement = remedy(&failure).strip_prefix("as a superuser: ").expect("a statement");
    assert_eq!(world.rows("SELECT rolname FROM pg_roles WHERE rolname = '{p}_b'").await, [""; 0]);

    world.sql("CREATE ROLE {p}_b NOLOGIN").await;
    world.sql(statement).await;
    install(&target, &Try::new(1), &b, Some(&a)).await.expect("installed");
    let [a, b] =
        [world.row(&format!("{SHAPE}'{{p}}_a'")).await, world.row(&format!("{SHAPE}'{{p}}_b'")).await];
    assert!(b.contains("app.tenant=o'neill"), "{a} {b}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_that_only_an_owner_can_mend_is_named_before_anything_is_changed() {
    let world = World::shared().await;
    world
        .sql(
            "CREATE ROLE {p}_a LOGIN IN ROLE {p}_group; CREATE ROLE {p}_b NOLOGIN;
             CREATE SCHEMA shop; CREATE TABLE shop.orders (id int, secret text);
             ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY",
        )
        .await;
    let target = world.target(world.alternating());
    let (a, b) = (world.name("a"), credential(world.name("b").as_str()));
    let cases = [
        ("ALTER TABLE shop.orders OWNER TO {p}_a", "_a owns table shop.orders", "REASSIGN OWNED BY"),
        ("ALTER SCHEMA shop OWNER TO {p}_b", "_b owns schema shop", "REASSIGN OWNED BY"),
        (
            "GRANT SELECT ON shop.orders TO {p}_a",
            "_a alone was granted table shop.orders",
            "GRANT the privilege to",
        ),
        ("GRANT USAGE ON SCHEMA shop TO {p}_a", "_a alone was granted schema shop", "GRANT the privilege to"),
        ("GRANT CONNECT ON DATABASE {p} TO {p}_a", "_a alone was granted database", "GRANT the privilege to"),
        (
            "GRANT SELECT (id) ON shop.orders TO {p}_a",
            "_a alone was granted column id of table shop.orders",
            "GRANT the privilege to",
        ),
        (
            "GRANT SELECT ON shop.orders TO {p}_a, {p}_b; GRANT UPDATE ON shop.orders TO {p}_a",
            "_a alone was granted update on table shop.orders",
            "GRANT the privilege to",
        ),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO {p}_a",
            "_a alone was granted default privileges",
            "GRANT the privilege to",
        ),
        (
            "CREATE POLICY own ON shop.orders TO {p}_a USING (true)",
            "_a alone is named in policy own on table shop.orders",
            "ALTER the POLICY",
        ),
    ];
    for (drift, expected, mend) in cases {
        world.sql("BEGIN").await;
        world.sql(drift).await;
        world.sql("COMMIT").await;
        let failure = install(&target, &Try::new(1), &b, Some(&a)).await.expect_err(drift);
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(failure.reason().contains(expected), "{drift}: {failure}");
        assert!(remedy(&failure).contains(mend), "{drift}: {failure:?}");
        let untouched = "SELECT rolcanlogin FROM pg_roles WHERE rolname = '{p}_b'";
        assert_eq!(world.row(untouched).await, "f", "{drift}");
        world
            .sql(
                "ALTER TABLE shop.orders OWNER TO postgres; ALTER SCHEMA shop OWNER TO postgres;
                 DROP POLICY IF EXISTS own ON shop.orders; DROP OWNED BY {p}_a, {p}_b",
            )
            .await;
    }
    // What both hold alike is no drift.
    world.sql("GRANT SELECT, UPDATE ON shop.orders TO {p}_a, {p}_b").await;
    install(&target, &Try::new(1), &b, Some(&a)).await.expect("installed");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_in_another_database_is_found() {
    let world = World::shared().await;
    world.sql("CREATE ROLE {p}_a LOGIN").await;
    world.sql("CREATE DATABASE {p}_other OWNER {p}_a").await;
    let target = world.target(world.alternating());
    let (a, b) = (world.name("a"), credential(world.name("b").as_str()));
    let failure = install(&target, &Try::new(1), &b, Some(&a)).await.expect_err("refused");
    assert!(failure.reason().contains("owns database"), "{failure}");
    world.sql("ALTER DATABASE {p}_other OWNER TO postgres").await;

    let other = world.server.superuser(world.name("other").as_str()).await;
    other
        .batch_execute(&format!("CREATE TABLE t AS SELECT 1; GRANT SELECT ON t TO {a}"))
        .await
        .expect("a grant");
    let failure = install(&target, &Try::new(1), &b, Some(&a)).await.expect_err("refused");
    assert!(failure.reason().contains("an object in database"), "{failure}");
    drop(other);
    world.sql("DROP DATABASE {p}_other WITH (FORCE)").await;
    install(&target, &Try::new(1), &b, Some(&a)).await.expect("installed");
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_the_admin_may_not_set_are_named() {
    let world = World::shared().await;
    world.sql("CREATE ROLE {p}_a LOGIN REPLICATION BYPASSRLS IN ROLE {p}_group").await;
    let target = world.target(world.alternating());
    let (a, b) = (world.name("a"), credential(world.name("b").as_str()));
    let failure = install(&target, &Try::new(1), &b, Some(&a)).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert_eq!(
        remedy(&failure),
        format!("as a superuser: ALTER ROLE \"{}\" REPLICATION BYPASSRLS", b.principal)
    );
    assert_eq!(world.rows("SELECT rolname FROM pg_roles WHERE rolname = '{p}_b'").await, [""; 0]);

    world.sql("ALTER ROLE {p}_admin SUPERUSER").await;
    install(&target, &Try::new(1), &b, Some(&a)).await.expect("a superuser's admin repairs it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_group_or_peer_is_named() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    let (a, b) = (world.name("a"), credential(world.name("b").as_str()));
    let failure = install(&target, &Try::new(1), &b, Some(&a)).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(
        failure.reason().contains(&format!("the role {a}, whose turn it was, does not exist")),
        "{failure}"
    );

    world.sql("DROP ROLE {p}_group").await;
    let first = credential(a.as_str());
    let failure = install(&target, &Try::new(1), &first, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert_eq!(remedy(&failure), format!("CREATE ROLE \"{}\" NOLOGIN", world.name("group")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_in_use_is_described() {
    let world = World::shared().await;
    let target = world.target(world.alternating());
    let a = credential(world.name("a").as_str());
    install(&target, &Try::new(1), &a, None).await.expect("installed");
    let _one = world.connect(&a).await.expect("a session");
    let _two = world.connect(&a).await.expect("a session");
    let next = credential(world.name("a").as_str());
    let failure = install(&target, &Try::new(2), &next, None).await.expect_err("refused");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    let reason = failure.reason();
    assert!(reason.contains("2 open sessions: the test at a local socket"), "{reason}");
}
