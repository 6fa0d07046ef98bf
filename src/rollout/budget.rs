//! What a namespace's disruption budgets say of a restart.
//!
//! Rolling updates do not ask them; evictions do. A restart whose update takes more pods away at once than a budget
//! has left waits until there is room, and so does one that begins while the budget is overdrawn. What a budget
//! could never allow, with all pods well, does not wait for ever: a preflight says so.

use std::collections::BTreeMap;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::core::{DynamicObject, Selector, SelectorExt as _};

use super::limits;
use super::pods::Pod;
use crate::failure::Failure;

/// A budget.
pub(super) struct Budget {
    pub(super) name: String,
    selector: Selector,
    healthy: i64,
    wanted: i64,
    /// So many pods there should be.
    expected: i64,
}

impl Budget {
    /// Those of a namespace.
    pub(super) async fn list(client: &Client, namespace: &str) -> Result<Vec<Self>, Failure> {
        let listed = limits::<PodDisruptionBudget>(client, namespace).await?;
        Ok(listed.into_iter().filter_map(Self::read).collect())
    }

    fn read(budget: DynamicObject) -> Option<Self> {
        let number = |pointer: &str| budget.data.pointer(pointer)?.as_i64();
        let (healthy, wanted) = (number("/status/currentHealthy")?, number("/status/desiredHealthy")?);
        let expected = number("/status/expectedPods")?;
        // One without a selector is for no pod.
        let selector: LabelSelector =
            serde_json::from_value(budget.data.pointer("/spec/selector")?.clone()).ok()?;
        let selector = Selector::try_from(selector).ok()?;
        Some(Self { name: budget.metadata.name?, selector, healthy, wanted, expected })
    }

    /// Whether some of these pods are well, and would be missed.
    pub(super) fn counts(&self, pods: &[&Pod]) -> bool {
        let mut counted = pods.iter().filter(|pod| pod.leaves.is_none() && pod.ready_since.is_some());
        counted.any(|pod| self.is_for(&pod.labels))
    }

    /// Whether it is for pods of these labels.
    pub(super) fn is_for(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.matches(labels)
    }

    /// So many pods it lets be away at once when all others are well.
    pub(super) const fn spares(&self) -> i64 {
        self.expected.saturating_sub(self.wanted)
    }

    /// Why an update that takes so many of its pods away at once is not to begin now, while others that were begun
    /// take theirs.
    pub(super) fn defers(&self, takes: i64, begun: i64) -> Option<String> {
        let Self { name, healthy, wanted, expected, .. } = self;
        if healthy < wanted {
            return Some(format!(
                "waits for PodDisruptionBudget {name}: {healthy} of the {wanted} pods that it wants are healthy"
            ));
        }
        // Those that are away already may be of an update that was begun.
        let away = begun.max(expected - healthy);
        let spares = self.spares();
        (takes > 0 && takes <= spares && away + takes > spares).then(|| {
            format!(
                "waits for PodDisruptionBudget {name}: {spares} of its pods may be away at once, {away} are or may be soon, and its update takes {takes}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::reference::Names;
    use super::*;

    fn budget(healthy: i64, wanted: i64) -> Budget {
        let budget = json!({
            "metadata": {"name": "app"},
            "spec": {"minAvailable": wanted, "selector": {"matchLabels": {"app": "app"}}},
            "status": {
                "currentHealthy": healthy, "desiredHealthy": wanted, "disruptionsAllowed": 0, "expectedPods": 3,
            },
        });
        Budget::read(serde_json::from_value(budget).expect("a budget")).expect("it has a selector")
    }

    fn pod(app: &str, is_ready: bool) -> Pod {
        let ready = if is_ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": "app-1", "labels": {"app": app}}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        let names = Names::new(&"db".parse().expect("a name"), false);
        Pod::read(&serde_json::from_value(pod).expect("a pod"), &names)
    }

    #[test]
    fn a_budget_that_is_overdrawn_is_waited_for() {
        assert!(budget(2, 2).defers(0, 0).is_none(), "one that allows no disruption and has what it wants");
        let said = budget(1, 2).defers(0, 0).expect("a reason");
        assert!(said.contains("PodDisruptionBudget app: 1 of the 2 pods"), "{said}");
    }

    #[test]
    fn a_budget_counts_what_is_well() {
        let budget = budget(3, 2);
        assert!(budget.counts(&[&pod("app", false), &pod("app", true)]));
        assert!(!budget.counts(&[&pod("app", false)]), "nothing is lost");
        assert!(!budget.counts(&[&pod("other", true)]), "somebody else's");
    }

    #[test]
    fn an_update_begins_when_a_budget_has_room_for_what_it_takes() {
        let waits = |healthy, wanted, takes, begun| budget(healthy, wanted).defers(takes, begun).is_some();
        assert!(!waits(3, 2, 1, 0));
        assert!(waits(3, 2, 1, 1), "another update takes the only one that may go");
        assert!(waits(2, 2, 1, 0), "one is away already");
        assert!(!waits(2, 1, 1, 1), "the one that is away is of the other update");
        assert!(!waits(3, 2, 0, 1), "it makes new ones first");
        assert!(!waits(3, 3, 1, 0), "it could never begin");
        assert!(!waits(3, 2, 2, 0), "it could never begin");
    }
}
