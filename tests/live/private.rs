//! Clusters of a test's own, to take API servers and nodes away.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kubernetes::Cluster;
use crate::openbao::{servers, unique};

/// A cluster of the test's own.
pub(crate) struct PrivateCluster {
    run: PathBuf,
    pub(crate) cluster: Cluster,
}

impl PrivateCluster {
    pub(crate) fn start() -> Self {
        let run = servers().join(unique("cluster"));
        std::fs::create_dir(&run).expect("a folder");
        let output = script().arg("start").arg(&run).output().expect("deploy/dev/kubernetes");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { cluster: Cluster::read(&run), run }
    }

    /// Kills its API server, or starts it again: `off`, `on`.
    pub(crate) fn api(&self, what: &str) {
        self.ask(&["api", what]);
    }

    /// Cuts a node's power, or gives it back: `off`, `on`. Blocks until it is ready again.
    pub(crate) fn node(&self, name: &str, what: &str) {
        self.ask(&["node", name, what]);
    }

    /// Gives its nodes the images that tests use.
    pub(crate) fn import_images(&self) {
        for image in ["application.tar", "rekeyd.tar"] {
            let image = servers().join(image);
            self.ask(&["import", image.to_str().expect("a path")]);
        }
    }

    fn ask(&self, arguments: &[&str]) {
        let (verb, rest) = arguments.split_first().expect("a verb");
        let output = script().arg(verb).arg(&self.run).args(rest).output().expect("deploy/dev/kubernetes");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for PrivateCluster {
    fn drop(&mut self) {
        let stopped = script().arg("stop").arg(&self.run).status();
        let _ = std::fs::remove_dir_all(&self.run);
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|status| status.success()), "the cluster was not stopped");
        }
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/kubernetes"))
}
