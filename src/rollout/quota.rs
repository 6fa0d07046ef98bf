//! What a namespace's resource quotas say of a restart.
//!
//! An update that takes no pod away before it has made a new one needs room for that one. Where a quota has none,
//! it would stand still and have a turn that others could use: it waits until there is room, and says for which quota.
//! Quotas with scopes are left to the API server, which knows which pods they count; a workload whose pods it refuses
//! says so itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use kube::core::DynamicObject;
use kube_quantity::ParsedQuantity;

use super::limits;
use super::shape::{PodSpec, Resources};
use crate::failure::Failure;

/// By the names that quotas have for them, in base units: cores, bytes, pods.
pub(super) type Amounts = BTreeMap<String, f64>;

/// A quota.
pub(super) struct Quota {
    pub(super) name: String,
    /// What it counts: how much there may be, and how much there is.
    counted: BTreeMap<String, (Quantity, Quantity)>,
}

impl Quota {
    /// Those of a namespace.
    pub(super) async fn list(client: &Client, namespace: &str) -> Result<Vec<Self>, Failure> {
        let listed = limits::<ResourceQuota>(client, namespace).await?;
        Ok(listed.into_iter().filter_map(Self::read).collect())
    }

    fn read(quota: DynamicObject) -> Option<Self> {
        let is_scoped = ["/spec/scopes", "/spec/scopeSelector"]
            .into_iter()
            .any(|pointer| quota.data.pointer(pointer).is_some_and(|scope| !scope.is_null()));
        if is_scoped {
            return None;
        }
        let amounts = |pointer: &str| -> BTreeMap<String, Quantity> {
            let found = quota.data.pointer(pointer).cloned().unwrap_or_default();
            serde_json::from_value(found).unwrap_or_default()
        };
        let mut used = amounts("/status/used");
        let hard = amounts("/status/hard").into_iter();
        let counted = hard.filter_map(|(what, hard)| Some((what.clone(), (hard, used.remove(&what)?))));
        Some(Self { name: quota.metadata.name?, counted: counted.collect() })
    }

    /// Why an update that makes so many more pods, which need so much each, is not to begin now, while so much more than
    /// is used will be for others.
    pub(super) fn defers(&self, pods: i64, needs: &Amounts, coming: &Amounts) -> Option<String> {
        let Self { name, counted } = self;
        counted.iter().find_map(|(what, (hard, used))| {
            let more = needs.get(usual(what))? * pods as f64;
            // Tenths have no exact sums here, and the last of them would be missing. Whoever needs none of what is
            // overdrawn is let in.
            let limit = in_base_units(hard)? * (1.0 + 1e-9);
            let others = coming.get(usual(what)).copied().unwrap_or(0.0);
            (more > 0.0 && in_base_units(used)? + others + more > limit).then(|| {
                let pod = if pods == 1 { "pod" } else { "pods" };
                format!(
                    "waits for ResourceQuota {name}: its update makes {pods} more {pod} first, and {} of {} {what} \
                     are used{}",
                    used.0,
                    hard.0,
                    if others > 0.0 { ", or will be by other updates" } else { "" }
                )
            })
        })
    }
}

/// What a pod counts for: all containers that run at a time, as the scheduler adds them up.
pub(super) fn needs(pod: &PodSpec) -> Amounts {
    let mut beside = Amounts::new();
    let mut at_most = Amounts::new();
    for container in &pod.init_containers {
        let own = of_resources(&container.resources);
        // A sidecar goes on running; another one ends before the next begins.
        let mut now = beside.clone();
        add(&mut now, &own, 1.0);
        raise(&mut at_most, &now);
        if container.restarts_always() {
            beside = now;
        }
    }
    for container in &pod.containers {
        add(&mut beside, &of_resources(&container.resources), 1.0);
    }
    raise(&mut at_most, &beside);
    // What is said for the pod as a whole takes the place of that.
    at_most.extend(of_resources(&pod.resources));
    for (what, amount) in amounts(&pod.overhead, "requests.").chain(amounts(&pod.overhead, "limits.")) {
        // A pod without a limit has none by its overhead either.
        if let Some(known) = at_most.get_mut(&what) {
            *known += amount;
        }
    }
    at_most.insert("pods".into(), 1.0);
    at_most
}

fn of_resources(resources: &Resources) -> Amounts {
    amounts(&resources.requests, "requests.").chain(amounts(&resources.limits, "limits.")).collect()
}

fn amounts(of: &BTreeMap<String, Quantity>, prefix: &str) -> impl Iterator<Item = (String, f64)> {
    of.iter().filter_map(move |(what, quantity)| Some((format!("{prefix}{what}"), in_base_units(quantity)?)))
}

/// So many times an amount.
pub(super) fn add(to: &mut Amounts, more: &Amounts, times: f64) {
    more.iter().for_each(|(what, amount)| *to.entry(what.clone()).or_default() += amount * times);
}

fn raise(to: &mut Amounts, at_least: &Amounts) {
    for (what, amount) in at_least {
        let known = to.entry(what.clone()).or_default();
        *known = known.max(*amount);
    }
}

