//! What other nodes serve, for people: asked through inboxes of those that peers do not reach. Nobody owes this
//! anything; what is lost on its way is asked for again, for a while. What is answered is the drivers' business.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Node;
use crate::cover::Transition;
use crate::effect::{Effect, RequestError, Response};
use crate::event::Operation;
use crate::ids::{Millis, NodeId, RequestId};
use crate::message::Message;
use crate::timers::Timers;

/// How soon a node is asked again, ms: a question and its answer are appended and read back in a few.
const AGAIN_MS: Millis = 300;

/// How long an answer is waited for, ms.
const PATIENCE_MS: Millis = 1_500;

/// All that is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Views {
    open: BTreeMap<RequestId, Asked>,
    again: Timers<RequestId>,
}

/// One node asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    node: NodeId,
    /// When nobody waits for its answer any more.
    until: Millis,
}

impl Views {
    /// When one is asked again, or given up.
    pub(super) fn timeout(&self) -> Option<Millis> {
        self.again.first()
    }

    /// Nobody waits for it any more.
    pub(super) fn end(&mut self, request: RequestId) {
        self.open.remove(&request);
        self.again.set(&request, None);
    }

    /// Gives back all that is asked for.
    pub(super) fn end_all(&mut self) -> Vec<(RequestId, Operation)> {
        let all = std::mem::take(self).open.into_iter();
        all.map(|(request, asked)| (request, Operation::ViewOf { node: asked.node })).collect()
    }
}

impl Node {
    /// Asks a node what it serves.
    pub(super) fn ask_view(&mut self, request: RequestId, node: NodeId) {
        let limit = self.env.limits.roots_per_node_max;
        if self.views.open.len() >= limit {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        let until = self.env.now + PATIENCE_MS;
        self.views.open.insert(request, Asked { node, until });
        self.send_view_ask(request, node);
    }

    fn send_view_ask(&mut self, request: RequestId, node: NodeId) {
        self.views.again.set(&request, Some(self.env.now + AGAIN_MS));
        self.env.send(node, Message::Inspect { request });
    }

    /// Asks again what is due, or gives it up.
    pub(super) fn views_due(&mut self) {
        for request in self.views.again.due(self.env.now) {
            match self.views.open.get(&request) {
                Some(asked) if asked.until > self.env.now => {
                    self.env.cover(Transition::ViewAgain);
                    self.send_view_ask(request, asked.node);
                }
                _ => {
                    self.views.end(request);
                    let error =
                        RequestError::Unavailable("no answer came through its inbox in time");
                    self.env.respond(request, Err(error));
                }
            }
        }
    }

    /// Somebody asks what this node serves: the driver tells.
    pub(super) fn view_asked(&mut self, from: NodeId, request: RequestId) {
        self.env.emit(Effect::Inspect { to: from, request });
    }

    /// The driver has told.
    pub(super) fn view_told(&mut self, to: NodeId, request: RequestId, view: Arc<[u8]>) {
        self.env.send(to, Message::Inspected { request, view });
    }

    /// A node has answered.
    pub(super) fn viewed(&mut self, from: NodeId, request: RequestId, view: Arc<[u8]>) {
        if self.views.open.get(&request).is_some_and(|asked| asked.node == from) {
            self.views.end(request);
            self.env.respond(request, Ok(Response::View(view)));
        }
    }
}
