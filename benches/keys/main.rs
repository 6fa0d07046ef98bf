//! `make bench NAME=keys`: 1,000 keys of one provider are due at once, and the provider answers ten requests a second.
//!
//! The provider is in this process, and refuses what is beyond its limit in any second, as it sees requests arrive. What
//! it sees is the measure: how much of what it allows is used, and whether it ever refuses. The limit is its own, so
//! there is nothing to stand beside it but that.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

#[path = "../support/machine.rs"]
#[expect(dead_code, reason = "other benchmarks need more of it")]
mod machine;
mod provider;
#[path = "../support/report.rs"]
#[expect(dead_code, reason = "other benchmarks need more of it")]
mod report;
#[path = "../support/site.rs"]
#[expect(dead_code, reason = "other benchmarks need more of it")]
mod site;

use rekeyd::adapters::Wiring;
use rekeyd::clock::SystemClock;
use rekeyd::rotation::engine::Adapters;
use rekeyd::service::{Action, Catalog, EndingKind, Hub, Request, Service};
use rekeyd::settings::CredentialSource;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::machine::Machine;
use self::provider::Provider;
use self::report::{Figure, Report};
use self::site::{IN_FILES, Site};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Keys that are due at once.
const KEYS: usize = 1_000;

/// Requests that the provider answers in a second.
const LIMIT: u32 = 10;

#[tokio::main]
async fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keys: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<()> {
    let folder = report::folder().join("keys");
    fs::create_dir_all(&folder)?;
    let admin = folder.join("admin.value");
    fs::write(&admin, provider::ADMIN)?;
    owner_only(&admin)?;
    let provider = Provider::start(LIMIT).await?;
    let machine = Machine::look(&folder, Vec::new())?;
    let mut site = Site::make(&folder.join("site"), &admin, IN_FILES)?;
    // The admin goes to the provider and nowhere else, and that is on this machine.
    let here = vec!["127.0.0.1".to_owned()];
    site.settings.outbound.private_hosts.clone_from(&here);
    for source in site.settings.credentials.values_mut() {
        if let CredentialSource::File(file) = source {
            file.hosts.clone_from(&here);
        }
    }
    let policies: String = (0..KEYS).map(|number| policy(number, &provider.base)).collect();
    let text = format!("{}---\n{policies}", recipe());
    let loaded = site.write_policies("policies.yaml", &text)?;
    let names: Vec<_> = loaded.policies.iter().map(|policy| policy.name().clone()).collect();
    let wiring: Arc<dyn Adapters> = Arc::new(Wiring::new(&site.settings));
    let service = Arc::new(Service::new(
        &site.settings,
        Catalog::new(loaded),
        wiring,
        Arc::new(SystemClock),
        Arc::new(Hub::new(Vec::new())),
        CancellationToken::new(),
    ));

    println!("{KEYS} keys are due at once; the provider answers {LIMIT} requests a second");
    let began = Instant::now();
    let mut work = JoinSet::new();
    for policy in names {
        let service = Arc::clone(&service);
        work.spawn(async move {
            // A first key has to be asked for; what a rotation asks the provider is the same for all.
            let request = Request {
                policy: policy.clone(),
                action: Action::Rotate,
                request: None,
                reason: None,
                patience_seconds: 3_600,
            };
            let (events, _) = tokio::sync::mpsc::unbounded_channel();
            let ending = service.perform(&request, "the benchmark", events).await;
            if ending.ending == EndingKind::Rotated { Ok(()) } else { Err(ending.message) }
        });
    }
    let mut done = 0;
    while let Some(rotated) = work.join_next().await {
        if let Err(told) = rotated? {
            return Err(format!("a rotation did not end as it should: {told}").into());
        }
        done += 1;
        if done % 100 == 0 {
            println!("{done} of {KEYS} after {:.0} s", began.elapsed().as_secs_f64());
        }
    }
    let seen = provider.seen();
    if seen.keys != KEYS {
        return Err(format!("the provider has {} keys", seen.keys).into());
    }
    // Where it is known when the limit could have been used: from the first request to the last.
    let rate = (seen.requests - 1) as f64 / seen.span.as_secs_f64();
    let mut report = Report::new("keys", machine);
    report.say(format!(
        "{KEYS} keys of one provider due at once, which answers {LIMIT} requests in any second"
    ));
    report.section(
        "what the provider saw",
        vec![
            Figure::new(
                "keys.used",
                "requests, of those that it allows",
                "%",
                &[rate / f64::from(LIMIT) * 100.0],
            )
            .with_target("at least 95", |used| used >= 95.0),
            Figure::new("keys.refused", "requests beyond its limit", "", &[seen.refused as f64])
                .with_target("none", |refused| refused == 0.0),
            Figure::new("keys.mostInASecond", "the most in any second", "", &[seen.most as f64]),
            Figure::new(
                "keys.perRotation",
                "requests for each key",
                "",
                &[seen.requests as f64 / KEYS as f64],
            ),
            Figure::new("keys.took", "until the last one was done", "s", &[began.elapsed().as_secs_f64()]),
        ],
    );
    report.publish()?;
    Ok(())
}

fn owner_only(path: &std::path::Path) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// How the provider's keys are rotated.
fn recipe() -> String {
    format!(
        r#"apiVersion: rekeyd.dev/v1alpha1
kind: Recipe
metadata: {{name: bench}}
spec:
  title: A provider with a limit
  testedOn: itself
  strategy: dualKey
  admin: its admin key
  limits: {{requestsPerSecond: {LIMIT}}}
  create:
    request: {{method: POST, path: /keys, bearer: "{{{{ admin.value }}}}", json: {{owner: "{{{{ owner }}}}", name: "{{{{ name }}}}"}}}}
    value: /value
    id: /id
  verify:
    request: {{method: GET, path: /whoami, bearer: "{{{{ value }}}}"}}
    acceptedWhen: [{{status: [200]}}]
    refusedWhen: [{{status: [401]}}]
  list:
    request: {{method: GET, path: "/keys/{{{{ owner }}}}", bearer: "{{{{ admin.value }}}}"}}
    id: /id
    name: /name
  revoke:
    request: {{method: DELETE, path: "/keys/{{{{ owner }}}}/{{{{ id }}}}", bearer: "{{{{ admin.value }}}}"}}
"#
    )
}

fn policy(number: usize, base: &str) -> String {
    format!(
        "apiVersion: rekeyd.dev/v1alpha1\n\
         kind: RotationPolicy\n\
         metadata: {{name: service-{number}, namespace: bench}}\n\
         spec:\n\
         \x20 schedule: {{cron: \"0 0 29 2 *\", maxAge: 1d}}\n\
         \x20 target:\n\
         \x20   http: {{recipe: bench, owner: service-{number}, base: \"{base}\", admin: admin}}\n\
         \x20 store: {{name: main, path: bench/service-{number}}}\n\
         \x20 retire: {{grace: 0s}}\n\
         ---\n"
    )
}
