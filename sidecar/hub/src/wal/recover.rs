//! Reads the whole log at the start, finds its end, and cuts off what was never acknowledged.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use kar_proto::hub::v1 as wire;
use prost::Message as _;

use super::compact;
use super::format::{self, ALIGN, HEADER, Header};
use super::mark::Mark;
use super::segment::{self, Segment};
use super::summary::{self, Summary};
use crate::error::HubError;

/// Read at once when scanning, bytes.
const BUFFER: usize = 256 << 10;

/// Where the log ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct End {
    /// Its files, without those that were made ahead and never used.
    pub(crate) segments: Vec<Segment>,
    /// Address of the next record, in the last file.
    pub(crate) address: u64,
    /// First address of the first file that begins with all that holds; what is said in older ones
    /// is not needed.
    pub(crate) holding_from: Option<u64>,
}

/// How a file begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Start {
    /// Address at which the records of the file before it end.
    pub(crate) previous_end: u64,
    /// It repeats all that holds.
    pub(crate) holding: bool,
}

/// A record as it is in a file.
pub(crate) struct Raw<'a> {
    pub(crate) header: Header,
    pub(crate) address: u64,
    pub(crate) payload: &'a [u8],
}

/// What is at an address.
enum Found {
    Record(Header),
    /// Nothing was ever written there, as far as the header tells; or the file is full.
    Nothing,
    /// Something that is not a record as it was written.
    Damaged(&'static str),
}

/// One thing that the log contains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Visit<'a> {
    /// A record of the hub's own.
    Meta(&'a [u8]),
    /// A record of a log; `bytes` is what it takes in the file. Its payload is told of the last
    /// file only: what it may say is repeated at the start of the next one.
    Record { log: u32, offset: u64, address: u64, bytes: u64, payload: Option<&'a [u8]> },
}

// === impl Visit ===

impl Visit<'_> {
    /// What a summary would tell: a file that another one follows says no more, whether it has a summary or not. The
    /// hub's own records may be gone from it, so that nothing explains what is in the others.
    fn in_brief(self) -> Self {
        match self {
            Self::Record { log, offset, address, bytes, .. } => {
                Self::Record { log, offset, address, bytes, payload: None }
            }
            meta @ Self::Meta(_) => meta,
        }
    }
}

/// Reads every record in order (files with a summary: each log's in order) and hands it to
/// `visit`. `None`: there is no log yet.
///
/// # Errors
/// [`HubError::Corrupt`] if something that was acknowledged is missing or damaged; nothing is
/// changed then.
pub(crate) fn recover(
    dir: &Path,
    mark: Option<Mark>,
    mut visit: impl FnMut(&Visit<'_>) -> Result<(), String>,
) -> Result<Option<End>, HubError> {
    segment::remove_unfinished(dir)?;
    let segments = segment::list(dir)?;
    if segments.is_empty() {
        return match mark {
            Some(mark) if mark.address > 0 && !mark.weak => {
                Err(HubError::corrupt(dir, 0, "the log's files are gone, but it had records"))
            }
            _ => Ok(None),
        };
    }
    let mut used = 0;
    let mut holding_from = None;
    let (address, found) = loop {
        let segment = segments[used];
        if holding_from.is_none() && start(dir, segment)?.is_some_and(|start| start.holding) {
            holding_from = Some(segment.base);
        }
        let next = segments.get(used + 1).copied();
        let next_start = match next {
            Some(next) => start(dir, next)?,
            None => None,
        };
        let next_start = next_start.map(|start| start.previous_end);
        if let Some(end) = next_start
            && summary::read(dir, segment, &mut visit)? == Some(end)
        {
            used += 1;
            continue;
        }
        let mut contents = Summary::new(segment);
        let (address, found) = scan(dir, segment, &mut |what: &Visit<'_>| {
            contents.add(what);
            visit(&if next_start.is_some() { what.in_brief() } else { *what })
        })?;
        match (next_start, &found) {
            (Some(end), Found::Nothing) if end == address => {
                contents.write(dir, end)?;
                used += 1;
            }
            (Some(_), Found::Damaged(what)) => {
                return Err(damaged(dir, segment, address, what));
            }
            (Some(_), _) => {
                let what = "records are missing from here to the file's end";
                return Err(damaged(dir, segment, address, what));
            }
            (None, _) => break (address, found),
        }
    };
    if segments[used].is_compacted() {
        let what = "the log file after this one is missing or does not begin as one";
        return Err(damaged(dir, segments[used], segments[used].base, what));
    }
    let tail = Tail { dir, segments: &segments, used, address };
    tail.judge(&found, mark)?;
    tail.cut()?;
    Ok(Some(End { segments: segments[..=used].to_vec(), address, holding_from }))
}

/// Reads the records of one file; returns where they end, and what is there.
fn scan(
    dir: &Path,
    segment: Segment,
    visit: &mut impl FnMut(&Visit<'_>) -> Result<(), String>,
) -> Result<(u64, Found), HubError> {
    let path = segment.path(dir);
    scan_raw(dir, segment, &mut |raw: &Raw<'_>| {
        let what = match raw.header.log {
            0 => Visit::Meta(raw.payload),
            log => Visit::Record {
                log,
                offset: raw.header.offset,
                address: raw.address,
                bytes: format::record_bytes(raw.payload.len()),
                payload: Some(raw.payload),
            },
        };
        let visited = visit(&what);
        visited.map_err(|what| HubError::corrupt(&path, raw.address - segment.base, what))?;
        Ok(true)
    })
}

/// Reads the records of one file, until told to stop.
fn scan_raw(
    dir: &Path,
    segment: Segment,
    visit: &mut impl FnMut(&Raw<'_>) -> Result<bool, HubError>,
) -> Result<(u64, Found), HubError> {
    let path = segment.path(dir);
    let failed = |source| HubError::io("read", &path, source);
    let file = segment.open(dir, false)?;
    if !segment.is_compacted() {
        let mut file = BufReader::with_capacity(BUFFER, file);
        file.seek(SeekFrom::Start(segment::DATA)).map_err(failed)?;
        let (address, found, _) =
            scan_stretch(&mut file, &path, segment.data(), segment.end(), visit)?;
        return Ok((address, found));
    }
    let (head, table) = (compact::head(&file, &path)?, compact::table(&file, &path)?);
    let mut file = BufReader::with_capacity(BUFFER, file);
    file.seek(SeekFrom::Start(segment::DATA)).map_err(failed)?;
    for extent in table {
        let end = extent.address + extent.bytes;
        let (address, found, goes_on) = scan_stretch(&mut file, &path, extent.address, end, visit)?;
        if address != end && goes_on {
            let what = match found {
                Found::Damaged(what) => what,
                _ => "a record is missing",
            };
            return Ok((address, Found::Damaged(what)));
        }
        if !goes_on {
            return Ok((address, Found::Nothing));
        }
    }
    Ok((head.end, Found::Nothing))
}

/// Reads successive records up to an address; the last of what it returns says whether it was told
/// to go on.
fn scan_stretch(
    file: &mut impl Read,
    path: &Path,
    from: u64,
    end: u64,
    visit: &mut impl FnMut(&Raw<'_>) -> Result<bool, HubError>,
) -> Result<(u64, Found, bool), HubError> {
    let failed = |source| HubError::io("read", path, source);
    let mut address = from;
    let mut payload = Vec::new();
    loop {
        let header = match read_header(file, end, address).map_err(failed)? {
            Found::Record(header) => header,
            other => return Ok((address, other, true)),
        };
        let bytes = format::record_bytes(header.length as usize);
        payload.resize((bytes as usize) - HEADER, 0);
        file.read_exact(&mut payload).map_err(failed)?;
        let payload = &payload[..header.length as usize];
        if crc32c::crc32c(payload) != header.payload_crc {
            let found = Found::Damaged("a record does not have its checksum");
            return Ok((address, found, true));
        }
        let goes_on = visit(&Raw { header, address, payload })?;
        address += bytes;
        if !goes_on {
            return Ok((address, Found::Nothing, false));
        }
    }
}

/// Visits the records of a full file, and returns the address at which they end.
pub(crate) fn records_end(
    dir: &Path,
    segment: Segment,
    mut visit: impl FnMut(&Visit<'_>),
) -> Result<u64, HubError> {
    let (end, found) = scan(dir, segment, &mut |what: &Visit<'_>| {
        visit(what);
        Ok(())
    })?;
    match found {
        Found::Damaged(what) => Err(damaged(dir, segment, end, what)),
        _ => Ok(end),
    }
}

fn read_header(file: &mut impl Read, end: u64, address: u64) -> io::Result<Found> {
    if address + HEADER as u64 > end {
        return Ok(Found::Nothing);
    }
    let mut bytes = [0; HEADER];
    file.read_exact(&mut bytes)?;
    if bytes == [0; HEADER] {
        return Ok(Found::Nothing);
    }
    match format::decode(&bytes, address) {
        Some(h) if address + format::record_bytes(h.length as usize) <= end => Ok(Found::Record(h)),
        Some(_) => Ok(Found::Damaged("a record goes beyond its file")),
        None => Ok(Found::Damaged("a record's header does not have its checksum")),
    }
}

/// How a file begins; `None` if what belongs to its beginning is not whole, so that it was never
/// used: all of that is written by one commit.
pub(crate) fn start(dir: &Path, segment: Segment) -> Result<Option<Start>, HubError> {
    let path = segment.path(dir);
    let mut file = segment.open(dir, false)?;
    if segment.is_compacted() {
        let previous_end = compact::head(&file, &path)?.previous_end;
        return Ok(Some(Start { previous_end, holding: false }));
    }
    let failed = |source| HubError::io("read", &path, source);
    file.seek(SeekFrom::Start(segment::DATA)).map_err(failed)?;
    let mut file = BufReader::new(file);
    let (mut first, mut left) = (None, 1);
    let (_, _, stopped) = {
        let visit = &mut |raw: &Raw<'_>| {
            if first.is_none() {
                let begun = segment_start(&path, raw)?;
                left = begun.holding.max(1);
                first = Some(begun);
            }
            left -= 1;
            Ok(left > 0)
        };
        let (address, found, goes_on) =
            scan_stretch(&mut file, &path, segment.data(), segment.end(), visit)?;
        (address, found, !goes_on)
    };
    Ok(first
        .filter(|_| stopped)
        .map(|start| Start { previous_end: start.previous_end, holding: start.holding > 0 }))
}

fn segment_start(path: &Path, raw: &Raw<'_>) -> Result<wire::SegmentStart, HubError> {
    match wire::Meta::decode(raw.payload).map(|meta| meta.meta) {
        Ok(Some(wire::meta::Meta::SegmentStart(start))) if raw.header.log == 0 => Ok(start),
        _ => Err(HubError::corrupt(path, segment::DATA, "it does not begin as a log file does")),
    }
}

fn damaged(dir: &Path, segment: Segment, address: u64, what: &str) -> HubError {
    HubError::corrupt(&segment.path(dir), address - segment.base, what)
}

/// The place where the valid records end.
struct Tail<'a> {
    dir: &'a Path,
    segments: &'a [Segment],
    /// Index of the last file in use.
    used: usize,
    address: u64,
}

// === impl Tail ===

impl Tail<'_> {
    /// Whether all that was acknowledged lies before this end.
    fn judge(&self, found: &Found, mark: Option<Mark>) -> Result<(), HubError> {
        let segment = self.segments[self.used];
        let what = match found {
            Found::Damaged(what) => what,
            _ => "records are missing",
        };
        if let Some(mark) = mark.filter(|mark| mark.address > self.address) {
            let lost = mark.address - self.address;
            if !mark.weak {
                let what = format!("{what}, though {lost} bytes from here on were acknowledged");
                return Err(damaged(self.dir, segment, self.address, &what));
            }
            tracing::warn!(
                lost_bytes = lost,
                "the machine was started anew and the log was kept with durability 'os': \
                 records that were acknowledged shortly before are lost"
            );
        }
        if let Some(later) = self.later_batch(found)? {
            let what = format!(
                "{what}, though later records are whole (the first one at address {later})"
            );
            return Err(damaged(self.dir, segment, self.address, &what));
        }
        if let Found::Damaged(what) = found {
            let (file, at) = (segment.path(self.dir), self.address - segment.base);
            tracing::warn!(
                file = %file.display(), at, what,
                "cut off the end of the log, which was being written and never acknowledged"
            );
        }
        Ok(())
    }

