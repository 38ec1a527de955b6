//! The load client: a process of its own that calls through the SDK, and says when its measurement begins and ends.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io::{Write as _, stdout};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use hdrhistogram::Histogram;
use kar_sdk::{Client, Consumer, Kar, NewEvent, Payload, Start, Subscription};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::budget::{Scenario, Target};
use crate::host::{ANSWERS, BACK, QUESTIONS};
use crate::stream;

/// Bytes of each argument and result.
pub(crate) const PAYLOAD_BYTES: usize = 1024;

/// Actors per client.
const ACTORS_PER_CLIENT: usize = 16;

/// Load before the measurement: routes are known and caches warm.
const WARM_UP: Duration = Duration::from_millis(700);

/// What the load client is started with.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    #[arg(long)]
    target: Target,
    #[arg(long)]
    clients: usize,
    #[arg(long)]
    every_ms: u64,
    #[arg(long)]
    seconds: f64,
}

/// What it found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LoadResult {
    pub(crate) calls: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

/// Runs the load; prints `begin` and the result as two lines.
pub(crate) async fn run(args: LoadArgs) -> Result<()> {
    let client = Kar::connect().await?;
    let shared = Rc::new(Shared {
        histogram: RefCell::new(Histogram::new_with_bounds(1, 60_000_000, 3)?),
        calls: Cell::new(0),
        begin: Cell::new(None),
        end: Cell::new(None),
    });
    let local = LocalSet::new();
    let answers = Answers::default();
    if args.target == Target::Delivery {
        // What other scenarios have published is nobody's business.
        let totals = Subscription::new("bench", QUESTIONS).start(Start::Latest);
        client.subscribe(totals.to_actors("Echo", "subject", "publish")).await?;
        let consumer = client.topic(ANSWERS).consume().start(Start::Latest).open().await?;
        local.spawn_local(answers.clone().take_from(consumer));
    }
    let loops: Vec<_> = if args.target == Target::Stream {
        vec![local.spawn_local(stream::run(client, args.clients, shared.clone()))]
    } else {
        let calls = |n| {
            let (client, answers) = (client.clone(), answers.clone());
            local.spawn_local(calls(client, answers, n, args.target, args.every_ms, shared.clone()))
        };
        (0..args.clients).map(calls).collect()
    };
    local
        .run_until(async {
            pause(WARM_UP).await;
            shared.begin.set(Some(Instant::now()));
            say("begin")?;
            pause(Duration::from_secs_f64(args.seconds)).await;
            let end = Instant::now();
            shared.end.set(Some(end));
            let result = shared.result(end)?;
            say(&serde_json::to_string(&result)?)?;
            for client in loops {
                client.await??;
            }
            anyhow::Ok(())
        })
        .await
}

/// Lets the load run for a while.
async fn pause(length: Duration) {
    kar_tests::wait::moment(length).await;
}

fn say(line: &str) -> Result<()> {
    writeln!(stdout(), "{line}")?;
    Ok(stdout().flush()?)
}

/// What the loops find.
pub(crate) struct Shared {
    histogram: RefCell<Histogram<u64>>,
    calls: Cell<u64>,
    begin: Cell<Option<Instant>>,
    end: Cell<Option<Instant>>,
}

impl Shared {
    /// The measurement is over.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// So many calls more have ended.
    pub(crate) fn counted(&self, calls: u64) {
        if self.begin.get().is_some() && !self.has_ended() {
            self.calls.set(self.calls.get() + calls);
        }
    }

    /// One took so long.
    pub(crate) fn took(&self, time: Duration) {
        if self.begin.get().is_some() && !self.has_ended() {
            let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            self.histogram.borrow_mut().saturating_record(us.max(1));
        }
    }

