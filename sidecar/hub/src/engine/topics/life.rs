//! Topics come and go.

use std::sync::Arc;

use kar_proto::hub::v1 as wire;
use wire::meta::Meta;
use wire::state_response::Response;

use super::super::conn::ConnId;
use super::super::{Engine, Log, LogId, Then};
use super::publish::Memory;
use super::{TOPICS_APP, Topic, TopicId, invalid, log_name, over, unknown_topic};
use crate::options::{TOPIC_NAME_BYTES_MAX, TOPIC_PARTITIONS_MAX};

// === impl Engine ===

impl Engine {
    pub(super) fn create_topic(&mut self, conn: ConnId, number: u64, create: wire::CreateTopic) {
        let mut info = create.topic.unwrap_or_default();
        if info.name.is_empty() || info.name.len() > TOPIC_NAME_BYTES_MAX {
            let text = format!("a topic's name has 1 to {TOPIC_NAME_BYTES_MAX} bytes");
            return self.answer(conn, number, invalid(text));
        }
        if !(1..=TOPIC_PARTITIONS_MAX).contains(&info.partitions) {
            let text = format!("a topic has 1 to {TOPIC_PARTITIONS_MAX} partitions");
            return self.answer(conn, number, invalid(text));
        }
        if let Some(id) = self.topics.ids.get(&info.name) {
            let id = TopicId::clone(id);
            return self.topic_exists(conn, number, &id, &info);
        }
        let partitions: usize = self.topics.by_id.values().map(|t| t.partitions.len()).sum();
        let limits = &self.limits;
        let hit = if self.topics.by_id.len() >= limits.topics_max {
            Some(("topics_max", limits.topics_max, "there are as many topics as there may be"))
        } else if partitions + info.partitions as usize > limits.topic_partitions_max {
            let what = "all topics together have as many partitions as they may have";
            Some(("topic_partitions_max", limits.topic_partitions_max, what))
        } else {
            None
        };
        if let Some((bound, limit, what)) = hit {
            return self.answer(conn, number, over(bound, limit, what));
        }
        info.id = uuid::Uuid::new_v4().simple().to_string();
        info.created_ms = self.topics.now();
        let id: TopicId = info.id.as_str().into();
        let app: Arc<str> = TOPICS_APP.into();
        let logs: Vec<_> = (0..info.partitions)
            .map(|n| self.new_log(Arc::clone(&app), log_name(&id, n)))
            .collect();
        for &log in &logs {
            self.define(log);
        }
        self.topics.insert(Topic::new(info.clone(), logs, false));
        let response = wire::TopicCreated { topic: Some(info.clone()), created: true };
        let then = Then::TopicCreated { conn, number, topic: id, response };
        self.append_meta(Meta::TopicDefined(info), Some(then));
    }

    fn topic_exists(&mut self, conn: ConnId, number: u64, id: &TopicId, wanted: &wire::TopicInfo) {
        let Some(topic) = self.topics.by_id.get(id) else { return };
        let (there, durable) = (topic.info.clone(), topic.durable);
        let differs = if there.partitions != wanted.partitions {
            Some(("partitions", u64::from(there.partitions)))
        } else if there.retention_ms != wanted.retention_ms {
            Some(("retention_time", there.retention_ms))
        } else if there.retention_bytes != wanted.retention_bytes {
            Some(("retention_bytes", there.retention_bytes))
        } else {
            None
        };
        if let Some((setting, value)) = differs {
            return self.answer(
                conn,
                number,
                Response::Refused(wire::Refused {
                    reason: wire::RefusedReason::TopicExists.into(),
                    message: format!("there is a topic '{}' with other settings", there.name),
                    bound: setting.to_owned(),
                    limit: value,
                }),
            );
        }
        let response = wire::TopicCreated { topic: Some(there.clone()), created: false };
        if durable {
            self.answer(conn, number, Response::TopicCreated(response));
        } else {
            let then = Then::TopicCreated { conn, number, topic: TopicId::clone(id), response };
            self.append_meta(Meta::TopicDefined(there), Some(then));
        }
    }

    /// That a topic exists is durable.
    pub(in super::super) fn topic_created(
        &mut self,
        conn: ConnId,
        number: u64,
        topic: &TopicId,
        response: wire::TopicCreated,
    ) {
        if let Some(topic) = self.topics.by_id.get_mut(topic) {
            topic.durable = true;
        }
        self.answer(conn, number, Response::TopicCreated(response));
    }

    pub(super) fn delete_topic(&mut self, conn: ConnId, number: u64, delete: &wire::DeleteTopic) {
        let id = self.topics.ids.get(&delete.name);
        let id = id.filter(|id| delete.id.is_empty() || delete.id == ***id).cloned();
        let topic = id.as_ref().and_then(|id| self.topics.remove(id, &delete.name));
        let Some(topic) = topic else {
            let gone = Response::TopicDeleted(wire::TopicDeleted { existed: false });
            if self.topics.deleting == 0 {
                return self.answer(conn, number, gone);
            }
            // Perhaps it is this one that is being deleted: not answered before that is durable.
            let then = Then::Answer { conn, number, response: Box::new(gone) };
            return self.append_meta(Meta::TopicDeleted(String::new()), Some(then));
        };
        for partition in topic.partitions {
            for waiting in partition.waiting {
                self.topics.stats.waiting -= 1;
                self.answer(waiting.conn, waiting.number, unknown_topic(&delete.name));
            }
            if let Some(log) = self.logs.remove(&partition.log) {
                self.condemned.push(log.index);
            }
        }
        if let Memory::Loading { held, .. } = topic.memory {
            for held in held {
                self.topics.held_bytes -= held.bytes;
                self.answer(held.conn, held.number, unknown_topic(&delete.name));
            }
        }
        self.topics.deleting += 1;
        let then = Then::TopicDeleted { conn, number };
        self.append_meta(Meta::TopicDeleted(topic.info.id), Some(then));
    }

    /// That a topic is deleted is durable.
    pub(in super::super) fn topic_deleted(&mut self, conn: ConnId, number: u64) {
        self.topics.deleting -= 1;
        self.bury();
        self.answer(conn, number, Response::TopicDeleted(wire::TopicDeleted { existed: true }));
    }

    /// Deletions of topics are on their way.
    pub(in super::super) fn deletes_topics(&self) -> bool {
        self.topics.deleting > 0
    }

    fn new_log(&mut self, app: Arc<str>, name: String) -> LogId {
        let log = self.next_log;
        self.next_log += 1;
        self.logs.insert(log, Log::new(app, name));
        log
    }
}
