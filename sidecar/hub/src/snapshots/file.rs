//! A snapshot's file.
//!
//! ```text
//!    0  "KARHUBSN"
//!    8  version of the layout
//!   12  length of the application's name
//!   16  length of the key
//!   20  CRC-32C of the whole
//!   24  length of the whole (8 bytes)
//!   32  the application's name, the key, checksum of everything before
//! 4096  blocks: BLOCK bytes of the whole (the last one fewer), then the CRC-32C of the block's
//!       number (8 bytes) and these bytes
//! ```
//! All little-endian. The header is written last, and the file gets its name when all of it is on
//! disk; it is never changed afterwards.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::HubError;
use crate::options::{Durability, NAME_BYTES_MAX};

const MAGIC: &[u8; 8] = b"KARHUBSN";
const VERSION: u32 = 1;
/// Where the names begin in the header.
const NAMES: usize = 32;
/// Where the blocks begin.
const DATA: u64 = 4096;
/// Bytes of the whole in a block.
const BLOCK: usize = 256 << 10;
/// Bytes written between two syncs: commits of the log should not wait behind more.
const SYNC_EVERY: u64 = 1 << 20;

const _: () = assert!(NAMES + 2 * NAME_BYTES_MAX + 4 <= DATA as usize);

/// What a file says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) application: String,
    pub(super) key: String,
    pub(super) length: u64,
    pub(super) checksum: u32,
}

/// A file is not as it was written; says where.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Damage(pub(super) String);

/// A file being written; unless it is finished, it is removed.
pub(super) struct Upload {
    dir: PathBuf,
    number: u64,
    header: Header,
    durability: Durability,
    file: File,
    /// Bytes of the whole that have come.
    position: u64,
    checksum: u32,
    block: Vec<u8>,
    blocks: u64,
    unsynced: u64,
    finished: bool,
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.snap"))
}

/// The number of a finished file.
pub(super) fn number(path: &Path) -> Option<u64> {
    if path.extension()? != "snap" {
        return None;
    }
    u64::from_str_radix(path.file_stem()?.to_str()?, 16).ok()
}

/// Removes files for good.
pub(super) fn delete(dir: &Path, numbers: &[u64], durability: Durability) -> Result<(), HubError> {
    for &number in numbers {
        let path = path(dir, number);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(HubError::io("remove", &path, e));
            }
            _ => {}
        }
    }
    if durability == Durability::Fsync && !numbers.is_empty() {
        sync_dir(dir)?;
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> Result<(), HubError> {
    let synced = File::open(dir).and_then(|file| file.sync_all());
    synced.map_err(|e| HubError::io("sync", dir, e))
}

/// Reads a file's header.
pub(super) fn header(path: &Path) -> Result<Result<Header, Damage>, HubError> {
    let failed = |source| HubError::io("read", path, source);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut bytes = vec![0; DATA as usize];
    if length < DATA {
        return Ok(Err(Damage("it is shorter than its header".into())));
    }
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    if &bytes[..8] == MAGIC && word(&bytes, 8) > VERSION {
        return Err(HubError::Version { file: path.to_owned(), found: word(&bytes, 8) });
    }
    Ok(decode(&bytes).ok_or_else(|| Damage("its header does not have its checksum".into())))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn encode(header: &Header) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for number in
        [VERSION, header.application.len() as u32, header.key.len() as u32, header.checksum]
    {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&header.length.to_le_bytes());
    bytes.extend_from_slice(header.application.as_bytes());
    bytes.extend_from_slice(header.key.as_bytes());
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Header> {
    let application = NAMES + word(bytes, 12) as usize;
    let key = application.checked_add(word(bytes, 16) as usize)?;
    if &bytes[..8] != MAGIC || key.checked_add(4)? > bytes.len() {
        return None;
    }
    if word(bytes, key) != crc32c::crc32c(&bytes[..key]) {
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(Header {
        application: text(&bytes[NAMES..application])?,
        key: text(&bytes[application..key])?,
        length: u64::from(word(bytes, 24)) | (u64::from(word(bytes, 28)) << 32),
        checksum: word(bytes, 20),
    })
}

/// Bytes of the whole from a position on, at most so many (and one block at least).
pub(super) fn read(
    path: &Path,
    length: u64,
    position: u64,
    bytes_max: usize,
) -> Result<Result<Vec<u8>, Damage>, HubError> {
    let failed = |source| HubError::io("read", path, source);
    let mut found = Vec::new();
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(Damage("its file is gone".into())));
        }
        opened => opened.map_err(failed)?,
    };
    let mut at = position;
    while at < length && found.len() < bytes_max {
        let number = at / BLOCK as u64;
        let start = number * BLOCK as u64;
        let size = (length - start).min(BLOCK as u64) as usize;
        let mut block = vec![0; size + 4];
        match file.read_exact_at(&mut block, DATA + number * (BLOCK as u64 + 4)) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Err(Damage(format!("it ends within block {number}"))));
            }
            read => read.map_err(failed)?,
        }
        let checksum = word(&block, size);
        block.truncate(size);
        if block_crc(number, &block) != checksum {
            return Ok(Err(Damage(format!("block {number} does not have its checksum"))));
        }
        let wanted = &block[(at - start) as usize..];
        let wanted = &wanted[..wanted.len().min(bytes_max - found.len())];
        found.extend_from_slice(wanted);
        at += wanted.len() as u64;
    }
    Ok(Ok(found))
}

