//! The state of actors, as turns see it, and of the application.

use std::collections::BTreeMap;

use kar_proto::v1 as proto;
use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::target::Kind;
use prost::Message as _;

use super::invocations::actor;
use super::world::{World, status};

impl World {
    pub(super) fn on_state_operation(&mut self, operation: Operation) -> Answer {
        match operation {
            Operation::ActorStateGet(r) => {
                self.log.push("get".to_owned());
                let all = self.view(&r.turn_token);
                let entries = all.into_iter().filter(|(k, _)| r.keys.contains(k)).collect();
                Answer::ActorStateGet(proto::ActorStateServiceGetResponse { entries })
            }
            Operation::ActorStateGetAll(r) => {
                let entries = match r.actor {
                    Some(a) => self.actors.get(&(a.r#type, a.id)).cloned().unwrap_or_default(),
                    None => self.view(&r.turn_token),
                };
                let entries = entries.into_iter().collect();
                Answer::ActorStateGetAll(proto::GetAllResponse { entries })
            }
            Operation::ActorStateContains(r) => {
                let exists = self.view(&r.turn_token).contains_key(&r.key);
                Answer::ActorStateContains(proto::ContainsResponse { exists })
            }
            Operation::ActorStateApply(r) => {
                self.log.push(format!("apply {}", r.changes.len()));
                if self.refuse_applies {
                    return status(tonic::Code::ResourceExhausted, "LIMIT_REACHED");
                }
                for change in r.changes {
                    self.apply(&r.turn_token, change.change.unwrap());
                }
                Answer::ActorStateApply(proto::ApplyResponse {})
            }
            Operation::RemoveActor(r) => {
                self.log.push("remove".to_owned());
                let removed = r.actor.unwrap();
                self.actors.remove(&(removed.r#type, removed.id));
                Answer::RemoveActor(proto::RemoveActorResponse {})
            }
            Operation::Flush(r) => {
                self.log.push("flush".to_owned());
                self.flush(&r.turn_token);
                Answer::Flush(proto::FlushResponse {})
            }
            Operation::StateGet(r) => {
                let value = self.state.get(&r.key).cloned();
                let etag = value.as_ref().map_or(String::new(), etag);
                Answer::StateGet(proto::StateServiceGetResponse { value, etag, expire_time: None })
            }
            Operation::StateSet(r) => {
                assert!(!r.request_id.is_empty());
                let now = self.state.get(&r.key).map(etag);
                let holds = match r.etag.as_str() {
                    "" => true,
                    "*" => now.is_none(),
                    wanted => now.as_deref() == Some(wanted),
                };
                if !holds {
                    return status(tonic::Code::Aborted, "CONDITION_FAILED");
                }
                let value = r.value.unwrap();
                let etag = etag(&value);
                self.state.insert(r.key, value);
                Answer::StateSet(proto::SetResponse { etag })
            }
            Operation::StateDelete(r) => {
                let existed = self.state.remove(&r.key).is_some();
                Answer::StateDelete(proto::DeleteResponse { existed })
            }
            Operation::StateTransact(r) => {
                assert!(!r.request_id.is_empty());
                let sets = r.sets.iter().map(|s| format!("set {} for {:?}", s.key, s.time_to_live));
                self.log.extend(sets);
                let etags = r.sets.into_iter().map(|set| {
                    let (value, key) = (set.value.unwrap(), set.key);
                    let etag = etag(&value);
                    self.state.insert(key, value);
                    etag
                });
                let etags = etags.collect();
                let gone = r.deletes.iter().map(|d| self.state.remove(&d.key).is_some());
                let existed = gone.collect();
                Answer::StateTransact(proto::TransactResponse { etags, existed })
            }
            Operation::StateList(r) => {
                let size = if r.page_size == 0 { 100 } else { r.page_size as usize };
                let mut entries: Vec<_> = self
                    .state
                    .iter()
                    .filter(|(k, _)| k.starts_with(&r.prefix) && **k > r.page_token)
                    .map(|(k, v)| proto::StateEntry { key: k.clone(), value: Some(v.clone()) })
                    .take(size + 1)
                    .collect();
                let more = entries.len() > size;
                entries.truncate(size);
                let next_page_token = match entries.last() {
                    Some(last) if more => last.key.clone(),
                    _ => String::new(),
                };
                Answer::StateList(proto::ListResponse { entries, next_page_token })
            }
            other => panic!("no state operation: {other:?}"),
        }
    }

    pub(super) fn superseded(&self, token: &str) -> bool {
        !token.is_empty() && self.turns.get(token).is_none_or(|turn| turn.cancelled)
    }

    fn view(&self, token: &str) -> BTreeMap<String, proto::Payload> {
        let turn = &self.turns[token];
        let mut view = self.actors.get(&actor(&turn.invocation)).cloned().unwrap_or_default();
        for (key, value) in &turn.overlay {
            match value {
                Some(value) => view.insert(key.clone(), value.clone()),
                None => view.remove(key),
            };
        }
        view
    }

    fn apply(&mut self, token: &str, change: proto::state_change::Change) {
        use proto::state_change::Change;
        let keys: Vec<String> = self.view(token).into_keys().collect();
        let overlay = &mut self.turns.get_mut(token).unwrap().overlay;
        match change {
            Change::Set(entry) => drop(overlay.insert(entry.key, entry.value)),
            Change::Remove(key) => drop(overlay.insert(key, None)),
            Change::Clear(_) => overlay.extend(keys.into_iter().map(|key| (key, None))),
            other => panic!("the SDK does not send {other:?}"),
        }
    }

    /// Makes the turn's segment durable.
    pub(super) fn flush(&mut self, token: &str) {
        if token.is_empty() || !self.turns.contains_key(token) {
            return;
        }
        let view = self.view(token);
        let turn = self.turns.get_mut(token).unwrap();
        turn.overlay.clear();
        if matches!(turn.invocation.target, Kind::Actor(_)) {
            self.actors.insert(actor(&turn.invocation), view);
        }
    }
}

fn etag(value: &proto::Payload) -> String {
    format!("{:x}", value.encode_to_vec().iter().map(|b| u32::from(*b)).sum::<u32>())
}
