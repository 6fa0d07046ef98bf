//! The database of these tests keeps the promises of a real one.

use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;
use rekeyd::target::{MintRequest, Target as _};

use crate::dual_password_contract::{DualBench, dual_password_contract};
use crate::keys_contract::{KeysBench, Ways, keys_contract};
use crate::target_contract::{Bench, Open, target_contract};
use crate::world::clock::TestClock;
use crate::world::database::{Database, DualDatabase};
use crate::world::provider::Provider;

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

    async fn by_hand(&self, credential: &Credential) {
        self.set(credential);
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

    async fn by_hand(&self, credential: &Credential) {
        self.0.set(credential);
    }

    async fn slip(&self, credential: &Credential) {
        assert!(self.0.add(credential), "there is room for another");
    }
}

mod keys {
    use super::*;

    keys_contract!(Provider(Arc::new(Database::new(Arc::new(TestClock::new())))));
}

mod untagged_keys {
    use super::*;

    keys_contract!({
        let database = Arc::new(Database::new(Arc::new(TestClock::new())));
        database.turn(|knobs| knobs.untagged = true);
        Provider(database)
    });
}

#[async_trait]
impl KeysBench for Provider {
    type Target = Self;

    fn target(&self) -> &Self {
        self
    }

    fn owner(&self) -> Principal {
        "app".parse().expect("a principal")
    }

    fn ways(&self) -> Ways {
        let mut tags = true;
        self.0.turn(|knobs| tags = !knobs.untagged);
        Ways { quota: Some(2), tags, disables: true, refuses_disabled: true }
    }

    async fn by_hand(&self) -> Credential {
        self.0.make_key(&self.owner())
    }

    async fn lose_the_answer(&self, request: MintRequest<'_>) -> Failure {
        self.mint(request).await.expect("a key");
        Failure::new(FailureClass::Ambiguous, "make a key", "the answer is lost")
    }
}