fn block_crc(number: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), block)
}

// === impl Upload ===

impl Upload {
    pub(super) fn new(
        dir: &Path,
        number: u64,
        header: Header,
        durability: Durability,
    ) -> Result<Self, HubError> {
        let path = path(dir, number).with_extension("new");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| HubError::io("make", &path, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            number,
            header,
            durability,
            file,
            position: 0,
            checksum: 0,
            block: Vec::new(),
            blocks: 0,
            unsynced: 0,
            finished: false,
        })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether what has come has the checksum that was announced.
    pub(super) fn is_sound(&self) -> bool {
        self.checksum == self.header.checksum
    }

    /// Adds bytes.
    pub(super) fn write(&mut self, mut data: &[u8]) -> Result<(), HubError> {
        self.checksum = crc32c::crc32c_append(self.checksum, data);
        self.position += data.len() as u64;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            data = later;
            if self.block.len() == BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), HubError> {
        let checksum = block_crc(self.blocks, &self.block);
        self.block.extend_from_slice(&checksum.to_le_bytes());
        let at = DATA + self.blocks * (BLOCK as u64 + 4);
        let written = self.file.write_all_at(&self.block, at);
        written.map_err(|e| HubError::io("write", &self.unnamed(), e))?;
        self.unsynced += self.block.len() as u64;
        self.block.clear();
        self.blocks += 1;
        if self.durability == Durability::Fsync && self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            let synced = self.file.sync_data();
            synced.map_err(|e| HubError::io("sync", &self.unnamed(), e))?;
        }
        Ok(())
    }

    /// Makes the whole durable, with its name.
    pub(super) fn finish(mut self) -> Result<(), HubError> {
        if !self.block.is_empty() {
            self.flush()?;
        }
        let (unnamed, path) = (self.unnamed(), path(&self.dir, self.number));
        let mut header = encode(&self.header);
        header.resize(DATA as usize, 0);
        let written = self.file.write_all_at(&header, 0);
        written.map_err(|e| HubError::io("write", &unnamed, e))?;
        if self.durability == Durability::Fsync {
            self.file.sync_all().map_err(|e| HubError::io("sync", &unnamed, e))?;
        }
        fs::rename(&unnamed, &path).map_err(|e| HubError::io("name", &path, e))?;
        self.finished = true;
        if self.durability == Durability::Fsync
            && let Err(error) = sync_dir(&self.dir)
        {
            // Whoever sent it is told so and sends it again: it must not be found beside that one.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(())
    }

    fn unnamed(&self) -> PathBuf {
        path(&self.dir, self.number).with_extension("new")
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.finished {
            // The next start removes what stays.
            let _ = fs::remove_file(self.unnamed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(length: u64, checksum: u32) -> Header {
        Header { application: "app".into(), key: "a.Account/3/7".into(), length, checksum }
    }

    fn written(dir: &Path, data: &[u8], part: usize) -> PathBuf {
        let header = sample(data.len() as u64, crc32c::crc32c(data));
        let mut upload = Upload::new(dir, 7, header, Durability::Fsync).unwrap();
        data.chunks(part).for_each(|part| upload.write(part).unwrap());
        assert!(upload.is_sound());
        upload.finish().unwrap();
        path(dir, 7)
    }

    fn whole(path: &Path, length: usize, part: usize) -> Result<Vec<u8>, Damage> {
        let mut found = Vec::new();
        while found.len() < length {
            found.extend(read(path, length as u64, found.len() as u64, part).unwrap()?);
        }
        Ok(found)
    }

    #[test]
    fn the_layout_is_stored_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), b"hello", 2);
        assert_eq!(path.file_name().unwrap(), "0000000000000007.snap");
        let bytes = fs::read(&path).unwrap();
        let head = b"KARHUBSN\x01\0\0\0\x03\0\0\0\x0d\0\0\0";
        assert_eq!(bytes[..20], head[..]);
        assert_eq!(bytes[20..24], 0x9a71_bb4c_u32.to_le_bytes());
        assert_eq!(bytes[24..32], 5_u64.to_le_bytes());
        assert_eq!(&bytes[32..48], b"appa.Account/3/7");
        assert_eq!(bytes[48..52], crc32c::crc32c(&bytes[..48]).to_le_bytes());
        assert_eq!(&bytes[4096..4101], b"hello");
        let block = crc32c::crc32c(b"\0\0\0\0\0\0\0\0hello");
        assert_eq!(bytes[4101..], block.to_le_bytes());
    }

    #[test]
    fn what_was_written_is_read_in_any_parts() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17] {
            let data: Vec<_> = (0..length).map(|n| (n * 31 % 251) as u8).collect();
            for part in [1_000, BLOCK, 5 * BLOCK] {
                let dir = tempfile::tempdir().unwrap();
                let path = written(dir.path(), &data, part);
                let header = header(&path).unwrap().unwrap();
                assert_eq!(header, sample(length as u64, crc32c::crc32c(&data)));
                assert_eq!(whole(&path, length, part).unwrap(), data);
            }
        }
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let data = vec![5; BLOCK + 100];
        let places = [0, 9, 13, 22, 33, 49, 4096, 5_000, 4096 + BLOCK, 4100 + BLOCK, 4_190 + BLOCK];
        for at in places {
            let dir = tempfile::tempdir().unwrap();
            let path = written(dir.path(), &data, 70_000);
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            let damaged = match header(&path) {
                Ok(Ok(_)) => whole(&path, data.len(), BLOCK).is_err(),
                Ok(Err(_)) => true,
                // Of another version.
                Err(_) => at == 9,
            };
            assert!(damaged, "byte {at}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), &data, 70_000);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(5_000).unwrap();
        assert!(whole(&path, data.len(), BLOCK).is_err(), "cut off");
        fs::remove_file(&path).unwrap();
        assert!(whole(&path, data.len(), BLOCK).is_err(), "gone");
    }

    #[test]
    fn what_is_not_finished_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut upload = Upload::new(dir.path(), 7, sample(10, 0), Durability::Fsync).unwrap();
        upload.write(b"half").unwrap();
        assert!(!upload.is_sound());
        drop(upload);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
