//! The policies of a large organisation, each with a value in force.

use std::fmt::Write as _;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::ident::{DnsLabel, Fence, RequestId, RotationId, Version};
use rekeyd::ledger::record::{Outcome as Ended, Proof, RECORD_API_VERSION, Record, RecordKind, TriggerKind};
use rekeyd::ledger::{GitLedger, Ledger};
use rekeyd::policy::Policy;
use rekeyd::rotation::run::{Answered, InForce, Marker};
use rekeyd::secret::Credential;
use rekeyd::store::{self, Place, Promotion, Store};
use tokio::task::JoinSet;

use super::Outcome;
use super::site::Site;

pub(super) const POLICIES: usize = 10_000;
pub(super) const FILES: usize = 100;

/// Writes the policies, and to the store and the ledger what their last rotations left there. Gives the mean
/// size of a policy in bytes.
pub(super) async fn fill(site: &Site) -> Outcome<usize> {
    let now = SystemClock.now();
    let name: DnsLabel = "main".parse()?;
    let store = store::build(&name, &site.settings.stores[&name])?;
    let ledger = Arc::new(GitLedger::open(&site.settings.ledger)?);
    let (mut work, mut bytes) = (JoinSet::new(), 0);
    for file in 0..FILES {
        let text: String = (file * POLICIES / FILES..(file + 1) * POLICIES / FILES)
            .map(|number| document(number, file, now))
            .collect();
        bytes += text.len();
        for policy in site.write_policies(&format!("team-{file}.yaml"), &text)?.policies {
            let (store, ledger) = (Arc::clone(&store), Arc::clone(&ledger));
            work.spawn(async move {
                prime(&*store, &*ledger, &policy, now).await.map_err(|error| error.to_string())
            });
        }
    }
    while let Some(primed) = work.join_next().await {
        primed??;
    }
    Ok(bytes / POLICIES)
}

/// What store and ledger hold once the policy has rotated by schedule an hour ago.
async fn prime(store: &dyn Store, ledger: &dyn Ledger, policy: &Policy, now: Timestamp) -> Outcome<()> {
    let spec = policy.spec();
    let principal = policy.principals()[0].clone();
    let credential = Credential::new(principal.clone(), spec.value.generate());
    let since = now - SignedDuration::from_hours(1);
    let (rotation, version) = (RotationId::generate(), Version::new(17));
    let extra = &spec.store.extra;
    let promotion = Promotion { credential: &credential, expected: None, rotation, version, extra };
    let revision = store.promote(Place::from(&spec.store), promotion).await?;
    let request: RequestId = format!("cron:{since}").parse()?;
    let record = Record {
        api_version: RECORD_API_VERSION.into(),
        kind: RecordKind::RotationRecord,
        rotation,
        policy: policy.name().clone(),
        owner: spec.owner.clone(),
        trigger: TriggerKind::Scheduled,
        request: request.clone(),
        requested_by: "schedule".into(),
        reason: None,
        outcome: Ended::Rotated,
        from: Version::new(16),
        to: version,
        strategy: "alternating".into(),
        target: "postgres db.example.com:5432/app".into(),
        principal: principal.clone(),
        outgoing: policy.principals().get(1).map(|outgoing| (*outgoing).clone()),
        store: format!("main:{}", spec.store.path),
        consumers: vec!["file /run/app/db.env".into()],
        policy_hash: policy.spec_hash(),
        opened_at: since,
        closed_at: since + SignedDuration::from_secs(2),
        previous_promoted_at: Some(since - SignedDuration::from_hours(24 * 7)),
        proof: Proof {
            new_accepted: true,
            old_refused: Some(true),
            sessions_closed: 2,
            sessions_left: Some(0),
        },
        window_ms: None,
        contained_ms: None,
        failure: None,
        writer: "rekeyd 0.1.0".into(),
    };
    ledger.append(&record, None, &[&credential.value]).await?;
    let mut marker = Marker {
        owes: None,
        version,
        fence: Fence::new(17),
        current: Some(InForce { rotation, principal, revision, since, made_by: None }),
        handled: Some(since),
        requests: Vec::new(),
        askers: Vec::new(),
        record: Some(record),
    };
    for _ in 0..16 {
        let request = RequestId::generate();
        marker.remember(Answered {
            request,
            rotation: RotationId::generate(),
            outcome: Ended::Rotated,
            version,
        });
    }
    store.save(policy.name(), &marker.to_wire(), None).await?;
    Ok(())
}

fn document(number: usize, team: usize, now: Timestamp) -> String {
    // None of them fires while it is measured: on a day that is neither today nor near.
    let today = now.to_zoned_datetime(TimeZone::UTC).weekday().to_sunday_zero_offset();
    let day = (i32::from(today) + 2 + i32::try_from(number % 4).expect("less than four")) % 7;
    let (minute, hour) = (number % 60, number / 60 % 24);
    let zone = ["Europe/Berlin", "America/New_York", "Asia/Tokyo", "UTC"][number % 4];
    let mut text = String::new();
    let _ = write!(
        text,
        r#"# The database of service {number}: the team's runbook says who is called when a rotation fails.
apiVersion: rekeyd.dev/v1alpha1
kind: RotationPolicy
metadata:
  name: service-{number}
  namespace: team-{team}
  labels:
    team: team-{team}
    tier: backend
spec:
  owner: team-{team}@example.com
  schedule:
    cron: "{minute} {hour} * * {day}"
    timeZone: {zone}
    window: 2h
    jitter: 15m
    maxAge: 30d
  target:
    postgres:
      endpoint:
        host: db-{number}.internal.example.com
        database: service
        tls:
          mode: verify-full
      admin: admin
      strategy:
        alternating:
          users: [service_a, service_b]
          memberOf: [service]
      check: select 1 from orders limit 1
  store:
    name: main
    path: team-{team}/service-{number}/database
  consumers:
    - file:
        path: /run/credentials/service-{number}/db.env
        mode: "0640"
        content: |
          PGUSER={{{{ principal }}}}
          PGPASSWORD={{{{ value }}}}
        reload: [systemctl, reload, service-{number}.service]
  retire:
    grace: 15m
---
"#
    );
    text
}
