//! Mistakes about a key of an HTTP API, and about the recipe that tells how it is rotated.

use super::{said, sample, takes, tells};

const AT: &str = "spec.target.http";

#[test]
fn a_policy_that_does_not_go_with_its_recipe() {
    let key = sample("http-key.yaml");
    for (from, to, expected) in [
        (
            "recipe: sendgrid",
            "recipe: «sendgird",
            "error: spec.target.http.recipe: there is no recipe `sendgird` (did you mean `sendgrid`? Known: ",
        ),
        (
            "      parameters:\n        scopes: [mail.send]\n",
            "«",
            "error: spec.target.http.parameters.scopes: recipe `sendgrid` needs the parameter `scopes`: what the key may do",
        ),
        (
            "scopes: [mail.send]",
            "scopes: [mail.send]\n        scope: «x",
            "error: spec.target.http.parameters.scope: recipe `sendgrid` knows no parameter `scope` (did you mean `scopes`?",
        ),
        (
            "      admin: sendgrid-admin\n",
            "",
            "error: spec.target.http.admin: recipe `sendgrid` needs an admin credential: an API key with the scopes",
        ),
        (
            "admin: sendgrid-admin",
            "admin: «orders-admin",
            "error: spec.target.http.admin: a login at this server hands it the value, and the settings let `orders-admin` be used at any",
        ),
        (
            "owner: shop-mailer",
            "owner: shop-mailer\n      base: «https://api.eu.sendgrid.com",
            "error: spec.target.http.base: the settings do not let the admin credential `sendgrid-admin` be used at `api.eu.sendgrid.com`",
        ),
        (
            "owner: shop-mailer",
            "owner: shop-mailer\n      base: «http://api.sendgrid.com",
            "error: spec.target.http.base: `http://api.sendgrid.com` is not where requests can go",
        ),
        (
            "owner: shop-mailer",
            "owner: shop-mailer\n      credentials: {api: «sendgrid-admin}",
            "error: spec.target.http.credentials.api: recipe `sendgrid` knows no credential `api`",
        ),
    ] {
        let (lines, place) = said(&super::changed(&key, from, to));
        let is_told = |line: &&String| line.contains(expected);
        let line = lines.iter().find(is_told).unwrap_or_else(|| panic!("{to}: {lines:#?}"));
        if to.contains(super::HERE) && !to.starts_with(super::HERE) {
            assert!(line.starts_with(&place), "{line} is not of {place}");
        }
    }
    tells(
        &sample("http-hand-off.yaml"),
        "owner: search\n  store",
        "owner: search\n      admin: «sendgrid-admin\n  store",
        &format!("error: {AT}.admin: recipe `cohere` uses no admin credential (leave it out)"),
    );
}

/// Readers of URLs take each of these for an address of `evil.example.com`, where the admin credential is not to be used.
const ODD: &[&str] = &[
    "https:/evil.example.com/v1",
    "https:evil.example.com/v1",
    "https:///evil.example.com/v1",
    "https:\\\\\\\\evil.example.com/v1",
    "HTTPS://evil.example.com/v1",
    "https://x@evil.example.com/v1",
    "https://%65vil.example.com/v1",
    "https://evil\\u3002example.com/v1",
    "//evil.example.com/v1",
];

#[test]
fn an_address_that_is_none_is_told_wherever_it_is_written() {
    let (key, recipe) = (sample("http-key.yaml"), sample("recipes/sendgrid.yaml"));
    let (pipeline, place) = (sample("gitlab-ci.yaml"), sample("recipes/gitlab-variable.yaml"));
    for odd in ODD {
        let base = |at: &str| {
            super::changed(
                &key,
                "owner: shop-mailer",
                &format!("owner: shop-mailer\n      base: \"{odd}\"{at}"),
            )
        };
        for (text, expected) in [
            (base(""), format!("error: {AT}.base: `")),
            (
                super::changed(&recipe, "base: https://api.sendgrid.com", &format!("base: \"{odd}\"")),
                "error: spec.base: `".into(),
            ),
            (
                super::changed(&recipe, "path: /v3/scopes", &format!("path: \"{odd}\"")),
                "error: spec.verify.request.path: `".into(),
            ),
            (
                super::changed(&pipeline, "base: https://gitlab.example.com", &format!("base: \"{odd}\"")),
                "error: spec.consumers[0].http.base: `".into(),
            ),
            (
                super::changed(
                    &place,
                    "path: /api/v4/projects/{{ parameters.project }}/variables/{{ parameters.key }}",
                    &format!("path: \"{odd}\""),
                ),
                "error: spec.value.read.request.path: `".into(),
            ),
        ] {
            let (lines, _) = said(&text);
            assert!(lines.iter().any(|line| line.contains(&expected)), "{odd}: {expected}: {lines:#?}");
        }
    }
}

