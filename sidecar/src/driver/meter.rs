//! How much CPU time the core takes, estimated: only few of the times that it is asked something are measured, since
//! looking at the clock takes longer than much of what the core does.

use std::time::Duration;

use super::clock::thread_cpu;

/// One of so many is measured. A prime: what one call asks of the core comes in short rounds, and all of it counts.
const MEASURED_EVERY: u64 = 31;

/// CPU time of the core.
#[derive(Debug, Default)]
pub struct Meter {
    asked: u64,
    used: Duration,
}

impl Meter {
    /// Does something that the core does, and measures it now and then.
    pub fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.asked += 1;
        if !self.asked.is_multiple_of(MEASURED_EVERY) {
            return work();
        }
        let before = thread_cpu();
        let done = work();
        self.used += thread_cpu().saturating_sub(before);
        done
    }

    /// CPU time of all of it, µs, as far as the measured ones tell.
    pub fn micros(&self) -> u64 {
        let all = self.used * u32::try_from(MEASURED_EVERY).unwrap_or(u32::MAX);
        u64::try_from(all.as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_stands_for_all() {
        let mut meter = Meter::default();
        let mut done = 0;
        for _ in 1..MEASURED_EVERY {
            meter.run(|| done += 1);
        }
        assert_eq!(meter.micros(), 0, "none was measured yet");
        let least = Duration::from_millis(2);
        meter.run(|| {
            let begin = thread_cpu();
            while thread_cpu().saturating_sub(begin) < least {}
        });
        assert_eq!(done, MEASURED_EVERY - 1);
        let all = MEASURED_EVERY as u128 * least.as_micros();
        assert!(u128::from(meter.micros()) >= all, "{} < {all}", meter.micros());
    }
}
