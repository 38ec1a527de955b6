//! What follows who waits for whom, and what ends calls that nobody waits for: the core's to `kar.peer.v1`, and back.

use kar_core::ids::{Number, PartitionId, Sender, Uuid};
use kar_core::message::Message;
use kar_core::probe::{Climb, Confirm, Place, Probe};
use kar_proto::peer::v1 as pb;

use super::Malformed;
use super::log::{partition_from, partition_to, sender_from, sender_to, uuid_from, uuid_to};

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

pub(super) fn withdraw_to(
    sender: &Sender,
    to: &PartitionId,
    calls: &[(Number, Uuid)],
) -> pb::Withdraw {
    let call =
        |(number, uuid): &(_, _)| pb::WithdrawnCall { number: *number, uuid: uuid_to(*uuid) };
    pb::Withdraw {
        sender: Some(sender_to(sender)),
        to: Some(partition_to(to)),
        calls: calls.iter().map(call).collect(),
    }
}

pub(super) fn withdraw_from(withdraw: pb::Withdraw) -> Result<Message, Malformed> {
    let call = |call: &pb::WithdrawnCall| Ok((call.number, uuid_from(&call.uuid)?));
    let calls: Result<_, Malformed> = withdraw.calls.iter().map(call).collect();
    Ok(Message::Withdraw {
        sender: sender_from(withdraw.sender)?,
        to: partition_from(withdraw.to)?,
        calls: calls?,
    })
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
