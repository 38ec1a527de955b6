//! Consumers with a name: where they stand, and who speaks for them.

use std::sync::Arc;

use kar_proto::hub::v1 as wire;
use wire::meta::Meta;
use wire::state_response::Response;

use super::super::conn::ConnId;
use super::super::{Engine, Then};
use super::channels::no_such_partition;
use super::{Topic, TopicId, invalid, over, refused, unknown_topic};
use crate::options::{ACKNOWLEDGED_RANGES_MAX, TOPIC_NAME_BYTES_MAX};

/// A consumer.
pub(super) struct Consumer {
    session: u64,
    /// Its first session: another consumer of its name, created later, has another one.
    created: u64,
    /// By number of the partition.
    positions: Vec<wire::ConsumerPosition>,
}

// === impl Consumer ===

impl Consumer {
    pub(super) fn restore(state: wire::ConsumerState) -> Self {
        let created = match state.created_session {
            0 => state.session,
            created => created,
        };
        Self { session: state.session, created, positions: state.positions }
    }

    pub(super) fn state(&self, topic_id: &str, app: &str, name: &str) -> wire::ConsumerState {
        wire::ConsumerState {
            topic_id: topic_id.to_owned(),
            application: app.to_owned(),
            name: name.to_owned(),
            session: self.session,
            positions: self.positions.clone(),
            created_session: self.created,
        }
    }
}

impl Consumer {
    /// What people see of it, with what its topic has.
    pub(super) fn view(
        &self,
        app: &str,
        name: &str,
        partitions: &[wire::TopicPartition],
    ) -> wire::ConsumerView {
        let lag = partitions.iter().zip(&self.positions).map(|(has, at)| lag(*has, at)).sum();
        let (application, name) = (app.to_owned(), name.to_owned());
        let floors = self.positions.iter().map(|position| position.floor).collect();
        wire::ConsumerView { application, name, floors, lag }
    }
}

// === impl Topic ===

impl Topic {
    /// The refusal of what a session asks for that is over.
    pub(super) fn superseded(
        &self,
        (app, name, session): &(Arc<str>, String, u64),
    ) -> Option<Response> {
        let current = self.consumers.get(&(Arc::clone(app), name.clone()));
        if current.is_some_and(|consumer| consumer.session == *session) {
            return None;
        }
        let text = format!("session {session} of consumer '{name}' is over");
        Some(refused(wire::RefusedReason::ConsumerSuperseded, text))
    }
}

// === impl Engine ===

impl Engine {
    pub(super) fn open_consumer(
        &mut self,
        conn: ConnId,
        number: u64,
        app: &Arc<str>,
        open: wire::OpenConsumer,
    ) {
        if open.name.is_empty() || open.name.len() > TOPIC_NAME_BYTES_MAX {
            let text = format!("a consumer's name has 1 to {TOPIC_NAME_BYTES_MAX} bytes");
            return self.answer(conn, number, invalid(text));
        }
        let all = self.consumers();
        let Some(topic) = self.topics.by_id.get_mut(open.topic_id.as_str()) else {
            return self.answer(conn, number, unknown_topic(&open.topic_id));
        };
        if open.begin.len() != topic.partitions.len() {
            let text = format!("the topic has {} partitions", topic.partitions.len());
            return self.answer(conn, number, invalid(text));
        }
        let key = (Arc::clone(app), open.name.clone());
        let created = !topic.consumers.contains_key(&key);
        if created && all >= self.limits.consumers_max {
            let limit = self.limits.consumers_max;
            let what = "there are as many consumers with a name as there may be: forget some";
            return self.answer(conn, number, over("consumers_max", limit, what));
        }
        let begin = |(partition, &floor): (u32, &u64)| wire::ConsumerPosition {
            partition,
            floor: floor.max(1),
            acknowledged: Vec::new(),
        };
        let consumer = topic.consumers.entry(key).or_insert_with(|| Consumer {
            session: 0,
            created: self.next_incarnation,
            positions: (0..).zip(&open.begin).map(begin).collect(),
        });
        // From the counter of incarnations, so that sessions of a consumer that was forgotten do not come back.
        consumer.session = self.next_incarnation;
        self.next_incarnation += 1;
        let state = consumer.state(&open.topic_id, app, &open.name);
        let opened = wire::ConsumerOpened { consumer: Some(state.clone()), created };
        let response = Box::new(Response::ConsumerOpened(opened));
        let then = Then::Answer { conn, number, response };
        self.append_meta(Meta::ConsumerMoved(state), Some(then));
        self.end_sessions(&open.topic_id, app, &open.name);
    }

    /// Ends fetches of sessions that are over.
    fn end_sessions(&mut self, topic_id: &str, app: &Arc<str>, name: &str) {
        let id: TopicId = topic_id.into();
        let Some(topic) = self.topics.by_id.get(&id) else { return };
        let key = (Arc::clone(app), name.to_owned());
        let current = topic.consumers.get(&key).map(|consumer| consumer.session);
        let text = format!("another session of consumer '{name}' has begun, or it was forgotten");
        self.end_waiting(&id, |waiting| {
            let (waiting_app, waiting_name, session) = waiting.consumer.as_ref()?;
            let over = waiting_app == app && waiting_name == name && Some(*session) != current;
            over.then(|| refused(wire::RefusedReason::ConsumerSuperseded, text.clone()))
        });
    }

