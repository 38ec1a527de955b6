//! Events of topics as they stand in the write-ahead log: a record of the log of their partition,
//! which begins with when it was appended, and by which request, or as which one of a channel.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Names the request to publish an event.
pub(crate) type RequestKey = u128;
/// Names a channel of numbered events.
pub(crate) type ChannelKey = u128;

/// The form of an event that a request published; stored.
const PUBLISHED: u8 = 1;
/// The form of an event that has a number in a channel; stored.
const NUMBERED: u8 = 2;
/// The form, the time, the request.
const PUBLISHED_HEADER: usize = 1 + 8 + 16;
/// The form, the time, the channel, the number.
const NUMBERED_HEADER: usize = 1 + 8 + 16 + 8;

/// An event with what the hub knows of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EventRecord {
    /// When it was appended, by the hub's clock, milliseconds since the Unix epoch.
    pub(crate) time_ms: u64,
    pub(crate) origin: Origin,
    /// Nothing in the hub looks inside.
    pub(crate) event: Bytes,
}

/// What an event is known by, should it come again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    Request(RequestKey),
    Channel { channel: ChannelKey, number: u64 },
}

// === impl EventRecord ===

impl EventRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(NUMBERED_HEADER + self.event.len());
        match self.origin {
            Origin::Request(request) => {
                bytes.put_u8(PUBLISHED);
                bytes.put_u64_le(self.time_ms);
                bytes.put_u128_le(request);
            }
            Origin::Channel { channel, number } => {
                bytes.put_u8(NUMBERED);
                bytes.put_u64_le(self.time_ms);
                bytes.put_u128_le(channel);
                bytes.put_u64_le(number);
            }
        }
        bytes.put_slice(&self.event);
        bytes.freeze()
    }

    /// What a record says; the error says what is wrong with it.
    pub(crate) fn decode(record: &Bytes) -> Result<Self, String> {
        let (time_ms, origin) = head(record)?;
        let header = match origin {
            Origin::Request(_) => PUBLISHED_HEADER,
            Origin::Channel { .. } => NUMBERED_HEADER,
        };
        Ok(Self { time_ms, origin, event: record.slice(header..) })
    }
}

/// When the event of a record was appended, and what it is known by.
pub(crate) fn head(record: &[u8]) -> Result<(u64, Origin), String> {
    let short = || format!("an event's record has {} bytes", record.len());
    let part = |at: usize| record.get(at..).ok_or_else(short);
    let long = |at: usize| -> Result<u64, String> {
        Ok(u64::from_le_bytes(*part(at)?.first_chunk().ok_or_else(short)?))
    };
    let key = u128::from_le_bytes(*part(9)?.first_chunk().ok_or_else(short)?);
    let origin = match record[0] {
        PUBLISHED => Origin::Request(key),
        NUMBERED => Origin::Channel { channel: key, number: long(PUBLISHED_HEADER)? },
        form => return Err(format!("an event's record has form {form}: use the newer version")),
    };
    Ok((long(1)?, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_forms_do_not_change() {
        let (time_ms, event) = (0x0102, Bytes::from("e"));
        let published = EventRecord { time_ms, origin: Origin::Request(0x0304), event };
        let mut wanted = vec![1, 2, 1, 0, 0, 0, 0, 0, 0, 4, 3];
        wanted.extend([0; 14]);
        wanted.push(b'e');
        assert_eq!(published.encode(), wanted);
        assert_eq!(EventRecord::decode(&published.encode()), Ok(published));
        let (channel, event) = (0x0304, Bytes::from("e"));
        let origin = Origin::Channel { channel, number: 0x0506 };
        let numbered = EventRecord { time_ms, origin, event };
        let mut wanted = vec![2, 2, 1, 0, 0, 0, 0, 0, 0, 4, 3];
        wanted.extend([0; 14]);
        wanted.extend([6, 5, 0, 0, 0, 0, 0, 0, b'e']);
        assert_eq!(numbered.encode(), wanted);
        assert_eq!(EventRecord::decode(&numbered.encode()), Ok(numbered));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for short in [&[][..], &[1; 24], &[2; 32]] {
            let error = EventRecord::decode(&Bytes::from_static(short)).unwrap_err();
            assert!(error.contains("bytes"), "{error}");
        }
        let newer = EventRecord::decode(&Bytes::from_static(&[3; 40])).unwrap_err();
        assert!(newer.contains("newer version"), "{newer}");
    }
}
