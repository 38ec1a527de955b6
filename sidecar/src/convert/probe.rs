//! What follows who waits for whom: the core's to `kar.peer.v1`, and back.

use kar_core::probe::{Climb, Confirm, Place, Probe};
use kar_proto::peer::v1 as pb;

use super::Malformed;
use super::log::{partition_from, partition_to, uuid_from, uuid_to};

pub(super) fn probe_to(probe: &Probe) -> pb::Probe {
    pb::Probe {
        to: Some(partition_to(&probe.to)),
        uuid: uuid_to(probe.uuid),
        origin: uuid_to(probe.origin),
        chain: probe.chain.iter().map(|uuid| uuid_to(*uuid)).collect(),
        round: probe.round,
        path: probe.path.iter().map(place_to).collect(),
    }
}

pub(super) fn probe_from(probe: pb::Probe) -> Result<Probe, Malformed> {
    let chain: Result<Vec<_>, _> = probe.chain.iter().map(|uuid| uuid_from(uuid)).collect();
    let path: Result<_, _> = probe.path.into_iter().map(place_from).collect();
    Ok(Probe {
        to: partition_from(probe.to)?,
        uuid: uuid_from(&probe.uuid)?,
        origin: uuid_from(&probe.origin)?,
        chain: chain?.into(),
        round: probe.round,
        path: path?,
    })
}

pub(super) fn confirm_to(confirm: &Confirm) -> pb::Confirm {
    let at = u32::try_from(confirm.at).unwrap_or(u32::MAX);
    pb::Confirm { places: confirm.places.iter().map(place_to).collect(), at }
}

pub(super) fn confirm_from(confirm: pb::Confirm) -> Result<Confirm, Malformed> {
    let places: Result<_, _> = confirm.places.into_iter().map(place_from).collect();
    Ok(Confirm { places: places?, at: confirm.at as usize })
}

pub(super) fn climb_to(climb: &Climb) -> pb::Climb {
    pb::Climb {
        to: Some(partition_to(&climb.to)),
        uuid: uuid_to(climb.uuid),
        at: climb.at.as_ref().map(partition_to),
    }
}

pub(super) fn climb_from(climb: pb::Climb) -> Result<Climb, Malformed> {
    let at = climb.at.map(|at| partition_from(Some(at))).transpose()?;
    Ok(Climb { to: partition_from(climb.to)?, uuid: uuid_from(&climb.uuid)?, at })
}

fn place_to(place: &Place) -> pb::Place {
    pb::Place {
        partition: Some(partition_to(&place.partition)),
        epoch: place.epoch,
        uuid: uuid_to(place.uuid),
        actor: place.actor.to_string(),
        holder: uuid_to(place.holder),
    }
}

fn place_from(place: pb::Place) -> Result<Place, Malformed> {
    Ok(Place {
        partition: partition_from(place.partition)?,
        epoch: place.epoch,
        uuid: uuid_from(&place.uuid)?,
        actor: place.actor.into(),
        holder: uuid_from(&place.holder)?,
    })
}
