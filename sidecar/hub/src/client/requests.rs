//! Requests that wait for their answers. They outlive connections: each one sends again what waits.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use kar_proto::hub::v1 as wire;
use wire::state_request::Request;
use wire::state_response::Response;

use crate::error::HubError;

/// Requests that may wait, per client.
const REQUESTS_MAX: usize = 10_000;

/// See the module.
pub(super) struct Requests {
    waiting: BTreeMap<u64, Waiting>,
    /// Of all of them.
    bytes: usize,
    /// They may have so many together, so that they fit into the queue of a new connection beside
    /// other things.
    bytes_max: usize,
    next: u64,
}

struct Waiting {
    request: Request,
    bytes: usize,
    answer: oneshot::Sender<Response>,
}

// === impl Requests ===

impl Requests {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { waiting: BTreeMap::new(), bytes: 0, bytes_max, next: 0 }
    }

    /// Takes a request that is to be sent now or later; returns its number and length.
    pub(super) fn add(
        &mut self,
        request: Request,
    ) -> Result<(u64, usize, oneshot::Receiver<Response>), HubError> {
        let bytes = request.encoded_len();
        if !self.has_room(bytes) {
            self.forget_unwanted();
            if !self.has_room(bytes) {
                return Err(HubError::Busy(format!(
                    "{} requests of {} bytes wait for the hub already, and this one has {bytes} \
                     (there may be {REQUESTS_MAX}, of {} bytes)",
                    self.waiting.len(),
                    self.bytes,
                    self.bytes_max,
                )));
            }
        }
        self.next += 1;
        self.bytes += bytes;
        let (answer, answered) = oneshot::channel();
        self.waiting.insert(self.next, Waiting { request, bytes, answer });
        Ok((self.next, bytes, answered))
    }

    fn has_room(&self, bytes: usize) -> bool {
        // One alone is taken, however long: it is no longer than a message.
        let fits = self.bytes + bytes <= self.bytes_max || self.waiting.is_empty();
        fits && self.waiting.len() < REQUESTS_MAX
    }

    /// Those that nobody waits for any more.
    fn forget_unwanted(&mut self) {
        self.waiting.retain(|_, waiting| !waiting.answer.is_closed());
        self.bytes = self.waiting.values().map(|waiting| waiting.bytes).sum();
    }

    /// Passes an answer on.
    pub(super) fn answer(&mut self, number: u64, response: Option<Response>) {
        let Some(waiting) = self.waiting.remove(&number) else { return };
        self.bytes -= waiting.bytes;
        if let Some(response) = response {
            // Whoever asked may have stopped waiting; that is their right.
            let _ = waiting.answer.send(response);
        }
    }

    /// What a new connection has to send: number, request, length.
    pub(super) fn again(&mut self) -> Vec<(u64, Request, usize)> {
        self.forget_unwanted();
        let all = self.waiting.iter();
        all.map(|(&number, waiting)| (number, waiting.request.clone(), waiting.bytes)).collect()
    }

    /// There will be no answers.
    pub(super) fn abandon(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(bytes: usize) -> Request {
        Request::Get(wire::GetState { key: "k".repeat(bytes) })
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let mut requests = Requests::new(10_000);
        let (_, _, long) = requests.add(get(20_000)).expect("one alone");
        assert!(matches!(requests.add(get(1)), Err(HubError::Busy(_))));
        drop(long);
        let answers: Vec<_> = (0..9).map(|_| requests.add(get(1_000)).expect("room")).collect();
        assert!(matches!(requests.add(get(1_000)), Err(HubError::Busy(_))));
        assert!(requests.again().iter().map(|(_, _, bytes)| bytes).sum::<usize>() <= 10_000);
        let (number, ..) = answers[0];
        requests.answer(number, Some(Response::Got(wire::GotState { entry: None })));
        requests.add(get(1_000)).expect("there is room again");
        let mut requests = Requests::new(usize::MAX);
        let answers: Vec<_> =
            (0..REQUESTS_MAX).map(|_| requests.add(get(1)).expect("room")).collect();
        assert!(matches!(requests.add(get(1)), Err(HubError::Busy(_))));
        drop(answers);
        requests.add(get(1)).expect("nobody waits for the others");
        assert_eq!(requests.again().len(), 0);
    }
}
