//! Members: the connection is the lease.

use std::sync::Arc;

use kar_proto::hub::v1 as wire;
use tonic::Status;
use wire::hub_frame::Frame;
use wire::meta::Meta;

use super::conn::ConnId;
use super::topics::TOPICS_APP;
use super::{Engine, Member, Then};
use crate::options::NAME_BYTES_MAX;

/// Version of the protocol.
pub(super) const PROTOCOL_VERSION: u32 = 9;
/// Kinds that one member may offer.
const OFFERED_MAX: usize = 1_024;

// === impl Engine ===

impl Engine {
    pub(super) fn hello(&mut self, id: ConnId, hello: wire::Hello) -> Result<(), Status> {
        if hello.version != PROTOCOL_VERSION {
            let text = format!(
                "the hub (process {}) speaks version {PROTOCOL_VERSION} of its protocol, not {}: \
                 end it, so that a new one is started",
                std::process::id(),
                hello.version
            );
            return Err(Status::failed_precondition(text));
        }
        if !hello.directory_id.is_empty() && hello.directory_id != self.directory_id {
            return Err(Status::data_loss("the client belongs to another data directory"));
        }
        let names = [&hello.application, &hello.node_name, &hello.address];
        if hello.application.is_empty() || names.iter().any(|n| n.len() > NAME_BYTES_MAX) {
            let text = format!("names have at most {NAME_BYTES_MAX} bytes, an application's some");
            return Err(Status::invalid_argument(text));
        }
        if hello.application == TOPICS_APP {
            return Err(Status::invalid_argument("no application has this name"));
        }
        let app: Arc<str> = hello.application.as_str().into();
        if self.apps.entry(Arc::clone(&app)).or_default().purging {
            return Err(Status::unavailable("the application is being purged"));
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.app = Some(Arc::clone(&app));
        }
        if hello.observer {
            self.welcome(id, 0, false);
        } else if hello.incarnation != 0 && self.resume(id, &app, &hello) {
            self.welcome(id, hello.incarnation, true);
        } else {
            self.join(id, app, hello);
        }
        Ok(())
    }

