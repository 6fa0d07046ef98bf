//! Secrets that the CSI driver fills from a store, beside what it mounts.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use kube::Client;
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

use super::reference::classes;
use super::shape::{Pod, PodSpec};
use super::workload::template_pointer;
use crate::failure::Failure;
use crate::ident::ObjectName;
use crate::kubernetes::failure;
use crate::policy::spec::WorkloadKind;

/// The classes that the CSI driver fills a Secret from: whoever mounts one has what the Secret holds.
pub(super) async fn filling<'a>(
    client: &Client,
    namespace: &str,
    secret: &ObjectName,
    lists: impl Iterator<Item = (&'a WorkloadKind, &'a Vec<DynamicObject>)>,
    pods: &[Pod],
) -> Result<BTreeSet<String>, Failure> {
    let of_templates = lists.flat_map(|(kind, objects)| {
        let templates = objects.iter().filter_map(|object| object.data.pointer(template_pointer(*kind)));
        templates.filter_map(|template| serde_json::from_value::<PodSpec>(template.get("spec")?.clone()).ok())
    });
    let of_pods = pods.iter().map(|pod| pod.spec.clone());
    let named: BTreeSet<String> = of_templates
        .chain(of_pods)
        .flat_map(|pod| classes(&pod).map(ToOwned::to_owned).collect::<Vec<_>>())
        .collect();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "secrets-store.csi.x-k8s.io",
        "v1",
        "SecretProviderClass",
    ));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let read = named.into_iter().map(async |name| {
        let doing = || format!("read SecretProviderClass {name} in namespace {namespace}");
        let class = api.get_opt(&name).await.map_err(|error| failure(&error, &doing()))?;
        let objects = class.as_ref().and_then(|class| class.data.pointer("/spec/secretObjects")?.as_array());
        let fills = |object: &Value| object["secretName"].as_str() == Some(secret.as_str());
        Ok(objects.is_some_and(|objects| objects.iter().any(fills)).then_some(name))
    });
    let read: Vec<Option<String>> = try_join_all(read).await?;
    Ok(read.into_iter().flatten().collect())
}
