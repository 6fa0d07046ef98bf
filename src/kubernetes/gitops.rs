//! Whether a GitOps tool leaves a Secret's content alone. Pure: judged by what the object and the tool's own
//! resource say.
//!
//! What was measured with Argo CD under automated self-heal and prune (2.14 and 3.5, alike):
//!
//! | in Git | options | what becomes of a value that rekeyd writes |
//! |---|---|---|
//! | nothing, or the object without `data` and `stringData` | any but `Replace=true` | it stays |
//! | `data` | `ignoreDifferences` on `/data`, `RespectIgnoreDifferences=true`, `ServerSideApply=true` | it stays |
//! | `data` | the same without `ServerSideApply=true` | it stays, and is copied into an annotation: a leak |
//! | `data` | `ignoreDifferences` alone | it stays until the next sync of any commit |
//! | `data` | none | it is overwritten within seconds |
//! | anything | `Replace=true` | it is emptied or overwritten at the next sync |
//! | nothing any more | prune | it is deleted |

use serde_json::Value;

/// Kubectl's own copy of what was applied, which Argo CD writes, too.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How an object is kept by a GitOps tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// No such tool keeps it.
    Free,
    /// The tool keeps it and leaves its content alone.
    Safe { tool: Tool, why: &'static str },
    /// What rekeyd writes is lost or leaks, now or at the next sync.
    Unsafe { tool: Tool, why: &'static str, remedy: String },
}

/// Who keeps an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// By the name of its Application, and the namespace of that if it is said.
    ArgoCd { namespace: Option<String>, application: String },
    /// By the kind and the name of what it reconciles.
    Flux { kind: &'static str, name: String },
}

impl std::fmt::Display for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ArgoCd { application, .. } => write!(f, "Argo CD (Application {application})"),
            Self::Flux { kind, name } => write!(f, "Flux ({kind} {name})"),
        }
    }
}

/// Who keeps an object, by the marks on it.
#[must_use]
pub fn keeper(metadata: &Value) -> Option<Tool> {
    let annotation = |key: &str| metadata["annotations"][key].as_str();
    let label = |key: &str| metadata["labels"][key].as_str();
    if let Some(id) = annotation("argocd.argoproj.io/tracking-id") {
        // `app:group/kind:namespace/name`, where `app` may be `namespace_app`.
        let name = id.split(':').next().unwrap_or_default();
        let (namespace, application) = match name.split_once('_') {
            Some((namespace, application)) => (Some(namespace.to_owned()), application),
            None => (None, name),
        };
        return Some(Tool::ArgoCd { namespace, application: application.to_owned() });
    }
    let flux = [("kustomize", "Kustomization"), ("helm", "HelmRelease")];
    for (controller, kind) in flux {
        if let Some(name) = label(&format!("{controller}.toolkit.fluxcd.io/name")) {
            return Some(Tool::Flux { kind, name: name.to_owned() });
        }
    }
    // Others use these labels as well: they are Argo CD's if Argo CD wrote to the object. Which label it is can be
    // set there: by another one its Application is not known, and so not read.
    let written = |(manager, _): (&str, &Value)| {
        ["argocd-controller", "argocd-application-controller"].contains(&manager)
    };
    if !managers(metadata).any(written) {
        return None;
    }
    let instance = label("app.kubernetes.io/instance").or_else(|| label("argocd.argoproj.io/instance"));
    Some(Tool::ArgoCd { namespace: None, application: instance.unwrap_or("unknown").to_owned() })
}