    /// Address of a record whose batch began after the end: then what is at the end had been
    /// durable, since a batch is begun only after that.
    fn later_batch(&self, found: &Found) -> Result<Option<u64>, HubError> {
        let damaged = matches!(found, Found::Damaged(_));
        for (nth, &segment) in self.segments[self.used..].iter().enumerate() {
            let from = if nth == 0 { self.address + ALIGN } else { segment.data() };
            let evidence = |header: Header| {
                // The first batch of the next file may itself have been cut off in its middle;
                // it proves only that the file before it had been written to its end.
                let first = nth == 1 && header.batch == segment.data();
                header.batch > self.address && (damaged || !first)
            };
            if let Some(address) = self.search(segment, from, evidence)? {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    /// First address from `from` with a valid header that `wanted` agrees to.
    fn search(
        &self,
        segment: Segment,
        from: u64,
        wanted: impl Fn(Header) -> bool,
    ) -> Result<Option<u64>, HubError> {
        let file = segment.open(self.dir, false)?;
        let mut buffer = vec![0; BUFFER];
        let mut address = from;
        while address < segment.end() {
            let length = (segment.end() - address).min(BUFFER as u64) as usize;
            self.read(&file, segment, &mut buffer[..length], address)?;
            for (nth, slot) in buffer[..length].chunks_exact(HEADER).enumerate() {
                let at = address + (nth * HEADER) as u64;
                if slot.iter().any(|&b| b != 0) && format::decode(slot, at).is_some_and(&wanted) {
                    return Ok(Some(at));
                }
            }
            address += length as u64;
        }
        Ok(None)
    }

    /// Makes everything after the end zeros again, and removes files made ahead.
    fn cut(&self) -> Result<(), HubError> {
        for segment in &self.segments[self.used + 1..] {
            let path = segment.path(self.dir);
            fs::remove_file(&path).map_err(|e| HubError::io("remove", &path, e))?;
        }
        let segment = self.segments[self.used];
        let path = segment.path(self.dir);
        let failed = |source| HubError::io("write", &path, source);
        let file = segment.open(self.dir, true)?;
        let (mut buffer, zeros) = (vec![0; BUFFER], vec![0; BUFFER]);
        let mut address = self.address;
        let mut changed = false;
        while address < segment.end() {
            let length = (segment.end() - address).min(BUFFER as u64) as usize;
            self.read(&file, segment, &mut buffer[..length], address)?;
            if buffer[..length] != zeros[..length] {
                file.write_all_at(&zeros[..length], address - segment.base).map_err(failed)?;
                changed = true;
            }
            address += length as u64;
        }
        if changed {
            file.sync_data().map_err(failed)?;
        }
        Ok(())
    }

    fn read(
        &self,
        file: &File,
        segment: Segment,
        buffer: &mut [u8],
        address: u64,
    ) -> Result<(), HubError> {
        file.read_exact_at(buffer, address - segment.base)
            .map_err(|e| HubError::io("read", &segment.path(self.dir), e))
    }
}
