//! `rekeyd init`: the first settings and the first policy, from flags and from answers on a terminal.
//!
//! Nothing is written before the loader has taken both without a word, and nothing that is there is touched.

mod ask;
mod flags;
mod place;
mod readers;
mod stores;
mod target;
mod yaml;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use self::ask::{Asker, invalid};
pub(super) use self::flags::Flags;
use self::flags::StoreKind;
use self::place::Written;
use self::readers::Readers;
use self::stores::Stores;
use self::target::Target;
use self::yaml::{Map, Node};
use super::output::{self, Format, GOOD};
use super::session;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::Failure;
use crate::ident::{DnsLabel, PartName};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::load::{Text, load_policies};
use crate::policy::spec::Zone;
use crate::schedule::CronExpression;
use crate::settings;

/// Where commands find the settings by themselves, and where such an installation keeps what it makes.
const USUAL: &str = "/etc/rekeyd";
const USUAL_STATE: &str = "/var/lib/rekeyd";

const SETTINGS_HEAD: &str = "\
# The settings of rekeyd. No value is ever written here: every credential is named by the file that it is in.
# Relative paths are relative to this file. Look them over with `rekeyd check`.
";

const POLICY_HEAD: &str = "\
# One credential: what accepts it, where its value lives, and who reads it. Look it over with `rekeyd check`.
";

/// Why nothing was written.
enum Stop {
    /// The command line does not say enough, or too much.
    Usage(Failure),
    Failed(Failure),
    /// The loader has something to say about it.
    Unsound(Vec<Diagnostic>),
    /// The person at the terminal said no.
    Declined,
}

/// A credential that rekeyd uses itself, whose value a person puts into a file.
struct Admin {
    name: String,
    username: String,
    /// What belongs into the file.
    what: String,
    file: PathBuf,
    hosts: Vec<String>,
}

/// A file that a person writes, and what belongs into it.
struct Owed {
    what: String,
    file: PathBuf,
}

/// The folder that it is about.
struct Home {
    directory: PathBuf,
}

impl Home {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn is_usual(&self) -> bool {
        self.directory == Path::new(USUAL)
    }

    /// Where something is that rekeyd makes.
    fn state(&self, name: &str) -> PathBuf {
        if self.is_usual() { Path::new(USUAL_STATE).join(name) } else { self.path(name) }
    }

    /// Nothing that is there is touched, and nobody answers ten questions to hear that.
    fn check_free(&self, name: &str) -> Result<(), Stop> {
        match self.path(name).symlink_metadata() {
            Ok(_) => Err(Stop::Failed(place::taken(&self.path(name)))),
            Err(_) => Ok(()),
        }
    }
}

pub(super) fn run(config: Option<&Path>, flags: Flags) -> ExitCode {
    match begin(config, flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Usage(failure)) => {
            output::refused(&failure, Format::Text);
            ExitCode::from(2)
        }
        Err(Stop::Failed(failure)) => output::refused(&failure, Format::Text),
        Err(Stop::Unsound(diagnostics)) => {
            session::print_diagnostics(&diagnostics);
            output::failure("nothing was written: rekeyd would not take it", Some("answer it differently"));
            ExitCode::FAILURE
        }
        Err(Stop::Declined) => {
            output::remark("nothing was written");
            ExitCode::FAILURE
        }
    }
}