/// How a Secret is kept. `application` is the Application that keeps it, if it could be read.
#[must_use]
pub fn layout(metadata: &Value, application: Option<&Value>) -> Layout {
    let Some(tool) = keeper(metadata) else { return Layout::Free };
    if let Tool::Flux { .. } = tool {
        let ignores =
            metadata["annotations"]["kustomize.toolkit.fluxcd.io/ssa"].as_str() == Some("IfNotPresent");
        return match (!in_git(metadata).is_empty(), ignores) {
            (false, _) => Layout::Safe { tool, why: "Git holds the object without data" },
            (true, true) => Layout::Safe { tool, why: "it is applied only while it is not there" },
            (true, false) => Layout::Unsafe {
                tool,
                why: "Git holds data for it, which is written over the value at the next reconciliation",
                remedy: format!(
                    "take `data` and `stringData` out of the manifest in Git:\n{}",
                    bare(metadata)
                ),
            },
        };
    }
    let is_known = application.is_some();
    let application = application.unwrap_or(&Value::Null);
    if is_to_be_pruned(application, metadata) {
        return Layout::Unsafe {
            tool,
            why: "Git does not hold it any more, so that it is pruned",
            remedy: format!("put it into Git again, without data:\n{}", bare(metadata)),
        };
    }
    if replaces(metadata, application) {
        return Layout::Unsafe {
            tool,
            why: "it is replaced as a whole at each sync, which empties it",
            remedy: "take `Replace=true` out of the Application's syncOptions, and out of the annotation \
                     `argocd.argoproj.io/sync-options` of the Secret"
                .into(),
        };
    }
    let mut parts = in_git(metadata);
    // Once rekeyd owns the fields nothing on the object says that Git has them, too. Whoever ignores them has
    // them there, or has their live values copied by a sync.
    if parts.is_empty() && ignores(application, metadata, &["data"]) {
        parts.push("data");
    }
    if parts.is_empty() && !is_known {
        return Layout::Unsafe {
            tool,
            why: "its Application cannot be read, and could empty it or copy its value",
            remedy: "set `argoCd` in the settings to where Applications are, and grant what `rekeyd rbac` writes for it"
                .into(),
        };
    }
    if parts.is_empty() {
        return Layout::Safe { tool, why: "Git holds the object without data" };
    }
    let ignores = ignores(application, metadata, &parts);
    let remedy = "take `data` and `stringData` out of the manifest in Git, or add to the Application:\n\
         spec:\n  ignoreDifferences:\n    - kind: Secret\n      name: NAME\n      jsonPointers: [/data, /stringData]\n  \
         syncPolicy:\n    syncOptions: [RespectIgnoreDifferences=true, ServerSideApply=true]"
        .replace("NAME", metadata["name"].as_str().unwrap_or("NAME"));
    // What is ignored is respected by a sync or not, whatever an object says; how it is applied may be its own affair.
    let respects = of_application(application, "RespectIgnoreDifferences=true");
    let server_side = !of_object(metadata, "ServerSideApply=false")
        && has_option(metadata, application, "ServerSideApply=true");
    match (ignores, respects, server_side) {
        (true, true, true) => Layout::Safe { tool, why: "its data is ignored, at syncs as well" },
        (true, true, false) => Layout::Unsafe {
            tool,
            why: "each sync copies the live value into an annotation of the Secret",
            remedy,
        },
        (true, false, _) => Layout::Unsafe {
            tool,
            why: "its data is ignored by self-heal, and written over the value at the next sync of any commit",
            remedy,
        },
        (false, _, _) => Layout::Unsafe {
            tool,
            why: "Git holds data for it, which self-heal writes over the value within seconds",
            remedy,
        },
    }
}

/// Whether each sync replaces an object as a whole, as it says itself or its Application does: what others wrote
/// into it is lost then.
#[must_use]
pub fn replaces(metadata: &Value, application: &Value) -> bool {
    has_option(metadata, application, "Replace=true")
}

fn has_option(metadata: &Value, application: &Value, name: &str) -> bool {
    of_object(metadata, name) || of_application(application, name)
}

fn of_object(metadata: &Value, option: &str) -> bool {
    let said = metadata["annotations"]["argocd.argoproj.io/sync-options"].as_str().unwrap_or_default();
    said.split(',').any(|said| said.trim() == option)
}

fn of_application(application: &Value, option: &str) -> bool {
    let said = application["spec"]["syncPolicy"]["syncOptions"].as_array().into_iter().flatten();
    said.into_iter().any(|said| said.as_str() == Some(option))
}

/// The manifest that is safe under every tool and option but `Replace=true`.
fn bare(metadata: &Value) -> String {
    let said = |field: &str| metadata[field].as_str().unwrap_or("?");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {}\n  namespace: {}",
        said("name"),
        said("namespace")
    )
}

