//! What is decided before a consumer's stream begins: whether there may be another one, and where it begins.

use std::sync::atomic::Ordering;

use kar_core::limits::LimitHit;
use tonic::Status;

use crate::bus::TopicView;
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
        ConsumeStart::Positions(positions) => {
            let mut begin: Vec<_> = earliest().collect();
            for place in positions {
                let Some(offset) = begin.get_mut(place.partition as usize) else {
                    let what = format!("'{place}' is in no partition of the topic");
                    return Err(invalid_field("start.positions", &what));
                };
                *offset = place.offset;
            }
            Ok(begin)
        }
    }
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