#[test]
fn a_recipe_of_the_directory_takes_the_place_of_one_that_comes_along() {
    let (key, recipe) = (sample("http-key.yaml"), sample("recipes/sendgrid.yaml"));
    let both = format!("{key}\n---\n{recipe}");
    takes(&both, "title: Twilio SendGrid, API keys", "title: Ours");
    let other = both
        .replacen("scopes: {description", "scope: {description", 1)
        .replace("parameters.scopes", "parameters.scope");
    let (lines, _) = said(&other);
    assert!(lines.iter().any(|line| line.contains("knows no parameter `scopes`")), "{lines:#?}");
    let (lines, _) = said(&format!("{both}\n---\n{recipe}"));
    assert!(lines.iter().any(|line| line.contains("a recipe named `sendgrid` is at p.yaml:")), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.contains("recipe `sendgrid` has mistakes of its own")),
        "{lines:#?}"
    );
}

#[test]
fn a_recipe_with_mistakes() {
    let recipe = sample("recipes/sendgrid.yaml");
    for (from, to, expected) in [
        ("bearer: \"{{ value }}\"", "bearer: «\"{{ admin.value }}\"", "the key is tried without its value"),
        (
            "path: /v3/scopes",
            "path: «\"/v3/scopes?key={{ value }}\"",
            "a secret in an address is written into the logs of every server on the way",
        ),
        ("{{ parameters.scopes }}", "{{ parameters.scope }}", "`parameters.scope` is not known in this call"),
        ("{{ id }}", "{{ id ", "is not a template"),
        (
            "refusedWhen: [{status: [401], at: /errors/0/message, has: \"invalid, expired, or revoked\"}]",
            "refusedWhen: [{status: [«429]}]",
            "an answer of 429 says nothing of a key",
        ),
        (
            "acceptedWhen: [{status: [200], at: /scopes}]",
            "acceptedWhen: [«{has: x}]",
            "what is there is not asked without `at`",
        ),
        (
            "    name: /name\n  revoke",
            "  revoke",
            "keys have a tag in their name, and `list` does not say where the name is",
        ),
        (
            "    name: /name\n  revoke",
            "    name: /name\n    pages: «{first: 0}\n  revoke",
            "nothing says how the next page is asked for",
        ),
        (
            "  list:\n",
            "    health:\n      request: {method: GET, path: \"/up?{{ «value }}\"}\n      wellWhen: [{status: [200]}]\n  list:\n",
            "`value` is not known in this call",
        ),
        (
            "  revoke:\n",
            "  usage: {request: {method: GET, path: /v3/use«}, usedAt: /at}\n  revoke:\n",
            "spec.usage.request: the call does not say which key it asks about",
        ),
        (
            "  revoke:\n",
            "  usage: {request: {method: GET, path: \"/v3/{{ id }}\", bearer: \"{{ «value }}\"}, usedAt: /at}\n  revoke:\n",
            "`value` is not known in this call",
        ),
        (
            "  revoke:\n",
            "  usage: {onlyIf: \"{{ «owner }}\", request: {method: GET, path: \"/v3/{{ id }}\"}, usedAt: /at}\n  revoke:\n",
            "spec.usage.onlyIf: `owner` is not known",
        ),
        (
            "    name: /name\n  revoke",
            "    name: /name\n    usedAt: /at\n  usage: «{request: {method: GET, path: \"/v3/{{ id }}\"}, usedAt: /at}\n  revoke",
            "spec.usage: the list tells it already",
        ),
        (
            "  revoke:\n",
            "  usage: {request: {method: GET, path: \"/v3/{{ id }}\"}, usedAt: /at, unusedWhen: [«{has: x}]}\n  revoke:\n",
            "what is there is not asked without `at`",
        ),
        ("json: {name: \"{{ name }}\", ", "json: {", "the name with the tag is not sent"),
        ("    value: /api_key\n", "", "either the answer shows the value, or rekeyd makes it"),
        ("value: /api_key\n", "value: «api_key\n", "is not a JSON Pointer"),
        ("strategy: dualKey", "strategy: handOff", "a person makes the keys of a recipe with `handOff`"),
        (
            "method: GET, path: /v3/api_keys",
            "method: GET, json: «{a: b}, path: /v3/api_keys",
            "a `GET` request has no body",
        ),
        (
            "path: /v3/scopes",
            "path: «\"{{ owner }}/v3/scopes\"",
            "is neither below the base nor the address of a server",
        ),
        (
            "path: /v3/scopes, ",
            "path: /v3/scopes, headers: {Host: «x}, ",
            "a header called `Host` is written by the one who sends",
        ),
    ] {
        let (lines, _) = said(&super::changed(&recipe, from, to));
        assert!(lines.iter().any(|line| line.contains(expected)), "{to}: {lines:#?}");
    }
}

