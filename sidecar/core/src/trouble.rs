//! What went wrong with an invocation so far: how its attempts ended that did not end it, and what that means for the
//! next one. Stored with the attempts (`Op::Attempt`), so that counts, pauses and causes survive a take-over.

use std::sync::Arc;

use crate::ids::Millis;
use crate::invocation::{ApplicationError, RetryPolicy};
use crate::limits::TIME_MAX_MS;

/// Longest text of an error that is stored with an attempt, bytes: enough for a name and a line.
pub const LAST_ERROR_BYTES_MAX: usize = 512;

/// Why an attempt ended without ending its invocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// The host's process or stream, or its whole node, was lost. Only these count for parking.
    HostLost,
    /// The reign ended in disorder, and its host may well have lived; or its node was lost, and nothing tells that it
    /// had begun.
    ReignLost,
    /// It was told to stop because its partition is handed over.
    HandOver,
    /// The application returned an error that it marked retryable, and the policy asks for another attempt.
    ApplicationError,
    /// The application stopped it without having been told to.
    Stopped,
}

/// How an attempt ended that did not end its invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Why.
    pub cause: Cause,
    /// The next attempt starts at this time at the earliest, by the partition's clock; 0: at once.
    pub not_before: Millis,
    /// For people; at most [`LAST_ERROR_BYTES_MAX`] bytes.
    pub error: Arc<str>,
}

/// What went wrong so far in the current step of an invocation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble {
    /// Attempts that ended with a retryable error.
    pub(crate) failures: u32,
    /// Attempts lost with their hosts since it was last taken up again by hand.
    pub(crate) losses: u32,
    /// The last attempt that ended so, and how.
    pub(crate) last: Option<(u32, Ended)>,
}

impl Trouble {
    /// An attempt ended; it counts once, however often that is stored.
    pub(crate) fn note(&mut self, attempt: u32, ended: &Ended) {
        if self.last.as_ref().is_none_or(|(counted, _)| *counted != attempt) {
            match ended.cause {
                Cause::ApplicationError => self.failures += 1,
                Cause::HostLost => self.losses += 1,
                Cause::ReignLost | Cause::HandOver | Cause::Stopped => {}
            }
        }
        self.last = Some((attempt, ended.clone()));
    }

    /// How an attempt ended, if that is stored.
    pub(crate) fn of(&self, attempt: u32) -> Option<&Ended> {
        self.last.as_ref().filter(|(known, _)| *known == attempt).map(|(_, ended)| ended)
    }
}

impl Ended {
    pub(crate) fn new(cause: Cause, not_before: Millis, error: &str) -> Self {
        let mut end = error.len().min(LAST_ERROR_BYTES_MAX);
        while !error.is_char_boundary(end) {
            end -= 1;
        }
        Self { cause, not_before, error: error[..end].into() }
    }

    /// How an attempt ended with an error that is to be tried again.
    pub(crate) fn with_error(error: &ApplicationError, not_before: Millis) -> Self {
        let text = match (&*error.code, &*error.message) {
            ("", message) => message.to_owned(),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {message}"),
        };
        Self::new(Cause::ApplicationError, not_before, &text)
    }
}

impl RetryPolicy {
    /// How long the next attempt waits after so many retryable errors, the one just returned included; `None`: it is
    /// the last one, and the outcome.
    pub(crate) fn pause(&self, failures: u32) -> Option<Millis> {
        if failures >= self.attempts_max {
            return None;
        }
        let mut pause = self.initial_ms.min(self.max_ms);
        for _ in 1..failures {
            if pause >= self.max_ms {
                break;
            }
            let next = pause.saturating_mul(self.multiplier_percent.into()) / 100;
            if next <= pause {
                // It does not grow.
                break;
            }
            pause = next.min(self.max_ms);
        }
        // Whoever calls chooses it.
        Some(pause.min(TIME_MAX_MS))
    }
}

/// How long the next attempt waits after so many that were lost, ms: what keeps failing, or keeps killing its host,
/// gives others time. 10 ms after the third one, doubling up to 10 s.
pub(crate) fn lost_pause(lost: u32) -> Option<Millis> {
    (lost >= 3).then(|| (10 << (lost - 3).min(10)).min(10_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { attempts_max: 5, initial_ms: 100, max_ms: 350, multiplier_percent: 200 };

    #[test]
    fn pauses_grow_up_to_the_bound_and_end_with_the_last_attempt() {
        let pauses: Vec<_> = (1..=5).map(|failures| POLICY.pause(failures)).collect();
        assert_eq!(pauses, [Some(100), Some(200), Some(350), Some(350), None]);
        let steady = RetryPolicy { multiplier_percent: 100, attempts_max: u32::MAX, ..POLICY };
        assert_eq!(steady.pause(u32::MAX - 1), Some(100));
        let once = RetryPolicy { attempts_max: 1, ..POLICY };
        assert_eq!(once.pause(1), None);
    }

    #[test]
    fn an_attempt_counts_once() {
        let mut trouble = Trouble::default();
        let ended = |cause| Ended::new(cause, 0, "");
        trouble.note(1, &ended(Cause::HostLost));
        trouble.note(1, &ended(Cause::HostLost));
        trouble.note(2, &ended(Cause::ApplicationError));
        trouble.note(3, &ended(Cause::HandOver));
        assert_eq!((trouble.losses, trouble.failures), (1, 1));
        assert!(trouble.of(3).is_some() && trouble.of(2).is_none());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let text = "ä".repeat(LAST_ERROR_BYTES_MAX);
        let ended = Ended::new(Cause::Stopped, 0, &text[..LAST_ERROR_BYTES_MAX]);
        assert_eq!(ended.error.len(), LAST_ERROR_BYTES_MAX);
        let odd = format!("x{text}");
        assert_eq!(Ended::new(Cause::Stopped, 0, &odd).error.len(), LAST_ERROR_BYTES_MAX - 1);
    }
}
