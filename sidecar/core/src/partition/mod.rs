//! One partition as this node sees it: follows its log, claims it, serves it, hands it over (rules L1–L6).
//!
//! ```text
//! Off      --(wanted)--> Reading, from the newest snapshot
//! Reading  --(at the end, nobody alive reigns)--> Claiming
//! Claiming --(own Claim read back, valid)--> Serving
//! Claiming --(own Claim void)--> Reading
//! Serving  --(own Release read back)--> Off | Reading
//! Serving  --(foreign Claim | record void, lost or too late | log lost with records in flight)--> Reading | Off
//! ```
//!
//! The parts of a reign: `succession` (how it begins and ends), `inbound` (requests and channels in), `inbox` (what
//! senders put there), `keyed` (roots that are sent again), `lock` (of an actor), `queue` (who is let in), `dispatch`
//! (what holds an invocation back), `turns` (what turns ask for), `steps` (what retries need not do again), `ending`
//! (how they end), `retry` (attempts that are followed by others), `cancel` (what people have done to invocations),
//! `dead` (dead letters), `deadlock` (flows that wait for each other), `withdraw` (calls that nobody waits for any
//! more), `tail` (how they go on), `outbound` (channels out, children), `storage` and `cached` (caches,
//! materialisation), `reads` and `questions` (from outside turns), `firing` and `reminders` (due times, and what
//! changes them), `subscriptions` and `delivery` (events of topics), `life` (actors that are awake, passive, removed),
//! `snapshots` (what stands for old records) and `recovery` (how a reading begins with it), `gate` (proposals and what
//! waits for them), `view` (for people).

mod cached;
mod cancel;
mod dead;
mod deadlock;
mod delivery;
mod dispatch;
mod ending;
mod firing;
mod gate;
mod inbound;
mod inbox;
mod keyed;
mod life;
mod lock;
mod outbound;
mod publish;
mod publisher;
mod questions;
mod queue;
mod reads;
mod recovery;
mod reign;
mod reminders;
mod retry;
mod snapshots;
mod spares;
mod steps;
mod storage;
mod subscriptions;
mod succession;
mod tail;
mod turns;
mod view;
mod withdraw;

use std::collections::{BTreeMap, BTreeSet};

use crate::cover::Transition;
use crate::effect::{Effect, Notice};
use crate::env::Env;
use crate::ids::{Epoch, Millis, NodeId, Offset, PartitionId, ProposalId, Sender, Uuid};
use crate::message::Message;
use crate::record::Record;
use crate::route::Opened;
use crate::snapshot::SnapshotKey;
use crate::state::{Admission, LogState};

pub(crate) use inbound::{Incoming, Stated};
pub(crate) use reign::{Reign, TurnEnd};
pub(crate) use reminders::answer_of;
pub(crate) use subscriptions::answer_to_command;
pub(crate) use turns::TurnInvoke;

/// Where a partition stands at this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Off,
    Reading,
    Claiming,
    Serving,
}

/// A claim under way.
#[derive(Clone, Debug)]
struct Claim {
    proposal: ProposalId,
    id: Uuid,
    since: Millis,
}

/// One partition as this node sees it.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    pub(crate) state: LogState,
    pub(crate) stage: Stage,
    pub(crate) reign: Reign,
    claim: Option<Claim>,
    /// The log has been read to the end that it had when the reading began.
    at_end: bool,
    /// Since when the partition is wanted here while somebody else reigns.
    wanted_since: Millis,
    /// Channels that senders want to open while this node is not serving yet: bounded by the number of senders.
    opens: BTreeMap<Sender, (NodeId, Stated)>,
    /// The newest epoch ever seen here: what was said of older reigns is known to be over.
    newest_epoch: Epoch,
    /// A reign of this node ended in disorder, and the partition is wanted elsewhere: it is claimed once more, to be
    /// released in order.
    finish: bool,
    /// Where the reading of the log begins.
    recovery: recovery::Recovery,
    /// What of the log is in no snapshot.
    pub(crate) unsaved: snapshots::Unsaved,
    /// Snapshots that are stored, or may be: few more than the log names.
    stored: BTreeSet<SnapshotKey>,
    /// An event has touched it since the last flush.
    pub(crate) touched: bool,
}

impl Partition {
    pub(crate) fn new(id: PartitionId) -> Self {
        Self {
            id,
            state: LogState::default(),
            stage: Stage::Off,
            reign: Reign::default(),
            claim: None,
            at_end: false,
            wanted_since: 0,
            opens: BTreeMap::new(),
            newest_epoch: 0,
            finish: false,
            recovery: recovery::Recovery::default(),
            unsaved: snapshots::Unsaved::default(),
            stored: BTreeSet::new(),
            touched: false,
        }
    }

