"""Retry policies: how errors are retried that a method marks retryable."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from google.protobuf import duration_pb2

from kar.v1 import common_pb2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How errors that a method marks retryable (`ApplicationError(…, retryable=True)`) are retried: with
    pauses that grow, up to a number of attempts; the last one's error is the outcome. Attempts that
    were lost with their hosts do not count. An actor stays with the invocation meanwhile: what was
    sent after it waits. What is not said here is as the sidecar does by default."""

    max_attempts: int
    """Attempts, the first one included."""
    initial_backoff: float | None = None
    """Pause before the second attempt, seconds; at least 0.001."""
    max_backoff: float | None = None
    """Longest pause, seconds."""
    multiplier: float = 0.0
    """Each pause is so many times as long as the one before, 1 to 100."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")

    @classmethod
    def read(cls, source: common_pb2.RetryPolicy) -> RetryPolicy:
        """From the wire."""
        first, longest = source.initial_backoff, source.max_backoff
        return cls(
            max_attempts=source.max_attempts,
            initial_backoff=_seconds(first) if source.HasField("initial_backoff") else None,
            max_backoff=_seconds(longest) if source.HasField("max_backoff") else None,
            multiplier=source.multiplier,
        )

    def write(self, target: common_pb2.RetryPolicy) -> None:
        """For the wire."""
        target.max_attempts = self.max_attempts
        if self.initial_backoff is not None:
            target.initial_backoff.FromTimedelta(timedelta(seconds=self.initial_backoff))
        if self.max_backoff is not None:
            target.max_backoff.FromTimedelta(timedelta(seconds=self.max_backoff))
        target.multiplier = self.multiplier


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.ToTimedelta().total_seconds()
