//! What a namespace's disruption budgets say of a restart.
//!
//! Rolling updates do not ask them; evictions do. A restart that begins while a budget is overdrawn already would
//! take more pods from it, so it waits until there are as many healthy ones again as the budget wants.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::{ApiResource, DynamicObject, Selector, SelectorExt as _};

use super::pods::Pod;
use crate::failure::Failure;
use crate::kubernetes::failure;

/// A budget with fewer healthy pods than it wants.
pub(super) struct Overdrawn {
    name: String,
    selector: Selector,
    healthy: i64,
    wanted: i64,
}

impl Overdrawn {
    /// Those of a namespace.
    pub(super) async fn list(client: &Client, namespace: &str) -> Result<Vec<Self>, Failure> {
        let resource = ApiResource::erase::<PodDisruptionBudget>(&());
        let budgets: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let listed = budgets.list(&ListParams::default()).await;
        let doing = || format!("list PodDisruptionBudgets in namespace {namespace}");
        let listed = listed.map_err(|error| failure(&error, &doing()))?;
        Ok(listed.items.into_iter().filter_map(Self::read).collect())
    }

    fn read(budget: DynamicObject) -> Option<Self> {
        let number = |pointer: &str| budget.data.pointer(pointer)?.as_i64();
        let (healthy, wanted) = (number("/status/currentHealthy")?, number("/status/desiredHealthy")?);
        if healthy >= wanted {
            return None;
        }
        // One without a selector is for no pod.
        let selector: LabelSelector =
            serde_json::from_value(budget.data.pointer("/spec/selector")?.clone()).ok()?;
        let selector = Selector::try_from(selector).ok()?;
        Some(Self { name: budget.metadata.name?, selector, healthy, wanted })
    }

    /// Why pods are not to be replaced now: some of them are well, and would be missed.
    pub(super) fn spares(&self, pods: &[&Pod]) -> Option<String> {
        let mut counted = pods.iter().filter(|pod| pod.leaves.is_none() && pod.ready_since.is_some());
        counted.any(|pod| self.selector.matches(&pod.labels)).then(|| {
            let Self { name, healthy, wanted, .. } = self;
            format!("waits for PodDisruptionBudget {name}: {healthy} of the {wanted} pods that it wants are healthy")
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::reference::Names;
    use super::*;

    fn budget(healthy: i64, selector: &serde_json::Value) -> Option<Overdrawn> {
        let budget = json!({
            "metadata": {"name": "app"},
            "spec": {"minAvailable": 2, "selector": selector},
            "status": {
                "currentHealthy": healthy, "desiredHealthy": 2, "disruptionsAllowed": 0, "expectedPods": 3,
            },
        });
        Overdrawn::read(serde_json::from_value(budget).expect("a budget"))
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
    fn a_budget_spares_what_is_well_while_it_is_overdrawn() {
        let app = json!({"matchLabels": {"app": "app"}});
        assert!(budget(2, &app).is_none(), "one that allows no disruption and has what it wants");
        let overdrawn = budget(1, &app).expect("overdrawn");
        let said = overdrawn.spares(&[&pod("app", false), &pod("app", true)]).expect("a reason");
        assert!(said.contains("PodDisruptionBudget app: 1 of the 2 pods"), "{said}");
        assert!(overdrawn.spares(&[&pod("app", false)]).is_none(), "nothing is lost");
        assert!(overdrawn.spares(&[&pod("other", true)]).is_none(), "somebody else's");
    }
}
