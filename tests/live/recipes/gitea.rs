//! The recipe for Gitea's access tokens on a real Gitea.

use async_trait::async_trait;
use jiff::{RoundMode, TimestampRound, Unit};
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;
use rekeyd::target::http::HttpTarget;
use rekeyd::target::{Extent, MintRequest, Minted, PreflightRequest, Probe, ProbeDepth, Target as _};
use serde_json::{Value, json};

use super::{POLICY, installation, of_recipe_for, rotates_and_is_contained, target};
use crate::gitea_support::{Server, World, made_up};
use crate::installation::read;
use crate::keys_contract::{KeysBench, Step, Ways, keys_contract, list, mint, request, retire};
use crate::postgres_support;
use crate::proxy::{Fault, Proxy};
use crate::site::credential_in;

keys_contract!(Tokens::new().await);

/// A user of the test's own, who has tokens made.
struct Tokens {
    world: World,
    target: HttpTarget,
}

impl Tokens {
    async fn new() -> Self {
        Self::of(World::shared().await)
    }

    fn of(world: World) -> Self {
        let target = target_of(&world, &world.server.base(), &world.user, json!({}));
        Self { world, target }
    }

    /// The same, with another admin or other parameters.
    fn by(&self, admin: &Credential, parameters: Value) -> HttpTarget {
        target_of(&self.world, &self.world.server.base(), admin, parameters)
    }

    async fn probe(&self, key: &Credential) -> Probe {
        self.target.probe(key, ProbeDepth::Login).await
    }
}

fn target_of(world: &World, base: &str, admin: &Credential, parameters: Value) -> HttpTarget {
    target(&of_recipe_for("gitea-token", world.user.principal.as_str(), base, parameters), admin)
}

#[async_trait]
impl KeysBench for Tokens {
    type Target = HttpTarget;

    fn target(&self) -> &HttpTarget {
        &self.target
    }

    fn owner(&self) -> Principal {
        self.world.user.principal.clone()
    }

    fn ways(&self) -> Ways {
        Ways { quota: None, tags: true, disables: false, refuses_disabled: false }
    }

    async fn by_hand(&self) -> Credential {
        self.world.token("made by hand", &["read:user"]).await
    }

