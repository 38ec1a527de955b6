//! Events to many actors: publishers send batches as fast as what is behind them allows; the turns are counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use kar_sdk::{Client, NewEvent, Payload, Subscription};
use tokio::sync::Notify;

use crate::host::STREAM;
use crate::load::{PAYLOAD_BYTES, Shared};

/// Actors that events go to.
const ACTORS: usize = 256;

/// Events that one request publishes.
const BATCH: usize = 32;

/// Published events that no actor has seen: publishers wait beyond it, so that there is always enough to deliver, and
/// what waits stays bounded.
const AHEAD_MAX: u64 = 4_096;

/// How often the host is asked how many its actors have seen.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// What publishers and the one who counts know together.
#[derive(Default)]
struct Stream {
    published: Cell<u64>,
    /// Seen by actors, of those.
    seen: Cell<u64>,
    /// How many had been published when, of what nobody has seen.
    behind: RefCell<VecDeque<(u64, Instant)>>,
    moved: Notify,
}

/// Publishes until the end, and until everything was seen.
pub(crate) async fn run(client: Client, publishers: usize, shared: Rc<Shared>) -> Result<()> {
    let subscription = Subscription::new("bench-stream", STREAM);
    client.subscribe(subscription.to_actors("Echo", "subject", "note")).await?;
    let stream = Rc::new(Stream::default());
    let publishers = (0..publishers).map(|number| {
        let (client, stream, shared) = (client.clone(), stream.clone(), shared.clone());
        tokio::task::spawn_local(async move { publish(&client, number, &stream, &shared).await })
    });
    let publishers: Vec<_> = publishers.collect();
    let counting = count(&client, &stream, &shared);
    let publishing = async {
        for publisher in publishers {
            publisher.await??;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(counting, publishing)?;
    Ok(())
}

async fn publish(client: &Client, number: usize, stream: &Stream, shared: &Shared) -> Result<()> {
    let payload = Payload::new("application/octet-stream", vec![7_u8; PAYLOAD_BYTES]);
    let topic = client.topic(STREAM);
    let mut actors = (0..ACTORS).cycle().skip(number * BATCH);
    while !shared.has_ended() {
        if stream.published.get() - stream.seen.get() + BATCH as u64 > AHEAD_MAX {
            stream.moved.notified().await;
            continue;
        }
        let upto = stream.published.get() + BATCH as u64;
        stream.published.set(upto);
        stream.behind.borrow_mut().push_back((upto, Instant::now()));
        let events = actors.by_ref().take(BATCH).map(|actor| {
            let subject = format!("ear-{actor}");
            NewEvent::new("bench", &payload).key(&subject).subject(subject)
        });
        topic.publish_all(events).await?;
    }
    Ok(())
}

/// Asks how many were seen, and tells the publishers. What it measures is how long it takes until as many were seen as
/// had been published: with everything that was ahead.
async fn count(client: &Client, stream: &Stream, shared: &Shared) -> Result<()> {
    let service = client.service("bench");
    let before: u64 = service.call_direct("noted", &()).await?;
    loop {
        kar_tests::wait::moment(ASK_EVERY).await;
        let seen = service.call_direct::<u64>("noted", &()).await? - before;
        shared.counted(seen - stream.seen.replace(seen));
        while let Some((_, since)) = stream.behind.borrow_mut().pop_front_if(|(n, _)| *n <= seen) {
            shared.took(since.elapsed());
        }
        stream.moved.notify_waiters();
        if shared.has_ended() && seen == stream.published.get() {
            return Ok(());
        }
    }
}
