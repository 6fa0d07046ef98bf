//! The tokens of service accounts of a real cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::ident::Principal;
use rekeyd::kubernetes::Clusters;
use rekeyd::policy::spec::{BoundSpec, Interval, LongLivedSpec, ServiceAccountSpec, ServiceAccountStrategy};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::settings::{ClusterSettings, KubeconfigSettings, LimitSettings};
use rekeyd::target::service_account::ServiceAccountTarget;
use rekeyd::target::{Extent, MintRequest, PreflightRequest, Probe, ProbeDepth, Target as _};
use serde_json::{Value, json};

use crate::installation::{Installation, read};
use crate::keys_contract::{self as contract, KeysBench, Step, Ways};
use crate::kubernetes::{Cluster, Namespace, PATIENCE};
use crate::site::credential_in;

const POLICY: &str = "orders/deployer";

struct Bench {
    cluster: Cluster,
    space: Namespace,
    target: ServiceAccountTarget,
}

fn long_lived() -> ServiceAccountStrategy {
    ServiceAccountStrategy::LongLived(LongLivedSpec {})
}

fn bound() -> ServiceAccountStrategy {
    let expiration = Interval::from_duration(std::time::Duration::from_secs(3_600));
    ServiceAccountStrategy::Bound(BoundSpec { expiration })
}

impl Bench {
    async fn new(strategy: ServiceAccountStrategy) -> Self {
        let cluster = Cluster::shared();
        let space = cluster.namespace().await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "deployer"}});
        space.create(&account).await;
        let main: rekeyd::ident::DnsLabel = "main".parse().expect("a name");
        let kubeconfig = KubeconfigSettings { path: cluster.kubeconfig.clone(), context: None };
        let settings = BTreeMap::from([(main.clone(), ClusterSettings::Kubeconfig(kubeconfig))]);
        let clusters = Arc::new(Clusters::new(&settings, LimitSettings::default()));
        let spec = ServiceAccountSpec {
            cluster: main,
            namespace: Some(space.name.parse().expect("a label")),
            service_account: "deployer".parse().expect("a name"),
            strategy,
        };
        Self { target: ServiceAccountTarget::new(spec, clusters), cluster, space }
    }
}

#[async_trait]
impl KeysBench for Bench {
    type Target = ServiceAccountTarget;

    fn target(&self) -> &ServiceAccountTarget {
        &self.target
    }

    fn owner(&self) -> Principal {
        "deployer".parse().expect("a name")
    }

    fn ways(&self) -> Ways {
        Ways { quota: None, tags: true, disables: false, refuses_disabled: false }
    }

    async fn by_hand(&self) -> Credential {
        let annotations = json!({"kubernetes.io/service-account.name": "deployer"});
        self.space
            .create(&json!({
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
                "metadata": {"name": "by-hand", "annotations": annotations},
            }))
            .await;
        // Kubernetes fills it.
        self.space.kubectl(&["wait", "secret/by-hand", "--for=jsonpath={.data.token}", PATIENCE]).await;
        let secret = self.space.read("secret/by-hand").await;
        Credential::new("by-hand".parse().expect("a name"), decoded(&secret["data"]["token"]))
    }

    /// Whoever dies there leaves the Secret.
    async fn lose_the_answer(&self, request: MintRequest<'_>) -> Failure {
        self.target.mint(request).await.expect("a token");
        Failure::new(FailureClass::Ambiguous, "make a token", "the answer is lost")
    }

    async fn wait(&self) {
        // The API server forgets within ten seconds that it took a token.
        let pause = std::time::Duration::from_millis(300);
        let _ = tokio::time::timeout(pause, std::future::pending::<()>()).await;
    }
}

fn decoded(text: &Value) -> SecretValue {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    SecretValue::new(engine.decode(text.as_str().expect("a text")).expect("base64"))
}

