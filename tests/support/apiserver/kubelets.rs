//! What moves by itself in a cluster: a controller that makes and removes the pods of Deployments, one at a time
//! and never below their number, and kubelets that start, watch and kill them. Everything takes a while by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rekeyd::secret::{Credential, SecretValue};
use serde_json::{Value, json};

use super::objects::{Key, Moment, Objects};

/// How far what a kubelet knows of a Secret may lag behind, in milliseconds. By less than it takes to make a pod and
/// start it: a pod that carries a version and reads the one before would be taken for one that has it.
const LAG: u64 = 100;

/// Whether a credential works where it is used.
pub(crate) type Works = Arc<dyn Fn(&Credential) -> bool + Send + Sync>;

pub(super) struct Kubelets {
    rng: fastrand::Rng,
    works: Works,
    lives: BTreeMap<Key, Life>,
    /// When each Deployment is looked at next, and the revision that was seen last.
    turns: BTreeMap<Key, (Duration, u64)>,
    /// Of Secrets: pods that start with anything else crash.
    only: BTreeMap<String, Credential>,
    named: u64,
    /// Until then nothing is due, unless something changes after this revision.
    idle: (Duration, u64),
}

/// A pod's process.
struct Life {
    uid: Value,
    stage: Stage,
    /// When it comes to its next stage.
    due: Duration,
    restarts: u32,
    holds: Option<Credential>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Starting,
    Ready,
    Crashed,
    Leaving,
}

/// A pod, as the model knows it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    /// What it read when it started; `None` when nothing runs in it.
    pub(crate) holds: Option<Credential>,
    pub(crate) is_ready: bool,
    pub(crate) leaves: bool,
}

