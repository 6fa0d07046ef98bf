//! The MariaDB target on a real server.

use async_trait::async_trait;
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;
use rekeyd::target::mysql::MysqlTarget;

use crate::mysql_support::{Client, World};
use crate::target_contract::{Bench, Open, target_contract};

target_contract!(AlternatingBench::new().await);

struct AlternatingBench {
    world: World,
    target: MysqlTarget,
}

impl AlternatingBench {
    async fn new() -> Self {
        let world = World::shared().await;
        let target = world.target(world.alternating());
        Self { world, target }
    }
}

#[async_trait]
impl Bench for AlternatingBench {
    type Target = MysqlTarget;

    fn target(&self) -> &MysqlTarget {
        &self.target
    }

    fn pair(&self) -> [Principal; 2] {
        [self.world.name("a"), self.world.name("b")]
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        Box::new(self.world.connect(credential).await.expect("a session"))
    }
}

#[async_trait]
impl Open for Client {
    async fn lives(&mut self) -> bool {
        self.query("SELECT 1").await.is_ok()
    }
}
