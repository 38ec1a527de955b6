//! A bounded queue of frames that is itself the stream which the transport sends: whatever is ready when the transport
//! comes for more travels in one message.
//!
//! It has two lanes. Frames that are pushed count against the bounds: nobody else holds what is in them, and who
//! does not
//! read is cut off. Frames that are pushed as *work* do not: the core holds what is in them anyway, and bounds it; so a
//! burst of any length waits here until it is read. Each lane keeps its order, and takes turns with the other one.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use kar_proto::v1::ErrorReason;
use tokio::sync::Notify;
use tokio_stream::Stream;
use tonic::Status;

use crate::convert::error::status;

/// Bytes of frames after which a message is closed: none is longer than this and its last frame.
pub const MESSAGE_BYTES_TARGET: usize = 256 << 10;

/// Bounds of an outbox.
#[derive(Clone, Copy, Debug)]
pub struct OutboxBounds {
    /// Name of the queue: its bounds are called by it, `…_frames_max` and `…_bytes_max`.
    pub queue: &'static str,
    /// Frames waiting.
    pub frames_max: usize,
    /// Bytes waiting.
    pub bytes_max: usize,
    /// Frames in one message.
    pub frames_per_message_max: usize,
}

/// The writing end: frames go in, in order. It ends by itself when the other side does not keep up.
#[derive(Debug)]
pub struct Outbox<T> {
    queue: Mutex<Queue<T>>,
    bounds: OutboxBounds,
    ended: Notify,
}

/// The end that the transport reads.
pub struct OutboxStream<T, M> {
    outbox: Arc<Outbox<T>>,
    /// Sent before all frames.
    first: Option<M>,
    pack: fn(Vec<T>) -> M,
}

#[derive(Debug)]
struct Queue<T> {
    frames: VecDeque<(T, Size)>,
    /// Bytes of them that count.
    bytes: usize,
    /// The lane of work.
    work: VecDeque<(T, Size)>,
    /// The frame sent last was of that lane.
    was_work: bool,
    waker: Option<Waker>,
    /// Nothing goes in any more.
    is_ended: bool,
    /// Told to the other side after what is queued.
    status: Option<Status>,
}

// === impl OutboxBounds ===

impl OutboxBounds {
    /// The status for a queue of so many frames and bytes, if that is more than it may hold.
    pub fn overrun(&self, frames: usize, bytes: usize, what: &str) -> Option<Status> {
        let (unit, max) = if bytes > self.bytes_max {
            ("bytes", self.bytes_max)
        } else if frames > self.frames_max {
            ("frames", self.frames_max)
        } else {
            return None;
        };
        let message = format!("{frames} {what} ({bytes} bytes; limit: {max} {unit})");
        let metadata =
            [("limit", format!("{}_{unit}_max", self.queue)), ("value", max.to_string())];
        Some(status(ErrorReason::LimitReached, message, metadata))
    }
}

/// Size of a frame, bytes.
#[derive(Clone, Copy, Debug)]
struct Size {
    bytes: usize,
    /// What counts against the bound.
    counted: usize,
}

// === impl Outbox ===

impl<T> Outbox<T> {
    /// An empty one.
    pub fn new(bounds: OutboxBounds) -> Arc<Self> {
        let queue = Queue {
            frames: VecDeque::new(),
            bytes: 0,
            work: VecDeque::new(),
            was_work: true,
            waker: None,
            is_ended: false,
            status: None,
        };
        Arc::new(Self { queue: Mutex::new(queue), bounds, ended: Notify::new() })
    }

    /// Adds a frame of about `bytes` bytes. Beyond a bound everything queued is dropped and the stream ends with a
    /// status that names the bound; after the end frames are dropped: whoever waits for them learns it from the end.
    pub fn push(&self, frame: T, bytes: usize) {
        self.put(frame, Size { bytes, counted: bytes });
    }

    /// The same for a frame whose content is held and bounded elsewhere: it counts as a frame, and as `counted` bytes.
    pub fn push_shared(&self, frame: T, bytes: usize, counted: usize) {
        self.put(frame, Size { bytes, counted });
    }

