//! rekeyd beside OpenBao with as many static roles, both on one PostgreSQL, and what `pgbench` says of that.

use std::path::Path;

use super::fleet::{Fleet, Logins};
use super::openbao::OpenBao;
use super::peer::Peer;
use super::postgres::Postgres;
use super::report::Figure;
use super::{Outcome, Part, limits, machine, postgres, scope, users};

/// How long `pgbench` runs for each figure.
const PGBENCH_SECONDS: u32 = 4;

pub(super) async fn measure(folder: &Path) -> Outcome<Part> {
    let admin = folder.join("admin.password");
    let options = [
        "--",
        "-c",
        "log_statement=none",
        "-c",
        "shared_preload_libraries=",
        "-c",
        "track_commit_timestamp=on",
    ];
    let server = Postgres::start(&folder.join("run"), &options, &admin).await?;
    let openbao = OpenBao::start(&folder.join("run")).await?;
    let versions = vec![server.version().await?, openbao.version.clone()];

    let count = users();
    println!("giving {count} users and {count} pairs a first value with rekeyd, {count} users with OpenBao");
    create_users(&server, "inplace", "nologin").await?;
    let endpoint = server.endpoint(false);
    let in_place = move |number| {
        format!(
            "{{postgres: {{endpoint: {endpoint}, admin: admin, strategy: {{inPlace: {{user: inplace_{number}}}}}}}}}"
        )
    };
    let endpoint = server.endpoint(false);
    let alternating = move |number| {
        format!(
            "{{postgres: {{endpoint: {endpoint}, admin: admin, \
             strategy: {{alternating: {{users: [pair_{number}_a, pair_{number}_b]}}}}}}}}"
        )
    };
    let mut singles = Fleet::make(&folder.join("in-place"), &admin, Box::new(in_place), 1).await?;
    let mut pairs = Fleet::make(&folder.join("alternating"), &admin, Box::new(alternating), 2).await?;
    let mut peer = Peer::make(openbao, &server, create_users(&server, "openbao", "login").await?).await?;
    create_users(&server, "pgbench", "login").await?;

    let mut taken = Taken::default();
    for round in 1..=scope().rounds {
        taken.round(&server, &mut peer, &mut singles, &mut pairs).await?;
        println!("round {round} of {}: {}", scope().rounds, taken.last());
    }
    Ok(Part { versions, sections: taken.sections() })
}

/// What was taken, a value for each round: rates a second unless it says otherwise.
#[derive(Default)]
struct Taken {
    others_percent: Vec<f64>,
    in_place: Vec<f64>,
    alternating: Vec<f64>,
    here: Vec<f64>,
    here_without_logins: Vec<f64>,
    openbao_sweep: Vec<f64>,
    openbao_one_by_one: Vec<f64>,
    openbao_eight: Vec<f64>,
    alter_one: Vec<f64>,
    alter_eight: Vec<f64>,
    login_eight: Vec<f64>,
}

impl Taken {
    async fn round(
        &mut self,
        server: &Postgres,
        peer: &mut Peer,
        singles: &mut Fleet,
        pairs: &mut Fleet,
    ) -> Outcome<()> {
        let all = users() as f64;
        self.others_percent.push(machine::others().await?);
        self.in_place.push(all / singles.rotate_by_daemon().await?);
        self.openbao_sweep.push((all - 1.0) / peer.sweep(server).await?);
        self.openbao_one_by_one.push(all / peer.rotate_all(1).await?);
        self.openbao_eight.push(all / peer.rotate_all(8).await?);
        peer.seal().await?;
        self.here.push(all / singles.rotate_in_process(Logins::Tried).await?);
        self.here_without_logins.push(all / singles.rotate_in_process(Logins::Believed).await?);
        self.alternating.push(all / pairs.rotate_by_daemon().await?);

        let verifier = postgres::verifier("a password");
        // Each client has users of its own: two changes of one user at once would fail.
        let share = (users() / 8).max(1);
        let alter = format!(
            "\\set number :client_id * {share} + random(0, {share} - 1)\n\
             alter role pgbench_:number password '{verifier}';\n"
        );
        self.alter_one.push(limits::pgbench(server, &alter, 1, false, PGBENCH_SECONDS)?);
        self.alter_eight.push(limits::pgbench(server, &alter, 8, false, PGBENCH_SECONDS)?);
        self.login_eight.push(limits::pgbench(server, "select 1;\n", 8, true, PGBENCH_SECONDS)?);
        Ok(())
    }

