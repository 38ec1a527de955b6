//! What other nodes say, and what is answered.

use std::sync::Arc;

use crate::effect::{Effect, Notice, RequestError, Response};
use crate::env::DirectTurn;
use crate::ids::{Kind, NodeId, PartitionId, RequestId, Sender, SessionId};
use crate::invocation::Payload;
use crate::limits::LimitHit;
use crate::message::{AwaitResult, ControlResult, DirectResult, Message, ReadResult};
use crate::partition::{Incoming, Stated};
use crate::route::Opened;

use super::{DIRECT_CONCURRENCY, Node};

impl Node {
    pub(super) fn message(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Open { sender, from_epoch, to, highest, open, answered, serial } => {
                if self.partitions.contains_key(&to) {
                    let stated = Stated { from_epoch, highest, open, answered, serial };
                    self.with(&to, |p, env| p.open(env, from, sender, stated));
                } else {
                    self.refuse(from, sender, to);
                }
            }
            Message::Request {
                sender,
                from_epoch,
                to,
                epoch,
                number,
                floor,
                closed_from,
                asks,
                promised,
                again,
                owed,
            } => {
                if self.partitions.contains_key(&to) {
                    let incoming = Incoming {
                        from,
                        sender,
                        from_epoch,
                        epoch,
                        number,
                        floor,
                        asks,
                        promised,
                        by_inbox: false,
                        closed_from,
                        again,
                        owed,
                    };
                    self.with(&to, |p, env| p.request(env, incoming));
                } else {
                    self.refuse(from, sender, to);
                }
            }
            Message::Await { request, partition, uuid } => {
                if self.partitions.contains_key(&partition) {
                    self.with(&partition, |p, env| p.await_result(env, from, request, uuid));
                } else {
                    let result = AwaitResult::NotOwner(None);
                    self.env.send(from, Message::Awaited { request, result });
                }
            }
            Message::Awaited { request, result } => self.awaited(from, request, result),
            Message::Control { request, partition, control } => {
                if self.partitions.contains_key(&partition) {
                    self.with(&partition, |p, env| p.control(env, from, request, control));
                } else {
                    let result = ControlResult::NotOwner(None);
                    self.env.send(from, Message::ControlDone { request, result });
                }
            }
            Message::ControlDone { request, result } => self.controlled(from, request, result),
            Message::Read { request, partition, actor, select } => {
                if self.partitions.contains_key(&partition) {
                    self.with(&partition, |p, env| {
                        p.read_outside(env, from, request, actor, select)
                    });
                } else {
                    let result = ReadResult::NotOwner(None);
                    self.env.send(from, Message::ReadDone { request, result });
                }
            }
            Message::ListReminders { request, partition, actor } => {
                if self.partitions.contains_key(&partition) {
                    self.with(&partition, |p, env| p.list_reminders(env, from, request, actor));
                } else {
                    let result = ReadResult::NotOwner(None);
                    self.env.send(from, Message::ReadDone { request, result });
                }
            }
            Message::ListSubscriptions { request, partition, name } => {
                if self.partitions.contains_key(&partition) {
                    self.with(&partition, |p, env| p.list_subscriptions(env, from, request, name));
                } else {
                    let result = ReadResult::NotOwner(None);
                    self.env.send(from, Message::ReadDone { request, result });
                }
            }
            Message::ReadDone { request, result } => self.read_done(from, request, result),
            Message::Withdraw { sender, to, calls } => {
                self.with(&to, |p, env| p.withdraw(env, &sender, &calls));
            }
            Message::Probe(probe) => {
                let to = probe.to.clone();
                self.with(&to, |p, env| p.probe(env, *probe));
            }
            Message::Confirm(confirm) => {
                if let Some(to) = confirm.place().map(|place| place.partition.clone()) {
                    self.with(&to, |p, env| p.confirm(env, *confirm));
                }
            }
            Message::Climb(climb) => {
                let to = climb.to.clone();
                self.with(&to, |p, env| p.climb(env, *climb));
            }
            Message::Inspect { request } => self.view_asked(from, request),
            Message::Inspected { request, view } => self.viewed(from, request, view),
            Message::Direct { request, kind, method, payload, trace } => {
                self.direct_call(from, request, kind, method, payload, trace);
            }
            Message::DirectReply { request, result } => self.direct_reply(request, result),
            Message::Opened { .. }
            | Message::Known { .. }
            | Message::Reply { .. }
            | Message::Accepted { .. }
            | Message::Gone { .. }
            | Message::Gap { .. }
            | Message::ChannelClosed { .. }
            | Message::NotOwner { .. } => self.answer(from, message),
        }
    }

    /// An answer on a channel of this node or of one of its partitions.
    pub(super) fn answer(&mut self, node: NodeId, message: Message) {
        let sender = match &message {
            Message::Opened { sender, .. }
            | Message::Known { sender, .. }
            | Message::Reply { sender, .. }
            | Message::Accepted { sender, .. }
            | Message::Gone { sender, .. }
            | Message::Gap { sender, .. }
            | Message::ChannelClosed { sender, .. }
            | Message::NotOwner { sender, .. } => sender.clone(),
            _ => return,
        };
        match sender {
            Sender::Node(id) if id == self.env.id => self.answer_roots(node, message),
            Sender::Node(_) => {}
            Sender::Subscription { partition, subscription, topic_partition } => {
                self.with(&partition, |p, env| {
                    p.delivery_answer(env, node, (subscription, topic_partition), message);
                });
            }
            Sender::Log { partition, log } => self.with(&partition, |p, env| {
                // Another log of the same name has other numbers.
                if p.state.log == Some(log) {
                    p.answer(env, node, message);
                }
            }),
        }
    }

    pub(super) fn answer_roots(&mut self, node: NodeId, message: Message) {
        let (roots, env) = (&mut self.roots, &mut self.env);
        match message {
            Message::Opened { to, epoch, next, resume_at, .. } => {
                roots.opened(env, node, &to, Opened { epoch, next, resume_at });
            }
            Message::Known { from, epoch, next, .. } => roots.known(env, node, &from, epoch, next),
            Message::Reply { from, number, outcome, .. } => {
                roots.reply(env, &from, number, outcome);
            }
            Message::Accepted { from, numbers, .. } => roots.accepted(env, &from, &numbers),
            Message::Gone { from, number, .. } => roots.gone(env, &from, number),
            Message::Gap { from, epoch, .. } => roots.gap(env, node, &from, epoch),
            Message::ChannelClosed { from, .. } => roots.channel_closed(env, &from),
            Message::NotOwner { partition, epoch, hint, .. } => {
                roots.not_owner(env, node, &partition, epoch, hint);
            }
            _ => {}
        }
    }

    pub(super) fn refuse(&mut self, to: NodeId, sender: Sender, partition: PartitionId) {
        let hint = self.env.desired_owner(&partition);
        self.env.send(to, Message::NotOwner { sender, partition, epoch: 0, hint });
    }

    pub(super) fn direct_call(
        &mut self,
        from: NodeId,
        request: RequestId,
        kind: Kind,
        method: Arc<str>,
        payload: Payload,
        trace: Arc<str>,
    ) {
        let bytes = payload.data.len();
        let admitted = self.admit_direct(&kind, bytes);
        let session = match admitted {
            Ok(session) => session,
            Err(result) => {
                if let DirectResult::Limit(hit) = &result {
                    self.env.notice(Notice::Limit(*hit));
                }
                return self.env.send(from, Message::DirectReply { request, result });
            }
        };
        self.next_direct += 1;
        let turn = self.next_direct;
        if let Some(host) = self.env.host.as_mut() {
            host.direct.insert(turn, DirectTurn { from, request, bytes });
            host.direct_bytes += bytes;
        }
        self.env.emit(Effect::DispatchDirect { session, turn, kind, method, payload, trace });
    }

    /// The session that a direct call can run in now, or why it does not.
    pub(super) fn admit_direct(
        &self,
        kind: &Kind,
        bytes: usize,
    ) -> Result<SessionId, DirectResult> {
        let session = self.env.session_for(kind).ok_or(DirectResult::NoHost)?;
        let host = self.env.host.as_ref().ok_or(DirectResult::NoHost)?;
        let limit = |name, limit| Err(DirectResult::Limit(LimitHit { name, limit }));
        if host.direct.len() >= host.offer.concurrency as usize {
            return limit(DIRECT_CONCURRENCY, host.offer.concurrency.into());
        }
        let bytes_max = self.env.limits.direct_bytes_max;
        // One of any length may run alone.
        if host.direct_bytes > 0 && host.direct_bytes + bytes > bytes_max {
            return limit("direct_bytes_max", bytes_max as u64);
        }
        Ok(session)
    }

    pub(super) fn direct_reply(&mut self, request: RequestId, result: DirectResult) {
        let Some((_, kind)) = self.direct.remove(&request) else { return };
        self.direct_timers.set(&request, None);
        let response = match result {
            DirectResult::Ended(outcome) => Ok(Response::Outcome { invocation: None, outcome }),
            DirectResult::Lost => Err(RequestError::Unknown("the host went away")),
            DirectResult::NoHost => Err(RequestError::NoHost(kind)),
            DirectResult::Limit(hit) => Err(RequestError::Limit(hit)),
        };
        self.env.respond(request, response);
    }
}
