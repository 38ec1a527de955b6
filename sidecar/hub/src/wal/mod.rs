//! The write-ahead log: one sequence of checksummed records for all logs of all applications, in
//! segment files that are filled with zeros before they are used, and compacted when most of what is
//! in them was trimmed.
//!
//! An *address* counts bytes from the beginning of the first segment file there ever was. A
//! *batch* is what one commit writes; the next batch is written only when the previous one is
//! durable. So a record that is not as it should be is either the end that was being written when
//! the hub or the machine died (nothing of its batch was acknowledged: it is cut off), or damage
//! (refused). Three things tell them apart: any valid record of a later batch, the mark that says
//! how far commits were acknowledged (exact after the death of a process, a lower bound after that
//! of the machine), and the end of the previous file that each file begins with.

pub(crate) mod commit;
pub(crate) mod compact;
pub(crate) mod format;
pub(crate) mod index;
pub(crate) mod mark;
pub(crate) mod read;
pub(crate) mod recover;
pub(crate) mod segment;
pub(crate) mod summary;
#[cfg(test)]
mod tests;
pub(crate) mod writer;
