//! The hub as a process: recovers, serves its socket, ends when it is idle or told to.
//!
//! Longer than most: its threads are started, watched and ended in one order, which is read as one.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use kar_proto::hub::v1 as wire;
use kar_proto::hub::v1::hub_service_server::{HubService, HubServiceServer};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::engine::{ConnId, DiskJob, FetchJob, Hub, Probe, RecallJob, Recalled, Replay, Threads};
use crate::error::HubError;
use crate::options::{HubOptions, MESSAGE_BYTES_MAX, MESSAGE_BYTES_TARGET, SEGMENT_BYTES_MIN};
use crate::paths::{self, Paths};
use crate::snapshots::{SnapshotJob, Snapshots};
use crate::store::{Store, StoreJob, system_time};
use crate::tidy::{Ending, Tidier, TidyJob};
use crate::topic::EventRecord;
use crate::wal::commit::Committer;
use crate::wal::mark::MarkFile;
use crate::wal::read::{Reader, Segments};
use crate::wal::recover::{self, End};
use crate::wal::segment::Segment;
use crate::wal::writer::Writer;

/// How often signs of life are sent and looked for.
const TICK: Duration = Duration::from_millis(500);
/// How long an ending hub waits for its clients to be told.
const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// How long a hub waits, at least, for the client that had it started.
const FIRST_CLIENT_MAX: Duration = Duration::from_secs(1);
/// HTTP/2 windows: of a stream, of a connection, bytes.
const WINDOWS: (u32, u32) = (1 << 20, 2 << 20);

/// Longest HTTP/2 frame, bytes: a message of records travels in one.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Writing beyond the file size limit raises this signal, which would end the process without a
/// word; with a handler the write fails and is reported.
const SIGXFSZ: i32 = 25;

/// Why a hub ended in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HubExit {
    /// It had no client for the configured time.
    Idle,
    /// SIGTERM or SIGINT.
    Signal,
}

/// Serves a data directory until there is no client for `idle_exit`, or SIGTERM or SIGINT comes.
/// Blocks; builds a runtime of its own. SIGHUP is ignored: a hub outlives the terminal of the
/// client that happened to start it.
///
/// # Errors
/// See [`HubError`]; a process should end with [`HubError::exit_code`] and the error's text on one
/// line of standard error, which clients that start hubs pass on.
pub fn run_hub(options: HubOptions) -> Result<HubExit, HubError> {
    let options = checked(options);
    let paths = Paths::prepare(&options.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| HubError::io("make a runtime for", &paths.dir, e))?;
    let signals = {
        let _context = runtime.enter();
        Signals::take().map_err(|e| HubError::io("handle signals for", &paths.dir, e))?
    };
    let lock = paths.lock()?;
    paths.record_hub()?;
    let running = Running::start(&options, &paths)?;
    let log = paths.log_place().map_err(|e| HubError::io("look for the log in", &paths.dir, e))?;
    let socket = paths.decide_socket()?;
    let exit = runtime.block_on(async {
        let listener = listen(&socket).map_err(|e| HubError::io("listen on", &socket, e))?;
        tracing::info!(dir = %paths.dir.display(), "the hub serves");
        let lost = || {
            let dir = if paths.is_lost(&lock) {
                Some(paths.dir.clone())
            } else {
                paths.is_log_lost(log).then(|| paths.wal_dir())
            };
            dir.map(|dir| HubError::DirectoryLost { dir })
        };
        let exit = running.serve(&options, listener, signals, lost).await;
        // From here on clients start another hub instead of waiting for this one. If the directory was removed under
        // this hub, what is there now is another one's.
        if paths.is_lock(&lock) {
            let _ = fs::remove_file(&socket);
        }
        exit
    });
    running.end();
    drop(runtime);
    drop(lock);
    match &exit {
        Ok(exit) => tracing::info!(?exit, "the hub ends"),
        Err(error) => tracing::error!(%error, "the hub ends"),
    }
    exit
}

