//! Events of topics as they stand in the write-ahead log: a record of the log of their partition,
//! which begins with when it was appended and by which request.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Names the request to publish an event.
pub(crate) type RequestKey = u128;

/// The form of what follows; stored.
const FORM: u8 = 1;
/// The form, the time, the request.
const HEADER_BYTES: usize = 1 + 8 + 16;

/// An event with what the hub knows of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EventRecord {
    /// When it was appended, by the hub's clock, milliseconds since the Unix epoch.
    pub(crate) time_ms: u64,
    pub(crate) request: RequestKey,
    /// Nothing in the hub looks inside.
    pub(crate) event: Bytes,
}

// === impl EventRecord ===

impl EventRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + self.event.len());
        bytes.put_u8(FORM);
        bytes.put_u64_le(self.time_ms);
        bytes.put_u128_le(self.request);
        bytes.put_slice(&self.event);
        bytes.freeze()
    }

    /// What a record says; the error says what is wrong with it.
    pub(crate) fn decode(record: &Bytes) -> Result<Self, String> {
        let Some((header, _)) = record.split_at_checked(HEADER_BYTES) else {
            return Err(format!("an event's record has {} bytes", record.len()));
        };
        if header[0] != FORM {
            return Err(format!("an event's record has form {}: use the newer version", header[0]));
        }
        let time: [u8; 8] = header[1..9].try_into().expect("eight bytes");
        let request: [u8; 16] = header[9..].try_into().expect("sixteen bytes");
        Ok(Self {
            time_ms: u64::from_le_bytes(time),
            request: RequestKey::from_le_bytes(request),
            event: record.slice(HEADER_BYTES..),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_does_not_change() {
        let event = EventRecord { time_ms: 0x0102, request: 0x0304, event: Bytes::from("e") };
        let mut wanted = vec![1, 2, 1, 0, 0, 0, 0, 0, 0, 4, 3];
        wanted.extend([0; 14]);
        wanted.push(b'e');
        assert_eq!(event.encode(), wanted);
        assert_eq!(EventRecord::decode(&event.encode()), Ok(event));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        assert!(EventRecord::decode(&Bytes::from_static(&[1; 24])).is_err());
        let newer = EventRecord::decode(&Bytes::from_static(&[2; 30])).unwrap_err();
        assert!(newer.contains("newer version"), "{newer}");
    }
}
