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

/// What somebody else than the provider may answer proves no key dead.
#[test]
fn a_recipe_by_which_a_key_is_dead_that_nobody_refused() {
    const GENUINE: &str =
        "refusedWhen: [{status: [401], at: /errors/0/message, has: \"invalid, expired, or revoked\"}]";
    let recipe = sample("recipes/sendgrid.yaml");
    let example = "    - {call: verify, status: 401, body: {errors: [{message: authorization required}]}, means: noVerdict}\n";
    let recipe = super::changed(&recipe, example, "");
    let no_verdict = |status: u16| format!("an answer of {status} says nothing of a key");
    let (any_text, nothing) =
        ("a gateway has something there, too", "that something is not there is nobody's word");
    for (pattern, expected) in [
        ("{status: [200]}", no_verdict(200)),
        ("{status: [101], at: /e, is: [dead]}", no_verdict(101)),
        ("{status: [302]}", no_verdict(302)),
        ("{status: [302], at: /e, is: [dead]}", no_verdict(302)),
        ("{status: [400]}", no_verdict(400)),
        ("{status: [403]}", no_verdict(403)),
        ("{status: [401, 403]}", no_verdict(403)),
        ("{status: [404]}", no_verdict(404)),
        ("{status: [407]}", no_verdict(407)),
        ("{status: [407], at: /e, is: [dead]}", no_verdict(407)),
        ("{status: [408], at: /e, is: [dead]}", no_verdict(408)),
        ("{status: [429], at: /e, is: [dead]}", no_verdict(429)),
        ("{status: [503], at: /e, is: [dead]}", no_verdict(503)),
        ("{status: [200], lacks: /id}", no_verdict(200)),
        ("{status: [401], lacks: /id}", nothing.into()),
        ("{status: [401], at: /e}", any_text.into()),
        ("{status: [401], at: /e, has: \"\"}", any_text.into()),
        ("{status: [401], at: /e, has: \" \"}", any_text.into()),
        ("{status: [403], at: /e, is: [\"\"]}", any_text.into()),
        ("{status: [200], at: /e, is: [dead, null]}", any_text.into()),
        ("{at: /e, is: [dead]}", "whatever fails may have that in its answer".into()),
    ] {
        let (lines, _) = said(&super::changed(&recipe, GENUINE, &format!("refusedWhen: [{pattern}]")));
        let told = "error: spec.verify.refusedWhen[0]";
        let is_told = |line: &String| line.contains(told) && line.contains(&expected);
        assert!(lines.iter().any(is_told), "{pattern}: {lines:#?}");
    }
    let used = format!("{}\n---\n{recipe}", sample("http-key.yaml"));
    for pattern in [
        "{status: [401]}",
        "{status: [401], at: /e, has: dead}",
        "{status: [400, 401, 403, 404], at: /e, is: [dead]}",
        "{status: [200], at: /valid, is: [false]}",
        "{status: [200], lacks: /id, at: /code, is: [7]}",
    ] {
        takes(&used, GENUINE, &format!("refusedWhen: [{pattern}]"));
    }
}

#[test]
fn a_recipe_whose_requests_take_no_time_or_for_ever() {
    const LIMITS: &str = "limits: {";
    // Beside a policy that uses it.
    let files =
        [("recipes/sendgrid.yaml", "http-key.yaml"), ("recipes/gitlab-variable.yaml", "gitlab-ci.yaml")];
    for (file, policy) in files {
        let recipe = format!("{}\n---\n{}", sample(file), sample(policy));
        for (timeout, is_one) in
            [("0s", false), ("999ms", false), ("1s", true), ("5m", true), ("5m 1s", false), ("10d", false)]
        {
            let text = super::changed(&recipe, LIMITS, &format!("{LIMITS}timeout: {timeout}, "));
            let (lines, _) = said(&text);
            let expected = "error: spec.limits.timeout: ";
            let is_told = |line: &String| line.contains(expected) && line.contains("from 1s to 5m");
            assert_eq!(lines.iter().any(is_told), !is_one, "{file} {timeout}: {lines:#?}");
        }
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