    /// Whether this node serves it.
    pub(crate) fn serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Whether turns of it run here, or it is being handed over.
    pub(crate) fn busy(&self) -> bool {
        let running = || self.reign.items.values().any(|item| item.running().is_some());
        self.serving() && (self.reign.leaving.is_some() || running())
    }

    /// An answer on a channel of this partition.
    pub(crate) fn answer(&mut self, env: &mut Env, node: NodeId, message: Message) {
        match message {
            Message::Opened { to, epoch, next, resume_at, .. } => {
                self.opened(env, node, &to, Opened { epoch, next, resume_at });
            }
            Message::Known { from, epoch, next, .. } => self.known(env, node, &from, epoch, next),
            Message::Reply { from, number, outcome, .. } => {
                self.reply(env, &from, number, outcome);
            }
            Message::Accepted { from, numbers, .. } => self.accepted(env, &from, &numbers),
            Message::Gone { from, number, .. } => self.gone(env, &from, number),
            Message::Gap { from, epoch, .. } => self.gap(env, node, &from, epoch),
            Message::NotOwner { partition, epoch, hint, .. } => {
                self.not_owner(env, node, &partition, epoch, hint);
            }
            // Only channels of nodes are ever closed; everything else is no answer.
            _ => {}
        }
    }

    /// Whether its log is being read; it is not while the reading's beginning is looked for.
    fn follows(&self) -> bool {
        self.stage != Stage::Off && self.recovery.finding.is_none()
    }

    /// Whether this node should own it.
    fn wanted(&self, env: &Env) -> bool {
        !env.leaving
            && !env.host_leaves(&self.id.kind)
            && env.desired_owner(&self.id) == Some(env.id)
    }

    /// The membership changed.
    pub(crate) fn review(&mut self, env: &mut Env) {
        let wanted = self.wanted(env);
        match self.stage {
            Stage::Off if wanted => self.read_anew(env),
            Stage::Reading if !wanted && !self.finish => self.rest(env),
            Stage::Reading => self.try_claim(env),
            Stage::Serving if !wanted => self.begin_hand_over(env),
            Stage::Serving => self.end_hand_over(env),
            Stage::Off | Stage::Claiming => {}
        }
        if self.serving() {
            self.review_departed(env);
            self.review_routes(env, None);
        }
    }

    /// Forgets everything and reads the log, from its newest snapshot on.
    fn read_anew(&mut self, env: &mut Env) {
        env.cover(match self.stage {
            Stage::Off | Stage::Reading => Transition::OffReading,
            Stage::Claiming => Transition::ClaimTimedOut,
            Stage::Serving => Transition::ServingReading,
        });
        self.newest_epoch = self.newest_epoch.max(self.state.epoch);
        self.state = LogState::default();
        self.reign = Reign::default();
        self.claim = None;
        self.stage = Stage::Reading;
        self.wanted_since = env.now;
        self.find_snapshot(env);
    }

    /// Stops following the log.
    fn rest(&mut self, env: &mut Env) {
        let serves = self.serving();
        env.cover(if serves { Transition::ServingOff } else { Transition::ReadingOff });
        self.stage = Stage::Off;
        self.finish = false;
        self.claim = None;
        self.reign = Reign::default();
        self.recovery = recovery::Recovery::default();
        self.unsaved = snapshots::Unsaved::default();
        self.stored.clear();
        env.emit(Effect::StopLog { partition: self.id.clone() });
        for (sender, (node, _)) in std::mem::take(&mut self.opens) {
            env.cover(Transition::OpenRefused);
            self.refuse(env, node, sender);
        }
        self.newest_epoch = self.newest_epoch.max(self.state.epoch);
        self.state = LogState::default();
    }

    /// Answers that this node does not own the partition.
    pub(crate) fn refuse(&self, env: &mut Env, to: NodeId, sender: Sender) {
        self.refuse_epoch(env, to, sender, self.newest_epoch.max(self.state.epoch));
    }

    /// The same about a reign that a sender named: it is not this node's (any more).
    fn refuse_epoch(&self, env: &mut Env, to: NodeId, sender: Sender, epoch: Epoch) {
        let hint = self.owner_hint(env);
        let message = Message::NotOwner { sender, partition: self.id.clone(), epoch, hint };
        env.send(to, message);
    }

