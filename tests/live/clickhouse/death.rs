//! The shipped binary rotates users of two nodes of a real engine, and dies or stands still between any two of its
//! writes there.

use rekeyd::secret::Credential;
use rustix::process::Signal;

use super::rotation::{POLICY, Site};
use crate::clickhouse_contract::World as _;
use crate::clickhouse_nodes::{Corner, Native};
use crate::processes::Running;
use crate::target_contract::Open;

/// Every place between two writes of an install and of a retire, with those of the other in turn.
type Places = (&'static [&'static str], &'static [&'static str]);

const OF_A_PAIR: Places = (
    &[
        "clickhouse.install.made",
        "clickhouse.install.claimed",
        "clickhouse.install.barred",
        "clickhouse.install.replaced",
        "clickhouse.install.marked",
        "clickhouse.install.changed",
        "clickhouse.install.settled",
    ],
    &[
        "clickhouse.retire.made",
        "clickhouse.retire.claimed",
        "clickhouse.retire.barred",
        "clickhouse.retire.replaced",
        "clickhouse.retire.marked",
        "clickhouse.retire.changed",
        "clickhouse.retire.settled",
    ],
);

/// A user that keeps its id is not replaced, and who retires one of its values is at it since the install.
const OF_ONE: Places = (
    &[
        "clickhouse.install.made",
        "clickhouse.install.claimed",
        "clickhouse.install.barred",
        "clickhouse.install.marked",
        "clickhouse.install.changed",
        "clickhouse.install.settled",
    ],
    &["clickhouse.retire.marked", "clickhouse.retire.changed", "clickhouse.retire.settled"],
);

