//! Fault scenarios: two chains behind faulty proxies, the real keeper as child processes, nodes and databases that fail. Each
//! scenario is a test with a name; those of a group share one devnet, one after the other; each ends with the same audit.
//!
//! `cargo test --test faults [-- NAME ...]` runs those whose name contains one of the names; `--list` names them all.
//! Scenarios marked nightly run only with `QUITTANCE_NIGHTLY=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod db;
mod disk;
mod disputed;
mod nodes;
mod outages;
mod process;
mod proxy;
mod races;
mod reorgs;
mod rpc;
mod several;
mod txs;
mod wallet;
mod world;

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use world::{Setup, World};

/// Groups that run at the same time: most of their time is waiting, for blocks above all.
const AT_ONCE: usize = 3;

/// A scenario may not take longer, however busy the machine is.
const LONGEST: Duration = Duration::from_secs(900);

/// A named test.
pub struct Scenario {
    name: &'static str,
    nightly: bool,
    run: for<'a> fn(&'a mut World) -> BoxFuture<'a, ()>,
}

/// Scenarios that share a devnet, in this order.
pub struct Group {
    setup: Setup,
    scenarios: Vec<Scenario>,
}

/// Names of async functions as a list of scenarios.
#[macro_export]
macro_rules! scenarios {
    ($($(#[$kind:ident])? $name:ident),* $(,)?) => {
        vec![$($crate::Scenario {
            name: stringify!($name),
            nightly: [$(stringify!($kind) == "nightly",)? false][0],
            run: |world| Box::pin($name(world)),
        }),*]
    };
}

fn groups() -> Vec<Group> {
    vec![
        several::group(),
        txs::group(),
        process::group(),
        disputed::group(),
        races::of_payers(),
        outages::group(),
        nodes::group(),
        rpc::group(),
        races::of_nodes(),
        reorgs::group(),
    ]
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let nightly = std::env::var("QUITTANCE_NIGHTLY").is_ok_and(|value| value == "1");
    let mut groups = groups();
    if arguments.iter().any(|argument| argument == "--list") {
        groups.iter().flat_map(|group| &group.scenarios).for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    let mut left_out = 0;
    for group in &mut groups {
        group.scenarios.retain(|scenario| {
            let wanted = names.is_empty() || names.iter().any(|name| scenario.name.contains(name.as_str()));
            let now = nightly || !scenario.nightly;
            left_out += usize::from(!wanted || !now);
            if wanted && !now {
                println!("test {} ... ignored, nightly", scenario.name);
            }
            wanted && now
        });
    }
    groups.retain(|group| !group.scenarios.is_empty());
    let total: usize = groups.iter().map(|group| group.scenarios.len()).sum();
    println!("\nrunning {total} tests");
    let (queue, failed) = (Mutex::new(VecDeque::from(groups)), Mutex::new(Vec::new()));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(group) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) {
                    let ended = run(&group);
                    failed.lock().unwrap().extend(ended);
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let (ok, n) = (if failed.is_empty() { "ok" } else { "FAILED" }, failed.len());
    println!("\ntest result: {ok}. {} passed; {n} failed; {left_out} left out; {:.1?}", total - n, start.elapsed());
    for name in &failed {
        println!("failed: {name}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a group on a devnet of its own; gives the names of what failed.
fn run(group: &Group) -> Vec<&'static str> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut failed = Vec::new();
        let up = AssertUnwindSafe(World::up(group.setup)).catch_unwind().await;
        let Ok(mut world) = up else { return group.scenarios.iter().map(|scenario| scenario.name).collect() };
        for scenario in &group.scenarios {
            let start = Instant::now();
            let running = AssertUnwindSafe((scenario.run)(&mut world)).catch_unwind();
            let ended = match tokio::time::timeout(LONGEST, running).await {
                Ok(Ok(())) => "ok",
                Ok(Err(panic)) => {
                    println!("{}: {}", scenario.name, text(panic.as_ref()));
                    failed.push(scenario.name);
                    "FAILED"
                }
                Err(_) => {
                    failed.push(scenario.name);
                    "FAILED: it took too long"
                }
            };
            println!("test {} ... {ended} ({:.1?})", scenario.name, start.elapsed());
        }
        failed
    })
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
