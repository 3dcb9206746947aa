//! Figures as they come: a table for people, JSON for tools, both with the machine and its load.

use std::path::Path;
use std::time::{Duration, Instant};

use eyre::Result;
use serde_json::{Value, json};

/// Collects figures.
pub struct Report {
    figures: Vec<Value>,
    section: &'static str,
    load_before: String,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn load() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn cpu() -> String {
    let info = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} × {} ({} MHz)", field("model name"), field("cpu MHz"))
}

impl Report {
    pub fn start() -> Self {
        println!("machine: {}; load average {}", cpu(), load());
        Self { figures: Vec::new(), section: "", load_before: load() }
    }

    pub fn section(&mut self, name: &'static str) {
        self.section = name;
        println!("\n{name}");
    }

    /// One figure; `target` is what the project wants it to be, in the same unit.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str, target: Option<&str>) {
        let shown = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        let wanted = target.map(|target| format!("   target {target}")).unwrap_or_default();
        println!("  {name:<58} {shown:>12} {unit:<8}{wanted}");
        self.figures.push(json!({
            "benchmark": self.section, "name": name, "value": value, "unit": unit, "target": target, "load": load(),
        }));
    }

    /// Time of one call of `work`: the best of ten rounds, since everything else on the machine only adds.
    pub fn time<T>(&mut self, name: &str, target: Option<&str>, mut work: impl FnMut() -> T) {
        let mut rounds = 1_u32;
        let per_round = loop {
            let started = Instant::now();
            for _ in 0..rounds {
                std::hint::black_box(work());
            }
            if started.elapsed() >= Duration::from_millis(50) {
                break rounds;
            }
            rounds *= 2;
        };
        let best = (0..10).map(|_| {
            let started = Instant::now();
            for _ in 0..per_round {
                std::hint::black_box(work());
            }
            started.elapsed().as_secs_f64() * 1e6 / f64::from(per_round)
        });
        self.figure(name, best.fold(f64::INFINITY, f64::min), "µs", target);
    }

    pub fn finish(self, file: Option<&Path>) -> Result<()> {
        println!("\nload average {} before, {} after", self.load_before, load());
        let Some(file) = file else { return Ok(()) };
        let report = json!({
            "machine": cpu(),
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "time": std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs(),
            "loadBefore": self.load_before,
            "loadAfter": load(),
            "figures": self.figures,
        });
        Ok(std::fs::write(file, serde_json::to_string_pretty(&report)?)?)
    }
}

/// The value below which a share of the sorted values lies.
pub fn quantile(sorted: &[u64], share: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    #[allow(clippy::cast_precision_loss)]
    sorted.get(index).map_or(0.0, |value| *value as f64)
}
