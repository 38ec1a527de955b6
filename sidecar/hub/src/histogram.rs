//! A small fixed histogram of durations.

use std::time::Duration;

/// Buckets per doubling; each is at most 19 % wide.
const STEPS: u64 = 4;
/// Doublings from one microsecond on: the last bucket holds everything above a minute.
const DOUBLINGS: u64 = 26;

/// Counts durations in buckets that grow geometrically from one microsecond.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    buckets: [u64; (STEPS * DOUBLINGS) as usize],
    count: u64,
}

// === impl Histogram ===

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; (STEPS * DOUBLINGS) as usize], count: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        let micros = duration.as_micros().max(1) as f64;
        let bucket = (micros.log2() * STEPS as f64) as usize;
        self.buckets[bucket.min(self.buckets.len() - 1)] += 1;
        self.count += 1;
    }

    /// The duration that the given part of all does not exceed; zero if there is none.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let mut left = (self.count as f64 * part).ceil() as u64;
        for (nth, &count) in self.buckets.iter().enumerate() {
            if count >= left && left > 0 {
                let micros = f64::exp2((nth + 1) as f64 / STEPS as f64);
                return Duration::from_nanos((micros * 1_000.0) as u64);
            }
            left -= count;
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        for micros in 1..=1_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (part, micros) in [(0.5, 500.0), (0.99, 990.0)] {
            let found = histogram.quantile(part).as_micros() as f64;
            assert!((micros..micros * 1.2).contains(&found), "{part}: {found}");
        }
    }
}
