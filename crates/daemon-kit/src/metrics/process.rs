//! What the system tells of the process, under Prometheus' usual names.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

/// Ticks per second in `/proc/self/stat`: USER_HZ, which Linux fixes at 100 for programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` each time the metrics are asked for.
pub(super) struct ProcessCollector {
    gauges: [Gauge; 6],
}

/// What one reading of `/proc` gives, in the order of [`METRICS`].
type Reading = [Option<f64>; 6];

const METRICS: [(&str, &str); 6] = [
    ("process_resident_memory_bytes", "Resident memory"),
    ("process_virtual_memory_bytes", "Virtual memory"),
    ("process_threads", "Threads"),
    ("process_open_fds", "Open file descriptors"),
    (
        "process_cpu_seconds_total",
        "Processor time spent, user and system",
    ),
    (
        "process_start_time_seconds",
        "When the process began, since 1970-01-01 UTC",
    ),
];

impl ProcessCollector {
    pub(super) fn new() -> Self {
        let gauges = METRICS.map(|(name, help)| {
            Gauge::with_opts(Opts::new(name, help)).expect("the names above are valid")
        });
        Self { gauges }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let known = METRICS.into_iter().zip(read());
        let known =
            known.filter_map(|((name, help), value)| Some(family(Opts::new(name, help), value?)));
        known.flatten().collect()
    }
}

/// A name in `_total` promises a counter. Made anew each time, so that two readers do not add up.
fn family(opts: Opts, value: f64) -> Vec<MetricFamily> {
    const VALID: &str = "the names above are valid";
    if opts.name.ends_with("_total") {
        let counter = Counter::with_opts(opts).expect(VALID);
        counter.inc_by(value);
        counter.collect()
    } else {
        let gauge = Gauge::with_opts(opts).expect(VALID);
        gauge.set(value);
        gauge.collect()
    }
}

fn read() -> Reading {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    // Listing the directory opens one more, which is not counted.
    let fds = fs::read_dir("/proc/self/fd")
        .ok()
        .map(|dir| dir.count().saturating_sub(1));
    let fds = fds.and_then(|fds| u32::try_from(fds).ok()).map(f64::from);
    let kib = |key| field(&status, key).map(|kib| kib * 1024.0);
    let (cpu, began) = times(&stat).unzip();
    let boot = field(&system, "btime");
    let start = boot.zip(began).map(|(boot, began)| boot + began);
    [
        kib("VmRSS:"),
        kib("VmSize:"),
        field(&status, "Threads:"),
        fds,
        cpu,
        start,
    ]
}

/// The number after `key` at the beginning of a line.
fn field(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor seconds spent, and seconds from boot to the start, of `/proc/self/stat`.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The second field is the program's name in brackets and may hold blanks and brackets.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // proc(5): utime, stime and starttime are fields 14, 15 and 22; `rest` begins with field 3.
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some((
        (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
        ticks(22)? / TICKS_PER_SECOND,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_sound_value() {
        let [rss, size, threads, fds, cpu, start] = read().map(Option::unwrap);
        assert!(rss > 1e5 && rss < 1e10 && size >= rss, "{rss} of {size}");
        assert!(
            threads >= 1.0 && fds >= 3.0,
            "{threads} threads, {fds} descriptors"
        );
        assert!((0.0..1e6).contains(&cpu), "{cpu}");
        let now = crate::unix_millis() / 1000;
        let now = f64::from(u32::try_from(now).unwrap());
        assert!(
            start <= now + 1.0 && start > now - 86_400.0,
            "{start} and now {now}"
        );
    }

    #[test]
    fn processor_time_is_a_counter() {
        for family in ProcessCollector::new().collect() {
            let counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            assert_eq!(
                counter,
                family.name().ends_with("_total"),
                "{}",
                family.name()
            );
        }
    }

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 1200 0 0";
        assert_eq!(times(stat), Some((3.0, 12.0)));
        assert_eq!(times("nonsense"), None);
    }
}
