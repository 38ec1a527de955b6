//! Where the records of one log are and how much they take, in about four bytes a record: the
//! distances between successive records and their lengths as variable-length integers, with the
//! full address of every 64th.

use std::collections::VecDeque;

use super::format::ALIGN;

/// Records between two full addresses.
const STRIDE: u64 = 64;

/// The records of one log that are kept: from some offset to the last, without gaps.
#[derive(Clone, Debug)]
pub(crate) struct LogIndex {
    /// Offset of the record of the first mark.
    origin: u64,
    /// Offset of the first record that is kept; at most a stride above `origin`.
    first: u64,
    /// Offset of the next record.
    end: u64,
    /// Of every 64th record from `origin`: the address, and where in `bytes` its length is.
    marks: VecDeque<(u64, u64)>,
    /// Distance to the predecessor (but for marks) and length of each record, in units of `ALIGN`,
    /// base 128, low digits first.
    bytes: Vec<u8>,
    /// Place that the first of `bytes` had before the front was cut off.
    bytes_from: u64,
    last: u64,
}

/// A place in an index from which it is read on without searching.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// Offset of the record that comes next.
    offset: u64,
    /// Address of the record before it; unused at a mark.
    before: u64,
    byte: u64,
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) address: u64,
    /// What it takes, header and padding included.
    pub(crate) bytes: u64,
}

// === impl LogIndex ===

impl Default for LogIndex {
    fn default() -> Self {
        Self::starting(1)
    }
}

impl LogIndex {
    /// An empty one whose first record will have this offset.
    pub(crate) fn starting(offset: u64) -> Self {
        Self {
            origin: offset,
            first: offset,
            end: offset,
            marks: VecDeque::new(),
            bytes: Vec::new(),
            bytes_from: 0,
            last: 0,
        }
    }

    /// Offset of the last record there was; it may not be kept.
    pub(crate) fn last(&self) -> u64 {
        self.end - 1
    }

    /// Offset of the first record that is kept, or of the next one if none is.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Adds the next record. Addresses grow.
    pub(crate) fn push(&mut self, place: Place) {
        if (self.end - self.origin).is_multiple_of(STRIDE) {
            self.marks.push_back((place.address, self.bytes_from + self.bytes.len() as u64));
        } else {
            self.put((place.address - self.last) / ALIGN);
        }
        self.put(place.bytes / ALIGN);
        self.end += 1;
        self.last = place.address;
    }

    /// Forgets the records below an offset, which is at most the one after the last.
    pub(crate) fn trim(&mut self, start: u64) {
        assert!(start <= self.end, "start {start} of {}", self.end);
        if start <= self.first {
            return;
        }
        self.first = start;
        if start == self.end {
            *self = Self::starting(start);
            return;
        }
        let whole = (start - self.origin) / STRIDE;
        self.marks.drain(..whole as usize);
        self.origin += whole * STRIDE;
        let front = self.marks.front().expect("the first record that is kept has a mark").1;
        let cut = (front - self.bytes_from) as usize;
        // Each byte is moved once on average.
        if cut * 2 >= self.bytes.len() {
            self.bytes.drain(..cut);
            self.bytes.shrink_to(self.bytes.len() * 2);
            self.bytes_from = front;
        }
    }

    /// A cursor whose next record is the one at `offset`, which is kept or the one after the last.
    pub(crate) fn cursor(&self, offset: u64) -> Cursor {
        assert!(
            (self.first..=self.end).contains(&offset),
            "offset {offset} of {}..{}",
            self.first,
            self.end
        );
        let mark = (offset - self.origin) / STRIDE;
        let mut cursor = Cursor { offset: self.origin + mark * STRIDE, before: 0, byte: 0 };
        while cursor.offset < offset {
            self.next(&mut cursor).expect("every record before the offset exists");
        }
        cursor
    }

    /// The cursor's next record, and moves on; `None` at the end.
    pub(crate) fn next(&self, cursor: &mut Cursor) -> Option<Place> {
        if cursor.offset >= self.end {
            return None;
        }
        let index = cursor.offset - self.origin;
        let address = if index.is_multiple_of(STRIDE) {
            let (address, byte) = self.marks[(index / STRIDE) as usize];
            cursor.byte = byte;
            address
        } else {
            cursor.before + self.get(&mut cursor.byte) * ALIGN
        };
        let bytes = self.get(&mut cursor.byte) * ALIGN;
        cursor.before = address;
        cursor.offset += 1;
        Some(Place { address, bytes })
    }

