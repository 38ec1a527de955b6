//! The requests under way on one component stream: their credits, and which of them are still to be answered.

use std::collections::HashMap;

use kar_core::ids::RequestId;
use tonic::Status;

use crate::convert::error;

/// Requests by the component's numbers. Each is in here from its frame to its one response.
#[derive(Debug)]
pub struct Requests {
    under_way: HashMap<u64, UnderWay>,
    /// How many there may be.
    max: usize,
    /// How many there have been.
    begun: u64,
}

/// One request. The component uses a number again once it was answered, and what it had asked for under that number
/// before may end only then, if it was given up: so each request has a serial number, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The component's number.
    pub id: u64,
    serial: u64,
}

#[derive(Debug)]
struct UnderWay {
    serial: u64,
    /// What the core knows it as, if it does.
    request: Option<RequestId>,
}

impl Requests {
    /// None yet, and `max` at once.
    pub fn new(max: usize) -> Self {
        Self { under_way: HashMap::new(), max, begun: 0 }
    }

    /// A request comes in.
    ///
    /// # Errors
    ///
    /// If its number is in use, or more requests are under way than were allowed.
    pub fn begin(&mut self, id: u64) -> Result<Ticket, Status> {
        if self.under_way.len() >= self.max {
            let what = format!("more than {} requests are under way", self.max);
            return Err(error::protocol_violation("request", &what));
        }
        if self.under_way.contains_key(&id) {
            return Err(error::protocol_violation("request", &format!("id {id} is in use")));
        }
        self.begun += 1;
        let serial = self.begun;
        self.under_way.insert(id, UnderWay { serial, request: None });
        Ok(Ticket { id, serial })
    }

    /// The core knows it as `request`; nothing happens if it was answered meanwhile.
    pub fn known_as(&mut self, ticket: Ticket, request: RequestId) {
        if let Some(entry) = self.under_way.get_mut(&ticket.id)
            && entry.serial == ticket.serial
        {
            entry.request = Some(request);
        }
    }

    /// It has come to something; tells whether it is to be answered, which it is but once.
    pub fn end(&mut self, ticket: Ticket) -> bool {
        let is_awaited =
            self.under_way.get(&ticket.id).is_some_and(|entry| entry.serial == ticket.serial);
        if is_awaited {
            self.under_way.remove(&ticket.id);
        }
        is_awaited
    }

    /// Nobody waits for it any more, so it ends here, and is to be answered at once: what the core knows it as, if it
    /// does. `None` if it was answered meanwhile.
    pub fn forget(&mut self, id: u64) -> Option<Option<RequestId>> {
        self.under_way.remove(&id).map(|entry| entry.request)
    }

    /// Takes all that the core knows: the stream has ended.
    pub fn take(&mut self) -> Vec<RequestId> {
        self.under_way.drain().filter_map(|(_, entry)| entry.request).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(requests: &mut Requests, id: u64) -> Ticket {
        requests.begin(id).expect("there is a credit, and the number is free")
    }

    #[test]
    fn credits_and_numbers_are_free_again_when_a_request_was_answered_or_forgotten() {
        let mut requests = Requests::new(2);
        let (first, _second) = (begun(&mut requests, 1), begun(&mut requests, 2));
        assert!(requests.begin(3).is_err(), "there were two credits");
        assert!(requests.end(first));
        assert!(requests.begin(2).is_err(), "the number is in use");
        let third = begun(&mut requests, 3);
        assert!(requests.forget(2).is_some());
        begun(&mut requests, 2);
        assert!(requests.begin(4).is_err(), "each gave one credit back");
        assert!(requests.end(third));
        begun(&mut requests, 4);
    }

    #[test]
    fn a_request_is_answered_once_whether_it_is_forgotten_first_or_ends_first() {
        let mut requests = Requests::new(2);
        let forgotten = begun(&mut requests, 1);
        requests.known_as(forgotten, RequestId(7));
        assert_eq!(requests.forget(1), Some(Some(RequestId(7))));
        assert!(!requests.end(forgotten), "it has its answer");
        assert_eq!(requests.forget(1), None, "twice is once");
        let ended = begun(&mut requests, 1);
        assert!(requests.end(ended));
        assert_eq!(requests.forget(1), None, "its answer is on its way");
        assert!(!requests.end(ended));
    }

    #[test]
    fn what_was_forgotten_does_not_answer_for_the_next_one_of_its_number() {
        let mut requests = Requests::new(1);
        let old = begun(&mut requests, 1);
        requests.forget(1);
        let new = begun(&mut requests, 1);
        requests.known_as(old, RequestId(7));
        assert!(!requests.end(old), "that one is not asked for any more");
        requests.known_as(new, RequestId(8));
        assert_eq!(requests.take(), [RequestId(8)]);
        assert!(!requests.end(new), "the stream has ended");
    }
}
