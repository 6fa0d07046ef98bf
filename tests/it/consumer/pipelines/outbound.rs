//! Where the requests of a consumer may go, and how many.

use std::collections::BTreeMap;
use std::sync::Arc;

use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::consumer::Requests;
use rekeyd::consumer::http::HttpConsumer;
use rekeyd::failure::FailureClass;
use rekeyd::http::outbound::Outbound;
use rekeyd::http::pace::Paces;
use serde_json::json;

use super::super::assert_refused;
use super::super::contract::publish;
use super::{ADMIN, Known, Site, requests};
use crate::providers_support::gitlab_variables::{GitLabVariables, Variables};
use crate::providers_support::handshake::{Front, Server};

async fn site() -> Site {
    let provider = GitLabVariables { admin: ADMIN.into(), variables: Variables::default() };
    Site::new("gitlab-variable", provider, json!({"parameters": {"project": 17, "key": "DB"}})).await
}

fn consumer(site: &Site, requests: Requests) -> HttpConsumer {
    let admin = Arc::new(Known(ADMIN.into()));
    HttpConsumer::new(&site.spec, Some(admin), BTreeMap::new(), requests).expect("a consumer")
}

#[tokio::test]
async fn neither_the_login_nor_the_value_goes_where_the_settings_do_not_let_it() {
    let site = site().await;
    let barred = consumer(&site, Requests { outbound: Outbound::default(), ..requests() });
    assert_refused(publish(&barred, 1).await, FailureClass::Denied, "one of this machine");
    let elsewhere = consumer(&site, Requests { is_for: Box::new(|host| host != "127.0.0.1"), ..requests() });
    assert_refused(
        publish(&elsewhere, 1).await,
        FailureClass::Denied,
        "do not let the admin credential be used",
    );
    assert_eq!(site.stub.requests(), Vec::<String>::new());
    publish(&consumer(&site, requests()), 1).await.expect("published");
}

#[tokio::test]
async fn nothing_is_written_to_a_server_that_cannot_show_who_it_is() {
    let mut site = site().await;
    let outbound = Outbound::new(&["localhost".to_owned()]);
    for (server, reason) in Server::WRONG {
        let front = Front::start(server).await;
        site.spec.base = Some(front.base.clone());
        site.spec.ca_file = Some(front.ca_file.clone());
        let consumer = consumer(&site, Requests { outbound: outbound.clone(), ..requests() });
        let class = if server == Server::Cut { FailureClass::Unavailable } else { FailureClass::Invalid };
        assert_refused(publish(&consumer, 1).await, class, reason);
        let saw = front.saw();
        for secret in ["HTTP/1.1", "/api/v4", "the-value-of", ADMIN] {
            assert!(!saw.contains(secret), "{server:?} saw {secret}");
        }
    }
}

/// Two consumers of one login at one host count together.
#[tokio::test]
async fn no_more_requests_are_sent_than_the_recipe_allows() {
    let site = site().await;
    let paces = Arc::new(Paces::new(Arc::new(SystemClock)));
    let began = SystemClock.monotonic();
    for version in 1..3 {
        publish(&site.paced(5, &paces), version).await.expect("published");
    }
    assert_eq!(site.stub.requests().len(), 6);
    let took = SystemClock.monotonic() - began;
    assert!(took >= std::time::Duration::from_secs(1), "six requests at five a second took {took:?}");
}
