//! The driver of a simulated node: feeds it, and carries out what it wants done.

use std::rc::Rc;

use kar_core::effect::Effect;
use kar_core::event::{Event, Member, Operation, TurnResult};
use kar_core::ids::{PartitionId, RequestId};
use kar_core::record::Record;
use kar_core::snapshot::SnapshotFault;

use crate::app::ToApp;
use crate::history::{Answer, Seen, Waiter};
use crate::plan::MS;
use crate::remind::Remind;
use crate::store::{SnapshotStep, StoreSays, StoreStep, proof};
use crate::topic::ToTopic;
use crate::world::{BASE_MS, Due, EFFECTS_MAX, Input, World};

impl World {
    /// A node takes an input, or lets it wait while it stands still.
    pub(crate) fn take(&mut self, slot: usize, inst: u64, input: Input) {
        if !self.is(slot, inst) {
            return;
        }
        if let Input::Tick = input
            && self.slots[slot].tick_at != Some(self.now)
        {
            return;
        }
        if self.slots[slot].paused {
            self.slots[slot].backlog.push_back(input);
            return;
        }
        self.feed(slot, input);
        if self.slots[slot].drain_queued {
            return;
        }
        if self.rng.chance(150) {
            // Several events are handled before the effects are looked at.
            self.slots[slot].drain_queued = true;
            let at = self.now + self.rng.range(1, 150);
            self.push(at, Due::Drain { slot, inst });
        } else {
            self.drain(slot);
        }
    }

    pub(crate) fn give(&mut self, slot: usize, event: Event) {
        let now = self.clock(slot);
        self.say(|| format!("n{slot} <- {event:?}"));
        self.slots[slot].print = None;
        if let Some(node) = self.slots[slot].node.as_mut() {
            Rc::make_mut(node).handle(now, event);
        }
    }

    fn feed(&mut self, slot: usize, input: Input) {
        let node = self.slots[slot].id;
        match input {
            Input::Event(event) => {
                match &event {
                    Event::HostUp { offer, .. } => {
                        self.note(Seen::HostUp { node, kinds: offer.kinds.clone() });
                    }
                    Event::HostDown { session, dead } => {
                        let (session, dead) = (*session, *dead);
                        self.note(Seen::HostDown { node, session, dead });
                    }
                    Event::Drain => self.note(Seen::DrainTold { node }),
                    Event::Lease { valid } => {
                        // What it wanted done before is judged by what it knew then.
                        self.slots[slot].lease_lost = !*valid;
                        if *valid {
                            self.note(Seen::Lease { node, valid: true });
                        }
                    }
                    _ => {}
                }
                self.give(slot, event);
            }
            Input::Log { log, generation, event } => {
                if self.logs[log].readers[slot].generation != generation {
                    return;
                }
                match &event {
                    Event::LogEnd { .. } => self.note(Seen::ReadToEnd { node, log }),
                    Event::LogOwn { offset, .. } | Event::LogRead { offset, .. } => {
                        let is_claim = match &event {
                            Event::LogRead { record, .. } => matches!(record, Record::Claim { .. }),
                            // It may have been trimmed since it was on its way.
                            _ => self.logs[log].claims.contains(offset),
                        };
                        if is_claim {
                            self.slots[slot].claims_read.push((log, *offset));
                        }
                    }
                    _ => {}
                }
                self.give(slot, event);
            }
            Input::Inbox { inbox, generation, event } => {
                if self.inbox_counts(slot, &inbox, generation) {
                    self.give(slot, event);
                }
            }
            Input::PeerUp { other, generation, node } => {
                if self.peer_input(slot, other, generation, true) {
                    self.give(slot, Event::PeerUp { node });
                }
            }
            Input::Peer { other, generation, sent, from, message } => {
                if other == slot || self.peer_input(slot, other, generation, false) {
                    self.note(Seen::Arrived { to: node, sent });
                    self.give(slot, Event::Peer { from, message });
                }
            }
            Input::Ask { waiter, operation } => self.ask_node(slot, waiter, operation),
            Input::Result { run, token, result } => {
                if let TurnResult::Ended(_) = result {
                    self.history.runs[run].result_taken = Some(self.now);
                }
                self.give(slot, Event::TurnResult { token, result });
            }
            Input::Tick => {
                self.slots[slot].tick_at = None;
                self.give(slot, Event::Tick);
            }
        }
    }

