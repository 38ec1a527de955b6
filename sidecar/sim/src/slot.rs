//! A place where nodes live one after the other, each with its app.

use std::collections::VecDeque;
use std::rc::Rc;

use kar_core::Node;
use kar_core::ids::{NodeId, Offset};

use crate::app::App;
use crate::history::Waiter;
use crate::plan::Us;
use crate::queue::Lane;
use crate::world::Input;

/// A place where nodes live one after the other, each with its app.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// Grows with every node; things meant for an older one are dropped.
    pub(crate) inst: u64,
    /// Incarnations by `inst`.
    pub(crate) ids: Vec<NodeId>,
    pub(crate) id: NodeId,
    /// Shared by worlds that the explorer branched off; whoever changes it has its own.
    pub(crate) node: Option<Rc<Node>>,
    /// The explorer's print of it, if it has not changed since.
    pub(crate) print: Option<u64>,
    pub(crate) app: App,
    pub(crate) paused: bool,
    pub(crate) backlog: VecDeque<Input>,
    pub(crate) tick_at: Option<Us>,
    pub(crate) drain_queued: bool,
    /// Claims read since the effects were last looked at.
    pub(crate) claims_read: Vec<(usize, Offset)>,
    /// Its lease was lost since then.
    pub(crate) lease_lost: bool,
    /// It was told to leave; it comes back so long after it has gone.
    pub(crate) leaves: Option<Us>,
    /// Who made the requests, by number.
    pub(crate) waiters: Vec<Waiter>,
    /// Appends issued.
    pub(crate) issue: u64,
    pub(crate) from_app: Lane,
    pub(crate) to_app: Lane,
    pub(crate) log_lane: Lane,
    pub(crate) members_lane: Lane,
    pub(crate) store_in: Lane,
    pub(crate) store_out: Lane,
}

impl Slot {
    pub(crate) fn empty() -> Self {
        Self {
            inst: 0,
            ids: vec![NodeId(0)],
            id: NodeId(0),
            node: None,
            print: None,
            app: App::default(),
            paused: false,
            backlog: VecDeque::new(),
            tick_at: None,
            drain_queued: false,
            claims_read: Vec::new(),
            lease_lost: false,
            leaves: None,
            waiters: Vec::new(),
            issue: 0,
            from_app: Lane::default(),
            to_app: Lane::default(),
            log_lane: Lane::default(),
            members_lane: Lane::default(),
            store_in: Lane::default(),
            store_out: Lane::default(),
        }
    }

    /// The node was told to leave, or its app is leaving.
    pub(crate) fn leaving(&self) -> bool {
        self.leaves.is_some() || self.app.leaving
    }

    pub(crate) fn occupy(&mut self, id: NodeId, node: Node) {
        self.inst += 1;
        self.ids.push(id);
        self.id = id;
        self.node = Some(Rc::new(node));
        self.print = None;
        self.paused = false;
        self.backlog.clear();
        self.tick_at = None;
        self.drain_queued = false;
        self.claims_read.clear();
        self.lease_lost = false;
        self.leaves = None;
        self.waiters.clear();
        self.issue = 0;
    }

    pub(crate) fn vacate(&mut self) {
        // Things under way are meant for a node that is no more; its number stays with it for the
        // history.
        self.inst += 1;
        self.ids.push(self.id);
        self.node = None;
        self.print = None;
        self.paused = false;
        self.backlog.clear();
        self.leaves = None;
    }
}
