//! Output of components, line by line, each with its component's name before it.
//!
//! Each pipe is read by a thread of its own and written from there: a terminal that is stopped, or
//! a reader that is slow, holds up the component that writes, as it would without KAR, and never
//! the sidecar.

use std::io::{self, BufRead as _, BufReader, PipeReader, Read as _, Write};
use std::thread;

use tokio::sync::oneshot;

/// Longest piece of a line that is held before it is written, bytes; longer lines are cut.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What is put before each line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefix(Vec<u8>);

/// A pump that runs until the other side closes the pipe.
#[derive(Debug)]
pub(crate) struct Pump {
    done: oneshot::Receiver<()>,
}

// === impl Prefix ===

impl Prefix {
    /// `NAME | `, the name padded to `width`, in one of six colours if `colour` is given.
    pub(crate) fn new(name: &str, width: usize, colour: Option<usize>) -> Self {
        let text = match colour {
            Some(index) => {
                format!("\x1b[{}m{name:width$} |\x1b[0m ", [36, 33, 32, 35, 34, 31][index % 6])
            }
            None => format!("{name:width$} | "),
        };
        Self(text.into_bytes())
    }
}

// === impl Pump ===

impl Pump {
    /// Copies `pipe` to `sink`.
    pub(crate) fn start(pipe: PipeReader, prefix: Prefix, sink: Sink) -> io::Result<Self> {
        let (done_sender, done) = oneshot::channel();
        thread::Builder::new().name("output".into()).spawn(move || {
            let result = match sink {
                Sink::Stdout => copy(pipe, &prefix, || io::stdout().lock()),
                Sink::Stderr => copy(pipe, &prefix, || io::stderr().lock()),
            };
            // The receiver may be gone: nobody waits any more.
            let _ = result.is_ok() && done_sender.send(()).is_ok();
        })?;
        Ok(Self { done })
    }

    /// Waits until everything is written.
    pub(crate) async fn finished(self) {
        // An error means that the output could not be written: there is nobody to tell.
        let _ = self.done.await;
    }
}

/// Copies lines; the sink is locked for one line at a time, so that components' lines do not mix.
fn copy<W: Write>(pipe: impl io::Read, prefix: &Prefix, lock: impl Fn() -> W) -> io::Result<()> {
    let mut pipe = BufReader::with_capacity(LINE_BYTES_MAX as usize, pipe);
    let mut line = Vec::new();
    let mut broken = false;
    loop {
        line.clear();
        line.extend_from_slice(&prefix.0);
        if pipe.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        // With nobody to write to, the pipe is still read to its end: the component must not block
        // or die of it.
        if !broken {
            let mut sink = lock();
            broken = sink.write_all(&line).and_then(|()| sink.flush()).is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    struct Shared<'a>(&'a RefCell<Vec<u8>>);

    impl Write for Shared<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn copied(text: &[u8], prefix: &Prefix) -> Vec<u8> {
        let out = RefCell::new(Vec::new());
        copy(text, prefix, || Shared(&out)).expect("copied");
        out.into_inner()
    }

    #[test]
    fn every_line_gets_the_prefix() {
        let prefix = Prefix::new("hello", 0, None);
        assert_eq!(copied(b"a\n\nb", &prefix), b"hello | a\nhello | \nhello | b\n");
        assert_eq!(copied(b"", &prefix), b"");
    }

    #[test]
    fn bytes_that_are_no_text_pass() {
        assert_eq!(copied(b"\xff\xfe\n", &Prefix::new("x", 3, None)), b"x   | \xff\xfe\n");
    }

    #[test]
    fn long_lines_are_cut() {
        let line = vec![b'a'; LINE_BYTES_MAX as usize + 1];
        let out = copied(&line, &Prefix::default());
        assert_eq!(out.len(), LINE_BYTES_MAX as usize + 3);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 2);
    }
}
