//! Finds the adapters that policies name, from the settings.

mod admin;
mod authority;
mod preflight;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::admin::Admin;
use crate::aws::Account;
use crate::clock::SystemClock;
use crate::consumer::{self, Consumer, Expected};
use crate::copies::CopyPlace;
use crate::failure::{Failure, FailureClass};
use crate::http::outbound::Outbound;
use crate::http::pace::Paces;
use crate::ident::{DnsLabel, StorePath};
use crate::kubernetes::Clusters;
use crate::ledger::{GitLedger, Ledger};
use crate::policy::Policy;
use crate::policy::spec::{ConsumerSpec, TargetSpec};
use crate::rotation::engine::Adapters;
use crate::secret::{AdminCredential, Authority};
use crate::settings::{
    AuthoritySettings, CredentialSource, LedgerSettings, PluginsSettings, Settings, StoreSettings,
};
use crate::store::{self, Store};
use crate::target::Target;
use crate::target::aws_iam::AwsIamTarget;
use crate::target::clickhouse::ClickhouseTarget;
use crate::target::exec::ExecTarget;
use crate::target::http::HttpTarget;
use crate::target::mysql::{self, MysqlTarget};
use crate::target::postgres::{Pool, PostgresTarget};
use crate::target::rabbitmq::RabbitmqTarget;
use crate::target::redis::RedisTarget;
use crate::target::service_account::ServiceAccountTarget;
use crate::target::vault::VaultTarget;
use crate::vault::Session;

/// How long an idle admin session is kept.
const IDLE_SESSION: Duration = Duration::from_secs(60);

/// The adapters of one process. Stores and the ledger are opened when first needed, so that a broken store
/// stops only the policies that name it, and a command that only looks makes nothing.
pub struct Wiring {
    stores: Arc<Stores>,
    credentials: BTreeMap<DnsLabel, CredentialSource>,
    pool: Arc<Pool>,
    mysql: Arc<mysql::Pool>,
    logins: Logins,
    clusters: Arc<Clusters>,
    outbound: Outbound,
    paces: Arc<Paces>,
    plugins: Option<PluginsSettings>,
    authorities: BTreeMap<DnsLabel, AuthoritySettings>,
    ledger: Ledgers,
}

/// The ledger, once it was needed.
struct Ledgers {
    settings: LedgerSettings,
    open: Mutex<Option<Arc<GitLedger>>>,
}

/// What targets that log in as stores do have there: one login for all policies of a store, since each may leave
/// a token behind.
struct Logins {
    settings: BTreeMap<DnsLabel, StoreSettings>,
    sessions: Mutex<BTreeMap<DnsLabel, Arc<Session>>>,
    accounts: Mutex<BTreeMap<DnsLabel, Arc<Account>>>,
}

/// The stores that the settings name.
struct Stores {
    settings: BTreeMap<DnsLabel, StoreSettings>,
    open: Mutex<BTreeMap<DnsLabel, Arc<dyn Store>>>,
}

impl Wiring {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            stores: Arc::new(Stores { settings: settings.stores.clone(), open: Mutex::default() }),
            credentials: settings.credentials.clone(),
            pool: Arc::new(Pool::new(usize::from(settings.limits.per_target), IDLE_SESSION)),
            mysql: Arc::new(mysql::Pool::new(usize::from(settings.limits.per_target))),
            logins: Logins {
                settings: settings.stores.clone(),
                sessions: Mutex::default(),
                accounts: Mutex::default(),
            },
            clusters: Arc::new(
                Clusters::new(&settings.clusters, settings.limits)
                    .with_argo_cd(settings.argo_cd.clone())
                    .with_gitops(settings.gitops.clone()),
            ),
            outbound: Outbound::new(&settings.outbound.private_hosts),
            paces: Arc::new(Paces::new(Arc::new(SystemClock))),
            plugins: settings.plugins.clone(),
            authorities: settings.authorities.clone(),
            ledger: Ledgers { settings: settings.ledger.clone(), open: Mutex::default() },
        }
    }

    /// The ledger; made when missing. Blocks for a few disk accesses when it is first asked for.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn git_ledger(&self) -> Result<Arc<GitLedger>, Failure> {
        let mut open = self.ledger.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ledger) = &*open {
            return Ok(Arc::clone(ledger));
        }
        let ledger = Arc::new(GitLedger::open(&self.ledger.settings)?);
        *open = Some(Arc::clone(&ledger));
        Ok(ledger)
    }

    /// The clusters that the settings name.
    #[must_use]
    pub const fn clusters(&self) -> &Arc<Clusters> {
        &self.clusters
    }

    /// These adapters, for an engine. A build for proving may put a disturbance before them.
    #[must_use]
    pub fn for_engine(self: &Arc<Self>) -> Arc<dyn Adapters> {
        #[cfg(feature = "proving")]
        return crate::proving::disturbed(Arc::clone(self) as _);
        #[cfg(not(feature = "proving"))]
        return Arc::clone(self) as _;
    }

    /// The ledger if it was needed so far.
    #[must_use]
    pub fn opened_ledger(&self) -> Option<Arc<GitLedger>> {
        self.ledger.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether all of these credentials may be used at a host, as the settings have it now.
    fn hosts_of(&self, names: &[&DnsLabel]) -> impl Fn(&str) -> bool + Send + Sync + use<> {
        let sources: Vec<_> = names.iter().filter_map(|name| self.credentials.get(*name)).cloned().collect();
        move |host| sources.iter().all(|source| !source.hosts().is_empty() && source.is_for(host))
    }

    fn admin(&self, name: &DnsLabel) -> Result<Admin, Failure> {
        let source = self.credentials.get(name).ok_or_else(|| {
            Failure::new(
                FailureClass::Invalid,
                format!("use credential {name}"),
                "the settings have none of that name",
            )
            .with_remedy("add it under `credentials` in the settings")
        })?;
        Ok(Admin::new(name.clone(), source.clone(), Arc::clone(&self.stores)))
    }
}

