//! Reminders as a component asks for them: in a turn, or from outside.

use std::sync::Arc;

use super::Node;
use crate::effect::RequestError;
use crate::event::{Operation, ReminderAsk, ReminderSpec};
use crate::ids::{Class, Kind, Millis, RequestId, TurnToken};
use crate::invocation::{Obligation, Owed};
use crate::reminder::{Remind, Reminder, ReminderChange};
use crate::schedule::ScheduleError;

/// What a turn is told that asks for another actor's reminders: what it does there could not be part of its segment.
pub(crate) const OTHERS: &str =
    "a turn has the reminders of its own actor only; for others leave the turn token out";

impl Node {
    /// Schedules or cancels: in a turn with its segment, from outside as an obligation to the owner, who carries it
    /// out once.
    pub(super) fn remind(&mut self, request: RequestId, operation: Operation) {
        let Operation::Remind { turn, kind, actor, ask } = &operation else { return };
        if kind.class != Class::Actor {
            let error = RequestError::Invalid("only actors have reminders");
            return self.env.respond(request, Err(error));
        }
        let change = match change_of(ask, self.env.now) {
            Ok(change) => change,
            Err(error) => return self.env.respond(request, Err(RequestError::Schedule(error))),
        };
        if let Some(turn) = turn {
            if self.home_of(kind, actor).as_ref() != Some(&turn.invocation.home) {
                return self.env.respond(request, Err(RequestError::Invalid(OTHERS)));
            }
            return self.in_turn(request, turn, |p, env| {
                p.turn_remind(env, request, turn, actor, change);
            });
        }
        if self.env.leaving {
            return self.env.respond(request, Err(RequestError::Draining));
        }
        let (parked, limit) = (self.parked(), self.env.limits.roots_per_node_max);
        if self.roots.open() + parked >= limit {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        let Some(to) = self.home_of(kind, actor) else {
            return self.park(request, operation);
        };
        let (uuid, actor) = (self.env.uuid(), actor.clone());
        let owed = Owed::Remind(Arc::new(Remind { uuid, actor, change }));
        let obligation = Obligation { to, owed, parent: None, step_key: None };
        self.roots.add(&mut self.env, request, obligation, false);
    }

    /// Lists the reminders of an actor.
    pub(super) fn reminders(
        &mut self,
        request: RequestId,
        turn: Option<TurnToken>,
        kind: Kind,
        actor: Arc<str>,
    ) {
        match turn {
            Some(turn) if self.home_of(&kind, &actor).as_ref() != Some(&turn.invocation.home) => {
                self.env.respond(request, Err(RequestError::Invalid(OTHERS)));
            }
            Some(turn) => self.in_turn(request, &turn, |p, env| {
                p.turn_reminders(env, request, &turn, &actor);
            }),
            None => self.list_reminders(request, kind, actor),
        }
    }
}

/// What is asked for, checked, and with its first due time.
fn change_of(ask: &ReminderAsk, now: Millis) -> Result<ReminderChange, ScheduleError> {
    Ok(match ask {
        ReminderAsk::Schedule(spec) => {
            let ReminderSpec { id, method, payload, due, schedule, catch_up } = spec.clone();
            let due = schedule.first(due, now)?;
            ReminderChange::Set(Arc::new(Reminder { id, method, payload, due, schedule, catch_up }))
        }
        ReminderAsk::Cancel(id) => ReminderChange::Cancel(id.clone()),
        ReminderAsk::CancelAll => ReminderChange::CancelAll,
    })
}
