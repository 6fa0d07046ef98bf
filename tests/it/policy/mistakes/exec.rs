//! Mistakes about a target that is a program of others.

use rekeyd::policy::load::{Text, load_policies};
use rekeyd::settings::{PluginsSettings, ResourcesSettings};

use super::{changed, lines, now, said_by, sample, sample_settings, takes, tells};

const AT: &str = "spec.target.exec";
const PROGRAM: &str = "program: /usr/lib/rekeyd/plugins/toy";

#[test]
fn programs() {
    let toy = sample("exec.yaml");
    for (from, to, expected) in [
        (
            PROGRAM,
            "program: «/usr/bin/toy",
            format!(
                "error: {AT}.program: `/usr/bin/toy` is not below the directory of plug-ins, `/usr/lib/rekeyd/plugins` (have the program put there)"
            ),
        ),
        (
            PROGRAM,
            "program: «/usr/lib/rekeyd/plugins/../toy",
            format!(
                "error: {AT}.program: `/usr/lib/rekeyd/plugins/../toy` is not an absolute path without `..` (write it from the root, `/usr/lib/rekeyd/plugins/example`)"
            ),
        ),
        (
            PROGRAM,
            "program: «toy",
            format!(
                "error: {AT}.program: `toy` is not an absolute path without `..` (write it from the root, `/usr/lib/rekeyd/plugins/example`)"
            ),
        ),
        (
            "[toy_a, toy_b]",
            "[toy_a, «toy_a]",
            format!("error: {AT}.strategy.alternating.users[1]: both users are `toy_a` (name two users)"),
        ),
        (
            "      config:\n",
            "      timeout: «1h\n      config:\n",
            format!(
                "error: {AT}.timeout: a call may take up to 10m, and this says 1h (use a time between 1s and 10m)"
            ),
        ),
        (
            "      config:\n",
            "      settling: «1h\n      config:\n",
            format!(
                "error: {AT}.settling: a system may settle for up to 10m, and this says 1h (use a time of at most 10m)"
            ),
        ),
        (
            "      config:\n",
            "      admin: «cache-admin\n      config:\n",
            format!(
                "error: {AT}.admin: the settings do not let plug-ins be handed the credential `cache-admin` (have it added to `plugins.credentials` in the settings)"
            ),
        ),
    ] {
        tells(&toy, from, to, &expected);
    }
    takes(&toy, PROGRAM, "program: /usr/lib/rekeyd/plugins/below/toy");
    takes(&toy, "alternating:\n          users: [toy_a, toy_b]", "dualKey:\n          owner: toy");
}

#[test]
fn a_digest_that_is_none() {
    let toy = sample("exec.yaml");
    let digest = toy.split("sha256: ").nth(1).expect("a digest").lines().next().expect("a line").to_owned();
    let text = changed(&toy, &digest, "abc");
    let (lines, _) = said_by(&sample_settings(), &text);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("`abc` is not a SHA-256 (write the 64 digits that `sha256sum` prints)"),
        "{lines:?}"
    );
}

/// Whoever writes policies does not choose what runs as rekeyd.
#[test]
fn the_settings_say_where_programs_are_and_what_they_are_handed() {
    let mut settings = sample_settings();
    settings.plugins = None;
    let (lines, _) = said_by(&settings, &sample("exec.yaml"));
    let told = format!(
        "{AT}.program: the settings name no directory of plug-ins, so none is run (name it as `plugins.directory` in the settings)"
    );
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with(&told), "{lines:?}");

    let admin = "cache-admin".parse().expect("a name");
    settings.plugins =
        Some(PluginsSettings { directory: "/usr/lib/rekeyd/plugins".into(), credentials: vec![admin] });
    let with_admin =
        changed(&sample("exec.yaml"), "      config:\n", "      admin: cache-admin\n      config:\n");
    assert_eq!(said_by(&settings, &with_admin).0, Vec::<String>::new());
    let as_admin = changed(&with_admin, "[toy_a, toy_b]", "[rekeyd, toy_b]");
    let (lines, _) = said_by(&settings, &as_admin);
    assert!(lines.len() == 1 && lines[0].contains("is the user of the admin credential"), "{lines:?}");
}

#[test]
fn a_policy_in_a_cluster_runs_no_program() {
    let mut settings = sample_settings();
    let text = changed(&sample("exec.yaml"), "  consumers:\n", "  # consumers:\n");
    let text = text.split("  # consumers:").next().expect("a beginning").to_owned();
    let mut loaded = |confined: bool| {
        let (cluster, namespaces) = ("main".parse().expect("a name"), Vec::new());
        settings.policies.resources = Some(ResourcesSettings { cluster, namespaces, confined });
        let text = Text { name: "RotationPolicy a/b".into(), text: text.clone().into(), since: now() };
        lines(&load_policies(None, &[text], &settings, now()))
    };
    let found = loaded(true);
    let told = format!(
        "{AT}: a policy in a cluster does not run programs of rekeyd's machine (put the policy into rekeyd's policy directory)"
    );
    assert!(found.len() == 1 && found[0].ends_with(&told), "{found:?}");
    assert_eq!(loaded(false), Vec::<String>::new());
}