/// Options made to fit each other.
fn checked(mut options: HubOptions) -> HubOptions {
    let limits = &mut options.limits;
    limits.segment_bytes = limits.segment_bytes.max(SEGMENT_BYTES_MIN).next_multiple_of(4096);
    limits.first_segment_bytes = limits.first_segment_bytes.max(64 << 10).next_multiple_of(4096);
    options
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    // Only the holder of the lock gets here, so whoever made this one is gone.
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    _file_size: Signal,
}

/// A hub whose threads run.
struct Running {
    hub: Arc<Hub>,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

/// The ways to end the threads but for the committer, which sees it by itself.
struct Stop {
    store: Sender<StoreJob>,
    snapshots: Sender<SnapshotJob>,
    tidy: Sender<TidyJob>,
    disk: Sender<DiskJob>,
    ending: Arc<Ending>,
}

// === impl Signals ===

impl Signals {
    fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    /// Returns when the process is to end.
    async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {}
            }
        }
    }
}

// === impl Running ===

impl Running {
    /// Recovers the log, opens the store, starts the threads.
    fn start(options: &HubOptions, paths: &Paths) -> Result<Self, HubError> {
        let limits = &options.limits;
        let dir = paths.wal_dir();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| HubError::DataDir { dir: dir.clone(), source })?;
        let (mark_file, mark) = MarkFile::open(&dir, options.durability)?;
        let mut replay = Replay::new();
        let end = recover::recover(&dir, mark, |what| replay.visit(what))?;
        if let Some(what) = replay.missing() {
            return Err(HubError::corrupt(&dir, 0, what));
        }
        let is_new = end.is_none();
        let end = match end {
            Some(end) => end,
            None => {
                let first = Segment::whole(1, 0, limits.first_segment_bytes);
                first.create(&dir)?;
                End { segments: vec![first], address: first.data(), holding_from: None }
            }
        };
        let segments = Arc::new(Segments::default());
        end.segments.iter().for_each(|&segment| segments.insert(segment));
        let (segment, tail) = (end.segments[end.segments.len() - 1], end.address);
        // Killed before the first commit, a hub leaves a file without a beginning.
        let fresh = tail == segment.data();
        let is_store_gone = (!fresh || end.segments.len() > 1) && !paths.store_file().exists();
        let store = Store::open(&paths.store_file(), options.durability, system_time())?;
        if is_store_gone {
            // Actors' states are functions of their logs (ADR 4), and whoever cannot make them again refuses to serve
            // them. What applications keep here besides is nowhere else.
            tracing::error!(
                file = %paths.store_file().display(),
                "the store is gone: actors' states are made again from the log where it reaches back far enough; \
                 the application state (`kar state`) is lost; to have all of it, end the hub and put the file back"
            );
        }
        let (tidy_jobs, tidy_queue) = queue();
        let sealed = tidy_jobs.clone();
        let mut committer = Committer::new(
            &dir,
            options.durability,
            mark_file,
            Arc::clone(&segments),
            segment,
            limits.segment_bytes,
            Box::new(move |full| {
                // If the thread is gone the hub is ending; the next start makes the summary.
                let _ = sealed.send(TidyJob::Summarise(full));
            }),
        )?;
        let (store_jobs, store_queue) = queue();
        let (disk_jobs, disk_queue) = queue();
        let (snapshot_jobs, snapshot_queue) = queue();
        let threads = Threads {
            store: store_jobs.clone(),
            disk: disk_jobs.clone(),
            tidy: tidy_jobs.clone(),
            snapshots: snapshot_jobs.clone(),
        };
        let writer = Writer::new(segment, tail, limits.segment_bytes);
        let id = paths.id(is_new)?;
        let mut engine =
            replay.engine(limits.clone(), id, writer, &end.segments, end.holding_from, threads);
        if fresh {
            engine.begin_first_file();
        }
        engine.tidy();
        let hub = Arc::new(Hub::new(engine));
        let commit_hub = Arc::clone(&hub);
        let committer = thread("commit", paths, move || {
            commit_hub.commit_loop(|batch| committer.commit(batch));
        })?;
        let store_hub = Arc::clone(&hub);
        let store_thread = thread("store", paths, move || store.run(&store_queue, &store_hub))?;
        let tidier = Tidier {
            dir: dir.clone(),
            durability: options.durability,
            segments: Arc::clone(&segments),
            disk: disk_jobs.clone(),
            ending: Arc::default(),
            bytes_per_second: limits.compaction_bytes_per_second,
        };
        let (ending, tidy_hub) = (Arc::clone(&tidier.ending), Arc::clone(&hub));
        let tidy = thread("tidy", paths, move || tidier.run(&tidy_queue, &tidy_hub))?;
        let disk_hub = Arc::clone(&hub);
        let disk = thread("disk", paths, move || {
            read_loop(Reader::new(dir, segments), &disk_queue, &disk_hub);
        })?;
        let (place, durability) = (paths.snapshots_dir(), options.durability);
        let (snapshot_limits, snapshot_hub) = (limits.clone(), Arc::clone(&hub));
        let snapshots = thread("snapshots", paths, move || {
            // Here, so that the start does not wait for it.
            match Snapshots::open(&place, durability, &snapshot_limits) {
                Ok(snapshots) => snapshots.run(&snapshot_queue, &snapshot_hub),
                Err(error) => snapshot_hub.with(|engine| engine.fail(error)),
            }
        })?;
        let stop = Stop {
            store: store_jobs,
            snapshots: snapshot_jobs,
            tidy: tidy_jobs,
            disk: disk_jobs,
            ending,
        };
        hub.with(|engine| engine.resume_purges());
        // In the order in which they are waited for: who gives work to others comes first.
        let threads = vec![committer, store_thread, snapshots, tidy, disk];
        Ok(Self { hub, stop, threads })
    }

    async fn serve(
        &self,
        options: &HubOptions,
        listener: UnixListener,
        mut signals: Signals,
        lost: impl Fn() -> Option<HubError>,
    ) -> Result<HubExit, HubError> {
        let service = HubServiceServer::new(Service { hub: Arc::clone(&self.hub) })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server::builder()
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_frame_size(FRAME_BYTES_MAX)
            .add_service(service)
            .serve_with_incoming_shutdown(kar_unix::incoming(listener), async {
                // An error means that the sender is gone, which means the same.
                let _ = stopped.await;
            });
        let server = tokio::spawn(server);
        let exit = self.watch(options, &mut signals, lost).await;
        // The listener closes first, so that clients that come now start the next hub.
        drop(stop);
        self.hub.with(|engine| engine.stop());
        let goodbye = async {
            while self.hub.with(|engine| engine.conns()) > 0 {
                self.hub.changed.notified().await;
            }
        };
        // Whoever is not told in time sees the connection break.
        let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
        server.abort();
        exit
    }

    /// Returns when it is time to end.
    async fn watch(
        &self,
        options: &HubOptions,
        signals: &mut Signals,
        lost: impl Fn() -> Option<HubError>,
    ) -> Result<HubExit, HubError> {
        let silent_max = options.limits.silence.as_millis().div_ceil(TICK.as_millis()).max(2);
        let silent_max = u32::try_from(silent_max).unwrap_or(u32::MAX);
        let mut ticks = tokio::time::interval(TICK);
        // After a sleep of the machine, one tick: silence is counted in ticks that were awake.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let grace = tokio::time::sleep(options.limits.grace);
        tokio::pin!(grace);
        // A process that lives and is slow is waited for as long as if it were attached and silent.
        let mut slow_too = Some(options.limits.silence.saturating_sub(options.limits.grace));
        let mut in_grace = true;
        loop {
            if let Some(fault) = self.hub.with(|engine| engine.take_fault()) {
                return Err(fault);
            }
            let idle = self.hub.with(|engine| engine.idle_since());
            let until = idle.zip(options.idle_exit).map(|(since, limit)| {
                let expected = self.hub.with(|engine| engine.expects_first());
                since + if expected { limit.max(FIRST_CLIENT_MAX) } else { limit }
            });
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(HubExit::Idle);
            }
            let idle_end = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.hub.changed.notified() => {}
                () = idle_end => {}
                _ = ticks.tick() => self.hub.with(|engine| match lost() {
                    // What it goes on writing is nowhere: nobody is to be told that it is durable.
                    Some(error) => engine.fail(error),
                    None => engine.tick(silent_max),
                }),
                () = &mut grace, if in_grace => match slow_too.take() {
                    Some(longer) => {
                        self.hub.with(|engine| engine.end_grace(paths::is_alive));
                        grace.set(tokio::time::sleep(longer));
                    }
                    None => {
                        in_grace = false;
                        self.hub.with(|engine| engine.end_grace(|_| false));
                    }
                },
                () = signals.end() => return Ok(HubExit::Signal),
            }
        }
    }

    /// Lets the threads finish what they have.
    fn end(self) {
        self.hub.with(|engine| engine.stop());
        self.stop.ending.set();
        // If a thread is gone, it has told why.
        let _ = self.stop.store.send(StoreJob::Stop);
        let _ = self.stop.snapshots.send(SnapshotJob::Stop);
        let _ = self.stop.tidy.send(TidyJob::Stop);
        let _ = self.stop.disk.send(DiskJob::Stop);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the hub panicked");
            }
        }
    }
}