/// Of both kinds at a time: what takes seconds is the API server's memory.
#[tokio::test(flavor = "multi_thread")]
async fn promises_of_keys_are_kept() {
    macro_rules! promises {
        ($($promise:ident)+) => {
            tokio::join!($(async {
                tokio::join!(
                    async { contract::$promise(&Bench::new(long_lived()).await).await },
                    async { contract::$promise(&Bench::new(bound()).await).await },
                );
            }),+)
        };
    }
    promises! {
        a_key_is_accepted_and_listed
        both_keys_work_until_one_is_retired
        only_the_very_value_is_accepted
        a_key_whose_answer_was_lost_is_found
        a_key_of_somebody_elses_is_none_of_rekeyds
        a_key_goes_as_a_whole
        nobody_uses_a_new_key
        retiring_again_or_what_is_not_there_is_right
        a_disabled_key_can_still_be_deleted
        a_full_owner_keeps_its_keys
        a_preflight_changes_nothing
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_a_token_of_the_account_is_deleted() {
    let bench = Bench::new(long_lived()).await;
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "orders-db"}});
    bench.space.create(&other).await;
    let step = Step::new(1);
    let named = Credential::new("orders-db".parse().expect("a name"), SecretValue::new(b"x".to_vec()));
    let failure = contract::retire(&bench, &step, &named, Extent::Principal, None).await;
    assert_eq!(failure.expect_err("it is another's").class(), FailureClass::Conflict);
    assert_eq!(bench.space.read("secret/orders-db").await["metadata"]["name"], "orders-db");
    // A name that none can have is gone already.
    let odd = Credential::new("orders/db".parse().expect("a name"), SecretValue::new(b"x".to_vec()));
    contract::retire(&bench, &step, &odd, Extent::Principal, None).await.expect("nothing to delete");
    assert_eq!(bench.target.probe(&odd, ProbeDepth::Login).await, Probe::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_not_there_gets_no_token() {
    let bench = Bench::new(bound()).await;
    bench.space.kubectl(&["delete", "serviceaccount", "deployer"]).await;
    let (owner, step) = (bench.owner(), Step::new(1));
    let failure = bench.target.mint(contract::request(&step, &owner, None)).await;
    assert_eq!(failure.expect_err("there is no account").class(), FailureClass::Invalid);
    assert_eq!(contract::list(&bench).await, [], "a Secret is left");
    let request = PreflightRequest { policy: &step.policy, current: None };
    let findings = bench.target.preflight(request).await;
    assert!(findings[0].verdict == rekeyd::failure::Verdict::Fail, "{findings:?}");
}

/// An installation that rotates a token of the bench's account.
async fn installation(bench: &Bench) -> Installation {
    let at = Installation::new().await;
    at.change_settings(|settings| {
        settings["clusters"] = json!({"main": {"kubeconfig": {"path": bench.cluster.kubeconfig}}});
    });
    at.write_policy(&json!({
        "apiVersion": "rekeyd.dev/v1alpha1",
        "kind": "RotationPolicy",
        "metadata": {"name": "deployer", "namespace": "orders"},
        "spec": {
            "target": {"kubernetesServiceAccount": {
                "namespace": bench.space.name, "serviceAccount": "deployer", "strategy": {"bound": {"expiration": "1h"}},
            }},
            "store": {"name": "main", "path": "orders/deployer"},
            "consumers": [{"file": {
                "path": at.path("token.env"), "content": "{{ principal }}\n{{ value }}\n",
            }}],
            "retire": {"grace": "0s"},
        },
    }));
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_every_call_breaks_nothing() {
    let bench = Bench::new(bound()).await;
    let at = installation(&bench).await;
    at.run(&["rotate", POLICY]).await.ended(0);
    crate::walk::walk_past_changes(&at, POLICY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_rotates_and_is_contained() {
    let bench = Bench::new(bound()).await;
    let at = installation(&bench).await;
    let delivered = || credential_in(&read(&at.path("token.env")));
    at.run(&["rotate", POLICY]).await.ended(0);
    let outgoing = delivered();
    // A process that dies with a Secret made, and no token kept.
    let mut command = at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "kubernetes.token.secret#1=killBefore");
    let killed = at.spawn(command).end().await;
    assert_eq!(killed.code, None, "it is not killed: {killed}");
    at.run(&["resume", POLICY]).await.ended(0);
    let current = delivered();
    assert_eq!(bench.target.probe(&outgoing, ProbeDepth::Login).await, Probe::Refused);
    at.run(&["contain", POLICY]).await.ended(0).says(&["old value refused"]);
    assert_eq!(bench.target.probe(&current, ProbeDepth::Login).await, Probe::Refused);
    let keys = contract::list(&bench).await;
    assert_eq!(keys.iter().map(|key| &key.id).collect::<Vec<_>>(), [&delivered().principal]);
}
