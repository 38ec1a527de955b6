//! The mark: how far commits were acknowledged. Written after every commit, never synced: exact
//! after the death of the process, possibly behind after that of the machine.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::HubError;
use crate::options::Durability;

const BYTES: usize = 24;

/// The file of the mark.
pub(crate) struct MarkFile {
    file: File,
    path: PathBuf,
    boot: u64,
    durability: Durability,
}

/// A mark that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    /// Everything before this address was acknowledged.
    pub(crate) address: u64,
    /// Losing some of it is to be expected: it was acknowledged with [`Durability::Os`], and the
    /// machine was started anew since.
    pub(crate) weak: bool,
}

// === impl MarkFile ===

impl MarkFile {
    /// Opens the file in the directory of the log, and reads what it says.
    pub(crate) fn open(
        dir: &Path,
        durability: Durability,
    ) -> Result<(Self, Option<Mark>), HubError> {
        let path = dir.join("mark");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| HubError::io("open", &path, e))?;
        let boot = boot()?;
        let mut bytes = [0; BYTES];
        let mark = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| decode(&bytes, boot));
        Ok((Self { file, path, boot, durability }, mark))
    }

    /// Says that everything before `address` is acknowledged.
    pub(crate) fn set(&self, address: u64) -> Result<(), HubError> {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.boot.to_le_bytes());
        bytes[16] = u8::from(self.durability == Durability::Os);
        let checksum = crc32c::crc32c(&bytes[..20]);
        bytes[20..].copy_from_slice(&checksum.to_le_bytes());
        let written = self.file.write_all_at(&bytes, 0);
        written.map_err(|e| HubError::io("write", &self.path, e))
    }
}

fn decode(bytes: &[u8; BYTES], boot: u64) -> Option<Mark> {
    let long = |at: usize| {
        let bytes: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
        u64::from_le_bytes(bytes)
    };
    let checksum = crc32c::crc32c(&bytes[..20]);
    if bytes[20..] != checksum.to_le_bytes() {
        return None;
    }
    Some(Mark { address: long(0), weak: bytes[16] != 0 && long(8) != boot })
}

/// A number for the machine's current run.
fn boot() -> Result<u64, HubError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|e| HubError::io("read", path, e))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    Ok(u64::from_str_radix(&digits, 16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_binds_as_its_durability_does() {
        let dir = tempfile::tempdir().unwrap();
        for (durability, same_boot, weak) in [
            (Durability::Fsync, true, false),
            (Durability::Fsync, false, false),
            (Durability::Os, true, false),
            (Durability::Os, false, true),
        ] {
            let (mut file, _) = MarkFile::open(dir.path(), durability).unwrap();
            if !same_boot {
                file.boot ^= 1;
            }
            file.set(4_711).unwrap();
            let (_, mark) = MarkFile::open(dir.path(), durability).unwrap();
            assert_eq!(mark, Some(Mark { address: 4_711, weak }));
        }
        fs::write(dir.path().join("mark"), [7; BYTES]).unwrap();
        let (_, mark) = MarkFile::open(dir.path(), Durability::Os).unwrap();
        assert_eq!(mark, None, "a mark without its checksum says nothing");
    }
}