/// The way to another thread. It does not block, and it is bounded by what may be under way:
/// `store_steps_max` and one read per reading, for each client; and by one chore and the full files.
#[expect(clippy::disallowed_methods, reason = "bounded by what clients may have under way")]
fn queue<T>() -> (Sender<T>, Receiver<T>) {
    channel()
}

fn thread(
    name: &str,
    paths: &Paths,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, HubError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|e| HubError::io("start a thread for", &paths.dir, e))
}

fn read_loop(mut reader: Reader, jobs: &Receiver<DiskJob>, hub: &Hub) {
    while let Ok(job) = jobs.recv() {
        let job = match job {
            DiskJob::Read(job) => job,
            DiskJob::Remove { below } => {
                let removed = reader.remove_below(below);
                hub.with(|engine| match removed {
                    Ok(()) => engine.files_removed(below),
                    Err(error) => engine.tidy_failed(error),
                });
                continue;
            }
            DiskJob::Install(compacted) => {
                let (by, copied) = (compacted.segment, compacted.copied);
                let installed = reader.install(*compacted);
                hub.with(|engine| match installed {
                    Ok(()) => engine.files_compacted(by, copied),
                    Err(error) => engine.tidy_failed(error),
                });
                continue;
            }
            DiskJob::Fetch(job) => {
                fetch(&mut reader, &job, hub);
                continue;
            }
            DiskJob::Recall(job) => {
                let recalled = recall(&mut reader, &job);
                hub.with(|engine| match recalled {
                    Ok(records) => engine.recalled(&job, records),
                    Err(error) => engine.recall_failed(&job, error),
                });
                continue;
            }
            DiskJob::Probe(job) => {
                let time = event_at(&mut reader, &job);
                hub.with(|engine| match time {
                    Ok(time_ms) => engine.probed(&job, time_ms),
                    Err(error) => engine.probe_failed(&job, error),
                });
                continue;
            }
            DiskJob::Stop => return,
        };
        match reader.read(job.log, job.first, &job.addresses, job.bytes_max) {
            Ok(records) => hub.with(|engine| engine.read(&job, records)),
            Err(error) => {
                // The next start reads the file itself, and says what is wrong with it.
                reader.distrust(&job.addresses);
                hub.with(|engine| engine.unreadable(&job, error));
            }
        }
    }
}