    fn result(&self, end: Instant) -> Result<LoadResult> {
        let histogram = self.histogram.borrow();
        let begin = self.begin.get().context("it has begun")?;
        let us = |q| histogram.value_at_quantile(q) as f64;
        Ok(LoadResult {
            calls: self.calls.get(),
            seconds: (end - begin).as_secs_f64(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: histogram.max() as f64,
        })
    }
}

/// One client: a call after the other until the end.
async fn calls(
    client: Client,
    answers: Answers,
    number: usize,
    target: Target,
    every_ms: u64,
    shared: Rc<Shared>,
) -> Result<()> {
    let payload = Payload::new("application/octet-stream", vec![7_u8; PAYLOAD_BYTES]);
    let service = client.service("bench");
    let count = if target == Target::HotActor { 1 } else { ACTORS_PER_CLIENT };
    let actors: Vec<_> = (0..count)
        .map(|n| match target {
            Target::HotActor => client.actor("Echo", "hot"),
            _ => client.actor("Echo", format!("actor-{number}-{n}")),
        })
        .collect();
    let topic = client.topic(QUESTIONS);
    let mut ticks = (every_ms > 0).then(|| interval(Duration::from_millis(every_ms)));
    if let Some(ticks) = &mut ticks {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    for n in 0.. {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let start = Instant::now();
        let answer: Payload = match target {
            Target::Actors | Target::HotActor => {
                actors[n % actors.len()].call("echo", &payload).await?
            }
            Target::Service => service.call("echo", &payload).await?,
            Target::Direct => service.call_direct("echo", &payload).await?,
            Target::Publish => {
                let event = NewEvent::new("bench", &payload).key(format!("{number}-{n}"));
                topic.publish(event).await?;
                payload.clone()
            }
            Target::Delivery => {
                let back = format!("{number}-{n}");
                let answer = answers.wait_for(&back);
                let subject = format!("actor-{number}-{}", n % ACTORS_PER_CLIENT);
                let event = NewEvent::new("bench", &payload).subject(subject).attribute(BACK, back);
                topic.publish(event).await?;
                answer.await.context("the consumer has ended")?
            }
            Target::Stream => bail!("a stream is no loop of calls"),
        };
        if answer.data.len() != PAYLOAD_BYTES {
            bail!("wrong answer: {} bytes", answer.data.len());
        }
        if shared.has_ended() {
            return Ok(());
        }
        shared.counted(1);
        shared.took(start.elapsed());
    }
    Ok(())
}

/// Events that are waited for.
#[derive(Clone, Default)]
struct Answers(Rc<RefCell<HashMap<String, oneshot::Sender<Payload>>>>);

impl Answers {
    fn wait_for(&self, back: &str) -> oneshot::Receiver<Payload> {
        let (sender, receiver) = oneshot::channel();
        self.0.borrow_mut().insert(back.to_owned(), sender);
        receiver
    }

    /// Gives everything that comes to whoever waits for it, for ever.
    async fn take_from(self, mut consumer: Consumer) {
        loop {
            let received = match consumer.next().await {
                Ok(received) => received,
                Err(error) => {
                    eprintln!("the consumer of answers has ended: {error}");
                    break;
                }
            };
            let event = &received.event;
            let waiting = event.attributes.get(BACK).and_then(|b| self.0.borrow_mut().remove(b));
            if let Some(waiting) = waiting {
                // Who has ended does not wait any more.
                let _ = waiting.send(event.data.clone());
            }
        }
        self.0.borrow_mut().clear();
    }
}

/// The command of this program as load client.
pub(crate) fn own() -> Result<Vec<String>> {
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    Ok(vec![own, "load".to_owned()])
}

/// Lines of a load client's messages that are kept, to be told if it fails.
const LINES_KEPT: usize = 20;

/// A load client as the judge sees it.
pub(crate) struct Load {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The last lines of its messages, when it has ended.
    messages: JoinHandle<VecDeque<String>>,
}

/// Starts one; `command` takes the options of [`LoadArgs`], and prints what [`run`] does.
pub(crate) fn spawn(
    command: &[String],
    scenario: &Scenario,
    seconds: f64,
    socket: &Path,
) -> Result<Load> {
    let target = match scenario.target {
        Target::Actors => "actors",
        Target::HotActor => "hot-actor",
        Target::Service => "service",
        Target::Direct => "direct",
        Target::Publish => "publish",
        Target::Delivery => "delivery",
        Target::Stream => "stream",
    };
    let (program, args) = command.split_first().context("a command has a program")?;
    let mut child = Command::from(kar_tests::process::command(program))
        .args(args)
        .args(["--target", target])
        .args(["--clients", &scenario.clients.to_string()])
        .args(["--every-ms", &scenario.every_ms.to_string()])
        .args(["--seconds", &seconds.to_string()])
        .env("KAR_SOCKET", socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start the load client")?;
    let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let messages = tokio::spawn(pass_on(child.stderr.take().context("its messages")?));
    Ok(Load { child, lines, messages })
}

/// Passes messages on, and keeps the last ones.
async fn pass_on(messages: ChildStderr) -> VecDeque<String> {
    let mut lines = BufReader::new(messages).lines();
    let mut kept = VecDeque::new();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("load client: {line}");
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    kept
}

impl Load {
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the load client has ended")
    }

    /// Waits until the measurement begins.
    pub(crate) async fn begun(&mut self) -> Result<()> {
        let line = self.line().await?;
        if line != "begin" {
            bail!("the load client says {line}");
        }
        Ok(())
    }

    /// Waits until the measurement ends.
    pub(crate) async fn ended(&mut self) -> Result<LoadResult> {
        Ok(serde_json::from_str(&self.line().await?)?)
    }

    /// Waits for the process.
    pub(crate) async fn finish(mut self) -> Result<()> {
        let status = self.child.wait().await?;
        if !status.success() {
            return Err(self.failed(status).await);
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<String> {
        match self.lines.next_line().await? {
            Some(line) => Ok(line),
            None => {
                let status = self.child.wait().await?;
                Err(self.failed(status).await)
            }
        }
    }

    /// Why it failed, in its own words.
    async fn failed(&mut self, status: ExitStatus) -> anyhow::Error {
        let messages = (&mut self.messages).await.unwrap_or_default();
        let messages: Vec<_> = messages.into();
        anyhow!("the load client ended with {status}: {}", messages.join("\n"))
    }
}
