//! Test of backups: a copy made the documented way holds every row up to its moment, and a keeper can go on from it.

use std::path::PathBuf;
use std::process::Command;

use sqlx::{AssertSqlSafe, Connection};

use super::receipts::fixtures::{Seed, seed};
use super::{Store, operations, testing};

/// A tool of PostgreSQL: on the path, or where distributions put it.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    places.extend(versions.map(|version| version.path().join("bin")));
    places.into_iter().map(|place| place.join(name)).find(|tool| tool.is_file()).unwrap()
}

fn run(name: &str, arguments: &[&str]) {
    let output = Command::new(tool(name)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies the database while it is open, writes to it with `after`, and opens the copy.
async fn copy(dir: &tempfile::TempDir, store: &Store, after: impl AsyncFnOnce()) -> Store {
    let Ok(server) = std::env::var("QUITTANCE_TEST_POSTGRES") else {
        let path = dir.path().join("copy.db");
        store.copy_to(&path).await.unwrap();
        after().await;
        return Store::open(&format!("sqlite:{}", path.display())).await.unwrap();
    };
    let (host, _) = server.rsplit_once('/').unwrap();
    let name = format!("q_{}", hex::encode(dir.path().file_name().unwrap().as_encoded_bytes()));
    let file = dir.path().join("keeper.dump");
    let (from, to) = (format!("{host}/{name}"), format!("{host}/{name}_copy"));
    run("pg_dump", &["--format=custom", &format!("--file={}", file.display()), &from]);
    after().await;
    let mut connection = sqlx::AnyConnection::connect(&server).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}_copy"))).execute(&mut connection).await.unwrap();
    run("pg_restore", &[&format!("--dbname={to}"), file.to_str().unwrap()]);
    Store::open(&to).await.unwrap()
}

#[tokio::test]
async fn a_copy_holds_what_was_there_and_takes_new_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = testing::open(&dir).await;
    for n in 1..4 {
        seed(&store, &Seed::new(n)).await.unwrap();
    }
    let copied = copy(&dir, &store, async || seed(&store, &Seed::new(4)).await.unwrap()).await;
    assert_eq!(operations::unsettled(&store).await.unwrap().waiting, 4);
    assert_eq!(operations::unsettled(&copied).await.unwrap().waiting, 3, "the copy is of its moment");
    // Numbers that the database gives go on where they were.
    let batch = async |store: &Store| {
        let mut tx = store.write().await.unwrap();
        let id = super::batches::insert(&mut tx, Default::default(), Default::default(), 1, 1).await.unwrap();
        tx.commit().await.unwrap();
        id
    };
    assert_eq!(batch(&copied).await, batch(&store).await);
    seed(&copied, &Seed::new(5)).await.unwrap();
    assert_eq!(operations::unsettled(&copied).await.unwrap().waiting, 4);
}
