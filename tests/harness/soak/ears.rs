//! Events in a soak: published singly, in batches and by turns, and delivered to actors that know which one comes next.

use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{PublishBatchRequest, PublishRequest};
use serde_json::{Value, json};

use super::Soak;
use crate::events::{publication, to_actors};
use crate::fire::PROGRESS_LIMIT;

/// The topic, and how many partitions it has.
pub(super) const TOPIC: &str = "words";
const PARTITIONS: i32 = 2;

/// Shorter than that, an event might be gone before it is delivered while everything is killed.
pub(super) const RETENTION_MIN: Duration = Duration::from_secs(60);

/// Events of one batch.
const BATCH: u64 = 8;

/// Events that one turn publishes.
const SPOKEN: u64 = 2;

/// How long such a turn works, ms; so that kills land in it.
const SPEAK_MS: u64 = 10;

/// Publishers as their events name them. Each keeps its own order; between them there is none.
const CLIENT: &str = "client";
const TURNS: &str = "turns";

impl Soak {
    /// Makes the topic, and tells actors of its events.
    pub(super) async fn open_ears(&self, retention: Duration) {
        let created = self.client.create_topic_for(TOPIC, PARTITIONS, retention).await;
        created.expect("a topic can be made");
        let subscription = to_actors("ears", TOPIC, ("Ear", "partitionkey"), "follow");
        self.client.subscribe(subscription).await.expect("subscribed");
    }

    /// Publishes some events to an ear, and goes on when it has heard each of them, once and in order.
    pub(super) async fn ears(self: Rc<Self>, number: u64) {
        let (ear, speaker) = (format!("ear-{number}"), format!("speaker-{number}"));
        let argument = json!({
            "topic": TOPIC, "key": ear, "from": TURNS, "events": SPOKEN, "milliseconds": SPEAK_MS,
        });
        let (mut told, mut spoken) = (0, 0);
        while !self.load.over.get() {
            told = self.publish(&ear, told).await;
            spoken += SPOKEN;
            let answer = self.call("Ear", &speaker, "speak", &argument).await;
            self.counted("speeches", &speaker, spoken, answer);
            self.heard(&ear, told, spoken).await;
            self.done_many("events", 1 + BATCH + SPOKEN);
        }
    }

    /// Publishes a client's next events to an ear: one by itself, and a batch; the last one's number.
    async fn publish(&self, ear: &str, last: u64) -> u64 {
        let event = |number| publication(TOPIC, ear, &json!({ "from": CLIENT, "number": number }));
        let request_id = format!("{ear}/{last}");
        let single = PublishRequest { request_id: request_id.clone(), ..event(last + 1) };
        if let Err(error) = self.client.publish_until_told(single, PROGRESS_LIMIT).await {
            self.error("publish", &error);
        }
        let numbers = last + 2..=last + 1 + BATCH;
        let events = numbers.map(event).collect();
        let batch = PublishBatchRequest { events, request_id: format!("{request_id}/batch") };
        if let Err(error) = self.client.publish_batch_until_told(batch, PROGRESS_LIMIT).await {
            self.error("publish a batch", &error);
        }
        last + 1 + BATCH
    }

    /// Waits until an ear has heard what it is to hear, and judges that.
    async fn heard(&self, ear: &str, told: u64, spoken: u64) {
        let all = |state: &Value| {
            let heard = |from: &str| state[format!("last/{from}")].as_u64().unwrap_or_default();
            heard(CLIENT) >= told && heard(TURNS) >= spoken
        };
        let state = self.state_when("Ear", ear, all).await;
        let count = |what: &str, from| state[format!("{what}/{from}")].as_u64().unwrap_or_default();
        for (from, published) in [(CLIENT, told), (TURNS, spoken)] {
            self.expect(&format!("{ear}, last of {from}"), published, count("last", from));
            self.expect(&format!("{ear}, heard again of {from}"), 0, count("again", from));
            let missed = count("gap", from);
            self.expect(
                &format!("{ear}, heard of {from}"),
                published,
                published.saturating_sub(missed),
            );
        }
    }
}
