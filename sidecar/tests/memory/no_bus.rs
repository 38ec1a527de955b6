//! A bus without topics: what the tests here are about has no part in events, which have tests with a real hub.

use bytes::Bytes;
use kar::bus::{
    Bus, BusError, BusFuture, ConsumerSession, EventPlace, Fetch, Fetched, Landed, NewEvent,
    SessionName, TopicId, TopicInfo, TopicPage, TopicSettings, TopicView,
};
use kar_core::events::ConsumerPosition;
use kar_core::ids::{Millis, Uuid};

/// See the module.
pub(crate) struct NoBus;

fn none<T: Send + 'static>() -> BusFuture<T> {
    Box::pin(async { Err(BusError::UnknownTopic) })
}

impl Bus for NoBus {
    fn create_topic(&self, _: TopicSettings) -> BusFuture<(TopicInfo, bool)> {
        none()
    }

    fn delete_topic(&self, _: String, _: Option<String>) -> BusFuture<bool> {
        none()
    }

    fn topic(&self, _: String) -> BusFuture<TopicView> {
        none()
    }

    fn topics(&self, _: u32, _: String) -> BusFuture<TopicPage> {
        none()
    }

    fn publish(&self, _: TopicId, _: Vec<NewEvent>) -> BusFuture<Vec<EventPlace>> {
        none()
    }

    fn append(&self, _: TopicId, _: u32, _: Uuid, _: Vec<(u64, Bytes)>) -> BusFuture<Landed> {
        none()
    }

    fn learn(&self, _: TopicId, _: u32, _: Uuid, _: u64) -> BusFuture<Landed> {
        none()
    }

    fn fetch(&self, _: TopicId, _: Fetch) -> BusFuture<Fetched> {
        none()
    }

    fn seek(&self, _: TopicId, _: u32, _: Millis) -> BusFuture<u64> {
        none()
    }

    fn open_consumer(&self, _: TopicId, _: String, _: Vec<u64>) -> BusFuture<ConsumerSession> {
        none()
    }

    fn commit_consumer(
        &self,
        _: TopicId,
        _: SessionName,
        _: Vec<(u32, ConsumerPosition)>,
    ) -> BusFuture<()> {
        none()
    }

    fn delete_consumer(&self, _: TopicId, _: String) -> BusFuture<bool> {
        none()
    }
}
