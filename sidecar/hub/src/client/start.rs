//! Finding a hub, starting one, and ending one that hangs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kar_proto::hub::v1 as wire;
use kar_proto::hub::v1::hub_service_client::HubServiceClient;
use tokio::time::{Instant, timeout};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use wire::hub_frame::Frame;

use super::outbox::Outgoing;
use super::{ClientConfig, HubStats};
use crate::error::{HubError, exit_code};
use crate::options::MESSAGE_BYTES_MAX;
use crate::paths::Paths;

/// First and longest wait between two attempts to connect.
const ATTEMPT_WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// First and longest pause before a hub that ended with a fault is started again.
const FAULT_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Faults farther apart than this have nothing to do with each other.
const FAULTS_APART: Duration = Duration::from_secs(10);
/// A hub that lives but takes no connection for so long is killed and replaced. It may be busy
/// recovering a log, so this is long.
const STUCK_MAX: Duration = Duration::from_secs(30);
/// `hub.log` is set aside when it is longer, bytes.
const LOG_FILE_MAX: u64 = 1 << 20;
/// What is read of the end of `hub.log` to tell why a hub did not start, bytes.
const LOG_TAIL: u64 = 4 << 10;
/// HTTP/2 windows: of a stream, of the connection, bytes.
const WINDOWS: (u32, u32) = (1 << 20, 2 << 20);

/// Longest HTTP/2 frame, bytes; see the server's.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// Makes connections, and hubs where there are none.
pub(crate) struct Starter {
    config: ClientConfig,
    child: Option<Child>,
    /// Since when a live hub has been refusing connections.
    stuck_since: Option<Instant>,
    /// Hubs started from here that ended with a fault (a full disk, say), one soon after the other.
    faults: u32,
    /// No hub is started before this, because the last ones ended with faults.
    not_before: Option<Instant>,
    last_start: Option<Instant>,
}

/// Why an attempt to attach failed.
enum Failed {
    /// Nobody listens.
    Absent(io::Error),
    /// It was there and went away, or refused.
    Broken(tonic::Status),
    /// It listens and says nothing.
    Silent,
}

/// The connection, its welcome, and what came in the same message after it.
pub(super) type Attachment = (Streaming<wire::AttachResponse>, wire::Welcome, wire::AttachResponse);

// === impl Starter ===

impl Starter {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self {
            config,
            child: None,
            stuck_since: None,
            faults: 0,
            not_before: None,
            last_start: None,
        }
    }

    /// Attaches to a hub, starting or replacing it as needed.
    pub(crate) async fn attach(
        &mut self,
        outgoing: impl Fn() -> Outgoing,
        deadline: Instant,
    ) -> Result<Attachment, HubError> {
        let paths = Paths::prepare(&self.config.data_dir)?;
        let mut wait = ATTEMPT_WAIT.0;
        loop {
            let failed = match self.try_attach(&paths, outgoing()).await {
                Ok(attached) => {
                    self.stuck_since = None;
                    return Ok(attached);
                }
                Err(failed) => failed,
            };
            match &failed {
                Failed::Broken(status) if status.code() == tonic::Code::DataLoss => {
                    return Err(HubError::DirectoryLost { dir: paths.dir.clone() });
                }
                Failed::Broken(status) if is_final(status) => {
                    return Err(HubError::Invalid(status.message().to_owned()));
                }
                Failed::Broken(_) => {}
                Failed::Silent => self.kill_hung(),
                Failed::Absent(_) => self.start_if_absent(&paths)?,
            }
            if Instant::now() >= deadline {
                return Err(self.unavailable(failed));
            }
            tokio::time::sleep(jittered(wait)).await;
            wait = (wait * 2).min(ATTEMPT_WAIT.1);
        }
    }

    async fn try_attach(&self, paths: &Paths, outgoing: Outgoing) -> Result<Attachment, Failed> {
        let attach = async {
            let channel = connect(&paths.socket()).await.map_err(Failed::Absent)?;
            let mut client = HubServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let mut stream = client.attach(outgoing).await.map_err(Failed::Broken)?.into_inner();
            loop {
                let message = stream.message().await.map_err(Failed::Broken)?;
                let message = message
                    .ok_or_else(|| Failed::Broken(tonic::Status::unavailable("it ended")))?;
                let mut frames = message.frames.into_iter();
                while let Some(frame) = frames.next() {
                    if let Some(Frame::Welcome(welcome)) = frame.frame {
                        let rest = wire::AttachResponse { frames: frames.collect() };
                        return Ok((stream, welcome, rest));
                    }
                }
            }
        };
        timeout(self.config.silence, attach).await.unwrap_or(Err(Failed::Silent))
    }

    /// Starts a hub unless one is alive (it may be recovering its log).
    fn start_if_absent(&mut self, paths: &Paths) -> Result<(), HubError> {
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return Ok(()),
                Ok(Some(status)) => {
                    self.child = None;
                    self.note_end(status);
                    self.judge(paths, status)?;
                }
                Err(source) => {
                    return Err(HubError::io("wait for", &paths.dir, source));
                }
            }
        }
        if let Some(hub) = paths.recorded_hub() {
            let since = *self.stuck_since.get_or_insert_with(Instant::now);
            if since.elapsed() > STUCK_MAX {
                tracing::warn!(pid = hub.pid, "the hub takes no connections, replacing it");
                self.kill_hung();
                self.stuck_since = None;
            }
            return Ok(());
        }
        self.stuck_since = None;
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let Some(spawn) = &self.config.spawn else { return Ok(()) };
        let log =
            open_log(&paths.log_file()).map_err(|e| HubError::io("open", &paths.log_file(), e))?;
        let log_too = log.try_clone().map_err(|e| HubError::io("open", &paths.log_file(), e))?;
        let child = Command::new(&spawn.program)
            .args(&spawn.args)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            // It outlives its starter, whose folder may be on a disk that is to be unmounted.
            .current_dir("/")
            // Ctrl-C in the terminal is for the application, not for what others use, too.
            .process_group(0)
            .spawn()
            .map_err(|e| HubError::io("run", &spawn.program, e))?;
        tracing::debug!(pid = child.id(), "started a hub");
        self.child = Some(child);
        self.last_start = Some(Instant::now());
        Ok(())
    }

    /// A hub that ends with a fault is started again, in longer and longer pauses.
    fn note_end(&mut self, status: ExitStatus) {
        if is_orderly(status) {
            return;
        }
        if self.last_start.is_some_and(|at| at.elapsed() > FAULTS_APART) {
            self.faults = 0;
        }
        let pause = (FAULT_PAUSE.0 * 2_u32.pow(self.faults.min(8))).min(FAULT_PAUSE.1);
        self.faults += 1;
        self.not_before = Some(Instant::now() + jittered(pause));
    }

    /// What the end of the hub that was started means.
    fn judge(&self, paths: &Paths, status: ExitStatus) -> Result<(), HubError> {
        if is_orderly(status) {
            return Ok(());
        }
        let reason = format!("it ended with {status}: {}", last_line(&paths.log_file()));
        Err(HubError::Unavailable { dir: paths.dir.clone(), reason })
    }

    /// Kills the recorded hub, which listens but does not answer.
    pub(crate) fn kill_hung(&self) {
        let Ok(paths) = Paths::prepare(&self.config.data_dir) else { return };
        let Some(hub) = paths.recorded_hub() else { return };
        tracing::warn!(pid = hub.pid, "the hub does not answer: it is killed and replaced");
        if let Err(error) = hub.kill() {
            tracing::error!(pid = hub.pid, %error, "cannot kill the hub that does not answer");
        }
    }

    fn unavailable(&self, failed: Failed) -> HubError {
        let reason = match failed {
            Failed::Absent(e) if self.config.spawn.is_none() => {
                format!("none is running ({e}); start one with 'kar hub'")
            }
            Failed::Absent(e) => format!("it was started, but takes no connection: {e}"),
            Failed::Broken(status) => format!("it refused: {}", status.message()),
            Failed::Silent => "it does not answer".to_owned(),
        };
        HubError::Unavailable { dir: self.config.data_dir.clone(), reason }
    }
}

