//! Who reads the value.

use super::ask::{Asker, invalid};
use super::flags::Flags;
use super::target::Settled;
use super::yaml::{Map, Node};
use super::{Answer, Stop};
use crate::ident::{DnsLabel, ObjectName};

pub(super) struct Readers {
    pub(super) nodes: Vec<Map>,
    pub(super) need_cluster: bool,
}

impl Readers {
    /// `are_read` says that applications can ask the store itself.
    pub(super) fn ask(
        ask: &Asker,
        flags: &mut Flags,
        target: &Settled,
        are_read: bool,
    ) -> Result<Self, Stop> {
        let mut given = std::mem::take(&mut flags.consumer);
        if given.is_empty() {
            let question = "Who reads it: file:PATH, kubernetes:NAMESPACE/SECRET or none";
            given.push(ask.text(None, "--consumer", question, are_read.then(|| "none".into()))?);
        }
        let mut readers = Self { nodes: Vec::new(), need_cluster: false };
        for Answer(text) in &given {
            if text == "none" && given.len() == 1 {
                break;
            }
            readers.add(text, target)?;
        }
        Ok(readers)
    }

    fn add(&mut self, text: &str, target: &Settled) -> Result<(), Stop> {
        let wrong = || {
            let reason = format!("nobody is to be found at the reader {text:?}");
            let remedy =
                "write --consumer file:/run/orders/db.env, kubernetes:orders/orders-db, or none alone";
            Stop::Usage(invalid(&reason, remedy))
        };
        match text.split_once(':') {
            Some(("file", path)) => {
                let content = match target.content {
                    lines if lines.contains('\n') => Node::Lines(lines),
                    value => Node::Text(value.to_owned()),
                };
                let file = Map::new()
                    .text("path", path)
                    .with("content", content)
                    .remark("A template: principal, value, version, policy and namespace are known.\nWith `reload: [systemctl, reload, NAME]` the reader is told.");
                self.nodes.push(Map::new().map("file", file));
            }
            Some(("kubernetes", place)) => {
                let (namespace, secret) = place.split_once('/').ok_or_else(wrong)?;
                let namespace: DnsLabel = namespace.parse().map_err(|_| wrong())?;
                let secret: ObjectName = secret.parse().map_err(|_| wrong())?;
                let kubernetes = Map::new().text("namespace", namespace).text("secret", secret);
                self.nodes.push(Map::new().map("kubernetes", kubernetes).remark(
                    "Workloads whose pod template refers to the Secret restart by themselves. `rekeyd rbac` prints the rights.",
                ));
                self.need_cluster = true;
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

/// The cluster, if one is needed.
pub(super) fn cluster(ask: &Asker, flags: &mut Flags, is_needed: bool) -> Result<Option<Map>, Stop> {
    if !is_needed {
        return Ok(None);
    }
    let file = ask.optional(
        flags.kubeconfig.take(),
        "Kubeconfig of the cluster; empty for the one that rekeyd runs in",
    )?;
    Ok(Some(match file {
        Some(file) => Map::new().map("kubeconfig", Map::new().text("path", file)),
        None => Map::new().map("inCluster", Map::new()),
    }))
}
