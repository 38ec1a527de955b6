//! What the core asks of topics, carried out over a [`Bus`]: appending what partitions owe, learning what has landed,
//! and reading what subscriptions deliver. Each is a task of its own whose end comes back as an event; whether it is
//! asked again, and when, the core decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use kar_core::Event;
use kar_core::events::PublishResult;
use kar_core::ids::{Number, Offset, PartitionId, TopicPartition, Uuid};
use kar_core::subscription::{FetchId, FetchResult, FetchedEvent};
use tokio::task::AbortHandle;

use crate::bus::{Bus, BusError, Fetch, Fetched, Landed, fetch_wait};
use crate::convert::event::decode_event;
use crate::driver::Driver;
use crate::driver::outlets::{PublishAsk, Topics};

/// Events that one append takes, number and bytes: what one request to the hub may have.
const PIECE: (usize, usize) = (1_000, 4 << 20);

/// Topics behind a bus, for a driver.
pub struct BusTopics {
    bus: Arc<dyn Bus>,
    driver: Weak<Driver>,
    wait: Duration,
    /// Fetches under way: one for each partition of a subscription's topic.
    fetches: Arc<Mutex<Fetches>>,
}

/// By who reads: the subscription's partition, the subscription, the topic's partition; with the fetch's number.
type Fetches = HashMap<(PartitionId, Uuid, u32), (u64, AbortHandle)>;

// === impl BusTopics ===

impl BusTopics {
    /// The topics behind a bus, which answers within a time.
    pub fn new(bus: Arc<dyn Bus>, driver: &Arc<Driver>, bus_timeout: Duration) -> Self {
        let wait = fetch_wait(bus_timeout);
        Self { bus, driver: Arc::downgrade(driver), wait, fetches: Arc::default() }
    }
}

impl Topics for BusTopics {
    fn append(&self, ask: PublishAsk, events: Vec<(Number, Bytes)>) {
        let (bus, driver) = (Arc::clone(&self.bus), Weak::clone(&self.driver));
        tokio::spawn(async move {
            let result = append(&*bus, &ask, events).await;
            answer(&driver, ask, result);
        });
    }

    fn learn(&self, ask: PublishAsk, since: Offset) {
        let (bus, driver) = (Arc::clone(&self.bus), Weak::clone(&self.driver));
        tokio::spawn(async move {
            let TopicPartition { id, partition } = ask.to.clone();
            let result = match bus.learn(id, partition, ask.channel, since).await {
                Ok(landed) => in_topic(landed),
                Err(error) => failed(&ask.to, &error),
            };
            answer(&driver, ask, result);
        });
    }

    fn fetch(&self, id: FetchId, topic_id: Arc<str>, from: Offset, max: (usize, usize)) {
        let (bus, driver) = (Arc::clone(&self.bus), Weak::clone(&self.driver));
        let fetches = Arc::clone(&self.fetches);
        let (key, serial) = (key(&id), id.serial);
        let fetch = Fetch {
            partition: id.topic_partition,
            first: from,
            bytes_max: u32::try_from(max.1).unwrap_or(u32::MAX),
            wait: self.wait,
            session: None,
        };
        let own_key = key.clone();
        // Before the task can end.
        let mut under_way = lock(&self.fetches);
        let task = tokio::spawn(async move {
            let result = match bus.fetch(Arc::clone(&topic_id), fetch).await {
                Ok(fetched) => read(&topic_id, id.topic_partition, fetched, max.0),
                Err(BusError::UnknownTopic) => FetchResult::Gone,
                Err(error) => {
                    // The core says so to people when it goes on.
                    tracing::debug!(topic_id = &*topic_id, %error, "events could not be read");
                    FetchResult::Unavailable
                }
            };
            let mut under_way = lock(&fetches);
            if under_way.get(&own_key).is_some_and(|(current, _)| *current == serial) {
                under_way.remove(&own_key);
            }
            drop(under_way);
            if let Some(driver) = driver.upgrade() {
                driver.handle(Event::Fetched { id, result });
            }
        });
        let old = under_way.insert(key, (serial, task.abort_handle()));
        if let Some((_, old)) = old {
            // Of an earlier reign: nobody wants its answer.
            old.abort();
        }
    }

    fn stop_fetch(&self, id: &FetchId) {
        let (mut fetches, key) = (lock(&self.fetches), key(id));
        if fetches.get(&key).is_some_and(|(current, _)| *current == id.serial)
            && let Some((_, task)) = fetches.remove(&key)
        {
            task.abort();
        }
    }