    fn ask_node(&mut self, slot: usize, waiter: Waiter, operation: Operation) {
        let request = RequestId(self.slots[slot].waiters.len() as u64);
        self.slots[slot].waiters.push(waiter);
        let at = Some(self.now);
        match waiter {
            Waiter::Client(req) => {
                self.history.reqs[req].arrived = at;
                let request = &self.history.reqs[req];
                if request.reads.is_some() || request.remind == Some(Remind::List) {
                    self.note(Seen::Reads { req });
                }
            }
            Waiter::Turn(run, item) => self.history.runs[run].items[item].arrived = at,
        }
        self.give(slot, Event::Request { request, operation });
    }

    /// Carries out everything that a node wants done.
    pub(crate) fn drain(&mut self, slot: usize) {
        // The node is out while its effects are carried out; nothing calls back into it.
        let Some(mut shared) = self.slots[slot].node.take() else { return };
        let node = Rc::make_mut(&mut shared);
        self.slots[slot].print = None;
        let mut effects = 0;
        while let Some(append) = node.poll_append() {
            effects += 1;
            self.append(slot, append);
            if effects > EFFECTS_MAX {
                break;
            }
        }
        while let Some(effect) = node.poll_effect() {
            effects += 1;
            self.perform(slot, effect);
            if effects > EFFECTS_MAX {
                break;
            }
        }
        if effects > EFFECTS_MAX {
            self.broken.push(format!("n{slot} has no end of effects"));
            self.give_up();
        }
        let timeout = node.poll_timeout();
        self.slots[slot].node = Some(shared);
        // Only what a node wants done from now on can be judged by what it has read.
        let node = self.slots[slot].id;
        for (log, offset) in std::mem::take(&mut self.slots[slot].claims_read) {
            self.note(Seen::ClaimRead { node, log, offset });
        }
        if std::mem::take(&mut self.slots[slot].lease_lost) {
            self.note(Seen::Lease { node, valid: false });
        }
        let begin = BASE_MS + self.plan.slots[slot].skew_ms;
        let at = timeout.map(|t| (t.saturating_sub(begin) * MS).max(self.now + 1));
        if at != self.slots[slot].tick_at {
            self.slots[slot].tick_at = at;
            if let Some(at) = at {
                self.input(at, slot, Input::Tick);
            }
        }
    }

    fn perform(&mut self, slot: usize, effect: Effect) {
        match effect {
            Effect::ReadLog { partition, from } => {
                let log = self.log_of(&partition);
                self.say(|| format!("n{slot} reads log {log} ({partition}) from {from}"));
                self.ask_read(slot, log, from);
            }
            Effect::ReadBarrier { partition } => {
                let log = self.log_of(&partition);
                self.ask_barrier(slot, log);
            }
            Effect::StopLog { partition } => {
                let log = self.log_of(&partition);
                self.stop_reading(slot, log);
            }
            Effect::Send { to, message } => self.send(slot, to, message),
            Effect::Dispatch { session, turn } => self.dispatch(slot, session, turn),
            Effect::DispatchDirect { session, turn, .. } => {
                self.tell_app(slot, session, ToApp::Direct(turn));
            }
            Effect::Cancel { session, token, reason } => {
                self.cancel(slot, session, &token, reason);
            }
            Effect::Respond { request, response } => self.respond(slot, request, response),
            Effect::ReadCell { partition } => self.ask_store(slot, &partition, StoreStep::Cell),
            Effect::LoadActor { partition, epoch, actor } => {
                self.ask_store(slot, &partition, StoreStep::Load { epoch, actor });
            }
            Effect::FenceStore { partition, epoch } => {
                self.ask_store(slot, &partition, StoreStep::Fence { epoch });
            }
            Effect::WriteStore { partition, expected, upto, ops } => {
                self.ask_store(slot, &partition, StoreStep::Write { expected, upto, ops });
            }
            Effect::TrimLog { partition, below } => {
                let (log, hub, inst) = (self.log_of(&partition), self.hub, self.slots[slot].inst);
                let wanted = self.now + self.rng.range(50, 400);
                let at = self.slots[slot].log_lane.arrive(wanted);
                self.push(at, Due::Trim { slot, inst, hub, log, below });
            }
            Effect::AppendInbox { inbox, proposal, entry } => {
                self.append_inbox(slot, inbox, proposal, entry);
            }
            Effect::ReadInbox { inbox, from } => self.read_inbox(slot, inbox, from),
            Effect::StopInbox { inbox } => self.stop_inbox(slot, &inbox),
            Effect::TrimInbox { inbox, below } => {
                let (hub, inst) = (self.hub, self.slots[slot].inst);
                let wanted = self.now + self.rng.range(50, 400);
                let at = self.slots[slot].log_lane.arrive(wanted);
                self.push(at, Due::InboxTrim { slot, inst, hub, inbox, below });
            }
            Effect::Publish { partition, to, channel, serial, events, .. } => {
                self.ask_topic(slot, ToTopic { partition, to, channel, serial, events });
            }
            Effect::LearnPublished { partition, to, channel, serial, .. } => {
                let events = Vec::new();
                self.ask_topic(slot, ToTopic { partition, to, channel, serial, events });
            }
            Effect::PutSnapshot { partition, key, snapshot } => {
                self.ask_snapshot(slot, &partition, SnapshotStep::Put(key, snapshot));
            }
            Effect::GetSnapshot { partition, key } => {
                self.ask_snapshot(slot, &partition, SnapshotStep::Get(key));
            }
            Effect::DeleteSnapshot { partition, key } => {
                self.ask_snapshot(slot, &partition, SnapshotStep::Delete(key));
            }
            Effect::ListSnapshots { partition } => {
                self.ask_snapshot(slot, &partition, SnapshotStep::List);
            }
            Effect::Fetch { id, topic_id, from, events_max, bytes_max } => {
                self.fetch(slot, id, topic_id, from, (events_max, bytes_max));
            }
            Effect::StopFetch { id } => self.stop_fetch(slot, &id),
            // No client asks what nodes serve.
            Effect::Inspect { .. } => {}
            Effect::EnsureKind { kind } => {
                let soon = self.now + self.rng.range(200, 3 * MS);
                let at = soon.max(self.plan.kinds_at[self.plan.names.kind(&kind)]);
                self.push(at, Due::Register { kind });
            }
            Effect::Offer { kinds, leaving } => {
                let node = self.slots[slot].id;
                let member = self.member(slot);
                let wanted = self.now + self.rng.range(100, MS);
                let at = self.slots[slot].log_lane.arrive(wanted);
                self.push(at, Due::Offered { node, member: Member { kinds, leaving, ..member } });
            }
            Effect::Drained => self.drained(slot),
            Effect::Notice(notice) => {
                self.say(|| format!("n{slot} notice {notice:?}"));
                let node = self.slots[slot].id;
                self.note(Seen::Noticed { node, notice });
            }
        }
    }