impl Adapters for Wiring {
    fn store_names(&self) -> Vec<DnsLabel> {
        self.stores.settings.keys().cloned().collect()
    }

    fn store(&self, name: &DnsLabel) -> Result<Arc<dyn Store>, Failure> {
        self.stores.open(name)
    }

    fn authority(&self, name: &DnsLabel) -> Result<Arc<Authority>, Failure> {
        authority::read(name, self.authorities.get(name)).map(Arc::new)
    }

    fn target(&self, spec: &TargetSpec) -> Result<Option<Arc<dyn Target>>, Failure> {
        match spec {
            TargetSpec::Postgres(spec) => {
                let admin = Arc::new(self.admin(&spec.admin)?);
                Ok(Some(Arc::new(PostgresTarget::new(spec.clone(), admin, Arc::clone(&self.pool)))))
            }
            TargetSpec::Redis(spec) => {
                let admin = Arc::new(self.admin(&spec.admin)?);
                Ok(Some(Arc::new(RedisTarget::new(spec.clone(), admin))))
            }
            TargetSpec::Mysql(spec) => {
                let admin = Arc::new(self.admin(&spec.admin)?);
                let source = self.credentials.get(&spec.admin);
                let named = source.filter(|source| !source.hosts().is_empty());
                let target = MysqlTarget::new(spec.clone(), admin, Arc::clone(&self.mysql));
                Ok(Some(Arc::new(target.vouched(|host| named.is_some_and(|source| source.is_for(host))))))
            }
            TargetSpec::Rabbitmq(spec) => {
                let admin = Arc::new(self.admin(&spec.admin)?);
                Ok(Some(Arc::new(RabbitmqTarget::new(spec.clone(), admin))))
            }
            TargetSpec::Clickhouse(spec) => {
                let admin = Arc::new(self.admin(&spec.admin)?);
                Ok(Some(Arc::new(ClickhouseTarget::new(spec.clone(), admin))))
            }
            TargetSpec::Http(spec) => {
                let admin = |name: &DnsLabel| {
                    self.admin(name).map(|admin| Arc::new(admin) as Arc<dyn AdminCredential>)
                };
                let others = spec.credentials.iter().map(|(name, of)| Ok((name.clone(), admin(of)?)));
                let names: Vec<_> = spec.admin.iter().chain(spec.credentials.values()).collect();
                let target = HttpTarget::new(
                    spec.clone(),
                    spec.admin.as_ref().map(admin).transpose()?,
                    others.collect::<Result<_, Failure>>()?,
                    self.outbound.clone(),
                    Arc::clone(&self.paces),
                    Arc::new(SystemClock),
                )?;
                Ok(Some(Arc::new(target.with_credentials_for(self.hosts_of(&names)))))
            }
            TargetSpec::Vault(spec) => {
                Ok(Some(Arc::new(VaultTarget::new(spec.clone(), self.logins.session(&spec.store)?))))
            }
            TargetSpec::AwsIam(spec) => {
                Ok(Some(Arc::new(AwsIamTarget::new(spec.clone(), self.logins.account(&spec.store)?))))
            }
            TargetSpec::KubernetesServiceAccount(spec) => {
                Ok(Some(Arc::new(ServiceAccountTarget::new(spec.clone(), Arc::clone(&self.clusters)))))
            }
            TargetSpec::Exec(spec) => {
                let admin = |name: &DnsLabel| {
                    self.admin(name).map(|admin| Arc::new(admin) as Arc<dyn AdminCredential>)
                };
                // A rotation that was opened under other settings is held against those in force.
                if let Some(plugins) = &self.plugins
                    && spec.is_within(&plugins.directory)
                    && spec.admin.as_ref().is_none_or(|admin| plugins.credentials.contains(admin))
                {
                    let admin = spec.admin.as_ref().map(admin).transpose()?;
                    return Ok(Some(Arc::new(ExecTarget::new(spec.clone(), admin))));
                }
                Err(Failure::new(
                    FailureClass::Invalid,
                    format!("use plug-in {spec}"),
                    "the settings do not let it be run, or be handed its admin credential",
                )
                .with_remedy("see `plugins` in the settings"))
            }
            TargetSpec::Generated(_) => Ok(None),
            #[cfg(feature = "proving")]
            TargetSpec::Simulated(_) | TargetSpec::SimulatedKeys(_) => Ok(None),
        }
    }

