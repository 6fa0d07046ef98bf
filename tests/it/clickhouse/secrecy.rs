//! No value is in a statement, in an address or in what is told of a failure.

use rekeyd::target::{Extent, ProbeDepth, Target as _};

use super::{PASSWORD, dual, name, pair};
use crate::clickhouse_contract::{Step, done, install, new, retire, turn};
use crate::clickhouse_server::Fault;

#[tokio::test]
async fn values_go_in_the_header_of_a_login_and_nowhere_else() {
    let (server, target) = dual().await;
    let (other, pair) = pair().await;
    let (first, second) = (new(&name("app_one")), new(&name("app_one")));
    let (a, b) = (new(&name("app_a")), new(&name("app_b")));
    done(install(&target, &Step::new(1), &first, None).await);
    let step = Step::new(2);
    let mut told = Vec::new();
    for code in [62, 497, 999, 192] {
        server.fault("IDENTIFIED WITH", Fault::Error(code));
        told.push(format!("{:?}", install(&target, &step, &second, Some(&first)).await));
    }
    done(install(&target, &step, &second, Some(&first)).await);
    target.probe(&second, ProbeDepth::Check).await;
    retire(&target, &step, &name("app_one"), Extent::OtherValues, Some(&second)).await.expect("retired");
    done(install(&pair, &Step::new(1), &a, None).await);
    done(turn(&pair, &Step::new(2), &b, &name("app_a")).await);

    let seen: Vec<String> =
        [&server, &other].iter().flat_map(|server| server.tables().seen.clone()).collect();
    assert!(seen.iter().any(|request| request.contains("sha256_hash BY")));
    for request in &seen {
        assert!(request.starts_with("POST / HTTP/1.1\n"), "{request}");
    }
    for text in seen.iter().chain(&told) {
        assert!(!text.contains(PASSWORD), "{text}");
        for credential in [&first, &second, &a, &b] {
            assert!(!credential.value.occurs_in(text), "{text}");
        }
    }
    for text in &told {
        assert!(!text.contains("sha256_hash") && !text.contains("SALT"), "{text}");
    }
}

/// Two users with one value are not seen to have it, and neither is one before and after.
#[tokio::test]
async fn each_hash_has_a_salt_of_its_own() {
    let (server, target) = dual().await;
    let first = new(&name("app_one"));
    done(install(&target, &Step::new(1), &first, None).await);
    let before = server.user("app_one").ways;
    done(install(&target, &Step::new(2), &new(&name("app_one")), Some(&first)).await);
    let after = server.user("app_one").ways;
    assert_eq!((before.len(), after.len()), (1, 2));
    let salts: std::collections::BTreeSet<_> = before.iter().chain(&after).map(|way| &way.salt).collect();
    let hashes: std::collections::BTreeSet<_> = before.iter().chain(&after).map(|way| &way.hash).collect();
    assert_eq!((salts.len(), hashes.len()), (3, 3));
    assert!(salts.iter().all(|salt| salt.len() == 64));
}
