//! Retry policies as components state them: what they leave out is the sidecar's default.

use kar_core::ids::Millis;
use kar_core::invocation::RetryPolicy;
use kar_core::limits::Limits;
use kar_proto::v1 as pb;
use tonic::Status;

use super::field::duration;
use crate::convert::error::invalid_field;

/// Steepest growth of pauses.
const MULTIPLIER_MAX: f64 = 100.0;

/// Parses a policy.
pub(super) fn retry_policy(
    field: &str,
    policy: &pb::RetryPolicy,
    limits: &Limits,
) -> Result<RetryPolicy, Status> {
    let pause = |name: &str, pause: &Option<prost_types::Duration>, default: Millis| {
        let pause = pause.as_ref().map(|d| duration(&format!("{field}.{name}"), d));
        pause.unwrap_or(Ok(default))
    };
    let attempts_max = match u32::try_from(policy.max_attempts) {
        Ok(0) => limits.retry_attempts_max,
        Ok(attempts) => attempts,
        Err(_) => {
            let field = format!("{field}.max_attempts");
            return Err(invalid_field(&field, "must not be negative"));
        }
    };
    let multiplier_percent = match policy.multiplier {
        0.0 => limits.retry_multiplier_percent,
        // In range, so that nothing is cut off.
        multiplier if (1.0..=MULTIPLIER_MAX).contains(&multiplier) => {
            (multiplier * 100.0).round() as u32
        }
        _ => return Err(invalid_field(&format!("{field}.multiplier"), "must be 1 to 100")),
    };
    let initial_ms = pause("initial_backoff", &policy.initial_backoff, limits.retry_initial_ms)?;
    let max_ms = pause("max_backoff", &policy.max_backoff, limits.retry_max_ms)?;
    if policy.initial_backoff.is_some() && policy.max_backoff.is_some() && initial_ms > max_ms {
        let field = format!("{field}.max_backoff");
        return Err(invalid_field(&field, "must not be shorter than initial_backoff"));
    }
    Ok(RetryPolicy { attempts_max, initial_ms, max_ms, multiplier_percent })
}

/// A policy for people and components.
pub(super) fn retry_policy_to(policy: &RetryPolicy) -> pb::RetryPolicy {
    let pause = |millis: Millis| prost_types::Duration {
        seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
        nanos: (millis % 1_000) as i32 * 1_000_000,
    };
    pb::RetryPolicy {
        max_attempts: i32::try_from(policy.attempts_max).unwrap_or(i32::MAX),
        initial_backoff: Some(pause(policy.initial_ms)),
        max_backoff: Some(pause(policy.max_ms)),
        multiplier: f64::from(policy.multiplier_percent) / 100.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(policy: pb::RetryPolicy) -> Result<RetryPolicy, Status> {
        retry_policy("p", &policy, &Limits::default())
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        let limits = Limits::default();
        let policy = parsed(pb::RetryPolicy { max_attempts: 4, ..Default::default() });
        let policy = policy.expect("accepted");
        assert_eq!(policy.attempts_max, 4);
        assert_eq!(policy.initial_ms, limits.retry_initial_ms);
        assert_eq!(policy.max_ms, limits.retry_max_ms);
        assert_eq!(policy.multiplier_percent, limits.retry_multiplier_percent);
    }

    #[test]
    fn wrong_fields_are_named() {
        let second = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        for (policy, field) in [
            (pb::RetryPolicy { max_attempts: -1, ..Default::default() }, "p.max_attempts"),
            (pb::RetryPolicy { multiplier: 0.5, ..Default::default() }, "p.multiplier"),
            (pb::RetryPolicy { multiplier: f64::NAN, ..Default::default() }, "p.multiplier"),
            (pb::RetryPolicy { multiplier: 101.0, ..Default::default() }, "p.multiplier"),
            (
                pb::RetryPolicy {
                    initial_backoff: second(2),
                    max_backoff: second(1),
                    ..Default::default()
                },
                "p.max_backoff",
            ),
        ] {
            let status = parsed(policy).expect_err(field);
            assert!(status.message().starts_with(field), "{}", status.message());
        }
    }
}
