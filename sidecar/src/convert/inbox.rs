//! Entries of inboxes to `kar.peer.v1` and back.

use bytes::Bytes;
use kar_core::ids::NodeId;
use kar_core::inbox::{InboxBody, InboxEntry, Mark};
use kar_core::message::Message;
use kar_proto::peer::v1 as pb;
use prost::Message as _;

use super::Malformed;
use super::peer::{message_from, message_to};

/// An entry as it is stored.
pub fn encode_entry(entry: &InboxEntry) -> Bytes {
    use pb::inbox_entry::Body as B;
    let body = match &entry.body {
        InboxBody::Channel { message, closed_from, run } => B::Channel(pb::ChannelEntry {
            frame: Some(message_to(message)),
            closed_from: *closed_from,
            run: *run,
        }),
        InboxBody::Node { to, message } => {
            B::Node(pb::NodeEntry { to: to.0, frame: Some(message_to(message)) })
        }
        InboxBody::Mark(Mark { nodes, floor, open, is_base }) => B::Mark(pb::Mark {
            nodes: nodes.iter().map(|node| node.0).collect(),
            floor: floor.0,
            open: open.iter().map(|node| node.0).collect(),
            base: *is_base,
        }),
    };
    pb::InboxEntry { from: entry.from.0, body: Some(body) }.encode_to_vec().into()
}

/// An entry from what is stored.
///
/// # Errors
///
/// If the bytes are no entry that this version understands.
pub fn decode_entry(bytes: Bytes) -> Result<InboxEntry, Malformed> {
    use pb::inbox_entry::Body as B;
    let entry = pb::InboxEntry::decode(bytes)?;
    let body = match entry.body.ok_or(Malformed::Field("body"))? {
        B::Channel(channel) => {
            let message = message_from(channel.frame.ok_or(Malformed::Field("frame"))?)?;
            if !matches!(message, Message::Open { .. } | Message::Request { .. }) {
                return Err(Malformed::Field("frame"));
            }
            let (closed_from, run) = (channel.closed_from, channel.run);
            InboxBody::Channel { message, closed_from, run }
        }
        B::Node(node) => {
            let message = message_from(node.frame.ok_or(Malformed::Field("frame"))?)?;
            InboxBody::Node { to: NodeId(node.to), message }
        }
        B::Mark(mark) => InboxBody::Mark(Mark {
            nodes: mark.nodes.into_iter().map(NodeId).collect(),
            floor: NodeId(mark.floor),
            open: mark.open.into_iter().map(NodeId).collect(),
            is_base: mark.base,
        }),
    };
    Ok(InboxEntry { from: NodeId(entry.from), body })
}
