//! What is measured, and what is promised (design section 15).

/// What one measurement calls, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// Names it.
    pub(crate) name: &'static str,
    /// What is called.
    pub(crate) target: Target,
    /// Calls under way at once.
    pub(crate) clients: usize,
    /// One call so often, ms; 0: as fast as answers come.
    pub(crate) every_ms: u64,
    /// The host runs only what is committed.
    pub(crate) strict: bool,
    /// What is promised.
    pub(crate) promises: &'static [Promise],
}

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Target {
    /// Actors, each client its own ones.
    Actors,
    /// One actor.
    HotActor,
    /// A service.
    Service,
    /// A service at most once.
    Direct,
    /// Nobody: an event is published, and durable.
    Publish,
    /// An actor, by an event that is delivered to it; it publishes another one with its turn, which comes back.
    Delivery,
    /// Many actors, by events that are published in batches while they are delivered.
    Stream,
}

/// A bound on one figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Promise {
    /// At most so many µs.
    P50(f64),
    /// At most so many µs.
    P99(f64),
    /// At least so many calls per second.
    Throughput(f64),
    /// At most so much CPU per call over all processes, µs.
    Cpu(f64),
    /// At most so much CPU per call in the owner's state machine, µs: what the core takes, as the owner's sidecar
    /// estimates it. What streams, conversions and system calls take is in the sum over all processes.
    MachineCpu(f64),
    /// At least so many calls per commit. (The design counts records, one a call; here a record carries what was
    /// decided together, so that calls are what can be compared.)
    Calls(f64),
    /// At most so many times three bare stream round trips, in a chain, of the same run.
    RoundTrips(f64),
}

use Promise::{Calls, Cpu, MachineCpu, P50, P99, RoundTrips, Throughput};

/// One without promises.
pub(crate) const fn scenario(name: &'static str, target: Target, clients: usize) -> Scenario {
    Scenario { name, target, clients, every_ms: 0, strict: false, promises: &[] }
}

impl Scenario {
    /// Everything that is measured.
    pub(crate) const ALL: &[Self] = &[
        Self {
            promises: &[P50(450.0), P99(1_000.0)],
            ..scenario("durable actor call, 1 client", Target::Actors, 1)
        },
        Self {
            promises: &[P50(1_300.0)],
            every_ms: 10,
            ..scenario("durable actor call, 1 every 10 ms", Target::Actors, 1)
        },
        Self {
            promises: &[Throughput(30_000.0), Cpu(30.0), MachineCpu(8.0), Calls(32.0)],
            ..scenario("durable actor call, 64 clients", Target::Actors, 64)
        },
        Self {
            promises: &[P50(450.0)],
            ..scenario("one hot actor, 1 client", Target::HotActor, 1)
        },
        Self {
            promises: &[Throughput(12_000.0)],
            ..scenario("one hot actor, 64 clients", Target::HotActor, 64)
        },
        Self {
            promises: &[P50(450.0), P99(1_000.0)],
            ..scenario("durable service call, 1 client", Target::Service, 1)
        },
        Self {
            promises: &[Throughput(30_000.0), Cpu(30.0)],
            ..scenario("durable service call, 64 clients", Target::Service, 64)
        },
        Self {
            promises: &[RoundTrips(1.3)],
            ..scenario("direct invoke, 1 client", Target::Direct, 1)
        },
        Self {
            promises: &[Throughput(60_000.0)],
            ..scenario("direct invoke, 64 clients", Target::Direct, 64)
        },
        scenario("publish, 1 client", Target::Publish, 1),
        Self {
            promises: &[Throughput(50_000.0)],
            ..scenario("publish, 64 clients", Target::Publish, 64)
        },
        Self {
            promises: &[Throughput(20_000.0)],
            ..scenario("events to actors, 8 publishers", Target::Stream, 8)
        },
        scenario("event to an actor and back, 1 client", Target::Delivery, 1),
        scenario("event to an actor and back, 64 clients", Target::Delivery, 64),
        Self {
            promises: &[Throughput(3_000.0)],
            strict: true,
            ..scenario("one hot actor, strict, 64 clients", Target::HotActor, 64)
        },
    ];

    /// Longest failover, ms.
    pub(crate) const FAILOVER_MS: f64 = 300.0;
    /// Greatest memory of an idle sidecar, KiB.
    pub(crate) const IDLE_SIDECAR_KIB: f64 = 15.0 * 1024.0;
    /// Greatest memory of an idle hub, KiB.
    pub(crate) const IDLE_HUB_KIB: f64 = 10.0 * 1024.0;
}
