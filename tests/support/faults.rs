//! What can happen to a call between rekeyd and the systems around it, as a test scripts it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::ident::DnsLabel;
use tokio::sync::Notify;

use rekeyd::proving::calls::Way;

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process dies before the call goes out.
    DieBefore,
    /// The process dies when the call has taken effect and before it hears so.
    DieAfter,
    /// The call fails so and had no effect.
    Fail(FailureClass),
    /// The call took effect and its answer is lost.
    AnswerLost,
    /// The answer is lost, and the call takes effect after so many further calls.
    Late(usize),
    /// The process stands still before the call goes out, until it is let go.
    Pause,
}

/// Looks at the world between two calls.
#[async_trait]
pub(crate) trait Witness: Send + Sync {
    async fn look(&self, after: &str);
}

/// The way to the systems around: shared by every process of a test.
#[derive(Default)]
pub(crate) struct Wire {
    late: Mutex<Vec<(usize, BoxFuture<'static, ()>)>>,
    witness: Mutex<Option<Arc<dyn Witness>>>,
    /// Effects that began, and that ended.
    began: AtomicU64,
    ended: AtomicU64,
}

/// What happens to the calls of one process.
pub(crate) struct Script {
    wire: Arc<Wire>,
    state: Mutex<State>,
    died: Notify,
    paused: Notify,
    let_go: Notify,
    /// Whether adapters can be built.
    broken: AtomicBool,
}

#[derive(Default)]
struct State {
    calls: Vec<&'static str>,
    faults: BTreeMap<usize, Fault>,
    rules: Vec<(&'static str, Fault, usize)>,
    broken_store: Option<DnsLabel>,
}

impl Wire {
    pub(crate) fn set_witness(&self, witness: Arc<dyn Witness>) {
        *self.witness.lock().expect("no panic") = Some(witness);
    }

    pub(crate) fn forget_witness(&self) {
        *self.witness.lock().expect("no panic") = None;
    }

    /// A number that stays the same while nothing happens; `None` while something does.
    pub(crate) fn quiet(&self) -> Option<u64> {
        let (began, ended) = (self.began.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst));
        (began == ended).then_some(began)
    }

    async fn happen<T>(&self, effect: impl Future<Output = T>) -> T {
        struct Happening<'a>(&'a Wire);
        impl Drop for Happening<'_> {
            fn drop(&mut self) {
                self.0.ended.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.began.fetch_add(1, Ordering::SeqCst);
        let _happening = Happening(self);
        effect.await
    }

    fn delay(&self, calls: usize, effect: BoxFuture<'static, ()>) {
        self.late.lock().expect("no panic").push((calls, effect));
    }

    /// What is on its way arrives when its time has come.
    async fn deliver(&self) {
        let due: Vec<_> = {
            let mut late = self.late.lock().expect("no panic");
            late.iter_mut().for_each(|(left, _)| *left = left.saturating_sub(1));
            late.extract_if(.., |(left, _)| *left == 0).collect()
        };
        for (_, effect) in due {
            self.happen(effect).await;
        }
    }

    /// All that is still on its way arrives.
    pub(crate) async fn deliver_all(&self) {
        let all = std::mem::take(&mut *self.late.lock().expect("no panic"));
        for (_, effect) in all {
            self.happen(effect).await;
        }
    }
}

impl Script {
    pub(crate) fn new(wire: Arc<Wire>) -> Arc<Self> {
        Arc::new(Self {
            wire,
            state: Mutex::default(),
            died: Notify::new(),
            paused: Notify::new(),
            let_go: Notify::new(),
            broken: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Something happens to the call of this number, counted from 0.
    pub(crate) fn at(&self, call: usize, fault: Fault) {
        self.state().faults.insert(call, fault);
    }

    /// Something happens to the next calls of this name.
    pub(crate) fn next(&self, call: &'static str, times: usize, fault: Fault) {
        self.state().rules.push((call, fault, times));
    }

    /// The names of the calls that went out so far.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.state().calls.clone()
    }

    /// Returns when the process died.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }

    /// Returns when the process stands still.
    pub(crate) async fn paused(&self) {
        self.paused.notified().await;
    }

    pub(crate) fn let_go(&self) {
        self.let_go.notify_one();
    }

    /// From now on no target and no consumer can be built, or they can again.
    pub(crate) fn break_adapters(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    /// From now on this store cannot be opened.
    pub(crate) fn break_store(&self, name: DnsLabel) {
        self.state().broken_store = Some(name);
    }

    async fn die<T>(&self) -> T {
        self.died.notify_one();
        std::future::pending().await
    }

    fn fault(&self, name: &'static str) -> Option<Fault> {
        let mut state = self.state();
        let index = state.calls.len();
        state.calls.push(name);
        if let Some(fault) = state.faults.remove(&index) {
            return Some(fault);
        }
        let rule = state.rules.iter_mut().find(|(call, _, times)| *call == name && *times > 0)?;
        rule.2 -= 1;
        Some(rule.1)
    }

    async fn look(&self, after: &str) {
        let witness = self.wire.witness.lock().expect("no panic").clone();
        if let Some(witness) = witness {
            witness.look(after).await;
        }
    }
}

impl Way for Script {
    async fn call<T: Send + 'static, E: Future<Output = Result<T, Failure>> + Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        effect: impl Fn() -> E + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        self.wire.deliver().await;
        let fault = self.fault(name);
        let wire = &self.wire;
        let failed = |class| Err(Failure::new(class, format!("reach {name}"), "a fault of the test's"));
        let answer = match fault {
            None => wire.happen(effect()).await,
            Some(Fault::Pause) => {
                self.paused.notify_one();
                self.let_go.notified().await;
                wire.happen(effect()).await
            }
            Some(Fault::DieBefore) => self.die().await,
            Some(Fault::DieAfter) => {
                let _ = wire.happen(effect()).await;
                self.look(name).await;
                self.die().await
            }
            Some(Fault::Fail(class)) => failed(class),
            Some(Fault::AnswerLost) => {
                let _ = wire.happen(effect()).await;
                failed(FailureClass::Ambiguous)
            }
            Some(Fault::Late(calls)) => {
                let effect = effect();
                let effect = async move {
                    let _ = effect.await;
                };
                self.wire.delay(calls + 1, Box::pin(effect));
                failed(FailureClass::Ambiguous)
            }
        };
        self.look(name).await;
        answer
    }

    fn check_adapters(&self) -> Result<(), Failure> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Failure::new(FailureClass::Invalid, "build the adapter", "its settings are gone"));
        }
        Ok(())
    }

    fn check_store(&self, name: &DnsLabel) -> Result<(), Failure> {
        if self.state().broken_store.as_ref() == Some(name) {
            return Err(Failure::new(FailureClass::Unavailable, format!("use store {name}"), "it is down"));
        }
        Ok(())
    }
}
