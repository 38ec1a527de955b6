//! Which transitions of the machine were ever taken: counted for the simulator, and free of cost
//! elsewhere.
//!
//! What can be seen from outside (records, messages, notices, answers) is not here: the simulator
//! counts that in what it sees. A transition of its own gets a line here and an
//! [`Env::cover`](crate::env::Env::cover) where it is taken.

use std::fmt;

macro_rules! transitions {
    ($($name:ident = $text:literal,)*) => {
        /// A transition, or a path that is rare.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[allow(missing_docs)] // Their texts say what they are.
        pub enum Transition {
            $($name,)*
        }

        /// What each transition is, in order.
        pub const TRANSITIONS: &[&str] = &[$($text,)*];
    };
}

transitions! {
    // Events on their way into topics.
    GatePublish = "gate: events may be sent to their topic",
    PublishLearns = "publishing: asks a topic what has landed",
    PublishSends = "publishing: events are sent",
    PublishWindow = "publishing: more events than a window takes",
    PublishMore = "publishing: events have waited for the answer of others",
    PublishLanded = "publishing: a topic has learned of nothing new",
    PublishFound = "publishing: a new reign finds events of an old one in the topic",
    PublishShort = "publishing: a topic has taken nothing of what was sent",
    PublishStale = "publishing: an answer comes too late",
    PublishUnanswered = "publishing: nobody answers",
    PublishUnavailable = "publishing: nobody can answer",
    PublishReleased = "publishing: an answer comes after the release",
    PublishSettled = "publishing: events are settled",
    PublishGone = "publishing: the topic is gone, and what is owed is lost",
    PublishGoneWaits = "publishing: the topic is gone, and something of it is not committed",
    PublishRefused = "publishing: a turn publishes to a topic that is gone",
    PublishRestored = "publishing: a reign begins with events that are owed",
    PublishLooks = "publishing: a channel that nothing is owed on is looked after",
    DeadLetterTopic = "publishing: an event goes to its dead-letter topic",
    BuryWaits = "publishing: a delivery waits, because its topic for dead letters is away",
    DeadLetterStep = "publishing: the event of a chain's later step goes there",
    EventCarried = "publishing: a tail call carries its event along",
    // Stages of a partition.
    OffReading = "stage: off → reading",
    ReadingOff = "stage: reading → off",
    ReadingClaiming = "stage: reading → claiming",
    ClaimingServing = "stage: claiming → serving",
    ClaimVoid = "stage: claiming → reading: the claim is void",
    ClaimNotFound = "stage: claiming → reading: the log broke off, and the claim is not in it",
    ClaimTimedOut = "stage: claiming → reading: the claim was not read back in time",
    ServingReading = "stage: serving → reading",
    ServingOff = "stage: serving → off",
    // Claims and reading.
    ClaimImpatient = "claim: of a live owner that does not release in time",
    ClaimOwnAgain = "claim: after an own reign that ended in disorder",
    ClaimToRelease = "claim: only to release in order",
    LostClaiming = "log: broke off while a claim was under way",
    LostIdle = "log: broke off with nothing in flight, the reign goes on",
    OwnReadLater = "log: an append of an earlier reign is read back",
    OwnReadAnew = "log: a record in flight is read back by a new reading",
    OwnStale = "log: an own record of an earlier reign, while serving",
    BarrierAfterPause = "log: read to the end after a pause",
    BarrierClaiming = "log: a pause while a claim was under way",
    BarrierPassed = "log: the end was read, turns may start",
    OpenKept = "channel: opened before its partition serves",
    OpenRefused = "channel: opened in vain, the partition goes elsewhere",
    // Hand-over.
    HandOver = "hand-over: begun",
    HandOverEnded = "hand-over: wanted here again",
    HandOverCancel = "hand-over: took too long, a turn is cancelled",
    HandOverOver = "hand-over: a turn has nobody to acknowledge its cancellation",
    HandOverGrace = "hand-over: waits for the grace",
    HandOverHeld = "hand-over: calls held back are logged",
    HandOverRan = "hand-over: an attempt that may have run is logged",
    HandOverRootBack = "hand-over: a root that was let in goes back to the queue",
    HandOverNested = "hand-over: a nested call passes roots",
    HandOverLeft = "hand-over: a nested call is left to the next owner",
    ReleasedWanted = "hand-over: released, and wanted again meanwhile",
    // Restored from the log.
    RestoreRan = "restore: an attempt that may have run",
    RestoreUnmarked = "restore: it may have run, and still expires",
    RestoreCleared = "restore: an attempt that was logged and never ran",
    RestorePaused = "restore: a retry backs off",
    RestoreHolds = "restore: a flow that has flushed holds its actor",
    RestoreOwed = "restore: obligations are sent again",
    // Invocations.
    CancelHeld = "item: cancelled in the grace, it ends behind it",
    StartMarked = "item: its start is logged, because it has a deadline",
    QueuedRunning = "item: queued → running",
    QueuedWaitSlot = "item: queued → waits for a slot",
    QueuedWaitChildren = "item: queued → waits for calls of earlier attempts",
    QueuedWaitAttempt = "item: queued → waits for its attempt to be committed",
    QueuedWaitStrict = "item: queued → waits for commits without speculation",
    QueuedEnd = "item: queued → expired",
    WaitSlotQueued = "item: waits for a slot → queued: granted",
    WaitSlotLost = "item: waits for a slot → queued: the host is gone",
    WaitSlotEnd = "item: waits for a slot → expired",
    WaitCommitQueued = "item: waits for a commit → queued",
    RunningEnd = "item: running → ended",
    RunningQueued = "item: running → queued: the attempt failed",
    ReturnedWaits = "item: returned, calls of it are under way",
    ReturnedPastCalls = "item: returned, ends with its last call",
    ReturnedBehind = "item: returned, operations of it wait",
    AttemptFresh = "item: a retry's acceptance is logged with its attempt",
    RetryPaused = "item: a retry backs off",
    // Chains of tail calls.
    TailKept = "tail: to the same actor, which stays locked",
    TailStays = "tail: to the same partition",
    TailFollows = "tail: to the same partition, behind what was sent before",
    TailMoved = "tail: leaves its home (item: running → moved)",
    TailPassed = "tail: leaves a partition that is not its home",
    TailHome = "tail: an outcome goes home",
    TailOutcome = "tail: an outcome comes home (item: moved → ended)",
    TailOutcomeAgain = "tail: an outcome comes home to nobody",
    TailBack = "tail: comes back to its home (item: moved → queued)",
    TailRefused = "tail: keeps a lock that it does not have",
    TailKindWaits = "tail: waits for a kind",
    RestoreMoved = "restore: a chain that has moved",
    // Actors.
    EnterQueue = "actor: queued",
    EnterInner = "actor: a call of the flow that holds it passes the queue",
    LetInInner = "actor: a call of the flow is let in",
    LetInParked = "actor: a call of the flow of a parked one is let in",
    InnerLeft = "actor: calls of a flow that has ended queue up first",
    QueueToInner = "actor: queued calls of a flow that holds it again pass the queue",
    AheadMax = "actor: as far ahead of the log as allowed",
    // Idempotency keys.
    KeyAgain = "key: a root is sent again",
    KeysForgotten = "key: its time is over",
    KeyOutcomesDropped = "key: outcomes are dropped beyond their bound",
    // Flows that wait for each other.
    ProbeBegins = "probe: from a call that waits",
    ProbeMoved = "probe: follows a chain of tail calls",
    ProbeFanout = "probe: of many calls some are followed",
    ProbeFound = "probe: a circle is found",
    ProbeStale = "probe: what was found is no more so",
    // Calls that nobody waits for any more.
    WithdrawAsked = "withdraw: the calls of an attempt that is over are asked for",
    WithdrawnQueued = "withdraw: item: queued → ended",
    WithdrawLate = "withdraw: it has started",
    // Turns of shared methods.
    ShareJoin = "shared: a turn joins those that hold the actor",
    ShareInner = "shared: a call of a flow joins those that hold the actor",
    ShareRefused = "shared: an exclusive call of a flow that holds the actor with others",
    ShareLate = "shared: a turn that was let in alone turns out to be shared",
    ShareBack = "shared: a root that was let in goes back to the queue",
    // Turns that wait outside.
    TurnCovered = "turn: an operation waits below a call that re-entered",
    TurnUncovered = "turn: goes on after that call",
    TurnKindWaits = "turn: an operation waits for a kind",
    TurnQueues = "turn: an operation waits behind another one",
    RootKindWaits = "root: waits for a kind",
    // The gate.
    CutLong = "gate: a long decision gets a record of its own",
    CutFull = "gate: a record is full",
    FlushWaits = "gate: too many records in flight",
    GateSend = "gate: a message",
    GateAccepted = "gate: an acceptance",
    GateAcceptedMore = "gate: more acceptances in one message",
    GateOut = "gate: an obligation",
    GateClosed = "gate: a closing",
    GateFlushed = "gate: a flush",
    GateStart = "gate: a start",
    GateCaught = "gate: an actor's end",
    GateReleased = "gate: a release",
    LogHeldRoots = "gate: held roots are logged alone",
    LogFloor = "gate: closings below a floor ride along",
    LogStated = "gate: stated closings are logged",
    LogSettled = "gate: settled lazily",
    // Channels in.
    StatedOlder = "channel: a statement of an older reign",
    StatedKept = "channel: a statement is answered by a kept outcome",
    StatedCut = "channel: a statement is answered in part",
    AttachGone = "channel: a retired number is asked for",
    AttachKept = "channel: a kept outcome is asked for",
    AttachWaits = "channel: an unfinished number is asked for",
    AttachOlder = "channel: an older sender does not replace the reply address",
    AttachWithheld = "channel: a withheld tell is asked for",
    RequestReleased = "channel: a request after the release",
    RequestEpoch = "channel: a request for another reign",
    RequestJumps = "channel: a request after closed numbers",
    RequestGap = "channel: a request after a gap",
    Withheld = "channel: a tell is taken and not reported",
    WithheldTold = "channel: a withheld tell is reported at its end",
    HeldBelow = "channel: held calls are logged with a higher one",
    // Channels out.
    ReplyRunning = "reply: to a turn that runs",
    ReplyChildren = "reply: to a retry that waits for it (item: waits for calls → queued)",
    ReplyEarly = "reply: before the retry looks for it",
    ReplyOrphan = "reply: its caller has ended",
    ReplyAgain = "reply: once more",
    ReplyReleased = "reply: after the release",
    GoneTell = "gone: a tell that was accepted",
    GoneDoubted = "gone: an open call, the log is asked",
    DoubtSettled = "gone: the log has settled it",
    RouteHop = "route: refused, and sent on at once",
    RouteWaits = "route: refused twice, waits",
    RouteLost = "route: its node is lost",
    RouteResumes = "route: asks for the rest of the outcomes",
    RouteFull = "route: the window is full",
    RouteStates = "route: states anew by the timer",
    RouteGap = "route: opened again after a gap",
    RouteInbox = "route: takes the inbox",
    RouteRunAgain = "route: begins in the inbox anew",
    RouteInboxOwner = "route: stated in the inbox for another owner",
    RouteBack = "route: from the inbox to a peer",
    RootPromised = "root: durable in the inbox",
    // Subscriptions.
    RouteKnown = "route: asks what became of a number that its receiver knows",
    GateDeliver = "gate: a subscription is committed, or goes on",
    SubscriptionAgain = "subscription: there is the same one",
    SubscriptionDiffers = "subscription: there is one with other settings",
    SubscriptionUnknown = "subscription: there is none to be changed",
    SubscriptionRemoved = "subscription: ends with its actor",
    FenceCloses = "subscription: a receiver closes channels of those that are over",
    ReadFull = "delivery: enough is under way",
    ReadCrowded = "delivery: enough is under way for others, read one by one",
    TakeCrowded = "delivery: others were faster, the rest is read again",
    FetchLate = "delivery: an answer of a topic that nobody waits for",
    FetchHeld = "delivery: events came that may not be delivered now",
    FetchUnavailable = "delivery: a topic cannot be read",
    FetchUnreadable = "delivery: an event is not understood",
    FetchStopped = "delivery: a read is not wanted any more",
    TopicGone = "delivery: a topic is gone",
    EventsSkipped = "delivery: events are gone",
    EventPassed = "delivery: an event is passed over",
    EventUndeliverable = "delivery: an event names no instance",
    FloorLogged = "delivery: the floor is logged",
    DeliveryWaits = "delivery: is taken, and told when it has ended",
    // Inboxes.
    InboxOpen = "inbox: a statement is taken",
    InboxRequest = "inbox: a request is taken",
    InboxDeparted = "inbox: an entry of a node that is gone",
    InboxMark = "inbox: a mark closes a channel",
    InboxMarked = "inbox: a mark closes the own channel",
    InboxTaken = "inbox: what was taken is logged",
    InboxTrims = "inbox: is trimmed",
    InboxLost = "inbox: broke off",
    InboxOwnLate = "inbox: an append comes late",
    NodeInbox = "inbox: a message to a node",
    NodeInboxLost = "inbox: the way to a node broke off",
    NodeInboxTrimmed = "inbox: the own one was trimmed while it was read",
    DirectUnanswered = "direct: no answer through an inbox",
    ViewAgain = "view: a node is asked again",
    GateTaken = "gate: the inbox was taken",
    // Reminders.
    RemindersPaused = "reminder: due, and its actor's queue is full",
    RemindersResumed = "reminder: its actor's queue has room again",
    RemindersFull = "reminder: due, and the partition is full",
    RemindersFlight = "reminder: due, and too many records are in flight",
    RemindersMore = "reminder: more are due than one record takes",
    FiringDropQueued = "reminder: a firing is dropped (item: queued → gone)",
    FiringDropSlot = "reminder: a firing is dropped (item: waits for a slot → gone)",
    FiringDropCommit = "reminder: a firing is dropped (item: waits for a commit → gone)",
    RemindersHeld = "reminder: due, and without a host its last firing waits",
    RemindersReleased = "reminder: due times that waited for a host go on",
    RemindersInTurn = "reminder: a turn lists what it has changed",
    // Actor life.
    Activated = "life: an actor's activation begins",
    ActivatedAbove = "life: an activation begins above a turn of an earlier one",
    PassiveSilent = "life: an idle actor becomes passive, and its host is not told",
    PassiveFull = "life: too many actors are awake",
    Deactivates = "life: an idle actor's host is to be told",
    Deactivated = "life: an idle actor's host has been told",
    DeactivationLogged = "life: what a deactivation did is logged",
    DeactivationLost = "life: a deactivation is lost, and forgotten",
    DeactivationMoot = "life: a deactivation finds no hook",
    Removed = "life: an actor is removed",
    // Storage.
    Replayed = "store: committed operations found in the log",
    CellSkips = "store: has part of what is replayed",
    Fenced = "store: fenced",
    FencedBehind = "store: behind at the fence",
    LoadBehind = "store: behind at a load",
    StoreAhead = "store: ahead of the log",
    FenceAgain = "store: fenced again after a refusal",
    RefusedNewer = "store: knows a newer reign",
    LoadNewer = "store: a load shows a newer reign",
    StoreReset = "store: was replaced, steps are made again",
    Loads = "store: an actor is loaded",
    LoadJoined = "store: a read joins a load",
    LoadOverlay = "store: a load lacks operations that are kept",
    WriteBehind = "store: a write follows another",
    // Snapshots.
    SnapshotAhead = "snapshot: taken while records are in flight",
    SnapshotWaits = "snapshot: waits for the store",
    SnapshotPutAgain = "snapshot: is stored again",
    SnapshotCheckFails = "snapshot: the store is not where it was",
    SnapshotNotPut = "snapshot: is not stored",
    Trims = "snapshot: the log is trimmed",
    GateSaved = "gate: a snapshot's last record",
    GateNamed = "gate: a snapshot is named",
    GateNotice = "gate: a notice",
    SnapshotBegins = "recovery: begins with a snapshot",
    SnapshotMissing = "recovery: a listed snapshot is gone",
    SnapshotDamaged = "recovery: a snapshot is damaged",
    SnapshotOrphan = "snapshot: one of an earlier reign that the log does not name goes",
    SnapshotUnnamed = "recovery: the log does not name the snapshot",
    SnapshotBeforeStore = "recovery: the store is behind the snapshot",
    SnapshotsAgain = "recovery: looks again after a rest",
    TrimmedReading = "recovery: the log was trimmed while it was read",
    // The host.
    HostGrace = "host: gone, its code may run on",
    HostGraceOver = "host: the grace is over",
    HostDeadLater = "host: known to be dead only later",
    HostAway = "host: does not come back",
    SlotPassed = "host: a slot is passed on",
    // Asks.
    Questions = "question: the log was read to its end, and it is answered",
    AwaitWaits = "await: waits for the end",
    AskAgain = "await: asked again",
    AskKind = "await: its kind is not known",
}

/// How often each transition was taken.
#[derive(Clone)]
#[cfg_attr(not(feature = "coverage"), derive(Default))]
pub(crate) struct Covered {
    #[cfg(feature = "coverage")]
    counts: [std::cell::Cell<u32>; TRANSITIONS.len()],
}

#[cfg(feature = "coverage")]
impl Default for Covered {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| std::cell::Cell::new(0)) }
    }
}

impl Covered {
    /// A transition was taken.
    #[inline]
    pub(crate) fn take(&self, transition: Transition) {
        #[cfg(feature = "coverage")]
        {
            let count = &self.counts[transition as usize];
            count.set(count.get().saturating_add(1));
        }
        let _ = transition;
    }

    /// How often each was taken, in the order of [`TRANSITIONS`].
    #[cfg(feature = "coverage")]
    pub(crate) fn counts(&self) -> impl Iterator<Item = u32> + use<'_> {
        self.counts.iter().map(std::cell::Cell::get)
    }
}

impl fmt::Debug for Covered {
    /// It is no part of what a node is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}
