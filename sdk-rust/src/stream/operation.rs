//! What kinds of requests there are, and how many may be under way.

use super::Operation;

/// How many requests may be under way for a nested call, and for one outside turns, to go too.
pub(super) fn shares(credits: usize, hosts: bool) -> (usize, usize) {
    if !hosts {
        return (credits, credits);
    }
    let roots = (credits / 2).max(1);
    // Rounded up: what nested calls wait for goes on only if they leave it a credit.
    ((credits - credits.div_ceil(8)).max(roots), roots)
}

/// Whether the answer may depend on turns, and take any time.
pub(super) fn is_call(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Invoke(_)
            | Operation::CallActor(_)
            | Operation::AwaitOutcome(_)
            | Operation::RemoveActor(_)
    )
}

/// Whether carrying it out twice is as good as once: reads, and writes with a request id.
pub(super) fn is_repeatable(operation: &Operation) -> bool {
    match operation {
        Operation::AwaitOutcome(_)
        | Operation::StateGet(_)
        | Operation::StateList(_)
        | Operation::Cancel(_)
        | Operation::Resume(_)
        | Operation::CreateTopic(_)
        | Operation::DescribeTopic(_)
        | Operation::Subscribe(_)
        | Operation::Unsubscribe(_)
        | Operation::PauseSubscription(_)
        | Operation::ResumeSubscription(_)
        | Operation::ListSubscriptions(_)
        | Operation::RedriveSubscription(_) => true,
        Operation::ActorStateGet(read) => read.turn_token.is_empty(),
        Operation::ActorStateGetAll(read) => read.turn_token.is_empty(),
        Operation::ActorStateContains(read) => read.turn_token.is_empty(),
        Operation::ActorStateListSubMap(list) => list.turn_token.is_empty(),
        Operation::ActorStateSubMapSize(size) => size.turn_token.is_empty(),
        Operation::ReminderList(list) => list.turn_token.is_empty(),
        Operation::StateSet(set) => !set.request_id.is_empty(),
        Operation::StateDelete(delete) => !delete.request_id.is_empty(),
        Operation::StateTransact(transact) => !transact.request_id.is_empty(),
        Operation::Publish(publish) => !publish.request_id.is_empty(),
        Operation::PublishBatch(batch) => {
            batch.events.iter().all(|publish| !publish.request_id.is_empty())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kar_proto::v1 as proto;

    use super::*;

    #[test]
    fn what_reads_the_state_of_actors_is_repeatable_outside_turns() {
        let reads = |token: &str| {
            let turn_token = token.to_owned();
            let get = proto::ActorStateServiceGetRequest {
                turn_token: turn_token.clone(),
                ..Default::default()
            };
            let contains =
                proto::ContainsRequest { turn_token: turn_token.clone(), ..Default::default() };
            let list =
                proto::ListSubMapRequest { turn_token: turn_token.clone(), ..Default::default() };
            let size = proto::GetSubMapSizeRequest { turn_token, ..Default::default() };
            [
                Operation::ActorStateGet(get),
                Operation::ActorStateContains(contains),
                Operation::ActorStateListSubMap(list),
                Operation::ActorStateSubMapSize(size),
            ]
        };
        assert!(reads("").iter().all(is_repeatable));
        assert!(!reads("t1").iter().any(is_repeatable));
    }

    #[test]
    fn shares_leave_room_for_what_calls_wait_for() {
        assert_eq!(shares(100, false), (100, 100));
        assert_eq!(shares(128, true), (112, 64));
        assert_eq!(shares(1, true), (1, 1));
        assert_eq!(shares(2, true), (1, 1));
        assert_eq!(shares(4, true), (3, 2));
        assert_eq!(shares(8, true), (7, 4));
    }
}
