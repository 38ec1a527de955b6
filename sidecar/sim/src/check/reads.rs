//! Reads from outside turns show what is durable: one of the states that the actor had, by the log, between the
//! question and the answer. So they never show what is not committed, and whatever was durable, hence whatever
//! anybody can have been told, before they were asked for.

use kar_core::effect::{RequestError, Response};
use kar_core::ids::NodeId;
use kar_core::invocation::StateOp;

use super::Judge;
use crate::history::{Answer, Keys};
use crate::reading::Reading;
use crate::store::apply;

impl Judge<'_> {
    /// A node took a read in.
    pub(crate) fn read_asked(&mut self, req: usize) {
        let floor = self.writes_to(req).len();
        self.read_floors.insert(req, floor);
    }

    /// What valid records did to the actor that a request reads, in order.
    fn writes_to(&self, req: usize) -> Vec<&[StateOp]> {
        let (names, request) = (&self.history.names, &self.history.reqs[req]);
        let kind = &names.kinds[request.kind];
        let Some(actor) = request.actor.map(|a| &names.actors[a]) else { return Vec::new() };
        // An actor lives in one of them.
        let logs = self.logs.iter().filter(|log| log.id.kind == *kind);
        let writes = logs.flat_map(|log| &log.writes).filter(|(_, of, _)| of == actor);
        writes.map(|(_, _, ops)| ops.as_slice()).collect()
    }

    /// A node answers a read.
    pub(crate) fn check_read(&mut self, node: NodeId, req: usize, answer: &Answer) {
        let request = &self.history.reqs[req];
        let seen = match answer {
            Ok(Response::State(seen)) => seen,
            Err(RequestError::Limit(_)) if self.history.small_limits => return,
            // Nobody could answer for that long.
            Err(RequestError::Unavailable(_))
                if request
                    .arrived
                    .is_some_and(|at| self.now >= at + self.history.accept_timeout) =>
            {
                return;
            }
            other => {
                let text = format!("{node:?} answers q{req}: {other:?}");
                return self.wrong("P9 errors", text);
            }
        };
        let (names, reading) = (&self.history.names, request.reads.unwrap_or(Reading::All));
        let (floor, writes) = (self.read_floors.get(&req).copied(), self.writes_to(req));
        let floor = floor.unwrap_or(writes.len());
        let (mut state, mut found) = (Keys::new(), None);
        let mut last = reading.of(names, &state);
        for at in 0..=writes.len() {
            last = reading.of(names, &state);
            if last == *seen {
                found = Some(at);
            }
            if let Some(ops) = writes.get(at) {
                ops.iter().for_each(|op| apply(&mut state, op));
            }
        }
        let raced = writes.len() > floor;
        self.counts.reads += 1;
        self.counts.reads_raced += u64::from(raced);
        let rule = match found {
            Some(at) if at >= floor => return,
            Some(_) => "reads are not older than what is durable",
            None => "reads show committed states",
        };
        let text = format!("{node:?} answers q{req}: {seen:?}, not {last:?}");
        self.wrong(rule, text);
    }
}
