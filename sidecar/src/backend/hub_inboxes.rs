//! Inboxes in the hub: logs like others, by their names.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use kar_core::Event;
use kar_core::ids::ProposalId;
use kar_core::inbox::{InboxEntry, InboxId};
use kar_hub::{HubClient, HubEvent, LogName, RECORD_BYTES_MAX};

use crate::convert::inbox::{decode_entry, encode_entry};
use crate::driver::Batch;

/// Inboxes that the core follows: they are lost together when the hub is.
pub(super) type FollowedInboxes = Arc<Mutex<BTreeSet<InboxId>>>;

/// What names of inboxes end with.
const SUFFIX: &str = ".inbox";

/// What the log of an inbox is called.
pub(super) fn name(inbox: &InboxId) -> LogName {
    LogName::from(inbox.to_string())
}

/// Appends an entry.
pub(super) fn append(
    client: &HubClient,
    inbox: &InboxId,
    proposal: ProposalId,
    entry: &InboxEntry,
) {
    let entry = encode_entry(entry);
    let bytes = entry.len();
    if bytes > RECORD_BYTES_MAX {
        // What is owed is bounded by what a record takes; only an answer to a question can be longer, and whoever asked
        // is told that there was none.
        tracing::error!(?inbox, bytes, max = RECORD_BYTES_MAX, "too long for an inbox; dropped");
        return;
    }
    client.append(name(inbox), proposal.0, entry);
}

/// What happened to an inbox, for the core; gives back what is not about inboxes, `None` if nobody needs to know.
pub(super) fn translate(batch: &mut Batch<'_>, event: HubEvent) -> Result<Event, Option<HubEvent>> {
    let inbox: Option<InboxId> = match &event {
        HubEvent::Entry { log, .. }
        | HubEvent::Own { log, .. }
        | HubEvent::LogTrimmed { log, .. }
        | HubEvent::LogLost { log }
        | HubEvent::LogStart { log, .. }
        // Most are records of partitions' logs: looked at first, so that nothing is made for them.
        | HubEvent::End { log } if log.as_str().ends_with(SUFFIX) => log.as_str().parse().ok(),
        _ => None,
    };
    let Some(inbox) = inbox else { return Err(Some(event)) };
    Ok(match event {
        HubEvent::Entry { offset, record, .. } => match decode_entry(record) {
            Ok(entry) => Event::InboxRead { inbox, offset, entry: Arc::new(entry) },
            Err(error) => match inbox {
                // Nothing in it is owed: it is asked for again.
                InboxId::Nodes(_) => {
                    tracing::warn!(%inbox, offset, %error, "an entry is not understood by this version");
                    Event::InboxTrimmed { inbox, start: offset + 1 }
                }
                // It would be lost if it was skipped: a newer version has to take it.
                InboxId::Partition(_) => {
                    batch.refuse_entry(&inbox, offset, &error);
                    return Err(None);
                }
            },
        },
        HubEvent::Own { offset, id, .. } => {
            Event::InboxOwn { inbox, offset, proposal: ProposalId(id) }
        }
        HubEvent::LogTrimmed { start, .. } => Event::InboxTrimmed { inbox, start },
        HubEvent::LogLost { .. } => Event::InboxLost { inbox },
        // Nobody waits for where an inbox starts, or ends.
        _ => return Err(None),
    })
}
