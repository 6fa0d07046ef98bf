//! The database of these tests keeps the promises of a real one.

use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;

use crate::target_contract::{Bench, Open, target_contract};
use crate::world::clock::TestClock;
use crate::world::database::Database;

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