    fn put(&self, frame: T, size: Size) {
        let mut queue = self.lock();
        if queue.is_ended {
            return;
        }
        queue.frames.push_back((frame, size));
        queue.bytes += size.counted;
        let (frames, bytes) = (queue.frames.len(), queue.bytes);
        let what = "frames waited to be read: read faster, ask for less";
        if let Some(overrun) = self.bounds.overrun(frames, bytes, what) {
            queue.clear();
            drop(queue);
            tracing::warn!(frames, bytes, "the other side does not read; its stream is ended");
            self.end(Some(overrun));
            return;
        }
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Adds a frame of about `bytes` bytes to the lane of work. What is in it must be held and bounded elsewhere: it
    /// counts against no bound here. After the end it is dropped.
    pub fn push_work(&self, frame: T, bytes: usize) {
        let mut queue = self.lock();
        if queue.is_ended {
            return;
        }
        queue.work.push_back((frame, Size { bytes, counted: 0 }));
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Takes work back that has not been sent.
    pub fn recall(&self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        let mut queue = self.lock();
        let at = queue.work.iter().position(|(frame, _)| wanted(frame))?;
        queue.work.remove(at).map(|(frame, _)| frame)
    }

    /// Ends the stream after what is queued, in order or with a status. Only the first end counts.
    pub fn end(&self, status: Option<Status>) {
        let mut queue = self.lock();
        if !queue.is_ended {
            queue.is_ended = true;
            queue.status = status;
            self.ended.notify_waiters();
        }
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// Returns when the stream has ended, from either side.
    pub async fn ended(&self) {
        let mut notified = std::pin::pin!(self.ended.notified());
        // Registered before the question, so that an end in between is not missed.
        notified.as_mut().enable();
        if !self.lock().is_ended {
            notified.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // Nothing panics while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Queue ===

impl<T> Queue<T> {
    fn clear(&mut self) {
        self.frames.clear();
        self.work.clear();
        self.bytes = 0;
    }

    fn next_is_work(&self) -> bool {
        self.frames.is_empty() || (!self.work.is_empty() && !self.was_work)
    }
}

// === impl OutboxStream ===

impl<T, M> OutboxStream<T, M> {
    /// The stream of an outbox: `first`, then its frames, each message made by `pack`.
    pub fn new(outbox: Arc<Outbox<T>>, first: Option<M>, pack: fn(Vec<T>) -> M) -> Self {
        Self { outbox, first, pack }
    }
}

// Nothing in it is ever pinned.
impl<T, M> Unpin for OutboxStream<T, M> {}

impl<T, M> Stream for OutboxStream<T, M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let mut queue = self.outbox.lock();
        if queue.frames.is_empty() && queue.work.is_empty() {
            if queue.is_ended {
                return Poll::Ready(queue.status.take().map(Err));
            }
            if !queue.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                queue.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        let count = self.outbox.bounds.frames_per_message_max.max(1);
        let mut frames = Vec::with_capacity(count.min(queue.frames.len() + queue.work.len()));
        let mut bytes = 0;
        while frames.len() < count && bytes < MESSAGE_BYTES_TARGET {
            // The lanes take turns: neither waits for the other to be empty.
            let is_work = queue.next_is_work();
            let lane = if is_work { &mut queue.work } else { &mut queue.frames };
            let Some((frame, size)) = lane.pop_front() else { break };
            queue.bytes -= size.counted;
            queue.was_work = is_work;
            bytes += size.bytes;
            frames.push(frame);
        }
        drop(queue);
        Poll::Ready(Some(Ok((self.pack)(frames))))
    }
}

impl<T, M> Drop for OutboxStream<T, M> {
    /// The transport has let go: nobody will read any more.
    fn drop(&mut self) {
        let mut queue = self.outbox.lock();
        queue.clear();
        drop(queue);
        self.outbox.end(None);
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    const BOUNDS: OutboxBounds = OutboxBounds {
        queue: "test_queue",
        frames_max: 20,
        bytes_max: 1 << 20,
        frames_per_message_max: 16,
    };

    fn stream(outbox: &Arc<Outbox<u32>>) -> OutboxStream<u32, Vec<u32>> {
        OutboxStream::new(outbox.clone(), Some(vec![1_000]), |frames| frames)
    }

    #[tokio::test]
    async fn frames_are_packed_in_order() {
        let outbox = Outbox::new(BOUNDS);
        let mut stream = stream(&outbox);
        for frame in 0..18 {
            outbox.push(frame, 1);
        }
        outbox.end(None);
        let mut messages = Vec::new();
        while let Some(message) = stream.next().await {
            messages.push(message.expect("no status was given"));
        }
        let expected = vec![vec![1_000], (0..16).collect::<Vec<_>>(), vec![16, 17]];
        assert_eq!(messages, expected);
    }

    #[tokio::test]
    async fn large_frames_travel_apart() {
        let outbox = Outbox::new(BOUNDS);
        let mut stream = stream(&outbox);
        for frame in 0..3 {
            outbox.push(frame, MESSAGE_BYTES_TARGET);
        }
        assert_eq!(stream.next().await.and_then(Result::ok), Some(vec![1_000]));
        assert_eq!(stream.next().await.and_then(Result::ok), Some(vec![0]));
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_is_cut_off_and_holds_no_memory() {
        let outbox = Outbox::new(BOUNDS);
        let mut stream = stream(&outbox);
        for frame in 0..100 {
            outbox.push(frame, 1);
        }
        outbox.ended().await;
        assert_eq!(outbox.lock().frames.len(), 0);
        assert_eq!(stream.next().await.and_then(Result::ok), Some(vec![1_000]));
        let status = stream.next().await.expect("a status").expect_err("a status");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(stream.next().await.is_none());
    }

    /// `session_queue_bytes_max`, `peer_queue_bytes_max`: bytes held elsewhere do not count, nor those that were read.
    #[tokio::test]
    async fn too_many_bytes_cut_the_stream_off_by_name_and_no_other() {
        let (outbox, other) = (Outbox::new(BOUNDS), Outbox::new(BOUNDS));
        let (mut cut, mut kept) = (stream(&outbox), stream(&other));
        for stream in [&mut cut, &mut kept] {
            assert_eq!(stream.next().await.and_then(Result::ok), Some(vec![1_000]));
        }
        let half = BOUNDS.bytes_max / 2;
        for frame in 0..3 {
            other.push(frame, half);
            assert_eq!(kept.next().await.and_then(Result::ok), Some(vec![frame]));
        }
        outbox.push_shared(0, BOUNDS.bytes_max, 1);
        outbox.push(1, half);
        outbox.push(2, half);
        assert_eq!(outbox.lock().frames.len(), 0, "that is one byte too much");
        let status = cut.next().await.expect("a status").expect_err("a status");
        let details = tonic_types::StatusExt::get_error_details(&status);
        let metadata = &details.error_info().expect("a reason").metadata;
        assert_eq!(metadata["limit"], "test_queue_bytes_max");
        other.push(3, half);
        assert_eq!(kept.next().await.and_then(Result::ok), Some(vec![3]), "it goes on");
    }

    #[tokio::test]
    async fn work_waits_without_bound_in_its_own_order_and_takes_turns() {
        let outbox = Outbox::new(BOUNDS);
        let mut stream = stream(&outbox);
        assert_eq!(stream.next().await.and_then(Result::ok), Some(vec![1_000]));
        for frame in 0..40 {
            outbox.push_work(frame, BOUNDS.bytes_max);
        }
        outbox.push(100, MESSAGE_BYTES_TARGET);
        outbox.push(101, MESSAGE_BYTES_TARGET);
        assert_eq!(outbox.recall(|frame| *frame == 1), Some(1));
        assert_eq!(outbox.recall(|frame| *frame == 1), None);
        let mut sent = Vec::new();
        for _ in 0..41 {
            sent.extend(stream.next().await.and_then(Result::ok).expect("it goes on"));
        }
        let expected: Vec<_> = [100, 0, 101].into_iter().chain(2..40).collect();
        assert_eq!(sent, expected);
    }

    #[tokio::test]
    async fn letting_go_of_the_stream_ends_the_outbox() {
        let outbox = Outbox::new(BOUNDS);
        drop(stream(&outbox));
        outbox.ended().await;
    }
}
