//! `kar doctor`: looks at everything that local mode stands on and says what to mend.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::admin::observe;
use super::args::{DoctorArgs, Format};
use super::client::Session;
use super::exit::{Code, Outcome};
use super::output::{self, Table};

/// Free space below which the doctor warns, and below which it fails, bytes.
const FREE_BYTES_WARN: u64 = 1 << 30;
const FREE_BYTES_FAIL: u64 = 64 << 20;
/// A commit slower than this makes every call slow.
const FSYNC_WARN: Duration = Duration::from_millis(10);
/// Writes measured, and their size, bytes.
const FSYNC_WRITES: usize = 20;
const FSYNC_WRITE_BYTES: usize = 4096;
/// Length of a name that a sidecar gives its sockets, bytes: `0123abcd.sock`.
const SOCKET_NAME_BYTES: usize = 13;
/// How names of figures end that go up and down; the others only grow.
const GAUGE_SUFFIX: &str = "_now";
/// Application name of the doctor's own look at the hub.
const OBSERVED_APP: &str = "kar-doctor";

/// A file system in memory, by its magic number.
const TMPFS: i64 = 0x0102_1994;

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One finding.
#[derive(Debug)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    text: String,
}

/// Runs all checks; exit code 1 if one fails.
pub(crate) async fn doctor(args: DoctorArgs) -> Outcome<u8> {
    let dir = std::path::absolute(&args.data_dir).unwrap_or_else(|_| args.data_dir.clone());
    let mut findings = vec![data_dir(&dir)];
    let exists = dir.is_dir();
    if exists {
        findings.extend([file_system(&dir), free_space(&dir), fsync(&dir)]);
    }
    findings.push(sockets(&dir));
    if exists {
        findings.push(hub(&dir).await);
    }
    if let Some(socket) = &args.socket {
        findings.extend(sidecar(socket, args.api_token.as_deref()).await);
    }
    print(args.output, &findings)?;
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { Code::Application as u8 } else { 0 })
}

fn print(format: Format, findings: &[Finding]) -> Outcome {
    let mut table = Table::new(&["CHECK", "VERDICT", "FOUND"]);
    for finding in findings {
        let cells = [finding.check, finding.verdict.word(), &finding.text];
        table.row(cells.map(String::from).into());
    }
    let list = findings.iter().map(|finding| {
        json!({ "check": finding.check, "verdict": finding.verdict.word(), "found": finding.text })
    });
    output::print(format, &table, &list.collect())
}

fn data_dir(dir: &Path) -> Finding {
    let finding = |verdict, text: String| Finding { check: "data directory", verdict, text };
    let metadata = match std::fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let (verdict, text) = absent(dir);
            return finding(verdict, text);
        }
        Err(e) => return finding(Verdict::Fail, format!("{}: {e}", dir.display())),
    };
    if !metadata.is_dir() {
        return finding(Verdict::Fail, format!("{} is not a folder", dir.display()));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let text = format!("{} belongs to another user: use --data-dir", dir.display());
        return finding(Verdict::Fail, text);
    }
    if let Err(e) = tempfile::tempfile_in(dir) {
        let text =
            format!("{} is not writable ({e}): make it so, or use --data-dir", dir.display());
        return finding(Verdict::Fail, text);
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let text = format!("{} has mode {mode:o}: others can get in; chmod 700 it", dir.display());
        return finding(Verdict::Warn, text);
    }
    finding(Verdict::Ok, format!("{} is writable, mode {mode:o}", dir.display()))
}

/// A folder that is not there is made by who needs it, if its parent lets them.
fn absent(dir: &Path) -> (Verdict, String) {
    match made_in(dir) {
        Ok(_) => (
            Verdict::Ok,
            format!("{} does not exist yet; the first `kar run` makes it", dir.display()),
        ),
        Err(e) => {
            (Verdict::Fail, format!("{} cannot be made ({e}): use --data-dir", dir.display()))
        }
    }
}

fn file_system(dir: &Path) -> Finding {
    let finding = |verdict, text: String| Finding { check: "file system", verdict, text };
    let asked = kar_hub::network_file_system(dir);
    let asked = asked.and_then(|network| Ok((network, rustix::fs::statfs(dir)?.f_type)));
    let (network, kind) = match asked {
        Ok(found) => found,
        Err(e) => return finding(Verdict::Fail, format!("cannot be asked: {e}")),
    };
    if let Some(name) = network {
        let text = format!(
            "{name}: locks and fsync cannot be trusted there; use a local disk (--data-dir)"
        );
        return finding(Verdict::Fail, text);
    }
    match kind {
        TMPFS => finding(
            Verdict::Warn,
            "tmpfs: everything is gone after a restart of the machine".into(),
        ),
        _ => finding(Verdict::Ok, "local".into()),
    }
}

