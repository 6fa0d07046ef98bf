//! The database of these tests keeps the promises of a real one.

use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;

use crate::dual_password_contract::{DualBench, dual_password_contract};
use crate::target_contract::{Bench, Open, target_contract};
use crate::world::clock::TestClock;
use crate::world::database::{Database, DualDatabase};

target_contract!(Arc::new(Database::new(Arc::new(TestClock::new()))));

struct Client {
    database: Arc<Database>,
    session: u64,
}

#[async_trait]
impl Bench for Arc<Database> {
    type Target = Database;

    fn target(&self) -> &Database {
        self
    }

    fn pair(&self) -> [Principal; 2] {
        ["app_a", "app_b"].map(|name| name.parse().expect("a principal"))
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        let session = self.log_in(credential, "reader").expect("a session");
        Box::new(Client { database: Self::clone(self), session })
    }
}

#[async_trait]
impl Open for Client {
    async fn lives(&mut self) -> bool {
        self.database.lives(self.session)
    }
}

mod dual {
    use super::*;

    dual_password_contract!(DualDatabase(Arc::new(Database::new(Arc::new(TestClock::new())))));
}

#[async_trait]
impl DualBench for DualDatabase {
    type Target = Self;

    fn target(&self) -> &Self {
        self
    }

    fn user(&self) -> Principal {
        "app".parse().expect("a principal")
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        self.0.open(credential).await
    }

    async fn slip(&self, credential: &Credential) {
        assert!(self.0.add(credential), "there is room for another");
    }
}
