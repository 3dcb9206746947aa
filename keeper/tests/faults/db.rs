//! Databases of test keepers: a SQLite file, or a database on a throw-away PostgreSQL server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection};

/// Who runs the server when the tests run as root, which the server refuses.
const NOBODY: &str = "65534";

/// A PostgreSQL server of this test alone, or the one that `QUITTANCE_TEST_POSTGRES` names.
pub struct Postgres {
    /// `postgres://…` without a database.
    url: String,
    child: Option<Child>,
    _dir: Option<tempfile::TempDir>,
    databases: AtomicU32,
}

impl Postgres {
    /// Starts a server.
    pub async fn start() -> Self {
        if let Ok(url) = std::env::var("QUITTANCE_TEST_POSTGRES") {
            let (server, _) = url.rsplit_once('/').unwrap();
            return Self { url: server.to_owned(), child: None, _dir: None, databases: AtomicU32::new(0) };
        }
        let initdb = find("initdb").expect("PostgreSQL is not installed: `script/setup` says how to get it");
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("db");
        let log = dir.path().join("log");
        let root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        if root {
            std::os::unix::fs::chown(dir.path(), Some(NOBODY.parse().unwrap()), Some(NOBODY.parse().unwrap())).unwrap();
        }
        let program = |path: &Path| {
            if !root {
                return Command::new(path);
            }
            let mut command = Command::new("setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(path);
            command
        };
        let mut create = program(&initdb);
        create.arg("-D").arg(&data).args(["-A", "trust", "-U", "quittance", "--no-sync"]).current_dir(dir.path());
        let made = create.output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let deadline = Instant::now() + Duration::from_secs(120);
        let dir_path = dir.path().to_owned();
        let mut server = Self { url: String::new(), child: None, _dir: Some(dir), databases: AtomicU32::new(0) };
        // Another process may take a free port before the server does: then the next one.
        loop {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let out = std::fs::File::create(&log).unwrap();
            let mut run = program(&initdb.with_file_name("postgres"));
            run.arg("-D").arg(&data).args(["-p", &port.to_string()]).arg("-k").arg(&dir_path);
            run.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"]);
            run.current_dir(&dir_path).stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
            server.child = Some(run.spawn().unwrap());
            server.url = format!("postgres://quittance@127.0.0.1:{port}");
            if server.listens(&log, deadline).await {
                return server;
            }
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL did not start: {text}");
        }
    }

    /// Waits until the server says in its log that it takes connections; false when it ended instead.
    async fn listens(&mut self, log: &Path, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            if std::fs::read_to_string(log).unwrap_or_default().contains("ready to accept connections") {
                return true;
            }
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// A new, empty database; its URL.
    pub async fn database(&self) -> String {
        sqlx::any::install_default_drivers();
        let name = format!("f{}_{}", std::process::id(), self.databases.fetch_add(1, Ordering::SeqCst));
        let mut connection = sqlx::AnyConnection::connect(&format!("{}/postgres", self.url)).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
        format!("{}/{name}", self.url)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // Fast shutdown: its own children end too.
        let _ = Command::new("kill").arg("-INT").arg(child.id().to_string()).status();
        let _ = child.wait();
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH")?;
    let of_distribution = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let places = of_distribution.map(|version| version.path().join("bin")).chain(std::env::split_paths(&on_path));
    places.map(|dir| dir.join(name)).find(|file| file.is_file())
}
