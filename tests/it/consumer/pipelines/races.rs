//! Two processes at one secret of GitHub Actions, in orders that a seed decides, all within one second of GitHub's clock.
//!
//! What is promised is no more than docs/recipes.md says: both live until they know what they did.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use rekeyd::consumer::{Consumer as _, Published};
use rekeyd::failure::{Failure, FailureClass};
use serde_json::{Value, json};

use super::super::contract::{policy, publish, value};
use super::github::{MARK, NAME};
use super::{ADMIN, Site};
use crate::providers_support::github_actions::{GitHubActions, REPOSITORY, Sites};
use crate::providers_support::turns::{Process, Turns};

/// As long as any answer takes where nobody is slow.
const SOON: Duration = Duration::from_millis(150);

struct Race {
    site: Site,
    sites: Sites,
    turns: Arc<Turns>,
    /// Who begins, and for how many requests each goes on.
    plan: Vec<usize>,
    random: Rng,
}

impl Race {
    async fn new(seed: u64) -> Self {
        let turns = Arc::new(Turns::default());
        let (mut provider, sites) = GitHubActions::new(ADMIN);
        provider.clock = Arc::clone(&turns) as _;
        let of = json!({"owner": "acme", "repository": "orders", "name": NAME});
        let site = Site::new("github-secret", provider, json!({"parameters": of})).await;
        site.stub.take_turns(&turns);
        Self { site, sites, turns, plan: Vec::new(), random: Rng::with_seed(seed) }
    }

    /// A process that publishes. GitHub takes upper and lower case for one, which tells one process from another here.
    fn process(&mut self, owner: &str, version: u64) -> Process<Result<Published, Failure>> {
        self.site.set("owner", json!(owner));
        let consumer = self.site.by(Arc::clone(&self.turns) as _);
        Box::pin(async move { publish(&consumer, version).await })
    }

    async fn run(&mut self, longest: Duration, versions: &[(&str, u64)]) -> Vec<Result<Published, Failure>> {
        let processes = versions.iter().map(|(owner, version)| self.process(owner, *version)).collect();
        Arc::clone(&self.turns).run(&self.plan, &mut self.random, longest, processes).await
    }

    /// The version that rekeyd takes to be there.
    async fn published(&mut self) -> u64 {
        let consumer = self.site.by(Arc::clone(&self.turns) as _);
        let look: Process<_> = Box::pin(async move { consumer.observe(&policy()).await });
        let observed = Arc::clone(&self.turns).run(&[], &mut self.random, SOON, vec![look]).await.remove(0);
        observed.expect("observed").published.number()
    }

    fn there(&self) -> (Option<String>, Value) {
        let sites = self.sites.lock().expect("no panic");
        let site = &sites[REPOSITORY];
        let value = site.secrets.get(NAME).map(|secret| String::from_utf8_lossy(&secret.value).into_owned());
        (value, site.variables.get(MARK).map_or(Value::Null, |mark| mark["value"].clone()))
    }
}

#[tokio::test]
async fn of_two_that_publish_at_once_the_newer_is_left() {
    // Each in turn up to its last looks, with the other in between; and by chance.
    let plans = (1..4).flat_map(|a| (6..10).flat_map(move |b| (5..9).map(move |c| vec![a, b, c, 2])));
    let plans = plans.chain(std::iter::repeat_n(Vec::new(), 24));
    for (seed, plan) in (0..).zip(plans) {
        for owners in [["Acme", "acme"], ["acme", "Acme"]] {
            race(seed, &plan, owners).await;
        }
    }
}

/// Of two owners of one name, the first has the older version.
async fn race(seed: u64, plan: &[usize], [older, newer]: [&str; 2]) {
    let mut race = Race::new(seed).await;
    race.run(SOON, &[(older, 1)]).await.remove(0).expect("published");
    race.plan = plan.to_vec();
    // Some are slow.
    let longest = if seed % 4 == 3 { 4 * SOON } else { SOON };
    let came = race.run(longest, &[(older, 2), (newer, 3)]).await;
    race.plan.clear();
    let order = format!("seed {seed}, {plan:?}, {older} first");
    // One may have met the other at work, or come too late.
    for failure in came.iter().filter_map(|came| came.as_ref().err()) {
        let fine = matches!(failure.class(), FailureClass::Unavailable | FailureClass::Conflict);
        assert!(fine, "{order}: {failure}");
    }
    let published = race.published().await;
    if published > 0 {
        let (there, mark) = race.there();
        assert_eq!(there, Some(value(published)), "{order}: under the mark {mark}, after {came:?}");
    }
    let alone = race.run(SOON, &[(newer, 3)]).await.remove(0);
    assert!(alone.is_ok(), "{order}: {alone:?}");
    assert_eq!(race.there().0, Some(value(3)), "{order}");
    let late = race.run(SOON, &[(older, 2)]).await.remove(0).expect_err("an older version");
    assert_eq!(late.class(), FailureClass::Conflict, "{order}: {late}");
    assert_eq!(race.there().0, Some(value(3)), "{order}");
}

#[tokio::test]
async fn who_is_slow_and_alone_is_told_so() {
    let mut race = Race::new(0).await;
    let slow = race.run(Duration::from_secs(3_600), &[("acme", 1)]).await.remove(0);
    let failure = slow.expect_err("it is not sure");
    assert_eq!(failure.class(), FailureClass::Unavailable);
    assert!(failure.reason().starts_with("the provider is too slow"), "{failure}");
    assert!(failure.remedy().is_some() && !failure.reason().contains("somebody"), "{failure}");
    assert_eq!(race.published().await, 0);
    assert_eq!(race.run(SOON, &[("acme", 1)]).await.remove(0), Ok(Published::Now));
    assert_eq!(race.published().await, 1);
}
