//! What accepts the value: one kind of target, and what it needs to be told.

use std::path::PathBuf;

use serde_json::Value;

use super::ask::{Asker, invalid, word};
use super::flags::{Flags, Kind, Pair, StoreKind, Way};
use super::stores::target_store;
use super::yaml::{Map, Node};
use super::{Admin, Answer, Home, Stop};
use crate::http::outbound::Outbound;
use crate::ident::{DnsLabel, PartName, Principal};
use crate::policy::spec::{Interval, is_loopback};
use crate::recipe::{Parameters, Recipe, RecipeStrategy, shipped};

const ENVIRONMENT: &str = "USERNAME={{ principal }}\nPASSWORD={{ value }}\n";
const VALUE: &str = "{{ value }}";

/// Before it is known what the policy is called.
pub(super) struct Target {
    kind: Kind,
    node: Map,
    principals: Vec<Principal>,
    /// What the policy may be called.
    name: Option<String>,
    /// Who changes it, and where, if that is not said by a store.
    admin: Option<Needed>,
    /// Further credentials, and what they are.
    credentials: Vec<(String, String)>,
    content: &'static str,
    retire: Map,
    /// The keys that the value stands under in a store that has them, where not the usual ones.
    fields: Option<[&'static str; 2]>,
    /// Hosts of this machine or of a private network that requests go to.
    private: Vec<String>,
    /// What belongs to a value besides.
    parts: Vec<PartName>,
    /// Nothing can be made without a value that is there.
    follows: bool,
}

struct Needed {
    what: String,
    hosts: Vec<String>,
}

/// As the policy has it.
pub(super) struct Settled {
    pub(super) node: Map,
    pub(super) principals: Vec<String>,
    /// The template of a file for whoever reads the value.
    pub(super) content: &'static str,
    pub(super) retire: Map,
    /// Whether the target makes keys and names them.
    pub(super) mints: bool,
    pub(super) needs_cluster: bool,
    /// The kind of store that says where the target is.
    pub(super) needs_store: Option<StoreKind>,
    /// The keys of principal and value in a store that has them.
    pub(super) fields: Option<[&'static str; 2]>,
    /// Hosts of this machine or of a private network that requests go to.
    pub(super) private: Vec<String>,
    /// What belongs to a value besides.
    pub(super) parts: Vec<PartName>,
    /// Nothing can be made without a value that is there.
    pub(super) follows: bool,
}

impl Target {
    pub(super) fn ask(ask: &Asker, flags: &mut Flags, value: StoreKind) -> Result<Self, Stop> {
        use clap::ValueEnum as _;
        let kind = ask.choice(
            flags.target.take(),
            "--target",
            "What accepts the value",
            Kind::value_variants(),
            None,
        )?;
        match kind {
            Kind::Postgres => postgres(ask, flags),
            Kind::Mysql => mysql(ask, flags),
            Kind::Redis => redis(ask, flags),
            Kind::Rabbitmq => rabbitmq(ask, flags),
            Kind::Clickhouse => clickhouse(ask, flags),
            Kind::Http => http(ask, flags),
            Kind::Vault => vault(ask, flags, store_of(kind, value)),
            Kind::AwsIam => {
                let user = one(ask, flags, "The user of IAM")?;
                let node = Map::new().text("store", store_of(kind, value)).remark(STORE).text("user", &user);
                let content =
                    "[default]\naws_access_key_id = {{ principal }}\naws_secret_access_key = {{ value }}\n";
                let retire = Map::new().text("grace", "1d").text("soak", "1d").remark(
                    "So long the outgoing key is disabled, and can be had back, before it is deleted.",
                );
                let fields = Some(["accessKeyId", "secretAccessKey"]);
                Ok(Self { content, retire, fields, ..Self::plain(kind, node, vec![user]) })
            }
            Kind::KubernetesServiceAccount => service_account(ask, flags),
            Kind::Generated => {
                let user = ask.text(
                    flags.user.take(),
                    "--user",
                    "The name beside the value",
                    Some("generated".into()),
                )?;
                let node = Map::new().text("principal", &user);
                Ok(Self {
                    content: "KEY={{ value }}\n",
                    retire: Map::new(),
                    ..Self::plain(kind, node, vec![user])
                })
            }
        }
    }

    fn plain(kind: Kind, node: Map, principals: Vec<Principal>) -> Self {
        let name = principals.first().map(|user| policy_name(user.as_str()));
        let (admin, credentials, private) = (None, Vec::new(), Vec::new());
        let retire = Map::new().text("grace", "1h");
        let (content, fields) = (VALUE, None);
        let (parts, follows) = (Vec::new(), false);
        Self {
            kind,
            node,
            principals,
            name,
            admin,
            credentials,
            content,
            retire,
            fields,
            private,
            parts,
            follows,
        }
    }

