//! Kinds that are not known: the membership registers them when somebody wants them, or refuses.

use super::Node;
use crate::effect::{Notice, RefusedKind, RequestError};
use crate::event::{Operation, TurnResult};
use crate::ids::{RequestId, TurnToken};
use crate::invocation::{ApplicationError, Outcome};

impl Node {
    /// A kind is not registered: what waits for it is told so, instead of waiting for ever (P9).
    pub(super) fn kind_refused(&mut self, refused: &RefusedKind) {
        if self.env.members.kinds.contains_key(&refused.kind) {
            // It has become known meanwhile.
            return;
        }
        self.env.notice(Notice::KindRefused(refused.clone()));
        let queue = self.parked.remove(&refused.kind).unwrap_or_default();
        self.parked_count -= queue.len();
        self.refuse_kind(queue.into_iter().map(|(request, _)| request), refused);
        for token in self.waiting_turns.keys().cloned().collect::<Vec<_>>() {
            self.refuse_in_turn(&token, refused);
        }
    }

    fn refuse_kind(
        &mut self,
        requests: impl IntoIterator<Item = RequestId>,
        refused: &RefusedKind,
    ) {
        for request in requests {
            let error = RequestError::KindRefused(Box::new(refused.clone()));
            self.env.respond(request, Err(error));
        }
    }

    /// What a turn asked for of that kind fails; what it asked for after it goes on.
    fn refuse_in_turn(&mut self, token: &TurnToken, refused: &RefusedKind) {
        let Some(waiting) = self.waiting_turns.get_mut(token) else { return };
        let is_refused = |operation: &Operation| {
            let Operation::Invoke { target, .. } = operation else { return false };
            target.kind == refused.kind
        };
        let mut requests = Vec::new();
        waiting.operations.retain(|(request, operation)| {
            let is_refused = is_refused(operation);
            requests.extend(is_refused.then_some(*request));
            !is_refused
        });
        self.parked_count -= requests.len();
        let goes_there = |result: &TurnResult| {
            let TurnResult::TailCall(call) = result else { return false };
            call.target.kind == refused.kind
        };
        let is_tail = waiting.result.as_ref().is_some_and(goes_there);
        if is_tail {
            // As every step that nobody can take.
            let error = ApplicationError::of_kar("kar.INVALID_TAIL_CALL", &refused.to_string());
            waiting.result = Some(TurnResult::Ended(Outcome::Failed(error)));
        }
        if is_tail || !requests.is_empty() {
            self.refuse_kind(requests, refused);
            self.resume_turn(token);
        }
    }
}
