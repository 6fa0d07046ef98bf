//! Mistakes about a place that a recipe tells of, and about such a recipe.

use rekeyd::policy::load::parse_policies;

use super::{changed, lines, now, sample_settings, takes, tells};
use crate::policy::sample;

const AT: &str = "spec.consumers[0].http";

#[test]
fn a_policy_that_does_not_go_with_its_recipe() {
    let key = sample("gitlab-ci.yaml");
    for (from, to, told) in [
        (
            "recipe: gitlab-variable",
            "recipe: «gitlab-varable",
            "recipe: there is no recipe `gitlab-varable` (did you mean `gitlab-variable`?",
        ),
        (
            "recipe: gitlab-variable",
            "recipe: «sendgrid",
            "recipe: recipe `sendgrid` tells of the keys of a provider, and of no place that is written (name a recipe of the kind `ConsumerRecipe`)",
        ),
        (
            "          key: SIGNING_KEY\n",
            "",
            "parameters.key: recipe `gitlab-variable` needs the parameter `key`: the name of the variable",
        ),
        (
            "          key: SIGNING_KEY\n",
            "          key: K\n          mask: true\n",
            "parameters.mask: recipe `gitlab-variable` knows no parameter `mask` (did you mean `masked`?",
        ),
        (
            "        admin: gitlab-admin\n",
            "",
            "admin: recipe `gitlab-variable` needs an admin credential: a token with the scope api",
        ),
        ("admin: gitlab-admin", "admin: orders-admin", "admin: a login at this server hands it the value"),
        (
            "base: https://gitlab.example.com",
            "base: «https://gitlab.evil.example.com",
            "base: the settings do not let the admin credential `gitlab-admin` be used at `gitlab.evil.example.com`",
        ),
        (
            "base: https://gitlab.example.com",
            "base: «http://gitlab.example.com",
            "base: `http://gitlab.example.com` is not where requests can go",
        ),
        (
            "          scope: production\n",
            "          scope: production\n        credentials: {x: gitlab-admin}\n",
            "credentials.x: recipe `gitlab-variable` knows no credential `x`",
        ),
    ] {
        let text = changed(&key, from, &to.replace('«', ""));
        let found = lines(&parse_policies("p.yaml", &text, &sample_settings(), now()));
        assert!(
            !found.is_empty() && found[0].contains(&format!("{AT}.{told}")),
            "{from} -> {to}: {found:#?}"
        );
    }
    let of_consumers = changed(&sample("http-key.yaml"), "recipe: sendgrid", "recipe: gitlab-variable");
    let found = lines(&parse_policies("p.yaml", &of_consumers, &sample_settings(), now()));
    assert!(
        found[0]
            .contains("spec.target.http.recipe: recipe `gitlab-variable` tells of a place that is written"),
        "{found:#?}"
    );
}

#[test]
fn what_is_written() {
    let key = sample("gitlab-ci.yaml");
    let content = |content: &str| format!("          scope: production\n        content: {content}\n");
    tells(
        &key,
        "          scope: production\n",
        &content("«\"{{ vlaue }}\""),
        &format!(
            "error: {AT}.content: the template uses `vlaue`, which is not defined (use namespace, policy, principal, value, version, or parts.NAME)"
        ),
    );
    takes(&key, "          scope: production\n", &content("\"{{ principal }}\""));
    let text = changed(&key, "          scope: production\n", &content("nothing"));
    let found = lines(&parse_policies("p.yaml", &text, &sample_settings(), now()));
    assert!(
        found.len() == 1 && found[0].contains("warning") && found[0].contains("does not use the value"),
        "{found:#?}"
    );
}

#[test]
fn a_recipe_with_mistakes() {
    let recipe = sample("recipes/github-secret.yaml");
    let found = |text: &str| lines(&parse_policies("p.yaml", text, &sample_settings(), now()));
    assert_eq!(found(&recipe), Vec::<String>::new());
    for (from, to, told) in [
        (
            "  title: GitHub Actions, secrets of a repository",
            "  title: \" \"",
            "spec.title: this text is empty",
        ),
        (
            "base: https://api.github.com",
            "base: http://api.github.com",
            "spec.base: `http://api.github.com` is not where",
        ),
        (
            "{requestsPerSecond: 5}",
            "{requestsPerSecond: 0}",
            "spec.limits.requestsPerSecond: 0 is not a number",
        ),
        (
            "place: GitHub secret {{ parameters.name | upper }}",
            "place: GitHub secret {{ parameters.nmae }}",
            "spec.place: `parameters.nmae` is not known",
        ),
        (
            "place: GitHub secret {{ parameters.name | upper }}",
            "place: GitHub secret {{ admin.value }}",
            "spec.place: `admin.value` is not known",
        ),
        ("      mark: /value\n", "", "spec.mark.read.mark: nothing says whose the place is"),
        (
            "      changedAt: /updated_at\n",
            "      changedAt: /updated_at\n      mark: /name\n",
            "spec.mark: the mark is in the value's own place already",
        ),
        (
            "prepared.keyId",
            "prepared.keyid",
            "spec.value.update.request.json.key_id: `prepared.keyid` is not known",
        ),
        (
            "seal(value, prepared.key)",
            "seal(mark, prepared.key)",
            "spec.value.update.request: the value that rekeyd makes is not sent",
        ),
        (
            "REKEYD\", value: \"{{ mark }}\"}\n      doneWhen: [{status: [204]}]",
            "REKEYD\", value: \"{{ version }}\"}\n      doneWhen: [{status: [204]}]",
            "spec.mark.update.request: the mark is not sent",
        ),
        (
            "REKEYD\", value: \"{{ mark }}\"}\n      doneWhen: [{status: [204]}]",
            "REKEYD\", value: \"{{ mark }}{{ value }}\"}\n      doneWhen: [{status: [204]}]",
            "spec.mark.update.request.json.value: `value` is not known",
        ),
        (
            "secrets/{{ parameters.name }}\n        bearer",
            "secrets/{{ value }}\n        bearer",
            "spec.value.read.request.path: `value` is not known",
        ),
        (
            "      missingWhen: [{status: [404], at: /message, is: [Not Found]}]\n      foundWhen: [{at: /updated_at}]",
            "      missingWhen: [{at: /message, is: [Not Found]}]\n      foundWhen: [{at: /updated_at}]",
            "spec.value.read.missingWhen[0]: whatever fails may have that in its answer",
        ),
        (
            "      missingWhen: [{status: [404], at: /message, is: [Not Found]}]\n      foundWhen: [{at: /updated_at}]",
            "      missingWhen: [{status: [503]}]\n      foundWhen: [{at: /updated_at}]",
            "spec.value.read.missingWhen[0]: an answer of 503 says nothing",
        ),
        ("    - when: {status: [401]}", "    - when: {}", "spec.failures[1].when: every answer fits this"),
    ] {
        let lines = found(&changed(&recipe, from, to));
        assert!(lines.iter().any(|line| line.contains(told)), "{to}: {lines:#?}");
    }
}