fn free_space(dir: &Path) -> Finding {
    let finding = |verdict, text: String| Finding { check: "free space", verdict, text };
    let found = match rustix::fs::statvfs(dir) {
        Ok(found) => found,
        Err(e) => return finding(Verdict::Fail, format!("cannot be asked: {e}")),
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let text = format!("{} MiB", free >> 20);
    match free {
        0..FREE_BYTES_FAIL => finding(Verdict::Fail, format!("{text}: free some")),
        FREE_BYTES_FAIL..FREE_BYTES_WARN => {
            finding(Verdict::Warn, format!("{text}: free some soon"))
        }
        _ => finding(Verdict::Ok, text),
    }
}

fn fsync(dir: &Path) -> Finding {
    let finding = |verdict, text: String| Finding { check: "fsync", verdict, text };
    let mut times = match measure_fsync(dir) {
        Ok(times) => times,
        Err(e) => return finding(Verdict::Fail, format!("cannot be measured: {e}")),
    };
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let text = format!("median {median:.1?}, worst {worst:.1?}");
    match median > FSYNC_WARN {
        true => {
            finding(Verdict::Warn, format!("{text}: every call waits for one; use a faster disk"))
        }
        false => finding(Verdict::Ok, text),
    }
}

/// Times of single synced writes into a file that exists, as the hub's log does them.
fn measure_fsync(dir: &Path) -> io::Result<[Duration; FSYNC_WRITES]> {
    let file = tempfile::tempfile_in(dir)?;
    let block = [0x5a; FSYNC_WRITE_BYTES];
    for index in 0..FSYNC_WRITES {
        file.write_all_at(&block, (index * FSYNC_WRITE_BYTES) as u64)?;
    }
    file.sync_all()?;
    let mut times = [Duration::ZERO; FSYNC_WRITES];
    for (index, time) in times.iter_mut().enumerate() {
        let begun = Instant::now();
        file.write_all_at(&block, (index * FSYNC_WRITE_BYTES) as u64)?;
        file.sync_data()?;
        *time = begun.elapsed();
    }
    Ok(times)
}

/// Where sockets are, which surprises where the data directory's path is too long for them; and whether they can be
/// made there.
fn sockets(dir: &Path) -> Finding {
    let folder = kar::net::socket_folder(dir, SOCKET_NAME_BYTES);
    let text = match folder.starts_with(dir) {
        true => format!("in {}", folder.display()),
        false => format!("in {}: paths in the data directory are too long", folder.display()),
    };
    let made = match folder.exists() {
        true => listened_in(&folder),
        false => made_in(&folder).map(drop),
    };
    let (verdict, text) = match made {
        Ok(()) => (Verdict::Ok, text),
        Err(e) => (Verdict::Fail, format!("{text}, where none can be made: {e}")),
    };
    Finding { check: "sockets", verdict, text }
}

/// Makes a socket there, and removes it: some file systems have none.
fn listened_in(folder: &Path) -> io::Result<()> {
    // As long as the names of sidecars' sockets, or it might be too long where those are not.
    let mut name = tempfile::Builder::new();
    name.prefix("d-").rand_bytes(SOCKET_NAME_BYTES - "d-.sock".len()).suffix(".sock");
    name.make_in(folder, |path| std::os::unix::net::UnixListener::bind(path)).map(drop)
}

/// Makes a file in the nearest folder that is there, as who makes the missing ones would.
fn made_in(folder: &Path) -> io::Result<std::fs::File> {
    let parent = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    tempfile::tempfile_in(parent)
}

async fn hub(dir: &Path) -> Finding {
    let finding = |verdict, text: String| Finding { check: "hub", verdict, text };
    match observe(dir, OBSERVED_APP, false).await {
        Ok(hub) => match hub.stats().await {
            Ok(stats) => {
                let text = format!(
                    "process {}, clients {}, logs {}, commit median {:.1?}, p99 {:.1?}; topics {}, \
                     events published {}, repeated {}, expired {}, channels {}, consumers {}, fetches waiting {}",
                    stats.process_id,
                    stats.clients,
                    stats.logs,
                    stats.commit_p50,
                    stats.commit_p99,
                    stats.topics,
                    stats.events_published,
                    stats.events_repeated,
                    stats.events_expired,
                    stats.topic_channels,
                    stats.consumers,
                    stats.fetches_waiting
                );
                finding(Verdict::Ok, text)
            }
            Err(e) => finding(Verdict::Warn, format!("answers, but not with its figures: {e}")),
        },
        Err(kar_hub::HubError::Unavailable { .. }) => {
            finding(Verdict::Ok, "none is running; the first sidecar starts one".into())
        }
        Err(e) => finding(Verdict::Fail, e.to_string()),
    }
}

/// The sidecar itself, and its figures, if it tells them.
async fn sidecar(socket: &Path, token: Option<&str>) -> Vec<Finding> {
    let finding = |verdict, text: String| Finding { check: "sidecar", verdict, text };
    let asked = async { Session::through(socket, token).await?.info().await };
    let info = match asked.await {
        Ok(info) => info,
        Err(failure) => return vec![finding(Verdict::Fail, failure.message)],
    };
    let node = info.node.unwrap_or_default();
    let text = format!(
        "node {} of application {}, version {}, {} partitions",
        node.name,
        info.application,
        info.sidecar_version,
        info.partitions.len()
    );
    let same = info.sidecar_version == env!("CARGO_PKG_VERSION");
    let own = match (info.faults.is_empty(), same) {
        (false, _) => finding(Verdict::Fail, format!("{text}; {}", info.faults.join("; "))),
        (true, false) => finding(Verdict::Warn, text),
        (true, true) => finding(Verdict::Ok, text),
    };
    let figures: BTreeMap<String, i64> = info.counters.into_iter().collect();
    let [held, counted] = figures_text(&figures);
    let figures = |check, text| Finding { check, verdict: Verdict::Ok, text };
    vec![own, figures("it has now", held), figures("since its start", counted)]
}

/// What a sidecar has at the moment, and what it has counted since its start, by name. What is 0 is left out: most of
/// the names are of what should not happen.
fn figures_text(figures: &BTreeMap<String, i64>) -> [String; 2] {
    let (held, counted): (Vec<_>, Vec<_>) = figures
        .iter()
        .filter(|(_, value)| **value != 0)
        .partition(|(name, _)| name.ends_with(GAUGE_SUFFIX));
    [held, counted].map(|some| {
        let words = some.into_iter().map(|(name, value)| {
            format!("{} {value}", name.trim_end_matches(GAUGE_SUFFIX).replace('_', " "))
        });
        let text = words.collect::<Vec<_>>().join(", ");
        if text.is_empty() { "nothing".into() } else { text }
    })
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_folder_passes() {
        let dir = tempfile::tempdir().expect("a folder");
        let own = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path(), own).expect("changed");
        assert_eq!(data_dir(dir.path()).verdict, Verdict::Ok);
        assert_ne!(fsync(dir.path()).verdict, Verdict::Fail);
        assert_ne!(file_system(dir.path()).verdict, Verdict::Fail);
    }

    #[test]
    fn an_open_folder_is_warned_of() {
        let dir = tempfile::tempdir().expect("a folder");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("changed");
        assert_eq!(data_dir(dir.path()).verdict, Verdict::Warn);
    }

    #[test]
    fn a_folder_that_could_not_be_made_fails() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(data_dir(&dir.path().join("a/b")).verdict, Verdict::Ok);
        // Nobody makes folders there, not even root.
        assert_eq!(data_dir(Path::new("/proc/kar")).verdict, Verdict::Fail);
    }

    #[test]
    fn somebody_elses_folder_fails() {
        let dir = tempfile::tempdir().expect("a folder");
        let theirs = std::os::unix::fs::chown(dir.path(), Some(65_534), None).is_ok();
        // Without the right to give it away, the system's own folder is somebody else's.
        let path = if theirs { dir.path() } else { Path::new("/usr") };
        let found = data_dir(path);
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.text.contains("another user"), "{}", found.text);
    }

    #[test]
    fn sockets_of_a_long_path_are_elsewhere() {
        let dir = tempfile::tempdir().expect("a folder");
        let near = sockets(dir.path());
        let expected = format!("in {}/run", dir.path().display());
        assert_eq!((near.verdict, near.text), (Verdict::Ok, expected));
        std::fs::create_dir(dir.path().join("run")).expect("made");
        assert_eq!(sockets(dir.path()).verdict, Verdict::Ok);
        let left = std::fs::read_dir(dir.path().join("run")).expect("it is there").count();
        assert_eq!(left, 0, "the doctor leaves nothing behind");
        let far = sockets(Path::new(&format!("/{}", "x".repeat(120))));
        assert!(far.verdict == Verdict::Ok && far.text.contains("too long"), "{}", far.text);
    }

    #[test]
    fn sockets_that_cannot_be_made_fail() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for dir in [file.path(), Path::new("/proc/kar")] {
            let found = sockets(dir);
            assert_eq!(found.verdict, Verdict::Fail, "{}", found.text);
            assert!(found.text.contains("none can be made"), "{}", found.text);
        }
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("run"), "no folder").expect("written");
        assert_eq!(sockets(dir.path()).verdict, Verdict::Fail);
    }

    #[test]
    fn figures_are_what_is_held_and_what_was_counted() {
        let figures = [("turns", 7), ("unfinished_now", 2), ("dead_letters_dropped", 0)];
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(figures_text(&figures), ["unfinished 2", "turns 7"]);
        assert_eq!(figures_text(&BTreeMap::new()), ["nothing", "nothing"]);
    }

    #[test]
    fn a_file_in_its_place_fails() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert_eq!(data_dir(file.path()).verdict, Verdict::Fail);
    }
}
