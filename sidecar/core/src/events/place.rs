//! Where events are.

use std::fmt;
use std::str::FromStr;

/// Place of an event in its topic. As text `PARTITION/OFFSET`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EventPosition {
    /// Partition, from 0.
    pub partition: u32,
    /// Offset in it, from 1.
    pub offset: u64,
}

/// A text is no position.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is no position: PARTITION/OFFSET, as an event came with it")]
pub struct PositionError(String);

/// Seed of the hash.
const SEED: u32 = 0x9747_b28c;
/// Its multiplier.
const MULTIPLIER: u32 = 0x5bd1_e995;

/// The partition that events with a key go to: the same as Kafka's own producers choose for it, so that keys keep their
/// order whoever publishes.
///
/// # Panics
///
/// If there are no partitions.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    assert!(partitions > 0, "a topic has partitions");
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// MurmurHash2 as Kafka's clients have it.
fn murmur2(key: &[u8]) -> u32 {
    let mut hash = SEED ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in words.by_ref() {
        let word = u32::from_le_bytes(word.try_into().expect("four bytes"));
        let mixed = word.wrapping_mul(MULTIPLIER);
        let mixed = (mixed ^ (mixed >> 24)).wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (at, &byte) in rest.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * at);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

// === impl EventPosition ===

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl FromStr for EventPosition {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.to_owned());
        let parse = || {
            let (partition, offset) = text.split_once('/')?;
            let partition = number(partition)?.parse().ok()?;
            let offset = number(offset)?.parse().ok().filter(|offset| *offset > 0)?;
            Some(Self { partition, offset })
        };
        parse().ok_or_else(|| PositionError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hashed_as_kafka_does() {
        // Known pairs, which Kafka's own tests have, too.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
        assert!((0..100).all(|n: u32| partition_of(&n.to_le_bytes(), 7) < 7));
    }

    #[test]
    fn positions_are_text() {
        for text in ["0/1", "255/18446744073709551615"] {
            assert_eq!(text.parse::<EventPosition>().unwrap().to_string(), text);
        }
        for wrong in ["", "/", "1", "1/", "/1", "0/0", "+1/1", "1/-1", "1/2/3", "a/1", " 1/1"] {
            assert!(wrong.parse::<EventPosition>().is_err(), "{wrong}");
        }
    }
}
