//! Layout of a record.
//!
//! ```text
//!  0  checksum of bytes 4..32 and of the record's address
//!  4  checksum of the payload
//!  8  length of the payload
//! 12  number of the log; 0 for the hub's own records
//! 16  offset in the log; 0 for the hub's own records
//! 24  distance to the start of the batch, in units of ALIGN
//! 28  version of the layout
//! 32  payload, then zeros up to a multiple of ALIGN
//! ```
//! All little-endian. Headers are aligned to their own size, so none spans two sectors: after a
//! power cut a header is whole or zero. The address in the checksum makes a record valid in its
//! place only.

/// Bytes of a record's header.
pub(crate) const HEADER: usize = 32;
/// Records begin at multiples of this.
pub(crate) const ALIGN: u64 = 32;
/// Version of the layout.
const VERSION: u32 = 1;

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) payload_crc: u32,
    pub(crate) length: u32,
    pub(crate) log: u32,
    pub(crate) offset: u64,
    /// Address at which the record's batch begins.
    pub(crate) batch: u64,
}

/// Bytes that a record with this payload takes.
pub(crate) fn record_bytes(payload: usize) -> u64 {
    ((HEADER + payload) as u64).next_multiple_of(ALIGN)
}

/// Appends a record to `buffer`.
pub(crate) fn encode(
    buffer: &mut Vec<u8>,
    address: u64,
    batch: u64,
    log: u32,
    offset: u64,
    payload: &[u8],
) {
    let length = u32::try_from(payload.len()).expect("records are bounded far below 4 GiB");
    let back = u32::try_from((address - batch) / ALIGN).expect("a batch lies in one segment");
    let mut header = [0_u8; HEADER];
    header[4..8].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[12..16].copy_from_slice(&log.to_le_bytes());
    header[16..24].copy_from_slice(&offset.to_le_bytes());
    header[24..28].copy_from_slice(&back.to_le_bytes());
    header[28..32].copy_from_slice(&VERSION.to_le_bytes());
    let checksum = header_crc(&header, address);
    header[0..4].copy_from_slice(&checksum.to_le_bytes());
    let end = buffer.len() + record_bytes(payload.len()) as usize;
    buffer.extend_from_slice(&header);
    buffer.extend_from_slice(payload);
    buffer.resize(end, 0);
}

/// The header at an address, if it is valid there.
pub(crate) fn decode(bytes: &[u8], address: u64) -> Option<Header> {
    let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
    if word(bytes, 0) != header_crc(bytes, address) || word(bytes, 28) != VERSION {
        return None;
    }
    Some(Header {
        payload_crc: word(bytes, 4),
        length: word(bytes, 8),
        log: word(bytes, 12),
        offset: u64::from(word(bytes, 16)) | (u64::from(word(bytes, 20)) << 32),
        batch: address.checked_sub(u64::from(word(bytes, 24)) * ALIGN)?,
    })
}

fn word(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn header_crc(header: &[u8; HEADER], address: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&address.to_le_bytes()), &header[4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_valid_in_its_place_only() {
        let mut buffer = Vec::new();
        encode(&mut buffer, 4096 + 64, 4096, 7, 9, b"hello");
        assert_eq!(buffer.len() as u64, record_bytes(5));
        let header = decode(&buffer, 4160).expect("valid where it was written");
        assert_eq!((header.log, header.offset, header.batch, header.length), (7, 9, 4096, 5));
        assert_eq!(header.payload_crc, crc32c::crc32c(b"hello"));
        assert_eq!(decode(&buffer, 4192), None, "not valid elsewhere");
        for at in 0..HEADER {
            let mut garbled = buffer.clone();
            garbled[at] ^= 0x40;
            assert_eq!(decode(&garbled, 4160), None, "byte {at}");
        }
        assert_eq!(decode(&[0; HEADER], 0), None, "zeros are no record");
    }
}
