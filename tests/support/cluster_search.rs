//! Searches a cluster for values: what its API server keeps and logs, and what pods print, those that are gone too.
//! Each place has to give up a value that is planted there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::secret::Credential;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::canaries::{Canaries, Scanner};
use crate::cluster::SECRET;
use crate::kubernetes::{Cluster, Namespace, PATIENCE};
use crate::postgres_support::text;
use crate::processes::in_time;

/// How often logs are looked for: pods live longer than that.
const LOOK: Duration = Duration::from_millis(100);

/// A search that is prepared for.
pub(crate) struct Search<'a> {
    cluster: &'a Cluster,
    /// What is planted is in the first of them.
    spaces: Vec<&'a Namespace>,
    printed: Printed,
    said: Vec<(String, Vec<u8>)>,
}

impl<'a> Search<'a> {
    /// Keeps what pods of these namespaces print from now on. In the first one is the Secret.
    pub(crate) fn begin(cluster: &'a Cluster, spaces: &[&'a Namespace]) -> Self {
        let printed = Printed::follow(cluster, spaces);
        Self { cluster, spaces: spaces.to_vec(), printed, said: Vec::new() }
    }

    /// Takes in what was said elsewhere.
    pub(crate) fn also(&mut self, place: &str, said: impl Into<Vec<u8>>) {
        let said = said.into();
        assert!(!said.is_empty(), "{place} is empty");
        self.said.push((place.to_owned(), said));
    }

    /// So many pods printed something whose names begin like this.
    pub(crate) fn heard(&self, name: &str) -> usize {
        self.printed.gather();
        let texts = self.printed.texts();
        let heard = texts.iter().filter(|(pod, text)| pod.name.starts_with(name) && !text.is_empty());
        heard.map(|(pod, _)| pod).collect::<BTreeSet<_>>().len()
    }

    /// No value is anywhere: in Events, statuses, annotations, managed fields, nor in anything else that is kept but
    /// the Secret itself, which is encrypted; nor in what is logged and printed. The last of them is planted.
    pub(crate) async fn nothing_gives_away(self, values: &[&Credential]) {
        let mut canaries = Canaries::default();
        values.iter().for_each(|value| canaries.add(text(value).as_bytes()));
        let scanner = canaries.scanner();
        let planted = self.plant(text(values.last().expect("a value")), &scanner).await;

        let (mut found, mut searched) = (BTreeMap::new(), 0);
        let mut search = |place: String, bytes: &[u8]| {
            searched += 1;
            if let Some((form, _)) = scanner.find(bytes) {
                found.insert(place, form);
            }
        };
        for (key, value) in self.cluster.kept().await {
            search(key, &value);
        }
        let log = std::fs::read(&self.cluster.audit_log).expect("a log");
        for line in lines(&log) {
            if scanner.find(line).is_some() {
                search(entry(line), line);
            }
        }
        self.printed.gather();
        for (pod, text) in self.printed.texts() {
            search(pod.place(), &text);
        }
        for (place, said) in &self.said {
            search(place.clone(), said);
        }
        let beyond: Vec<_> = found.iter().filter(|(place, _)| !planted.contains(*place)).collect();
        assert!(beyond.is_empty(), "values are where they do not belong: {beyond:?}");
        let missed: Vec<_> = planted.iter().filter(|place| !found.contains_key(*place)).collect();
        assert!(missed.is_empty(), "the search does not find what is planted: {missed:?}");
        assert!(searched > 200, "{searched} places were searched");
    }

    /// Puts a value into a place of each kind, and has a pod print what the Secret holds.
    async fn plant(&self, value: &str, scanner: &Scanner) -> BTreeSet<String> {
        let space = self.spaces[0];
        let container = json!({"name": "leak", "image": "localhost/busybox:1", "imagePullPolicy": "Never"});
        let mut prints = container.clone();
        prints["command"] = json!(["sh", "-c", "echo \"$password\""]);
        prints["envFrom"] = json!([{"secretRef": {"name": SECRET}}]);
        let config_map =
            |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let mut content = config_map("leak");
        content["data"] = json!({"password": value});
        let mut annotation = config_map("leak-annotation");
        annotation["metadata"]["annotations"] = json!({"example.org/note": value});
        let event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "leak"},
            "eventTime": "2026-01-04T02:00:00.000000Z", "type": "Normal", "reason": "Leak", "action": "Leak",
            "note": value, "reportingController": "example.org/leak", "reportingInstance": "leak",
            "regarding": {"apiVersion": "v1", "kind": "ConfigMap", "name": "leak", "namespace": space.name},
        });
        // Nobody schedules it, so that nobody but the test writes its status.
        let status = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "leak-status"},
            "spec": {"schedulerName": "nobody", "containers": [container]},
        });
        let printer = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "leak"},
            "spec": {"restartPolicy": "Never", "containers": [prints]},
        });
        let objects = [content, annotation, event, status, printer];
        space.create(&json!({"apiVersion": "v1", "kind": "List", "items": objects})).await;
        let condition = json!({"type": "example.org/leak", "status": "False", "message": value});
        let condition = json!({"status": {"conditions": [condition]}}).to_string();
        space.kubectl(&["patch", "pod/leak-status", "--subresource=status", "-p", &condition]).await;

        // Who writes is named in the managed fields, and in the address of the request, which is logged.
        let log = std::fs::metadata(&self.cluster.audit_log).expect("a log").len();
        let manager = format!("--field-manager={value}");
        let create = ["--namespace", &space.name, "create", "-f", "-", &manager];
        let mut managed = config_map("leak-manager");
        // Who manages no field is not named.
        managed["data"] = json!({"colour": "green"});
        self.cluster.kubectl(&create, &managed.to_string()).await;
        let logged = format!("the audit log: create configmaps in {}", space.name);
        let is_logged = || {
            let mut file = File::open(&self.cluster.audit_log).expect("a log");
            let mut tail = Vec::new();
            file.seek(std::io::SeekFrom::Start(log)).expect("a place in it");
            file.read_to_end(&mut tail).expect("a log");
            lines(&tail).any(|line| scanner.find(line).is_some() && entry(line) == logged)
        };
        in_time("a request is logged", async {
            while !is_logged() {
                SystemClock.sleep(LOOK).await;
            }
        })
        .await;

        // Gone by the time of the search, with the log that a node kept of it.
        space.kubectl(&["wait", "pod/leak", "--for=jsonpath={.status.phase}=Succeeded", PATIENCE]).await;
        in_time("its log is held", async {
            while self.heard("leak") == 0 {
                SystemClock.sleep(LOOK).await;
            }
        })
        .await;
        space.kubectl(&["delete", "pod/leak"]).await;

        let key = |object: &str| {
            let (kind, name) = object.split_once('/').expect("a kind and a name");
            format!("/registry/{kind}/{}/{name}", space.name)
        };
        let kept = [
            "configmaps/leak",
            "configmaps/leak-annotation",
            "configmaps/leak-manager",
            "events/leak",
            "pods/leak-status",
        ];
        let printed = PodName { namespace: space.name.clone(), name: "leak".into() };
        kept.map(key).into_iter().chain([logged, printed.place()]).collect()
    }
}

