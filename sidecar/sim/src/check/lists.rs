//! Lists of reminders show what is durable, as reads of state do; in a turn they show what it has made of that. And no
//! actor or partition has more reminders than its bounds allow.

use std::collections::BTreeMap;
use std::sync::Arc;

use kar_core::effect::{RequestError, Response};
use kar_core::ids::{NodeId, Offset};
use kar_core::reminder::Reminder;

use super::Judge;
use crate::history::{Answer, Item, ItemKind};
use crate::remind::Remind;
use crate::script::Spec;

/// What a list shows of a reminder: its id, when it is due, and its tag.
pub(crate) type Line = (Arc<str>, u64, u64);

/// A list.
pub(crate) type Shown = Vec<Line>;

/// Every list that an actor's reminders had, by the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions(BTreeMap<Arc<str>, Vec<Shown>>);

impl Versions {
    fn of(&self, actor: &Arc<str>) -> &[Shown] {
        self.0.get(actor).map_or(&[], Vec::as_slice)
    }
}

/// What is shown of a reminder that is due at a time.
pub(super) fn shown(reminder: &Reminder, due: u64) -> Line {
    (reminder.id.clone(), due, Spec::read(&reminder.payload).tag)
}

impl Judge<'_> {
    /// The reminders of an actor have changed, by the log.
    pub(super) fn reminders_changed(&mut self, log: usize, offset: Offset, actor: &Arc<str>) {
        let model = &mut self.logs[log];
        let now = model.reminders.shown_of(actor);
        let (count, bytes) = model.reminders.tally();
        let (own_max, count_max, bytes_max) = self.history.reminders_max;
        let (own, id) = (now.len(), model.id.clone());
        model.reminders.versions.0.entry(actor.clone()).or_default().push(now);
        if own > own_max || count > count_max || bytes > bytes_max {
            let text = format!("{id}@{offset}: {own} of {actor}, {count} in all, {bytes} bytes");
            self.wrong("bounds of reminders", text);
        }
    }

    /// How many lists an actor had so far, the empty one at first not counted; and these.
    fn lists_of(&self, req: usize) -> &[Shown] {
        let (names, request) = (&self.history.names, &self.history.reqs[req]);
        let kind = &names.kinds[request.kind];
        let Some(actor) = request.actor.map(|a| &names.actors[a]) else { return &[] };
        // An actor lives in one of them.
        let logs = self.logs.iter().filter(|log| log.id.kind == *kind);
        let mut lists = logs.map(|log| log.reminders.versions.of(actor));
        lists.find(|lists| !lists.is_empty()).unwrap_or_default()
    }

    /// A node took the request for a list in.
    pub(super) fn list_asked(&mut self, req: usize) {
        let floor = self.lists_of(req).len();
        self.read_floors.insert(req, floor);
    }

    /// A node answers the request for a list.
    pub(super) fn check_list(&mut self, node: NodeId, req: usize, answer: &Answer) {
        let request = &self.history.reqs[req];
        let late = request.arrived.is_some_and(|at| self.now >= at + self.history.accept_timeout);
        let all = match answer {
            Ok(Response::Reminders(all)) => all,
            Err(RequestError::Limit(_)) if self.history.small_limits => return,
            // Nobody could answer for that long.
            Err(RequestError::Unavailable(_)) if late => return,
            other => {
                let text = format!("{node:?} answers q{req}: {other:?}");
                return self.wrong("P9 errors", text);
            }
        };
        let seen: Shown = all.iter().map(|reminder| shown(reminder, reminder.due)).collect();
        let lists = self.lists_of(req);
        let floor = self.read_floors.get(&req).copied().unwrap_or(lists.len());
        let fits = |at: usize| match at.checked_sub(1) {
            Some(at) => lists[at] == seen,
            None => seen.is_empty(),
        };
        if !(floor..=lists.len()).any(fits) {
            let text = format!("{node:?} answers q{req}: {seen:?}, not {:?}", lists.last());
            self.wrong("lists show what is durable", text);
        }
    }

    /// A turn is told of its actor's reminders: as it has made them.
    pub(super) fn check_list_in_turn(
        &mut self,
        (run, item): (usize, usize),
        all: &[Arc<Reminder>],
    ) {
        let names = self.history.names.clone();
        let Some((changed, cleared)) = buffered(&self.history.runs[run].items[..item]) else {
            return;
        };
        let shows = |id: usize, tag: u64| {
            all.iter().any(|r| r.id == names.keys[id] && Spec::read(&r.payload).tag == tag)
        };
        let has = |id: usize| all.iter().any(|r| r.id == names.keys[id]);
        let as_made = |(id, tag): (&usize, &Option<u64>)| match tag {
            Some(tag) => shows(*id, *tag),
            None => !has(*id),
        };
        let kept = changed.values().flatten().count();
        if !changed.iter().all(as_made) || (cleared && all.len() != kept) {
            let text = format!("r{run}.{item} made {changed:?}, cleared: {cleared}; sees {all:?}");
            self.wrong("turns see their reminders", text);
        }
    }
}

/// What a turn has changed since it was last durable: by number of the id, with the tag of what is scheduled; and
/// whether it cancelled all before. Nothing, if that is not known.
fn buffered(items: &[Item]) -> Option<(BTreeMap<usize, Option<u64>>, bool)> {
    let (mut changed, mut cleared) = (BTreeMap::new(), false);
    for item in items {
        match (&item.what, &item.answer) {
            (ItemKind::Flush | ItemKind::Once(_) | ItemKind::Call(..), _) => {
                (changed, cleared) = (BTreeMap::new(), false);
            }
            (ItemKind::Remind(Remind::List), _) => {}
            (ItemKind::Remind(_), None) => return None,
            (ItemKind::Remind(_), Some(Err(_))) => {}
            (ItemKind::Remind(Remind::Set { id, tag, .. }), _) => {
                changed.insert(*id, Some(*tag));
            }
            (ItemKind::Remind(Remind::Cancel(id)), _) => {
                changed.insert(*id, None);
            }
            (ItemKind::Remind(Remind::CancelAll), _) => {
                (changed, cleared) = (BTreeMap::new(), true);
            }
            _ => {}
        }
    }
    Some((changed, cleared))
}