/// Whether an Application says that it is to delete a Secret.
fn is_to_be_pruned(application: &Value, metadata: &Value) -> bool {
    let mut resources = application["status"]["resources"].as_array().into_iter().flatten();
    resources.any(|resource| {
        resource["kind"] == "Secret"
            && resource["name"] == metadata["name"]
            && resource["namespace"] == metadata["namespace"]
            && resource["requiresPruning"] == true
    })
}

/// Whether a tool writes an annotation of a pod template back: Git sets it.
#[must_use]
pub fn pins(metadata: &Value, template: &str, annotation: &str) -> bool {
    let applied = applied(metadata);
    let own = format!("{template}/metadata/annotations");
    let by_client = applied.pointer(&own).is_some_and(|all| !all[annotation].is_null());
    let fields = own.replace('/', "/f:");
    by_client
        || managers(metadata).any(|(manager, entry)| {
            let owned = entry["fieldsV1"].pointer(&fields);
            is_tool(manager) && owned.is_some_and(|all| !all[format!("f:{annotation}")].is_null())
        })
}

/// What was applied from Git by a client, as the object's copy of it says.
fn applied(metadata: &Value) -> Value {
    let copy = metadata["annotations"][LAST_APPLIED].as_str();
    copy.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn is_tool(manager: &str) -> bool {
    manager.starts_with("argocd") || ["kustomize-controller", "helm-controller"].contains(&manager)
}

/// The parts of the object in Git that have content: by what was applied from there.
fn in_git(metadata: &Value) -> Vec<&'static str> {
    let applied = applied(metadata);
    let is_there = |part: &&str| {
        // With server-side apply the tool owns the fields that Git has.
        let by_server = managers(metadata).any(|(manager, entry)| {
            is_tool(manager)
                // Helm writes without it.
                && (entry["operation"] == "Apply" || manager == "helm-controller")
                && !entry["fieldsV1"][format!("f:{part}")].is_null()
        });
        !applied[*part].is_null() || by_server
    };
    ["data", "stringData"].into_iter().filter(is_there).collect()
}

fn managers(metadata: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let entries = metadata["managedFields"].as_array().into_iter().flatten();
    entries.filter_map(|entry| Some((entry["manager"].as_str()?, entry)))
}

