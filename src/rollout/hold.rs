//! Why a changed pod template does not become pods by itself.

use std::fmt;

use serde_json::Value;

/// What an object says of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Paused,
    OnDelete,
    /// Pods below a number keep the earlier template.
    Partition,
    /// Somebody, or an analysis, ended a Rollout's update: the earlier pods are to stay.
    Aborted,
    /// A Rollout's canary step has no end.
    Step,
    /// A Rollout's new pods have no requests until somebody says so.
    Switch,
    Inconclusive,
    /// A Rollout's pause ends by itself.
    Pause,
    /// A Rollout's update is done, and its earlier pods stay for a while.
    Kept,
}

impl Hold {
    /// Takes the whole object. Its messages could quote anything.
    pub(super) fn of(data: &Value) -> Option<Self> {
        let is_set = |pointer: &str| data.pointer(pointer).and_then(Value::as_bool) == Some(true);
        let partition = data.pointer("/spec/updateStrategy/rollingUpdate/partition").and_then(Value::as_i64);
        let by_hand = data.pointer("/spec/updateStrategy/type").and_then(Value::as_str) == Some("OnDelete");
        match partition {
            _ if is_set("/status/abort") => Some(Self::Aborted),
            _ if is_set("/spec/paused") => Some(Self::Paused),
            _ if by_hand => Some(Self::OnDelete),
            Some(1..) => Some(Self::Partition),
            _ => Self::of_update(data),
        }
    }

    /// Where a Rollout's update stands.
    fn of_update(data: &Value) -> Option<Self> {
        let text = |pointer: &str| data.pointer(pointer).and_then(Value::as_str);
        let pause = text("/status/pauseConditions/0/reason");
        let has_end = || {
            let step = data.pointer("/status/currentStepIndex").and_then(Value::as_u64).unwrap_or(0);
            data.pointer(&format!("/spec/strategy/canary/steps/{step}/pause/duration")).is_some()
        };
        match pause {
            Some("CanaryPauseStep") if has_end() => return Some(Self::Pause),
            Some("CanaryPauseStep") => return Some(Self::Step),
            Some("BlueGreenPause") => {
                let promotes = data.pointer("/spec/strategy/blueGreen/autoPromotionEnabled");
                let by_hand = promotes.and_then(Value::as_bool) == Some(false);
                return Some(if by_hand { Self::Switch } else { Self::Pause });
            }
            Some("InconclusiveAnalysisRun" | "InconclusiveExperiment") => return Some(Self::Inconclusive),
            _ => {}
        }
        let (stable, current) = (text("/status/stableRS"), text("/status/currentPodHash"));
        (stable.is_some() && stable == current).then_some(Self::Kept)
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paused => "it is paused, resume it",
            Self::OnDelete => "it replaces a pod when somebody deletes it (OnDelete)",
            Self::Partition => "its partition holds them back",
            Self::Aborted => "its update was aborted, retry it",
            Self::Step => "its canary step waits for a promotion",
            Self::Switch => "its new pods wait for a promotion",
            Self::Inconclusive => "its analysis is inconclusive, promote or abort it",
            Self::Pause => "its update pauses for a while",
            Self::Kept => "it keeps them for a while after its update (scaleDownDelaySeconds)",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn where_the_update_of_a_rollout_stands_follows_from_its_status() {
        let steps = json!([{"setWeight": 50}, {"pause": {}}, {"pause": {"duration": "1h"}}]);
        let canary = |status: Value| {
            Hold::of(&json!({"spec": {"strategy": {"canary": {"steps": steps}}}, "status": status}))
        };
        let paused = |reason: &str, step: u64| {
            canary(json!({
                "currentStepIndex": step, "pauseConditions": [{"reason": reason}],
                "stableRS": "a", "currentPodHash": "b",
            }))
        };
        assert_eq!(paused("CanaryPauseStep", 1), Some(Hold::Step));
        assert_eq!(paused("CanaryPauseStep", 2), Some(Hold::Pause));
        assert_eq!(paused("InconclusiveAnalysisRun", 1), Some(Hold::Inconclusive));
        assert_eq!(canary(json!({"stableRS": "a", "currentPodHash": "b"})), None);
        assert_eq!(canary(json!({"stableRS": "b", "currentPodHash": "b"})), Some(Hold::Kept));
        let aborted = json!({"abort": true, "pauseConditions": [{"reason": "CanaryPauseStep"}]});
        assert_eq!(canary(aborted), Some(Hold::Aborted));
        let blue_green = |promotes: bool| {
            Hold::of(&json!({
                "spec": {"strategy": {"blueGreen": {"autoPromotionEnabled": promotes}}},
                "status": {"pauseConditions": [{"reason": "BlueGreenPause"}]},
            }))
        };
        assert_eq!(blue_green(false), Some(Hold::Switch));
        assert_eq!(blue_green(true), Some(Hold::Pause), "after autoPromotionSeconds");
        assert_eq!(Hold::of(&json!({})), None);
    }
}
