//! What is due in an explored world, by the route that it is on: whatever comes first on a route may happen next.

use std::collections::{BTreeMap, VecDeque};

use kar_core::event::Event;

use crate::explore::print::Print;
use crate::plan::{MS, Us};
use crate::world::{Due, Input};

/// A FIFO route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Lane {
    /// A component's requests and results, on their way to its sidecar.
    FromApp { slot: usize },
    /// Code of a turn: 0 it goes on, 1 a branch of it does something, 2 it stops.
    Run { run: usize, what: u8 },
    /// One direction of a connection.
    Net { from: usize, to: usize },
    /// Appends of one node to one log.
    Append { slot: usize, inst: u64, log: usize },
    /// What a node reads of a log.
    Read { slot: usize, log: usize },
    /// What a node asks of the logs.
    AskLogs { slot: usize },
    /// What a node asks of the store.
    AskStore { slot: usize, inst: u64 },
    /// What the store answers it.
    Store { slot: usize },
    /// What a node hears of the membership.
    Members { slot: usize },
    /// What a node says of itself there.
    Offer { node: u64 },
    /// The membership finds that a node is gone.
    Expiry { node: u64 },
    /// A kind becomes known.
    Registry,
    /// A client makes its request.
    Client { index: usize },
    /// What a node asks about snapshots.
    AskSnapshots { slot: usize, inst: u64 },
    /// What it is answered.
    Snapshots { slot: usize },
    /// What it trims.
    Trim { slot: usize, inst: u64 },
    /// Appends of one node to one inbox, by a hash of its name.
    InboxAppend { slot: usize, inst: u64, inbox: u64 },
    /// What a node reads of an inbox.
    InboxRead { slot: usize, inbox: u64 },
    /// What a node asks of topics.
    AskTopics { slot: usize, inst: u64 },
    /// What topics answer it.
    Topics { slot: usize },
    /// An append that is later than those that followed it.
    Late { number: u8 },
}

/// How something that is due waits.
enum Place {
    /// It happens with what caused it.
    AtOnce,
    On(Lane),
    /// It takes longer than anything on a route.
    Later,
    /// Its time is known otherwise.
    Nowhere,
}

/// What is due.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    /// While there is something here, no time passes.
    pub(crate) lanes: BTreeMap<Lane, VecDeque<Due>>,
    /// Nobody waits for these: they may happen at any time, or never.
    pub(crate) loose: BTreeMap<Lane, VecDeque<Due>>,
    pub(crate) at_once: VecDeque<Due>,
    pub(crate) later: Vec<(Us, Due)>,
    /// The store answers at once.
    pub(crate) quick_store: bool,
    /// Snapshots are stored and found at once.
    pub(crate) quick_snapshots: bool,
    /// What is put into inboxes is there at once, and read at once.
    pub(crate) quick_inboxes: bool,
    /// Appends that were made late so far.
    pub(crate) late: u8,
}

impl Pending {
    /// Puts something where it waits.
    pub(crate) fn push(&mut self, now: Us, at: Us, due: Due) {
        match self.place(now, at, &due) {
            Place::AtOnce => self.at_once.push_back(due),
            Place::On(lane) => self.lanes.entry(lane).or_default().push_back(due),
            Place::Later => self.later.push((at, due)),
            Place::Nowhere => {}
        }
    }

    /// Takes the first of a route.
    pub(crate) fn take(&mut self, lane: Lane) -> Option<Due> {
        for lanes in [&mut self.lanes, &mut self.loose] {
            if let Some(queue) = lanes.get_mut(&lane) {
                let due = queue.pop_front();
                if queue.is_empty() {
                    lanes.remove(&lane);
                }
                return due;
            }
        }
        None
    }

    /// The first append of a route will arrive later than those behind it, or never.
    pub(crate) fn make_late(&mut self, lane: Lane) {
        if let Some(due) = self.take(lane) {
            self.late += 1;
            self.loose.insert(Lane::Late { number: self.late }, VecDeque::from([due]));
        }
    }

    /// Drops what is stale, and lets go of what nobody waits for.
    pub(crate) fn review(&mut self, fate: impl Fn(&Due) -> Fate) {
        let loose = &mut self.loose;
        self.lanes.retain(|lane, queue| {
            queue.retain(|due| match fate(due) {
                Fate::Counts => true,
                Fate::Loose => {
                    loose.entry(*lane).or_default().push_back(due.clone());
                    false
                }
                Fate::Stale => false,
            });
            !queue.is_empty()
        });
        self.at_once.retain(|due| !matches!(fate(due), Fate::Stale));
        self.later.retain(|(_, due)| !matches!(fate(due), Fate::Stale));
    }

