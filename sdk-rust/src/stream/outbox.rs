//! What waits to be written. The driver puts frames in; the HTTP/2 task takes as many for a message
//! as are ready, and no more than the connection can take: nothing is packed early, and nothing
//! waits to be packed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use kar_proto::v1::{ComponentFrame, ConnectRequest};
use prost::Message as _;

use crate::limits::{FRAMES_PER_MESSAGE_MAX, MESSAGE_BYTES_TARGET};

/// Frames that wait to be written on one stream. Bounded by the requests and turns that the
/// sidecar's credits allow.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    writer: AtomicWaker,
}

#[derive(Default)]
struct State {
    frames: VecDeque<ComponentFrame>,
    finished: bool,
}

/// The writing end: the messages of a stream.
pub(crate) struct Messages(pub(crate) Arc<Outbox>);

impl Outbox {
    /// Adds frames, in order.
    pub(crate) fn push(&self, frames: &mut Vec<ComponentFrame>) {
        if frames.is_empty() {
            return;
        }
        self.lock().frames.extend(frames.drain(..));
        self.writer.wake();
    }

    /// Ends the stream after the frames that are in.
    pub(crate) fn finish(&self) {
        self.lock().finished = true;
        self.writer.wake();
    }

    /// Ends the stream at once and returns the frames that were not written.
    pub(crate) fn abandon(&self) -> VecDeque<ComponentFrame> {
        let frames = {
            let mut state = self.lock();
            state.finished = true;
            std::mem::take(&mut state.frames)
        };
        self.writer.wake();
        frames
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pack(&self) -> Poll<Option<ConnectRequest>> {
        let mut state = self.lock();
        let mut frames = Vec::with_capacity(state.frames.len().min(FRAMES_PER_MESSAGE_MAX));
        let mut bytes = 0;
        while frames.len() < FRAMES_PER_MESSAGE_MAX {
            let Some(frame) = state.frames.front() else { break };
            bytes += frame.encoded_len();
            if bytes > MESSAGE_BYTES_TARGET && !frames.is_empty() {
                break;
            }
            frames.extend(state.frames.pop_front());
        }
        match frames.is_empty() {
            false => Poll::Ready(Some(ConnectRequest { frames })),
            true if state.finished => Poll::Ready(None),
            true => Poll::Pending,
        }
    }
}

impl Stream for Messages {
    type Item = ConnectRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConnectRequest>> {
        if let Poll::Ready(message) = self.0.pack() {
            return Poll::Ready(message);
        }
        self.0.writer.register(cx.waker());
        // Once more: something may have come in before the waker was there.
        self.0.pack()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use kar_proto::v1::component_frame::Frame;
    use kar_proto::v1::{Credit, Payload, TurnOutcome, payload, turn_outcome};

    use super::*;

    fn small() -> ComponentFrame {
        ComponentFrame { frame: Some(Frame::Credit(Credit { count: 1 })) }
    }

    fn large(bytes: usize) -> ComponentFrame {
        let data = vec![0_u8; bytes].into();
        let payload = Payload { body: Some(payload::Body::Data(data)), ..Payload::default() };
        let result = Some(turn_outcome::Result::Payload(payload));
        let outcome = TurnOutcome { turn_token: String::new(), result };
        ComponentFrame { frame: Some(Frame::TurnResult(outcome)) }
    }

    fn next(messages: &mut Messages) -> Option<usize> {
        messages.next().now_or_never().map(|m| m.map_or(0, |m| m.frames.len()))
    }

    #[test]
    fn packs_what_is_ready_within_bounds() {
        let outbox = Arc::new(Outbox::default());
        let mut messages = Messages(outbox.clone());
        assert_eq!(next(&mut messages), None);
        outbox.push(&mut vec![small(); FRAMES_PER_MESSAGE_MAX + 3]);
        assert_eq!(next(&mut messages), Some(FRAMES_PER_MESSAGE_MAX));
        assert_eq!(next(&mut messages), Some(3));
        outbox.push(&mut vec![small(), large(MESSAGE_BYTES_TARGET), small()]);
        assert_eq!(next(&mut messages), Some(1));
        assert_eq!(next(&mut messages), Some(1), "a long frame travels alone");
        assert_eq!(next(&mut messages), Some(1));
        outbox.push(&mut vec![small()]);
        outbox.finish();
        assert_eq!((next(&mut messages), next(&mut messages)), (Some(1), Some(0)));
    }

    #[test]
    fn returns_what_was_not_written() {
        let outbox = Arc::new(Outbox::default());
        let mut messages = Messages(outbox.clone());
        outbox.push(&mut vec![small(); 2]);
        assert_eq!(outbox.abandon().len(), 2);
        assert_eq!(next(&mut messages), Some(0));
    }
}
