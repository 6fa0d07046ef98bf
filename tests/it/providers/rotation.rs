//! Whole rotations of keys that recipes tell of, at stubs of their providers.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::failure::FailureClass;
use rekeyd::policy::load::Loaded;
use rekeyd::policy::spec::TargetSpec;
use rekeyd::recipe::Recipe;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::progress::Step;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::service::{Ending, EndingKind};
use rekeyd::target::{Probe, ProbeDepth, Target as _};
use serde_json::json;

use super::{ADMIN, Case, case, signed, target_paced};
use crate::providers_support::azure::Azure;
use crate::providers_support::cohere::Cohere;
use crate::providers_support::datadog::Datadog;
use crate::providers_support::sendgrid::SendGrid;
use crate::providers_support::{Fate, Stub};
use crate::world::{Process, Shape, Subject, World};

const KEYS: Shape = Shape { grace: "1s", ..Shape::new(Strategy::DualKey) };

/// A world with one policy, whose key a provider makes.
struct Scene {
    world: World,
    subject: Subject,
    case: Case,
}

impl Scene {
    fn new(case: Case) -> Self {
        let world = World::new();
        let subject = world.subject(KEYS);
        let mut scene = Self { world, subject, case };
        scene.follow(|_| {});
        scene
    }

    /// The policy follows another recipe from now on.
    fn follow(&mut self, change: impl FnOnce(&mut Recipe)) {
        change(self.case.spec.definition.as_mut().expect("a recipe"));
        // Signatures are for the provider's time, and waiting is for the world's.
        let pace = Arc::clone(&self.world.clock);
        let target = target_paced(&self.case.spec, self.case.admin, Arc::new(SystemClock), pace);
        *self.world.api.lock().expect("no panic") = Some(Arc::new(target));
        let spec = TargetSpec::Http(self.case.spec.clone());
        self.subject.policy = self.subject.policy.clone().with_target(spec);
    }

    fn process(&self) -> Process {
        let policies = vec![self.subject.policy.clone()];
        self.world.process_with(Loaded { policies, ..Loaded::default() })
    }

    async fn rotate(&self, request: &str) -> Ending {
        self.process().rotate(&self.subject, request).await
    }

    async fn in_force(&self) -> Credential {
        self.world.in_force(&self.subject).await
    }

    fn ids(&self) -> Vec<String> {
        self.case.stub.with(|keys| keys.made.iter().map(|key| key.id.clone()).collect())
    }

    async fn tried(&self, key: &Credential) -> Probe {
        self.case.target.probe(key, ProbeDepth::Login).await
    }
}

/// The recipes whose providers take a while to know of a key.
async fn settling() -> [Case; 3] {
    let parameters = json!({"tenant": "tenant-1", "application": "object-1", "client": "client-1"});
    let azure = Azure { admin: ADMIN.into() };
    let datadog = Datadog { admin: ADMIN.into(), api: "api-of-the-test".into() };
    [
        case("azure-application-secret", azure, json!({"parameters": parameters})).await,
        case("datadog-api-key", datadog, json!({"credentials": {"api": "datadog-api"}})).await,
        signed::google().await,
    ]
}

#[tokio::test]
async fn what_a_provider_does_not_know_yet_is_waited_for() {
    for case in settling().await {
        let scene = Scene::new(case);
        let name = scene.case.spec.recipe.to_string();
        let late = |keys: &mut crate::providers_support::Keys| (keys.lag, keys.linger) = (3, 3);
        scene.case.stub.with(late);
        let ending = scene.rotate("first").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{name}: {ending:?}");
        let first = scene.in_force().await;
        scene.case.stub.with(late);
        let ending = scene.rotate("second").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{name}: {ending:?}");
        assert_eq!(scene.case.stub.with(|keys| (keys.lag, keys.linger)), (0, 0), "{name}: it was not late");
        let second = scene.in_force().await;
        assert_eq!(scene.ids(), [second.principal.as_str()], "{name}");
        assert_eq!(
            (scene.tried(&first).await, scene.tried(&second).await),
            (Probe::Refused, Probe::Accepted)
        );
    }
}

#[tokio::test]
async fn a_token_of_an_app_that_not_every_server_knows_yet_is_waited_for() {
    let scene = Scene::new(signed::github().await);
    for request in ["first", "second"] {
        scene.case.stub.with(|keys| keys.lag = 3);
        let ending = scene.rotate(request).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{request}: {ending:?}");
        assert_eq!(scene.case.stub.with(|keys| keys.lag), 0, "it was not late");
    }
    assert_eq!(scene.ids().len(), 1);
}