    /// Who owns it as far as this node knows.
    pub(crate) fn owner_hint(&self, env: &Env) -> Option<NodeId> {
        let reigning = self.state.owner.filter(|owner| {
            *owner != env.id && !self.state.released && env.members.nodes.contains_key(owner)
        });
        reigning.or_else(|| env.desired_owner(&self.id))
    }

    /// Claims if the log has been read and nobody alive reigns (rule L2).
    fn try_claim(&mut self, env: &mut Env) {
        if self.stage != Stage::Reading {
            return;
        }
        if !self.wanted(env) && !self.finish {
            return self.rest(env);
        }
        if !self.at_end {
            return;
        }
        let own = self.state.owner == Some(env.id) && !self.state.released;
        if !self.wanted(env) && !own {
            return self.rest(env);
        }
        let patience = env.limits.drain_timeout_ms + 5 * env.limits.grace_ms;
        let free = match self.state.owner {
            None => true,
            Some(owner) => {
                self.state.released
                    || owner == env.id
                    || !env.members.nodes.contains_key(&owner)
                    || env.now >= self.wanted_since + patience
            }
        };
        if !free {
            return;
        }
        env.cover(Transition::ReadingClaiming);
        if own {
            env.cover(Transition::ClaimOwnAgain);
        }
        let reigns = |owner: NodeId| owner != env.id && env.members.nodes.contains_key(&owner);
        if !self.state.released && self.state.owner.is_some_and(reigns) {
            env.cover(Transition::ClaimImpatient);
        }
        if !self.wanted(env) {
            env.cover(Transition::ClaimToRelease);
        }
        let (proposal, id) = (env.proposal(), env.uuid());
        self.claim = Some(Claim { proposal, id, since: env.now });
        self.stage = Stage::Claiming;
        let record = Record::Claim { after: self.state.epoch, node: env.id, id };
        self.append(env, proposal, record);
    }

    /// A record was read.
    pub(crate) fn read(&mut self, env: &mut Env, offset: Offset, record: &Record) {
        // Logs have no gaps: anything else comes from a reading that has ended.
        if !self.follows() || offset != self.state.offset + 1 {
            return;
        }
        if self.serving() {
            self.read_while_serving(env, offset, record);
            return;
        }
        let mine = match record {
            Record::Claim { id, .. } => self.claim.as_ref().is_some_and(|c| c.id == *id),
            _ => false,
        };
        let unclean = self.state.owner.filter(|_| !self.state.released);
        self.unsaved.add(record);
        match self.state.admit(&env.rules, offset, record) {
            Admission::Claimed if mine => self.serve(env, unclean),
            Admission::Claimed | Admission::Released => self.try_claim(env),
            Admission::Applied(ops) => self.reign.replayed(env, offset, ops),
            Admission::Void if mine => {
                env.cover(Transition::ClaimVoid);
                self.claim = None;
                self.stage = Stage::Reading;
                self.try_claim(env);
            }
            Admission::Void => {}
        }
    }

    /// Only claims of others matter to an owner: everything else that is not its own is void.
    fn read_while_serving(&mut self, env: &mut Env, offset: Offset, record: &Record) {
        if let Record::Batch { epoch, seq, .. } | Record::Release { epoch, seq } = record
            && *epoch == self.reign.epoch
            && let Some(own) = self.reign.inflight.iter().find(|f| f.seq == *seq)
        {
            // Appended before this reading began.
            env.cover(Transition::OwnReadAnew);
            let proposal = own.proposal;
            return self.committed(env, offset, proposal);
        }
        self.state.offset = offset;
        if let Record::Claim { after, node, .. } = record
            && (*after == self.state.epoch || !env.rules.compare_claim)
        {
            let owner = *node;
            self.drop_all(env, "another node claimed the partition", (offset, Some(owner)));
        }
    }

    /// An append of this node was read back.
    pub(crate) fn read_own(&mut self, env: &mut Env, offset: Offset, proposal: ProposalId) {
        if !self.follows() || offset != self.state.offset + 1 {
            return;
        }
        match self.stage {
            Stage::Off => {}
            Stage::Claiming if self.claim.as_ref().is_some_and(|c| c.proposal == proposal) => {
                let id = self.claim.as_ref().map_or(Uuid::default(), |c| c.id);
                let record = Record::Claim { after: self.claimed_after(), node: env.id, id };
                self.read(env, offset, &record);
            }
            Stage::Reading | Stage::Claiming => {
                // Of an earlier reign, and no longer held here: read it as everybody does.
                env.cover(Transition::OwnReadLater);
                let from = self.state.offset + 1;
                self.read_log(env, from);
            }
            Stage::Serving => self.committed(env, offset, proposal),
        }
    }