fn begin(config: Option<&Path>, mut flags: Flags) -> Result<(), Stop> {
    if config.is_some() {
        let reason = "the settings are always called rekeyd.yaml here";
        return Err(Stop::Usage(invalid(reason, "say with --directory where they go, instead of --config")));
    }
    let ask = Asker::new(flags.yes);
    let Answer(directory) =
        ask.text(flags.directory.take(), "--directory", "Folder of the settings", Some(USUAL.into()))?;
    // It fails for an empty path and without a working directory.
    let directory = std::path::absolute(directory).map_err(|error| {
        Stop::Usage(invalid(&format!("the folder: {error}"), "name one with --directory"))
    })?;
    let home = Home { directory };
    home.check_free("rekeyd.yaml")?;

    // A target that is at a store says which one.
    let kind = stores::kind(&ask, &mut flags)?;
    let target = Target::ask(&ask, &mut flags, kind)?;
    let usual = target.usual_name();
    let name: DnsLabel = ask.text(flags.name.take(), "--name", "Name of the policy", usual)?;
    let namespace: DnsLabel =
        ask.text(flags.namespace.take(), "--namespace", "Its namespace", Some("default".into()))?;
    let policy_file = format!("policies/{name}.yaml");
    home.check_free(&policy_file)?;
    let (target, admins) = target.settle(&ask, &mut flags, &home, &name)?;
    let stores = Stores::ask(&ask, &mut flags, &home, kind, &target)?;
    if stores.key.is_some() {
        home.check_free("store.key")?;
    }
    let readers = Readers::ask(&ask, &mut flags, &target, stores.are_read)?;
    let cluster = readers::cluster(&ask, &mut flags, readers.need_cluster || target.needs_cluster)?;
    let schedule = schedule(&ask, &mut flags)?;
    let owner = ask.optional(flags.owner.take(), "Who answers for it, such as a team's address")?;
    flags.check_used()?;

    let settings = settings_text(&home, &stores, &admins, cluster, &target.private);
    let mut place = Map::new().text("name", "main").text("path", format!("{namespace}/{name}"));
    // The embedded store has no keys.
    if let Some([principal, value]) = target.fields.filter(|_| kind != StoreKind::Embedded) {
        let fields = Map::new().text("principal", principal).text("value", value);
        place = place.map("fields", fields).remark("The keys of the two in the store.");
    }
    let spec = Map::new()
        .with_some("owner", owner)
        .with_schedule(schedule)
        .map("target", target.node)
        .remark("What accepts the value.")
        .map("store", place)
        .remark("Where the value lives: a store of the settings, and a path there.")
        .with_readers(readers.nodes)
        .with_retire(target.retire);
    let policy = Map::new()
        .text("apiVersion", "rekeyd.dev/v1alpha1")
        .text("kind", "RotationPolicy")
        .map("metadata", Map::new().text("name", &name).text("namespace", &namespace))
        .map("spec", spec);
    let policy = format!("{POLICY_HEAD}{}", policy.render());
    check(&home, &settings, &policy_file, &policy)?;
    if !ask.confirms(&format!("Write rekeyd.yaml and {policy_file} into {}?", home.directory.display()))? {
        return Err(Stop::Declined);
    }

    let mut written = Written::default();
    let placed = (|| {
        written.folder(&home.directory)?;
        written.folder(&home.path("policies"))?;
        if let Some(key) = &stores.key {
            written.key(key)?;
        }
        written.file(&home.path(&policy_file), &policy)?;
        // The last one: without it the rest is in force nowhere.
        written.file(&home.path("rekeyd.yaml"), &settings)
    })();
    if let Err(failure) = placed {
        written.undo();
        return Err(Stop::Failed(failure));
    }
    for file in written.files() {
        output::line(format_args!("{GOOD}written{GOOD:#}: {}", file.display()));
    }
    if stores.key.is_some() {
        output::line("keep a copy of store.key: without it the store cannot be read");
    }
    let admins = admins.into_iter().map(|Admin { what, file, .. }| Owed { what, file });
    let owed: Vec<Owed> = stores.owed.into_iter().chain(admins).collect();
    let adoption = Adoption {
        principals: &target.principals,
        mints: target.mints,
        parts: &target.parts,
        follows: target.follows,
    };
    next(&home, &format!("{namespace}/{name}"), &owed, &adoption);
    Ok(())
}

fn schedule(ask: &Asker, flags: &mut Flags) -> Result<Option<(CronExpression, Zone)>, Stop> {
    let question = "When it rotates: five fields of cron, or `none`";
    let text: Answer = ask.text(flags.schedule.take(), "--schedule", question, Some("0 3 * * 0".into()))?;
    if text.0 == "none" {
        return Ok(None);
    }
    let cron = text.0.parse().map_err(|error| {
        Stop::Usage(invalid(
            &format!("{error}"),
            "give --schedule five fields of cron, such as '0 3 * * 0', or none",
        ))
    })?;
    let zone = ask.text(flags.time_zone.take(), "--time-zone", "In which time zone", Some("UTC".into()))?;
    Ok(Some((cron, zone)))
}

impl Map {
    fn with_schedule(self, schedule: Option<(CronExpression, Zone)>) -> Self {
        let Some((cron, zone)) = schedule else { return self };
        self.map("schedule", Self::new().text("cron", cron).text("timeZone", zone))
            .remark("When it rotates by itself: minute, hour, day of month, month, day of week.")
    }

    fn with_retire(self, retire: Self) -> Self {
        if retire.is_empty() {
            return self;
        }
        self.map("retire", retire)
            .remark("How long sessions of the outgoing value may live on after every reader has the new one.")
    }

    fn with_readers(self, readers: Vec<Self>) -> Self {
        if readers.is_empty() {
            return self;
        }
        self.with("consumers", Node::Maps(readers)).remark("Who reads the value and is told of a new one.")
    }
}