/// A key of another organization works, and is for something else than its readers need.
#[tokio::test]
async fn a_key_of_another_organization_is_not_taken() {
    let scene = Scene::new(case("cohere", Cohere, json!({})).await);
    let key = |of: &str| {
        let made = scene.case.stub.with(|keys| keys.make("key-", "co-", "by hand", json!(of)));
        Credential::new(made.id.parse().expect("a principal"), SecretValue::new(made.value.into_bytes()))
    };
    let (first, foreign, second) = (key("o1"), key("o2"), key("o1"));
    let ending = scene.process().adopt(&scene.subject, &first, false).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    // Nor is it in force when it stands in the run document already.
    let akin = async |made| scene.case.target.akin(made, &first).await.map_err(|failure| failure.class());
    assert_eq!(akin(&foreign).await, Err(FailureClass::Invalid));
    assert_eq!(akin(&second).await, Ok(()));
    for fate in [Fate::Fails(503), Fate::Says(200, "{\"valid\": true}"), Fate::Html(200), Fate::LoseReply] {
        for before in [0, 1] {
            scene.case.stub.answer_nth(("POST", ""), before, fate);
            assert_eq!(akin(&second).await, Err(FailureClass::Unavailable), "{fate:?} {before}");
        }
    }
    let name = scene.subject.policy.name();
    let person = async {
        let process = scene.process();
        // The rotation has to be open, and to wait.
        loop {
            SystemClock.sleep(Duration::from_millis(2)).await;
            let status = process.service.status(Some(name)).await.expect("a status");
            if status[0].open.as_ref().is_some_and(|open| open.step == Step::Mint) {
                break;
            }
        }
        let supplied = process.service.supply(name, foreign.duplicate()).await;
        let failure = supplied.expect_err("it is of another organization");
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
        assert!(failure.to_string().contains("another `/organization_id`"), "{failure}");
        process.service.supply(name, second.duplicate()).await.expect("taken");
        scene.case.stub.with(|keys| keys.delete(first.principal.as_str()));
    };
    let (ending, ()) = tokio::join!(scene.rotate("asked"), person);
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert_eq!(scene.in_force().await, second);
    // The one in force is gone: there is nothing to compare with, and a person has a leak to mend.
    assert_eq!(akin(&foreign).await, Ok(()));
}

/// That a key is dead is not said before the provider says it.
#[tokio::test]
async fn a_key_that_goes_on_working_is_not_proven_dead() {
    for case in settling().await {
        let scene = Scene::new(case);
        let name = scene.case.spec.recipe.to_string();
        assert_eq!(scene.rotate("first").await.ending, EndingKind::Rotated, "{name}");
        scene.case.stub.with(|keys| keys.linger = u32::MAX);
        let began = scene.world.clock.monotonic();
        let ending = scene.rotate("second").await;
        assert_ne!(ending.ending, EndingKind::Rotated, "{name}: {ending:?}");
        assert!(
            scene.world.clock.monotonic() - began >= Duration::from_secs(30),
            "{name}: it was not waited"
        );
        scene.case.stub.with(|keys| keys.linger = 0);
        let second = scene.in_force().await;
        scene.world.clock.advance(Duration::from_secs(600));
        let ending = scene.process().resume(&scene.subject).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{name}: {ending:?}");
        assert_eq!(scene.ids(), [second.principal.as_str()], "{name}");
    }
}

/// The list has not the key that was made in vain when the next one is asked for; at the end it has.
#[tokio::test]
async fn a_key_whose_answer_was_lost_is_found_however_late_it_is_listed() {
    for case in settling().await {
        let scene = Scene::new(case);
        let name = scene.case.spec.recipe.to_string();
        assert_eq!(scene.rotate("first").await.ending, EndingKind::Rotated, "{name}");
        // Some lists are told in two parts, and one is looked at before the request, too.
        let late = if name == "azure-application-secret" { 1 } else { 2 };
        scene.case.stub.with(|keys| keys.late = late);
        scene.case.stub.requests();
        scene.case.stub.next(scene.case.creating(), Fate::LoseReply);
        let ending = scene.rotate("second").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{name}: {ending:?}");
        let second = scene.in_force().await;
        let mut ids = scene.ids();
        ids.retain(|id| *id != second.principal.as_str());
        // Google's keys have no names: a person decides about the one that nobody is known to need.
        let left = usize::from(name == "google-service-account-key");
        assert_eq!(ids.len(), left, "{name}: {ids:?}");
        let asked = scene.case.stub.requests();
        let at = |(method, part): (&str, &str), nth| {
            let is_meant = |asked: &String| asked.starts_with(method) && asked.contains(part);
            asked.iter().enumerate().filter(|(_, asked)| is_meant(asked)).nth(nth).map(|(at, _)| at)
        };
        let (again, gone) = (at(scene.case.creating(), 1), at(scene.case.revoking(), 0));
        assert!(again.is_some() && again < gone, "{name}: it was listed at once: {asked:?}");
        assert_eq!(scene.tried(&second).await, Probe::Accepted, "{name}");
    }
}

