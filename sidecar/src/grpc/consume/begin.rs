//! What is decided before a consumer's stream begins: whether there may be another one, and where it begins.

use std::sync::atomic::Ordering;

use kar_core::events::EventPosition;
use kar_core::limits::LimitHit;
use tonic::Status;

use crate::bus::{TopicPartition, TopicView};
use crate::convert::api::{ConsumeOpen, ConsumeStart, bus_error};
use crate::convert::error::{invalid_field, limit_reached};
use crate::events::Events;

/// Counts one stream while it is there.
pub(super) struct Open(Events);

/// Where a new consumer begins, by number of the partition.
pub(super) async fn begin(
    events: &Events,
    open: &ConsumeOpen,
    view: &TopicView,
) -> Result<Vec<u64>, Status> {
    let earliest = || view.partitions.iter().map(|partition| partition.start);
    match &open.start {
        ConsumeStart::Earliest => Ok(earliest().collect()),
        ConsumeStart::Latest => Ok(view.partitions.iter().map(|p| p.end).collect()),
        ConsumeStart::Time(time) => {
            let mut begin = Vec::with_capacity(view.partitions.len());
            for partition in 0..view.topic.settings.partitions {
                let sought = events.bus().seek(view.topic.id.clone(), partition, *time).await;
                begin.push(sought.map_err(|error| bus_error(&error, &open.topic, ""))?);
            }
            Ok(begin)
        }
        ConsumeStart::Positions(positions) => placed(positions, &view.partitions),
    }
}

/// Where the partitions begin, those that are named at their places. A place beyond the end is refused: whatever is
/// published until the partition has come so far would be passed over, and nobody told.
fn placed(positions: &[EventPosition], partitions: &[TopicPartition]) -> Result<Vec<u64>, Status> {
    let mut begin: Vec<_> = partitions.iter().map(|partition| partition.start).collect();
    for place in positions {
        let at = place.partition as usize;
        let Some((offset, partition)) = begin.get_mut(at).zip(partitions.get(at)) else {
            let what = format!("'{place}' is in no partition of the topic");
            return Err(invalid_field("start.positions", &what));
        };
        if place.offset > partition.end {
            let what = format!("'{place}' is beyond the end of its partition, {}", partition.end);
            return Err(invalid_field("start.positions", &what));
        }
        *offset = place.offset;
    }
    Ok(begin)
}

// === impl Open ===

impl Open {
    pub(super) fn count(events: &Events) -> Result<Self, Status> {
        let limit = events.bounds().consume_streams_max;
        let before = events.counters().streams.fetch_add(1, Ordering::Relaxed);
        let open = Self(events.clone());
        if before >= limit {
            let name = "consume_streams_max";
            return Err(limit_reached(LimitHit { name, limit: limit as u64 }));
        }
        Ok(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters().streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_beyond_the_end_are_refused_by_name() {
        let partitions =
            [(1, 5), (3, 9)].map(|(start, end)| TopicPartition { start, end, bytes: 0 });
        let at = |partition, offset| [EventPosition { partition, offset }];
        assert_eq!(placed(&at(1, 9), &partitions).expect("its end"), [1, 9]);
        assert_eq!(placed(&at(0, 1), &partitions).expect("let go"), [1, 3]);
        let refused = placed(&at(1, 10), &partitions).expect_err("refused");
        assert!(refused.message().contains("'1/10' is beyond the end of its partition, 9"));
        assert!(placed(&at(2, 1), &partitions).is_err());
    }
}