    pub(super) fn commit_consumer(
        &mut self,
        conn: ConnId,
        number: u64,
        app: &Arc<str>,
        commit: wire::CommitConsumer,
    ) {
        let Some(topic) = self.topics.by_id.get_mut(commit.topic_id.as_str()) else {
            return self.answer(conn, number, unknown_topic(&commit.topic_id));
        };
        let who = (Arc::clone(app), commit.name.clone(), commit.session);
        if let Some(response) = topic.superseded(&who) {
            return self.answer(conn, number, response);
        }
        let key = (who.0, who.1);
        let Some(consumer) = topic.consumers.get_mut(&key) else { return };
        let partitions = consumer.positions.len();
        // All of them count, or none.
        let wrong = commit.positions.iter().find_map(|p| checked(p, partitions).err());
        if let Some(what) = wrong {
            return self.answer(conn, number, invalid(what));
        }
        for position in commit.positions {
            let old = &mut consumer.positions[position.partition as usize];
            // A repeated one is as good as its successor knows.
            if position.floor >= old.floor {
                *old = position;
            }
        }
        let state = consumer.state(&commit.topic_id, app, &commit.name);
        let response = Box::new(Response::ConsumerCommitted(wire::ConsumerCommitted {}));
        let then = Then::Answer { conn, number, response };
        self.append_meta(Meta::ConsumerMoved(state), Some(then));
    }

    pub(super) fn find_consumer(
        &mut self,
        conn: ConnId,
        number: u64,
        app: &Arc<str>,
        find: wire::FindConsumer,
    ) {
        let Some(topic) = self.topics.by_id.get(find.topic_id.as_str()) else {
            return self.answer(conn, number, unknown_topic(&find.topic_id));
        };
        let consumer = topic.consumers.get(&(Arc::clone(app), find.name));
        let created_session = consumer.map_or(0, |consumer| consumer.created);
        let found = Response::ConsumerFound(wire::ConsumerFound { created_session });
        self.answer(conn, number, found);
    }

    pub(super) fn delete_consumer(
        &mut self,
        conn: ConnId,
        number: u64,
        app: &Arc<str>,
        delete: wire::DeleteConsumer,
    ) {
        let Some(topic) = self.topics.by_id.get_mut(delete.topic_id.as_str()) else {
            return self.answer(conn, number, unknown_topic(&delete.topic_id));
        };
        let key = (Arc::clone(app), delete.name.clone());
        let is_it = topic.consumers.get(&key).is_some_and(|c| c.created == delete.created_session);
        let existed = is_it && topic.consumers.remove(&key).is_some();
        if !existed {
            // Perhaps it is being forgotten: not answered before that is durable.
            let gone = Response::ConsumerDeleted(wire::ConsumerDeleted { existed });
            let then = Then::Answer { conn, number, response: Box::new(gone) };
            let nothing_new = Meta::TopicDefined(topic.info.clone());
            return self.append_meta(nothing_new, Some(then));
        }
        self.end_sessions(&delete.topic_id, app, &delete.name);
        let response = Response::ConsumerDeleted(wire::ConsumerDeleted { existed });
        let then = Then::Answer { conn, number, response: Box::new(response) };
        let name = wire::ConsumerName {
            topic_id: delete.topic_id,
            application: app.to_string(),
            name: delete.name,
        };
        self.append_meta(Meta::ConsumerDeleted(name), Some(then));
    }

    /// An application is purged: its consumers and its channels go with it.
    pub(in super::super) fn purge_from_topics(&mut self, app: &str) -> u64 {
        let mut gone = 0;
        for topic in self.topics.by_id.values_mut() {
            let before = topic.consumers.len();
            topic.consumers.retain(|(owner, _), _| &**owner != app);
            gone += before - topic.consumers.len();
        }
        self.purge_channels(app);
        gone as u64
    }
}

/// Whether it is a position in a topic of so many partitions; the error says what is wrong.
fn checked(position: &wire::ConsumerPosition, partitions: usize) -> Result<(), String> {
    if position.partition as usize >= partitions {
        return Err(no_such_partition(partitions, position.partition));
    }
    if position.acknowledged.len() > ACKNOWLEDGED_RANGES_MAX {
        return Err(format!("a position has at most {ACKNOWLEDGED_RANGES_MAX} ranges"));
    }
    let mut below = position.floor;
    for range in &position.acknowledged {
        if range.first <= below || range.last < range.first {
            return Err("acknowledged ranges ascend, above the floor".into());
        }
        below = range.last;
    }
    Ok(())
}

/// Events of a partition that are kept and that a consumer is not done with.
fn lag(has: wire::TopicPartition, at: &wire::ConsumerPosition) -> u64 {
    let floor = at.floor.max(has.start);
    let done = at.acknowledged.iter().filter(|range| range.last >= floor);
    let done: u64 = done.map(|range| range.last.saturating_add(1) - range.first.max(floor)).sum();
    has.end.saturating_sub(floor).saturating_sub(done)
}
