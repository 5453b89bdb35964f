//! Benchmarks: one program per question, each prints a table beside a peer that ran in the same run.
//!
//! Machines are noisy, so what counts are ratios between rows of one table, and medians.

use std::time::Duration;

pub mod minions;

/// Durations of one kind, to be summed up.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Takes one more.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The nearest-rank percentile, 0 to 100; zero without samples.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

/// A row of a table; columns are separated by two blanks, the first is flush left.
#[expect(clippy::print_stdout, reason = "a benchmark prints its table")]
pub fn print_table(title: &str, rows: &[Vec<String>]) {
    println!("\n{title}");
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padded = if column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("  {cell:>width$}")
            };
            line.push_str(&padded);
        }
        println!("  {}", line.trim_end());
    }
}

/// `0.123 s`
#[must_use]
pub fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

/// `1.85x`
#[must_use]
pub fn ratio(duration: Duration, peer: Duration) -> String {
    format!(
        "{:.2}x",
        duration.as_secs_f64() / peer.as_secs_f64().max(f64::EPSILON)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut samples = Samples::default();
        for millis in [30, 10, 20, 40] {
            samples.push(Duration::from_millis(millis));
        }
        assert_eq!(samples.percentile(50), Duration::from_millis(20));
        assert_eq!(samples.percentile(99), Duration::from_millis(40));
        assert_eq!(Samples::default().percentile(50), Duration::ZERO);
    }
}
