//! Deleting everything of an application: all of it or nothing, whenever the hub is killed.
//!
//! The write-ahead log says first that an application is being purged; from there on nobody joins
//! it. Then its snapshots go, then its store, and last its logs, with the record that it is purged.
//! A hub that finds the first record without the last one goes on from the start: each of the steps
//! may be repeated. Other applications are served meanwhile. A request that is repeated because its
//! answer was lost is known by its name: what was written since stays.

use std::sync::Arc;

use kar_proto::hub::v1 as wire;
use tonic::Status;
use wire::hub_frame::Frame;
use wire::meta::Meta;
use wire::state_response::Response;

use super::conn::ConnId;
use super::{Engine, NOBODY, PurgeName, Purges, Then};
use crate::snapshots::SnapshotJob;
use crate::store::StoreJob;

/// Requests that are remembered.
const PURGES_MAX: usize = 100;

/// The record that a purge begins.
pub(super) fn begun(app: &str, request: Option<PurgeName>) -> Meta {
    match request {
        Some(request) => Meta::PurgeBegun(named(app, request)),
        None => Meta::ApplicationPurging(app.to_owned()),
    }
}

pub(super) fn named(app: &str, request: PurgeName) -> wire::ApplicationPurge {
    wire::ApplicationPurge { application: app.to_owned(), request: request.to_vec().into() }
}

/// A request has purged an application.
pub(super) fn remember(purges: &mut Purges, app: Arc<str>, request: PurgeName) {
    purges.push_back((app, request));
    if purges.len() > PURGES_MAX {
        purges.pop_front();
    }
}

// === impl Engine ===

impl Engine {
    pub(super) fn purge(&mut self, id: ConnId, number: u64, app: &Arc<str>, purge: &wire::Purge) {
        let request = match PurgeName::try_from(&purge.request[..]) {
            Ok(request) => Some(request),
            Err(_) if purge.request.is_empty() => None,
            Err(_) => {
                let message = "the name of a request has 16 bytes".into();
                let reason = wire::RefusedReason::Invalid.into();
                let refused = wire::Refused { reason, message, ..Default::default() };
                return self.answer(id, number, Response::Refused(refused));
            }
        };
        let is_known =
            |request| self.purges.iter().any(|(of, known)| of == app && *known == request);
        let is_again = request.is_some_and(is_known);
        let Some(entry) = self.apps.get_mut(app) else { return };
        if is_again && !entry.purging {
            return self.answer(id, number, Response::Purged(wire::Purged { count: None }));
        }
        if entry.purging {
            // Its end might come when others have joined after the end of the first one.
            let message = format!("'{app}' is being purged already: wait for the answer to that");
            let reason = wire::RefusedReason::Invalid.into();
            let refused = wire::Refused { reason, message, ..Default::default() };
            self.answer(id, number, Response::Refused(refused));
            return;
        }
        if !entry.members.is_empty() {
            let names: Vec<_> = entry.members.values().map(|m| m.info.name.as_str()).collect();
            let message = match names[..] {
                [name] => format!("a member of '{app}' is alive ({name}): stop it first"),
                _ => format!(
                    "{} members of '{app}' are alive ({}): stop them first",
                    names.len(),
                    names.join(", ")
                ),
            };
            let reason = wire::RefusedReason::MembersAlive.into();
            let refused = wire::Refused { reason, message, ..Default::default() };
            self.answer(id, number, Response::Refused(refused));
            return;
        }
        (entry.purging, entry.purge) = (true, request);
        for (&other, conn) in &mut self.conns {
            if other != id && conn.app.as_ref() == Some(app) {
                conn.close(Status::unavailable("the application is being purged"));
            }
        }
        let then = Then::Purging { conn: id, number, app: Arc::clone(app) };
        self.append_meta(begun(app, request), Some(then));
    }

    /// Goes on with what a former hub had begun.
    pub(crate) fn resume_purges(&mut self) {
        let begun = self.apps.iter().filter(|(_, entry)| entry.purging);
        let begun: Vec<_> = begun.map(|(app, _)| Arc::clone(app)).collect();
        for app in begun {
            tracing::info!(application = %app, "the purge of an application goes on");
            self.purge_snapshots(NOBODY, 0, app);
        }
    }

    /// That an application is being purged is durable: its snapshots go first.
    pub(super) fn purge_snapshots(&mut self, id: ConnId, number: u64, app: Arc<str>) {
        self.snapshot_job(id, SnapshotJob::Purge { conn: id, number, app });
    }

    /// The snapshots of an application are deleted; its store follows.
    pub(crate) fn snapshots_purged(&mut self, id: ConnId, number: u64, app: &Arc<str>) {
        self.stored(id, Vec::new());
        let app = Arc::clone(app);
        self.store_job(id, StoreJob::Purge { conn: id, number, app, entries: 0 });
    }

    /// The store of an application is deleted, which had so many entries; its logs follow.
    pub(crate) fn store_purged(&mut self, id: ConnId, number: u64, app: &Arc<str>, entries: u64) {
        self.stored(id, Vec::new());
        let (kinds, logs) = match self.apps.get_mut(app) {
            Some(entry) => (std::mem::take(&mut entry.kinds), std::mem::take(&mut entry.logs)),
            None => Default::default(),
        };
        let (kinds, logs_count) = (kinds.len() as u64, logs.len() as u64);
        for log in logs.into_values() {
            let Some(state) = self.logs.remove(&log) else { continue };
            self.condemned.push(state.index);
            for reader in state.readers {
                let Some(conn) = self.conns.get_mut(&reader) else { continue };
                if let Some(reading) = conn.readings.remove(&log) {
                    conn.own -= reading.own();
                    let (log, reading) = (reading.handle, reading.number);
                    conn.send(Frame::LogLost(wire::LogLost { log, reading }));
                }
            }
        }
        let consumers = self.purge_from_topics(app);
        let count = wire::PurgeCount { kinds, logs: logs_count, entries, consumers };
        let then = Then::Purged { conn: id, number, app: Arc::clone(app), count };
        self.append_meta(Meta::ApplicationPurged(app.to_string()), Some(then));
        if let Some(entry) = self.apps.get_mut(app) {
            entry.purged = true;
            if let Some(request) = entry.purge.take() {
                remember(&mut self.purges, Arc::clone(app), request);
            }
        }
    }

    pub(super) fn purged(
        &mut self,
        id: ConnId,
        number: u64,
        app: &Arc<str>,
        count: wire::PurgeCount,
    ) {
        if let Some(entry) = self.apps.get_mut(app) {
            (entry.purging, entry.purged) = (false, false);
        }
        self.bury();
        self.show_members(app);
        self.answer(id, number, Response::Purged(wire::Purged { count: Some(count) }));
    }

    /// Records of logs that are gone are not needed any more. What others have condemned meanwhile goes with the last
    /// of them.
    pub(super) fn bury(&mut self) {
        if !self.deletes_topics() && !self.apps.values().any(|entry| entry.purging) {
            for index in std::mem::take(&mut self.condemned) {
                self.files.die_all(index.places());
            }
        }
        self.tidy();
    }
}
