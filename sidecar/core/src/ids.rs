//! Names and numbers: kinds, partitions, invocations, nodes, epochs, turn tokens.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Offset of a record in a partition's log. The first record has offset 1.
pub type Offset = u64;

/// A reign over a partition: the offset of the `Claim` that began it (rule L2); 0 is "nobody yet".
pub type Epoch = u64;

/// Place of an obligation in its channel (rule C1). The first is 1.
pub type Number = u64;

/// Time in milliseconds since the Unix epoch. Drivers pass it in; it never runs back for one node.
pub type Millis = u64;

/// A 128-bit identifier, a UUID (version 7 where the core makes one).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub u128);

/// The incarnation of a node: granted by the membership service, unique in the application and growing (rule C6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u64);

/// What sort of target a kind is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// A service: any host may take any call.
    Service,
    /// An actor type: calls go to one instance, one at a time.
    Actor,
    /// Something of the system's own, which nobody hosts: its owners carry out what they are asked for themselves.
    System,
}

/// A target kind: a service name or an actor type.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// Service or actor.
    pub class: Class,
    /// The name users gave it.
    pub name: Arc<str>,
}

/// A shard of a target kind; it has one log. The number comes first: most comparisons end with it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// Which shard, from 0.
    pub index: u32,
    /// The kind that is sharded.
    pub kind: Kind,
}

/// A partition of a topic, by the topic's id: one that is created anew under its name is another topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's id; never given again.
    pub id: Arc<str>,
    /// Which partition, from 0.
    pub partition: u32,
}

/// Name of an invocation; it says where the invocation lives.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvocationId {
    /// The partition whose log holds it.
    pub home: PartitionId,
    /// Unique part.
    pub uuid: Uuid,
}

/// Who numbers a channel (rule C1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Sender {
    /// A node's incarnation: root calls of its component. It has no log behind it.
    Node(NodeId),
    /// A partition's log, named by its partition and by the UUID of its first claim.
    Log {
        /// The sending partition.
        partition: PartitionId,
        /// The UUID of its log.
        log: Uuid,
    },
    /// A subscription, for one partition of its topic: numbers are offsets there. Those that go to other receivers, or
    /// to nobody, are closed.
    Subscription {
        /// The subscription's partition.
        partition: PartitionId,
        /// The subscription.
        subscription: Uuid,
        /// The partition of its topic.
        topic_partition: u32,
    },
}

/// Proof that a request comes from a turn that is still the current attempt (design section 6, item 5).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TurnToken {
    /// The invocation the turn runs, with the partition that runs it: its home, or where a tail call has led.
    pub invocation: InvocationId,
    /// Step of the invocation, from 1 (P6).
    pub step: u32,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Epoch of the reign that dispatched it.
    pub epoch: Epoch,
}

/// One stream or connection of the own component, named by the driver; never used twice by one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SessionId(pub u64);

/// One request of the own component, named by the driver; never used twice by one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RequestId(pub u64);

/// Names an append that the core asked for; unique within one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ProposalId(pub u64);

/// A text that is not the name of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {wanted}")]
pub struct ParseError {
    /// The text.
    pub text: String,
    /// What it should have been, with its form.
    pub wanted: &'static str,
}

// === impl Kind ===

impl Kind {
    /// The kind of a service.
    pub fn service(name: &str) -> Self {
        Self { class: Class::Service, name: name.into() }
    }

    /// The kind of an actor type.
    pub fn actor(name: &str) -> Self {
        Self { class: Class::Actor, name: name.into() }
    }

    /// Where subscriptions live, by the hashes of their names.
    pub fn subscriptions() -> Self {
        Self { class: Class::System, name: "subscriptions".into() }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Piece by piece, like what holds one: all of them are in every turn token.
        f.write_str(match self.class {
            Class::Service => "s.",
            Class::Actor => "a.",
            Class::System => "k.",
        })?;
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Kind {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong =
            || ParseError { text: text.into(), wanted: "a kind (s.SERVICE or a.ACTOR_TYPE)" };
        let (class, name) = text.split_once('.').ok_or_else(wrong)?;
        match class {
            "s" if is_name(name) => Ok(Self::service(name)),
            "a" if is_name(name) => Ok(Self::actor(name)),
            "k" if name == "subscriptions" => Ok(Self::subscriptions()),
            _ => Err(wrong()),
        }
    }
}

/// Whether a text may name a service, an actor type or an application: 1 to 128 of `A-Z a-z 0-9 _ - .`, not starting
/// with a dot or a dash.
pub fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

// === impl PartitionId ===

impl PartitionId {
    /// Shard `index` of `kind`.
    pub fn new(kind: Kind, index: u32) -> Self {
        Self { kind, index }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)?;
        write!(f, "/{}", self.index)
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PartitionId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError { text: text.into(), wanted: "a partition (KIND/INDEX)" };
        let (kind, index) = text.rsplit_once('/').ok_or_else(wrong)?;
        let kind = kind.parse().map_err(|_| wrong())?;
        Ok(Self { kind, index: index.parse().map_err(|_| wrong())? })
    }
}

