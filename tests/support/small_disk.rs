//! A file system that a test can fill, in a mount namespace that an installation's commands run in.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::installation::Installation;

/// Gone with the process that holds its namespace.
pub(crate) struct SmallDisk {
    /// As the test reaches it, from outside.
    path: PathBuf,
    _holder: Child,
}

impl SmallDisk {
    /// Mounts one over a new folder of an installation.
    pub(crate) async fn mount(at: &mut Installation, name: &str) -> Self {
        let path = at.path(name);
        std::fs::create_dir(&path).expect("a folder");
        let script = "mount -t tmpfs -o size=4m,mode=700 tmpfs \"$0\" && echo mounted && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("unshare starts");
        let mut lines = BufReader::new(holder.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("mounted"));
        let pid = holder.id().expect("it runs").to_string();
        at.run_under(&["nsenter", "--user", "--preserve-credentials", "--mount", "--target", &pid]);
        let inside = Path::new("/proc").join(pid).join("root");
        let path = inside.join(path.strip_prefix("/").expect("an absolute path"));
        Self { path, _holder: holder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes what room there is.
    pub(crate) fn fill(&self) {
        let full = std::fs::write(self.filler(), vec![0; 5 << 20]).expect_err("more than fits");
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    /// Gives it back.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.filler()).expect("removed");
    }

    fn filler(&self) -> PathBuf {
        self.path("filler")
    }
}
