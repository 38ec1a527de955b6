//! Where a hub keeps what in its data directory, and who holds it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::HubError;

/// Longest path that fits into a Unix socket address, bytes.
const SOCKET_PATH_MAX: usize = 107;
/// How often a lock is tried on a file that was replaced meanwhile.
const LOCK_ATTEMPTS: usize = 10;
/// Network file systems by the magic number of statfs; none has locks and syncs to be trusted.
const NETWORK_FILE_SYSTEMS: &[(u32, &str)] = &[
    (0x6969, "nfs"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x517B, "smb"),
    (0x0102_1997, "9p"),
    (0x564C, "ncp"),
    (0x5346_414F, "afs"),
    (0x6B41_4653, "afs"),
    (0x7375_7245, "coda"),
    (0x00C3_6400, "ceph"),
    (0x0BD0_0BD0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x2003_0528, "orangefs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636F, "ocfs2"),
];

/// The name of the network file system that a folder is on; `None`: it is on none.
///
/// # Errors
/// If the system cannot be asked.
pub fn network_file_system(dir: &Path) -> io::Result<Option<&'static str>> {
    // The type of the number differs between platforms; all magic numbers have 32 bits.
    let found = rustix::fs::statfs(dir)?.f_type as u32;
    Ok(NETWORK_FILE_SYSTEMS.iter().find(|(magic, _)| *magic == found).map(|&(_, name)| name))
}

/// Files of a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
}

/// A process, named so that a later one with the same id is not mistaken for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProcessName {
    pub(crate) pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks between boot and its start.
    pub(crate) start: u64,
}

// === impl Paths ===

impl Paths {
    /// The data directory, made if absent, checked to be usable.
    pub(crate) fn prepare(dir: &Path) -> Result<Self, HubError> {
        let unusable = |source| HubError::DataDir { dir: dir.to_owned(), source };
        let dir = std::path::absolute(dir).map_err(unusable)?;
        match DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
            // "File exists" would be true, and help nobody.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(unusable(io::ErrorKind::NotADirectory.into()));
            }
            other => other.map_err(unusable)?,
        }
        // Root may write everywhere, and would leave files that the owner cannot.
        if fs::metadata(&dir).map_err(unusable)?.uid() != rustix::process::geteuid().as_raw() {
            return Err(unusable(io::Error::other("it belongs to another user")));
        }
        let access = rustix::fs::Access::READ_OK
            | rustix::fs::Access::WRITE_OK
            | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(&dir, access).map_err(|e| unusable(e.into()))?;
        if let Some(kind) = network_file_system(&dir).map_err(unusable)? {
            return Err(HubError::NetworkFileSystem { dir, kind });
        }
        Ok(Self { dir })
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.dir.join("hub.lock")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.join("hub.log")
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub(crate) fn store_file(&self) -> PathBuf {
        self.dir.join("store.db")
    }

    pub(crate) fn snapshots_dir(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("hub.pid")
    }

    /// Names the directory, so that one that takes its place is not mistaken for it.
    fn id_file(&self) -> PathBuf {
        self.dir.join("hub.id")
    }

    /// Says where the socket is when it could not be in the data directory.
    fn socket_record(&self) -> PathBuf {
        self.dir.join("hub.socket")
    }

    /// Where clients look for the socket.
    pub(crate) fn socket(&self) -> PathBuf {
        match fs::read(self.socket_record()) {
            Ok(bytes) if !bytes.is_empty() => PathBuf::from(std::ffi::OsStr::from_bytes(&bytes)),
            _ => self.dir.join("hub.sock"),
        }
    }

    /// Decides where the socket is, and records it.
    pub(crate) fn decide_socket(&self) -> Result<PathBuf, HubError> {
        let unusable = |source| HubError::DataDir { dir: self.dir.clone(), source };
        let plain = self.dir.join("hub.sock");
        if plain.as_os_str().len() <= SOCKET_PATH_MAX {
            match fs::remove_file(self.socket_record()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(unusable(e)),
                _ => return Ok(plain),
            }
        }
        let mut hasher = DefaultHasher::new();
        self.dir.hash(&mut hasher);
        let user = rustix::process::getuid().as_raw();
        let short = std::env::temp_dir().join(format!("kar-hub-{user}-{:016x}", hasher.finish()));
        match DirBuilder::new().mode(0o700).create(&short) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(e)),
            _ => {}
        }
        // Somebody else could have made it, to get at what is said.
        let found = fs::symlink_metadata(&short).map_err(unusable)?;
        if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
            let text = format!("'{}' is not this user's alone", short.display());
            return Err(unusable(io::Error::other(text)));
        }
        let socket = short.join("hub.sock");
        self.replace(&self.socket_record(), socket.as_os_str().as_bytes()).map_err(unusable)?;
        Ok(socket)
    }

    /// Takes the data directory for this process, for as long as the file returned is open.
    pub(crate) fn lock(&self) -> Result<File, HubError> {
        let unusable = |source| HubError::DataDir { dir: self.dir.clone(), source };
        let path = self.lock_file();
        for _ in 0..LOCK_ATTEMPTS {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(unusable)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(HubError::AlreadyRunning { dir: self.dir.clone() });
                }
                Err(e) => return Err(unusable(e.into())),
            }
            // The file may have been removed or replaced between opening and locking.
            if self.is_lock(&file) {
                return Ok(file);
            }
        }
        Err(unusable(io::Error::other("the lock file is replaced again and again")))
    }

    /// Whether the lock is still the data directory's: the directory may have been removed under a hub, and another
    /// one may serve it by now.
    pub(crate) fn is_lock(&self, lock: &File) -> bool {
        let found = fs::metadata(self.lock_file());
        match (found, lock.metadata()) {
            (Ok(found), Ok(held)) => (found.dev(), found.ino()) == (held.dev(), held.ino()),
            _ => false,
        }
    }

    /// Whether the directory was removed, moved or replaced under the lock's holder. What cannot be told just now is
    /// not lost.
    pub(crate) fn is_lost(&self, lock: &File) -> bool {
        match fs::metadata(self.lock_file()) {
            Ok(_) => !self.is_lock(lock),
            Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }

    /// Which directory the log is in.
    pub(crate) fn log_place(&self) -> io::Result<(u64, u64)> {
        fs::metadata(self.wal_dir()).map(|found| (found.dev(), found.ino()))
    }

    /// Whether the log's directory was removed, moved or replaced. What cannot be told just now is not lost.
    pub(crate) fn is_log_lost(&self, held: (u64, u64)) -> bool {
        match self.log_place() {
            Ok(found) => found != held,
            Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }

    /// Id of the directory, made if it has none, or if its log is a new one: what clients know is in no log any more.
    /// Only for the holder of the lock.
    pub(crate) fn id(&self, is_new: bool) -> Result<String, HubError> {
        let path = self.id_file();
        match fs::read_to_string(&path) {
            Ok(_) if is_new => {}
            // Power may have been lost before anybody was told.
            Ok(id) if !id.is_empty() => return Ok(id),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(HubError::io("read", &path, e));
            }
            _ => {}
        }
        let id = uuid::Uuid::new_v4().to_string();
        // Clients remember it: it must not be another one after power was lost.
        let write = || -> io::Result<()> {
            self.replace(&path, id.as_bytes())?;
            File::open(&path)?.sync_all()?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| HubError::io("write", &path, e))?;
        Ok(id)
    }

    /// Records this process as the hub; only for the holder of the lock.
    pub(crate) fn record_hub(&self) -> Result<(), HubError> {
        let unusable = |source| HubError::DataDir { dir: self.dir.clone(), source };
        let pid = std::process::id();
        let start = start_time(pid)
            .ok_or_else(|| unusable(io::Error::other("/proc does not show this process")))?;
        self.replace(&self.pid_file(), format!("{pid} {start}\n").as_bytes()).map_err(unusable)
    }

    /// The process that last recorded itself as the hub, if it is alive.
    pub(crate) fn recorded_hub(&self) -> Option<ProcessName> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        let name = ProcessName { pid: pid.parse().ok()?, start: start.parse().ok()? };
        (start_time(name.pid) == Some(name.start)).then_some(name)
    }

    /// Writes a small file so that readers see the old or the new one.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = path.with_extension(format!("new-{}", std::process::id()));
        fs::write(&new, bytes)?;
        fs::rename(&new, path)
    }
}