    fn place(&self, now: Us, at: Us, due: &Due) -> Place {
        let soon = at <= now + MS;
        let lane = match due {
            // A step of code takes no time; what thinks in between is chosen.
            Due::App { .. } | Due::InboxTrim { .. } => return Place::AtOnce,
            Due::Step { .. } | Due::Connect { .. } | Due::AppUp { .. } if soon => {
                return Place::AtOnce;
            }
            Due::Store { .. } if self.quick_store => return Place::AtOnce,
            Due::Snapshot { .. } | Due::Trim { .. } if self.quick_snapshots => {
                return Place::AtOnce;
            }
            Due::InboxLand(_) | Due::InboxServe { .. } if self.quick_inboxes => {
                return Place::AtOnce;
            }
            Due::Input { slot, input, .. } => return self.input(*slot, input),
            Due::Step { run } => Lane::Run { run: *run, what: 0 },
            Due::Beside { run, .. } => Lane::Run { run: *run, what: 1 },
            Due::StopRun { run } => Lane::Run { run: *run, what: 2 },
            Due::Land(l) => Lane::Append { slot: l.slot, inst: l.inst, log: l.log },
            Due::InboxLand(l) => {
                Lane::InboxAppend { slot: l.slot, inst: l.inst, inbox: Print::of(&l.inbox) }
            }
            Due::Serve { slot, .. } | Due::InboxServe { slot, .. } => Lane::AskLogs { slot: *slot },
            Due::Offered { node, .. } => Lane::Offer { node: node.0 },
            Due::Store { slot, inst, .. } => Lane::AskStore { slot: *slot, inst: *inst },
            Due::Topic { landing, .. } => {
                Lane::AskTopics { slot: landing.slot, inst: landing.inst }
            }
            Due::Snapshot { slot, inst, .. } => Lane::AskSnapshots { slot: *slot, inst: *inst },
            Due::Trim { slot, inst, .. } => Lane::Trim { slot: *slot, inst: *inst },
            Due::Client(index) => Lane::Client { index: *index },
            Due::Unregister { node } => Lane::Expiry { node: node.0 },
            Due::Register { .. } => Lane::Registry,
            _ => return Place::Later,
        };
        Place::On(lane)
    }

    fn input(&self, slot: usize, input: &Input) -> Place {
        Place::On(match input {
            // Nodes say themselves when they want to look at the clock.
            Input::Tick => return Place::Nowhere,
            Input::Inbox { .. } if self.quick_inboxes => return Place::AtOnce,
            Input::Inbox { inbox, .. } => Lane::InboxRead { slot, inbox: Print::of(inbox) },
            Input::Log { log, .. } => Lane::Read { slot, log: *log },
            Input::PeerUp { other, .. } | Input::Peer { other, .. } => {
                Lane::Net { from: *other, to: slot }
            }
            Input::Ask { .. } | Input::Result { .. } => Lane::FromApp { slot },
            Input::Event(event) => match event {
                Event::Members(_) => Lane::Members { slot },
                Event::StoreCell { .. }
                | Event::ActorLoaded { .. }
                | Event::StoreFenced { .. }
                | Event::StoreWritten { .. }
                | Event::StoreRefused { .. } => {
                    if self.quick_store {
                        return Place::AtOnce;
                    }
                    Lane::Store { slot }
                }
                Event::SnapshotPut { .. }
                | Event::SnapshotGot { .. }
                | Event::SnapshotDeleted { .. }
                | Event::SnapshotsListed { .. } => {
                    if self.quick_snapshots {
                        return Place::AtOnce;
                    }
                    Lane::Snapshots { slot }
                }
                Event::Published { .. } => Lane::Topics { slot },
                // What breaks off is known at once.
                Event::PeerDown { .. }
                | Event::LogLost { .. }
                | Event::Lease { .. }
                | Event::StoreReset
                | Event::Drain => return Place::AtOnce,
                _ => Lane::FromApp { slot },
            },
        })
    }
}

/// What has become of something that is due.
pub(crate) enum Fate {
    Counts,
    /// Who sent it is no more; it may arrive all the same.
    Loose,
    /// Whom or what it concerned is no more.
    Stale,
}