    fn consumer(&self, spec: &ConsumerSpec) -> Result<Arc<dyn Consumer>, Failure> {
        consumer::build(spec, self)
    }

    fn ledger(&self) -> Result<Arc<dyn Ledger>, Failure> {
        Ok(self.git_ledger()? as _)
    }

    fn expect(&self, policy: &Policy) -> Option<Expected> {
        self.clusters.governor().expect(policy.name(), &policy.spec().consumers)
    }
}

impl Logins {
    fn session(&self, name: &DnsLabel) -> Result<Arc<Session>, Failure> {
        kept(&self.sessions, name, || match self.settings.get(name) {
            Some(StoreSettings::Vault(settings)) => Session::open(settings),
            _ => Err(no_store(name, "the settings have no OpenBao or Vault of that name")),
        })
    }

    fn account(&self, name: &DnsLabel) -> Result<Arc<Account>, Failure> {
        kept(&self.accounts, name, || match self.settings.get(name) {
            Some(StoreSettings::AwsSecretsManager(settings)) => Account::open(settings).map(Arc::new),
            _ => Err(no_store(name, "the settings have no store at AWS of that name")),
        })
    }
}

impl consumer::Means for Wiring {
    fn clusters(&self) -> &Arc<Clusters> {
        &self.clusters
    }

    fn admin(&self, name: &DnsLabel) -> Result<Arc<dyn AdminCredential>, Failure> {
        Ok(Arc::new(Self::admin(self, name)?))
    }

    fn requests(&self, credentials: &[&DnsLabel]) -> consumer::Requests {
        consumer::Requests {
            outbound: self.outbound.clone(),
            paces: Arc::clone(&self.paces),
            clock: Arc::new(SystemClock),
            is_for: Box::new(self.hosts_of(credentials)),
        }
    }

    fn copy(
        &self,
        store: &DnsLabel,
        mount: Option<&StorePath>,
        path: &StorePath,
    ) -> Result<Arc<dyn CopyPlace>, Failure> {
        self.stores.open(store)?.copy_at(mount, path).ok_or_else(|| {
            let doing = format!("copy to {path} in store {store}");
            Failure::new(FailureClass::Invalid, doing, "it keeps no copies")
                .with_remedy("name a store at OpenBao, Vault or AWS Secrets Manager")
        })
    }
}

/// What was made for a name, or is now.
fn kept<T>(
    all: &Mutex<BTreeMap<DnsLabel, Arc<T>>>,
    name: &DnsLabel,
    make: impl FnOnce() -> Result<Arc<T>, Failure>,
) -> Result<Arc<T>, Failure> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(one) = all.get(name) {
        return Ok(Arc::clone(one));
    }
    let made = make()?;
    all.insert(name.clone(), Arc::clone(&made));
    Ok(made)
}

fn no_store(name: &DnsLabel, reason: &str) -> Failure {
    Failure::new(FailureClass::Invalid, format!("use store {name}"), reason)
        .with_remedy("add it under `stores` in the settings")
}

impl Stores {
    fn open(&self, name: &DnsLabel) -> Result<Arc<dyn Store>, Failure> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = open.get(name) {
            return Ok(Arc::clone(store));
        }
        let settings = self.settings.get(name).ok_or_else(|| {
            Failure::new(
                FailureClass::Invalid,
                format!("use store {name}"),
                "the settings have none of that name",
            )
            .with_remedy("add it under `stores` in the settings")
        })?;
        let store = store::build(name, settings)?;
        open.insert(name.clone(), Arc::clone(&store));
        Ok(store)
    }
}
