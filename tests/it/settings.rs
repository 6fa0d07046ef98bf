//! Settings from `rekeyd.yaml`: what is read, and what every mistake is told with.

use std::path::{Path, PathBuf};

use rekeyd::settings::{self, KeySource, Settings, StoreSettings, VaultAuth};

/// Stands in a changed sample before the place that a diagnostic must point at.
const HERE: char = '«';

#[test]
fn the_sample_is_read() {
    let settings =
        settings::load(&root().join("deploy/rekeyd.yaml")).expect("the sample holds to every rule");
    assert_eq!(settings.socket, Path::new("/run/rekeyd/rekeyd.sock"));
    assert_eq!(settings.listen.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:9184"));
    assert_eq!(settings.shutdown_deadline.to_string(), "20s");
    assert_eq!(settings.stores.len(), 3);
}

#[test]
fn relative_paths_are_from_the_folder_of_the_file() {
    let text = "policies: {directory: policies}\n\
        stores:\n  \
          a: {embedded: {path: store.db, key: {file: ../key}}}\n  \
          b: {vault: {address: 'https://b', caFile: ca.pem, auth: {token: {file: token}}}}\n  \
          c: {vault: {address: 'https://c', auth: {appRole: {roleIdFile: role, secretIdFile: secret}}}}\n  \
          d: {vault: {address: 'https://d', auth: {kubernetes: {role: r, tokenFile: sa}}}}\n\
        credentials: {e: {file: {username: u, path: admin}}}\n\
        ledger: {path: ledger.git, remote: {url: 'https://h/a', tokenFile: t, caFile: c}}\n\
        socket: s.sock\n";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rekeyd.yaml");
    std::fs::write(&path, text).expect("the settings can be written");
    let settings = settings::load(&path).expect("settings");
    let at = |name: &str| folder.path().join(name);
    assert_eq!(settings.policies.directory, Some(at("policies")));
    assert_eq!(settings.ledger.path, at("ledger.git"));
    assert_eq!(settings.socket, at("s.sock"));
    let remote = settings.ledger.remote.as_ref().expect("a remote");
    assert_eq!((&remote.token_file, &remote.ca_file), (&Some(at("t")), &Some(at("c"))));
    let store = |name: &str| &settings.stores[&name.parse().expect("a name")];
    let StoreSettings::Embedded(embedded) = store("a") else { panic!("embedded") };
    assert_eq!((&embedded.path, &embedded.key), (&at("store.db"), &KeySource::File(at("../key"))));
    let login = |name: &str| match store(name) {
        StoreSettings::Vault(vault) => match &vault.auth {
            VaultAuth::Token(token) => vec![vault.ca_file.clone().expect("authorities"), token.file.clone()],
            VaultAuth::AppRole(role) => vec![role.role_id_file.clone(), role.secret_id_file.clone()],
            VaultAuth::Kubernetes(kubernetes) => vec![kubernetes.token_file.clone()],
        },
        StoreSettings::Embedded(_) | StoreSettings::AwsSecretsManager(_) => panic!("vault"),
    };
    assert_eq!(login("b"), [at("ca.pem"), at("token")]);
    assert_eq!(login("c"), [at("role"), at("secret")]);
    assert_eq!(login("d"), [at("sa")]);
}

#[test]
fn mistakes_in_form() {
    for (from, to, expected) in [
        (
            "listen: 127.0.0.1:9184",
            "listen: «localhost",
            "listen: invalid socket address syntax (see the field's description in the JSON Schema)",
        ),
        (
            "listen: 127.0.0.1:9184",
            "«lisen: 127.0.0.1:9184",
            "lisen: unknown field `lisen` (did you mean `listen`? Known: `policies`, `stores`, `credentials`, `clusters`, `ledger`, `listen`, `socket`, `leaderElection`, `argoCd`, `gitops`, `outbound`, `plugins`, `authorities`, `limits`, `freezes`, `shutdownDeadline`)",
        ),
        (
            "  bao:\n    vault:\n",
            "  «Bao:\n    vault:\n",
            "stores.Bao: `Bao` is not a DNS label (use 1 to 63 lower-case letters, digits and inner hyphens)",
        ),
        (
            "        appRole:\n",
            "        «approle:\n",
            "stores.bao.vault.auth.approle: `approle` is not among the choices (did you mean `appRole`? Known: `token`, `appRole`, `kubernetes`)",
        ),
        (
            "      username: rekeyd_admin\n",
            "      username: rekeyd_admin\n      «password: hunter2\n",
            "credentials.local-admin.file.password: unknown field `password` (use one of `username`, `path`, `hosts`)",
        ),
        (
            "policies:\n  directory: /etc/rekeyd/policies\n",
            "«policies:\n  {}\n",
            "policies: nothing says where policies are (add `directory`, or `resources` for those of a cluster)",
        ),
        (
            "rotations: 64",
            "rotations: «many",
            "limits.rotations: expected a whole number from 0 to 65535, found text (write a whole number from 0 to 65535)",
        ),
        (
            "controlPath: rekeyd",
            "controlPath: «../rekeyd",
            "stores.bao.vault.controlPath: `../rekeyd` is not a store path (use segments of letters, digits, `.`, `_`, `-` joined by `/`, none of them `.` or `..`)",
        ),
    ] {
        tells(from, to, expected);
    }
    let lines = said("a: 1\n---\nb: 2\n").0;
    assert_eq!(
        lines,
        [
            "rekeyd.yaml: error: holds more than one document (keep one; policies belong into the policy directory)"
        ]
    );
    assert_eq!(
        said("# nothing\n").0,
        ["rekeyd.yaml: error: holds no settings (see deploy/rekeyd.yaml for an example)"]
    );
    assert_eq!(said("{}").0.len(), 3);
}

#[test]
fn mistakes_about_stores() {
    let address = "address: https://bao.example.com:8200";
    for (from, to, expected) in [
        (
            address,
            "address: «http://bao.example.com:8200",
            "stores.bao.vault.address: without TLS, everybody on the way to bao.example.com can read every value (use https; plain http is taken on this machine only)",
        ),
        (
            address,
            "address: «https://root:hunter2@bao.example.com",
            "stores.bao.vault.address: the URL carries a user name or a password (put the password into a file and name the file, and change it: it was in this one)",
        ),
        (
            address,
            "address: «bao.example.com",
            "stores.bao.vault.address: this is not an address (write for example https://bao.example.com:8200)",
        ),
        (
            "mount: secret",
            "mount: «a b",
            "stores.bao.vault.mount: `a b` is not a path of a store (use segments of letters, digits, `.`, `_`, `-`, joined by `/`)",
        ),
        (
            "mount: secret",
            "mount: secret\n      namespace: «team/../root",
            "stores.bao.vault.namespace: `team/../root` is not a path of a store (use segments of letters, digits, `.`, `_`, `-`, joined by `/`)",
        ),
        (
            "mount: secret",
            "mount: secret\n      timeout: «0s",
            "stores.bao.vault.timeout: a request may take up to 10m, and this says 0s (use a time between 1s and 10m)",
        ),
        (
            "mount: secret",
            "mount: secret\n      timeout: «11m",
            "stores.bao.vault.timeout: a request may take up to 10m, and this says 11m (use a time between 1s and 10m)",
        ),
        (
            "        appRole:\n",
            "        appRole:\n          mount: «../sys\n",
            "stores.bao.vault.auth.appRole.mount: `../sys` is not a path of a store (use segments of letters, digits, `.`, `_`, `-`, joined by `/`)",
        ),
        (
            "        appRole:\n          roleIdFile: /etc/rekeyd/bao/role-id\n          secretIdFile: /etc/rekeyd/bao/secret-id\n",
            "        kubernetes:\n          role: «\"\"\n",
            "stores.bao.vault.auth.kubernetes.role: this text is empty (give it a text, or remove it)",
        ),
        (
            "systemdCredential: rekeyd-store-key",
            "systemdCredential: «../key",
            "stores.local.embedded.key.systemdCredential: this is not the name of a systemd credential (write the name given in `LoadCredential=`, letters, digits, `.`, `_` and `-`)",
        ),
    ] {
        tells(from, to, expected);
    }
    let text = sample();
    let (start, end) =
        (text.find("stores:").expect("stores"), text.find("credentials:").expect("credentials"));
    let (lines, _) = said(&format!("{}stores: {{}}\n{}", &text[..start], &text[end..]));
    assert!(
        lines[0].contains(
            "error: stores: there is no store (add one, `embedded`, `vault` or `awsSecretsManager`)"
        ),
        "{lines:?}"
    );
    takes(address, "address: http://127.0.0.1:8200");
}

#[test]
fn mistakes_about_aws() {
    let at = "stores.aws.awsSecretsManager";
    for (from, to, expected) in [
        (
            "region: eu-central-1",
            "region: «Frankfurt",
            "region: this is not a region of AWS (write for example eu-central-1)",
        ),
        (
            "account: \"123456789012\"",
            "account: «\"1234\"",
            "account: this is not an account of AWS (write its twelve digits, in quotes)",
        ),
        (
            "kmsKey: alias/rekeyd",
            "kmsKey: «key/rekeyd",
            "kmsKey: this is not a key of KMS (write its ARN, its id, or `alias/` and its alias)",
        ),
        (
            "kmsKey: alias/rekeyd",
            "endpoint: «http://vpce.example.com",
            "endpoint: without TLS, everybody on the way to vpce.example.com can read every value (use https; plain http is taken on this machine only)",
        ),
        (
            "kmsKey: alias/rekeyd",
            "timeout: «0s",
            "timeout: a request may take up to 10m, and this says 0s (use a time between 1s and 10m)",
        ),
        (
            "path: platform/accounts-db/admin",
            "path: «rekeyd/control/admin",
            "!credentials.accounts-admin.store.path: `rekeyd/control/admin` is in the folder that rekeyd keeps its control documents in (use a path outside the store's `controlPath`)",
        ),
    ] {
        match expected.strip_prefix('!') {
            Some(elsewhere) => tells(from, to, elsewhere),
            None => tells(from, to, &format!("{at}.{expected}")),
        }
    }
    takes("kmsKey: alias/rekeyd", "endpoint: http://127.0.0.1:5000");
}

#[test]
fn mistakes_about_credentials() {
    for (from, to, expected) in [
        (
            "      name: bao\n",
            "      name: «boa\n",
            "credentials.orders-admin.store.name: there is no store `boa` (did you mean `bao`? Known: `aws`, `bao`, `local`)",
        ),
        (
            "path: platform/orders-db/admin",
            "path: «rekeyd/admin",
            "credentials.orders-admin.store.path: `rekeyd/admin` is in the folder that rekeyd keeps its control documents in (use a path outside the store's `controlPath`)",
        ),
        (
            "path: platform/orders-db/admin",
            "path: platform/orders-db/admin\n      fields: {principal: a, value: «a}",
            "credentials.orders-admin.store.fields.value: principal and value have the same key `a` (use two different keys)",
        ),
        (
            "path: /etc/rekeyd/admins/local",
            "path: «\"\"",
            "credentials.local-admin.file.path: this text is empty (give it a text, or remove it)",
        ),
    ] {
        tells(from, to, expected);
    }
}

#[test]
fn mistakes_about_the_ledger() {
    let url = "url: ssh://git@git.example.com/audit/rekeyd.git";
    for (from, to, expected) in [
        (
            url,
            "url: «ssh://git:hunter2@git.example.com/a.git",
            "ledger.remote.url: the URL carries a user name or a password (put the password into a file and name the file, and change it: it was in this one)",
        ),
        (
            url,
            "url: «https://hunter2@git.example.com/a.git",
            "ledger.remote.url: the URL carries a user name or a password (put the password into a file and name the file, and change it: it was in this one)",
        ),
        (
            url,
            "url: «git://git.example.com/a.git",
            "ledger.remote.url: `git://` does not protect what is sent (use https or ssh)",
        ),
        (
            url,
            "url: «audit.git",
            "ledger.remote.url: this is not the URL of a Git repository (write https://host/path, ssh://user@host/path, user@host:path or an absolute path)",
        ),
        (
            "    identityFile:",
            "    tokenFile: «/etc/token\n    identityFile:",
            "ledger.remote.tokenFile: this has no effect with a remote of this kind (remove it: it belongs to https)",
        ),
        (
            "    identityFile:",
            "    timeout: «1h\n    identityFile:",
            "ledger.remote.timeout: a request may take up to 10m, and this says 1h (use a time between 1s and 10m)",
        ),
        (
            "  author:\n",
            "  branch: «a..b\n  author:\n",
            "ledger.branch: this is not a branch name that Git takes (write for example main)",
        ),
        (
            "email: rekeyd@example.com",
            "email: «<rekeyd@example.com>",
            "ledger.author.email: Git takes no `<` and `>` in an author (write the name and the address alone)",
        ),
        (
            "    name: rekeyd\n",
            "    name: «\"\"\n",
            "ledger.author.name: this text is empty (give it a text, or remove it)",
        ),
    ] {
        tells(from, to, expected);
    }
}

#[test]
fn mistakes_about_places_and_limits() {
    let long = format!("/{}", "s".repeat(107));
    for (from, to, expected) in [
        (
            "socket: /run/rekeyd/rekeyd.sock",
            format!("socket: «{long}"),
            "socket: a socket's path has at most 107 bytes, and this one has 108 (use a shorter one, such as /run/rekeyd/rekeyd.sock)",
        ),
        (
            "socket: /run/rekeyd/rekeyd.sock",
            "socket: «/var/lib/rekeyd/ledger.git".into(),
            "socket: its socket and the ledger are the same path (give each a path of its own)",
        ),
        (
            "path: /var/lib/rekeyd/store.db",
            "path: «/etc/rekeyd/admins/local".into(),
            "stores.local.embedded.path: the database of a store and a credential are the same path (give each a path of its own)",
        ),
        (
            "rotations: 64",
            "rotations: «0".into(),
            "limits.rotations: 0 is not between 1 and 1024 (use a number from 1 to 1024)",
        ),
        (
            "perTarget: 8",
            "perTarget: «257".into(),
            "limits.perTarget: 257 is not between 1 and 256 (use a number from 1 to 256)",
        ),
        (
            "to: 2026-12-01",
            "to: «2026-11-01".into(),
            "freezes[0].to: the freeze ends before it begins (put the later moment in `to`)",
        ),
        (
            "reason: Black Friday",
            "reason: «\"\"".into(),
            "freezes[0].reason: this text is empty (give it a text, or remove it)",
        ),
    ] {
        tells(from, &to, expected);
    }
    takes("socket: /run/rekeyd/rekeyd.sock", &format!("socket: {}", &long[..107]));
}

#[test]
fn every_mistake_is_told_at_once_and_no_secret_with_them() {
    let text = [
        ("rotations: 64", "rotations: 0"),
        ("https://bao.example.com:8200", "https://u:hunter2@bao.example.com"),
        ("ssh://git@git.example.com/audit/rekeyd.git", "https://u:hunter2@git.example.com/a.git"),
        ("name: bao", "name: boa"),
        ("listen:", "token: hunter2\nlisten:"),
        ("mount: secret", "mount: secret\n      token: hunter2"),
    ]
    .into_iter()
    .fold(sample(), |text, (from, to)| text.replacen(from, to, 1));
    let diagnostics = settings::parse("rekeyd.yaml", &text, Path::new("/etc/rekeyd")).expect_err("mistakes");
    let fields: Vec<&str> = diagnostics.iter().map(|diagnostic| &*diagnostic.field).collect();
    assert_eq!(
        fields,
        [
            "stores.bao.vault.token",
            "credentials.orders-admin.store.name",
            "ledger.remote.url",
            "token",
            "limits.rotations"
        ]
    );
    let shown = format!("{diagnostics:?}{}", rekeyd::policy::diagnostic::graphical(&diagnostics, 80, false));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_file_that_is_not_there_is_told() {
    let diagnostics = settings::load(Path::new("/nowhere/rekeyd.yaml")).expect_err("no file");
    assert_eq!(
        diagnostics[0].to_string(),
        "/nowhere/rekeyd.yaml: error: cannot be read: no such file or folder (check that it exists and that this user may \
         read it)"
    );
}

/// A part of the sample is replaced, and exactly these words are said, of the marked place.
#[track_caller]
fn tells(from: &str, to: &str, expected: &str) {
    let (lines, place) = said(&changed(from, to));
    assert_eq!(lines, [format!("rekeyd.yaml{place}error: {expected}")]);
    assert!(!lines[0].contains("hunter2"));
}

/// A part of the sample is replaced, and nothing is wrong with that.
#[track_caller]
fn takes(from: &str, to: &str) {
    assert_eq!(said(&changed(from, to)).0, Vec::<String>::new());
}

fn said(text: &str) -> (Vec<String>, String) {
    let place = text.find(HERE).map_or(String::new(), |at| {
        let line = 1 + text[..at].matches('\n').count();
        let column = 1 + text[..at].rsplit('\n').next().map_or(0, |last| last.chars().count());
        format!(":{line}:{column}: ")
    });
    let parsed: Result<Settings, _> =
        settings::parse("rekeyd.yaml", &text.replace(HERE, ""), Path::new("/etc/rekeyd"));
    let diagnostics = parsed.err().unwrap_or_default();
    (diagnostics.iter().map(ToString::to_string).collect(), place)
}

#[track_caller]
fn changed(from: &str, to: &str) -> String {
    let sample = sample();
    assert!(sample.contains(from), "the sample does not hold {from:?}");
    sample.replacen(from, to, 1)
}

fn sample() -> String {
    std::fs::read_to_string(root().join("deploy/rekeyd.yaml")).expect("the sample can be read")
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}