    /// The epoch that the claim under way names.
    fn claimed_after(&self) -> Epoch {
        self.reign.claimed_after
    }

    /// The log has been read to the end.
    pub(crate) fn read_end(&mut self, env: &mut Env) {
        if !self.follows() || (self.stage == Stage::Reading && !self.confirm_snapshot(env)) {
            return;
        }
        self.at_end = true;
        self.reign.ends = self.reign.ends.saturating_sub(1);
        match self.stage {
            Stage::Reading => self.try_claim(env),
            Stage::Claiming if self.reign.claim_lost => {
                // The claim's fate was unknown; it is not in the log, and would be void if it came late.
                env.cover(Transition::ClaimNotFound);
                self.reign.claim_lost = false;
                self.reign.barriers = 0;
                self.claim = None;
                self.stage = Stage::Reading;
                self.try_claim(env);
            }
            Stage::Serving => self.end_reached(env),
            Stage::Claiming => self.reign.barriers = self.reign.barriers.saturating_sub(1),
            Stage::Off => {}
        }
    }

    /// The reading broke off, and appends under way have an unknown fate (rule L4).
    pub(crate) fn log_lost(&mut self, env: &mut Env) {
        let from = self.state.offset + 1;
        if !self.follows() {
            return;
        }
        match self.stage {
            Stage::Off => return,
            Stage::Serving if self.reign.in_flight() => {
                self.drop_all(env, "the log broke off with records in flight", (0, None));
                return;
            }
            Stage::Serving => {
                env.cover(Transition::LostIdle);
                self.reign.barriers = 1;
            }
            Stage::Claiming => {
                env.cover(Transition::LostClaiming);
                self.reign.claim_lost = true;
                // Only the end of this reading will be reported: earlier barriers are in it.
                self.reign.barriers = 1;
            }
            Stage::Reading => {}
        }
        self.read_log(env, from);
    }

    /// The process was perhaps away: reads to the end before it dispatches anything (rule L4).
    pub(crate) fn resumed(&mut self, env: &mut Env) {
        // A claim under way counts, too: it may have been followed by another one.
        if matches!(self.stage, Stage::Claiming | Stage::Serving) && env.rules.pause_barrier {
            let serves = self.serving();
            env.cover(if serves {
                Transition::BarrierAfterPause
            } else {
                Transition::BarrierClaiming
            });
            self.hold_until_read(env);
        }
    }

    /// Drops everything held (rule L4): turns are cancelled, requesters are told, and the log is read anew if the
    /// partition is still wanted here. `seen` is the claim that ended the reign, if one did.
    pub(crate) fn drop_all(
        &mut self,
        env: &mut Env,
        reason: &'static str,
        seen: (Offset, Option<NodeId>),
    ) {
        env.notice(Notice::Dropped { partition: self.id.clone(), reason });
        let (offset, owner) = seen;
        if let Some(owner) = owner {
            self.state.epoch = offset;
            self.state.owner = Some(owner);
            self.state.released = false;
        }
        self.abandon(env);
        self.finish = owner.is_none();
        if self.finish || self.wanted(env) {
            self.read_anew(env);
        } else {
            self.rest(env);
        }
    }

    /// What is due by now.
    pub(crate) fn tick(&mut self, env: &mut Env) {
        match self.stage {
            Stage::Off => {}
            Stage::Reading => {
                self.tick_recovery(env);
                self.try_claim(env);
            }
            Stage::Claiming => {
                let since = self.claim.as_ref().map_or(env.now, |c| c.since);
                if since + env.limits.append_timeout_ms <= env.now {
                    self.read_anew(env);
                }
            }
            Stage::Serving => self.tick_reign(env),
        }
    }

    /// When `tick` is wanted.
    pub(crate) fn timeout(&self, env: &Env) -> Option<Millis> {
        match self.stage {
            Stage::Off => None,
            Stage::Reading => self.recovery_timeout().or_else(|| {
                let patience = env.limits.drain_timeout_ms + 5 * env.limits.grace_ms;
                self.at_end.then_some(self.wanted_since + patience)
            }),
            Stage::Claiming => self.claim.as_ref().map(|c| c.since + env.limits.append_timeout_ms),
            Stage::Serving => self.reign_timeout(env),
        }
    }

    fn append(&mut self, env: &mut Env, proposal: ProposalId, record: Record) {
        if let Record::Claim { after, .. } = &record {
            self.reign.claimed_after = *after;
        }
        env.appends.push_back(crate::effect::Append {
            partition: self.id.clone(),
            proposal,
            record: std::sync::Arc::new(record),
        });
    }
}