    /// One that an admin changes.
    fn changed(kind: Kind, node: Map, principals: Vec<Principal>, hosts: Vec<String>) -> Self {
        let admin = Some(Needed { what: "Who changes it there: the admin's name".into(), hosts });
        let retire = Map::new().text("grace", "10m");
        Self { admin, content: ENVIRONMENT, retire, ..Self::plain(kind, node, principals) }
    }

    pub(super) fn usual_name(&self) -> Option<String> {
        self.name.clone().filter(|name| name.parse::<DnsLabel>().is_ok())
    }

    /// With the admin's credential, which is called after the policy.
    pub(super) fn settle(
        self,
        ask: &Asker,
        flags: &mut Flags,
        home: &Home,
        policy: &DnsLabel,
    ) -> Result<(Settled, Vec<Admin>), Stop> {
        let Self { kind, mut node, principals, admin, credentials, content, retire, fields, .. } = self;
        let mut admins = Vec::new();
        let hosts = admin.as_ref().map(|admin| admin.hosts.clone()).unwrap_or_default();
        if let Some(Needed { what, hosts }) = admin {
            let usual = (kind == Kind::Http).then(|| "rekeyd".to_owned());
            let username: Principal = ask.text(flags.admin_user.take(), "--admin-user", &what, usual)?;
            let file = match flags.admin_file.take() {
                Some(Answer(file)) => std::path::absolute(file).unwrap_or_default(),
                None => home.path(&format!("{policy}-admin")),
            };
            let name = label(policy, "admin");
            node = node.text("admin", &name).remark("Who changes it: a credential of the settings.");
            let what = format!("the value that `{username}` logs in with");
            admins.push(Admin { name, username: username.to_string(), what, file, hosts });
        }
        if !credentials.is_empty() {
            let mut named = Map::new();
            for (key, what) in credentials {
                let name = label(policy, &key.to_lowercase().replace('_', "-"));
                let file: PathBuf = home.path(&format!("{policy}-{key}"));
                named = named.text(key.as_str(), &name);
                admins.push(Admin { name, username: key, what, file, hosts: hosts.clone() });
            }
            node = node.map("credentials", named);
        }
        let needs_store = match kind {
            Kind::Vault => Some(StoreKind::Vault),
            Kind::AwsIam => Some(StoreKind::Aws),
            _ => None,
        };
        let settled = Settled {
            node: Map::new().map(word(&kind), node),
            principals: principals.iter().map(ToString::to_string).collect(),
            content,
            retire,
            mints: matches!(kind, Kind::Http | Kind::Vault | Kind::AwsIam | Kind::KubernetesServiceAccount),
            needs_cluster: kind == Kind::KubernetesServiceAccount,
            needs_store,
            fields,
            private: self.private,
            parts: self.parts,
            follows: self.follows,
        };
        Ok((settled, admins))
    }
}

/// What a policy may be called after somebody. Whether that is a name at all is the loader's to say.
fn policy_name(of: &str) -> String {
    let byte = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = of.chars().map(byte).take(63).collect();
    name.trim_matches('-').to_owned()
}

/// The host of an address that is on this machine or in a private network for all to see. Of a name it is not known.
fn private_host(base: &str) -> Option<String> {
    let url = url::Url::parse(base).ok()?;
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let is_private = match host.parse() {
        Ok(address) => Outbound::default().check(&host, address).is_err(),
        Err(_) => is_loopback(&host),
    };
    is_private.then_some(host)
}

const STORE: &str = "Where it is and how rekeyd logs in there: a store of the settings.";

/// The store that a target of a kind is at: the value's own, where that is of the kind.
fn store_of(kind: Kind, value: StoreKind) -> DnsLabel {
    let needed = if kind == Kind::Vault { StoreKind::Vault } else { StoreKind::Aws };
    let name = if needed == value { "main" } else { target_store(needed) };
    name.parse().expect("a literal label")
}

/// The name of a credential of a policy.
fn label(policy: &DnsLabel, what: &str) -> String {
    let head: String = policy.as_str().chars().take(62 - what.len().min(40)).collect();
    format!("{}-{what}", head.trim_end_matches('-'))
}

fn way(ask: &Asker, flags: &mut Flags, kind: Kind, ways: &[Way]) -> Result<Way, Stop> {
    let way = match ways {
        [only] => flags.strategy.take().unwrap_or(*only),
        ways => ask.choice(flags.strategy.take(), "--strategy", "How the value changes", ways, Some(0))?,
    };
    if ways.contains(&way) {
        return Ok(way);
    }
    let known: Vec<String> = ways.iter().map(word).collect();
    let reason = format!("a target that is {} has no strategy {}", word(&kind), word(&way));
    Err(Stop::Usage(invalid(&reason, format!("say --strategy {}", known.join(" or ")))))
}

fn one(ask: &Asker, flags: &mut Flags, question: &str) -> Result<Principal, Stop> {
    ask.text(flags.user.take(), "--user", question, None)
}

fn two(ask: &Asker, flags: &mut Flags) -> Result<Vec<Principal>, Stop> {
    let mut users = std::mem::take(&mut flags.users);
    if users.is_empty() {
        let text: Answer = ask.text(None, "--users", "The two users that take turns: A,B", None)?;
        for user in text.0.split(',') {
            let user = user.trim().parse();
            users.push(user.map_err(|error| Stop::Usage(invalid(&format!("{error}"), "say --users A,B")))?);
        }
    }
    if users.len() == 2 {
        return Ok(users);
    }
    Err(Stop::Usage(invalid(
        &format!("two users take turns, and these are {}", users.len()),
        "say --users A,B",
    )))
}

fn texts(names: &[Principal]) -> Node {
    Node::Texts(names.iter().map(ToString::to_string).collect())
}

/// The strategy of a database, and its users.
fn database_strategy(ask: &Asker, flags: &mut Flags, way: Way) -> Result<(Map, Vec<Principal>), Stop> {
    if way != Way::Alternating {
        let user = one(ask, flags, "The user whose password changes")?;
        return Ok((Map::new().map(word(&way), Map::new().text("user", &user)), vec![user]));
    }
    let users = two(ask, flags)?;
    let mut pair = Map::new().with("users", texts(&users));
    let mut roles = std::mem::take(&mut flags.member_of);
    if roles.is_empty() {
        roles.extend(ask.optional(None::<Principal>, "The role that both have their rights by")?);
    }
    if !roles.is_empty() {
        pair = pair.with("memberOf", texts(&roles)).remark("The roles that both have their rights by.");
    }
    Ok((Map::new().map("alternating", pair), users))
}

/// How a connection is protected: on this machine not at all, unless there is somebody to check it by.
fn tls(host: &str, ca_file: Option<Answer>) -> Map {
    let is_socket = host.starts_with('/');
    if ca_file.is_none() && (is_socket || is_loopback(host)) {
        return Map::new().text("mode", "disable").remark("It does not leave this machine.");
    }
    Map::new().text("mode", "verify-full").with_some("caFile", ca_file)
}

/// Host and port, and how the connection is protected. `plain` is the port without TLS.
fn endpoint(ask: &Asker, flags: &mut Flags, port: u16, plain: u16) -> Result<(String, Map, Map), Stop> {
    let Answer(host) = ask.text(flags.host.take(), "--host", "Its host", None)?;
    let tls = tls(&host, flags.ca_file.take());
    let local = is_loopback(&host) && port != plain;
    let place = Map::new().text("host", &host);
    // A socket has a port only in the name of PostgreSQL's, and seldom another.
    let port = match flags.port.take() {
        Some(port) => port,
        None if host.starts_with('/') => return Ok((host, place, tls)),
        None => ask.text(None, "--port", "Its port", Some(if local { plain } else { port }.to_string()))?,
    };
    Ok((host, place.with("port", Node::Number(port.into())), tls))
}

fn postgres(ask: &Asker, flags: &mut Flags) -> Result<Target, Stop> {
    let way = way(ask, flags, Kind::Postgres, &[Way::Alternating, Way::InPlace])?;
    let (host, place, tls) = endpoint(ask, flags, 5432, 5432)?;
    let database: Answer =
        ask.text(flags.database.take(), "--database", "The database that logins are tried on", None)?;
    let (strategy, users) = database_strategy(ask, flags, way)?;
    let node = Map::new()
        .map("endpoint", place.text("database", &database).map("tls", tls))
        .map("strategy", strategy)
        .remark(told(way));
    Ok(Target {
        name: Some(policy_name(&format!("{database}-db"))),
        content: "PGUSER={{ principal }}\nPGPASSWORD={{ value }}\n",
        ..Target::changed(Kind::Postgres, node, users, vec![host])
    })
}

fn mysql(ask: &Asker, flags: &mut Flags) -> Result<Target, Stop> {
    let way = way(ask, flags, Kind::Mysql, &[Way::Alternating, Way::DualPassword, Way::InPlace])?;
    let (host, place, tls) = endpoint(ask, flags, 3306, 3306)?;
    let database = ask.optional(flags.database.take(), "The database that logins are tried on")?;
    let (strategy, users) = database_strategy(ask, flags, way)?;
    let node = Map::new()
        .map("endpoint", place.with_some("database", database).map("tls", tls))
        .map("strategy", strategy)
        .remark(told(way));
    let content = "MYSQL_USER={{ principal }}\nMYSQL_PWD={{ value }}\n";
    Ok(Target { content, ..Target::changed(Kind::Mysql, node, users, vec![host]) })
}

/// What a strategy is, above it.
const fn told(way: Way) -> &'static str {
    match way {
        Way::Alternating => "Two users take turns: while one is in use, the other gets a new password.",
        Way::DualPassword => "One user, who takes both values until every reader has moved.",
        _ => "One user, changed in place: until a reader has the new value, its new logins fail.",
    }
}

fn redis(ask: &Asker, flags: &mut Flags) -> Result<Target, Stop> {
    let way = way(ask, flags, Kind::Redis, &[Way::DualPassword])?;
    let (host, place, tls) = endpoint(ask, flags, 6379, 6379)?;
    let user = one(ask, flags, "The user whose password changes")?;
    let node = Map::new()
        .with("nodes", Node::Maps(vec![place]))
        .remark("Users are not replicated: name every node, replicas too.")
        .map("tls", tls)
        .map("strategy", Map::new().map("dualPassword", Map::new().text("user", &user)))
        .remark(told(way));
    Ok(Target::changed(Kind::Redis, node, vec![user], vec![host]))
}

fn rabbitmq(ask: &Asker, flags: &mut Flags) -> Result<Target, Stop> {
    let way = way(ask, flags, Kind::Rabbitmq, &[Way::Alternating])?;
    let plain = if flags.ca_file.is_some() { 15671 } else { 15672 };
    let (host, place, tls) = endpoint(ask, flags, 15671, plain)?;
    let users = two(ask, flags)?;
    let node = Map::new()
        .map("endpoint", place.map("tls", tls))
        .remark("The management API.")
        .map("strategy", Map::new().map("alternating", Map::new().with("users", texts(&users))))
        .remark(told(way));
    Ok(Target::changed(Kind::Rabbitmq, node, users, vec![host]))
}

fn clickhouse(ask: &Asker, flags: &mut Flags) -> Result<Target, Stop> {
    let way = way(ask, flags, Kind::Clickhouse, &[Way::Alternating, Way::DualPassword])?;
    let plain = if flags.ca_file.is_some() { 8443 } else { 8123 };
    let (host, place, tls) = endpoint(ask, flags, 8443, plain)?;
    let (strategy, users) = database_strategy(ask, flags, way)?;
    let node = Map::new()
        .with("nodes", Node::Maps(vec![place]))
        .remark("The HTTP interface of every server that has the user, whether they replicate users or not.")
        .map("tls", tls)
        .map("strategy", strategy)
        .remark(told(way));
    let content = "CLICKHOUSE_USER={{ principal }}\nCLICKHOUSE_PASSWORD={{ value }}\n";
    Ok(Target { content, ..Target::changed(Kind::Clickhouse, node, users, vec![host]) })
}

fn http(ask: &Asker, flags: &mut Flags) -> Result<Target, Stop> {
    let name: DnsLabel =
        ask.text(flags.recipe.take(), "--recipe", "The recipe, as in `rekeyd recipe list`", None)?;
    let Some(recipe) = shipped::find(&name) else {
        let stop = |reason: String, remedy: String| Err(Stop::Usage(invalid(&reason, remedy)));
        if shipped::find_place(&name).is_some() {
            let remedy = "write it as a consumer, by policies/github-actions.yaml or policies/gitlab-ci.yaml";
            return stop(
                format!("recipe {name} tells of a place that is written, and of no keys"),
                remedy.into(),
            );
        }
        let known: Vec<&str> = shipped::all().map(|(name, _)| name.as_str()).collect();
        return stop(
            format!("rekeyd brings no recipe {name} along"),
            format!("there are {}", known.join(", ")),
        );
    };
    let owner = one(ask, flags, "Whose key it is: the account, the bot or the application")?;
    let mut node = Map::new().text("recipe", &name).text("owner", &owner);
    let base = match &recipe.base {
        Some(_) => flags.base.take(),
        None => Some(ask.text(
            flags.base.take(),
            "--base",
            "Where requests go, such as https://git.example.com",
            None,
        )?),
    };
    node = node.with_some("base", base.as_ref()).with_some("caFile", flags.ca_file.take());
    let parameters = parameters(ask, flags, recipe)?;
    if !parameters.is_empty() {
        node = node.map("parameters", parameters);
    }
    let hosts =
        recipe.hosts(base.as_ref().map(|base| base.0.as_str()), &Parameters::new()).into_iter().collect();
    let admin = recipe
        .admin
        .as_ref()
        .map(|what| Needed { what: format!("Who makes keys ({what}): its name"), hosts });
    let credentials = recipe.credentials.iter().map(|(key, what)| (key.clone(), what.clone())).collect();
    let private = base.iter().filter_map(|base| private_host(&base.0)).collect();
    let parts = recipe.create.iter().flat_map(|create| create.parts.keys().cloned()).collect();
    let follows = recipe.strategy == RecipeStrategy::Reissued && recipe.create.is_some();
    Ok(Target { admin, credentials, private, parts, follows, ..Target::plain(Kind::Http, node, vec![owner]) })
}

fn parameters(ask: &Asker, flags: &mut Flags, recipe: &Recipe) -> Result<Map, Stop> {
    let mut parameters = Map::new();
    let mut given = std::mem::take(&mut flags.parameter);
    for (name, spec) in &recipe.parameters {
        let said = given.iter().position(|pair| pair.key == *name).map(|index| given.remove(index).value);
        let value = match said {
            Some(value) => value,
            None if spec.default.is_some() => continue,
            None => {
                let question = format!("{name}: {}", spec.description);
                ask.text(None::<Answer>, "--parameter NAME=VALUE", &question, None)?.0
            }
        };
        parameters = parameters.with(name, Node::Json(meant(&value)));
    }
    match given.first() {
        None => Ok(parameters),
        // Twice, or not at all.
        Some(Pair { key, .. }) => {
            let known: Vec<&str> = recipe.parameters.keys().map(String::as_str).collect();
            let remedy = match &*known {
                [] => "it takes none".to_owned(),
                known => format!("each once, of: {}", known.join(", ")),
            };
            Err(Stop::Usage(invalid(&format!("the parameter {key:?} is one too many"), remedy)))
        }
    }
}

/// What JSON can say, or a list of words; a text where it would not come back as it was written.
fn meant(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ (Value::Array(_) | Value::Object(_) | Value::Bool(_))) => return value,
        Ok(Value::Number(number)) if number.to_string() == text => return Value::Number(number),
        _ => {}
    }
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(words) if !words.contains(['[', '{', '"']) => words.split(',').map(str::trim).collect(),
        _ => Value::from(text),
    }
}

