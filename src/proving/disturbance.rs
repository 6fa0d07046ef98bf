//! What happens to a real process at one point, as its environment asks for.
//!
//! `REKEYD_DISTURB=install/target.install#1=killAfter` kills the process when its first install has taken
//! effect and before it hears so; several are separated by commas. `REKEYD_REACHED=file` appends the name of
//! each point that is reached.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::task::JoinSet;

use super::calls::{OnTheWay, Way};
use super::phase;
use super::point::POINTS;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::rotation::engine::Adapters;

/// How long after its sender gave up a late effect happens.
const LATE: Duration = Duration::from_millis(300);

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process is killed before the call goes out.
    KillBefore,
    /// The process is killed when the call has taken effect and before it hears so.
    KillAfter,
    /// The call fails and has no effect.
    Error,
    /// The process panics there.
    Panic,
    /// The answer is lost, and the effect comes later.
    Late,
    /// The effect comes a second time, later.
    Twice,
    /// The system does not answer from here on for so many seconds.
    Down(u64),
    /// The process stands still before the call goes out, until it is told to go on.
    Stop,
}

impl FromStr for Action {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "killBefore" => Self::KillBefore,
            "killAfter" => Self::KillAfter,
            "error" => Self::Error,
            "panic" => Self::Panic,
            "late" => Self::Late,
            "twice" => Self::Twice,
            "stop" => Self::Stop,
            other => Self::Down(other.strip_prefix("down").and_then(|time| time.parse().ok()).ok_or(())?),
        })
    }
}

/// The way that a disturbed process's calls go.
struct Disturbance {
    plans: Vec<Plan>,
    reached: Option<Mutex<File>>,
    state: Mutex<State>,
    late: Mutex<JoinSet<()>>,
}

/// Which time at which point something happens.
struct Plan {
    point: String,
    time: u32,
    action: Action,
}

struct State {
    /// How often each plan's point was reached.
    times: Vec<u32>,
    /// Systems that do not answer, and until when.
    down: BTreeMap<String, Duration>,
}

static DISTURBANCE: LazyLock<Arc<Disturbance>> = LazyLock::new(|| Arc::new(Disturbance::asked_for()));

/// The adapters, behind the disturbance that this process was asked for.
pub fn disturbed(adapters: Arc<dyn Adapters>) -> Arc<dyn Adapters> {
    if DISTURBANCE.plans.is_empty() && DISTURBANCE.reached.is_none() {
        return adapters;
    }
    Arc::new(OnTheWay { inner: adapters, way: Arc::clone(&DISTURBANCE) })
}

/// A place between two writes: the process may be killed or stopped here.
pub fn pass(point: &'static str) {
    match DISTURBANCE.reach(point) {
        None => {}
        Some(Action::Stop) => stand_still(),
        Some(_) => die(),
    }
}

/// Waits for effects that are still on their way. Those of a real network would outlive the process.
pub async fn settle() {
    let late = std::mem::take(&mut *DISTURBANCE.late.lock().unwrap_or_else(PoisonError::into_inner));
    late.join_all().await;
}

impl Disturbance {
    #[expect(clippy::disallowed_methods, reason = "no settings are read here")]
    fn asked_for() -> Self {
        let asked = std::env::var("REKEYD_DISTURB").unwrap_or_default();
        let plan = |text| {
            Plan::parse(text).unwrap_or_else(|| panic!("REKEYD_DISTURB is `point#time=action`, not `{text}`"))
        };
        let plans: Vec<_> = asked.split(',').filter(|text| !text.is_empty()).map(plan).collect();
        let reached = std::env::var_os("REKEYD_REACHED").map(|path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            Mutex::new(file.expect("REKEYD_REACHED names a file that can be written"))
        });
        let state = Mutex::new(State { times: vec![0; plans.len()], down: BTreeMap::new() });
        Self { plans, reached, state, late: Mutex::default() }
    }

    /// What happens here now.
    fn reach(&self, point: &str) -> Option<Action> {
        debug_assert!(POINTS.iter().any(|known| known.name == point), "{point} is not listed");
        if let Some(reached) = &self.reached {
            let mut reached = reached.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = writeln!(reached, "{point}");
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let here = self.plans.iter().zip(&mut state.times).filter(|(plan, _)| plan.point == point);
        let mut due = here.filter_map(|(plan, times)| {
            *times += 1;
            (*times == plan.time).then_some(plan.action)
        });
        due.next()
    }

    fn is_down(&self, system: &str) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.down.get(system).is_some_and(|until| SystemClock.monotonic() < *until)
    }

    fn take_down(&self, system: &str, seconds: u64) {
        let until = SystemClock.monotonic() + Duration::from_secs(seconds);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.down.insert(system.to_owned(), until);
    }

    fn later(&self, effect: impl Future<Output = ()> + Send + 'static) {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            SystemClock.sleep(LATE).await;
            effect.await;
        });
    }
}

impl Plan {
    fn parse(text: &str) -> Option<Self> {
        let (at, action) = text.split_once('=')?;
        let (point, time) = at.split_once('#').unwrap_or((at, "1"));
        Some(Self { point: point.to_owned(), time: time.parse().ok()?, action: action.parse().ok()? })
    }
}

impl Way for Disturbance {
    async fn call<T: Send + 'static, E: Future<Output = Result<T, Failure>> + Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        effect: impl Fn() -> E + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let failed = |class| Err(Failure::new(class, format!("reach {name}"), "it is disturbed"));
        let system = name.split_once('.').map_or(name, |(system, _)| system);
        let action = self.reach(&format!("{}/{name}", phase()));
        if self.is_down(system) {
            return failed(FailureClass::Unavailable);
        }
        match action {
            None => effect().await,
            Some(Action::KillBefore) => die(),
            Some(Action::KillAfter) => {
                let _ = effect().await;
                die()
            }
            Some(Action::Panic) => panic!("asked to, at {name}"),
            Some(Action::Error) => failed(FailureClass::Unavailable),
            Some(Action::Late) => {
                let effect = effect();
                self.later(async move {
                    let _ = effect.await;
                });
                failed(FailureClass::Ambiguous)
            }
            Some(Action::Twice) => {
                let again = effect();
                let outcome = effect().await;
                self.later(async move {
                    let _ = again.await;
                });
                outcome
            }
            Some(Action::Down(seconds)) => {
                self.take_down(system, seconds);
                failed(FailureClass::Unavailable)
            }
            Some(Action::Stop) => {
                stand_still();
                effect().await
            }
        }
    }
}

fn die() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    // The signal comes before the call returns, unless something is very wrong.
    std::process::abort()
}

/// Returns when somebody sends the signal to go on.
fn stand_still() {
    let _ = kill_process(getpid(), Signal::STOP);
}
