//! Two ways to one partition.

use std::cell::Cell;
use std::rc::Rc;

use kar_core::ids::PartitionId;
use kar_core::inbox::{InboxBody, InboxEntry, InboxId};
use kar_core::invocation::Mode;
use kar_core::message::Message;
use kar_core::record::Op;

use super::{A, Stage, answered, holds_from, is_accept, is_inbox};
use crate::log::Fate;
use crate::plan::{Fault, MS};

/// Whether an entry is a request to a log.
fn requests(inbox: &InboxId, entry: &InboxEntry, of: &PartitionId) -> bool {
    let InboxBody::Channel { message: Message::Request { .. }, .. } = entry.body else {
        return false;
    };
    *inbox == InboxId::Partition(of.clone())
}

/// Two nodes do not reach each other; a call goes into the inbox, and arrives there only when they do again, and it has
/// been carried out and closed. Then once more, and the node that sent it dies and is given up before it arrives: it
/// lies behind the mark of its node, and is not taken.
pub(super) fn accept_after_forget(stage: &mut Stage) {
    stage.until_ready();
    stage.scripts(Vec::new());
    let owner = stage.owner(A);
    let from = stage.other(&[owner]);
    let id = stage.world.log_ids[A].clone();
    let late = Rc::new(Cell::new(false));
    let seen = late.clone();
    stage.world.hooks.inbox = Some(Box::new(move |_, inbox, entry| {
        if requests(inbox, entry, &id) && !seen.replace(true) {
            return Fate::Late(900 * MS);
        }
        Fate::Lands
    }));
    stage.world.inject(Fault::Apart { a: from, b: owner, deaf: None, us: 200 * MS });
    stage.pass(20 * MS);
    let req = stage.ask(from, Mode::Call, A, 0);
    stage.until("an entry", move |_| late.get());
    stage.until("the answer", answered(req));
    stage.pass(1_200 * MS);
    let id = stage.world.log_ids[A].clone();
    let late = Rc::new(Cell::new(false));
    let seen = late.clone();
    stage.world.hooks.inbox = Some(Box::new(move |_, inbox, entry| {
        if requests(inbox, entry, &id) && !seen.replace(true) {
            return Fate::Late(900 * MS);
        }
        Fate::Lands
    }));
    stage.world.hooks.lands_orphaned = true;
    stage.world.inject(Fault::Apart { a: from, b: owner, deaf: None, us: 200 * MS });
    stage.pass(20 * MS);
    stage.ask(from, Mode::Call, A, 1);
    stage.until("an entry of the node that dies", move |_| late.get());
    let before = stage.world.logs[A].last();
    stage.world.crash(from, 0, 2_000 * MS, MS);
    let is_closing = |op: &Op| matches!(op, Op::CloseChannel { .. });
    stage.until("a closed channel", move |w| holds_from(w, A, before, is_closing));
    let closed = stage.world.logs[A].last();
    stage.pass(1_000 * MS);
    if holds_from(&stage.world, A, closed, is_accept) {
        stage.missed = Some("the refusal of what lies behind the mark");
    }
}

/// Requests are in a socket when that breaks; they go into the inbox with others, whose owner dies when it has taken
/// some of them; the next one takes the rest from there, and from a socket again.
pub(super) fn route_flip(stage: &mut Stage) {
    stage.until_ready();
    stage.scripts(Vec::new());
    let owner = stage.owner(A);
    let from = stage.other(&[owner]);
    for _ in 0..2 {
        let req = stage.ask(from, Mode::Call, A, 0);
        stage.until("a call", answered(req));
    }
    stage.world.hooks.message = Some(Box::new(move |sender, to, message| {
        let request = matches!(message, Message::Request { .. });
        if request && (sender, to) == (from, owner) { 500 * MS } else { 0 }
    }));
    let mut tells: Vec<usize> = (0..3).map(|_| stage.ask(from, Mode::Tell, A, 0)).collect();
    stage.pass(5 * MS);
    stage.world.inject(Fault::Apart { a: from, b: owner, deaf: None, us: 400 * MS });
    stage.pass(60 * MS);
    tells.extend((0..3).map(|_| stage.ask(from, Mode::Tell, A, 0)));
    stage.until("a request from the inbox", |w| holds_from(w, A, 0, is_inbox));
    let down = Fault::Crash { slot: owner, app_us: 0, down_us: 300 * MS, lease_us: 2 * MS };
    stage.world.inject(down);
    for tell in tells {
        stage.until("an acceptance", answered(tell));
    }
    stage.pass(600 * MS);
}