    /// Grants a new incarnation, as soon as that is durable.
    fn join(&mut self, id: ConnId, app: Arc<str>, hello: wire::Hello) {
        let incarnation = self.next_incarnation;
        self.next_incarnation += 1;
        let info = wire::Member {
            incarnation,
            name: hello.node_name,
            address: hello.address,
            process_id: hello.process_id,
            transient: hello.transient,
            ..Default::default()
        };
        let joined =
            wire::MemberJoined { application: app.to_string(), member: Some(info.clone()) };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.incarnation = incarnation;
        }
        if let Some(entry) = self.apps.get_mut(&app) {
            entry.members.insert(incarnation, Member { info, conn: Some(id) });
        }
        let then = Then::Joined { conn: id, app, incarnation };
        self.append_meta(Meta::MemberJoined(joined), Some(then));
    }

    pub(super) fn joined(&mut self, id: ConnId, app: &Arc<str>, incarnation: u64) {
        // If the connection broke meanwhile, the member has left already.
        if self.conns.contains_key(&id) {
            self.welcome(id, incarnation, false);
            self.show_members(app);
        }
    }

    /// Lets a member come back under its incarnation; false: it is not known any more.
    fn resume(&mut self, id: ConnId, app: &Arc<str>, hello: &wire::Hello) -> bool {
        let incarnation = hello.incarnation;
        let Some(entry) = self.apps.get_mut(app) else { return false };
        let Some(member) = entry.members.get_mut(&incarnation) else { return false };
        let former = member.conn.replace(id);
        let moved = member.info.address != hello.address
            || member.info.process_id != hello.process_id
            || member.info.name != hello.node_name;
        member.info.address.clone_from(&hello.address);
        member.info.name.clone_from(&hello.node_name);
        member.info.process_id = hello.process_id;
        let info = member.info.clone();
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.incarnation = incarnation;
        }
        if let Some(former) = former.and_then(|former| self.conns.get_mut(&former)) {
            former.close(Status::aborted("the node has another connection"));
        }
        if moved {
            let application = app.to_string();
            let joined = wire::MemberJoined { application, member: Some(info) };
            self.append_meta(Meta::MemberJoined(joined), None);
            self.show_members(app);
        }
        true
    }

    fn welcome(&mut self, id: ConnId, incarnation: u64, resumed: bool) {
        if let Some(conn) = self.conns.get_mut(&id) {
            let directory_id = self.directory_id.clone();
            let hub_process_id = std::process::id();
            let welcome = wire::Welcome { incarnation, resumed, hub_process_id, directory_id };
            conn.send(Frame::Welcome(welcome));
            conn.welcomed = true;
            conn.view_due = true;
        }
    }

    /// A connection ended: its member is gone, unless it has another one.
    pub(super) fn leave(&mut self, app: &Arc<str>, incarnation: u64, id: ConnId) {
        let Some(entry) = self.apps.get_mut(app) else { return };
        let is_last = entry.members.get(&incarnation).is_some_and(|m| m.conn == Some(id));
        // When the hub ends its clients come back to the next one.
        if is_last && !self.stopping && self.fault.is_none() {
            self.remove_member(app, incarnation);
        }
    }

    fn remove_member(&mut self, app: &Arc<str>, incarnation: u64) {
        let Some(entry) = self.apps.get_mut(app) else { return };
        if entry.members.remove(&incarnation).is_some() {
            self.append_meta(Meta::MemberLeft(incarnation), None);
            self.show_members(app);
        }
    }

    pub(super) fn offer(
        &mut self,
        id: ConnId,
        app: &Arc<str>,
        offer: wire::Offer,
    ) -> Result<(), Status> {
        if offer.kinds.len() > OFFERED_MAX || offer.kinds.iter().any(|k| k.len() > NAME_BYTES_MAX) {
            let text = format!("a member offers at most {OFFERED_MAX} kinds");
            return Err(Status::invalid_argument(text));
        }
        let Some(incarnation) = self.conns.get(&id).map(|conn| conn.incarnation) else {
            return Ok(());
        };
        let Some(member) =
            self.apps.get_mut(app).and_then(|entry| entry.members.get_mut(&incarnation))
        else {
            return Ok(());
        };
        if member.info.kinds == offer.kinds && member.info.leaving == offer.leaving {
            return Ok(());
        }
        member.info.kinds.clone_from(&offer.kinds);
        member.info.leaving = offer.leaving;
        // A replaced hub tells the same, so that nothing moves because of it.
        let offered = wire::MemberOffered { incarnation, offer: Some(offer) };
        self.append_meta(Meta::MemberOffered(offered), None);
        self.show_members(app);
        Ok(())
    }

    /// The view of an application changed.
    pub(super) fn show_members(&mut self, app: &Arc<str>) {
        for conn in self.conns.values_mut() {
            if conn.welcomed && conn.app.as_ref() == Some(app) {
                conn.view_due = true;
                conn.wake();
            }
        }
    }

    /// The grace after the start is over: former members that did not come back are gone, but for those whose process,
    /// by its id, may still come.
    pub(crate) fn end_grace(&mut self, may_come: impl Fn(u32) -> bool) {
        let mut gone = Vec::new();
        for (app, entry) in &self.apps {
            for (&incarnation, member) in &entry.members {
                if member.conn.is_none() && !may_come(member.info.process_id) {
                    gone.push((Arc::clone(app), incarnation));
                }
            }
        }
        for (app, incarnation) in gone {
            self.remove_member(&app, incarnation);
        }
    }

    /// Half a second has passed: signs of life, and who gives none.
    pub(crate) fn tick(&mut self, silent_max: u32) {
        for log in self.logs.values_mut() {
            // Whoever has not had them yet reads them from disk.
            log.recent.clear();
        }
        self.tick_tidy();
        self.tick_topics();
        let mut silent = Vec::new();
        let ids: Vec<_> = self.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.conns.get(&id) else { continue };
            let (busy, unread) = (self.is_behind(conn), self.is_unread(conn));
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            if conn.tick(silent_max, busy, unread) && !conn.is_closed() {
                conn.close(Status::deadline_exceeded("nothing was heard for too long"));
                silent.push((conn.app.clone(), conn.incarnation, id));
            }
        }
        for (app, incarnation, id) in silent {
            tracing::warn!(incarnation, "a client is silent: struck out");
            if let Some(app) = app {
                self.leave(&app, incarnation, id);
            }
        }
    }
}
