//! How MySQL 8 answers what rekeyd says about accounts: one conversation, with the real server and with the scripted one,
//! so that the latter behaves as MySQL does and not as somebody thought that it would.

use async_trait::async_trait;

/// A server that is spoken to as its superuser.
#[async_trait]
pub(crate) trait Spoken {
    /// The rows, with a tab between columns, or the number of the error.
    async fn say(&self, statement: &str) -> Result<Vec<String>, u16>;

    /// A user that is not there, and whose name ends in `a`.
    fn user(&self) -> String;

    /// A role that is there.
    fn role(&self) -> String;
}

/// What a statement is answered with.
enum Answer {
    Done,
    Error(u16),
    /// One row.
    Row(&'static str),
    Rows(&'static [&'static str]),
}
use Answer::{Done, Error, Row, Rows};

const ACCOUNT: &str = "SELECT User, Host, plugin, HEX(authentication_string), account_locked, User_attributes, ssl_type, \
     CONVERT(ssl_cipher USING utf8mb4), CONVERT(x509_issuer USING utf8mb4), CONVERT(x509_subject USING utf8mb4), \
     max_questions, max_updates, max_connections, max_user_connections FROM mysql.user WHERE User IN ('', '{u}')";

/// `{u}` stands for the user, `{r}` for the role, `{one}`, `{two}` and `{salted}` for hashes as statements have them.
const CONVERSATION: &[(&str, Answer)] = &[
    ("ALTER USER '{u}'@'%' DISCARD OLD PASSWORD", Error(1396)),
    ("SHOW GRANTS FOR '{u}'@'%'", Error(1141)),
    ("GRANT `{r}`@`%` TO '{u}'@'%'", Error(3523)),
    (
        "CREATE USER IF NOT EXISTS '{u}'@'%' IDENTIFIED WITH 'mysql_native_password' AS 0x{one} ACCOUNT LOCK \
         ATTRIBUTE '{\"rekeyd\": {\"b\": 1, \"a\": [2]}}'",
        Done,
    ),
    // It is there, and left as it is.
    (
        "CREATE USER IF NOT EXISTS '{u}'@'%' IDENTIFIED WITH 'mysql_native_password' AS 0x{two} ACCOUNT LOCK \
         ATTRIBUTE '{\"rekeyd\": {\"a\": 3}}'",
        Done,
    ),
    (
        ACCOUNT,
        Row(
            "{u}\t%\tmysql_native_password\t{ONE}\tY\t{\"metadata\":{\"rekeyd\":{\"a\":[2],\"b\":1}}}\t\t\t\t\t0\t0\t0\t0",
        ),
    ),
    (
        "ALTER USER '{u}'@'%' IDENTIFIED WITH 'mysql_native_password' AS 0x{two} RETAIN CURRENT PASSWORD ACCOUNT UNLOCK \
         ATTRIBUTE '{\"rekeyd\": {\"b\": null, \"c\": {\"d\": 1}}, \"team\": \"search\"}'",
        Done,
    ),
    (
        "SELECT JSON_EXTRACT(ATTRIBUTE, '$.rekeyd') FROM information_schema.USER_ATTRIBUTES WHERE USER = '{u}' AND HOST = '%'",
        Row("{\"a\":[2],\"c\":{\"d\":1}}"),
    ),
    (
        ACCOUNT,
        Row(
            "{u}\t%\tmysql_native_password\t{TWO}\tN\t{\"additional_password\":\"{one as text}\",\"metadata\":\
             {\"rekeyd\":{\"a\":[2],\"c\":{\"d\":1}},\"team\":\"search\"}}\t\t\t\t\t0\t0\t0\t0",
        ),
    ),
    // Each of these leaves the account as it is.
    (
        "ALTER USER '{u}'@'%' IDENTIFIED WITH 'caching_sha2_password' AS 0x{salted} RETAIN CURRENT PASSWORD",
        Error(3894),
    ),
    ("ALTER USER '{u}'@'%' IDENTIFIED WITH 'caching_sha2_password' AS 0x24412430303524", Error(1827)),
    ("ALTER USER '{u}'@'%' IDENTIFIED WITH 'mysql_native_password' AS 0x24", Error(1827)),
    ("ALTER USER '{u}'@'%' IDENTIFIED WITH 'no_such_plugin' AS 0x24", Error(1524)),
    ("ALTER USER '{u}'@'%' ACCOUNT LOCK ATTRIBUTE 'x'", Error(3982)),
    ("ALTER USER '{u}'@'%' DEFAULT ROLE '{r}'@'%'", Error(3530)),
    ("GRANT `no such role`@`%` TO '{u}'@'%'", Error(3523)),
    ("KILL CONNECTION 4294967295", Error(1094)),
    ("ALTER USER '{u}'@'%' ATTRIBUTE '{\"rekeyd\": null, \"team\": null}'", Done),
    (
        ACCOUNT,
        Row(
            "{u}\t%\tmysql_native_password\t{TWO}\tN\t{\"additional_password\":\"{one as text}\",\"metadata\":{}}\t\t\t\t\t0\t0\t0\t0",
        ),
    ),
    // With another plugin's password the second one goes, too.
    ("ALTER USER '{u}'@'%' IDENTIFIED WITH 'caching_sha2_password' AS 0x{salted}", Done),
    (ACCOUNT, Row("{u}\t%\tcaching_sha2_password\t{SALTED}\tN\t{\"metadata\":{}}\t\t\t\t\t0\t0\t0\t0")),
    ("ALTER USER '{u}'@'%' DISCARD OLD PASSWORD", Done),
    // Without RETAIN, the second one stays.
    ("ALTER USER '{u}'@'%' IDENTIFIED WITH 'mysql_native_password' AS 0x{one}", Done),
    ("ALTER USER '{u}'@'%' IDENTIFIED WITH 'mysql_native_password' AS 0x{two} RETAIN CURRENT PASSWORD", Done),
    ("ALTER USER '{u}'@'%' IDENTIFIED WITH 'mysql_native_password' AS 0x{two}", Done),
    (
        ACCOUNT,
        Row(
            "{u}\t%\tmysql_native_password\t{TWO}\tN\t{\"additional_password\":\"{one as text}\",\"metadata\":{}}\t\t\t\t\t0\t0\t0\t0",
        ),
    ),
    ("GRANT `{r}`@`%` TO '{u}'@'%'", Done),
    ("ALTER USER '{u}'@'%' DEFAULT ROLE '{r}'@'%'", Done),
    ("SHOW GRANTS FOR '{u}'@'%'", Rows(&["GRANT USAGE ON *.* TO `{u}`@`%`", "GRANT `{r}`@`%` TO `{u}`@`%`"])),
    (
        "SELECT USER, HOST, CONCAT(QUOTE(DEFAULT_ROLE_USER), '@', QUOTE(DEFAULT_ROLE_HOST)) FROM mysql.default_roles \
         WHERE USER IN ('{u}') ORDER BY 3",
        Row("{u}\t%\t'{r}'@'%'"),
    ),
];

