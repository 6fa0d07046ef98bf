//! What a process uses, as the kernel says.

use std::fs;

use super::Outcome;

/// The unit of times in `/proc/<pid>/stat`: USER_HZ is 100 wherever rekeyd runs.
const TICK_MS: f64 = 10.0;

/// What a process has used so far.
pub(crate) struct Use {
    pub(crate) resident_mib: f64,
    pub(crate) peak_mib: f64,
    pub(crate) cpu_ms: f64,
}

impl Use {
    pub(crate) fn of(pid: u32) -> Outcome<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // After the name in parentheses: state is field 3, the times are 14 and 15, in clock ticks.
        let fields: Vec<&str> =
            stat.rsplit_once(')').ok_or("a stat without a name")?.1.split_whitespace().collect();
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Self {
            resident_mib: number(&status, "VmRSS:").ok_or("no VmRSS")? / 1024.0,
            peak_mib: number(&status, "VmHWM:").ok_or("no VmHWM")? / 1024.0,
            cpu_ms: ticks as f64 * TICK_MS,
        })
    }
}

fn number(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}