impl Kubelets {
    pub(super) fn new(seed: u64, works: Works) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let (lives, turns, only) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { rng, works, lives, turns, only, named: 0, idle: (Duration::ZERO, 0) }
    }

    /// From now on pods that read a Secret and start with anything else than this crash.
    pub(super) fn only(&mut self, secret: &str, only: Option<Credential>) {
        match only {
            Some(only) => drop(self.only.insert(secret.to_owned(), only)),
            None => drop(self.only.remove(secret)),
        }
    }

    /// A container of a pod ends, and starts again.
    pub(super) fn crash_one(&mut self, namespace: &str) -> Option<String> {
        let running =
            |(key, life): &(&Key, &mut Life)| key.namespace == namespace && life.stage == Stage::Ready;
        let all: Vec<_> = self.lives.iter_mut().filter(running).collect();
        let index = self.rng.usize(0..all.len().max(1));
        let (key, life) = all.into_iter().nth(index)?;
        (life.stage, life.due) = (Stage::Starting, Duration::ZERO);
        life.holds = None;
        self.idle = (Duration::ZERO, 0);
        Some(key.name.clone())
    }

    pub(super) fn running(&self, objects: &Objects, namespace: &str, reads: &str) -> Vec<Running> {
        let pods = objects
            .all("pods", namespace)
            .filter(|(_, pod)| secret_of(&pod.object).is_some_and(|secret| is_of(&secret, reads)));
        pods.map(|(key, pod)| {
            let life = self.lives.get(key);
            Running {
                name: key.name.clone(),
                holds: life.and_then(|life| life.holds.as_ref()).map(Credential::duplicate),
                is_ready: life.is_some_and(|life| life.stage == Stage::Ready),
                leaves: pod.object["metadata"].get("deletionTimestamp").is_some(),
            }
        })
        .collect()
    }

    /// Everything that is due by now.
    pub(super) fn step(&mut self, objects: &mut Objects, now: &Moment) {
        let (idle_until, seen) = self.idle;
        if now.passed < idle_until && objects.revision == seen {
            return;
        }
        let deployments: Vec<Key> = objects.every_of("deployments").cloned().collect();
        for key in deployments {
            let is_due = |(due, seen): &(Duration, u64)| *due <= now.passed && *seen < objects.revision;
            if self.turns.get(&key).is_none_or(is_due) {
                let seen = objects.revision;
                self.reconcile(objects, &key, now);
                let pause = self.soon(50, 900);
                self.turns.insert(key, (now.passed + pause, seen));
            }
        }
        let pods: BTreeSet<Key> = objects.every_of("pods").cloned().collect();
        self.lives.retain(|key, _| pods.contains(key));
        for key in pods {
            self.live(objects, &key, now);
        }
        let waits = self.turns.values().filter(|(_, seen)| *seen < objects.revision).map(|(due, _)| *due);
        let next = waits.chain(self.lives.values().map(|life| life.due)).min();
        self.idle = (next.unwrap_or(Duration::MAX), objects.revision);
    }

    fn soon(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.u64(least..most))
    }

    /// One look of the controller at a Deployment.
    fn reconcile(&mut self, objects: &mut Objects, key: &Key, now: &Moment) {
        let Some(deployment) = objects.peek(key).cloned() else { return };
        let desired = deployment["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
        let template = &deployment["spec"]["template"];
        let mut hasher = DefaultHasher::new();
        template.to_string().hash(&mut hasher);
        let set = format!("{}-{:08x}", key.name, hasher.finish() as u32);
        let (mut new, mut old) = (Vec::new(), Vec::new());
        for (pod, stored) in objects.all("pods", &key.namespace) {
            let owner = &stored.object["metadata"]["ownerReferences"][0];
            if owner["deployment"] == key.name.as_str()
                && stored.object["metadata"].get("deletionTimestamp").is_none()
            {
                let is_ready = self.lives.get(pod).is_some_and(|life| life.stage == Stage::Ready);
                if owner["name"] == set.as_str() { &mut new } else { &mut old }.push((pod.clone(), is_ready));
            }
        }
        let ready = |pods: &[(Key, bool)]| pods.iter().filter(|(_, is_ready)| *is_ready).count();
        let all = new.len() + old.len();
        if new.len() < desired && all < desired + 1 {
            self.make(objects, key, &set, template, now);
        } else if new.len() > desired {
            end(objects, &new[0].0, template, now);
        } else {
            // First those that are not well, then one for each that is there beyond the number.
            let spare_unready = all.saturating_sub(desired + new.len() - ready(&new));
            let unready = old.iter().filter(|(_, is_ready)| !is_ready).take(spare_unready);
            let spare = (ready(&new) + ready(&old)).saturating_sub(desired);
            let others = old.iter().filter(|(_, is_ready)| *is_ready).take(spare);
            for (pod, _) in unready.chain(others) {
                end(objects, pod, template, now);
            }
        }
        let generation = deployment["metadata"]["generation"].clone();
        let (total, updated, available) = (all, new.len(), ready(&new) + ready(&old));
        objects.set(key, now, |object| {
            object["status"] = json!({
                "observedGeneration": generation, "replicas": total, "updatedReplicas": updated,
                "readyReplicas": available, "availableReplicas": available,
            });
        });
    }

    fn make(&mut self, objects: &mut Objects, of: &Key, set: &str, template: &Value, now: &Moment) {
        self.named += 1;
        let key = Key::new("pods", &of.namespace, &format!("{set}-{:03}", self.named));
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": set, "controller": true,
            // Saves the model its ReplicaSets.
            "deployment": of.name,
        }]);
        pod["status"] = json!({"phase": "Pending"});
        drop(objects.create(&key, "kube-controller-manager", &pod, now, false));
    }

    /// One look of a kubelet at a pod.
    fn live(&mut self, objects: &mut Objects, key: &Key, now: &Moment) {
        let Some(pod) = objects.peek(key) else { return };
        let (uid, leaves) =
            (pod["metadata"]["uid"].clone(), pod["metadata"].get("deletionTimestamp").is_some());
        let (secret, first) = (secret_of(pod), self.soon(100, 2_500));
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30) * 1_000;
        let ending = self.soon(50, grace.max(100));
        let life = self.lives.entry(key.clone()).or_insert_with(|| new_life(&uid, now.passed + first));
        if life.uid != uid {
            *life = new_life(&uid, now.passed + first);
        }
        if leaves && life.stage != Stage::Leaving {
            (life.stage, life.due) = (Stage::Leaving, now.passed + ending);
        }
        if life.due > now.passed {
            return;
        }
        match life.stage {
            Stage::Leaving => {
                self.lives.remove(key);
                objects.remove(key, now);
            }
            Stage::Waiting | Stage::Crashed => self.start(objects, key, secret.as_deref(), now),
            // Its container ended by chance.
            Stage::Starting if life.holds.is_none() => {
                life.restarts += 1;
                self.start(objects, key, secret.as_deref(), now);
            }
            Stage::Starting | Stage::Ready => self.look(objects, key, now),
        }
    }

    /// A container starts, with what its Secret says; without one it waits.
    fn start(&mut self, objects: &mut Objects, key: &Key, secret: Option<&str>, now: &Moment) {
        let lag = self.soon(0, LAG);
        let behind = now.passed.saturating_sub(lag);
        let secret =
            secret.map(|name| objects.earlier(&Key::new("secrets", &key.namespace, name), Some(behind)));
        let found = match secret {
            Some(Ok(secret)) => credential(&secret),
            Some(Err(_)) | None => None,
        };
        let (again, next) = (self.soon(500, 4_000), self.soon(100, 1_500));
        let Some(life) = self.lives.get_mut(key) else { return };
        life.holds = found;
        if life.holds.is_none() {
            (life.stage, life.due) = (Stage::Waiting, now.passed + again);
            let waiting = json!({"waiting": {"reason": "CreateContainerConfigError"}});
            return show(objects, key, now, (false, life.restarts), &waiting);
        }
        (life.stage, life.due) = (Stage::Starting, now.passed + next);
        let running = json!({"running": {"startedAt": now.text}});
        show(objects, key, now, (false, life.restarts), &running);
    }

    /// Whether what runs is well: it logs in with what it has.
    fn look(&mut self, objects: &mut Objects, key: &Key, now: &Moment) {
        let (crashed, checked) = (self.soon(500, 6_000), self.soon(5_000, 20_000));
        let Some(life) = self.lives.get_mut(key) else { return };
        let Some(held) = life.holds.as_ref() else { return };
        let secret = objects.peek(key).and_then(secret_of).unwrap_or_default();
        let mut only = self.only.iter().filter(|(name, _)| is_of(&secret, name));
        let fails = life.stage == Stage::Starting && only.any(|(_, only)| only != held);
        if fails || !(self.works)(held) {
            life.restarts += 1;
            life.holds = None;
            (life.stage, life.due) = (Stage::Crashed, now.passed + crashed);
            let ended = match life.restarts {
                1 => json!({"terminated": {"exitCode": 1}}),
                _ => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
            };
            return show(objects, key, now, (false, life.restarts), &ended);
        }
        let was_ready = std::mem::replace(&mut life.stage, Stage::Ready) == Stage::Ready;
        life.due = now.passed + checked;
        if !was_ready {
            let state = objects.peek(key).map(|pod| pod["status"]["containerStatuses"][0]["state"].clone());
            show(objects, key, now, (true, life.restarts), &state.unwrap_or_default());
        }
    }
}

