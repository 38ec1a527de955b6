//! Questions from outside turns that only a current reign may answer: an owner that was away, or struck out, may hold
//! an old state and not know it. So it answers when everything that was in the log after the question had come has been
//! read, and its reign goes on: whatever anybody was told before the question, this reign has decided or read.
//!
//! At most one barrier is under way for all of them; who asks meanwhile waits for the next one. Nothing else waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use crate::cover::Transition;
use crate::effect::Effect;
use crate::env::Env;
use crate::ids::{NodeId, RequestId, Uuid};
use crate::invocation::Mode;
use crate::message::{AwaitResult, Control, Message, ReadResult};
use crate::probe::Confirm;
use crate::select::Select;

use super::reign::{AWAITERS_MAX, Reign};

/// Questions that wait for a barrier in one partition; more are sent away, and ask again.
const QUESTIONS_MAX: usize = 16_384;

/// What is asked.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// The outcome of a started invocation that is not known here.
    Outcome(Uuid),
    /// Something to be done to an invocation.
    Control(Control),
    /// An actor's state.
    State { actor: Arc<str>, select: Select },
    /// An actor's reminders.
    Reminders { actor: Arc<str> },
    /// Subscriptions; all of them, or the one with this name.
    Subscriptions { name: Option<Arc<str>> },
}

/// Questions that are answered together.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// By who asked.
    of_nodes: BTreeMap<(NodeId, RequestId), Question>,
    /// Second walks along waits, which nobody waits for.
    walks: Vec<Confirm>,
}

impl Asked {
    fn len(&self) -> usize {
        self.of_nodes.len() + self.walks.len()
    }
}

/// Questions that wait until the reign is proved to be current.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions {
    /// Answered when the barrier under way is reached.
    covered: Asked,
    /// They came after that barrier was set.
    later: Asked,
    /// Ends of the log that are to be reported until then, the barrier's included; 0: none is under way.
    ends: u32,
}

impl Questions {
    fn is_full(&self) -> bool {
        self.covered.len() + self.later.len() >= QUESTIONS_MAX
    }

    /// An end of the log was reported; tells whether it was the barrier's.
    fn reached(&mut self) -> bool {
        let was_under_way = self.ends > 0;
        self.ends = self.ends.saturating_sub(1);
        was_under_way && self.ends == 0
    }

    /// The log is read anew from here: one end will be reported for everything.
    fn read_anew(&mut self) {
        self.ends = self.ends.min(1);
    }
}

// Ends of the log.
impl Partition {
    /// Asks for a report when everything that is in the log now has been read.
    fn barrier(&mut self, env: &mut Env) {
        self.reign.ends += 1;
        env.emit(Effect::ReadBarrier { partition: self.id.clone() });
    }

    /// Dispatches nothing before everything that is in the log now has been read (rule L4).
    pub(super) fn hold_until_read(&mut self, env: &mut Env) {
        self.barrier(env);
        self.reign.barriers = self.reign.ends;
    }

    /// Reads the log from an offset on; the end of this reading is the only one that will be reported.
    pub(super) fn read_log(&mut self, env: &mut Env, from: u64) {
        self.at_end = false;
        self.reign.ends = 1;
        self.reign.barriers = self.reign.barriers.min(1);
        self.reign.questions.read_anew();
        env.emit(Effect::ReadLog { partition: self.id.clone(), from });
    }

    /// An owner has read to an end of the log.
    pub(super) fn end_reached(&mut self, env: &mut Env) {
        if self.reign.questions.reached() {
            env.cover(Transition::Questions);
            self.answer_questions(env);
        }
        if self.reign.barriers > 0 {
            self.reign.barriers -= 1;
            if self.reign.barriers == 0 {
                env.cover(Transition::BarrierPassed);
                self.check_doubted(env);
            }
            self.pump_all(env);
        }
    }
}

// Questions.
impl Partition {
    /// A node asks for the result of a started invocation.
    pub(crate) fn await_result(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        uuid: Uuid,
    ) {
        if !self.serving() {
            return self.refuse_await(env, from, request);
        }
        if !self.answer_known(env, from, request, uuid) {
            let needs_proof = env.rules.await_barrier;
            self.question(env, (from, request), Question::Outcome(uuid), needs_proof);
        }
    }