    async fn lose_the_answer(&self, request: MintRequest<'_>) -> Failure {
        let server = ("127.0.0.1", self.world.server.port());
        let proxy = Proxy::start(server, "POST /api/v1/users/", Fault::LoseReply).await;
        let base = format!("http://127.0.0.1:{}", proxy.port);
        let broken = target_of(&self.world, &base, &self.world.user, json!({}));
        let failure = broken.mint(request).await.expect_err("no answer came");
        assert_eq!(proxy.faults(), 1);
        failure
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_gitea_rotates_is_contained_and_survives_deaths() {
    let gitea = Tokens::new().await;
    let at = installation(policy(&gitea.world), &gitea.world.user).await;
    rotates_and_is_contained(&at, &gitea.target).await;
    for point in ["mint.made", "http.revoked"] {
        let outgoing = credential_in(&read(&at.path("api.env")));
        let mut command = at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", format!("{point}#1=killBefore"));
        let killed = at.spawn(command).end().await;
        assert_eq!(killed.code, None, "{point}: it is not killed: {killed}");
        at.run(&["resume", POLICY]).await.ended(0);
        let delivered = credential_in(&read(&at.path("api.env")));
        let ids: Vec<_> = list(&gitea).await.into_iter().map(|key| key.id).collect();
        assert_eq!(ids, std::slice::from_ref(&delivered.principal), "{point}: there are others");
        assert_eq!(gitea.probe(&outgoing).await, Probe::Refused, "{point}");
    }
    at.run(&["recipe", "try", POLICY]).await.ended(0).says(&["found in the list by its tag", "refused when"]);
    // Somebody else revokes the one in force: it is told, and the next rotation mends it.
    let lost = credential_in(&read(&at.path("api.env")));
    gitea.world.delete(&lost).await;
    at.run(&["preflight", POLICY]).await.ended(1).says(&["is refused"]);
    at.run(&["rotate", POLICY]).await.ended(0);
    assert_eq!(gitea.probe(&credential_in(&read(&at.path("api.env")))).await, Probe::Accepted);
}

fn policy(world: &World) -> Value {
    json!({"recipe": "gitea-token", "owner": world.user.principal.as_str(), "base": world.server.base(), "admin": "bao"})
}

async fn next_second() {
    let now = SystemClock.now();
    let next =
        now.round(TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil)).expect("a moment");
    SystemClock.sleep(next.duration_since(now).try_into().unwrap_or_default()).await;
}

/// The server's pages are of two, and what a rotation left behind may be on any.
#[tokio::test]
async fn a_token_is_found_on_whichever_page_it_is() {
    let gitea = Tokens::new().await;
    let mut made = Vec::new();
    for fence in 1..=5 {
        made.push(mint(&gitea, &Step::new(fence), None).await.principal);
        // Tokens of one second come in any order, another one for each page: one of them may be on none.
        if fence == 1 || fence == 3 {
            next_second().await;
        }
    }
    made.sort();
    assert_eq!(list(&gitea).await.into_iter().map(|key| key.id).collect::<Vec<_>>(), made);
}

#[tokio::test]
async fn an_administrator_and_a_token_in_the_place_of_the_password_may_have_tokens_made() {
    let gitea = Tokens::new().await;
    let (step, owner) = (Step::new(1), gitea.owner());
    let token = gitea.world.token("admin", &["write:user", "read:repository"]).await;
    let token = Credential::new(owner.clone(), token.value);
    for admin in [gitea.world.server.superuser(), token] {
        let target = gitea.by(&admin, json!({}));
        let Ok(Minted::Made(made)) = target.mint(request(&step, &owner, None)).await else {
            panic!("it may")
        };
        assert_eq!(gitea.probe(&made).await, Probe::Accepted);
        retire(&gitea, &step, &made, Extent::Principal, None).await.expect("it may");
        assert_eq!(gitea.probe(&made).await, Probe::Refused);
    }
}

#[tokio::test]
async fn nobody_else_may_and_that_changes_nothing() {
    let gitea = Tokens::new().await;
    let (step, owner, bystander) = (Step::new(1), gitea.owner(), World::shared().await);
    let reads = gitea.world.token("reads alone", &["read:user"]).await;
    let reads = Credential::new(owner.clone(), reads.value);
    let before = list(&gitea).await.len();
    for (admin, sees) in [(&made_up(&gitea.world.user), false), (&bystander.user, false), (&reads, true)] {
        let target = gitea.by(admin, json!({}));
        let minted = target.mint(request(&step, &owner, None)).await.expect_err("it may not");
        let listed = target.keys(&owner).await;
        assert_eq!(listed.is_ok(), sees, "{listed:?}");
        for failure in [Some(minted), listed.err()].into_iter().flatten() {
            assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
            assert!(!admin.value.occurs_in(&format!("{failure:?}")), "{failure}");
        }
        let findings = target.preflight(PreflightRequest { policy: &step.policy, current: None }).await;
        let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
        assert_eq!(failed, !sees, "{findings:?}");
        assert_eq!(list(&gitea).await.len(), before);
    }
}

#[tokio::test]
async fn what_gitea_does_not_take_is_a_mistake_and_makes_nothing() {
    let gitea = Tokens::new().await;
    let (step, owner) = (Step::new(1), gitea.owner());
    let unknown = gitea.by(&gitea.world.user, json!({"scopes": ["read:nothing"]}));
    let failure = unknown.mint(request(&step, &owner, None)).await.expect_err("there is no such scope");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    let nobody: Principal = "nobody-of-that-name".parse().expect("a principal");
    let of_nobody = target(
        &of_recipe_for("gitea-token", nobody.as_str(), &gitea.world.server.base(), json!({})),
        &gitea.world.server.superuser(),
    );
    let failure = of_nobody.mint(request(&step, &nobody, None)).await.expect_err("there is no such user");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert_eq!(list(&gitea).await, []);
}

/// Only what says that a token is dead is a refusal: one that may not be tried, or whose user is barred for now, lives.
#[tokio::test]
async fn a_token_that_may_not_be_tried_is_not_dead() {
    let gitea = Tokens::new().await;
    let unfit = gitea.world.token("without read:user", &["read:repository"]).await;
    assert!(matches!(gitea.probe(&unfit).await, Probe::Unknown(_)));
    let token = gitea.world.token("with it", &["read:user"]).await;
    assert_eq!(gitea.probe(&token).await, Probe::Accepted);
    gitea.world.change(json!({"prohibit_login": true})).await;
    assert!(matches!(gitea.probe(&token).await, Probe::Unknown(_)));
    gitea.world.change(json!({"prohibit_login": false})).await;
    assert_eq!(gitea.probe(&token).await, Probe::Accepted);
}

/// It says of every token what it says of a dead one while it cannot reach its database.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_lost_its_database_refuses_nothing() {
    let gitea = Tokens::of(World::on(Server::private()).await);
    let token = gitea.world.token("alive", &["read:user"]).await;
    assert_eq!(gitea.probe(&token).await, Probe::Accepted);
    let session = postgres_support::Server::shared().superuser("postgres").await;
    let database = gitea.world.server.database();
    let allow = async |allowed: bool| {
        session
            .batch_execute(&format!(
                "alter database {database} allow_connections {allowed};\
                 select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{database}'"
            ))
            .await
            .expect("the database");
    };
    allow(false).await;
    for key in [&token, &made_up(&token)] {
        let Probe::Unknown(failure) = gitea.probe(key).await else { panic!("it counts as a verdict") };
        assert!(failure.to_string().contains("no verdict on the key"), "{failure}");
    }
    allow(true).await;
    assert_eq!(gitea.probe(&token).await, Probe::Accepted);
    assert_eq!(gitea.probe(&made_up(&token)).await, Probe::Refused);
}
