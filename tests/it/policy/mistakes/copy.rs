//! What is wrong with a copy in a store, and whom such readers are closed to.

use rekeyd::policy::load::{Text, load_policies, parse_policies};
use rekeyd::settings::ResourcesSettings;

use super::{changed, lines, now, sample_settings, tells};
use crate::policy::sample;

fn stock() -> String {
    sample("vault-copy.yaml")
}

const AT: &str = "spec.consumers[0].vault";

#[test]
fn a_store_that_is_none_or_another() {
    tells(
        &stock(),
        "    - vault:\n        store: bao",
        "    - vault:\n        store: «boa",
        &format!(
            "error: {AT}.store: the settings have no store `boa` (did you mean `bao`? Known: `aws`, `bao`, `local`)"
        ),
    );
    tells(
        &stock(),
        "    - vault:\n        store: bao",
        "    - vault:\n        store: «aws",
        &format!("error: {AT}.store: store `aws` is not at OpenBao or Vault (name a store of that kind)"),
    );
    tells(
        &sample("aws-secretsmanager.yaml"),
        "    - awsSecretsManager:\n        store: aws",
        "    - awsSecretsManager:\n        store: «bao",
        "error: spec.consumers[0].awsSecretsManager.store: store `bao` is not at AWS Secrets Manager (name a store of that kind)",
    );
}

#[test]
fn a_path_that_is_rekeyds_or_another_policys() {
    // By the store's own mount, told or not: it is one place.
    for mount in ["", "        mount: secret\n"] {
        tells(
            &stock(),
            "        mount: reporting\n        path: databases/stock",
            &format!("{mount}        path: «rekeyd/stock/stock-db"),
            &format!(
                "error: {AT}.path: `rekeyd/stock/stock-db` is in the folder that rekeyd keeps its control documents in (use a path outside the store's `controlPath`)"
            ),
        );
        tells(
            &stock(),
            "        mount: reporting\n        path: databases/stock",
            &format!("{mount}        path: «platform/orders-db/admin"),
            &format!(
                "error: {AT}.path: `platform/orders-db/admin` holds the credential `orders-admin` that rekeyd itself uses (use a path of the application's own)"
            ),
        );
        let text = changed(
            &stock(),
            "        mount: reporting\n        path: databases/stock",
            &format!("{mount}        path: apps/stock/db"),
        );
        let found = lines(&parse_policies("p.yaml", &text, &sample_settings(), now()));
        let told =
            format!("{AT}.path: the path `apps/stock/db` of this store already belongs to `stock/stock-db`");
        assert!(found.len() == 1 && found[0].contains(&told), "{found:?}");
    }
}

/// AWS puts a hyphen and six characters behind a name.
#[test]
fn a_name_that_ends_as_an_arn_of_aws() {
    let advice = "ends as an ARN of AWS does, in a hyphen and six characters: whoever looks a secret up by a part of its ARN may find another one (use a name that ends otherwise)";
    for (field, from, at) in [
        ("path: ", "path: accounts/accounts-db", "spec.store.path"),
        ("name: ", "name: reporting/accounts-db", "spec.consumers[0].awsSecretsManager.name"),
    ] {
        let told = format!("warning: {at}: `x/prod-abcdef` {advice}");
        tells(&sample("aws-secretsmanager.yaml"), from, &format!("{field}«x/prod-abcdef"), &told);
        for right in ["x/prod-abcde", "x/prod-abcdefg", "x/prodabcdef", "x/prod-abc.ef"] {
            let text = changed(&sample("aws-secretsmanager.yaml"), from, &format!("{field}{right}"));
            assert_eq!(
                lines(&parse_policies("p.yaml", &text, &sample_settings(), now())),
                [""; 0],
                "{right}"
            );
        }
    }
    // Elsewhere it is a name as any.
    let text = changed(&stock(), "path: apps/stock/db", "path: apps/stock-abcdef");
    assert_eq!(lines(&parse_policies("p.yaml", &text, &sample_settings(), now())), [""; 0]);
}

#[test]
fn fields_of_a_copy() {
    let data = "          username: \"{{ principal }}\"\n";
    tells(
        &stock(),
        data,
        "          rekeyd: «\"{{ principal }}\"\n",
        &format!(
            "error: {AT}.data.rekeyd: `rekeyd` is the field of rekeyd's mark (name another field as `mark`)"
        ),
    );
    let all = "        data:\n          username: \"{{ principal }}\"\n          password: \"{{ value }}\"\n          \
               pgpass: \"stock-db.example.com:5432:stock:{{ principal }}:{{ value }}\"\n";
    tells(
        &stock(),
        all,
        "        «data: {}\n",
        &format!(
            "error: {AT}.data: the copy would have no field (name one, as in `password: \"{{{{ value }}}}\"`)"
        ),
    );
    tells(
        &stock(),
        all,
        "        «data: {username: \"{{ principal }}\"}\n",
        &format!(
            "warning: {AT}.data: no field of the copy uses the value (put `{{{{ value }}}}` where the value belongs)"
        ),
    );
}

/// Whoever may write resources of a namespace reaches its Secrets and nothing else.
#[test]
fn a_policy_in_a_cluster_has_no_reader_elsewhere() {
    for (name, field, what) in [
        ("jenkins.yaml", "jenkins", "a Jenkins"),
        ("gitlab-ci.yaml", "http", "a place told by a recipe"),
        ("vault-copy.yaml", "vault", "other paths of a store"),
        ("aws-secretsmanager.yaml", "awsSecretsManager", "other paths of a store"),
    ] {
        let mut settings = sample_settings();
        let loaded = |confined: bool, settings: &mut rekeyd::settings::Settings| {
            let (cluster, namespaces) = ("main".parse().expect("a name"), Vec::new());
            settings.policies.resources = Some(ResourcesSettings { cluster, namespaces, confined });
            let text = Text { name: "RotationPolicy a/b".into(), text: sample(name).into(), since: now() };
            lines(&load_policies(None, &[text], settings, now()))
        };
        let found = loaded(true, &mut settings);
        let told = format!(
            "spec.consumers[0].{field}: a policy in a cluster does not reach {what} (write to a Secret, or put the policy into rekeyd's policy directory)"
        );
        assert!(!found.is_empty() && found[0].ends_with(&told), "{found:?}");
        assert_eq!(loaded(false, &mut settings), Vec::<String>::new());
    }
}
