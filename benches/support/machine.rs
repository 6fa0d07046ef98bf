//! The machine that figures were taken on, and how busy others kept it.

use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rekeyd::clock::{Clock as _, SystemClock};
use serde::Serialize;

use super::report::{percentile, sorted};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    memory_mib: u64,
    kernel: String,
    /// Of the folder that everything is in.
    file_system: String,
    /// Median time until 4 KiB more in a file are on the disk, in milliseconds.
    sync_ms: f64,
    /// Of what was measured, as each says itself.
    versions: Vec<String>,
}

impl Machine {
    /// Looks at this machine; `folder` is where the figures are taken.
    pub(crate) fn look(folder: &Path, versions: Vec<String>) -> std::io::Result<Self> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let memory = fs::read_to_string("/proc/meminfo")?;
        let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let memory = memory.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu: cpu.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned()),
            memory_mib: memory.unwrap_or(0) / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            file_system: file_system(folder)?,
            sync_ms: sync_time(folder)?,
            versions,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, memory_mib, kernel, file_system, sync_ms, versions } = self;
        write!(f, "{cores} cores ({cpu}), {memory_mib} MiB, Linux {kernel}, {file_system}, ")?;
        write!(f, "{sync_ms:.2} ms for a write to reach the disk; {}", versions.join(", "))
    }
}

/// How much of the machine others use, in per cent of all cores: measured for a second, in which the
/// caller does nothing. Figures taken while this is high say little.
pub(crate) async fn others() -> std::io::Result<f64> {
    let before = ticks()?;
    SystemClock.sleep(Duration::from_secs(1)).await;
    let after = ticks()?;
    let (busy, all) = (after.0 - before.0, after.1 - before.1);
    Ok(busy as f64 / all.max(1) as f64 * 100.0)
}

/// Clock ticks of all cores since boot: busy, and all.
/// https://docs.kernel.org/filesystems/proc.html#miscellaneous-kernel-statistics-in-proc-stat
fn ticks() -> std::io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> =
        text.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq steal; what follows is counted in user already.
    let all: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

fn file_system(folder: &Path) -> std::io::Result<String> {
    let folder = folder.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let kinds = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        folder.starts_with(place).then_some((place.len(), kind))
    });
    Ok(kinds.max_by_key(|(length, _)| *length).map_or("unknown", |(_, kind)| kind).to_owned())
}

fn sync_time(folder: &Path) -> std::io::Result<f64> {
    let path = folder.join("sync-time");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    fs::remove_file(path)?;
    Ok(percentile(&sorted(&times), 50.0))
}
