//! What rekeyd logs in with: found where AWS's own tools find it.
//!
//! Environment, profile, web identity (a service account in EKS), pod identity and container, and the machine's own
//! role, in this order. Each time a login is needed all is looked at anew, so that a file that was replaced is read
//! again; what lives for a while is kept by the driver until shortly before its end.

use std::time::{Duration, SystemTime};

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};

use super::connection::Connection;
use crate::clock::{Clock as _, SystemClock};
use crate::settings::AwsSettings;

/// Keys without an end are looked for again after this: a file may hold others by then.
const KEYS_LIVE: Duration = Duration::from_secs(60);

/// Finds a login.
#[derive(Debug)]
pub(crate) struct Login {
    region: Region,
    profile: Option<String>,
    file: Option<std::path::PathBuf>,
    connection: Connection,
}

impl Login {
    pub(crate) fn new(settings: &AwsSettings, connection: Connection) -> Self {
        Self {
            region: Region::new(settings.region.clone()),
            profile: settings.profile.clone(),
            file: settings.credentials_file.clone(),
            connection,
        }
    }

    async fn find(&self) -> provider::Result {
        let around = ProviderConfig::without_region()
            .with_region(Some(self.region.clone()))
            .with_http_client(self.connection.clone());
        let Some(file) = &self.file else {
            let mut chain = DefaultCredentialsChain::builder().configure(around).region(self.region.clone());
            if let Some(profile) = &self.profile {
                chain = chain.profile_name(profile);
            }
            return chain.build().await.provide_credentials().await;
        };
        let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build();
        let profile = self.profile.as_deref().unwrap_or("default");
        let provider = ProfileFileCredentialsProvider::builder()
            .configure(&around)
            .profile_files(files)
            .profile_name(profile)
            .build();
        provider.provide_credentials().await
    }
}

impl ProvideCredentials for Login {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let mut found = self.find().await?;
            let now = Duration::from_millis(SystemClock.now().as_millisecond().unsigned_abs());
            let soon = SystemTime::UNIX_EPOCH + now + KEYS_LIVE;
            found.expiry_mut().get_or_insert(soon);
            Ok(found)
        })
    }
}