fn settings_text(
    home: &Home,
    stores: &Stores,
    admins: &[Admin],
    cluster: Option<Map>,
    private: &[String],
) -> String {
    let mut named = Map::new();
    for (name, store) in &stores.nodes {
        named = named.map(name.as_str(), store.node());
    }
    let mut credentials = Map::new();
    for admin in admins {
        let file = Map::new()
            .text("username", &admin.username)
            .text("path", admin.file.display())
            .with("hosts", Node::Texts(admin.hosts.clone()))
            .remark("Policies name the server that it is used at: nowhere else.");
        credentials = credentials.map(admin.name.as_str(), Map::new().map("file", file));
    }
    let mut settings = Map::new()
        .map("policies", Map::new().text("directory", home.path("policies").display()))
        .remark("Every YAML file below this folder is read.")
        .map("stores", named)
        .remark("Where values live.");
    if !credentials.is_empty() {
        settings = settings
            .map("credentials", credentials)
            .remark("What rekeyd itself logs in with. Each file holds the value alone and has mode 0600.");
    }
    if !private.is_empty() {
        settings = settings
            .map("outbound", Map::new().with("privateHosts", Node::Texts(private.to_vec())))
            .remark("What requests may reach on this machine and in private networks: nothing else there.");
    }
    if let Some(cluster) = cluster {
        settings = settings.map("clusters", Map::new().map("main", cluster));
    }
    let mut settings = settings
        .map("ledger", Map::new().text("path", home.state("ledger.git").display()))
        .remark("The record of what was done, in Git. With `remote: {url: ...}` it is pushed elsewhere.");
    if !home.is_usual() {
        settings = settings
            .text("socket", home.path("rekeyd.sock").display())
            .remark("Through it commands reach the daemon.");
    }
    format!("{SETTINGS_HEAD}{}", settings.render())
}

/// Whether the loader takes both without a word, beside the policies that are in the folder already.
fn check(home: &Home, settings: &str, policy_file: &str, policy: &str) -> Result<(), Stop> {
    let name = home.path("rekeyd.yaml").display().to_string();
    let settings = settings::parse(&name, settings, &home.directory).map_err(Stop::Unsound)?;
    let now = SystemClock.now();
    let name = home.path(policy_file).display().to_string();
    let text = Text { name, text: Arc::from(policy), since: now };
    let folder = home.path("policies");
    let loaded = load_policies(folder.is_dir().then_some(&folder), &[text], &settings, now);
    if loaded.diagnostics.is_empty() { Ok(()) } else { Err(Stop::Unsound(loaded.diagnostics)) }
}

/// How a value is taken over.
struct Adoption<'a> {
    principals: &'a [String],
    mints: bool,
    parts: &'a [PartName],
    /// Nothing can be made without a value that is there.
    follows: bool,
}

/// Says what is left to do.
fn next(home: &Home, policy: &str, owed: &[Owed], adoption: &Adoption<'_>) {
    let rekeyd = if home.is_usual() {
        "rekeyd".to_owned()
    } else {
        format!("rekeyd --config {}", words(&home.path("rekeyd.yaml").display().to_string()))
    };
    output::line("\nNext:");
    let state = Path::new(USUAL_STATE);
    if home.is_usual() && !state.is_dir() {
        output::line(format_args!("  install -d -m 0700 {USUAL_STATE}"));
    }
    for Owed { what, file } in owed {
        output::line(format_args!("  put {what} into {}, with mode 0600:", file.display()));
        output::line(format_args!("    (umask 077; cat > {})", words(&file.display().to_string())));
    }
    output::line("  look it over, and see whether a rotation would work:");
    output::line(format_args!("    {rekeyd} check"));
    output::line(format_args!("    {rekeyd} preflight {policy}"));
    let principal = match adoption.principals {
        [] | [_] if !adoption.mints => String::new(),
        [] | [_] if !adoption.follows => " --principal ID".to_owned(),
        [] => String::new(),
        [first, ..] => format!(" --principal {}", words(first)),
    };
    let parts: String = adoption.parts.iter().map(|part| format!(" --part {part}=FILE")).collect();
    output::line(if adoption.follows {
        "  take over the value that there is, without changing it: the next one is made by means of it:"
    } else {
        "  take over the value that readers use now, without changing it, if there is one:"
    });
    output::line(format_args!("    {rekeyd} adopt {policy}{principal}{parts} < FILE"));
    output::line("  rotate now, and by schedule:");
    output::line(format_args!("    {rekeyd} rotate {policy}"));
    output::line(format_args!("    {rekeyd} run"));
}

/// A word for a shell.
fn words(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/@+:".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// A text of one line that is not empty.
#[derive(Debug, Clone)]
struct Answer(String);

impl std::str::FromStr for Answer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" => Err("it is empty"),
            text if text.chars().any(char::is_control) => Err("it has control characters"),
            text => Ok(Self(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_to_a_shell() {
        for (text, word) in
            [("/etc/a-b", "/etc/a-b"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("", "''"), ("$a", "'$a'")]
        {
            assert_eq!(words(text), word);
        }
    }
}
