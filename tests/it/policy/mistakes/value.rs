//! What is wrong with a generated value and its parts.

use rekeyd::policy::load::parse_policies;
use rekeyd::secret::CertificateUsage;

use super::{generated, lines, now, orders, sample_settings, takes, tells};
use crate::policy::sample;

fn certificate() -> String {
    sample("generated-certificate.yaml")
}

fn ssh_key() -> String {
    sample("generated-ssh-key.yaml")
}

#[test]
fn rules_that_no_value_keeps() {
    let length = "  value:\n    length: 64\n    alphabet: hex\n";
    let value = |rest: &str| format!("  value:\n    length: 20\n{rest}");
    takes(
        &generated(),
        length,
        &value(
            "    symbols: \"!#-\"\n    without: 0O1lI\n    atLeast: {upper: 1, lower: 1, digits: 1, symbols: 1}\n    startsWithLetter: true\n",
        ),
    );
    for (rest, said) in [
        (
            "    symbols: «\"!é\"\n",
            "symbols: `é` is no punctuation of ASCII (letters and digits are chosen by `alphabet`)",
        ),
        (
            "    «atLeast: {symbols: 1}\n",
            "atLeast: a value is to have 1 of kind `symbols`, and no such character may be in it (correct `symbols`, `without` or `atLeast`)",
        ),
        (
            "    «atLeast: {upper: 15, digits: 6}\n",
            "atLeast: the characters that a value is to have are 21, and its length is 20 (ask for fewer characters, or for a longer value)",
        ),
        (
            "    «atLeast: {digits: 14}\n",
            "atLeast: less than one value in 1000 keeps these rules (ask for fewer characters, or for a longer value)",
        ),
    ] {
        tells(&generated(), length, &value(rest), &format!("error: spec.value.{said}"));
    }
}

#[test]
fn keys_are_no_characters() {
    tells(
        &ssh_key(),
        "  value:\n    sshKey:",
        "  «value:\n    length: 20\n    sshKey:",
        "error: spec.value: a key has no characters to choose (leave the other fields out)",
    );
    tells(
        &orders(),
        "  value:\n    length: 40\n    alphabet: alphanumeric\n",
        "  «value:\n    sshKey: {}\n",
        "error: spec.value: a target takes a value of characters, and this is a key (use the target `generated`, or a recipe that hands keys over)",
    );
    tells(
        &ssh_key(),
        "comment: backup@platform",
        "comment: «\"a\\nb\"",
        "error: spec.value.sshKey.comment: a comment is one line of up to 128 characters (shorten it)",
    );
    tells(
        &ssh_key(),
        "      principal: backup\n",
        "      principal: backup\n      ring: «true\n",
        "error: spec.target.generated.ring: a key before is kept of values of characters only (leave `ring` out)",
    );
}

#[test]
fn certificates() {
    let at = "error: spec.value.certificate";
    for (from, to, said) in [
        (
            "authority: internal",
            "authority: «other",
            ".authority: there is no authority `other` (use one of `internal`)",
        ),
        (
            "orders.orders.svc]",
            "orders.example.com]",
            ".authority: the settings do not let the authority `internal` sign for `orders.example.com` (have the name added to `authorities.internal.names` in the settings)",
        ),
        (
            "spiffe://example.com/orders/api",
            "spiffe://example.com/billing/api",
            ".authority: the settings do not let the authority `internal` sign for `spiffe://example.com/billing/api` (have the name added to `authorities.internal.names` in the settings)",
        ),
        (
            "[spiffe://example.com/orders/api]",
            "[«spiffe://example.com/orders/../billing]",
            ".uris[0]: `spiffe://example.com/orders/../billing` cannot stand in a certificate (write names of hosts, and whole URIs)",
        ),
        (
            "orders.orders.svc]",
            "«or ders.svc]",
            ".dnsNames[1]: `or ders.svc` cannot stand in a certificate (write names of hosts, and whole URIs)",
        ),
        (
            "usages: [server, client]",
            "«usages: []",
            ".usages: a certificate without `usages` is for nothing (write `server`, `client` or both)",
        ),
        (
            "validFor: 14d",
            "validFor: «31d",
            ".validFor: the authority `internal` signs certificates for up to 30d (use a shorter time, or have it changed in the settings)",
        ),
        (
            "validFor: 14d",
            "validFor: «9d",
            ".validFor: a value ends by itself after 9d, and may be in force for longer (let it live longer than the time between two rotations and the grace, or rotate more often)",
        ),
    ] {
        let text = if to.contains('«') {
            certificate()
        } else {
            certificate().replace("authority: internal", "authority: «internal")
        };
        tells(&text, from, to, &format!("{at}{said}"));
    }
    takes(&certificate(), "      authority: internal\n", "");
    let mut settings = sample_settings();
    settings.authorities.values_mut().for_each(|one| one.usages = vec![CertificateUsage::Client]);
    let told = lines(&parse_policies("p.yaml", &certificate(), &settings, now()));
    let usage = "spec.value.certificate.usages[0]: the settings do not let the authority `internal` sign what is for a `server` (leave it out, or have it added to `authorities.internal.usages` in the settings)";
    assert!(told.len() == 1 && told[0].ends_with(usage), "{told:#?}");
}

#[test]
fn parts_that_there_are_not() {
    tells(
        &generated().replace("version = {{ version }}", "before = \"{{ parts.previous }}\""),
        "[session]",
        "«[session]",
        "error: spec.consumers[0].file.content: the value has no part `previous` (only keys that rekeyd makes, rings and some recipes have parts)",
    );
    tells(
        &certificate(),
        "ca.crt: \"{{ parts.authority }}\"",
        "ca.crt: «\"{{ parts.ca }}\"",
        "error: spec.consumers[0].kubernetes.data[\"ca.crt\"]: the value has no part `ca` (use one of `certificate`, `authority`)",
    );
    tells(
        &certificate(),
        "        authority: ca.crt\n",
        "        ca: «ca.crt\n",
        "error: spec.store.fields.parts.ca: the value has no part `ca` (use one of `certificate`, `authority`)",
    );
    tells(
        &certificate(),
        "authority: ca.crt",
        "authority: «tls.key",
        "error: spec.store.fields.parts.authority: another field of the value has the key `tls.key` (give each its own under `store.fields`)",
    );
}
