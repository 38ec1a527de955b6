//! Reads of actors' state from outside turns: they show committed state only (section 18, decision 9).

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::questions::Question;
use super::reign::{AWAITERS_MAX, Reader, WaitingRead};
use crate::env::Env;
use crate::ids::{NodeId, RequestId};
use crate::invocation::Payload;
use crate::message::{Message, ReadResult};
use crate::select::{Entries, Select, View};

impl Partition {
    /// A node asks for an actor's state.
    pub(crate) fn read_outside(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        actor: Arc<str>,
        select: Select,
    ) {
        // Without a lease a successor may reign already, and can be asked at once.
        if !self.serving() || !env.lease_valid {
            return self.refuse_read(env, from, request);
        }
        let needs_proof = env.rules.read_barrier;
        self.question(env, (from, request), Question::State { actor, select }, needs_proof);
    }

    /// The reign is current: it answers as soon as it has the state, and everything decided is committed.
    pub(super) fn read_current(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        actor: Arc<str>,
        select: Select,
    ) {
        if let Some(state) = self.reign.cache.get(&actor) {
            let result = answer(env, state.keys(), &select);
            return self.gate_read(env, from, request, result);
        }
        let waiting = self.reign.loading.get_mut(&actor).map(|load| &mut load.waiting);
        if let Some(waiting) = waiting {
            // It was asked again.
            waiting.retain(|r| {
                r.request != request || !matches!(r.reader, Reader::Node(n) if n == from)
            });
            if waiting.len() >= AWAITERS_MAX {
                return self.refuse_read(env, from, request);
            }
        }
        self.load_for(env, actor, WaitingRead { request, reader: Reader::Node(from), select });
    }

    /// Answers with what was decided, once it is committed (rule L5).
    pub(super) fn answer_read(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        state: &Entries,
        select: &Select,
    ) {
        let result = answer(env, state, select);
        self.gate_read(env, from, request, result);
    }

    /// Sends an answer when everything decided so far is committed (rule L5).
    pub(super) fn gate_read(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        result: ReadResult,
    ) {
        let message = Message::ReadDone { request, result };
        if env.rules.gate_reads {
            self.gate(env, Gated::Send { to: from, message });
        } else {
            env.send(from, message);
        }
    }
}

fn answer(env: &Env, state: &Entries, select: &Select) -> ReadResult {
    let found = View::of(state).read(select);
    let size = |(key, value): (&Arc<str>, &Payload)| {
        key.len() + value.data.len() + value.content_type.len()
    };
    let max = env.limits.state_read_bytes_max;
    if found.entries().is_some_and(|found| found.iter().map(size).sum::<usize>() > max) {
        return ReadResult::TooLong(max as u64);
    }
    ReadResult::State(found)
}