    fn respond(&mut self, slot: usize, request: RequestId, answer: Answer) {
        self.say(|| format!("n{slot} responds {request:?} {answer:?}"));
        let Some(&to) = self.slots[slot].waiters.get(request.0 as usize) else {
            self.broken.push(format!("answer to {request:?}, which was never asked"));
            return;
        };
        let node = self.slots[slot].id;
        self.note(Seen::Responded { node, to, answer: answer.clone() });
        let session = match to {
            Waiter::Client(req) => {
                let at = self.now;
                self.history.reqs[req].answers.push((at, answer.clone()));
                self.history.reqs[req].session
            }
            Waiter::Turn(run, item) => {
                let record = &mut self.history.runs[run];
                record.items[item].answer = Some(answer.clone());
                record.session
            }
        };
        self.tell_app(slot, session, ToApp::Answer(to, answer));
    }

    fn ask_store(&mut self, slot: usize, partition: &PartitionId, step: StoreStep) {
        let (log, hub, inst) = (self.log_of(partition), self.hub, self.slots[slot].inst);
        let most = self.plan.profile.store_lag;
        let lag = if most > 0 { self.rng.range(0, most) } else { 0 };
        let wanted = self.now + self.rng.range(50, 800) + self.hiccup() + lag;
        let at = self.slots[slot].store_in.arrive(wanted);
        self.push(at, Due::Store { slot, inst, hub, log, step });
    }

    /// The store does what it was asked, and answers, unless who asked or the store is gone by now.
    pub(crate) fn store(&mut self, slot: usize, inst: u64, hub: u64, log: usize, step: StoreStep) {
        let orphan = self.slots[slot].inst != inst || self.hub != hub;
        if orphan && self.rng.chance(500) {
            return;
        }
        self.say(|| format!("store {log} n{slot} {step:?}"));
        let strict = self.plan.rules.write_expects;
        let says = self.stores[log].carry_out(self.now, step, strict);
        if orphan || self.slots[slot].node.is_none() {
            return;
        }
        let partition = self.log_ids[log].clone();
        let event = match says {
            StoreSays::Cell { cell } => Event::StoreCell { partition, cell },
            StoreSays::Loaded { epoch, actor, cell, state } => {
                Event::ActorLoaded { partition, epoch, actor, cell, state }
            }
            StoreSays::Fenced { epoch, cell } => Event::StoreFenced { partition, epoch, cell },
            StoreSays::Written { epoch, upto } => Event::StoreWritten { partition, epoch, upto },
            StoreSays::Refused { epoch, cell } => Event::StoreRefused { partition, epoch, cell },
        };
        let wanted = self.now + self.rng.range(50, 400) + self.hiccup();
        let at = self.slots[slot].store_out.arrive(wanted);
        let input = Input::Event(event);
        self.push(at, Due::Input { slot, inst, input });
    }