/// The whole lines of a log that is being written.
fn lines(log: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = memchr::memrchr(b'\n', log).map_or(0, |end| end + 1);
    log[..whole].split(|byte| *byte == b'\n')
}

/// Which request a line of the audit log tells of.
fn entry(line: &[u8]) -> String {
    let entry: Value = serde_json::from_slice(line).expect("JSON");
    let part = |part: &Value| part.as_str().unwrap_or("?").to_owned();
    let object = &entry["objectRef"];
    let (verb, resource, namespace) =
        (part(&entry["verb"]), part(&object["resource"]), part(&object["namespace"]));
    format!("the audit log: {verb} {resource} in {namespace}")
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PodName {
    namespace: String,
    name: String,
}

impl PodName {
    /// Of a folder `namespace_name_uid`.
    fn of(folder: &Path) -> Option<Self> {
        let mut parts = folder.file_name()?.to_str()?.split('_').map(ToOwned::to_owned);
        Some(Self { namespace: parts.next()?, name: parts.next()? })
    }

    fn place(&self) -> String {
        format!("what pod {} printed in {}", self.name, self.namespace)
    }
}

/// What pods printed. A node removes their files with the pods, so each is held open from when it is there.
struct Printed {
    held: Arc<Held>,
    gathering: JoinHandle<()>,
}

struct Held {
    folders: Vec<PathBuf>,
    spaces: BTreeSet<String>,
    files: Mutex<BTreeMap<PathBuf, (PodName, File)>>,
}

impl Printed {
    fn follow(cluster: &Cluster, spaces: &[&Namespace]) -> Self {
        let spaces = spaces.iter().map(|space| space.name.clone()).collect();
        let held = Held { folders: cluster.pod_logs.clone(), spaces, files: Mutex::default() };
        let held = Arc::new(held);
        let gathered = Arc::clone(&held);
        let gathering = tokio::spawn(async move {
            loop {
                gathered.gather();
                SystemClock.sleep(LOOK).await;
            }
        });
        Self { held, gathering }
    }

    fn gather(&self) {
        self.held.gather();
    }

    /// What there is of each file by now.
    fn texts(&self) -> Vec<(PodName, Vec<u8>)> {
        let files = self.held.files.lock().expect("nobody panicked");
        let read = |(pod, file): &(PodName, File)| {
            let (mut text, mut file) = (Vec::new(), file);
            file.rewind().expect("a file");
            file.read_to_end(&mut text).expect("a file");
            (pod.clone(), text)
        };
        files.values().map(read).collect()
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        self.gathering.abort();
    }
}

impl Held {
    /// Opens those that are new.
    fn gather(&self) {
        let mut files = self.files.lock().expect("nobody panicked");
        for folder in self.folders.iter().flat_map(|folder| below(folder)) {
            let Some(pod) = PodName::of(&folder).filter(|pod| self.spaces.contains(&pod.namespace)) else {
                continue;
            };
            for path in below(&folder).flat_map(|container| below(&container)) {
                // One that is gone meanwhile was so short that nobody could have read it.
                if !files.contains_key(&path)
                    && let Ok(file) = File::open(&path)
                {
                    files.insert(path, (pod.clone(), file));
                }
            }
        }
    }
}

/// What is in a folder, if that is still there.
fn below(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
