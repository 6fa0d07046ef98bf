//! A copy with moto in the place of AWS Secrets Manager: the real driver over real HTTP. What matters is held to in
//! `tests/it/consumer/aws`, on a service that is strict.

use rekeyd::consumer::copy::CopyConsumer;
use rekeyd::consumer::{Consumer as _, Published};
use rekeyd::failure::FailureClass;
use rekeyd::ident::Version;
use rekeyd::policy::spec::AwsCopySpec;
use rekeyd::store::Store as _;
use rekeyd::store::aws::AwsStore;
use serde_json::{Value, json};

use super::contract::{policy, publish, value};
use crate::moto::Account;

#[tokio::test]
async fn a_copy_follows_its_value() {
    let account = Account::new();
    let spec = json!({"store": "aws", "name": "team/orders/db"});
    let spec: AwsCopySpec = serde_json::from_value(spec).expect("a specification");
    let consumer = || {
        let store = AwsStore::open(&account.settings()).expect("a store");
        let place = store.copy_at(None, &spec.name).expect("it keeps copies");
        CopyConsumer::new(spec.content(), place).expect("a consumer")
    };
    for version in 1..4 {
        assert_eq!(publish(&consumer(), version).await, Ok(Published::Now));
        assert_eq!(publish(&consumer(), version).await, Ok(Published::Already(None)));
        let wanted = json!({"SecretId": "team/orders/db", "VersionStage": "AWSCURRENT"});
        let answer = account.call("GetSecretValue", &wanted);
        let data: Value = serde_json::from_str(answer["SecretString"].as_str().expect("text")).expect("JSON");
        let mark = format!("[rekeyd policy=contract/consumer version={version}]");
        assert_eq!(data, json!({"username": "app", "password": value(version), "rekeyd": mark}));
    }
    let failure = publish(&consumer(), 2).await.expect_err("an older version");
    assert_eq!(failure.class(), FailureClass::Conflict);
    assert_eq!(consumer().observe(&policy()).await.expect("observed").published, Version::new(3));
}
