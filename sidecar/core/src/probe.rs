//! What follows who waits for whom (design section 6, item 6), to find flows that wait for each other in a circle.
//!
//! Nothing here is owed: a probe that is lost is sent again while its call waits. Two walks find a cycle. The first one
//! looks for it: from a call that waits for its actor to whoever holds that, on to the calls that the holder waits for,
//! until a holder is a caller of the call where it began. The second one goes round what was found and looks whether
//! each call still waits for the same holder in the same reign, which is proved to be current first. Neither such an edge nor that a caller waits for what it called ever comes back once it has gone, so what
//! both walks saw was there, all at once, between them.

use std::sync::Arc;

use crate::ids::{Epoch, PartitionId, Uuid};

/// The first walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The partition where it goes on.
    pub to: PartitionId,
    /// The call to be looked at there.
    pub uuid: Uuid,
    /// The call that waits where it began.
    pub origin: Uuid,
    /// The callers of that one: whoever waits for one of them closes the circle.
    pub chain: Arc<[Uuid]>,
    /// Which walk of that call it is.
    pub round: u32,
    /// Calls found waiting on the way, from the first.
    pub path: Vec<Place>,
}

/// The second walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Confirm {
    /// Calls that wait in a circle: each one for a holder that waits for the next one. The youngest is the last.
    pub places: Vec<Place>,
    /// The one to be looked at.
    pub at: usize,
}

/// A call that waits for an actor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Where it waits.
    pub partition: PartitionId,
    /// In which reign.
    pub epoch: Epoch,
    /// The call.
    pub uuid: Uuid,
    /// The actor.
    pub actor: Arc<str>,
    /// The invocation that holds it.
    pub holder: Uuid,
}

/// Goes from a call that waits up to its callers, to tell homes where their chains of tail calls are: probes come down
/// through the homes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Climb {
    /// The partition that it comes to.
    pub to: PartitionId,
    /// The invocation there.
    pub uuid: Uuid,
    /// Where that one's chain of tail calls is, if it has left.
    pub at: Option<PartitionId>,
}

impl Confirm {
    /// The second walk round what the first one has found, to end at the youngest: it is the same one whoever looks.
    pub(crate) fn new(mut places: Vec<Place>) -> Option<Self> {
        let youngest = places.iter().enumerate().max_by_key(|(_, place)| place.uuid)?.0;
        let first = (youngest + 1) % places.len();
        places.rotate_left(first);
        Some(Self { places, at: 0 })
    }

    /// The call to be looked at.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.places.get(self.at)
    }

    /// The one before it: its holder waits for this one.
    pub(crate) fn before(&self) -> Option<&Place> {
        let at = self.at.checked_sub(1).unwrap_or(self.places.len().checked_sub(1)?);
        self.places.get(at)
    }

    /// For people: which actors are held, each by a flow that waits for the next one.
    pub(crate) fn text(&self) -> Arc<str> {
        let name = |place: &Place| format!("{}/{}", place.partition.kind.name, place.actor);
        let mut names: Vec<_> = self.places.iter().map(name).collect();
        names.extend(names.first().cloned());
        names.join(" -> ").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Kind;

    fn place(uuid: u128) -> Place {
        let partition = PartitionId { kind: Kind::actor("A"), index: 0 };
        Place {
            partition,
            epoch: 1,
            uuid: Uuid(uuid),
            actor: format!("a{uuid}").into(),
            holder: Uuid(90 + uuid),
        }
    }

    #[test]
    fn the_walk_round_ends_at_the_youngest_wherever_it_was_found() {
        for start in 0..3 {
            let mut places = vec![place(2), place(7), place(5)];
            places.rotate_left(start);
            let confirm = Confirm::new(places).expect("there are places");
            let uuids: Vec<_> = confirm.places.iter().map(|p| p.uuid.0).collect();
            assert_eq!(uuids, [5, 2, 7]);
            assert_eq!(confirm.before().map(|p| p.uuid.0), Some(7));
            assert_eq!(&*confirm.text(), "A/a5 -> A/a2 -> A/a7 -> A/a5");
        }
        assert_eq!(Confirm::new(Vec::new()), None);
    }
}