    /// Every record that is kept and lies from one address up to another one.
    pub(crate) fn places_in(&self, from: u64, to: u64) -> impl Iterator<Item = Place> + '_ {
        let after = self.marks.partition_point(|&(address, _)| address <= from) as u64;
        let offset = self.origin + after.saturating_sub(1) * STRIDE;
        let mut cursor = self.cursor(offset.max(self.first));
        std::iter::from_fn(move || self.next(&mut cursor))
            .skip_while(move |place| place.address < from)
            .take_while(move |place| place.address < to)
    }

    /// Every record that is kept and is below an offset.
    pub(crate) fn places_below(&self, offset: u64) -> impl Iterator<Item = Place> + '_ {
        self.places().take(offset.saturating_sub(self.first) as usize)
    }

    /// Every record that is kept.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let mut cursor = self.cursor(self.first);
        std::iter::from_fn(move || self.next(&mut cursor))
    }

    fn put(&mut self, mut number: u64) {
        while number >= 128 {
            self.bytes.push(128 | (number & 127) as u8);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn get(&self, byte: &mut u64) -> u64 {
        let (mut number, mut shift) = (0_u64, 0);
        loop {
            let digit = self.bytes[(*byte - self.bytes_from) as usize];
            *byte += 1;
            number |= u64::from(digit & 127) << shift;
            if digit < 128 {
                return number;
            }
            shift += 7;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: u64) -> (LogIndex, Vec<Place>) {
        let mut index = LogIndex::default();
        let mut places = Vec::new();
        let mut address = 4096;
        for n in 0..n {
            let bytes = ALIGN * (1 + (n * 104_729) % 5_000);
            let place = Place { address, bytes };
            index.push(place);
            places.push(place);
            address += bytes + ALIGN * ((n * n * 7919) % 300_000);
        }
        (index, places)
    }

    #[test]
    fn every_record_is_found_from_everywhere() {
        let (mut index, places) = sample(1_000);
        for from in [1, 2, 63, 64, 65, 66, 128, 129, 999, 1_000] {
            let mut cursor = index.cursor(from);
            let found: Vec<_> = std::iter::from_fn(|| index.next(&mut cursor)).collect();
            assert_eq!(found, places[from as usize - 1..], "from {from}");
        }
        let mut cursor = index.cursor(1_001);
        assert_eq!(index.next(&mut cursor), None);
        let more = Place { address: places[999].address + 160_032, bytes: 96 };
        index.push(more);
        assert_eq!(index.next(&mut cursor), Some(more), "a cursor follows the log");
        assert_eq!(index.next(&mut cursor), None);
    }

    #[test]
    fn stretches_of_addresses_are_found() {
        for start in [1, 70, 640, 1_001] {
            let (mut index, places) = sample(1_000);
            index.trim(start);
            let kept = &places[start as usize - 1..];
            let ends = [0, 1, 62, 63, 64, 65, 700, 999].map(|n| places[n].address);
            for from in ends.iter().flat_map(|&end| [end, end + 32]) {
                for to in ends.iter().flat_map(|&end| [end, end + 32, u64::MAX]) {
                    let wanted = kept.iter().filter(|p| (from..to).contains(&p.address));
                    assert!(index.places_in(from, to).eq(wanted.copied()), "{from}..{to}");
                }
            }
        }
    }

    #[test]
    fn what_is_trimmed_is_told_once_and_the_rest_stays() {
        for steps in [&[1, 2, 64, 65, 66, 500, 1_000, 1_001][..], &[700, 700, 300], &[1_001], &[64]]
        {
            let (mut index, mut places) = sample(1_000);
            let mut told = Vec::new();
            let mut start = 1;
            for &step in steps {
                told.extend(index.places_below(step));
                index.trim(step);
                start = start.max(step);
                assert_eq!(told, places[..start as usize - 1], "to {step}");
                assert_eq!((index.first(), index.last()), (start, 1_000));
                assert!(index.places().eq(places[start as usize - 1..].iter().copied()));
            }
            let mut last = places[999];
            for _ in 0..200 {
                last = Place { address: last.address + last.bytes, bytes: 64 };
                index.push(last);
                places.push(last);
            }
            assert!(index.places().eq(places[start as usize - 1..].iter().copied()));
        }
    }

    #[test]
    fn an_endless_log_that_is_trimmed_takes_no_memory() {
        let mut index = LogIndex::default();
        let mut address = 4096;
        for n in 1..=200_000_u64 {
            index.push(Place { address, bytes: 1_056 });
            address += 1_056;
            if n.is_multiple_of(100) {
                index.trim(n - 50);
            }
        }
        assert!(index.bytes.capacity() < 4_096, "{} bytes", index.bytes.capacity());
        assert!(index.marks.len() < 8, "{} marks", index.marks.len());
    }
}
