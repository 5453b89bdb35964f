//! Metrics: a registry that knows their labels beforehand.
//!
//! - The label values of a metric are a closed set given when it is made, and every series of it
//!   stands at 0 from then on, so that a rate over it is right from the first event.
//! - A name is registered once; twice, or a name that Prometheus forbids, is a mistake in the
//!   code and ends the process at its start.

mod process;

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use prometheus;

/// A label and every value it can have.
pub type Label<'a> = (&'a str, &'a [&'a str]);

/// Bounds in seconds for latencies from 1 ms to a minute.
pub const LATENCY_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// The metrics of a process. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
}

/// Makes the metric, registers it, and touches every series of it.
macro_rules! metric {
    ($(#[$doc:meta])* $one:ident, $One:ty, $many:ident, $Many:ty) => {
        $(#[$doc])*
        pub fn $one(&self, name: &str, help: &str) -> $One {
            self.register(<$One>::with_opts(Opts::new(name, help)))
        }

        $(#[$doc])*
        /// One series for each combination of the labels' values.
        pub fn $many(&self, name: &str, help: &str, labels: &[Label<'_>]) -> $Many {
            let made = self.register(<$Many>::new(Opts::new(name, help), &names(labels)));
            for values in combinations(labels) {
                // Asking for a series makes it.
                made.with_label_values(&values);
            }
            made
        }
    };
}

impl Metrics {
    /// A registry with the metrics of the process and `saltway_build_info`.
    pub fn new(program: &str, version: &str) -> Self {
        let metrics = Self {
            registry: Registry::new(),
        };
        let labels: [Label<'_>; 2] = [("program", &[program]), ("version", &[version])];
        let info = "Which program and version this is; always 1";
        let build = metrics.gauges("saltway_build_info", info, &labels);
        build.with_label_values(&[program, version]).set(1);
        metrics.add(process::ProcessCollector::new());
        metrics
    }

    metric!(
        /// Counts things.
        counter, IntCounter, counters, IntCounterVec
    );
    metric!(
        /// Counts what is not whole, as seconds.
        float_counter, Counter, float_counters, CounterVec
    );
    metric!(
        /// Tells a whole number that goes up and down.
        gauge, IntGauge, gauges, IntGaugeVec
    );
    metric!(
        /// Tells a number that goes up and down.
        float_gauge, Gauge, float_gauges, GaugeVec
    );

    /// Counts values by size; `bounds` ascend, as [`LATENCY_SECONDS`].
    pub fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        self.register(Histogram::with_opts(opts))
    }

    /// As [`Self::histogram`], one for each combination of the labels' values.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
        labels: &[Label<'_>],
    ) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let made = self.register(HistogramVec::new(opts, &names(labels)));
        for values in combinations(labels) {
            made.with_label_values(&values);
        }
        made
    }

    /// Adds a collector that makes its values when asked.
    pub fn add(&self, collector: impl Collector + 'static) {
        self.registry
            .register(Box::new(collector))
            .expect("a metric is registered once, under a name that Prometheus takes");
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be written, which its type forbids.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn register<M: Collector + Clone + 'static>(&self, made: Result<M, prometheus::Error>) -> M {
        let metric = made.expect("a metric has a name and labels that Prometheus takes");
        self.add(metric.clone());
        metric
    }
}

fn names<'a>(labels: &[Label<'a>]) -> Vec<&'a str> {
    labels.iter().map(|(name, _)| *name).collect()
}

/// Every combination of the labels' values.
fn combinations<'a>(labels: &[Label<'a>]) -> Vec<Vec<&'a str>> {
    labels.iter().fold(vec![Vec::new()], |made, (_, values)| {
        let with = |before: &Vec<&'a str>, value: &&'a str| {
            before.iter().copied().chain([*value]).collect::<Vec<_>>()
        };
        made.iter()
            .flat_map(|before| values.iter().map(move |value| with(before, value)))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_stands_at_zero_from_the_start() {
        let metrics = Metrics::new("saltway-test", "1.2.3");
        let labels: [Label<'_>; 2] = [("hop", &["bridge", "shim"]), ("result", &["ok", "lost"])];
        let counted = metrics.counters("saltway_things_total", "Things", &labels);
        counted.with_label_values(&["shim", "ok"]).inc();
        let text = metrics.encode().unwrap();
        for line in [
            r#"saltway_things_total{hop="bridge",result="lost"} 0"#,
            r#"saltway_things_total{hop="shim",result="ok"} 1"#,
            r#"saltway_build_info{program="saltway-test",version="1.2.3"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("\nsaltway_things_total{").count(), 4);
    }

    #[test]
    fn histograms_have_their_buckets_for_each_label() {
        let metrics = Metrics::new("saltway-test", "1");
        let hops: [Label<'_>; 1] = [("hop", &["bridge", "shim"])];
        let took = metrics.histograms("saltway_took_seconds", "Took", &[0.1, 1.0], &hops);
        took.with_label_values(&["bridge"]).observe(0.5);
        let text = metrics.encode().unwrap();
        assert!(
            text.contains(r#"saltway_took_seconds_bucket{hop="bridge",le="1"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"saltway_took_seconds_count{hop="shim"} 0"#),
            "{text}"
        );
    }

    #[test]
    #[should_panic(expected = "registered once")]
    fn a_second_metric_of_a_name_is_refused() {
        let metrics = Metrics::new("saltway-test", "1");
        metrics.counter("saltway_things_total", "Things");
        metrics.counter("saltway_things_total", "Things");
    }
}