/// Reads events for who asked for them.
fn fetch(reader: &mut Reader, job: &FetchJob, hub: &Hub) {
    match reader.read(job.log, job.first, &job.addresses, job.bytes_max) {
        Ok(records) => hub.with(|engine| engine.fetched(job, &records)),
        Err(error) => {
            reader.distrust(&job.addresses);
            hub.with(|engine| engine.fetch_failed(job, error));
        }
    }
}

/// Reads which requests have appended events, a few at a time.
fn recall(reader: &mut Reader, job: &RecallJob) -> Result<Vec<Recalled>, HubError> {
    let mut recalled = Vec::with_capacity(job.addresses.len());
    while let Some(left) = job.addresses.get(recalled.len()..).filter(|left| !left.is_empty()) {
        let first = job.first + recalled.len() as u64;
        for record in reader.read(job.log, first, left, MESSAGE_BYTES_TARGET)? {
            let bytes = record.len() as u64;
            let EventRecord { time_ms, origin, .. } = event(&record)?;
            recalled.push(Recalled { origin, time_ms, bytes });
        }
    }
    Ok(recalled)
}

/// Reads when an event was appended.
fn event_at(reader: &mut Reader, job: &Probe) -> Result<u64, HubError> {
    let records = reader.read(job.log, job.offset, &[job.address], 1)?;
    let record = records.first().expect("a reading has at least one record");
    Ok(event(record)?.time_ms)
}

