//! The RabbitMQ target on a real broker.

mod death;
mod rights;
mod tls;

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::ident::Principal;
use rekeyd::policy::spec::{TlsMode, TlsSpec};
use rekeyd::secret::Credential;
use rekeyd::target::rabbitmq::{Deadlines, RabbitmqTarget};
use rekeyd::target::{
    Extent, InstallRequest, Installed, Occupancy, PreflightRequest, Probe, ProbeDepth, RetireRequest,
    Target as _,
};
use serde_json::json;

use crate::postgres_support::{Try, credential, credential_of, known, text};
use crate::proxy::{Fault, Proxy};
use crate::rabbitmq_support::{Connection, World};
use crate::target_contract::{Bench, Open, target_contract};

// Without `only_sessions_before_the_moment_are_ended`: nothing changes in place here.
target_contract! { PairBench::new().await;
    a_value_is_refused_before_its_install_and_accepted_after
    installing_the_same_candidate_again_is_right
    only_the_very_value_of_the_very_principal_is_accepted
    an_older_attempt_changes_nothing
    a_fence_belongs_to_one_rotation
    one_policy_does_not_take_anothers_principal
    usage_lists_the_open_sessions
    a_first_value_does_not_replace_one_that_nobody_took_over
    a_spare_with_a_value_that_nobody_took_over_is_not_taken
    a_spare_in_use_is_not_taken
    a_seized_spare_loses_its_sessions
    a_retired_principal_is_refused_and_has_no_session
    retiring_again_or_what_is_not_there_is_right
    an_older_attempt_retires_nothing
    undoing_takes_back_what_was_installed
    undoing_what_never_arrived_bars_its_arrival
    undoing_bars_the_arrival_at_a_principal_that_is_not_there
    undoing_leaves_a_later_attempt_alone
    a_later_attempt_follows_an_undone_one
    a_retired_principal_serves_again
    a_preflight_changes_nothing
}

struct PairBench {
    world: World,
    target: RabbitmqTarget,
}

impl PairBench {
    async fn new() -> Self {
        let world = World::shared().await;
        let target = world.target();
        Self { world, target }
    }
}

#[async_trait]
impl Bench for PairBench {
    type Target = RabbitmqTarget;

    fn target(&self) -> &RabbitmqTarget {
        &self.target
    }

    fn pair(&self) -> [Principal; 2] {
        self.world.pair()
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        // The first one made of a pair has the rights that somebody gives it.
        self.world.permit(&credential.principal, ".*").await;
        Box::new(self.world.connect(credential).await.expect("a connection"))
    }

    async fn by_hand(&self, credential: &Credential) {
        let user = json!({"password": text(credential), "tags": ""});
        self.world.server.ask("PUT", &format!("users/{}", credential.principal), Some(&user)).await;
    }
}

#[async_trait]
impl Open for Connection {
    async fn lives(&mut self) -> bool {
        self.answers().await
    }
}

async fn install(
    target: &RabbitmqTarget,
    step: &Try,
    candidate: &Credential,
    peer: Option<&Principal>,
) -> Result<Installed, Failure> {
    let (attempt, occupancy) = (step.attempt(), Occupancy::Refuse);
    target.install(InstallRequest { attempt, candidate, peer, beside: None, occupancy }).await
}

