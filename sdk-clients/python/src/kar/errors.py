"""What can go wrong: the application's own errors, and KAR's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from kar.codec import Payload


class Error(Exception):
    """Base of every error of this package."""


class ApplicationError(Error):
    """A method failed by the application's own will: a completion, which is not retried unasked.

    Raise it in a method to choose what the caller gets; any other exception becomes one whose code
    is the name of its class. The caller of the method gets it with the remote stack trace as text.
    """

    code: str
    """Short machine-readable name, for example `insufficient_funds`."""
    message: str
    """One line for people."""
    detail: str
    """Remote stack trace or other detail, as text; may be empty."""
    payload: Payload | None
    """Typed detail for the caller's program."""
    retryable: bool
    """Trying again may help: another attempt is made if the retry policy of the call, the method or the
    sidecar asks for it. A caller gets the last attempt's error."""

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        detail: str = "",
        payload: Payload | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(code, message)
        self.code, self.message, self.detail, self.payload = code, message, detail, payload
        self.retryable = retryable
        if detail:
            self.add_note(f"Remote detail:\n{detail}")

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class KarError(Error):
    """The sidecar, or this package in its place, did not carry a request out. Its class says which
    kind of cause; unless it is `OutcomeUnknown`, nothing was done."""

    code_name = "rejected"
    """Code of the application error that this becomes if a method lets it pass."""

    reason: str
    """Cause: a name of `kar.v1.ErrorReason` without its prefix; empty if none was named."""
    message: str
    """For people."""
    status: int
    """gRPC status code, by number."""
    metadata: dict[str, str]
    """What it is about: `field`, `limit`, `target`, …"""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        status: int = 2,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.reason, self.status = message, reason, status
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.reason else self.message


class OutcomeUnknown(KarError):
    """The connection to the sidecar broke, or the sidecar cannot tell: the request may or may not
    have been carried out. Ask the application, or ask again if twice is harmless."""

    code_name = "unknown"


class TurnSuperseded(KarError):
    """The turn that asked is not the current attempt any more. Its task is being cancelled; whatever
    it still does counts for nothing."""

    code_name = "superseded"


class TurnEnded(KarError):
    """The turn that asked has already returned its result: something of it outlived it."""

    code_name = "turn_ended"


class Expired(KarError):
    """The invocation did not start within the time given, and never will."""

    code_name = "expired"


class Cancelled(KarError):
    """Somebody asked for the invocation's end, and it has ended so; it will not run again."""

    code_name = "cancelled"


class LimitReached(KarError):
    """A named bound was hit. Send less at once, or raise it."""

    code_name = "limit"

    @property
    def limit(self) -> str:
        """Name of the bound, as in the documentation and the sidecar's flags."""
        return self.metadata.get("limit", self.reason)

    @property
    def value(self) -> str:
        """Its value; empty if unknown."""
        return self.metadata.get("value", "")

    @classmethod
    def of(cls, limit: str, value: int) -> LimitReached:
        """A bound of this package."""
        return cls(
            f"limit {limit} ({value}) reached",
            reason="LIMIT_REACHED",
            status=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0],
            metadata={"limit": limit, "value": str(value)},
        )


class NoHost(KarError):
    """A direct call found no live host."""

    code_name = "no_host"


class UnknownInvocation(KarError):
    """There is no such invocation, or its result is not kept any more."""

    code_name = "unknown_invocation"


class UnknownMethod(KarError):
    """The target's host does not have the method: the message names those it has."""

    code_name = "unknown_method"


class StepKeyReused(KarError):
    """The step key names another step of the method, or a call with it is under way: give each step a
    key of its own."""

    code_name = "step_key_reused"


class Deadlock(KarError):
    """Flows waited for each other's actors in a circle, and this call, the youngest one that waited, has ended: it
    never ran. Let the method fail, and try it again as a whole; or call actors in one order everywhere."""

    code_name = "deadlock"

    @property
    def cycle(self) -> str:
        """The actors, such as `Account/a -> Account/b -> Account/a`."""
        return self.metadata.get("cycle", "")


class IdempotencyKeyReused(KarError):
    """The idempotency key was used for another method or argument of the same target: each request needs a key of
    its own."""

    code_name = "idempotency_key_reused"


class ConditionFailed(KarError):
    """A condition (etag) did not hold; nothing was written."""

    code_name = "condition_failed"

    @property
    def key(self) -> str:
        """The key that it was on; of a transaction the first one."""
        return self.metadata.get("key", "")

    @property
    def etag(self) -> str:
        """The key's version now; `*`: there is no such key, which is just what `if_etag="*"` asks for."""
        return self.metadata.get("etag") or "*"


class UnknownTopic(KarError):
    """There is no such topic, or it was deleted: create it."""

    code_name = "unknown_topic"

    @property
    def topic(self) -> str:
        """Its name."""
        return self.metadata.get("topic", "")


class TopicExists(KarError):
    """There is a topic of that name with other settings: use those, or another name."""

    code_name = "topic_exists"

    @property
    def setting(self) -> str:
        """The first setting that differs."""
        return self.metadata.get("setting", "")


class ConsumerTakenOver(KarError):
    """Somebody else consumes under the consumer's name now, or it was forgotten: what was not acknowledged goes
    there."""

    code_name = "consumer_taken_over"


class SubscriptionExists(KarError):
    """There is a subscription of that name with other settings: use another name, or unsubscribe it first."""

    code_name = "subscription_exists"

    @property
    def setting(self) -> str:
        """The first setting that differs; empty if it could not be told."""
        return self.metadata.get("setting", "")


class UnknownSubscription(KarError):
    """There is no subscription of that name."""

    code_name = "unknown_subscription"


class Unavailable(KarError):
    """The sidecar or something behind it is away or leaving. Worth trying again later."""

    code_name = "unavailable"


class Rejected(KarError):
    """The sidecar refused the request for another reason."""


class Closed(KarError):
    """The client is closed, by itself or because its sidecar went away for good."""

    code_name = "closed"


class CodecError(Error):
    """An argument or a value could not be written (nothing was sent), or a result not be read."""


class NotInTurn(Error):
    """Something was asked for that only a running method can ask for."""


class ConnectError(Error):
    """The sidecar could not be reached."""


class NotConfigured(ConnectError):
    """The environment names no sidecar, or not properly."""


class Unreachable(ConnectError):
    """Nothing answers there."""


class Refused(ConnectError):
    """The sidecar ended the stream instead of welcoming the component; the cause says why."""

    def __init__(self, error: KarError) -> None:
        super().__init__(f"the sidecar refused the connection: {error}")
        self.error = error


class ProtocolError(ConnectError):
    """What answered does not speak this protocol."""


class HostError(Error):
    """What is to be hosted makes no sense, or the sidecar went away for good."""