    fn last(&self) -> String {
        let last = |values: &[f64]| values.last().map_or_else(String::new, |value| format!("{value:.0}"));
        format!(
            "rekeyd {} in place, {} alternating, {} without logins; OpenBao {} by itself, {} and {} on request; \
             others used {} % before",
            last(&self.in_place),
            last(&self.alternating),
            last(&self.here_without_logins),
            last(&self.openbao_sweep),
            last(&self.openbao_one_by_one),
            last(&self.openbao_eight),
            last(&self.others_percent),
        )
    }

    fn sections(&self) -> Vec<(&'static str, Vec<Figure>)> {
        let rate = |id: &str, what: &str, values: &[f64]| Figure::new(id, what, "/s", values);
        let logins: Vec<f64> = self.in_place.iter().map(|rate| rate * 2.0).collect();
        let mut sections = Vec::new();
        let mut section = |title, figures| sections.push((title, figures));
        section(
            "rekeyd: rotations",
            vec![
                rate(
                    "rekeyd.inPlace",
                    "in place, by the daemon's schedule, every value tried",
                    &self.in_place,
                ),
                rate("rekeyd.alternating", "alternating pairs, the same", &self.alternating),
                rate(
                    "rekeyd.inPlaceHere",
                    "in place, in the benchmark's process, every value tried",
                    &self.here,
                ),
                rate(
                    "rekeyd.inPlaceUntried",
                    "in place, in the benchmark's process, no value tried",
                    &self.here_without_logins,
                ),
            ],
        );
        section(
            "OpenBao: static roles, no value tried",
            vec![
                rate("openbao.sweep", "its own sweep, one by one", &self.openbao_sweep),
                rate("openbao.oneByOne", "on request, one by one", &self.openbao_one_by_one),
                rate("openbao.eight", "on request, 8 at a time", &self.openbao_eight),
            ],
        );
        section(
            "rekeyd to OpenBao's own sweep",
            vec![
                Figure::ratio(
                    "ratio.inPlace",
                    "in place, every value tried",
                    &self.in_place,
                    &self.openbao_sweep,
                )
                .with_target("at least 1", |ratio| ratio >= 1.0),
                Figure::ratio(
                    "ratio.alternating",
                    "alternating, every value tried",
                    &self.alternating,
                    &self.openbao_sweep,
                ),
                Figure::ratio(
                    "ratio.inPlaceUntried",
                    "in place, no value tried by either",
                    &self.here_without_logins,
                    &self.openbao_sweep,
                )
                .with_target("at least 2", |ratio| ratio >= 2.0),
                Figure::ratio(
                    "ratio.inPlaceUntriedToEight",
                    "in place, no value tried, to OpenBao on request, 8 at a time",
                    &self.here_without_logins,
                    &self.openbao_eight,
                ),
            ],
        );
        section(
            "what this PostgreSQL can do (pgbench)",
            vec![
                rate("pgbench.alterRoleOne", "ALTER ROLE ... PASSWORD, 1 client", &self.alter_one),
                rate("pgbench.alterRoleEight", "ALTER ROLE ... PASSWORD, 8 clients", &self.alter_eight),
                rate("pgbench.loginsEight", "logins, 8 clients", &self.login_eight),
                rate("rekeyd.logins", "logins that rekeyd made, in place", &logins),
                Figure::ratio("ratio.logins", "rekeyd's logins to pgbench's", &logins, &self.login_eight),
            ],
        );
        section(
            "besides",
            vec![Figure::new(
                "machine.others",
                "cores that others used before a round",
                "%",
                &self.others_percent,
            )],
        );
        sections
    }
}

/// rekeyd gives a first value to nobody who may log in.
pub(super) async fn create_users(server: &Postgres, prefix: &str, login: &str) -> Outcome<Vec<String>> {
    let users: Vec<String> = (0..users()).map(|number| format!("{prefix}_{number}")).collect();
    let roles: String = users.iter().map(|user| format!("create role {user} {login};")).collect();
    server.superuser().await?.batch_execute(&roles).await?;
    Ok(users)
}