#[tokio::test(flavor = "multi_thread")]
async fn no_death_in_the_middle_of_taking_turns_breaks_anything() {
    Story::of(Site::pair(Corner::on_two().await).await).await.with_deaths(OF_A_PAIR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_death_beside_a_second_value_breaks_anything() {
    Story::of(Site::dual(Corner::on_two().await).await).await.with_deaths(OF_ONE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stood_still_in_the_middle_of_taking_turns_breaks_nothing() {
    Story::of(Site::pair(Corner::on_two().await).await).await.with_halts(OF_A_PAIR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stood_still_beside_a_second_value_breaks_nothing() {
    Story::of(Site::dual(Corner::on_two().await).await).await.with_halts(OF_ONE).await;
}

/// A policy's rotations, one after another.
struct Story {
    site: Site,
    /// As they are called there, without the prefix.
    users: &'static [&'static str],
    /// What the user in force is to be.
    shape: Vec<String>,
}

/// A value before it is rotated, and who uses it.
struct Before {
    value: Credential,
    /// One at each node.
    queries: [Box<dyn Open>; 2],
    idle: Native,
}

impl Story {
    async fn of(site: Site) -> Self {
        site.at.run(&["rotate", POLICY]).await.ended(0);
        let is_one = site.delivered().principal == site.corner.name("one");
        let users: &[&str] = if is_one { &["one"] } else { &["a", "b"] };
        let shape = site.corner.shape(users[0]).await;
        Self { site, users, shape }
    }

    fn is_pair(&self) -> bool {
        self.users.len() == 2
    }

    /// One process dies in the install, the next one in the retire, both at the first node: the third one finishes.
    async fn with_deaths(&self, (installs, retires): Places) {
        for (number, (install, retire)) in (2..).zip(installs.iter().zip(retires.iter().cycle())) {
            let mut before = self.before().await;
            for (command, point) in steps(install, retire) {
                let killed = self.run(command, point, "#1=killBefore").end().await;
                assert_eq!(killed.code, None, "{point}: it is not killed: {killed}");
                self.nobody_is_locked_out(point).await;
            }
            self.site.at.run(&["resume", POLICY]).await.ended(0);
            self.in_order(&mut before, number).await;
            self.nobody_is_left(before).await;
        }
    }

    /// One process stands still in the install, another one in the retire, both at the second node: the third one
    /// finishes, and then they go on.
    async fn with_halts(&self, (installs, retires): Places) {
        for (number, (install, retire)) in (2..).zip(installs.iter().zip(retires.iter().cycle())) {
            let mut before = self.before().await;
            let mut halted = Vec::new();
            for (command, point) in steps(install, retire) {
                let running = self.run(command, point, "#2=stop");
                if !running.stands_still().await {
                    panic!("{point}: it does not stand still: {}", running.end().await);
                }
                self.nobody_is_locked_out(point).await;
                halted.push(running);
            }
            self.site.at.run(&["resume", POLICY]).await.ended(0);
            self.in_order(&mut before, number).await;
            let ids = self.ids().await;
            for late in halted.into_iter().rev() {
                late.signal(Signal::CONT);
                late.end().await;
                self.in_order(&mut before, number).await;
            }
            assert_eq!(self.ids().await, ids, "{install}, {retire}: connections were lost once more");
            self.nobody_is_left(before).await;
        }
    }

    /// Queries and an idle connection of the value in force. The spare differs from its peer, so that it is made anew.
    async fn before(&self) -> Before {
        let corner = &self.site.corner;
        let value = self.site.delivered();
        let users = self.users.iter().map(|user| corner.name(user));
        for spare in users.filter(|user| *user != value.principal) {
            corner.say(&format!("ALTER USER IF EXISTS {spare} ADD SETTINGS max_threads = 3")).await;
        }
        let queries = [corner.open_at(0, &value).await, corner.open_at(1, &value).await];
        let idle = corner.connect(&value).await.expect("it is let in");
        Before { value, queries, idle }
    }

    fn run(&self, command: &str, point: &str, what: &str) -> Running {
        let mut command = self.site.at.command(&[command, POLICY, "-o", "json"]);
        command.env("REKEYD_DISTURB", format!("{point}{what}"));
        self.site.at.spawn(command)
    }

    async fn nobody_is_locked_out(&self, at: &str) {
        assert!(self.site.corner.lets_in(&self.site.delivered()).await, "{at}: its reader is locked out");
    }

    /// On each node: what a reader has works, the old value is refused and what ran with it is ended, a user has one
    /// value at most and one marker, of this rotation or an earlier one, and no rotation is open. Each has one record.
    async fn in_order(&self, before: &mut Before, number: usize) {
        let (corner, at) = (&self.site.corner, &self.site.at);
        let delivered = self.site.delivered();
        assert!(corner.lets_in(&delivered).await, "the value in force is refused");
        assert!(!corner.lets_in(&before.value).await, "the old value is accepted");
        for query in &mut before.queries {
            assert!(!query.lives().await, "a query of the old value runs");
        }
        let mut markers = Vec::new();
        for node in 0..2 {
            for user in self.users.iter().map(|user| corner.name(user)) {
                let ways = "SELECT toString(length(auth_type)) FROM system.users WHERE name =";
                assert_eq!(corner.say_at(node, &format!("{ways} '{user}'")).await, ["1"], "{user} at {node}");
                let own = "SELECT inherit_profile FROM system.settings_profile_elements WHERE user_name =";
                let own = corner.say_at(node, &format!("{own} '{user}'")).await;
                let own: Vec<_> = own.into_iter().filter(|name| name.starts_with("[rekeyd ")).collect();
                let state = if user == delivered.principal { "installed" } else { "retired" };
                let wanted = [format!(" version={number} "), format!(" state={state}] {user}")];
                let fits = |name: &String| wanted.iter().all(|part| name.contains(part.as_str()));
                assert!(own.len() == 1 && fits(&own[0]), "{user} at {node}: {own:?}");
                markers.extend(own);
            }
        }
        let (first, second) = markers.split_at(self.users.len());
        assert_eq!(first, second, "the nodes differ");
        // A spare may have lost what it may do: an install gives it what its peer has.
        for user in self.users.iter().filter(|user| corner.name(user) == delivered.principal) {
            assert_eq!(corner.shape(user).await, self.shape);
        }
        let log = at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
        let outcomes: Vec<_> =
            log.as_array().expect("a list").iter().map(|one| &one["record"]["outcome"]).collect();
        assert_eq!(outcomes, vec!["rotated"; number]);
        at.run(&["audit", "verify"]).await.ended(0);
    }

    /// What connections belong to, at the node where processes stand still.
    async fn ids(&self) -> Vec<String> {
        let names: Vec<String> =
            self.users.iter().map(|user| format!("'{}'", self.site.corner.name(user))).collect();
        let ids = format!(
            "SELECT toString(id) FROM system.users WHERE name IN ({}) ORDER BY name",
            names.join(", ")
        );
        self.site.corner.say_at(1, &ids).await
    }

    /// An idle connection of a user that was retired is of no use; with one user it is nobody's business but its own.
    async fn nobody_is_left(&self, before: Before) {
        assert_eq!(before.idle.answers().await, !self.is_pair(), "an idle connection of the old value");
    }
}

fn steps(install: &'static str, retire: &'static str) -> [(&'static str, &'static str); 2] {
    [("rotate", install), ("resume", retire)]
}
