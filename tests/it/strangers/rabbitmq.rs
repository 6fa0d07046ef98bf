//! In the place of a broker's management API.

use rekeyd::policy::spec::{PairSpec, RabbitmqEndpoint, RabbitmqSpec, RabbitmqStrategy};
use rekeyd::target::rabbitmq::{Deadlines, RabbitmqTarget};
use serde_json::json;

use super::*;
use crate::stranger::{Asked, Stranger};

fn target(host: &str, port: u16, tls: TlsSpec, patience: Duration) -> RabbitmqTarget {
    let users = ["app_a", "app_b"].map(name);
    let spec = RabbitmqSpec {
        endpoint: RabbitmqEndpoint { host: host.into(), port, tls },
        admin: "admin".parse().expect("a label"),
        strategy: RabbitmqStrategy::Alternating(PairSpec { users }),
    };
    let deadlines = Deadlines { request: patience, ..Deadlines::default() };
    RabbitmqTarget::new(spec, admin()).with_deadlines(deadlines)
}

/// A broker that has the second user alone and answers what holds the trigger in this manner.
async fn broker(trigger: &'static str, manner: Manner) -> Stranger {
    Stranger::serve(move |asked: &Asked| match asked.line.as_str() {
        line if line.contains(trigger) => manner.clone(),
        line if line.starts_with("GET /api/connections") || line.contains("permissions") => {
            Manner::json(200, &json!([]))
        }
        "GET /api/users/app_b" => {
            Manner::json(200, &json!({"name": "app_b", "password_hash": "", "tags": []}))
        }
        line if line.starts_with("PUT /api/") => Manner::Says(204, "", String::new()),
        line if line.starts_with("GET /api/users/") => {
            Manner::json(404, &json!({"error": "Object Not Found", "reason": "Not Found"}))
        }
        other => panic!("what is this: {other}"),
    })
    .await
}

#[tokio::test]
async fn no_answer_of_something_else_is_a_verdict() {
    let meet = async |(manner, patience): (Manner, Duration)| {
        let stranger = Stranger::start(manner.clone()).await;
        // An empty list has nothing in it that could be wrong.
        if manner != Manner::Says(200, "Content-Type: application/json\r\n", "[]".into()) {
            let target = target("127.0.0.1", stranger.port(), plain(), patience);
            nothing_comes_of_it(&target, &new("app_a"), &manner).await;
        }
    };
    futures_util::future::join_all(manners().map(meet)).await;
}

#[tokio::test]
async fn only_what_may_have_been_done_is_in_doubt() {
    let meet = async |(manner, patience): (Manner, Duration)| {
        let stranger = broker("PUT /api/users/app_a", manner.clone()).await;
        let target = target("127.0.0.1", stranger.port(), plain(), patience);
        let failure = install(&target, &new("app_a")).await;
        let failure = failure.unwrap_or_else(|| panic!("{manner:?} is taken for done"));
        let is_doubt = failure.class() == FailureClass::Ambiguous;
        assert_eq!(is_doubt, leaves_a_doubt(&manner), "{manner:?}: {failure}");
    };
    futures_util::future::join_all(manners().map(meet)).await;
}

/// A peer whose rights are not known has none for all that anybody can say: the candidate would lose its own.
#[tokio::test]
async fn rights_and_connections_that_are_not_known_are_not_none() {
    for trigger in ["GET /api/users/app_b/permissions", "GET /api/users/app_b/topic", "GET /api/connections"]
    {
        let meet = async |(manner, patience): (Manner, Duration)| {
            let is_list = matches!(&manner, Manner::Says(200, _, text) if text == "[]");
            let stranger = broker(trigger, manner.clone()).await;
            let target = target("127.0.0.1", stranger.port(), plain(), patience);
            let (step, candidate, peer) = (Step::new(1), new("app_a"), name("app_b"));
            let (attempt, occupancy) = (step.attempt(), Occupancy::Refuse);
            let request =
                InstallRequest { attempt, candidate: &candidate, peer: Some(&peer), beside: None, occupancy };
            let failure = target.install(request).await.err().map(untold);
            let failure = failure.expect("the broker keeps nothing");
            let asked = stranger.requests();
            assert!(asked.iter().any(|line| line.contains(trigger)), "{asked:?}");
            let is_changed = asked.iter().any(|line| !line.starts_with("GET"));
            assert_eq!(is_changed, is_list, "{trigger}: {manner:?}: {failure}");
        };
        futures_util::future::join_all(manners().map(meet)).await;
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_left() {
    let stranger = Stranger::start(Manner::Endless).await;
    let target = target("127.0.0.1", stranger.port(), plain(), PATIENT);
    let failure = no_verdict(&target, &new("app_a"), &"endless").await;
    assert!(failure.to_string().contains("larger than"), "{failure}");
}

#[tokio::test]
async fn who_cannot_show_who_it_is_is_told_nothing() {
    let reasons = ["trusted authority", "does not name this host", "TLS handshake failed"];
    for ((stranger, authority), reason) in impostors().await.into_iter().zip(reasons) {
        let ca_file = Some(authority.path().to_owned());
        let tls = TlsSpec { mode: TlsMode::VerifyFull, ca_file, allow_plaintext: false };
        let target = target("localhost", stranger.port(), tls, PATIENT);
        nothing_comes_of_it(&target, &new("app_a"), &reason).await;
        let failure = no_verdict(&target, &new("app_a"), &reason).await;
        assert!(failure.to_string().contains(reason), "{reason}: {failure}");
    }
}
