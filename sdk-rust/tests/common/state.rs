//! The state of the application.

use kar_proto::v1 as proto;
use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use prost::Message as _;

use super::world::{World, status};

impl World {
    pub(super) fn on_state_operation(&mut self, operation: Operation) -> Answer {
        match operation {
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
            other => self.on_actor_state_operation(other),
        }
    }
}

fn etag(value: &proto::Payload) -> String {
    format!("{:x}", value.encode_to_vec().iter().map(|b| u32::from(*b)).sum::<u32>())
}
