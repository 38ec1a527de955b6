"""KAR for Python: services and actors that survive crashes.

    import kar

    class Greeter(kar.Service, name="greeter"):
        @kar.method
        async def hello(self, name: str) -> str:
            return f"Hello, {name}!"

    kar.run(Greeter())

and elsewhere

    async with kar.connect() as client:
        print(await client.service(Greeter).hello("Alan"))

Modules: `hosting` (services and actors as classes), `host` (running them), `client` and `calls`
(calling them), `context` (the turn), `actor_state`, `state`, `reminders`, `topics`, `events`, `consumer` and
`subscriptions` (publishing, following and being told), `operators` (what is unfinished, dead letters,
handing over), `codec` (payloads), `errors`, `limits`. `v1` is the contract with the sidecar, generated.
"""

from kar.actor_state import ActorState, CommittedSubMap, SubMap
from kar.calls import (
    ActorRef,
    CallOptions,
    Ref,
    ServiceOptions,
    Started,
    start,
    tail,
    tail_keeping_lock,
    tell,
)
from kar.client import Client, connect
from kar.codec import Payload
from kar.consumer import Consumer, Received
from kar.context import TurnContext, outside_turn, turn
from kar.errors import (
    ApplicationError,
    Cancelled,
    Closed,
    CodecError,
    ConditionFailed,
    ConnectError,
    ConsumerTakenOver,
    Deadlock,
    Error,
    Expired,
    HostError,
    IdempotencyKeyReused,
    KarError,
    LimitReached,
    NoHost,
    NotConfigured,
    NotInTurn,
    OutcomeUnknown,
    ProtocolError,
    Refused,
    Rejected,
    StepKeyReused,
    SubscriptionExists,
    TopicExists,
    TurnEnded,
    TurnSuperseded,
    Unavailable,
    UnknownInvocation,
    UnknownMethod,
    UnknownSubscription,
    UnknownTopic,
    Unreachable,
)
from kar.events import Event, EventFilter, NewEvent, Published
from kar.host import Host, run
from kar.hosting import Actor, Service, method
from kar.operators import (
    AttemptEnd,
    BusyActor,
    DeadLetter,
    InvocationTarget,
    InvocationView,
    LeftOut,
    Listing,
    Operator,
    SidecarInfo,
)
from kar.reminders import CatchUp, Cron, Reminder, Reminders
from kar.retry import RetryPolicy
from kar.state import ApplicationState, Delete, Page, Set, Versioned
from kar.subscriptions import (
    Delivery,
    Redriven,
    Subscribed,
    Subscription,
    SubscriptionProgress,
    Subscriptions,
    SubscriptionState,
    ToActor,
    ToActors,
    ToService,
)
from kar.topics import Topic, TopicConsumer, TopicDescription, TopicPartition, TopicSettings
from kar.topology import Topology, TopologyNode

__all__ = [
    "Actor",
    "ActorRef",
    "ActorState",
    "ApplicationError",
    "ApplicationState",
    "AttemptEnd",
    "BusyActor",
    "CallOptions",
    "Cancelled",
    "CatchUp",
    "Client",
    "Closed",
    "CodecError",
    "CommittedSubMap",
    "ConditionFailed",
    "ConnectError",
    "Consumer",
    "ConsumerTakenOver",
    "Cron",
    "DeadLetter",
    "Deadlock",
    "Delete",
    "Delivery",
    "Error",
    "Event",
    "EventFilter",
    "Expired",
    "Host",
    "HostError",
    "IdempotencyKeyReused",
    "InvocationTarget",
    "InvocationView",
    "KarError",
    "LeftOut",
    "LimitReached",
    "Listing",
    "NewEvent",
    "NoHost",
    "NotConfigured",
    "NotInTurn",
    "Operator",
    "OutcomeUnknown",
    "Page",
    "Payload",
    "ProtocolError",
    "Published",
    "Received",
    "Redriven",
    "Ref",
    "Refused",
    "Rejected",
    "Reminder",
    "Reminders",
    "RetryPolicy",
    "Service",
    "ServiceOptions",
    "Set",
    "SidecarInfo",
    "Started",
    "StepKeyReused",
    "SubMap",
    "Subscribed",
    "Subscription",
    "SubscriptionExists",
    "SubscriptionProgress",
    "SubscriptionState",
    "Subscriptions",
    "ToActor",
    "ToActors",
    "ToService",
    "Topic",
    "TopicConsumer",
    "TopicDescription",
    "TopicExists",
    "TopicPartition",
    "TopicSettings",
    "Topology",
    "TopologyNode",
    "TurnContext",
    "TurnEnded",
    "TurnSuperseded",
    "Unavailable",
    "UnknownInvocation",
    "UnknownMethod",
    "UnknownSubscription",
    "UnknownTopic",
    "Unreachable",
    "Versioned",
    "connect",
    "method",
    "outside_turn",
    "run",
    "start",
    "tail",
    "tail_keeping_lock",
    "tell",
    "turn",
]
