//! Where the records of one log are, in about three bytes a record: the distances between
//! successive records as variable-length integers, with the full address of every 64th.

use super::format::ALIGN;

/// Records between two full addresses.
const STRIDE: u64 = 64;

/// Addresses of the records of one log, from offset 1 without gaps.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogIndex {
    /// Of records 1, 65, …: the address, and where in `distances` the next one's distance is.
    marks: Vec<(u64, usize)>,
    /// Of all others: distance to the predecessor in units of `ALIGN`, base 128, low digits first.
    distances: Vec<u8>,
    records: u64,
    last: u64,
}

/// A place in an index from which it is read on without searching.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    /// Offset of the record that comes next.
    offset: u64,
    /// Address of the record before it; unused at a mark.
    before: u64,
    byte: usize,
}

// === impl LogIndex ===

impl LogIndex {
    /// How many records there are; also the offset of the last one.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Address of the first record.
    pub(crate) fn first(&self) -> Option<u64> {
        self.marks.first().map(|&(address, _)| address)
    }

    /// Adds the next record. Addresses grow.
    pub(crate) fn push(&mut self, address: u64) {
        if self.records.is_multiple_of(STRIDE) {
            self.marks.push((address, self.distances.len()));
        } else {
            let mut distance = (address - self.last) / ALIGN;
            while distance >= 128 {
                self.distances.push(128 | (distance & 127) as u8);
                distance >>= 7;
            }
            self.distances.push(distance as u8);
        }
        self.records += 1;
        self.last = address;
    }

    /// A cursor whose next record is the one at `offset`, which is at least 1 and may be the one
    /// after the last.
    pub(crate) fn cursor(&self, offset: u64) -> Cursor {
        assert!((1..=self.records + 1).contains(&offset), "offset {offset} of {}", self.records);
        let mark = (offset - 1) / STRIDE;
        let mut cursor = Cursor { offset: mark * STRIDE + 1, before: 0, byte: 0 };
        while cursor.offset < offset {
            self.next(&mut cursor).expect("every record before the offset exists");
        }
        cursor
    }

    /// Address of the cursor's next record, and moves on; `None` at the end.
    pub(crate) fn next(&self, cursor: &mut Cursor) -> Option<u64> {
        if cursor.offset > self.records {
            return None;
        }
        let index = cursor.offset - 1;
        let address = if index.is_multiple_of(STRIDE) {
            let (address, byte) = self.marks[(index / STRIDE) as usize];
            cursor.byte = byte;
            address
        } else {
            let (mut distance, mut shift) = (0_u64, 0);
            loop {
                let digit = self.distances[cursor.byte];
                cursor.byte += 1;
                distance |= u64::from(digit & 127) << shift;
                if digit < 128 {
                    break;
                }
                shift += 7;
            }
            cursor.before + distance * ALIGN
        };
        cursor.before = address;
        cursor.offset += 1;
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_found_from_everywhere() {
        let mut index = LogIndex::default();
        let mut addresses = Vec::new();
        let mut address = 4096;
        for n in 0..1_000_u64 {
            address += ALIGN * (1 + (n * n * 7919) % 300_000);
            index.push(address);
            addresses.push(address);
        }
        for from in [1, 2, 63, 64, 65, 66, 128, 129, 999, 1_000] {
            let mut cursor = index.cursor(from);
            let found: Vec<_> = std::iter::from_fn(|| index.next(&mut cursor)).collect();
            assert_eq!(found, addresses[from as usize - 1..], "from {from}");
        }
        let mut cursor = index.cursor(1_001);
        assert_eq!(index.next(&mut cursor), None);
        index.push(address + ALIGN);
        assert_eq!(index.next(&mut cursor), Some(address + ALIGN), "a cursor follows the log");
        assert_eq!(index.next(&mut cursor), None);
    }
}