fn event(record: &Bytes) -> Result<EventRecord, HubError> {
    EventRecord::decode(record).map_err(HubError::Store)
}

/// The gRPC service.
struct Service {
    hub: Arc<Hub>,
}

/// A client's connection ends when this goes.
struct Lease {
    hub: Arc<Hub>,
    conn: ConnId,
}

/// What is sent to a client.
struct Outgoing {
    lease: Lease,
}

// === impl Service ===

#[tonic::async_trait]
impl HubService for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<wire::AttachResponse, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let conn = self.hub.with(|engine| engine.attach())?;
        let lease = Lease { hub: Arc::clone(&self.hub), conn };
        tokio::spawn(hear(Arc::clone(&self.hub), conn, request.into_inner()));
        Ok(Response::new(Box::pin(Outgoing { lease })))
    }

    async fn get_stats(
        &self,
        _: Request<wire::GetStatsRequest>,
    ) -> Result<Response<wire::GetStatsResponse>, Status> {
        Ok(Response::new(self.hub.with(|engine| engine.stats())))
    }
}

/// Hears a client until it ends or says something wrong.
async fn hear(hub: Arc<Hub>, conn: ConnId, mut input: Streaming<wire::AttachRequest>) {
    loop {
        std::future::poll_fn(|cx| hub.with(|engine| engine.poll_input(conn, cx))).await;
        match input.message().await {
            Ok(Some(message)) => {
                let heard = hub.with(|engine| engine.handle(conn, message.frames));
                if let Err(status) = heard {
                    hub.with(|engine| engine.close(conn, status));
                    return;
                }
            }
            Ok(None) => {
                // The client leaves in order.
                hub.with(|engine| engine.detach(conn));
                return;
            }
            Err(status) => {
                tracing::debug!(%status, "a client's connection broke");
                hub.with(|engine| engine.detach(conn));
                return;
            }
        }
    }
}

impl Stream for Outgoing {
    type Item = Result<wire::AttachResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let lease = &self.lease;
        let polled = lease.hub.with(|engine| engine.poll_message(lease.conn, cx));
        if let Poll::Ready(Some(Err(_))) = polled {
            lease.hub.with(|engine| engine.detach(lease.conn));
        }
        polled
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.hub.with(|engine| engine.detach(self.conn));
    }
}