    /// Asks for something about snapshots. They go beside everything else, each for itself, and some take long.
    fn ask_snapshot(&mut self, slot: usize, partition: &PartitionId, step: SnapshotStep) {
        let (log, hub, inst) = (self.log_of(partition), self.hub, self.slots[slot].inst);
        let slow = self.faults_on && self.rng.chance(self.plan.profile.slow_snapshot);
        let more = if slow { self.rng.range(5 * MS, 400 * MS) } else { 0 };
        let at = self.now + self.rng.range(50, 800) + self.hiccup() + more;
        self.push(at, Due::Snapshot { slot, inst, hub, log, step });
    }

    /// What was asked about snapshots is done, mostly, and answered, unless who asked is gone by now.
    pub(crate) fn snapshot(
        &mut self,
        slot: usize,
        inst: u64,
        hub: u64,
        log: usize,
        step: SnapshotStep,
    ) {
        let orphan = self.slots[slot].inst != inst || self.hub != hub;
        if orphan && self.rng.chance(500) {
            return;
        }
        let fails = self.faults_on && self.rng.chance(self.plan.profile.fail_snapshot);
        // It may have been done all the same.
        let is_done = !fails || self.rng.chance(500);
        self.say(|| format!("snapshots {log} n{slot} done={is_done} fails={fails} {step:?}"));
        let fault = || SnapshotFault::Unavailable("away".into());
        let partition = self.log_ids[log].clone();
        let now = self.now;
        let event = match step {
            SnapshotStep::Put(key, snapshot) => {
                let result = if fails { Err(fault()) } else { Ok(proof(&snapshot)) };
                if is_done {
                    self.note(Seen::Saved { log, key, snapshot: snapshot.clone() });
                    if !self.stores[log].put(now, key, snapshot) {
                        self.broken.push(format!("{partition}: two snapshots have the key {key}"));
                    }
                }
                Event::SnapshotPut { partition, key, result }
            }
            SnapshotStep::Get(key) => {
                let found = self.stores[log].snapshots().get(&key);
                let found = found.map(|s| (Box::new((**s).clone()), proof(s)));
                let damaged = found.is_some() && self.faults_on;
                let damaged = damaged && self.rng.chance(self.plan.profile.damage_snapshot);
                let result = match () {
                    () if fails => Err(fault()),
                    () if damaged => Err(SnapshotFault::Damaged("damaged".into())),
                    () => Ok(found),
                };
                Event::SnapshotGot { partition, key, result }
            }
            SnapshotStep::Delete(key) => {
                if is_done {
                    self.stores[log].delete(now, key);
                }
                let result = if fails { Err(fault()) } else { Ok(()) };
                Event::SnapshotDeleted { partition, key, result }
            }
            SnapshotStep::List => {
                let keys = self.stores[log].snapshots().keys().copied().collect();
                let result = if fails { Err(fault()) } else { Ok(keys) };
                Event::SnapshotsListed { partition, result }
            }
        };
        if orphan || self.slots[slot].node.is_none() {
            return;
        }
        let at = self.now + self.rng.range(50, 400) + self.hiccup();
        self.push(at, Due::Input { slot, inst, input: Input::Event(event) });
    }

    /// A paused node goes on, with everything that came meanwhile.
    pub(crate) fn wake(&mut self, slot: usize, resumed: bool) {
        if !std::mem::take(&mut self.slots[slot].paused) {
            return;
        }
        let node = self.slots[slot].id;
        self.say(|| format!("n{slot} wakes, resumed={resumed}"));
        self.note(Seen::Woke { node, resumed });
        self.slots[slot].drain_queued = false;
        if resumed {
            self.give(slot, Event::Resumed);
        }
        let inst = self.slots[slot].inst;
        while let Some(input) = self.slots[slot].backlog.pop_front() {
            self.feed(slot, input);
            if self.rng.chance(700) {
                self.drain(slot);
            }
        }
        if self.is(slot, inst) {
            self.slots[slot].tick_at = None;
            self.drain(slot);
        }
    }
}