// === impl TopicPartition ===

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Uuid ===

impl Uuid {
    /// A version 7 UUID from a time and 74 random bits (taken from `random`).
    pub fn v7(now: Millis, random: u128) -> Self {
        const RANDOM: u128 = !((0xFFFF_FFFF_FFFF_u128 << 80) | (0xF << 76) | (0b11 << 62));
        let time = u128::from(now & 0xFFFF_FFFF_FFFF) << 80;
        Self(time | (0x7 << 76) | (0b10 << 62) | (random & RANDOM))
    }

    /// The time that a version 7 UUID was made from.
    pub fn time(&self) -> Millis {
        (self.0 >> 80) as Millis
    }
}

/// Where the dashes of a UUID's text are.
const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];

impl fmt::Display for Uuid {
    /// By hand: every turn token holds one, so it is written for every call.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'-'; 36];
        let mut rest = self.0;
        for (at, digit) in text.iter_mut().enumerate() {
            if !UUID_DASHES.contains(&at) {
                *digit = b"0123456789abcdef"[(rest >> 124) as usize];
                rest <<= 4;
            }
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError { text: text.into(), wanted: "a UUID" };
        let bytes = text.as_bytes();
        if bytes.len() != 36 || UUID_DASHES.iter().any(|&at| bytes[at] != b'-') {
            return Err(wrong());
        }
        let mut value = 0_u128;
        for (at, &byte) in bytes.iter().enumerate() {
            if UUID_DASHES.contains(&at) {
                continue;
            }
            let digit = char::from(byte).to_digit(16).ok_or_else(wrong)?;
            value = (value << 4) | u128::from(digit);
        }
        Ok(Self(value))
    }
}

// === impl InvocationId ===

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.home, f)?;
        f.write_str("/")?;
        fmt::Display::fmt(&self.uuid, f)
    }
}

impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InvocationId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong =
            || ParseError { text: text.into(), wanted: "an invocation id (KIND/INDEX/UUID)" };
        let (home, uuid) = text.rsplit_once('/').ok_or_else(wrong)?;
        Ok(Self {
            home: home.parse().map_err(|_| wrong())?,
            uuid: uuid.parse().map_err(|_| wrong())?,
        })
    }
}

// === impl TurnToken ===

impl fmt::Display for TurnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invocation, step, attempt, epoch } = self;
        fmt::Display::fmt(invocation, f)?;
        write!(f, "/{step}.{attempt}.{epoch}")
    }
}

impl fmt::Debug for TurnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TurnToken {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError {
            text: text.into(),
            wanted: "a turn token (pass on the one that came with the invocation, unchanged)",
        };
        let (invocation, turn) = text.rsplit_once('/').ok_or_else(wrong)?;
        let (step, turn) = turn.split_once('.').ok_or_else(wrong)?;
        let (attempt, epoch) = turn.split_once('.').ok_or_else(wrong)?;
        Ok(Self {
            invocation: invocation.parse().map_err(|_| wrong())?,
            step: step.parse().map_err(|_| wrong())?,
            attempt: attempt.parse().map_err(|_| wrong())?,
            epoch: epoch.parse().map_err(|_| wrong())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        let token = TurnToken {
            invocation: InvocationId {
                home: PartitionId::new(Kind::actor("shop.Cart"), 7),
                uuid: Uuid::v7(1_700_000_000_000, u128::MAX),
            },
            step: 2,
            attempt: 3,
            epoch: 42,
        };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_eq!((token.invocation.uuid.0 >> 76) & 0xF, 7, "version 7");
        let uuid = Uuid(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
        assert_eq!(uuid.to_string(), "01234567-89ab-cdef-fedc-ba9876543210");
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in ["", "/", "a.x", "x.y/0", "k.x/0", "a.x/0/123/1.1", "s./0", "a.x/-1"] {
            assert!(text.parse::<TurnToken>().is_err(), "{text}");
            assert!(text.parse::<PartitionId>().is_err(), "{text}");
        }
    }
}
