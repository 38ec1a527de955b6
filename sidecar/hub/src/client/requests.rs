//! Requests that wait for their answers. They outlive connections: each one sends again what waits.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::oneshot;

use kar_proto::hub::v1 as wire;
use wire::state_request::Request;
use wire::state_response::Response;

use crate::error::HubError;

/// Requests that may wait, per client.
const REQUESTS_MAX: usize = 10_000;
/// Fetches among them that may wait for events: those who read many topics must leave room for everything else.
const FETCHES_MAX: usize = REQUESTS_MAX / 2;

/// See the module.
pub(super) struct Requests {
    waiting: BTreeMap<u64, Waiting>,
    /// How many of them are fetches.
    fetches: usize,
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
    since: Instant,
}

// === impl Requests ===

impl Requests {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { waiting: BTreeMap::new(), fetches: 0, bytes: 0, bytes_max, next: 0 }
    }

    /// Takes a request that is to be sent now or later; returns its number and length.
    pub(super) fn add(
        &mut self,
        request: Request,
    ) -> Result<(u64, usize, oneshot::Receiver<Response>), HubError> {
        let bytes = request.encoded_len();
        let is_fetch = is_fetch(&request);
        if is_fetch && self.fetches >= FETCHES_MAX {
            return Err(HubError::Busy(format!(
                "{FETCHES_MAX} fetches wait for events already: read fewer partitions of topics here"
            )));
        }
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
        self.fetches += usize::from(is_fetch);
        let (answer, answered) = oneshot::channel();
        let since = Instant::now();
        self.waiting.insert(self.next, Waiting { request, bytes, answer, since });
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
        self.fetches = self.waiting.values().filter(|waiting| is_fetch(&waiting.request)).count();
    }

    fn take(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.bytes -= waiting.bytes;
        self.fetches -= usize::from(is_fetch(&waiting.request));
        Some(waiting)
    }

    /// Passes an answer on.
    pub(super) fn answer(&mut self, number: u64, response: Option<Response>) {
        let Some(waiting) = self.take(number) else { return };
        if let Some(response) = response {
            // Whoever asked may have stopped waiting; that is their right.
            let _ = waiting.answer.send(response);
        }
    }

    /// Nobody waits for the answer any more; says whether it was still to come.
    pub(super) fn forget(&mut self, number: u64) -> bool {
        self.take(number).is_some()
    }

    /// What a new connection has to send: number, request, length.
    pub(super) fn again(&mut self) -> Vec<(u64, Request, usize)> {
        self.forget_unwanted();
        let all = self.waiting.iter();
        all.map(|(&number, waiting)| (number, waiting.again(), waiting.bytes)).collect()
    }

    /// There will be no answers.
    pub(super) fn abandon(&mut self) {
        self.waiting.clear();
        (self.bytes, self.fetches) = (0, 0);
    }
}

fn is_fetch(request: &Request) -> bool {
    matches!(request, Request::FetchEvents(_))
}

// === impl Waiting ===

impl Waiting {
    /// The request as it is repeated on a later connection.
    fn again(&self) -> Request {
        let mut request = self.request.clone();
        if let Request::PublishEvents(publish) = &mut request {
            let ago = self.since.elapsed().as_millis();
            publish.sent_ms_ago = u64::try_from(ago).unwrap_or(u64::MAX).max(1);
        }
        request
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

    /// Somebody reads from more partitions than there may be: everything else goes on.
    #[test]
    fn fetches_that_wait_leave_room_for_everything_else() {
        let fetch = || Request::FetchEvents(wire::FetchEvents::default());
        let mut requests = Requests::new(usize::MAX);
        let fetches: Vec<_> =
            (0..FETCHES_MAX).map(|_| requests.add(fetch()).expect("room")).collect();
        assert!(matches!(requests.add(fetch()), Err(HubError::Busy(_))));
        let other = requests.add(get(1)).expect("there is room");
        assert!(requests.forget(fetches[0].0) && !requests.forget(fetches[0].0));
        requests.answer(fetches[1].0, None);
        let more: Vec<_> = (0..2).map(|_| requests.add(fetch()).expect("room again")).collect();
        assert!(requests.add(fetch()).is_err());
        drop((fetches, more));
        assert_eq!(requests.again().len(), 1, "nobody waits for the others");
        drop(other);
    }
}