/// Where whether a key is dead is read from the list alone.
#[test]
fn a_recipe_whose_list_proves_nothing() {
    const ALONE: &str = "  verify: {inList: true}\n";
    let recipe = sample("recipes/github-deploy-key.yaml");
    assert!(recipe.contains(ALONE), "the sample is another one");
    for (from, to, expected) in [
        (
            "    pages: {parameter: page}\n",
            "    pages: {parameter: page}\n    «noneWhen: [{status: [404]}]\n",
            "spec.list.noneWhen: that there is no list proves no key dead (leave it out: with `inList`, a list has to come back)",
        ),
        (
            "    pages: {parameter: page}\n",
            "",
            "spec.verify.inList: strategy `inList` needs `list.pages` (write `list.pages`)",
        ),
        (
            ALONE,
            "  verify: {inList: «true, refusedWhen: [{status: [401]}]}\n",
            "spec.verify.inList: a key is tried by a request or by the list (leave `inList` out, or the rest)",
        ),
        (
            ALONE,
            "  verify: {inList: «true, acceptedWhen: [{status: [200]}]}\n",
            "spec.verify.inList: a key is tried by a request or by the list",
        ),
        (
            ALONE,
            "  verify: {inList: «true, request: {method: GET, path: /user, bearer: \"{{ value }}\"}}\n",
            "spec.verify.inList: a key is tried by a request or by the list",
        ),
        (
            ALONE,
            "  verify: {inList: «true, health: {request: {method: GET, path: /up}, wellWhen: [{status: [200]}]}}\n",
            "spec.verify.inList: a key is tried by a request or by the list",
        ),
        (ALONE, "  verify: {}\n", "spec.verify: without `verify.request` nothing proves that a key is dead"),
    ] {
        let (lines, place) = said(&super::changed(&recipe, from, to));
        let line = lines.iter().find(|line| line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("{to}: {lines:#?}"));
        if to.contains(super::HERE) {
            assert!(line.starts_with(&place), "{line} is not of {place}");
        }
    }
    let list = recipe.find("  list:\n").expect("a list");
    let unlisted =
        format!("{}{}", &recipe[..list], &recipe[recipe.find("  revoke:\n").expect("a call that revokes")..]);
    let (lines, _) = said(&unlisted);
    let expected = "spec.verify.inList: strategy `inList` needs `list` (write `list`)";
    assert!(lines.iter().any(|line| line.contains(expected)), "{lines:#?}");
}

#[test]
fn a_policy_does_not_write_the_recipe_itself() {
    let key = sample("http-key.yaml");
    let (lines, _) =
        said(&super::changed(&key, "owner: shop-mailer", "owner: shop-mailer\n      definition: {}"));
    assert!(!lines.is_empty());
}