fn new_life(uid: &Value, due: Duration) -> Life {
    Life { uid: uid.clone(), stage: Stage::Waiting, due, restarts: 0, holds: None }
}

/// A pod is on its way out.
fn end(objects: &mut Objects, pod: &Key, template: &Value, now: &Moment) {
    let grace = template["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    drop(objects.delete(pod, None, Some(now.later(grace)), now, false));
}

/// What a kubelet says of a pod.
fn show(objects: &mut Objects, key: &Key, now: &Moment, (is_ready, restarts): (bool, u32), state: &Value) {
    objects.set(key, now, |pod| {
        let runs = state.get("running").is_some();
        pod["status"] = json!({
            "phase": if runs { "Running" } else { "Pending" },
            "conditions": [{
                "type": "Ready", "status": if is_ready { "True" } else { "False" }, "lastTransitionTime": now.text,
            }],
            "containerStatuses": [{
                "name": "app", "image": "app", "imageID": "app", "ready": is_ready, "restartCount": restarts,
                "state": state,
            }],
        });
    });
}

/// The Secret that a pod's container has in its environment.
fn secret_of(pod: &Value) -> Option<String> {
    let name = pod.pointer("/spec/containers/0/envFrom/0/secretRef/name")?;
    name.as_str().map(ToOwned::to_owned)
}

/// Whether a name is of a Secret or of one of its versions.
fn is_of(name: &str, secret: &str) -> bool {
    name.strip_prefix(secret).is_some_and(|rest| rest.is_empty() || rest.starts_with("-v"))
}

/// What a Secret says.
pub(super) fn credential(secret: &Value) -> Option<Credential> {
    let field = |key: &str| STANDARD.decode(secret["data"][key].as_str()?).ok();
    let principal = String::from_utf8(field("username")?).ok()?.parse().ok()?;
    Some(Credential::new(principal, SecretValue::new(field("password")?)))
}