// === impl ProcessName ===

impl ProcessName {
    /// Ends the process at once, and no other.
    pub(crate) fn kill(self) -> io::Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        // From here on the handle stands for one process; it must be the one that was named.
        if start_time(self.pid) != Some(self.start) {
            return Ok(());
        }
        match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// Whether there is such a process here, as far as this one can see, and it is not dead already.
pub(crate) fn is_alive(pid: u32) -> bool {
    start_time(pid).is_some()
}

/// Field 22 of `/proc/PID/stat`; `None` if there is no such process or it is dead already.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_elses_folder_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        Paths::prepare(dir.path()).expect("an own folder");
        let theirs = std::os::unix::fs::chown(dir.path(), Some(65_534), None).is_ok();
        // Without the right to give it away, the system's own folder is somebody else's.
        let path = if theirs { dir.path() } else { Path::new("/usr") };
        let error = Paths::prepare(path).expect_err("refused");
        assert!(error.to_string().contains("another user"), "{error}");
    }

    #[test]
    fn a_directory_in_anothers_place_is_not_mistaken_for_it() {
        let root = tempfile::tempdir().expect("a folder");
        let dir = root.path().join("data");
        let paths = Paths::prepare(&dir).expect("an own folder");
        let lock = paths.lock().expect("nobody has it");
        let id = paths.id(true).expect("made");
        assert_eq!(paths.id(false).expect("read"), id);
        let renewed = paths.id(true).expect("made");
        assert_ne!(renewed, id, "the log was lost");
        assert!(!paths.is_lost(&lock));
        fs::rename(&dir, root.path().join("moved")).expect("moved");
        assert!(paths.is_lost(&lock));
        let paths = Paths::prepare(&dir).expect("another one");
        assert!(paths.is_lost(&lock));
        let _another = paths.lock().expect("nobody has it");
        assert!(paths.is_lost(&lock));
        assert_ne!(paths.id(false).expect("made"), renewed);
    }

    #[test]
    fn a_file_in_its_place_is_no_folder() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = Paths::prepare(file.path()).expect_err("refused");
        assert!(error.to_string().contains("directory"), "{error}");
        assert!(!error.to_string().contains("exists"), "{error}");
    }
}