fn vault(ask: &Asker, flags: &mut Flags, store: DnsLabel) -> Result<Target, Stop> {
    let way = way(ask, flags, Kind::Vault, &[Way::SecretId, Way::Token])?;
    let (what, user) = if way == Way::SecretId {
        let role = one(ask, flags, "The AppRole")?;
        (Map::new().text("role", &role), role)
    } else {
        let name = one(ask, flags, "Whose token it is: its display name")?;
        // Without a token role rekeyd would need a right by which it could make a token of any policy.
        let role: Principal = ask.text(flags.token_role.take(), "--token-role", "The token role", None)?;
        let mut token = Map::new().text("name", &name).text("role", &role);
        let policies = std::mem::take(&mut flags.token_policies);
        if !policies.is_empty() {
            let policies = Node::Texts(policies.iter().map(ToString::to_string).collect());
            token = token.with("policies", policies);
        }
        let token =
            token.text("period", "30d").remark("It has to be renewed by its reader within this time.");
        (token, name)
    };
    let node =
        Map::new().text("store", store).remark(STORE).map("strategy", Map::new().map(word(&way), what));
    Ok(Target::plain(Kind::Vault, node, vec![user]))
}

fn service_account(ask: &Asker, flags: &mut Flags) -> Result<Target, Stop> {
    let way = way(ask, flags, Kind::KubernetesServiceAccount, &[Way::LongLived, Way::Bound])?;
    let account = one(ask, flags, "The service account, in the policy's namespace")?;
    let mut life = Map::new();
    if way == Way::Bound {
        let question = "How long a token lives";
        let expiration: Interval =
            ask.text(flags.expiration.take(), "--expiration", question, Some("30d".into()))?;
        life = life.text("expiration", expiration).remark("It has to outlive the schedule.");
    }
    let node = Map::new().text("serviceAccount", &account).map("strategy", Map::new().map(word(&way), life));
    Ok(Target::plain(Kind::KubernetesServiceAccount, node, vec![account]))
}
