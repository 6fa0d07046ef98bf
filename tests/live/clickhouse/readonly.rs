//! A server whose users are in a configuration file.

use rekeyd::failure::FailureClass;
use rekeyd::ident::Principal;
use rekeyd::policy::spec::{AlternatingSpec, ClickhouseSpec, ClickhouseStrategy, DualPasswordSpec};
use rekeyd::target::clickhouse::ClickhouseTarget;

use crate::clickhouse_contract::preflight::{failed, only};
use crate::clickhouse_contract::{Step, install, new};
use crate::clickhouse_nodes::Servers;
use crate::postgres_support::{known, plaintext};

/// One that is there, and one that would be made.
#[tokio::test(flavor = "multi_thread")]
async fn its_users_are_refused_with_what_to_do() {
    let servers = Servers::private(&["--read-only"]);
    let user = |name: &str| -> Principal { name.parse().expect("a principal") };
    let target = |strategy| {
        let spec = ClickhouseSpec {
            nodes: servers.nodes(1),
            tls: plaintext(),
            admin: "cache-admin".parse().expect("a label"),
            strategy,
            check: None,
        };
        ClickhouseTarget::new(spec, known(&servers.root))
    };
    let of_the_file = DualPasswordSpec { user: user("app") };
    let pair = AlternatingSpec { users: [user("app_a"), user("app_b")], member_of: Vec::new() };
    for (strategy, user) in [
        (ClickhouseStrategy::DualPassword(of_the_file), user("app")),
        (ClickhouseStrategy::Alternating(pair), user("app_a")),
    ] {
        let target = target(strategy);
        let failure = install(&target, &Step::new(1), &new(&user), None).await.expect_err("installed");
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(failure.reason().contains("cannot be changed by a statement"), "{failure}");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("users.xml")), "{failure:?}");
        let found = failed(&target, None).await;
        only(&found, &format!("user {user}"), "cannot be changed by a statement", "users.xml");
    }
}
