//! A MySQL 8 that turns rekeyd away, refuses a statement, or is cut off in the middle of one.

use rekeyd::failure::{Failure, FailureClass};
use rekeyd::policy::spec::MysqlAuthentication;
use rekeyd::secret::{Credential, ValueSpec};
use rekeyd::target::{
    Extent, InstallRequest, Installed, Occupancy, Probe, ProbeDepth, RetireRequest, Retired, Target as _,
};

use super::dual::Dual;
use super::{ADMIN, name};
use crate::keys_contract::Step;
use crate::mysql8::{Fault, native};

fn new() -> Credential {
    Credential::new(name("app"), ValueSpec::default().generate())
}

async fn install(
    bench: &Dual,
    step: &Step,
    candidate: &Credential,
    beside: Option<&Credential>,
) -> Result<Installed, Failure> {
    let (attempt, occupancy) = (step.attempt(), Occupancy::Refuse);
    bench.target.install(InstallRequest { attempt, candidate, peer: None, beside, occupancy }).await
}

async fn discard(bench: &Dual, step: &Step, beside: &Credential) -> Result<Retired, Failure> {
    let user = name("app");
    let request = RetireRequest {
        attempt: step.attempt(),
        principal: &user,
        extent: Extent::OtherValues,
        outgoing: None,
        beside: Some(beside),
    };
    bench.target.retire(request).await
}

/// With a value in force.
async fn in_force() -> (Dual, Credential) {
    let (bench, first) = (Dual::new(MysqlAuthentication::Native), new());
    assert!(matches!(install(&bench, &Step::new(1), &first, None).await, Ok(Installed::Done { .. })));
    (bench, first)
}

/// What the account takes: the one that new logins have, and the one beside it.
fn values(bench: &Dual) -> (Vec<u8>, Option<Vec<u8>>) {
    let account = bench.account();
    (account.primary, account.secondary)
}

fn kept(credential: &Credential) -> Vec<u8> {
    native(credential.value.expose_str().expect("text"))
}

#[tokio::test]
async fn whoever_is_turned_away_knows_nothing_of_the_value() {
    let (bench, first) = in_force().await;
    let late = Dual::new(MysqlAuthentication::Native);
    for (code, class, remedy) in [
        (1040, FailureClass::Unavailable, "max_connections"),
        (1203, FailureClass::Unavailable, "max_connections"),
        (1129, FailureClass::Unavailable, "FLUSH HOSTS"),
        (1130, FailureClass::Denied, "host part"),
    ] {
        bench.server.state.tables().turned_away.push(code);
        let probe = bench.target.probe(&first, ProbeDepth::Login).await;
        let Probe::Unknown(failure) = probe else { panic!("{code}: a verdict: {probe:?}") };
        assert_eq!(failure.class(), class, "{code}: {failure}");
        assert!(failure.remedy().is_some_and(|said| said.contains(remedy)), "{code}: {failure:?}");
        // The admin, who has no session there yet.
        late.server.state.tables().turned_away.push(code);
        let failure = install(&late, &Step::new(1), &new(), None).await.expect_err("it was turned away");
        assert_eq!(failure.class(), class, "{code}: {failure}");
    }
    assert_eq!(bench.target.probe(&first, ProbeDepth::Login).await, Probe::Accepted);
}

#[tokio::test]
async fn an_admin_that_is_refused_is_named() {
    let bench = Dual::new(MysqlAuthentication::Native);
    let own = (ADMIN.to_owned(), "%".to_owned());
    bench.server.state.tables().accounts.get_mut(&own).expect("the admin").primary = native("another");
    let failure = install(&bench, &Step::new(1), &new(), None).await.expect_err("it is refused");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("credentials.admin")), "{failure:?}");
}

/// Nothing was changed, and the same attempt gets there once it is let.
#[tokio::test]
async fn a_statement_that_is_refused_loses_nothing() {
    for (code, class, said) in [
        (1227, FailureClass::Denied, "lacks a privilege"),
        (1142, FailureClass::Denied, "lacks a privilege"),
        (1819, FailureClass::Refused, "password policy"),
        (1290, FailureClass::Unavailable, "takes no changes"),
        (3878, FailureClass::Invalid, "beside a new one"),
        (3894, FailureClass::Invalid, "beside a new one"),
        (1470, FailureClass::Invalid, "longer than this server takes"),
        (1396, FailureClass::Unavailable, "changed at the same time"),
    ] {
        let (bench, first) = in_force().await;
        let (second, step) = (new(), Step::new(2));
        bench.server.state.tables().faults.push(("RETAIN CURRENT PASSWORD", Fault::Error(code)));
        let failure = install(&bench, &step, &second, Some(&first)).await.expect_err("it is refused");
        assert_eq!(failure.class(), class, "{code}: {failure}");
        assert!(failure.to_string().contains(said), "{code}: {failure}");
        let is_for_people = matches!(class, FailureClass::Denied | FailureClass::Invalid);
        assert!(failure.remedy().is_some() || !is_for_people, "{code}: {failure:?}");
        assert_eq!(values(&bench), (kept(&first), None), "{code}");
        install(&bench, &step, &second, Some(&first)).await.expect("it is let");
        assert_eq!(values(&bench), (kept(&second), Some(kept(&first))), "{code}");
        bench.server.state.tables().faults.push(("DISCARD OLD PASSWORD", Fault::Error(code)));
        discard(&bench, &step, &second).await.expect_err("it is refused");
        assert_eq!(values(&bench), (kept(&second), Some(kept(&first))), "{code}");
        discard(&bench, &step, &second).await.expect("it is let");
        assert_eq!(values(&bench), (kept(&second), None), "{code}");
    }
}

/// Whether it happened is not known, and nothing is lost by finding out.
#[tokio::test]
async fn a_statement_whose_answer_is_lost_is_in_doubt() {
    let lost = [Fault::LoseRequest, Fault::LoseReply, Fault::Endless, Fault::Error(1317), Fault::Error(1053)];
    for fault in lost {
        let (bench, first) = in_force().await;
        let (second, step) = (new(), Step::new(2));
        bench.server.state.tables().faults.push(("RETAIN CURRENT PASSWORD", fault));
        let failure = install(&bench, &step, &second, Some(&first)).await.expect_err("no answer came");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fault:?}: {failure}");
        assert_eq!(bench.target.probe(&first, ProbeDepth::Login).await, Probe::Accepted, "{fault:?}");
        install(&bench, &step, &second, Some(&first)).await.expect("it gets there");
        assert_eq!(values(&bench), (kept(&second), Some(kept(&first))), "{fault:?}");
        bench.server.state.tables().faults.push(("DISCARD OLD PASSWORD", fault));
        let failure = discard(&bench, &step, &second).await.expect_err("no answer came");
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fault:?}: {failure}");
        discard(&bench, &step, &second).await.expect("it gets there");
        assert_eq!(values(&bench), (kept(&second), None), "{fault:?}");
        assert_eq!(bench.target.probe(&first, ProbeDepth::Login).await, Probe::Refused, "{fault:?}");
    }
}