/// One of the several names that quotas have for the same.
fn usual(what: &str) -> &str {
    match what {
        "cpu" => "requests.cpu",
        "memory" => "requests.memory",
        "ephemeral-storage" => "requests.ephemeral-storage",
        "count/pods" => "pods",
        other => other,
    }
}

fn in_base_units(quantity: &Quantity) -> Option<f64> {
    ParsedQuantity::try_from(quantity).ok()?.to_bytes_f64()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn quota(spec: Value, hard: Value, used: Value) -> Option<Quota> {
        let quota =
            json!({"metadata": {"name": "all"}, "spec": spec, "status": {"hard": hard, "used": used}});
        Quota::read(serde_json::from_value(quota).expect("a quota"))
    }

    fn needed(pod: Value) -> Amounts {
        needs(&serde_json::from_value(pod).expect("the specification of a pod"))
    }

    #[test]
    fn a_quota_has_room_for_what_is_left() {
        let pod = needed(json!({"containers": [{"resources": {
            "requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"},
        }}]}));
        let said = |hard: Value, used: Value, pods| {
            quota(json!({}), hard, used).expect("one without scopes").defers(pods, &pod, &Amounts::new())
        };
        assert_eq!(said(json!({"pods": "4"}), json!({"pods": "3"}), 1), None);
        let full = said(json!({"pods": "3"}), json!({"pods": "3"}), 1).expect("a reason");
        assert_eq!(
            full,
            "waits for ResourceQuota all: its update makes 1 more pod first, and 3 of 3 pods are used"
        );
        assert!(said(json!({"count/pods": "4"}), json!({"count/pods": "3"}), 2).is_some());
        assert_eq!(said(json!({"cpu": "1"}), json!({"cpu": "900m"}), 1), None, "to the last of it");
        assert!(said(json!({"requests.cpu": "1"}), json!({"requests.cpu": "901m"}), 1).is_some());
        assert_eq!(
            said(json!({"cpu": "300m"}), json!({"cpu": "200m"}), 1),
            None,
            "whose sum is no exact one"
        );
        assert_eq!(said(json!({"memory": "1Gi"}), json!({"memory": "960Mi"}), 1), None);
        assert!(said(json!({"limits.memory": "1Gi"}), json!({"limits.memory": "960Mi"}), 1).is_some());
        assert_eq!(said(json!({"secrets": "1"}), json!({"secrets": "1"}), 1), None, "pods are none of those");
        assert_eq!(said(json!({"pods": "3"}), json!({}), 1), None, "nobody has counted yet");
    }

    #[test]
    fn what_others_are_about_to_make_or_give_back_counts() {
        let pod = needed(json!({"containers": [{}]}));
        let said = |used: &str, others: f64| {
            let quota = quota(json!({}), json!({"pods": "4"}), json!({"pods": used}));
            let coming = Amounts::from([("pods".into(), others)]);
            quota.expect("one without scopes").defers(1, &pod, &coming)
        };
        assert_eq!(said("2", 1.0), None);
        assert!(
            said("3", 1.0).expect("a reason").ends_with("3 of 4 pods are used, or will be by other updates")
        );
        assert_eq!(said("4", -1.0), None, "a canary pod that goes");
    }

    #[test]
    fn an_overdrawn_quota_lets_in_who_needs_nothing_of_it() {
        let pod = needed(json!({"containers": [{"resources": {"requests": {"cpu": "0"}}}]}));
        let quota = quota(json!({}), json!({"cpu": "1"}), json!({"cpu": "2"})).expect("one without scopes");
        assert_eq!(quota.defers(1, &pod, &Amounts::new()), None);
    }

    #[test]
    fn whom_a_quota_with_scopes_counts_is_not_judged() {
        let full = || (json!({"pods": "3"}), json!({"pods": "3"}));
        let (hard, used) = full();
        assert!(quota(json!({"scopes": ["BestEffort"]}), hard, used).is_none());
        let (hard, used) = full();
        assert!(quota(json!({"scopeSelector": {"matchExpressions": []}}), hard, used).is_none());
    }

    #[test]
    fn a_pod_needs_what_runs_in_it_at_a_time() {
        let asks = |memory: &str| json!({"requests": {"memory": memory}});
        let memory = |pod: Value| needed(pod)["requests.memory"];
        let two = json!([{"resources": asks("10")}, {"resources": asks("20")}]);
        assert_eq!(memory(json!({"containers": two})), 30.0);
        let first = json!([{"resources": asks("25")}, {"resources": asks("40")}]);
        assert_eq!(memory(json!({"containers": two, "initContainers": first})), 40.0, "one after the other");
        let sidecar = json!([{"resources": asks("5"), "restartPolicy": "Always"}, {"resources": asks("32")}]);
        assert_eq!(memory(json!({"containers": two, "initContainers": sidecar})), 37.0, "both at a time");
        assert_eq!(
            memory(json!({"containers": two, "overhead": {"memory": "7"}, "resources": asks("50")})),
            57.0
        );
        assert_eq!(needed(json!({"containers": [{}]})), Amounts::from([("pods".into(), 1.0)]));
    }
}