pub(crate) async fn it_answers_as_mysql_8_does(server: &impl Spoken) {
    let [one, two] = ["6BB4837EB74329105EE4568DDA7DC67ED2CA2AD9", "0000837EB74329105EE4568DDA7DC67ED2CA2AD9"]
        .map(|digits| format!("*{digits}"));
    let salted = format!("$A$005${}i4ut0N985OoJzopUjMOS2QPASPGzjYg/O5RZoLOzJbB", ".".repeat(20));
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let fill = |text: &str| {
        let mut text = text.replace("{u}", &server.user()).replace("{r}", &server.role());
        for (name, hash) in [("one", &one), ("two", &two), ("salted", &salted)] {
            text = text.replace(&format!("{{{name}}}"), &hex(hash));
            text = text.replace(&format!("{{{}}}", name.to_uppercase()), &hex(hash).to_uppercase());
        }
        text.replace("{one as text}", &one)
    };
    for (statement, expected) in CONVERSATION {
        let statement = fill(statement);
        let expected = match expected {
            Done => Ok(Vec::new()),
            Error(code) => Err(*code),
            Row(row) => Ok(vec![fill(row)]),
            Rows(rows) => Ok(rows.iter().map(|row| fill(row)).collect()),
        };
        let answer = server.say(&statement).await;
        let answer = answer.map(|rows| rows.iter().map(|row| in_order(row)).collect::<Vec<_>>());
        assert_eq!(answer, expected, "{statement}");
    }
}

/// With the keys of objects in one order, and without spaces between them.
fn in_order(row: &str) -> String {
    let cell = |cell: &str| match serde_json::from_str::<serde_json::Value>(cell) {
        Ok(object @ serde_json::Value::Object(_)) => sorted(&object).to_string(),
        _ => cell.to_owned(),
    };
    row.split('\t').map(cell).collect::<Vec<_>>().join("\t")
}

fn sorted(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect()
        }
        other => other.clone(),
    }
}
