//! How diagnostics look, and what they never show.

use rekeyd::policy::diagnostic::{Diagnostic, graphical};
use rekeyd::policy::load::parse_policies;

use super::{now, orders, sample_settings};

fn diagnostics(text: &str) -> Vec<Diagnostic> {
    parse_policies("policies/orders.yaml", text, &sample_settings(), now()).diagnostics
}

#[test]
fn at_a_terminal_the_place_is_drawn() {
    let found = diagnostics(&orders().replace("timeZone: Europe/Berlin", "timeZone: Mars/Olympus # there"));
    let expected = "  \
  × spec.schedule.timeZone: `Mars/Olympus` is not a time zone of the IANA
  │ database
    ╭─[policies/orders.yaml:16:15]
 16 │     timeZone: Mars/Olympus
    ·               ────────────
    ╰────
  help: write for example Europe/Berlin or UTC

";
    assert_eq!(graphical(&found, 80, false), expected);
    assert!(graphical(&found, 80, true).contains("\u{1b}["));
}

#[test]
fn json_names_the_place() {
    let found = diagnostics(&orders().replace("length: 40", "length: 4"));
    let json = serde_json::to_value(&found).expect("JSON");
    let line = found[0].position.expect("a position").line;
    assert_eq!(
        json,
        serde_json::json!([{
            "severity": "error",
            "file": "policies/orders.yaml",
            "line": line,
            "column": 13,
            "field": "spec.value.length",
            "message": "a value of 4 characters is not supported",
            "remedy": "use a length from 16 to 256",
        }])
    );
}

/// People paste secrets where none belong. None comes out again, in any form.
#[test]
fn pasted_secrets_are_not_shown() {
    let orders = orders();
    for (from, to) in [
        ("  value:\n    length: 40\n    alphabet: alphanumeric\n", "  value: hunter2\n"),
        ("  value:\n", "  password: hunter2\n  value:\n"),
        ("  value:\n", "  # hunter2\n  vaule: [hunter2]\n  value:\n"),
        ("  value:\n", "  \"password\": \"hunter2\n  value:\n"),
        ("  value:\n", "  {password: hunter2\n  value:\n"),
        ("  value:\n", "  value: hunter2\n  value:\n"),
        ("  value:\n", "  -----BEGIN hunter2-----\n  value:\n"),
        ("  value:\n", "  password: !hunter2\n  value:\n"),
        ("  value:\n", "  password: *hunter2\n  value:\n"),
        ("admin: orders-admin", "admin: {password: hunter2}"),
        ("admin: orders-admin", "admin: [hunter2]"),
        ("          mode: verify-full\n", "          mode: disable # hunter2\n"),
        (
            "tls:\n          mode: verify-full\n",
            "tls: {password: hunter2, mode: prefer} # hunter2\n        \"tls\":\n",
        ),
        ("database: orders\n", "{password: hunter2, database: 3}\n"),
        ("PGPASSWORD={{ value }}", "PGPASSWORD=hunter2 {{ password }}"),
        ("[systemctl, reload, orders.service]", "[\"curl {{ }} hunter2\"]"),
        ("[systemctl, reload, orders.service]", "[\"curl hunter2\"]"),
        ("mode: \"0640\"", "mode: 0640 # hunter2"),
    ] {
        assert!(orders.contains(from), "{from:?}");
        let found = diagnostics(&orders.replacen(from, to, 1));
        assert!(!found.is_empty(), "{to:?} is not reported");
        let shown = format!(
            "{found:?}\n{}\n{}\n{}",
            graphical(&found, 100, false),
            found.iter().map(ToString::to_string).collect::<String>(),
            serde_json::to_string(&found).expect("JSON"),
        );
        assert!(!shown.contains("hunter2"), "{to:?}:\n{shown}");
    }
}

/// Any bytes at all give diagnostics that can be drawn, and no panic.
#[test]
fn any_text_can_be_reported_on() {
    use proptest::prelude::*;
    let sample = orders();
    let lines: Vec<&str> = sample.lines().collect();
    let settings = sample_settings();
    let piece = prop_oneof![
        (0..lines.len()).prop_map(|index| lines[index].to_owned()),
        "[ \\-:#&*!|>'\"%{}\\[\\],?a-zäé0-9\u{1b}\t]{0,24}",
        "---|\\.\\.\\.|  - |  a: |    ",
    ];
    let text = proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.join("\n"));
    proptest!(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() }, |(text in text)| {
        let loaded = parse_policies("p.yaml", &text, &settings, now());
        let drawn = graphical(&loaded.diagnostics, 80, false);
        prop_assert!(!drawn.contains('\u{1b}'), "a control sequence");
        for diagnostic in &loaded.diagnostics {
            let line = diagnostic.position.map_or(1, |position| position.line as usize);
            prop_assert!(line <= text.lines().count().max(1), "{diagnostic}");
        }
    });
}
