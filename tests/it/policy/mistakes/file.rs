//! Mistakes about a file that is written.

use super::{changed, orders, said, tells};

#[test]
fn files() {
    let orders = orders();
    let at = "spec.consumers[0].file";
    let path = "path: /run/orders/db.env";
    let own = |path: &str, what: &str| {
        format!("error: {at}.path: `{path}` is rekeyd's own: {what} (use a file of the application's own)")
    };
    for (from, to, expected) in [
        (
            path,
            "path: «orders/db.env",
            format!(
                "error: {at}.path: `orders/db.env` is not an absolute path (write it from the root, `/run/app/db.env`)"
            ),
        ),
        (
            path,
            "path: «/run/orders/../db.env",
            format!("error: {at}.path: `/run/orders/../db.env` leads through `..` (write it without `..`)"),
        ),
        (
            path,
            "path: «/run/orders/",
            format!("error: {at}.path: `/run/orders/` names no file (add the file's name)"),
        ),
        (path, "path: «/", format!("error: {at}.path: `/` names no file (add the file's name)")),
        (
            path,
            "path: «\"/run/a\\nb\"",
            format!(
                "error: {at}.path: this text holds a control character (remove line breaks and control characters)"
            ),
        ),
        (
            path,
            "path: «/etc/rekeyd/policies/x.yaml",
            own("/etc/rekeyd/policies/x.yaml", "the policy directory"),
        ),
        (
            path,
            "path: «/var/lib/rekeyd/ledger.git/HEAD",
            own("/var/lib/rekeyd/ledger.git/HEAD", "the ledger"),
        ),
        (path, "path: «/var/lib/rekeyd/store.db", own("/var/lib/rekeyd/store.db", "the database of a store")),
        (path, "path: «/etc/rekeyd//admins/./local", own("/etc/rekeyd//admins/./local", "a credential")),
        (
            "mode: \"0640\"",
            "mode: «\"0646\"",
            format!(
                "error: {at}.mode: everybody on the machine may change the file (use mode \"0600\" or \"0640\")"
            ),
        ),
        (
            "mode: \"0640\"",
            "mode: «\"0644\"",
            format!(
                "warning: {at}.mode: everybody on the machine may read the file (use mode \"0600\", or \"0640\" and a group in `owner`)"
            ),
        ),
        (
            "mode: \"0640\"",
            "mode: «rw-r-----",
            format!(
                "error: {at}.mode: `rw-r-----` is not a file mode (write octal permission bits that let the owner read, in quotes, for example \"0600\")"
            ),
        ),
        (
            "owner: root:orders",
            "owner: «\"root:\"",
            format!(
                "error: {at}.owner: `root:` is not a file owner (write `user` or `user:group`, as names or numbers)"
            ),
        ),
        (
            "reload, orders.service]",
            "«\"\"]",
            format!(
                "error: {at}.reload[1]: argument 2 of the command is empty (remove it, or give it a text)"
            ),
        ),
        (
            "reload, orders.service]",
            "«\"a\\nb\"]",
            format!(
                "error: {at}.reload[1]: this text holds a control character (remove line breaks and control characters)"
            ),
        ),
        (
            "reload, orders.service]",
            "«\"{{ value }}\"]",
            format!(
                "error: {at}.reload[1]: arguments of the command are not templates (let the command read the file: everybody on the machine can see its arguments)"
            ),
        ),
        (
            "[systemctl, reload",
            "[«bin/systemctl, reload",
            format!(
                "error: {at}.reload[0]: the program `bin/systemctl` is neither an absolute path nor a plain name (write it from the root, `/usr/bin/systemctl`)"
            ),
        ),
        (
            "[systemctl, reload, orders.service]",
            "[«systemctl reload orders]",
            format!(
                "warning: {at}.reload[0]: the command is one text with spaces: a program of that name is unlikely (write program and arguments apart: [systemctl, reload, nginx])"
            ),
        ),
        (
            "reloadTimeout: 30s",
            "reloadTimeout: «0s",
            format!(
                "error: {at}.reloadTimeout: a command may take up to 1h, and this says 0s (use a time between 1s and 1h)"
            ),
        ),
        (
            "reloadTimeout: 30s",
            "reloadTimeout: «2h",
            format!(
                "error: {at}.reloadTimeout: a command may take up to 1h, and this says 2h (use a time between 1s and 1h)"
            ),
        ),
    ] {
        tells(&orders, from, to, &expected);
    }
}

#[test]
fn templates_point_into_their_block() {
    let orders = orders();
    let at = "spec.consumers[0].file.content";
    let block = "          PGUSER={{ principal }}\n          PGPASSWORD={{ value }}\n";
    let undefined = format!(
        "error: {at}: the template uses `password`, which is not defined (use namespace, policy, principal, value, version, or parts.NAME)"
    );
    tells(&orders, "PGPASSWORD={{ value }}", "«PGPASSWORD={{ password }}", &undefined);
    // In a branch that a rendering may never take, too.
    tells(
        &orders,
        "PGPASSWORD={{ value }}",
        "{% if version > 9 %}\n          «X={{ password }}{% endif %}{{ value }}",
        &undefined,
    );
    // Empty lines at the start of a block belong to it.
    let text = changed(&orders, block, &format!("\n\n{block}            «X={{{{ value }}\n"));
    let (lines, place) = said(&text);
    assert!(
        lines.len() == 1 && lines[0].starts_with(&format!("{place}error: {at}: the template is not valid: ")),
        "{lines:?}"
    );
    // In a text that is no block, the whole of it.
    tells(
        &orders,
        &format!("content: |\n{block}"),
        "content: «\"{{ value | frob }}\"\n",
        &format!(
            "error: {at}: the template cannot be filled: it uses an unknown filter (write for example `PGPASSWORD={{{{ value }}}}`; the syntax is that of Jinja)"
        ),
    );
    tells(
        &orders,
        &format!("content: |\n{block}"),
        "content: «static\n",
        &format!(
            "warning: {at}: the template does not use the value (put `{{{{ value }}}}` where the value belongs)"
        ),
    );
}