/// Whether a hub ended without a fault of its own: idle, beaten to the lock, or killed.
fn is_orderly(status: ExitStatus) -> bool {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    matches!(code, Some(exit_code::OK | exit_code::ALREADY_RUNNING) | None)
}

/// Asks the hub of a data directory for its counters.
pub(crate) async fn stats(data_dir: &Path) -> Result<HubStats, HubError> {
    let unavailable = |reason: String| HubError::Unavailable { dir: data_dir.to_owned(), reason };
    let paths = Paths::prepare(data_dir)?;
    let channel = connect(&paths.socket()).await.map_err(|e| unavailable(e.to_string()))?;
    let answer = HubServiceClient::new(channel)
        .get_stats(wire::GetStatsRequest {})
        .await
        .map_err(|e| unavailable(e.message().to_owned()))?
        .into_inner();
    Ok(HubStats {
        process_id: answer.process_id,
        records: answer.records,
        commits: answer.commits,
        bytes: answer.bytes,
        syncs: answer.syncs,
        commit_p50: Duration::from_micros(answer.commit_p50_us),
        commit_p99: Duration::from_micros(answer.commit_p99_us),
        clients: answer.clients,
        logs: answer.logs,
        log_files: answer.log_files,
        log_bytes: answer.log_bytes,
        log_live_bytes: answer.log_live_bytes,
        trims: answer.trims,
        files_removed: answer.files_removed,
        compactions: answer.compactions,
        compacted_bytes: answer.compacted_bytes,
        compaction_failures: answer.compaction_failures,
        snapshots: answer.snapshots,
        snapshot_bytes: answer.snapshot_bytes,
        topics: answer.topics,
        events_published: answer.events_published,
        events_repeated: answer.events_repeated,
        events_expired: answer.events_expired,
        consumers: answer.consumers,
        fetches_waiting: answer.fetches_waiting,
        topic_channels: answer.topic_channels,
    })
}

/// A channel over a Unix socket.
async fn connect(socket: &Path) -> io::Result<Channel> {
    let stream = kar_unix::connect(socket).await?;
    let mut stream = Some(TokioIo::new(stream));
    Endpoint::from_static("http://hub.local")
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_frame_size(FRAME_BYTES_MAX)
        .connect_with_connector(tower::service_fn(move |_| {
            let taken = stream.take();
            // The connection is made once; a broken one is made anew by the link, not by tonic.
            async move { taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        }))
        .await
        .map_err(io::Error::other)
}

/// Whether trying again cannot help.
fn is_final(status: &tonic::Status) -> bool {
    use tonic::Code::{FailedPrecondition, InvalidArgument, Unimplemented};
    matches!(status.code(), InvalidArgument | FailedPrecondition | Unimplemented)
}

/// Between half and all of a wait, so that clients of a dead hub do not come all at once.
fn jittered(wait: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    wait / 2 + (wait / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|m| m.len() > LOG_FILE_MAX) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn last_line(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().to_owned())
    };
    match read() {
        Ok(line) => line,
        Err(error) => format!("(and '{}' cannot be read: {error})", path.display()),
    }
}