    fn stop(&self, partition: &PartitionId) {
        lock(&self.fetches).retain(|(reader, ..), (_, task)| {
            let stays = reader != partition;
            if !stays {
                task.abort();
            }
            stays
        });
    }
}

impl Drop for BusTopics {
    fn drop(&mut self) {
        for (_, task) in lock(&self.fetches).values() {
            task.abort();
        }
    }
}

fn key(id: &FetchId) -> (PartitionId, Uuid, u32) {
    (id.partition.clone(), id.subscription, id.topic_partition)
}

fn lock(fetches: &Mutex<Fetches>) -> MutexGuard<'_, Fetches> {
    // Nothing panics while it is held.
    fetches.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(driver: &Weak<Driver>, ask: PublishAsk, result: PublishResult) {
    // If the driver is gone nobody waits for it.
    let Some(driver) = driver.upgrade() else { return };
    let PublishAsk { partition, to, serial, .. } = ask;
    driver.handle(Event::Published { partition, to, serial, result });
}

/// Appends in pieces, each of which has landed before the next one goes.
async fn append(bus: &dyn Bus, ask: &PublishAsk, events: Vec<(Number, Bytes)>) -> PublishResult {
    let mut events = events.into_iter().peekable();
    let mut landed = Landed { number: 0, offset: 0 };
    while events.peek().is_some() {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while piece.len() < PIECE.0
            && let Some(event) =
                events.next_if(|(_, event)| bytes == 0 || bytes + event.len() <= PIECE.1)
        {
            bytes += event.1.len().max(1);
            piece.push(event);
        }
        let TopicPartition { id, partition } = ask.to.clone();
        match bus.append(id, partition, ask.channel, piece).await {
            Ok(told) => landed = told,
            Err(error) => return failed(&ask.to, &error),
        }
    }
    in_topic(landed)
}

fn in_topic(landed: Landed) -> PublishResult {
    PublishResult::Landed { upto: landed.number, offset: landed.offset }
}

fn failed(to: &TopicPartition, error: &BusError) -> PublishResult {
    match error {
        BusError::UnknownTopic => PublishResult::Gone,
        BusError::Unavailable(_) => {
            tracing::debug!(topic = %to, %error, "events of turns wait");
            PublishResult::Unavailable
        }
        other => {
            // A bound of the hub, say, which somebody has to raise.
            tracing::warn!(topic = %to, error = %other, "events of turns wait");
            PublishResult::Unavailable
        }
    }
}

fn read(topic_id: &str, partition: u32, fetched: Fetched, max: usize) -> FetchResult {
    let Fetched { first, events, end } = fetched;
    let mut read = Vec::with_capacity(events.len().min(max));
    for (offset, (_, stored)) in (first..).zip(events).take(max.max(1)) {
        match decode_event(stored.clone()) {
            Ok(event) => read.push(FetchedEvent { offset, event, stored }),
            Err(error) => {
                if read.is_empty() {
                    // The core says so to people, once.
                    tracing::debug!(topic_id, partition, offset, %error, "an event is not understood");
                    return FetchResult::Unreadable(offset);
                }
                break;
            }
        }
    }
    let next = first + read.len() as u64;
    FetchResult::Events { events: read, next, start: first, end: end.max(next) }
}

#[cfg(test)]
mod tests {
    use kar_core::events::Draft;
    use kar_core::invocation::Payload;

    use super::*;
    use crate::convert::event::encode_event;

    fn stored() -> Bytes {
        let draft = Draft { data: Payload::default(), ..Draft::default() };
        let event = draft.complete(|| "1".to_owned(), "/s", Default::default());
        encode_event(&event.expect("an event"))
    }

    #[test]
    fn as_many_events_are_read_as_are_wanted() {
        let fetched = |events| Fetched { first: 5, events, end: 9 };
        let three = vec![(1, stored()), (1, stored()), (1, stored())];
        let FetchResult::Events { events, next, start, end } = read("t", 0, fetched(three), 2)
        else {
            panic!("there are some")
        };
        let offsets: Vec<_> = events.iter().map(|event| event.offset).collect();
        assert_eq!((offsets, next, start, end), (vec![5, 6], 7, 5, 9));
        let none = read("t", 0, fetched(Vec::new()), 2);
        assert_eq!(none, FetchResult::Events { events: Vec::new(), next: 5, start: 5, end: 9 });
        let no_event = Bytes::from_static(&[0xff]);
        let partly = vec![(1, stored()), (1, no_event.clone())];
        assert!(matches!(read("t", 0, fetched(partly), 9), FetchResult::Events { next: 6, .. }));
        assert_eq!(read("t", 0, fetched(vec![(1, no_event)]), 9), FetchResult::Unreadable(5));
    }
}
