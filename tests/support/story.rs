//! The whole story of objects in a namespace: every change of them, as the API server tells it to those who watch.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::kubernetes::Namespace;
use crate::processes::in_time;

/// What happened to an object.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// Of the whole cluster: the changes of all objects have one order, whoever tells of them first.
    pub(crate) revision: u64,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// As it is from then on, unless it is gone.
    pub(crate) object: Option<Value>,
}

impl Change {
    /// `None` for what a watch says when it can tell no more.
    pub(crate) fn read(mut event: Value) -> Option<Self> {
        let is_gone = match event["type"].as_str()? {
            "ADDED" | "MODIFIED" => false,
            "DELETED" => true,
            _ => return None,
        };
        let object = event["object"].take();
        let metadata = &object["metadata"];
        Some(Self {
            revision: metadata["resourceVersion"].as_str()?.parse().ok()?,
            kind: object["kind"].as_str()?.to_owned(),
            name: metadata["name"].as_str()?.to_owned(),
            object: (!is_gone).then_some(object),
        })
    }
}

/// A story that goes on.
pub(crate) struct Story {
    changes: mpsc::UnboundedReceiver<Option<Change>>,
    _watches: Vec<Child>,
}

impl Story {
    /// It begins with the objects of these kinds that there are.
    pub(crate) fn watch(space: &Namespace, kinds: &[&str]) -> Self {
        let (sender, changes) = mpsc::unbounded_channel();
        let watch = |kind: &&str| {
            let mut command = space.command(&["get", kind, "--watch", "--output-watch-events", "-o", "json"]);
            let mut child =
                command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl starts");
            let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    let change = serde_json::from_str(&line).ok().and_then(Change::read);
                    if change.is_none() || sender.send(change).is_err() {
                        break;
                    }
                }
                let _ = sender.send(None);
            });
            child
        };
        Self { _watches: kinds.iter().map(watch).collect(), changes }
    }

    /// The next change. A watch that ends fails the test: nothing could be said of what it left out.
    pub(crate) async fn next(&mut self) -> Change {
        let change = in_time("a change", self.changes.recv()).await;
        change.flatten().expect("a watch ended")
    }
}