/// Whether an Application leaves parts of the Secret alone. One that is written as `stringData` is compared both
/// ways.
fn ignores(application: &Value, metadata: &Value, parts: &[&str]) -> bool {
    let rules = application["spec"]["ignoreDifferences"].as_array().into_iter().flatten();
    let rules = rules.filter(|rule| {
        let fits =
            |field: &str, of: &Value| rule[field].as_str().is_none_or(|said| of.as_str() == Some(said));
        let is_kind = rule["kind"].as_str().is_some_and(|kind| kind == "Secret" || kind == "*");
        is_kind && fits("name", &metadata["name"]) && fits("namespace", &metadata["namespace"])
    });
    let rules: Vec<&Value> = rules.collect();
    let covered = |field: &str, wanted: &str| {
        let said = rules.iter().flat_map(|rule| rule[field].as_array().into_iter().flatten());
        said.filter_map(Value::as_str).any(|said| said == wanted)
    };
    let is_covered = |part: &str| {
        covered("jsonPointers", &format!("/{part}")) || covered("jqPathExpressions", &format!(".{part}"))
    };
    let as_text = parts.contains(&"stringData");
    let by_manager = !as_text && covered("managedFieldsManagers", super::MANAGER);
    by_manager || (is_covered("data") && (!as_text || is_covered("stringData")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A Secret that Argo CD applied from a manifest, by the client or the server.
    fn applied(manifest: &Value, server_side: bool) -> Value {
        let mut metadata = json!({
            "name": "db", "namespace": "orders",
            "annotations": {"argocd.argoproj.io/tracking-id": "shop:/Secret:orders/db"},
        });
        if server_side {
            let parts = ["data", "stringData"].into_iter().filter(|part| manifest.get(part).is_some());
            let data: Value = parts.map(|part| (format!("f:{part}"), json!({"f:password": {}}))).collect();
            metadata["managedFields"] =
                json!([{"manager": "argocd-controller", "operation": "Apply", "fieldsV1": data}]);
        } else {
            metadata["annotations"][LAST_APPLIED] = manifest.to_string().into();
        }
        metadata
    }

    fn application(ignores: &[&str], options: &[&str]) -> Value {
        let rules = match ignores {
            [] => json!([]),
            pointers => json!([{"kind": "Secret", "jsonPointers": pointers}]),
        };
        json!({"spec": {"ignoreDifferences": rules, "syncPolicy": {"syncOptions": options}}})
    }

    #[test]
    fn what_an_object_says_of_its_own_syncs_counts_where_argo_cd_asks_it() {
        let placeholder = json!({"kind": "Secret", "data": {"password": "cmVrZXlk"}});
        const RESPECT: &str = "RespectIgnoreDifferences=true";
        const SERVER: &str = "ServerSideApply=true";
        for (options, own, is_safe) in [
            (&[RESPECT, SERVER][..], "Prune=false", true),
            (&[RESPECT], SERVER, true),
            // Applied by the client, which copies the live value.
            (&[RESPECT, SERVER], "Prune=false, ServerSideApply=false", false),
            // Nobody asks the object for that.
            (&[SERVER], RESPECT, false),
        ] {
            let mut metadata = applied(&placeholder, true);
            metadata["annotations"]["argocd.argoproj.io/sync-options"] = own.into();
            let said = layout(&metadata, Some(&application(&["/data"], options)));
            assert_eq!(matches!(said, Layout::Safe { .. }), is_safe, "{options:?} {own}: {said:?}");
        }
    }

    /// The table of the module's documentation.
    #[test]
    fn a_layout_is_safe_as_it_was_measured() {
        let placeholder = json!({"kind": "Secret", "data": {"password": "cmVrZXlk"}});
        let text = json!({"kind": "Secret", "stringData": {"password": "x"}});
        let without = json!({"kind": "Secret"});
        const DATA: &[&str] = &["/data"];
        const BOTH: &[&str] = &["/data", "/stringData"];
        const RESPECT: &str = "RespectIgnoreDifferences=true";
        const SERVER: &str = "ServerSideApply=true";
        for (manifest, server_side, ignores, options, is_safe) in [
            (&placeholder, false, &[][..], &[][..], false),
            (&placeholder, false, DATA, &[], false),
            (&placeholder, false, DATA, &[RESPECT], false),
            (&placeholder, true, DATA, &[RESPECT, SERVER], true),
            (&placeholder, true, &[], &[RESPECT, SERVER], false),
            (&text, false, &[], &[], false),
            (&text, false, DATA, &[RESPECT, SERVER], false),
            (&text, true, DATA, &[RESPECT, SERVER], false),
            (&text, true, BOTH, &[RESPECT, SERVER], true),
            (&without, false, &[], &[], true),
            (&without, true, &[], &[SERVER], true),
            (&without, false, &[], &["Replace=true"], false),
            (&without, true, DATA, &[], false),
            (&without, false, DATA, &[RESPECT], false),
            (&without, true, DATA, &[RESPECT, SERVER], true),
        ] {
            let said = layout(&applied(manifest, server_side), Some(&application(ignores, options)));
            assert_eq!(
                matches!(said, Layout::Safe { .. }),
                is_safe,
                "{manifest} {ignores:?} {options:?}: {said:?}"
            );
        }
        let leak = layout(&applied(&placeholder, false), Some(&application(DATA, &[RESPECT])));
        assert!(
            matches!(&leak, Layout::Unsafe { why, .. } if why.contains("copies the live value")),
            "{leak:?}"
        );
        // What cannot be seen is not taken for safe.
        assert!(matches!(layout(&applied(&placeholder, true), None), Layout::Unsafe { .. }));
        assert!(matches!(layout(&applied(&without, true), None), Layout::Unsafe { .. }));
    }

    #[test]
    fn what_git_does_not_hold_any_more_is_to_be_pruned() {
        let without = applied(&json!({"kind": "Secret"}), true);
        let mut application = application(&[], &[]);
        for (name, is_safe) in [("other", true), ("db", false)] {
            application["status"]["resources"] =
                json!([{"kind": "Secret", "namespace": "orders", "name": name, "requiresPruning": true}]);
            let said = layout(&without, Some(&application));
            assert_eq!(matches!(said, Layout::Safe { .. }), is_safe, "{name}: {said:?}");
        }
    }

    #[test]
    fn an_annotation_that_git_sets_is_pinned() {
        const KEY: &str = "rekeyd.dev/version.db";
        let pins = |metadata: &Value| super::pins(metadata, "/spec/template", KEY);
        let manifest = json!({"spec": {"template": {"metadata": {"annotations": {KEY: "3"}}}}});
        assert!(pins(&json!({"annotations": {LAST_APPLIED: manifest.to_string()}})));
        assert!(!pins(&json!({"annotations": {LAST_APPLIED: "{}"}})));
        let owned = |manager: &str| {
            let fields = json!({"f:spec": {"f:template": {"f:metadata": {"f:annotations": {format!("f:{KEY}"): {}}}}}});
            json!({"managedFields": [{"manager": manager, "operation": "Apply", "fieldsV1": fields}]})
        };
        assert!(pins(&owned("argocd-controller")) && pins(&owned("kustomize-controller")));
        assert!(!pins(&owned("rekeyd")));
    }

    #[test]
    fn a_rule_for_another_secret_covers_nothing() {
        let metadata = applied(&json!({"data": {"password": "x"}}), true);
        let mut application =
            application(&["/data"], &["RespectIgnoreDifferences=true", "ServerSideApply=true"]);
        for (field, value, is_safe) in
            [("name", "db", true), ("name", "other", false), ("namespace", "other", false)]
        {
            let mut application = application.clone();
            application["spec"]["ignoreDifferences"][0][field] = value.into();
            assert_eq!(
                matches!(layout(&metadata, Some(&application)), Layout::Safe { .. }),
                is_safe,
                "{field} {value}"
            );
        }
        application["spec"]["ignoreDifferences"][0] =
            json!({"kind": "Secret", "managedFieldsManagers": ["rekeyd"]});
        assert!(matches!(layout(&metadata, Some(&application)), Layout::Safe { .. }));
    }

    #[test]
    fn whoever_keeps_an_object_is_known_by_its_marks() {
        assert_eq!(keeper(&json!({"name": "db"})), None);
        // Helm and many others set this label.
        assert_eq!(keeper(&json!({"labels": {"app.kubernetes.io/instance": "shop"}})), None);
        let argo = Tool::ArgoCd { namespace: None, application: "shop".into() };
        let labelled = json!({
            "labels": {"app.kubernetes.io/instance": "shop"},
            "managedFields": [{"manager": "argocd-controller"}],
        });
        assert_eq!(keeper(&labelled), Some(argo));
        // With a label of its own choice its Application is not known, and nothing is taken for safe.
        let other = json!({"labels": {"shop": "x"}, "managedFields": [{"manager": "argocd-controller"}]});
        assert!(matches!(layout(&other, None), Layout::Unsafe { tool: Tool::ArgoCd { .. }, .. }));
        assert_eq!(
            keeper(&json!({"managedFields": [{"manager": "argocd-server"}]})),
            None,
            "a person did that"
        );
        let tracked =
            json!({"annotations": {"argocd.argoproj.io/tracking-id": "teams_shop:/Secret:orders/db"}});
        let teams = Tool::ArgoCd { namespace: Some("teams".into()), application: "shop".into() };
        assert_eq!(keeper(&tracked), Some(teams));
        let flux = json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}});
        assert_eq!(
            layout(&flux, None),
            Layout::Safe {
                tool: Tool::Flux { kind: "Kustomization", name: "shop".into() },
                why: "Git holds the object without data",
            }
        );
        let mut helm = json!({
            "labels": {"helm.toolkit.fluxcd.io/name": "shop"},
            "managedFields": [{"manager": "helm-controller", "operation": "Update", "fieldsV1": {"f:data": {}}}],
        });
        assert!(matches!(layout(&helm, None), Layout::Unsafe { .. }), "its chart has data");
        helm["managedFields"] = json!([]);
        assert!(matches!(layout(&helm, None), Layout::Safe { .. }));
    }
}