async fn retire(
    target: &RabbitmqTarget,
    step: &Try,
    user: &Principal,
    extent: Extent,
) -> Result<(), Failure> {
    target
        .retire(RetireRequest {
            attempt: step.attempt(),
            principal: user,
            extent,
            outgoing: None,
            beside: None,
        })
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_candidate_gets_the_rights_of_its_peer() {
    let world = World::shared().await;
    let target = world.target();
    let [a, b] = world.pair();
    let (first, second) = (credential(a.as_str()), credential(b.as_str()));
    install(&target, &Try::new(1), &first, None).await.expect("installed");
    world.permit(&a, "^orders").await;
    let topics = json!({"exchange": "amq.topic", "write": "^x", "read": "^y"});
    world.server.ask("PUT", &format!("topic-permissions/%2F/{a}"), Some(&topics)).await;
    let mut tagged = world.user(&a).await;
    let tags: Vec<String> = serde_json::from_value(tagged["tags"].take()).expect("tags");
    let tags = [vec!["monitoring".to_owned()], tags].concat().join(",");
    let body = json!({"password_hash": tagged["password_hash"], "tags": tags});
    world.server.ask("PUT", &format!("users/{a}"), Some(&body)).await;

    let request = PreflightRequest { policy: &Try::new(2).policy, current: Some(&first) };
    let findings = target.preflight(request).await;
    assert!(findings.iter().any(|finding| finding.detail.contains("the permissions in /")), "{findings:?}");
    install(&target, &Try::new(2), &second, Some(&a)).await.expect("installed");
    let permissions = world.server.ask("GET", &format!("users/{b}/permissions"), None).await;
    assert_eq!(
        permissions,
        json!([{"user": b.as_str(), "vhost": "/", "configure": "", "write": "", "read": "^orders"}])
    );
    let topics = world.server.ask("GET", &format!("users/{b}/topic-permissions"), None).await;
    assert_eq!(topics[0]["read"], "^y", "{topics}");
    let tags = world.user(&b).await["tags"].clone();
    assert_eq!(tags[0], "monitoring", "{tags}");
    assert!(tags[1].as_str().is_some_and(|tag| tag.ends_with("state=installed]")), "{tags}");
    assert_eq!(target.probe(&second, ProbeDepth::Check).await, Probe::Accepted);

    // What was taken away since goes from the other one, too.
    world.server.ask("DELETE", &format!("permissions/%2F/{b}"), None).await;
    retire(&target, &Try::new(2), &a, Extent::Principal).await.expect("retired");
    install(&target, &Try::new(3), &credential(a.as_str()), Some(&b)).await.expect("installed");
    assert_eq!(world.server.ask("GET", &format!("users/{a}/permissions"), None).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_no_answer() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Silence] {
        let world = World::shared().await;
        let [a, _] = world.pair();
        let one = credential(a.as_str());
        let mut spec = world.spec();
        let proxy =
            Proxy::start((spec.endpoint.host.as_str(), spec.endpoint.port), "PUT /api/users/", fault).await;
        spec.endpoint.port = proxy.port;
        let deadlines =
            Deadlines { request: std::time::Duration::from_millis(1_500), ..Deadlines::default() };
        let lossy = RabbitmqTarget::new(spec, known(world.admin())).with_deadlines(deadlines);
        let step = Try::new(1);
        let failure = install(&lossy, &step, &one, None).await.expect_err("no answer came");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fault:?}: {failure}");
        assert!(proxy.faults() > 0);
        let target = world.target();
        install(&target, &step, &one, None).await.expect("repeating it is right");
        assert_eq!(target.probe(&one, ProbeDepth::Login).await, Probe::Accepted);
        let failure = retire(&lossy, &step, &a, Extent::Principal).await.expect_err("no answer came");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fault:?}: {failure}");
        retire(&target, &step, &a, Extent::Principal).await.expect("retired");
        assert_eq!(target.probe(&one, ProbeDepth::Login).await, Probe::Refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_verdict_on_the_value_is_unknown() {
    let world = World::shared().await;
    let [a, _] = world.pair();
    let one = credential(a.as_str());
    let answers = [
        (
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 32\r\n\r\n{\"reason\":\"something else said\"}",
            FailureClass::Denied,
        ),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", FailureClass::Unavailable),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://localhost/\r\nContent-Length: 0\r\n\r\n",
            FailureClass::Invalid,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", FailureClass::Invalid),
        ("", FailureClass::Unavailable),
    ];
    for (answer, class) in answers {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let mut spec = world.spec();
        spec.endpoint.port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            while let Ok((mut client, _)) = listener.accept().await {
                let _ = client.read(&mut [0; 4096]).await;
                let _ = client.write_all(answer.as_bytes()).await;
            }
        });
        let target = RabbitmqTarget::new(spec, known(world.admin()));
        match target.probe(&one, ProbeDepth::Login).await {
            Probe::Unknown(failure) => assert_eq!(failure.class(), class, "{answer}: {failure}"),
            verdict => panic!("{answer}: {verdict:?}"),
        }
    }
    let mut spec = world.spec();
    spec.endpoint.tls = TlsSpec { mode: TlsMode::Require, ca_file: None, allow_plaintext: false };
    let target = RabbitmqTarget::new(spec, known(world.admin()));
    assert!(
        matches!(target.probe(&one, ProbeDepth::Login).await, Probe::Unknown(_)),
        "it does not speak TLS"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_that_is_not_let_in_or_may_nothing_is_told() {
    let world = World::shared().await;
    let [a, _] = world.pair();
    let one = credential(a.as_str());
    let wrong = credential_of(&world.admin().principal, "not its password");
    let target = RabbitmqTarget::new(world.spec(), known(&wrong));
    let failure = install(&target, &Try::new(1), &one, None).await.expect_err("it is wrong");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.reason().contains("refuses the admin credential"), "{failure}");
    let itself = RabbitmqTarget::new(world.spec(), known(&one));
    let failure = install(&itself, &Try::new(1), &one, None).await.expect_err("it is the user");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");

    let admin = world.user(&world.admin().principal).await;
    let body = json!({"password_hash": admin["password_hash"], "tags": "management"});
    world.server.ask("PUT", &format!("users/{}", world.admin().principal), Some(&body)).await;
    let target = world.target();
    let failure = install(&target, &Try::new(1), &one, None).await.expect_err("it may not");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("administrator")), "{failure:?}");
    let request = PreflightRequest { policy: &Try::new(1).policy, current: None };
    let findings = target.preflight(request).await;
    assert!(findings.iter().any(|finding| finding.verdict == Verdict::Fail), "{findings:?}");
}
