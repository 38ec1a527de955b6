//! What scripts and clients do about reminders.

use std::sync::Arc;

use kar_core::event::{Operation, ReminderAsk, ReminderSpec};
use kar_core::ids::{Kind, TurnToken};
use kar_core::reminder::{CatchUp, ReminderChange};
use kar_core::schedule::Schedule;

use crate::plan::{MS, Names, Us};
use crate::rng::Rng;
use crate::script::Spec;

/// What is done about reminders of an actor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Remind {
    Set {
        /// The tag that its firings carry.
        tag: u64,
        /// Number of the id.
        id: usize,
        /// How long from now it is due; some are due already.
        after: Us,
        /// In milliseconds.
        period: Option<u64>,
        catch_up: CatchUp,
    },
    Cancel(usize),
    CancelAll,
    /// Asks which there are.
    List,
}

impl Remind {
    /// Draws a change; `tag` is for what it may schedule.
    pub(crate) fn draw(rng: &mut Rng, tag: u64) -> Self {
        let id = rng.index(REMINDERS);
        match rng.below(10) {
            8..=9 => Self::List,
            0 => Self::CancelAll,
            1..=2 => Self::Cancel(id),
            _ => {
                let period = rng.chance(400).then(|| rng.range(60, 800));
                let catch_up = match rng.below(3) {
                    0 => CatchUp::Once,
                    1 => CatchUp::Each,
                    _ => CatchUp::Skip,
                };
                let after = if rng.chance(150) { 0 } else { rng.range(0, 600 * MS) };
                Self::Set { tag, id, after, period, catch_up }
            }
        }
    }

    /// Whether a logged change is this one.
    pub(crate) fn is(&self, change: &ReminderChange) -> bool {
        match (self, change) {
            (Self::Set { tag, .. }, ReminderChange::Set(reminder)) => {
                Spec::read(&reminder.payload).tag == *tag
            }
            (Self::Cancel(id), ReminderChange::Cancel(name)) => **name == format!("k{id}"),
            (Self::CancelAll, ReminderChange::CancelAll) => true,
            _ => false,
        }
    }

    /// The same with another tag.
    pub(crate) fn with_tag(&self, new: u64) -> Self {
        match self.clone() {
            Self::Set { id, after, period, catch_up, .. } => {
                Self::Set { tag: new, id, after, period, catch_up }
            }
            other => other,
        }
    }

    /// The request, of a turn or from outside, at a time.
    pub(crate) fn operation(
        &self,
        names: &Names,
        now: u64,
        turn: Option<TurnToken>,
        (kind, actor): (Kind, Arc<str>),
    ) -> Operation {
        let name = |id: usize| names.keys[id].clone();
        let ask = match self {
            Self::List => return Operation::Reminders { turn, kind, actor },
            Self::Set { tag, id, after, period, catch_up } => {
                let spec = Spec { tag: *tag, rings: true, ..Spec::default() };
                ReminderAsk::Schedule(ReminderSpec {
                    id: name(*id),
                    method: names.method_of(*tag, true),
                    payload: spec.payload(names),
                    due: Some(now + after / MS),
                    // Shared methods cannot cancel it, and it is to end.
                    schedule: period
                        .filter(|_| !names.is_shared(*tag))
                        .map_or(Schedule::Once, Schedule::Every),
                    catch_up: *catch_up,
                })
            }
            Self::Cancel(id) => ReminderAsk::Cancel(name(*id)),
            Self::CancelAll => ReminderAsk::CancelAll,
        };
        Operation::Remind { turn, kind, actor, ask }
    }
}

/// Reminders that an actor may have; they are named after keys.
const REMINDERS: usize = 2;
