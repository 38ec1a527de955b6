//! What sidecars hold when all is answered: that is bounded by what goes on, so it is back where it was before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kar_proto::v1::GetInfoRequest;

use super::{Soak, ears};
use crate::fire::{Fire, PROGRESS_LIMIT};
use crate::{Node, wait};

/// Figures of sidecars that fall to where they were, when what is kept for a time is gone, too. Actors are awake for
/// longer (`actor-idle-ms`); a soak has few.
const LEVELS: [&str; 16] = [
    "dead_letters_bytes_now",
    "dead_letters_now",
    "direct_bytes_now",
    "kept_bytes_now",
    "kept_now",
    "outbox_bytes_now",
    "outbox_now",
    "reminders_bytes_now",
    "reminders_now",
    "requests_open_now",
    "results_bytes_now",
    "results_now",
    "roots_open_now",
    "slots_waited_for_now",
    "unfinished_bytes_now",
    "unfinished_now",
];

/// What the topic's events take.
const TOPIC_BYTES: &str = "topic_bytes_now";

/// Figures by name.
pub(super) type Levels = BTreeMap<&'static str, i64>;

impl Soak {
    /// The sums of all sidecars' figures; `None`: one does not answer.
    pub(super) async fn levels(&self, front: &Node, fire: &Fire) -> Option<Levels> {
        let mut sums = Levels::new();
        for node in fire.nodes().chain([front]) {
            let client = node.client().await;
            let info = client.system().get_info(GetInfoRequest {}).await.ok()?.into_inner();
            for name in LEVELS {
                // A figure that is not there any more would always be low enough.
                *sums.entry(name).or_default() += info.counters.get(name)?;
            }
        }
        let topic = self.client.topic(ears::TOPIC).await.ok()?;
        let bytes = topic.partitions.iter().map(|partition| partition.bytes).sum();
        sums.insert(TOPIC_BYTES, bytes);
        Some(sums)
    }

    /// Waits until nothing is kept any more; what is left nevertheless, with what was there before.
    pub(super) async fn left(
        &self,
        before: Levels,
        front: &Node,
        fire: &Fire,
        retention: Duration,
    ) -> BTreeMap<&'static str, (i64, i64)> {
        let deadline = Instant::now() + retention + PROGRESS_LIMIT;
        wait::until("figures of every sidecar", retention + 2 * PROGRESS_LIMIT, async || {
            let now = self.levels(front, fire).await?;
            let more = |(name, now): (&'static str, i64)| {
                let before = before[name];
                (now > before).then_some((name, (before, now)))
            };
            let left: BTreeMap<_, _> = now.into_iter().filter_map(more).collect();
            (left.is_empty() || Instant::now() > deadline).then_some(left)
        })
        .await
    }
}
