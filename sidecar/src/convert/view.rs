//! What a node serves, for people and tools: the core's views to `kar.peer.v1`, within bounds.

use std::sync::Arc;

use kar_core::ids::NodeId;
use kar_core::node::PartitionView;
use kar_proto::peer::v1 as pb;
use prost::Message;

use super::Malformed;
use super::log::partition_to;
use super::owned;
use super::peer::invocation_view_to;
use super::policy::dead_letter_to;

/// Rows of each kind that are shown of one partition.
const ROWS_MAX: usize = 1_000;

/// What a row takes besides its content: tags and lengths.
const ROW_BYTES: usize = 8;

/// Invocations, actors, dead letters.
const LISTS: usize = 3;

/// Bytes of rows that are told through an inbox: others read the same one.
const INBOX_BYTES_MAX: usize = 1024 * 1024;

/// What a node serves: of each partition as many rows as its part of so many bytes takes.
pub fn node_view_to(
    node: NodeId,
    views: &[PartitionView],
    bytes_max: usize,
) -> pb::InspectResponse {
    let each = bytes_max / views.len().max(1);
    pb::InspectResponse {
        incarnation: node.0,
        partitions: views.iter().map(|view| partition_view_to(view, each)).collect(),
    }
}

/// What a node serves, as it goes through an inbox.
pub fn describe(node: NodeId, views: &[PartitionView]) -> Arc<[u8]> {
    node_view_to(node, views, INBOX_BYTES_MAX).encode_to_vec().into()
}

/// What a node serves, as it came through an inbox.
///
/// # Errors
///
/// If this version does not understand it.
pub fn view_from(bytes: &[u8]) -> Result<pb::InspectResponse, Malformed> {
    Ok(pb::InspectResponse::decode(bytes)?)
}

/// What a node serves in a partition: of each kind as many rows as fit into so many bytes, all together.
pub fn partition_view_to(view: &PartitionView, bytes_max: usize) -> pb::PartitionView {
    let actors = view.actors.iter().map(|(actor, queued, busy)| pb::ActorView {
        actor: owned(actor),
        queued: *queued as u64,
        busy: *busy,
    });
    let each = bytes_max / LISTS;
    let (invocations, invocations_left_out) =
        rows(view.invocations.iter().map(invocation_view_to), each);
    let (actors, actors_left_out) = rows(actors, each);
    let (dead_letters, dead_letters_left_out) = rows(view.dead.iter().map(dead_letter_to), each);
    pb::PartitionView {
        partition: Some(partition_to(&view.id)),
        epoch: view.epoch,
        invocations,
        actors,
        owed: view.owed as u64,
        kept: view.kept as u64,
        dead_letters,
        invocations_left_out,
        actors_left_out,
        dead_letters_left_out,
    }
}

/// The first rows, as many as fit, and how many do not.
fn rows<T: Message>(rows: impl ExactSizeIterator<Item = T>, bytes_max: usize) -> (Vec<T>, u64) {
    let mut left = bytes_max;
    let fits = |row: &T| {
        let bytes = row.encoded_len() + ROW_BYTES;
        let fits = bytes <= left;
        left -= bytes.min(left);
        fits
    };
    let all = rows.len();
    let shown: Vec<T> = rows.take(ROWS_MAX).take_while(fits).collect();
    let left_out = (all - shown.len()) as u64;
    (shown, left_out)
}

#[cfg(test)]
mod tests {
    use kar_core::ids::{Kind, PartitionId, Uuid};
    use kar_core::invocation::{ApplicationError, Outcome};
    use kar_core::node::DeadLetterView;

    use super::*;

    fn view(letters: u128, bytes: usize) -> PartitionView {
        let text: std::sync::Arc<str> = "t".repeat(bytes).into();
        let error = ApplicationError {
            code: text.clone(),
            message: text.clone(),
            detail: text.clone(),
            ..ApplicationError::default()
        };
        let letter = |n| DeadLetterView {
            uuid: Uuid(n),
            actor: Some(text.clone()),
            method: text.clone(),
            outcome: Outcome::Failed(error.clone()),
            attempts: 1,
            time: 1,
        };
        PartitionView {
            id: PartitionId::new(Kind::actor("Account"), 0),
            epoch: 1,
            invocations: Vec::new(),
            actors: (0..letters).map(|n| (format!("{n}{text}").into(), 1, true)).collect(),
            owed: 0,
            kept: 0,
            dead: (0..letters).map(letter).collect(),
            closed_channels: 0,
            senders: 0,
        }
    }

    #[test]
    fn what_is_shown_of_many_rows_fits_into_a_message() {
        for (letters, bytes, shown) in
            [(5_000, 500, 10..1_000), (5_000, 1, 1_000..1_001), (3, 9, 3..4)]
        {
            let max = 300 << 10;
            let seen = partition_view_to(&view(letters, bytes), max);
            assert!(
                shown.contains(&seen.dead_letters.len()),
                "{} letters",
                seen.dead_letters.len()
            );
            assert!(shown.contains(&seen.actors.len()), "{} actors", seen.actors.len());
            let all = |shown: usize, left_out: u64| shown as u64 + left_out;
            let told = all(seen.dead_letters.len(), seen.dead_letters_left_out);
            assert_eq!(told, letters as u64, "what is not shown is counted");
            assert_eq!(all(seen.actors.len(), seen.actors_left_out), letters as u64);
            assert_eq!(seen.invocations_left_out, 0);
            assert!(seen.encoded_len() <= max + 100, "{} bytes", seen.encoded_len());
        }
    }
}
