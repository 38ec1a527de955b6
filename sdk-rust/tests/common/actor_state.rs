//! The state of actors, own keys and sub-maps: as turns see it, and what is committed.

use std::collections::{BTreeMap, HashMap};

use kar_proto::v1 as proto;
use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::state_change::Change;
use kar_proto::v1::target::Kind;

use super::invocations::actor;
use super::world::{World, status, status_with};

/// Entries of a page, at most: less than tests ask for, as the contract allows.
const PAGE_MAX: usize = 3;

/// Sub-map and key; those of the actor's own are in the one without a name.
pub(super) type Place = (String, String);

/// What an actor has.
pub(super) type Entries = BTreeMap<Place, proto::Payload>;

/// What a turn has changed; `None`: removed.
pub(super) type Overlay = BTreeMap<Place, Option<proto::Payload>>;

impl World {
    pub(super) fn on_actor_state_operation(&mut self, operation: Operation) -> Answer {
        match operation {
            Operation::ActorStateGet(r) => {
                self.log.push("get".to_owned());
                r.keys.iter().for_each(|key| self.check(&r.sub_map, key));
                let all = self.seen(&r.turn_token, r.actor, &r.sub_map);
                let entries = all.into_iter().filter(|(k, _)| r.keys.contains(k)).collect();
                Answer::ActorStateGet(proto::ActorStateServiceGetResponse { entries })
            }
            Operation::ActorStateGetAll(r) => {
                let entries = self.seen(&r.turn_token, r.actor, "").into_iter().collect();
                Answer::ActorStateGetAll(proto::GetAllResponse { entries })
            }
            Operation::ActorStateContains(r) => {
                self.check(&r.sub_map, &r.key);
                let exists = self.seen(&r.turn_token, r.actor, &r.sub_map).contains_key(&r.key);
                Answer::ActorStateContains(proto::ContainsResponse { exists })
            }
            Operation::ActorStateListSubMap(r) => {
                self.log.push(format!("list {} after {:?}", r.page_size, r.page_token));
                self.check(&r.sub_map, &r.sub_map);
                let all = self.seen(&r.turn_token, r.actor, &r.sub_map);
                let wanted = if r.page_size == 0 { 100 } else { r.page_size as usize };
                let size = wanted.min(PAGE_MAX);
                let mut entries: Vec<_> = all
                    .into_iter()
                    .filter(|(key, _)| *key > r.page_token)
                    .map(|(key, value)| proto::StateEntry { key, value: Some(value) })
                    .collect();
                let more = entries.len() > size;
                entries.truncate(size);
                let next = entries.last().filter(|_| more).map(|last| last.key.clone());
                let next_page_token = next.unwrap_or_default();
                Answer::ActorStateListSubMap(proto::ListSubMapResponse { entries, next_page_token })
            }
            Operation::ActorStateSubMapSize(r) => {
                self.check(&r.sub_map, &r.sub_map);
                let size = self.seen(&r.turn_token, r.actor, &r.sub_map).len() as i64;
                Answer::ActorStateSubMapSize(proto::GetSubMapSizeResponse { size })
            }
            Operation::ActorStateApply(r) => {
                self.log.push(format!("apply {}", r.changes.len()));
                if self.refuse_applies {
                    return status(tonic::Code::ResourceExhausted, "LIMIT_REACHED");
                }
                // All or none.
                let mut overlay = self.turns[&r.turn_token].overlay.clone();
                for change in r.changes {
                    let change = change.change.unwrap();
                    if let Err((sub_map, key)) = self.change(&r.turn_token, &mut overlay, change) {
                        let of = [("sub_map".to_owned(), sub_map), ("key".to_owned(), key)];
                        let metadata = HashMap::from(of);
                        return status_with(tonic::Code::Aborted, "CONDITION_FAILED", metadata);
                    }
                }
                self.turns.get_mut(&r.turn_token).unwrap().overlay = overlay;
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
            other => panic!("no state operation: {other:?}"),
        }
    }

    pub(super) fn superseded(&self, token: &str) -> bool {
        !token.is_empty() && self.turns.get(token).is_none_or(|turn| turn.cancelled)
    }

    /// One map of an actor: in the turn, or what is committed.
    fn seen(
        &self,
        token: &str,
        of: Option<proto::ActorTarget>,
        sub_map: &str,
    ) -> BTreeMap<String, proto::Payload> {
        let all = match of {
            Some(of) => self.actors.get(&(of.r#type, of.id)).cloned().unwrap_or_default(),
            None => self.view(token, &self.turns[token].overlay),
        };
        let of_map = all.into_iter().filter(|((of, _), _)| of == sub_map);
        of_map.map(|((_, key), value)| (key, value)).collect()
    }

    fn view(&self, token: &str, overlay: &Overlay) -> Entries {
        let turn = &self.turns[token];
        let mut view = self.actors.get(&actor(&turn.invocation)).cloned().unwrap_or_default();
        for (place, value) in overlay {
            match value {
                Some(value) => view.insert(place.clone(), value.clone()),
                None => view.remove(place),
            };
        }
        view
    }

    /// Makes one change, or tells where something else is than it requires.
    fn change(&mut self, token: &str, overlay: &mut Overlay, change: Change) -> Result<(), Place> {
        let view = self.view(token, overlay);
        let (place, value) = match change {
            Change::Set(entry) => ((String::new(), entry.key), entry.value),
            Change::Remove(key) => ((String::new(), key), None),
            Change::SetInSubMap(entry) => (self.in_sub_map(entry.key.unwrap()), entry.value),
            Change::RemoveFromSubMap(key) => (self.in_sub_map(key), None),
            Change::Clear(_) => {
                overlay.extend(view.into_keys().map(|place| (place, None)));
                return Ok(());
            }
            Change::ClearSubMap(name) => {
                self.check(&name, &name);
                let gone = view.into_keys().filter(|(of, _)| *of == name);
                overlay.extend(gone.map(|place| (place, None)));
                return Ok(());
            }
            Change::Require(r) => {
                self.check(&r.sub_map, &r.key);
                let place = (r.sub_map, r.key);
                let holds = view.get(&place) == r.value.as_ref();
                return if holds { Ok(()) } else { Err(place) };
            }
        };
        self.check(&place.0, &place.1);
        overlay.insert(place, value);
        Ok(())
    }

    fn in_sub_map(&mut self, at: proto::SubMapKey) -> Place {
        if at.sub_map.is_empty() {
            self.violations.push("a sub-map without a name".to_owned());
        }
        (at.sub_map, at.key)
    }

    /// The SDK lets no name go that the contract does not have.
    fn check(&mut self, sub_map: &str, key: &str) {
        let is_name = |name: &str| (1..=512).contains(&name.len()) && !name.contains('\0');
        if !(sub_map.is_empty() || is_name(sub_map)) || !is_name(key) {
            self.violations.push(format!("no key: {key:?} of {sub_map:?}"));
        }
    }

    /// Makes the turn's segment durable.
    pub(super) fn flush(&mut self, token: &str) {
        if token.is_empty() || !self.turns.contains_key(token) {
            return;
        }
        let view = self.view(token, &self.turns[token].overlay);
        let turn = self.turns.get_mut(token).unwrap();
        turn.overlay.clear();
        if matches!(turn.invocation.target, Kind::Actor(_)) {
            self.actors.insert(actor(&turn.invocation), view);
        }
    }
}
