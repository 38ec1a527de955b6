//! The client's task: makes the connection, reads it, makes it again.

use std::sync::Arc;
use std::time::Duration;

use kar_proto::hub::v1 as wire;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Streaming;
use wire::hub_frame::Frame;

use super::ClientConfig;
use super::outbox::Shared;
use super::start::{Attachment, Starter};
use crate::error::HubError;
use crate::types::HubEvent;

/// Called once per message of the stream.
pub(crate) type Handler = Box<dyn FnMut(Vec<HubEvent>) + Send>;
/// Incarnation granted, process id of the hub.
pub(crate) type Attached = (u64, u32);

/// How often silence is looked for. A process that was asleep sees one tick, not many, so that it
/// does not take its own sleep for the hub's.
const TICK: Duration = Duration::from_millis(500);
/// Ticks between signs of life to the hub.
const ALIVE_TICKS: u32 = 2;
/// How long a closing client waits for the hub to take what was queued.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// How long to wait, at most, before trying again when no hub can be had.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Version of the protocol.
pub(crate) const PROTOCOL_VERSION: u32 = 9;

/// Why reading a connection ended.
enum Ended {
    Closed,
    Broken,
    /// Nothing came for too long.
    Silent,
}

/// Runs until the client is closed or the first connection cannot be made.
pub(crate) async fn run(
    config: ClientConfig,
    shared: Arc<Shared>,
    mut handler: Handler,
    ready: oneshot::Sender<Result<Attached, HubError>>,
) {
    let mut link = Link { starter: Starter::new(config.clone()), config, shared, incarnation: 0 };
    let deadline = Instant::now() + link.config.connect_timeout;
    let mut stream = match link.attach(deadline).await {
        Ok((stream, welcome, rest)) => {
            link.incarnation = welcome.incarnation;
            link.shared.welcomed(&welcome.directory_id);
            handler(vec![HubEvent::Welcome { incarnation: welcome.incarnation, resumed: false }]);
            if ready.send(Ok((welcome.incarnation, welcome.hub_process_id))).is_err() {
                return;
            }
            link.deliver(rest, &mut handler);
            stream
        }
        Err(error) => {
            // If nobody waits for it any more, nobody wants to know.
            let _ = ready.send(Err(error));
            return;
        }
    };
    loop {
        match link.read(&mut stream, &mut handler).await {
            Ended::Closed => return,
            Ended::Broken => {}
            Ended::Silent => link.starter.kill_hung(),
        }
        let lost = link.shared.broken();
        if !lost.is_empty() {
            handler(lost);
        }
        if link.shared.is_directory_lost() {
            // The handler was told. Another hub would begin another directory in its place.
            return link.shared.abandon();
        }
        match link.again(&mut handler).await {
            Some(next) => stream = next,
            None => return,
        }
    }
}

struct Link {
    config: ClientConfig,
    shared: Arc<Shared>,
    starter: Starter,
    incarnation: u64,
}

// === impl Link ===

impl Link {
    /// Connects, starting a hub if need be, and waits for its welcome.
    async fn attach(&mut self, deadline: Instant) -> Result<Attachment, HubError> {
        let hello = wire::Hello {
            version: PROTOCOL_VERSION,
            application: self.config.application.clone(),
            node_name: self.config.node_name.clone(),
            address: self.config.peer_address.clone(),
            process_id: self.config.process_id,
            incarnation: self.incarnation,
            observer: self.config.observer,
            transient: self.config.transient,
            directory_id: self.shared.directory_id(),
        };
        let shared = &self.shared;
        self.starter.attach(|| shared.begin(hello.clone()), deadline).await
    }

    /// Makes the connection again, for as long as it takes; `None`: the client was closed.
    async fn again(&mut self, handler: &mut Handler) -> Option<Streaming<wire::AttachResponse>> {
        let mut wait = Duration::from_millis(20);
        loop {
            let deadline = Instant::now() + self.config.connect_timeout;
            let shared = Arc::clone(&self.shared);
            let attached = tokio::select! {
                attached = self.attach(deadline) => attached,
                () = shared.closed() => return None,
            };
            match attached {
                Ok((stream, welcome, rest)) => {
                    self.welcome_again(&welcome, handler);
                    self.deliver(rest, handler);
                    return Some(stream);
                }
                Err(error @ HubError::DirectoryLost { .. }) => {
                    self.shared.abandon();
                    handler(vec![HubEvent::DirectoryLost { message: error.to_string() }]);
                    return None;
                }
                Err(error) => {
                    tracing::error!(%error, "no hub can be had");
                    handler(vec![HubEvent::Unavailable { message: error.to_string() }]);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shared.closed() => return None,
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    fn welcome_again(&mut self, welcome: &wire::Welcome, handler: &mut Handler) {
        let mut events = Vec::with_capacity(3);
        if !welcome.resumed && !self.config.observer {
            events.push(HubEvent::Evicted);
        }
        self.incarnation = welcome.incarnation;
        self.shared.welcomed(&welcome.directory_id);
        events
            .push(HubEvent::Welcome { incarnation: welcome.incarnation, resumed: welcome.resumed });
        events.push(HubEvent::Reconnected);
        handler(events);
    }

    /// Hands what comes to the handler until the connection ends.
    async fn read(
        &self,
        stream: &mut Streaming<wire::AttachResponse>,
        handler: &mut Handler,
    ) -> Ended {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let silent_max = silent_ticks(self.config.silence);
        let mut silent = 0;
        let mut count = 0;
        let closed = self.shared.closed();
        tokio::pin!(closed);
        loop {
            tokio::select! {
                biased;
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        silent = 0;
                        self.deliver(message, handler);
                    }
                    Ok(None) => return Ended::Broken,
                    Err(status) => {
                        tracing::debug!(%status, "the connection to the hub broke");
                        return Ended::Broken;
                    }
                },
                _ = ticks.tick() => {
                    silent += 1;
                    count += 1;
                    if silent > silent_max {
                        return Ended::Silent;
                    }
                    if count % ALIVE_TICKS == 0 {
                        self.shared.alive();
                    }
                }
                () = &mut closed => {
                    let drained = async { while let Ok(Some(_)) = stream.message().await {} };
                    // What the hub did not take in time is lost with the client that closed.
                    let _ = tokio::time::timeout(CLOSE_MAX, drained).await;
                    return Ended::Closed;
                }
            }
        }
    }

    fn deliver(&self, message: wire::AttachResponse, handler: &mut Handler) {
        if let [wire::HubFrame { frame: Some(Frame::Alive(_)) }] = message.frames[..] {
            return;
        }
        let events = self.shared.events(message.frames);
        if !events.is_empty() {
            handler(events);
        }
    }
}

/// Ticks without a message after which the other end counts as silent.
fn silent_ticks(silence: Duration) -> u32 {
    u32::try_from(silence.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX).max(2)
}