    /// Answers what needs no proof, or will: what is known of an invocation was true in every reign.
    fn answer_known(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        uuid: Uuid,
    ) -> bool {
        if let Some(item) = self.reign.items.get_mut(&uuid)
            && item.invocation.mode == Mode::Start
        {
            // Those that were forgotten ask again.
            item.awaiters.retain(|waiting| *waiting != (from, request));
            if item.awaiters.len() >= AWAITERS_MAX {
                item.awaiters.remove(0);
            }
            env.cover(Transition::AwaitWaits);
            item.awaiters.push((from, request));
            return true;
        }
        let Some(outcome) = self.result_of(&uuid) else { return false };
        let result = AwaitResult::Done(outcome.clone());
        self.gate(env, Gated::Send { to: from, message: Message::Awaited { request, result } });
        true
    }

    /// Keeps a question until the reign is proved to be current.
    pub(super) fn question(
        &mut self,
        env: &mut Env,
        from: (NodeId, RequestId),
        question: Question,
        needs_proof: bool,
    ) {
        if !needs_proof {
            return self.answer_question(env, from, question);
        }
        let questions = &mut self.reign.questions;
        let is_asked = |asked: &Asked| asked.of_nodes.contains_key(&from);
        if is_asked(&questions.covered) || is_asked(&questions.later) {
            // It was asked again.
            return;
        }
        if questions.is_full() {
            return self.refuse_question(env, from, &question);
        }
        questions.later.of_nodes.insert(from, question);
        if questions.ends == 0 {
            self.prove(env);
        }
    }

    /// Keeps a second walk until the reign is proved to be current; beyond the bound it is lost, and begun again.
    pub(super) fn confirm_proved(&mut self, env: &mut Env, confirm: Confirm) {
        let questions = &mut self.reign.questions;
        if !questions.is_full() {
            questions.later.walks.push(confirm);
            if questions.ends == 0 {
                self.prove(env);
            }
        }
    }

    /// Sets a barrier for all questions that have come.
    fn prove(&mut self, env: &mut Env) {
        self.reign.questions.covered = std::mem::take(&mut self.reign.questions.later);
        if self.reign.questions.covered.len() > 0 {
            self.barrier(env);
            self.reign.questions.ends = self.reign.ends;
        }
    }

    /// The reign was current when the barrier was set, so after the questions had come.
    fn answer_questions(&mut self, env: &mut Env) {
        let covered = std::mem::take(&mut self.reign.questions.covered);
        for (from, question) in covered.of_nodes {
            self.answer_question(env, from, question);
        }
        for confirm in covered.walks {
            self.confirm_current(env, confirm);
        }
        self.prove(env);
    }

    fn answer_question(
        &mut self,
        env: &mut Env,
        (from, request): (NodeId, RequestId),
        question: Question,
    ) {
        match question {
            Question::State { actor, select } => {
                self.read_current(env, from, request, actor, select);
            }
            Question::Control(control) => self.control_now(env, from, request, control),
            Question::Reminders { actor } => self.reminders_current(env, from, request, &actor),
            Question::Subscriptions { name } => {
                self.subscriptions_current(env, from, request, name.as_ref());
            }
            // It may have come meanwhile.
            Question::Outcome(uuid) if self.answer_known(env, from, request, uuid) => {}
            Question::Outcome(_) => {
                let message = Message::Awaited { request, result: AwaitResult::Unknown };
                self.gate(env, Gated::Send { to: from, message });
            }
        }
    }

    /// The reign is over: whoever waited for an answer from outside turns asks the next owner.
    pub(super) fn refuse_questions(&self, env: &mut Env, reign: &mut Reign) {
        let questions = std::mem::take(&mut reign.questions);
        for (from, question) in
            questions.covered.of_nodes.into_iter().chain(questions.later.of_nodes)
        {
            self.refuse_question(env, from, &question);
        }
        for (from, request) in reign.items.values().flat_map(|item| &item.awaiters) {
            self.refuse_await(env, *from, *request);
        }
    }

    fn refuse_question(
        &self,
        env: &mut Env,
        (from, request): (NodeId, RequestId),
        question: &Question,
    ) {
        match question {
            Question::Outcome(_) => self.refuse_await(env, from, request),
            Question::State { .. }
            | Question::Reminders { .. }
            | Question::Subscriptions { .. } => {
                self.refuse_read(env, from, request);
            }
            Question::Control(_) => self.refuse_control(env, from, request),
        }
    }

    fn refuse_await(&self, env: &mut Env, from: NodeId, request: RequestId) {
        let result = AwaitResult::NotOwner(self.owner_hint(env));
        env.send(from, Message::Awaited { request, result });
    }

    /// Somebody else is to be asked for a state, or this node a little later.
    pub(super) fn refuse_read(&self, env: &mut Env, from: NodeId, request: RequestId) {
        let result = ReadResult::NotOwner(self.owner_hint(env));
        env.send(from, Message::ReadDone { request, result });
    }
}