/// A policy or a recipe that has another server asked would show it a key that it knows nothing of, and take its answer for
/// a proof. That holds however the server is written: what readers of URLs take for an address besides leads nowhere.
#[tokio::test]
async fn no_server_that_is_new_in_the_recipe_gets_to_see_a_key() {
    let sendgrid = SendGrid { admin: ADMIN.into() };
    let case = case("sendgrid", sendgrid, json!({"parameters": {"scopes": ["mail.send"]}})).await;
    let earlier = case.spec.clone();
    let mut scene = Scene::new(case);
    assert_eq!(scene.rotate("first").await.ending, EndingKind::Rotated);
    let first = scene.in_force().await;
    let other = Stub::start(SendGrid { admin: ADMIN.into() }).await;
    let (own, port) = (scene.case.stub.address, other.address.port());
    let told = |server: String| format!("the policy names http {server} now");
    let unsure = || "leads to no server for sure".to_owned();
    // By a name of its own, at another port of the same host, and in writings of those.
    let mut forms = vec![
        (format!("http://localhost:{port}"), told(format!("{own} and localhost:{port}"))),
        (format!("http://localhost.:{port}"), told(format!("{own} and localhost.:{port}"))),
        (format!("http://LOCALHOST:{port}"), told(format!("{own} and localhost:{port}"))),
        (format!("http://127.0.0.1:{port}"), told(format!("{own} and 127.0.0.1:{port}"))),
        (format!("http://2130706433:{port}"), told(format!("{own} and 127.0.0.1:{port}"))),
        (format!("http://[::ffff:127.0.0.1]:{port}"), told(format!("{own} and [::ffff:7f00:1]:{port}"))),
    ];
    for odd in [
        format!("http:/127.0.0.1:{port}"),
        format!("http:127.0.0.1:{port}"),
        format!("http:///127.0.0.1:{port}"),
        format!("http:\\\\127.0.0.1:{port}"),
        format!("http:/\\127.0.0.1:{port}"),
        format!("HTTP://127.0.0.1:{port}"),
        format!("ht\ttp://127.0.0.1:{port}"),
        format!(" http://127.0.0.1:{port}"),
        format!("http://{own}@127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}\\@{own}"),
        format!("http://%31%32%37.0.0.1:{port}"),
        format!("http://{{{{ owner }}}}:{port}"),
        format!("//127.0.0.1:{port}"),
        format!("\\\\127.0.0.1:{port}"),
    ] {
        forms.push((odd, unsure()));
    }
    for (number, (server, expected)) in forms.iter().enumerate() {
        for is_base in [false, true] {
            scene.case.spec = earlier.clone();
            if is_base {
                scene.case.spec.base = Some(server.clone());
            }
            scene.follow(|recipe| {
                if !is_base && !server.starts_with("//") {
                    let request = recipe.verify.request.as_mut().expect("a request");
                    request.path = format!("{server}/v3/scopes");
                }
            });
            // Below the base, two strokes are a path, and lead nowhere else: they are refused where they are written.
            if !is_base && server.starts_with("//") {
                continue;
            }
            scene.case.stub.requests();
            let process = scene.process();
            for (verb, ending) in [
                ("rotate", process.rotate(&scene.subject, &format!("asked-{number}-{is_base}")).await),
                ("contain", process.contain(&scene.subject, "leaked").await),
            ] {
                assert_eq!(ending.ending, EndingKind::Failed, "{server}: {ending:?}");
                let expected = match expected.split_once(" and ").filter(|_| is_base) {
                    Some((_, further)) => format!("the policy names http {further}"),
                    None => expected.clone(),
                };
                assert!(ending.message.contains(&expected), "{server}: {expected}: {ending:?}");
                assert!(ending.message.contains(&format!("cannot {verb} ")), "{ending:?}");
            }
            // Whoever sends reads it in the same way, and is no way around that.
            if *expected == unsure() {
                let target = scene.world.api.lock().expect("no panic").clone().expect("a target");
                let probe = target.probe(&first, ProbeDepth::Login).await;
                assert!(matches!(probe, Probe::Unknown(_)), "{server}: {probe:?}");
            }
            assert_eq!(other.requests(), Vec::<String>::new(), "{server}");
            assert_eq!(scene.case.stub.requests(), Vec::<String>::new(), "{server}");
        }
    }
    scene.case.spec = earlier;
    scene.follow(|_| {});
    assert_eq!(scene.rotate("again").await.ending, EndingKind::Rotated);
    assert_eq!(scene.tried(&first).await, Probe::Refused);
    assert_eq!(other.requests(), Vec::<String>::new());
}
